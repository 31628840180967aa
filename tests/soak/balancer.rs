//! Several gateways of the master's site behind one address.

use crate::gap::Gap;
use crate::load::{Break, RATE, in_sync};
use crate::results::{Results, Syncs};
use crate::support::census::Census;
use crate::support::gateway::{Gateway, Lab, master_config, replica_config};
use crate::support::path::{Path, Towards};
use crate::support::redis::{Redis, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port};
use std::time::{Duration, Instant};

/// Gateways behind the address, and links through it.
const SEVERAL: usize = 3;

/// How often the balancer breaks.
const CUTS: usize = 8;

#[test]
#[ignore = "takes minutes; make soak"]
fn links_through_a_balancer_find_their_gateways_again() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
    let census = Census::of(&alpha, SEVERAL as i64);
    let wans: Vec<u16> = (0..SEVERAL).map(|_| free_port()).collect();
    let text = |wan: u16| master_config("dc1", wan, &[("orders", alpha.port)], "");
    let nodes = || wans.iter().enumerate();
    let firsts: Vec<_> =
        nodes().map(|(at, wan)| lab.another("dc1", &format!("n{at}"), &text(*wan))).collect();
    let path = Path::to(wans[0]);
    path.balance(&wans);
    let entry = free_port();
    let second = lab.gateway("dc2", &replica_config("dc2", entry, path.port, ""));
    let names = ["bravo", "charli", "delta"];
    let replicas = names.map(|name| lab.replica(name, entry, &alpha));
    let numbers = || firsts.iter().chain([&second]).map(|one| one.each("number")).collect::<Vec<_>>();
    let (before, links) = (Syncs::of(&alpha), numbers());
    assert_eq!((before.full, second.links()), (SEVERAL as i64, SEVERAL));
    assert!(firsts.iter().filter(|first| first.links() > 0).count() > 1, "the links are spread: {links:?}");
    let writer = Writer::on(&alpha, RATE);
    let gaps = replicas.each_ref().map(Gap::of);
    let breaks: Vec<_> = (0..CUTS)
        .map(|round| {
            for gap in &gaps {
                gap.take();
            }
            if round % 2 == 0 {
                path.cut()
            } else {
                path.close()
            }
            let caught_up = all_catch_up(&alpha, &replicas, &second, round);
            census.check();
            assert_eq!((Syncs::of(&alpha), numbers()), (before, links.clone()), "round {round}");
            Break { caught_up, gap: gaps.iter().map(Gap::take).max().expect("several") }
        })
        .collect();
    assert!(writer.stop() > 0);
    drop(gaps);
    in_sync(&alpha, &replicas.each_ref());
    census.end();
    let sum = |field: &str| firsts.iter().map(|first: &Gateway| first.count(field)).sum();
    let what = format!("{CUTS} cuts of {SEVERAL} links through a balancer over {SEVERAL} gateways");
    Break::add(&breaks, Results::new(&what, before, &alpha))
        .bytes("resent", sum("resent_bytes"))
        .bytes("carried to dc2", path.crossed(Towards::Dialler))
        .print();
}

/// Waits until every link was resumed and every replica is close behind the master.
#[track_caller]
fn all_catch_up(alpha: &Redis, replicas: &[Redis], second: &Gateway, round: usize) -> Duration {
    let began = Instant::now();
    eventually("every link is resumed", SOON, || {
        let resumed = second.each("resumed");
        resumed.len() == SEVERAL && resumed.iter().all(|times| *times > round as u64)
    });
    let wanted = alpha.master_offset() + RATE as i64 / 10;
    eventually("every replica has caught up", SOON, || {
        let written = alpha.master_offset();
        replicas.iter().map(Redis::replica_offset).all(|at| at >= wanted && written - at < RATE as i64 / 10)
    });
    began.elapsed()
}
