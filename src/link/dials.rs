//! Dials: when the dialler asks for another lane, and what its HELLO then states.
//!
//! A dial lists the lanes that the dialler counts on, including earlier dials that are still under
//! way. So whichever of several dials is accepted first, it does not end the others. Both ends drop
//! a lane that is older than a new one and not on its list. No I/O and no clock.

use std::time::{Duration, Instant};

/// Pause between two dials while nothing carries the link.
const EVERY: Duration = Duration::from_millis(300);

/// Most dials at a time while nothing carries the link.
pub(super) const AT_ONCE: usize = 4;

/// First and longest pause before the next dial, after a dial for an additional lane has failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a dial states about the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The number of the lane.
    pub lane: u32,
    /// The lanes that the dialler counts on.
    pub alive: Vec<u32>,
    /// The dialler's received offset.
    pub received: u64,
}

/// Why the link needs dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It needs none.
    Nothing,
    /// It needs one more lane. It dials once at a time, since the next dial would learn nothing
    /// new.
    Lane,
    /// Nothing comes over its lanes, and another one may.
    Spare,
    /// It has no lane and needs any.
    WayBack,
}

/// The dials of a link.
#[derive(Debug)]
pub(super) struct Dials {
    pending: Vec<Dial>,
    newest: u32,
    due: Instant,
    backoff: Duration,
    /// The lane that another one is dialled for, at another address.
    moving: Option<u32>,
}

impl Dials {
    pub(super) fn new(now: Instant) -> Self {
        Self { pending: Vec::new(), newest: 0, due: now, backoff: BACKOFF.0, moving: None }
    }

    /// When the next dial is due.
    pub(super) fn due(&self, need: Need) -> Option<Instant> {
        let most = match need {
            Need::Nothing => 0,
            Need::Lane | Need::Spare => 1,
            Need::WayBack => AT_ONCE,
        };
        (self.pending.len() < most).then_some(self.due)
    }

    /// The last lane was lost: dials without delay.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.due = self.due.min(now);
        self.backoff = BACKOFF.0;
    }

    /// New lanes are wanted for another reason: earlier failures do not count.
    pub(super) fn forgive(&mut self) {
        self.backoff = BACKOFF.0;
    }

    /// The link wants another lane now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = now;
    }

    /// A lane had better be at another address.
    pub(super) fn move_lane(&mut self, lane: u32) {
        self.moving = Some(lane);
    }

    /// The lane that had better be at another address.
    pub(super) fn moving(&self) -> Option<u32> {
        self.moving
    }

    /// Starts a dial for a lane above `newest`. `alive` are the lanes to count on.
    pub(super) fn begin(
        &mut self,
        newest: u32,
        alive: impl Iterator<Item = u32>,
        received: u64,
        now: Instant,
    ) -> Dial {
        self.newest = self.newest.max(newest) + 1;
        let alive = alive.chain(self.pending.iter().map(|dial| dial.lane)).collect();
        let dial = Dial { lane: self.newest, alive, received };
        self.pending.push(dial.clone());
        self.due = now + EVERY;
        dial
    }

    /// A dial failed. `held` states whether the link has no lane.
    pub(super) fn failed(&mut self, lane: u32, held: bool, now: Instant) {
        self.pending.retain(|dial| dial.lane != lane);
        self.moving = None;
        if !held {
            self.due = now + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }

    /// The far side has accepted a dial. Returns what the dial stated, unless it was given up.
    pub(super) fn answered(&mut self, lane: u32) -> Option<Dial> {
        let at = self.pending.iter().position(|dial| dial.lane == lane)?;
        Some(self.pending.remove(at))
    }

    /// A dial has become a lane: the others are given up.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        (self.backoff, self.moving) = (BACKOFF.0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dial_at_a_time_for_an_additional_lane_and_four_without_any_lane() {
        let now = Instant::now();
        let mut dials = Dials::new(now);
        assert_eq!((dials.due(Need::Nothing), dials.due(Need::Lane)), (None, Some(now)));
        let first = dials.begin(6, [5].into_iter(), 3, now);
        assert_eq!(first, Dial { lane: 7, alive: vec![5], received: 3 });
        assert_eq!((dials.due(Need::Lane), dials.due(Need::WayBack)), (None, Some(now + EVERY)));
        assert_eq!(dials.begin(6, [].into_iter(), 3, now).alive, [7]);
        (0..2).for_each(|_| drop(dials.begin(6, [].into_iter(), 3, now)));
        assert_eq!(dials.due(Need::WayBack), None);
        assert_eq!(dials.answered(7), Some(first));
        dials.settle();
        assert_eq!(dials.answered(8), None, "it was given up");
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_are_short_again_once_the_link_has_no_lane() {
        let now = Instant::now();
        let mut dials = Dials::new(now);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let lane = dials.begin(0, [].into_iter(), 0, now).lane;
            dials.failed(lane, false, now);
            assert_eq!(dials.due(Need::Lane), Some(now + Duration::from_secs(pause)));
        }
        dials.at_once(now);
        assert_eq!(dials.due(Need::WayBack), Some(now));
    }
}
