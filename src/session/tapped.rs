//! One direction of a link on its way past the tap.
//!
//! Shows the tap what has not been decided on, does as it says, and keeps count of the
//! carried bytes that what goes on stands for.

use std::time::Instant;

use crate::buffer::Chunk;
use crate::tap::{Flow, Tap, Verdict};

/// The most bytes that a tap may hold while it decides.
const MAX_HELD: usize = 64 * 1024;

/// One direction's place at the tap.
#[derive(Default)]
pub(super) struct AtTap {
    held: Vec<u8>,
    /// Carried bytes that the held ones stand for.
    owed: u64,
    detached: bool,
    /// The tap has ended the link: nothing more passes.
    stopped: bool,
}

/// What the tap made of a chunk.
pub(super) enum Made {
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
    },
}

impl AtTap {
    /// Nothing passes any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.held = Vec::new();
    }

    /// Shows a chunk, which stands for `carried` bytes, to the tap until it has decided
    /// on all of it, or wants more. What passes whole is not copied.
    pub(super) fn through(
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
        self.held.extend_from_slice(chunk.bytes());
        self.owed += carried;
        drop(chunk);
        let mut made = Vec::new();
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
                Verdict::Answer(count, reply) => {
                    made.push(Made::Answer(reply));
                    (count, Some(Vec::new()))
                }
                Verdict::Detach => {
                    self.detached = true;
                    continue;
                }
                Verdict::Hold if rest.len() <= MAX_HELD => break,
                Verdict::Hold => {
                    let reason = "more bytes than a handshake has; refused".to_owned();
                    made.push(Made::Stop { reply: Vec::new(), reason });
                    self.stopped = true;
                    break;
                }
                Verdict::Stop { pass, reply, reason } => {
                    forward(&mut made, &rest[..pass], pass as u64, false);
                    made.push(Made::Stop { reply, reason });
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
            forward(&mut made, instead.as_deref().unwrap_or(&rest[..count]), share, armed);
            at += count;
        }
        if self.stopped || at == self.held.len() {
            self.held = Vec::new();
        } else {
            self.held.drain(..at);
        }
        made
    }
}

/// Adds `bytes`, which stand for `carried` bytes of the stream.
fn forward(made: &mut Vec<Made>, bytes: &[u8], carried: u64, armed: bool) {
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
