//! What a link receives, frame by frame, and the order in which it sends its own.

use std::time::{Duration, Instant};

use super::acks::Hurry;
use super::closing::Last;
use super::{End, Link, ProtocolError, Side};
use crate::wire::frame::{Frame, Item, Report};
use crate::wire::reason::{Reason, ReasonCode};

impl Link {
    /// Takes an item from the decoder of `lane`. An invalid item ends the link.
    pub fn handle(&mut self, lane: u32, item: Item<'_>, now: Instant) {
        if self.is_ended() {
            return;
        }
        let Some(state) = self.liveness.get_mut(lane) else { return };
        state.proven = true;
        if let Err(error) = self.handle_item(lane, item, now) {
            self.fault(&error);
        }
    }

    fn handle_item(&mut self, lane: u32, item: Item<'_>, now: Instant) -> Result<(), ProtocolError> {
        match item {
            Item::Data { offset, bytes, left } => {
                self.receive.insert(offset, bytes, left)?;
                if self.reports {
                    if let Some(lane) = self.liveness.get_mut(lane) {
                        lane.came += bytes.len() as u64;
                    }
                    if !self.acks.has_news() {
                        let by = self.acknowledges_by();
                        self.acks.on_received(now, by);
                    }
                }
                self.check_left(now);
            }
            Item::Frame(Frame::Ack(offset, report)) => {
                self.on_report(report.as_ref(), now)?;
                self.on_ack(lane, offset, now)?;
            }
            Item::Frame(Frame::Armed(offset)) => self.codec.on_armed(offset)?,
            Item::Frame(Frame::Heartbeat(report)) => self.on_report(report.as_ref(), now)?,
            Item::Frame(Frame::End { offset, reason }) => self.on_end(offset, reason, now)?,
            Item::Frame(Frame::Abort(reason)) => self.given_up(End::Far(reason)),
            Item::Frame(Frame::Goodbye { .. }) if self.closing.is_far_gone() || self.is_left() => {}
            Item::Frame(Frame::Goodbye { offset, reason }) => self.on_goodbye(offset, reason, now)?,
            Item::Frame(Frame::Renew) if self.side == Side::Dialler => {
                self.replace_lanes(|_| true);
            }
            Item::Frame(Frame::Retire) => self.on_retire(lane, now),
            Item::Frame(Frame::Hello(_) | Frame::Accept(_) | Frame::Refuse(_) | Frame::Renew)
            | Item::Frame(Frame::Lists(_) | Frame::Want(_) | Frame::Piece(_)) => {
                return Err(ProtocolError::Misplaced);
            }
        }
        Ok(())
    }

    fn on_ack(&mut self, lane: u32, offset: u64, now: Instant) -> Result<(), ProtocolError> {
        if let Some(lane) = self.liveness.get_mut(lane) {
            if offset < lane.acknowledged {
                return Err(ProtocolError::AckTakenBack(offset));
            }
            lane.acknowledged = offset;
        }
        let before = self.send.acknowledged();
        self.send.acknowledge(offset)?;
        if self.send.acknowledged() > before {
            self.round_trip.on_acknowledged(offset, now);
            self.closing.on_acknowledged(now);
        }
        self.check_ends();
        Ok(())
    }

    /// The far side states what it has received.
    fn on_report(&mut self, report: Option<&Report>, now: Instant) -> Result<(), ProtocolError> {
        let Some(Report { received, lanes }) = report.filter(|_| self.reports) else { return Ok(()) };
        for (number, count) in lanes {
            let Some(slot) = self.liveness.get(*number).map(|lane| lane.slot) else { continue };
            let sent = self.send.note_carried(slot, *count)?;
            let was_late = self.lateness.is_late(slot);
            if let Some(took) = self.lateness.on_report(slot, *count, sent, now) {
                self.note_round_trip(took);
            }
            if was_late && !self.lateness.is_late(slot) {
                self.send.trust(slot);
            }
        }
        if lanes.is_empty()
            && let Some(only) = self.liveness.only()
        {
            let sent = self.send.sent_before(only, *received);
            if let Some(took) = self.lateness.on_round_trip(only, sent, now) {
                self.note_round_trip(took);
            }
        }
        self.send.note_arrived(*received)?;
        Ok(())
    }

    fn note_round_trip(&mut self, took: Duration) {
        self.round_trip.on_reported(took);
        self.liveness.note_round_trip(self.round_trip.reported());
    }

    fn on_end(&mut self, offset: u64, reason: Reason, now: Instant) -> Result<(), ProtocolError> {
        if !self.passthrough && self.side == Side::Acceptor {
            return Err(ProtocolError::ReplicaEnd);
        }
        self.receive.declare_end(offset)?;
        if !self.passthrough && !self.closing.is_delivering() {
            self.send.clear();
            self.closing.deliver(End::Far(reason), Last::End, now);
        }
        self.check_ends();
        Ok(())
    }

    /// The link is over for the far side. What it had sent is still delivered, but not to a master
    /// whose sync has not begun: a request for one may be among it.
    fn on_goodbye(&mut self, offset: u64, reason: Reason, now: Instant) -> Result<(), ProtocolError> {
        let at_master = self.side == Side::Acceptor && !self.passthrough;
        let (end, last) = if at_master && reason.code == ReasonCode::ReplicaClosed {
            (End::Far(reason), Last::Left)
        } else {
            (End::FarStopping(reason), Last::Stopping)
        };
        self.receive.declare_end(offset)?;
        if at_master && !self.is_armed() {
            self.given_up(end);
            return Ok(());
        }
        if last == Last::Stopping && self.send.is_keeping() && self.closing.is_open() && self.is_resumable() {
            // Its replica comes again soon, and may continue from what is kept.
            self.orphaned = Some(end);
            self.check_left(now);
            return Ok(());
        }
        self.send.clear();
        self.closing.deliver(end, last, now);
        self.check_ends();
        Ok(())
    }

    /// Passes the next frame for `lane` to `put`, if there is one to send on it.
    pub fn poll_transmit(&mut self, lane: u32, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        let sent = self.transmit(lane, now, put);
        if sent && let Some(lane) = self.liveness.get_mut(lane) {
            lane.spoke = now;
        }
        sent
    }

    fn transmit(&mut self, number: u32, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        let ended = self.is_ended();
        self.check_behind();
        let Some(lane) = self.liveness.get_mut(number) else { return false };
        if lane.retiring && !lane.retired && !ended {
            lane.retired = true;
            put(&Frame::Retire.encode());
            return true;
        }
        if !lane.carries() {
            return false;
        }
        let (slot, parted) = (lane.slot, lane.parted);
        if ended {
            return !parted && self.transmit_last(number, slot, now, put);
        }
        let beats = self.liveness.beats(number, now);
        if !self.lateness.is_late(slot) && self.transmit_any(number, slot, now, put) {
            return true;
        }
        if !self.is_ended() && beats {
            put(&Frame::Heartbeat(self.report()).encode());
            return true;
        }
        false
    }

    /// Passes the next of the frames that may go over any lane to `put`.
    fn transmit_any(&mut self, number: u32, slot: u8, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        let speaks = self.liveness.speaks(number, self.lateness.late());
        if speaks && !self.urgent.is_empty() {
            put(&self.urgent.remove(0).encode());
            return true;
        }
        let hurry = if self.receive.finished() {
            Hurry::Last
        } else if self.send.unsent() > 0 {
            Hurry::Riding
        } else {
            Hurry::None
        };
        if speaks && let Some(offset) = self.acks.take(self.receive.written(), hurry, now) {
            put(&Frame::Ack(offset, self.report()).encode());
            return true;
        }
        if self.oldest_is_stuck(now)
            && let Some(framed) = self.send.copy_oldest(slot, now)
        {
            put(framed);
            return true;
        }
        if let Some(framed) = self.send.send_next(slot, now) {
            put(framed);
            self.round_trip.on_sent(self.send.sent(), now);
            return true;
        }
        // What waits for the window goes first.
        let all_sent = self.send.unsent() == 0;
        if speaks
            && all_sent
            && let Some(end) = self.closing.take_end(self.send.offered())
        {
            put(&end.encode());
            self.check_ends();
            return true;
        }
        if all_sent && self.closing.say_goodbye(self.send.offered()) {
            return self.transmit(number, now, put);
        }
        false
    }

    /// The last frames of a link that has ended: what a replica that has left had sent, then on
    /// every lane the frame that tells the far side of the end, before it finds the lane closed.
    fn transmit_last(&mut self, number: u32, slot: u8, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        if let Some(framed) = self.send.send_next(slot, now) {
            put(framed);
            return true;
        }
        let done = self.closing.is_delivered() || matches!(self.closing.ended(), Some(End::Finished));
        let ack = done.then(|| Frame::Ack(self.receive.written(), None));
        let Some(last) = self.closing.parting().cloned().or(ack) else { return false };
        if let Some(lane) = self.liveness.get_mut(number) {
            lane.parted = true;
        }
        put(&last.encode());
        true
    }

    /// What this side states about what it has received.
    fn report(&self) -> Option<Report> {
        self.reports.then(|| Report { received: self.receive.received(), lanes: self.liveness.came() })
    }

    /// When an acknowledgement that is due at some time is sent. With several lanes a later one
    /// would look like a lane that is late.
    pub(super) fn acknowledges_by(&self) -> impl Fn(Instant) -> Instant + use<> {
        let (is_several, ticks) = (self.shared || self.liveness.carrying() > 1, self.liveness.ticks());
        move |time| if is_several { time } else { ticks.after(time) }
    }

    /// Whether a half-full window has waited for its oldest bytes for more than two round trips.
    /// Then they are copied to another lane, if the far side does not report what it has received.
    fn oldest_is_stuck(&self, now: Instant) -> bool {
        !self.reports && self.shared && self.send.is_half_full() && self.round_trip.is_stalled(now)
    }

    /// The last frame of an ended link for a far side that could not be reached, to send on any
    /// lane that it still accepts. Only at the dialler.
    pub fn last_words(&self) -> Vec<Frame> {
        let reason = match self.closing.ended() {
            Some(end) if self.side == Side::Dialler => {
                Reason::new(ReasonCode::ReplicaClosed, &end.to_string())
            }
            _ => return Vec::new(),
        };
        vec![Frame::Ack(self.receive.written(), None), Frame::Abort(reason)]
    }
}
