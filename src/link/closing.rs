//! The life of one end of a link, from open to ended.
//!
//! Owns what this side must still send after its last byte, and the deadline for the last bytes. It
//! holds no bytes: the link tells it what is acknowledged and written.
//!
//! ```text
//!                end_stream (passthrough)
//!                 ┌──┐
//!              ┌──┴──▼──┐   drain    ┌──────────┐  all acknowledged
//!      new ───►│  Open  ├───────────►│ Draining ├──────────────────┐
//!              └┬──────┬┘            └────┬─────┘                  │
//!               │      │ far END          │ far GOODBYE        ┌───▼───┐
//!               │      │ or GOODBYE  ┌────▼───────┐  all       │ Ended │
//!               │      └────────────►│ Delivering ├───────────►│       │
//!               │                    └────────────┘  written   └───▲───┘
//!               │   both directions of a passthrough are done      │
//!               └──────────────────────────────────────────────────┘
//! ```
//!
//! From every state `abort`, `leave`, the far side's ABORT, this side's GOODBYE, and the
//! loss of the last lane lead to Ended. So does a wait without progress in Draining and
//! Delivering. Nothing leads out of Ended.

use std::time::{Duration, Instant};

use super::{End, LaneLoss};
use crate::wire::frame::Frame;
use crate::wire::reason::Reason;

/// Longest wait without progress for the last bytes of a link.
pub const DRAIN_IDLE: Duration = Duration::from_secs(5);

/// Longest wait for the last bytes of a link in all.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(600);

/// Longest wait in all for the last bytes of a replica that has left: until then its master still
/// lists it.
pub const LEAVE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum State {
    /// Bytes pass both ways, or one way after a passthrough's other direction has ended.
    Open { tail: Tail },
    /// This side reads nothing more from its Redis. It ends once everything is acknowledged.
    Draining { tail: Tail, deadline: Deadline, end: End },
    /// The far side has declared its last byte. This side ends once everything is written.
    Delivering { tail: Tail, deadline: Deadline, end: End, last: Last },
    /// The link is over.
    Ended {
        end: End,
        /// The last frame, for every lane.
        parting: Option<Frame>,
        /// Everything that the far side sent was written.
        delivered: bool,
        /// Whether [`Closing::take_ended`] has returned it.
        reported: bool,
    },
}

/// How the far side has declared its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// With END: it keeps the link until everything is delivered.
    End,
    /// With GOODBYE, because its gateway stops: for the far side the link is over.
    Stopping,
    /// With GOODBYE, because its replica has left: the same.
    Left,
}

/// What this side must still send after the last byte of its stream.
#[derive(Debug, Default)]
struct Tail {
    end: Option<(Reason, Sent)>,
    goodbye: Option<Reason>,
}

/// The state of an END frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Not,
    /// It was sent, and may have been lost with its lane.
    Lost,
    Yes,
}

impl Tail {
    fn is_end_sent(&self) -> bool {
        matches!(self.end, Some((_, Sent::Yes)))
    }
}

/// A deadline that moves on with progress, up to a limit.
#[derive(Debug)]
struct Deadline {
    until: Instant,
    limit: Instant,
}

impl Deadline {
    fn new(now: Instant) -> Self {
        Self { until: now + DRAIN_IDLE, limit: now + DRAIN_LIMIT }
    }

    /// The deadline for what is declared by `last`.
    fn of(last: Last, now: Instant) -> Self {
        match last {
            Last::End | Last::Stopping => Self::new(now),
            Last::Left => Self { until: now + LEAVE_LIMIT, limit: now + LEAVE_LIMIT },
        }
    }

    fn progress(&mut self, now: Instant) {
        self.until = (now + DRAIN_IDLE).min(self.limit);
    }
}

/// The life of one end.
#[derive(Debug)]
pub(super) struct Closing {
    passthrough: bool,
    state: State,
}

impl Closing {
    /// An end that is open.
    pub(super) fn new(passthrough: bool) -> Self {
        Self { passthrough, state: State::Open { tail: Tail::default() } }
    }

    /// Why the link ended, once it has.
    pub(super) fn ended(&self) -> Option<&End> {
        match &self.state {
            State::Ended { end, .. } => Some(end),
            _ => None,
        }
    }

    /// Why the link ended and whether everything was delivered. Returned once.
    pub(super) fn take_ended(&mut self) -> Option<(End, bool)> {
        match &mut self.state {
            State::Ended { end, delivered, reported: reported @ false, .. } => {
                *reported = true;
                Some((end.clone(), *delivered))
            }
            _ => None,
        }
    }

    /// Whether the link and both of its directions are still open.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether the local Redis may still be read.
    pub(super) fn takes_bytes(&self) -> bool {
        matches!(&self.state, State::Open { tail: Tail { end: None, goodbye: None } })
    }

    /// Whether the far side has declared its last byte.
    pub(super) fn is_delivering(&self) -> bool {
        matches!(self.state, State::Delivering { .. })
    }

    /// Whether the link is over for the far side, which has said GOODBYE.
    pub(super) fn is_far_gone(&self) -> bool {
        matches!(self.state, State::Delivering { last: Last::Stopping | Last::Left, .. })
    }

    /// Whether this side will send GOODBYE.
    pub(super) fn is_stopping(&self) -> bool {
        self.tail().is_some_and(|tail| tail.goodbye.is_some())
    }

    /// Whether the link has ended with everything that the far side sent written.
    pub(super) fn is_delivered(&self) -> bool {
        matches!(self.state, State::Ended { delivered: true, .. })
    }

    /// The last frame of a link that has ended, for every lane.
    pub(super) fn parting(&self) -> Option<&Frame> {
        match &self.state {
            State::Ended { parting, .. } => parting.as_ref(),
            _ => None,
        }
    }

    /// The deadline for the last bytes.
    pub(super) fn timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Draining { deadline, .. } | State::Delivering { deadline, .. } => Some(deadline.until),
            State::Open { .. } | State::Ended { .. } => None,
        }
    }

    /// Ends the link if the deadline for the last bytes has passed.
    pub(super) fn expired(&self, now: Instant) -> Option<End> {
        self.timeout().filter(|until| now >= *until)?;
        match &self.state {
            State::Draining { end, .. } if !matches!(end, End::LocalClosed(_)) => Some(end.clone()),
            State::Delivering { end, last: Last::Left, .. } => Some(end.clone()),
            _ => Some(End::NotDelivered),
        }
    }

    /// This side's direction of a passthrough ends after what was offered.
    pub(super) fn end_stream(&mut self, reason: Reason) {
        if let State::Open { tail } = &mut self.state {
            tail.end.get_or_insert((reason, Sent::Not));
        }
    }

    /// The link ends after what was offered. Has an effect only on an open link.
    pub(super) fn drain(&mut self, reason: Reason, end: End, now: Instant) {
        if self.is_open() {
            let tail = Tail { end: Some((reason, Sent::Not)), ..self.take_tail() };
            self.state = State::Draining { tail, deadline: Deadline::new(now), end };
        }
    }

    /// The far side has declared its last byte and ends the link.
    pub(super) fn deliver(&mut self, end: End, last: Last, now: Instant) {
        if self.ended().is_none() {
            let tail = self.take_tail();
            self.state = State::Delivering { tail, deadline: Deadline::of(last, now), end, last };
        }
    }

    /// The link is over, and no frame is due. True if it was not over before.
    pub(super) fn end(&mut self, end: End) -> bool {
        self.finish(end, None, false)
    }

    /// The link is over, and the far side gets an ABORT. True if it was not over before.
    pub(super) fn abort(&mut self, reason: Reason, end: End) -> bool {
        self.finish(end, Some(Frame::Abort(reason)), false)
    }

    /// The link is over after what was offered, all of it below `offset`, which still goes ahead of
    /// a GOODBYE. True if it was not over before.
    pub(super) fn leave(&mut self, offset: u64, reason: Reason, end: End) -> bool {
        self.finish(end, Some(Frame::Goodbye { offset, reason }), false)
    }

    /// The last lane is lost, and the link does not wait for another.
    pub(super) fn strand(&mut self, loss: LaneLoss, all_written: bool) {
        let end = match &self.state {
            State::Delivering { end, last: Last::Left, .. } => end.clone(),
            State::Draining { end: End::LocalClosed(_), .. } | State::Delivering { .. } => End::NotDelivered,
            State::Draining { end, .. } => end.clone(),
            // The far side had finished first and closed its lanes.
            State::Open { tail: Tail { end: Some((_, Sent::Lost | Sent::Yes)), .. } }
                if loss == LaneLoss::Closed && self.passthrough && all_written =>
            {
                End::Finished
            }
            _ => End::LaneLost(loss),
        };
        self.end(end);
    }

    /// Sends GOODBYE once everything that was offered is sent.
    pub(super) fn stop(&mut self, reason: Reason) {
        if let Some(tail) = self.tail_mut() {
            tail.goodbye.get_or_insert(reason);
        }
    }

    /// The END to send after the last byte, at `offset`. It counts as sent.
    pub(super) fn take_end(&mut self, offset: u64) -> Option<Frame> {
        let (reason, sent) = self.tail_mut()?.end.as_mut()?;
        if *sent == Sent::Yes {
            return None;
        }
        *sent = Sent::Yes;
        Some(Frame::End { offset, reason: reason.clone() })
    }

    /// Ends the link with GOODBYE as its last frame, if that is due.
    pub(super) fn say_goodbye(&mut self, offset: u64) -> bool {
        let Some(reason) = self.tail_mut().and_then(|tail| tail.goodbye.take()) else { return false };
        self.finish(End::Stopping, Some(Frame::Goodbye { offset, reason }), false)
    }

    /// A lane was lost: the END may have been on it.
    pub(super) fn requeue(&mut self) {
        if let Some((_, sent @ Sent::Yes)) = self.tail_mut().and_then(|tail| tail.end.as_mut()) {
            *sent = Sent::Lost;
        }
    }

    /// Records progress: more bytes were acknowledged.
    pub(super) fn on_acknowledged(&mut self, now: Instant) {
        if let State::Draining { deadline, .. } = &mut self.state {
            deadline.progress(now);
        }
    }

    /// Records progress: more bytes were written.
    pub(super) fn on_written(&mut self, now: Instant) {
        if let State::Delivering { deadline, .. } = &mut self.state {
            deadline.progress(now);
        }
    }

    /// A break is over. It does not count as a lack of progress.
    pub(super) fn on_resumed(&mut self, now: Instant) {
        self.on_acknowledged(now);
        self.on_written(now);
    }

    /// Ends the link if nothing remains to be done.
    pub(super) fn check(&mut self, all_acknowledged: bool, all_written: bool) {
        match &self.state {
            State::Open { tail }
                if self.passthrough && tail.is_end_sent() && all_acknowledged && all_written =>
            {
                self.end(End::Finished);
            }
            State::Draining { tail, end, .. } if tail.is_end_sent() && all_acknowledged => {
                self.end(end.clone());
            }
            State::Delivering { end, .. } if all_written => {
                self.finish(end.clone(), None, true);
            }
            _ => {}
        }
    }

    fn finish(&mut self, end: End, parting: Option<Frame>, delivered: bool) -> bool {
        if self.ended().is_some() {
            return false;
        }
        self.state = State::Ended { end, parting, delivered, reported: false };
        true
    }

    fn tail(&self) -> Option<&Tail> {
        match &self.state {
            State::Open { tail } | State::Draining { tail, .. } | State::Delivering { tail, .. } => {
                Some(tail)
            }
            State::Ended { .. } => None,
        }
    }

    fn tail_mut(&mut self) -> Option<&mut Tail> {
        match &mut self.state {
            State::Open { tail } | State::Draining { tail, .. } | State::Delivering { tail, .. } => {
                Some(tail)
            }
            State::Ended { .. } => None,
        }
    }

    fn take_tail(&mut self) -> Tail {
        self.tail_mut().map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;
    use crate::wire::reason::ReasonCode;

    fn reason() -> Reason {
        Reason::new(ReasonCode::MasterClosed, "")
    }

    #[test]
    fn an_end_is_done_once_it_is_sent_and_acknowledged_and_is_reported_once() {
        let (mut closing, now) = (Closing::new(false), Instant::now());
        closing.drain(reason(), End::LocalClosed(Side::Acceptor), now);
        closing.check(true, false);
        assert!(closing.ended().is_none() && !closing.takes_bytes(), "END is not sent");
        assert!(closing.take_end(7).is_some() && closing.take_end(7).is_none());
        closing.requeue();
        closing.check(true, false);
        assert!(closing.ended().is_none(), "it was lost");
        assert_eq!(closing.take_end(7), Some(Frame::End { offset: 7, reason: reason() }));
        closing.check(true, false);
        assert_eq!(closing.take_ended(), Some((End::LocalClosed(Side::Acceptor), false)));
        assert_eq!(closing.take_ended(), None);
    }

    #[test]
    fn progress_moves_the_deadline_up_to_its_limit() {
        let (mut closing, now) = (Closing::new(false), Instant::now());
        closing.deliver(End::Far(reason()), Last::End, now);
        assert_eq!(closing.timeout(), Some(now + DRAIN_IDLE));
        closing.on_acknowledged(now + DRAIN_IDLE / 2);
        assert_eq!(closing.timeout(), Some(now + DRAIN_IDLE), "no progress of a delivery");
        closing.on_written(now + DRAIN_LIMIT);
        assert_eq!(closing.timeout(), Some(now + DRAIN_LIMIT));
        assert_eq!(closing.expired(now + DRAIN_LIMIT), Some(End::NotDelivered));
    }

    #[test]
    fn a_replica_that_left_is_delivered_within_a_limit_whatever_progress_there_is() {
        let (mut closing, now) = (Closing::new(false), Instant::now());
        let left = End::Far(Reason::new(ReasonCode::ReplicaClosed, ""));
        closing.deliver(left.clone(), Last::Left, now);
        closing.on_written(now + LEAVE_LIMIT / 2);
        assert_eq!((closing.timeout(), closing.is_far_gone()), (Some(now + LEAVE_LIMIT), true));
        assert_eq!(closing.expired(now + LEAVE_LIMIT), Some(left.clone()), "it was the replica that left");
        closing.strand(LaneLoss::Closed, false);
        assert_eq!(closing.take_ended(), Some((left, false)));
    }

    #[test]
    fn ended_is_final() {
        let (mut closing, now) = (Closing::new(false), Instant::now());
        assert!(closing.abort(reason(), End::Costly));
        closing.stop(reason());
        closing.drain(reason(), End::Stopping, now);
        closing.deliver(End::Far(reason()), Last::End, now);
        assert!(!closing.say_goodbye(0) && !closing.end(End::Finished));
        assert_eq!(closing.ended(), Some(&End::Costly));
        assert_eq!(closing.parting(), Some(&Frame::Abort(reason())));
    }

    #[test]
    fn a_passthrough_ends_once_both_directions_have() {
        let mut closing = Closing::new(true);
        closing.end_stream(reason());
        closing.take_end(0);
        closing.check(true, false);
        assert!(closing.ended().is_none());
        closing.check(true, true);
        assert_eq!(closing.ended(), Some(&End::Finished));
    }
}
