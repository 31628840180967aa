//! Handles a client of a replica listener before anything is dialled for it.
//!
//! A client that connects and sends nothing (a port scan, a load balancer's health check) does not
//! affect the far site: a link is opened only after the client has sent a byte. Only a passthrough
//! master may send first. At most one PING at a time makes the gateway open a link. The others are
//! answered here according to the result, so that health checks are fast and few of them reach the
//! far site.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::dial::{Dialer, probe};
use crate::config::Replica;
use crate::redis::command::{self, Parsed};
use crate::redis::reply;
use crate::tap::OPENING;
use crate::unproven::Seat;

/// Silence after which a client may be waiting for the far side to send first.
const SILENCE: Duration = Duration::from_secs(1);

/// Silence after which this is assumed if the master is known to be a passthrough: long enough for
/// a port scan to leave.
const SHORT_SILENCE: Duration = Duration::from_millis(20);

/// Time between two questions to the far site whether its master is a passthrough.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Time a client is given to read its last reply and to close.
const PARTING: Duration = Duration::from_secs(2);

/// Longest command in bytes that is answered here.
const MOST_BYTES: usize = 1024;

/// Time for which an opened link counts as proof that links can be opened.
const GOOD: Duration = Duration::from_secs(5);

/// Time for which a failure is reported to other clients: less than the second after which a
/// replica asks again.
const FAILED: Duration = Duration::from_millis(900);

/// Time for which other clients' PINGs wait for the result of the one that opens a link.
const FINDING: Duration = Duration::from_secs(2);

/// First and longest pause between two reads of an incomplete command.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The last known state of what a far site offers under the name of a `[[replica]]`.
#[derive(Debug, Default)]
pub(super) struct Offer {
    kind: AtomicU8,
    asked: Mutex<Option<Instant>>,
    outcome: std::sync::Mutex<Outcome>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Outcome {
    /// When a link was last requested, and why it was not opened, if it was not.
    last: Option<(Instant, Option<String>)>,
    /// Since when a client's PING is opening a link.
    finding: Option<Instant>,
}

/// How a PING is handled.
#[derive(Debug, PartialEq, Eq)]
enum Ping {
    /// It is answered here: with PONG, or with the reason why there is no link.
    Answer(Option<String>),
    /// A link is opened for it.
    Link,
    /// It waits for the result of another PING.
    Wait,
}

const UNKNOWN: u8 = 0;
const REPLICATION: u8 = 1;
const PASSTHROUGH: u8 = 2;

impl Offer {
    /// Of a master that is surely no passthrough.
    pub(super) fn of_replication() -> Self {
        Self { kind: AtomicU8::new(REPLICATION), ..Self::default() }
    }

    /// The far gateway has accepted a link.
    pub(super) fn accepted(&self, passthrough: bool) {
        self.kind.store(if passthrough { PASSTHROUGH } else { REPLICATION }, Ordering::Relaxed);
        self.note(None);
    }

    /// No link could be opened.
    pub(super) fn failed(&self, reason: &str) {
        self.note(Some(reason.to_owned()));
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().expect("no code panics while it holds an outcome")
    }

    fn note(&self, failure: Option<String>) {
        *self.outcome() = Outcome { last: Some((Instant::now(), failure)), finding: None };
        self.changed.notify_waiters();
    }

    /// Judges a PING. A client whose address is `paused` gets no link for it.
    fn ping(&self, paused: bool, now: Instant) -> Ping {
        let mut outcome = self.outcome();
        if let Some((at, failure)) = &outcome.last {
            let fresh = if failure.is_some() { FAILED } else { GOOD };
            if paused || now.saturating_duration_since(*at) < fresh {
                return Ping::Answer(failure.clone());
            }
        }
        if self.kind.load(Ordering::Relaxed) != REPLICATION {
            return Ping::Link;
        }
        if outcome.finding.is_some_and(|since| now.saturating_duration_since(since) < FINDING) {
            return Ping::Wait;
        }
        outcome.finding = Some(now);
        Ping::Link
    }

    /// Whether the master is known to be a passthrough.
    pub(super) fn is_passthrough(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == PASSTHROUGH
    }

    /// Asks the far site, if it is not known and nobody has asked recently. The error is the reason
    /// why there is no answer.
    async fn find_out(&self, dialer: &Arc<Dialer>, replica: &Arc<Replica>) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        let lately = asked.is_some_and(|at| at.elapsed() < ASK_EVERY);
        if self.kind.load(Ordering::Relaxed) != UNKNOWN || lately {
            return Ok(());
        }
        *asked = Some(Instant::now());
        let (_, accept) = probe(dialer, replica).await.map_err(|unreached| unreached.words)?;
        self.accepted(accept.plain);
        Ok(())
    }
}

/// How a client continues.
pub(super) enum Next {
    /// A link is opened for it. What it sent is unread.
    Link,
    /// A link is opened for it, and it is surely a replica. What it sent is unread.
    Replica,
    /// It has left.
    Left,
    /// It has sent nothing for too long.
    Silent,
    /// It waits for the far side to send first, and the far side cannot be reached.
    Unreachable(String),
}

/// Waits until a client has sent something, for at most [`OPENING`].
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
        if offer.is_passthrough() {
            tokio::time::sleep(SHORT_SILENCE).await;
            return Next::Link;
        }
        let mut waited = Duration::ZERO;
        while waited < OPENING {
            tokio::time::sleep(SILENCE).await;
            waited += SILENCE;
            if let Err(reason) = offer.find_out(dialer, replica).await {
                return Next::Unreachable(reason);
            }
            if offer.is_passthrough() {
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

/// Answers a client's PINGs as long as it sends nothing else, according to the last result for this
/// replica entry. So only a few health checks reach the far site. Anything else that the client
/// sends stays unread. While `paused`, no link is opened for a PING.
pub(super) async fn first_command(
    offer: &Offer,
    redis: &mut TcpStream,
    seat: &Seat<std::net::IpAddr>,
    site: &str,
    paused: bool,
) -> Next {
    let mut answered = false;
    let commands = async {
        loop {
            match next_command(redis).await {
                Ok(Said::Ping(length)) => {
                    seat.spoke();
                    let changed = offer.changed.notified();
                    let failure = match offer.ping(paused, Instant::now()) {
                        Ping::Link => return Next::Link,
                        Ping::Wait => {
                            let _ = timeout(FINDING, changed).await;
                            continue;
                        }
                        Ping::Answer(failure) => failure,
                    };
                    if take(redis, length).await.is_err() {
                        return Next::Left;
                    }
                    if let Some(reason) = failure {
                        let reply = reply::error(site, &reason);
                        let _ = timeout(PARTING, super::last_words(redis, &reply)).await;
                        return Next::Left;
                    }
                    if redis.write_all(b"+PONG\r\n").await.is_err() {
                        return Next::Left;
                    }
                    answered = true;
                }
                Ok(Said::Quit(length)) => {
                    if take(redis, length).await.is_ok() {
                        let _ = timeout(PARTING, super::last_words(redis, reply::OK)).await;
                    }
                    return Next::Left;
                }
                // A client that sends AUTH after PING is a replica; one that sends AUTH first may
                // be a health check.
                Ok(Said::Auth) => return if answered { Next::Replica } else { Next::Link },
                Ok(Said::Replica) => return Next::Replica,
                Ok(Said::Other) => return Next::Link,
                Err(_) => return Next::Left,
            }
        }
    };
    timeout(OPENING, commands).await.unwrap_or(Next::Silent)
}

/// What a client sends next.
enum Said {
    /// A PING of this many bytes, unread.
    Ping(usize),
    /// A QUIT of this many bytes, unread.
    Quit(usize),
    /// A password, unread.
    Auth,
    /// A command that only a replica sends, unread.
    Replica,
    /// Anything else, unread.
    Other,
}

/// Peeks at the client's next command without reading it.
async fn next_command(redis: &TcpStream) -> std::io::Result<Said> {
    // The bytes may be an AUTH, so they are wiped.
    let mut bytes = Zeroizing::new([0; MOST_BYTES]);
    let (mut before, mut pause) = (0, LOOK_AGAIN.0);
    loop {
        let count = redis.peek(&mut *bytes).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match command::parse(&bytes[..count]) {
            Parsed::Command { length, arguments } => {
                return Ok(match (arguments[0].to_ascii_uppercase().as_slice(), arguments.len()) {
                    (b"PING", 1) => Said::Ping(length),
                    (b"QUIT", 1) => Said::Quit(length),
                    (b"AUTH", _) => Said::Auth,
                    (b"REPLCONF" | b"PSYNC" | b"SYNC", _) => Said::Replica,
                    _ => Said::Other,
                });
            }
            Parsed::Incomplete if count < MOST_BYTES => {
                if count == before {
                    // The rest has not come, and the socket stays readable meanwhile.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOOK_AGAIN.1);
                }
                before = count;
            }
            _ => return Ok(Said::Other),
        }
    }
}

/// Reads the bytes that were peeked at.
async fn take(redis: &mut TcpStream, length: usize) -> std::io::Result<()> {
    let mut bytes = Zeroizing::new([0; MOST_BYTES]);
    redis.read_exact(&mut bytes[..length]).await.map(|_| ())
}

/// Tells a client that has sent nothing why it is disconnected.
pub(super) async fn part_silent(redis: &mut TcpStream, site: &str, within: Duration) {
    let reply = reply::error(site, &format!("no sync was asked for within {} s", OPENING.as_secs()));
    let _ = timeout(within, super::last_words(redis, &reply)).await;
}

/// The log message for all clients that leave before a link is opened for them.
pub(super) const LEFT: &str = "a client left without asking for a sync";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ping_opens_a_link_and_the_others_are_answered_by_its_outcome() {
        let (offer, now) = (Offer::default(), Instant::now());
        assert_eq!(
            [(); 2].map(|()| offer.ping(false, now)),
            [Ping::Link, Ping::Link],
            "it is not known what is there"
        );
        offer.accepted(false);
        let at = |millis| Instant::now() + Duration::from_millis(millis);
        assert_eq!(offer.ping(false, at(4000)), Ping::Answer(None));
        assert_eq!(offer.ping(false, at(5001)), Ping::Link);
        assert_eq!(offer.ping(false, at(5002)), Ping::Wait);
        assert_eq!(offer.ping(false, at(8000)), Ping::Link, "no outcome has come");
        assert_eq!(offer.ping(true, at(8000)), Ping::Answer(None), "no link for an address that is paused");
        offer.failed("no way");
        assert_eq!(offer.ping(false, at(500)), Ping::Answer(Some("no way".to_owned())));
        assert_eq!(offer.ping(false, at(950)), Ping::Link, "a replica asks again after a second");
        offer.accepted(true);
        assert_eq!(offer.ping(false, at(6000)), Ping::Link);
    }
}
