//! What is not well, and the next step for each of it.
//!
//! Findings of one kind about one far site are one finding, so that there are few of them however many links
//! there are.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::words;
use crate::admin::Status;
use crate::clock;
use crate::redis::replication::{Replication, Stage};
use crate::registry::{Coverage, LinkStatus};
use crate::tls::expiry::{Kind, Standing, Term};

/// Seconds before the end from which something that expires soon is worth a look.
const SOON: i64 = 14 * 86_400;

/// Seconds before the end from which it is not well.
const LATE: i64 = 3 * 86_400;

/// Seconds of lag above which a replica is behind.
const BEHIND: f64 = 10.0;

/// The share of the memory above which it is about to be full.
const FULL: f64 = 0.9;

/// Most findings that are listed.
const LISTED: usize = 12;

/// Most names in a finding.
const NAMES: usize = 3;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// On its way to that, as a sync.
    Busy,
    /// Worth a look today.
    Look,
    /// Not well now.
    Bad,
}

impl Level {
    /// The class of its elements.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Look => "look",
            Self::Bad => "bad",
        }
    }
}

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is, short.
    pub(super) what: String,
    /// What is known of it.
    pub(super) details: String,
    /// What to do.
    pub(super) next: String,
}

/// The level of a link, with what is not well about it.
pub(super) fn of_link(link: &LinkStatus) -> (Level, Option<&'static str>) {
    if link.held_seconds.is_some() {
        return (Level::Bad, Some("held"));
    }
    let Some(replication) = &link.replication else { return (Level::Good, None) };
    if replication.stage == Stage::Unknown {
        (Level::Bad, Some("unknown"))
    } else if replication.complaint.is_some() {
        (Level::Bad, Some("error"))
    } else if replication.lag_seconds.is_some_and(|lag| lag > BEHIND) {
        (Level::Bad, Some("behind"))
    } else if replication.stage == Stage::Streaming {
        (Level::Good, None)
    } else {
        (Level::Busy, None)
    }
}

/// The level of something that expires. What lives for a few days only is judged by its last third.
pub(super) fn of_term(term: &Term, now: i64) -> Level {
    let left = term.until.saturating_sub(now);
    match term.standing(now) {
        Standing::Past => Level::Bad,
        Standing::Good => Level::Good,
        Standing::Ending | Standing::LastDay if left < LATE => Level::Bad,
        Standing::Ending | Standing::LastDay if left < SOON => Level::Look,
        Standing::Ending | Standing::LastDay => Level::Good,
    }
}

/// The level of the memory in use.
pub(super) fn of_memory(status: &Status) -> Level {
    let is_full = status.memory_used as f64 >= status.memory_limit as f64 * FULL;
    if is_full && status.memory_limit > 0 { Level::Look } else { Level::Good }
}

/// Everything that is not well, the worst first.
pub(super) fn findings(status: &Status, now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    for address in &status.listeners_lost {
        found.push(Finding {
            level: Level::Bad,
            what: format!("Not listening on {address}"),
            details: "The listener has failed; nobody can connect there any more.".to_owned(),
            next: "Find in the log why, then restart the gateway.".to_owned(),
        });
    }
    for name in &status.without_link {
        found.push(Finding {
            level: Level::Bad,
            what: format!("No link for {name}"),
            details: "A replica here asked for it a moment ago and got none.".to_owned(),
            next: "The gateway's log says why: journalctl -u replgate. Then: replgate check.".to_owned(),
        });
    }
    found.extend(of_links(&status.links));
    for term in &status.terms {
        let level = of_term(term, now);
        if level > Level::Busy {
            found.push(expiring(term, level, now));
        }
    }
    if let Some(refused) = &status.reload.refused {
        found.push(Finding {
            level: Level::Bad,
            what: "A reload was refused".to_owned(),
            details: format!(
                "Since {}: {} Everything runs as before.",
                clock::utc(refused.since),
                match &refused.faults[..] {
                    [] => String::new(),
                    [one] => sentence(one),
                    [one, others @ ..] => format!("{one}; and {} more, see below.", others.len()),
                }
            ),
            next: "Mend what it names, then reload: replgate check --offline shows all faults.".to_owned(),
        });
    }
    if of_memory(status) > Level::Good {
        found.push(Finding {
            level: Level::Look,
            what: "Memory is almost full".to_owned(),
            details: format!(
                "Links hold {} of at most {}; beyond that the masters are not read.",
                words::bytes(status.memory_used as f64),
                words::bytes(status.memory_limit as f64)
            ),
            next:
                "In a break: repair the path. Otherwise raise [limits] memory, or find the replica that is \
                   behind."
                    .to_owned(),
        });
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found
}

/// What is not well about links, by kind and far site.
fn of_links(links: &[LinkStatus]) -> Vec<Finding> {
    let mut groups: BTreeMap<(&str, &str), Vec<&LinkStatus>> = BTreeMap::new();
    for link in links {
        if let (_, Some(kind)) = of_link(link) {
            groups.entry((kind, &link.site)).or_default().push(link);
        }
        if link.coverage.as_ref().is_some_and(Coverage::is_short) {
            groups.entry(("short", &link.site)).or_default().push(link);
        }
    }
    groups.into_iter().map(|((kind, site), links)| of_group(kind, site, &links)).collect()
}

fn of_group(kind: &str, site: &str, links: &[&LinkStatus]) -> Finding {
    let mut names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let count = links.len();
    let (these, is) = match count {
        1 => (format!("The link of {} with {site}", names[0]), "is"),
        _ => (format!("{count} links with {site}"), "are"),
    };
    let of =
        if count == 1 { String::new() } else { format!("Of {}. ", words::names(names.into_iter(), NAMES)) };
    let worst = |of: fn(&LinkStatus) -> Option<f64>| {
        links.iter().filter_map(|link| of(link)).reduce(f64::max).unwrap_or(0.0)
    };
    let (level, what, details, next) = match kind {
        "held" => {
            let since = worst(|link| link.held_seconds);
            let left =
                links.iter().filter_map(|link| link.gives_up_in_seconds).reduce(f64::min).unwrap_or(0.0);
            let failure = links.iter().find_map(|link| {
                link.redial_failure.as_ref().filter(|failure| Some(failure.seconds_ago) <= link.held_seconds)
            });
            let last = failure
                .map_or_else(String::new, |failure| format!(" The last dial: {}", sentence(&failure.reason)));
            (
                Level::Bad,
                format!("{these} {is} held"),
                format!(
                    "{of}Nothing carries {} for {}; given up in {}.{last}",
                    if count == 1 { "it" } else { "them" },
                    words::seconds(since),
                    words::seconds(left)
                ),
                "Wait, or repair the path between the sites: the stream then continues by itself. If it does not: \
                 replgate check, on both gateways.",
            )
        }
        "unknown" => (
            Level::Bad,
            format!("{these} {is} not understood"),
            format!("{of}{}", sentence(first(links, |known| known.unknown.as_deref()).unwrap_or_default())),
            "See docs/redis-replication.md: which versions of Redis are known.",
        ),
        "error" => (
            Level::Bad,
            format!("{these} {} an error of Redis", if count == 1 { "has" } else { "have" }),
            format!("{of}{}", sentence(first(links, |known| known.complaint.as_deref()).unwrap_or_default())),
            "Find these words in docs/troubleshooting.md, and look at the log of that Redis.",
        ),
        "behind" => (
            Level::Bad,
            format!("{these} {is} behind"),
            format!(
                "{of}By {} at most: {}.",
                words::bytes(worst(|link| Some(link.replication.as_ref()?.lag_bytes? as f64))),
                words::seconds(worst(|link| link.replication.as_ref()?.lag_seconds))
            ),
            "The path or the replica is slower than the writes: docs/wan.md, \"Lanes and congestion control\".",
        ),
        _ => (
            Level::Look,
            format!("{these} would not survive an outage of hold"),
            format!("{of}{}", sentence(&shortest(links))),
            "Raise [limits] memory: docs/wan.md, \"How much a link takes in meanwhile\".",
        ),
    };
    Finding { level, what, details, next: next.to_owned() }
}

/// Words with an end, unless they have one.
fn sentence(words: &str) -> String {
    if words.ends_with(['.', '?', '!']) { words.to_owned() } else { format!("{words}.") }
}

/// The first words of these links that there are.
fn first<'a>(links: &[&'a LinkStatus], of: fn(&Replication) -> Option<&str>) -> Option<&'a str> {
    links.iter().find_map(|link| of(link.replication.as_ref()?))
}

/// The words of the shortest coverage.
fn shortest(links: &[&LinkStatus]) -> String {
    let coverages = links.iter().filter_map(|link| link.coverage.as_ref());
    let least = coverages.min_by(|one, other| one.seconds.total_cmp(&other.seconds));
    least.map_or_else(String::new, Coverage::words)
}

fn expiring(term: &Term, level: Level, now: i64) -> Finding {
    let what = match term.kind {
        Kind::Certificate => "The certificate".to_owned(),
        Kind::Ca => format!("The CA {}", term.name),
        Kind::List => format!("The revocation list of {}", term.name),
    };
    let left = term.until.saturating_sub(now);
    let (what, next) = match (term.kind, left < 0) {
        (Kind::List, true) => (format!("{what} is stale"), "Fetch a new one and reload."),
        (Kind::List, false) => {
            (format!("{what} becomes stale in {}", clock::span(left)), "Fetch a new one and reload.")
        }
        (kind, is_past) => (
            if is_past {
                format!("{what} has expired")
            } else {
                format!("{what} expires in {}", clock::span(left))
            },
            if kind == Kind::Ca {
                "Put the CA that follows it beside it in `ca` at every site: docs/certificates.md."
            } else {
                "Renew it (replgate certs renew), copy it here and reload: docs/certificates.md."
            },
        ),
    };
    Finding { level, what, details: format!("At {}.", clock::utc(term.until)), next: next.to_owned() }
}

/// The worst level of the findings.
pub(super) fn level(findings: &[Finding]) -> Level {
    findings.first().map_or(Level::Good, |finding| finding.level)
}

/// The findings in a few words, for the title of the page.
pub(super) fn short(findings: &[Finding]) -> String {
    match findings {
        [] => "all well".to_owned(),
        [one] => one.what.clone(),
        [one, others @ ..] => format!("{}, and {} more", one.what, others.len()),
    }
}

/// How many findings there are of each level, in words; `None` if there are none.
pub(super) fn counts(findings: &[Finding]) -> Option<String> {
    let of = |level| findings.iter().filter(|finding| finding.level == level).count();
    let is = |count| if count == 1 { "is" } else { "are" };
    match (of(Level::Bad), of(Level::Look)) {
        (0, 0) => None,
        (0, look) => Some(format!("{} {} worth a look", words::count(look, "thing"), is(look))),
        (bad, 0) => Some(format!("{} {} not well", words::count(bad, "thing"), is(bad))),
        (bad, look) => {
            let bad = format!("{} {} not well", words::count(bad, "thing"), is(bad));
            Some(format!("{bad}, {look} {} worth a look", is(look)))
        }
    }
}

/// The findings as a list.
pub(super) fn list(findings: &[Finding]) -> Markup {
    html! {
        @if !findings.is_empty() {
            ul.findings {
                @for finding in findings.iter().take(LISTED) {
                    li.(finding.level.class()) {
                        h3 { (mark(finding.level)) (finding.what) }
                        p { (finding.details) }
                        p.next { b { "Next: " } (finding.next) }
                    }
                }
            }
            @if findings.len() > LISTED {
                p { "And " (findings.len() - LISTED) " more: replgate status --unwell" }
            }
        }
    }
}

/// A mark with a shape of its own for each level, and its word for those who do not see it.
pub(super) fn mark(level: Level) -> Markup {
    let (word, outline, inside) = match level {
        Level::Good => ("well", "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Z", "M4.8 8.3l2.2 2.2 4.2-4.6"),
        Level::Busy => ("under way", "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Z", "M8 4.2V8l2.6 1.8"),
        Level::Look => ("worth a look", "M8 1.2L15.4 14.6H.6Z", "M8 6v4M8 12.3v.2"),
        Level::Bad => ("not well", "M5 1h6l4 4v6l-4 4H5l-4-4V5Z", "M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2"),
    };
    html! {
        svg.mark.(level.class()) viewBox="0 0 16 16" role="img" aria-label=(word) {
            path.outline d=(outline) {}
            path.inside d=(inside) {}
        }
    }
}
