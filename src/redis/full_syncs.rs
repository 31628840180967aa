//! Bounds how many full syncs a master begins for one site within a minute. Each full sync makes
//! the master fork and send all of its data.
//!
//! Only the master decides whether a sync is full. So every request takes a place, and gives it
//! back if the resync is partial.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time that a place is taken for.
const MINUTE: Duration = Duration::from_secs(60);

/// The full syncs of one site from one master.
#[derive(Debug)]
pub struct FullSyncs {
    most: usize,
    taken: Mutex<VecDeque<Instant>>,
}

/// A place that a request for a sync has taken.
#[derive(Debug)]
pub struct Taken(Instant);

impl FullSyncs {
    /// Allows `most` full syncs within a minute.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// Takes a place. The error is the time until one is free.
    pub fn take(&self, now: Instant) -> Result<Taken, Duration> {
        let mut taken = self.taken.lock().expect("no code panics while it holds the places");
        while taken.front().is_some_and(|then| now.saturating_duration_since(*then) >= MINUTE) {
            taken.pop_front();
        }
        match taken.front() {
            Some(oldest) if taken.len() >= self.most => {
                Err(MINUTE.saturating_sub(now.saturating_duration_since(*oldest)))
            }
            _ => {
                taken.push_back(now);
                Ok(Taken(now))
            }
        }
    }

    /// Gives a place back, because the sync was not a full one.
    pub fn give_back(&self, place: &Taken) {
        let mut taken = self.taken.lock().expect("no code panics while it holds the places");
        if let Some(at) = taken.iter().position(|then| *then == place.0) {
            taken.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_for_a_minute_or_given_back() {
        let (places, start) = (FullSyncs::new(2), Instant::now());
        let at = |seconds| places.take(start + Duration::from_secs(seconds));
        let first = at(0).unwrap();
        at(10).unwrap();
        assert_eq!(at(20).unwrap_err(), Duration::from_secs(40));
        places.give_back(&first);
        at(21).unwrap();
        assert_eq!(at(69).unwrap_err(), Duration::from_secs(1));
        at(70).unwrap();
    }
}
