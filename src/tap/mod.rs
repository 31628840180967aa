//! The interface between the data path and Redis: a tap inspects a link's bytes.
//!
//! Each link has one tap, which sees both directions. A [`Driver`] for each direction shows the tap
//! the bytes that it has not decided on, and carries out its [`Verdict`]s. The data path gets
//! [`Action`]s and does not know Redis.

mod driver;
mod remembered;

use std::time::{Duration, Instant};

pub use self::driver::{Action, Driver, MAX_HELD};
pub use self::remembered::{Position, Recall, Remembered};
use crate::buffer::Chunk;

/// Time a replica is given to ask for a sync.
pub const OPENING: Duration = Duration::from_secs(20);

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the replica to the master.
    ToMaster,
    /// From the master to the replica.
    ToReplica,
}

/// What happens to the bytes that were shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first bytes go on as they are; the rest is shown again.
    Pass(usize),
    /// As [`Verdict::Pass`]; the last of these bytes complete the reply to the sync.
    PassAndArm(usize),
    /// These bytes, perhaps none, go on in place of the first ones.
    Replace(usize, Vec<u8>),
    /// The first bytes do not go on; these bytes go back to the side that sent them.
    Answer(usize, Vec<u8>),
    /// These bytes go on first; then the same bytes are shown again.
    Insert(Vec<u8>),
    /// The tap needs more bytes to decide. Everything is shown again once more bytes have come from
    /// either side.
    Hold,
    /// The link ends. The first `pass` bytes still go on; then the replica gets `reply`, if it is
    /// not empty. `reason` is for the log.
    Stop {
        /// Bytes that still go on.
        pass: usize,
        /// The last reply to the replica, as RESP.
        reply: Vec<u8>,
        /// For the log; never holds a payload.
        reason: String,
        /// The bytes were not part of replication. `false` if they were, and cannot be served now.
        breach: bool,
    },
    /// The tap stops looking at this direction: all bytes pass.
    Detach,
}

/// Inspects the bytes of one link.
pub trait Tap: Send {
    /// Judges `bytes`, which are never empty, of one direction. After any verdict but
    /// [`Verdict::Hold`], the tap is asked again about the rest.
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict;

    /// Called after the link has been up for [`OPENING`], and again after each further [`OPENING`]
    /// while the answer is [`Overdue::NotYet`].
    fn overdue(&self) -> Overdue {
        Overdue::Never
    }

    /// Whether the bytes that pass now are a large piece of data whose parts nobody waits for, so that
    /// they may be gathered.
    fn is_bulk(&self) -> bool {
        false
    }

    /// Whether `bytes`, which were just read from the local Redis and are about to be judged, may wait
    /// a moment for more, so that they travel together.
    fn may_wait(&self, _flow: Flow, _bytes: &[u8]) -> bool {
        false
    }

    /// How many of the last bytes for the replica it may ask for again over another link. `None` if
    /// this is not known, or if it cannot ask so.
    fn may_be_asked_again(&self) -> Option<u64> {
        None
    }

    /// Where the stream to the replica stands, if the replica follows it.
    fn position(&self) -> Option<Position> {
        None
    }

    /// Most bytes of the local Redis that may be shown at a time, since the tap may hold them until what
    /// comes first has passed.
    fn looks_at_most(&self) -> usize {
        usize::MAX
    }

    /// Number of bytes that the replica gets from memory before any more of the master's.
    fn to_recall(&self) -> u64 {
        0
    }

    /// The next of these bytes, at most `most` of them. They need not be shown to the tap. Once none is
    /// left, what the tap holds is shown again.
    fn recall(&mut self, _most: usize, _now: Instant) -> Option<Chunk> {
        None
    }

    /// The local Redis has closed its connection. If the tap knows the reason, it returns the last
    /// reply to the replica and the reason for the log.
    fn closed(&self) -> Option<(Vec<u8>, String)> {
        None
    }
}

/// Whether a replica is late in asking for a sync.
#[derive(Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It has asked, or need not ask.
    Never,
    /// It waits for an answer and may take longer.
    NotYet,
    /// It has not asked, so the link ends.
    Now {
        /// The last reply to the replica, as RESP.
        reply: Vec<u8>,
        /// For the log.
        reason: String,
    },
}

/// The tap of a plain tunnel: it passes all bytes unread.
#[derive(Debug)]
pub struct Blind;

impl Tap for Blind {
    fn look(&mut self, _: Flow, _: &[u8], _: Instant) -> Verdict {
        Verdict::Detach
    }
}
