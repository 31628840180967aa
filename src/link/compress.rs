//! Compression of a link's stream, in blocks.
//!
//! A block is a header of eight bytes (kind, plain length in three bytes, carried length in four)
//! and its contents: plain bytes as they are, or the next piece of one zstd frame that lasts as
//! long as the stream. Stored blocks do not enter zstd's context. Data that does not shrink is
//! stored without running zstd over it, apart from a probe now and then. No I/O and no clock.

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::buffer::{Chunk, PAYLOAD};

/// Most plain bytes in one block.
pub const MAX_PLAIN: usize = 256 * 1024;

/// Most bytes that one block carries: zstd's bound for [`MAX_PLAIN`].
pub const MAX_CARRIED: usize = MAX_PLAIN + MAX_PLAIN / 256;

/// Bytes of a block's header.
pub const HEADER: usize = 8;

/// Largest window of the context, as a power of two: the memory that a decoder reserves for each
/// stream.
pub const WINDOW_LOG: u32 = 21;

/// A chunk always has room for a block, compressed or stored.
const _: () = assert!(HEADER + MAX_CARRIED <= PAYLOAD);

const STORED: u8 = 0;
const ZSTD: u8 = 1;

/// Length in bytes below which a write does not count for the verdict: most of its carried bytes
/// are zstd's own header.
const TINY: usize = 64;

/// Number of plain bytes after which the benefit of compression is judged.
const JUDGED: u64 = 16 * 1024;

/// Size of the compressed data, in hundredths of the plain data, above which compression is not
/// worth its time.
const WORTH: u64 = 94;

/// The largest block of a probe.
const PROBE: usize = 32 * 1024;

/// Number of plain bytes stored after the first bad verdict. It doubles with each probe that
/// confirms the verdict.
const STRETCH: u64 = 512 * 1024;

/// Most plain bytes stored between two probes.
const MAX_STRETCH: u64 = 16 * 1024 * 1024;

/// Size in bytes of a chunk that several blocks may share.
const LEAST_ROOM: usize = 4096;

/// Blocks that break the rules: the link must be aborted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The kind is neither stored nor zstd.
    #[error("a block of the unknown kind {0}")]
    Kind(u8),
    /// The block is empty, too long, or stored with two different lengths.
    #[error("a block with impossible lengths, {plain} plain and {carried} carried")]
    Lengths {
        /// The plain length in the header.
        plain: usize,
        /// The carried length in the header.
        carried: usize,
    },
    /// zstd cannot decode the block, or would need a larger window.
    #[error("a block that cannot be decompressed: {0}")]
    Corrupt(String),
    /// The block has fewer plain bytes than its header states.
    #[error("a block of {got} bytes, where its header says {stated}")]
    Short {
        /// The number in the header.
        stated: usize,
        /// The actual number.
        got: usize,
    },
    /// The block has more plain bytes than its header states.
    #[error("a block of more than the {0} bytes that its header says")]
    Long(usize),
    /// Carried bytes are left over after decoding.
    #[error("a block with {0} bytes left over")]
    LeftOver(usize),
    /// The block ends the zstd frame, which must last as long as the stream.
    #[error("a block that ends the compressed stream")]
    Ended,
}

/// Bytes of a stream in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// As Redis sends or receives them.
    pub plain: u64,
    /// As they are carried.
    pub carried: u64,
}

/// How the next bytes are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are compressed.
    Compress,
    /// They are stored, for this many bytes.
    Store(u64),
    /// They are compressed in small blocks, until it is clear whether compression is worth it
    /// again.
    Probe,
}

/// The sending half: plain bytes become blocks.
pub struct Packer {
    level: i32,
    encoder: Option<Encoder<'static>>,
    mode: Mode,
    /// Length of the next stretch of stored bytes.
    stretch: u64,
    /// Plain and carried bytes of zstd's blocks since the last verdict.
    judged: (u64, u64),
    plain: u64,
    carried: u64,
}

/// Shows only counts: a payload never reaches a log.
impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { level, mode, plain, carried, .. } = self;
        write!(f, "Packer(level {level}, {mode:?}, {plain} plain, {carried} carried)")
    }
}

impl Packer {
    /// A packer for one stream. zstd's context is made with the first block that needs it.
    pub fn new(level: i32) -> Self {
        Self {
            level,
            encoder: None,
            mode: Mode::Compress,
            stretch: STRETCH,
            judged: (0, 0),
            plain: 0,
            carried: 0,
        }
    }

    /// Passes `plain` to `put` as chunks of one block each, flushed: the far side can decode all of
    /// it without further data.
    pub fn pack(&mut self, plain: &[u8], put: &mut dyn FnMut(Chunk)) {
        let mut rest = plain;
        while !rest.is_empty() {
            let most = match self.mode {
                Mode::Compress => MAX_PLAIN,
                Mode::Store(left) => usize::try_from(left).unwrap_or(MAX_PLAIN).min(MAX_PLAIN),
                Mode::Probe => PROBE,
            };
            let (block, after) = rest.split_at(most.min(rest.len()));
            rest = after;
            let chunk = match self.mode {
                Mode::Store(left) => {
                    let left = left - block.len() as u64;
                    self.mode = if left == 0 { Mode::Probe } else { Mode::Store(left) };
                    store(block)
                }
                Mode::Compress | Mode::Probe => self.compress(block),
            };
            self.plain += block.len() as u64;
            self.carried += chunk.len() as u64;
            put(chunk);
        }
    }

    /// Bytes packed so far, with the blocks' headers.
    pub fn packed(&self) -> Packed {
        Packed { plain: self.plain, carried: self.carried }
    }

    /// Makes one compressed block. It is sent even if it grew: the context has changed by it.
    fn compress(&mut self, block: &[u8]) -> Chunk {
        let level = self.level;
        let encoder = self.encoder.get_or_insert_with(|| encoder(level));
        let mut chunk = Chunk::pooled();
        let spare = &mut chunk.spare()[HEADER..];
        let mut input = InBuffer::around(block);
        let mut output = OutBuffer::around(spare);
        while input.pos() < block.len() {
            encoder.run(&mut input, &mut output).expect("zstd fails only for want of memory");
        }
        while encoder.flush(&mut output).expect("zstd fails only for want of memory") > 0 {}
        let carried = output.pos();
        debug_assert!(carried <= MAX_CARRIED);
        chunk.append(&header(ZSTD, block.len(), carried));
        chunk.filled(carried);
        self.judge(block.len(), carried);
        chunk.settled()
    }

    fn judge(&mut self, plain: usize, carried: usize) {
        if plain < TINY {
            return;
        }
        self.judged.0 += plain as u64;
        self.judged.1 += carried as u64;
        let (plain, carried) = self.judged;
        if plain < JUDGED {
            return;
        }
        self.judged = (0, 0);
        if carried * 100 <= plain * WORTH {
            self.mode = Mode::Compress;
            self.stretch = STRETCH;
        } else {
            self.mode = Mode::Store(self.stretch);
            self.stretch = (self.stretch * 2).min(MAX_STRETCH);
        }
    }
}

fn encoder(level: i32) -> Encoder<'static> {
    // The window that zstd would choose, but never more than the far side accepts.
    let window = match level {
        ..=1 => 19,
        2 => 20,
        _ => WINDOW_LOG,
    };
    let mut encoder = Encoder::new(level).expect("zstd takes any level");
    encoder.set_parameter(CParameter::WindowLog(window)).expect("zstd takes windows of 1 KiB to 2 GiB");
    encoder
}

fn store(block: &[u8]) -> Chunk {
    let mut chunk = Chunk::exact(HEADER + block.len());
    chunk.append(&header(STORED, block.len(), block.len()));
    chunk.append(block);
    chunk
}

fn header(kind: u8, plain: usize, carried: usize) -> [u8; HEADER] {
    let [_, high, middle, low] =
        u32::try_from(plain).expect("a block has at most 256 KiB plain").to_be_bytes();
    let [a, b, c, d] = u32::try_from(carried).expect("and carries little more").to_be_bytes();
    [kind, high, middle, low, a, b, c, d]
}

/// The kind of the next carried bytes.
#[derive(Debug)]
enum Place {
    /// A header, of which this many bytes have been received.
    Header([u8; HEADER], usize),
    /// A stored block, of which this many bytes are still missing.
    Stored(usize),
    /// A compressed block.
    Packed { plain: usize, carried: usize },
}

/// The receiving half: carried bytes, cut anywhere, become plain bytes again.
pub struct Unpacker {
    decoder: Option<Decoder<'static>>,
    place: Place,
    /// The received part of a compressed block that is not complete.
    part: Option<Chunk>,
}

/// Shows only lengths: a payload never reaches a log.
impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = match &self.place {
            Place::Header(_, _) => "a header",
            Place::Stored(_) => "a stored block",
            Place::Packed { .. } => "a zstd block",
        };
        write!(f, "Unpacker(in {at}, {} bytes held)", self.held())
    }
}

impl Default for Unpacker {
    fn default() -> Self {
        Self { decoder: None, place: Place::Header([0; HEADER], 0), part: None }
    }
}

impl Unpacker {
    /// Bytes held of an incomplete block, its header included.
    pub fn held(&self) -> usize {
        match &self.place {
            Place::Header(_, have) => *have,
            Place::Stored(_) => HEADER,
            Place::Packed { .. } => HEADER + self.part.as_ref().map_or(0, Chunk::len),
        }
    }

    /// Takes bytes from `carried` until one chunk is full. Returns the number of bytes taken, the
    /// plain bytes, and the number of carried bytes that these stand for. The bytes of a block's
    /// header are counted with the block's last plain byte. Must not be called after an error.
    pub fn step(&mut self, carried: &[u8]) -> Result<(usize, Option<(Chunk, u64)>), PackError> {
        let mut rest = carried;
        let mut out: Option<Chunk> = None;
        let mut count = 0;
        while !rest.is_empty() {
            match &mut self.place {
                Place::Header(bytes, have) => {
                    let (news, after) = rest.split_at(rest.len().min(HEADER - *have));
                    bytes[*have..*have + news.len()].copy_from_slice(news);
                    *have += news.len();
                    rest = after;
                    if *have == HEADER {
                        self.place = judge(*bytes)?;
                    }
                }
                Place::Stored(left) => {
                    let out = out.get_or_insert_with(|| room(1, rest.len()));
                    let taken = out.append(&rest[..rest.len().min(*left)]);
                    if taken == 0 {
                        break;
                    }
                    rest = &rest[taken..];
                    count += taken as u64;
                    *left -= taken;
                    if *left == 0 {
                        count += HEADER as u64;
                        self.place = Place::Header([0; HEADER], 0);
                    }
                }
                Place::Packed { plain, carried } => {
                    let (plain, carried) = (*plain, *carried);
                    let missing = carried - self.part.as_ref().map_or(0, Chunk::len);
                    if rest.len() < missing {
                        self.part.get_or_insert_with(|| Chunk::for_payload(carried)).append(rest);
                        rest = &[];
                        break;
                    }
                    if out.as_mut().is_some_and(|out| out.spare().len() < plain) {
                        break;
                    }
                    let (end, after) = rest.split_at(missing);
                    let whole = self.part.take().map(|mut part| {
                        part.append(end);
                        part
                    });
                    let out = out.get_or_insert_with(|| room(plain, after.len()));
                    let decoder = match &mut self.decoder {
                        Some(decoder) => decoder,
                        none => none.insert(decoder()?),
                    };
                    decode(decoder, whole.as_ref().map_or(end, Chunk::bytes), &mut out.spare()[..plain])?;
                    out.filled(plain);
                    rest = after;
                    count += (HEADER + carried) as u64;
                    self.place = Place::Header([0; HEADER], 0);
                }
            }
        }
        Ok((carried.len() - rest.len(), out.map(|out| (out.settled(), count))))
    }
}

/// The block that a header announces, if it is valid.
fn judge(header: [u8; HEADER]) -> Result<Place, PackError> {
    let [kind, high, middle, low, a, b, c, d] = header;
    let length = |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
    let (plain, carried) = (length([0, high, middle, low]), length([a, b, c, d]));
    let (place, fits) = match kind {
        STORED => (Place::Stored(plain), carried == plain),
        ZSTD => (Place::Packed { plain, carried }, (1..=MAX_CARRIED).contains(&carried)),
        other => return Err(PackError::Kind(other)),
    };
    if fits && (1..=MAX_PLAIN).contains(&plain) {
        Ok(place)
    } else {
        Err(PackError::Lengths { plain, carried })
    }
}

/// A chunk for at least `plain` bytes, and for more if `more` carried bytes follow.
fn room(plain: usize, more: usize) -> Chunk {
    match more {
        0 => Chunk::for_payload(plain),
        more => Chunk::for_payload(plain.max(more).max(LEAST_ROOM)),
    }
}

fn decoder() -> Result<Decoder<'static>, PackError> {
    let corrupt = |error: std::io::Error| PackError::Corrupt(error.to_string());
    let mut decoder = Decoder::new().map_err(corrupt)?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(corrupt)?;
    Ok(decoder)
}

/// Decodes one block into `plain`, which it must fill exactly. zstd stops when `plain` is full,
/// however much the block would expand to.
fn decode(decoder: &mut Decoder<'static>, carried: &[u8], plain: &mut [u8]) -> Result<(), PackError> {
    let mut input = InBuffer::around(carried);
    let mut run = |plain: &mut [u8]| {
        let mut output = OutBuffer::around(plain);
        // zstd returns zero only at the end of a frame.
        match decoder.run(&mut input, &mut output) {
            Ok(0) => Err(PackError::Ended),
            Ok(_) => Ok((output.pos(), carried.len() - input.pos())),
            Err(error) => Err(PackError::Corrupt(error.to_string())),
        }
    };
    let mut got = 0;
    loop {
        let (news, left) = run(&mut plain[got..])?;
        got += news;
        if got == plain.len() {
            break;
        }
        if news == 0 || left == 0 {
            return Err(PackError::Short { stated: plain.len(), got });
        }
    }
    // Nothing may be left, here or in the context.
    match run(&mut [0])? {
        (0, 0) => Ok(()),
        (0, left) => Err(PackError::LeftOver(left)),
        _ => Err(PackError::Long(plain.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `put` all that `carried` stands for.
    fn unpack_all(
        unpacker: &mut Unpacker,
        carried: &[u8],
        put: &mut dyn FnMut(Chunk, u64),
    ) -> Result<(), PackError> {
        let mut rest = carried;
        while !rest.is_empty() {
            let (taken, given) = unpacker.step(rest)?;
            rest = &rest[taken..];
            if let Some((chunk, count)) = given {
                put(chunk, count);
            }
        }
        Ok(())
    }
    use proptest::prelude::*;

    /// Bytes that nothing shrinks.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    /// Commands as a master sends them.
    fn commands(length: usize, seed: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for at in seed.. {
            let value = format!("{{\"session\":{},\"user\":\"u{}\",\"seen\":true}}", at * 7919, at % 97);
            out.extend(
                format!("*3\r\n$3\r\nSET\r\n$8\r\nkey:{:04}\r\n${}\r\n{value}\r\n", at % 9999, value.len())
                    .bytes(),
            );
            if out.len() >= length {
                break;
            }
        }
        out.truncate(length);
        out
    }

    fn pack(packer: &mut Packer, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        packer.pack(plain, &mut |chunk| out.extend_from_slice(chunk.bytes()));
        out
    }

    fn unpack(unpacker: &mut Unpacker, carried: &[u8]) -> Result<(Vec<u8>, u64), PackError> {
        let (mut out, mut sum) = (Vec::new(), 0);
        unpack_all(unpacker, carried, &mut |chunk, count| {
            assert!(!chunk.is_empty());
            out.extend_from_slice(chunk.bytes());
            sum += count;
        })?;
        Ok((out, sum))
    }

    /// One block of zstd's, whatever it holds.
    fn block(plain: usize, carried: &[u8]) -> Vec<u8> {
        [&header(ZSTD, plain, carried.len())[..], carried].concat()
    }

    /// The start of a frame with a window of 2 to the power of `log`.
    fn frame(log: u8) -> Vec<u8> {
        vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3]
    }

    /// `count` times 128 KiB of one byte, in four carried bytes each.
    fn runs(count: usize) -> Vec<u8> {
        [2, 0, 0x10, b'x'].repeat(count)
    }

    /// `(kind, plain)` of each block.
    fn blocks(mut carried: &[u8]) -> Vec<(u8, usize)> {
        let mut out = Vec::new();
        while let Some((header, rest)) = carried.split_first_chunk::<HEADER>() {
            let [kind, a, b, c, lengths @ ..] = *header;
            out.push((kind, u32::from_be_bytes([0, a, b, c]) as usize));
            carried = &rest[u32::from_be_bytes(lengths) as usize..];
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_cut_of_any_data_gives_the_identical_bytes(
            writes in proptest::collection::vec((any::<bool>(), prop_oneof![1usize..200, 1usize..400_000], any::<u32>()), 1..12),
            cuts in proptest::collection::vec(prop_oneof![1usize..40, 1usize..300_000], 1..8),
            level in 1i32..4,
        ) {
            let mut packer = Packer::new(level);
            let (mut plain, mut carried) = (Vec::new(), Vec::new());
            for (shrinks, length, seed) in writes {
                let make = if shrinks { commands } else { noise };
                let write = make(length, u64::from(seed));
                packer.pack(&write, &mut |chunk| {
                    assert_eq!(blocks(chunk.bytes()).len(), 1);
                    carried.extend_from_slice(chunk.bytes());
                });
                plain.extend(write);
            }
            prop_assert_eq!((packer.packed().plain, packer.packed().carried), (plain.len() as u64, carried.len() as u64));
            let mut unpacker = Unpacker::default();
            let (mut out, mut sum, mut rest) = (Vec::new(), 0, &carried[..]);
            for cut in cuts.into_iter().cycle() {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                let (news, count) = unpack(&mut unpacker, piece).unwrap();
                out.extend(news);
                sum += count;
                rest = after;
                let taken = (carried.len() - rest.len()) as u64;
                prop_assert!(sum <= taken && taken - sum <= unpacker.held() as u64);
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(out == plain);
            prop_assert_eq!((sum, unpacker.held()), (carried.len() as u64, 0));
        }

        #[test]
        fn garbage_is_refused_or_waited_for_and_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in 0u8..3,
            plain in 0usize..5000,
        ) {
            let _ = unpack(&mut Unpacker::default(), &bytes);
            let mut unpacker = Unpacker::default();
            let _ = unpack(&mut unpacker, &[&header(kind, plain, bytes.len())[..], &bytes].concat());
            let _ = unpack(&mut Unpacker::default(), &block(plain, &[&frame(WINDOW_LOG as u8)[..], &bytes].concat()));
        }

        #[test]
        fn a_broken_or_shortened_block_never_gives_more_than_it_states(
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
        ) {
            let plain = commands(20_000, 7);
            let good = pack(&mut Packer::new(1), &plain);
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 1 << bit;
            let mut unpacker = Unpacker::default();
            if let Ok((out, _)) = unpack(&mut unpacker, &bad) {
                prop_assert!(out.len() <= MAX_PLAIN);
            }
            let carried = &good[HEADER..][..cut.index(good.len() - HEADER)];
            prop_assert!(carried.is_empty() || unpack(&mut Unpacker::default(), &block(plain.len(), carried)).is_err());
        }
    }

    #[test]
    fn every_write_can_be_read_at_once() {
        let (mut packer, mut unpacker) = (Packer::new(1), Unpacker::default());
        for write in
            [&b"x"[..], b"*1\r\n$4\r\nPING\r\n", &commands(3000, 1), &noise(100, 1), &commands(600_000, 5)]
        {
            let carried = pack(&mut packer, write);
            assert_eq!(unpack(&mut unpacker, &carried).unwrap(), (write.to_vec(), carried.len() as u64));
        }
    }

    #[test]
    fn small_writes_share_what_came_before_them() {
        let mut packer = Packer::new(1);
        let plain = commands(200_000, 3);
        plain.chunks(200).for_each(|write| drop(pack(&mut packer, write)));
        assert!(packer.packed().carried * 2 < packer.packed().plain, "{packer:?}");
    }

    #[test]
    fn data_that_does_not_shrink_costs_almost_nothing() {
        let mut packer = Packer::new(1);
        let mut carried = Vec::new();
        for seed in 0..64 {
            carried.extend(pack(&mut packer, &noise(1 << 20, seed + 1)));
        }
        assert!(packer.packed().carried * 1000 <= packer.packed().plain * 1001, "{packer:?}");
        let (mut seen, mut tried) = (0, 0);
        for (kind, plain) in blocks(&carried) {
            seen += plain;
            if kind == ZSTD && seen > 1 << 20 {
                tried += plain;
                assert!(plain <= PROBE);
            }
        }
        assert!(tried * 100 < seen && tried > 0, "{tried} of {seen} tried after the first MiB");
    }

    #[test]
    fn data_that_shrinks_again_is_compressed_again() {
        let mut packer = Packer::new(1);
        pack(&mut packer, &noise(1 << 20, 1));
        pack(&mut packer, &commands(4 << 20, 1));
        let carried = pack(&mut packer, &commands(1 << 20, 1));
        assert!(carried.len() * 3 < 1 << 20, "{packer:?}");
        assert!(blocks(&carried).iter().all(|(kind, _)| *kind == ZSTD));
    }

    #[test]
    fn tiny_writes_are_not_judged() {
        let mut packer = Packer::new(1);
        noise(100_000, 1).chunks(TINY - 1).for_each(|write| drop(pack(&mut packer, write)));
        assert_eq!(packer.mode, Mode::Compress);
        noise(100_000, 2).chunks(TINY).for_each(|write| drop(pack(&mut packer, write)));
        assert!(matches!(packer.mode, Mode::Store(_)));
    }

    #[test]
    fn an_idle_stream_has_no_context() {
        let (mut packer, mut unpacker) = (Packer::new(1), Unpacker::default());
        assert!(packer.encoder.is_none());
        packer.mode = Mode::Store(10);
        let carried = pack(&mut packer, b"0123456789");
        assert_eq!(unpack(&mut unpacker, &carried).unwrap().0, b"0123456789");
        assert!(packer.encoder.is_none() && unpacker.decoder.is_none());
    }

    #[test]
    fn stored_bytes_do_not_wait_for_the_end_of_their_block() {
        let mut unpacker = Unpacker::default();
        let first = [&header(STORED, 100, 100)[..], &[7; 60]].concat();
        assert_eq!(unpack(&mut unpacker, &first).unwrap(), (vec![7; 60], 60));
        assert_eq!(unpack(&mut unpacker, &[8; 40]).unwrap(), (vec![8; 40], 48));
    }

    #[test]
    fn a_step_gives_one_chunk_however_far_its_bytes_expand() {
        let mut carried = Vec::new();
        let mut packer = Packer::new(1);
        (0..40).for_each(|_| carried.extend(pack(&mut packer, &[b'x'; MAX_PLAIN])));
        let (mut unpacker, mut rest) = (Unpacker::default(), &carried[..]);
        let (mut steps, mut sum) = (0, 0);
        while !rest.is_empty() {
            let (taken, given) = unpacker.step(rest).unwrap();
            let (chunk, count) = given.unwrap();
            assert_eq!(chunk.len(), MAX_PLAIN);
            rest = &rest[taken..];
            steps += 1;
            sum += count;
        }
        assert_eq!((steps, sum), (40, carried.len() as u64));
    }

    #[test]
    fn a_bomb_is_refused_before_it_expands() {
        let bomb = [frame(21), runs(MAX_CARRIED / 4 - 2)].concat();
        for stated in [1, 1000, MAX_PLAIN] {
            let mut unpacker = Unpacker::default();
            for piece in block(stated, &bomb).chunks(10_000) {
                match unpack(&mut unpacker, piece) {
                    Ok((out, count)) => assert_eq!((out.len(), count), (0, 0)),
                    Err(error) => assert_eq!(error, PackError::Long(stated)),
                }
                assert!(unpacker.held() <= HEADER + MAX_CARRIED);
            }
            assert_eq!(unpack(&mut Unpacker::default(), &block(stated, &bomb)), Err(PackError::Long(stated)));
        }
        // As much as is stated, and a little more.
        let more = [frame(21), runs(2), vec![8, 0, 0, b'y']].concat();
        assert_eq!(
            unpack(&mut Unpacker::default(), &block(MAX_PLAIN, &more)),
            Err(PackError::Long(MAX_PLAIN))
        );
        let right = [frame(21), runs(2)].concat();
        assert_eq!(unpack(&mut Unpacker::default(), &block(MAX_PLAIN, &right)).unwrap().0.len(), MAX_PLAIN);
    }

    #[test]
    fn a_larger_window_is_refused() {
        let hello = [0x28, 0, 0, b'h', b'e', b'l', b'l', b'o'];
        let with = |log| unpack(&mut Unpacker::default(), &block(5, &[&frame(log)[..], &hello].concat()));
        assert_eq!(with(21).unwrap().0, b"hello");
        assert!(matches!(with(22), Err(PackError::Corrupt(_))));
        assert!(matches!(with(27), Err(PackError::Corrupt(_))));
    }

    #[test]
    fn every_level_stays_within_the_window() {
        for level in [1, 2, 3, 10, 19] {
            let carried = pack(&mut Packer::new(level), &commands(1000, 1));
            assert!(10 + (carried[HEADER + 5] >> 3) <= WINDOW_LOG as u8);
            assert_eq!(unpack(&mut Unpacker::default(), &carried).unwrap().0.len(), 1000, "{level}");
        }
    }

    #[test]
    fn a_block_gives_exactly_what_it_states() {
        let good = pack(&mut Packer::new(1), b"hello");
        let carried = &good[HEADER..];
        let states = |plain| unpack(&mut Unpacker::default(), &block(plain, carried)).map(|(out, _)| out);
        assert_eq!(states(5).unwrap(), b"hello");
        assert_eq!(states(4), Err(PackError::Long(4)));
        assert_eq!(states(6), Err(PackError::Short { stated: 6, got: 5 }));
        let ended = [frame(21), vec![0x29, 0, 0], b"hello".to_vec()].concat();
        assert_eq!(unpack(&mut Unpacker::default(), &block(5, &ended)), Err(PackError::Ended));
    }

    #[test]
    fn impossible_lengths_are_refused_with_the_header() {
        assert_eq!(MAX_CARRIED, zstd::zstd_safe::compress_bound(MAX_PLAIN));
        for (kind, plain, carried) in [
            (STORED, 0, 0),
            (STORED, 5, 6),
            (STORED, MAX_PLAIN + 1, MAX_PLAIN + 1),
            (ZSTD, 0, 9),
            (ZSTD, 9, 0),
            (ZSTD, MAX_PLAIN + 1, 9),
            (ZSTD, 9, MAX_CARRIED + 1),
        ] {
            assert_eq!(
                unpack(&mut Unpacker::default(), &header(kind, plain, carried)),
                Err(PackError::Lengths { plain, carried })
            );
        }
        assert_eq!(unpack(&mut Unpacker::default(), &header(2, 1, 1)), Err(PackError::Kind(2)));
    }

    #[test]
    fn what_waits_for_its_acknowledgement_takes_what_it_needs() {
        let mut chunks = Vec::new();
        let mut packer = Packer::new(1);
        packer.pack(&commands(30_000, 1), &mut |chunk| chunks.push(chunk));
        packer.mode = Mode::Store(u64::MAX);
        packer.pack(&noise(100_000, 1), &mut |chunk| chunks.push(chunk));
        for mut chunk in chunks {
            assert!(chunk.spare().is_empty(), "{chunk:?}");
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let mut unpacker = Unpacker::default();
        let carried = pack(&mut Packer::new(1), b"secret");
        unpack(&mut unpacker, &carried[..HEADER + 3]).unwrap();
        assert_eq!(format!("{unpacker:?}"), "Unpacker(in a zstd block, 11 bytes held)");
    }
}
