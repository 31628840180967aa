//! The text that `replgate status` shows: a summary, then tables that fit the screen.
//!
//! On a narrow screen columns are left out, the least useful first. Links that need attention come
//! first.

use std::collections::HashMap;

use crate::admin::Status;
use crate::clock;
use crate::redis::replication::{Replication, Stage, SyncKind};
use crate::registry::{Coverage, EndedLink, LinkStatus};
use crate::tls::expiry::{Kind, Standing};
use crate::tls::revocation::InUse;

/// Most ended links that are shown.
const LATELY: usize = 5;

/// Most links whose outages are not covered that have a line.
const SHORT: usize = 5;

/// Most rows of a table, unless all are asked for.
const ROWS: usize = 40;

/// Most names that a list shows.
const NAMES: usize = 8;

/// Seconds of lag above which a replica needs attention.
const BEHIND: f64 = 10.0;

/// How the status is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View<'a> {
    /// Width of the screen in columns; `None` is any width.
    pub(super) width: Option<usize>,
    /// Show all rows.
    pub(super) all: bool,
    /// The status shown before, and how many seconds ago. If it is given, rates are shown.
    pub(super) before: Option<(&'a Status, f64)>,
}

/// The revocation lists in use, one line each.
fn lists(lists: &[InUse]) -> String {
    let line = |list: &InUse| {
        let InUse { issuer, number, from, made, until, revoked } = list;
        let number = number.as_ref().map_or(String::new(), |number| format!(" number {number}"));
        let until = until.map_or(String::new(), |until| format!(", until {}", clock::utc(until)));
        let from = from.as_ref().map_or("from the file".to_owned(), |from| format!("learnt from {from}"));
        format!(
            "revocation list{number} of {issuer}: {revoked} revoked, made {}{until}, {from}\n",
            clock::utc(*made)
        )
    };
    let mut out: String = lists.iter().take(NAMES).map(line).collect();
    if lists.len() > NAMES {
        out += &format!("and {} more revocation lists\n", lists.len() - NAMES);
    }
    out
}

/// The whole text.
pub(super) fn text(status: &Status, view: View<'_>) -> String {
    let mut out = format!(
        "site {} on {}, replgate {}, process {}\n",
        status.site, status.node, status.version, status.pid
    );
    out += &certificate(status.certificate_expires, clock::now());
    // The certificate has a line of its own.
    for term in status.terms.iter().filter(|term| term.kind != Kind::Certificate) {
        if term.standing(clock::now()) != Standing::Good {
            out += &format!("{}\n", term.words(clock::now()));
        }
    }
    out += &lists(&status.lists);
    if let Some(refused) = &status.reload.refused {
        out += &format!("{}\n", refused.words());
    }
    for address in &status.listeners_lost {
        out += &format!("NOT LISTENING on {address} any more: restart the gateway\n");
    }
    if !status.masters.is_empty() {
        out += &format!("masters offered: {}\n", names(&status.masters));
    }
    if !status.replicas.is_empty() {
        out += &format!("far masters offered: {}\n", names(&status.replicas));
    }
    let counts = &status.counts;
    out += &format!(
        "links: {} up, {} opened, {} closed, {} refused here, {} failed\n",
        status.links.len(),
        counts.opened,
        counts.closed,
        counts.refused,
        counts.failed
    );
    if !status.links.is_empty() {
        out += &format!("now: {}\n", states(&status.links));
    }
    out += &format!(
        "breaks: {}, survived {}; lanes lost: {}, dialled again: {}; sent again: {}\n",
        counts.breaks,
        counts.resumed,
        counts.lanes_lost,
        counts.redials,
        bytes(counts.resent_bytes)
    );
    let old: u64 = status.links.iter().map(|link| link.lanes_to_replace).sum();
    if old > 0 {
        out += &format!("moving to another certificate: {old} connections still use the earlier one\n");
    }
    out += &format!("buffered: {} of at most {}\n", bytes(status.memory_used), bytes(status.memory_limit));
    out += &short(&status.links);
    for syncs in &status.syncs {
        out += &format!(
            "syncs of {} ({} here): {} full, {} partial, {} refused\n",
            syncs.name, syncs.role, syncs.full, syncs.partial, syncs.refused
        );
    }
    if counts.commands_refused > 0 {
        out += &format!(
            "links that ended for a command that is not part of replication: {}\n",
            counts.commands_refused
        );
    }
    let mut shown: Vec<&LinkStatus> = status.links.iter().collect();
    // Links that need attention first, then the others; both in order of age.
    shown.sort_by_key(|link| !is_unwell(link));
    for table in [links(&shown, view), replicas(&shown, &status.links, view), ended(&status.ended, view)] {
        if !table.is_empty() {
            out += "\n";
            out += &table;
        }
    }
    out
}

/// The line about the validity of the certificate.
fn certificate(expires: i64, now: i64) -> String {
    let (at, span) = (clock::utc(expires), clock::span(expires - now));
    if expires < now {
        format!("certificate EXPIRED {span} ago, on {at}: no far gateway accepts it; renew it and reload\n")
    } else {
        format!("certificate good until {at} (for {span})\n")
    }
}

/// Whether a link needs attention.
pub(super) fn is_unwell(link: &LinkStatus) -> bool {
    let replication = link.replication.as_ref();
    link.held_seconds.is_some()
        || replication.is_some_and(|replication| {
            replication.stage == Stage::Unknown
                || replication.complaint.is_some()
                || replication.lag_seconds.is_some_and(|lag| lag > BEHIND)
        })
}

/// How many links are in each state, and how many need attention.
fn states(links: &[LinkStatus]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for link in links {
        match counts.iter_mut().find(|(state, _)| *state == link.state) {
            Some((_, count)) => *count += 1,
            None => counts.push((&link.state, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let text: Vec<String> = counts.iter().map(|(state, count)| format!("{state} {count}")).collect();
    let unwell = links.iter().filter(|link| is_unwell(link)).count();
    let unwell = if unwell > 0 { format!("; not well: {unwell} (--unwell)") } else { String::new() };
    text.join(", ") + &unwell
}

/// A line for each link whose memory does not last for `hold`, the shortest first.
fn short(links: &[LinkStatus]) -> String {
    let mut short: Vec<_> =
        links.iter().filter_map(|link| Some((link, link.coverage.filter(Coverage::is_short)?))).collect();
    short.sort_by(|(_, one), (_, other)| one.seconds.total_cmp(&other.seconds));
    let mut out = String::new();
    for (link, coverage) in short.iter().take(SHORT) {
        out += &format!("outages: {} to {}: {}\n", link.name, link.site, coverage.words());
    }
    if short.len() > SHORT {
        out += &format!("outages: {} more links for which less than hold is covered\n", short.len() - SHORT);
    }
    out
}

/// The first names of a list, and the number of the others.
fn names(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES);
    let first = names[..names.len() - more].join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// The table of links: how they are carried.
fn links(links: &[&LinkStatus], view: View<'_>) -> String {
    let before: HashMap<u64, &LinkStatus> =
        view.before.iter().flat_map(|(before, _)| &before.links).map(|link| (link.number, link)).collect();
    let rate = |link: &LinkStatus| {
        let (_, seconds) = view.before?;
        let moved = |link: &LinkStatus| link.to_replica_bytes + link.to_master_bytes;
        let before = before.get(&link.number).map_or(0, |before| moved(before));
        Some(format!("{}/s", bytes((moved(link).saturating_sub(before) as f64 / seconds.max(0.1)) as u64)))
    };
    let table = Table {
        columns: vec![
            ("LINK", 0),
            ("NAME", 0),
            ("HERE", 4),
            ("FAR SITE", 0),
            ("FAR GATEWAY", 8),
            ("REDIS HERE", 7),
            ("STATE", 0),
            ("LANES", 3),
            ("BREAKS", 2),
            ("AGE", 1),
            ("RATE", 1),
            ("TO REPLICA", 5),
            ("TO MASTER", 6),
            ("CARRIED", 9),
            ("COVERED", 10),
        ],
        rows: links
            .iter()
            .map(|link| {
                vec![
                    link.number.to_string(),
                    link.name.clone(),
                    link.role.clone(),
                    link.site.clone(),
                    link.far.clone(),
                    link.redis.clone(),
                    link.state.clone(),
                    link.lanes.to_string(),
                    link.breaks.to_string(),
                    clock::span(i64::try_from(link.seconds).unwrap_or(i64::MAX)),
                    rate(link).unwrap_or_default(),
                    bytes(link.to_replica_bytes),
                    bytes(link.to_master_bytes),
                    carried(link),
                    link.coverage
                        .map_or_else(String::new, |coverage| format!("{:.0} s", coverage.seconds.floor())),
                ]
            })
            .collect(),
    };
    table.text(view)
}

/// The table of replicas: what Redis does on the links. A replica has one row, even if it has two
/// connections.
fn replicas(links: &[&LinkStatus], all: &[LinkStatus], view: View<'_>) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let row = |(link, replication): (&LinkStatus, &Replication)| {
        let parts = all
            .iter()
            .filter(|other| other.replication.as_ref().is_some_and(|part| part.part_of == Some(link.number)));
        let numbers = std::iter::once(link.number).chain(parts.map(|part| part.number));
        let behind = match (replication.lag_bytes, replication.lag_seconds) {
            (Some(lag), Some(seconds)) => format!("{}, {seconds:.1} s", bytes(lag)),
            _ => "?".to_owned(),
        };
        let sync = match replication.sync {
            Some(SyncKind::Full) => "full",
            Some(SyncKind::Partial) => "partial",
            None => "-",
        };
        vec![
            replica(link, replication),
            link.name.clone(),
            numbers.map(|number| number.to_string()).collect::<Vec<_>>().join("+"),
            sync.to_owned(),
            number(replication.master_offset),
            number(replication.acknowledged_offset),
            behind,
            held(link).unwrap_or_else(|| doing(replication)),
        ]
    };
    let table = Table {
        columns: vec![
            ("REPLICA", 0),
            ("OF", 0),
            ("LINK", 1),
            ("SYNC", 3),
            ("OFFSET", 4),
            ("ACKNOWLEDGED", 5),
            ("BEHIND", 0),
            ("STATE", 0),
        ],
        rows: links
            .iter()
            .filter_map(|link| Some((*link, link.replication.as_ref()?)))
            .filter(|(_, replication)| replication.part_of.is_none())
            .map(row)
            .collect(),
    };
    table.text(view)
}

/// The replica's address as the master lists it, as far as it is known, and its version.
fn replica(link: &LinkStatus, replication: &Replication) -> String {
    let at_replica = link.role == "replica";
    let host = match &replication.host {
        Some(host) => host.clone(),
        // Without an announcement, a master lists the address that the connection comes from.
        None if at_replica => {
            link.redis.rsplit_once(':').map_or_else(String::new, |(host, _)| host.to_owned())
        }
        None => link.site.clone(),
    };
    let port = replication.port.map_or_else(String::new, |port| format!(":{port}"));
    // A long host would push the other columns off the screen; `--json` shows it whole.
    let host = if host.len() > 40 { format!("{}...", &host[..37]) } else { host };
    let version = replication.version.as_ref().map_or_else(String::new, |version| format!(" ({version})"));
    format!("{host}{port}{version}")
}

/// How long a link has been held, in words; `None` if it is not held.
fn held(link: &LinkStatus) -> Option<String> {
    let whole = |seconds: f64| clock::span(seconds.round() as i64);
    let (since, left) = (link.held_seconds?, link.gives_up_in_seconds?);
    let mut text = format!("held {}, gives up in {}", whole(since), whole(left));
    if let Some(failure) = link.redial_failure.as_ref().filter(|failure| failure.seconds_ago <= since) {
        text += &format!(
            "; dials failed {}, last {} ago: {}",
            link.redials_failed,
            whole(failure.seconds_ago),
            failure.reason
        );
    }
    Some(text)
}

/// How far the replica has come, in words.
fn doing(replication: &Replication) -> String {
    let mut text = match (&replication.stage, &replication.snapshot, &replication.unknown) {
        (Stage::Unknown, _, Some(why)) => format!("unknown: {why}"),
        (Stage::Waiting, ..) => "waiting for the master's answer or fork".to_owned(),
        (Stage::FullSync, Some(snapshot), _) => {
            let size = snapshot.size.map_or_else(String::new, |size| format!(" of {}", bytes(size)));
            let rate =
                snapshot.bytes_per_second.map_or_else(String::new, |rate| format!(", {}/s", bytes(rate)));
            let left = snapshot
                .seconds_left
                .map_or_else(String::new, |left| format!(", {} left", clock::span(left.ceil() as i64)));
            format!("full sync: {}{size}{rate}{left}", bytes(snapshot.bytes))
        }
        (Stage::Loading, Some(snapshot), _) => format!("loading {}", bytes(snapshot.bytes)),
        (stage, ..) => stage.to_string(),
    };
    if let Some(complaint) = &replication.complaint {
        text += &format!(" ({complaint})");
    }
    text
}

/// The table of links that have ended.
fn ended(ended: &[EndedLink], view: View<'_>) -> String {
    let row = |ended: &EndedLink| {
        let replication = ended.link.replication.clone().unwrap_or_default();
        vec![
            format!("{} ago", clock::span((clock::now() - ended.at).max(0))),
            ended.link.number.to_string(),
            ended.link.name.clone(),
            ended.link.site.clone(),
            ended.link.state.clone(),
            replication.master_offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string()),
            ended.reason.clone(),
        ]
    };
    let table = Table {
        columns: vec![
            ("ENDED", 0),
            ("LINK", 2),
            ("NAME", 0),
            ("FAR SITE", 1),
            ("IT WAS", 3),
            ("OFFSET", 4),
            ("WHY", 0),
        ],
        rows: ended.iter().take(LATELY).map(row).collect(),
    };
    table.text(view)
}

/// A table of text cells.
struct Table {
    /// The column heads. The number says in which order columns are left out: the greatest first, 0
    /// never.
    columns: Vec<(&'static str, u8)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn text(mut self, view: View<'_>) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let more = if view.all { 0 } else { self.rows.len().saturating_sub(ROWS) };
        self.rows.truncate(self.rows.len() - more);
        // A column without any value is left out.
        self.leave_out(|table, at| table.rows.iter().all(|row| row[at].is_empty()));
        let width =
            |table: &Self| table.widths().iter().map(|width| width + 2).sum::<usize>().saturating_sub(2);
        // The last cell may be long: it is wrapped.
        while view.width.is_some_and(|most| width(&self) > most) {
            let least = self.columns.iter().map(|(_, soon)| *soon).max().unwrap_or(0);
            if least == 0 {
                break;
            }
            self.leave_out(|table, at| table.columns[at].1 == least);
        }
        let widths = self.widths();
        let heads = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            out += &line(row, &widths, view.width);
        }
        if more > 0 {
            out += &format!("and {more} more: --all, or choose with --site, --master, --unwell\n");
        }
        out
    }

    /// The width of each column. That of the last one is its head's, since it may be wrapped.
    fn widths(&self) -> Vec<usize> {
        let last = self.columns.len() - 1;
        let widest = |at: usize| self.rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
        let widths = self.columns.iter().enumerate();
        widths
            .map(|(at, (head, _))| if at == last { head.len() + 11 } else { head.len().max(widest(at)) })
            .collect()
    }

    fn leave_out(&mut self, is_left_out: impl Fn(&Self, usize) -> bool) {
        for at in (0..self.columns.len()).rev() {
            if is_left_out(self, at) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
    }
}

/// One row; the last cell is wrapped if it does not fit.
fn line(row: &[String], widths: &[usize], most: Option<usize>) -> String {
    let (last, cells) = row.split_last().expect("a table has columns");
    let mut out = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        out += &format!("{cell:<width$}  ");
    }
    let room = most.map_or(usize::MAX, |most| most.saturating_sub(out.len()));
    if last.len() <= room {
        return format!("{}\n", (out + last).trim_end());
    }
    let (mut lines, mut current) = (vec![out.trim_end().to_owned()], String::from("   "));
    for word in last.split(' ') {
        if current.len() + 1 + word.len() > most.unwrap_or(usize::MAX) && !current.trim().is_empty() {
            lines.push(std::mem::replace(&mut current, String::from("   ")));
        }
        current.push(' ');
        current += word;
    }
    lines.push(current);
    lines.join("\n") + "\n"
}

/// Bytes as carried. If they are compressed, with their share of the bytes from Redis.
fn carried(link: &LinkStatus) -> String {
    let plain = link.to_replica_bytes + link.to_master_bytes;
    let carried = bytes(link.carried_bytes);
    if plain > 0 && link.carried_bytes * 100 < plain * 95 {
        format!("{carried} ({:.0} %)", link.carried_bytes as f64 * 100.0 / plain as f64)
    } else {
        carried
    }
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_past_is_not_shown_as_good() {
        assert!(certificate(65, 100).starts_with("certificate EXPIRED 35 s ago, on 1970-01-01T00:01:05Z"));
        assert!(certificate(135, 100).starts_with("certificate good until 1970-01-01T00:02:15Z (for 35 s)"));
    }

    fn table(last: &str) -> Table {
        Table {
            columns: vec![("LINK", 0), ("FAR GATEWAY", 8), ("RATE", 1), ("WHY", 0)],
            rows: vec![vec!["1".into(), "192.0.2.1:7379".into(), String::new(), last.into()]],
        }
    }

    #[test]
    fn a_table_fits_the_screen_without_its_least_important_columns() {
        let view = |width| View { width, ..View::default() };
        let wide = table("gone").text(view(None));
        assert_eq!(
            wide, "LINK  FAR GATEWAY     WHY\n1     192.0.2.1:7379  gone\n",
            "an empty column is none"
        );
        assert_eq!(table("gone").text(view(Some(30))), "LINK  WHY\n1     gone\n");
        let long = table(&"some words that go on and on ".repeat(5)).text(view(Some(40)));
        assert!(long.lines().count() > 3 && long.lines().all(|line| line.len() <= 40), "{long}");
    }

    #[test]
    fn many_rows_are_cut_and_counted() {
        let mut many = table("x");
        many.rows = vec![many.rows[0].clone(); 100];
        let rows = many.rows.clone();
        let text = many.text(View::default());
        assert!(text.lines().count() == ROWS + 2 && text.contains("and 60 more: --all"), "{text}");
        let all = Table { rows, ..table("x") }.text(View { all: true, ..View::default() });
        assert_eq!(all.lines().count(), 101);
        assert_eq!(names(&["a".to_owned(), "b".to_owned()]), "a, b");
        assert_eq!(names(&vec!["a".to_owned(); 600]), "a, a, a, a, a, a, a, a and 592 more");
    }
}
