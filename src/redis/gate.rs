//! The master side's allow-list: nothing but replication reaches the master.
//!
//! Follows the handshake of a replica as Redis 2.8–8, Valkey, KeyDB and Dragonfly
//! send it. Whole, known commands go on; anything else ends the link: before the sync
//! with an error reply in its order, after it in silence, since a reply there would
//! corrupt the stream. It fails closed: what it cannot read never passes. Where the
//! gateway has authenticated itself, a replica's AUTH goes no further than here. What the
//! master lists of the replica is said here, whatever the replica says ([`listing`](super::listing)).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::{self, Parsed};
use super::full_syncs::{FullSyncs, Taken};
use super::grants::{Grants, Member};
use super::guesses::{Guess, Guesses};
use super::listing::{Listed, Listing};
use super::openings::Opening;
use super::pace::{self, Pace};
use super::replconf::{self, Fault, integer, is, is_ack, number, value};
use super::reply;
use crate::escape::shown;
use crate::tap::{OPENING, Overdue, Verdict};

/// The most passwords of one connection.
const MAX_PASSWORDS: usize = 16;

/// The most commands of a handshake: a replica of any kind has a dozen.
const MAX_COMMANDS: usize = 64;

/// Empty lines that reach the master before a sync is asked for, in bytes.
const MAX_EMPTY: usize = 1024;

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
    /// This link's token among those of its site; nothing where links are not bounded.
    pub opening: Option<Arc<Opening>>,
    /// The bound on this site's full syncs.
    pub full_syncs: Option<Arc<FullSyncs>>,
    /// The syncs over two connections that this site has begun.
    pub grants: Arc<Grants>,
    /// The passwords that this site has tried.
    pub guesses: Arc<Guesses>,
    /// What it says without being answered.
    pub pace: Arc<Pace>,
    /// How the site's replicas are listed.
    pub listing: Listing,
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

/// Who answers a command that has not been answered yet, and who hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The master answers the replica.
    Master,
    /// This gateway answers the replica: `+OK`, in its order.
    Us,
    /// The master answers this gateway, whose command it is.
    MasterToUs,
}

/// A command that has not been answered yet.
#[derive(Debug)]
struct Awaited {
    by: By,
    /// It asks for a snapshot alone.
    snapshot: bool,
    /// It is a password.
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
    /// Commands whose reply line has not passed yet.
    unanswered: VecDeque<Awaited>,
    /// Commands of the handshake so far.
    commands: usize,
    /// Passwords among them.
    passwords: usize,
    /// Bytes of empty lines before a sync was asked for.
    empty: usize,
    listed: Listed,
    /// The master may take this connection for one that dumps its data.
    dump: bool,
    /// PSYNC is nothing that the master knows, or lets its user do: the replica goes back
    /// to SYNC.
    may_sync: bool,
    /// This link's part in syncs over two connections.
    member: Member,
    /// This connection brings the snapshot of a sync that another one has asked for.
    paired: bool,
    /// Its place among the full syncs of its site.
    place: Option<Taken>,
    /// The snapshot comes over another connection, and this one asks once more.
    apart: bool,
    /// That other connection was named.
    joined: bool,
    /// The link ends once everything is answered.
    refusal: Option<Refusal>,
}

/// How a link is to end.
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
            rules,
            phase: Phase::Handshake,
            unanswered: VecDeque::new(),
            commands: 0,
            passwords: 0,
            empty: 0,
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

    /// Whether the master's bytes are for nobody to judge any more.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Syncing | Phase::Slots)
    }

    /// Whether slots are migrated, and nothing is replicated.
    pub fn migrates_slots(&self) -> bool {
        self.phase == Phase::Slots
    }

    /// Whether the replica has asked for a sync in time, or has last words coming.
    pub fn overdue(&self) -> Overdue {
        match self.phase {
            Phase::Syncing | Phase::Slots => Overdue::Never,
            // The master takes its time.
            Phase::AskedPsync | Phase::AskedSync | Phase::AskedSlots => Overdue::NotYet,
            // Its other connection may take some, too.
            Phase::Handshake if self.apart && !self.joined => Overdue::NotYet,
            // It has asked, and the master still owes the gateway an answer.
            Phase::Handshake if self.asks_itself() => Overdue::NotYet,
            Phase::Handshake => {
                let evicted = self.rules.opening.as_ref().is_some_and(|opening| opening.is_evicted());
                let reason = if evicted {
                    "it asked for no sync while its site had all its links (links_per_site)".to_owned()
                } else {
                    format!("no sync was asked for within {} s", OPENING.as_secs())
                };
                Overdue::Now { reply: reply::error(&self.site, &reason), reason }
            }
        }
    }

    /// Judges what the replica says.
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
                // Before a sync it means nothing, and a master may answer it with an error,
                // which would be taken for another's answer.
                _ => Verdict::Replace(length, Vec::new()),
            };
        }
        let slots = self.rules.slot_migration && name == b"CLUSTER" && is(options.first(), "syncslots");
        if slots && !options.iter().all(|word| replconf::is_word(word, 128)) {
            return self.refuse(format!("the command {} with a word that no replica says", named(arguments)));
        }
        if self.phase == Phase::Slots && slots {
            return self.paced(1, now).unwrap_or(Verdict::Pass(length));
        }
        if self.phase != Phase::Handshake {
            return self.refuse(format!("the command {} after the sync was asked for", named(arguments)));
        }
        if name == b"QUIT" && self.unanswered.is_empty() {
            // A health check: no breach, and not for the master.
            let reason = "the client left without asking for a sync (QUIT)".to_owned();
            return Verdict::Stop { pass: 0, reply: reply::OK.to_vec(), reason, breach: false };
        }
        let asks = command::asks_for_a_sync(arguments);
        if asks && self.asks_itself() {
            return Verdict::Hold;
        }
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
            b"AUTH" => match options {
                [_] => Some(Phase::Handshake),
                [user, _] => replconf::is_user(user).then_some(Phase::Handshake),
                _ => None,
            },
            b"REPLCONF" => match replconf::judge(options) {
                Err(Fault::Unknown) => None,
                Err(Fault::Value(option)) => {
                    return self
                        .refuse(format!("REPLCONF {} with a value that no replica states", cut(option)));
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
        // A migration of slots may be asked for again and again.
        self.commands += usize::from(!slots);
        if self.commands.max(self.unanswered.len() + 1) > MAX_COMMANDS {
            return self.refuse("more commands than a handshake has".to_owned());
        }
        if name == b"AUTH" {
            return self.password(length, options, now);
        }
        self.phase = next;
        let rewritten = if name == b"REPLCONF" { self.listed.rewritten(options) } else { None };
        if matches!(next, Phase::Handshake | Phase::AskedSlots) {
            let snapshot = value(options, "rdb-only").is_some();
            self.unanswered.push_back(Awaited { snapshot, ..Awaited::by(By::Master) });
        }
        match rewritten {
            Some(command) => Verdict::Replace(length, command),
            None => Verdict::Pass(length),
        }
    }

    /// Whether the gateway waits for the master's answer to a command of its own.
    fn asks_itself(&self) -> bool {
        self.unanswered.iter().any(|awaited| awaited.by == By::MasterToUs)
    }

    /// Judges a password. Where the gateway has authenticated itself, it is answered here;
    /// else it goes to the master in the site's turn.
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

    /// Empty lines are a replica's signs of life while it loads; before there is a sync
    /// they mean nothing, and few pass.
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

    /// Counts what a master takes without answering; the end of the link where it is too
    /// much for the site.
    fn paced(&mut self, count: usize, now: Instant) -> Option<Verdict> {
        let over = !self.rules.pace.takes(count, now);
        over.then(|| {
            self.refuse(format!("more than {} acknowledgements of this site within a second", pace::MOST))
        })
    }

    /// Takes a place for what may become a full sync; where there is none, the words
    /// that make a replica ask again.
    fn must_wait(&mut self, now: Instant) -> Option<Verdict> {
        let full_syncs = self.rules.full_syncs.as_ref()?;
        // Both connections of a sync have one place together.
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

    /// Ends the link in the words that make a replica ask for its sync again.
    fn ask_again(&self, reason: &str, wait: Duration) -> Verdict {
        let reason = format!("{reason}; ask again in {} s", wait.as_secs() + 1);
        let reply = reply::loading(&self.site, &reason);
        Verdict::Stop { pass: 0, reply, reason, breach: false }
    }

    /// Judges the options that make this connection the second one of a sync, or take
    /// it on behind that, or would have it dump the data; takes the grant.
    fn second_step(&mut self, options: &[&[u8]]) -> Result<(), &'static str> {
        const DUMP: &str = "which would only dump the data (allow_dump)";
        const NOT_OURS: &str = "which belongs to no sync that this site has begun";
        let filtered = value(options, "rdb-filter-only").is_some();
        let snapshot = ["rdb-only", "rdb-channel"].map(|name| value(options, name));
        let asks = filtered || snapshot.iter().any(Option::is_some);
        let second = matches!(snapshot, [Some(b"1"), Some(b"1")]) && !filtered;
        let main = value(options, "main-ch-client-id");
        if let Some(id) = value(options, "set-rdb-client-id") {
            // It comes alone: nothing else is let in with it.
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

    /// Ends the link for now: what was asked for is not to be had.
    fn decline(&mut self, reason: String) -> Verdict {
        let reply = reply::error(&self.site, &reason);
        if self.unanswered.is_empty() {
            return Verdict::Stop { pass: 0, reply, reason, breach: false };
        }
        self.refusal = Some(Refusal { reply, reason, breach: false });
        Verdict::Hold
    }

    /// Ends the link: at once where nothing is unanswered, else after the last
    /// outstanding reply.
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

    /// The last words to a replica whose master gives no answers, for this reason.
    pub fn last_words(&self, reason: &str) -> Vec<u8> {
        reply::error(&self.site, reason)
    }

    /// Ends the link, since the master said something that is no line.
    pub fn master_raves(&self) -> Verdict {
        let reason = "the master answered with a line that is no reply".to_owned();
        Verdict::Stop { pass: 0, reply: Vec::new(), reason, breach: false }
    }

    /// Takes a whole line of the master, without its end and with it. Not to be asked
    /// once the gate [is open](Self::is_open).
    pub fn master_says(&mut self, line: &[u8], whole: &[u8]) -> Verdict {
        let length = whole.len();
        match self.phase {
            Phase::AskedSync if line.starts_with(b"$") => {
                // Valkey: the offset, the replication id, a database, this one's id.
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
            // Valkey: this connection asks again once the snapshot's is set up.
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
        let Some(Awaited { by, snapshot, guess }) = self.unanswered.pop_front() else {
            // From here on answers could not be told apart. The replica may still read it:
            // that is how a master says that it has no room.
            return self.unexpected(whole.len());
        };
        if !matches!(line.first(), Some(b'+' | b'-')) {
            return self.unexpected(0);
        }
        // A master that knows `rdb-only` and not the option that pairs the
        // connection has taken the first all the same.
        self.dump |= snapshot && line.starts_with(b"-");
        if let Some(guess) = guess.filter(|_| line == b"+OK") {
            guess.right();
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
            // Refused, or not ready, and asked again.
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

    /// Ends the link, since the master says something that answers nothing.
    fn unexpected(&self, pass: usize) -> Verdict {
        let reason = "the master says what nobody has asked for".to_owned();
        Verdict::Stop { pass, reply: Vec::new(), reason, breach: false }
    }

    /// Ends the link, since the master would list the replica by another address.
    fn unlisted(&self, line: &[u8]) -> Verdict {
        let next = if line.starts_with(b"-NOAUTH") {
            "it wants a password: `auth` in its [[master]], or masterauth of the replica".to_owned()
        } else if line.starts_with(b"-NOPERM") {
            "its user lacks rights: ACL SETUSER <user> +replconf".to_owned()
        } else {
            // Only the gateway's own command is answered here: there is no secret in it.
            format!("it answers {}", cut(line))
        };
        let reason = format!("the master does not take the name of this site's replicas; {next}");
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

/// The command's name for a log, never its arguments: they may be a password.
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

/// `<replication id or ?> <offset>`, then perhaps `FAILOVER`, which is judged apart.
fn is_psync(options: &[&[u8]]) -> bool {
    let (id, offset) = match options {
        [id, offset] => (id, offset),
        [id, offset, third] if is(Some(third), "failover") => (id, offset),
        _ => return false,
    };
    let id = *id == b"?" || (id.len() == 40 && id.iter().all(u8::is_ascii_alphanumeric));
    // Redis answers an offset that it cannot read with an error, which would let SYNC through.
    id && integer(offset).is_some()
}
