//! For how long nothing arrived at a replica.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::redis::{Client, Redis};

/// How often a replica is asked for its offset.
const PERIOD: Duration = Duration::from_millis(10);

/// Watches the offset of a replica, in a thread of its own.
pub struct Gap {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

struct Seen {
    moved: Instant,
    longest: Duration,
}

impl Gap {
    pub fn of(replica: &Redis) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen { moved: Instant::now(), longest: Duration::ZERO }));
        let (client, over, shared) = (replica.client(), Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || watch(client, &over, &shared));
        Self { stop, seen, thread: Some(thread) }
    }

    /// The longest time in which the offset did not move since this was asked last.
    pub fn take(&self) -> Duration {
        let mut seen = self.seen.lock().expect("no thread panics");
        let still = seen.moved.elapsed();
        std::mem::take(&mut seen.longest).max(still)
    }
}

impl Drop for Gap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the replica answers all the time");
        }
    }
}

fn watch(mut client: Client, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut last = None;
    while !stop.load(Ordering::SeqCst) {
        let info = client.ask(&["INFO", "replication"]).text();
        let offset = info.lines().find_map(|line| line.strip_prefix("slave_repl_offset:")).map(str::to_owned);
        if offset != last {
            let mut seen = seen.lock().expect("no thread panics");
            seen.longest = seen.longest.max(seen.moved.elapsed());
            (seen.moved, last) = (Instant::now(), offset);
        }
        std::thread::sleep(PERIOD);
    }
}
