//! What `replgate status` shows of made-up gateways.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::View;
use super::glance::{self, Tone};
use crate::admin::Status;
use crate::cli::text::width;
use crate::registry::{Counts, LinkStatus};

const NOW: i64 = 1_800_000_000;

fn link(number: u64, fields: Value) -> Value {
    let mut link = json!({
        "number": number, "name": "orders", "role": "replica", "site": "dc1", "far": "192.0.2.1:7379",
        "redis": "127.0.0.1:40000", "state": "streaming", "since": NOW - 300_000, "seconds": 300_000,
        "to_replica_bytes": 1, "to_master_bytes": 1, "carried_bytes": 2, "resent_bytes": 0, "buffered_bytes": 0,
        "hold_seconds": 45.0, "lanes_agreed": 1, "window_bytes": 1, "compressed": false, "lanes": 1,
        "lanes_lost": 0, "breaks": 2, "resumed": 2, "redials": 0, "redials_failed": 0, "redial_failure": null,
        "held_seconds": null, "gives_up_in_seconds": null, "replication": replication(json!({})),
        "round_trip_seconds": 0.08, "to_replica_bytes_per_second": 1_200_000, "to_master_bytes_per_second": 40,
    });
    link.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    link
}

fn replication(fields: Value) -> Value {
    let mut replication = json!({
        "stage": "streaming", "host": "dc2", "port": 6380, "version": null, "capabilities": [], "sync": "full",
        "replication_id": null, "master_offset": 5, "acknowledged_offset": 5, "acknowledged_seconds_ago": 0.1,
        "lag_bytes": 0, "lag_seconds": 0.0, "snapshot": null, "complaint": null, "unknown": null, "part_of": null,
    });
    replication.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    replication
}

/// A link in a full sync.
fn syncing(number: u64) -> Value {
    let snapshot = json!({"bytes": 98_700_000, "size": 233_400_000, "bytes_per_second": 11_000_000, "seconds_left": 12.2});
    let stage = json!({"stage": "full sync", "lag_seconds": null, "lag_bytes": null, "snapshot": snapshot});
    link(number, json!({"state": "full sync", "replication": replication(stage), "seconds": 5}))
}

fn held(number: u64) -> Value {
    link(
        number,
        json!({"state": "held", "held_seconds": 12.0, "gives_up_in_seconds": 33.0, "round_trip_seconds": null,
            "replication": replication(json!({"lag_seconds": null, "lag_bytes": null}))}),
    )
}

fn event(number: u64, fields: Value) -> Value {
    let mut event = json!({
        "number": number, "at": NOW - 12, "level": "info", "kind": "up", "name": "orders", "site": "dc1", "link": 1,
        "end": null, "reason": null, "cause": null, "seconds": null, "more": null, "words": "link up",
    });
    event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    event
}

fn status(links: Vec<Value>) -> Status {
    let status = json!({
        "site": "dc2", "node": "vm", "version": "0.1.0", "pid": 7, "certificate_expires": NOW + 86_400 * 300,
        "listeners": [], "masters": [], "replicas": ["orders"], "memory_used": 0, "memory_limit": 0,
        "links": links, "ended": [], "syncs": [], "counts": Counts::default(), "format": 1,
    });
    serde_json::from_value(status).unwrap()
}

fn lines(status: &Status, view: View) -> Vec<(Tone, String)> {
    let chosen: Vec<&LinkStatus> = status.links.iter().collect();
    glance::text(status, &chosen, view, NOW)
}

fn text(status: &Status, view: View) -> String {
    lines(status, view).into_iter().map(|(_, line)| line + "\n").collect()
}

fn columns(width: usize) -> View {
    View { width: Some(width), ..View::default() }
}

#[test]
fn every_state_is_read_at_a_glance() {
    let waiting = json!({"stage": "waiting", "lag_seconds": null});
    let loading = json!({"stage": "loading", "lag_seconds": null, "snapshot": {"bytes": 233_400_000, "size": 233_400_000, "bytes_per_second": null, "seconds_left": null}});
    let unsized_sync = json!({"stage": "full sync", "lag_seconds": null, "snapshot": {"bytes": 98_700_000, "size": null, "bytes_per_second": null, "seconds_left": null}});
    let mut status = status(vec![
        link(1, json!({})),
        syncing(2),
        held(3),
        link(
            4,
            json!({"name": "stock", "site": "dc3", "role": "master", "state": "waiting", "replication": replication(waiting), "seconds": 3}),
        ),
        link(5, json!({"name": "sessions", "state": "loading", "replication": replication(loading)})),
        link(6, json!({"name": "carts", "state": "full sync", "replication": replication(unsized_sync)})),
        link(
            7,
            json!({"name": "plain", "state": "tunnel", "replication": null, "to_replica_bytes_per_second": null}),
        ),
    ]);
    status.events = serde_json::from_value(json!([
        event(9, json!({"kind": "held", "link": 3, "words": "link held: nothing received from the far gateway for 3.0 s; gives up in 45.0 s"})),
        event(8, json!({"at": NOW - 7_300, "kind": "resumed", "words": "link resumed: silence", "more": 3})),
        event(7, json!({"kind": "listening", "words": "never shown here"})),
    ]))
    .unwrap();
    assert_eq!(
        text(&status, columns(80)),
        "\
NOT WELL: a link of orders with dc1 is held
  orders from dc1 (link 3, replica dc2:6380): held 12 s, gives up in 33 s
  next: wait, or repair the path between the sites: the stream then continues by
    itself; replgate check, on both gateways, examines the way
site dc2 on vm, replgate 0.1.0, process 7; certificate good for 300 days

NAME       FAR SITE  STATE                   LAG    RATE      RTT    BREAKS  AGE
orders #3  from dc1  held 12 s, gives up in 33 s    1.2 MB/s         2       3 d
orders #1  from dc1  streaming               0.0 s  1.2 MB/s  80 ms  2       3 d
orders #2  from dc1  full sync [##...] 42 % 12 s    1.2 MB/s  80 ms  2       5 s
stock      to dc3    waiting for the master         1.2 MB/s  80 ms  2       3 s
sessions   from dc1  loading 233 MB                 1.2 MB/s  80 ms  2       3 d
carts      from dc1  full sync 99 MB, size unknown  1.2 MB/s  80 ms  2       3 d
plain      from dc1  tunnel                                   80 ms  2       3 d

lately (replgate events tells more):
    12 s ago  orders dc1 #3: link held: nothing received from the far gateway
              for 3.0 s; gives up in 45.0 s
     2 h ago  orders dc1 #1: link resumed: silence (and 3 more before)
"
    );
}

#[test]
fn a_link_that_is_alone_has_room_for_a_whole_progress_bar() {
    let sync = link(
        2,
        json!({"name": "a", "state": "full sync", "replication": syncing(2)["replication"].clone(), "breaks": 0}),
    );
    let text = text(&status(vec![sync]), columns(100));
    assert!(text.starts_with("ok: 1 link, full sync\n"), "{text}");
    assert!(text.contains("full sync [####......] 42 % 12 s left"), "{text}");
}

#[test]
fn the_verdict_says_what_there_is() {
    let first = |status: &Status| lines(status, columns(80)).remove(0);
    assert_eq!(first(&status(vec![])), (Tone::Good, "ok: no link".to_owned()));
    assert!(text(&status(vec![]), columns(80)).contains("\nfar masters offered: orders\n"));
    let all = (1..=3).map(|number| link(number, json!({})));
    assert_eq!(first(&status(all.clone().collect())), (Tone::Good, "ok: 3 links, all streaming".to_owned()));
    let some = status(all.chain([syncing(4)]).collect());
    assert_eq!(first(&some), (Tone::Good, "ok: 4 links: 3 streaming, 1 full sync".to_owned()));
    let mut ending = status(vec![link(1, json!({}))]);
    ending.terms = serde_json::from_value(
        json!([{"kind": "certificate", "name": "tls.crt", "from": NOW - 86_400 * 90, "until": NOW + 86_400 * 12}]),
    )
    .unwrap();
    assert_eq!(
        first(&ending),
        (Tone::Warning, "ok: 1 link, streaming; but the certificate expires in 12 days".to_owned())
    );
    assert_eq!(first(&status(vec![held(1), syncing(2)])).0, Tone::Bad);
}

/// An entry that follows 10.0.0.6:6379 of two Redis, with these fields.
fn following(name: &str, fields: Value) -> Value {
    let mut entry = json!({
        "name": name, "role": "master", "present": {"party": "10.0.0.6:6379", "since": NOW - 200, "by": "sentinel"},
        "parties": [
            {"party": "10.0.0.5:6379", "state": "replica", "words": "is a replica of 10.0.0.6:6379",
                "history": "c4631a6d3d5b8b3d6b47bd5ff732076d2e8eddf7", "offset": 4711},
            {"party": "10.0.0.6:6379", "state": "master", "words": "is the master", "history": null, "offset": null},
        ],
        "sentinels": [
            {"sentinel": "10.0.0.5:26379", "names": "10.0.0.6:6379", "words": "names 10.0.0.6:6379"},
            {"sentinel": "10.0.0.7:26379", "names": null, "words": "does not answer"},
        ],
        "attention": null, "next_step": null, "switches": 1,
    });
    entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    entry
}

#[test]
fn who_is_followed_and_who_said_so_is_told_before_the_links_and_each_link_tells_its_redis() {
    let of_master = json!({"role": "master", "site": "dc2", "redis": "10.0.0.6:6379"});
    let mut status = status(vec![link(1, of_master)]);
    status.following = serde_json::from_value(json!([following("orders", json!({}))])).unwrap();
    assert_eq!(
        text(&status, columns(90)),
        "\
ok: 1 link, streaming
site dc2 on vm, replgate 0.1.0, process 7; certificate good for 300 days
orders follows 10.0.0.6:6379 for 3 minutes, by Sentinel; 10.0.0.5:6379 is a replica of
  10.0.0.6:6379; Sentinels: 1 of 2 name it

NAME    FAR SITE  STATE      LAG    RATE      RTT    BREAKS  AGE  REDIS
orders  to dc2    streaming  0.0 s  1.2 MB/s  80 ms  2       3 d  10.0.0.6:6379
"
    );
    let narrow = text(&status, columns(60));
    assert!(narrow.contains("streaming") && !narrow.contains("REDIS"), "no other column gives way: {narrow}");

    let doubt = json!({"attention": "10.0.0.5:6379 says that it is a master too", "next_step": "stop it"});
    let nobody = json!({"present": null, "attention": "10.0.0.6:6379 has other data", "next_step": "replgate follow carts 10.0.0.6:6379"});
    status.following =
        serde_json::from_value(json!([following("orders", doubt), following("carts", nobody)])).unwrap();
    let shown = lines(&status, columns(80));
    let has = |tone: Tone, words: &str| {
        assert!(shown.iter().any(|(of, line)| *of == tone && line.starts_with(words)), "{words}: {shown:#?}");
    };
    has(Tone::Bad, "NOT WELL: no master is followed for carts");
    has(Tone::Bad, "  carts: 10.0.0.6:6379 has other data");
    has(Tone::Bad, "  next: replgate follow carts 10.0.0.6:6379");
    has(Tone::Warning, "  orders: 10.0.0.5:6379 says that it is a master too");
    has(Tone::Bad, "carts follows nobody; 10.0.0.5:6379 is a replica of 10.0.0.6:6379;");
    has(Tone::Warning, "orders follows 10.0.0.6:6379 for 3 minutes, by Sentinel;");

    let waits = json!({"present": null, "standby": true, "attention": "x", "next_step": "promote one"});
    status.following = serde_json::from_value(json!([following("orders", waits)])).unwrap();
    let shown = text(&status, columns(80));
    assert!(shown.starts_with("ok: 1 link, streaming\n"), "{shown}");
    assert!(
        shown.contains("\norders waits: its Redis are replicas of another site; 10.0.0.5:6379"),
        "{shown}"
    );
    let wide = super::wide::text(&status, View::default(), NOW);
    assert!(wide.contains("orders (master here) waits: its Redis") && !wide.contains("promote"), "{wide}");

    let mut away = following("orders", json!({}));
    away["parties"][1]["state"] = "away".into();
    status.following = serde_json::from_value(json!([away])).unwrap();
    let first = |status: &Status| text(status, columns(80)).lines().next().unwrap().to_owned();
    assert_eq!(first(&status), "ok: 1 link, streaming; but the master of orders cannot be reached");
    status.links.clear();
    assert_eq!(first(&status), "NOT WELL: the master of orders cannot be reached, and no link is left");

    let many: Vec<Value> = (0..600).map(|at| following(&format!("m{at}"), json!({}))).collect();
    status.following = serde_json::from_value(many.into()).unwrap();
    let view = View { lines: Some(24), ..columns(80) };
    let shown = text(&status, view);
    assert!(shown.lines().count() < 24 && shown.contains("and 597 more that follow: --wide"), "{shown}");
}

#[test]
fn the_wide_text_has_every_party_every_sentinel_and_the_next_step() {
    let mut status = status(vec![]);
    let doubt = json!({"attention": "two\nmasters", "next_step": "stop one"});
    let of_sites = json!({"role": "replica", "present": null, "sentinels": [], "switches": 0,
        "parties": [{"party": "dc1", "state": "unknown", "words": "", "history": null, "offset": null}]});
    status.following =
        serde_json::from_value(json!([following("orders", doubt), following("carts", of_sites)])).unwrap();
    let shown = super::wide::text(&status, View::default(), NOW);
    let wanted = "\
orders (master here) follows 10.0.0.6:6379 for 3 minutes, by Sentinel; 1 switch since the start
    10.0.0.5:6379 is a replica of 10.0.0.6:6379 (stream c4631a6d at 4711)
  * 10.0.0.6:6379 is the master
    Sentinel 10.0.0.5:26379 names 10.0.0.6:6379
    Sentinel 10.0.0.7:26379 does not answer
    attention: two masters
    next: stop one
carts (replicas here) follows nobody; no switch since the start
    dc1 was not asked yet
";
    assert!(shown.contains(wanted), "{shown}");
}

#[test]
fn six_hundred_links_fit_a_screen_with_what_is_unwell_first() {
    let name = |number: u64| format!("shard-{}", number % 7);
    let mut links: Vec<Value> = (1..=600).map(|number| link(number, json!({"name": name(number)}))).collect();
    links[399] = link(400, held(400).as_object().unwrap().clone().into());
    links[399]["name"] = "shard-1".into();
    let mut status = status(links);
    status.events = serde_json::from_value(json!([event(1, json!({})), event(2, json!({}))])).unwrap();
    let view = View { lines: Some(24), ..columns(80) };
    let shown = text(&status, view);
    assert!(shown.lines().count() < 24, "{shown}");
    let rows: Vec<&str> = shown.lines().skip_while(|line| !line.starts_with("NAME ")).collect();
    assert!(shown.starts_with("NOT WELL: a link of shard-1 with dc1 is held\n"), "{shown}");
    assert!(rows[1].starts_with("shard-1  from dc1  held 12 s"), "{shown}");
    assert!(rows[2].starts_with("NAME ") && rows[2].contains(" LINKS "), "{shown}");
    assert!(rows[3].starts_with("shard-1  from dc1  85 streaming, 1 held"), "{shown}");
    assert_eq!(rows.iter().filter(|row| row.starts_with("shard-")).count(), 8, "{shown}");
    // 86 links at 1.2 MB/s.
    assert!(rows[3].trim_end().ends_with("103 MB/s"), "{shown}");
    // As many names as links.
    status.links.iter_mut().for_each(|link| link.name = format!("m{}", link.number));
    let shown = text(&status, view);
    assert!(shown.lines().count() < 24 && shown.contains("more names and sites with "), "{shown}");
    let all = text(&status, View { all: true, ..view });
    assert!(all.lines().filter(|line| line.starts_with('m')).count() == 600, "{all}");
    // Hundreds that are not well.
    status.links.iter_mut().for_each(|link| link.held_seconds = Some(1.0));
    let shown = text(&status, view);
    assert!(shown.lines().count() < 24 && shown.contains(" more that are not well: --unwell"), "{shown}");
}

#[test]
fn long_names_are_shortened_so_that_both_ends_are_seen() {
    let names = ["eu", "us"].map(|end| format!("{}-{end}", "n".repeat(60)));
    let site = format!("{}.example", "s".repeat(55));
    let of = |(at, name): (usize, &String)| link(at as u64, json!({"name": name, "site": site}));
    let status = status(names.iter().enumerate().map(of).collect());
    let shown = text(&status, columns(80));
    assert!(shown.lines().all(|line| width(line) <= 80), "{shown}");
    assert!(shown.contains("n-eu  ") && shown.contains("n-us  ") && shown.contains("AGE"), "{shown}");
    let narrow = text(&status, columns(40));
    assert!(narrow.lines().all(|line| width(line) <= 40), "{narrow}");
    assert!(narrow.contains("streaming") && narrow.contains("LAG"), "{narrow}");
}

#[test]
fn links_that_have_ended_at_a_gateway_without_events_are_shown_as_those() {
    let mut status = status(vec![]);
    let ended =
        json!([{"reason": "the replica closed its connection", "at": NOW - 3, "link": link(7, json!({}))}]);
    status.ended = serde_json::from_value(ended).unwrap();
    let line = "     3 s ago  orders dc1 #7: link down: the replica closed its connection\n";
    assert!(text(&status, columns(80)).ends_with(line), "{}", text(&status, columns(80)));
    // With the event, it is shown once.
    let words = "link down: the replica closed its connection";
    let down =
        event(1, json!({"kind": "down", "link": 7, "end": "replica-closed", "at": NOW - 3, "words": words}));
    status.events = serde_json::from_value(json!([down])).unwrap();
    assert!(text(&status, columns(80)).ends_with(line));
    assert_eq!(text(&status, columns(80)).matches("replica closed").count(), 1);
}

#[test]
fn what_has_happened_to_links_is_shown_with_its_reason_however_much_else_has_happened() {
    let words = "link down: the far gateway stops: the gateway of site dc1 stops, and its operator has said why at length, in more words than two lines have room for, and even then some more";
    let mut events: Vec<Value> = (10..60)
        .rev()
        .map(|number| {
            event(
                number,
                json!({"kind": "not-tls", "name": null, "site": null, "link": null, "at": NOW - 1,
                "from": "192.0.2.7:4000", "words": "connection refused: no TLS"}),
            )
        })
        .collect();
    events.push(event(2, json!({"kind": "down", "end": "far", "words": words, "at": NOW - 90})));
    events.push(event(1, json!({"at": NOW - 100})));
    let mut status = status(vec![]);
    status.events = serde_json::from_value(events.into()).unwrap();
    let shown = text(&status, columns(80));
    assert!(
        shown.ends_with(
            "\
     1 s ago  connection refused: no TLS (from 192.0.2.7:4000)
     1 s ago  connection refused: no TLS (from 192.0.2.7:4000)
     1 s ago  connection refused: no TLS (from 192.0.2.7:4000)
    90 s ago  orders dc1 #1: link down: the far gateway stops: the gateway of
              site dc1 stops, and its operator has said why at length, in mor...
   100 s ago  orders dc1 #1: link up
"
        ),
        "{shown}"
    );
    // Where much has happened to links as well, one other event is shown.
    status.events.extend((100..200).map(|_| status.events[51].clone()).collect::<Vec<_>>());
    let shown = text(&status, columns(80));
    assert_eq!(shown.matches("no TLS").count(), 1, "{shown}");
}

#[test]
fn an_answer_of_a_release_before_the_events_is_understood() {
    // The answer of a gateway of an earlier commit, in the midst of two links; later fields are not in it.
    let status: Status = serde_json::from_str(include_str!("earlier.json")).unwrap();
    assert_eq!((status.format, status.events.len(), status.links.len()), (0, 0, 2));
    let shown = text(&status, columns(80));
    assert!(shown.starts_with("ok: 2 links"), "{shown}");
    // And a later one may say things that this one does not know.
    let mut later: Value = serde_json::from_str(include_str!("earlier.json")).unwrap();
    later["new"] = json!({"field": 1});
    later["format"] = 1.into();
    later["links"][0]["replication"]["stage"] = "a new stage".into();
    later["links"][0]["replication"]["sync"] = "a new kind".into();
    later["links"][0]["state"] = "a new stage".into();
    later["terms"].as_array_mut().unwrap().push(json!({"kind": "new", "name": "", "from": 0, "until": 0}));
    later["events"] = json!([event(1, json!({"kind": "new", "new": 1, "level": "new"}))]);
    let status: Status = serde_json::from_value(later).unwrap();
    assert!(text(&status, columns(80)).contains("a new stage"), "{}", text(&status, columns(80)));
}

/// Any text that a field may hold, control characters and wide letters included.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9.-]{0,20}", "[a-z0-9.-]{60,80}", ".{0,300}"]
}

fn any_link() -> impl Strategy<Value = Value> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>());
    let floats = (0.0..1e9, 0.0..1e6, proptest::option::of(0.0..100.0), proptest::option::of(0.0..1e7));
    let stage = prop_oneof![
        Just("handshake"),
        Just("waiting"),
        Just("full sync"),
        Just("loading"),
        Just("streaming"),
        Just("unknown")
    ];
    let texts = (any_text(), any_text(), any_text(), proptest::option::of(any_text()));
    (numbers, floats, texts, stage, any::<[bool; 4]>()).prop_map(|(numbers, floats, texts, stage, flags)| {
        let (number, bytes, rate, breaks, seconds) = numbers;
        let (held, left, trip, lag) = floats;
        let (name, site, words, complaint) = texts;
        let size = flags[0].then_some(rate);
        let snapshot = json!({"bytes": bytes, "size": size, "bytes_per_second": null, "seconds_left": flags[1].then_some(left)});
        let replication = replication(json!({"stage": stage, "lag_seconds": lag, "complaint": complaint, "unknown": flags[2].then_some(&words),
            "snapshot": snapshot, "host": words}));
        let failure = json!({"seconds_ago": 0.0, "reason": words});
        link(number, json!({"name": name, "site": site, "state": stage, "breaks": breaks, "seconds": seconds,
            "role": if flags[3] { "master" } else { "replica" }, "replication": replication, "round_trip_seconds": trip,
            "held_seconds": flags[1].then_some(held), "gives_up_in_seconds": flags[1].then_some(left), "redial_failure": failure,
            "to_replica_bytes_per_second": rate, "to_master_bytes_per_second": bytes}))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_line_is_wider_than_the_screen_and_none_holds_a_control_character(
        links in proptest::collection::vec(any_link(), 0..40),
        words in proptest::collection::vec(any_text(), 0..4),
        wide_screen in 40_usize..200,
        all: bool,
    ) {
        let mut status = status(links);
        let events: Vec<Value> = words.iter().enumerate()
            .map(|(at, words)| event(at as u64, json!({"words": words, "name": words, "site": words, "more": at}))).collect();
        status.events = serde_json::from_value(events.into()).unwrap();
        status.reload = serde_json::from_value(json!({"read_at": 0, "refused": {"since": 0, "faults": words}})).unwrap();
        status.without_link = words.clone();
        let entries: Vec<Value> = words.iter()
            .map(|words| following(words, json!({"attention": words, "next_step": words, "parties": [{"party": words, "words": words}]}))).collect();
        status.following = serde_json::from_value(entries.into()).unwrap();
        status.node = words.concat();
        for most in [80, 40, wide_screen] {
            let lines = lines(&status, View { all, lines: Some(24), ..columns(most) });
            for (_, line) in &lines {
                prop_assert!(width(line) <= most, "{most}: {line:?}");
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
        // The text for a pipe is the one for 80 columns.
        prop_assert_eq!(lines(&status, View { all, ..View::default() }), lines(&status, View { all, lines: Some(24), ..columns(80) }));
    }
}
