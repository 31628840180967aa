//! Answers a gateway that dialled this site: judges its HELLO, connects to the
//! master's Redis, accepts in so many words, and hands both to the relay.
//!
//! A site that may not replicate a master hears the same as one that asks for a
//! master there is none of; only the log here tells which it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::attach::Arrival;
use super::login::{Login, login};
use super::relay::{self, Relay, Supply};
use super::{HELLO_DEADLINE, REDIS_DEADLINE, Shared, agreed, congestion, terms, tune};
use crate::clock;
use crate::config::{Commands, Compression, Master};
use crate::escape::shown;
use crate::lane::{Lane, LaneError};
use crate::link::attach::Dial;
use crate::link::frame::Frame;
use crate::link::tlv::{Accept, Code, Hello, Id, Refuse, VERSION, Want, Why};
use crate::link::{Link, Side};
use crate::redis::at_master::AtMaster;
use crate::redis::gate::{Gate, Rules};
use crate::redis::observer::Observer;
use crate::redis::replication::Observed;
use crate::registry::{Admission, With};
use crate::tap::{Blind, Flow, Tap};

/// A refusal: what the far side hears, and what the log says.
struct No {
    why: Why,
    log: String,
}

impl No {
    fn new(code: Code, heard: &str) -> Self {
        Self { why: Why::new(code, heard), log: heard.to_owned() }
    }

    /// What an unknown and a forbidden master have in common.
    fn not_available(master: &str, log: String) -> Self {
        Self {
            why: Why::new(Code::NotAvailable, &format!("master {master:?} is not available to this site")),
            log,
        }
    }
}

/// Opens TLS and reads HELLO, within the deadline from accept to hello. An error
/// here is already told.
pub async fn greet(shared: &Shared, socket: TcpStream, from: SocketAddr) -> Option<(Lane, Hello)> {
    tune(&socket);
    congestion(shared, &socket, &shared.config.link.congestion);
    let tls = shared.tls.now();
    let ours = &tls.material.leaf;
    let greeted = timeout(HELLO_DEADLINE, async {
        let mut lane = Lane::accept(socket, Arc::clone(&tls.server), ours).await?;
        match lane.receive(ours).await {
            Ok(Frame::Hello(hello)) => Ok((lane, hello)),
            Ok(_) => Err(LaneError::Unexpected),
            Err(LaneError::Frame(error)) => {
                let why = Why::new(Code::Version, &format!("the hello is not understood: {error}"));
                let _ = lane.send(&Frame::Refuse(Refuse { why, clock: Some(clock::now_millis()) })).await;
                lane.close().await;
                Err(error.into())
            }
            Err(error) => Err(error),
        }
    })
    .await;
    let (reason, left) = match greeted {
        Ok(Ok(greeted)) => return Some(greeted),
        // A dial that was given up because another was accepted first, as like as not.
        Ok(Err(error @ (LaneError::Closed | LaneError::Socket(_)))) => (error.to_string(), true),
        Ok(Err(error)) => (error.to_string(), false),
        Err(_) => (format!("no hello within {} s", HELLO_DEADLINE.as_secs()), false),
    };
    if left {
        debug!(%from, "connection given up before its hello: {reason}");
    } else if shared.registry.refused(&format!("connection from {}: {reason}", from.ip())) {
        warn!(%from, "connection refused: {reason}");
    } else {
        debug!(%from, "connection refused: {reason}");
    }
    None
}

/// Carries one lane from its HELLO to its end, or to the link that it asks for.
pub async fn serve_site(shared: Arc<Shared>, mut lane: Lane, hello: Hello) {
    let (from, site) = (lane.peer(), hello.identity.site.clone());
    if let Want::Attach { link, lane: number, alive, received } = &hello.want {
        let dial = Dial { lane: *number, alive: alive.clone(), received: *received };
        return attach(&shared, lane, &hello, *link, dial).await;
    }
    let judged = tokio::select! {
        judged = judge(&shared, &lane, &hello) => judged,
        () = shared.stop.cancelled() => Err(No::new(Code::Stopping, &format!("the gateway of site {} stops", shared.config.site))),
    };
    let (master, redis, admission) = match judged {
        Ok(judged) => judged,
        Err(no) => return refuse(&shared, lane, &site, no).await,
    };
    if matches!(hello.want, Want::New { .. }) {
        shared.attachable.came_up(&hello.identity);
    }
    let plain = master.is_plain();
    let ours = terms(&shared.config.link);
    let probe = matches!(hello.want, Want::Probe { .. });
    let id = Id::random();
    let (listed, door) = shared.attachable.list(id, &hello.identity, &master.name);
    let accept = Frame::Accept(Accept {
        version: VERSION,
        identity: shared.identity(),
        terms: ours.clone(),
        link: (!probe).then_some(id),
        received: 0,
        plain,
    });
    if !matches!(timeout(Duration::from_secs(5), lane.send(&accept)).await, Ok(Ok(()))) {
        debug!(%from, %site, "the far gateway left before it was accepted");
        return;
    }
    if probe {
        drop(redis);
        debug!(%from, %site, master = %master.name, "probed");
        let _ = timeout(Duration::from_secs(2), lane.close()).await;
        return;
    }
    let Ok(address) = redis.peer_addr() else { return };
    let agreed = agreed(&ours, &hello.terms, plain);
    let rules = rules(master, &admission);
    let observed =
        rules.is_some().then(|| Observed::new(shared.registry.syncs(Side::Acceptor, &master.name)));
    let place = shared.registry.open(&With {
        name: &master.name,
        side: Side::Acceptor,
        site: &site,
        instance: hello.identity.instance,
        far: from,
        redis: address,
        plain,
        agreed,
        observed: observed.clone(),
    });
    info!(link = %master.name, number = place.number, %site, node = %shown(hello.identity.node.as_bytes()), far = %from, master = %address, plain = plain, hold = ?agreed.hold, lanes = agreed.lanes, compressed = agreed.compressed, "link up");
    let tap: Box<dyn Tap> = match (rules, &observed) {
        (Some(rules), Some(observed)) => Box::new(AtMaster::new(
            Gate::new(&shared.config.site, rules),
            Observer::new(Arc::clone(observed)),
        )),
        _ => Box::new(Blind),
    };
    let mut link = Link::new(Side::Acceptor, plain, &ours, &hello.terms, Instant::now());
    if let Compression::Zstd { level } = shared.config.link.compression {
        link = link.compressing(level);
    }
    let hold = link.hold();
    if link.is_shared() {
        lane.share();
    }
    let relay = Relay {
        link,
        lane,
        supply: Supply::Arrivals(door),
        renewed: shared.renewals.subscribe(),
        share: shared.memory.share(&site),
        meter: shared.registry.meter(&site),
        redis,
        inward: Flow::ToMaster,
        plain,
        tap,
        entry: &place,
        site: &shared.config.site,
    };
    let (end, _) = relay::run(relay, &shared.stop).await;
    listed.end(&end.to_string(), hold);
    super::end(place, &end);
}

/// What the gate of a link to this master goes by; nothing where any command passes.
fn rules(master: &Master, admission: &Admission) -> Option<Rules> {
    match &master.commands {
        Commands::Any => None,
        Commands::Replication { auth, failover, dump, slot_migration } => Some(Rules {
            authenticated: auth.is_some(),
            failover: *failover,
            dump: *dump,
            slot_migration: *slot_migration,
            full_syncs: admission.full_syncs.clone(),
            grants: Arc::clone(&admission.grants),
        }),
    }
}

/// Hands a lane to the link that it asks for.
async fn attach(shared: &Shared, lane: Lane, hello: &Hello, link: Id, dial: Dial) {
    let site = hello.identity.site.clone();
    let judged = claims(&lane, hello).and_then(|()| {
        let name = shared.attachable.master_of(link, &site).map_err(|why| No {
            log: format!("a lane asks for a link: {}", shown(why.text.as_bytes())),
            why,
        })?;
        // At every lane anew.
        offered(shared, &name, &site)
    });
    let master = match judged {
        Ok(master) => master,
        Err(no) => return refuse(shared, lane, &site, no).await,
    };
    shared.attachable.came_up(&hello.identity);
    let accept = Accept {
        version: VERSION,
        identity: shared.identity(),
        terms: terms(&shared.config.link),
        link: Some(link),
        received: 0,
        plain: master.is_plain(),
    };
    if let Err(arrival) = shared.attachable.knock(link, Arrival { lane, dial, accept }) {
        let no = No::new(Code::NotYet, "the link is busy or about to end");
        refuse(shared, arrival.lane, &site, no).await;
    }
}

/// Says no, in words that the far side may hear.
async fn refuse(shared: &Shared, mut lane: Lane, site: &str, no: No) {
    let from = lane.peer();
    if no.why.code == Code::LinkEnded {
        // It comes to hear why, as like as not.
        debug!(%from, site = %shown(site.as_bytes()), "lane refused: {}", no.log);
    } else if shared.registry.refused(&format!("site {site}: {}", no.log)) {
        warn!(%from, site = %shown(site.as_bytes()), "link refused: {}", no.log);
    } else {
        debug!(%from, site = %shown(site.as_bytes()), "link refused: {}", no.log);
    }
    let refuse = Frame::Refuse(Refuse { why: no.why, clock: Some(clock::now_millis()) });
    let _ = timeout(Duration::from_secs(2), async {
        lane.send(&refuse).await?;
        lane.close().await;
        Ok::<_, LaneError>(())
    })
    .await;
}

/// Decides on a HELLO. A yes comes with the connection to the master and the
/// admission that the link keeps.
async fn judge<'s>(
    shared: &'s Shared,
    lane: &Lane,
    hello: &Hello,
) -> Result<(&'s Master, TcpStream, Admission), No> {
    claims(lane, hello)?;
    let claimed = &hello.identity.site;
    let (name, sibling) = match &hello.want {
        Want::New { master, sibling } => (master, sibling),
        Want::Probe { master } => (master, &None),
        Want::Attach { .. } => return Err(No::new(Code::UnknownLink, "no such link here")),
    };
    let master = offered(shared, name, claimed)?;
    if sibling.is_some_and(|instance| instance != shared.instance) {
        return Err(No::new(
            Code::WrongInstance,
            "this replica's other connection runs over another gateway; it will be tried again",
        ));
    }
    // Before any connection to Redis is made, and for a probe as well.
    let admission = shared
        .registry
        .admit(claimed, name, &shared.config.limits)
        .map_err(|limit| No::new(Code::Limit, &format!("too many links: {limit}")))?;
    let connect = TcpStream::connect((master.redis.host.as_str(), master.redis.port));
    let failed = match timeout(REDIS_DEADLINE, connect).await {
        Ok(Ok(mut redis)) => {
            tune(&redis);
            return match authenticate(shared, master, &mut redis).await {
                Ok(()) => Ok((master, redis, admission)),
                Err(no) => {
                    admission.forgive();
                    Err(no)
                }
            };
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", REDIS_DEADLINE.as_secs()),
    };
    // Replicas ask again every second: that must not use up the site's links.
    admission.forgive();
    let why = Why::new(Code::RedisDown, &format!("the master's Redis is down: {failed}"));
    Err(No { why, log: format!("Redis of master {name:?} at {} cannot be reached: {failed}", master.redis) })
}

/// Says the master's password, where the config has one.
async fn authenticate(shared: &Shared, master: &Master, redis: &mut TcpStream) -> Result<(), No> {
    let Commands::Replication { auth: Some(auth), .. } = &master.commands else { return Ok(()) };
    let what = format!("master {:?}: Redis at {}", master.name, master.redis);
    match login(redis, auth).await {
        Ok(Login::Good) => Ok(()),
        Ok(Login::NotWanted) => {
            if shared.registry.is_news(&format!("{what} wants no password")) {
                warn!(master = %master.name, "`auth` is set, but Redis at {} wants no password: whoever reaches it may write; set one there (requirepass, or ACL SETUSER), or take `auth` out", master.redis);
            }
            Ok(())
        }
        Err(fault) => {
            let heard = "the master's gateway cannot authenticate itself at its Redis; its log says why";
            Err(No { why: Why::new(Code::RedisDown, heard), log: format!("{what}: {fault}") })
        }
    }
}

/// Whether the version is spoken and the claimed site is in the certificate.
fn claims(lane: &Lane, hello: &Hello) -> Result<(), No> {
    if hello.version != VERSION {
        return Err(No::new(
            Code::Version,
            &format!("protocol version {} is not spoken here, only {VERSION}", hello.version),
        ));
    }
    let claimed = &hello.identity.site;
    if !lane.leaf().carries(claimed) {
        let carried = shown(lane.leaf().dns.join(", ").as_bytes());
        return Err(No::new(
            Code::SiteMismatch,
            &format!("you call yourself {claimed}, but your certificate carries {carried}"),
        ));
    }
    Ok(())
}

/// The master of this name, where this site may replicate it.
fn offered<'s>(shared: &'s Shared, name: &str, site: &str) -> Result<&'s Master, No> {
    match shared.config.master(name) {
        None => Err(No::not_available(
            name,
            format!("it asks for the master {:?}, which is not offered here", shown(name.as_bytes())),
        )),
        Some(master) if !master.allow.iter().any(|allowed| allowed.eq_ignore_ascii_case(site)) => {
            Err(No::not_available(name, format!("master {name:?} does not list {site:?} in `allow`")))
        }
        Some(master) => Ok(master),
    }
}
