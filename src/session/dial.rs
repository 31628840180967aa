//! Serves a replica that connected here: finds a way to the far site, opens a
//! link, and hands both to the relay.
//!
//! A replica that cannot be served is told why in an error reply to its first
//! command, so that the reason stands in Redis' own log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::prove::{Proof, prove};
use super::redial::Redial;
use super::relay::{self, Relay, Supply};
use super::{HELLO_DEADLINE, Shared, agreed, congestion, dialling_terms, tune};
use crate::config::{Announced, Replica};
use crate::lane::{Lane, LaneError};
use crate::link::frame::Frame;
use crate::link::tlv::{Accept, Code, Hello, Id, Refuse, VERSION, Want};
use crate::link::{Link, Side};
use crate::password::Password;
use crate::redis::at_replica::AtReplica;
use crate::redis::introduction::Introduction;
use crate::redis::names::Names;
use crate::redis::observer::Observer;
use crate::redis::replication::{Observed, Replication};
use crate::redis::reply;
use crate::registry::With;
use crate::tap::{Blind, Flow, Tap};

/// For one address to take a TCP connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// For the far gateway to answer HELLO; it may be waiting for its Redis.
const ANSWER_DEADLINE: Duration = Duration::from_secs(6);

/// For all addresses of all peers together.
const DIAL_DEADLINE: Duration = Duration::from_secs(12);

/// For a replica that is refused to send its first command and read the answer.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Connections to one address to find the one gateway, of several behind it, that
/// carries a replica's other connection.
const BEHIND_ONE: usize = 4;

/// Addresses of one site that are tried.
pub(super) const MAX_ADDRESSES: usize = 32;

/// Why a lane was not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The far gateway said no.
    #[error("refused: {}", crate::escape::shown(.0.why.text.as_bytes()))]
    Refused(Refuse),
    /// Anything before that.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Whether the gateway that answered is not the one that was asked for.
    fn is_other_instance(&self) -> bool {
        matches!(self, Self::Refused(refuse) if refuse.why.code == Code::WrongInstance)
    }
}

/// A `[[replica]]`, and what its links share.
#[derive(Debug)]
pub struct Door {
    /// As configured.
    pub replica: Arc<Replica>,
    /// What is announced for its replicas, if anything.
    names: Option<Arc<Names>>,
    backoff: Backoff,
}

impl Door {
    /// One that nobody has come through.
    pub fn new(replica: Replica) -> Self {
        let names = match &replica.announce {
            Announced::As { host, port } => Some(Names::new(host.clone(), *port)),
            Announced::Keep => None,
        };
        Self { replica: Arc::new(replica), names, backoff: Backoff::default() }
    }
}

/// Carries one replica's connection from its accept to its end.
pub async fn serve_replica(shared: Arc<Shared>, door: Arc<Door>, mut redis: TcpStream, from: SocketAddr) {
    tune(&redis);
    let replica = Arc::clone(&door.replica);
    let name = &replica.name;
    let let_in = tokio::select! {
        proven = is_proven(&shared, &replica, &mut redis, from) => {
            let wait = door.backoff.wait(from.ip(), Instant::now());
            tokio::time::sleep(wait).await;
            proven && (wait.is_zero() || !is_gone(&redis).await)
        }
        () = shared.stop.cancelled() => return,
    };
    if !let_in {
        return;
    }
    let news = format!("replica {name}: ");
    let want = |sibling| Want::New { master: replica.master.clone(), sibling };
    let reached = tokio::select! {
        reached = reach(&shared, &replica, want) => reached,
        () = shared.stop.cancelled() => return,
    };
    let (lane, accept) = match reached {
        Ok(reached) => reached,
        Err(reason) => {
            if shared.registry.failed(&format!("{news}{reason}")) {
                warn!(link = %name, site = %replica.site, client = %from, "no link: {reason}");
            } else {
                debug!(link = %name, site = %replica.site, client = %from, "no link: {reason}");
            }
            refuse(&mut redis, &reply::error(&shared.config.site, &reason)).await;
            return;
        }
    };
    shared.registry.well_again(&news);
    if !accept.plain && is_gone(&redis).await {
        debug!(link = %name, client = %from, "the replica left while the link was opened");
        return;
    }
    let far = lane.peer();
    let ours = dialling_terms(&replica.link);
    let agreed = agreed(&ours, &accept.terms, accept.plain);
    let observed = (!accept.plain).then(|| Observed::new(shared.registry.syncs(Side::Dialler, name)));
    let place = shared.registry.open(&With {
        name,
        side: Side::Dialler,
        site: &replica.site,
        instance: accept.identity.instance,
        far,
        redis: from,
        plain: accept.plain,
        agreed,
        observed: observed.clone(),
    });
    info!(link = %name, number = place.number, site = %replica.site, node = %crate::escape::shown(accept.identity.node.as_bytes()), %far, client = %from, plain = accept.plain, hold = ?agreed.hold, lanes = agreed.lanes, compressed = agreed.compressed, "link up");
    let tap: Box<dyn Tap> = match observed {
        Some(observed) => Box::new(tap(&shared, &door, Observer::new(observed), from)),
        None => Box::new(Blind),
    };
    let instance = accept.identity.instance;
    let redial = Redial::new(&shared, &replica, accept.link.unwrap_or_else(Id::random), instance, far);
    let relay = Relay {
        link: Link::new(Side::Dialler, accept.plain, &ours, &accept.terms, Instant::now()),
        lane,
        supply: Supply::Dials(redial),
        renewed: shared.renewals.subscribe(),
        share: shared.memory.share(),
        redis,
        inward: Flow::ToReplica,
        plain: accept.plain,
        tap,
        entry: &place,
        site: &shared.config.site,
    };
    let (end, untold) = relay::run(relay, &shared.stop).await;
    if let Some(observed) = &place.observed {
        match observed.view(Instant::now()) {
            Replication { sync: Some(_), .. } => door.backoff.granted(from.ip()),
            Replication { complaint: Some(_), .. } => door.backoff.refused(from.ip(), Instant::now()),
            _ => {}
        }
    }
    super::end(place, &end);
    if let Some(untold) = untold {
        debug!(link = %name, site = %replica.site, "telling the far gateway that the link is over");
        untold.tell().await;
    }
}

/// Whether the replica knows the password of its `[[replica]]`, where that has one. A
/// no is told, here and to the replica.
async fn is_proven(shared: &Shared, replica: &Replica, redis: &mut TcpStream, from: SocketAddr) -> bool {
    let (Some(path), site) = (&replica.password_file, &shared.config.site) else { return true };
    let (path, proof) = (path.clone(), async |redis: &mut TcpStream, password| {
        timeout(HELLO_DEADLINE, prove(redis, &password, site)).await
    });
    let password = tokio::task::spawn_blocking(move || Password::read(&path)).await;
    let (reply, reason) = match password {
        Ok(Ok(password)) => match proof(redis, password).await {
            Ok(Ok(Proof::Given)) => return true,
            Ok(Ok(Proof::Refused(reply, reason))) => (Some(reply), reason.to_owned()),
            Ok(Err(_)) => (None, "it left before it said a password".to_owned()),
            Err(_) => (None, format!("no password within {} s", HELLO_DEADLINE.as_secs())),
        },
        Ok(Err(fault)) => (Some(reply::error(site, "the gateway cannot read its password_file")), fault),
        Err(fault) => (None, fault.to_string()),
    };
    if shared.registry.refused(&format!("replica {}: client {}: {reason}", replica.name, from.ip())) {
        warn!(link = %replica.name, client = %from, "replica refused: {reason} (password_file)");
    } else {
        debug!(link = %replica.name, client = %from, "replica refused: {reason} (password_file)");
    }
    if let Some(reply) = reply {
        let _ = timeout(REFUSAL_DEADLINE, last_words(redis, &reply)).await;
    }
    false
}

/// What looks into a link's bytes at this end.
fn tap(shared: &Arc<Shared>, door: &Door, observer: Observer, from: SocketAddr) -> AtReplica {
    let replica = &door.replica;
    let names = door.names.as_ref().map(|names| (Arc::clone(names), from.ip()));
    let introduction = Introduction::new(names, replica.drop_capabilities.clone());
    let (shared, link) = (Arc::clone(shared), replica.name.clone());
    let renamed = move |name: &crate::redis::names::Name| {
        let (host, port) = (&name.host, name.port);
        if shared.registry.is_news(&format!("replica {link}: listed as {host}:{port}")) {
            warn!(%link, client = %from, "the address that is announced for this replica is in use for another: the master lists this one as {host}:{port}; give each replica-announce-ip and replica-announce-port of its own");
        }
    };
    AtReplica::new(introduction, observer, Box::new(renamed))
}

/// Asks the far site about a master without opening a link.
pub async fn probe(shared: &Shared, replica: &Replica) -> Result<(SocketAddr, Accept), String> {
    let (lane, accept) = reach(shared, replica, |_| Want::Probe { master: replica.master.clone() }).await?;
    let peer = lane.peer();
    let _ = timeout(Duration::from_secs(1), lane.close()).await;
    Ok((peer, accept))
}

/// Tries every address of every peer in order until one accepts; while other links of
/// this replica entry are carried, their way comes first, and their gateway before any
/// other.
async fn reach(
    shared: &Shared,
    replica: &Replica,
    want: impl Fn(Option<Id>) -> Want,
) -> Result<(Lane, Accept), String> {
    let mut failures = Vec::new();
    let tried = timeout(DIAL_DEADLINE, async {
        let sibling = shared.registry.sibling(&replica.name);
        let instance = sibling.map(|(_, instance)| instance);
        // Where another gateway answers: the last resort.
        let mut elsewhere = Vec::new();
        if let Some((address, instance)) = sibling {
            for _ in 0..BEHIND_ONE {
                match open(shared, replica, address, want(Some(instance))).await {
                    Ok(reached) => return Some(reached),
                    Err(error) if error.is_other_instance() => elsewhere = vec![address],
                    Err(error) => {
                        failures.push(format!("{address}: {error}"));
                        break;
                    }
                }
            }
        }
        for peer in &replica.peers {
            let addresses =
                match timeout(CONNECT_DEADLINE, lookup_host((peer.host.as_str(), peer.port))).await {
                    Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
                    Ok(Err(error)) => {
                        failures.push(format!("{peer}: cannot be resolved: {error}"));
                        continue;
                    }
                    Err(_) => {
                        failures.push(format!("{peer}: the name was not resolved in time"));
                        continue;
                    }
                };
            for address in addresses {
                if sibling.is_some_and(|(tried, _)| tried == address) {
                    continue;
                }
                match open(shared, replica, address, want(instance)).await {
                    Ok(reached) => return Some(reached),
                    Err(error) if error.is_other_instance() => elsewhere.push(address),
                    Err(error) => failures.push(format!("{peer}: {error}")),
                }
            }
        }
        for address in elsewhere {
            match open(shared, replica, address, want(None)).await {
                Ok(reached) => return Some(reached),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        None
    })
    .await;
    match tried {
        Ok(Some(reached)) => Ok(reached),
        Ok(None) => Err(failures.join("; ")),
        Err(_) => {
            failures.push(format!(
                "no gateway of {} answered within {} s",
                replica.site,
                DIAL_DEADLINE.as_secs()
            ));
            Err(failures.join("; "))
        }
    }
}

/// One lane to one address, accepted in so many words.
pub(super) async fn open(
    shared: &Shared,
    replica: &Replica,
    address: SocketAddr,
    want: Want,
) -> Result<(Lane, Accept), Failure> {
    let other = |text: &str| Failure::Other(text.to_owned());
    let _turn = shared.dials.acquire().await.map_err(|_| other("the gateway stops"))?;
    let socket = match timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(Failure::Other(error.to_string())),
        Err(_) => {
            return Err(Failure::Other(format!("no answer within {} s", CONNECT_DEADLINE.as_secs())));
        }
    };
    tune(&socket);
    congestion(shared, &socket, &replica.link.congestion);
    let tls = shared.tls.now();
    let ours = &tls.material.leaf;
    let Some(dial) = tls.dial(&replica.site) else {
        return Err(Failure::Other(format!("no TLS is set up towards {}", replica.site)));
    };
    let mut lane = match timeout(HELLO_DEADLINE, Lane::dial(socket, dial, ours)).await {
        Ok(lane) => lane.map_err(|error| Failure::Other(error.to_string()))?,
        Err(_) => {
            return Err(other(
                "TCP connects, but TLS gets no answer: is a gateway on that port, or a plain Redis?",
            ));
        }
    };
    let hello =
        Hello { version: VERSION, identity: shared.identity(), want, terms: dialling_terms(&replica.link) };
    let answer = timeout(ANSWER_DEADLINE, async {
        lane.send(&Frame::Hello(hello)).await?;
        lane.receive(ours).await
    })
    .await;
    match answer {
        Ok(Ok(Frame::Accept(accept))) if !accept.identity.site.eq_ignore_ascii_case(&replica.site) => {
            Err(Failure::Other(format!(
                "its certificate is good for {}, but it calls itself {}",
                replica.site,
                crate::escape::shown(accept.identity.site.as_bytes())
            )))
        }
        Ok(Ok(Frame::Accept(accept))) => {
            if accept.terms.lanes.min(replica.link.lanes) > 1 {
                lane.share();
            }
            Ok((lane, accept))
        }
        Ok(Ok(Frame::Refuse(refuse))) => Err(Failure::Refused(refuse)),
        Ok(Ok(_)) => Err(Failure::Other(LaneError::Unexpected.to_string())),
        Ok(Err(error)) => Err(Failure::Other(error.to_string())),
        Err(_) => Err(Failure::Other(format!(
            "the far gateway did not answer within {} s",
            ANSWER_DEADLINE.as_secs()
        ))),
    }
}

/// Every address that the peers' names stand for now, for as many as are known.
pub(super) async fn addresses(replica: &Replica, known: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for peer in &replica.peers {
        let resolved = timeout(CONNECT_DEADLINE, lookup_host((peer.host.as_str(), peer.port))).await;
        if let Ok(Ok(addresses)) = resolved {
            found.extend(addresses);
        }
    }
    if found.is_empty() { known } else { found }
}

/// Answers the first command of a replica with an error and closes.
async fn refuse(redis: &mut TcpStream, reply: &[u8]) {
    let _ = timeout(REFUSAL_DEADLINE, async {
        let mut command = [0; 1024];
        if redis.read(&mut command).await? == 0 {
            return Ok(());
        }
        last_words(redis, reply).await
    })
    .await;
}

/// Writes a reply and waits until the replica has closed: a reset could overtake it.
async fn last_words(redis: &mut TcpStream, reply: &[u8]) -> std::io::Result<()> {
    redis.write_all(reply).await?;
    redis.shutdown().await?;
    let mut rest = [0; 1024];
    while redis.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Whether the other end has closed already.
async fn is_gone(redis: &TcpStream) -> bool {
    let ready = timeout(Duration::ZERO, redis.ready(Interest::READABLE)).await;
    matches!(ready, Ok(Ok(ready)) if ready.is_read_closed()) || matches!(ready, Ok(Err(_)))
}
