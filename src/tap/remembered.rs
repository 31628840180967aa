//! The last bytes of a master's stream that an earlier link of a replica received.
//!
//! If the same replica asks to continue from one of them, the master need not have them in its
//! backlog any more: it is asked for the first byte that was not received, and the bytes before that
//! come from here. The replica gets exactly what a master with a larger backlog would have sent.

use std::collections::VecDeque;

use crate::buffer::Chunk;
use crate::memory::Share;

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The master's replication id, which names one history of writes.
    pub history: String,
    /// The offset of the next byte, as PSYNC counts.
    pub next: u64,
    /// Number of bytes of the stream that have passed on this connection.
    pub passed: u64,
}

/// The last bytes of one stream, without a gap.
#[derive(Debug)]
pub struct Remembered {
    history: String,
    /// The offset of the first byte that was not received.
    next: u64,
    /// The offset of the first byte that is still known.
    first: u64,
    bytes: Bytes,
}

/// Why a replica's request is not answered from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names another history.
    OtherHistory,
    /// It asks for bytes that are not kept any more.
    TooOld,
    /// It asks for bytes that were never received.
    TooNew,
}

impl Remembered {
    /// The bytes of a stream that stands at `position`, which end there. What is longer than the
    /// stream itself came before it, and is left out. They are charged to `share` until they are taken
    /// or dropped.
    pub fn new(position: Position, chunks: VecDeque<Chunk>, share: Share) -> Self {
        let mut bytes = Bytes::new(chunks, share);
        bytes.skip(bytes.left().saturating_sub(position.passed));
        bytes.charge();
        let first = position.next.saturating_sub(bytes.left());
        Self { history: position.history, next: position.next, first, bytes }
    }

    /// What a replica gets that asks to continue `history` with the byte at `from`.
    pub fn since(mut self, history: &[u8], from: u64) -> Result<Recall, Refusal> {
        if history != self.history.as_bytes() {
            return Err(Refusal::OtherHistory);
        }
        if from < self.first {
            return Err(Refusal::TooOld);
        }
        if from > self.next {
            return Err(Refusal::TooNew);
        }
        self.bytes.skip(from - self.first);
        self.bytes.charge();
        Ok(Recall { history: self.history, next: self.next, bytes: self.bytes })
    }
}

/// What a replica gets from memory, before the bytes that its master still has.
#[derive(Debug)]
pub struct Recall {
    history: String,
    next: u64,
    bytes: Bytes,
}

impl Recall {
    /// The offset from which the master is asked to continue.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The history that the bytes belong to.
    pub fn history(&self) -> &str {
        &self.history
    }

    /// Number of bytes that were not taken yet.
    pub fn left(&self) -> u64 {
        self.bytes.left()
    }

    /// The next bytes, at most `most` of them, which is not zero.
    pub fn take(&mut self, most: usize) -> Option<Chunk> {
        self.bytes.take(most)
    }
}

/// Bytes in order.
#[derive(Debug)]
struct Bytes {
    chunks: VecDeque<Chunk>,
    left: u64,
    /// Memory that they take, in bytes, and where it is charged.
    charged: u64,
    share: Share,
}

impl Bytes {
    fn new(chunks: VecDeque<Chunk>, share: Share) -> Self {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let charged = chunks.iter().map(Chunk::charge).sum();
        Self { chunks, left, charged, share }
    }

    /// Charges what there is now.
    fn charge(&mut self) {
        self.share.set(self.charged, 0);
    }

    fn pop_front(&mut self) -> Option<Chunk> {
        let front = self.chunks.pop_front()?;
        self.charged -= front.charge();
        Some(front)
    }

    fn left(&self) -> u64 {
        self.left
    }

    /// Drops the first `count` bytes.
    fn skip(&mut self, count: u64) {
        let mut count = count.min(self.left);
        self.left -= count;
        while let Some(front) = self.chunks.front_mut() {
            let length = front.len() as u64;
            if count < length {
                // It is less than a chunk's length.
                front.consume(count as usize);
                return;
            }
            count -= length;
            self.pop_front();
        }
    }

    fn take(&mut self, most: usize) -> Option<Chunk> {
        let front = self.chunks.front_mut()?;
        let count = front.len().min(most);
        self.left -= count as u64;
        let taken = if count == front.len() && !front.is_begun() {
            self.pop_front()
        } else {
            // The frame header goes directly before a chunk's first byte.
            let piece = Chunk::copied(&front.bytes()[..count]);
            front.consume(count);
            if front.is_empty() {
                self.pop_front();
            }
            Some(piece)
        };
        self.charge();
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::LEAST_CHARGE;
    use crate::memory::Budget;

    const ID: &str = "0123456789012345678901234567890123456789";

    /// The byte of the stream at this offset.
    fn at(offset: u64) -> u8 {
        (offset % 251) as u8
    }

    /// The bytes from `first` up to `next`, in pieces of these lengths.
    fn chunks(first: u64, next: u64, pieces: &[usize]) -> VecDeque<Chunk> {
        let all: Vec<u8> = (first..next).map(at).collect();
        let (mut rest, mut turn, mut chunks) = (all.as_slice(), 0, VecDeque::new());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(pieces[turn % pieces.len()].min(rest.len()));
            chunks.push_back(Chunk::copied(piece));
            (rest, turn) = (more, turn + 1);
        }
        chunks
    }

    fn remembered(first: u64, next: u64, passed: u64) -> Remembered {
        let position = Position { history: ID.to_owned(), next, passed };
        Remembered::new(position, chunks(first, next, &[7]), Budget::new(0).share("dc2"))
    }

    fn refusal(id: &str, from: u64) -> Option<Refusal> {
        remembered(100, 200, 1000).since(id.as_bytes(), from).err()
    }

    #[test]
    fn only_the_same_history_is_continued_and_only_within_what_is_kept() {
        let other = ID.replace('0', "a");
        assert_eq!(refusal(&other, 150), Some(Refusal::OtherHistory));
        assert_eq!(refusal("?", 150), Some(Refusal::OtherHistory));
        assert_eq!(refusal(&ID[..39], 150), Some(Refusal::OtherHistory));
        assert_eq!(refusal(ID, 99), Some(Refusal::TooOld));
        assert_eq!(refusal(ID, 0), Some(Refusal::TooOld));
        assert_eq!((refusal(ID, 100), refusal(ID, 199), refusal(ID, 200)), (None, None, None));
        assert_eq!(refusal(ID, 201), Some(Refusal::TooNew));
        assert_eq!(refusal(ID, u64::MAX), Some(Refusal::TooNew));
    }

    #[test]
    fn what_passed_before_the_stream_is_no_part_of_it() {
        // A reply and a snapshot came before the sixty bytes of the stream.
        assert_eq!(remembered(100, 200, 60).since(ID.as_bytes(), 139).err(), Some(Refusal::TooOld));
        let mut recall = remembered(100, 200, 60).since(ID.as_bytes(), 140).unwrap();
        assert_eq!((recall.left(), recall.next()), (60, 200));
        assert_eq!(recall.take(1).unwrap().bytes(), [at(140)]);
    }

    #[test]
    fn a_replica_that_has_everything_gets_nothing_from_memory() {
        let mut recall = remembered(100, 200, 1000).since(ID.as_bytes(), 200).unwrap();
        assert_eq!((recall.left(), recall.next(), recall.history()), (0, 200, ID));
        assert!(recall.take(10).is_none());
    }

    #[test]
    fn what_is_remembered_counts_as_held_until_it_is_taken_or_dropped() {
        let budget = Budget::new(1 << 20);
        let chunks =
            || VecDeque::from([Chunk::copied(&[1; 3000]), Chunk::copied(&[2; 4]), Chunk::copied(&[3; 2000])]);
        let all: u64 = chunks().iter().map(Chunk::charge).sum();
        let position = Position { history: ID.to_owned(), next: 5004, passed: u64::MAX };
        let remembered = Remembered::new(position.clone(), chunks(), budget.share("dc2"));
        assert_eq!(budget.used(), all);
        let mut recall = remembered.since(ID.as_bytes(), 3010).unwrap();
        let rest = chunks()[2].charge();
        assert_eq!(budget.used(), rest, "what the replica has is free");
        recall.take(500).unwrap();
        assert_eq!(budget.used(), rest, "the storage is still there");
        recall.take(5000).unwrap();
        assert_eq!(budget.used(), 0);
        let again = Remembered::new(Position { passed: 2004, ..position }, chunks(), budget.share("dc2"));
        assert_eq!(budget.used(), LEAST_CHARGE + rest, "what is no part of the stream is free");
        assert!(again.since(ID.as_bytes(), 1).is_err());
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn a_replica_gets_every_byte_once_from_wherever_it_continues(
            first in 1u64..1000,
            length in 0u64..2000,
            passed in 0u64..3000,
            from in 0u64..3200,
            pieces in proptest::collection::vec(1usize..300, 1..8),
            takes in proptest::collection::vec(1usize..300, 1..8),
        ) {
            let next = first + length;
            let kept = next - length.min(passed);
            let position = Position { history: ID.to_owned(), next, passed };
            let budget = Budget::new(0);
            let remembered = Remembered::new(position, chunks(first, next, &pieces), budget.share("dc2"));
            let recalled = remembered.since(ID.as_bytes(), from);
            prop_assert_eq!(recalled.is_ok(), (kept..=next).contains(&from));
            if let Ok(mut recall) = recalled {
                let (mut got, mut turn) = (Vec::new(), 0);
                while let Some(mut chunk) = recall.take(takes[turn % takes.len()]) {
                    prop_assert!(chunk.len() <= takes[turn % takes.len()]);
                    got.extend_from_slice(chunk.bytes());
                    turn += 1;
                    prop_assert_eq!(got.len() as u64 + recall.left(), next - from);
                    // A frame's header must fit directly before it.
                    prop_assert!(chunk.framed(&[0; 16]).len() > 16);
                    prop_assert!(budget.used() >= recall.left());
                }
                prop_assert_eq!(got, (from..next).map(at).collect::<Vec<u8>>());
            }
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
