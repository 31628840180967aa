//! Chunks of payload, and the pool that lends their storage.
//!
//! When a socket becomes readable, a buffer is borrowed, of a size that fits what the socket gave
//! last, and read into once. It is kept only if the read filled half of it: a smaller read is copied
//! to storage of its own size, and the buffer goes straight back. So a thousand idle links hold no
//! buffers, and a small write that waits for its acknowledgement does not keep a large one.
//! Borrowed buffers are not cleared, and stay in a CPU's cache.
//!
//! Large buffers are mappings of their own. An allocator keeps what a break has filled for as long
//! as anything behind it is in use; a mapping goes back to the system when it is dropped. Making one
//! costs a fault for each page, so the pool keeps free ones for a while: [`trim`] drops those that
//! nobody has borrowed since the last time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use memmap2::MmapMut;

/// Bytes before a chunk's payload, kept free for the frame header, so that header and payload are
/// sealed from contiguous memory.
pub const HEADROOM: usize = 16;

/// Most payload bytes of one chunk. With its header, they fill exactly thirty-two TLS records.
pub const PAYLOAD: usize = 32 * 16_384 - HEADROOM;

/// Size of the largest pooled buffer. A chunk fits, and so does the same chunk sealed, which takes
/// 22 bytes more for each record, plus a few small frames.
pub const STORAGE: usize = HEADROOM + PAYLOAD + 4096;

/// Sizes of pooled buffers.
const SIZES: [usize; 5] = [32 * 1024, 64 * 1024, 128 * 1024, 256 * 1024, STORAGE];

/// Size from which a buffer is a mapping of its own. The system has room for some 65,000 of them.
const MAPPED: usize = 128 * 1024;

/// Most bytes of free buffers, about, that the process keeps for reuse; further ones are freed. It is
/// as much as a usual window, since that is how far a fast transfer fills and empties it.
const KEEP: usize = 64 * 1024 * 1024;

/// Least number of bytes for which a chunk counts, however short it is, at the sender and at the
/// receiver. So a flood of one-byte writes does not cost more memory than the window.
pub const LEAST_CHARGE: u64 = 256;

/// Expected payload size from which a chunk uses a pooled buffer.
const SMALL: usize = 16 * 1024;

/// Bytes of all free buffers.
static FREE: AtomicUsize = AtomicUsize::new(0);

static POOLS: [Mutex<Pool>; SIZES.len()] = [const { Mutex::new(Pool::new()) }; SIZES.len()];

/// Bytes of storage.
pub struct Buffer(Memory);

enum Memory {
    Allocated(Vec<u8>),
    Mapped(MmapMut),
}

impl Buffer {
    /// Zeros. If the system gives no mapping, the allocator is asked.
    fn zeroed(size: usize) -> Self {
        let mapped = if size >= MAPPED { MmapMut::map_anon(size).ok() } else { None };
        Self(mapped.map_or_else(|| Memory::Allocated(vec![0; size]), Memory::Mapped))
    }

    /// Changes its length; further bytes are zeros.
    pub fn resize(&mut self, length: usize) {
        if let Memory::Mapped(mapped) = &self.0 {
            self.0 = Memory::Allocated(mapped.to_vec());
        }
        if let Memory::Allocated(bytes) = &mut self.0 {
            bytes.resize(length, 0);
        }
    }
}

impl Default for Buffer {
    /// An empty one, which takes no memory.
    fn default() -> Self {
        Self(Memory::Allocated(Vec::new()))
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Memory::Allocated(bytes))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Allocated(bytes) => bytes,
            Memory::Mapped(mapped) => mapped,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Allocated(bytes) => bytes,
            Memory::Mapped(mapped) => mapped,
        }
    }
}

/// Shows only the length.
impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

/// Free buffers of one size.
struct Pool {
    free: Vec<Buffer>,
    /// The least number of them that were free at a time since the last trim.
    unused: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { free: Vec::new(), unused: 0 }
    }

    fn take(&mut self) -> Option<Buffer> {
        let taken = self.free.pop();
        self.unused = self.unused.min(self.free.len());
        taken
    }

    /// Removes the buffers that were not needed since the last time: those that were given back
    /// first.
    fn trim(&mut self) -> Vec<Buffer> {
        let dropped = self.free.drain(..self.unused).collect();
        self.unused = self.free.len();
        dropped
    }
}

/// The pool of buffers of exactly this size.
fn pool_of(size: usize) -> Option<MutexGuard<'static, Pool>> {
    let at = SIZES.iter().position(|known| *known == size)?;
    Some(lock(&POOLS[at]))
}

fn lock(pool: &'static Mutex<Pool>) -> MutexGuard<'static, Pool> {
    pool.lock().expect("no code panics while it holds a pool")
}

/// Borrows a buffer of [`STORAGE`] bytes. Give it back with [`give`].
pub fn borrow() -> Buffer {
    borrow_sized(STORAGE)
}

/// Borrows the smallest buffer of at least `least` bytes, or the largest one.
fn borrow_sized(least: usize) -> Buffer {
    let size = SIZES.into_iter().find(|size| *size >= least).unwrap_or(STORAGE);
    let free = pool_of(size).and_then(|mut pool| pool.take());
    match free {
        Some(buffer) => {
            FREE.fetch_sub(size, Ordering::Relaxed);
            buffer
        }
        None => Buffer::zeroed(size),
    }
}

/// Returns a buffer to its pool; a buffer of another size, or one too many, is freed.
pub fn give(buffer: Buffer) {
    let size = buffer.len();
    if FREE.load(Ordering::Relaxed) + size <= KEEP
        && let Some(mut pool) = pool_of(size)
    {
        FREE.fetch_add(size, Ordering::Relaxed);
        pool.free.push(buffer);
    }
}

/// Frees the buffers of the pool that nobody has borrowed since the last call.
pub fn trim() {
    for pool in &POOLS {
        // They are freed after the lock.
        let unused = lock(pool).trim();
        FREE.fetch_sub(unused.iter().map(|buffer| buffer.len()).sum(), Ordering::Relaxed);
    }
}

/// What `length` bytes in one piece count for.
pub fn charge(length: usize) -> u64 {
    (length as u64).max(LEAST_CHARGE)
}

/// Payload bytes, with room for a frame header before them.
pub struct Chunk {
    storage: Buffer,
    start: usize,
    end: usize,
}

/// Shows only the length: payload never reaches a log.
impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

impl Chunk {
    /// An empty chunk for up to [`PAYLOAD`] bytes, from the pool.
    pub fn pooled() -> Self {
        Self { storage: borrow(), start: HEADROOM, end: HEADROOM }
    }

    /// An empty chunk for about `expected` bytes: from the pool if they are many, otherwise in
    /// storage of its own.
    pub fn for_payload(expected: usize) -> Self {
        if expected < SMALL {
            return Self::sized(expected);
        }
        Self::borrowed(expected)
    }

    /// An empty chunk from the pool, for about `expected` bytes.
    pub fn borrowed(expected: usize) -> Self {
        Self { storage: borrow_sized(HEADROOM + expected), start: HEADROOM, end: HEADROOM }
    }

    /// An empty chunk for exactly `length` bytes: from the pool if they fill at least half of it,
    /// otherwise in storage of their size.
    pub fn exact(length: usize) -> Self {
        if length < PAYLOAD / 2 { Self::sized(length) } else { Self::pooled() }
    }

    /// An empty chunk for up to `length` bytes, in storage of its own.
    fn sized(length: usize) -> Self {
        Self { storage: vec![0; HEADROOM + length].into(), start: HEADROOM, end: HEADROOM }
    }

    /// A chunk with a copy of `bytes`, in storage of its own.
    ///
    /// `bytes` must be no longer than [`PAYLOAD`].
    pub fn copied(bytes: &[u8]) -> Self {
        debug_assert!(bytes.len() <= PAYLOAD);
        let mut storage = Vec::with_capacity(HEADROOM + bytes.len());
        storage.extend_from_slice(&[0; HEADROOM]);
        storage.extend_from_slice(bytes);
        Self { start: HEADROOM, end: storage.len(), storage: storage.into() }
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

    /// What its storage counts for, in bytes of memory.
    pub fn charge(&self) -> u64 {
        charge(self.storage())
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The free storage after the payload, for reading into it; see [`Chunk::filled`].
    pub fn spare(&mut self) -> &mut [u8] {
        let limit = self.limit();
        &mut self.storage[self.end..limit]
    }

    /// Adds `count` bytes that were written into [`Chunk::spare`] to the payload.
    pub fn filled(&mut self, count: usize) {
        debug_assert!(self.end + count <= self.limit());
        self.end += count;
    }

    /// Appends as much of `bytes` as fits, and returns how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let count = bytes.len().min(spare.len());
        spare[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Appends all of `bytes`. If they do not fit, the chunk moves to larger storage, of at most
    /// twice its content.
    ///
    /// The result must be no longer than [`PAYLOAD`].
    pub fn gather(&mut self, bytes: &[u8]) {
        if self.spare().len() < bytes.len() {
            let mut larger = Self::sized(((self.len() + bytes.len()) * 2).min(PAYLOAD));
            larger.append(self.bytes());
            *self = larger;
        }
        let taken = self.append(bytes);
        debug_assert_eq!(taken, bytes.len());
    }

    /// Reserves `count` bytes before the payload of an empty chunk, for [`Chunk::prepend`].
    pub fn leave(&mut self, count: usize) {
        debug_assert!(self.is_empty() && self.end + count <= self.limit());
        self.start += count;
        self.end += count;
    }

    /// Number of bytes that [`Chunk::prepend`] may still add.
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

    /// Whether bytes were dropped from the front.
    pub fn is_begun(&self) -> bool {
        self.start != HEADROOM
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

    /// Writes `header` into the headroom and returns header and payload as one slice. Nothing may
    /// have been consumed from the front of the chunk.
    pub fn framed(&mut self, header: &[u8; HEADROOM]) -> &[u8] {
        debug_assert_eq!(self.start, HEADROOM);
        self.storage[..HEADROOM].copy_from_slice(header);
        &self.storage[..self.end]
    }

    /// Moves the payload to smaller storage if it fills less than half of a pooled buffer. So data
    /// that waits for its acknowledgement takes at most about twice its size.
    pub fn settled(self) -> Self {
        if self.len() >= self.storage.len() / 2 || !SIZES.contains(&self.storage.len()) {
            return self;
        }
        if self.len() < SMALL {
            return Self::copied(self.bytes());
        }
        let mut smaller = Self::borrowed(self.len());
        smaller.append(self.bytes());
        smaller
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
    fn a_pool_drops_what_nobody_has_borrowed_since_the_last_time() {
        let mut pool = Pool::new();
        pool.free.extend((0..5).map(|_| Buffer::zeroed(10)));
        assert_eq!(pool.trim().len(), 0, "they have just come");
        let [one, other] = [pool.take(), pool.take()].map(|taken| taken.expect("there are five"));
        pool.free.extend([one, other]);
        assert_eq!((pool.trim().len(), pool.free.len()), (3, 2));
        assert_eq!((pool.trim().len(), pool.free.len()), (2, 0));
        assert!(pool.take().is_none());
    }

    #[test]
    fn a_large_buffer_is_a_mapping_of_its_own_and_grows_like_any_other() {
        for size in [10, MAPPED, STORAGE] {
            let mut buffer = Buffer::zeroed(size);
            assert_eq!(matches!(buffer.0, Memory::Mapped(_)), size >= MAPPED);
            buffer[size - 1] = 7;
            buffer.resize(size + 1);
            assert!(buffer.len() == size + 1 && buffer[size - 1..] == [7, 0]);
        }
    }

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
