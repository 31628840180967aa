//! The path between two sites: a relay that records what passes, and that can fail.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most bytes that are recorded.
const KEEP: usize = 8 << 20;

/// Interval at which a relay checks whether the path has failed.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    kept: Mutex<Vec<u8>>,
    crossed: AtomicU64,
    failed: AtomicBool,
    /// Number of failures so far. A connection that was open during a failure is reset after it.
    failures: AtomicU64,
}

/// A relay from one port to another. Its threads end with their connections, or with the process.
pub(super) struct Path {
    /// The port on which it listens.
    pub(super) port: u16,
    state: Arc<State>,
}

impl Path {
    /// Starts a relay to `target` on the loopback address.
    pub(super) fn to(target: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || relay(&near, target, &shared));
            }
        });
        Ok(Self { port, state })
    }

    /// Bytes that have passed, in both directions together.
    pub(super) fn size(&self) -> u64 {
        self.state.crossed.load(Ordering::Relaxed)
    }

    /// Whether `word` is in the recorded bytes.
    pub(super) fn holds(&self, word: &str) -> bool {
        let kept = self.state.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.windows(word.len()).any(|window| window == word.as_bytes())
    }

    /// Makes the path fail: nothing passes any more, and no side is notified.
    pub(super) fn fail(&self) {
        self.state.failures.fetch_add(1, Ordering::SeqCst);
        self.state.failed.store(true, Ordering::SeqCst);
    }

    /// Ends the failure: connections that were open are reset, as after a firewall has lost its
    /// state.
    pub(super) fn heal(&self) {
        self.state.failed.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn wait_while_failed(&self) {
        while self.failed.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
        }
    }
}

fn relay(near: &TcpStream, target: u16, state: &State) {
    state.wait_while_failed();
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| forward(near, &far, state));
        forward(&far, near, state);
    });
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, state: &State) {
    let failures = state.failures.load(Ordering::SeqCst);
    let _ = from.set_read_timeout(Some(LOOK));
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer);
        state.wait_while_failed();
        if state.failures.load(Ordering::SeqCst) != failures {
            for socket in [from, to] {
                let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
                let _ = socket.shutdown(Shutdown::Both);
            }
            return;
        }
        let count = match read {
            Ok(0) => break,
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(_) => break,
        };
        state.crossed.fetch_add(count as u64, Ordering::Relaxed);
        let mut kept = state.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEEP.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
        drop(kept);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
