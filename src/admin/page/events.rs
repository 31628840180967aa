//! What happened last, as `replgate events` tells it.

use maud::{Markup, html};

use crate::clock;
use crate::registry::Event;

/// Most events that are listed.
const LISTED: usize = 30;

/// The part of the page about them, the latest first.
pub(super) fn part(events: &[Event], now: i64) -> Markup {
    let told: Vec<&Event> = events.iter().filter(|event| !event.is_routine()).take(LISTED).collect();
    html! {
        section #events {
            h2 { "Last events" }
            div.card {
                @if told.is_empty() { p.muted { "Nothing has happened since the start." } }
                ol.events {
                    @for event in told {
                        li.(event.level) {
                            span.number.when {
                                @if clock::date(event.at) != clock::date(now) { (clock::date(event.at)) " " }
                                (clock::time_of_day(event.at))
                            }
                            span.muted.ago { (clock::ago(event.at, now)) }
                            b.kind { (event.kind) }
                            span.words { (event.sentence()) }
                        }
                    }
                }
                @if events.len() > LISTED { p.muted { "All that are kept: replgate events" } }
            }
        }
    }
}
