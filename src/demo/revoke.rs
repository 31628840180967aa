//! A site is shut out: its certificate is revoked while its replicas are in sync, and nobody tells the
//! gateways. With a new certificate it comes back.

use std::time::Instant;

use super::{Row, Stage, step};
use crate::certs::{self, Names};

/// How the gateway at dc1 logs a refused connection with a revoked certificate.
const REFUSED: &str = "kind=\"revoked\"";

/// A key that is written while dc2 is shut out.
const LATER: &str = "written:later";

/// Revokes the certificate of dc2, and issues another one.
pub(super) fn shut_out(stage: &Stage, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let certificates = stage.folder.0.join("certs");
    step("replgate certs revoke dc2; the gateways find the new revocation list by themselves");
    certs::revoke(&certificates, "dc2")?;
    let revoked = Instant::now();
    let down = |state: &str| -> anyhow::Result<bool> {
        let mut all = true;
        for replica in stage.replicas() {
            all &= replica.info("master_link_status")? == state;
        }
        Ok(all)
    };
    let gone = stage
        .eventually(|| Ok(stage.alpha().number("replication", "connected_slaves")? == 0 && down("down")?))?;
    let within = revoked.elapsed().as_secs_f64();
    stage.alpha().ask(&["SET", LATER, "written after dc2 was shut out"])?;
    // Redis asks again every second.
    let refused = stage.eventually(|| Ok(!stage.gateways[0].logged(REFUSED).is_empty()))?;
    let mut kept = true;
    for replica in stage.replicas() {
        kept &= replica.ask(&["EXISTS", LATER])? == "0";
        crate::outln::outln!(
            "    {}: master_link_status {}",
            replica.name,
            replica.info("master_link_status")?
        );
    }
    for line in stage.gateways[0].logged(REFUSED).iter().take(1) {
        let words = &line[line.find("connection refused").unwrap_or(0)..];
        crate::outln::outln!("    log of dc1: {}", words.split(" from=").next().unwrap_or(words));
    }
    rows.push(Row {
        what: "a revoked site is gone in seconds and cannot come back",
        good: gone && refused && kept,
        seen: if gone {
            format!("no replica {within:.1} s after the command, the way back refused: {refused}")
        } else {
            "its replicas are still connected".to_owned()
        },
    });
    step("replgate certs issue dc2 --force: a new certificate");
    let before = stage.alpha().number("stats", "sync_full")?;
    certs::issue(&certificates, &Names::new("dc2", &[])?, 2, true)?;
    let back = stage.eventually(|| {
        let mut all = down("up")?;
        for replica in stage.replicas() {
            all &= replica.ask(&["EXISTS", LATER])? == "1";
        }
        Ok(all)
    })?;
    let after = stage.alpha().number("stats", "sync_full")?;
    rows.push(Row {
        what: "with a new certificate its replicas continue",
        good: back && after == before,
        seen: format!("{}, sync_full {before} -> {after}", if back { "in sync" } else { "still down" }),
    });
    Ok(())
}
