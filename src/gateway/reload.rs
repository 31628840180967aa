//! Reads the config and the files of trust again while everything runs.
//!
//! All or nothing: with any fault, everything stays as it was. The files are read on a thread of their
//! own, so that a file system that does not answer holds up nothing else.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::learning;
use super::listeners::{self, Listeners};
use crate::clock;
use crate::config::Config;
use crate::password::Password;
use crate::service_manager;
use crate::session::Shared;
use crate::session::exchange::Arrived;
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;
use crate::tls::revocation::Learnt;

/// What `systemctl status` shows while nothing is wrong with the files.
pub(super) const GOOD: &str = "up";

/// What was read and has no fault.
struct Read {
    config: Config,
    loaded: Loaded,
}

/// Reads everything again for each message of `asked`, and takes up each revocation list of
/// `arrived`: both replace what is in use, so they take turns.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut listeners: Listeners,
    mut asked: mpsc::Receiver<()>,
    mut arrived: mpsc::Receiver<Arrived>,
) {
    let work = async {
        loop {
            tokio::select! {
                Some(()) = asked.recv() => reload(&shared, &mut listeners).await,
                Some(list) = arrived.recv() => learning::learn(&shared, list).await,
                else => return,
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shared.stop.cancelled() => {}
    }
}

async fn reload(shared: &Shared, listeners: &mut Listeners) {
    service_manager::reloading();
    let (before, tls) = (shared.config(), shared.tls.now());
    let read = spawn_blocking(move || read(&before, &tls.material.revocation.learnt)).await;
    let Ok(read) = read else { return };
    match read.and_then(|read| take_up(shared, listeners, read)) {
        Ok(()) => {
            shared.registry.note_read();
            service_manager::ready(GOOD);
        }
        Err(faults) => {
            for fault in &faults {
                error!("reload refused, everything stays as it was: {fault}");
            }
            service_manager::ready(&shared.registry.note_refused(faults).words());
        }
    }
}

/// Reads the config, and every file that it names. The error holds all faults of the first that has
/// any.
fn read(before: &Config, learnt: &[Learnt]) -> Result<Read, Vec<String>> {
    let config = Config::load(&before.path).map_err(|faults| vec![faults.to_string()])?;
    let faults = config.needs_restart(before);
    if !faults.is_empty() {
        return Err(faults);
    }
    let faults: Vec<String> = config
        .password_files()
        .filter_map(|file| Password::read(file).err().map(|fault| fault.to_string()))
        .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let material = Material::load_beside(&config.tls, &config.site, learnt)?;
    let loaded = Loaded::new(material, config.far_sites()).map_err(|error| vec![error.to_string()])?;
    Ok(Read { config, loaded })
}

/// Uses what was read, if every new address can be bound.
fn take_up(shared: &Shared, listeners: &mut Listeners, read: Read) -> Result<(), Vec<String>> {
    let Read { config, loaded } = read;
    let before = shared.config();
    let bound = listeners.bind(&config)?;
    for warning in &loaded.material.warnings {
        warn!("{warning}");
    }
    let until = clock::utc(loaded.material.leaf.not_after);
    let changes = config.changes(&before);
    shared.reload(Some(loaded), (*before != config).then_some(config));
    listeners.follow(bound);
    for line in &changes {
        info!("reload: {line}");
    }
    listeners::tell_offers(&shared.config(), Some(&before));
    info!(%until, changes = changes.len(), "config and certificates read again; every lane is replaced");
    Ok(())
}
