//! What all dials of a gateway share: turns at each far address, and which address was
//! good last.
//!
//! Turns bound the handshakes that are under way with one address of one site; a site
//! that is down keeps those of others waiting for nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::link::Side;

/// Connections to one address of a site that are opened at a time: after a break every
/// link asks for one.
const AT_A_TIME: usize = 32;

/// Addresses whose turns are kept before unused ones are forgotten.
const KEPT: usize = 64;

#[derive(Debug, Default)]
struct State {
    turns: HashMap<(String, SocketAddr), Arc<Semaphore>>,
    good: HashMap<(Side, String), SocketAddr>,
}

/// The ways out of this gateway.
#[derive(Debug, Default)]
pub struct Ways {
    state: Mutex<State>,
}

impl Ways {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the ways")
    }

    /// Waits for a turn at an address of a site. First come, first served.
    pub async fn turn(&self, site: &str, address: SocketAddr) -> OwnedSemaphorePermit {
        let turns = {
            let mut state = self.lock();
            if state.turns.len() >= KEPT {
                // Whoever waits or has a turn holds it too.
                state.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            let key = (site.to_ascii_lowercase(), address);
            Arc::clone(state.turns.entry(key).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME))))
        };
        turns.acquire_owned().await.expect("it is never closed")
    }

    /// The address of a `[[replica]]`'s far gateway, or of a `[[master]]`'s Redis, that
    /// was good last.
    pub fn last_good(&self, side: Side, name: &str) -> Option<SocketAddr> {
        self.lock().good.get(&(side, name.to_owned())).copied()
    }

    /// Notes an address that is good.
    pub fn was_good(&self, side: Side, name: &str, address: SocketAddr) {
        self.lock().good.insert((side, name.to_owned()), address);
    }
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
        // Ready at once, where no turn is taken.
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
}
