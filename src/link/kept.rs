//! Chunks that the far side has acknowledged and that its replica may still ask for again.
//!
//! They are the bytes before the window, without a gap. They are moved here, not copied, and only as
//! long as somebody may need them.

use std::collections::VecDeque;

use crate::buffer::Chunk;

/// Most memory in bytes for one link, however much there is. A replica acknowledges once a second, and
/// at a hundred megabytes a second what is kept until then falls out of the processor's caches: the
/// stream cost a quarter more CPU time. A replica that has lost its gateway still reads what its socket
/// has, so it seldom lacks more than that.
const MOST: u64 = 16 * 1024 * 1024;

/// Acknowledged chunks, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Each with the offset after its last byte.
    chunks: VecDeque<(u64, Chunk)>,
    /// The offset from which bytes are kept; `None` if none are.
    from: Option<u64>,
    charged: u64,
}

impl Kept {
    /// Keeps what comes from this offset on, in at most `most` bytes of memory; with `None`, nothing.
    pub(super) fn keep(&mut self, from: Option<u64>, most: u64) {
        self.from = from;
        while let Some((end, chunk)) = self.chunks.front() {
            if from.is_some_and(|from| *end > from) && self.charged <= most.min(MOST) {
                break;
            }
            self.charged -= chunk.charge();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }

    /// Takes the next chunk, which ends at `end`.
    pub(super) fn push(&mut self, end: u64, chunk: Chunk) {
        if self.from.is_some_and(|from| end > from) {
            self.charged += chunk.charge();
            self.chunks.push_back((end, chunk));
        }
    }

    /// Whether anything is to be kept.
    pub(super) fn is_keeping(&self) -> bool {
        self.from.is_some()
    }

    /// Memory charged, in bytes.
    pub(super) fn charged(&self) -> u64 {
        self.charged
    }

    /// Returns all chunks, the oldest first, and keeps nothing more.
    pub(super) fn take(&mut self) -> VecDeque<Chunk> {
        let Self { chunks, .. } = std::mem::take(self);
        chunks.into_iter().map(|(_, chunk)| chunk).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::LEAST_CHARGE;

    fn filled() -> Kept {
        let mut kept = Kept::default();
        kept.keep(Some(0), u64::MAX);
        for at in 0..4u8 {
            kept.push(u64::from(at + 1) * 10, Chunk::copied(&[at; 10]));
        }
        kept
    }

    fn bytes(mut kept: Kept) -> Vec<u8> {
        kept.take().iter().flat_map(|chunk| chunk.bytes().to_vec()).collect()
    }

    #[test]
    fn nothing_is_kept_before_it_may_be_asked_for() {
        let mut kept = Kept::default();
        kept.push(10, Chunk::copied(&[1; 10]));
        assert_eq!((kept.charged(), kept.is_keeping()), (0, false));
        kept.keep(Some(15), u64::MAX);
        kept.push(15, Chunk::copied(&[2; 5]));
        kept.push(16, Chunk::copied(&[3; 1]));
        assert_eq!(bytes(kept), [3]);
    }

    #[test]
    fn what_is_acknowledged_by_the_replica_goes_and_the_chunk_with_the_next_byte_stays() {
        let mut kept = filled();
        kept.keep(Some(10), u64::MAX);
        assert_eq!(kept.charged(), 3 * LEAST_CHARGE);
        kept.keep(Some(29), u64::MAX);
        assert_eq!(bytes(kept), [[2; 10], [3; 10]].concat());
    }

    #[test]
    fn a_link_keeps_no_more_than_its_most_however_much_memory_there_is() {
        let mut kept = Kept::default();
        kept.keep(Some(0), u64::MAX);
        let length = crate::buffer::PAYLOAD;
        for end in 1..=40 {
            kept.push(end * length as u64, Chunk::copied(&vec![1; length]));
            kept.keep(Some(0), u64::MAX);
        }
        let left = kept.take().len() * length;
        assert!(left as u64 > MOST / 2 && left as u64 <= MOST, "{left}");
    }

    #[test]
    fn the_oldest_go_first_when_there_is_too_little_memory_and_all_go_when_none_may_stay() {
        let mut kept = filled();
        kept.keep(Some(0), 2 * LEAST_CHARGE);
        assert_eq!((kept.charged(), kept.is_keeping()), (2 * LEAST_CHARGE, true));
        let mut none = filled();
        none.keep(None, u64::MAX);
        assert_eq!((none.charged(), none.is_keeping()), (0, false));
        assert_eq!(bytes(kept), [[2; 10], [3; 10]].concat());
    }
}
