//! A TCP path between two gateways that a test can watch, cut and silence.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct State {
    silent: AtomicBool,
    generation: AtomicU64,
    pause_ms: AtomicU64,
    seen: Mutex<Vec<u8>>,
}

/// Forwards every connection to one port, and keeps what crossed.
pub struct Path {
    pub port: u16,
    state: Arc<State>,
}

impl Path {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to) in [(&socket, &far), (&far, &socket)] {
                    let (from, to) = (
                        from.try_clone().expect("a socket can be cloned"),
                        to.try_clone().expect("a socket can be cloned"),
                    );
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || forward(&from, &to, &shared));
                }
            }
        });
        Self { port, state }
    }

    /// Nothing passes any more and nobody is told: the connections hang.
    pub fn silence(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::SeqCst);
    }

    /// Waits this long before each piece of at most 64 KiB.
    pub fn slow_down(&self, pause: Duration) {
        self.state.pause_ms.store(pause.as_millis() as u64, Ordering::SeqCst);
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.state.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Everything that crossed, both ways.
    pub fn seen(&self) -> Vec<u8> {
        self.state.seen.lock().expect("no thread panics").clone()
    }
}

fn forward(from: &TcpStream, to: &TcpStream, state: &State) {
    let born = state.generation.load(Ordering::SeqCst);
    let mut buffer = vec![0; 64 * 1024];
    let (mut reader, mut writer) = (from, to);
    from.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    loop {
        if state.generation.load(Ordering::SeqCst) != born {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
        if state.silent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        std::thread::sleep(Duration::from_millis(state.pause_ms.load(Ordering::SeqCst)));
        match reader.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => {
                state.seen.lock().expect("no thread panics").extend_from_slice(&buffer[..count]);
                if writer.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
