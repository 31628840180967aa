//! A link: one replica connection carried end to end, with a byte stream in each direction.
//!
//! This is the state machine of `replgate/1`, the same at both ends. It owns no socket and no
//! clock, and does not know Redis. Any lane may carry any frame. Once the sync has begun, the link
//! survives the loss of its lanes for as long as `hold` says.
//!
//! **The contract.** These calls feed the machine:
//!
//! - [`Link::handle`] with each item from a lane, then [`Link::on_activity`] once all received
//!   bytes are used; [`Link::lane_lost`] if the lane failed;
//! - [`Link::offer`], [`Link::arm`], [`Link::local_closed`] for the local Redis, as far as
//!   [`Link::read_room`] allows;
//! - [`Link::wrote`] for what [`Link::take`] returned;
//! - [`Link::dialled`] and [`Link::dial_failed`] at the dialler, [`Link::attach`] at the
//!   acceptor;
//! - [`Link::finish`], [`Link::stop`], [`Link::abort`], [`Link::renew`] for what this
//!   gateway decides;
//! - [`Link::check_liveness`] for each lane that was read empty, and
//!   [`Link::handle_timeout`] once [`Link::poll_timeout`] is past.
//!
//! Each of them may make more work, so afterwards the machine is drained in this order:
//!
//! 1. [`Link::poll_event`] until `None`: a lane that is closed must not be used again;
//! 2. [`Link::take`], as far as the local Redis has room;
//! 3. [`Link::poll_transmit`] for each lane, as long as the lane has room;
//! 4. [`Link::begin_dial`] if [`Link::dial_due`] is past;
//! 5. [`Link::poll_timeout`], which returns when to call again.
//!
//! After [`Event::Ended`], [`Link::poll_transmit`] still returns the last frames for each lane,
//! which the far side needs all of: what a replica that has left had sent goes ahead of them.
//! Nothing else may be fed in.
//!
//! Each part owns its own state: `closing` the life of the link, `window` what is sent,
//! `reassembly` what is received, `acks` acknowledgements, `codec` the end of the sync's reply and
//! compression, `liveness` lanes and breaks, `lateness` lanes that deliver
//! nothing, `dials` the dials for new lanes. [`Link`] joins them.

mod acks;
mod charge;
mod closing;
mod codec;
pub mod compress;
pub mod dials;
mod end;
mod kept;
mod lateness;
mod liveness;
pub mod reassembly;
pub mod rival;
mod ticks;
pub mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::acks::{Acks, Hurry, RoundTrip};
use self::closing::{Closing, Last};
use self::codec::Codec;
use self::dials::{AT_ONCE, Dial, Dials, Need, RENEW_WITHIN};
pub use self::end::{End, LaneLoss, ProtocolError};
use self::lateness::{COPIES, FEW_COPIES, Lateness};
use self::liveness::Liveness;
pub use self::liveness::{Held, LaneIo};
use self::reassembly::Reassembly;
use self::rival::Rival;
use self::window::Window;
use crate::buffer::{Chunk, HEADROOM};
use crate::wire::frame::{Frame, Item, Report};
use crate::wire::reason::{Reason, ReasonCode};
use crate::wire::terms::Agreed;

/// Number of unsent bytes for each lane above which no more is read from the local Redis, unless
/// the link is behind after a break.
const READ_AHEAD: u64 = 1024 * 1024;

/// Largest payload if several lanes share a link: a frame on one lane delays later frames on the
/// others. With its header it fills whole TLS records.
const SHARED_PAYLOAD: usize = 128 * 1024 - HEADROOM;

/// Least number of frames that fit into the window.
const LEAST_FRAMES: u64 = 4;

/// Most bytes that are still sent for a replica that has left: many acknowledgements, however
/// large the window is.
const LEAVE_BYTES: u64 = 64 * 1024;

/// Time within which another lane delivers what a lost lane carried.
const GAP: Duration = Duration::from_secs(2);

/// How long a link whose far gateway is gone waits for its replica to come again. Masters count a
/// replica that is silent for longer as late by default (`min-replicas-max-lag`).
const RETURN_WITHIN: Duration = Duration::from_secs(5);

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// At the replica's site.
    Dialler,
    /// At the master's site.
    Acceptor,
}

impl Side {
    /// Which Redis is at this end.
    pub fn role(self) -> &'static str {
        match self {
            Self::Dialler => "replica",
            Self::Acceptor => "master",
        }
    }
}

/// An event of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lane no longer belongs to the link and must be closed.
    LaneClosed {
        /// Its number.
        lane: u32,
        /// Whether both sides have retired it. Then it is closed in good order. Any other lane is
        /// reset, so that nothing that is still queued arrives late.
        retired: bool,
    },
    /// A break is over, and the link continues where it was.
    Resumed(Resumed),
    /// The link has proven that it is alive, after [`Link::replica_returned`].
    Proven,
    /// The link is over. Only closed lanes are reported after this event.
    Ended {
        /// Why.
        end: End,
        /// Whether everything that the far side sent was written to the local Redis, which may
        /// still have to read it.
        delivered: bool,
    },
}

/// A break that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// How the last lane was lost.
    pub cause: LaneLoss,
    /// Duration of the break.
    pub lasted: Duration,
    /// Number of bytes that are sent again.
    pub resending: u64,
}

/// The state machine of one link, at one end.
#[derive(Debug)]
pub struct Link {
    side: Side,
    passthrough: bool,
    /// Whether the link may have several lanes at a time.
    shared: bool,
    /// Number of lanes that it may have once its sync has begun.
    lanes_agreed: usize,
    max_payload: usize,
    /// Whether both sides report what they have received.
    reports: bool,
    send: Window,
    receive: Reassembly,
    codec: Codec,
    acks: Acks,
    round_trip: RoundTrip,
    liveness: Liveness,
    lateness: Lateness,
    dials: Dials,
    closing: Closing,
    /// Whether the link is held, or still has to send more of what it took in meanwhile than it
    /// usually reads ahead.
    behind: bool,
    /// Control frames to send before any more data.
    urgent: Vec<Frame>,
    /// When lanes with earlier certificates are cut.
    renew_by: Option<Instant>,
    /// The end of the link if its replica does not come again: its far gateway is gone.
    orphaned: Option<End>,
    /// Another link that may be the same replica's.
    rival: Rival,
    /// The last bytes that were offered, once the replica has come again over another link.
    left_behind: Option<VecDeque<Chunk>>,
    /// Events that [`Link::poll_event`] has not returned yet.
    events: VecDeque<Event>,
}

impl Link {
    /// A link on a lane that was just accepted. `agreed` are the terms of both gateways, combined
    /// at this side.
    pub fn new(side: Side, agreed: &Agreed, now: Instant) -> Self {
        let &Agreed { passthrough, window, lanes, compressed, max_data, reports, .. } = agreed;
        let mut lateness = Lateness::default();
        lateness.added(0, now);
        let max_payload = if agreed.is_shared() { SHARED_PAYLOAD.min(max_data) } else { max_data };
        let max_payload = max_payload.min(usize::try_from(window / LEAST_FRAMES).unwrap_or(usize::MAX));
        Self {
            side,
            passthrough,
            shared: agreed.is_shared(),
            lanes_agreed: usize::from(lanes),
            max_payload,
            reports,
            send: Window::new(window, max_payload),
            receive: Reassembly::new(window),
            codec: Codec::new(side, compressed),
            acks: Acks::new(now),
            round_trip: RoundTrip::new(now),
            liveness: Liveness::new(agreed, now),
            lateness,
            dials: Dials::new(now),
            closing: Closing::new(passthrough),
            behind: false,
            urgent: Vec::new(),
            renew_by: None,
            orphaned: None,
            rival: Rival::default(),
            left_behind: None,
            events: VecDeque::new(),
        }
    }

    /// At the acceptor: sets the level at which its stream is compressed, if both sides support it.
    pub fn compressing(mut self, level: i32) -> Self {
        self.codec.compress(level);
        self
    }

    /// At the acceptor of a dialler that does not say which replica a link is for: if all lanes are
    /// closed in good order, the link is not held for long, since nothing would end it if the far
    /// process has died and its replica comes again.
    pub fn for_unknown_replica(mut self) -> Self {
        self.liveness.give_up_soon_once_closed();
        self
    }

    /// Links with the same `start`, which is not in the future, send their heartbeats and
    /// acknowledgements at the same times.
    pub fn ticking_from(mut self, start: Instant) -> Self {
        self.liveness.tick_from(start);
        self
    }

    /// The next event, the oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        self.closing.take_ended().map(|(end, delivered)| Event::Ended { end, delivered })
    }

    /// Whether the link is over. [`Event::Ended`] says why.
    pub fn is_ended(&self) -> bool {
        self.closing.ended().is_some()
    }

    /// Whether the link is over for the far side, which closes its lanes as well: none of them is
    /// lost.
    pub fn is_over_far_away(&self) -> bool {
        let ended_by_far = matches!(self.closing.ended(), Some(End::Far(_) | End::FarStopping(_)));
        ended_by_far || self.closing.is_far_gone() || self.is_left()
    }

    /// Whether what is offered now is compressed.
    pub fn is_packing(&self) -> bool {
        self.codec.is_packing()
    }

    /// Whether the sync has begun: from here on a link can be resumed.
    pub fn is_armed(&self) -> bool {
        let done = match self.side {
            Side::Dialler => self.receive.written(),
            Side::Acceptor => self.send.acknowledged(),
        };
        self.codec.armed().is_some_and(|offset| done >= offset)
    }

    /// Number of bytes that may now be read from the local Redis, if there is memory for `memory`
    /// more. During a break that is the only bound, and until what was read meanwhile is sent:
    /// Redis drops a replica that does not read its stream. Nobody has to read a snapshot, which
    /// is `bulk`, so it never takes more than the window.
    pub fn read_room(&self, memory: u64, bulk: bool) -> u64 {
        if !self.closing.takes_bytes() {
            return 0;
        }
        let room = match (self.behind, bulk) {
            (true, false) => u64::MAX,
            (true, true) if self.is_held() => self.send.room(),
            _ => self.send.room().min(self.read_ahead().saturating_sub(self.send.unsent())),
        };
        self.codec.plain_room(room.min(memory))
    }

    /// Number of unsent bytes above which a link that has lanes reads no more.
    fn read_ahead(&self) -> u64 {
        READ_AHEAD * self.liveness.carrying().max(1) as u64
    }

    /// Largest chunk that the far side accepts.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Memory that all buffered data takes, in bytes.
    pub fn memory(&self) -> u64 {
        self.send.storage() + self.receive.charged()
    }

    /// Memory charged for data received out of order, in bytes.
    pub fn scattered(&self) -> u64 {
        self.receive.scattered()
    }

    /// Number of runs of bytes received out of order.
    pub fn runs(&self) -> usize {
        self.receive.runs()
    }

    /// The offset below which everything was received.
    pub fn received(&self) -> u64 {
        self.receive.received()
    }

    /// How long a gap between lanes may stay open: until a silent lane is detected, and its data
    /// has come over another lane.
    pub fn gap_patience(&self) -> Duration {
        self.liveness.dead_after() * 2 + GAP
    }

    /// Longest pause between two frames that the far side does not take for silence.
    pub fn speak_every(&self) -> Duration {
        self.liveness.speak_every()
    }

    /// Whether bytes for the local Redis are ready, in order. Then there is progress without
    /// reading a lane.
    pub fn has_ready(&self) -> bool {
        self.receive.has_ready() || self.codec.has_rest()
    }

    /// Number of bytes that were read from the local Redis and never sent.
    pub fn unsent(&self) -> u64 {
        self.send.unsent()
    }

    /// Number of bytes that were sent more than once so far.
    pub fn resent(&self) -> u64 {
        self.send.resent()
    }

    /// Number of bytes that were sent for the first time so far.
    pub fn sent(&self) -> u64 {
        self.send.sent()
    }

    /// Number of carried bytes so far, in both directions.
    pub fn carried(&self) -> u64 {
        self.send.offered() + self.receive.received()
    }

    /// Whether the link has no lane and waits for one.
    pub fn is_held(&self) -> bool {
        self.liveness.held().is_some()
    }

    /// The break that the link is in.
    pub fn held(&self) -> Option<&Held> {
        self.liveness.held()
    }

    /// Number of breaks so far.
    pub fn breaks(&self) -> u64 {
        self.liveness.breaks()
    }

    /// How long the link survives the loss of its last lane.
    pub fn hold(&self) -> Duration {
        self.liveness.hold()
    }

    /// Whether this lane still belongs to the link. Any other must be closed.
    pub fn has_lane(&self, lane: u32) -> bool {
        self.liveness.get(lane).is_some()
    }

    /// Whether this lane carries the link now.
    pub fn carries(&self, lane: u32) -> bool {
        self.liveness.get(lane).is_some_and(|lane| lane.carries())
    }

    /// Number of lanes that carry the link now.
    pub fn lanes(&self) -> usize {
        self.liveness.carrying()
    }

    /// Whether both sides have retired this lane.
    pub fn is_retired(&self, lane: u32) -> bool {
        self.liveness.get(lane).is_some_and(|lane| lane.is_retired())
    }

    /// Whether the link may have several lanes at a time.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Takes bytes read from the local Redis, preferably at most [`Link::max_payload`] of them.
    pub fn offer(&mut self, chunk: Chunk) {
        if self.closing.is_open() {
            self.codec.pack(chunk, self.max_payload, |chunk| self.send.offer(chunk));
        }
    }

    /// The sync's reply ends at the current end of this side's stream. Only at the acceptor; only
    /// the first call counts.
    pub fn arm(&mut self) {
        let offset = self.send.offered();
        if self.codec.arm(offset) {
            self.urgent.push(Frame::Armed(offset));
        }
    }

    /// The next bytes for the local Redis, in order, and the number of carried bytes that they
    /// stand for.
    pub fn take(&mut self) -> Option<(Chunk, u64)> {
        match self.codec.unpack(|| self.receive.take()) {
            Ok(taken) => taken,
            Err(error) => {
                self.fault(&error.into());
                None
            }
        }
    }

    /// `count` carried bytes from [`Link::take`] were written to the local Redis, or need not be
    /// written.
    pub fn wrote(&mut self, count: u64, now: Instant) {
        self.receive.wrote(count);
        self.closing.on_written(now);
        let by = self.acknowledges_by();
        self.acks.on_written(self.receive.written(), now, by);
        if self.side == Side::Dialler
            && self.is_armed()
            && self.codec.armed().is_some_and(|offset| self.acks.sent() < offset)
        {
            // From now on the far side can hold the link as well, so this is sent without delay.
            self.acks.hurry(now);
        }
        self.check_ends();
    }

    /// Whether the far side's stream has ended and all of it was written. Then the writing half of
    /// a passthrough's local socket is closed.
    pub fn receive_finished(&self) -> bool {
        self.receive.finished()
    }

    /// The local Redis closed its connection in good order, after the bytes that were offered.
    pub fn local_closed(&mut self, now: Instant) {
        if !self.closing.is_open() {
            return;
        }
        let end = End::LocalClosed(self.side);
        match (self.passthrough, self.side) {
            (true, _) => {
                self.closing.end_stream(Reason::new(ReasonCode::Finished, ""));
                self.check_ends();
            }
            (false, Side::Dialler) => self.leave(end),
            (false, Side::Acceptor) => {
                self.finish(Reason::new(ReasonCode::MasterClosed, &end.to_string()), end, now);
            }
        }
    }

    /// The local socket failed, or the local Redis accepts no more data. This ends any kind of link.
    pub fn local_broken(&mut self, now: Instant) {
        let end = End::LocalClosed(self.side);
        match (self.passthrough, self.side) {
            (true, _) => {
                let words = "the connection at the other end broke";
                self.abort(Reason::new(ReasonCode::ReplicaClosed, words), end);
            }
            (false, Side::Dialler) if self.closing.is_open() => {
                self.abort(Reason::new(ReasonCode::ReplicaClosed, &end.to_string()), end);
            }
            (false, _) => self.local_closed(now),
        }
    }

    /// The replica has left, and the link is over. What it had sent, its last acknowledgement, still
    /// goes to the master where something carries the link. Before the sync has begun nothing does:
    /// no request for a sync may reach the master late.
    fn leave(&mut self, end: End) {
        let reason = Reason::new(ReasonCode::ReplicaClosed, &end.to_string());
        let left = self.send.offered() - self.send.acknowledged();
        let carried = self.liveness.carrying() > 0 && self.is_armed();
        if !carried || left == 0 || left > LEAVE_BYTES {
            return self.abort(reason, end);
        }
        if self.closing.leave(self.send.offered(), reason, end) {
            self.receive.clear();
            self.urgent.clear();
            self.acks.clear();
        }
    }

    /// Ends the link after what was offered so far, which is still delivered.
    pub fn finish(&mut self, reason: Reason, end: End, now: Instant) {
        if self.closing.is_open() {
            self.closing.drain(reason, end, now);
            self.check_ends();
        }
    }

    /// Ends the link at once. Both sides drop their buffered data.
    pub fn abort(&mut self, reason: Reason, end: End) {
        if self.closing.abort(reason, end) {
            self.drop_buffered();
            self.acks.clear();
        }
    }

    /// The gateway stops: it sends what was read, then a GOODBYE.
    pub fn stop(&mut self, reason: Reason) {
        self.closing.stop(reason);
    }

    /// The gateway stops now and sends nothing more; the far side drops the rest.
    pub fn stopped(&mut self, reason: Reason) {
        self.abort(reason, End::Stopping);
    }

    /// The far side broke the protocol.
    pub fn fault(&mut self, error: &ProtocolError) {
        let words = error.to_string();
        self.abort(Reason::new(ReasonCode::Protocol, &words), End::Protocol(words));
    }

    /// The link is over for the far side: nothing is sent to it any more, or delivered from it.
    pub fn given_up(&mut self, end: End) {
        if self.closing.end(end) {
            self.send.clear();
            self.receive.clear();
        }
    }

    /// Another process of the same far gateway has started. A link without a lane will not be
    /// resumed by it. It ends, or waits a little for its replica if that may continue from what it
    /// [keeps](Link::keep).
    pub fn superseded(&mut self, now: Instant) {
        self.orphaned.get_or_insert(End::Superseded);
        self.check_orphaned(now);
    }

    /// As [`Link::superseded`], and there is no room for the link that its replica may come again with: it
    /// does not wait for that.
    pub fn give_way(&mut self, now: Instant) {
        if self.is_held() {
            self.send.keep(None, 0);
        }
        self.superseded(now);
    }

    /// The replica may ask over another link for as many of the `last` bytes that were offered. They are
    /// kept, as far as `most` bytes of memory suffice, until they are not wanted any more. `None` if it
    /// cannot ask for any. Compressed bytes are never kept. Only at the acceptor.
    pub fn keep(&mut self, last: Option<u64>, most: u64) {
        if last.is_some() || self.send.is_keeping() {
            let last = last.filter(|_| !self.codec.is_packing() && !self.is_ended());
            self.send.keep(last, most);
        }
    }

    /// Memory charged for bytes that are only [kept](Link::keep), in bytes.
    pub fn kept(&self) -> u64 {
        self.send.kept()
    }

    /// The last bytes that were offered, without a gap, if the link has ended because its replica has
    /// come again, and keeps them.
    pub fn take_left_behind(&mut self) -> Option<VecDeque<Chunk>> {
        self.left_behind.take()
    }

    /// What may be the replica of this link asks for its sync over another one, which was opened at
    /// `since`. A link that is held ends now. Any other must receive a byte soon: then it is reported as
    /// [`Event::Proven`]. Only at the acceptor.
    pub fn replica_returned(&mut self, since: Instant, now: Instant) {
        if self.is_ended() {
            return;
        }
        let shown = self.liveness.iter().any(|lane| !lane.suspect && lane.last_received > since);
        self.rival.appears(shown, self.liveness.hears_every(), self.liveness.dead_after(), now);
        if shown && !self.is_held() {
            self.events.push_back(Event::Proven);
        }
        self.check_rival(now);
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

    /// Whether the far side may still hold a link that has ended here, because it does not know.
    /// Only at the dialler.
    pub fn is_held_far_away(&self) -> bool {
        let ours = match self.closing.ended() {
            Some(End::Far(_)) => self.closing.is_delivered(),
            Some(
                End::LocalClosed(_)
                | End::CommandRefused(_)
                | End::Declined(_)
                | End::Protocol(_)
                | End::NotDelivered
                | End::MemoryShort
                | End::Costly
                | End::NoNewLane(..)
                | End::Forgotten(_),
            ) => true,
            // If it could send its reason, it has.
            Some(End::Stopping) => self.is_held(),
            _ => false,
        };
        ours && self.side == Side::Dialler && self.is_armed() && !self.passthrough && !self.hold().is_zero()
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
        let is_surplus = self.side == Side::Dialler && self.liveness.carrying() > self.lanes_agreed;
        if is_surplus
            && self.liveness.old() == 0
            && self.liveness.get(lane).is_some_and(|lane| lane.carries())
        {
            // A spare lane and those that it was dialled for: the first that carries has won.
            self.liveness.retire_surplus(lane, self.lanes_agreed);
        }
    }

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
            Item::Frame(Frame::Renew) if self.side == Side::Dialler => self.replace_lanes(),
            Item::Frame(Frame::Retire) => self.on_retire(lane, now),
            Item::Frame(Frame::Hello(_) | Frame::Accept(_) | Frame::Refuse(_) | Frame::Renew)
            | Item::Frame(Frame::Lists(_) | Frame::Want(_) | Frame::Piece(_)) => {
                return Err(ProtocolError::Misplaced);
            }
        }
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
    fn acknowledges_by(&self) -> impl Fn(Instant) -> Instant + use<> {
        let (is_several, ticks) = (self.shared || self.liveness.carrying() > 1, self.liveness.ticks());
        move |time| if is_several { time } else { ticks.after(time) }
    }

    /// When [`Link::handle_timeout`], [`Link::poll_transmit`] and [`Link::begin_dial`] must next be
    /// called.
    ///
    /// `io` returns the state of each lane. A frame for a lane without room waits for room, not for
    /// a time. A lane that was not read empty is not checked.
    pub fn poll_timeout(&self, io: &dyn Fn(u32) -> LaneIo) -> Option<Instant> {
        if self.is_ended() {
            return None;
        }
        let held = self.held().map(|held| held.since + held.within);
        // During a break the end of the hold counts.
        let last_bytes = self.closing.timeout().filter(|_| held.is_none());
        let check = self.liveness.next_check(io);
        let beat = self.liveness.next_heartbeat(io);
        let late = self.lateness.late();
        let ack = self.acks.due().filter(|_| self.liveness.is_any_speaker(late, io));
        let judge = self.judge_due();
        let rival = self.rival.due();
        [last_bytes, held, check, beat, ack, judge, rival, self.renew_by, self.dial_due()]
            .into_iter()
            .flatten()
            .min()
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
        if self.liveness.carrying() > 0 && self.liveness.get(lane).is_some_and(|lane| lane.retiring) {
            // Another has taken its place.
            self.lane_lost(lane, loss, now);
        } else if self.liveness.carrying() > 0 {
            // The other lanes carry its data.
            self.send.lose(slot);
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

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cut_old(now);
        self.judge_lanes(now);
        self.check_rival(now);
        if let Some(held) = self.held() {
            if now >= held.since + held.within && !self.is_ended() {
                let end = End::NoNewLane(held.cause.clone(), held.within);
                let end = self.orphaned.take().unwrap_or(end);
                self.abort(Reason::new(ReasonCode::TimedOut, &end.to_string()), end);
            }
            return;
        }
        if let Some(end) = self.closing.expired(now) {
            let words = "the last bytes could not be delivered in time";
            self.abort(Reason::new(ReasonCode::TimedOut, words), end);
        }
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
        self.is_resumable() && self.needs_lane() && (1..=self.lanes_wanted()).contains(&carrying)
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

    /// A dial was accepted by a far side that has received everything below `received`. True if the
    /// lane is used. If any lane was sufficient, the other dials are then given up.
    pub fn dialled(&mut self, lane: u32, received: u64, now: Instant) -> bool {
        let Some(dial) = self.dials.answered(lane) else { return false };
        if self.is_ended() || !self.join(lane, &dial.alive, received, now) {
            return false;
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

    /// Every lane must be replaced by a new one: this side's certificates have changed. A lane that
    /// was not replaced within [`RENEW_WITHIN`] is cut.
    pub fn renew(&mut self, now: Instant) {
        if self.is_ended() {
            return;
        }
        self.renew_by = Some(now + RENEW_WITHIN);
        self.replace_lanes();
        if self.side == Side::Acceptor {
            self.urgent.push(Frame::Renew);
        }
    }

    /// Marks every lane for replacement.
    fn replace_lanes(&mut self) {
        self.liveness.replace_all();
        self.dials.forgive();
    }

    /// Cuts the lanes that should have been replaced by now, and ends a link that has no other: the
    /// certificates in use do not admit its far side.
    fn cut_old(&mut self, now: Instant) {
        if self.renew_by.is_none_or(|by| now < by) {
            return;
        }
        self.renew_by = None;
        if self.liveness.fresh() == 0 && self.liveness.carrying() > 0 {
            let reason = Reason::new(ReasonCode::NotAvailable, &End::Outdated.to_string());
            return self.abort(reason, End::Outdated);
        }
        let old: Vec<u32> = self.liveness.iter().filter(|lane| lane.old).map(|lane| lane.number).collect();
        for lane in old {
            self.lane_lost(lane, LaneLoss::Outdated, now);
        }
    }

    /// Whether the far gateway has said that it stops, and the link waits for its replica.
    fn is_left(&self) -> bool {
        matches!(self.orphaned, Some(End::FarStopping(_)))
    }

    /// Closes the lanes of a far gateway that stops, once everything that it has sent is here.
    fn check_left(&mut self, now: Instant) {
        if !self.is_left() || !self.receive.is_complete() || self.is_held() {
            return;
        }
        let lanes: Vec<u32> = self.liveness.iter().map(|lane| lane.number).collect();
        lanes.into_iter().for_each(|lane| self.drop_lane(lane, true));
        self.suspend(LaneLoss::Closed, now);
    }

    /// A link without a lane whose far gateway is gone ends, unless its replica may continue from what is
    /// kept: then it waits for that.
    fn check_orphaned(&mut self, now: Instant) {
        if !self.is_held() || self.is_ended() {
            return;
        }
        if self.send.is_keeping() {
            if self.orphaned.is_some() {
                self.liveness.wait_until(now + RETURN_WITHIN);
            }
        } else if let Some(end) = self.orphaned.take() {
            let words = "another process of the same gateway has taken over";
            self.abort(Reason::new(ReasonCode::Superseded, words), end);
        }
    }

    fn check_rival(&mut self, now: Instant) {
        if self.rival.wins(self.is_held(), now) && !self.is_ended() {
            let end = End::Returned;
            // The bytes are the end of the stream only as long as all that comes is taken.
            if self.send.is_keeping() && self.closing.takes_bytes() {
                self.left_behind = Some(self.send.leave_behind());
            }
            self.abort(Reason::new(ReasonCode::Superseded, &end.to_string()), end);
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
        for number in left {
            self.drop_lane(number, false);
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

    /// When lanes must next be judged. A link with one lane has no other to use.
    fn judge_due(&self) -> Option<Instant> {
        if !self.reports || self.liveness.read() < 2 {
            return None;
        }
        let read = self.liveness.iter().filter(|lane| !lane.suspect);
        read.filter_map(|lane| self.lateness.due(lane.slot, self.send.carried_since(lane.slot)?)).min()
    }

    /// Judges the lanes that should have delivered something by now. What only late lanes carry is
    /// sent again over others.
    fn judge_lanes(&mut self, now: Instant) {
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

    /// The far side sends nothing more on a lane. Only the dialler starts this.
    fn on_retire(&mut self, lane: u32, now: Instant) {
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

    /// Whether a half-full window has waited for its oldest bytes for more than two round trips.
    /// Then they are copied to another lane, if the far side does not report what it has received.
    fn oldest_is_stuck(&self, now: Instant) -> bool {
        !self.reports && self.shared && self.send.is_half_full() && self.round_trip.is_stalled(now)
    }

    /// Whether the link still has anything to send or to receive.
    fn needs_lane(&self) -> bool {
        let is_done = self.closing.is_delivering() && self.receive.is_complete();
        !is_done && !self.is_ended()
    }

    fn is_resumable(&self) -> bool {
        !self.passthrough && !self.hold().is_zero() && !self.closing.is_far_gone() && self.is_armed()
    }

    /// Removes a lane, if it is there.
    fn drop_lane(&mut self, lane: u32, retired: bool) {
        if let Some(state) = self.liveness.remove(lane) {
            self.send.lose(state.slot);
            self.lateness.removed(state.slot);
            self.events.push_back(Event::LaneClosed { lane, retired });
        }
    }

    fn drop_buffered(&mut self) {
        self.send.clear();
        self.receive.clear();
        self.urgent.clear();
    }

    /// Sends again over the next lane what may have been lost with this one.
    fn requeue_control(&mut self, now: Instant) {
        self.judge_lanes(now);
        if !self.is_ended() {
            self.acks.requeue(self.receive.written());
            self.closing.requeue();
            self.round_trip.restart(now);
            let renewing = self.renew_by.is_some() && self.liveness.old() > 0;
            if renewing && self.side == Side::Acceptor && !self.urgent.contains(&Frame::Renew) {
                self.urgent.push(Frame::Renew);
            }
        }
    }

    /// A lane no longer carries the link. If it was the last, a break begins or the link ends.
    fn suspend(&mut self, loss: LaneLoss, now: Instant) {
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

    /// Ends the time after a break in which more is read than usual.
    fn check_behind(&mut self) {
        if self.behind && !self.is_held() && self.send.unsent() < self.read_ahead() {
            self.behind = false;
        }
    }

    /// Ends the link if nothing remains to be done.
    fn check_ends(&mut self) {
        let all_acknowledged = self.send.acknowledged() == self.send.offered();
        self.closing.check(all_acknowledged, self.receive.finished());
    }
}

/// The slots that are bits in `slots`.
fn slots(slots: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |slot| slots & 1 << slot != 0)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
