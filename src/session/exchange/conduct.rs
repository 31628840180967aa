//! What each far site has cost so far, and so whether it is asked for a list, or given one.
//!
//! A list is verified only after it has come as a whole, so a site that sends bad ones costs CPU. It
//! is asked again only after a pause, which doubles with each bad list. The record of a site outlives
//! its links.

use std::time::{Duration, Instant};

/// First and longest pause after a list that was refused, or did not come.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Most bytes of lists that a site is sent at once.
const SENT_AT_ONCE: f64 = (16 << 20) as f64;

/// Bytes a second that it is sent in the long run.
const SENT_PER_SECOND: f64 = (128 << 10) as f64;

/// Most lists that a site may hand over at once, and the time for each further one.
const LEARNT: (f64, f64) = (16.0, 5.0);

/// The record of one site.
#[derive(Debug)]
pub(super) struct Conduct {
    failures: u32,
    until: Option<Instant>,
    /// Bytes that it may be sent, and lists that it may hand over, at the time `at`.
    sendable: f64,
    learnable: f64,
    at: Instant,
}

impl Conduct {
    pub(super) fn new(now: Instant) -> Self {
        Self { failures: 0, until: None, sendable: SENT_AT_ONCE, learnable: LEARNT.0, at: now }
    }

    /// Whether it may be asked for a list.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.until.is_none_or(|until| now >= until) && self.learnable >= 1.0
    }

    /// It was asked for a list.
    pub(super) fn asked(&mut self) {
        self.learnable -= 1.0;
    }

    /// Whether it may be sent a list of this size; counts it if so.
    pub(super) fn may_send(&mut self, bytes: usize, now: Instant) -> bool {
        self.refill(now);
        let bytes = bytes as f64;
        let may = self.sendable >= bytes;
        if may {
            self.sendable -= bytes;
        }
        may
    }

    /// The list was refused, or did not come. Returns the pause.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let pause = PAUSE.0.saturating_mul(1 << self.failures.min(16)).min(PAUSE.1);
        self.failures += 1;
        self.until = Some(now + pause);
        pause
    }

    /// The list was good.
    pub(super) fn delivered(&mut self) {
        self.failures = 0;
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.sendable = (self.sendable + seconds * SENT_PER_SECOND).min(SENT_AT_ONCE);
        self.learnable = (self.learnable + seconds / LEARNT.1).min(LEARNT.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_with_bad_lists_is_asked_ever_more_rarely() {
        let mut now = Instant::now();
        let mut conduct = Conduct::new(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(conduct.may_ask(now));
            conduct.asked();
            let pause = conduct.failed(now);
            assert!(!conduct.may_ask(now + pause - Duration::from_millis(1)));
            now += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        conduct.delivered();
        assert_eq!(conduct.failed(now), PAUSE.0);
    }

    #[test]
    fn a_site_hands_over_and_gets_no_more_than_its_share() {
        let now = Instant::now();
        let mut conduct = Conduct::new(now);
        for _ in 0..16 {
            assert!(conduct.may_ask(now) && conduct.may_send(1 << 20, now));
            conduct.asked();
        }
        assert!(!conduct.may_ask(now) && !conduct.may_send(1 << 20, now));
        let later = now + Duration::from_secs(8);
        assert!(conduct.may_ask(later) && conduct.may_send(1 << 20, later));
        assert!(!conduct.may_send(1 << 20, later));
    }
}
