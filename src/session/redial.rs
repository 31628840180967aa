//! Finds a link's way back: dials the far site again and again, over every peer
//! and address, and attaches what is accepted.
//!
//! When and how often is the link's to say; here is how. Names are resolved anew
//! during a break, but what was known before stays good: the resolver may be behind
//! the same broken path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::dial::{self, Failure};
use crate::config::Replica;
use crate::lane::Lane;
use crate::link::attach::Dial;
use crate::link::frame::Frame;
use crate::link::tlv::{Accept, Code, Id, Want, Why};

/// Names are resolved again after this time.
const RESOLVE_EVERY: Duration = Duration::from_secs(3);

/// Pause between two attempts to tell a far side that a link is over.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What became of a dial.
#[derive(Debug)]
pub enum Dialled {
    /// A lane, which the far side has accepted.
    Lane(u32, Box<Lane>, Accept),
    /// Nothing.
    Failed(u32),
    /// Nothing, because the far side has given the link up, in these words.
    Over(u32, Why),
}

/// What an address last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Unknown,
    Nothing,
}

type Attempt = (u32, SocketAddr, Result<(Lane, Accept), Failure>);

/// The dials of one link.
pub struct Redial {
    shared: Arc<Shared>,
    replica: Arc<Replica>,
    link: Id,
    instance: Id,
    attempts: JoinSet<Attempt>,
    known: Vec<SocketAddr>,
    next: usize,
    resolving: Option<JoinHandle<Vec<SocketAddr>>>,
    resolved: Option<Instant>,
    said: HashMap<SocketAddr, Said>,
    /// Whether nothing carries the link: what was said before that does not count.
    held: bool,
}

impl std::fmt::Debug for Redial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redial").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Redial {
    /// For a link that was accepted by `accept`, at `first`.
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
            next: 0,
            resolving: None,
            resolved: None,
            said: HashMap::new(),
            held: false,
        }
    }

    /// Starts a dial to the next address, for a link that is `held` or wants one more
    /// lane. Must be called from a task.
    pub fn start(&mut self, dial: &Dial, held: bool) {
        if held != self.held {
            self.held = held;
            self.said.clear();
        }
        if self.resolving.is_none() && self.resolved.is_none_or(|then| then.elapsed() >= RESOLVE_EVERY) {
            let (replica, known) = (Arc::clone(&self.replica), self.known.clone());
            self.resolving = Some(tokio::spawn(async move { dial::addresses(&replica, known).await }));
        }
        let address = self.known[self.next % self.known.len()];
        self.next += 1;
        let want = Want::Attach {
            link: self.link,
            lane: dial.lane,
            alive: dial.alive.clone(),
            received: dial.received,
        };
        let (shared, replica, lane) = (Arc::clone(&self.shared), Arc::clone(&self.replica), dial.lane);
        self.attempts
            .spawn(async move { (lane, address, dial::open(&shared, &replica, address, want).await) });
    }

    /// The next dial that came to an end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Dialled> {
        if let Some(resolving) = &mut self.resolving
            && let Poll::Ready(found) = std::pin::Pin::new(resolving).poll(cx)
        {
            (self.resolving, self.resolved) = (None, Some(Instant::now()));
            self.known = found.unwrap_or_default().into_iter().chain(self.known.drain(..)).collect();
            let mut seen = std::collections::HashSet::new();
            self.known.retain(|address| seen.insert(*address));
            self.known.truncate(dial::MAX_ADDRESSES);
        }
        match self.attempts.poll_join_next(cx) {
            Poll::Ready(Some(Ok((lane, address, outcome)))) => {
                Poll::Ready(self.judge(lane, address, outcome))
            }
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

    fn judge(&mut self, lane: u32, address: SocketAddr, outcome: Result<(Lane, Accept), Failure>) -> Dialled {
        let said = match outcome {
            Ok((opened, accept)) if accept.identity.instance == self.instance => {
                return Dialled::Lane(lane, Box::new(opened), accept);
            }
            Ok(_) => Said::Nothing,
            Err(Failure::Refused(refuse)) => match refuse.why.code {
                Code::LinkEnded => return Dialled::Over(lane, refuse.why),
                Code::UnknownLink => Said::Unknown,
                _ => Said::Nothing,
            },
            Err(_) => Said::Nothing,
        };
        self.said.insert(address, said);
        let all = self.known.iter().all(|address| self.said.contains_key(address));
        if all && self.said.values().any(|said| *said == Said::Unknown) {
            let site = &self.replica.site;
            let words = format!("no gateway of {site} that answers knows the link any more");
            return Dialled::Over(lane, Why::new(Code::UnknownLink, &words));
        }
        Dialled::Failed(lane)
    }

    /// Dials until the far side has heard `words` about a link that has ended here,
    /// for at most `within`; it would hold it for nothing. `dial` is renumbered.
    pub async fn tell(mut self, words: &[Frame], mut dial: Dial, within: Duration) {
        self.settle();
        let shared = Arc::clone(&self.shared);
        let telling = timeout(within, async {
            loop {
                dial.lane += 1;
                self.start(&dial, true);
                match std::future::poll_fn(|cx| self.poll(cx)).await {
                    Dialled::Lane(_, mut lane, _) => {
                        for frame in words {
                            let _ = lane.send(frame).await;
                        }
                        lane.close().await;
                        return;
                    }
                    Dialled::Over(..) => return,
                    Dialled::Failed(_) => sleep(TELL_EVERY).await,
                }
            }
        });
        tokio::select! {
            _ = telling => {}
            () = shared.stop.cancelled() => {}
        }
    }
}
