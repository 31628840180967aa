//! Fuzzes the frame decoder with bytes of a far gateway. The first three bytes say how the rest is
//! cut into records.
//!
//! Any cut gives the same frames, the same data and the same fault. A frame is found with its last
//! byte, and a length is checked with the header's last byte, so at most one control frame is held.
//! A decoded frame is the same after it is encoded and decoded again, and an unknown field changes
//! nothing.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use replgate::internal::buffer::HEADROOM;
use replgate::internal::wire::fields::MAX_TEXT;
use replgate::internal::wire::frame::{Decoder, Frame, FrameError, HEADER, Item, MAX_CONTROL, MAX_DATA, data_header};
use replgate::internal::wire::hello::{Identity, Request};
use replgate::internal::wire::lists::MOST_KNOWN;
use replgate::internal::wire::reason::Reason;
use replgate::internal::wire::terms::MAX_LANES;
use replgate_fuzz::pieces;

/// What was decoded: frames, and the data of each DATA frame that has come so far.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Frame(Frame),
    Data { offset: u64, bytes: Vec<u8>, left: usize },
    Fault(FrameError),
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((cut, wire)) = bytes.split_at_checked(3) else { return Corpus::Reject };
    let whole = decode(pieces(wire, &[]));
    assert_eq!(decode(pieces(wire, cut)), whole);
    assert_eq!(decode(wire.chunks(1)), whole);
    in_time(wire);
    for found in &whole {
        match found {
            Found::Frame(frame) => frame_comes_back(frame),
            Found::Data { offset, bytes, left } => {
                assert!((1..=MAX_DATA).contains(&(bytes.len() + left)));
                let wire = [&data_header(*offset, bytes.len())[..], bytes].concat();
                let again = Found::Data { offset: *offset, bytes: bytes.clone(), left: 0 };
                assert_eq!(decode(pieces(&wire, &[])), [again]);
            }
            Found::Fault(fault) => assert!(!fault.to_string().is_empty()),
        }
    }
    Corpus::Keep
});

/// Everything in the pieces, up to the first fault.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Found> {
    let mut decoder = Decoder::default();
    let mut all: Vec<Found> = Vec::new();
    for mut input in pieces {
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Item::Frame(frame))) => all.push(Found::Frame(frame)),
                Ok(Some(Item::Data { offset, bytes, left })) => {
                    assert!(!bytes.is_empty());
                    match all.last_mut() {
                        Some(Found::Data { offset: start, bytes: run, left: due }) if *due > 0 => {
                            assert_eq!(*start + run.len() as u64, offset, "a gap within a frame");
                            assert_eq!(*due, bytes.len() + left);
                            run.extend(bytes);
                            *due = left;
                        }
                        _ => all.push(Found::Data { offset, bytes: bytes.to_vec(), left }),
                    }
                }
                Err(fault) => {
                    all.push(Found::Fault(fault));
                    return all;
                }
            }
        }
        assert!(input.is_empty(), "all of the input was taken");
    }
    all
}

/// Asserts that frames and faults are found as early as possible, with input byte by byte.
fn in_time(wire: &[u8]) {
    let mut decoder = Decoder::default();
    let mut start = 0;
    for (at, byte) in wire.iter().enumerate() {
        let mut input = std::slice::from_ref(byte);
        let found = decoder.next(&mut input);
        let frame = &wire[start..=at];
        let length = || u32::from_be_bytes(frame[4..8].try_into().expect("four bytes")) as usize;
        let is_data = frame[0] == 0x10;
        let ends = frame.len() >= HEADER && frame.len() == HEADER + length();
        match found {
            Err(FrameError::Length { .. }) if frame.len() == HEADER => return,
            Err(FrameError::Offset) if is_data => return assert_eq!(frame.len(), HEADROOM),
            Err(fault) => return assert!(ends && !is_data, "{fault} after {} bytes", frame.len()),
            Ok(Some(Item::Data { left, .. })) => {
                assert!(is_data && frame.len() > HEADROOM);
                assert_eq!(left == 0, ends);
            }
            Ok(Some(Item::Frame(_))) => assert!(ends && !is_data),
            // Only a frame that may be skipped ends without a result.
            Ok(None) => assert!(!ends || frame[0] & 0x80 != 0),
        }
        assert!(is_data || frame.len() <= HEADER + MAX_CONTROL);
        if ends {
            start = at + 1;
        }
    }
}

/// Asserts that a frame keeps the limits and stays the same when it is encoded and decoded, with
/// and without unknown fields.
fn frame_comes_back(frame: &Frame) {
    let identity = |identity: &Identity| {
        assert!((1..=253).contains(&identity.site.len()) && identity.node.len() <= MAX_TEXT);
    };
    let brief = |reason: &Reason| {
        assert!(reason.text.len() <= MAX_TEXT, "{} bytes of text", reason.text.len());
    };
    let mut has_fields = true;
    match frame {
        Frame::Hello(hello) => {
            identity(&hello.identity);
            assert!((1..=MAX_LANES).contains(&hello.terms.lanes));
            if let Request::New { master, .. } | Request::Probe { master } = &hello.request {
                assert!(
                    (1..=253).contains(&master.len()) && master.bytes().all(|byte| byte.is_ascii_graphic())
                );
            }
        }
        Frame::Accept(accept) => {
            identity(&accept.identity);
            assert!(accept.offer.as_ref().is_none_or(|offer| offer.standing.run.is_none()));
        }
        Frame::Refuse(refuse) => {
            brief(&refuse.reason);
            assert!(refuse.standing.as_ref().is_none_or(|standing| standing.run.is_none()));
        }
        Frame::End { reason, .. } | Frame::Goodbye { reason, .. } | Frame::Abort(reason) => brief(reason),
        Frame::Lists(known) => {
            has_fields = false;
            assert!(known.len() <= MOST_KNOWN);
        }
        Frame::Piece(piece) => {
            has_fields = false;
            assert!(!piece.bytes.is_empty() && piece.at as usize + piece.bytes.len() <= piece.total as usize);
        }
        _ => has_fields = false,
    }
    let mut wire = frame.encode();
    assert!(wire.len() <= HEADER + MAX_CONTROL);
    assert_eq!(decode(pieces(&wire, &[])), [Found::Frame(frame.clone())], "encoded again");
    if has_fields {
        wire.extend([0x07, 0x77, 0, 2, 1, 2].repeat(2));
        let length = u32::try_from(wire.len() - HEADER).expect("a frame is small");
        wire[4..8].copy_from_slice(&length.to_be_bytes());
        assert_eq!(decode(pieces(&wire, &[])), [Found::Frame(frame.clone())], "with unknown fields");
    }
}
