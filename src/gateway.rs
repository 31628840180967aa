//! Wires a gateway together: binds, spawns, and stops in order.
//!
//! Sees no byte of any connection. Every task is tracked and ends with `stop`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::admin;
use crate::config::Config;
use crate::link::tlv::Id;
use crate::listener::{self, Handshakes};
use crate::memory::Budget;
use crate::registry::Registry;
use crate::session::{Shared, dial, serve};
use crate::tls::material::Material;

/// For all links to end after a stop: sending what was read, and last words.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// Runs a gateway until `shutdown` completes, then ends every link with a GOODBYE.
///
/// Fails before anything is accepted where a listener cannot be bound or TLS
/// cannot be set up; once it is `up` it only ends through `shutdown`.
pub async fn run(
    config: Config,
    material: Material,
    up: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let shared = Arc::new(Shared {
        material,
        instance: Id::random(),
        registry: Arc::new(Registry::default()),
        attachable: Arc::default(),
        memory: Budget::new(config.limits.memory),
        config,
        stop: stop.clone(),
    });
    for warning in &shared.material.warnings {
        warn!("{warning}");
    }
    // Everything is bound before anything is accepted.
    let wan = shared.config.listen.map(|address| bind(address, "[tunnel]")).transpose()?;
    let mut replicas = Vec::new();
    for replica in &shared.config.replicas {
        let listener = bind(replica.listen, &format!("replica {:?}", replica.name))?;
        let dial = shared
            .material
            .client(&replica.site)
            .with_context(|| format!("set up TLS towards {}", replica.site))?;
        replicas.push((listener, Arc::new(dial::Site { replica: replica.clone(), dial })));
    }
    if let Some(listener) = admin::bind(&shared) {
        tasks.spawn(admin::serve(Arc::clone(&shared), listener));
    }
    if let Some(listener) = wan {
        let server = shared.material.server().context("set up TLS for other sites")?;
        accept_sites(&shared, listener, &server, &tasks);
    }
    for (listener, site) in replicas {
        accept_replicas(&shared, listener, site, &tasks);
    }
    info!(site = %shared.config.site, node = %shared.config.node, version = env!("CARGO_PKG_VERSION"), "gateway up");
    up();

    shutdown.await;
    info!("stopping");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_DEADLINE, tasks.wait()).await.is_err() {
        warn!("{} connections did not end in time and are cut", tasks.len());
    }
    info!("stopped");
    Ok(())
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

fn accept_sites(
    shared: &Arc<Shared>,
    listener: tokio::net::TcpListener,
    server: &Arc<rustls::ServerConfig>,
    tasks: &TaskTracker,
) {
    for master in &shared.config.masters {
        if master.plain {
            warn!(master = %master.name, "commands = \"any\": every command of the sites in `allow` reaches this Redis, FLUSHALL and CONFIG too");
        }
        info!(master = %master.name, redis = %master.redis, allow = %master.allow.join(","), listen = %shared.config.listen.expect("bound"), "offering a master");
    }
    let (shared, server, inner) = (Arc::clone(shared), Arc::clone(server), tasks.clone());
    let handshakes = Handshakes::default();
    tasks.spawn(listener::accept(listener, shared.stop.clone(), move |socket, from| {
        let place = handshakes.enter(from.ip());
        let (shared, server) = (Arc::clone(&shared), Arc::clone(&server));
        inner.spawn(async move {
            let greeted = tokio::select! {
                greeted = serve::greet(&shared, server, socket, from) => greeted,
                () = place.evicted.cancelled() => {
                    shared.registry.refused("crowded out");
                    debug!(%from, "connection refused: too many handshakes, the oldest goes");
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
    site: Arc<dial::Site>,
    tasks: &TaskTracker,
) {
    let replica = &site.replica;
    info!(replica = %replica.name, site = %replica.site, master = %replica.master, listen = %replica.listen, "waiting for replicas: REPLICAOF {} {}", replica.listen.ip(), replica.listen.port());
    let (shared, inner) = (Arc::clone(shared), tasks.clone());
    tasks.spawn(listener::accept(listener, shared.stop.clone(), move |socket, from| {
        if !site.replica.clients.iter().any(|network| network.contains(from.ip())) {
            if shared.registry.refused(&format!("replica {}: client {}", site.replica.name, from.ip())) {
                warn!(link = %site.replica.name, %from, "connection refused: {} is not in `clients`", from.ip());
            }
            return;
        }
        inner.spawn(dial::serve_replica(Arc::clone(&shared), Arc::clone(&site), socket, from));
    }));
}
