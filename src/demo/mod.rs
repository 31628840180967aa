//! The demo: two sites on this machine with real redis-server processes. It starts everything,
//! shows and checks the result, and leaves nothing behind. What fails while writes go on is in
//! `outage.rs` (the path) and `restart.rs` (a gateway); a site that is shut out is in `revoke.rs`,
//! another master in `failover.rs`.

mod failover;
mod gateway;
mod load;
mod outage;
mod page;
mod path;
mod redis;
mod restart;
mod revoke;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::gateway::Gateway;
use self::path::Path;
use self::redis::Redis;
use crate::certs::{self, Names};

/// Time given to each step.
const STEP: Duration = Duration::from_secs(30);

/// Bytes written to alpha per second while something fails.
const RATE: usize = 5_000_000;

/// A value that is written to alpha and searched for on the wire.
const MARKER: &str = "marker-that-must-not-cross-in-the-clear";

/// Ends the demo early when it is set.
pub type Interrupt = Arc<AtomicBool>;

/// One row of the table at the end.
struct Row {
    what: &'static str,
    good: bool,
    seen: String,
}

/// A process that is killed when the demo ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The demo's folder, removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Everything that runs. The processes are dropped before the folder that they write to.
struct Stage {
    redis: Vec<Redis>,
    /// That of dc1, and that of dc2.
    gateways: Vec<Gateway>,
    wire: Path,
    entry: u16,
    /// The ports at which they show their pages, in the same order.
    pages: [u16; 2],
    folder: Folder,
    interrupt: Interrupt,
}

/// Runs the demo with the program `replgate`. Returns true if every check passes; with `keep` it
/// then waits for `interrupt`.
pub fn run(replgate: &std::path::Path, keep: bool, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut stage = Stage::build(replgate, interrupt)?;
    let mut rows = Vec::new();
    stage.replicate(&mut rows)?;
    stage.show_info(&mut rows)?;
    stage.show_status(replgate, &mut rows)?;
    page::show(&stage, &mut rows)?;
    stage.prove_ciphertext(&mut rows)?;
    stage.refuse_flush(&mut rows)?;
    outage::outlive(&stage, &mut rows)?;
    restart::outlive(&mut stage, &mut rows)?;
    revoke::shut_out(&stage, &mut rows)?;
    failover::follow(&stage, &mut rows)?;
    let good = rows.iter().all(|row| row.good);
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    crate::outln::outln!("\n      {:<width$}  SEEN", "CHECK");
    for row in &rows {
        crate::outln::outln!(
            "{:<4}  {:<width$}  {}",
            if row.good { "ok" } else { "FAIL" },
            row.what,
            row.seen
        );
    }
    crate::outln::outln!(
        "\n{} of {} checks good, {:.1} s",
        rows.iter().filter(|row| row.good).count(),
        rows.len(),
        began.elapsed().as_secs_f64()
    );
    if keep {
        stage.keep(replgate);
    } else if !good {
        crate::outln::outln!("`replgate demo --keep` leaves everything up, with the gateways' logs");
    }
    drop(stage);
    crate::outln::outln!("everything is stopped and removed");
    Ok(good)
}

fn step(text: &str) {
    crate::outln::outln!("==> {text}");
}

impl Stage {
    fn build(replgate: &std::path::Path, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let version = redis::version()?;
        let folder = Folder(std::env::temp_dir().join(format!("replgate-demo-{}", std::process::id())));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder.0)
            .with_context(|| format!("make {}", folder.0.display()))?;
        step(&format!(
            "certificates for two sites, dc1 and dc2, of one CA ({})",
            folder.0.join("certs").display()
        ));
        let certificates = folder.0.join("certs");
        certs::init(&certificates, "demo CA", false)?;
        for site in ["dc1", "dc2"] {
            certs::issue(&certificates, &Names::new(site, &[])?, 2, false)?;
        }
        step(&format!("three Redis servers without TLS ({version}): alpha at dc1, bravo and charli at dc2"));
        let mut servers = Vec::new();
        for name in ["alpha", "bravo", "charli"] {
            servers.push(Redis::start(&folder.0, name)?);
        }
        let [wan, entry] = [free_port()?, free_port()?];
        let pages = [free_port()?, free_port()?];
        let wire = Path::to(wan)?;
        step("a gateway at each site; every byte between them is captured");
        let head = |site: &str, page: u16| {
            format!(
                "site = \"{site}\"\n\n[tls]\nca   = \"certs/{site}/ca.crt\"\ncert = \"certs/{site}/tls.crt\"\nkey  = \"certs/{site}/tls.key\"\ncrl  = \"certs/{site}/crl.pem\"\n\n[admin]\nlisten = \"127.0.0.1:{page}\"\n"
            )
        };
        let first = format!(
            "{}\n[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n\n[[master]]\nname  = \"alpha\"\nredis = \"127.0.0.1:{}\"\nallow = [\"dc2\"]\n",
            head("dc1", pages[0]),
            servers[0].port
        );
        let second = format!(
            "{}\n[[replica]]\nname   = \"alpha\"\nlisten = \"127.0.0.1:{entry}\"\nsite   = \"dc1\"\npeers  = [\"127.0.0.1:{}\"]\n",
            head("dc2", pages[1]),
            wire.port
        );
        let mut stage = Self {
            redis: servers,
            gateways: Vec::new(),
            wire,
            entry,
            pages,
            folder,
            interrupt: Arc::clone(interrupt),
        };
        for (site, text) in [("dc1", first), ("dc2", second)] {
            let gateway = Gateway::start(replgate, &stage.folder.0, site, &text, interrupt)?;
            stage.gateways.push(gateway);
        }
        Ok(stage)
    }

    fn alpha(&self) -> &Redis {
        &self.redis[0]
    }

    fn replicas(&self) -> &[Redis] {
        &self.redis[1..3]
    }

    fn eventually(&self, condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
        eventually(&self.interrupt, condition)
    }

    /// Waits until all of `replicas` have alpha's stream up to `offset`.
    fn wait_caught_up(&self, replicas: &[&Redis], offset: u64) -> anyhow::Result<()> {
        let caught_up = self.eventually(|| {
            let mut all = true;
            for replica in replicas {
                all &= replica.info("master_link_status")? == "up"
                    && replica.number("replication", "slave_repl_offset")? >= offset;
            }
            Ok(all)
        })?;
        if !caught_up {
            bail!("the replicas have not caught up within {} s", STEP.as_secs());
        }
        Ok(())
    }

    /// Sends REPLICAOF to both replicas, writes to alpha, and reads from both.
    fn replicate(&self, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        for key in 0..1000 {
            self.alpha().ask(&["SET", &format!("before:{key}"), &format!("value {key}")])?;
        }
        for replica in self.replicas() {
            step(&format!(
                "{}: REPLICAOF 127.0.0.1 {} (the gateway of its own site)",
                replica.name, self.entry
            ));
            replica.ask(&["REPLICAOF", "127.0.0.1", &self.entry.to_string()])?;
        }
        let online = self.eventually(|| {
            let mut all = true;
            for replica in self.replicas() {
                all &= replica.info("master_link_status")? == "up";
            }
            Ok(all)
        })?;
        rows.push(Row {
            what: "both replicas are in sync with their master",
            good: online,
            seen: self
                .replicas()
                .iter()
                .map(|replica| {
                    format!("{}: {}", replica.name, replica.info("master_link_status").unwrap_or_default())
                })
                .collect::<Vec<_>>()
                .join(", "),
        });
        step("alpha: SET greeting, and 1000 INCRs");
        self.alpha().ask(&["SET", "greeting", "hello from dc1"])?;
        for _ in 0..1000 {
            self.alpha().ask(&["INCR", "counter"])?;
        }
        let arrived = self.eventually(|| {
            let mut all = true;
            for replica in self.replicas() {
                all &= replica.ask(&["GET", "counter"])? == "1000";
            }
            Ok(all)
        })?;
        let mut seen = String::new();
        for replica in self.replicas() {
            let (greeting, counter) = (replica.ask(&["GET", "greeting"])?, replica.ask(&["GET", "counter"])?);
            crate::outln::outln!(
                "    {}: GET greeting -> {greeting:?}, GET counter -> {counter}",
                replica.name
            );
            let _ = write!(seen, "{}{}: {counter}", if seen.is_empty() { "" } else { ", " }, replica.name);
        }
        rows.push(Row { what: "writes on alpha are read on bravo and charli", good: arrived, seen });
        let sizes: Vec<String> =
            self.redis.iter().map(|redis| redis.ask(&["DBSIZE"])).collect::<Result<_, _>>()?;
        rows.push(Row {
            what: "all three hold the same number of keys",
            good: sizes.iter().all(|size| *size == sizes[0] && size != "0"),
            seen: sizes.join(", "),
        });
        Ok(())
    }

    /// Shows `INFO replication`.
    fn show_info(&self, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        let listed = || -> anyhow::Result<[String; 2]> {
            Ok([self.alpha().info("slave0")?, self.alpha().info("slave1")?])
        };
        let good = self.eventually(|| {
            Ok(listed()?
                .iter()
                .all(|replica| replica.contains("ip=dc2,") && replica.contains("state=online")))
        })?;
        let shown = [
            "role",
            "connected_slaves",
            "slave0",
            "slave1",
            "master_host",
            "master_port",
            "master_link_status",
            "slave_read_only",
            "master_repl_offset",
        ];
        for redis in &self.redis {
            step(&format!("{}: INFO replication", redis.name));
            let info = redis.ask(&["INFO", "replication"]).unwrap_or_default();
            for line in
                info.lines().filter(|line| line.split_once(':').is_some_and(|(key, _)| shown.contains(&key)))
            {
                crate::outln::outln!("    {line}");
            }
        }
        let seen = listed()?
            .iter()
            .map(|replica| replica.split(",offset").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
            .join("  ");
        rows.push(Row { what: "alpha lists two replicas, online, at site dc2", good, seen });
        let read_only = self.replicas().iter().all(|replica| {
            replica.ask(&["SET", "x", "y"]).is_err_and(|error| format!("{error:#}").contains("READONLY"))
        });
        rows.push(Row {
            what: "a write on a replica is refused (read-only)",
            good: read_only,
            seen: if read_only { "READONLY" } else { "accepted" }.to_owned(),
        });
        Ok(())
    }

    /// Shows what the gateway at dc2 knows of both replicas, and what alpha says.
    fn show_status(&self, replgate: &std::path::Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        step("the gateway at dc2: replgate status");
        let ask = |more: &[&str]| {
            let config = self.folder.0.join("dc2.toml");
            let output = Command::new(replgate).args(["status", "-c"]).arg(config).args(more).output();
            let output = output.with_context(|| format!("start {}", replgate.display()))?;
            anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let mut offsets = Vec::new();
        let good = self.eventually(|| {
            let offset = self.alpha().info("master_repl_offset")?;
            let status: serde_json::Value = serde_json::from_str(&ask(&["--json"])?)?;
            let links = status["links"].as_array().cloned().unwrap_or_default();
            offsets =
                links.iter().map(|link| link["replication"]["acknowledged_offset"].to_string()).collect();
            let same = |link: &serde_json::Value| {
                let replication = &link["replication"];
                let both = ["master_offset", "acknowledged_offset"].map(|key| replication[key].to_string());
                replication["stage"] == "streaming" && both.iter().all(|seen| *seen == offset)
            };
            Ok(links.iter().filter(|link| same(link)).count() == 2)
        })?;
        // The events that come last are those of this demo.
        let text = ask(&[])?;
        let lines = text.lines().take_while(|line| !line.starts_with("lately"));
        lines.filter(|line| !line.is_empty()).for_each(|line| crate::outln::outln!("    {line}"));
        rows.push(Row {
            what: "the gateway knows both, at alpha's own offset",
            good,
            seen: format!("acknowledged {}", offsets.join(", ")),
        });
        Ok(())
    }

    /// Checks that the marker is not visible on the tunnel, and that it is visible without the
    /// tunnel: so the check is able to fail.
    fn prove_ciphertext(&self, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        step(&format!("alpha: SET secret {MARKER}"));
        self.alpha().ask(&["SET", "secret", MARKER])?;
        let arrived = self.eventually(|| Ok(self.replicas()[0].ask(&["GET", "secret"])? == MARKER))?;
        let (bytes, found) = (self.wire.size(), self.wire.holds(MARKER));
        crate::outln::outln!(
            "    {bytes} bytes crossed between the gateways; the value is {} among them",
            if found { "FOUND" } else { "not" }
        );
        rows.push(Row {
            what: "the wire between the sites is ciphertext",
            good: arrived && bytes > 0 && !found,
            seen: format!("{bytes} bytes, value {}", if found { "found" } else { "not found" }),
        });
        step("the same without the tunnel: a fourth Redis replicates from alpha over a bare relay");
        let bare = Path::to(self.alpha().port)?;
        let delta = Redis::start(&self.folder.0, "delta")?;
        delta.ask(&["REPLICAOF", "127.0.0.1", &bare.port.to_string()])?;
        self.eventually(|| Ok(delta.info("master_link_status")? == "up"))?;
        let marker = format!("{MARKER}, again");
        self.alpha().ask(&["SET", "secret", &marker])?;
        self.eventually(|| Ok(delta.ask(&["GET", "secret"])? == marker))?;
        let (bytes, found) = (bare.size(), bare.holds(MARKER));
        crate::outln::outln!(
            "    {bytes} bytes crossed the bare relay; the value is {} among them",
            if found { "found" } else { "NOT" }
        );
        rows.push(Row {
            what: "the same check finds it where the tunnel is bypassed",
            good: found,
            seen: format!("{bytes} bytes, value {}", if found { "found" } else { "not found" }),
        });
        Ok(())
    }

    /// Sends FLUSHALL to alpha through the gateway of dc2, and so with dc2's own certificate.
    fn refuse_flush(&self, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        step("FLUSHALL to alpha, sent with dc2's own certificate");
        let before = self.alpha().ask(&["DBSIZE"])?;
        let answer = redis::ask_at(self.entry, &["FLUSHALL"])
            .map_or_else(|error| error.to_string(), |answer| format!("accepted: {answer}"));
        let after = self.alpha().ask(&["DBSIZE"])?;
        crate::outln::outln!("    {answer}");
        crate::outln::outln!("    alpha: DBSIZE -> {after}");
        let good = answer.contains("refused") && before == after && before != "0";
        rows.push(Row {
            what: "FLUSHALL from the replica site is refused, data intact",
            good,
            seen: format!("{before} keys before, {after} after"),
        });
        Ok(())
    }

    /// Prints commands to try, and waits until interrupted.
    fn keep(&self, replgate: &std::path::Path) {
        let folder = self.folder.0.display();
        crate::outln::outln!("\nleft up; try in another terminal:");
        for redis in &self.redis {
            crate::outln::outln!("  redis-cli -p {:<5}                      # {}", redis.port, redis.name);
        }
        crate::outln::outln!("  redis-cli -p {} INFO replication", self.alpha().port);
        for site in ["dc1", "dc2"] {
            crate::outln::outln!("  {} status -c {folder}/{site}.toml", replgate.display());
        }
        crate::outln::outln!("  {} check -c {folder}/dc2.toml", replgate.display());
        for (address, what) in page::addresses(self) {
            crate::outln::outln!("  {address:<38} # {what}");
        }
        crate::outln::outln!("  tail -f {folder}/dc1.log {folder}/dc2.log");
        crate::outln::outln!(
            "  redis-cli -p {} CONFIG GET '*'           # through the tunnel: refused",
            self.entry
        );
        crate::outln::outln!("Ctrl-C stops and removes everything");
        while !self.interrupt.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
        crate::outln::outln!("");
    }
}

/// Polls `condition` for up to [`STEP`]. Returns whether it came true.
fn eventually(
    interrupt: &Interrupt,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let deadline = Instant::now() + STEP;
    while Instant::now() < deadline {
        if interrupt.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if condition()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(false)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
