//! The files of a release, and mistakes that operators make in configs.

use std::path::Path;

use replgate::internal::config::{Accepted, Auth, Commands, Config, Follow, Sentinel, Source};
use replgate::internal::units::Address;

use time::Duration as Days;

use crate::support::gateway::{Gateway, Lab, replica_config};
use crate::support::pki::{Ca, Leaf};
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate, replgate_ok};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_example_config_is_loaded() {
    let mut found = vec![root().join("gateway.toml")];
    found.extend(
        std::fs::read_dir(root().join("examples"))
            .expect("examples are there")
            .map(|entry| entry.expect("an entry").path()),
    );
    found.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert_eq!(found.len(), 3, "{found:?}");
    for path in found {
        let config =
            replgate::internal::config::Config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(config.masters.len() + config.replicas.len(), 1);
    }
}

#[test]
fn the_example_of_three_sites_is_loaded_and_each_gives_the_others_what_they_need() {
    let folder = root().join("examples/both-ways");
    let count = std::fs::read_dir(&folder).expect("the examples are there").count();
    let load = |site: &str| Config::load(&folder.join(format!("{site}.toml"))).expect("it has no fault");
    let sites = ["dc1", "dc2", "dc3"].map(load);
    assert_eq!(count, sites.len());
    let [dc1, dc2, dc3] = &sites;
    for config in [dc1, dc2] {
        // A replica is never offered, so no ring can be built of the two.
        assert_eq!(config.masters[0].follow, Follow::Master);
        assert_eq!((config.masters.len(), config.replicas.len(), config.warnings.len()), (1, 1, 0));
    }
    assert!(dc3.masters.is_empty() && dc3.replicas[0].has_choice());
    for config in &sites {
        for origin in config.replicas.iter().flat_map(|replica| &replica.from) {
            let far = sites.iter().find(|far| far.site == origin.site).expect("it is one of the three");
            let master = far.master(&config.replicas[0].master).expect("the far site offers it");
            assert!(master.admits(&config.site), "{} does not allow {}", far.site, config.site);
            assert_eq!(origin.peers[0].port, far.listen.expect("it listens").port());
        }
    }
}

#[test]
fn the_commented_lines_of_the_example_are_valid_as_well() {
    let text = std::fs::read_to_string(root().join("gateway.toml")).expect("the example is there");
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with('[')
                    || rest.split_once('=').is_some_and(|(key, _)| {
                        key.trim().chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
                    }) =>
            {
                rest.to_owned() + "\n"
            }
            _ => line.to_owned() + "\n",
        })
        .collect();
    let config =
        replgate::internal::config::Config::parse(&[Source::new("gateway.toml", uncommented.as_str())])
            .unwrap_or_else(|faults| panic!("{faults}\n{uncommented}"));
    // The values that the comments call defaults are the defaults. A password, a limit of full
    // syncs, a state folder, Sentinels and exceptions have no default.
    let mut plain =
        replgate::internal::config::Config::load(&root().join("gateway.toml")).expect("the example loads");
    plain.limits.full_syncs_per_minute = Some(2);
    plain.state = Some("/var/lib/replgate".into());
    let username = Some("repl".to_owned());
    let auth = Some(Auth { username, password_file: "redis.pw".into() });
    let master = std::sync::Arc::make_mut(&mut plain.masters[0]);
    let at = [5, 6, 7].map(|last| Address { host: format!("10.0.0.{last}"), port: 26379 });
    master.sentinel =
        Some(Sentinel { master: "mymaster".to_owned(), at: at.into(), auth: None, networks: Vec::new() });
    master.follow = Follow::Master;
    master.commands = Commands::Replication {
        auth,
        failover: false,
        dump: false,
        slot_migration: false,
        accept_announce: vec![Accepted {
            site: "dc2".to_owned(),
            addresses: vec![Address { host: "127.0.0.1".to_owned(), port: 6380 }],
        }],
    };
    assert_eq!(
        (config.replicas.len(), &config.link, &config.limits, &config.masters),
        (1, &plain.link, &plain.limits, &plain.masters)
    );
}

#[test]
fn the_example_runs_as_it_stands_after_certs_init() {
    let dir = tempfile::tempdir().expect("a folder");
    replgate_ok(dir.path(), &["certs", "init", "dc1", "dc2"]);
    // Unchanged except for the ports, since other tests run at the same time.
    let (wan, master) = (free_port(), free_port());
    let text = std::fs::read_to_string(root().join("gateway.toml")).expect("the example is there");
    let text = text
        .replace("0.0.0.0:7379", &format!("127.0.0.1:{wan}"))
        .replace("127.0.0.1:6379", &format!("127.0.0.1:{master}"));
    let config = dir.path().join("gateway.toml");
    std::fs::write(&config, text).expect("the folder is writable");
    let mut command = std::process::Command::new(REPLGATE);
    command.arg("run").current_dir(dir.path()).env("NO_COLOR", "1");
    let gateway = Gateway::start_by(&config, "dc1", &mut command);
    gateway.wait_ready();
    eventually("it listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", wan)).is_ok());
}

#[test]
fn both_ends_of_the_example_pair_replicate() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let adapt = |file: &str| {
        let text = std::fs::read_to_string(root().join("examples").join(file)).expect("the example is there");
        text.replace("/etc/replgate/certs", &lab.path().join("certs").to_string_lossy())
            .replace("0.0.0.0:7379", &format!("127.0.0.1:{wan}"))
            .replace("gw.dc1.example:7379", &format!("127.0.0.1:{wan}"))
            .replace("127.0.0.1:6379", &format!("127.0.0.1:{}", alpha.port))
            .replace("127.0.0.1:6390", &format!("127.0.0.1:{entry}"))
    };
    let (_first, _second) = (lab.gateway("dc1", &adapt("dc1.toml")), lab.gateway("dc2", &adapt("dc2.toml")));
    let _bravo = lab.replica("bravo", entry, &alpha);
}

#[test]
fn a_config_with_several_mistakes_is_refused_with_all_of_them() {
    let lab = Lab::new();
    let text = "site = \"dc1\"\n[tls]\nca = \"certs/dc1/ca.crt\"\ncert = \"certs/dc1/tls.crt\"\nkee = \"certs/dc1/tls.key\"\n[tunnel]\nlisten = \"7379\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:6379\"\nallow = [\"*.dc2\"]\n";
    std::fs::write(lab.path().join("bad.toml"), text).expect("the lab is writable");
    for command in ["run", "check", "status"] {
        let (code, out, err) = replgate(lab.path(), &[command, "-c", "bad.toml"]);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        for words in [
            "bad.toml:2:1: [tls]: `key` is missing",
            "bad.toml:5:1: [tls]: unknown key `kee`; did you mean `key`?",
            "bad.toml:7:10: [tunnel]: listen: \"7379\" is not an address to listen on",
            "bad.toml:11:10: master \"orders\": allow: \"*.dc2\": a site is one exact name, wildcards are not understood",
            "4 faults in the config",
        ] {
            assert!(err.contains(words), "{words}\n{err}");
        }
    }
}

#[test]
fn usage_faults_exit_with_two_and_help_with_zero() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(replgate(dir.path(), &["run", "-c", "none.toml"]).0, 2);
    assert_eq!(replgate(dir.path(), &["walk"]).0, 2);
    assert_eq!(replgate(dir.path(), &["certs", "issue", "*.dc1"]).0, 2);
    assert_eq!(replgate(dir.path(), &["certs", "issue", "dc1"]).0, 1);
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["certs", "--help"],
        &["certs", "init", "--help"],
        &["demo", "--help"],
    ] {
        assert_eq!(replgate(dir.path(), command).0, 0, "{command:?}");
    }
}

#[test]
fn a_fault_that_may_pass_by_itself_exits_with_one_and_the_unit_restarts_the_gateway() {
    let lab = Lab::new();
    let port = free_port();
    let text = replica_config("dc2", port, 1, "password_file = \"local.pw\"");
    let write = |name: &str, text: &str| {
        std::fs::write(lab.path().join(name), text).expect("the lab is writable");
    };
    write("dc2.toml", &text);
    // Two certificates of other CAs, as if NTP had not set the clock yet, and as if it were ahead.
    let ca = Ca::new("test CA");
    let early = Leaf { from: Days::days(2), ..Leaf::good("dc2") };
    let late = Leaf { from: Days::days(-30), until: Days::hours(-2), ..Leaf::good("dc2") };
    ca.folder(&lab.path().join("early"), &early);
    ca.folder(&lab.path().join("late"), &late);
    for folder in ["early", "late"] {
        write(&format!("{folder}.toml"), &text.replace("certs/dc2", folder));
    }
    write("lost.toml", &text.replace("tls.crt", "not-mounted-yet.crt"));
    for (config, words) in [
        ("early.toml", "it is not valid before"),
        ("late.toml", "it expired at"),
        ("lost.toml", "not-mounted-yet.crt: No such file"),
        ("dc2.toml", "local.pw: No such file"),
    ] {
        let (code, _, err) = replgate(lab.path(), &["run", "-c", config]);
        assert!(code == 1 && err.contains(words), "{config}: {code} {err}");
    }
    // A port in use may become free. A wrong config stays wrong.
    write("local.pw", "secret");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("it was free");
    assert_eq!(replgate(lab.path(), &["run", "-c", "dc2.toml"]).0, 1);
    write("wrong.toml", &text.replace("listen", "lisen"));
    assert_eq!(replgate(lab.path(), &["run", "-c", "wrong.toml"]).0, 2);
    let unit = std::fs::read_to_string(root().join("packaging/replgate.service")).expect("the unit");
    for line in ["Restart=on-failure", "RestartPreventExitStatus=2", "StartLimitIntervalSec=0"] {
        assert!(unit.lines().any(|other| other == line), "{line}\n{unit}");
    }
}

#[test]
fn an_unknown_log_level_or_format_is_refused_and_the_known_ones_are_listed() {
    let lab = Lab::new();
    std::fs::write(lab.path().join("dc2.toml"), replica_config("dc2", free_port(), 1, ""))
        .expect("the lab is writable");
    let run = |level: &str, format: &str, by_environment: bool| {
        let mut command = std::process::Command::new(REPLGATE);
        command.args(["run", "-c", "none.toml"]).current_dir(lab.path());
        match by_environment {
            true => command.env("REPLGATE_LOG_LEVEL", level).env("REPLGATE_LOG_FORMAT", format),
            false => command.args(["--log-level", level, "--log-format", format]),
        };
        let output = crate::support::run(&mut command);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for by_environment in [false, true] {
        for wrong in ["verbose", "warnings", "replgate=debug", "2", "off", ""] {
            let (code, err) = run(wrong, "text", by_environment);
            assert!(code == Some(2) && err.contains("error, warn, info, debug, trace"), "{wrong:?}: {err}");
        }
        let (code, err) = run("info", "logfmt", by_environment);
        assert!(code == Some(2) && err.contains("text, json"), "{err}");
        // With a valid one, the next fault is the missing config.
        for good in ["warning", "WARN", "Error", "trace"] {
            let (_, err) = run(good, "JSON", by_environment);
            assert!(err.contains("none.toml: cannot be read"), "{good}: {err}");
        }
    }
    // `warning` means warn: the log has warnings and nothing below.
    let config = lab.path().join("dc2.toml");
    let mut command = std::process::Command::new(REPLGATE);
    command.args(["run", "--log-level", "warning", "-c", "dc2.toml"]).current_dir(lab.path());
    let gateway = Gateway::start_by(&config, "dc2", command.env("NO_COLOR", "1").env("RUST_LOG", "off"));
    gateway.wait_log("the CA's private key");
    assert!(gateway.lines("INFO", "") == 0, "{}", gateway.log());
}

#[test]
fn the_demo_passes_its_checks_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let output =
        crate::support::run(std::process::Command::new(REPLGATE).arg("demo").env("TMPDIR", dir.path()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("17 of 17 checks good") && !said.contains("FAIL"),
        "{said}"
    );
    for continued in from_memory(&said) {
        assert!(continued > 10 << 20, "each replica lacked ten times the backlog: {said}");
    }
    assert_eq!(from_memory(&said).len(), 2, "both replicas continued: {said}");
    let killed = said.lines().find(|line| line.starts_with("ok    a killed gateway at dc2"));
    let counts =
        killed.and_then(|line| line.split_once("sync_full ")?.1.split_once(',')?.0.split_once(" -> "));
    let (before, after) = counts.unwrap_or_else(|| panic!("the counts are shown: {said}"));
    assert_eq!(before, after, "no full sync: {said}");
    assert!(said.contains("ok    the replicas follow a master that was promoted"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "no folder is left");
    assert!(!processes_in(dir.path()), "no process is left");
}

#[test]
fn a_demo_that_is_kept_stays_up_until_interrupted_and_then_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("log");
    let inner = dir.path().join("tmp");
    std::fs::create_dir(&inner).expect("the folder is writable");
    let mut command = std::process::Command::new(REPLGATE);
    let mut demo =
        crate::support::Process::start("demo", log, command.args(["demo", "--keep"]).env("TMPDIR", &inner));
    eventually("the demo stays up", SOON * 3, || demo.log_text().contains("Ctrl-C stops"));
    assert!(processes_in(&inner) && demo.is_running());
    demo.signal("INT");
    assert_eq!(demo.exit_code(SOON), Some(0));
    assert!(!processes_in(&inner), "no process is left");
    assert_eq!(std::fs::read_dir(&inner).expect("a folder").count(), 0, "no folder is left");
}

/// How many bytes each replica of the demo got from a gateway's memory.
fn from_memory(said: &str) -> Vec<u64> {
    let counts = said.lines().filter_map(|line| {
        line.split_once("continues where its earlier link was: ")?.1.strip_suffix(" bytes from memory")
    });
    counts.map(|count| count.parse().expect("a number of bytes")).collect()
}

/// Whether any process was started with this folder among its arguments.
fn processes_in(folder: &Path) -> bool {
    let output = crate::support::run(std::process::Command::new("pgrep").arg("-f").arg(folder));
    output.status.success()
}

#[test]
fn the_config_is_found_in_its_usual_places_and_the_gateway_by_any_path_to_its_config() {
    let lab = Lab::new();
    let wan = free_port();
    let text = crate::support::gateway::master_config("dc1", wan, &[("orders", free_port())], "");
    std::fs::write(lab.path().join("gateway.toml"), text).expect("the test's folder is writable");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let (code, _, err) = replgate(elsewhere.path(), &["check", "--offline"]);
    let system = Path::new("/etc/replgate/gateway.toml").exists();
    assert!(system || (code == 2 && err.contains("neither gateway.toml in this folder nor /etc/replgate/")));
    // Without -c, from the current folder; and by a symbolic link.
    let out = replgate(lab.path(), &["check", "--offline"]).1;
    assert!(out.contains("ok    config gateway.toml: site dc1"), "{out}");
    let link = elsewhere.path().join("link.toml");
    std::os::unix::fs::symlink(lab.path().join("gateway.toml"), &link).expect("a link can be made");
    let gateway = Gateway::start(&lab.path().join("gateway.toml"), "dc1");
    gateway.wait_ready();
    let name = lab.path().file_name().expect("a name").to_string_lossy().into_owned();
    let around = format!("{}/../{name}/gateway.toml", lab.path().display());
    for config in [&*around, "gateway.toml"] {
        let out = replgate_ok(lab.path(), &["status", "-c", config]);
        assert!(out.contains("site dc1"), "{config}: {out}");
    }
    let by_link = std::process::Command::new(REPLGATE)
        .args(["status", "--json"])
        .env("REPLGATE_CONFIG", lab.path().join("gateway.toml"))
        .output()
        .expect("replgate runs");
    assert!(by_link.status.success(), "{by_link:?}");
    // A gateway that was started with a symbolic link is found by the link and by its target.
    drop(gateway);
    std::fs::create_dir(elsewhere.path().join("etc")).expect("a folder");
    let etc = elsewhere.path().join("etc/gateway.toml");
    std::fs::rename(&link, &etc).expect("the link can be moved");
    std::os::unix::fs::symlink(lab.path().join("certs"), elsewhere.path().join("etc/certs"))
        .expect("a link can be made");
    let gateway = Gateway::start(&etc, "dc1");
    gateway.wait_ready();
    for config in [&etc, &lab.path().join("gateway.toml")] {
        let out = replgate_ok(Path::new("/"), &["status", "-c", &config.to_string_lossy()]);
        assert!(out.contains("site dc1"), "{}: {out}", config.display());
    }
}
