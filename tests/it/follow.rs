//! The gateway at the master's site knows which of several Redis is the master.
//!
//! alpha and alpha2 are at dc1, bravo at dc2. Redis' own pings are off where offsets are compared.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, Lab, replica_config, tls};
use crate::support::redis::{Client, Redis, Version};
use crate::support::{Process, SOON, always, eventually, free_port};

/// No bytes in the stream but those of writes.
const QUIET: &[&str] = &["--repl-ping-replica-period", "3600"];

/// The config of dc1 with these candidates.
fn masters(wan: u16, candidates: &[u16], more: &str) -> String {
    let redis: Vec<_> = candidates.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "{}[state]\ndir = \"state\"\n[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n[[master]]\nname = \"orders\"\nredis = [{}]\nallow = [\"dc2\"]\n{more}\n",
        tls("dc1"),
        redis.join(", ")
    )
}

struct Two {
    alpha: Redis,
    alpha2: Redis,
    first: Gateway,
    second: Gateway,
    bravo: Redis,
    entry: u16,
    /// Goes last, while the others still print their logs.
    lab: Lab,
}

impl Two {
    /// alpha2 and bravo follow alpha, each in sync.
    fn new() -> Self {
        let lab = Lab::new();
        let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
        let (alpha, alpha2, bravo) = (redis("alpha"), redis("alpha2"), redis("bravo"));
        alpha.fill();
        alpha2.replicaof(alpha.port);
        alpha2.wait_equal(&alpha);
        let (wan, entry) = (free_port(), free_port());
        let first = lab.gateway("dc1", &masters(wan, &[alpha.port, alpha2.port], ""));
        let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
        bravo.replicaof(entry);
        bravo.wait_equal(&alpha);
        Self { alpha, alpha2, first, second, bravo, entry, lab }
    }

    /// Who is followed, as `status` shows it.
    fn followed(&self) -> Option<String> {
        followed(&self.first)
    }
}

fn following(gateway: &Gateway) -> serde_json::Value {
    gateway.status()["following"][0].clone()
}

fn followed(gateway: &Gateway) -> Option<String> {
    following(gateway)["present"]["party"].as_str().map(str::to_owned)
}

fn at(redis: &Redis) -> String {
    format!("127.0.0.1:{}", redis.port)
}

/// Ordinary clients of a Redis.
fn clients(redis: &Redis) -> usize {
    redis.ask(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count()
}

#[test]
fn links_follow_the_one_that_is_promoted_and_the_replica_continues_by_a_partial_resync() {
    let two = Two::new();
    let (full, began) = (two.alpha.sync_full(), Instant::now());
    two.alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    two.alpha.replicaof(two.alpha2.port);
    two.alpha2.ask(&["SET", "after", "the switch"]);
    eventually("the first byte at dc2", Duration::from_secs(10), || {
        two.bravo.ask(&["GET", "after"]) == "the switch"
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    two.bravo.wait_equal(&two.alpha2);
    assert_eq!((two.alpha.sync_full(), two.alpha2.sync_full()), (full, 0), "nobody needed all data");
    assert_eq!(two.followed(), Some(at(&two.alpha2)));
    let present = &following(&two.first)["present"];
    assert_eq!(present["by"], "lineage");
    two.first.wait_kind("master-followed");
    eprintln!("first byte at dc2 after {took:?}");
}

#[test]
fn links_to_a_master_that_hangs_end_when_another_one_is_promoted_and_say_so() {
    let two = Two::new();
    two.alpha.process.signal("STOP");
    eventually("it is told apart", SOON, || following(&two.first).to_string().contains("hangs"));
    assert_eq!((two.followed(), two.first.links()), (Some(at(&two.alpha)), 1), "the link stays");
    let began = Instant::now();
    two.alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    two.alpha2.ask(&["SET", "after", "the switch"]);
    eventually("the first byte at dc2", Duration::from_secs(10), || {
        two.bravo.ask(&["GET", "after"]) == "the switch"
    });
    let took = began.elapsed();
    assert_eq!(two.alpha2.sync_full(), 0);
    two.first.wait_end("moved");
    two.second.wait_far_end("NoMaster");
    two.second.wait_log(&format!("{} is the master of orders now", at(&two.alpha2)));
    // It comes back, and still says that it is the master.
    two.alpha.process.signal("CONT");
    two.first.wait_log("says that it is the master too");
    two.bravo.wait_equal(&two.alpha2);
    eprintln!("first byte at dc2 after {took:?}");
}

#[test]
fn a_blank_redis_at_the_masters_address_gets_no_link() {
    let mut two = Two::new();
    let before = two.bravo.digest();
    // alpha2 would take over its blank master's data itself.
    two.alpha2.process.signal("STOP");
    two.alpha.kill();
    two.alpha.start_again();
    assert_eq!(two.alpha.ask(&["DBSIZE"]), "0");
    two.first.wait_kind("master-lost");
    two.first.wait_kind("master-doubt");
    two.first.wait_kind("no-master");
    always("the data of dc2 stays", Duration::from_secs(4), || two.bravo.digest() == before);
    let status = following(&two.first);
    assert_eq!(status["present"], serde_json::Value::Null);
    let next = status["next_step"].as_str().unwrap_or_default();
    assert!(next.contains(&format!("replgate follow orders {}", at(&two.alpha))), "{status}");
    assert_eq!(two.alpha.sync_full(), 0);
    two.alpha2.process.signal("CONT");
}

#[test]
fn of_two_masters_none_is_followed_before_one_of_them_is_the_other_ones_replica() {
    let lab = Lab::new();
    let (alpha, alpha2, bravo) = (lab.redis("alpha"), lab.redis("alpha2"), lab.redis("bravo"));
    alpha.fill();
    let (wan, entry) = (free_port(), free_port());
    let first = lab.gateway("dc1", &masters(wan, &[alpha.port, alpha2.port], ""));
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    bravo.replicaof(entry);
    first.wait_kind("no-master");
    first.wait_kind("master-doubt");
    assert_eq!((followed(&first), alpha.sync_full(), alpha2.sync_full()), (None, 0, 0));
    alpha2.replicaof(alpha.port);
    bravo.wait_equal(&alpha);
    assert_eq!(following(&first)["present"]["by"], "first");
    // Another master beside the one that is followed changes nothing.
    alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    first.wait_log("says that it is the master too");
    alpha.ask(&["SET", "still", "alpha"]);
    bravo.wait_equal(&alpha);
    assert_eq!(followed(&first), Some(at(&alpha)));
}

#[test]
fn a_gateway_that_was_restarted_knows_whom_it_has_followed() {
    let mut two = Two::new();
    let file = two.lab.path().join("state/follow-master-orders.toml");
    let kept = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("it is kept", SOON, || kept().contains(&at(&two.alpha)));
    assert!(!kept().contains("passed"), "not while it runs: {}", kept());
    two.alpha.ask(&["SET", "one", "more"]);
    two.bravo.wait_equal(&two.alpha);
    two.alpha2.wait_equal(&two.alpha);
    let offset = two.alpha.master_offset();
    assert!(offset > 0);
    assert_eq!(two.first.stop(), Some(0));
    assert!(kept().contains(&format!("passed = {offset}\n")), "{offset}: {} {}", kept(), two.first.log());
    // While it is away another one is promoted, and the earlier one is gone.
    two.alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    two.alpha.kill();
    two.first.start_again();
    two.bravo.wait_equal(&two.alpha2);
    assert_eq!((two.followed(), two.alpha2.sync_full()), (Some(at(&two.alpha2)), 0));
    // After a crash it is not known how far the stream was passed on.
    two.first.kill();
    assert!(!kept().contains("passed"), "{}", kept());
}

#[test]
fn a_file_that_cannot_be_read_counts_as_no_history() {
    let lab = Lab::new();
    let (alpha, alpha2) = (lab.redis("alpha"), lab.redis("alpha2"));
    std::fs::create_dir(lab.path().join("state")).unwrap();
    std::fs::write(lab.path().join("state/follow-master-orders.toml"), "history = \"nonsense\"\n").unwrap();
    let first = lab.gateway("dc1", &masters(free_port(), &[alpha.port, alpha2.port], ""));
    first.wait_event("cannot be read", &["kind=\"state\""]);
    first.wait_kind("master-doubt");
    assert_eq!(followed(&first), None);
    alpha2.replicaof(alpha.port);
    eventually("the master is followed", SOON, || followed(&first) == Some(at(&alpha)));
}

/// Listens, and answers everything in this way until it is dropped.
struct Fake {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Fake {
    fn new(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::spawn(move || {
                    let mut socket = socket;
                    let mut piece = [0; 4096];
                    while let Ok(1..) = socket.read(&mut piece) {
                        if socket.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, stop }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// More than is read of any answer.
fn megabyte() -> &'static [u8] {
    let mut answer = b"$1048576\r\n".to_vec();
    answer.resize(1 << 20, b'x');
    Box::leak(answer.into_boxed_slice())
}

/// A line without an end.
fn endless() -> &'static [u8] {
    Box::leak(vec![b'+'; 1 << 20].into_boxed_slice())
}

#[test]
fn a_candidate_that_answers_half_a_line_or_a_megabyte_is_told_apart_and_changes_nothing() {
    let lab = Lab::new();
    let (alpha, bravo) = (lab.redis("alpha"), lab.redis("bravo"));
    alpha.fill();
    let alpha2 = lab.redis("alpha2");
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    let (wan, entry) = (free_port(), free_port());
    let mut first = lab.gateway("dc1", &masters(wan, &[alpha.port, alpha2.port], ""));
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    bravo.replicaof(entry);
    bravo.wait_equal(&alpha);
    let fakes = [
        &b"$100\r\nrole:ma"[..],
        megabyte(),
        endless(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ]
    .map(Fake::new);
    let free = free_port();
    let mut candidates = vec![alpha.port];
    candidates.extend(fakes.iter().map(|fake| fake.port));
    candidates.push(free);
    std::fs::write(&first.config, masters(wan, &candidates, "")).unwrap();
    first.process.signal("HUP");
    let words = |port: u16| {
        let status = following(&first);
        let parties = status["parties"].as_array().cloned().unwrap_or_default();
        let party = parties.into_iter().find(|party| party["party"] == format!("127.0.0.1:{port}"));
        party.map(|party| party["words"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    for (port, expected) in fakes.iter().map(|fake| fake.port).zip([
        "hangs",
        "too long",
        "not Redis' protocol",
        "not Redis' protocol",
        "speaks TLS",
    ]) {
        eventually(&format!("{expected}: {}", words(port)), SOON, || words(port).contains(expected));
    }
    eventually("one cannot be reached", SOON, || words(free).contains("cannot be reached"));
    alpha.ask(&["SET", "still", "here"]);
    bravo.wait_equal(&alpha);
    assert_eq!((followed(&first), alpha.sync_full()), (Some(at(&alpha)), 2));
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn no_connection_is_left_behind_after_many_switches() {
    let two = Two::new();
    let (mut master, mut other) = (&two.alpha, &two.alpha2);
    for _ in 0..10 {
        other.ask(&["REPLICAOF", "NO", "ONE"]);
        master.replicaof(other.port);
        (master, other) = (other, master);
        eventually("the other one is followed", SOON, || two.followed() == Some(at(master)));
        two.bravo.wait_equal(master);
    }
    for redis in [&two.alpha, &two.alpha2] {
        // The gateway's own, and that of the client that asks.
        eventually("no connection is left behind", SOON, || clients(redis) <= 2);
    }
    assert_eq!(two.alpha2.sync_full(), 0);
    assert_eq!(two.first.links(), 1);
}

/// Three Sentinels that watch alpha as "mymaster", with a quorum of two.
struct Sentinels(Vec<(Process, u16)>);

impl Sentinels {
    fn start(lab: &Lab, master: u16) -> Self {
        let start = |number: usize| {
            let (folder, port) = (lab.path().join(format!("sentinel{number}")), free_port());
            std::fs::create_dir_all(&folder).unwrap();
            let config = folder.join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds mymaster 1500\nsentinel failover-timeout mymaster 10000\n",
                folder.display()
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&config).arg("--sentinel");
            (Process::start(&format!("sentinel {number}"), folder.join("log"), &mut command), port)
        };
        let all = Self((1..=3).map(start).collect());
        eventually("they know each other and alpha2", Duration::from_secs(40), || {
            all.0.iter().all(|(_, port)| {
                let master = ask(*port, &["SENTINEL", "MASTER", "mymaster"]);
                master.contains("num-other-sentinels 2") && master.contains("num-slaves 1")
            })
        });
        all
    }

    /// The lines of a `[[master]]` for these Sentinels and more.
    fn config(&self, more: &str) -> String {
        let at: Vec<_> = self.0.iter().map(|(_, port)| format!("\"127.0.0.1:{port}\"")).collect();
        format!("sentinel = {{ master = \"mymaster\", at = [{}]{more} }}", at.join(", "))
    }

    fn wait_switched(&self) {
        let switched = |(process, _): &(Process, u16)| process.log_text().contains("+switch-master mymaster");
        let begin = Duration::from_secs(30);
        eventually("a majority of them has switched", begin, || {
            self.0.iter().filter(|one| switched(one)).count() > 1
        });
    }
}

fn ask(port: u16, command: &[&str]) -> String {
    Client::connect(port).map(|mut client| client.ask(command).text()).unwrap_or_default()
}

/// Full syncs of a Redis but for those that it had to give since the replica was further: until a Sentinel knows
/// that another one is promoted, Sentinels go on to publish on the earlier master, which counts as writes.
fn needless_full_syncs(redis: &Redis) -> i64 {
    redis.sync_full() - redis.log().matches("but I can reply up to").count() as i64
}

#[test]
fn links_follow_the_sentinels_and_a_returning_old_master_does_not_get_them_back() {
    let mut two = Two::new();
    let sentinels = Sentinels::start(&two.lab, two.alpha.port);
    let text = std::fs::read_to_string(&two.first.config).unwrap();
    std::fs::write(&two.first.config, text + &sentinels.config("")).unwrap();
    two.first.process.signal("HUP");
    let named = || following(&two.first).to_string().matches("config-epoch").count();
    eventually("they are asked", SOON, || named() == 3);
    assert_eq!((two.followed(), two.first.links()), (Some(at(&two.alpha)), 1), "the link has stayed");
    // A failover by command: nothing is lost.
    ask(sentinels.0[0].1, &["SENTINEL", "FAILOVER", "mymaster"]);
    sentinels.wait_switched();
    let began = Instant::now();
    two.alpha2.ask(&["SET", "after", "the switch"]);
    eventually("the first byte at dc2", SOON, || two.bravo.ask(&["GET", "after"]) == "the switch");
    let took = began.elapsed();
    eprintln!("first byte at dc2 {took:?} after +switch-master");
    assert_eq!((two.followed(), needless_full_syncs(&two.alpha2)), (Some(at(&two.alpha2)), 0));
    assert_eq!(following(&two.first)["present"]["by"], "sentinel");
    eventually("alpha follows", SOON, || two.alpha.info("master_link_status") == "up");
    // And one for a crash.
    let before = needless_full_syncs(&two.alpha);
    eventually("the Sentinels know alpha as a replica", Duration::from_secs(40), || {
        sentinels.0.iter().all(|(_, port)| {
            let replicas = ask(*port, &["SENTINEL", "REPLICAS", "mymaster"]);
            replicas.contains(&at(&two.alpha)) && replicas.contains("master-link-status ok")
        })
    });
    two.alpha2.kill();
    eventually("alpha is the master again", Duration::from_secs(40), || two.alpha.info("role") == "master");
    two.alpha.ask(&["SET", "after", "the crash"]);
    eventually("dc2 follows", SOON, || two.bravo.ask(&["GET", "after"]) == "the crash");
    assert_eq!(needless_full_syncs(&two.alpha), before);
    // It comes back, empty, and says that it is the master.
    two.alpha2.start_again();
    always("alpha is followed", Duration::from_secs(6), || two.followed() == Some(at(&two.alpha)));
    eventually("alpha2 is made a replica", Duration::from_secs(40), || two.alpha2.info("role") == "slave");
    two.bravo.wait_equal(&two.alpha);
}

#[test]
fn sentinels_alone_name_the_master_within_the_networks_of_the_config() {
    let lab = Lab::new();
    let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
    let (alpha, alpha2, bravo) = (redis("alpha"), redis("alpha2"), redis("bravo"));
    alpha.fill();
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    let sentinels = Sentinels::start(&lab, alpha.port);
    let (wan, entry) = (free_port(), free_port());
    let config = |networks: &str| {
        let sentinel = sentinels.config(&format!(", networks = [\"{networks}\"]"));
        masters(wan, &[], &sentinel).replace("redis = []\n", "")
    };
    let first = lab.gateway("dc1", &config("10.0.0.0/8"));
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    bravo.replicaof(entry);
    first.wait_log("lies outside of `networks`");
    assert_eq!(followed(&first), None);
    std::fs::write(&first.config, config("127.0.0.0/8")).unwrap();
    first.process.signal("HUP");
    bravo.wait_equal(&alpha);
    assert_eq!(followed(&first), Some(at(&alpha)));
    ask(sentinels.0[0].1, &["SENTINEL", "FAILOVER", "mymaster"]);
    sentinels.wait_switched();
    eventually("the other one is followed", SOON, || followed(&first) == Some(at(&alpha2)));
    bravo.wait_equal(&alpha2);
    assert_eq!(needless_full_syncs(&alpha2), 0);
    // Without any Sentinel, what was followed goes on.
    drop(sentinels);
    eventually("they are silent", SOON, || {
        following(&first).to_string().matches("cannot be reached").count() > 2
    });
    alpha2.ask(&["SET", "still", "here"]);
    bravo.wait_equal(&alpha2);
    assert_eq!((followed(&first), first.links()), (Some(at(&alpha2)), 1));
}

#[test]
fn a_minority_of_sentinels_that_floods_stalls_or_lies_changes_nothing() {
    let two = Two::new();
    let lie = |port: u16| {
        let address = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.to_string().len());
        let facts = "*4\r\n$12\r\nconfig-epoch\r\n$3\r\n999\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n";
        Box::leak((address + facts).into_bytes().into_boxed_slice())
    };
    let liar = lie(two.alpha2.port);
    let honest: Vec<_> = (0..4).map(|_| Fake::new(lie(two.alpha.port))).collect();
    let others = [liar, &b"*2\r\n$9\r\n127.0"[..], megabyte()].map(Fake::new);
    let at_all: Vec<_> =
        honest.iter().chain(&others).map(|fake| format!("\"127.0.0.1:{}\"", fake.port)).collect();
    let text = std::fs::read_to_string(&two.first.config).unwrap();
    let sentinel = format!("sentinel = {{ master = \"mymaster\", at = [{}] }}", at_all.join(", "));
    std::fs::write(&two.first.config, text + &sentinel).unwrap();
    two.first.process.signal("HUP");
    let status = || following(&two.first).to_string();
    eventually("all were asked", SOON, || {
        !status().contains("was not asked yet")
            && status().contains("config-epoch 999")
            && status().contains("hangs")
    });
    always("alpha is followed", Duration::from_secs(4), || two.followed() == Some(at(&two.alpha)));
    // Not even if it takes over.
    two.alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    always("alpha is followed", Duration::from_secs(3), || two.followed() == Some(at(&two.alpha)));
    assert_eq!(two.first.links(), 1);
    let cpu = crate::support::cpu(two.first.process.child.id());
    std::thread::sleep(Duration::from_secs(1));
    assert!(crate::support::cpu(two.first.process.child.id()) - cpu < 0.3, "a flood costs little");
}

#[test]
fn a_second_candidate_in_a_reload_keeps_the_link_and_names_are_resolved() {
    let lab = Lab::new();
    let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
    let (alpha, alpha2, bravo) = (redis("alpha"), redis("alpha2"), redis("bravo"));
    alpha.fill();
    alpha2.replicaof(alpha.port);
    let (wan, entry) = (free_port(), free_port());
    let named = |text: String| {
        text.replace("\"127.0.0.1:", "\"localhost:").replace("listen = \"localhost", "listen = \"127.0.0.1")
    };
    let first = lab.gateway("dc1", &named(masters(wan, &[alpha.port], "")));
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    bravo.replicaof(entry);
    bravo.wait_equal(&alpha);
    std::fs::write(&first.config, named(masters(wan, &[alpha.port, alpha2.port], ""))).unwrap();
    first.process.signal("HUP");
    let own = |redis: &Redis| Some(format!("localhost:{}", redis.port));
    eventually("alpha is followed", SOON, || followed(&first) == own(&alpha));
    assert_eq!(first.lines("INFO", "link down"), 0);
    alpha2.wait_equal(&alpha);
    alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    alpha.replicaof(alpha2.port);
    eventually("alpha2 is followed", SOON, || followed(&first) == own(&alpha2));
    bravo.wait_equal(&alpha2);
    // Without alpha, which is not in the config any more.
    std::fs::write(&first.config, named(masters(wan, &[alpha2.port, free_port()], ""))).unwrap();
    first.process.signal("HUP");
    first.wait_log("reload: ");
    eventually("alpha is gone", SOON, || !following(&first).to_string().contains(&own(&alpha).unwrap()));
    assert_eq!((followed(&first), first.links(), alpha2.sync_full()), (own(&alpha2), 1, 0));
}

#[test]
fn a_user_without_the_right_to_ask_info_is_named_with_the_command_that_gives_it() {
    let lab = Lab::new();
    let (alpha, alpha2, bravo) = (lab.redis("alpha"), lab.redis("alpha2"), lab.redis("bravo"));
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    for redis in [&alpha, &alpha2] {
        redis.ask(&["ACL", "SETUSER", "gate", "on", ">secret", "+ping", "+replconf", "+psync"]);
    }
    std::fs::write(lab.path().join("redis.pw"), "wrong\n").unwrap();
    let (wan, entry) = (free_port(), free_port());
    let auth = "auth = { username = \"gate\", password_file = \"redis.pw\" }";
    let first = lab.gateway("dc1", &masters(wan, &[alpha.port, alpha2.port], auth));
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    bravo.replicaof(entry);
    let words = || following(&first)["parties"][0]["words"].as_str().unwrap_or_default().to_owned();
    eventually("the password is wrong", SOON, || words().contains("refuses the password in"));
    std::fs::write(lab.path().join("redis.pw"), "secret\n").unwrap();
    eventually("the right is missing", SOON, || words().contains("ACL SETUSER gate +info"));
    first.wait_kind("master-doubt");
    for redis in [&alpha, &alpha2] {
        redis.ask(&["ACL", "SETUSER", "gate", "+info"]);
    }
    bravo.wait_equal(&alpha);
    assert!(!first.log().contains("secret"));
}

#[test]
fn a_redis_that_is_restarted_without_its_data_again_and_again_never_gets_a_link() {
    let mut two = Two::new();
    let before = two.bravo.digest();
    two.alpha2.process.signal("STOP");
    for _ in 0..12 {
        two.alpha.kill();
        two.alpha.start_again();
        // Whoever asks at once is still told that nobody is known.
        two.bravo.ask(&["REPLICAOF", "127.0.0.1", &two.entry.to_string()]);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(two.alpha.sync_full(), 0);
    }
    assert_eq!(two.bravo.digest(), before);
    two.alpha2.process.signal("CONT");
}

#[test]
fn a_master_that_takes_another_ones_data_before_the_replica_asks_passes_none_of_it_on() {
    let two = Two::new();
    let before = two.bravo.digest();
    let blank = Redis::start(Version::System, two.lab.path(), "blank", QUIET);
    // Only the raw client below asks for a sync.
    two.bravo.process.signal("STOP");
    two.alpha2.process.signal("STOP");
    let mut replica = Client::connect(two.entry).expect("the gateway accepts");
    assert!(replica.try_ask(&["PING"]).is_some());
    assert!(
        replica.try_ask(&["REPLCONF", "listening-port", "6380", "capa", "eof", "capa", "psync2"]).is_some()
    );
    two.alpha.replicaof(blank.port);
    two.alpha.wait_equal(&blank);
    two.alpha.ask(&["REPLICAOF", "NO", "ONE"]);
    replica.send(&Client::encode(&["PSYNC", "?", "-1"]));
    let mut said = String::new();
    while let Some(line) = replica.line() {
        said.push_str(&line);
    }
    assert!(!said.contains("FULLRESYNC"), "{said}");
    assert_eq!(two.alpha.ask(&["DBSIZE"]), "0");
    two.bravo.process.signal("CONT");
    always("the data of dc2 stays", Duration::from_secs(3), || two.bravo.digest() == before);
    two.alpha2.process.signal("CONT");
    eprintln!("the replica was told {said:?}");
}

/// A config of a site whose Redis is the master, or follows the other site through this gateway.
fn both_ways(site: &str, own: (u16, u16), redis: &[u16], other: (&str, u16)) -> String {
    let redis: Vec<_> = redis.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "{}[state]\ndir = \"state-{site}\"\n[tunnel]\nlisten = \"127.0.0.1:{}\"\n[[master]]\nname = \"orders\"\nredis = [{}]\nfollow = \"master\"\nallow = [\"{}\"]\n[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:{}\"\nsite = \"{}\"\npeers = [\"127.0.0.1:{}\"]\n",
        tls(site),
        own.0,
        redis.join(", "),
        other.0,
        own.1,
        other.0,
        other.1
    )
}

#[test]
fn a_site_that_comes_back_as_a_replica_waits_and_is_the_masters_site_again_without_an_order() {
    let lab = Lab::new();
    let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
    let (mut alpha, alpha2, bravo) = (redis("alpha"), redis("alpha2"), redis("bravo"));
    alpha.fill();
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    let (wan, entry) = ([free_port(), free_port()], [free_port(), free_port()]);
    let mut first = lab
        .gateway("dc1", &both_ways("dc1", (wan[0], entry[0]), &[alpha.port, alpha2.port], ("dc2", wan[1])));
    let second = lab.gateway("dc2", &both_ways("dc2", (wan[1], entry[1]), &[bravo.port], ("dc1", wan[0])));
    bravo.replicaof(entry[1]);
    bravo.wait_equal(&alpha);
    let is_standby = |gateway: &Gateway| {
        let status = following(gateway);
        status["standby"] == true && status["attention"].is_null() && status["next_step"].is_null()
    };
    eventually("dc2 waits", SOON, || is_standby(&second));
    second.wait_event("waits at this site", &["kind=\"master-standby\""]);
    assert_eq!(second.lines("ERROR", ""), 0, "{}", second.log());
    // Alpha is lost, with the site. Bravo takes over.
    alpha.kill();
    alpha2.process.signal("STOP");
    let away = || following(&first).to_string();
    eventually("it is told what to do", SOON, || away().contains("or wait for it"));
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    eventually("dc2 has the master", SOON, || followed(&second) == Some(at(&bravo)));
    bravo.ask(&["SET", "since", "the failover"]);
    // Alpha comes back blank, and gets all data of bravo through its own gateway.
    alpha.start_again();
    first.wait_kind("master-lost");
    let listener = format!("REPLICAOF 127.0.0.1 {}", entry[0]);
    eventually("it is told how it becomes a replica", SOON, || {
        let next = following(&first)["next_step"].as_str().unwrap_or_default().to_owned();
        next.find(&listener).is_some_and(|at| next.find("replgate follow").is_some_and(|last| at < last))
    });
    alpha.replicaof(entry[0]);
    alpha2.process.signal("CONT");
    alpha.wait_equal(&bravo);
    alpha2.wait_equal(&bravo);
    eventually("dc1 waits", SOON, || is_standby(&first));
    first.wait_kind("master-standby");
    let stream = bravo.info("master_replid");
    let file = lab.path().join("state-dc1/follow-master-orders.toml");
    eventually("the stream is kept", SOON, || {
        std::fs::read_to_string(&file).is_ok_and(|kept| kept.contains(&stream))
    });
    // Without the other site it does not wait any more.
    second.process.signal("STOP");
    bravo.process.signal("STOP");
    alpha.ask(&["CLIENT", "KILL", "TYPE", "master"]);
    eventually("it is told where to look", Duration::from_secs(30), || {
        let status = following(&first);
        let next = status["next_step"].as_str().unwrap_or_default();
        status["standby"] == false && next.starts_with("look first why the replica's own link")
    });
    second.process.signal("CONT");
    bravo.process.signal("CONT");
    eventually("dc1 waits again", Duration::from_secs(30), || is_standby(&first));
    // A restart does not forget it. Then the planned return.
    assert_eq!(first.stop(), Some(0));
    first.start_again();
    eventually("dc1 waits again", Duration::from_secs(30), || is_standby(&first));
    alpha.wait_equal(&bravo);
    alpha2.wait_equal(&bravo);
    let full = bravo.sync_full() + alpha.sync_full();
    alpha.ask(&["REPLICAOF", "NO", "ONE"]);
    bravo.replicaof(entry[1]);
    eventually("dc1 follows alpha", SOON, || followed(&first) == Some(at(&alpha)));
    assert_eq!(following(&first)["present"]["by"], "lineage");
    alpha.ask(&["SET", "back", "home"]);
    bravo.wait_equal(&alpha);
    alpha2.wait_equal(&alpha);
    eventually("dc2 waits again", SOON, || is_standby(&second));
    assert_eq!(bravo.sync_full() + alpha.sync_full(), full, "nobody needed all data");
}

#[test]
fn a_site_whose_master_hangs_at_the_start_does_not_wait() {
    let lab = Lab::new();
    let (alpha, alpha2) = (lab.redis("alpha"), lab.redis("alpha2"));
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    alpha.process.signal("STOP");
    let config =
        both_ways("dc1", (free_port(), free_port()), &[alpha.port, alpha2.port], ("dc2", free_port()));
    let first = lab.gateway("dc1", &config);
    first.wait_kind("master-doubt");
    let status = following(&first);
    assert!(status["standby"] == false && status["attention"].is_string(), "{status}");
    alpha.process.signal("CONT");
    eventually("alpha is followed", SOON, || followed(&first) == Some(at(&alpha)));
}
