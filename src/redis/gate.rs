//! The allow-list at the master's site: only replication reaches the master.
//!
//! The gate follows the handshake of a replica as Redis 2.8–8, Valkey, KeyDB and Dragonfly send it.
//! Whole, known commands go on; anything else ends the link. Before the sync the replica gets an
//! error reply, in its order among the other replies. After the sync it gets none, since a reply
//! would corrupt the stream. The gate fails closed: what it cannot read never passes.
//!
//! If the gateway has authenticated itself to the master, the gate answers a replica's AUTH and
//! does not pass it on. The gateway also decides under which address the master lists the replica
//! ([`listing`](super::listing)).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::{self, Parsed};
use super::full_syncs::{FullSyncs, Taken};
use super::grants::{Grants, Member};
use super::guesses::{Guess, Guesses};
use super::judged::Judged;
use super::listing::{Listed, Listing};
use super::openings::Opening;
use super::pace::{self, Pace};
use super::replconf::{self, Fault, integer, is, is_ack, number, value};
use super::reply;
use super::returning::Predecessors;
use crate::buffer::Chunk;
use crate::escape::shown;
use crate::tap::{OPENING, Overdue, Recall, Verdict};

/// Most AUTH commands on one connection.
const MAX_PASSWORDS: usize = 16;

/// Most commands in a handshake. Every known kind of replica sends about a dozen.
const MAX_COMMANDS: usize = 64;

/// Bytes of empty lines that reach the master before a sync is asked for.
const MAX_EMPTY: usize = 1024;

/// What one `[[master]]` allows beyond plain replication, and what its links of one site share.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The gateway has authenticated itself to the master. The replica need not, and its AUTH is
    /// answered here.
    pub authenticated: bool,
    /// `PSYNC … FAILOVER` may pass.
    pub failover: bool,
    /// Clients may ask for a snapshot without becoming replicas.
    pub dump: bool,
    /// `CLUSTER SYNCSLOTS` may pass.
    pub slot_migration: bool,
    /// This link's token among those of its site; `None` if links are not bounded.
    pub opening: Option<Arc<Opening>>,
    /// The bound on this site's full syncs.
    pub full_syncs: Option<Arc<FullSyncs>>,
    /// The grants for two-connection syncs of this site.
    pub grants: Arc<Grants>,
    /// The passwords that this site has tried.
    pub guesses: Arc<Guesses>,
    /// The bound on what the site sends without getting a reply.
    pub pace: Arc<Pace>,
    /// The address under which the master lists the site's replicas.
    pub listing: Listing,
}

/// The state of the replica's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The replica sends commands and gets one-line replies.
    Handshake,
    /// PSYNC was sent; its reply is awaited.
    AskedPsync,
    /// SYNC was sent; its reply is awaited.
    AskedSync,
    /// The reply to PSYNC or SYNC has come. A snapshot or the stream follows; there are no more
    /// replies.
    Syncing,
    /// A slot migration was asked for; its reply is awaited.
    AskedSlots,
    /// Slots are being migrated.
    Slots,
}

/// Who answers a command, and who gets the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The master answers the replica.
    Master,
    /// This gateway answers the replica with `+OK`, in its order among the master's replies.
    Us,
    /// The master answers this gateway, which has sent the command itself.
    MasterToUs,
}

/// A command without a reply so far.
#[derive(Debug)]
struct Awaited {
    by: By,
    /// It has the option `rdb-only`: a snapshot without the stream.
    snapshot: bool,
    /// The password in it, if it is an AUTH that went to the master.
    guess: Option<Guess>,
}

impl Awaited {
    fn by(by: By) -> Self {
        Self { by, snapshot: false, guess: None }
    }
}

/// The allow-list of one link.
#[derive(Debug)]
pub struct Gate {
    site: String,
    rules: Rules,
    phase: Phase,
    /// Commands whose reply has not passed yet.
    unanswered: VecDeque<Awaited>,
    /// Commands in the handshake so far.
    commands: usize,
    /// AUTH commands among them.
    passwords: usize,
    /// Bytes of empty lines before a sync was asked for.
    empty: usize,
    listed: Listed,
    /// The stream that the master must have; `None` if any will do.
    judged: Option<Judged>,
    /// The id that the last PSYNC has asked for, once there was one.
    asked: Option<Vec<u8>>,
    /// Earlier links of the same replica, and whether the sync waits for their end.
    predecessors: Option<Box<dyn Predecessors>>,
    waits: bool,
    /// What the replica gets from an earlier link, once the master continues after it.
    recall: Option<Recall>,
    /// A capability of the replica may change how the master writes its stream.
    special: bool,
    /// The master may treat this connection as one that only dumps its data.
    dump: bool,
    /// The master does not know PSYNC, or its user may not use it: the replica may fall back to
    /// SYNC.
    may_sync: bool,
    /// This link's part in two-connection syncs.
    member: Member,
    /// This is the second connection of a sync: it carries the snapshot for another one.
    paired: bool,
    /// Its place in the bound on full syncs.
    place: Option<Taken>,
    /// The snapshot comes over another connection (Valkey), and the replica sends PSYNC again on
    /// this one.
    apart: bool,
    /// The replica has named that other connection (`set-rdb-client-id`).
    joined: bool,
    /// If set, the link ends once every command has its reply.
    refusal: Option<Refusal>,
}

/// How the link ends after the last outstanding reply.
#[derive(Debug)]
struct Refusal {
    reply: Vec<u8>,
    reason: String,
    breach: bool,
}

impl Gate {
    /// A gate for a new connection; `site` is this gateway's name, for replies.
    pub fn new(site: &str, rules: Rules) -> Self {
        let member = rules.grants.member();
        Self {
            site: site.to_owned(),
            listed: Listed::new(rules.listing.clone()),
            judged: None,
            asked: None,
            predecessors: None,
            waits: false,
            recall: None,
            rules,
            phase: Phase::Handshake,
            unanswered: VecDeque::new(),
            commands: 0,
            passwords: 0,
            empty: 0,
            special: false,
            dump: false,
            may_sync: false,
            member,
            paired: false,
            place: None,
            apart: false,
            joined: false,
            refusal: None,
        }
    }

    /// Nothing passes of a master whose stream is another one than was judged.
    pub fn only(mut self, judged: Judged) -> Self {
        self.judged = Some(judged);
        self
    }

    /// A sync that is asked for waits until these earlier links of the same replica have ended.
    pub fn after(mut self, predecessors: Box<dyn Predecessors>) -> Self {
        self.predecessors = Some(predecessors);
        self
    }

    /// Whether the replica, if it comes again over another link, finds this one.
    pub fn is_found_again(&self) -> bool {
        self.predecessors.is_some() && self.listed.port().is_some() && !self.paired
    }

    /// Whether the master was asked to continue later than the replica has asked.
    pub fn asked_for_later(&self) -> bool {
        self.recall.is_some() && self.phase == Phase::AskedPsync
    }

    /// Number of bytes that the replica gets now, before any more of the master's.
    pub fn to_recall(&self) -> u64 {
        self.recall.as_ref().filter(|_| self.is_open()).map_or(0, Recall::left)
    }

    /// The next of these bytes, at most `most` of them.
    pub fn take_recalled(&mut self, most: usize) -> Option<Chunk> {
        let taken = self.recall.as_mut().filter(|_| self.phase == Phase::Syncing)?.take(most);
        self.recall.take_if(|recall| recall.left() == 0);
        taken
    }

    /// Whether a sync or a slot migration has begun: from then on the gate does not read the
    /// master's bytes.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Syncing | Phase::Slots)
    }

    /// Whether this connection migrates slots instead of replicating.
    pub fn migrates_slots(&self) -> bool {
        self.phase == Phase::Slots
    }

    /// Whether the replica is late in asking for a sync. Called when [`OPENING`] is over.
    pub fn overdue(&self) -> Overdue {
        let opening = self.rules.opening.as_ref();
        let evicted = opening.is_some_and(|opening| opening.is_evicted() && !opening.has_asked());
        match self.phase {
            Phase::Handshake if evicted && !self.waits => {
                let reason =
                    "it asked for no sync, and its site had reached its limit of links (links_per_site)";
                Overdue::Now { reply: reply::error(&self.site, reason), reason: reason.to_owned() }
            }
            Phase::Syncing | Phase::Slots => Overdue::Never,
            // The master may take its time, for example to fork.
            Phase::AskedPsync | Phase::AskedSync | Phase::AskedSlots => Overdue::NotYet,
            // The snapshot's connection may take some time, too.
            Phase::Handshake if self.apart && !self.joined => Overdue::NotYet,
            // The replica has asked, and the gateway still waits for the reply to its own command, or for
            // the end of an earlier link.
            Phase::Handshake if self.asks_itself() || self.waits => Overdue::NotYet,
            Phase::Handshake => {
                let reason = format!("no sync was asked for within {} s", OPENING.as_secs());
                Overdue::Now { reply: reply::error(&self.site, &reason), reason }
            }
        }
    }

    /// Judges what the replica sends.
    pub fn replica_says(&mut self, parsed: &Parsed<'_>, now: Instant) -> Verdict {
        if self.refusal.is_some() {
            return Verdict::Hold;
        }
        let (length, arguments) = match parsed {
            Parsed::Newline(length) => return self.empty_lines(*length, now),
            Parsed::Incomplete => return Verdict::Hold,
            Parsed::Malformed(what) => return self.refuse((*what).to_owned()),
            Parsed::Command { length, arguments } => (*length, arguments.as_slice()),
        };
        let name = arguments[0].to_ascii_uppercase();
        let options = &arguments[1..];
        if name == b"REPLCONF" && is_ack(options) {
            return match self.phase {
                Phase::Syncing | Phase::Slots => self.paced(1, now).unwrap_or(Verdict::Pass(length)),
                // Before a sync an acknowledgement means nothing. A master may answer it with an
                // error, which would be taken for the reply to another command.
                _ => Verdict::Replace(length, Vec::new()),
            };
        }
        let slots = self.rules.slot_migration && name == b"CLUSTER" && is(options.first(), "syncslots");
        if slots && !options.iter().all(|word| replconf::is_word(word, 128)) {
            return self
                .refuse(format!("the command {} with an argument that no replica sends", named(arguments)));
        }
        if self.phase == Phase::Slots && slots {
            return self.paced(1, now).unwrap_or(Verdict::Pass(length));
        }
        if self.phase != Phase::Handshake {
            return self.refuse(format!("the command {} after the sync was asked for", named(arguments)));
        }
        if name == b"QUIT" && self.unanswered.is_empty() {
            // A health check sends QUIT. That is no breach, and the master need not see it.
            let reason = "the client left without asking for a sync (QUIT)".to_owned();
            return Verdict::Stop { pass: 0, reply: reply::OK.to_vec(), reason, breach: false };
        }
        let asks = command::asks_for_a_sync(arguments);
        if asks && self.asks_itself() {
            return Verdict::Hold;
        }
        // Real replicas ask for a sync only after their last reply has come.
        if asks && !self.unanswered.is_empty() {
            return self
                .refuse(format!("the command {} before the replies to earlier ones", named(arguments)));
        }
        if asks && self.dump && !self.rules.dump {
            return self.refuse("a sync that would only dump the data (allow_dump)".to_owned());
        }
        let next = match name.as_slice() {
            b"PING" | b"REPLPING" => options.is_empty().then_some(Phase::Handshake),
            b"AUTH" => match options {
                [_] => Some(Phase::Handshake),
                [user, _] => replconf::is_user(user).then_some(Phase::Handshake),
                _ => None,
            },
            b"REPLCONF" => match replconf::judge(options) {
                Err(Fault::Unknown) => None,
                Err(Fault::Value(option)) => {
                    return self
                        .refuse(format!("REPLCONF {} with a value that no replica sends", cut(option)));
                }
                Ok(()) => match self.second_step(options) {
                    Ok(()) => Some(Phase::Handshake),
                    Err(why) => return self.refuse(format!("the command {}, {why}", named(arguments))),
                },
            },
            b"PSYNC" if is(options.get(2), "failover") && !self.rules.failover => {
                return self.refuse(
                    "PSYNC with FAILOVER, which would promote a second master (allow_failover)".to_owned(),
                );
            }
            b"PSYNC" if self.apart && !self.joined => {
                return self.refuse("PSYNC before the snapshot's connection was named".to_owned());
            }
            b"PSYNC" => is_psync(options).then_some(Phase::AskedPsync),
            b"SYNC" => {
                // Its answer names no stream. Replicas fall back to it after a PSYNC; a dump begins with it.
                if self.judged.is_some() && self.asked.is_some() && !self.paired {
                    return self.refuse(
                        "the command SYNC, whose answer does not tell which stream of writes the master has"
                            .to_owned(),
                    );
                }
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
            return self.refuse(format!("the command {} is not part of replication", named(arguments)));
        };
        // The second connection of a sync does not mean that the replica has come again.
        let port = self.listed.port();
        self.waits = asks
            && !self.paired
            && self.predecessors.as_mut().is_some_and(|predecessors| !predecessors.have_left(port));
        if self.waits {
            return Verdict::Hold;
        }
        // This comes after the end of earlier links: once a master has answered, it has also let go of a
        // connection that was closed before.
        if asks && !self.listed.is_taken() {
            self.unanswered.push_back(Awaited::by(By::MasterToUs));
            return Verdict::Insert(self.listed.own());
        }
        if (asks || next == Phase::AskedSlots)
            && let Some(opening) = &self.rules.opening
            && let Err(wait) = opening.asks(now)
        {
            let reason = "too many syncs of this site within a minute (new_links_per_minute)";
            return self.ask_again(reason, wait);
        }
        if asks && let Some(wait) = self.must_wait(now) {
            return wait;
        }
        // The requests of a slot migration may repeat, so they are not counted.
        self.commands += usize::from(!slots);
        if self.commands.max(self.unanswered.len() + 1) > MAX_COMMANDS {
            return self.refuse("more commands than a handshake has".to_owned());
        }
        if name == b"AUTH" {
            return self.password(length, options, now);
        }
        self.phase = next;
        if next == Phase::AskedPsync {
            self.asked = options.first().map(|id| id.to_vec());
        }
        let rewritten = match name.as_slice() {
            b"REPLCONF" => {
                self.special |= !replconf::is_plain(options);
                self.listed.rewritten(options)
            }
            b"PSYNC" | b"SYNC" => self.continued(options),
            _ => None,
        };
        if matches!(next, Phase::Handshake | Phase::AskedSlots) {
            let snapshot = value(options, "rdb-only").is_some();
            self.unanswered.push_back(Awaited { snapshot, ..Awaited::by(By::Master) });
        }
        match rewritten {
            Some(command) => Verdict::Replace(length, command),
            None => Verdict::Pass(length),
        }
    }

    /// The PSYNC that goes to the master in place of the replica's, if an earlier link has what comes
    /// before it.
    fn continued(&mut self, options: &[&[u8]]) -> Option<Vec<u8>> {
        self.recall = None;
        // The main connection of a sync over two connections continues after the snapshot, not after
        // what the replica had before. With a third option it is more than a request to continue.
        let asked = match options {
            [history, from] => number(from).map(|from| (*history, from)),
            _ => None,
        };
        let may = !(self.paired || self.apart || self.joined || self.dump || self.special);
        let recall = self.predecessors.as_mut()?.recall(asked.filter(|_| may))?;
        let next = recall.next().to_string();
        let (history, _) = asked.filter(|_| recall.left() > 0)?;
        self.recall = Some(recall);
        Some(command::encode(&[&b"PSYNC"[..], history, next.as_bytes()]))
    }

    /// Whether the gateway waits for the reply to a command of its own.
    fn asks_itself(&self) -> bool {
        self.unanswered.iter().any(|awaited| awaited.by == By::MasterToUs)
    }

    /// Judges an AUTH. If the gateway has authenticated itself, it answers here; otherwise the
    /// password goes to the master, if the site's limit on guesses allows it now.
    fn password(&mut self, length: usize, words: &[&[u8]], now: Instant) -> Verdict {
        self.passwords += 1;
        if self.passwords > MAX_PASSWORDS {
            return self.refuse("more passwords than a handshake has".to_owned());
        }
        if self.rules.authenticated {
            if self.unanswered.is_empty() {
                return Verdict::Answer(length, reply::OK.to_vec());
            }
            self.unanswered.push_back(Awaited::by(By::Us));
            return Verdict::Replace(length, Vec::new());
        }
        if self.unanswered.iter().any(|awaited| awaited.guess.is_some()) {
            return self.refuse("a password before the answer to an earlier one".to_owned());
        }
        match self.rules.guesses.attempt(words, now) {
            Ok(guess) => {
                self.unanswered.push_back(Awaited { guess: Some(guess), ..Awaited::by(By::Master) });
                Verdict::Pass(length)
            }
            Err(wait) => {
                let reason = format!(
                    "too many wrong passwords of this site (masterauth of its replicas); ask again in {} s",
                    wait.as_secs() + 1
                );
                self.decline(reason)
            }
        }
    }

    /// Replicas send empty lines as signs of life while they load a snapshot. Before a sync they
    /// mean nothing, and only [`MAX_EMPTY`] bytes of them pass.
    fn empty_lines(&mut self, length: usize, now: Instant) -> Verdict {
        if self.phase != Phase::Handshake || self.apart {
            return self.paced(length, now).unwrap_or(Verdict::Pass(length));
        }
        match MAX_EMPTY.saturating_sub(self.empty).min(length) {
            0 => Verdict::Replace(length, Vec::new()),
            some => {
                self.empty += some;
                Verdict::Pass(some)
            }
        }
    }

    /// Counts what the master gets and does not answer. Ends the link if it is too much for the
    /// site.
    fn paced(&mut self, count: usize, now: Instant) -> Option<Verdict> {
        let over = !self.rules.pace.takes(count, now);
        over.then(|| {
            self.refuse(format!("more than {} acknowledgements of this site within a second", pace::MOST))
        })
    }

    /// Takes a place for what may become a full sync. If there is none, the link ends with a reply
    /// that makes the replica ask again later.
    fn must_wait(&mut self, now: Instant) -> Option<Verdict> {
        let full_syncs = self.rules.full_syncs.as_ref()?;
        // The two connections of one sync share one place.
        if self.place.is_some() || self.paired {
            return None;
        }
        let wait = match full_syncs.take(now) {
            Ok(place) => {
                self.place = Some(place);
                return None;
            }
            Err(wait) => wait,
        };
        let reason = "too many full syncs of this site within a minute (full_syncs_per_minute)";
        Some(self.ask_again(reason, wait))
    }

    /// Ends the link with a reply that makes the replica ask for its sync again later.
    fn ask_again(&self, reason: &str, wait: Duration) -> Verdict {
        let reason = format!("{reason}; ask again in {} s", wait.as_secs() + 1);
        let reply = reply::loading(&self.site, &reason);
        Verdict::Stop { pass: 0, reply, reason, breach: false }
    }

    /// Judges the options of syncs over two connections, and those that ask for a dump. They make
    /// this connection the second one of a sync, or let the main one go on after the snapshot;
    /// either uses up a grant.
    fn second_step(&mut self, options: &[&[u8]]) -> Result<(), &'static str> {
        const DUMP: &str = "which would only dump the data (allow_dump)";
        const NOT_OURS: &str = "which belongs to no sync that this site has begun";
        let filtered = value(options, "rdb-filter-only").is_some();
        let snapshot = ["rdb-only", "rdb-channel"].map(|name| value(options, name));
        let asks = filtered || snapshot.iter().any(Option::is_some);
        let second = matches!(snapshot, [Some(b"1"), Some(b"1")]) && !filtered;
        let main = value(options, "main-ch-client-id");
        if let Some(id) = value(options, "set-rdb-client-id") {
            // It must come without the other options of this kind.
            let alone = self.apart && !asks && main.is_none();
            let granted = alone && number(id).is_some_and(|id| self.member.may_go_on(id));
            self.joined |= granted;
            return if granted { Ok(()) } else { Err(NOT_OURS) };
        }
        if let Some(id) = main.filter(|_| second)
            && number(id).is_some_and(|id| self.member.may_bring(Some(id)))
        {
            self.paired = true;
            return Ok(());
        }
        if main.is_some() {
            return Err(NOT_OURS);
        }
        if second && self.member.may_bring(None) {
            self.paired = true;
            return Ok(());
        }
        if asks && !self.rules.dump { Err(DUMP) } else { Ok(()) }
    }

    /// Ends the link without a breach: the replica may try again later.
    fn decline(&mut self, reason: String) -> Verdict {
        let reply = reply::error(&self.site, &reason);
        if self.unanswered.is_empty() {
            return Verdict::Stop { pass: 0, reply, reason, breach: false };
        }
        self.refusal = Some(Refusal { reply, reason, breach: false });
        Verdict::Hold
    }

    /// Ends the link because of a breach: at once if every command has its reply, otherwise after
    /// the last outstanding reply.
    fn refuse(&mut self, reason: String) -> Verdict {
        let reason = format!("{reason}; refused");
        if self.phase != Phase::Handshake {
            return Verdict::Stop { pass: 0, reply: Vec::new(), reason, breach: true };
        }
        let reply = reply::error(&self.site, &reason);
        if self.unanswered.is_empty() {
            return Verdict::Stop { pass: 0, reply, reason, breach: true };
        }
        self.refusal = Some(Refusal { reply, reason, breach: true });
        Verdict::Hold
    }

    /// The error reply for a replica whose master does not answer, with this reason.
    pub fn last_words(&self, reason: &str) -> Vec<u8> {
        reply::error(&self.site, reason)
    }

    /// Ends the link, because the master sent something that is not a reply line.
    pub fn master_raves(&self) -> Verdict {
        let reason = "the master answered with a line that is not a reply".to_owned();
        Verdict::Stop { pass: 0, reply: Vec::new(), reason, breach: false }
    }

    /// Ends the link if this line, without its end, begins another stream than was judged. The replica asks
    /// again over a new link, which is judged anew.
    pub fn begins_another_stream(&mut self, line: &[u8]) -> Option<Verdict> {
        let judged = self.judged.as_ref()?;
        let is_it = match self.phase {
            Phase::AskedPsync => judged.is_stream_of(line, self.asked.as_deref().unwrap_or_default()),
            Phase::AskedSync if self.paired => judged.is_snapshot_of(line),
            _ => true,
        };
        (!is_it).then(|| {
            self.recall = None;
            if !line.starts_with(b"+FULLRESYNC") {
                self.give_back();
            }
            let reason =
                "the master's stream of writes is another one than was judged; it will be judged anew";
            self.ask_again(reason, Duration::ZERO)
        })
    }

    /// Takes a whole line from the master: `line` is without its end, `whole` with it. Must not be
    /// called once the gate [is open](Self::is_open).
    pub fn master_says(&mut self, line: &[u8], whole: &[u8]) -> Verdict {
        let length = whole.len();
        if self.asked_for_later() && !continues(line, self.recall.as_ref().map(Recall::history)) {
            self.recall = None;
            if line.starts_with(b"+CONTINUE") {
                // The bytes in between are of another history than the master now states.
                let reason = "the master has continued another history; it will be asked again";
                self.give_back();
                return self.ask_again(reason, Duration::ZERO);
            }
        }
        match self.phase {
            Phase::AskedSync if line.starts_with(b"$") => {
                // Valkey's line holds the offset, the replication id, the database and this
                // connection's client id.
                if let (true, Some(rest)) = (self.paired, line.strip_prefix(b"$ENDOFF:"))
                    && let Some(id) = last_number(rest)
                {
                    self.member.brings(id);
                }
                self.synced(length)
            }
            Phase::AskedPsync
                if line.starts_with(b"+FULLRESYNC")
                    || line.starts_with(b"+CONTINUE")
                    || line.starts_with(b"+RDBCHANNELSYNC") =>
            {
                if line.starts_with(b"+CONTINUE") && !self.apart {
                    self.give_back();
                }
                if let Some(rest) = line.strip_prefix(b"+RDBCHANNELSYNC")
                    && let Some(id) = last_number(rest)
                {
                    self.member.has_id(id);
                }
                self.synced(length)
            }
            // Valkey: the replica sends PSYNC again on this connection once the snapshot's
            // connection is set up.
            Phase::AskedPsync if line.starts_with(b"+DUALCHANNELSYNC") && !self.apart => {
                self.member.awaits();
                self.apart = true;
                self.phase = Phase::Handshake;
                Verdict::Pass(length)
            }
            Phase::AskedPsync | Phase::AskedSync if line.starts_with(b"-") => {
                self.give_back();
                let unknown = [&b"-ERR unknown command"[..], b"-NOPERM", b"-NOAUTH"];
                self.may_sync |= unknown.iter().any(|words| line.starts_with(words));
                self.phase = Phase::Handshake;
                Verdict::Pass(length)
            }
            // The reply is not known: its bytes go on, nothing is armed, and from here the replica
            // may only acknowledge.
            Phase::AskedPsync | Phase::AskedSync | Phase::Syncing | Phase::Slots => {
                self.phase = Phase::Syncing;
                Verdict::Pass(length)
            }
            Phase::Handshake | Phase::AskedSlots => self.answered(line, whole),
        }
    }

    /// Handles the reply to the oldest outstanding command, and adds the gateway's own replies that
    /// come next.
    fn answered(&mut self, line: &[u8], whole: &[u8]) -> Verdict {
        let Some(Awaited { by, snapshot, guess }) = self.unanswered.pop_front() else {
            // A reply without a command: from here on replies could not be matched to commands. The
            // line may still reach the replica, since a master with too many clients says so in
            // this way.
            return self.unexpected(whole.len());
        };
        if !matches!(line.first(), Some(b'+' | b'-')) {
            return self.unexpected(0);
        }
        // A master that knows `rdb-only`, but not the option that pairs the connection, has applied
        // `rdb-only` although it answers with an error.
        self.dump |= snapshot && line.starts_with(b"-");
        match guess {
            Some(guess) if line == b"+OK" => guess.right(),
            // The other error says nothing about a password.
            Some(guess) if line.starts_with(b"-") && !is_without_password(line) => guess.wrong(),
            _ => {}
        }
        if by == By::MasterToUs {
            self.listed.answered(line);
            return if self.listed.is_taken() {
                Verdict::Replace(whole.len(), Vec::new())
            } else {
                self.unlisted(line)
            };
        }
        let mut ours = Vec::new();
        while self.unanswered.front().is_some_and(|next| next.by == By::Us) {
            self.unanswered.pop_front();
            ours.extend_from_slice(reply::OK);
        }
        if self.phase == Phase::AskedSlots && self.unanswered.is_empty() {
            // After an error the replica asks again.
            self.phase = if line.starts_with(b"-") { Phase::Handshake } else { Phase::Slots };
        }
        match self.refusal.take_if(|_| self.unanswered.is_empty()) {
            Some(Refusal { reply, reason, breach }) => {
                Verdict::Stop { pass: whole.len(), reply: [ours, reply].concat(), reason, breach }
            }
            None if ours.is_empty() => Verdict::Pass(whole.len()),
            None => Verdict::Replace(whole.len(), [whole, &ours].concat()),
        }
    }

    /// Ends the link, because the master sent a reply that belongs to no command.
    fn unexpected(&self, pass: usize) -> Verdict {
        let reason = "the master sent a reply that belongs to no command".to_owned();
        Verdict::Stop { pass, reply: Vec::new(), reason, breach: false }
    }

    /// Ends the link, because the master would list the replica by another address.
    fn unlisted(&self, line: &[u8]) -> Verdict {
        let next = if line.starts_with(b"-NOAUTH") {
            "it wants a password: `auth` in its [[master]], or masterauth of the replica".to_owned()
        } else if line.starts_with(b"-NOPERM") {
            "its user lacks rights: ACL SETUSER <user> +replconf".to_owned()
        } else {
            // This line answers the gateway's own command, so it holds no secret.
            format!("it answers {}", cut(line))
        };
        let reason = format!("the master does not accept the name of this site's replicas; {next}");
        Verdict::Stop { pass: 0, reply: reply::error(&self.site, &reason), reason, breach: false }
    }

    fn synced(&mut self, length: usize) -> Verdict {
        self.phase = Phase::Syncing;
        Verdict::PassAndArm(length)
    }

    fn give_back(&mut self) {
        if let (Some(full_syncs), Some(place)) = (&self.rules.full_syncs, self.place.take()) {
            full_syncs.give_back(&place);
        }
    }
}

/// Whether a master continues this history: with or without naming it.
fn continues(line: &[u8], history: Option<&str>) -> bool {
    match line.strip_prefix(b"+CONTINUE") {
        Some(rest) => rest.is_empty() || rest.strip_prefix(b" ") == history.map(str::as_bytes),
        None => false,
    }
}

/// Whether a master says that it has no password: then none is wrong.
fn is_without_password(line: &[u8]) -> bool {
    const WORDS: &[u8] = b"without any password configured";
    line.windows(WORDS.len()).any(|words| words == WORDS)
}

/// The command's name for a log, with the first argument of REPLCONF and CLUSTER. Other arguments
/// are left out, since they may be a password.
fn named(arguments: &[&[u8]]) -> String {
    let speaks = [&b"REPLCONF"[..], b"CLUSTER"].iter().any(|name| arguments[0].eq_ignore_ascii_case(name));
    match arguments.get(1) {
        Some(option) if speaks => format!("{} {}", cut(arguments[0]), cut(option)),
        _ => cut(arguments[0]),
    }
}

fn cut(word: &[u8]) -> String {
    shown(&word[..word.len().min(80)])
}

fn last_number(line: &[u8]) -> Option<u64> {
    number(line.rsplit(|byte| *byte == b' ').next()?)
}

/// `<replication id or ?> <offset>`, then perhaps `FAILOVER`, which the caller judges.
fn is_psync(options: &[&[u8]]) -> bool {
    let (id, offset) = match options {
        [id, offset] => (id, offset),
        [id, offset, third] if is(Some(third), "failover") => (id, offset),
        _ => return false,
    };
    let id = *id == b"?" || (id.len() == 40 && id.iter().all(u8::is_ascii_alphanumeric));
    // Redis answers an offset that it cannot read with an error, and an error could let SYNC
    // through.
    id && integer(offset).is_some()
}
