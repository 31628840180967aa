//! Composes a gateway: binds, spawns tasks, and stops in order.
//!
//! This module sees no bytes of any connection. Every task is tracked and ends with `stop`.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin;
use crate::buffer;
use crate::clock;
use crate::config::Config;
use crate::listener;
use crate::password::Password;
use crate::registry::{Kind, Suppressed, Topic, log_throttled};
use crate::session::replica_listener::{self, ReplicaListener};
use crate::session::{Shared, inbound};
use crate::tls::expiry::Reminders;
use crate::tls::material::Material;
use crate::tls::reloadable::Loaded;
use crate::unproven;
use crate::workers::Workers;

/// Time given to all links to end after a stop: they send what was read and a last frame.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// Interval at which buffers that are not needed are freed, and write rates are measured.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Interval at which repeated messages that were only counted are logged.
const COUNTS_EVERY: Duration = Duration::from_secs(5);

/// Runs a gateway until `shutdown` completes, then ends every link with a GOODBYE.
///
/// Fails before anything is accepted if a listener cannot be bound or TLS cannot be set up. Once
/// `up` was called, it ends only through `shutdown`. Each message on `reload` makes it read the
/// certificates again.
pub async fn run(
    config: Config,
    material: Material,
    up: impl FnOnce(),
    reload: mpsc::Receiver<()>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let workers = Arc::new(Workers::start(tasks.clone()).context("start a thread for each core")?);
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
    let shared = Arc::new(Shared::new(config, loaded, stop.clone()));
    // Every listener is bound before a connection is accepted.
    let wan = shared.config.listen.map(|address| bind(address, "[tunnel]")).transpose()?;
    let mut replicas = Vec::new();
    for replica in &shared.config.replicas {
        let listener = bind(replica.listen, &format!("replica {:?}", replica.name))?;
        replicas.push((listener, Arc::new(ReplicaListener::new(replica.clone()))));
    }
    for listener in admin::bind(&shared).await {
        tasks.spawn(admin::serve(Arc::clone(&shared), listener, tasks.clone()));
    }
    if let Some(listener) = wan {
        accept_sites(&shared, listener, &workers, &tasks);
    }
    for (listener, replica_listener) in replicas {
        accept_replicas(&shared, listener, replica_listener, &workers, &tasks);
    }
    tasks.spawn(count(Arc::clone(&shared)));
    tasks.spawn(look_after_memory(Arc::clone(&shared)));
    tasks.spawn(remind(Arc::clone(&shared)));
    tasks.spawn(reload_certificates(Arc::clone(&shared), reload));
    info!(site = %shared.config.site, node = %shared.config.node, version = env!("CARGO_PKG_VERSION"), "gateway up");
    up();

    shutdown.await;
    info!("stopping");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_DEADLINE, tasks.wait()).await.is_err() {
        warn!("{} connections did not end in time and are cut", tasks.len());
    }
    tell_counts(&shared, true);
    info!("stopped");
    Ok(())
}

/// Logs reminders for certificates, CAs and revocation lists that will expire or have expired.
async fn remind(shared: Arc<Shared>) {
    let mut renewals = shared.renewals.subscribe();
    loop {
        let loaded = shared.tls.now();
        let mut reminders = Reminders::new(&loaded.material.terms, clock::now());
        loop {
            let (terms, now) = (&loaded.material.terms, clock::now());
            for (past, words) in reminders.due(terms, now) {
                if past {
                    error!("{words}");
                } else {
                    warn!("{words}");
                }
            }
            let pause = Duration::from_secs(Reminders::pause(terms, now));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                renewed = renewals.changed() => match renewed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = shared.stop.cancelled() => return,
            }
        }
    }
}

/// Gives memory that is not needed back to the system, and logs which links have too little for an
/// outage.
async fn look_after_memory(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shared.stop.cancelled() => return,
        }
        buffer::trim();
        let free = shared.memory.limit().saturating_sub(shared.memory.used());
        for (link, coverage) in shared.registry.measure(free, Instant::now()) {
            let (topic, words) = (Topic::link(Kind::Uncovered, &link), coverage.words());
            let [covered, hold] =
                [Duration::from_secs_f64(coverage.seconds), link.agreed.hold].map(clock::tenths);
            log_throttled!(warn, shared.registry, topic, &words; link = %link.name, number = link.number, site = %link.site, covered, hold, "{}: {words}", link.name);
        }
    }
}

/// Logs from time to time what was counted since the last line about it.
async fn count(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COUNTS_EVERY) => tell_counts(&shared, false),
            () = shared.stop.cancelled() => return,
        }
    }
}

fn tell_counts(shared: &Shared, last: bool) {
    for Suppressed { is_fault, kind, words, name, site, more, last } in shared.registry.suppressed(last) {
        if is_fault {
            warn!(kind, link = name, site, more, "{more} more {words}; the last: {last}");
        } else {
            info!(kind, link = name, site, more, "{more} more {words}; the last: {last}");
        }
    }
}

/// The sites that this gateway dials, each once.
fn sites(config: &Config) -> impl Iterator<Item = &str> {
    config.replicas.iter().map(|replica| replica.site.as_str()).collect::<BTreeSet<_>>().into_iter()
}

/// Reads the certificates again for each message; after a fault, those in use stay in use. A file
/// system that does not answer holds up nothing else.
async fn reload_certificates(shared: Arc<Shared>, mut reload: mpsc::Receiver<()>) {
    let read = async {
        while let Some(()) = reload.recv().await {
            let reader = Arc::clone(&shared);
            let loaded = spawn_blocking(move || {
                let config = &reader.config;
                let material = Material::load(&config.tls, &config.site)?;
                Loaded::new(material, sites(config)).map_err(|error| vec![error.to_string()])
            });
            if let Ok(loaded) = loaded.await {
                use_certificates(&shared, loaded);
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = shared.stop.cancelled() => {}
    }
}

fn use_certificates(shared: &Shared, loaded: Result<Loaded, Vec<String>>) {
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
        let hint = listener::hint(&error, address);
        anyhow!("{what}: listen on {address}: {error}{hint}")
    })
}

fn accept_sites(
    shared: &Arc<Shared>,
    listener: tokio::net::TcpListener,
    workers: &Arc<Workers>,
    tasks: &TaskTracker,
) {
    for master in &shared.config.masters {
        if master.is_plain() {
            warn!(master = %master.name, "commands = \"any\": every command of the sites in `allow` reaches this Redis, also FLUSHALL and CONFIG");
        }
        if shared.config.allowed_to_itself().any(|other| other.name == master.name) {
            warn!(master = %master.name, "`allow` names this site itself, {}, but a gateway dials only other sites; name the site of the replicas", shared.config.site);
        }
        for danger in master.dangers() {
            warn!(master = %master.name, "{danger}");
        }
        info!(master = %master.name, redis = %master.redis, allow = %master.allow.join(","), listen = %shared.config.listen.expect("bound"), "offering a master");
    }
    let (shared, workers, stop) = (Arc::clone(shared), Arc::clone(workers), shared.stop.clone());
    let starved = starved(&shared);
    let listening = shared.registry.listening(shared.config.listen.expect("bound"));
    let room = workers.room();
    let take = move |socket, from: SocketAddr, room| {
        let seat = shared.strangers.enter(unproven::source(from.ip()));
        let shared = Arc::clone(&shared);
        workers.run(room, socket, move |socket| inbound::serve(shared, socket, from, seat));
    };
    tasks.spawn(async move {
        let _listening = listening;
        listener::accept(listener, stop, room, take, starved).await;
    });
}

/// Logs that connections cannot be accepted.
fn starved(shared: &Arc<Shared>) -> impl Fn(&std::io::Error) + use<> {
    let shared = Arc::clone(shared);
    move |failed| {
        log_throttled!(error, shared.registry, Topic::of(Kind::Starved), &failed.to_string();
            "connections cannot be accepted: {failed}; raise the limit of open files (LimitNOFILE=, ulimit -n)");
    }
}

fn accept_replicas(
    shared: &Arc<Shared>,
    listener: tokio::net::TcpListener,
    replica_listener: Arc<ReplicaListener>,
    workers: &Arc<Workers>,
    tasks: &TaskTracker,
) {
    let replica = Arc::clone(&replica_listener.replica);
    info!(replica = %replica.name, site = %replica.site, master = %replica.master, listen = %replica.listen, "waiting for replicas: REPLICAOF {} {}", replica.listen.ip(), replica.listen.port());
    let (shared, workers, stop) = (Arc::clone(shared), Arc::clone(workers), shared.stop.clone());
    let starved = starved(&shared);
    let listening = shared.registry.listening(replica.listen);
    let room = workers.room();
    let take = move |socket, from: SocketAddr, room| {
        if replica.clients.iter().any(|network| network.contains(from.ip())) {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&replica_listener));
            workers.run(room, socket, move |socket| {
                replica_listener::serve_replica(shared, listener, socket, from)
            });
            return;
        }
        let topic = Topic::replica(Kind::NotAClient, &replica);
        let words = format!("{} is not in `clients`", from.ip());
        log_throttled!(warn, shared.registry, topic, &words; link = %replica.name, %from, "connection refused: {words}");
    };
    tasks.spawn(async move {
        let _listening = listening;
        listener::accept(listener, stop, room, take, starved).await;
    });
}
