//! Liveness: which lanes carry a link, and whether any does.
//!
//! Owns the lanes as the state machine sees them (when each last received something, which are
//! suspect, which are closing) and the break of a link without lanes. A lane has a number, which
//! only grows, and a slot, which is reused. A suspect lane is still read, and is healthy again once
//! a byte comes over it. Nothing is sent on it meanwhile, so that the far side notices too.

use std::time::{Duration, Instant};

use super::LaneLoss;
use super::end::ByCause;
use super::ticks::Ticks;
use crate::wire::terms::Agreed;

/// Most lanes at a time, including those that are closing.
const MAX_LIVE: usize = 24;

/// Longest hold of a link for an unknown replica whose last lane was closed in good order without an
/// end of the link. A kernel closes like that for a process that was killed, and a gateway that is
/// still running dials again within this time.
const CLOSED_HOLD: Duration = Duration::from_millis(2500);

/// How much longer a break may last if a far gateway is about to answer. The greatest `hold` that is
/// safe for Redis' `repl-timeout` leaves that much.
const ANSWERING: Duration = Duration::from_secs(2);

/// The state of a lane's socket that decides when the state machine must be called again.
#[derive(Clone, Copy, Debug)]
pub struct LaneIo {
    /// A frame could be sent on it now.
    pub room: bool,
    /// It was read, and nothing more was there.
    pub empty: bool,
}

/// Least silence of all lanes after which another one may be better.
const QUIET: Duration = Duration::from_secs(1);

/// A break: no lane carries the link, and it waits for a new one.
#[derive(Clone, Debug)]
pub struct Held {
    /// Start of the break.
    pub since: Instant,
    /// How long it may last.
    pub within: Duration,
    /// How the last lane was lost.
    pub cause: LaneLoss,
}

/// One lane.
#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) number: u32,
    pub(super) slot: u8,
    pub(super) last_received: Instant,
    pub(super) spoke: Instant,
    /// Whether nothing was received for too long.
    pub(super) suspect: bool,
    /// Whether it must be replaced by a new one.
    pub(super) old: bool,
    /// Highest acknowledgement received over it.
    pub(super) acknowledged: u64,
    /// Number of bytes of data that came over it.
    pub(super) came: u64,
    /// Whether a frame was received over it. Then its far end did not give it up while it was
    /// opened.
    pub(super) proven: bool,
    /// Whether this side's RETIRE is due or was sent.
    pub(super) retiring: bool,
    pub(super) retired: bool,
    /// Whether the far side's RETIRE was received.
    pub(super) far_retired: bool,
    /// Whether the link's last frame was sent on it.
    pub(super) parted: bool,
}

impl LaneState {
    /// Whether anything but a RETIRE may be sent on it.
    pub(super) fn carries(&self) -> bool {
        !self.suspect && !self.retiring
    }

    /// Whether both sides have retired it.
    pub(super) fn is_retired(&self) -> bool {
        self.retired && self.far_retired
    }
}

/// All lanes of a link that are not lost, and the break if none carries it.
#[derive(Debug)]
pub(super) struct Liveness {
    live: Vec<LaneState>,
    newest: u32,
    speak_every: Duration,
    hears_every: Duration,
    ticks: Ticks,
    dead_after: Duration,
    /// Additional time that a slow path is given.
    slack: Duration,
    hold: Duration,
    /// How long it survives if the last lane was closed in good order without an end of the link.
    hold_closed: Duration,
    held: Option<Held>,
    /// Whether this break lasts a little longer already.
    awaited: bool,
    breaks: ByCause,
}

impl Liveness {
    /// Starts with the first lane, number 0, which opened the link.
    pub(super) fn new(agreed: &Agreed, now: Instant) -> Self {
        let &Agreed { speak_every, hears_every, dead_after, hold, .. } = agreed;
        let mut liveness = Self {
            live: Vec::new(),
            newest: 0,
            speak_every,
            hears_every,
            ticks: Ticks::new(now, speak_every),
            dead_after,
            slack: Duration::ZERO,
            hold,
            hold_closed: hold,
            held: None,
            awaited: false,
            breaks: ByCause::default(),
        };
        liveness.add(0, now);
        liveness
    }

    /// A close in good order shortens the hold.
    pub(super) fn give_up_soon_once_closed(&mut self) {
        self.hold_closed = CLOSED_HOLD.min(self.hold);
    }

    /// Adds a lane; false if there are too many.
    pub(super) fn add(&mut self, number: u32, now: Instant) -> bool {
        let free = (0..MAX_LIVE as u8).find(|slot| self.live.iter().all(|lane| lane.slot != *slot));
        let Some(slot) = free else { return false };
        self.newest = self.newest.max(number);
        self.live.push(LaneState {
            number,
            slot,
            last_received: now,
            spoke: now,
            suspect: false,
            old: false,
            acknowledged: 0,
            came: 0,
            proven: false,
            retiring: false,
            retired: false,
            far_retired: false,
            parted: false,
        });
        true
    }

    /// Highest lane number so far.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// Longest pause between two frames that the far side does not take for silence.
    pub(super) fn speak_every(&self) -> Duration {
        self.speak_every
    }

    /// Longest pause between two frames of the far side.
    pub(super) fn hears_every(&self) -> Duration {
        self.hears_every
    }

    /// Sets the start of the ticks.
    pub(super) fn tick_from(&mut self, start: Instant) {
        self.ticks = Ticks::new(start, self.speak_every);
    }

    /// The ticks of this link.
    pub(super) fn ticks(&self) -> Ticks {
        self.ticks
    }

    /// When a heartbeat is due on a lane on which the last frame was sent at `spoke`.
    pub(super) fn heartbeat_after(&self, spoke: Instant) -> Instant {
        self.ticks.until(spoke + self.speak_every)
    }

    /// Whether a heartbeat is to be sent on this lane now. What has just come is answered early: so
    /// one side keeps the time for both, and the other wakes once, not twice.
    pub(super) fn beats(&self, number: u32, now: Instant) -> bool {
        let Some(lane) = self.get(number) else { return false };
        let early = if lane.last_received == now { self.speak_every / 2 } else { Duration::ZERO };
        now + early >= self.heartbeat_after(lane.spoke)
    }

    /// Duration of silence after which a lane is suspect.
    pub(super) fn dead_after(&self) -> Duration {
        self.dead_after + self.slack
    }

    /// Data takes this time lately until the far side reports it. A path that is about as slow as
    /// `dead_after` gets more time: at most three times as much, and never less.
    pub(super) fn note_round_trip(&mut self, trip: Duration) {
        let is_slow = trip > self.dead_after / 4;
        self.slack = if is_slow { (trip * 2).min(self.dead_after * 2) } else { Duration::ZERO };
    }

    /// When another lane may be better, because nothing has come over any for a while, although a
    /// heartbeat is overdue, or a report of what was sent at `asked`.
    pub(super) fn quiet_at(&self, asked: Option<Instant>) -> Option<Instant> {
        let heard = self.live.iter().filter(|lane| lane.carries()).map(|lane| lane.last_received).max()?;
        let heartbeat = heard + (self.hears_every * 3 / 2).max(QUIET);
        let report = asked.map(|asked| (heard + QUIET).max(asked + QUIET / 2));
        Some(report.map_or(heartbeat, |report| report.min(heartbeat)) + self.slack)
    }

    /// Retires lanes until `wanted` are left, those first over which nothing has come for longest,
    /// and never `winner`.
    pub(super) fn retire_surplus(&mut self, winner: u32, wanted: usize) {
        while self.carrying() > wanted {
            let others = self.live.iter_mut().filter(|lane| lane.carries() && lane.number != winner);
            let Some(loser) = others.min_by_key(|lane| lane.last_received) else { return };
            loser.retiring = true;
        }
    }

    /// The lane that carries the link and was heard last.
    pub(super) fn heard_last(&self) -> Option<u32> {
        let carrying = self.live.iter().filter(|lane| lane.carries());
        carrying.max_by_key(|lane| lane.last_received).map(|lane| lane.number)
    }

    /// How long the link survives the loss of its last lane.
    pub(super) fn hold(&self) -> Duration {
        self.hold
    }

    pub(super) fn get(&self, number: u32) -> Option<&LaneState> {
        self.live.iter().find(|lane| lane.number == number)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut LaneState> {
        self.live.iter_mut().find(|lane| lane.number == number)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<LaneState> {
        let at = self.live.iter().position(|lane| lane.number == number)?;
        Some(self.live.remove(at))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneState> {
        self.live.iter()
    }

    /// Whether a retiring lane may still deliver what is in flight on it.
    pub(super) fn is_any_retiring(&self) -> bool {
        self.live.iter().any(|lane| lane.retiring && !lane.suspect)
    }

    /// The slot of the lane, if there is one only.
    pub(super) fn only(&self) -> Option<u8> {
        match &self.live[..] {
            [lane] => Some(lane.slot),
            _ => None,
        }
    }

    /// Number of lanes that may still deliver something.
    pub(super) fn read(&self) -> usize {
        self.live.iter().filter(|lane| !lane.suspect).count()
    }

    /// Retires a lane.
    pub(super) fn retire(&mut self, number: u32) {
        if let Some(lane) = self.get_mut(number) {
            lane.retiring = true;
        }
    }

    /// Number of lanes that carry the link now.
    pub(super) fn carrying(&self) -> usize {
        self.live.iter().filter(|lane| lane.carries()).count()
    }

    /// What came over each lane, as a report states it: nothing if there is only one.
    pub(super) fn came(&self) -> Vec<(u32, u64)> {
        if self.live.len() < 2 {
            return Vec::new();
        }
        self.live.iter().map(|lane| (lane.number, lane.came)).collect()
    }

    /// Whether frames that may go over any lane go over this one: over the lane that was heard last,
    /// which surely works, and never over lanes that are late. `late` are slots, as bits.
    pub(super) fn speaks(&self, number: u32, late: u32) -> bool {
        if self.live.len() == 1 {
            return true;
        }
        let speakers = || self.live.iter().filter(|lane| lane.carries() && late & 1 << lane.slot == 0);
        let heard = speakers().map(|lane| lane.last_received).max();
        speakers().any(|lane| lane.number == number && Some(lane.last_received) == heard)
    }

    /// Whether a frame that may go over any lane could be sent now.
    pub(super) fn is_any_speaker(&self, late: u32, io: &dyn Fn(u32) -> LaneIo) -> bool {
        self.live.iter().any(|lane| lane.carries() && io(lane.number).room && self.speaks(lane.number, late))
    }

    /// When something was last received over another lane that carries the link than that in
    /// `slot`, and is none of `late`.
    pub(super) fn heard_elsewhere(&self, slot: u8, late: u32) -> Option<Instant> {
        let others =
            self.live.iter().filter(|lane| lane.carries() && (late | 1 << slot) & 1 << lane.slot == 0);
        others.map(|lane| lane.last_received).max()
    }

    /// Number of lanes that carry the link and need not be replaced.
    pub(super) fn fresh(&self) -> usize {
        self.live.iter().filter(|lane| lane.carries() && !lane.old).count()
    }

    /// Number of lanes that must be replaced.
    pub(super) fn old(&self) -> usize {
        self.live.iter().filter(|lane| lane.old).count()
    }

    /// Marks lanes for replacement. Returns whether any of them was not marked before.
    pub(super) fn replace(&mut self, which: impl Fn(u32) -> bool) -> bool {
        let marked = self.live.iter_mut().filter(|lane| !lane.old && which(lane.number));
        marked.map(|lane| lane.old = true).count() > 0
    }

    /// Retires old lanes in favour of new ones, until `wanted` lanes are left.
    pub(super) fn retire_old(&mut self, wanted: usize) {
        let spare = self.carrying().saturating_sub(wanted);
        let old = self.live.iter_mut().filter(|lane| lane.old && lane.carries());
        old.take(spare).for_each(|lane| lane.retiring = true);
    }

    /// Records that bytes came over a lane. True if it was suspect and carries the link again.
    pub(super) fn on_activity(&mut self, number: u32, now: Instant) -> bool {
        let Some(lane) = self.get_mut(number) else { return false };
        lane.last_received = now;
        let was_suspect = std::mem::replace(&mut lane.suspect, false);
        was_suspect && lane.carries()
    }

    /// Whether a lane was silent for so long that it must be suspected.
    pub(super) fn is_silent(&self, number: u32, now: Instant) -> bool {
        self.get(number).is_some_and(|lane| !lane.suspect && now >= lane.last_received + self.dead_after())
    }

    /// Marks a silent lane as suspect. Returns its slot, and how long it was silent.
    pub(super) fn suspect(&mut self, number: u32, now: Instant) -> Option<(u8, Duration)> {
        if !self.is_silent(number, now) {
            return None;
        }
        let lane = self.get_mut(number)?;
        lane.suspect = true;
        Some((lane.slot, now - lane.last_received))
    }

    /// The earliest time at which a lane that was read empty must be checked.
    pub(super) fn next_check(&self, io: &dyn Fn(u32) -> LaneIo) -> Option<Instant> {
        let checked = self.live.iter().filter(|lane| !lane.suspect && io(lane.number).empty);
        checked.map(|lane| lane.last_received + self.dead_after()).min()
    }

    /// When a frame must next be sent on a lane that has room; `None` if no lane has room.
    pub(super) fn next_heartbeat(&self, io: &dyn Fn(u32) -> LaneIo) -> Option<Instant> {
        let with_room = self.live.iter().filter(|lane| lane.carries() && io(lane.number).room);
        with_room.map(|lane| self.heartbeat_after(lane.spoke)).min()
    }

    /// The break that the link is in.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Number of breaks so far, by cause.
    pub(super) fn breaks(&self) -> &ByCause {
        &self.breaks
    }

    /// A break begins: the last lane is gone.
    pub(super) fn suspend(&mut self, cause: LaneLoss, now: Instant) {
        let within = if cause == LaneLoss::Closed { self.hold_closed } else { self.hold };
        // The local Redis has waited for longer than usual already.
        let waited = if let LaneLoss::Silent(silence) = cause { silence } else { Duration::ZERO };
        let within = within.saturating_sub(waited.saturating_sub(self.dead_after).min(self.slack));
        self.breaks[cause.place()] += 1;
        self.held = Some(Held { since: now, within, cause });
        self.awaited = false;
    }

    /// The break lasts until this time at most.
    pub(super) fn wait_until(&mut self, until: Instant) {
        if let Some(held) = &mut self.held {
            held.within = held.within.min(until.saturating_duration_since(held.since));
        }
    }

    /// The break lasts a little longer than it would; only the first call in a break counts.
    pub(super) fn wait_for_answer(&mut self) {
        if let Some(held) = self.held.as_mut().filter(|_| !self.awaited) {
            held.within += ANSWERING;
            self.awaited = true;
        }
    }

    /// Ends the break and returns it.
    pub(super) fn resume(&mut self) -> Option<Held> {
        self.held.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::terms::Terms;

    fn liveness(now: Instant) -> Liveness {
        let terms = Terms { hold: Duration::from_secs(45), ..Terms::sample() };
        Liveness::new(&terms.agree(&terms, false), now)
    }

    #[test]
    fn a_silent_lane_is_suspect_until_a_byte_comes_over_it() {
        let now = Instant::now();
        let (mut liveness, later) = (liveness(now), now + Duration::from_secs(3));
        assert_eq!(liveness.suspect(0, later - Duration::from_millis(1)), None);
        assert_eq!(liveness.suspect(0, later), Some((0, Duration::from_secs(3))));
        assert_eq!((liveness.suspect(0, later), liveness.carrying()), (None, 0));
        assert!(liveness.on_activity(0, later) && !liveness.on_activity(0, later));
        assert_eq!(liveness.carrying(), 1);
    }

    #[test]
    fn a_slow_path_gets_up_to_three_times_the_time_and_its_hold_ends_no_later() {
        let now = Instant::now();
        let (mut liveness, second) = (liveness(now), Duration::from_secs(1));
        for (trip, patience) in
            [(0, 3000), (750, 3000), (751, 4502), (3000, 9000), (60_000, 9000), (80, 3000)]
        {
            liveness.note_round_trip(Duration::from_millis(trip));
            assert_eq!(liveness.dead_after(), Duration::from_millis(patience), "{trip}");
        }
        liveness.note_round_trip(second * 3);
        assert!(!liveness.is_silent(0, now + second * 8) && liveness.is_silent(0, now + second * 9));
        liveness.suspend(LaneLoss::Silent(second * 9), now + second * 9);
        assert_eq!(liveness.held().map(|held| held.within), Some(second * (45 - 6)));
        // The time for which this process was stopped is not the path's.
        liveness.suspend(LaneLoss::Silent(second * 99), now + second * 99);
        assert_eq!(liveness.held().map(|held| held.within), Some(second * (45 - 6)));
    }

    #[test]
    fn another_lane_may_be_better_once_an_answer_or_a_heartbeat_is_overdue() {
        let now = Instant::now();
        let mut liveness = liveness(now);
        let after = |millis| Some(now + Duration::from_millis(millis));
        assert_eq!((liveness.quiet_at(Some(now)), liveness.quiet_at(None)), (after(1000), after(1500)));
        let just_now = now + Duration::from_millis(800);
        assert_eq!(liveness.quiet_at(Some(just_now)), after(1300), "the report may be under way");
        assert!(liveness.add(1, now + Duration::from_millis(100)));
        assert_eq!(liveness.quiet_at(Some(now)), after(1100));
        liveness.retire_surplus(0, 1);
        assert_eq!((liveness.carrying(), liveness.quiet_at(Some(now))), (1, after(1000)));
    }

    #[test]
    fn what_may_go_over_any_lane_goes_over_the_one_that_was_heard_last_and_is_not_late() {
        let now = Instant::now();
        let (mut liveness, at) = (liveness(now), |millis| now + Duration::from_millis(millis));
        assert!((1..5).all(|number| liveness.add(number, now)));
        for (lane, heard) in [(1, 2), (2, 1), (3, 9), (4, 2)] {
            liveness.on_activity(lane, at(heard));
        }
        let speakers = |late| -> Vec<u32> { (0..5).filter(|lane| liveness.speaks(*lane, late)).collect() };
        assert_eq!((speakers(0), speakers(1 << 3)), (vec![3], vec![1, 4]), "two were heard in one turn");
        assert_eq!((speakers(0b11010), speakers(0b11110)), (vec![2], vec![0]));
        assert_eq!(liveness.heard_elsewhere(3, 1 << 1), Some(at(2)));
    }

    #[test]
    fn an_orderly_close_shortens_only_the_hold_for_an_unknown_replica_and_never_lengthens_it() {
        let now = Instant::now();
        let mut known = liveness(now);
        known.suspend(LaneLoss::Closed, now);
        assert_eq!(known.resume().map(|held| held.within), Some(Duration::from_secs(45)));
        let mut short = Liveness { hold: Duration::from_secs(1), ..liveness(now) };
        short.give_up_soon_once_closed();
        short.suspend(LaneLoss::Closed, now);
        assert_eq!(short.resume().map(|held| held.within), Some(Duration::from_secs(1)));
        let mut long = liveness(now);
        long.give_up_soon_once_closed();
        long.suspend(LaneLoss::Closed, now);
        assert_eq!(long.resume().map(|held| held.within), Some(CLOSED_HOLD));
        long.suspend(LaneLoss::Replaced, now);
        assert_eq!(
            (long.held().map(|held| held.within), long.breaks().iter().sum()),
            (Some(Duration::from_secs(45)), 2)
        );
    }

    #[test]
    fn a_heartbeat_answers_what_has_just_come_if_it_is_due_soon() {
        let now = Instant::now();
        let (mut liveness, at) = (liveness(now), |millis| now + Duration::from_millis(millis));
        assert!(!liveness.beats(0, at(999)) && liveness.beats(0, at(1000)));
        liveness.on_activity(0, at(400));
        assert!(!liveness.beats(0, at(400)), "this side spoke a moment ago");
        liveness.on_activity(0, at(600));
        assert!(liveness.beats(0, at(600)) && !liveness.beats(0, at(601)));
    }

    #[test]
    fn a_break_lasts_once_a_little_longer_for_an_answer() {
        let now = Instant::now();
        let mut liveness = liveness(now);
        liveness.wait_for_answer();
        liveness.suspend(LaneLoss::Closed, now);
        liveness.wait_for_answer();
        liveness.wait_for_answer();
        let within = liveness.resume().map(|held| held.within);
        assert_eq!(within, Some(Duration::from_secs(47)));
    }

    #[test]
    fn old_lanes_retire_only_as_far_as_new_ones_replace_them() {
        let now = Instant::now();
        let mut liveness = liveness(now);
        assert!(liveness.replace(|lane| lane == 0) && !liveness.replace(|_| true));
        liveness.retire_old(1);
        assert_eq!((liveness.carrying(), liveness.fresh(), liveness.old()), (1, 0, 1));
        assert!(liveness.add(1, now));
        liveness.retire_old(1);
        assert_eq!((liveness.carrying(), liveness.fresh()), (1, 1));
        assert!(liveness.is_any_retiring());
    }

    #[test]
    fn a_slot_is_used_again_and_a_number_is_not_forgotten() {
        let now = Instant::now();
        let mut liveness = liveness(now);
        assert!((1..MAX_LIVE as u32).all(|number| liveness.add(number, now)) && !liveness.add(99, now));
        let slot = liveness.remove(7).map(|lane| lane.slot);
        assert!(liveness.add(99, now));
        assert_eq!((liveness.get(99).map(|lane| lane.slot), liveness.newest()), (slot, 99));
    }
}
