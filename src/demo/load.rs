//! Writes to a Redis at a steady rate until it is dropped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Length of one value in bytes.
const VALUE: usize = 10_000;

/// Number of writes in one burst.
const BURST: usize = 10;

/// A thread that sets keys of a Redis.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Writes about `rate` bytes per second to the Redis on this port.
    pub(super) fn on(port: u16, rate: usize) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (began, mut sent) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let mut wire = Vec::new();
                for at in sent / VALUE..sent / VALUE + BURST {
                    let key = format!("load:{}", at % 1000);
                    wire.extend(
                        format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE}\r\n", key.len()).bytes(),
                    );
                    // Each write has a value of its own, so that a lost one shows.
                    wire.extend(format!("{at:0>VALUE$}\r\n").bytes());
                }
                // Each write is answered by +OK, CR, LF.
                let mut answers = [0; BURST * 5];
                if socket.write_all(&wire).is_err() || socket.read_exact(&mut answers).is_err() {
                    return;
                }
                sent += BURST * VALUE;
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
