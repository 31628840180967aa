//! Revocation from one place: gateways hand each other revocation lists over their links.

use std::path::Path;
use std::time::{Duration, Instant};

use replgate::internal::tls::pem;
use replgate::internal::wire::frame::Frame;
use replgate::internal::wire::lists::{Known, LARGEST_PIECE, ListName, ListNumber, Piece};
use serde_json::Value;

use crate::support::gateway::{Gateway, Lab, master_config, replica_block, replica_config, tls_in};
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::Redis;
use crate::support::wire::{Received, Site, Wire};
use crate::support::{SOON, always, eventually, free_port, replgate, replgate_ok};

/// Time within which a revocation takes effect at another site.
const TAKES_EFFECT: Duration = Duration::from_secs(5);

/// Gives a site a folder of its own, as on its own host.
fn move_out(lab: &Lab, site: &str) -> String {
    let folder = format!("own/{site}");
    std::fs::create_dir_all(lab.path().join(&folder)).expect("the lab is writable");
    for file in ["ca.crt", "tls.crt", "tls.key", "crl.pem"] {
        let from = lab.path().join(format!("certs/{site}/{file}"));
        std::fs::copy(from, lab.path().join(format!("{folder}/{file}"))).expect("a copy");
    }
    folder
}

/// A `[[master]]` with this `allow`.
fn master_block(name: &str, redis: u16, allow: &str) -> String {
    format!("[[master]]\nname = \"{name}\"\nredis = \"127.0.0.1:{redis}\"\nallow = [{allow}]\n")
}

/// As [`replica_block`], of another site.
fn replica_of(site: &str, name: &str, entry: u16, wan: u16) -> String {
    replica_block(name, entry, wan, "").replace("\"dc1\"", &format!("\"{site}\""))
}

/// The first list that a gateway uses, as `status` shows it.
fn list_in_use(gateway: &Gateway) -> Value {
    gateway.status()["lists"][0].clone()
}

/// The hub dc1 offers a master to dc2 and dc3. dc2 also offers one of its own to dc3. Each has its
/// files to itself.
struct Sites {
    hub: Gateway,
    spoke: Gateway,
    _third: Gateway,
    _redis: [Redis; 4],
    lab: Lab,
}

impl Sites {
    fn new(of_spoke: &str) -> Self {
        let lab = Lab::new();
        let [alpha, beta] = ["alpha", "beta"].map(|name| lab.redis(name));
        let (hub_wan, spoke_wan) = (free_port(), free_port());
        let entries = [free_port(), free_port(), free_port()];
        let folders = ["dc1", "dc2", "dc3"].map(|site| move_out(&lab, site));
        let tunnel = |wan: u16| format!("[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n");
        let hub = lab.gateway(
            "dc1",
            &(tls_in("dc1", &folders[0])
                + &tunnel(hub_wan)
                + &master_block("orders", alpha.port, "\"dc2\", \"dc3\"")),
        );
        let spoke = lab.gateway(
            "dc2",
            &(tls_in("dc2", &folders[1])
                + of_spoke
                + &tunnel(spoke_wan)
                + &master_block("carts", beta.port, "\"dc3\"")
                + &replica_block("orders", entries[0], hub_wan, "")),
        );
        let third = lab.gateway(
            "dc3",
            &(tls_in("dc3", &folders[2])
                + &replica_block("orders", entries[1], hub_wan, "")
                + &replica_of("dc2", "carts", entries[2], spoke_wan)),
        );
        let bravo = lab.replica("bravo", entries[0], &alpha);
        let charlie = lab.replica("charlie", entries[2], &beta);
        eventually("both links are up", SOON, || spoke.links() == 2);
        Self { hub, spoke, _third: third, _redis: [alpha, beta, bravo, charlie], lab }
    }

    /// Revokes dc3, and gives the new list to one site alone.
    fn revoke_at(&self, site: &str) {
        replgate_ok(self.lab.path(), &["certs", "revoke", "dc3"]);
        let own = self.lab.path().join(format!("own/{site}/crl.pem"));
        std::fs::copy(self.lab.path().join("certs/ca/crl.pem"), own).expect("a copy");
    }
}

#[test]
fn a_site_that_is_revoked_at_the_hub_is_shut_out_at_every_other_site_and_after_a_restart() {
    let mut sites = Sites::new("[state]\ndir = \"state\"\n");
    let before = std::fs::read(sites.lab.path().join("own/dc2/crl.pem")).expect("it is there");
    sites.revoke_at("dc1");
    let since = Instant::now();
    sites.hub.process.signal("HUP");
    sites.spoke.wait_event("revocation list learnt from dc1", &["site=dc1", "revoked=1", "added=1"]);
    assert!(since.elapsed() < TAKES_EFFECT, "{:?}", since.elapsed());
    eventually("dc3 has no link at dc2, and dc2 has one with dc1", SOON, || {
        let links = sites.spoke.status();
        let links = links["links"].as_array().expect("an array");
        links.len() == 1 && links[0]["site"] == "dc1"
    });
    sites.spoke.wait_kind("revoked");
    let list = list_in_use(&sites.spoke);
    assert_eq!((&list["from"], &list["revoked"]), (&Value::from("dc1"), &Value::from(1)), "{list}");
    assert_eq!(list["number"], list_in_use(&sites.hub)["number"]);
    assert_eq!(list_in_use(&sites.hub)["from"], Value::Null);
    // The operator's own file is as it was, and being older it is no obstacle to a reload.
    assert_eq!(std::fs::read(sites.lab.path().join("own/dc2/crl.pem")).expect("it is there"), before);
    sites.spoke.process.signal("HUP");
    sites.spoke.wait_log("certificates read again");
    sites.spoke.wait_log("a later revocation list of CN=replgate CA was learnt from dc1, and counts");
    assert_eq!(list_in_use(&sites.spoke)["from"], "dc1");
    // The state folder keeps it.
    let path = sites.lab.path().to_owned();
    eventually("the list is kept, and no earlier one", SOON, || {
        let kept = kept_in(&path.join("state"));
        kept.len() == 1 && kept[0].starts_with("Learnt from dc1\n")
    });
    let (code, said, _) = replgate(&path, &["check", "--offline", "-c", "dc2.toml"]);
    assert!(code == 0 && said.contains("learnt from dc1"), "{said}");
    assert_eq!(sites.hub.stop(), Some(0));
    assert_eq!(sites.spoke.stop(), Some(0));
    let refusals = sites.spoke.log().matches("kind=\"revoked\"").count();
    sites.spoke.start_again();
    assert_eq!(list_in_use(&sites.spoke)["from"], "dc1");
    eventually("dc3 is refused", SOON, || sites.spoke.log().matches("kind=\"revoked\"").count() > refusals);
    assert_eq!(sites.spoke.links(), 0);
}

#[test]
fn a_list_goes_from_a_spoke_through_the_hub_and_works_without_a_state_folder() {
    // A file is in the place of the folder.
    let sites = Sites::new("[state]\ndir = \"own/dc2/ca.crt\"\n");
    sites.spoke.wait_log("the state folder");
    sites.revoke_at("dc2");
    sites.spoke.process.signal("HUP");
    sites.hub.wait_event("revocation list learnt from dc2", &["added=1"]);
    eventually("dc3 has no link anywhere", SOON, || sites.hub.links() == 1 && sites.spoke.links() == 1);
    assert_eq!(list_in_use(&sites.hub)["from"], "dc2");
    assert_eq!(list_in_use(&sites.spoke)["from"], Value::Null);
    // It comes back to nobody.
    assert!(!sites.spoke.log().contains("revocation list learnt"), "{}", sites.spoke.log());
    // Now the hub has one that dc2 does not have on disk, and dc2 cannot keep it.
    replgate_ok(sites.lab.path(), &["certs", "issue", "dc4"]);
    replgate_ok(sites.lab.path(), &["certs", "revoke", "dc4"]);
    let lab = sites.lab.path();
    std::fs::copy(lab.join("certs/ca/crl.pem"), lab.join("own/dc1/crl.pem")).expect("a copy");
    sites.hub.process.signal("HUP");
    sites.spoke.wait_event("revocation list learnt from dc1", &["revoked=2", "added=1"]);
    assert_eq!(list_in_use(&sites.spoke)["from"], "dc1");
    eventually("it says that it is not kept", SOON, || {
        sites.spoke.lines("WARN", "revocation lists learnt from other gateways count, but only until") >= 2
    });
}

/// The list in a file.
fn list_in(path: &Path) -> Vec<u8> {
    pem::revocation_lists(path).expect("a list")[0].to_vec()
}

fn number(last: u8) -> ListNumber {
    let mut number = [0; 20];
    number[19] = last;
    number
}

/// What the gateway knows.
fn known_there(wire: &mut Wire) -> Known {
    loop {
        if let Received::Frame(Frame::Lists(known)) = wire.next().expect("the gateway tells what it knows") {
            return known[0];
        }
    }
}

/// Whether the gateway asks for the list of this name within a time.
fn asks(wire: &mut Wire, name: ListName, within: Duration) -> bool {
    let until = Instant::now() + within;
    while Instant::now() < until {
        // Heartbeats come every second at least.
        match wire.next() {
            Ok(Received::Frame(Frame::Want(wanted))) => return wanted == name,
            Ok(Received::Frame(Frame::Heartbeat(_))) => {
                wire.send(&Frame::Heartbeat(None)).expect("the gateway reads");
            }
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

fn hand_over(wire: &mut Wire, name: ListName, number: ListNumber, der: &[u8], total: usize) {
    let total = u32::try_from(total).expect("it is small");
    for (at, bytes) in der.chunks(LARGEST_PIECE).enumerate() {
        let at = u32::try_from(at * LARGEST_PIECE).expect("it is small");
        let piece = Piece { name, number, total, at, bytes: bytes.to_vec() };
        wire.send(&Frame::Piece(piece)).expect("the gateway reads");
    }
}

/// The lists in a state folder.
fn kept_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok()).collect()
}

#[test]
fn a_hostile_site_gets_no_list_believed_and_is_asked_for_another_only_after_a_pause() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let highest = [0xff; 20];
    let real = list_in(&lab.path().join("certs/ca/crl.pem"));
    let mut forged = real.clone();
    *forged.last_mut().expect("it is long") ^= 1;
    let mut delta = real.clone();
    let at = delta.windows(5).position(|bytes| bytes == [6, 3, 0x55, 0x1d, 0x14]).expect("it has a number");
    delta[at + 4] = 0x1b;
    for (der, words) in [
        // The number is that of the list known here: it is refused before its signature is verified.
        (&real, "is not above the"),
        (&forged, "is not above the"),
        (&delta, "it is a delta"),
        (&vec![0x30; 5000], "not a valid certificate revocation list"),
    ] {
        let wan = free_port();
        let state = "[state]\ndir = \"state\"\n[tunnel]";
        let text = master_config("dc1", wan, &[("orders", alpha.port)], "").replace("[tunnel]", state);
        let gateway = lab.gateway("dc1", &text);
        let mut site = Site::new(&lab.path().join("certs"), "dc2", "dc1");
        site.terms.lists = true;
        let (mut wire, accept) = site.link(wan);
        assert!(accept.terms.lists);
        let known = known_there(&mut wire);
        let promise = Frame::Lists(vec![Known { name: known.name, number: highest }]);
        // What was not asked for is ignored.
        hand_over(&mut wire, known.name, highest, der, der.len());
        wire.send(&promise).expect("the gateway reads");
        assert!(asks(&mut wire, known.name, SOON));
        hand_over(&mut wire, known.name, highest, der, der.len());
        gateway.wait_event(words, &["kind=\"list-refused\"", "site=dc2"]);
        wire.send(&promise).expect("the gateway reads");
        assert!(!asks(&mut wire, known.name, Duration::from_secs(3)), "it is asked again at once");
        assert_eq!(gateway.lines("WARN", "revocation list of dc2 refused"), 1);
        assert_eq!(list_in_use(&gateway)["from"], Value::Null);
        let kept = kept_in(&lab.path().join("state"));
        assert!(kept.len() <= 1 && kept.iter().all(|list| !list.contains("dc2")), "{kept:?}");
        // The link goes on: it is no fault of the protocol.
        assert_eq!(gateway.links(), 1);
    }
}

#[test]
fn a_forged_list_with_a_higher_number_and_one_that_is_too_large_are_refused() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (ca, other) = (Ca::new("root"), Ca::new("root"));
    for site in ["dc1", "dc2"] {
        ca.folder(&lab.path().join(format!("certs/{site}")), &Leaf::good(site));
    }
    let write = |name: &str, text: &str| {
        std::fs::write(lab.path().join(name), text).expect("the lab is writable");
        lab.path().join(name)
    };
    let wan = free_port();
    let gateway = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let mut site = Site::new(&lab.path().join("certs"), "dc2", "dc1");
    site.terms.lists = true;
    let (mut wire, _) = site.link(wan);
    let known = known_there(&mut wire);
    let days = |days| time::Duration::days(days);
    let forged = list_in(&write("forged.pem", &other.list_of(&[1], 7, days(30))));
    let promise = |number| Frame::Lists(vec![Known { name: known.name, number }]);
    wire.send(&promise(number(7))).expect("the gateway reads");
    assert!(asks(&mut wire, known.name, SOON));
    // One that would be too large is not even kept until it is complete.
    hand_over(&mut wire, known.name, number(7), &[0; 9000], (1 << 20) + 1);
    hand_over(&mut wire, known.name, number(7), &forged, forged.len());
    gateway.wait_event("has not signed it", &["kind=\"list-refused\""]);
    assert_eq!(list_in_use(&gateway)["from"], Value::Null);
    // After the pause a good list is taken from the same site.
    let good = list_in(&write("good.pem", &ca.list_of(&[1], 8, days(30))));
    wire.send(&promise(number(8))).expect("the gateway reads");
    assert!(asks(&mut wire, known.name, SOON));
    hand_over(&mut wire, known.name, number(8), &good, good.len());
    gateway.wait_event("revocation list learnt from dc2", &["number=8", "added=1"]);
    assert_eq!(list_in_use(&gateway)["from"], "dc2");
}

#[test]
fn where_a_stale_list_is_a_reason_to_refuse_a_later_one_may_come_over_the_connection_itself() {
    let refusing = |text: String| text.replacen("[tls]", "[tls]\ncrl_expired = \"refuse\"", 1);
    // Who refuses, whether the other one has a list that is not stale, and whether it revokes the other.
    for (refuses, later) in [("dc1", true), ("dc1", false), ("dc2", true), ("dc2", false)] {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        let ca = Ca::new("root");
        for site in ["dc1", "dc2"] {
            ca.folder(&lab.path().join(format!("certs/{site}")), &Leaf::good(site));
            let fresh = later && site != refuses;
            let (number, until) = if fresh { (2, 30) } else { (1, -1) };
            let list = ca.list_of(&[], number, time::Duration::days(until));
            std::fs::write(lab.path().join(format!("certs/{site}/crl.pem")), list).expect("writable");
        }
        let (wan, entry) = (free_port(), free_port());
        let text = |site: &str, text: String| if site == refuses { refusing(text) } else { text };
        let first =
            lab.gateway("dc1", &text("dc1", master_config("dc1", wan, &[("orders", alpha.port)], "")));
        let second = lab.gateway("dc2", &text("dc2", replica_config("dc2", entry, wan, "")));
        let bravo = lab.redis("bravo");
        bravo.replicaof(entry);
        let (refusing, other) = if refuses == "dc1" { (&first, "dc2") } else { (&second, "dc1") };
        if later {
            bravo.wait_equal(&alpha);
            assert_eq!(list_in_use(refusing)["from"], *other);
        } else {
            refusing.wait_log("the revocation list of CN=root is stale since");
            refusing.wait_log("and crl_expired is \"refuse\"");
            always("there is no link", Duration::from_secs(3), || alpha.info("connected_slaves") == "0");
        }
    }
}

#[test]
fn a_list_of_nearly_a_mebibyte_crosses_in_pieces_beside_the_stream_and_a_larger_one_does_not() {
    let lab = Lab::new();
    let ca = Ca::new("root");
    for site in ["dc1", "dc2"] {
        ca.folder(&lab.path().join(format!("certs/{site}")), &Leaf::good(site));
    }
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    let list = |count: u64, number| {
        // Serial numbers of eight bytes, which no certificate here has.
        let serials: Vec<u64> = (1 << 62..(1 << 62) + count).collect();
        let list = ca.list_of(&serials, number, time::Duration::days(30));
        let path = lab.path().join("certs/dc1/crl.pem");
        std::fs::write(&path, list).expect("the lab is writable");
        list_in(&path).len()
    };
    // One that may not be handed over is used by the gateway that has it in its file.
    let size = list(40_000, 2);
    assert!(size > 1 << 20, "{size}");
    pair.first.process.signal("HUP");
    eventually("dc1 uses it", SOON, || list_in_use(&pair.first)["number"] == "2");
    let size = list(34_000, 3);
    assert!((900_000..1 << 20).contains(&size), "{size}");
    pair.first.process.signal("HUP");
    pair.second.wait_event("revocation list learnt from dc1", &["number=3", "revoked=34000"]);
    assert_eq!(pair.second.lines("INFO", "revocation list learnt"), 1);
    bravo.wait_equal(&alpha);
    assert_eq!((pair.first.links(), pair.second.links()), (1, 1));
    assert_eq!(pair.second.lines("WARN", "is slowed") + pair.first.lines("WARN", "is slowed"), 0);
}
