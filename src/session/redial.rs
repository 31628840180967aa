//! Finds a link's way back: dials the far site again and again, and attaches what is
//! accepted. Each dial is a race over every address, what was good last first.
//!
//! When and how often is the link's to say; here is how. Names are resolved anew
//! during a break, but what was known before stays good: the resolver may be behind
//! the same broken path.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::dial::{self, Attached, Failure};
use crate::config::Replica;
use crate::lane::Lane;
use crate::link::End;
use crate::link::dials::Dial;
use crate::race::run::MAX_ADDRESSES;
use crate::wire::frame::Frame;
use crate::wire::hello::{Accept, Id, Request};
use crate::wire::reason::ReasonCode;

/// Names are resolved again after this time.
const RESOLVE_EVERY: Duration = Duration::from_secs(3);

/// Answers "unknown link" of one address before they count: behind it there may be
/// several gateways.
const UNKNOWN: u32 = 4;

/// How long an address that does not answer may be the one that knows the link, while
/// every other says that it does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// For a stopping gateway to tell that a link is over.
const STOPPING: Duration = Duration::from_secs(3);

/// Pause between two attempts to tell a far side that a link is over.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What became of a dial.
#[derive(Debug)]
pub enum Dialled {
    /// A lane, which the far side has accepted.
    Lane(u32, Box<Lane>, Accept),
    /// Nothing, for this reason.
    Failed(u32, String),
    /// Nothing, because the far side does not have the link any more.
    Over(u32, End),
}

/// What an address has said in this break.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// How often that it does not know the link.
    unknown: u32,
    /// And how often nothing.
    nothing: u32,
}

/// The dials of one link.
pub struct Redial {
    shared: Arc<Shared>,
    replica: Arc<Replica>,
    link: Id,
    instance: Id,
    attempts: JoinSet<(u32, Attached)>,
    /// What was good last first.
    known: Vec<SocketAddr>,
    /// One permit for each address: several dials of a link do not queue there.
    queues: HashMap<SocketAddr, Arc<Semaphore>>,
    resolving: Option<JoinHandle<Vec<SocketAddr>>>,
    resolved: Option<Instant>,
    said: HashMap<SocketAddr, Said>,
    /// Since when nothing carries the link: what was said before that does not count.
    held: Option<Instant>,
}

impl std::fmt::Debug for Redial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redial").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Redial {
    /// For a link that `instance` of the far gateway has accepted, at `first`.
    pub fn new(
        shared: &Arc<Shared>,
        replica: &Arc<Replica>,
        link: Id,
        instance: Id,
        first: SocketAddr,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            replica: Arc::clone(replica),
            link,
            instance,
            attempts: JoinSet::new(),
            known: vec![first],
            queues: HashMap::new(),
            resolving: None,
            resolved: None,
            said: HashMap::new(),
            held: None,
        }
    }

    /// Starts a dial, for a link that is `held` or wants one more
    /// lane. Must be called from a task.
    pub fn start(&mut self, dial: &Dial, held: bool) {
        if held != self.held.is_some() {
            self.held = held.then(Instant::now);
            self.said.clear();
        }
        if self.resolving.is_none() && self.resolved.is_none_or(|then| then.elapsed() >= RESOLVE_EVERY) {
            let (replica, known) = (Arc::clone(&self.replica), self.known.clone());
            self.resolving = Some(tokio::spawn(async move { dial::addresses(&replica, known).await }));
        }
        let queues = &mut self.queues;
        let queue =
            |address| Arc::clone(queues.entry(address).or_insert_with(|| Arc::new(Semaphore::new(1))));
        let addresses: Vec<_> =
            self.known.iter().copied().zip(self.known.iter().copied().map(queue)).collect();
        let want = Request::Attach {
            link: self.link,
            lane: dial.lane,
            alive: dial.alive.clone(),
            received: dial.received,
        };
        let (shared, replica, lane) = (Arc::clone(&self.shared), Arc::clone(&self.replica), dial.lane);
        let attached = dial::attach(shared, replica, addresses, self.instance, want);
        self.attempts.spawn(async move { (lane, attached.await) });
    }

    /// The next dial that came to an end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Dialled> {
        if let Some(resolving) = &mut self.resolving
            && let Poll::Ready(found) = std::pin::Pin::new(resolving).poll(cx)
        {
            (self.resolving, self.resolved) = (None, Some(Instant::now()));
            // The first is what was good last, whatever its name stands for now.
            let found = found.unwrap_or_default();
            self.known.splice(1..1, found);
            let mut seen = HashSet::new();
            self.known.retain(|address| seen.insert(*address));
            self.known.truncate(MAX_ADDRESSES);
            self.queues.retain(|address, _| self.known.contains(address));
        }
        match self.attempts.poll_join_next(cx) {
            Poll::Ready(Some(Ok((lane, attached)))) => Poll::Ready(self.judge(lane, attached)),
            Poll::Ready(Some(Err(_))) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Gives up every dial that is under way, and forgets what addresses said.
    pub fn settle(&mut self) {
        self.attempts.abort_all();
        while self.attempts.try_join_next().is_some() {}
        self.said.clear();
    }

    fn judge(&mut self, lane: u32, attached: Attached) -> Dialled {
        let mut words = "no address of the far site is known".to_owned();
        for (address, failure) in attached.failed {
            words = format!("{address}: {failure}");
            let said = self.said.entry(address).or_default();
            match failure {
                Failure::Refused(refuse) if refuse.reason.code == ReasonCode::LinkEnded => {
                    return Dialled::Over(lane, End::Far(refuse.reason));
                }
                Failure::Refused(refuse) if refuse.reason.code == ReasonCode::UnknownLink => {
                    said.unknown += 1
                }
                _ => said.nothing += 1,
            }
        }
        if let Some((address, opened, accept)) = attached.lane {
            self.known.retain(|other| *other != address);
            self.known.insert(0, address);
            return Dialled::Lane(lane, Box::new(opened), accept);
        }
        let knows = |said: &Said| said.unknown < UNKNOWN;
        let said: Vec<Said> =
            self.known.iter().map(|address| self.said.get(address).copied().unwrap_or_default()).collect();
        let patient = self.held.is_some_and(|since| since.elapsed() < PATIENCE);
        // One that does not answer may be the one that knows it, for a while.
        let may_know = |said: &Said| knows(said) && (said.unknown > 0 || patient || said.nothing == 0);
        if said.iter().any(|said| !knows(said)) && !said.iter().any(may_know) {
            let site = &self.replica.site;
            let words = format!("no gateway of {site} that answers knows the link any more");
            return Dialled::Over(lane, End::Forgotten(words));
        }
        Dialled::Failed(lane, words)
    }

    /// Dials until the far side has heard `words` about a link that has ended here,
    /// for at most `within`; it would hold it for nothing. `dial` is renumbered.
    pub async fn tell(mut self, words: &[Frame], mut dial: Dial, within: Duration) {
        self.settle();
        // None of them is left.
        dial.alive.clear();
        let shared = Arc::clone(&self.shared);
        let telling = timeout(within, async {
            loop {
                dial.lane += 1;
                self.start(&dial, true);
                match std::future::poll_fn(|cx| self.poll(cx)).await {
                    Dialled::Lane(_, mut lane, _) => {
                        let mut said = true;
                        for frame in words {
                            said &= lane.send(frame).await.is_ok();
                        }
                        // It closes as well once it has heard.
                        if said && lane.close().await {
                            return;
                        }
                    }
                    // Ended there, or known nowhere.
                    Dialled::Over(..) => return,
                    Dialled::Failed(..) => sleep(TELL_EVERY).await,
                }
            }
        });
        let stopped = async {
            shared.stop.cancelled().await;
            sleep(STOPPING).await;
        };
        tokio::select! {
            _ = telling => {}
            () = stopped => {}
        }
    }
}
