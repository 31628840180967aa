//! Bounds what a site sends to a master without getting a reply: acknowledgements, and the empty
//! lines of replicas that load a snapshot.
//!
//! A replica acknowledges once a second, and whenever its master asks for it. A master on which a
//! thousand clients use WAIT asks some ten thousand times a second. The bound is ten times that:
//! anything beyond it would only take up the master's time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Acknowledgements plus bytes of empty lines that one site may send to one master within a second,
/// over all links.
pub const MOST: usize = 100_000;

/// What one site has sent to one master within the current second.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Option<(Instant, usize)>>);

impl Pace {
    /// Counts `count` more; whether they are within the bound.
    pub fn takes(&self, count: usize, now: Instant) -> bool {
        let mut said = self.0.lock().expect("no code panics while it holds a count");
        let (since, counted) = said.get_or_insert((now, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *counted) = (now, 0);
        }
        *counted = counted.saturating_add(count);
        *counted <= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_may_send_a_limited_number_in_a_second_and_more_in_the_next() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert!(pace.takes(MOST, now) && !pace.takes(1, now + Duration::from_millis(900)));
        assert!(pace.takes(MOST, now + Duration::from_secs(1)));
    }
}
