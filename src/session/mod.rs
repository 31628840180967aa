//! What a gateway does with one connection, from its first byte to its last.
//!
//! [`replica_listener`] serves a replica that has connected to this site, over a lane that [`dial`]
//! opens. [`inbound`] answers a gateway that has dialled this site. Both end in [`relay`], which
//! moves the bytes. Passwords are checked before that, in [`auth`]. A link that has lost its lanes
//! gets new ones from [`dial::redial`] at the dialler, and through [`link_table`] at the acceptor.
//! `announce` logs the start and the end of links.

mod announce;
mod auth;
mod backoff;
pub mod choice;
pub mod dial;
pub mod exchange;
mod first_words;
pub mod inbound;
pub mod link_table;
mod permission;
mod predecessors;
pub mod relay;
pub mod replica_listener;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::dial::Dialer;
use self::exchange::{Arrived, Exchange};
use self::link_table::LinkTable;
use crate::clock;
use crate::config::{Compression, Config, Congestion, LinkSettings};
use crate::current::Current;
use crate::follow::Following;
use crate::memory::Budget;
use crate::registry::{Events, Kind, Registry, Topic, log_throttled};
use crate::tls::loaded::Loaded;
use crate::unproven::Unproven;
use crate::wire::frame;
use crate::wire::hello::{Id, Identity};
use crate::wire::terms::{Terms, ZSTD};
use crate::x509::Certificate;

/// Time from the accept of a connection to its HELLO.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Connections of one source at a time that have shown no certificate. More are allowed if none of
/// them is late, since there may be many gateways behind one address.
const STRANGERS_OF_ONE: usize = 64;

/// Connections of all sources at a time that have shown no certificate.
const STRANGERS: usize = 512;

/// Lanes of one site at a time that no link has taken. Lanes that are being judged count as links,
/// and those that wait for their link's task are bounded there. Up to [`CALLERS_AT_MOST`] are
/// allowed if none of them is late.
const CALLERS_OF_ONE: usize = 64;

/// Most lanes of one site at a time that no link has taken, even if none is late.
const CALLERS_AT_MOST: usize = 512;

/// Time given to lanes to be replaced, before lists that revoke this gateway's earlier certificate are
/// offered to other gateways.
const RENEWED: Duration = Duration::from_secs(120);

/// Interval at which it is looked whether they are.
const RENEWED_EVERY: Duration = Duration::from_millis(100);

/// The owner of a lane by its certificate: a site in some `allow`; `None` is any other site of the
/// CA.
pub type Caller = Option<String>;

/// The owner of a lane with this certificate.
fn caller(config: &Config, leaf: &Certificate) -> Caller {
    let mut allowed = config.masters.iter().flat_map(|master| &master.allow);
    allowed.find(|site| leaf.carries(site)).map(|site| site.to_ascii_lowercase())
}

/// What every session of this gateway shares.
pub struct Shared {
    /// The config in use.
    config: Arc<Current<Config>>,
    /// A config whose digest was asked for, with the digest.
    digest: Mutex<Option<(Arc<Config>, String)>>,
    /// Certificate, key, CAs.
    pub tls: Arc<Current<Loaded>>,
    /// Changes whenever every link must be judged again: after a reload, and when a certificate has
    /// expired.
    pub reloads: watch::Sender<u64>,
    /// This process, in every HELLO and ACCEPT.
    pub process: Process,
    /// What was logged lately.
    pub events: Arc<Events>,
    /// The live links and the counts.
    pub registry: Arc<Registry>,
    /// Connections of other gateways that have shown no certificate yet, by source.
    pub strangers: Unproven<IpAddr>,
    /// Lanes that have shown a certificate and carry no link yet, by site.
    pub callers: Unproven<Caller>,
    /// The links that a lane may ask for.
    pub links: Arc<LinkTable>,
    /// The memory budget of all links.
    pub memory: Arc<Budget>,
    /// Which Redis and which sites are followed.
    pub following: Following,
    /// Opens lanes to other gateways.
    pub dialer: Arc<Dialer>,
    /// Random, new at each start: what tells this process from an earlier one in `status`. Nothing else uses it.
    pub run_id: String,
    /// When this process was started; the ticks of all links count from then.
    started: Instant,
    /// Logins at the masters' Redis that have failed recently.
    logins: auth::Logins,
    /// Exchanges revocation lists with other gateways.
    pub exchange: Arc<Exchange>,
    /// Cancelled when the gateway stops.
    pub stop: CancellationToken,
}

impl Shared {
    /// The shared state of a gateway with this config, and the revocation lists that other gateways
    /// hand over.
    pub fn new(
        config: Config,
        loaded: Loaded,
        events: Arc<Events>,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<Arrived>) {
        let (exchange, arrived) = Exchange::new();
        let process = Process::new(&config);
        let memory = Budget::new(config.limits.memory);
        let dialer = Arc::new(Dialer::new(process.clone(), config, loaded, exchange, stop.clone()));
        let shared = Self {
            config: Arc::clone(&dialer.config),
            digest: Mutex::default(),
            tls: Arc::clone(&dialer.tls),
            reloads: dialer.reloads.clone(),
            process,
            events,
            registry: Arc::clone(&dialer.registry),
            strangers: Unproven::new(STRANGERS_OF_ONE, STRANGERS).or_more(STRANGERS),
            // One group for each site of the config, and one for all others.
            callers: Unproven::new(CALLERS_OF_ONE, usize::MAX).or_more(CALLERS_AT_MOST),
            links: Arc::default(),
            memory,
            following: Following::default(),
            exchange: Arc::clone(&dialer.exchange),
            dialer,
            run_id: run_id(),
            started: Instant::now(),
            logins: auth::Logins::default(),
            stop,
        };
        shared.registry.follow(&shared.config());
        (shared, arrived)
    }

    /// Time since the start of this process.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The config in use now. A session takes it once, and so judges by one config.
    pub fn config(&self) -> Arc<Config> {
        self.config.now()
    }

    /// The digest of the config in use now. It is made once for each config: with thousands of entries that
    /// takes a while.
    pub fn config_digest(&self) -> String {
        let config = self.config();
        let mut known = self.digest.lock().expect("no code panics while it makes a digest");
        match &*known {
            Some((of, digest)) if Arc::ptr_eq(of, &config) => digest.clone(),
            _ => known.insert((Arc::clone(&config), config.digest())).1.clone(),
        }
    }

    /// Uses other files of trust, another config, or both from now on. Every link and every lane is judged
    /// again; lanes that were opened with another certificate of this gateway are replaced.
    pub fn reload(&self, loaded: Option<Loaded>, config: Option<Config>) {
        if let Some(config) = config {
            self.memory.limit_to(config.limits.memory);
            self.registry.limit_to(&self.config().limits, &config.limits);
            self.registry.follow(&config);
            self.config.replace(config);
        }
        if let Some(loaded) = loaded {
            let revokes_earlier = loaded.material.revocation.revokes(&self.tls.now().material.leaf);
            self.tls.replace(loaded);
            self.dialer.handshakes.judge(&self.tls.now());
            if revokes_earlier {
                tokio::spawn(offer_after_renewal(Arc::clone(&self.dialer)));
            } else {
                self.exchange.offer(&self.tls.now().material.revocation, Instant::now());
            }
        }
        self.reloads.send_modify(|reloads| *reloads += 1);
    }

    /// Judges every link again: another Redis or another site is followed.
    pub fn judge_links(&self) {
        self.reloads.send_modify(|reloads| *reloads += 1);
    }

    /// Judges the certificates of all lanes by the time.
    pub fn look_at_dates(&self) {
        if self.dialer.handshakes.look(&self.tls.now(), Instant::now(), clock::now()) {
            self.reloads.send_modify(|reloads| *reloads += 1);
        }
    }
}

/// Offers the revocation lists in use to other gateways once no lane is left with the earlier certificate of
/// this gateway, which they revoke; at the latest after [`RENEWED`].
async fn offer_after_renewal(dialer: Arc<Dialer>) {
    let renewed = async {
        while dialer.handshakes.is_renewing(&dialer.tls.now()) {
            tokio::time::sleep(RENEWED_EVERY).await;
        }
    };
    let _ = timeout(RENEWED, renewed).await;
    dialer.exchange.offer(&dialer.tls.now().material.revocation, Instant::now());
}

/// Another text for each process.
fn run_id() -> String {
    let Id(random) = Id::random();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This process as other gateways identify it.
#[derive(Clone, Debug)]
pub struct Process {
    /// The site of its config.
    pub site: String,
    /// The name of its host, or `node` of its config.
    pub node: String,
    /// A random id, new at each start.
    pub instance: Id,
}

impl Process {
    /// A process that was just started.
    pub fn new(config: &Config) -> Self {
        Self { site: config.site.clone(), node: config.node.clone(), instance: Id::random() }
    }

    /// This gateway's identity, with the current time.
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
        f.debug_struct("Shared").field("site", &self.process.site).finish_non_exhaustive()
    }
}

/// The terms that this build and these settings offer for a link.
pub fn terms(settings: &LinkSettings) -> Terms {
    Terms {
        window: settings.window,
        max_frame: u32::try_from(frame::MAX_DATA).expect("a frame is far below 4 GiB"),
        heartbeat: settings.heartbeat,
        dead_after: settings.dead_after,
        hold: settings.hold,
        lanes: settings.lanes,
        compression: if settings.compression == Compression::Off { 0 } else { ZSTD },
        reports: true,
        lists: true,
    }
}

/// As [`terms`], for links that this site dials: it accepts every compression of the far side.
pub fn dialling_terms(settings: &LinkSettings) -> Terms {
    Terms { compression: ZSTD, ..terms(settings) }
}

/// Sets TCP_NODELAY, and keepalive to detect a host that has vanished. The plain side needs it too,
/// since nothing else is sent there.
pub fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let _ = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// Sets the congestion control of a lane. `Auto` uses bbr if the system allows it, and logs nothing
/// if it does not. Returns whether the lane must watch the startup of bbr, which `Auto` alone asks for.
fn congestion(registry: &Registry, socket: &TcpStream, wanted: &Congestion) -> bool {
    let socket = socket2::SockRef::from(socket);
    match wanted {
        Congestion::Auto => socket.set_tcp_congestion(b"bbr").is_ok(),
        Congestion::Named(name) => {
            if let Err(error) = socket.set_tcp_congestion(name.as_bytes()) {
                let topic = Topic::of(Kind::Congestion);
                log_throttled!(warn, registry, topic, name;
                    "congestion = {name:?} is not available: {error}; the system's default is used (sysctl net.ipv4.tcp_available_congestion_control)"
                );
            }
            false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_startup_of_bbr_is_watched_only_where_auto_chose_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let registry = Registry::default();
        let offered =
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
        let in_use = || socket2::SockRef::from(&socket).tcp_congestion().unwrap();
        let has_bbr = || in_use().starts_with(b"bbr");
        assert!(!congestion(&registry, &socket, &Congestion::Named("reno".to_owned())));
        assert!(in_use().starts_with(b"reno"));
        assert_eq!(congestion(&registry, &socket, &Congestion::Auto), has_bbr());
        assert!(has_bbr() || !offered.contains("bbr"));
        assert!(!congestion(&registry, &socket, &Congestion::Named("bbr".to_owned())));
    }
}
