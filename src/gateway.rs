//! Wires a gateway together: binds, spawns, and stops in order.
//!
//! Sees no byte of any connection. Every task is tracked and ends with `stop`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::admin;
use crate::clock;
use crate::config::Config;
use crate::link::tlv::Id;
use crate::listener::{self, Handshakes};
use crate::memory::Budget;
use crate::password::Password;
use crate::registry::Registry;
use crate::session::door::{self, Door};
use crate::session::{DIALS, Shared, serve};
use crate::tls::in_use::{InUse, Loaded};
use crate::tls::material::Material;

/// For all links to end after a stop: sending what was read, and last words.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// Runs a gateway until `shutdown` completes, then ends every link with a GOODBYE.
///
/// Fails before anything is accepted where a listener cannot be bound or TLS
/// cannot be set up; once it is `up` it only ends through `shutdown`. Each message on
/// `reload` has the certificates read again.
pub async fn run(
    config: Config,
    material: Material,
    up: impl FnOnce(),
    mut reload: mpsc::Receiver<()>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    for warning in &material.warnings {
        warn!("{warning}");
    }
    for file in config.password_files() {
        Password::read(file).map_err(|fault| anyhow!("{fault}"))?;
        if Password::is_open_to_all(file) {
            warn!("password file {} can be read by every user of this host; chmod 600", file.display());
        }
    }
    let loaded = Loaded::new(material, sites(&config)).context("set up TLS")?;
    let shared = Arc::new(Shared {
        tls: InUse::new(loaded),
        renewals: watch::Sender::new(0),
        instance: Id::random(),
        registry: Arc::new(Registry::default()),
        attachable: Arc::default(),
        memory: Budget::new(config.limits.memory),
        dials: Semaphore::new(DIALS),
        config,
        stop: stop.clone(),
    });
    // Everything is bound before anything is accepted.
    let wan = shared.config.listen.map(|address| bind(address, "[tunnel]")).transpose()?;
    let mut replicas = Vec::new();
    for replica in &shared.config.replicas {
        let listener = bind(replica.listen, &format!("replica {:?}", replica.name))?;
        replicas.push((listener, Arc::new(Door::new(replica.clone()))));
    }
    if let Some(listener) = admin::bind(&shared) {
        tasks.spawn(admin::serve(Arc::clone(&shared), listener));
    }
    if let Some(listener) = wan {
        accept_sites(&shared, listener, &tasks);
    }
    for (listener, door) in replicas {
        accept_replicas(&shared, listener, door, &tasks);
    }
    info!(site = %shared.config.site, node = %shared.config.node, version = env!("CARGO_PKG_VERSION"), "gateway up");
    up();

    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(()) = reload.recv() => read_again(&shared),
        }
    }
    info!("stopping");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_DEADLINE, tasks.wait()).await.is_err() {
        warn!("{} connections did not end in time and are cut", tasks.len());
    }
    info!("stopped");
    Ok(())
}

/// The sites that this one dials.
fn sites(config: &Config) -> impl Iterator<Item = &str> {
    config.replicas.iter().map(|replica| replica.site.as_str())
}

/// Reads the certificates again; where anything is wrong with them, what is in use
/// stays.
fn read_again(shared: &Shared) {
    let loaded = Material::load(&shared.config.tls, &shared.config.site).and_then(|material| {
        Loaded::new(material, sites(&shared.config)).map_err(|error| vec![error.to_string()])
    });
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.material.warnings {
                warn!("{warning}");
            }
            let until = clock::utc(loaded.material.leaf.not_after);
            shared.tls.replace(loaded);
            shared.renewals.send_modify(|count| *count += 1);
            info!(%until, "certificates read again, every lane is replaced; the config itself is read at start only");
        }
        Err(faults) => {
            for fault in faults {
                error!("certificates not read again, the earlier ones stay in use: {fault}");
            }
        }
    }
}

fn bind(address: SocketAddr, what: &str) -> anyhow::Result<tokio::net::TcpListener> {
    listener::bind(address).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; is another gateway or a Redis running there? (ss -ltnp)",
            std::io::ErrorKind::AddrNotAvailable => "; this host has no such address (ip addr)",
            _ => "",
        };
        anyhow!("{what}: listen on {address}: {error}{hint}")
    })
}

fn accept_sites(shared: &Arc<Shared>, listener: tokio::net::TcpListener, tasks: &TaskTracker) {
    for master in &shared.config.masters {
        if master.is_plain() {
            warn!(master = %master.name, "commands = \"any\": every command of the sites in `allow` reaches this Redis, FLUSHALL and CONFIG too");
        }
        for danger in master.dangers() {
            warn!(master = %master.name, "{danger}");
        }
        info!(master = %master.name, redis = %master.redis, allow = %master.allow.join(","), listen = %shared.config.listen.expect("bound"), "offering a master");
    }
    let (shared, inner) = (Arc::clone(shared), tasks.clone());
    let handshakes = Handshakes::default();
    tasks.spawn(listener::accept(listener, shared.stop.clone(), move |socket, from| {
        let place = handshakes.enter(from.ip());
        let shared = Arc::clone(&shared);
        inner.spawn(async move {
            let greeted = tokio::select! {
                greeted = serve::greet(&shared, socket, from) => greeted,
                () = place.evicted.cancelled() => {
                    if shared.registry.refused(&format!("crowded out {}", from.ip())) {
                        warn!(%from, "connection refused: too many handshakes at a time, the oldest goes");
                    } else {
                        debug!(%from, "connection refused: too many handshakes at a time, the oldest goes");
                    }
                    None
                }
                () = shared.stop.cancelled() => None,
            };
            drop(place);
            if let Some((lane, hello)) = greeted {
                serve::serve_site(shared, lane, hello).await;
            }
        });
    }));
}

fn accept_replicas(
    shared: &Arc<Shared>,
    listener: tokio::net::TcpListener,
    door: Arc<Door>,
    tasks: &TaskTracker,
) {
    let replica = Arc::clone(&door.replica);
    info!(replica = %replica.name, site = %replica.site, master = %replica.master, listen = %replica.listen, "waiting for replicas: REPLICAOF {} {}", replica.listen.ip(), replica.listen.port());
    let (shared, inner) = (Arc::clone(shared), tasks.clone());
    tasks.spawn(listener::accept(listener, shared.stop.clone(), move |socket, from| {
        if !replica.clients.iter().any(|network| network.contains(from.ip())) {
            if shared.registry.refused(&format!("replica {}: client {}", replica.name, from.ip())) {
                warn!(link = %replica.name, %from, "connection refused: {} is not in `clients`", from.ip());
            }
            return;
        }
        inner.spawn(door::serve_replica(Arc::clone(&shared), Arc::clone(&door), socket, from));
    }));
}
