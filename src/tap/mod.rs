//! The seam between the data path and Redis: a tap looks into a link's bytes.
//!
//! Each link has one tap, which sees both directions. A [`Driver`] for each direction
//! shows the tap the bytes that it has not decided on, and carries out its [`Verdict`]s.
//! The data path gets [`Action`]s and knows nothing of Redis.

mod driver;

use std::time::{Duration, Instant};

pub use self::driver::{Action, Driver};

/// For a replica to ask for what it came for.
pub const OPENING: Duration = Duration::from_secs(20);

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the replica to the master.
    ToMaster,
    /// From the master to the replica.
    ToReplica,
}

/// What becomes of the bytes that were shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first bytes go on as they are; the rest is shown again.
    Pass(usize),
    /// As [`Verdict::Pass`], and with them the sync's reply is complete.
    PassAndArm(usize),
    /// Others, perhaps none, go on in place of the first bytes.
    Replace(usize, Vec<u8>),
    /// The first bytes go no further, and these go back to where they came from.
    Answer(usize, Vec<u8>),
    /// These go on first; the same bytes are shown again.
    Insert(Vec<u8>),
    /// More is needed to decide; everything is shown again once more has come, from
    /// either side.
    Hold,
    /// The link ends. The first `pass` bytes still go on; then the replica gets
    /// `reply`, where it is not empty. `reason` is for the log.
    Stop {
        /// Bytes that still go on.
        pass: usize,
        /// Last words to the replica, as RESP.
        reply: Vec<u8>,
        /// For the log; never holds a payload.
        reason: String,
        /// What was said is no part of replication; else it is not to be had now.
        breach: bool,
    },
    /// This direction needs no more looking: everything goes on.
    Detach,
}

/// Looks into one link.
pub trait Tap: Send {
    /// Judges `bytes`, never empty, of one direction. Anything but
    /// [`Verdict::Hold`] is asked again with what is left.
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict;

    /// Asked after the link has been up for [`OPENING`], and again after that time for
    /// as long as it says [`Overdue::NotYet`].
    fn overdue(&self) -> Overdue {
        Overdue::Never
    }

    /// The local Redis has closed its connection. Where that has a reason of its own: last
    /// words to the replica, and the reason for the log.
    fn closed(&self) -> Option<(Vec<u8>, String)> {
        None
    }
}

/// Whether a replica has asked for what it came for.
#[derive(Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It has, or need not.
    Never,
    /// It waits for its answer.
    NotYet,
    /// It has not, and must go.
    Now {
        /// Last words to it, as RESP.
        reply: Vec<u8>,
        /// For the log.
        reason: String,
    },
}

/// The tap of a plain tunnel: looks at nothing.
#[derive(Debug)]
pub struct Blind;

impl Tap for Blind {
    fn look(&mut self, _: Flow, _: &[u8], _: Instant) -> Verdict {
        Verdict::Detach
    }
}
