//! A write stream of values of one size, as fast as the master takes them, to a real replica.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Row, Sample, measure};
use crate::peers::{Kind, Subject};
use crate::place::go_on;
use crate::replicating::Replicating;
use crate::writes::{pour, set};

pub const ROW: Row = Row {
    key: "values",
    title: "write stream of 500 MB, by the size of values",
    axis: "value",
    points: &[64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 16 << 20],
    name: |size| match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    },
    measures: &[
        measure("gigabyte", "CPU-s/GB", 2),
        measure("speed", "MB/s", 0),
        measure("lag", "greatest lag, MB", 1),
    ],
    takes: |subject| !subject.compresses() && !matches!(subject.kind, Kind::RedisTls),
    once,
};

/// Time between two looks at the lag.
const LOOK: Duration = Duration::from_millis(20);

fn once(bench: &Bench, subject: &Subject, size: u64) -> Result<Sample> {
    let size = usize::try_from(size)?;
    // Small values go to the master by the megabyte.
    let count = (1_000_000 / (size + 40)).max(1);
    let sets: Vec<u8> = (0..count as u64).flat_map(|key| set(key, size)).collect();
    let total = if bench.quick { 50_000_000 } else { 500_000_000 };
    let times = (total / sets.len()).max(1);
    let mut pair = Replicating::start(&bench.place, false, subject)?;
    let mut lag = pair.lag()?;
    let begin = pair.offset()?;
    let watch = pair.watch();
    let written = (sets.len() * times) as u64;
    let writer = pour(pair.master.plain, sets, count, times);
    let mut greatest = 0;
    while !writer.is_finished() {
        go_on()?;
        greatest = greatest.max(lag.now()?);
        std::thread::sleep(LOOK);
    }
    writer.join().expect("the writer does not panic")?;
    pair.catch_up()?;
    let spent = watch.stop();
    let bytes = pair.offset()? - begin;
    ensure!(bytes >= written, "the master wrote {bytes} bytes of {written}");
    pair.verify()?;
    let mut values = vec![("speed", bytes as f64 / 1e6 / spent.seconds()), ("lag", greatest as f64 / 1e6)];
    if subject.is_tunnel() {
        values.push(("gigabyte", spent.pair / bytes as f64 * 1e9));
    }
    Ok(Sample { values, others: spent.others })
}
