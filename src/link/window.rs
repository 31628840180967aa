//! The sending half of a link: chunks in order, kept until acknowledged.
//!
//! A chunk is offered with its offset, sent once over some lane, and dropped when
//! the far side has acknowledged all of it. What is unacknowledged never exceeds
//! the window. Pure: no I/O, no clock.

use std::collections::VecDeque;

use super::frame;
use crate::buffer::Chunk;

/// An acknowledgement that cannot be: the lane it came on must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// Above what was sent.
    #[error("acknowledges offset {0}, which was never sent")]
    BeyondSent(u64),
    /// Below an earlier acknowledgement.
    #[error("takes back an acknowledgement, to offset {0}")]
    TakenBack(u64),
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    chunk: Chunk,
}

/// What was read from the local Redis and not yet acknowledged.
#[derive(Debug)]
pub struct Window {
    segments: VecDeque<Segment>,
    /// Segments at the front of the queue that were sent.
    sent_segments: usize,
    acknowledged: u64,
    sent: u64,
    offered: u64,
    limit: u64,
}

impl Window {
    /// A window of at most `limit` unacknowledged bytes.
    pub fn new(limit: u64) -> Self {
        Self { segments: VecDeque::new(), sent_segments: 0, acknowledged: 0, sent: 0, offered: 0, limit }
    }

    /// Bytes that may still be offered.
    pub fn room(&self) -> u64 {
        self.limit.saturating_sub(self.offered - self.acknowledged)
    }

    /// Bytes offered and not yet sent.
    pub fn unsent(&self) -> u64 {
        self.offered - self.sent
    }

    /// The offset after the last offered byte.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// The offset below which everything is acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Takes the next bytes of the stream.
    pub fn offer(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        let offset = self.offered;
        self.offered += chunk.len() as u64;
        self.segments.push_back(Segment { offset, chunk });
    }

    /// The next unsent chunk as a DATA frame, which counts as sent from now on.
    pub fn send_next(&mut self) -> Option<&[u8]> {
        let segment = self.segments.get_mut(self.sent_segments)?;
        self.sent_segments += 1;
        let length = segment.chunk.len();
        self.sent = segment.offset + length as u64;
        Some(segment.chunk.framed(&frame::data_header(segment.offset, length)))
    }

    /// The far side has written everything below `offset`.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), AckError> {
        if offset > self.sent {
            return Err(AckError::BeyondSent(offset));
        }
        if offset < self.acknowledged {
            return Err(AckError::TakenBack(offset));
        }
        self.acknowledged = offset;
        while let Some(front) = self.segments.front() {
            if front.offset + front.chunk.len() as u64 > offset {
                break;
            }
            self.segments.pop_front();
            self.sent_segments -= 1;
        }
        Ok(())
    }

    /// Drops everything; nothing more may be offered.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.sent_segments = 0;
        self.sent = self.offered;
        self.limit = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Window {
        let mut window = Window::new(100);
        window.offer(Chunk::copied(&[1; 40]));
        window.offer(Chunk::copied(&[2; 40]));
        window
    }

    #[test]
    fn what_is_unacknowledged_never_exceeds_the_window() {
        let mut window = filled();
        assert_eq!(window.room(), 20);
        assert!(window.send_next().is_some());
        window.acknowledge(30).unwrap();
        assert_eq!(window.room(), 50);
    }

    #[test]
    fn a_chunk_goes_out_once_with_its_offset() {
        let mut window = filled();
        assert_eq!(window.send_next().unwrap()[..16], frame::data_header(0, 40));
        assert_eq!(window.send_next().unwrap()[..16], frame::data_header(40, 40));
        assert!(window.send_next().is_none());
        assert_eq!(window.unsent(), 0);
        window.offer(Chunk::copied(&[3; 5]));
        assert_eq!(window.unsent(), 5);
        assert_eq!(window.send_next().unwrap()[..16], frame::data_header(80, 5));
    }

    #[test]
    fn an_acknowledgement_in_the_middle_of_a_chunk_keeps_it() {
        let mut window = filled();
        window.send_next();
        window.send_next();
        window.acknowledge(41).unwrap();
        assert_eq!(window.segments.len(), 1);
        window.acknowledge(80).unwrap();
        assert!(window.segments.is_empty());
    }

    #[test]
    fn impossible_acknowledgements_are_refused() {
        let mut window = filled();
        window.send_next();
        assert_eq!(window.acknowledge(41), Err(AckError::BeyondSent(41)));
        window.acknowledge(40).unwrap();
        assert_eq!(window.acknowledge(39), Err(AckError::TakenBack(39)));
    }
}
