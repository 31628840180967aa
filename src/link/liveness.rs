//! The lanes of a link, as the state machine sees them: when each was last heard,
//! which are suspect, and which are on their way out.
//!
//! A lane has a number, which only grows, and a slot, which is used again. A
//! suspect lane is still read, and is as good as ever once a byte comes over it;
//! nothing is sent on it meanwhile, so that the far side notices too.

use std::time::{Duration, Instant};

/// Lanes at one time, those on their way out among them.
const MAX_LIVE: usize = 24;

/// What the state machine must know of a lane's socket to say when it wants the time.
#[derive(Clone, Copy, Debug)]
pub struct LaneIo {
    /// A frame could be sent on it now.
    pub room: bool,
    /// It was read, and nothing more was there.
    pub empty: bool,
}

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
    /// A frame has come over it: its far end did not give it up while it was opened.
    pub(super) proven: bool,
    /// This side's RETIRE is to be sent, or was.
    pub(super) retiring: bool,
    pub(super) retired: bool,
    /// The far side's has come.
    pub(super) far_retired: bool,
    /// The link's last words were sent on it.
    pub(super) parted: bool,
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
            proven: false,
            retiring: false,
            retired: false,
            far_retired: false,
            parted: false,
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

    /// Whether one that is on its way out still brings what is under way on it.
    pub(super) fn is_any_retiring(&self) -> bool {
        self.live.iter().any(|lane| lane.retiring && !lane.suspect)
    }

    /// How many carry the link now.
    pub(super) fn carrying(&self) -> usize {
        self.live.iter().filter(|lane| lane.carries()).count()
    }

    /// When the first of those that were read empty is due to be judged.
    pub(super) fn next_judgement(&self, dead_after: Duration, io: &dyn Fn(u32) -> LaneIo) -> Option<Instant> {
        let judged = self.live.iter().filter(|lane| !lane.suspect && io(lane.number).empty);
        judged.map(|lane| lane.heard + dead_after).min()
    }
}
