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

/// Whether the page has these words, with its markup left out.
#[track_caller]
fn says(page: &str, words: &str) {
    let (_, main) = page.split_once("<main").expect("the page has a main part");
    let mut text = String::new();
    let mut depth = 1;
    for letter in main.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 => text.push(letter),
            _ => {}
        }
    }
    assert!(text.contains(words), "the page does not say {words:?}:\n{text}");
}

fn streaming(number: u64) -> Value {
    link(number, "orders", "master", &json!({}), &json!({ "port": 6379 + number }))
}

/// An event about a link that has ended.
fn event(kind: &str, words: &str) -> Value {
    let event = crate::registry::Event {
        at: NOW - 50,
        level: "info".to_owned(),
        kind: kind.to_owned(),
        name: Some("orders".to_owned()),
        site: Some("dc2".to_owned()),
        link: Some(9),
        end: Some("replica-closed".to_owned()),
        seconds: Some(12.0),
        more: Some(2),
        words: words.to_owned(),
        ..Default::default()
    };
    serde_json::to_value(event).expect("JSON")
}

fn held(number: u64) -> Value {
    let failure = json!({ "seconds_ago": 0.3, "reason": "192.0.2.7:7379: no answer within 3 s; does a firewall drop it?" });
    let more = json!({
        "state": "held", "held_seconds": 12.0, "gives_up_in_seconds": 33.0, "breaks": 2, "lanes": 0,
        "round_trip_seconds": null, "redials_failed": 4, "redial_failure": failure,
    });
    link(
        number,
        "orders",
        "master",
        &more,
        &json!({ "port": 6379 + number, "lag_bytes": 61_000_000, "lag_seconds": 12.0 }),
    )
}

fn syncing(number: u64) -> Value {
    let snapshot = json!({ "bytes": 103_494_451, "size": 244_737_638, "bytes_per_second": 282_700_000, "seconds_left": 0.5 });
    let replication = json!({
        "stage": "full sync", "lag_bytes": null, "lag_seconds": null, "acknowledged_offset": null,
        "port": 6379 + number, "snapshot": snapshot,
    });
    let more = json!({ "state": "full sync", "seconds": 9, "breaks": 0, "to_replica_bytes_per_second": 282_700_000 });
    link(number, "orders", "master", &more, &replication)
}

#[test]
fn the_page_says_what_the_gateway_carries() {
    let down = event("down", "link down: the replica closed its connection");
    let events = json!([event("listening", "never shown"), down]);
    let status = status(vec![streaming(1), syncing(2)], &json!({ "events": events }));
    let page = html(&status, &of_orders(), NOW);
    for words in [
        "All well",
        "gw-1.dc1.example",
        "3 hours ago",
        "08:00:00 UTC",
        "the master is here, offered to dc2; syncs since the start: 2 full, 1 partial, 0 refused",
        "dc2:6380",
        "0.4 s, 10 kB",
        "5.2 MB/s",
        "18 ms",
        "1, survived",
        "42 %, 103 MB of 245 MB, 283 MB/s, 1 s left",
        "22 GB (36 % of it, compressed)",
        "Throughput of orders in the last ten minutes: to replicas now 5.",
        "Lag of orders",
        "0 % of 6.3 GB",
        "364 days left",
        "CN=replgate CA, number 2, 1 revoked, from the file",
        "The files in use were read 3 hours ago",
        "orders dc2 #9: link down: the replica closed its connection (was up for 12.0 s) (and 2 more before)",
    ] {
        says(&page, words);
    }
    assert!(page.contains("<title>dc1: all well – replgate</title>"), "{page}");
    assert!(page.contains(r#"<progress value="42" max="100" aria-label="full sync">"#), "{page}");
    assert!(!page.contains("all entries"), "one entry alone is not drawn twice");
    assert!(!page.contains("never shown"), "what the config says already is no event of the page");
}

/// An entry that follows 10.0.0.6:6379 of two Redis, with these fields.
fn following(fields: &Value) -> Value {
    let mut entry = json!({
        "name": "orders", "role": "master", "present": {"party": "10.0.0.6:6379", "since": NOW - 200, "by": "lineage"},
        "parties": [
            {"party": "10.0.0.5:6379", "state": "replica", "words": "is a replica of 10.0.0.6:6379", "history": null, "offset": null},
            {"party": "10.0.0.6:6379", "state": "master", "words": "is the master",
                "history": "c4631a6d3d5b8b3d6b47bd5ff732076d2e8eddf7", "offset": 4711},
        ],
        "sentinels": [{"sentinel": "10.0.0.7:26379", "names": null, "words": "does not answer"}],
        "attention": null, "next_step": null, "switches": 1,
    });
    merge(&mut entry, fields);
    entry
}

#[test]
fn who_is_followed_is_shown_with_every_party_and_sentinel() {
    let shown = |fields: &Value| {
        let status = status(vec![streaming(1)], &json!({ "following": [following(fields)] }));
        html(&status, &of_orders(), NOW)
    };
    let page = shown(&json!({}));
    says(
        &page,
        "Who is followedorders follows 10.0.0.6:6379 for 3 minutes, by its history. the master is here, 1 switch since the start",
    );
    says(
        &page,
        "10.0.0.5:6379is a replica of 10.0.0.6:6379–10.0.0.6:6379is the masterc4631a6d at 4711Sentinel 10.0.0.7:26379 does not answer.",
    );
    says(&page, "All well");
    let page = shown(&json!({ "present": null, "attention": "two say so", "next_step": "replgate follow" }));
    says(&page, "No master is followed for ordersorders: two say soNext: replgate follow");
    says(&page, "orders follows nobody.");
    let waits = json!({ "present": null, "standby": true, "attention": "x", "next_step": "promote" });
    let page = shown(&waits);
    says(&page, "orders waits: its Redis are replicas of another site. the master is here");
    says(&page, "All well");
    let status = status(vec![streaming(1)], &json!({}));
    assert!(!html(&status, &of_orders(), NOW).contains("Who is followed"), "nothing follows");
}

#[test]
fn what_is_not_well_comes_first_with_the_next_step() {
    let links = vec![streaming(1), syncing(2), held(3)];
    let refused = json!({ "since": NOW - 400, "faults": ["gateway.toml:14:11: no such key"] });
    let more = json!({ "reload": { "read_at": NOW - 1000, "refused": refused } });
    let status = status(links, &more);
    let page = html(&status, &of_orders(), NOW);
    assert!(page.contains("<title>dc1: a link of orders with dc2 is held, and 1 more – replgate</title>"));
    for words in [
        "Not well2 things are not well.",
        "A link of orders with dc2 is heldorders to dc2 (link 3, replica dc2:6382): held 12 s, gives up in 33 s; dials failed 4, last 0 s ago: 192.0.2.7:7379: no answer within 3 s; does a firewall drop it?Next: wait",
        "gateway.toml:14:11: no such key; everything runs as beforeNext: mend",
        "for 12 s, gives up in 33 s; dials failed 4, last 0 s ago: 192.0.2.7:7379",
    ] {
        says(&page, words);
    }
    let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words}"));
    assert!(at(r#"id="link-3""#) < at(r#"id="link-1""#) && at(r#"id="link-3""#) < at(r#"id="link-2""#));
}

#[test]
fn the_page_shows_each_finding_of_the_verdict_and_no_other() {
    let states = [
        status(vec![streaming(1)], &json!({})),
        status(vec![held(1), syncing(2)], &json!({ "without_link": ["orders"] })),
        status(vec![streaming(1)], &json!({ "memory_used": 95, "memory_limit": 100 })),
    ];
    for status in states {
        let findings = health::findings(&status, NOW);
        let page = html(&status, &of_orders(), NOW);
        assert_eq!(page.matches(r#"<p class="next">"#).count(), findings.len());
        for Finding { details, next, .. } in &findings {
            details.iter().for_each(|detail| says(&page, &detail.replace('"', "&quot;")));
            says(&page, &format!("Next: {}", next.replace('"', "&quot;")));
        }
        let verdict = match health::level(&findings) {
            Level::Good | Level::Busy => "All well",
            Level::Look => "Worth a look1 thing is worth a look.",
            Level::Bad => "Not well2 things are not well.",
        };
        says(&page, verdict);
    }
}

/// Replaces every text of a status that is not one of the program's own words.
fn poison(value: &mut Value, key: &str) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| poison(value, key)),
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, key)),
        Value::String(text)
            if !["stage", "sync", "kind", "role", "listeners", "listeners_lost"].contains(&key) =>
        {
            *text = format!("{key}<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;");
        }
        _ => {}
    }
}

#[test]
fn what_a_far_side_or_the_config_says_stays_text() {
    let events = json!([event("down", "x")]);
    let unknown = link(
        4,
        "orders",
        "master",
        &json!({}),
        &json!({ "stage": "unknown", "unknown": "x", "version": "8", "complaint": "x" }),
    );
    let complaint = link(5, "carts", "replica", &json!({}), &json!({ "complaint": "x", "host": null }));
    let more = json!({
        "events": events, "without_link": ["x"], "replicas": ["carts"],
        "following": [following(&json!({ "attention": "x", "next_step": "x" }))],
        "reload": { "read_at": 1, "refused": { "since": 1, "faults": ["x", "x"] } },
    });
    let mut value =
        serde_json::to_value(status(vec![streaming(1), held(2), syncing(3), unknown, complaint], &more))
            .unwrap();
    poison(&mut value, "");
    let poisoned: Status = serde_json::from_value(value).expect("a status");
    let page = html(&poisoned, &of_orders(), NOW);
    let (_, body) = page.split_once("</style>").unwrap();
    for (tag, count) in [("<script", 1), ("<img", 0), ("onerror=alert(1)>", 0), ("\"'>", 0)] {
        assert_eq!(body.matches(tag).count(), count, "{tag}");
    }
    // All of it is there, as text.
    for key in [
        "site",
        "node",
        "version",
        "name",
        "far",
        "redis",
        "reason",
        "words",
        "faults",
        "issuer",
        "host",
        "complaint",
        "unknown",
        "state",
        "without_link",
        "masters",
        "replication_id",
        "party",
        "by",
        "sentinel",
        "attention",
        "next_step",
    ] {
        let text = format!(
            "{key}&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&gt;&lt;img src=x onerror=alert(1)&gt;&amp;amp;"
        );
        assert!(page.contains(&text), "{key} is not on the page");
    }
}

#[test]
fn six_hundred_links_make_a_short_page_with_what_is_unwell_first() {
    let mut links: Vec<Value> = (1..=600).map(streaming).collect();
    links[598] = held(599);
    let page = html(&status(links.clone(), &json!({})), &of_orders(), NOW);
    assert!(page.len() < 300_000, "{} bytes", page.len());
    let first = page.find("<details").map(|at| &page[at..at + 60]).unwrap();
    assert!(first.contains("link-599"), "{first}");
    says(&page, "599 streaming, 1 held");
    says(&page, "And 504 more links: replgate status --all");
    // Each in an entry of its own, with a far site of its own, and all of them held.
    let names: Vec<String> = (1..=600).map(|at| format!("master-{at:03}")).collect();
    for (at, link) in links.iter_mut().enumerate() {
        *link = held(at as u64);
        merge(link, &json!({ "name": names[at], "site": format!("site-{at:03}") }));
    }
    let entries: Vec<(Side, &str)> = names.iter().map(|name| (Side::Acceptor, name.as_str())).collect();
    let history = history(&entries, |at| (5e6 + (at % 7) as f64 * 1e5, 0.3));
    let page = html(&status(links, &json!({ "masters": names, "far_sites": [] })), &history, NOW);
    assert!(page.len() < 300_000, "{} bytes", page.len());
    says(&page, "1 thing is not well.");
    says(&page, "and 597 more links: replgate status --unwell");
    says(&page, "And 528 more entries: replgate status --all");
    says(&page, "And 560 more sites.");
}

#[test]
fn the_policy_permits_the_style_and_the_script_of_the_page_and_nothing_else() {
    let page = html(&status(vec![streaming(1), held(2)], &json!({})), &of_orders(), NOW);
    let between = |from: &str, to: &str| {
        let (_, rest) = page.split_once(from).unwrap();
        rest.split_once(to).unwrap().0.to_owned()
    };
    for (directive, text) in
        [("style-src", between("<style>", "</style>")), ("script-src", between("<script>", "</script>"))]
    {
        let hash = STANDARD.encode(digest(&SHA256, text.as_bytes()));
        assert!(policy().contains(&format!("{directive} 'sha256-{hash}'")), "{directive}");
    }
    assert!(policy().starts_with("default-src 'none'; "));
    for never in [" style=", " onclick=", " onload=", "http://", "https://", "//www", "@import", "url("] {
        // The name of SVG in the icon is no address.
        let without = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!without.contains(never), "{never}");
    }
}

#[test]
fn a_gateway_without_links_and_without_history_has_a_page() {
    let page = html(&status(vec![], &json!({})), &History::default(), NOW);
    says(&page, "All well");
    says(&page, "no replica is connected");
    let nothing = json!({ "masters": [], "far_sites": [], "terms": [], "lists": [] });
    says(&html(&status(vec![], &nothing), &History::default(), NOW), "this gateway carries nothing");
}
