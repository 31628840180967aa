//! Nothing crosses between the sites for a while: once with the tunnel, once with a plain relay.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::load::Load;
use super::path::Path;
use super::redis::Redis;
use super::{RATE, Row, Stage, megabytes, step};

/// Length of the outage between the sites: at [`RATE`], many times the backlog in total.
const OUTAGE: Duration = Duration::from_secs(8);

/// Interrupts the path under load for a while, and then resets its connections: once with the
/// tunnel, once with a plain relay.
pub(super) fn outlive(stage: &Stage, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let backlog = stage.alpha().number("replication", "repl_backlog_size")?;
    step(&format!(
        "nothing crosses for {} s while alpha gets {} MB/s of writes (its backlog: {}); then every open connection is reset",
        OUTAGE.as_secs(),
        RATE / 1_000_000,
        megabytes(backlog)
    ));
    let load = Load::on(stage.alpha().port, RATE)?;
    let (before, after, caught_up) =
        interrupt(stage, &stage.wire, &stage.replicas().iter().collect::<Vec<_>>())?;
    crate::outln::outln!(
        "    through the tunnel: sync_full {before} -> {after}, caught up {caught_up:.1} s after the path was back"
    );
    rows.push(Row {
        what: "through the tunnel, an outage causes no full sync",
        good: before == after,
        seen: format!("sync_full {before} -> {after}, caught up in {caught_up:.1} s"),
    });
    step("the same without the tunnel: another Redis behind a bare relay");
    let bare = Path::to(stage.alpha().port)?;
    let echo = Redis::start(&stage.folder.0, "echo")?;
    echo.ask(&["REPLICAOF", "127.0.0.1", &bare.port.to_string()])?;
    if !stage.eventually(|| Ok(echo.info("master_link_status")? == "up"))? {
        bail!("echo does not replicate over the bare relay");
    }
    let (before, after, caught_up) = interrupt(stage, &bare, &[&echo])?;
    crate::outln::outln!(
        "    over the bare relay: sync_full {before} -> {after}, caught up {caught_up:.1} s after the path was back"
    );
    rows.push(Row {
        what: "the same without the tunnel causes one",
        good: after > before,
        seen: format!("sync_full {before} -> {after}, caught up in {caught_up:.1} s"),
    });
    drop(load);
    Ok(())
}

/// Interrupts a path. Returns `sync_full` before and after, and the seconds until these replicas
/// have what alpha had at the end of the outage.
fn interrupt(stage: &Stage, path: &Path, replicas: &[&Redis]) -> anyhow::Result<(u64, u64, f64)> {
    let before = stage.alpha().number("stats", "sync_full")?;
    path.fail();
    let over = Instant::now() + OUTAGE;
    stage.eventually(|| Ok(Instant::now() >= over))?;
    let offset = stage.alpha().number("replication", "master_repl_offset")?;
    path.heal();
    let healed = Instant::now();
    stage.wait_caught_up(replicas, offset)?;
    Ok((before, stage.alpha().number("stats", "sync_full")?, healed.elapsed().as_secs_f64()))
}
