//! Serves a replica of this site that connects: checks its password if one is configured, opens a
//! link, and passes both to the relay.
//!
//! A replica that cannot be served gets the reason as an error reply to its first command, so that
//! the reason appears in Redis' own log.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use zeroize::Zeroizing;

use super::auth::{Guesses, Proof, authenticate_replica};
use super::backoff::Backoff;
use super::dial::reach_again;
use super::dial::redial::Redial;
use super::exchange::Far;
use super::first_words::{LEFT, Next, Offer, first_command, first_words, part_silent};
use super::permission::Permission;
use super::relay::{self, LaneSource, Relay};
use super::{HELLO_DEADLINE, Shared, announce, choice, dialling_terms, is_gone, last_words, tune};
use crate::client::read_password;
use crate::config::{Announced, Replica};
use crate::lane::{Lane, LaneError};
use crate::link::{End, Link, Side};
use crate::redis::at_replica::AtReplica;
use crate::redis::introduction::Introduction;
use crate::redis::names::{Name, Names};
use crate::redis::observer::Observer;
use crate::redis::replication::Observed;
use crate::redis::reply;
use crate::registry::{Kind, NewLink, Topic, log_throttled};
use crate::tap::{Blind, Flow, Tap};
use crate::unproven::{Seat, Unproven, source};
use crate::wire::frame::Frame;
use crate::wire::hello::{Accept, Id, ReplicaKey, Request};
use crate::wire::reason::{Reason, ReasonCode};

/// Time a refused replica is given to send its first command and to read the reply.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Time given to tell the far gateway that a link is not used any more.
const PARTING: Duration = Duration::from_secs(2);

/// Most clients of one address at a time that are not accepted yet, or are refused.
const CLIENTS_OF_ONE: usize = 256;

/// Most clients of all addresses at a time that are not accepted yet, or are refused.
const CLIENTS: usize = 512;

/// A `[[replica]]` with the state that its links share.
#[derive(Debug)]
pub struct ReplicaListener {
    /// The entry of the config.
    pub replica: Arc<Replica>,
    /// The names that are announced for its replicas, if any.
    names: Option<Arc<Names>>,
    offer: Arc<Offer>,
    clients: Arc<Clients>,
}

/// What is known about the clients of a listener.
#[derive(Debug)]
struct Clients {
    backoff: Backoff,
    /// Those that are not accepted yet, or are refused, by address.
    unproven: Unproven<IpAddr>,
    guesses: Guesses,
}

/// The names that are announced for the replicas of an entry, if any.
fn names(replica: &Replica) -> Option<Arc<Names>> {
    match &replica.announce {
        Announced::As { host, port } => Some(Names::new(host.clone(), *port)),
        Announced::Keep => None,
    }
}

/// What is known of the master of an entry before it was asked.
fn offer(replica: &Replica) -> Arc<Offer> {
    // Only a master that is no passthrough can be followed.
    Arc::new(if replica.has_choice() { Offer::of_replication() } else { Offer::default() })
}

impl ReplicaListener {
    /// A listener that no client has used yet.
    pub fn new(replica: Arc<Replica>) -> Self {
        let names = names(&replica);
        let unproven = Unproven::new(CLIENTS_OF_ONE, CLIENTS);
        let clients = Clients { backoff: Backoff::default(), unproven, guesses: Guesses::default() };
        let offer = offer(&replica);
        Self { replica, names, offer, clients: Arc::new(clients) }
    }

    /// The listener after a reload that has changed its entry. What is known about its clients stays.
    pub fn as_changed_to(&self, replica: &Arc<Replica>) -> Self {
        let (old, replica) = (&self.replica, Arc::clone(replica));
        let same_names = old.announce == replica.announce;
        let names = if same_names { self.names.clone() } else { names(&replica) };
        let sites = |entry: &Replica| entry.from.iter().map(|origin| origin.site.clone()).collect::<Vec<_>>();
        let same_offer = sites(old) == sites(&replica) && old.master == replica.master;
        let offer = if same_offer { Arc::clone(&self.offer) } else { offer(&replica) };
        Self { replica, names, offer, clients: Arc::clone(&self.clients) }
    }
}

/// Serves one replica's connection from its accept to its end.
pub async fn serve_replica(
    shared: Arc<Shared>,
    listener: Arc<ReplicaListener>,
    mut redis: TcpStream,
    from: SocketAddr,
) {
    tune(&redis);
    let entry = Arc::clone(&listener.replica);
    let name = &entry.name;
    let about = |kind| Topic::replica(kind, &entry);
    let seat = listener.clients.unproven.enter(source(from.ip()));
    let may_open = tokio::select! {
        may_open = Box::pin(approach(&shared, &listener, &mut redis, &seat, from)) => may_open,
        () = seat.evicted() => {
            let reason = "too many clients have not been accepted yet; the oldest is closed";
            log_throttled!(warn, shared.registry, about(Kind::ClientCrowdedOut), reason; link = %name, client = %from, "replica refused: {reason}");
            return;
        }
        () = shared.stop.cancelled() => return,
    };
    if !may_open {
        return;
    }
    drop(seat);
    let key = ReplicaKey::new(&entry.name, from.ip(), &shared.process.node);
    let want = |sibling| Request::New { master: entry.master.clone(), sibling, replica: Some(key) };
    // What is needed only until the link is open, or for its refusal, is boxed: a link may be there
    // for months.
    let open = Box::pin(async {
        let opening = listener.clients.backoff.place(from.ip()).await;
        let opening = opening.ok_or("too many links of this client's address wait for their sync")?;
        // Other clients get the same reason why there is no link, but not the limit of one address.
        let reached = reach_present(&shared, &entry, want).await;
        let (replica, reached) = reached.inspect_err(|reason| listener.offer.failed(reason))?;
        Ok::<_, String>((opening, replica, reached))
    });
    let opened = tokio::select! {
        opened = open => opened,
        () = shared.stop.cancelled() => return,
    };
    let (opening, replica, (mut lane, accept)) = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            no_link(&shared, &entry, from, &reason);
            let seat = listener.clients.unproven.enter(source(from.ip()));
            let reply = reply::error(&shared.process.site, &reason);
            tokio::select! {
                () = Box::pin(refuse(&mut redis, &reply)) => {}
                () = seat.evicted() => {}
            }
            return;
        }
    };
    shared.registry.recovered(&about(Kind::NoLink));
    listener.offer.accepted(accept.plain);
    if !accept.plain && is_gone(&redis).await {
        no_sync(&shared, &replica, from);
        listener.clients.backoff.unasked(from.ip(), Instant::now());
        let why = Reason::new(ReasonCode::ReplicaClosed, "the replica left while the link was opened");
        let parted = Box::pin(async {
            lane.send(&Frame::Abort(why)).await?;
            lane.close().await;
            Ok::<_, LaneError>(())
        });
        let _ = timeout(PARTING, parted).await;
        return;
    }
    let far = lane.peer();
    let ours = dialling_terms(&replica.link);
    let agreed = ours.agree(&accept.terms, accept.plain);
    let observed =
        (!accept.plain).then(|| Observed::new(shared.registry.syncs(Side::Dialler, name, &replica.site)));
    let guard = shared.registry.open(&NewLink {
        name,
        side: Side::Dialler,
        site: &replica.site,
        node: &accept.identity.node,
        instance: accept.identity.instance,
        far,
        redis: from,
        passthrough: accept.plain,
        agreed,
        observed: observed.clone(),
    });
    announce::opened(&guard);
    let tap: Box<dyn Tap> = match &observed {
        Some(observed) => Box::new(tap(&shared, &listener, Observer::new(Arc::clone(observed)), from)),
        None => Box::new(Blind),
    };
    let link = accept.link.unwrap_or_else(Id::random);
    let redial = Redial::new(&shared.dialer, &replica, link, accept.identity.clone(), far);
    let relay = Relay {
        link: Link::new(Side::Dialler, &agreed, Instant::now()).ticking_from(shared.started),
        lane,
        source: LaneSource::Dials(Box::new(redial)),
        courier: agreed
            .lists
            .then(|| shared.exchange.join(Far::new(&replica.site, accept.identity.instance), Instant::now())),
        reloads: shared.reloads.subscribe(),
        permission: Box::new(Permission::Asked {
            shared: Arc::clone(&shared),
            replica: Arc::clone(&replica),
            client: from.ip(),
        }),
        share: shared.memory.share(&replica.site),
        meter: shared.registry.meter(&replica.site),
        redis,
        inward: Flow::ToReplica,
        passthrough: accept.plain,
        tap,
        hurry: CancellationToken::new(),
        changed: Arc::default(),
        entry: &guard,
        site: &shared.process.site,
    };
    let (end, pending) = {
        let mut run = pin!(relay::run(relay, &shared.stop));
        let early = tokio::select! {
            biased;
            ended = &mut run => Some(ended),
            () = begun(observed.as_deref()) => None,
        };
        match early {
            Some(ended) => {
                if let Some(observed) = &observed {
                    count_end(&listener.clients.backoff, observed, from.ip());
                }
                ended
            }
            None => {
                listener.clients.backoff.granted(from.ip());
                drop(opening);
                run.await
            }
        }
    };
    if !matches!(end, End::NoNewLane(..)) {
        // It was carried until now, or its end was told by a gateway.
        shared.dialer.ways.seen(&replica.site);
    }
    announce::ended(guard, &end);
    if !matches!(end, End::LocalClosed(_)) {
        choice::hurry(&shared, &replica);
    }
    if let Some(abort) = pending {
        debug!(link = %name, site = %replica.site, "telling the far gateway that the link is over");
        Box::pin(abort.send()).await;
    }
}

/// Opens a link to the site that has the master, which is returned as the entry for links to it. If another
/// site has it meanwhile, or a moment later, the link goes there.
async fn reach_present(
    shared: &Shared,
    entry: &Arc<Replica>,
    want: impl Fn(Option<Id>) -> Request,
) -> Result<(Arc<Replica>, (Lane, Accept)), String> {
    let by = Instant::now() + choice::PATIENCE;
    loop {
        let present = choice::present(shared, entry);
        let (tried, words) = match present {
            Ok(replica) => match reach_site(shared, &replica, &want).await {
                Ok(reached) => return Ok((replica, reached)),
                Err(words) => (Some(replica), words),
            },
            Err(words) => (None, words),
        };
        choice::hurry(shared, entry);
        if !choice::is_another_by(shared, entry, tried.as_deref(), by).await {
            return Err(words);
        }
    }
}

/// Opens a link to one site, unless another one has the master meanwhile.
async fn reach_site(
    shared: &Shared,
    replica: &Arc<Replica>,
    want: impl Fn(Option<Id>) -> Request,
) -> Result<(Lane, Accept), String> {
    tokio::select! {
        reached = reach_again(&shared.dialer, replica, want, |accept| choice::fits(shared, replica, accept)) => {
            reached.map_err(|unreached| unreached.words)
        }
        words = choice::moved(shared, replica) => Err(words),
    }
}

/// Checks a client from its accept up to the point where a link may be opened for it. Returns false
/// if it does not get there, and logs why.
async fn approach(
    shared: &Arc<Shared>,
    listener: &ReplicaListener,
    redis: &mut TcpStream,
    seat: &Seat<IpAddr>,
    from: SocketAddr,
) -> bool {
    let (replica, site) = (&listener.replica, &shared.process.site);
    // A client that must send a password is answered here anyway, and does not affect the far site
    // before that.
    let open = replica.password_file.is_none();
    let mut next = if open {
        first_words(&shared.dialer, replica, &listener.offer, redis, seat).await
    } else {
        Next::Replica
    };
    let paused = !listener.clients.backoff.wait(from.ip(), Instant::now()).is_zero();
    if matches!(next, Next::Link) && open && !listener.offer.is_passthrough() {
        next = first_command(&listener.offer, redis, seat, site, paused).await;
    }
    if paused {
        let gone = match next {
            // The waiting clients of one address must not all continue at once: one continues after
            // each pause.
            Next::Link => listener.clients.backoff.turn(from.ip(), redis).await,
            Next::Replica => {
                tokio::time::sleep(listener.clients.backoff.wait(from.ip(), Instant::now())).await;
                is_gone(redis).await
            }
            _ => false,
        };
        if gone {
            next = Next::Left;
        }
    }
    match next {
        Next::Link | Next::Replica => {}
        Next::Left => {
            no_sync(shared, replica, from);
            return false;
        }
        Next::Silent => {
            no_sync(shared, replica, from);
            seat.refused();
            part_silent(redis, site, REFUSAL_DEADLINE).await;
            return false;
        }
        Next::Unreachable(reason) => {
            listener.offer.failed(&reason);
            no_link(shared, replica, from, &reason);
            return false;
        }
    }
    is_proven(shared, listener, redis, seat, from).await
}

/// Completes when the sync of a link has begun; at once for a passthrough.
async fn begun(observed: Option<&Observed>) {
    if let Some(observed) = observed {
        observed.begun().await;
    }
}

/// Records the end of a link, which decides how long its client waits for the next one.
fn count_end(backoff: &Backoff, observed: &Observed, client: IpAddr) {
    let now = Instant::now();
    if observed.has_begun() {
        backoff.granted(client);
    } else if observed.view(now).complaint.is_some() {
        backoff.refused(client, now);
    } else {
        backoff.unasked(client, now);
    }
}

/// Logs a client that asked for no sync.
fn no_sync(shared: &Shared, replica: &Replica, from: SocketAddr) {
    log_throttled!(info, shared.registry, Topic::replica(Kind::NotAsked, replica), LEFT; link = %replica.name, client = %from, "{LEFT}");
}

/// Logs that no link could be opened for a client.
fn no_link(shared: &Shared, replica: &Arc<Replica>, from: SocketAddr, reason: &str) {
    log_throttled!(warn, shared.registry, Topic::replica(Kind::NoLink, replica), reason; link = %replica.name, site = %choice::site(shared, replica), client = %from, "no link: {reason}");
}

/// A refusal: the reply to the client, if any, and the reason for the log.
struct No {
    reply: Option<Vec<u8>>,
    kind: Kind,
    reason: String,
}

/// Whether the replica knows the password of its `[[replica]]`, if there is one. If not, the log
/// and the replica get the reason, and the replica keeps its seat until it has closed.
async fn is_proven(
    shared: &Shared,
    listener: &ReplicaListener,
    redis: &mut TcpStream,
    seat: &Seat<IpAddr>,
    from: SocketAddr,
) -> bool {
    let replica = &listener.replica;
    let Some(path) = &replica.password_file else { return true };
    let Err(No { reply, kind, reason }) =
        proof(listener, redis, seat, from.ip(), path, &shared.process.site).await
    else {
        return true;
    };
    // A few addresses are logged, so that the operator knows which masterauth to correct.
    let words = format!("{reason} (from {})", from.ip());
    log_throttled!(warn, shared.registry, Topic::replica(kind, replica), &words; link = %replica.name, client = %from, "replica refused: {reason} (password_file)");
    if let Some(reply) = reply {
        let _ = timeout(REFUSAL_DEADLINE, last_words(redis, &reply)).await;
    }
    false
}

/// Asks a client for its password, and checks it when the client has a turn.
async fn proof(
    listener: &ReplicaListener,
    redis: &mut TcpStream,
    seat: &Seat<IpAddr>,
    client: IpAddr,
    path: &Path,
    site: &str,
) -> Result<(), No> {
    let silent = |reason: &str| No { reply: None, kind: Kind::NoPassword, reason: reason.to_owned() };
    let left = || silent("it left before it sent a password");
    let said = match timeout(HELLO_DEADLINE, authenticate_replica(redis, seat, site)).await {
        Ok(Ok(Proof::Password(said))) => said,
        Ok(Ok(Proof::None(reply, reason))) => {
            listener.clients.backoff.refused(client, Instant::now());
            return Err(No { reply: Some(reply), kind: Kind::NoPassword, reason: reason.to_owned() });
        }
        Ok(Err(_)) => return Err(left()),
        Err(_) => return Err(silent(&format!("no password within {} s", HELLO_DEADLINE.as_secs()))),
    };
    let Some(turn) = listener.clients.guesses.turn(client).await else {
        let reason = "too many other clients are trying passwords";
        let reply = Some(reply::error(site, &format!("{reason}; try again")));
        return Err(No { reply, kind: Kind::Guessing, reason: reason.to_owned() });
    };
    if is_gone(redis).await {
        turn.unused();
        return Err(left());
    }
    // The file is read only now: strangers must not be able to make this gateway read files.
    let password = read_password(path).await.map_err(|reason| {
        let reply = Some(reply::error(site, "the gateway cannot read its password_file"));
        No { reply, kind: Kind::PasswordFile, reason }
    })?;
    if !password.is(&said) {
        listener.clients.backoff.refused(client, Instant::now());
        let reply = Some(reply::wrong_password(site));
        return Err(No { reply, kind: Kind::WrongPassword, reason: "its password is wrong".to_owned() });
    }
    turn.right();
    redis.write_all(reply::OK).await.map_err(|_| left())
}

/// The tap of a link at this end.
fn tap(shared: &Arc<Shared>, listener: &ReplicaListener, observer: Observer, from: SocketAddr) -> AtReplica {
    let replica = &listener.replica;
    let names = listener.names.as_ref().map(|names| (Arc::clone(names), from.ip()));
    let introduction = Introduction::new(names, replica.drop_capabilities.clone());
    let (shared, link) = (Arc::clone(shared), replica.name.clone());
    let topic = Topic::replica(Kind::Renamed, replica);
    let renamed = move |name: &Name| {
        let (host, port) = (&name.host, name.port);
        let words = format!("the master lists this one as {host}:{port}");
        log_throttled!(warn, shared.registry, topic.clone(), &words; %link, client = %from, "the address announced for this replica is in use for another: {words}; give each replica its own replica-announce-ip and replica-announce-port");
    };
    AtReplica::new(introduction, observer, Box::new(renamed))
}

/// Answers the first command of a replica with an error and closes.
async fn refuse(redis: &mut TcpStream, reply: &[u8]) {
    let _ = timeout(REFUSAL_DEADLINE, async {
        // The bytes may be an AUTH, so they are wiped.
        let mut command = Zeroizing::new([0; 1024]);
        if redis.read(&mut *command).await? == 0 {
            return Ok(());
        }
        last_words(redis, reply).await
    })
    .await;
}
