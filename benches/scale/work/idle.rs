//! Links that do nothing, and links whose replicas acknowledge every second, as Redis' replicas do.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Measure, Row, Sample, measure, megabytes, number, percent};
use crate::cpu::{Watch, memory};
use crate::fakes::Fakes;
use crate::peers::{Carries, Subject};
use crate::place::go_on;

pub const IDLE: Row = Row {
    key: "idle",
    title: "links that do nothing",
    axis: "idle links",
    points: POINTS,
    name: number,
    measures: &[MEMORY, EACH, CPU, OPEN, AGAIN],
    takes,
    once: |bench, subject, count| once(bench, subject, count, Carries::Anything),
};

pub const ACKS: Row = Row {
    key: "acks",
    title: "links whose replicas acknowledge every second",
    axis: "acknowledging links",
    points: POINTS,
    name: number,
    measures: &[MEMORY, EACH, CPU, OPEN],
    takes,
    once: |bench, subject, count| once(bench, subject, count, Carries::Replication),
};

const POINTS: &[u64] = &[100, 500, 1000, 2500, 5000];

const MEMORY: Measure = measure("memory", "MB of the pair", 1);
const EACH: Measure = measure("each", "KB a link", 1);
const CPU: Measure = measure("cpu", "% of a core", 1);
const OPEN: Measure = measure("open", "seconds to open all", 1);
const AGAIN: Measure = measure("again", "MB when all were closed and opened again", 1);

/// nginx and HAProxy are not configured for so many.
fn takes(subject: &Subject) -> bool {
    subject.is_tunnel() && !subject.is_peer()
}

fn once(bench: &Bench, subject: &Subject, count: u64, carries: Carries) -> Result<Sample> {
    let time = Duration::from_secs(if bench.quick { 1 } else { 5 });
    let fakes = Fakes::start(carries)?;
    let way = subject.start(&bench.place, fakes.master(), carries)?;
    let empty = memory(&way);
    let opening = Watch::start(&way, &[]);
    let mut links = fakes.open(way.entry, u16::try_from(count)?)?;
    let open = opening.seconds();
    if carries == Carries::Replication {
        fakes.acknowledge(std::mem::take(&mut links));
    }
    let watch = Watch::start(&way, &[]);
    while watch.seconds() < time.as_secs_f64() {
        go_on()?;
        // Idleness itself is what is measured.
        std::thread::sleep(Duration::from_millis(100));
    }
    let spent = watch.stop();
    let still = fakes.connections();
    ensure!(still as u64 >= count, "only {still} of {count} links are open at the end");
    let full = memory(&way);
    let mut values = vec![
        ("memory", megabytes(full)),
        ("each", full.saturating_sub(empty) as f64 / count as f64 / 1e3),
        ("cpu", percent(spent.pair, &spent)),
        ("open", open),
    ];
    if carries == Carries::Anything {
        drop(links);
        fakes.wait_closed()?;
        let _links = fakes.open(way.entry, u16::try_from(count)?)?;
        values.push(("again", megabytes(memory(&way))));
    }
    Ok(Sample { values, others: spent.others })
}
