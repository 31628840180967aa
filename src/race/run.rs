//! Runs a race: resolves names, starts attempts, and gives them up.
//!
//! This module does not know what an attempt does; each has its own deadlines. Names are resolved
//! concurrently, and no attempt waits for one while there is an address to try.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::{HESITATION, Race, Step, interleaved};
use crate::units::Address;

/// Time given to resolve a name.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(3);

/// Most addresses in one race.
pub const MAX_ADDRESSES: usize = 32;

/// An event of a race.
#[derive(Debug)]
pub enum Event<T, E> {
    /// An attempt has succeeded; all others were given up.
    Opened(SocketAddr, T),
    /// An attempt has failed.
    Failed(SocketAddr, E),
    /// A name could not be resolved.
    Unresolved(Address, String),
}

/// A race over addresses, some of which are still names.
#[derive(Debug)]
pub struct Attempts<T, E> {
    race: Race<SocketAddr>,
    running: JoinSet<(SocketAddr, Result<T, E>)>,
    names: JoinSet<(usize, Address, Result<Vec<SocketAddr>, String>)>,
    /// The addresses added so far, as the config writes them.
    seen: HashMap<SocketAddr, String>,
    /// The address that worked last.
    last_good: Option<SocketAddr>,
}

impl<T: Send + 'static, E: Send + 'static> Attempts<T, E> {
    /// A race over the addresses of `places`, of which the first is the best. `last_good` is tried
    /// before all of them, if it is still one of their addresses.
    pub fn over(places: &[Address], last_good: Option<SocketAddr>) -> Self {
        let now = Instant::now();
        let mut names = JoinSet::new();
        let mut known = Vec::new();
        for (rank, place) in places.iter().enumerate() {
            if let Ok(ip) = place.host.parse::<IpAddr>() {
                known.push((rank, SocketAddr::new(ip, place.port)));
                continue;
            }
            let place = place.clone();
            names.spawn(async move {
                let found = resolve(&place).await;
                (rank, place, found)
            });
        }
        let race = Race::new(names.len(), now);
        let mut attempts = Self { race, running: JoinSet::new(), names, seen: HashMap::new(), last_good };
        if known.first().is_none_or(|(rank, _)| *rank > 0) {
            attempts.race.hesitate(now + HESITATION);
        }
        for (rank, address) in known {
            attempts.candidate(rank, address, address.to_string());
        }
        attempts
    }

    /// A race over known addresses, in this order.
    pub fn among(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut attempts = Self::over(&[], None);
        attempts.race = Race::new(0, Instant::now());
        for (rank, address) in addresses.into_iter().enumerate() {
            attempts.candidate(rank, address, address.to_string());
        }
        attempts
    }

    /// Adds an address that is tried before all others.
    pub fn favour(&mut self, address: SocketAddr) {
        let now = Instant::now();
        self.last_good = Some(address);
        self.candidate(0, address, address.to_string());
        self.race.hesitate(now);
    }

    /// Tries an address again, before those that are untried.
    pub fn again(&mut self, address: SocketAddr) {
        self.race.add(0, address);
    }

    /// An address as the config writes it.
    pub fn shown(&self, address: SocketAddr) -> String {
        self.seen.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    /// The next event of the attempts that `start` makes; `None` once everything has failed. No
    /// attempt starts between two calls. Cancelling this future loses nothing; dropping the race
    /// gives up every attempt.
    pub async fn next<F>(&mut self, start: impl Fn(SocketAddr) -> F) -> Option<Event<T, E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        loop {
            let until = match self.race.step(Instant::now()) {
                Step::Over => return None,
                Step::Wait(until) => until,
                Step::Start(address) => {
                    let attempt = start(address);
                    self.running.spawn(async move { (address, attempt.await) });
                    continue;
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => {
                    let now = Instant::now();
                    match ended {
                        Ok((address, Ok(opened))) => {
                            self.race.won(address, now);
                            self.running.abort_all();
                            self.running = JoinSet::new();
                            return Some(Event::Opened(address, opened));
                        }
                        Ok((address, Err(error))) => {
                            self.race.failed(address, now);
                            return Some(Event::Failed(address, error));
                        }
                        // The attempt was given up, or the runtime stops.
                        Err(_) => {}
                    }
                }
                Some(Ok((rank, place, found))) = self.names.join_next(), if !self.names.is_empty() => {
                    let unresolved = self.found(rank, &place, found);
                    self.race.resolved(Instant::now());
                    if let Some(why) = unresolved {
                        return Some(Event::Unresolved(place, why));
                    }
                }
                () = sleep_until(until.unwrap_or_else(Instant::now).into()), if until.is_some() => {}
                else => return None,
            }
        }
    }

    /// Adds a name's addresses; returns the reason if there are none.
    fn found(
        &mut self,
        rank: usize,
        place: &Address,
        found: Result<Vec<SocketAddr>, String>,
    ) -> Option<String> {
        match found {
            Ok(addresses) => {
                let several = addresses.len() > 1;
                for (at, address) in interleaved(addresses).into_iter().enumerate() {
                    let shown =
                        if several { format!("{place} ({})", address.ip()) } else { place.to_string() };
                    // The first address of each place is tried before the second of any.
                    self.candidate(rank + at * 100, address, shown);
                }
                None
            }
            Err(why) => Some(why),
        }
    }

    fn candidate(&mut self, rank: usize, address: SocketAddr, shown: String) {
        if self.seen.len() >= MAX_ADDRESSES || self.seen.contains_key(&address) {
            return;
        }
        self.seen.insert(address, shown);
        let rank =
            if self.last_good == Some(address) { 0 } else { u32::try_from(rank + 1).unwrap_or(u32::MAX) };
        self.race.add(rank, address);
    }
}

/// The current addresses of a name, or the reason why there are none.
pub async fn resolve(place: &Address) -> Result<Vec<SocketAddr>, String> {
    match timeout(RESOLVE_DEADLINE, lookup_host((place.host.as_str(), place.port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(format!("cannot be resolved: {error}")),
        Err(_) => Err(format!("the name was not resolved within {} s", RESOLVE_DEADLINE.as_secs())),
    }
}

/// Connects by TCP to a place's addresses and returns the first connection that opens, within
/// `within` in total.
pub async fn connect(
    place: &Address,
    last_good: Option<SocketAddr>,
    within: Duration,
) -> io::Result<TcpStream> {
    connect_any(std::slice::from_ref(place), last_good, within).await
}

/// As [`connect`], for several places, of which the first is the best.
pub async fn connect_any(
    places: &[Address],
    last_good: Option<SocketAddr>,
    within: Duration,
) -> io::Result<TcpStream> {
    win(Attempts::over(places, last_good), within).await
}

/// As [`connect`], for addresses that are known already, best first.
pub async fn connect_among(addresses: &[SocketAddr], within: Duration) -> io::Result<TcpStream> {
    win(Attempts::among(addresses.iter().copied()), within).await
}

async fn win(mut attempts: Attempts<TcpStream, io::Error>, within: Duration) -> io::Result<TcpStream> {
    let mut failed = None;
    let connected = timeout(within, async {
        loop {
            match attempts.next(TcpStream::connect).await? {
                Event::Opened(_, socket) => return Some(socket),
                Event::Failed(_, error) => failed = Some(error),
                Event::Unresolved(_, why) => failed = Some(io::Error::other(why)),
            }
        }
    });
    match connected.await {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into())),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", within.as_secs())))
        }
    }
}
