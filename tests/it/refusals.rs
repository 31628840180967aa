//! Refused sites and clients. The reason is in both gateways' logs and in the replica's log.

use rcgen::ExtendedKeyUsagePurpose;
use time::Duration as Days;

use crate::support::gateway::{Gateway, Lab, Pair, master_config, replica_block, replica_config, tls_in};
use crate::support::pki::{Ca, Leaf};
use crate::support::redis::Redis;
use crate::support::{SOON, eventually, free_port, replgate_ok};

/// A pair whose dialling site has other TLS files or another config than usual.
struct Odd {
    alpha: Redis,
    bravo: Redis,
    pair: Pair,
    /// The last field, so that the logs still exist when the others are dropped.
    lab: Lab,
}

impl Odd {
    /// Starts dc1 as usual. For dc2, `prepare` writes files in the lab, and `config` returns its
    /// config.
    fn new(prepare: impl Fn(&Lab), config: impl Fn(u16, u16) -> String) -> Self {
        let lab = Lab::new();
        prepare(&lab);
        let alpha = lab.redis("alpha");
        alpha.ask(&["SET", "secret", "data"]);
        let (wan, entry) = (free_port(), free_port());
        let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
        let second = lab.gateway("dc2", &config(entry, wan));
        let bravo = lab.redis("bravo");
        bravo.replicaof(entry);
        Self { lab, alpha, bravo, pair: Pair { first, second, wan, entry } }
    }

    /// Asserts that each log contains these words, that no data got through, and that a valid site
    /// is still served.
    #[track_caller]
    fn is_refused(&self, acceptor: &str, dialler: &str, replica: &str) {
        self.pair.first.wait_log(acceptor);
        self.pair.second.wait_log(dialler);
        eventually(&format!("the replica's log says {replica:?}"), SOON, || {
            self.bravo.log().contains(replica)
        });
        assert_eq!(self.bravo.ask(&["EXISTS", "secret"]), "0");
        assert_eq!(self.alpha.info("connected_slaves"), "0");
        assert_eq!(self.pair.first.links(), 0);
        self.good_site_is_served();
    }

    #[track_caller]
    fn good_site_is_served(&self) {
        let entry = free_port();
        let config = self.lab.path().join("good.toml");
        std::fs::write(&config, replica_config("dc2", entry, self.pair.wan, ""))
            .expect("the test's folder is writable");
        let gateway = Gateway::start(&config, "good");
        gateway.wait_ready();
        let charli = self.lab.redis("charli");
        charli.replicaof(entry);
        charli.wait_equal(&self.alpha);
    }
}

/// dc2 with its files in `other/` of the lab.
fn other_files(entry: u16, wan: u16) -> String {
    tls_in("dc2", "other") + &replica_block("orders", entry, wan, "")
}

/// Creates certificates for both sites from the test's own CA; dc2's is `leaf`.
fn own_ca(lab: &Lab, leaf: &Leaf<'_>) {
    let ca = Ca::new("test CA");
    ca.folder(&lab.path().join("certs/dc1"), &Leaf::good("dc1"));
    ca.folder(&lab.path().join("other"), leaf);
    ca.folder(&lab.path().join("certs/dc2"), &Leaf::good("dc2"));
}

#[test]
fn a_certificate_of_a_foreign_ca_is_refused_by_both_ends() {
    // dc2 trusts dc1's CA, but its own certificate is from another: dc1 refuses.
    let odd = Odd::new(
        |lab| {
            Ca::new("foreign CA").folder(&lab.path().join("other"), &Leaf::good("dc2"));
            // A gateway refuses to start with a certificate that its `ca` has not
            // signed: it trusts both, as a careless operator might.
            let both = ["other/ca.crt", "certs/dc2/ca.crt"]
                .map(|file| std::fs::read_to_string(lab.path().join(file)).expect("a file"))
                .concat();
            std::fs::write(lab.path().join("other/ca.crt"), both).expect("the test's folder is writable");
        },
        other_files,
    );
    odd.is_refused(
        "the far gateway's certificate is refused: no CA in our `ca` has signed it",
        "the far gateway does not know the CA that signed our certificate",
        "-ERR replgate dc2: 127.0.0.1",
    );
    // dc2 trusts only another CA: it refuses dc1.
    let odd = Odd::new(
        |lab| Ca::new("foreign CA").folder(&lab.path().join("other"), &Leaf::good("dc2")),
        other_files,
    );
    odd.is_refused(
        "connection refused",
        "the far gateway's certificate is refused: no CA in our `ca` has signed it",
        "both sites need the same CA",
    );
}

/// Dials a gateway with openssl, which can do what a gateway would not do, such as showing a
/// certificate that is expired or not valid yet. Returns openssl's output.
fn dial_with_openssl(lab: &Lab, wan: u16, extra: &[&str]) -> String {
    let output = std::process::Command::new("timeout")
        .args([
            "10",
            "openssl",
            "s_client",
            "-connect",
            &format!("127.0.0.1:{wan}"),
            "-CAfile",
            "certs/dc1/ca.crt",
            "-tls1_3",
            "-alpn",
            "replgate/1",
            "-ign_eof",
        ])
        .args(extra)
        .current_dir(lab.path())
        .stdin(std::process::Stdio::piped())
        .output()
        .expect("openssl runs; make test installs it");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_certificate_that_is_expired_or_not_valid_yet_is_refused_with_both_times() {
    for (leaf, told, own) in [
        (
            Leaf { until: Days::hours(-2), from: Days::days(-30), ..Leaf::good("dc2") },
            "it expired at",
            "it expired at",
        ),
        (
            Leaf { from: Days::days(2), ..Leaf::good("dc2") },
            "it is not valid before",
            "it is not valid before",
        ),
    ] {
        let lab = Lab::new();
        own_ca(&lab, &leaf);
        let alpha = lab.redis("alpha");
        let pair = lab.pair(alpha.port);
        let said = dial_with_openssl(&lab, pair.wan, &["-cert", "other/tls.crt", "-key", "other/tls.key"]);
        assert!(said.contains("alert certificate expired"), "{said}");
        pair.first.wait_log(told);
        assert!(pair.first.log().contains("this host's clock says"), "{}", pair.first.log());
        // A gateway with this certificate does not even start.
        let config = lab.path().join("odd.toml");
        std::fs::write(&config, other_files(free_port(), pair.wan)).expect("the test's folder is writable");
        let (code, _, err) = crate::support::replgate(lab.path(), &["run", "-c", "odd.toml"]);
        assert!(code == 1 && err.contains(own) && err.contains("this host's clock says"), "{err}");
    }
}

#[test]
fn an_expired_acceptor_is_refused_by_the_dialler_with_both_times() {
    let lab = Lab::new();
    own_ca(&lab, &Leaf { until: Days::hours(-2), from: Days::days(-30), ..Leaf::good("dc1") });
    let wan = free_port();
    let mut server = std::process::Command::new("openssl");
    server.args([
        "s_server",
        "-accept",
        &format!("127.0.0.1:{wan}"),
        "-cert",
        "other/tls.crt",
        "-key",
        "other/tls.key",
        "-CAfile",
        "other/ca.crt",
        "-Verify",
        "1",
        "-tls1_3",
        "-alpn",
        "replgate/1",
        "-quiet",
    ]);
    let _server = crate::support::Process::start(
        "openssl s_server",
        lab.path().join("openssl.log"),
        server.current_dir(lab.path()).stdin(std::process::Stdio::piped()),
    );
    let entry = free_port();
    let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let bravo = lab.redis("bravo");
    bravo.replicaof(entry);
    second.wait_log("the far gateway's certificate is refused: it expired at");
    eventually("the replica's log has the reason as well", SOON, || bravo.log().contains("it expired at"));
}

#[test]
fn a_revoked_certificate_is_refused() {
    let odd = Odd::new(
        |lab| {
            replgate_ok(lab.path(), &["certs", "issue", "lost"]);
            std::fs::create_dir(lab.path().join("other")).expect("the test's folder is writable");
            for file in ["ca.crt", "crl.pem", "tls.crt", "tls.key"] {
                std::fs::copy(lab.path().join("certs/lost").join(file), lab.path().join("other").join(file))
                    .expect("a copy");
            }
            replgate_ok(lab.path(), &["certs", "revoke", "lost"]);
        },
        // The thief uses an older list, in which the certificate is not revoked.
        |entry, wan| tls_in("lost", "other") + &replica_block("orders", entry, wan, ""),
    );
    odd.is_refused(
        "the far gateway's certificate is refused: it has been revoked",
        "our certificate has been revoked",
        "has been revoked",
    );
}

#[test]
fn a_site_that_is_not_allowed_gets_the_same_answer_as_for_an_unknown_master() {
    let odd = Odd::new(
        |_| {},
        |entry, wan| crate::support::gateway::tls("dc3") + &replica_block("orders", entry, wan, ""),
    );
    odd.is_refused(
        "master \"orders\" does not list \"dc3\" in `allow`",
        "refused: master \"orders\" is not available to this site",
        "is not available to this site",
    );
    let odd = Odd::new(|_| {}, |entry, wan| replica_config("dc2", entry, wan, "master = \"nothing\""));
    odd.is_refused(
        "it asks for the master \"nothing\", which is not offered here",
        "is not available to this site",
        "is not available to this site",
    );
}

#[test]
fn the_dialler_refuses_another_site_than_the_configured_one() {
    let odd = Odd::new(
        |_| {},
        |entry, wan| {
            replica_config("dc2", entry, wan, "").replace("site = \"dc1\"\npeers", "site = \"dc9\"\npeers")
        },
    );
    odd.is_refused(
        "refuses our certificate, which names dc1",
        "the far gateway is not dc9: its certificate carries dc1",
        "is not dc9",
    );
}

#[test]
fn a_site_cannot_use_another_sites_name() {
    // A gateway would refuse to start with this config, so the certificate has both the wildcard
    // and the common name of the site that it claims to be.
    let lab = Lab::new();
    let ca = Ca::new("test CA");
    ca.folder(&lab.path().join("certs/dc1"), &Leaf::good("dc1"));
    ca.folder(&lab.path().join("other"), &Leaf::good("*.dc2.example"));
    let (code, _, err) = crate::support::replgate(lab.path(), &["check", "--offline", "-c", "none.toml"]);
    assert!(code == 2 && err.contains("none.toml"), "{err}");
    let config = lab.path().join("odd.toml");
    let text = other_files(free_port(), 1).replace("site = \"dc2\"", "site = \"gw.dc2.example\"");
    std::fs::write(&config, text).expect("the test's folder is writable");
    let (code, _, err) = crate::support::replgate(lab.path(), &["run", "-c", "odd.toml"]);
    assert!(code == 1 && err.contains("not the site gw.dc2.example"), "{err}");
}

#[test]
fn a_certificate_for_one_role_only_gets_its_own_message() {
    for (usage, missing) in [
        (ExtendedKeyUsagePurpose::ClientAuth, "serverAuth"),
        (ExtendedKeyUsagePurpose::ServerAuth, "clientAuth"),
    ] {
        let lab = Lab::new();
        own_ca(&lab, &Leaf { usage: vec![usage], ..Leaf::good("dc2") });
        std::fs::write(lab.path().join("odd.toml"), other_files(free_port(), 1))
            .expect("the test's folder is writable");
        let (code, _, err) = crate::support::replgate(lab.path(), &["run", "-c", "odd.toml"]);
        assert!(code == 1 && err.contains(&format!("lacks {missing}")), "{err}");
    }
    // A peer without clientAuth gets no link either.
    let lab = Lab::new();
    own_ca(&lab, &Leaf { usage: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Leaf::good("dc2") });
    let pair = lab.pair(1);
    dial_with_openssl(&lab, pair.wan, &["-cert", "other/tls.crt", "-key", "other/tls.key"]);
    pair.first.wait_kind("certificate");
}

#[test]
fn old_tls_no_certificate_and_no_protocol_are_refused() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let dial = |arguments: &[&str]| {
        let output = std::process::Command::new("timeout")
            .args([
                "10",
                "openssl",
                "s_client",
                "-connect",
                &format!("127.0.0.1:{}", pair.wan),
                "-CAfile",
                "certs/dc1/ca.crt",
                "-ign_eof",
            ])
            .args(arguments)
            .current_dir(lab.path())
            .stdin(std::process::Stdio::piped())
            .output()
            .expect("openssl runs");
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let own = ["-cert", "certs/dc2/tls.crt", "-key", "certs/dc2/tls.key"];
    let said = dial(&[&["-tls1_2", "-alpn", "replgate/1"], &own[..]].concat());
    assert!(said.contains("alert protocol version"), "{said}");
    pair.first.wait_log("the far side does not speak TLS 1.3");
    dial(&["-tls1_3", "-alpn", "replgate/1"]);
    pair.first.wait_log("the far side showed no certificate");
    dial(&[&["-tls1_3"], &own[..]].concat());
    pair.first.wait_log("the far side does not offer the protocol replgate/1");
    let said = dial(&[&["-tls1_3", "-alpn", "h2"], &own[..]].concat());
    assert!(said.contains("no application protocol"), "{said}");
    // With everything right TLS is established, without a ticket for session resumption.
    let said = dial(&[&["-tls1_3", "-alpn", "replgate/1"], &own[..]].concat());
    assert!(
        said.contains("ALPN protocol: replgate/1") && !said.contains("Post-Handshake New Session Ticket"),
        "{said}"
    );
}

#[test]
fn a_far_redis_that_is_down_is_reported_and_works_again_without_a_restart() {
    let lab = Lab::new();
    let mut alpha = lab.redis("alpha");
    alpha.ask(&["SET", "key", "value"]);
    alpha.kill();
    let pair = lab.pair(alpha.port);
    let bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    pair.first.wait_kind("redis-down");
    pair.second.wait_kind("no-link");
    eventually("the replica's log says so", SOON, || bravo.log().contains("the master's Redis is down"));
    alpha.start_again();
    alpha.ask(&["SET", "key", "new"]);
    bravo.wait_equal(&alpha);
}

#[test]
fn a_client_outside_clients_is_not_served() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let pair = lab.pair_with(alpha.port, "", "clients = [\"10.1.2.3/32\"]");
    let mut client = crate::support::redis::Client::connect(pair.entry).expect("the gateway accepts");
    client.send(b"PING\r\n");
    assert_eq!(client.rest(SOON), (Vec::new(), true));
    pair.second.wait_kind("not-a-client");
    assert_eq!(pair.first.links(), 0);
}

#[test]
fn a_site_gets_no_more_links_than_its_limit() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let first = lab.gateway(
        "dc1",
        &(master_config("dc1", wan, &[("orders", alpha.port)], "") + "[limits]\nlinks_per_site = 3\n"),
    );
    let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let mut clients: Vec<_> =
        (0..5).map(|_| crate::support::redis::Client::connect(entry).expect("the gateway accepts")).collect();
    clients.iter_mut().for_each(|client| client.send(b"REPLCONF capa eof\r\n"));
    eventually("three links are up", SOON, || first.links() == 3);
    second.wait_log("too many links");
    assert_eq!(first.links(), 3);
    drop(clients);
    eventually("the links have ended", SOON, || first.links() == 0);
}
