//! What is live now: every link with its counts, and how often what was refused.
//!
//! Sessions write, `status` reads.

mod admission;
mod link;
mod news;
mod work;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use self::admission::Admission;
use self::admission::Taken;
pub use self::link::{Agreed, Carrying, Ended, LinkEntry, LinkStatus};
use self::news::News;
pub use self::work::{Meter, Pace, Turn, thread_time};
use self::work::{SiteWork, Sites};
use crate::clock;
use crate::link::Side;
use crate::link::tlv::Id;
use crate::redis::replication::{Channel, Observed, Stage};
use crate::redis::syncs::Syncs;

/// Ended links that are remembered.
const REMEMBERED: usize = 20;

/// Everything that [`Registry`] tells.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Links that came up since the start.
    pub opened: u64,
    /// Links that ended since the start.
    pub closed: u64,
    /// Connections and links that were refused since the start, by this side.
    pub refused: u64,
    /// Links that this side asked for and did not get.
    pub failed: u64,
    /// Times that nothing carried a link any more, over all links since the start.
    pub breaks: u64,
    /// Breaks that were outlived.
    pub resumed: u64,
    /// Dials for more lanes, or for a way back.
    pub redials: u64,
    /// Lanes that were lost.
    pub lanes_lost: u64,
    /// Bytes that were sent to a far gateway more than once.
    pub resent_bytes: u64,
    /// Links that ended for a command that is no part of replication.
    pub commands_refused: u64,
}

/// The syncs of one `[[master]]` or `[[replica]]` since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SyncCounts {
    /// Its name.
    pub name: String,
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: String,
    /// Full syncs.
    pub full: u64,
    /// Partial resyncs.
    pub partial: u64,
    /// Syncs that the master or its gateway refused.
    pub refused: u64,
}

/// Everything that `status` shows of links.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Every live link.
    pub links: Vec<LinkStatus>,
    /// Links that have ended, the latest first.
    pub ended: Vec<Ended>,
    /// Since the start.
    pub counts: Counts,
    /// Since the start, by name.
    pub syncs: Vec<SyncCounts>,
}

#[derive(Default)]
struct State {
    links: Vec<Arc<LinkEntry>>,
    ended: VecDeque<Ended>,
    counts: Counts,
    next: u64,
    taken: Taken,
    syncs: HashMap<(Side, String), Arc<Syncs>>,
    news: News,
    sites: Arc<Sites>,
    work: HashMap<String, Arc<SiteWork>>,
}

/// The live state of one gateway.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
}

/// A link's place in the registry: given back when dropped.
#[derive(Debug)]
pub struct Place {
    registry: Arc<Registry>,
    entry: Arc<LinkEntry>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl std::ops::Deref for Place {
    type Target = LinkEntry;

    fn deref(&self) -> &LinkEntry {
        &self.entry
    }
}

impl Place {
    /// Gives the place back, and remembers why the link ended.
    pub fn end(self, reason: String, refused: bool) {
        let ended = Ended { reason, at: clock::now(), link: self.entry.status(Instant::now()) };
        let mut state = self.registry.lock();
        state.counts.commands_refused += u64::from(refused);
        state.ended.truncate(REMEMBERED - 1);
        state.ended.push_front(ended);
    }

    /// Whether this was not told within the last minute; it counts as told now.
    pub fn is_news(&self, what: &str) -> bool {
        self.registry.is_news(what)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.links.retain(|link| link.number != self.entry.number);
        state.counts.closed += 1;
        self.entry.add_to(&mut state.counts);
    }
}

/// Who a new link is with.
#[derive(Debug)]
pub struct With<'a> {
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: &'a str,
    /// Which end this is.
    pub side: Side,
    /// The far site.
    pub site: &'a str,
    /// The far gateway's instance.
    pub instance: Id,
    /// The far gateway's address.
    pub far: SocketAddr,
    /// The local Redis' address.
    pub redis: SocketAddr,
    /// Whether any command passes.
    pub plain: bool,
    /// What both sides have agreed.
    pub agreed: Agreed,
    /// Where its replication is observed; nothing where any command passes.
    pub observed: Option<Arc<Observed>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the registry")
    }

    /// Notes a link that is up.
    pub fn open(self: &Arc<Self>, with: &With<'_>) -> Place {
        let mut state = self.lock();
        state.next += 1;
        state.counts.opened += 1;
        let entry = Arc::new(LinkEntry::new(state.next, with));
        state.links.push(Arc::clone(&entry));
        Place { registry: Arc::clone(self), entry }
    }

    /// The far address and instance of the newest link of a `[[replica]]` that is
    /// carried: the two connections of one sync must reach the same gateway.
    pub fn sibling(&self, name: &str) -> Option<(SocketAddr, Id)> {
        let state = self.lock();
        let mut links = state.links.iter().rev();
        let newest = links.find(|link| link.side == Side::Dialler && link.name == name && !link.is_held())?;
        Some((newest.far(), newest.instance))
    }

    /// Counts a refusal by this side; true if the same was not told lately.
    pub fn refused(&self, what: &str) -> bool {
        self.lock().counts.refused += 1;
        self.is_news(what)
    }

    /// Counts a link that could not be had; true if the same was not told lately.
    pub fn failed(&self, what: &str) -> bool {
        self.lock().counts.failed += 1;
        self.is_news(what)
    }

    /// Forgets that `prefix…` was told, so that its next failure is news again.
    pub fn well_again(&self, prefix: &str) {
        self.lock().news.forget(prefix);
    }

    /// Whether this was not told within the last minute; it counts as told now.
    pub fn is_news(&self, what: &str) -> bool {
        self.lock().news.is_news(what)
    }

    /// What the links of one `[[master]]` or `[[replica]]` share of their syncs.
    pub fn syncs(&self, side: Side, name: &str) -> Arc<Syncs> {
        Arc::clone(self.lock().syncs.entry((side, name.to_owned())).or_default())
    }

    /// What a link of a far site is measured by.
    pub fn meter(&self, site: &str) -> Meter {
        let mut state = self.lock();
        let sites = Arc::clone(&state.sites);
        let work = state.work.entry(site.to_ascii_lowercase());
        work.or_insert_with(|| Arc::new(SiteWork::new(&sites))).meter()
    }

    /// Every live link and the counts. Where a sync has two connections, the main one
    /// shows the snapshot's progress, and the other whose part it is.
    pub fn live(&self) -> Live {
        let (now, state) = (Instant::now(), self.lock());
        let mut counts = state.counts.clone();
        state.links.iter().for_each(|link| link.add_to(&mut counts));
        let mut links: Vec<LinkStatus> = state.links.iter().map(|link| link.status(now)).collect();
        for (snapshot, entry) in state.links.iter().enumerate() {
            let Some(Channel::Snapshot(id)) = entry.channel() else { continue };
            let main = state.links.iter().position(|link| {
                link.channel() == Some(Channel::Main(id))
                    && (link.side, &link.name, &link.site) == (entry.side, &entry.name, &entry.site)
            });
            if let Some(main) = main {
                join(&mut links, main, snapshot);
            }
        }
        let mut syncs: Vec<SyncCounts> = state
            .syncs
            .iter()
            .map(|((side, name), syncs)| {
                let [full, partial, refused] = syncs.counts();
                SyncCounts { name: name.clone(), role: side.role().to_owned(), full, partial, refused }
            })
            .collect();
        syncs.sort_by(|one, other| (&one.role, &one.name).cmp(&(&other.role, &other.name)));
        Live { links, ended: state.ended.iter().cloned().collect(), counts, syncs }
    }
}

/// Shows two connections of one sync as one replica.
fn join(links: &mut [LinkStatus], main: usize, snapshot: usize) {
    let number = links[main].number;
    let Some(part) = &mut links[snapshot].replication else { return };
    part.part_of = Some(number);
    let (stage, progress) = (part.stage, part.snapshot.clone());
    let link = &mut links[main];
    let Some(whole) = &mut link.replication else { return };
    whole.snapshot = progress;
    if whole.stage == Stage::Loading && matches!(stage, Stage::Waiting | Stage::FullSync) {
        whole.stage = stage;
        if link.state != "held" {
            link.state = stage.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_refusal_is_news_only_once_a_while() {
        let registry = Registry::default();
        assert!(registry.failed("replica orders: down"));
        assert!(!registry.failed("replica orders: down"));
        registry.well_again("replica orders");
        assert!(registry.failed("replica orders: down"));
        assert_eq!(registry.live().counts.failed, 3);
    }
}
