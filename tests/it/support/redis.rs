//! Real redis-server processes and a small client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Process, SOON, eventually, free_port};

/// A version of redis-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 6.2, from a Python wheel.
    V6,
    /// The system's version: 7.0 on Debian 12.
    System,
    /// 8.2, from a Python wheel. It can use two connections for one full sync.
    V8,
}

pub const ALL: [Version; 3] = [Version::V6, Version::System, Version::V8];

impl Version {
    fn binary(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/redis");
        match self {
            Self::V6 => root.join("6.2/redis-server"),
            Self::System => PathBuf::from("redis-server"),
            Self::V8 => root.join("8.2/redis-server"),
        }
    }

    /// Enables DEBUG DIGEST, which is disabled by default from 7.0 on.
    fn debug(self) -> &'static [&'static str] {
        if self == Self::V6 { &[] } else { &["--enable-debug-command", "yes"] }
    }
}

pub struct Redis {
    pub process: Process,
    pub port: u16,
    version: Version,
    dir: PathBuf,
    arguments: Vec<String>,
    password: Option<String>,
}

/// An answer of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Text(String),
    Error(String),
    Number(i64),
    Nil,
    List(Vec<Answer>),
}

impl Answer {
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Error(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Nil => String::new(),
            Self::List(list) => list.iter().map(Self::text).collect::<Vec<_>>().join(" "),
        }
    }
}

impl Redis {
    /// Starts a server in `dir/name` and waits until it answers.
    pub fn start(version: Version, dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let redis = Self::start_unready(version, dir, name, free_port(), arguments);
        redis.wait_ready();
        redis
    }

    /// Starts a server on a given port without waiting.
    pub fn start_unready(version: Version, dir: &Path, name: &str, port: u16, arguments: &[&str]) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).expect("the test's folder is writable");
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = spawn(version, &dir, port, &arguments);
        let password =
            arguments.windows(2).find(|pair| pair[0] == "--requirepass").map(|pair| pair[1].clone());
        Self { process, port, version, dir, arguments, password }
    }

    pub fn wait_ready(&self) {
        eventually(
            &format!("redis on {} answers", self.port),
            SOON,
            || matches!(self.try_ask(&["PING"]), Some(answer) if answer.text() == "PONG" || answer.text().starts_with("LOADING")),
        );
    }

    /// Shuts down in an orderly way, which keeps its data and offset, and starts again.
    pub fn restart(&mut self, within: Duration) {
        let _ = self.try_ask(&["SHUTDOWN", "SAVE"]);
        self.process.exit_code(within);
        self.process = spawn(self.version, &self.dir, self.port, &self.arguments);
        self.wait_ready();
    }

    pub fn kill(&mut self) {
        self.process.child.kill().expect("redis runs");
        let _ = self.process.child.wait();
    }

    pub fn start_again(&mut self) {
        self.process = spawn(self.version, &self.dir, self.port, &self.arguments);
        self.wait_ready();
    }

    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.port).expect("redis accepts");
        if let Some(password) = &self.password {
            client.ask(&["AUTH", password]);
        }
        client
    }

    /// One command on a connection of its own.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> String {
        let answer = self.client().ask(command);
        if let Answer::Error(error) = &answer {
            panic!("{command:?}: {error}");
        }
        answer.text()
    }

    pub fn try_ask(&self, command: &[&str]) -> Option<Answer> {
        let mut client = Client::connect(self.port)?;
        if let Some(password) = &self.password {
            client.try_ask(&["AUTH", password])?;
        }
        client.try_ask(command)
    }

    /// A field of INFO.
    pub fn info(&self, field: &str) -> String {
        let info = self.try_ask(&["INFO", "everything"]).map(|answer| answer.text()).unwrap_or_default();
        let line =
            info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
        line.unwrap_or_default()
    }

    pub fn info_number(&self, field: &str) -> i64 {
        self.info(field).trim().parse().unwrap_or(-1)
    }

    /// Number of full syncs that this master began.
    pub fn sync_full(&self) -> i64 {
        self.info_number("sync_full")
    }

    /// Number of partial resyncs that this master granted.
    pub fn sync_partial_ok(&self) -> i64 {
        self.info_number("sync_partial_ok")
    }

    /// Number of replicas that this master lists, and how many of them are online.
    pub fn listed(&self) -> (i64, usize) {
        let info = self.ask(&["INFO", "replication"]);
        let online = info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
        (self.info_number("connected_slaves"), online.count())
    }

    /// Does something while this master is watched. Asserts that it never lists more replicas than
    /// there are.
    pub fn lists_never_more_than(&self, most: i64, deed: impl FnOnce()) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let listed = self.info_number("connected_slaves");
                    assert!(listed <= most, "{listed} replicas are listed");
                }
            });
            // The watch ends, however this ends.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(deed));
            done.store(true, Ordering::SeqCst);
            watch.join().expect("the master never lists more");
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    /// The offset up to which this master has written.
    pub fn master_offset(&self) -> i64 {
        self.info_number("master_repl_offset")
    }

    /// The offset up to which this replica has applied the stream.
    pub fn replica_offset(&self) -> i64 {
        self.info_number("slave_repl_offset")
    }

    /// A hash over all data.
    pub fn digest(&self) -> String {
        self.ask(&["DEBUG", "DIGEST"])
    }

    /// Waits until this replica is online and has the same data as `master`.
    #[track_caller]
    pub fn wait_equal(&self, master: &Redis) {
        self.wait_equal_within(master, Duration::from_secs(40));
    }

    #[track_caller]
    pub fn wait_equal_within(&self, master: &Redis, within: Duration) {
        eventually(&format!("the replica on {} is in sync", self.port), within, || {
            self.info("master_link_status") == "up" && self.replica_offset() == master.master_offset()
        });
        assert_eq!(self.digest(), master.digest(), "the replica's data equals the master's");
    }

    /// Writes data of every type.
    pub fn fill(&self) {
        let mut client = self.client();
        for at in 0..300 {
            let at = at.to_string();
            client.ask(&["SET", &format!("string:{at}"), &at.repeat(50)]);
            client.ask(&["RPUSH", &format!("list:{}", at.len()), &at]);
            client.ask(&["HSET", "hash", &at, "value"]);
            client.ask(&["SADD", "set", &at]);
            client.ask(&["ZADD", "zset", &at, &format!("member{at}")]);
            client.ask(&["PFADD", "hll", &at]);
            client.ask(&["XADD", "stream", "*", "field", &at]);
        }
        client.ask(&["SETBIT", "bits", "100001", "1"]);
        client.ask(&["GEOADD", "geo", "13.361389", "38.115556", "Palermo"]);
        client.ask(&["SET", "binary", "a\0b\r\n$5\r\nhello\r\n\u{7f}"]);
        client.ask(&["SET", "expires", "x", "EX", "100000"]);
        client.ask(&["XGROUP", "CREATE", "stream", "group", "0"]);
        client.ask(&["EVAL", "return redis.call('SET','lua','1')", "0"]);
        client.ask(&["SELECT", "5"]);
        client.ask(&["SET", "in-another-database", "x"]);
    }

    pub fn replicaof(&self, port: u16) {
        self.ask(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
    }

    pub fn log(&self) -> String {
        self.process.log_text()
    }
}

fn spawn(version: Version, dir: &Path, port: u16, arguments: &[String]) -> Process {
    let mut command = Command::new(version.binary());
    command.args(["--port", &port.to_string(), "--dir"]).arg(dir).args([
        "--save",
        "",
        "--repl-diskless-sync-delay",
        "0",
        "--bind",
        "127.0.0.1",
    ]);
    command.args(version.debug()).args(arguments);
    Process::start(&format!("redis on {port}"), dir.join("redis.log"), &mut command)
}

/// A client connection, to Redis or to anything that speaks its protocol.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
        Some(Self { stream: BufReader::new(stream) })
    }

    /// As [`Client::connect`], from another address of this host.
    pub fn from(host: [u8; 4], port: u16) -> Self {
        let address = |host: [u8; 4], port: u16| std::net::SocketAddr::from((host, port)).into();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&address(host, 0)).expect("the whole of 127/8 is here");
        socket.connect(&address([127, 0, 0, 1], port)).expect("the other end accepts");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
        Self { stream: BufReader::new(stream) }
    }

    /// Waits this long for an answer.
    pub fn patient_for(self, within: Duration) -> Self {
        self.stream.get_ref().set_read_timeout(Some(within)).expect("a timeout can be set");
        self
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.stream.get_ref().local_addr().expect("it is connected").port()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Encodes a command as Redis reads it.
    pub fn encode(command: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let mut wire = format!("*{}\r\n", command.len()).into_bytes();
        for word in command.iter().map(AsRef::as_ref) {
            wire.extend(format!("${}\r\n", word.len()).into_bytes());
            wire.extend(word);
            wire.extend(b"\r\n");
        }
        wire
    }

    #[track_caller]
    pub fn ask(&mut self, command: &[&str]) -> Answer {
        self.try_ask(command).unwrap_or_else(|| panic!("no answer to {command:?}"))
    }

    pub fn try_ask(&mut self, command: &[&str]) -> Option<Answer> {
        self.send(&Self::encode(command));
        self.answer()
    }

    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        line.ends_with('\n').then(|| line.trim_end().to_owned())
    }

    pub fn answer(&mut self) -> Option<Answer> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1)?;
        Some(match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(rest.parse().ok()?),
            "$" if rest == "-1" => Answer::Nil,
            "$" => {
                let mut text = vec![0; rest.parse::<usize>().ok()? + 2];
                self.stream.read_exact(&mut text).ok()?;
                text.truncate(text.len() - 2);
                Answer::Text(String::from_utf8_lossy(&text).into_owned())
            }
            "*" => {
                let count: i64 = rest.parse().ok()?;
                Answer::List((0..count).map(|_| self.answer()).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }

    /// Reads this many bytes.
    #[track_caller]
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("the other side sends them");
        bytes
    }

    /// Reads everything that is there, until `word` was in it.
    #[track_caller]
    pub fn until(&mut self, word: &str) {
        let mut bytes = Vec::new();
        while !bytes.windows(word.len()).any(|window| window == word.as_bytes()) {
            let piece = self.stream.fill_buf().expect("the other side sends it").to_vec();
            assert!(!piece.is_empty(), "the other side has closed before {word}");
            self.stream.consume(piece.len());
            bytes.extend(piece);
        }
    }

    /// Reads everything until the other side closes. False if it does not close in time, even if
    /// it keeps sending.
    pub fn rest(&mut self, within: Duration) -> (Vec<u8>, bool) {
        let deadline = Instant::now() + within;
        let mut rest = Vec::new();
        let mut piece = [0; 64 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (rest, false);
            }
            self.stream.get_ref().set_read_timeout(Some(left)).expect("a timeout can be set");
            match self.stream.read(&mut piece) {
                Ok(0) => return (rest, true),
                Ok(count) => rest.extend_from_slice(&piece[..count]),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::Interrupted => {}
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => return (rest, false),
                    _ => return (rest, true),
                },
            }
        }
    }
}
