//! Why links end and how lanes are lost, as types for the code and as words for a log.

use std::time::Duration;

use super::Side;
use super::compress::PackError;
use super::reassembly::DataError;
use super::window::NeverSent;
use crate::escape::shown;
use crate::wire::frame::FrameError;
use crate::wire::reason::{Reason, ReasonCode};

/// A breach of the protocol by the far side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The data does not fit the earlier data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It acknowledges bytes that were never sent.
    #[error(transparent)]
    NeverSent(#[from] NeverSent),
    /// A block cannot be decompressed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// It acknowledges less than before on the same lane.
    #[error("an acknowledgement of offset {0}, below an earlier one")]
    AckTakenBack(u64),
    /// ARMED comes from the wrong side, twice, or too late.
    #[error("an unexpected ARMED frame")]
    Armed,
    /// END comes from the dialler, although the link is not a passthrough.
    #[error("an END frame for the replica's stream, which only ABORT may end")]
    ReplicaEnd,
    /// The frame belongs to the opening of a lane, or to the other side.
    #[error("an unexpected frame")]
    Misplaced,
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// This side's Redis closed its connection.
    LocalClosed(Side),
    /// The far side ended it, for this reason.
    Far(Reason),
    /// The far gateway stops as planned, for this reason.
    FarStopping(Reason),
    /// This gateway stops.
    Stopping,
    /// The replica sent a command that is not part of replication; the reason for the log.
    CommandRefused(String),
    /// The replica's request cannot be served now, or the replica was late; the reason for the log.
    Declined(String),
    /// The last lane was lost before the link could be resumed.
    LaneLost(LaneLoss),
    /// The last lane was lost, and no new one came within this time.
    NoNewLane(LaneLoss, Duration),
    /// A new process of the far gateway has taken the place of the one that held it.
    Superseded,
    /// The replica has come again over another link, and this one had no sign of life.
    Returned,
    /// No gateway of the far site that answers knows the link.
    Forgotten(String),
    /// No lane of it was opened with certificates that still count; the reason.
    Outdated(String),
    /// The config does not permit it any more, for this reason.
    NotPermitted(String),
    /// Another Redis, or another site, has the master now, or nobody is known to; the reason.
    Moved(String),
    /// The far side broke the protocol.
    Protocol(String),
    /// The last bytes could not be delivered: no progress for [`super::closing::DRAIN_IDLE`].
    NotDelivered,
    /// It held the most data received out of order while memory was short.
    MemoryShort,
    /// It cost far more CPU time than its traffic justifies, and other sites needed that time.
    Costly,
    /// Both directions of a passthrough ended.
    Finished,
}

impl End {
    /// The far side's reason, if the far side ended the link.
    pub fn reason(&self) -> Option<ReasonCode> {
        match self {
            Self::Far(reason) | Self::FarStopping(reason) => Some(reason.code),
            _ => None,
        }
    }

    /// How the last lane was lost, if that ended the link.
    pub fn cause(&self) -> Option<&LaneLoss> {
        match self {
            Self::LaneLost(loss) | Self::NoNewLane(loss, _) => Some(loss),
            _ => None,
        }
    }

    /// The code in the log's field `end`. A code never changes its meaning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LocalClosed(Side::Dialler) => "replica-closed",
            Self::LocalClosed(Side::Acceptor) => "master-closed",
            Self::Far(_) => "far",
            Self::FarStopping(_) => "far-stopping",
            Self::Stopping => "stopping",
            Self::CommandRefused(_) => "command-refused",
            Self::Declined(_) => "declined",
            Self::LaneLost(_) => "lane-lost",
            Self::NoNewLane(..) => "no-new-lane",
            Self::Forgotten(_) => "forgotten",
            Self::Superseded => "superseded",
            Self::Returned => "returned",
            Self::Outdated(_) => "outdated",
            Self::NotPermitted(_) => "not-permitted",
            Self::Moved(_) => "moved",
            Self::Protocol(_) => "protocol",
            Self::NotDelivered => "not-delivered",
            Self::MemoryShort => "memory-short",
            Self::Costly => "costly",
            Self::Finished => "finished",
        }
    }
}

/// The words for a log; text from the far side is escaped.
impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LocalClosed(Side::Dialler) => f.write_str("the replica closed its connection"),
            Self::LocalClosed(Side::Acceptor) => f.write_str("the master closed its connection"),
            Self::Far(reason) => write!(f, "ended by the far side: {}", shown(reason.text.as_bytes())),
            Self::FarStopping(reason) => write!(f, "the far gateway stops: {}", shown(reason.text.as_bytes())),
            Self::Stopping => f.write_str("this gateway stops"),
            Self::CommandRefused(reason) | Self::Declined(reason) => f.write_str(reason),
            Self::LaneLost(loss) => write!(f, "lane lost: {loss}"),
            Self::NoNewLane(loss, hold) => {
                write!(f, "lane lost: {loss}; no new lane within {:.1} s", hold.as_secs_f64())
            }
            Self::Forgotten(words)
            | Self::NotPermitted(words)
            | Self::Moved(words)
            | Self::Outdated(words) => f.write_str(words),
            Self::Superseded => f.write_str("a new process of the far gateway has taken over"),
            Self::Returned => f.write_str("the replica has come again over another link"),
            Self::Protocol(fault) => {
                write!(f, "the far gateway broke the protocol: {}", shown(fault.as_bytes()))
            }
            Self::NotDelivered => {
                f.write_str("the last bytes could not be delivered in time and were dropped")
            }
            Self::MemoryShort => {
                f.write_str("it held the most data received out of order while memory was short ([limits] memory)")
            }
            Self::Costly => {
                f.write_str("the far gateway's frames cost CPU time that other sites need and carry little data: they are tiny, repeated or useless")
            }
            Self::Finished => f.write_str("both directions ended"),
        }
    }
}

/// How a lane was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneLoss {
    /// Nothing was received for this long.
    Silent(Duration),
    /// The far end closed it without ending the link.
    Closed,
    /// The far end had given it up and opened another.
    Replaced,
    /// The certificates with which it was opened do not count any more; the reason.
    Outdated(String),
    /// An error of the socket or of TLS.
    Failed(String),
}

/// Counts by the cause of a lane's loss, in the order of [`LaneLoss::CODES`].
pub type ByCause = [u64; LaneLoss::CODES.len()];

impl LaneLoss {
    /// Every code.
    pub const CODES: [&str; 5] = ["silent", "closed", "replaced", "outdated", "failed"];

    /// The place of its code in [`LaneLoss::CODES`].
    pub fn place(&self) -> usize {
        match self {
            Self::Silent(_) => 0,
            Self::Closed => 1,
            Self::Replaced => 2,
            Self::Outdated(_) => 3,
            Self::Failed(_) => 4,
        }
    }

    /// The code in the log's field `cause`. A code never changes its meaning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Silent(_) => "silent",
            Self::Closed => "closed",
            Self::Replaced => "replaced",
            Self::Outdated(_) => "outdated",
            Self::Failed(_) => "failed",
        }
    }
}

impl std::fmt::Display for LaneLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(time) => {
                write!(f, "nothing received from the far gateway for {:.1} s", time.as_secs_f64())
            }
            Self::Closed => f.write_str("the far gateway closed the connection without ending the link"),
            Self::Replaced => f.write_str("the far gateway has given up the connection"),
            Self::Outdated(words) | Self::Failed(words) => f.write_str(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_place_among_the_codes() {
        let losses = [
            LaneLoss::Silent(Duration::ZERO),
            LaneLoss::Closed,
            LaneLoss::Replaced,
            LaneLoss::Outdated(String::new()),
            LaneLoss::Failed(String::new()),
        ];
        for (place, loss) in losses.iter().enumerate() {
            assert_eq!((loss.place(), loss.code()), (place, LaneLoss::CODES[place]));
        }
    }

    #[test]
    fn the_operators_document_lists_the_codes_of_ends_and_losses() {
        let (document, code) = (include_str!("../../docs/logs.md"), include_str!("end.rs"));
        let codes = code
            .lines()
            .filter_map(|line| line.trim().split_once("=> \"")?.1.split_once("\","))
            .map(|(code, _)| code);
        let codes: Vec<&str> = codes.collect();
        assert!(codes.contains(&"replica-closed") && codes.contains(&"silent"), "{codes:?}");
        for code in codes {
            assert!(document.contains(&format!("| `{code}` |")), "{code}");
        }
    }
}
