//! Breaks that look like an end, and replicas that come again while the master's site still holds
//! their link.

use std::time::{Duration, Instant};

use crate::support::gateway::{master_config, replica_config};
use crate::support::line::Line;
use crate::support::redis::{Redis, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, always, eventually, free_port, replgate};

/// Settings with which breaks are detected soon and survived for some time.
const LINK: &str = "[link]\nheartbeat = \"100ms\"\ndead_after = \"500ms\"\nhold = \"15s\"\n";

/// As [`LINK`], but a gateway does not find out by itself that its far side is gone.
const UNNOTICED: &str = "[link]\nheartbeat = \"100ms\"\ndead_after = \"4s\"\nhold = \"15s\"\n";

/// Bytes a second that are written meanwhile. One second of them fills the backlog.
const RATE: u64 = 1 << 20;

/// How long the stream may take to continue once the path works again.
const AGAIN: Duration = Duration::from_secs(8);

#[test]
fn connections_that_a_path_closes_in_good_order_are_held_like_any_other_break() {
    let line = Line::new(LINK);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    line.path.refuse(true);
    line.path.close();
    for gateway in line.gateways() {
        line.wait_held(gateway);
    }
    always("the link waits", Duration::from_secs(4), || line.first.is_held() && line.second.is_held());
    line.path.refuse(false);
    line.arrives(500_000, AGAIN);
    line.ends_as(&before, writer);
}

#[test]
fn a_link_waits_for_its_gateway_while_others_behind_the_same_address_do_not_know_it() {
    let line = Line::new(LINK);
    let wan = free_port();
    let other =
        line.lab.another("dc1", "other", &master_config("dc1", wan, &[("orders", line.alpha.port)], LINK));
    let own = line.path.lead_to(wan);
    let (before, writer) = (line.standing(), Writer::on(&line.alpha, RATE));
    line.path.cut();
    eventually("the other gateway was asked often", SOON, || {
        other.lines("WARN", "kind=\"unknown-link\"") > 0
    });
    always("the link waits", Duration::from_secs(3), || line.second.is_held());
    line.path.lead_to(own);
    line.arrives(500_000, AGAIN);
    line.ends_as(&before, writer);
}

#[test]
fn links_find_their_gateway_behind_a_balancer_that_prefers_those_with_fewer_connections() {
    let line = Line::new(LINK);
    let others = ["second", "third"].map(|node| {
        let wan = free_port();
        let text = master_config("dc1", wan, &[("orders", line.alpha.port)], LINK);
        (wan, line.lab.another("dc1", node, &text))
    });
    let more = ["charli", "delta"].map(|name| line.lab.replica(name, line.entry, &line.alpha));
    // All links run over one gateway, and the balancer would rather use the other two.
    assert_eq!((line.first.links(), others.iter().map(|(_, other)| other.links()).sum()), (3, 0));
    line.path.balance(&[line.wan, others[0].0, others[1].0]);
    let before = line.standing();
    for round in 1..=3 {
        line.path.cut();
        eventually("every link is resumed", AGAIN, || {
            line.second.each("resumed").iter().all(|times| *times >= round)
        });
        assert!(others.iter().all(|(_, other)| other.links() == 0));
    }
    line.alpha.fill();
    for replica in [&line.bravo, &more[0], &more[1]] {
        replica.wait_equal(&line.alpha);
    }
    assert_eq!(line.standing(), before, "full syncs, partial resyncs and links are what they were");
    eventually("the refused connections are closed", SOON, || line.path.connections() == 3);
}

#[test]
fn a_gateway_that_has_lost_its_links_says_so_at_the_first_question() {
    let mut line = Line::new(LINK);
    line.first.kill();
    line.first.start_again();
    line.second.wait_end("forgotten");
    assert_eq!(line.second.lines("WARN", "its gateway"), 1, "one answer of the gateway itself is enough");
    line.bravo.wait_equal(&line.alpha);
    assert_eq!(line.alpha.listed(), (1, 1));
}

/// The replica leaves its gateway, which cannot tell the master's site, for another one.
fn moves(line: &Line, lose: impl FnOnce(&Line)) {
    let (wan, entry) = (line.wan, free_port());
    let third = line.lab.another("dc2", "other", &replica_config("dc2", entry, wan, LINK));
    line.alpha.ask(&["CONFIG", "SET", "repl-backlog-size", "64mb"]);
    let writer = Writer::on(&line.alpha, RATE);
    line.alpha.lists_never_more_than(1, || {
        lose(line);
        line.bravo.replicaof(entry);
        line.first.wait_end("returned");
        eventually("the replica is back", SOON, || line.bravo.info("master_link_status") == "up");
    });
    writer.stop();
    line.bravo.wait_equal(&line.alpha);
    assert_eq!((line.alpha.sync_full(), line.alpha.listed(), third.links()), (1, (1, 1), 1));
}

#[test]
fn a_replica_that_comes_through_another_gateway_is_counted_once_while_its_old_link_is_held() {
    let line = Line::new(LINK);
    moves(&line, |line| {
        line.path.refuse(true);
        line.path.close();
        line.wait_held(&line.first);
    });
}

#[test]
fn a_replica_that_comes_through_another_gateway_is_counted_once_though_its_old_path_seems_to_work() {
    let line = Line::new(UNNOTICED);
    moves(&line, |line| {
        line.path.refuse(true);
        line.path.forget();
    });
}

#[test]
fn two_replicas_that_look_the_same_keep_their_links() {
    let line = Line::new(LINK);
    let port = line.bravo.port.to_string();
    let charli =
        Redis::start(Version::System, line.lab.path(), "charli", &["--replica-announce-port", &port]);
    for _ in 0..2 {
        charli.replicaof(line.entry);
        charli.wait_equal(&line.alpha);
        charli.ask(&["REPLICAOF", "NO", "ONE"]);
        eventually("it has left", SOON, || line.alpha.info_number("connected_slaves") == 1);
    }
    charli.replicaof(line.entry);
    charli.wait_equal(&line.alpha);
    line.bravo.wait_equal(&line.alpha);
    assert_eq!(line.alpha.info_number("connected_slaves"), 2);
    assert_eq!(line.first.lines("INFO", "end=\"returned\""), 0);
    assert!(line.first.each("number").contains(&1), "the first link is still there");
}

#[test]
fn a_replica_hears_no_error_while_the_gateway_of_its_master_restarts() {
    let mut line = Line::new(LINK);
    let attempts = |line: &Line| line.bravo.log().matches("Non blocking connect").count();
    // The other gateway waits for three seconds, and a busy machine may take longer to restart this one.
    for round in 1..=5 {
        let (before, began) = (attempts(&line), Instant::now());
        assert_eq!(line.first.stop(), Some(0));
        eventually("the replica asks again", SOON, || attempts(&line) > before);
        line.first.start_again();
        let in_time = began.elapsed() < Duration::from_secs(2);
        line.bravo.wait_equal(&line.alpha);
        assert_eq!((line.alpha.sync_full(), line.alpha.sync_partial_ok()), (1, round));
        if in_time {
            assert_eq!(attempts(&line), before + 1, "its first attempt succeeded");
            return;
        }
    }
    panic!("no restart took less than two seconds");
}

#[test]
fn a_replica_hears_soon_that_nobody_is_there_if_nobody_was_before() {
    let line = Line::apart(Version::System, LINK, LINK);
    line.path.refuse(true);
    let began = Instant::now();
    line.follow();
    line.second.wait_kind("no-link");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn check_says_which_backlog_a_restart_of_the_masters_gateway_needs() {
    let line = Line::new(LINK);
    let _writer = Writer::on(&line.alpha, RATE);
    let says = |level: &str, words: &str| {
        let (_, out, _) = replgate(line.lab.path(), &["check", "-c", "dc1.toml"]);
        out.lines().any(|line| line.starts_with(level) && line.contains(words))
    };
    let short = "repl-backlog-size 1mb does not cover a restart of this gateway at ";
    eventually("check warns", SOON, || says("warn", short) && says("warn", "CONFIG SET repl-backlog-size "));
    line.alpha.ask(&["CONFIG", "SET", "repl-backlog-size", "64mb"]);
    assert!(says("ok", "repl-backlog-size 64mb covers a restart of this gateway at "));
}
