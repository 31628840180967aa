use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::link::Side;
use crate::registry::{LinkSample, SAMPLE_EVERY};

const DAY: i64 = 86_400;

/// When the pages of these tests are shown.
const NOW: i64 = 1_800_000_000;

/// A link that streams.
const LINK: &str = r#"{
    "number": 1, "name": "orders", "role": "master", "site": "dc2", "far": "192.0.2.7:7379",
    "redis": "127.0.0.1:6379", "state": "streaming", "since": 1799992800, "seconds": 7200,
    "to_replica_bytes": 61000000000, "to_master_bytes": 530000, "carried_bytes": 22000000000,
    "resent_bytes": 1200000, "buffered_bytes": 180000, "hold_seconds": 45.0, "lanes_agreed": 2,
    "window_bytes": 67108864, "compressed": true, "lanes": 2, "lanes_lost": 1, "breaks": 1, "resumed": 1,
    "redials": 2, "redials_failed": 0, "redial_failure": null, "held_seconds": null, "gives_up_in_seconds": null,
    "coverage": { "bytes_per_second": 5e6, "seconds": 45.0, "hold_seconds": 45.0 },
    "round_trip_seconds": 0.0182, "to_replica_bytes_per_second": 5242880, "to_master_bytes_per_second": 62,
    "replication": {
        "stage": "streaming", "host": "dc2", "port": 6380, "version": null, "capabilities": ["eof", "psync2"],
        "sync": "full", "replication_id": "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb",
        "master_offset": 61000000123, "acknowledged_offset": 60999990000, "acknowledged_seconds_ago": 0.4,
        "lag_bytes": 10123, "lag_seconds": 0.4, "snapshot": null, "complaint": null, "unknown": null,
        "part_of": null
    }
}"#;

/// A link in JSON, with these fields in place of those of one that streams.
fn link(number: u64, name: &str, role: &str, more: &Value, replication: &Value) -> Value {
    let mut link: Value = serde_json::from_str(LINK).expect("JSON");
    merge(&mut link, &json!({ "number": number, "name": name, "role": role }));
    merge(&mut link, &json!({ "site": if role == "master" { "dc2" } else { "dc1" } }));
    merge(&mut link, more);
    merge(&mut link["replication"], replication);
    link
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().expect("an object") {
        into[key] = value.clone();
    }
}

/// The status of a gateway with these links and further fields.
fn status(links: Vec<Value>, more: &Value) -> Status {
    let term = |kind: &str, name: &str, days: i64| json!({ "kind": kind, "name": name, "from": NOW - 300 * DAY, "until": NOW + days * DAY });
    let mut status = json!({
        "site": "dc1", "node": "gw-1.dc1.example", "version": "0.1.0", "pid": 2525,
        "certificate_expires": NOW + 364 * DAY,
        "terms": [
            term("certificate", "certs/dc1/tls.crt", 364), term("ca", "CN=replgate CA", 3300),
            term("list", "CN=replgate CA", 3300),
        ],
        "lists": [{ "issuer": "CN=replgate CA", "number": "2", "from": null, "made": NOW - 30 * DAY, "until": NOW + 3300 * DAY, "revoked": 1 }],
        "config": "x", "reload": { "read_at": NOW - 3 * 3600, "refused": null },
        "listeners": ["0.0.0.0:7379"], "listeners_lost": [], "without_link": [], "masters": ["orders"],
        "replicas": [], "memory_used": 180_000, "memory_limit": 6_335_076_761u64, "links": links, "ended": [],
        "counts": serde_json::to_value(crate::registry::Counts::default()).unwrap(),
        "syncs": [{ "name": "orders", "role": "master", "full": 2, "partial": 1, "refused": 0 }],
        "started": NOW - 3 * 3600, "far_sites": [{ "site": "dc2", "masters": ["orders"], "replicas": [] }],
    });
    merge(&mut status, more);
    serde_json::from_value(status).expect("a status")
}

/// Ten minutes of an entry, with this rate and lag at each moment.
fn history(entries: &[(Side, &str)], of: impl Fn(usize) -> (f64, f64)) -> History {
    let (mut history, start) = (History::default(), Instant::now());
    let mut bytes = 0.0;
    for at in 0..=120 {
        let (rate, lag) = of(at);
        bytes += rate * 5.0;
        let link = |(number, (side, name)): (usize, &(Side, &'static str))| LinkSample {
            number: number as u64,
            side: *side,
            name,
            bytes: (bytes as u64, bytes as u64 / 90_000),
            lag: Some(((lag * rate) as u64, lag)),
        };
        let entries: Vec<(Side, &'static str)> =
            entries.iter().map(|(side, name)| (*side, &*String::leak((*name).to_owned()))).collect();
        let links: Vec<LinkSample<'_>> = entries.iter().enumerate().map(link).collect();
        history.sample(start + at as u32 * SAMPLE_EVERY, &entries, &links);
    }
    history
}

fn of_orders() -> History {
    history(&[(Side::Acceptor, "orders")], |at| {
        let wave = (at as f64 / 9.0).sin() + (at as f64 / 2.3).sin() * 0.3;
        (
            5e6 + wave * 9e5,
            if (60..66).contains(&at) { (at - 60) as f64 * 1.3 } else { 0.3 + wave.abs() * 0.2 },
        )
    })
}

#[test]
fn look() {
    let folder = std::path::Path::new("/tmp/page-look");
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, status: &Status, history: &History| {
        std::fs::write(folder.join(name), html(status, history, NOW)).unwrap();
    };
    let streams = |number| link(number, "orders", "master", &json!({}), &json!({ "port": 6380 + number }));
    let syncs = link(
        2,
        "orders",
        "master",
        &json!({"state": "full sync", "seconds": 9, "breaks": 0, "to_replica_bytes_per_second": 282_700_000}),
        &json!({
        "stage": "full sync", "lag_bytes": null, "lag_seconds": null, "acknowledged_offset": null, "port": 6381,
        "snapshot": {"bytes": 103_494_451, "size": 244_737_638, "bytes_per_second": 282_700_000, "seconds_left": 0.5}}),
    );
    let held = link(
        3,
        "orders",
        "master",
        &json!({"state": "held", "held_seconds": 12.0, "gives_up_in_seconds": 33.0, "breaks": 2, "round_trip_seconds": null, "lanes": 0,
        "redials_failed": 4, "redial_failure": {"seconds_ago": 0.3, "reason": "192.0.2.7:7379: no answer within 3 s; does a firewall drop it?"}}),
        &json!({"port": 6382, "lag_bytes": 61_000_000, "lag_seconds": 12.0}),
    );
    let ended = json!([{"reason": "the replica closed its connection", "at": NOW - 50, "link": streams(9)}]);
    write("good.html", &status(vec![streams(1), syncs.clone()], &json!({"ended": ended})), &of_orders());
    write(
        "bad.html",
        &status(
            vec![streams(1), syncs, held],
            &json!({"ended": ended, "masters": ["orders", "sessions"], "replicas": ["carts"], "reload": {"read_at": NOW - 10000, "refused": {"since": NOW - 400, "faults": ["/etc/replgate/gateway.toml:14:11: replica \"orders\": hold must be longer than dead_after (3s)"]}},
        "certificate_expires": NOW + 2 * DAY, "terms": [{"kind": "certificate", "name": "certs/dc1/tls.crt", "from": NOW - 300 * DAY, "until": NOW + 2 * DAY}]}),
        ),
        &history(
            &[(Side::Acceptor, "orders"), (Side::Acceptor, "sessions"), (Side::Dialler, "carts")],
            |at| (3e5 + at as f64 * 1000.0, 0.2),
        ),
    );
    write("idle.html", &status(vec![], &json!({})), &History::default());
}
