//! The threads that run sessions, each with a runtime of its own.
//!
//! A session stays on the thread that it was started on, with its sockets and timers. So a link's
//! bytes wake the thread that moves them, and no task is handed from one thread to another.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// Most sessions that wait for their thread to begin them. Connections beyond that wait in the kernel,
/// so that a flood of them takes no descriptors faster than they are judged.
const WAITING: usize = 4;

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Number of sessions that it runs now.
    sessions: Arc<AtomicUsize>,
}

/// The worker threads of a gateway: one for each core. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Workers {
    /// Starts the threads. Sessions are counted in `tasks`.
    pub fn start(tasks: TaskTracker) -> io::Result<Self> {
        let end = CancellationToken::new();
        let count = available_parallelism().map_or(1, usize::from);
        let start = |number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let worker = Worker { runtime: runtime.handle().clone(), sessions: Arc::default() };
            let ended = end.clone();
            std::thread::Builder::new().name(name(number)).spawn(move || {
                runtime.block_on(ended.cancelled());
                runtime.shutdown_background();
            })?;
            Ok(worker)
        };
        let workers = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, room: Arc::new(Semaphore::new(WAITING)), tasks, end })
    }

    /// Has each thread run a task. Returns the names of those that have not within `patience`: whatever
    /// they do, none of their sessions goes on.
    pub async fn stuck(&self, patience: Duration) -> Vec<String> {
        let threads = self.workers.iter().enumerate();
        stuck(threads.map(|(number, worker)| (name(number), &worker.runtime)), patience).await
    }

    /// Room for sessions: each takes a permit until its thread has begun it.
    pub fn room(&self) -> Arc<Semaphore> {
        Arc::clone(&self.room)
    }

    /// Runs a session of this socket on the thread that has the fewest.
    pub fn run<S>(
        &self,
        room: OwnedSemaphorePermit,
        socket: TcpStream,
        session: impl FnOnce(TcpStream) -> S + Send + 'static,
    ) where
        S: Future<Output = ()> + Send + 'static,
    {
        let worker = self.workers.iter().min_by_key(|worker| worker.sessions.load(Ordering::Relaxed));
        let worker = worker.expect("there is a core");
        let counted = Counted::new(&worker.sessions);
        let task = async move {
            let _counted = counted;
            drop(room);
            // From here on this thread's runtime watches the socket.
            match socket.into_std().and_then(TcpStream::from_std) {
                Ok(socket) => session(socket).await,
                Err(error) => {
                    warn!(kind = "not-watched", "a connection is closed: it cannot be watched: {error}")
                }
            }
        };
        self.tasks.spawn_on(task, &worker.runtime);
    }
}

/// Has each of these runtimes, of one thread each, run a task. Returns the names of those that have not
/// within `patience`.
pub async fn stuck(threads: impl Iterator<Item = (String, &Handle)>, patience: Duration) -> Vec<String> {
    let until = Instant::now() + patience;
    // All of them are asked before one is waited for.
    let asked: Vec<_> =
        threads.map(|(name, runtime)| (name, runtime.spawn(std::future::ready(())))).collect();
    let mut stuck = Vec::new();
    for (name, mut task) in asked {
        if timeout_at(until, &mut task).await.is_err() {
            task.abort();
            stuck.push(name);
        }
    }
    stuck
}

fn name(number: usize) -> String {
    format!("sessions-{number}")
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Counts a session for as long as it is kept.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(sessions: &Arc<AtomicUsize>) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_runs_no_task_is_named_for_as_long_as_it_does_not() {
        let workers = Workers::start(TaskTracker::new()).unwrap();
        let patience = Duration::from_secs(10);
        assert_eq!(workers.stuck(patience).await, Vec::<String>::new());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let last = workers.workers.len() - 1;
        workers.workers[last].runtime.spawn(async move {
            let _ = held.recv();
        });
        assert_eq!(workers.stuck(Duration::from_millis(200)).await, [name(last)]);
        drop(release);
        assert_eq!(workers.stuck(patience).await, Vec::<String>::new());
    }
}
