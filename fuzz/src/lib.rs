//! Shared by the fuzz targets: short inputs that stand for long bytes, cutting bytes into pieces,
//! and a conversation through the taps.
//!
//! Each target in `fuzz_targets/` takes any bytes and asserts what must hold for all of them. `make
//! fuzz` runs them all; they start from the inputs in `seeds/`.

pub mod script;
pub mod talk;

/// Cuts `bytes` into pieces; `lengths` gives the length of each, less one, and repeats.
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
