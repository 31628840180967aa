//! Sentinel, and Redis' own FAILOVER command, with replicas behind the tunnel.
//!
//! Both sites are on one machine here, but an address may mean a different Redis at each site. So
//! where that matters, bravo at dc2 dials from [`DC2`]. All others are at dc1.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::{Lab, Pair, master_config, replica_config};
use crate::support::redis::{ALL, Answer, Client, Redis, Version};
use crate::support::wire::{Site, Wire};
use crate::support::{Process, SOON, always, eventually, free_port};

/// An address of dc2.
const DC2: &str = "127.0.0.2";

/// How long Sentinel may take to correct what it considers wrong. It asks for INFO every 10 s,
/// acts on the second answer, and does nothing for 30 s after it was prevented from running.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn sentinel_does_not_demote_the_master_whatever_a_site_announces() {
    let plain = Watched::new("commands = \"any\"", "ip=127.0.0.1,");
    let named = Watched::new("", "ip=dc2,");
    let began = Instant::now();
    // Other addresses that a site may send for its replicas, each on its own link, which stays open.
    let own = named.alpha.port.to_string();
    let site = Site::new(&named.lab.path().join("certs"), "dc2", "dc1");
    let forged = format!("x\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:{own}\r\nx:");
    let said: [&[&str]; 5] = [
        &["listening-port", &own, "ip-address", "127.0.0.1"],
        &["listening-port", &own],
        &["ip-address", &forged],
        &["ip-address", "127.0.0.1", "listening-port", "1", "listening-port", &own],
        &[],
    ];
    let links: Vec<Wire> = said
        .iter()
        .map(|options| {
            let (mut wire, _) = site.link(named.pair.wan);
            let mut offset = 0;
            let mut send = |words: &[&str], answer: &[u8]| {
                let command = Client::encode(words);
                wire.data(offset, &command).expect("the gateway reads");
                offset += command.len() as u64;
                let received = wire.stream(answer.len());
                assert!(received.starts_with(answer), "{words:?}: {}", received.escape_ascii());
            };
            if !options.is_empty() {
                send(&[&["REPLCONF"], *options].concat(), b"+OK\r\n");
            }
            send(&["PSYNC", "?", "-1"], b"+FULLRESYNC");
            wire
        })
        .collect();
    // The control: Sentinel takes the master itself for the replica and makes it follow itself.
    eventually("the master becomes a replica of itself", PATIENCE, || plain.alpha.info("role") == "slave");
    assert_eq!(plain.alpha.info("master_port"), plain.alpha.port.to_string());
    let itself = format!("+convert-to-slave slave 127.0.0.1:{} ", plain.alpha.port);
    assert!(plain.sentinel.log().contains(&itself), "it was Sentinel: {}", plain.sentinel.log());

    always("the master stays a master", began.elapsed(), || named.alpha.info("role") == "master");
    let info = named.alpha.ask(&["INFO", "replication"]);
    assert_eq!((info.matches("role:").count(), info.matches("master_host").count()), (1, 0), "{info}");
    for line in info.lines().filter(|line| line.starts_with("slave") && line.contains(":ip=")) {
        let host = line.split(['=', ',']).nth(1).unwrap_or_default();
        assert!(host == "dc2" || host.ends_with(".dc2"), "{line}");
    }
    let mut client = named.alpha.client();
    client.ask(&["SET", "still", "replicated"]);
    assert_eq!(client.ask(&["WAIT", "1", "5000"]).text(), "1", "the replica follows");
    // Sentinel logs two lines for each INFO, so more than one INFO has named the replica.
    let seen = named.sentinel.log().matches("Failed to resolve hostname 'dc2'").count();
    assert!(seen > 2, "Sentinel has seen the replica {seen} times: {}", named.sentinel.log());
    assert_eq!(named.sentinel.ask(&["SENTINEL", "REPLICAS", "orders"]), Answer::List(Vec::new()));
    drop(links);
}

#[test]
fn sentinel_reaches_replicas_through_a_plain_pair() {
    let lab = Lab::new();
    // Each Redis has one address at both sites. Alpha's leads to the gateway at dc2, and the
    // others' lead to the gateway at dc1.
    let [of_alpha, of_bravo, of_charli] = [(); 3].map(|()| free_port());
    let mut alpha = announced(&lab, "alpha", of_alpha, &[]);
    let bravo = announced(&lab, "bravo", of_bravo, &["--bind-source-addr", DC2]);
    let charli = announced(&lab, "charli", of_charli, &["--replica-priority", "0"]);
    let replicas = [("bravo", bravo.port, of_bravo), ("charli", charli.port, of_charli)];
    let accepted = accept(&[of_bravo, of_charli]);
    let pair = two_way(&lab, alpha.port, &replicas, [&accepted, "commands = \"any\""], "");
    lead(of_alpha, alpha.port, pair.entry);
    alpha.fill();
    bravo.replicaof(of_alpha);
    charli.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    charli.wait_equal(&alpha);

    let sentinel = Sentinel::start(lab.path(), of_alpha);
    let follows = |redis: &Redis, port: u16| redis.info("master_port") == port.to_string();
    // Sentinel redirects a replica that has another address for its master, even if the replica
    // may never be promoted.
    eventually("charli is redirected to Sentinel's address", PATIENCE, || follows(&charli, of_alpha));
    always("bravo is not redirected", Duration::from_secs(3), || follows(&bravo, of_alpha));
    let log = sentinel.log();
    assert!(log.contains(&format!("+fix-slave-config slave 127.0.0.1:{of_charli} ")), "{log}");
    assert!(log.contains(&format!("+slave slave 127.0.0.1:{of_bravo} ")), "{log}");
    assert!(!log.contains(&format!("+fix-slave-config slave 127.0.0.1:{of_bravo} ")), "{log}");
    assert_eq!(pair.second.log().matches("link up link=orders").count(), 2, "one link for each");

    alpha.kill();
    eventually("the replica at the other site is promoted", PATIENCE, || bravo.info("role") == "master");
    bravo.ask(&["SET", "written", "without alpha"]);
    alpha.start_again();
    eventually("alpha is made a replica of bravo", PATIENCE, || follows(&alpha, of_bravo));
    alpha.wait_equal(&bravo);
    assert_eq!(alpha.ask(&["GET", "written"]), "without alpha");
}

#[test]
fn failover_to_a_replica_behind_the_tunnel_works_only_where_it_is_allowed() {
    for (version, allowed) in ALL.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        let lab = Lab::new();
        let alpha = Redis::start(version, lab.path(), "alpha", &[]);
        let bravo = Redis::start(version, lab.path(), "bravo", &[]);
        let of_bravo = free_port();
        let pair = two_way(
            &lab,
            alpha.port,
            &[("bravo", bravo.port, of_bravo)],
            [&accept(&[of_bravo]), &format!("allow_failover = {allowed}")],
            &format!("announce = {{ host = \"127.0.0.1\", port = {of_bravo} }}"),
        );
        alpha.fill();
        bravo.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        eventually("alpha lists bravo as online", SOON, || alpha.listed() == (1, 1));
        let roles = || (alpha.info("role"), bravo.info("role"));
        let over = || alpha.info("master_failover_state") == "no-failover";
        alpha.ask(&["FAILOVER", "TO", "127.0.0.1", &of_bravo.to_string(), "TIMEOUT", "10000"]);
        if allowed {
            eventually("the roles are swapped", SOON, || roles() == ("slave".into(), "master".into()));
            eventually("the failover is over", SOON, over);
            bravo.ask(&["SET", "written", "on bravo"]);
            alpha.wait_equal(&bravo);
            assert_eq!(alpha.ask(&["GET", "written"]), "on bravo", "{version:?}");
            assert_eq!(bravo.sync_full(), 0, "{version:?}: a partial resync was enough for alpha");
        } else {
            pair.second.wait_log("PSYNC with FAILOVER");
            eventually("the failover is over", SOON, over);
            assert_eq!(roles(), ("master".into(), "slave".into()), "{version:?}: as before");
            alpha.ask(&["SET", "written", "on alpha"]);
            bravo.wait_equal(&alpha);
            assert_eq!(bravo.ask(&["GET", "written"]), "on alpha", "{version:?}");
            assert_eq!(alpha.sync_full(), 1, "{version:?}: a partial resync was enough for bravo");
        }
    }
}

/// The master alpha, which a Sentinel monitors, and a replica with the same port number at the
/// other site.
struct Watched {
    sentinel: Sentinel,
    _bravo: Redis,
    pair: Pair,
    alpha: Redis,
    /// The last field, so that the logs still exist when the others are dropped.
    lab: Lab,
}

impl Watched {
    /// The replica's site announces nothing. With the lines `more` in the `[[master]]`, the master
    /// lists the replica as `listed`.
    fn new(more: &str, listed: &str) -> Self {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        let pair = lab.pair_with(alpha.port, more, "announce = \"keep\"");
        let options = ["--bind", DC2, "--replicaof", "127.0.0.1", &pair.entry.to_string()];
        let bravo = Redis::start_unready(Version::System, lab.path(), "bravo", alpha.port, &options);
        eventually("the replica is online", SOON, || alpha.listed() == (1, 1));
        let expected = format!("{listed}port={},", alpha.port);
        assert!(alpha.info("slave0").starts_with(&expected), "{expected}: {}", alpha.info("slave0"));
        let sentinel = Sentinel::start(lab.path(), alpha.port);
        Self { sentinel, _bravo: bravo, pair, alpha, lab }
    }
}

/// A Sentinel with a quorum of one.
pub struct Sentinel {
    process: Process,
    pub port: u16,
}

impl Sentinel {
    /// Starts a Sentinel that monitors the master "orders" on this port.
    pub fn start(folder: &Path, master: u16) -> Self {
        let (config, port) = (folder.join("sentinel.conf"), free_port());
        // A node counts as down after 2 s of silence. A lost connection, which is opened again after
        // 1 s, must not count.
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\n\
             sentinel monitor orders 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds orders 2000\n\
             sentinel failover-timeout orders 2000\n",
            folder.display()
        );
        std::fs::write(&config, text).expect("the test's folder is writable");
        let mut command = Command::new("redis-server");
        command.arg(&config).arg("--sentinel");
        let process = Process::start("sentinel", folder.join("sentinel.log"), &mut command);
        let sentinel = Self { process, port };
        eventually("Sentinel monitors the master", SOON, || sentinel.log().contains("+monitor master"));
        sentinel
    }

    fn log(&self) -> String {
        self.process.log_text()
    }

    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> Answer {
        Client::connect(self.port).expect("Sentinel accepts").ask(command)
    }
}

/// A Redis that announces its address.
fn announced(lab: &Lab, name: &str, port: u16, more: &[&str]) -> Redis {
    let port = port.to_string();
    let own = ["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &port];
    Redis::start(Version::System, lab.path(), name, &[&own, more].concat())
}

/// The config line that lets the master list dc2's replicas on these ports as they announce
/// themselves.
fn accept(ports: &[u16]) -> String {
    let addresses: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!("accept_announce = {{ dc2 = [{}] }}", addresses.join(", "))
}

/// The usual pair, in both directions. dc2 offers `replicas` to dc1: each has a name, its own
/// port, and the port on which the gateway of dc1 listens for it. The `[[master]]` sections of
/// both sites have additional lines.
fn two_way(
    lab: &Lab,
    alpha: u16,
    replicas: &[(&str, u16, u16)],
    [more_first, more_second]: [&str; 2],
    more_replica: &str,
) -> Pair {
    let (wan, back, entry) = (free_port(), free_port(), free_port());
    let mut first = master_config("dc1", wan, &[("orders", alpha)], more_first);
    let mut second = replica_config("dc2", entry, wan, more_replica);
    second += &format!("[tunnel]\nlisten = \"127.0.0.1:{back}\"\n");
    for (name, redis, listen) in replicas {
        first += &format!(
            "[[replica]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{listen}\"\nsite = \"dc2\"\n\
             peers = [\"127.0.0.1:{back}\"]\n"
        );
        second += &format!(
            "[[master]]\nname = \"{name}\"\nredis = \"127.0.0.1:{redis}\"\nallow = [\"dc1\"]\n{more_second}\n"
        );
    }
    let (first, second) = (lab.gateway("dc1", &first), lab.gateway("dc2", &second));
    Pair { first, second, wan, entry }
}

/// Simulates a port with a different service at each site: from dc1 it leads to `alpha`, and from
/// dc2 to the gateway there. It lasts as long as this process.
fn lead(port: u16, alpha: u16, entry: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is still free");
    std::thread::spawn(move || {
        while let Ok((client, from)) = listener.accept() {
            let target = if from.ip().to_string() == DC2 { entry } else { alpha };
            // If the target is down, the client is closed.
            if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
                    let (mut from, mut to) = (clone(from), clone(to));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        // The end of either connection closes both.
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        }
    });
}
