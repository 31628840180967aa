//! Commands that are not part of replication, in every form, from a replica's site.

use super::Target;
use crate::support::redis::{Answer, Client};
use crate::support::{SOON, eventually};

#[test]
fn forbidden_commands_before_the_sync_get_an_error_and_never_reach_redis() {
    let target = Target::new();
    for command in [
        &["FLUSHALL"][..],
        &["flushall"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["EVAL", "return redis.call('flushall')", "0"],
        &["SHUTDOWN", "NOSAVE"],
        &["REPLICAOF", "NO", "ONE"],
        &["GET", "string:1"],
        &["MONITOR"],
        &["SYNC"],
        &["PSYNC", "0123456789012345678901234567890123456789", "1", "FAILOVER"],
        &["REPLCONF", "rdb-only", "1"],
        &["CLUSTER", "SYNCSLOTS", "SYNC"],
        &["DEBUG", "SLEEP", "0"],
    ] {
        let mut client = target.client();
        let Some(Answer::Error(error)) = client.try_ask(command) else { panic!("{command:?} gets an error") };
        assert!(
            error.starts_with("ERR replgate dc1: ") && error.ends_with("; refused"),
            "{command:?}: {error}"
        );
        assert_eq!(client.rest(SOON), (Vec::new(), true), "{command:?} ends the link");
    }
    target.pair.first.wait_end("command-refused");
    target.pair.first.wait_log("the command FLUSHALL is not part of replication");
    target.pair.second.wait_far_end("CommandRefused");
    target.is_unharmed();
}

#[test]
fn forbidden_commands_after_a_legitimate_handshake_get_an_error_in_order_or_end_the_link_silently() {
    let target = Target::new();
    // Pipelined after commands whose replies are still outstanding.
    let mut client = target.client();
    let burst = [
        Client::encode(&["PING"]),
        Client::encode(&["REPLCONF", "listening-port", "7"]),
        Client::encode(&["FLUSHALL"]),
        Client::encode(&["PING"]),
    ]
    .concat();
    client.send(&burst);
    assert_eq!(client.line().as_deref(), Some("+PONG"));
    assert_eq!(client.line().as_deref(), Some("+OK"));
    assert!(client.line().is_some_and(|line| line.starts_with("-ERR replgate dc1: the command FLUSHALL")));
    assert_eq!(client.rest(SOON), (Vec::new(), true));
    // After a PSYNC the link ends without an error, since a reply would get into the stream.
    for command in [&["FLUSHALL"][..], &["CONFIG", "SET", "maxmemory", "1"]] {
        let mut client = target.client();
        client.ask(&["PING"]);
        client.ask(&["REPLCONF", "listening-port", "7", "capa", "eof", "capa", "psync2"]);
        client.send(&Client::encode(&["PSYNC", "?", "-1"]));
        assert!(client.line().is_some_and(|line| line.starts_with("+FULLRESYNC")));
        for byte in Client::encode(command) {
            client.send(&[byte]);
        }
        let (rest, ended) = client.rest(SOON);
        assert!(ended, "the link ends");
        assert!(!rest.windows(4).any(|window| window == b"-ERR"), "no reply in the stream");
    }
    target.pair.first.wait_end("command-refused");
    target.pair.first.wait_log("the command CONFIG after the sync was asked for");
    eventually("no phantom replica is left", SOON, || target.alpha.info("connected_slaves") == "0");
    target.is_unharmed();
}

#[test]
fn malformed_commands_that_redis_might_read_differently_never_reach_it() {
    let target = Target::new();
    let long = [&b"*1\r\n$400000\r\n"[..], &[b'x'; 400_000]].concat();
    for bytes in [
        &b"*1\r\n$536870912\r\nFLUSHALL\r\n"[..],
        b"*-1\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        b"*1\r\n$-1\r\n",
        b"*1000000000\r\n",
        b"*1\r\n$4\r\nPINGxx*1\r\n$8\r\nFLUSHALL\r\n",
        b"PING\0FLUSHALL\r\n",
        b"PI\x1b[31mNG\r\n",
        b"\"FLUSHALL\"\r\n",
        b"\x16\x03\x01\x02\x00",
        &long,
        &[b'A'; 70_000],
    ] {
        let mut client = target.client();
        client.send(bytes);
        let (rest, ended) = client.rest(SOON);
        assert!(ended, "{}", bytes[..bytes.len().min(40)].escape_ascii());
        assert!(rest.starts_with(b"-ERR replgate dc1: ") || rest.is_empty(), "{}", rest.escape_ascii());
    }
    // A replica sends newlines while it loads a snapshot. They pass and cost no memory.
    let mut client = target.client();
    for _ in 0..100 {
        client.send(&[b'\n'; 100_000]);
    }
    assert_eq!(client.ask(&["PING"]).text(), "PONG");
    assert!(!target.pair.first.log().contains('\x1b'), "no terminal escape in the log");
    let used = target.pair.first.memory();
    assert!(used < 100 << 20, "memory stays bounded: {used}");
    drop(client);
    target.is_unharmed();
}

/// What an attacker with the replica site's certificate could try.
fn attacks() -> Vec<Vec<u8>> {
    let commands: [&[&str]; 22] = [
        &["FLUSHALL"],
        &["fLuShAlL", "ASYNC"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CONFIG", "GET", "requirepass"],
        &["EVAL", "redis.call('flushall')", "0"],
        &["SCRIPT", "FLUSH"],
        &["FUNCTION", "FLUSH"],
        &["SHUTDOWN", "NOSAVE"],
        &["DEBUG", "SEGFAULT"],
        &["MODULE", "LOAD", "/tmp/evil.so"],
        &["REPLICAOF", "127.0.0.1", "1"],
        &["SLAVEOF", "NO", "ONE"],
        &["FAILOVER"],
        &["MIGRATE", "127.0.0.1", "1", "string:1", "0", "1000"],
        &["GET", "string:1"],
        &["SET", "string:1", "x"],
        &["MONITOR"],
        &["CLIENT", "KILL", "TYPE", "replica"],
        &["ACL", "SETUSER", "evil", "on", "nopass", "~*", "+@all"],
        &["MULTI"],
        &["HELLO", "3"],
        &["CLUSTER", "SYNCSLOTS", "SYNC", "x", "0", "1"],
    ];
    let mut attacks: Vec<Vec<u8>> = commands.iter().map(|command| Client::encode(command)).collect();
    attacks.extend(commands.iter().map(|command| format!("{}\r\n", command.join(" ")).into_bytes()));
    let shapes: [&[u8]; 25] = [
        // A snapshot alone, and the snapshot of another replica's sync.
        b"REPLCONF capa eof rdb-only 1 rdb-channel 1 main-ch-client-id 5\r\n",
        b"REPLCONF set-rdb-client-id 5\r\n",
        b"REPLCONF rdb-channel 1\r\nSYNC\r\n",
        b"REPLCONF rdb-only 1 rdb-channel 1\r\n",
        b"PSYNC ? 99999999999999999999\r\nSYNC\r\n",
        b"*1\r\n$536870912\r\nFLUSHALL\r\n",
        b"*1\r\n$-1\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        b"*-1\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        b"*2147483648\r\n",
        b"*1\r\n$18446744073709551615\r\n",
        b"*1\r\n$9223372036854775808\r\nx\r\n",
        b"*0\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        b"*1\r\n$4\r\nPING*1\r\n$8\r\nFLUSHALL\r\n",
        b"*1\r\n$3\r\nPING\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$12\r\n1\r\nFLUSHALL\r\n\r\n",
        b"REPLCONF ACK 1\rFLUSHALL\r\n",
        b"PING\0\r\nFLUSHALL\r\n",
        b"FLUSHALL\0 PING\r\n",
        b"\0\0\0FLUSHALL\r\n",
        b"PING \"\r\nFLUSHALL\r\n\"\r\n",
        b"\x1b]0;owned\x07\x1b[2J\r\n",
        b"*1\r\n$8\r\n\x1b[2J\x1b[1m\r\n",
        b"*2\r\n$8\r\nREPLCONF\r\n$8\r\nFLUSHALL\r\n",
        b"*4\r\n$5\r\nPSYNC\r\n$40\r\n0123456789012345678901234567890123456789\r\n$1\r\n1\r\n$8\r\nFAILOVER\r\n",
        b"*3\r\n$8\r\nREPLCONF\r\n$8\r\nrdb-only\r\n$1\r\n1\r\n",
    ];
    attacks.extend(shapes.map(<[u8]>::to_vec));
    attacks.push([&b"*1\r\n$536870912\r\n"[..], &[b'x'; 1 << 20]].concat());
    attacks.push([&b"PING "[..], &[b'x'; 1 << 20], b"\r\nFLUSHALL\r\n"].concat());
    attacks
}

#[test]
fn the_master_runs_no_command_but_those_of_replication() {
    let target = Target::with("[limits]\nnew_links_per_minute = 100000\nlinks_per_site = 1000\n");
    let alpha = &target.alpha;
    let mut monitor = alpha.client();
    assert_eq!(monitor.ask(&["MONITOR"]).text(), "OK");
    alpha.ask(&["CONFIG", "RESETSTAT"]);
    let handshake = [
        Client::encode(&["PING"]),
        Client::encode(&["REPLCONF", "listening-port", "7"]),
        Client::encode(&["REPLCONF", "capa", "eof", "capa", "psync2"]),
    ]
    .concat();
    let evil = Client::encode(&["FLUSHALL"]);
    for attack in attacks() {
        let shown = attack[..attack.len().min(60)].escape_ascii().to_string();
        // Alone; pipelined after a handshake; after its last reply; during the stream; one byte
        // at a time; and followed by another command, in case the first one is skipped.
        for place in 0..6 {
            let mut client = target.client();
            match place {
                0 => client.send(&attack),
                1 => client.send(&[&handshake[..], &attack].concat()),
                2 | 3 => {
                    client.send(&handshake);
                    assert_eq!(client.line().as_deref(), Some("+PONG"));
                    assert_eq!(
                        [client.line(), client.line()].map(|line| line.as_deref() == Some("+OK")),
                        [true; 2]
                    );
                    if place == 3 {
                        client.send(&Client::encode(&["PSYNC", "?", "-1"]));
                        assert!(client.line().is_some_and(|line| line.starts_with("+FULLRESYNC")));
                    }
                    client.send(&attack);
                }
                4 => attack.iter().take(200).for_each(|byte| client.send(&[*byte])),
                _ => client.send(&[&attack[..], &evil].concat()),
            }
            if place == 4 && attack.len() > 200 {
                continue;
            }
            let (rest, ended) = client.rest(SOON);
            assert!(ended, "place {place}: {shown} ends the link");
            let answered = rest.windows(14).any(|window| window == b"-ERR replgate ");
            assert!(place != 3 || !answered, "{shown}: no reply in the stream");
        }
    }
    // Ten million newlines, before the sync and after it.
    for sync in [false, true] {
        let mut client = target.client();
        if sync {
            client.send(&Client::encode(&["PSYNC", "?", "-1"]));
        }
        for _ in 0..100 {
            client.send(&[b'\n'; 100_000]);
        }
        client.send(&evil);
        assert!(client.rest(SOON).1, "a command after the newlines ends the link");
    }
    // What the master has run, according to MONITOR.
    let end = "the end of the attack";
    alpha.ask(&["SET", "marker", end]);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(line) = monitor.line()
        && !line.contains(end)
    {
        let mut words = line.split('"').skip(1).step_by(2);
        seen.insert(words.next().unwrap_or_default().to_ascii_lowercase());
    }
    seen.retain(|command| !["ping", "replconf"].contains(&command.as_str()));
    assert!(seen.is_empty(), "MONITOR saw {seen:?}");
    // Administrative commands, which MONITOR hides.
    let stats = alpha.ask(&["INFO", "commandstats"]);
    let own = ["ping", "replconf", "psync", "config|resetstat", "set", "info"];
    for line in stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let name = line.split(':').next().unwrap_or_default();
        assert!(own.contains(&name), "the master has run {line}");
    }
    alpha.ask(&["DEL", "marker"]);
    let log = target.pair.first.log();
    assert!(
        !log.contains('\x1b') && !log.contains("evil"),
        "the log shows only the commands' names, escaped"
    );
    let used = target.pair.first.memory();
    assert!(used < 150 << 20, "memory stays bounded: {used}");
    assert!(target.pair.first.status()["counts"]["commands_refused"].as_u64() > Some(200));
    eventually("no phantom replica is left", SOON, || alpha.info("connected_slaves") == "0");
    target.is_unharmed();
}
