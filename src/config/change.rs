//! What differs between the config in use and one that was read again, in words.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Config, Master, Replica};

impl Config {
    /// Why this config cannot take the place of `before` in a process that runs; `None` if it can.
    pub fn needs_restart(&self, before: &Self) -> Option<String> {
        let (site, sandbox) = (&self.site, self.sandbox);
        if *site != before.site {
            let was = &before.site;
            return Some(format!(
                "site is {site:?}, and this process runs as {was:?}: a change of `site` needs a restart"
            ));
        }
        if sandbox != before.sandbox {
            let was = before.sandbox;
            return Some(format!(
                "sandbox is {sandbox}, and this process runs with {was}: a change of `sandbox` needs a restart"
            ));
        }
        (self.state != before.state).then(|| {
            "[state] dir is another folder: that needs a restart; move the files of the earlier folder there first".to_owned()
        })
    }

    /// What is another thing than in `before`, one line each.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.node != before.node {
            lines.push(format!("node {:?} is used from the next start on", self.node));
        }
        let parts = [
            (
                "[tls]",
                (&self.tls, self.watch, self.refuses_stale)
                    == (&before.tls, before.watch, before.refuses_stale),
            ),
            ("[tunnel] listen", self.listen == before.listen),
            ("[admin]", self.admin == before.admin),
            ("[link]", self.link == before.link),
            ("[limits]", self.limits == before.limits),
            ("[state]", self.state == before.state),
        ];
        lines.extend(parts.into_iter().filter(|(_, same)| !same).map(|(key, _)| format!("{key} changed")));
        let master = |master: &Master| master.name.clone();
        compare("master", &before.masters, &self.masters, master, &mut lines);
        let replica = |replica: &Replica| replica.name.clone();
        compare("replica", &before.replicas, &self.replicas, replica, &mut lines);
        lines
    }
}

/// Adds a line for each entry that was added, changed or removed.
fn compare<T: PartialEq>(
    kind: &str,
    before: &[Arc<T>],
    now: &[Arc<T>],
    name: impl Fn(&T) -> String,
    lines: &mut Vec<String>,
) {
    let mut old: HashMap<String, &Arc<T>> = before.iter().map(|entry| (name(entry), entry)).collect();
    for entry in now {
        match old.remove(&name(entry)) {
            None => lines.push(format!("{kind} {:?} added", name(entry))),
            Some(before) if before != entry => lines.push(format!("{kind} {:?} changed", name(entry))),
            Some(_) => {}
        }
    }
    let mut removed: Vec<String> = old.into_keys().collect();
    removed.sort_unstable();
    lines.extend(removed.iter().map(|name| format!("{kind} {name:?} removed")));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Source;
    use super::*;

    fn config(site: &str, rest: &str) -> Config {
        let text = format!(
            "site = \"{site}\"\nnode = \"gw\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"127.0.0.1:7379\"\n{rest}"
        );
        Config::parse(&[Source::new(Path::new("gateway.toml"), text)]).unwrap()
    }

    fn master(name: &str, allow: &str) -> String {
        format!("[[master]]\nname = \"{name}\"\nredis = \"127.0.0.1:6379\"\nallow = [\"{allow}\"]\n")
    }

    #[test]
    fn what_was_added_changed_and_removed_is_named() {
        let before = config("dc1", &(master("a", "dc2") + &master("b", "dc2") + &master("c", "dc2")));
        let now = config(
            "dc1",
            &(master("b", "dc3")
                + &master("c", "dc2")
                + &master("d", "dc2")
                + "[limits]\nmemory = \"64MiB\"\n"),
        );
        assert_eq!(
            now.changes(&before),
            ["[limits] changed", "master \"b\" changed", "master \"d\" added", "master \"a\" removed"]
        );
        assert_eq!((before.changes(&before), now.needs_restart(&before)), (vec![], None));
    }

    #[test]
    fn another_site_needs_a_restart() {
        let (before, now) = (config("dc1", &master("a", "dc2")), config("dc9", &master("a", "dc2")));
        let fault = now.needs_restart(&before).unwrap();
        assert!(fault.contains("needs a restart"), "{fault}");
    }
}
