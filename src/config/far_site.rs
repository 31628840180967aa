//! The `[[far_site]]` tables: what every `[[replica]]` of a site has in common.
//!
//! They are gone in the validated config, where each replica has its own peers and settings.

use std::cell::Cell;
use std::collections::HashMap;

use super::faults::Place;
use super::file::{At, Files, Table, nearest};
use super::{LinkSettings, link};
use crate::units::{self, Address};

/// One far site.
#[derive(Debug)]
pub(super) struct FarSite {
    name: String,
    /// Where its table starts.
    pub(super) place: Place,
    /// The addresses of its gateways, best first; `None` if they are not valid.
    pub(super) peers: Option<Vec<Address>>,
    /// Settings for the links to it; `None` if they are not valid.
    pub(super) link: Option<LinkSettings>,
    /// Whether a replica has asked for it.
    used: Cell<bool>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct FarSites {
    /// By the name in small letters: names of sites are compared without case.
    sites: HashMap<String, FarSite>,
    /// Whether every one has a valid name.
    named: bool,
}

impl FarSites {
    /// Reads the tables; `defaults` are the settings in `[link]`.
    pub(super) fn read(
        tables: &[Table<'_, '_>],
        own: Option<&str>,
        defaults: &LinkSettings,
        files: &Files<'_>,
    ) -> Self {
        let mut all = Self { sites: HashMap::new(), named: true };
        for table in tables {
            let name = table.required("name", "\"dc1\", the name in its certificate", units::site);
            let peers = peers(table);
            let link = link::read(table, defaults, files);
            table.finish();
            let Some(At { value: name, place }) = name else {
                all.named = false;
                continue;
            };
            if own.is_some_and(|own| own.eq_ignore_ascii_case(&name)) {
                files.fault(
                    place,
                    format!("{}name: {name:?} is this gateway itself; name another site", table.prefix()),
                );
            }
            if let Some(first) = all.sites.get(&name.to_ascii_lowercase()) {
                let first = files.shown(first.place);
                files.fault(
                    place,
                    format!("far_site {name:?} is there twice, first at {first}; write all of it in one [[far_site]]"),
                );
                continue;
            }
            let site = FarSite { place: table.place, peers, link, used: Cell::new(false), name };
            all.sites.insert(site.name.to_ascii_lowercase(), site);
        }
        all
    }

    /// The one of this name, which is used then.
    pub(super) fn of(&self, name: &str) -> Option<&FarSite> {
        let site = self.sites.get(&name.to_ascii_lowercase())?;
        site.used.set(true);
        Some(site)
    }

    /// The fault of a replica that has no peers, and whose site has no table here.
    pub(super) fn without_peers(&self, site: Option<&At<String>>) -> Option<String> {
        let lacks = "`peers` is missing; write peers = [\"gw.dc1.example:7379\"], ways to that site";
        if self.sites.is_empty() && self.named {
            return Some(format!("{lacks}, or name them once for all in a [[far_site]]"));
        }
        // A name that cannot be read, of the site or of a table, has its own fault already.
        let site = &site.filter(|_| self.named)?.value;
        let known = self.sites.values().map(|other| other.name.as_str());
        let hint = nearest(site, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        Some(format!("{lacks}; there is no [[far_site]] {site:?} that has them{hint}"))
    }

    /// A warning for each that no replica uses, in the order of their places.
    pub(super) fn unused(&self, files: &Files<'_>) -> Vec<String> {
        let mut unused: Vec<_> = self.sites.values().filter(|site| !site.used.get()).collect();
        unused.sort_by_key(|site| site.place.key());
        let warning = |site: &FarSite| {
            let (place, name) = (files.shown(site.place), &site.name);
            format!("{place}: far_site {name:?}: no [[replica]] is of this site, so it has no effect")
        };
        unused.into_iter().map(warning).collect()
    }
}

fn peers(table: &Table<'_, '_>) -> Option<Vec<Address>> {
    let peers = table.list("peers", units::address);
    match &peers {
        None if table.has("peers") => {}
        None => table.fault(format!(
            "{}`peers` is missing; write peers = [\"gw.dc1.example:7379\"], ways to that site",
            table.prefix()
        )),
        Some(peers) if peers.value.is_empty() => {
            table.fault(format!("{}`peers` is empty: there is no way to the far site", table.prefix()));
        }
        Some(_) => {}
    }
    peers.map(|peers| peers.value)
}
