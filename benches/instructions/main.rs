//! Counts the instructions that the hot path spends on one piece of the stream.
//!
//! Unlike CPU time, the counts are the same on a busy machine. Each part runs in a process of its
//! own under valgrind's cachegrind, once with a number of pieces and once with twice as many. The
//! difference is the cost of the pieces alone, without the start of the process. Valgrind does not
//! know AVX-512, so ciphers take the path for AVX2.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use replgate::internal::buffer::Chunk;
use replgate::internal::config::TlsFiles;
use replgate::internal::link::{Link, Side};
use replgate::internal::redis::at_replica::AtReplica;
use replgate::internal::redis::introduction::Introduction;
use replgate::internal::redis::observer::Observer;
use replgate::internal::redis::replication::Observed;
use replgate::internal::tap::{Driver, Flow, Tap};
use replgate::internal::tls::material::Material;
use replgate::internal::tls::record::{Records, sealed_length};
use replgate::internal::wire::frame::{Decoder, Item, data_header};
use replgate::internal::wire::terms::Terms;

/// Bytes of a piece.
const SIZES: [usize; 3] = [100, 1024, 16 * 1024];

/// Bytes of the shorter run, and its least and most pieces: so many that the start of a process,
/// which is not always the same, does not matter.
const BYTES: usize = 16 << 20;
const PIECES: (usize, usize) = (1000, 20_000);

const PARTS: [(&str, &str); 5] = [
    ("frame", "decode a DATA frame"),
    ("tap", "show the tap a piece of the stream"),
    ("link", "offer a piece, send it, put it in order, acknowledge it"),
    ("seal", "seal a piece and open it"),
    ("all", "tap, link, seal, open, decode and link again"),
];

/// Counts instructions of the hot path.
#[derive(Debug, Parser)]
struct Options {
    /// Runs one part in this process.
    #[arg(long, hide = true)]
    part: Option<String>,
    #[arg(long, hide = true, default_value_t = 0)]
    size: usize,
    #[arg(long, hide = true, default_value_t = 0)]
    pieces: usize,
    /// Folder with the certificates.
    #[arg(long, hide = true)]
    certs: Option<std::path::PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let (Some(part), Some(certs)) = (&options.part, &options.certs) {
        return run(part, certs, options.size, options.pieces);
    }
    let dir = tempfile::tempdir()?;
    let made = Command::new(env!("CARGO_BIN_EXE_replgate"))
        .args(["certs", "init", "dc1", "dc2"])
        .current_dir(dir.path())
        .output()?;
    if !made.status.success() {
        bail!("replgate certs: {}", String::from_utf8_lossy(&made.stderr));
    }
    let certs = dir.path().join("certs");
    println!("{:<62}{:>12}{:>12}{:>12}", "instructions for a piece of", "100 B", "1 KiB", "16 KiB");
    for (part, words) in PARTS {
        let counts = SIZES.map(|size| count(part, size, &certs));
        let [small, middle, large] = counts;
        println!("{part:<6}{words:<56}{:>12}{:>12}{:>12}", small?, middle?, large?);
    }
    Ok(())
}

/// Instructions for one piece.
fn count(part: &str, size: usize, certs: &Path) -> Result<u64> {
    let run = |pieces: usize| -> Result<u64> {
        let output = Command::new("valgrind")
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["--part", part, "--size", &size.to_string(), "--pieces", &pieces.to_string(), "--certs"])
            .arg(certs)
            .output()
            .context("valgrind runs (Debian's package valgrind)")?;
        let report = String::from_utf8_lossy(&output.stderr);
        let refs = report.lines().find_map(|line| line.split_once("I   refs:")).map(|(_, count)| count);
        let refs = refs.with_context(|| format!("valgrind counts: {report}"))?;
        Ok(refs.trim().replace(',', "").parse()?)
    };
    let pieces = (BYTES / size).clamp(PIECES.0, PIECES.1);
    Ok(run(2 * pieces)?.saturating_sub(run(pieces)?) / pieces as u64)
}

fn run(part: &str, certs: &Path, size: usize, pieces: usize) -> Result<()> {
    let bytes = vec![b'x'; size];
    let mut path = Parts::new(certs)?;
    for _ in 0..pieces {
        match part {
            "frame" => path.decode(&bytes),
            "tap" => path.tap(&bytes),
            "link" => path.link(&bytes),
            "seal" => path.seal(&bytes),
            _ => path.all(&bytes),
        }
    }
    Ok(())
}

/// Both ends of a link, in one process and without sockets.
struct Parts {
    tap: AtReplica,
    driver: Driver,
    master: Link,
    replica: Link,
    decoders: [Decoder; 2],
    sealer: Records,
    opener: Records,
    sealed: Vec<u8>,
    offset: u64,
    now: Instant,
}

impl Parts {
    fn new(certs: &Path) -> Result<Self> {
        let material = |site: &str| {
            Material::load(&TlsFiles::in_folder(&certs.join(site)), site)
                .map_err(|faults| anyhow::anyhow!(faults.join("; ")))
        };
        let (near, far) = (material("dc1")?, material("dc2")?);
        let dial = far.client("dc1")?;
        let mut opener = Records::client(dial.config, dial.name)?;
        let mut sealer = Records::server(near.server()?)?;
        shake(&mut opener, &mut sealer)?;
        let terms = Terms {
            window: 64 << 20,
            max_frame: 512 * 1024,
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            hold: Duration::from_secs(45),
            lanes: 1,
            compression: 0,
            reports: true,
            lists: false,
        };
        let agreed = terms.agree(&terms, false);
        let now = Instant::now();
        let observer = Observer::new(Observed::new(std::sync::Arc::default()));
        let mut tap = AtReplica::new(Introduction::new(None, Vec::new()), observer, Box::new(|_| {}));
        // From here on the stream passes.
        let id = "0".repeat(40);
        tap.look(Flow::ToMaster, b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n", now);
        for said in [format!("+FULLRESYNC {id} 0\r\n"), "$5\r\n".to_owned(), "REDIS".to_owned()] {
            tap.look(Flow::ToReplica, said.as_bytes(), now);
        }
        Ok(Self {
            tap,
            driver: Driver::default(),
            master: Link::new(Side::Acceptor, &agreed, now),
            replica: Link::new(Side::Dialler, &agreed, now),
            decoders: [Decoder::default(), Decoder::default()],
            sealer,
            opener,
            sealed: vec![0; sealed_length(64 * 1024)],
            offset: 0,
            now,
        })
    }

    fn decode(&mut self, bytes: &[u8]) {
        let frame = [&data_header(self.offset, bytes.len())[..], bytes].concat();
        self.offset += bytes.len() as u64;
        decode(&mut self.decoders[0], &frame, |item| {
            black_box(item);
        });
    }

    fn tap(&mut self, bytes: &[u8]) {
        let chunk = Chunk::copied(bytes);
        let length = bytes.len() as u64;
        black_box(self.driver.through(&mut self.tap, Flow::ToReplica, chunk, length, self.now));
    }

    fn link(&mut self, bytes: &[u8]) {
        self.master.offer(Chunk::copied(bytes));
        let mut frames = Vec::new();
        while self.master.poll_transmit(0, self.now, &mut |frame| frames.extend_from_slice(frame)) {}
        self.receive(&frames);
    }

    /// The replica's end takes frames, writes all data and acknowledges it.
    fn receive(&mut self, frames: &[u8]) {
        let now = self.now;
        let Self { decoders: [to_replica, to_master], master, replica, .. } = self;
        decode(to_replica, frames, |item| replica.handle(0, item, now));
        while let Some((chunk, carried)) = replica.take() {
            black_box(chunk.bytes());
            replica.wrote(carried, now);
        }
        // The acknowledgement is due by now.
        self.now += Duration::from_millis(200);
        let mut frames = Vec::new();
        while replica.poll_transmit(0, self.now, &mut |frame| frames.extend_from_slice(frame)) {}
        decode(to_master, &frames, |item| master.handle(0, item, self.now));
    }

    fn seal(&mut self, bytes: &[u8]) {
        let opened = self.through_tls(bytes);
        assert_eq!(opened.len(), bytes.len());
    }

    fn through_tls(&mut self, bytes: &[u8]) -> Vec<u8> {
        let used = self.sealer.seal(bytes, &mut self.sealed, 0).expect("it is sealed");
        self.opener.spare()[..used].copy_from_slice(&self.sealed[..used]);
        self.opener.filled(used);
        let mut opened = Vec::with_capacity(bytes.len());
        let mut answer = Vec::new();
        self.opener.open(&mut answer, &mut |plain| opened.extend_from_slice(plain)).expect("it is opened");
        opened
    }

    fn all(&mut self, bytes: &[u8]) {
        self.tap(bytes);
        self.master.offer(Chunk::copied(bytes));
        let mut frames = Vec::new();
        while self.master.poll_transmit(0, self.now, &mut |frame| frames.extend_from_slice(frame)) {}
        let opened = self.through_tls(&frames);
        self.receive(&opened);
    }
}

fn decode(decoder: &mut Decoder, mut input: &[u8], mut sink: impl FnMut(Item<'_>)) {
    while let Some(item) = decoder.next(&mut input).expect("it is a frame") {
        sink(item);
    }
}

/// Completes the handshake of both ends, with what follows it.
fn shake(client: &mut Records, server: &mut Records) -> Result<()> {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let give = |end: &mut Records, bytes: &mut Vec<u8>| {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let spare = end.opening_spare();
            let count = rest.len().min(spare.len());
            spare[..count].copy_from_slice(&rest[..count]);
            end.filled(count);
            rest = &rest[count..];
        }
        bytes.clear();
    };
    for _ in 0..10 {
        let done = client.handshake(&mut to_server)?;
        give(server, &mut to_server);
        if server.handshake(&mut to_client)? && done {
            give(client, &mut to_client);
            client.open(&mut to_server, &mut |_| {})?;
            return Ok(());
        }
        give(client, &mut to_client);
    }
    bail!("the handshake does not end")
}
