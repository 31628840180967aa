//! A client of a replica listener before anything is dialled for it.
//!
//! Whoever connects and says nothing (a port scan, a load balancer's health check) costs
//! the far site nothing: a link is opened once the client has said a byte. Only where the
//! master is a passthrough may the far side speak first. One PING at a time has a link
//! opened; the others are answered here by how that went, so that health checks stay quick
//! and few of them reach the far site.

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

/// The silence after which a client may be one that waits for the far side to speak first.
const SILENCE: Duration = Duration::from_secs(1);

/// The same where the master is known to be a passthrough: long enough for a port scan to leave.
const SHORT_SILENCE: Duration = Duration::from_millis(20);

/// The time between two questions to the far site whether its master is a passthrough.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The time for a client to read its last answer, and to close.
const PARTING: Duration = Duration::from_secs(2);

/// The most bytes of a command that is answered here.
const MOST_BYTES: usize = 1024;

/// The time for which a link that was had shows that links are to be had.
const GOOD: Duration = Duration::from_secs(5);

/// The time for which a failure is told to others who ask: less than the second after which a
/// replica asks again.
const FAILED: Duration = Duration::from_millis(900);

/// The time for which the PINGs of others wait for the outcome of the one that has a link opened.
const FINDING: Duration = Duration::from_secs(2);

/// The first and the longest pause between two looks at a command that has not come whole.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What a far site offers under the name of a `[[replica]]`, by what it said last.
#[derive(Debug, Default)]
pub(super) struct Offer {
    kind: AtomicU8,
    asked: Mutex<Option<Instant>>,
    outcome: std::sync::Mutex<Outcome>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Outcome {
    /// When a link was asked for last, and why it was not to be had.
    last: Option<(Instant, Option<String>)>,
    /// Since when somebody's PING has a link opened.
    finding: Option<Instant>,
}

/// What becomes of a PING.
#[derive(Debug, PartialEq, Eq)]
enum Ping {
    /// It is answered here: by PONG, or by why there is no link.
    Answer(Option<String>),
    /// A link is opened for it.
    Link,
    /// It waits for the outcome of another.
    Wait,
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
    /// The same, and only a replica says what it said.
    Replica,
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

/// Answers a client's PINGs for as long as it says nothing else: by how the last link of this
/// replica entry went, so that only a few health checks reach the far site. Whatever else the
/// client says stays unread. While `paused`, no link is opened for a PING.
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
                // Whoever says AUTH after its PING is a replica; before it, perhaps a health check.
                Ok(Said::Auth) => return if answered { Next::Replica } else { Next::Link },
                Ok(Said::Replica) => return Next::Replica,
                Ok(Said::Other) => return Next::Link,
                Err(_) => return Next::Left,
            }
        }
    };
    timeout(OPENING, commands).await.unwrap_or(Next::Silent)
}

/// What a client says next.
enum Said {
    /// A PING of so many bytes, unread.
    Ping(usize),
    /// A QUIT of so many bytes, unread.
    Quit(usize),
    /// A password, unread.
    Auth,
    /// What only a replica says, unread.
    Replica,
    /// Anything else, unread.
    Other,
}

/// Looks at the client's next command without reading it.
async fn next_command(redis: &TcpStream) -> std::io::Result<Said> {
    // It may be an AUTH.
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
                    // The rest of it has not come, and the socket is readable all the while.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOOK_AGAIN.1);
                }
                before = count;
            }
            _ => return Ok(Said::Other),
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
    let _ = timeout(within, super::last_words(redis, &reply)).await;
}

/// What is told of all clients that leave before a link is opened for them.
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
