//! Without a Sentinel: somebody promotes by hand, or an orchestrator does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::{Layout, PATIENCE, Sites, Writer, at, first_byte, hand_over, told};
use crate::support::redis::{ALL, Answer, Redis, Version};
use crate::support::{SOON, always, eventually, free_port, kill, replgate};

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
    alpha2.replicaof(free_port());
    let before = alpha2.replica_offset() + 500_000;
    eventually("dc2 has more", SOON, || {
        sites.far().into_iter().all(|replica| replica.replica_offset() > before)
    });
    kill("KILL", alpha.process.child.id());
    writer.stop();
    let offsets = sites.last_offsets();
    let has = sites.far().map(Redis::digest);
    alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    let behind = alpha2.info_number("second_repl_offset");
    assert_eq!(sites.owed(alpha2, offsets), 2, "{behind}: {offsets:?}");
    let attention = || sites.following()["attention"].as_str().unwrap_or_default().to_owned();
    let words = format!("{} took over at offset {}, without the last ", at(alpha2), behind - 1);
    eventually("it is refused", SOON, || attention().contains(&words));
    sites.first.wait_kind("master-doubt");
    let next = sites.following()["next_step"].as_str().unwrap_or_default().to_owned();
    assert!(next.contains(&format!("replgate follow orders {} (--yes", at(alpha2))), "{next}");
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
    sites.settle(alpha2, &[&sites.bravo, &sites.charli], "person");
    assert_eq!(alpha2.sync_full(), 2, "both had more than it had");
}

#[test]
fn a_gateway_that_was_killed_before_a_failover_follows_by_itself_and_during_one_asks_a_person() {
    let mut sites = Sites::new(Version::System, Layout::default());
    let full = sites.alpha.sync_full();
    sites.first.kill();
    sites.first.start_again();
    eventually("both continue", SOON, || sites.first.links() == 2);
    sites.alpha.ask(&["SET", "after", "the first crash"]);
    for replica in sites.far() {
        eventually("it arrives", SOON, || replica.ask(&["GET", "after"]) == "the first crash");
    }
    hand_over(&sites.alpha, &sites.alpha2);
    sites.settle(&sites.alpha2, &[&sites.alpha, &sites.bravo, &sites.charli], "lineage");
    // What it had passed on before a crash is not known afterwards, if the stream has ended meanwhile.
    sites.first.kill();
    hand_over(&sites.alpha2, &sites.alpha);
    sites.alpha.ask(&["SET", "after", "the second crash"]);
    sites.first.start_again();
    let words = "how far the stream had been passed on is not known";
    eventually("it asks", SOON, || sites.following()["attention"].to_string().contains(words));
    let (code, told) = sites.order(&sites.alpha, &["--yes"]);
    assert_eq!(code, 0, "{told}");
    sites.settle(&sites.alpha, &[&sites.alpha2, &sites.bravo, &sites.charli], "person");
    assert_eq!((sites.alpha.sync_full(), sites.alpha2.sync_full()), (full, 0));
}

#[test]
fn many_switches_leave_no_connection_behind_and_cost_no_full_sync() {
    let layout = Layout { sections: "[limits]\nnew_links_per_minute = 10000\n", ..Layout::default() };
    let sites = Sites::new(Version::System, layout);
    let (mut master, mut other) = (&sites.alpha, &sites.alpha2);
    let full = master.sync_full();
    let (began, mut switches, mut took) = (Instant::now(), 0, Vec::new());
    while switches < 200 && began.elapsed() < Duration::from_secs(15) {
        hand_over(master, other);
        (master, other) = (other, master);
        switches += 1;
        let (value, promoted) = (switches.to_string(), Instant::now());
        master.ask(&["SET", "switch", &value]);
        for replica in sites.far() {
            eventually("it is followed", PATIENCE, || {
                replica.try_ask(&["GET", "switch"]) == Some(Answer::Text(value.clone()))
            });
        }
        took.push(promoted.elapsed());
    }
    took.sort();
    eprintln!(
        "{switches} switches in {:?}; until both had the first byte: median {:?}, worst {:?}",
        began.elapsed(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(switches >= 10, "{switches} switches");
    sites.settle(master, &[other, &sites.bravo, &sites.charli], "lineage");
    for redis in [&sites.alpha, &sites.alpha2] {
        // The gateway's own, and that of the client that asks.
        eventually("no connection is left behind", SOON, || clients(redis) <= 2);
    }
    assert_eq!(master.listed(), (3, 3));
    assert_eq!(sites.alpha.sync_full() + sites.alpha2.sync_full(), full, "nobody needed all data");
}
