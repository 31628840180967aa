//! What in a gateway's state is not well, how much so, and the next step.
//!
//! The one judge: a function of a [`Status`] alone, which `replgate status` and the page only show, so that they
//! say the same. The alert rules of `packaging/monitoring` have the same limits; a test holds them to these
//! constants. There are few findings however many links there are: those with the same fault are one
//! finding, which tells the first of them. A probe that restarts a gateway goes by `ready.rs`.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::awaited::{self, Awaited};
use super::{Status, follow_words, link_words};
use crate::clock;
use crate::follow::FollowStatus;
use crate::redis::replication::Stage;
use crate::registry::{Coverage, Event, Kind as Refusal, LinkStatus, MissingLink};
use crate::tls::expiry::{Kind, Standing, Term, Urgency};
use crate::words;

/// Seconds of lag above which a replica is behind.
const BEHIND: f64 = 10.0;

/// The share of `[limits] memory` above which it is almost full.
const FULL: f64 = 0.9;

/// Most details of a finding; the rest is counted.
const TOLD: usize = 3;

/// What to do where who is followed cannot be reached. After a restart, or once the path is there again, replicas
/// go on by themselves.
const REACH: &str = "start it again, or repair the way to it: replicas then go on by themselves; if it is lost for \
                     good: docs/failover.md";

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// On its way to that, as a sync.
    Busy,
    /// Nothing is broken yet: worth a look today.
    Look,
    /// Not well now.
    Bad,
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// [`Level::Look`] or [`Level::Bad`].
    pub level: Level,
    /// What it is, in a few words.
    pub what: String,
    /// What is known of it: which link, file or address, since when, why. At least one.
    pub details: Vec<String>,
    /// The next step.
    pub next: String,
}

/// What is wrong with a link now. It has one fault at a time, the first that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing carries it.
    Held,
    /// The gateway does not understand what passes.
    Unknown,
    /// Redis has reported an error.
    Error,
    /// The replica lacks what has passed more than [`BEHIND`] ago.
    Behind,
}

impl Fault {
    fn of(link: &LinkStatus) -> Option<Self> {
        if link.held_seconds.is_some() {
            return Some(Self::Held);
        }
        let replication = link.replication.as_ref()?;
        if replication.stage == Stage::Unknown {
            Some(Self::Unknown)
        } else if replication.complaint.is_some() {
            Some(Self::Error)
        } else {
            replication.lag_seconds.is_some_and(|lag| lag > BEHIND).then_some(Self::Behind)
        }
    }

    /// What one link is, or several are.
    fn words(self, is_one: bool) -> String {
        let verb = match (self, is_one) {
            (Self::Error, true) => "has",
            (Self::Error, false) => "have",
            (_, true) => "is",
            (_, false) => "are",
        };
        match self {
            Self::Held => format!("{verb} held"),
            Self::Unknown => format!("{verb} in an unknown state"),
            Self::Error => format!("{verb} an error of Redis"),
            Self::Behind => format!("{verb} more than {BEHIND:.0} s behind"),
        }
    }

    /// What is known of a link that has it.
    fn detail(self, link: &LinkStatus) -> String {
        let replication = link.replication.clone().unwrap_or_default();
        match self {
            Self::Held => format!("held {}", link_words::held(link).unwrap_or_default()),
            Self::Unknown => replication.unknown.unwrap_or_else(|| "nothing more is known".to_owned()),
            Self::Error => format!("Redis says: {}", replication.complaint.unwrap_or_default()),
            Self::Behind => {
                let bytes = replication
                    .lag_bytes
                    .map_or_else(String::new, |bytes| format!(", {}", words::size(bytes as f64)));
                format!("{}{bytes} behind", words::span(replication.lag_seconds.unwrap_or_default()))
            }
        }
    }

    fn next(self) -> &'static str {
        match self {
            Self::Held => {
                "wait, or repair the path between the sites: the stream then continues by itself; \
                 replgate check, on both gateways, examines the way"
            }
            Self::Unknown => {
                "all bytes pass all the same; docs/redis-replication.md says which versions of Redis are known"
            }
            Self::Error => "find these words in docs/troubleshooting.md, and look at the log of that Redis",
            Self::Behind => {
                "the path between the sites, or the replica, is slower than the writes: docs/wan.md, \
                 \"Lanes and congestion control\""
            }
        }
    }
}

/// The level of a link.
pub fn of_link(link: &LinkStatus) -> Level {
    match (Fault::of(link), &link.replication) {
        (Some(_), _) => Level::Bad,
        (None, Some(replication)) if replication.stage != Stage::Streaming => Level::Busy,
        (None, _) => Level::Good,
    }
}

/// Whether a link needs attention now.
pub fn is_unwell(link: &LinkStatus) -> bool {
    of_link(link) == Level::Bad
}

/// The level of something that expires. `now` is in seconds since 1970.
pub fn of_term(term: &Term, now: i64) -> Level {
    match term.urgency(now) {
        Urgency::None => Level::Good,
        Urgency::Soon => Level::Look,
        Urgency::Now => Level::Bad,
    }
}

/// The level of the memory that links use.
pub fn of_memory(status: &Status) -> Level {
    let is_full = status.memory_used as f64 > status.memory_limit as f64 * FULL;
    if is_full && status.memory_limit > 0 { Level::Look } else { Level::Good }
}

/// The worst level of the findings.
pub fn level(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good)
}

/// Everything that needs attention, the worst first. `now` is in seconds since 1970.
pub fn findings(status: &Status, now: i64) -> Vec<Finding> {
    let mut found = terms(status, now);
    found.extend(listeners(status));
    found.extend(links(&status.links, Fault::Held));
    found.extend(following(status, Level::Bad));
    found.extend(without_link(status));
    found.extend(without_sync(status));
    let others = [Fault::Unknown, Fault::Error, Fault::Behind];
    found.extend(others.into_iter().filter_map(|fault| links(&status.links, fault)));
    found.extend(status.reload.refused.as_ref().map(|refused| Finding {
        level: Level::Bad,
        what: "the last reload was refused".to_owned(),
        details: vec![refused.words()],
        next: "mend it, then reload; replgate check --offline shows all faults".to_owned(),
    }));
    found.extend(following(status, Level::Look));
    found.extend(missing_links(status, now));
    found.extend(uncovered(&status.links));
    found.extend((of_memory(status) > Level::Good).then(|| {
        let size = |bytes: u64| words::size(bytes as f64);
        Finding {
            level: Level::Look,
            what: "the memory for links is almost full".to_owned(),
            details: vec![format!(
                "links hold {} of at most {}; beyond that the masters are not read",
                size(status.memory_used),
                size(status.memory_limit)
            )],
            next: "in a break, repair the path; otherwise raise [limits] memory, or find the replica that is behind"
                .to_owned(),
        }
    }));
    found.sort_by_key(|finding| Reverse(finding.level));
    found
}

/// What is wrong with an entry that follows a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfollowed {
    /// Nobody is followed.
    Nobody,
    /// Who is followed cannot be reached, and no link is left.
    Lost,
    /// Who is followed cannot be reached, and links are there.
    Away,
    /// There is a doubt, although somebody is followed.
    Doubt,
}

impl Unfollowed {
    const ALL: [Self; 4] = [Self::Nobody, Self::Lost, Self::Away, Self::Doubt];

    /// Nobody is followed for a moment after the start: that needs no attention.
    fn of(awaited: &Awaited<'_>, entry: &FollowStatus) -> Option<Self> {
        let is_needless = entry.role == "replica" && awaited.is_master_here(&entry.name);
        match &entry.present {
            None => (entry.attention.is_some() && !awaited::waits(entry)).then_some(Self::Nobody),
            Some(_) if awaited::is_away(entry) && awaited.has_link(&entry.role, &entry.name) => {
                Some(Self::Away)
            }
            Some(_) if awaited::is_away(entry) && !is_needless => Some(Self::Lost),
            Some(_) => entry.attention.is_some().then_some(Self::Doubt),
        }
    }

    fn level(self) -> Level {
        if matches!(self, Self::Nobody | Self::Lost) { Level::Bad } else { Level::Look }
    }

    fn what(self, names: &str) -> String {
        match self {
            Self::Nobody => format!("no master is followed for {names}"),
            Self::Lost => format!("the master of {names} cannot be reached, and no link is left"),
            Self::Away => format!("the master of {names} cannot be reached"),
            Self::Doubt => format!("the master of {names} needs a look"),
        }
    }

    /// What is known of an entry.
    fn detail(entry: &FollowStatus) -> String {
        let present = || entry.parties.iter().find(|party| follow_words::is_present(entry, party));
        let words = entry.attention.clone().or_else(|| present().map(follow_words::clause));
        format!("{}: {}", entry.name, words.unwrap_or_default())
    }
}

/// The level of an entry that follows a master.
pub fn of_following(awaited: &Awaited<'_>, entry: &FollowStatus) -> Level {
    Unfollowed::of(awaited, entry).map_or(Level::Good, Unfollowed::level)
}

/// The entries of which nobody is followed, or those to look at although somebody is.
fn following(status: &Status, level: Level) -> Vec<Finding> {
    let awaited = Awaited::of(status);
    let wrong: Vec<_> =
        status.following.iter().filter_map(|entry| Some((Unfollowed::of(&awaited, entry)?, entry))).collect();
    let kinds = Unfollowed::ALL.into_iter().filter(|kind| kind.level() == level);
    kinds.filter_map(|kind| not_followed(kind, &wrong)).collect()
}

fn not_followed(kind: Unfollowed, wrong: &[(Unfollowed, &FollowStatus)]) -> Option<Finding> {
    let all: Vec<&FollowStatus> =
        wrong.iter().filter(|(other, _)| *other == kind).map(|(_, entry)| *entry).collect();
    let names = match &all[..] {
        [] => return None,
        [one] => one.name.clone(),
        _ => format!("{} entries", all.len()),
    };
    let mut steps: Vec<&str> = all.iter().filter_map(|entry| entry.next_step.as_deref()).collect();
    steps.dedup();
    let next = match steps[..] {
        [] => REACH,
        [one] => one,
        _ => "replgate status --wide has the next step of each",
    };
    let details = all.iter().map(|entry| Unfollowed::detail(entry));
    Some(Finding {
        level: kind.level(),
        what: kind.what(&names),
        details: told(details, "entries: replgate status --wide"),
        next: next.to_owned(),
    })
}

/// The first of several details, and the number of the others, of which `more` says what they are.
fn told(all: impl ExactSizeIterator<Item = String>, more: &str) -> Vec<String> {
    let left = all.len().saturating_sub(TOLD);
    let mut details: Vec<String> = all.take(TOLD).collect();
    details.extend((left > 0).then(|| format!("and {left} more {more}")));
    details
}

fn listeners(status: &Status) -> Option<Finding> {
    let lost = &status.listeners_lost;
    let what = match &lost[..] {
        [] => return None,
        [one] => format!("not listening on {one}"),
        _ => format!("not listening on {} addresses", lost.len()),
    };
    let detail = |address| format!("the listener of {address} has failed: nobody can connect there any more");
    Some(Finding {
        level: Level::Bad,
        what,
        details: told(lost.iter().map(detail), "addresses: replgate status --json"),
        next: "find in the log why, then restart the gateway".to_owned(),
    })
}

/// Far masters for which a replica here got no link.
fn without_link(status: &Status) -> Option<Finding> {
    let names = &status.without_link;
    let what = match &names[..] {
        [] => return None,
        [one] => format!("no link for {one}"),
        _ => format!("no link for {} far masters", names.len()),
    };
    Some(Finding {
        level: Level::Bad,
        what,
        details: told(names.iter().map(|name| got_no_link(status, name)), "far masters: replgate events"),
        next: "replgate check tries the whole way; what the far gateway refuses is in its log too".to_owned(),
    })
}

/// That a replica got no link for this far master, and why if an event says it.
pub(super) fn got_no_link(status: &Status, name: &str) -> String {
    let is_why = |event: &&Event| event.kind == Refusal::NoLink.code() && event.name.as_deref() == Some(name);
    let why = status.events.iter().find(is_why).map(|event| event.words.trim_start_matches("no link: "));
    let why = why.map_or_else(|| "; replgate events says why".to_owned(), |why| format!(": {why}"));
    format!("a replica asked for {name:?} a moment ago and got no link{why}")
}

/// The entries of which a replica asked for a sync and got an error.
fn without_sync(status: &Status) -> Option<Finding> {
    let all = &status.missing_syncs;
    let what = match &all[..] {
        [] => return None,
        [one] => format!("no sync for {}", one.name),
        _ => format!("no sync for {} entries", all.len()),
    };
    let details = all.iter().map(|missing| {
        let way = way(&missing.role, &missing.site);
        format!("a replica of {} {way} asked a moment ago and got none: {}", missing.name, missing.reason)
    });
    Some(Finding {
        level: Level::Bad,
        what,
        details: told(details, "entries: replgate status --json"),
        next: "find these words in docs/troubleshooting.md; the log of the master's Redis may say more"
            .to_owned(),
    })
}

/// The entries that had a working link and have none now. Not those of which more is known: a replica asks, and gets
/// no link or no sync.
fn missing_links(status: &Status, now: i64) -> Option<Finding> {
    let is_told = |missing: &MissingLink| {
        let is_without = missing.role == "replica" && status.without_link.contains(&missing.name);
        is_without
            || status.missing_syncs.iter().any(|sync| {
                (&sync.name, &sync.role, &sync.site) == (&missing.name, &missing.role, &missing.site)
            })
    };
    let all: Vec<_> = status.missing_links.iter().filter(|missing| !is_told(missing)).collect();
    let span = |missing: &MissingLink| clock::span(now.saturating_sub(missing.since));
    let what = match &all[..] {
        [] => return None,
        [one] => format!("no link of {} with {} for {}", one.name, one.site, span(one)),
        _ => format!("{} entries that had a link have none", all.len()),
    };
    let details = all.iter().map(|missing| {
        let way = way(&missing.role, &missing.site);
        format!("{} {way}: the last one ended {} ago: {}", missing.name, span(missing), missing.reason)
    });
    Some(Finding {
        level: Level::Look,
        what,
        details: told(details, "entries: replgate status --json"),
        next: "look at the replica: INFO replication, and its log; if it was taken away for good, remove the entry, or the \
               site from `allow`"
            .to_owned(),
    })
}

/// Where the far site of an entry is, seen from the master.
fn way(role: &str, site: &str) -> String {
    if role == "master" { format!("to {site}") } else { format!("from {site}") }
}

/// The links with this fault, if there are any.
fn links(all: &[LinkStatus], fault: Fault) -> Option<Finding> {
    let found: Vec<&LinkStatus> = all.iter().filter(|link| Fault::of(link) == Some(fault)).collect();
    let subject = match found[..] {
        [] => return None,
        [one] => {
            let is_alone = all.iter().filter(|other| key(other) == key(one)).count() == 1;
            format!("{} link of {} with {}", if is_alone { "the" } else { "a" }, one.name, one.site)
        }
        _ => format!("{} of {} links", found.len(), all.len()),
    };
    Some(Finding {
        level: Level::Bad,
        what: format!("{subject} {}", fault.words(found.len() == 1)),
        details: alike(&found, |link| fault.detail(link)),
        next: fault.next().to_owned(),
    })
}

/// The links whose memory does not last for `hold`, the shortest first.
fn uncovered(all: &[LinkStatus]) -> Option<Finding> {
    let short = |link: &LinkStatus| link.coverage.filter(Coverage::is_short);
    let mut found: Vec<&LinkStatus> = all.iter().filter(|link| short(link).is_some()).collect();
    let seconds = |link: &LinkStatus| short(link).map_or(f64::INFINITY, |coverage| coverage.seconds);
    found.sort_by(|one, other| seconds(one).total_cmp(&seconds(other)));
    (!found.is_empty()).then(|| Finding {
        level: Level::Look,
        what: "memory is too small for an outage as long as hold".to_owned(),
        details: alike(&found, |link| short(link).as_ref().map_or_else(String::new, Coverage::fact)),
        next: "raise [limits] memory: docs/wan.md, \"How much a link takes in meanwhile\"".to_owned(),
    })
}

/// What makes links alike.
fn key(link: &LinkStatus) -> (&str, &str, &str) {
    (&link.name, &link.role, &link.site)
}

/// A detail for each name and site of these links, about the first of its links.
fn alike(links: &[&LinkStatus], detail: impl Fn(&LinkStatus) -> String) -> Vec<String> {
    let (mut places, mut groups) = (HashMap::new(), Vec::<(&LinkStatus, usize)>::new());
    for link in links {
        let place = *places.entry(key(link)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => groups.push((link, 1)),
        }
    }
    let line = |(link, count): &(&LinkStatus, usize)| {
        let replica = link_words::replica(link).map_or_else(String::new, |at| format!(", replica {at}"));
        let others = if *count > 1 { format!(", and {} more", count - 1) } else { String::new() };
        let (name, way, number) = (&link.name, link_words::way(link), link.number);
        format!("{name} {way} (link {number}{replica}{others}): {}", detail(link))
    };
    let mut details: Vec<String> = groups.iter().take(TOLD).map(line).collect();
    let left: usize = groups.iter().skip(TOLD).map(|(_, count)| count).sum();
    details.extend(
        (left > 0).then(|| format!("and {}: replgate status --unwell", words::plural(left, "more link"))),
    );
    details
}

/// What expires, or has: the certificate, the CAs, the revocation lists.
fn terms(status: &Status, now: i64) -> Vec<Finding> {
    // An earlier release tells only when its certificate ends.
    let until = status.certificate_expires;
    let own = [Term { kind: Kind::Certificate, name: "cert".to_owned(), from: until, until }];
    let terms = if status.terms.is_empty() { &own[..] } else { &status.terms };
    let of = |(kind, level): (Kind, Level)| {
        let is_it = |term: &&Term| term.kind == kind && of_term(term, now) == level;
        let mut found: Vec<&Term> = terms.iter().filter(is_it).collect();
        found.sort_by_key(|term| term.until);
        let first = *found.first()?;
        let left = clock::span(first.until.saturating_sub(now));
        let what = match (kind, first.standing(now) == Standing::Past) {
            (Kind::Certificate, true) => "the certificate has EXPIRED".to_owned(),
            (Kind::Certificate, false) => format!("the certificate expires in {left}"),
            (Kind::Ca, true) => "a CA has EXPIRED".to_owned(),
            (Kind::Ca, false) => format!("a CA expires in {left}"),
            (Kind::List, true) => "a revocation list is STALE".to_owned(),
            (Kind::List, false) => format!("a revocation list becomes stale in {left}"),
        };
        let details = told(found.iter().map(|term| term.fact(now)), "of them: replgate status --json");
        Some(Finding { level, what, details, next: first.next_step(now).to_owned() })
    };
    let kinds = [Kind::Certificate, Kind::Ca, Kind::List];
    let all = kinds.into_iter().flat_map(|kind| [(kind, Level::Bad), (kind, Level::Look)]);
    all.filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::redis::replication::Replication;
    use crate::registry::{DOWN_AFTER, REMEMBERED_FOR};

    /// A gateway at dc1 whose certificate is good until second 1000, with these fields of the JSON changed.
    fn status(change: impl FnOnce(&mut serde_json::Value)) -> Status {
        let mut json = serde_json::json!({
            "site": "dc1", "node": "n", "version": "0", "pid": 1, "certificate_expires": 1000, "listeners": [],
            "masters": [], "replicas": [], "memory_used": 0, "memory_limit": 0, "links": [], "ended": [],
            "syncs": [], "counts": crate::registry::Counts::default(),
            "terms": [{"kind": "certificate", "name": "tls.crt", "from": 0, "until": 1000}],
        });
        change(&mut json);
        serde_json::from_value(json).unwrap()
    }

    /// A link of dc2, with these fields of the JSON.
    fn link(number: u64, fields: serde_json::Value) -> serde_json::Value {
        let mut json = serde_json::json!({
            "number": number, "name": "orders", "role": "master", "site": "dc2", "far": "192.0.2.1:1", "redis": "127.0.0.1:1",
            "state": "streaming", "since": 0, "seconds": 1, "to_replica_bytes": 0, "to_master_bytes": 0, "carried_bytes": 0,
            "resent_bytes": 0, "buffered_bytes": 0, "hold_seconds": 45.0, "lanes_agreed": 1, "window_bytes": 1,
            "compressed": false, "lanes": 1, "lanes_lost": 0, "breaks": 0, "resumed": 0, "redials": 0, "redials_failed": 0,
            "redial_failure": null, "held_seconds": null, "gives_up_in_seconds": null, "replication": null,
        });
        json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json
    }

    /// What is found, each finding in a line.
    fn found(change: impl FnOnce(&mut serde_json::Value)) -> Vec<(Level, String)> {
        let line = |found: Finding| {
            assert!(!found.details.is_empty() && !found.next.is_empty(), "{found:?}");
            (found.level, format!("{}: {} -> {}", found.what, found.details.join(" / "), found.next))
        };
        findings(&status(change), 100).into_iter().map(line).collect()
    }

    /// The one thing that is found.
    #[track_caller]
    fn one(change: impl FnOnce(&mut serde_json::Value)) -> (Level, String) {
        let mut found = found(change);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// A replication with these fields of the JSON.
    fn replication(fields: serde_json::Value) -> serde_json::Value {
        let mut json =
            serde_json::to_value(Replication { stage: Stage::Streaming, ..Default::default() }).unwrap();
        json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({ "replication": json })
    }

    fn held() -> serde_json::Value {
        json!({"state": "held", "held_seconds": 12.4, "gives_up_in_seconds": 32.6, "redials_failed": 4,
            "redial_failure": {"seconds_ago": 2.0, "reason": "192.0.2.1:7379: no answer within 3 s"}})
    }

    #[test]
    fn what_is_wrong_with_the_gateway_is_named_with_its_place_and_the_next_step() {
        assert_eq!(found(|_| ()), []);
        let (level, words) = one(|json| json["listeners_lost"] = json!(["127.0.0.1:7379"]));
        assert!(level == Level::Bad && words.starts_with("not listening on 127.0.0.1:7379: "), "{words}");
        assert!(words.ends_with("then restart the gateway"), "{words}");
        let (_, words) = one(|json| json["without_link"] = json!(["orders"]));
        assert!(
            words.starts_with("no link for orders: ") && words.contains("replgate events says why"),
            "{words}"
        );
        let (_, words) = one(|json| {
            json["without_link"] = json!(["orders"]);
            let event = |number: u64, name: &str, words: &str| {
                let (kind, name, words) = ("no-link".into(), Some(name.into()), words.into());
                serde_json::to_value(Event { number, kind, name, words, ..Event::default() }).unwrap()
            };
            let events = [(3, "stock", "other"), (2, "orders", "no link: refused"), (1, "orders", "old")];
            json["events"] = events.map(|(number, name, words)| event(number, name, words)).to_vec().into();
        });
        assert!(words.contains("a moment ago and got no link: refused -> "), "{words}");
        let (level, words) = one(|json| {
            json["reload"] = json!({"read_at": 1, "refused": {"since": 5, "faults": ["a.toml:1: no"]}});
        });
        assert!(
            level == Level::Bad && words.contains("a.toml:1: no") && words.contains("mend it, then reload"),
            "{words}"
        );
        let full = |used: u64| {
            move |json: &mut serde_json::Value| {
                (json["memory_used"], json["memory_limit"]) = (used.into(), 100.into());
            }
        };
        assert_eq!(found(full(90)), []);
        let (level, words) = one(full(91));
        assert!(level == Level::Look && words.contains("links hold 91 B of at most 100 B"), "{words}");
    }

    #[test]
    fn a_sync_that_is_refused_and_a_link_that_is_gone_are_told() {
        let sync =
            |name: &str| json!({"name": name, "role": "master", "site": "dc2", "reason": "closed; NOAUTH"});
        let (level, words) = one(|json| json["missing_syncs"] = json!([sync("orders")]));
        let start = "no sync for orders: a replica of orders to dc2 asked a moment ago and got none: closed; NOAUTH -> find";
        assert!(level == Level::Bad && words.starts_with(start), "{words}");
        let link = |name: &str, role: &str| json!({"name": name, "role": role, "site": "dc2", "since": -200, "reason": "closed"});
        let (level, words) = one(|json| json["missing_links"] = json!([link("orders", "replica")]));
        let start = "no link of orders with dc2 for 5 minutes: orders from dc2: the last one ended 5 minutes ago: closed -> look at the replica";
        assert!(level == Level::Look && words.starts_with(start), "{words}");
        // What is told already is not told twice.
        let seen = found(|json| {
            json["missing_links"] = json!([
                link("orders", "master"),
                link("carts", "replica"),
                link("stock", "replica"),
                link("x", "replica")
            ]);
            json["missing_syncs"] = json!([sync("orders")]);
            json["without_link"] = json!(["carts"]);
        });
        let what: Vec<&str> = seen.iter().filter_map(|(_, words)| words.split(": ").next()).collect();
        assert_eq!(what, ["no link for carts", "no sync for orders", "2 entries that had a link have none"]);
    }

    #[test]
    fn nobody_to_follow_is_bad_and_a_doubt_beside_one_who_is_followed_is_worth_a_look() {
        let entry = |name: &str, party: Option<&str>, attention: Option<&str>| {
            json!({"name": name, "role": "master", "attention": attention,
                "next_step": attention.map(|_| format!("replgate follow {name} 10.0.0.6:6379")),
                "present": party.map(|party| json!({"party": party, "since": 40, "by": "lineage"}))})
        };
        let of = |entries: &[serde_json::Value]| found(|json| json["following"] = entries.into());
        assert_eq!(of(&[entry("orders", Some("10.0.0.5:6379"), None)]), []);
        assert_eq!(of(&[entry("orders", None, None)]), [], "it was started just now");
        let nobody = entry("orders", None, Some("two say that they are the master"));
        let (level, words) = of(std::slice::from_ref(&nobody)).remove(0);
        assert_eq!(level, Level::Bad);
        assert_eq!(
            words,
            "no master is followed for orders: orders: two say that they are the master -> replgate follow orders 10.0.0.6:6379"
        );
        let doubt = entry("carts", Some("10.0.0.5:6379"), Some("10.0.0.6:6379 says so too"));
        let (level, words) = of(std::slice::from_ref(&doubt)).remove(0);
        assert_eq!(level, Level::Look);
        assert_eq!(
            words,
            "the master of carts needs a look: carts: 10.0.0.6:6379 says so too -> replgate follow carts 10.0.0.6:6379"
        );
        let both = of(&[nobody.clone(), doubt]);
        assert_eq!(both.iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Bad, Level::Look]);
        let many: Vec<_> = (0..9).map(|at| entry(&format!("m{at}"), None, Some("it is away"))).collect();
        let (_, words) = of(&many).remove(0);
        assert!(words.starts_with("no master is followed for 9 entries: m0: it is away / m1: "), "{words}");
        assert!(
            words.contains(" / and 6 more entries: replgate status --wide -> replgate status --wide has the next step of each"),
            "{words}"
        );
    }

    #[test]
    fn a_site_that_waits_is_well_and_a_followed_master_that_is_away_is_not() {
        let entry = |fields: serde_json::Value| {
            let mut entry = json!({"name": "orders", "role": "master", "parties": [
                {"party": "10.0.0.5:6379", "state": "away", "words": "is followed, and cannot be reached"},
                {"party": "10.0.0.6:6379", "state": "replica", "words": "is a replica"}]});
            entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            entry
        };
        let of = |entries: &[serde_json::Value], links: &[serde_json::Value]| {
            found(|json| (json["following"], json["links"]) = (entries.into(), links.into()))
        };
        let waits = json!({"standby": true, "attention": "they are replicas", "next_step": "promote one"});
        assert_eq!(of(&[entry(waits)], &[]), []);
        let present = json!({"party": "10.0.0.5:6379", "since": 40, "by": "lineage"});
        let away = entry(json!({"present": present}));
        let (level, words) = of(std::slice::from_ref(&away), &[]).remove(0);
        let start = "the master of orders cannot be reached, and no link is left: orders: 10.0.0.5:6379 is followed, and cannot be reached -> start it again";
        assert!(level == Level::Bad && words.starts_with(start), "{words}");
        let (level, words) = of(std::slice::from_ref(&away), &[link(1, json!({}))]).remove(0);
        assert!(
            level == Level::Look && words.starts_with("the master of orders cannot be reached: "),
            "{words}"
        );
        let told = entry(json!({"present": present, "attention": "it is away", "next_step": "wait"}));
        let (level, words) = of(&[told], &[]).remove(0);
        assert!(level == Level::Bad && words.ends_with(" left: orders: it is away -> wait"), "{words}");
        // The far site that was followed is away, and the master is here meanwhile.
        let of_sites = json!({"role": "replica", "present": {"party": "dc2"},
            "parties": [{"party": "dc2", "state": "away", "words": "does not answer"}]});
        let here = json!({"present": {"party": "10.0.0.6:6379"}});
        assert_eq!(of(&[entry(of_sites.clone()), entry(here)], &[]), []);
        assert_eq!(of(&[entry(of_sites)], &[])[0].0, Level::Bad);
    }

    #[test]
    fn what_expires_is_judged_by_days_and_a_short_life_by_its_last_part() {
        const DAY: i64 = 86_400;
        let of = |kind: &str, life: i64, left: i64| {
            found(|json| {
                json["terms"] =
                    json!([{"kind": kind, "name": "x", "from": 100 + left - life, "until": 100 + left}]);
            })
        };
        let year = |kind, left| of(kind, 365 * DAY, left);
        assert_eq!(year("certificate", 14 * DAY), []);
        let look = &year("certificate", 14 * DAY - 1)[0];
        assert!(
            look.0 == Level::Look && look.1.starts_with("the certificate expires in 13 days: x: "),
            "{look:?}"
        );
        assert_eq!(year("certificate", 3 * DAY)[0].0, Level::Look);
        let bad = &year("certificate", 3 * DAY - 1)[0];
        assert!(bad.0 == Level::Bad && bad.1.starts_with("the certificate expires in 2 days"), "{bad:?}");
        let past = &year("certificate", -35)[0];
        assert!(
            past.1.starts_with("the certificate has EXPIRED: x: the certificate EXPIRED 35 s ago"),
            "{past:?}"
        );
        assert!(past.0 == Level::Bad && past.1.contains(" -> renew it: replgate certs renew"), "{past:?}");
        assert!(year("ca", 13 * DAY)[0].1.starts_with("a CA expires in 13 days: the CA x "));
        assert_eq!(year("list", DAY)[0].0, Level::Look, "a list still counts");
        assert!(year("list", -1)[0].1.starts_with("a revocation list is STALE: "));
        // It is renewed when a third is left, and that is no alarm each time.
        let week = |left| of("certificate", 7 * DAY, left).first().map(|found| found.0);
        assert_eq!([week(3 * DAY), week(DAY), week(DAY / 2)], [None, Some(Level::Look), Some(Level::Bad)]);
        let (_, words) = one(|json| {
            json["terms"] = json!([]);
            json["certificate_expires"] = 99.into();
        });
        assert!(words.contains("EXPIRED 1 s ago"), "an earlier gateway tells no terms: {words}");
    }

    #[test]
    fn links_of_one_name_and_site_share_a_line_and_many_are_counted() {
        let (level, words) = one(|json| {
            let mut links: Vec<_> = (1..=3).map(|number| link(number, held())).collect();
            links.push(link(4, json!({})));
            for name in 5..10 {
                let mut other = link(name, held());
                other["name"] = format!("m{name}").into();
                links.push(other);
            }
            json["links"] = links.into();
        });
        assert_eq!(level, Level::Bad);
        let start = "8 of 9 links are held: orders to dc2 (link 1, and 2 more): held 12 s, gives up in 33 s; dials failed 4, last 2 s ago: 192.0.2.1:7379: no answer within 3 s / m5 to dc2 ";
        assert!(words.starts_with(start), "{words}");
        assert!(
            words.contains(" / and 3 more links: replgate status --unwell -> wait, or repair the path"),
            "{words}"
        );
        let alone = |links: Vec<serde_json::Value>| one(|json| json["links"] = links.into()).1;
        assert!(alone(vec![link(1, held())]).starts_with("the link of orders with dc2 is held: "));
        assert!(
            alone(vec![link(1, held()), link(2, json!({}))])
                .starts_with("a link of orders with dc2 is held: ")
        );
    }

    #[test]
    fn there_are_few_findings_of_few_details_whatever_is_wrong() {
        let found = findings(
            &status(|json| {
                let names: Vec<String> = (0..600).map(|at| format!("m{at}")).collect();
                let links = names.iter().enumerate().map(|(at, name)| {
                    let mut link = link(
                        at as u64,
                        if at % 2 == 0 { held() } else { replication(json!({"complaint": name})) },
                    );
                    link["name"] = name.as_str().into();
                    link
                });
                json["links"] = links.collect::<Vec<_>>().into();
                let term = |name| json!({"kind": "ca", "name": name, "from": 0, "until": 1});
                json["terms"] = names.iter().map(term).collect::<Vec<_>>().into();
                json["without_link"] = names.into();
                json["listeners_lost"] =
                    (1..600).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().into();
            }),
            100,
        );
        let what: Vec<&str> = found.iter().map(|found| &*found.what).collect();
        let wanted = [
            "a CA has EXPIRED",
            "not listening on 599 addresses",
            "300 of 600 links are held",
            "no link for 600 far masters",
            "300 of 600 links have an error of Redis",
        ];
        assert_eq!(what, wanted);
        assert!(found.iter().all(|found| found.details.len() == TOLD + 1), "{found:#?}");
    }

    #[test]
    fn a_link_has_one_fault_and_each_fault_is_told_once() {
        let links = [
            link(1, replication(json!({"lag_seconds": 10.0}))),
            link(
                2,
                replication(
                    json!({"lag_seconds": 12.0, "lag_bytes": 61_000_000, "host": "dc2", "port": 6380}),
                ),
            ),
            link(3, replication(json!({"complaint": "NOAUTH", "lag_seconds": 12.0}))),
            link(4, replication(json!({"stage": "unknown", "unknown": "an odd answer"}))),
        ];
        let seen = found(|json| json["links"] = links.to_vec().into());
        let what: Vec<&str> = seen.iter().filter_map(|(_, words)| words.split(" -> ").next()).collect();
        assert_eq!(
            what,
            [
                "a link of orders with dc2 is in an unknown state: orders to dc2 (link 4, replica dc2): an odd answer",
                "a link of orders with dc2 has an error of Redis: orders to dc2 (link 3, replica dc2): Redis says: NOAUTH",
                "a link of orders with dc2 is more than 10 s behind: orders to dc2 (link 2, replica dc2:6380): 12 s, 61 MB behind",
            ]
        );
        let level = |link: &serde_json::Value| of_link(&serde_json::from_value(link.clone()).unwrap());
        assert_eq!(links.each_ref().map(level), [Level::Good, Level::Bad, Level::Bad, Level::Bad]);
        assert_eq!(level(&link(5, replication(json!({"stage": "loading"})))), Level::Busy);
        assert_eq!(level(&link(6, json!({}))), Level::Good, "of a plain tunnel nothing more is known");
        assert_eq!(level(&link(7, held())), Level::Bad);
    }

    #[test]
    fn what_may_break_is_worth_a_look_and_comes_last() {
        let covered = |seconds: f64| json!({"coverage": {"bytes_per_second": 1e6, "seconds": seconds, "hold_seconds": 45.0}});
        let seen = found(|json| {
            json["terms"] = json!([{"kind": "ca", "name": "CN=x", "from": -100_000_000, "until": 1_000_000}]);
            let mut other = link(2, covered(3.0));
            other["name"] = "stock".into();
            json["links"] = json!([link(1, covered(9.0)), other, link(3, held())]);
        });
        let levels: Vec<Level> = seen.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [Level::Bad, Level::Look, Level::Look], "{seen:?}");
        assert!(seen[1].1.starts_with("a CA expires in 11 days: "), "{seen:?}");
        let start = "memory is too small for an outage as long as hold: stock to dc2 (link 2): 1.0 MB/s, an outage of 3 s is covered, less than hold (45 s) / orders to dc2 (link 1): ";
        assert!(seen[2].1.starts_with(start) && seen[2].1.contains(" -> raise [limits] memory"), "{seen:?}");
    }

    /// The one expression of an alert that has this metric in it, without blanks.
    #[track_caller]
    fn expressions(alert: &str) -> Vec<String> {
        let rules = include_str!("../../packaging/monitoring/replgate.rules.yml");
        let of = rules.split("- alert: ").skip(1).filter(|rule| rule.lines().next() == Some(alert));
        let expression = |rule: &str| {
            let (_, after) = rule.split_once("expr: ")?;
            let end =
                after.find("\n        labels:").into_iter().chain(after.find("\n        for:")).min()?;
            Some(after[..end].split_whitespace().filter(|word| *word != ">-").collect::<Vec<_>>().join(" "))
        };
        let found: Vec<String> = of.filter_map(expression).collect();
        assert!(!found.is_empty(), "no alert {alert}");
        found
    }

    #[test]
    fn the_alert_rules_have_the_same_limits() {
        assert_eq!(expressions("ReplgateLag"), [format!("replgate_lag_seconds > {BEHIND:.0}")]);
        let memory = format!("replgate_memory_used_bytes / replgate_memory_limit_bytes > {FULL}");
        assert_eq!(expressions("ReplgateMemoryShort"), [memory]);
        // The metric has the limits of `Term::urgency`, as `status` has.
        let expires = |urgency| {
            format!(
                "replgate_certificate_expiry_timestamp_seconds - time() and replgate_certificate_urgency == {urgency}"
            )
        };
        assert_eq!(expressions("ReplgateCertificateExpiry"), [expires(1), expires(2)]);
        let days = REMEMBERED_FOR / 86_400;
        let down = format!("replgate_link_up == 0 and max_over_time(replgate_link_up[{days}d]) == 1");
        assert_eq!(expressions("ReplgateLinkDown"), [down]);
        let rules = include_str!("../../packaging/monitoring/replgate.rules.yml");
        let rule = rules.split("- alert: ").find(|rule| rule.starts_with("ReplgateLinkDown\n"));
        let wait = format!("        for: {}m\n", DOWN_AFTER / 60);
        assert!(rule.is_some_and(|rule| rule.contains(&wait)), "{rule:?}");
        // These have no limit of their own: what they compare is in the state.
        for (alert, expression) in [
            ("ReplgateOutageNotCovered", "replgate_outage_covered_seconds < replgate_link_hold_seconds"),
            ("ReplgateNobodyFollowed", "replgate_following == 0 unless replgate_follow_standby == 1"),
            ("ReplgateFollowAttention", "replgate_follow_attention == 1 and replgate_following == 1"),
            ("ReplgateReplicaWithoutLink", "replgate_replica_without_link == 1"),
            ("ReplgateReloadFailed", "replgate_reload_refused == 1"),
            ("ReplgateUnknownState", r#"replgate_links{state="unknown"} > 0"#),
            ("ReplgateSyncRefused", r#"increase(replgate_syncs_total{kind="refused"}[5m]) > 3"#),
            ("ReplgateRevocationListStale", "replgate_revocation_list_stale_timestamp_seconds < time()"),
        ] {
            assert_eq!(expressions(alert), [expression]);
        }
    }
}
