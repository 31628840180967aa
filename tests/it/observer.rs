//! Compares what `status` shows of the replication with what Redis itself reports.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gateway::{Gateway, Lab, Pair, master_config, replica_config};
use crate::support::path::{Path, Towards};
use crate::support::redis::{ALL, Redis, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port, replgate_ok};

/// The replication on the only link of each gateway, as `status` shows it.
fn views(pair: &Pair) -> Option<[Value; 2]> {
    let view = |gateway: &Gateway| {
        let status = gateway.status();
        let links = status["links"].as_array()?;
        (links.len() == 1).then(|| links[0]["replication"].clone())
    };
    Some([view(&pair.first)?, view(&pair.second)?])
}

/// The replica's offset and the seconds since its last acknowledgement, as the master lists them.
fn listed(master: &Redis) -> Option<(i64, f64)> {
    let line = master.info("slave0");
    let field = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)?.trim().parse().ok());
    Some((field("offset=")? as i64, field("lag=")?))
}

/// A pair with a breakable path between the gateways.
fn pair_over(lab: &Lab, master: u16, more: &str) -> (Pair, Path) {
    let (wan, entry) = (free_port(), free_port());
    let path = Path::to(wan);
    let first = lab.gateway("dc1", &(master_config("dc1", wan, &[("orders", master)], "") + more));
    let second = lab.gateway("dc2", &(replica_config("dc2", entry, path.port, "") + more));
    (Pair { first, second, wan, entry }, path)
}

#[test]
fn offsets_and_lag_agree_with_info_at_both_sites_at_rest_and_under_load() {
    let lab = Lab::new();
    for version in ALL {
        let alpha = Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &[]);
        alpha.fill();
        let pair = lab.pair(alpha.port);
        let bravo = Redis::start(version, lab.path(), &format!("bravo-{version:?}"), &[]);
        bravo.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        let at_rest = || {
            eventually(&format!("{version:?}: at rest all four agree"), SOON, || {
                let Some(views) = views(&pair) else { return false };
                let (offset, replid) = (alpha.master_offset(), alpha.info("master_replid"));
                bravo.replica_offset() == offset
                    && listed(&alpha).is_some_and(|(acknowledged, _)| acknowledged == offset)
                    && views.iter().all(|view| {
                        view["stage"] == "streaming"
                            && view["sync"] == "full"
                            && view["replication_id"] == replid.trim()
                            && view["master_offset"] == offset
                            && view["acknowledged_offset"] == offset
                            && view["lag_bytes"] == 0
                            && view["lag_seconds"] == 0.0
                    })
            });
        };
        at_rest();
        let writer = Writer::on(&alpha, 4 << 20);
        for _ in 0..20 {
            let (before, replica) = (alpha.master_offset(), bravo.replica_offset());
            let (acknowledged, _) = listed(&alpha).expect("the replica is listed");
            // The gateways see what Redis sends a moment later.
            eventually(&format!("{version:?}: under load status follows INFO"), SOON, || {
                let Some(views) = views(&pair) else { return false };
                views.iter().all(|view| {
                    let number = |key: &str| view[key].as_i64().unwrap_or(-1);
                    number("master_offset") >= before
                        && number("acknowledged_offset") >= acknowledged
                        && number("master_offset") - number("acknowledged_offset") == number("lag_bytes")
                })
            });
            let asked = Instant::now();
            let (_, one) = listed(&alpha).expect("the replica is listed");
            let views = views(&pair).expect("one link");
            let (after, applied) = (alpha.master_offset(), bravo.replica_offset());
            let (_, other) = listed(&alpha).expect("the replica is listed");
            // INFO has whole seconds, and an acknowledgement may have come in between.
            let lags = one.min(other) - 1.0..one.max(other) + 1.5 + asked.elapsed().as_secs_f64();
            for view in &views {
                let number = |key: &str| view[key].as_i64().expect("a number");
                let seconds = |key: &str| view[key].as_f64().expect("a number");
                assert!((before..=after).contains(&number("master_offset")), "{version:?} {view}");
                assert!((acknowledged..=applied).contains(&number("acknowledged_offset")), "{view}");
                assert!(number("master_offset") >= replica, "{view}");
                assert!(lags.contains(&seconds("acknowledged_seconds_ago")), "{lags:?} {view}");
                // A replica acknowledges every second.
                assert!(seconds("lag_seconds") <= 5.0, "{view}");
                assert_eq!(number("lag_bytes") == 0, seconds("lag_seconds") == 0.0, "{view}");
            }
        }
        writer.stop();
        bravo.wait_equal(&alpha);
        at_rest();
    }
}

#[test]
fn a_silent_path_appears_as_lag_in_bytes_and_in_seconds() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (pair, path) = pair_over(&lab, alpha.port, "[link]\nheartbeat = \"100ms\"\ndead_after = \"500ms\"\n");
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    // A master may ignore the first acknowledgement. It streams from the next one on.
    alpha.ask(&["SET", "early", "x"]);
    eventually("the master streams", SOON, || {
        views(&pair)
            .is_some_and(|[view, _]| view["lag_bytes"] == 0 && view["master_offset"].as_u64() > Some(0))
    });
    path.silence(true);
    alpha.ask(&["SET", "late", &"x".repeat(100_000)]);
    let lag = |key: &str| pair.first.status()["links"][0]["replication"][key].as_f64().unwrap_or(-1.0);
    eventually("the lag grows at the master's site", SOON, || {
        lag("lag_bytes") > 100_000.0 && lag("lag_seconds") > 2.0
    });
    path.silence(false);
    bravo.wait_equal(&alpha);
    eventually("the lag is zero again", SOON, || lag("lag_bytes") == 0.0 && lag("lag_seconds") == 0.0);
}

#[test]
fn status_shows_the_progress_of_a_full_sync() {
    let lab = Lab::new();
    for (diskless, known) in [("no", true), ("yes", false)] {
        let name = format!("alpha-{diskless}");
        let alpha = Redis::start(
            Version::System,
            lab.path(),
            &name,
            &["--repl-diskless-sync", diskless, "--rdbcompression", "no"],
        );
        alpha.ask(&["DEBUG", "POPULATE", "100000", "key", "200"]);
        let (pair, path) = pair_over(&lab, alpha.port, "[link]\nwindow = \"1MiB\"\n");
        path.limit(Some(4 << 20));
        let bravo = Redis::start(Version::System, lab.path(), &format!("bravo-{diskless}"), &[]);
        bravo.replicaof(pair.entry);
        let mut seen = Vec::new();
        eventually("the sync is over", Duration::from_secs(60), || {
            if let Some(views) = views(&pair) {
                let [view, _] = views;
                if view["stage"] == "full sync" {
                    let snapshot = &view["snapshot"];
                    assert_eq!(snapshot["size"].is_u64(), known, "{snapshot}");
                    seen.push((snapshot["bytes"].as_u64(), snapshot["bytes_per_second"].as_u64()));
                }
            }
            bravo.info("master_link_status") == "up"
        });
        assert!(seen.len() > 5 && seen.is_sorted_by_key(|(bytes, _)| *bytes), "{seen:?}");
        let rate = seen.iter().filter_map(|(_, rate)| *rate).max().expect("a rate is told");
        assert!((1 << 20..256 << 20).contains(&rate), "some MiB a second: {rate}");
        bravo.wait_equal(&alpha);
    }
}

#[test]
fn two_connections_of_one_sync_are_shown_as_one_replica() {
    let lab = Lab::new();
    let both = ["--repl-diskless-sync", "yes", "--repl-rdb-channel", "yes", "--rdbcompression", "no"];
    let alpha = Redis::start(Version::V8, lab.path(), "alpha", &both);
    alpha.ask(&["DEBUG", "POPULATE", "100000", "key", "200"]);
    let (pair, path) = pair_over(&lab, alpha.port, "[link]\nwindow = \"1MiB\"\n");
    path.limit(Some(4 << 20));
    let bravo = Redis::start(Version::V8, lab.path(), "bravo", &both);
    let writer = Writer::on(&alpha, 100 << 10);
    bravo.replicaof(pair.entry);
    for gateway in [&pair.first, &pair.second] {
        let config = gateway.config.to_string_lossy().into_owned();
        eventually("the main connection has a snapshot's connection", SOON, || {
            let status = gateway.status();
            let links = status["links"].as_array().cloned().unwrap_or_default();
            let main = links.iter().find(|link| link["replication"]["part_of"].is_null());
            let part = links.iter().find(|link| link["replication"]["part_of"].is_u64());
            let (Some(main), Some(part)) = (main, part) else { return false };
            assert_eq!(part["replication"]["part_of"], main["number"]);
            let text = replgate_ok(lab.path(), &["status", "--wide", "-c", &config]);
            let rows = text.lines().filter(|line| line.starts_with("dc2:")).collect::<Vec<_>>();
            let numbers = format!("{}+{}", main["number"], part["number"]);
            main["replication"]["stage"] == "full sync"
                && main["state"] == "full sync"
                && main["replication"]["snapshot"]["bytes"].as_u64() > Some(100_000)
                && main["replication"]["master_offset"].is_u64()
                && rows.len() == 1
                && rows[0].contains(&numbers)
                && rows[0].contains("full sync: ")
        });
    }
    path.limit(None);
    eventually("the sync is over", Duration::from_secs(40), || bravo.info("master_link_status") == "up");
    writer.stop();
    bravo.wait_equal(&alpha);
    for gateway in [&pair.first, &pair.second] {
        eventually("one link is left, with the offset from the snapshot's connection", SOON, || {
            let status = gateway.status();
            let view = &status["links"][0]["replication"];
            status["links"].as_array().is_some_and(|links| links.len() == 1)
                && view["stage"] == "streaming"
                && view["master_offset"] == alpha.master_offset()
        });
        assert_eq!(gateway.status()["syncs"][0]["full"], 1, "one sync, over two connections");
    }
    assert_eq!(alpha.sync_full(), 1);
    assert!(path.crossed(Towards::Dialler) > 20_000_000);
}

#[test]
fn full_partial_and_refused_syncs_are_counted_and_the_reason_of_an_end_is_shown() {
    let lab = Lab::new();
    // This master refuses every sync, since its own master does not answer.
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let mut bravo = Redis::start(
        Version::System,
        lab.path(),
        "bravo",
        &["--replicaof", "127.0.0.1", &pair.entry.to_string()],
    );
    bravo.wait_equal(&alpha);
    bravo.restart(SOON);
    bravo.wait_equal(&alpha);
    for gateway in [&pair.first, &pair.second] {
        let syncs = &gateway.status()["syncs"][0];
        assert_eq!((&syncs["full"], &syncs["partial"], &syncs["refused"]), (&1.into(), &1.into(), &0.into()));
        let ended = &gateway.status()["ended"][0];
        assert!(
            ended["reason"].as_str().is_some_and(|why| why.contains("the replica closed its connection"))
        );
        assert_eq!(ended["link"]["replication"]["stage"], "streaming");
    }
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), (1, 1));
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    alpha.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let charli = lab.redis("charli");
    charli.replicaof(pair.entry);
    for gateway in [&pair.first, &pair.second] {
        gateway.wait_log("the master refuses the sync: NOMASTERLINK");
        eventually("a refused sync is counted", SOON, || {
            gateway.status()["syncs"][0]["refused"].as_u64() >= Some(1)
        });
    }
    // Redis asks again at once; the gateway limits how often it does.
    let opened = || pair.first.status()["counts"]["opened"].as_u64().expect("a number");
    let before = opened();
    std::thread::sleep(Duration::from_secs(3)); // Time itself is tested.
    assert!(opened() - before <= 6, "{} links in 3 s", opened() - before);
    alpha.ask(&["REPLICAOF", "NO", "ONE"]);
    charli.wait_equal(&alpha);
}

#[test]
fn a_stream_that_the_observer_cannot_read_is_reported_and_still_carried() {
    use std::io::{Read, Write};
    let lab = Lab::new();
    // A master that compresses its stream, as a later Valkey will.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let head =
        b"+FULLRESYNC 0123456789012345678901234567890123456789 7\r\n$9\r\nREDIS0011VCS\x01\x02\x03\x04";
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // The gateway first sends the address under which the master lists the replica.
                let _ = socket.read(&mut [0; 1024]);
                let _ = socket.write_all(b"+OK\r\n");
                let _ = socket.read(&mut [0; 1024]);
                let _ = socket.write_all(head);
                let _ = socket.write_all(&[0xf5; 100_000]);
                let _ = socket.read(&mut [0; 1]);
            });
        }
    });
    let pair = lab.pair(port);
    let mut client = crate::support::redis::Client::connect(pair.entry).expect("the gateway accepts");
    client.send(b"PSYNC ? -1\r\n");
    let (bytes, _) = client.rest(Duration::from_secs(2));
    assert_eq!(bytes, [&head[..], &[0xf5; 100_000]].concat(), "every byte as it was");
    for view in views(&pair).expect("one link") {
        assert_eq!((&view["stage"], &view["unknown"]), (&"unknown".into(), &"a compressed stream".into()));
        assert!(view["lag_bytes"].is_null() && view["master_offset"].is_null());
    }
}
