//! Replicas that are stopped for a while.

use std::time::Duration;

use crate::support::pause::pause;

#[test]
#[ignore = "takes minutes; make soak"]
fn a_replica_paused_for_a_minute_as_for_a_backup_harms_nobody() {
    use std::io::Write;
    let slowest = pause(Duration::from_secs(60));
    let _ = writeln!(
        std::io::stderr(),
        "one of two replicas paused for 60 s: sync_full 2, one for each; a write took at most {:.2} s to the other",
        slowest.as_secs_f64()
    );
}
