//! The entries of the config, each with its links.
//!
//! What is not well comes first. The number of entries with drawings, of rows and of lines is bounded, so that
//! the page stays small with hundreds of links.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use maud::{Markup, html};

use super::drawing;
use super::findings::mark;
use crate::admin::health::{self, Level};
use crate::admin::{Status, link_words};
use crate::clock;
use crate::redis::replication::{Replication, Snapshot, Stage};
use crate::registry::{Coverage, History, LinkStatus};
use crate::words::{self, plural};

/// Most entries that have drawings and rows.
const WHOLE: usize = 12;

/// Most further entries that have a line.
const LINES: usize = 60;

/// Most rows of all entries together, and the least that each may have.
const ROWS: usize = 96;

/// Most far sites that an entry names.
const SITES: usize = 6;

/// An entry of the config, or one that was, while it has links.
pub(super) struct Entry<'a> {
    role: &'static str,
    name: &'a str,
    sites: Vec<&'a str>,
    /// Its links, those that are not well first.
    links: Vec<&'a LinkStatus>,
    level: Level,
    /// Its state in a few words.
    state: String,
}

/// The entries, those that are not well first, otherwise in the order of the config.
pub(super) fn entries(status: &Status) -> Vec<Entry<'_>> {
    let masters = status.masters.iter().map(|name| ("master", name.as_str()));
    let replicas = status.replicas.iter().map(|name| ("replica", name.as_str()));
    let mut order: Vec<(&'static str, &str)> = masters.chain(replicas).collect();
    let mut links: HashMap<(&str, &str), Vec<&LinkStatus>> = HashMap::new();
    for link in &status.links {
        links.entry((&link.role, &link.name)).or_default().push(link);
    }
    let mut known: HashSet<(&str, &str)> = order.iter().copied().collect();
    for link in &status.links {
        let role = if link.role == "master" { "master" } else { "replica" };
        // A reload may have taken an entry away whose links have not ended yet.
        if known.insert((role, &link.name)) {
            order.push((role, &link.name));
        }
    }
    let mut sites: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
    for far in &status.far_sites {
        let masters = far.masters.iter().map(|name| ("master", name.as_str()));
        for key in masters.chain(far.replicas.iter().map(|name| ("replica", name.as_str()))) {
            sites.entry(key).or_default().push(&far.site);
        }
    }
    let entry = |(role, name)| {
        let links = links.remove(&(role, name)).unwrap_or_default();
        let is_missed = role == "replica" && status.without_link.iter().any(|other| other == name);
        Entry::new(role, name, sites.remove(&(role, name)).unwrap_or_default(), links, is_missed)
    };
    let mut entries: Vec<Entry<'_>> = order.into_iter().map(entry).collect();
    entries.sort_by_key(|entry| Reverse(entry.level.max(Level::Busy)));
    entries
}

impl<'a> Entry<'a> {
    fn new(
        role: &'static str,
        name: &'a str,
        mut sites: Vec<&'a str>,
        mut links: Vec<&'a LinkStatus>,
        is_missed: bool,
    ) -> Self {
        for link in &links {
            if !sites.iter().any(|site| site.eq_ignore_ascii_case(&link.site)) {
                sites.push(&link.site);
            }
        }
        // A sync may use two connections: they are one replica.
        links.retain(|link| link.replication.as_ref().is_none_or(|part| part.part_of.is_none()));
        links.sort_by_key(|link| Reverse(health::of_link(link)));
        let worst = links.iter().map(|link| health::of_link(link)).max();
        let (level, state) = match (worst, is_missed) {
            (_, true) => (Level::Bad, "a replica got no link".to_owned()),
            (Some(level), _) => (level, states(&links)),
            (None, _) => (Level::Busy, "no replica is connected".to_owned()),
        };
        Self { role, name, sites, links, level, state }
    }

    /// Whether it has a replica, or one that asked for it.
    fn is_used(&self) -> bool {
        !self.links.is_empty() || self.level == Level::Bad
    }

    fn place(&self) -> String {
        let sites = words::names(&self.sites, SITES);
        match (self.role, sites.is_empty()) {
            ("master", true) => "the master is here".to_owned(),
            ("master", false) => format!("the master is here, offered to {sites}"),
            (_, true) => "replicas are here".to_owned(),
            (_, false) => format!("replicas are here, the master at {sites}"),
        }
    }
}

/// How many links are in each state, most first, as in `2 streaming, 1 full sync`; with one link its state
/// alone.
pub(super) fn states(links: &[&LinkStatus]) -> String {
    match link_words::states(links)[..] {
        [(state, 1)] => state.to_owned(),
        ref states => link_words::listed(states),
    }
}

/// The part of the page about entries and links.
pub(super) fn part(entries: &[Entry<'_>], status: &Status, history: &History) -> Markup {
    let whole = &entries[..entries.len().min(WHOLE)];
    let rest = &entries[whole.len()..];
    let rows = ROWS / whole.len().max(1);
    html! {
        section #links {
            h2 { "Replication" }
            @if entries.is_empty() {
                p { "The config has no [[master]] and no [[replica]]: this gateway carries nothing." }
            }
            @for entry in whole { (article(entry, status, history, rows)) }
            @if !rest.is_empty() {
                h3 { "Further entries" }
                ul.entries {
                    @for entry in rest.iter().take(LINES) {
                        li {
                            (state(entry.level, entry.is_used(), &entry.state))
                            b { (entry.name) }
                            span.muted { (entry.place()) }
                        }
                    }
                }
                @if rest.len() > LINES {
                    p.muted { "And " (plural(rest.len() - LINES, "more entry").replace("entrys", "entries"))
                        ": replgate status --all" }
                }
            }
        }
    }
}

fn article(entry: &Entry<'_>, status: &Status, history: &History, rows: usize) -> Markup {
    let points = history.of(entry.role, entry.name);
    let syncs = status.syncs.iter().find(|syncs| syncs.role == entry.role && syncs.name == entry.name);
    let more = entry.links.len().saturating_sub(rows);
    let carried = points.iter().any(|point| point.to_replicas.is_some_and(|rate| rate > 0.0));
    html! {
        article.card {
            header {
                h3 { (entry.name) }
                (state(entry.level, entry.is_used(), &entry.state))
                p.muted {
                    (entry.place())
                    @if let Some(syncs) = syncs {
                        "; syncs since the start: "
                        (syncs.full) " full, " (syncs.partial) " partial, " (syncs.refused) " refused"
                    }
                }
            }
            @if !entry.links.is_empty() {
                div.rows {
                    div.heads aria-hidden="true" {
                        @for head in ["Replica", "State", "Lag", "Rate", "Round trip", "Breaks", "Age"] {
                            span { (head) }
                        }
                    }
                    @for link in entry.links.iter().take(rows) { (row(link, &status.links)) }
                }
                @if more > 0 {
                    p.muted { "And " (plural(more, "more link")) ": replgate status --all" }
                }
            }
            @if !entry.links.is_empty() || carried {
                div.drawings { (drawing::throughput(entry.name, &points)) (drawing::lag(entry.name, &points)) }
            }
        }
    }
}

/// A state with its mark; one that is not used has none.
fn state(level: Level, is_used: bool, words: &str) -> Markup {
    html! {
        span.state.(if is_used { level.class() } else { "idle" }) {
            @if is_used { (mark(level)) }
            (words)
        }
    }
}

/// One replica: a row that opens to show all that is known.
fn row(link: &LinkStatus, all: &[LinkStatus]) -> Markup {
    let level = health::of_link(link);
    let replication = link.replication.as_ref();
    let lag = replication.and_then(|replication| {
        let (bytes, seconds) = (replication.lag_bytes?, replication.lag_seconds?);
        Some(format!("{}, {}", words::span(seconds), words::size(bytes as f64)))
    });
    let unknown = || "–".to_owned();
    let rate = link.to_replica_bytes_per_second.map_or_else(unknown, |rate| words::rate(rate as f64));
    let trip = link.round_trip_seconds.map_or_else(unknown, words::round_trip);
    let age = clock::span(i64::try_from(link.seconds).unwrap_or(i64::MAX));
    html! {
        details.link #{ "link-" (link.number) } {
            summary {
                span.cell.name { (name(link)) }
                span.cell.stage {
                    (state(level, true, &link.state))
                    (doing(link))
                }
                (cell("Lag", &lag.unwrap_or_else(unknown)))
                (cell("Rate", &rate))
                (cell("Round trip", &trip))
                (cell("Breaks", &breaks(link)))
                (cell("Age", &age))
            }
            (facts(link, all))
        }
    }
}

fn cell(head: &str, value: &str) -> Markup {
    html! { span.cell { span.head { (head) " " } span.number { (value) } } }
}

fn breaks(link: &LinkStatus) -> String {
    match (link.breaks, link.resumed) {
        (0, _) => "0".to_owned(),
        (1, 1) => "1, survived".to_owned(),
        (breaks, resumed) if breaks == resumed => format!("{breaks}, all survived"),
        (breaks, resumed) => format!("{breaks}, {resumed} survived"),
    }
}

/// The replica, or the link's number where there is none.
fn name(link: &LinkStatus) -> String {
    link_words::replica(link).unwrap_or_else(|| format!("link {}", link.number))
}

/// What the link does now, where its state alone does not say it.
fn doing(link: &LinkStatus) -> Markup {
    if let Some(held) = link_words::held(link) {
        return html! { span.doing { "for " (held) } };
    }
    let Some(replication) = &link.replication else { return html! {} };
    let complaint = html! {
        @if let Some(complaint) = &replication.complaint { span.doing { (complaint) } }
    };
    let now = match (replication.stage, &replication.snapshot) {
        (Stage::Waiting, _) => html! { span.doing { "for the master's answer or fork" } },
        (Stage::FullSync, Some(snapshot)) => progress(snapshot),
        (Stage::Loading, Some(snapshot)) => {
            html! { span.doing { "the " (words::size(snapshot.bytes as f64)) " of its snapshot" } }
        }
        (Stage::Unknown, _) => html! { span.doing { (replication.unknown.as_deref().unwrap_or_default()) } },
        _ => html! {},
    };
    html! { (now) (complaint) }
}

/// How far a snapshot has come: a bar where its size is known, and numbers.
fn progress(snapshot: &Snapshot) -> Markup {
    let size = |bytes: u64| words::size(bytes as f64);
    html! {
        @if let (Some(share), Some(of)) = (snapshot.share(), snapshot.size) {
            @let percent = (share * 100.0).floor();
            progress value=(percent) max="100" aria-label="full sync" {}
            span.doing {
                b { (percent) " %" } ", " (size(snapshot.bytes)) " of " (size(of))
                @if let Some(rate) = snapshot.bytes_per_second { ", " (words::rate(rate as f64)) }
                @if let Some(left) = snapshot.seconds_left { ", " (words::whole_span(left.ceil())) " left" }
            }
        } @else {
            span.doing {
                (size(snapshot.bytes))
                @if let Some(rate) = snapshot.bytes_per_second { ", " (words::rate(rate as f64)) }
                "; the master does not say how much there is"
            }
        }
    }
}

/// All that is known of a link.
fn facts(link: &LinkStatus, all: &[LinkStatus]) -> Markup {
    let replication = link.replication.clone().unwrap_or_default();
    let Replication { version, sync, replication_id, master_offset, acknowledged_offset, .. } = &replication;
    let part = all
        .iter()
        .find(|other| other.replication.as_ref().is_some_and(|part| part.part_of == Some(link.number)));
    let sync = sync.map(|sync| format!("{sync:?}").to_lowercase());
    let offset = |offset: &Option<u64>| offset.map(|offset| offset.to_string());
    let acknowledged = offset(acknowledged_offset).map(|offset| {
        let ago = replication.acknowledged_seconds_ago.unwrap_or_default();
        format!("{offset}, {} ago", words::span(ago))
    });
    let numbers = part.map_or_else(
        || link.number.to_string(),
        |part| format!("{} and {} (its snapshot)", link.number, part.number),
    );
    let plain = (link.to_replica_bytes + link.to_master_bytes) as f64;
    let carried = if link.compressed && plain > 0.0 {
        let share = link.carried_bytes as f64 * 100.0 / plain;
        format!("{} ({share:.0} % of it, compressed)", words::size(link.carried_bytes as f64))
    } else {
        words::size(link.carried_bytes as f64)
    };
    let facts: [(&str, Option<String>); 17] = [
        ("Link", Some(numbers)),
        ("Far site", Some(link.site.clone())),
        ("Far gateway", Some(link.far.clone())),
        ("Redis here", Some(link.redis.clone())),
        ("Version of the replica", version.clone()),
        ("Sync", sync),
        ("Replication id", replication_id.clone()),
        ("Master's offset", offset(master_offset)),
        ("Acknowledged", acknowledged),
        (
            "Bytes to the replica, to the master",
            Some(format!(
                "{}, {}",
                words::size(link.to_replica_bytes as f64),
                words::size(link.to_master_bytes as f64)
            )),
        ),
        ("Carried between the gateways", Some(carried)),
        ("Sent again", Some(words::size(link.resent_bytes as f64))),
        ("Buffered here", Some(words::size(link.buffered_bytes as f64))),
        (
            "Connections",
            Some(format!("{} now, {} agreed, {} lost", link.lanes, link.lanes_agreed, link.lanes_lost)),
        ),
        ("Survives a break of", Some(clock::span(link.hold_seconds.round() as i64))),
        ("Memory in an outage", link.coverage.as_ref().map(Coverage::words)),
        ("Dials in breaks", Some(format!("{}, {} failed", link.redials, link.redials_failed))),
    ];
    html! {
        dl.facts {
            @for (what, value) in &facts {
                @if let Some(value) = value { div { dt { (what) } dd { (value) } } }
            }
        }
    }
}
