//! Which lanes carry a link: how they are dialled, accepted, judged, replaced and lost, and the breaks
//! when none is left.
//!
//! `liveness` knows the state of each lane, `lateness` how fast it delivers, `dials` the dials. This
//! file decides what follows for the link.

use std::time::Instant;

use super::dials::{AT_ONCE, Dial, Need};
use super::lateness::{COPIES, FEW_COPIES};
use super::liveness::LaneState;
use super::{BESIDE, End, Event, LaneLoss, Link, PAIR, Resumed, Side};
use crate::wire::frame::Frame;
use crate::wire::reason::{Reason, ReasonCode};

impl Link {
    /// Decides on a lane that asks to carry this link, and adds it. Returns the offset below which
    /// this side has received everything. Only at the acceptor.
    pub fn attach(&mut self, dial: &Dial, now: Instant) -> Result<u64, Reason> {
        if let Some(end) = self.closing.ended() {
            return Err(Reason::new(ReasonCode::LinkEnded, &end.to_string()));
        }
        if dial.lane <= self.liveness.newest() {
            return Err(Reason::new(ReasonCode::OldLane, "a newer lane of this link was accepted before"));
        }
        if !self.passthrough && !self.is_armed() {
            return Err(Reason::new(ReasonCode::NotYet, "the link's sync has not begun"));
        }
        if let Some(end) = self.orphaned.as_ref().filter(|_| self.is_left()) {
            return Err(Reason::new(ReasonCode::LinkEnded, &end.to_string()));
        }
        // The process that owns the link is running.
        self.orphaned = None;
        if self.join(dial.lane, &dial.alive, dial.received, now) {
            return Ok(self.receive.received());
        }
        match self.closing.ended() {
            Some(end) => Err(Reason::new(ReasonCode::Protocol, &end.to_string())),
            None => Err(Reason::new(ReasonCode::Limit, "this link has too many lanes")),
        }
    }

    /// A dial was accepted by a far side that has received everything below `received`. True if the
    /// lane is used. If any lane was sufficient, the other dials are then given up.
    pub fn dialled(&mut self, lane: u32, received: u64, now: Instant) -> bool {
        let Some(dial) = self.dials.answered(lane) else { return false };
        if self.is_ended() || !self.join(lane, &dial.alive, received, now) {
            return false;
        }
        let is_spare = self.dials.moving().is_none() && self.liveness.old() == 0;
        if is_spare && self.reports && self.liveness.carrying() > self.lanes_wanted() {
            self.beside_until = Some(now + BESIDE);
        }
        let moved = self.dials.moving().filter(|_| self.liveness.carrying() > self.lanes_wanted());
        if let Some(moved) = moved {
            self.liveness.retire(moved);
        }
        self.dials.settle();
        if self.liveness.old() == 0 {
            self.dials.hurry(now);
        }
        self.liveness.retire_old(self.lanes_wanted());
        true
    }

    /// A lane is lost. What only this lane carried goes over another. The loss of the last lane
    /// begins a break, or ends a link that cannot be resumed.
    pub fn lane_lost(&mut self, lane: u32, loss: LaneLoss, now: Instant) {
        let Some(state) = self.liveness.get(lane) else { return };
        // A lane that was given up while it was opened shows nothing about the far process.
        let loss = match loss {
            LaneLoss::Closed if !state.proven => LaneLoss::Replaced,
            loss => loss,
        };
        let retired = state.is_retired();
        self.drop_lane(lane, retired);
        if !retired {
            self.ask_again_to_renew();
        }
        self.requeue_control(now);
        self.suspend(loss, now);
    }

    /// Bytes have come over a lane, which is a sign of life.
    pub fn on_activity(&mut self, lane: u32, now: Instant) {
        if !self.is_ended() && self.has_lane(lane) && self.rival.on_activity() {
            self.events.push_back(Event::Proven);
        }
        if self.liveness.on_activity(lane, now) {
            self.resume(now);
        }
        let is_surplus = self.side == Side::Dialler && self.liveness.carrying() > self.lanes_kept();
        if is_surplus
            && self.liveness.old() == 0
            && self.liveness.get(lane).is_some_and(|lane| lane.carries())
        {
            // A spare lane and those that it was dialled for: the first that carries has won.
            self.liveness.retire_surplus(lane, self.lanes_kept());
        }
    }

    /// Number of lanes of which none is surplus.
    fn lanes_kept(&self) -> usize {
        if self.beside_until.is_some() { self.lanes_agreed.max(PAIR) } else { self.lanes_agreed }
    }

    /// Ends the time for which a spare lane stays beside the others: those stay that were heard last.
    pub(super) fn end_beside(&mut self, now: Instant) {
        if self.beside_until.is_none_or(|until| now < until) {
            return;
        }
        self.beside_until = None;
        if self.liveness.old() == 0
            && let Some(lane) = self.liveness.heard_last()
        {
            self.liveness.retire_surplus(lane, self.lanes_agreed);
        }
    }

    /// Whether [`Link::check_liveness`] would find this lane dead.
    pub fn is_silent(&self, lane: u32, now: Instant) -> bool {
        self.liveness.is_silent(lane, now)
    }

    /// Checks a lane whose socket was read empty, since unread bytes would be a sign of life. A
    /// silent lane becomes suspect. It is kept and read until another takes its place, unless the
    /// link cannot be resumed.
    pub fn check_liveness(&mut self, lane: u32, now: Instant) {
        if self.is_ended() {
            return;
        }
        let Some((slot, silence)) = self.liveness.suspect(lane, now) else { return };
        let loss = LaneLoss::Silent(silence);
        let is_surplus = self.beside_until.is_some() && self.liveness.carrying() >= self.lanes_agreed;
        let is_retiring = self.liveness.get(lane).is_some_and(|lane| lane.retiring);
        if self.liveness.carrying() > 0 && (is_surplus || is_retiring) {
            // Another has taken its place.
            self.lane_lost(lane, loss, now);
        } else if self.liveness.carrying() > 0 {
            // The other lanes carry its data.
            self.send.lose(slot);
            self.ask_again_to_renew();
            self.requeue_control(now);
        } else if self.is_resumable() && self.needs_lane() {
            self.suspend(loss, now);
        } else {
            self.lane_lost(lane, loss, now);
        }
    }

    /// A far gateway is about to answer a dial: a break lasts a little longer, once.
    pub fn wait_for_answer(&mut self) {
        self.liveness.wait_for_answer();
    }

    /// When [`Link::begin_dial`] must be called; `None` while no lane is wanted. Only at the
    /// dialler.
    pub fn dial_due(&self) -> Option<Instant> {
        if self.side == Side::Acceptor || self.is_ended() || self.closing.is_stopping() {
            return None;
        }
        let need = if self.is_held() {
            Need::WayBack
        } else if self.needs_lane()
            && self.liveness.carrying() > 0
            && (self.liveness.fresh() < self.lanes_wanted() || self.dials.moving().is_some())
        {
            Need::Lane
        } else if self.is_spare_wanted() {
            Need::Spare
        } else {
            Need::Nothing
        };
        let due = self.dials.due(need)?;
        if need != Need::Spare {
            return Some(due);
        }
        let carrying = self.liveness.iter().filter(|lane| lane.carries() && self.reports);
        let asked = carrying.filter_map(|lane| self.send.carried_since(lane.slot)).min();
        Some(due.max(self.liveness.quiet_at(asked)?))
    }

    /// Whether another lane is dialled once nothing has come for a while.
    fn is_spare_wanted(&self) -> bool {
        let carrying = self.liveness.carrying();
        self.is_resumable() && self.needs_lane() && (1..=self.lanes_kept()).contains(&carrying)
    }

    /// Whether a dial that is due is for a lane in place of one that is still good: the link has as many as
    /// it may have.
    pub fn wants_renewal(&self) -> bool {
        let wanted = self.lanes_wanted();
        self.liveness.carrying() >= wanted && self.liveness.fresh() < wanted
    }

    /// Whether a dial that is due is for a spare lane: the link has all that it may have.
    pub fn wants_spare(&self) -> bool {
        self.is_spare_wanted() && self.liveness.fresh() >= self.lanes_wanted()
    }

    /// Whether the link has all of its lanes, so that one of them may be moved.
    pub fn may_move(&self) -> bool {
        let wanted = self.lanes_wanted();
        let has_all = self.liveness.carrying() == wanted && self.liveness.fresh() == wanted;
        has_all && self.shared && !self.is_ended() && !self.is_moving()
    }

    /// A lane had better be at another address, where the next dial goes. It is retired once that
    /// has succeeded. Only at the dialler.
    pub fn move_lane(&mut self, lane: u32) {
        self.dials.move_lane(lane);
    }

    /// Whether the next dial is for a lane that moves.
    pub fn is_moving(&self) -> bool {
        self.dials.moving().is_some() && !self.is_held()
    }

    /// Starts a dial.
    pub fn begin_dial(&mut self, now: Instant) -> Dial {
        let counted_on = self.liveness.iter().filter(|lane| !lane.suspect).map(|lane| lane.number);
        self.dials.begin(self.liveness.newest(), counted_on, self.receive.received(), now)
    }

    /// A dial failed.
    pub fn dial_failed(&mut self, lane: u32, now: Instant) {
        self.dials.failed(lane, self.is_held(), now);
    }

    /// These lanes are to be replaced by new ones, which may take its time: they are good until then.
    pub fn renew(&mut self, lanes: &[u32]) {
        if !self.is_ended() && self.replace_lanes(|lane| lanes.contains(&lane)) {
            self.ask_to_renew();
        }
    }

    /// Marks lanes for replacement. Returns whether any of them was not marked before.
    pub(super) fn replace_lanes(&mut self, which: impl Fn(u32) -> bool) -> bool {
        let marked = self.liveness.replace(which);
        if marked {
            self.dials.forgive();
        }
        marked
    }

    /// Only the dialler can replace lanes.
    fn ask_to_renew(&mut self) {
        if self.side == Side::Acceptor && !self.urgent.contains(&Frame::Renew) {
            self.urgent.push(Frame::Renew);
        }
    }

    /// What was asked may have been lost with a lane. Lanes that are new by now are then replaced once more,
    /// so nothing else is a reason to ask again.
    fn ask_again_to_renew(&mut self) {
        if self.liveness.old() > 0 && !self.is_ended() {
            self.ask_to_renew();
        }
    }

    /// Closes these lanes at once, and ends a link that has no other: the certificates with which they
    /// were opened do not count any more, for the reason `why`.
    pub fn refuse(&mut self, lanes: &[u32], why: &str, now: Instant) {
        let is_other = |lane: &LaneState| !lanes.contains(&lane.number) && !lane.retiring;
        if self.is_ended() || !lanes.iter().any(|lane| self.has_lane(*lane)) {
            return;
        }
        if !self.liveness.iter().any(is_other) {
            let end = End::Outdated(why.to_owned());
            return self.abort(Reason::new(ReasonCode::NotAvailable, &end.to_string()), end);
        }
        for lane in lanes {
            self.lane_lost(*lane, LaneLoss::Outdated(why.to_owned()), now);
        }
    }

    /// Adds a lane, and drops older ones that are not in the dialler's list `alive`.
    fn join(&mut self, lane: u32, alive: &[u32], received: u64, now: Instant) -> bool {
        if let Err(error) = self.send.note_arrived(received) {
            self.fault(&error.into());
            return false;
        }
        let left: Vec<u32> = self
            .liveness
            .iter()
            .map(|known| known.number)
            .filter(|known| *known < lane && !alive.contains(known))
            .collect();
        if !left.is_empty() {
            left.into_iter().for_each(|number| self.drop_lane(number, false));
            self.ask_again_to_renew();
        }
        if self.is_resumable() {
            // The far side has noticed the break first.
            self.suspend(LaneLoss::Replaced, now);
        }
        if self.is_ended() {
            return false;
        }
        let most = self.lanes_agreed + AT_ONCE + self.liveness.old();
        if self.liveness.iter().count() >= most || !self.liveness.add(lane, now) {
            return false;
        }
        let slot = self.liveness.get(lane).map(|lane| lane.slot);
        if let Some(slot) = slot {
            self.send.enter(slot);
            self.lateness.added(slot, now);
        }
        self.requeue_control(now);
        self.resume(now);
        true
    }

    fn lanes_wanted(&self) -> usize {
        if self.passthrough || self.is_armed() { self.lanes_agreed } else { 1 }
    }

    /// The far side sends nothing more on a lane. Only the dialler starts this.
    pub(super) fn on_retire(&mut self, lane: u32, now: Instant) {
        let Some(state) = self.liveness.get_mut(lane) else { return };
        (state.retiring, state.far_retired) = (true, true);
        let slot = state.slot;
        if state.retired {
            // It answers this side's RETIRE, which was sent after everything else.
            self.send.settle(slot);
            self.lane_lost(lane, LaneLoss::Closed, now);
        } else if self.liveness.carrying() == 0 {
            self.suspend(LaneLoss::Closed, now);
        }
    }

    /// When lanes must next be judged. A link with one lane has no other to use.
    pub(super) fn judge_due(&self) -> Option<Instant> {
        if !self.reports || self.liveness.read() < 2 {
            return None;
        }
        let read = self.liveness.iter().filter(|lane| !lane.suspect);
        read.filter_map(|lane| self.lateness.due(lane.slot, self.send.carried_since(lane.slot)?)).min()
    }

    /// Judges the lanes that should have delivered something by now. What only late lanes carry is
    /// sent again over others.
    pub(super) fn judge_lanes(&mut self, now: Instant) {
        if !self.reports {
            return;
        }
        let mut judged = 0;
        if self.liveness.read() > 1 {
            for lane in self.liveness.iter().filter(|lane| !lane.suspect) {
                let since = self.send.carried_since(lane.slot);
                if since.is_some_and(|since| self.lateness.judge(lane.slot, since, now)) {
                    judged |= 1 << lane.slot;
                }
            }
        }
        let late = self.lateness.late();
        if late != 0 && self.liveness.iter().all(|lane| !lane.carries() || late & 1 << lane.slot != 0) {
            self.lateness.pardon();
            return slots(late).for_each(|slot| self.send.trust(slot));
        }
        for slot in slots(judged) {
            let heard = self.liveness.heard_elsewhere(slot, late);
            let recent = self.lateness.patience(slot, now).unwrap_or_default() / 2;
            if heard.is_some_and(|heard| heard + recent >= now) {
                self.send.doubt(slot, late, COPIES);
            } else {
                self.send.doubt(slot, late, FEW_COPIES);
                self.lateness.hasten(slot, now);
            }
        }
    }

    pub(super) fn is_resumable(&self) -> bool {
        !self.passthrough && !self.hold().is_zero() && !self.closing.is_far_gone() && self.is_armed()
    }

    /// Whether the link still has anything to send or to receive.
    pub(super) fn needs_lane(&self) -> bool {
        let is_done = self.closing.is_delivering() && self.receive.is_complete();
        !is_done && !self.is_ended()
    }

    /// A lane no longer carries the link. If it was the last, a break begins or the link ends.
    pub(super) fn suspend(&mut self, loss: LaneLoss, now: Instant) {
        if self.is_ended() || self.is_held() || self.liveness.carrying() > 0 {
            return;
        }
        if !self.needs_lane() {
            return self.check_ends();
        }
        if self.is_resumable() {
            self.liveness.suspend(loss, now);
            self.behind = true;
            self.dials.at_once(now);
            self.check_orphaned(now);
            return self.check_rival(now);
        }
        if self.liveness.is_any_retiring() {
            // Data that is in flight on it still arrives.
            return;
        }
        self.closing.strand(loss, self.receive.finished());
        self.drop_buffered();
    }

    /// A lane carries the link again, which ends a break.
    fn resume(&mut self, now: Instant) {
        let Some(held) = self.liveness.resume() else { return };
        // Data on lanes that are still suspect is sent again over this one.
        let suspect = self.liveness.iter().filter(|lane| lane.suspect);
        suspect.for_each(|lane| self.send.lose(lane.slot));
        self.round_trip.forget();
        let resending = self.send.to_resend();
        self.events.push_back(Event::Resumed(Resumed {
            cause: held.cause,
            lasted: now - held.since,
            resending,
        }));
        self.closing.on_resumed(now);
        self.check_behind();
    }

    /// Sends again over the next lane what may have been lost with this one.
    fn requeue_control(&mut self, now: Instant) {
        self.judge_lanes(now);
        if !self.is_ended() {
            self.acks.requeue(self.receive.written());
            self.closing.requeue();
            self.round_trip.restart(now);
        }
    }

    /// Removes a lane, if it is there.
    pub(super) fn drop_lane(&mut self, lane: u32, retired: bool) {
        if let Some(state) = self.liveness.remove(lane) {
            self.send.lose(state.slot);
            self.lateness.removed(state.slot);
            self.events.push_back(Event::LaneClosed { lane, retired });
        }
    }
}

/// The slots that are bits in `slots`.
fn slots(slots: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |slot| slots & 1 << slot != 0)
}
