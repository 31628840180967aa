//! The state that all dials of a gateway share: turns at each far address, the address that worked
//! last, and the last known process of each far gateway.
//!
//! Turns bound the concurrent handshakes with one address of one site. A site that is down does not
//! delay dials to other sites.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::link::Side;
use crate::wire::hello::{Id, Identity};

/// Most connections to one address of a site that are opened at a time: after a break every link
/// asks for one.
const AT_A_TIME: usize = 32;

/// Most ended links of one site that ask for a turn at a time, to report their end. Links that
/// carry data, or will, come first.
const TELLING: usize = 8;

/// Most links of one site that dial a spare lane at a time. When a path is silent for a moment, all of
/// them would like one.
const SPARE: usize = 8;

/// Most links of one site that replace their lanes at a time, after certificates were renewed: that has
/// time, and must not delay links that have no lane, or new ones.
const RENEWING: usize = 8;

/// Most far gateways whose last process is remembered.
const MET: usize = 256;

/// Number of addresses above which unused turns are dropped.
const KEPT: usize = 64;

/// How long after its last sign of life a far site counts as seen lately.
pub(super) const LATELY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    turns: HashMap<(String, SocketAddr), Arc<Semaphore>>,
    good: HashMap<(Side, String), SocketAddr>,
    telling: HashMap<String, Arc<Semaphore>>,
    sparing: HashMap<String, Arc<Semaphore>>,
    renewing: HashMap<String, Arc<Semaphore>>,
    /// When a gateway of each site was last there.
    seen: HashMap<String, Instant>,
}

/// The shared state.
#[derive(Debug, Default)]
pub struct Ways {
    state: Mutex<State>,
    /// Far gateways by site and node.
    met: watch::Sender<HashMap<(String, String), Met>>,
}

/// The processes that have answered under one site and node.
#[derive(Debug)]
struct Met {
    last: Id,
    before: Option<Id>,
    /// Whether an earlier process has answered again. Then several gateways run under this name,
    /// and none of them replaces another.
    shared: bool,
}

impl Met {
    fn succeeds(&self, instance: Id) -> bool {
        !self.shared && self.last != instance
    }
}

impl Ways {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the ways")
    }

    /// Waits for a turn at an address of a site, first come, first served.
    pub async fn turn(&self, site: &str, address: SocketAddr) -> OwnedSemaphorePermit {
        let turns = {
            let mut state = self.lock();
            if state.turns.len() >= KEPT {
                // Every waiter and every holder of a turn keeps a reference.
                state.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            let key = (site.to_ascii_lowercase(), address);
            Arc::clone(state.turns.entry(key).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME))))
        };
        turns.acquire_owned().await.expect("it is never closed")
    }

    /// Waits until an ended link of a site may dial to report its end.
    pub async fn telling(&self, site: &str) -> OwnedSemaphorePermit {
        let few = || Arc::new(Semaphore::new(TELLING));
        let telling = Arc::clone(self.lock().telling.entry(site.to_ascii_lowercase()).or_insert_with(few));
        telling.acquire_owned().await.expect("it is never closed")
    }

    /// Whether one more link of a site may dial a spare lane: it may for as long as it keeps this.
    pub fn sparing(&self, site: &str) -> Option<OwnedSemaphorePermit> {
        let few = || Arc::new(Semaphore::new(SPARE));
        let sparing = Arc::clone(self.lock().sparing.entry(site.to_ascii_lowercase()).or_insert_with(few));
        sparing.try_acquire_owned().ok()
    }

    /// Waits until one more link of a site may dial a lane in place of one that is still good, first come,
    /// first served.
    pub async fn renewing(&self, site: &str) -> OwnedSemaphorePermit {
        let few = || Arc::new(Semaphore::new(RENEWING));
        let renewing = Arc::clone(self.lock().renewing.entry(site.to_ascii_lowercase()).or_insert_with(few));
        renewing.acquire_owned().await.expect("it is never closed")
    }

    /// Records a far gateway that has accepted something.
    pub fn met(&self, far: &Identity) {
        self.met.send_if_modified(|met| {
            let key = place(far);
            if met.len() >= MET && !met.contains_key(&key) {
                // Only an entry of the same site is dropped, so that no site can make others be
                // forgotten.
                let of_site = met.keys().find(|(site, _)| *site == key.0).or_else(|| met.keys().next());
                if let Some(forgotten) = of_site.cloned() {
                    met.remove(&forgotten);
                }
            }
            let new = Met { last: far.instance, before: None, shared: false };
            let known = met.entry(key).or_insert(new);
            if known.last == far.instance {
                return false;
            }
            known.shared |= known.before == Some(far.instance);
            known.before = Some(std::mem::replace(&mut known.last, far.instance));
            true
        });
    }

    /// Whether another process has replaced this far gateway. What the earlier one held is lost.
    pub fn is_succeeded(&self, far: &Identity) -> bool {
        self.met.borrow().get(&place(far)).is_some_and(|met| met.succeeds(far.instance))
    }

    /// Completes when [`Ways::is_succeeded`] is true.
    pub async fn succeeded(&self, far: &Identity) {
        let mut met = self.met.subscribe();
        let gone = |met: &HashMap<_, Met>| met.get(&place(far)).is_some_and(|met| met.succeeds(far.instance));
        let _ = met.wait_for(gone).await;
    }

    /// A gateway of a site is there, or was until now.
    pub fn seen(&self, site: &str) {
        self.lock().seen.insert(site.to_ascii_lowercase(), Instant::now());
    }

    /// Whether a gateway of a site was there within [`LATELY`].
    pub fn was_seen_lately(&self, site: &str) -> bool {
        self.lock().seen.get(&site.to_ascii_lowercase()).is_some_and(|then| then.elapsed() < LATELY)
    }

    /// The address of a `[[replica]]`'s far gateway, or of a `[[master]]`'s Redis, that worked
    /// last.
    pub fn last_good(&self, side: Side, name: &str) -> Option<SocketAddr> {
        self.lock().good.get(&(side, name.to_owned())).copied()
    }

    /// Records an address that worked.
    pub fn was_good(&self, side: Side, name: &str, address: SocketAddr) {
        self.lock().good.insert((side, name.to_owned()), address);
    }
}

/// The site and node that a gateway states.
fn place(gateway: &Identity) -> (String, String) {
    (gateway.site.to_ascii_lowercase(), gateway.node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_sites_have_turns_of_their_own() {
        let ways = Ways::default();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut held = Vec::new();
        for _ in 0..AT_A_TIME {
            held.push(ways.turn("dc1", address(1)).await);
        }
        // It completes at once if the turn is free.
        let ready = std::time::Duration::ZERO;
        assert!(tokio::time::timeout(ready, ways.turn("DC1", address(1))).await.is_err());
        assert!(tokio::time::timeout(ready, ways.turn("dc1", address(2))).await.is_ok());
        assert!(tokio::time::timeout(ready, ways.turn("dc2", address(1))).await.is_ok());
        held.pop();
        assert!(tokio::time::timeout(ready, ways.turn("dc1", address(1))).await.is_ok());
        for port in 10..1000 {
            drop(ways.turn("dc1", address(port)).await);
        }
        assert!(ways.lock().turns.len() <= KEPT, "what is not used is forgotten");
        assert!(ways.lock().turns.contains_key(&("dc1".to_owned(), address(1))));
    }

    #[tokio::test]
    async fn a_gateway_is_succeeded_by_another_process_of_its_site_and_node_alone() {
        let ways = Ways::default();
        let gateway = |site: &str, node: &str, instance| Identity {
            site: site.to_owned(),
            node: node.to_owned(),
            instance,
            clock: 0,
        };
        let (old, new) = (Id::random(), Id::random());
        let first = gateway("dc1", "one", old);
        ways.met(&first);
        ways.met(&gateway("dc1", "other", new));
        ways.met(&gateway("dc2", "one", new));
        assert!(!ways.is_succeeded(&first));
        let ready = std::time::Duration::ZERO;
        assert!(tokio::time::timeout(ready, ways.succeeded(&first)).await.is_err());
        ways.met(&gateway("DC1", "one", new));
        assert!(ways.is_succeeded(&first));
        assert!(tokio::time::timeout(ready, ways.succeeded(&first)).await.is_ok());
        // There are two gateways under one name, and neither replaces the other.
        ways.met(&first);
        assert!(!ways.is_succeeded(&first) && !ways.is_succeeded(&gateway("dc1", "one", new)));
        for node in 0..1000 {
            ways.met(&gateway("dc1", &node.to_string(), new));
        }
        assert!(ways.met.borrow().len() <= MET, "no far site fills the memory");
        assert!(ways.met.borrow().keys().any(|(site, _)| site == "dc2"), "nor makes another's be forgotten");
    }

    #[tokio::test]
    async fn links_that_have_ended_leave_turns_to_those_that_are_to_carry() {
        let ways = Ways::default();
        let mut telling = Vec::new();
        for _ in 0..TELLING {
            telling.push(ways.telling("dc1").await);
        }
        let ready = std::time::Duration::ZERO;
        assert!(tokio::time::timeout(ready, ways.telling("DC1")).await.is_err());
        assert!(tokio::time::timeout(ready, ways.telling("dc2")).await.is_ok());
        const { assert!(TELLING + SPARE + RENEWING < AT_A_TIME) };
    }

    #[test]
    fn few_links_of_a_site_dial_spare_lanes_at_a_time() {
        let ways = Ways::default();
        let mut sparing: Vec<_> = (0..SPARE).map(|_| ways.sparing("dc1")).collect();
        assert!(sparing.iter().all(Option::is_some) && ways.sparing("DC1").is_none());
        assert!(ways.sparing("dc2").is_some());
        sparing.pop();
        assert!(ways.sparing("dc1").is_some());
    }
}
