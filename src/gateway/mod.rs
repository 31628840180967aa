//! Composes a gateway: binds, spawns tasks, reloads, and stops in order.
//!
//! This module sees no bytes of any connection. Every task is tracked and ends with `stop`.

mod following;
mod learning;
mod listeners;
mod reload;
mod upkeep;
mod watch;
mod watchdog;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::listeners::Listeners;
use crate::admin;
use crate::config::Config;
use crate::password::Password;
use crate::registry::{Events, notice};
use crate::service_manager;
use crate::session::{Process, Shared};
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;
use crate::workers::Workers;

/// Time given to all links to end after a stop: they send what was read and a last frame.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// Runs a gateway until `shutdown` completes, then ends every link with a GOODBYE.
///
/// Fails before anything is accepted if a listener cannot be bound or TLS cannot be set up. Once
/// the service manager was told that it is up, it ends only through `shutdown`. `events` has what was logged lately, for
/// `status`. Each message on `asked` makes it read the
/// config and the certificates again.
pub async fn run(
    config: Config,
    material: Material,
    events: Arc<Events>,
    asked: mpsc::Receiver<()>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let workers = Arc::new(Workers::start(tasks.clone()).context("start a thread for each core")?);
    for warning in &material.warnings {
        warn!(kind = notice::TRUST_WARNING, "{warning}");
    }
    for file in config.password_files() {
        Password::read(file).map_err(|fault| anyhow!("{fault}"))?;
        if Password::is_open_to_all(file) {
            warn!(
                kind = notice::LOOSE_FILE,
                "password file {} can be read by every user of this host; chmod 600",
                file.display()
            );
        }
    }
    let loaded = Loaded::new(material, config.far_sites()).context("set up TLS")?;
    let (shared, arrived) = Shared::new(config, loaded, events, stop.clone());
    let shared = Arc::new(shared);
    let mut listeners = Listeners::new(&shared, &workers, &tasks);
    // Every listener is bound before a connection is accepted.
    let bound = listeners.bind(&shared.config()).map_err(|faults| anyhow!(faults.join("\n")))?;
    for listener in admin::socket::bind(&shared).await {
        tasks.spawn(admin::socket::serve(Arc::clone(&shared), listener, tasks.clone()));
    }
    tasks.spawn(following::masters(Arc::clone(&shared), tasks.clone()));
    listeners.follow(bound);
    listeners::tell_offers(&shared.config(), None);
    tasks.spawn(upkeep::count(Arc::clone(&shared)));
    tasks.spawn(upkeep::look_after_memory(Arc::clone(&shared)));
    tasks.spawn(upkeep::sample(Arc::clone(&shared)));
    tasks.spawn(upkeep::remind(Arc::clone(&shared)));
    tasks.spawn(upkeep::look_at_dates(Arc::clone(&shared)));
    tasks.spawn(learning::look_after(Arc::clone(&shared)));
    tasks.spawn(learning::keep(Arc::clone(&shared)));
    tasks.spawn(following::sites(Arc::clone(&shared), tasks.clone()));
    tasks.spawn(reload::run(Arc::clone(&shared), listeners, asked, arrived));
    tasks.spawn(watchdog::run(Arc::clone(&workers), stop.clone()));
    let Process { site, node, .. } = &shared.process;
    info!(kind = notice::START, %site, %node, version = env!("CARGO_PKG_VERSION"), "gateway up");
    shared.registry.note_started();
    service_manager::ready(reload::GOOD);

    shutdown.await;
    info!(kind = notice::STOP, "stopping");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_DEADLINE, tasks.wait()).await.is_err() {
        warn!(kind = notice::STOP, "{} connections did not end in time and are cut", tasks.len());
    }
    upkeep::tell_counts(&shared, true);
    info!(kind = notice::STOP, "stopped");
    Ok(())
}
