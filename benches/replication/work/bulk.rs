//! Bulk data through a plain tunnel, from the master's site to the replica's, over one connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, Measure, Row, Sample, Work, less, more, of_tunnel};
use crate::cpu::Watch;
use crate::options::Scale;
use crate::peers::{Carries, Kind, Master, Subject};

pub const ROW: Row = Row {
    key: "bulk",
    title,
    measures: MEASURES,
    takes: |subject| !subject.compresses() && !matches!(subject.kind, Kind::RedisTls),
    prepare,
};

const MEASURES: &[Measure] = &[less("cpu", "CPU-s/GB", 2), more("speed", "GB/s", 2)];

fn title(scale: &Scale) -> String {
    format!("{} GB through a plain tunnel", bytes(scale) as f64 / 1e9)
}

/// Twice the data of a full sync: this is much faster.
fn bytes(scale: &Scale) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let bytes = (scale.gigabytes * 2e9) as u64;
    bytes
}

fn prepare(bench: &Bench) -> Result<Box<dyn Work>> {
    Ok(Box::new(Bulk { server: serve(bytes(&bench.scale))? }))
}

struct Bulk {
    server: SocketAddr,
}

impl Work for Bulk {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        let way = subject.start(&bench.place, Master { plain: self.server, tls: None }, Carries::Anything)?;
        let mut buffer = vec![0; 1 << 20];
        let watch = Watch::start(&way, &[]);
        let mut socket = TcpStream::connect(way.entry)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        // The server waits for this.
        socket.write_all(b"?\n")?;
        let mut total = 0;
        loop {
            match socket.read(&mut buffer).context("the transfer continues")? {
                0 => break,
                count => total += count as u64,
            }
        }
        let spent = watch.stop();
        ensure!(
            total == bytes(&bench.scale),
            "{total} bytes arrived: {}",
            String::from_utf8_lossy(&buffer[..60])
        );
        let gigabytes = total as f64 / 1e9;
        let values = vec![of_tunnel(subject, spent.pair / gigabytes), Some(gigabytes / spent.seconds())];
        Ok(Sample::new(spent, values))
    }
}

/// A server that sends `size` bytes to each client that has sent a line, and then closes.
fn serve(size: u64) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || send(socket, size));
        }
    });
    Ok(address)
}

/// Sends everything, unless the client closes before. The client counts what has arrived.
fn send(mut socket: TcpStream, size: u64) -> std::io::Result<()> {
    socket.read_exact(&mut [0; 2])?;
    let block = vec![b'x'; 1 << 20];
    let mut left = size;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        socket.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}
