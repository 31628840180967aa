//! `replgate run`: runs this site's gateway until a signal.

use anyhow::Context;
use clap::Args;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{SignalKind, signal};

use super::log::{self, Format, Level};
use super::{ConfigPath, Failure, Outcome};
use crate::file;
use crate::gateway;
use crate::service_manager;
use crate::tls::material::Material;

/// Runs until SIGTERM or SIGINT, then ends every link in good order and exits 0.
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
        let guard = log::start(self.log_format, self.log_level);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        for (_, fault) in file::all_writers(config.files()) {
            tracing::warn!("{fault}");
        }
        if let Some(key) = super::check::readable_ca_key(&config) {
            tracing::warn!(
                "the CA's private key {} is readable from here: whoever breaks into this host can make certificates for every site; keep certs/ca on another machine",
                key.display()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            // The handlers are set before anything starts: process 1 would otherwise ignore these
            // signals.
            let (mut terminate, mut interrupt) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let mut hangup = signal(SignalKind::hangup())?;
            let (reload, reloads) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                while hangup.recv().await.is_some() {
                    // A reload that waits already will read the files as they are then.
                    let _ = reload.try_send(());
                }
            });
            let shutdown = async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                service_manager::stopping();
            };
            gateway::run(config, material, reloads, shutdown).await
        });
        runtime.shutdown_timeout(std::time::Duration::from_millis(500));
        drop(guard);
        Ok(outcome?)
    }
}
