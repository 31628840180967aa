//! Clients of a replica listener that are not replicas, and replicas that connect at the same time.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::gateway::{Lab, Pair, master_config, replica_config};
use crate::support::redis::{Answer, Client, Redis};
use crate::support::wire::Site;
use crate::support::{SOON, always, eventually, free_port};
use replgate::internal::wire::hello::{Id, Request};
use replgate::internal::wire::reason::ReasonCode;

/// A master behind a pair of gateways. It counts the connections that its Redis accepts.
struct Checked {
    alpha: Redis,
    pair: Pair,
    /// The last field, so that the logs still exist when the others are dropped.
    lab: Lab,
}

impl Checked {
    fn new(limits: &str) -> Self {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        alpha.ask(&["SET", "some", "data"]);
        let pair = lab.pair_with(alpha.port, limits, "");
        Self { alpha, pair, lab }
    }

    fn replica(&self, name: &str) -> Redis {
        let replica = self.lab.redis(name);
        replica.replicaof(self.pair.entry);
        replica
    }

    /// Number of connections that the master accepted during `work`.
    fn accepted(&self, work: impl FnOnce()) -> i64 {
        let mut counter = self.alpha.client();
        let mut count = || {
            let Answer::Text(info) = counter.ask(&["INFO", "stats"]) else { panic!("INFO answers") };
            let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
            line.and_then(|count| count.trim().parse::<i64>().ok()).expect("INFO has the count")
        };
        let before = count();
        work();
        count() - before
    }

    /// Number of lines in both logs at INFO or above.
    fn lines(&self) -> usize {
        let seen = |log: String| log.lines().filter(|line| !line.contains(" DEBUG ")).count();
        seen(self.pair.first.log()) + seen(self.pair.second.log())
    }
}

/// Makes a health check as a load balancer does. Returns whether it was answered.
fn ping_and_quit(host: [u8; 4], entry: u16) -> bool {
    let mut client = Client::from(host, entry);
    let pong = client.try_ask(&["PING"]) == Some(Answer::Text("PONG".to_owned()));
    client.send(&Client::encode(&["QUIT"]));
    pong
}

/// Makes a replica's handshake once. Returns whether a sync has begun.
fn syncs(host: [u8; 4], entry: u16, port: u16) -> bool {
    let mut client = Client::from(host, entry);
    let port = port.to_string();
    client.try_ask(&["PING"]).is_some()
        && client.try_ask(&["REPLCONF", "listening-port", &port]).is_some()
        && client.try_ask(&["REPLCONF", "capa", "eof", "capa", "psync2"]).is_some()
        && {
            client.send(&Client::encode(&["PSYNC", "?", "-1"]));
            // Until the snapshot begins, Redis sends the replica an empty line every second.
            let mut lines = std::iter::from_fn(|| client.line());
            lines.find(|line| !line.is_empty()).is_some_and(|line| line.starts_with("+FULLRESYNC"))
        }
}

#[test]
fn a_client_that_sends_nothing_costs_the_master_no_connection() {
    let checked = Checked::new("");
    let entry = checked.pair.entry;
    let mut held = Vec::new();
    let accepted = checked.accepted(|| {
        for _ in 0..100 {
            drop(TcpStream::connect(("127.0.0.1", entry)).expect("the gateway accepts"));
        }
        held.extend((0..20).map(|_| TcpStream::connect(("127.0.0.1", entry)).expect("the gateway accepts")));
        always("none of them becomes a link", Duration::from_secs(3), || checked.pair.first.links() == 0);
    });
    // The gateway has to find out once whether the far side sends first.
    assert!(accepted <= 1, "{accepted}");
    assert!(checked.lines() < 20, "{}", checked.lines());
    checked.replica("bravo").wait_equal(&checked.alpha);
}

#[test]
fn a_client_that_sends_nothing_gets_an_error_and_is_closed() {
    let checked = Checked::new("");
    let mut silent = Client::connect(checked.pair.entry).expect("the gateway accepts");
    let (rest, ended) = silent.rest(SOON * 2);
    assert!(ended && String::from_utf8_lossy(&rest).contains("no sync was asked for within 20 s"));
}

#[test]
fn health_checks_are_answered_and_keep_no_replica_out() {
    let checked = Checked::new("");
    let entry = checked.pair.entry;
    let before = checked.lines();
    let accepted = checked.accepted(|| {
        for check in 0..100 {
            assert!(ping_and_quit([127, 0, 0, 1], entry), "check {check} is answered");
        }
    });
    assert!(accepted < 20, "{accepted} of 100 checks reached the master");
    // A replica with the same address as the checks.
    checked.replica("bravo").wait_equal(&checked.alpha);
    assert!(checked.lines() - before < 30, "{} lines", checked.lines() - before);
    assert_eq!(checked.pair.first.status()["counts"]["refused"], 0);
}

#[test]
fn a_fleet_of_health_checks_keeps_no_replica_out() {
    let checked = Checked::new("");
    let entry = checked.pair.entry;
    let accepted = checked.accepted(|| {
        for address in 1..=200 {
            assert!(ping_and_quit([127, 0, 1, address], entry), "check {address} is answered");
        }
    });
    assert!(accepted < 20, "{accepted} of 200 checks reached the master");
    // Requests of another protocol: they wait only for the limit of their address, not for an answer.
    let _waiting: Vec<_> = (0..50)
        .map(|_| {
            let mut client = Client::from([127, 0, 2, 1], entry);
            client.send(b"GET / HTTP/1.1\r\n\r\n");
            client
        })
        .collect();
    assert!(
        syncs([127, 0, 2, 1], entry, 7001),
        "a replica at the same address gets its sync at the first try"
    );
    checked.replica("bravo").wait_equal(&checked.alpha);
}

#[test]
fn replicas_that_reconnect_together_do_not_wait_for_health_checks() {
    let checked = Checked::new("[limits]\nlinks_per_site = 200\nnew_links_per_minute = 200\n");
    let entry = checked.pair.entry;
    for _ in 0..10 {
        ping_and_quit([127, 0, 0, 2], entry);
    }
    thread::scope(|scope| {
        let checks = scope.spawn(|| (0..40).filter(|_| ping_and_quit([127, 0, 0, 2], entry)).count());
        let replicas: Vec<_> =
            (0..100).map(|at| scope.spawn(move || syncs([127, 0, 0, 3], entry, 7000 + at))).collect();
        let begun = replicas.into_iter().filter_map(|replica| replica.join().ok()).filter(|begun| *begun);
        assert_eq!(begun.count(), 100, "each gets its sync at the first try");
        assert_eq!(checks.join().expect("the checks end"), 40);
    });
}

#[test]
fn a_site_that_opens_links_and_asks_for_no_sync_cannot_flood_the_master_with_connections() {
    let checked = Checked::new("");
    let site = Site::new(&checked.lab.path().join("certs"), "dc2", "dc1");
    let mut refusals = Vec::new();
    let accepted = checked.accepted(|| {
        for _ in 0..150 {
            let want = Request::New { master: "orders".to_owned(), sibling: None, replica: None };
            if let (_, Err(refuse)) = site.ask(checked.pair.wan, want) {
                refusals.push(refuse.reason);
            }
        }
    });
    assert!((60..100).contains(&accepted), "{accepted}");
    assert!(refusals.iter().all(|why| why.code == ReasonCode::Limit), "{refusals:?}");
    assert!(refusals[0].text.contains("asked for no sync"), "{:?}", refusals[0]);
    // Another lane for an existing link does not count as a new link.
    let want = Request::Attach { link: Id::random(), lane: 1, alive: Vec::new(), received: 0 };
    let (_, answer) = site.ask(checked.pair.wan, want);
    assert_eq!(answer.map_err(|refuse| refuse.reason.code).unwrap_err(), ReasonCode::UnknownLink);
    // A replica of that site gets its sync when it tries again.
    checked.replica("bravo").wait_equal(&checked.alpha);
}

#[test]
fn a_link_that_asks_for_no_sync_is_closed_for_a_new_one_at_the_limit_of_its_site() {
    let checked = Checked::new("[limits]\nlinks_per_site = 3\n");
    let mut idle: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(checked.pair.entry).expect("the gateway accepts");
            client.ask(&["PING"]);
            client.ask(&["REPLCONF", "capa", "eof"]);
            client
        })
        .collect();
    assert_eq!(checked.pair.first.links(), 3);
    let bravo = checked.replica("bravo");
    bravo.wait_equal(&checked.alpha);
    let (rest, ended) = idle[0].rest(SOON);
    assert!(
        ended && String::from_utf8_lossy(&rest).contains("its site had reached its limit of links"),
        "{rest:?}"
    );
    eventually("the others stay", SOON, || checked.pair.first.links() == 3);
}

#[test]
fn the_syncs_of_a_site_are_counted_when_they_are_asked_for() {
    let checked = Checked::new("[limits]\nnew_links_per_minute = 2\n");
    let entry = checked.pair.entry;
    assert!(syncs([127, 0, 0, 2], entry, 7001) && syncs([127, 0, 0, 3], entry, 7002));
    let charli = checked.replica("charli");
    eventually("the third replica gets the error", SOON, || {
        charli
            .log()
            .contains("too many syncs of this site within a minute (new_links_per_minute); ask again in")
    });
    assert_eq!(charli.ask(&["EXISTS", "some"]), "0");
}

#[test]
fn the_far_side_of_a_plain_tunnel_may_send_first() {
    use std::io::{Read, Write};
    let greets = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = greets.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for socket in greets.incoming() {
            let _ = socket.and_then(|mut socket| socket.write_all(b"welcome"));
        }
    });
    let lab = Lab::new();
    let (wan, entry) = (free_port(), free_port());
    let config = master_config("dc1", wan, &[("orders", port)], "commands = \"any\"\n");
    let _first = lab.gateway("dc1", &config);
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    for _ in 0..2 {
        let mut client = TcpStream::connect(("127.0.0.1", entry)).expect("the gateway accepts");
        client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        let mut greeting = [0; 7];
        client.read_exact(&mut greeting).expect("the greeting comes");
        assert_eq!(&greeting, b"welcome");
    }
}
