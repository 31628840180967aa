//! What `status` and `events` show in each state, and that the document of the JSON is correct.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::gateway::{Gateway, Lab, replica_config};
use crate::support::line::Line;
use crate::support::redis::Version;
use crate::support::terminal::Terminal;
use crate::support::writer::Writer;
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate, replgate_ok};

/// docs/status.md: the fields of each object and what they are, and which of them were seen.
pub struct Form {
    /// By object and field: what it is.
    fields: BTreeMap<(String, String), String>,
    seen: BTreeSet<(String, String)>,
}

impl Form {
    pub fn read() -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
        let text = std::fs::read_to_string(path).expect("the document is there");
        let (mut fields, mut object) = (BTreeMap::new(), String::new());
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                // The last word in quotes is the field that holds such objects.
                object = heading.split('`').nth_back(1).unwrap_or_default().to_owned();
            }
            let cells: Vec<&str> = line.split(" | ").collect();
            if let [field, is, ..] = cells[..]
                && let Some(field) = field.strip_prefix("| `").and_then(|field| field.strip_suffix('`'))
            {
                let earlier = fields.insert((object.clone(), field.to_owned()), is.to_owned());
                assert_eq!(earlier, None, "{object}.{field} is there twice");
            }
        }
        assert!(fields.len() > 100, "{} fields", fields.len());
        Self { fields, seen: BTreeSet::new() }
    }

    /// Asserts that an object has the documented fields and no others, each of the type that the document
    /// says.
    pub fn check(&mut self, object: &str, value: &Value) {
        let found = value.as_object().unwrap_or_else(|| panic!("{object}: {value}"));
        let known: BTreeSet<&str> =
            self.fields.keys().filter(|(of, _)| of == object).map(|(_, field)| field.as_str()).collect();
        let keys: BTreeSet<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(keys, known, "the fields of {object:?} are those of docs/status.md");
        for (field, value) in found {
            let key = (object.to_owned(), field.clone());
            let is = self.fields[&key].clone();
            let (base, may_be_null) = match is.strip_suffix(", or null") {
                Some(base) => (base, true),
                None => (&*is, false),
            };
            if value.is_null() {
                assert!(may_be_null, "{object}.{field} is null, and docs/status.md says: {is}");
                continue;
            }
            let is_empty = value.as_array().is_some_and(Vec::is_empty);
            if !is_empty {
                self.seen.insert(key);
            }
            // The last state of a link that has ended is a link.
            let inner = if field == "link" { "links" } else { field };
            let fits = match base {
                "text" => value.is_string(),
                "number" => value.is_number(),
                "true or false" => value.is_boolean(),
                "object" => {
                    self.check(inner, value);
                    true
                }
                "list of text" => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
                "list of objects" => {
                    value.as_array().expect("a list").iter().for_each(|item| self.check(inner, item));
                    true
                }
                other => panic!("docs/status.md: {object}.{field} is {other:?}"),
            };
            assert!(fits, "{object}.{field} is {value}, and docs/status.md says: {is}");
        }
    }

    fn check_both(&mut self, line: &Line) {
        for gateway in line.gateways() {
            self.check("", &gateway.status());
        }
    }
}

/// The text of `replgate status`; no line is wider than 80 columns.
#[track_caller]
pub fn shown(gateway: &Gateway) -> String {
    let text = replgate_ok(std::path::Path::new("/"), &["status", "-c", &gateway.config.to_string_lossy()]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    text
}

/// Waits until the text of `replgate status` has these words.
#[track_caller]
fn wait_shown(gateway: &Gateway, words: &[&str]) {
    let mut last = String::new();
    let said = |last: &mut String| {
        *last = shown(gateway);
        // Lines are wrapped between words.
        let whole = last.split_whitespace().collect::<Vec<_>>().join(" ");
        words.iter().all(|words| last.contains(words) || whole.contains(words))
    };
    let deadline = std::time::Instant::now() + SOON;
    while !said(&mut last) {
        assert!(std::time::Instant::now() < deadline, "status never shows {words:?}:\n{last}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The events of a gateway of this kind, the oldest first.
fn events(gateway: &Gateway, kind: &str) -> Vec<Value> {
    let config = gateway.config.to_string_lossy();
    let out = replgate_ok(
        std::path::Path::new("/"),
        &["events", "--json", "--kind", kind, "--name", "orders", "-c", &config],
    );
    out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn each_state_and_each_event_is_shown_and_the_document_of_the_json_is_correct() {
    let line = Line::apart(Version::System, "", "");
    let mut form = Form::read();
    // A snapshot whose size the master states, and that takes a few seconds.
    line.alpha.ask(&["CONFIG", "SET", "repl-diskless-sync", "no", "rdbcompression", "no"]);
    line.alpha.ask(&["SETRANGE", "large", "15000000", "x"]);
    form.check_both(&line);
    wait_shown(&line.second, &["ok: no link\n", "far masters offered: orders\n", "gateway up"]);

    line.path.limit(Some(2 << 20));
    line.follow();
    // The sync lasts long enough for its rate to be known.
    eventually("a snapshot passes", SOON, || {
        let links = line.second.status()["links"].clone();
        links[0]["replication"]["snapshot"]["bytes_per_second"].is_u64()
    });
    form.check_both(&line);
    wait_shown(&line.second, &["ok: 1 link, full sync\n", "orders  from dc1  ", "] ", " %"]);
    line.path.limit(None);
    line.bravo.wait_equal(&line.alpha);
    let writer = Writer::on(&line.alpha, 1 << 20);
    eventually("the write rate is known", SOON, || line.first.status()["links"][0]["coverage"].is_object());
    form.check_both(&line);
    wait_shown(
        &line.first,
        &["ok: 1 link, streaming\n", "orders  to dc2    streaming  0.", " MB/s  ", "link up"],
    );

    line.path.refuse(true);
    line.path.cut();
    for gateway in line.gateways() {
        line.wait_held(gateway);
    }
    line.second.wait_kind("no-new-lane-yet");
    form.check_both(&line);
    wait_shown(
        &line.second,
        &[
            "NOT WELL: the link of orders with dc1 is held\n",
            "orders from dc1 (link 1",
            "\n  next: wait, or repair the path between the sites",
            "\norders  from dc1  held ",
        ],
    );
    line.path.refuse(false);
    for gateway in line.gateways() {
        gateway.wait_event("link resumed", &[]);
        let (held, resumed) = (&events(gateway, "held")[0], &events(gateway, "resumed")[0]);
        assert_eq!(
            (&held["link"], &held["level"], &held["cause"]),
            (&1.into(), &"warn".into(), &"failed".into())
        );
        assert!(held["words"].as_str().is_some_and(|words| words.contains("gives up in 45.0 s")), "{held}");
        assert!(
            resumed["seconds"].is_f64() && resumed["number"].as_u64() > held["number"].as_u64(),
            "{resumed}"
        );
    }

    // A reload that is refused, and one that is good.
    let config = std::fs::read_to_string(&line.second.config).expect("it is there");
    std::fs::write(&line.second.config, config.clone() + "unknown = 1\n").expect("ours");
    line.second.process.signal("HUP");
    wait_shown(
        &line.second,
        &["NOT WELL: the last reload was refused\n", "reload REFUSED since ", "unknown key"],
    );
    form.check_both(&line);
    std::fs::write(&line.second.config, config).expect("ours");
    line.second.process.signal("HUP");
    wait_shown(&line.second, &["ok: 1 link, streaming\n"]);

    writer.stop();
    line.bravo.wait_equal(&line.alpha);
    line.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    eventually("the link has ended", SOON, || line.gateways().iter().all(|gateway| gateway.links() == 0));
    form.check_both(&line);
    wait_shown(&line.second, &["ok: no link\n", "link down: the replica closed its connection"]);
    let [near, far] = line.gateways().map(|gateway| events(gateway, "down").remove(0));
    assert_eq!((&far["end"], &far["reason"]), (&"replica-closed".into(), &Value::Null), "{far}");
    assert_eq!((&near["end"], &near["reason"]), (&"far".into(), &"ReplicaClosed".into()), "{near}");

    // Strangers, and a site that is revoked.
    drop(std::io::Write::write_all(
        &mut TcpStream::connect(("127.0.0.1", line.wan)).expect("it listens"),
        b"GET / HTTP/1.0\r\n\r\n",
    ));
    line.first.wait_kind("not-tls");
    replgate_ok(line.lab.path(), &["certs", "revoke", "dc2"]);
    let list = line.lab.path().join("certs");
    std::fs::copy(list.join("ca/crl.pem"), list.join("dc1/crl.pem")).expect("it is there");
    line.first.wait_event("files of trust have changed and are in use", &[]);
    line.follow();
    line.first.wait_kind("revoked");
    line.second.wait_kind("no-link");
    form.check_both(&line);
    wait_shown(&line.second, &["NOT WELL: no link for orders", "a moment ago and got no link: 127.0.0.1:"]);

    // The text, after all of this: one process remembers it, also after reloads.
    let told = |gateway: &Gateway, more: &[&str]| {
        let config = gateway.config.to_string_lossy().into_owned();
        let mut command = Command::new(REPLGATE);
        let out = command
            .args(["events", "-c", &config])
            .args(more)
            .env("COLUMNS", "80")
            .output()
            .expect("it runs");
        let [text, note] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        assert!(
            note.contains("in the memory of process ") && note.contains("journalctl -u replgate"),
            "{note}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    };
    let kinds = |text: &str| {
        let lines = text.lines().filter(|line| line.as_bytes().get(2) == Some(&b':'));
        lines.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect::<Vec<_>>()
    };
    let in_order = |text: &str, wanted: &[&str]| {
        let mut seen = kinds(text).into_iter();
        assert!(
            wanted.iter().all(|kind| seen.any(|seen| seen == *kind)),
            "{wanted:?} in this order in\n{text}"
        );
    };
    in_order(
        &told(&line.first, &[]),
        &["start", "up", "held", "resumed", "down", "not-tls", "trust", "revoked"],
    );
    in_order(
        &told(&line.second, &[]),
        &["start", "up", "held", "resumed", "reload-refused", "reload", "down", "no-link"],
    );
    let some = told(&line.second, &["--name", "ORDERS", "--site", "dc1", "--kind", "held"]);
    assert_eq!(kinds(&some), ["held"]);
    assert!(some.contains("  orders dc1 #1: link held: "), "{some}");
    assert_eq!(told(&line.first, &["--name", "orders", "--kind", "slowed"]), "", "a kind that is known");
    let refused = told(&line.first, &["--kind", "not-tls"]);
    let words = refused.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("(from 127.0.0.1:"), "{refused}");

    // What is not there is no good news.
    let config = line.second.config.to_string_lossy().into_owned();
    for (wrong, says) in [
        (
            &["status", "--master", "nosuch"][..],
            "\"nosuch\" is no master or replica entry of the gateway of site dc2; known: orders\n",
        ),
        (
            &["status", "--json", "--site", "dc9"],
            "\"dc9\" is no far site of the gateway of site dc2; known: dc1\n",
        ),
        (&["status", "--watch", "--master", "nosuch"], "known: orders\n"),
        (&["events", "--name", "nosuch"], "known: orders\n"),
        (&["events", "--follow", "--site", "dc9"], "known: dc1\n"),
        (
            &["events", "--kind", "reloads"],
            "\"reloads\" is no kind of event (docs/logs.md explains them); known: reload, reload-refused, ",
        ),
    ] {
        let (code, text, error) = replgate(line.lab.path(), &[wrong, &["-c", &config]].concat());
        assert!(code == 2 && text.is_empty() && error.contains(says), "{wrong:?}: {code} {text} {error}");
    }
    assert_eq!(
        replgate(line.lab.path(), &["status", "--master", "ORDERS", "--site", "dc1", "-c", &config]).0,
        0
    );

    // What this run does not show has its reason.
    let absent = [
        ("", "listeners_lost"),       // no listener ends by itself
        ("lists", "from"),            // no list was learnt here
        ("replication", "version"),   // Valkey alone tells it
        ("replication", "complaint"), // Redis has none
        ("replication", "unknown"),   // nothing odd passes
        ("replication", "part_of"),   // this Redis syncs over one connection
        ("events", "more"),           // nothing is repeated often enough
        ("", "missing_links"),        // that takes two minutes
        ("", "missing_syncs"),        // this master refuses none: tests/it/metrics.rs has one that does
    ]
    .map(|(object, field)| (object.to_owned(), field.to_owned()));
    // Nothing follows here: tests/it/orders.rs has one that does.
    let of_following = ["following", "present", "parties", "sentinels"];
    let is_absent = |key: &(String, String)| {
        absent.contains(key)
            || key.0.starts_with("missing_")
            || [&*key.0, &*key.1].iter().any(|part| of_following.contains(part))
    };
    let unseen: Vec<_> =
        form.fields.keys().filter(|key| !form.seen.contains(key) && !is_absent(key)).collect();
    assert!(unseen.is_empty(), "never seen with a value: {unseen:?}");
}

#[test]
fn a_watched_status_is_drawn_in_place_and_survives_a_restart_of_the_gateway() {
    let lab = Lab::new();
    let mut gateway = lab.gateway("dc2", &replica_config("dc2", free_port(), 1, ""));
    let config = gateway.config.to_string_lossy().into_owned();
    let mut command = Command::new(REPLGATE);
    let terminal = Terminal::run(command.args(["status", "--watch", "-c", &config]), 80, 24);
    terminal.wait("ok: no link\n");
    let process = format!("process {};", gateway.process.child.id());
    assert!(terminal.picture().contains(&process), "{}", terminal.picture());
    assert!(terminal.seen().contains("\x1b[32mok: no link\x1b[0m\x1b[K"), "{:?}", terminal.seen());
    gateway.kill();
    terminal.wait("NO ANSWER since 20");
    let picture = terminal.picture();
    assert!(
        picture.contains("no gateway runs with") && picture.contains("what it said last, at 20"),
        "{picture}"
    );
    assert!(picture.contains("\n| ok: no link\n") && picture.contains(&process), "{picture}");
    assert!(terminal.seen().contains("\x1b[2m| ok: no link\x1b[0m"), "what is not current is dimmed");
    gateway.start_again();
    let process = format!("process {};", gateway.process.child.id());
    terminal.wait(&process);
    assert!(!terminal.picture().contains("NO ANSWER"), "{}", terminal.picture());
    terminal.resize(50, 7);
    terminal.wait("more lines: a taller terminal shows them");
    let picture = terminal.picture();
    assert!(
        picture.lines().count() <= 6 && picture.lines().all(|line| line.chars().count() <= 50),
        "{picture}"
    );
    // Less than a text is laid out for: lines are cut, and none takes two rows.
    terminal.resize(25, 7);
    terminal.wait("\nsite dc2 on ");
    eventually("each line fits", SOON, || {
        let picture = terminal.picture();
        picture.lines().count() <= 6 && picture.lines().all(|line| line.chars().count() <= 25)
    });
    // Nothing is cleared before it is drawn anew, and there is no second screen to be left.
    let seen = terminal.seen();
    assert!(!seen.contains("\x1b[2J") && !seen.contains("\x1b[?1049h"), "{seen:?}");
}

#[test]
fn a_watched_status_without_a_terminal_is_a_block_of_text_each_second() {
    let lab = Lab::new();
    let gateway = lab.gateway("dc2", &replica_config("dc2", free_port(), 1, ""));
    let config = gateway.config.to_string_lossy().into_owned();
    let mut command = Command::new(REPLGATE);
    let child = command.args(["status", "--watch", "-c", &config]).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("it runs");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    let blocks: Vec<String> = lines
        .take_while({
            let mut verdicts = 0;
            move |line| {
                verdicts += usize::from(line == "ok: no link");
                verdicts < 3
            }
        })
        .collect();
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
    assert!(blocks.iter().all(|line| !line.contains('\x1b')), "{blocks:?}");
    assert_eq!(blocks.iter().filter(|line| line.starts_with("site dc2 on ")).count(), 2, "{blocks:?}");
    // The same text as once.
    let once = replgate(std::path::Path::new("/"), &["status", "-c", &config]).1;
    assert_eq!(once.lines().next(), Some("ok: no link"));
}
