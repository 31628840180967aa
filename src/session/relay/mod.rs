//! Moves the bytes of one link between the local Redis and its lanes.
//!
//! A byte's way out: Redis, tap, link, lane; its way in: lane, link, tap, Redis.
//! One task drives all of it, polls each socket once a round, and judges a lane
//! only when it was read empty. Reading lanes never waits for Redis: the link's
//! window bounds what is stored. Only where the memory of all links is used up is a
//! lane left unread, and then only by a link that has bytes for its Redis waiting.
//! A turn of the task is bounded in time, and what it costs is measured
//! ([`crate::registry::Meter`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::announce::{self, log_link};
use super::dial::redial::{Dialled, Redial};
use super::inbound::part;
use super::link_table::{AttachRequest, ToLink};
use crate::buffer::{self, Chunk};
use crate::clock;
use crate::lane::{Lane, LaneError};
use crate::link::dials::Dial;
use crate::link::{End, Event, LaneIo, LaneLoss, Link, Resumed};
use crate::memory::Share;
use crate::registry::{Hold, Kind, LinkGuard, LinkStats, Meter, Penalty, Turn, thread_time};
use crate::tap::{self, Action, Flow, OPENING, Overdue, Tap};
use crate::wire::frame::Frame;
use crate::wire::hello::Accept;
use crate::wire::reason::{Reason, ReasonCode};

/// For the frames that end a link to reach the far side.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// For Redis to read the last bytes that were written to it, and to close: as
/// long as Redis itself waits for a peer by default.
const LINGER: Duration = Duration::from_secs(60);

/// For what was read before a stop to be sent.
const DRAIN: Duration = Duration::from_secs(3);

/// Lanes of a link that are being closed at a time, refused ones among them: as many as it
/// may have. Beyond that they are reset.
const MAX_CLOSING: usize = 24;

/// How often a Redis socket that is not being read is looked at for its end.
const WATCH: Duration = Duration::from_millis(500);

/// Chunks that wait between the tap and Redis; the rest stays with the link.
const MAX_QUEUED: usize = 4;

/// Rounds before other tasks get their turn; mostly it is time that ends one.
const ROUNDS: usize = 32;

/// The least and the most bytes of one read of a lane.
const READS: (usize, usize) = (16 * 1024, buffer::STORAGE);

/// A read that takes longer, opened and taken apart, makes the next one smaller.
const LONG_READ: Duration = Duration::from_millis(2);

/// Everything one link needs to run.
pub struct Relay<'a> {
    /// The state machine.
    pub link: Link,
    /// Its first lane.
    pub lane: Lane,
    /// Where more lanes come from.
    pub supply: Supply,
    /// Changes when the certificates were read again.
    pub renewed: watch::Receiver<u64>,
    /// Its share of the memory for all links.
    pub share: Share,
    /// What measures its cost.
    pub meter: Meter,
    /// The local Redis.
    pub redis: TcpStream,
    /// Which way bytes from the lane flow.
    pub inward: Flow,
    /// Whether each direction closes on its own.
    pub passthrough: bool,
    /// What looks into the bytes.
    pub tap: Box<dyn Tap>,
    /// Cancelled when the tap is to be asked at once whether the replica is overdue.
    pub hurry: CancellationToken,
    /// Where the counts go.
    pub entry: &'a LinkGuard,
    /// This site's name, for the words of an end.
    pub site: &'a str,
}

/// Where a link's lanes come from.
#[derive(Debug)]
pub enum Supply {
    /// The dialler dials them.
    Dials(Box<Redial>),
    /// They come to the acceptor.
    Requests(mpsc::Receiver<ToLink>),
}

/// A link that has ended while the far side could not be told, and so holds it.
#[derive(Debug)]
pub struct Untold {
    redial: Redial,
    words: Vec<Frame>,
    dial: Dial,
    within: Duration,
}

impl Untold {
    /// Dials until the far side has heard, or holds the link no longer, or this
    /// gateway stops.
    pub async fn tell(self) {
        self.redial.tell(&self.words, self.dial, self.within).await;
    }
}

/// Runs a link to its end and says why it ended, and what there is to tell a far side
/// that was out of reach. The Redis socket and the lanes are closed by then.
/// Cancelling `stop` ends it with a GOODBYE.
pub async fn run(relay: Relay<'_>, stop: &CancellationToken) -> (End, Option<Untold>) {
    let mut renewed = relay.renewed.clone();
    let (hurry, mut hurried) = (relay.hurry.clone(), false);
    let mut driver = Driver::new(relay);
    let stopped = loop {
        tokio::select! {
            biased;
            () = poll_fn(|cx| driver.poll(cx)) => break false,
            () = stop.cancelled() => break true,
            Ok(()) = renewed.changed() => driver.link.renew(Instant::now()),
            () = hurry.cancelled(), if !hurried => {
                hurried = true;
                driver.ask_by = driver.ask_by.map(|_| Instant::now());
            }
        }
    };
    if stopped {
        let why = Reason::new(ReasonCode::Stopping, &format!("the gateway of site {} stops", driver.site));
        if !driver.link.is_held() {
            driver.link.stop(why.clone());
            let _ = timeout(DRAIN, poll_fn(|cx| driver.poll(cx))).await;
        }
        driver.link.stopped(why);
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

/// A lane in use.
struct Carrier {
    number: u32,
    lane: Lane,
    /// The last read found nothing more.
    empty: bool,
}

struct Driver<'a> {
    link: Link,
    lanes: Vec<Carrier>,
    /// Why the link ended, and whether everything was delivered, once it has.
    ended: Option<(End, bool)>,
    /// A break that is over and not told yet.
    resumed: Option<Resumed>,
    supply: Supply,
    share: Share,
    meter: Meter,
    /// What was done in this turn, and when it is over.
    turn: Turn,
    until: Instant,
    /// No turn before that.
    paused: Option<Instant>,
    /// Bytes of one read of a lane.
    appetite: usize,
    /// The lane that is read first.
    first: usize,
    redis: TcpStream,
    flow: Flow,
    passthrough: bool,
    tap: Box<dyn Tap>,
    entry: &'a LinkGuard,
    site: &'a str,
    inward: tap::Driver,
    outward: tap::Driver,
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
    /// Since when Redis has not been read for want of room.
    unread: Option<Instant>,
    /// Lanes that are on their way out in good order, and refusals.
    closing: JoinSet<()>,
    /// What the registry was told last.
    told: LinkStats,
    /// Since when a gap is open, and the offset up to which it is filled once that is received.
    gap: Option<(Instant, u64)>,
}

impl<'a> Driver<'a> {
    fn new(relay: Relay<'a>) -> Self {
        let Relay { link, lane, supply, share, meter, redis, inward, passthrough, tap, entry, site, .. } =
            relay;
        Self {
            link,
            lanes: vec![Carrier { number: 0, lane, empty: false }],
            ended: None,
            resumed: None,
            supply,
            share,
            meter,
            turn: Turn::default(),
            until: Instant::now(),
            paused: None,
            appetite: READS.1,
            first: 0,
            redis,
            flow: inward,
            passthrough,
            tap,
            entry,
            site,
            inward: tap::Driver::default(),
            outward: tap::Driver::default(),
            to_redis: VecDeque::new(),
            redis_ended: false,
            redis_deaf: false,
            redis_shut: false,
            sleep: Box::pin(sleep_until(tokio::time::Instant::now())),
            ask_by: Some(Instant::now() + OPENING),
            unread: None,
            closing: JoinSet::new(),
            told: LinkStats::default(),
            gap: None,
        }
    }

    /// Ready once the link has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(paused) = self.paused {
            if self.sleeps_until(paused, cx) {
                return Poll::Pending;
            }
            self.paused = None;
        }
        let before = self.moved();
        self.turn = Turn::default();
        self.until = Instant::now() + self.meter.begin();
        let polled = self.take_turn(cx);
        self.turn.bytes = self.moved() - before;
        match self.meter.end(self.turn, Instant::now()) {
            Penalty::None => {}
            Penalty::Pause { time, news } => {
                // No longer than the far side hears from us.
                self.paused = Some(Instant::now() + time.min(self.link.speak_every()));
                if news {
                    let words = "what it sends costs CPU time that other sites need, and moves nothing";
                    log_link!(warn, self.entry, throttled(Kind::Slowed, words); "site {} is slowed: {words}", self.entry.site);
                }
            }
            Penalty::End => {
                self.link.abort(Reason::new(ReasonCode::Limit, &End::Costly.to_string()), End::Costly)
            }
        }
        if self.link.is_ended() { Poll::Ready(()) } else { polled }
    }

    /// Bytes that were carried, or crossed the local socket, so far.
    fn moved(&self) -> u64 {
        let (to_replica, to_master) = self.entry.counts();
        self.link.carried() + self.link.sent() + to_replica + to_master
    }

    fn take_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.welcome(cx);
        for round in 0..ROUNDS {
            let now = Instant::now();
            if round > 0 && now >= self.until {
                break;
            }
            let mut moved = self.hear(cx, now);
            if self.link.is_ended() {
                // What came is of a link that is over: nothing of it may arrive late.
                self.to_redis.clear();
                return Poll::Ready(());
            }
            moved |= self.deliver(cx, now);
            moved |= self.collect(cx, now);
            moved |= self.transmit(cx, now);
            self.judge(now);
            if self.link.is_ended() {
                return Poll::Ready(());
            }
            if self.ask_by.is_some_and(|by| by <= now) {
                self.ask_by = None;
                match self.tap.overdue() {
                    Overdue::Never => {}
                    Overdue::NotYet => self.ask_by = Some(now + OPENING),
                    Overdue::Now { reply, reason } => {
                        self.refuse(&reply, reason, false, now);
                        continue;
                    }
                }
            }
            if self.link.dial_due().is_some_and(|due| due <= now) {
                self.dial(now);
                self.welcome(cx);
            }
            self.note();
            if !moved && self.sleeps(cx) {
                return Poll::Pending;
            }
        }
        self.turn.more = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes in what the supply of lanes has for the link.
    fn welcome(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = self.closing.poll_join_next(cx).map(|done| done.map(|_| ())) {}
        loop {
            let now = Instant::now();
            match &mut self.supply {
                Supply::Dials(redial) => match redial.poll(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Dialled::Lane(number, lane, accept)) => {
                        if self.link.dialled(number, accept.received, now) {
                            redial.settle();
                            self.entry.note_far(lane.peer());
                            self.lanes.push(Carrier { number, lane: *lane, empty: false });
                        }
                    }
                    Poll::Ready(Dialled::Failed(number, words)) => {
                        self.link.dial_failed(number, now);
                        self.entry.note_redial_failed(&words);
                        if self.link.is_held() {
                            log_link!(warn, self.entry, throttled(Kind::NoWayYet, &words); "no way back yet: {words}");
                        }
                    }
                    // A lane more that is not to be had does not end what is carried.
                    Poll::Ready(Dialled::Over(_, end)) if self.link.is_held() => self.link.given_up(end),
                    Poll::Ready(Dialled::Over(number, _)) => self.link.dial_failed(number, now),
                },
                Supply::Requests(requests) => match requests.poll_recv(cx) {
                    Poll::Pending | Poll::Ready(None) => return,
                    Poll::Ready(Some(ToLink::Superseded)) => self.link.superseded(),
                    Poll::Ready(Some(ToLink::Attach(arrival))) => self.attach(*arrival, now),
                },
            }
            self.take_events();
        }
    }

    /// Answers a lane that asks to carry the link.
    fn attach(&mut self, arrival: AttachRequest, now: Instant) {
        let AttachRequest { mut lane, seat, dial, accept } = arrival;
        if seat.is_evicted() {
            return;
        }
        match self.link.attach(&dial, now) {
            Ok(received) => {
                let accept = Frame::Accept(Accept { received, ..accept });
                if self.link.is_shared() {
                    lane.share();
                }
                self.entry.note_far(lane.peer());
                if lane.push(&accept.encode()).is_ok() {
                    self.lanes.push(Carrier { number: dial.lane, lane, empty: false });
                }
            }
            Err(why) => {
                debug!(link = %self.entry.name, number = self.entry.number, from = %lane.peer(), "lane refused: {}", why.text);
                // Not one of the link's: it keeps its seat until it is closed.
                self.closing.spawn(async move { part(lane, &seat, why).await });
            }
        }
    }

    /// Asks for another lane.
    fn dial(&mut self, now: Instant) {
        if let Supply::Dials(redial) = &mut self.supply {
            let held = self.link.is_held();
            redial.start(&self.link.begin_dial(now), held);
            self.entry.note_redial();
        }
    }

    /// Takes in what has happened to the link: closes the lanes that it has let go of.
    fn take_events(&mut self) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::LaneClosed { lane, retired } => self.close_lane(lane, retired),
                Event::Resumed(resumed) => self.resumed = Some(resumed),
                Event::Ended { end, delivered } => self.ended = Some((end, delivered)),
            }
        }
    }

    fn close_lane(&mut self, number: u32, retired: bool) {
        let Some(at) = self.lanes.iter().position(|carrier| carrier.number == number) else { return };
        let Carrier { lane, .. } = self.lanes.remove(at);
        if !retired {
            // By reset: nothing that still waits in the kernel may arrive late.
            lane.reset();
            // A far side that has ended the link closes its lanes as well.
            if !self.link.is_ended_by_far() {
                self.entry.note_lane_lost();
            }
        } else if self.closing.len() >= MAX_CLOSING {
            lane.reset();
        } else {
            self.closing.spawn(async move {
                let _ = timeout(LAST_WORDS, lane.close()).await;
            });
        }
    }

    /// Tells the registry and the log what has changed.
    fn note(&mut self) {
        let carrying = LinkStats {
            lanes: self.link.lanes() as u64,
            held: self.link.held().map(|held| Hold { since: held.since, within: held.within }),
            breaks: self.link.breaks(),
            resent: self.link.resent(),
            carried: self.link.carried(),
            buffered: self.link.memory(),
        };
        announce::look(self.entry);
        if let (Some(held), None) = (self.link.held(), self.told.held) {
            let cause = held.cause.to_string();
            let within = held.within.as_secs_f64();
            log_link!(warn, self.entry, throttled(Kind::Held, &cause); "link held: {cause}; gives up in {within:.1} s");
        }
        if carrying != self.told {
            self.share.set(carrying.buffered, self.link.scattered());
            self.entry.update(carrying);
            self.told = carrying;
        }
        if let Some(resumed) = self.resumed.take() {
            self.entry.note_resumed();
            let seconds = clock::tenths(resumed.lasted);
            let (to_replica, to_master) = self.entry.counts();
            let plain = (to_replica + to_master).max(1);
            let carried = (carrying.carried as f64 / plain as f64 * 100.0).round() / 100.0;
            log_link!(info, self.entry, throttled(Kind::Resumed, &resumed.cause.to_string()); seconds, resent = resumed.resending, breaks = carrying.breaks, redials = self.entry.redials(), lanes = carrying.lanes, carried, "link resumed: {}", resumed.cause);
        }
    }

    /// Whether a gap stays open: what lay beyond it is still to come in order.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let (received, scattered) = (self.link.received(), self.link.scattered());
        match self.gap {
            Some((since, filled)) if scattered > 0 && received < filled => {
                now >= since + self.link.gap_patience()
            }
            _ => {
                self.gap = (scattered > 0).then_some((now, received + scattered));
                false
            }
        }
    }

    /// Lanes to link. Whether anything came.
    fn hear(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        let full = self.share.room() == 0;
        let wait = full && self.link.has_ready();
        let stuck = self.is_stuck(now);
        if self.share.gives_way(stuck) {
            self.link.abort(Reason::new(ReasonCode::Limit, &End::MemoryShort.to_string()), End::MemoryShort);
        }
        let count = self.lanes.len();
        self.first = (self.first + 1) % count.max(1);
        for step in 0..count {
            let at = (self.first + step) % count;
            // One that is not read is looked at when it is judged.
            self.lanes[at].empty = wait;
            if !wait && (step == 0 || Instant::now() < self.until) {
                moved |= self.hear_one(at, cx, now);
            }
        }
        self.take_events();
        moved
    }

    /// One lane to link; whether anything came.
    fn hear_one(&mut self, at: usize, cx: &mut Context<'_>, now: Instant) -> bool {
        let (Some(Carrier { number, lane, empty }), link) = (self.lanes.get_mut(at), &mut self.link) else {
            return false;
        };
        let number = *number;
        if !link.has_lane(number) {
            return false;
        }
        let began = Instant::now();
        let read = lane.poll_read(cx, self.appetite, &mut |item| link.handle(number, item, now));
        if began.elapsed() > LONG_READ {
            self.appetite = (self.appetite / 2).max(READS.0);
        } else {
            self.appetite = (self.appetite * 2).min(READS.1);
        }
        match read {
            Poll::Pending => {
                *empty = true;
                false
            }
            Poll::Ready(Ok(())) => {
                link.on_activity(number, now);
                true
            }
            Poll::Ready(Err(error)) => {
                self.lost(number, error, now);
                true
            }
        }
    }

    /// Judges what the time has brought. A lane is judged only once it was read empty.
    fn judge(&mut self, now: Instant) {
        for Carrier { number, lane, empty } in &self.lanes {
            if *empty && self.link.is_silent(*number, now) {
                if lane.has_unread() {
                    // The kernel has bytes of which the runtime has not told yet, or which
                    // wait there because memory is short.
                    self.link.on_activity(*number, now);
                } else {
                    self.link.check_liveness(*number, now);
                    debug!(link = %self.entry.name, number = self.entry.number, lane = *number, "nothing heard on a lane");
                }
            }
        }
        self.link.handle_timeout(now);
        self.take_events();
    }

    /// Link to tap to Redis.
    fn deliver(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        while self.to_redis.len() < MAX_QUEUED
            && let Some((chunk, carried)) = self.link.take()
        {
            moved = true;
            let flow = self.flow;
            let made = self.inward.through(self.tap.as_mut(), flow, chunk, carried, now);
            self.take_inward(made, now);
        }
        let mut useful = false;
        while let Some(front) = self.to_redis.front_mut() {
            if front.chunk.is_empty() || self.redis_deaf {
                let carried = front.carried;
                self.to_redis.pop_front();
                self.link.wrote(carried, now);
                continue;
            }
            match Pin::new(&mut self.redis).poll_write(cx, front.chunk.bytes()) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    front.chunk.consume(count);
                    self.entry.count(self.flow, count);
                    (moved, useful) = (true, true);
                }
                Poll::Ready(Err(_)) => {
                    self.redis_deaf = true;
                    if self.flow == Flow::ToReplica || self.passthrough {
                        self.link.local_broken(now);
                    }
                    // A master that takes nothing more may still have been read from.
                    return true;
                }
            }
        }
        self.turn.rounds += u32::from(useful);
        if self.passthrough && !self.redis_shut && self.to_redis.is_empty() && self.link.receive_finished() {
            self.redis_shut = true;
            moved = true;
            let _ = Pin::new(&mut self.redis).poll_shutdown(cx);
        }
        moved
    }

    /// What the tap made of bytes from the link.
    fn take_inward(&mut self, made: Vec<Action>, now: Instant) {
        for made in made {
            match made {
                Action::Forward { chunk, carried, .. } => {
                    self.to_redis.push_back(Outgoing { chunk, carried })
                }
                Action::Answer(reply) => self.link.offer(Chunk::copied(&reply)),
                Action::Stop { reply, reason, breach } => self.refuse(&reply, reason, breach, now),
            }
        }
    }

    /// Redis to tap to link.
    fn collect(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let room = self.link.read_room().min(self.share.room());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
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
        let limit = spare.len().min(room).min(self.link.max_payload());
        let mut space = ReadBuf::new(&mut spare[..limit]);
        let read = Pin::new(&mut self.redis).poll_read(cx, &mut space);
        let count = space.filled().len();
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if count > 0 => chunk.filled(count),
            Poll::Ready(closed) => {
                self.redis_ended = true;
                match self.tap.closed() {
                    Some((reply, reason)) => self.refuse(&reply, reason, false, now),
                    None if closed.is_ok() => self.link.local_closed(now),
                    None => self.link.local_broken(now),
                }
                return true;
            }
        }
        let flow = self.outward_flow();
        self.entry.count(flow, count);
        self.turn.rounds += 1;
        for made in self.outward.through(self.tap.as_mut(), flow, chunk.settled(), count as u64, now) {
            match made {
                Action::Forward { chunk, armed, .. } => {
                    if !chunk.is_empty() {
                        self.offer(chunk);
                    }
                    if armed {
                        self.link.arm();
                    }
                }
                Action::Answer(reply) => {
                    self.to_redis.push_back(Outgoing { chunk: Chunk::copied(&reply), carried: 0 });
                }
                Action::Stop { reply, reason, breach } => self.refuse(&reply, reason, breach, now),
            }
        }
        // What was held may have waited for just this answer.
        let made = self.inward.again(self.tap.as_mut(), self.flow, now);
        self.take_inward(made, now);
        true
    }

    /// Redis' bytes to the link. How much work compressing them is, is this site's choice.
    fn offer(&mut self, chunk: Chunk) {
        if !self.link.is_packing() {
            return self.link.offer(chunk);
        }
        let before = thread_time();
        self.link.offer(chunk);
        self.turn.ours += thread_time().saturating_sub(before);
    }

    /// Link to lanes.
    fn transmit(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        for at in 0..self.lanes.len() {
            moved |= self.transmit_one(at, cx, now);
        }
        self.take_events();
        moved
    }

    /// Link to one lane, for as long as it takes anything.
    fn transmit_one(&mut self, at: usize, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        loop {
            let Carrier { number, lane, .. } = &mut self.lanes[at];
            let number = *number;
            let pushed = match seal(&mut self.link, number, lane, now) {
                Ok(pushed) => pushed,
                Err(error) => {
                    self.lost(number, error, now);
                    return true;
                }
            };
            moved |= pushed;
            match lane.poll_flush(cx) {
                Poll::Ready(Ok(())) if pushed && Instant::now() < self.until => {}
                Poll::Pending | Poll::Ready(Ok(())) => return moved,
                Poll::Ready(Err(error)) => {
                    // The far side's last words may still wait to be read.
                    while self.hear_one(at, cx, now) {}
                    self.lost(number, error.into(), now);
                    return true;
                }
            }
        }
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
        let replica = !self.passthrough && self.flow == Flow::ToReplica;
        let mut closed = || match pin!(self.redis.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        let failed = !matches!(self.redis.take_error(), Ok(None));
        let gone = failed || replica && closed();
        if gone {
            self.redis_ended = true;
            self.link.local_broken(now);
        }
        gone
    }

    /// Whether there is nothing to do before the time or a socket says so.
    fn sleeps(&mut self, cx: &mut Context<'_>) -> bool {
        let watch = self.unread.map(|since| since + WATCH);
        // What waits for room on the lane is woken by the lane, not by the time.
        let lanes = &self.lanes;
        let io = |number| {
            let carrier = lanes.iter().find(|carrier| carrier.number == number);
            carrier.map_or(LaneIo { room: false, empty: false }, |carrier| LaneIo {
                room: carrier.lane.has_room(),
                empty: carrier.empty,
            })
        };
        let times = [self.link.poll_timeout(&io), watch, self.ask_by];
        let Some(next) = times.into_iter().flatten().min() else {
            return true;
        };
        self.sleeps_until(next, cx)
    }

    /// Whether that time is still to come; the task is woken then.
    fn sleeps_until(&mut self, next: Instant, cx: &mut Context<'_>) -> bool {
        let next = tokio::time::Instant::from_std(next);
        if self.sleep.deadline() != next {
            self.sleep.as_mut().reset(next);
        }
        self.sleep.as_mut().poll(cx).is_pending()
    }

    /// The tap ends the link: last words to the replica, then the end. `breach` is for
    /// what is no part of replication.
    fn refuse(&mut self, reply: &[u8], reason: String, breach: bool, now: Instant) {
        // Nothing that came behind it is looked at any more.
        for way in [&mut self.inward, &mut self.outward] {
            way.stop();
        }
        let (code, end): (_, fn(String) -> End) = if breach {
            (ReasonCode::CommandRefused, End::CommandRefused)
        } else {
            (ReasonCode::Limit, End::Declined)
        };
        if self.outward_flow() == Flow::ToReplica {
            if !reply.is_empty() {
                self.link.offer(Chunk::copied(reply));
            }
            let why = Reason::new(code, &format!("site {}: {reason}", self.site));
            self.link.finish(why, end(reason), now);
        } else {
            let why = Reason::new(code, &reason);
            self.link.abort(why, end(reason));
        }
    }

    fn outward_flow(&self) -> Flow {
        match self.flow {
            Flow::ToMaster => Flow::ToReplica,
            Flow::ToReplica => Flow::ToMaster,
        }
    }

    fn lost(&mut self, number: u32, error: LaneError, now: Instant) {
        if !self.link.has_lane(number) {
            return;
        }
        let loss = match error {
            LaneError::Closed => LaneLoss::Closed,
            LaneError::Socket(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                LaneLoss::Failed("the connection to the far gateway was reset".to_owned())
            }
            LaneError::Frame(error) => return self.link.fault(&error.into()),
            other => LaneLoss::Failed(other.to_string()),
        };
        let words = loss.to_string();
        let retired = self.link.is_retired(number) && loss == LaneLoss::Closed;
        self.link.lane_lost(number, loss, now);
        if !retired && self.link.lanes() > 0 {
            log_link!(info, self.entry, throttled(Kind::LaneLost, &words); lane = number, left = self.link.lanes(), "lane lost: {words}");
        }
    }

    /// Closes everything and answers why the link ended.
    async fn finish(mut self) -> (End, Option<Untold>) {
        self.take_events();
        let Self { mut link, mut lanes, ended, supply, share, redis, closing, entry, .. } = self;
        drop((share, closing));
        let (end, delivered) = ended.unwrap_or((End::Stopping, false));
        entry.update(LinkStats {
            breaks: link.breaks(),
            resent: link.resent(),
            carried: link.carried(),
            ..LinkStats::default()
        });
        // Closed at once, unless Redis here is still to read what was delivered: a
        // stale connection would show as a second replica.
        let redis = delivered.then_some(redis);
        let cut = matches!(end, End::LaneLost(_) | End::NoWayBack(..) | End::Superseded);
        let last_words = async {
            let now = Instant::now();
            if cut {
                // By reset: nothing that still waits in a kernel may arrive late.
                lanes.drain(..).for_each(|carrier| carrier.lane.reset());
            }
            lanes.retain(|carrier| link.has_lane(carrier.number));
            let mut closings = JoinSet::new();
            for Carrier { number, mut lane, .. } in lanes {
                // On every lane: the first to arrive ends it there.
                let mut words = Vec::new();
                while link.poll_transmit(number, now, &mut |frame| words.push(frame.to_vec())) {}
                closings.spawn(async move {
                    let closed = timeout(LAST_WORDS, async {
                        for frame in words {
                            poll_fn(|cx| lane.poll_flush(cx)).await?;
                            lane.push(&frame)?;
                        }
                        Ok::<_, LaneError>(lane.close().await)
                    });
                    matches!(closed.await, Ok(Ok(true)))
                });
            }
            closings.join_all().await.contains(&true)
        };
        let lingers = async {
            if let Some(redis) = redis {
                let _ = timeout(LINGER, read_to_its_end(redis)).await;
            }
        };
        let (told, ()) = tokio::join!(last_words, lingers);
        let untold = match supply {
            Supply::Dials(redial) if !told && link.is_held_far_away() => Some(Untold {
                redial: *redial,
                words: link.last_words(),
                dial: link.begin_dial(Instant::now()),
                within: link.hold(),
            }),
            _ => None,
        };
        (end, untold)
    }
}

/// Seals what the link wants sent on a lane, as far as that has room; whether
/// anything.
fn seal(link: &mut Link, number: u32, lane: &mut Lane, now: Instant) -> Result<bool, LaneError> {
    let mut pushed = false;
    while lane.has_room() {
        let mut sealed = Ok(());
        if !link.poll_transmit(number, now, &mut |frame| sealed = lane.push(frame)) {
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
