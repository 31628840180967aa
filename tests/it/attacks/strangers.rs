//! Whoever reaches a port of a gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Target;
use crate::support::gateway::{Gateway, Lab, master_config, replica_config};
use crate::support::redis::{Answer, Client, Redis, Version};
use crate::support::{REPLGATE, SOON, cpu, free_port};

#[test]
fn strangers_on_the_tls_port_are_told_apart_and_closed() {
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
        // A TLS alert at most, never an answer of Redis.
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() < 64 && !answer.starts_with(b"+"), "{}", answer.escape_ascii());
    }
    target.pair.first.wait_log("what came is not TLS: is this a plain Redis, HTTP or other port?");
    target.is_unharmed();
}

#[test]
fn a_plain_redis_in_place_of_the_far_gateway_is_told() {
    let lab = Lab::new();
    let plain = Redis::start(Version::System, lab.path(), "plain", &[]);
    let entry = free_port();
    let second = lab.gateway("dc2", &replica_config("dc2", entry, plain.port, ""));
    let mut client = Client::connect(entry).expect("the gateway accepts");
    let Answer::Error(error) = client.ask(&["PING"]) else { panic!("an error") };
    // Redis waits for the end of what it takes for a command.
    assert!(error.contains("TLS gets no answer: is a gateway on that port, or a plain Redis?"), "{error}");
    second.wait_log("TLS gets no answer");
}

#[test]
fn a_hello_that_never_comes_is_given_up_after_five_seconds() {
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
    target.pair.first.wait_log("no hello within 5 s");
    // TLS done, but no hello: the same.
    let output = Command::new("bash")
        .args(["-c", &format!("(sleep 15) | timeout 14 openssl s_client -quiet -connect 127.0.0.1:{} -cert certs/dc2/tls.crt -key certs/dc2/tls.key -CAfile certs/dc1/ca.crt -tls1_3 -alpn replgate/1; echo gone $?", target.pair.wan)])
        .current_dir(target.lab.path())
        .output()
        .expect("bash runs");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("gone 124"), "the gateway closed first");
    target.is_unharmed();
}

#[test]
fn three_hundred_silent_connections_keep_nobody_out() {
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
fn running_out_of_files_neither_spins_nor_ends_the_gateway() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &[]);
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
    first.wait_log("connections cannot be accepted");
    let before = cpu(first.process.child.id());
    std::thread::sleep(Duration::from_secs(2)); // Time itself is measured here.
    assert!(cpu(first.process.child.id()) - before < 0.5, "it does not spin");
    drop(silent);
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let bravo = Redis::start(Version::System, lab.path(), "bravo", &[]);
    bravo.replicaof(entry);
    bravo.wait_equal(&alpha);
}
