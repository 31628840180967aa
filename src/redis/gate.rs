//! The master side's tap: nothing but replication reaches the master.
//!
//! Follows the handshake of a replica as Redis 2.8–8 and Valkey send it. Whole,
//! known commands go on; anything else ends the link: before the sync with an
//! error reply in its order, after it in silence, since a reply there would
//! corrupt the stream. It fails closed: what it cannot read never passes.

use std::collections::VecDeque;

use super::command::{self, Parsed};
use super::reply;
use crate::escape::shown;
use crate::tap::{Flow, OPENING, Tap, Verdict};

/// The longest reply line that a master gives to a replica's handshake.
const MAX_LINE: usize = 1024;

/// The most commands that may wait for their replies.
const MAX_UNANSWERED: usize = 256;

/// Where the replica's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Commands and single-line replies.
    Handshake,
    /// PSYNC went out, its answer is awaited.
    AskedPsync,
    /// SYNC went out, its answer is awaited.
    AskedSync,
    /// The answer has come: a snapshot or the stream. No replies any more.
    Syncing,
}

/// The allow-list of one link.
#[derive(Debug)]
pub struct Gate {
    site: String,
    phase: Phase,
    /// Commands whose reply line has not passed yet; true for one that asks for a
    /// snapshot alone.
    unanswered: VecDeque<bool>,
    /// The master may take this connection for one that dumps its data.
    dump: bool,
    /// A sync was asked for.
    asked: bool,
    /// A PSYNC that got an error: the replica goes back to SYNC.
    may_sync: bool,
    /// The link ends once everything is answered: the reply and the log's reason.
    refusal: Option<(Vec<u8>, String)>,
}

impl Gate {
    /// A gate for a new connection; `site` is this gateway's name, for replies.
    pub fn new(site: &str) -> Self {
        Self {
            site: site.to_owned(),
            phase: Phase::Handshake,
            unanswered: VecDeque::new(),
            dump: false,
            asked: false,
            may_sync: false,
            refusal: None,
        }
    }

    fn replica_says(&mut self, bytes: &[u8]) -> Verdict {
        if self.refusal.is_some() {
            return Verdict::Hold;
        }
        let (length, arguments) = match command::parse(bytes) {
            Parsed::Newline(length) => return Verdict::Pass(length),
            Parsed::Incomplete => return Verdict::Hold,
            Parsed::Malformed(what) => return self.refuse(what.to_owned()),
            Parsed::Command { length, arguments } => (length, arguments),
        };
        let name = arguments[0].to_ascii_uppercase();
        let options = &arguments[1..];
        if name == b"REPLCONF" && is_ack(options) {
            return Verdict::Pass(length);
        }
        if self.phase != Phase::Handshake {
            return self.refuse(format!("the command {} after the sync was asked for", named(&arguments)));
        }
        if matches!(name.as_slice(), b"PSYNC" | b"SYNC") {
            // No replica asks for a sync before its last reply has come.
            if !self.unanswered.is_empty() {
                return self
                    .refuse(format!("the command {} before the replies to earlier ones", named(&arguments)));
            }
            if self.dump {
                return self.refuse("a sync that would only dump the data".to_owned());
            }
        }
        let allowed = match name.as_slice() {
            b"PING" | b"REPLPING" => options.is_empty(),
            b"AUTH" => (1..=2).contains(&options.len()),
            b"REPLCONF" => {
                // A snapshot for a second connection may be asked for by SYNC.
                self.may_sync |= has(options, "rdb-channel", "1");
                is_handshake(options)
            }
            b"PSYNC" => {
                if options.get(2).is_some_and(|third| third.eq_ignore_ascii_case(b"failover")) {
                    return self
                        .refuse("PSYNC with FAILOVER, which would promote a second master".to_owned());
                }
                let allowed = is_psync(options);
                if allowed {
                    self.phase = Phase::AskedPsync;
                }
                allowed
            }
            b"SYNC" if self.may_sync && options.is_empty() => {
                self.phase = Phase::AskedSync;
                true
            }
            _ => false,
        };
        if !allowed {
            return self.refuse(format!("the command {} is no part of replication", named(&arguments)));
        }
        if self.unanswered.len() >= MAX_UNANSWERED {
            return self.refuse("more commands at once than a handshake has".to_owned());
        }
        self.asked |= self.phase != Phase::Handshake;
        if self.phase == Phase::Handshake {
            self.unanswered.push_back(has(options, "rdb-only", "1"));
        }
        Verdict::Pass(length)
    }

    /// Ends the link: at once where nothing is unanswered, else after the last
    /// outstanding reply.
    fn refuse(&mut self, reason: String) -> Verdict {
        let reason = format!("{reason}; refused");
        if self.phase != Phase::Handshake {
            return Verdict::Stop { pass: 0, reply: Vec::new(), reason };
        }
        let reply = reply::error(&self.site, &reason);
        if self.unanswered.is_empty() {
            return Verdict::Stop { pass: 0, reply, reason };
        }
        self.refusal = Some((reply, reason));
        Verdict::Hold
    }

    fn master_says(&mut self, bytes: &[u8]) -> Verdict {
        if self.phase == Phase::Syncing {
            return Verdict::Detach;
        }
        // Signs of life while the master prepares its answer.
        let newlines = bytes.iter().take_while(|byte| **byte == b'\n').count();
        if newlines > 0 {
            return Verdict::Pass(newlines);
        }
        let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
            return match bytes.len() {
                MAX_LINE.. => Verdict::Stop {
                    pass: 0,
                    reply: Vec::new(),
                    reason: "the master answered with a line that is no reply".to_owned(),
                },
                _ => Verdict::Hold,
            };
        };
        let (line, length) = (&bytes[..end], end + 1);
        match self.phase {
            Phase::AskedSync if line.starts_with(b"$") => self.synced(length),
            Phase::AskedPsync
                if line.starts_with(b"+FULLRESYNC")
                    || line.starts_with(b"+CONTINUE")
                    || line.starts_with(b"+RDBCHANNELSYNC") =>
            {
                self.synced(length)
            }
            // Valkey: this connection asks again once the snapshot's is set up.
            Phase::AskedPsync if line.starts_with(b"+DUALCHANNELSYNC") => {
                self.phase = Phase::Handshake;
                Verdict::Pass(length)
            }
            Phase::AskedPsync | Phase::AskedSync if line.starts_with(b"-") => {
                self.may_sync |= self.phase == Phase::AskedPsync;
                self.phase = Phase::Handshake;
                Verdict::Pass(length)
            }
            // A master that answers otherwise is one that is not known: the bytes
            // go on, nothing is armed, and the replica may only acknowledge.
            Phase::AskedPsync | Phase::AskedSync => {
                self.phase = Phase::Syncing;
                Verdict::Pass(length)
            }
            Phase::Handshake | Phase::Syncing => {
                // A master that knows `rdb-only` and not the option that pairs the
                // connection has taken the first all the same.
                if self.unanswered.pop_front() == Some(true) && line.starts_with(b"-") {
                    self.dump = true;
                }
                match self.refusal.take_if(|_| self.unanswered.is_empty()) {
                    Some((reply, reason)) => Verdict::Stop { pass: length, reply, reason },
                    None => Verdict::Pass(length),
                }
            }
        }
    }

    fn synced(&mut self, length: usize) -> Verdict {
        self.phase = Phase::Syncing;
        Verdict::PassAndArm(length)
    }
}

impl Tap for Gate {
    fn look(&mut self, flow: Flow, bytes: &[u8]) -> Verdict {
        match flow {
            Flow::ToMaster => self.replica_says(bytes),
            Flow::ToReplica => self.master_says(bytes),
        }
    }

    fn overdue(&self) -> Option<(Vec<u8>, String)> {
        let reason = format!("no sync was asked for within {} s", OPENING.as_secs());
        (!self.asked).then(|| (reply::error(&self.site, &reason), reason))
    }
}

/// The command's name for a log, never its arguments: they may be a password.
fn named(arguments: &[&[u8]]) -> String {
    let name = &arguments[0][..arguments[0].len().min(32)];
    let sub = match arguments.get(1) {
        Some(option) if arguments[0].eq_ignore_ascii_case(b"REPLCONF") => {
            format!(" {}", shown(&option[..option.len().min(32)]))
        }
        _ => String::new(),
    };
    format!("{}{sub}", shown(name))
}

fn has(options: &[&[u8]], name: &str, value: &str) -> bool {
    options
        .chunks_exact(2)
        .any(|option| option[0].eq_ignore_ascii_case(name.as_bytes()) && option[1] == value.as_bytes())
}

/// `ACK <offset>` with, from Redis 7.2, `FACK <offset>`.
fn is_ack(options: &[&[u8]]) -> bool {
    let number = |word: &[u8]| {
        !word.is_empty()
            && word.len() <= 20
            && word.strip_prefix(b"-").unwrap_or(word).iter().all(u8::is_ascii_digit)
    };
    match options {
        [ack, offset] => ack.eq_ignore_ascii_case(b"ack") && number(offset),
        [ack, offset, fack, persisted] => {
            ack.eq_ignore_ascii_case(b"ack")
                && fack.eq_ignore_ascii_case(b"fack")
                && number(offset)
                && number(persisted)
        }
        _ => false,
    }
}

/// The options that a replica states of itself, in pairs.
fn is_handshake(options: &[&[u8]]) -> bool {
    const KNOWN: [&str; 12] = [
        "listening-port",
        "ip-address",
        "capa",
        "version",
        "rdb-no-compress",
        "rdb-no-checksum",
        "rdb-channel",
        "main-ch-client-id",
        "set-rdb-client-id",
        "set-cluster-node-id",
        "uuid",
        "rdb-only",
    ];
    let known = |option: &[u8]| KNOWN.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()));
    let values = |name: &'static str| {
        let named =
            options.chunks_exact(2).filter(move |option| option[0].eq_ignore_ascii_case(name.as_bytes()));
        named.map(|option| option[1])
    };
    let alone = values("rdb-only").next().is_some() && values("rdb-channel").next().is_none();
    let dump = alone || values("rdb-only").chain(values("rdb-channel")).any(|value| value != b"1");
    !options.is_empty()
        && options.len().is_multiple_of(2)
        && options.chunks_exact(2).all(|option| known(option[0]))
        && !dump
}

/// `<replication id or ?> <offset>`.
fn is_psync(options: &[&[u8]]) -> bool {
    let [id, offset] = options else { return false };
    let id = *id == b"?" || (id.len() == 40 && id.iter().all(u8::is_ascii_alphanumeric));
    let digits = offset.strip_prefix(b"-").unwrap_or(offset);
    id && (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a whole conversation through a gate in pieces of `cut` bytes; what
    /// reached the master, what reached the replica, and the reason of the end.
    fn converse(cut: usize, steps: &[(Flow, &[u8])]) -> (Vec<u8>, Vec<u8>, Option<String>, Option<usize>) {
        let mut gate = Gate::new("dc1");
        let (mut master, mut replica, mut armed) = (Vec::new(), Vec::new(), None);
        let mut held = [Vec::new(), Vec::new()];
        let mut detached = [false, false];
        for (flow, bytes) in steps {
            let way = usize::from(*flow == Flow::ToReplica);
            for piece in bytes.chunks(cut) {
                held[way].extend_from_slice(piece);
                while !held[way].is_empty() {
                    let verdict = if detached[way] {
                        Verdict::Pass(held[way].len())
                    } else {
                        gate.look(*flow, &held[way])
                    };
                    let out = if way == 0 { &mut master } else { &mut replica };
                    match verdict {
                        Verdict::Pass(count) => out.extend(held[way].drain(..count)),
                        Verdict::PassAndArm(count) => {
                            out.extend(held[way].drain(..count));
                            armed = Some(out.len());
                        }
                        Verdict::Hold => break,
                        Verdict::Detach => detached[way] = true,
                        Verdict::Replace(..) => unreachable!("a gate rewrites nothing"),
                        Verdict::Stop { pass, reply, reason } => {
                            out.extend(held[way].drain(..pass));
                            replica.extend(reply);
                            return (master, replica, Some(reason), armed);
                        }
                    }
                }
            }
        }
        (master, replica, None, armed)
    }

    const UP: Flow = Flow::ToMaster;
    const DOWN: Flow = Flow::ToReplica;

    const PSYNC: &[u8] = b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n";
    const FULL: &[u8] = b"\n\n+FULLRESYNC 0123456789012345678901234567890123456789 42\r\n$9\r\nREDIS0010";

    proptest! {
        #[test]
        fn a_redis_handshake_passes_whole_however_it_is_cut(cut in 1usize..200) {
            let up: &[u8] = b"*5\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$4\r\n6380\r\n$10\r\nip-address\r\n$3\r\ndc2\r\n*5\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$4\r\ncapa\r\n$6\r\npsync2\r\n";
            let ack: &[u8] = b"\n*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$2\r\n42\r\n*5\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$2\r\n43\r\n$4\r\nFACK\r\n$2\r\n40\r\n";
            let steps = [(UP, &b"*1\r\n$4\r\nPING\r\n"[..]), (DOWN, b"+PONG\r\n"), (UP, up), (DOWN, b"+OK\r\n+OK\r\n"), (UP, PSYNC), (DOWN, FULL), (UP, ack)];
            let (master, replica, end, armed) = converse(cut, &steps);
            prop_assert_eq!(end, None);
            prop_assert_eq!(master, [&b"*1\r\n$4\r\nPING\r\n"[..], up, PSYNC, ack].concat());
            prop_assert_eq!(replica, [&b"+PONG\r\n+OK\r\n+OK\r\n"[..], FULL].concat());
            prop_assert_eq!(armed, Some(17 + FULL.len() - 13));
        }

        #[test]
        fn a_forbidden_command_never_passes_and_is_answered_in_order(cut in 1usize..200) {
            let steps = [(UP, &b"PING\r\nREPLCONF listening-port 1\r\n*1\r\n$8\r\nFLUSHALL\r\nPING\r\n"[..]), (DOWN, b"+PONG\r\n+OK\r\n")];
            let (master, replica, end, _) = converse(cut, &steps);
            prop_assert_eq!(master, b"PING\r\nREPLCONF listening-port 1\r\n");
            prop_assert!(replica.starts_with(b"+PONG\r\n+OK\r\n-ERR replgate dc1: the command FLUSHALL"));
            prop_assert!(end.unwrap().contains("FLUSHALL"));
        }

        #[test]
        fn after_the_sync_a_command_ends_the_link_in_silence(cut in 1usize..200) {
            let (master, replica, end, _) = converse(cut, &[(UP, PSYNC), (DOWN, FULL), (UP, b"*1\r\n$8\r\nFLUSHALL\r\n")]);
            prop_assert_eq!(master, PSYNC);
            prop_assert_eq!(replica, FULL);
            prop_assert!(end.is_some());
        }
    }

    #[test]
    fn sync_follows_only_a_refused_psync_or_a_paired_connection() {
        assert!(converse(9, &[(UP, b"SYNC\r\n")]).2.is_some());
        let steps = [
            (UP, PSYNC),
            (DOWN, &b"-ERR unknown command 'PSYNC'\r\n"[..]),
            (UP, b"SYNC\r\n"),
            (DOWN, b"\n$5\r\nREDIS"),
        ];
        let (_, _, end, armed) = converse(9, &steps);
        assert_eq!((end, armed), (None, Some(35)));
        let steps = [
            (UP, &b"REPLCONF capa eof rdb-only 1 rdb-channel 1 listening-port 7\r\n"[..]),
            (DOWN, b"+OK\r\n"),
            (UP, b"SYNC\r\n"),
            (DOWN, b"$ENDOFF:5 x 0 7\r\nREDIS"),
        ];
        assert_eq!(converse(9, &steps).2, None);
    }

    #[test]
    fn both_connections_of_a_redis_8_sync_pass() {
        let main = [(UP, PSYNC), (DOWN, &b"+RDBCHANNELSYNC 17\r\n*3\r\n$3\r\nSET"[..])];
        let (_, _, end, armed) = converse(5, &main);
        assert_eq!((end, armed), (None, Some(20)));
        let second = [
            (UP, &b"*12\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$8\r\nrdb-only\r\n$1\r\n1\r\n$11\r\nrdb-channel\r\n$1\r\n1\r\n$17\r\nmain-ch-client-id\r\n$2\r\n17\r\n$14\r\nlistening-port\r\n$4\r\n6380\r\n$1\r\n"[..]),
            (DOWN, b""),
        ];
        // Eleven words are five pairs; the stray twelfth keeps it incomplete.
        assert_eq!(converse(5, &second).2, None);
    }

    #[test]
    fn a_valkey_main_connection_may_ask_twice() {
        let steps = [
            (UP, PSYNC),
            (DOWN, &b"+DUALCHANNELSYNC\r\n"[..]),
            (UP, b"REPLCONF set-rdb-client-id 9\r\n"),
            (DOWN, b"+OK\r\n"),
            (UP, b"PSYNC 0123456789012345678901234567890123456789 43\r\n"),
            (DOWN, b"+CONTINUE\r\nstream"),
        ];
        let (_, _, end, armed) = converse(3, &steps);
        assert_eq!((end, armed), (None, Some(34)));
    }

    #[test]
    fn promotions_dumps_and_slot_migration_are_refused() {
        for bytes in [
            &b"PSYNC 0123456789012345678901234567890123456789 43 FAILOVER\r\n"[..],
            b"REPLCONF rdb-only 1\r\n",
            b"REPLCONF rdb-filter-only functions\r\n",
            b"CLUSTER SYNCSLOTS SYNC x\r\n",
            b"REPLCONF getack *\r\n",
            b"PSYNC ; -1\r\n",
            b"MULTI\r\n",
        ] {
            let (master, _, end, _) = converse(64, &[(UP, bytes)]);
            assert!(end.is_some() && master.is_empty(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_dump_cannot_be_had_by_way_of_an_option_that_an_older_master_refuses() {
        let ask = &b"REPLCONF rdb-only 1 rdb-channel 1\r\n"[..];
        let steps = [(UP, ask), (DOWN, b"-ERR Unrecognized REPLCONF option: rdb-channel\r\n"), (UP, PSYNC)];
        let (master, _, end, _) = converse(64, &steps);
        assert!(end.is_some() && master == ask);
        // Nor by asking before the refusal has come.
        let (master, _, end, _) = converse(640, &[(UP, &[ask, PSYNC].concat()), (DOWN, b"-ERR no\r\n")]);
        assert!(end.is_some() && master == ask);
        for twice in ["REPLCONF rdb-channel 0\r\n", "REPLCONF rdb-only 1 rdb-channel 1 rdb-channel 0\r\n"] {
            assert!(converse(64, &[(UP, twice.as_bytes())]).2.is_some(), "{twice}");
        }
    }

    #[test]
    fn a_password_is_never_named() {
        let (_, replica, end, _) = converse(64, &[(UP, b"AUTH user secret extra\r\n")]);
        assert!(!String::from_utf8_lossy(&replica).contains("secret") && !end.unwrap().contains("secret"));
    }
}
