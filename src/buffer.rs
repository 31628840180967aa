//! Chunks of payload and the pool that lends their storage.
//!
//! A socket that turns readable borrows one large buffer, reads into it once,
//! and keeps it only if it was filled: a small read is copied to storage of its
//! own size and the large buffer goes straight back. So a thousand idle links
//! hold no buffers at all, and a small write waiting for its acknowledgement
//! does not pin a large one.

use std::sync::Mutex;

/// Bytes in front of a chunk's payload, kept free for its frame header, so that
/// header and payload are sealed from one piece of memory.
pub const HEADROOM: usize = 16;

/// The most payload one chunk carries: with its header, exactly thirty-two full
/// TLS records.
pub const PAYLOAD: usize = 32 * 16_384 - HEADROOM;

/// Storage of one pooled buffer: a chunk, or the same chunk sealed (22 bytes a
/// record and a few small frames more).
pub const STORAGE: usize = HEADROOM + PAYLOAD + 4096;

/// Free buffers kept for reuse, process-wide; more are given back to the system.
const KEEP: usize = 16;

/// Payloads that are expected to be smaller get storage of their own.
const SMALL: usize = 32 * 1024;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Borrows a buffer of [`STORAGE`] bytes. Give it back with [`give`].
pub fn borrow() -> Vec<u8> {
    let free = POOL.lock().expect("no code panics while it holds the pool").pop();
    free.unwrap_or_else(|| vec![0; STORAGE])
}

/// Gives a buffer back to the pool; anything not borrowed from it is dropped.
pub fn give(buffer: Vec<u8>) {
    if buffer.len() != STORAGE {
        return;
    }
    let mut pool = POOL.lock().expect("no code panics while it holds the pool");
    if pool.len() < KEEP {
        pool.push(buffer);
    }
}

/// A run of payload bytes with room for a frame header before it.
pub struct Chunk {
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

/// Shows the length alone: a payload never reaches a log.
impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

impl Chunk {
    /// An empty chunk that takes up to [`PAYLOAD`] bytes, from the pool.
    pub fn pooled() -> Self {
        Self { storage: borrow(), start: HEADROOM, end: HEADROOM }
    }

    /// An empty chunk for about `expected` bytes: from the pool where that is
    /// much, of its own where it is little.
    pub fn for_payload(expected: usize) -> Self {
        if expected >= SMALL {
            return Self::pooled();
        }
        Self::sized(expected)
    }

    /// An empty chunk for the `length` bytes that are to come: from the pool where they
    /// fill at least half of it, else of exactly their size.
    pub fn exact(length: usize) -> Self {
        if length < PAYLOAD / 2 { Self::sized(length) } else { Self::pooled() }
    }

    /// An empty chunk for up to `length` bytes, in storage of its own.
    fn sized(length: usize) -> Self {
        Self { storage: vec![0; HEADROOM + length], start: HEADROOM, end: HEADROOM }
    }

    /// A chunk with a copy of `bytes`, in storage of its own.
    ///
    /// `bytes` must be no longer than [`PAYLOAD`].
    pub fn copied(bytes: &[u8]) -> Self {
        let mut chunk = Self::sized(bytes.len());
        let taken = chunk.append(bytes);
        debug_assert_eq!(taken, bytes.len());
        chunk
    }

    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// Payload length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Bytes of storage, whether used or not.
    pub fn storage(&self) -> usize {
        self.storage.len()
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The free storage behind the payload, to read into; see [`Chunk::filled`].
    pub fn spare(&mut self) -> &mut [u8] {
        let limit = self.limit();
        &mut self.storage[self.end..limit]
    }

    /// Takes `count` bytes that were written into [`Chunk::spare`].
    pub fn filled(&mut self, count: usize) {
        debug_assert!(self.end + count <= self.limit());
        self.end += count;
    }

    /// Appends as much of `bytes` as fits and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let count = bytes.len().min(spare.len());
        spare[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Appends all of `bytes`, moving to larger storage where they do not fit, at most
    /// twice what is in it.
    ///
    /// Together they must be no more than [`PAYLOAD`].
    pub fn gather(&mut self, bytes: &[u8]) {
        if self.spare().len() < bytes.len() {
            let mut larger = Self::sized(((self.len() + bytes.len()) * 2).min(PAYLOAD));
            larger.append(self.bytes());
            *self = larger;
        }
        let taken = self.append(bytes);
        debug_assert_eq!(taken, bytes.len());
    }

    /// Leaves `count` bytes free before what is appended to an empty chunk, for
    /// [`Chunk::prepend`].
    pub fn leave(&mut self, count: usize) {
        debug_assert!(self.is_empty() && self.end + count <= self.limit());
        self.start += count;
        self.end += count;
    }

    /// Bytes that [`Chunk::prepend`] takes.
    pub fn room_before(&self) -> usize {
        self.start - HEADROOM
    }

    /// Puts `bytes` before the payload; there must be room for them.
    pub fn prepend(&mut self, bytes: &[u8]) {
        let start = self.start - bytes.len();
        debug_assert!(start >= HEADROOM);
        self.storage[start..self.start].copy_from_slice(bytes);
        self.start = start;
    }

    /// Drops `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
    }

    /// Drops all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    /// Writes `header` into the headroom and returns header and payload as one
    /// slice. Only for a chunk from whose front nothing was consumed.
    pub fn framed(&mut self, header: &[u8; HEADROOM]) -> &[u8] {
        debug_assert_eq!(self.start, HEADROOM);
        self.storage[..HEADROOM].copy_from_slice(header);
        &self.storage[..self.end]
    }

    /// The same payload in storage that suits it: a large buffer that is not even
    /// half full is copied out of and given back, so that what waits for its
    /// acknowledgement takes at most twice its size.
    pub fn settled(self) -> Self {
        if self.storage.len() == STORAGE && self.len() < PAYLOAD / 2 {
            Self::copied(self.bytes())
        } else {
            self
        }
    }

    fn limit(&self) -> usize {
        if self.storage.len() == STORAGE { HEADROOM + PAYLOAD } else { self.storage.len() }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.storage));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_payload_does_not_keep_a_large_buffer() {
        let mut chunk = Chunk::pooled();
        chunk.append(b"hello");
        let chunk = chunk.settled();
        assert_eq!(chunk.bytes(), b"hello");
        assert!(chunk.storage.len() < 100);
    }

    #[test]
    fn a_chunk_takes_what_fits_and_says_so() {
        let mut chunk = Chunk::for_payload(4);
        assert_eq!(chunk.append(b"abcdef"), 4);
        chunk.consume(1);
        chunk.truncate(2);
        assert_eq!(chunk.bytes(), b"bc");
    }

    #[test]
    fn header_and_payload_lie_in_one_piece() {
        let mut chunk = Chunk::copied(b"xyz");
        let framed = chunk.framed(b"0123456789abcdef");
        assert_eq!(framed, b"0123456789abcdefxyz");
    }
}
