//! The demo's Redis servers, and a minimal client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Running, free_port};

/// Size of each backlog: Redis' own default, but not that of every fork and release. An outage of
/// seconds must outgrow it.
const BACKLOG: &str = "1mb";

/// A Redis server of the demo, stopped on drop.
pub(super) struct Redis {
    /// Its name in the demo.
    pub(super) name: &'static str,
    /// Its port on the loopback address.
    pub(super) port: u16,
    _process: Running,
}

/// The version of the redis-server on the PATH.
pub(super) fn version() -> anyhow::Result<String> {
    let output = Command::new("redis-server").arg("--version").output();
    let output = output.context("redis-server is not installed; install it (Debian, Ubuntu: apt-get install redis-server), or run: make demo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .unwrap_or("of an unknown version")
        .to_owned())
}

impl Redis {
    /// Starts a server in its own folder and waits until it answers.
    pub(super) fn start(folder: &Path, name: &'static str) -> anyhow::Result<Self> {
        let (dir, port) = (folder.join(name), free_port()?);
        std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--repl-diskless-sync-delay",
                "0",
                "--repl-backlog-size",
                BACKLOG,
            ])
            .args(["--logfile", "redis.log", "--dir"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start redis-server")?;
        let redis = Self { name, port, _process: Running(child) };
        let deadline = Instant::now() + super::STEP;
        while redis.ask(&["PING"]).is_err() {
            if Instant::now() > deadline {
                bail!(
                    "{name} does not answer: {}",
                    std::fs::read_to_string(dir.join("redis.log")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    /// Sends one command; an error reply becomes an error.
    pub(super) fn ask(&self, command: &[&str]) -> anyhow::Result<String> {
        ask_at(self.port, command).with_context(|| format!("{}: {}", self.name, command.join(" ")))
    }

    /// A number from a section of INFO.
    pub(super) fn number(&self, section: &str, field: &str) -> anyhow::Result<u64> {
        let text = self.field(section, field)?;
        text.parse().with_context(|| format!("{}: {field} is {text:?}", self.name))
    }

    /// A field of `INFO replication`; empty if it is missing.
    pub(super) fn info(&self, field: &str) -> anyhow::Result<String> {
        self.field("replication", field)
    }

    fn field(&self, section: &str, field: &str) -> anyhow::Result<String> {
        let info = self.ask(&["INFO", section])?;
        Ok(info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .unwrap_or_default()
            .to_owned())
    }
}

/// Sends one command to a port on the loopback address.
pub(super) fn ask_at(port: u16, command: &[&str]) -> anyhow::Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut wire = format!("*{}\r\n", command.len());
    for word in command {
        wire += &format!("${}\r\n{word}\r\n", word.len());
    }
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(wire.as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("-", error)) => bail!("{error}"),
        Some(("$", length)) => {
            let Ok(length) = length.parse::<usize>() else { return Ok(String::new()) };
            let mut text = vec![0; length];
            stream.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Some((_, answer)) => Ok(answer.to_owned()),
        None => bail!("the connection was closed without an answer"),
    }
}
