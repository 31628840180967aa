//! Long breaks with the default settings, under a steady load: `make soak`. Each test prints a line
//! with its results.

#[allow(dead_code)] // It is shared with other tests.
#[path = "../it/support/mod.rs"]
mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::gateway::{Gateway, Lab};
use support::line::{Line, Standing};
use support::path::Towards;
use support::pki::{Ca, Leaf};
use support::redis::Version;
use support::writer::{Values, Writer};
use support::{SOON, always, eventually};

/// Bytes a second that are written all the time: five times the backlog.
const RATE: u64 = 5_000_000;

/// Lag in bytes up to which a replica counts as caught up: a tenth of a second of the load.
const CLOSE: i64 = RATE as i64 / 10;

/// A [`Line`] under load.
struct Soak {
    line: Line,
    writer: Writer,
    before: Standing,
}

impl Soak {
    fn new(config: &str, values: Values) -> Self {
        let line = Line::new(config);
        let before = line.standing();
        let writer = Writer::with(&line.alpha, RATE, values);
        line.arrives(RATE as i64, SOON);
        Self { line, writer, before }
    }

    /// Waits until the replica has what has been written so far and is close behind the master.
    /// Returns how long that took.
    #[track_caller]
    fn catches_up(&self) -> Duration {
        let (wanted, began) = (self.line.alpha.master_offset(), Instant::now());
        eventually("the replica has caught up", SOON, || {
            let (written, applied) = (self.line.alpha.master_offset(), self.line.bravo.replica_offset());
            applied >= wanted && written - applied < CLOSE
        });
        began.elapsed()
    }

    /// Ends the load, asserts the same data without a resync, and prints the results.
    #[track_caller]
    fn ends(self, what: &str, caught_up: &[Duration]) {
        let Self { line, writer, before } = self;
        line.ends_as(&before, writer);
        let [resent, breaks] = ["resent_bytes", "breaks"].map(|field| line.first.count(field));
        print_results(&line, what, before.sync_full, caught_up, resent, breaks);
    }
}

/// Prints the results in one line, which is not captured.
fn print_results(line: &Line, what: &str, before: i64, caught_up: &[Duration], resent: u64, breaks: u64) {
    let seconds: Vec<_> = caught_up.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
    let _ = writeln!(
        std::io::stderr(),
        "{what}: sync_full {before} before, {} after; {breaks} breaks; caught up after {} s; {:.1} MB resent",
        line.alpha.sync_full(),
        seconds.join(", "),
        resent as f64 / 1e6,
    );
}

/// Sleeps: these tests are about the duration of a break.
fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Resets the path every one to two seconds during `time`. Returns the longest time to catch up.
#[track_caller]
fn reset_for(soak: &Soak, time: Duration) -> Duration {
    let (began, mut slowest, mut round) = (Instant::now(), Duration::ZERO, 0);
    while began.elapsed() < time {
        soak.line.path.cut();
        slowest = slowest.max(soak.catches_up());
        wait(1.0 + f64::from(round % 5) / 5.0);
        round += 1;
    }
    slowest
}

#[test]
#[ignore = "takes minutes; make soak"]
fn two_minutes_of_resets_cause_no_resync() {
    let soak = Soak::new("", Values::Random);
    let slowest = reset_for(&soak, Duration::from_secs(120));
    soak.ends("a reset every 1 to 2 s for 120 s", &[slowest]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_minute_of_resets_harms_no_compressed_link() {
    let soak = Soak::new("[link]\ncompression = \"zstd\"\n", Values::Json);
    let slowest = reset_for(&soak, Duration::from_secs(60));
    let (plain, carried) =
        (soak.line.first.count("to_replica_bytes"), soak.line.first.count("carried_bytes"));
    assert!(carried * 2 < plain, "{carried} of {plain} bytes");
    soak.ends("zstd, a reset every 1 to 2 s for 60 s", &[slowest]);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_forgotten_path_is_replaced_within_seconds() {
    let soak = Soak::new("", Values::Random);
    let caught_up = [0, 1, 2].map(|_| {
        soak.line.path.forget();
        soak.catches_up()
    });
    assert!(caught_up.iter().all(|time| *time < Duration::from_secs(10)), "{caught_up:?}");
    soak.ends("the path forgets its connections, from then on", &caught_up);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_survives_black_holes_of_up_to_forty_seconds() {
    let soak = Soak::new("", Values::Random);
    let caught_up = [2.0, 8.0, 20.0, 40.0].map(|seconds| {
        soak.line.path.silence(true);
        wait(seconds);
        assert_eq!(soak.line.alpha.listed().0, 1, "the master does not notice");
        soak.line.path.silence(false);
        soak.catches_up()
    });
    soak.ends("black holes of 2, 8, 20, 40 s", &caught_up);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_waits_for_a_far_gateway_that_is_stopped_for_twenty_seconds() {
    let soak = Soak::new("", Values::Random);
    let caught_up = soak.line.gateways().map(|gateway| {
        gateway.process.signal("STOP");
        wait(20.0);
        gateway.process.signal("CONT");
        soak.catches_up()
    });
    soak.ends("dc1's, then dc2's gateway stopped for 20 s", &caught_up);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_survives_one_direction_silent_for_ten_seconds() {
    let soak = Soak::new("", Values::Random);
    let caught_up = [Towards::Acceptor, Towards::Dialler].map(|towards| {
        soak.line.path.silence_towards(towards, true);
        wait(10.0);
        soak.line.path.silence_towards(towards, false);
        soak.catches_up()
    });
    soak.ends("towards dc1, then towards dc2 silent for 10 s", &caught_up);
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_lane_killed_in_the_middle_of_a_large_full_sync_is_not_noticed() {
    let link = "[link]\nlanes = 4\n";
    let line = Line::apart(Version::System, link, link);
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
    print_results(
        &line,
        "256 MB over 4 lanes at 50 MB/s, one killed three times",
        0,
        &[took],
        resent,
        breaks,
    );
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_replica_paused_for_a_minute_as_for_a_backup_harms_nobody() {
    support::pause::pause(Duration::from_secs(60));
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_whose_certificate_expires_ends_at_both_ends_a_minute_later_and_comes_back_with_a_new_one() {
    let lab = Lab::new();
    let ca = Ca::new("test CA");
    let folder = |site: &str| lab.path().join("certs").join(site);
    let life = Duration::from_secs(25);
    let short = Leaf { until: life.try_into().expect("it fits"), ..Leaf::good("dc2") };
    ca.folder(&folder("dc1"), &Leaf::good("dc1"));
    ca.folder(&folder("dc2"), &short);
    let began = Instant::now();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    let both = || [&pair.first, &pair.second].map(Gateway::links);
    always("it is up for a minute after that", life + Duration::from_secs(55), || both() == [1, 1]);
    eventually("it has ended", Duration::from_secs(20), || both() == [0, 0]);
    let ended = began.elapsed() - life;
    pair.first.wait_log("the certificate of dc2");
    let words = [&pair.first, &pair.second].map(|gateway| gateway.lines("WARN", "end=\"outdated\""));
    assert!(words[0] + words[1] >= 1, "{words:?}");
    assert!(pair.second.log().contains("certificate of dc2"), "{}", pair.second.log());
    always("it gets no other", Duration::from_secs(3), || both() == [0, 0]);
    ca.folder(&folder("dc2"), &Leaf::good("dc2"));
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
    let _ = writeln!(std::io::stderr(), "ended {:.1} s after its certificate", ended.as_secs_f64());
}
