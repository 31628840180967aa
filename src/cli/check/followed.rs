//! Which Redis of a `[[master]]` is the master, by what each of them says of itself. Pure.

use super::codes::Code;
use super::facts::Facts;
use super::report::Finding;
use super::words::redis_cli;
use crate::config::{Follow, Master};
use crate::units::Address;

/// What one Redis was found to be.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) redis: Address,
    /// Whether it answers at all.
    pub(super) answers: bool,
    /// What it says of itself, as far as it may be read.
    pub(super) facts: Option<Facts>,
    /// The far sites of the entry whose listener at this gateway it follows, if it does.
    pub(super) through: Option<String>,
}

impl Seen {
    fn is(&self, role: &str) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.info("role") == Some(role))
    }

    /// Whether it says that it is a master.
    pub(super) fn is_master(&self) -> bool {
        self.is("master")
    }

    /// It, with its stream.
    fn whole(&self) -> String {
        let known =
            self.facts.as_ref().map(|facts| (facts.info("master_replid"), facts.info("master_repl_offset")));
        match known {
            Some((Some(history), offset)) => {
                let history: String = history.chars().take(8).collect();
                format!("{} (stream {history}, at {})", self.redis, offset.unwrap_or("?"))
            }
            _ => self.redis.to_string(),
        }
    }

    fn history(&self) -> Option<&str> {
        self.facts.as_ref()?.info("master_replid")
    }
}

/// What there is to say about all of them together. `named` is the one that the Sentinels name. `is_known`: a
/// gateway runs that knows already whom it follows, or one that has kept it.
pub(super) fn judge(master: &Master, seen: &[Seen], named: Option<&Address>, is_known: bool) -> Vec<Finding> {
    let finding =
        |code, text: String| Finding::new(code, &master.name, format!("master {:?}: {text}", master.name));
    let all = seen.iter().map(|seen| seen.redis.to_string()).collect::<Vec<_>>().join(", ");
    if seen.is_empty() {
        return Vec::new();
    }
    if seen.len() > 1 && seen.iter().all(|seen| !seen.answers) {
        return vec![finding(
            Code::NoMaster,
            format!("none of its Redis answers ({all}): replicas get no link"),
        )];
    }
    if master.follow != Follow::Master {
        return Vec::new();
    }
    let masters: Vec<&Seen> = seen.iter().filter(|seen| seen.is("master")).collect();
    let first = match masters[..] {
        [] if seen.iter().any(|seen| seen.through.is_some()) => {
            let sites = seen.iter().find_map(|seen| seen.through.clone()).unwrap_or_default();
            let text = format!(
                "its Redis are replicas of another site ({sites}), through this gateway: this site waits, and offers the master again once it has it"
            );
            return vec![finding(Code::MasterElsewhere, text)];
        }
        [] if seen.iter().any(|seen| seen.answers && seen.facts.is_none()) => return Vec::new(),
        [] => {
            let text = format!(
                "none of its Redis says that it is a master ({all}): replicas get no link; start the master again if it is away, and look at the other sites first, so that no second one is made: docs/failover.md"
            );
            return vec![finding(Code::NoMaster, text)];
        }
        [one] => one,
        _ => return vec![several(&masters, named, &finding)],
    };
    let others: Vec<&Seen> = seen.iter().filter(|other| other.redis != first.redis).collect();
    let follows = |other: &&Seen| other.is("slave") && other.history() == first.history();
    let strays: Vec<String> =
        others.iter().filter(|other| !follows(other)).map(|other| other.redis.to_string()).collect();
    let mut findings = Vec::new();
    let how = match (others.len(), strays.len()) {
        (0, _) => String::new(),
        (1, 0) => ", and the other one is its replica".to_owned(),
        (_, 0) => ", and all others are its replicas".to_owned(),
        _ => format!(", and {} is not seen as its replica", strays.join(", ")),
    };
    findings.push(finding(Code::MasterFound, format!("{} is the master{how}", first.redis)));
    if !strays.is_empty() && master.sentinel.is_none() && !is_known {
        let text = format!(
            "nothing was followed yet, and {} is not seen as a replica of {}: a gateway that is started now follows nobody before that is so: start it, or make it a replica; if neither can be, a person says which is the master: docs/failover.md",
            strays.join(", "),
            first.redis
        );
        findings.push(finding(Code::FirstUnproven, text));
    }
    findings
}

/// Several say that they are the master.
fn several(masters: &[&Seen], named: Option<&Address>, finding: &dyn Fn(Code, String) -> Finding) -> Finding {
    let names = masters.iter().map(|seen| seen.whole()).collect::<Vec<_>>().join(" and ");
    let right = named.filter(|named| masters.iter().any(|seen| seen.redis == **named));
    let Some(right) = right else {
        let text = format!(
            "{names} say that they are the master: one that is followed stays so while it lives, and a gateway that follows none yet follows neither; find out which has the right data, and make the other one its replica: what was written to that alone is lost"
        );
        return finding(Code::MastersSeveral, text);
    };
    let wrong = masters.iter().find(|seen| seen.redis != *right).map(|seen| &seen.redis);
    let text = format!(
        "{names} say that they are the master, and the Sentinels name {right}: what is written to the other is lost when it becomes its replica"
    );
    let found = finding(Code::MastersSeveral, text);
    match wrong {
        Some(wrong) if masters.len() == 2 => {
            let port = right.port.to_string();
            found.advise(redis_cli(wrong, &["REPLICAOF", &right.host, &port]))
        }
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};
    use crate::units;

    const FIVE: &str = "10.0.0.5:6379";
    const SIX: &str = "10.0.0.6:6379";

    fn config(more: &str) -> Config {
        let text = format!(
            "site = \"dc1\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"127.0.0.1:7379\"\n[[master]]\nname = \"orders\"\nredis = [\"{FIVE}\", \"{SIX}\"]\nallow = [\"dc2\"]\n{more}\n"
        );
        Config::parse(&[Source::new("gateway.toml", text)]).unwrap()
    }

    fn seen(redis: &str, role: Option<&str>, history: &str) -> Seen {
        let facts = role.map(|role| Facts::of(&[("role", role), ("master_replid", history)], &[]));
        Seen { redis: units::address(redis).unwrap(), answers: role.is_some(), facts, through: None }
    }

    fn found(more: &str, seen: &[Seen], named: Option<&str>, is_known: bool) -> Vec<(Code, String)> {
        let config = config(more);
        let named = named.map(|named| units::address(named).unwrap());
        let findings = judge(&config.masters[0], seen, named.as_ref(), is_known);
        let line = |finding: Finding| {
            let advice = finding.advice.map_or_else(String::new, |advice| format!("; do: {advice}"));
            (finding.code, finding.text + &advice)
        };
        findings.into_iter().map(line).collect()
    }

    const MASTER: &str = "follow = \"master\"";

    #[test]
    fn one_master_with_its_replicas_is_as_it_should_be() {
        let all =
            found(MASTER, &[seen(FIVE, Some("slave"), "a"), seen(SIX, Some("master"), "a")], None, false);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, Code::MasterFound);
        assert_eq!(
            all[0].1,
            "master \"orders\": 10.0.0.6:6379 is the master, and the other one is its replica"
        );
        // Whatever answers is followed.
        assert_eq!(
            found("follow = \"any\"", &[seen(FIVE, Some("slave"), "a"), seen(SIX, None, "a")], None, false),
            []
        );
    }

    #[test]
    fn a_first_start_that_would_follow_nobody_is_told_with_the_command() {
        let stray = [seen(FIVE, None, ""), seen(SIX, Some("master"), "a")];
        let all = found(MASTER, &stray, None, false);
        assert_eq!(
            all.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
            [Code::MasterFound, Code::FirstUnproven]
        );
        assert!(all[0].1.ends_with(", and 10.0.0.5:6379 is not seen as its replica"), "{all:?}");
        assert!(all[1].1.contains("10.0.0.5:6379 is not seen as a replica of 10.0.0.6:6379"), "{all:?}");
        assert!(!all[1].1.contains("replgate follow"), "it may lose data: {all:?}");
        assert_eq!(found(MASTER, &stray, None, true).len(), 1, "it is known whom it follows");
        let other = [seen(FIVE, Some("slave"), "b"), seen(SIX, Some("master"), "a")];
        assert_eq!(found(MASTER, &other, None, false)[1].0, Code::FirstUnproven, "it has another history");
        let sentinel = "sentinel = { master = \"m\", at = [\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.3:1\"] }";
        assert_eq!(found(sentinel, &stray, None, false).len(), 1, "the Sentinels say it");
    }

    #[test]
    fn a_site_whose_redis_follow_another_site_waits() {
        let five = Seen { through: Some("dc2".to_owned()), ..seen(FIVE, Some("slave"), "a") };
        let all = found(MASTER, &[five.clone(), seen(SIX, Some("slave"), "a")], None, false);
        assert_eq!(all.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [Code::MasterElsewhere]);
        assert!(all[0].1.contains("replicas of another site (dc2)"), "{all:?}");
        let all = found(MASTER, &[five, seen(SIX, Some("master"), "b")], None, true);
        assert_eq!(all[0].0, Code::MasterFound, "one is a master all the same");
    }

    #[test]
    fn no_master_and_two_masters_are_told() {
        let of = |seen: &[Seen], named| found(MASTER, seen, named, false).remove(0);
        let (code, text) = of(&[seen(FIVE, Some("slave"), "a"), seen(SIX, None, "")], None);
        assert!(code == Code::NoMaster && text.contains("look at the other sites first"), "{text}");
        let (code, text) = of(&[seen(FIVE, None, ""), seen(SIX, None, "")], None);
        assert!(code == Code::NoMaster && text.contains("none of its Redis answers"), "{text}");
        let both = [seen(FIVE, Some("master"), "a"), seen(SIX, Some("master"), "b")];
        let (code, text) = of(&both, None);
        assert!(
            code == Code::MastersSeveral && text.contains("what was written to that alone is lost"),
            "{text}"
        );
        assert!(
            text.contains("10.0.0.5:6379 (stream a, at ?) and 10.0.0.6:6379 (stream b, at ?) say"),
            "{text}"
        );
        let (code, text) = of(&both, Some(SIX));
        assert!(code == Code::MastersSeveral && text.contains("the Sentinels name 10.0.0.6:6379"), "{text}");
        assert!(text.ends_with("; do: redis-cli -h 10.0.0.5 -p 6379 REPLICAOF 10.0.0.6 6379"), "{text}");
        let unread = Seen { facts: None, ..seen(FIVE, Some("master"), "a") };
        assert_eq!(
            found(MASTER, &[unread, seen(SIX, Some("slave"), "a")], None, false),
            [],
            "it may be the one"
        );
    }
}
