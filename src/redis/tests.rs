//! Whole conversations through the taps of both sites, cut into pieces of any size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::at_master::AtMaster;
use super::at_replica::AtReplica;
use super::full_syncs::FullSyncs;
use super::gate::{Gate, Rules};
use super::introduction::{Capability, Introduction};
use super::listing::Listing;
use super::names::Names;
use super::observer::Observer;
use super::replication::{Observed, Replication, Stage, SyncKind};
use super::syncs::Syncs;
use crate::buffer::{Chunk, PAYLOAD};
use crate::tap::{Action, Driver, Flow, Overdue, Tap, Verdict};

const UP: Flow = Flow::ToMaster;
const DOWN: Flow = Flow::ToReplica;

const ID: &str = "0123456789012345678901234567890123456789";
const PSYNC: &[u8] = b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n";
const FULL: &[u8] = b"\n\n+FULLRESYNC 0123456789012345678901234567890123456789 42\r\n\n$9\r\nREDIS0010";
const EOF: &[u8] =
    b"$EOF:abcdefghijabcdefghijabcdefghijabcdefghij\r\nREDIS0010abcdefghijabcdefghijabcdefghijabcdefghij";

/// A tap, what its observer has recorded, and the drivers of its two directions.
type Station = (Watched, Arc<Observed>, [Driver; 2]);

/// A tap, and its latest own command until that goes out.
struct Watched {
    tap: Box<dyn Tap>,
    inserted: Option<Vec<u8>>,
}

impl Tap for Watched {
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict {
        let verdict = self.tap.look(flow, bytes, now);
        if let Verdict::Insert(command) = &verdict {
            assert_eq!(self.inserted.replace(command.clone()), None);
        }
        verdict
    }

    fn overdue(&self) -> Overdue {
        self.tap.overdue()
    }
}

fn station(tap: impl Tap + 'static, observed: Arc<Observed>) -> Station {
    (Watched { tap: Box::new(tap), inserted: None }, observed, Default::default())
}

/// Bytes, and the direction they take.
type Step = (Flow, Vec<u8>);

/// A connection through one tap, or through both.
struct Talk {
    taps: Vec<Station>,
    master: Vec<u8>,
    replica: Vec<u8>,
    end: Option<String>,
    armed: Option<usize>,
    now: Instant,
    /// Commands that the gateway has inserted, and the master's immediate reply to each.
    inserted: Vec<Vec<u8>>,
    answer: Option<&'static [u8]>,
}

impl Talk {
    fn at_master(rules: Rules, syncs: &Arc<Syncs>) -> Self {
        let observed = Observed::new(Arc::clone(syncs));
        let listing = Listing::new("dc2", &[], "127.0.0.1:6379".parse().unwrap());
        let gate = Gate::new("dc1", Rules { listing, ..rules });
        let tap = AtMaster::new(gate, Observer::new(Arc::clone(&observed)));
        Self::through(vec![station(tap, observed)])
    }

    fn at_replica(introduction: Introduction, syncs: &Arc<Syncs>) -> Self {
        let observed = Observed::new(Arc::clone(syncs));
        let tap = AtReplica::new(introduction, Observer::new(Arc::clone(&observed)), Box::new(|_| {}));
        Self::through(vec![station(tap, observed)])
    }

    /// A connection through both taps.
    fn both() -> Self {
        let names = Some((Names::new("dc2".into(), None), "127.0.0.1".parse().unwrap()));
        let mut near = Self::at_replica(Introduction::new(names, Vec::new()), &Arc::default());
        near.taps.extend(Self::at_master(Rules::default(), &Arc::default()).taps);
        near
    }

    fn through(taps: Vec<Station>) -> Self {
        Self {
            taps,
            master: Vec::new(),
            replica: Vec::new(),
            end: None,
            armed: None,
            now: Instant::now(),
            inserted: Vec::new(),
            answer: Some(b"+OK\r\n"),
        }
    }

    /// Sends bytes from one side; `cut` gives the sizes of the pieces.
    fn say(&mut self, flow: Flow, bytes: &[u8], cut: &[usize]) {
        let (mut rest, mut at) = (bytes, 0);
        while !rest.is_empty() {
            let count = cut[at % cut.len()].min(rest.len());
            at += 1;
            let first = if flow == UP { 0 } else { self.taps.len() - 1 };
            self.reach(first, flow, rest[..count].to_vec());
            rest = &rest[count..];
        }
    }

    /// Shows bytes to a tap, and what it passes to the next tap.
    fn reach(&mut self, at: usize, flow: Flow, bytes: Vec<u8>) {
        for piece in bytes.chunks(PAYLOAD) {
            if self.end.is_some() {
                return;
            }
            let (tap, _, drivers) = &mut self.taps[at];
            let driver = &mut drivers[usize::from(flow == DOWN)];
            let actions = driver.through(tap, flow, Chunk::copied(piece), piece.len() as u64, self.now);
            self.act(at, flow, actions);
            // Bytes held in the other direction may have waited for this.
            if flow == DOWN && self.end.is_none() {
                let (tap, _, drivers) = &mut self.taps[at];
                let actions = drivers[0].again(tap, UP, self.now);
                self.act(at, UP, actions);
            }
        }
    }

    fn act(&mut self, at: usize, flow: Flow, actions: Vec<Action>) {
        let back = if flow == UP { DOWN } else { UP };
        let inserted = self.taps[at].0.inserted.take();
        let last = actions.len().saturating_sub(1);
        for (number, action) in actions.into_iter().enumerate() {
            match action {
                Action::Forward { chunk, armed, .. } => {
                    let mut bytes = chunk.bytes();
                    if let Some(own) = inserted.as_deref().filter(|_| number == last) {
                        bytes = bytes.strip_suffix(own).expect("the tap waits behind its own command");
                    }
                    self.pass(at, flow, bytes.to_vec());
                    if armed {
                        self.armed = Some(self.replica.len());
                    }
                }
                Action::Answer(reply) => self.pass(at, back, reply),
                Action::Stop { reply, reason, .. } => {
                    self.taps[at].2.iter_mut().for_each(Driver::stop);
                    self.pass(at, DOWN, reply);
                    self.end = Some(reason);
                }
            }
        }
        if let Some(own) = inserted {
            self.inserted.push(own);
            if let Some(answer) = self.answer {
                self.reach(at, DOWN, answer.to_vec());
            }
        }
    }

    fn pass(&mut self, at: usize, flow: Flow, bytes: Vec<u8>) {
        match flow {
            Flow::ToMaster if at + 1 < self.taps.len() => self.reach(at + 1, flow, bytes),
            Flow::ToMaster => self.master.extend(bytes),
            Flow::ToReplica if at > 0 => self.reach(at - 1, flow, bytes),
            Flow::ToReplica => self.replica.extend(bytes),
        }
    }

    fn view(&self) -> Replication {
        self.taps[0].1.view(self.now)
    }

    /// The reason why the link ended, and the bytes that reached the master.
    fn refusal(mut self, steps: &[(Flow, &[u8])]) -> (String, Vec<u8>) {
        self.steps(steps);
        (self.end.unwrap_or_default(), self.master)
    }

    fn steps(&mut self, steps: &[(Flow, &[u8])]) {
        for (flow, bytes) in steps {
            self.say(*flow, bytes, &[bytes.len().max(1)]);
        }
    }
}

fn strict() -> Talk {
    Talk::at_master(Rules::default(), &Arc::default())
}

/// The links of one site to one master.
#[derive(Default)]
struct Site {
    rules: Rules,
    syncs: Arc<Syncs>,
}

impl Site {
    fn link(&self) -> Talk {
        Talk::at_master(self.rules.clone(), &self.syncs)
    }
}

/// What Redis 8 sends on the snapshot's connection.
const SECOND: &[u8] = b"*11\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$8\r\nrdb-only\r\n$1\r\n1\r\n$11\r\nrdb-channel\r\n$1\r\n1\r\n$17\r\nmain-ch-client-id\r\n$2\r\n17\r\n$14\r\nlistening-port\r\n$4\r\n6380\r\n";

/// What Valkey sends on the snapshot's connection.
const VALKEYS_SECOND: &[u8] = b"REPLCONF capa eof rdb-only 1 rdb-channel 1 listening-port 7\r\n";

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1usize..90, 1..20)
}

/// What each kind of replica sends and receives up to its first acknowledgement, and where the
/// reply to the sync ends in what it receives.
fn handshakes() -> Vec<(&'static str, Vec<Step>)> {
    let words = |line: &str| super::command::encode(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    let ok = |count: usize| (DOWN, b"+OK\r\n".repeat(count));
    let inline = |line: &str| (UP, format!("{line}\r\n").into_bytes());
    let resp = |line: &str| (UP, words(line));
    let pong = || (DOWN, b"+PONG\r\n".to_vec());
    let full = || (DOWN, FULL.to_vec());
    let psync = format!("PSYNC {ID} 43");
    vec![
        (
            "Redis 2.8, inline, one by one",
            vec![
                inline("PING"),
                pong(),
                inline("REPLCONF listening-port 6380"),
                ok(1),
                inline("PSYNC ? -1"),
                full(),
                inline("REPLCONF ACK 42"),
            ],
        ),
        (
            "Redis 5 with a password and an address of its own",
            vec![
                resp("PING"),
                (DOWN, b"-NOAUTH Authentication required.\r\n".to_vec()),
                resp("AUTH secret"),
                ok(1),
                resp("REPLCONF listening-port 6380"),
                ok(1),
                resp("REPLCONF ip-address own.example"),
                ok(1),
                resp("REPLCONF capa eof capa psync2"),
                ok(1),
                resp("PSYNC ? -1"),
                full(),
                (UP, b"\n\n".to_vec()),
                resp("REPLCONF ACK 42"),
            ],
        ),
        (
            "Redis 7, pipelined, diskless",
            vec![
                resp("PING"),
                pong(),
                (
                    UP,
                    [
                        words("AUTH repl secret"),
                        words("REPLCONF listening-port 6380"),
                        words("REPLCONF capa eof capa psync2"),
                    ]
                    .concat(),
                ),
                ok(3),
                resp("PSYNC ? -1"),
                (DOWN, format!("+FULLRESYNC {ID} 42\r\n").into_bytes()),
                (DOWN, EOF.to_vec()),
                resp("REPLCONF ACK 42 FACK 40"),
            ],
        ),
        (
            "Redis 7, a partial resync",
            vec![
                resp("PING"),
                pong(),
                resp("REPLCONF listening-port 6380"),
                ok(1),
                resp(&psync),
                (DOWN, b"+CONTINUE\r\n".to_vec()),
                resp("REPLCONF ACK 42"),
            ],
        ),
        (
            "KeyDB",
            vec![
                resp("REPLPING"),
                (DOWN, b"-ERR unknown command 'REPLPING'\r\n".to_vec()),
                resp("PING"),
                pong(),
                resp("REPLCONF uuid 6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
                (DOWN, b"-ERR Unrecognized REPLCONF option: uuid\r\n".to_vec()),
                resp("REPLCONF listening-port 6380"),
                ok(1),
                resp("REPLCONF capa eof capa psync2 capa activeExpire"),
                ok(1),
                resp("PSYNC ? -1"),
                full(),
                resp("REPLCONF ACK 42"),
            ],
        ),
        (
            "Dragonfly",
            vec![
                inline("PING"),
                pong(),
                inline("REPLCONF listening-port 6380"),
                ok(1),
                inline("REPLCONF capa eof capa psync2"),
                ok(1),
                inline("REPLCONF capa dragonfly"),
                ok(1),
                inline("PSYNC ? -1"),
                full(),
                inline("REPLCONF ACK 0"),
                inline("REPLCONF ACK 42"),
            ],
        ),
        (
            "Valkey 8",
            vec![
                resp("PING"),
                pong(),
                (
                    UP,
                    [
                        words("REPLCONF listening-port 6380"),
                        words("REPLCONF capa eof capa psync2 capa dual-channel capa skip-rdb-checksum"),
                        words("REPLCONF version 8.1.0"),
                    ]
                    .concat(),
                ),
                ok(3),
                resp("PSYNC ? -1"),
                full(),
                resp("REPLCONF ACK 42"),
            ],
        ),
        (
            "an old master that knows no PSYNC",
            vec![
                resp("PING"),
                pong(),
                resp("REPLCONF listening-port 6380"),
                ok(1),
                resp("PSYNC ? -1"),
                (DOWN, b"-ERR unknown command 'PSYNC'\r\n".to_vec()),
                inline("SYNC"),
                (DOWN, b"\n$9\r\nREDIS0010".to_vec()),
                resp("REPLCONF ACK 42"),
            ],
        ),
    ]
}

/// What a replica sends, as the gateway passes it on: with the name of its site.
fn listed(said: &[u8]) -> Vec<u8> {
    use super::command::{Parsed, encode, parse};
    let (mut out, mut rest) = (Vec::new(), said);
    let mut name = "dc2";
    while !rest.is_empty() {
        let length = match parse(rest) {
            Parsed::Command { length, arguments } if arguments.len() > 2 => {
                let is = |word: &str| arguments[1].eq_ignore_ascii_case(word.as_bytes());
                if is("ip-address") {
                    name = "own.example.dc2";
                }
                if is("ip-address") || is("listening-port") {
                    let words = format!("REPLCONF listening-port 6380 ip-address {name}");
                    out.extend(encode(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
                    rest = &rest[length..];
                    continue;
                }
                length
            }
            Parsed::Command { length, .. } | Parsed::Newline(length) => length,
            other => panic!("{other:?}"),
        };
        out.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

proptest! {
    #[test]
    fn the_handshake_of_every_replica_passes_complete_however_it_is_cut(cut in cuts(), upper: bool) {
        for (who, steps) in handshakes() {
            let mut talk = strict();
            for (flow, bytes) in &steps {
                let bytes = if upper && *flow == UP { bytes.to_ascii_uppercase() } else { bytes.clone() };
                talk.say(*flow, &bytes, &cut);
            }
            let said = |flow: Flow| {
                steps.iter().filter(|step| step.0 == flow).flat_map(|step| step.1.clone()).collect::<Vec<u8>>()
            };
            prop_assert_eq!(&talk.end, &None, "{}", who);
            prop_assert!(talk.master.eq_ignore_ascii_case(&listed(&said(UP))), "{}", who);
            prop_assert_eq!(talk.inserted.len(), 1, "{}: the gateway's own command", who);
            prop_assert_eq!(&talk.replica, &said(DOWN), "{}", who);
            prop_assert!(talk.armed.is_some(), "{}", who);
            let view = talk.view();
            prop_assert_eq!(view.stage, Stage::Streaming, "{}: {:?}", who, view);
            prop_assert_eq!(view.acknowledged_offset, Some(42), "{}", who);
            prop_assert_eq!(view.port, Some(6380), "{}", who);
        }
    }

    #[test]
    fn offsets_and_lag_are_the_same_however_the_stream_is_cut(cut in cuts(), length in 4usize..5000) {
        for (_, steps) in handshakes() {
            let mut talk = Talk::both();
            steps.iter().for_each(|(flow, bytes)| talk.say(*flow, bytes, &cut));
            talk.say(DOWN, &vec![b'*'; length], &cut);
            for (_, observed, _) in &talk.taps {
                let view = observed.view(talk.now);
                // SYNC has no offset in its reply.
                if view.replication_id.is_some() {
                    prop_assert_eq!(view.master_offset, Some(42 + length as u64));
                    prop_assert_eq!(view.lag_bytes, Some(length as u64));
                }
            }
            talk.say(UP, format!("REPLCONF ACK {}\r\n", 42 + length).as_bytes(), &cut);
            for (_, observed, _) in &talk.taps {
                let view = observed.view(talk.now);
                prop_assert_eq!(view.lag_bytes.unwrap_or(0), 0);
                prop_assert_eq!(view.lag_seconds.unwrap_or(0.0), 0.0);
            }
        }
    }

    #[test]
    fn reply_lines_reach_the_replica_whole(cut in cuts()) {
        for (who, steps) in handshakes() {
            // Whole lines are checked at one tap alone, since a link may cut what was whole at the
            // master's site.
            let mut talk = Talk::at_replica(Introduction::new(None, Vec::new()), &Arc::default());
            for (flow, bytes) in &steps {
                let mut at = 0;
                while at < bytes.len() {
                    let count = cut[at % cut.len()].min(bytes.len() - at);
                    talk.say(*flow, &bytes[at..at + count], &[count]);
                    // Only whole lines pass until the snapshot begins.
                    let line = talk.replica.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    let rest = &talk.replica[line..];
                    let snapshot = rest.starts_with(b"REDIS") || b"REDIS".starts_with(rest);
                    prop_assert!(snapshot, "{}: {}", who, rest.escape_ascii());
                    at += count;
                }
            }
        }
    }

    #[test]
    fn a_forbidden_command_never_passes_and_is_answered_in_order(cut in cuts()) {
        let mut talk = strict();
        talk.say(UP, b"PING\r\nREPLCONF listening-port 1\r\n*1\r\n$8\r\nFLUSHALL\r\nPING\r\n", &cut);
        talk.say(DOWN, b"+PONG\r\n+OK\r\n", &cut);
        let listed = b"PING\r\n*5\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$1\r\n1\r\n$10\r\nip-address\r\n$3\r\ndc2\r\n";
        prop_assert_eq!(&talk.master, listed);
        prop_assert!(talk.replica.starts_with(b"+PONG\r\n+OK\r\n-ERR replgate dc1: the command FLUSHALL"));
        prop_assert!(talk.end.unwrap().contains("FLUSHALL"));
    }

    #[test]
    fn after_the_sync_a_command_ends_the_link_in_silence(cut in cuts()) {
        let mut talk = strict();
        talk.say(UP, PSYNC, &cut);
        talk.say(DOWN, FULL, &cut);
        talk.say(UP, b"*1\r\n$8\r\nFLUSHALL\r\n", &cut);
        prop_assert_eq!(&talk.master, PSYNC);
        prop_assert_eq!(&talk.replica, FULL);
        prop_assert!(talk.end.is_some());
    }

    #[test]
    fn replicas_passwords_are_not_passed_on_if_the_gateway_logs_in_and_are_answered_in_order(cut in cuts()) {
        let rules = || Rules { authenticated: true, ..Rules::default() };
        let mut talk = Talk::at_master(rules(), &Arc::default());
        talk.say(UP, b"AUTH guess\r\n", &cut);
        prop_assert_eq!(&talk.replica, b"+OK\r\n");
        talk.say(UP, b"PING\r\nREPLCONF listening-port 1\r\nAUTH repl guess\r\nAUTH again\r\nREPLCONF capa eof\r\n", &cut);
        talk.say(DOWN, b"+PONG\r\n-ERR listening\r\n", &cut);
        prop_assert_eq!(&talk.replica, b"+OK\r\n+PONG\r\n-ERR listening\r\n+OK\r\n+OK\r\n");
        talk.say(DOWN, b"+OK\r\n", &cut);
        talk.say(UP, PSYNC, &cut);
        talk.say(DOWN, FULL, &cut);
        prop_assert_eq!(talk.end, None);
        prop_assert!(!String::from_utf8_lossy(&talk.master).contains("AUTH"));
        prop_assert!(talk.replica.ends_with(FULL));
        // More syncs than any real case has.
        let mut talk = Talk::at_master(rules(), &Arc::default());
        talk.say(UP, &b"AUTH x\r\n".repeat(100_000), &cut);
        prop_assert!(talk.replica.len() < 300 && talk.end.unwrap().contains("more passwords"));
        // A refusal waits until the outstanding replies have passed.
        let mut talk = Talk::at_master(rules(), &Arc::default());
        talk.say(UP, b"PING\r\nAUTH x\r\nFLUSHALL\r\n", &cut);
        prop_assert_eq!(&talk.replica, b"");
        talk.say(DOWN, b"+PONG\r\n", &cut);
        prop_assert!(talk.replica.starts_with(b"+PONG\r\n+OK\r\n-ERR replgate dc1: the command FLUSHALL"));
    }

    #[test]
    fn only_commands_of_replication_reach_the_master_whatever_is_sent(
        bytes in proptest::collection::vec(prop_oneof![
            any::<Vec<u8>>().prop_map(|bytes| bytes.into_iter().take(12).collect::<Vec<u8>>()),
            Just(b"*1\r\n$8\r\nFLUSHALL\r\n".to_vec()),
            Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
            Just(b"PING\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n5\r\n".to_vec()),
            Just(PSYNC.to_vec()),
            Just(b"$".to_vec()),
            Just(b"*".to_vec()),
            Just(b"\r\n".to_vec()),
        ], 0..30),
        cut in cuts(),
    ) {
        let bytes = bytes.concat();
        let mut talk = strict();
        talk.say(UP, &bytes, &cut);
        // Only whole, known commands reach the master.
        let mut rest = &talk.master[..];
        while !rest.is_empty() {
            match super::command::parse(rest) {
                super::command::Parsed::Newline(count) => rest = &rest[count..],
                super::command::Parsed::Command { length, arguments } => {
                    let name = arguments[0].to_ascii_uppercase();
                    prop_assert!([&b"PING"[..], b"REPLPING", b"REPLCONF", b"PSYNC", b"AUTH"].contains(&&name[..]), "{}", name.escape_ascii());
                    rest = &rest[length..];
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn everything_from_the_master_reaches_the_replica_unchanged(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut in cuts(), line in 0usize..5,
    ) {
        // A reply, known or not, and then any bytes.
        let line = [&b"+FULLRESYNC x y\r\n"[..], b"+WHAT\r\n", b"+CONTINUE\r\n", b"+RDBCHANNELSYNC 1\r\n", FULL][line];
        let mut talk = Talk::both();
        talk.say(UP, PSYNC, &cut);
        talk.say(DOWN, line, &cut);
        talk.say(DOWN, &bytes, &cut);
        // A partial line waits during the handshake; nothing else waits.
        let said = [line, &bytes[..]].concat();
        prop_assert!(said.starts_with(&talk.replica));
        let reads_lines = matches!(talk.view().stage, Stage::Waiting | Stage::Handshake);
        if talk.end.is_none() && !reads_lines {
            prop_assert_eq!(&talk.replica, &said);
        }
    }
}

#[test]
fn sync_follows_only_a_psync_that_the_master_does_not_know() {
    assert!(strict().refusal(&[(UP, b"SYNC\r\n")]).0.contains("allow_dump"));
    let misconf = &b"-MISCONF Errors writing to the AOF file\r\n"[..];
    let (end, master) = strict().refusal(&[(UP, PSYNC), (DOWN, misconf), (UP, b"SYNC\r\n")]);
    assert!(end.contains("allow_dump") && master == PSYNC, "{end}");
    // An offset that Redis cannot read would get an error, too.
    for offset in ["99999999999999999999", "-9223372036854775809", "+1", "", "-", "1 2"] {
        let (end, master) = strict().refusal(&[(UP, format!("PSYNC ? {offset}\r\n").as_bytes())]);
        assert!(end.ends_with("refused") && master.is_empty(), "{offset}: {end}");
    }
}

#[test]
fn both_connections_of_a_redis_8_sync_pass_and_are_one_sync() {
    let site = Site::default();
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+RDBCHANNELSYNC 17\r\n*3\r\n$3\r\nSET")]);
    assert_eq!((main.end.as_ref(), main.armed), (None, Some(20)));
    assert_eq!((main.view().stage, main.view().master_offset), (Stage::Loading, None));
    let mut second = site.link();
    second.steps(&[
        (UP, SECOND),
        (DOWN, &b"+OK\r\n"[..]),
        (UP, PSYNC),
        (DOWN, b"\n+FULLRESYNC 0123456789012345678901234567890123456789 100\r\n"),
        (DOWN, EOF),
    ]);
    assert_eq!((second.end.as_ref(), second.view().stage), (None, Stage::Loading));
    // The main connection's stream begins where the other connection says.
    main.steps(&[(DOWN, b"\r\n"), (UP, b"REPLCONF ACK 111\r\n")]);
    let view = main.view();
    assert_eq!((view.stage, view.master_offset, view.lag_bytes), (Stage::Streaming, Some(113), Some(2)));
    assert_eq!((view.replication_id.as_deref(), site.syncs.counts()), (Some(ID), [1, 0, 0]));
}

#[test]
fn a_valkey_main_connection_continues_after_its_snapshot() {
    let site = Site::default();
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+DUALCHANNELSYNC\r\n")]);
    let mut second = site.link();
    second.steps(&[
        (UP, VALKEYS_SECOND),
        (DOWN, &b"+OK\r\n"[..]),
        (UP, b"SYNC\r\n"),
        (DOWN, b"$ENDOFF:42 0123456789012345678901234567890123456789 0 9\r\n"),
        (DOWN, EOF),
    ]);
    assert_eq!((second.end.as_ref(), second.armed), (None, Some(62)));
    assert_eq!((second.view().stage, second.view().snapshot.unwrap().size), (Stage::Loading, Some(49)));
    main.steps(&[
        (UP, &b"REPLCONF set-rdb-client-id 9\r\n"[..]),
        (DOWN, b"+OK\r\n"),
        (UP, b"PSYNC 0123456789012345678901234567890123456789 43\r\n"),
        (DOWN, b"+CONTINUE\r\nstream"),
    ]);
    assert_eq!((main.end.as_ref(), main.armed), (None, Some(34)));
    let view = main.view();
    assert_eq!((view.master_offset, view.sync, view.stage), (Some(48), Some(SyncKind::Full), Stage::Loading));
    assert_eq!(site.syncs.counts(), [1, 0, 0]);
}

#[test]
fn a_second_connection_belongs_to_a_first_one_of_the_same_site_and_comes_once() {
    const NOT_OURS: &str = "belongs to no sync that this site has begun";
    let (site, other) = (Site::default(), Site::default());
    let refused = |site: &Site, said: &[u8]| {
        let (end, master) = site.link().refusal(&[(UP, said)]);
        assert!(master.is_empty() || end.is_empty());
        end
    };
    // No sync has begun: refused, whatever the settings allow.
    let dumps = Site { rules: Rules { dump: true, ..Rules::default() }, ..Site::default() };
    for site in [&site, &dumps] {
        assert!(refused(site, SECOND).contains(NOT_OURS));
        assert!(refused(site, b"REPLCONF set-rdb-client-id 9\r\n").contains(NOT_OURS));
    }
    assert!(refused(&site, VALKEYS_SECOND).contains("allow_dump"));
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+RDBCHANNELSYNC 17\r\n")]);
    // Another site names the id; then this site names a wrong id; then the right one, which passes
    // once.
    assert!(refused(&other, SECOND).contains(NOT_OURS));
    for odd in [
        &b"REPLCONF rdb-only 1 rdb-channel 1 main-ch-client-id 18\r\n"[..],
        b"REPLCONF rdb-channel 1 main-ch-client-id 17\r\n",
        b"REPLCONF rdb-only 1 main-ch-client-id 17\r\n",
        b"REPLCONF rdb-only 1 rdb-channel 0 main-ch-client-id 17\r\n",
        b"REPLCONF rdb-only 1 rdb-channel 1 main-ch-client-id 17 main-ch-client-id 18\r\n",
    ] {
        assert!(refused(&site, odd).contains(NOT_OURS), "{}", odd.escape_ascii());
    }
    assert_eq!(refused(&site, SECOND), "");
    assert!(refused(&site, SECOND).contains(NOT_OURS));
    // Once the main connection has ended, the snapshot's connection is refused.
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+RDBCHANNELSYNC 17\r\n")]);
    drop(main);
    assert!(refused(&site, SECOND).contains(NOT_OURS));
    // Valkey: a main connection that waits for a snapshot lets one other connection in, and may
    // send PSYNC again only after that.
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+DUALCHANNELSYNC\r\n")]);
    assert_eq!(refused(&site, VALKEYS_SECOND), "");
    assert!(refused(&site, VALKEYS_SECOND).contains("allow_dump"));
    main.steps(&[(UP, PSYNC)]);
    assert!(main.end.unwrap().contains("PSYNC before the snapshot's connection was named"));
}

#[test]
fn no_other_option_passes_with_the_id_of_a_second_connection() {
    for beside in ["rdb-only 1", "rdb-channel 1", "rdb-filter-only functions", "main-ch-client-id 5"] {
        let site = Site::default();
        let mut main = site.link();
        main.steps(&[(UP, PSYNC), (DOWN, b"+DUALCHANNELSYNC\r\n")]);
        site.rules.grants.member().brings(17);
        main.steps(&[(UP, format!("REPLCONF set-rdb-client-id 17 {beside}\r\n").as_bytes())]);
        assert!(main.end.is_some() && main.master == PSYNC, "{beside}");
    }
    let site = Site::default();
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+RDBCHANNELSYNC 17\r\n")]);
    let filtered = b"REPLCONF rdb-only 1 rdb-channel 1 main-ch-client-id 17 rdb-filter-only functions\r\n";
    let padded = b"REPLCONF rdb-only 1 rdb-channel 1 main-ch-client-id 017\r\n";
    for said in [&filtered[..], padded] {
        let (end, master) = site.link().refusal(&[(UP, said)]);
        assert!(end.ends_with("refused") && master.is_empty(), "{}", said.escape_ascii());
    }
    // Neither attempt has used up the grant.
    assert_eq!(site.link().refusal(&[(UP, SECOND)]).0, "");
}

#[test]
fn promotions_dumps_and_slot_migration_are_refused_unless_they_are_allowed() {
    let all = || Rules { failover: true, dump: true, slot_migration: true, ..Rules::default() };
    for (bytes, switch) in [
        (
            &b"PSYNC 0123456789012345678901234567890123456789 43 FAILOVER\r\n"[..],
            Some(Rules { failover: true, ..Rules::default() }),
        ),
        (b"REPLCONF rdb-only 1\r\n", Some(Rules { dump: true, ..Rules::default() })),
        (b"REPLCONF rdb-only 0\r\n", Some(Rules { dump: true, ..Rules::default() })),
        (b"REPLCONF rdb-filter-only functions\r\n", Some(Rules { dump: true, ..Rules::default() })),
        (b"REPLCONF rdb-channel 1\r\n", Some(Rules { dump: true, ..Rules::default() })),
        (b"REPLCONF rdb-channel 0\r\n", Some(Rules { dump: true, ..Rules::default() })),
        (
            b"REPLCONF rdb-only 1 rdb-channel 1 rdb-channel 0\r\n",
            Some(Rules { dump: true, ..Rules::default() }),
        ),
        (b"SYNC\r\n", Some(Rules { dump: true, ..Rules::default() })),
        (b"CLUSTER SYNCSLOTS SYNC x 0 100\r\n", Some(Rules { slot_migration: true, ..Rules::default() })),
        (b"cluster syncslots conf NODE-ID x\r\n", Some(Rules { slot_migration: true, ..Rules::default() })),
        (b"CLUSTER FAILOVER TAKEOVER\r\n", None),
        (b"CLUSTER RESET\r\n", None),
        (b"REPLCONF getack *\r\n", None),
        (b"REPLCONF rdb-only 1 rdb-channel 1 main-ch-client-id +17\r\n", None),
        (b"REPLCONF capa a,state=online\r\n", None),
        (b"REPLCONF listening-port 99999\r\n", None),
        (b"REPLCONF version 8.1.0;x\r\n", None),
        (b"*3\r\n$4\r\nAUTH\r\n$3\r\na\nb\r\n$1\r\nx\r\n", None),
        (b"CLUSTER SYNCSLOTS SYNC x;y 0 100\r\n", None),
        (b"PSYNC ; -1\r\n", None),
        (b"PSYNC ? -1 FAILOVER x\r\n", None),
        (b"MULTI\r\n", None),
        (b"SYNC x\r\n", None),
    ] {
        let (end, master) = strict().refusal(&[(UP, bytes)]);
        assert!(end.ends_with("; refused") && master.is_empty(), "{}: {end}", bytes.escape_ascii());
        match switch {
            Some(rules) => {
                // Only its own setting lets it pass.
                let (end, master) = Talk::at_master(rules.clone(), &Arc::default()).refusal(&[(UP, bytes)]);
                assert!(end.is_empty() && master == bytes, "{}: {end}", bytes.escape_ascii());
                let others = Rules {
                    failover: !rules.failover,
                    dump: !rules.dump,
                    slot_migration: !rules.slot_migration,
                    ..Rules::default()
                };
                let (end, master) = Talk::at_master(others, &Arc::default()).refusal(&[(UP, bytes)]);
                assert!(!end.is_empty() && master.is_empty(), "{}", bytes.escape_ascii());
            }
            None => {
                let (end, master) = Talk::at_master(all(), &Arc::default()).refusal(&[(UP, bytes)]);
                assert!(!end.is_empty() && master.is_empty(), "{}", bytes.escape_ascii());
            }
        }
    }
}

#[test]
fn a_connection_that_migrates_slots_carries_nothing_else() {
    let rules = || Rules { slot_migration: true, ..Rules::default() };
    let mut talk = Talk::at_master(rules(), &Arc::default());
    talk.steps(&[
        (UP, &b"CLUSTER SYNCSLOTS SYNC id 0 100\r\n"[..]),
        (DOWN, b"-NOTREADY try again\r\n"),
        (UP, b"CLUSTER SYNCSLOTS SYNC id 0 100\r\n"),
        (DOWN, b"+RDBCHANNELSYNCSLOTS\r\n*1\r\nstream"),
        (UP, b"CLUSTER SYNCSLOTS ACK state 5\r\n"),
    ]);
    assert_eq!((talk.end.as_ref(), talk.view().stage, talk.armed), (None, Stage::Unknown, None));
    talk.steps(&[(UP, b"FLUSHALL\r\n")]);
    assert!(talk.end.unwrap().contains("FLUSHALL") && talk.replica.ends_with(b"stream"));
}

#[test]
fn a_second_connection_that_the_master_refuses_is_no_way_to_a_dump() {
    let site = Site::default();
    let mut main = site.link();
    main.steps(&[(UP, PSYNC), (DOWN, b"+RDBCHANNELSYNC 17\r\n")]);
    let no = &b"-ERR Unrecognized REPLCONF option: rdb-channel\r\n"[..];
    let (end, master) = site.link().refusal(&[(UP, SECOND), (DOWN, no), (UP, PSYNC)]);
    let said = String::from_utf8_lossy(&master);
    assert!(end.contains("allow_dump") && !said.contains("PSYNC"), "{end}");
    assert!(said.contains("rdb-channel") && said.ends_with("ip-address\r\n$3\r\ndc2\r\n"), "{said}");
}

#[test]
fn no_password_is_ever_shown() {
    // Not with one argument too many, nor where Redis repeats what it was sent.
    let echo = "-ERR unknown command 'AUTH', with args beginning with: 'user' 'secret'\r\n";
    let mut wrong = strict();
    wrong.steps(&[(UP, b"AUTH user secret extra\r\n")]);
    let mut echoed = strict();
    echoed.steps(&[(UP, b"AUTH user secret\r\n"), (DOWN, echo.as_bytes())]);
    for talk in [&wrong, &echoed] {
        let shown = format!("{:?} {:?} {:?}", talk.end, talk.view(), talk.taps[0].1);
        assert!(!shown.contains("secret") && !shown.contains("'user'"), "{shown}");
    }
    assert!(!String::from_utf8_lossy(&wrong.replica).contains("secret"));
    assert!(echoed.view().complaint.unwrap().contains("refuses the replica's password (ERR)"));
}

#[test]
fn a_replicas_address_counts_once_the_master_has_accepted_it() {
    let mut talk = strict();
    let said = b"REPLCONF listening-port 6380 ip-address no.example\r\nREPLCONF ip-address yes.example\r\n";
    let no = &b"-ERR REPLCONF ip-address provided by replica instance is too long\r\n"[..];
    talk.steps(&[(UP, &said[..]), (DOWN, no)]);
    assert_eq!((talk.view().host, talk.view().port), (None, None));
    talk.steps(&[(DOWN, b"+OK\r\n")]);
    assert_eq!(talk.view().host.as_deref(), Some("yes.example.dc2"));
    for odd in [&b"a b"[..], b"\x1b[2J", b"", b"::1", b"x\r\nrole:slave", &[b'x'; 256]] {
        let words: [&[u8]; 3] = [b"REPLCONF", b"ip-address", odd];
        talk.steps(&[(UP, &super::command::encode(&words)), (DOWN, b"+OK\r\n")]);
        assert_eq!(talk.view().host.as_deref(), Some("dc2"), "{}", odd.escape_ascii());
    }
}

#[test]
fn no_sync_is_asked_for_before_the_master_has_taken_the_name() {
    const OWN: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$10\r\nip-address\r\n$3\r\ndc2\r\n";
    let no = &b"-ERR Unrecognized REPLCONF option: ip-address\r\n"[..];
    for before in [
        &[][..],
        &[(UP, &b"REPLCONF ip-address bravo\r\n"[..]), (DOWN, no)],
        &[
            (UP, b"REPLCONF listening-port 1 capa x\r\nREPLCONF ip-address bravo\r\n"),
            (DOWN, b"+OK\r\n"),
            (DOWN, no),
        ],
    ] {
        for (asks, sync) in [(PSYNC, false), (b"SYNC\r\n", true)] {
            let mut talk = Talk::at_master(Rules { dump: sync, ..Rules::default() }, &Arc::default());
            talk.answer = None;
            talk.steps(before);
            let (master, replica) = (talk.master.len(), talk.replica.len());
            talk.steps(&[(UP, asks)]);
            assert_eq!((talk.master.len(), talk.inserted.len()), (master, 1), "nothing but the name");
            let own = String::from_utf8_lossy(&talk.inserted[0]).into_owned();
            assert!(own.contains("dc2\r\n") && (!before.is_empty() || own.as_bytes() == OWN), "{own}");
            assert_eq!(talk.taps[0].0.overdue(), Overdue::NotYet);
            talk.steps(&[(DOWN, b"+OK\r\n")]);
            assert_eq!(talk.replica.len(), replica, "the answer is not the replica's");
            assert!(talk.master.ends_with(asks) && talk.end.is_none());
        }
    }
    for (answer, words) in [
        (no, "it answers -ERR Unrecognized REPLCONF option: ip-address"),
        (b"-NOPERM this user has no permissions to run the 'replconf' command\r\n", "+replconf"),
        (b"-NOAUTH Authentication required.\r\n", "masterauth of the replica"),
        (b"+OK and more\r\n", "does not accept the name"),
    ] {
        let mut talk = strict();
        talk.answer = Some(answer);
        talk.steps(&[(UP, PSYNC)]);
        assert!(talk.master.is_empty() && talk.end.as_ref().unwrap().contains(words), "{:?}", talk.end);
        assert!(talk.replica.starts_with(b"-ERR replgate dc1: the master does not accept the name"));
    }
}

#[test]
fn an_answer_is_never_taken_for_anothers() {
    // A master that wants a password answers even an acknowledgement: none goes on before a sync.
    let ack = &b"REPLCONF ACK 0\r\n"[..];
    let mut talk = strict();
    talk.steps(&[(UP, ack), (UP, b"PING\r\n"), (UP, ack), (DOWN, b"+PONG\r\n"), (UP, PSYNC), (UP, ack)]);
    assert_eq!((talk.end.as_ref(), &talk.master[..]), (None, &[b"PING\r\n", PSYNC].concat()[..]));
    talk.steps(&[(DOWN, FULL), (UP, ack)]);
    assert!(talk.master.ends_with(ack) && talk.end.is_none());
    // A reply without a command ends the link; the replica may read it.
    let full = &b"-ERR max number of clients reached\r\n"[..];
    for before in [&[][..], &[(UP, &b"PING\r\n"[..]), (DOWN, b"+PONG\r\n")]] {
        let mut talk = strict();
        talk.steps(before);
        talk.steps(&[(DOWN, full)]);
        assert!(talk.end.unwrap().contains("belongs to no command") && talk.replica.ends_with(full));
    }
    for odd in [&b"*2\r\n"[..], b":1\r\n", b"$2\r\n", b"OK\r\n"] {
        let mut talk = strict();
        talk.steps(&[(UP, b"REPLCONF capa dragonfly\r\n"), (DOWN, odd)]);
        assert!(talk.end.unwrap().contains("belongs to no command") && talk.replica.is_empty());
    }
    // A replica's own command with more options does not prove what the master lists.
    let mut talk = strict();
    talk.answer = None;
    talk.steps(&[(UP, b"REPLCONF uuid x listening-port 1\r\n"), (DOWN, b"+OK\r\n"), (UP, PSYNC)]);
    assert!(talk.inserted.len() == 1 && !talk.master.ends_with(PSYNC));
    talk.steps(&[(DOWN, b"+OK\r\n")]);
    assert!(talk.master.ends_with(PSYNC));
}

#[test]
fn passwords_and_commands_of_a_handshake_are_few() {
    let rules = Rules::default();
    let wrong = &b"-WRONGPASS invalid username-password pair\r\n"[..];
    let mut passed = 0;
    let mut end = String::new();
    for _ in 0..20 {
        let mut talk = Talk::at_master(rules.clone(), &Arc::default());
        for _ in 0..3 {
            talk.steps(&[(UP, b"AUTH guess\r\n"), (DOWN, wrong)]);
        }
        passed += talk.master.len() / b"AUTH guess\r\n".len();
        end = talk.end.unwrap_or_default();
    }
    assert_eq!(passed, 5);
    assert!(end.contains("too many wrong passwords of this site") && !end.contains("guess"), "{end}");
    // One password at a time, and few of any command.
    let two = strict().refusal(&[(UP, b"AUTH a\r\nAUTH b\r\n"), (DOWN, wrong)]).0;
    assert!(two.contains("before the answer to an earlier one"), "{two}");
    let (many, master) =
        strict().refusal(&[(UP, &b"PING\r\n".repeat(100)), (DOWN, &b"+PONG\r\n".repeat(100))]);
    assert!(many.contains("more commands than a handshake has") && master.len() == 64 * 6, "{many}");
    let slots = || Rules { slot_migration: true, ..Rules::default() };
    let mut talk = Talk::at_master(slots(), &Arc::default());
    talk.steps(&[(UP, &b"CLUSTER SYNCSLOTS CONF NODE-ID x\r\n".repeat(1000))]);
    assert_eq!(talk.master.len(), 64 * b"CLUSTER SYNCSLOTS CONF NODE-ID x\r\n".len(), "unanswered ones, too");
    // Empty lines before a sync are no sign of life; after it they are bounded.
    let mut talk = strict();
    talk.say(UP, &[b'\n'; 100_000], &[777]);
    assert_eq!((talk.master.len(), talk.end.as_ref()), (1024, None));
    talk.steps(&[(UP, PSYNC), (DOWN, FULL), (UP, &[b'\n'; 200_000])]);
    assert!(talk.end.unwrap().contains("within a second"));
    let mut talk = strict();
    talk.steps(&[(UP, PSYNC), (DOWN, FULL)]);
    for _ in 0..100 {
        talk.say(UP, &b"REPLCONF ACK 42\r\n".repeat(1000), &[4096]);
        talk.now += Duration::from_secs(1);
    }
    assert_eq!(talk.end, None, "a thousand a second are a busy replica's");
    // The bound counts over all links of the site.
    let site = Site::default();
    let [mut one, mut two] = [site.link(), site.link()];
    two.now = one.now;
    for talk in [&mut one, &mut two] {
        talk.steps(&[(UP, PSYNC), (DOWN, FULL)]);
        talk.say(UP, &b"REPLCONF ACK 42\r\n".repeat(60_000), &[65536]);
    }
    assert!(one.end.is_none() && two.end.unwrap().contains("within a second"));
}

#[test]
fn what_a_far_master_answers_is_fit_for_the_replicas_log() {
    let mut talk = Talk::at_replica(Introduction::new(None, Vec::new()), &Arc::default());
    talk.steps(&[(UP, b"PING\r\n"), (DOWN, b"-ERR \x1b[2J\rforged\xff\r\n")]);
    assert_eq!(talk.replica, b"-ERR ?[2J?forged?\r\n");
    let id = b"+FULLRESYNC 0123456789012345678901234567890123456\x1b[2 42\r\n";
    talk.steps(&[(UP, PSYNC), (DOWN, id)]);
    assert!(talk.end.unwrap().contains("bytes that are not printable") && talk.replica.ends_with(b"?\r\n"));
}

#[test]
fn an_acknowledgement_of_what_has_not_passed_is_not_believed() {
    let mut talk = Talk::both();
    talk.steps(&[(UP, PSYNC), (DOWN, FULL), (DOWN, b"*1\r\n"), (UP, b"REPLCONF ACK 47\r\n")]);
    for (_, observed, _) in &talk.taps {
        assert_eq!(observed.view(talk.now).stage, Stage::Unknown);
    }
    assert_eq!(talk.end, None);
}

#[test]
fn a_replica_that_asks_for_nothing_is_overdue_and_one_that_waits_is_not() {
    use crate::tap::Overdue;
    let overdue = |talk: &Talk| talk.taps[0].0.overdue();
    let mut talk = strict();
    assert!(matches!(overdue(&talk), Overdue::Now { .. }));
    talk.steps(&[(UP, PSYNC)]);
    assert_eq!(overdue(&talk), Overdue::NotYet);
    talk.steps(&[(DOWN, b"-LOADING Redis is loading\r\n")]);
    assert!(matches!(overdue(&talk), Overdue::Now { .. }), "an error is no answer to stay for");
    talk.steps(&[(UP, PSYNC), (DOWN, FULL)]);
    assert_eq!(overdue(&talk), Overdue::Never);
}

#[test]
fn full_syncs_beyond_the_bound_wait_and_partial_ones_cost_nothing() {
    let bound = Arc::new(FullSyncs::new(1));
    let syncs = Arc::<Syncs>::default();
    let rules = Rules { full_syncs: Some(Arc::clone(&bound)), ..Rules::default() };
    let talk = || Talk::at_master(rules.clone(), &syncs);
    let mut partial = talk();
    partial.steps(&[(UP, format!("PSYNC {ID} 43\r\n").as_bytes()), (DOWN, b"+CONTINUE\r\n")]);
    assert_eq!(partial.end, None);
    // Both connections of one sync share one place.
    let mut main = talk();
    main.steps(&[(UP, PSYNC), (DOWN, b"+RDBCHANNELSYNC 17\r\n")]);
    let mut second = talk();
    second.steps(&[(UP, SECOND), (DOWN, b"+OK\r\n"), (UP, PSYNC)]);
    assert_eq!((main.end.as_ref(), second.end.as_ref()), (None, None));
    let mut late = talk();
    late.steps(&[(UP, PSYNC)]);
    assert!(late.master.is_empty() && late.end.as_ref().unwrap().contains("full_syncs_per_minute"));
    assert!(late.replica.starts_with(b"-LOADING replgate dc1: too many full syncs"));
    let mut later = talk();
    later.now += Duration::from_secs(61);
    later.steps(&[(UP, PSYNC)]);
    assert_eq!((later.end.as_ref(), syncs.counts()), (None, [1, 1, 1]));
}

#[test]
fn a_snapshot_tells_how_far_it_is_and_how_long_it_takes() {
    let mut talk = strict();
    talk.steps(&[(UP, PSYNC), (DOWN, format!("+FULLRESYNC {ID} 42\r\n$1000\r\n").as_bytes())]);
    assert_eq!(talk.view().stage, Stage::FullSync);
    for _ in 0..5 {
        talk.now += Duration::from_secs(1);
        talk.say(DOWN, &[b'x'; 100], &[100]);
    }
    talk.now += Duration::from_secs(1);
    let snapshot = talk.view().snapshot.unwrap();
    assert_eq!((snapshot.bytes, snapshot.size), (500, Some(1000)));
    assert!((40..=100).contains(&snapshot.bytes_per_second.unwrap()), "{snapshot:?}");
    assert!((5.0..13.0).contains(&snapshot.seconds_left.unwrap()), "{snapshot:?}");
    talk.say(DOWN, &[b'x'; 500], &[77]);
    assert_eq!(talk.view().stage, Stage::Loading);
    talk.steps(&[(DOWN, b"*1\r\n"), (UP, b"REPLCONF ACK 42\r\n")]);
    let view = talk.view();
    assert_eq!((view.stage, view.master_offset, view.lag_bytes), (Stage::Streaming, Some(46), Some(4)));
}

#[test]
fn what_is_not_known_is_said_and_passes() {
    // Valkey's compressed stream.
    let mut talk = Talk::both();
    talk.steps(&[(UP, PSYNC), (DOWN, FULL), (DOWN, b"VC"), (DOWN, b"S\x01\x02\x03\x04rest")]);
    for (_, observed, _) in &talk.taps {
        let view = observed.view(talk.now);
        assert_eq!((view.stage, view.unknown.as_deref()), (Stage::Unknown, Some("a compressed stream")));
        assert_eq!((view.master_offset, view.lag_bytes), (None, None));
    }
    talk.steps(&[(DOWN, b"more"), (UP, b"REPLCONF ACK 99\r\n")]);
    assert!(talk.replica.ends_with(b"restmore") && talk.end.is_none());
    // Still only replication passes.
    talk.steps(&[(UP, b"FLUSHALL\r\n")]);
    assert!(talk.end.is_some());
    // A stream whose first bytes only look like that of a compressed one.
    let mut talk = strict();
    talk.steps(&[(UP, PSYNC), (DOWN, FULL), (DOWN, b"VC"), (DOWN, b"x")]);
    assert_eq!(talk.view().master_offset, Some(45));
}

#[test]
fn what_redis_objects_to_is_told_with_the_next_step() {
    for (steps, words) in [
        (
            &[
                (UP, &b"PING\r\n"[..]),
                (DOWN, b"-NOPERM this user has no permissions to run the 'ping' command\r\n"),
                (UP, b"REPLCONF capa eof\r\n"),
                (DOWN, b"+OK\r\n"),
                (UP, PSYNC),
                (DOWN, b"-NOPERM this user has no permissions to run the 'psync' command\r\n"),
            ][..],
            "ACL SETUSER <user> +ping +psync (least: +ping +replconf +psync)",
        ),
        (&[(UP, PSYNC), (DOWN, b"-NOAUTH Authentication required.\r\n")], "`auth` in its [[master]]"),
        (
            &[(UP, b"AUTH x\r\n"), (DOWN, b"-WRONGPASS invalid username-password pair\r\n")],
            "the master refuses the replica's password (WRONGPASS)",
        ),
        (
            &[(UP, PSYNC), (DOWN, b"-NOMASTERLINK Can't SYNC while not connected with my master\r\n")],
            "the master refuses the sync: NOMASTERLINK",
        ),
    ] {
        let mut talk = Talk::both();
        talk.steps(steps);
        for (_, observed, _) in &talk.taps {
            let complaint = observed.view(talk.now).complaint.unwrap();
            assert!(complaint.contains(words), "{complaint}");
        }
    }
    // A replica that sends its password later, and one that continues without an option.
    let mut talk = strict();
    talk.steps(&[
        (UP, &b"PING\r\n"[..]),
        (DOWN, b"-NOAUTH Authentication required.\r\n"),
        (UP, b"REPLCONF ip-address x\r\n"),
        (DOWN, b"-ERR Unrecognized REPLCONF option: ip-address\r\n"),
    ]);
    assert_eq!(talk.view().complaint, None);
}

#[test]
fn a_replica_is_known_by_what_it_says_and_by_the_name_it_is_given() {
    let mut talk = Talk::both();
    talk.steps(&[
        (UP, &b"REPLCONF listening-port 6380\r\n"[..]),
        (UP, b"REPLCONF capa eof capa psync2\r\nREPLCONF version 8.1.0\r\n"),
        (DOWN, b"+OK\r\n+OK\r\n+OK\r\n"),
    ]);
    for (_, observed, _) in &talk.taps {
        let view = observed.view(talk.now);
        assert_eq!((view.host.as_deref(), view.port), (Some("dc2"), Some(6380)));
        assert_eq!(view.version.as_deref(), Some("8.1.0"));
        assert_eq!(view.capabilities, ["eof", "psync2"]);
    }
    assert!(String::from_utf8_lossy(&talk.master).contains("ip-address\r\n$3\r\ndc2"));
}

#[test]
fn a_capability_that_is_dropped_is_not_heard_of_and_the_answers_stay_in_order() {
    let dropped = Introduction::new(None, vec![Capability::RdbNoCompress, Capability::RdbChannel]);
    let mut talk = Talk::at_replica(dropped, &Arc::default());
    talk.steps(&[
        (UP, &b"REPLCONF rdb-no-compress 1\r\nREPLCONF capa eof capa rdb-channel-repl\r\n"[..]),
        (DOWN, b"+OK\r\n+OK\r\n"),
        (UP, PSYNC),
        (DOWN, FULL),
    ]);
    let heard = String::from_utf8_lossy(&talk.master).replace("\r\n", " ");
    assert!(heard.starts_with("*3 $8 REPLCONF $4 capa $4 none *3 $8 REPLCONF $4 capa $3 eof *3"), "{heard}");
    assert_eq!(talk.view().stage, Stage::Loading);
}
