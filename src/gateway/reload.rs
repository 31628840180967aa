//! Reads the config and the files of trust again while everything runs; the files of trust alone when
//! they have changed.
//!
//! All or nothing: with any fault, everything stays as it was. The files are read on a thread of their
//! own, so that a file system that does not answer holds up nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::learning;
use super::listeners::{self, Listeners};
use super::watch::Watch;
use crate::clock;
use crate::config::Config;
use crate::password::Password;
use crate::registry::{Part, notice};
use crate::service_manager;
use crate::session::Shared;
use crate::session::exchange::Arrived;
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;
use crate::tls::revocation::Learnt;

/// What `systemctl status` shows while nothing is wrong with the files.
pub(super) const GOOD: &str = "up";

/// Time given to read the config and the files that it names.
const READ: Duration = Duration::from_secs(30);

/// The fault if that was not enough.
const UNREAD: &str = "the files could not be read within 30 s: does their file system answer?";

/// What was read and has no fault.
struct Read {
    config: Config,
    loaded: Loaded,
}

/// Why nothing was taken into use, and which part is to be shown as refused.
type Refusal = (Part, Vec<String>);

/// Reads everything again for each message of `asked`, the files of trust when they have changed, and
/// takes up each revocation list of `arrived`: all of these replace what is in use, so they take turns.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut listeners: Listeners,
    mut asked: mpsc::Receiver<()>,
    mut arrived: mpsc::Receiver<Arrived>,
) {
    let mut watch = Watch::default();
    let work = async {
        loop {
            tokio::select! {
                Some(()) = asked.recv() => {
                    reload(&shared, &mut listeners).await;
                    watch.forget();
                }
                () = watch.changed(&shared) => {
                    if !take_trust(&shared).await {
                        watch.refused();
                    }
                }
                Some(list) = arrived.recv() => learning::learn(&shared, list).await,
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shared.stop.cancelled() => {}
    }
}

/// Reads the config and every file again, as somebody has asked for.
async fn reload(shared: &Shared, listeners: &mut Listeners) {
    service_manager::reloading();
    let (before, tls) = (shared.config(), shared.tls.now());
    let reading = spawn_blocking(move || read(&before, &tls.material.revocation.remembered()));
    let read = timeout(READ, reading).await.ok().and_then(Result::ok);
    let read = read.unwrap_or_else(|| Err((Part::Config, vec![UNREAD.to_owned()])));
    match read.and_then(|read| take_up(shared, listeners, read).map_err(|faults| (Part::Config, faults))) {
        Ok(()) => shared.registry.note_read(),
        Err((part, faults)) => {
            for fault in &faults {
                error!(kind = notice::RELOAD_REFUSED, "reload refused, everything stays as it was: {fault}");
            }
            shared.registry.note_refused(part, faults);
        }
    }
    service_manager::ready(&standing(shared));
}

/// Uses the files of trust that the config in use names, if they have no fault. Returns false if they
/// have one, which is logged if it is a new one.
async fn take_trust(shared: &Shared) -> bool {
    let (config, tls) = (shared.config(), shared.tls.now());
    let read = spawn_blocking(move || {
        let material =
            Material::load_beside(&config.tls, &config.site, &tls.material.revocation.remembered())?;
        Loaded::new(material, config.far_sites()).map_err(|error| vec![error.to_string()])
    });
    let read = timeout(READ, read).await.ok().and_then(Result::ok);
    let read = read.unwrap_or_else(|| Err(vec![UNREAD.to_owned()]));
    let is_good = read.is_ok();
    match read {
        Ok(loaded) => {
            let changed = !loaded.material.is_same(&shared.tls.now().material);
            if changed {
                let words = "files of trust have changed and are in use";
                tell_trust(shared, &loaded, notice::TRUST, words);
                shared.reload(Some(loaded), None);
            }
            shared.registry.note_trust_read(changed);
        }
        Err(faults) => {
            let (_, is_new) = shared.registry.note_refused(Part::Trust, faults.clone());
            for fault in faults.iter().filter(|_| is_new) {
                error!(
                    kind = notice::TRUST_REFUSED,
                    "files of trust have changed and are not used, the earlier ones stay in use: {fault}"
                );
            }
        }
    }
    service_manager::ready(&standing(shared));
    is_good
}

/// What `systemctl status` shows now.
fn standing(shared: &Shared) -> String {
    shared.registry.last_reload().refused.map_or_else(|| GOOD.to_owned(), |refused| refused.words())
}

/// Reads the config, and every file that it names. The error holds all faults of the first that has
/// any.
fn read(before: &Config, learnt: &[Learnt]) -> Result<Read, Refusal> {
    let of_config = |faults| (Part::Config, faults);
    let config = Config::load(&before.path)
        .map_err(|faults| of_config(faults.to_string().lines().map(str::to_owned).collect()))?;
    if let Some(fault) = config.needs_restart(before) {
        return Err(of_config(vec![fault]));
    }
    let faults: Vec<String> = config
        .password_files()
        .filter_map(|file| Password::read(file).err().map(|fault| fault.to_string()))
        .collect();
    if !faults.is_empty() {
        return Err(of_config(faults));
    }
    let of_trust = |mut faults: Vec<String>| {
        if config == *before {
            return (Part::Trust, faults);
        }
        // Good files of trust, which are used by themselves, do not make up for that.
        faults.push("the config has changed too and is not in use: mend this, then reload again".to_owned());
        of_config(faults)
    };
    let material = Material::load_beside(&config.tls, &config.site, learnt).map_err(of_trust)?;
    match Loaded::new(material, config.far_sites()) {
        Ok(loaded) => Ok(Read { config, loaded }),
        Err(error) => Err(of_trust(vec![error.to_string()])),
    }
}

/// Uses what was read, if every new address can be bound.
fn take_up(shared: &Shared, listeners: &mut Listeners, read: Read) -> Result<(), Vec<String>> {
    let Read { config, loaded } = read;
    let before = shared.config();
    let bound = listeners.bind(&config)?;
    config.warnings.iter().for_each(|warning| warn!(kind = notice::CONFIG_WARNING, "{warning}"));
    let changes = config.changes(&before);
    let words = if loaded.material.is_same(&shared.tls.now().material) {
        "config and certificates read again; the certificates are the same"
    } else {
        "config and certificates read again"
    };
    tell_trust(shared, &loaded, notice::RELOAD, words);
    shared.reload(Some(loaded), (*before != config).then_some(config));
    listeners.follow(bound);
    for line in &changes {
        info!(kind = notice::RELOAD, "reload: {line}");
    }
    listeners::tell_offers(&shared.config(), Some(&before));
    Ok(())
}

/// Logs what is about to be used, and what that means for the lanes.
fn tell_trust(shared: &Shared, loaded: &Loaded, kind: &str, words: &str) {
    for warning in &loaded.material.warnings {
        warn!(kind = notice::TRUST_WARNING, "{warning}");
    }
    let until = clock::utc(loaded.material.leaf.not_after);
    if loaded.material.shown == shared.tls.now().material.shown {
        info!(kind, %until, "{words}");
    } else {
        info!(kind, %until, "{words}; every lane is replaced");
    }
}
