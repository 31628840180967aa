//! How lanes come to a link: the dialler asks, the acceptor judges, and both then
//! let go of the same lanes.
//!
//! A dial carries the lanes that the dialler counts on, the earlier dials that are
//! still under way among them: whichever of several is accepted first, none of
//! the others ends it. A lane that is older than a new one and not on its list is
//! dropped at both ends. Pure, as the whole state machine.

use std::time::{Duration, Instant};

use super::{End, LaneLoss, Link, Side};
use crate::wire::frame::Frame;
use crate::wire::reason::{Reason, ReasonCode};

/// Pause between two dials while nothing carries the link.
const EVERY: Duration = Duration::from_millis(300);

/// Dials at one time while nothing carries the link.
const AT_ONCE: usize = 4;

/// Pauses before another lane is asked for once one could not be had.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// For a lane to be replaced after the certificates have changed.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// What a dial says of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The number of the lane.
    pub lane: u32,
    /// The lanes that the dialler counts on.
    pub alive: Vec<u32>,
    /// The dialler's received offset.
    pub received: u64,
}

/// The dialler's dials.
#[derive(Debug)]
pub(super) struct Dials {
    /// Lanes that the link may have once its sync has begun.
    wanted: usize,
    pending: Vec<Dial>,
    newest: u32,
    due: Instant,
    backoff: Duration,
}

impl Dials {
    pub(super) fn new(wanted: u8, now: Instant) -> Self {
        Self { wanted: usize::from(wanted), pending: Vec::new(), newest: 0, due: now, backoff: BACKOFF.0 }
    }

    /// Nothing carries the link any more: dial without delay.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.due = self.due.min(now);
        self.backoff = BACKOFF.0;
    }
}

impl Link {
    /// When [`Link::begin_dial`] wants to be called; `None` while no lane is wanted.
    /// Dialler only.
    pub fn dial_due(&self) -> Option<Instant> {
        if self.side == Side::Acceptor || self.ended().is_some() || self.goodbye.is_some() {
            return None;
        }
        let pending = self.dials.pending.len();
        let wanted = if self.held.is_some() {
            pending < AT_ONCE
        } else {
            // One at a time: what the first finds out, the next need not.
            self.needs_lane()
                && pending == 0
                && self.lanes.carrying() > 0
                && self.fresh_lanes() < self.lanes_wanted()
        };
        wanted.then_some(self.dials.due)
    }

    /// Starts a dial.
    pub fn begin_dial(&mut self, now: Instant) -> Dial {
        self.dials.newest = self.dials.newest.max(self.lanes.newest()) + 1;
        let counted_on = self.lanes.iter().filter(|lane| !lane.suspect).map(|lane| lane.number);
        let dial = Dial {
            lane: self.dials.newest,
            alive: counted_on.chain(self.dials.pending.iter().map(|dial| dial.lane)).collect(),
            received: self.receive.received(),
        };
        self.dials.pending.push(dial.clone());
        self.dials.due = now + EVERY;
        dial
    }

    /// A dial came to nothing.
    pub fn dial_failed(&mut self, lane: u32, now: Instant) {
        self.dials.pending.retain(|dial| dial.lane != lane);
        if self.held.is_none() {
            self.dials.due = now + self.dials.backoff;
            self.dials.backoff = (self.dials.backoff * 2).min(BACKOFF.1);
        }
    }

    /// A dial was accepted, by a far side that has received everything below
    /// `received`. True if the lane is used; the other dials are then given up
    /// where they only were to find any way at all.
    pub fn dialled(&mut self, lane: u32, received: u64, now: Instant) -> bool {
        let Some(at) = self.dials.pending.iter().position(|dial| dial.lane == lane) else { return false };
        let dial = self.dials.pending.remove(at);
        if self.ended().is_some() || !self.join(lane, &dial.alive, received, now) {
            return false;
        }
        self.dials.pending.clear();
        self.dials.backoff = BACKOFF.0;
        if self.lanes.iter().all(|lane| !lane.old) {
            self.dials.due = now;
        }
        self.retire_old();
        true
    }

    /// Judges a lane that asks to carry this link, and takes it in. The answer is
    /// the offset below which this side has received everything. Acceptor only.
    pub fn attach(&mut self, dial: &Dial, now: Instant) -> Result<u64, Reason> {
        if let Some(end) = self.ended() {
            return Err(Reason::new(ReasonCode::LinkEnded, &end.to_string()));
        }
        if dial.lane <= self.lanes.newest() {
            return Err(Reason::new(ReasonCode::OldLane, "a newer lane of this link was accepted before"));
        }
        if !self.passthrough && !self.is_armed() {
            return Err(Reason::new(ReasonCode::NotYet, "the link's sync has not begun"));
        }
        // Its owner lives.
        self.superseded = false;
        if self.join(dial.lane, &dial.alive, dial.received, now) {
            return Ok(self.receive.received());
        }
        match self.ended() {
            Some(end) => Err(Reason::new(ReasonCode::Protocol, &end.to_string())),
            None => Err(Reason::new(ReasonCode::Limit, "this link has too many lanes")),
        }
    }

    /// Every lane is to be replaced by a new one: this side's certificates have changed.
    /// One that still is not after [`RENEW_WITHIN`] is cut.
    pub fn renew(&mut self, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        self.renew_by = Some(now + RENEW_WITHIN);
        self.replace_lanes();
        if self.side == Side::Acceptor {
            self.urgent.push(Frame::Renew);
        }
    }

    /// Marks every lane as one to be replaced.
    pub(super) fn replace_lanes(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.old = true);
        self.dials.backoff = BACKOFF.0;
    }

    /// Cuts the lanes that should have been replaced by now, and ends a link that has no
    /// other: its far side is one that the certificates in use do not let in.
    pub(super) fn cut_old(&mut self, now: Instant) {
        if self.renew_by.is_none_or(|by| now < by) {
            return;
        }
        self.renew_by = None;
        if self.fresh_lanes() == 0 && self.lanes.carrying() > 0 {
            return self
                .abort(Reason::new(ReasonCode::NotAvailable, &End::Outdated.to_string()), End::Outdated);
        }
        let old: Vec<u32> = self.lanes.iter().filter(|lane| lane.old).map(|lane| lane.number).collect();
        for lane in old {
            self.lane_lost(lane, LaneLoss::Outdated, now);
        }
    }

    /// Another instance of the same far gateway has come up: a link that nothing
    /// carries will not be asked for again.
    pub fn superseded(&mut self) {
        self.superseded = true;
        self.check_superseded();
    }

    pub(super) fn check_superseded(&mut self) {
        if self.superseded && self.held.is_some() {
            self.abort(
                Reason::new(ReasonCode::Superseded, "another process of the same gateway has taken over"),
                End::Superseded,
            );
        }
    }

    fn join(&mut self, lane: u32, alive: &[u32], received: u64, now: Instant) -> bool {
        if let Err(error) = self.send.note_arrived(received) {
            self.fault(&error.to_string());
            return false;
        }
        let left: Vec<u32> = self
            .lanes
            .iter()
            .map(|known| known.number)
            .filter(|known| *known < lane && !alive.contains(known))
            .collect();
        for number in left {
            self.drop_lane(number);
        }
        if self.is_resumable() {
            // A break that the far side has noticed first.
            self.without(LaneLoss::Replaced, now);
        }
        let most = self.dials.wanted + AT_ONCE + self.lanes.iter().filter(|lane| lane.old).count();
        if self.lanes.iter().count() >= most || !self.lanes.add(lane, now) {
            return false;
        }
        self.say_again(now);
        self.regained(now);
        true
    }

    fn lanes_wanted(&self) -> usize {
        if self.passthrough || self.is_armed() { self.dials.wanted } else { 1 }
    }

    /// Lanes that carry and need not be replaced.
    fn fresh_lanes(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.carries() && !lane.old).count()
    }

    /// Lets an old lane go for each new one.
    fn retire_old(&mut self) {
        let spare = self.lanes.carrying().saturating_sub(self.lanes_wanted());
        let old = self.lanes.iter_mut().filter(|lane| lane.old && lane.carries());
        old.take(spare).for_each(|lane| lane.retiring = true);
    }
}
