//! For how long an outage of the path the memory lasts, at the rate at which a master writes.
//!
//! In an outage the gateway at the master's site takes in what the master writes, as far as
//! `[limits] memory` allows. Several links may be held at a time, so each of them is judged as if
//! all of them were. Redis' own output buffer comes on top and is not counted.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::words;

/// Time over which the write rate is averaged; what is older counts little.
const AVERAGED: Duration = Duration::from_secs(60);

/// How much longer than `hold` an outage must be covered before the link counts as covered again
/// after it was not. So a rate near the limit is reported once.
const RECOVERED: f64 = 1.2;

/// For how long an outage the memory lasts, and why.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Bytes a second that the master writes, as they are carried.
    pub bytes_per_second: f64,
    /// How long an outage may last, at most `hold`.
    pub seconds: f64,
    /// How long the link survives an outage that is covered.
    pub hold_seconds: f64,
}

impl Coverage {
    /// Whether memory ends before `hold` does.
    pub fn is_short(&self) -> bool {
        self.seconds < self.hold_seconds
    }

    /// In words, with the next step if it is short.
    pub fn words(&self) -> String {
        let next = if self.is_short() { "; raise [limits] memory" } else { "" };
        format!("{}{next}", self.fact())
    }

    /// In words.
    pub fn fact(&self) -> String {
        let Self { bytes_per_second, seconds, hold_seconds } = *self;
        let rate = words::rate(bytes_per_second);
        let less =
            if self.is_short() { format!(", less than hold ({hold_seconds:.0} s)") } else { String::new() };
        format!("{rate}, an outage of {:.0} s is covered{less}", seconds.floor())
    }
}

/// What one link may need, as the registry knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Bytes a second that its master writes.
    pub(super) rate: f64,
    /// Bytes that it holds now.
    pub(super) held: u64,
    /// Number of links of its site that would fill memory together and share it, as
    /// [`crate::memory`] does.
    pub(super) sharers: usize,
    /// How long it has been held, if it is.
    pub(super) since: Duration,
}

/// How long an outage may last before the link has no more room, if it began now, or when it did.
/// `free` is what no link holds now, `all` the rate of all links together.
pub(super) fn lasts(demand: &Demand, free: u64, all: f64) -> f64 {
    // Memory is full for a link once it holds as much as is free, or its part of that.
    let sharers = demand.sharers.max(1) as f64;
    let room = (free as f64 - sharers * demand.held as f64).max(0.0);
    demand.since.as_secs_f64() + room / (sharers * demand.rate + all).max(f64::MIN_POSITIVE)
}

/// The write rate of a link, and whether a lack of memory was reported.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// When the link was last measured, and the bytes so far.
    last: Option<(Instant, u64)>,
    /// Bytes a second.
    rate: Option<f64>,
    short: bool,
    coverage: Option<Coverage>,
}

impl Writes {
    /// Measures a link that has carried `bytes` so far; `None` while they are not the master's
    /// writes, as in a full sync, or not at its pace, as in a break.
    pub(super) fn measure(&mut self, bytes: Option<u64>, now: Instant) {
        let Some(bytes) = bytes else {
            self.last = None;
            return;
        };
        if let Some((then, before)) = self.last {
            let took = now.saturating_duration_since(then).as_secs_f64();
            if took <= 0.0 {
                return;
            }
            let rate = bytes.saturating_sub(before) as f64 / took;
            let weight = 1.0 - (-took / AVERAGED.as_secs_f64()).exp();
            let mean = self.rate.unwrap_or(rate);
            self.rate = Some(mean + (rate - mean) * weight);
        }
        self.last = Some((now, bytes));
    }

    /// Bytes a second, once they are known.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// What `status` shows.
    pub(super) fn coverage(&self) -> Option<Coverage> {
        self.coverage
    }

    /// Stores for how long an outage is covered. Returns it if memory has become too short for
    /// `hold`.
    pub(super) fn judge(&mut self, lasts: f64, hold: Duration) -> Option<Coverage> {
        let hold = hold.as_secs_f64();
        let coverage =
            Coverage { bytes_per_second: self.rate?, seconds: lasts.min(hold), hold_seconds: hold };
        self.coverage = Some(coverage);
        let was_short = self.short;
        self.short = lasts < if was_short { hold * RECOVERED } else { hold };
        (self.short && !was_short).then_some(coverage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_is_a_mean_in_which_the_past_counts_less_and_less() {
        let (mut writes, start) = (Writes::default(), Instant::now());
        writes.measure(Some(1000), start);
        assert_eq!(writes.rate(), None, "one look shows no rate");
        (1..=10).for_each(|at| writes.measure(Some(1000 + 500 * u64::from(at)), start + at * SECOND));
        assert!((writes.rate().unwrap() - 500.0).abs() < 1e-6);
        // A snapshot or a break in between is not part of it.
        writes.measure(None, start + 11 * SECOND);
        writes.measure(Some(1 << 40), start + 20 * SECOND);
        assert!((writes.rate().unwrap() - 500.0).abs() < 1e-6);
        (21..=200).for_each(|at| writes.measure(Some(1 << 40), start + at * SECOND));
        let rate = writes.rate().unwrap();
        assert!((20.0..30.0).contains(&rate), "a twentieth after three minutes: {rate}");
    }

    #[test]
    fn links_that_would_be_held_together_share_the_memory() {
        let demand = Demand { rate: 20e6, held: 0, sharers: 1, since: Duration::ZERO };
        // One link gets half of what is free, two of one site get a third each.
        assert_eq!(lasts(&demand, 400_000_000, 20e6), 10.0);
        assert_eq!(lasts(&demand, 600_000_000, 40e6), 10.0);
        // If another site holds something too, the links of a site share one part.
        assert_eq!(lasts(&Demand { sharers: 2, ..demand }, 800_000_000, 40e6), 10.0);
        // In an outage, what was taken in so far counts.
        let held = Demand { held: 100_000_000, since: 5 * SECOND, ..demand };
        assert_eq!(lasts(&held, 300_000_000, 20e6), 10.0);
        assert_eq!(lasts(&held, 50_000_000, 20e6), 5.0, "memory is full");
    }

    #[test]
    fn a_lack_of_memory_is_reported_once_until_there_is_clearly_enough() {
        let (mut writes, start) = (Writes::default(), Instant::now());
        assert_eq!(writes.judge(1.0, 10 * SECOND), None, "the rate is not known yet");
        writes.measure(Some(0), start);
        writes.measure(Some(20_000_000), start + SECOND);
        let told: Vec<bool> = [9.0, 8.0, 11.0, 9.0, 12.1, 9.0, 30.0]
            .map(|lasts| writes.judge(lasts, 10 * SECOND).is_some())
            .to_vec();
        assert_eq!(told, [true, false, false, false, false, true, false]);
        assert_eq!(writes.coverage().unwrap().words(), "20 MB/s, an outage of 10 s is covered");
        writes.judge(9.7, 10 * SECOND);
        let words = writes.coverage().unwrap().words();
        assert!(words.starts_with("20 MB/s, an outage of 9 s is covered, less than hold (10 s)"), "{words}");
    }
}
