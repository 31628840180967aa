//! Leads a connection out of bbr's startup where the kernel does not find the way out.
//!
//! bbr starts by sending 2.9 times as fast as the path was seen to carry, and ends this once the
//! rate has not grown for three round trips. Round trips in which the application had nothing to
//! send do not count, and Linux takes a full send buffer of which everything is in flight for just
//! that. So on a path that holds about as much as the send buffer, bbr may stay in its startup for
//! minutes, and overfill the queue on the path all that time: a sixth of the packets is lost.
//!
//! So while a connection loses much in its startup, its rate is limited to less than the path
//! carries. The queue drains, some of the send buffer waits, the round trips count, and bbr leaves
//! its startup for good. A path that holds more than the send buffer keeps it there; then the limit
//! does no harm, since the send buffer is a lower one, and what was sent in bursts is sent evenly.
//!
//! What is repeated after a retransmission has timed out is no sign of a flooded queue: the path was
//! gone for a while. It is not counted.

use std::time::{Duration, Instant};

use crate::socket_option::Bbr;

/// Least time between two looks at a connection.
const LOOK: Duration = Duration::from_millis(50);

/// Share of the bytes that must be repeated ones, and least number of them, between two looks.
/// Losses that have nothing to do with a queue are seldom as many.
const LOST: (u64, u64) = (20, 64 * 1024);

/// Least number of bytes that a round trip of the path holds where bbr may not find the way out by
/// itself. Losses of a shorter path are no reason to limit it, nor is a bandwidth that bbr saw while
/// there was little to send.
const LONG: u64 = 512 * 1024;

/// The limit, in parts of the bandwidth that bbr has seen.
const LIMIT: (u64, u64) = (7, 8);

/// Round trips for which the first limit holds at most, and for which any does. By reckoning the
/// queue drains in some six, and bbr leaves its startup after three more. Each limit that was of no use is followed
/// by one that holds for twice as long.
const HOLDS: (u32, u32) = (16, 64);

/// The longest round trip that counts. bbr tells a huge one before it has seen any.
const LONGEST: Duration = Duration::from_secs(2);

/// What bbr calls a gain of one.
const UNIT: u32 = 256;

/// What the connection must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To send no more bytes a second than this.
    Limit(u64),
    /// To send as fast as it likes.
    Lift,
}

/// The startup of one connection.
#[derive(Debug)]
pub struct Startup {
    look: Instant,
    /// Bytes sent and repeated until the last look, unless it came in a timeout.
    counted: Option<(u64, u64)>,
    limited_until: Option<Instant>,
    /// Round trips for which the next limit holds.
    holds: u32,
    over: bool,
}

impl Startup {
    /// A connection that was just opened.
    pub fn new(now: Instant) -> Self {
        Self { look: now, counted: None, limited_until: None, holds: HOLDS.0, over: false }
    }

    /// Whether the connection must be looked at now.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.over && now >= self.look
    }

    /// Takes what the kernel tells of the connection.
    pub fn observe(&mut self, told: Option<Bbr>, now: Instant) -> Option<Order> {
        let Some(told) = told else {
            self.over = true;
            return self.limited_until.take().map(|_| Order::Lift);
        };
        let trip = told.round_trip.min(LONGEST);
        self.look = now + LOOK.max(trip);
        let (sent, resent) = self.counted.map_or((0, 0), |(sent, resent)| {
            (told.sent.saturating_sub(sent), told.resent.saturating_sub(resent))
        });
        self.counted = (!told.timed_out).then_some((told.sent, told.resent));
        // It drains, or has drained, the queue of its startup, and never comes back to it. A window
        // of one unit says nothing: bbr probes for the least round trip in its startup as well.
        if told.pacing_gain < UNIT || (UNIT + 1..=2 * UNIT).contains(&told.window_gain) {
            self.over = true;
            return self.limited_until.take().map(|_| Order::Lift);
        }
        if let Some(until) = self.limited_until {
            if now < until {
                return None;
            }
            self.limited_until = None;
            return Some(Order::Lift);
        }
        let loses = !told.timed_out && resent >= LOST.1 && resent.saturating_mul(LOST.0) >= sent;
        let on_the_path = u128::from(told.bandwidth) * trip.as_micros() / 1_000_000;
        if !loses || told.pacing_gain <= 2 * UNIT || on_the_path < u128::from(LONG) {
            return None;
        }
        self.limited_until = Some(now + trip * self.holds);
        self.holds = (self.holds * 2).min(HOLDS.1);
        Some(Order::Limit(told.bandwidth / LIMIT.1 * LIMIT.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(80);

    /// A connection in its startup at 24 MB/s.
    const STARTING: Bbr = Bbr {
        bandwidth: 24_000_000,
        round_trip: TRIP,
        pacing_gain: 739,
        window_gain: 739,
        sent: 0,
        resent: 0,
        timed_out: false,
    };

    /// A connection in its startup that loses much, limited since `now`.
    fn limited(now: Instant) -> Startup {
        let mut startup = Startup::new(now);
        assert_eq!(startup.observe(Some(STARTING), now), None);
        let losing = Bbr { sent: 4_000_000, resent: 600_000, ..STARTING };
        assert_eq!(startup.observe(Some(losing), now), Some(Order::Limit(21_000_000)));
        startup
    }

    #[test]
    fn a_startup_that_loses_much_is_limited_until_it_is_over() {
        let now = Instant::now();
        for over in
            [Bbr { pacing_gain: 88, ..STARTING }, Bbr { pacing_gain: 256, window_gain: 512, ..STARTING }]
        {
            let mut startup = limited(now);
            assert!(!startup.is_due(now + LOOK) && startup.is_due(now + TRIP));
            // The kernel probes for the least round trip, still in its startup.
            let probing = Bbr { pacing_gain: 256, window_gain: 256, ..STARTING };
            assert_eq!(startup.observe(Some(probing), now + TRIP), None);
            assert_eq!(startup.observe(Some(over), now + 2 * TRIP), Some(Order::Lift));
            assert!(!startup.is_due(now + Duration::from_secs(3600)));
        }
    }

    #[test]
    fn a_startup_that_loses_little_is_left_alone() {
        let now = Instant::now();
        let mut startup = Startup::new(now);
        let (mut sent, mut resent) = (0, 0);
        for look in 0..100 {
            let told = Bbr { sent, resent, ..STARTING };
            assert_eq!(startup.observe(Some(told), now + 2 * TRIP * look), None);
            (sent, resent) = (sent + 4_000_000, resent + 40_000);
        }
        // Few bytes, half of them repeated.
        let told = Bbr { sent: sent + 20_000, resent: resent + 10_000, ..STARTING };
        assert_eq!(startup.observe(Some(told), now + 200 * TRIP), None);
    }

    #[test]
    fn what_is_repeated_after_a_timeout_is_not_counted() {
        let now = Instant::now();
        let mut startup = Startup::new(now);
        assert_eq!(startup.observe(Some(STARTING), now), None);
        // The path is gone, and back while all that was in flight is repeated.
        let gone = Bbr { sent: 4_000_000, resent: 1_000_000, timed_out: true, ..STARTING };
        assert_eq!(startup.observe(Some(gone), now + TRIP), None);
        let back = Bbr { sent: 6_000_000, resent: 3_000_000, ..STARTING };
        assert_eq!(startup.observe(Some(back), now + 2 * TRIP), None);
        // What it loses from then on counts.
        let losing = Bbr { sent: 10_000_000, resent: 3_600_000, ..STARTING };
        assert_eq!(startup.observe(Some(losing), now + 3 * TRIP), Some(Order::Limit(21_000_000)));
    }

    #[test]
    fn a_path_that_holds_little_is_never_limited() {
        let now = Instant::now();
        // Loopback, and a path over which little was sent so far.
        for path in [
            Bbr { bandwidth: 1_000_000_000, round_trip: Duration::from_micros(100), ..STARTING },
            Bbr { bandwidth: 1_000_000, ..STARTING },
            Bbr { bandwidth: 0, ..STARTING },
        ] {
            let mut startup = Startup::new(now);
            startup.observe(Some(path), now);
            let losing = Bbr { sent: 4_000_000, resent: 2_000_000, ..path };
            assert_eq!(startup.observe(Some(losing), now + TRIP), None);
        }
    }

    #[test]
    fn a_startup_that_does_not_end_is_limited_again_and_for_longer() {
        let began = Instant::now();
        let mut now = began;
        let mut startup = Startup::new(now);
        let (mut sent, mut since, mut limits) = (0, now, Vec::new());
        while limits.len() < 4 {
            let told = Bbr { sent, resent: sent / 5, ..STARTING };
            match startup.observe(Some(told), now) {
                Some(Order::Limit(_)) => since = now,
                Some(Order::Lift) => limits.push((now - since).div_duration_f64(TRIP).round() as u32),
                None => {}
            }
            sent += 4_000_000;
            now = startup.look;
        }
        assert_eq!(limits, [16, 32, 64, 64]);
        // Between two limits the connection is free for one look.
        assert_eq!(now - began, TRIP * (1 + 16 + 1 + 32 + 1 + 64 + 1 + 64 + 1));
    }

    #[test]
    fn a_limit_is_lifted_when_the_kernel_tells_nothing_more() {
        let now = Instant::now();
        assert_eq!(limited(now).observe(None, now), Some(Order::Lift));
        let mut other = Startup::new(now);
        assert_eq!(other.observe(None, now), None);
        assert!(!other.is_due(now + Duration::from_secs(3600)));
    }
}
