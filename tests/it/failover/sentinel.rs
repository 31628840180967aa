//! Three Sentinels say who is the master.

use super::{Layout, Sentinel, Sites, Writer, first_byte, told};
use crate::support::redis::{ALL, Version};
use crate::support::{SOON, eventually};

const WATCHED: Layout<'_> =
    Layout { sentinels: true, false_sentinels: &[], more_candidates: &[], networks: None };

#[test]
fn a_planned_failover_by_sentinel_costs_no_full_sync_in_any_version() {
    for version in ALL {
        let sites = Sites::new(version, WATCHED);
        let (alpha, alpha2) = (&sites.alpha, &sites.alpha2);
        let writer = Writer::by(&sites.sentinels);
        eventually("the load arrives", SOON, || sites.bravo.info_number("master_repl_offset") > 1_000_000);
        let full = alpha.sync_full();
        let (switch, byte) = (sites.sentinels[0].switch(), first_byte(&sites.bravo, alpha2));
        // Nothing is written from here on, and Redis' own pings would be bytes too.
        alpha.ask(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
        alpha.ask(&["CLIENT", "PAUSE", "20000", "WRITE"]);
        eventually("alpha2 has all", SOON, || alpha2.replica_offset() == alpha.master_offset());
        sites.sentinels[1].fail_over();
        let switched = switch.join().expect("Sentinel tells of the switch");
        let byte = byte.join().expect("it arrives");
        told(&format!("a planned failover by Sentinel, {version:?}"), switched, byte);
        // Otherwise it would carry out now what was written to it meanwhile.
        alpha.replicaof(alpha2.port);
        alpha.ask(&["CLIENT", "UNPAUSE"]);
        writer.stop();
        sites.settle(alpha2, &[alpha, &sites.bravo, &sites.charli], "sentinel");
        assert_eq!((alpha.sync_full(), alpha2.sync_full()), (full, 0), "{version:?}");
        sites.second.wait_far_end("NoMaster");
    }
}
