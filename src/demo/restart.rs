//! The gateway at the replicas' site is killed and started again while writes go on.
//!
//! It stays away until alpha's backlog no longer has what the replicas lack. Alpha alone could only
//! copy everything again then, so what continues them is the memory of the other gateway.

use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;

use super::load::Load;
use super::redis::Redis;
use super::{RATE, Row, STEP, Stage, megabytes, step};

/// What the replicas lack when the gateway is started again, in sizes of alpha's backlog.
const BACKLOGS: u64 = 10;

/// What the gateway at dc1 logs for each replica that it continues from memory.
const FROM_MEMORY: &str = "the replica continues where its earlier link was";

/// A digest of all keys and values, which are strings.
const DIGEST: &str = "local keys = redis.call('KEYS', '*')
table.sort(keys)
local digest = ''
for _, key in ipairs(keys) do
    digest = redis.sha1hex(digest .. key .. ' ' .. redis.call('GET', key))
end
return digest";

/// What is counted before and after the restart.
#[derive(Clone, Copy)]
struct Counts {
    /// Full syncs from alpha.
    full: u64,
    /// Partial resyncs from alpha.
    partial: u64,
    /// Replicas that the gateway at dc1 continued from memory.
    from_memory: usize,
}

impl Counts {
    fn now(stage: &Stage) -> anyhow::Result<Self> {
        Ok(Self {
            full: stage.alpha().number("stats", "sync_full")?,
            partial: stage.alpha().number("stats", "sync_partial_ok")?,
            from_memory: stage.gateways[0].logged(FROM_MEMORY).len(),
        })
    }
}

/// Kills the gateway at dc2 under load, starts it again, and compares the data.
pub(super) fn outlive(stage: &mut Stage, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let backlog = stage.alpha().number("replication", "repl_backlog_size")?;
    step(&format!(
        "the gateway at dc2 is killed (SIGKILL) while the writes go on, and started again once each replica lacks {}, {BACKLOGS} times alpha's backlog",
        megabytes(BACKLOGS * backlog)
    ));
    let load = Load::on(stage.alpha().port, RATE)?;
    // The writes have begun, and arrive.
    stage.wait_caught_up(&replicas(stage), offset(stage.alpha())? + backlog)?;
    let before = Counts::now(stage)?;
    stage.gateways[1].kill()?;
    let killed = Instant::now();
    let outgrown = stage.eventually(|| {
        let needs = had(stage)?.into_iter().max().unwrap_or_default() + 1;
        let first = stage.alpha().number("replication", "repl_backlog_first_byte_offset")?;
        Ok(first > needs && offset(stage.alpha())? >= needs + BACKLOGS * backlog)
    })?;
    if !outgrown {
        bail!("alpha's backlog still has what the replicas lack, after {} s of writes", STEP.as_secs());
    }
    let (written, had) = (offset(stage.alpha())?, had(stage)?);
    let away = killed.elapsed().as_secs_f64();
    let interrupt = Arc::clone(&stage.interrupt);
    let started = Instant::now();
    stage.gateways[1].start_again(&interrupt)?;
    stage.wait_caught_up(&replicas(stage), written)?;
    let caught_up = started.elapsed().as_secs_f64();
    let lack = stage.replicas().iter().zip(had);
    let lack = lack.map(|(replica, had)| format!("{} lacks {}", replica.name, megabytes(written - had)));
    crate::outln::outln!(
        "    away for {away:.1} s: {}, of which alpha's backlog has only the last {}",
        lack.collect::<Vec<_>>().join(", "),
        megabytes(backlog)
    );
    // The log is written by a thread of its own.
    let all = before.from_memory + stage.replicas().len();
    stage.eventually(|| Ok(stage.gateways[0].logged(FROM_MEMORY).len() >= all))?;
    for line in &stage.gateways[0].logged(FROM_MEMORY)[before.from_memory..] {
        let words = &line[line.find(FROM_MEMORY).unwrap_or(0)..];
        crate::outln::outln!("    log of dc1: {}", words.split(" link=").next().unwrap_or(words));
    }
    let after = Counts::now(stage)?;
    crate::outln::outln!(
        "    sync_full {} -> {}, sync_partial_ok {} -> {}, caught up {caught_up:.1} s after the start",
        before.full,
        after.full,
        before.partial,
        after.partial
    );
    rows.push(row(before, after, stage.replicas().len(), caught_up));
    drop(load);
    compare(stage, rows)
}

/// Judges the counts of a restart of the gateway of so many `replicas`.
fn row(before: Counts, after: Counts, replicas: usize, caught_up: f64) -> Row {
    let partial = after.partial - before.partial;
    let from_memory = after.from_memory - before.from_memory;
    let seen = if after.full != before.full {
        format!("sync_full {} -> {}: alpha had to copy its whole data set again", before.full, after.full)
    } else if from_memory < replicas {
        format!("only {from_memory} of {replicas} replicas continued from the memory of the gateway at dc1")
    } else if partial < replicas as u64 {
        format!("only {partial} partial resyncs for {replicas} replicas")
    } else {
        format!(
            "sync_full {} -> {}, {partial} partial resyncs, caught up in {caught_up:.1} s",
            before.full, after.full
        )
    };
    Row {
        what: "a killed gateway at dc2 causes no full sync",
        good: after.full == before.full && from_memory >= replicas && partial >= replicas as u64,
        seen,
    }
}

/// Compares all keys and values, after the last write.
fn compare(stage: &Stage, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    step("the writes end; a digest of all keys and values");
    stage.wait_caught_up(&replicas(stage), offset(stage.alpha())?)?;
    let mut digests = Vec::new();
    for redis in &stage.redis {
        let digest = redis.ask(&["EVAL", DIGEST, "0"])?;
        crate::outln::outln!("    {}: {digest}", redis.name);
        digests.push(digest);
    }
    let keys = stage.alpha().ask(&["DBSIZE"])?;
    let same = digests.iter().all(|digest| *digest == digests[0] && digest.len() == 40);
    rows.push(Row {
        what: "after all of that, all three hold the same data",
        good: same && keys != "0",
        seen: format!("{keys} keys, {} digests", if same { "equal" } else { "DIFFERENT" }),
    });
    Ok(())
}

fn replicas(stage: &Stage) -> Vec<&Redis> {
    stage.replicas().iter().collect()
}

fn offset(master: &Redis) -> anyhow::Result<u64> {
    master.number("replication", "master_repl_offset")
}

/// The offset that each replica has reached.
fn had(stage: &Stage) -> anyhow::Result<Vec<u64>> {
    stage.replicas().iter().map(|replica| replica.number("replication", "slave_repl_offset")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, row};

    const BEFORE: Counts = Counts { full: 5, partial: 1, from_memory: 0 };

    #[test]
    fn a_restart_is_good_if_each_replica_continued_from_memory_without_a_full_sync() {
        let good = row(BEFORE, Counts { full: 5, partial: 3, from_memory: 2 }, 2, 0.9);
        assert!(good.good, "{}", good.seen);
        assert_eq!(good.seen, "sync_full 5 -> 5, 2 partial resyncs, caught up in 0.9 s");
    }

    #[test]
    fn a_full_sync_fails_the_demo_in_words() {
        let failed = row(BEFORE, Counts { full: 6, partial: 3, from_memory: 2 }, 2, 0.9);
        assert!(!failed.good);
        assert_eq!(failed.seen, "sync_full 5 -> 6: alpha had to copy its whole data set again");
    }

    #[test]
    fn a_replica_that_its_master_continued_proves_nothing() {
        let failed = row(BEFORE, Counts { full: 5, partial: 3, from_memory: 1 }, 2, 0.9);
        assert!(!failed.good && failed.seen.contains("only 1 of 2 replicas"), "{}", failed.seen);
        let failed = row(BEFORE, Counts { full: 5, partial: 2, from_memory: 2 }, 2, 0.9);
        assert!(!failed.good && failed.seen.contains("only 1 partial"), "{}", failed.seen);
    }
}
