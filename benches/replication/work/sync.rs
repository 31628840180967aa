//! A full sync: a new replica gets a master's data.
//!
//! Values are random, so that neither Redis nor a tunnel can compress them.

use std::collections::HashSet;

use anyhow::{Context, Result};

use super::{Bench, Measure, Row, Sample, Work, less, of_tunnel};
use crate::cpu::Watch;
use crate::options::Scale;
use crate::peers::{Carries, Master, Subject};
use crate::redis::Redis;

pub const ROW: Row = Row { key: "sync", title, measures: MEASURES, takes: |_| true, prepare };

const MEASURES: &[Measure] = &[
    less("cpu", "CPU-s/GB", 2),
    less("cpu_at_master", "of it at master", 2),
    less("seconds", "seconds", 2),
    less("redis_cpu", "Redis CPU-s/GB", 2),
];

/// Bytes of a value.
const VALUE: usize = 1000;

/// Bytes that a key and its value take in the snapshot.
const ENTRY: f64 = 1016.0;

fn title(scale: &Scale) -> String {
    format!("full sync of {} GB", scale.gigabytes)
}

fn prepare(bench: &Bench) -> Result<Box<dyn Work>> {
    let mut master = Redis::start(&bench.place, "dc1", bench.tls)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of keys")]
    fill(&mut master, (bench.scale.gigabytes * 1e9 / ENTRY) as u64).context("fill the master")?;
    Ok(Box::new(FullSync { master, verified: HashSet::new() }))
}

struct FullSync {
    master: Redis,
    /// Subjects whose replicas have been compared value by value.
    verified: HashSet<&'static str>,
}

impl Work for FullSync {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        self.master.wait_alone()?;
        let way = subject.start(&bench.place, Master::from(&self.master), Carries::Replication)?;
        let mut replica = Redis::start(&bench.place, "dc2", way.tls)?;
        let watch = Watch::start(&way, &[self.master.process.id(), replica.process.id()]);
        replica.replicate(way.entry, way.tls)?;
        replica.wait_in_sync(&mut self.master)?;
        let spent = watch.stop();
        replica.is_copy_of(&mut self.master, self.verified.insert(subject.name))?;
        let gigabytes = bench.scale.gigabytes;
        let values = vec![
            of_tunnel(subject, spent.pair / gigabytes),
            of_tunnel(subject, spent.at_master / gigabytes),
            Some(spent.seconds()),
            Some(spent.redis / gigabytes),
        ];
        Ok(Sample::new(spent, values))
    }
}

/// Writes keys with random values.
fn fill(master: &mut Redis, keys: u64) -> Result<()> {
    /// Keys of one round trip.
    const BATCH: u64 = 1000;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut batch = Vec::new();
    for first in (0..keys).step_by(usize::try_from(BATCH)?) {
        batch.clear();
        let last = keys.min(first + BATCH);
        for key in first..last {
            batch
                .extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$12\r\n{key:012}\r\n${VALUE}\r\n").as_bytes());
            for _ in 0..VALUE / 8 {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                batch.extend_from_slice(&random.to_le_bytes());
            }
            batch.extend_from_slice(b"\r\n");
        }
        master.client.write(&batch)?;
        master.client.skip(&mut vec![0; usize::try_from(last - first)? * "+OK\r\n".len()])?;
    }
    Ok(())
}
