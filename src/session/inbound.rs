//! Answers a gateway that has dialled this site: checks its HELLO, connects to the master's Redis,
//! sends ACCEPT, and passes both to the relay.
//!
//! A site that may not replicate a master gets the same answer as one that asks for a master that
//! does not exist. Only the log here tells the two cases apart.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use super::exchange::Far;
use super::exchange::opening::{self, Unfit};
use super::link_table::AttachRequest;
use super::permission::Permission;
use super::predecessors::Predecessors;
use super::relay::{self, LaneSource, Relay};
use super::{Caller, HELLO_DEADLINE, Shared, announce, caller, congestion, terms, tune};
use crate::client::{self, Login, authenticate_to_master};
use crate::clock;
use crate::config::{Commands, Compression, Config, Follow, Master};
use crate::escape::shown;
use crate::follow::{Absent, Entry, Target, look};
use crate::lane::{Lane, LaneError};
use crate::lineage::judge::Look;
use crate::link::dials::Dial;
use crate::link::{Link, Side};
use crate::race;
use crate::redis::at_master::AtMaster;
use crate::redis::gate::{Gate, Rules};
use crate::redis::judged::Judged;
use crate::redis::listing::Listing;
use crate::redis::observer::Observer;
use crate::redis::replication::Observed;
use crate::registry::{Admission, Kind, NewLink, Topic, log_throttled};
use crate::tap::{Blind, Flow, Tap};
use crate::tls::diagnostics::Class;
use crate::unproven::Seat;
use crate::wire::frame::Frame;
use crate::wire::hello::{Accept, Hello, Id, Refuse, Request, VERSION};
use crate::wire::offer::Offer;
use crate::wire::reason::{Reason, ReasonCode};
use crate::x509::Certificate;

/// Time a far side is given to read its refusal, or the answer to its probe, and to close.
const PARTING: Duration = Duration::from_secs(2);

/// Time for which a far side waits while it is not known which Redis is the master.
const NO_MASTER: Duration = Duration::from_secs(1);

/// A refusal: the reason for the far side, and the reason for the log.
struct No {
    why: Reason,
    log: String,
    topic: Topic,
}

impl No {
    fn new(kind: Kind, code: ReasonCode, message: &str) -> Self {
        let why = Reason::new(code, message);
        Self { why, log: message.to_owned(), topic: Topic::of(kind) }
    }

    /// The common answer for an unknown and a forbidden master.
    fn not_available(master: &str, log: String, topic: Topic) -> Self {
        Self {
            why: Reason::new(
                ReasonCode::NotAvailable,
                &format!("master {master:?} is not available to this site"),
            ),
            log,
            topic,
        }
    }
}

/// Serves one connection to the TLS port, from its accept to its end.
pub async fn serve(shared: Arc<Shared>, socket: TcpStream, from: SocketAddr, seat: Seat<IpAddr>) {
    let greeted = tokio::select! {
        greeted = Box::pin(greet(&shared, socket, from, seat)) => greeted,
        () = shared.stop.cancelled() => return,
    };
    if let Some((lane, hello, seat)) = greeted {
        serve_site(shared, lane, hello, seat).await;
    }
}

/// Runs the TLS handshake and reads HELLO, within the deadline that starts with the accept. Once
/// the certificate is known, the lane has a seat among those of its site. An error here is already
/// logged.
async fn greet(
    shared: &Shared,
    socket: TcpStream,
    from: SocketAddr,
    stranger: Seat<IpAddr>,
) -> Option<(Lane, Hello, Seat<Caller>)> {
    tune(&socket);
    let watched = congestion(&shared.registry, &socket, &shared.config().link.congestion);
    let by = tokio::time::Instant::now() + HELLO_DEADLINE;
    let tls = shared.tls.now();
    let ours = &tls.material.leaf;
    let shaking = async {
        socket.readable().await?;
        stranger.spoke();
        Lane::accept(socket, Arc::clone(&tls.server), ours).await
    };
    let shaken = tokio::select! {
        shaken = timeout_at(by, shaking) => shaken,
        () = stranger.evicted() => {
            let words = "too many connections have shown no certificate; the oldest is closed";
            not_greeted(shared, from, Topic::of(Kind::CrowdedOut), words);
            return None;
        }
    };
    let shaken = shaken.map(|shaken| {
        let mut lane = shaken?;
        lane.enter(&shared.dialer.handshakes, &tls, &shared.tls)?;
        Ok(lane)
    });
    let mut lane = match shaken {
        Ok(Ok(lane)) => lane,
        failed => {
            failure(shared, from, failed.ok().and_then(Result::err), Topic::of);
            return None;
        }
    };
    if watched {
        lane.watch_startup();
    }
    let site = caller(&shared.config(), lane.leaf());
    let about = |kind| Topic::of(kind).at_site(&shared.config(), site.as_deref().unwrap_or_default());
    let seat = shared.callers.enter(site.clone());
    drop(stranger);
    let greeting = tokio::select! {
        greeting = timeout_at(by, hello(lane, ours)) => greeting,
        () = seat.evicted() => {
            not_greeted(shared, from, about(Kind::SiteCrowded), CROWDED);
            return None;
        }
    };
    match greeting {
        Ok(Ok((lane, hello))) => Some((lane, hello, seat)),
        failed => {
            failure(shared, from, failed.ok().and_then(Result::err), about);
            None
        }
    }
}

/// The log message for a lane that was closed to make room for a newer one of its site.
const CROWDED: &str = "too many lanes of its site carry no link; the oldest is closed";

/// Reads HELLO. Anything else is answered with a refusal.
async fn hello(mut lane: Lane, ours: &Certificate) -> Result<(Lane, Hello), LaneError> {
    match lane.receive(ours).await {
        Ok(Frame::Hello(hello)) => Ok((lane, hello)),
        Ok(_) => Err(LaneError::Unexpected),
        Err(LaneError::Frame(error)) => {
            let why = Reason::new(ReasonCode::Version, &format!("the HELLO cannot be read: {error}"));
            let _ = timeout(PARTING, say_no(lane, refusal(why))).await;
            Err(error.into())
        }
        Err(error) => Err(error),
    }
}

/// Logs a connection that ended before its HELLO, because of an error or because its time was over.
fn failure(shared: &Shared, from: SocketAddr, error: Option<LaneError>, about: impl Fn(Kind) -> Topic) {
    let Some(error) = error else {
        let words = format!("no hello within {} s", HELLO_DEADLINE.as_secs());
        return not_greeted(shared, from, about(Kind::NoHello), &words);
    };
    let kind = match &error {
        // Most likely this dial was given up because another was accepted first.
        LaneError::Closed | LaneError::Socket(_) => {
            debug!(%from, "connection given up before its hello: {error}");
            return;
        }
        LaneError::Frame(_) | LaneError::Unexpected => Kind::BadHello,
        LaneError::Tls { class, .. } => match class {
            Class::NotTls => Kind::NotTls,
            Class::Alert => Kind::Alert,
            Class::UnknownCa => Kind::UnknownCa,
            Class::Dates => Kind::Dates,
            Class::Revoked => Kind::Revoked,
            Class::Certificate => Kind::Certificate,
            Class::Other => Kind::Tls,
        },
    };
    not_greeted(shared, from, about(kind), &error.to_string());
}

fn not_greeted(shared: &Shared, from: SocketAddr, topic: Topic, reason: &str) {
    // The line with the count names the last address.
    let words = format!("{reason} (from {})", from.ip());
    log_throttled!(warn, shared.registry, topic, &words; %from, "connection refused: {reason}");
}

/// Serves one lane from its HELLO to its end, or until it joins the link that it asks for.
async fn serve_site(shared: Arc<Shared>, mut lane: Lane, hello: Hello, seat: Seat<Caller>) {
    let (from, site) = (lane.peer(), hello.identity.site.clone());
    if let Err(no) = Box::pin(current(&shared, &mut lane, &hello)).await {
        return Box::pin(refuse(&shared, lane, seat, &site, no)).await;
    }
    if let Request::Attach { link, lane: number, alive, received } = &hello.request {
        let dial = Dial { lane: *number, alive: alive.clone(), received: *received };
        return Box::pin(attach(&shared, lane, seat, &hello, *link, dial)).await;
    }
    let config = shared.config();
    if let Some(entry) = asked_about(&shared, &config, &lane, &hello) {
        return Box::pin(tell(&shared, lane, seat, &entry)).await;
    }
    let (master, admission) = match admit(&shared, &config, &lane, &hello) {
        Ok(admitted) => admitted,
        Err(no) => {
            if no.why.code == ReasonCode::Limit {
                // Those that only wait for their replicas do so for a little while longer.
                shared.links.supersede(&hello.identity);
            }
            return Box::pin(refuse(&shared, lane, seat, &site, no)).await;
        }
    };
    // From here on it counts as a link.
    drop(seat);
    let connected = tokio::select! {
        connected = Box::pin(connect(&shared, &master)) => connected,
        () = shared.stop.cancelled() => {
            let words = format!("the gateway of site {} stops", shared.process.site);
            Err(No::new(Kind::Stopping, ReasonCode::Stopping, &words))
        }
    };
    let (redis, target) = match connected {
        Ok(connected) => connected,
        Err(no) => {
            // Replicas ask again every second, which must not use up the site's links.
            admission.forgive();
            let seat = shared.callers.enter(caller(&shared.config(), lane.leaf()));
            return Box::pin(refuse(&shared, lane, seat, &site, no)).await;
        }
    };
    if matches!(hello.request, Request::New { .. }) {
        shared.links.supersede(&hello.identity);
    }
    let plain = master.is_plain();
    let ours = terms(&config.link);
    let probe = matches!(hello.request, Request::Probe { .. });
    if plain
        && !probe
        && let Err(wait) = admission.opening.asks(Instant::now())
    {
        // The gateway cannot see what a plain tunnel's client asks for, so all of its links count.
        let limit = format!(
            "too many links of this site within a minute (new_links_per_minute); ask again in {} s",
            wait.as_secs() + 1
        );
        let seat = shared.callers.enter(caller(&shared.config(), lane.leaf()));
        return Box::pin(refuse(&shared, lane, seat, &site, No::new(Kind::Limit, ReasonCode::Limit, &limit)))
            .await;
    }
    let id = Id::random();
    let (listed, requests) = shared.links.list(id, &hello.identity, &master.name);
    let accept = Frame::Accept(Accept {
        version: VERSION,
        identity: shared.process.identity(),
        terms: ours.clone(),
        link: (!probe).then_some(id),
        received: 0,
        plain,
        offer: offer(&shared, &master).and_then(Result::ok),
    });
    if !matches!(timeout(Duration::from_secs(5), lane.send(&accept)).await, Ok(Ok(()))) {
        debug!(%from, %site, "the far gateway closed the connection before it was accepted");
        return;
    }
    if probe {
        drop(redis);
        debug!(%from, %site, master = %master.name, "probed");
        let _ = timeout(PARTING, Box::pin(lane.close())).await;
        return;
    }
    let Ok(address) = redis.peer_addr() else { return };
    let agreed = ours.agree(&hello.terms, plain);
    let rules = rules(&master, &admission, &site, address);
    let hurry = admission.opening.eviction();
    let observed =
        rules.is_some().then(|| Observed::new(shared.registry.syncs(Side::Acceptor, &master.name, &site)));
    let guard = shared.registry.open(&NewLink {
        name: &master.name,
        side: Side::Acceptor,
        site: &site,
        node: &hello.identity.node,
        instance: hello.identity.instance,
        far: from,
        redis: address,
        passthrough: plain,
        agreed,
        observed: observed.clone(),
    });
    announce::opened(&guard);
    let changed = Arc::default();
    let key = hello.replica();
    let predecessors = key.map(|key| Predecessors::new(&shared.links, id, key, address, &changed));
    let tap: Box<dyn Tap> = match (rules, &observed) {
        (Some(rules), Some(observed)) => Box::new(AtMaster::new(
            gate(&shared.process.site, rules, target.as_ref(), predecessors),
            Observer::new(Arc::clone(observed)),
        )),
        _ => Box::new(Blind),
    };
    let mut link = Link::new(Side::Acceptor, &agreed, Instant::now()).ticking_from(shared.started);
    if key.is_none() {
        link = link.for_unknown_replica();
    }
    if let Compression::Zstd { level } = config.link.compression {
        link = link.compressing(level);
    }
    let hold = link.hold();
    if link.is_shared() {
        lane.share();
    }
    // A link may last for months, the config need not.
    drop(config);
    let relay = Relay {
        link,
        lane,
        source: LaneSource::Requests(requests),
        courier: agreed
            .lists
            .then(|| shared.exchange.join(Far::new(&site, hello.identity.instance), Instant::now())),
        reloads: shared.reloads.subscribe(),
        permission: Box::new(Permission::Granted {
            shared: Arc::clone(&shared),
            master,
            site: site.clone(),
            redis: address,
            party: target.map(|target| target.party),
        }),
        share: shared.memory.share(&site),
        meter: shared.registry.meter(&site),
        redis,
        inward: Flow::ToMaster,
        passthrough: plain,
        tap,
        hurry,
        changed,
        entry: &guard,
        site: &shared.process.site,
    };
    let (end, _) = relay::run(relay, &shared.stop).await;
    listed.end(&end.to_string(), hold);
    if let Some(entry) = shared.following.entry(Side::Acceptor, &guard.name) {
        // It may have ended because that Redis is not the master any more.
        entry.hurry();
    }
    announce::ended(guard, &end);
}

/// Where the config demands it, the lists of the issuers of the far side's certificate must not be
/// stale. The far side may have later ones.
async fn current(shared: &Shared, lane: &mut Lane, hello: &Hello) -> Result<(), No> {
    if !shared.config().refuses_stale || opening::stale(&shared.tls, lane).is_none() {
        return Ok(());
    }
    claims(lane, hello)?;
    let far = Far::new(&hello.identity.site, hello.identity.instance);
    let courier = hello.terms.lists.then(|| shared.exchange.join(far, Instant::now()));
    let reloads = shared.reloads.subscribe();
    opening::refresh(lane, &shared.tls, reloads, courier).await.map_err(|unfit| match unfit {
        Unfit::Stale(words) => No::new(Kind::ListStale, ReasonCode::ListStale, &words),
        Unfit::Refused(words) => No::new(Kind::Revoked, ReasonCode::NotAvailable, &words),
    })
}

/// The gate of a link. If one of several Redis is followed, it lets only the stream of this one pass. It lets
/// earlier links of its replica end first, if the replica is known.
fn gate(site: &str, rules: Rules, target: Option<&Target>, predecessors: Option<Predecessors>) -> Gate {
    let mut gate = Gate::new(site, rules);
    if let Some(target) = target {
        gate = gate.only(Judged::of(&target.standing));
    }
    match predecessors {
        Some(predecessors) => gate.after(Box::new(predecessors)),
        None => gate,
    }
}

/// The rules for the gate of a link to this master; none in passthrough.
fn rules(master: &Master, admission: &Admission, site: &str, redis: SocketAddr) -> Option<Rules> {
    match &master.commands {
        Commands::Any => None,
        Commands::Replication { auth, failover, dump, slot_migration, accept_announce } => {
            // Uses the site's spelling in the config, not that of the far side.
            let site = master.allow.iter().find(|allowed| allowed.eq_ignore_ascii_case(site))?;
            let accepted = accept_announce.iter().find(|accepted| accepted.site.eq_ignore_ascii_case(site));
            let accepted = accepted.map_or(&[][..], |accepted| &accepted.addresses);
            Some(Rules {
                authenticated: auth.is_some(),
                failover: *failover,
                dump: *dump,
                slot_migration: *slot_migration,
                opening: Some(Arc::clone(&admission.opening)),
                full_syncs: admission.full_syncs.clone(),
                grants: Arc::clone(&admission.grants),
                guesses: Arc::clone(&admission.guesses),
                pace: Arc::clone(&admission.pace),
                listing: Listing::new(site, accepted, redis),
            })
        }
    }
}

/// Passes a lane, with its seat, to the link that it asks for.
async fn attach(shared: &Shared, lane: Lane, seat: Seat<Caller>, hello: &Hello, link: Id, dial: Dial) {
    let site = hello.identity.site.clone();
    let judged = claims(&lane, hello).and_then(|()| {
        let name = shared.links.master_of(link, &site).map_err(|why| No {
            log: format!("a lane asks for a link: {}", shown(why.text.as_bytes())),
            why,
            topic: Topic::of(Kind::UnknownLink),
        })?;
        // The rules are checked again for every lane.
        offered(&shared.config(), &name, &site)
    });
    let master = match judged {
        Ok(master) => master,
        Err(no) => return refuse(shared, lane, seat, &site, no).await,
    };
    shared.links.supersede(&hello.identity);
    let accept = Accept {
        version: VERSION,
        identity: shared.process.identity(),
        terms: terms(&shared.config().link),
        link: Some(link),
        received: 0,
        plain: master.is_plain(),
        offer: None,
    };
    if let Err(request) = shared.links.hand_over(link, AttachRequest { lane, seat, dial, accept }) {
        let no = No::new(Kind::Busy, ReasonCode::NotYet, "the link is busy or about to end");
        refuse(shared, request.lane, request.seat, &site, no).await;
    }
}

/// Refuses a lane with a reason for the far side, and waits until the far side has closed, as long
/// as there is a seat for that.
async fn refuse(shared: &Shared, lane: Lane, seat: Seat<Caller>, site: &str, no: No) {
    let (from, site) = (lane.peer(), shown(site.as_bytes()));
    if no.why.code == ReasonCode::LinkEnded {
        // Most likely the far side dials again to learn why its link has ended.
        debug!(%from, %site, "lane refused: {}", no.log);
    } else {
        let proven = caller(&shared.config(), lane.leaf()).unwrap_or_default();
        let topic = no.topic.at_site(&shared.config(), &proven);
        log_throttled!(warn, shared.registry, topic, &no.log; %from, %site, "link refused: {}", no.log);
    }
    // Only those who may know the link learn whether another process has replaced the one that
    // had it.
    let us = shared.process.identity();
    let by = (no.why.code == ReasonCode::UnknownLink).then_some((us.node, us.instance));
    part_as(lane, &seat, Refuse { by, ..refusal(no.why) }).await;
}

/// Refuses a lane and closes it; at once if its seat is given to another.
pub(super) async fn part(lane: Lane, seat: &Seat<Caller>, why: Reason) {
    part_as(lane, seat, refusal(why)).await;
}

async fn part_as(lane: Lane, seat: &Seat<Caller>, refuse: Refuse) {
    seat.refused();
    tokio::select! {
        _ = timeout(PARTING, say_no(lane, refuse)) => {}
        () = seat.evicted() => {}
    }
}

/// A refusal that says no more than this.
fn refusal(reason: Reason) -> Refuse {
    Refuse { reason, clock: Some(clock::now_millis()), by: None, standing: None }
}

/// Sends a refusal and waits until the far side has closed. It has no deadline of its own.
async fn say_no(mut lane: Lane, refuse: Refuse) {
    if lane.send(&Frame::Refuse(refuse)).await.is_ok() {
        lane.close().await;
    }
}

/// What is followed of the master about which a PROBE asks, if the site may know it. Everything else is judged
/// as for a link.
fn asked_about(shared: &Shared, config: &Config, lane: &Lane, hello: &Hello) -> Option<Arc<Entry>> {
    let Request::Probe { master } = &hello.request else { return None };
    claims(lane, hello).ok()?;
    let master = offered(config, master, &hello.identity.site).ok()?;
    shared.following.entry(Side::Acceptor, &master.name)
}

/// Answers a PROBE by what was seen of the master lately. That costs its Redis nothing, and a site that has a
/// choice asks once a second.
async fn tell(shared: &Shared, mut lane: Lane, seat: Seat<Caller>, entry: &Entry) {
    let refuse = match entry.offer() {
        Ok(target) => {
            let accept = Accept {
                version: VERSION,
                identity: shared.process.identity(),
                terms: terms(&shared.config().link),
                link: None,
                received: 0,
                plain: false,
                offer: Some(offer_of(target)),
            };
            let told = async {
                lane.send(&Frame::Accept(accept)).await?;
                lane.close().await;
                Ok::<_, LaneError>(())
            };
            let _ = timeout(PARTING, told).await;
            return;
        }
        Err(Absent::Away(words)) => {
            refusal(Reason::new(ReasonCode::RedisDown, &format!("the master's Redis is down: {words}")))
        }
        Err(Absent::NoMaster(words, standing)) => {
            Refuse { standing, ..refusal(Reason::new(ReasonCode::NoMaster, &words)) }
        }
    };
    debug!(from = %lane.peer(), "probed, and there is no master: {}", refuse.reason.text);
    part_as(lane, &seat, refuse).await;
}

/// What a site is told of a master here; `None` if it is not followed.
fn offer(shared: &Shared, master: &Master) -> Option<Result<Box<Offer>, Absent>> {
    let offered = shared.following.entry(Side::Acceptor, &master.name)?.offer();
    Some(offered.map(offer_of))
}

fn offer_of(Target { standing, .. }: Target) -> Box<Offer> {
    Box::new(Offer { standing })
}

/// Decides on a HELLO. The link keeps the admission that is returned.
fn admit(
    shared: &Shared,
    config: &Config,
    lane: &Lane,
    hello: &Hello,
) -> Result<(Arc<Master>, Admission), No> {
    claims(lane, hello)?;
    let claimed = &hello.identity.site;
    let (name, sibling) = match &hello.request {
        Request::New { master, sibling, .. } => (master, sibling),
        Request::Probe { master } => (master, &None),
        Request::Attach { .. } => {
            return Err(No::new(Kind::UnknownLink, ReasonCode::UnknownLink, "no such link here"));
        }
    };
    let master = offered(config, name, claimed)?;
    if sibling.is_some_and(|instance| instance != shared.process.instance) {
        return Err(No::new(
            Kind::WrongInstance,
            ReasonCode::WrongInstance,
            "this replica's other connection runs over another gateway; it will be tried again",
        ));
    }
    // The limits are checked before any connection to Redis is made, also for a probe.
    let lent =
        || hello.replica().is_some_and(|key| shared.links.lends_place(&hello.identity, &key, &master.name));
    let admission = shared
        .registry
        .admit(claimed, name, &config.limits, lent)
        .map_err(|limit| No::new(Kind::Limit, ReasonCode::Limit, &format!("too many links: {limit}")))?;
    Ok((master, admission))
}

/// Connects to a master's Redis and authenticates, ready for a replica. Also returns what was judged,
/// if one of several is followed.
async fn connect(shared: &Shared, master: &Master) -> Result<(TcpStream, Option<Target>), No> {
    if master.follow == Follow::Master {
        return connect_to_followed(shared, master).await;
    }
    // Replicas ask again every second, and each time the master would have to check a password.
    if let Some(fault) = shared.logins.failed_lately(&master.name, Instant::now()) {
        return Err(no_login(master, &fault));
    }
    let last_good = shared.dialer.ways.last_good(Side::Acceptor, &master.name);
    match race::run::connect_any(&master.redis, last_good, client::DEADLINE).await {
        Ok(mut redis) => {
            tune(&redis);
            if let Ok(address) = redis.peer_addr() {
                shared.dialer.ways.was_good(Side::Acceptor, &master.name, address);
            }
            authenticate(shared, master, &master.name, &mut redis).await?;
            Ok((redis, None))
        }
        Err(error) => Err(no_redis(master, &error.to_string())),
    }
}

/// As [`connect`], to the Redis that is followed. The connection itself is asked whether it leads to the very
/// process that was judged: another one may have taken its place since then, without any data.
async fn connect_to_followed(shared: &Shared, master: &Master) -> Result<(TcpStream, Option<Target>), No> {
    let entry = shared.following.entry(Side::Acceptor, &master.name);
    let entry = entry.ok_or_else(|| no_master(master, "the gateway has just begun to look for it"))?;
    if entry.target().is_err() {
        entry.hurry();
    }
    let target = entry.target_within(NO_MASTER, |_| Ok(())).await;
    let target = target.map_err(|why| no_master(master, &why))?;
    let place = format!("{} at {}", master.name, target.party);
    if let Some(fault) = shared.logins.failed_lately(&place, Instant::now()) {
        return Err(no_login(master, &fault));
    }
    let connected = race::run::connect_among(&target.addresses, client::DEADLINE).await;
    let mut redis = connected.map_err(|error| {
        entry.hurry();
        no_redis(master, &format!("{}: {error}", target.party))
    })?;
    tune(&redis);
    authenticate(shared, master, &place, &mut redis).await?;
    let user = master.auth().and_then(|auth| auth.username.as_deref()).unwrap_or("default");
    let address = redis.peer_addr().map_err(|error| no_redis(master, &error.to_string()))?;
    let looked = look::once(redis, user, client::DEADLINE).await.and_then(|(look, redis)| match look {
        Look::Master { standing, .. } => Ok((standing, redis)),
        Look::Other { words, .. } | Look::Away(words) => Err(words),
        Look::NotYet => Err("was not looked at".to_owned()),
    });
    let (standing, redis) = looked.map_err(|why| {
        entry.hurry();
        no_master(master, &format!("{} {why}", target.party))
    })?;
    // It may have a new history by now, of which the next look tells.
    let is_it = |now: &Target| {
        if now.party != target.party || !now.addresses.contains(&address) {
            Err(format!("{} is the master of {} now", now.party, master.name))
        } else if !now.standing.is_same_process(&standing) {
            Err(format!("{} is not the process that was followed, and is looked at anew", target.party))
        } else {
            Ok(())
        }
    };
    if entry.target().is_ok_and(|now| is_it(&now).is_err()) {
        entry.hurry();
    }
    let target = entry.target_within(NO_MASTER, is_it).await.map_err(|why| no_master(master, &why))?;
    Ok((redis, Some(target)))
}

fn no_master(master: &Master, why: &str) -> No {
    No {
        why: Reason::new(ReasonCode::NoMaster, why),
        log: format!("master {:?}: {why}", master.name),
        topic: Topic::master(Kind::NoMaster, master),
    }
}

fn no_redis(master: &Master, failed: &str) -> No {
    No {
        why: Reason::new(ReasonCode::RedisDown, &format!("the master's Redis is down: {failed}")),
        log: format!("Redis of master {:?} at {} cannot be reached: {failed}", master.name, master.places()),
        topic: Topic::master(Kind::RedisDown, master),
    }
}

/// Sends the master's password, if the config has one. A failure is remembered for this place.
async fn authenticate(
    shared: &Shared,
    master: &Master,
    place: &str,
    redis: &mut TcpStream,
) -> Result<(), No> {
    let Commands::Replication { auth: Some(auth), .. } = &master.commands else { return Ok(()) };
    match authenticate_to_master(redis, auth).await {
        Ok(Login::Good) => Ok(()),
        Ok(Login::NotWanted) => {
            let topic = Topic::master(Kind::NoPasswordWanted, master);
            log_throttled!(warn, shared.registry, topic, "no password required"; master = %master.name, "`auth` is set, but Redis at {} requires no password: anyone who reaches it can write; set a password there (requirepass, or ACL SETUSER), or remove `auth`", master.places());
            Ok(())
        }
        Err(fault) => {
            shared.logins.failed(place, &fault, Instant::now());
            Err(no_login(master, &fault))
        }
    }
}

fn no_login(master: &Master, fault: &str) -> No {
    let message = "the master's gateway cannot authenticate itself at its Redis; its log says why";
    No {
        why: Reason::new(ReasonCode::RedisDown, message),
        log: format!("master {:?}: Redis at {}: {fault}", master.name, master.places()),
        topic: Topic::master(Kind::RedisDown, master),
    }
}

/// Whether the version is supported and the claimed site is in the certificate.
fn claims(lane: &Lane, hello: &Hello) -> Result<(), No> {
    if hello.version != VERSION {
        return Err(No::new(
            Kind::Version,
            ReasonCode::Version,
            &format!("protocol version {} is not supported, only {VERSION}", hello.version),
        ));
    }
    let claimed = &hello.identity.site;
    if !lane.leaf().carries(claimed) {
        let carried = shown(lane.leaf().dns.join(", ").as_bytes());
        return Err(No::new(
            Kind::Mismatch,
            ReasonCode::SiteMismatch,
            &format!("the HELLO names the site {claimed}, but the certificate carries {carried}"),
        ));
    }
    Ok(())
}

/// The master of this name, if this site may replicate it.
fn offered(config: &Config, name: &str, site: &str) -> Result<Arc<Master>, No> {
    match config.master(name) {
        None => Err(No::not_available(
            name,
            format!("it asks for the master {:?}, which is not offered here", shown(name.as_bytes())),
            Topic::of(Kind::NotOffered),
        )),
        Some(master) if !master.admits(site) => {
            let log = format!("master {name:?} does not list {site:?} in `allow`");
            Err(No::not_available(name, log, Topic::master(Kind::NotAllowed, master)))
        }
        Some(master) => Ok(Arc::clone(master)),
    }
}
