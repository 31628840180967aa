//! Many light replicas of real masters. They read their streams, acknowledge once a second, and tell how
//! late each write arrives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::time::{Instant, MissedTickBehavior};

use crate::fakes::{self, Link};
use crate::peers::Carries;
use crate::place::wait_for;
use crate::redis::Redis;
use crate::writes::Writes;

/// How long a write may take to arrive everywhere.
const PATIENCE: Duration = Duration::from_secs(120);

/// All replicas, on a thread of their own. They leave when this is dropped.
#[derive(Debug)]
pub struct Readers {
    links: Vec<Arc<Reader>>,
    _runtime: Runtime,
}

/// What one replica has read.
#[derive(Debug)]
struct Reader {
    writes: Arc<Writes>,
    offset: AtomicU64,
    /// Of each write, in seconds.
    delays: Mutex<Vec<f64>>,
    /// Microseconds of the longest time without a byte, from the first write to the last.
    pause: AtomicU64,
    /// Why it has ended.
    ended: Mutex<Option<String>>,
}

/// Delays in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// The median link's median.
    pub usual: f64,
    /// The median link's 99th percentile.
    pub late: f64,
    /// The greatest 99th percentile of a link.
    pub slowest: f64,
}

impl Readers {
    /// Opens a link at each of these addresses, to a master that gets these writes.
    pub fn open(links: &[(SocketAddr, Arc<Writes>)]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let entries: Vec<SocketAddr> = links.iter().map(|(entry, _)| *entry).collect();
        let opened = runtime.block_on(fakes::open(&entries, Carries::Replication))?;
        let mut readers = Vec::new();
        for (number, (link, (_, writes))) in opened.into_iter().zip(links).enumerate() {
            let reader = Arc::new(Reader {
                writes: Arc::clone(writes),
                offset: AtomicU64::new(link.offset),
                delays: Mutex::default(),
                pause: AtomicU64::new(0),
                ended: Mutex::default(),
            });
            readers.push(Arc::clone(&reader));
            let later = Duration::from_secs(1) * u32::try_from(number)? / u32::try_from(entries.len())?;
            runtime.spawn(async move {
                let error = reader.read(link, later).await.expect_err("it reads as long as it can");
                *reader.ended.lock().expect("nothing panics") = Some(format!("{error:#}"));
            });
        }
        Ok(Self { links: readers, _runtime: runtime })
    }

    /// Lets a master's stream flow to all its replicas, and takes its offset for the one before the first
    /// write.
    pub fn begin(&self, master: &mut Redis, writes: &Arc<Writes>) -> Result<()> {
        let answer = master.client.ask("SET flows yes")?;
        ensure!(answer == "OK", "SET: {answer}");
        let offset = master.number("replication", "master_repl_offset")?;
        self.wait_for_offset(writes, offset)?;
        writes.begin_at(offset);
        Ok(())
    }

    /// Waits until every replica has all writes, and fails if the master has written anything else.
    pub fn wait_for_end(&self, master: &mut Redis, writes: &Arc<Writes>) -> Result<()> {
        self.wait_for_offset(writes, writes.end())?;
        let offset = master.number("replication", "master_repl_offset")?;
        ensure!(offset == writes.end(), "the master is at {offset}, not at {}", writes.end());
        Ok(())
    }

    fn wait_for_offset(&self, writes: &Arc<Writes>, offset: u64) -> Result<()> {
        let links = || self.links.iter().filter(|link| Arc::ptr_eq(&link.writes, writes));
        wait_for("every replica has caught up", PATIENCE, || {
            self.check()?;
            let furthest = links().map(|link| link.offset.load(Ordering::Relaxed)).max().unwrap_or(0);
            ensure!(furthest <= offset, "a replica is at {furthest}, beyond {offset}");
            Ok(links().all(|link| link.offset.load(Ordering::Relaxed) == offset).then_some(()))
        })
    }

    /// Fails if a replica has lost its link.
    pub fn check(&self) -> Result<()> {
        for link in &self.links {
            if let Some(why) = &*link.ended.lock().expect("nothing panics") {
                bail!("a replica has lost its link: {why}");
            }
        }
        Ok(())
    }

    /// Bytes of the writes that the slowest and the fastest link have.
    pub fn progress(&self) -> (u64, u64) {
        let bytes = self.links.iter().map(|link| link.writes.bytes_at(link.offset.load(Ordering::Relaxed)));
        let all: Vec<u64> = bytes.collect();
        (all.iter().copied().min().unwrap_or(0), all.iter().copied().max().unwrap_or(0))
    }

    /// The longest time, in milliseconds, that a link had no byte, from the first write to the last.
    pub fn longest_pause(&self) -> f64 {
        let pauses = self.links.iter().map(|link| link.pause.load(Ordering::Relaxed));
        pauses.max().unwrap_or(0) as f64 / 1e3
    }

    /// How late the writes were.
    pub fn delays(&self) -> Result<Delays> {
        let mut medians = Vec::new();
        let mut late = Vec::new();
        for link in &self.links {
            let mut delays = link.delays.lock().expect("nothing panics").clone();
            ensure!(!delays.is_empty(), "a replica has no write");
            delays.sort_by(f64::total_cmp);
            medians.push(delays[delays.len() / 2] * 1e3);
            late.push(delays[delays.len() * 99 / 100] * 1e3);
        }
        medians.sort_by(f64::total_cmp);
        late.sort_by(f64::total_cmp);
        Ok(Delays {
            usual: medians[medians.len() / 2],
            late: late[late.len() / 2],
            slowest: late[late.len() - 1],
        })
    }
}

impl Reader {
    /// Reads until the link ends. The first periodic acknowledgement is sent `later`.
    async fn read(&self, mut link: Link, later: Duration) -> Result<()> {
        const PERIOD: Duration = Duration::from_secs(1);
        let (mut offset, mut seen) = (link.offset, 0);
        let mut buffer = vec![0; 1 << 16];
        let mut last_read = None;
        let mut timer = tokio::time::interval_at(Instant::now() + later, PERIOD);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The master sends its stream after this.
        link.acknowledge(offset).await?;
        loop {
            let count = tokio::select! {
                count = link.socket.read(&mut buffer) => count?,
                _ = timer.tick() => {
                    link.acknowledge(offset).await?;
                    continue;
                }
            };
            ensure!(count > 0, "the connection ended at offset {offset}");
            offset += count as u64;
            self.offset.store(offset, Ordering::Relaxed);
            if self.writes.bytes_at(offset) > 0 {
                let now = Instant::now();
                let pause = last_read.map_or_else(|| self.writes.age(0), |last| now.duration_since(last));
                self.pause.fetch_max(u64::try_from(pause.as_micros())?, Ordering::Relaxed);
                last_read = Some(now);
            }
            let has = self.writes.count_at(offset);
            if has > seen {
                let mut delays = self.delays.lock().expect("nothing panics");
                delays.extend((seen..has).map(|number| self.writes.age(number).as_secs_f64()));
                seen = has;
            }
        }
    }
}
