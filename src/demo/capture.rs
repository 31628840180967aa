//! A relay that keeps every byte that crosses it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Relays one port to another. Its threads end with their connections, or with
/// the process.
pub(super) struct Capture {
    /// Where it listens.
    pub(super) port: u16,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Capture {
    /// Starts a relay to `target` on the loopback address.
    pub(super) fn to(target: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&kept);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                        let shared = Arc::clone(&shared);
                        std::thread::spawn(move || forward(from, to, &shared));
                    }
                }
            }
        });
        Ok(Self { port, kept })
    }

    /// Bytes that crossed, both ways together.
    pub(super) fn size(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether `word` crossed in the clear.
    pub(super) fn holds(&self, word: &str) -> bool {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .windows(word.len())
            .any(|window| window == word.as_bytes())
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
