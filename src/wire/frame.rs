//! The frames of `replgate/1` and their encoding.
//!
//! Every frame starts with eight bytes: the type, three reserved zero bytes, and the length of the
//! content as a big-endian `u32`. The decoder takes the contents of a TLS record, however frames
//! are cut, and returns DATA in pieces, without waiting for the end of the frame. Every other frame
//! is small and is returned whole. No I/O.

use super::fields::FieldError;
use super::hello::{Accept, Hello, Refuse};
use super::lists::{self, Known, ListName, Piece};
use super::reason::Reason;
use crate::buffer::{HEADROOM, PAYLOAD};

/// Length of the header of every frame in bytes.
pub const HEADER: usize = 8;

/// Largest DATA payload in bytes that this implementation sends and accepts.
pub const MAX_DATA: usize = PAYLOAD;

/// Largest content in bytes of any other frame.
pub const MAX_CONTROL: usize = 4096;

const HELLO: u8 = 0x01;
const ACCEPT: u8 = 0x02;
const REFUSE: u8 = 0x03;
const DATA: u8 = 0x10;
const ACK: u8 = 0x11;
const ARMED: u8 = 0x12;
const HEARTBEAT: u8 = 0x13;
const END: u8 = 0x14;
const ABORT: u8 = 0x15;
const GOODBYE: u8 = 0x16;
const RENEW: u8 = 0x17;
const RETIRE: u8 = 0x18;
const LISTS: u8 = 0x19;
const WANT: u8 = 0x1a;
const PIECE: u8 = 0x1b;

/// Bit that marks the frame types that a receiver may skip if it does not know them. Any other
/// unknown type ends the lane.
const OPTIONAL: u8 = 0x80;

/// A frame other than DATA, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of a lane, from the dialler.
    Hello(Hello),
    /// The acceptor accepts the lane.
    Accept(Accept),
    /// The acceptor refuses the lane, with a reason.
    Refuse(Refuse),
    /// All bytes below this offset were written to the local Redis socket. It also states what was
    /// received, if both sides do so.
    Ack(u64, Option<Report>),
    /// From this offset of the acceptor's stream on, the link may be resumed.
    Armed(u64),
    /// A sign of life, which also states what was received, if both sides do so.
    Heartbeat(Option<Report>),
    /// No bytes follow this offset; the reason tells why the stream ended.
    End {
        /// The offset after the last byte.
        offset: u64,
        /// Why it ended.
        reason: Reason,
    },
    /// The link is over; the receiver drops buffered data.
    Abort(Reason),
    /// The sender stops as planned; what it sent up to this offset may be delivered.
    Goodbye {
        /// The offset after the last byte.
        offset: u64,
        /// Who stops.
        reason: Reason,
    },
    /// The acceptor asks for new lanes in place of all existing ones.
    Renew,
    /// The last frame on this lane in this direction.
    Retire,
    /// The revocation lists that the sender knows, if both sides exchange them.
    Lists(Vec<Known>),
    /// The sender asks for one of the lists that the receiver has stated.
    Want(ListName),
    /// A piece of such a list.
    Piece(Piece),
}

/// What a side has received, whether or not it is written to its local Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Everything below this offset was received.
    pub received: u64,
    /// The lanes of a link that has several, each with the number of bytes of data that came over
    /// it.
    pub lanes: Vec<(u32, u64)>,
}

impl Report {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.received.to_be_bytes().to_vec();
        out.push(u8::try_from(self.lanes.len()).expect("a link has few lanes"));
        for (lane, came) in &self.lanes {
            out.extend(lane.to_be_bytes());
            out.extend(came.to_be_bytes());
        }
        out
    }

    /// Reads a report, if there is one. A later release may append to it.
    fn decode(content: &[u8]) -> Option<Option<Self>> {
        if content.is_empty() {
            return Some(None);
        }
        let (received, rest) = content.split_first_chunk()?;
        let (count, mut rest) = rest.split_first()?;
        let mut lanes = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let (lane, after) = rest.split_first_chunk()?;
            let (came, after) = after.split_first_chunk()?;
            lanes.push((u32::from_be_bytes(*lane), u64::from_be_bytes(*came)));
            rest = after;
        }
        Some(Some(Self { received: u64::from_be_bytes(*received), lanes }))
    }
}

/// What the decoder found in its input.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A piece of a DATA frame.
    Data {
        /// Offset of the piece in the stream.
        offset: u64,
        /// The piece.
        bytes: &'a [u8],
        /// Number of bytes of the frame that are still to come.
        left: usize,
    },
    /// A whole frame of another type.
    Frame(Frame),
}

/// Input that is not a frame of this protocol. Its lane must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A type that is unknown and must not be skipped.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A length that is wrong for the type, or above the limit.
    #[error("frame type {kind:#04x} with a length of {length} bytes")]
    Length {
        /// The frame's type byte.
        kind: u8,
        /// The length its header states.
        length: usize,
    },
    /// A DATA frame that runs past the largest offset.
    #[error("data beyond the end of the offsets")]
    Offset,
    /// A fault in a field of the frame.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// The sixteen bytes in front of a DATA payload of `length` bytes at `offset`.
pub fn data_header(offset: u64, length: usize) -> [u8; HEADROOM] {
    let content = u32::try_from(length + 8).expect("a chunk is far smaller than 4 GiB");
    let mut header = [0; HEADROOM];
    header[0] = DATA;
    header[4..8].copy_from_slice(&content.to_be_bytes());
    header[8..].copy_from_slice(&offset.to_be_bytes());
    header
}

impl Frame {
    /// The frame as it goes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, content) = match self {
            Self::Hello(hello) => (HELLO, hello.encode()),
            Self::Accept(accept) => (ACCEPT, accept.encode()),
            Self::Refuse(refuse) => (REFUSE, refuse.encode()),
            Self::Ack(offset, report) => {
                let mut content = offset.to_be_bytes().to_vec();
                content.extend(report.iter().flat_map(Report::encode));
                (ACK, content)
            }
            Self::Armed(offset) => (ARMED, offset.to_be_bytes().to_vec()),
            Self::Heartbeat(report) => (HEARTBEAT, report.iter().flat_map(Report::encode).collect()),
            Self::End { offset, reason } | Self::Goodbye { offset, reason } => {
                let mut content = offset.to_be_bytes().to_vec();
                content.extend(reason.encode());
                (if matches!(self, Self::End { .. }) { END } else { GOODBYE }, content)
            }
            Self::Abort(reason) => (ABORT, reason.encode()),
            Self::Renew => (RENEW, Vec::new()),
            Self::Retire => (RETIRE, Vec::new()),
            Self::Lists(known) => (LISTS, lists::encode_known(known)),
            Self::Want(name) => (WANT, name.to_vec()),
            Self::Piece(piece) => (PIECE, piece.encode()),
        };
        let mut frame = vec![kind, 0, 0, 0];
        let length = u32::try_from(content.len()).expect("control frames are small");
        frame.extend(length.to_be_bytes());
        frame.extend(content);
        frame
    }

    fn decode(kind: u8, content: &[u8]) -> Result<Option<Self>, FrameError> {
        let wrong = || FrameError::Length { kind, length: content.len() };
        let offset = || -> Result<u64, FrameError> {
            Ok(u64::from_be_bytes(content.try_into().map_err(|_| wrong())?))
        };
        Ok(Some(match kind {
            HELLO => Self::Hello(Hello::decode(content)?),
            ACCEPT => Self::Accept(Accept::decode(content)?),
            REFUSE => Self::Refuse(Refuse::decode(content)?),
            ACK => {
                let (offset, report) = content.split_first_chunk().ok_or_else(wrong)?;
                Self::Ack(u64::from_be_bytes(*offset), Report::decode(report).ok_or_else(wrong)?)
            }
            ARMED => Self::Armed(offset()?),
            HEARTBEAT => Self::Heartbeat(Report::decode(content).ok_or_else(wrong)?),
            END | GOODBYE => {
                let (head, reason) = content.split_at_checked(8).ok_or_else(wrong)?;
                let offset = u64::from_be_bytes(head.try_into().expect("split at eight"));
                let reason = Reason::decode(reason)?;
                if kind == END { Self::End { offset, reason } } else { Self::Goodbye { offset, reason } }
            }
            ABORT => Self::Abort(Reason::decode(content)?),
            RENEW => Self::Renew,
            RETIRE => Self::Retire,
            LISTS => Self::Lists(lists::decode_known(content).ok_or_else(wrong)?),
            // A later release may append to it.
            WANT => Self::Want(*content.first_chunk().ok_or_else(wrong)?),
            PIECE => Self::Piece(Piece::decode(content).ok_or_else(wrong)?),
            _ if kind & OPTIONAL != 0 => return Ok(None),
            _ => return Err(FrameError::UnknownType(kind)),
        }))
    }
}

/// Decodes the bytes of a lane, cut anywhere, into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The bytes of a header, or of a whole control frame, read so far.
    held: Vec<u8>,
    /// The DATA frame being passed on: next offset and bytes left.
    data: Option<(u64, usize)>,
}

impl Decoder {
    /// Takes bytes from the front of `input` up to the end of the next item.
    ///
    /// `None` means that all of `input` was taken and more is needed. After an
    /// error the decoder must not be used again.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, FrameError> {
        loop {
            if let Some((offset, left)) = self.data {
                if left == 0 {
                    self.data = None;
                    continue;
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let (bytes, rest) = input.split_at(left.min(input.len()));
                *input = rest;
                let left = left - bytes.len();
                self.data = Some((offset + bytes.len() as u64, left));
                return Ok(Some(Item::Data { offset, bytes, left }));
            }
            if !self.hold(input, HEADER) {
                return Ok(None);
            }
            let kind = self.held[0];
            let length = u32::from_be_bytes(self.held[4..8].try_into().expect("four bytes")) as usize;
            if kind == DATA {
                if !(9..=8 + MAX_DATA).contains(&length) {
                    return Err(FrameError::Length { kind, length });
                }
                if !self.hold(input, HEADROOM) {
                    return Ok(None);
                }
                let offset = u64::from_be_bytes(self.held[8..16].try_into().expect("eight bytes"));
                offset.checked_add(length as u64).ok_or(FrameError::Offset)?;
                self.held.clear();
                self.data = Some((offset, length - 8));
                continue;
            }
            if length > MAX_CONTROL {
                return Err(FrameError::Length { kind, length });
            }
            if !self.hold(input, HEADER + length) {
                return Ok(None);
            }
            let frame = Frame::decode(kind, &self.held[HEADER..])?;
            self.held.clear();
            if let Some(frame) = frame {
                return Ok(Some(Item::Frame(frame)));
            }
        }
    }

    /// Fills `held` up to `want` bytes; false if the input ended before.
    fn hold(&mut self, input: &mut &[u8], want: usize) -> bool {
        let missing = want.saturating_sub(self.held.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.held.extend_from_slice(taken);
        *input = rest;
        self.held.len() >= want
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::reason::ReasonCode;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Ack(7, None),
            Frame::Ack(7, Some(Report { received: 9, lanes: vec![(0, 9), (3, u64::MAX)] })),
            Frame::Heartbeat(None),
            Frame::Heartbeat(Some(Report { received: 12, lanes: Vec::new() })),
            Frame::Armed(u64::MAX),
            Frame::End { offset: 99, reason: Reason::new(ReasonCode::MasterClosed, "") },
            Frame::Abort(Reason::new(ReasonCode::ReplicaClosed, "replica closed")),
            Frame::Goodbye { offset: 98, reason: Reason::new(ReasonCode::Stopping, "site dc1 stops") },
            Frame::Renew,
            Frame::Retire,
            Frame::Lists(vec![
                Known { name: [7; 32], number: [1; 20] },
                Known { name: [8; 32], number: [0; 20] },
            ]),
            Frame::Want([7; 32]),
            Frame::Piece(Piece { name: [7; 32], number: [1; 20], total: 5000, at: 4000, bytes: vec![3; 9] }),
            Frame::Hello(Hello::sample()),
            Frame::Accept(Accept::sample()),
            Frame::Refuse(Refuse {
                reason: Reason::new(ReasonCode::NotAvailable, "no"),
                clock: Some(5),
                by: Some(("host".to_owned(), crate::wire::hello::Id([7; 16]))),
                standing: Some(Box::new(crate::wire::offer::Offer::sample().standing)),
            }),
            Frame::Refuse(Refuse {
                reason: Reason::new(ReasonCode::Limit, ""),
                clock: None,
                by: None,
                standing: None,
            }),
        ]
    }

    /// Frames, and runs of data with their offsets.
    type Decoded = (Vec<Frame>, Vec<(u64, Vec<u8>)>);

    /// Everything that was decoded, with DATA pieces of one run joined.
    fn decode(pieces: &[&[u8]]) -> Result<Decoded, FrameError> {
        let mut decoder = Decoder::default();
        let (mut seen, mut data) = (Vec::new(), Vec::<(u64, Vec<u8>)>::new());
        for piece in pieces {
            let mut input = *piece;
            while let Some(item) = decoder.next(&mut input)? {
                match item {
                    Item::Frame(frame) => seen.push(frame),
                    Item::Data { offset, bytes, .. } => match data.last_mut() {
                        Some((start, run)) if *start + run.len() as u64 == offset => run.extend(bytes),
                        _ => data.push((offset, bytes.to_vec())),
                    },
                }
            }
        }
        Ok((seen, data))
    }

    #[test]
    fn the_specification_lists_every_frame() {
        let specified = include_str!("../../docs/protocol.md");
        for frame in frames() {
            let debug = format!("{frame:?}");
            let name = debug.split(|letter: char| !letter.is_alphanumeric()).next().unwrap().to_uppercase();
            let row = format!("| {:#04x} | {name} |", frame.encode()[0]);
            assert!(specified.contains(&row), "{row}");
        }
        assert!(specified.contains(&format!("| {DATA:#04x} | DATA |")));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(cuts in proptest::collection::vec(1usize..60, 1..80), payload in proptest::collection::vec(any::<u8>(), 1..500)) {
            let mut wire = Vec::new();
            for frame in frames() {
                wire.extend(frame.encode());
                wire.extend(data_header(1000, payload.len()));
                wire.extend(&payload);
            }
            let (mut pieces, mut rest, mut cuts) = (Vec::new(), &wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                pieces.push(piece);
                rest = tail;
            }
            let (seen, data) = decode(&pieces).unwrap();
            prop_assert_eq!(seen, frames());
            prop_assert_eq!(data.len(), frames().len());
            for (offset, run) in data {
                prop_assert_eq!(offset, 1000);
                prop_assert_eq!(&run, &payload);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode(&[&bytes]);
        }
    }

    #[test]
    fn an_unknown_optional_frame_is_skipped_and_any_other_refused() {
        let mut wire = vec![0x90, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3];
        wire.extend(Frame::Heartbeat(None).encode());
        assert_eq!(decode(&[&wire]).unwrap().0, [Frame::Heartbeat(None)]);
        assert_eq!(decode(&[&[0x77, 0, 0, 0, 0, 0, 0, 0]]), Err(FrameError::UnknownType(0x77)));
    }

    #[test]
    fn a_report_may_be_longer_than_known_and_never_shorter() {
        let report = Report { received: 9, lanes: vec![(3, 5)] };
        for (kind, head, frame) in [
            (ACK, 7u64.to_be_bytes().to_vec(), Frame::Ack(7, Some(report.clone()))),
            (HEARTBEAT, Vec::new(), Frame::Heartbeat(Some(report.clone()))),
        ] {
            let longer = [&head[..], &report.encode(), &[1, 2, 3]].concat();
            assert_eq!(Frame::decode(kind, &longer), Ok(Some(frame)));
            for cut in 1..report.encode().len() {
                let cut = &longer[..head.len() + cut];
                assert_eq!(Frame::decode(kind, cut), Err(FrameError::Length { kind, length: cut.len() }));
            }
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_stored() {
        let huge = [DATA, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(decode(&[&huge]), Err(FrameError::Length { .. })));
        let empty = [DATA, 0, 0, 0, 0, 0, 0, 8];
        assert!(matches!(decode(&[&empty]), Err(FrameError::Length { .. })));
        let control = [HELLO, 0, 0, 0, 0, 1, 0, 0];
        assert!(matches!(decode(&[&control]), Err(FrameError::Length { .. })));
    }
}
