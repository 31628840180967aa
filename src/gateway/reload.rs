//! Reads the config and the files of trust again while everything runs.
//!
//! All or nothing: with any fault, everything stays as it was. The files are read on a thread of their
//! own, so that a file system that does not answer holds up nothing else.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::listeners::{self, Listeners};
use crate::clock;
use crate::config::Config;
use crate::password::Password;
use crate::service_manager;
use crate::session::Shared;
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;

/// What `systemctl status` shows while nothing is wrong with the files.
pub(super) const GOOD: &str = "up";

/// What was read and has no fault.
struct Read {
    config: Config,
    loaded: Loaded,
}

/// Reads everything again for each message.
pub(super) async fn run(shared: Arc<Shared>, mut listeners: Listeners, mut asked: mpsc::Receiver<()>) {
    let reload = async {
        while let Some(()) = asked.recv().await {
            service_manager::reloading();
            let before = shared.config();
            let read = spawn_blocking(move || read(&before)).await;
            let Ok(read) = read else { continue };
            match read.and_then(|read| take_up(&shared, &mut listeners, read)) {
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
    };
    tokio::select! {
        () = reload => {}
        () = shared.stop.cancelled() => {}
    }
}

/// Reads the config, and every file that it names. The error holds all faults of the first that has
/// any.
fn read(before: &Config) -> Result<Read, Vec<String>> {
    let config = Config::load(&before.path).map_err(|faults| vec![faults.to_string()])?;
    if let Some(fault) = config.needs_restart(before) {
        return Err(vec![fault]);
    }
    let faults: Vec<String> = config
        .password_files()
        .filter_map(|file| Password::read(file).err().map(|fault| fault.to_string()))
        .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let material = Material::load(&config.tls, &config.site)?;
    let loaded = Loaded::new(material, config.far_sites()).map_err(|error| vec![error.to_string()])?;
    Ok(Read { config, loaded })
}

/// Uses what was read, if every new address can be bound.
fn take_up(shared: &Shared, listeners: &mut Listeners, read: Read) -> Result<(), Vec<String>> {
    let Read { config, loaded } = read;
    let before = shared.config();
    let bound = listeners.bind(&config)?;
    for warning in config.warnings.iter().chain(&loaded.material.warnings) {
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
