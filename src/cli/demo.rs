//! `replgate demo`: shows the whole product on one machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Outcome, block_on};
use crate::demo::{self, Interrupt};

/// Starts two sites with real redis-server processes, replicates through the
/// tunnel, and checks what it shows. Needs redis-server on the PATH.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Leave everything running, with commands to try, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(super) fn execute(self) -> Outcome {
        let replgate = std::env::current_exe()?;
        let interrupt = Interrupt::default();
        let flag = Arc::clone(&interrupt);
        let good = block_on(async move {
            let (mut terminate, mut stop) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = stop.recv() => {}
                }
                flag.store(true, Ordering::Relaxed);
            });
            tokio::task::spawn_blocking(move || demo::run(&replgate, self.keep, &interrupt)).await?
        })??;
        if good { Ok(()) } else { Err(Failure::Unwell) }
    }
}
