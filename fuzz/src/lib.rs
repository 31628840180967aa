//! What the fuzz targets share: short inputs for long bytes, cutting them into pieces,
//! and a talk through the taps.
//!
//! Each target in `fuzz_targets/` takes bytes of any kind and asserts what must hold
//! whatever they are. `make fuzz` runs them all; `seeds/` holds what they start from.

pub mod script;
pub mod talk;

/// `bytes` in pieces; `lengths` says how long each is, less one, over and over.
pub fn pieces<'a>(bytes: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(rest.len(), |length| usize::from(*length) + 1);
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
