//! A TCP path between two gateways. A test can observe it, slow it down, silence it and cut it,
//! or make it forget its connections as a NAT device does.
//!
//! Each direction of each connection has a thread. Whatever it is blocked on, it checks the
//! test's settings every [`LOOK`]. Data that waits in a silent path is not lost, just as TCP
//! would send it again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{SOON, eventually, free_port};

/// How soon a thread sees that a test has changed the settings.
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
    /// To the gateway that connects, at the replica's site.
    Dialler,
    /// To the gateway that accepts, at the master's site.
    Acceptor,
}

/// Forwards every connection to one port, and keeps the first bytes that crossed.
pub struct Path {
    pub port: u16,
    state: Arc<State>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Path {
    pub fn to(target: u16) -> Self {
        let path = Self { port: free_port(), state: Arc::new(State::default()), listener: Mutex::default() };
        path.lead_to(target);
        path.refuse(false);
        path
    }

    /// New connections go to this port, as if another gateway behind one address took them. Returns
    /// where they went before.
    pub fn lead_to(&self, target: u16) -> u16 {
        let mut targets = self.state.targets.lock().expect("no thread panics");
        std::mem::replace(&mut *targets, vec![target]).first().copied().unwrap_or(0)
    }

    /// New connections are spread over these ports, as a load balancer does it: each goes where the
    /// fewest are, and equals take turns.
    pub fn balance(&self, targets: &[u16]) {
        *self.state.targets.lock().expect("no thread panics") = targets.to_vec();
    }

    /// Lets nothing pass any more: the connections hang without an error, and so do new ones.
    pub fn silence(&self, silent: bool) {
        self.silence_towards(Towards::Acceptor, silent);
        self.silence_towards(Towards::Dialler, silent);
    }

    /// As [`Path::silence`], for one direction only.
    pub fn silence_towards(&self, towards: Towards, silent: bool) {
        self.state.way(towards).silent.store(silent, Ordering::SeqCst);
    }

    /// Delays each piece of at most 64 KiB by this time.
    pub fn slow_down(&self, pause: Duration) {
        self.state.pause_ms.store(pause.as_millis() as u64, Ordering::SeqCst);
    }

    /// Passes at most this many bytes a second in each direction, over all connections.
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

    /// Closes every open connection in an orderly way, at both ends. Data in transit is lost.
    pub fn close(&self) {
        self.state.open().iter().for_each(|connection| connection.end(Fate::Closed));
    }

    /// Lets every connection that is open now hang for ever, without an error. New ones pass.
    pub fn forget(&self) {
        self.state.open().iter().for_each(|connection| connection.end(Fate::Forgotten));
    }

    /// Sets whether new connections are refused. Open ones stay.
    pub fn refuse(&self, refuse: bool) {
        let mut listener = self.listener.lock().expect("no thread panics");
        self.state.refuses.store(refuse, Ordering::SeqCst);
        if !refuse && listener.is_none() {
            let socket = TcpListener::bind(("127.0.0.1", self.port)).expect("the port is still free");
            let state = Arc::clone(&self.state);
            *listener = Some(std::thread::spawn(move || accept(&socket, &state)));
        } else if refuse && let Some(thread) = listener.take() {
            // It is blocked until a connection comes.
            let _ = TcpStream::connect(("127.0.0.1", self.port));
            thread.join().expect("no thread panics");
        }
    }

    /// Number of open connections, without the forgotten ones.
    pub fn connections(&self) -> usize {
        self.state.open().iter().filter(|connection| connection.passes()).count()
    }

    /// Number of bytes that have crossed so far in one direction.
    pub fn crossed(&self, towards: Towards) -> u64 {
        self.state.way(towards).crossed.load(Ordering::SeqCst)
    }

    /// The first bytes that crossed, in both directions: up to 8 MiB.
    pub fn seen(&self) -> Vec<u8> {
        self.state.seen.lock().expect("no thread panics").clone()
    }

    /// Resets them and waits until that is done.
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
    /// The ports to which new connections go, the one that was chosen last at the end.
    targets: Mutex<Vec<u16>>,
    pause_ms: AtomicU64,
    /// Bytes a second in each direction; 0 for no limit.
    rate: AtomicU64,
    seen: Mutex<Vec<u8>>,
    /// Weak, since their threads own them.
    connections: Mutex<Vec<Weak<Connection>>>,
}

#[derive(Default)]
struct Way {
    silent: AtomicBool,
    crossed: AtomicU64,
    /// When the limit lets the next piece pass.
    free: Mutex<Option<Instant>>,
}

impl State {
    fn way(&self, towards: Towards) -> &Way {
        &self.ways[usize::from(towards == Towards::Acceptor)]
    }

    /// The connections that are neither reset nor closed, the oldest first.
    fn open(&self) -> Vec<Arc<Connection>> {
        let connections = self.connections.lock().expect("no thread panics");
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// Where a new connection goes.
    fn target(&self) -> u16 {
        let open = self.open();
        let count = |port: u16| open.iter().filter(|connection| connection.target == port).count();
        let mut targets = self.targets.lock().expect("no thread panics");
        let least =
            (0..targets.len()).min_by_key(|at| count(targets[*at])).expect("the path leads somewhere");
        let port = targets.remove(least);
        targets.push(port);
        port
    }

    fn hangs(&self, connection: &Connection, towards: Towards) -> bool {
        *connection.fate() == Fate::Forgotten || self.way(towards).silent.load(Ordering::SeqCst)
    }

    /// How long the next piece has to wait for the limit.
    fn wait(&self, towards: Towards) -> Duration {
        let free = *self.way(towards).free.lock().expect("no thread panics");
        free.map_or(Duration::ZERO, |free| free.saturating_duration_since(Instant::now()))
    }

    /// Counts a piece that passes, and keeps the first ones.
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

/// What is to happen to a connection. It only ever changes to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Open,
    Forgotten,
    Closed,
    Reset,
}

/// One connection through the path. It is dropped once both of its threads have ended.
struct Connection {
    dialler: TcpStream,
    /// Set once the path has let the connection through.
    acceptor: OnceLock<TcpStream>,
    /// The port to which it goes.
    target: u16,
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

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for socket in listener.incoming().flatten() {
        if state.refuses.load(Ordering::SeqCst) {
            return;
        }
        let connection = Arc::new(Connection {
            dialler: socket,
            acceptor: OnceLock::new(),
            target: state.target(),
            fate: Mutex::new(Fate::Open),
        });
        let mut connections = state.connections.lock().expect("no thread panics");
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&connection));
        drop(connections);
        let state = Arc::clone(state);
        std::thread::spawn(move || carry(&connection, &state));
    }
}

/// One connection, until its end.
fn carry(connection: &Arc<Connection>, state: &Arc<State>) {
    let mut first = Vec::new();
    prepare(&connection.dialler);
    // The other end never sees a connection that was given up while the path was silent.
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
    let Ok(socket) = TcpStream::connect(("127.0.0.1", connection.target)) else {
        return connection.end(Fate::Reset);
    };
    prepare(&socket);
    let acceptor = connection.acceptor.get_or_init(|| socket);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forward(connection, acceptor, &connection.dialler, Towards::Dialler, Vec::new(), state);
        });
        forward(connection, &connection.dialler, acceptor, Towards::Acceptor, first, state);
    });
}

/// Sets up a socket so that no call blocks longer than [`LOOK`].
fn prepare(socket: &TcpStream) {
    socket.set_nodelay(true).expect("it can be set");
    socket.set_read_timeout(Some(LOOK)).expect("a timeout can be set");
    socket.set_write_timeout(Some(LOOK)).expect("a timeout can be set");
}

/// Forwards one direction until either end closes it or the test ends it.
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

/// Shuts down one direction and discards what still comes: closing a socket with unread data
/// would reset it.
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

/// Reads what has come: `None` if nothing comes within [`LOOK`], empty at the end of the stream.
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
