//! A client of a replica listener before anything is dialled for it.
//!
//! Whoever connects and says nothing (a port scan, a load balancer's health check) costs
//! the far site nothing: a link is opened once the client has said a byte. Only where the
//! master is a passthrough may the far side speak first. A client whose address has to
//! wait is answered its PINGs here, so that a health check stays quick.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{sleep_until, timeout};
use zeroize::Zeroizing;

use super::dial::{Dialer, probe};
use crate::config::Replica;
use crate::redis::command::{self, Parsed};
use crate::redis::reply;
use crate::tap::OPENING;
use crate::unproven::Seat;

/// The silence after which a client may be one that waits for the far side to speak first.
const SILENCE: Duration = Duration::from_secs(1);

/// The time between two questions to the far site whether its master is a passthrough.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The most bytes of a command that is answered here.
const MOST_BYTES: usize = 1024;

/// What a far site offers under the name of a `[[replica]]`, by what it said last.
#[derive(Debug, Default)]
pub(super) struct Offer {
    kind: AtomicU8,
    asked: Mutex<Option<Instant>>,
    /// Why the last link could not be had.
    failure: std::sync::Mutex<Option<String>>,
}

const UNKNOWN: u8 = 0;
const REPLICATION: u8 = 1;
const PASSTHROUGH: u8 = 2;

impl Offer {
    /// The far gateway has accepted a link.
    pub(super) fn accepted(&self, passthrough: bool) {
        self.kind.store(if passthrough { PASSTHROUGH } else { REPLICATION }, Ordering::Relaxed);
        self.note(None);
    }

    /// No link was to be had.
    pub(super) fn failed(&self, reason: &str) {
        self.note(Some(reason.to_owned()));
    }

    fn note(&self, failure: Option<String>) {
        *self.failure.lock().expect("no code panics while it holds a reason") = failure;
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().expect("no code panics while it holds a reason").clone()
    }

    /// Asks the far site, where it is not known and nobody has asked lately. The error is
    /// why there is no answer.
    async fn find_out(&self, dialer: &Arc<Dialer>, replica: &Arc<Replica>) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        let lately = asked.is_some_and(|at| at.elapsed() < ASK_EVERY);
        if self.kind.load(Ordering::Relaxed) != UNKNOWN || lately {
            return Ok(());
        }
        *asked = Some(Instant::now());
        let (_, accept) = probe(dialer, replica).await?;
        self.accepted(accept.plain);
        Ok(())
    }
}

/// How a client goes on.
pub(super) enum Next {
    /// A link is to be opened for it. What it said is unread.
    Link,
    /// It has left.
    Left,
    /// It has said nothing for too long.
    Silent,
    /// It waits for the far side to speak first, and that is out of reach.
    Unreachable(String),
}

/// Waits until a client has said something. It is given up after [`OPENING`].
pub(super) async fn first_words(
    dialer: &Arc<Dialer>,
    replica: &Arc<Replica>,
    offer: &Offer,
    redis: &TcpStream,
    seat: &Seat<std::net::IpAddr>,
) -> Next {
    let said = async {
        let mut first = [0];
        match redis.peek(&mut first).await {
            Ok(count) if count > 0 => {
                seat.spoke();
                Next::Link
            }
            _ => Next::Left,
        }
    };
    let silent = async {
        let mut waited = Duration::ZERO;
        while waited < OPENING {
            tokio::time::sleep(SILENCE).await;
            waited += SILENCE;
            if let Err(reason) = offer.find_out(dialer, replica).await {
                return Next::Unreachable(reason);
            }
            if offer.kind.load(Ordering::Relaxed) == PASSTHROUGH {
                return Next::Link;
            }
        }
        Next::Silent
    };
    tokio::select! {
        biased;
        next = said => next,
        next = silent => next,
    }
}

/// Keeps a client waiting until its address may have a link again. Its PINGs are answered
/// by how the last link of this replica entry went; whatever else it says waits, unread.
pub(super) async fn wait_turn(
    offer: &Offer,
    redis: &mut TcpStream,
    seat: &Seat<std::net::IpAddr>,
    site: &str,
    until: Instant,
) -> Next {
    let until = tokio::time::Instant::from_std(until);
    let pings = async {
        loop {
            match next_command(redis).await {
                Ok(Said::Ping(length)) => {
                    seat.spoke();
                    let failure = offer.failure();
                    let reply = failure.as_deref().map(|reason| reply::error(site, reason));
                    let reply = reply.as_deref().unwrap_or(b"+PONG\r\n");
                    if take(redis, length).await.is_err()
                        || redis.write_all(reply).await.is_err()
                        || failure.is_some()
                    {
                        return Next::Left;
                    }
                }
                Ok(Said::Quit) => {
                    let _ = redis.write_all(reply::OK).await;
                    return Next::Left;
                }
                Ok(Said::More) => return Next::Link,
                Err(_) => return Next::Left,
            }
        }
    };
    let next = tokio::select! {
        next = pings => next,
        () = sleep_until(until) => Next::Link,
    };
    if matches!(next, Next::Link) {
        sleep_until(until).await;
    }
    next
}

/// What a client that waits says next.
enum Said {
    /// A PING of so many bytes, unread.
    Ping(usize),
    Quit,
    /// Anything else, unread.
    More,
}

/// Looks at the client's next command without reading it.
async fn next_command(redis: &TcpStream) -> std::io::Result<Said> {
    // It may be an AUTH.
    let mut bytes = Zeroizing::new([0; MOST_BYTES]);
    let mut before = 0;
    loop {
        let count = redis.peek(&mut *bytes).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match command::parse(&bytes[..count]) {
            Parsed::Command { length, arguments } if arguments.len() == 1 => {
                return Ok(match arguments[0].to_ascii_uppercase().as_slice() {
                    b"PING" => Said::Ping(length),
                    b"QUIT" => Said::Quit,
                    _ => Said::More,
                });
            }
            Parsed::Incomplete if count < MOST_BYTES => {
                if count == before {
                    // The rest of it has not come, and what is there cannot be waited for.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                before = count;
            }
            _ => return Ok(Said::More),
        }
    }
}

/// Reads what was looked at.
async fn take(redis: &mut TcpStream, length: usize) -> std::io::Result<()> {
    let mut bytes = Zeroizing::new([0; MOST_BYTES]);
    redis.read_exact(&mut bytes[..length]).await.map(|_| ())
}

/// Tells a client that has said nothing why it goes.
pub(super) async fn part_silent(redis: &mut TcpStream, site: &str, within: Duration) {
    let reply = reply::error(site, &format!("no sync was asked for within {} s", OPENING.as_secs()));
    let _ = timeout(within, super::replica_listener::last_words(redis, &reply)).await;
}

/// What is told of all clients that leave before a link is opened for them.
pub(super) const LEFT: &str = "a client left without asking for a sync";
