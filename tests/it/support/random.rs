//! Numbers that look random, and are the same for the same seed.

use std::ops::Range;

/// The generator xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1)) // It would stay at 0 for ever.
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 up to, without, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number in this range, which is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Bytes that cannot be compressed: a number of words of 8 bytes that is in this range.
    pub fn words(&mut self, count: Range<u64>) -> Vec<u8> {
        (0..self.within(count)).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}
