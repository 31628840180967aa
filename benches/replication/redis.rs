//! Real redis-server processes, and a client for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::place::{Place, free_port, local, wait_for};
use crate::process::Process;

/// How long a replica may take to sync.
const SYNC: Duration = Duration::from_secs(180);

/// The version that `redis-server --version` prints, such as "7.0.15".
pub static VERSION: LazyLock<Option<String>> = LazyLock::new(|| {
    let output = Command::new("redis-server").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split_once("v=")?.1.split_whitespace().next()?.to_owned())
});

#[derive(Debug)]
pub struct Redis {
    pub process: Process,
    pub client: Client,
    pub plain: SocketAddr,
    /// Its TLS port, if it was started with one.
    pub tls: Option<SocketAddr>,
    folder: PathBuf,
}

impl Redis {
    /// Starts a server with a plain port and, if `tls`, a TLS port. It uses the certificate of
    /// `site` there and when it replicates.
    ///
    /// Apart from that it runs with Redis' defaults, except: nothing is saved; a full sync begins at
    /// once (`repl-diskless-sync-delay 0`); a replica that lags is never dropped, because its lag is
    /// measured.
    pub fn start(place: &Place, site: &str, tls: bool) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = place.file(&format!("redis-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&folder)?;
        let plain = local(free_port()?);
        let mut command = Command::new("redis-server");
        command.current_dir(&folder).args(["--bind", "127.0.0.1", "--port", &plain.port().to_string()]);
        command.args(["--save", "", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
        command.args(["--client-output-buffer-limit", "replica 0 0 0"]);
        let major: u32 =
            VERSION.as_deref().and_then(|text| text.split('.').next()?.parse().ok()).unwrap_or(0);
        if major >= 7 {
            command.args(["--enable-debug-command", "local"]);
        }
        let tls = if tls { Some(local(free_port()?)) } else { None };
        if let Some(address) = tls {
            command.args(["--tls-port", &address.port().to_string(), "--tls-auth-clients", "yes"]);
            command.args(["--tls-protocols", "TLSv1.3", "--tls-ciphersuites", "TLS_AES_128_GCM_SHA256"]);
            for (option, file) in [
                ("--tls-ca-cert-file", "ca.crt"),
                ("--tls-cert-file", "tls.crt"),
                ("--tls-key-file", "tls.key"),
            ] {
                command.arg(option).arg(place.cert(site, file));
            }
        }
        let mut process = Process::start(&command, &folder.join("log"))?;
        let client = wait_for("redis-server answers", Duration::from_secs(20), || {
            ensure!(process.runs(), "redis-server ended: {}", log(&folder));
            Ok(Client::connect(plain).ok())
        })?;
        let mut redis = Self { process, client, plain, tls, folder };
        wait_for("redis-server is ready", Duration::from_secs(20), || {
            Ok((redis.client.ask("PING")? == "PONG").then_some(()))
        })?;
        Ok(redis)
    }

    /// Whether the installed redis-server speaks TLS.
    pub fn speaks_tls(place: &Place) -> bool {
        Self::start(place, "dc1", true).is_ok()
    }

    /// A numeric field of INFO.
    pub fn number(&mut self, section: &str, field: &str) -> Result<u64> {
        let info = self.client.ask(&format!("INFO {section}"))?;
        value(&info, field).and_then(|text| text.parse().ok()).with_context(|| format!("INFO has no {field}"))
    }

    /// Makes it a replica, over TLS if its path to the master needs that.
    pub fn replicate(&mut self, master: SocketAddr, tls: bool) -> Result<()> {
        if tls {
            self.client.ask("CONFIG SET tls-replication yes")?;
        }
        let answer = self.client.ask(&format!("REPLICAOF {} {}", master.ip(), master.port()))?;
        ensure!(answer == "OK", "REPLICAOF: {answer}");
        Ok(())
    }

    /// Waits until this replica has all that the master has written.
    pub fn wait_in_sync(&mut self, master: &mut Self) -> Result<()> {
        let done = wait_for("the replica has caught up", SYNC, || {
            let info = self.client.ask("INFO replication")?;
            if value(&info, "master_link_status") != Some("up") {
                return Ok(None);
            }
            let offset: u64 = value(&info, "slave_repl_offset").context("no offset")?.parse()?;
            Ok((offset == master.number("replication", "master_repl_offset")?).then_some(()))
        });
        done.with_context(|| format!("the replica's log: {}", log(&self.folder)))
    }

    /// Fails unless the replica's data is the master's: the number of keys, and, if `whole`, a digest
    /// over every value.
    pub fn is_copy_of(&mut self, master: &mut Self, whole: bool) -> Result<()> {
        let questions: &[&str] = if whole { &["DBSIZE", "DEBUG DIGEST"] } else { &["DBSIZE"] };
        for question in questions {
            let (ours, theirs) = (self.client.ask(question)?, master.client.ask(question)?);
            ensure!(ours == theirs, "{question}: {ours} at the replica, {theirs} at the master");
        }
        Ok(())
    }

    /// Waits until the master has noticed that its replicas are gone.
    pub fn wait_alone(&mut self) -> Result<()> {
        wait_for("the master is alone again", Duration::from_secs(60), || {
            let alone = self.number("replication", "connected_slaves")? == 0;
            Ok((alone && self.number("persistence", "rdb_bgsave_in_progress")? == 0).then_some(()))
        })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The folder holds what a replica has received; the process itself is killed right after.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The last lines of a server's log.
fn log(folder: &std::path::Path) -> String {
    let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}

/// A field of INFO.
pub fn value<'a>(info: &'a str, field: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
}

#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { reader: BufReader::with_capacity(1 << 16, stream) })
    }

    /// One command of words without blanks, and its answer as text.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        self.answer().with_context(|| command.to_owned())
    }

    pub fn send(&mut self, command: &str) -> Result<()> {
        let words: Vec<&str> = command.split(' ').collect();
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        self.write(&bytes)
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Reads an answer. An error of Redis is text that begins with a dash.
    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").context("the connection ended")?;
        match line.split_at_checked(1) {
            Some(("+" | ":", text)) => Ok(text.to_owned()),
            Some(("-", _)) => Ok(line.to_owned()),
            Some(("$", length)) => {
                let mut bytes = vec![0; length.parse::<usize>()? + 2];
                self.reader.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => bail!("an unknown answer: {line}"),
        }
    }

    /// Reads exactly this many bytes of answers.
    pub fn skip(&mut self, bytes: &mut [u8]) -> Result<()> {
        Ok(self.reader.read_exact(bytes)?)
    }
}
