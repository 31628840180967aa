//! Gateways with many masters: of one pair, and of many sites with thirty masters each, whose links all
//! come to one gateway at the masters' site.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Bench, Measure, Row, Sample, measure, megabytes, number, percent};
use crate::cpu::{Watch, memory_of};
use crate::fleet::Fleet;
use crate::peers::{Kind, Subject};
use crate::place::go_on;
use crate::readers::Readers;
use crate::redis::Redis;
use crate::writes::{Writes, at_even_pace, set};

pub const MASTERS: Row = Row {
    key: "masters",
    title: "one pair with many masters, a link of each, whose replicas acknowledge every second",
    axis: "masters",
    points: &[1, 10, 100, 600],
    name: number,
    measures: MEASURES,
    takes,
    once: |bench, subject, masters| once(bench, subject, 1, usize::try_from(masters)?),
};

pub const SITES: Row = Row {
    key: "sites",
    title: "sites with 30 masters each, a link of each, to one gateway at the masters' site",
    axis: "sites × 30 masters",
    points: &[1, 5, 10, 20],
    name: number,
    measures: MEASURES,
    takes,
    once: |bench, subject, sites| once(bench, subject, usize::try_from(sites)?, 30),
};

const MEASURES: &[Measure] = &[
    measure("ready_master", "ready: master's, ms", 0),
    measure("ready_replica", "replica's, ms", 0),
    measure("empty_master", "MB without links: master's", 1),
    measure("empty_replica", "replica's", 1),
    measure("memory_master", "MB with links: master's", 1),
    measure("memory_replica", "replica's", 1),
    measure("cpu_master", "% of a core, no writes: master's", 1),
    measure("cpu_replica", "replica's", 1),
    measure("late", "a write's p99, ms", 1),
    measure("slowest", "p99 of the slowest link, ms", 1),
];

/// Real masters, each listed under many names.
const SERVERS: usize = 3;
const VALUE: usize = 100;
/// Every master gets a write each time.
const TICK: Duration = Duration::from_millis(100);

/// Only replgate has a config for many masters here.
fn takes(subject: &Subject) -> bool {
    matches!(subject.kind, Kind::Replgate { .. }) && subject.is_simple()
}

fn once(bench: &Bench, subject: &Subject, sites: usize, masters: usize) -> Result<Sample> {
    let Kind::Replgate { program, .. } = &subject.kind else { bail!("it is no gateway") };
    let time = Duration::from_secs(if bench.quick { 1 } else { 5 });
    let sets = set(0, VALUE);
    let ticks = usize::try_from(time.as_millis() / TICK.as_millis())?;
    let mut servers = Vec::new();
    for _ in 0..SERVERS.min(masters) {
        let mut server = Redis::start(&bench.place, "dc1", false)?;
        // A PING in the stream would not be one of the writes.
        server.client.ask("CONFIG SET repl-ping-replica-period 3600")?;
        servers.push((server, Writes::new(ticks, sets.len() as u64)));
    }
    let listed: Vec<_> = (0..masters).map(|number| servers[number % servers.len()].0.plain).collect();
    let fleet = Fleet::start(&bench.place, program, sites, &listed)?;
    let gateways = fleet.way.sites.as_ref().expect("a fleet has two kinds of sites");
    let empty = gateways.each_ref().map(memory_of);
    let links: Vec<_> = fleet
        .entries
        .iter()
        .map(|(master, entry)| (*entry, Arc::clone(&servers[master % servers.len()].1)))
        .collect();
    let readers = Readers::open(&links)?;
    for (server, writes) in &mut servers {
        readers.begin(server, writes)?;
    }
    let watch = Watch::start(&fleet.way, &[]);
    while watch.seconds() < time.as_secs_f64() {
        go_on()?;
        // Idleness itself is what is measured.
        std::thread::sleep(Duration::from_millis(100));
    }
    let spent = watch.stop();
    let full = gateways.each_ref().map(memory_of);
    let mut writers: Vec<_> =
        servers.iter_mut().map(|(server, writes)| (server, Arc::clone(writes))).collect();
    at_even_pace(&mut writers, TICK, &sets, 1, || {})?;
    for (server, writes) in &mut servers {
        readers.wait_for_end(server, writes)?;
    }
    let delays = readers.delays()?;
    let values = vec![
        ("ready_master", fleet.ready[0].as_secs_f64() * 1e3),
        ("ready_replica", fleet.ready[1].as_secs_f64() * 1e3),
        ("empty_master", megabytes(empty[0])),
        ("empty_replica", megabytes(empty[1])),
        ("memory_master", megabytes(full[0])),
        ("memory_replica", megabytes(full[1])),
        ("cpu_master", percent(spent.at_master, &spent)),
        ("cpu_replica", percent(spent.pair - spent.at_master, &spent)),
        ("late", delays.late),
        ("slowest", delays.slowest),
    ];
    Ok(Sample { values, others: spent.others })
}
