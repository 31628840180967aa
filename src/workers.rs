//! The threads that run sessions, each with a runtime of its own.
//!
//! A session stays on the thread that it was started on, with its sockets and timers. So a link's
//! bytes wake the thread that moves them, and no task is handed from one thread to another.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
            let name = format!("sessions-{number}");
            std::thread::Builder::new().name(name).spawn(move || {
                runtime.block_on(ended.cancelled());
                runtime.shutdown_background();
            })?;
            Ok(worker)
        };
        let workers = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, room: Arc::new(Semaphore::new(WAITING)), tasks, end })
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
                Err(error) => warn!("a connection is closed: it cannot be watched: {error}"),
            }
        };
        self.tasks.spawn_on(task, &worker.runtime);
    }
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
