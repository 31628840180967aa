//! Converts between a link's streams and the bytes of Redis: finds where the reply to the sync
//! ends, and compresses from there on.
//!
//! If compression was agreed, the acceptor's stream consists of blocks from the offset of ARMED on.
//! The dialler's stream is never compressed.

use super::compress::{PackError, Packed, Packer, Unpacker};
use super::{ProtocolError, Side};
use crate::buffer::Chunk;

/// The codec of one end.
#[derive(Debug)]
pub(super) struct Codec {
    side: Side,
    /// Whether compression was agreed.
    compressed: bool,
    /// Compresses, at an acceptor that is configured to.
    packer: Option<Packer>,
    /// Decompresses, at the dialler.
    unpacking: Option<Unpacking>,
    /// The offset of ARMED in the acceptor's stream.
    armed: Option<u64>,
}

/// Compressed bytes on their way to the local Redis.
#[derive(Debug, Default)]
struct Unpacking {
    unpacker: Unpacker,
    /// The carried bytes that are being decompressed, into at most one chunk of plain bytes at a
    /// time.
    rest: Option<Chunk>,
    /// Number of carried bytes taken so far.
    taken: u64,
    /// What was decompressed so far.
    packed: Packed,
}

impl Codec {
    pub(super) fn new(side: Side, compressed: bool) -> Self {
        let unpacking = (compressed && side == Side::Dialler).then(Unpacking::default);
        Self { side, compressed, packer: None, unpacking, armed: None }
    }

    /// At the acceptor: compresses at this level, if compression was agreed.
    pub(super) fn compress(&mut self, level: i32) {
        if self.compressed && self.side == Side::Acceptor {
            self.packer = Some(Packer::new(level));
        }
    }

    /// The offset of ARMED, once it is known.
    pub(super) fn armed(&self) -> Option<u64> {
        self.armed
    }

    /// Whether bytes that are packed now are compressed.
    pub(super) fn is_packing(&self) -> bool {
        self.packer.is_some() && self.armed.is_some()
    }

    /// What was compressed or decompressed here so far.
    pub(super) fn packed(&self) -> Packed {
        let unpacked = self.unpacking.as_ref().map(|unpacking| unpacking.packed);
        self.packer.as_ref().map(Packer::packed).or(unpacked).unwrap_or_default()
    }

    /// Number of plain bytes that fit into `room` carried bytes, whatever their contents.
    pub(super) fn plain_room(&self, room: u64) -> u64 {
        // A block that does not shrink is slightly larger than its contents.
        if self.packer.is_some() { room.saturating_sub(128) / 16 * 15 } else { room }
    }

    /// This side has seen the end of the sync's reply, at `offset`. True the first time.
    pub(super) fn arm(&mut self, offset: u64) -> bool {
        let first = self.armed.is_none();
        self.armed.get_or_insert(offset);
        first
    }

    /// The far side has declared the end of the sync's reply, at `offset`.
    pub(super) fn on_armed(&mut self, offset: u64) -> Result<(), ProtocolError> {
        let late = self.unpacking.as_ref().is_some_and(|unpacking| unpacking.taken > offset);
        if self.side == Side::Acceptor || self.armed.is_some() || late {
            return Err(ProtocolError::Armed);
        }
        self.armed = Some(offset);
        Ok(())
    }

    /// Passes the local Redis' bytes to `put` in the form in which they are carried, in chunks of
    /// at most `max_payload`.
    pub(super) fn pack(&mut self, chunk: Chunk, max_payload: usize, mut put: impl FnMut(Chunk)) {
        match &mut self.packer {
            Some(packer) if self.armed.is_some() => {
                // Data that does not shrink grows slightly and must still fit into a frame.
                let most = max_payload - max_payload / 128 - 64;
                for piece in chunk.bytes().chunks(most) {
                    packer.pack(piece, &mut put);
                }
            }
            _ if chunk.len() <= max_payload => put(chunk),
            _ => chunk.bytes().chunks(max_payload).for_each(|piece| put(Chunk::copied(piece))),
        }
    }

    /// The next bytes for the local Redis, and the number of carried bytes that they stand for.
    /// `next` returns carried chunks in order.
    pub(super) fn unpack(
        &mut self,
        mut next: impl FnMut() -> Option<Chunk>,
    ) -> Result<Option<(Chunk, u64)>, PackError> {
        let (Some(unpacking), Some(armed)) = (&mut self.unpacking, self.armed) else {
            let Some(chunk) = next() else { return Ok(None) };
            let carried = chunk.len() as u64;
            if let Some(unpacking) = &mut self.unpacking {
                unpacking.taken += carried;
            }
            return Ok(Some((chunk, carried)));
        };
        loop {
            let Some(rest) = unpacking.rest.take().or_else(&mut next) else { return Ok(None) };
            let before = armed.saturating_sub(unpacking.taken);
            if before > 0 {
                // The reply to the sync, and everything before it, is not compressed.
                let count = usize::try_from(before).unwrap_or(usize::MAX).min(rest.len());
                let plain = Chunk::copied(&rest.bytes()[..count]);
                unpacking.took(count, rest);
                return Ok(Some((plain, count as u64)));
            }
            let (count, made) = unpacking.unpacker.step(rest.bytes())?;
            unpacking.took(count, rest);
            if let Some((plain, carried)) = made {
                unpacking.packed.plain += plain.len() as u64;
                unpacking.packed.carried += carried;
                return Ok(Some((plain, carried)));
            }
        }
    }

    /// Whether bytes that were received wait to be unpacked.
    pub(super) fn has_rest(&self) -> bool {
        self.unpacking.as_ref().is_some_and(|unpacking| unpacking.rest.is_some())
    }
}

impl Unpacking {
    /// Removes `count` bytes from the front of `rest`.
    fn took(&mut self, count: usize, mut rest: Chunk) {
        rest.consume(count);
        self.taken += count as u64;
        self.rest = Some(rest).filter(|rest| !rest.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_before_armed_are_carried_as_they_are_and_blocks_after_it() {
        let (mut near, mut far) = (Codec::new(Side::Acceptor, true), Codec::new(Side::Dialler, true));
        near.compress(3);
        let (mut carried, text) = (Vec::new(), "again and again ".repeat(500));
        near.pack(Chunk::copied(b"+FULLRESYNC\r\n"), 1024, |chunk| carried.push(chunk));
        let offset = carried.iter().map(Chunk::len).sum::<usize>() as u64;
        assert!(near.arm(offset) && !near.arm(offset + 1) && near.is_packing());
        near.pack(Chunk::copied(text.as_bytes()), 1024, |chunk| carried.push(chunk));
        let length = carried.iter().map(Chunk::len).sum::<usize>() as u64;
        assert!(length < text.len() as u64 / 4);
        far.on_armed(offset).unwrap();
        let (mut carried, mut plain, mut taken) = (carried.into_iter(), Vec::new(), 0);
        while let Some((chunk, count)) = far.unpack(|| carried.next()).unwrap() {
            plain.extend_from_slice(chunk.bytes());
            taken += count;
        }
        assert_eq!(near.packed(), far.packed());
        assert_eq!(near.packed(), Packed { plain: text.len() as u64, carried: length - offset });
        assert_eq!((plain, taken), ([b"+FULLRESYNC\r\n", text.as_bytes()].concat(), length));
    }

    #[test]
    fn armed_is_sent_once_by_the_acceptor_and_never_late() {
        assert!(Codec::new(Side::Acceptor, false).on_armed(3).is_err());
        let mut codec = Codec::new(Side::Dialler, true);
        let mut chunks = [Chunk::copied(b"12345")].into_iter();
        codec.unpack(|| chunks.next()).unwrap();
        assert!(codec.on_armed(4).is_err(), "it was passed on already");
        assert!(codec.on_armed(5).is_ok() && codec.on_armed(5).is_err());
    }
}
