//! The numbers at the top, and the far sites.

use maud::{Markup, html};

use super::findings::mark;
use super::{drawing, links};
use crate::admin::Status;
use crate::admin::health::{self, Level};
use crate::clock;
use crate::registry::{History, LinkStatus};
use crate::tls::expiry::Kind;
use crate::words::{self, plural};

/// Most far sites that have a row.
const SITES: usize = 40;

/// The numbers that say the most.
pub(super) fn part(status: &Status, history: &History, now: i64) -> Markup {
    let links: Vec<&LinkStatus> = status.links.iter().collect();
    let rate = |of: fn(&LinkStatus) -> Option<u64>| -> f64 {
        links.iter().filter_map(|link| of(link)).sum::<u64>() as f64
    };
    let behind = links.iter().filter_map(|link| link.replication.as_ref()?.lag_bytes).max();
    let lag = links.iter().filter_map(|link| link.replication.as_ref()?.lag_seconds).reduce(f64::max);
    let certificate = status.terms.iter().find(|term| term.kind == Kind::Certificate);
    let term = certificate.map_or(Level::Good, |term| health::of_term(term, now));
    let left = status.certificate_expires.saturating_sub(now);
    html! {
        section #summary aria-label="Summary" {
            dl.tiles {
                (tile("Links", &status.links.len().to_string(), &html! {
                    @if links.is_empty() { "no replica is connected" } @else { (links::states(&links)) }
                }))
                (tile(
                    "To replicas",
                    &words::rate(rate(|link| link.to_replica_bytes_per_second)),
                    &html! { "to masters " (words::rate(rate(|link| link.to_master_bytes_per_second))) },
                ))
                (tile("Greatest lag", &lag.map_or_else(|| "–".to_owned(), words::span), &html! {
                    @match behind {
                        Some(bytes) => (words::size(bytes as f64)),
                        None => "not known",
                    }
                }))
                (tile("Breaks since the start", &status.counts.breaks.to_string(), &html! {
                    (status.counts.resumed) " survived, " (status.counts.lanes_lost) " connections lost"
                }))
                (tile("Memory of links", &words::size(status.memory_used as f64), &memory(status)))
                (tile("Certificate", &if left < 0 { "expired".to_owned() } else { clock::span(left) }, &html! {
                    @if term > Level::Good { (mark(term)) }
                    "until " (clock::date(status.certificate_expires))
                }))
            }
            @if status.masters.len() + status.replicas.len() > 1 {
                @let points = history.whole();
                div.card.drawings { (drawing::throughput("all entries", &points)) (drawing::lag("all entries", &points)) }
            }
        }
    }
}

fn tile(what: &str, value: &str, more: &Markup) -> Markup {
    html! { div { dt { (what) } dd { span.value { (value) } span.muted { (more) } } } }
}

fn memory(status: &Status) -> Markup {
    let share = status.memory_used as f64 * 100.0 / status.memory_limit.max(1) as f64;
    let is_full = health::of_memory(status) > Level::Good;
    html! {
        progress.look[is_full] value=(format!("{share:.1}")) max="100" aria-label="memory in use" {}
        (format!("{share:.0}")) " % of " (words::size(status.memory_limit as f64))
    }
}

/// The far sites of the config, and those that have links.
pub(super) fn far_sites(status: &Status) -> Markup {
    struct Far<'a> {
        site: &'a str,
        offered: usize,
        taken: usize,
        links: Vec<&'a LinkStatus>,
    }
    let of_config = status.far_sites.iter();
    let mut sites: Vec<Far<'_>> = of_config
        .map(|far| Far {
            site: &far.site,
            offered: far.masters.len(),
            taken: far.replicas.len(),
            links: vec![],
        })
        .collect();
    for link in &status.links {
        match sites.iter_mut().find(|far| far.site.eq_ignore_ascii_case(&link.site)) {
            Some(far) => far.links.push(link),
            None => sites.push(Far { site: &link.site, offered: 0, taken: 0, links: vec![link] }),
        }
    }
    let level = |far: &Far<'_>| far.links.iter().map(|link| health::of_link(link)).max();
    sites.sort_by_key(|far| std::cmp::Reverse(level(far).map(|level| level.max(Level::Busy))));
    html! {
        @if !sites.is_empty() {
            section #sites {
                h2 { "Far sites" }
                div.card { table {
                    thead { tr { th { "Site" } th { "Links" } th { "Round trip" } th { "Masters" } } }
                    tbody { @for far in sites.iter().take(SITES) { tr {
                        td data-head="Site" { b { (far.site) } }
                        td data-head="Links" {
                            @match level(far) {
                                Some(level) => span.state.(level.class()) { (mark(level)) (links::states(&far.links)) },
                                None => span.state.idle { "no link" },
                            }
                        }
                        td.number data-head="Round trip" {
                            (far.links.iter().filter_map(|link| link.round_trip_seconds).reduce(f64::max)
                                .map_or_else(|| "–".to_owned(), words::round_trip))
                        }
                        td data-head="Masters" {
                            @let masters = [(far.offered, "here"), (far.taken, "there")];
                            (masters.iter().filter(|(count, _)| *count > 0)
                                .map(|(count, place)| format!("{count} {place}")).collect::<Vec<_>>().join(", "))
                        }
                    } } }
                } }
                @if sites.len() > SITES { p.muted { "And " (plural(sites.len() - SITES, "more site")) "." } }
            }
        }
    }
}
