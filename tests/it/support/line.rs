//! A master, its replica at another site, and everything between them.

use std::time::{Duration, Instant};

use super::gateway::{Gateway, Lab, master_config, replica_config};
use super::path::Path;
use super::redis::{Redis, Version};
use super::writer::Writer;
use super::{SOON, eventually, free_port};

/// The replica bravo and the master alpha. Between them are the gateway of dc2, a path that a
/// test can break, and the gateway of dc1.
pub struct Line {
    pub bravo: Redis,
    pub second: Gateway,
    pub path: Path,
    pub first: Gateway,
    pub alpha: Redis,
    /// The port on which dc2 listens for replicas.
    pub entry: u16,
    /// The port on which dc1 listens for other sites, without the path.
    pub wan: u16,
    /// The last field, so that the logs still exist when the others are dropped.
    pub lab: Lab,
}

/// What does not change when a link survives a break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub sync_full: i64,
    pub sync_partial_ok: i64,
    /// The links' numbers at both gateways.
    pub links: [Vec<u64>; 2],
}

impl Line {
    /// Starts both gateways with these additional lines in their configs, and waits until the
    /// replica is in sync. The backlog is too small for a partial resync after a break.
    pub fn new(config: &str) -> Self {
        let line = Self::apart(Version::System, config, config);
        line.follow();
        line.bravo.wait_equal(&line.alpha);
        line
    }

    /// Starts the same with this version of Redis and additional lines for each gateway. The
    /// replica does not follow the master yet.
    pub fn apart(version: Version, first: &str, second: &str) -> Self {
        let lab = Lab::new();
        let alpha = Redis::start(version, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
        let bravo = Redis::start(version, lab.path(), "bravo", &[]);
        Self::between(lab, alpha, bravo, first, second)
    }

    /// Starts both gateways between these two, with these additional lines in their configs.
    pub fn between(lab: Lab, alpha: Redis, bravo: Redis, first: &str, second: &str) -> Self {
        let (wan, entry) = (free_port(), free_port());
        let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], first));
        let path = Path::to(wan);
        let second = lab.gateway("dc2", &replica_config("dc2", entry, path.port, second));
        Self { bravo, second, path, first, alpha, entry, wan, lab }
    }

    pub fn follow(&self) {
        self.bravo.replicaof(self.entry);
    }

    pub fn gateways(&self) -> [&Gateway; 2] {
        [&self.first, &self.second]
    }

    pub fn standing(&self) -> Standing {
        Standing {
            sync_full: self.alpha.sync_full(),
            sync_partial_ok: self.alpha.sync_partial_ok(),
            links: self.gateways().map(|gateway| gateway.each("number")),
        }
    }

    /// Waits until the replica has what the master has written so far, and the next `more`
    /// bytes. Returns how long that took.
    #[track_caller]
    pub fn arrives(&self, more: i64, within: Duration) -> Duration {
        let (wanted, began) = (self.alpha.master_offset() + more, Instant::now());
        eventually("what was written arrives", within, || self.bravo.replica_offset() >= wanted);
        began.elapsed()
    }

    /// Ends the writes. Asserts that the replica has all of them, without a resync or a new link.
    #[track_caller]
    pub fn ends_as(&self, before: &Standing, writer: Writer) {
        assert!(writer.stop() > 0, "something was written");
        self.bravo.wait_equal(&self.alpha);
        assert_eq!(self.standing(), *before, "full syncs, partial resyncs and links are what they were");
    }

    /// Waits until a gateway shows its links as held.
    #[track_caller]
    pub fn wait_held(&self, gateway: &Gateway) {
        eventually("the link is held", SOON, || gateway.is_held());
        assert_eq!(gateway.count("lanes"), 0, "a held link has no lane");
    }
}
