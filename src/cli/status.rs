//! `replgate status`: what the running gateway carries.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin::{self, Status};
use crate::clock;
use crate::redis::replication::{Replication, Stage, SyncKind};
use crate::registry::{Ended, LinkStatus};
use crate::tls::expiry::{Kind, Standing};

/// Ended links that are shown.
const LATELY: usize = 5;

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
    /// Say only whether it is ready: exit 1 where its certificate has expired or a listener is lost,
    /// never for the WAN or a Redis
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    ready: bool,
    /// With --ready: exit 1 as well where a link that has a client is down
    #[arg(long, requires = "ready")]
    links: bool,
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
                if self.ready {
                    let why = unready(&status, self.links, clock::now());
                    why.iter().for_each(|why| crate::say::say!("not ready: {why}"));
                    if !why.is_empty() {
                        return Err(Failure::Unwell);
                    }
                    crate::say::say!("ready");
                    return Ok(());
                }
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

/// Why a gateway is not ready; nothing where it is. What is wrong with the WAN or a Redis
/// counts for `links` alone: a restart would not mend it.
fn unready(status: &Status, links: bool, now: i64) -> Vec<String> {
    let mut why = Vec::new();
    let certificate = status.certificate_expires;
    if certificate < now {
        why.push(format!(
            "the certificate expired {} ago, on {}; renew it and reload the gateway",
            clock::span(now - certificate),
            clock::utc(certificate)
        ));
    }
    let lost = status.listeners_lost.iter();
    why.extend(lost.map(|address| format!("the gateway listens no more on {address}; restart it")));
    if links {
        let held = status.links.iter().filter(|link| link.state == "held");
        why.extend(held.map(|link| {
            format!(
                "link {} of {:?} with site {} is held: nothing carries it",
                link.number, link.name, link.site
            )
        }));
        let without = status.without_link.iter();
        why.extend(without.map(|name| {
            format!("a replica asked for {name:?} a moment ago and got no link; the gateway's log says why")
        }));
    }
    why
}

/// Until when the certificate is good, or since when it is not.
fn certificate(expires: i64, now: i64) -> String {
    let (at, span) = (clock::utc(expires), clock::span(expires - now));
    if expires < now {
        format!("certificate EXPIRED {span} ago, on {at}: no far gateway takes it; renew it and reload\n")
    } else {
        format!("certificate good until {at} (for {span})\n")
    }
}

fn table(status: &Status) -> String {
    let mut out = format!(
        "site {} on {}, replgate {}, process {}\n",
        status.site, status.node, status.version, status.pid
    );
    out += &certificate(status.certificate_expires, clock::now());
    // The certificate has its line.
    for term in status.terms.iter().filter(|term| term.kind != Kind::Certificate) {
        if term.standing(clock::now()) != Standing::Good {
            out += &format!("{}\n", term.words(clock::now()));
        }
    }
    for address in &status.listeners_lost {
        out += &format!("LISTENS NO MORE on {address}: restart it\n");
    }
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
    for syncs in &status.syncs {
        out += &format!(
            "syncs of {} ({} here): {} full, {} partial, {} refused\n",
            syncs.name, syncs.role, syncs.full, syncs.partial, syncs.refused
        );
    }
    if counts.commands_refused > 0 {
        out += &format!(
            "links that ended for a command that is no part of replication: {}\n",
            counts.commands_refused
        );
    }
    if !status.links.is_empty() {
        out += "\n";
        out += &links(&status.links);
    }
    let replicas = replicas(&status.links);
    if !replicas.is_empty() {
        out += "\n";
        out += &replicas;
    }
    if !status.ended.is_empty() {
        out += "\n";
        out += &ended(&status.ended);
    }
    out
}

/// How links are carried.
fn links(links: &[LinkStatus]) -> String {
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
    let rows = links.iter().map(|link| {
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
    columns(std::iter::once(head).chain(rows))
}

/// What Redis does on them: one row a replica, though it may have two connections.
fn replicas(links: &[LinkStatus]) -> String {
    let head =
        ["REPLICA", "OF", "LINK", "SYNC", "OFFSET", "ACKNOWLEDGED", "BEHIND", "IT IS"].map(str::to_owned);
    let rows: Vec<_> = links
        .iter()
        .filter_map(|link| Some((link, link.replication.as_ref()?)))
        .filter(|(_, replication)| replication.part_of.is_none())
        .map(|(link, replication)| {
            let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
            let parts = links.iter().filter(|other| {
                other.replication.as_ref().is_some_and(|part| part.part_of == Some(link.number))
            });
            let numbers = std::iter::once(link.number).chain(parts.map(|part| part.number));
            let behind = match (replication.lag_bytes, replication.lag_seconds) {
                (Some(lag), Some(seconds)) => format!("{}, {seconds:.1} s", bytes(lag)),
                _ => "?".to_owned(),
            };
            [
                replica(link, replication),
                link.name.clone(),
                numbers.map(|number| number.to_string()).collect::<Vec<_>>().join("+"),
                match replication.sync {
                    Some(SyncKind::Full) => "full",
                    Some(SyncKind::Partial) => "partial",
                    None => "-",
                }
                .to_owned(),
                number(replication.master_offset),
                number(replication.acknowledged_offset),
                behind,
                doing(replication),
            ]
        })
        .collect();
    if rows.is_empty() { String::new() } else { columns(std::iter::once(head).chain(rows)) }
}

/// The address that the master lists, as far as it is known, and the version.
fn replica(link: &LinkStatus, replication: &Replication) -> String {
    let at_replica = link.role == "replica";
    let host = match &replication.host {
        Some(host) => host.clone(),
        // A master then lists where the connection comes from.
        None if at_replica => {
            link.redis.rsplit_once(':').map_or_else(String::new, |(host, _)| host.to_owned())
        }
        None => link.site.clone(),
    };
    let port = replication.port.map_or_else(String::new, |port| format!(":{port}"));
    // Long ones would push all else off the screen; `--json` has them whole.
    let host = if host.len() > 40 { format!("{}...", &host[..37]) } else { host };
    let version = replication.version.as_ref().map_or_else(String::new, |version| format!(" ({version})"));
    format!("{host}{port}{version}")
}

/// Where the replica is on its way, in words.
fn doing(replication: &Replication) -> String {
    let mut text = match (&replication.stage, &replication.snapshot, &replication.unknown) {
        (Stage::Unknown, _, Some(why)) => format!("unknown: {why}"),
        (Stage::Waiting, ..) => "waiting for the master's answer or fork".to_owned(),
        (Stage::FullSync, Some(snapshot), _) => {
            let size = snapshot.size.map_or_else(String::new, |size| format!(" of {}", bytes(size)));
            let rate =
                snapshot.bytes_per_second.map_or_else(String::new, |rate| format!(", {}/s", bytes(rate)));
            let left = snapshot
                .seconds_left
                .map_or_else(String::new, |left| format!(", {} left", clock::span(left.ceil() as i64)));
            format!("full sync: {}{size}{rate}{left}", bytes(snapshot.bytes))
        }
        (Stage::Loading, Some(snapshot), _) => format!("loading {}", bytes(snapshot.bytes)),
        (stage, ..) => stage.to_string(),
    };
    if let Some(complaint) = &replication.complaint {
        text += &format!(" ({complaint})");
    }
    text
}

/// Links that are no more.
fn ended(ended: &[Ended]) -> String {
    let head = ["ENDED", "LINK", "NAME", "FAR SITE", "IT WAS", "OFFSET", "WHY"].map(str::to_owned);
    let rows = ended.iter().take(LATELY).map(|ended| {
        let replication = ended.link.replication.clone().unwrap_or_default();
        [
            format!("{} ago", clock::span((clock::now() - ended.at).max(0))),
            ended.link.number.to_string(),
            ended.link.name.clone(),
            ended.link.site.clone(),
            ended.link.state.clone(),
            replication.master_offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string()),
            ended.reason.clone(),
        ]
    });
    columns(std::iter::once(head).chain(rows))
}

/// Rows with their cells below each other.
fn columns<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.collect();
    let mut out = String::new();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(expires: i64, more: &str) -> Status {
        let text = format!(
            r#"{{"site":"dc2","node":"n","version":"0","pid":1,"certificate_expires":{expires},"listeners":[],
            "masters":[],"replicas":[],"memory_used":0,"memory_limit":0,"links":[],"ended":[],"syncs":[],
            "counts":{}{more}}}"#,
            serde_json::to_string(&crate::registry::Counts::default()).unwrap()
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn ready_is_about_certificate_and_listeners_and_links_only_where_asked() {
        assert!(unready(&status(100, ""), true, 100).is_empty());
        assert!(unready(&status(65, ""), false, 100)[0].contains("expired 35 s ago"));
        let lost = unready(&status(200, r#","listeners_lost":["127.0.0.1:7379"]"#), false, 100);
        assert!(lost.len() == 1 && lost[0].contains("no more on 127.0.0.1:7379"), "{lost:?}");
        let without = status(200, r#","without_link":["orders"]"#);
        assert!(unready(&without, false, 100).is_empty());
        assert!(unready(&without, true, 100)[0].contains("orders"));
    }

    #[test]
    fn a_certificate_that_is_past_is_not_shown_as_good() {
        assert!(certificate(65, 100).starts_with("certificate EXPIRED 35 s ago, on 1970-01-01T00:01:05Z"));
        assert!(certificate(135, 100).starts_with("certificate good until 1970-01-01T00:02:15Z (for 35 s)"));
    }
}
