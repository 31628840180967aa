//! The text of `replgate status --wide`: all that is known, then tables.
//!
//! On a narrow screen columns are left out, the least useful first. Links that need attention come
//! first.

use super::View;
use super::table::Table;
use crate::admin::health::is_unwell;
use crate::admin::link_words::{self, held};
use crate::admin::{Status, awaited, follow_words};
use crate::cli::text::{bytes, cut, one_line};
use crate::clock;
use crate::follow::FollowStatus;
use crate::redis::replication::{Replication, Stage, SyncKind};
use crate::registry::{EndedLink, LinkStatus};
use crate::tls::revocation::InUse;
use crate::words::{names, round_trip};

/// Most ended links that are shown.
const LATELY: usize = 5;

/// Most names that a list shows.
pub(super) const NAMES: usize = 8;

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

/// Who is followed, for each entry that follows a master, with all that is known of the parties and the Sentinels.
fn following(entries: &[FollowStatus], now: i64) -> String {
    let mut out = String::new();
    for entry in entries {
        let here = if entry.role == "replica" { "replicas here" } else { "master here" };
        let mut lines = vec![format!(
            "{} ({here}) {}; {}",
            entry.name,
            follow_words::does(entry, now),
            follow_words::switches(entry)
        )];
        for party in &entry.parties {
            let mark = if follow_words::is_present(entry, party) { "*" } else { " " };
            let stream =
                follow_words::stream(party).map_or_else(String::new, |stream| format!(" (stream {stream})"));
            lines.push(format!("  {mark} {}{stream}", follow_words::clause(party)));
        }
        lines.extend(
            entry.sentinels.iter().map(|said| format!("    Sentinel {} {}", said.sentinel, said.words)),
        );
        let is_told = !awaited::waits(entry);
        lines.extend(
            entry.attention.iter().filter(|_| is_told).map(|words| format!("    attention: {words}")),
        );
        lines.extend(entry.next_step.iter().filter(|_| is_told).map(|words| format!("    next: {words}")));
        for line in lines {
            let indent = line.chars().take_while(|letter| *letter == ' ').count();
            out += &format!("{:indent$}{}\n", "", one_line(&line));
        }
    }
    out
}

/// The whole text below the head. `now` is in seconds since 1970.
pub(super) fn text(status: &Status, view: View, now: i64) -> String {
    let mut out = format!(
        "certificate until {}; config and certificates read {}\n",
        clock::utc(status.certificate_expires),
        clock::utc(status.reload.read_at)
    );
    out += &lists(&status.lists);
    if !status.masters.is_empty() {
        out += &format!("masters offered: {}\n", names(&status.masters, NAMES));
    }
    if !status.replicas.is_empty() {
        out += &format!("far masters offered: {}\n", names(&status.replicas, NAMES));
    }
    out += &following(&status.following, now);
    let counts = &status.counts;
    out += &format!(
        "links: {} up, {} opened, {} closed, {} refused here, {} failed\n",
        status.links.len(),
        counts.opened,
        counts.closed,
        counts.refused,
        counts.failed
    );
    out += &format!(
        "breaks: {}, survived {}; lanes lost: {}, dialled again: {}; sent again: {}\n",
        counts.breaks,
        counts.resumed,
        counts.lanes_lost,
        counts.redials,
        bytes(counts.resent_bytes)
    );
    out += &format!("buffered: {} of at most {}\n", bytes(status.memory_used), bytes(status.memory_limit));
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

/// The table of links: how they are carried.
fn links(links: &[&LinkStatus], view: View) -> String {
    let rate = |rate: Option<u64>| rate.map_or_else(String::new, |rate| format!("{}/s", bytes(rate)));
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
            ("ROUND TRIP", 1),
            ("TO REPLICA", 5),
            ("A SECOND", 1),
            ("TO MASTER", 6),
            ("A SECOND", 6),
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
                    link.round_trip_seconds.map_or_else(String::new, round_trip),
                    bytes(link.to_replica_bytes),
                    rate(link.to_replica_bytes_per_second),
                    bytes(link.to_master_bytes),
                    rate(link.to_master_bytes_per_second),
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
fn replicas(links: &[&LinkStatus], all: &[LinkStatus], view: View) -> String {
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
            held(link).map_or_else(|| doing(replication), |held| format!("held {held}")),
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
    // A long one would push the other columns off the screen; `--json` shows it whole.
    let replica = cut(&link_words::replica(link).unwrap_or_default(), 46);
    let version = replication.version.as_ref().map_or_else(String::new, |version| format!(" ({version})"));
    format!("{replica}{version}")
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
fn ended(ended: &[EndedLink], view: View) -> String {
    let row = |ended: &EndedLink| {
        let replication = ended.link.replication.clone().unwrap_or_default();
        vec![
            clock::ago(ended.at, clock::now()),
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
