//! Ends a run in an orderly way, so that its folder is removed.

use std::sync::atomic::Ordering;

use tokio::signal::unix::{SignalKind, signal};

use crate::place::STOPPED;

/// From now on SIGINT and SIGTERM make every wait end with an error.
pub fn stop_in_order() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            STOPPED.store(true, Ordering::Relaxed);
        });
    });
}
