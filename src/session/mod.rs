//! What a gateway does with one connection, from its first byte to its last.
//!
//! [`replica_listener`] serves a replica that connected to this site, over a lane that
//! [`dial`] finds. [`inbound`] answers a gateway that dialled it. Both end in [`relay`],
//! which moves the bytes. Passwords come before, in [`auth`]. A link that
//! lost its lanes gets new ones by [`dial::redial`] here and [`link_table`] there. What the
//! log says of a link is in `announce`.

mod announce;
pub mod auth;
mod backoff;
pub mod dial;
mod first_words;
pub mod inbound;
pub mod link_table;
pub mod relay;
pub mod replica_listener;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::dial::Dialer;
use self::link_table::LinkTable;
use crate::clock;
use crate::config::{Compression, Config, Congestion, LinkSettings};
use crate::memory::Budget;
use crate::registry::{Kind, Registry, Topic, log_throttled};
use crate::tls::reloadable::{Loaded, Reloadable};
use crate::unproven::Unproven;
use crate::wire::frame;
use crate::wire::hello::{Id, Identity};
use crate::wire::terms::{Terms, ZSTD};
use crate::x509::Certificate;

/// The time from a connection's accept to its HELLO.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// The time for the local Redis to take a connection.
pub const REDIS_DEADLINE: Duration = Duration::from_secs(3);

/// Connections at a time of one source that have shown no certificate. More may be there
/// while none of them is late: behind one address there may be many gateways.
const STRANGERS_OF_ONE: usize = 64;

/// Connections at a time of all sources that have shown no certificate.
const STRANGERS: usize = 512;

/// Lanes of one site at a time that no link has taken. Those that are judged count as
/// links, those that wait for their link's task are bounded there. More may be there while
/// none of them is late, up to [`CALLERS_AT_MOST`].
const CALLERS_OF_ONE: usize = 64;

/// Lanes of one site at a time that no link has taken, however quick they are.
const CALLERS_AT_MOST: usize = 512;

/// Whose lane it is, by its certificate: a site that stands in some `allow`, or any other
/// site of the CA.
pub type Caller = Option<String>;

/// Whose lane it is that shows this certificate.
fn caller(config: &Config, leaf: &Certificate) -> Caller {
    let mut allowed = config.masters.iter().flat_map(|master| &master.allow);
    allowed.find(|site| leaf.carries(site)).map(|site| site.to_ascii_lowercase())
}

/// What every session of this gateway shares.
pub struct Shared {
    /// The config, validated.
    pub config: Config,
    /// Certificate, key, CAs.
    pub tls: Arc<Reloadable>,
    /// The number of times that they were read again. Every link then gets new lanes.
    pub renewals: watch::Sender<u64>,
    /// This process, in every HELLO and ACCEPT.
    pub process: Process,
    /// What is live now.
    pub registry: Arc<Registry>,
    /// Connections of other gateways that have shown no certificate yet, by source.
    pub strangers: Unproven<IpAddr>,
    /// Lanes of sites that are known by their certificate and carry no link yet.
    pub callers: Unproven<Caller>,
    /// Links that a lane may ask for.
    pub links: Arc<LinkTable>,
    /// The bound on what all links have buffered.
    pub memory: Arc<Budget>,
    /// What opens lanes to other gateways.
    pub dialer: Arc<Dialer>,
    /// Logins at the masters' Redis that have failed lately.
    logins: auth::Logins,
    /// Cancelled when the gateway stops.
    pub stop: CancellationToken,
}

impl Shared {
    /// What a gateway with this config shares.
    pub fn new(config: Config, loaded: Loaded, stop: CancellationToken) -> Self {
        let process = Process::new(&config);
        let dialer = Arc::new(Dialer::new(process.clone(), loaded, stop.clone()));
        Self {
            tls: Arc::clone(&dialer.tls),
            renewals: watch::Sender::new(0),
            process,
            registry: Arc::clone(&dialer.registry),
            strangers: Unproven::new(STRANGERS_OF_ONE, STRANGERS).or_more(STRANGERS),
            // As many groups as sites in the config, and one for all others.
            callers: Unproven::new(CALLERS_OF_ONE, usize::MAX).or_more(CALLERS_AT_MOST),
            links: Arc::default(),
            memory: Budget::new(config.limits.memory),
            dialer,
            logins: auth::Logins::default(),
            config,
            stop,
        }
    }
}

/// This process, as other gateways know it.
#[derive(Clone, Debug)]
pub struct Process {
    site: String,
    node: String,
    /// Another one with each start.
    pub instance: Id,
}

impl Process {
    /// A process that was just started.
    pub fn new(config: &Config) -> Self {
        Self { site: config.site.clone(), node: config.node.clone(), instance: Id::random() }
    }

    /// Who this gateway says it is, with the time.
    pub fn identity(&self) -> Identity {
        Identity {
            site: self.site.clone(),
            node: self.node.clone(),
            instance: self.instance,
            clock: clock::now_millis(),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("site", &self.config.site).finish_non_exhaustive()
    }
}

/// What this build and these settings offer for a link.
pub fn terms(settings: &LinkSettings) -> Terms {
    Terms {
        window: settings.window,
        max_frame: u32::try_from(frame::MAX_DATA).expect("a frame is far below 4 GiB"),
        heartbeat: settings.heartbeat,
        dead_after: settings.dead_after,
        hold: settings.hold,
        lanes: settings.lanes,
        compression: if settings.compression == Compression::Off { 0 } else { ZSTD },
    }
}

/// As [`terms`], for what this site dials: it undoes whatever the far side compresses.
pub fn dialling_terms(settings: &LinkSettings) -> Terms {
    Terms { compression: ZSTD, ..terms(settings) }
}

/// No delay, and keepalive so that a host that vanished is noticed even on the
/// plain side, where nothing else is sent.
pub fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let _ = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// Sets the congestion control of a lane. Auto takes bbr where the system allows
/// it, and is silent where it does not.
fn congestion(registry: &Registry, socket: &TcpStream, wanted: &Congestion) {
    let socket = socket2::SockRef::from(socket);
    match wanted {
        Congestion::Auto => {
            let _ = socket.set_tcp_congestion(b"bbr");
        }
        Congestion::Named(name) => {
            if let Err(error) = socket.set_tcp_congestion(name.as_bytes()) {
                let topic = Topic::of(Kind::Congestion);
                log_throttled!(warn, registry, topic, name;
                    "congestion = {name:?} is not to be had: {error}; the system's is used (sysctl net.ipv4.tcp_available_congestion_control)"
                );
            }
        }
    }
}

/// Writes a reply and waits until the replica has closed: a reset could overtake it.
async fn last_words(redis: &mut TcpStream, reply: &[u8]) -> std::io::Result<()> {
    redis.write_all(reply).await?;
    redis.shutdown().await?;
    let mut rest = Zeroizing::new([0; 1024]);
    while redis.read(&mut *rest).await? > 0 {}
    Ok(())
}

/// Whether the other end has closed already.
async fn is_gone(redis: &TcpStream) -> bool {
    let ready = timeout(Duration::ZERO, redis.ready(Interest::READABLE)).await;
    matches!(ready, Ok(Ok(ready)) if ready.is_read_closed()) || matches!(ready, Ok(Err(_)))
}
