//! Acknowledgements: when this side sends them, and how long the far side takes to send its own.

use std::time::{Duration, Instant};

/// Written bytes after which an acknowledgement goes out at once.
const ACK_BYTES: u64 = 1024 * 1024;

/// Least time between two acknowledgements of few bytes. The first after a longer pause goes out at
/// once.
const ACK_PAUSE: Duration = Duration::from_millis(20);

/// Least time for which the oldest bytes wait before they are copied to another lane, however short
/// the round trip is: Redis may be slow.
const STALL_MIN: Duration = Duration::from_millis(100);

/// Why an acknowledgement may go out before it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurry {
    /// It may not.
    None,
    /// Data goes out anyway.
    Riding,
    /// The link is ending.
    Last,
}

/// The acknowledgements that this side sends.
#[derive(Debug)]
pub(super) struct Acks {
    /// The offset that was acknowledged last, and when.
    sent: u64,
    sent_at: Instant,
    due: Option<Instant>,
    /// Whether the last acknowledgement must be sent again: it may have been lost with its lane.
    again: bool,
    /// Whether anything was received that was not reported.
    news: bool,
}

impl Acks {
    pub(super) fn new(now: Instant) -> Self {
        Self { sent: 0, sent_at: now, due: None, again: false, news: false }
    }

    /// The offset that was acknowledged last.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// When the next one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Everything below `written` was written to the local Redis. `by` may put the time of the
    /// acknowledgement off a little.
    pub(super) fn on_written(&mut self, written: u64, now: Instant, by: impl Fn(Instant) -> Instant) {
        if self.due.is_none() && written > self.sent {
            self.due = Some(by(self.sent_at + ACK_PAUSE).max(now));
        }
    }

    /// Whether something was received that was not reported.
    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    /// Something was received, which is to be reported, whether or not it is written.
    pub(super) fn on_received(&mut self, now: Instant, by: impl Fn(Instant) -> Instant) {
        self.news = true;
        if self.due.is_none() {
            self.due = Some(by(self.sent_at + ACK_PAUSE).max(now));
        }
    }

    /// The next acknowledgement is sent without delay.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// A lane was lost: the last acknowledgement is sent again.
    pub(super) fn requeue(&mut self, written: u64) {
        self.again = written > 0;
    }

    /// Sends no more acknowledgements.
    pub(super) fn clear(&mut self) {
        (self.due, self.again, self.news) = (None, false, false);
    }

    /// The offset to acknowledge now, if any. The result counts as sent.
    pub(super) fn take(&mut self, written: u64, hurry: Hurry, now: Instant) -> Option<u64> {
        let news = written - self.sent;
        let due = match hurry {
            Hurry::Last => true,
            Hurry::Riding => now >= self.sent_at + ACK_PAUSE,
            Hurry::None => false,
        };
        let due = due || news >= ACK_BYTES || self.due.is_some_and(|due| due <= now);
        if !(due && (news > 0 || self.news) || self.again) {
            return None;
        }
        *self = Self { sent: written, sent_at: now, due: None, again: false, news: false };
        Some(written)
    }
}

/// Measures how long a chunk takes until its acknowledgement, and since when none has come.
#[derive(Debug)]
pub(super) struct RoundTrip {
    best: Option<Duration>,
    /// The chunk that is being timed: its end offset, and when it was sent.
    timed: Option<(u64, Instant)>,
    /// When the last acknowledgement of new bytes came.
    progress: Instant,
    /// How long data takes until it is reported as received, smoothed.
    reported: Option<Duration>,
}

impl RoundTrip {
    pub(super) fn new(now: Instant) -> Self {
        Self { best: None, timed: None, progress: now, reported: None }
    }

    /// A chunk that ends at `end` was sent for the first time.
    pub(super) fn on_sent(&mut self, end: u64, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    /// The far side has acknowledged new bytes, up to `offset`.
    pub(super) fn on_acknowledged(&mut self, offset: u64, now: Instant) {
        self.progress = now;
        if let Some((end, then)) = self.timed
            && offset >= end
        {
            self.timed = None;
            let took = now - then;
            self.best = Some(self.best.map_or(took, |best| best.min(took)));
        }
    }

    /// Data took this time until the far side reported that it was received.
    pub(super) fn on_reported(&mut self, took: Duration) {
        self.reported = Some(self.reported.map_or(took, |smoothed| (smoothed + took) / 2));
    }

    /// How long data takes lately until the far side reports it; zero if that is not known.
    pub(super) fn reported(&self) -> Duration {
        self.reported.unwrap_or_default()
    }

    /// When the last acknowledgement of new bytes came.
    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    /// A lane was lost: the time without an acknowledgement starts again.
    pub(super) fn restart(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Forgets the measured time: the path may be another one now.
    pub(super) fn forget(&mut self) {
        (self.best, self.timed) = (None, None);
    }

    /// Whether there was no acknowledgement for longer than two round trips.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.best.is_some_and(|best| now > self.progress + (best * 2).max(STALL_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is put off.
    fn exactly(time: Instant) -> Instant {
        time
    }

    #[test]
    fn the_first_bytes_after_a_pause_are_acknowledged_at_once_and_more_after_another_pause() {
        let now = Instant::now();
        let (mut acks, later) = (Acks::new(now), now + 2 * ACK_PAUSE);
        acks.on_written(10, later, exactly);
        assert_eq!(acks.take(10, Hurry::None, later), Some(10));
        acks.on_written(20, later, exactly);
        assert_eq!((acks.take(20, Hurry::None, later), acks.due()), (None, Some(later + ACK_PAUSE)));
        assert_eq!(acks.take(20, Hurry::None, later + ACK_PAUSE), Some(20));
    }

    #[test]
    fn many_bytes_are_acknowledged_at_once() {
        let now = Instant::now();
        let mut acks = Acks::new(now);
        acks.on_written(ACK_BYTES, now, exactly);
        assert_eq!(acks.take(ACK_BYTES, Hurry::None, now), Some(ACK_BYTES));
        assert_eq!((acks.take(ACK_BYTES, Hurry::Last, now), acks.due()), (None, None));
    }

    #[test]
    fn acknowledgements_ride_with_data_but_not_with_every_piece() {
        let now = Instant::now();
        let mut acks = Acks::new(now);
        let put_off = |time| time + 10 * ACK_PAUSE;
        acks.on_written(10, now, put_off);
        assert_eq!(acks.take(10, Hurry::Riding, now), None);
        assert_eq!(acks.take(10, Hurry::None, now + ACK_PAUSE), None);
        assert_eq!(acks.take(10, Hurry::Riding, now + ACK_PAUSE), Some(10));
        acks.on_written(20, now + ACK_PAUSE, put_off);
        assert_eq!(acks.take(20, Hurry::Last, now + ACK_PAUSE), Some(20), "the last one never waits");
    }

    #[test]
    fn an_acknowledgement_that_may_be_lost_is_sent_again_without_new_data() {
        let now = Instant::now();
        let mut acks = Acks::new(now);
        acks.requeue(0);
        assert_eq!(acks.take(0, Hurry::Last, now), None);
        acks.requeue(5);
        assert_eq!(acks.take(5, Hurry::None, now), Some(5));
        assert_eq!(acks.take(5, Hurry::None, now), None);
    }

    #[test]
    fn what_was_received_is_reported_even_if_nothing_was_written() {
        let now = Instant::now();
        let mut acks = Acks::new(now);
        acks.on_received(now, exactly);
        assert_eq!((acks.take(0, Hurry::None, now), acks.due()), (None, Some(now + ACK_PAUSE)));
        assert_eq!(acks.take(0, Hurry::None, now + ACK_PAUSE), Some(0));
        assert_eq!((acks.take(0, Hurry::Last, now + ACK_PAUSE), acks.due()), (None, None));
    }

    #[test]
    fn a_stall_is_two_round_trips_and_never_less_than_its_least() {
        let now = Instant::now();
        let mut trip = RoundTrip::new(now);
        assert!(!trip.is_stalled(now + STALL_MIN * 100), "no round trip is known");
        trip.on_sent(10, now);
        let then = now + Duration::from_millis(10);
        trip.on_acknowledged(10, then);
        assert!(!trip.is_stalled(then + STALL_MIN));
        assert!(trip.is_stalled(then + STALL_MIN * 2));
    }
}
