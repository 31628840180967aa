//! Bounds how many full syncs of one site a master begins within a minute: each is a
//! fork of the master, and all of its data.
//!
//! Only the master decides whether a sync is full, so every request takes a place, and
//! gives it back if the resync is partial. The second connection of a sync whose
//! first has its place needs none.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The time for which a place is taken.
const MINUTE: Duration = Duration::from_secs(60);

/// The bound on the full syncs of one site from one master.
#[derive(Debug)]
pub struct FullSyncs {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: VecDeque<Instant>,
    /// Second connections that are to come.
    expected: usize,
}

impl FullSyncs {
    /// At most `most` within a minute.
    pub fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Takes a place; if there is none, the time until one is free.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().expect("no code panics while it holds the places");
        while state.taken.front().is_some_and(|then| now.saturating_duration_since(*then) >= MINUTE) {
            state.taken.pop_front();
        }
        match state.taken.front() {
            Some(oldest) if state.taken.len() >= self.most => {
                Err(MINUTE.saturating_sub(now.saturating_duration_since(*oldest)))
            }
            _ => {
                state.taken.push_back(now);
                Ok(())
            }
        }
    }

    /// Gives a place back: the sync was not a full one.
    pub fn give_back(&self) {
        self.state.lock().expect("no code panics while it holds the places").taken.pop_back();
    }

    /// A second connection will ask for a snapshot for a sync that has its place.
    pub fn expect(&self) {
        let mut state = self.state.lock().expect("no code panics while it holds the places");
        state.expected = (state.expected + 1).min(self.most);
    }

    /// Whether the second connection of a sync was expected; it is no more, then.
    pub fn was_expected(&self) -> bool {
        let mut state = self.state.lock().expect("no code panics while it holds the places");
        let expected = state.expected > 0;
        state.expected = state.expected.saturating_sub(1);
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_for_a_minute_or_given_back() {
        let (places, start) = (FullSyncs::new(2), Instant::now());
        assert_eq!(places.take(start), Ok(()));
        assert_eq!(places.take(start + Duration::from_secs(10)), Ok(()));
        assert_eq!(places.take(start + Duration::from_secs(20)), Err(Duration::from_secs(40)));
        places.give_back();
        assert_eq!(places.take(start + Duration::from_secs(21)), Ok(()));
        assert_eq!(places.take(start + Duration::from_secs(59)), Err(Duration::from_secs(1)));
        assert_eq!(places.take(start + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn a_second_connection_is_let_in_once() {
        let places = FullSyncs::new(1);
        assert!(!places.was_expected());
        places.expect();
        assert!(places.was_expected() && !places.was_expected());
    }
}
