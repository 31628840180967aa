//! Validates the files as written: makes a [`Config`] of it and records every fault.
//!
//! What a `[[master]]` holds is in [`mod@master`], what a `[[replica]]` holds in [`mod@replica`].

mod master;
mod replica;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::master::master;
use self::replica::{Around, replica};
use super::far_site::FarSites;
use super::faults::{Place, name};
use super::file::{At, Files, Table};
use super::include::Found;
use super::link;
use super::{Admin, Config, Limits, LinkSettings, TlsFiles};
use crate::escape::shown;
use crate::memory;
use crate::units::{self, ListenAddress};

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

/// Most Redis that one `[[master]]` names, most Sentinels, and most sites of one `[[replica]]`.
const MOST: usize = 16;

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
