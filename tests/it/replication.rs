//! Replication of real Redis servers through the tunnel.

use std::process::Command;
use std::time::Duration;

use crate::support::gateway::{Followed, Lab, master_config, replica_block, replica_config, tls};
use crate::support::pause::pause;
use crate::support::redis::{ALL, Client, Redis, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port};

#[test]
fn data_of_every_type_and_the_live_stream_arrive_on_every_version() {
    let lab = Lab::new();
    for version in ALL {
        let alpha = Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &[]);
        alpha.fill();
        let pair = lab.pair(alpha.port);
        let bravo = Redis::start(version, lab.path(), &format!("bravo-{version:?}"), &[]);
        bravo.ask(&["SLAVEOF", "127.0.0.1", &pair.entry.to_string()]);
        bravo.wait_equal(&alpha);
        let writer = Writer::on(&alpha, 4 << 20);
        eventually("the live stream arrives", SOON, || bravo.info_number("slave_repl_offset") > 2_000_000);
        assert!(writer.stop() > 1000);
        bravo.wait_equal(&alpha);
        assert_eq!(alpha.info_number("sync_full"), 1, "one full sync was enough");
        // The gateway knows this from the replica's first acknowledgement.
        eventually("the gateway shows the link as streaming", SOON, || {
            let status = pair.first.status();
            pair.first.links() == 1 && status["links"][0]["state"] == "streaming"
        });
        let status = pair.first.status();
        assert!(status["links"][0]["to_replica_bytes"].as_u64() > Some(2_000_000));
    }
}

#[test]
fn a_newer_replica_follows_an_older_master() {
    let lab = Lab::new();
    for (old, new) in [(Version::V6, Version::System), (Version::System, Version::V8)] {
        // A newer replica can read an older master's snapshot. The opposite is not promised: an
        // older replica may not know the newer format.
        let alpha = Redis::start(old, lab.path(), &format!("alpha-{old:?}"), &[]);
        alpha.fill();
        let pair = lab.pair(alpha.port);
        let bravo = Redis::start(new, lab.path(), &format!("bravo-{new:?}"), &[]);
        bravo.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
    }
}

#[test]
fn disk_and_diskless_syncs_at_both_ends_give_the_same_data() {
    let lab = Lab::new();
    for version in ALL {
        for (master, replica) in
            [("no", "disabled"), ("no", "swapdb"), ("yes", "disabled"), ("yes", "swapdb")]
        {
            let alpha = Redis::start(
                version,
                lab.path(),
                &format!("a-{version:?}-{master}-{replica}"),
                &["--repl-diskless-sync", master],
            );
            alpha.fill();
            let pair = lab.pair(alpha.port);
            let bravo = Redis::start(
                version,
                lab.path(),
                &format!("b-{version:?}-{master}-{replica}"),
                &["--repl-diskless-load", replica],
            );
            bravo.replicaof(pair.entry);
            bravo.wait_equal(&alpha);
            let log = alpha.log();
            let diskless =
                log.contains("target: replicas sockets") || log.contains("replicas sockets (rdb-channel)");
            assert_eq!(diskless, master == "yes", "{version:?}: the master synced as configured\n{log}");
        }
    }
}

#[test]
fn redis_8_syncs_over_two_connections_through_the_tunnel() {
    let lab = Lab::new();
    let alpha = Redis::start(
        Version::V8,
        lab.path(),
        "alpha",
        &["--repl-rdb-channel", "yes", "--repl-diskless-sync", "yes"],
    );
    alpha.ask(&["DEBUG", "POPULATE", "200000", "key", "100"]);
    let pair = lab.pair(alpha.port);
    let bravo = Redis::start(
        Version::V8,
        lab.path(),
        "bravo",
        &["--repl-rdb-channel", "yes", "--repl-diskless-load", "swapdb"],
    );
    let writer = Writer::on(&alpha, 2 << 20);
    bravo.replicaof(pair.entry);
    bravo.wait_equal_when(writer, &alpha);
    let opened = pair.first.status()["counts"]["opened"].as_u64();
    assert_eq!(opened, Some(2), "the main connection and the one for the snapshot");
    eventually("only the main connection is left", SOON, || pair.first.links() == 1);
    assert_eq!(alpha.info_number("sync_full"), 1);
}

impl Redis {
    /// Waits for the sync to be over, ends the writes, and compares.
    fn wait_equal_when(&self, writer: Writer, master: &Redis) {
        eventually("the sync is over", Duration::from_secs(40), || self.info("master_link_status") == "up");
        writer.stop();
        self.wait_equal(master);
    }
}

#[test]
fn a_restarted_replica_continues_with_a_partial_resync() {
    let lab = Lab::new();
    for version in ALL {
        let alpha = Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &[]);
        alpha.fill();
        let pair = lab.pair(alpha.port);
        let entry = pair.entry.to_string();
        let mut bravo = Redis::start(
            version,
            lab.path(),
            &format!("bravo-{version:?}"),
            &["--replicaof", "127.0.0.1", &entry],
        );
        bravo.wait_equal(&alpha);
        bravo.restart(SOON);
        alpha.ask(&["SET", "while", "restarting"]);
        bravo.wait_equal(&alpha);
        assert_eq!(
            (alpha.info_number("sync_full"), alpha.info_number("sync_partial_ok")),
            (1, 1),
            "{version:?}"
        );
    }
}

#[test]
fn wait_counts_a_replica_behind_the_tunnel() {
    let Followed { lab: _lab, alpha, pair: _pair, bravo } = Followed::new();
    let mut client = alpha.client();
    for round in 0..100 {
        client.ask(&["SET", "key", &round.to_string()]);
        assert_eq!(client.ask(&["WAIT", "1", "5000"]).text(), "1");
        assert_eq!(bravo.ask(&["GET", "key"]), round.to_string());
    }
}

#[test]
fn all_replicas_of_a_tree_get_all_data() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    alpha.fill();
    let pair = lab.pair(alpha.port);
    let bravo = lab.redis("bravo");
    let charli = lab.redis("charli");
    let delta = lab.redis("delta");
    bravo.replicaof(pair.entry);
    charli.replicaof(pair.entry);
    delta.replicaof(bravo.port);
    alpha.ask(&["SET", "late", "write"]);
    for replica in [&bravo, &charli, &delta] {
        replica.wait_equal(&alpha);
    }
    assert_eq!(alpha.info("connected_slaves"), "2");
    assert_eq!(bravo.info("slave_read_only"), "1");
}

#[test]
fn different_masters_reach_different_replicas_through_one_pair() {
    let lab = Lab::new();
    let orders = lab.redis("orders");
    let stock = Redis::start(Version::V8, lab.path(), "stock", &[]);
    orders.ask(&["SET", "which", "orders"]);
    stock.ask(&["SET", "which", "stock"]);
    let (wan, one, two) = (free_port(), free_port(), free_port());
    let _first =
        lab.gateway("dc1", &master_config("dc1", wan, &[("orders", orders.port), ("stock", stock.port)], ""));
    let both = tls("dc2")
        + &replica_block("orders", one, wan, "")
        + &replica_block("copy", two, wan, "master = \"stock\"");
    let _second = lab.gateway("dc2", &both);
    let bravo = lab.redis("bravo");
    let charli = Redis::start(Version::V8, lab.path(), "charli", &[]);
    bravo.replicaof(one);
    charli.replicaof(two);
    bravo.wait_equal(&orders);
    charli.wait_equal(&stock);
    assert_eq!(
        (bravo.ask(&["GET", "which"]), charli.ask(&["GET", "which"])),
        ("orders".into(), "stock".into())
    );
}

#[test]
fn passwords_and_least_privileged_users_pass() {
    let lab = Lab::new();
    for version in ALL {
        let alpha =
            Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &["--requirepass", "secret"]);
        alpha.ask(&["ACL", "SETUSER", "repl", "on", ">least", "+ping", "+replconf", "+psync"]);
        alpha.fill();
        let pair = lab.pair(alpha.port);
        let bravo =
            Redis::start(version, lab.path(), &format!("bravo-{version:?}"), &["--masterauth", "secret"]);
        let charli = Redis::start(
            version,
            lab.path(),
            &format!("charli-{version:?}"),
            &["--masteruser", "repl", "--masterauth", "least"],
        );
        let wrong =
            Redis::start(version, lab.path(), &format!("wrong-{version:?}"), &["--masterauth", "guess"]);
        for replica in [&bravo, &charli, &wrong] {
            replica.replicaof(pair.entry);
        }
        bravo.wait_equal(&alpha);
        charli.wait_equal(&alpha);
        eventually("the replica learns that its password is wrong", SOON, || {
            wrong.log().contains("WRONGPASS") || wrong.log().contains("invalid")
        });
        for log in [pair.first.log(), pair.second.log()] {
            assert!(
                !log.contains("secret") && !log.contains("guess") && !log.contains("least"),
                "no password in a log"
            );
        }
    }
}

#[test]
fn a_permanent_replicaof_works_in_every_start_order() {
    let lab = Lab::new();
    let orders: [[usize; 4]; 6] =
        [[0, 1, 2, 3], [3, 2, 1, 0], [3, 0, 1, 2], [2, 3, 0, 1], [1, 3, 2, 0], [3, 1, 0, 2]];
    for (round, order) in orders.iter().enumerate() {
        let (master, wan, entry, replica) = (free_port(), free_port(), free_port(), free_port());
        let (mut redis, mut gateways) = (Vec::new(), Vec::new());
        for what in order {
            match what {
                0 => {
                    let alpha = Redis::start_unready(
                        Version::System,
                        lab.path(),
                        &format!("alpha-{round}"),
                        master,
                        &[],
                    );
                    alpha.wait_ready();
                    alpha.ask(&["SET", "round", &round.to_string()]);
                    redis.push((0, alpha));
                }
                1 => gateways.push(lab.gateway("dc1", &master_config("dc1", wan, &[("orders", master)], ""))),
                2 => gateways.push(lab.gateway("dc2", &replica_config("dc2", entry, wan, ""))),
                _ => {
                    let bravo = Redis::start_unready(
                        Version::System,
                        lab.path(),
                        &format!("bravo-{round}"),
                        replica,
                        &["--replicaof", "127.0.0.1", &entry.to_string()],
                    );
                    bravo.wait_ready();
                    redis.push((1, bravo));
                }
            }
        }
        redis.sort_by_key(|(which, _)| *which);
        redis[1].1.wait_equal(&redis[0].1);
        assert_eq!(redis[1].1.ask(&["GET", "round"]), round.to_string(), "order {order:?}");
    }
}

#[test]
fn a_replica_paused_as_for_a_backup_harms_no_other_replica() {
    // `make soak` runs this for a whole minute.
    pause(Duration::from_secs(8));
}

#[test]
fn the_master_lists_a_replica_by_its_site_or_by_a_name_under_it() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let listed = |text: &str| {
        let (wan, entry) = (free_port(), free_port());
        let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
        (lab.gateway("dc2", &replica_config("dc2", entry, wan, text)), first, entry)
    };
    for (announce, own, expected) in [
        ("", &[][..], "ip=dc2,port="),
        ("announce = \"keep\"", &[], "ip=dc2,port="),
        ("announce = { host = \"bravo.example\", port = 7000 }", &[], "ip=bravo.example.dc2,port=7000,"),
        ("announce = { host = \"10.0.0.6\" }", &[], "ip=10.0.0.6.dc2,port="),
        (
            "",
            &["--replica-announce-ip", "own.example", "--replica-announce-port", "7001"],
            "ip=own.example.dc2,port=7001,",
        ),
        // The replica announces its own port too, although the config has another one.
        (
            "announce = { host = \"bravo.example\", port = 7000 }",
            &["--replica-announce-ip", "own.example", "--replica-announce-port", "7001"],
            "ip=own.example.dc2,port=7001,",
        ),
        (
            "announce = { host = \"bravo.example\", port = 7000 }",
            &["--replica-announce-ip", "own.example"],
            "ip=own.example.dc2,port=",
        ),
    ] {
        let (_second, _first, entry) = listed(announce);
        let bravo = Redis::start(Version::System, lab.path(), &format!("bravo-{entry}"), own);
        bravo.replicaof(entry);
        bravo.wait_equal(&alpha);
        let slave = alpha.info("slave0");
        assert!(slave.contains(expected), "{announce}: {slave}");
        assert!(!slave.contains("own.example.dc2,port=7000"), "{announce}: {slave}");
        bravo.ask(&["REPLICAOF", "NO", "ONE"]);
        eventually("the master drops the replica", SOON, || alpha.info("connected_slaves") == "0");
    }
}

#[test]
fn a_redis_8_replica_is_listed_once_and_by_its_site() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::V8, lab.path(), "alpha", &["--repl-diskless-sync", "yes"]);
    alpha.fill();
    let pair = lab.pair(alpha.port);
    let bravo = Redis::start(Version::V8, lab.path(), "bravo", &[]);
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    eventually("one replica is listed", SOON, || alpha.info("connected_slaves") == "1");
    assert!(alpha.info("slave0").contains("ip=dc2"), "{}", alpha.info("slave0"));
}

#[test]
fn replicas_with_equal_ports_on_several_hosts_stay_distinct() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let listed = || {
        let info = alpha.ask(&["INFO", "replication"]);
        let addresses = info.lines().filter_map(|line| {
            let (name, rest) = line.split_once(":ip=")?;
            name.starts_with("slave").then(|| rest.split(",state").next().unwrap_or_default().to_owned())
        });
        let mut addresses: Vec<String> = addresses.collect();
        addresses.sort();
        addresses
    };
    let replica = |host: [u8; 4], port: &str| {
        let mut client = Client::from(host, pair.entry);
        client.ask(&["PING"]);
        client.ask(&["REPLCONF", "listening-port", port]);
        client.send(&Client::encode(&["PSYNC", "?", "-1"]));
        client
    };
    let one = replica([127, 0, 0, 2], "6379");
    eventually("the first is listed as the site", SOON, || listed() == ["dc2,port=6379"]);
    let two = replica([127, 0, 0, 3], "6379");
    let three = replica([127, 0, 0, 2], "6380");
    eventually("each has its own address", SOON, || {
        listed() == ["127.0.0.3.dc2,port=6379", "dc2,port=6379", "dc2,port=6380"]
    });
    pair.second.wait_log(
        "the master lists this one as 127.0.0.3.dc2:6379; give each replica its own replica-announce-ip",
    );
    drop((one, three));
    eventually("the replicas that left are gone", SOON, || listed().len() == 1);
    drop(two);
}

#[test]
fn capabilities_can_be_hidden_from_the_master() {
    let lab = Lab::new();
    let both = ["--repl-diskless-sync", "yes", "--repl-rdb-channel", "yes"];
    let alpha = Redis::start(Version::V8, lab.path(), "alpha", &both);
    alpha.fill();
    for (drop, links, target) in [
        ("[]", 2, "replicas sockets (rdb-channel)"),
        ("[\"rdb-channel-repl\", \"rdb-no-compress\"]", 1, "target: replicas sockets"),
        ("[\"rdb-channel-repl\", \"eof\"]", 1, "target: disk"),
    ] {
        let pair = lab.pair_with(alpha.port, "", &format!("drop_capabilities = {drop}"));
        let more = ["--repl-diskless-load", "swapdb", "--repl-rdb-channel", "yes"];
        let bravo = Redis::start(Version::V8, lab.path(), &format!("bravo-{links}-{}", pair.entry), &more);
        let before = alpha.log().len();
        bravo.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        assert_eq!(pair.first.status()["counts"]["opened"], links, "{drop}");
        assert!(alpha.log()[before..].contains(target), "{drop}: {}", &alpha.log()[before..]);
        let view = &pair.first.status()["links"][0]["replication"];
        let shown = view["capabilities"].to_string();
        assert_eq!(shown.contains("rdb-channel-repl"), links == 2, "{shown}");
    }
}

#[test]
fn a_dump_client_is_served_only_where_it_is_allowed() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    alpha.fill();
    let file = lab.path().join("copy.rdb");
    let dump = |port: u16| {
        let out = Command::new("redis-cli")
            .args(["-p", &port.to_string(), "--rdb"])
            .arg(&file)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("redis-cli runs");
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    let pair = lab.pair(alpha.port);
    let refused = dump(pair.entry);
    assert!(refused.contains("allow_dump"), "{refused}");
    assert!(
        !file.exists() || std::fs::metadata(&file).is_ok_and(|file| file.len() == 0),
        "nothing was copied"
    );
    pair.first.wait_log("which would only dump the data (allow_dump); refused");
    let pair = lab.pair_with(alpha.port, "allow_dump = true", "");
    pair.first.wait_log("allow_dump: a site in `allow` may copy all data without being seen as a replica");
    let copied = dump(pair.entry);
    assert!(std::fs::read(&file).is_ok_and(|bytes| bytes.starts_with(b"REDIS")), "{copied}");
}

#[test]
fn replicas_beyond_the_limit_of_full_syncs_are_told_to_wait() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::V8, lab.path(), "alpha", &["--repl-rdb-channel", "yes"]);
    alpha.fill();
    let pair = lab.pair_with(alpha.port, "[limits]\nfull_syncs_per_minute = 2", "");
    let replica = |name: &str| {
        let redis = Redis::start(Version::V8, lab.path(), name, &["--repl-rdb-channel", "yes"]);
        redis.replicaof(pair.entry);
        redis
    };
    // Each replica uses two connections, which count as one full sync.
    let (bravo, charli) = (replica("bravo"), replica("charli"));
    bravo.wait_equal(&alpha);
    charli.wait_equal(&alpha);
    let delta = replica("delta");
    pair.first.wait_end("declined");
    eventually("the replica gets the error and asks again", SOON, || {
        delta.log().matches("LOADING replgate dc1: too many full syncs").count() >= 2
    });
    assert_eq!((alpha.sync_full(), delta.ask(&["DBSIZE"]).as_str()), (2, "0"));
    alpha.ask(&["SET", "the others", "go on"]);
    bravo.wait_equal(&alpha);
    charli.wait_equal(&alpha);
}

#[test]
fn a_full_sync_under_load_loses_no_write() {
    let lab = Lab::new();
    for version in ALL {
        let alpha = Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &[]);
        alpha.ask(&["DEBUG", "POPULATE", "300000", "key", "200"]);
        let pair = lab.pair(alpha.port);
        let bravo = Redis::start(version, lab.path(), &format!("bravo-{version:?}"), &[]);
        let writer = Writer::on(&alpha, 8 << 20);
        bravo.replicaof(pair.entry);
        bravo.wait_equal_when(writer, &alpha);
        assert_eq!(alpha.ask(&["GET", "counter"]), bravo.ask(&["GET", "counter"]));
    }
}

#[test]
fn a_plain_tunnel_carries_any_command_and_closes_each_direction_separately() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair_with(alpha.port, "commands = \"any\"", "");
    pair.first.wait_log("every command of the sites in `allow` reaches this Redis");
    let mut client = Client::connect(pair.entry).expect("the gateway accepts");
    assert_eq!(client.ask(&["SET", "through", "tunnel"]).text(), "OK");
    assert_eq!(client.ask(&["CONFIG", "GET", "maxmemory"]).text(), "maxmemory 0");
    drop(client);
    assert_eq!(alpha.ask(&["GET", "through"]), "tunnel");
    // A client that has closed its sending direction still gets its answers.
    let output = Command::new("bash")
        .args([
            "-c",
            &format!(
                "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET through\\r\\nQUIT\\r\\n' >&3; cat <&3",
                pair.entry
            ),
        ])
        .output()
        .expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "$6\r\ntunnel\r\n+OK\r\n");
    eventually("no link is left", SOON, || pair.first.links() == 0 && pair.second.links() == 0);
}
