//! How a site introduces its replicas, and how the master lists them.

use super::Target;
use crate::support::gateway::{Lab, Pair};
use crate::support::redis::{ALL, Client, Redis};
use crate::support::wire::Site;
use crate::support::{SOON, eventually};

/// Sends each command after the answer to the one before. Returns the last answer.
fn send(site: &Site, pair: &Pair, commands: &[&[&[u8]]]) -> Option<(crate::support::wire::Wire, Vec<u8>)> {
    let (mut wire, _) = site.link(pair.wan);
    let (mut offset, mut answer) = (0, Vec::new());
    for words in commands {
        let command = replgate::internal::redis::command::encode(words);
        wire.data(offset, &command).ok()?;
        offset += command.len() as u64;
        answer = wire.try_stream(5)?;
    }
    Some((wire, answer))
}

#[test]
fn info_shows_a_sites_own_name_whatever_the_site_sends_or_leaves_out() {
    for version in ALL {
        let lab = Lab::new();
        let alpha = Redis::start(version, lab.path(), "alpha", &[]);
        let pair = lab.pair_with(alpha.port, "", "");
        let site = Site::new(&lab.path().join("certs"), "dc2", "dc1");
        let own = alpha.port.to_string();
        let own = own.as_bytes();
        let psync: &[&[u8]] = &[b"PSYNC", b"?", b"-1"];
        let long = [b'x'; 200];
        let mut links = Vec::new();
        for (said, expected) in [
            (&[][..], "dc2"),
            (&[&b"listening-port"[..], own], "dc2"),
            (&[b"listening-port", own, b"ip-address", b"127.0.0.1"], "127.0.0.1.dc2"),
            (&[b"listening-port", own, b"ip-address", b"::1"], "dc2"),
            (&[b"ip-address", b"x\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nx:"], "dc2"),
            (&[b"ip-address", b"x,port=1,state=online"], "dc2"),
            (&[b"ip-address", b"bravo", b"listening-port", b"1"], "bravo.dc2"),
            (&[b"ip-address", &long], "dc2"),
        ] {
            let introduction = [&[&b"REPLCONF"[..]], said].concat();
            let commands: &[&[&[u8]]] = if said.is_empty() { &[psync] } else { &[&introduction, psync] };
            let (wire, answer) = send(&site, &pair, commands).expect("the sync is granted");
            assert!(answer.starts_with(b"+FULL"), "{}", answer.escape_ascii());
            links.push(wire);
            eventually("the replica is listed", SOON, || {
                alpha.info("connected_slaves") == links.len().to_string()
            });
            let last = alpha.info(&format!("slave{}", links.len() - 1));
            assert!(last.starts_with(&format!("ip={expected},port=")), "{version:?}: {last}");
        }
        let info = alpha.ask(&["INFO", "replication"]);
        assert_eq!((info.matches("role:").count(), info.matches("master_host").count()), (1, 0), "{info}");
        drop(links);
        eventually("the master drops the replica", SOON, || alpha.info("connected_slaves") == "0");
    }
}

#[test]
fn a_value_that_no_replica_sends_ends_the_link() {
    let target = Target::new();
    let site = target.site();
    for (option, value) in [
        ("version", "8.1\r\nrole:slave"),
        ("capa", "eof\x1b[2J"),
        ("listening-port", "99999"),
        ("uuid", "a,b=c"),
        ("set-cluster-node-id", "short but with blanks"),
    ] {
        let words: [&[u8]; 3] = [b"REPLCONF", option.as_bytes(), value.as_bytes()];
        let (_, answer) = send(&site, &target.pair, &[&words]).expect("an answer");
        assert!(answer.starts_with(b"-ERR "), "{}", answer.escape_ascii());
        target.pair.first.wait_log(&format!("REPLCONF {option} with a value that no replica sends"));
    }
    assert!(!target.pair.first.log().contains("role:slave"));
    target.is_unharmed();
}

#[test]
fn a_site_that_guesses_passwords_waits_longer_each_time_and_its_honest_replicas_do_not() {
    let lab = Lab::new();
    let alpha = Redis::start(
        crate::support::redis::Version::System,
        lab.path(),
        "alpha",
        &["--requirepass", "secret"],
    );
    let pair = lab.pair(alpha.port);
    let masterauth = ["--masterauth", "secret"];
    let bravo = Redis::start(crate::support::redis::Version::System, lab.path(), "bravo", &masterauth);
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    alpha.ask(&["CONFIG", "RESETSTAT"]);
    let site = Site::new(&lab.path().join("certs"), "dc2", "dc1");
    for _ in 0..10 {
        let (mut wire, _) = site.link(pair.wan);
        // As many guesses as possible, without waiting for an answer.
        let guesses = Client::encode(&["AUTH", "guess"]).repeat(1000);
        let _ = wire.data(0, &guesses);
        assert!(wire.is_closed(SOON));
    }
    let stats = alpha.ask(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls="));
    let calls: u32 = calls.and_then(|line| line.split(',').next()?.parse().ok()).expect("AUTH was tried");
    assert!(calls <= 12, "{calls} guesses have reached the master");
    pair.first.wait_log("too many wrong passwords of this site");
    assert!(!pair.first.log().contains("guess"), "the log names no password");
    // A password that was accepted before passes without a delay.
    bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
}
