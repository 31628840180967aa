//! Follows the conversation between one replica and its master, and records what `status` shows of
//! it.
//!
//! The observer changes nothing. During the handshake it is shown whole commands and whole lines;
//! from the snapshot on it counts bytes. If it meets something that it does not know, it sets the
//! stage to "unknown" and stops looking. The bytes flow on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::lag::Lag;
use super::replconf::{number, port};
use super::replication::{Channel, Observed, Stage, SyncKind};
use super::syncs::Beginning;
use crate::escape::shown;
use crate::tap::Position;

/// Most commands that may wait for their replies.
const MAX_UNANSWERED: usize = 256;

/// Most capabilities that are recorded.
const MAX_CAPABILITIES: usize = 32;

/// Length of the mark that ends a snapshot whose size the master does not know beforehand.
const MARK: usize = 40;

/// First bytes of a compressed stream. A plain stream begins with a command instead.
const COMPRESSED: &[u8] = b"VCS";

/// Number of first bytes that tell whether a stream is compressed.
const COMPRESSION_KNOWN: usize = COMPRESSED.len();

/// Commands, each of which gets one line as its reply.
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

/// Something that a replica states about itself in REPLCONF.
#[derive(Debug)]
enum Stated {
    Port(u16),
    Host(String),
    Version(String),
    Capability(String),
    Channel(Channel),
}

/// What the master sends next.
#[derive(Debug)]
enum Expected {
    /// Reply lines to commands.
    Answers,
    /// The line that precedes the snapshot.
    Header,
    /// This many more bytes of the snapshot.
    Bytes(u64),
    /// Bytes of the snapshot up to a mark; `tail` holds the last bytes that have passed.
    Until { mark: [u8; MARK], tail: Vec<u8> },
    /// The stream, and how many of its first bytes were compared with [`COMPRESSED`].
    Stream(usize),
    /// Not known: the observer has stopped looking.
    Anything,
}

/// The observer of one link.
#[derive(Debug)]
pub struct Observer {
    observed: Arc<Observed>,
    expected: Expected,
    /// Commands without a reply so far, each with what the replica states about itself in it. That
    /// is recorded once the master has accepted the command.
    unanswered: VecDeque<(Verb, Vec<Stated>)>,
    /// The replication id and the offset from which the replica asked to continue.
    asked: Option<(String, u64)>,
    /// The master's offset before the first byte of the stream, once it is known.
    base: Option<u64>,
    /// Bytes of the stream that have passed.
    streamed: u64,
    /// How many of them the replica has acknowledged.
    acknowledged: u64,
    lag: Lag,
    /// Valkey has announced that the snapshot comes over another connection.
    apart: bool,
    /// Commands that the master's user may not use.
    lacks: BTreeSet<Verb>,
    /// A refused sync was counted. If the replica then falls back to SYNC, that is not counted as
    /// another one.
    refused: bool,
}

impl Observer {
    /// Observes a new connection and records what it finds in `observed`.
    pub fn new(observed: Arc<Observed>) -> Self {
        Self {
            observed,
            expected: Expected::Answers,
            unanswered: VecDeque::new(),
            asked: None,
            base: None,
            streamed: 0,
            acknowledged: 0,
            lag: Lag::default(),
            apart: false,
            lacks: BTreeSet::new(),
            refused: false,
        }
    }

    /// Whether the master sends lines now, which must be shown whole to [`Observer::answered`].
    /// Otherwise its bytes go to [`Observer::sent`].
    pub fn reads_lines(&self) -> bool {
        matches!(self.expected, Expected::Answers | Expected::Header)
    }

    /// Whether the observer has stopped looking.
    pub fn is_lost(&self) -> bool {
        matches!(self.expected, Expected::Anything)
    }

    /// Whether the stream passes now, uncompressed.
    pub fn is_streaming(&self) -> bool {
        matches!(self.expected, Expected::Stream(_))
    }

    /// How many of the last bytes that have passed the replica may lack: none before the stream, and
    /// `None` where it is not known.
    pub fn unacknowledged(&self) -> Option<u64> {
        (self.is_streaming() && self.base.is_some()).then(|| self.streamed - self.acknowledged)
    }

    /// Where the stream stands, once the replica follows it.
    pub fn position(&self) -> Option<Position> {
        // The first bytes may still be those of a compressed stream.
        let (Expected::Stream(0 | COMPRESSION_KNOWN), Some(base)) = (&self.expected, self.base) else {
            return None;
        };
        let known = self.observed.known();
        let history = known.replid.clone().filter(|_| known.stage == Stage::Streaming)?;
        let next = base.checked_add(self.streamed)?.checked_add(1)?;
        Some(Position { history, next, passed: self.streamed })
    }

    /// Whether a snapshot passes now.
    pub fn is_in_snapshot(&self) -> bool {
        matches!(self.expected, Expected::Bytes(_) | Expected::Until { .. })
    }

    /// Stops looking, because what passes is not known; `why` ends the sentence "not known: …".
    pub fn lose(&mut self, why: &'static str) {
        self.lose_replica(why);
        self.observed.begins();
    }

    /// As [`Observer::lose`], for what is sent before a sync is granted. Most likely the client is
    /// not a replica, and it is refused.
    pub fn lose_replica(&mut self, why: &'static str) {
        self.expected = Expected::Anything;
        let mut known = self.observed.known();
        known.stage = Stage::Unknown;
        known.unknown = Some(why);
        (known.offset, known.behind_since) = (None, None);
    }

    /// Records that the gateway refuses a command; `sync` says whether the command asks for a sync.
    pub fn refused(&mut self, reason: &str, sync: bool) {
        if sync {
            self.count_refused();
        }
        // An earlier error from the master matters more.
        self.observed.known().complaint.get_or_insert_with(|| reason.to_owned());
    }

    fn count_refused(&mut self) {
        if !std::mem::replace(&mut self.refused, true) {
            self.observed.syncs().count_refused();
        }
    }

    /// Takes a whole command from the replica.
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

    /// Takes an acknowledgement: the replica has applied everything up to this offset.
    fn acknowledged(&mut self, offset: &[u8], now: Instant) {
        match self.expected {
            Expected::Stream(_) => {}
            // Replicas send acknowledgements only after the whole snapshot.
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
            self.acknowledged = self.acknowledged.max(offset.saturating_sub(base));
            self.lag.acknowledged(self.acknowledged);
        }
        let mut known = self.observed.known();
        known.stage = Stage::Streaming;
        known.acknowledged = Some((offset, now));
        known.behind_since = self.lag.since();
    }

    /// Takes a whole line from the master, without its end.
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

    /// Records what the replica has stated about itself, now that the master has accepted it.
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

    /// Takes the reply to PSYNC.
    fn synced(&mut self, line: &[u8]) {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let (expected, stage) = match words.as_slice() {
            [b"+FULLRESYNC", replid, offset] => {
                let Some(offset) = number(offset) else { return self.lose("an answer to PSYNC") };
                let beginning = Beginning { replid: shown(replid), offset };
                self.cannot_continue(&beginning);
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
                // On Valkey's main connection, +CONTINUE follows a snapshot that came over another
                // connection.
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
                let id = number(id);
                // What is stored for this id is of an earlier connection that had it.
                if let Some(id) = id {
                    self.observed.syncs().take(id);
                }
                self.observed.known().channel = id.map(Channel::Main);
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

    /// Records what the replica had, if it asked to continue and cannot.
    fn cannot_continue(&mut self, beginning: &Beginning) {
        // Who was nobody's replica asks for the first byte of a history of its own.
        let Some((history, next)) = self.asked.take().filter(|(_, next)| *next > 1) else { return };
        let short = |id: &str| id.chars().take(8).collect::<String>();
        self.observed.known().full_because = Some(format!(
            "it has the history {} up to offset {}, and the master is at offset {} of {}",
            short(&history),
            next - 1,
            beginning.offset,
            short(&beginning.replid)
        ));
    }

    /// Records that the master has granted the sync.
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

    /// Takes the line before the snapshot. It holds the snapshot's size, or the mark at its end.
    fn header(&mut self, line: &[u8], now: Instant) {
        if let Some(rest) = line.strip_prefix(b"$ENDOFF:") {
            // Valkey's line says where the main connection's stream begins, and this connection's
            // client id.
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
        // SYNC has no other reply than this line, so the sync is counted here.
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

    /// Takes bytes of the snapshot or the stream from the master.
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
                    // The master sends nothing after the mark until the replica has acknowledged.
                    // So it is enough to compare the last bytes that have come so far.
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

    /// On a main connection: takes the offset at which the stream began, once the snapshot's
    /// connection has stored it.
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

    /// Takes an error reply from the master.
    fn objects(&mut self, verb: Option<Verb>, line: &[u8]) {
        let words = shown(&line[1..]);
        if matches!(verb, Some(Verb::Psync | Verb::Sync)) {
            self.count_refused();
            self.observed.known().stage = Stage::Handshake;
        }
        let complaint = match verb {
            // The replica falls back to SYNC; the missing right for PSYNC was recorded already.
            Some(Verb::Sync) if self.lacks.contains(&Verb::Psync) => return,
            // Redis may repeat what it was sent, including the password, so only the error code is
            // shown.
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
            // A replica that has a password sends it after this error.
            Some(Verb::Ping) => return,
            _ if line.starts_with(b"-NOAUTH") => {
                format!(
                    "the master wants a password: {words}; give it to the gateway at the master's site (`auth` in its [[master]]), or to the replica (masterauth)"
                )
            }
            Some(Verb::Psync | Verb::Sync) => format!("the master refuses the sync: {words}"),
            // An older master does not know an option; the replica continues without it.
            _ => return,
        };
        let mut known = self.observed.known();
        // A missing right is the cause; a later error is only its consequence.
        if self.lacks.is_empty() || line.starts_with(b"-NOPERM") {
            known.complaint = Some(complaint);
        }
    }
}

/// What the options of a REPLCONF state. Values that could not be shown in a table are left out.
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
