//! Follows one replica's talk with its master and keeps what is worth knowing of it.
//!
//! It sees what passes and changes nothing. In the handshake it is shown whole
//! commands and whole lines; from the snapshot on it counts. Where it meets something
//! that it does not know it says "unknown" and is through: bytes flow all the same.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::lag::Lag;
use super::replconf::{number, port};
use super::replication::{Channel, Observed, Stage, SyncKind};
use super::syncs::Beginning;
use crate::escape::shown;

/// Commands that may wait for their replies.
const MAX_UNANSWERED: usize = 256;

/// Capabilities that are remembered.
const MAX_CAPABILITIES: usize = 32;

/// The mark at the end of a snapshot whose size the master does not know beforehand.
const MARK: usize = 40;

/// What a compressed stream begins with, in place of the first command.
const COMPRESSED: &[u8] = b"VCS";

/// Commands that are answered by one line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Ping,
    Auth,
    Replconf,
    Psync,
    Sync,
    Other,
}

impl Verb {
    fn of(name: &[u8]) -> Self {
        match name.to_ascii_uppercase().as_slice() {
            b"PING" | b"REPLPING" => Self::Ping,
            b"AUTH" => Self::Auth,
            b"REPLCONF" => Self::Replconf,
            b"PSYNC" => Self::Psync,
            b"SYNC" => Self::Sync,
            _ => Self::Other,
        }
    }

    fn right(self) -> &'static str {
        match self {
            Self::Ping => "+ping",
            Self::Auth | Self::Other => "",
            Self::Replconf => "+replconf",
            Self::Psync => "+psync",
            Self::Sync => "+sync",
        }
    }
}

/// What a replica states of itself.
#[derive(Debug)]
enum Stated {
    Port(u16),
    Host(String),
    Version(String),
    Capability(String),
    Channel(Channel),
}

/// What comes from the master next.
#[derive(Debug)]
enum Expected {
    /// Lines that answer commands.
    Answers,
    /// The line before the snapshot.
    Header,
    /// So many bytes of the snapshot.
    Bytes(u64),
    /// Bytes of the snapshot, up to a mark; with it the last bytes that have passed.
    Until { mark: [u8; MARK], tail: Vec<u8> },
    /// The stream; with it how many of the first bytes were looked at.
    Stream(usize),
    /// Nothing that is known.
    Anything,
}

/// The observer of one link.
#[derive(Debug)]
pub struct Observer {
    observed: Arc<Observed>,
    expected: Expected,
    /// Commands that are not answered yet, and what the replica states of itself in
    /// each: it counts once the master has taken it.
    unanswered: VecDeque<(Verb, Vec<Stated>)>,
    /// The replication id and the offset that the replica asked to go on from.
    asked: Option<(String, u64)>,
    /// The master's offset before the first byte of the stream, once it is known.
    base: Option<u64>,
    /// Bytes of the stream that have passed.
    streamed: u64,
    lag: Lag,
    /// Valkey has announced that the snapshot comes over another connection.
    apart: bool,
    /// What the master's user lacks.
    lacks: BTreeSet<Verb>,
    /// A refused sync was counted; what the replica falls back to is no other.
    refused: bool,
}

impl Observer {
    /// Sees a new connection; what it finds is kept in `observed`.
    pub fn new(observed: Arc<Observed>) -> Self {
        Self {
            observed,
            expected: Expected::Answers,
            unanswered: VecDeque::new(),
            asked: None,
            base: None,
            streamed: 0,
            lag: Lag::default(),
            apart: false,
            lacks: BTreeSet::new(),
            refused: false,
        }
    }

    /// Whether the master's bytes are lines now, which [`Observer::answered`] is to be
    /// shown whole; else they are for [`Observer::sent`].
    pub fn reads_lines(&self) -> bool {
        matches!(self.expected, Expected::Answers | Expected::Header)
    }

    /// Whether nothing more is known.
    pub fn is_lost(&self) -> bool {
        matches!(self.expected, Expected::Anything)
    }

    /// What passes is not known; `why` ends the sentence "not known: …".
    pub fn lose(&mut self, why: &'static str) {
        self.lose_replica(why);
        self.observed.begins();
    }

    /// As [`Observer::lose`], for what a replica says before anything is granted: most
    /// likely it is none, and is refused.
    pub fn lose_replica(&mut self, why: &'static str) {
        self.expected = Expected::Anything;
        let mut known = self.observed.known();
        known.stage = Stage::Unknown;
        known.unknown = Some(why);
        (known.offset, known.behind_since) = (None, None);
    }

    /// The gateway refuses what the replica says; `sync` where that asks for one.
    pub fn refused(&mut self, reason: &str, sync: bool) {
        if sync {
            self.count_refused();
        }
        // What the master had to object comes first.
        self.observed.known().complaint.get_or_insert_with(|| reason.to_owned());
    }

    fn count_refused(&mut self) {
        if !std::mem::replace(&mut self.refused, true) {
            self.observed.syncs().count_refused();
        }
    }

    /// The replica says a whole command.
    pub fn asked(&mut self, command: &[&[u8]], now: Instant) {
        let (verb, options) = (Verb::of(command[0]), &command[1..]);
        if verb == Verb::Replconf
            && let [ack, offset, ..] = options
            && ack.eq_ignore_ascii_case(b"ack")
        {
            return self.acknowledged(offset, now);
        }
        if !matches!(self.expected, Expected::Answers) {
            return;
        }
        if self.unanswered.len() == MAX_UNANSWERED {
            return self.lose_replica("more commands at once than a handshake has");
        }
        let said = if verb == Verb::Replconf { introduction(options) } else { Vec::new() };
        self.unanswered.push_back((verb, said));
        match verb {
            Verb::Psync => {
                self.asked = match options {
                    [id, offset, ..] => number(offset).map(|offset| (shown(id), offset)),
                    _ => None,
                };
                self.observed.known().stage = Stage::Waiting;
            }
            Verb::Sync => {
                self.asked = None;
                self.observed.known().stage = Stage::Waiting;
            }
            _ => {}
        }
    }

    /// The replica has applied everything up to this offset.
    fn acknowledged(&mut self, offset: &[u8], now: Instant) {
        match self.expected {
            Expected::Stream(_) => {}
            // No replica says so before it has all of the snapshot.
            Expected::Bytes(_) | Expected::Until { .. } => {
                return self.lose("an acknowledgement before the snapshot's end was seen");
            }
            _ => return,
        }
        self.begins();
        let Some(offset) = number(offset) else { return };
        if let Some(base) = self.base {
            if offset > base.saturating_add(self.streamed) {
                return self.lose("an acknowledgement of more than has passed");
            }
            self.lag.acknowledged(offset.saturating_sub(base));
        }
        let mut known = self.observed.known();
        known.stage = Stage::Streaming;
        known.acknowledged = Some((offset, now));
        known.behind_since = self.lag.since();
    }

    /// The master answers with a whole line, without its end.
    pub fn answered(&mut self, line: &[u8], now: Instant) {
        if matches!(self.expected, Expected::Header) {
            return self.header(line, now);
        }
        let (verb, said) = self.unanswered.pop_front().unzip();
        if line.starts_with(b"-") {
            return self.objects(verb, line);
        }
        match verb {
            Some(Verb::Psync) => self.synced(line),
            Some(Verb::Sync) => self.header(line, now),
            _ => self.introduces(said.unwrap_or_default()),
        }
    }

    /// The master has taken what the replica states of itself.
    fn introduces(&self, said: Vec<Stated>) {
        let mut known = self.observed.known();
        for said in said {
            match said {
                Stated::Port(port) => known.port = Some(port),
                Stated::Host(host) => known.host = Some(host),
                Stated::Version(version) => known.version = Some(version),
                Stated::Capability(capability) => {
                    if known.capabilities.len() < MAX_CAPABILITIES
                        && !known.capabilities.contains(&capability)
                    {
                        known.capabilities.push(capability);
                    }
                }
                Stated::Channel(channel) => known.channel = Some(channel),
            }
        }
    }

    /// The answer to PSYNC.
    fn synced(&mut self, line: &[u8]) {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let (expected, stage) = match words.as_slice() {
            [b"+FULLRESYNC", replid, offset] => {
                let Some(offset) = number(offset) else { return self.lose("an answer to PSYNC") };
                let beginning = Beginning { replid: shown(replid), offset };
                match self.observed.channel() {
                    Some(Channel::Snapshot(id)) => self.observed.syncs().leave(id, beginning.clone()),
                    _ => self.observed.syncs().count_full(),
                }
                self.begin(Some(beginning), SyncKind::Full);
                (Expected::Header, Stage::Waiting)
            }
            [b"+CONTINUE", rest @ ..] => {
                let (asked, offset) = self.asked.take().unzip();
                let replid = rest.first().map(|id| shown(id)).or(asked);
                let beginning = match (replid, offset) {
                    (Some(replid), Some(next)) => Some(Beginning { replid, offset: next.saturating_sub(1) }),
                    _ => None,
                };
                // Valkey's main connection goes on behind a snapshot that came apart.
                if self.apart {
                    self.begin(beginning, SyncKind::Full);
                } else {
                    self.observed.syncs().count_partial();
                    self.begin(beginning, SyncKind::Partial);
                }
                (Expected::Stream(0), if self.apart { Stage::Loading } else { Stage::Streaming })
            }
            [b"+RDBCHANNELSYNC", id] => {
                self.observed.syncs().count_full();
                self.observed.known().channel = number(id).map(Channel::Main);
                self.begin(None, SyncKind::Full);
                (Expected::Stream(0), Stage::Loading)
            }
            [b"+DUALCHANNELSYNC", ..] => {
                self.observed.syncs().count_full();
                self.apart = true;
                (Expected::Answers, Stage::Waiting)
            }
            _ => return self.lose("an answer to PSYNC"),
        };
        self.expected = expected;
        self.observed.known().stage = stage;
    }

    /// What was asked for is granted.
    fn begin(&mut self, beginning: Option<Beginning>, kind: SyncKind) {
        let mut known = self.observed.known();
        known.sync = Some(kind);
        self.observed.begins();
        known.complaint = None;
        if let Some(beginning) = beginning {
            self.base = Some(beginning.offset);
            known.replid = Some(beginning.replid);
            known.offset = Some(beginning.offset);
        }
    }

    /// The line before the snapshot: its size, or the mark at its end.
    fn header(&mut self, line: &[u8], now: Instant) {
        if let Some(rest) = line.strip_prefix(b"$ENDOFF:") {
            // Valkey: where the main connection's stream begins, and this one's id.
            let words: Vec<&[u8]> = rest.split(|byte| *byte == b' ').collect();
            let [offset, replid, _, id] = words.as_slice() else { return self.lose("an answer to SYNC") };
            let Some(offset) = number(offset) else { return self.lose("an answer to SYNC") };
            self.observed.known().channel = number(id).map(Channel::Snapshot);
            self.begin(Some(Beginning { replid: shown(replid), offset }), SyncKind::Full);
            self.expected = Expected::Header;
            return;
        }
        let size = match line.strip_prefix(b"$") {
            Some(rest) => match rest.strip_prefix(b"EOF:") {
                Some(mark) => match <[u8; MARK]>::try_from(mark) {
                    Ok(mark) => {
                        self.expected = Expected::Until { mark, tail: Vec::with_capacity(2 * MARK) };
                        None
                    }
                    Err(_) => return self.lose("the line before the snapshot"),
                },
                None => match number(rest) {
                    Some(size) => {
                        self.expected = Expected::Bytes(size);
                        Some(size)
                    }
                    None => return self.lose("the line before the snapshot"),
                },
            },
            None => return self.lose("the line before the snapshot"),
        };
        // An answer to SYNC says nothing before.
        if self.observed.known().sync.is_none() {
            self.observed.syncs().count_full();
            self.begin(None, SyncKind::Full);
        }
        self.observed.known().snapshot_begins(size, now);
        if size == Some(0) {
            self.snapshot_ends();
        }
    }

    fn snapshot_ends(&mut self) {
        self.expected = Expected::Stream(0);
        self.observed.known().snapshot_ends();
    }

    /// The master sends bytes of the snapshot or the stream.
    pub fn sent(&mut self, bytes: &[u8], now: Instant) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match &mut self.expected {
                Expected::Bytes(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= count as u64;
                    let over = *left == 0;
                    self.observed.known().snapshot_passed(count as u64, now);
                    rest = &rest[count..];
                    if over {
                        self.snapshot_ends();
                    }
                }
                Expected::Until { mark, tail } => {
                    // Nothing may follow the mark before the replica has acknowledged.
                    tail.extend_from_slice(&rest[rest.len().saturating_sub(MARK)..]);
                    tail.drain(..tail.len().saturating_sub(MARK));
                    let over = tail == mark;
                    self.observed.known().snapshot_passed(rest.len() as u64, now);
                    rest = &[];
                    if over {
                        self.snapshot_ends();
                    }
                }
                Expected::Stream(looked) => {
                    let begun = *looked;
                    let first = &rest[..rest.len().min(COMPRESSED.len() - begun)];
                    if !first.is_empty() {
                        let same = COMPRESSED[begun..].starts_with(first);
                        *looked = if same { begun + first.len() } else { COMPRESSED.len() };
                        if same && *looked == COMPRESSED.len() {
                            return self.lose("a compressed stream");
                        }
                    }
                    self.streamed += rest.len() as u64;
                    self.lag.passed(self.streamed, now);
                    self.begins();
                    let mut known = self.observed.known();
                    known.offset = self.base.map(|base| base.saturating_add(self.streamed));
                    known.behind_since = self.lag.since();
                    rest = &[];
                }
                Expected::Answers | Expected::Header | Expected::Anything => return,
            }
        }
    }

    /// On a main connection: learns where its stream began, once the other has told.
    fn begins(&mut self) {
        if self.base.is_some() {
            return;
        }
        let Some(Channel::Main(id)) = self.observed.channel() else { return };
        if let Some(beginning) = self.observed.syncs().take(id) {
            self.base = Some(beginning.offset);
            let mut known = self.observed.known();
            known.replid = Some(beginning.replid);
            known.offset = Some(beginning.offset.saturating_add(self.streamed));
        }
    }

    /// The master answers with an error.
    fn objects(&mut self, verb: Option<Verb>, line: &[u8]) {
        let words = shown(&line[1..]);
        if matches!(verb, Some(Verb::Psync | Verb::Sync)) {
            self.count_refused();
            self.observed.known().stage = Stage::Handshake;
        }
        let complaint = match verb {
            // What a replica falls back to.
            Some(Verb::Sync) if self.lacks.contains(&Verb::Psync) => return,
            // Redis may repeat what it was sent, the password too.
            Some(Verb::Auth) => {
                let code = words.split(' ').next().unwrap_or_default();
                format!("the master refuses the replica's password ({code})")
            }
            Some(verb) if line.starts_with(b"-NOPERM") => {
                self.lacks.insert(verb);
                let rights: Vec<&str> =
                    self.lacks.iter().map(|verb| verb.right()).filter(|right| !right.is_empty()).collect();
                format!(
                    "the master's user lacks rights: {words}; grant them: ACL SETUSER <user> {} (least: +ping +replconf +psync)",
                    rights.join(" ")
                )
            }
            // A replica with a password only says it now.
            Some(Verb::Ping) => return,
            _ if line.starts_with(b"-NOAUTH") => {
                format!(
                    "the master wants a password: {words}; give it to the gateway at the master's site (`auth` in its [[master]]), or to the replica (masterauth)"
                )
            }
            Some(Verb::Psync | Verb::Sync) => format!("the master refuses the sync: {words}"),
            // An option that an older master does not know; the replica goes on.
            _ => return,
        };
        let mut known = self.observed.known();
        // What the user lacks says more than what comes of it.
        if self.lacks.is_empty() || line.starts_with(b"-NOPERM") {
            known.complaint = Some(complaint);
        }
    }
}

/// What the options of a REPLCONF state; nothing of what could not be shown in a table.
fn introduction(options: &[&[u8]]) -> Vec<Stated> {
    let word = |value: &[u8], most: usize| {
        let good = (1..=most).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
        good.then(|| shown(value))
    };
    let stated = |option: &[&[u8]]| {
        let value = option[1];
        match option[0].to_ascii_lowercase().as_slice() {
            b"listening-port" => port(value).map(Stated::Port),
            b"ip-address" => word(value, 255).map(Stated::Host),
            b"version" => word(value, 32).map(Stated::Version),
            b"capa" => word(value, 32).map(Stated::Capability),
            b"main-ch-client-id" => number(value).map(Channel::Snapshot).map(Stated::Channel),
            b"set-rdb-client-id" => number(value).map(Channel::Main).map(Stated::Channel),
            _ => None,
        }
    };
    options.chunks_exact(2).filter_map(stated).collect()
}
