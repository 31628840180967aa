//! Starts and watches the processes of a test, and cleans up after them.
//!
//! Ports come from the OS, readiness is polled to a deadline, and a failing test
//! prints every process's log.

pub mod browser;
pub mod census;
pub mod gateway;
pub mod http;
pub mod line;
pub mod path;
pub mod pause;
pub mod pki;
pub mod providers;
pub mod random;
pub mod redis;
pub mod terminal;
pub mod transcript;
pub mod wire;
pub mod writer;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// How long a test waits for a condition that should hold soon.
pub const SOON: Duration = Duration::from_secs(20);

/// The binary under test.
pub const REPLGATE: &str = env!("CARGO_BIN_EXE_replgate");

/// A port that is free now. Handed out in sequence per process, below the range
/// from which the system takes ports for outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    /// Each test process has its own range, since several run at a time. It keeps a listener
    /// open until it ends, which marks the range as taken.
    static RANGE: LazyLock<(u16, TcpListener)> = LazyLock::new(|| {
        let range = |at| TcpListener::bind(("127.0.0.1", 9_980 + at)).map(|taken| (at, taken));
        (0..10).find_map(|at| range(at).ok()).expect("fewer than ten test processes run at a time")
    });
    let start = 10_000 + RANGE.0 * 2_000;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if is_free((Ipv4Addr::LOCALHOST, port).into()) && is_free((Ipv6Addr::LOCALHOST, port).into()) {
            return port;
        }
    }
}

/// Whether a listener can be opened at an address. It is bound and does not listen: a process that
/// another thread starts at this moment has a copy of the socket until its exec, and a copy that
/// listens would keep the address from its user.
fn is_free(address: SocketAddr) -> bool {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a fresh socket");
    socket.bind(&address.into()).is_ok()
}

/// Polls until `condition` holds. `what` describes it in the failure message.
#[track_caller]
pub fn eventually(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that `condition` holds all the time, for `during`.
#[track_caller]
pub fn always(what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        assert!(condition(), "no longer true: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process with its log file; killed on drop, and its log printed if the test
/// fails.
pub struct Process {
    pub child: Child,
    pub log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `command` with stdout and stderr in `log`.
    pub fn start(name: &str, log: PathBuf, command: &mut Command) -> Self {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the test's folder is writable");
        let child = command.stdout(file.try_clone().expect("a file can be cloned")).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}; run: make test"));
        Self { child, log, name: name.to_owned() }
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// Whether none of its threads runs, because of a signal STOP.
    pub fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        threads.expect("the process exists").all(|thread| {
            let stat = std::fs::read_to_string(thread.expect("it is readable").path().join("stat"));
            stat.is_ok_and(|stat| stat.contains(") T "))
        })
    }

    /// Waits for the exit and returns its code.
    #[track_caller]
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let mut status = None;
        eventually(&format!("{} exits", self.name), within, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal("CONT");
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of {} ({}) ----\n{}", self.name, self.log.display(), self.log_text());
        }
    }
}

pub fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status();
    assert!(status.expect("kill runs").success(), "kill -{signal} {pid}");
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs the binary with these arguments in a folder. Returns the exit code, stdout and stderr.
#[track_caller]
pub fn replgate(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output =
        run(Command::new(REPLGATE).current_dir(folder).args(arguments).stdin(std::process::Stdio::null()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// As [`replgate`], but it must succeed. Returns stdout.
#[track_caller]
pub fn replgate_ok(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = replgate(folder, arguments);
    assert_eq!(code, 0, "replgate {}\n{out}\n{err}", arguments.join(" "));
    out
}

/// CPU seconds that a process has used so far, user and system.
pub fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}
