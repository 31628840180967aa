//! Paths and gateways that fail during replication: the link survives that, or ends at both
//! gateways.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, Lab, master_config, replica_config};
use crate::support::line::Line;
use crate::support::path::{Path, Towards};
use crate::support::redis::{Client, Redis, Version};
use crate::support::writer::{Values, Writer};
use crate::support::{SOON, always, cpu, eventually, free_port, replgate_ok};

/// Settings with which breaks are detected soon and survived for some time. Tests append more.
const LINK: &str = "[link]\nheartbeat = \"100ms\"\ndead_after = \"500ms\"\nhold = \"15s\"\n";

/// Bytes a second that are written meanwhile. One second of them fills the backlog.
const RATE: u64 = 1 << 20;

/// How long the stream may take to continue once the path works again.
const AGAIN: Duration = Duration::from_secs(8);

#[test]
fn the_path_of_these_tests_breaks_as_a_test_requests() {
    let echo = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let path = Path::to(echo.local_addr().expect("bound").port());
    std::thread::spawn(move || {
        for socket in echo.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket));
        }
    });
    let connect = || {
        let socket = TcpStream::connect(("127.0.0.1", path.port)).expect("the path accepts");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout can be set");
        socket
    };
    let send = |mut socket: &TcpStream| socket.write_all(b"word").expect("the path reads");
    let receives = |mut socket: &TcpStream| socket.read(&mut [0; 10]).map_err(|error| error.kind());
    let (hangs, reset) = (Err(std::io::ErrorKind::WouldBlock), Err(std::io::ErrorKind::ConnectionReset));
    let [one, two] = [connect(), connect()];
    for socket in [&one, &two] {
        send(socket);
        assert_eq!(receives(socket), Ok(4));
    }
    let crossed = || [Towards::Acceptor, Towards::Dialler].map(|towards| path.crossed(towards));
    let counts = |bytes| eventually("the bytes that crossed are counted", SOON, || crossed() == bytes);
    counts([8, 8]);
    assert_eq!(path.connections(), 2);

    path.cut_one();
    assert_eq!((receives(&one), path.connections()), (reset, 1));
    path.forget();
    send(&two);
    assert_eq!((receives(&two), path.connections()), (hangs, 0));
    let three = connect();
    send(&three);
    assert_eq!(receives(&three), Ok(4), "a new connection passes");

    for (towards, so_far) in [(Towards::Acceptor, [12, 12]), (Towards::Dialler, [20, 16])] {
        path.silence_towards(towards, true);
        send(&three);
        assert_eq!(receives(&three), hangs);
        counts(so_far);
        path.silence_towards(towards, false);
        assert_eq!(receives(&three), Ok(4), "the delayed bytes arrive");
    }
    path.silence(true);
    let [patient, impatient] = [connect(), connect()];
    send(&patient);
    drop(impatient);
    assert_eq!(receives(&patient), hangs);
    path.silence(false);
    assert_eq!(receives(&patient), Ok(4));
    assert_eq!(path.connections(), 2, "a connection that was given up in the silence does not count");

    path.close();
    assert_eq!(receives(&patient), Ok(0), "an orderly end, not a reset");
    path.cut();
    path.refuse(true);
    let refused = TcpStream::connect(("127.0.0.1", path.port)).expect_err("nothing listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    path.refuse(false);
    let last = connect();
    path.limit(Some(100_000));
    let began = Instant::now();
    (&last).write_all(&[7; 100_000]).expect("the path reads");
    last.shutdown(Shutdown::Write).expect("it is open");
    last.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    let mut back = Vec::new();
    (&last).read_to_end(&mut back).expect("no reset");
    assert!(back.len() == 100_000 && began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn connections_reset_again_and_again_cause_no_resync() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    for round in 1..=8 {
        if round % 4 == 0 {
            line.path.close()
        } else {
            line.path.cut()
        }
        line.arrives(500_000, AGAIN);
        assert!(line.second.count("resumed") >= round, "round {round}");
    }
    for gateway in line.gateways() {
        assert!(gateway.count("breaks") >= 8 && gateway.count("resumed") >= 8);
        let log = gateway.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("link resumed")).collect();
        let fields = ["INFO", "link=orders", "number=", "seconds=", "resent="];
        assert!(told.len() >= 8 && told.iter().all(|line| fields.iter().all(|field| line.contains(field))));
        assert!(!log.contains("link down"), "{log}");
    }
    line.ends_as(&before, writer);
}

#[test]
fn a_new_connection_replaces_those_that_the_path_has_forgotten() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    for round in 1..=3 {
        line.path.forget();
        line.arrives(500_000, AGAIN);
        assert!(line.second.count("redials") >= round && line.second.count("breaks") >= round);
    }
    assert_eq!((line.path.connections(), line.second.count("lanes"), line.first.count("lanes")), (1, 1, 1));
    line.ends_as(&before, writer);
}

#[test]
fn a_link_survives_a_path_that_is_silent_for_a_while() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    line.arrives(0, AGAIN);
    let began = Instant::now();
    line.path.silence(true);
    for gateway in line.gateways() {
        line.wait_held(gateway);
    }
    while began.elapsed() < Duration::from_secs(4) {
        let held = line.gateways().iter().all(|gateway| gateway.is_held());
        assert!(held && line.alpha.listed() == (1, 1), "the link is held, and Redis does not notice");
        assert_eq!(line.bravo.info("master_link_status"), "up");
    }
    line.path.silence(false);
    let took = line.arrives(0, AGAIN);
    assert!(took < Duration::from_secs(3), "{took:?} after the path works again");
    for gateway in line.gateways() {
        eventually("the link has one lane", SOON, || gateway.each("lanes") == [1]);
        assert!(gateway.count("breaks") >= 1 && gateway.count("resumed") >= 1 && !gateway.is_held());
        gateway.wait_event("link resumed", &[]);
    }
    line.ends_as(&before, writer);
}

#[test]
fn a_break_is_shown_while_it_lasts_and_unknown_values_are_left_out() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    line.path.refuse(true);
    line.path.cut();
    for gateway in line.gateways() {
        line.wait_held(gateway);
        gateway.wait_event("link held", &[]);
    }
    line.second.wait_log("gives up in 15.0 s");
    line.second.wait_log(&format!("no new lane yet: 127.0.0.1:{}: ", line.path.port));
    let link = line.second.status()["links"][0].clone();
    assert!(link["replication"]["lag_bytes"].is_null() && link["replication"]["lag_seconds"].is_null());
    let seconds = |name: &str| link[name].as_f64().unwrap_or_else(|| panic!("status tells {name}: {link}"));
    assert!(seconds("held_seconds") + seconds("gives_up_in_seconds") - 15.0 < 0.1, "{link}");
    assert!(link["redials_failed"].as_u64() >= Some(1), "{link}");
    assert!(link["round_trip_seconds"].is_null(), "no lane, so no round trip: {link}");
    let config = line.second.config.to_string_lossy();
    let shown = replgate_ok(std::path::Path::new("/"), &["status", "-c", &config]);
    let row = shown.lines().find(|row| row.starts_with("orders ")).unwrap_or_default();
    let whole = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(row.contains(" held ") && whole.contains("; dials failed "), "{shown}");
    let wide = replgate_ok(std::path::Path::new("/"), &["status", "--wide", "-c", &config]);
    let row = wide.lines().find(|row| row.starts_with("dc2:")).unwrap_or_default();
    assert!(row.contains("gives up in") && row.contains("dials failed ") && row.contains("  ?  "), "{wide}");
    line.path.refuse(false);
    line.arrives(0, AGAIN);
    // Each gateway tells the rate at which the writes pass and the round trip, a moment after the break.
    for gateway in line.gateways() {
        eventually("rate and round trip are shown", SOON, || {
            let link = gateway.status()["links"][0].clone();
            let trip = link["round_trip_seconds"].as_f64();
            let [to_replica, to_master] = ["to_replica_bytes_per_second", "to_master_bytes_per_second"]
                .map(|rate| link[rate].as_u64().unwrap_or(0));
            trip.is_some_and(|trip| trip > 0.0 && trip < 1.0)
                && to_replica > RATE / 10
                && to_replica > to_master
        });
    }
    line.ends_as(&before, writer);
    let link = line.second.status()["links"][0].clone();
    assert!(link["held_seconds"].is_null() && link["replication"]["lag_bytes"].is_u64(), "{link}");
}

#[test]
fn a_link_survives_one_direction_going_silent() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    for (waiting, towards) in [(&line.first, Towards::Acceptor), (&line.second, Towards::Dialler)] {
        let began = Instant::now();
        line.path.silence_towards(towards, true);
        line.wait_held(waiting);
        while began.elapsed() < Duration::from_secs(2) {
            assert_eq!((line.alpha.listed(), line.bravo.info("master_link_status")), ((1, 1), "up".into()));
        }
        line.path.silence_towards(towards, false);
        line.arrives(0, AGAIN);
    }
    line.ends_as(&before, writer);
}

#[test]
fn a_link_waits_for_a_far_gateway_that_is_stopped_for_a_while() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    let [first, second] = line.gateways();
    for (stopped, waits) in [(first, second), (second, first)] {
        let began = Instant::now();
        stopped.process.signal("STOP");
        line.wait_held(waits);
        while began.elapsed() < Duration::from_secs(3) {
            assert!(waits.is_held() && line.alpha.listed().0 == 1);
        }
        stopped.process.signal("CONT");
        line.arrives(0, AGAIN);
    }
    line.ends_as(&before, writer);
}

/// Prepares a full sync that takes seconds: the master has about 25 MB, the snapshot is not
/// compressed, and the path is limited.
fn fill(line: &Line, diskless: bool) {
    let way = if diskless { "yes" } else { "no" };
    for command in [
        &["DEBUG", "POPULATE", "25000", "key", "1000"][..],
        &["CONFIG", "SET", "rdbcompression", "no"],
        &["CONFIG", "SET", "repl-diskless-sync", way],
    ] {
        line.alpha.ask(command);
    }
    line.bravo.ask(&["CONFIG", "SET", "repl-diskless-load", if diskless { "swapdb" } else { "disabled" }]);
    line.path.limit(Some(10_000_000));
}

/// Starts the replica, and calls each of `breaks` 4 MB after the one before.
#[track_caller]
fn sync_with(line: &Line, breaks: &[fn(&Path)]) {
    let writer = Writer::on(&line.alpha, RATE / 2);
    line.follow();
    for (round, breaks) in (1..).zip(breaks) {
        eventually("the full sync is under way", SOON, || {
            line.path.crossed(Towards::Dialler) > round * 4_000_000
        });
        assert_ne!(line.bravo.info("master_link_status"), "up", "the full sync is not over");
        breaks(&line.path);
    }
    eventually("the sync is over", Duration::from_secs(40), || line.bravo.info("master_link_status") == "up");
    writer.stop();
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.listed()), (1, (1, 1)), "one full sync was enough");
}

/// Number of links that each gateway has opened since its start.
fn opened(line: &Line) -> [u64; 2] {
    line.gateways().map(|gateway| gateway.status()["counts"]["opened"].as_u64().expect("a number"))
}

fn cut(path: &Path) {
    path.cut();
}

#[test]
fn a_break_in_a_full_sync_resumes_at_the_exact_byte() {
    for (version, diskless) in [(Version::V6, false), (Version::System, true)] {
        let line = Line::apart(version, LINK, LINK);
        fill(&line, diskless);
        sync_with(&line, &[cut]);
        assert!(line.first.count("resent_bytes") > 0, "data in transit is sent again");
        assert!(line.gateways().iter().all(|gateway| gateway.count("resumed") >= 1));
        assert_eq!(opened(&line), [1, 1]);
    }
}

#[test]
fn a_break_in_a_full_sync_over_two_connections_resumes_both() {
    let line = Line::apart(Version::V8, LINK, LINK);
    for redis in [&line.alpha, &line.bravo] {
        redis.ask(&["CONFIG", "SET", "repl-rdb-channel", "yes"]);
    }
    fill(&line, true);
    sync_with(&line, &[cut, cut]);
    let resumed = line.second.log().matches("link resumed").count();
    assert!(resumed >= 3, "the link with the snapshot each time, the other at least once: {resumed}");
    assert_eq!(opened(&line), [2, 2]);
}

#[test]
fn a_full_sync_survives_several_breaks_of_every_kind() {
    let line = Line::apart(Version::System, LINK, LINK);
    fill(&line, true);
    let silent: fn(&Path) = |path| {
        path.silence(true);
        std::thread::sleep(Duration::from_secs(2)); // Longer than a slow path is given: three times dead_after.
        path.silence(false);
    };
    sync_with(&line, &[cut, |path| path.forget(), silent, |path| path.close(), cut]);
    assert!(line.second.count("resumed") >= 5);
    assert_eq!(opened(&line), [1, 1]);
}

/// A master that accepts every byte and answers nothing.
struct SilentMaster {
    port: u16,
    got: Arc<Mutex<Vec<u8>>>,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl SilentMaster {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let master = Self {
            port: listener.local_addr().expect("bound").port(),
            got: Arc::default(),
            accepted: Arc::default(),
            ended: Arc::default(),
        };
        let (got, accepted, ended) =
            (Arc::clone(&master.got), Arc::clone(&master.accepted), Arc::clone(&master.ended));
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut buffer) {
                    got.lock().expect("no thread panics").extend_from_slice(&buffer[..count]);
                }
                ended.fetch_add(1, Ordering::SeqCst);
            }
        });
        master
    }

    fn got(&self) -> Vec<u8> {
        self.got.lock().expect("no thread panics").clone()
    }
}

#[test]
fn a_break_before_the_sync_closes_both_redis_connections_at_once() {
    let lab = Lab::new();
    let ping = Client::encode(&["PING"]);
    for silent in [false, true] {
        let master = SilentMaster::start();
        let (wan, entry) = (free_port(), free_port());
        let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", master.port)], LINK));
        let path = Path::to(wan);
        let second = lab.gateway("dc2", &replica_config("dc2", entry, path.port, LINK));
        let mut replica = Client::connect(entry).expect("the gateway accepts");
        replica.send(&ping);
        eventually("the master has the first command", SOON, || master.got() == ping);
        let began = Instant::now();
        if silent {
            path.silence(true);
            // This command waits in the path and must never be delivered.
            replica.send(&Client::encode(&["PSYNC", "?", "-1"]));
        } else {
            path.cut();
        }
        let (_, ended) = replica.rest(Duration::from_secs(3));
        assert!(ended, "the replica's connection is closed");
        eventually("the master's connection is closed", SOON, || master.ended.load(Ordering::SeqCst) == 1);
        assert!(began.elapsed() < Duration::from_secs(3), "at once: {:?}", began.elapsed());
        path.silence(false);
        always("nothing is delivered late", Duration::from_secs(1), || {
            master.got() == ping && master.accepted.load(Ordering::SeqCst) == 1
        });
        assert_eq!((first.links(), second.links()), (0, 0));
    }
}

#[test]
fn a_replica_that_closes_during_a_break_is_gone_from_the_master_once_the_path_works_again() {
    let mut line = Line::new(LINK);
    line.path.silence(true);
    line.wait_held(&line.second);
    line.bravo.kill();
    line.second.wait_end("replica-closed");
    assert_eq!(line.alpha.listed().0, 1, "dc1 cannot know yet");
    line.path.silence(false);
    eventually("the master drops the replica", Duration::from_secs(3), || line.alpha.listed().0 == 0);
    line.first.wait_far_end("ReplicaClosed");
    eventually("no gateway dials any more", SOON, || line.path.connections() == 0);
}

#[test]
fn a_replica_that_closes_during_a_break_is_gone_from_the_master_when_hold_ends() {
    let mut line = Line::new(&LINK.replace("15s", "3s"));
    let began = Instant::now();
    line.path.silence(true);
    line.wait_held(&line.first);
    line.bravo.kill();
    eventually("the master drops the replica", Duration::from_secs(6), || line.alpha.listed().0 == 0);
    assert!(began.elapsed() > Duration::from_secs(2), "not before: {:?}", began.elapsed());
    line.first.wait_event("link down", &[]);
    assert!(line.first.log().contains("no new lane within"));
}

#[test]
fn a_master_that_closes_during_a_break_closes_the_replica_once_the_path_works_again() {
    let line = Line::new(LINK);
    line.alpha.ask(&["CONFIG", "SET", "repl-backlog-size", "16mb"]);
    line.path.silence(true);
    line.wait_held(&line.first);
    line.alpha.ask(&["SET", "last", "write"]);
    line.alpha.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    always("the replica does not notice", Duration::from_secs(1), || {
        line.bravo.info("master_link_status") == "up"
    });
    line.path.silence(false);
    eventually("the replica's link ends", Duration::from_secs(3), || {
        line.second.lines("INFO", "reason=\"MasterClosed\"") == 1
    });
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.sync_partial_ok()), (1, 1));
    assert_eq!(line.alpha.listed(), (1, 1));
}

#[test]
fn a_killed_gateway_means_a_partial_resync_and_no_phantom() {
    let mut line = Line::new(LINK);
    line.alpha.ask(&["CONFIG", "SET", "repl-backlog-size", "64mb"]);
    let writer = Writer::on(&line.alpha, RATE);
    for round in 1..=2 {
        let gateway = if round == 1 { &mut line.second } else { &mut line.first };
        gateway.kill();
        gateway.start_again();
        eventually("the master lists one replica", Duration::from_secs(3), || {
            line.alpha.listed() == (1, 1) && line.alpha.sync_partial_ok() == round
        });
        always("it lists no other", Duration::from_secs(1), || line.alpha.listed() == (1, 1));
    }
    writer.stop();
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.sync_partial_ok()), (1, 2));
    assert_eq!((line.first.links(), line.second.links()), (1, 1));
}

#[test]
fn a_link_that_gets_no_new_lane_ends_after_the_smaller_hold() {
    let line = Line::apart(Version::System, &LINK.replace("15s", "2s"), LINK);
    line.follow();
    line.bravo.wait_equal(&line.alpha);
    line.path.refuse(true);
    let began = Instant::now();
    line.path.cut();
    for gateway in line.gateways() {
        line.wait_held(gateway);
    }
    for gateway in line.gateways() {
        gateway.wait_end("no-new-lane");
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(5)).contains(&took), "{took:?}");
    eventually("both Redis connections are closed", Duration::from_secs(3), || {
        line.alpha.listed().0 == 0 && line.bravo.info("master_link_status") == "down"
    });
    line.path.refuse(false);
    line.bravo.wait_equal(&line.alpha);
    assert_eq!(line.alpha.listed(), (1, 1));
}

/// Waits until the link has this many lanes at both gateways.
#[track_caller]
fn wait_lanes(line: &Line, lanes: u64) {
    for gateway in line.gateways() {
        eventually(&format!("{lanes} lanes"), SOON, || gateway.each("lanes") == [lanes]);
    }
}

#[test]
fn several_lanes_come_and_go_unnoticed() {
    let line = Line::new(&format!("{LINK}lanes = 4\n"));
    wait_lanes(&line, 4);
    assert_eq!(line.path.connections(), 4);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, 4 * RATE));
    for round in 0..6 {
        match round % 3 {
            0 => line.path.cut(),
            1 => line.path.cut_one(),
            _ => line.path.forget(),
        }
        line.arrives(2_000_000, AGAIN);
        wait_lanes(&line, 4);
    }
    line.ends_as(&before, writer);
}

#[test]
fn a_lane_killed_in_the_middle_of_a_full_sync_is_not_noticed() {
    // The default times, so that a busy machine does not make a lane look dead.
    let link = "[link]\nlanes = 3\n";
    let line = Line::apart(Version::System, link, link);
    fill(&line, true);
    sync_with(&line, &[|path| path.cut_one(), |path| path.cut_one()]);
    wait_lanes(&line, 3);
    for gateway in line.gateways() {
        assert_eq!((gateway.count("breaks"), gateway.count("resumed")), (0, 0), "the link was never held");
        assert!(gateway.log().contains("lane lost"));
    }
    assert_eq!(opened(&line), [1, 1]);
}

/// Writes such values while the path breaks once. Returns how many bytes were carried for each
/// byte of Redis' streams.
fn carried(values: Values) -> f64 {
    let line = Line::new(&format!("{LINK}compression = \"zstd\"\n"));
    let writer = Writer::with(&line.alpha, 4 * RATE, values);
    let before = line.standing();
    line.arrives(4_000_000, SOON);
    line.path.cut();
    line.arrives(4_000_000, SOON);
    line.ends_as(&before, writer);
    let plain = line.first.count("to_replica_bytes") + line.first.count("to_master_bytes");
    assert!(plain > 8_000_000 && line.first.count("resumed") >= 1);
    let ratios = line.gateways().map(|gateway| gateway.count("carried_bytes") as f64 / plain as f64);
    assert!((ratios[0] - ratios[1]).abs() < 0.01, "both ends count the same: {ratios:?}");
    ratios[0]
}

#[test]
fn compressed_replication_is_identical_and_smaller() {
    let ratio = carried(Values::Json);
    assert!(ratio < 0.4, "{ratio}");
}

#[test]
fn data_that_does_not_compress_costs_almost_no_extra_bytes() {
    let ratio = carried(Values::Random);
    assert!(ratio < 1.01, "{ratio}");
}

#[test]
fn a_stopped_replica_bounds_the_memory_of_both_gateways() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
    let bounds = "[limits]\nmemory = \"32MiB\"\n[link]\nwindow = \"256MiB\"\n";
    let pair = lab.pair_with(alpha.port, bounds, bounds);
    let replicas = ["bravo", "charli", "delta"].map(|name| lab.redis(name));
    for replica in &replicas {
        replica.replicaof(pair.entry);
        replica.wait_equal(&alpha);
    }
    let gateways = [&pair.first, &pair.second];
    let links = gateways.map(|gateway| gateway.each("number"));
    let mut most = [0, 0];
    let mut look = || most = [0, 1].map(|at| most[at].max(Gateway::memory(gateways[at])));
    replicas.iter().for_each(|replica| replica.process.signal("STOP"));
    let writer = Writer::on(&alpha, 30 << 20);
    // The links may hold all of it: 60 MB, apart from what is in the system's buffers.
    eventually("the master continues to write", SOON, || {
        look();
        alpha.master_offset() > 60_000_000
    });
    writer.stop();
    // Longer than `dead_after`: lanes that wait unread must not keep waking the gateway.
    let used = || gateways.map(|gateway| cpu(gateway.process.child.id()));
    let (before, began) = (used(), Instant::now());
    eventually("a while has passed", SOON, || began.elapsed() > Duration::from_secs(5));
    let after = used();
    for at in [0, 1] {
        assert!(after[at] - before[at] < 1.0, "{} CPU seconds in 5 s of waiting", after[at] - before[at]);
    }
    replicas.iter().for_each(|replica| replica.process.signal("CONT"));
    eventually("all writes arrive", SOON, || {
        look();
        replicas.iter().all(|replica| replica.replica_offset() == alpha.master_offset())
    });
    for replica in &replicas {
        replica.wait_equal(&alpha);
    }
    assert!(most.iter().all(|most| *most < (32 + 60) << 20), "resident at most: {most:?}");
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), (3, 0));
    assert_eq!(gateways.map(|gateway| gateway.each("number")), links);
}

#[test]
fn more_lanes_are_found_where_the_peers_lead_to_several_gateways_and_no_link_is_harmed() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
    let (wan, other, entry) = (free_port(), free_port(), free_port());
    let text = |wan: u16| master_config("dc1", wan, &[("orders", alpha.port)], "[link]\nlanes = 4\n");
    let first = lab.gateway("dc1", &text(wan));
    let another = lab.another("dc1", "other", &text(other));
    let peers = format!("peers = [\"127.0.0.1:{wan}\", \"127.0.0.1:{other}\"]");
    let dc2 = replica_config("dc2", entry, wan, "[link]\nlanes = 4\n")
        .replace(&format!("peers = [\"127.0.0.1:{wan}\"]"), &peers);
    let second = lab.gateway("dc2", &dc2);
    let _bravo = lab.replica("bravo", entry, &alpha);
    eventually("all lanes are up", SOON, || second.each("lanes") == [4] && first.each("lanes") == [4]);
    assert_eq!((second.each("number"), another.links(), alpha.sync_full()), (vec![1], 0, 1));
}
