//! Lanes that the far side has closed in good order while others carried the link.
//!
//! Such a lane is lost only if the link lives on. Where the link ends, its last frame may come over
//! another lane after this one was found closed, so the loss is told a little later.

use std::time::{Duration, Instant};

/// Time within which the end of the link follows on another lane: as long as a gateway gives its
/// last frames.
const FOLLOWS: Duration = Duration::from_secs(2);

/// Most closed lanes that are not told yet: as many as a link may have. Further ones are told at
/// once.
const MOST: usize = 24;

/// The closed lanes that are not told yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Closures {
    lanes: Vec<(u32, Instant)>,
}

impl Closures {
    /// The far side has closed this lane. False if that must be told at once.
    pub(super) fn note(&mut self, number: u32, now: Instant) -> bool {
        let waits = self.lanes.len() < MOST;
        if waits {
            self.lanes.push((number, now));
        }
        waits
    }

    /// The far side has ended the link: none of them is told.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    /// Whether the close of this lane is not told yet.
    pub(super) fn has(&self, number: u32) -> bool {
        self.lanes.iter().any(|(known, _)| *known == number)
    }

    /// When [`Closures::lost`] must be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lanes.first().map(|(_, closed)| *closed + FOLLOWS)
    }

    /// The lanes that count as lost by now. A link that is `held` was not ended.
    pub(super) fn lost(&mut self, held: bool, now: Instant) -> Vec<u32> {
        let count = self.lanes.iter().take_while(|(_, closed)| held || now >= *closed + FOLLOWS).count();
        self.lanes.drain(..count).map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_lane_is_told_once_the_link_has_lived_on_or_is_held() {
        let (mut closures, now) = (Closures::default(), Instant::now());
        assert!(closures.note(1, now) && closures.note(2, now + FOLLOWS / 2));
        assert!(closures.has(1) && !closures.has(3));
        assert_eq!(closures.due(), Some(now + FOLLOWS));
        assert!(closures.lost(false, now + FOLLOWS / 2).is_empty());
        assert_eq!(closures.lost(false, now + FOLLOWS), [1]);
        assert_eq!(closures.lost(true, now + FOLLOWS), [2]);
        assert_eq!((closures.due(), closures.has(2)), (None, false));
        closures.note(3, now);
        closures.clear();
        assert_eq!(closures.due(), None, "nothing is due once the far side has ended the link");
    }

    #[test]
    fn no_more_closed_lanes_wait_than_a_link_has() {
        let (mut closures, now) = (Closures::default(), Instant::now());
        assert!((0..MOST as u32).all(|number| closures.note(number, now)));
        assert!(!closures.note(99, now) && !closures.has(99));
    }
}
