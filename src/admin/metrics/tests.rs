use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{Config, Source};
use crate::follow::{FollowStatus, PresentStatus};
use crate::link::compress::Packed;
use crate::link::{End, LaneLoss, Side};
use crate::redis::replication::Observed;
use crate::registry::{Dialled, Hold, Kind, LinkGuard, LinkStats, NewLink, Registry, Topic};
use crate::tap::Flow;
use crate::tls::expiry::{self, Term};
use crate::tls::revocation::InUse;
use crate::wire::hello::Id;
use crate::wire::terms::Terms;

/// A config that offers masters to sites, and has replicas of dc1.
fn config(masters: &[(&str, &[&str])], replicas: &[&str]) -> Config {
    let mut text = "site = 'dc2'\n[tls]\nca = 'ca'\ncert = 'cert'\nkey = 'key'\n".to_owned();
    if !masters.is_empty() {
        text += "[tunnel]\nlisten = '127.0.0.1:7379'\n";
    }
    for (name, allow) in masters {
        text += &format!("[[master]]\nname = '{name}'\nredis = '127.0.0.1:6379'\nallow = {allow:?}\n");
    }
    for (port, name) in (6390..).zip(replicas) {
        text += &format!(
            "[[replica]]\nname = '{name}'\nlisten = '127.0.0.1:{port}'\nsite = 'DC1'\npeers = ['127.0.0.1:7380']\n"
        );
    }
    Config::parse(&[Source::new(Path::new("gateway.toml"), text)]).unwrap()
}

/// A registry that counts for this config.
fn counting(config: &Config) -> Arc<Registry> {
    let registry = Arc::new(Registry::default());
    registry.follow(config);
    registry
}

fn open(registry: &Arc<Registry>, side: Side, name: &str, site: &str) -> LinkGuard {
    let second = Duration::from_secs(1);
    let terms = Terms {
        window: 1 << 20,
        max_frame: 1 << 16,
        heartbeat: second,
        dead_after: second,
        hold: 45 * second,
        lanes: 2,
        compression: 0,
        reports: false,
        lists: false,
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    registry.open(&NewLink {
        name,
        side,
        site,
        node: "node",
        instance: Id::random(),
        far: address,
        redis: address,
        passthrough: false,
        agreed: terms.agree(&terms, false),
        observed: Some(Observed::new(registry.syncs(side, name, site))),
    })
}

/// What is told of a registry.
struct Told {
    status: Status,
    tallies: Tallies,
    usage: Usage,
    now: i64,
}

impl Told {
    fn text(&self, format: Format) -> String {
        let Self { status, tallies, usage, now } = self;
        text(&Snapshot { status, tallies: tallies.clone(), usage: usage.clone(), now: *now }, format)
    }
}

fn of(registry: &Registry) -> Told {
    let live = registry.live();
    let status = Status {
        site: "dc2".to_owned(),
        node: "node".to_owned(),
        version: "1.2.3".to_owned(),
        pid: 1,
        certificate_expires: 2_000,
        reload: registry.last_reload(),
        without_link: registry.without_link(),
        memory_used: 10,
        memory_limit: 1_000,
        links: live.links,
        ended: live.ended,
        counts: live.counts,
        syncs: live.syncs,
        ..Status::default()
    };
    let usage = Usage { cpu_seconds: 1.5, ..Usage::default() };
    Told { status, tallies: registry.tallies(), usage, now: 1_000 }
}

/// The samples of a page in the text format, by name with labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let earlier = samples.insert(series.to_owned(), value.parse().expect("a number"));
        assert!(earlier.is_none(), "two samples of {series}");
    }
    samples
}

/// The samples of a registry.
fn told(registry: &Registry) -> BTreeMap<String, f64> {
    samples(&of(registry).text(Format::Text))
}

/// The name and the labels of a series.
fn parts(series: &str) -> (&str, Vec<&str>) {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split("\",");
    (name, labels.filter_map(|label| Some(label.split_once('=')?.0)).collect())
}

const ORDERS: &str = r#"name="orders",role="replica",site="DC1""#;

/// A link that has lost its last lane twice, was resumed once, and is held now.
fn held() -> LinkStats {
    let mut breaks = [0; 5];
    breaks[LaneLoss::Closed.place()] = 1;
    breaks[LaneLoss::Silent(Duration::ZERO).place()] = 1;
    LinkStats {
        lanes: 0,
        breaks,
        held: Some(Hold { since: Instant::now() - Duration::from_secs(5), within: Duration::from_secs(45) }),
        carried: 70,
        resent: 7,
        unacknowledged: 300,
        packed: Packed { plain: 100, carried: 40 },
        round_trip: Some(Duration::from_millis(20)),
        ..LinkStats::default()
    }
}

/// A registry of which every metric has something to tell.
fn full(registry: &Arc<Registry>) -> LinkGuard {
    let link = open(registry, Side::Dialler, "orders", "dc1");
    link.update(held());
    link.note_resumed();
    link.note_lane_lost();
    link.count(Flow::ToReplica, 1_000);
    link.count(Flow::ToMaster, 30);
    registry.note_dial("orders", "dc1", Dialled::Opened);
    registry.note_list_learnt();
    link
}

#[test]
fn every_entry_of_the_config_has_its_samples_before_anything_has_happened() {
    let registry = counting(&config(&[("carts", &["dc1", "dc3"])], &["orders", "sessions"]));
    let told = told(&registry);
    let places = [
        r#"name="carts",role="master",site="dc1""#,
        r#"name="carts",role="master",site="dc3""#,
        ORDERS,
        r#"name="sessions",role="replica",site="DC1""#,
    ];
    for place in places {
        for series in [
            format!("replgate_links{{{place},state=\"streaming\"}}"),
            format!("replgate_link_up{{{place}}}"),
            format!("replgate_link_held_seconds{{{place}}}"),
            format!("replgate_breaks_total{{{place},cause=\"silent\"}}"),
            format!("replgate_breaks_ended_total{{{place},outcome=\"lost\"}}"),
            format!("replgate_syncs_total{{{place},kind=\"full\"}}"),
            format!("replgate_links_opened_total{{{place}}}"),
        ] {
            assert_eq!(told.get(&series), Some(&0.0), "{series}");
        }
        assert!(!told.keys().any(|series| series.starts_with(&format!("replgate_lag_bytes{{{place}"))));
    }
    assert_eq!(told[r#"replgate_replica_without_link{name="orders",site="DC1"}"#], 0.0);
    assert_eq!(told[r#"replgate_refused_total{kind="unknown-ca"}"#], 0.0);
    assert_eq!(told[r#"replgate_reloads_total{part="trust",outcome="refused"}"#], 0.0);
    assert_eq!(told[r#"replgate_build_info{version="1.2.3",local_site="dc2"}"#], 1.0);
    let dials = told.keys().filter(|series| series.starts_with("replgate_dials_total"));
    assert_eq!(dials.count(), 6, "only replicas dial");
}

#[test]
fn what_a_link_has_counted_is_told_while_it_lives_and_after_its_end() {
    let registry = counting(&config(&[], &["orders"]));
    let link = full(&registry);
    let now = told(&registry);
    let of =
        |told: &BTreeMap<String, f64>, name: &str, more: &str| told[&format!("{name}{{{ORDERS}{more}}}")];
    assert_eq!(of(&now, "replgate_links", r#",state="held""#), 1.0);
    assert_eq!(of(&now, "replgate_link_up", ""), 0.0);
    assert!((5.0..6.0).contains(&of(&now, "replgate_link_held_seconds", "")));
    assert!((39.0..=40.0).contains(&of(&now, "replgate_link_hold_left_seconds", "")));
    assert_eq!(of(&now, "replgate_link_hold_seconds", ""), 45.0);
    assert_eq!(of(&now, "replgate_window_used_bytes", ""), 300.0);
    // A lane that has gone silent is still there, and tells nothing of the path now.
    let trip = format!("replgate_round_trip_seconds{{{ORDERS}}}");
    assert!(!now.contains_key(&trip), "it is held");
    link.update(LinkStats { held: None, ..held() });
    assert_eq!(told(&registry)[&trip], 0.02);
    link.update(held());
    assert_eq!(of(&now, "replgate_breaks_ended_total", r#",outcome="lost""#), 0.0);
    link.end("no new lane".to_owned(), &End::NoNewLane(LaneLoss::Closed, Duration::ZERO));
    let after = told(&registry);
    for (name, more, count) in [
        ("replgate_links_opened_total", "", 1.0),
        ("replgate_breaks_total", r#",cause="silent""#, 1.0),
        ("replgate_breaks_total", r#",cause="closed""#, 1.0),
        ("replgate_breaks_total", r#",cause="failed""#, 0.0),
        ("replgate_breaks_ended_total", r#",outcome="resumed""#, 1.0),
        ("replgate_lanes_lost_total", "", 1.0),
        ("replgate_dials_total", r#",outcome="opened""#, 1.0),
        ("replgate_payload_bytes_total", r#",direction="to_replica""#, 1_000.0),
        ("replgate_payload_bytes_total", r#",direction="to_master""#, 30.0),
        ("replgate_carried_bytes_total", "", 70.0),
        ("replgate_resent_bytes_total", "", 7.0),
        ("replgate_compression_input_bytes_total", "", 100.0),
        ("replgate_compression_output_bytes_total", "", 40.0),
    ] {
        assert_eq!((of(&now, name, more), of(&after, name, more)), (count, count), "{name}{more}");
    }
    assert_eq!(of(&after, "replgate_breaks_ended_total", r#",outcome="lost""#), 1.0);
    assert_eq!(of(&after, "replgate_links_ended_total", r#",end="no-new-lane""#), 1.0);
    assert_eq!(of(&after, "replgate_links", r#",state="held""#), 0.0);
    assert_eq!(of(&after, "replgate_link_held_seconds", ""), 0.0);
}

#[test]
fn a_far_site_gets_no_label_that_the_config_does_not_have() {
    let registry = counting(&config(&[("carts", &["dc3"])], &["orders"]));
    let strangers: Vec<_> =
        (0..100).map(|at| open(&registry, Side::Acceptor, "carts", &format!("site{at}"))).collect();
    let ours = open(&registry, Side::Acceptor, "carts", "Dc3");
    let told = told(&registry);
    assert_eq!(told[r#"replgate_links_opened_total{name="carts",role="master",site="dc3"}"#], 1.0);
    assert_eq!(told[r#"replgate_links{name="carts",role="master",site="dc3",state="handshake"}"#], 1.0);
    assert_eq!(told[r#"replgate_links_opened_total{name="other",role="master",site="other"}"#], 100.0);
    assert!(!told.keys().any(|series| series.contains("site1") || series.contains("Dc3")));
    drop((strangers, ours));
}

#[test]
fn an_entry_that_a_reload_removes_loses_its_gauges_and_keeps_its_counters_until_the_next_one() {
    let both = config(&[], &["orders", "sessions"]);
    let registry = counting(&both);
    let link = full(&registry);
    registry.follow(&config(&[], &["sessions"]));
    link.end("the reload took it away".to_owned(), &End::NotPermitted(String::new()));
    let told_of_orders = || -> BTreeSet<String> {
        let told = told(&registry).into_keys().filter(|series| series.contains("orders"));
        told.map(|series| parts(&series).0.to_owned()).collect()
    };
    let left = told_of_orders();
    assert!(left.iter().all(|name| name.ends_with("_total")), "{left:?}");
    assert!(left.contains("replgate_payload_bytes_total"));
    let ended = format!("replgate_links_ended_total{{{ORDERS},end=\"not-permitted\"}}");
    assert_eq!(told(&registry)[&ended], 1.0);
    registry.follow(&config(&[("carts", &["dc1"])], &["sessions"]));
    assert_eq!(told_of_orders(), BTreeSet::new());
    // It begins anew if it comes back.
    registry.follow(&both);
    assert_eq!(told(&registry)[&format!("replgate_links_opened_total{{{ORDERS}}}")], 0.0);
}

#[test]
fn what_outlives_its_entry_is_counted_as_other_and_no_count_goes_back() {
    let [with, without] = [config(&[], &["orders", "sessions"]), config(&[], &["sessions"])];
    let registry = counting(&with);
    let syncs = |name: &str| registry.syncs(Side::Dialler, name, "dc1");
    syncs("orders").count_full();
    let link = full(&registry);
    let mut before = BTreeMap::new();
    let mut look = || {
        let now = told(&registry);
        let others = now.iter().filter(|(series, _)| series.contains(r#"name="other""#));
        let others: BTreeMap<_, _> = others
            .filter(|(series, _)| parts(series).0.ends_with("_total"))
            .map(|(s, n)| (s.clone(), *n))
            .collect();
        for (series, count) in &before {
            assert!(others.get(series).is_some_and(|now| now >= count), "{series}: {count}, {others:?}");
        }
        before = others;
        now
    };
    let other = |now: &BTreeMap<String, f64>, name: &str, more: &str| {
        now.get(&format!(r#"replgate_{name}{{name="other",role="replica",site="other"{more}}}"#)).copied()
    };
    look();
    registry.follow(&without);
    look();
    // A change that has nothing to do with it.
    registry.follow(&config(&[("carts", &["dc3"])], &["sessions"]));
    syncs("orders").count_partial();
    let now = look();
    assert_eq!(other(&now, "syncs_total", r#",kind="partial""#), Some(1.0));
    assert_eq!(other(&now, "payload_bytes_total", r#",direction="to_replica""#), Some(1_000.0));
    // It comes back, and begins at 0; what was of no entry stays there.
    registry.follow(&with);
    let now = look();
    for name in ["syncs_total", "payload_bytes_total", "links_opened_total"] {
        let of_orders = |series: &&String| series.starts_with(&format!("replgate_{name}{{{ORDERS}"));
        let counts: Vec<f64> = now.keys().filter(of_orders).map(|series| now[series]).collect();
        assert!(!counts.is_empty() && counts.iter().all(|count| *count == 0.0), "{name}: {counts:?}");
    }
    assert_eq!(other(&now, "syncs_total", r#",kind="partial""#), Some(1.0));
    link.end("it outlived its entry".to_owned(), &End::Finished);
    let now = look();
    assert_eq!(other(&now, "payload_bytes_total", r#",direction="to_replica""#), Some(1_000.0));
    assert!(now.keys().any(|series| series.starts_with(r#"replgate_links_ended_total{name="other""#)));
    assert_eq!(registry.live().syncs.len(), 0, "those of removed entries are gone");
}

#[test]
fn a_refusal_is_counted_whether_its_line_is_logged_or_not() {
    let registry = counting(&config(&[("carts", &["dc3"])], &[]));
    for _ in 0..1_000 {
        registry.may_log(Topic::of(Kind::UnknownCa), "no CA in our `ca` has signed it");
    }
    registry.may_log(Topic::of(Kind::ListRefused), "its number is lower");
    registry.may_log(Topic::of(Kind::Resumed), "no refusal");
    let told = told(&registry);
    assert_eq!(told[r#"replgate_refused_total{kind="unknown-ca"}"#], 1_000.0);
    assert_eq!(told[r#"replgate_refused_total{kind="list-refused"}"#], 1.0);
    assert!(!told.keys().any(|series| series.contains("resumed\"") && series.contains("refused_total")));
}

#[test]
fn of_two_cas_of_one_name_the_first_to_expire_counts_and_names_are_escaped() {
    let registry = counting(&config(&[], &["orders"]));
    let mut snapshot = of(&registry);
    let term = |kind, name: &str, until| Term { kind, name: name.to_owned(), from: 0, until };
    snapshot.status.terms = vec![
        term(expiry::Kind::Certificate, "certs/tls.crt", 2_000),
        term(expiry::Kind::Ca, "CN=a \"CA\"\n\\", 9_000),
        term(expiry::Kind::Ca, "CN=a \"CA\"\n\\", 3_000),
        term(expiry::Kind::List, "CN=a \"CA\"\n\\", 4_000),
    ];
    let list = InUse {
        issuer: "CN=CA".to_owned(),
        number: None,
        from: None,
        made: 0,
        until: Some(4_000),
        revoked: 0,
    };
    snapshot.status.lists = vec![list.clone(), InUse { until: None, ..list }];
    for format in [Format::Text, Format::OpenMetrics] {
        let page = snapshot.text(format);
        let told = samples(&page);
        let expires =
            |labels: &str| told[&format!("replgate_certificate_expiry_timestamp_seconds{{{labels}}}")];
        assert_eq!(expires(r#"kind="certificate",name="certs/tls.crt""#), 2_000.0);
        assert_eq!(expires(r#"kind="ca",name="CN=a \"CA\"\n\\""#), 3_000.0);
        // At 1,000: half of a certificate's life is left, and less than a third of none of them.
        let urgency = |labels: &str| told[&format!("replgate_certificate_urgency{{{labels}}}")];
        assert_eq!(urgency(r#"kind="certificate",name="certs/tls.crt""#), 0.0);
        assert_eq!(urgency(r#"kind="ca",name="CN=a \"CA\"\n\\""#), 0.0);
        assert_eq!(told[r#"replgate_revocation_list_stale_timestamp_seconds{issuer="CN=CA"}"#], 4_000.0);
        assert_eq!(told["replgate_ready"], 1.0);
    }
    let own = |told: &BTreeMap<String, f64>| told[r#"replgate_certificate_urgency{kind="certificate",name="certs/tls.crt"}"#];
    for (now, urgency) in [(1_500, 1.0), (1_801, 2.0), (2_001, 2.0)] {
        snapshot.now = now;
        assert_eq!(own(&samples(&snapshot.text(Format::Text))), urgency, "at {now}");
    }
    assert_eq!(samples(&snapshot.text(Format::Text))["replgate_ready"], 0.0);
}

#[test]
fn who_is_followed_is_told_by_name_and_role_and_never_by_what_sentinels_name() {
    let mut snapshot = of(&counting(&config(&[("carts", &["dc3"])], &["orders"])));
    let entry = |name: &str, role: &str, followed: bool, attention: Option<&str>| FollowStatus {
        name: name.to_owned(),
        role: role.to_owned(),
        present: followed
            .then(|| PresentStatus { party: "10.0.0.99:6379".to_owned(), ..PresentStatus::default() }),
        standby: false,
        attention: attention.map(str::to_owned),
        switches: 3,
        ..FollowStatus::default()
    };
    snapshot.status.following =
        vec![entry("carts", "master", true, None), entry("orders", "replica", false, Some("two masters"))];
    let page = snapshot.text(Format::Text);
    let told = samples(&page);
    let (carts, orders) = (r#"name="carts",role="master""#, r#"name="orders",role="replica""#);
    for (name, entry, value) in [
        ("following", carts, 1.0),
        ("following", orders, 0.0),
        ("follow_attention", carts, 0.0),
        ("follow_attention", orders, 1.0),
        ("follow_switches_total", carts, 3.0),
    ] {
        assert_eq!(told[&format!("replgate_{name}{{{entry}}}")], value, "{name} of {entry}");
    }
    assert!(!page.contains("10.0.0.99"), "{page}");

    let waits = FollowStatus { standby: true, ..entry("carts", "master", false, Some("they are replicas")) };
    snapshot.status.following = vec![waits, entry("orders", "replica", false, None)];
    let told = samples(&snapshot.text(Format::Text));
    for (name, entry, value) in [
        ("following", carts, 0.0),
        ("follow_standby", carts, 1.0),
        ("follow_attention", carts, 0.0),
        ("follow_standby", orders, 0.0),
    ] {
        assert_eq!(told[&format!("replgate_{name}{{{entry}}}")], value, "{name} of {entry}");
    }
}

#[test]
fn whether_a_link_is_up_is_told_only_where_one_is_to_be() {
    let mut snapshot = of(&counting(&config(&[("carts", &["dc3"]), ("stock", &["dc3"])], &["orders"])));
    let entry = |name: &str, role: &str, party: Option<&str>| FollowStatus {
        name: name.to_owned(),
        role: role.to_owned(),
        present: party.map(|party| PresentStatus { party: party.to_owned(), ..PresentStatus::default() }),
        ..FollowStatus::default()
    };
    let mut up = |following: Vec<FollowStatus>| {
        snapshot.status.following = following;
        let told = samples(&snapshot.text(Format::Text));
        let is = |name, role, site| {
            let series = format!(r#"replgate_link_up{{name="{name}",role="{role}",site="{site}"}}"#);
            told.get(&series).copied()
        };
        (is("carts", "master", "dc3"), is("stock", "master", "dc3"), is("orders", "replica", "DC1"))
    };
    let zero = Some(0.0);
    assert_eq!(up(vec![]), (zero, zero, zero), "nothing follows");
    let five = Some("10.0.0.5:6379");
    assert_eq!(
        up(vec![entry("carts", "master", None), entry("orders", "replica", Some("dc9"))]),
        (None, zero, None)
    );
    assert_eq!(
        up(vec![entry("carts", "master", five), entry("orders", "replica", Some("dc1"))]),
        (zero, zero, zero)
    );
    assert_eq!(up(vec![entry("orders", "master", five)]), (zero, zero, None), "its master is here");
}

/// A snapshot of which every metric has a sample.
fn everything() -> Told {
    let registry = counting(&config(&[("carts", &["dc3"])], &["orders"]));
    let (link, ended) = (full(&registry), open(&registry, Side::Dialler, "orders", "dc1"));
    ended.end("over".to_owned(), &End::Stopping);
    let mut snapshot = of(&registry);
    drop(link);
    let link = &mut snapshot.status.links[0];
    link.round_trip_seconds = Some(0.02);
    link.coverage =
        serde_json::from_str(r#"{"bytes_per_second":1.0,"seconds":9.0,"hold_seconds":45.0}"#).unwrap();
    let replication = link.replication.as_mut().unwrap();
    (replication.lag_bytes, replication.lag_seconds) = (Some(10), Some(0.5));
    replication.stage = crate::redis::replication::Stage::FullSync;
    replication.snapshot =
        serde_json::from_str(r#"{"bytes":25,"size":100,"bytes_per_second":1,"seconds_left":75.0}"#).unwrap();
    let following = r#"[{"name":"carts","role":"master","switches":1}]"#;
    snapshot.status.following = serde_json::from_str(following).unwrap();
    let until = |kind, until| Term { kind, name: "name".to_owned(), from: 0, until };
    snapshot.status.terms = vec![until(expiry::Kind::Certificate, 1), until(expiry::Kind::Ca, 2)];
    let list = r#"[{"issuer":"CN=CA","number":"1","from":null,"made":1,"until":2,"revoked":0}]"#;
    snapshot.status.lists = serde_json::from_str(list).unwrap();
    snapshot.usage = Usage {
        cpu_seconds: 1.0,
        resident_bytes: Some(1),
        virtual_bytes: Some(1),
        open_descriptors: Some(1),
        descriptor_limit: Some(1),
        started: Some(1.0),
    };
    snapshot
}

/// The type of each metric of a page in the text format.
fn types(page: &str) -> BTreeMap<&str, &str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[test]
fn the_document_lists_every_metric_with_its_type_unit_and_labels_and_no_other() {
    let document = include_str!("../../../docs/metrics.md");
    let page = everything().text(Format::Text);
    let (types, samples) = (types(&page), samples(&page));
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for series in samples.keys() {
        let (name, names) = parts(series);
        labels.entry(name).or_default().extend(names);
    }
    let mut listed = BTreeSet::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, told, meaning] = cells[..] else { panic!("five columns: {line}") };
        let name = name.trim_matches('`');
        assert!(listed.insert(name), "{name} is listed twice");
        // The text format knows no type for facts.
        let kind = if kind == "info" { "gauge" } else { kind };
        assert_eq!(types.get(name), Some(&kind), "{name}");
        let told: BTreeSet<&str> = told.split_whitespace().map(|label| label.trim_matches('`')).collect();
        assert_eq!(labels.get(name), Some(&told), "{name}: its labels");
        let ends = name.trim_end_matches("_total");
        for end in ["seconds", "bytes"] {
            assert_eq!(ends.ends_with(end), unit == end, "{name}: its unit");
        }
        assert!(meaning.ends_with('.') && !meaning.is_empty(), "{name}: a sentence");
    }
    assert_eq!(listed, types.keys().copied().collect(), "docs/metrics.md and the gateway tell the same");
}

#[test]
fn names_are_as_prometheus_wants_them() {
    let page = everything().text(Format::Text);
    for (name, kind) in types(&page) {
        assert!(name.starts_with("replgate_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(name.bytes().all(|letter| letter.is_ascii_lowercase() || letter == b'_'), "{name}");
    }
    let help: Vec<_> = page.lines().filter(|line| line.starts_with("# HELP")).collect();
    assert!(help.iter().all(|line| line.ends_with('.')), "{help:#?}");
}

#[test]
fn openmetrics_tells_the_same_and_ends_as_it_must() {
    let snapshot = everything();
    let (open, plain) = (snapshot.text(Format::OpenMetrics), snapshot.text(Format::Text));
    assert!(open.ends_with("# EOF\n") && open.matches("# EOF").count() == 1);
    assert_eq!(samples(&open), samples(&plain));
    for line in [
        "# TYPE replgate_build info",
        "# TYPE replgate_breaks counter",
        "# TYPE replgate_lag_bytes gauge",
        "# UNIT replgate_lag_bytes bytes",
        "# UNIT process_cpu_seconds seconds",
    ] {
        assert!(open.lines().any(|other| other == line), "{line}:\n{open}");
    }
}

#[test]
fn openmetrics_is_for_those_who_ask_for_it() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, format) in [
        (prometheus, Format::OpenMetrics),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("text/plain;q=0.1, application/openmetrics-text; version=1.0.0; q=0.2", Format::OpenMetrics),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.2", Format::Text),
        ("application/openmetrics-text;q=0", Format::Text),
        ("application/openmetrics-text;q=many", Format::Text),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
        ("*/*", Format::Text),
        ("", Format::Text),
    ] {
        assert_eq!(Format::asked(accept), format, "{accept}");
    }
}

/// The names of metrics in an expression or a file.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("replgate_") || word.starts_with("process_")).collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are_and_for_every_one_of_them() {
    let dashboard = include_str!("../../../packaging/monitoring/replgate.dashboard.json");
    let page = everything().text(Format::Text);
    let known: BTreeSet<&str> = types(&page).into_keys().collect();
    let parsed: serde_json::Value = serde_json::from_str(dashboard).expect("it is JSON");
    let mut asked = Vec::new();
    expressions(&parsed, &mut asked);
    assert!(asked.len() > 30, "only {} expressions", asked.len());
    let asked: BTreeSet<&str> = asked.iter().flat_map(|expression| metrics_in(expression)).collect();
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    let unused: Vec<_> = known.difference(&asked).collect();
    assert!(unused.is_empty(), "not on the dashboard: {unused:?}");
}

/// Every expression of a dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if matches!(name.as_str(), "expr" | "query" | "definition") => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_rules_and_their_tests_ask_for_metrics_that_there_are() {
    let page = everything().text(Format::Text);
    let known: BTreeSet<&str> = types(&page).into_keys().collect();
    for (file, rules) in [
        ("rules", include_str!("../../../packaging/monitoring/replgate.rules.yml")),
        (
            "tests",
            concat!(
                include_str!("../../../packaging/monitoring/replgate.rules.test.yml"),
                include_str!("../../../packaging/monitoring/replgate.rules.days.test.yml"),
            ),
        ),
    ] {
        let code: String = rules.lines().map(|line| line.split(" #").next().unwrap_or_default()).collect();
        let asked = metrics_in(&code);
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty() && asked.len() > 5, "{file}: {unknown:?}, of {asked:?}");
    }
}
