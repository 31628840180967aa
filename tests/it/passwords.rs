//! Passwords. The master's password stays at the master's site, and a replica may have to
//! authenticate at its own gateway.

use std::os::unix::fs::PermissionsExt;

use crate::support::gateway::{Gateway, Lab, Pair};
use crate::support::redis::{ALL, Answer, Client, Redis, Version};
use crate::support::{SOON, eventually, replgate};

/// Writes a password file.
fn password(lab: &Lab, name: &str, text: &str) {
    let path = lab.path().join(name);
    std::fs::write(&path, text).expect("the test's folder is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("and its files");
}

fn silent_about(pair: &Pair, secrets: &[&str]) {
    for gateway in [&pair.first, &pair.second] {
        let log = gateway.log();
        let status = gateway.status().to_string();
        for secret in secrets {
            assert!(!log.contains(secret) && !status.contains(secret), "{secret}");
        }
    }
}

#[test]
fn a_replica_needs_no_password_where_the_masters_gateway_has_it() {
    let lab = Lab::new();
    password(&lab, "redis.pw", "master-secret\n");
    for version in ALL {
        let alpha = Redis::start(
            version,
            lab.path(),
            &format!("alpha-{version:?}"),
            &["--requirepass", "master-secret"],
        );
        alpha.fill();
        let pair = lab.pair_with(alpha.port, "auth = { password_file = \"redis.pw\" }", "");
        // No password, and a wrong one, which the gateway does not pass on.
        let bravo = Redis::start(version, lab.path(), &format!("bravo-{version:?}"), &[]);
        let charli =
            Redis::start(version, lab.path(), &format!("charli-{version:?}"), &["--masterauth", "guess"]);
        bravo.replicaof(pair.entry);
        charli.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        charli.wait_equal(&alpha);
        alpha.ask(&["SET", "late", "write"]);
        bravo.wait_equal(&alpha);
        charli.wait_equal(&alpha);
        silent_about(&pair, &["master-secret", "guess"]);
        let config = pair.first.config.to_string_lossy().into_owned();
        let (_, out, _) = replgate(lab.path(), &["check", "-c", &config]);
        assert!(out.contains("accepts the password of user default"), "{out}");
    }
}

#[test]
fn a_least_privileged_user_is_enough_and_missing_permissions_are_named() {
    let lab = Lab::new();
    password(&lab, "redis.pw", "least-secret");
    for version in ALL {
        let alpha =
            Redis::start(version, lab.path(), &format!("alpha-{version:?}"), &["--requirepass", "other"]);
        alpha.fill();
        alpha.ask(&["ACL", "SETUSER", "repl", "on", ">least-secret", "+ping", "+replconf"]);
        let auth = "auth = { username = \"repl\", password_file = \"redis.pw\" }";
        let pair = lab.pair_with(alpha.port, auth, "");
        let bravo = Redis::start(version, lab.path(), &format!("bravo-{version:?}"), &[]);
        bravo.replicaof(pair.entry);
        for gateway in [&pair.first, &pair.second] {
            gateway.wait_log("the master's user lacks rights: NOPERM");
            gateway.wait_log("grant them: ACL SETUSER <user> +psync (least: +ping +replconf +psync)");
        }
        alpha.ask(&["ACL", "SETUSER", "repl", "+psync"]);
        bravo.wait_equal(&alpha);
        // The permissions that `check` can test without a sync.
        alpha.ask(&["ACL", "SETUSER", "repl", "-replconf"]);
        let config = pair.first.config.to_string_lossy().into_owned();
        let (code, out, _) = replgate(lab.path(), &["check", "-c", &config]);
        assert!(code == 1 && out.contains("user repl lacks rights: ACL SETUSER repl +replconf"), "{out}");
        silent_about(&pair, &["least-secret"]);
    }
}

#[test]
fn a_wrong_password_is_logged_once_and_a_new_one_is_used_from_the_next_link_on() {
    let lab = Lab::new();
    password(&lab, "redis.pw", "old-secret");
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--requirepass", "new-secret"]);
    alpha.fill();
    let pair = lab.pair_with(alpha.port, "auth = { password_file = \"redis.pw\" }", "");
    let bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    pair.first.wait_log("Redis refuses the password in");
    let far = "the master's gateway cannot authenticate itself at its Redis; its log says why";
    pair.second.wait_log(far);
    eventually("the replica's log has the reason", SOON, || {
        bravo.log().contains("cannot authenticate itself")
    });
    let config = pair.first.config.to_string_lossy().into_owned();
    let (code, out, _) = replgate(lab.path(), &["check", "-c", &config]);
    assert!(
        code == 1 && out.contains("fail  master \"orders\"") && out.contains("refuses the password"),
        "{out}"
    );
    password(&lab, "redis.pw", "new-secret");
    bravo.wait_equal(&alpha);
    assert_eq!(pair.first.log().matches(" WARN link refused").count(), 1, "told once, not every second");
    silent_about(&pair, &["old-secret", "new-secret"]);
}

#[test]
fn a_master_that_requires_no_password_is_logged_and_served() {
    let lab = Lab::new();
    password(&lab, "redis.pw", "secret");
    let alpha = lab.redis("alpha");
    let pair = lab.pair_with(alpha.port, "auth = { password_file = \"redis.pw\" }", "");
    let bravo = Redis::start(Version::System, lab.path(), "bravo", &["--masterauth", "any"]);
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    pair.first.wait_kind("no-password-wanted");
    let config = pair.first.config.to_string_lossy().into_owned();
    let (_, out, _) = replgate(lab.path(), &["check", "-c", &config]);
    assert!(out.contains("warn  master \"orders\"") && out.contains("requires no password"), "{out}");
}

#[test]
fn a_replica_must_authenticate_if_its_gateway_requires_a_password() {
    let lab = Lab::new();
    password(&lab, "redis.pw", "master-secret");
    password(&lab, "local.pw", "local-secret\n");
    for version in ALL {
        let name = |who: &str| format!("{who}-{version:?}");
        let alpha = Redis::start(version, lab.path(), &name("alpha"), &["--requirepass", "master-secret"]);
        alpha.fill();
        let auth = "auth = { password_file = \"redis.pw\" }";
        let pair = lab.pair_with(alpha.port, auth, "password_file = \"local.pw\"");
        let wrong = Redis::start(version, lab.path(), &name("wrong"), &["--masterauth", "local-Secret"]);
        let none = Redis::start(version, lab.path(), &name("none"), &[]);
        wrong.replicaof(pair.entry);
        none.replicaof(pair.entry);
        pair.second.wait_kind("wrong-password");
        pair.second.wait_kind("no-password");
        eventually("both have the reason in their own logs", SOON, || {
            wrong.log().contains("WRONGPASS replgate dc2") && none.log().contains("NOAUTH replgate dc2")
        });
        // The gateway has dialled nothing for them.
        assert_eq!(pair.first.status()["counts"]["opened"], 0);
        let bravo = Redis::start(version, lab.path(), &name("bravo"), &["--masterauth", "local-secret"]);
        let user = ["--masteruser", "any", "--masterauth", "local-secret"];
        let charli = Redis::start(version, lab.path(), &name("charli"), &user);
        bravo.replicaof(pair.entry);
        charli.replicaof(pair.entry);
        bravo.wait_equal(&alpha);
        charli.wait_equal(&alpha);
        for (who, replica) in [("wrong", &wrong), ("none", &none)] {
            assert_eq!(replica.ask(&["DBSIZE"]), "0", "{who} got nothing");
        }
        silent_about(&pair, &["master-secret", "local-secret", "local-Secret"]);
    }
}

#[test]
fn a_client_without_the_password_gets_no_data_whatever_it_sends() {
    let lab = Lab::new();
    password(&lab, "local.pw", "local-secret");
    let alpha = lab.redis("alpha");
    let pair = lab.pair_with(alpha.port, "", "password_file = \"local.pw\"");
    for bytes in [
        &b"PSYNC ? -1\r\n"[..],
        b"AUTH\r\nPSYNC ? -1\r\n",
        b"AUTH local-secret x y\r\n",
        b"AUTH local-secre\r\n",
        b"AUTH local-secrett\r\n",
        b"PING\r\nPING\r\nSYNC\r\n",
        b"\x16\x03\x01\x00\x00",
        b"*2\r\n$4\r\nAUTH\r\n$99999999\r\n",
        &b"PING\r\n".repeat(40),
        &[b'\n'; 100_000],
    ] {
        let mut client = Client::connect(pair.entry).expect("the gateway accepts");
        client.send(bytes);
        let (rest, ended) = client.rest(SOON);
        assert!(ended, "{}", bytes[..bytes.len().min(40)].escape_ascii());
        assert!(!rest.windows(3).any(|part| part == b"+OK" || part == b"+PO"), "{}", rest.escape_ascii());
    }
    // After a refused command, the right password is still accepted, even in pieces.
    let mut client = Client::connect(pair.entry).expect("the gateway accepts");
    assert!(
        matches!(client.ask(&["PING"]), Answer::Error(error) if error.starts_with("NOAUTH replgate dc2"))
    );
    for byte in Client::encode(&["AUTH", "local-secret"]) {
        client.send(&[byte]);
    }
    assert_eq!(client.line().as_deref(), Some("+OK"));
    assert_eq!(client.ask(&["PING"]).text(), "PONG");
    assert_eq!(pair.first.status()["counts"]["opened"], 1);
}

#[test]
fn an_unusable_password_file_is_reported_at_start() {
    let lab = Lab::new();
    let config = lab.path().join("dc1.toml");
    let text = crate::support::gateway::master_config(
        "dc1",
        crate::support::free_port(),
        &[("orders", 6379)],
        "auth = { password_file = \"none.pw\" }",
    );
    std::fs::write(&config, text).expect("the test's folder is writable");
    let mut gateway = Gateway::start(&config, "dc1");
    assert_eq!(gateway.process.exit_code(SOON), Some(1));
    assert!(gateway.log().contains("none.pw") && gateway.log().contains("mode 0600"), "{}", gateway.log());
    // A file that other users can read causes a warning.
    password(&lab, "none.pw", "secret");
    std::fs::set_permissions(lab.path().join("none.pw"), std::fs::Permissions::from_mode(0o644))
        .expect("chmod");
    let gateway = Gateway::start(&config, "dc1");
    gateway.wait_ready();
    gateway.wait_log("can be read by every user of this host; chmod 600");
}

#[test]
fn the_gateways_hide_a_password_that_redis_repeats_in_an_error() {
    let lab = Lab::new();
    password(&lab, "redis.pw", "gateway-secret");
    // The error of such a Redis contains the arguments of the command.
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--rename-command", "AUTH", "other"]);
    let pair = lab.pair_with(alpha.port, "auth = { password_file = \"redis.pw\" }", "");
    let bravo = lab.redis("bravo");
    bravo.replicaof(pair.entry);
    pair.first.wait_log("Redis knows no AUTH: was it renamed");
    let config = pair.first.config.to_string_lossy().into_owned();
    let (_, out, _) = replgate(lab.path(), &["check", "-c", &config]);
    assert!(out.contains("Redis knows no AUTH") && !out.contains("gateway-secret"), "{out}");
    silent_about(&pair, &["gateway-secret"]);
    // The same for a password that the replica itself sends.
    let pair = lab.pair(alpha.port);
    let user = ["--masteruser", "someone", "--masterauth", "replica-secret"];
    let charli = Redis::start(Version::System, lab.path(), "charli", &user);
    charli.replicaof(pair.entry);
    for gateway in [&pair.first, &pair.second] {
        gateway.wait_log("the master refuses the replica's password (ERR)");
    }
    assert!(charli.log().contains("replica-secret"), "Redis itself does");
    silent_about(&pair, &["replica-secret", "someone"]);
}
