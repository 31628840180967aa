//! Whether every thread of the process runs its tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::workers::{self, Workers};

/// Time given to every thread to run a task.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long what was found counts: sessions are woken once a second for it at most.
const FRESH: Duration = Duration::from_secs(1);

/// Asks the threads.
#[derive(Debug)]
pub(super) struct Pulse {
    main: Handle,
    workers: Arc<Workers>,
    patience: Duration,
    /// The threads that ran no task when they were last asked, and when that was.
    last: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Pulse {
    /// Of the sessions' threads, and of the runtime of everything else.
    pub(super) fn new(main: Handle, workers: Arc<Workers>) -> Self {
        Self { main, workers, patience: PATIENCE, last: Mutex::default() }
    }

    /// One line for each thread that hangs. Those who ask meanwhile share one answer.
    pub(super) async fn faults(&self) -> Vec<String> {
        let mut last = self.last.lock().await;
        let stuck = match &*last {
            Some((at, stuck)) if at.elapsed() < FRESH => stuck.clone(),
            _ => {
                let main = [("main".to_owned(), &self.main)].into_iter();
                let (main, workers) =
                    tokio::join!(workers::stuck(main, self.patience), self.workers.stuck(self.patience));
                let stuck = [main, workers].concat();
                *last = Some((Instant::now(), stuck.clone()));
                stuck
            }
        };
        let words =
            |thread| format!("the thread {thread} has run no task within {} s", self.patience.as_secs_f32());
        stuck.into_iter().map(words).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::Builder;
    use tokio_util::task::TaskTracker;

    use super::*;

    /// Holds up whoever runs it, until the sender is dropped.
    fn hold() -> (std::sync::mpsc::Sender<()>, impl FnOnce()) {
        let (release, held) = std::sync::mpsc::channel();
        (release, move || {
            let _ = held.recv();
        })
    }

    #[tokio::test]
    async fn a_thread_that_hangs_is_named_and_forgotten_once_it_goes_on() {
        let main = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let workers = Arc::new(Workers::start(TaskTracker::new()).unwrap());
        let pulse = || Pulse {
            patience: Duration::from_secs(5),
            ..Pulse::new(main.handle().clone(), Arc::clone(&workers))
        };
        let soon = || Pulse { patience: Duration::from_millis(200), ..pulse() };
        assert_eq!(pulse().faults().await, Vec::<String>::new());
        // A session that holds up its thread.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (release, hangs) = hold();
        let room = workers.room().acquire_owned().await.unwrap();
        workers.run(room, socket, async move |_| hangs());
        let said = soon().faults().await;
        assert!(said.len() == 1 && said[0].starts_with("the thread sessions-"), "{said:?}");
        drop(release);
        assert_eq!(pulse().faults().await, Vec::<String>::new());
        // The same for the rest of the process.
        let (release, hangs) = hold();
        main.spawn(async move { hangs() });
        let said = soon();
        assert_eq!(said.faults().await, ["the thread main has run no task within 0.2 s"]);
        drop(release);
        assert_eq!(pulse().faults().await, Vec::<String>::new());
        // What was found counts for a moment.
        assert_eq!(said.faults().await.len(), 1);
        main.shutdown_background();
    }
}
