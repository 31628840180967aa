//! Records when each byte of a stream passed, to measure how far in time an acknowledgement is
//! behind.
//!
//! It keeps a fixed number of marks, however much passes. When there are too many, the two marks
//! that are closest in time become one, so a long delay is measured a little less precisely.

use std::time::{Duration, Instant};

/// Most marks that are kept.
const MARKS: usize = 32;

/// Time within which all bytes share one mark.
const FINEST: Duration = Duration::from_millis(20);

/// The bytes up to `end`, which passed from `first` to `last`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    first: Instant,
    last: Instant,
}

/// Marks for the bytes that have passed and are not acknowledged.
#[derive(Debug, Default)]
pub struct Lag {
    marks: Vec<Mark>,
}

impl Lag {
    /// Records that the bytes up to `end` have passed by `now`.
    pub fn passed(&mut self, end: u64, now: Instant) {
        if let Some(mark) = self.marks.last_mut()
            && now.saturating_duration_since(mark.first) < FINEST
        {
            (mark.end, mark.last) = (end, now);
            return;
        }
        if self.marks.len() == MARKS {
            let apart = |at: &usize| self.marks[at + 1].last.duration_since(self.marks[*at].first);
            let closest = (0..MARKS - 1).min_by_key(apart).expect("there are many");
            let next = self.marks.remove(closest + 1);
            let mark = &mut self.marks[closest];
            (mark.end, mark.last) = (next.end, next.last);
        }
        self.marks.push(Mark { end, first: now, last: now });
    }

    /// Records that everything up to `end` was acknowledged.
    pub fn acknowledged(&mut self, end: u64) {
        let done = self.marks.iter().take_while(|mark| mark.end <= end).count();
        self.marks.drain(..done);
    }

    /// When the oldest unacknowledged byte passed; `None` if everything is acknowledged. The time
    /// may be too early, by 20 ms or a sixteenth of the delay, whichever is more.
    pub fn since(&self) -> Option<Instant> {
        self.marks.first().map(|mark| mark.first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_behind_once_all_is_acknowledged() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        assert_eq!(lag.since(), None);
        lag.passed(10, start);
        lag.passed(20, start + Duration::from_secs(1));
        assert_eq!(lag.since(), Some(start));
        lag.acknowledged(10);
        assert_eq!(lag.since(), Some(start + Duration::from_secs(1)));
        lag.acknowledged(20);
        assert_eq!(lag.since(), None);
    }

    proptest! {
        #[test]
        fn the_lag_is_never_too_short_and_only_a_little_too_long(
            steps in proptest::collection::vec((1u64..2000, 1u64..5000, 0u64..2), 1..400),
        ) {
            let (mut lag, start) = (Lag::default(), Instant::now());
            let (mut now, mut end, mut acknowledged) = (start, 0, 0);
            let mut passed: Vec<(u64, Instant)> = Vec::new();
            let mut longest = Duration::ZERO;
            for (millis, bytes, acknowledges) in steps {
                now += Duration::from_millis(millis);
                end += bytes;
                passed.push((end, now));
                lag.passed(end, now);
                longest = longest.max(now - lag.since().expect("never all of it"));
                if acknowledges > 0 {
                    acknowledged += (end - acknowledged) / 2;
                    lag.acknowledged(acknowledged);
                }
                prop_assert!(lag.marks.len() <= MARKS);
                let truth = passed.iter().find(|(end, _)| *end > acknowledged).map(|(_, at)| *at);
                let (truth, told) = (truth.expect("never all of it"), lag.since().expect("never all of it"));
                prop_assert!(told <= truth);
                prop_assert!(truth - told <= FINEST.max(longest / 16), "{:?} of {:?}", truth - told, longest);
            }
        }
    }
}
