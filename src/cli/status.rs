//! `replgate status`: what the running gateway carries.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin::{self, Status};
use crate::clock;
use crate::registry::LinkStatus;

/// Asks the gateway that runs with this config, over its Unix socket.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigPath,
    /// Show it again every second
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn execute(self) -> Outcome {
        let config = self.config.load()?;
        block_on(async {
            loop {
                let status = admin::ask(&config).await?;
                let Some(status) = status else {
                    eprintln!(
                        "replgate: no gateway runs with {}; start it: replgate run -c {}",
                        self.config.path().display(),
                        self.config.path().display()
                    );
                    return Err(Failure::Unwell);
                };
                let mut out = std::io::stdout().lock();
                if self.json {
                    writeln!(out, "{}", serde_json::to_string(&status)?)?;
                } else {
                    if self.watch && super::colours() {
                        write!(out, "\x1b[2J\x1b[H")?;
                    }
                    write!(out, "{}", table(&status))?;
                }
                out.flush()?;
                drop(out);
                if !self.watch {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })?
    }
}

fn table(status: &Status) -> String {
    let mut out = format!(
        "site {} on {}, replgate {}, process {}\n",
        status.site, status.node, status.version, status.pid
    );
    out += &format!(
        "certificate good until {} ({})\n",
        clock::utc(status.certificate_expires),
        clock::span(status.certificate_expires - clock::now()),
    );
    if !status.masters.is_empty() {
        out += &format!("masters offered: {}\n", status.masters.join(", "));
    }
    if !status.replicas.is_empty() {
        out += &format!("far masters offered: {}\n", status.replicas.join(", "));
    }
    let counts = &status.counts;
    out += &format!(
        "links: {} up, {} opened, {} closed, {} refused here, {} not had\n",
        status.links.len(),
        counts.opened,
        counts.closed,
        counts.refused,
        counts.failed
    );
    out += &format!(
        "breaks: {}, outlived {}; lanes lost: {}, dialled again: {}; sent again: {}\n",
        counts.breaks,
        counts.resumed,
        counts.lanes_lost,
        counts.redials,
        bytes(counts.resent_bytes)
    );
    out += &format!("buffered: {} of at most {}\n", bytes(status.memory_used), bytes(status.memory_limit));
    if status.links.is_empty() {
        return out;
    }
    let head = [
        "LINK",
        "NAME",
        "HERE",
        "FAR SITE",
        "FAR GATEWAY",
        "REDIS HERE",
        "STATE",
        "LANES",
        "BREAKS",
        "AGE",
        "TO REPLICA",
        "TO MASTER",
        "CARRIED",
    ]
    .map(str::to_owned);
    let rows = status.links.iter().map(|link| {
        [
            link.number.to_string(),
            link.name.clone(),
            link.role.clone(),
            link.site.clone(),
            link.far.clone(),
            link.redis.clone(),
            link.state.clone(),
            link.lanes.to_string(),
            link.breaks.to_string(),
            clock::span(i64::try_from(link.seconds).unwrap_or(i64::MAX)),
            bytes(link.to_replica_bytes),
            bytes(link.to_master_bytes),
            carried(link),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            line += &format!("{cell:<width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// Bytes as carried, with their share of what Redis said where they are compressed.
fn carried(link: &LinkStatus) -> String {
    let plain = link.to_replica_bytes + link.to_master_bytes;
    let carried = bytes(link.carried_bytes);
    if plain > 0 && link.carried_bytes * 100 < plain * 95 {
        format!("{carried} ({:.0} %)", link.carried_bytes as f64 * 100.0 / plain as f64)
    } else {
        carried
    }
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
