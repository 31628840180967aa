//! Connections from anyone who can reach a port of a gateway.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use replgate::internal::wire::hello::{Id, Request};
use time::Duration as Days;

use super::Target;
use crate::support::gateway::{Gateway, Lab, master_config, replica_config};
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::{Answer, Client, Redis, Version};
use crate::support::wire::Site;
use crate::support::{Process, REPLGATE, SOON, cpu, eventually, free_port, replgate};

#[test]
fn strangers_on_the_tls_port_are_distinguished_and_closed() {
    let target = Target::new();
    for bytes in [
        &b"PING\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 5000],
        &[0; 100],
    ] {
        let mut socket = TcpStream::connect(("127.0.0.1", target.pair.wan)).expect("the gateway accepts");
        let _ = socket.write_all(bytes);
        socket.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        // At most a TLS alert, never an answer of Redis.
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() < 64 && !answer.starts_with(b"+"), "{}", answer.escape_ascii());
    }
    target
        .pair
        .first
        .wait_log("the received bytes are not TLS: is the other end a plain Redis, HTTP or something else?");
    target.is_unharmed();
}

#[test]
fn the_error_suspects_a_plain_redis_in_place_of_the_far_gateway() {
    let lab = Lab::new();
    let plain = lab.redis("plain");
    let entry = free_port();
    let second = lab.gateway("dc2", &replica_config("dc2", entry, plain.port, ""));
    let mut client = Client::connect(entry).expect("the gateway accepts");
    let Answer::Error(error) = client.ask(&["PING"]) else { panic!("an error") };
    // Redis reads the TLS handshake as a command and waits for its end.
    assert!(error.contains("TLS gets no answer: is a gateway on that port, or a plain Redis?"), "{error}");
    second.wait_kind("no-link");
}

#[test]
fn a_connection_without_a_hello_is_closed_after_five_seconds() {
    let target = Target::new();
    let mut silent = TcpStream::connect(("127.0.0.1", target.pair.wan)).expect("the gateway accepts");
    silent.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(
        rest.is_empty() && (Duration::from_secs(4)..Duration::from_secs(9)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    target.pair.first.wait_kind("no-hello");
    // The same after a TLS handshake without a HELLO.
    let output = Command::new("bash")
        .args(["-c", &format!("(sleep 15) | timeout 14 openssl s_client -quiet -connect 127.0.0.1:{} -cert certs/dc2/tls.crt -key certs/dc2/tls.key -CAfile certs/dc1/ca.crt -tls1_3 -alpn replgate/1; echo gone $?", target.pair.wan)])
        .current_dir(target.lab.path())
        .output()
        .expect("bash runs");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("gone 124"), "the gateway closed first");
    target.is_unharmed();
}

#[test]
fn three_hundred_silent_connections_keep_no_site_out() {
    let target = Target::new();
    let mut silent: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(("127.0.0.1", target.pair.wan)).expect("the gateway accepts"))
        .collect();
    let began = Instant::now();
    target.is_unharmed();
    assert!(began.elapsed() < SOON);
    for socket in &mut silent {
        socket.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        let _ = socket.read(&mut [0; 1]).expect("the gateway closes it");
    }
}

#[test]
fn a_gateway_without_free_file_descriptors_neither_spins_nor_ends() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let config = lab.path().join("dc1.toml");
    std::fs::write(&config, master_config("dc1", wan, &[("orders", alpha.port)], ""))
        .expect("the test's folder is writable");
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("ulimit -n 40; exec {REPLGATE} run -c {}", config.display())])
        .env("NO_COLOR", "1");
    let first = Gateway::start_by(&config, "dc1", &mut command);
    first.wait_ready();
    let silent: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", wan)).expect("the system accepts")).collect();
    first.wait_kind("starved");
    let before = cpu(first.process.child.id());
    std::thread::sleep(Duration::from_secs(2)); // Time itself is measured here.
    assert!(cpu(first.process.child.id()) - before < 0.5, "it does not spin");
    drop(silent);
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let _bravo = lab.replica("bravo", entry, &alpha);
}

#[test]
fn any_number_of_bad_certificates_keeps_no_other_refusal_out_of_the_log() {
    let mut target = Target::new();
    let (ca, folder) = (Ca::new("strangers"), target.lab.path().join("strangers"));
    let count = 60;
    for day in 1..=count {
        ca.folder(&folder, &Leaf { until: -Days::days(day), from: -Days::days(300), ..Leaf::good("dc2") });
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", target.pair.wan), "-tls1_3"])
            .args(["-cert", "tls.crt", "-key", "tls.key", "-alpn", "replgate/1", "-quiet"])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .output()
            .expect("openssl runs");
        assert!(String::from_utf8_lossy(&output.stderr).contains("alert"), "{output:?}");
    }
    let first = &mut target.pair.first;
    first.wait_kind("dates");
    let told = first.lines("WARN", "connection refused");
    assert!(told <= 5, "{told} lines for {count} certificates");
    // Another refusal has its own line.
    let other = Site::new(&target.lab.path().join("certs"), "dc3", "dc1");
    other.ask(target.pair.wan, Request::Probe { master: "orders".into() }).1.expect_err("it is not allowed");
    first.wait_kind("not-allowed");
    // Suppressed lines are counted, and the count is logged when the gateway stops at the latest.
    assert_eq!(first.stop(), Some(0));
    let more = format!("{} more connections refused: certificates", count as usize - told);
    assert!(first.log().contains(&more), "{more}: {}", first.log());
}

#[test]
fn names_that_a_site_invents_get_few_log_lines_and_suppress_no_others() {
    let mut target = Target::new();
    let certs = target.lab.path().join("certs");
    let count = 100;
    for at in 0..count {
        let letters = String::from_utf8_lossy(&[b'a' + at / 10, b'a' + at % 10]).into_owned();
        let mut site = Site::new(&certs, "dc3", "dc1");
        for want in [
            Request::Probe { master: format!("no-such-{letters}") },
            Request::Attach { link: Id::random(), lane: 1, alive: vec![], received: 0 },
        ] {
            site.ask(target.pair.wan, want).1.expect_err("there is none");
        }
        site.identity.site = format!("not-{letters}");
        site.ask(target.pair.wan, Request::Probe { master: "orders".into() }).1.expect_err("it is another");
    }
    let first = &mut target.pair.first;
    let told = first.lines("WARN", "link refused");
    assert!((3..=11).contains(&told), "{told} lines for three hundred refusals of three kinds");
    assert_eq!(first.status()["counts"]["refused"], 3 * u64::from(count));
    assert_eq!(first.stop(), Some(0));
    for kind in [
        "links refused: a master that is not offered",
        "links refused: the HELLO names another site than the certificate",
        "lanes refused: no such link",
    ] {
        assert_eq!(first.lines("WARN", kind), 1, "{kind}: {}", first.log());
    }
}

/// A pair whose replicas need the password "local-secret", with alpha at the master's site.
fn guarded(clients: &str) -> Target {
    let lab = Lab::new();
    std::fs::write(lab.path().join("local.pw"), "local-secret").expect("the test's folder is writable");
    let alpha = lab.redis("alpha");
    alpha.fill();
    let more = format!("password_file = \"local.pw\"\nclients = [\"{clients}\"]");
    let pair = lab.pair_with(alpha.port, "", &more);
    let digest = alpha.digest();
    Target { alpha, pair, digest, clients: AtomicU16::new(0), lab }
}

/// Asserts that a replica that knows the password is in sync within this time.
#[track_caller]
fn replica_with_the_password_is_served(target: &Target, within: Duration) {
    let arguments = ["--masterauth", "local-secret"];
    let bravo = Redis::start(Version::System, target.lab.path(), "bravo", &arguments);
    bravo.replicaof(target.pair.entry);
    eventually("the replica's link is up", within, || bravo.info("master_link_status") == "up");
    bravo.wait_equal(&target.alpha);
}

#[test]
fn silent_clients_keep_no_replica_out_of_its_listener() {
    let target = guarded("127.0.0.1/32");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let entry = ("127.0.0.1", target.pair.entry);
                let connect = || {
                    let socket = TcpStream::connect(entry).expect("the system accepts");
                    socket.set_nonblocking(true).expect("a mode can be set");
                    socket
                };
                let mut silent: Vec<TcpStream> = (0..75).map(|_| connect()).collect();
                while !over.load(Ordering::Relaxed) {
                    for socket in &mut silent {
                        // The gateway has closed it: open another.
                        if socket.read(&mut [0; 1]).map_err(|error| error.kind())
                            != Err(std::io::ErrorKind::WouldBlock)
                        {
                            *socket = connect();
                        }
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::sleep(Duration::from_millis(300)); // Until all of them are connected.
            let before = target.pair.second.descriptors();
            assert!(before < 300, "{before} descriptors: the listener's clients are bounded");
            replica_with_the_password_is_served(&target, SOON);
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = served {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Tries passwords from sixty threads, each from the address that `from` returns, and asserts that a
/// replica with the password is served. Returns how many guesses a second were answered.
#[track_caller]
fn guess(target: &Target, from: impl Fn(usize, usize) -> [u8; 4] + Sync) -> f64 {
    let (over, guesses) = (AtomicBool::new(false), AtomicUsize::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..60 {
            let (over, guesses, from) = (&over, &guesses, &from);
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut client = connect_from(from(thread, round), target.pair.entry);
                    let _ = client.write_all(format!("AUTH guess-{thread}-{round}\r\n").as_bytes());
                    let mut answer = [0; 100];
                    let count = client.read(&mut answer).unwrap_or(0);
                    assert!(!answer.starts_with(b"+"), "a wrong password was accepted");
                    guesses.fetch_add(
                        usize::from(answer[..count].starts_with(b"-WRONGPASS")),
                        Ordering::Relaxed,
                    );
                }
            });
        }
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::sleep(Duration::from_secs(4)); // Time itself is measured here.
            replica_with_the_password_is_served(target, SOON);
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = served {
            std::panic::resume_unwind(panic);
        }
        guesses.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
    })
}

/// A connection to a port of this host from one of its loopback addresses.
fn connect_from(address: [u8; 4], port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from((address, 0)).into()).expect("an address of this host");
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("the system accepts");
    socket.set_read_timeout(Some(Duration::from_secs(4))).expect("a timeout can be set");
    socket.into()
}

#[test]
fn guesses_from_one_address_are_few_and_keep_no_replica_out() {
    let target = guarded("127.0.0.0/8");
    let rate = guess(&target, |_, _| [127, 0, 0, 1]);
    assert!(rate < 3.0, "{rate:.1} guesses a second");
    let told = target.pair.second.lines("WARN", "replica refused");
    assert!(told <= 10, "{told} lines");
}

#[test]
fn guesses_from_new_addresses_each_time_are_few_and_keep_no_replica_out() {
    let target = guarded("127.0.0.0/8");
    let rate =
        guess(&target, |thread, round| [127, 1 + thread as u8, (round / 250) as u8, (round % 250) as u8]);
    assert!(rate < 3.0, "{rate:.1} guesses a second");
}

#[test]
fn a_flood_of_guesses_from_one_address_keeps_no_replica_at_another_out() {
    let target = guarded("127.0.0.0/8");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // The last two hundred stay open.
                let mut open = VecDeque::new();
                while !over.load(Ordering::Relaxed) {
                    let mut client = connect_from([127, 0, 0, 2], target.pair.entry);
                    let _ = client.write_all(b"AUTH guess\r\n");
                    open.push_back(client);
                    if open.len() > 200 {
                        open.pop_front();
                    }
                }
            });
        }
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            target.pair.second.wait_kind("wrong-password");
            replica_with_the_password_is_served(&target, SOON);
            let open = target.pair.second.descriptors();
            assert!(open < 300, "{open} descriptors");
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = served {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A Perl program that takes the name of the status socket before the gateway starts.
const SQUATTER: &str = r#"
    use Socket;
    socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die;
    bind($socket, pack_sockaddr_un("\0" . $ARGV[0])) or die "bind: $!";
    listen($socket, 5) or die;
    # Also names that sort before any that the gateway may take instead.
    my @more = map {
        socket(my $other, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
        bind($other, pack_sockaddr_un("\0" . $ARGV[0] . sprintf("-%05d", $_))) or die "bind: $!";
        listen($other, 5) or die;
        $other
    } 1 .. $ARGV[1];
    $| = 1;
    print "squatting\n";
    accept(my $asking, $socket) while 1;
"#;

#[test]
fn a_process_that_takes_the_name_of_the_status_socket_is_reported_and_does_not_block_status() {
    let lab = Lab::new();
    let config = lab.path().join("dc1.toml");
    std::fs::write(&config, master_config("dc1", free_port(), &[("orders", 1)], ""))
        .expect("the test's folder is writable");
    let squat = |name: &str| {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "perl",
                "-e",
                SQUATTER,
                name,
                "900",
            ])
            .stdin(Stdio::null());
        Process::start("squatter", lab.path().join("squatter.log"), &mut command)
    };
    let mut squatter = squat(&status_socket("dc1", &config));
    eventually("it has the name, or cannot run as another user", SOON, || {
        squatter.log_text().contains("squatting") || !squatter.is_running()
    });
    if !squatter.log_text().contains("squatting") {
        assert!(std::env::var_os("CI").is_none(), "another user is needed in CI: {}", squatter.log_text());
        eprintln!("skipped: {}", squatter.log_text());
        return;
    }
    let mut gateway = Gateway::start(&config, "dc1");
    gateway.wait_ready();
    gateway.wait_log(&format!("is taken by another process (user 65534, process {})", squatter.child.id()));
    assert_eq!(gateway.status()["site"], "dc1");
    // Without the gateway, the answer of another process is not accepted.
    assert_eq!(gateway.stop(), Some(0));
    let (code, _, error) = replgate(lab.path(), &["status", "-c", "dc1.toml"]);
    assert!(
        code == 1 && error.contains("answers in place of the gateway, and the answer is ignored"),
        "{code}: {error}"
    );
}

#[test]
fn clients_that_read_nothing_do_not_block_status() {
    let lab = Lab::new();
    // An answer that does not fit into a socket's buffer.
    let names: Vec<String> = (0..3000).map(|at| format!("{at}-{}", "x".repeat(150))).collect();
    let masters: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let gateway = lab.gateway("dc1", &master_config("dc1", free_port(), &masters, ""));
    let name = SocketAddr::from_abstract_name(status_socket("dc1", &gateway.config)).expect("a name");
    let before = gateway.descriptors();
    let _unread: Vec<UnixStream> =
        (0..50).map(|_| UnixStream::connect_addr(&name).expect("the gateway listens")).collect();
    assert_eq!(gateway.status()["masters"].as_array().map(Vec::len), Some(3000));
    let more = gateway.descriptors() - before;
    assert!(more <= 17, "{more} descriptors for fifty clients");
}

/// The abstract name of a gateway's status socket. It is not a secret.
fn status_socket(site: &str, config: &Path) -> String {
    let text = format!("{site}\n{}", config.display());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("replgate-{hex}")
}
