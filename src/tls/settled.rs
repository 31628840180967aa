//! A time that the wall clock has passed for certain: one step of a clock must not make every
//! certificate expire.
//!
//! The wall clock is looked at now and then. The settled time is the earliest that it has shown within
//! [`WITHIN`] of the monotonic clock. No I/O and no clock: both times are passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the wall clock must have shown a time.
pub const WITHIN: Duration = Duration::from_secs(60);

/// What the wall clock has shown lately.
#[derive(Debug, Default)]
pub struct Settled {
    /// Each with the wall clock's seconds since 1970, the oldest first: one of them is [`WITHIN`] ago or
    /// more, if this was looked at for so long.
    seen: VecDeque<(Instant, i64)>,
}

impl Settled {
    /// The wall clock shows `wall` at the time `at`.
    pub fn look(&mut self, at: Instant, wall: i64) {
        self.seen.push_back((at, wall));
        while self.seen.get(1).is_some_and(|(seen, _)| *seen + WITHIN <= at) {
            self.seen.pop_front();
        }
    }

    /// The settled time; `None` if the clock was not looked at for long enough.
    pub fn time(&self) -> Option<i64> {
        let ((first, _), (last, _)) = (self.seen.front()?, self.seen.back()?);
        let earliest = self.seen.iter().map(|(_, wall)| *wall).min();
        earliest.filter(|_| *first + WITHIN <= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_800_000_000;

    /// Looks every five seconds at a clock that shows `wall` after so many seconds.
    fn looked(seconds: u64, wall: impl Fn(u64) -> i64) -> Settled {
        let (mut settled, start) = (Settled::default(), Instant::now());
        for second in (0..=seconds).step_by(5) {
            settled.look(start + Duration::from_secs(second), wall(second));
        }
        settled
    }

    fn steady(second: u64) -> i64 {
        START + i64::try_from(second).unwrap()
    }

    #[test]
    fn the_settled_time_is_a_minute_behind_a_steady_clock() {
        assert_eq!(looked(55, steady).time(), None);
        assert_eq!(looked(60, steady).time(), Some(START));
        assert_eq!(looked(3600, steady).time(), Some(START + 3540));
        assert!(looked(36_000, steady).seen.len() < 20, "what is older is forgotten");
    }

    #[test]
    fn a_clock_that_jumps_forth_and_back_within_a_minute_has_no_effect() {
        let jumps = |second| steady(second) + if (600..655).contains(&second) { 1 << 30 } else { 0 };
        for end in (600..1200).step_by(5) {
            let time = looked(end, jumps).time().unwrap();
            assert!(time <= steady(end), "{end}: {}", time - START);
        }
        // Nor has one that was set back for a moment.
        let back = |second| steady(second) - if second == 600 { 1 << 30 } else { 0 };
        assert!(looked(650, back).time().unwrap() < START && looked(665, back).time() == Some(START + 605));
    }

    #[test]
    fn a_clock_that_is_set_for_good_counts_after_a_minute() {
        let set = |second| steady(second) + if second >= 600 { 1 << 30 } else { 0 };
        assert!(looked(655, set).time().unwrap() < START + 600);
        assert_eq!(looked(660, set).time(), Some(START + 600 + (1 << 30)));
    }

    #[test]
    fn a_process_that_was_stopped_for_long_has_seen_two_times_only() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        settled.look(start, START);
        settled.look(start + WITHIN * 60, START + (1 << 30));
        assert_eq!(settled.time(), Some(START));
    }
}
