//! The state of a gateway at one moment, as everything shows it that an operator sees.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

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
    /// The entries of its config that had a working link with a far site and have none now.
    #[serde(default)]
    pub missing_links: Vec<MissingLink>,
    /// The entries of its config of which a replica asked for a sync a moment ago and got an error.
    #[serde(default)]
    pub missing_syncs: Vec<MissingSync>,
    /// Who is followed, for each `[[master]]` and `[[replica]]` that follows a master.
    #[serde(default)]
    pub following: Vec<FollowStatus>,
    /// For which entries the master is elsewhere; not shown.
    #[serde(skip)]
    pub elsewhere: Elsewhere,
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

/// Entries with a far site of which it is known that the master is elsewhere, so that no link of theirs is missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere(HashSet<(bool, String, String)>);

impl Elsewhere {
    /// Whether the master is elsewhere for this entry with this site.
    pub fn has(&self, role: &str, name: &str, site: &str) -> bool {
        !self.0.is_empty()
            && self.0.contains(&(role == "replica", name.to_owned(), site.to_ascii_lowercase()))
    }
}

/// What is elsewhere, as far as the entries that follow a master tell it.
fn elsewhere(config: &Config, following: &[FollowStatus]) -> Elsewhere {
    let of = |role: &str, name: &str| following.iter().find(|entry| entry.role == role && entry.name == name);
    let mut all = HashSet::new();
    for master in &config.masters {
        // Every Redis here is a replica, and nobody needs to look at that.
        let stands_by = of("master", &master.name).is_some_and(|entry| {
            entry.present.is_none()
                && entry.attention.is_none()
                && entry.parties.iter().all(|party| party.state == "replica")
        });
        if stands_by {
            let site = |site: &String| (false, master.name.clone(), site.to_ascii_lowercase());
            all.extend(master.allow.iter().map(site));
        }
    }
    for replica in &config.replicas {
        let is_here = of("master", &replica.master).is_some_and(|entry| entry.present.is_some());
        let followed = of("replica", &replica.name).and_then(|entry| entry.present.as_ref());
        for origin in &replica.from {
            let is_other = followed.is_some_and(|present| !present.party.eq_ignore_ascii_case(&origin.site));
            if is_here || is_other {
                all.insert((true, replica.name.clone(), origin.site.to_ascii_lowercase()));
            }
        }
    }
    Elsewhere(all)
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
        let following = shared.following.status();
        let elsewhere = elsewhere(&config, &following);
        let missing_links = shared.registry.missing_links(clock::now()).into_iter().filter_map(|missing| {
            let site = spelled(&far_sites, &missing.role, &missing.name, &missing.site)?.to_owned();
            let missing = MissingLink { site, ..missing };
            (!elsewhere.has(&missing.role, &missing.name, &missing.site)).then_some(missing)
        });
        let missing_syncs = shared.registry.missing_syncs().into_iter().filter_map(|missing| {
            let site = spelled(&far_sites, &missing.role, &missing.name, &missing.site)?.to_owned();
            Some(MissingSync { site, ..missing })
        });
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
            missing_links: missing_links.collect(),
            missing_syncs: missing_syncs.collect(),
            far_sites,
            format: FORMAT,
            events: shared.events.latest(),
            following,
            elsewhere,
            run_id: shared.run_id.clone(),
        }
    }
}

/// The addresses of the config at which nothing listens any more.
pub(super) fn lost(config: &Config, listeners: &[ListenAddress]) -> Vec<ListenAddress> {
    let listeners: HashSet<&ListenAddress> = listeners.iter().collect();
    config.listeners().filter(|address| !listeners.contains(address)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Source;
    use crate::follow::{PartyStatus, PresentStatus};

    /// A site that may have the master of "orders", with a replica of it, and one that follows two sites.
    const BOTH: &str = "site = \"dc2\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"127.0.0.1:1\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:2\"\nfollow = \"master\"\nallow = [\"dc1\", \"dc3\"]\n[[replica]]\nname = \"near\"\nmaster = \"orders\"\nlisten = \"127.0.0.1:3\"\nsite = \"dc1\"\npeers = [\"gw:1\"]\n[[replica]]\nname = \"stock\"\nlisten = \"127.0.0.1:4\"\nfrom = [{ site = \"dc1\", peers = [\"gw:1\"] }, { site = \"DC3\", peers = [\"gw:1\"] }]\n";

    fn entry(name: &str, role: &str, present: Option<&str>, state: &str, attention: bool) -> FollowStatus {
        FollowStatus {
            name: name.to_owned(),
            role: role.to_owned(),
            present: present
                .map(|party| PresentStatus { party: party.to_owned(), ..PresentStatus::default() }),
            parties: vec![PartyStatus { state: state.to_owned(), ..PartyStatus::default() }],
            attention: attention.then(|| "look".to_owned()),
            ..FollowStatus::default()
        }
    }

    #[test]
    fn no_link_is_missed_where_the_master_is_known_to_be_elsewhere() {
        let config = Config::parse(&[Source::new(Path::new("gateway.toml"), BOTH)]).unwrap();
        let seen = |following: &[FollowStatus]| {
            let elsewhere = elsewhere(&config, following);
            let all = [
                ("master", "orders", "DC3"),
                ("replica", "near", "dc1"),
                ("replica", "stock", "dc1"),
                ("replica", "stock", "dc3"),
            ];
            all.map(|(role, name, site)| elsewhere.has(role, name, site))
        };
        assert_eq!(seen(&[]), [false; 4]);
        // The master is at another site, and bravo its replica.
        let stands_by = entry("orders", "master", None, "replica", false);
        assert_eq!(seen(&[stands_by]), [true, false, false, false]);
        // It is here.
        let here = entry("orders", "master", Some("127.0.0.1:2"), "master", false);
        assert_eq!(seen(&[here]), [false, true, false, false]);
        // It is nowhere: that is missed.
        for nowhere in [
            entry("orders", "master", None, "away", true),
            entry("orders", "master", None, "master", true),
            entry("orders", "master", None, "replica", true),
        ] {
            assert_eq!(seen(&[nowhere]), [false; 4]);
        }
        let followed = |site| seen(&[entry("stock", "replica", site, "master", false)]);
        assert_eq!(followed(Some("dc3")), [false, false, true, false]);
        assert_eq!(followed(Some("dc1")), [false, false, false, true]);
        assert_eq!(followed(None), [false; 4]);
    }
}
