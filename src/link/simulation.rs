//! Simulates two ends of a link over lanes that are cut, silenced, slowed or lost without notice,
//! with a clock of its own. It runs thousands of schedules from seeds, and prints the seed of one
//! that fails.
//!
//! It asserts that at every moment the bytes that come out are those that went in; that once the
//! faults stop, either everything arrives or both ends have ended; that no more is under way than
//! the window, however much is taken in during a break; that only the end of its hold
//! ends a link; that a link is never long without either a lane or a hold; that whatever is due
//! is done, so that no end is woken forever; that what a replica had sent when it left over a
//! path that works is delivered; and that a link which one end has given up, since another Redis is the
//! master now, delivers nothing there any more and ends at the other end too.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::dials::Dial;
use super::*;
use crate::wire::frame::Decoder;
use crate::wire::terms::Terms;

/// How the clock moves.
const TICK: Duration = Duration::from_millis(10);

/// A small random generator, repeatable by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// One direction of a lane: what was sent and when it arrives.
#[derive(Default)]
struct Wire {
    under_way: VecDeque<(u64, Vec<u8>)>,
    silent: bool,
}

/// A connection between the gateways.
struct Pipe {
    number: u32,
    /// 0: from the dialler to the acceptor.
    wires: [Wire; 2],
    /// Closed, as each end will find once it has read everything.
    closed: bool,
    /// The tick at which the acceptor judges the lane.
    opening: Option<(u64, Dial)>,
    /// The acceptor's answer, and when it reaches the dialler.
    answer: Option<(u64, Result<u64, Reason>)>,
    /// Which instance of the acceptor it leads to.
    instance: u32,
    decoders: [Decoder; 2],
    delay: u64,
}

struct End2 {
    link: Link,
    /// Lanes that this end has open.
    open: Vec<u32>,
    written: u64,
    /// Number of ticks for which it has been neither carried by a lane nor held.
    adrift: u32,
    /// Whether it has reported its end.
    told: bool,
}

/// The simulated network with both ends.
struct World {
    dice: Dice,
    now: Instant,
    tick: u64,
    ends: [End2; 2],
    pipes: Vec<Pipe>,
    /// Every open pipe is silent, and new ones do not open.
    blackout: bool,
    /// Ends with the faults.
    faults: bool,
    offered: [u64; 2],
    /// The acceptor's instance, and whether the link is known there.
    instance: u32,
    breaks: u32,
    hold: Duration,
    armed_at: u64,
    /// Number of bytes that were left behind.
    left_behind: u64,
    /// The window, and the most memory that an end takes for what Redis sends.
    window: u64,
    memory: u64,
    /// The most that has waited at an end.
    most: u64,
}

/// Length of the pattern that both streams repeat: a prime, so that no cut of a frame
/// falls on the same bytes again.
const PATTERN: usize = 65_521;

/// The bytes of either stream from an offset on.
fn stream(side: usize, offset: u64, length: usize) -> Vec<u8> {
    static BYTES: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
        [1, 2].map(|seed| {
            let mut dice = Dice(seed);
            // Runs, so that there is something to compress.
            let mut bytes: Vec<u8> = Vec::new();
            while bytes.len() < PATTERN {
                let byte = dice.roll(256) as u8;
                bytes.extend((0..dice.roll(6)).map(|_| byte));
            }
            bytes[..PATTERN].repeat(2)
        })
    });
    let start = (offset % PATTERN as u64) as usize;
    BYTES[side][start..start + length].to_vec()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let now = Instant::now();
        let hold = Duration::from_secs([0, 3, 10, 45, 45][dice.roll(5) as usize]);
        let window = (64 * 1024) << dice.roll(3);
        let terms = Terms {
            window,
            max_frame: 1024 << dice.roll(6),
            hold,
            lanes: 1 + dice.roll(4) as u8,
            compression: dice.roll(2) as u8,
            reports: !dice.one_in(4),
            ..Terms::sample()
        };
        let end = |side| End2 {
            link: Link::new(side, &terms.agree(&terms, false), now).compressing(1),
            open: vec![0],
            written: 0,
            adrift: 0,
            told: false,
        };
        let ends = [end(Side::Dialler), end(Side::Acceptor)];
        let memory = [window / 2, 4 * window, 4 << 20][dice.roll(3) as usize];
        let delay = dice.roll(12);
        let first = Pipe {
            number: 0,
            wires: Default::default(),
            closed: false,
            opening: None,
            answer: None,
            instance: 0,
            decoders: Default::default(),
            delay,
        };
        Self {
            dice,
            now,
            tick: 0,
            ends,
            pipes: vec![first],
            blackout: false,
            faults: true,
            offered: [0, 0],
            instance: 0,
            breaks: 0,
            hold,
            armed_at: 0,
            left_behind: 0,
            window,
            memory,
            most: 0,
        }
    }

    /// Redis at `side` sends something.
    fn speak(&mut self, side: usize, most: u64) {
        let end = &mut self.ends[side];
        let memory = self.memory.saturating_sub(end.link.send.storage());
        let bulk = self.armed_at > 0 && self.tick < 400 && self.memory < self.window;
        let room = end.link.read_room(memory, bulk).min(end.link.max_payload() as u64);
        let room = room.min(1 + self.dice.roll(most));
        if room == 0 || end.link.closing.ended().is_some() {
            return;
        }
        let bytes = stream(side, self.offered[side], room as usize);
        self.offered[side] += room;
        end.link.offer(Chunk::copied(&bytes));
        if side == 1 && self.armed_at == 0 && self.offered[1] > 500 {
            self.armed_at = self.offered[1];
            end.link.arm();
        }
    }

    /// Redis at `side` reads what is ready for it.
    fn listen(&mut self, side: usize, most: u64) {
        let end = &mut self.ends[side];
        let mut taken = 0;
        while taken < most {
            let Some((chunk, carried)) = end.link.take() else { break };
            for piece in chunk.bytes().chunks(PATTERN) {
                let right = stream(1 - side, end.written, piece.len());
                assert!(piece == right, "wrong bytes from {} on", end.written);
                end.written += piece.len() as u64;
            }
            taken += chunk.len() as u64;
            end.link.wrote(carried, self.now);
        }
    }

    /// Sends the last frames of a link that has ended, and closes the lanes that a link has closed.
    fn let_go(&mut self) {
        for (side, end) in self.ends.iter_mut().enumerate() {
            let parting = if end.link.is_ended() { end.open.clone() } else { Vec::new() };
            let open =
                |pipe: &&mut Pipe| !pipe.closed && pipe.opening.is_none() && parting.contains(&pipe.number);
            for pipe in self.pipes.iter_mut().filter(open) {
                let mut out = Vec::new();
                while end.link.poll_transmit(pipe.number, self.now, &mut |frame| out.extend_from_slice(frame))
                {
                }
                if !out.is_empty() {
                    pipe.wires[side].under_way.push_back((self.tick + 1 + pipe.delay, out));
                }
            }
            let gone: Vec<u32> = end
                .open
                .iter()
                .copied()
                .filter(|lane| end.link.closing.ended().is_some() || !end.link.has_lane(*lane))
                .collect();
            end.open.retain(|lane| !gone.contains(lane));
            for pipe in self.pipes.iter_mut().filter(|pipe| gone.contains(&pipe.number)) {
                pipe.closed = true;
            }
        }
    }

    fn step(&mut self) {
        self.tick += 1;
        self.now += TICK;
        let now = self.now;
        // Dials.
        if self.ends[0].link.dial_due().is_some_and(|due| due <= now) {
            let dial = self.ends[0].link.begin_dial(now);
            let delay = self.dice.roll(12);
            let lost = self.blackout || self.faults && self.dice.one_in(8);
            if lost {
                self.pipes.push(self.pipe(dial, u64::MAX, delay));
            } else {
                let opens = self.tick + 2 + delay + self.dice.roll(40);
                self.pipes.push(self.pipe(dial, opens, delay));
            }
        }
        for at in 0..self.pipes.len() {
            self.open(at);
            self.answer(at);
        }
        self.pipes.retain(|pipe| {
            !pipe.closed
                || pipe.opening.is_some()
                || pipe.answer.is_some()
                || pipe.wires.iter().any(|wire| !wire.under_way.is_empty())
                || !pipe.is_noticed(&self.ends)
        });
        // What arrives.
        for at in 0..self.pipes.len() {
            for way in [0, 1] {
                self.arrive(at, way);
            }
        }
        // Time.
        for side in [0, 1] {
            for lane in self.ends[side].open.clone() {
                self.ends[side].link.check_liveness(lane, now);
            }
            self.ends[side].link.handle_timeout(now);
        }
        self.let_go();
        // What is sent.
        let mut full = Vec::new();
        for side in [0, 1] {
            for at in 0..self.pipes.len() {
                let pipe = &mut self.pipes[at];
                if pipe.closed || pipe.opening.is_some() || !self.ends[side].open.contains(&pipe.number) {
                    continue;
                }
                // Now and then a lane has no room.
                let wire = &mut pipe.wires[side];
                let queued: usize = wire.under_way.iter().map(|(_, bytes)| bytes.len()).sum();
                if queued > 12_000 {
                    full.push((side, pipe.number));
                    continue;
                }
                let mut out = Vec::new();
                let arrives = self.tick + 1 + pipe.delay;
                while out.len() < 6000
                    && self.ends[side]
                        .link
                        .poll_transmit(pipe.number, now, &mut |frame| out.extend_from_slice(frame))
                {
                }
                if out.len() >= 6000 {
                    full.push((side, pipe.number));
                }
                if !out.is_empty() {
                    wire.under_way.push_back((arrives, out));
                }
            }
        }
        for side in [0, 1] {
            self.watch(side, &full);
        }
        for End2 { link, .. } in &self.ends {
            let under_way = link.send.sent() - link.send.acknowledged();
            // Once the far side is done nothing is under way any more: all of it was dropped.
            let dropped = link.is_ended() || link.closing.is_delivering();
            assert!(under_way <= self.window || dropped, "{under_way} bytes under way: {link:?}");
            // A chunk that is shared may be larger than the memory that was left.
            let storage = link.send.storage();
            assert!(storage <= self.memory + 64 * 1024, "{storage} bytes of storage: {link:?}");
            self.most = self.most.max(link.send.offered() - link.send.acknowledged());
        }
        if self.tick.is_multiple_of(64) {
            self.ends.iter().for_each(|end| end.link.send.check());
        }
        for End2 { link, told, .. } in &mut self.ends {
            let mut resumed = false;
            while let Some(event) = link.poll_event() {
                assert!(!*told || matches!(event, Event::LaneClosed { .. }), "{event:?} after the end");
                match event {
                    Event::LaneClosed { lane, .. } => assert!(!link.has_lane(lane)),
                    Event::Resumed(_) => resumed = true,
                    Event::Proven => {}
                    Event::Ended { .. } => *told = true,
                }
            }
            assert_eq!(*told, link.is_ended());
            self.breaks += u32::from(resumed);
        }
    }

    /// The invariants of an end after everything that was due is done.
    fn watch(&mut self, side: usize, full: &[(usize, u32)]) {
        let End2 { link, open, adrift, .. } = &mut self.ends[side];
        let usable: Vec<u32> = open
            .iter()
            .copied()
            .filter(|lane| self.pipes.iter().any(|pipe| pipe.number == *lane && !pipe.closed))
            .collect();
        let io = |lane| LaneIo {
            room: usable.contains(&lane) && !full.contains(&(side, lane)),
            empty: usable.contains(&lane),
        };
        let due = link.poll_timeout(&io);
        let dial = link.dial_due().is_some_and(|due| due <= self.now);
        assert!(dial || due.is_none_or(|due| due > self.now), "woken for nothing: {link:?}");
        let idle = link.closing.ended().is_some() || link.is_held() || link.lanes() > 0 || !link.needs_lane();
        *adrift = if idle { 0 } else { *adrift + 1 };
        assert!(*adrift < 400, "neither carried nor held: {link:?}");
    }

    fn pipe(&self, dial: Dial, opens: u64, delay: u64) -> Pipe {
        Pipe {
            number: dial.lane,
            wires: Default::default(),
            closed: false,
            opening: Some((opens, dial)),
            answer: None,
            instance: self.instance,
            decoders: Default::default(),
            delay,
        }
    }

    /// A pipe that is being opened reaches the acceptor, whose answer then reaches the dialler.
    fn open(&mut self, at: usize) {
        let Some((tick, dial)) = self.pipes[at].opening.clone() else { return };
        let lane = dial.lane;
        if tick == u64::MAX || self.blackout {
            // No answer: given up after a while.
            if self.dice.one_in(100) || self.ends[0].link.closing.ended().is_some() {
                self.pipes[at].opening = None;
                self.pipes[at].closed = true;
                self.ends[0].link.dial_failed(lane, self.now);
            }
            return;
        }
        if tick > self.tick {
            return;
        }
        self.pipes[at].opening = None;
        let answer = if self.pipes[at].instance != self.instance {
            Err(Reason::new(ReasonCode::UnknownLink, "no such link here"))
        } else {
            self.ends[1].link.attach(&dial, self.now)
        };
        if answer.is_ok() {
            self.ends[1].open.push(lane);
        }
        // The answer may be lost on its way: the acceptor has a lane then that the
        // dialler gives up.
        if self.faults && self.dice.one_in(10) {
            self.pipes[at].closed = true;
            self.ends[0].link.dial_failed(lane, self.now);
        } else {
            self.pipes[at].answer = Some((self.tick + self.pipes[at].delay, answer));
        }
        self.let_go();
    }

    /// The acceptor's answer reaches the dialler.
    fn answer(&mut self, at: usize) {
        if self.blackout || !matches!(self.pipes[at].answer, Some((tick, _)) if tick <= self.tick) {
            return;
        }
        let Some((_, answer)) = self.pipes[at].answer.take() else { return };
        let lane = self.pipes[at].number;
        match answer {
            Ok(received) if self.ends[0].link.dialled(lane, received, self.now) => {
                self.ends[0].open.push(lane);
                // The other dials are given up, wherever they are.
                let others = |pipe: &&mut Pipe| {
                    pipe.number != lane && (pipe.opening.is_some() || pipe.answer.is_some())
                };
                for other in self.pipes.iter_mut().filter(others) {
                    // One that has reached the acceptor is closed there once it is read.
                    (other.opening, other.answer, other.closed) = (None, None, true);
                }
            }
            Ok(_) => self.pipes[at].closed = true,
            Err(reason) => {
                self.pipes[at].closed = true;
                match reason.code {
                    ReasonCode::LinkEnded => self.ends[0].link.given_up(End::Far(reason)),
                    _ => self.ends[0].link.dial_failed(lane, self.now),
                }
            }
        }
        self.let_go();
    }

    fn arrive(&mut self, at: usize, way: usize) {
        let (to, now) = (1 - way, self.now);
        let Self { pipes, ends, tick, dice, blackout, .. } = self;
        let pipe = &mut pipes[at];
        if pipe.opening.is_some() || !ends[to].open.contains(&pipe.number) {
            return;
        }
        if pipe.wires[way].silent || *blackout {
            return;
        }
        while pipe.wires[way].under_way.front().is_some_and(|(due, _)| *due <= *tick) {
            let (_, bytes) = pipe.wires[way].under_way.pop_front().expect("it has a front");
            // Cut anywhere.
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + dice.roll(rest.len() as u64) as usize);
                rest = after;
                let mut input = piece;
                while let Some(item) = pipe.decoders[to].next(&mut input).expect("our own frames decode") {
                    ends[to].link.handle(pipe.number, item, now);
                }
            }
            ends[to].link.on_activity(pipe.number, now);
        }
        if pipe.closed && pipe.wires[way].under_way.is_empty() {
            ends[to].open.retain(|lane| *lane != pipe.number);
            let loss = match dice.roll(2) {
                0 => LaneLoss::Closed,
                _ => LaneLoss::Failed("reset".to_owned()),
            };
            ends[to].link.lane_lost(pipe.number, loss, now);
        }
    }

    /// There are no more faults from here on.
    fn heal(&mut self) {
        (self.faults, self.blackout) = (false, false);
        self.pipes.iter_mut().flat_map(|pipe| &mut pipe.wires).for_each(|wire| wire.silent = false);
    }

    /// Whether nothing is broken at either end, and nothing is about to be.
    fn is_calm(&self) -> bool {
        let steady = |end: &End2| {
            let Link { liveness, .. } = &end.link;
            !end.link.is_ended()
                && end.link.is_armed()
                && liveness.old() == 0
                && !end.link.is_held()
                && liveness.iter().all(|lane| lane.carries())
        };
        let works = |pipe: &Pipe| {
            let open = self.ends.iter().all(|end| end.open.contains(&pipe.number));
            let silent = pipe.wires.iter().any(|wire| wire.silent);
            open && !silent && !pipe.closed && pipe.opening.is_none() && pipe.answer.is_none()
        };
        !self.blackout && self.ends.iter().all(steady) && self.pipes.iter().all(works)
    }

    /// The replica at the dialler sends a last acknowledgement and leaves. Returns whether the
    /// master must get it: whether the path works, and goes on to.
    fn leave(&mut self) -> bool {
        self.speak(0, 60);
        let calm = self.is_calm();
        self.faults &= !calm;
        self.ends[0].link.local_closed(self.now);
        calm
    }

    /// The end at `side` is told that another Redis is the master now, whatever its lanes do. Returns whether
    /// the far end must hear of it: whether the path works, and goes on to.
    fn switch(&mut self, side: usize) -> bool {
        let calm = self.is_calm();
        self.faults &= !calm;
        let now = "10.0.0.6:6379 is the master of orders now";
        self.ends[side].link.abort(Reason::new(ReasonCode::NoMaster, now), End::Moved(now.to_owned()));
        assert!(self.ends[side].link.take().is_none(), "what waited is dropped");
        calm
    }

    /// Injects a random fault.
    fn fault(&mut self) {
        let at = self.dice.roll(self.pipes.len().max(1) as u64) as usize;
        let kind = self.dice.roll(12);
        match kind {
            0 => self.blackout = true,
            1..=3 => self.blackout = false,
            10 => {
                let side = self.dice.roll(2) as usize;
                let link = &mut self.ends[side].link;
                let lanes: Vec<u32> = link.liveness.iter().map(|lane| lane.number).collect();
                link.renew(&lanes);
            }
            _ => {}
        }
        let Some(pipe) = self.pipes.get_mut(at) else { return };
        match kind {
            // A reset: what is under way is gone.
            4..=6 => {
                pipe.closed = true;
                for wire in &mut pipe.wires {
                    let kept = self.dice.roll(wire.under_way.len() as u64 + 1) as usize;
                    wire.under_way.truncate(kept);
                    // Probably in the middle of a frame.
                    if let Some((_, bytes)) = wire.under_way.back_mut() {
                        bytes.truncate(self.dice.roll(bytes.len() as u64 + 1) as usize);
                    }
                }
            }
            // The path goes silent forever, in one direction or in both.
            7 => pipe.wires[self.dice.roll(2) as usize].silent = true,
            8 => pipe.wires.iter_mut().for_each(|wire| wire.silent = true),
            // What waited in a silent path is delivered after all.
            11 => pipe.wires.iter_mut().for_each(|wire| wire.silent = false),
            // Slow.
            9 => pipe.delay = self.dice.roll(100),
            _ => {}
        }
    }
}

impl World {
    /// What the acceptor's link leaves to another one of its replica is the end of the stream.
    fn check_left_behind(&mut self) {
        let Some(chunks) = self.ends[1].link.take_left_behind() else { return };
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let mut offset = self.offered[1] - length;
        for chunk in chunks {
            assert_eq!(chunk.bytes(), stream(1, offset, chunk.len()), "at {offset}");
            offset += chunk.len() as u64;
        }
        self.left_behind += length;
    }
}

impl Pipe {
    /// Whether neither end still has it open.
    fn is_noticed(&self, ends: &[End2; 2]) -> bool {
        ends.iter().all(|end| !end.open.contains(&self.number))
    }
}

/// What became of one schedule.
struct Outcome {
    /// Number of breaks that the link survived.
    breaks: u32,
    /// Whether it lived to the end.
    alive: bool,
    /// Whether more than twice its window has waited at an end.
    deep: bool,
    /// Whether its replica left over a path that worked.
    left: bool,
    /// Whether one end was told of another master while the path worked.
    switched: bool,
    /// Number of bytes that it left to another link of its replica.
    left_behind: u64,
}

/// Runs one schedule.
fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    let length = 300 + world.dice.roll(1500);
    let restarts = world.dice.one_in(6);
    let (stops, supersedes, stop_at) =
        (world.dice.one_in(12), world.dice.one_in(12), 200 + world.dice.roll(1000));
    let (returns, keeps) = (world.dice.one_in(8), world.dice.one_in(2));
    let closes = world.dice.roll(8);
    // At any moment, also before the sync.
    let (switches, switch_at) = (world.dice.one_in(6), 1 + world.dice.roll(length));
    let switch_side = world.dice.roll(2) as usize;
    // How much was delivered there before.
    let (mut switched, mut delivered) = (false, None);
    // A replica that leaves over a path that works has time to wait for one.
    let leaves = closes == 2;
    let close_at = if leaves { 100 + world.dice.roll(length / 2) } else { 200 + world.dice.roll(1500) };
    let (mut closed, mut left) = (false, false);
    for _ in 0..length {
        world.speak(1, 2500);
        if world.dice.one_in(5) {
            world.speak(0, 60);
        }
        if !world.dice.one_in(4) {
            let most = 1 + world.dice.roll(9000);
            world.listen(0, most);
        }
        world.listen(1, u64::MAX);
        if world.faults && world.dice.one_in(60) {
            world.fault();
        }
        world.step();
        if leaves && world.tick == close_at {
            world.heal();
        }
        let due = match closes {
            0 | 1 => world.tick == close_at,
            _ => leaves && world.tick >= close_at && !closed && world.is_calm(),
        };
        if due {
            closed = true;
            match closes {
                1 => world.ends[1].link.local_closed(world.now),
                _ => left = world.leave() && !restarts && !stops && !supersedes && !returns,
            }
        }
        if stops && world.tick == stop_at {
            let link = &mut world.ends[stop_at as usize % 2].link;
            link.stop(Reason::new(ReasonCode::Stopping, ""));
            if link.is_held() {
                link.stopped(Reason::new(ReasonCode::Stopping, ""));
            }
        }
        if switches && world.tick == switch_at && world.ends[switch_side].link.closing.ended().is_none() {
            let certain = !restarts && !stops && !supersedes && !returns && !closed;
            switched = world.switch(switch_side) && certain;
            delivered = Some(world.ends[switch_side].written);
        }
        if supersedes && world.tick == stop_at && world.ends[1].link.is_held() {
            world.ends[1].link.superseded(world.now);
        }
        let held = world.ends[1].link.is_held();
        if returns && (world.tick == stop_at || keeps && held && world.dice.one_in(20)) {
            // A neighbour's link, or another one of the same replica.
            let now = world.now;
            world.ends[1].link.replica_returned(now, now);
        }
        if keeps {
            let last = world.dice.roll(world.offered[1] + 1);
            world.ends[1].link.keep(Some(last), world.dice.roll(200_000));
        }
        world.check_left_behind();
        if restarts && world.tick == 250 {
            // Another process replaces the acceptor's.
            world.instance += 1;
            world.ends[1].link.abort(Reason::new(ReasonCode::Stopping, ""), End::Stopping);
            world.let_go();
        }
    }
    let closed = closed || delivered.is_some() || stops && world.tick >= stop_at;
    // There are no more faults from here on.
    (world.faults, world.blackout) = (false, false);
    let ended_before = world.ends.iter().any(|end| end.link.closing.ended().is_some());
    let mut ticks = (world.hold + Duration::from_secs(120)).as_millis() / TICK.as_millis();
    let is_done = |world: &World| {
        let all_there =
            world.ends[0].written == world.offered[1] && world.ends[1].written == world.offered[0];
        let ended: Vec<_> = world.ends.iter().map(|end| end.link.closing.ended().is_some()).collect();
        ended == [true, true]
            || ended == [false, false]
                && !closed
                && all_there
                && world.ends.iter().all(|end| !end.link.is_held())
                && world.ends.iter().all(|end| end.link.send.acknowledged() == end.link.send.offered())
    };
    // A link that could not send its GOODBYE is told to stop, as its gateway does.
    if stops {
        let link = &mut world.ends[stop_at as usize % 2].link;
        if link.is_held() {
            link.stopped(Reason::new(ReasonCode::Stopping, ""));
        }
    }
    while !is_done(&world) {
        assert!(ticks > 0, "no end: {:?} {:?}", world.ends[0].link, world.ends[1].link);
        ticks -= 1;
        world.listen(0, u64::MAX);
        world.listen(1, u64::MAX);
        world.step();
    }
    if let Some(delivered) = delivered {
        assert_eq!(world.ends[switch_side].written, delivered, "nothing is delivered after a switch");
    }
    if switched {
        let [own, far] = [switch_side, 1 - switch_side].map(|side| world.ends[side].link.closing.ended());
        assert!(matches!(own, Some(End::Moved(_))), "{own:?}");
        assert!(matches!(far, Some(End::Far(reason)) if reason.code == ReasonCode::NoMaster), "{far:?}");
    }
    if closes == 1 && world.ends[0].link.closing.is_delivered() {
        assert_eq!(world.ends[0].written, world.offered[1], "delivered is to the last byte");
    }
    if left {
        let end = world.ends[1].link.closing.ended();
        assert!(matches!(end, Some(End::Far(reason)) if reason.code == ReasonCode::ReplicaClosed), "{end:?}");
        assert_eq!(world.ends[1].written, world.offered[0], "a leaving replica's last bytes");
    }
    if ended_before && !restarts && !stops && !supersedes && !returns && !closed {
        // Nothing ends a link but its hold, or a break before the sync.
        let reason = world.ends.each_ref().map(|end| end.link.closing.ended().cloned());
        let held = |end: &Option<End>| matches!(end, Some(End::NoNewLane(..) | End::LaneLost(_)));
        assert!(reason.iter().any(held), "{reason:?}");
    }
    for end in &world.ends {
        assert!(
            !matches!(end.link.closing.ended(), Some(End::Protocol(_))),
            "{:?}",
            end.link.closing.ended()
        );
    }
    Outcome {
        breaks: world.breaks,
        alive: world.ends[0].link.closing.ended().is_none(),
        deep: world.most > 2 * world.window,
        left,
        switched,
        left_behind: world.left_behind,
    }
}

#[test]
fn a_link_survives_thousands_of_schedules_of_faults_without_a_wrong_byte() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2000);
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let next = AtomicU64::new(first);
    // Each thread takes the next schedule that none has taken yet.
    let take = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return outcomes;
            }
            match std::panic::catch_unwind(|| run(seed)) {
                Ok(outcome) => outcomes.push(outcome),
                Err(_) => {
                    panic!("seed {seed}: to see it again, SEED={seed} SEEDS=1 cargo test --lib simulation")
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a schedule has failed")).collect()
    });
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count() as u64;
    let breaks: u64 = outcomes.iter().map(|outcome| u64::from(outcome.breaks)).sum();
    let (survived, leaves) = (count(|outcome| outcome.alive), count(|outcome| outcome.left));
    let (legacies, deep) = (count(|outcome| outcome.left_behind > 0), count(|outcome| outcome.deep));
    let switches = count(|outcome| outcome.switched);
    println!(
        "{seeds} schedules: {breaks} breaks survived, {survived} links alive at the end, {deep} with more than twice the window, {leaves} replicas left over a working path, {switches} switches over one, {legacies} links left something to the next one"
    );
    assert!(breaks > seeds && survived > seeds / 4, "{breaks} breaks, {survived} of {seeds}");
    assert!(leaves > seeds / 40, "{leaves} leaves of {seeds}");
    assert!(switches > seeds / 100, "{switches} switches of {seeds}");
    assert!(legacies > seeds / 200, "{legacies} legacies of {seeds}");
    assert!(deep > seeds / 50, "{deep} of {seeds} took in more than their window");
}
