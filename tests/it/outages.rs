//! Outages of the path under more writes than the window holds: memory takes them, as far as its
//! limit allows, and is free again afterwards.

use std::path::Path;
use std::time::Duration;

use crate::support::line::Line;
use crate::support::redis::Version;
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, replgate};

/// Bytes a second that are written meanwhile.
const RATE: u64 = 8_000_000;

/// How long what was written may take to arrive once the path works again.
const DRAINED: Duration = Duration::from_secs(40);

/// What a gateway may take beyond `[limits] memory`: its pool of free buffers, TLS, and what lanes
/// and Redis' socket are being given.
const BESIDE: u64 = 24 << 20;

const MIB: u64 = 1 << 20;

/// A line in sync whose window holds an eighth of a second of the writes.
fn line(memory: &str) -> Line {
    let config = format!(
        "[limits]\nmemory = \"{memory}\"\n[link]\nheartbeat = \"100ms\"\ndead_after = \"500ms\"\nhold = \"20s\"\nwindow = \"1MiB\"\n"
    );
    let line = Line::apart(Version::System, &config, &config);
    line.follow();
    line.bravo.wait_equal(&line.alpha);
    line
}

/// The largest resident memory of both gateways so far, in bytes.
fn look(line: &Line, most: &mut [u64; 2]) {
    let now = line.gateways().map(|gateway| gateway.memory());
    *most = [most[0].max(now[0]), most[1].max(now[1])];
}

#[test]
fn an_outage_costs_no_resync_while_memory_lasts_however_small_the_window_is() {
    let line = line("160MiB");
    // Redis itself hardly covers a second.
    line.alpha.ask(&["CONFIG", "SET", "client-output-buffer-limit", "replica 8mb 0 0"]);
    let idle = line.gateways().map(|gateway| gateway.memory());
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    line.arrives(2_000_000, SOON);
    let mut most = idle;
    line.path.refuse(true);
    line.path.cut();
    line.wait_held(&line.first);
    eventually("memory takes what the master writes", Duration::from_secs(15), || {
        look(&line, &mut most);
        line.first.status()["memory_used"].as_u64() > Some(40 * MIB)
    });
    // What was taken in leaves at less than twice the rate of the writes, which are still read.
    line.path.limit(Some(15_000_000));
    line.path.refuse(false);
    let arrived = line.alpha.master_offset();
    eventually("what was taken in arrives", DRAINED, || {
        look(&line, &mut most);
        line.bravo.replica_offset() >= arrived
    });
    line.path.limit(None);
    line.arrives(0, DRAINED);
    line.ends_as(&before, writer);
    assert_eq!(line.alpha.listed(), (1, 1));
    assert!(line.first.count("resumed") >= 1);
    // A link alone may hold half of the memory.
    for at in [0, 1] {
        assert!(most[at] < idle[at] + 80 * MIB + BESIDE, "{} after {} of {}", most[at], idle[at], at);
    }
    eventually("memory is given back", Duration::from_secs(10), || {
        let now = line.gateways().map(|gateway| gateway.memory());
        (0..2).all(|at| now[at] < idle[at] + 12 * MIB)
    });
}

#[test]
fn an_outage_for_which_memory_is_too_short_is_announced_and_memory_is_bounded() {
    let line = line("32MiB");
    let idle = line.gateways().map(|gateway| gateway.memory());
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    line.first.wait_kind("uncovered");
    let config = line.first.config.to_string_lossy().into_owned();
    let words =
        ["orders: ", " MB/s, an outage of ", " s is covered, less than hold (20 s); raise [limits] memory"];
    let log = line.first.log();
    let told = |line: &str| line.contains("WARN") && words.iter().all(|words| line.contains(words));
    assert!(log.lines().any(told), "{log}");
    let (_, shown, _) = replgate(Path::new("/"), &["status", "-c", &config]);
    assert!(shown.starts_with("ok: 1 link, streaming; but memory is too small for an outage"), "{shown}");
    assert!(shown.contains("\n  orders to dc2 (link 1, replica dc2:"), "{shown}");
    let (_, checked, _) = replgate(Path::new("/"), &["check", "-c", &config]);
    let warns = |line: &str| line.starts_with("warn  master \"orders\": link 1 to dc2: ");
    assert!(checked.lines().any(|line| warns(line) && line.contains("s is covered, less")), "{checked}");
    let coverage = line.first.status()["links"][0]["coverage"].clone();
    let rate = coverage["bytes_per_second"].as_f64().expect("it is known");
    assert!((RATE as f64 * 0.6..RATE as f64 * 1.6).contains(&rate), "{coverage}");
    assert!(line.second.status()["links"][0]["coverage"].is_null(), "the replica's site holds no writes");
    let mut most = idle;
    line.path.refuse(true);
    line.path.cut();
    let written = line.alpha.master_offset() + 50_000_000;
    eventually("the master continues to write", SOON, || {
        look(&line, &mut most);
        line.alpha.master_offset() > written
    });
    assert!(line.first.status()["memory_used"].as_u64() <= Some(32 * MIB), "the limit");
    line.path.refuse(false);
    let arrived = line.alpha.master_offset();
    eventually("what was taken in arrives", DRAINED, || {
        look(&line, &mut most);
        line.bravo.replica_offset() >= arrived
    });
    line.ends_as(&before, writer);
    for at in [0, 1] {
        assert!(most[at] < idle[at] + 32 * MIB + BESIDE, "{} after {} of {}", most[at], idle[at], at);
    }
}
