//! Three Sentinels say who is the master.

use std::time::{Duration, Instant};

use super::{Layout, Liar, Sites, Writer, at, become_replica, first_byte, hand_over, is_master, pause, told};
use crate::support::gateway::Lab;
use crate::support::redis::{ALL, Version};
use crate::support::{SOON, always, eventually};

const WATCHED: Layout<'_> = Layout {
    sentinels: true,
    false_sentinels: &[],
    more_candidates: &[],
    without_alpha2: false,
    networks: None,
    sections: "",
};

/// A failover that was planned, with a load. Returns the writer.
fn planned(sites: &Sites, what: &str) {
    let (alpha, alpha2) = (&sites.alpha, &sites.alpha2);
    let writer = Writer::by(&sites.sentinels);
    sites.loaded();
    let full = alpha.sync_full();
    let (switch, byte) = (sites.sentinels[0].switch(), first_byte(&sites.bravo, alpha2));
    pause(alpha, alpha2);
    sites.sentinels[1].fail_over();
    let switched = switch.join().expect("Sentinel tells of the switch");
    told(what, switched, byte.join().expect("it arrives"));
    become_replica(alpha, alpha2);
    writer.stop();
    sites.settle(alpha2, &[alpha, &sites.bravo, &sites.charli], "sentinel");
    assert_eq!((alpha.sync_full(), alpha2.sync_full()), (full, 0), "{what}");
    sites.second.wait_far_end("NoMaster");
}

#[test]
fn a_planned_failover_by_sentinel_costs_no_full_sync_in_any_version() {
    for version in ALL {
        planned(&Sites::new(version, WATCHED), &format!("a planned failover by Sentinel, {version:?}"));
    }
}

#[test]
fn sentinels_alone_name_a_redis_within_the_networks() {
    let sites = Sites::new(Version::System, Layout { networks: Some("127.0.0.0/8"), ..WATCHED });
    planned(&sites, "a planned failover by Sentinel alone");
}

#[test]
fn after_the_masters_death_its_successor_is_followed_and_not_the_blank_redis_that_comes_back() {
    let mut sites = Sites::new(Version::System, WATCHED);
    let writer = Writer::by(&sites.sentinels);
    sites.loaded();
    let pid = sites.alpha.process.child.id();
    sites.through_failover("kill -9", || crate::support::kill("KILL", pid));
    sites.alpha.kill();
    sites.alpha.start_again();
    assert!(is_master(&sites.alpha), "it says so, and is blank");
    sites.stays_until_demoted(&sites.alpha, &sites.alpha2);
    writer.stop();
    sites.settle(&sites.alpha2, &[&sites.alpha, &sites.bravo, &sites.charli], "sentinel");
}

#[test]
fn after_the_master_hung_its_successor_is_followed_and_stays_so_when_it_wakes_up() {
    let sites = Sites::new(Version::System, WATCHED);
    let writer = Writer::by(&sites.sentinels);
    sites.loaded();
    sites.through_failover("SIGSTOP", || sites.alpha.process.signal("STOP"));
    sites.alpha.process.signal("CONT");
    assert!(is_master(&sites.alpha), "it says so");
    sites.says_so_too(&sites.alpha);
    always("nothing moves", Duration::from_secs(1), || sites.follows(&sites.alpha2));
    writer.stop();
    // Sentinel would do that some seconds later.
    sites.alpha.replicaof(sites.alpha2.port);
    sites.settle(&sites.alpha2, &[&sites.alpha, &sites.bravo, &sites.charli], "sentinel");
}

#[test]
fn a_failover_that_was_ordered_under_load_ends_at_the_successor() {
    let sites = Sites::new(Version::System, WATCHED);
    let writer = Writer::by(&sites.sentinels);
    sites.loaded();
    let (switch, byte) = (sites.sentinels[0].switch(), first_byte(&sites.bravo, &sites.alpha2));
    sites.sentinels[1].fail_over();
    let switched = switch.join().expect("Sentinel tells of the switch");
    told("SENTINEL FAILOVER under load", switched, byte.join().expect("it arrives"));
    writer.stop();
    sites.alpha.replicaof(sites.alpha2.port);
    sites.settle(&sites.alpha2, &[&sites.alpha, &sites.bravo, &sites.charli], "sentinel");
    assert!(sites.alpha2.sync_full() <= 3, "no replica needed all data twice");
}

#[test]
fn without_their_sentinels_links_stay_and_then_follow_the_history() {
    let mut sites = Sites::new(Version::System, WATCHED);
    for sentinel in &mut sites.sentinels {
        sentinel.process.child.kill().expect("it runs");
    }
    let (alpha, alpha2) = (&sites.alpha, &sites.alpha2);
    let sentinels = || sites.following()["sentinels"].as_array().cloned().unwrap_or_default();
    eventually("none of them answers", SOON, || {
        let sentinels = sentinels();
        sentinels.len() == 3 && sentinels.iter().all(|sentinel| sentinel["names"].is_null())
    });
    sites.first.wait_log("but only 0 of 3 Sentinels answer; bring the Sentinels back");
    alpha.ask(&["SET", "without", "Sentinel"]);
    always("alpha is followed", Duration::from_secs(2), || sites.follows(alpha) && sites.first.links() == 2);
    let full = alpha.sync_full();
    hand_over(alpha, alpha2);
    alpha2.ask(&["SET", "after", "the switch"]);
    let began = Instant::now();
    eventually("the first byte", SOON, || sites.bravo.ask(&["GET", "after"]) == "the switch");
    told("by hand, the Sentinels gone", began, Instant::now());
    sites.settle(alpha2, &[alpha, &sites.bravo, &sites.charli], "lineage");
    assert_eq!((alpha.sync_full(), alpha2.sync_full()), (full, 0));
}

#[test]
fn a_minority_of_sentinels_that_lies_changes_nothing_whatever_its_epoch() {
    let lab = Lab::new();
    let bait = Sites::redis(&lab, Version::System, "bait");
    let liar = Liar::new(&bait);
    let layout = Layout { false_sentinels: &[liar.port], more_candidates: &[bait.port], ..WATCHED };
    let sites = Sites::new(Version::System, layout);
    eventually("the lie is heard", SOON, || sites.following()["sentinels"][2]["names"] == at(&bait));
    always("alpha is followed", Duration::from_secs(2), || sites.follows(&sites.alpha));
    let full = sites.alpha.sync_full();
    pause(&sites.alpha, &sites.alpha2);
    sites.sentinels[1].fail_over();
    eventually("alpha2 is followed", SOON, || sites.follows(&sites.alpha2));
    become_replica(&sites.alpha, &sites.alpha2);
    // The bait is a third Redis that says that it is the master.
    bait.replicaof(sites.alpha2.port);
    sites.settle(&sites.alpha2, &[&sites.alpha, &sites.bravo, &sites.charli], "sentinel");
    assert_eq!((sites.alpha.sync_full(), sites.alpha2.sync_full()), (full, 1), "only the bait needed all");
}

#[test]
fn what_is_no_candidate_is_not_followed_even_if_all_sentinels_name_it() {
    let sites = Sites::new(Version::System, Layout { without_alpha2: true, ..WATCHED });
    sites.sentinels[0].fail_over();
    let attention = || sites.following()["attention"].to_string();
    let words = format!("name {}, which is not in `redis`", at(&sites.alpha2));
    eventually("it is said", super::PATIENCE, || attention().contains(&words));
    assert!(sites.follows(&sites.alpha), "it stays while it says that it is the master");
    // Sentinel would do that some seconds later.
    sites.alpha.replicaof(sites.alpha2.port);
    sites.first.wait_kind("no-master");
    assert_eq!(sites.alpha2.sync_partial_ok() + sites.alpha2.sync_full(), 1, "only alpha has come");
    assert_eq!(sites.first.links(), 0);
    let back = sites.sentinels[0].switch();
    sites.sentinels[0].fail_over();
    back.join().expect("Sentinel tells of the switch");
    sites.settle(&sites.alpha, &[&sites.bravo, &sites.charli], "sentinel");
}
