//! Fuzzes the observers of two links at a replica's site with a master and a replica that send
//! anything.
//!
//! The input is a sequence of steps, each one byte and its arguments: replies with numbers of any
//! size, snapshots that end early, late or never, streams, acknowledgements, and time. The two
//! links share the state of two-connection syncs. For any input, what `status` would show is
//! printable, bounded and consistent, and no bytes are held but an incomplete line.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use replgate::internal::buffer::Chunk;
use replgate::internal::redis::answer::MAX_LINE;
use replgate::internal::redis::at_replica::AtReplica;
use replgate::internal::redis::introduction::Introduction;
use replgate::internal::redis::observer::Observer;
use replgate::internal::redis::replication::{Observed, Replication, Stage};
use replgate::internal::redis::syncs::Syncs;
use replgate::internal::tap::{Action, Driver, Flow};

const ID: &str = "0123456789012345678901234567890123456789";

/// Most steps of one input.
const STEPS: usize = 400;

fuzz_target!(|bytes: &[u8]| {
    let syncs = Arc::<Syncs>::default();
    let mut links = [Link::new(&syncs), Link::new(&syncs)];
    let (mut now, mut input) = (Instant::now(), Input(bytes));
    for _ in 0..STEPS {
        let Some(step) = input.byte() else { break };
        let link = &mut links[usize::from(step >> 7)];
        let (flow, said) = match step & 0x7f {
            0 => (Flow::ToReplica, format!("+FULLRESYNC {ID} {}\r\n", input.number()).into_bytes()),
            1 => (Flow::ToReplica, format!("+CONTINUE {ID}\r\n").into_bytes()),
            2 => (Flow::ToReplica, format!("+RDBCHANNELSYNC {}\r\n", input.byte().unwrap_or(0)).into_bytes()),
            3 => (Flow::ToReplica, b"+DUALCHANNELSYNC\r\n".to_vec()),
            4 => {
                let (offset, id) = (input.number(), input.byte().unwrap_or(0));
                (Flow::ToReplica, format!("$ENDOFF:{offset} {ID} 0 {id}\r\n").into_bytes())
            }
            5 => (Flow::ToReplica, format!("${}\r\n", input.number()).into_bytes()),
            6 => (Flow::ToReplica, format!("$EOF:{ID}\r\n").into_bytes()),
            7 => (Flow::ToReplica, ID.as_bytes().to_vec()),
            8 => (Flow::ToReplica, vec![b'x'; usize::from(input.byte().unwrap_or(0)) * 37]),
            9 => (Flow::ToReplica, b"+OK\r\n".to_vec()),
            10 => (Flow::ToReplica, [b"-", input.some(), b"\r\n"].concat()),
            11 => (Flow::ToReplica, input.some().to_vec()),
            12 => (Flow::ToReplica, b"\n\n".to_vec()),
            13 => (Flow::ToMaster, b"PSYNC ? -1\r\n".to_vec()),
            14 => (Flow::ToMaster, format!("PSYNC {ID} {}\r\n", input.number()).into_bytes()),
            15 => (Flow::ToMaster, b"SYNC\r\n".to_vec()),
            16 => (Flow::ToMaster, format!("REPLCONF ACK {}\r\n", input.number()).into_bytes()),
            17 => {
                let id = input.byte().unwrap_or(0);
                (Flow::ToMaster, format!("REPLCONF main-ch-client-id {id} capa eof\r\n").into_bytes())
            }
            18 => {
                let id = input.byte().unwrap_or(0);
                (Flow::ToMaster, format!("REPLCONF set-rdb-client-id {id}\r\n").into_bytes())
            }
            19 => (Flow::ToMaster, [b"REPLCONF version ", input.some(), b" capa x\r\n"].concat()),
            20 => {
                now += Duration::from_millis(u64::from(input.byte().unwrap_or(0)) * 50);
                continue;
            }
            _ => (Flow::ToMaster, b"PING\r\n".to_vec()),
        };
        link.say(flow, &said, now);
        link.is_sane(now);
    }
    let counted: u64 = syncs.counts().iter().sum();
    assert!(counted <= STEPS as u64, "{counted} syncs");
});

/// The rest of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number that is small, near the largest, or anything.
    fn number(&mut self) -> u64 {
        let first = self.byte().unwrap_or(0);
        match first {
            0..128 => u64::from(first),
            128..192 => u64::MAX - u64::from(first - 128),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte().unwrap_or(0))),
        }
    }

    /// Up to 255 bytes of any value.
    fn some(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (some, rest) = self.0.split_at(length);
        self.0 = rest;
        some
    }
}

/// One link at the replica's site.
struct Link {
    tap: AtReplica,
    observed: Arc<Observed>,
    drivers: [Driver; 2],
    ended: bool,
    /// Bytes that the master has sent so far.
    sent: u64,
}

impl Link {
    fn new(syncs: &Arc<Syncs>) -> Self {
        let observed = Observed::new(Arc::clone(syncs));
        let observer = Observer::new(Arc::clone(&observed));
        let tap = AtReplica::new(Introduction::new(None, Vec::new()), observer, Box::new(|_| {}));
        Self { tap, observed, drivers: Default::default(), ended: false, sent: 0 }
    }

    fn say(&mut self, flow: Flow, bytes: &[u8], now: Instant) {
        let way = usize::from(flow == Flow::ToReplica);
        if self.ended {
            return;
        }
        self.sent += if flow == Flow::ToReplica { bytes.len() as u64 } else { 0 };
        let driver = &mut self.drivers[way];
        let chunk = Chunk::copied(bytes);
        for action in driver.through(&mut self.tap, flow, chunk, bytes.len() as u64, now) {
            match action {
                Action::Forward { .. } => {}
                Action::Stop { .. } => self.ended = true,
                Action::Answer(_) => panic!("an answer at the replica's site"),
            }
        }
        assert!(flow == Flow::ToMaster || driver.held().len() < MAX_LINE);
        if self.ended {
            self.drivers.iter_mut().for_each(Driver::stop);
        }
    }

    /// Asserts that what is known can be shown and is consistent.
    fn is_sane(&self, now: Instant) {
        let view: Replication = self.observed.view(now);
        let text = format!("{view:?}");
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        assert!(text.len() < 4096, "{} bytes", text.len());
        assert!(view.capabilities.len() <= 32);
        if let Some(lag) = view.lag_bytes {
            assert!(lag <= view.master_offset.expect("there is one"));
        }
        assert!(view.lag_seconds.is_none_or(|lag| lag >= 0.0));
        if let Some(snapshot) = &view.snapshot {
            assert!(snapshot.bytes <= self.sent);
            assert!(snapshot.seconds_left.is_none_or(|left| left >= 0.0 && left.is_finite()));
        }
        assert_eq!(view.stage == Stage::Unknown, view.unknown.is_some());
        if view.stage == Stage::Unknown {
            assert_eq!((view.master_offset, view.lag_bytes), (None, None));
        }
    }
}
