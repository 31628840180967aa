//! The sending half of a link: chunks in order, kept until acknowledged.
//!
//! A chunk is offered, gets its offset, is sent over some lane, and is dropped when the far side
//! has acknowledged all of it. Each chunk records which lanes carry it. A chunk that no lane
//! carries any more and that the far side lacks is sent again, the oldest first. What is sent and
//! not acknowledged never exceeds the window. More than the window may be offered: it waits, in
//! chunks that are as large as possible. The cost of an acknowledgement depends only on what it
//! frees, and the cost of a lost lane on what it carried, however much waits. No I/O and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::kept::Kept;
use crate::buffer::{Chunk, charge};
use crate::wire::frame;

/// Size in bytes up to which short writes that wait to be sent share one chunk.
const GATHER: usize = 32 * 1024;

/// Number of unsent bytes above which all writes share chunks, of the largest size: data that waits
/// for long should take no more memory than its bytes.
const DEEP: u64 = 1024 * 1024;

/// Bit used in place of a lane: the far side is known to have the chunk.
const ARRIVED: u32 = 1 << 31;

/// The far side acknowledges offsets that it cannot have. The link must be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an acknowledgement of offset {0}, which was never sent")]
pub struct NeverSent(u64);

#[derive(Debug)]
struct Segment {
    offset: u64,
    chunk: Chunk,
    /// The slots of the lanes that carry it, as bits.
    lanes: u32,
}

impl Segment {
    fn end(&self) -> u64 {
        self.offset + self.chunk.len() as u64
    }

    /// What it counts for in the window.
    fn weight(&self) -> u64 {
        charge(self.chunk.len())
    }

    /// The memory that it takes, in bytes.
    fn storage(&self) -> u64 {
        self.chunk.charge()
    }

    fn frame(&mut self, slot: u8) -> &[u8] {
        self.lanes |= 1 << slot;
        let length = self.chunk.len();
        self.chunk.framed(&frame::data_header(self.offset, length))
    }
}

/// A chunk that a lane carries, and since when.
#[derive(Clone, Copy, Debug)]
struct Carried {
    offset: u64,
    end: u64,
    since: Instant,
    /// Number of bytes that were sent on the lane so far, with this chunk.
    sent: u64,
}

/// What one lane carries.
#[derive(Debug, Default)]
struct Load {
    /// The chunks in the order in which they were sent. Chunks that have arrived since may still be
    /// listed, but not as the first.
    chunks: VecDeque<Carried>,
    /// Number of bytes that were sent on the lane so far.
    sent: u64,
}

/// What was read from the local Redis and not yet acknowledged.
#[derive(Debug)]
pub struct Window {
    segments: VecDeque<Segment>,
    /// What came before them and may be asked for again.
    kept: Kept,
    /// Number of segments at the front of the queue that were sent at least once.
    sent_segments: usize,
    /// Sent segments that the far side lacks and that no lane carries, or none that is not late:
    /// offset and length.
    again: BTreeMap<u64, u64>,
    /// Number of bytes in these segments.
    to_resend: u64,
    /// What the lane in each slot carries.
    carried: Vec<Load>,
    acknowledged: u64,
    /// The far side has received everything below this offset, but has perhaps not written it.
    arrived: u64,
    sent: u64,
    offered: u64,
    /// What all segments, and those that were sent, count for in the window.
    weight: u64,
    sent_weight: u64,
    /// Memory that all segments take, in bytes.
    storage: u64,
    resent: u64,
    /// The chunk that was copied last.
    copied: Option<u64>,
    limit: u64,
    max_payload: usize,
}

impl Window {
    /// A window of at most `limit` unacknowledged bytes, in frames of at most `max_payload`, which
    /// are not larger than the window.
    pub fn new(limit: u64, max_payload: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            kept: Kept::default(),
            sent_segments: 0,
            again: BTreeMap::new(),
            to_resend: 0,
            carried: Vec::new(),
            acknowledged: 0,
            arrived: 0,
            sent: 0,
            offered: 0,
            weight: 0,
            sent_weight: 0,
            storage: 0,
            resent: 0,
            copied: None,
            limit,
            max_payload,
        }
    }

    /// Number of bytes that may still be offered and sent without an acknowledgement.
    pub fn room(&self) -> u64 {
        self.limit.saturating_sub(self.weight)
    }

    /// Number of bytes offered and never sent.
    pub fn unsent(&self) -> u64 {
        self.offered - self.sent
    }

    /// The offset after the last byte that was ever sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The offset after the last offered byte.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// The offset below which everything is acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Number of bytes that were sent more than once so far.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Memory that its chunks take, in bytes.
    pub fn storage(&self) -> u64 {
        self.storage
    }

    /// Whether at least half of the window waits for acknowledgement.
    pub fn is_half_full(&self) -> bool {
        self.sent - self.acknowledged > self.limit / 2
    }

    /// Number of bytes that wait to be sent again.
    pub fn to_resend(&self) -> u64 {
        self.to_resend
    }

    /// Frames have at most `most` bytes from now on.
    pub fn limit_payload(&mut self, most: usize) {
        self.max_payload = most;
    }

    /// Takes the next bytes of the stream, at most as many as a frame may have.
    pub fn offer(&mut self, mut chunk: Chunk) {
        let deep = self.unsent() > DEEP && chunk.len() < self.max_payload;
        self.offer_to_last(&mut chunk, deep);
        if chunk.is_empty() {
            return;
        }
        if deep {
            // Data that shares a chunk is copied once, to the front of its storage.
            let mut shared = Chunk::for_payload(self.max_payload);
            shared.append(chunk.bytes());
            chunk = shared;
        }
        let segment = Segment { offset: self.offered, chunk, lanes: 0 };
        self.offered = segment.end();
        self.weight += segment.weight();
        self.storage += segment.storage();
        self.segments.push_back(segment);
    }

    /// Moves bytes from `chunk` to the last segment, if that was not sent yet and has room: a short
    /// write as a whole, or with `deep` as much as fits.
    fn offer_to_last(&mut self, chunk: &mut Chunk, deep: bool) {
        if self.segments.len() == self.sent_segments {
            return;
        }
        let Some(last) = self.segments.back_mut() else { return };
        self.weight -= last.weight();
        self.storage -= last.storage();
        let (before, length) = (last.chunk.len(), chunk.len());
        if before + length <= GATHER.min(self.max_payload) {
            last.chunk.gather(chunk.bytes());
        } else if deep {
            let fits = length.min(self.max_payload.saturating_sub(before));
            last.chunk.append(&chunk.bytes()[..fits]);
        }
        let taken = last.chunk.len() - before;
        chunk.consume(taken);
        self.offered += taken as u64;
        self.weight += last.weight();
        self.storage += last.storage();
    }

    /// The next chunk for the lane in `slot` as a DATA frame, which that lane then carries. Chunks
    /// that must be sent again come first, then new ones, as far as the window allows.
    pub fn send_next(&mut self, slot: u8, now: Instant) -> Option<&[u8]> {
        while let Some((offset, length)) = self.again.pop_first() {
            self.to_resend -= length;
            let at = self.find(offset).expect("what is to be sent again is not acknowledged");
            if self.segments[at].lanes & 1 << slot == 0 {
                self.resent += length;
                return Some(self.send(at, slot, now));
            }
        }
        let at = self.sent_segments;
        let next = self.segments.get(at).filter(|next| self.sent_weight + next.weight() <= self.limit)?;
        self.sent = next.end();
        self.sent_weight += next.weight();
        self.sent_segments += 1;
        Some(self.send(at, slot, now))
    }

    /// Since when the lane in `slot` carries the oldest chunk that has not arrived.
    pub fn carried_since(&self, slot: u8) -> Option<Instant> {
        self.chunks(slot).next().map(|carried| carried.since)
    }

    /// Another lane is in `slot` now.
    pub fn enter(&mut self, slot: u8) {
        if let Some(load) = self.carried.get_mut(usize::from(slot)) {
            *load = Load::default();
        }
    }

    /// The lane in `slot` is late. Chunks that only lanes in `late`, as bits, carry are sent again
    /// over others: the oldest ones, of about `most` bytes.
    pub fn doubt(&mut self, slot: u8, late: u32, most: u64) {
        let mut doubted = 0;
        let index = usize::from(slot);
        let chunks = self.carried.get(index).map_or(0, |load| load.chunks.len());
        for number in 0..chunks {
            if doubted >= most {
                return;
            }
            let Carried { offset, end, .. } = self.carried[index].chunks[number];
            let Some(at) = self.find(offset) else { continue };
            let waits = self.segments[at].lanes & !late == 0 && end > self.arrived;
            if waits && self.again.insert(offset, end - offset).is_none() {
                self.to_resend += end - offset;
                doubted += end - offset;
            }
        }
    }

    /// The lane in `slot` is not late any more. What it carries and was not sent again yet need not
    /// be.
    pub fn trust(&mut self, slot: u8) {
        if let Some(load) = self.carried.get(usize::from(slot)) {
            for carried in &load.chunks {
                self.to_resend -= self.again.remove(&carried.offset).unwrap_or(0);
            }
        }
    }

    /// The far side has received the first `count` bytes of what was sent on the lane in `slot`.
    /// Returns when the last whole chunk of it was sent, if it was not known to have arrived.
    pub fn note_carried(&mut self, slot: u8, count: u64) -> Result<Option<Instant>, NeverSent> {
        let Some(load) = self.carried.get_mut(usize::from(slot)) else {
            return if count == 0 { Ok(None) } else { Err(NeverSent(count)) };
        };
        if count > load.sent {
            return Err(NeverSent(count));
        }
        let mut since = None;
        while let Some(load) = self.carried.get_mut(usize::from(slot))
            && load.chunks.front().is_some_and(|carried| carried.sent <= count)
            && let Some(carried) = load.chunks.pop_front()
        {
            since = Some(carried.since);
            self.mark_arrived(carried.offset, slot);
        }
        Ok(since)
    }

    /// When the last chunk before `offset` was sent that the lane in `slot` carries, before any
    /// chunk that is not.
    pub fn sent_before(&self, slot: u8, offset: u64) -> Option<Instant> {
        self.chunks(slot).take_while(|carried| carried.end <= offset).last().map(|carried| carried.since)
    }

    /// A copy of the oldest chunk that the far side lacks, made once, unless the lane in `slot`
    /// carries it already.
    pub fn copy_oldest(&mut self, slot: u8, now: Instant) -> Option<&[u8]> {
        let arrived = self.arrived.max(self.acknowledged);
        let at = self.segments.partition_point(|segment| segment.end() <= arrived);
        let segment = self.segments.get(at).filter(|_| at < self.sent_segments)?;
        let (offset, length) = (segment.offset, segment.chunk.len() as u64);
        if segment.lanes & (1 << slot | ARRIVED) != 0 || self.copied == Some(offset) {
            return None;
        }
        self.copied = Some(offset);
        self.resent += length;
        if self.again.remove(&offset).is_some() {
            self.to_resend -= length;
        }
        Some(self.send(at, slot, now))
    }

    /// The lane in `slot` is lost. Chunks that only it carried are sent again.
    pub fn lose(&mut self, slot: u8) {
        for Carried { offset, .. } in self.leave(slot) {
            let Some(at) = self.find(offset) else { continue };
            let segment = &mut self.segments[at];
            segment.lanes &= !(1 << slot);
            let length = segment.chunk.len() as u64;
            if segment.lanes == 0
                && segment.end() > self.arrived
                && self.again.insert(offset, length).is_none()
            {
                self.to_resend += length;
            }
        }
    }

    /// The lane in `slot` is retired, and everything that it carried has arrived.
    pub fn settle(&mut self, slot: u8) {
        for carried in self.leave(slot) {
            self.mark_arrived(carried.offset, slot);
        }
    }

    /// The far side has written everything below `offset`. An earlier acknowledgement may come
    /// later, over another lane.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), NeverSent> {
        if offset > self.sent {
            return Err(NeverSent(offset));
        }
        self.acknowledged = self.acknowledged.max(offset);
        while self.segments.front().is_some_and(|front| front.end() <= self.acknowledged)
            && let Some(front) = self.segments.pop_front()
        {
            self.weight -= front.weight();
            self.sent_weight -= front.weight();
            self.storage -= front.storage();
            self.sent_segments -= 1;
            self.kept.push(front.end(), front.chunk);
        }
        self.forget(self.acknowledged);
        Ok(())
    }

    /// The far side has received everything below `offset`, which is not sent again.
    pub fn note_arrived(&mut self, offset: u64) -> Result<(), NeverSent> {
        if offset > self.sent {
            return Err(NeverSent(offset));
        }
        self.arrived = self.arrived.max(offset);
        self.forget(self.arrived);
        Ok(())
    }

    /// Keeps the `last` bytes that were offered after they are acknowledged, as far as `most` bytes of
    /// memory suffice; with `None`, nothing.
    pub fn keep(&mut self, last: Option<u64>, most: u64) {
        self.kept.keep(last.map(|last| self.offered.saturating_sub(last)), most);
    }

    /// Whether acknowledged bytes are kept.
    pub fn is_keeping(&self) -> bool {
        self.kept.is_keeping()
    }

    /// Memory charged for acknowledged chunks that are kept, in bytes.
    pub fn kept(&self) -> u64 {
        self.kept.charged()
    }

    /// Returns everything that is kept or not yet acknowledged: the last bytes that were offered.
    /// [`Window::clear`] must follow.
    pub fn leave_behind(&mut self) -> VecDeque<Chunk> {
        let mut chunks = self.kept.take();
        chunks.extend(self.segments.drain(..).map(|segment| segment.chunk));
        chunks
    }

    /// Drops everything; nothing more may be offered.
    pub fn clear(&mut self) {
        self.kept.take();
        self.segments.clear();
        self.again.clear();
        self.carried.iter_mut().for_each(|load| load.chunks.clear());
        self.to_resend = 0;
        self.sent_segments = 0;
        self.sent = self.offered;
        (self.weight, self.sent_weight, self.storage) = (0, 0, 0);
        self.limit = 0;
    }

    /// Asserts that the counters match the contents.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let sent = self.segments.range(..self.sent_segments);
        let sum = |weight: fn(&Segment) -> u64| self.segments.iter().map(weight).sum::<u64>();
        assert_eq!((sum(Segment::weight), sum(Segment::storage)), (self.weight, self.storage));
        assert_eq!(sent.clone().map(Segment::weight).sum::<u64>(), self.sent_weight);
        assert!(
            self.sent_weight <= self.limit && self.sent - self.acknowledged <= self.limit || self.limit == 0
        );
        let waits = |segment: &&Segment| segment.lanes == 0 && segment.end() > self.arrived;
        let again: BTreeMap<u64, u64> =
            sent.clone().filter(waits).map(|segment| (segment.offset, segment.chunk.len() as u64)).collect();
        assert!(again.iter().all(|(offset, length)| self.again.get(offset) == Some(length)));
        assert_eq!(self.again.values().sum::<u64>(), self.to_resend);
        for offset in self.again.keys() {
            let segment = &self.segments[self.find(*offset).expect("it is not acknowledged")];
            assert!(segment.lanes & ARRIVED == 0 && segment.end() > self.arrived);
        }
        for segment in sent.filter(|segment| segment.lanes & ARRIVED == 0 && segment.end() > self.arrived) {
            for (slot, load) in self.carried.iter().enumerate() {
                let listed = load.chunks.iter().filter(|carried| carried.offset == segment.offset).count();
                assert_eq!(listed, usize::from(segment.lanes & 1 << slot != 0), "once on each lane");
            }
        }
    }

    fn chunks(&self, slot: u8) -> impl Iterator<Item = &Carried> {
        self.carried.get(usize::from(slot)).into_iter().flat_map(|load| &load.chunks)
    }

    fn find(&self, offset: u64) -> Option<usize> {
        let at = self.segments.partition_point(|segment| segment.offset < offset);
        self.segments.get(at).filter(|segment| segment.offset == offset).map(|_| at)
    }

    /// The segment at `at` as a frame on the lane in `slot`.
    fn send(&mut self, at: usize, slot: u8, now: Instant) -> &[u8] {
        let index = usize::from(slot);
        if self.carried.len() <= index {
            self.carried.resize_with(index + 1, Load::default);
        }
        let segment = &mut self.segments[at];
        let load = &mut self.carried[index];
        load.sent += segment.chunk.len() as u64;
        let (offset, end) = (segment.offset, segment.end());
        load.chunks.push_back(Carried { offset, end, since: now, sent: load.sent });
        segment.frame(slot)
    }

    /// What the lane in `slot` carried, some of which may have arrived.
    fn leave(&mut self, slot: u8) -> VecDeque<Carried> {
        self.carried
            .get_mut(usize::from(slot))
            .map(|load| std::mem::take(&mut load.chunks))
            .unwrap_or_default()
    }

    /// The lane in `slot` has delivered the chunk at `offset`.
    fn mark_arrived(&mut self, offset: u64, slot: u8) {
        if let Some(at) = self.find(offset) {
            let segment = &mut self.segments[at];
            segment.lanes = segment.lanes & !(1 << slot) | ARRIVED;
            if let Some(length) = self.again.remove(&offset) {
                self.to_resend -= length;
            }
        }
    }

    /// Nothing that ends at or below `offset` is sent again.
    fn forget(&mut self, offset: u64) {
        for load in &mut self.carried {
            while load.chunks.front().is_some_and(|carried| carried.end <= offset) {
                load.chunks.pop_front();
            }
        }
        while let Some(entry) = self.again.first_entry()
            && entry.key() + entry.get() <= offset
        {
            self.to_resend -= entry.remove();
        }
    }
}

#[cfg(test)]
mod tests;
