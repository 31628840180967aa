//! Tells systemd that the gateway works, as long as it does.
//!
//! This runs on the main thread, and tells nothing while a thread of sessions runs no task. So
//! systemd ends and restarts a gateway of which any thread hangs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::registry::notice;
use crate::service_manager;
use crate::workers::Workers;

/// Number of times within systemd's patience that the threads are asked: one that is late once is no
/// reason for a restart.
const TRIES: u32 = 4;

/// Asks the threads from time to time, if systemd wants to know.
pub(super) async fn run(workers: Arc<Workers>, stop: CancellationToken) {
    let Some(patience) = service_manager::watchdog() else { return };
    let pause = patience / TRIES;
    let ask = watch(&workers, pause, service_manager::alive);
    tokio::select! {
        () = ask => {}
        () = stop.cancelled() => {}
    }
}

/// Calls `alive` whenever every thread has run a task.
async fn watch(workers: &Workers, pause: Duration, alive: impl Fn()) {
    loop {
        let stuck = workers.stuck(pause).await;
        if stuck.is_empty() {
            alive();
            sleep(pause).await;
        } else {
            error!(kind = notice::HANG, threads = %stuck.join(" "), "a thread hangs; if that lasts, the service manager restarts this process");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn nothing_is_told_while_a_session_blocks_its_thread() {
        let workers = Workers::start(TaskTracker::new()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let told = AtomicUsize::new(0);
        let pause = Duration::from_millis(20);
        let watching = watch(&workers, pause, || {
            told.fetch_add(1, Ordering::Relaxed);
        });
        let test = async {
            let since = |before: usize| told.load(Ordering::Relaxed) > before;
            while !since(2) {
                sleep(pause).await;
            }
            let (release, held) = mpsc::channel::<()>();
            let (begin, begun) = tokio::sync::oneshot::channel();
            let room = workers.room().acquire_owned().await.unwrap();
            workers.run(room, socket, async move |_| {
                let _ = begin.send(());
                let _ = held.recv();
            });
            begun.await.unwrap();
            let before = told.load(Ordering::Relaxed);
            sleep(pause * 20).await;
            // One answer may have been under way.
            assert!(!since(before + 1), "told {} times", told.load(Ordering::Relaxed) - before);
            drop(release);
            while !since(before + 1) {
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = watching => {}
            done = tokio::time::timeout(Duration::from_secs(20), test) => done.unwrap(),
        }
    }
}
