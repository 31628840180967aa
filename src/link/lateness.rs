//! Lateness: which lanes deliver nothing of what was sent on them, judged by the far side's
//! reports.
//!
//! A lane is late if the far side has received nothing over it for two and a half of its round
//! trips, although something was sent on it. Then it gets no new data, and what only late lanes
//! carry goes over another lane as well. It is late until the far side reports any byte that came
//! over it. If every lane is late, none is: it is the far side or the whole path that is slow. A
//! lane that is late by mistake again and again gets more time. No I/O and no clock.

use std::time::{Duration, Instant};

/// Least time after which a lane is late, however short its round trip is.
const LEAST: Duration = Duration::from_millis(200);

/// Most mistakes that count, and for how long. Each but the first doubles the time: one packet that
/// is lost and sent again by TCP is such a mistake.
const MISTAKES: (u32, Duration) = (4, Duration::from_secs(30));

/// Most bytes of one lane that are sent again each time it is judged, which is at most once in two
/// and a half round trips.
pub(super) const COPIES: u64 = 4 * 1024 * 1024;

/// As [`COPIES`], if nothing has come over another lane lately: the whole path may be gone. Then the
/// lane is judged four times as often.
pub(super) const FEW_COPIES: u64 = 64 * 1024;

/// What is known of the lane in one slot.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Number of bytes that the far side has reported for it.
    reported: u64,
    /// When the far side last reported more.
    since: Instant,
    /// It is not judged again before this time.
    not_before: Instant,
    /// How long data takes until it is reported, smoothed.
    trip: Option<Duration>,
    late: bool,
    /// How often it was late by mistake, and when it was last.
    mistakes: u32,
    mistaken: Instant,
}

/// The lanes of one link, by slot.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    lanes: Vec<Option<Progress>>,
}

impl Lateness {
    /// A lane was added.
    pub(super) fn added(&mut self, slot: u8, now: Instant) {
        let index = usize::from(slot);
        if self.lanes.len() <= index {
            self.lanes.resize(index + 1, None);
        }
        self.lanes[index] = Some(Progress {
            reported: 0,
            since: now,
            not_before: now,
            trip: None,
            late: false,
            mistakes: 0,
            mistaken: now,
        });
    }

    /// A lane is gone.
    pub(super) fn removed(&mut self, slot: u8) {
        if let Some(lane) = self.lanes.get_mut(usize::from(slot)) {
            *lane = None;
        }
    }

    /// Whether a lane is late.
    pub(super) fn is_late(&self, slot: u8) -> bool {
        self.get(slot).is_some_and(|lane| lane.late)
    }

    /// The slots of all late lanes, as bits.
    pub(super) fn late(&self) -> u32 {
        let late = self.lanes.iter().enumerate().filter(|(_, lane)| lane.is_some_and(|lane| lane.late));
        late.fold(0, |bits, (slot, _)| bits | 1 << slot)
    }

    /// The far side reports how many bytes came over a lane. The last whole chunk of them was sent
    /// at `sent`. Returns the time that it took.
    pub(super) fn on_report(
        &mut self,
        slot: u8,
        count: u64,
        sent: Option<Instant>,
        now: Instant,
    ) -> Option<Duration> {
        let lane = self.lanes.get_mut(usize::from(slot))?.as_mut()?;
        if count <= lane.reported {
            return None;
        }
        (lane.reported, lane.since) = (count, now);
        if std::mem::replace(&mut lane.late, false) {
            lane.mistakes = (lane.mistakes(now) + 1).min(MISTAKES.0);
            lane.mistaken = now;
        }
        self.on_round_trip(slot, sent, now)
    }

    /// The far side reports a chunk that was sent on a lane at `sent`. Returns the time that it
    /// took.
    pub(super) fn on_round_trip(
        &mut self,
        slot: u8,
        sent: Option<Instant>,
        now: Instant,
    ) -> Option<Duration> {
        let lane = self.lanes.get_mut(usize::from(slot))?.as_mut()?;
        let took = now.saturating_duration_since(sent?);
        lane.trip = Some(lane.trip.map_or(took, |trip| (trip * 7 + took) / 8));
        Some(took)
    }

    /// When a lane must be judged that has carried something since `carried`. `None` if no round
    /// trip is known.
    pub(super) fn due(&self, slot: u8, carried: Instant) -> Option<Instant> {
        let lane = self.get(slot)?;
        let since = carried.max(lane.since);
        Some((since + self.patience(slot, since)?).max(lane.not_before))
    }

    /// Judges a lane that has carried something since `carried`. True if it is late, at most once
    /// in its time.
    pub(super) fn judge(&mut self, slot: u8, carried: Instant, now: Instant) -> bool {
        let Some(patience) = self.patience(slot, now) else { return false };
        let is_due = self.due(slot, carried).is_some_and(|due| due <= now);
        let lane = self.lanes.get_mut(usize::from(slot)).and_then(Option::as_mut);
        if let Some(lane) = lane.filter(|_| is_due) {
            (lane.late, lane.not_before) = (true, now + patience);
            return true;
        }
        false
    }

    /// Little of what a late lane carries was sent again: it is judged again soon, since another lane
    /// may have been heard by then.
    pub(super) fn hasten(&mut self, slot: u8, now: Instant) {
        let patience = self.patience(slot, now).unwrap_or_default();
        if let Some(lane) = self.lanes.get_mut(usize::from(slot)).and_then(Option::as_mut) {
            lane.not_before = now + patience / 4;
        }
    }

    /// No lane is late any more. Returns those that were.
    pub(super) fn pardon(&mut self) -> u32 {
        let late = self.late();
        self.lanes.iter_mut().flatten().for_each(|lane| lane.late = false);
        late
    }

    /// How long a lane may deliver nothing before it is late. A lane whose round trip is not known
    /// has that of the slowest other one.
    pub(super) fn patience(&self, slot: u8, now: Instant) -> Option<Duration> {
        let lane = self.get(slot)?;
        let trip = lane.trip.or_else(|| self.lanes.iter().flatten().filter_map(|lane| lane.trip).max())?;
        Some((trip * 5 / 2).max(LEAST) * 2u32.pow(lane.mistakes(now).saturating_sub(1)))
    }

    fn get(&self, slot: u8) -> Option<&Progress> {
        self.lanes.get(usize::from(slot))?.as_ref()
    }
}

impl Progress {
    fn mistakes(&self, now: Instant) -> u32 {
        if now < self.mistaken + MISTAKES.1 { self.mistakes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(100);

    /// Two lanes whose round trip is known.
    fn two(now: Instant) -> Lateness {
        let mut lateness = Lateness::default();
        for slot in [0, 1] {
            lateness.added(slot, now);
            assert_eq!(lateness.due(slot, now), None, "no round trip is known");
            assert!(!lateness.judge(slot, now, now + TRIP * 100));
        }
        assert_eq!(lateness.on_report(0, 10, Some(now), now + TRIP), Some(TRIP));
        lateness
    }

    #[test]
    fn a_lane_is_late_after_two_and_a_half_round_trips_without_progress() {
        let begin = Instant::now();
        let (mut lateness, now) = (two(begin), begin + TRIP);
        // The second has the round trip of the first.
        for slot in [0, 1] {
            assert_eq!(lateness.due(slot, now), Some(now + TRIP * 5 / 2));
        }
        assert!(!lateness.judge(1, now, now + TRIP * 5 / 2 - Duration::from_millis(1)));
        let then = now + TRIP * 5 / 2;
        assert!(lateness.judge(1, now, then) && lateness.is_late(1) && !lateness.is_late(0));
        assert_eq!((lateness.late(), lateness.judge(1, now, then)), (2, false), "once in its time");
        lateness.hasten(1, then);
        assert_eq!(lateness.due(1, now), Some(then + TRIP * 5 / 8));
        assert!(lateness.judge(1, now, then + TRIP * 5 / 8));
        assert_eq!(lateness.on_report(1, 5, None, then), None);
        assert!(!lateness.is_late(1));
    }

    #[test]
    fn mistakes_but_the_first_double_the_time_for_a_while_and_the_same_report_is_no_progress() {
        let begin = Instant::now();
        let (mut lateness, mut now) = (two(begin), begin + TRIP);
        for round in 0..6u32 {
            let patience = TRIP * 5 / 2 * 2u32.pow(round.min(MISTAKES.0).saturating_sub(1));
            assert_eq!(lateness.patience(0, now), Some(patience));
            assert!(lateness.judge(0, now, now + patience));
            now += patience;
            lateness.on_report(0, 10 + u64::from(round), None, now);
            assert!(lateness.is_late(0), "round {round}");
            lateness.on_report(0, 11 + u64::from(round), None, now);
            assert!(!lateness.is_late(0));
        }
        assert_eq!(lateness.patience(0, now + MISTAKES.1), Some(TRIP * 5 / 2));
    }

    #[test]
    fn a_short_round_trip_leaves_the_least_time_and_a_removed_lane_is_not_late() {
        let now = Instant::now();
        let mut lateness = Lateness::default();
        lateness.added(3, now);
        lateness.on_report(3, 1, Some(now), now + Duration::from_millis(1));
        assert_eq!(lateness.patience(3, now), Some(LEAST));
        assert!(lateness.judge(3, now, now + LEAST * 2));
        assert_eq!((lateness.pardon(), lateness.late()), (1 << 3, 0));
        assert!(lateness.judge(3, now, now + LEAST * 4));
        lateness.removed(3);
        assert!(!lateness.is_late(3) && lateness.patience(3, now).is_none());
    }
}
