//! A link whose far gateway is gone, or whose replica comes again over another link: how long it waits,
//! when it ends, and what it keeps and leaves for the next one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{End, Event, LaneLoss, Link};
use crate::buffer::Chunk;
use crate::wire::reason::{Reason, ReasonCode};

/// How long a link whose far gateway is gone waits for its replica to come again. Masters count a
/// replica that is silent for longer as late by default (`min-replicas-max-lag`).
pub(super) const RETURN_WITHIN: Duration = Duration::from_secs(5);

impl Link {
    /// Another process of the same far gateway has started. A link without a lane will not be
    /// resumed by it. It ends, or waits a little for its replica if that may continue from what it
    /// [keeps](Link::keep).
    pub fn superseded(&mut self, now: Instant) {
        self.orphaned.get_or_insert(End::Superseded);
        self.check_orphaned(now);
    }

    /// The replica may ask over another link for as many of the `last` bytes that were offered. They are
    /// kept, as far as `most` bytes of memory suffice, until they are not wanted any more. `None` if it
    /// cannot ask for any. Compressed bytes are never kept. Only at the acceptor.
    pub fn keep(&mut self, last: Option<u64>, most: u64) {
        if last.is_some() || self.send.is_keeping() {
            let last = last.filter(|_| !self.codec.is_packing() && !self.is_ended());
            self.send.keep(last, most);
        }
    }

    /// Memory charged for bytes that are only [kept](Link::keep), in bytes.
    pub fn kept(&self) -> u64 {
        self.send.kept()
    }

    /// What may be the replica of this link asks for its sync over another one, which was opened at
    /// `since`. A link that is held ends now. Any other must receive a byte soon: then it is reported as
    /// [`Event::Proven`]. Only at the acceptor.
    pub fn replica_returned(&mut self, since: Instant, now: Instant) {
        if self.is_ended() {
            return;
        }
        let shown = self.liveness.iter().any(|lane| !lane.suspect && lane.last_received > since);
        self.rival.appears(shown, self.liveness.hears_every(), self.liveness.dead_after(), now);
        if shown && !self.is_held() {
            self.events.push_back(Event::Proven);
        }
        self.check_rival(now);
    }

    /// The last bytes that were offered, without a gap, if the link has ended because its replica has
    /// come again, and keeps them.
    pub fn take_left_behind(&mut self) -> Option<VecDeque<Chunk>> {
        self.left_behind.take()
    }

    /// Whether the far gateway has said that it stops, and the link waits for its replica.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.orphaned, Some(End::FarStopping(_)))
    }

    /// Closes the lanes of a far gateway that stops, once everything that it has sent is here.
    pub(super) fn check_left(&mut self, now: Instant) {
        if !self.is_left() || !self.receive.is_complete() || self.is_held() {
            return;
        }
        let lanes: Vec<u32> = self.liveness.iter().map(|lane| lane.number).collect();
        lanes.into_iter().for_each(|lane| self.drop_lane(lane, true));
        self.suspend(LaneLoss::Closed, now);
    }

    /// A link without a lane whose far gateway is gone ends, unless its replica may continue from what is
    /// kept: then it waits for that.
    pub(super) fn check_orphaned(&mut self, now: Instant) {
        if !self.is_held() || self.is_ended() {
            return;
        }
        if self.send.is_keeping() {
            if self.orphaned.is_some() {
                self.liveness.wait_until(now + RETURN_WITHIN);
            }
        } else if let Some(end) = self.orphaned.take() {
            let words = "another process of the same gateway has taken over";
            self.abort(Reason::new(ReasonCode::Superseded, words), end);
        }
    }

    pub(super) fn check_rival(&mut self, now: Instant) {
        if self.rival.wins(self.is_held(), now) && !self.is_ended() {
            let end = End::Returned;
            // The bytes are the end of the stream only as long as all that comes is taken.
            if self.send.is_keeping() && self.closing.takes_bytes() {
                self.left_behind = Some(self.send.leave_behind());
            }
            self.abort(Reason::new(ReasonCode::Superseded, &end.to_string()), end);
        }
    }
}
