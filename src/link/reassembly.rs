//! The receiving half of a link: puts pieces that come in any order into one stream.
//!
//! Over one lane every piece arrives in order and takes the short path. With several lanes, pieces
//! may also come twice, overlap, or leave gaps that another lane fills. Data after a gap is kept as
//! runs of contiguous bytes, which grow and merge as pieces come. So each piece costs one look-up,
//! however many came before it.
//!
//! A far side's pieces must not cost much more memory than their bytes. So the number of runs is
//! bounded, and so is the storage that they take beyond their bytes. No I/O and no clock.

use std::collections::{BTreeMap, VecDeque};

use crate::buffer::{Chunk, PAYLOAD, charge};

/// Size in bytes of a chunk that is started for a small piece.
const LEAST_ROOM: usize = 4096;

/// Bytes of ready storage above which all pieces share chunks of the largest size.
const DEEP: u64 = 1024 * 1024;

/// Most bytes that are reserved for the rest of a frame after a gap.
const MOST_ROOM: usize = 128 * 1024;

/// Most runs after gaps: a window of 2 GiB in frames of 128 KiB, or a second of 16,000 small
/// writes, every other one of which is late.
pub const MAX_RUNS: usize = 16_384;

/// Storage in bytes that runs may take beyond twice their length, if the window is larger than
/// that.
const MAX_OVERHEAD: u64 = 1024 * 1024;

/// Data that breaks the rules of the link: it must be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The data is further ahead of what was written than the window allows.
    #[error("data at offset {0}, beyond the window")]
    BeyondWindow(u64),
    /// There are more separate runs than are stored.
    #[error("too many gaps in the data")]
    TooManyGaps,
    /// The data is beyond the end that the sender declared.
    #[error("data at offset {0}, beyond the declared end")]
    BeyondEnd(u64),
    /// The declared end is below what was received, or differs from an earlier one.
    #[error("an impossible end of the stream, at offset {0}")]
    End(u64),
}

/// What was received and not yet written to the local Redis.
#[derive(Debug)]
pub struct Reassembly {
    ready: VecDeque<Chunk>,
    /// The runs after gaps, by their first offset. No two of them touch.
    beyond: BTreeMap<u64, Run>,
    /// Number of bytes in these runs.
    stored: u64,
    /// Memory charged for the storage of these runs, in bytes.
    charged: u64,
    /// Storage of the ready chunks, in bytes.
    ready_storage: u64,
    received: u64,
    /// The offset below which everything was taken.
    taken: u64,
    written: u64,
    end: Option<u64>,
    limit: u64,
}

impl Reassembly {
    /// Accepts at most `limit` bytes beyond what was written.
    pub fn new(limit: u64) -> Self {
        Self {
            ready: VecDeque::new(),
            beyond: BTreeMap::new(),
            stored: 0,
            charged: 0,
            ready_storage: 0,
            received: 0,
            taken: 0,
            written: 0,
            end: None,
            limit,
        }
    }

    /// The offset below which everything was received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The offset below which everything was written to the local Redis.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the stream has ended and all of it was written.
    pub fn finished(&self) -> bool {
        self.end == Some(self.written)
    }

    /// Whether the stream has ended and was received completely.
    pub fn is_complete(&self) -> bool {
        self.end == Some(self.received)
    }

    /// Memory charged for data received out of order, in bytes.
    pub fn scattered(&self) -> u64 {
        self.charged
    }

    /// Number of runs of bytes received out of order.
    pub fn runs(&self) -> usize {
        self.beyond.len()
    }

    /// Memory charged for all data that is not yet written, in bytes.
    pub fn charged(&self) -> u64 {
        self.charged + self.ready_storage + (self.taken - self.written)
    }

    /// Takes a piece. `left` more bytes of its frame are to come, which affects only the size of
    /// the storage.
    pub fn insert(&mut self, offset: u64, bytes: &[u8], left: usize) -> Result<(), DataError> {
        let end = offset + bytes.len() as u64;
        if end > self.written + self.limit {
            return Err(DataError::BeyondWindow(offset));
        }
        if self.end.is_some_and(|last| end > last) {
            return Err(DataError::BeyondEnd(offset));
        }
        if offset <= self.received {
            let known = usize::try_from(self.received - offset).unwrap_or(usize::MAX);
            if let Some(news) = bytes.get(known..).filter(|news| !news.is_empty()) {
                self.append(news, left);
                self.join();
            }
            return Ok(());
        }
        self.store(offset, bytes, left)
    }

    /// The sender declares that nothing follows `offset`.
    pub fn declare_end(&mut self, offset: u64) -> Result<(), DataError> {
        let stored = self.beyond.last_key_value().map_or(0, |(start, run)| start + run.length);
        if offset < self.received.max(stored) || self.end.is_some_and(|end| end != offset) {
            return Err(DataError::End(offset));
        }
        self.end = Some(offset);
        Ok(())
    }

    /// The next received bytes, in order. They count as written only after [`Reassembly::wrote`].
    pub fn take(&mut self) -> Option<Chunk> {
        let chunk = self.ready.pop_front()?;
        self.ready_storage -= chunk.storage() as u64;
        self.taken += chunk.len() as u64;
        Some(chunk)
    }

    /// Whether [`Reassembly::take`] has anything.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// `count` more bytes of the stream have been written.
    pub fn wrote(&mut self, count: u64) {
        self.written += count;
        debug_assert!(self.written <= self.taken);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.beyond.clear();
        (self.stored, self.charged, self.ready_storage) = (0, 0, 0);
    }

    fn append(&mut self, mut bytes: &[u8], left: usize) {
        self.received += bytes.len() as u64;
        if let Some(last) = self.ready.back_mut() {
            let taken = last.append(bytes);
            bytes = &bytes[taken..];
        }
        while !bytes.is_empty() {
            // The chunk is larger than the piece, so that small pieces share one chunk: the largest
            // there is, if the local Redis is far behind.
            let room = if self.ready_storage > DEEP { PAYLOAD } else { LEAST_ROOM };
            let mut chunk = Chunk::for_payload((bytes.len() + left).max(room));
            let taken = chunk.append(bytes);
            bytes = &bytes[taken..];
            self.make_ready(chunk);
        }
    }

    fn make_ready(&mut self, chunk: Chunk) {
        self.ready_storage += chunk.storage() as u64;
        self.ready.push_back(chunk);
    }

    /// Moves the runs that are now contiguous with the ready bytes.
    fn join(&mut self) {
        while let Some(entry) = self.beyond.first_entry() {
            if *entry.key() > self.received {
                return;
            }
            let (start, run) = entry.remove_entry();
            self.stored -= run.length;
            self.charged -= run.charged;
            let mut known = usize::try_from(self.received - start).unwrap_or(usize::MAX);
            self.received = self.received.max(start + run.length);
            for mut chunk in run.chunks {
                let cut = known.min(chunk.len());
                known -= cut;
                chunk.consume(cut);
                // Small chunks are merged, so that ready storage is never mostly empty.
                if let Some(last) = self.ready.back_mut()
                    && last.spare().len() >= chunk.len()
                {
                    last.append(chunk.bytes());
                } else if chunk.storage() > 2 * chunk.len() {
                    let mut gathered = Chunk::for_payload(chunk.len().max(LEAST_ROOM));
                    gathered.append(chunk.bytes());
                    self.make_ready(gathered);
                } else {
                    self.make_ready(chunk);
                }
            }
        }
    }

    /// Keeps a piece after a gap: appends its new bytes to the run that it continues, and merges
    /// the runs that it reaches.
    fn store(&mut self, offset: u64, mut bytes: &[u8], left: usize) -> Result<(), DataError> {
        let before = self.beyond.range(..=offset).next_back().and_then(|(start, run)| {
            let known = (start + run.length).checked_sub(offset)?;
            Some((*start, usize::try_from(known).unwrap_or(usize::MAX)))
        });
        let (start, mut run) = match before {
            Some((_, known)) if known >= bytes.len() => return Ok(()),
            Some((start, known)) => {
                bytes = &bytes[known..];
                (start, self.take_run(start))
            }
            None => (offset, Run::default()),
        };
        while !bytes.is_empty() {
            let at = start + run.length;
            let until = self.beyond.range(start..).next().map_or(u64::MAX, |(next, _)| *next);
            let free = usize::try_from(until - at).unwrap_or(usize::MAX).min(bytes.len());
            let (news, rest) = bytes.split_at(free);
            // Reserves storage for the rest of the frame, if no other run is in its way.
            run.append(news, if until == u64::MAX { left } else { 0 });
            bytes = rest;
            if at + free as u64 == until {
                let next = self.take_run(until);
                let known = usize::try_from(next.length).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[known..];
                run.join(next);
            }
        }
        self.stored += run.length;
        self.charged += run.charged;
        self.beyond.insert(start, run);
        let overhead = self.stored * 2 + self.limit.min(MAX_OVERHEAD);
        if self.charged > overhead.min(self.limit.saturating_mul(2)) || self.beyond.len() > MAX_RUNS {
            return Err(DataError::TooManyGaps);
        }
        Ok(())
    }

    fn take_run(&mut self, start: u64) -> Run {
        let run = self.beyond.remove(&start).expect("it was just found");
        self.stored -= run.length;
        self.charged -= run.charged;
        run
    }
}

/// Contiguous bytes beyond a gap.
#[derive(Debug, Default)]
struct Run {
    chunks: VecDeque<Chunk>,
    length: u64,
    /// Memory charged for the storage of this run.
    charged: u64,
}

impl Run {
    /// Appends bytes; `left` more of their frame are to come. It never reserves more storage than
    /// bytes have already come, however many were announced.
    fn append(&mut self, mut bytes: &[u8], left: usize) {
        self.length += bytes.len() as u64;
        if let Some(last) = self.chunks.back_mut() {
            let taken = last.append(bytes);
            bytes = &bytes[taken..];
        }
        while !bytes.is_empty() {
            let come = usize::try_from(self.length).unwrap_or(usize::MAX);
            let more = left.clamp(LEAST_ROOM, MOST_ROOM).min(come);
            let mut chunk = Chunk::exact(bytes.len() + more);
            let taken = chunk.append(bytes);
            bytes = &bytes[taken..];
            self.push(chunk);
        }
    }

    /// Appends the run that begins where this one ends. If two small chunks meet they become one.
    /// Otherwise the shorter list of chunks is moved.
    fn join(&mut self, mut next: Self) {
        if let (Some(mut last), Some(mut first)) = (self.pop(), next.pop_front()) {
            let both = last.len() + first.len();
            if both > LEAST_ROOM {
                self.push(last);
                next.push_front(first);
            } else if last.spare().len() >= first.len() {
                last.append(first.bytes());
                self.push(last);
            } else if first.room_before() >= last.len() {
                first.prepend(last.bytes());
                next.push_front(first);
            } else {
                // Doubles the storage if another piece is likely to follow.
                let room = (both * 2).min(LEAST_ROOM);
                let mut one = Chunk::exact(room);
                one.leave(if last.len() < first.len() { room - both } else { 0 });
                one.append(last.bytes());
                one.append(first.bytes());
                self.push(one);
            }
        }
        self.length += next.length;
        self.charged += next.charged;
        if self.chunks.len() >= next.chunks.len() {
            self.chunks.extend(next.chunks);
        } else {
            self.chunks.drain(..).rev().for_each(|chunk| next.chunks.push_front(chunk));
            self.chunks = next.chunks;
        }
    }

    fn push(&mut self, chunk: Chunk) {
        self.charged += charge(chunk.storage());
        self.chunks.push_back(chunk);
    }

    fn push_front(&mut self, chunk: Chunk) {
        self.charged += charge(chunk.storage());
        self.chunks.push_front(chunk);
    }

    fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_back()?;
        self.charged -= charge(chunk.storage());
        Some(chunk)
    }

    fn pop_front(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.charged -= charge(chunk.storage());
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(reassembly: &mut Reassembly) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(chunk) = reassembly.take() {
            out.extend_from_slice(chunk.bytes());
        }
        out
    }

    proptest! {
        #[test]
        fn any_order_overlap_and_repetition_gives_the_identical_bytes(
            length in 1usize..3000,
            picks in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..400), 0..60),
            order in any::<u64>(),
        ) {
            let stream: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            let mut pieces: Vec<(usize, usize)> = picks
                .iter()
                .map(|(start, size)| { let start = start.index(length); (start, (start + size).min(length)) })
                .collect();
            pieces.extend((0..length).step_by(97).map(|start| (start, (start + 97).min(length))));
            // A cheap seeded shuffle.
            let mut seed = order | 1;
            for at in (1..pieces.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                pieces.swap(at, (seed >> 33) as usize % (at + 1));
            }
            let mut reassembly = Reassembly::new(1 << 20);
            let mut out = Vec::new();
            for (start, end) in pieces {
                reassembly.insert(start as u64, &stream[start..end], 0).unwrap();
                let fresh = drain(&mut reassembly);
                reassembly.wrote(fresh.len() as u64);
                out.extend(fresh);
            }
            prop_assert_eq!(out, stream);
            prop_assert_eq!(reassembly.charged, 0);
            reassembly.declare_end(length as u64).unwrap();
            prop_assert!(reassembly.finished());
        }
    }

    #[test]
    fn data_beyond_the_window_or_the_end_is_refused() {
        let mut reassembly = Reassembly::new(100);
        assert_eq!(reassembly.insert(90, &[0; 11], 0), Err(DataError::BeyondWindow(90)));
        reassembly.insert(0, &[0; 10], 0).unwrap();
        assert_eq!(reassembly.declare_end(9), Err(DataError::End(9)));
        reassembly.declare_end(20).unwrap();
        assert_eq!(reassembly.declare_end(21), Err(DataError::End(21)));
        assert_eq!(reassembly.insert(15, &[0; 6], 0), Err(DataError::BeyondEnd(15)));
    }

    #[test]
    fn one_byte_pieces_in_order_gather_in_few_chunks() {
        let mut reassembly = Reassembly::new(64 * 1024);
        (0..50_000).for_each(|at| reassembly.insert(at, &[0], 0).unwrap());
        assert!(reassembly.ready.len() <= 50_000 / LEAST_ROOM + 1);
    }

    #[test]
    fn pieces_that_fill_each_others_gaps_take_no_more_memory_than_their_length() {
        let mut reassembly = Reassembly::new(1 << 20);
        for first in [1, 0] {
            (first..8000).step_by(2).for_each(|at| reassembly.insert(at, &[0], 0).unwrap());
        }
        assert_eq!((reassembly.received(), reassembly.scattered()), (8000, 0));
        assert!(reassembly.charged() < 64 * 1024, "{}", reassembly.charged());
    }

    #[test]
    fn one_byte_pieces_beyond_a_gap_are_charged_what_they_cost() {
        let mut reassembly = Reassembly::new(64 * 1024);
        let refused = (0..).find(|at| reassembly.insert(2 + at * 2, &[0], 0).is_err()).unwrap();
        assert!(refused <= 64 * 1024 / 250, "{refused}");
        let mut large = Reassembly::new(1 << 30);
        let refused = (0..).find(|at| large.insert(2 + at * 2, &[0], 0).is_err()).unwrap();
        assert!(refused <= MAX_RUNS as u64 && large.charged() < 2 * MAX_OVERHEAD, "{refused}");
    }

    /// The order in which one-byte pieces come beyond a gap.
    fn orders(count: u64) -> [Vec<u64>; 4] {
        let up: Vec<u64> = (1..count).collect();
        let down: Vec<u64> = (1..count).rev().collect();
        let inside_out = (0..count / 2).flat_map(|step| [count / 2 + step, count / 2 - 1 - step]);
        let by_blocks = (0..count / 1000).rev().flat_map(|block| (1..1000).map(move |at| block * 1000 + at));
        let between = (1..count / 1000).map(|block| block * 1000);
        [up, down, inside_out.filter(|at| *at > 0).collect(), by_blocks.chain(between).collect()]
    }

    #[test]
    fn neighbours_merge_in_whatever_order_they_come() {
        let count = 200_000;
        for (which, order) in orders(count).into_iter().enumerate() {
            let mut reassembly = Reassembly::new(64 << 20);
            let mut most = 0;
            for at in order {
                reassembly.insert(at, &[at as u8], 0).unwrap();
                most = most.max(reassembly.beyond.len());
            }
            let chunks: usize = reassembly.beyond.values().map(|run| run.chunks.len()).sum();
            assert!(reassembly.beyond.len() == 1 && most <= 201, "order {which}: {most} runs");
            assert!(chunks < 2000, "order {which}: {chunks} chunks");
            assert!(reassembly.scattered() < 3 * count, "order {which}: {}", reassembly.scattered());
            reassembly.insert(0, &[0], 0).unwrap();
            let bytes = drain(&mut reassembly);
            assert_eq!(bytes.len() as u64, count);
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8), "order {which}");
            assert_eq!((reassembly.stored, reassembly.charged), (0, 0));
        }
    }

    #[test]
    fn a_long_announced_frame_takes_no_memory_before_its_data_comes() {
        let mut reassembly = Reassembly::new(64 << 20);
        for at in 1..24 {
            reassembly.insert(at << 20, &[0], 500_000).unwrap();
        }
        assert!(reassembly.scattered() <= 24 * 256, "{}", reassembly.scattered());
    }

    #[test]
    fn whole_frames_beyond_a_gap_take_all_of_the_window() {
        const FRAME: usize = 128 * 1024;
        let mut reassembly = Reassembly::new(64 << 20);
        let record = vec![7; 16 * 1024];
        // Every other frame is late, and each comes in records.
        for frame in (1..512).step_by(2) {
            for at in (0..FRAME).step_by(record.len()) {
                let left = FRAME - at - record.len();
                reassembly.insert((frame * FRAME + at) as u64, &record, left).unwrap();
            }
        }
        assert_eq!(reassembly.stored, 32 << 20);
        assert!(reassembly.scattered() < 33 << 20, "{}", reassembly.scattered());
    }

    proptest! {
        #[test]
        fn data_kept_beyond_a_gap_never_costs_much_more_memory_than_its_length(
            picks in proptest::collection::vec((2u64..60_000, 1usize..300, 0usize..600_000), 0..400),
        ) {
            let mut reassembly = Reassembly::new(1 << 20);
            for (offset, length, left) in picks {
                let fits = reassembly.insert(offset, &vec![1; length], left);
                prop_assert!(fits.is_ok());
                let (mut last, mut stored, mut charged) = (1, 0, 0);
                for (start, run) in &reassembly.beyond {
                    prop_assert!(*start > last, "runs that touch");
                    last = start + run.length;
                    let chunks = run.chunks.iter();
                    prop_assert_eq!(chunks.clone().map(|chunk| chunk.len() as u64).sum::<u64>(), run.length);
                    prop_assert_eq!(chunks.map(|chunk| charge(chunk.storage())).sum::<u64>(), run.charged);
                    (stored, charged) = (stored + run.length, charged + run.charged);
                }
                prop_assert_eq!((stored, charged), (reassembly.stored, reassembly.charged));
                prop_assert!(charged <= 2 * stored + 512 * reassembly.beyond.len() as u64 + 256 * (stored / 1000));
            }
        }
    }
}
