//! The listener of `[admin]`: a few pages over HTTP, for people, monitoring and probes.
//!
//! It runs on a thread of its own, of a lower priority than those of sessions: however many ask, no link waits
//! for it. `request.rs` says what is asked for and whether it is shown, `answers.rs` what is answered,
//! `pulse.rs` whether every thread works, `connection.rs` carries one request and its answer, `kept.rs` bounds
//! the answers that slow readers hold. All of it is bounded: connections, the time of each, the bytes of a request, how often an answer is made.

mod answers;
mod connection;
mod kept;
mod pulse;
mod request;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use self::answers::Answers;
use self::pulse::Pulse;
use self::request::Reach;
use crate::config::Admin;
use crate::listener::{self, unix};
use crate::registry::{Listening, notice};
use crate::session::Shared;
use crate::units::ListenAddress;
use crate::unproven::{self, Seat, Unproven};
use crate::workers::Workers;

/// Most connections at a time. For another one the oldest is closed that has not sent a whole request.
const CONNECTIONS: usize = 64;

/// Most connections that are accepted before the first of them is looked at.
const WAITING: usize = 16;

/// How often the file of a socket is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is added to the thread's niceness: about a tenth of the time of a busy core.
const NICE: i32 = 10;

/// The source of a connection; `None` for those over a Unix socket.
type Source = Option<IpAddr>;

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    runtime: Handle,
    end: CancellationToken,
    tasks: TaskTracker,
    desk: Arc<Desk>,
}

/// What all connections share.
#[derive(Debug)]
struct Desk {
    shared: Arc<Shared>,
    answers: Answers,
    seats: Unproven<Source>,
}

/// A socket that is bound and accepts nothing yet.
#[derive(Debug)]
pub enum Bound {
    /// At an IP address.
    Tcp(TcpListener),
    /// With a file.
    Unix(unix::Bound),
}

/// A listener that is served, until it is closed.
#[derive(Debug)]
pub struct Served {
    listen: ListenAddress,
    public: Arc<AtomicBool>,
    close: CancellationToken,
    /// It does not listen any more.
    ended: CancellationToken,
    /// The file of a Unix socket.
    file: Option<unix::Place>,
}

/// Binds. The error says why not.
pub fn bind(address: &ListenAddress) -> Result<Bound, String> {
    match address {
        ListenAddress::Ip(address) => listener::bind(*address)
            .map(Bound::Tcp)
            .map_err(|error| format!("{error}{}", listener::hint(&error, *address))),
        ListenAddress::Unix(path) => unix::bind(path).map(Bound::Unix),
    }
}

impl Server {
    /// Starts the thread. The runtime that runs this, and `workers`, are those whose life `/live` tells.
    pub fn start(shared: &Arc<Shared>, workers: &Arc<Workers>, tasks: &TaskTracker) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ended = end.clone();
        std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            // On Linux this is of the calling thread alone.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                debug!("the admin listener's thread has the priority of the others: {error}");
            }
            runtime.block_on(ended.cancelled());
            runtime.shutdown_background();
        })?;
        let pulse = Pulse::new(Handle::current(), Arc::clone(workers));
        let desk = Desk {
            shared: Arc::clone(shared),
            answers: Answers::new(Arc::clone(shared), pulse),
            seats: Unproven::new(CONNECTIONS, CONNECTIONS),
        };
        Ok(Self { runtime: handle, end, tasks: tasks.clone(), desk: Arc::new(desk) })
    }

    /// Accepts on `bound`, the socket of `admin`, until that is closed or the gateway stops. `starved` is told of
    /// connections that cannot be accepted.
    pub fn serve(
        &self,
        bound: Bound,
        admin: &Admin,
        starved: impl Fn(&io::Error) + Send + 'static,
    ) -> Served {
        let close = self.desk.shared.stop.child_token();
        let served = Served {
            listen: admin.listen.clone(),
            public: Arc::new(AtomicBool::new(admin.public)),
            close: close.clone(),
            ended: CancellationToken::new(),
            file: match &bound {
                Bound::Tcp(_) => None,
                Bound::Unix(bound) => Some(bound.place()),
            },
        };
        let (file, ended) = (served.file.clone(), served.ended.clone().drop_guard());
        let listening = self.desk.shared.registry.listening(admin.listen.clone());
        let visitors = Visitors {
            desk: Arc::clone(&self.desk),
            public: Arc::clone(&served.public),
            tasks: self.tasks.clone(),
            close,
        };
        self.tasks.spawn_on(
            async move {
                // It goes before the socket does: a file that comes then may have the id of the earlier one.
                let ended = ended;
                // The sockets are watched by the runtime that accepts.
                match bound {
                    Bound::Tcp(socket) => match socket.into_std().and_then(TcpListener::from_std) {
                        Ok(socket) => {
                            let source = |from: &SocketAddr| Some(unproven::source(from.ip()));
                            visitors.accept(socket, listening, source, starved).await;
                        }
                        Err(error) => error!(
                            kind = notice::NOT_LISTENING,
                            "[admin]: the socket cannot be watched: {error}"
                        ),
                    },
                    Bound::Unix(bound) => match bound.accepting() {
                        Ok(socket) => {
                            let accepting = visitors.accept(socket, listening, |()| None, starved);
                            tokio::pin!(accepting);
                            tokio::select! {
                                () = &mut accepting => {}
                                () = lost(file) => {
                                    warn!(kind = notice::NOT_LISTENING, "[admin]: the file of the socket is gone, and nobody can connect; a reload makes it again");
                                    drop(ended);
                                }
                            }
                        }
                        Err(error) => error!(
                            kind = notice::NOT_LISTENING,
                            "[admin]: the socket cannot be watched: {error}"
                        ),
                    },
                }
            },
            &self.runtime,
        );
        served
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Served {
    /// Whether this is the listener of `admin`, which may be public or not by now. One to which nobody can
    /// connect any more is that of none.
    pub fn is_at(&self, admin: &Admin) -> bool {
        self.listen == admin.listen
            && !self.ended.is_cancelled()
            && self.file.as_ref().is_none_or(unix::Place::is_there)
    }

    /// Where it listens.
    pub fn address(&self) -> &ListenAddress {
        &self.listen
    }

    /// Shows from now on what `admin` says.
    pub fn follow(&self, admin: &Admin) {
        self.public.store(admin.public, Ordering::Relaxed);
    }

    /// Closes it, with its connections.
    pub fn close(self) {
        self.close.cancel();
    }
}

/// Completes once the file of a socket is gone, or another one is in its place.
async fn lost(file: Option<unix::Place>) {
    let Some(file) = file else { return std::future::pending().await };
    while file.is_there() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The connections of one listener.
struct Visitors {
    desk: Arc<Desk>,
    public: Arc<AtomicBool>,
    tasks: TaskTracker,
    close: CancellationToken,
}

impl Visitors {
    async fn accept<L: listener::Accept>(
        self,
        socket: L,
        listening: Listening,
        source: impl Fn(&L::From) -> Source + Send,
        starved: impl Fn(&io::Error) + Send,
    ) where
        L::Socket: AsyncRead + AsyncWrite + AsFd + Unpin + 'static,
    {
        let close = self.close.clone();
        let take = move |socket, from, room| {
            let source = source(&from);
            let seat = self.desk.seats.enter(source);
            let reach = match source {
                None => Reach::Socket,
                Some(_) if self.public.load(Ordering::Relaxed) => Reach::Public,
                Some(_) => Reach::Local,
            };
            let desk = Arc::clone(&self.desk);
            let close = self.close.clone();
            // The accept task runs on this thread's runtime, and so do its connections.
            self.tasks.spawn(async move {
                drop(room);
                tokio::select! {
                    () = connection::serve(&desk, socket, source, reach, &seat) => {}
                    () = close.cancelled() => {}
                }
            });
        };
        let room = Arc::new(Semaphore::new(WAITING));
        listener::accept(socket, close, room, take, starved).await;
        drop(listening);
    }
}

/// A seat of a connection.
type Place = Seat<Source>;
