//! What a gateway tells a Prometheus: docs/metrics.md lists all of it.
//!
//! A [`Snapshot`] is what is told, and [`text`] writes it: a pure function. `families.rs` says which metrics
//! there are and what each of them is made of; `page.rs` writes them in either format.

mod families;
mod page;

use crate::admin::Status;
use crate::clock;
use crate::own_process::Usage;
use crate::registry::Tallies;
use crate::session::Shared;

/// The state of a gateway at one moment, as its metrics tell it.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// What `status` shows.
    pub status: &'a Status,
    /// What is counted since the start.
    pub tallies: Tallies,
    /// What the process uses.
    pub usage: Usage,
    /// Seconds since 1970.
    pub now: i64,
}

impl<'a> Snapshot<'a> {
    /// The state now, of which `status` was just taken.
    pub fn now(shared: &Shared, status: &'a Status) -> Self {
        Self { status, tallies: shared.registry.tallies(), usage: Usage::now(), now: clock::now() }
    }
}

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own text format, 0.0.4.
    Text,
}

impl Format {
    /// The format that an `Accept` header asks for, as any client of Prometheus decides: OpenMetrics where it is
    /// named and nothing else is preferred, otherwise the text format. So `curl` and a browser get text.
    pub fn asked(accept: &str) -> Self {
        let (mut open, mut text) = (0.0_f64, 0.0_f64);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let best = match parts.next() {
                Some("application/openmetrics-text") => &mut open,
                Some("text/plain") => &mut text,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f64>);
            *best = quality.unwrap_or(0.0).max(*best);
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Every metric, in this format.
pub fn text(snapshot: &Snapshot<'_>, format: Format) -> String {
    families::of(snapshot).text(format)
}

#[cfg(test)]
mod tests;
