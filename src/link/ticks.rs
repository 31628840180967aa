//! Times that all links of a process share, so that one wake-up serves many links.

use std::time::{Duration, Instant};

/// Number of ticks within the longest pause between two frames.
const PER_PAUSE: u32 = 8;

/// The ticks of one link. Links with the same terms and the same start have the same ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    start: Instant,
    step: Duration,
}

impl Ticks {
    /// Ticks for a link that sends a frame at least every `speak_every`.
    pub(super) fn new(start: Instant, speak_every: Duration) -> Self {
        Self { start, step: (speak_every / PER_PAUSE).max(Duration::from_millis(1)) }
    }

    /// The last tick that is not after `time`, which is not before the start.
    pub(super) fn until(&self, time: Instant) -> Instant {
        let past = (time - self.start).as_nanos() % self.step.as_nanos();
        time - Duration::from_nanos(u64::try_from(past).unwrap_or(0))
    }

    /// The first tick after `time`.
    pub(super) fn after(&self, time: Instant) -> Instant {
        self.until(time) + self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_with_the_same_start_tick_together() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let ticks = Ticks::new(start, Duration::from_secs(1));
        assert_eq!((ticks.until(at(1000)), ticks.after(at(1000))), (at(1000), at(1125)));
        assert_eq!((ticks.until(at(1124)), ticks.after(at(1124))), (at(1000), at(1125)));
    }
}
