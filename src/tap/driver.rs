//! One direction of a link on its way past the tap.
//!
//! Shows the tap what has not been decided on, does as it says, and keeps count of the
//! carried bytes that what goes on stands for.

use std::time::Instant;

use super::{Flow, Tap, Verdict};
use crate::buffer::Chunk;
use crate::secret::Secret;

/// The most bytes that a tap may hold while it decides.
const MAX_HELD: usize = 64 * 1024;

/// One direction's place at the tap.
#[derive(Default)]
pub(crate) struct AtTap {
    /// There may be an AUTH among them.
    held: Secret,
    /// Carried bytes that the held ones stand for.
    owed: u64,
    detached: bool,
    /// The tap has ended the link: nothing more passes.
    stopped: bool,
}

/// What the tap made of a chunk.
pub(crate) enum Made {
    /// Goes on; where the chunk is empty, the carried bytes stand for nothing.
    Forward {
        chunk: Chunk,
        carried: u64,
        armed: bool,
    },
    /// Goes back to where what was shown came from.
    Answer(Vec<u8>),
    Stop {
        reply: Vec<u8>,
        reason: String,
        breach: bool,
    },
}

impl AtTap {
    /// Nothing passes any more.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.held.clear();
    }

    /// Shows a chunk, which stands for `carried` bytes, to the tap until it has decided
    /// on all of it, or wants more. What passes whole is not copied.
    pub(crate) fn through(
        &mut self,
        tap: &mut dyn Tap,
        flow: Flow,
        chunk: Chunk,
        carried: u64,
        now: Instant,
    ) -> Vec<Made> {
        if self.stopped {
            return Vec::new();
        }
        let mut first = None;
        if self.held.is_empty() {
            let verdict = if self.detached { Verdict::Detach } else { tap.look(flow, chunk.bytes(), now) };
            self.detached |= verdict == Verdict::Detach;
            if self.detached || verdict == Verdict::Pass(chunk.len()) {
                return vec![Made::Forward { chunk, carried, armed: false }];
            }
            first = Some(verdict);
        }
        self.held.extend(chunk.bytes());
        self.owed += carried;
        drop(chunk);
        self.decide(tap, flow, first, now)
    }

    /// Shows what is held once more, since the other direction has moved on.
    pub(crate) fn again(&mut self, tap: &mut dyn Tap, flow: Flow, now: Instant) -> Vec<Made> {
        if self.held.is_empty() { Vec::new() } else { self.decide(tap, flow, None, now) }
    }

    /// Does with what is held as the tap says; `first` is what it has said already.
    fn decide(
        &mut self,
        tap: &mut dyn Tap,
        flow: Flow,
        mut first: Option<Verdict>,
        now: Instant,
    ) -> Vec<Made> {
        let mut made = Vec::new();
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
                    passed.flush(&mut made, false);
                    made.push(Made::Answer(reply));
                    (count, Some(Vec::new()))
                }
                Verdict::Detach => {
                    self.detached = true;
                    continue;
                }
                Verdict::Hold if rest.len() <= MAX_HELD => break,
                Verdict::Hold => {
                    passed.flush(&mut made, false);
                    let reason = "more bytes than a handshake has; refused".to_owned();
                    made.push(Made::Stop { reply: Vec::new(), reason, breach: true });
                    self.stopped = true;
                    break;
                }
                Verdict::Stop { pass, reply, reason, breach } => {
                    passed.add(&rest[..pass], pass as u64);
                    passed.flush(&mut made, false);
                    made.push(Made::Stop { reply, reason, breach });
                    self.stopped = true;
                    break;
                }
            };
            // All that is left stands for all that is owed; before that, a byte for a
            // byte, unless they are compressed and so fewer.
            let left = rest.len() - count;
            let share =
                if left == 0 { self.owed } else { self.owed.saturating_sub(left as u64).min(count as u64) };
            self.owed -= share;
            passed.add(instead.as_deref().unwrap_or(&rest[..count]), share);
            if armed {
                passed.flush(&mut made, true);
            }
            at += count;
        }
        passed.flush(&mut made, false);
        if self.stopped || at == self.held.len() {
            self.held.clear();
        } else {
            self.held.consume(at);
        }
        made
    }
}

/// Bytes that go on together: a thousand small commands are no thousand writes.
#[derive(Default)]
struct Passed {
    bytes: Secret,
    /// Bytes of the stream that they stand for.
    carried: u64,
}

impl Passed {
    fn add(&mut self, bytes: &[u8], carried: u64) {
        self.bytes.extend(bytes);
        self.carried += carried;
    }

    /// Lets go of what was added.
    fn flush(&mut self, made: &mut Vec<Made>, armed: bool) {
        let Self { bytes, carried } = std::mem::take(self);
        if bytes.is_empty() && carried > 0 {
            made.push(Made::Forward { chunk: Chunk::copied(&[]), carried, armed });
        }
        let mut pieces = bytes.chunks(crate::buffer::PAYLOAD).peekable();
        let mut left = carried;
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            let share = if last { left } else { left.min(piece.len() as u64) };
            left -= share;
            made.push(Made::Forward { chunk: Chunk::copied(piece), carried: share, armed: armed && last });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Says what it was told to, one verdict after the other.
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
        fn what_goes_on_stands_for_every_carried_byte_whatever_the_tap_says(
            verdicts in proptest::collection::vec(0u8..9, 0..60),
            chunks in proptest::collection::vec((1usize..200, 1u64..400), 1..20),
        ) {
            let (mut at_tap, mut tap) = (AtTap::default(), Scripted(verdicts));
            let (mut owed, mut stood_for) = (0, 0);
            let mut take = |made: Vec<Made>| {
                for made in made {
                    if let Made::Forward { carried, .. } = made {
                        stood_for += carried;
                    }
                }
            };
            for (length, carried) in chunks {
                owed += carried;
                let chunk = Chunk::copied(&vec![b'c'; length]);
                take(at_tap.through(&mut tap, Flow::ToMaster, chunk, carried, Instant::now()));
            }
            // Whatever it holds back, it lets go with the next.
            tap.0.clear();
            owed += 1;
            take(at_tap.through(&mut tap, Flow::ToMaster, Chunk::copied(b"c"), 1, Instant::now()));
            prop_assert_eq!(stood_for, owed);
        }
    }
}
