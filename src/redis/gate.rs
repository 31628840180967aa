//! The master side's allow-list: nothing but replication reaches the master.
//!
//! Follows the handshake of a replica as Redis 2.8–8, Valkey, KeyDB and Dragonfly
//! send it. Whole, known commands go on; anything else ends the link: before the sync
//! with an error reply in its order, after it in silence, since a reply there would
//! corrupt the stream. It fails closed: what it cannot read never passes. Where the
//! gateway has authenticated itself, a replica's AUTH goes no further than here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::command::Parsed;
use super::full_syncs::FullSyncs;
use super::reply;
use crate::escape::shown;
use crate::tap::{OPENING, Verdict};

/// The most commands that may wait for their replies.
const MAX_UNANSWERED: usize = 256;

/// What one master allows beyond the replication of a plain replica, and what else
/// there is to know about it.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The gateway has authenticated itself: the replica need not, and what it says of
    /// a password is for nobody.
    pub authenticated: bool,
    /// `PSYNC … FAILOVER` passes.
    pub failover: bool,
    /// Clients that ask for a snapshot alone are served.
    pub dump: bool,
    /// `CLUSTER SYNCSLOTS` passes.
    pub slot_migration: bool,
    /// The bound on this site's full syncs.
    pub full_syncs: Option<Arc<FullSyncs>>,
}

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
    /// A migration of slots was asked for, its answer is awaited.
    AskedSlots,
    /// Slots are on their way.
    Slots,
}

/// Who answers a command that has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The master; true for a command that asks for a snapshot alone.
    Master(bool),
    /// This gateway: `+OK`, in its order.
    Us,
}

/// The allow-list of one link.
#[derive(Debug)]
pub struct Gate {
    site: String,
    rules: Rules,
    phase: Phase,
    /// Commands whose reply line has not passed yet.
    unanswered: VecDeque<By>,
    /// The master may take this connection for one that dumps its data.
    dump: bool,
    /// A sync was asked for.
    asked: bool,
    /// A PSYNC that got an error: the replica goes back to SYNC.
    may_sync: bool,
    /// This connection brings the snapshot of a sync that another one has asked for.
    paired: bool,
    /// It has a place among the full syncs of its site.
    placed: bool,
    /// The snapshot comes over another connection, and this one asks once more.
    apart: bool,
    /// The link ends once everything is answered: the reply and the log's reason.
    refusal: Option<(Vec<u8>, String)>,
}

impl Gate {
    /// A gate for a new connection; `site` is this gateway's name, for replies.
    pub fn new(site: &str, rules: Rules) -> Self {
        Self {
            site: site.to_owned(),
            rules,
            phase: Phase::Handshake,
            unanswered: VecDeque::new(),
            dump: false,
            asked: false,
            may_sync: false,
            paired: false,
            placed: false,
            apart: false,
            refusal: None,
        }
    }

    /// Whether the master's bytes are for nobody to judge any more.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Syncing | Phase::Slots)
    }

    /// Whether slots are migrated, and nothing is replicated.
    pub fn migrates_slots(&self) -> bool {
        self.phase == Phase::Slots
    }

    /// Last words for a replica that has not asked for a sync in time.
    pub fn overdue(&self) -> Option<(Vec<u8>, String)> {
        let reason = format!("no sync was asked for within {} s", OPENING.as_secs());
        (!self.asked).then(|| (reply::error(&self.site, &reason), reason))
    }

    /// Judges what the replica says.
    pub fn replica_says(&mut self, parsed: &Parsed<'_>, now: Instant) -> Verdict {
        if self.refusal.is_some() {
            return Verdict::Hold;
        }
        let (length, arguments) = match parsed {
            Parsed::Newline(length) => return Verdict::Pass(*length),
            Parsed::Incomplete => return Verdict::Hold,
            Parsed::Malformed(what) => return self.refuse((*what).to_owned()),
            Parsed::Command { length, arguments } => (*length, arguments.as_slice()),
        };
        let name = arguments[0].to_ascii_uppercase();
        let options = &arguments[1..];
        if name == b"REPLCONF" && is_ack(options) {
            return Verdict::Pass(length);
        }
        let slots = self.rules.slot_migration && name == b"CLUSTER" && is(options.first(), "syncslots");
        if self.phase == Phase::Slots && slots {
            return Verdict::Pass(length);
        }
        if self.phase != Phase::Handshake {
            return self.refuse(format!("the command {} after the sync was asked for", named(arguments)));
        }
        let asks = matches!(name.as_slice(), b"PSYNC" | b"SYNC");
        // No replica asks for a sync before its last reply has come.
        if asks && !self.unanswered.is_empty() {
            return self
                .refuse(format!("the command {} before the replies to earlier ones", named(arguments)));
        }
        if asks && self.dump && !self.rules.dump {
            return self.refuse("a sync that would only dump the data (allow_dump)".to_owned());
        }
        let next = match name.as_slice() {
            b"PING" | b"REPLPING" => options.is_empty().then_some(Phase::Handshake),
            b"AUTH" => (1..=2).contains(&options.len()).then_some(Phase::Handshake),
            b"REPLCONF" if is_dump(options) && !self.rules.dump => {
                let what = named(arguments);
                return self
                    .refuse(format!("the command {what}, which would only dump the data (allow_dump)"));
            }
            b"REPLCONF" => is_introduction(options).then_some(Phase::Handshake),
            b"PSYNC" if is(options.get(2), "failover") && !self.rules.failover => {
                return self.refuse(
                    "PSYNC with FAILOVER, which would promote a second master (allow_failover)".to_owned(),
                );
            }
            b"PSYNC" => is_psync(options).then_some(Phase::AskedPsync),
            b"SYNC" => {
                let may = self.may_sync || self.paired || self.rules.dump;
                if !may {
                    return self.refuse(
                        "the command SYNC without a PSYNC before it, which would only dump the data (allow_dump)"
                            .to_owned(),
                    );
                }
                options.is_empty().then_some(Phase::AskedSync)
            }
            b"CLUSTER" if slots => Some(match options.get(1) {
                sub if is(sub, "sync") || is(sub, "rdbchannel") => Phase::AskedSlots,
                _ => Phase::Handshake,
            }),
            _ => None,
        };
        let Some(next) = next else {
            return self.refuse(format!("the command {} is no part of replication", named(arguments)));
        };
        if self.unanswered.len() >= MAX_UNANSWERED {
            return self.refuse("more commands at once than a handshake has".to_owned());
        }
        if asks && let Some(wait) = self.must_wait(now) {
            return wait;
        }
        // Last of all: what was refused has changed nothing.
        self.paired |= has(options, "rdb-channel", "1");
        self.asked |= next != Phase::Handshake;
        self.phase = next;
        if name == b"AUTH" && self.rules.authenticated {
            if self.unanswered.is_empty() {
                return Verdict::Answer(length, reply::OK.to_vec());
            }
            self.unanswered.push_back(By::Us);
            return Verdict::Replace(length, Vec::new());
        }
        if matches!(next, Phase::Handshake | Phase::AskedSlots) {
            self.unanswered.push_back(By::Master(has(options, "rdb-only", "1")));
        }
        Verdict::Pass(length)
    }

    /// Takes a place for what may become a full sync; where there is none, the words
    /// that make a replica ask again.
    fn must_wait(&mut self, now: Instant) -> Option<Verdict> {
        let full_syncs = self.rules.full_syncs.as_ref()?;
        if self.placed || self.paired && full_syncs.was_expected() {
            return None;
        }
        let Err(wait) = full_syncs.take(now) else {
            self.placed = true;
            return None;
        };
        let reason = format!(
            "too many full syncs of this site within a minute (full_syncs_per_minute); ask again in {} s",
            wait.as_secs() + 1
        );
        Some(Verdict::Stop { pass: 0, reply: reply::loading(&self.site, &reason), reason })
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

    /// Ends the link, since the master said something that is no line.
    pub fn master_raves(&self) -> Verdict {
        let reason = "the master answered with a line that is no reply".to_owned();
        Verdict::Stop { pass: 0, reply: Vec::new(), reason }
    }

    /// Takes a whole line of the master, which takes `length` bytes with its end. Not
    /// to be asked once the gate [is open](Self::is_open).
    pub fn master_says(&mut self, line: &[u8], whole: &[u8]) -> Verdict {
        let length = whole.len();
        match self.phase {
            Phase::AskedSync if line.starts_with(b"$") => self.synced(length),
            Phase::AskedPsync
                if line.starts_with(b"+FULLRESYNC")
                    || line.starts_with(b"+CONTINUE")
                    || line.starts_with(b"+RDBCHANNELSYNC") =>
            {
                if line.starts_with(b"+CONTINUE") && !self.apart {
                    self.give_back();
                }
                if line.starts_with(b"+RDBCHANNELSYNC") {
                    self.expect();
                }
                self.synced(length)
            }
            // Valkey: this connection asks again once the snapshot's is set up.
            Phase::AskedPsync if line.starts_with(b"+DUALCHANNELSYNC") => {
                self.expect();
                self.apart = true;
                self.phase = Phase::Handshake;
                Verdict::Pass(length)
            }
            Phase::AskedPsync | Phase::AskedSync if line.starts_with(b"-") => {
                self.give_back();
                self.may_sync |= self.phase == Phase::AskedPsync;
                self.phase = Phase::Handshake;
                Verdict::Pass(length)
            }
            // A master that answers otherwise is one that is not known: the bytes
            // go on, nothing is armed, and the replica may only acknowledge.
            Phase::AskedPsync | Phase::AskedSync | Phase::Syncing | Phase::Slots => {
                self.phase = Phase::Syncing;
                Verdict::Pass(length)
            }
            Phase::Handshake | Phase::AskedSlots => self.answered(line, whole),
        }
    }

    /// One more command is answered, and with it those of ours that come next.
    fn answered(&mut self, line: &[u8], whole: &[u8]) -> Verdict {
        let by = self.unanswered.pop_front();
        // A master that knows `rdb-only` and not the option that pairs the
        // connection has taken the first all the same.
        self.dump |= by == Some(By::Master(true)) && line.starts_with(b"-");
        let mut ours = Vec::new();
        while self.unanswered.front() == Some(&By::Us) {
            self.unanswered.pop_front();
            ours.extend_from_slice(reply::OK);
        }
        if self.phase == Phase::AskedSlots && self.unanswered.is_empty() {
            // Refused, or not ready, and asked again.
            self.phase = if line.starts_with(b"-") { Phase::Handshake } else { Phase::Slots };
        }
        match self.refusal.take_if(|_| self.unanswered.is_empty()) {
            Some((reply, reason)) => {
                Verdict::Stop { pass: whole.len(), reply: [ours, reply].concat(), reason }
            }
            None if ours.is_empty() => Verdict::Pass(whole.len()),
            None => Verdict::Replace(whole.len(), [whole, &ours].concat()),
        }
    }

    fn synced(&mut self, length: usize) -> Verdict {
        self.phase = Phase::Syncing;
        Verdict::PassAndArm(length)
    }

    fn expect(&self) {
        if let Some(full_syncs) = &self.rules.full_syncs {
            full_syncs.expect();
        }
    }

    fn give_back(&mut self) {
        if let (Some(full_syncs), true) = (&self.rules.full_syncs, std::mem::take(&mut self.placed)) {
            full_syncs.give_back();
        }
    }
}

/// The command's name for a log, never its arguments: they may be a password.
fn named(arguments: &[&[u8]]) -> String {
    let cut = |word: &[u8]| shown(&word[..word.len().min(32)]);
    let speaks = [&b"REPLCONF"[..], b"CLUSTER"].iter().any(|name| arguments[0].eq_ignore_ascii_case(name));
    match arguments.get(1) {
        Some(option) if speaks => format!("{} {}", cut(arguments[0]), cut(option)),
        _ => cut(arguments[0]),
    }
}

fn is(word: Option<&&[u8]>, expected: &str) -> bool {
    word.is_some_and(|word| word.eq_ignore_ascii_case(expected.as_bytes()))
}

fn has(options: &[&[u8]], name: &str, value: &str) -> bool {
    options
        .chunks_exact(2)
        .any(|option| option[0].eq_ignore_ascii_case(name.as_bytes()) && option[1] == value.as_bytes())
}

/// `ACK <offset>` with, from Redis 7.2, `FACK <offset>`.
fn is_ack(options: &[&[u8]]) -> bool {
    let number = |word: &[u8]| {
        let digits = word.strip_prefix(b"-").unwrap_or(word);
        (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
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

/// Whether a snapshot alone is asked for: an option for it, not beside those that make
/// it the second connection of a sync.
fn is_dump(options: &[&[u8]]) -> bool {
    let values = |name: &'static str| {
        let named =
            options.chunks_exact(2).filter(move |option| option[0].eq_ignore_ascii_case(name.as_bytes()));
        named.map(|option| option[1])
    };
    let alone = values("rdb-only").next().is_some() && values("rdb-channel").next().is_none();
    let unpaired = values("rdb-only").chain(values("rdb-channel")).any(|value| value != b"1");
    alone || unpaired || values("rdb-filter-only").next().is_some()
}

/// The options that a replica states of itself, in pairs.
fn is_introduction(options: &[&[u8]]) -> bool {
    const KNOWN: [&str; 13] = [
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
        "rdb-filter-only",
    ];
    let known = |option: &[u8]| KNOWN.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()));
    !options.is_empty()
        && options.len().is_multiple_of(2)
        && options.chunks_exact(2).all(|option| known(option[0]))
}

/// `<replication id or ?> <offset>`, then perhaps `FAILOVER`, which is judged apart.
fn is_psync(options: &[&[u8]]) -> bool {
    let (id, offset) = match options {
        [id, offset] => (id, offset),
        [id, offset, third] if is(Some(third), "failover") => (id, offset),
        _ => return false,
    };
    let id = *id == b"?" || (id.len() == 40 && id.iter().all(u8::is_ascii_alphanumeric));
    let digits = offset.strip_prefix(b"-").unwrap_or(offset);
    id && (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}
