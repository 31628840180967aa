//! Paths that break in every way, and gateways that do not answer for a while.

use std::time::{Duration, Instant};

use crate::load::{Break, RATE, Soak, wait};
use crate::results::{Results, Syncs};
use crate::support::census::Census;
use crate::support::line::Line;
use crate::support::path::{Path, Towards};
use crate::support::redis::Version;
use crate::support::writer::{Values, Writer};
use crate::support::{SOON, eventually};

/// Resets the path every one to two seconds during `time`. Returns the longest break.
#[track_caller]
fn reset_for(soak: &mut Soak, time: Duration) -> Break {
    let (began, mut breaks, mut round) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < time {
        breaks.push(soak.through(|line| line.path.cut()));
        wait(1.0 + f64::from(round % 5) / 5.0);
        round += 1;
    }
    Break::longest(&breaks)
}

#[test]
#[ignore = "takes minutes; make soak"]
fn two_minutes_of_resets_cause_no_resync() {
    let mut soak = Soak::new("");
    let slowest = reset_for(&mut soak, Duration::from_secs(120));
    soak.ends("a reset every 1 to 2 s for 120 s", &[slowest]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_minute_of_resets_harms_no_compressed_link() {
    let config = "[link]\ncompression = \"zstd\"\n";
    let mut soak = Soak::with(config, config, RATE, Values::Json);
    let slowest = reset_for(&mut soak, Duration::from_secs(60));
    let (plain, carried) =
        (soak.line.first.count("to_replica_bytes"), soak.line.first.count("carried_bytes"));
    assert!(carried * 2 < plain, "{carried} of {plain} bytes");
    soak.ends("zstd, a reset every 1 to 2 s for 60 s", &[slowest]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_minute_of_a_path_that_is_up_every_other_second_causes_no_resync() {
    let mut soak = Soak::new("");
    let began = Instant::now();
    let written = soak.line.alpha.master_offset();
    let crossed = soak.line.path.crossed(Towards::Dialler);
    let flapping = soak.survives("a minute of it", |line| {
        while began.elapsed() < Duration::from_secs(60) {
            line.path.refuse(true);
            line.path.cut();
            wait(1.0);
            line.path.refuse(false);
            wait(1.0);
        }
    });
    let written = soak.line.alpha.master_offset() - written;
    let crossed = soak.line.path.crossed(Towards::Dialler) - crossed;
    let what = format!(
        "1 s down, 1 s up for 60 s, {:.1} MB written and {:.1} MB carried meanwhile",
        written as f64 / 1e6,
        crossed as f64 / 1e6
    );
    soak.ends(&what, &[flapping]);
}

/// The path breaks for these times, one after the other.
#[track_caller]
fn away_for(what: &str, breaks: fn(&Path), times: &[f64]) {
    let mut soak = Soak::new("");
    let survived: Vec<_> = times
        .iter()
        .map(|seconds| {
            soak.survives(&format!("{what} for {seconds} s"), |line| {
                line.path.refuse(true);
                breaks(&line.path);
                wait(*seconds);
                assert_eq!(line.alpha.listed().0, 1, "the master does not notice");
                line.path.refuse(false);
            })
        })
        .collect();
    soak.ends(&format!("{what}, away for {times:?} s"), &survived);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_relay_that_closes_in_good_order_may_be_away_for_thirty_seconds() {
    away_for("a relay closes in good order", Path::close, &[1.0, 2.2, 5.0, 15.0, 30.0]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_relay_that_is_killed_may_be_away_for_ten_seconds() {
    away_for("a relay is killed", Path::cut, &[3.0, 10.0]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_relay_whose_host_is_gone_may_be_away_for_ten_seconds() {
    away_for("a relay's host is gone", Path::forget, &[3.0, 10.0]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_forgotten_path_is_replaced_within_seconds() {
    let mut soak = Soak::new("");
    let breaks = [0, 1, 2].map(|_| soak.through(|line| line.path.forget()));
    assert!(breaks.iter().all(|one| one.caught_up < Duration::from_secs(10)), "{breaks:?}");
    soak.ends("the path forgets its connections, from then on", &breaks);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_survives_black_holes_of_up_to_forty_seconds() {
    let mut soak = Soak::new("");
    let breaks = [2.0, 8.0, 20.0, 40.0].map(|seconds| {
        soak.through(|line| {
            line.path.silence(true);
            wait(seconds);
            assert_eq!(line.alpha.listed().0, 1, "the master does not notice");
            line.path.silence(false);
        })
    });
    soak.ends("black holes of 2, 8, 20, 40 s", &breaks);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_waits_for_a_far_gateway_that_is_stopped_for_twenty_seconds() {
    let mut soak = Soak::new("");
    let breaks = [0, 1].map(|at| {
        soak.through(|line| {
            line.gateways()[at].process.signal("STOP");
            wait(20.0);
            line.gateways()[at].process.signal("CONT");
        })
    });
    soak.ends("dc1's, then dc2's gateway stopped for 20 s", &breaks);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_survives_one_direction_silent_for_ten_seconds() {
    let mut soak = Soak::new("");
    let breaks = [Towards::Acceptor, Towards::Dialler].map(|towards| {
        soak.through(|line| {
            line.path.silence_towards(towards, true);
            wait(10.0);
            line.path.silence_towards(towards, false);
        })
    });
    soak.ends("towards dc1, then towards dc2 silent for 10 s", &breaks);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_lane_killed_in_the_middle_of_a_large_full_sync_is_not_noticed() {
    let link = "[link]\nlanes = 4\n";
    let line = Line::apart(Version::System, link, link);
    let (census, before) = (Census::of(&line.alpha, 1), Syncs::of(&line.alpha));
    line.alpha.ask(&["CONFIG", "SET", "rdbcompression", "no"]);
    line.alpha.ask(&["DEBUG", "POPULATE", "256000", "key", "1000"]);
    line.path.limit(Some(50_000_000));
    let (writer, began) = (Writer::on(&line.alpha, RATE), Instant::now());
    line.follow();
    for megabytes in [60, 120, 180] {
        eventually("the full sync is under way", SOON, || {
            line.path.crossed(Towards::Dialler) > megabytes * 1_000_000
        });
        line.path.cut_one();
    }
    eventually("the sync is over", SOON, || line.bravo.info("master_link_status") == "up");
    let took = began.elapsed();
    let [resent, breaks] = ["resent_bytes", "breaks"].map(|field| line.first.count(field));
    writer.stop();
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.listed(), breaks), (1, (1, 1), 0));
    census.end();
    Results::new("256 MB over 4 lanes at 50 MB/s, one killed three times", before, &line.alpha)
        .seconds("synced after", &[took])
        .bytes("resent", resent)
        .bytes("carried to dc2", line.path.crossed(Towards::Dialler))
        .print();
}
