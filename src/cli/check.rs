//! `replgate check`: one line a step, before the gateway is started or while it
//! runs.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin;
use crate::clock;
use crate::config::units::Address;
use crate::config::{Config, Master, Replica};
use crate::escape::shown;
use crate::link::tlv::Id;
use crate::registry::Registry;
use crate::session::{Shared, dial};
use crate::tls::material::Material;

/// For each step that waits for somebody.
const DEADLINE: Duration = Duration::from_secs(3);

/// Clocks may differ by this much before it is worth a word.
const SKEW: u64 = 30_000;

/// Checks config, certificates, the way to the far site and Redis.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigPath,
    /// Only what is on this host's disk: no name is resolved, no connection made
    #[arg(long)]
    offline: bool,
}

/// The lines, and whether one of them is a fail.
#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    fn ok(&self, text: &str) {
        crate::say::say!("ok    {text}");
    }

    fn warn(&self, text: &str) {
        crate::say::say!("warn  {text}");
    }

    fn fail(&mut self, text: &str) {
        self.failed = true;
        crate::say::say!("fail  {text}");
    }
}

impl Check {
    pub(super) fn execute(self) -> Outcome {
        let config = self.config.load()?;
        let mut report = Report::default();
        report.ok(&format!(
            "config {}: site {}, {} masters, {} replicas",
            self.config.path().display(),
            config.site,
            config.masters.len(),
            config.replicas.len()
        ));
        let material = Material::load(&config.tls, &config.site);
        match &material {
            Ok(material) => {
                material.findings.iter().for_each(|finding| report.ok(finding));
                material.warnings.iter().for_each(|warning| report.warn(warning));
            }
            Err(faults) => faults.iter().for_each(|fault| report.fail(fault)),
        }
        match readable_ca_key(&config) {
            Some(key) => report.fail(&format!("the CA's private key {} is readable from here: whoever breaks into this host can make certificates for every site; keep certs/ca on another machine", key.display())),
            None => report.ok("no CA key within reach of this config"),
        }
        for master in config.masters.iter().filter(|master| master.plain) {
            report.warn(&format!("master {:?}: commands = \"any\" lets the sites in `allow` run every command, FLUSHALL and CONFIG too", master.name));
        }
        if !self.offline {
            block_on(online(&config, material.ok(), &mut report))?;
        }
        if report.failed { Err(Failure::Unwell) } else { Ok(()) }
    }
}

/// The CA's key, where the gateway's user could read it: beside the CA's
/// certificate, or in the folder that `replgate certs` gives it.
pub(super) fn readable_ca_key(config: &Config) -> Option<PathBuf> {
    let beside = config.tls.ca.with_file_name("ca.key");
    let folders = [&config.tls.ca, &config.tls.cert, &config.tls.key]
        .map(|path| path.parent().map(|folder| folder.join("../ca/ca.key")));
    std::iter::once(Some(beside)).chain(folders).flatten().find(|key| File::open(key).is_ok())
}

async fn online(config: &Config, material: Option<Material>, report: &mut Report) {
    let running = match admin::ask(config).await {
        Ok(status) => status,
        Err(error) => {
            report.warn(&format!("a gateway runs with this config, but cannot be asked: {error}"));
            None
        }
    };
    let names = config.listen.iter().map(|_| "[tunnel]".to_owned());
    let names = names.chain(config.replicas.iter().map(|replica| format!("replica {:?}", replica.name)));
    // All are held until the last is tried: two of them may be in each other's way.
    let mut held = Vec::new();
    for (what, address) in names.zip(config.listeners()) {
        match &running {
            Some(status) if status.listeners.contains(&address) => {
                report.ok(&format!("{what}: this gateway is running and listens on {address}"));
            }
            Some(_) => report.warn(&format!(
                "{what}: the running gateway does not listen on {address}: restart it to use this config"
            )),
            None => match crate::listener::bind(address) {
                Ok(listener) => {
                    held.push(listener);
                    report.ok(&format!("{what}: {address} is free to listen on"));
                }
                Err(error) => report
                    .fail(&format!("{what}: cannot listen on {address}: {error}; what has it? (ss -ltnp)")),
            },
        }
    }
    drop(held);
    for master in &config.masters {
        redis(master, report).await;
    }
    let Some(material) = material else { return };
    let shared = Shared {
        config: config.clone(),
        material,
        instance: Id::random(),
        registry: Arc::new(Registry::default()),
        stop: CancellationToken::new(),
    };
    for replica in &config.replicas {
        way(&shared, replica, report).await;
    }
}

/// The way to a far site: each peer by name, and then a probe.
async fn way(shared: &Shared, replica: &Replica, report: &mut Report) {
    let what = format!("replica {:?}", replica.name);
    let mut working = 0;
    for peer in &replica.peers {
        let addresses: Vec<SocketAddr> =
            match timeout(DEADLINE, lookup_host((peer.host.as_str(), peer.port))).await {
                Ok(Ok(addresses)) => addresses.collect(),
                Ok(Err(error)) => {
                    report.warn(&format!("{what}: peer {peer} cannot be resolved: {error}"));
                    continue;
                }
                Err(_) => {
                    report.warn(&format!(
                        "{what}: peer {peer}: the name was not resolved within {} s",
                        DEADLINE.as_secs()
                    ));
                    continue;
                }
            };
        let one = Replica { peers: vec![peer.clone()], ..replica.clone() };
        let dialled = match shared.material.client(&replica.site) {
            Ok(dial) => dial::probe(shared, &dial::Site { replica: one, dial }).await,
            Err(error) => Err(error.to_string()),
        };
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match dialled {
            Ok((address, accept)) => {
                working += 1;
                report.ok(&format!(
                    "{what}: {peer} ({list}) is {} on {}, offers master {:?} to us, and its Redis is up",
                    replica.site,
                    shown(accept.identity.node.as_bytes()),
                    replica.master
                ));
                let (here, there) = (clock::now_millis(), accept.identity.clock);
                let skew = here.abs_diff(there);
                let text = format!("{what}: the clock at {address} differs by {:.1} s", skew as f64 / 1000.0);
                if skew > SKEW {
                    report.warn(&format!("{text}: certificates are judged by it; set both by NTP"))
                } else {
                    report.ok(&text)
                }
            }
            Err(error) => report.warn(&format!("{what}: peer {error}")),
        }
    }
    if working == 0 {
        report.fail(&format!("{what}: no way to {}", replica.site));
    }
}

/// What the master's Redis says of its role.
async fn redis(master: &Master, report: &mut Report) {
    let what = format!("master {:?}", master.name);
    match timeout(DEADLINE, role(&master.redis)).await {
        Err(_) => report.fail(&format!(
            "{what}: Redis at {} does not answer within {} s",
            master.redis,
            DEADLINE.as_secs()
        )),
        Ok(Err(error)) => report.fail(&format!(
            "{what}: Redis at {}: {error}; replicas will be refused until it is up",
            master.redis
        )),
        Ok(Ok(answer)) => match answer.lines().nth(2) {
            Some("master") => {
                let offset =
                    answer.lines().nth(3).and_then(|line| line.strip_prefix(':')).unwrap_or("?").to_owned();
                report.ok(&format!("{what}: Redis at {} is a master at offset {offset}", master.redis));
            }
            Some("slave") => report.ok(&format!(
                "{what}: Redis at {} is itself a replica: replicas behind it form a chain",
                master.redis
            )),
            _ if answer.starts_with("-NOAUTH") => report.ok(&format!(
                "{what}: Redis at {} is up and wants a password, which the replicas must have (masterauth)",
                master.redis
            )),
            _ => report.warn(&format!(
                "{what}: Redis at {} answers ROLE with {}",
                master.redis,
                shown(answer.lines().next().unwrap_or_default().as_bytes())
            )),
        },
    }
}

async fn role(redis: &Address) -> std::io::Result<String> {
    let mut socket = TcpStream::connect((redis.host.as_str(), redis.port)).await?;
    socket.write_all(b"*1\r\n$4\r\nROLE\r\n").await?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    // A master's answer is `*3 $6 master :offset …`; four lines are enough.
    while answer.len() < 4096
        && answer.iter().filter(|byte| **byte == b'\n').count() < 4
        && !answer.starts_with(b"-")
    {
        match socket.read(&mut piece).await? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
