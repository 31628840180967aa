//! One replica's connection to its master, through the taps of both sites or of the
//! master's alone.
//!
//! Does with a verdict what the data path does, and watches all the while: what reaches
//! the master is whole commands of a replication, each in its time; the tap's last words
//! come only where a replica reads a reply; and little is held while the tap decides.

use std::sync::Arc;
use std::time::Instant;

use replgate::redis::answer::MAX_LINE;
use replgate::redis::at_master::AtMaster;
use replgate::redis::at_replica::AtReplica;
use replgate::redis::command::{self, MAX_COMMAND, Parsed};
use replgate::redis::gate::{Gate, Rules};
use replgate::redis::grants::Member;
use replgate::redis::introduction::{Capability, Introduction};
use replgate::redis::listing::Listing;
use replgate::redis::names::Names;
use replgate::redis::observer::Observer;
use replgate::redis::replication::Observed;
use replgate::tap::{Flow, Tap, Verdict};

/// What a replica says of its address.
const LISTING: [&[u8]; 2] = [b"listening-port", b"ip-address"];

const UP: Flow = Flow::ToMaster;
const DOWN: Flow = Flow::ToReplica;

/// What the data path holds for a tap at most.
const MAX_HELD: usize = 64 * 1024;

/// Commands that may wait for their replies.
const MAX_UNANSWERED: usize = 256;

/// The name that the master's gateway has in its replies.
const SITE: &str = "dc1";

/// The connection.
pub struct Talk {
    stations: Vec<Station>,
    rules: Rules,
    /// What has reached the master.
    pub master: Vec<u8>,
    /// What has reached the replica, the gateway's own words included.
    pub replica: Vec<u8>,
    /// The tap's last words and the reason for the log.
    pub end: Option<(Vec<u8>, String)>,
    /// How much had reached the replica when the sync's reply was complete.
    pub armed: Option<usize>,
    sync: Asked,
    /// Commands that have passed and are not answered yet.
    unanswered: usize,
    /// PSYNC is nothing that the master knows, or lets its user do; or this is the second
    /// connection of a sync.
    may_sync: bool,
    /// The snapshot comes over another connection, which was not named yet.
    apart: bool,
    /// The master has said so: it does once.
    was_apart: bool,
    /// Another link of the site, which has begun a sync over two connections.
    sibling: Option<Member>,
    /// What it lets this one do, each once.
    left: Vec<&'static str>,
    /// The master's gateway has said itself how the replica is listed, and waits.
    listing: bool,
    /// The name was taken: the last answer to a command that says it.
    pub listed: bool,
    /// The master's bytes that have left it, and those of them that were for its gateway.
    left_master: usize,
    pub swallowed: Vec<std::ops::Range<usize>>,
    /// A tap has ended the link: nothing more is looked at.
    stopped: bool,
    now: Instant,
}

/// How far the connection's sync is, for who counts from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Psync,
    Sync,
    Granted,
}

/// A tap, what is known of the replication there, and its two directions.
struct Station {
    tap: Box<dyn Tap>,
    observed: Arc<Observed>,
    held: [Vec<u8>; 2],
    detached: [bool; 2],
}

impl Station {
    fn new(observed: Arc<Observed>, tap: Box<dyn Tap>) -> Self {
        Self { tap, observed, held: Default::default(), detached: [false; 2] }
    }
}

fn way(flow: Flow) -> usize {
    usize::from(flow == DOWN)
}

impl Talk {
    /// Through the master's site, where `rules` hold.
    pub fn at_master(rules: Rules) -> Self {
        let observed = Observed::new(Arc::default());
        let listing = Listing::new("dc2", &[], "127.0.0.1:6379".parse().expect("an address"));
        let rules = Rules { listing, ..rules };
        let tap = AtMaster::new(Gate::new(SITE, rules.clone()), Observer::new(Arc::clone(&observed)));
        Self {
            stations: vec![Station::new(observed, Box::new(tap))],
            rules,
            master: Vec::new(),
            replica: Vec::new(),
            end: None,
            armed: None,
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
            stopped: false,
            now: Instant::now(),
        }
    }

    /// Beside another link of the same site, which is either connection of a sync over two:
    /// the master has said the id 17 to it, or awaits its second one.
    #[must_use]
    pub fn beside_another(mut self) -> Self {
        let sibling = self.rules.grants.member();
        sibling.has_id(17);
        sibling.awaits();
        sibling.brings(17);
        self.sibling = Some(sibling);
        self.left = vec!["its snapshot by id", "its snapshot", "to go on behind it"];
        self
    }

    /// Through the replica's site too, which announces the replica as `name` says and keeps
    /// the capabilities in `drop` to itself.
    #[must_use]
    pub fn from_replica(mut self, name: Option<(&str, Option<u16>)>, drop: Vec<Capability>) -> Self {
        let client = "10.0.0.1".parse().expect("an address");
        let names = name.map(|(host, port)| (Names::new(host.to_owned(), port), client));
        let observed = Observed::new(Arc::default());
        let observer = Observer::new(Arc::clone(&observed));
        let tap = AtReplica::new(Introduction::new(names, drop), observer, Box::new(|_| {}));
        self.stations.insert(0, Station::new(observed, Box::new(tap)));
        self
    }

    /// A piece of what one side says arrives.
    pub fn say(&mut self, flow: Flow, bytes: &[u8]) {
        let first = if flow == UP { 0 } else { self.stations.len() - 1 };
        self.reach(first, flow, bytes);
    }

    /// What one side has said and no tap has decided on.
    pub fn held(&self, flow: Flow) -> Vec<u8> {
        let held = self.stations.iter().map(|station| station.held[way(flow)].as_slice());
        // What is further on its way was said first.
        if flow == UP { held.rev().collect::<Vec<_>>().concat() } else { held.collect::<Vec<_>>().concat() }
    }

    /// What both sites know of the replication, in words.
    pub fn known(&self) -> String {
        let views = self.stations.iter().map(|station| station.observed.view(self.now));
        format!("{:?}", views.collect::<Vec<_>>())
    }

    /// Bytes reach a tap, and what it lets pass the next one.
    fn reach(&mut self, at: usize, flow: Flow, bytes: &[u8]) {
        if self.end.is_some() {
            return;
        }
        self.stations[at].held[way(flow)].extend_from_slice(bytes);
        self.look(at, flow);
        // What is held on the other way may have waited for this.
        if flow == DOWN && !self.stopped {
            self.look(at, UP);
        }
    }

    /// Shows a tap what is held there, and does as it says.
    fn look(&mut self, at: usize, flow: Flow) {
        let way = way(flow);
        while !self.stations[at].held[way].is_empty() && self.end.is_none() {
            let judges = at + 1 == self.stations.len();
            let Station { tap, held, detached, .. } = &mut self.stations[at];
            let held = &mut held[way];
            let verdict =
                if detached[way] { Verdict::Pass(held.len()) } else { tap.look(flow, held, self.now) };
            match verdict {
                Verdict::Pass(count) => {
                    assert!(count > 0);
                    let bytes = taken(held, count);
                    self.left_master += if judges && flow == DOWN { count } else { 0 };
                    self.pass(at, flow, &bytes);
                }
                Verdict::PassAndArm(count) => {
                    assert_eq!((flow, self.armed), (DOWN, None));
                    let bytes = taken(held, count);
                    self.left_master += if judges { count } else { 0 };
                    self.pass(at, flow, &bytes);
                    self.armed = Some(self.replica.len());
                }
                Verdict::Replace(count, instead) => {
                    assert!(count > 0);
                    taken(held, count);
                    if judges && flow == DOWN {
                        let from = self.left_master;
                        self.left_master += count;
                        if instead.is_empty() {
                            // The answer that the gateway itself has waited for.
                            assert!(self.listing && !self.listed);
                            (self.listing, self.listed) = (false, true);
                            self.swallowed.push(from..self.left_master);
                            // What was held has waited for just this; a master says no more before.
                            self.look(at, UP);
                        }
                    }
                    self.pass(at, flow, &instead);
                }
                Verdict::Insert(command) => {
                    assert!(judges && flow == UP && !self.listing && !self.listed);
                    assert_eq!((self.sync, self.unanswered), (Asked::Nothing, 0));
                    let Parsed::Command { arguments, length } = command::parse(&command) else { panic!() };
                    assert_eq!(length, command.len());
                    assert_listed(&arguments);
                    self.listing = true;
                }
                Verdict::Answer(count, reply) => {
                    assert_eq!((flow, self.unanswered), (UP, 0));
                    assert!(count > 0);
                    taken(held, count);
                    self.pass(at, DOWN, &reply);
                }
                Verdict::Hold => {
                    let decides = flow == DOWN || command::parse(held) == Parsed::Incomplete;
                    let most = if flow == DOWN { MAX_LINE } else { MAX_COMMAND };
                    // Else it has refused, and waits for the replies to what was before.
                    assert!(held.len() < most || !decides, "{} bytes held {flow:?}", held.len());
                    assert!(decides || self.unanswered > 0 || self.rules.authenticated || self.listing);
                    if held.len() > MAX_HELD {
                        self.end = Some((Vec::new(), "more bytes than a handshake has".to_owned()));
                    }
                    return;
                }
                Verdict::Detach => {
                    assert!(!detached[way]);
                    assert!(flow == DOWN || !judges, "the allow-list never lets go");
                    detached[way] = true;
                }
                Verdict::Stop { pass, reply, reason, .. } => {
                    self.stopped = true;
                    let bytes = taken(held, pass);
                    self.pass(at, flow, &bytes);
                    self.last_words(&reply, &reason);
                    self.pass(at, DOWN, &reply);
                    // Unless the replica's site has ended the link for what came before.
                    if self.end.is_none() {
                        assert!(self.replica.ends_with(&reply), "the last words arrive");
                        self.end = Some((reply, reason));
                    }
                }
            }
        }
    }

    /// Bytes have passed a tap.
    fn pass(&mut self, at: usize, flow: Flow, bytes: &[u8]) {
        let last = self.stations.len() - 1;
        if bytes.is_empty() {
            return;
        }
        match flow {
            Flow::ToMaster if at < last => self.reach(at + 1, flow, bytes),
            Flow::ToMaster => {
                self.reaches_master(bytes);
                self.master.extend_from_slice(bytes);
            }
            Flow::ToReplica => {
                if at == last {
                    self.leaves_master(bytes);
                }
                match at.checked_sub(1) {
                    Some(next) => self.reach(next, flow, bytes),
                    None => self.replica.extend_from_slice(bytes),
                }
            }
        }
    }

    /// Asserts that these bytes are commands that a master may get now, and whole ones.
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
            // What follows it is judged by its name alone.
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
                    self.takes("to go on behind it");
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
            _ => panic!("{} is no part of replication", shown()),
        }
        self.unanswered += usize::from(self.sync == Asked::Nothing);
        assert!(self.unanswered <= MAX_UNANSWERED);
    }

    /// Asserts that another link lets this one do it, and has not before.
    fn takes(&mut self, what: &str) {
        let at = self.left.iter().position(|left| *left == what);
        self.left.remove(at.unwrap_or_else(|| panic!("{what} is for no connection of this site")));
    }

    /// Counts the replies in what the master's gateway lets pass, before the sync line by line.
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

    /// Asserts that the tap's last words can be said now.
    fn last_words(&self, reply: &[u8], reason: &str) {
        let plain = |bytes: &[u8]| bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
        assert!(reason.len() > 8 && reason.len() < 400 && plain(reason.as_bytes()), "{reason:?}");
        if reply.is_empty() {
            return;
        }
        assert_eq!((self.sync, self.unanswered), (Asked::Nothing, 0), "no reply is awaited: {reason}");
        let line = reply.strip_suffix(b"\r\n").expect("a whole line");
        // Behind the replies to passwords that went no further.
        let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or(line);
        assert!(line.len() <= 255 && plain(line), "{}", line.escape_ascii());
        let known = [format!("-ERR replgate {SITE}: "), format!("-LOADING replgate {SITE}: ")];
        assert!(known.iter().any(|known| line.starts_with(known.as_bytes())), "{}", line.escape_ascii());
    }
}

/// Asserts that a REPLCONF lists the replica under its site's name, whatever else it says.
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

/// The first `count` bytes, which are held no more.
fn taken(held: &mut Vec<u8>, count: usize) -> Vec<u8> {
    held.drain(..count).collect()
}
