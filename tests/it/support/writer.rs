//! Writes that continue in the background of a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::random::Random;
use super::redis::{Client, Redis};

/// Number of different keys that are written.
const KEYS: u64 = 5000;

/// Most bytes that are sent before the answers are read.
const BATCH: usize = 256 * 1024;

/// The kind of values, of about 1 KiB each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Values that cannot be compressed.
    Random,
    /// Like those of a session store: the same names with new numbers each time.
    Json,
}

/// Writes steadily until stopped or dropped. It also increments a counter, so that a command
/// that is applied twice makes the data differ.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes about this many bytes a second, in values that cannot be compressed.
    pub fn on(redis: &Redis, bytes_per_second: u64) -> Self {
        Self::with(redis, bytes_per_second, Values::Random)
    }

    pub fn with(redis: &Redis, bytes_per_second: u64, values: Values) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (client, flag, counter) = (redis.client(), Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || write(client, bytes_per_second, values, &flag, &counter));
        Self { stop, count, thread: Some(thread) }
    }

    /// Number of commands that the master has answered.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends the writes and returns how many commands the master has answered.
    #[track_caller]
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("stopped once").join().expect("the master answers");
        self.count()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(mut client: Client, rate: u64, values: Values, stop: &AtomicBool, count: &AtomicU64) {
    let (began, mut sent, mut random) = (Instant::now(), 0, Random::new(0x9e37_79b9_7f4a_7c15));
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as usize;
        if sent >= due {
            std::thread::sleep(Duration::from_millis(5)); // It keeps the rate.
            continue;
        }
        let (mut batch, mut commands) = (Client::encode(&["INCR", "writes"]), 1);
        while sent + batch.len() < due && batch.len() < BATCH {
            let key = format!("written:{}", random.below(KEYS)).into_bytes();
            batch.extend(Client::encode(&[b"SET".to_vec(), key, value(&mut random, values)]));
            commands += 1;
        }
        client.send(&batch);
        for _ in 0..commands {
            client.answer().expect("the master answers");
        }
        sent += batch.len();
        count.fetch_add(commands, Ordering::Relaxed);
    }
}

/// A value of this kind.
fn value(random: &mut Random, values: Values) -> Vec<u8> {
    match values {
        Values::Random => random.words(64..192),
        Values::Json => session(random).into_bytes(),
    }
}

fn session(random: &mut Random) -> String {
    let (user, seen) = (random.below(100_000), random.below(1_000_000));
    let mut text = format!(
        "{{\"user\":{user},\"name\":\"customer {user}\",\"locale\":\"en_GB\",\"seen\":1790{seen:06},\"cart\":["
    );
    for _ in 0..4 + random.below(8) {
        let (article, price) = (random.below(10_000), random.below(100));
        text += &format!(
            "{{\"article\":\"article-{article:05}\",\"count\":1,\"price\":\"{price}.99\",\"currency\":\"EUR\"}},"
        );
    }
    text + "],\"consent\":{\"statistics\":true,\"marketing\":false}}"
}
