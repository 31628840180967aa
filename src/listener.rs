//! Listening sockets: binds, accepts, and bounds what is not yet authenticated.
//!
//! Accepting never waits for a peer: each connection goes to a task of its own,
//! where handshakes run under a deadline.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Pause after an accept that failed for want of resources.
const PAUSE: Duration = Duration::from_millis(200);

/// Handshakes at a time.
const MAX_HANDSHAKES: usize = 512;

/// Handshakes at a time from one address.
const MAX_PER_SOURCE: usize = 64;

/// Binds a listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop`, and hands each connection to `take`, which must not
/// block. Out of file descriptors or memory, it pauses instead of spinning.
pub async fn accept(
    listener: TcpListener,
    stop: CancellationToken,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let mut starved = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, from)) => {
                if starved {
                    warn!("accepting connections again");
                    starved = false;
                }
                take(socket, SocketAddr::new(from.ip().to_canonical(), from.port()));
            }
            Err(failed) if is_of_one_connection(&failed) => {}
            Err(failed) => {
                if !starved {
                    error!(
                        "connections cannot be accepted: {failed}; raise the limit of open files (LimitNOFILE=, ulimit -n)"
                    );
                    starved = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Errors that belong to the connection that was to be accepted, not to the
/// listener; see accept(2).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable | TimedOut
    )
}

/// The connections whose far side is not known yet. When full, the oldest goes:
/// first of the same source, then of all.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    source: IpAddr,
    number: u64,
    evicted: CancellationToken,
}

/// A place among the handshakes; dropping it gives the place back.
#[derive(Debug)]
pub struct Handshake {
    all: Handshakes,
    number: u64,
    /// Cancelled when the place went to a newer connection.
    pub evicted: CancellationToken,
}

impl Handshakes {
    /// Takes a place for a connection from `source`.
    pub fn enter(&self, source: IpAddr) -> Handshake {
        let source = source_of(source);
        let mut waiting = self.waiting.lock().expect("no code panics while it holds the handshakes");
        let of_source = waiting.iter().filter(|other| other.source == source).count();
        let oldest = if of_source >= MAX_PER_SOURCE {
            waiting.iter().position(|other| other.source == source)
        } else if waiting.len() >= MAX_HANDSHAKES {
            Some(0)
        } else {
            None
        };
        if let Some(evicted) = oldest.and_then(|at| waiting.remove(at)) {
            evicted.evicted.cancel();
        }
        let number = waiting.back().map_or(0, |last| last.number + 1);
        let evicted = CancellationToken::new();
        waiting.push_back(Waiting { source, number, evicted: evicted.clone() });
        Handshake { all: self.clone(), number, evicted }
    }
}

/// Who counts as one source: an IPv4 address, or an IPv6 network of 64 bits, which
/// is what one host is given.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting.lock().expect("no code panics while it holds the handshakes");
        waiting.retain(|other| other.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_only_pushes_out_its_own_handshakes() {
        let handshakes = Handshakes::default();
        let other = handshakes.enter("10.0.0.2".parse().unwrap());
        let flood: Vec<_> =
            (0..MAX_PER_SOURCE + 1).map(|_| handshakes.enter("10.0.0.1".parse().unwrap())).collect();
        assert!(!other.evicted.is_cancelled());
        assert!(flood[0].evicted.is_cancelled() && !flood[1].evicted.is_cancelled());
    }

    #[test]
    fn a_place_is_given_back_and_the_oldest_goes_when_full() {
        let handshakes = Handshakes::default();
        drop(handshakes.enter("10.0.0.1".parse().unwrap()));
        assert!(handshakes.waiting.lock().unwrap().is_empty());
        let flood: Vec<_> =
            (0..=MAX_HANDSHAKES as u32).map(|at| handshakes.enter(IpAddr::from(at.to_be_bytes()))).collect();
        assert!(flood[0].evicted.is_cancelled() && !flood[1].evicted.is_cancelled());
    }
}
