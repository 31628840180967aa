//! Delays clients whose connections fail, by client address.
//!
//! A replica whose sync was refused asks again at once (Redis 6.2 and later). Hundreds of links a
//! second would use up the site's limits and would still be waiting after the cause is repaired. A
//! wrong password counts as a failure, so that guessing is slow. A health check never asks for a
//! sync: the first few of its connections are free, since its PING looks like a replica's. Replicas
//! on one host share their delays; other hosts are not affected.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::is_gone;

/// First pause. It doubles with each failure that follows.
const FIRST: Duration = Duration::from_millis(500);

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// Number of links in a row that may end without a request for a sync before there is a pause.
const FREE: u32 = 3;

/// Time after its last failure for which a client is remembered.
const FORGET: Duration = Duration::from_secs(60);

/// Most clients that are remembered.
const MOST: usize = 1024;

/// Most links of one address at a time whose sync has not begun. Others wait: for replicas that
/// come back together this takes a few round trips each.
const AT_ONCE: usize = 256;

/// Longest wait for one of these places.
const PLACE: Duration = Duration::from_secs(10);

/// The recent failures of the clients of one `[[replica]]`.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    clients: Mutex<HashMap<IpAddr, Past>>,
    opening: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The failures since a client's last sync.
#[derive(Debug)]
struct Past {
    refused: u32,
    unasked: u32,
    last: Instant,
}

impl Past {
    /// How long the next link must wait.
    fn wait(&self, now: Instant) -> Duration {
        let pauses = self.refused.saturating_add(self.unasked.saturating_sub(FREE));
        if pauses == 0 || now.saturating_duration_since(self.last) >= FORGET {
            return Duration::ZERO;
        }
        let pause = FIRST.saturating_mul(1 << (pauses - 1).min(10)).min(LONGEST);
        (self.last + pause).saturating_duration_since(now)
    }
}

impl Backoff {
    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Past>> {
        self.clients.lock().expect("no code panics while it holds the clients")
    }

    /// How long this client's next link must wait.
    pub(super) fn wait(&self, client: IpAddr, now: Instant) -> Duration {
        self.clients().get(&client).map_or(Duration::ZERO, |past| past.wait(now))
    }

    /// As [`Backoff::wait`]. If the client need not wait, the next client of its address has to
    /// wait for another pause.
    fn claim(&self, client: IpAddr, now: Instant) -> Duration {
        let mut clients = self.clients();
        let Some(past) = clients.get_mut(&client) else { return Duration::ZERO };
        let wait = past.wait(now);
        if wait.is_zero() {
            past.last = now;
        }
        wait
    }

    /// Waits until the client may open a link. Returns whether it has left meanwhile.
    pub(super) async fn turn(&self, client: IpAddr, redis: &TcpStream) -> bool {
        loop {
            let wait = self.claim(client, Instant::now());
            if wait.is_zero() {
                return is_gone(redis).await;
            }
            tokio::time::sleep(wait).await;
            if is_gone(redis).await {
                return true;
            }
        }
    }

    /// The client's link ended before a sync had begun, although Redis was asked for one; or the
    /// client's password was wrong.
    pub(super) fn refused(&self, client: IpAddr, now: Instant) {
        self.ended(client, now, |past| past.refused = past.refused.saturating_add(1));
    }

    /// The client's link ended, and the client had not asked for a sync.
    pub(super) fn unasked(&self, client: IpAddr, now: Instant) {
        self.ended(client, now, |past| past.unasked = past.unasked.saturating_add(1));
    }

    fn ended(&self, client: IpAddr, now: Instant, count: impl Fn(&mut Past)) {
        let mut clients = self.clients();
        if clients.len() >= MOST {
            clients.retain(|_, past| now.saturating_duration_since(past.last) < FORGET);
        }
        if clients.len() < MOST || clients.contains_key(&client) {
            let none = || Past { refused: 0, unasked: 0, last: now };
            let past = clients.entry(client).or_insert_with(none);
            if now.saturating_duration_since(past.last) >= FORGET {
                *past = none();
            }
            count(past);
            past.last = now;
        }
    }

    /// The client's sync has begun.
    pub(super) fn granted(&self, client: IpAddr) {
        self.clients().remove(&client);
    }

    /// Waits for one of this client's places for links whose sync has not begun. The place is given
    /// back when dropped. `None` if no place is free within [`PLACE`].
    pub(super) async fn place(&self, client: IpAddr) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut opening = self.opening.lock().expect("no code panics while it holds the places");
            if opening.len() >= MOST {
                opening.retain(|_, places| places.available_permits() < AT_ONCE);
            }
            let places = opening.entry(client).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
            Arc::clone(places)
        };
        timeout(PLACE, places.acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_its_bound_and_ends_with_a_sync() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let (client, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(backoff.wait(client, now), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            backoff.refused(client, now);
            pauses.push(backoff.wait(client, now));
        }
        assert_eq!(pauses[..4], [500, 1000, 2000, 4000].map(Duration::from_millis));
        assert!(pauses[4..].iter().all(|pause| *pause == LONGEST));
        assert_eq!(backoff.wait(client, now + Duration::from_secs(5)), Duration::ZERO);
        assert_eq!(backoff.wait(other, now), Duration::ZERO);
        let later = now + FORGET;
        backoff.refused(client, later);
        assert_eq!(backoff.wait(client, later), FIRST, "what was a minute ago is forgotten");
        backoff.granted(client);
        assert_eq!(backoff.wait(client, now), Duration::ZERO);
    }

    #[test]
    fn the_first_links_that_ask_for_no_sync_are_free() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let checker = "10.0.0.1".parse().unwrap();
        for _ in 0..FREE {
            backoff.unasked(checker, now);
            assert_eq!(backoff.wait(checker, now), Duration::ZERO);
        }
        backoff.unasked(checker, now);
        assert_eq!(backoff.wait(checker, now), FIRST);
    }

    #[test]
    fn of_all_that_an_address_has_waiting_one_goes_for_each_pause() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let client = "10.0.0.1".parse().unwrap();
        assert_eq!([(); 2].map(|()| backoff.claim(client, now)), [Duration::ZERO; 2], "nothing has ended");
        backoff.refused(client, now);
        assert_eq!(backoff.claim(client, now), FIRST);
        assert_eq!([(); 2].map(|()| backoff.claim(client, now + FIRST)), [Duration::ZERO, FIRST]);
    }
}
