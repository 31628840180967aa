//! Lanes over several providers, and spare ones: the loss of a path is hardly noticed.

use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, Lab, master_config, tls};
use crate::support::path::Path;
use crate::support::redis::{Redis, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port};

/// Bytes a second that are written meanwhile.
const RATE: u64 = 1 << 20;

/// A master and its replica, and several paths between their gateways, each a provider.
struct Providers {
    bravo: Redis,
    second: Gateway,
    paths: Vec<Path>,
    first: Gateway,
    alpha: Redis,
    /// The last field, so that the logs still exist when the others are dropped.
    _lab: Lab,
}

impl Providers {
    fn new(count: usize, link: &str) -> Self {
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
        bravo.replicaof(entry);
        bravo.wait_equal(&alpha);
        Self { bravo, second, paths, first, alpha, _lab: lab }
    }

    /// Number of lanes over each provider.
    fn lanes(&self) -> Vec<usize> {
        self.paths.iter().map(Path::connections).collect()
    }

    /// Longest time for which nothing arrived at the replica within `time`.
    fn longest_gap(&self, time: Duration) -> Duration {
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

    /// Asserts that nothing was lost and that there was neither a break nor a resync.
    #[track_caller]
    fn end(self, writer: Writer) {
        assert!(writer.stop() > 0);
        self.bravo.wait_equal(&self.alpha);
        assert_eq!((self.alpha.sync_full(), self.alpha.listed()), (1, (1, 1)));
        for gateway in [&self.first, &self.second] {
            assert_eq!((gateway.count("breaks"), gateway.links()), (0, 1));
        }
    }
}

#[test]
fn the_loss_of_one_of_two_providers_stops_the_stream_for_less_than_a_second() {
    for lanes in [2, 4] {
        let link = format!("[link]\nlanes = {lanes}\nhold = \"15s\"\n");
        let providers = Providers::new(2, &link);
        let writer = Writer::on(&providers.alpha, RATE);
        eventually("the lanes are spread evenly", SOON, || providers.lanes() == [lanes / 2, lanes / 2]);
        // Long enough to know the round trip of each lane.
        assert!(providers.longest_gap(Duration::from_secs(1)) < Duration::from_millis(900));
        providers.paths[0].silence(true);
        let gap = providers.longest_gap(Duration::from_secs(5));
        println!("{lanes} lanes: nothing arrived for {gap:?}");
        assert!(gap < Duration::from_secs(1), "{lanes} lanes: {gap:?}");
        eventually("the lanes are replaced", SOON, || providers.paths[1].connections() == lanes);
        providers.paths[0].silence(false);
        let again = Duration::from_secs(60);
        eventually("the balance is restored", again, || providers.lanes() == [lanes / 2, lanes / 2]);
        providers.end(writer);
    }
}

#[test]
fn a_spare_lane_carries_after_a_second_of_silence_and_there_is_no_break() {
    let providers = Providers::new(1, "[link]\ndead_after = \"9s\"\nheartbeat = \"500ms\"\nhold = \"15s\"\n");
    let writer = Writer::on(&providers.alpha, RATE);
    for round in 1..=3 {
        providers.paths[0].forget();
        let gap = providers.longest_gap(Duration::from_secs(4));
        println!("round {round}: nothing arrived for {gap:?}");
        assert!(gap < Duration::from_secs(3), "round {round}: {gap:?}");
        assert!(providers.second.count("redials") >= round);
    }
    eventually("the link has one lane", Duration::from_secs(20), || {
        providers.second.each("lanes") == [1] && providers.lanes() == [1]
    });
    providers.end(writer);
}
