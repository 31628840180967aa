//! The life cycle of a gateway: start, stop, kill, reload, and paths that break.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::gateway::{Followed, Gateway, Lab, master_config, replica_config, tls};
use crate::support::path::Path;
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::{Client, Redis, Version};
use crate::support::{REPLGATE, SOON, always, eventually, free_port, replgate, replgate_ok};

#[test]
fn a_signal_ends_every_link_in_an_orderly_way_and_exits_with_zero() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    for signal in ["TERM", "INT"] {
        let mut pair = lab.pair(alpha.port);
        let bravo = Redis::start(Version::System, lab.path(), &format!("bravo-{signal}"), &[]);
        bravo.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        pair.first.process.signal(signal);
        assert_eq!(pair.first.process.exit_code(Duration::from_secs(10)), Some(0));
        pair.first.wait_end("stopping");
        assert!(pair.first.log().lines().any(|line| line.contains(" stopped ")), "{}", pair.first.log());
        pair.second.wait_end("far-stopping");
        assert_eq!(alpha.info("connected_slaves"), "0");
        pair.first.start_again();
        bravo.wait_equal(&alpha);
        assert_eq!(pair.second.stop(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_a_stop_that_waits_at_once_with_a_code_of_its_own() {
    let lab = Lab::new();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut pair = lab.pair_with(sender(40_000_000), "commands = \"any\"", "");
        let mut client =
            std::net::TcpStream::connect(("127.0.0.1", pair.entry)).expect("the gateway accepts");
        std::io::Read::read_exact(&mut client, &mut [0; 100_000]).expect("the transfer has begun");
        // The far gateway takes nothing any more, so what was read cannot be delivered.
        pair.second.process.signal("STOP");
        pair.first.process.signal(signal);
        pair.first.wait_log("stopping");
        let process = &mut pair.first.process;
        always("it tries to deliver", Duration::from_secs(1), || process.is_running());
        process.signal(signal);
        assert_eq!(process.exit_code(Duration::from_secs(2)), Some(code));
        assert_eq!(pair.first.lines("WARN", "a second signal: the process ends at once"), 1);
        assert!(!pair.first.log().lines().any(|line| line.contains(" stopped ")), "{}", pair.first.log());
        pair.second.process.signal("CONT");
        assert_eq!(pair.second.stop(), Some(0));
    }
}

#[test]
fn systemd_hears_from_a_gateway_that_works_and_not_from_one_that_hangs() {
    let lab = Lab::new();
    let socket = lab.path().join("notify");
    let heard = std::os::unix::net::UnixDatagram::bind(&socket).expect("the lab is writable");
    let patience = Duration::from_secs(2);
    heard.set_read_timeout(Some(patience)).expect("a socket has a timeout");
    let hears = |words: &str| {
        let mut message = [0; 512];
        let began = std::time::Instant::now();
        while began.elapsed() < patience {
            let Ok(length) = heard.recv(&mut message) else { return false };
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == words) {
                return true;
            }
        }
        false
    };
    let start = |site: &str, microseconds: &str| {
        let config = lab.path().join(format!("{site}.toml"));
        std::fs::write(&config, replica_config(site, free_port(), 1, "")).expect("the lab is writable");
        let mut command = Command::new(REPLGATE);
        command.args(["run", "-c"]).arg(&config).env("NO_COLOR", "1").env("NOTIFY_SOCKET", &socket);
        if !microseconds.is_empty() {
            command.env("WATCHDOG_USEC", microseconds);
        }
        Gateway::start_by(&config, site, &mut command)
    };
    let mut watched = start("dc2", &patience.as_micros().to_string());
    watched.wait_ready();
    assert!(hears("READY=1"));
    for _ in 0..4 {
        assert!(hears("WATCHDOG=1"), "{}", watched.log());
    }
    watched.process.signal("STOP");
    eventually("it hangs", SOON, || watched.process.is_stopped());
    while heard.recv(&mut [0; 512]).is_ok() {}
    assert!(!hears("WATCHDOG=1"));
    watched.process.signal("CONT");
    assert!(hears("WATCHDOG=1"), "{}", watched.log());
    assert_eq!(watched.stop(), Some(0));
    while heard.recv(&mut [0; 512]).is_ok() {}
    // Without a watchdog, systemd is told nothing of that kind.
    let unwatched = start("dc3", "");
    unwatched.wait_ready();
    assert!(!hears("WATCHDOG=1"));
}

#[test]
fn a_gateway_that_is_killed_leaves_no_phantom_and_replication_goes_on_after_its_restart() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "16mb"]);
    alpha.fill();
    let mut pair = lab.pair(alpha.port);
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    for round in 0..2 {
        let gateway = if round == 0 { &mut pair.first } else { &mut pair.second };
        gateway.kill();
        // The gateway at the master's site is gone with its connections; the other one's links are held.
        let listed = if round == 0 { "0" } else { "1" };
        eventually("the master has noticed", SOON, || alpha.info("connected_slaves") == listed);
        alpha.ask(&["SET", "while", &format!("down {round}")]);
        gateway.start_again();
        bravo.wait_equal(&alpha);
    }
    assert_eq!((alpha.info_number("sync_full"), alpha.info_number("sync_partial_ok")), (1, 2));
    assert_eq!(alpha.info("connected_slaves"), "1");
}

#[test]
fn without_hold_a_path_that_dies_silently_ends_the_link_at_both_ends_and_is_replaced() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "16mb"]);
    let (wan, entry) = (free_port(), free_port());
    let unheld = "[link]\nhold = \"0s\"";
    let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], unheld));
    let path = Path::to(wan);
    let second = lab.gateway("dc2", &replica_config("dc2", entry, path.port, unheld));
    let bravo = lab.replica("bravo", entry, &alpha);
    path.silence(true);
    first.wait_event("link down", &["end=\"lane-lost\"", "cause=\"silent\""]);
    second.wait_event("link down", &["end=\"lane-lost\"", "cause=\"silent\""]);
    eventually("no phantom replica is left", SOON, || alpha.info("connected_slaves") == "0");
    path.cut();
    path.silence(false);
    alpha.ask(&["SET", "after", "the break"]);
    bravo.wait_equal(&alpha);
    // A reset is noticed at once, unlike silence.
    path.cut();
    bravo.wait_equal(&alpha);
    assert_eq!(alpha.info_number("sync_full"), 1, "the backlog was enough");
}

#[test]
fn only_ciphertext_crosses_between_the_gateways() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let marker = "a-marker-that-would-be-seen";
    alpha.ask(&["SET", "key", marker]);
    let (wan, entry) = (free_port(), free_port());
    let _first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let path = Path::to(wan);
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, path.port, ""));
    let bravo = Redis::start(Version::System, lab.path(), "bravo", &["--rdbcompression", "no"]);
    bravo.replicaof(entry);
    bravo.wait_equal(&alpha);
    alpha.ask(&["SET", "live", marker]);
    bravo.wait_equal(&alpha);
    let holds = |seen: &[u8], word: &str| seen.windows(word.len()).any(|window| window == word.as_bytes());
    let seen = path.seen();
    assert!(seen.len() > 1000);
    // Words that are too long to occur by chance.
    for word in [marker, "PSYNC", "REPLCONF", "FULLRESYNC", "orders"] {
        assert!(!holds(&seen, word), "{word} crossed in the clear");
    }
    // The same check finds the marker on a path without a tunnel.
    let bare = Path::to(alpha.port);
    let charli = lab.redis("charli");
    charli.replicaof(bare.port);
    charli.wait_equal(&alpha);
    assert!(holds(&bare.seen(), marker));
}

#[test]
fn a_replica_that_leaves_is_gone_from_the_master_at_once() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let mut bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    bravo.kill();
    eventually("the master drops the replica", Duration::from_secs(3), || {
        alpha.info("connected_slaves") == "0"
    });
    pair.second.wait_end("replica-closed");
    pair.first.wait_far_end("ReplicaClosed");
}

#[test]
fn a_replica_learns_at_once_that_its_master_has_stopped() {
    let lab = Lab::new();
    let mut alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    alpha.kill();
    eventually("the replica's link is down", Duration::from_secs(3), || {
        bravo.info("master_link_status") == "down"
    });
    pair.first.wait_end("master-closed");
    pair.second.wait_far_end("MasterClosed");
}

#[test]
fn a_gateway_works_as_process_one() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let wan = free_port();
    let config = lab.path().join("dc1.toml");
    std::fs::write(&config, master_config("dc1", wan, &[("orders", alpha.port)], ""))
        .expect("the test's folder is writable");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--pid", "--fork", REPLGATE, "run", "-c"])
        .arg(&config)
        .env("NO_COLOR", "1");
    let mut first = Gateway::start_by(&config, "dc1", &mut command);
    eventually("the gateway is up, or namespaces are not available", SOON, || {
        first.log().contains("gateway up") || !first.process.is_running()
    });
    if !first.process.is_running() && first.log().contains("unshare") {
        assert!(std::env::var_os("CI").is_none(), "namespaces are needed in CI: {}", first.log());
        eprintln!("skipped: {}", first.log());
        return;
    }
    let inner = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.process.child.id()))
        .expect("unshare has a child");
    crate::support::kill("TERM", inner.trim().parse().expect("one child"));
    assert_eq!(first.process.exit_code(Duration::from_secs(10)), Some(0));
    assert!(first.log().contains("stopped"));
}

#[test]
fn a_log_that_nobody_reads_does_not_block_the_gateway() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let wan = free_port();
    let config = lab.path().join("dc1.toml");
    std::fs::write(&config, master_config("dc1", wan, &[("orders", alpha.port)], ""))
        .expect("the test's folder is writable");
    let mut child = Command::new(REPLGATE)
        .args(["run", "--log-level", "trace", "-c"])
        .arg(&config)
        .stderr(Stdio::piped())
        .spawn()
        .expect("replgate runs");
    eventually("it listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", wan)).is_ok());
    // Each connection is logged with a line; the pipe holds 64 KiB.
    for _ in 0..2000 {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", wan)).expect("the gateway accepts");
        let _ = std::io::Write::write_all(&mut socket, b"no TLS at all\r\n");
    }
    let entry = free_port();
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let _bravo = lab.replica("bravo", entry, &alpha);
    crate::support::kill("TERM", child.id());
    eventually("it exits", SOON, || child.try_wait().expect("a child can be waited for").is_some());
}

#[test]
fn ipv6_works_on_every_connection() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--bind", "127.0.0.1", "::1"]);
    let (wan, entry) = (free_port(), free_port());
    let dc1 = master_config("dc1", wan, &[("orders", alpha.port)], "").replace("127.0.0.1", "[::1]");
    let dc2 = replica_config("dc2", entry, wan, "").replace("127.0.0.1", "[::1]");
    let (_first, _second) = (lab.gateway("dc1", &dc1), lab.gateway("dc2", &dc2));
    let bravo = lab.redis("bravo");
    bravo.ask(&["REPLICAOF", "::1", &entry.to_string()]);
    bravo.wait_equal(&alpha);
}

#[test]
fn peers_are_tried_in_order_until_one_accepts() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (dead, wan, entry) = (free_port(), free_port(), free_port());
    let _first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let peers = format!("peers = [\"127.0.0.1:{dead}\", \"no-such-host.invalid:7379\", \"localhost:{wan}\"]");
    let _second = lab.gateway(
        "dc2",
        &replica_config("dc2", entry, wan, "").replace(&format!("peers = [\"127.0.0.1:{wan}\"]"), &peers),
    );
    let _bravo = lab.replica("bravo", entry, &alpha);
}

#[test]
fn status_shows_the_links_and_says_when_no_gateway_runs() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let mut pair = lab.pair(alpha.port);
    let _bravo = lab.replica("bravo", pair.entry, &alpha);
    let (code, out, _) = replgate(lab.path(), &["status", "-c", "dc2.toml"]);
    assert!(
        code == 0 && out.contains("site dc2") && out.contains("orders") && out.contains("streaming"),
        "{out}"
    );
    assert_eq!(pair.second.status()["links"][0]["role"], "replica");
    assert_eq!(pair.first.status()["links"][0]["site"], "dc2");
    pair.second.stop();
    let (code, _, err) = replgate(lab.path(), &["status", "-c", "dc2.toml"]);
    assert!(code == 1 && err.contains("no gateway runs with dc2.toml"), "{err}");
}

#[test]
fn check_tests_the_whole_connection_and_names_what_is_wrong() {
    let lab = Lab::new();
    let mut alpha = lab.redis("alpha");
    let mut pair = lab.pair(alpha.port);
    // The lab keeps the CA's private key beside the sites' folders, which check reports.
    let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc2.toml"]);
    assert!(code == 1 && out.matches("fail ").count() == 1 && out.contains("CA's private key"), "{out}");
    std::fs::remove_file(lab.path().join("certs/ca/ca.key")).expect("the lab has a CA key");
    let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc2.toml"]);
    assert!(
        code == 0
            && out.contains("offers master \"orders\" to us, and its Redis is up")
            && out.contains("the clock at"),
        "{out}"
    );
    let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc1.toml"]);
    assert!(code == 0 && out.contains("is a master at offset"), "{out}");
    assert_eq!(pair.first.status()["counts"]["opened"], 0, "a probe opens no link");
    alpha.kill();
    let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc2.toml"]);
    assert!(code == 1 && out.contains("the master's Redis is down"), "{out}");
    let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc1.toml"]);
    assert!(code == 1 && out.contains("replicas will be refused until it is up"), "{out}");
    pair.first.stop();
    let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc2.toml"]);
    assert!(
        code == 1
            && out.contains("Connection refused")
            && out.contains("no gateway of dc1 offers the master"),
        "{out}"
    );
    let (code, out, _) = replgate(lab.path(), &["check", "--offline", "-c", "dc2.toml"]);
    assert!(code == 0 && !out.contains("peer"), "{out}");
}

#[test]
fn check_computes_the_greatest_safe_hold() {
    let lab = Lab::new();
    std::fs::remove_file(lab.path().join("certs/ca/ca.key")).expect("the lab has a CA key");
    let alpha = lab.redis("alpha");
    let check = |more: &str, says: &str| {
        let config = master_config("dc1", free_port(), &[("orders", alpha.port)], more);
        std::fs::write(lab.path().join("dc1.toml"), config).expect("the lab is writable");
        let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc1.toml"]);
        let line = out.lines().find(|line| line.contains("hold")).unwrap_or_default().to_owned();
        assert!(code == 0 && line.contains(says), "{says}\n{out}");
        line
    };
    let fits = "hold 45s fits repl-timeout 60s (at most 45s); the replicas need the same repl-timeout";
    let line = check("", &format!("redis 127.0.0.1:{}: {fits}", alpha.port));
    assert!(line.starts_with("ok "), "{line}");
    let line = check("[link]\nhold = \"50s\"\n", "at most 45s is safe; lower hold to 45s, or raise");
    assert!(
        line.starts_with("warn ") && line.contains("repl-timeout to 65 on both the master and its replicas")
    );
    assert!(check("[link]\nhold = \"0s\"\n", "so repl-timeout does not matter").starts_with("ok "));
    alpha.ask(&["CONFIG", "SET", "repl-ping-replica-period", "4"]);
    check("[link]\nhold = \"10s\"\ndead_after = \"5s\"\n", "hold 10s fits repl-timeout 60s (at most 49s)");
    alpha.ask(&["CONFIG", "SET", "repl-timeout", "10"]);
    check("", "at most 1s is safe; write hold = \"0s\", or raise repl-timeout to 54 on both");
    // Without permission to ask Redis, check says what the operator must look for.
    alpha.ask(&["CONFIG", "SET", "requirepass", "secret"]);
    let line = check("", "it answers INFO with -NOAUTH");
    assert!(
        line.starts_with("warn ")
            && line.contains("at most repl-timeout - repl-ping-replica-period - dead_after (3s) - 2s"),
        "{line}"
    );
}

#[test]
fn a_port_in_use_is_reported_before_anything_is_accepted() {
    let lab = Lab::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("bound").port();
    std::fs::write(lab.path().join("dc2.toml"), replica_config("dc2", port, 1, ""))
        .expect("the test's folder is writable");
    let (code, _, err) = replgate(lab.path(), &["run", "-c", "dc2.toml"]);
    assert!(
        code == 1
            && err
                .contains(&format!("replica \"orders\": listen on 127.0.0.1:{port}: Address already in use")),
        "{err}"
    );
}

#[test]
fn a_gateway_with_both_roles_serves_both() {
    let lab = Lab::new();
    let east = lab.redis("east");
    let west = lab.redis("west");
    let (wan1, wan2, entry1, entry2) = (free_port(), free_port(), free_port(), free_port());
    let site = |own: &str, far: &str, wan: u16, far_wan: u16, entry: u16, redis: u16| {
        format!(
            "{}[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n[[master]]\nname = \"{own}\"\nredis = \"127.0.0.1:{redis}\"\nallow = [\"{far}\"]\n[[replica]]\nname = \"{far}\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"{far}\"\npeers = [\"127.0.0.1:{far_wan}\"]\n",
            tls(own)
        )
    };
    let _first = lab.gateway("dc1", &site("dc1", "dc2", wan1, wan2, entry1, east.port));
    let _second = lab.gateway("dc2", &site("dc2", "dc1", wan2, wan1, entry2, west.port));
    let copy_of_west = lab.redis("copy-of-west");
    let copy_of_east = lab.redis("copy-of-east");
    east.ask(&["SET", "from", "east"]);
    west.ask(&["SET", "from", "west"]);
    copy_of_west.replicaof(entry1);
    copy_of_east.replicaof(entry2);
    copy_of_west.wait_equal(&west);
    copy_of_east.wait_equal(&east);
}

#[test]
fn an_idle_link_stays_up() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let mut client = Client::connect(pair.entry).expect("the gateway accepts");
    client.ask(&["PING"]);
    always("the link is up", Duration::from_secs(8), || pair.first.links() == 1);
    assert_eq!(client.ask(&["PING"]).text(), "PONG");
}

/// Starts a server that sends `size` bytes to each client and closes. Returns its port.
fn sender(size: usize) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut socket, &vec![7; size]);
        }
    });
    port
}

#[test]
fn a_slow_reader_gets_every_byte_of_a_sender_that_has_closed() {
    let lab = Lab::new();
    let size = 40_000_000;
    for stop in [false, true] {
        let pair = lab.pair_with(sender(size), "commands = \"any\"", "");
        let mut client =
            std::net::TcpStream::connect(("127.0.0.1", pair.entry)).expect("the gateway accepts");
        let (mut buffer, mut total, mut count) = (vec![0; 200_000], 0, 1);
        while count > 0 {
            count = std::io::Read::read(&mut client, &mut buffer).expect("the transfer continues");
            total += count;
            // In total this takes longer than the five seconds that an end may take without
            // progress.
            std::thread::sleep(Duration::from_millis(40));
            if stop && total > size / 2 {
                // Everything was read from the sender long ago.
                pair.first.process.signal("TERM");
                break;
            }
        }
        while count > 0 {
            count = std::io::Read::read(&mut client, &mut buffer).expect("the transfer continues");
            total += count;
        }
        assert_eq!(total, size, "stopped: {stop}");
        drop(client);
        pair.second.wait_event("link down", &[]);
        assert!(!pair.second.log().contains("lane lost"), "{}", pair.second.log());
    }
}

#[test]
fn a_request_that_is_half_closed_before_the_link_is_up_gets_its_answer() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair_with(alpha.port, "commands = \"any\"", "");
    for _ in 0..20 {
        let mut client =
            std::net::TcpStream::connect(("127.0.0.1", pair.entry)).expect("the gateway accepts");
        std::io::Write::write_all(&mut client, b"PING\r\n").expect("the gateway reads");
        client.shutdown(std::net::Shutdown::Write).expect("a socket can be half closed");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut client, &mut answer).expect("the gateway answers");
        assert_eq!(answer, "+PONG\r\n");
    }
    eventually("no link is left", SOON, || pair.first.links() == 0 && pair.second.links() == 0);
    for log in [pair.first.log(), pair.second.log()] {
        assert!(!log.contains("lane lost"), "an orderly end is not a lost lane: {log}");
    }
}

#[test]
fn sighup_takes_new_certificates_into_use_without_a_break_of_any_link() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let serial = |site: &str| {
        let shown = replgate_ok(lab.path(), &["certs", "inspect", &format!("127.0.0.1:{}", pair.wan)]);
        let line = shown.lines().find(|line| line.contains("serial")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{site}: no serial in {shown}"))
    };
    let before = serial("dc1");
    replgate_ok(lab.path(), &["certs", "renew"]);
    for (round, gateway) in [&pair.first, &pair.second].into_iter().enumerate() {
        gateway.process.signal("HUP");
        gateway.wait_event("certificates read again", &[]);
        let replaced = round as u64 + 1;
        eventually("the lane is replaced", SOON, || {
            pair.second.count("redials") >= replaced && pair.first.each("lanes") == [1]
        });
        alpha.ask(&["SET", "after", &format!("round {round}")]);
        bravo.wait_equal(&alpha);
    }
    assert_ne!(serial("dc1"), before, "new connections get the new certificate");
    assert_eq!((pair.first.count("breaks"), pair.second.count("breaks")), (0, 0));
    assert_eq!(
        (alpha.info_number("sync_full"), pair.first.status()["counts"]["opened"].as_u64()),
        (1, Some(1))
    );
}

#[test]
fn a_broken_certificate_leaves_the_old_one_in_use() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let bravo = lab.redis("bravo");
    std::fs::write(lab.path().join("certs/dc1/tls.crt"), "no certificate").expect("the lab is writable");
    pair.first.process.signal("HUP");
    pair.first.wait_log("reload refused, everything stays as it was");
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
}

#[test]
fn sighup_cuts_off_a_site_that_was_revoked() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    replgate_ok(lab.path(), &["certs", "revoke", "dc2"]);
    // Only the master's site knows.
    pair.first.process.signal("HUP");
    pair.first.wait_end("outdated");
    alpha.ask(&["SET", "secret", "of later"]);
    eventually("the replica's link is down", SOON, || bravo.info("master_link_status") == "down");
    assert_eq!(bravo.ask(&["EXISTS", "secret"]), "0");
    pair.first.wait_kind("revoked");
}

#[test]
fn a_connection_that_never_asks_for_a_sync_does_not_hold_a_link_for_ever() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let mut silent = Client::connect(pair.entry).expect("the gateway accepts");
    silent.send(b"PING\r\n");
    eventually("the link is up", SOON, || pair.first.links() == 1);
    let (rest, ended) = silent.rest(SOON * 2);
    assert!(ended && String::from_utf8_lossy(&rest).contains("no sync was asked for within 20 s"));
    eventually("the link is gone", SOON, || pair.first.links() == 0);
    pair.first.wait_end("declined");
}

#[test]
fn a_replica_that_still_reads_gets_the_last_bytes_of_a_master_that_has_closed() {
    let lab = Lab::new();
    let reply = format!("+FULLRESYNC {} 0\r\n$2000000\r\n", "a".repeat(40));
    // A master that hands over a snapshot and closes; a replica that says it is
    // alive while it is slow to read.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let master = listener.local_addr().expect("bound").port();
    let snapshot = reply.clone().into_bytes();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            // The gateway says first how the replica is listed.
            let _ = std::io::Read::read(&mut socket, &mut [0; 1000]);
            let _ = std::io::Write::write_all(&mut socket, b"+OK\r\n");
            let _ = std::io::Read::read(&mut socket, &mut [0; 1000]);
            let _ = std::io::Write::write_all(&mut socket, &[snapshot.as_slice(), &[7; 2_000_000]].concat());
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        }
    });
    let pair = lab.pair(master);
    let mut replica = std::net::TcpStream::connect(("127.0.0.1", pair.entry)).expect("the gateway accepts");
    std::io::Write::write_all(&mut replica, b"PSYNC ? -1\r\n").expect("the gateway reads");
    let mut other = replica.try_clone().expect("a socket can be cloned");
    let alive = std::thread::spawn(move || {
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(200));
            let _ = std::io::Write::write_all(&mut other, b"\n");
        }
    });
    alive.join().expect("the replica lives");
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut replica, &mut all).expect("no reset");
    assert_eq!(all.len(), reply.len() + 2_000_000);
    drop(replica);
    pair.second.wait_far_end("MasterClosed");
}

#[test]
fn waiting_for_a_slow_path_costs_no_cpu_time() {
    let lab = Lab::new();
    let (wan, entry) = (free_port(), free_port());
    let dc1 = master_config("dc1", wan, &[("orders", sender(50_000_000))], "commands = \"any\"");
    let first = lab.gateway("dc1", &dc1);
    let path = Path::to(wan);
    path.slow_down(Duration::from_millis(100));
    let second = lab.gateway("dc2", &replica_config("dc2", entry, path.port, ""));
    let mut client = std::net::TcpStream::connect(("127.0.0.1", entry)).expect("the gateway accepts");
    let mut buffer = vec![0; 100_000];
    let mut total = 0;
    while total < 1_000_000 {
        total += std::io::Read::read(&mut client, &mut buffer).expect("the transfer continues");
    }
    let used =
        || crate::support::cpu(first.process.child.id()) + crate::support::cpu(second.process.child.id());
    let before = used();
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        // Data in the other direction, so that acknowledgements are due while bytes wait.
        std::io::Write::write_all(&mut client, b"word").expect("the gateway reads");
        let _ = std::io::Read::read(&mut client, &mut buffer).expect("the transfer continues");
    }
    assert!(used() - before < 1.0, "{} CPU seconds in 4 s of waiting", used() - before);
}

#[test]
fn a_certificate_that_expires_is_logged_shown_and_makes_the_gateway_unready() {
    let lab = Lab::new();
    let ca = Ca::new("test CA");
    let soon = Leaf { until: time::Duration::seconds(8), ..Leaf::good("dc2") };
    ca.folder(&lab.path().join("certs/dc2"), &soon);
    let mut second = lab.gateway("dc2", &replica_config("dc2", free_port(), 1, ""));
    assert!(second.lines("WARN", "the certificate expires in") >= 1, "{}", second.log());
    assert_eq!(replgate(lab.path(), &["status", "--ready", "-c", "dc2.toml"]).0, 0);
    eventually("the certificate has expired, which is an error", SOON, || {
        second.lines("ERROR", "the certificate EXPIRED") == 1
    });
    let (code, out, _) = replgate(lab.path(), &["status", "--ready", "-c", "dc2.toml"]);
    assert!(code == 1 && out.contains("not ready: the certificate expired"), "{out}");
    let (code, out, _) = replgate(lab.path(), &["status", "-c", "dc2.toml"]);
    assert!(code == 0 && out.contains("certificate EXPIRED") && out.contains(" s ago"), "{out}");
    // A reload with a new certificate is enough; no restart is needed.
    ca.folder(&lab.path().join("certs/dc2"), &Leaf::good("dc2"));
    second.process.signal("HUP");
    second.wait_event("certificates read again", &[]);
    assert_eq!(replgate(lab.path(), &["status", "--ready", "-c", "dc2.toml"]).0, 0);
    second.stop();
    assert_eq!(replgate(lab.path(), &["status", "--ready", "-c", "dc2.toml"]).0, 1, "no gateway runs");
}

#[test]
fn ready_depends_on_the_wan_and_redis_only_if_links_are_asked_for() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let mut pair = lab.pair(alpha.port);
    let ready = |links: bool| {
        let words = ["status", "--ready", "-c", "dc2.toml", "--links"];
        let (code, out, _) = replgate(lab.path(), &words[..if links { 5 } else { 4 }]);
        (code, out)
    };
    // No client asks for a link.
    pair.first.kill();
    assert_eq!(ready(true).0, 0);
    let bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    eventually("a client without a link is reported", SOON, || ready(true).1.contains("got no link"));
    assert_eq!(ready(false).0, 0);
    pair.first.start_again();
    bravo.wait_equal(&alpha);
    assert_eq!(ready(true), (0, "ready\n".to_owned()));
    pair.first.process.signal("STOP");
    eventually("a held link is reported", SOON, || ready(true).1.contains("is held"));
    assert_eq!(ready(false).0, 0);
    pair.first.process.signal("CONT");
}

#[test]
fn check_says_what_the_operator_must_look_at() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--requirepass", "secret"]);
    let wan = free_port();
    let text =
        master_config("dc1", wan, &[("orders", alpha.port)], "").replace("[\"dc2\"]", "[\"dc2\", \"DC1\"]");
    let first = lab.gateway("dc1", &text);
    let check = |config: &str| replgate(lab.path(), &["check", "-c", config]).1;
    let said = check("dc1.toml");
    assert!(
        said.contains("`allow` names this site itself, dc1")
            && first.lines("WARN", "names this site itself") == 1
    );
    assert!(said.contains("requires a password, and this config has none: write auth"), "{said}");
    assert!(!said.contains("another config"), "{said}");
    // The file has changed since the process read it.
    std::fs::write(&first.config, text.clone() + "[limits]\nlinks_per_site = 3\n")
        .expect("the lab is writable");
    let said = check("dc1.toml");
    assert!(said.contains("uses other contents of this config: reload it"), "{said}");
    // One port is in use, and nothing listens on another.
    std::fs::write(lab.path().join("other.toml"), text).expect("the lab is writable");
    let said = check("other.toml");
    assert!(said.contains(&format!("ss -ltnp 'sport = :{wan}'")), "{said}");
    let closed = free_port();
    std::fs::write(lab.path().join("dc2.toml"), replica_config("dc2", free_port(), closed, ""))
        .expect("the lab is writable");
    let said = check("dc2.toml");
    assert!(said.contains(&format!("nothing listens on TCP port {closed} of 127.0.0.1")), "{said}");
}

#[test]
fn check_says_so_if_the_masters_port_speaks_tls() {
    let lab = Lab::new();
    let port = free_port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-quiet"]);
    server.args(["-cert", "certs/dc1/tls.crt", "-key", "certs/dc1/tls.key"]);
    let server = server.current_dir(lab.path()).stdin(Stdio::piped());
    let _server = crate::support::Process::start("openssl", lab.path().join("openssl.log"), server);
    eventually("openssl listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    for auth in ["", "auth = { password_file = \"redis.pw\" }"] {
        std::fs::write(lab.path().join("redis.pw"), "secret").expect("the lab is writable");
        std::fs::write(
            lab.path().join("dc1.toml"),
            master_config("dc1", free_port(), &[("orders", port)], auth),
        )
        .expect("the lab is writable");
        let (code, out, _) = replgate(lab.path(), &["check", "-c", "dc1.toml"]);
        assert!(code == 1 && out.contains("speaks TLS; a gateway speaks to its own Redis in clear"), "{out}");
    }
}
