//! What a master is given to write: SETs at an even pace, or as fast as it takes them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::place::go_on;
use crate::redis::Redis;

/// A SET with a value of `size` bytes, of one of some keys.
pub fn set(key: u64, size: usize) -> Vec<u8> {
    let head = format!("*3\r\n$3\r\nSET\r\n$8\r\n{key:08}\r\n${size}\r\n");
    [head.as_bytes(), &vec![b'v'; size], b"\r\n"].concat()
}

/// Writes of equal size to one master, and when each was made. What a master writes to its replicas has
/// the form in which it gets it, so an offset tells which of them a replica has.
#[derive(Debug)]
pub struct Writes {
    /// The master's offset before the first; until it is known, more than any offset.
    begin: AtomicU64,
    /// Bytes of each.
    size: u64,
    epoch: Instant,
    /// Microseconds from `epoch`.
    made: Vec<AtomicU64>,
}

impl Writes {
    pub fn new(count: usize, size: u64) -> Arc<Self> {
        let made = (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { begin: AtomicU64::new(u64::MAX), size, epoch: Instant::now(), made })
    }

    pub fn begin_at(&self, offset: u64) {
        self.begin.store(offset, Ordering::Release);
    }

    pub fn total(&self) -> u64 {
        self.size * self.made.len() as u64
    }

    /// The master's offset after the last.
    pub fn end(&self) -> u64 {
        self.begin.load(Ordering::Acquire) + self.total()
    }

    /// Bytes that a replica at this offset has.
    pub fn bytes_at(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.begin.load(Ordering::Acquire))
    }

    /// How many of them a replica at this offset has.
    pub fn count_at(&self, offset: u64) -> usize {
        usize::try_from(self.bytes_at(offset) / self.size).unwrap_or(usize::MAX).min(self.made.len())
    }

    /// Says that one is being made now.
    fn make(&self, number: usize) {
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.made[number].store(now, Ordering::Release);
    }

    pub fn age(&self, number: usize) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_micros(self.made[number].load(Ordering::Acquire)))
    }
}

/// Makes the writes of some masters, all of them at each tick. `each_second` is called about once a
/// second.
pub fn at_even_pace(
    masters: &mut [(&mut Redis, Arc<Writes>)],
    tick: Duration,
    sets: &[u8],
    count: usize,
    mut each_second: impl FnMut(),
) -> Result<()> {
    let rounds = masters.iter().map(|(_, writes)| writes.made.len()).max().unwrap_or(0);
    let begin = Instant::now();
    let mut answers = vec![0; count * "+OK\r\n".len()];
    let mut second = begin;
    for (number, ticks) in (0..rounds).zip(1_u32..) {
        go_on()?;
        for (redis, writes) in &mut *masters {
            writes.make(number);
            redis.client.write(sets)?;
        }
        for (redis, _) in &mut *masters {
            redis.client.skip(&mut answers)?;
            ensure!(answers.starts_with(b"+OK\r\n"), "SET was refused");
        }
        if second.elapsed() > Duration::from_secs(1) {
            second = Instant::now();
            each_second();
        }
        std::thread::sleep((begin + tick * ticks).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Makes the only one of these writes: the SETs of `sets`, `count` of them, `times` times, as fast as the
/// master takes them.
pub fn at_full_speed(
    master: SocketAddr,
    writes: &Arc<Writes>,
    sets: Vec<u8>,
    count: usize,
    times: usize,
) -> JoinHandle<Result<()>> {
    writes.make(0);
    pour(master, sets, count, times)
}

/// Writes `sets`, `count` SETs, `times` times, and reads the answers at the same time.
pub fn pour(master: SocketAddr, sets: Vec<u8>, count: usize, times: usize) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let mut socket = TcpStream::connect(master)?;
        let mut answers = socket.try_clone()?;
        let writer = std::thread::spawn(move || -> std::io::Result<()> {
            (0..times).try_for_each(|_| socket.write_all(&sets))
        });
        let mut left = count * times * "+OK\r\n".len();
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let read = answers.read(&mut buffer)?;
            ensure!(read > 0, "the master closed the writer's connection");
            ensure!(!buffer[..read].contains(&b'-'), "SET was refused");
            left = left.saturating_sub(read);
        }
        Ok(writer.join().expect("the writer does not panic")?)
    })
}
