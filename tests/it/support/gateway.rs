//! Gateways under test and the folder they share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::redis::{Redis, Version};
use super::{Process, REPLGATE, SOON, eventually, free_port, replgate_ok};

/// A folder with certificates for dc1, dc2 and dc3, of one CA.
pub struct Lab {
    pub dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("replgate-test-").tempdir().expect("a temporary folder");
        replgate_ok(dir.path(), &["certs", "init", "dc1", "dc2", "dc3"]);
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A Redis of the system's version, with its default settings.
    pub fn redis(&self, name: &str) -> Redis {
        Redis::start(Version::System, self.path(), name, &[])
    }

    /// Such a Redis as a replica of `master`, connected at `entry` and in sync.
    #[track_caller]
    pub fn replica(&self, name: &str, entry: u16, master: &Redis) -> Redis {
        let replica = self.redis(name);
        replica.replicaof(entry);
        replica.wait_equal(master);
        replica
    }

    /// The usual pair: dc1 offers the Redis on `master` as "orders" to dc2.
    pub fn pair(&self, master: u16) -> Pair {
        self.pair_with(master, "", "")
    }

    /// The usual pair with more lines in the `[[master]]` and the `[[replica]]`.
    pub fn pair_with(&self, master: u16, more_master: &str, more_replica: &str) -> Pair {
        let (wan, entry) = (free_port(), free_port());
        let first = self.gateway("dc1", &master_config("dc1", wan, &[("orders", master)], more_master));
        let second = self.gateway("dc2", &replica_config("dc2", entry, wan, more_replica));
        Pair { first, second, wan, entry }
    }

    /// Starts another gateway of a site, on a host of its own.
    pub fn another(&self, site: &str, node: &str, text: &str) -> Gateway {
        let config = self.path().join(format!("{site}-{node}.toml"));
        std::fs::write(&config, format!("node = \"{node}\"\n{text}")).expect("the test's folder is writable");
        let gateway = Gateway::start(&config, site);
        gateway.wait_ready();
        gateway
    }

    /// Writes `SITE.toml` and starts a gateway with it.
    pub fn gateway(&self, site: &str, text: &str) -> Gateway {
        let config = self.path().join(format!("{site}.toml"));
        std::fs::write(&config, text).expect("the test's folder is writable");
        // An earlier gateway's log would say that this one is up.
        let _ = std::fs::remove_file(config.with_extension("log"));
        let gateway = Gateway::start(&config, site);
        gateway.wait_ready();
        gateway
    }
}

/// The replica bravo at dc2 follows the master alpha at dc1 through the usual pair, and is in
/// sync. The lab is the first field: bindings in this order are dropped so that it goes last, while
/// the others still print their logs.
pub struct Followed {
    pub lab: Lab,
    pub alpha: Redis,
    pub pair: Pair,
    pub bravo: Redis,
}

impl Followed {
    #[track_caller]
    pub fn new() -> Self {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        let pair = lab.pair(alpha.port);
        let bravo = lab.replica("bravo", pair.entry, &alpha);
        Self { lab, alpha, pair, bravo }
    }
}

/// The `[tls]` lines of a site of the lab.
pub fn tls(site: &str) -> String {
    tls_in(site, &format!("certs/{site}"))
}

/// The head of a config whose TLS files lie in `folder`.
pub fn tls_in(site: &str, folder: &str) -> String {
    format!(
        "site = \"{site}\"\n[tls]\nca = \"{folder}/ca.crt\"\ncert = \"{folder}/tls.crt\"\nkey = \"{folder}/tls.key\"\ncrl = \"{folder}/crl.pem\"\n"
    )
}

pub fn master_config(site: &str, wan: u16, masters: &[(&str, u16)], more: &str) -> String {
    let mut text = format!("{}[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n", tls(site));
    for (name, port) in masters {
        text += &format!(
            "[[master]]\nname = \"{name}\"\nredis = \"127.0.0.1:{port}\"\nallow = [\"dc2\"]\n{more}\n"
        );
    }
    text
}

/// The lines of an `[admin]` at this port, for the end of a config.
pub fn admin(port: u16) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n")
}

pub fn replica_config(site: &str, entry: u16, wan: u16, more: &str) -> String {
    format!("{}{}", tls(site), replica_block("orders", entry, wan, more))
}

pub fn replica_block(name: &str, entry: u16, wan: u16, more: &str) -> String {
    format!(
        "[[replica]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"dc1\"\npeers = [\"127.0.0.1:{wan}\"]\n{more}\n"
    )
}

/// The gateways of both sites.
pub struct Pair {
    pub first: Gateway,
    pub second: Gateway,
    /// The port on which dc1 listens for other sites.
    pub wan: u16,
    /// The port on which dc2 listens for replicas.
    pub entry: u16,
}

pub struct Gateway {
    pub process: Process,
    pub config: PathBuf,
    site: String,
}

impl Gateway {
    pub fn start(config: &Path, site: &str) -> Self {
        Self { process: Self::spawn(config, site), config: config.to_owned(), site: site.to_owned() }
    }

    fn spawn(config: &Path, site: &str) -> Process {
        let mut command = Command::new(REPLGATE);
        command.args(["run", "--log-level", "debug", "-c"]).arg(config).env("NO_COLOR", "1");
        Process::start(&format!("gateway {site}"), config.with_extension("log"), &mut command)
    }

    pub fn start_by(config: &Path, site: &str, command: &mut Command) -> Self {
        let process = Process::start(&format!("gateway {site}"), config.with_extension("log"), command);
        Self { process, config: config.to_owned(), site: site.to_owned() }
    }

    pub fn wait_ready(&self) {
        eventually(&format!("gateway {} is up", self.site), SOON, || self.log().contains("gateway up"));
    }

    pub fn log(&self) -> String {
        self.process.log_text()
    }

    #[track_caller]
    pub fn wait_log(&self, words: &str) {
        eventually(&format!("gateway {} logs {words:?}", self.site), SOON, || self.log().contains(words));
    }

    /// Waits for a line with this event and all of these fields, each as `name="value"`.
    #[track_caller]
    pub fn wait_event(&self, event: &str, fields: &[&str]) {
        let what = format!("gateway {} logs {event:?} with {fields:?}", self.site);
        eventually(&what, SOON, || {
            let log = self.log();
            let fits = |line: &&str| line.contains(event) && fields.iter().all(|field| has(line, field));
            log.lines().any(|line| fits(&line))
        });
    }

    /// Waits until a link has ended with this code.
    #[track_caller]
    pub fn wait_end(&self, code: &str) {
        self.wait_event("link down", &[&format!("end=\"{code}\"")]);
    }

    /// Waits until the far side has ended a link for this reason.
    #[track_caller]
    pub fn wait_far_end(&self, reason: &str) {
        self.wait_event("link down", &[&format!("reason=\"{reason}\"")]);
    }

    /// Waits for a line of this kind.
    #[track_caller]
    pub fn wait_kind(&self, code: &str) {
        self.wait_event("", &[&format!("kind=\"{code}\"")]);
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.process.child.kill().expect("the gateway runs");
        let _ = self.process.child.wait();
    }

    pub fn start_again(&mut self) {
        let ups = self.log().matches("gateway up").count();
        self.process = Self::spawn(&self.config, &self.site);
        eventually("the gateway is up again", SOON, || self.log().matches("gateway up").count() > ups);
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.child.id()))
            .expect("the gateway runs");
        statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    }

    /// Number of open files, including sockets.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process.child.id());
        std::fs::read_dir(folder).expect("the gateway runs").count()
    }

    /// Number of log lines at this level that contain these words.
    pub fn lines(&self, level: &str, words: &str) -> usize {
        let (level, log) = (format!(" {level} "), self.log());
        log.lines().filter(|line| line.contains(&level) && line.contains(words)).count()
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.signal("TERM");
        self.process.exit_code(Duration::from_secs(12))
    }

    pub fn status(&self) -> serde_json::Value {
        let config = self.config.to_string_lossy().into_owned();
        let text = replgate_ok(Path::new("/"), &["status", "--json", "-c", &config]);
        serde_json::from_str(&text).expect("status prints JSON")
    }

    pub fn links(&self) -> usize {
        self.live().len()
    }

    /// Every live link, as `status` shows it.
    fn live(&self) -> Vec<serde_json::Value> {
        self.status()["links"].as_array().cloned().unwrap_or_default()
    }

    /// A numeric field of every live link, the older links first.
    #[track_caller]
    pub fn each(&self, field: &str) -> Vec<u64> {
        let number = |link: &serde_json::Value| link[field].as_u64();
        let links = self.live();
        links
            .iter()
            .map(|link| number(link).unwrap_or_else(|| panic!("status has no {field}: {link}")))
            .collect()
    }

    /// A numeric field, summed up over the live links.
    #[track_caller]
    pub fn count(&self, field: &str) -> u64 {
        self.each(field).iter().sum()
    }

    /// Whether there are live links and all of them are held.
    pub fn is_held(&self) -> bool {
        let links = self.live();
        !links.is_empty() && links.iter().all(|link| link["state"] == "held")
    }
}

impl Drop for Gateway {
    /// A gateway never panics, whatever a test does to it.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(!self.log().contains("panicked"), "gateway {}: {}", self.site, self.log());
        }
    }
}

/// Whether a line has this field. Quotes in text from outside are escaped, so that it cannot be
/// mistaken for a field.
fn has(line: &str, field: &str) -> bool {
    line.split(' ').any(|word| word == field)
}
