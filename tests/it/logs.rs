//! The contents of the logs: few lines, each with its reason, and numbers that can be parsed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::spawn;

use rcgen::{BasicConstraints, IsCa};
use time::{Duration as Days, OffsetDateTime};

use crate::support::gateway::{Followed, Gateway, Lab, Pair, master_config, replica_config};
use crate::support::path::Path;
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::{Client, Redis, Version};
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate_ok};

/// A gateway that logs in JSON.
fn in_json(lab: &Lab, site: &str, text: &str) -> Gateway {
    let config = lab.path().join(format!("{site}.toml"));
    std::fs::write(&config, text).expect("the test's folder is writable");
    let mut command = Command::new(REPLGATE);
    command.args(["run", "--log-format", "json", "-c"]).arg(&config);
    let gateway = Gateway::start_by(&config, site, &mut command);
    gateway.wait_ready();
    gateway
}

fn parsed(gateway: &Gateway) -> Vec<serde_json::Value> {
    let log = gateway.log();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// The only line that begins with these words.
#[track_caller]
fn line_of(lines: &[serde_json::Value], words: &str) -> serde_json::Value {
    let mut all = lines.iter().filter(|line| line["message"].as_str().unwrap_or_default().starts_with(words));
    let line = all.next().unwrap_or_else(|| panic!("no line {words:?} in {lines:#?}"));
    assert!(all.next().is_none(), "more than one line {words:?} in {lines:#?}");
    line.clone()
}

#[test]
fn every_number_in_a_json_log_is_a_number() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let bravo = lab.redis("bravo");
    let (wan, entry) = (free_port(), free_port());
    let path = Path::to(wan);
    let first = in_json(&lab, "dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let second = in_json(&lab, "dc2", &replica_config("dc2", entry, path.port, ""));
    bravo.replicaof(entry);
    bravo.wait_equal(&alpha);
    path.cut();
    for gateway in [&first, &second] {
        gateway.wait_event("link resumed", &[]);
    }
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    for gateway in [&first, &second] {
        gateway.wait_event("link down", &[]);
        let lines = parsed(gateway);
        let (up, resumed) = (line_of(&lines, "link up"), line_of(&lines, "link resumed"));
        let down = line_of(&lines, "link down");
        assert_eq!((up["link"].as_str(), up["number"].as_u64()), (Some("orders"), Some(1)));
        assert!(up["hold"].as_f64() == Some(45.0) && up["lanes"].as_u64() == Some(1), "{up}");
        assert!(resumed["seconds"].is_f64() && resumed["carried"].is_f64(), "{resumed}");
        assert!(down["seconds"].is_f64() && down["to_replica"].as_u64() > Some(0), "{down}");
        // So are the numbers of all other lines.
        for line in &lines {
            for (name, value) in line.as_object().expect("an object") {
                let text = value.as_str().unwrap_or_default();
                let number = text.trim_end_matches(['m', 's', 'µ', 'n']).parse::<f64>();
                assert!(number.is_err(), "{name} is a number: {line}");
            }
        }
    }
}

#[test]
fn numbers_in_a_text_log_are_as_easy_to_read() {
    let Followed { lab: _lab, alpha: _alpha, pair, bravo } = Followed::new();
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    for gateway in [&pair.first, &pair.second] {
        gateway.wait_event("link down", &[]);
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains("link down")).expect("it is there");
        let seconds = line.split(" seconds=").nth(1).and_then(|rest| rest.split(' ').next());
        let (whole, tenths) = seconds.and_then(|seconds| seconds.split_once('.')).expect("8.1");
        assert!(whole.parse::<u32>().is_ok() && tenths.len() == 1, "{line}");
        assert!(log.contains(" hold=45.0 "), "{log}");
    }
}

/// Number of lines at INFO or above with these words.
fn loud(gateway: &Gateway, words: &str) -> usize {
    ["INFO", "WARN", "ERROR"].iter().map(|level| gateway.lines(level, words)).sum()
}

/// Waits until a gateway has opened this many links.
#[track_caller]
fn wait_opened(gateway: &Gateway, count: u64) {
    eventually(&format!("{count} links were opened"), 3 * SOON, || {
        gateway.status()["counts"]["opened"].as_u64() >= Some(count)
    });
}

/// Asserts that both gateways log many failed links in one line, with this reason, and then the
/// number of the others.
#[track_caller]
fn tells_once(pair: &mut Pair, opened: u64, reason: &str) {
    for gateway in [&pair.first, &pair.second] {
        wait_opened(gateway, opened);
        eventually("they have ended", SOON, || gateway.status()["counts"]["closed"].as_u64() >= Some(opened));
        let (up, down) = (loud(gateway, "link up"), loud(gateway, "link down"));
        assert_eq!((up, down), (0, 1), "{}", gateway.log());
        assert_eq!(loud(gateway, reason), 1, "{reason:?} in {}", gateway.log());
    }
    for gateway in [&mut pair.second, &mut pair.first] {
        gateway.stop();
        let log = gateway.log();
        let count =
            log.lines().find_map(|line| line.split(" more links ").next()?.rsplit(' ').next()?.parse().ok());
        assert!(count >= Some(opened - 1), "{log}");
    }
}

#[test]
fn a_replica_without_the_masters_password_is_told_in_one_line_and_counted() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--requirepass", "secret"]);
    let mut pair = lab.pair(alpha.port);
    let bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    tells_once(&mut pair, 4, "wants a password");
}

/// Takes what a replica says of itself, answers its PSYNC with these bytes, and closes.
fn master_that_says(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let _ = socket.read(&mut [0; 1024]);
            if answer.starts_with(b"-") {
                let _ = socket.write_all(b"+OK\r\n");
                let _ = socket.read(&mut [0; 1024]);
            }
            let _ = socket.write_all(answer);
        }
    });
    port
}

#[test]
fn links_that_end_before_their_sync_are_logged_in_one_line_and_counted() {
    for (answer, reason) in [
        (&b""[..], "closes the connection without an answer: does its port speak TLS?"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "its port speaks TLS"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "the master refuses the sync: LOADING"),
        (b"-NOPERM this user has no permissions to run the 'psync' command\r\n", "lacks rights"),
        (b"-MISCONF Errors writing to the AOF file\r\n", "the master refuses the sync: MISCONF"),
    ] {
        let lab = Lab::new();
        let mut pair = lab.pair(master_that_says(answer));
        for _ in 0..3 {
            let mut client = Client::connect(pair.entry).expect("the gateway accepts");
            client.send(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n");
            client.rest(SOON);
        }
        tells_once(&mut pair, 3, reason);
    }
}

#[test]
fn the_log_of_a_replica_says_that_its_masters_port_speaks_tls() {
    let lab = Lab::new();
    let file = |name: &str| lab.path().join("certs/dc1").join(name).display().to_string();
    let tls = free_port();
    let alpha = Redis::start(
        Version::System,
        lab.path(),
        "alpha",
        &[
            "--tls-port",
            &tls.to_string(),
            "--tls-ca-cert-file",
            &file("ca.crt"),
            "--tls-cert-file",
            &file("tls.crt"),
            "--tls-key-file",
            &file("tls.key"),
        ],
    );
    let pair = lab.pair(tls);
    let bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    for gateway in [&pair.first, &pair.second] {
        gateway.wait_log("does its port speak TLS? A gateway speaks to its own Redis in clear");
    }
    eventually("the replica's log says so", SOON, || bravo.log().contains("does its port speak TLS?"));
    drop(alpha);
}

/// Asserts that of at least eight failures in a row only the first is logged, and the others are
/// counted.
#[track_caller]
fn tells_few(gateway: &mut Gateway, what: &str, words: &str) {
    eventually(&format!("eight times {what:?}"), 3 * SOON, || {
        gateway.log().lines().filter(|line| line.contains(what)).count() >= 8
    });
    let log = gateway.log();
    let warnings = gateway.lines("WARN", what);
    assert!((1..=2).contains(&warnings), "{warnings} of {what:?}: {log}");
    assert!(gateway.lines("WARN", words) >= 1, "{words:?}: {log}");
    assert!(gateway.lines("ERROR", "") <= 2 && loud(gateway, "") < 16, "{log}");
    gateway.stop();
    assert!(
        gateway.lines("WARN", "more connections refused") + gateway.lines("WARN", "more links not opened")
            > 0
    );
}

/// Remaining validity of a certificate that is to expire soon.
const LIFE: Days = Days::seconds(6);

#[test]
fn a_certificate_that_expires_while_a_replica_retries_is_logged_in_few_lines() {
    for late in ["dc1", "dc2"] {
        let lab = Lab::new();
        let ca = Ca::new("test CA");
        let until = OffsetDateTime::now_utc() + LIFE + Days::seconds(1);
        for site in ["dc1", "dc2"] {
            let until = if site == late { LIFE } else { Days::days(30) };
            ca.folder(&lab.path().join(format!("certs/{site}")), &Leaf { until, ..Leaf::good(site) });
        }
        let alpha = lab.redis("alpha");
        let mut pair = lab.pair(alpha.port);
        eventually("the certificate is expired", SOON, || OffsetDateTime::now_utc() > until);
        let bravo = lab.redis("bravo");
        bravo.replicaof(pair.entry);
        if late == "dc1" {
            tells_few(&mut pair.second, "no link", "it expired at");
            tells_few(&mut pair.first, "connection refused", "expired or not valid yet");
        } else {
            tells_few(&mut pair.second, "no link", "expired or not valid yet");
            tells_few(&mut pair.first, "connection refused", "it expired at");
        }
    }
}

const PROXY: [&[u8]; 2] = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7379\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x13\x88\x1c\xd3",
];

#[test]
fn the_proxy_protocol_of_a_load_balancer_is_named_at_either_listener() {
    for header in PROXY {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        let pair = lab.pair(alpha.port);
        let mut stranger = TcpStream::connect(("127.0.0.1", pair.wan)).expect("the gateway accepts");
        stranger.write_all(header).expect("the gateway reads");
        pair.first.wait_log("the PROXY protocol came before TLS: turn send-proxy off for this backend");
        let mut client = Client::connect(pair.entry).expect("the gateway accepts");
        client.send(&[header, b"*1\r\n$4\r\nPING\r\n"].concat());
        let (said, _) = client.rest(SOON);
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("turn send-proxy off"), "{said}");
        drop(client);
        for gateway in [&pair.first, &pair.second] {
            gateway.wait_log("the PROXY protocol before a replica's first command");
        }
    }
}

#[test]
fn the_proxy_protocol_of_a_load_balancer_is_named_in_place_of_a_password() {
    let lab = Lab::new();
    std::fs::write(lab.path().join("replica.pw"), "secret\n").expect("the lab is writable");
    let alpha = lab.redis("alpha");
    let pair = lab.pair_with(alpha.port, "", "password_file = \"replica.pw\"");
    for header in PROXY {
        let mut client = Client::connect(pair.entry).expect("the gateway accepts");
        client.send(header);
        let (said, _) = client.rest(SOON);
        assert!(String::from_utf8_lossy(&said).contains("turn send-proxy off"), "{said:?}");
    }
    pair.second.wait_log("the PROXY protocol before a replica's first command");
}

#[test]
fn the_error_suspects_a_path_that_loses_large_packets() {
    let lab = Lab::new();
    // It accepts TCP connections but answers no TLS.
    let hole = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let (entry, wan) = (free_port(), hole.local_addr().expect("it is bound").port());
    let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let mut client = Client::connect(entry).expect("the gateway accepts");
    client.send(b"PING\r\n");
    second.wait_log("TCP connects, but TLS gets no answer");
    second.wait_log("large packets may be lost on the path (MTU): try ping -M do -s 1400");
    let said = client.line().unwrap_or_default();
    assert!(said.contains("TCP connects, but TLS gets no answer"), "{said}");
}

#[test]
fn a_chain_that_is_deeper_than_a_ca_allows_is_refused_with_that_reason() {
    let lab = Lab::new();
    let root = Ca::new("root");
    let shallow = root.sub_as("shallow", IsCa::Ca(BasicConstraints::Constrained(0)));
    shallow.sub("too deep").folder(&lab.path().join("far/dc2"), &Leaf::good("dc2"));
    for site in ["dc1", "dc2"] {
        root.folder(&lab.path().join(format!("certs/{site}")), &Leaf::good(site));
    }
    let words = "a CA of its chain does not allow so many CAs below it (pathlen)";
    let wan = free_port();
    let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", 1)], ""));
    crate::trust::dial_with_openssl(&lab, wan, "far/dc2");
    first.wait_log(words);
    replgate_ok(lab.path(), &["certs", "inspect", "far/dc2/tls.crt"]);
}
