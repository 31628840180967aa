//! Several paths between two gateways, each over a provider of its own.

use std::time::{Duration, Instant};

use super::census::Census;
use super::free_port;
use super::gateway::{Gateway, Lab, master_config, tls};
use super::path::Path;
use super::redis::{Redis, Version};
use super::writer::Writer;

/// A master and its replica, and several paths between their gateways, each a provider.
pub struct Providers {
    pub census: Census,
    pub bravo: Redis,
    pub second: Gateway,
    pub paths: Vec<Path>,
    pub first: Gateway,
    pub alpha: Redis,
    /// The last field, so that the logs still exist when the others are dropped.
    _lab: Lab,
}

impl Providers {
    pub fn new(count: usize, link: &str) -> Self {
        let lab = Lab::new();
        let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
        let bravo = Redis::start(Version::System, lab.path(), "bravo", &[]);
        let (wan, entry) = (free_port(), free_port());
        let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], link));
        let paths: Vec<Path> = (0..count).map(|_| Path::to(wan)).collect();
        let peers: Vec<String> = paths.iter().map(|path| format!("\"127.0.0.1:{}\"", path.port)).collect();
        let block = format!(
            "[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"dc1\"\npeers = [{}]\n{link}\n",
            peers.join(", ")
        );
        let second = lab.gateway("dc2", &(tls("dc2") + &block));
        let census = Census::of(&alpha, 1);
        bravo.replicaof(entry);
        bravo.wait_equal(&alpha);
        Self { census, bravo, second, paths, first, alpha, _lab: lab }
    }

    /// Number of lanes over each provider.
    pub fn lanes(&self) -> Vec<usize> {
        self.paths.iter().map(Path::connections).collect()
    }

    /// Longest time for which nothing arrived at the replica within `time`.
    pub fn longest_gap(&self, time: Duration) -> Duration {
        let began = Instant::now();
        let (mut offset, mut moved, mut longest) = (self.bravo.replica_offset(), began, Duration::ZERO);
        while began.elapsed() < time {
            let now = self.bravo.replica_offset();
            if now > offset {
                longest = longest.max(moved.elapsed());
                (offset, moved) = (now, Instant::now());
            }
        }
        longest.max(moved.elapsed())
    }

    /// Ends the writes. Asserts that nothing was lost and that there was neither a break nor a resync.
    #[track_caller]
    pub fn end(self, writer: Writer) {
        assert!(writer.stop() > 0);
        self.bravo.wait_equal(&self.alpha);
        assert_eq!((self.alpha.sync_full(), self.alpha.listed()), (1, (1, 1)));
        for gateway in [&self.first, &self.second] {
            assert_eq!((gateway.count("breaks"), gateway.links()), (0, 1));
        }
        self.census.end();
    }
}
