//! Failovers under a steady load: alpha and alpha2 are at dc1, their replicas bravo and charli at dc2
//! behind the gateways. Who is master is what three Sentinels say, or what is done by hand.

mod by_hand;
mod sentinel;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, Lab, replica_config, tls};
use crate::support::random::Random;
use crate::support::redis::{Answer, Client, Redis, Version};
use crate::support::{Process, SOON, eventually, free_port};

/// Bytes that are written each second.
const RATE: u64 = 2_000_000;

/// What a failover may take at most here: that of Sentinel itself on a busy machine, and a full sync.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time for which a server is silent before a Sentinel considers it down.
const DOWN_AFTER: Duration = Duration::from_millis(1000);

/// Everything of both sites. The lab is the last field, so that the logs still exist when the others are dropped.
struct Sites {
    sentinels: Vec<Sentinel>,
    first: Gateway,
    second: Gateway,
    alpha: Redis,
    alpha2: Redis,
    bravo: Redis,
    charli: Redis,
    _lab: Lab,
}

/// How the gateway of dc1 finds its master.
#[derive(Clone, Copy, Debug, Default)]
struct Layout<'a> {
    /// Whether three Sentinels watch alpha.
    sentinels: bool,
    /// Ports that the config names as Sentinels in place of the last of the real ones.
    false_sentinels: &'a [u16],
    /// Ports that the config names as candidates besides alpha and alpha2.
    more_candidates: &'a [u16],
    /// Whether the config does not name alpha2.
    without_alpha2: bool,
    /// The `networks` of the Sentinels, instead of candidates.
    networks: Option<&'a str>,
    /// More sections.
    sections: &'a str,
}

impl Sites {
    /// Redis as they are in every test: a backlog for some seconds of writes.
    fn redis(lab: &Lab, version: Version, name: &str) -> Redis {
        Redis::start(version, lab.path(), name, &["--repl-backlog-size", "64mb"])
    }

    /// All follow alpha and are in sync.
    #[track_caller]
    fn new(version: Version, layout: Layout<'_>) -> Self {
        let lab = Lab::new();
        let redis = |name| Self::redis(&lab, version, name);
        let (alpha, alpha2, bravo, charli) =
            (redis("alpha"), redis("alpha2"), redis("bravo"), redis("charli"));
        alpha.fill();
        alpha2.replicaof(alpha.port);
        alpha2.wait_equal(&alpha);
        let sentinels =
            if layout.sentinels { Sentinel::three(lab.path(), &alpha, &alpha2) } else { Vec::new() };
        let (wan, entry) = (free_port(), free_port());
        let mut candidates = vec![alpha.port];
        candidates.extend((!layout.without_alpha2).then_some(alpha2.port));
        candidates.extend(layout.more_candidates);
        let first = lab.gateway("dc1", &config(wan, &candidates, &sentinels, layout));
        let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
        let sites = Self { sentinels, first, second, alpha, alpha2, bravo, charli, _lab: lab };
        for replica in sites.far() {
            replica.replicaof(entry);
            replica.wait_equal(&sites.alpha);
        }
        sites
    }

    /// The replicas at dc2.
    fn far(&self) -> [&Redis; 2] {
        [&self.bravo, &self.charli]
    }

    /// Who is followed, as `status` shows it.
    fn following(&self) -> serde_json::Value {
        self.first.status()["following"][0].clone()
    }

    /// Whether this Redis is followed.
    fn follows(&self, redis: &Redis) -> bool {
        self.following()["present"]["party"] == at(redis)
    }

    /// What `status` says of this Redis.
    fn words_of(&self, redis: &Redis) -> String {
        let following = self.following();
        let mut parties = following["parties"].as_array().into_iter().flatten();
        let party = parties.find(|party| party["party"] == at(redis));
        party.and_then(|party| party["words"].as_str()).unwrap_or_default().to_owned()
    }

    /// Waits until everybody follows `master` and has its data, `by` what `status` names. Nobody writes
    /// any more.
    #[track_caller]
    fn settle(&self, master: &Redis, others: &[&Redis], by: &str) {
        eventually("the master is followed", PATIENCE, || self.follows(master));
        assert_eq!(self.following()["present"]["by"], by, "{}", self.following());
        for other in others {
            equal(other, master);
        }
        let links = || (self.first.links(), self.second.links());
        eventually("both have their link", SOON, || links() == (2, 2));
        if self.sentinels.is_empty() || by == "sentinel" {
            eventually("nothing needs attention", PATIENCE, || self.following()["attention"].is_null());
        }
    }

    /// Waits until the load arrives at dc2.
    #[track_caller]
    fn loaded(&self) {
        let arrives = |replica: &Redis| replica.replica_offset() > 1_000_000;
        eventually("the load arrives", SOON, || self.far().into_iter().all(arrives));
    }

    /// How many full syncs `master`, which was promoted, owes its replicas at dc2: those that had more of the
    /// stream, as they were asked at that time, than it had when it was promoted.
    fn owed(&self, master: &Redis, offsets: [i64; 2]) -> i64 {
        let differs = master.info_number("second_repl_offset");
        assert!(differs > 0, "it was promoted");
        offsets.iter().map(|offset| i64::from(*offset >= differs)).sum()
    }

    /// Waits until this failover by Sentinels, with or without the earlier master, is over at dc2. Returns how many full
    /// syncs it has cost and how many it may have cost; and prints how long it took.
    #[track_caller]
    fn through_failover(&self, what: &str, deed: impl FnOnce()) {
        let switch = self.sentinels[0].switch();
        let byte = first_byte(&self.bravo, &self.alpha2);
        deed();
        let offsets = self.last_offsets();
        let is_early = !is_master(&self.alpha2);
        let switched = switch.join().expect("Sentinel tells of the switch");
        told(what, switched, byte.join().expect("it arrives"));
        for replica in self.far() {
            let port = self.alpha2.port.to_string();
            eventually("both get what is written", PATIENCE, || {
                replica.try_ask(&["GET", "via"]) == Some(Answer::Text(port.clone()))
            });
        }
        let full = self.alpha2.sync_full();
        if is_early {
            assert_eq!(
                full,
                self.owed(&self.alpha2, offsets),
                "{what}: {offsets:?}, {}",
                self.alpha2.info("second_repl_offset")
            );
        }
        assert!(full <= 2, "{what}: {full} full syncs");
    }

    /// Waits until `status` shows that a Redis says that it is the master, beside the one that is followed.
    #[track_caller]
    fn says_so_too(&self, earlier: &Redis) {
        eventually("it says that it is the master too", SOON, || {
            self.words_of(earlier) == "says that it is the master too"
        });
    }

    /// While a Redis that was the master still says so, nothing moves to it, until Sentinel makes it a replica.
    #[track_caller]
    fn stays_until_demoted(&self, earlier: &Redis, present: &Redis) {
        self.says_so_too(earlier);
        eventually("Sentinel makes it a replica", PATIENCE, || {
            assert!(self.follows(present), "{}", self.following());
            !is_master(earlier)
        });
    }

    /// The offsets of the replicas at dc2, once they get nothing more.
    fn last_offsets(&self) -> [i64; 2] {
        let offsets = || self.far().map(Redis::replica_offset);
        let mut known = (offsets(), Instant::now());
        eventually("nothing arrives any more", SOON, || {
            let now = offsets();
            if now != known.0 {
                known = (now, Instant::now());
            }
            known.1.elapsed() >= Duration::from_millis(100)
        });
        known.0
    }
}

/// Has `to` take over from `from`, which becomes its replica, without the loss of a byte. Nobody else may write to `to`.
#[track_caller]
fn hand_over(from: &Redis, to: &Redis) {
    pause(from, to);
    to.ask(&["REPLICAOF", "NO", "ONE"]);
    become_replica(from, to);
}

/// Nothing is written to `from` from here on, and `to` has all of it.
#[track_caller]
fn pause(from: &Redis, to: &Redis) {
    // Its own pings would be bytes too.
    from.ask(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    from.ask(&["CLIENT", "PAUSE", "30000", "WRITE"]);
    let is_equal = || to.replica_offset() == from.master_offset() && to.info("master_link_status") == "up";
    eventually("the other one has all", SOON, is_equal);
}

/// What was written to `from` meanwhile is refused.
#[track_caller]
fn become_replica(from: &Redis, to: &Redis) {
    from.replicaof(to.port);
    from.ask(&["CLIENT", "UNPAUSE"]);
    from.ask(&["CONFIG", "SET", "repl-ping-replica-period", "10"]);
}

/// Waits until `replica` has the data of `master`. A Sentinel writes to a master from time to time, so that
/// both are asked until they agree.
#[track_caller]
fn equal(replica: &Redis, master: &Redis) {
    let digest = |redis: &Redis| redis.try_ask(&["DEBUG", "DIGEST"]).map(|answer| answer.text());
    eventually(&format!("{} has the data of {}", replica.port, master.port), PATIENCE, || {
        replica.info("master_link_status") == "up" && digest(replica) == digest(master)
    });
}

/// The config of dc1.
fn config(wan: u16, candidates: &[u16], sentinels: &[Sentinel], layout: Layout<'_>) -> String {
    let list = |ports: &[u16]| {
        let places: Vec<_> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        places.join(", ")
    };
    let mut text = format!(
        "{}[state]\ndir = \"state\"\n[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n{}[[master]]\nname = \"orders\"\nallow = [\"dc2\"]\n",
        tls("dc1"),
        layout.sections
    );
    if layout.networks.is_none() {
        text += &format!("redis = [{}]\n", list(candidates));
    }
    if !sentinels.is_empty() {
        let real = sentinels.iter().map(|sentinel| sentinel.port).take(3 - layout.false_sentinels.len());
        let ports: Vec<_> = real.chain(layout.false_sentinels.iter().copied()).collect();
        let networks =
            layout.networks.map_or_else(String::new, |networks| format!(", networks = [\"{networks}\"]"));
        text += &format!("sentinel = {{ master = \"orders\", at = [{}]{networks} }}\n", list(&ports));
    }
    text
}

fn at(redis: &Redis) -> String {
    format!("127.0.0.1:{}", redis.port)
}

fn is_master(redis: &Redis) -> bool {
    redis.info("role") == "master"
}

/// One of three Sentinels, of which two must agree.
struct Sentinel {
    process: Process,
    port: u16,
}

impl Sentinel {
    /// Three that know each other, `master`, and its replica.
    #[track_caller]
    fn three(folder: &Path, master: &Redis, replica: &Redis) -> Vec<Self> {
        let ports = [(); 3].map(|()| free_port());
        let sentinels: Vec<_> = ports
            .iter()
            .map(|port| {
                let dir = folder.join(format!("sentinel-{port}"));
                std::fs::create_dir_all(&dir).expect("the test's folder is writable");
                let id = |port: &u16| format!("{port:040x}");
                let mut text = format!(
                    "port {port}\nbind 127.0.0.1\ndir {}\nsentinel myid {}\n\
                     sentinel monitor orders 127.0.0.1 {} 2\n\
                     sentinel down-after-milliseconds orders {}\n\
                     sentinel failover-timeout orders 4000\n\
                     sentinel known-replica orders 127.0.0.1 {}\n",
                    dir.display(),
                    id(port),
                    master.port,
                    DOWN_AFTER.as_millis(),
                    replica.port
                );
                for other in ports.iter().filter(|other| *other != port) {
                    text += &format!("sentinel known-sentinel orders 127.0.0.1 {other} {}\n", id(other));
                }
                let file = dir.join("sentinel.conf");
                std::fs::write(&file, text).expect("the test's folder is writable");
                let mut command = Command::new("redis-server");
                command.arg(&file).arg("--sentinel");
                Self {
                    process: Process::start("sentinel", dir.join("sentinel.log"), &mut command),
                    port: *port,
                }
            })
            .collect();
        for sentinel in &sentinels {
            // It may promote the replica only once it knows how it is.
            let fields = || sentinel.try_ask(&["SENTINEL", "REPLICAS", "orders"]).unwrap_or_default();
            eventually("Sentinel knows the replica", SOON, || {
                let fields = fields();
                fields.contains("role-reported slave") && fields.contains("master-link-status ok")
            });
            eventually("the Sentinels know each other", SOON, || {
                let quorum = sentinel.try_ask(&["SENTINEL", "CKQUORUM", "orders"]).unwrap_or_default();
                quorum.starts_with("OK 3 usable")
            });
        }
        sentinels
    }

    fn try_ask(&self, command: &[&str]) -> Option<String> {
        Client::connect(self.port)?.try_ask(command).map(|answer| answer.text())
    }

    /// When this Sentinel tells that it names another master.
    fn switch(&self) -> JoinHandle<Instant> {
        let mut client = Client::connect(self.port).expect("Sentinel accepts");
        client.ask(&["SUBSCRIBE", "+switch-master"]);
        std::thread::spawn(move || {
            client.until("orders 127.0.0.1");
            Instant::now()
        })
    }

    /// Has the Sentinels promote the other Redis.
    #[track_caller]
    fn fail_over(&self) {
        let mut refused = None;
        eventually("Sentinel begins a failover", SOON, || {
            refused = self.try_ask(&["SENTINEL", "FAILOVER", "orders"]);
            refused.as_deref() == Some("OK")
        });
    }

    /// The port that these Sentinels name, the first that answers.
    fn named(ports: &[u16]) -> Option<u16> {
        ports.iter().find_map(|port| {
            let mut client = Client::connect(*port)?.patient_for(Duration::from_millis(300));
            let Answer::List(place) = client.try_ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "orders"])?
            else {
                return None;
            };
            place.get(1)?.text().parse().ok()
        })
    }
}

/// A server that says, as a Sentinel, that the Redis on `port` has the master "orders", with an epoch that no
/// other has.
struct Liar {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Liar {
    fn new(bait: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, named, run) = (Arc::clone(&stop), bait.port.to_string(), bait.info("run_id"));
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (named, run) = (named.clone(), run.clone());
                std::thread::spawn(move || lie(socket, &named, &run));
            }
        });
        Self { port, stop }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Answers one connection.
fn lie(socket: TcpStream, named: &str, run: &str) -> Option<()> {
    let mut answers = socket.try_clone().ok()?;
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok);
    loop {
        let count: usize = lines.next()?.strip_prefix('*')?.parse().ok()?;
        let words: Vec<_> = lines.by_ref().take(2 * count).skip(1).step_by(2).collect();
        let asked = words.join(" ").to_uppercase();
        let answer = match asked.as_str() {
            "SENTINEL GET-MASTER-ADDR-BY-NAME ORDERS" => Client::encode(&["127.0.0.1", named]),
            "SENTINEL MASTER ORDERS" => Client::encode(&[
                "name",
                "orders",
                "ip",
                "127.0.0.1",
                "port",
                named,
                "runid",
                run,
                "config-epoch",
                "999999999",
            ]),
            "SUBSCRIBE +SWITCH-MASTER" => {
                let message = format!("orders 127.0.0.1 1 127.0.0.1 {named}");
                let message = Client::encode(&["message", "+switch-master", &message]);
                [b"*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n".to_vec(), message.repeat(100)]
                    .concat()
            }
            _ => b"+PONG\r\n".to_vec(),
        };
        answers.write_all(&answer).ok()?;
    }
}

/// Writes steadily to whoever is the master, and stamps the data with its port. It asks again and again who that is.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Asks Sentinels on these ports.
    fn by(sentinels: &[Sentinel]) -> Self {
        let ports: Vec<_> = sentinels.iter().map(|sentinel| sentinel.port).collect();
        Self::to(move || Sentinel::named(&ports))
    }

    /// Writes to the Redis on this port, which may be another one later.
    fn by_hand(port: &Arc<AtomicU16>) -> Self {
        let port = Arc::clone(port);
        Self::to(move || Some(port.load(Ordering::SeqCst)))
    }

    fn to(who: impl Fn() -> Option<u16> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: Some(std::thread::spawn(move || write(who, &stopped))) }
    }

    /// Ends the writes.
    fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("stopped once").join().expect("the writer does not panic");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn write(who: impl Fn() -> Option<u16>, stop: &AtomicBool) {
    let (mut random, mut number) = (Random::new(7), 0);
    let mut to: Option<(u16, Client)> = None;
    while !stop.load(Ordering::SeqCst) {
        let named = who();
        if to.as_ref().map(|(port, _)| *port) != named {
            to = named.and_then(|port| {
                let client = Client::connect(port)?;
                Some((port, client.patient_for(Duration::from_millis(400))))
            });
        }
        let Some((port, client)) = &mut to else {
            std::thread::sleep(Duration::from_millis(10)); // Nobody is the master.
            continue;
        };
        let (began, mut sent) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(50) {
            let (mut batch, mut commands) = (Client::encode(&["SET", "via", &port.to_string()]), 1);
            while sent + batch.len() < (began.elapsed().as_secs_f64() * RATE as f64) as usize {
                number += 1;
                let key = format!("written:{}", random.below(5000)).into_bytes();
                let value = [format!("{number} ").into_bytes(), random.words(64..192)].concat();
                batch.extend(Client::encode(&[b"SET".to_vec(), key, value]));
                batch.extend(Client::encode(&["INCR", "writes"]));
                commands += 2;
            }
            client.send(&batch);
            sent += batch.len();
            let answers: Vec<_> = (0..commands).map_while(|_| client.answer()).collect();
            if answers.len() < commands || answers.iter().any(|answer| matches!(answer, Answer::Error(_))) {
                to = None; // It hangs, is gone, or is no master any more.
                break;
            }
            std::thread::sleep(Duration::from_millis(2)); // It keeps the rate.
        }
    }
}

/// When `replica` has the first write that went to `master`.
fn first_byte(replica: &Redis, master: &Redis) -> JoinHandle<Instant> {
    let (port, wanted) = (replica.port, master.port.to_string());
    std::thread::spawn(move || {
        let deadline = Instant::now() + PATIENCE;
        let mut client = Client::connect(port).expect("the replica accepts");
        while client.ask(&["GET", "via"]) != Answer::Text(wanted.clone()) {
            assert!(Instant::now() < deadline, "no write to {wanted} gets to {port}");
            std::thread::sleep(Duration::from_millis(5)); // It is not asked without a pause.
        }
        Instant::now()
    })
}

/// Prints how long the first byte took, from a moment on. It may come before that moment: Sentinel tells of
/// a switch a while after it has promoted.
fn told(what: &str, from: Instant, byte: Instant) {
    let took = byte.saturating_duration_since(from);
    eprintln!("{what}: the first byte after {:.2} s", took.as_secs_f64());
    assert!(took < SOON, "{what}: {took:?}");
}
