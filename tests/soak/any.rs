//! Masters with `commands = "any"`: no link survives a break, and the replica asks again by itself.

use crate::load::RATE;
use crate::load::Soak;
use crate::results::Syncs;
use crate::support::line::Line;
use crate::support::redis::Redis;
use crate::support::writer::Values;
use crate::support::{SOON, eventually};

#[test]
#[ignore = "takes minutes; make soak"]
fn a_plain_tunnel_ends_with_its_path_as_ever() {
    let mut soak = Soak::with("commands = \"any\"\n", "", RATE, Values::Random);
    let mut syncs = soak.syncs();
    let deeds: [fn(&mut Line); 4] = [
        |line| line.path.cut(),
        |line| line.path.close(),
        |line| {
            line.second.kill();
            line.second.start_again();
        },
        |line| {
            line.first.kill();
            line.first.start_again();
        },
    ];
    let breaks = deeds.map(|deed| {
        let down = downs(&soak.line.bravo);
        let one = soak.through(|line| {
            deed(line);
            eventually("the replica notices", SOON, || downs(&line.bravo) > down);
            eventually("it is in sync again", SOON, || line.bravo.info("master_link_status") == "up");
        });
        // The master decides which kind, as without a tunnel: what is lost may be in the backlog.
        let now = Syncs::of(&soak.line.alpha);
        assert_eq!(now.full + now.partial, syncs.full + syncs.partial + 1, "{now:?} after {syncs:?}");
        syncs = now;
        one
    });
    for gateway in soak.line.gateways() {
        let log = gateway.log();
        assert!(!log.contains("link held") && !log.contains("link resumed"), "{log}");
        assert!(!log.contains("bytes from memory"), "{log}");
    }
    let what = "commands = \"any\": a reset, a close, dc2's and dc1's gateway killed";
    soak.ends_after_restarts(what, &breaks, "each ends the link");
}

/// How often a replica has lost its master.
fn downs(replica: &Redis) -> usize {
    replica.log().matches("Connection with master lost").count()
}
