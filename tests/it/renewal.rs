//! Files of trust that change while links are up: what is taken into use, what that does to links, and
//! which links end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::gateway::{Followed, Gateway, Lab, Pair, master_config, replica_config};
use crate::support::pki::{Ca, Leaf};
use crate::support::writer::Writer;
use crate::support::{SOON, always, eventually, free_port, replgate, replgate_ok};

/// What a gateway logs when it has taken files into use by itself.
const USED: &str = "files of trust have changed and are in use";

/// Long enough for files that have changed to be used.
const A_WHILE: Duration = Duration::from_secs(6);

fn certs(lab: &Lab, site: &str) -> PathBuf {
    lab.path().join("certs").join(site)
}

/// Waits until a gateway has taken files into use by itself, so many times in all.
#[track_caller]
fn wait_used(gateway: &Gateway, times: usize) {
    eventually("the files are in use", SOON, || gateway.log().matches(USED).count() >= times);
}

/// Number of times that a link at dc2 has dialled for another lane.
fn redials(pair: &Pair) -> u64 {
    pair.second.count("redials")
}

#[test]
fn certificates_and_cas_that_change_under_load_are_used_by_themselves_and_nothing_is_lost() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let writer = Writer::on(&alpha, 1_000_000);
    let partial = alpha.sync_partial_ok();
    let replaced = |least| {
        eventually("every lane is replaced", SOON, || {
            redials(&pair) >= least && [&pair.first, &pair.second].iter().all(|end| end.each("lanes") == [1])
        });
    };
    replgate_ok(lab.path(), &["certs", "renew"]);
    [&pair.first, &pair.second].into_iter().for_each(|gateway| wait_used(gateway, 1));
    replaced(1);
    // Another CA beside the first.
    let old = std::fs::read_to_string(certs(&lab, "dc1").join("ca.crt")).expect("it is there");
    let new = Ca::new("the next CA");
    for site in ["dc1", "dc2"] {
        std::fs::write(certs(&lab, site).join("ca.crt"), old.clone() + &new.root).expect("ours");
    }
    [&pair.first, &pair.second].into_iter().for_each(|gateway| wait_used(gateway, 2));
    // Certificates of that CA, one site after the other.
    for (round, site) in ["dc2", "dc1"].into_iter().enumerate() {
        let list = std::fs::read_to_string(certs(&lab, site).join("crl.pem")).expect("it is there");
        new.folder(&certs(&lab, site), &Leaf::good(site));
        std::fs::write(certs(&lab, site).join("ca.crt"), old.clone() + &new.root).expect("ours");
        std::fs::write(certs(&lab, site).join("crl.pem"), list + &new.list(&[])).expect("ours");
        let before = redials(&pair);
        wait_used([&pair.second, &pair.first][round], 3);
        replaced(before + 1);
    }
    // The first CA goes.
    for site in ["dc1", "dc2"] {
        std::fs::write(certs(&lab, site).join("ca.crt"), &new.root).expect("ours");
        std::fs::write(certs(&lab, site).join("crl.pem"), new.list(&[])).expect("ours");
    }
    [&pair.first, &pair.second].into_iter().for_each(|gateway| wait_used(gateway, 4));
    always("the link is up", Duration::from_secs(2), || pair.first.links() == 1 && pair.second.links() == 1);
    writer.stop();
    bravo.wait_equal(&alpha);
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), (1, partial));
    assert_eq!((pair.first.count("breaks"), pair.second.count("breaks")), (0, 0));
}

#[test]
fn another_ca_or_list_replaces_no_lane() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let new = Ca::new("the next CA");
    for site in ["dc1", "dc2"] {
        for (file, more) in [("ca.crt", new.root.clone()), ("crl.pem", new.list(&[7]))] {
            let path = certs(&lab, site).join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            std::fs::write(path, text + &more).expect("ours");
        }
    }
    [&pair.first, &pair.second].into_iter().for_each(|gateway| wait_used(gateway, 1));
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
    assert_eq!((redials(&pair), pair.first.each("lanes")), (0, vec![1]));
}

#[test]
fn each_of_several_lanes_is_replaced_once_when_the_masters_site_has_another_certificate() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let lanes = "[link]\nlanes = 4\n";
    let (wan, entry) = (free_port(), free_port());
    let config = master_config("dc1", wan, &[("orders", alpha.port)], "");
    let first = lab.gateway("dc1", &(config + lanes));
    let second = lab.gateway("dc2", &(replica_config("dc2", entry, wan, "") + lanes));
    let bravo = lab.replica("bravo", entry, &alpha);
    let pair = Pair { first, second, wan, entry };
    let has_all = || [&pair.first, &pair.second].iter().all(|gateway| gateway.each("lanes") == [4]);
    eventually("it has its lanes", SOON, has_all);
    let before = redials(&pair);
    replgate_ok(lab.path(), &["certs", "renew", "dc1"]);
    wait_used(&pair.first, 1);
    eventually("they are replaced", SOON, || redials(&pair) == before + 4 && has_all());
    always("that is all", Duration::from_secs(3), || redials(&pair) == before + 4);
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
    assert_eq!((alpha.sync_full(), pair.first.count("breaks")), (1, 0));
}

#[test]
fn a_link_ends_when_its_far_sides_ca_is_not_trusted_any_more() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    // dc2 gets other files; dc1 trusts their CA alone, and so not what the lane was opened with.
    let new = Ca::new("the next CA");
    new.folder(&certs(&lab, "dc1"), &Leaf::good("dc1"));
    pair.first.wait_end("outdated");
    pair.second.wait_far_end("NotAvailable");
    assert!(pair.first.log().contains("no CA in our `ca` has signed it"), "{}", pair.first.log());
    new.folder(&certs(&lab, "dc2"), &Leaf::good("dc2"));
    bravo.wait_equal(&alpha);
}

#[test]
fn a_site_that_is_revoked_is_gone_at_both_ends_within_seconds_and_cannot_come_back() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    replgate_ok(lab.path(), &["certs", "revoke", "dc2"]);
    eventually("the link is gone", Duration::from_secs(8), || {
        pair.first.links() == 0 && pair.second.links() == 0
    });
    pair.first.wait_end("outdated");
    assert!(
        pair.first.log().contains("the certificate of dc2 is not accepted any more: it has been revoked"),
        "{}",
        pair.first.log()
    );
    pair.second.wait_far_end("NotAvailable");
    alpha.ask(&["SET", "secret", "of later"]);
    pair.first.wait_kind("revoked");
    always("it gets no link", Duration::from_secs(3), || pair.first.links() == 0);
    assert_eq!(bravo.ask(&["EXISTS", "secret"]), "0");
}

/// What `status` says is wrong with the files of a gateway.
fn refused(gateway: &Gateway) -> String {
    let refused = gateway.status()["reload"]["refused"].clone();
    if refused.is_null() { String::new() } else { refused["faults"].to_string() }
}

#[test]
fn files_with_a_fault_are_said_once_and_shown_until_they_are_mended() {
    let Followed { lab, alpha, pair, bravo } = Followed::new();
    let key = certs(&lab, "dc2").join("tls.key");
    let good = std::fs::read(&key).expect("it is there");
    std::fs::write(&key, "no key").expect("ours");
    eventually("status says what is wrong", SOON, || refused(&pair.second).contains("tls.key"));
    let (_, text, _) = replgate(lab.path(), &["status", "-c", "dc2.toml"]);
    assert!(text.contains("REFUSED since "), "{text}");
    // A config that is refused does not hide it, nor the other way round.
    let config = std::fs::read_to_string(&pair.second.config).expect("it is there");
    std::fs::write(&pair.second.config, config.clone() + "password_file = \"none.pw\"\n").expect("ours");
    pair.second.process.signal("HUP");
    eventually("both are shown", SOON, || {
        let said = refused(&pair.second);
        said.contains("tls.key") && said.contains("none.pw")
    });
    assert_eq!(pair.second.lines("ERROR", "the earlier ones stay in use"), 1, "{}", pair.second.log());
    std::fs::write(&key, &good).expect("ours");
    eventually("the fault of the key is gone", SOON, || !refused(&pair.second).contains("tls.key"));
    assert!(refused(&pair.second).contains("none.pw"), "the config is still refused");
    std::fs::write(&pair.second.config, config).expect("ours");
    pair.second.process.signal("HUP");
    eventually("nothing is wrong any more", SOON, || refused(&pair.second).is_empty());
    assert_eq!((redials(&pair), pair.second.log().matches(USED).count()), (0, 0), "nothing was replaced");
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
}

#[test]
fn a_reload_that_a_broken_key_has_refused_is_made_up_for_once_the_key_is_mended() {
    let lab = Lab::new();
    let gateway = lab.gateway("dc2", &replica_config("dc2", free_port(), 1, ""));
    let key = certs(&lab, "dc2").join("tls.key");
    let good = std::fs::read(&key).expect("it is there");
    let config = std::fs::read_to_string(&gateway.config).expect("it is there");
    for config_changes in [false, true] {
        std::fs::write(&key, "no key").expect("ours");
        if config_changes {
            std::fs::write(&gateway.config, config.clone() + "[limits]\nmemory = \"1GiB\"\n").expect("ours");
        }
        gateway.process.signal("HUP");
        eventually("the reload is refused", SOON, || refused(&gateway).contains("tls.key"));
        std::fs::write(&key, &good).expect("ours");
        if config_changes {
            always("its config is not in use", A_WHILE, || refused(&gateway).contains("reload again"));
            gateway.process.signal("HUP");
        }
        eventually("nothing is wrong any more", SOON, || refused(&gateway).is_empty());
    }
}

#[test]
fn files_are_not_watched_where_the_config_says_so() {
    let lab = Lab::new();
    let text = master_config("dc1", free_port(), &[("orders", 1)], "");
    let gateway = lab.gateway("dc1", &text.replace("[tls]\n", "[tls]\nwatch = false\n"));
    let before = gateway.status()["certificate_expires"].clone();
    Ca::new("another CA").folder(&certs(&lab, "dc1"), &Leaf::good("dc1"));
    always("they are not used", A_WHILE, || gateway.status()["certificate_expires"] == before);
    gateway.process.signal("HUP");
    gateway.wait_event("certificates read again", &[]);
    assert_ne!(gateway.status()["certificate_expires"], before);
    assert_eq!(gateway.log().matches(USED).count(), 0);
    // Watching begins with a reload that asks for it.
    std::fs::write(&gateway.config, text).expect("ours");
    gateway.process.signal("HUP");
    gateway.wait_log("[tls] changed");
    Ca::new("a third CA").folder(&certs(&lab, "dc1"), &Leaf::good("dc1"));
    wait_used(&gateway, 1);
}

/// Makes the folder `folder` show the files of `version`, as Kubernetes does for a mounted secret.
fn show(folder: &Path, version: &str) {
    let (next, data) = (folder.join("..data_tmp"), folder.join("..data"));
    std::os::unix::fs::symlink(version, &next).expect("ours");
    std::fs::rename(next, data).expect("ours");
}

#[test]
fn a_mounted_secret_that_is_swapped_as_a_whole_is_used() {
    let lab = Lab::new();
    let (ca, folder) = (Ca::new("one CA"), certs(&lab, "dc1"));
    for version in ["..v1", "..v2"] {
        ca.folder(&folder.join(version), &Leaf::good("dc1"));
    }
    for file in ["ca.crt", "tls.crt", "tls.key", "crl.pem"] {
        std::fs::remove_file(folder.join(file)).expect("it is there");
        std::os::unix::fs::symlink(Path::new("..data").join(file), folder.join(file)).expect("ours");
    }
    show(&folder, "..v1");
    let wan = free_port();
    let gateway = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", 1)], ""));
    let serial = || {
        let shown = replgate_ok(lab.path(), &["certs", "inspect", &format!("127.0.0.1:{wan}")]);
        shown.lines().find(|line| line.contains("serial")).map(str::to_owned).expect("a serial number")
    };
    let first = serial();
    show(&folder, "..v2");
    std::fs::remove_dir_all(folder.join("..v1")).expect("ours");
    wait_used(&gateway, 1);
    assert_ne!(serial(), first);
    assert_eq!(gateway.lines("ERROR", ""), 0, "{}", gateway.log());
}

#[test]
fn reloads_without_a_change_replace_no_lane_and_take_no_memory() {
    let Followed { lab: _lab, alpha, pair, bravo } = Followed::new();
    let reload = |times: usize| {
        for gateway in [&pair.first, &pair.second] {
            for _ in 0..times {
                let done = gateway.log().matches("certificates read again").count();
                gateway.process.signal("HUP");
                eventually("it has read them", SOON, || {
                    gateway.log().matches("certificates read again").count() > done
                });
            }
        }
    };
    reload(5);
    let state = || [&pair.first, &pair.second].map(|gateway| (gateway.descriptors(), gateway.memory()));
    let before = state();
    reload(30);
    for ((files, memory), (files_now, memory_now)) in before.into_iter().zip(state()) {
        assert_eq!(files_now, files);
        assert!(memory_now < memory + (4 << 20), "{memory} and then {memory_now}");
    }
    assert_eq!((redials(&pair), pair.first.each("lanes")), (0, vec![1]));
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
}

#[test]
fn a_link_is_up_beyond_the_end_of_a_certificate_that_is_renewed_in_time() {
    let lab = Lab::new();
    let ca = Ca::new("test CA");
    let short = |site| Leaf { until: time::Duration::seconds(12), ..Leaf::good(site) };
    ["dc1", "dc2"].into_iter().for_each(|site| ca.folder(&certs(&lab, site), &short(site)));
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    ["dc1", "dc2"].into_iter().for_each(|site| ca.folder(&certs(&lab, site), &Leaf::good(site)));
    [&pair.first, &pair.second].into_iter().for_each(|gateway| wait_used(gateway, 1));
    always("the link is up", Duration::from_secs(14), || pair.first.each("lanes").len() == 1);
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
    assert_eq!((alpha.sync_full(), pair.first.count("breaks")), (1, 0));
}
