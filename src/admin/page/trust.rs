//! What expires, the revocation lists, and the last reload.

use maud::{Markup, html};

use super::findings::mark;
use crate::admin::Status;
use crate::admin::health::{self, Level};
use crate::clock;
use crate::tls::expiry::{Kind, Term};

/// Most certificates, CAs and lists that have a row.
const ROWS: usize = 24;

/// Most faults of a reload that are shown, and the most letters of each.
const FAULTS: (usize, usize) = (8, 400);

/// Certificates, CAs and revocation lists.
pub(super) fn terms(status: &Status, now: i64) -> Markup {
    let mut terms: Vec<&Term> = status.terms.iter().filter(|term| term.kind != Kind::List).collect();
    terms.sort_by_key(|term| (term.kind != Kind::Certificate, term.until));
    let ends = |until: Option<i64>, level: Level| {
        html! {
            td.number data-head="Until" { (until.map_or_else(|| "–".to_owned(), clock::date)) }
            td data-head="State" {
                @let left = until.map(|until| until.saturating_sub(now));
                span.state.(level.class()) {
                    (mark(level))
                    (match left {
                        None => "has no end".to_owned(),
                        Some(left) if left < 0 => format!("ended {} ago", clock::span(left)),
                        Some(left) => format!("{} left", clock::span(left)),
                    })
                }
            }
        }
    };
    html! {
        section #trust {
            h2 { "Certificates and lists" }
            div.card { table {
                thead { tr { th { "What" } th { "Name" } th { "Until" } th { "State" } } }
                tbody {
                    @for term in terms.iter().take(ROWS) { tr {
                        td data-head="What" { @match term.kind {
                            Kind::Certificate => "certificate",
                            Kind::Ca => "CA",
                            Kind::List => "revocation list",
                        } }
                        td data-head="Name" { (term.name) }
                        (ends(Some(term.until), health::of_term(term, now)))
                    } }
                    @for list in status.lists.iter().take(ROWS) { tr {
                        td data-head="What" { "revocation list" }
                        td data-head="Name" {
                            (list.issuer)
                            span.muted {
                                @if let Some(number) = &list.number { ", number " (number) }
                                ", " (list.revoked) " revoked, "
                                @match &list.from {
                                    Some(from) => { "learnt from " (from) },
                                    None => "from the file",
                                }
                            }
                        }
                        // A list without a term does not expire.
                        @let term = status.terms.iter().find(|term| {
                            term.kind == Kind::List && term.name == list.issuer && Some(term.until) == list.until
                        });
                        (ends(list.until, term.map_or(Level::Good, |term| health::of_term(term, now))))
                    } }
                }
            } }
            @let more = terms.len().saturating_sub(ROWS) + status.lists.len().saturating_sub(ROWS);
            @if more > 0 { p.muted { "And " (more) " more: replgate status" } }
        }
    }
}

/// How the last reload went.
pub(super) fn reload(status: &Status, now: i64) -> Markup {
    let (most, letters) = FAULTS;
    html! {
        section #reload {
            h2 { "Last reload" }
            div.card {
                p {
                    "The files in use were read " (clock::ago(status.reload.read_at, now)) ", at "
                    (clock::utc(status.reload.read_at)) "."
                }
                @if let Some(refused) = &status.reload.refused {
                    p {
                        (mark(Level::Bad)) b { "Refused since " (clock::utc(refused.since)) "." }
                        " Everything runs as before. What is wrong:"
                    }
                    ul.faults {
                        @for fault in refused.faults.iter().take(most) {
                            li { (fault.chars().take(letters).collect::<String>()) }
                        }
                    }
                    @if refused.faults.len() > most { p { "And " (refused.faults.len() - most) " more, in the log." } }
                }
            }
        }
    }
}
