//! One replica's connection to its master, through the taps of both sites or only that of the
//! master's.
//!
//! The product's own drivers carry out the verdicts. Each tap is wrapped in one that checks it.
//! Only whole commands of replication reach the master, each at a time when it is allowed. The
//! tap's last reply comes only while a replica reads replies. Little is held while the tap decides.
//! And the drivers deliver exactly what the verdicts say.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use replgate::internal::buffer::{Chunk, PAYLOAD};
use replgate::internal::redis::answer::MAX_LINE;
use replgate::internal::redis::at_master::AtMaster;
use replgate::internal::redis::at_replica::AtReplica;
use replgate::internal::redis::command::{self, MAX_COMMAND, Parsed};
use replgate::internal::redis::gate::{Gate, Rules};
use replgate::internal::redis::grants::Member;
use replgate::internal::redis::introduction::{Capability, Introduction};
use replgate::internal::redis::listing::Listing;
use replgate::internal::redis::names::Names;
use replgate::internal::redis::observer::Observer;
use replgate::internal::redis::replication::Observed;
use replgate::internal::tap::{Action, Driver, Flow, Tap, Verdict};

/// The options with a replica's address.
const LISTING: [&[u8]; 2] = [b"listening-port", b"ip-address"];

const UP: Flow = Flow::ToMaster;
const DOWN: Flow = Flow::ToReplica;

/// Most commands that may wait for their replies.
const MAX_UNANSWERED: usize = 256;

/// The site's name that the master's gateway has in its replies.
const SITE: &str = "dc1";

/// The connection under test, with everything that has passed it.
pub struct Talk {
    stations: Vec<Station>,
    /// Bytes that have reached the master, without the commands of its gateway.
    pub master: Vec<u8>,
    /// Bytes that have reached the replica, including the gateway's own replies.
    pub replica: Vec<u8>,
    /// The tap's last reply, and the reason for the log.
    pub end: Option<(Vec<u8>, String)>,
    /// The station whose tap has ended the link.
    ended_at: Option<usize>,
    /// Number of bytes that had reached the replica when the reply to the sync was complete.
    pub armed: Option<usize>,
    watch: Arc<Mutex<Watch>>,
    /// Bytes that the master's gateway has sent to the master, and to the replica.
    delivered: [Vec<u8>; 2],
    now: Instant,
}

/// What was seen at the taps, and the state of the replication that follows from it.
struct Watch {
    rules: Rules,
    sync: Asked,
    /// Number of commands that have passed and have no reply yet.
    unanswered: usize,
    /// SYNC is allowed: the master does not know PSYNC, or its user may not use it, or this is the
    /// second connection of a sync.
    may_sync: bool,
    /// The snapshot comes over another connection, which has not been named yet.
    apart: bool,
    /// The master has announced such a connection, which it does only once.
    was_apart: bool,
    /// Another link of the site that has begun a two-connection sync.
    sibling: Option<Member>,
    /// The steps that it allows this connection, each once.
    left: Vec<&'static str>,
    /// The master's gateway has sent its own REPLCONF and waits for the reply.
    listing: bool,
    /// The master has accepted the name: the reply to the last command with the name.
    listed: bool,
    /// Number of bytes that the master has sent, and the ranges of them that were for its gateway.
    left_master: usize,
    swallowed: Vec<std::ops::Range<usize>>,
    /// The replica's bytes that have reached the master.
    master: Vec<u8>,
    /// The bytes that the verdicts of the master's gateway let pass, in each direction.
    expected: [Vec<u8>; 2],
    /// A verdict has marked the reply to the sync as complete.
    armed: bool,
}

/// The state of the connection's sync, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Psync,
    Sync,
    Granted,
}

/// A tap, what its observer has recorded, and its two directions.
struct Station {
    tap: Watched,
    observed: Arc<Observed>,
    drivers: [Driver; 2],
}

/// A tap whose verdicts are checked.
struct Watched {
    tap: Box<dyn Tap>,
    watch: Arc<Mutex<Watch>>,
    /// It is the tap at the master's site.
    judges: bool,
    detached: [bool; 2],
}

impl Station {
    fn new(observed: Arc<Observed>, tap: Box<dyn Tap>, watch: &Arc<Mutex<Watch>>, judges: bool) -> Self {
        let tap = Watched { tap, watch: Arc::clone(watch), judges, detached: [false; 2] };
        Self { tap, observed, drivers: Default::default() }
    }
}

fn way(flow: Flow) -> usize {
    usize::from(flow == DOWN)
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().expect("a failed assertion ends the process")
}

impl Talk {
    /// A connection through the tap at the master's site, with these `rules`.
    pub fn at_master(rules: Rules) -> Self {
        let observed = Observed::new(Arc::default());
        let listing = Listing::new("dc2", &[], "127.0.0.1:6379".parse().expect("an address"));
        let rules = Rules { listing, ..rules };
        let tap = AtMaster::new(Gate::new(SITE, rules.clone()), Observer::new(Arc::clone(&observed)));
        let watch = Arc::new(Mutex::new(Watch {
            rules,
            sync: Asked::Nothing,
            unanswered: 0,
            may_sync: false,
            apart: false,
            was_apart: false,
            sibling: None,
            left: Vec::new(),
            listing: false,
            listed: false,
            left_master: 0,
            swallowed: Vec::new(),
            master: Vec::new(),
            expected: Default::default(),
            armed: false,
        }));
        Self {
            stations: vec![Station::new(observed, Box::new(tap), &watch, true)],
            master: Vec::new(),
            replica: Vec::new(),
            end: None,
            ended_at: None,
            armed: None,
            watch,
            delivered: Default::default(),
            now: Instant::now(),
        }
    }

    /// Adds another link of the same site that may be either connection of a two-connection sync:
    /// the master has sent it the id 17, or it waits for its second connection.
    #[must_use]
    pub fn beside_another(self) -> Self {
        let mut watch = lock(&self.watch);
        let sibling = watch.rules.grants.member();
        sibling.has_id(17);
        sibling.awaits();
        sibling.brings(17);
        watch.sibling = Some(sibling);
        watch.left = vec!["its snapshot by id", "its snapshot", "to continue after it"];
        drop(watch);
        self
    }

    /// Adds the tap at the replica's site, which announces the replica as `name` says and hides the
    /// capabilities in `drop`.
    #[must_use]
    pub fn from_replica(mut self, name: Option<(&str, Option<u16>)>, drop: Vec<Capability>) -> Self {
        let client = "10.0.0.1".parse().expect("an address");
        let names = name.map(|(host, port)| (Names::new(host.to_owned(), port), client));
        let observed = Observed::new(Arc::default());
        let observer = Observer::new(Arc::clone(&observed));
        let tap = AtReplica::new(Introduction::new(names, drop), observer, Box::new(|_| {}));
        self.stations.insert(0, Station::new(observed, Box::new(tap), &self.watch, false));
        self
    }

    /// Takes a piece of what one side sends.
    pub fn say(&mut self, flow: Flow, bytes: &[u8]) {
        let first = if flow == UP { 0 } else { self.stations.len() - 1 };
        self.reach(first, flow, bytes);
        let mut watch = lock(&self.watch);
        self.master.append(&mut watch.master);
        if self.end.is_none() {
            assert_eq!(self.delivered, watch.expected, "the drivers do as the verdicts say");
            assert_eq!(self.armed.is_some(), watch.armed);
        }
        self.delivered = Default::default();
        watch.expected = Default::default();
    }

    /// What one side has sent and no tap has decided on.
    pub fn held(&self, flow: Flow) -> Vec<u8> {
        let held = self.stations.iter().map(|station| station.drivers[way(flow)].held());
        // What is closer to its destination was sent first.
        if flow == UP { held.rev().collect::<Vec<_>>().concat() } else { held.collect::<Vec<_>>().concat() }
    }

    /// The ranges of the master's bytes that were for its gateway.
    pub fn swallowed(&self) -> Vec<std::ops::Range<usize>> {
        lock(&self.watch).swallowed.clone()
    }

    /// What both sites know of the replication, in words. Once one of them has ended the link, it
    /// alone counts, because how much the other has seen by then depends on the pieces.
    pub fn known(&self) -> String {
        let who = self.ended_at.map_or(0..self.stations.len(), |at| at..at + 1);
        let views = self.stations[who].iter().map(|station| station.observed.view(self.now));
        format!("{:?}", views.collect::<Vec<_>>())
    }

    /// Shows bytes to a tap, and what it passes to the next tap.
    fn reach(&mut self, at: usize, flow: Flow, bytes: &[u8]) {
        for piece in bytes.chunks(PAYLOAD) {
            if self.end.is_some() {
                return;
            }
            let Station { tap, drivers, .. } = &mut self.stations[at];
            if tap.judges && tap.detached[way(flow)] {
                lock(&self.watch).takes_from(flow, piece.len(), piece);
            }
            let driver = &mut drivers[way(flow)];
            let actions = driver.through(tap, flow, Chunk::copied(piece), piece.len() as u64, self.now);
            self.act(at, flow, actions);
            // Bytes held in the other direction may have waited for this.
            if flow == DOWN && self.end.is_none() {
                let Station { tap, drivers, .. } = &mut self.stations[at];
                let actions = drivers[way(UP)].again(tap, UP, self.now);
                self.act(at, UP, actions);
            }
        }
    }

    /// Carries out a driver's actions.
    fn act(&mut self, at: usize, flow: Flow, actions: Vec<Action>) {
        for action in actions {
            if self.end.is_some() {
                return;
            }
            match action {
                Action::Forward { chunk, armed, .. } => {
                    self.pass(at, flow, chunk.bytes());
                    if armed {
                        assert_eq!((flow, self.armed), (DOWN, None));
                        self.armed = Some(self.replica.len());
                    }
                }
                Action::Answer(reply) => {
                    assert_eq!(flow, UP);
                    self.pass(at, DOWN, &reply);
                }
                Action::Stop { reply, reason, .. } => {
                    self.stations[at].drivers.iter_mut().for_each(Driver::stop);
                    lock(&self.watch).last_words(&reply, &reason);
                    self.pass(at, DOWN, &reply);
                    // The replica's site may have ended the link for what came before.
                    if self.end.is_none() {
                        assert!(self.replica.ends_with(&reply), "the last words arrive");
                        (self.end, self.ended_at) = (Some((reply, reason)), Some(at));
                    }
                }
            }
        }
    }

    /// Handles bytes that have passed a tap.
    fn pass(&mut self, at: usize, flow: Flow, bytes: &[u8]) {
        let last = self.stations.len() - 1;
        if bytes.is_empty() {
            return;
        }
        if at == last {
            self.delivered[way(flow)].extend_from_slice(bytes);
        }
        match flow {
            Flow::ToMaster if at < last => self.reach(at + 1, flow, bytes),
            Flow::ToMaster => {}
            Flow::ToReplica => match at.checked_sub(1) {
                Some(next) => self.reach(next, flow, bytes),
                None => self.replica.extend_from_slice(bytes),
            },
        }
    }
}

impl Tap for Watched {
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict {
        assert!(!bytes.is_empty() && !self.detached[way(flow)]);
        let verdict = self.tap.look(flow, bytes, now);
        match &verdict {
            Verdict::Pass(count)
            | Verdict::PassAndArm(count)
            | Verdict::Replace(count, _)
            | Verdict::Answer(count, _) => assert!((1..=bytes.len()).contains(count)),
            Verdict::Detach => {
                assert!(flow == DOWN || !self.judges, "the allow-list never lets go");
                self.detached[way(flow)] = true;
            }
            Verdict::Insert(_) => assert!(self.judges && flow == UP),
            Verdict::Hold | Verdict::Stop { .. } => {}
        }
        let mut watch = lock(&self.watch);
        if verdict == Verdict::Hold {
            watch.holds(flow, bytes);
        } else if self.judges {
            watch.judged(flow, bytes, &verdict);
        }
        verdict
    }
}

impl Watch {
    /// Asserts that a tap may wait for more than these bytes.
    fn holds(&self, flow: Flow, bytes: &[u8]) {
        let decides = flow == DOWN || command::parse(bytes) == Parsed::Incomplete;
        let most = if flow == DOWN { MAX_LINE } else { MAX_COMMAND };
        // Otherwise it has refused a command and waits for outstanding replies.
        assert!(bytes.len() < most || !decides, "{} bytes held {flow:?}", bytes.len());
        assert!(decides || self.unanswered > 0 || self.rules.authenticated || self.listing);
    }

    /// Records what the tap at the master's site has decided.
    fn judged(&mut self, flow: Flow, bytes: &[u8], verdict: &Verdict) {
        match verdict {
            Verdict::Pass(count) => self.takes_from(flow, *count, &bytes[..*count]),
            Verdict::PassAndArm(count) => {
                assert!(flow == DOWN && !self.armed);
                self.armed = true;
                self.takes_from(flow, *count, &bytes[..*count]);
            }
            Verdict::Replace(count, instead) => {
                if flow == DOWN && instead.is_empty() {
                    // The reply that the gateway itself has waited for.
                    assert!(self.listing && !self.listed);
                    (self.listing, self.listed) = (false, true);
                    self.swallowed.push(self.left_master..self.left_master + count);
                }
                self.takes_from(flow, *count, instead);
            }
            Verdict::Insert(command) => {
                assert!(!self.listing && !self.listed);
                assert_eq!((self.sync, self.unanswered), (Asked::Nothing, 0));
                let Parsed::Command { arguments, length } = command::parse(command) else { panic!() };
                assert_eq!(length, command.len());
                assert_listed(&arguments);
                self.listing = true;
                self.expected[way(UP)].extend_from_slice(command);
            }
            Verdict::Answer(_, reply) => {
                assert_eq!((flow, self.unanswered), (UP, 0));
                self.expected[way(DOWN)].extend_from_slice(reply);
            }
            Verdict::Detach => self.takes_from(flow, bytes.len(), bytes),
            Verdict::Stop { pass, .. } => self.takes_from(flow, *pass, &bytes[..*pass]),
            Verdict::Hold => {}
        }
    }

    /// Records that `bytes` are passed on in place of `count` bytes.
    fn takes_from(&mut self, flow: Flow, count: usize, bytes: &[u8]) {
        self.expected[way(flow)].extend_from_slice(bytes);
        if flow == UP {
            self.reaches_master(bytes);
            self.master.extend_from_slice(bytes);
        } else {
            self.left_master += count;
            if !bytes.is_empty() {
                self.leaves_master(bytes);
            }
        }
    }

    /// Asserts that these bytes are whole commands that a master may get now.
    fn reaches_master(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match command::parse(rest) {
                Parsed::Newline(length) => rest = &rest[length..],
                Parsed::Command { length, arguments } => {
                    self.commands_master(&arguments);
                    rest = &rest[length..];
                }
                other => panic!("{other:?} reached the master: {}", rest.escape_ascii()),
            }
        }
    }

    /// Asserts that the master may get this command now.
    fn commands_master(&mut self, words: &[&[u8]]) {
        let shown = || words.join(&b' ').escape_ascii().to_string();
        let word =
            |at: usize| words.get(at).map(|word: &&[u8]| word.to_ascii_lowercase()).unwrap_or_default();
        let (name, first) = (word(0), word(1));
        if name == b"replconf" && first == b"ack" {
            assert!(matches!(words.len(), 3 | 5) && self.sync != Asked::Nothing, "{}", shown());
            return;
        }
        if self.rules.slot_migration && name == b"cluster" && first == b"syncslots" {
            // Its arguments are not checked here.
            self.unanswered += usize::from(self.sync == Asked::Nothing);
            return;
        }
        assert!(
            self.sync == Asked::Nothing || self.rules.slot_migration,
            "{} after a sync was asked for",
            shown()
        );
        match name.as_slice() {
            b"ping" | b"replping" => assert_eq!(words.len(), 1, "{}", shown()),
            b"auth" => assert!(!self.rules.authenticated && matches!(words.len(), 2 | 3), "{}", shown()),
            b"replconf" => {
                assert!(words.len() % 2 == 1 && words.len() > 1, "{}", shown());
                if (1..words.len()).step_by(2).any(|at| LISTING.contains(&&word(at)[..])) {
                    assert_listed(words);
                    self.listed = false;
                }
                let options: Vec<(Vec<u8>, Vec<u8>)> =
                    (1..words.len()).step_by(2).map(|at| (word(at), word(at + 1))).collect();
                let said = |name: &str| options.iter().any(|(option, _)| option == name.as_bytes());
                assert!(!said("getack") && !said("ack"), "{}", shown());
                let only = |name: &str, value: &[u8]| {
                    said(name) && options.iter().all(|pair| pair.0 != name.as_bytes() || pair.1 == value)
                };
                let second = only("rdb-only", b"1") && only("rdb-channel", b"1");
                if said("set-rdb-client-id") {
                    assert!(self.apart && only("set-rdb-client-id", b"17"), "{}", shown());
                    self.takes("to continue after it");
                    self.apart = false;
                }
                if said("main-ch-client-id") {
                    assert!(second && only("main-ch-client-id", b"17"), "{}", shown());
                    self.takes("its snapshot by id");
                    self.may_sync = true;
                }
                let snapshot = ["rdb-filter-only", "rdb-only", "rdb-channel"].into_iter().any(said);
                if snapshot && !self.rules.dump {
                    assert!(second && !said("rdb-filter-only"), "{}", shown());
                    if !said("main-ch-client-id") {
                        self.takes("its snapshot");
                    }
                    self.may_sync = true;
                }
            }
            b"psync" => {
                assert!(self.listed && !self.listing, "not before the name was taken");
                let failover = words.len() == 4 && word(3) == b"failover" && self.rules.failover;
                assert!(words.len() == 3 || failover, "{}", shown());
                assert_eq!((self.unanswered, self.apart), (0, false));
                self.sync = Asked::Psync;
            }
            b"sync" => {
                assert!(words.len() == 1 && (self.may_sync || self.rules.dump), "{}", shown());
                assert!(self.listed && !self.listing, "not before the name was taken");
                assert_eq!(self.unanswered, 0);
                self.sync = Asked::Sync;
            }
            _ => panic!("{} is not part of replication", shown()),
        }
        self.unanswered += usize::from(self.sync == Asked::Nothing);
        assert!(self.unanswered <= MAX_UNANSWERED);
    }

    /// Asserts that another link allows this step, which is used up.
    fn takes(&mut self, what: &str) {
        let at = self.left.iter().position(|left| *left == what);
        self.left.remove(at.unwrap_or_else(|| panic!("{what} is for no connection of this site")));
    }

    /// Counts the replies that the master's gateway lets pass: line by line before the sync.
    fn leaves_master(&mut self, bytes: &[u8]) {
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |end| &bytes[..=end]);
        if line == b"\n" {
            return;
        }
        match self.sync {
            Asked::Nothing => self.unanswered = self.unanswered.saturating_sub(1),
            Asked::Psync | Asked::Sync if line.starts_with(b"-") => {
                let unknown = [&b"-ERR unknown command"[..], b"-NOPERM", b"-NOAUTH"];
                self.may_sync |= unknown.iter().any(|words| line.starts_with(words));
                self.sync = Asked::Nothing;
            }
            Asked::Psync if line.starts_with(b"+DUALCHANNELSYNC") && !self.was_apart => {
                (self.apart, self.was_apart, self.sync) = (true, true, Asked::Nothing);
            }
            Asked::Psync | Asked::Sync => self.sync = Asked::Granted,
            Asked::Granted => {}
        }
    }

    /// Asserts that the tap's last reply is allowed now.
    fn last_words(&self, reply: &[u8], reason: &str) {
        let plain = |bytes: &[u8]| bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
        assert!(reason.len() > 8 && reason.len() < 400 && plain(reason.as_bytes()), "{reason:?}");
        if reply.is_empty() {
            return;
        }
        assert_eq!((self.sync, self.unanswered), (Asked::Nothing, 0), "no reply is awaited: {reason}");
        let line = reply.strip_suffix(b"\r\n").expect("a whole line");
        // The line comes after the replies to passwords that the gateway has answered.
        let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or(line);
        assert!(line.len() <= 255 && plain(line), "{}", line.escape_ascii());
        let known = [format!("-ERR replgate {SITE}: "), format!("-LOADING replgate {SITE}: ")];
        assert!(known.iter().any(|known| line.starts_with(known.as_bytes())), "{}", line.escape_ascii());
    }
}

/// Asserts that a REPLCONF lists the replica under its site's name, whatever its other options.
fn assert_listed(words: &[&[u8]]) {
    let values = |name: &str| -> Vec<&[u8]> {
        words[1..].chunks_exact(2).filter(|pair| pair[0].eq_ignore_ascii_case(name.as_bytes())).map(|pair| pair[1]).collect()
    };
    let [host] = values("ip-address")[..] else { panic!("one address") };
    let host = std::str::from_utf8(host).expect("a name");
    let name = host.strip_suffix("dc2").expect("a name under the site's").strip_suffix('.').unwrap_or("x");
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    assert!(host.len() <= 45 && !name.is_empty() && name.chars().all(good), "{host}");
    assert!(values("listening-port").len() <= 1);
}
