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
//! - [`Link::finish`], [`Link::stop`], [`Link::abort`], [`Link::renew`], [`Link::refuse`]
//!   for what this gateway decides;
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
//! nothing, `dials` the dials for new lanes. [`Link`] joins them: here its local Redis and its end,
//! in `frames` what it sends and receives, in `lanes` which lanes carry it, and in `returning` what
//! becomes of it if its far gateway is gone or its replica comes again.

mod acks;
mod closing;
mod codec;
pub mod compress;
pub mod dials;
mod end;
mod frames;
mod kept;
mod lanes;
mod lateness;
mod liveness;
pub mod reassembly;
mod returning;
pub mod rival;
mod ticks;
pub mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::acks::{Acks, RoundTrip};
use self::closing::Closing;
use self::codec::Codec;
use self::compress::Packed;
use self::dials::Dials;
pub use self::end::{ByCause, End, LaneLoss, ProtocolError};
use self::lateness::Lateness;
use self::liveness::Liveness;
pub use self::liveness::{Held, LaneIo};
use self::reassembly::Reassembly;
use self::rival::Rival;
use self::window::Window;
use crate::buffer::{Chunk, HEADROOM};
use crate::wire::frame::Frame;
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

/// Time without an acknowledgement, though something is under way, after which the local Redis is
/// read as in a break.
const STUCK: Duration = Duration::from_secs(1);

/// Time for which a spare lane stays beside those that it was dialled for. A path that was gone for a
/// while may soon be gone again, and each lane then comes back in its own time.
const BESIDE: Duration = Duration::from_secs(30);

/// Number of lanes that a link has meanwhile, if it has fewer otherwise.
const PAIR: usize = 2;

/// Time within which another lane delivers what a lost lane carried.
const GAP: Duration = Duration::from_secs(2);

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
    /// Until when a spare lane stays beside the others. Only at the dialler.
    beside_until: Option<Instant>,
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
    /// Whether the link is held, is stuck, or has [fallen behind](Link::fall_behind), or still has to send
    /// more of what it took in meanwhile than it usually reads ahead.
    behind: bool,
    /// Control frames to send before any more data.
    urgent: Vec<Frame>,
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
            beside_until: None,
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
            _ => self.usual_room(),
        };
        self.codec.plain_room(room.min(memory))
    }

    /// Number of bytes that may be taken in by a link that is not behind.
    fn usual_room(&self) -> u64 {
        self.send.room().min(self.read_ahead().saturating_sub(self.send.unsent()))
    }

    /// Number of unsent bytes above which a link that has lanes reads no more.
    fn read_ahead(&self) -> u64 {
        READ_AHEAD * self.liveness.carrying().max(1) as u64
    }

    /// Largest chunk to offer: the far side accepts as much, and no lane delays the others for long.
    pub fn max_payload(&self) -> usize {
        if self.is_shared() { self.max_payload.min(SHARED_PAYLOAD) } else { self.max_payload }
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

    /// Number of carried bytes that were taken from the local Redis and are not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.send.offered() - self.send.acknowledged()
    }

    /// Number of bytes so far that were compressed here, or came compressed: before and after.
    pub fn packed(&self) -> Packed {
        self.codec.packed()
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
        self.liveness.breaks().iter().sum()
    }

    /// Number of breaks so far, by cause.
    pub fn breaks_by_cause(&self) -> ByCause {
        *self.liveness.breaks()
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

    /// Number of lanes that are to be replaced.
    pub fn lanes_to_replace(&self) -> usize {
        self.liveness.old()
    }

    /// Whether both sides have retired this lane.
    pub fn is_retired(&self, lane: u32) -> bool {
        self.liveness.get(lane).is_some_and(|lane| lane.is_retired())
    }

    /// Whether several lanes share the link, or may at any time.
    pub fn is_shared(&self) -> bool {
        self.shared || self.liveness.carrying() > 1
    }

    /// Takes bytes read from the local Redis, preferably at most [`Link::max_payload`] of them.
    pub fn offer(&mut self, chunk: Chunk) {
        if self.closing.is_open() {
            let most = self.max_payload();
            self.send.limit_payload(most);
            self.codec.pack(chunk, most, |chunk| self.send.offer(chunk));
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

    /// What is offered next is in memory already, and what the local Redis sends meanwhile is taken in as
    /// in a break, until all of it is sent.
    pub fn fall_behind(&mut self) {
        self.behind = true;
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
                | End::Moved(_)
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
        let stuck = self.stuck_at();
        [last_bytes, held, check, beat, ack, judge, rival, stuck, self.beside_until, self.dial_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.judge_lanes(now);
        self.check_rival(now);
        self.end_beside(now);
        if self.stuck_at().is_some_and(|at| at <= now) {
            self.fall_behind();
        }
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

    fn drop_buffered(&mut self) {
        self.send.clear();
        self.receive.clear();
        self.urgent.clear();
    }

    /// Ends the time after a break in which more is read than usual.
    fn check_behind(&mut self) {
        if self.behind && !self.is_held() && !self.waits_for_path() {
            self.behind = false;
        }
    }

    /// Whether no more is usually taken in, and not because the far side's Redis is slow.
    fn waits_for_path(&self) -> bool {
        let is_full = |room| self.codec.plain_room(room) == 0;
        is_full(self.read_ahead().saturating_sub(self.send.unsent()))
            || is_full(self.send.room()) && self.under_way_since().is_some()
    }

    /// Since when the oldest bytes are under way that have not arrived.
    fn under_way_since(&self) -> Option<Instant> {
        self.liveness.iter().filter_map(|lane| self.send.carried_since(lane.slot)).min()
    }

    /// When the path counts as gone although the link has lanes: nothing of what is under way has
    /// arrived for a while, and the local Redis waits. The path may work again, and be gone again,
    /// before a lane is dead; and Redis drops a replica whose stream nobody reads.
    fn stuck_at(&self) -> Option<Instant> {
        if self.behind || !self.waits_for_path() || !self.is_resumable() {
            return None;
        }
        Some(self.under_way_since()?.max(self.round_trip.progress()) + STUCK)
    }

    /// Ends the link if nothing remains to be done.
    fn check_ends(&mut self) {
        let all_acknowledged = self.send.acknowledged() == self.send.offered();
        self.closing.check(all_acknowledged, self.receive.finished());
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
