//! Outages that fill memory.

use std::time::Duration;

use crate::load::{RATE, Soak, wait};
use crate::support::eventually;
use crate::support::writer::{Values, Writer};

/// How long a replica may take to catch up with what a full memory held.
const DRAINED: Duration = Duration::from_secs(60);

/// What a gateway may hold beyond what it held before an outage, soon after it.
const NEAR: u64 = 64 << 20;

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "takes minutes; make soak"]
fn an_outage_of_nearly_hold_under_a_fast_load_causes_no_resync() {
    const FAST: u64 = 20_000_000;
    let config = "[limits]\nmemory = \"2GiB\"\n"; // A link alone may hold half of it.
    let mut soak = Soak::with(config, config, FAST, Values::Random).may_take(DRAINED);
    let outage = soak.survives("44 s at 20 MB/s", |line| {
        line.path.refuse(true);
        line.path.cut();
        wait(44.0);
        assert_eq!(line.alpha.listed().0, 1, "the master does not notice");
        line.path.refuse(false);
    });
    soak.ends("44 s away at 20 MB/s", &[outage]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn memory_of_a_large_window_is_given_back_within_ten_seconds_of_an_outage() {
    let config = "[limits]\nmemory = \"4GiB\"\n[link]\nwindow = \"1GiB\"\n";
    let mut soak = Soak::with(config, config, RATE, Values::Random).may_take(DRAINED);
    let before = soak.line.gateways().map(|gateway| gateway.memory());
    let mut used = 0;
    let outage = soak.survives("an outage that uses 1 GiB", |line| {
        line.path.refuse(true);
        line.path.cut();
        let more = Writer::on(&line.alpha, 45_000_000);
        // The link is held for 45 s.
        eventually("a window is full", Duration::from_secs(42), || {
            used = line.first.status()["memory_used"].as_u64().unwrap_or(0);
            used > 1024 * MIB
        });
        more.stop();
        line.path.refuse(false);
    });
    let mut after = [0; 2];
    eventually("memory is given back", Duration::from_secs(10), || {
        after = soak.line.gateways().map(|gateway| gateway.memory());
        (0..2).all(|at| after[at] < before[at] + NEAR)
    });
    let [first, second] = [0, 1].map(|at| format!("{} -> {} MiB", before[at] / MIB, after[at] / MIB));
    let what = format!("{} MiB used in an outage, resident dc1 {first}, dc2 {second}", used / MIB);
    soak.ends(&what, &[outage]);
}
