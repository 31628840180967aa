//! Listening sockets: binding and accepting.
//!
//! Accepting never waits for a peer: each connection gets its own task, where handshakes run under
//! a deadline.

pub mod unix;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Most connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Number of connections that are accepted before other tasks may run; those that were evicted for
/// them are closed then.
const AT_A_TIME: usize = 16;

/// Pause after an accept that failed for lack of resources.
const PAUSE: Duration = Duration::from_millis(200);

/// Binds a listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Advice for an address that cannot be bound.
pub fn hint(error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; is another gateway or a Redis running there? This tells what has the port: ss -ltnp 'sport = :{port}'"
        ),
        io::ErrorKind::AddrNotAvailable => "; this host has no such address (ip addr)".to_owned(),
        io::ErrorKind::PermissionDenied if port < 1024 => {
            "; ports below 1024 are root's: take a higher one".to_owned()
        }
        _ => String::new(),
    }
}

/// Whether two addresses cannot both be listened on.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = |address: SocketAddr| address.ip().is_unspecified();
    // On `[::]` IPv4 comes in too; `0.0.0.0` takes no IPv6.
    let takes_in = |all: SocketAddr, one: SocketAddr| is_all(all) && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port() && (one.ip() == other.ip() || takes_in(one, other) || takes_in(other, one))
}

/// A socket to which connections come.
pub trait Accept: Send + Sync {
    /// A connection.
    type Socket: Send;
    /// Where it comes from.
    type From: Send;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Socket, Self::From)>> + Send;
}

impl Accept for TcpListener {
    type Socket = TcpStream;
    /// An IPv4 address in IPv6 form is the IPv4 address.
    type From = SocketAddr;

    async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, from) = self.accept().await?;
        Ok((socket, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }
}

/// Accepts until `stop` and passes each connection to `take`, which must not block, with a permit of
/// `room`; the next one is accepted only after that. Without file descriptors or memory it calls `starved` and
/// pauses, instead of looping without a pause. It ends before `stop` only if the socket does not listen
/// any more.
pub async fn accept<L: Accept>(
    listener: L,
    stop: CancellationToken,
    room: Arc<Semaphore>,
    mut take: impl FnMut(L::Socket, L::From, OwnedSemaphorePermit),
    starved: impl Fn(&io::Error),
) {
    for count in 1usize.. {
        if count.is_multiple_of(AT_A_TIME) {
            tokio::task::yield_now().await;
        }
        let accepting = async {
            let accepted = listener.next().await?;
            let room = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
            Ok((accepted, room))
        };
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(((socket, from), room)) => take(socket, from, room),
            Err(failed) if is_of_one_connection(&failed) => {}
            Err(failed) => {
                starved(&failed);
                if failed.kind() == io::ErrorKind::InvalidInput {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an error belongs to the connection that was to be accepted, not to the listener; see
/// accept(2).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_overlaps_cannot_be_bound_beside_one_another() {
        let addresses = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::]", "[::1]"];
        if bind("[::1]:0".parse().unwrap()).is_err() {
            return eprintln!("skipped: there is no IPv6 here");
        }
        for one in addresses {
            let bound = bind(format!("{one}:0").parse().unwrap()).unwrap();
            let one = bound.local_addr().unwrap();
            for other in addresses {
                let other = format!("{other}:{}", one.port()).parse().unwrap();
                // Another process may have that port elsewhere, so only this direction is sure.
                assert!(!overlap(one, other) || bind(other).is_err(), "{one} {other}");
                assert_eq!(overlap(one, other), overlap(other, one));
            }
        }
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (one, other, is) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::1]:1", "[::]:1", true),
            ("127.0.0.1:1", "0.0.0.0:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("[::1]:1", "0.0.0.0:1", false),
        ] {
            assert_eq!(overlap(at(one), at(other)), is, "{one} {other}");
        }
    }
}
