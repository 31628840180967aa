//! Moves the bytes of one link between the local Redis and its lanes.
//!
//! Outgoing bytes pass Redis, tap, link, lane; incoming bytes pass lane, link, tap, Redis. One task
//! drives all of it in turns of several rounds, and polls each socket once a round: it reads the
//! lanes (`lanes.rs`), writes and reads Redis (`redis.rs`), then writes the lanes. It checks a lane
//! only after the lane was read empty. Reading lanes never waits for Redis, since the link's window
//! bounds what is stored. A lane is left unread only if the memory of all links is used up, and
//! only by a link that has bytes waiting for its Redis. A turn is bounded in time, and its cost is
//! measured ([`crate::registry::Meter`]). The end is in `finish.rs`.

mod closures;
mod coalescing;
mod finish;
mod lanes;
mod legacy;
mod redis;
mod yielding;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::coalescing::Coalescing;
pub use self::finish::PendingAbort;
pub use self::lanes::LaneSource;
use self::lanes::Lanes;
use self::redis::{Read, RedisSocket, Write};
use self::yielding::wake_after_others;
use super::announce::{self, log_link};
use super::exchange::{Courier, Mail};
use super::permission::Permission;
use crate::buffer::Chunk;
use crate::clock;
use crate::lane::Lane;
use crate::link::{End, Event, Link, Resumed};
use crate::memory::Share;
use crate::registry::{Hold, Kind, LinkGuard, LinkStats, Meter, Penalty, Turn, notice, thread_time};
use crate::tap::{self, Action, Flow, OPENING, Overdue, Tap};
use crate::wire::reason::{Reason, ReasonCode};

/// Time given to send what was read before a stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Most rounds of a turn. Usually its time ends it earlier.
const ROUNDS: usize = 32;

/// Interval at which a held link looks how much it may still keep.
const TRIM: Duration = Duration::from_secs(1);

/// Everything one link needs to run.
pub struct Relay<'a> {
    /// The state machine.
    pub link: Link,
    /// Its first lane.
    pub lane: Lane,
    /// The source of further lanes.
    pub source: LaneSource,
    /// Its part in the exchange of revocation lists, if both sides exchange them.
    pub courier: Option<Courier>,
    /// Changes whenever it must be judged again.
    pub reloads: watch::Receiver<u64>,
    /// Whether it may go on after a reload.
    pub permission: Box<Permission>,
    /// Its share of the memory for all links.
    pub share: Share,
    /// Measures its CPU time.
    pub meter: Meter,
    /// The local Redis.
    pub redis: TcpStream,
    /// The direction of bytes from the lane.
    pub inward: Flow,
    /// Whether any command passes, and each direction closes on its own.
    pub passthrough: bool,
    /// The tap, which inspects the bytes.
    pub tap: Box<dyn Tap>,
    /// Cancelled when the tap must be asked at once whether the replica is overdue.
    pub hurry: CancellationToken,
    /// Notified when the tap may judge otherwise what it holds from the lanes.
    pub changed: Arc<Notify>,
    /// Records the counts.
    pub entry: &'a LinkGuard,
    /// This site's name, for reasons.
    pub site: &'a str,
}

/// Runs a link to its end. Returns why it ended, and what the far side must still learn if it
/// could not be reached. The Redis socket and the lanes are closed then. Cancelling `stop` ends the
/// link with a GOODBYE.
pub fn run<'a>(
    relay: Relay<'a>,
    stop: &'a CancellationToken,
) -> impl Future<Output = (End, Option<PendingAbort>)> + 'a {
    let (reloads, hurry, changed) = (relay.reloads.clone(), relay.hurry.clone(), Arc::clone(&relay.changed));
    let mail = relay.courier.as_ref().map(|courier| Arc::clone(courier.mail()));
    drive(Box::new(Driver::new(relay)), reloads, hurry, (changed, mail), stop)
}

async fn drive(
    mut driver: Box<Driver<'_>>,
    mut reloads: watch::Receiver<u64>,
    hurry: CancellationToken,
    (changed, mail): (Arc<Notify>, Option<Arc<Mail>>),
    stop: &CancellationToken,
) -> (End, Option<PendingAbort>) {
    let mut hurried = false;
    reloads.mark_unchanged();
    // The config and the files of trust may have changed while the link was opened.
    driver.judge();
    let stopped = loop {
        tokio::select! {
            biased;
            () = poll_fn(|cx| driver.poll(cx)) => break false,
            () = stop.cancelled() => break true,
            Ok(()) = reloads.changed() => {
                driver.judge();
            }
            () = changed.notified() => driver.look_again(Instant::now()),
            // The next turn sends it.
            () = notified(mail.as_deref()) => {}
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
    Box::pin(finish::finish(*driver)).await
}

/// Completes when there may be something to send about revocation lists.
async fn notified(mail: Option<&Mail>) {
    match mail {
        Some(mail) => mail.notified().await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Relay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("lane", &self.lane).field("link", &self.link).finish_non_exhaustive()
    }
}

struct Driver<'a> {
    link: Link,
    lanes: Lanes,
    redis: RedisSocket,
    /// What was read from Redis and may wait for more.
    coalescing: Coalescing,
    /// Why the link ended, and whether everything was delivered, once it has.
    ended: Option<(End, bool)>,
    /// A break that is over and not reported yet.
    resumed: Option<Resumed>,
    share: Share,
    meter: Meter,
    /// The work of this turn, and its deadline.
    turn: Turn,
    until: Instant,
    /// Earliest time of the next turn.
    paused: Option<Instant>,
    /// The direction of bytes from the lanes.
    flow: Flow,
    passthrough: bool,
    tap: Box<dyn Tap>,
    entry: &'a LinkGuard,
    site: &'a str,
    permission: Box<Permission>,
    inward: tap::Driver,
    outward: tap::Driver,
    sleep: Pin<Box<Sleep>>,
    /// When the tap is asked whether the replica is overdue.
    ask_by: Option<Instant>,
    /// What was reported last.
    reported: LinkStats,
    /// Since when a gap is open, and the offset up to which it is filled once everything below is
    /// received.
    gap: Option<(Instant, u64)>,
}

impl<'a> Driver<'a> {
    fn new(relay: Relay<'a>) -> Self {
        let Relay {
            link,
            lane,
            source,
            courier,
            share,
            meter,
            redis,
            inward,
            passthrough,
            tap,
            entry,
            site,
            permission,
            ..
        } = relay;
        Self {
            link,
            lanes: Lanes::new(lane, source, courier),
            redis: RedisSocket::new(redis),
            coalescing: Coalescing::new(Instant::now()),
            ended: None,
            resumed: None,
            share,
            meter,
            turn: Turn::default(),
            until: Instant::now(),
            paused: None,
            flow: inward,
            passthrough,
            tap,
            entry,
            site,
            permission,
            inward: tap::Driver::default(),
            outward: tap::Driver::default(),
            sleep: Box::pin(sleep_until(tokio::time::Instant::now())),
            ask_by: Some(Instant::now() + OPENING),
            reported: LinkStats::default(),
            gap: None,
        }
    }

    /// Ends the link if the config does not permit it any more; judges its lanes by their certificates.
    fn judge(&mut self) {
        match self.permission.judge() {
            Ok(()) => self.lanes.judge(&mut self.link, self.entry, Instant::now()),
            Err((reason, end)) => self.link.abort(reason, end),
        }
    }

    /// Runs one turn. Completes when the link has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(paused) = self.paused {
            if self.sleeps_until(paused, cx) {
                return Poll::Pending;
            }
            self.paused = None;
        }
        let before = self.moved();
        self.turn = Turn::default();
        let now = Instant::now();
        self.until = now + self.meter.begin(now);
        let polled = self.take_turn(cx);
        self.turn.bytes = self.moved() - before;
        match self.meter.end(self.turn, Instant::now()) {
            Penalty::None => {}
            Penalty::Pause { time, log } => {
                // No longer than the far side accepts silence from this side.
                self.paused = Some(Instant::now() + time.min(self.link.speak_every()));
                if log {
                    let words = "its frames cost CPU time that other sites need and carry little data";
                    log_link!(warn, self.entry, throttled(Kind::Slowed, words); "site {} is slowed: {words}", self.entry.site);
                }
            }
            Penalty::End => {
                self.link.abort(Reason::new(ReasonCode::Limit, &End::Costly.to_string()), End::Costly)
            }
        }
        if self.link.is_ended() { Poll::Ready(()) } else { polled }
    }

    /// Number of bytes so far that were carried, or crossed the local socket.
    fn moved(&self) -> u64 {
        let (to_replica, to_master) = self.entry.counts();
        self.link.carried() + self.link.sent() + to_replica + to_master
    }

    fn take_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.take_new_lanes(cx);
        let bulk = self.tap.is_bulk();
        self.redis.gather(bulk);
        self.lanes.gather(bulk);
        for round in 0..ROUNDS {
            let now = Instant::now();
            if round > 0 && now >= self.until {
                break;
            }
            let mut moved = self.read_lanes(cx, now);
            if self.link.is_ended() {
                // The link is over, so nothing that was received may be delivered late.
                self.redis.clear();
                return Poll::Ready(());
            }
            moved |= self.write_redis(cx, now);
            moved |= self.read_redis(cx, now);
            // What is due by now is then written.
            self.check_time(now);
            moved |= self.write_lanes(cx, now);
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
            self.lanes.balance(&mut self.link, now);
            if self.link.dial_due().is_some_and(|due| due <= now) {
                self.lanes.dial(&mut self.link, self.entry, now);
                self.take_new_lanes(cx);
            }
            self.share.set(self.held(), self.link.scattered());
            if !moved && self.sleeps(cx, now) {
                self.report(now);
                return Poll::Pending;
            }
        }
        self.report(Instant::now());
        self.turn.more = true;
        wake_after_others(cx);
        Poll::Pending
    }

    /// Handles the events of the source of lanes.
    fn take_new_lanes(&mut self, cx: &mut Context<'_>) {
        self.lanes.reap(cx);
        while self.lanes.poll_source(cx, &mut self.link, self.entry).is_ready() {
            self.take_events();
        }
    }

    /// Handles the link's events, and closes the lanes that it no longer uses.
    fn take_events(&mut self) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::LaneClosed { lane, retired } => {
                    self.lanes.close(lane, retired, &self.link, self.entry)
                }
                Event::Resumed(resumed) => {
                    self.entry.note_resumed();
                    self.resumed = Some(resumed);
                }
                Event::Proven => self.lanes.rivals.clear(),
                Event::Ended { end, delivered } => self.ended = Some((end, delivered)),
            }
        }
    }

    /// Bytes of memory that it holds.
    fn held(&self) -> u64 {
        self.link.memory() + self.lanes.storage()
    }

    /// Reports changes to the registry and the log, once a turn.
    fn report(&mut self, now: Instant) {
        let stats = LinkStats {
            lanes: self.link.lanes() as u64,
            lanes_to_replace: self.link.lanes_to_replace() as u64,
            held: self.link.held().map(|held| Hold { since: held.since, within: held.within }),
            breaks: self.link.breaks_by_cause(),
            resent: self.link.resent(),
            carried: self.link.carried(),
            buffered: self.held(),
            round_trip: self.lanes.round_trip(now),
            unacknowledged: self.link.unacknowledged(),
            packed: self.link.packed(),
        };
        self.link.keep(self.tap.may_be_asked_again(), self.share.may_keep());
        self.share.keep(self.link.kept());
        announce::look(self.entry);
        if let (Some(held), None) = (self.link.held(), self.reported.held) {
            let (cause, words) = (held.cause.code(), held.cause.to_string());
            let within = clock::tenths(held.within);
            log_link!(warn, self.entry, throttled(Kind::Held, &words); cause, within, "link held: {words}; gives up in {within:.1} s");
        }
        if stats != self.reported {
            self.entry.update(stats);
            self.reported = stats;
        }
        if let Some(resumed) = self.resumed.take() {
            let seconds = clock::tenths(resumed.lasted);
            let (to_replica, to_master) = self.entry.counts();
            let payload = (to_replica + to_master).max(1);
            let carried = (stats.carried as f64 / payload as f64 * 100.0).round() / 100.0;
            log_link!(info, self.entry, throttled(Kind::Resumed, &resumed.cause.to_string()); cause = resumed.cause.code(), seconds, resent = resumed.resending, breaks = self.link.breaks(), redials = self.entry.redials(), lanes = stats.lanes, carried, "link resumed: {}", resumed.cause);
        }
    }

    /// Whether a gap has stayed open: data that was after it is still not in order.
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

    /// Reads the lanes into the link. Returns whether anything was received.
    fn read_lanes(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let full = self.share.room() == 0;
        let wait = full && self.link.has_ready();
        let stuck = self.is_stuck(now);
        if self.share.gives_way(stuck) {
            self.link.abort(Reason::new(ReasonCode::Limit, &End::MemoryShort.to_string()), End::MemoryShort);
        }
        let moved = if wait {
            self.lanes.skip_read();
            false
        } else {
            self.lanes.read(cx, &mut self.link, self.entry, now, self.until)
        };
        self.take_events();
        moved
    }

    /// Handles what is due by now.
    fn check_time(&mut self, now: Instant) {
        self.lanes.check_silence(&mut self.link, self.entry, now);
        if self.link.held().is_some_and(|held| now >= held.since + held.within) && self.lanes.awaits_answer()
        {
            self.link.wait_for_answer();
        }
        self.link.handle_timeout(now);
        self.take_events();
        self.lanes.tell_closed(&self.link, self.entry, now);
    }

    /// Moves bytes from the link through the tap to Redis. Returns whether anything moved.
    fn write_redis(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        while self.redis.has_space()
            && let Some((chunk, carried)) = self.link.take()
        {
            moved = true;
            let flow = self.flow;
            let actions = self.inward.through(self.tap.as_mut(), flow, chunk, carried, now);
            self.take_inward(actions, now);
        }
        let mut useful = false;
        loop {
            match self.redis.poll_write(cx) {
                Write::Nothing => break,
                Write::Done(carried) => self.link.wrote(carried, now),
                Write::Bytes(count) => {
                    self.entry.count(self.flow, count);
                    (moved, useful) = (true, true);
                }
                Write::Failed => {
                    // What Redis had sent before may still be unread: a replica's last
                    // acknowledgement, a master's last bytes.
                    if self.flow == Flow::ToReplica && !self.passthrough {
                        while self.read_redis(cx, now) {}
                    }
                    if self.flow == Flow::ToReplica || self.passthrough {
                        self.link.local_broken(now);
                    }
                    return true;
                }
            }
        }
        self.turn.rounds += u32::from(useful);
        let finished = self.passthrough && self.link.receive_finished();
        moved | (finished && self.redis.shut_if_empty(cx))
    }

    /// Carries out the tap's actions for bytes from the link.
    fn take_inward(&mut self, actions: Vec<Action>, now: Instant) {
        for action in actions {
            match action {
                Action::Forward { chunk, carried, .. } => self.redis.push(chunk, carried),
                Action::Answer(reply) => self.link.offer(Chunk::copied(&reply)),
                Action::Stop { reply, reason, breach } => self.refuse(&reply, reason, breach, now),
            }
        }
    }

    /// Moves bytes from Redis through the tap to the link. Returns whether anything was read.
    fn read_redis(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.tap.to_recall() > 0 {
            return self.recall(now);
        }
        if self.redis.has_ended() {
            self.redis.stop_watch();
            return false;
        }
        let room = self.link.read_room(self.share.room(), self.tap.is_bulk());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room == 0 {
            // A replica that closes is gone. The last bytes of a master, and of either end of a
            // passthrough, must still be read.
            let until_closed = !self.passthrough && self.flow == Flow::ToReplica;
            let gone = self.redis.watch(cx, until_closed, now);
            if gone {
                self.link.local_broken(now);
            }
            return gone;
        }
        let most = self.link.max_payload().min(self.tap.looks_at_most());
        let chunk = match self.redis.poll_read(cx, room.min(most), now) {
            Read::Nothing => return false,
            Read::Bytes(chunk) => chunk,
            Read::Ended(closed) => {
                match self.tap.closed() {
                    Some((reply, reason)) => self.refuse(&reply, reason, false, now),
                    None if closed.is_ok() => self.link.local_closed(now),
                    None => self.link.local_broken(now),
                }
                return true;
            }
        };
        let (flow, count) = (self.outward_flow(), chunk.len());
        if flow == Flow::ToMaster && !self.passthrough && !self.link.is_armed() && self.redis.is_gone(cx) {
            // It would come to the master from a client that is gone, and may ask for a sync.
            self.link.local_broken(now);
            return true;
        }
        let may_wait = self.coalescing.may_wait(count) && self.tap.may_wait(flow, chunk.bytes());
        self.entry.count(flow, count);
        self.turn.rounds += 1;
        let actions = self.outward.through(self.tap.as_mut(), flow, chunk.settled(), count as u64, now);
        self.take_outward(actions, now);
        self.coalescing.read(may_wait, self.link.unsent(), now);
        let recalled = self.tap.to_recall();
        if recalled > 0 {
            log_link!(info, self.entry; kind = notice::CONTINUED, recalled, "the replica continues where its earlier link was: {recalled} bytes from memory");
        }
        // Bytes that the tap holds may have waited for this reply.
        self.look_again(now);
        true
    }

    /// Passes bytes from memory to the link, which come before any more of Redis'. They take no more
    /// memory there, so all of them go at once, as far as the turn's time allows: while the link sends
    /// them, Redis is read as after a break. Returns whether there were any.
    fn recall(&mut self, now: Instant) -> bool {
        self.link.fall_behind();
        if self.link.read_room(u64::MAX, false) == 0 {
            return false;
        }
        let (flow, most) = (self.outward_flow(), self.link.max_payload());
        while let Some(chunk) = self.tap.recall(most, now) {
            self.entry.count(flow, chunk.len());
            self.offer(chunk);
            if Instant::now() >= self.until {
                break;
            }
        }
        self.turn.rounds += 1;
        if self.tap.to_recall() == 0 {
            let actions = self.outward.again(self.tap.as_mut(), flow, now);
            self.take_outward(actions, now);
        }
        self.coalescing.read(false, self.link.unsent(), now);
        true
    }

    /// Carries out the tap's actions for bytes from Redis.
    fn take_outward(&mut self, actions: Vec<Action>, now: Instant) {
        for action in actions {
            match action {
                Action::Forward { chunk, armed, .. } => {
                    if !chunk.is_empty() {
                        self.offer(chunk);
                    }
                    if armed {
                        self.link.arm();
                    }
                }
                Action::Answer(reply) => self.redis.push(Chunk::copied(&reply), 0),
                Action::Stop { reply, reason, breach } => self.refuse(&reply, reason, breach, now),
            }
        }
    }

    /// Shows the tap again what it holds of the bytes from the lanes.
    fn look_again(&mut self, now: Instant) {
        let actions = self.inward.again(self.tap.as_mut(), self.flow, now);
        self.take_inward(actions, now);
    }

    /// Passes Redis' bytes to the link. The cost of compressing them is this site's choice.
    fn offer(&mut self, chunk: Chunk) {
        if !self.link.is_packing() {
            return self.link.offer(chunk);
        }
        let before = thread_time();
        self.link.offer(chunk);
        self.turn.ours += thread_time().saturating_sub(before);
    }

    /// Writes the link's frames to the lanes. Returns whether anything was written.
    fn write_lanes(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.coalescing.waits(now) && !self.link.is_ended() {
            return false;
        }
        let moved = self.lanes.write(cx, &mut self.link, self.entry, now, self.until);
        self.take_events();
        moved
    }

    /// Whether there is nothing to do until a timer or a socket wakes the task.
    fn sleeps(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        // Frames that wait for room on the lane are woken by the lane, not by a timer.
        let io = |number| self.lanes.io(number);
        // A socket that was due by now and was not read is one that may not be read.
        let gathered = |by: Option<Instant>| by.filter(|by| *by > now);
        // Nothing is sent before what was read has waited, not even what is due.
        let coalesced = self.coalescing.until().filter(|until| *until > now);
        let times = [
            self.link.poll_timeout(&io).map(|due| coalesced.map_or(due, |until| due.max(until))),
            self.redis.watch_at(),
            gathered(self.redis.gathered_by()),
            gathered(self.lanes.gathered_by()),
            self.lanes.tells_at(),
            coalesced,
            self.ask_by,
        ];
        // What a held link keeps may have to go, though nothing happens on it.
        let trimmed = (self.link.is_held() && self.link.kept() > 0).then(|| now + TRIM);
        let Some(next) = times.into_iter().chain([trimmed]).flatten().min() else {
            return true;
        };
        self.sleeps_until(next, cx)
    }

    /// Whether that time is in the future; the task is woken then.
    fn sleeps_until(&mut self, next: Instant, cx: &mut Context<'_>) -> bool {
        let next = tokio::time::Instant::from_std(next);
        if self.sleep.deadline() != next {
            self.sleep.as_mut().reset(next);
        }
        self.sleep.as_mut().poll(cx).is_pending()
    }

    /// The tap ends the link: sends its last reply to the replica, then ends. `breach` means that
    /// the bytes were not part of replication.
    fn refuse(&mut self, reply: &[u8], reason: String, breach: bool, now: Instant) {
        // Nothing that follows is inspected any more.
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
}
