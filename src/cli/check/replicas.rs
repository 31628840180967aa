//! A Redis of this site that `--replica` names: whom it follows, and its settings. Pure: from what
//! it has said to findings.

use std::collections::HashMap;
use std::net::IpAddr;

use super::codes::Code;
use super::facts::Facts;
use super::report::{Finding, quoted};
use super::settings::{self, PING, longest_hold, needed_timeout, unjudged};
use super::words::{config_set, redis_cli};
use crate::config::{Announced, Config, Replica};
use crate::units::Address;

/// Everything that is judged.
pub(super) struct Judged<'a> {
    pub(super) redis: &'a Address,
    pub(super) facts: &'a Facts,
    pub(super) config: &'a Config,
    /// The user that has asked.
    pub(super) user: &'a str,
    /// Whether it runs on this host.
    pub(super) is_here: bool,
    /// The addresses of the master that it names.
    pub(super) follows: &'a [IpAddr],
    /// The `[[master]]` of this gateway whose Redis that is, if it is one.
    pub(super) near: Option<&'a str>,
    /// Whether an address is one of this host.
    pub(super) is_local: &'a dyn Fn(IpAddr) -> bool,
    /// The replication ids of masters, as far as they are known: of each `[[replica]]` by its name from
    /// the links of the running gateway, of each `[[master]]`'s Redis by its address.
    pub(super) histories: &'a HashMap<String, Vec<String>>,
}

impl Judged<'_> {
    fn finding(&self, code: Code, text: &str) -> Finding {
        Finding::new(code, self.redis, format!("replica {}: {text}", self.redis))
    }

    fn set(&self, key: &str, value: &str) -> String {
        config_set(self.redis, key, value)
    }

    /// The entry whose listener it follows.
    fn entry(&self) -> Option<&Replica> {
        let (_, port) = self.facts.follows()?;
        self.config.replicas.iter().map(AsRef::as_ref).find(|entry| {
            entry.listen.port() == port
                && self.follows.iter().any(|ip| {
                    // The loopback of another host is not ours.
                    let reachable = self.is_here || !ip.is_loopback();
                    let listened = match entry.listen.ip() {
                        any if any.is_unspecified() => (self.is_local)(*ip),
                        one => one.to_canonical() == ip.to_canonical(),
                    };
                    reachable && listened
                })
        })
    }

    /// The command that makes it follow this gateway; `None` if there are several to choose from.
    fn follow(&self) -> Option<String> {
        let [entry] = &self.config.replicas[..] else { return None };
        let ip = entry.listen.ip();
        let is_reachable = !ip.is_unspecified() && (self.is_here || !ip.is_loopback());
        let (host, port) = (ip.to_string(), entry.listen.port().to_string());
        let command = redis_cli(self.redis, &["REPLICAOF", &host, &port]);
        is_reachable.then(|| format!("{command}  # redis.conf: replicaof {host} {port}"))
    }
}

/// All findings about it.
pub(super) fn judge(judged: &Judged<'_>) -> Vec<Finding> {
    let mut findings = vec![];
    findings.extend(unread(judged));
    let about = format!("replica {}", judged.redis);
    let codes = [Code::ReplicaVersion, Code::ReplicaVersionUntried];
    findings.extend(settings::version(judged.facts, codes, &judged.redis.to_string(), &about));
    findings.extend(following(judged));
    if let Some(entry) = judged.entry() {
        findings.extend(password(judged, entry));
        findings.extend(hold(judged, entry));
        findings.extend(announces(judged, entry));
    }
    findings.extend(serving(judged));
    findings.extend(loading(judged));
    findings
}

/// What could not be read, and the grant or the option that helps.
fn unread(judged: &Judged<'_>) -> Option<Finding> {
    let (facts, user) = (judged.facts, judged.user);
    let what = unjudged(facts);
    if !facts.lacks.is_empty() {
        let words = [&["ACL", "SETUSER", user][..], &facts.lacks].concat();
        let text = format!(
            "user {user} lacks the right to read its settings, so {what} cannot be judged; grant it, or name another user with --redis-user and --password-file"
        );
        let finding = judged.finding(Code::ReplicaGrantMissing, &text);
        return Some(finding.advise(redis_cli(judged.redis, &words)));
    }
    let why = facts.unread.as_deref()?;
    let hint =
        if why.contains(" -NOAUTH") { "; name a user with --redis-user and --password-file" } else { "" };
    let text = format!("its settings cannot be read, so {what} cannot be judged: {why}{hint}");
    Some(judged.finding(Code::ReplicaSettingsUnread, &text))
}

/// Whom it follows, whether that is this gateway, and whether its link is up.
fn following(judged: &Judged<'_>) -> Vec<Finding> {
    let facts = judged.facts;
    let follow = |finding: Finding| match judged.follow() {
        Some(command) => finding.advise(command),
        None => finding,
    };
    let listeners = || {
        let all = judged.config.replicas.iter();
        let all: Vec<_> = all.map(|entry| format!("{} ({:?})", entry.listen, entry.name)).collect();
        match all.is_empty() {
            true => "this gateway has no [[replica]]".to_owned(),
            false => format!("this gateway listens for replicas on {}", all.join(", ")),
        }
    };
    if facts.info("role") == Some("master") {
        let text = format!("it is a master and follows nobody; {}", listeners());
        return vec![follow(judged.finding(Code::ReplicaFollowsNobody, &text))];
    }
    let Some((host, port)) = facts.follows() else { return Vec::new() };
    let Some(entry) = judged.entry() else {
        if let Some(master) = judged.near {
            let text = format!("it follows master {master:?} of this site itself ({host}:{port})");
            return vec![judged.finding(Code::ReplicaFollows, &text)];
        }
        let origins = judged.config.replicas.iter().flat_map(|entry| &entry.from);
        let peers = origins.flat_map(|origin| &origin.peers);
        let is_peer = peers.into_iter().any(|peer| peer.port == port && peer.host == host);
        let which = if is_peer { "the far gateway, which speaks TLS alone" } else { "not this gateway" };
        let text = format!("it follows {host}:{port}, {which}; {}", listeners());
        return vec![follow(judged.finding(Code::ReplicaElsewhere, &text))];
    };
    let mut findings = Vec::new();
    let whom =
        format!("it follows {:?} of {} through this gateway ({host}:{port})", entry.master, entry.sites());
    if facts.info("master_link_status") == Some("up") {
        let offset = facts.info("slave_repl_offset").unwrap_or("?");
        let text = format!("{whom}, and its link is up at offset {offset}");
        findings.push(judged.finding(Code::ReplicaFollows, &text));
    } else if facts.info("master_sync_in_progress") == Some("1") {
        findings.push(judged.finding(Code::ReplicaFollows, &format!("{whom}, and a full sync is under way")));
    } else {
        // It is -1 before the first sync.
        let since = facts.count("master_link_down_since_seconds");
        let since =
            since.map_or_else(|| "and has not been up yet".to_owned(), |since| format!("for {since} s"));
        let text = format!("{whom}, but its link is down, {since}: its own log, and this gateway's, say why");
        findings.push(judged.finding(Code::ReplicaLinkDown, &text));
    }
    let theirs = judged.histories.get(&entry.name).filter(|ids| !ids.is_empty());
    if let (Some(theirs), Some(own), Some("up")) =
        (theirs, facts.info("master_replid"), facts.info("master_link_status"))
        && !theirs.iter().any(|id| id == own)
    {
        let text = format!(
            "its replication id {own} is not that of {:?} ({}): its data may be another's; it needs a full sync",
            entry.master,
            theirs.join(", ")
        );
        findings.push(judged.finding(Code::ReplicaOtherHistory, &text));
    }
    findings
}

/// Whether it has the password that its entry demands.
fn password(judged: &Judged<'_>, entry: &Replica) -> Option<Finding> {
    let file = entry.password_file.as_ref()?;
    if judged.facts.has_masterauth? {
        return None;
    }
    let file = file.display();
    let text = format!(
        "its masterauth is empty, and replica {:?} demands the password in {file}: it gets no sync",
        entry.name
    );
    // The shell reads the file, so that the password stands nowhere else.
    let set = redis_cli(judged.redis, &["CONFIG", "SET", "masterauth"]);
    let command = format!("{set} \"$(cat {})\"  # redis.conf: masterauth …", quoted(&file.to_string()));
    Some(judged.finding(Code::MasterauthMissing, &text).advise(command))
}

/// Whether it waits as long as its link is held.
fn hold(judged: &Judged<'_>, entry: &Replica) -> Option<Finding> {
    // Of several sites, the one whose links are held longest.
    let links = entry.from.iter().map(|origin| &origin.link);
    let link = links.max_by_key(|link| link.hold).unwrap_or(&entry.link);
    let (hold, dead_after) = (link.hold, link.dead_after);
    let timeout = judged.facts.seconds("repl-timeout")?;
    let most = longest_hold(timeout, PING, dead_after);
    if hold.is_zero() || hold <= most {
        let text = format!("repl-timeout {timeout:?} fits hold {hold:?}");
        return Some(judged.finding(Code::ReplicaHold, &text));
    }
    let needed = needed_timeout(hold, PING, dead_after);
    let text = format!(
        "repl-timeout {timeout:?} ends its link before hold {hold:?} does: with a ping each {PING:?}, {needed} s are needed"
    );
    Some(judged.finding(Code::ReplicaHoldLong, &text).advise(judged.set("repl-timeout", &needed.to_string())))
}

/// The address that it announces, and what becomes of it.
fn announces(judged: &Judged<'_>, entry: &Replica) -> Option<Finding> {
    let own = judged.facts.setting("replica-announce-ip").filter(|own| !own.is_empty())?;
    let text = match &entry.announce {
        Announced::As { host, .. } => {
            format!("its replica-announce-ip {own} is replaced by {host}, as replica {:?} says", entry.name)
        }
        Announced::Keep => format!(
            "its replica-announce-ip is {own}; the master's gateway lists it under the name of this site"
        ),
    };
    Some(judged.finding(Code::ReplicaAnnounces, &text))
}

/// Whether clients may write to it, and what they get while its link is down.
fn serving(judged: &Judged<'_>) -> Vec<Finding> {
    let facts = judged.facts;
    let mut findings = Vec::new();
    if facts.setting("replica-read-only") == Some("no") {
        let text = "clients may write to it (replica-read-only no): what they write is missing at the master, and lost with the next full sync";
        let finding = judged.finding(Code::ReplicaWritable, text);
        findings.push(finding.advise(judged.set("replica-read-only", "yes")));
    }
    if let Some(stale) = facts.setting("replica-serve-stale-data") {
        let text = match stale {
            "no" => {
                "replica-serve-stale-data no: clients get MASTERDOWN while its link is down; a link that is held counts as up"
            }
            _ => "replica-serve-stale-data yes: clients get the data as it was while its link is down",
        };
        findings.push(judged.finding(Code::ReplicaStale, text));
    }
    findings
}

/// How it loads a full sync.
fn loading(judged: &Judged<'_>) -> Vec<Finding> {
    let facts = judged.facts;
    let mut findings = Vec::new();
    if let Some(how @ ("flush-before-load" | "flushdb" | "always")) = facts.setting("repl-diskless-load") {
        let text = format!(
            "repl-diskless-load {how}: it deletes its data before it has a full sync's, and is empty if the path breaks meanwhile"
        );
        let finding = judged.finding(Code::ReplicaEmptyFirst, &text);
        findings.push(finding.advise(judged.set("repl-diskless-load", "disabled")));
    }
    for (key, grant) in [
        ("repl-rdb-channel", ""),
        ("dual-channel-replication-enabled", "; the user of `auth` at the master then needs +sync too"),
    ] {
        if facts.setting(key) == Some("yes") {
            let text = format!("{key} yes: a full sync may use two connections, so two links{grant}");
            findings.push(judged.finding(Code::ReplicaTwoConnections, &text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::codes::Level;
    use super::*;
    use crate::config::Source;
    use crate::units;

    const FOLLOWS: &[(&str, &str)] = &[
        ("redis_version", "8.2.3"),
        ("role", "slave"),
        ("master_host", "127.0.0.1"),
        ("master_port", "6390"),
        ("master_link_status", "up"),
        ("master_replid", "aaaa"),
        ("slave_repl_offset", "77"),
    ];

    const GOOD: &[(&str, &str)] = &[
        ("repl-timeout", "60"),
        ("replica-read-only", "yes"),
        ("replica-serve-stale-data", "yes"),
        ("repl-diskless-load", "disabled"),
    ];

    fn config(listen: &str, more: &str) -> Config {
        let text = format!(
            "site = \"dc2\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[[replica]]\nname = \"orders\"\nlisten = \"{listen}\"\nsite = \"dc1\"\npeers = [\"gw.dc1.example:7379\"]\nclients = [\"10.0.0.0/8\", \"127.0.0.0/8\"]\n{more}"
        );
        Config::parse(&[Source::new(Path::new("gateway.toml"), text)]).unwrap()
    }

    struct Case<'a> {
        listen: &'a str,
        more: &'a str,
        is_here: bool,
        follows: &'a str,
        near: Option<&'a str>,
        facts: Facts,
        history: &'a str,
    }

    impl Default for Case<'_> {
        fn default() -> Self {
            let facts = Facts { has_masterauth: Some(false), ..Facts::of(FOLLOWS, GOOD) };
            Self {
                listen: "127.0.0.1:6390",
                more: "",
                is_here: true,
                follows: "127.0.0.1",
                near: None,
                facts,
                history: "aaaa",
            }
        }
    }

    impl Case<'_> {
        /// The warnings and failures.
        fn found(&self) -> Vec<Finding> {
            let redis = units::address("10.0.0.7:6380").unwrap();
            let judged = Judged {
                redis: &redis,
                facts: &self.facts,
                config: &config(self.listen, self.more),
                user: "default",
                is_here: self.is_here,
                follows: &[self.follows.parse().unwrap()],
                near: self.near,
                is_local: &|ip| ip == "10.0.0.2".parse::<IpAddr>().unwrap(),
                histories: &HashMap::from([("orders".to_owned(), vec![self.history.to_owned()])]),
            };
            judge(&judged).into_iter().filter(|finding| finding.level != Level::Ok).collect()
        }

        #[track_caller]
        fn has(self, codes: &[Code]) -> Vec<Finding> {
            let found = self.found();
            assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), codes, "{found:#?}");
            found
        }
    }

    fn info(more: &[(&str, &str)]) -> Facts {
        Facts { has_masterauth: Some(false), ..Facts::of(&[FOLLOWS, more].concat(), GOOD) }
    }

    fn set(key: &str, value: &str) -> Facts {
        let mut facts = info(&[]);
        facts.set(key, value);
        facts
    }

    #[test]
    fn a_replica_that_follows_this_gateway_gets_no_warning() {
        Case::default().has(&[]);
        // Every address of this host is listened on.
        Case { listen: "0.0.0.0:6390", follows: "10.0.0.2", is_here: false, ..Case::default() }.has(&[]);
    }

    #[test]
    fn whom_it_follows_is_compared_with_the_listeners() {
        let command =
            "redis-cli -h 10.0.0.7 -p 6380 REPLICAOF 127.0.0.1 6390  # redis.conf: replicaof 127.0.0.1 6390";
        for (facts, code, words) in [
            (info(&[("role", "master")]), Code::ReplicaFollowsNobody, "127.0.0.1:6390 (\"orders\")"),
            (info(&[("master_port", "6391")]), Code::ReplicaElsewhere, "not this gateway"),
            (
                info(&[("master_host", "gw.dc1.example"), ("master_port", "7379")]),
                Code::ReplicaElsewhere,
                "speaks TLS alone",
            ),
        ] {
            let found = Case { facts, ..Case::default() }.has(&[code]);
            assert!(found[0].text.contains(words), "{found:?}");
            assert_eq!(found[0].advice.as_deref(), Some(command));
        }
        // The loopback address of another host is not this host's.
        let found = Case { is_here: false, ..Case::default() }.has(&[Code::ReplicaElsewhere]);
        assert_eq!(found[0].advice, None, "it cannot reach this host's loopback either");
        Case { listen: "0.0.0.0:6390", follows: "10.0.0.3", ..Case::default() }
            .has(&[Code::ReplicaElsewhere]);
    }

    #[test]
    fn a_replica_beside_its_master_needs_no_gateway() {
        let facts = info(&[("master_port", "6379")]);
        Case { facts, near: Some("stock"), ..Case::default() }.has(&[]);
    }

    #[test]
    fn its_link_and_its_history_are_looked_at() {
        let down = [("master_link_status", "down"), ("master_link_down_since_seconds", "9")];
        let found = Case { facts: info(&down), ..Case::default() }.has(&[Code::ReplicaLinkDown]);
        assert!(found[0].text.contains("down, for 9 s"), "{found:?}");
        let syncing = [&down[..], &[("master_sync_in_progress", "1")]].concat();
        Case { facts: info(&syncing), ..Case::default() }.has(&[]);
        Case { history: "bbbb", ..Case::default() }.has(&[Code::ReplicaOtherHistory]);
    }

    #[test]
    fn its_settings_are_judged_and_the_advice_mends_them() {
        for (key, bad, good, code) in [
            ("repl-timeout", "30", "60", Code::ReplicaHoldLong),
            ("replica-read-only", "no", "yes", Code::ReplicaWritable),
            ("repl-diskless-load", "flush-before-load", "disabled", Code::ReplicaEmptyFirst),
        ] {
            let found = Case { facts: set(key, bad), ..Case::default() }.has(&[code]);
            let advice = found[0].advice.clone().unwrap();
            assert!(
                advice.contains(&format!(" CONFIG SET {key} {good}  # redis.conf: {key} {good}")),
                "{advice}"
            );
            Case { facts: set(key, good), ..Case::default() }.has(&[]);
        }
    }

    #[test]
    fn an_empty_masterauth_is_told_where_a_password_is_demanded() {
        let demanding = || Case { more: "password_file = \"local.pw\"\n", ..Case::default() };
        let found = demanding().has(&[Code::MasterauthMissing]);
        let advice = found[0].advice.as_deref().unwrap();
        assert!(advice.contains("CONFIG SET masterauth \"$(cat local.pw)\""), "{advice}");
        let facts = Facts { has_masterauth: Some(true), ..info(&[]) };
        Case { facts, ..demanding() }.has(&[]);
    }

    #[test]
    fn a_missing_right_is_named_with_its_grant() {
        let facts = Facts { lacks: vec!["+config|get"], ..Facts::of(FOLLOWS, &[]) };
        let found = Case { facts, ..Case::default() }.has(&[Code::ReplicaGrantMissing]);
        let advice = found[0].advice.as_deref();
        assert_eq!(advice, Some("redis-cli -h 10.0.0.7 -p 6380 ACL SETUSER default '+config|get'"));
    }
}
