//! The gateway's config after validation: values are parsed, defaults are filled in, and impossible
//! combinations cannot be represented. All faults of all files are reported together, each with its
//! place.

mod change;
mod far_site;
mod faults;
mod file;
mod include;
mod link;
mod validate;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::faults::{Faults, Source};
use self::file::Files;
use self::include::Found;
use self::validate::validate;
use crate::redis::introduction::Capability;
use crate::units::{Address, ListenAddress, Network};

/// Largest config file in bytes.
const LARGEST: u64 = 1 << 20;

/// The config of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// The files that it includes, in the order of their names.
    pub included: Vec<PathBuf>,
    /// Folders from which a new file would be included.
    pub include_folders: Vec<PathBuf>,
    /// What is allowed and probably not meant: one sentence each, with its place.
    pub warnings: Vec<String>,
    /// This gateway's site.
    pub site: String,
    /// This host's name, as shown to operators.
    pub node: String,
    /// Certificate, key, CAs, revocation lists.
    pub tls: TlsFiles,
    /// Whether these files are used by themselves when they have changed.
    pub watch: bool,
    /// Whether a far site is refused where a revocation list of its issuer is stale.
    pub refuses_stale: bool,
    /// Where the state is shown over HTTP, if anywhere.
    pub admin: Option<Admin>,
    /// Where other sites connect; always set if there is a master.
    pub listen: Option<SocketAddr>,
    /// Masters offered to other sites.
    pub masters: Vec<Arc<Master>>,
    /// Far masters offered to replicas here.
    pub replicas: Vec<Arc<Replica>>,
    /// Settings for links that other sites open.
    pub link: LinkSettings,
    /// Bounds on what links may take.
    pub limits: Limits,
    /// The folder for what must outlive a restart; `None` leaves it to the service manager.
    pub state: Option<PathBuf>,
    /// Whether the process gives up all files but those that it needs.
    pub sandbox: bool,
}

/// The TLS files, with relative paths resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// CAs that may sign the far side's certificate.
    pub ca: PathBuf,
    /// This gateway's certificate, with intermediates after it.
    pub cert: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// Revocation lists.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// Every file.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.ca, &self.cert, &self.key].map(PathBuf::as_path);
        files.into_iter().chain(self.crl.as_deref())
    }

    /// The files in the folder of a site, as `replgate certs` makes it.
    pub fn in_folder(folder: &Path) -> Self {
        let file = |name: &str| folder.join(name);
        Self { ca: file("ca.crt"), cert: file("tls.crt"), key: file("tls.key"), crl: Some(file("crl.pem")) }
    }
}

/// Where the state is shown over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens; the path of a Unix socket is absolute.
    pub listen: ListenAddress,
    /// Whether it shows only what anybody may see.
    pub public: bool,
}

/// A master of this site, offered to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// The name that other sites use for it.
    pub name: String,
    /// The Redis that may be the master, in the config's order; none where Sentinel alone names it.
    pub redis: Vec<Address>,
    /// The Sentinels that say which Redis is the master, if any do.
    pub sentinel: Option<Sentinel>,
    /// Which of them gets the links.
    pub follow: Follow,
    /// Sites that may replicate it.
    pub allow: Vec<String>,
    /// The commands that reach it.
    pub commands: Commands,
}

impl Master {
    /// Whether a site may replicate it.
    pub fn admits(&self, site: &str) -> bool {
        self.allow.iter().any(|allowed| allowed.eq_ignore_ascii_case(site))
    }

    /// Where its Redis may be, in words.
    pub fn places(&self) -> String {
        let redis = || self.redis.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match &self.sentinel {
            Some(sentinel) if self.redis.is_empty() => sentinel.to_string(),
            Some(sentinel) => format!("{} ({sentinel})", redis()),
            None => redis(),
        }
    }

    /// How the gateway authenticates itself at its Redis, if it does.
    pub fn auth(&self) -> Option<&Auth> {
        match &self.commands {
            Commands::Any => None,
            Commands::Replication { auth, .. } => auth.as_ref(),
        }
    }

    /// Whether every command passes, which makes it a plain tunnel.
    pub fn is_plain(&self) -> bool {
        self.commands == Commands::Any
    }

    /// The dangers of its settings, one sentence for each that is on.
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

/// Which Redis of a `[[master]]` gets its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The first one that answers, whatever it is.
    Any,
    /// The one that is known to be the master.
    Master,
}

/// The Sentinels that say which Redis is the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// The name that they have for it.
    pub master: String,
    /// Their addresses. More than half of them must agree.
    pub at: Vec<Address>,
    /// How the gateway authenticates itself there.
    pub auth: Option<Auth>,
    /// Networks in which the Redis must be that they name, where the config names none: it gets the
    /// password. Empty otherwise.
    pub networks: Vec<Network>,
}

impl std::fmt::Display for Sentinel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sentinel's {:?}", self.master)
    }
}

/// Which commands reach a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Every command: a plain tunnel.
    Any,
    /// The commands of replication.
    Replication {
        /// How the gateway authenticates itself to Redis, so that replicas need not.
        auth: Option<Auth>,
        /// Allow `PSYNC … FAILOVER`, which promotes this Redis if it is a replica.
        failover: bool,
        /// Allow snapshots without replication.
        dump: bool,
        /// Allow `CLUSTER SYNCSLOTS`.
        slot_migration: bool,
        /// Replicas that the master lists as they announce themselves.
        accept_announce: Vec<Accepted>,
    },
}

/// The addresses at one site that the master lists as they are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The site.
    pub site: String,
    /// The addresses, which are exact.
    pub addresses: Vec<Address>,
}

/// The credentials of the gateway at its Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The ACL user; `None` is Redis' default user.
    pub username: Option<String>,
    /// The file with the password.
    pub password_file: PathBuf,
}

/// A master of another site, offered to replicas here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The name of this entry.
    pub name: String,
    /// The master's name at the far site.
    pub master: String,
    /// The address where replicas connect.
    pub listen: SocketAddr,
    /// Networks from which replicas may connect.
    pub clients: Vec<Network>,
    /// The far site: its gateway must prove this name. Of several it is the first, but for a link that goes
    /// to another one ([`Replica::at`]).
    pub site: String,
    /// The addresses of that site's gateways, best first.
    pub peers: Vec<Address>,
    /// Every site that can have the master, in the config's order: one or more.
    pub from: Vec<Origin>,
    /// The address that the master lists for replicas of this site.
    pub announce: Announced,
    /// The file with the password that replicas must send, if they must.
    pub password_file: Option<PathBuf>,
    /// Capabilities of replicas that are hidden from the master.
    pub drop_capabilities: Vec<Capability>,
    /// Settings for its links.
    pub link: LinkSettings,
}

impl Replica {
    /// Whether a client at this address may connect.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|network| network.contains(client))
    }

    /// Whether several sites can have the master.
    pub fn has_choice(&self) -> bool {
        self.from.len() > 1
    }

    /// The names of its sites.
    pub fn sites(&self) -> String {
        self.from.iter().map(|origin| origin.site.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// This entry for links to one of its sites; `None` if the site is none of them.
    pub fn at(self: &Arc<Self>, site: &str) -> Option<Arc<Self>> {
        let origin = self.from.iter().find(|origin| origin.site.eq_ignore_ascii_case(site))?;
        if origin.site == self.site {
            return Some(Arc::clone(self));
        }
        let Origin { site, peers, link } = origin.clone();
        Some(Arc::new(Self { site, peers, link, ..Self::clone(self) }))
    }

    /// This entry for each of its sites, in the config's order.
    pub fn at_each(self: &Arc<Self>) -> impl Iterator<Item = Arc<Self>> {
        self.from.iter().filter_map(|origin| self.at(&origin.site))
    }
}

/// A site that can have the master of a `[[replica]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its gateway must prove this name.
    pub site: String,
    /// The addresses of its gateways, best first.
    pub peers: Vec<Address>,
    /// Settings for links to it.
    pub link: LinkSettings,
}

/// The address that a master's INFO shows for a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The replica's own announcement; without one, the gateway's address.
    Keep,
    /// This host, and this port instead of the replica's.
    As {
        /// A name or an address.
        host: String,
        /// The port; `None` is the replica's own.
        port: Option<u16>,
    },
}

/// Settings of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Time without sending after which a lane sends a heartbeat.
    pub heartbeat: Duration,
    /// Time without receiving after which a lane counts as dead.
    pub dead_after: Duration,
    /// Time for which a link is kept without any lane. Zero, or longer than `dead_after`.
    pub hold: Duration,
    /// Number of lanes of a link, 1 to 16.
    pub lanes: u8,
    /// Most unacknowledged bytes in each direction.
    pub window: u64,
    /// Compression of what this side sends.
    pub compression: Compression,
    /// TCP congestion control of the lanes.
    pub congestion: Congestion,
}

/// Compression of what one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    Off,
    /// zstd, for data that it makes smaller.
    Zstd {
        /// zstd's level, 1 to 19.
        level: i32,
    },
}

/// TCP congestion control of the lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// bbr if the system allows it, with its startup watched; otherwise the system's default.
    Auto,
    /// This one. If it is not available, the system's default, with a warning.
    Named(String),
}

/// Bounds on what links may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes that all links together may hold in memory.
    pub memory: u64,
    /// Most links of one site at a time.
    pub links_per_site: usize,
    /// Links of one site to one master that may ask for a sync within a minute.
    pub new_links_per_minute: usize,
    /// Full syncs of one site from one master within a minute; `None` is no bound.
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
    /// Reads and validates the file at `path` and those that it includes. If any of them has a fault
    /// there is no config.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let text = crate::file::read_text(path, LARGEST).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => "; name the file with -c, or copy the example gateway.toml",
                _ => "",
            };
            Faults::whole(path, &format!("cannot be read: {error}{hint}"))
        })?;
        let main = [Source::new(path, text)];
        let mut files = Files::default();
        files.add(&main);
        let (included, found) = include::read(&files);
        files.add(&included);
        Self::of(files, found)
    }

    /// The site that the file at `path` names, and its private key, even if the file has faults: to find
    /// the gateway that still runs with an earlier state of it.
    pub fn identity_of(path: &Path) -> Option<(String, Option<PathBuf>)> {
        let source = crate::file::read_text(path, LARGEST).ok()?;
        let is_head = |line: &&str| line.trim_start().starts_with('[');
        let site = text_of(source.lines().take_while(|line| !is_head(line)), "site")?;
        let tls = source.lines().skip_while(|line| line.trim() != "[tls]").skip(1);
        let key = text_of(tls.take_while(|line| !is_head(line)), "key");
        let folder = path.parent().unwrap_or(Path::new(""));
        Some((site, key.map(|key| folder.join(key))))
    }

    /// Validates texts: first the one of the file that includes the others. Relative paths start at
    /// its folder.
    pub fn parse(sources: &[Source]) -> Result<Self, Faults> {
        let mut files = Files::default();
        files.add(sources);
        include::patterns(&files);
        Self::of(files, Found::default())
    }

    fn of(files: Files<'_>, found: Found) -> Result<Self, Faults> {
        let path = files.path();
        let config = validate(&files, found);
        match (files.finish(), config) {
            (None, Some(config)) => Ok(config),
            (Some(faults), _) => Err(faults),
            (None, None) => Err(Faults::whole(path, "cannot be understood")),
        }
    }

    /// Every address to listen on: other sites first, then replicas, then the state.
    pub fn listeners(&self) -> impl Iterator<Item = ListenAddress> {
        let carry = self.listen.into_iter().chain(self.replicas.iter().map(|replica| replica.listen));
        carry.map(ListenAddress::Ip).chain(self.admin.iter().map(|admin| admin.listen.clone()))
    }

    /// The file of the Unix socket on which it listens, if it does.
    pub fn socket(&self) -> Option<&Path> {
        match &self.admin {
            Some(Admin { listen: ListenAddress::Unix(path), .. }) => Some(path),
            _ => None,
        }
    }

    /// Every password file that the config names.
    pub fn password_files(&self) -> impl Iterator<Item = &Path> {
        let masters = self.masters.iter().flat_map(|master| {
            let sentinel = master.sentinel.as_ref().and_then(|sentinel| sentinel.auth.as_ref());
            master.auth().into_iter().chain(sentinel).map(|auth| auth.password_file.as_path())
        });
        masters.chain(self.replicas.iter().filter_map(|replica| replica.password_file.as_deref()))
    }

    /// The config's files, the folders from which a new one would be included, and every file that
    /// they name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let own = std::iter::once(&self.path).chain(&self.included).chain(&self.include_folders);
        own.map(PathBuf::as_path).chain(self.tls.all()).chain(self.password_files())
    }

    /// Masters whose `allow` names this site itself, which would have to dial itself.
    pub fn allowed_to_itself(&self) -> impl Iterator<Item = &Master> {
        let own = |site: &String| site.eq_ignore_ascii_case(&self.site);
        let masters = self.masters.iter().map(Arc::as_ref);
        masters.filter(move |master| master.allow.iter().any(own))
    }

    /// A digest of the config's contents, which does not depend on which file has them.
    pub fn digest(&self) -> String {
        let absolute = |path: &mut PathBuf| *path = std::path::absolute(&*path).unwrap_or_default();
        let mut validated = self.clone();
        validated.path.clear();
        for files in [&mut validated.included, &mut validated.include_folders] {
            files.clear();
        }
        validated.warnings.clear();
        validated.masters.sort_by(|one, other| one.name.cmp(&other.name));
        validated.replicas.sort_by(|one, other| one.name.cmp(&other.name));
        let TlsFiles { ca, cert, key, crl } = &mut validated.tls;
        [ca, cert, key].into_iter().chain(crl).for_each(absolute);
        for master in validated.masters.iter_mut().map(Arc::make_mut) {
            if let Commands::Replication { auth: Some(auth), .. } = &mut master.commands {
                absolute(&mut auth.password_file);
            }
            if let Some(Sentinel { auth: Some(auth), .. }) = &mut master.sentinel {
                absolute(&mut auth.password_file);
            }
        }
        validated.state.iter_mut().for_each(absolute);
        let replicas = validated.replicas.iter_mut().map(Arc::make_mut);
        replicas.filter_map(|replica| replica.password_file.as_mut()).for_each(absolute);
        crate::x509::fingerprint(format!("{validated:?}").as_bytes())
    }

    /// The master of this name.
    pub fn master(&self, name: &str) -> Option<&Arc<Master>> {
        self.masters.iter().find(|master| master.name == name)
    }

    /// The `[[replica]]` of this name.
    pub fn replica(&self, name: &str) -> Option<&Arc<Replica>> {
        self.replicas.iter().find(|replica| replica.name == name)
    }

    /// The sites that this gateway dials, each once.
    pub fn far_sites(&self) -> impl Iterator<Item = &str> {
        let origins = self.replicas.iter().flat_map(|replica| &replica.from);
        let sites: BTreeSet<_> = origins.map(|origin| origin.site.as_str()).collect();
        sites.into_iter()
    }
}

/// The text that the first of these lines with this key gives it, as in `site = "dc1"`.
fn text_of<'a>(lines: impl Iterator<Item = &'a str>, key: &str) -> Option<String> {
    let mut values = lines.filter_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
    let value = values.next()?.trim_start().strip_prefix('"')?;
    value.split_once('"').map(|(text, _)| text.to_owned())
}

#[cfg(test)]
mod tests;
