//! Carries out a tap's verdicts for one direction of a link.
//!
//! The driver shows the tap the bytes that it has not decided on, and turns each verdict
//! into actions for the data path. It also counts the carried bytes, as they came over
//! the link, that the bytes of each action stand for.

use std::time::Instant;

use super::{Flow, Tap, Verdict};
use crate::buffer::Chunk;
use crate::secret::Secret;

/// Most bytes that a tap may hold while it decides.
pub const MAX_HELD: usize = 64 * 1024;

/// One direction of a link at its tap.
#[derive(Debug, Default)]
pub struct Driver {
    /// Bytes that the tap has not decided on. They may contain a password.
    held: Secret,
    /// Number of carried bytes that the held bytes stand for.
    owed: u64,
    /// Whether the tap does not look at this direction any more.
    detached: bool,
    /// Whether the tap has ended the link, so that nothing more passes.
    stopped: bool,
}

/// What the data path does with a chunk that the tap has seen.
#[derive(Debug)]
pub enum Action {
    /// Send the chunk on.
    Forward {
        /// The bytes. If there are none, nothing is sent for the carried bytes.
        chunk: Chunk,
        /// Carried bytes that the chunk stands for.
        carried: u64,
        /// Whether the reply to the sync is complete with this chunk.
        armed: bool,
    },
    /// Send these bytes back to the side whose bytes the tap was shown.
    Answer(Vec<u8>),
    /// End the link. The fields are those of [`Verdict::Stop`].
    Stop {
        /// The last reply to the replica, as RESP.
        reply: Vec<u8>,
        /// The reason for the log.
        reason: String,
        /// Whether the bytes were not part of replication.
        breach: bool,
    },
}

impl Driver {
    /// Stops the driver: from now on nothing passes.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.held.clear();
    }

    /// The bytes that the tap has not decided on.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Shows a chunk, which stands for `carried` bytes, to the tap until the tap has decided
    /// on all of it or wants more. A chunk that passes whole is not copied.
    pub fn through(
        &mut self,
        tap: &mut dyn Tap,
        flow: Flow,
        chunk: Chunk,
        carried: u64,
        now: Instant,
    ) -> Vec<Action> {
        if self.stopped {
            return Vec::new();
        }
        let mut first = None;
        if self.held.is_empty() {
            let verdict = if self.detached { Verdict::Detach } else { tap.look(flow, chunk.bytes(), now) };
            self.detached |= verdict == Verdict::Detach;
            if self.detached || verdict == Verdict::Pass(chunk.len()) {
                return vec![Action::Forward { chunk, carried, armed: false }];
            }
            first = Some(verdict);
        }
        self.held.extend(chunk.bytes());
        self.owed += carried;
        drop(chunk);
        self.decide(tap, flow, first, now)
    }

    /// Shows the held bytes again, because the other direction has moved on.
    pub fn again(&mut self, tap: &mut dyn Tap, flow: Flow, now: Instant) -> Vec<Action> {
        if self.held.is_empty() { Vec::new() } else { self.decide(tap, flow, None, now) }
    }

    /// Carries out the tap's verdicts on the held bytes; `first` is a verdict that it has
    /// given already.
    fn decide(
        &mut self,
        tap: &mut dyn Tap,
        flow: Flow,
        mut first: Option<Verdict>,
        now: Instant,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut passed = Passed::default();
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            let verdict = match first.take() {
                Some(verdict) => verdict,
                None if self.detached => Verdict::Pass(rest.len()),
                None => tap.look(flow, rest, now),
            };
            let armed = matches!(verdict, Verdict::PassAndArm(_));
            let (count, instead) = match verdict {
                Verdict::Pass(count) | Verdict::PassAndArm(count) => (count, None),
                Verdict::Replace(count, bytes) => (count, Some(bytes)),
                Verdict::Insert(bytes) => {
                    passed.add(&bytes, 0);
                    continue;
                }
                Verdict::Answer(count, reply) => {
                    passed.flush(&mut actions, false);
                    actions.push(Action::Answer(reply));
                    (count, Some(Vec::new()))
                }
                Verdict::Detach => {
                    self.detached = true;
                    continue;
                }
                Verdict::Hold if rest.len() <= MAX_HELD => break,
                Verdict::Hold => {
                    passed.flush(&mut actions, false);
                    let reason = "more bytes than a handshake has; refused".to_owned();
                    actions.push(Action::Stop { reply: Vec::new(), reason, breach: true });
                    self.stopped = true;
                    break;
                }
                Verdict::Stop { pass, reply, reason, breach } => {
                    passed.add(&rest[..pass], pass as u64);
                    passed.flush(&mut actions, false);
                    actions.push(Action::Stop { reply, reason, breach });
                    self.stopped = true;
                    break;
                }
            };
            // The last bytes stand for all that is owed. Each byte before them stands for one
            // carried byte; if the data was compressed, fewer were carried.
            let left = rest.len() - count;
            let share =
                if left == 0 { self.owed } else { self.owed.saturating_sub(left as u64).min(count as u64) };
            self.owed -= share;
            passed.add(instead.as_deref().unwrap_or(&rest[..count]), share);
            if armed {
                passed.flush(&mut actions, true);
            }
            at += count;
        }
        passed.flush(&mut actions, false);
        if self.stopped || at == self.held.len() {
            self.held.clear();
        } else {
            self.held.consume(at);
        }
        actions
    }
}

/// Bytes that go on together, so that many small commands do not become as many writes.
#[derive(Default)]
struct Passed {
    bytes: Secret,
    /// Carried bytes that they stand for.
    carried: u64,
}

impl Passed {
    fn add(&mut self, bytes: &[u8], carried: u64) {
        self.bytes.extend(bytes);
        self.carried += carried;
    }

    /// Turns the bytes so far into actions.
    fn flush(&mut self, actions: &mut Vec<Action>, armed: bool) {
        let Self { bytes, carried } = std::mem::take(self);
        if bytes.is_empty() && carried > 0 {
            actions.push(Action::Forward { chunk: Chunk::copied(&[]), carried, armed });
        }
        let mut pieces = bytes.chunks(crate::buffer::PAYLOAD).peekable();
        let mut left = carried;
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            let share = if last { left } else { left.min(piece.len() as u64) };
            left -= share;
            actions.push(Action::Forward {
                chunk: Chunk::copied(piece),
                carried: share,
                armed: armed && last,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tap that gives these verdicts, the last one first.
    struct Scripted(Vec<u8>);

    impl Tap for Scripted {
        fn look(&mut self, _: Flow, bytes: &[u8], _: Instant) -> Verdict {
            let count = bytes.len().div_ceil(2);
            match self.0.pop() {
                Some(0) => Verdict::Hold,
                Some(1) => Verdict::Replace(count, Vec::new()),
                Some(2) => Verdict::Replace(count, vec![b'x'; 300]),
                Some(3) => Verdict::Answer(count, b"+OK".to_vec()),
                Some(4) => Verdict::PassAndArm(count),
                Some(5) => Verdict::Detach,
                Some(6) => Verdict::Pass(bytes.len()),
                Some(7) => Verdict::Insert(vec![b'i'; 40]),
                _ => Verdict::Pass(count),
            }
        }
    }

    proptest! {
        #[test]
        fn the_passed_pieces_account_for_every_carried_byte_whatever_the_verdicts(
            verdicts in proptest::collection::vec(0u8..9, 0..60),
            chunks in proptest::collection::vec((1usize..200, 1u64..400), 1..20),
        ) {
            let (mut driver, mut tap) = (Driver::default(), Scripted(verdicts));
            let (mut owed, mut stood_for) = (0, 0);
            let mut take = |actions: Vec<Action>| {
                for action in actions {
                    if let Action::Forward { carried, .. } = action {
                        stood_for += carried;
                    }
                }
            };
            for (length, carried) in chunks {
                owed += carried;
                let chunk = Chunk::copied(&vec![b'c'; length]);
                take(driver.through(&mut tap, Flow::ToMaster, chunk, carried, Instant::now()));
            }
            // With the next chunk the tap passes everything that it held.
            tap.0.clear();
            owed += 1;
            take(driver.through(&mut tap, Flow::ToMaster, Chunk::copied(b"c"), 1, Instant::now()));
            prop_assert_eq!(stood_for, owed);
        }
    }
}
