//! A replica that is stopped for a while, as for a backup.

use std::time::{Duration, Instant};

use super::census::Census;
use super::eventually;
use super::gateway::Lab;
use super::redis::{Redis, Version};
use super::writer::Writer;

/// Stops one of two replicas under a steady load. The other one gets every write meanwhile.
/// Afterwards both are in sync without another full sync. Returns how long a write took at most to get
/// to the other.
#[track_caller]
pub fn pause(during: Duration) -> Duration {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "64mb"]);
    let census = Census::of(&alpha, 2);
    alpha.fill();
    let pair = lab.pair(alpha.port);
    let bravo = lab.redis("bravo");
    let charli = lab.redis("charli");
    bravo.replicaof(pair.entry);
    charli.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    charli.wait_equal(&alpha);
    let writer = Writer::on(&alpha, 1 << 20);
    bravo.process.signal("STOP");
    let (paused, mut slowest) = (Instant::now(), Duration::ZERO);
    while paused.elapsed() < during {
        // The other replica must not be affected.
        alpha.ask(&["SET", "probe", &format!("{:?}", paused.elapsed())]);
        let (wanted, written) = (alpha.ask(&["GET", "probe"]), Instant::now());
        eventually("the other replica gets a write", Duration::from_secs(5), || {
            charli.ask(&["GET", "probe"]) == wanted
        });
        slowest = slowest.max(written.elapsed());
    }
    bravo.process.signal("CONT");
    writer.stop();
    bravo.wait_equal(&alpha);
    charli.wait_equal(&alpha);
    assert_eq!(alpha.info_number("sync_full"), 2, "no full sync but the first two");
    census.end();
    slowest
}
