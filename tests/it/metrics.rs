//! What the gateways tell Prometheus, in each state, against what Redis and the kernel say; and the rules and
//! the dashboard that are made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::{Gateway, Lab, admin, master_config, replica_block, replica_config, tls};
use crate::support::http::At;
use crate::support::line::Line;
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::{Client, Redis, Version};
use crate::support::writer::Writer;
use crate::support::{Process, SOON, cpu, eventually, free_port, replgate_ok, run};

/// Short times, so that a break is seen soon and survived for long enough to be looked at.
const LINK: &str = "[link]\nheartbeat = \"100ms\"\ndead_after = \"500ms\"\nhold = \"30s\"\n";

/// The labels of the one entry of each gateway.
const HERE: [&str; 2] =
    [r#"name="orders",role="master",site="dc2""#, r#"name="orders",role="replica",site="dc1""#];

/// The samples of one answer, by name with labels.
#[derive(Debug)]
struct Told(BTreeMap<String, f64>);

impl Told {
    fn of(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| line.rsplit_once(' ').expect("a sample has a value"));
        Self(samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect())
    }

    /// A sample, if there is one.
    fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.0))
    }

    /// Whether any sample has this in its name or labels.
    fn mentions(&self, words: &str) -> bool {
        self.0.keys().any(|series| series.contains(words))
    }
}

/// A gateway whose metrics can be asked for.
struct Shown<'a> {
    gateway: &'a Gateway,
    at: At,
    /// The labels of its entry.
    labels: &'static str,
}

impl Shown<'_> {
    fn text(&self) -> String {
        let answer = self.at.get("/metrics");
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("text/plain; version=0.0.4; charset=utf-8"))
        );
        answer.body
    }

    fn told(&self) -> Told {
        Told::of(&self.text())
    }

    /// A sample of its entry, with these labels more.
    fn find(&self, told: &Told, name: &str, more: &str) -> Option<f64> {
        told.find(&self.series(name, more))
    }

    fn series(&self, name: &str, more: &str) -> String {
        let more = if more.is_empty() { String::new() } else { format!(",{more}") };
        format!("{name}{{{}{more}}}", self.labels)
    }

    #[track_caller]
    fn get(&self, told: &Told, name: &str, more: &str) -> f64 {
        told.get(&self.series(name, more))
    }

    /// Waits until a sample of its entry is this.
    #[track_caller]
    fn wait(&self, name: &str, more: &str, value: f64) -> Told {
        let series = self.series(name, more);
        self.wait_series(&series, value)
    }

    #[track_caller]
    fn wait_series(&self, series: &str, value: f64) -> Told {
        let mut told = self.told();
        eventually(&format!("{series} is {value}"), SOON, || {
            told = self.told();
            told.find(series) == Some(value)
        });
        told
    }

    fn status(&self) -> Value {
        self.gateway.status()
    }
}

/// A master and its replica with a path between their gateways, which tell their metrics.
struct Watched {
    line: Line,
    ports: [u16; 2],
}

impl Watched {
    /// The replica does not follow yet.
    fn apart(version: Version) -> Self {
        let ports = [free_port(), free_port()];
        let [first, second] = ports.map(|port| format!("{LINK}{}", admin(port)));
        Self { line: Line::apart(version, &first, &second), ports }
    }

    fn in_sync() -> Self {
        let watched = Self::apart(Version::System);
        watched.line.follow();
        watched.line.bravo.wait_equal(&watched.line.alpha);
        watched
    }

    /// The gateway at the master's site, and the one at the replica's.
    fn both(&self) -> [Shown<'_>; 2] {
        let gateways = self.line.gateways();
        [0, 1].map(|at| Shown { gateway: gateways[at], at: At::Port(self.ports[at]), labels: HERE[at] })
    }
}

/// What `INFO` of the master says that its only replica lacks.
fn behind(master: &Redis) -> i64 {
    let line = master.info("slave0");
    let offset = line.split(',').find_map(|part| part.strip_prefix("offset=")?.trim().parse::<i64>().ok());
    master.master_offset() - offset.unwrap_or(0)
}

/// The number in the line of a file of `/proc` that begins like this.
fn proc_number(gateway: &Gateway, file: &str, line: &str) -> f64 {
    let path = format!("/proc/{}/{file}", gateway.process.child.id());
    let text = std::fs::read_to_string(path).expect("the gateway runs");
    let rest = text.lines().find_map(|found| found.strip_prefix(line)).expect("the line is there");
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_stream_is_told_as_redis_and_the_kernel_see_it() {
    let watched = Watched::in_sync();
    let Line { alpha, bravo, .. } = &watched.line;
    alpha.fill();
    bravo.wait_equal(alpha);
    for shown in watched.both() {
        shown.wait("replgate_lag_bytes", "", 0.0);
        let told = shown.wait("replgate_links", r#"state="streaming""#, 1.0);
        let get = |name: &str, more: &str| shown.get(&told, name, more);
        assert_eq!(get("replgate_link_up", ""), 1.0);
        assert_eq!(get("replgate_lag_seconds", ""), 0.0);
        assert_eq!(get("replgate_links_opened_total", ""), 1.0);
        assert_eq!(get("replgate_syncs_total", r#"kind="full""#), alpha.sync_full() as f64);
        assert_eq!(get("replgate_syncs_total", r#"kind="partial""#), alpha.sync_partial_ok() as f64);
        assert_eq!((get("replgate_lanes", ""), get("replgate_link_held_seconds", "")), (1.0, 0.0));
        assert_eq!(
            (get("replgate_link_hold_left_seconds", ""), get("replgate_link_hold_seconds", "")),
            (30.0, 30.0)
        );
        assert!((1e-6..1.0).contains(&get("replgate_round_trip_seconds", "")), "over loopback");
        assert_eq!(shown.find(&told, "replgate_sync_bytes", ""), None, "no sync is under way");
        assert_eq!((breaks(&shown, &told), get("replgate_breaks_total", r#"cause="silent""#)), (0.0, 0.0));
        // What `status` says, which other tests compare with INFO.
        let status = shown.status();
        let link = &status["links"][0];
        let of = |field: &str| link[field].as_f64().expect("a number");
        let (least, most) =
            (get("replgate_payload_bytes_total", r#"direction="to_replica""#), of("to_replica_bytes"));
        assert!((alpha.master_offset() as f64..=most).contains(&least), "{least} of {most}");
        let carried = get("replgate_carried_bytes_total", "");
        assert!((least..=of("carried_bytes")).contains(&carried), "{carried} carried for {least}");
        assert_eq!(get("replgate_window_bytes", ""), of("window_bytes"));
        assert_eq!(
            told.get("replgate_memory_limit_bytes"),
            status["memory_limit"].as_f64().expect("a number")
        );
        assert_eq!(told.get("replgate_ready"), 1.0);
        let version = format!("version={:?},local_site={}", env!("CARGO_PKG_VERSION"), status["site"]);
        assert_eq!(told.get(&format!("replgate_build_info{{{version}}}")), 1.0);
        let expires = status["certificate_expires"].as_f64().expect("a number");
        let certificates =
            told.0.iter().filter(|(series, _)| series.starts_with("replgate_certificate_expiry"));
        let own = certificates.filter(|(series, _)| series.contains(r#"kind="certificate""#));
        assert_eq!(own.map(|(_, until)| *until).collect::<Vec<_>>(), [expires]);
        assert!(told.mentions(r#"kind="ca",name="CN=replgate CA"#), "{told:?}");
        let list = &status["lists"][0];
        let stale = format!("replgate_revocation_list_stale_timestamp_seconds{{issuer={}}}", list["issuer"]);
        assert_eq!(told.get(&stale), list["until"].as_f64().expect("the lab's list has an end"));
    }
}

#[test]
fn what_the_process_uses_is_told_as_the_kernel_counts_it_also_once_it_is_locked_in() {
    let watched = Watched::in_sync();
    for shown in watched.both() {
        let gateway = shown.gateway;
        assert!(gateway.log().contains("locked in"), "{}", gateway.log());
        let before = cpu(gateway.process.child.id());
        let told = shown.told();
        let used = told.get("process_cpu_seconds_total");
        // The kernel counts in hundredths here.
        assert!((before - 0.02..=cpu(gateway.process.child.id()) + 0.02).contains(&used), "{used} s");
        // The scrape's own connection is open while it is answered, and another one may not be closed yet.
        let (open, counted) = (told.get("process_open_fds"), gateway.descriptors() as f64);
        assert!((open - counted).abs() <= 3.0 && open > 10.0, "{open}, and then {counted}");
        assert_eq!(told.get("process_max_fds"), proc_number(gateway, "limits", "Max open files"));
        let (resident, now) = (told.get("process_resident_memory_bytes"), gateway.memory() as f64);
        assert!((resident - now).abs() < now / 4.0, "{resident}, and then {now}");
        assert!(told.get("process_virtual_memory_bytes") > resident);
        let stat = std::fs::read_to_string("/proc/stat").expect("this is Linux");
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")).expect("it has the boot");
        let own =
            std::fs::read_to_string(format!("/proc/{}/stat", gateway.process.child.id())).expect("it runs");
        let ticks: f64 = own
            .rsplit_once(')')
            .expect("a name")
            .1
            .split_whitespace()
            .nth(19)
            .expect("ticks")
            .parse()
            .expect("a number");
        let started = boot.trim().parse::<f64>().expect("a number") + ticks / 100.0;
        assert!((told.get("process_start_time_seconds") - started).abs() < 2.0);
    }
    // Clients that say nothing hold one each.
    let [_, second] = watched.both();
    let before = second.told().get("process_open_fds");
    let idle: Vec<_> = (0..30).filter_map(|_| Client::connect(watched.line.entry)).collect();
    eventually("they are counted", SOON, || second.told().get("process_open_fds") >= before + 25.0);
    drop(idle);
}

#[test]
fn a_replica_that_stands_still_is_behind_by_what_info_says() {
    let watched = Watched::in_sync();
    let Line { alpha, bravo, .. } = &watched.line;
    bravo.process.signal("STOP");
    eventually("it stands still", SOON, || bravo.process.is_stopped());
    alpha.ask(&["SET", "big", &"x".repeat(20_000)]);
    for shown in watched.both() {
        // The master goes on writing its pings.
        eventually("the lag is that of INFO", SOON, || {
            let before = behind(alpha);
            let told = shown.told();
            let lag = shown.get(&told, "replgate_lag_bytes", "");
            lag > 20_000.0 && (before as f64..=behind(alpha) as f64).contains(&lag)
        });
        eventually("it grows in time", SOON, || shown.get(&shown.told(), "replgate_lag_seconds", "") > 1.5);
    }
    bravo.process.signal("CONT");
    for shown in watched.both() {
        shown.wait("replgate_lag_bytes", "", 0.0);
        assert_eq!(shown.get(&shown.told(), "replgate_lag_seconds", ""), 0.0);
    }
}

#[test]
fn a_handshake_is_a_link_that_is_not_up_and_its_end_is_counted() {
    let watched = Watched::apart(Version::System);
    let mut client = Client::connect(watched.line.entry).expect("the listener is there");
    client.ask(&["PING"]);
    client.ask(&["REPLCONF", "listening-port", "6380"]);
    for shown in watched.both() {
        let told = shown.wait("replgate_links", r#"state="handshake""#, 1.0);
        assert_eq!(shown.get(&told, "replgate_link_up", ""), 0.0);
        assert_eq!(shown.find(&told, "replgate_lag_bytes", ""), None);
        assert_eq!(shown.get(&told, "replgate_syncs_total", r#"kind="full""#), 0.0);
    }
    drop(client);
    for (shown, end) in watched.both().into_iter().zip(["far", "replica-closed"]) {
        let told = shown.wait("replgate_links", r#"state="handshake""#, 0.0);
        assert_eq!(shown.get(&told, "replgate_links_ended_total", &format!("end={end:?}")), 1.0);
        assert_eq!(shown.get(&told, "replgate_links_opened_total", ""), 1.0);
    }
    let [_, second] = watched.both();
    assert!(second.get(&second.told(), "replgate_dials_total", r#"outcome="opened""#) >= 1.0);
}

#[test]
fn a_full_sync_shows_its_progress_once_also_over_two_connections() {
    for (version, channel) in [(Version::System, false), (Version::V8, true)] {
        let watched = Watched::apart(version);
        let Line { alpha, bravo, path, .. } = &watched.line;
        let settings = [
            ("repl-diskless-sync", if channel { "yes" } else { "no" }),
            ("rdbcompression", "no"),
            ("repl-rdb-channel", "yes"),
        ];
        for (key, value) in settings.iter().take(if channel { 3 } else { 2 }) {
            for redis in [alpha, bravo] {
                redis.ask(&["CONFIG", "SET", key, value]);
            }
        }
        alpha.ask(&["DEBUG", "POPULATE", "100000", "key", "200"]);
        path.limit(Some(4 << 20));
        watched.line.follow();
        for shown in watched.both() {
            let mut last = (0.0, 0.0);
            eventually("a full sync is under way", SOON, || {
                let told = shown.told();
                let status = shown.status();
                let bytes = shown.find(&told, "replgate_sync_bytes", "").unwrap_or(0.0);
                let main = status["links"].as_array().and_then(|links| {
                    links.iter().find(|link| link["replication"]["part_of"].is_null()).cloned()
                });
                let now =
                    main.and_then(|main| main["replication"]["snapshot"]["bytes"].as_f64()).unwrap_or(0.0);
                assert!(bytes <= now || now == 0.0, "{bytes} told, and {now} a moment later");
                assert!(bytes >= last.0, "it only grows");
                let ratio = shown.find(&told, "replgate_sync_progress_ratio", "");
                assert_eq!(
                    ratio.is_some() && bytes > 0.0,
                    bytes > 0.0 && !channel,
                    "only a known size has a ratio"
                );
                assert!(
                    ratio.is_none_or(|ratio| (last.1..=1.0).contains(&ratio)),
                    "{ratio:?} after {last:?}"
                );
                last = (bytes, ratio.unwrap_or(0.0));
                let links = shown.get(&told, "replgate_links", r#"state="full_sync""#);
                bytes > 1_000_000.0 && links == if channel { 2.0 } else { 1.0 }
            });
            assert!(channel || last.1 > 0.01, "{last:?}");
            assert_eq!(shown.get(&shown.told(), "replgate_link_up", ""), 1.0);
        }
        path.limit(None);
        bravo.wait_equal(alpha);
        for shown in watched.both() {
            let told = shown.wait("replgate_links", r#"state="streaming""#, 1.0);
            assert_eq!(shown.find(&told, "replgate_sync_progress_ratio", ""), None);
            assert_eq!(shown.get(&told, "replgate_syncs_total", r#"kind="full""#), alpha.sync_full() as f64);
        }
    }
}

/// The breaks of an entry, whatever their causes.
fn breaks(shown: &Shown<'_>, told: &Told) -> f64 {
    let of_entry = format!("replgate_breaks_total{{{},cause=", shown.labels);
    told.0.iter().filter(|(series, _)| series.starts_with(&of_entry)).map(|(_, count)| count).sum()
}

#[test]
fn a_break_is_told_while_it_lasts_and_counted_when_it_is_over_and_when_the_link_is() {
    let watched = Watched::in_sync();
    let Line { alpha, bravo, path, .. } = &watched.line;
    let writer = Writer::on(alpha, 200_000);
    path.refuse(true);
    path.close();
    for shown in watched.both() {
        watched.line.wait_held(shown.gateway);
        let told = shown.wait("replgate_links", r#"state="held""#, 1.0);
        let get = |name: &str, more: &str| shown.get(&told, name, more);
        assert_eq!((get("replgate_link_up", ""), get("replgate_lanes", "")), (0.0, 0.0));
        let (held, left, hold) = (
            get("replgate_link_held_seconds", ""),
            get("replgate_link_hold_left_seconds", ""),
            get("replgate_link_hold_seconds", ""),
        );
        assert!(held > 0.0 && (held + left - hold).abs() < 0.1 && hold == 30.0, "{held} + {left} of {hold}");
        assert_eq!(breaks(&shown, &told), 1.0);
        let log = shown.gateway.log();
        let line = log.lines().find(|line| line.contains("link held")).expect("it is logged");
        let cause = line.split(' ').find(|word| word.starts_with("cause=")).expect("with its cause");
        assert_eq!(get("replgate_breaks_total", cause), 1.0);
        assert_eq!(get("replgate_breaks_ended_total", r#"outcome="resumed""#), 0.0);
    }
    let [first, second] = watched.both();
    eventually("what the master writes is kept, and the dials are counted", SOON, || {
        let (here, there) = (first.told(), second.told());
        first.get(&here, "replgate_window_used_bytes", "") > 100_000.0
            && here.get("replgate_memory_used_bytes") > 100_000.0
            && second.get(&there, "replgate_dials_total", r#"outcome="unreached""#) >= 2.0
    });
    let opened = second.get(&second.told(), "replgate_dials_total", r#"outcome="opened""#);
    path.refuse(false);
    watched.line.arrives(100_000, SOON);
    for shown in watched.both() {
        let told = shown.wait("replgate_breaks_ended_total", r#"outcome="resumed""#, 1.0);
        assert_eq!(shown.get(&told, "replgate_breaks_ended_total", r#"outcome="lost""#), 0.0);
        assert_eq!(shown.get(&told, "replgate_link_up", ""), 1.0);
        assert_eq!(shown.get(&told, "replgate_link_held_seconds", ""), 0.0);
    }
    assert!(second.get(&second.told(), "replgate_dials_total", r#"outcome="opened""#) > opened);
    writer.stop();
    bravo.wait_equal(alpha);
    // The next break is not survived: the replica leaves in it.
    path.refuse(true);
    path.close();
    watched.line.wait_held(&watched.line.second);
    let before = second.told();
    let payload = second.get(&before, "replgate_payload_bytes_total", r#"direction="to_replica""#);
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    let after = second.wait("replgate_breaks_ended_total", r#"outcome="lost""#, 1.0);
    assert_eq!(second.get(&after, "replgate_links_ended_total", r#"end="replica-closed""#), 1.0);
    assert_eq!(second.get(&after, "replgate_links", r#"state="held""#), 0.0);
    // Counts outlive the link.
    assert!(second.get(&after, "replgate_payload_bytes_total", r#"direction="to_replica""#) >= payload);
    assert_eq!(breaks(&second, &after), 2.0);
    assert_eq!(second.get(&after, "replgate_breaks_ended_total", r#"outcome="resumed""#), 1.0);
}

#[test]
fn refusals_are_counted_by_kind_logged_or_not_and_a_site_that_is_not_allowed_gets_no_label() {
    let (lab, ports) = (Lab::new(), [free_port(), free_port()]);
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let first =
        lab.gateway("dc1", &(master_config("dc1", wan, &[("orders", alpha.port)], "") + &admin(ports[0])));
    let third = format!("{}{}{}", tls("dc3"), replica_block("orders", entry, wan, ""), admin(ports[1]));
    let third = lab.gateway("dc3", &third);
    let master = Shown { gateway: &first, at: At::Port(ports[0]), labels: HERE[0] };
    let replica = Shown { gateway: &third, at: At::Port(ports[1]), labels: HERE[1] };
    let calm = replica.told();
    assert_eq!(calm.get(r#"replgate_replica_without_link{name="orders",site="dc1"}"#), 0.0);
    let bravo = lab.redis("bravo");
    bravo.replicaof(entry);
    eventually("it is refused again and again", SOON, || {
        master.told().get(r#"replgate_refused_total{kind="not-allowed"}"#) >= 4.0
    });
    let told = replica.wait_series(r#"replgate_replica_without_link{name="orders",site="dc1"}"#, 1.0);
    assert!(replica.get(&told, "replgate_dials_total", r#"outcome="refused""#) >= 4.0);
    assert_eq!(replica.get(&told, "replgate_dials_total", r#"outcome="opened""#), 0.0);
    assert_eq!(
        (replica.get(&told, "replgate_link_up", ""), replica.get(&told, "replgate_links_opened_total", "")),
        (0.0, 0.0)
    );
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    // All of them are in the sum that `status` shows, and few of them in the log.
    eventually("they are counted once each", SOON, || {
        let counted = first.status()["counts"]["refused"].as_f64();
        let told = master.told();
        let kinds = told.0.iter().filter(|(series, _)| series.starts_with("replgate_refused_total"));
        Some(kinds.map(|(_, count)| count).sum::<f64>()) == counted
    });
    assert_eq!(first.lines("WARN", "does not list"), 1);
    let text = master.text();
    assert!(!text.contains("dc3"), "a site that the config does not name:\n{text}");
    let opened = Told::of(&text);
    assert_eq!(master.get(&opened, "replgate_links_opened_total", ""), 0.0);
}

#[test]
fn a_sync_that_the_master_refuses_each_time_is_told_at_both_sites_also_between_the_tries() {
    let watched = Watched::apart(Version::System);
    let Line { alpha, bravo, .. } = &watched.line;
    // A replica without its own master refuses every sync.
    alpha.replicaof(free_port());
    bravo.replicaof(watched.line.entry);
    for shown in watched.both() {
        let series = shown.series("replgate_syncs_total", r#"kind="refused""#);
        eventually("it is refused again and again", SOON, || shown.told().get(&series) >= 2.0);
        // No try is under way: the link of the last one is gone.
        let mut status = shown.status();
        eventually("a moment between two tries is seen", SOON, || {
            status = shown.status();
            status["links"].as_array().is_some_and(Vec::is_empty)
        });
        let missing = &status["missing_syncs"][0];
        assert_eq!(missing["name"], "orders");
        let role = if shown.labels == HERE[0] { "master" } else { "replica" };
        assert_eq!(missing["role"], role);
        assert!(
            missing["reason"].as_str().is_some_and(|reason| reason.contains("NOMASTERLINK")),
            "{missing}"
        );
    }
    let config = watched.line.second.config.to_string_lossy().into_owned();
    let mut command = Command::new(crate::support::REPLGATE);
    let out = command.args(["status", "--ready", "--links", "-c", &config]).output().expect("it runs");
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(!out.status.success() && said.contains("a replica asked for a sync of"), "{said}");
    alpha.ask(&["REPLICAOF", "NO", "ONE"]);
    for shown in watched.both() {
        shown.wait("replgate_syncs_total", r#"kind="full""#, 1.0);
        eventually("a sync has begun", SOON, || shown.status()["missing_syncs"] == Value::Array(Vec::new()));
    }
}

#[test]
fn an_expired_certificate_is_told_by_its_date_and_by_readiness() {
    let (lab, port) = (Lab::new(), free_port());
    let folder = lab.path().join("certs/dc2");
    let ca = Ca::new("test CA");
    ca.folder(&folder, &Leaf { until: time::Duration::seconds(6), ..Leaf::good("dc2") });
    let stale = ca.list_of(&[], 1, time::Duration::hours(-1));
    std::fs::write(folder.join("crl.pem"), stale).expect("the lab is writable");
    let gateway = lab.gateway("dc2", &(replica_config("dc2", free_port(), 1, "") + &admin(port)));
    let shown = Shown { gateway: &gateway, at: At::Port(port), labels: HERE[1] };
    let now = || time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    let of_own = |told: &Told| {
        let series = told.0.iter().find(|(series, _)| series.contains(r#"kind="certificate""#));
        *series.expect("it has a certificate").1
    };
    let told = shown.wait_series("replgate_ready", 0.0);
    assert!(of_own(&told) <= now());
    assert!(told.get(r#"replgate_revocation_list_stale_timestamp_seconds{issuer="CN=test CA"}"#) < now());
    let expiry = r#"replgate_certificate_expiry_timestamp_seconds{kind="ca",name="CN=test CA"}"#;
    assert!(told.get(expiry) > now() + 300.0 * 86_400.0);
    let used = r#"replgate_reloads_total{part="trust",outcome="used"}"#;
    let before = told.get(used);
    ca.folder(&folder, &Leaf::good("dc2"));
    let told = shown.wait_series("replgate_ready", 1.0);
    assert!(of_own(&told) > now() + 20.0 * 86_400.0);
    assert_eq!(told.get(used), before + 1.0, "it came by itself");
}

#[test]
fn a_reload_that_is_refused_and_one_that_takes_an_entry_away_are_told() {
    let (lab, port) = (Lab::new(), free_port());
    let both = |more: &str| replica_config("dc2", free_port(), 1, "") + more + &admin(port);
    let orders = both("");
    let gateway = lab.gateway("dc2", &(orders.clone() + &replica_block("carts", free_port(), 1, "")));
    let shown = Shown { gateway: &gateway, at: At::Port(port), labels: HERE[1] };
    let carts = r#"replgate_link_up{name="carts",role="replica",site="dc1"}"#;
    let counted = r#"replgate_links_opened_total{name="carts",role="replica",site="dc1"}"#;
    let told = shown.told();
    assert_eq!((told.get(carts), told.get("replgate_reload_refused")), (0.0, 0.0));
    let read = told.get("replgate_reload_last_success_timestamp_seconds");
    let reload = |text: &str| {
        std::fs::write(&gateway.config, text).expect("the lab is writable");
        gateway.process.signal("HUP");
    };
    reload("site = ");
    let told = shown.wait_series("replgate_reload_refused", 1.0);
    assert_eq!(told.get(r#"replgate_reloads_total{part="config",outcome="refused"}"#), 1.0);
    assert_eq!(told.get("replgate_reload_last_success_timestamp_seconds"), read);
    assert_eq!(told.get(carts), 0.0, "everything is as before");
    reload(&orders);
    let told = shown.wait_series("replgate_reload_refused", 0.0);
    assert_eq!(told.get(r#"replgate_reloads_total{part="config",outcome="used"}"#), 1.0);
    assert!(told.get("replgate_reload_last_success_timestamp_seconds") >= read);
    assert_eq!((told.find(carts), told.find(counted)), (None, Some(0.0)), "its counters stay for a while");
    reload(&both(&replica_block("sessions", free_port(), 1, "")));
    let told = shown.wait_series(r#"replgate_reloads_total{part="config",outcome="used"}"#, 2.0);
    assert!(!told.mentions("carts") && told.mentions("sessions"), "{told:?}");
}

#[test]
fn compression_and_revocation_lists_that_were_learnt_are_counted() {
    let ports = [free_port(), free_port()];
    let [first, second] = ports.map(|port| format!("{LINK}compression = \"zstd\"\n{}", admin(port)));
    let watched = Watched { line: Line::apart(Version::System, &first, &second), ports };
    let Line { alpha, bravo, lab, .. } = &watched.line;
    watched.line.follow();
    bravo.wait_equal(alpha);
    alpha.ask(&["SET", "text", &"again and again ".repeat(100_000)]);
    bravo.wait_equal(alpha);
    for shown in watched.both() {
        eventually("it is counted", SOON, || {
            shown.get(&shown.told(), "replgate_compression_input_bytes_total", "") > 1_600_000.0
        });
        let told = shown.told();
        let get = |name: &str| shown.get(&told, name, "");
        let (input, output) =
            (get("replgate_compression_input_bytes_total"), get("replgate_compression_output_bytes_total"));
        assert!(output > 0.0 && output < input / 10.0, "{output} of {input}");
        assert!(get("replgate_carried_bytes_total") >= output);
    }
    // A list that dc1 has in its file comes to dc2 from there.
    let elsewhere = lab.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("the lab is writable");
    run(Command::new("cp").arg("-r").arg(lab.path().join("certs")).arg(&elsewhere));
    replgate_ok(&elsewhere, &["certs", "revoke", "dc3"]);
    std::fs::copy(elsewhere.join("certs/ca/crl.pem"), lab.path().join("certs/dc1/crl.pem")).expect("a copy");
    let [first, second] = watched.both();
    let told = second.wait_series("replgate_revocation_lists_learnt_total", 1.0);
    assert_eq!(told.get(r#"replgate_reloads_total{part="trust",outcome="used"}"#), 0.0);
    let told = first.told();
    assert_eq!(told.get("replgate_revocation_lists_learnt_total"), 0.0);
    assert_eq!(told.get(r#"replgate_reloads_total{part="trust",outcome="used"}"#), 1.0);
}

/// Runs promtool in a folder, with this on its stdin. Returns whether it was content, and what it said.
fn promtool(folder: &Path, arguments: &[&str], input: &str) -> (bool, String) {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; run: make test"));
    tool.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = tool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn promtool_has_nothing_to_say_about_a_scrape() {
    let watched = Watched::in_sync();
    for shown in watched.both() {
        let text = shown.text();
        assert_eq!(promtool(Path::new("/"), &["check", "metrics"], &text), (true, String::new()), "{text}");
        assert!(text.lines().count() > 150, "{text}");
    }
}

#[test]
fn a_real_prometheus_takes_every_sample_in_both_formats() {
    let watched = Watched::in_sync();
    let [first, _] = watched.both();
    let (folder, port) = (watched.line.lab.path(), free_port());
    let rules = monitoring().join("replgate.rules.yml");
    let config = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\nrule_files: [{rules:?}]\nscrape_configs:\n  - job_name: replgate\n    static_configs:\n      - targets: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n",
        watched.ports[0], watched.ports[1]
    );
    std::fs::write(folder.join("prometheus.yml"), config).expect("the lab is writable");
    let mut command = Command::new("prometheus");
    command.args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=prometheus",
        &format!("--web.listen-address=127.0.0.1:{port}"),
    ]);
    let _prometheus =
        Process::start("prometheus", folder.join("prometheus.log"), command.current_dir(folder));
    let at = At::Port(port);
    // It closes the connection after an answer to HTTP/1.0, and does not cut it into pieces.
    let ask = |path: &str| -> Option<Value> {
        let answer = at.send(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        serde_json::from_str(&answer.body).ok()
    };
    // The last value of each sample of a query, by instance.
    let query = |expression: &str| -> Vec<f64> {
        let answer = ask(&format!("/api/v1/query?query={expression}"));
        let result =
            answer.and_then(|answer| answer["data"]["result"].as_array().cloned()).unwrap_or_default();
        result.iter().filter_map(|sample| sample["value"][1].as_str()?.parse().ok()).collect()
    };
    eventually("both gateways are scraped", Duration::from_secs(40), || query("sum(up)") == [2.0]);
    eventually("every sample is taken", SOON, || {
        let taken =
            query(&format!("scrape_samples_scraped{{instance=%22127.0.0.1:{}%22}}", watched.ports[0]));
        taken == [first.told().0.len() as f64]
    });
    assert_eq!(query("sum(replgate_links{state=%22streaming%22})"), [2.0]);
    assert_eq!(query("count(replgate_build_info)"), [2.0]);
    let alerts = |groups: &Value| -> Option<(usize, usize)> {
        let groups = groups["data"]["groups"].as_array()?;
        let rules: Vec<&Value> =
            groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        Some((rules.len(), rules.iter().filter(|rule| rule["health"] == "ok").count()))
    };
    eventually("every rule can be evaluated", SOON, || {
        ask("/api/v1/rules").is_some_and(|groups| alerts(&groups) == Some((20, 20)))
    });
    let firing = query("count(ALERTS{alertstate=%22firing%22,alertname!=%22ReplgateFullResync%22})");
    assert!(firing.is_empty(), "nothing is wrong: {:?}", ask("/api/v1/alerts"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn monitoring() -> PathBuf {
    root().join("packaging/monitoring")
}

#[test]
fn the_rules_are_valid_and_each_alert_fires_and_clears_in_its_scenario() {
    let lints =
        promtool(&monitoring(), &["check", "rules", "--lint=all", "--lint-fatal", "replgate.rules.yml"], "");
    assert!(lints.0, "{}", lints.1);
    let (good, said) = promtool(
        &monitoring(),
        &["test", "rules", "replgate.rules.test.yml", "replgate.rules.days.test.yml"],
        "",
    );
    assert!(good, "{said}");
    let read = |file: &str| std::fs::read_to_string(monitoring().join(file)).expect("it is shipped");
    let (rules, tests) = (read("replgate.rules.yml"), read("replgate.rules.test.yml"));
    let alerts = || rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: BTreeSet<&str> = alerts().collect();
    assert_eq!((alerts().count(), names.len()), (20, 19), "the expiry has two degrees");
    let scenarios: Vec<&str> = tests.split("\n  - name: ").skip(1).collect();
    for name in names {
        let quiet = |scenario: &str| scenario.contains(&format!("{{ alertname: {name}, eval_time: "));
        let fires = |scenario: &str| scenario.contains(&format!("- alertname: {name}\n"));
        assert!(quiet(scenarios[0]) && !fires(scenarios[0]), "{name}: the calm scenario");
        let own = scenarios.iter().find(|scenario| fires(scenario));
        let own = own.unwrap_or_else(|| panic!("{name}: no scenario in which it fires"));
        let (before, after) = own.split_once(&format!("- alertname: {name}\n")).expect("it fires");
        assert!(quiet(before) && quiet(after), "{name}: it does not fire before, and clears");
    }
    for severity in rules.lines().filter_map(|line| line.trim().strip_prefix("severity: ")) {
        assert!(["critical", "warning", "info"].contains(&severity), "{severity}");
    }
}

#[test]
fn each_alert_leads_to_its_section_of_the_runbook() {
    let rules = std::fs::read_to_string(monitoring().join("replgate.rules.yml")).expect("it is shipped");
    let runbook = std::fs::read_to_string(root().join("docs/troubleshooting.md")).expect("it is there");
    let mut alerts = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name");
        alerts.insert(name);
        let url = rule.lines().find_map(|line| line.trim().strip_prefix("runbook_url: "));
        let url = url.unwrap_or_else(|| panic!("{name} has no runbook")).trim_matches('"');
        assert_eq!(url, format!("docs/troubleshooting.md#{}", name.to_lowercase()));
        let heading = format!("\n### {name}\n");
        let section = runbook.split_once(&heading).unwrap_or_else(|| panic!("no section {name}")).1;
        let section = section.split("\n#").next().expect("a split has a first part");
        for part in ["- **What it means**: ", "- **First look**: ", "- **What to do**: "] {
            assert_eq!(section.matches(part).count(), 1, "{name}: {part}");
        }
        for key in ["summary: ", "description: "] {
            assert!(rule.lines().any(|line| line.trim().starts_with(key)), "{name}: {key}");
        }
    }
    let sections = runbook.lines().filter_map(|line| line.strip_prefix("### Replgate"));
    assert_eq!(sections.count(), alerts.len(), "a section for each alert, and no other");
}
