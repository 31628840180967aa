//! The Debian package, on a Debian that systemd has booted, and the other files of a
//! release.

use std::path::Path;
use std::process::Command;

use crate::engine::{Engine, release, release_in, released, skips};
use crate::host::Host;
use crate::{eventually, holds, output, run};

/// Packs the package again with an earlier version number.
pub fn older(package: &Path, folder: &Path) {
    let tree = folder.join("tree");
    run(Command::new("dpkg-deb").arg("-R").args([package, &*tree]));
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a package has one");
    let version = format!("Version: {}-1\n", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version), "{text}");
    std::fs::write(&control, text.replace(&version, "Version: 0.0.9-1\n")).expect("it is writable");
    run(Command::new("dpkg-deb")
        .args(["-b", "-Znone", "--root-owner-group"])
        .args([&*tree, &*folder.join("older.deb")]));
}

#[test]
fn the_debian_package_installs_starts_upgrades_and_removes_as_an_operator_expects() {
    let Some(engine) = Engine::or_skip("the Debian package") else { return };
    engine.need_debian();
    let folder = tempfile::tempdir().expect("a folder");
    let package = released(".deb");
    older(&package, folder.path());
    let host = Host::boot(&engine, &[]);
    host.copy(&folder.path().join("older.deb"), "/root/older.deb");
    host.copy(&package, "/root/replgate.deb");

    // After installation there is a user, no running service, and a message with the next steps.
    let said = host.run("dpkg -i /root/older.deb");
    holds(&said, &["/etc/replgate/gateway.toml", "README.Debian"]).expect("it says what is next");
    holds(
        &host.run("getent passwd replgate; stat -c %U:%G:%a /etc/replgate"),
        &["replgate:x:", "root:replgate:750"],
    )
    .expect("a user and a folder for it");
    assert_eq!(host.output("systemctl is-active replgate").1.trim(), "inactive");
    assert!(!host.output("systemctl is-enabled replgate").0, "not before there is a config");
    holds(
        &host.run("ls /usr/share/doc/replgate /usr/share/man/man1; replgate --version"),
        &[
            "README.Debian",
            "THIRD-PARTY-LICENCES",
            "replgate-certs-init.1.gz",
            concat!("replgate ", env!("CARGO_PKG_VERSION")),
        ],
    )
    .expect("documents, man pages and the program");
    host.run("bash -c '. /usr/share/bash-completion/completions/replgate && complete -p replgate'");

    // Started without a config, it fails, logs why, and is not restarted for ever.
    assert!(!host.output("systemctl start replgate").0);
    eventually("the journal says what is missing", || {
        holds(
            &host.output("journalctl --no-pager -u replgate; systemctl show -p SubState replgate").1,
            &["/etc/replgate/gateway.toml", "SubState=failed"],
        )
    });

    // With certificates that the service may not read, it logs which user needs to read them.
    host.run(
        "cd /root && replgate certs init dc1 dc2 && cp -rp certs/dc1 /etc/replgate/certs/ && \
         cp /usr/share/doc/replgate/examples/dc1.toml /etc/replgate/gateway.toml",
    );
    assert!(!host.output("systemctl start replgate").0);
    eventually("the journal names the file and the user", || {
        holds(
            &host.run("journalctl --no-pager -u replgate"),
            &["tls.key: Permission denied", "readable by the user"],
        )
    });
    // Unlike a wrong config, files may come later, so it is started again.
    eventually("it is started again", || {
        let seen = host.output("systemctl show -p NRestarts -p SubState replgate").1;
        if seen.contains("NRestarts=0\n") { Err(seen) } else { Ok(()) }
    });

    // As README.Debian says, with both sites on this one host.
    host.run("cd /root && for site in dc1 dc2; do install -d -o replgate -g replgate -m 0700 /etc/replgate/certs/$site && \
            cp certs/$site/* /etc/replgate/certs/$site/ && chown replgate: /etc/replgate/certs/$site/*; done && \
        cp /usr/share/doc/replgate/examples/dc1.toml /etc/replgate/gateway.toml && \
        sed 's/gw.dc1.example/127.0.0.1/' /usr/share/doc/replgate/examples/dc2.toml > /etc/replgate/dc2.toml");
    host.run("redis-server --port 6379 --daemonize yes && redis-server --port 6380 --daemonize yes --replicaof 127.0.0.1 6390");
    host.run("systemctl enable --now replgate");
    // With Type=notify it listens once `start` returns. Root gets the status of the service's
    // gateway, and the answer of another user is not accepted.
    holds(&host.run("replgate status -c /etc/replgate/gateway.toml"), &["masters offered: orders"])
        .expect("it runs");
    host.run("chown daemon /etc/replgate/certs/dc1/tls.key");
    let (asked, said) = host.output("replgate status -c /etc/replgate/gateway.toml");
    assert!(!asked && said.contains("answers in place of the gateway"), "{said}");
    host.run("chown replgate /etc/replgate/certs/dc1/tls.key");
    host.run("systemd-run -q --unit far --uid replgate replgate run -c /etc/replgate/dc2.toml");
    let in_sync = |what: &str| {
        eventually(what, || {
            let seen = host.output("redis-cli -p 6379 SET at \"$(date +%s%N)\"; sleep 0.1; redis-cli -p 6379 GET at; redis-cli -p 6380 GET at; redis-cli -p 6380 INFO replication").1;
            let lines: Vec<&str> = seen.lines().map(str::trim).collect();
            if lines.len() > 3 && lines[1] == lines[2] {
                holds(&seen, &["master_link_status:up"])
            } else {
                Err(seen)
            }
        });
    };
    in_sync("replication through the service");
    // The user is read from `status`: the files in /proc belong to root, since core dumps are off.
    holds(&host.run("id -nu $(sed -n 's/^Uid:[[:space:]]*\\([0-9]*\\).*/\\1/p' /proc/$(systemctl show -p MainPID --value replgate)/status); systemctl show -p CapabilityBoundingSet -p NoNewPrivileges -p ProtectSystem -p LimitCORE replgate"),
        &["replgate", "NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0"]).expect("the unit's limits are in force");

    host.run("systemctl reload replgate");
    eventually("the certificates are read again", || {
        holds(&host.run("journalctl --no-pager -u replgate"), &["certificates read again"])
    });

    // After a kill, systemd starts it again. After an upgrade, it runs the new program.
    let pid = || host.run("systemctl show -p MainPID --value replgate").trim().to_owned();
    let first = pid();
    host.run(&format!("kill -KILL {first}"));
    eventually("it is started again", || {
        let seen = host.output("systemctl is-active replgate").1;
        if seen.trim() == "active" && pid() != first { Ok(()) } else { Err(seen) }
    });
    in_sync("replication after a kill");
    let second = pid();
    host.run("dpkg -i /root/replgate.deb");
    assert_ne!(pid(), second, "an upgrade restarts what runs");
    holds(
        &host.run("dpkg-query -W replgate; systemctl is-active replgate; systemctl is-enabled replgate"),
        &[env!("CARGO_PKG_VERSION"), "active", "enabled"],
    )
    .expect("still enabled, and up");
    in_sync("replication after an upgrade");

    // Removing stops it and deletes the program. Even purging keeps the operator's keys.
    let last = pid();
    host.run(&format!("test -e /proc/{last} && dpkg -r replgate && test ! -e /proc/{last}"));
    host.run("test ! -e /usr/bin/replgate && test -e /etc/replgate/gateway.toml");
    host.run(
        "dpkg -P replgate && test -e /etc/replgate/certs/dc1/tls.key && test -e /etc/replgate/gateway.toml",
    );
    assert!(!host.output("systemctl cat replgate").0, "the unit is gone");
}

#[test]
fn a_release_is_self_contained_and_says_what_is_in_it() {
    if skips("the release's files") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let unpacked = release_in(folder.path());
    // The program needs no interpreter and no library.
    let headers = run(Command::new("readelf").arg("-ld").arg(unpacked.join("replgate")));
    assert!(!headers.contains("INTERP") && !headers.contains("NEEDED"), "{headers}");
    // It runs and resolves names in a root folder without any other program.
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("etc")).expect("the folder is writable");
    std::fs::copy(unpacked.join("replgate"), root.join("replgate")).expect("the folder is writable");
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 somewhere.example\n").expect("the folder is writable");
    let inspected = output(Command::new("chroot").arg(&root).args([
        "/replgate",
        "certs",
        "inspect",
        "somewhere.example:1",
    ]));
    let said = String::from_utf8_lossy(&inspected.stderr).into_owned();
    assert!(!inspected.status.success() && said.contains("refused"), "it looked the name up: {said}");
    for file in [
        "THIRD-PARTY-LICENCES",
        "replgate.service",
        "replgate-renew.service",
        "replgate-renew.timer",
        "man/replgate-run.1",
        "completions/_replgate",
        "examples/dc1.toml",
    ] {
        assert!(unpacked.join(file).exists(), "{file}");
    }
    let list = std::fs::read_to_string(released(".cdx.json")).expect("it was just made");
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let names: Vec<&str> = list["components"]
        .as_array()
        .expect("components")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    for name in ["tokio", "rustls", "aws-lc-sys", "clap"] {
        assert!(names.contains(&name), "{name} is linked in, but not listed");
    }
    assert!(!names.contains(&"proptest"), "a tool of the tests is listed as part of the product");
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(release()));
}
