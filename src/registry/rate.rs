//! How many bytes a second a link carries, over about the last ten seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The age of the look with which `status` compares what has passed so far.
const OVER: Duration = Duration::from_secs(10);

/// Least time over which a rate is told: less says nothing.
const LEAST: Duration = Duration::from_millis(100);

/// Bytes that have passed so far: towards the replica, towards the master.
type Passed = (u64, u64);

/// What had passed at each look of the last [`OVER`], and at one before.
#[derive(Debug)]
pub(super) struct Rates {
    looks: VecDeque<(Instant, Passed)>,
}

impl Rates {
    /// Of a link that is new now.
    pub(super) fn new(now: Instant) -> Self {
        Self { looks: VecDeque::from([(now, (0, 0))]) }
    }

    /// Remembers what has passed so far. To be called every few seconds.
    pub(super) fn look(&mut self, passed: Passed, now: Instant) {
        self.looks.push_back((now, passed));
        // The oldest look is the last one that is at least as old as the rate reaches back.
        while self.looks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= OVER) {
            self.looks.pop_front();
        }
    }

    /// Bytes a second since the oldest look, each way; `None` for a link that was opened just now.
    pub(super) fn since(&self, passed: Passed, now: Instant) -> Option<(u64, u64)> {
        let (then, before) = self.looks.front()?;
        let took = now.saturating_duration_since(*then);
        let rate = |passed: u64, before: u64| {
            (passed.saturating_sub(before) as f64 / took.as_secs_f64()).round() as u64
        };
        (took >= LEAST).then(|| (rate(passed.0, before.0), rate(passed.1, before.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds_and_known_soon_after_the_start() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        assert_eq!(rates.since((5, 5), start), None);
        assert_eq!(rates.since((3000, 60), start + 3 * SECOND), Some((1000, 20)));
        // A thousand a second for a minute, then nothing.
        (1..=30).for_each(|look| rates.look((look * 2000, 0), start + 2 * look as u32 * SECOND));
        assert_eq!(rates.since((60_000, 0), start + 60 * SECOND), Some((1000, 0)));
        (31..=35).for_each(|look| rates.look((60_000, 0), start + 2 * look as u32 * SECOND));
        assert_eq!(rates.since((60_000, 0), start + 70 * SECOND), Some((0, 0)));
        assert!(rates.looks.len() <= 7, "{}", rates.looks.len());
    }
}
