//! Validates the file as written: makes a [`Config`] of it and records every fault.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{At, File, Table};
use super::{
    Accepted, Announced, Auth, Commands, Compression, Config, Congestion, Limits, LinkSettings, Master,
    Replica, TlsFiles,
};
use crate::escape::shown;
use crate::memory;
use crate::redis::introduction::Capability;
use crate::redis::listing;
use crate::units::{self, Address, Network};

/// Longest `hold` that is accepted.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// The config, if all of it is valid.
pub(super) fn validate(path: &Path, file: &File<'_>) -> Option<Config> {
    let root = file.root();
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let site =
        root.required("site", "\"dc1\", this gateway's name as its certificate carries it", units::site);
    let node = root.parsed("node", units::name);
    let tls = match root.table("tls") {
        Some(table) => self::tls(&table, &folder),
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
    let state = root.table("state").map(|table| {
        let state = table.required("dir", "\"/var/lib/replgate\"", self::path(&folder));
        table.finish();
        state
    });
    root.not_yet("admin", "`replgate status` works without it; leave [admin] out");
    let own = site.as_ref().map(|site| site.value.clone());
    let masters: Vec<_> =
        root.tables("master").iter().map(|table| (table.span.clone(), master(table, &folder))).collect();
    let defaults = link.clone().unwrap_or_default();
    let replicas: Vec<_> = root
        .tables("replica")
        .iter()
        .map(|table| (table.span.clone(), replica(table, own.as_deref(), &defaults, &folder, file)))
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
    let (tls, refuses_stale) = tls?;
    Some(Config {
        path: path.to_owned(),
        site: site?.value,
        node: node.map_or_else(host_name, |node| node.value),
        tls,
        refuses_stale,
        listen: listen.map(|listen| listen.value),
        masters: masters.into_iter().map(|(_, (_, master))| master.map(Arc::new)).collect::<Option<_>>()?,
        replicas: replicas
            .into_iter()
            .map(|(_, (_, _, replica))| replica.map(Arc::new))
            .collect::<Option<_>>()?,
        link: link?,
        limits: limits?,
        state: match state {
            Some(state) => Some(state?.value),
            None => None,
        },
    })
}

/// Reads a path; a relative one starts at `folder`.
fn path(folder: &Path) -> impl Fn(&str) -> Result<PathBuf, String> {
    move |text| if text.is_empty() { Err("an empty path".to_owned()) } else { Ok(folder.join(text)) }
}

/// The files, and whether stale revocation lists are a reason to refuse.
fn tls(table: &Table<'_, '_>, folder: &Path) -> Option<(TlsFiles, bool)> {
    let path = path(folder);
    let ca = table.required("ca", "\"certs/SITE/ca.crt\"", &path);
    let cert = table.required("cert", "\"certs/SITE/tls.crt\"", &path);
    let key = table.required("key", "\"certs/SITE/tls.key\"", &path);
    let crl = table.parsed("crl", &path);
    let expired = table.parsed("crl_expired", |text| match text {
        "warn" => Ok(false),
        "refuse" => Ok(true),
        other => Err(format!("expected \"warn\" or \"refuse\", found {:?}", shown(other.as_bytes()))),
    });
    table.finish();
    let tls = TlsFiles { ca: ca?.value, cert: cert?.value, key: key?.value, crl: crl.map(|crl| crl.value) };
    Some((tls, expired.is_some_and(|expired| expired.value)))
}

/// The name, and the master if all of it is valid.
fn master(table: &Table<'_, '_>, folder: &Path) -> (Option<At<String>>, Option<Master>) {
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
    let allowed = allow.as_ref().map_or(&[][..], |allow| &allow.value);
    let commands = commands(table, folder, redis.as_ref().map(|redis| &redis.value), allowed);
    table.finish();
    let master = (|| {
        Some(Master {
            name: name.as_ref()?.value.clone(),
            redis: redis?.value,
            allow: allow?.value,
            commands: commands?,
        })
    })();
    (name, master)
}

/// Which commands reach the master, and how the gateway authenticates itself there.
fn commands(
    table: &Table<'_, '_>,
    folder: &Path,
    redis: Option<&Address>,
    allowed: &[String],
) -> Option<Commands> {
    let plain = table.parsed("commands", |text| match text {
        "replication" => Ok(false),
        "any" => Ok(true),
        other => Err(format!(
            "{other:?} is unknown; write \"replication\" (the default), or \"any\" for a plain tunnel"
        )),
    });
    let plain = plain.is_some_and(|plain| plain.value);
    let auth = table.table("auth").map(|inner| {
        let username = inner.parsed("username", user);
        let password_file = inner.required("password_file", "\"redis.pw\"", path(folder));
        inner.finish();
        if plain {
            inner.fault(format!(
                "{}with commands = \"any\" every site in `allow` would run every command as this user; leave one of them out",
                inner.prefix()
            ));
        }
        let username_read = username.is_some() || !inner.has("username");
        username_read.then_some(())?;
        Some(Auth { username: username.map(|name| name.value), password_file: password_file?.value })
    });
    let switch = |key: &str| {
        let switch = table.switch(key)?;
        if plain && switch.value {
            table.fault_at(
                &switch,
                format!(
                    "{}{key}: commands = \"any\" lets everything pass already; leave it out",
                    table.prefix()
                ),
            );
        }
        Some(switch.value)
    };
    let is_on = |key: &str| switch(key).unwrap_or(false);
    let (failover, dump) = (is_on("allow_failover"), is_on("allow_dump"));
    let slot_migration = is_on("allow_slot_migration");
    let exceptions = table.table("accept_announce").map(|inner| {
        if plain {
            inner.fault(format!(
                "{}with commands = \"any\" the gateway looks at nothing that a replica announces; leave it out",
                inner.prefix()
            ));
        }
        accepted(&inner, redis, allowed)
    });
    if plain {
        return Some(Commands::Any);
    }
    let accept_announce = match exceptions {
        Some(read) => read?,
        None if table.has("accept_announce") => return None,
        None => Vec::new(),
    };
    let auth = match auth {
        Some(auth) => Some(auth?),
        None if table.has("auth") => return None,
        None => None,
    };
    Some(Commands::Replication { auth, failover, dump, slot_migration, accept_announce })
}

/// Reads the replicas that are listed as they announce themselves, by site.
fn accepted(table: &Table<'_, '_>, redis: Option<&Address>, allowed: &[String]) -> Option<Vec<Accepted>> {
    let mut accepted = Vec::new();
    let mut good = true;
    for key in table.keys() {
        let site = &key.value;
        if !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(site)) {
            good = false;
            let site = shown(site.as_bytes());
            table.fault_at(&key, format!("{}{site}: this site is not in `allow`", table.prefix()));
        }
        let Some(addresses) = table.list(site, units::address) else {
            good = false;
            continue;
        };
        for address in &addresses.value {
            if redis
                .is_some_and(|redis| redis == address || listing::is_same(address, &redis.host, redis.port))
            {
                good = false;
                table.fault_at(
                    &addresses,
                    format!("{}{address} is this master itself: a Sentinel would make it a replica of itself; give the replica another port", table.prefix()),
                );
            }
        }
        accepted.push(Accepted { site: key.value, addresses: addresses.value });
    }
    table.finish();
    good.then_some(accepted)
}

/// Reads the name of an ACL user.
fn user(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.len() > 128
        || text.contains(|letter: char| letter.is_whitespace() || letter == '\0')
    {
        return Err(format!("{text:?} is not an ACL user; a name has 1 to 128 bytes and no blanks"));
    }
    Ok(text.to_owned())
}

/// Reads the name of a capability.
fn capability(text: &str) -> Result<Capability, String> {
    let known = Capability::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, capability)| *capability).ok_or_else(|| {
        let names = Capability::ALL.map(|(name, _)| name).join(", ");
        format!("{text:?} cannot be dropped; known are {names}")
    })
}

/// The name, the listener's address, and the replica if all of it is valid.
fn replica(
    table: &Table<'_, '_>,
    own: Option<&str>,
    defaults: &LinkSettings,
    folder: &Path,
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
    let password_file = table.parsed("password_file", path(folder));
    let drop_capabilities = table.list("drop_capabilities", capability);
    // A value that cannot be read is a fault; it must not count as left out.
    let good = (password_file.is_some() || !table.has("password_file"))
        && (drop_capabilities.is_some() || !table.has("drop_capabilities"));
    let link =
        table.table("link").map_or_else(|| Some(defaults.clone()), |table| settings(&table, defaults, file));
    table.finish();
    if clients.as_ref().is_some_and(|clients| clients.value.is_empty()) {
        table.fault(format!("{}`clients` is empty: nobody could connect", table.prefix()));
    }
    let replica = (|| {
        let name = name.as_ref().filter(|_| good)?;
        Some(Replica {
            name: name.value.clone(),
            master: master.map_or_else(|| name.value.clone(), |master| master.value),
            listen: listen.as_ref()?.value,
            clients: clients.map_or_else(Network::loopback, |clients| clients.value),
            site: site?.value,
            peers: peers?.value,
            announce: announce?,
            password_file: password_file.map(|path| path.value),
            drop_capabilities: drop_capabilities.map_or_else(Vec::new, |list| list.value),
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
    // A value that cannot be read has its own fault already.
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
    let mut limits =
        Limits { memory: share, links_per_site: 64, new_links_per_minute: 60, full_syncs_per_minute: None };
    if let Some(table) = table {
        let read = |key, place: &mut usize| {
            if let Some(number) = table.number(key, 1, 100_000) {
                *place = usize::try_from(number.value).unwrap_or(usize::MAX);
            }
        };
        read("links_per_site", &mut limits.links_per_site);
        read("new_links_per_minute", &mut limits.new_links_per_minute);
        limits.full_syncs_per_minute = table
            .number("full_syncs_per_minute", 1, 100_000)
            .map(|number| usize::try_from(number.value).unwrap_or(usize::MAX));
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
