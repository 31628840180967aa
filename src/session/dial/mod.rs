//! Finds a lane to the far site, and has it accepted there.
//!
//! The addresses race for a TLS connection ([`crate::race`]). HELLO is sent only on the winner, so
//! that no far gateway keeps a link that is not used. If the answer is a refusal, or none comes,
//! the race continues.

mod policy;
pub mod redial;
mod spread;
pub mod ways;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::ways::{LATELY, Ways};

use crate::config::{Config, Replica};
use crate::current::Current;
use crate::lane::{Lane, LaneError};
use crate::link::Side;
use crate::race::run::{Attempts, Event};
use crate::registry::{Dialled, Registry};
use crate::session::exchange::opening::{self, Unfit};
use crate::session::exchange::{Exchange, Far};
use crate::session::{HELLO_DEADLINE, Process, congestion, dialling_terms, tune};
use crate::tls::handshake::Handshakes;
use crate::tls::loaded::Loaded;
use crate::wire::frame::Frame;
use crate::wire::hello::{Accept, Hello, Id, Identity, Refuse, Request, VERSION};
use crate::wire::reason::{Reason, ReasonCode};

/// Time an address is given to accept a TCP connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Time the far gateway is given to answer HELLO. It may be waiting for its Redis.
const ANSWER_DEADLINE: Duration = Duration::from_secs(6);

/// Time given to all addresses of all peers together, from the first turn at one of them on.
const DIAL_DEADLINE: Duration = Duration::from_secs(12);

/// Time given to the first turn, while other connections to the same site are opened.
const TURN_DEADLINE: Duration = Duration::from_secs(20);

/// How long a replica waits for a far gateway that was there a moment ago, and is probably being
/// restarted: Redis itself would try again only after a second.
const RESTARTING: Duration = Duration::from_secs(3);

/// Pause between two attempts meanwhile.
const RESTARTING_EVERY: Duration = Duration::from_millis(100);

/// Time given to tell a far gateway that answered too late that its lane is not used.
const LET_GO: Duration = Duration::from_secs(2);

/// Most connections to one address that a dial makes to find the one gateway, of several behind it,
/// that has a link, or carries a replica's other connection.
const BEHIND_ONE: usize = 4;

/// What dials need from this process.
#[derive(Debug)]
pub struct Dialer {
    /// The identity in HELLO.
    pub process: Process,
    /// The config in use.
    pub config: Arc<Current<Config>>,
    /// The certificates in use.
    pub tls: Arc<Current<Loaded>>,
    /// The certificates with which lanes were opened, at either side.
    pub handshakes: Handshakes,
    /// The registry, to find other links of the same replica entry.
    pub registry: Arc<Registry>,
    /// Exchanges revocation lists with other gateways.
    pub exchange: Arc<Exchange>,
    /// Changes with each reload.
    pub reloads: watch::Sender<u64>,
    /// Turns at addresses, and the addresses that worked last.
    pub ways: Ways,
    /// Cancelled when the gateway stops.
    pub stop: CancellationToken,
}

impl Dialer {
    /// A dialer for a process that has opened nothing yet.
    pub fn new(
        process: Process,
        config: Config,
        loaded: Loaded,
        exchange: Exchange,
        stop: CancellationToken,
    ) -> Self {
        exchange.offer(&loaded.material.revocation, Instant::now());
        let (config, tls) = (Arc::new(Current::new(config)), Arc::new(Current::new(loaded)));
        Self {
            process,
            config,
            tls,
            handshakes: Handshakes::default(),
            registry: Arc::default(),
            exchange: Arc::new(exchange),
            reloads: watch::Sender::default(),
            ways: Ways::default(),
            stop,
        }
    }
}

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The far gateway refused it.
    #[error("refused: {}", crate::escape::shown(.0.reason.text.as_bytes()))]
    Refused(Refuse),
    /// It accepted, but offers something else than what is wanted; the reason.
    #[error("{0}")]
    Unfit(String),
    /// The dial failed before the far gateway answered.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Whether a gateway answered that is not the requested one.
    fn is_other_instance(&self) -> bool {
        matches!(self, Self::Refused(refuse) if refuse.reason.code == ReasonCode::WrongInstance)
    }

    /// Whether a gateway other than that on `node` answered that it does not know the link.
    fn is_of_another(&self, node: &str) -> bool {
        matches!(self, Self::Refused(refuse) if refuse.reason.code == ReasonCode::UnknownLink
            && refuse.by.as_ref().is_some_and(|(other, _)| other != node))
    }

    /// Whether a gateway answered, and does not stop.
    fn is_answer(&self) -> bool {
        match self {
            Self::Refused(refuse) => refuse.reason.code != ReasonCode::Stopping,
            Self::Unfit(_) => true,
            Self::Other(_) => false,
        }
    }
}

/// Why no address of a far site has accepted a lane.
#[derive(Debug)]
pub struct Unreached {
    /// What each address answered.
    pub words: String,
    /// Whether any gateway answered.
    pub answered: bool,
    /// Every refusal.
    pub refusals: Vec<Refuse>,
}

impl Unreached {
    /// Whether a gateway answered that its site has no master now.
    pub fn has_no_master(&self) -> bool {
        self.refusals.iter().any(|refuse| refuse.reason.code == ReasonCode::NoMaster)
    }
}

/// Asks the far site about a master without opening a link.
pub async fn probe(dialer: &Arc<Dialer>, replica: &Arc<Replica>) -> Result<(SocketAddr, Accept), Unreached> {
    let reached = reach(dialer, replica, about(replica), |_| Ok(())).await?;
    Ok(part(reached).await)
}

/// As [`probe`], but it counts as no dial, and changes nothing for later ones. Only the addresses of the entry are
/// tried, not that of other links: each gateway of a site may have something else to say.
pub async fn look(dialer: &Arc<Dialer>, replica: &Arc<Replica>) -> Result<(SocketAddr, Accept), Unreached> {
    let reached = race(dialer, replica, None, about(replica), |_| Ok(())).await?;
    Ok(part(reached).await)
}

/// The question about the master of an entry.
fn about(replica: &Replica) -> impl Fn(Option<Id>) -> Request {
    let master = replica.master.clone();
    move |_| Request::Probe { master: master.clone() }
}

/// Closes the lane of a question that was answered.
async fn part((lane, accept): (Lane, Accept)) -> (SocketAddr, Accept) {
    let peer = lane.peer();
    let _ = timeout(Duration::from_secs(1), lane.close()).await;
    (peer, accept)
}

/// As [`reach`]; if nobody is there, but a gateway of the site was seen lately, it is tried for a
/// while.
pub(super) async fn reach_again(
    dialer: &Arc<Dialer>,
    replica: &Arc<Replica>,
    want: impl Fn(Option<Id>) -> Request,
    fits: impl Fn(&Accept) -> Result<(), String>,
) -> Result<(Lane, Accept), Unreached> {
    let until = Instant::now() + RESTARTING;
    loop {
        match reach(dialer, replica, &want, &fits).await {
            Err(unreached)
                if !unreached.answered && was_there(dialer, &replica.site) && Instant::now() < until =>
            {
                sleep(RESTARTING_EVERY).await;
            }
            reached => return reached,
        }
    }
}

/// Whether a gateway of the site was there a moment ago. The end of a link may not be recorded yet when its
/// replica asks again.
fn was_there(dialer: &Dialer, site: &str) -> bool {
    dialer.ways.was_seen_lately(site) || dialer.registry.carried_lately(site, LATELY)
}

/// Races over every address of every peer until one accepts, and `fits` finds nothing wrong with that. While
/// other links of this replica entry to this site are up, their address comes first, and their gateway before
/// any other.
async fn reach(
    dialer: &Arc<Dialer>,
    replica: &Arc<Replica>,
    want: impl Fn(Option<Id>) -> Request,
    fits: impl Fn(&Accept) -> Result<(), String>,
) -> Result<(Lane, Accept), Unreached> {
    let sibling = dialer.registry.sibling(&replica.name, &replica.site);
    let reached = race(dialer, replica, sibling, want, fits).await;
    let dialled = match &reached {
        Ok(_) => Dialled::Opened,
        Err(unreached) if unreached.answered => Dialled::Refused,
        Err(_) => Dialled::Unreached,
    };
    dialer.registry.note_dial(&replica.name, &replica.site, dialled);
    if let Ok((lane, _)) = &reached {
        dialer.ways.was_good(Side::Dialler, &replica.name, lane.peer());
    }
    reached
}

/// As [`reach`], but nothing of it is noted. `sibling` is the address and the gateway of another link of the entry.
async fn race(
    dialer: &Arc<Dialer>,
    replica: &Arc<Replica>,
    sibling: Option<(SocketAddr, Id)>,
    want: impl Fn(Option<Id>) -> Request,
    fits: impl Fn(&Accept) -> Result<(), String>,
) -> Result<(Lane, Accept), Unreached> {
    let instance = sibling.map(|(_, instance)| instance);
    let (mut failures, mut answered, mut refusals) = (Vec::new(), false, Vec::new());
    let judge = |(lane, accept): (Lane, Accept)| match fits(&accept) {
        Ok(()) => Ok((lane, accept)),
        Err(words) => {
            tokio::spawn(let_go(
                lane,
                ReasonCode::ReplicaClosed,
                "it goes on from another stream than the one that is followed",
            ));
            Err((Failure::Unfit(words), None))
        }
    };
    let turned = Arc::new(Notify::new());
    let open = |address| {
        let (dialer, replica, turned) = (Arc::clone(dialer), Arc::clone(replica), Arc::clone(&turned));
        async move { open(&dialer, &replica, address, None, &turned).await }
    };
    let reached = tokio::select! {
        reached = async {
            let last_good = dialer.ways.last_good(Side::Dialler, &replica.name);
            let mut race = Attempts::over(&replica.peers, last_good);
            let mut behind = 1;
            if let Some((address, _)) = sibling {
                race.favour(address);
            }
            // Addresses where another gateway answered are the last resort.
            let mut elsewhere = Vec::new();
            // A load balancer that sends a connection where the fewest are would send the next one
            // there again if these were closed.
            let mut aside = Vec::new();
            while let Some(event) = race.next(open).await {
                let (address, error) = match event {
                    Event::Unresolved(peer, why) => {
                        failures.push(format!("{peer}: {why}"));
                        continue;
                    }
                    Event::Failed(address, error) => (address, error),
                    Event::Opened(address, lane) => {
                        match greet(dialer, replica, lane, want(instance)).await.and_then(judge) {
                            Ok(reached) => return Some(reached),
                            Err((error, refused)) => {
                                aside.extend(refused);
                                (address, error)
                            }
                        }
                    }
                };
                answered |= error.is_answer();
                if let Failure::Refused(refuse) = &error {
                    refusals.push(refuse.clone());
                }
                if !error.is_other_instance() {
                    failures.push(format!("{}: {error}", race.shown(address)));
                } else if sibling.is_some_and(|(first, _)| first == address) && behind < BEHIND_ONE {
                    behind += 1;
                    race.again(address);
                } else {
                    elsewhere.push(address);
                }
            }
            drop(aside);
            let mut race = Attempts::among(elsewhere);
            while let Some(event) = race.next(open).await {
                let (address, error) = match event {
                    Event::Unresolved(..) => continue,
                    Event::Failed(address, error) => (address, error),
                    Event::Opened(address, lane) => {
                        match greet(dialer, replica, lane, want(None)).await.and_then(judge) {
                            Ok(reached) => return Some(reached),
                            Err((error, _)) => (address, error),
                        }
                    }
                };
                failures.push(format!("{address}: {error}"));
            }
            None
        } => reached,
        late = too_late(&turned, replica) => {
            failures.push(late);
            None
        }
    };
    reached.ok_or_else(|| Unreached { words: failures.join("; "), answered, refusals })
}

/// Completes when the time for a dial is over, which begins with its first turn. Returns the reason
/// in words.
async fn too_late(turned: &Notify, replica: &Replica) -> String {
    let site = &replica.site;
    if timeout(TURN_DEADLINE, turned.notified()).await.is_err() {
        let seconds = TURN_DEADLINE.as_secs();
        return format!("too many other connections to {site} are being opened: no turn within {seconds} s");
    }
    sleep(DIAL_DEADLINE).await;
    format!("no gateway of {site} answered within {} s", DIAL_DEADLINE.as_secs())
}

/// The answer of each address to a lane that asks for its link, and the lane if one was accepted.
pub(super) struct Attached {
    pub(super) lane: Option<(SocketAddr, Lane, Accept)>,
    pub(super) failed: Vec<(SocketAddr, Failure)>,
    /// Connections that were refused because they had come to another gateway. While they are open, a
    /// load balancer that sends a connection where the fewest are does not send the next one there
    /// again.
    pub(super) aside: Vec<TcpStream>,
}

/// Races over addresses for one more lane of a link that `far` has accepted. Ends early if a
/// gateway answers that the link is over. Where another gateway answers, there may be several behind
/// the address: it is tried up to `tries` times. `queues` has one permit for each address, so that
/// only one dial of a link at a time waits for a turn there. `asking` is referenced while an answer
/// is awaited.
pub(super) async fn attach(
    dialer: Arc<Dialer>,
    replica: Arc<Replica>,
    addresses: Vec<(SocketAddr, Arc<Semaphore>)>,
    far: Identity,
    tries: usize,
    want: Request,
    asking: Weak<()>,
) -> Attached {
    let mut attached = Attached { lane: None, failed: Vec::new(), aside: Vec::new() };
    let turned = Arc::new(Notify::new());
    let open = |address| {
        let (dialer, replica, turned) = (Arc::clone(&dialer), Arc::clone(&replica), Arc::clone(&turned));
        let queue = addresses.iter().find(|(other, _)| *other == address);
        let queue = queue.map(|(_, queue)| Arc::clone(queue));
        async move { open(&dialer, &replica, address, queue, &turned).await }
    };
    let greet = |lane| {
        let asking = asking.upgrade();
        let answer = greet(&dialer, &replica, lane, want.clone());
        async move {
            let answer = answer.await;
            drop(asking);
            answer
        }
    };
    let mut race = Attempts::among(addresses.iter().map(|(address, _)| *address));
    while let Some(event) = race.next(open).await {
        let (address, error) = match event {
            Event::Unresolved(..) => continue,
            Event::Failed(address, error) => (address, error),
            Event::Opened(address, lane) => match greet(lane).await {
                Ok((lane, accept)) if accept.identity.instance == far.instance => {
                    dialer.ways.was_good(Side::Dialler, &replica.name, address);
                    attached.lane = Some((address, lane, accept));
                    return attached;
                }
                Ok(_) => (
                    address,
                    Failure::Other(
                        "another gateway accepted the lane, although it does not have the link".into(),
                    ),
                ),
                Err((error, refused)) if error.is_of_another(&far.node) => {
                    attached.aside.extend(refused.map(|socket| *socket));
                    let before = attached.failed.iter().filter(|(other, _)| *other == address).count();
                    if before + 1 < tries {
                        race.again(address);
                    }
                    (address, error)
                }
                Err((error, _)) => (address, error),
            },
        };
        let over = matches!(&error, Failure::Refused(refuse) if refuse.reason.code == ReasonCode::LinkEnded);
        attached.failed.push((address, error));
        if over {
            break;
        }
    }
    attached
}

/// Opens one TLS connection to one address when it has a turn there; `turned` is notified then.
async fn open(
    dialer: &Dialer,
    replica: &Replica,
    address: SocketAddr,
    queue: Option<Arc<Semaphore>>,
    turned: &Notify,
) -> Result<Lane, Failure> {
    let queued = match queue {
        Some(queue) => queue.acquire_owned().await.ok(),
        None => None,
    };
    let _turn = dialer.ways.turn(&replica.site, address).await;
    drop(queued);
    turned.notify_one();
    let socket = match timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(Failure::Other(error.to_string())),
        Err(_) => {
            let (seconds, port) = (CONNECT_DEADLINE.as_secs(), address.port());
            return Err(Failure::Other(format!(
                "no answer within {seconds} s; does a firewall drop it? TCP port {port} must be open to this host"
            )));
        }
    };
    tune(&socket);
    let watched = congestion(&dialer.registry, &socket, &replica.link.congestion);
    let tls = dialer.tls.now();
    let Some(dial) = tls.dial(&replica.site) else {
        return Err(Failure::Other(format!("no TLS config for the site {}", replica.site)));
    };
    match timeout(HELLO_DEADLINE, Lane::dial(socket, dial, &tls.material.leaf)).await {
        Ok(Ok(mut lane)) => {
            if watched {
                lane.watch_startup();
            }
            let entered = lane.enter(&dialer.handshakes, &tls, &dialer.tls);
            entered.map(|()| lane).map_err(|error| Failure::Other(error.to_string()))
        }
        Ok(Err(error)) => Err(Failure::Other(error.to_string())),
        Err(_) => Err(Failure::Other(
            "TCP connects, but TLS gets no answer: is a gateway on that port, or a plain Redis? If it is a gateway, large packets may be lost on the path (MTU): try ping -M do -s 1400".to_owned(),
        )),
    }
}

/// Sends HELLO on a lane and waits for the answer. If it does not come in time, the far gateway is
/// told that the lane is not used. The connection of a lane that was refused is returned
/// too.
async fn greet(
    dialer: &Dialer,
    replica: &Replica,
    mut lane: Lane,
    want: Request,
) -> Result<(Lane, Accept), (Failure, Option<Box<TcpStream>>)> {
    let other = |words: String| Err((Failure::Other(words), None));
    let tls = dialer.tls.now();
    let ours = &tls.material.leaf;
    let terms = dialling_terms(&replica.link);
    let refuses_stale = dialer.config.now().refuses_stale;
    if refuses_stale
        && matches!(want, Request::Attach { .. })
        && let Some(words) = opening::stale(&dialer.tls, &lane)
    {
        // The link's data may come behind the ACCEPT. A new link finds out whether there is a later list.
        return other(words);
    }
    let identity = dialer.process.identity();
    let hello = Hello { version: VERSION, identity, request: want, terms: terms.clone() };
    let answer = timeout(ANSWER_DEADLINE, async {
        lane.send(&Frame::Hello(hello)).await?;
        opening::answer(&mut lane, &dialer.exchange, &replica.site, ours).await
    })
    .await;
    match answer {
        Ok(Ok(Frame::Accept(accept))) if !accept.identity.site.eq_ignore_ascii_case(&replica.site) => {
            other(format!(
                "its certificate carries {}, but its ACCEPT names the site {}",
                replica.site,
                crate::escape::shown(accept.identity.site.as_bytes())
            ))
        }
        Ok(Ok(Frame::Accept(accept))) => {
            dialer.ways.met(&accept.identity);
            if refuses_stale && let Err(words) = current(dialer, replica, &mut lane, &accept).await {
                tokio::spawn(let_go(
                    lane,
                    ReasonCode::TimedOut,
                    "the revocation list of its issuer is stale",
                ));
                return other(words);
            }
            if terms.agree(&accept.terms, accept.plain).is_shared() {
                lane.share();
            }
            Ok((lane, accept))
        }
        Ok(Ok(Frame::Refuse(refuse))) => {
            if let Some((node, instance)) = &refuse.by {
                let (site, node) = (replica.site.clone(), node.clone());
                dialer.ways.met(&Identity { site, node, instance: *instance, clock: 0 });
            }
            Err((Failure::Refused(refuse), Some(Box::new(lane.into_socket()))))
        }
        Ok(Ok(_)) => other(LaneError::Unexpected.to_string()),
        Ok(Err(error)) => other(error.to_string()),
        Err(_) => {
            tokio::spawn(let_go(lane, ReasonCode::TimedOut, "the answer came too late"));
            other(format!("the far gateway did not answer within {} s", ANSWER_DEADLINE.as_secs()))
        }
    }
}

/// The lists of the issuers of the far side's certificate must not be stale. It may have later ones.
async fn current(dialer: &Dialer, replica: &Replica, lane: &mut Lane, accept: &Accept) -> Result<(), String> {
    let far = Far::new(&replica.site, accept.identity.instance);
    let courier = accept.terms.lists.then(|| dialer.exchange.join(far, Instant::now()));
    let reloads = dialer.reloads.subscribe();
    let fresh = opening::refresh(lane, &dialer.tls, reloads, courier).await;
    fresh.map_err(|unfit| match unfit {
        Unfit::Stale(words) | Unfit::Refused(words) => words,
    })
}

/// Ends a lane in good order that is not used, since the far side may have accepted it.
async fn let_go(mut lane: Lane, code: ReasonCode, why: &'static str) {
    let why = Reason::new(code, why);
    let _ = timeout(LET_GO, async {
        lane.send(&Frame::Abort(why)).await?;
        lane.close().await;
        Ok::<_, LaneError>(())
    })
    .await;
}

/// The current addresses of all peers, each with the number of its entry of `peers`; none if no
/// name can be resolved.
pub(super) async fn addresses(replica: &Replica) -> Vec<(SocketAddr, usize)> {
    let mut names = tokio::task::JoinSet::new();
    for (rank, peer) in replica.peers.iter().cloned().enumerate() {
        names.spawn(async move { (rank, crate::race::run::resolve(&peer).await.unwrap_or_default()) });
    }
    let mut found = names.join_all().await;
    found.sort_by_key(|(rank, _)| *rank);
    let of_peer = |(rank, addresses)| {
        crate::race::interleaved(addresses).into_iter().map(move |address| (address, rank))
    };
    found.into_iter().flat_map(of_peer).collect()
}
