//! Where a replica of this site connects: has it prove itself where it must, opens a
//! link, and hands both to the relay.
//!
//! A replica that cannot be served is told why in an error reply to its first
//! command, so that the reason stands in Redis' own log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::dial::reach;
use super::login::read;
use super::prove::{Proof, prove};
use super::redial::Redial;
use super::relay::{self, Relay, Supply};
use super::{HELLO_DEADLINE, Shared, agreed, dialling_terms, tune};
use crate::config::{Announced, Replica};
use crate::escape::shown;
use crate::lane::LaneError;
use crate::link::frame::Frame;
use crate::link::tlv::{Code, Id, Want, Why};
use crate::link::{Link, Side};
use crate::redis::at_replica::AtReplica;
use crate::redis::introduction::Introduction;
use crate::redis::names::{Name, Names};
use crate::redis::observer::Observer;
use crate::redis::replication::{Observed, Replication};
use crate::redis::reply;
use crate::registry::With;
use crate::tap::{Blind, Flow, Tap};

/// For a replica that is refused to send its first command and read the answer.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// For the far gateway to hear that a link is not wanted any more.
const PARTING: Duration = Duration::from_secs(2);

/// Clients at a time that have not said their password yet.
const PROOFS: usize = 64;

/// A `[[replica]]`, and what its links share.
#[derive(Debug)]
pub struct Door {
    /// As configured.
    pub replica: Arc<Replica>,
    /// What is announced for its replicas, if anything.
    names: Option<Arc<Names>>,
    backoff: Backoff,
    /// Turns of clients that have not said their password yet.
    proofs: Semaphore,
}

impl Door {
    /// One that nobody has come through.
    pub fn new(replica: Replica) -> Self {
        let names = match &replica.announce {
            Announced::As { host, port } => Some(Names::new(host.clone(), *port)),
            Announced::Keep => None,
        };
        Self {
            replica: Arc::new(replica),
            names,
            backoff: Backoff::default(),
            proofs: Semaphore::new(PROOFS),
        }
    }
}

/// Carries one replica's connection from its accept to its end.
pub async fn serve_replica(shared: Arc<Shared>, door: Arc<Door>, mut redis: TcpStream, from: SocketAddr) {
    tune(&redis);
    let replica = Arc::clone(&door.replica);
    let name = &replica.name;
    let let_in = tokio::select! {
        let_in = async {
            let wait = door.backoff.wait(from.ip(), Instant::now());
            tokio::time::sleep(wait).await;
            (wait.is_zero() || !is_gone(&redis).await) && is_proven(&shared, &door, &mut redis, from).await
        } => let_in,
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
    let (mut lane, accept) = match reached {
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
        let why = Why::new(Code::ReplicaClosed, "the replica left while the link was opened");
        let _ = timeout(PARTING, async {
            lane.send(&Frame::Abort(why)).await?;
            lane.close().await;
            Ok::<_, LaneError>(())
        })
        .await;
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
    info!(link = %name, number = place.number, site = %replica.site, node = %shown(accept.identity.node.as_bytes()), %far, client = %from, plain = accept.plain, hold = ?agreed.hold, lanes = agreed.lanes, compressed = agreed.compressed, "link up");
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
        share: shared.memory.share(&replica.site),
        meter: shared.registry.meter(&replica.site),
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
async fn is_proven(shared: &Shared, door: &Door, redis: &mut TcpStream, from: SocketAddr) -> bool {
    let (replica, site) = (&door.replica, &shared.config.site);
    let Some(path) = &replica.password_file else { return true };
    let turn = door.proofs.try_acquire();
    let proof =
        async |redis: &mut TcpStream, password| timeout(HELLO_DEADLINE, prove(redis, &password, site)).await;
    let (reply, reason) = match (&turn, read(path).await) {
        (Err(_), _) => (None, format!("{PROOFS} others have not said their password yet")),
        (_, Err(fault)) => (Some(reply::error(site, "the gateway cannot read its password_file")), fault),
        (Ok(_), Ok(password)) => match proof(redis, password).await {
            Ok(Ok(Proof::Given)) => return true,
            Ok(Ok(Proof::Refused(reply, reason))) => {
                door.backoff.refused(from.ip(), Instant::now());
                (Some(reply), reason.to_owned())
            }
            Ok(Err(_)) => (None, "it left before it said a password".to_owned()),
            Err(_) => (None, format!("no password within {} s", HELLO_DEADLINE.as_secs())),
        },
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
    let renamed = move |name: &Name| {
        let (host, port) = (&name.host, name.port);
        if shared.registry.is_news(&format!("replica {link}: listed as {host}:{port}")) {
            warn!(%link, client = %from, "the address that is announced for this replica is in use for another: the master lists this one as {host}:{port}; give each replica-announce-ip and replica-announce-port of its own");
        }
    };
    AtReplica::new(introduction, observer, Box::new(renamed))
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
