//! A config that is read again on SIGHUP, while links carry replication.

use crate::support::gateway::{
    Followed, Gateway, Lab, Pair, master_config, replica_block, replica_config, tls,
};
use crate::support::line::Line;
use crate::support::redis::{Client, Redis};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port, replgate_ok};

const READ: &str = "config and certificates read again";

/// Writes another config and has it read. Returns when it is in use.
#[track_caller]
fn reload(gateway: &Gateway, text: &str) {
    let before = gateway.log().matches(READ).count();
    ask(gateway, text);
    eventually("the config is in use", SOON, || gateway.log().matches(READ).count() > before);
    assert_eq!(gateway.status()["reload"]["refused"], serde_json::Value::Null);
}

fn ask(gateway: &Gateway, text: &str) {
    std::fs::write(&gateway.config, text).expect("the test's folder is writable");
    gateway.process.signal("HUP");
}

/// Has a config read that is refused. Returns what `status` says about it.
#[track_caller]
fn refused(gateway: &Gateway, text: &str) -> String {
    ask(gateway, text);
    let faults = || gateway.status()["reload"]["refused"]["faults"].to_string();
    eventually("the reload is refused", SOON, || faults() != "null");
    faults()
}

/// The replica has what is written now, without having asked the master again.
#[track_caller]
fn goes_on(alpha: &Redis, bravo: &Redis) {
    alpha.ask(&["INCR", "goes on"]);
    bravo.wait_equal(alpha);
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), (1, 0));
}

#[test]
fn masters_and_replicas_come_and_go_under_load_and_the_others_notice_nothing() {
    let line = Line::new("");
    let before = line.standing();
    let writer = Writer::on(&line.alpha, 5_000_000);
    let carts = line.lab.redis("carts");
    let of_carts = line.lab.redis("of_carts");
    let entry = free_port();
    let text = std::fs::read_to_string(&line.second.config).expect("the config is there");
    let masters = [("orders", line.alpha.port), ("carts", carts.port)];
    reload(&line.first, &master_config("dc1", line.wan, &masters, ""));
    reload(&line.second, &format!("{text}{}", replica_block("carts", entry, line.path.port, "")));
    of_carts.replicaof(entry);
    of_carts.wait_equal(&carts);
    // The master's site withdraws it: the link ends at both ends, with the reason.
    reload(&line.first, &master_config("dc1", line.wan, &masters[..1], ""));
    line.first.wait_end("not-permitted");
    line.first.wait_log("master \"carts\" was removed from the config");
    line.second.wait_log("master \"carts\" is not available to this site any more");
    eventually("its replica has no link", SOON, || of_carts.info("master_link_status") == "down");
    // The replica's site withdraws its entry: nothing listens there any more.
    reload(&line.second, &text);
    eventually("the listener is closed", SOON, || Client::connect(entry).is_none());
    assert_eq!(line.second.status()["replicas"].to_string(), "[\"orders\"]");
    line.arrives(1_000_000, SOON);
    let after = line.standing();
    assert_eq!((after.sync_full, after.sync_partial_ok), (before.sync_full, before.sync_partial_ok));
    line.ends_as(&before, writer);
}

#[test]
fn a_site_that_allow_does_not_name_any_more_is_cut_and_comes_back_when_it_does() {
    let Followed { lab: _lab, alpha, pair, bravo } = Followed::new();
    let with = master_config("dc1", pair.wan, &[("orders", alpha.port)], "");
    reload(&pair.first, &with.replace("allow = [\"dc2\"]", "allow = [\"dc3\"]"));
    pair.first.wait_end("not-permitted");
    pair.first.wait_log("`allow` of master \"orders\" does not name dc2 any more");
    eventually("the link is down", SOON, || bravo.info("master_link_status") == "down");
    pair.first.wait_kind("not-allowed");
    alpha.ask(&["SET", "secret", "of later"]);
    assert_eq!(bravo.ask(&["EXISTS", "secret"]), "0");
    reload(&pair.first, &with);
    bravo.wait_equal(&alpha);
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), (1, 1));
}

#[test]
fn a_config_with_a_fault_changes_nothing_and_status_says_what_is_wrong_until_it_is_mended() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let good = std::fs::read_to_string(&pair.first.config).expect("the config is there");
    // `allow` is half edited: what is there must not be taken into use.
    let faults = refused(&pair.first, &good.replace("allow = [\"dc2\"]", "allow = []\nlimit = 3"));
    assert!(faults.contains("allow") && faults.contains("limit"), "{faults}");
    let since = pair.first.status()["reload"]["refused"]["since"].clone();
    pair.first.wait_log("reload refused, everything stays as it was");
    goes_on(&alpha, &bravo);
    // Another site needs a restart.
    ask(&pair.first, &good.replace("site = \"dc1\"", "site = \"dc3\""));
    pair.first.wait_log("a change of `site` needs a restart");
    // An address that somebody else has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("bound").port();
    ask(&pair.first, &good.replace(&format!(":{}\"", pair.wan), &format!(":{port}\"")));
    let status = || pair.first.status()["reload"]["refused"].clone();
    eventually("the address is named", SOON, || status()["faults"].to_string().contains(&port.to_string()));
    assert_eq!(status()["since"], since);
    let path = pair.first.config.to_string_lossy().into_owned();
    assert!(replgate_ok(lab.path(), &["status", "-c", &path]).contains("reload REFUSED since"));
    reload(&pair.first, &good);
    goes_on(&alpha, &bravo);
}

#[test]
fn other_listeners_settings_and_peers_act_without_ending_a_link() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let (wan, entry) = (free_port(), free_port());
    let masters = [("orders", alpha.port)];
    reload(
        &pair.first,
        &(master_config("dc1", wan, &masters, "") + "[limits]\nmemory = \"48MiB\"\n[link]\nhold = \"20s\"\n"),
    );
    assert_eq!(pair.first.status()["memory_limit"], 48 << 20);
    reload(&pair.second, &replica_config("dc2", entry, wan, "announce = \"keep\""));
    eventually("the earlier listeners are closed", SOON, || {
        Client::connect(pair.entry).is_none() && Client::connect(pair.wan).is_none()
    });
    goes_on(&alpha, &bravo);
    let holds = || {
        pair.first.status()["links"]
            .as_array()
            .map(|links| links.iter().map(|link| link["hold_seconds"].as_f64()).collect::<Vec<_>>())
    };
    assert_eq!((pair.first.count("breaks"), holds()), (0, Some(vec![Some(45.0)])));
    let charli = lab.replica("charli", entry, &alpha);
    eventually("the new link has the new settings", SOON, || {
        holds().is_some_and(|holds| holds.contains(&Some(20.0)))
    });
    assert_eq!(alpha.listed().0, 2);
    drop(charli);
}

#[test]
fn an_entry_whose_address_another_one_takes_over_keeps_its_port_open() {
    let lab = Lab::new();
    let [alpha, carts] = ["alpha", "carts"].map(|name| lab.redis(name));
    let wan = free_port();
    let first =
        lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port), ("carts", carts.port)], ""));
    let ports = [free_port(), free_port()];
    let text = |ports: [u16; 2]| {
        format!(
            "{}{}{}",
            tls("dc2"),
            replica_block("orders", ports[0], wan, ""),
            replica_block("carts", ports[1], wan, "")
        )
    };
    let second = lab.gateway("dc2", &text(ports));
    let bravo = lab.replica("bravo", ports[0], &alpha);
    carts.ask(&["SET", "only", "carts"]);
    reload(&second, &text([ports[1], ports[0]]));
    // Links follow their entry, not its port.
    goes_on(&alpha, &bravo);
    let charli = lab.replica("charli", ports[0], &carts);
    assert_eq!(charli.ask(&["GET", "only"]), "carts");
    drop((first, charli));
}

#[test]
fn a_master_at_another_address_gets_its_replicas_from_there() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let alpha2 = lab.redis("alpha2");
    // A ping that alpha2 does not have would make the other one be ahead of it.
    alpha.ask(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    alpha2.ask(&["REPLICAOF", "NO", "ONE"]);
    alpha2.ask(&["SET", "who", "alpha2"]);
    reload(&pair.first, &master_config("dc1", pair.wan, &[("orders", alpha2.port)], ""));
    pair.first.wait_end("not-permitted");
    bravo.wait_equal(&alpha2);
    assert_eq!((bravo.ask(&["GET", "who"]), alpha2.sync_partial_ok()), ("alpha2".to_owned(), 1));
}

#[test]
fn thirty_reloads_leave_no_descriptor_open() {
    let Followed { lab: _lab, alpha, pair, bravo } = Followed::new();
    let Pair { first, second, .. } = &pair;
    let before = [first, second].map(Gateway::descriptors);
    for round in 0..30 {
        for gateway in [first, second] {
            let text = std::fs::read_to_string(&gateway.config).expect("the config is there");
            reload(gateway, &format!("{text}# {round}\n"));
        }
    }
    eventually("as many descriptors are open as before", SOON, || {
        [first, second].map(Gateway::descriptors).iter().zip(before).all(|(now, before)| *now <= before + 1)
    });
    goes_on(&alpha, &bravo);
}
