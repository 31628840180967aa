//! What the buffered bytes of a link count for.

/// Least number of bytes for which a chunk counts, however short it is, at the sender and at the
/// receiver. So a flood of one-byte writes does not cost more memory than the window.
pub const LEAST_CHARGE: u64 = 256;

/// What `length` bytes in one piece count for.
pub(super) fn charge(length: usize) -> u64 {
    (length as u64).max(LEAST_CHARGE)
}
