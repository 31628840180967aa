//! Keeps replicas apart that ask again at once after their sync was refused, as Redis
//! does from 6.2 on: hundreds of links a second would use up what the site may open,
//! and be in the way once the cause is gone. A wrong password counts as one, so that
//! guessing is slow. Who a client is says its address alone: replicas on one host
//! wait for one another's faults.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The pause after the first refused sync; it doubles with each that follows.
const FIRST: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// A client whose last refusal is as long ago is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Clients that are remembered.
const MOST: usize = 1024;

/// The refused syncs of the clients of one `[[replica]]`.
#[derive(Debug, Default)]
pub(in crate::session) struct Backoff {
    refused: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Backoff {
    /// How long this client's next link must wait.
    pub(in crate::session) fn wait(&self, client: IpAddr, now: Instant) -> Duration {
        let refused = self.refused.lock().expect("no code panics while it holds the refusals");
        let Some((times, last)) = refused.get(&client) else { return Duration::ZERO };
        if now.saturating_duration_since(*last) >= FORGET {
            return Duration::ZERO;
        }
        let pause = FIRST.saturating_mul(1 << (times - 1).min(10)).min(LONGEST);
        (*last + pause).saturating_duration_since(now)
    }

    /// The client's link ended, and no sync had begun although Redis was asked for one; or
    /// it did not know the password.
    pub(in crate::session) fn refused(&self, client: IpAddr, now: Instant) {
        let mut refused = self.refused.lock().expect("no code panics while it holds the refusals");
        if refused.len() >= MOST {
            refused.retain(|_, (_, last)| now.saturating_duration_since(*last) < FORGET);
        }
        if refused.len() < MOST || refused.contains_key(&client) {
            let (times, last) = refused.entry(client).or_insert((0, now));
            if now.saturating_duration_since(*last) >= FORGET {
                *times = 0;
            }
            (*times, *last) = (times.saturating_add(1), now);
        }
    }

    /// The client's sync has begun.
    pub(in crate::session) fn granted(&self, client: IpAddr) {
        self.refused.lock().expect("no code panics while it holds the refusals").remove(&client);
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
}
