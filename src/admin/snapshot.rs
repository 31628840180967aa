//! The state of a gateway at one moment, as everything shows it that an operator sees.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::awaited::{self, Awaited};
use crate::clock;
use crate::config::Config;
use crate::follow::FollowStatus;
use crate::registry::{
    Counts, EndedLink, Event, LastReload, LinkStatus, Live, MissingLink, MissingSync, SyncCounts,
};
use crate::session::Shared;
use crate::tls::expiry::Term;
use crate::tls::revocation::InUse;
use crate::units::ListenAddress;

/// The version of the form of [`Status`] as JSON. docs/status.md says what raises it: another meaning or type of
/// a field, or a field that is gone; not a new field.
pub const FORMAT: u32 = 1;

/// The state that `status` shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's site name.
    pub site: String,
    /// Name of its host.
    pub node: String,
    /// The gateway's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When its certificate expires, seconds since 1970.
    pub certificate_expires: i64,
    /// The validity of its certificate, its CAs and its revocation lists.
    #[serde(default, deserialize_with = "those_known")]
    pub terms: Vec<Term>,
    /// The revocation lists in use.
    #[serde(default)]
    pub lists: Vec<InUse>,
    /// Digest of its config, to detect another one.
    #[serde(default)]
    pub config: String,
    /// How the last reload went.
    #[serde(default)]
    pub reload: LastReload,
    /// Addresses on which it listens.
    pub listeners: Vec<ListenAddress>,
    /// Addresses of its config on which it does not listen any more.
    #[serde(default)]
    pub listeners_lost: Vec<ListenAddress>,
    /// Names of far masters for which a client here asked a moment ago and got no link.
    #[serde(default)]
    pub without_link: Vec<String>,
    /// Names of the masters it offers.
    pub masters: Vec<String>,
    /// Names of the far masters it offers to replicas here.
    pub replicas: Vec<String>,
    /// Bytes that all links hold now.
    pub memory_used: u64,
    /// Bytes that all links may hold.
    pub memory_limit: u64,
    /// Live links.
    pub links: Vec<LinkStatus>,
    /// The links that ended last, the latest first.
    pub ended: Vec<EndedLink>,
    /// Counts since the start.
    pub counts: Counts,
    /// Counts of syncs since the start, for each `[[master]]` and `[[replica]]` that had a link.
    pub syncs: Vec<SyncCounts>,
    /// When it was started, seconds since 1970.
    #[serde(default)]
    pub started: i64,
    /// The far sites of its config, in alphabetical order.
    #[serde(default)]
    pub far_sites: Vec<FarSite>,
    /// The version of this form, [`FORMAT`]; 0 in an answer of a gateway from before there was one.
    #[serde(default)]
    pub format: u32,
    /// The last events of this process, the latest first.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The entries of its config that had a working link with a far site and have none now, although one is to be
    /// there: not with a site that does not have the master now.
    #[serde(default)]
    pub missing_links: Vec<MissingLink>,
    /// The entries of its config of which a replica asked for a sync a moment ago and got an error.
    #[serde(default)]
    pub missing_syncs: Vec<MissingSync>,
    /// Who is followed, for each `[[master]]` and `[[replica]]` that follows a master.
    #[serde(default)]
    pub following: Vec<FollowStatus>,
    /// Random, new at each start: in a container every process has the same `pid`. Empty in an answer of a
    /// gateway from before there was one.
    #[serde(default)]
    pub run_id: String,
}

/// A far site of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarSite {
    /// Its name.
    pub site: String,
    /// Names of the masters here that it may replicate.
    pub masters: Vec<String>,
    /// Names of the far masters that are offered here and are there.
    pub replicas: Vec<String>,
}

/// Every far site of a config. A site is one, however its letters are written.
fn far_sites(config: &Config) -> Vec<FarSite> {
    let mut sites: BTreeMap<String, FarSite> = BTreeMap::new();
    let mut at = |site: &str, name: &str, is_master: bool| {
        let new = || FarSite { site: site.to_owned(), ..FarSite::default() };
        let far = sites.entry(site.to_ascii_lowercase()).or_insert_with(new);
        let names = if is_master { &mut far.masters } else { &mut far.replicas };
        names.push(name.to_owned());
    };
    for master in &config.masters {
        master.allow.iter().for_each(|site| at(site, &master.name, true));
    }
    for replica in &config.replicas {
        replica.from.iter().for_each(|origin| at(&origin.site, &replica.name, false));
    }
    sites.into_values().collect()
}

/// The site as the config spells it; `None` if the config in use has no such entry.
fn spelled<'a>(far_sites: &'a [FarSite], role: &str, name: &str, site: &str) -> Option<&'a str> {
    let far = far_sites.iter().find(|far| far.site.eq_ignore_ascii_case(site))?;
    let names = if role == "replica" { &far.replicas } else { &far.masters };
    names.iter().any(|other| other == name).then_some(&far.site)
}

/// The terms of kinds that this release knows; a later one may say others.
fn those_known<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Term>, D::Error> {
    let terms = Vec::<serde_json::Value>::deserialize(from)?;
    Ok(terms.into_iter().filter_map(|term| serde_json::from_value(term).ok()).collect())
}

impl Status {
    /// The state now. It takes every lock for a moment alone: neither a link nor a dial waits for the time
    /// that thousands of links take to be described.
    pub fn now(shared: &Shared) -> Self {
        let Live { links, ended, counts, syncs } = shared.registry.live();
        let (tls, config) = (shared.tls.now(), shared.config());
        let listeners = shared.registry.listeners();
        let far_sites = far_sites(&config);
        let following = awaited::with_waiting(shared.following.status());
        let awaited = Awaited::new(&following, &links);
        let missing_links = shared.registry.missing_links(clock::now()).into_iter().filter_map(|missing| {
            let site = spelled(&far_sites, &missing.role, &missing.name, &missing.site)?.to_owned();
            awaited.is(&missing.role, &missing.name, &site).then_some(MissingLink { site, ..missing })
        });
        let missing_syncs = shared.registry.missing_syncs().into_iter().filter_map(|missing| {
            let site = spelled(&far_sites, &missing.role, &missing.name, &missing.site)?.to_owned();
            awaited.is(&missing.role, &missing.name, &site).then_some(MissingSync { site, ..missing })
        });
        let (missing_links, missing_syncs) = (missing_links.collect(), missing_syncs.collect());
        Self {
            site: config.site.clone(),
            node: shared.process.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            certificate_expires: tls.material.leaf.not_after,
            config: shared.config_digest(),
            terms: tls.material.terms.clone(),
            lists: tls.material.revocation.in_use.clone(),
            reload: shared.registry.last_reload(),
            listeners_lost: lost(&config, &listeners),
            listeners,
            without_link: shared.registry.without_link(),
            masters: config.masters.iter().map(|master| master.name.clone()).collect(),
            replicas: config.replicas.iter().map(|replica| replica.name.clone()).collect(),
            memory_used: shared.memory.used(),
            memory_limit: shared.memory.limit(),
            links,
            ended,
            counts,
            syncs,
            started: clock::now().saturating_sub(i64::try_from(shared.age().as_secs()).unwrap_or(i64::MAX)),
            missing_links,
            missing_syncs,
            far_sites,
            format: FORMAT,
            events: shared.events.latest(),
            following,
            run_id: shared.run_id.clone(),
        }
    }
}

/// The addresses of the config at which nothing listens any more.
pub(super) fn lost(config: &Config, listeners: &[ListenAddress]) -> Vec<ListenAddress> {
    let listeners: HashSet<&ListenAddress> = listeners.iter().collect();
    config.listeners().filter(|address| !listeners.contains(address)).collect()
}
