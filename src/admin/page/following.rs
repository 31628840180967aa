//! Who is followed, for each entry that follows a master.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::findings::mark;
use crate::admin::awaited::Awaited;
use crate::admin::health::{self, Level};
use crate::admin::{Status, follow_words};
use crate::follow::{FollowStatus, PartyStatus};
use crate::words::plural;

/// Most entries that are shown.
const ENTRIES: usize = 24;

/// Most parties of an entry that have a row, and most Sentinels that have a line.
const PARTIES: usize = 16;

/// The entries, those that need attention first.
pub(super) fn part(status: &Status, now: i64) -> Markup {
    let mut entries: Vec<&FollowStatus> = status.following.iter().collect();
    let awaited = Awaited::of(status);
    entries.sort_by_key(|entry| Reverse(health::of_following(&awaited, entry)));
    html! {
        @if !entries.is_empty() {
            section #following {
                h2 { "Who is followed" }
                @for entry in entries.iter().take(ENTRIES) { (card(entry, health::of_following(&awaited, entry), now)) }
                @if entries.len() > ENTRIES {
                    p.muted { "And " (plural(entries.len() - ENTRIES, "more name")) ": replgate status --wide" }
                }
            }
        }
    }
}

fn card(entry: &FollowStatus, level: Level, now: i64) -> Markup {
    let place = if entry.role == "replica" { "replicas are here" } else { "the master is here" };
    html! {
        div.card {
            p {
                span.state.(level.class()) { (mark(level)) b { (entry.name) } }
                " " (follow_words::does(entry, now)) ". "
                span.muted { (place) ", " (follow_words::switches(entry)) }
            }
            table {
                thead { tr { th { "Who" } th { "What it is" } th { "Stream" } } }
                tbody {
                    @for party in entry.parties.iter().take(PARTIES) { (row(entry, party)) }
                }
            }
            @if entry.parties.len() > PARTIES {
                p.muted { "And " (entry.parties.len() - PARTIES) " more: replgate status --wide" }
            }
            @for said in entry.sentinels.iter().take(PARTIES) {
                p.muted { "Sentinel " (said.sentinel) " " (said.words) "." }
            }
        }
    }
}

fn row(entry: &FollowStatus, party: &PartyStatus) -> Markup {
    let is_present = follow_words::is_present(entry, party);
    html! {
        tr {
            td data-head="Who" {
                @if is_present { span.state.(Level::Good.class()) { (mark(Level::Good)) b { (party.party) } } } @else { (party.party) }
            }
            td data-head="What it is" { (follow_words::words(party)) }
            td.number data-head="Stream" {
                (follow_words::stream(party).unwrap_or_else(|| "–".to_owned()))
            }
        }
    }
}
