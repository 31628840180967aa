//! What happened last.

use maud::{Markup, html};

use super::words;
use crate::admin::Status;

/// Most events that are listed, and the most letters of each.
const LISTED: (usize, usize) = (30, 400);

/// Something that happened: when, in seconds since 1970, of which kind, and in words.
pub(super) struct Event {
    pub(super) at: i64,
    pub(super) kind: String,
    pub(super) words: String,
}

/// The events of a gateway, the latest first.
pub(super) fn of(status: &Status) -> Vec<Event> {
    let ended = status.ended.iter().map(|ended| Event {
        at: ended.at,
        kind: "link ended".to_owned(),
        words: format!(
            "{} with {}, link {}, {} before: {}",
            ended.link.name, ended.link.site, ended.link.number, ended.link.state, ended.reason
        ),
    });
    ended.collect()
}

/// The part of the page about them.
pub(super) fn part(events: &[Event], now: i64) -> Markup {
    let (most, letters) = LISTED;
    html! {
        section #events {
            h2 { "Last events" }
            div.card {
                @if events.is_empty() { p.muted { "Nothing has happened since the start." } }
                ol.events {
                    @for event in events.iter().take(most) {
                        li {
                            span.number.when {
                                @if words::date(event.at) != words::date(now) { (words::date(event.at)) " " }
                                (words::time_of_day(event.at))
                            }
                            span.muted.ago { (words::ago(event.at, now)) }
                            b.kind { (event.kind) }
                            span.words { (event.words.chars().take(letters).collect::<String>()) }
                        }
                    }
                }
            }
        }
    }
}
