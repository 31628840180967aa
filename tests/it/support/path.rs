//! A TCP path between two gateways that a test can watch, slow down, silence, cut and
//! have forget what crosses it.
//!
//! A thread for each direction of each connection: it looks every [`LOOK`] at what the
//! test wants, whatever it is blocked on. What waits in a silent path is not lost, as
//! little as what TCP sends again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{SOON, eventually, free_port};

/// How soon a thread sees what the test wants.
const LOOK: Duration = Duration::from_millis(10);

/// The most bytes passed on at a time.
const PIECE: usize = 64 * 1024;

/// The most bytes kept of what crossed.
const KEPT: usize = 8 << 20;

/// How long the ends of a closed connection may take to close it too.
const LINGER: Duration = Duration::from_secs(2);

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To the gateway that connects: the replica's.
    Dialler,
    /// To the gateway that accepts: the master's.
    Acceptor,
}

/// Forwards every connection to one port, and keeps what crossed first.
pub struct Path {
    pub port: u16,
    target: u16,
    state: Arc<State>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Path {
    pub fn to(target: u16) -> Self {
        let path =
            Self { port: free_port(), target, state: Arc::new(State::default()), listener: Mutex::default() };
        path.refuse(false);
        path
    }

    /// Nothing passes any more and nobody is told: the connections hang, and so do new ones.
    pub fn silence(&self, silent: bool) {
        self.silence_towards(Towards::Acceptor, silent);
        self.silence_towards(Towards::Dialler, silent);
    }

    /// As [`Path::silence`], one way; the other way is as it was.
    pub fn silence_towards(&self, towards: Towards, silent: bool) {
        self.state.way(towards).silent.store(silent, Ordering::SeqCst);
    }

    /// Waits this long before each piece of at most 64 KiB.
    pub fn slow_down(&self, pause: Duration) {
        self.state.pause_ms.store(pause.as_millis() as u64, Ordering::SeqCst);
    }

    /// Passes at most so many bytes a second each way, over all connections.
    pub fn limit(&self, bytes_per_second: Option<u64>) {
        self.state.rate.store(bytes_per_second.unwrap_or(0), Ordering::SeqCst);
    }

    /// Resets every open connection, at both ends.
    pub fn cut(&self) {
        self.reset(self.state.open());
    }

    /// Resets the oldest open connection, at both ends.
    #[track_caller]
    pub fn cut_one(&self) {
        let oldest = self.state.open().into_iter().find(|connection| connection.passes());
        self.reset(vec![oldest.expect("a connection is open")]);
    }

    /// Closes every open connection in good order, at both ends; what was on its way is lost.
    pub fn close(&self) {
        self.state.open().iter().for_each(|connection| connection.end(Fate::Closed));
    }

    /// What is open now hangs for ever, and nobody is told; new connections pass.
    pub fn forget(&self) {
        self.state.open().iter().for_each(|connection| connection.end(Fate::Forgotten));
    }

    /// Whether new connections are refused; what is open stays.
    pub fn refuse(&self, refuse: bool) {
        let mut listener = self.listener.lock().expect("no thread panics");
        self.state.refuses.store(refuse, Ordering::SeqCst);
        if !refuse && listener.is_none() {
            let socket = TcpListener::bind(("127.0.0.1", self.port)).expect("the port is still free");
            let (target, state) = (self.target, Arc::clone(&self.state));
            *listener = Some(std::thread::spawn(move || accept(&socket, target, &state)));
        } else if refuse && let Some(thread) = listener.take() {
            // It waits for a connection.
            let _ = TcpStream::connect(("127.0.0.1", self.port));
            thread.join().expect("no thread panics");
        }
    }

    /// Connections that pass now; not those forgotten.
    pub fn connections(&self) -> usize {
        self.state.open().iter().filter(|connection| connection.passes()).count()
    }

    /// Bytes that crossed so far, one way.
    pub fn crossed(&self, towards: Towards) -> u64 {
        self.state.way(towards).crossed.load(Ordering::SeqCst)
    }

    /// What crossed first, both ways: up to 8 MiB.
    pub fn seen(&self) -> Vec<u8> {
        self.state.seen.lock().expect("no thread panics").clone()
    }

    /// Returns once they are reset.
    fn reset(&self, connections: Vec<Arc<Connection>>) {
        connections.iter().for_each(|connection| connection.end(Fate::Reset));
        let going: Vec<_> = connections.iter().map(Arc::downgrade).collect();
        drop(connections);
        eventually("the path's connections are reset", SOON, || {
            going.iter().all(|connection| connection.strong_count() == 0)
        });
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.refuse(true);
        self.state.open().iter().for_each(|connection| connection.end(Fate::Reset));
    }
}

#[derive(Default)]
struct State {
    ways: [Way; 2],
    refuses: AtomicBool,
    pause_ms: AtomicU64,
    /// Bytes a second each way; 0 for as many as come.
    rate: AtomicU64,
    seen: Mutex<Vec<u8>>,
    /// Their threads own them.
    connections: Mutex<Vec<Weak<Connection>>>,
}

#[derive(Default)]
struct Way {
    silent: AtomicBool,
    crossed: AtomicU64,
    /// When the next piece may pass.
    free: Mutex<Option<Instant>>,
}

impl State {
    fn way(&self, towards: Towards) -> &Way {
        &self.ways[usize::from(towards == Towards::Acceptor)]
    }

    /// What is not reset or closed, the oldest first.
    fn open(&self) -> Vec<Arc<Connection>> {
        let connections = self.connections.lock().expect("no thread panics");
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    fn hangs(&self, connection: &Connection, towards: Towards) -> bool {
        *connection.fate() == Fate::Forgotten || self.way(towards).silent.load(Ordering::SeqCst)
    }

    /// How long the next piece has to wait for the limit.
    fn wait(&self, towards: Towards) -> Duration {
        let free = *self.way(towards).free.lock().expect("no thread panics");
        free.map_or(Duration::ZERO, |free| free.saturating_duration_since(Instant::now()))
    }

    /// Notes a piece that passes.
    fn note(&self, towards: Towards, piece: &[u8]) {
        let way = self.way(towards);
        way.crossed.fetch_add(piece.len() as u64, Ordering::SeqCst);
        let rate = self.rate.load(Ordering::SeqCst);
        if rate > 0 {
            let mut free = way.free.lock().expect("no thread panics");
            let from = free.unwrap_or_else(Instant::now).max(Instant::now());
            *free = Some(from + Duration::from_secs_f64(piece.len() as f64 / rate as f64));
        }
        let mut seen = self.seen.lock().expect("no thread panics");
        let room = KEPT - seen.len();
        seen.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

/// What is to become of a connection; it goes on to a later one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Open,
    Forgotten,
    Closed,
    Reset,
}

/// Ends when both of its threads have left it.
struct Connection {
    dialler: TcpStream,
    /// There once the path has let the connection through.
    acceptor: OnceLock<TcpStream>,
    fate: Mutex<Fate>,
}

impl Connection {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().expect("no thread panics")
    }

    fn end(&self, fate: Fate) {
        let mut own = self.fate();
        *own = fate.max(*own);
    }

    fn passes(&self) -> bool {
        *self.fate() == Fate::Open && self.acceptor.get().is_some()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.fate() == Fate::Reset {
            for socket in [Some(&self.dialler), self.acceptor.get()].into_iter().flatten() {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

fn accept(listener: &TcpListener, target: u16, state: &Arc<State>) {
    for socket in listener.incoming().flatten() {
        if state.refuses.load(Ordering::SeqCst) {
            return;
        }
        let connection =
            Arc::new(Connection { dialler: socket, acceptor: OnceLock::new(), fate: Mutex::new(Fate::Open) });
        let mut connections = state.connections.lock().expect("no thread panics");
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&connection));
        drop(connections);
        let state = Arc::clone(state);
        std::thread::spawn(move || carry(&connection, target, &state));
    }
}

/// One connection, until its end.
fn carry(connection: &Arc<Connection>, target: u16, state: &Arc<State>) {
    let mut first = Vec::new();
    prepare(&connection.dialler);
    // Who gives up in a silent path was never there for the other end.
    while state.hangs(connection, Towards::Acceptor) {
        if matches!(*connection.fate(), Fate::Closed | Fate::Reset) {
            return;
        }
        if first.len() > PIECE {
            std::thread::sleep(LOOK);
            continue;
        }
        match receive(&connection.dialler, &mut [0; 4096]) {
            Ok(Some(piece)) if piece.is_empty() => return,
            Ok(piece) => first.extend(piece.unwrap_or_default()),
            Err(_) => return,
        }
    }
    let Ok(socket) = TcpStream::connect(("127.0.0.1", target)) else { return connection.end(Fate::Reset) };
    prepare(&socket);
    let acceptor = connection.acceptor.get_or_init(|| socket);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forward(connection, acceptor, &connection.dialler, Towards::Dialler, Vec::new(), state);
        });
        forward(connection, &connection.dialler, acceptor, Towards::Acceptor, first, state);
    });
}

/// A socket that is blocked on no longer than [`LOOK`].
fn prepare(socket: &TcpStream) {
    socket.set_nodelay(true).expect("it can be set");
    socket.set_read_timeout(Some(LOOK)).expect("a timeout can be set");
    socket.set_write_timeout(Some(LOOK)).expect("a timeout can be set");
}

/// One direction, until either end closes it or the test ends it.
fn forward(
    connection: &Connection,
    from: &TcpStream,
    mut to: &TcpStream,
    towards: Towards,
    mut piece: Vec<u8>,
    state: &State,
) {
    let mut buffer = vec![0; PIECE];
    let mut passed = 0;
    loop {
        let fate = *connection.fate();
        match fate {
            Fate::Open | Fate::Forgotten => {}
            Fate::Closed => return close(connection, from, to),
            Fate::Reset => return,
        }
        if state.hangs(connection, towards) {
            std::thread::sleep(LOOK);
            continue;
        }
        if passed < piece.len() {
            match to.write(&piece[passed..]) {
                Ok(count) => {
                    state.note(towards, &piece[passed..passed + count]);
                    passed += count;
                }
                Err(error) if is_late(&error) => {}
                Err(_) => return connection.end(Fate::Reset),
            }
            continue;
        }
        let wait = state.wait(towards);
        if wait > Duration::ZERO {
            std::thread::sleep(wait.min(LOOK));
            continue;
        }
        std::thread::sleep(Duration::from_millis(state.pause_ms.load(Ordering::SeqCst)));
        match receive(from, &mut buffer) {
            Ok(None) => {}
            Ok(Some(end)) if end.is_empty() => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(Some(come)) => (piece, passed) = (come, 0),
            Err(_) => return connection.end(Fate::Reset),
        }
    }
}

/// Says the end one way, and drops what still comes: closed over it, a socket resets.
fn close(connection: &Connection, from: &TcpStream, to: &TcpStream) {
    let _ = to.shutdown(Shutdown::Write);
    let until = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    while *connection.fate() != Fate::Reset && Instant::now() < until {
        match receive(from, &mut buffer) {
            Ok(Some(end)) if end.is_empty() => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// What is there to read; nothing within [`LOOK`] is `None`, the end is empty.
fn receive(mut from: &TcpStream, buffer: &mut [u8]) -> std::io::Result<Option<Vec<u8>>> {
    match from.read(buffer) {
        Ok(count) => Ok(Some(buffer[..count].to_vec())),
        Err(error) if is_late(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
