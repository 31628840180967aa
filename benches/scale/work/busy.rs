//! One master whose replicas all stream at once: at an even pace, which gives all links together the
//! same bytes however many there are, and at full speed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, Measure, Row, Sample, measure, megabytes, number, percent};
use crate::cpu::{Watch, memory};
use crate::peers::{Carries, Kind, Master, Subject, Way};
use crate::place::go_on;
use crate::readers::Readers;
use crate::redis::Redis;
use crate::writes::{Writes, at_even_pace, at_full_speed, set};

pub const PACED: Row = Row {
    key: "busy",
    title: "links that stream at once, 20 MB/s together, in bursts 100 times a second",
    axis: "busy links",
    points: POINTS,
    name: number,
    measures: &[
        measure("cpu", "% of a core", 1),
        measure("gigabyte", "CPU-s/GB", 2),
        measure("burst", "CPU-µs a burst of a link", 1),
        MEMORY,
        measure("usual", "median delay, ms", 2),
        measure("late", "its p99, ms", 2),
        measure("slowest", "p99 of the slowest link, ms", 2),
    ],
    takes,
    once: paced,
};

pub const FULL: Row = Row {
    key: "full",
    title: "links that stream at once, 1 GB together, at full speed",
    axis: "busy links",
    points: POINTS,
    name: number,
    measures: &[
        measure("gigabyte", "CPU-s/GB", 2),
        measure("speed", "MB/s together", 0),
        MEMORY,
        measure("pause", "longest pause of a link, ms", 0),
        measure("share", "slowest link has, when the fastest has all, %", 1),
    ],
    takes,
    once: full,
};

const POINTS: &[u64] = &[1, 10, 50, 100, 200];
const MEMORY: Measure = measure("memory", "greatest MB of the pair", 1);

/// Bytes of a value: a thousand with its SET.
const VALUE: usize = 1000 - 40;
const TICK: Duration = Duration::from_millis(10);
/// Time between two looks at the memory, which take time themselves.
const LOOK: Duration = Duration::from_millis(100);
/// SETs of each tick that all replicas together get.
const SETS: u64 = 200;

fn takes(subject: &Subject) -> bool {
    subject.is_simple() && !matches!(subject.kind, Kind::RedisTls)
}

/// A master, and replicas of it.
struct Busy {
    readers: Readers,
    way: Way,
    master: Redis,
}

impl Busy {
    fn start(bench: &Bench, subject: &Subject, count: u64, writes: &Arc<Writes>) -> Result<Self> {
        let mut master = Redis::start(&bench.place, "dc1", false)?;
        // A PING in the stream would not be one of the writes.
        master.client.ask("CONFIG SET repl-ping-replica-period 3600")?;
        let way = subject.start(&bench.place, Master::from(&master), Carries::Replication)?;
        let links = vec![(way.entry, Arc::clone(writes)); usize::try_from(count)?];
        let readers = Readers::open(&links)?;
        readers.begin(&mut master, writes)?;
        Ok(Self { readers, way, master })
    }

    fn watch(&self) -> Watch {
        Watch::start(&self.way, &[self.master.process.id()])
    }
}

fn paced(bench: &Bench, subject: &Subject, count: u64) -> Result<Sample> {
    let each = usize::try_from(SETS / count)?;
    let sets = set(0, VALUE).repeat(each);
    let ticks = if bench.quick { 100 } else { 300 };
    let writes = Writes::new(ticks, sets.len() as u64);
    let mut busy = Busy::start(bench, subject, count, &writes)?;
    let mut most = memory(&busy.way);
    let watch = busy.watch();
    let way = &busy.way;
    at_even_pace(&mut [(&mut busy.master, Arc::clone(&writes))], TICK, &sets, each, || {
        most = most.max(memory(way));
    })?;
    busy.readers.wait_for_end(&mut busy.master, &writes)?;
    let spent = watch.stop();
    let delays = busy.readers.delays()?;
    let mut values = vec![("usual", delays.usual), ("late", delays.late), ("slowest", delays.slowest)];
    if subject.is_tunnel() {
        values.extend([
            ("cpu", percent(spent.pair, &spent)),
            ("gigabyte", spent.pair / ((writes.total() * count) as f64 / 1e9)),
            ("burst", spent.pair / (ticks as f64 * count as f64) * 1e6),
            ("memory", megabytes(most)),
        ]);
    }
    Ok(Sample { values, others: spent.others })
}

fn full(bench: &Bench, subject: &Subject, count: u64) -> Result<Sample> {
    const BATCH: usize = 50;
    let sets = set(0, VALUE).repeat(BATCH);
    let total = if bench.quick { 100_000_000 } else { 1_000_000_000 };
    let times = usize::try_from(total / count)? / sets.len();
    let writes = Writes::new(1, (sets.len() * times) as u64);
    let mut busy = Busy::start(bench, subject, count, &writes)?;
    let watch = busy.watch();
    let writer = at_full_speed(busy.master.plain, &writes, sets, BATCH, times);
    let (mut most, mut looked) = (0, 0.0);
    let share = loop {
        go_on()?;
        let (slowest, fastest) = busy.readers.progress();
        if fastest == writes.total() {
            break slowest as f64 / fastest as f64 * 100.0;
        }
        busy.readers.check()?;
        if watch.seconds() > looked + LOOK.as_secs_f64() {
            looked = watch.seconds();
            most = most.max(memory(&busy.way));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    writer.join().expect("the writer does not panic")?;
    busy.readers.wait_for_end(&mut busy.master, &writes)?;
    let spent = watch.stop();
    let gigabytes = (writes.total() * count) as f64 / 1e9;
    let mut values = vec![
        ("speed", gigabytes * 1e3 / spent.seconds()),
        ("share", share),
        ("pause", busy.readers.longest_pause()),
    ];
    if subject.is_tunnel() {
        values.extend([("gigabyte", spent.pair / gigabytes), ("memory", megabytes(most))]);
    }
    Ok(Sample { values, others: spent.others })
}
