//! Bounds what a site says to a master without being answered: acknowledgements, and the
//! empty lines of replicas that load.
//!
//! A replica acknowledges once a second, and whenever its master asks it to. A master
//! that a thousand clients have wait asks some ten thousand times; what a site says beyond
//! many times that would cost its time alone.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The most acknowledgements and bytes of empty lines within a second, over all links of a
/// site to one master.
pub const MOST: usize = 100_000;

/// What one site has said to one master lately.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Option<(Instant, usize)>>);

impl Pace {
    /// Whether so many more may be said now.
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
    fn a_site_says_so_much_in_a_second_and_may_go_on_in_the_next() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert!(pace.takes(MOST, now) && !pace.takes(1, now + Duration::from_millis(900)));
        assert!(pace.takes(MOST, now + Duration::from_secs(1)));
    }
}
