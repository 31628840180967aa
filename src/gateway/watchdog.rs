//! Tells systemd that the gateway works, as long as it does.
//!
//! This runs on the main thread, and tells nothing while a thread of sessions runs no task. So
//! systemd ends and restarts a gateway of which any thread hangs.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::service_manager;
use crate::workers::Workers;

/// Number of times within systemd's patience that the threads are asked: one that is late once is no
/// reason for a restart.
const TRIES: u32 = 4;

/// Asks the threads from time to time, if systemd wants to know.
pub(super) async fn run(workers: Arc<Workers>, stop: CancellationToken) {
    let Some(patience) = service_manager::watchdog() else { return };
    let pause = patience / TRIES;
    let ask = async {
        loop {
            let stuck = workers.stuck(pause).await;
            if stuck.is_empty() {
                service_manager::alive();
                sleep(pause).await;
            } else {
                error!(threads = %stuck.join(" "), "a thread hangs; the service manager restarts this process if that lasts for {} s", patience.as_secs());
            }
        }
    };
    tokio::select! {
        () = ask => {}
        () = stop.cancelled() => {}
    }
}
