//! Bounds the links of one site to one master: how many may ask for a sync within a minute, and how
//! many may open without ever asking.
//!
//! A link takes a token when it opens and gives it back when it asks for a sync. Tokens that are
//! not given back are replaced over a minute. So a client that only connects cannot make the master
//! accept many connections, and does not use up what replicas need.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Period over which requests for a sync are counted, and in which all tokens are replaced.
const MINUTE: Duration = Duration::from_secs(60);

/// Fewest tokens that a site has at one master, however few syncs it may ask for.
const FEWEST_TOKENS: usize = 60;

/// The links that one site has opened to one master lately.
#[derive(Debug)]
pub struct Openings {
    /// Most links that may ask for a sync within a minute.
    most: usize,
    lately: Mutex<Lately>,
}

#[derive(Debug)]
struct Lately {
    /// Times at which links asked for a sync.
    asked: VecDeque<Instant>,
    tokens: f64,
    counted: Instant,
}

/// One link and its token.
#[derive(Debug)]
pub struct Opening {
    openings: Arc<Openings>,
    opened: Instant,
    has_asked: AtomicBool,
    evicted: CancellationToken,
}

impl Openings {
    /// Allows `most` links to ask for a sync within a minute.
    pub fn new(most: usize, now: Instant) -> Self {
        let tokens = most.max(FEWEST_TOKENS) as f64;
        Self { most, lately: Mutex::new(Lately { asked: VecDeque::new(), tokens, counted: now }) }
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().expect("no code panics while it holds the openings")
    }

    fn capacity(&self) -> f64 {
        self.most.max(FEWEST_TOKENS) as f64
    }

    /// Takes a token for a new link. The error is the number of links that have come and not asked
    /// for a sync.
    pub fn open(self: &Arc<Self>, now: Instant) -> Result<Arc<Opening>, usize> {
        let mut lately = self.lately();
        let grown = now.saturating_duration_since(lately.counted).as_secs_f64() / MINUTE.as_secs_f64();
        lately.tokens = (lately.tokens + grown * self.capacity()).min(self.capacity());
        lately.counted = lately.counted.max(now);
        if lately.tokens < 1.0 {
            return Err(self.most.max(FEWEST_TOKENS));
        }
        lately.tokens -= 1.0;
        Ok(Arc::new(Opening {
            openings: Arc::clone(self),
            opened: now,
            has_asked: AtomicBool::new(false),
            evicted: CancellationToken::new(),
        }))
    }

    fn give_back(&self) {
        let mut lately = self.lately();
        lately.tokens = (lately.tokens + 1.0).min(self.capacity());
    }
}

impl Opening {
    /// The link asks for a sync. Only the first request counts. The error is the time after which
    /// it may ask again.
    pub fn asks(&self, now: Instant) -> Result<(), Duration> {
        if self.has_asked() {
            return Ok(());
        }
        let mut lately = self.openings.lately();
        while lately.asked.front().is_some_and(|then| now.saturating_duration_since(*then) >= MINUTE) {
            lately.asked.pop_front();
        }
        if let Some(oldest) = lately.asked.front()
            && lately.asked.len() >= self.openings.most
        {
            return Err(MINUTE.saturating_sub(now.saturating_duration_since(*oldest)));
        }
        lately.asked.push_back(now);
        drop(lately);
        self.has_asked.store(true, Ordering::Relaxed);
        self.openings.give_back();
        Ok(())
    }

    /// Gives the token back if the link could not ask for a sync because the master is down.
    pub fn forgive(&self) {
        self.openings.give_back();
    }

    /// Whether it has asked for a sync.
    pub fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Tells the link to end, to make room for another link of its site.
    pub fn evict(&self) {
        self.evicted.cancel();
    }

    /// Whether the link was told to end.
    pub fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Cancelled when the link is told to end.
    pub fn eviction(&self) -> CancellationToken {
        self.evicted.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn links_that_never_ask_do_not_use_up_the_syncs() {
        let start = Instant::now();
        let openings = Arc::new(Openings::new(2, start));
        let idle: Vec<_> = (0..59).map(|_| openings.open(start).unwrap()).collect();
        let replica = openings.open(start).unwrap();
        assert_eq!(openings.open(start).unwrap_err(), 60, "all tokens are taken");
        replica.asks(start).unwrap();
        replica.asks(start).unwrap();
        openings.open(start).unwrap().asks(start).unwrap();
        let third = openings.open(start).unwrap();
        assert_eq!(third.asks(after(start, 20)).unwrap_err(), Duration::from_secs(40));
        third.asks(after(start, 60)).unwrap();
        drop(idle);
    }

    #[test]
    fn tokens_grow_again_over_a_minute_and_no_further() {
        let start = Instant::now();
        let openings = Arc::new(Openings::new(120, start));
        let take = |now| (0..).take_while(|_| openings.open(now).is_ok()).count();
        assert_eq!(take(start), 120);
        assert_eq!(take(after(start, 1)), 2);
        assert_eq!(take(after(start, 900)), 120);
        openings.open(after(start, 901)).unwrap().forgive();
        assert_eq!(take(after(start, 901)), 2);
    }
}
