//! `replgate check` as a doctor: what it says of real Redis servers, with advice that is typed as it
//! stands, and of servers that are none.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gateway::{Gateway, Lab, master_config, replica_block, replica_config, tls};
use crate::support::redis::{ALL, Redis, Version};
use crate::support::writer::Writer;
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate, run};

/// The time that `check` gives to everything that waits for others, as docs/check.md says, and some
/// for a loaded machine.
const WHOLE: Duration = Duration::from_secs(30 + 15);

/// What a good Redis of each version is started with beside its defaults.
const GOOD: &[&str] = &["--repl-diskless-sync", "yes", "--appendonly", "yes"];

/// A lab without the key of its CA, which `check` rightly fails for.
fn lab() -> Lab {
    let lab = Lab::new();
    std::fs::remove_file(lab.path().join("certs/ca/ca.key")).expect("the lab has a CA key");
    lab
}

/// What `check` has said.
struct Said {
    code: i32,
    json: Value,
}

impl Said {
    /// Runs `check --json` in a folder.
    #[track_caller]
    fn of(folder: &Path, arguments: &[&str]) -> Self {
        let (code, out, err) = replgate(folder, &[&["check", "--json"], arguments].concat());
        let json = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        Self { code, json }
    }

    fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().expect("there are findings")
    }

    /// The codes of everything that is not ok.
    fn unwell(&self) -> Vec<String> {
        let unwell = self.findings().iter().filter(|finding| finding["level"] != "ok");
        unwell.map(|finding| finding["code"].as_str().expect("a text").to_owned()).collect()
    }

    fn find(&self, code: &str) -> Option<&Value> {
        self.findings().iter().find(|finding| finding["code"] == code)
    }

    #[track_caller]
    fn has(&self, code: &str) -> &Value {
        self.find(code).unwrap_or_else(|| panic!("no finding {code}: {:#}", self.json))
    }

    fn text(&self, code: &str) -> String {
        self.find(code).and_then(|finding| finding["text"].as_str()).unwrap_or_default().to_owned()
    }
}

/// Types a piece of advice. `redis-cli` stands in `PATH`; it prints an error and succeeds all the same.
#[track_caller]
fn type_in(folder: &Path, finding: &Value, password: &str) {
    let advice = finding["advice"].as_str().unwrap_or_else(|| panic!("no advice: {finding:#}"));
    let mut shell = Command::new("sh");
    shell.args(["-c", advice]).current_dir(folder);
    if !password.is_empty() {
        shell.env("REDISCLI_AUTH", password);
    }
    let output = run(&mut shell);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().ends_with("OK"), "{advice}: {output:?}");
}

/// Writes the config of a gateway of dc1 with one master, and returns its name.
fn master(lab: &Lab, redis: u16, more: &str) -> &'static str {
    let text = master_config("dc1", free_port(), &[("orders", redis)], more);
    std::fs::write(lab.path().join("dc1.toml"), text).expect("the lab is writable");
    "dc1.toml"
}

fn write(lab: &Lab, name: &str, text: &str) {
    let path = lab.path().join(name);
    std::fs::write(&path, text).expect("the lab is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("and its files");
}

/// Does something with each version of Redis, side by side.
fn with_each_version(deed: impl Fn(Version) + Sync) {
    std::thread::scope(|scope| {
        for version in ALL {
            let deed = &deed;
            scope.spawn(move || deed(version));
        }
    });
}

#[test]
fn a_good_set_up_gets_no_warning_with_any_version() {
    with_each_version(|version| {
        let lab = lab();
        let alpha = Redis::start(version, lab.path(), "alpha", GOOD);
        let pair = lab.pair(alpha.port);
        let bravo = Redis::start(version, lab.path(), "bravo", GOOD);
        bravo.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        let replica = format!("127.0.0.1:{}", bravo.port);
        let first = ["running", "redis-master", "version", "hold", "backlog", "output-buffer", "persistence"];
        let second = ["replica-follows", "replica-hold", "peer", "clock", "round-trip", "descriptors"];
        for (arguments, codes) in
            [(&["-c", "dc1.toml"][..], &first[..]), (&["-c", "dc2.toml", "--replica", &replica], &second)]
        {
            let said = Said::of(lab.path(), &[arguments, &["--strict"]].concat());
            assert_eq!((said.code, said.unwell()), (0, vec![]), "{version:?}: {:#}", said.json);
            assert_eq!(said.json["healthy"], true);
            for code in codes {
                said.has(code);
            }
        }
    });
}

#[test]
fn each_bad_setting_of_a_master_is_told_and_its_advice_mends_it() {
    let lab = lab();
    for version in ALL {
        let alpha = Redis::start(version, lab.path(), &format!("alpha-{version:?}"), GOOD);
        let config = master(&lab, alpha.port, "");
        let memory = alpha.info("total_system_memory");
        for (key, value, code) in [
            ("repl-timeout", "50", "hold-long"),
            ("repl-ping-replica-period", "21", "ping-period-long"),
            ("appendonly", "no", "no-persistence"),
            ("repl-diskless-sync-delay", "600", "diskless-delay-long"),
            ("maxmemory", memory.trim(), "maxmemory-tight"),
            ("min-replicas-to-write", "1", "min-replicas-lacking"),
        ] {
            alpha.ask(&["CONFIG", "SET", key, value]);
            let said = Said::of(lab.path(), &["-c", config]);
            assert_eq!(said.code, 0, "a warning is no failure");
            type_in(lab.path(), said.has(code), "");
            let after = Said::of(lab.path(), &["-c", config]);
            assert!(after.find(code).is_none(), "{version:?} {key}: {:#}", after.json);
        }
        let said = Said::of(lab.path(), &["-c", config, "--strict"]);
        assert_eq!((said.code, said.unwell()), (0, vec![]), "{version:?}: all of it is mended");
    }
}

#[test]
fn a_backlog_and_buffers_too_small_for_the_write_rate_are_told_and_mended() {
    let lab = lab();
    let small = ["--client-output-buffer-limit", "replica 2mb 1mb 5", "--appendonly", "yes"];
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &small);
    let more = "[limits]\nmemory = \"16MiB\"\n";
    let first = lab.gateway("dc1", &master_config("dc1", free_port(), &[("orders", alpha.port)], more));
    // A replica beside the master: without one there is no backlog, and no rate.
    let near = lab.redis("near");
    near.replicaof(alpha.port);
    near.wait_equal(&alpha);
    let _writer = Writer::on(&alpha, 2_000_000);
    let look = || Said::of(lab.path(), &["-c", "dc1.toml", "--strict"]);
    let mut said = look();
    eventually("the rate is measured", SOON, || {
        said = look();
        said.find("backlog-short").is_some() && said.find("output-buffer-small").is_some()
    });
    assert_eq!(said.code, 1, "--strict");
    let short = said.has("backlog-short");
    let text = short["text"].as_str().expect("a text");
    assert!(text.contains(" × (45s hold + 20s for the restart) = "), "{text}");
    let advice = short["advice"].as_str().expect("an advice");
    let (_, line) = advice.split_once("  # redis.conf: ").expect("the line for redis.conf");
    assert!(
        line.starts_with("repl-backlog-size ") && text.contains(&format!("{}: ", &line[18..])),
        "{advice}"
    );
    assert!(said.text("outage-not-covered").contains("half of [limits] memory (16 MiB) is for one link"));
    for code in ["backlog-short", "output-buffer-small"] {
        type_in(lab.path(), said.has(code), "");
    }
    let after = look();
    assert_eq!(after.unwell(), ["outage-not-covered"], "only the gateway's own memory is left");
    drop(first);
}

#[test]
fn the_grants_that_reading_needs_are_named_and_enough() {
    let lab = lab();
    write(&lab, "redis.pw", "gate-secret");
    write(&lab, "other.pw", "other-secret\n");
    write(&lab, "wrong.pw", "wrong-secret\n");
    for version in ALL {
        let arguments = [GOOD, &["--requirepass", "main-secret"]].concat();
        let alpha = Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &arguments);
        alpha.ask(&["ACL", "SETUSER", "repl", "on", ">gate-secret", "+ping", "+replconf", "+psync"]);
        alpha.ask(&["ACL", "SETUSER", "reader", "on", ">other-secret", "+ping", "+info", "+config|get"]);
        let auth = "auth = { username = \"repl\", password_file = \"redis.pw\" }";
        let config = master(&lab, alpha.port, auth);
        let other = ["-c", config, "--strict", "--redis-user", "reader", "--password-file", "other.pw"];
        let said = Said::of(lab.path(), &other);
        assert_eq!((said.code, said.unwell()), (0, vec![]), "another user reads them: {:#}", said.json);
        let said = Said::of(lab.path(), &["-c", config, "--strict"]);
        assert_eq!((said.code, said.unwell()), (1, vec!["grant-missing".to_owned()]));
        let text = said.text("grant-missing");
        assert!(text.contains("user repl lacks") && text.contains("timeouts, backlog, buffers"), "{text}");
        let advice = said.has("grant-missing")["advice"].as_str().expect("an advice");
        assert!(advice.ends_with("ACL SETUSER repl +info '+config|get'"), "{advice}");
        type_in(lab.path(), said.has("grant-missing"), "main-secret");
        let said = Said::of(lab.path(), &["-c", config, "--strict"]);
        assert_eq!((said.code, said.unwell()), (0, vec![]));
        // Neither a password nor what a Redis repeats of it is ever printed.
        let wrong = ["-c", config, "--password-file", "wrong.pw", "--redis-user", "reader"];
        let said = Said::of(lab.path(), &wrong);
        assert_eq!(said.unwell(), ["settings-unread"], "{:#}", said.json);
        let printed = [said.json.to_string(), replgate(lab.path(), &[&["check"], &wrong[..]].concat()).1];
        for secret in ["wrong-secret", "gate-secret", "main-secret", "other-secret"] {
            assert!(printed.iter().all(|text| !text.contains(secret)), "{secret}");
        }
        // Without `auth` the operator learns of both options.
        let said = Said::of(lab.path(), &["-c", master(&lab, alpha.port, "")]);
        assert_eq!(said.unwell(), ["redis-wants-password", "settings-unread"], "{:#}", said.json);
        assert!(said.text("settings-unread").contains("--redis-user"));
    }
}

#[test]
fn a_replica_is_looked_at_and_its_advice_mends_it() {
    with_each_version(|version| {
        let lab = lab();
        write(&lab, "local.pw", "local-secret\n");
        let alpha = Redis::start(version, lab.path(), "alpha", GOOD);
        let pair = lab.pair_with(alpha.port, "", "password_file = \"local.pw\"");
        let bravo = Redis::start(version, lab.path(), "bravo", GOOD);
        let address = format!("127.0.0.1:{}", bravo.port);
        let look = || Said::of(lab.path(), &["-c", "dc2.toml", "--replica", &address]);
        let said = look();
        assert_eq!(said.unwell(), ["replica-follows-nobody"], "{:#}", said.json);
        type_in(lab.path(), said.has("replica-follows-nobody"), "");
        let said = look();
        let unwell: BTreeSet<_> = said.unwell().into_iter().collect();
        let wanted = ["masterauth-missing", "replica-link-down"].map(str::to_owned);
        assert_eq!((said.code, unwell), (1, wanted.into()), "{:#}", said.json);
        type_in(lab.path(), said.has("masterauth-missing"), "");
        bravo.wait_equal(&alpha);
        bravo.ask(&["CONFIG", "SET", "repl-timeout", "30"]);
        bravo.ask(&["CONFIG", "SET", "replica-read-only", "no"]);
        let said = look();
        for code in ["replica-hold-long", "replica-writable"] {
            type_in(lab.path(), said.has(code), "");
        }
        let said = look();
        assert_eq!(said.unwell(), Vec::<String>::new(), "{:#}", said.json);
        assert!(said.text("replica-follows").contains("its link is up at offset"));
        assert!(!said.json.to_string().contains("local-secret"), "a password is never printed");
        // It follows the master itself, past the gateway.
        bravo.ask(&["CONFIG", "SET", "masterauth", ""]);
        bravo.replicaof(alpha.port);
        type_in(lab.path(), look().has("replica-elsewhere"), "");
        drop(pair);
    });
}

/// A server that answers every connection with these bytes, and then keeps it open; and how many
/// connections it has had.
fn fake(bytes: Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut socket in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let bytes = bytes.clone();
            let mut reader = socket.try_clone().expect("a socket can be cloned");
            open.push(socket.try_clone());
            std::thread::spawn(move || {
                let _ = reader.read(&mut [0; 1024]);
                let _ = socket.write_all(&bytes);
            });
        }
    });
    (port, count)
}

#[test]
fn a_server_that_is_no_redis_is_told_and_harms_nothing() {
    let role = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec();
    let more = |rest: &[u8]| [&role, rest].concat();
    let huge = [b"$1048576\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
    let cases = [
        (b"".to_vec(), &["redis-down", "replica-down"][..]),
        (b"*3\r\n$6\r\nmas".to_vec(), &["redis-down", "replica-down"]),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n\x1b[2J\r\n\r\n\r\n".to_vec(),
            &["redis-odd", "settings-unread", "replica-down"],
        ),
        (vec![b'x'; 1 << 20], &["redis-odd", "settings-unread", "replica-down"]),
        (more(b""), &["settings-unread", "replica-down"]),
        (more(&huge), &["settings-unread", "replica-down"]),
    ];
    // They wait for one another's silence, so they are looked at side by side.
    std::thread::scope(|scope| {
        for (bytes, codes) in cases {
            scope.spawn(move || {
                let lab = lab();
                let (port, _) = fake(bytes);
                let address = format!("127.0.0.1:{port}");
                let said = Said::of(lab.path(), &["-c", master(&lab, port, ""), "--replica", &address]);
                let same = said.unwell() == codes && said.code == 1;
                assert!(same, "{codes:?}: {:#}", said.json);
                assert!(!said.json.to_string().contains("\\u001b"), "what it says is escaped");
            });
        }
    });
}

#[test]
fn fifty_entries_with_dead_peers_are_told_within_the_deadline_and_tried_once_a_peer() {
    let lab = lab();
    // It accepts connections and says nothing, for all entries of dc1.
    let (silent, dials) = fake(Vec::new());
    let mut text = tls("dc2");
    for at in 0..50 {
        let peer = if at < 25 { silent } else { free_port() };
        text += &replica_block(&format!("r{at}"), free_port(), peer, "");
    }
    std::fs::write(lab.path().join("dc2.toml"), text).expect("the lab is writable");
    let began = Instant::now();
    let said = Said::of(lab.path(), &["-c", "dc2.toml"]);
    assert!(began.elapsed() < WHOLE, "{:?}", began.elapsed());
    assert_eq!(dials.load(Ordering::SeqCst), 1, "25 entries share a peer that is tried once");
    let count = |code: &str| said.findings().iter().filter(|finding| finding["code"] == code).count();
    assert_eq!((said.code, count("peer-unreached"), count("no-way")), (1, 50, 50), "{:#}", said.json);
}

#[test]
fn many_entries_of_one_master_ask_the_far_gateway_once() {
    let lab = lab();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", GOOD);
    let wan = free_port();
    let _first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    // More than the links without a sync that a site may have at a master.
    let entries =
        (0..200).map(|at| replica_block(&format!("r{at}"), free_port(), wan, "master = \"orders\""));
    std::fs::write(lab.path().join("dc2.toml"), tls("dc2") + &entries.collect::<String>())
        .expect("the lab is writable");
    let said = Said::of(lab.path(), &["-c", "dc2.toml"]);
    let peers = said.findings().iter().filter(|finding| finding["code"] == "peer").count();
    assert_eq!((said.code, peers), (0, 200), "{:?}", said.unwell());
}

#[test]
fn text_and_json_have_the_same_findings() {
    let lab = lab();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &[]);
    let config = master(&lab, alpha.port, "");
    let said = Said::of(lab.path(), &["-c", config]);
    let (code, out, _) = replgate(lab.path(), &["check", "-c", config]);
    let line = |finding: &Value| {
        let advice = finding["advice"].as_str().map_or_else(String::new, |advice| format!("; do: {advice}"));
        let [level, text] = ["level", "text"].map(|field| finding[field].as_str().expect("a text"));
        format!("{level:<4}  {text}{advice}")
    };
    let mut lines: Vec<String> = said.findings().iter().map(line).collect();
    let [ok, warn, fail] = ["ok", "warn", "fail"].map(|level| said.json[level].as_u64().expect("a count"));
    lines.push(format!("{ok} ok, {warn} warn, {fail} fail"));
    assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    assert_eq!((code, said.code, fail, said.json["format"].as_u64()), (0, 0, 0, Some(1)));
    assert_eq!(said.unwell(), ["no-persistence"]);
    // The subjects come in one piece each.
    let mut subjects: Vec<_> = said.findings().iter().map(|finding| finding["subject"].clone()).collect();
    subjects.dedup();
    let different: BTreeSet<_> = subjects.iter().map(ToString::to_string).collect();
    assert_eq!(different.len(), subjects.len(), "{subjects:?}");
    let (code, ..) = replgate(lab.path(), &["check", "--strict", "-c", config]);
    assert_eq!(code, 1, "--strict");
    // What does not fit together is a fault of the command line.
    for wrong in [
        &["--redis-user", "reader"][..],
        &["--replica", "nowhere"],
        &["--offline", "--replica", "127.0.0.1:1"],
    ] {
        assert_eq!(replgate(lab.path(), &[&["check", "-c", config], wrong].concat()).0, 2, "{wrong:?}");
    }
}

#[test]
fn addresses_in_a_loop_are_told() {
    let lab = lab();
    let (wan, entry) = (free_port(), free_port());
    let alpha = Redis::start(Version::System, lab.path(), "alpha", GOOD);
    let look = |redis: u16, peer: u16| {
        let text = format!(
            "{}[tunnel]\nlisten = \"0.0.0.0:{wan}\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:{redis}\"\nallow = [\"dc1\"]\n{}",
            tls("dc2"),
            replica_block("far", entry, peer, "master = \"orders\"")
        );
        std::fs::write(lab.path().join("dc2.toml"), text).expect("the lab is writable");
        Said::of(lab.path(), &["-c", "dc2.toml"])
    };
    assert!(look(entry, wan).find("loop").is_some());
    assert!(look(alpha.port, wan).find("peer-is-tunnel").is_some());
    assert!(look(alpha.port, entry).find("peer-is-listener").is_some());
    // A replica that names itself as the master does is listed under the master's own address.
    let near = Redis::start(Version::System, lab.path(), "near", &[]);
    let port = alpha.port.to_string();
    near.ask(&["CONFIG", "SET", "replica-announce-port", &port]);
    near.replicaof(alpha.port);
    near.wait_equal(&alpha);
    let said = look(alpha.port, free_port());
    assert!(
        said.text("lists-itself").contains(&format!("its own address, 127.0.0.1:{port}")),
        "{:#}",
        said.json
    );
}

#[test]
fn a_ring_through_two_sites_is_seen_from_either() {
    let lab = lab();
    let (alpha, bravo) = (lab.redis("alpha"), lab.redis("bravo"));
    let [wan1, wan2, entry1, entry2] = [(); 4].map(|()| free_port());
    let gateway = |site: &str, wan: u16, redis: &Redis, far: &str, entry: u16, peer: u16| {
        let text = format!(
            "{}[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:{}\"\nallow = [\"{far}\"]\n[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"{far}\"\npeers = [\"127.0.0.1:{peer}\"]\n",
            tls(site),
            redis.port
        );
        lab.gateway(site, &text)
    };
    let _first = gateway("dc1", wan1, &alpha, "dc2", entry1, wan2);
    let _second = gateway("dc2", wan2, &bravo, "dc1", entry2, wan1);
    bravo.replicaof(entry2);
    bravo.wait_equal(&alpha);
    let look = |config: &str| Said::of(lab.path(), &["-c", config]);
    let said = look("dc2.toml");
    assert!(said.find("both-ways").is_some() && said.find("ring").is_none(), "{:#}", said.json);
    // Now the master follows its own replica.
    alpha.replicaof(entry1);
    eventually("both sites see the ring", SOON, || {
        ["dc1.toml", "dc2.toml"].iter().all(|config| look(config).find("ring").is_some())
    });
    assert_eq!(look("dc1.toml").code, 1);
}

#[test]
fn a_running_process_with_another_config_and_another_program_is_told() {
    let lab = lab();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", GOOD);
    let config = lab.path().join(master(&lab, alpha.port, ""));
    let program = lab.path().join("replgate");
    std::fs::copy(REPLGATE, &program).expect("the lab has room");
    let mut command = Command::new("sh");
    // Its limit of open files is too low for its links.
    let script = "ulimit -Sn 300; exec ./replgate run -c dc1.toml";
    command.args(["-c", script]).current_dir(lab.path()).env("NO_COLOR", "1");
    let gateway = Gateway::start_by(&config, "dc1", &mut command);
    gateway.wait_ready();
    let look = || Said::of(lab.path(), &["-c", "dc1.toml"]);
    let said = look();
    assert_eq!(said.unwell(), ["descriptors-few"], "{:#}", said.json);
    type_in_quietly(said.has("descriptors-few"));
    assert_eq!(look().unwell(), Vec::<String>::new());
    // An upgrade puts another file in its place. Only root and who may debug it see that.
    std::fs::remove_file(&program).expect("it is the test's own");
    let is_root = std::fs::read_link(format!("/proc/{}/exe", gateway.process.child.id())).is_ok();
    let text = std::fs::read_to_string(&config).expect("it is the test's own");
    std::fs::write(&config, text + "[limits]\nlinks_per_site = 3\n").expect("the lab is writable");
    let said = look();
    let wanted = if is_root { &["program-replaced", "other-config"][..] } else { &["other-config"] };
    assert_eq!(said.unwell(), wanted, "{:#}", said.json);
    assert!(said.text("running").contains(&format!("process {}", gateway.process.child.id())));
}

/// Types a piece of advice that prints nothing.
#[track_caller]
fn type_in_quietly(finding: &Value) {
    let advice = finding["advice"].as_str().expect("an advice");
    let output = run(Command::new("sh").args(["-c", advice]));
    assert!(output.status.success(), "{advice}: {output:?}");
}

#[test]
fn ends_of_certificates_have_their_levels() {
    use crate::support::pki::{Ca, Leaf};
    let lab = lab();
    let ca = Ca::new("doctor");
    for (days, code, exit) in [(2, "expires-in-3-days", 1), (10, "expires-in-14-days", 0), (60, "expires", 0)]
    {
        let from = time::Duration::days(-1000);
        let leaf = Leaf { from, until: time::Duration::days(days), ..Leaf::good("dc2") };
        ca.folder(&lab.path().join("certs/dc2"), &leaf);
        std::fs::set_permissions(
            lab.path().join("certs/dc2/tls.key"),
            std::fs::Permissions::from_mode(0o600),
        )
        .expect("it is the test's own");
        let text = replica_config("dc2", free_port(), free_port(), "");
        std::fs::write(lab.path().join("dc2.toml"), text).expect("the lab is writable");
        let said = Said::of(lab.path(), &["--offline", "-c", "dc2.toml"]);
        let told: Vec<_> = said.unwell().into_iter().filter(|code| code.starts_with("expires")).collect();
        assert_eq!((told, said.code), (vec![code.to_owned()], exit), "{days}: {:#}", said.json);
    }
}
