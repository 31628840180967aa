//! The gateway's config, validated: parsed, filled with defaults, without
//! impossible pairs. Every fault of the file is found at once, with its place.

pub mod file;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::file::{Faults, File};
use self::validate::validate;
use crate::redis::introduction::Capability;
use crate::units::{Address, Network};

/// The largest config file in bytes.
const LARGEST: u64 = 1 << 20;

/// What one gateway does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// This gateway's name.
    pub site: String,
    /// This host's name, for people.
    pub node: String,
    /// Certificate, key, CAs, revocation lists.
    pub tls: TlsFiles,
    /// Where other sites connect; there whenever there is a master.
    pub listen: Option<SocketAddr>,
    /// Masters offered to other sites.
    pub masters: Vec<Master>,
    /// Far masters offered to replicas here.
    pub replicas: Vec<Replica>,
    /// What holds for links that other sites open.
    pub link: LinkSettings,
    /// Bounds.
    pub limits: Limits,
}

/// Where the files are, as the config names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// CAs that may sign the far side.
    pub ca: PathBuf,
    /// This gateway's certificate, with intermediates after it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Revocation lists.
    pub crl: Option<PathBuf>,
}

/// A master of this site, offered to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// The name that other sites ask for.
    pub name: String,
    /// Its Redis.
    pub redis: Address,
    /// Sites that may replicate it.
    pub allow: Vec<String>,
    /// What of their commands reaches it.
    pub commands: Commands,
}

impl Master {
    /// Whether any command is carried: a plain tunnel.
    pub fn is_plain(&self) -> bool {
        self.commands == Commands::Any
    }

    /// What its switches expose it to, in a sentence each.
    pub fn dangers(&self) -> impl Iterator<Item = &'static str> {
        let switches = match self.commands {
            Commands::Any => [false; 3],
            Commands::Replication { failover, dump, slot_migration, .. } => [failover, dump, slot_migration],
        };
        let dangers = [
            "allow_failover: a site in `allow` may promote this Redis, where it is a replica, to a second master",
            "allow_dump: a site in `allow` may copy all data without being seen as a replica",
            "allow_slot_migration: a site in `allow` may take slots with their data away from this Redis",
        ];
        switches.into_iter().zip(dangers).filter_map(|(on, danger)| on.then_some(danger))
    }
}

/// Which commands reach a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Any: a plain tunnel.
    Any,
    /// Those of replication.
    Replication {
        /// How the gateway authenticates itself, so that replicas need not.
        auth: Option<Auth>,
        /// `PSYNC … FAILOVER` too, which promotes this Redis where it is a replica.
        failover: bool,
        /// Snapshots without replication too.
        dump: bool,
        /// `CLUSTER SYNCSLOTS` too.
        slot_migration: bool,
        /// Replicas that are listed as they announce themselves.
        accept_announce: Vec<Accepted>,
    },
}

/// Addresses of one site's replicas that the master lists as they are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The site.
    pub site: String,
    /// Its addresses, each one of its own.
    pub addresses: Vec<Address>,
}

/// Who a gateway is to its Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The ACL user; Redis' default user where there is none.
    pub username: Option<String>,
    /// Where the password is.
    pub password_file: PathBuf,
}

/// A master of another site, offered to replicas here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its name here.
    pub name: String,
    /// Its name there.
    pub master: String,
    /// Where the replicas connect.
    pub listen: SocketAddr,
    /// Who may connect.
    pub clients: Vec<Network>,
    /// Who must answer.
    pub site: String,
    /// Ways to that site, in order.
    pub peers: Vec<Address>,
    /// The address that the master lists for replicas of this site.
    pub announce: Announced,
    /// Where the password is that a replica must know, if it must know one.
    pub password_file: Option<PathBuf>,
    /// What the master is not to hear of what a replica can.
    pub drop_capabilities: Vec<Capability>,
    /// What holds for its links.
    pub link: LinkSettings,
}

/// What a master's INFO shows for a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// What the replica itself says, or the gateway's address.
    Keep,
    /// This host, and this port in place of the replica's.
    As {
        /// Name or address.
        host: String,
        /// Port; the replica's own where there is none.
        port: Option<u16>,
    },
}

/// How a link is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Pause after which a lane says something.
    pub heartbeat: Duration,
    /// Silence after which a lane is dead.
    pub dead_after: Duration,
    /// How long a link outlives its last lane; zero, or longer than `dead_after`.
    pub hold: Duration,
    /// Lanes of a link, 1 to 16.
    pub lanes: u8,
    /// Unacknowledged bytes each way.
    pub window: u64,
    /// Compression of what this side sends.
    pub compression: Compression,
    /// Congestion control of lanes.
    pub congestion: Congestion,
}

/// Compression of what one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Off,
    /// zstd, for what it shrinks.
    Zstd {
        /// zstd's level, 1 to 19.
        level: i32,
    },
}

/// Congestion control of lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// bbr where the system allows it, else what it has.
    Auto,
    /// This one; where it is not to be had, what the system has, with a warning.
    Named(String),
}

/// Bounds on what links may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes that all links together may hold.
    pub memory: u64,
    /// Links of one site at a time.
    pub links_per_site: usize,
    /// New links of one site to one master in a minute.
    pub new_links_per_minute: usize,
    /// Full syncs of one site from one master in a minute; any number where there is
    /// none.
    pub full_syncs_per_minute: Option<usize>,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            hold: Duration::from_secs(45),
            lanes: 1,
            window: 64 << 20,
            compression: Compression::Off,
            congestion: Congestion::Auto,
        }
    }
}

impl Config {
    /// Reads and judges the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let source = crate::file::read_text(path, LARGEST).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => "; name the file with -c, or copy the example gateway.toml",
                _ => "",
            };
            Faults::whole(path, format!("cannot be read: {error}{hint}"))
        })?;
        Self::parse(path, &source)
    }

    /// Judges `source`; relative paths in it start at the folder of `path`.
    pub fn parse(path: &Path, source: &str) -> Result<Self, Faults> {
        let file = File::parse(path, source);
        let config = validate(path, &file);
        match (file.finish(), config) {
            (None, Some(config)) => Ok(config),
            (Some(faults), _) => Err(faults),
            (None, None) => Err(Faults::whole(path, "cannot be understood".to_owned())),
        }
    }

    /// Every address to listen on: other sites first, then replicas.
    pub fn listeners(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.into_iter().chain(self.replicas.iter().map(|replica| replica.listen))
    }

    /// Every password file that is named here.
    pub fn password_files(&self) -> impl Iterator<Item = &Path> {
        let masters = self.masters.iter().filter_map(|master| match &master.commands {
            Commands::Replication { auth: Some(auth), .. } => Some(auth.password_file.as_path()),
            _ => None,
        });
        masters.chain(self.replicas.iter().filter_map(|replica| replica.password_file.as_deref()))
    }

    /// This config, and every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = [&self.path, &self.tls.ca, &self.tls.cert, &self.tls.key].map(PathBuf::as_path);
        tls.into_iter().chain(self.tls.crl.as_deref()).chain(self.password_files())
    }

    /// Masters whose `allow` names this site itself: it would dial itself.
    pub fn allowed_to_itself(&self) -> impl Iterator<Item = &Master> {
        let own = |site: &String| site.eq_ignore_ascii_case(&self.site);
        self.masters.iter().filter(move |master| master.allow.iter().any(own))
    }

    /// Tells this config from another one, wherever it was read.
    pub fn digest(&self) -> String {
        let absolute = |path: &mut PathBuf| *path = std::path::absolute(&*path).unwrap_or_default();
        let mut validated = Self { path: PathBuf::new(), ..self.clone() };
        let TlsFiles { ca, cert, key, crl } = &mut validated.tls;
        [ca, cert, key].into_iter().chain(crl).for_each(absolute);
        for master in &mut validated.masters {
            if let Commands::Replication { auth: Some(auth), .. } = &mut master.commands {
                absolute(&mut auth.password_file);
            }
        }
        validated.replicas.iter_mut().filter_map(|replica| replica.password_file.as_mut()).for_each(absolute);
        crate::x509::fingerprint(format!("{validated:?}").as_bytes())
    }

    /// The master of this name.
    pub fn master(&self, name: &str) -> Option<&Master> {
        self.masters.iter().find(|master| master.name == name)
    }
}

#[cfg(test)]
mod tests;
