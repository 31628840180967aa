//! Lets small pieces of a busy stream travel together.
//!
//! A master writes each command to its replicas as it comes. Twenty thousand of them a second would
//! be as many frames, writes and wake-ups at both sites. So while pieces come as fast as [`BUSY`],
//! a piece waits at most [`WAIT`] for others, unless the tap says that someone waits for it, such as
//! a client in WAIT.

use std::time::{Duration, Instant};

/// Longest time that a piece waits for others. The runtime's timers add up to a millisecond.
const WAIT: Duration = Duration::from_micros(500);

/// Unsent bytes that are worth a frame of their own.
const ENOUGH: u64 = 32 * 1024;

/// Least number of pieces within [`MEASURE`] for which a stream counts as busy.
const BUSY: f64 = 3.0;

/// Least time over which pieces are counted.
const MEASURE: Duration = Duration::from_millis(1);

/// What waits to be sent on a link.
#[derive(Debug)]
pub(super) struct Coalescing {
    /// Until when what was read may wait.
    until: Option<Instant>,
    /// Start of the count, and the pieces counted since then.
    since: Instant,
    pieces: f64,
    busy: bool,
}

impl Coalescing {
    pub(super) fn new(now: Instant) -> Self {
        Self { until: None, since: now, pieces: 0.0, busy: false }
    }

    /// Whether a piece of this many bytes may wait, if the tap has nothing against it.
    pub(super) fn may_wait(&self, count: usize) -> bool {
        self.busy && (count as u64) < ENOUGH
    }

    /// A piece was read. `unsent` counts its bytes and all others that were not sent yet.
    pub(super) fn read(&mut self, may_wait: bool, unsent: u64, now: Instant) {
        self.pieces += 1.0;
        let lasted = now - self.since;
        if lasted >= MEASURE {
            self.busy = self.pieces * MEASURE.as_secs_f64() >= BUSY * lasted.as_secs_f64();
            (self.since, self.pieces) = (now, 0.0);
        }
        if !may_wait || !self.busy || unsent >= ENOUGH {
            self.until = Some(now);
        } else if self.until.is_none() {
            self.until = Some(now + WAIT);
        }
    }

    /// Whether nothing is to be sent yet.
    pub(super) fn waits(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
        self.until.is_some()
    }

    /// When something is to be sent.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A stream of one piece each 100 µs, for three milliseconds.
    fn busy(start: Instant) -> (Coalescing, Instant) {
        let (mut stream, mut now) = (Coalescing::new(start), start);
        for _ in 0..30 {
            now += MILLISECOND / 10;
            stream.read(false, 100, now);
            assert!(!stream.waits(now));
        }
        (stream, now)
    }

    #[test]
    fn a_piece_of_a_quiet_stream_never_waits() {
        let start = Instant::now();
        let mut stream = Coalescing::new(start);
        for at in 1..20 {
            let now = start + at * MILLISECOND;
            stream.read(true, 100, now);
            assert!(!stream.waits(now));
        }
    }

    #[test]
    fn a_piece_of_a_busy_stream_waits_for_others_but_not_long() {
        let (mut stream, now) = busy(Instant::now());
        stream.read(true, 100, now);
        assert!(stream.waits(now) && stream.until() == Some(now + WAIT));
        // Another piece does not prolong the wait.
        let later = now + WAIT / 2;
        stream.read(true, 200, later);
        assert!(stream.waits(later) && stream.until() == Some(now + WAIT));
        assert!(!stream.waits(now + WAIT));
    }

    #[test]
    fn a_piece_that_someone_waits_for_takes_all_along_at_once() {
        let (mut stream, now) = busy(Instant::now());
        stream.read(true, 100, now);
        assert!(stream.waits(now));
        stream.read(false, 200, now);
        assert!(!stream.waits(now));
    }

    #[test]
    fn enough_bytes_do_not_wait() {
        let (mut stream, now) = busy(Instant::now());
        stream.read(true, ENOUGH, now);
        assert!(!stream.waits(now));
    }
}
