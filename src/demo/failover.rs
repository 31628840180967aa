//! Another Redis at dc1 becomes the master: alpha2 is promoted, and alpha made its replica. The replicas at
//! dc2 follow it, although nothing changes at dc2.
//!
//! That costs no full sync, since alpha2 has all that they have. So there are no writes meanwhile, nor pings
//! of the master.

use std::time::Instant;

use anyhow::bail;

use super::redis::Redis;
use super::{Row, STEP, Stage, step};

/// A key that is written to the new master.
const LATER: &str = "written:to-alpha2";

/// What the gateway at dc1 logs when it goes to another Redis.
const FOLLOWED: &str = "kind=\"master-followed\"";

/// Seconds between the pings of a master, far more than the demo takes: each moves its offset.
const NO_PINGS: &str = "3600";

/// Promotes alpha2, and reads at dc2 what is written to it.
pub(super) fn follow(stage: &Stage, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    step(
        "alpha2, a second Redis at dc1, replicates from alpha; dc1.toml: redis = [alpha, alpha2], and a reload",
    );
    let alpha = stage.alpha();
    let alpha2 = Redis::start(&stage.folder.0, "alpha2")?;
    for redis in [alpha, &alpha2] {
        redis.ask(&["CONFIG", "SET", "repl-ping-replica-period", NO_PINGS])?;
    }
    alpha2.ask(&["REPLICAOF", "127.0.0.1", &alpha.port.to_string()])?;
    let all = [&alpha2, &stage.replicas()[0], &stage.replicas()[1]];
    stage.wait_caught_up(&all, alpha.number("replication", "master_repl_offset")?)?;
    let list = format!("redis = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", alpha.port, alpha2.port);
    let one = format!("redis = \"127.0.0.1:{}\"", alpha.port);
    let dc1 = &stage.gateways[0];
    dc1.reload(|text| text.replace(&one, &list), &stage.interrupt)?;
    if !stage.eventually(|| Ok(dc1.logged(FOLLOWED).len() == 1))? {
        bail!("dc1 does not find the master, within {} s", STEP.as_secs());
    }
    stage.wait_caught_up(&all, alpha.number("replication", "master_repl_offset")?)?;
    let full = || -> anyhow::Result<u64> {
        Ok(alpha.number("stats", "sync_full")? + alpha2.number("stats", "sync_full")?)
    };
    let before = full()?;
    step(&format!(
        "alpha2: REPLICAOF NO ONE; alpha: REPLICAOF 127.0.0.1 {}; alpha2: SET {LATER} …",
        alpha2.port
    ));
    alpha2.ask(&["REPLICAOF", "NO", "ONE"])?;
    alpha.ask(&["REPLICAOF", "127.0.0.1", &alpha2.port.to_string()])?;
    let promoted = Instant::now();
    alpha2.ask(&["SET", LATER, "written to alpha2"])?;
    let arrived = stage.eventually(|| {
        let mut all = alpha.ask(&["EXISTS", LATER])? == "1";
        for replica in stage.replicas() {
            all &= replica.ask(&["EXISTS", LATER])? == "1";
        }
        Ok(all)
    })?;
    let within = promoted.elapsed().as_secs_f64();
    let after = full()?;
    for line in dc1.logged(FOLLOWED).iter().skip(1) {
        let words = line.split_once(" INFO ").map_or(line.as_str(), |(_, words)| words);
        crate::outln::outln!("    log of dc1: {}", words.split(" kind=").next().unwrap_or(words).trim());
    }
    crate::outln::outln!(
        "    read on alpha, bravo and charli {within:.1} s after the promotion; sync_full {before} -> {after}"
    );
    rows.push(row(arrived, within, before, after));
    Ok(())
}

/// Judges the failover.
fn row(arrived: bool, within: f64, before: u64, after: u64) -> Row {
    Row {
        what: "the replicas follow a master that was promoted",
        good: arrived && after == before,
        seen: if arrived {
            format!("the first write at dc2 after {within:.1} s, sync_full {before} -> {after}")
        } else {
            "what is written to alpha2 does not arrive at dc2".to_owned()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn a_full_sync_or_a_write_that_does_not_arrive_fails_the_demo() {
        let good = row(true, 1.26, 6, 6);
        assert!(good.good, "{}", good.seen);
        assert_eq!(good.seen, "the first write at dc2 after 1.3 s, sync_full 6 -> 6");
        assert!(!row(true, 1.0, 6, 7).good && !row(false, 30.0, 6, 6).good);
    }
}
