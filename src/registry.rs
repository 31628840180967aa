//! What is live now: every link with its counts, and how often what was refused.
//!
//! Sessions write, `status` reads. Counting is a relaxed addition, so that the
//! data path pays next to nothing for being watched.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::config::Limits;
use crate::link::Side;
use crate::link::tlv::Id;
use crate::tap::Flow;

/// Distinct refusals that are remembered to keep the log short.
const MAX_REMEMBERED: usize = 1024;

/// A refusal that repeats within this time is not logged as news.
const QUIET: Duration = Duration::from_secs(60);

/// One live link.
#[derive(Debug)]
pub struct LinkEntry {
    /// Counts up within this process.
    pub number: u64,
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// Which end this is.
    pub side: Side,
    /// The far site.
    pub site: String,
    /// The far gateway's instance.
    pub instance: Id,
    /// The far gateway's address, by which its newest lane goes.
    far: Mutex<SocketAddr>,
    /// The local Redis' address.
    pub redis: SocketAddr,
    /// Whether any command passes.
    pub plain: bool,
    /// What both sides have agreed.
    pub agreed: Agreed,
    /// When it began.
    pub since: Instant,
    began: i64,
    to_replica: AtomicU64,
    to_master: AtomicU64,
    syncing: AtomicBool,
    held: AtomicBool,
    lanes: AtomicU64,
    lanes_lost: AtomicU64,
    breaks: AtomicU64,
    resumed: AtomicU64,
    redials: AtomicU64,
    resent: AtomicU64,
    carried: AtomicU64,
    buffered: AtomicU64,
}

/// What holds for a link, by what both sides have stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// How long it outlives its last lane.
    pub hold: Duration,
    /// Lanes that it may have.
    pub lanes: u8,
    /// Unacknowledged bytes, each way.
    pub window: u64,
    /// Whether the master's site compresses what it sends.
    pub compressed: bool,
}

/// What a link's task tells of it from time to time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carrying {
    /// Lanes that carry it now.
    pub lanes: u64,
    /// Nothing carries it, and it waits for a way back.
    pub held: bool,
    /// How often nothing carried it, so far.
    pub breaks: u64,
    /// Bytes that were sent more than once, so far.
    pub resent: u64,
    /// Bytes as carried, both ways, so far.
    pub carried: u64,
    /// Bytes buffered here.
    pub buffered: u64,
}

impl LinkEntry {
    /// Notes `count` bytes that crossed the local socket.
    pub fn count(&self, flow: Flow, count: usize) {
        let counter = match flow {
            Flow::ToMaster => &self.to_master,
            Flow::ToReplica => &self.to_replica,
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The sync has begun.
    pub fn note_syncing(&self) {
        self.syncing.store(true, Ordering::Relaxed);
    }

    /// How the link is carried now.
    pub fn note(&self, now: Carrying) {
        self.lanes.store(now.lanes, Ordering::Relaxed);
        self.held.store(now.held, Ordering::Relaxed);
        self.breaks.store(now.breaks, Ordering::Relaxed);
        self.resent.store(now.resent, Ordering::Relaxed);
        self.carried.store(now.carried, Ordering::Relaxed);
        self.buffered.store(now.buffered, Ordering::Relaxed);
    }

    /// A lane goes to this address of the far gateway.
    pub fn note_far(&self, far: SocketAddr) {
        *self.far.lock().expect("no code panics while it holds an address") = far;
    }

    fn far(&self) -> SocketAddr {
        *self.far.lock().expect("no code panics while it holds an address")
    }

    /// A lane was lost.
    pub fn note_lane_lost(&self) {
        self.lanes_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// A break is over.
    pub fn note_resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// A lane is dialled for a link that is up.
    pub fn note_redial(&self) {
        self.redials.fetch_add(1, Ordering::Relaxed);
    }

    /// Dials for a link that is up, so far.
    pub fn redials(&self) -> u64 {
        self.redials.load(Ordering::Relaxed)
    }

    /// Bytes so far: towards the replica, towards the master.
    pub fn counts(&self) -> (u64, u64) {
        (self.to_replica.load(Ordering::Relaxed), self.to_master.load(Ordering::Relaxed))
    }
}

/// A link as `status` tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Counts up within the gateway's process.
    pub number: u64,
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: String,
    /// The far site.
    pub site: String,
    /// The far gateway's address.
    pub far: String,
    /// The local Redis' address.
    pub redis: String,
    /// `handshake`, `syncing` from the sync's reply on, `tunnel` for a plain one;
    /// `held` while no lane carries it.
    pub state: String,
    /// Seconds since 1970.
    pub since: i64,
    /// Age in seconds.
    pub seconds: u64,
    /// Payload bytes towards the replica.
    pub to_replica_bytes: u64,
    /// Payload bytes towards the master.
    pub to_master_bytes: u64,
    /// Bytes as they were carried between the gateways, both ways: fewer where they
    /// are compressed.
    pub carried_bytes: u64,
    /// Bytes that were sent to the far gateway more than once.
    pub resent_bytes: u64,
    /// Bytes buffered here, sent or received.
    pub buffered_bytes: u64,
    /// How long it outlives its last lane, by what both sides have stated.
    pub hold_seconds: f64,
    /// Lanes that it may have.
    pub lanes_agreed: u8,
    /// Unacknowledged bytes that it may have, each way.
    pub window_bytes: u64,
    /// Whether the master's site compresses what it sends.
    pub compressed: bool,
    /// Lanes that carry it now.
    pub lanes: u64,
    /// Lanes that were lost.
    pub lanes_lost: u64,
    /// Times that nothing carried it any more.
    pub breaks: u64,
    /// Breaks that were outlived.
    pub resumed: u64,
    /// Dials for more lanes, or for a way back.
    pub redials: u64,
}

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
}

impl Counts {
    fn add(&mut self, link: &LinkEntry) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.breaks += of(&link.breaks);
        self.resumed += of(&link.resumed);
        self.redials += of(&link.redials);
        self.lanes_lost += of(&link.lanes_lost);
        self.resent_bytes += of(&link.resent);
    }
}

#[derive(Default)]
struct State {
    links: Vec<Arc<LinkEntry>>,
    counts: Counts,
    next: u64,
    admitted: HashMap<String, usize>,
    opened: HashMap<(String, String), VecDeque<Instant>>,
    told: HashMap<String, Instant>,
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

/// A site's permission for one link: given back when dropped.
#[derive(Debug)]
pub struct Admission {
    registry: Arc<Registry>,
    site: String,
    master: String,
}

impl Admission {
    /// Does not count it among the site's new links of this minute.
    pub fn forgive(self) {
        let mut state = self.registry.lock();
        if let Some(recent) = state.opened.get_mut(&(self.site.clone(), self.master.clone())) {
            recent.pop_back();
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if let Some(live) = state.admitted.get_mut(&self.site) {
            *live -= 1;
        }
    }
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

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.links.retain(|link| link.number != self.entry.number);
        state.counts.closed += 1;
        state.counts.add(&self.entry);
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
        let entry = Arc::new(LinkEntry {
            number: state.next,
            name: with.name.to_owned(),
            side: with.side,
            site: with.site.to_owned(),
            instance: with.instance,
            far: Mutex::new(with.far),
            redis: with.redis,
            plain: with.plain,
            agreed: with.agreed,
            since: Instant::now(),
            began: clock::now(),
            to_replica: AtomicU64::new(0),
            to_master: AtomicU64::new(0),
            syncing: AtomicBool::new(false),
            held: AtomicBool::new(false),
            lanes: AtomicU64::new(1),
            lanes_lost: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            redials: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            buffered: AtomicU64::new(0),
        });
        state.links.push(Arc::clone(&entry));
        Place { registry: Arc::clone(self), entry }
    }

    /// Asks whether a site may open one more link to a master here; the answer is
    /// a place that the link keeps until its end, or the limit that is reached.
    pub fn admit(self: &Arc<Self>, site: &str, master: &str, limits: &Limits) -> Result<Admission, String> {
        let site = site.to_ascii_lowercase();
        let mut state = self.lock();
        let live = state.admitted.get(&site).copied().unwrap_or(0);
        if live >= limits.links_per_site {
            return Err(format!("site {site} already has {live} links here (links_per_site)"));
        }
        let now = Instant::now();
        let recent = state.opened.entry((site.clone(), master.to_owned())).or_default();
        while recent.front().is_some_and(|then| now.duration_since(*then) > Duration::from_secs(60)) {
            recent.pop_front();
        }
        if recent.len() >= limits.new_links_per_minute {
            return Err(format!(
                "site {site} opened {} links within a minute (new_links_per_minute)",
                recent.len()
            ));
        }
        recent.push_back(now);
        *state.admitted.entry(site.clone()).or_default() += 1;
        Ok(Admission { registry: Arc::clone(self), site, master: master.to_owned() })
    }

    /// The far address and instance of the newest link of a `[[replica]]` that is
    /// carried: the two connections of one sync must reach the same gateway.
    pub fn sibling(&self, name: &str) -> Option<(SocketAddr, Id)> {
        let state = self.lock();
        let mut links = state.links.iter().rev();
        let newest = links.find(|link| {
            link.side == Side::Dialler && link.name == name && !link.held.load(Ordering::Relaxed)
        })?;
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
        self.lock().told.retain(|what, _| !what.starts_with(prefix));
    }

    /// Whether this was not told within the last minute; it counts as told now.
    pub fn is_news(&self, what: &str) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        if state.told.get(what).is_some_and(|then| now.duration_since(*then) < QUIET) {
            return false;
        }
        if state.told.len() >= MAX_REMEMBERED {
            state.told.retain(|_, then| now.duration_since(*then) < QUIET);
        }
        // A flood of ever new reasons is no news either.
        if state.told.len() >= MAX_REMEMBERED {
            return false;
        }
        state.told.insert(what.to_owned(), now);
        true
    }

    /// Every live link and the counts.
    pub fn snapshot(&self) -> (Vec<LinkStatus>, Counts) {
        let state = self.lock();
        let mut counts = state.counts.clone();
        state.links.iter().for_each(|link| counts.add(link));
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let links = state.links.iter().map(|link| {
            let (to_replica_bytes, to_master_bytes) = link.counts();
            LinkStatus {
                number: link.number,
                name: link.name.clone(),
                role: if link.side == Side::Acceptor { "master" } else { "replica" }.to_owned(),
                site: link.site.clone(),
                far: link.far().to_string(),
                redis: link.redis.to_string(),
                state: if link.held.load(Ordering::Relaxed) {
                    "held"
                } else if link.plain {
                    "tunnel"
                } else if link.syncing.load(Ordering::Relaxed) {
                    "syncing"
                } else {
                    "handshake"
                }
                .to_owned(),
                since: link.began,
                seconds: link.since.elapsed().as_secs(),
                to_replica_bytes,
                to_master_bytes,
                carried_bytes: of(&link.carried),
                resent_bytes: of(&link.resent),
                buffered_bytes: of(&link.buffered),
                hold_seconds: link.agreed.hold.as_secs_f64(),
                lanes_agreed: link.agreed.lanes,
                window_bytes: link.agreed.window,
                compressed: link.agreed.compressed,
                lanes: of(&link.lanes),
                lanes_lost: of(&link.lanes_lost),
                breaks: of(&link.breaks),
                resumed: of(&link.resumed),
                redials: of(&link.redials),
            }
        });
        (links.collect(), counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_beyond_the_limits_are_not_admitted() {
        let registry = Arc::new(Registry::default());
        let limits = Limits { memory: 1 << 30, links_per_site: 1, new_links_per_minute: 2 };
        let place = registry.admit("dc2", "orders", &limits).unwrap();
        assert!(registry.admit("DC2", "orders", &limits).unwrap_err().contains("links_per_site"));
        drop(registry.admit("dc3", "orders", &limits).unwrap());
        drop(place);
        drop(registry.admit("dc2", "orders", &limits).unwrap());
        assert!(registry.admit("dc2", "orders", &limits).unwrap_err().contains("new_links_per_minute"));
    }

    #[test]
    fn a_repeated_refusal_is_news_only_once_a_while() {
        let registry = Registry::default();
        assert!(registry.failed("replica orders: down"));
        assert!(!registry.failed("replica orders: down"));
        registry.well_again("replica orders");
        assert!(registry.failed("replica orders: down"));
        assert_eq!(registry.snapshot().1.failed, 3);
    }
}
