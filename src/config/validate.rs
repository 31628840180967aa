//! Validates the files as written: makes a [`Config`] of it and records every fault.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::far_site::FarSites;
use super::faults::{Place, name};
use super::file::{At, Files, Table};
use super::include::Found;
use super::link;
use super::{
    Accepted, Admin, Announced, Auth, Commands, Config, Follow, Limits, LinkSettings, Master, Origin,
    Replica, Sentinel, TlsFiles,
};
use crate::escape::shown;
use crate::memory;
use crate::redis::introduction::Capability;
use crate::redis::listing;
use crate::units::{self, Address, ListenAddress, Network};

/// The config, if all of it is valid.
pub(super) fn validate(files: &Files<'_>, found: Found) -> Option<Config> {
    let roots = files.roots();
    let (root, included) = roots.split_first()?;
    // What a file that cannot be read lacks, or another one has, is not known.
    let complete = files.is_sound();
    let path = files.path();
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let site =
        root.required("site", "\"dc1\", this gateway's name as its certificate carries it", units::site);
    let node = root.parsed("node", units::name);
    let sandbox = root.switch("sandbox").is_none_or(|on| on.value);
    let tls = match root.table("tls") {
        Some(table) => self::tls(&table, &folder),
        None if root.has("tls") => None,
        None => {
            files.fault_whole(
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
    let link = link::read(root, &LinkSettings::default(), files);
    let limits = root.table("limits").map_or_else(|| Some(limits(None)), |table| Some(limits(Some(&table))));
    let state = root.table("state").map(|table| {
        let state = table.required("dir", "\"/var/lib/replgate\"", self::path(&folder));
        table.finish();
        state
    });
    let admin = root.table("admin").map(|table| admin(&table, &folder));
    root.known("include");
    let tables = |key: &str| roots.iter().flat_map(|root| root.tables(key)).collect::<Vec<_>>();
    let own = site.as_ref().map(|site| site.value.as_str());
    let masters: Vec<_> =
        tables("master").iter().map(|table| (table.place, master(table, &folder))).collect();
    let defaults = link.clone().unwrap_or_default();
    let far_sites = FarSites::read(&tables("far_site"), own, &defaults, files);
    let around = Around { own, defaults: &defaults, folder: &folder, far_sites: &far_sites, complete, files };
    let replicas: Vec<_> = tables("replica").iter().map(|table| replica(table, &around)).collect();
    root.finish();
    for table in included {
        table.finish_included(root);
    }

    unique(files, "master", masters.iter().filter_map(|(_, (name, _))| name.as_ref()));
    unique(files, "replica", replicas.iter().filter_map(|(name, _, _)| name.as_ref()));
    let mut listeners: HashMap<SocketAddr, Place> = HashMap::new();
    let of_admin = admin.iter().flatten().filter_map(|At { value, place }| match value.listen {
        ListenAddress::Ip(value) => Some(At { value, place: *place }),
        ListenAddress::Unix(_) => None,
    });
    let of_admin: Vec<_> = of_admin.collect();
    let carry = listen.iter().chain(replicas.iter().filter_map(|(_, listen, _)| listen.as_ref()));
    for At { value, place } in carry.chain(&of_admin) {
        if let Some(first) = listeners.get(value) {
            files.fault(
                *place,
                format!(
                    "listen: {value} is used twice, first at {}; each listener needs an address of its own",
                    files.shown(*first)
                ),
            );
        }
        listeners.entry(*value).or_insert(*place);
    }
    if let (Some((place, _)), None) = (masters.first(), &listen)
        && !root.has("tunnel")
    {
        files.fault(*place, format!("a [[master]] needs [tunnel] in {} with `listen`, where other sites connect; write listen = \"0.0.0.0:7379\"", name(path)));
    }
    if complete && !roots.iter().any(|root| root.has("master") || root.has("replica")) {
        let unmatched =
            found.unmatched.iter().map(|At { value, .. }| format!("; include: {value:?} matches no file"));
        files.fault_whole(format!(
            "nothing to do: add a [[master]] where the master is, or a [[replica]] where the replicas are{}",
            unmatched.collect::<String>()
        ));
    }
    let unmatched = found
        .unmatched
        .iter()
        .map(|At { value, place }| format!("{}: include: {value:?} matches no file", files.shown(*place)));
    let tls = tls?;
    Some(Config {
        path: path.to_owned(),
        included: files.included(),
        warnings: unmatched.chain(far_sites.unused(files)).collect(),
        include_folders: found.folders,
        node: node.map_or_else(host_name, |node| node.value),
        watch: tls.watch,
        refuses_stale: tls.refuses_stale,
        tls: tls.files,
        admin: match admin {
            Some(admin) => Some(admin?.value),
            None => None,
        },
        listen: listen.map(|listen| listen.value),
        masters: masters.into_iter().map(|(_, (_, master))| master.map(Arc::new)).collect::<Option<_>>()?,
        replicas: replicas.into_iter().map(|(_, _, replica)| replica.map(Arc::new)).collect::<Option<_>>()?,
        link: link?,
        limits: limits?,
        sandbox,
        site: site?.value,
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

/// Most bytes that the kernel takes as the path of a Unix socket.
const SOCKET_PATH: usize = 107;

/// What `[admin]` says, with the place of `listen`.
fn admin(table: &Table<'_, '_>, folder: &Path) -> Option<At<Admin>> {
    let listen = table.required("listen", "\"127.0.0.1:7380\"", |text| match units::listen_address(text)? {
        ListenAddress::Unix(path) => {
            let path = folder.join(path);
            let path = std::path::absolute(&path).unwrap_or(path);
            let length = path.as_os_str().len();
            if length > SOCKET_PATH {
                return Err(format!(
                    "{} has {length} bytes, and the path of a socket {SOCKET_PATH} at most; write a shorter one",
                    path.display()
                ));
            }
            Ok(ListenAddress::Unix(path))
        }
        ip @ ListenAddress::Ip(_) => Ok(ip),
    });
    let public = table.switch("public");
    table.finish();
    let listen = listen?;
    if let (ListenAddress::Ip(address), false) = (&listen.value, table.has("public") && public.is_none())
        && !address.ip().is_loopback()
        && !public.as_ref().is_some_and(|public| public.value)
    {
        table.fault_at(&listen, format!("{}listen: {address} is reachable from other hosts; write public = true, and only /live, /ready and /metrics are shown there, or listen on 127.0.0.1 or a unix: socket", table.prefix()));
    }
    let public = match public {
        Some(public) => public.value,
        None if table.has("public") => return None,
        None => false,
    };
    Some(At { value: Admin { listen: listen.value, public }, place: listen.place })
}

/// What `[tls]` says.
struct Tls {
    files: TlsFiles,
    watch: bool,
    refuses_stale: bool,
}

fn tls(table: &Table<'_, '_>, folder: &Path) -> Option<Tls> {
    let path = path(folder);
    let ca = table.required("ca", "\"certs/SITE/ca.crt\"", &path);
    let cert = table.required("cert", "\"certs/SITE/tls.crt\"", &path);
    let key = table.required("key", "\"certs/SITE/tls.key\"", &path);
    let crl = table.parsed("crl", &path);
    let watch = table.switch("watch").is_none_or(|watch| watch.value);
    let expired = table.parsed("crl_expired", |text| match text {
        "warn" => Ok(false),
        "refuse" => Ok(true),
        other => Err(format!("expected \"warn\" or \"refuse\", found {:?}", shown(other.as_bytes()))),
    });
    table.finish();
    let files = TlsFiles { ca: ca?.value, cert: cert?.value, key: key?.value, crl: crl.map(|crl| crl.value) };
    Some(Tls { files, watch, refuses_stale: expired.is_some_and(|expired| expired.value) })
}

/// The name, and the master if all of it is valid.
fn master(table: &Table<'_, '_>, folder: &Path) -> (Option<At<String>>, Option<Master>) {
    let name = table.required("name", "\"orders\", the name that other sites ask for", units::name);
    let sentinel = table.table("sentinel").map(|inner| self::sentinel(&inner, folder, table.has("redis")));
    let redis = candidates(table);
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
    let commands = commands(table, folder, redis.as_deref().unwrap_or_default(), allowed);
    let follow = follow(table, redis.as_deref().map(<[_]>::len));
    table.finish();
    let sentinel = match sentinel {
        Some(None) => return (name, None),
        None if table.has("sentinel") => return (name, None),
        sentinel => sentinel.flatten(),
    };
    let master = (|| {
        Some(Master {
            name: name.as_ref()?.value.clone(),
            redis: redis?,
            sentinel,
            follow: follow?,
            allow: allow?.value,
            commands: commands?,
        })
    })();
    (name, master)
}

/// Most Redis that one `[[master]]` names, most Sentinels, and most sites of one `[[replica]]`.
const MOST: usize = 16;

/// The Redis that may be the master: one, or a list of them; none where a Sentinel names it.
fn candidates(table: &Table<'_, '_>) -> Option<Vec<Address>> {
    if !table.has("redis") && table.has("sentinel") {
        return Some(Vec::new());
    }
    if !table.has("redis") || table.is_string("redis") {
        let one = table.required("redis", "\"127.0.0.1:6379\", the master's own address", units::address)?;
        return Some(vec![one.value]);
    }
    places(table, "redis", "no Redis could be the master")
}

/// A list of addresses, each once.
fn places(table: &Table<'_, '_>, key: &str, if_none: &str) -> Option<Vec<Address>> {
    let items = table.items(key, units::address)?;
    let before = table.prefix();
    if items.value.is_empty() {
        table.fault_at(&items, format!("{before}{key}: the list is empty: {if_none}"));
        return None;
    }
    if items.value.len() > MOST {
        table.fault_at(
            &items,
            format!("{before}{key}: {} addresses are too many; {MOST} at most", items.value.len()),
        );
        return None;
    }
    let mut known: Vec<Address> = Vec::new();
    let mut good = true;
    for item in items.value {
        if known.contains(&item.value) {
            good = false;
            table.fault_at(
                &item,
                format!("{before}{key}: {} is there twice; leave one of them out", item.value),
            );
        }
        known.push(item.value);
    }
    good.then_some(known)
}

/// The Sentinels of a master. `named`: whether the config names the Redis that may be it.
fn sentinel(table: &Table<'_, '_>, folder: &Path, named: bool) -> Option<Sentinel> {
    let master =
        table.required("master", "\"mymaster\", the name that the Sentinels have for it", units::name);
    let at = if table.has("at") {
        places(table, "at", "there is no Sentinel to ask")
    } else {
        table.fault(format!(
            "{}`at` is missing; write at = [\"10.0.0.5:26379\"], every Sentinel of this master",
            table.prefix()
        ));
        None
    };
    let username = table.parsed("username", user);
    let password_file = table.parsed("password_file", path(folder));
    if let (Some(username), false) = (&username, table.has("password_file")) {
        table.fault_at(username, format!("{}username: a user needs a `password_file` too", table.prefix()));
    }
    let networks = table.list("networks", units::network);
    match &networks {
        None if !table.has("networks") && !named => table.fault(format!(
            "{}without `redis` the Sentinels alone say which Redis gets the links and the password; say where it may be: networks = [\"10.0.0.0/24\"]",
            table.prefix()
        )),
        Some(networks) if named => table.fault_at(
            networks,
            format!("{}networks: the Sentinels may only name one of `redis`; leave `networks` or `redis` out", table.prefix()),
        ),
        Some(networks) if networks.value.is_empty() => table.fault_at(networks, format!("{}networks: the list is empty: no Redis could be followed", table.prefix())),
        _ => {}
    }
    table.finish();
    let read = |key: &str, read: bool| read || !table.has(key);
    (read("username", username.is_some())
        && read("password_file", password_file.is_some())
        && read("networks", networks.is_some()))
    .then_some(())?;
    Some(Sentinel {
        master: master?.value,
        at: at?,
        auth: password_file
            .map(|file| Auth { username: username.map(|name| name.value), password_file: file.value }),
        networks: networks.map_or_else(Vec::new, |networks| networks.value),
    })
}

/// Which Redis gets the links; `count` is the number of those that may, if it is known.
fn follow(table: &Table<'_, '_>, count: Option<usize>) -> Option<Follow> {
    let plain = table.text("commands") == Some("any");
    let given = table.parsed("follow", |text| match text {
        "any" => Ok(Follow::Any),
        "master" => Ok(Follow::Master),
        other => Err(format!(
            "{:?} is unknown; write \"master\", the one that is known to be the master, or \"any\", the first that answers",
            shown(other.as_bytes())
        )),
    });
    if table.has("follow") && given.is_none() {
        return None;
    }
    let before = table.prefix();
    if plain && table.has("sentinel") {
        table.fault(format!("{before}sentinel: with commands = \"any\" the gateway does not look at what Redis says; leave one of them out"));
    }
    if let Some(given) = &given {
        if given.value == Follow::Any && table.has("sentinel") {
            table.fault_at(given, format!("{before}follow: \"any\" takes whatever answers, and the Sentinels would not be asked; leave `follow` or `sentinel` out"));
        }
        if given.value == Follow::Master && plain {
            table.fault_at(given, format!("{before}follow: with commands = \"any\" the gateway does not look at what Redis says; leave one of them out"));
        }
        return Some(given.value);
    }
    let by_itself = !plain && (table.has("sentinel") || count? > 1);
    Some(if by_itself { Follow::Master } else { Follow::Any })
}

/// Which commands reach the master, and how the gateway authenticates itself there.
fn commands(table: &Table<'_, '_>, folder: &Path, redis: &[Address], allowed: &[String]) -> Option<Commands> {
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
fn accepted(table: &Table<'_, '_>, redis: &[Address], allowed: &[String]) -> Option<Vec<Accepted>> {
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
                .iter()
                .any(|redis| redis == address || listing::is_same(address, &redis.host, redis.port))
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

/// What a `[[replica]]` is read with.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// This gateway's site.
    own: Option<&'a str>,
    /// The settings in `[link]`.
    defaults: &'a LinkSettings,
    /// Where relative paths start.
    folder: &'a Path,
    far_sites: &'a FarSites,
    /// Whether every file was read to its end.
    complete: bool,
    files: &'a Files<'a>,
}

/// The name, the listener's address, and the replica if all of it is valid.
fn replica(
    table: &Table<'_, '_>,
    around: &Around<'_>,
) -> (Option<At<String>>, Option<At<SocketAddr>>, Option<Replica>) {
    let Around { own, folder, files, .. } = *around;
    let name = table.required("name", "\"orders\"", units::name);
    let master = table.parsed("master", units::name);
    let listen = table.required("listen", "\"127.0.0.1:6390\", where the replicas connect", units::listener);
    let clients = table.list("clients", units::network);
    let from = origins(table, around);
    if let (Some(listen), false) = (&listen, table.has("clients"))
        && !listen.value.ip().is_loopback()
    {
        files.fault(
            listen.place,
            format!("{}listen {} is reachable from other hosts, and who connects gets the data; say who may: clients = [\"10.1.2.3/32\"]", table.prefix(), listen.value),
        );
    }
    let announce = announced(table, own);
    let password_file = table.parsed("password_file", path(folder));
    let drop_capabilities = table.list("drop_capabilities", capability);
    // A value that cannot be read is a fault; it must not count as left out.
    let good = (password_file.is_some() || !table.has("password_file"))
        && (drop_capabilities.is_some() || !table.has("drop_capabilities"));
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
            site: from.as_ref()?.first()?.site.clone(),
            peers: from.as_ref()?.first()?.peers.clone(),
            link: from.as_ref()?.first()?.link.clone(),
            announce: announce?,
            password_file: password_file.map(|path| path.value),
            drop_capabilities: drop_capabilities.map_or_else(Vec::new, |list| list.value),
            from: from?,
        })
    })();
    (name, listen, replica)
}

/// The sites that can have the master of a `[[replica]]`: one of `site` and `peers`, or those of `from`.
fn origins(table: &Table<'_, '_>, around: &Around<'_>) -> Option<Vec<Origin>> {
    if !table.has("from") {
        return Some(vec![origin(table, table, around)?]);
    }
    let tables = table.tables("from");
    for key in ["site", "peers"] {
        if table.has(key) {
            table.known(key);
            table.fault(format!(
                "{}`from` and `{key}` both say which site has the master; leave `{key}` out",
                table.prefix()
            ));
        }
    }
    if table.is_empty_list("from") {
        table.fault(format!("{}`from` is empty: no site could have the master", table.prefix()));
    }
    if tables.len() > MOST {
        table.fault(format!("{}from: {} sites are too many; {MOST} at most", table.prefix(), tables.len()));
        return None;
    }
    let mut known: Vec<String> = Vec::new();
    let mut read = Vec::new();
    for inner in &tables {
        let origin = origin(inner, table, around);
        inner.finish();
        if let Some(origin) = &origin {
            if known.contains(&origin.site.to_ascii_lowercase()) {
                inner.fault(format!(
                    "{}{:?} is there twice; write all of its peers in one",
                    inner.prefix(),
                    origin.site
                ));
                return None;
            }
            known.push(origin.site.to_ascii_lowercase());
        }
        read.push(origin);
    }
    read.into_iter().collect::<Option<Vec<_>>>().filter(|origins| !origins.is_empty())
}

/// One site, of the keys `site` and `peers` in `table`; settings of links are in `whole`.
fn origin(table: &Table<'_, '_>, whole: &Table<'_, '_>, around: &Around<'_>) -> Option<Origin> {
    let Around { own, files, .. } = *around;
    let site = table.required("site", "\"dc1\", the site that must answer", units::site);
    let far_site = site.as_ref().and_then(|site| around.far_sites.of(&site.value));
    let peers = table.list("peers", units::address);
    let peers = match (far_site, peers) {
        (Some(far_site), Some(peers)) => {
            let there = files.shown(far_site.place);
            table.fault_at(
                &peers,
                format!("{}peers are given here and in the [[far_site]] of this site, at {there}; leave them out here", table.prefix()),
            );
            None
        }
        (Some(far_site), None) if !table.has("peers") => far_site.peers.clone(),
        (None, None) if !table.has("peers") => {
            let fault = around.far_sites.without_peers(site.as_ref()).filter(|_| around.complete);
            if let Some(fault) = fault {
                table.fault(format!("{}{fault}", table.prefix()));
            }
            None
        }
        (_, peers) => peers.and_then(|peers| {
            if peers.value.is_empty() {
                table.fault(format!("{}`peers` is empty: there is no way to the far site", table.prefix()));
            }
            (!peers.value.is_empty()).then_some(peers.value)
        }),
    };
    if let (Some(site), Some(own)) = (&site, own)
        && site.value.eq_ignore_ascii_case(own)
    {
        files.fault(
            site.place,
            format!(
                "{}site: {own:?} is this gateway itself; name the far site, where the master is",
                table.prefix()
            ),
        );
    }
    let defaults = far_site.and_then(|far_site| far_site.link.as_ref()).unwrap_or(around.defaults);
    let link = link::read(whole, defaults, files);
    Some(Origin { site: site?.value, peers: peers?, link: link? })
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

fn unique<'n>(files: &Files<'_>, kind: &str, names: impl Iterator<Item = &'n At<String>>) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for At { value, place } in names {
        if let Some(first) = seen.get(value.as_str()) {
            files.fault(
                *place,
                format!(
                    "{kind} {value:?} is there twice, first at {}; give each {kind} a name of its own",
                    files.shown(*first)
                ),
            );
        }
        seen.entry(value).or_insert(*place);
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
