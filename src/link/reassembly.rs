//! The receiving half of a link: pieces in any order come out as one stream.
//!
//! Over one lane every piece arrives in order and takes the short path. Pieces
//! may also come twice, overlap, or leave gaps for another lane to fill; what
//! lies beyond a gap is stored, and each piece is charged the storage it takes, so
//! that scattered bytes are bounded like any others. Pure: no I/O, no clock.

use std::collections::{BTreeMap, VecDeque};

use super::window::charge;
use crate::buffer::Chunk;

/// Room of a chunk that is started for a small piece, in bytes.
const LEAST_ROOM: usize = 4096;

/// Data that breaks the rules of the link: it must be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Further ahead of what was written than the window allows.
    #[error("data at offset {0}, beyond the window")]
    BeyondWindow(u64),
    /// More scattered pieces than are stored.
    #[error("too many gaps in the data")]
    TooManyGaps,
    /// Data beyond the end that the sender declared.
    #[error("data at offset {0}, beyond the declared end")]
    BeyondEnd(u64),
    /// An end below what was received, or a second, different one.
    #[error("an impossible end of the stream, at offset {0}")]
    End(u64),
}

/// What was received and not yet written to the local Redis.
#[derive(Debug)]
pub struct Reassembly {
    ready: VecDeque<Chunk>,
    beyond: BTreeMap<u64, Chunk>,
    charged: u64,
    /// Bytes of storage of what is ready.
    ready_storage: u64,
    received: u64,
    written: u64,
    end: Option<u64>,
    limit: u64,
}

impl Reassembly {
    /// Takes at most `limit` bytes beyond what was written.
    pub fn new(limit: u64) -> Self {
        Self {
            ready: VecDeque::new(),
            beyond: BTreeMap::new(),
            charged: 0,
            ready_storage: 0,
            received: 0,
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

    /// The offset that nothing follows, if the sender has declared it.
    pub fn declared_end(&self) -> Option<u64> {
        self.end
    }

    /// Whether the stream has ended and nothing of it is missing.
    pub fn is_complete(&self) -> bool {
        self.end == Some(self.received)
    }

    /// Bytes of memory that what lies beyond a gap counts for.
    pub fn scattered(&self) -> u64 {
        self.charged
    }

    /// Bytes of memory that what is not yet written counts for.
    pub fn charged(&self) -> u64 {
        self.charged + self.ready_storage.max(self.received - self.written)
    }

    /// Takes a piece; `left` more bytes of its frame are to come, which only
    /// sizes the storage.
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
        let stored = self.beyond.last_key_value().map_or(0, |(start, chunk)| start + chunk.len() as u64);
        if offset < self.received.max(stored) || self.end.is_some_and(|end| end != offset) {
            return Err(DataError::End(offset));
        }
        self.end = Some(offset);
        Ok(())
    }

    /// The next received bytes, in order. They count as written only once
    /// [`Reassembly::wrote`] says so.
    pub fn take(&mut self) -> Option<Chunk> {
        let chunk = self.ready.pop_front()?;
        self.ready_storage -= chunk.storage() as u64;
        Some(chunk)
    }

    /// Whether [`Reassembly::take`] has anything.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// `count` more bytes of the stream have been written.
    pub fn wrote(&mut self, count: u64) {
        self.written += count;
        debug_assert!(self.written <= self.received);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.beyond.clear();
        (self.charged, self.ready_storage) = (0, 0);
    }

    fn append(&mut self, mut bytes: &[u8], left: usize) {
        self.received += bytes.len() as u64;
        if let Some(last) = self.ready.back_mut() {
            let taken = last.append(bytes);
            bytes = &bytes[taken..];
        }
        while !bytes.is_empty() {
            // Room for more than came: small pieces gather in one chunk.
            let mut chunk = Chunk::for_payload((bytes.len() + left).max(LEAST_ROOM));
            let taken = chunk.append(bytes);
            bytes = &bytes[taken..];
            self.make_ready(chunk);
        }
    }

    fn make_ready(&mut self, chunk: Chunk) {
        self.ready_storage += chunk.storage() as u64;
        self.ready.push_back(chunk);
    }

    /// Moves what the newly received bytes have made contiguous.
    fn join(&mut self) {
        while let Some(entry) = self.beyond.first_entry() {
            if *entry.key() > self.received {
                return;
            }
            let (start, mut chunk) = entry.remove_entry();
            self.charged -= charge(chunk.storage());
            let known = usize::try_from(self.received - start).unwrap_or(usize::MAX);
            if known < chunk.len() {
                chunk.consume(known);
                self.received += chunk.len() as u64;
                // Scattered bytes come together: what is ready is never mostly room.
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

    fn store(&mut self, offset: u64, bytes: &[u8], left: usize) -> Result<(), DataError> {
        // Only what no stored piece covers is kept: cut at both neighbours, and
        // where a stored piece lies inside, keep what is before it and go on.
        let (mut offset, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let until = self.beyond.range(offset + 1..).next().map_or(u64::MAX, |(start, _)| *start);
            if let Some((start, before)) = self.beyond.range_mut(..=offset).next_back() {
                let covered = (start + before.len() as u64).saturating_sub(offset);
                let mut known = usize::try_from(covered).unwrap_or(usize::MAX).min(bytes.len());
                if start + before.len() as u64 == offset + known as u64 {
                    // It goes on right behind: mostly the rest of the same frame.
                    let free = usize::try_from(until - offset).unwrap_or(usize::MAX).min(bytes.len());
                    known += before.append(&bytes[known..free.max(known)]);
                }
                offset += known as u64;
                bytes = &bytes[known..];
                if known > 0 {
                    continue;
                }
            }
            let free = usize::try_from(until - offset).unwrap_or(usize::MAX).min(bytes.len());
            let (news, rest) = bytes.split_at(free);
            // Room for what is still to come of the frame, where nothing is in its way.
            let room = if rest.is_empty() && until == u64::MAX { news.len() + left } else { news.len() };
            let mut chunk = Chunk::exact(room);
            chunk.append(news);
            self.charged += charge(chunk.storage());
            if self.charged > self.limit.saturating_mul(2) {
                return Err(DataError::TooManyGaps);
            }
            self.beyond.insert(offset, chunk);
            offset += free as u64;
            bytes = rest;
        }
        Ok(())
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
    fn pieces_that_fill_each_others_gaps_take_no_more_than_they_are() {
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
        assert_eq!(refused, 2 * 64 * 1024 / 256);
    }
}
