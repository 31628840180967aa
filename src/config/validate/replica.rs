//! Validates what a `[[replica]]` says: where its replicas connect, and which sites can have the master.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use super::super::far_site::FarSites;
use super::super::faults::Place;
use super::super::file::{At, Files, Table};
use super::super::link;
use super::super::{Announced, LinkSettings, Origin, Replica};
use super::{MOST, path};
use crate::redis::introduction::Capability;
use crate::units::{self, Network};

/// What a `[[replica]]` is read with.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// This gateway's site.
    pub(super) own: Option<&'a str>,
    /// The settings in `[link]`.
    pub(super) defaults: &'a LinkSettings,
    /// Where relative paths start.
    pub(super) folder: &'a Path,
    pub(super) far_sites: &'a FarSites,
    /// Whether every file was read to its end.
    pub(super) complete: bool,
    pub(super) files: &'a Files<'a>,
}

/// The name, the listener's address, and the replica if all of it is valid.
pub(super) fn replica(
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
        table.known("from");
        return Some(vec![origin(table, table, around).1?]);
    }
    let before = table.prefix();
    for key in ["site", "peers"] {
        table.known(key);
        if table.has(key) {
            table.fault_of(
                key,
                format!("{before}`from` says which sites can have the master; leave `{key}` out"),
            );
        }
    }
    let example = "[{ site = \"dc1\", peers = [\"gw.dc1.example:7379\"] }]";
    let tables = table.inner_tables("from", "site", example);
    match table.length("from") {
        Some(0) => table.fault_of(
            "from",
            format!("{before}`from` is empty: no site could have the master; write from = {example}"),
        ),
        Some(count) if count > MOST => {
            table.fault_of("from", format!("{before}from: {count} sites are too many; {MOST} at most"));
        }
        _ => {}
    }
    let mut known: HashMap<String, Place> = HashMap::new();
    let mut good = !tables.is_empty() && tables.len() <= MOST && table.length("from") == Some(tables.len());
    let mut origins = Vec::new();
    for inner in tables.iter().take(MOST) {
        let (site, origin) = origin(inner, table, around);
        inner.finish();
        good &= origin.is_some();
        origins.extend(origin);
        let Some(At { value: site, place }) = site else { continue };
        if let Some(first) = known.get(&site.to_ascii_lowercase()) {
            good = false;
            let first = around.files.shown(*first);
            let fault = format!(
                "{before}from: {site:?} is there twice, first at {first}; write all of its peers in one"
            );
            around.files.fault(place, fault);
        }
        known.entry(site.to_ascii_lowercase()).or_insert(place);
    }
    if tables.is_empty() {
        // What is wrong with it is told all the same.
        link::read(table, around.defaults, around.files);
    }
    good.then_some(origins)
}

/// The name of one site, and all of it if it is valid, of the keys `site` and `peers` in `table`. The
/// settings of its links are in `whole`.
fn origin(
    table: &Table<'_, '_>,
    whole: &Table<'_, '_>,
    around: &Around<'_>,
) -> (Option<At<String>>, Option<Origin>) {
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
    let origin = (|| Some(Origin { site: site.as_ref()?.value.clone(), peers: peers?, link: link? }))();
    (site, origin)
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

/// Reads the name of a capability.
fn capability(text: &str) -> Result<Capability, String> {
    let known = Capability::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, capability)| *capability).ok_or_else(|| {
        let names = Capability::ALL.map(|(name, _)| name).join(", ");
        format!("{text:?} cannot be dropped; known are {names}")
    })
}
