//! Fuzzes a link at either side with what a far gateway may send over its lanes, cut anywhere,
//! through the decoder.
//!
//! The first byte selects the terms, the next three how the bytes are cut. Then come steps, each
//! one byte and its arguments: frames, raw bytes, lanes that open and end, time, and what the local
//! Redis does. For any input: nothing panics, the link holds no more memory than its terms allow,
//! in a bounded number of pieces, and what comes out is what was sent, in order.

#![no_main]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libfuzzer_sys::{Corpus, fuzz_target};
use replgate::internal::buffer::{Chunk, STORAGE};
use replgate::internal::link::dials::Dial;
use replgate::internal::link::reassembly::MAX_RUNS;
use replgate::internal::link::{Event, LaneIo, LaneLoss, Link, Side};
use replgate::internal::wire::frame::{Decoder, Frame, Item, MAX_DATA, Report, data_header};
use replgate::internal::wire::reason::{Reason, ReasonCode};
use replgate::internal::wire::terms::Terms;
use replgate_fuzz::pieces;

/// Most steps and frames of one run.
const MOST: usize = 20_000;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((&[settings, ref cut @ ..], script)) = bytes.split_first_chunk::<4>() else {
        return Corpus::Reject;
    };
    for side in [Side::Dialler, Side::Acceptor] {
        World::new(side, settings, cut).run(script);
    }
    Corpus::Keep
});

struct World<'a> {
    link: Link,
    side: Side,
    window: u64,
    cut: &'a [u8],
    now: Instant,
    lanes: Vec<(u32, Decoder)>,
    /// The lane on which the next bytes come.
    on: usize,
    newest: u32,
    /// What [`Link::take`] returned and is not written yet.
    taken: VecDeque<u64>,
    /// The offset of the next byte that is taken.
    next: u64,
    /// Whether the received bytes follow the pattern.
    is_pattern: bool,
    left: usize,
}

/// The byte of the far side's stream at an offset.
fn pattern(offset: u64) -> u8 {
    (offset % 251) as u8
}

impl<'a> World<'a> {
    fn new(side: Side, settings: u8, cut: &'a [u8]) -> Self {
        let bits = |from: u8, count: u8| settings >> from & ((1 << count) - 1);
        let terms = Terms {
            window: (64 * 1024) << (bits(0, 2) * 3),
            max_frame: 1024 << (bits(2, 1) * 8),
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            hold: Duration::from_secs(u64::from(bits(3, 1)) * 45),
            lanes: 1 + bits(4, 2) * 5,
            compression: bits(6, 1),
            reports: true,
            lists: false,
        };
        let (plain, now) = (bits(7, 1) == 1, Instant::now());
        Self {
            link: Link::new(side, &terms.agree(&terms, plain), now).compressing(1),
            side,
            window: terms.window,
            cut,
            now,
            lanes: vec![(0, Decoder::default())],
            on: 0,
            newest: 0,
            taken: VecDeque::new(),
            next: 0,
            // Data that a dialler decompresses does not follow the pattern.
            is_pattern: side == Side::Acceptor || plain || terms.compression == 0,
            left: MOST,
        }
    }

    fn run(mut self, script: &[u8]) {
        let mut script = script.iter().copied();
        while let Some(step) = script.next()
            && self.left > 0
            && !self.link.is_ended()
        {
            self.left -= 1;
            self.step(step, &mut || script.next().unwrap_or(0));
            self.holds_what_it_may();
        }
    }

    fn step(&mut self, step: u8, argument: &mut dyn FnMut() -> u8) {
        // The first argument counts bytes, the second about kilobytes.
        let mut offset = || u64::from(argument()) + u64::from(argument()) * 1021;
        match step % 14 {
            0 => {
                let (offset, length) = (offset(), offset() as usize);
                self.data(offset, length.clamp(1, MAX_DATA), length);
            }
            1 => {
                let (mut at, count, apart) = (offset(), offset(), offset());
                for _ in 0..count {
                    self.data(at, 1, 1);
                    at += apart;
                }
            }
            2 => {
                // The rest of the announced data never comes as such.
                let (offset, length) = (offset(), offset() as usize);
                self.data(offset, MAX_DATA, length);
                self.is_pattern = false;
            }
            3 => {
                let length = usize::from(argument());
                let raw: Vec<u8> = (0..length).map(|_| argument()).collect();
                self.is_pattern = false;
                self.receive(&raw);
            }
            4 => {
                let (written, received, came) = (offset(), offset(), offset());
                let report = Report { received, lanes: vec![(0, came), (1, came)] };
                self.receive(&Frame::Ack(written, Some(report)).encode());
            }
            5 => {
                let (offset, reason) = (offset(), Reason::new(ReasonCode::Protocol, "said so"));
                let frame = match argument() % 8 {
                    0 => Frame::Heartbeat(None),
                    1 => Frame::Armed(offset),
                    2 => Frame::End { offset, reason },
                    3 => Frame::Goodbye { offset, reason },
                    4 => Frame::Renew,
                    5 => Frame::Retire,
                    6 => Frame::Abort(reason),
                    _ => Frame::Ack(offset, None),
                };
                self.receive(&frame.encode());
            }
            6 => self.on = usize::from(argument()),
            7 => {
                let received = offset();
                self.lane(received, argument());
            }
            8 => {
                if let Some((lane, _)) = self.lanes.get(self.on % self.lanes.len().max(1)) {
                    self.link.lane_lost(*lane, LaneLoss::Closed, self.now);
                }
            }
            9 => {
                let memory = self.window.saturating_sub(self.link.memory());
                let room = self.link.read_room(memory, false).min(self.link.max_payload() as u64);
                let length = usize::try_from(offset().min(room)).expect("a frame is small");
                self.link.offer(Chunk::copied(&vec![7; length]));
                if self.side == Side::Acceptor && argument() > 200 {
                    self.link.arm();
                }
            }
            10 => self.take(usize::from(argument())),
            11 => {
                if let Some(carried) = self.taken.pop_front() {
                    self.link.wrote(carried, self.now);
                }
            }
            12 => self.send(usize::from(argument())),
            _ => {
                self.now += Duration::from_millis(u64::from(argument()) * 40);
                for (lane, _) in &self.lanes {
                    self.link.check_liveness(*lane, self.now);
                }
                self.link.handle_timeout(self.now);
            }
        }
        while let Some(event) = self.link.poll_event() {
            if let Event::LaneClosed { lane, .. } = event {
                self.lanes.retain(|(number, _)| *number != lane);
            }
        }
        assert!(self.lanes.iter().all(|(lane, _)| self.link.has_lane(*lane)), "{:?}", self.link);
    }

    /// Sends a DATA frame that announces `length` bytes and brings `come` of them.
    fn data(&mut self, offset: u64, length: usize, come: usize) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return;
        }
        let mut frame = data_header(offset, length).to_vec();
        frame.extend((offset..).take(come.min(length)).map(pattern));
        self.receive(&frame);
    }

    /// Receives bytes on the current lane.
    fn receive(&mut self, bytes: &[u8]) {
        let at = self.on % self.lanes.len().max(1);
        let Some((lane, decoder)) = self.lanes.get_mut(at) else { return };
        for mut input in pieces(bytes, self.cut) {
            loop {
                match decoder.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(item)) => {
                        if let Item::Data { offset, bytes, .. } = &item {
                            self.is_pattern &= (*offset..).zip(*bytes).all(|(at, byte)| *byte == pattern(at));
                        }
                        self.link.handle(*lane, item, self.now);
                    }
                    Err(error) => return self.link.fault(&error.into()),
                }
            }
            self.link.on_activity(*lane, self.now);
        }
    }

    /// Adds a lane: the acceptor is asked for one, the dialler gets the one that it dialled.
    fn lane(&mut self, received: u64, alive: u8) {
        let number = match self.side {
            Side::Acceptor => {
                self.newest += 1;
                let known = self.lanes.iter().filter(|(lane, _)| alive >> (lane % 8) & 1 == 1);
                let alive = known.map(|(lane, _)| *lane).collect();
                let dial = Dial { lane: self.newest, alive, received };
                self.link.attach(&dial, self.now).ok().map(|_| self.newest)
            }
            Side::Dialler => {
                let due = self.link.dial_due().is_some_and(|due| due <= self.now);
                due.then(|| self.link.begin_dial(self.now).lane)
                    .filter(|lane| self.link.dialled(*lane, received, self.now))
            }
        };
        self.lanes.extend(number.map(|number| (number, Decoder::default())));
    }

    /// Lets the local Redis take bytes.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some((chunk, carried)) = self.link.take() else { return };
            if self.is_pattern {
                assert!((self.next..).zip(chunk.bytes()).all(|(at, byte)| *byte == pattern(at)));
            }
            self.next += chunk.len() as u64;
            self.taken.push_back(carried);
        }
    }

    /// Takes the frames that the link wants to send, on every lane.
    fn send(&mut self, frames: usize) {
        for (lane, _) in &self.lanes {
            for _ in 0..frames {
                let mut decoder = Decoder::default();
                let good = &mut |frame: &[u8]| {
                    let mut input = frame;
                    assert!(matches!(decoder.next(&mut input), Ok(Some(_))), "our own frames decode");
                };
                if !self.link.poll_transmit(*lane, self.now, good) {
                    break;
                }
            }
        }
    }

    fn holds_what_it_may(&self) {
        let _ = self.link.poll_timeout(&|_| LaneIo { room: true, empty: true });
        if self.link.is_ended() {
            return;
        }
        // One window in each direction. Received data may be in storage of up to twice its size,
        // and as much again may be beyond a gap. In addition, buffers that are being filled.
        let most = 5 * self.window + 2 * STORAGE as u64;
        assert!(self.link.memory() <= most, "{} bytes of memory: {:?}", self.link.memory(), self.link);
        assert!(self.link.scattered() <= 2 * self.window && self.link.runs() <= MAX_RUNS);
        assert!(self.lanes.len() <= 24);
    }
}
