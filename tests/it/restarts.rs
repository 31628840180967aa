//! Gateways at the replica's site that are killed or restarted under load: the master's gateway
//! continues its replica from memory.

use std::time::Duration;

use crate::support::gateway::Gateway;
use crate::support::line::Line;
use crate::support::redis::{ALL, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually};

/// Settings with which breaks are detected soon and survived for some time.
const LINK: &str = "[link]\nheartbeat = \"100ms\"\ndead_after = \"500ms\"\nhold = \"20s\"\n";

/// Bytes a second that are written meanwhile. Half a second of them fills the backlog.
const RATE: u64 = 2 << 20;

/// What the master's gateway logs when a replica continues from memory.
const FROM_MEMORY: &str = "bytes from memory";

/// A gateway is killed.
fn kill(gateway: &mut Gateway) {
    gateway.kill();
}

/// A gateway is stopped in an orderly way.
fn stop(gateway: &mut Gateway) {
    assert_eq!(gateway.stop(), Some(0));
}

/// A line whose replica is in sync and has acknowledged something.
fn in_sync(version: Version, config: &str) -> Line {
    let line = Line::apart(version, config, config);
    line.follow();
    line.bravo.wait_equal(&line.alpha);
    eventually("the replica acknowledges", SOON, || {
        let listed = line.alpha.info("slave0");
        listed.contains("state=online") && !listed.contains("offset=0,")
    });
    line
}

/// Waits until the master alone could not continue its replica any more.
fn outgrow_the_backlog(line: &Line) {
    let had = line.bravo.info_number("slave_repl_offset");
    eventually("the backlog has begun anew", SOON, || {
        line.alpha.info_number("repl_backlog_first_byte_offset") > had + 200_000
    });
}

/// The replica's gateway goes and comes again, more than once.
#[track_caller]
fn continues(version: Version, config: &str, go: fn(&mut Gateway)) {
    let mut line = in_sync(version, config);
    let (full, writer) = (line.alpha.sync_full(), Writer::on(&line.alpha, RATE));
    for round in 1..=2 {
        // What the replica has not acknowledged is under way, too.
        line.arrives(500_000, SOON);
        let Line { alpha, bravo, second, .. } = &mut line;
        let alpha = &*alpha;
        go(second);
        alpha.lists_never_more_than(1, || {
            eventually("the replica notices", SOON, || bravo.info("master_link_status") == "down");
            let had = bravo.replica_offset();
            eventually("the backlog has begun anew", SOON, || {
                alpha.info_number("repl_backlog_first_byte_offset") > had + 200_000
            });
            second.start_again();
            eventually("the replica is back", SOON, || bravo.info("master_link_status") == "up");
            eventually("it has caught up", SOON, || bravo.replica_offset() > alpha.master_offset() - 100_000);
        });
        assert_eq!(line.first.lines("INFO", FROM_MEMORY), round, "{version:?}: {}", line.first.log());
    }
    assert!(writer.stop() > 0);
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.sync_partial_ok()), (full, 2), "{version:?}");
    assert_eq!(line.alpha.listed(), (1, 1));
}

#[test]
fn a_gateway_that_is_killed_and_started_again_costs_its_replica_no_resync() {
    for version in ALL {
        continues(version, LINK, kill);
    }
}

#[test]
fn a_gateway_that_is_stopped_and_started_again_costs_its_replica_no_resync() {
    for version in ALL {
        continues(version, LINK, stop);
    }
}

#[test]
fn several_lanes_lose_nothing_either_when_their_gateway_is_restarted() {
    for go in [kill, stop] {
        continues(Version::System, &format!("{LINK}lanes = 3\n"), go);
    }
}

/// Checks that the replica is in sync again and that its request was the master's to judge.
#[track_caller]
fn passed_as_it_came(line: &Line, writer: Option<Writer>) {
    eventually("the replica is back", SOON, || line.bravo.info("master_link_status") == "up");
    if let Some(writer) = writer {
        writer.stop();
    }
    line.bravo.wait_equal(&line.alpha);
    assert_eq!(line.first.lines("INFO", FROM_MEMORY), 0);
    assert_eq!(line.alpha.listed(), (1, 1));
}

#[test]
fn a_replica_that_had_another_history_meanwhile_is_not_continued_from_memory() {
    let mut line = in_sync(Version::System, LINK);
    let (full, writer) = (line.alpha.sync_full(), Writer::on(&line.alpha, RATE));
    line.arrives(500_000, SOON);
    line.second.kill();
    line.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    line.bravo.ask(&["SET", "own", "history"]);
    outgrow_the_backlog(&line);
    line.follow();
    line.second.start_again();
    line.first.wait_end("returned");
    passed_as_it_came(&line, Some(writer));
    assert_eq!(line.alpha.sync_full(), full + 1);
}

#[test]
fn a_replica_that_has_lost_what_it_acknowledged_is_not_continued_from_memory() {
    let mut line = in_sync(Version::System, LINK);
    let (full, writer) = (line.alpha.sync_full(), Writer::on(&line.alpha, RATE));
    line.bravo.ask(&["SAVE"]);
    line.bravo.ask(&["CONFIG", "SET", "save", ""]);
    line.arrives(4_000_000, SOON);
    line.second.kill();
    line.bravo.kill();
    line.bravo.start_again();
    line.follow();
    line.second.start_again();
    line.first.wait_end("returned");
    passed_as_it_came(&line, Some(writer));
    assert_eq!(line.alpha.sync_full(), full + 1);
}

#[test]
fn a_master_that_was_restarted_meanwhile_judges_its_replica_itself() {
    let mut line = in_sync(Version::System, LINK);
    let writer = Writer::on(&line.alpha, RATE);
    line.arrives(500_000, SOON);
    line.second.kill();
    writer.stop();
    line.alpha.restart(SOON);
    line.alpha.ask(&["SET", "after", "the restart"]);
    line.second.start_again();
    passed_as_it_came(&line, None);
}

#[test]
fn a_compressed_stream_is_not_continued_from_memory() {
    let mut line = in_sync(Version::System, &format!("{LINK}compression = \"zstd\"\n"));
    let (full, writer) = (line.alpha.sync_full(), Writer::on(&line.alpha, RATE));
    line.arrives(500_000, SOON);
    line.second.kill();
    outgrow_the_backlog(&line);
    line.second.start_again();
    passed_as_it_came(&line, Some(writer));
    assert_eq!(line.alpha.sync_full(), full + 1);
}

#[test]
fn a_site_without_room_for_another_link_costs_its_replica_no_resync_either() {
    for go in [kill, stop] {
        continues(Version::System, &format!("{LINK}[limits]\nlinks_per_site = 1\n"), go);
    }
}

#[test]
fn the_master_is_read_on_while_its_replica_gets_what_it_lacks() {
    let mut line = in_sync(Version::System, LINK);
    let (full, partial) = (line.alpha.sync_full(), line.alpha.sync_partial_ok());
    // The master drops a replica that has not read so much of its stream.
    line.alpha.ask(&["CONFIG", "SET", "client-output-buffer-limit", "replica 6mb 0 0"]);
    let writer = Writer::on(&line.alpha, 6 << 20);
    line.second.kill();
    eventually("much is taken in", SOON, || line.first.count("buffered_bytes") > 40 << 20);
    // Slower than the writes: what the replica lacks takes ten seconds.
    line.path.limit(Some(4 << 20));
    line.second.start_again();
    eventually("the replica is back", SOON, || line.bravo.info("master_link_status") == "up");
    assert_eq!(line.first.lines("INFO", FROM_MEMORY), 1, "{}", line.first.log());
    let (wrote, had) = (line.alpha.master_offset(), line.bravo.replica_offset());
    eventually("the master writes four times what its buffer holds", SOON, || {
        line.alpha.master_offset() > wrote + (24 << 20)
    });
    assert!(line.bravo.replica_offset() < had + (40 << 20), "the replica still lacks what was in memory");
    assert_eq!(line.alpha.listed(), (1, 1));
    line.path.limit(None);
    assert!(writer.stop() > 0);
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.sync_partial_ok()), (full, partial + 1));
    assert_eq!(line.alpha.listed(), (1, 1));
}

#[test]
fn links_that_wait_for_their_replicas_keep_no_replica_out() {
    for go in [kill, stop] {
        let mut line = Line::apart(Version::System, &format!("{LINK}[limits]\nlinks_per_site = 1\n"), LINK);
        line.follow();
        line.bravo.wait_equal(&line.alpha);
        go(&mut line.second);
        line.second.start_again();
        eventually("the replica is back", Duration::from_secs(9), || {
            line.bravo.info("master_link_status") == "up"
        });
        line.bravo.wait_equal(&line.alpha);
        assert_eq!(line.alpha.listed(), (1, 1));
    }
}

#[test]
fn a_replica_whose_gateway_stops_for_good_is_not_listed_for_long() {
    let mut line = in_sync(Version::System, LINK);
    line.second.stop();
    assert_eq!(line.alpha.listed().0, 1, "it may come again");
    eventually("the master lists none", Duration::from_secs(14), || line.alpha.listed().0 == 0);
    line.first.wait_end("far-stopping");
}
