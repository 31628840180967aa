//! A replica's site follows the master from one site to another, and back.
//!
//! alpha is at dc1, bravo at dc2, and charli at dc3, whose `[[replica]]` names both sites. Redis' own pings are
//! off, so that a promoted replica has every byte that has come to dc3.

use std::time::Duration;

use crate::support::gateway::{Gateway, Lab, replica_block, tls};
use crate::support::path::Path;
use crate::support::redis::{Redis, Version};
use crate::support::{SOON, always, eventually, free_port, replgate, replgate_ok};

/// No bytes in the stream but those of writes.
const QUIET: &[&str] = &["--repl-ping-replica-period", "3600"];

/// The config of a site that may have the master, and whose Redis follows the other site if it has not.
fn both_roles(site: &str, redis: u16, [wan, far_wan]: [u16; 2], entry: u16, far: &str, more: &str) -> String {
    format!(
        "{}[state]\ndir = \"state-{site}\"\n[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n\
         [[master]]\nname = \"orders\"\nredis = \"127.0.0.1:{redis}\"\nallow = [\"{far}\", \"dc3\"]\n{more}\n\
         [[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"{far}\"\npeers = [\"127.0.0.1:{far_wan}\"]\n",
        tls(site)
    )
}

const FOLLOW: &str = "follow = \"master\"";

fn from_both(entry: u16, wans: [u16; 2]) -> String {
    let origin =
        |(at, wan): (usize, &u16)| format!("{{ site = \"dc{}\", peers = [\"127.0.0.1:{wan}\"] }}", at + 1);
    let from: Vec<_> = wans.iter().enumerate().map(origin).collect();
    format!(
        "{}[state]\ndir = \"state-dc3\"\n[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:{entry}\"\nfrom = [{}]\n",
        tls("dc3"),
        from.join(", ")
    )
}

struct Three {
    alpha: Redis,
    bravo: Redis,
    first: Gateway,
    second: Gateway,
    third: Gateway,
    charli: Redis,
    /// The ports where Redis of dc1, dc2 and dc3 find the master.
    entries: [u16; 3],
    /// Dropped last: the others print their logs.
    lab: Lab,
}

impl Three {
    /// bravo and charli follow alpha, each in sync.
    fn new() -> Self {
        Self::with(FOLLOW)
    }

    /// With these lines in the `[[master]]` of dc2.
    fn with(more: &str) -> Self {
        let lab = Lab::new();
        let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
        let (alpha, bravo, charli) = (redis("alpha"), redis("bravo"), redis("charli"));
        alpha.fill();
        let (wans, entries) = ([(); 2].map(|()| free_port()), [(); 3].map(|()| free_port()));
        let of_dc1 = both_roles("dc1", alpha.port, wans, entries[0], "dc2", FOLLOW);
        let first = lab.gateway("dc1", &of_dc1);
        let of_dc2 = both_roles("dc2", bravo.port, [wans[1], wans[0]], entries[1], "dc1", more);
        let second = lab.gateway("dc2", &of_dc2);
        bravo.replicaof(entries[1]);
        bravo.wait_equal(&alpha);
        let third = lab.gateway("dc3", &from_both(entries[2], wans));
        charli.replicaof(entries[2]);
        let three = Self { lab, alpha, bravo, first, second, third, charli, entries };
        if more == FOLLOW {
            three.charli.wait_equal(&three.alpha);
            assert_eq!(three.followed().as_deref(), Some("dc1"));
        }
        three
    }

    /// What `status` of dc3 shows.
    fn following(&self) -> serde_json::Value {
        self.third.status()["following"][0].clone()
    }

    fn followed(&self) -> Option<String> {
        self.following()["present"]["party"].as_str().map(str::to_owned)
    }

    fn second_offers(&self) -> bool {
        self.second.status()["following"][0]["present"]["party"].is_string()
    }

    /// Waits for these words in what `status` shows of a site.
    #[track_caller]
    fn wait_words(&self, site: &str, words: &str) {
        let fits = |party: &serde_json::Value| {
            party["party"] == site && party["words"].as_str().is_some_and(|said| said.contains(words))
        };
        eventually(&format!("{site} {words}"), SOON, || {
            self.following()["parties"].as_array().is_some_and(|parties| parties.iter().any(fits))
        });
    }

    /// `replgate follow` at dc3.
    fn order(&self, more: &[&str]) -> (i32, String, String) {
        replgate(self.lab.path(), &[&["follow", "-c", "dc3.toml", "orders"], more].concat())
    }

    fn full_syncs(&self) -> [i64; 2] {
        [self.alpha.sync_full(), self.bravo.sync_full()]
    }
}

#[test]
fn a_site_is_failed_over_and_back_and_the_replica_elsewhere_follows_by_partial_resyncs() {
    let three = Three::new();
    let full = three.full_syncs();
    let dc1 = (&three.alpha, &three.first, three.entries[0], "dc1");
    let dc2 = (&three.bravo, &three.second, three.entries[1], "dc2");
    for (at, [(old, gateway, entry, _), (new, _, _, site)]) in
        [[dc1, dc2], [dc2, dc1], [dc1, dc2]].into_iter().enumerate()
    {
        new.ask(&["REPLICAOF", "NO", "ONE"]);
        old.replicaof(entry);
        let began = std::time::Instant::now();
        new.ask(&["SET", "switch", &at.to_string()]);
        eventually("the first byte at dc3", Duration::from_secs(15), || {
            three.charli.ask(&["GET", "switch"]) == at.to_string()
        });
        eprintln!("{site}: first byte at dc3 after {:?}", began.elapsed());
        three.charli.wait_equal(new);
        old.wait_equal(new);
        assert_eq!(three.followed().as_deref(), Some(site));
        assert_eq!(three.following()["present"]["by"], "lineage");
        assert_eq!(three.full_syncs(), full, "nothing was lost, so nobody needed all data");
        // A Redis tells of one earlier id alone. So its gateway must have seen it as a replica of the new
        // master before it is promoted again.
        let history = new.info("master_replid");
        eventually("the gateway of the old master has seen what it follows now", SOON, || {
            gateway.status()["following"][0]["parties"][0]["history"] == history.trim()
        });
    }
    three.third.wait_event("site dc2 has the master of orders now", &["kind=\"site-followed\"", "site=dc2"]);
    assert_eq!(three.first.status()["following"][0]["role"], "master");
    // No site has a master now.
    three.bravo.replicaof(free_port());
    three.third.wait_kind("site-lost");
}

#[test]
fn a_blank_redis_at_another_site_that_says_it_is_the_master_gets_no_replica() {
    let mut three = Three::new();
    let before = three.charli.digest();
    three.bravo.kill();
    std::fs::remove_file(three.lab.path().join("bravo/dump.rdb")).expect("a replica writes what it gets");
    three.bravo.start_again();
    assert_eq!(three.bravo.ask(&["DBSIZE"]), "0");
    // Its own gateway does not follow it, but for a person who is wrong.
    three.second.wait_kind("master-doubt");
    let config = three.second.config.to_str().expect("letters");
    let party = format!("127.0.0.1:{}", three.bravo.port);
    replgate_ok(three.lab.path(), &["follow", "-c", config, "orders", &party, "--yes"]);
    eventually("dc2 offers it", SOON, || three.second_offers());
    // Even with no other master: neither its gateway nor a link to it is left.
    three.alpha.kill();
    three.wait_words("dc1", "is followed, and");
    three.third.wait_log("dc2 offers a master too, with data of another history");
    let step = three.following()["next_step"].as_str().unwrap_or_default().to_owned();
    assert!(step.starts_with("wait for ") && !step.contains("romote"), "{step}");
    always("the data of dc3 stays", Duration::from_secs(5), || {
        three.charli.digest() == before && three.followed().as_deref() == Some("dc1")
    });
    three.third.wait_kind("site-doubt");
    assert_eq!(three.bravo.listed().0, 0);
    three.alpha.start_again();
    // Without its data alpha is no better.
    three.wait_words("dc1", "offers no master");
    always("the data of dc3 stays", Duration::from_secs(3), || three.charli.digest() == before);
    let status = three.following();
    assert_eq!(status["present"], serde_json::Value::Null);
    assert_eq!(three.charli.info("master_link_status"), "down");
    eventually("the reason is in charli's log", SOON, || {
        three.charli.log().contains("no site is known to have the master of orders")
    });
}

#[test]
fn the_site_that_is_followed_is_kept_while_another_offers_a_master_too_until_a_person_says_otherwise() {
    let three = Three::new();
    three.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    three.alpha.ask(&["SET", "only", "at alpha"]);
    three.charli.wait_equal(&three.alpha);
    eventually("dc2 offers it", SOON, || three.second_offers());
    let (code, out, err) = three.order(&["dc2"]);
    assert_eq!(code, 0, "{out}{err}");
    for words in
        ["dc1 is followed now, and has a master", "bytes of the stream were passed on after that", "--yes"]
    {
        assert!(out.contains(words), "{words}: {out}");
    }
    three.third.wait_log("dc1 is followed for orders; dc2 offers a master too, which lacks the last");
    assert_eq!(
        (three.followed().as_deref(), three.third.links()),
        (Some("dc1"), 1),
        "it was only asked about"
    );
    assert_eq!(three.charli.ask(&["GET", "only"]), "at alpha");
    let (code, out, err) = three.order(&["dc2", "--yes"]);
    assert_eq!(code, 0, "{out}{err}");
    three.charli.wait_equal(&three.bravo);
    assert_eq!(three.charli.ask(&["EXISTS", "only"]), "0");
    assert_eq!(three.following()["present"]["by"], "person");
    three.third.wait_end("moved");
    always("it stays so", Duration::from_secs(3), || three.followed().as_deref() == Some("dc2"));
    let (code, _, err) = three.order(&["dc9"]);
    assert!(code != 0 && err.contains("dc1, dc2"), "{err}");
}

#[test]
fn a_site_that_does_not_say_whether_it_has_the_master_is_not_followed() {
    // As every site with an earlier release.
    let three = Three::with("follow = \"any\"");
    three.wait_words("dc2", "its [[master]] lacks follow = \"master\"");
    three.third.wait_kind("site-doubt");
    let (code, _, err) = three.order(&["dc2", "--yes"]);
    assert!(code != 0 && err.contains("does not say whether it has the master"), "{err}");
    let out = replgate_ok(three.lab.path(), &["follow", "-c", "dc3.toml", "orders", "dc1", "--yes"]);
    assert!(out.contains("dc1 is followed for orders from now on"), "{out}");
    three.charli.wait_equal(&three.alpha);
}

#[test]
fn the_followed_site_is_kept_once_it_does_not_say_any_more_whether_it_has_the_master() {
    let three = Three::new();
    let number = || three.third.each("number");
    let link = number();
    let text = std::fs::read_to_string(&three.first.config).expect("the test has written it");
    reload(&three.first, &text.replace(FOLLOW, "follow = \"any\""));
    // Its gateway lets the link go on; dc3 asks again by itself, or here for a person.
    let (code, _, err) = three.order(&["dc1", "--yes"]);
    assert!(
        code != 0 && err.contains("dc1 does not say whether it has the master: it is of an earlier release"),
        "{err}"
    );
    three.wait_words("dc1", "is followed, and does not say whether it has the master");
    let status = three.following();
    assert_eq!(status["present"]["party"], "dc1");
    let step = status["next_step"].as_str().unwrap_or_default();
    assert!(step.starts_with("at dc1 upgrade the gateway") && !step.contains("romote"), "{step}");
    three.alpha.ask(&["SET", "it", "goes on"]);
    three.charli.wait_equal(&three.alpha);
    always("it stays so", Duration::from_secs(7), || three.followed().as_deref() == Some("dc1"));
    assert_eq!(number(), link, "the same link");
    reload(&three.first, &text);
    let (code, out, err) = three.order(&["dc1"]);
    assert!(code == 0 && out.contains("dc1 is followed for orders already"), "{out}{err}");
    eventually("nothing is wrong any more", SOON, || three.following()["attention"].is_null());
}

#[test]
fn a_restart_of_the_followed_gateway_moves_no_replica_to_another_site_that_claims_to_have_its_data() {
    let mut three = Three::new();
    // bravo has every byte; so it cannot be told from a successor.
    three.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    three.third.wait_log("dc2 offers a master too, and says that it has all that came here");
    assert_eq!(three.first.stop(), Some(0));
    eventually("dc1 is away", SOON, || three.following()["parties"][0]["state"] == "away");
    three.first.start_again();
    eventually("charli is in sync again", SOON, || three.charli.info("master_link_status") == "up");
    eventually("dc1 is seen again", SOON, || three.following()["parties"][0]["state"] == "master");
    assert_eq!(three.followed().as_deref(), Some("dc1"));
    // Once it is away on end it is another thing.
    let began = std::time::Instant::now();
    three.first.kill();
    eventually("dc2 is followed", SOON, || three.followed().as_deref() == Some("dc2"));
    assert!(began.elapsed() >= Duration::from_secs(5), "after {:?}", began.elapsed());
}

#[test]
fn a_second_gateway_of_the_followed_site_cannot_vouch_for_another_master() {
    let lab = Lab::new();
    let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
    let (alpha, stale, charli) = (redis("alpha"), redis("stale"), redis("charli"));
    alpha.fill();
    let (wans, entries) = ([(); 3].map(|()| free_port()), [(); 3].map(|()| free_port()));
    let text = both_roles("dc1", alpha.port, [wans[0], wans[1]], entries[0], "dc2", FOLLOW);
    let mut first = lab.gateway("dc1", &text);
    let text = both_roles("dc1", stale.port, [wans[2], wans[1]], entries[1], "dc2", FOLLOW);
    let other = lab.another("dc1", "other", &text.replace("state-dc1", "state-other"));
    eventually("it follows its Redis", SOON, || {
        other.status()["following"][0]["present"]["party"].is_string()
    });
    // On a person's word, even.
    let party = format!("127.0.0.1:{}", stale.port);
    let config = other.config.to_str().expect("a path of letters");
    replgate_ok(lab.path(), &["follow", "-c", config, "orders", &party, "--yes"]);
    let peers = |port: u16| format!("peers = [\"127.0.0.1:{port}\"");
    let text = from_both(entries[2], [wans[0], wans[1]]);
    let text = text.replace(&peers(wans[0]), &format!("{}, \"127.0.0.1:{}\"", peers(wans[0]), wans[2]));
    let third = lab.gateway("dc3", &text);
    let following = || third.status()["following"][0].clone();
    // Nothing was followed before, and dc2 is not there: a person says that it is dc1.
    eventually("dc3 has asked", SOON, || following()["parties"][0]["state"] == "master");
    replgate_ok(lab.path(), &["follow", "-c", "dc3.toml", "orders", "dc1", "--yes"]);
    charli.replicaof(entries[2]);
    charli.wait_equal(&alpha);
    let words = "is refused: its master has the history";
    eventually("the other gateway is told of", SOON, || {
        following()["attention"].as_str().is_some_and(|said| said.contains(words))
    });
    let before = charli.digest();
    assert_eq!(first.stop(), Some(0));
    eventually("dc1 is away", SOON, || following().to_string().contains("is reached in part"));
    always("the data of dc3 stays", Duration::from_secs(7), || charli.digest() == before);
    assert_eq!((stale.listed().0, following()["present"]["party"].as_str()), (0, Some("dc1")));
    let step = following()["next_step"].to_string();
    assert!(
        step.contains("bring back the gateway of dc1") && step.contains("replgate follow orders dc1"),
        "{step}"
    );
    first.start_again();
    charli.wait_equal(&alpha);
    assert_eq!(charli.digest(), before);
    first.kill();
    eventually("dc1 is away", SOON, || following().to_string().contains("is reached in part"));
    let out = replgate_ok(lab.path(), &["follow", "-c", "dc3.toml", "orders", "dc1"]);
    assert!(out.contains("every replica loses what it has"), "{out}");
    replgate_ok(lab.path(), &["follow", "-c", "dc3.toml", "orders", "dc1", "--yes"]);
    // Its link to the gateway that is gone is held for a while; a new one goes to the other.
    charli.ask(&["REPLICAOF", "NO", "ONE"]);
    charli.replicaof(entries[2]);
    charli.wait_equal(&stale);
}

#[test]
fn what_was_followed_is_known_after_a_restart_and_no_site_but_that_one_is_followed() {
    let mut three = Three::new();
    assert_eq!(three.third.stop(), Some(0));
    let full = three.full_syncs();
    // While the gateway was away the master has moved with all data.
    three.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    three.alpha.replicaof(three.entries[0]);
    three.alpha.wait_equal(&three.bravo);
    three.third.start_again();
    three.charli.wait_equal(&three.bravo);
    assert_eq!((three.followed().as_deref(), three.full_syncs()), (Some("dc2"), full));
}

#[test]
fn check_says_which_site_has_the_master_and_which_does_not_tell() {
    let codes = |three: &Three| {
        let out = replgate(three.lab.path(), &["check", "-c", "dc3.toml", "--json"]).1;
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let text = |finding: &serde_json::Value| format!("{}: {}", finding["code"], finding["text"]);
        let all = json["findings"].as_array().expect("a list");
        let ours =
            all.iter().filter(|finding| finding["subject"] == "far-site" && finding["what"] == "orders");
        ours.map(text).collect::<Vec<_>>()
    };
    let three = Three::new();
    let found = codes(&three);
    assert_eq!(found.len(), 2, "{found:#?}");
    let history = three.alpha.info("master_replid");
    assert!(
        found[0].starts_with("\"peer\"") && found[0].contains(&format!("(stream {}, at ", &history[..8])),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("\"peer-no-master\"") && found[1].contains("dc2 has no master now"),
        "{found:?}"
    );
    drop(three);
    let found = codes(&Three::with("follow = \"any\""));
    assert!(found.iter().any(|text| text.starts_with("\"peer-untold\"")), "{found:#?}");
}

#[test]
fn of_two_gateways_at_a_site_a_replica_gets_the_one_whose_master_goes_on_from_what_it_has() {
    let lab = Lab::new();
    let redis = |name| Redis::start(Version::System, lab.path(), name, QUIET);
    let (alpha, blank, bravo, charli) = (redis("alpha"), redis("blank"), redis("bravo"), redis("charli"));
    alpha.fill();
    let (wans, entries) = ([(); 3].map(|()| free_port()), [(); 3].map(|()| free_port()));
    let first = both_roles("dc1", alpha.port, [wans[0], wans[1]], entries[0], "dc2", FOLLOW);
    let first = lab.gateway("dc1", &first);
    let second = both_roles("dc2", bravo.port, [wans[1], wans[0]], entries[1], "dc1", FOLLOW);
    let _second = lab.gateway("dc2", &second);
    bravo.replicaof(entries[1]);
    bravo.wait_equal(&alpha);
    // Another gateway of dc1, beside a blank Redis, is asked first.
    let peers = |port: u16| format!("peers = [\"127.0.0.1:{port}\"");
    let text = from_both(entries[2], [wans[0], wans[1]]);
    let text = text.replace(&peers(wans[0]), &format!("{}, \"127.0.0.1:{}\"", peers(wans[2]), wans[0]));
    let mut third = lab.gateway("dc3", &text);
    charli.replicaof(entries[2]);
    charli.wait_equal(&alpha);
    let full = alpha.sync_full();
    let text = both_roles("dc1", blank.port, [wans[2], wans[1]], free_port(), "dc2", FOLLOW);
    let other = lab.another("dc1", "other", &text.replace("state-dc1", "state-other"));
    eventually("it offers its Redis", SOON, || {
        other.status()["following"][0]["present"]["party"].is_string()
    });
    // After a restart dc3 does not know which address worked last.
    assert_eq!(third.stop(), Some(0));
    third.start_again();
    other.wait_log("it goes on from another stream than the one that is followed");
    charli.wait_equal(&alpha);
    assert_eq!((alpha.sync_full(), blank.listed().0), (full, 0), "the link went on to the right one");
    assert_eq!(third.status()["following"][0]["present"]["party"], "dc1");
    // With its own gateway gone, the blank Redis is still not taken.
    let before = charli.digest();
    drop(first);
    let present = || third.status()["following"][0].clone();
    eventually("dc1 counts as away", SOON, || present().to_string().contains("is reached in part"));
    always("the data of dc3 stays", Duration::from_secs(3), || charli.digest() == before);
    assert_eq!(blank.listed().0, 0);
}

#[test]
fn a_link_to_another_site_than_the_first_survives_a_break_of_the_path_there() {
    let three = Three::new();
    let config = three.third.config.clone();
    let text = std::fs::read_to_string(&config).expect("the test has written it");
    // The same sites, and a path of its own to dc2.
    let wan = |site: usize| {
        let peer = text.split("peers = [\"127.0.0.1:").nth(site).expect("two sites");
        peer.split('"').next().and_then(|port| port.parse::<u16>().ok()).expect("a port")
    };
    let path = Path::to(wan(2));
    let text = text.replace(&format!("127.0.0.1:{}", wan(2)), &format!("127.0.0.1:{}", path.port));
    reload(&three.third, &text);
    three.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
    three.alpha.replicaof(three.entries[0]);
    three.bravo.ask(&["SET", "before", "the break"]);
    three.charli.wait_equal(&three.bravo);
    let number = || three.third.each("number");
    let link = number();
    path.cut();
    three.third.wait_event("link resumed", &["site=dc2"]);
    three.bravo.ask(&["SET", "after", "the break"]);
    three.charli.wait_equal(&three.bravo);
    assert_eq!((number(), three.followed().as_deref()), (link, Some("dc2")), "the same link");
}

/// Has dc3 read another config. Returns when it is in use.
fn reload(gateway: &Gateway, text: &str) {
    let words = "config and certificates read again";
    let before = gateway.log().matches(words).count();
    std::fs::write(&gateway.config, text).expect("the test's folder is writable");
    gateway.process.signal("HUP");
    eventually("the config is in use", SOON, || gateway.log().matches(words).count() > before);
}

#[test]
fn a_reload_that_adds_a_site_or_takes_the_other_away_ends_no_link() {
    let mut three = Three::new();
    let several = std::fs::read_to_string(&three.third.config).expect("the test has written it");
    let (head, rest) = several.split_once("[[replica]]").expect("it has one");
    let wan = rest.split("peers = [\"127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next());
    let wan = wan.and_then(|port| port.parse().ok()).expect("a port");
    let one = format!("{head}{}", replica_block("orders", three.entries[2], wan, ""));
    // Nothing is known of whom it has followed.
    assert_eq!(three.third.stop(), Some(0));
    std::fs::remove_dir_all(three.lab.path().join("state-dc3")).expect("it was kept");
    std::fs::write(&three.third.config, &one).expect("the test's folder is writable");
    three.third.start_again();
    three.charli.wait_equal(&three.alpha);
    let number = || three.third.each("number");
    let link = number();
    // dc2 cannot say now what it has.
    three.second.process.signal("STOP");
    reload(&three.third, &several);
    three.wait_words("dc2", "has not answered");
    assert_eq!((number(), three.followed().as_deref()), (link.clone(), Some("dc1")));
    three.second.process.signal("CONT");
    reload(&three.third, &one);
    eventually("there is no choice any more", SOON, || three.following() == serde_json::Value::Null);
    three.alpha.ask(&["SET", "it", "goes on"]);
    three.charli.wait_equal(&three.alpha);
    assert_eq!(number(), link);
}
