//! A link: one replica connection carried end to end, a byte stream each way.
//!
//! This is the state machine of `replgate/1`, the same at both ends. It takes
//! frames, bytes and the time, and answers with frames, bytes and the next time
//! it wants to be asked; it owns no socket and no clock, and knows no Redis.
//! Offsets count bytes as they are carried. Any lane may carry any frame; once the
//! sync has begun, the link outlives its lanes for as long as `hold` says.

pub mod compress;
pub mod dials;
mod end;
mod liveness;
pub mod reassembly;
pub mod window;

use std::time::{Duration, Instant};

use self::compress::{Packer, Unpacker};
use self::dials::Dials;
pub use self::end::{End, LaneLoss};
pub use self::liveness::LaneIo;
use self::liveness::Lanes;
use self::reassembly::Reassembly;
use self::window::Window;
use crate::buffer::Chunk;
use crate::wire::frame::{Frame, Item};
use crate::wire::reason::{Reason, ReasonCode};
use crate::wire::terms::Agreed;

/// Written bytes after which an acknowledgement goes out at once.
const ACK_BYTES: u64 = 1024 * 1024;

/// Written bytes are acknowledged after this time, however few they are.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// How long what was read before an end may still be delivered without any
/// progress.
pub const DELIVER: Duration = Duration::from_secs(5);

/// And how long in all.
pub const DELIVER_AT_MOST: Duration = Duration::from_secs(600);

/// The oldest bytes are not copied to another lane before they have waited this long,
/// however short the round trip is: Redis may be slow.
const STUCK: Duration = Duration::from_millis(100);

/// Unsent bytes for each lane above which no more is read from the local Redis.
const READ_AHEAD: u64 = 1024 * 1024;

/// The largest payload where several lanes share a link: what is on one lane holds
/// up what is on the others.
const SHARED_PAYLOAD: usize = 128 * 1024;

/// How long a link outlives a last lane that was closed in good order, without an end
/// of the link: that is what a kernel does for a process that was killed, and a
/// gateway that lives is back within this time. What is cut or silent has all of
/// `hold`.
const GONE: Duration = Duration::from_millis(2500);

/// For what a lost lane carried to come again over another.
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

/// A break that is over: the link goes on where it was.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// How the last lane was lost.
    pub cause: LaneLoss,
    /// How long nothing carried the link.
    pub lasted: Duration,
    /// Bytes that are sent again.
    pub resending: u64,
}

/// Where the link is in its life.
#[derive(Debug)]
enum Phase {
    Open,
    /// This end takes nothing more from its Redis; it ends once all that was read
    /// is acknowledged, or without progress.
    LastSent(Deadline, End),
    /// Nothing more comes from the far side than it has declared; it ends once that
    /// is written, or without progress.
    LastReceived(Deadline, End),
    Ended(End),
}

/// Moves on with progress, up to a limit.
#[derive(Debug)]
struct Deadline {
    until: Instant,
    limit: Instant,
}

impl Deadline {
    fn new(now: Instant) -> Self {
        Self { until: now + DELIVER, limit: now + DELIVER_AT_MOST }
    }

    fn progress(&mut self, now: Instant) {
        self.until = (now + DELIVER).min(self.limit);
    }
}

/// Nothing carries the link, and it waits for a way back.
#[derive(Debug)]
pub struct Held {
    /// Since when.
    pub since: Instant,
    /// How long it waits.
    pub within: Duration,
    /// How the last lane was lost.
    pub cause: LaneLoss,
}

/// How long a chunk takes from being sent to its acknowledgement, at best.
#[derive(Debug, Default)]
struct RoundTrip {
    best: Option<Duration>,
    /// The chunk that is being timed: its last offset, and when it was sent.
    timed: Option<(u64, Instant)>,
}

impl RoundTrip {
    fn sent(&mut self, end: u64, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    fn acknowledged(&mut self, offset: u64, now: Instant) {
        if let Some((end, then)) = self.timed
            && offset >= end
        {
            self.timed = None;
            let took = now - then;
            self.best = Some(self.best.map_or(took, |best| best.min(took)));
        }
    }
}

/// The state machine of one link, at one end.
#[derive(Debug)]
pub struct Link {
    side: Side,
    passthrough: bool,
    send: Window,
    receive: Reassembly,
    /// The acceptor's stream is compressed from ARMED on: what makes blocks of it.
    packer: Option<Packer>,
    /// What makes bytes of them again at the dialler.
    unpacking: Option<Unpacking>,
    lanes: Lanes,
    dials: Dials,
    held: Option<Held>,
    resumed: Option<Resumed>,
    breaks: u64,
    /// When lanes of earlier certificates are cut.
    renew_by: Option<Instant>,
    superseded: bool,
    /// Lanes that both sides have retired.
    retired: Vec<u32>,
    /// The far side's stream has ended and all of it was written.
    delivered: bool,
    shared: bool,
    max_payload: usize,
    speak_every: Duration,
    dead_after: Duration,
    hold: Duration,
    phase: Phase,
    /// Control frames to send before any more data.
    urgent: Vec<Frame>,
    /// The last frame of a link that has ended, for every lane.
    parting: Option<Frame>,
    /// The end of this side's stream, to send after its last data.
    last: Option<Reason>,
    last_sent: bool,
    /// It was sent at least once.
    last_said: bool,
    goodbye: Option<Reason>,
    acknowledged: u64,
    ack_due: Option<Instant>,
    /// What was acknowledged last may have been lost with its lane.
    ack_again: bool,
    /// When the far side's acknowledgements last moved on.
    progress: Instant,
    round_trip: RoundTrip,
    /// At the acceptor: the offset to send with ARMED, then what was sent.
    /// At the dialler: the offset that came with it.
    armed: Option<u64>,
    /// Both sides can undo compression.
    packed: bool,
}

/// Compressed bytes on their way to the local Redis.
#[derive(Debug, Default)]
struct Unpacking {
    unpacker: Unpacker,
    /// What is being unpacked, no more than one chunk of plain bytes at a time.
    rest: Option<Chunk>,
    /// Carried bytes that were taken so far.
    taken: u64,
}

impl Link {
    /// A link on a lane that was just accepted. `agreed` is what the two gateways have
    /// stated, put together at this side.
    pub fn new(side: Side, agreed: &Agreed, now: Instant) -> Self {
        let &Agreed { passthrough, window, lanes, hold, compressed, max_data, speak_every, dead_after } =
            agreed;
        let max_payload = if agreed.is_shared() { SHARED_PAYLOAD.min(max_data) } else { max_data };
        Self {
            side,
            passthrough,
            send: Window::new(window, max_payload),
            receive: Reassembly::new(window),
            packer: None,
            unpacking: (compressed && side == Side::Dialler).then(Unpacking::default),
            lanes: Lanes::first(now),
            dials: Dials::new(lanes, now),
            held: None,
            resumed: None,
            breaks: 0,
            renew_by: None,
            superseded: false,
            retired: Vec::new(),
            delivered: false,
            shared: agreed.is_shared(),
            max_payload,
            speak_every,
            dead_after,
            hold,
            phase: Phase::Open,
            urgent: Vec::new(),
            last: None,
            parting: None,
            last_sent: false,
            last_said: false,
            goodbye: None,
            acknowledged: 0,
            ack_due: None,
            ack_again: false,
            progress: now,
            round_trip: RoundTrip::default(),
            armed: None,
            packed: compressed,
        }
    }

    /// At the acceptor: the level at which its stream is compressed, where both sides
    /// have stated that they can.
    pub fn compressing(mut self, level: i32) -> Self {
        if self.packed && self.side == Side::Acceptor {
            self.packer = Some(Packer::new(level));
        }
        self
    }

    /// Whether what is offered now is compressed.
    pub fn is_packing(&self) -> bool {
        self.packer.is_some() && self.armed.is_some()
    }

    /// Why the link ended, once it has. What [`Link::poll_transmit`] still gives
    /// should be sent; nothing else is to be done.
    pub fn ended(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether the sync has begun: from here on a link can be resumed.
    pub fn is_armed(&self) -> bool {
        match self.side {
            Side::Dialler => self.armed.is_some_and(|offset| self.receive.written() >= offset),
            Side::Acceptor => self.armed.is_some_and(|offset| self.send.acknowledged() >= offset),
        }
    }

    /// Bytes that may now be read from the local Redis. While nothing carries the
    /// link, as much as the window takes: Redis should not notice.
    pub fn read_room(&self) -> u64 {
        if !matches!(self.phase, Phase::Open) || self.last.is_some() || self.goodbye.is_some() {
            return 0;
        }
        let ahead = READ_AHEAD * self.lanes.carrying().max(1) as u64;
        let ahead = if self.held.is_some() { u64::MAX } else { ahead.saturating_sub(self.send.unsent()) };
        let room = self.send.room().min(ahead);
        // Blocks that do not shrink take a little more than they hold.
        if self.packer.is_some() { room.saturating_sub(128) / 16 * 15 } else { room }
    }

    /// The largest chunk that the far side takes.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Bytes of memory that the link counts for.
    pub fn memory(&self) -> u64 {
        self.send.charged() + self.receive.charged()
    }

    /// Bytes of memory that what has come with a gap before it counts for.
    pub fn scattered(&self) -> u64 {
        self.receive.scattered()
    }

    /// How many runs of bytes have come with a gap before them.
    pub fn runs(&self) -> usize {
        self.receive.runs()
    }

    /// The offset below which everything was received.
    pub fn received(&self) -> u64 {
        self.receive.received()
    }

    /// How long a gap may stay open that lanes out of step have left: until a silent lane
    /// is found out, and what it carried has come another way.
    pub fn gap_patience(&self) -> Duration {
        self.dead_after * 2 + GAP
    }

    /// The longest pause in which the far side still hears this one in time.
    pub fn speak_every(&self) -> Duration {
        self.speak_every
    }

    /// Whether bytes wait for the local Redis, in order: no lane need be read for
    /// there to be progress.
    pub fn has_ready(&self) -> bool {
        self.receive.has_ready() || self.unpacking.as_ref().is_some_and(|unpacking| unpacking.rest.is_some())
    }

    /// Bytes that were sent more than once.
    pub fn resent(&self) -> u64 {
        self.send.resent()
    }

    /// Whether nothing carries the link, and it waits for a way back.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The break that the link is in.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// How often nothing carried the link any more.
    pub fn breaks(&self) -> u64 {
        self.breaks
    }

    /// How long the link outlives its last lane.
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// A break that ended since the last call.
    pub fn take_resumed(&mut self) -> Option<Resumed> {
        self.resumed.take()
    }

    /// Whether this lane still belongs to the link; any other must be closed.
    pub fn has_lane(&self, lane: u32) -> bool {
        self.lanes.get(lane).is_some()
    }

    /// Lanes that carry the link now.
    pub fn lanes(&self) -> usize {
        self.lanes.carrying()
    }

    /// Whether the link may have several lanes at a time.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Takes bytes read from the local Redis, best at most [`Link::max_payload`] of them.
    pub fn offer(&mut self, chunk: Chunk) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        match &mut self.packer {
            Some(packer) if self.armed.is_some() => {
                // What does not shrink grows by a little, and must still fit a frame.
                let most = self.max_payload - self.max_payload / 128 - 64;
                for piece in chunk.bytes().chunks(most) {
                    packer.pack(piece, &mut |block| self.send.offer(block));
                }
            }
            _ if chunk.len() <= self.max_payload => self.send.offer(chunk),
            _ => {
                chunk.bytes().chunks(self.max_payload).for_each(|piece| self.send.offer(Chunk::copied(piece)))
            }
        }
    }

    /// The sync's reply ends at the current end of this side's stream. Acceptor
    /// only; the first call counts.
    pub fn arm(&mut self) {
        if self.armed.is_none() {
            self.armed = Some(self.send.offered());
            self.urgent.push(Frame::Armed(self.send.offered()));
        }
    }

    /// The next bytes for the local Redis, in order, and for how many carried bytes
    /// they stand.
    pub fn take(&mut self) -> Option<(Chunk, u64)> {
        let (Some(unpacking), true) = (&mut self.unpacking, self.armed.is_some()) else {
            let chunk = self.receive.take()?;
            let carried = chunk.len() as u64;
            if let Some(unpacking) = &mut self.unpacking {
                unpacking.taken += carried;
            }
            return Some((chunk, carried));
        };
        loop {
            let mut rest = unpacking.rest.take().or_else(|| self.receive.take())?;
            let before = self.armed.unwrap_or_default().saturating_sub(unpacking.taken);
            if before > 0 {
                // The reply of the sync, and what came before it, is as it is.
                let count = usize::try_from(before).unwrap_or(usize::MAX).min(rest.len());
                let piece = Chunk::copied(&rest.bytes()[..count]);
                rest.consume(count);
                unpacking.taken += count as u64;
                unpacking.rest = Some(rest).filter(|rest| !rest.is_empty());
                return Some((piece, count as u64));
            }
            match unpacking.unpacker.step(rest.bytes()) {
                Ok((count, made)) => {
                    rest.consume(count);
                    unpacking.taken += count as u64;
                    unpacking.rest = Some(rest).filter(|rest| !rest.is_empty());
                    if made.is_some() {
                        return made;
                    }
                }
                Err(error) => {
                    self.fault(&error.to_string());
                    return None;
                }
            }
        }
    }

    /// `count` carried bytes that [`Link::take`] gave were written to the local
    /// Redis, or need no writing.
    pub fn wrote(&mut self, count: u64, now: Instant) {
        self.receive.wrote(count);
        if let Phase::LastReceived(deadline, _) = &mut self.phase {
            deadline.progress(now);
        }
        if self.ack_due.is_none() && self.receive.written() > self.acknowledged {
            self.ack_due = Some(now + ACK_DELAY);
        }
        if self.side == Side::Dialler
            && self.is_armed()
            && self.armed.is_some_and(|offset| self.acknowledged < offset)
        {
            // From here on the far side can hold the link as well: without delay.
            self.ack_due = Some(now);
        }
        self.check_ends();
    }

    /// Whether the link ended with everything that the far side sent written to the
    /// local Redis, which may still have to read it.
    pub fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// Whether the far side's stream has ended and all of it was written: time to
    /// close the writing half of a passthrough's local socket.
    pub fn receive_finished(&self) -> bool {
        self.receive.finished()
    }

    /// The local Redis closed its connection or reset it, or will take no more.
    pub fn local_closed(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let end = End::LocalClosed(self.side);
        match (self.passthrough, self.side) {
            (true, _) => {
                self.last.get_or_insert(Reason::new(ReasonCode::Finished, ""));
                self.check_ends();
            }
            (false, Side::Dialler) => {
                self.abort(Reason::new(ReasonCode::ReplicaClosed, &end.to_string()), end)
            }
            (false, Side::Acceptor) => {
                self.finish(Reason::new(ReasonCode::MasterClosed, &end.to_string()), end, now)
            }
        }
    }

    /// The local socket broke: whatever the kind of link, it is over.
    pub fn local_broken(&mut self, now: Instant) {
        if self.passthrough {
            self.abort(
                Reason::new(ReasonCode::ReplicaClosed, "the connection at the other end broke"),
                End::LocalClosed(self.side),
            );
        } else {
            self.local_closed(now);
        }
    }

    /// Ends the link after what was offered so far, which is still delivered.
    pub fn finish(&mut self, reason: Reason, end: End, now: Instant) {
        if matches!(self.phase, Phase::Open) {
            self.last = Some(reason);
            self.phase = Phase::LastSent(Deadline::new(now), end);
            self.check_ends();
        }
    }

    /// Ends the link at once: both sides drop what they have buffered.
    pub fn abort(&mut self, reason: Reason, end: End) {
        if self.ended().is_none() {
            self.send.clear();
            self.receive.clear();
            self.urgent.clear();
            self.parting = Some(Frame::Abort(reason));
            self.last = None;
            self.goodbye = None;
            self.ack_due = None;
            self.ack_again = false;
            self.phase = Phase::Ended(end);
        }
    }

    /// The gateway stops: what was read is sent, then a GOODBYE.
    pub fn stop(&mut self, reason: Reason) {
        if self.ended().is_none() && self.goodbye.is_none() {
            self.goodbye = Some(reason);
        }
    }

    /// The gateway stops now, whatever was still to be sent; the far side drops the rest.
    pub fn stopped(&mut self, reason: Reason) {
        self.abort(reason, End::Stopping);
    }

    /// What an ended link has to say to a far side that could not be told: frames
    /// for any lane that it still accepts. Dialler only.
    pub fn last_words(&self) -> Vec<Frame> {
        let reason = match self.ended() {
            Some(end) if self.side == Side::Dialler => {
                Reason::new(ReasonCode::ReplicaClosed, &end.to_string())
            }
            _ => return Vec::new(),
        };
        vec![Frame::Ack(self.receive.written()), Frame::Abort(reason)]
    }

    /// Whether the far side may hold a link that has ended here, until it is told.
    /// Dialler only.
    pub fn is_held_far_away(&self) -> bool {
        let ours = match self.ended() {
            Some(End::Far(_)) => self.delivered,
            Some(
                End::LocalClosed(_)
                | End::CommandRefused(_)
                | End::Declined(_)
                | End::Protocol(_)
                | End::NotDelivered
                | End::MemoryShort
                | End::Costly
                | End::NoWayBack(..)
                | End::Forgotten(_),
            ) => true,
            // Where it could say so, it has.
            Some(End::Stopping) => self.held.is_some(),
            _ => false,
        };
        let armed = self.armed.is_some_and(|offset| self.receive.written() >= offset);
        ours && self.side == Side::Dialler && armed && !self.passthrough && !self.hold.is_zero()
    }

    /// The link ends because of what was heard while dialling: no lane is there to say
    /// anything on.
    pub fn given_up(&mut self, end: End) {
        if self.ended().is_none() {
            self.send.clear();
            self.receive.clear();
            self.phase = Phase::Ended(end);
        }
    }

    /// Bytes that went out for the first time, so far.
    pub fn sent(&self) -> u64 {
        self.send.sent()
    }

    /// Bytes as carried, both ways, so far.
    pub fn carried(&self) -> u64 {
        self.send.offered() + self.receive.received()
    }

    /// Whether a lane that is gone was retired by both sides; tells it once.
    pub fn take_retired(&mut self, lane: u32) -> bool {
        let at = self.retired.iter().position(|retired| *retired == lane);
        at.map(|at| self.retired.remove(at)).is_some()
    }

    /// A lane is gone. What it alone carried goes over another; the last one's loss
    /// begins a break, or ends a link that cannot be resumed.
    pub fn lane_lost(&mut self, lane: u32, loss: LaneLoss, now: Instant) {
        let Some(state) = self.lanes.get(lane) else { return };
        // One that was given up while it was opened says nothing of its process.
        let loss = match loss {
            LaneLoss::Closed if !state.proven => LaneLoss::Replaced,
            loss => loss,
        };
        if self.is_retired(lane) {
            self.retired.push(lane);
        }
        self.drop_lane(lane);
        self.say_again(now);
        self.without(loss, now);
    }

    /// Whether a lane ends as both sides want it.
    pub fn is_retired(&self, lane: u32) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.retired && lane.far_retired)
    }

    /// Any byte on a lane is a sign of life.
    pub fn heard(&mut self, lane: u32, now: Instant) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        lane.heard = now;
        if lane.suspect {
            lane.suspect = false;
            if lane.carries() {
                self.regained(now);
            }
        }
    }

    /// Takes what the decoder of `lane` found.
    pub fn handle(&mut self, lane: u32, item: Item<'_>, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.proven = true;
        let fault = match item {
            Item::Data { offset, bytes, left } => {
                self.receive.insert(offset, bytes, left).err().map(|error| error.to_string())
            }
            Item::Frame(Frame::Ack(offset)) => self.acknowledge(lane, offset, now),
            Item::Frame(Frame::Armed(offset)) => {
                let late = self.unpacking.as_ref().is_some_and(|unpacking| unpacking.taken > offset);
                let good = self.side == Side::Dialler && self.armed.is_none() && !late;
                self.armed = Some(offset);
                (!good).then(|| "an ARMED that was not expected".to_owned())
            }
            Item::Frame(Frame::Heartbeat) => None,
            Item::Frame(Frame::End { offset, reason }) => self.end_received(offset, reason, now),
            Item::Frame(Frame::Abort(reason)) => {
                self.send.clear();
                self.receive.clear();
                self.phase = Phase::Ended(End::Far(reason));
                None
            }
            Item::Frame(Frame::Goodbye { .. }) if self.is_far_stopping() => None,
            Item::Frame(Frame::Goodbye { offset, reason }) => {
                let fault = self.receive.declare_end(offset).err().map(|error| error.to_string());
                self.send.clear();
                self.phase = Phase::LastReceived(Deadline::new(now), End::FarStopping(reason));
                self.check_ends();
                fault
            }
            Item::Frame(Frame::Renew) if self.side == Side::Dialler => {
                self.replace_lanes();
                None
            }
            Item::Frame(Frame::Retire) => {
                self.retire_heard(lane, now);
                None
            }
            Item::Frame(Frame::Hello(_) | Frame::Accept(_) | Frame::Refuse(_) | Frame::Renew) => {
                Some("a frame that does not belong here".to_owned())
            }
        };
        if let Some(fault) = fault {
            self.fault(&fault);
        }
    }

    /// The far side sent what cannot be.
    pub fn fault(&mut self, fault: &str) {
        self.abort(Reason::new(ReasonCode::Protocol, fault), End::Protocol(fault.to_owned()));
    }

    /// Gives the next frame for `lane` to `put`, if there is one to send on it.
    pub fn poll_transmit(&mut self, lane: u32, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        let sent = self.transmit(lane, now, put);
        if sent && let Some(lane) = self.lanes.get_mut(lane) {
            lane.spoke = now;
        }
        sent
    }

    fn transmit(&mut self, number: u32, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        let ended = self.ended().is_some();
        let Some(lane) = self.lanes.get_mut(number) else { return false };
        if lane.retiring && !lane.retired && !ended {
            lane.retired = true;
            put(&Frame::Retire.encode());
            return true;
        }
        if !lane.carries() {
            return false;
        }
        if let Some(parting) = self.parting.as_ref().filter(|_| !lane.parted) {
            lane.parted = true;
            put(&parting.encode());
            return true;
        }
        let (slot, spoke) = (lane.slot, lane.spoke);
        if !self.urgent.is_empty() {
            put(&self.urgent.remove(0).encode());
            return true;
        }
        let unacknowledged = self.receive.written() - self.acknowledged;
        let ack_now = unacknowledged >= ACK_BYTES
            || self.ack_due.is_some_and(|due| due <= now)
            || (unacknowledged > 0
                && (self.send.unsent() > 0 || self.receive.finished() || self.ended().is_some()));
        if ack_now && unacknowledged > 0 || self.ack_again {
            self.acknowledged = self.receive.written();
            self.ack_due = None;
            self.ack_again = false;
            put(&Frame::Ack(self.acknowledged).encode());
            return true;
        }
        if self.oldest_is_stuck(now)
            && let Some(framed) = self.send.copy_oldest(slot)
        {
            put(framed);
            return true;
        }
        if let Some(framed) = self.send.send_next(slot) {
            put(framed);
            self.round_trip.sent(self.send.sent(), now);
            return true;
        }
        if let Some(reason) = self.last.as_ref().filter(|_| !self.last_sent) {
            put(&Frame::End { offset: self.send.offered(), reason: reason.clone() }.encode());
            (self.last_sent, self.last_said) = (true, true);
            self.check_ends();
            return true;
        }
        if let Some(reason) = self.goodbye.take() {
            self.parting = Some(Frame::Goodbye { offset: self.send.offered(), reason });
            self.phase = Phase::Ended(End::Stopping);
            return self.transmit(number, now, put);
        }
        if self.ended().is_none() && now >= spoke + self.speak_every {
            put(&Frame::Heartbeat.encode());
            return true;
        }
        false
    }

    /// When [`Link::handle_timeout`] and [`Link::poll_transmit`] next want the time.
    ///
    /// What is due on a lane that has no room waits for room and not for a time, and one
    /// that was not read empty is not judged: `io` tells of each.
    pub fn next_timeout(&self, io: &dyn Fn(u32) -> LaneIo) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Ended(_) => return None,
            // Until then it is the hold that counts.
            _ if self.held.is_some() => None,
            Phase::Open => None,
            Phase::LastSent(deadline, _) | Phase::LastReceived(deadline, _) => Some(deadline.until),
        };
        let held = self.held.as_ref().map(|held| held.since + held.within);
        let dead = self.lanes.next_judgement(self.dead_after, io);
        let with_room = || self.lanes.iter().filter(|lane| lane.carries() && io(lane.number).room);
        let beat = with_room().map(|lane| lane.spoke + self.speak_every).min();
        let ack = self.ack_due.filter(|_| with_room().next().is_some());
        [phase, held, dead, beat, ack, self.renew_by, self.dial_due()].into_iter().flatten().min()
    }

    /// Whether [`Link::judge`] would find this lane dead.
    pub fn seems_dead(&self, lane: u32, now: Instant) -> bool {
        self.lanes.get(lane).is_some_and(|lane| !lane.suspect && now >= lane.heard + self.dead_after)
    }

    /// Judges a lane whose socket was read empty: bytes that wait there are a sign of
    /// life. A silent one is suspect; it is kept, and read, until another takes its
    /// place, unless the link cannot be resumed.
    pub fn judge(&mut self, lane: u32, now: Instant) {
        if !self.seems_dead(lane, now) || self.ended().is_some() {
            return;
        }
        let others = self.lanes.iter().any(|other| other.number != lane && other.carries());
        let Some(state) = self.lanes.get_mut(lane) else { return };
        let loss = LaneLoss::Silent(now - state.heard);
        state.suspect = true;
        if others {
            // They carry what it was to carry.
            let slot = state.slot;
            self.send.lose(slot);
            self.say_again(now);
        } else if self.is_resumable() && self.needs_lane() {
            self.without(loss, now);
        } else {
            self.lane_lost(lane, loss, now);
        }
    }

    /// Does what the time has brought.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cut_old(now);
        if let Some(held) = &self.held {
            if now >= held.since + held.within && self.ended().is_none() {
                let end = End::NoWayBack(held.cause.clone(), held.within);
                self.abort(Reason::new(ReasonCode::TimedOut, &end.to_string()), end);
            }
            return;
        }
        let reason = || Reason::new(ReasonCode::TimedOut, "the last bytes could not be delivered in time");
        match &self.phase {
            Phase::LastSent(deadline, end) if now >= deadline.until => {
                let end = if matches!(end, End::LocalClosed(_)) { End::NotDelivered } else { end.clone() };
                self.abort(reason(), end);
            }
            Phase::LastReceived(deadline, _) if now >= deadline.until => {
                self.abort(reason(), End::NotDelivered);
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, lane: u32, offset: u64, now: Instant) -> Option<String> {
        if let Some(lane) = self.lanes.get_mut(lane) {
            if offset < lane.acknowledged {
                return Some(format!("takes back an acknowledgement, to offset {offset}"));
            }
            lane.acknowledged = offset;
        }
        let before = self.send.acknowledged();
        if let Err(error) = self.send.acknowledge(offset) {
            return Some(error.to_string());
        }
        if self.send.acknowledged() > before {
            self.progress = now;
            self.round_trip.acknowledged(offset, now);
            if let Phase::LastSent(deadline, _) = &mut self.phase {
                deadline.progress(now);
            }
        }
        self.check_ends();
        None
    }

    fn end_received(&mut self, offset: u64, reason: Reason, now: Instant) -> Option<String> {
        if !self.passthrough && self.side == Side::Acceptor {
            return Some("an end of the replica's stream: a replica only aborts".to_owned());
        }
        if let Err(error) = self.receive.declare_end(offset) {
            return Some(error.to_string());
        }
        if !self.passthrough && !matches!(self.phase, Phase::LastReceived(..)) {
            self.send.clear();
            self.phase = Phase::LastReceived(Deadline::new(now), End::Far(reason));
        }
        self.check_ends();
        None
    }

    /// The far side sends nothing more on a lane. Only the dialler begins it.
    fn retire_heard(&mut self, lane: u32, now: Instant) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        (state.retiring, state.far_retired) = (true, true);
        let slot = state.slot;
        if state.retired {
            // It answers this side's own, which came after everything else.
            self.send.settle(slot);
            self.lane_lost(lane, LaneLoss::Closed, now);
        } else if self.lanes.carrying() == 0 {
            self.without(LaneLoss::Closed, now);
        }
    }

    /// Whether a window half full waits for its oldest bytes for longer than two
    /// round trips, which is worth a copy over another lane.
    fn oldest_is_stuck(&self, now: Instant) -> bool {
        self.shared
            && self.send.is_half_full()
            && self.round_trip.best.is_some_and(|best| now > self.progress + (best * 2).max(STUCK))
    }

    /// Whether the link still has anything to send or to hear.
    fn needs_lane(&self) -> bool {
        match &self.phase {
            Phase::Ended(_) => false,
            Phase::LastReceived(..) => !self.receive.is_complete(),
            _ => true,
        }
    }

    fn is_resumable(&self) -> bool {
        !self.passthrough && !self.hold.is_zero() && !self.is_far_stopping() && self.is_armed()
    }

    fn is_far_stopping(&self) -> bool {
        matches!(self.phase, Phase::LastReceived(_, End::FarStopping(_)))
    }

    /// Takes a lane out; false if it was not there.
    fn drop_lane(&mut self, lane: u32) -> bool {
        let Some(lane) = self.lanes.remove(lane) else { return false };
        self.send.lose(lane.slot);
        true
    }

    /// What may have been lost with a lane is said again over the next.
    fn say_again(&mut self, now: Instant) {
        if self.ended().is_none() {
            self.ack_again = self.receive.written() > 0;
            self.last_sent = false;
            self.progress = now;
            let renewing = self.renew_by.is_some() && self.lanes.iter().any(|lane| lane.old);
            if renewing && self.side == Side::Acceptor && !self.urgent.contains(&Frame::Renew) {
                self.urgent.push(Frame::Renew);
            }
        }
    }

    /// A lane carries no more: a break begins if it was the last, or the end.
    fn without(&mut self, loss: LaneLoss, now: Instant) {
        if self.ended().is_some() || self.held.is_some() || self.lanes.carrying() > 0 {
            return;
        }
        if !self.needs_lane() {
            return self.check_ends();
        }
        if self.is_resumable() {
            let within = if loss == LaneLoss::Closed { GONE.min(self.hold) } else { self.hold };
            self.held = Some(Held { since: now, within, cause: loss });
            self.breaks += 1;
            self.dials.at_once(now);
            return self.check_superseded();
        }
        if self.lanes.is_any_retiring() {
            // What is under way there still comes.
            return;
        }
        let end = match &self.phase {
            Phase::LastSent(_, End::LocalClosed(_)) | Phase::LastReceived(..) => End::NotDelivered,
            Phase::LastSent(_, end) => end.clone(),
            // The far side was done first, and closed.
            Phase::Open
                if loss == LaneLoss::Closed
                    && self.passthrough
                    && self.last_said
                    && self.receive.finished() =>
            {
                End::Finished
            }
            _ => End::LaneLost(loss),
        };
        self.send.clear();
        self.receive.clear();
        self.urgent.clear();
        self.phase = Phase::Ended(end);
    }

    /// A lane carries again.
    fn regained(&mut self, now: Instant) {
        let Some(held) = self.held.take() else { return };
        // What lies on lanes that are still suspect goes over this one.
        let suspect: Vec<u8> = self.lanes.iter().filter(|lane| lane.suspect).map(|lane| lane.slot).collect();
        suspect.into_iter().for_each(|slot| self.send.lose(slot));
        // The way may be another one now.
        self.round_trip = RoundTrip::default();
        let resending = self.send.to_resend();
        self.resumed = Some(Resumed { cause: held.cause, lasted: now - held.since, resending });
        if let Phase::LastSent(deadline, _) | Phase::LastReceived(deadline, _) = &mut self.phase {
            deadline.progress(now);
        }
    }

    /// Ends the link where all that remained to be done is done.
    fn check_ends(&mut self) {
        let all_acknowledged = self.send.acknowledged() == self.send.offered();
        let end = match &self.phase {
            Phase::Open
                if self.passthrough && self.last_sent && all_acknowledged && self.receive.finished() =>
            {
                End::Finished
            }
            Phase::LastSent(_, end) if self.last_sent && all_acknowledged => end.clone(),
            Phase::LastReceived(_, end) if self.receive.finished() => {
                self.delivered = true;
                end.clone()
            }
            _ => return,
        };
        self.phase = Phase::Ended(end);
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
