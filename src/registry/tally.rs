//! What is counted since the start, and outlives links: for each entry of the config with each far site.
//!
//! Only the config makes entries here, so it bounds them. What belongs to no entry is counted under
//! [`OTHER`], and stays there: no count ever goes back. The counts of an entry that a reload has removed stay until
//! the next reload that changes the config, so that they can still be read; one that comes back later begins at 0.
//! A live link counts for itself; its counts are added when somebody asks, and when it ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::throttle::Kind;
use super::{LinkEntry, Registry, State};
use crate::config::Config;
use crate::link::compress::Packed;
use crate::link::{ByCause, End, Side};
use crate::redis::syncs::Syncs;

/// The name and the site of what belongs to no entry of the config.
pub const OTHER: &str = "other";

/// An entry of the config, and a far site that it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: &'static str,
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// The far site, as the config spells it.
    pub site: String,
}

/// How a dial of a far site went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// A gateway accepted it.
    Opened,
    /// A gateway answered and refused it.
    Refused,
    /// No gateway answered.
    Unreached,
}

impl Dialled {
    /// Every code, in the order of [`Tally::dials`].
    pub const CODES: [&str; 3] = ["opened", "refused", "unreached"];
}

/// The counts of one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Links that were opened.
    pub opened: u64,
    /// Links that have ended, by [`End::code`].
    pub ended: BTreeMap<&'static str, u64>,
    /// Breaks.
    pub breaks: ByCause,
    /// Breaks that the link survived.
    pub resumed: u64,
    /// Breaks in which the link ended.
    pub lost: u64,
    /// Dials, by how they went; see [`Dialled::CODES`].
    pub dials: [u64; Dialled::CODES.len()],
    /// Lanes that were lost.
    pub lanes_lost: u64,
    /// Payload bytes towards the replica.
    pub to_replica: u64,
    /// Payload bytes towards the master.
    pub to_master: u64,
    /// Bytes as carried between the gateways, both ways.
    pub carried: u64,
    /// Bytes that were sent to the far gateway more than once.
    pub resent: u64,
    /// Bytes that were compressed here, or came compressed.
    pub packed: Packed,
    /// Full syncs, partial resyncs, refused syncs.
    pub syncs: [u64; 3],
}

/// Everything that is counted since the start, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// The counts of each place, and whether the config in use has it. They are in order.
    pub places: Vec<(Place, bool, Tally)>,
    /// What was refused, by the code of its kind.
    pub refused: Vec<(&'static str, u64)>,
    /// Reloads by part and outcome.
    pub reloads: Vec<Reloaded>,
    /// Revocation lists that were learnt from other gateways.
    pub lists_learnt: u64,
}

/// How often a reload of one part ended in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// `config` for a reload of everything, `trust` for the files of trust alone.
    pub part: &'static str,
    /// `used` or `refused`.
    pub outcome: &'static str,
    /// How often.
    pub count: u64,
}

/// The side, the name, and the site in lower case: sites are compared without regard to case.
pub(super) type Key = (Side, String, String);

pub(super) fn key(side: Side, name: &str, site: &str) -> Key {
    (side, name.to_owned(), site.to_ascii_lowercase())
}

fn key_of(link: &LinkEntry) -> Key {
    key(link.side, &link.name, &link.site)
}

/// Adds counts of syncs.
fn add(sums: &mut [u64; 3], counts: [u64; 3]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

/// The counts of one place, kept.
#[derive(Debug)]
struct Kept {
    /// The site, as the config spells it.
    site: String,
    /// How many changes of the config ago it was in the config.
    age: u8,
    tally: Tally,
}

/// What the registry counts.
#[derive(Debug)]
pub(super) struct Counters {
    places: HashMap<Key, Kept>,
    /// What belongs to no place, at each side.
    other: [Tally; 2],
    /// The numbers of the live links that had no place once: they belong to none that comes later.
    strays: HashSet<u64>,
    kinds: [u64; Kind::CODES.len()],
    pub(super) lists_learnt: u64,
}

impl Default for Counters {
    fn default() -> Self {
        let (places, other, strays) = (HashMap::new(), Default::default(), HashSet::new());
        Self { places, other, strays, kinds: [0; Kind::CODES.len()], lists_learnt: 0 }
    }
}

/// Every place of a config: its side, its name, and the site as the config spells it.
fn places(config: &Config) -> impl Iterator<Item = (Side, &str, &str)> {
    let masters = config.masters.iter().flat_map(|master| {
        master.allow.iter().map(|site| (Side::Acceptor, master.name.as_str(), site.as_str()))
    });
    let replicas = config.replicas.iter().flat_map(|replica| {
        replica.from.iter().map(|origin| (Side::Dialler, replica.name.as_str(), origin.site.as_str()))
    });
    masters.chain(replicas)
}

impl Counters {
    /// This config is in use from now on. What neither it nor the one before it has is forgotten.
    /// The live links and the counts of syncs are those of the registry.
    fn follow(&mut self, config: &Config, links: &[Arc<LinkEntry>], syncs: &mut HashMap<Key, Arc<Syncs>>) {
        // What was counted under no place stays there, though there may be a place from now on.
        syncs.retain(|key, counted| {
            let has_place = self.places.contains_key(key);
            if !has_place {
                add(&mut self.other[key.0 as usize].syncs, counted.counts());
            }
            has_place
        });
        self.places.values_mut().for_each(|kept| kept.age = kept.age.saturating_add(1));
        for (side, name, site) in places(config) {
            let fresh = || Kept { site: String::new(), age: 0, tally: Tally::default() };
            let kept = self.places.entry(key(side, name, site)).or_insert_with(fresh);
            (kept.site, kept.age) = (site.to_owned(), 0);
        }
        self.places.retain(|_, kept| kept.age <= 1);
        syncs.retain(|key, _| self.places.contains_key(key));
        let stray = |link: &&Arc<LinkEntry>| !self.places.contains_key(&key_of(link));
        self.strays.extend(links.iter().filter(stray).map(|link| link.number));
    }

    /// The counts of a place; those of no place if neither this config nor the one before has it.
    fn of(&mut self, side: Side, name: &str, site: &str) -> &mut Tally {
        match self.places.get_mut(&key(side, name, site)) {
            Some(kept) => &mut kept.tally,
            None => &mut self.other[side as usize],
        }
    }

    /// The counts to which those of a link belong.
    fn of_link(&mut self, link: &LinkEntry) -> &mut Tally {
        if self.strays.contains(&link.number) {
            return &mut self.other[link.side as usize];
        }
        self.of(link.side, &link.name, &link.site)
    }

    /// A link is open.
    pub(super) fn opened(&mut self, link: &LinkEntry) {
        if !self.places.contains_key(&key_of(link)) {
            self.strays.insert(link.number);
        }
        self.of_link(link).opened += 1;
    }

    /// A link ends for this reason.
    pub(super) fn ends(&mut self, link: &LinkEntry, end: &End) {
        *self.of_link(link).ended.entry(end.code()).or_default() += 1;
    }

    /// A link is no longer among the live ones.
    pub(super) fn gone(&mut self, link: &LinkEntry) {
        let tally = self.of_link(link);
        link.add_to_tally(tally);
        tally.lost += link.lost_in_breaks();
        self.strays.remove(&link.number);
    }

    /// Counts an event of this kind.
    pub(super) fn happened(&mut self, kind: Kind) {
        self.kinds[kind as usize] += 1;
    }
}

impl Registry {
    /// This config is in use from now on: its entries are counted.
    pub fn follow(&self, config: &Config) {
        let mut state = self.lock();
        let State { counters, links, syncs, .. } = &mut *state;
        counters.follow(config, links, syncs);
    }

    /// Counts a dial for a `[[replica]]`.
    pub fn note_dial(&self, name: &str, site: &str, dialled: Dialled) {
        self.lock().counters.of(Side::Dialler, name, site).dials[dialled as usize] += 1;
    }

    /// Counts a revocation list that was learnt from another gateway.
    pub fn note_list_learnt(&self) {
        self.lock().counters.lists_learnt += 1;
    }

    /// Everything that was counted since the start, with the live links.
    ///
    /// The registry is locked only while the counts are copied.
    pub fn tallies(&self) -> Tallies {
        let state = self.lock();
        let counters = &state.counters;
        let mut counted: HashMap<Key, (String, bool, Tally)> = counters
            .places
            .iter()
            .map(|(key, kept)| (key.clone(), (kept.site.clone(), kept.age == 0, kept.tally.clone())))
            .collect();
        let (mut other, strays) = (counters.other.clone(), counters.strays.clone());
        let refused = Kind::refusals().map(|kind| (kind.code(), counters.kinds[kind as usize])).collect();
        let (lists_learnt, reloads) = (counters.lists_learnt, state.reloads.counted());
        let links = state.links.clone();
        let syncs: Vec<_> = state.syncs.iter().map(|(key, syncs)| (key.clone(), Arc::clone(syncs))).collect();
        drop(state);
        for link in links {
            if strays.contains(&link.number) {
                link.add_to_tally(&mut other[link.side as usize]);
            } else if let Some((_, _, tally)) = counted.get_mut(&key_of(&link)) {
                link.add_to_tally(tally);
            }
        }
        for (key, syncs) in syncs {
            let tally = match counted.get_mut(&key) {
                Some((_, _, tally)) => tally,
                None => &mut other[key.0 as usize],
            };
            add(&mut tally.syncs, syncs.counts());
        }
        let mut places: Vec<_> = counted
            .into_iter()
            .map(|((side, name, _), (site, current, tally))| {
                (Place { role: side.role(), name, site }, current, tally)
            })
            .collect();
        for (side, tally) in [Side::Dialler, Side::Acceptor].into_iter().zip(other) {
            if tally != Tally::default() {
                let [name, site] = [OTHER, OTHER].map(str::to_owned);
                places.push((Place { role: side.role(), name, site }, false, tally));
            }
        }
        places.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        Tallies { places, refused, reloads, lists_learnt }
    }
}
