//! Why links end and how lanes are lost, in types for the code and in words for a log.

use std::time::Duration;

use super::Side;
use super::compress::PackError;
use super::reassembly::DataError;
use super::window::NeverSent;
use crate::escape::shown;
use crate::wire::frame::FrameError;
use crate::wire::reason::Reason;

/// What the far side must not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Data that does not fit what came before.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A claim to have what was never sent.
    #[error(transparent)]
    NeverSent(#[from] NeverSent),
    /// Blocks that cannot be unpacked.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// An acknowledgement below an earlier one of the same lane.
    #[error("takes back an acknowledgement, to offset {0}")]
    AckTakenBack(u64),
    /// ARMED from the wrong side, twice, or too late.
    #[error("an ARMED that was not expected")]
    Armed,
    /// END from the dialler, where the link is no passthrough.
    #[error("an end of the replica's stream: a replica only aborts")]
    ReplicaEnd,
    /// A frame that opens a lane, or one of the other side's.
    #[error("a frame that does not belong here")]
    Misplaced,
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// This side's Redis closed its connection.
    LocalClosed(Side),
    /// The far side ended it, in these words.
    Far(Reason),
    /// The far gateway stops as planned, in these words.
    FarStopping(Reason),
    /// This gateway stops.
    Stopping,
    /// A command that is no part of replication, in words for the log.
    CommandRefused(String),
    /// What the replica asks for, or fails to, is not to be had now; in words for the log.
    Declined(String),
    /// The last lane was lost before the link could be resumed.
    LaneLost(LaneLoss),
    /// The last lane was lost, and there was no way back within this time.
    NoWayBack(LaneLoss, Duration),
    /// A new process of the far gateway has taken the place of the one that held it.
    Superseded,
    /// No gateway of the far site that answers knows the link.
    Forgotten(String),
    /// The certificates have changed, and the far side came with none that fits.
    Outdated,
    /// The far side broke the protocol.
    Protocol(String),
    /// What was left could not be delivered: no progress for [`super::closing::DRAIN_IDLE`].
    NotDelivered,
    /// It held the most bytes beyond a gap while memory for them was short.
    MemoryShort,
    /// It cost far more CPU time than what it moved is worth, and other sites needed that.
    Costly,
    /// Both directions of a passthrough ended.
    Finished,
}

/// In words for a log, with what the far side said made safe.
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
            Self::NoWayBack(loss, hold) => {
                write!(f, "lane lost: {loss}; no way back within {:.1} s", hold.as_secs_f64())
            }
            Self::Forgotten(words) => f.write_str(words),
            Self::Superseded => f.write_str("a new process of the far gateway has taken over"),
            Self::Outdated => {
                f.write_str("no connection with the certificates now in use came in place of the earlier one")
            }
            Self::Protocol(fault) => {
                write!(f, "the far gateway broke the protocol: {}", shown(fault.as_bytes()))
            }
            Self::NotDelivered => {
                f.write_str("the last bytes could not be delivered in time, and are dropped")
            }
            Self::MemoryShort => {
                f.write_str("it held the most bytes beyond a gap, while memory for them is short ([limits] memory)")
            }
            Self::Costly => {
                f.write_str("what the far gateway sends costs CPU time that other sites need, and moves nothing: frames that are tiny, repeated or of no use")
            }
            Self::Finished => f.write_str("both directions ended"),
        }
    }
}

/// How a lane was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneLoss {
    /// Nothing was heard for this long.
    Silent(Duration),
    /// The far end closed it without ending the link.
    Closed,
    /// The far end had given it up, and came back with another.
    Replaced,
    /// It was opened with earlier certificates, and was not replaced in time.
    Outdated,
    /// An error of the socket or of TLS.
    Failed(String),
}

impl std::fmt::Display for LaneLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(time) => {
                write!(f, "nothing heard from the far gateway for {:.1} s", time.as_secs_f64())
            }
            Self::Closed => f.write_str("the far gateway closed the connection without ending the link"),
            Self::Outdated => f.write_str(
                "it was opened with earlier certificates, and none with the new ones took its place",
            ),
            Self::Replaced => f.write_str("the far gateway had given the connection up"),
            Self::Failed(error) => f.write_str(error),
        }
    }
}
