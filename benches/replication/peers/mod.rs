//! What is compared: replgate, other tunnels, Redis' own TLS, and no tunnel.
//!
//! Every tunnel is started anew for each measurement. All but spiped, which has a protocol of its
//! own, authenticate both sides with TLS 1.3 and the same certificates.

mod haproxy;
mod nginx;
pub mod replgate;
mod spiped;
mod stunnel;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::place::{Place, REPLGATE, free_port, local, wait_for_port};
use crate::process::Process;
use crate::redis;

/// Something that brings a replica's bytes to its master.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As in `--subjects` and in the report.
    pub name: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Replgate { program: PathBuf, lanes: u32, zstd: bool, beside: bool },
    Nginx { workers: u32 },
    Haproxy { threads: u32 },
    Stunnel,
    Spiped,
    RedisTls,
    Direct,
}

/// The kind of traffic that a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Replication,
    /// Any bytes, for which replgate has a separate mode.
    Anything,
}

/// A master that a tunnel leads to.
#[derive(Clone, Copy, Debug)]
pub struct Master {
    pub plain: SocketAddr,
    pub tls: Option<SocketAddr>,
}

/// An open connection path to the master.
#[derive(Debug)]
pub struct Way {
    /// Where a replica connects.
    pub entry: SocketAddr,
    /// Whether the replica itself must speak TLS.
    pub tls: bool,
    /// The tunnel's two processes: the master's site, the replica's site.
    pub sites: Option<[Process; 2]>,
}

impl From<&redis::Redis> for Master {
    fn from(redis: &redis::Redis) -> Self {
        Self { plain: redis.plain, tls: redis.tls }
    }
}

/// Where the two processes of a tunnel listen.
#[derive(Clone, Copy, Debug)]
struct Ports {
    wan: SocketAddr,
    entry: SocketAddr,
}

/// Every subject, in the order of the report. Those of `extra` run only if they are named.
pub fn all(beside: Option<&Path>) -> Vec<Subject> {
    let gateway = |name, program: &Path, lanes, zstd, beside| Subject {
        name,
        kind: Kind::Replgate { program: program.to_owned(), lanes, zstd, beside },
    };
    let own = Path::new(REPLGATE);
    let mut all = vec![
        gateway("replgate", own, 1, false, false),
        gateway("lanes", own, 4, false, false),
        gateway("zstd", own, 1, true, false),
    ];
    all.extend(beside.map(|program| gateway("beside", program, 1, false, true)));
    all.extend([
        Subject { name: "nginx", kind: Kind::Nginx { workers: 1 } },
        Subject { name: "haproxy", kind: Kind::Haproxy { threads: 1 } },
        Subject { name: "stunnel", kind: Kind::Stunnel },
        Subject { name: "spiped", kind: Kind::Spiped },
        Subject { name: "redis-tls", kind: Kind::RedisTls },
        Subject { name: "none", kind: Kind::Direct },
    ]);
    all
}

/// The same peers with a worker for each of two cores. They run only if they are named.
pub fn extra() -> Vec<Subject> {
    vec![
        Subject { name: "nginx-2", kind: Kind::Nginx { workers: 2 } },
        Subject { name: "haproxy-2", kind: Kind::Haproxy { threads: 2 } },
    ]
}

impl Subject {
    /// The build under test, with any settings.
    pub fn is_replgate(&self) -> bool {
        matches!(self.kind, Kind::Replgate { beside: false, .. })
    }

    /// A tunnel of another maker.
    pub fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Nginx { .. } | Kind::Haproxy { .. } | Kind::Stunnel | Kind::Spiped)
    }

    /// A tunnel of any maker.
    pub fn is_tunnel(&self) -> bool {
        !matches!(self.kind, Kind::RedisTls | Kind::Direct)
    }

    /// One lane, no compression.
    pub fn is_simple(&self) -> bool {
        !matches!(self.kind, Kind::Replgate { lanes: 2.., .. } | Kind::Replgate { zstd: true, .. })
    }

    pub fn compresses(&self) -> bool {
        matches!(self.kind, Kind::Replgate { zstd: true, .. })
    }

    /// What it is, in words.
    pub fn title(&self) -> String {
        match &self.kind {
            Kind::Replgate { program, beside: true, .. } => format!("replgate of {}", program.display()),
            Kind::Replgate { zstd: true, .. } => "replgate with zstd".to_owned(),
            Kind::Replgate { lanes: 1, .. } => "replgate".to_owned(),
            Kind::Replgate { lanes, .. } => format!("replgate with {lanes} lanes"),
            Kind::Nginx { workers } => format!("nginx stream, {workers} worker(s), buffers of 64k"),
            Kind::Haproxy { threads } => format!("haproxy in TCP mode, {threads} thread(s), buffers of 64k"),
            Kind::Stunnel => "stunnel4".to_owned(),
            Kind::Spiped => "spiped".to_owned(),
            Kind::RedisTls => "Redis' own TLS, no tunnel".to_owned(),
            Kind::Direct => "no tunnel, no TLS".to_owned(),
        }
    }

    /// Its version; `None` if it is not installed.
    pub fn version(&self) -> Option<String> {
        match &self.kind {
            Kind::Replgate { program, .. } => first_line(Command::new(program).arg("--version")),
            Kind::Nginx { .. } => nginx::version(),
            Kind::Haproxy { .. } => haproxy::version(),
            Kind::Stunnel => stunnel::version(),
            Kind::Spiped => spiped::version(),
            Kind::RedisTls | Kind::Direct => {
                redis::VERSION.as_ref().map(|version| format!("Redis {version}"))
            }
        }
    }

    /// Starts it in front of a master, and waits until both ends listen.
    pub fn start(&self, place: &Place, master: Master, carries: Carries) -> Result<Way> {
        let ports = Ports { wan: local(free_port()?), entry: local(free_port()?) };
        let sites = match &self.kind {
            Kind::Replgate { program, lanes, zstd, .. } => {
                replgate::Settings { program, lanes: *lanes, zstd: *zstd, carries }.start(
                    place,
                    ports,
                    master.plain,
                )
            }
            Kind::Nginx { workers } => nginx::start(place, ports, master.plain, *workers),
            Kind::Haproxy { threads } => haproxy::start(place, ports, master.plain, *threads),
            Kind::Stunnel => stunnel::start(place, ports, master.plain),
            Kind::Spiped => spiped::start(place, ports, master.plain),
            Kind::RedisTls => {
                let entry = master.tls.context("this master has no TLS port")?;
                return Ok(Way { entry, tls: true, sites: None });
            }
            Kind::Direct => return Ok(Way { entry: master.plain, tls: false, sites: None }),
        };
        let sites = Some(sites?);
        for port in [ports.wan.port(), ports.entry.port()] {
            wait_for_port(port)?;
        }
        Ok(Way { entry: ports.entry, tls: false, sites })
    }
}

/// The first line that a program prints, to stdout or stderr.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}

/// Writes a tunnel's config.
pub fn config(place: &Place, name: &str, text: &str) -> Result<PathBuf> {
    let path = place.file(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
