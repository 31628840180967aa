//! Fuzzes conversations between a replica and a master, through the taps of both sites.
//!
//! The first byte selects the gateways' settings, the next three the lengths of the pieces. Then
//! the replica speaks, and after each [`TURN`] the other side; the bytes are written as in
//! `script.rs`. For any input: `talk.rs` checks what reaches the master and when; the replica gets
//! its master's bytes in order; and the cuts make no difference.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::{Corpus, fuzz_target};
use replgate::internal::redis::command::{self, Parsed};
use replgate::internal::redis::full_syncs::FullSyncs;
use replgate::internal::redis::gate::Rules;
use replgate::internal::redis::introduction::Capability;
use replgate::internal::tap::Flow;
use replgate_fuzz::pieces;
use replgate_fuzz::script::written_out;
use replgate_fuzz::talk::Talk;

/// Marks that the other side speaks from here on.
const TURN: u8 = 0x1e;

/// Most bytes that are sent in total.
const MOST: usize = 80 * 1024;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((&[settings, ref cut @ ..], script)) = bytes.split_first_chunk::<4>() else {
        return Corpus::Reject;
    };
    let settings = Settings(settings);
    let steps = steps(script);
    let whole = said(settings, &steps, &[]);
    let cut = said(settings, &steps, cut);
    assert_eq!(cut.end, whole.end);
    assert_eq!(cut.armed, whole.armed);
    assert!(cut.master == whole.master, "{}\n{}", cut.master.escape_ascii(), whole.master.escape_ascii());
    assert!(cut.replica == whole.replica, "{}\n{}", cut.replica.escape_ascii(), whole.replica.escape_ascii());
    // The mark at the end of a snapshot is detected only at the end of a piece, since a real master
    // sends nothing after it. A fuzzed master may send it anywhere.
    if !all(&steps, Flow::ToReplica).windows(5).any(|window| window == b"$EOF:") {
        assert_eq!(cut.known(), whole.known());
    }
    reached(settings, &whole, &steps);
    Corpus::Keep
});

/// The gateways' settings, one for each bit. The letter `@` has none of them, and means that there
/// is no other link of the site.
#[derive(Clone, Copy)]
struct Settings(u8);

impl Settings {
    fn has(self, bit: u8) -> bool {
        self.0 & 1 << bit != 0
    }

    fn both_sites(self) -> bool {
        self.has(0)
    }

    fn announces(self) -> bool {
        self.has(1)
    }

    fn drops(self) -> bool {
        self.has(2)
    }

    fn authenticated(self) -> bool {
        self.has(3)
    }

    /// Whether introductions are passed on unchanged.
    fn verbatim(self) -> bool {
        !self.both_sites() || !self.announces() && !self.drops()
    }

    fn talk(self) -> Talk {
        let full_syncs = self.has(7).then(|| {
            let full_syncs = FullSyncs::new(1);
            // Half a second ago, so that the remaining time rounds to the same number of seconds
            // each time.
            full_syncs.take(Instant::now() - Duration::from_millis(500)).expect("the first place is free");
            Arc::new(full_syncs)
        });
        let mut talk = Talk::at_master(Rules {
            authenticated: self.authenticated(),
            failover: self.has(4),
            dump: self.has(4),
            slot_migration: self.has(5),
            full_syncs,
            ..Rules::default()
        });
        if !self.has(6) {
            talk = talk.beside_another();
        }
        if !self.both_sites() {
            return talk;
        }
        let drop = Capability::ALL.iter().filter(|_| self.drops()).map(|(_, capability)| *capability);
        talk.from_replica(self.announces().then_some(("dc2", Some(7000))), drop.collect())
    }
}

/// What is sent and in which direction, in order.
fn steps(script: &[u8]) -> Vec<(Flow, Vec<u8>)> {
    let mut left = MOST;
    let sides = [Flow::ToMaster, Flow::ToReplica].into_iter().cycle();
    let steps = sides.zip(script.split(|byte| *byte == TURN)).map(|(flow, said)| {
        let said = written_out(said, left);
        left -= said.len();
        (flow, said)
    });
    steps.collect()
}

/// The conversation after everything was sent, in pieces.
fn said(settings: Settings, steps: &[(Flow, Vec<u8>)], cut: &[u8]) -> Talk {
    let mut talk = settings.talk();
    for (flow, bytes) in steps {
        // What the replica has sent and must wait is passed on with the master's next line. So a line
        // ends a piece, as it does where a master answers one command after the other.
        let whole = |byte: &u8| *flow == Flow::ToReplica && *byte == b'\n';
        for line in bytes.split_inclusive(whole) {
            pieces(line, cut).for_each(|piece| talk.say(*flow, piece));
        }
    }
    talk
}

/// Everything that one side sends.
fn all(steps: &[(Flow, Vec<u8>)], flow: Flow) -> Vec<u8> {
    steps.iter().filter(|step| step.0 == flow).flat_map(|step| &step.1).copied().collect()
}

/// Asserts that each side got what the other has sent.
fn reached(settings: Settings, talk: &Talk, steps: &[(Flow, Vec<u8>)]) {
    let (up, down) = (all(steps, Flow::ToMaster), all(steps, Flow::ToReplica));

    // The replica gets its master's bytes, without those for the gateway, and then the gateway's
    // own last reply, if any.
    let down = escaped(&without(&down, &talk.swallowed()));
    let own = talk.end.as_ref().map_or(0, |(reply, _)| reply.len());
    let mut received = escaped(&talk.replica[..talk.replica.len() - own]);
    if settings.authenticated() {
        received = without_answers(&received, &down);
    }
    assert!(down.starts_with(&received), "{}", received.escape_ascii());
    if talk.end.is_none() {
        assert!(
            [received, escaped(&talk.held(Flow::ToReplica))].concat() == down,
            "nothing is lost on the way to the replica"
        );
    }

    // The master gets its replica's commands, unchanged except for introductions.
    let is = |words: &[&[u8]], name: &str| words[0].eq_ignore_ascii_case(name.as_bytes());
    // The gateway drops acknowledgements before a sync.
    let is_ack = |words: &[&[u8]]| is(words, "REPLCONF") && words.get(1).is_some_and(|word| is(&[word], "ACK"));
    let counts =
        |words: &Vec<&[u8]>| !is_ack(words) && (!settings.authenticated() || !is(words, "AUTH"));
    let mut said = commands(&up).into_iter().filter(counts);
    for words in commands(&talk.master).into_iter().filter(counts) {
        let from = said.next().expect("no command is invented");
        if !is(&words, "REPLCONF") {
            assert_eq!(words, from);
        } else if settings.verbatim() {
            assert_eq!(unlisted(&words), unlisted(&from));
        }
        assert!(words[0].eq_ignore_ascii_case(from[0]));
    }
    if talk.end.is_none() {
        let held = talk.held(Flow::ToMaster);
        let held = commands(&held).into_iter().filter(counts);
        assert_eq!(said.count(), held.count(), "nothing is lost on the way to the master");
    }
}

/// `bytes` without the ranges in `some`.
fn without(bytes: &[u8], some: &[std::ops::Range<usize>]) -> Vec<u8> {
    let kept = bytes.iter().enumerate().filter(|(at, _)| some.iter().all(|range| !range.contains(at)));
    kept.map(|(_, byte)| *byte).collect()
}

/// Replaces every byte that is not allowed in a replica's log, as the gateway does in error
/// replies.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let good = |at: usize| match bytes[at] {
        b'\r' => bytes.get(at + 1) == Some(&b'\n'),
        byte => matches!(byte, b' '..=b'~' | b'\n'),
    };
    (0..bytes.len()).map(|at| if good(at) { bytes[at] } else { b'?' }).collect()
}

/// A REPLCONF without the options with the replica's address.
fn unlisted<'a>(words: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let ours = |word: &[u8]| is(word, "listening-port") || is(word, "ip-address");
    if words.len() % 2 == 0 {
        return words.to_vec();
    }
    let others = words[1..].chunks_exact(2).filter(|pair| !ours(pair[0]));
    others.flatten().copied().collect()
}

/// The complete commands at the front of `bytes`.
fn commands(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let (mut commands, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        match command::parse(rest) {
            Parsed::Newline(length) => rest = &rest[length..],
            Parsed::Command { length, arguments } => {
                commands.push(arguments);
                rest = &rest[length..];
            }
            Parsed::Incomplete | Parsed::Malformed(_) => break,
        }
    }
    commands
}

/// `received` without the gateway's own replies: each `+OK` that the master has not sent.
fn without_answers(received: &[u8], said: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in received.split_inclusive(|byte| *byte == b'\n') {
        if line != b"+OK\r\n" || said[out.len().min(said.len())..].starts_with(line) {
            out.extend_from_slice(line);
        }
    }
    out
}
