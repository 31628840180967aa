//! Dials the far site repeatedly for a link that is up, and returns the accepted lanes. Each dial
//! is a race over every address, which starts with the one that worked last.
//!
//! The link decides when and how often to dial. Names are resolved again during a break, but known
//! addresses are kept: the resolver may be behind the same broken path.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::policy::{Answer, Answers};
use super::spread::Spread;
use super::{self as dial, Attached, BEHIND_ONE, Dialer, Failure};
use crate::config::Replica;
use crate::escape::shown;
use crate::lane::Lane;
use crate::link::End;
use crate::link::dials::Dial;
use crate::race::run::MAX_ADDRESSES;
use crate::registry;
use crate::wire::frame::Frame;
use crate::wire::hello::{Accept, Id, Identity, Request};
use crate::wire::reason::ReasonCode;

/// Time after which names are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(3);

/// Time a stopping gateway has to tell the far side that a link is over.
const STOPPING: Duration = Duration::from_secs(3);

/// Most refused connections of a held link that are kept open.
const ASIDE: usize = 16;

/// Pause between two attempts to tell a far side that a link is over.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// The result of a dial.
#[derive(Debug)]
pub enum Dialled {
    /// A lane that the far side has accepted.
    Lane(u32, Box<Lane>, Accept),
    /// No lane, for this reason.
    Failed(u32, String),
    /// No lane, because the far side does not have the link any more.
    Over(u32, End),
}

/// What a dial is for.
#[derive(Clone, Copy, Debug)]
pub enum Want<'a> {
    /// The link is held and needs any lane.
    Any,
    /// It wants one more lane than those at these addresses.
    More(&'a [SocketAddr]),
    /// The same, if few other links of the site do: nothing has come over its lanes for a while, which
    /// may pass.
    Spare(&'a [SocketAddr]),
    /// It wants a lane in place of one at these addresses that is still good, when it has a turn among the
    /// other links of the site that do.
    Renew(&'a [SocketAddr]),
    /// It wants a lane in place of one of those at these addresses, where there are fewer.
    Move(&'a [SocketAddr]),
}

/// The dials of one link.
pub struct Redial {
    dialer: Arc<Dialer>,
    replica: Arc<Replica>,
    link: Id,
    far: Identity,
    attempts: JoinSet<(u32, Attached)>,
    /// The addresses; the one that worked last is first.
    known: Vec<SocketAddr>,
    /// One permit for each address, so that several dials of a link do not queue there.
    queues: HashMap<SocketAddr, Arc<Semaphore>>,
    /// How lanes are spread over them.
    spread: Spread,
    resolving: Option<JoinHandle<Vec<(SocketAddr, usize)>>>,
    resolved: Option<Instant>,
    answers: Answers,
    /// Connections that other gateways have refused in this break, the oldest first.
    aside: VecDeque<TcpStream>,
    /// Also referenced by each dial that waits for the answer to its HELLO.
    asking: Arc<()>,
}

impl std::fmt::Debug for Redial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redial").field("known", &self.known).finish_non_exhaustive()
    }
}

/// The addresses of an entry that need no resolving.
fn known(replica: &Replica) -> (Vec<SocketAddr>, Spread) {
    let (mut known, mut spread) = (Vec::new(), Spread::default());
    for (provider, peer) in replica.peers.iter().enumerate() {
        if let Ok(ip) = peer.host.parse() {
            let address = SocketAddr::new(ip, peer.port);
            spread.note(address, provider);
            known.push(address);
        }
    }
    known.truncate(MAX_ADDRESSES);
    (known, spread)
}

impl Redial {
    /// The dials of a link that `far` has accepted at the address `first`.
    pub fn new(
        dialer: &Arc<Dialer>,
        replica: &Arc<Replica>,
        link: Id,
        far: Identity,
        first: SocketAddr,
    ) -> Self {
        let (mut known, spread) = known(replica);
        known.retain(|address| *address != first);
        known.insert(0, first);
        known.truncate(MAX_ADDRESSES);
        Self {
            dialer: Arc::clone(dialer),
            replica: Arc::clone(replica),
            link,
            far,
            attempts: JoinSet::new(),
            known,
            spread,
            queues: HashMap::new(),
            resolving: None,
            resolved: None,
            answers: Answers::default(),
            aside: VecDeque::new(),
            asking: Arc::default(),
        }
    }

    /// An address with a lane of those `in_use` that had better be at another one.
    pub fn uneven(&self, in_use: &[SocketAddr]) -> Option<SocketAddr> {
        self.spread.uneven(&self.known, in_use).map(|(address, _)| address)
    }

    /// Uses the entry of the config as it is now, for the site that has the link. Addresses that it does not
    /// name any more are not dialled again.
    fn look_at_config(&mut self) {
        let config = self.dialer.config.now();
        let now = config.replica(&self.replica.name).and_then(|entry| entry.at(&self.replica.site));
        // Without the site the link is about to end.
        let Some(now) = now else { return };
        if now.peers != self.replica.peers {
            (self.known, self.spread) = known(&now);
            (self.resolving, self.resolved) = (None, None);
        }
        self.replica = now;
    }

    /// Starts a dial. Must be called from a task.
    pub fn start(&mut self, dial: &Dial, want: Want<'_>) {
        self.look_at_config();
        let held = matches!(want, Want::Any);
        self.answers.dial_begins(held, Instant::now());
        if held {
            self.spread.forget(&self.known);
        }
        if self.resolving.is_none() && self.resolved.is_none_or(|then| then.elapsed() >= RESOLVE_EVERY) {
            let replica = Arc::clone(&self.replica);
            self.resolving = Some(tokio::spawn(async move { dial::addresses(&replica).await }));
        }
        let queues = &mut self.queues;
        let queue =
            |address| Arc::clone(queues.entry(address).or_insert_with(|| Arc::new(Semaphore::new(1))));
        let sparing = match want {
            Want::Spare(_) => Some(self.dialer.ways.sparing(&self.replica.site)),
            _ => None,
        };
        let order = match want {
            _ if sparing.as_ref().is_some_and(Option::is_none) => Vec::new(),
            Want::Any => self.known.clone(),
            Want::More(in_use) | Want::Spare(in_use) | Want::Renew(in_use) => {
                self.spread.order(&self.known, in_use)
            }
            Want::Move(in_use) => {
                self.spread.uneven(&self.known, in_use).map(|(_, better)| better).unwrap_or_default()
            }
        };
        let addresses: Vec<_> = order.iter().copied().zip(order.iter().copied().map(queue)).collect();
        let renews = matches!(want, Want::Renew(_));
        let want = Request::Attach {
            link: self.link,
            lane: dial.lane,
            alive: dial.alive.clone(),
            received: dial.received,
        };
        let (dialer, replica, lane) = (Arc::clone(&self.dialer), Arc::clone(&self.replica), dial.lane);
        let asking = Arc::downgrade(&self.asking);
        // While the link's own gateway is down, the others are asked less often.
        let tries = if self.aside.len() < ASIDE { BEHIND_ONE } else { 1 };
        let far = self.far.clone();
        self.attempts.spawn(async move {
            let renewing = match renews {
                true => Some(dialer.ways.renewing(&replica.site).await),
                false => None,
            };
            let attached =
                dial::attach(Arc::clone(&dialer), replica, addresses, far, tries, want, asking).await;
            drop((sparing, renewing));
            (lane, attached)
        });
    }

    /// Whether a far gateway has got the HELLO of a dial and has not answered yet.
    pub fn awaits_answer(&self) -> bool {
        Arc::strong_count(&self.asking) > 1
    }

    /// Waits for the end of the next dial.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Dialled> {
        if let Some(resolving) = &mut self.resolving
            && let Poll::Ready(found) = std::pin::Pin::new(resolving).poll(cx)
        {
            (self.resolving, self.resolved) = (None, Some(Instant::now()));
            // The first address is the one that worked last, even if its name has other addresses
            // now.
            let found = found.unwrap_or_default();
            found.iter().for_each(|(address, provider)| self.spread.note(*address, *provider));
            let first = self.known.len().min(1);
            self.known.splice(first..first, found.into_iter().map(|(address, _)| address));
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

    /// Gives up every dial that is under way, and forgets the answers of addresses.
    pub fn settle(&mut self) {
        self.attempts.abort_all();
        while self.attempts.try_join_next().is_some() {}
        self.answers.clear();
        self.aside.clear();
    }

    /// Whether a gateway that does not know the link is the one that had it, or has taken its place.
    fn is_its_own(&self, node: &str, instance: Id) -> bool {
        node == self.far.node && (instance == self.far.instance || self.dialer.ways.is_succeeded(&self.far))
    }

    /// Keeps refused connections open, so that a load balancer that sends a connection where the fewest
    /// are does not send each to the same wrong gateway.
    fn keep_aside(&mut self, refused: Vec<TcpStream>) {
        self.aside.extend(refused);
        let surplus = self.aside.len().saturating_sub(ASIDE);
        self.aside.drain(..surplus);
    }

    /// Counts a dial, if it tried any address.
    fn count(&self, attached: &Attached) {
        let answered = |failure: &Failure| matches!(failure, Failure::Refused(_));
        let dialled = match (&attached.lane, &attached.failed[..]) {
            (Some(_), _) => registry::Dialled::Opened,
            // It had no turn, or no better address.
            (None, []) if !self.known.is_empty() => return,
            (None, failed) if failed.iter().any(|(_, failure)| answered(failure)) => {
                registry::Dialled::Refused
            }
            (None, _) => registry::Dialled::Unreached,
        };
        self.dialer.registry.note_dial(&self.replica.name, &self.replica.site, dialled);
    }

    fn judge(&mut self, lane: u32, attached: Attached) -> Dialled {
        self.count(&attached);
        let mut words = "no address of the far site is known".to_owned();
        for (address, failure) in attached.failed {
            words = format!("{address}: {failure}");
            let answer = match failure {
                Failure::Refused(refuse) if refuse.reason.code == ReasonCode::LinkEnded => {
                    return Dialled::Over(lane, End::Far(refuse.reason));
                }
                Failure::Refused(refuse) if refuse.reason.code == ReasonCode::UnknownLink => {
                    self.spread.note_foreign(address);
                    match &refuse.by {
                        None => Answer::UnknownLink,
                        Some((node, instance)) if self.is_its_own(node, *instance) => {
                            let words = format!(
                                "its gateway {} does not know the link any more",
                                shown(node.as_bytes())
                            );
                            return Dialled::Over(lane, End::Forgotten(words));
                        }
                        Some(_) => Answer::Nothing,
                    }
                }
                _ => Answer::Nothing,
            };
            self.answers.note(address, answer);
        }
        if let Some((address, opened, accept)) = attached.lane {
            self.known.retain(|other| *other != address);
            self.known.insert(0, address);
            self.aside.clear();
            return Dialled::Lane(lane, Box::new(opened), accept);
        }
        if self.answers.is_of_a_break() {
            self.keep_aside(attached.aside);
        }
        if self.dialer.ways.is_succeeded(&self.far) {
            self.answers.succeeded();
        }
        if self.answers.is_forgotten(&self.known, Instant::now()) {
            let site = &self.replica.site;
            let words = format!("no gateway of {site} that answers knows the link any more");
            return Dialled::Over(lane, End::Forgotten(words));
        }
        Dialled::Failed(lane, words)
    }

    /// Dials until the far side has received `words` about a link that has ended here, for at most
    /// `within`, or until another process has replaced it. Otherwise the far side would hold the
    /// link in vain. `dial` gets new numbers.
    pub async fn tell(mut self, words: &[Frame], mut dial: Dial, within: Duration) {
        self.settle();
        // None of its lanes is left.
        dial.alive.clear();
        let (dialer, far) = (Arc::clone(&self.dialer), self.far.clone());
        let site = self.replica.site.clone();
        let telling = timeout(within, async {
            loop {
                let few = dialer.ways.telling(&site).await;
                dial.lane += 1;
                self.start(&dial, Want::Any);
                let dialled = std::future::poll_fn(|cx| self.poll(cx)).await;
                drop(few);
                match dialled {
                    Dialled::Lane(_, mut lane, _) => {
                        let mut said = true;
                        for frame in words {
                            said &= lane.send(frame).await.is_ok();
                        }
                        // The far side closes too when it has received the frame.
                        if said && lane.close().await {
                            return;
                        }
                    }
                    // The link has ended there, or no gateway knows it.
                    Dialled::Over(..) => return,
                    Dialled::Failed(..) => sleep(TELL_EVERY).await,
                }
            }
        });
        let stopped = async {
            dialer.stop.cancelled().await;
            sleep(STOPPING).await;
        };
        tokio::select! {
            _ = telling => {}
            () = dialer.ways.succeeded(&far) => {}
            () = stopped => {}
        }
    }
}
