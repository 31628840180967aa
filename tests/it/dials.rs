//! Dialling where some peer addresses do not work and one does.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, Lab, master_config, tls};
use crate::support::path::Path;
use crate::support::redis::{Client, Redis, Version};
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate, run};

/// A port that accepts TCP connections and never sends anything.
fn hangs() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

/// A port at which a connection gets no answer at all, because the listener's queue is full.
struct DeadEnd {
    port: u16,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl DeadEnd {
    fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn at(address: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(address);
        let socket = || socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.bind(&address.into()).expect("the port is free");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().expect("it is bound");
        let port = address.as_socket().expect("an address").port();
        let mut queued = Vec::new();
        // The queue is full once the system does not complete a connection.
        loop {
            let next = socket();
            let taken = next.connect_timeout(&address, Duration::from_millis(300)).is_ok();
            queued.push(next);
            if !taken {
                return Self { port, _listener: listener, _queued: queued };
            }
        }
    }
}

fn replica(name: &str, site: &str, entry: u16, peers: &[u16]) -> String {
    let peers: Vec<_> = peers.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "[[replica]]\nname = \"{name}\"\nmaster = \"orders\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"{site}\"\npeers = [{}]\n",
        peers.join(", ")
    )
}

/// How long the master's answer to a client of the replica listener takes.
#[track_caller]
fn pong(entry: u16) -> Duration {
    let began = Instant::now();
    let mut client = Client::connect(entry).expect("the gateway accepts");
    assert_eq!(client.ask(&["PING"]).text(), "PONG");
    began.elapsed()
}

/// Asserts that a link comes up within this time even if these peers are listed before the
/// working one, and that the far side is asked only once.
#[track_caller]
fn comes_up_behind(dead: &[u16], within: Duration) {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let peers = [dead, &[wan]].concat();
    let second = lab.gateway("dc2", &(tls("dc2") + &replica("orders", "dc1", entry, &peers)));
    let took = pong(entry);
    assert!(took < within, "{took:?}");
    eventually("the link has ended", SOON, || second.links() == 0 && first.links() == 0);
    assert_eq!(first.status()["counts"]["opened"], 1, "no other link was opened at the far side");
    // The peer that worked last is tried first.
    let took = pong(entry);
    assert!(took < Duration::from_millis(900), "{took:?}");
    let (_, out, err) = replgate(lab.path(), &["check", "-c", "dc2.toml"]);
    assert!(out.contains("offers master \"orders\" to us"), "{out}{err}");
}

#[test]
fn a_link_comes_up_though_four_peers_before_the_working_one_are_dead() {
    let dead = [DeadEnd::new(), DeadEnd::new(), DeadEnd::new(), DeadEnd::new()];
    comes_up_behind(&dead.each_ref().map(|dead| dead.port), Duration::from_secs(3));
}

#[test]
fn a_link_comes_up_though_three_peers_before_the_working_one_accept_and_hang() {
    let hanging = [hangs(), hangs(), hangs()];
    comes_up_behind(&hanging.each_ref().map(|(_, port)| *port), Duration::from_secs(3));
}

#[test]
fn a_link_comes_up_at_once_if_the_peers_before_the_working_one_refuse_connections() {
    comes_up_behind(&[free_port(), free_port(), free_port()], Duration::from_secs(1));
}

/// A command in a mount namespace in which this file replaces `/etc/hosts`.
fn with_hosts(hosts: &std::path::Path, command: &str) -> Command {
    let mut unshare = Command::new("unshare");
    let script = format!("mount --bind {} /etc/hosts && exec {command}", hosts.display());
    unshare.args(["-m", "sh", "-c", &script]).env("NO_COLOR", "1");
    unshare
}

#[test]
fn a_name_whose_first_address_is_dead_works_for_redis_and_for_the_far_gateway() {
    let lab = Lab::new();
    let hosts = lab.path().join("hosts");
    // The resolver returns the IPv6 address first.
    std::fs::write(&hosts, "::1 two.test\n127.0.0.1 localhost two.test\n").expect("a folder of the test's");
    let found = run(&mut with_hosts(&hosts, "getent ahosts two.test"));
    if !String::from_utf8_lossy(&found.stdout).starts_with("::1 ") {
        assert!(std::env::var_os("CI").is_none(), "a mount namespace is needed in CI: {found:?}");
        eprintln!("skipped: no hosts file of its own: {found:?}");
        return;
    }
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let _dead = [alpha.port, wan].map(|port| DeadEnd::at(SocketAddr::from((Ipv6Addr::LOCALHOST, port))));
    let named = |text: String, port: u16| {
        text.replace(&format!("\"127.0.0.1:{port}\""), &format!("\"two.test:{port}\""))
    };
    let master = master_config("dc1", wan, &[("orders", alpha.port)], "");
    let texts = [
        ("dc1", named(master, alpha.port)),
        ("dc2", tls("dc2") + &named(replica("orders", "dc1", entry, &[wan]), wan)),
    ];
    let [_first, _second] = texts.each_ref().map(|(site, text)| {
        let config = lab.path().join(format!("{site}.toml"));
        std::fs::write(&config, text).expect("the test's folder is writable");
        let command = format!("{REPLGATE} run -c {}", config.display());
        let gateway = Gateway::start_by(&config, site, &mut with_hosts(&hosts, &command));
        gateway.wait_ready();
        gateway
    });
    let took = pong(entry);
    assert!(took < Duration::from_secs(2), "{took:?}");
    for (site, told) in [("dc1", "is a master at offset"), ("dc2", "offers master \"orders\" to us")] {
        let config = lab.path().join(format!("{site}.toml"));
        let command = format!("{REPLGATE} check -c {}", config.display());
        let out = run(&mut with_hosts(&hosts, &command));
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.contains(told) && out.contains("two.test"), "{out}");
    }
}

#[test]
fn a_link_resumes_over_the_last_peer_if_all_others_hang() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
    let bravo = lab.redis("bravo");
    let (wan, entry) = (free_port(), free_port());
    let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    // The first path works until it is silenced below.
    let (first_path, last_path) = (Path::to(wan), Path::to(wan));
    let hanging = [hangs(), hangs(), hangs(), hangs(), hangs()];
    let mut peers = vec![first_path.port];
    peers.extend(hanging.each_ref().map(|(_, port)| *port));
    peers.push(last_path.port);
    let second = lab.gateway("dc2", &(tls("dc2") + &replica("orders", "dc1", entry, &peers)));
    bravo.replicaof(entry);
    bravo.wait_equal(&alpha);
    let full = alpha.sync_full();
    first_path.silence(true);
    first_path.cut();
    let began = Instant::now();
    eventually("the link has a lane again", SOON, || {
        second.count("breaks") == 1 && second.count("lanes") == 1 && first.count("lanes") == 1
    });
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    alpha.ask(&["SET", "after", "the break"]);
    bravo.wait_equal(&alpha);
    assert_eq!(alpha.sync_full(), full);
}

/// dc2 with many clients whose links to dc1 hang, and with a replica of dc3, which works.
struct Crowd {
    dead: Vec<Client>,
    entries: [u16; 2],
    third: Gateway,
    second: Gateway,
    path: Path,
    alpha: Redis,
    bravo: Redis,
    _hanging: (TcpListener, u16),
    _lab: Lab,
}

impl Crowd {
    fn new(count: usize) -> Self {
        let lab = Lab::new();
        let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-backlog-size", "1mb"]);
        let bravo = lab.redis("bravo");
        let (wan, entries, hanging) = (free_port(), [free_port(), free_port()], hangs());
        let third = lab.gateway("dc3", &master_config("dc3", wan, &[("orders", alpha.port)], ""));
        let path = Path::to(wan);
        let config = tls("dc2")
            + &replica("far", "dc1", entries[0], &[hanging.1])
            + &replica("orders", "dc3", entries[1], &[path.port]);
        let second = lab.gateway("dc2", &config);
        bravo.replicaof(entries[1]);
        bravo.wait_equal(&alpha);
        let dead = (0..count)
            .map(|_| {
                let mut client = Client::connect(entries[0]).expect("the gateway accepts");
                client.send(b"PING\r\n");
                client
            })
            .collect();
        Self { dead, entries, third, second, path, alpha, bravo, _hanging: hanging, _lab: lab }
    }
}

#[test]
fn a_site_that_is_down_delays_no_link_to_another_site() {
    let crowd = Crowd::new(150);
    for _ in 0..3 {
        let took = pong(crowd.entries[1]);
        assert!(took < Duration::from_secs(2), "a new link to the healthy site took {took:?}");
    }
    crowd.path.cut();
    let began = Instant::now();
    eventually("the healthy site's link has a lane again", SOON, || {
        crowd.second.count("breaks") == 1 && crowd.second.count("lanes") == 1
    });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    crowd.alpha.ask(&["SET", "after", "the break"]);
    crowd.bravo.wait_equal(&crowd.alpha);
    assert_eq!(crowd.third.links(), 1);
    assert_eq!(crowd.dead.len(), 150);
}

#[test]
fn handshakes_that_progress_survive_a_crowd_of_silent_ones_from_the_same_address() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let limits = "[limits]\nlinks_per_site = 400\nnew_links_per_minute = 1000\n";
    let first = lab.gateway("dc1", &(master_config("dc1", wan, &[("orders", alpha.port)], "") + limits));
    // A round trip that is long compared with the interval between the crowd's connections.
    let path = Path::to(wan);
    path.slow_down(Duration::from_millis(400));
    let second = lab.gateway("dc2", &(tls("dc2") + &replica("orders", "dc1", entry, &[path.port])));
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(entry).expect("the gateway accepts")).collect();
    for client in &mut clients {
        client.send(b"PING\r\n");
    }
    let strangers: Vec<_> = (0..300)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(10)); // They keep coming during the handshakes.
            TcpStream::connect(("127.0.0.1", wan)).expect("the gateway accepts")
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.answer().map(|answer| answer.text()).as_deref(), Some("PONG"));
    }
    assert_eq!(second.status()["counts"]["failed"], 0);
    assert_eq!(first.links(), 40);
    drop(strangers);
}

#[test]
fn the_error_suspects_a_firewall_that_drops_packets_and_names_the_port() {
    let (lab, end, entry) = (Lab::new(), DeadEnd::new(), free_port());
    let gateway = lab.gateway("dc2", &(tls("dc2") + &replica("orders", "dc1", entry, &[end.port])));
    let mut client = Client::connect(entry).expect("the gateway accepts");
    client.send(b"PING\r\n");
    let words = format!(
        "no answer within 3 s; does a firewall drop it? TCP port {} must be open to this host",
        end.port
    );
    gateway.wait_log(&words);
    let said = client.line().unwrap_or_default();
    assert!(said.contains(&words), "{said}");
}
