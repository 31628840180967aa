//! The gateway's config as believed: parsed, filled with defaults, without
//! impossible pairs. Every fault of the file is found at once, with its place.

pub mod file;
pub mod units;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::file::{At, Faults, File, Table};
use self::units::{Address, Network};
use crate::memory;

/// The longest hold that may be asked for.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

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
    /// Whether any command is carried: a plain tunnel.
    pub plain: bool,
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
        let source = std::fs::read_to_string(path).map_err(|error| {
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
        let config = believe(path, &file);
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

    /// The master of this name.
    pub fn master(&self, name: &str) -> Option<&Master> {
        self.masters.iter().find(|master| master.name == name)
    }
}

fn believe(path: &Path, file: &File<'_>) -> Option<Config> {
    let root = file.root();
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let site =
        root.required("site", "\"dc1\", this gateway's name as its certificate carries it", units::site);
    let node = root.parsed("node", units::name);
    let tls = match root.table("tls") {
        Some(table) => paths(&table, &folder),
        None if root.has("tls") => None,
        None => {
            file.fault_whole(
                "[tls] is missing: it names `ca`, `cert` and `key`; replgate certs init prints the lines",
            );
            None
        }
    };
    let listen = root.table("tunnel").and_then(|table| {
        let listen = table.required("listen", "\"0.0.0.0:7379\"", units::listener);
        table.finish();
        listen
    });
    let link = root.table("link").map_or_else(
        || Some(LinkSettings::default()),
        |table| settings(&table, &LinkSettings::default(), file),
    );
    let limits = root.table("limits").map_or_else(|| Some(limits(None)), |table| Some(limits(Some(&table))));
    root.not_yet("admin", "`replgate status` works without it; leave [admin] out");
    let own = site.as_ref().map(|site| site.value.clone());
    let masters: Vec<_> =
        root.tables("master").iter().map(|table| (table.span.clone(), master(table))).collect();
    let defaults = link.clone().unwrap_or_default();
    let replicas: Vec<_> = root
        .tables("replica")
        .iter()
        .map(|table| (table.span.clone(), replica(table, own.as_deref(), &defaults, file)))
        .collect();
    root.finish();

    unique(file, "master", masters.iter().filter_map(|(_, (name, _))| name.as_ref()));
    unique(file, "replica", replicas.iter().filter_map(|(_, (name, _, _))| name.as_ref()));
    let mut listeners: Vec<(&SocketAddr, &std::ops::Range<usize>)> =
        listen.iter().map(|at| (&at.value, &at.span)).collect();
    for listen in replicas.iter().filter_map(|(_, (_, listen, _))| listen.as_ref()) {
        if listeners.iter().any(|(other, _)| **other == listen.value) {
            file.fault(
                &listen.span,
                format!("listen: {} is used twice; each listener needs an address of its own", listen.value),
            );
        }
        listeners.push((&listen.value, &listen.span));
    }
    if let (Some((span, _)), None) = (masters.first(), &listen)
        && !root.has("tunnel")
    {
        file.fault(span, "a [[master]] needs [tunnel] with `listen`, where other sites connect; write listen = \"0.0.0.0:7379\"");
    }
    if !root.has("master") && !root.has("replica") {
        file.fault_whole(
            "nothing to do: add a [[master]] where the master is, or a [[replica]] where the replicas are",
        );
    }
    Some(Config {
        path: path.to_owned(),
        site: site?.value,
        node: node.map_or_else(host_name, |node| node.value),
        tls: tls?,
        listen: listen.map(|listen| listen.value),
        masters: masters.into_iter().map(|(_, (_, master))| master).collect::<Option<_>>()?,
        replicas: replicas.into_iter().map(|(_, (_, _, replica))| replica).collect::<Option<_>>()?,
        link: link?,
        limits: limits?,
    })
}

fn paths(table: &Table<'_, '_>, folder: &Path) -> Option<TlsFiles> {
    let path =
        |text: &str| if text.is_empty() { Err("an empty path".to_owned()) } else { Ok(folder.join(text)) };
    let ca = table.required("ca", "\"certs/SITE/ca.crt\"", path);
    let cert = table.required("cert", "\"certs/SITE/tls.crt\"", path);
    let key = table.required("key", "\"certs/SITE/tls.key\"", path);
    let crl = table.parsed("crl", path);
    table.finish();
    Some(TlsFiles { ca: ca?.value, cert: cert?.value, key: key?.value, crl: crl.map(|crl| crl.value) })
}

/// Its name, and the master where all of it is good.
fn master(table: &Table<'_, '_>) -> (Option<At<String>>, Option<Master>) {
    let name = table.required("name", "\"orders\", the name that other sites ask for", units::name);
    let redis = table.required("redis", "\"127.0.0.1:6379\", the master's own address", units::address);
    let allow = table.list("allow", units::site);
    match &allow {
        None if table.has("allow") => {}
        None => table.fault(format!(
            "{}`allow` is missing; write allow = [\"dc2\"], the sites that may replicate it",
            table.prefix()
        )),
        Some(allow) if allow.value.is_empty() => {
            table.fault(format!("{}`allow` is empty: no site could replicate it", table.prefix()))
        }
        Some(_) => {}
    }
    let plain = table.parsed("commands", |text| match text {
        "replication" => Ok(false),
        "any" => Ok(true),
        other => Err(format!(
            "{other:?} is unknown; write \"replication\" (the default), or \"any\" for a plain tunnel"
        )),
    });
    table.not_yet("auth", "let the replica authenticate itself (masterauth, masteruser)");
    table.finish();
    let master = (|| {
        Some(Master {
            name: name.as_ref()?.value.clone(),
            redis: redis?.value,
            allow: allow?.value,
            plain: plain.is_some_and(|plain| plain.value),
        })
    })();
    (name, master)
}

/// Its name, where it listens, and the replica where all of it is good.
fn replica(
    table: &Table<'_, '_>,
    own: Option<&str>,
    defaults: &LinkSettings,
    file: &File<'_>,
) -> (Option<At<String>>, Option<At<SocketAddr>>, Option<Replica>) {
    let name = table.required("name", "\"orders\"", units::name);
    let master = table.parsed("master", units::name);
    let listen = table.required("listen", "\"127.0.0.1:6390\", where the replicas connect", units::listener);
    let clients = table.list("clients", units::network);
    let site = table.required("site", "\"dc1\", the site that must answer", units::site);
    let peers = table.list("peers", units::address);
    match &peers {
        None if table.has("peers") => {}
        None => table.fault(format!(
            "{}`peers` is missing; write peers = [\"gw.dc1.example:7379\"], ways to that site",
            table.prefix()
        )),
        Some(peers) if peers.value.is_empty() => {
            table.fault(format!("{}`peers` is empty: there is no way to the far site", table.prefix()))
        }
        Some(_) => {}
    }
    if let (Some(listen), false) = (&listen, table.has("clients"))
        && !listen.value.ip().is_loopback()
    {
        file.fault(
            &listen.span,
            format!("{}listen {} is reachable from other hosts, and who connects gets the data; say who may: clients = [\"10.1.2.3/32\"]", table.prefix(), listen.value),
        );
    }
    if let (Some(site), Some(own)) = (&site, own)
        && site.value.eq_ignore_ascii_case(own)
    {
        file.fault(
            &site.span,
            format!(
                "{}site: {own:?} is this gateway itself; name the far site, where the master is",
                table.prefix()
            ),
        );
    }
    let announce = announced(table, own);
    let link =
        table.table("link").map_or_else(|| Some(defaults.clone()), |table| settings(&table, defaults, file));
    table.finish();
    if clients.as_ref().is_some_and(|clients| clients.value.is_empty()) {
        table.fault(format!("{}`clients` is empty: nobody could connect", table.prefix()));
    }
    let replica = (|| {
        let name = name.as_ref()?;
        Some(Replica {
            name: name.value.clone(),
            master: master.map_or_else(|| name.value.clone(), |master| master.value),
            listen: listen.as_ref()?.value,
            clients: clients.map_or_else(Network::loopback, |clients| clients.value),
            site: site?.value,
            peers: peers?.value,
            announce: announce?,
            link: link?,
        })
    })();
    (name, listen, replica)
}

fn announced(table: &Table<'_, '_>, own: Option<&str>) -> Option<Announced> {
    let site = || Some(Announced::As { host: own.unwrap_or_default().to_owned(), port: None });
    if table.is_string("announce") {
        let read = table.parsed("announce", |text| match text {
            "site" => Ok(true),
            "keep" => Ok(false),
            other => Err(format!("{other:?} is unknown; write \"site\" (the default), \"keep\", or {{ host = \"bravo.dc2.example\", port = 6379 }}")),
        })?;
        return if read.value { site() } else { Some(Announced::Keep) };
    }
    let Some(inner) = table.table("announce") else { return site() };
    let host = inner.required("host", "\"bravo.dc2.example\"", units::name);
    let port = inner.number("port", 1, 65_535);
    inner.finish();
    Some(Announced::As { host: host?.value, port: port.and_then(|port| u16::try_from(port.value).ok()) })
}

fn settings(table: &Table<'_, '_>, defaults: &LinkSettings, file: &File<'_>) -> Option<LinkSettings> {
    let bounded = |least: Duration, most: Duration| {
        move |text: &str| {
            let time = units::duration(text)?;
            if (least..=most).contains(&time) {
                Ok(time)
            } else {
                Err(format!("must be from {least:?} to {most:?}"))
            }
        }
    };
    let heartbeat = table.parsed("heartbeat", bounded(Duration::from_millis(50), Duration::from_secs(60)));
    let dead_after =
        table.parsed("dead_after", bounded(Duration::from_millis(200), Duration::from_secs(300)));
    let window = table.parsed("window", |text| {
        let size = units::size(text)?;
        if (1 << 20..=4 << 30).contains(&size) {
            Ok(size)
        } else {
            Err("must be from 1MiB to 4GiB".to_owned())
        }
    });
    let congestion = table.parsed("congestion", |text| match text {
        "auto" => Ok(Congestion::Auto),
        other => units::name(other).map(Congestion::Named),
    });
    let hold = table.parsed("hold", |text| {
        let time = units::duration(text)?;
        if time <= LONGEST_HOLD {
            Ok(time)
        } else {
            Err("must be at most 1h, or \"0s\" to end a link with its last lane".to_owned())
        }
    });
    let lanes = table.number("lanes", 1, 16).and_then(|lanes| u8::try_from(lanes.value).ok());
    let compression = table.parsed("compression", compression);
    table.finish();
    let settings = LinkSettings {
        heartbeat: heartbeat.map_or(defaults.heartbeat, |time| time.value),
        dead_after: dead_after.as_ref().map_or(defaults.dead_after, |time| time.value),
        hold: hold.as_ref().map_or(defaults.hold, |time| time.value),
        lanes: lanes.unwrap_or(defaults.lanes),
        window: window.map_or(defaults.window, |size| size.value),
        compression: compression.map_or(defaults.compression, |compression| compression.value),
        congestion: congestion.map_or_else(|| defaults.congestion.clone(), |name| name.value),
    };
    let dead_after_span = || dead_after.as_ref().map_or(&table.span, |time| &time.span);
    let mut good = true;
    if settings.dead_after < settings.heartbeat * 2 {
        file.fault(
            dead_after_span(),
            format!(
                "{}dead_after ({:?}) must be at least twice heartbeat ({:?})",
                table.prefix(),
                settings.dead_after,
                settings.heartbeat
            ),
        );
        good = false;
    }
    // One that cannot be read has its own fault already.
    let sound = |key, read: bool| read || !table.has(key);
    if !settings.hold.is_zero()
        && settings.hold <= settings.dead_after
        && sound("hold", hold.is_some())
        && sound("dead_after", dead_after.is_some())
    {
        let (span, what) = match &hold {
            Some(hold) => (&hold.span, "hold".to_owned()),
            None => (dead_after_span(), format!("hold ({:?})", settings.hold)),
        };
        file.fault(
            span,
            format!(
                "{}{what} must be longer than dead_after ({:?}), or \"0s\" to end a link with its last lane",
                table.prefix(),
                settings.dead_after
            ),
        );
        good = false;
    }
    good.then_some(settings)
}

/// Reads `off`, `zstd`, `zstd:3`.
fn compression(text: &str) -> Result<Compression, String> {
    let level = match text.split_once(':') {
        None if text == "off" => return Ok(Compression::Off),
        None if text == "zstd" => "1",
        Some(("zstd", level)) => level,
        _ => {
            return Err(format!(
                "{text:?} is unknown; write \"off\" (the default), \"zstd\", or \"zstd:3\" for another level than 1"
            ));
        }
    };
    match level.parse() {
        Ok(level @ 1..=19) => Ok(Compression::Zstd { level }),
        _ => Err(format!("{text:?}: a level is a whole number from 1 to 19; write \"zstd:3\"")),
    }
}

fn limits(table: Option<&Table<'_, '_>>) -> Limits {
    let available = memory::available();
    let share = units::memory("25%", available).expect("this is a share");
    let mut limits = Limits { memory: share, links_per_site: 64, new_links_per_minute: 60 };
    if let Some(table) = table {
        let read = |key, place: &mut usize| {
            if let Some(number) = table.number(key, 1, 100_000) {
                *place = usize::try_from(number.value).unwrap_or(usize::MAX);
            }
        };
        read("links_per_site", &mut limits.links_per_site);
        read("new_links_per_minute", &mut limits.new_links_per_minute);
        if let Some(memory) = table.parsed("memory", |text| units::memory(text, available)) {
            limits.memory = memory.value;
        }
        table.finish();
    }
    limits
}

fn unique<'n>(file: &File<'_>, kind: &str, names: impl Iterator<Item = &'n At<String>>) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(&name.value) {
            file.fault(
                &name.span,
                format!("{kind} {:?} is there twice; give each {kind} a name of its own", name.value),
            );
        }
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests;
