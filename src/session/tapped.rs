//! One direction of a link on its way past the tap.
//!
//! Shows the tap what has not been decided on, does as it says, and keeps count of the
//! carried bytes that what goes on stands for.

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
    Forward { chunk: Chunk, carried: u64, armed: bool },
    Stop { reply: Vec<u8>, reason: String },
}

impl AtTap {
    /// Nothing passes any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.held = Vec::new();
    }

    /// Shows a chunk, which stands for `carried` bytes, to the tap until it has decided
    /// on all of it, or wants more.
    pub(super) fn through(&mut self, tap: &mut dyn Tap, flow: Flow, chunk: Chunk, carried: u64) -> Vec<Made> {
        if self.stopped {
            return Vec::new();
        }
        if self.detached && self.held.is_empty() {
            return vec![Made::Forward { chunk, carried, armed: false }];
        }
        self.held.extend_from_slice(chunk.bytes());
        self.owed += carried;
        drop(chunk);
        let mut made = Vec::new();
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            let verdict = if self.detached { Verdict::Pass(rest.len()) } else { tap.look(flow, rest) };
            let (count, replaced) = match verdict {
                Verdict::Pass(count) | Verdict::PassAndArm(count) => (count, None),
                Verdict::Replace(count, ref bytes) => (count, Some(bytes)),
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
            let armed = matches!(verdict, Verdict::PassAndArm(_));
            forward(&mut made, replaced.map_or(&rest[..count], |bytes| bytes), share, armed);
            at += count;
        }
        if self.stopped {
            self.held = Vec::new();
        } else {
            self.held.drain(..at);
        }
        made
    }
}

/// Adds `bytes`, which stand for `carried` bytes of the stream.
fn forward(made: &mut Vec<Made>, bytes: &[u8], carried: u64, armed: bool) {
    let mut pieces = bytes.chunks(crate::buffer::PAYLOAD).peekable();
    let mut left = carried;
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        let share = if last { left } else { left.min(piece.len() as u64) };
        left -= share;
        made.push(Made::Forward { chunk: Chunk::copied(piece), carried: share, armed: armed && last });
    }
}
