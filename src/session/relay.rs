//! Moves the bytes of one link between the local Redis and its lane.
//!
//! A byte's way out: Redis, tap, link, lane; its way in: lane, link, tap, Redis.
//! One task drives both, polls each socket once a round, and judges time only
//! when the lane was read empty. Reading the lane never waits for Redis: the
//! link's window bounds what is stored.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::buffer::Chunk;
use crate::lane::{Lane, LaneError};
use crate::link::tlv::{Code, Why};
use crate::link::{End, LaneLoss, Link};
use crate::registry::LinkEntry;
use crate::tap::{Flow, OPENING, Tap, Verdict};

/// For the frames that end a link to reach the far side.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// For Redis to read the last bytes that were written to it, and to close: as
/// long as Redis itself waits for a peer by default.
const LINGER: Duration = Duration::from_secs(60);

/// For what was read before a stop to be sent.
const DRAIN: Duration = Duration::from_secs(3);

/// How often a Redis socket that is not being read is looked at for its end.
const WATCH: Duration = Duration::from_millis(500);

/// Chunks that wait between the tap and Redis; the rest stays with the link.
const MAX_QUEUED: usize = 4;

/// Rounds before other tasks get their turn.
const ROUNDS: usize = 32;

/// The most bytes that a tap may hold while it decides.
const MAX_HELD: usize = 64 * 1024;

/// Everything one link needs to run.
pub struct Relay<'a> {
    /// The state machine.
    pub link: Link,
    /// The far gateway.
    pub lane: Lane,
    /// The local Redis.
    pub redis: TcpStream,
    /// Which way bytes from the lane flow.
    pub inward: Flow,
    /// Whether each direction closes on its own.
    pub plain: bool,
    /// What looks into the bytes.
    pub tap: Box<dyn Tap>,
    /// Where the counts go.
    pub entry: &'a LinkEntry,
    /// This site's name, for the words of an end.
    pub site: &'a str,
}

/// Runs a link to its end and says why it ended. The Redis socket and the lane
/// are closed by then. Cancelling `stop` ends it with a GOODBYE.
pub async fn run(relay: Relay<'_>, stop: &CancellationToken) -> End {
    let mut driver = Driver::new(relay);
    let stopped = tokio::select! {
        biased;
        () = poll_fn(|cx| driver.poll(cx)) => false,
        () = stop.cancelled() => true,
    };
    if stopped {
        driver
            .relay
            .link
            .stop(Why::new(Code::Stopping, &format!("the gateway of site {} stops", driver.relay.site)));
        let _ = timeout(DRAIN, poll_fn(|cx| driver.poll(cx))).await;
    }
    driver.finish().await
}

impl std::fmt::Debug for Relay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("lane", &self.lane).field("link", &self.link).finish_non_exhaustive()
    }
}

/// Bytes for the local Redis, and how many carried bytes they stand for.
struct Outgoing {
    chunk: Chunk,
    carried: u64,
}

/// One direction's place at the tap.
#[derive(Default)]
struct AtTap {
    held: Vec<u8>,
    detached: bool,
    /// The tap has ended the link: nothing more passes.
    stopped: bool,
}

/// What the tap made of a chunk.
enum Made {
    Forward { chunk: Chunk, carried: u64, armed: bool },
    Stop { reply: Vec<u8>, reason: String },
}

struct Driver<'a> {
    relay: Relay<'a>,
    inward: AtTap,
    outward: AtTap,
    to_redis: VecDeque<Outgoing>,
    /// The local Redis has sent its end.
    redis_ended: bool,
    /// The local Redis takes nothing more; what is for it is dropped.
    redis_deaf: bool,
    /// The writing half towards Redis was closed; only in a plain tunnel.
    redis_shut: bool,
    sleep: Pin<Box<Sleep>>,
    /// When the tap is asked whether the replica is overdue.
    ask_by: Option<Instant>,
    /// The sync's beginning was noted.
    syncing: bool,
    /// Since when Redis has not been read for want of room.
    unread: Option<Instant>,
}

impl<'a> Driver<'a> {
    fn new(relay: Relay<'a>) -> Self {
        Self {
            relay,
            inward: AtTap::default(),
            outward: AtTap::default(),
            to_redis: VecDeque::new(),
            redis_ended: false,
            redis_deaf: false,
            redis_shut: false,
            sleep: Box::pin(sleep_until(tokio::time::Instant::now())),
            ask_by: Some(Instant::now() + OPENING),
            syncing: false,
            unread: None,
        }
    }

    /// Ready once the link has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let (mut moved, lane_empty) = self.hear(cx, now);
            if self.relay.link.ended().is_some() {
                // What came is of a link that is over: nothing of it may arrive late.
                self.to_redis.clear();
                return Poll::Ready(());
            }
            moved |= self.deliver(cx, now);
            moved |= self.collect(cx, now);
            moved |= self.transmit(cx, now);
            if lane_empty {
                if self.relay.link.lane_seems_dead(now) && self.relay.lane.has_unread() {
                    // The kernel has bytes of which the runtime has not told yet.
                    self.relay.link.heard(now);
                }
                self.relay.link.handle_timeout(now);
            }
            if self.relay.link.ended().is_some() {
                return Poll::Ready(());
            }
            if self.ask_by.is_some_and(|by| by <= now) {
                self.ask_by = None;
                if let Some((reply, reason)) = self.relay.tap.overdue() {
                    self.refuse(&reply, reason, now);
                    continue;
                }
            }
            if !self.syncing && self.relay.link.is_armed() {
                self.syncing = true;
                self.relay.entry.note_syncing();
            }
            if !moved && self.sleeps(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lane to link. Whether anything came, and whether the socket is empty.
    fn hear(&mut self, cx: &mut Context<'_>, now: Instant) -> (bool, bool) {
        if self.relay.link.lane_is_gone() {
            return (false, true);
        }
        let Relay { lane, link, .. } = &mut self.relay;
        match lane.poll_read(cx, &mut |item| link.handle(item, now)) {
            Poll::Pending => (false, true),
            Poll::Ready(Ok(())) => {
                link.heard(now);
                (true, false)
            }
            Poll::Ready(Err(error)) => {
                self.lost(error);
                (true, true)
            }
        }
    }

    /// Link to tap to Redis.
    fn deliver(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        while self.to_redis.len() < MAX_QUEUED
            && let Some(chunk) = self.relay.link.take()
        {
            moved = true;
            let flow = self.relay.inward;
            for made in self.inward.through(self.relay.tap.as_mut(), flow, chunk) {
                match made {
                    Made::Forward { chunk, carried, .. } => {
                        self.to_redis.push_back(Outgoing { chunk, carried })
                    }
                    Made::Stop { reply, reason } => self.refuse(&reply, reason, now),
                }
            }
        }
        while let Some(front) = self.to_redis.front_mut() {
            if front.chunk.is_empty() || self.redis_deaf {
                let carried = front.carried;
                self.to_redis.pop_front();
                self.relay.link.wrote(carried, now);
                continue;
            }
            match Pin::new(&mut self.relay.redis).poll_write(cx, front.chunk.bytes()) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    front.chunk.consume(count);
                    self.relay.entry.count(self.relay.inward, count);
                    moved = true;
                }
                Poll::Ready(Err(_)) => {
                    self.redis_deaf = true;
                    if self.relay.inward == Flow::ToReplica || self.relay.plain {
                        self.relay.link.local_broken(now);
                    }
                    // A master that takes nothing more may still have been read from.
                    return true;
                }
            }
        }
        if self.relay.plain
            && !self.redis_shut
            && self.to_redis.is_empty()
            && self.relay.link.receive_finished()
        {
            self.redis_shut = true;
            moved = true;
            let _ = Pin::new(&mut self.relay.redis).poll_shutdown(cx);
        }
        moved
    }

    /// Redis to tap to link.
    fn collect(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let room = usize::try_from(self.relay.link.read_room()).unwrap_or(usize::MAX);
        if self.redis_ended {
            self.unread = None;
            return false;
        }
        if room == 0 {
            return self.watch(cx, now);
        }
        self.unread = None;
        let mut chunk = Chunk::pooled();
        let spare = chunk.spare();
        let limit = spare.len().min(room).min(self.relay.link.max_payload());
        let mut space = ReadBuf::new(&mut spare[..limit]);
        let read = Pin::new(&mut self.relay.redis).poll_read(cx, &mut space);
        let count = space.filled().len();
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if count > 0 => chunk.filled(count),
            Poll::Ready(Ok(())) => {
                self.redis_ended = true;
                self.relay.link.local_closed(now);
                return true;
            }
            Poll::Ready(Err(_)) => {
                self.redis_ended = true;
                self.relay.link.local_broken(now);
                return true;
            }
        }
        let flow = self.outward_flow();
        self.relay.entry.count(flow, count);
        for made in self.outward.through(self.relay.tap.as_mut(), flow, chunk.settled()) {
            match made {
                Made::Forward { chunk, armed, .. } => {
                    self.relay.link.offer(chunk);
                    if armed {
                        self.relay.link.arm();
                    }
                }
                Made::Stop { reply, reason } => self.refuse(&reply, reason, now),
            }
        }
        true
    }

    /// Link to lane.
    fn transmit(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        while !self.relay.link.lane_is_gone() {
            let pushed = self.push(now);
            moved |= pushed;
            match self.relay.lane.poll_flush(cx) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(())) if pushed => {}
                Poll::Ready(Ok(())) => return moved,
                Poll::Ready(Err(error)) => {
                    // The far side's last words may still wait to be read.
                    while let (true, false) = self.hear(cx, now) {}
                    self.lost(error.into());
                    return true;
                }
            }
        }
        moved
    }

    /// Seals what the link wants sent, as far as the lane has room.
    fn push(&mut self, now: Instant) -> bool {
        seal(&mut self.relay.link, &mut self.relay.lane, now).unwrap_or_else(|error| {
            self.lost(error);
            true
        })
    }

    /// A socket that is not being read is still watched for its end.
    fn watch(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let since = *self.unread.get_or_insert(now);
        if now < since + WATCH {
            return false;
        }
        self.unread = Some(now);
        // A replica that closes is gone; a master's or a plain end's last bytes are
        // still to be read, so that only an error ends it.
        let replica = !self.relay.plain && self.relay.inward == Flow::ToReplica;
        let mut closed = || match pin!(self.relay.redis.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        let failed = !matches!(self.relay.redis.take_error(), Ok(None));
        let gone = failed || replica && closed();
        if gone {
            self.redis_ended = true;
            self.relay.link.local_broken(now);
        }
        gone
    }

    /// Whether there is nothing to do before the time or a socket says so.
    fn sleeps(&mut self, cx: &mut Context<'_>) -> bool {
        let watch = self.unread.map(|since| since + WATCH);
        // What waits for room on the lane is woken by the lane, not by the time.
        let can_send = self.relay.lane.has_room();
        let times = [self.relay.link.next_timeout(can_send), watch, self.ask_by];
        let Some(next) = times.into_iter().flatten().min() else {
            return true;
        };
        let next = tokio::time::Instant::from_std(next);
        if self.sleep.deadline() != next {
            self.sleep.as_mut().reset(next);
        }
        self.sleep.as_mut().poll(cx).is_pending()
    }

    /// The tap has refused what came: last words to the replica, then the end.
    fn refuse(&mut self, reply: &[u8], reason: String, now: Instant) {
        // Nothing that came behind it is looked at any more.
        for way in [&mut self.inward, &mut self.outward] {
            way.stopped = true;
            way.held = Vec::new();
        }
        if self.outward_flow() == Flow::ToReplica {
            if !reply.is_empty() {
                self.relay.link.offer(Chunk::copied(reply));
            }
            let why = Why::new(Code::CommandRefused, &format!("site {}: {reason}", self.relay.site));
            self.relay.link.finish(why, End::CommandRefused(reason), now);
        } else {
            let why = Why::new(Code::CommandRefused, &reason);
            self.relay.link.abort(why, End::CommandRefused(reason));
        }
    }

    fn outward_flow(&self) -> Flow {
        match self.relay.inward {
            Flow::ToMaster => Flow::ToReplica,
            Flow::ToReplica => Flow::ToMaster,
        }
    }

    fn lost(&mut self, error: LaneError) {
        let loss = match error {
            LaneError::Closed => LaneLoss::Closed,
            LaneError::Socket(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                LaneLoss::Failed("the connection to the far gateway was reset".to_owned())
            }
            LaneError::Frame(error) => return self.relay.link.fault(&error.to_string()),
            other => LaneLoss::Failed(other.to_string()),
        };
        self.relay.link.lane_lost(loss);
    }

    /// Closes both sides and answers why the link ended.
    async fn finish(self) -> End {
        let Relay { mut link, mut lane, redis, .. } = self.relay;
        let end = link.ended().cloned().unwrap_or(End::Stopping);
        // Closed at once, unless Redis here is still to read what was delivered: a
        // stale connection would show as a second replica.
        let redis = link.is_delivered().then_some(redis);
        let last_words = async {
            if matches!(end, End::LaneLost(_)) || link.lane_is_gone() {
                // By reset: nothing that still waits in the kernel may arrive late.
                return lane.reset();
            }
            let sent = timeout(LAST_WORDS, async {
                loop {
                    poll_fn(|cx| lane.poll_flush(cx)).await?;
                    if !seal(&mut link, &mut lane, Instant::now())? {
                        break;
                    }
                }
                lane.close().await;
                Ok::<_, LaneError>(())
            });
            let _ = sent.await;
        };
        let lingers = async {
            if let Some(redis) = redis {
                let _ = timeout(LINGER, read_to_its_end(redis)).await;
            }
        };
        tokio::join!(last_words, lingers);
        end
    }
}

/// Seals what the link wants sent, as far as the lane has room; whether anything.
fn seal(link: &mut Link, lane: &mut Lane, now: Instant) -> Result<bool, LaneError> {
    let mut pushed = false;
    while lane.has_room() {
        let mut sealed = Ok(());
        if !link.poll_transmit(now, &mut |frame| sealed = lane.push(frame)) {
            break;
        }
        pushed = true;
        sealed?;
    }
    Ok(pushed)
}

/// Ends the writing half and waits until the other end has read everything and
/// closed. Dropping a socket on which bytes wait unread, or to which more are sent
/// afterwards, resets it, and a reset takes back what the other end has not read.
async fn read_to_its_end(mut redis: TcpStream) -> io::Result<()> {
    redis.shutdown().await?;
    let mut rest = [0; 4096];
    while redis.read(&mut rest).await? > 0 {}
    Ok(())
}

impl AtTap {
    /// Shows a chunk to the tap until it has decided on all of it, or wants more.
    fn through(&mut self, tap: &mut dyn Tap, flow: Flow, chunk: Chunk) -> Vec<Made> {
        if self.stopped {
            return Vec::new();
        }
        if self.detached && self.held.is_empty() {
            let carried = chunk.len() as u64;
            return vec![Made::Forward { chunk, carried, armed: false }];
        }
        self.held.extend_from_slice(chunk.bytes());
        drop(chunk);
        let mut made = Vec::new();
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            let verdict = if self.detached { Verdict::Pass(rest.len()) } else { tap.look(flow, rest) };
            match verdict {
                Verdict::Pass(count) | Verdict::PassAndArm(count) => {
                    let armed = matches!(verdict, Verdict::PassAndArm(_));
                    forward(&mut made, &rest[..count], count, armed);
                    at += count;
                }
                Verdict::Replace(count, bytes) => {
                    forward(&mut made, &bytes, count, false);
                    at += count;
                }
                Verdict::Detach => self.detached = true,
                Verdict::Hold if rest.len() <= MAX_HELD => break,
                Verdict::Hold => {
                    let reason = "more bytes than a handshake has; refused".to_owned();
                    made.push(Made::Stop { reply: Vec::new(), reason });
                    self.stopped = true;
                    break;
                }
                Verdict::Stop { pass, reply, reason } => {
                    forward(&mut made, &rest[..pass], pass, false);
                    made.push(Made::Stop { reply, reason });
                    self.stopped = true;
                    break;
                }
            }
        }
        if self.stopped {
            self.held = Vec::new();
        } else {
            self.held.drain(..at);
        }
        made
    }
}

/// Adds `bytes`, which stand for `carried` bytes of the stream.
fn forward(made: &mut Vec<Made>, bytes: &[u8], carried: usize, armed: bool) {
    let mut pieces = bytes.chunks(crate::buffer::PAYLOAD).peekable();
    let mut left = carried;
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        let share = if last { left } else { piece.len().min(left) };
        left -= share;
        made.push(Made::Forward { chunk: Chunk::copied(piece), carried: share as u64, armed: armed && last });
    }
}
