//! `replgate run`: runs this site's gateway until a signal.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::log::{self, Format, Level};
use super::{ConfigPath, Failure, Outcome};
use crate::file;
use crate::gateway;
use crate::own_process;
use crate::sandbox;
use crate::service_manager;
use crate::tls::material::Material;
use crate::tls::revocation::state;

/// Runs until SIGTERM or SIGINT, then ends every link in good order and exits 0. A second signal
/// ends it at once.
/// On SIGHUP it reads the config, certificate, key, CAs and revocation lists again.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigPath,
    /// Format of log lines
    #[arg(long, value_enum, ignore_case = true, default_value = "text", env = "REPLGATE_LOG_FORMAT")]
    log_format: Format,
    /// Least severe level that is logged
    #[arg(long, value_enum, ignore_case = true, default_value = "info", env = "REPLGATE_LOG_LEVEL")]
    log_level: Level,
}

impl Run {
    pub(super) fn execute(self) -> Outcome {
        // This comes before any secret is read: neither a core dump nor a debugger of this user can
        // then show it.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).context("turn core dumps off")?;
        let config = self.config.load()?;
        // A fault here is not a fault of the config: files may come later, and a clock may be wrong
        // until NTP has set it.
        let (learnt, unread) = super::learnt(&config);
        let mut material = Material::load_beside(&config.tls, &config.site, &learnt)
            .map_err(|faults| Failure::Failed(anyhow::anyhow!(faults.join("\nreplgate: "))))?;
        material.warnings.extend(unread);
        let ca_key = super::check::readable_ca_key(&config);
        // Before there is another thread: those that exist are not locked in.
        let writable: Vec<PathBuf> =
            sandbox::state_folders().into_iter().chain(state::made(config.state.as_deref())).collect();
        own_process::open();
        // A reload may put a socket there.
        let for_sockets: Vec<PathBuf> = sandbox::runtime_folders()
            .into_iter()
            .chain(config.socket().and_then(Path::parent).map(Path::to_owned))
            .collect();
        let locked = config.sandbox.then(|| sandbox::enter(config.files(), &writable, &for_sockets));
        let guard = log::start(self.log_format, self.log_level);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        for (_, fault) in file::all_writers(config.files()) {
            tracing::warn!("{fault}");
        }
        match locked {
            Some(Ok(words)) => tracing::info!("{words}"),
            Some(Err(fault)) => tracing::warn!("{fault}"),
            None => tracing::warn!("not locked in: the config has sandbox = false"),
        }
        if let Some(key) = ca_key {
            tracing::warn!(
                "the CA's private key {} is readable from here: whoever breaks into this host can make certificates for every site; keep certs/ca on another machine",
                key.display()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            // The handlers are set before anything starts: process 1 would otherwise ignore these
            // signals.
            let mut signals = Signals::new()?;
            let mut hangup = signal(SignalKind::hangup())?;
            let (reload, reloads) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                while hangup.recv().await.is_some() {
                    // A reload that waits already will read the files as they are then.
                    let _ = reload.try_send(());
                }
            });
            let stop = CancellationToken::new();
            let twice = async {
                signals.next().await;
                service_manager::stopping();
                stop.cancel();
                signals.next().await
            };
            tokio::select! {
                biased;
                outcome = gateway::run(config, material, reloads, stop.cancelled()) => Ok(outcome?),
                number = twice => {
                    tracing::warn!("a second signal: the process ends at once, and cuts every link that has not ended");
                    Err(Failure::CutShort(number))
                }
            }
        });
        match outcome {
            Err(Failure::CutShort(_)) => runtime.shutdown_background(),
            _ => runtime.shutdown_timeout(std::time::Duration::from_millis(500)),
        }
        drop(guard);
        outcome
    }
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}
