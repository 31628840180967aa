//! The lanes of a link, as the state machine sees them: when each was last heard,
//! which are suspect, and which are on their way out.
//!
//! A lane has a number, which only grows, and a slot, which is used again. A
//! suspect lane is still read, and is as good as ever once a byte comes over it;
//! nothing is sent on it meanwhile, so that the far side notices too.

use std::time::{Duration, Instant};

/// Lanes at one time, those on their way out among them.
const MAX_LIVE: usize = 24;

/// One lane.
#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) number: u32,
    pub(super) slot: u8,
    pub(super) heard: Instant,
    pub(super) spoke: Instant,
    /// Nothing was heard for too long.
    pub(super) suspect: bool,
    /// To be replaced by a new one.
    pub(super) old: bool,
    /// The highest acknowledgement that came over it.
    pub(super) acknowledged: u64,
    /// This side's RETIRE is to be sent, or was.
    pub(super) retiring: bool,
    pub(super) retired: bool,
}

impl LaneState {
    /// Whether anything but a RETIRE may be sent on it.
    pub(super) fn carries(&self) -> bool {
        !self.suspect && !self.retiring
    }
}

/// All lanes of a link that are not lost.
#[derive(Debug)]
pub(super) struct Lanes {
    live: Vec<LaneState>,
    newest: u32,
}

impl Lanes {
    /// The first lane, number 0, which opened the link.
    pub(super) fn first(now: Instant) -> Self {
        let mut lanes = Self { live: Vec::new(), newest: 0 };
        lanes.add(0, now);
        lanes
    }

    /// Adds a lane; false if there are too many.
    pub(super) fn add(&mut self, number: u32, now: Instant) -> bool {
        let free = (0..MAX_LIVE as u8).find(|slot| self.live.iter().all(|lane| lane.slot != *slot));
        let Some(slot) = free else { return false };
        self.newest = self.newest.max(number);
        self.live.push(LaneState {
            number,
            slot,
            heard: now,
            spoke: now,
            suspect: false,
            old: false,
            acknowledged: 0,
            retiring: false,
            retired: false,
        });
        true
    }

    /// The highest number so far.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    pub(super) fn get(&self, number: u32) -> Option<&LaneState> {
        self.live.iter().find(|lane| lane.number == number)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut LaneState> {
        self.live.iter_mut().find(|lane| lane.number == number)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<LaneState> {
        let at = self.live.iter().position(|lane| lane.number == number)?;
        Some(self.live.remove(at))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneState> {
        self.live.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut LaneState> {
        self.live.iter_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// How many carry the link now.
    pub(super) fn carrying(&self) -> usize {
        self.live.iter().filter(|lane| lane.carries()).count()
    }

    /// When the first of them is due to be judged.
    pub(super) fn next_judgement(&self, dead_after: Duration) -> Option<Instant> {
        self.live.iter().filter(|lane| !lane.suspect).map(|lane| lane.heard + dead_after).min()
    }
}
