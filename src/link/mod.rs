//! A link: one replica connection carried end to end, a byte stream each way.
//!
//! This is the state machine of `replgate/1`, the same at both ends. It takes
//! frames, bytes and the time, and answers with frames, bytes and the next time
//! it wants to be asked; it owns no socket and no clock, and knows no Redis.
//! Offsets count bytes as they are carried. A lane that is lost takes the link
//! with it.

pub mod frame;
pub mod reassembly;
pub mod tlv;
pub mod window;

use std::time::{Duration, Instant};

use self::frame::{Frame, Item};
use self::reassembly::Reassembly;
use self::tlv::{Code, Terms, Why};
use self::window::Window;
use crate::buffer::Chunk;

/// Written bytes after which an acknowledgement goes out at once.
const ACK_BYTES: u64 = 1024 * 1024;

/// Written bytes are acknowledged after this time, however few they are.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// How long what was read before an end may still be delivered without any
/// progress.
pub const DELIVER: Duration = Duration::from_secs(5);

/// And how long in all.
pub const DELIVER_AT_MOST: Duration = Duration::from_secs(600);

/// Unsent bytes above which no more is read from the local Redis.
const READ_AHEAD: u64 = 1024 * 1024;

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At the replica's site.
    Dialler,
    /// At the master's site.
    Acceptor,
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// This side's Redis closed its connection.
    LocalClosed,
    /// The far side ended it, in these words.
    Far(Why),
    /// The far gateway stops as planned, in these words.
    FarStopping(Why),
    /// This gateway stops.
    Stopping,
    /// A command that is no part of replication, in words for the log.
    CommandRefused(String),
    /// The lane was lost.
    LaneLost(LaneLoss),
    /// The far side broke the protocol.
    Protocol(String),
    /// What was left could not be delivered: no progress for [`DELIVER`].
    NotDelivered,
    /// Both directions of a plain tunnel ended.
    Finished,
}

/// How a lane was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneLoss {
    /// Nothing was heard for this long.
    Silent(Duration),
    /// The far end closed it without ending the link.
    Closed,
    /// An error of the socket or of TLS.
    Failed(String),
}

impl std::fmt::Display for LaneLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(time) => {
                write!(f, "nothing heard from the far gateway for {:.1} s", time.as_secs_f64())
            }
            Self::Closed => f.write_str("the far gateway closed the connection without ending the link"),
            Self::Failed(error) => f.write_str(error),
        }
    }
}

/// Where the link is in its life.
#[derive(Debug)]
enum Phase {
    Open,
    /// This end takes nothing more from its Redis; it ends once all that was read
    /// is acknowledged, or without progress.
    LastSent(Deadline, End),
    /// Nothing more comes from the far side; it ends once what came is written, or
    /// without progress.
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

#[derive(Debug)]
struct LaneClock {
    heard: Instant,
    spoke: Instant,
}

/// The state machine of one link, at one end.
#[derive(Debug)]
pub struct Link {
    side: Side,
    plain: bool,
    send: Window,
    receive: Reassembly,
    lane: LaneClock,
    /// The lane is gone, and the link lives on only to write what came over it.
    lane_gone: bool,
    /// The far side's stream has ended and all of it was written.
    delivered: bool,
    max_payload: usize,
    speak_every: Duration,
    dead_after: Duration,
    phase: Phase,
    /// Control frames to send before any more data.
    urgent: Vec<Frame>,
    /// The end of this side's stream, to send after its last data.
    last: Option<Why>,
    last_sent: bool,
    goodbye: Option<Why>,
    acknowledged: u64,
    ack_due: Option<Instant>,
    /// At the acceptor: the offset to send with ARMED, then what was sent.
    /// At the dialler: the offset that came with it.
    armed: Option<u64>,
}

impl Link {
    /// A link on a lane that was just accepted. `ours` and `theirs` are what the
    /// two gateways stated; `plain` says that any bytes are carried and each
    /// direction closes on its own.
    pub fn new(side: Side, plain: bool, ours: &Terms, theirs: &Terms, now: Instant) -> Self {
        let window = ours.window.min(theirs.window);
        Self {
            side,
            plain,
            send: Window::new(window),
            receive: Reassembly::new(window, ours.lanes.min(theirs.lanes) > 1),
            lane: LaneClock { heard: now, spoke: now },
            lane_gone: false,
            delivered: false,
            max_payload: frame::MAX_DATA.min(theirs.max_frame as usize),
            speak_every: ours.heartbeat.min(theirs.dead_after / 3),
            dead_after: ours.dead_after,
            phase: Phase::Open,
            urgent: Vec::new(),
            last: None,
            last_sent: false,
            goodbye: None,
            acknowledged: 0,
            ack_due: None,
            armed: None,
        }
    }

    /// Why the link ended, once it has. What [`Link::poll_transmit`] still gives
    /// should be sent; nothing else is to be done.
    pub fn ended(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether the sync has begun: from here on a link could be resumed.
    pub fn is_armed(&self) -> bool {
        match self.side {
            Side::Dialler => self.armed.is_some_and(|offset| self.receive.written() >= offset),
            Side::Acceptor => self.armed.is_some_and(|offset| self.send.acknowledged() >= offset),
        }
    }

    /// Bytes that may now be read from the local Redis.
    pub fn read_room(&self) -> u64 {
        if !matches!(self.phase, Phase::Open) || self.last.is_some() || self.goodbye.is_some() {
            return 0;
        }
        self.send.room().min(READ_AHEAD.saturating_sub(self.send.unsent()))
    }

    /// The largest chunk that the far side takes.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Whether the lane is gone and must not be used any more.
    pub fn lane_is_gone(&self) -> bool {
        self.lane_gone
    }

    /// Takes bytes read from the local Redis, at most [`Link::max_payload`] of them.
    pub fn offer(&mut self, chunk: Chunk) {
        if matches!(self.phase, Phase::Open) {
            self.send.offer(chunk);
        }
    }

    /// The offset after the last byte offered, in this side's stream.
    pub fn offered(&self) -> u64 {
        self.send.offered()
    }

    /// The sync's reply ends at the current end of this side's stream. Acceptor
    /// only; the first call counts.
    pub fn arm(&mut self) {
        if self.armed.is_none() {
            self.armed = Some(self.send.offered());
            self.urgent.push(Frame::Armed(self.send.offered()));
        }
    }

    /// The next bytes for the local Redis, in order.
    pub fn take(&mut self) -> Option<Chunk> {
        self.receive.take()
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
        self.check_ends();
    }

    /// Whether the link ended with everything that the far side sent written to the
    /// local Redis, which may still have to read it.
    pub fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// Whether the far side's stream has ended and all of it was written: time to
    /// close the writing half of a plain tunnel's local socket.
    pub fn receive_finished(&self) -> bool {
        self.receive.finished()
    }

    /// The local Redis closed its connection or reset it, or will take no more.
    pub fn local_closed(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        match (self.plain, self.side) {
            (true, _) => {
                self.last.get_or_insert(Why::new(Code::Finished, ""));
                self.check_ends();
            }
            (false, Side::Dialler) => self
                .abort(Why::new(Code::ReplicaClosed, "the replica closed its connection"), End::LocalClosed),
            (false, Side::Acceptor) => {
                self.finish(
                    Why::new(Code::MasterClosed, "the master closed its connection"),
                    End::LocalClosed,
                    now,
                );
            }
        }
    }

    /// The local socket broke: whatever the kind of link, it is over.
    pub fn local_broken(&mut self, now: Instant) {
        if self.plain {
            self.abort(
                Why::new(Code::ReplicaClosed, "the connection at the other end broke"),
                End::LocalClosed,
            );
        } else {
            self.local_closed(now);
        }
    }

    /// Ends the link after what was offered so far, which is still delivered.
    pub fn finish(&mut self, why: Why, end: End, now: Instant) {
        if matches!(self.phase, Phase::Open) {
            self.last = Some(why);
            self.phase = Phase::LastSent(Deadline::new(now), end);
            self.check_ends();
        }
    }

    /// Ends the link at once: both sides drop what they have buffered.
    pub fn abort(&mut self, why: Why, end: End) {
        if self.ended().is_none() {
            self.send.clear();
            self.receive.clear();
            self.urgent = vec![Frame::Abort(why)];
            self.last = None;
            self.goodbye = None;
            self.ack_due = None;
            self.phase = Phase::Ended(end);
        }
    }

    /// The gateway stops: what was read is sent, then a GOODBYE.
    pub fn stop(&mut self, why: Why) {
        if self.ended().is_none() && self.goodbye.is_none() {
            self.goodbye = Some(why);
        }
    }

    /// The lane is gone. What had come over it before the far side ended the link
    /// in good order is still written; anything else ends at once.
    pub fn lane_lost(&mut self, loss: LaneLoss) {
        if self.ended().is_some() || self.lane_gone {
            return;
        }
        self.send.clear();
        self.urgent.clear();
        self.lane_gone = true;
        let end = match &self.phase {
            Phase::LastReceived(..) => return self.check_ends(),
            Phase::LastSent(_, End::LocalClosed) => End::NotDelivered,
            Phase::LastSent(_, end) => end.clone(),
            // The far side was done first, and closed.
            Phase::Open
                if loss == LaneLoss::Closed && self.plain && self.last_sent && self.receive.finished() =>
            {
                End::Finished
            }
            _ => End::LaneLost(loss),
        };
        self.receive.clear();
        self.phase = Phase::Ended(end);
    }

    /// Any byte on the lane is a sign of life.
    pub fn heard(&mut self, now: Instant) {
        self.lane.heard = now;
    }

    /// Takes what a lane's decoder found.
    pub fn handle(&mut self, item: Item<'_>, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        let fault = match item {
            Item::Data { offset, bytes, left } => {
                self.receive.insert(offset, bytes, left).err().map(|error| error.to_string())
            }
            Item::Frame(Frame::Ack(offset)) => {
                let fault = self.send.acknowledge(offset).err().map(|error| error.to_string());
                if let Phase::LastSent(deadline, _) = &mut self.phase {
                    deadline.progress(now);
                }
                self.check_ends();
                fault
            }
            Item::Frame(Frame::Armed(offset)) => {
                let good = self.side == Side::Dialler && self.armed.is_none();
                self.armed = Some(offset);
                (!good).then(|| "an ARMED that was not expected".to_owned())
            }
            Item::Frame(Frame::Heartbeat) => None,
            Item::Frame(Frame::End { offset, why }) => self.end_received(offset, why, now),
            Item::Frame(Frame::Abort(why)) => {
                self.send.clear();
                self.receive.clear();
                self.phase = Phase::Ended(End::Far(why));
                None
            }
            Item::Frame(Frame::Goodbye(why)) => {
                self.send.clear();
                self.phase = Phase::LastReceived(Deadline::new(now), End::FarStopping(why));
                self.check_ends();
                None
            }
            Item::Frame(Frame::Hello(_) | Frame::Accept(_) | Frame::Refuse(_)) => {
                Some("a frame that only opens a lane".to_owned())
            }
        };
        if let Some(fault) = fault {
            self.fault(&fault);
        }
    }

    /// The far side sent what cannot be.
    pub fn fault(&mut self, fault: &str) {
        self.abort(Why::new(Code::Protocol, fault), End::Protocol(fault.to_owned()));
    }

    /// Gives the next frame to `put`, if there is one to send.
    pub fn poll_transmit(&mut self, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        let sent = self.transmit(now, put);
        if sent {
            self.lane.spoke = now;
        }
        sent
    }

    fn transmit(&mut self, now: Instant, put: &mut dyn FnMut(&[u8])) -> bool {
        if !self.urgent.is_empty() {
            put(&self.urgent.remove(0).encode());
            return true;
        }
        let unacknowledged = self.receive.written() - self.acknowledged;
        let ack_now = unacknowledged >= ACK_BYTES
            || self.ack_due.is_some_and(|due| due <= now)
            || (unacknowledged > 0
                && (self.send.unsent() > 0 || self.receive.finished() || self.ended().is_some()));
        if ack_now && unacknowledged > 0 {
            self.acknowledged = self.receive.written();
            self.ack_due = None;
            put(&Frame::Ack(self.acknowledged).encode());
            return true;
        }
        if let Some(framed) = self.send.send_next() {
            put(framed);
            return true;
        }
        if let Some(why) = self.last.as_ref().filter(|_| !self.last_sent) {
            put(&Frame::End { offset: self.send.offered(), why: why.clone() }.encode());
            self.last_sent = true;
            self.check_ends();
            return true;
        }
        if let Some(why) = self.goodbye.take() {
            put(&Frame::Goodbye(why).encode());
            self.phase = Phase::Ended(End::Stopping);
            return true;
        }
        if self.ended().is_none() && now >= self.lane.spoke + self.speak_every {
            put(&Frame::Heartbeat.encode());
            return true;
        }
        false
    }

    /// When [`Link::handle_timeout`] and [`Link::poll_transmit`] next want the time.
    ///
    /// While the lane has no room, `can_send` is false: what is due to be sent then
    /// waits for room and not for a time.
    pub fn next_timeout(&self, can_send: bool) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Open => None,
            Phase::LastSent(deadline, _) | Phase::LastReceived(deadline, _) => Some(deadline.until),
            Phase::Ended(_) => return None,
        };
        if self.lane_gone {
            return phase;
        }
        let beat = Some(self.lane.spoke + self.speak_every);
        let dead = self.lane.heard + self.dead_after;
        let to_send = [beat, self.ack_due].into_iter().flatten().filter(|_| can_send);
        phase.into_iter().chain([dead]).chain(to_send).min()
    }

    /// Whether [`Link::handle_timeout`] would judge the lane dead.
    pub fn lane_seems_dead(&self, now: Instant) -> bool {
        !self.lane_gone && now >= self.lane.heard + self.dead_after
    }

    /// Judges what the time has brought. Call it only after the lane's socket was
    /// read empty: bytes that wait there are a sign of life.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.lane_seems_dead(now) {
            self.lane_lost(LaneLoss::Silent(now - self.lane.heard));
        }
        match &self.phase {
            Phase::LastSent(deadline, end) if now >= deadline.until => {
                let end = if *end == End::LocalClosed { End::NotDelivered } else { end.clone() };
                self.abort(Why::new(Code::TimedOut, "the last bytes could not be delivered in time"), end);
            }
            Phase::LastReceived(deadline, _) if now >= deadline.until => {
                self.abort(
                    Why::new(Code::TimedOut, "the last bytes could not be delivered in time"),
                    End::NotDelivered,
                );
            }
            _ => {}
        }
    }

    fn end_received(&mut self, offset: u64, why: Why, now: Instant) -> Option<String> {
        if !self.plain && self.side == Side::Acceptor {
            return Some("an end of the replica's stream: a replica only aborts".to_owned());
        }
        if let Err(error) = self.receive.declare_end(offset) {
            return Some(error.to_string());
        }
        if !self.plain {
            self.send.clear();
            self.phase = Phase::LastReceived(Deadline::new(now), End::Far(why));
        }
        self.check_ends();
        None
    }

    /// Ends the link where all that remained to be done is done.
    fn check_ends(&mut self) {
        let all_acknowledged = self.send.acknowledged() == self.send.offered();
        let all_written = match self.receive.declared_end() {
            Some(_) => self.receive.finished(),
            None => self.receive.all_taken(),
        };
        let end = match &self.phase {
            Phase::Open if self.plain && self.last_sent && all_acknowledged && self.receive.finished() => {
                End::Finished
            }
            Phase::LastSent(_, end) if self.last_sent && all_acknowledged => end.clone(),
            Phase::LastReceived(_, end) if all_written => {
                self.delivered = true;
                end.clone()
            }
            // Bytes that were declared and never came.
            Phase::LastReceived(..) if self.lane_gone && self.receive.all_taken() => End::NotDelivered,
            _ => return,
        };
        self.phase = Phase::Ended(end);
    }
}

#[cfg(test)]
mod tests;
