//! Without a Sentinel: somebody promotes by hand, or an orchestrator does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::{Layout, PATIENCE, Sites, Writer, at, first_byte, hand_over, told};
use crate::support::redis::{ALL, Answer, Redis, Version};
use crate::support::{SOON, always, eventually, replgate};

impl Sites {
    /// Writes to alpha, or to another one later.
    fn writes(&self) -> (Arc<AtomicU16>, Writer) {
        let port = Arc::new(AtomicU16::new(self.alpha.port));
        let writer = Writer::by_hand(&port);
        self.loaded();
        (port, writer)
    }

    /// Orders to follow a Redis. Returns the exit code and what was printed.
    fn order(&self, redis: &Redis, more: &[&str]) -> (i32, String) {
        let (config, place) = (self.first.config.to_string_lossy().into_owned(), at(redis));
        let words = [&["follow", "orders", &place, "-c", &config], more].concat();
        let (code, out, err) = replgate(std::path::Path::new("/"), &words);
        (code, out + &err)
    }
}

/// Clients of a Redis that are no replicas.
fn clients(redis: &Redis) -> usize {
    redis.ask(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count()
}

#[test]
fn a_planned_failover_by_hand_costs_no_full_sync_in_any_version() {
    for version in ALL {
        let sites = Sites::new(version, Layout::default());
        let (alpha, alpha2) = (&sites.alpha, &sites.alpha2);
        let (to, writer) = sites.writes();
        let full = alpha.sync_full();
        let byte = first_byte(&sites.bravo, alpha2);
        hand_over(alpha, alpha2);
        to.store(alpha2.port, Ordering::SeqCst);
        let promoted = Instant::now();
        told(&format!("planned by hand, {version:?}"), promoted, byte.join().expect("it arrives"));
        writer.stop();
        sites.settle(alpha2, &[alpha, &sites.bravo, &sites.charli], "lineage");
        assert_eq!((alpha.sync_full(), alpha2.sync_full()), (full, 0), "{version:?}");
    }
}

#[test]
fn a_redis_without_what_was_passed_on_is_refused_until_a_person_orders_it() {
    let sites = Sites::new(Version::System, Layout::default());
    let (alpha, alpha2) = (&sites.alpha, &sites.alpha2);
    let (to, writer) = sites.writes();
    // alpha2 gets nothing more, and dc2 does.
    alpha2.process.signal("STOP");
    let before = sites.far().map(Redis::replica_offset);
    eventually("dc2 has more", SOON, || {
        sites
            .far()
            .into_iter()
            .zip(before)
            .all(|(replica, before)| replica.replica_offset() > before + 500_000)
    });
    // What alpha2 has not read yet would get to it still.
    alpha.process.signal("STOP");
    writer.stop();
    let has = sites.far().map(Redis::digest);
    alpha2.process.signal("CONT");
    alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    let behind = alpha2.info_number("second_repl_offset");
    if sites.far().map(Redis::replica_offset).into_iter().any(|offset| offset < behind) {
        panic!("alpha2 is behind: {behind}, {:?}", sites.far().map(Redis::replica_offset));
    }
    let attention = || sites.following()["attention"].as_str().unwrap_or_default().to_owned();
    let words = format!("{} took over at offset {}, without the last ", at(alpha2), behind - 1);
    eventually("it is refused", SOON, || attention().contains(&words));
    sites.first.wait_kind("master-doubt");
    let next = sites.following()["next_step"].as_str().unwrap_or_default().to_owned();
    assert!(next.ends_with(&format!("replgate follow orders {}", at(alpha2))), "{next}");
    always("the data of dc2 stays", Duration::from_secs(2), || sites.far().map(Redis::digest) == has);
    let (code, told) = sites.order(alpha2, &[]);
    assert!(code == 0 && told.contains("these are lost") && told.contains("--yes"), "{code}: {told}");
    assert_eq!((sites.follows(alpha), alpha2.sync_full()), (true, 0), "only told");
    let (code, told) = sites.order(alpha2, &["--yes"]);
    assert_eq!(code, 0, "{told}");
    to.store(alpha2.port, Ordering::SeqCst);
    let writer = Writer::by_hand(&to);
    first_byte(&sites.bravo, alpha2).join().expect("it arrives");
    writer.stop();
    // Before it wakes up, it is killed: it would still be written to.
    alpha.process.signal("CONT");
    alpha.replicaof(alpha2.port);
    sites.settle(alpha2, &[alpha, &sites.bravo, &sites.charli], "person");
    assert_eq!(alpha2.sync_full(), 3, "all three had more than it had");
}

#[test]
fn a_gateway_that_was_killed_during_a_failover_follows_the_successor_once_it_is_back() {
    let mut sites = Sites::new(Version::System, Layout::default());
    let full = sites.alpha.sync_full();
    sites.alpha.ask(&["SET", "before", "the crash"]);
    for replica in sites.far() {
        eventually("it arrives", SOON, || replica.ask(&["GET", "before"]) == "the crash");
    }
    sites.first.kill();
    hand_over(&sites.alpha, &sites.alpha2);
    sites.alpha2.ask(&["SET", "after", "the switch"]);
    sites.first.start_again();
    let (alpha, alpha2) = (&sites.alpha, &sites.alpha2);
    // How far it had passed the stream on is not known after a crash.
    let (code, told) = sites.order(alpha2, &["--yes"]);
    assert_eq!(code, 0, "{told}");
    let by = sites.following()["present"]["by"].as_str().unwrap_or_default().to_owned();
    eprintln!("after a crash followed by: {by}: {told}");
    sites.settle(alpha2, &[alpha, &sites.bravo, &sites.charli], &by);
    assert_eq!((alpha.sync_full(), alpha2.sync_full()), (full, 0));
}

#[test]
fn many_switches_leave_no_connection_behind_and_cost_no_full_sync() {
    let sites = Sites::new(Version::System, Layout::default());
    let (mut master, mut other) = (&sites.alpha, &sites.alpha2);
    let full = master.sync_full();
    let (began, mut switches) = (Instant::now(), 0);
    while switches < 200 && began.elapsed() < Duration::from_secs(40) {
        hand_over(master, other);
        (master, other) = (other, master);
        switches += 1;
        let value = switches.to_string();
        master.ask(&["SET", "switch", &value]);
        for replica in sites.far() {
            eventually("it is followed", PATIENCE, || {
                replica.try_ask(&["GET", "switch"]) == Some(Answer::Text(value.clone()))
            });
        }
    }
    eprintln!("{switches} switches in {:.1} s", began.elapsed().as_secs_f64());
    assert!(switches >= 10, "{switches} switches");
    sites.settle(master, &[other, &sites.bravo, &sites.charli], "lineage");
    for redis in [&sites.alpha, &sites.alpha2] {
        // The gateway's own, and that of the client that asks.
        eventually("no connection is left behind", SOON, || clients(redis) <= 2);
    }
    assert_eq!(master.listed(), (3, 3));
    assert_eq!(sites.alpha.sync_full() + sites.alpha2.sync_full(), full, "nobody needed all data");
}
