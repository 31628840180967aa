//! The listener of `[admin]`: what it shows, to whom, and what it costs.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::support::gateway::{Gateway, Lab, admin, replica_config};
use crate::support::http::{Answer, At, Stream};
use crate::support::line::Line;
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::Version;
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port, replgate, replgate_ok, run};

const ROUTES: [&str; 5] = ["/", "/status", "/live", "/ready", "/metrics"];

const LOCAL: &str = "Host: 127.0.0.1\r\n";

/// A gateway that shows its state at a port, and carries nothing.
struct Shown {
    gateway: Gateway,
    at: At,
    lab: Lab,
}

impl Shown {
    fn new() -> Self {
        let port = free_port();
        Self::with(Lab::new(), &admin(port), At::Port(port))
    }

    fn with(lab: Lab, admin: &str, at: At) -> Self {
        let gateway = lab.gateway("dc2", &Self::text(admin));
        Self { gateway, at, lab }
    }

    /// The config with these lines.
    fn text(admin: &str) -> String {
        replica_config("dc2", free_port(), 1, admin)
    }

    /// Has another `[admin]` read, which is good or not.
    fn reload(&self, admin: &str) {
        let text = std::fs::read_to_string(&self.gateway.config).expect("the config is there");
        let before = text.split("[admin]").next().expect("a split has a first part");
        std::fs::write(&self.gateway.config, format!("{before}{admin}")).expect("the lab is writable");
        self.gateway.process.signal("HUP");
    }

    /// The addresses on which it listens.
    fn listeners(&self) -> Vec<String> {
        let status = self.gateway.status();
        assert_eq!(status["listeners_lost"].to_string(), "[]");
        let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
        listeners.iter().filter_map(|address| address.as_str().map(str::to_owned)).collect()
    }
}

/// Every path of a JSON value.
fn fields(value: &serde_json::Value, at: &str, found: &mut BTreeSet<String>) {
    found.insert(at.to_owned());
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| fields(value, &format!("{at}.{key}"), found));
        }
        serde_json::Value::Array(list) => {
            list.iter().for_each(|value| fields(value, &format!("{at}[]"), found));
        }
        _ => {}
    }
}

#[test]
fn every_route_shows_what_it_promises_while_a_link_carries() {
    let port = free_port();
    let line = Line::apart(Version::System, "", &admin(port));
    line.follow();
    line.bravo.wait_equal(&line.alpha);
    let at = At::Port(port);
    assert_eq!((at.get("/live").status, at.get("/live").body), (200, "live\n".to_owned()));
    assert_eq!((at.get("/ready").status, at.get("/ready").body), (200, "ready\n".to_owned()));
    let answer = at.get("/status");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let shown: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let printed = line.second.status();
    let (mut here, mut there) = (BTreeSet::new(), BTreeSet::new());
    fields(&shown, "", &mut here);
    fields(&printed, "", &mut there);
    assert_eq!(here, there);
    assert!(answer.body.ends_with("}\n"), "as `status --json` prints it");
    for field in ["site", "pid", "version", "config", "listeners", "masters", "replicas", "memory_limit"] {
        assert_eq!(shown[field], printed[field], "{field}");
    }
    assert_eq!(shown["links"][0]["name"], "orders");
    let metrics = at.ask("GET", "/metrics", "Host: localhost\r\nAccept: application/openmetrics-text\r\n");
    let kind = Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!((metrics.status, metrics.header("content-type")), (200, kind));
    assert!(metrics.body.ends_with("\n# EOF\n"), "{}", metrics.body);
    let page = at.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("dc2"), "{}", page.body);
    // The state is that of now, or of a second ago.
    line.first.process.signal("STOP");
    eventually("the break is shown", SOON, || {
        let state: serde_json::Value = serde_json::from_str(&at.get("/status").body).expect("JSON");
        state["links"][0]["state"] == "held"
    });
    assert_eq!(at.get("/ready").status, 200, "the WAN does not count");
    line.first.process.signal("CONT");
}

#[test]
fn every_answer_has_its_headers_and_head_has_the_same_ones() {
    let Shown { gateway: _gateway, at, lab: _lab } = Shown::new();
    let told = |answer: &Answer| {
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("connection", "close"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{answer:?}");
        }
        assert!(answer.header("content-security-policy").is_some(), "{answer:?}");
        assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{answer:?}");
    };
    for path in ROUTES {
        let (get, head) = (at.get(path), at.ask("HEAD", path, LOCAL));
        told(&get);
        told(&head);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let length = head.header("content-length").and_then(|length| length.parse::<usize>().ok());
        assert!(length.is_some_and(|length| length > 0), "{head:?}");
        assert_eq!(get.header("content-type"), head.header("content-type"));
        let post = at.ask("POST", path, LOCAL);
        told(&post);
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    let elsewhere = at.get("/../etc/passwd");
    told(&elsewhere);
    assert_eq!(elsewhere.status, 404);
    assert!(elsewhere.body.contains("/status, /live, /ready, /metrics"), "{}", elsewhere.body);
    // A body is not read, and answered all the same.
    let body = format!("{LOCAL}Content-Length: 1000000\r\n\r\n{}", "x".repeat(20_000));
    assert_eq!(at.ask("POST", "/status", &body).status, 405);
    assert_eq!(at.ask("GET", "/live", &body).status, 200);
    // What is sent of it after the answer is read for a moment: a reset could take the answer away.
    eventually("the rest of a body is taken", SOON, || {
        let mut stream = at.connect().expect("it listens");
        let head = format!("GET /live HTTP/1.1\r\n{LOCAL}Content-Length: 1000000\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer, and the end");
        assert!(text.ends_with("live\n"), "{text}");
        (0..5).all(|_| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&[b'x'; 1000]).is_ok()
        })
    });
    // A second request in the same breath is not.
    let twice = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    let answer = at.send(twice.as_bytes()).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "live\n"));
    // A client may close its side once it has asked, as `nc -N` does.
    let At::Port(port) = at else { panic!("a port") };
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    socket.write_all(b"GET /ready HTTP/1.0\r\n\r\n").expect("it reads");
    socket.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    assert!(text.ends_with("\r\n\r\nready\n"), "{text}");
}

#[test]
fn pages_of_other_sites_get_nothing_and_the_log_says_who_asked() {
    let Shown { gateway, at, lab: _lab } = Shown::new();
    for host in ["evil.example", "127.0.0.1.evil.example:80", "x\u{9b}31m\u{1b}"] {
        for path in ROUTES {
            let answer = at.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            let answer = answer.expect("an answer");
            // A header with a control byte is no header.
            let refused = if host.contains('\u{1b}') { 400 } else { 421 };
            assert_eq!(answer.status, refused, "{host} {path}: {answer:?}");
            assert!(!answer.body.contains("dc2"), "{answer:?}");
        }
    }
    assert_eq!(at.send(b"GET / HTTP/1.1\r\nHost: evil\x9b31m\r\n\r\n").expect("an answer").status, 421);
    let cross = format!("{LOCAL}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n");
    assert_eq!(at.ask("GET", "/status", &cross).status, 403);
    gateway.wait_kind("admin-refused");
    eventually("the refused host is in the log", SOON, || gateway.log().contains("evil.example"));
    let log = std::fs::read(&gateway.process.log).expect("the log is there");
    assert!(!log.contains(&0x1b) && !log.contains(&0x9b), "control bytes in the log");
    assert_eq!(gateway.status()["counts"]["refused"], 0, "these are no links");
}

#[test]
fn a_gateway_whose_certificate_has_expired_is_live_and_not_ready() {
    let (lab, port) = (Lab::new(), free_port());
    let ca = Ca::new("test CA");
    let soon = Leaf { until: time::Duration::seconds(8), ..Leaf::good("dc2") };
    ca.folder(&lab.path().join("certs/dc2"), &soon);
    let gateway = lab.gateway("dc2", &Shown::text(&admin(port)));
    let at = At::Port(port);
    assert_eq!(at.get("/ready").status, 200);
    eventually("it is not ready", SOON, || at.get("/ready").status == 503);
    let said = at.get("/ready").body;
    assert!(said.starts_with("the certificate expired ") && said.lines().count() == 1, "{said}");
    assert!(said.contains("renew it and reload"), "{said}");
    assert_eq!((at.get("/live").status, at.ask("HEAD", "/ready", LOCAL).status), (200, 503));
    ca.folder(&lab.path().join("certs/dc2"), &Leaf::good("dc2"));
    gateway.process.signal("HUP");
    eventually("it is ready", SOON, || at.get("/ready").status == 200);
}

/// Ends the listening of a process at this port, as nothing but a fault could. Returns false if this user may
/// not.
fn end_listening(gateway: &Gateway, port: u16) -> bool {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pid = Pid::from_raw(gateway.process.child.id().cast_signed()).expect("a process");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let fds = std::fs::read_dir(format!("/proc/{}/fd", gateway.process.child.id())).expect("it runs");
    let numbers = fds.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers {
        let Ok(fd) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = Socket::from(fd);
        let is_at = socket.local_addr().ok().and_then(|address| address.as_socket());
        if socket.is_listener().unwrap_or(false) && is_at.is_some_and(|address| address.port() == port) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
            return true;
        }
    }
    false
}

#[test]
fn a_gateway_that_has_lost_a_listener_is_live_and_not_ready() {
    let (lab, port, entry) = (Lab::new(), free_port(), free_port());
    let gateway = lab.gateway("dc2", &replica_config("dc2", entry, 1, &admin(port)));
    let at = At::Port(port);
    assert_eq!(at.get("/ready").status, 200);
    if !end_listening(&gateway, entry) {
        assert!(!rustix::process::geteuid().is_root(), "root may do this");
        return eprintln!("skipped: only root may take a descriptor of this process");
    }
    eventually("it is not ready", SOON, || at.get("/ready").status == 503);
    let said = format!("the gateway does not listen on 127.0.0.1:{entry} any more; restart it\n");
    assert_eq!((at.get("/ready").body, at.get("/live").status), (said, 200));
    // The same of its own listener, which only `status` can tell.
    assert!(end_listening(&gateway, port));
    eventually("status tells it", SOON, || {
        gateway.status()["listeners_lost"].to_string().contains(&format!("127.0.0.1:{port}"))
    });
}

#[test]
fn a_public_listener_shows_probes_and_metrics_alone() {
    let (lab, port) = (Lab::new(), free_port());
    let open = format!("[admin]\nlisten = \"0.0.0.0:{port}\"\n");
    std::fs::write(lab.path().join("dc2.toml"), Shown::text(&open)).expect("the lab is writable");
    let (code, _, said) = replgate(lab.path(), &["run", "-c", "dc2.toml"]);
    let place = Shown::text("[admin]\n").lines().count();
    assert!(code == 2 && said.contains(&format!("dc2.toml:{place}:10: [admin]: listen: ")), "{said}");
    assert!(said.contains("public = true"), "{said}");
    let _gateway = lab.gateway("dc2", &Shown::text(&format!("{open}public = true\n")));
    let at = At::Port(port);
    for path in ROUTES {
        let answer = at.ask("GET", path, "Host: gateway.example\r\n");
        if ["/live", "/ready", "/metrics"].contains(&path) {
            assert_eq!(answer.status, 200, "{path}");
        } else {
            assert_eq!((answer.status, answer.body.lines().count()), (403, 1), "{path}");
            assert!(answer.body.contains("this listener is public"), "{}", answer.body);
        }
    }
    assert!(!at.get("/nowhere").body.contains("/status"));
}

/// Whether a connection is closed while nothing was sent over it, or reset.
fn is_closed(stream: &mut dyn Stream) -> bool {
    match stream.read(&mut [0; 10]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn what_is_no_request_is_refused_or_closed_and_others_are_served() {
    let Shown { gateway, at, lab: _lab } = Shown::new();
    let large = format!("GET / HTTP/1.1\r\n{LOCAL}X: {}\r\n\r\n", "x".repeat(10_000));
    assert_eq!(at.send(large.as_bytes()).expect("an answer").status, 431);
    let many = "X: x\r\n".repeat(500);
    assert_eq!(at.ask("GET", "/", &format!("{LOCAL}{many}")).status, 431);
    let endless = [b'x'; 100_000];
    assert!(at.send(&endless).is_none_or(|answer| answer.status >= 400));
    for text in
        ["\r\n\r\n\r\n", "PING\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/9\r\n\r\n", "\x16\x03\x01\x02\r\n\r\n"]
    {
        assert!(at.send(text.as_bytes()).is_none_or(|answer| answer.status == 400), "{text:?}");
    }
    // A byte now and then does not keep a connection open, and neither does one that does not close.
    let mut slow = at.connect().expect("it listens");
    let sends = std::thread::spawn(move || {
        for byte in std::iter::repeat(b"GET / HTTP/1.1\r\nX: ").flatten() {
            if slow.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut stays = at.connect().expect("it listens");
    stays.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stays.read_to_string(&mut text).expect("an answer, and the end");
    assert!(text.ends_with("live\n"), "{text}");
    let mut silent = at.connect().expect("it listens");
    assert!(is_closed(&mut *silent));
    eventually("the slow one is closed", SOON, || sends.is_finished());
    assert_eq!(at.get("/live").status, 200);
    eventually("no connection is left", SOON, || {
        let sockets = run(Command::new("ss").args(["-Htnp", "state", "established"]));
        let own = format!("pid={},", gateway.process.child.id());
        !String::from_utf8_lossy(&sockets.stdout).lines().any(|line| line.contains(&own))
    });
}

#[test]
fn crowds_and_floods_hold_up_neither_a_link_nor_a_scraper() {
    let port = free_port();
    let line = Line::apart(Version::System, &admin(port), "");
    line.follow();
    line.bravo.wait_equal(&line.alpha);
    let (at, before) = (At::Port(port), line.standing());
    let writer = Writer::on(&line.alpha, 2_000_000);
    let (over, scrapes, descriptors) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (states, began) = (Mutex::new(BTreeSet::new()), Instant::now());
    std::thread::scope(|scope| {
        // 500 connections that send half a request, and come again when they are closed.
        for _ in 0..5 {
            scope.spawn(|| {
                let mut open = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    if open.len() == 100 {
                        open.remove(0);
                    }
                    open.extend(at.connect().map(|mut stream| {
                        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
                        stream
                    }));
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        for number in 0..4 {
            let (at, over, scrapes, states) = (&at, &over, &scrapes, &states);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let path = ROUTES[(scrapes.fetch_add(1, Ordering::Relaxed) + number) % ROUTES.len()];
                    // One that is crowded out before it has asked comes again.
                    let began = Instant::now();
                    let answer = std::iter::from_fn(|| (began.elapsed() < SOON).then(|| at.try_get(path)));
                    let answer = answer.flatten().next().unwrap_or_else(|| panic!("{path}: no answer"));
                    assert_eq!(answer.status, 200, "{path}");
                    if path == "/status" {
                        states.lock().expect("no thread panics").insert(answer.body);
                    }
                }
            });
        }
        for _ in 0..5 {
            line.arrives(500_000, SOON);
            descriptors.fetch_max(line.first.descriptors(), Ordering::Relaxed);
        }
        eventually("those who ask are answered", SOON, || scrapes.load(Ordering::Relaxed) > 100);
        over.store(true, Ordering::Relaxed);
    });
    // The state, with its offsets, is another one at every moment, and written once a second.
    let states = states.into_inner().expect("no thread panics").len();
    assert!((2..=began.elapsed().as_secs() as usize + 2).contains(&states), "{states} of them");
    // 64 connections, those that are being closed, and what the gateway has anyway.
    assert!(descriptors.into_inner() < 200, "no more connections than there may be");
    line.first.wait_kind("admin-crowded-out");
    line.ends_as(&before, writer);
    assert_eq!((line.first.count("breaks"), line.second.count("breaks")), (0, 0));
}

#[test]
fn a_reload_adds_moves_changes_and_removes_the_listener() {
    let (lab, ports) = (Lab::new(), [free_port(), free_port()]);
    let (socket, of_socket) = (lab.path().join("admin.sock"), "[admin]\nlisten = \"unix:admin.sock\"\n");
    // A process that is locked in makes sockets only in a folder that it knows since its start.
    let shown = Shown::with(lab, of_socket, At::Socket(socket.clone()));
    let ([one, other], unix) = (ports.map(At::Port), &shown.at);
    let is_gone = |at: &At| at.connect().is_none();
    let listens = |address: &str| shown.listeners().iter().any(|listener| listener == address);
    assert!(listens(&format!("unix:{}", socket.display())));
    shown.reload(&admin(ports[0]));
    eventually("it has moved to a port", SOON, || !is_gone(&one) && is_gone(unix) && !socket.exists());
    shown.reload(&admin(ports[1]));
    eventually("it has moved to another port", SOON, || !is_gone(&other) && is_gone(&one));
    assert!(listens(&format!("127.0.0.1:{}", ports[1])) && !listens(&format!("127.0.0.1:{}", ports[0])));
    shown.gateway.wait_log("reload: [admin] changed");
    // It is public from now on, at the same address.
    shown.reload(&format!("{}public = true\n", admin(ports[1])));
    eventually("it is public", SOON, || other.get("/status").status == 403);
    // An address that somebody else has: everything stays.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("bound").port();
    shown.reload(&admin(port));
    let faults = || shown.gateway.status()["reload"]["refused"]["faults"].to_string();
    let fault = format!("[admin]: listen on 127.0.0.1:{port}");
    eventually("the reload is refused", SOON, || faults().contains(&fault));
    // One that overlaps its own.
    shown.reload(&format!("[admin]\nlisten = \"0.0.0.0:{}\"\npublic = true\n", ports[1]));
    let own = format!("this gateway itself listens on 127.0.0.1:{}", ports[1]);
    eventually("the reload is refused for it", SOON, || {
        faults().contains(&own) && faults().contains("needs a restart")
    });
    assert_eq!((other.get("/status").status, other.get("/ready").status), (403, 200));
    shown.reload(of_socket);
    eventually("it has moved to a socket", SOON, || is_gone(&other) && !is_gone(unix));
    assert_eq!((unix.get("/status").status, faults()), (200, "null".to_owned()));
    // No browser gets here; others may name no host, or any.
    for asked in ["GET /ready HTTP/1.0\r\n\r\n", "GET /ready HTTP/1.1\r\nHost: replgate\r\n\r\n"] {
        assert_eq!(unix.send(asked.as_bytes()).expect("an answer").body, "ready\n", "{asked}");
    }
    shown.reload("");
    eventually("it is closed", SOON, || is_gone(unix) && !socket.exists());
    assert_eq!(shown.listeners().len(), 1);
    shown.reload(&admin(ports[0]));
    eventually("it is there again", SOON, || !is_gone(&one));
    assert_eq!(one.get("/ready").body, "ready\n");
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn a_socket_is_replaced_after_a_kill_refused_while_it_is_served_and_removed_at_the_end() {
    let lab = Lab::new();
    let socket = lab.path().join("admin.sock");
    let text = "[admin]\nlisten = \"unix:admin.sock\"\n";
    let check = || replgate(lab.path(), &["check", "-c", "dc2.toml"]).1;
    let nowhere = Shown::text(&text.replace("admin.sock", "nowhere/admin.sock"));
    std::fs::write(lab.path().join("dc2.toml"), nowhere).expect("the lab is writable");
    for offline in [&["--offline"][..], &[]] {
        let (code, said, _) = replgate(lab.path(), &[&["check", "-c", "dc2.toml"], offline].concat());
        let folder = lab.path().join("nowhere");
        let words = format!("fail  [admin]: the folder {} of the socket is not there", folder.display());
        assert!(code == 1 && said.matches(&words).count() == 1, "{said}");
    }
    std::fs::write(lab.path().join("dc2.toml"), Shown::text(text)).expect("the lab is writable");
    let shown = format!("unix:{}", socket.display());
    assert!(check().contains(&format!("ok    [admin]: {shown} is free to listen on")), "{}", check());
    assert!(!socket.exists(), "to check leaves nothing behind");
    let mut gateway = lab.gateway("dc2", &Shown::text(text));
    let at = At::Socket(socket.clone());
    assert!(std::fs::symlink_metadata(&socket).is_ok_and(|meta| meta.file_type().is_socket()));
    assert_eq!((mode(&socket), at.get("/status").status), (0o660, 200));
    assert!(check().contains(&format!("ok    [admin]: this gateway is running and listens on {shown}")));
    // Another gateway does not take it away.
    std::fs::write(lab.path().join("dc3.toml"), Shown::text(text).replace("dc2", "dc3")).expect("writable");
    let (code, _, said) = replgate(lab.path(), &["run", "-c", "dc3.toml"]);
    assert!(code == 1 && said.contains("another process listens there"), "{said}");
    let (_, said, _) = replgate(lab.path(), &["check", "-c", "dc3.toml"]);
    assert!(said.contains(&format!("fail  [admin]: cannot listen on {shown}: another process")), "{said}");
    assert_eq!(at.get("/live").status, 200);
    gateway.kill();
    assert!(socket.exists() && at.connect().is_none(), "what was killed cleans up nothing");
    assert!(check().contains("is free to listen on"), "nobody listens there");
    gateway.start_again();
    assert_eq!((mode(&socket), at.get("/ready").status), (0o660, 200));
    assert_eq!(gateway.stop(), Some(0));
    assert!(!socket.exists());
    // A file that is no socket is somebody's.
    std::fs::write(&socket, "precious").expect("the lab is writable");
    let (code, _, said) = replgate(lab.path(), &["run", "-c", "dc2.toml"]);
    assert!(code == 1 && said.contains("no socket is there"), "{said}");
    assert_eq!(std::fs::read_to_string(&socket).expect("it is there"), "precious");
}

#[test]
fn a_socket_whose_file_is_gone_is_told_and_made_again_by_a_reload() {
    let lab = Lab::new();
    let socket = lab.path().join("admin.sock");
    let text = "[admin]\nlisten = \"unix:admin.sock\"\n";
    let shown = Shown::with(lab, text, At::Socket(socket.clone()));
    let lost = || shown.gateway.status()["listeners_lost"].to_string();
    for told_first in [true, false] {
        assert_eq!((shown.at.get("/ready").status, lost()), (200, "[]".to_owned()));
        std::fs::remove_file(&socket).expect("it is there");
        if told_first {
            eventually("it is told", SOON, || lost().contains("admin.sock"));
            shown.gateway.wait_log("the file of the socket is gone");
        }
        shown.reload(text);
        eventually("it is there again", SOON, || shown.at.connect().is_some());
        assert_eq!(mode(&socket), 0o660);
        eventually("it is not lost any more", SOON, || lost() == "[]");
    }
    // What another process has put there stays, and the reload says so.
    std::fs::remove_file(&socket).expect("it is there");
    let _other = std::os::unix::net::UnixListener::bind(&socket).expect("the lab is writable");
    shown.reload(text);
    let faults = || shown.gateway.status()["reload"]["refused"]["faults"].to_string();
    eventually("the reload is refused", SOON, || faults().contains("another process listens there"));
    eventually("it is told", SOON, || lost().contains("admin.sock"));
}

#[test]
fn a_gateway_that_is_locked_in_makes_and_removes_its_socket_where_it_was_at_the_start() {
    let lab = Lab::new();
    let place = |name: &str| -> PathBuf { lab.path().join(name) };
    for folder in ["conf", "run", "other"] {
        std::fs::create_dir(place(folder)).expect("the lab is writable");
    }
    let text = |name: &str| {
        let config = replica_config("dc2", free_port(), 1, &format!("[admin]\nlisten = \"unix:{name}\"\n"));
        config.replace("certs/", "../certs/")
    };
    let config = place("conf/gateway.toml");
    let write = |name: &str| std::fs::write(&config, text(name)).expect("the lab is writable");
    write("../run/admin.sock");
    let mut gateway = Gateway::start(&config, "dc2");
    gateway.wait_ready();
    if !gateway.log().contains(" locked in: reads ") {
        assert!(std::env::var_os("CI").is_none(), "Landlock is needed in CI: {}", gateway.log());
        return eprintln!("skipped: {}", gateway.log());
    }
    let at = |name: &str| At::Socket(place(name));
    assert_eq!(at("run/admin.sock").get("/ready").status, 200);
    write("../run/new.sock");
    gateway.process.signal("HUP");
    eventually("it has moved within the folder", SOON, || {
        at("run/new.sock").connect().is_some() && !place("run/admin.sock").exists()
    });
    write("../other/admin.sock");
    gateway.process.signal("HUP");
    gateway.wait_log("that needs a restart");
    assert!(!place("other/admin.sock").exists());
    let path = config.to_string_lossy().into_owned();
    assert!(replgate_ok(lab.path(), &["status", "-c", &path]).contains("reload REFUSED"));
    assert_eq!(at("run/new.sock").get("/live").status, 200);
    gateway.kill();
    write("../run/new.sock");
    gateway.start_again();
    assert_eq!(at("run/new.sock").get("/live").status, 200);
    assert_eq!(gateway.stop(), Some(0));
    assert_eq!(std::fs::read_dir(place("run")).expect("it is there").count(), 0);
}

#[test]
fn a_stop_closes_the_listener_at_once_and_waits_for_nobody_there() {
    let Shown { mut gateway, at, lab: _lab } = Shown::new();
    let mut silent = at.connect().expect("it listens");
    eventually("it is accepted", SOON, || at.get("/live").status == 200);
    assert_eq!(gateway.stop(), Some(0));
    assert!(is_closed(&mut *silent));
    assert!(!gateway.log().contains("connections did not end in time"), "{}", gateway.log());
}
