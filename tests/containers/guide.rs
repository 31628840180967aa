//! The guide, docs/operations.md: every command of the life of a pair, in the order of the document.
//!
//! dc1 and dc2 are Debians that systemd has booted, with a Redis each. The machine with the CA is a
//! folder here; its `ssh` and `scp` reach the two by `docker exec`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::engine::{Engine, release, released};
use crate::host::Host;
use crate::package::older;
use crate::transcript::{ON_BOOTED_HOSTS, Step, steps};
use crate::{eventually, output, project, run};

const PAGE: &str = "docs/operations.md";

/// `ssh root@HOST COMMAND`
const SSH: &str = r#"#!/bin/bash
host=${1#root@}
shift
exec docker exec -i -w /root "$host" bash -c "$*"
"#;

/// `scp [-rp|-p] FILE… root@HOST:[FOLDER]`. As with scp, a file that is there already keeps its owner,
/// and a new one is root's.
const SCP: &str = r#"#!/bin/bash
set -eu -o pipefail
case $1 in -*) shift ;; esac
to=${!#}
host=${to#root@} folder=${to#*:}
for from in "${@:1:$#-1}"; do
    tar -C "$(dirname "$from")" -cf - "$(basename "$from")" |
        docker exec -i "${host%%:*}" tar -C /root -C "${folder:-.}" --no-same-owner --overwrite -xf -
done
"#;

/// The three machines of the guide.
struct Machines<'a> {
    engine: &'a Engine,
    ca: tempfile::TempDir,
    dc1: Host<'a>,
    dc2: Host<'a>,
}

impl<'a> Machines<'a> {
    fn new(engine: &'a Engine) -> Self {
        let ca = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(ca.path().join("bin")).expect("the folder is writable");
        for (name, script) in [("ssh", SSH), ("scp", SCP)] {
            let path = ca.path().join("bin").join(name);
            std::fs::write(&path, script).expect("the folder is writable");
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is there");
        }
        run(engine.docker().args(["network", "create", "wan"]));
        let boot = |site: &str| {
            let alias = format!("gw.{site}.example");
            let host = Host::boot(
                engine,
                &["--name", site, "--hostname", site, "--network", "wan", "--network-alias", &alias],
            );
            host.run("redis-server /etc/redis/redis.conf --daemonize yes --repl-diskless-sync-delay 0");
            host
        };
        let (dc1, dc2) = (boot("dc1"), boot("dc2"));
        Self { engine, ca, dc1, dc2 }
    }

    /// Runs a command of the guide where it says.
    fn execute(&self, step: &Step) -> Output {
        match step.host.as_deref() {
            Some("ca") => {
                let bin = self.ca.path().join("bin").display().to_string();
                let path = std::env::var("PATH").unwrap_or_default();
                let mut command = self.engine.command("bash");
                command.args(["-c", &step.command.replace("/usr/local/bin", &bin)]);
                output(command.current_dir(self.ca.path()).env("PATH", format!("{bin}:{path}")))
            }
            Some(host @ ("dc1" | "dc2")) => {
                output(self.engine.docker().args(["exec", "-w", "/root", host, "bash", "-c", &step.command]))
            }
            other => panic!("{PAGE}:{}: a command of the guide names its host: {other:?}", step.line),
        }
    }

    /// Runs the commands of a section; each must succeed and print what is shown.
    fn follow(&self, heading: &str) {
        for step in steps(&project().join(PAGE), Some(heading)) {
            let attempt = || {
                let seen = self.execute(&step);
                if step.is_shown(&seen, str::to_owned) {
                    return Ok(());
                }
                let said = [seen.stdout, seen.stderr].concat();
                Err(format!("({}):\n{}", seen.status, String::from_utf8_lossy(&said)))
            };
            let what =
                format!("{PAGE}:{}: {}\nshown:\n{}\n", step.line, step.command, step.output.join("\n"));
            match step.only_asks() {
                true => eventually(&what, attempt),
                false => attempt().unwrap_or_else(|seen| panic!("{what}seen {seen}")),
            }
        }
    }

    /// Puts the files of a release where the machine with the CA has them.
    fn release(&self, package: &Path) {
        self.sh("rm -rf replgate* SHA256SUMS");
        run(Command::new("cp").args([package, &*released(".tar.gz"), self.ca.path()]));
        self.sh("sha256sum replgate* > SHA256SUMS");
    }

    fn sh(&self, script: &str) {
        run(Command::new("bash").args(["-c", script]).current_dir(self.ca.path()));
    }

    /// A write arrives, and the master counts this many full syncs.
    #[track_caller]
    fn replicates(&self, full_syncs: u32) {
        self.dc1.run("redis-cli INCR writes");
        eventually("the write arrives", || {
            let (a, b) = (
                self.dc1.run("redis-cli GET writes"),
                self.dc2.run("redis-cli GET writes; redis-cli INFO replication | grep link_status:up"),
            );
            if b.starts_with(a.trim()) && b.contains("up") { Ok(()) } else { Err(format!("{a}{b}")) }
        });
        let stats = self.dc1.run("redis-cli INFO stats");
        assert!(stats.contains(&format!("sync_full:{full_syncs}\r")), "{stats}");
    }
}

#[test]
fn the_guide_leads_from_nothing_to_a_pair_and_to_nothing_again() {
    let Some(engine) = Engine::or_skip("the guide") else { return };
    engine.need_debian();
    release();
    let machines = Machines::new(&engine);
    let folder = tempfile::tempdir().expect("a folder");
    older(&released(".deb"), folder.path());
    let earlier = folder.path().join("replgate_0.0.9-1_all.deb");
    std::fs::rename(folder.path().join("older.deb"), &earlier).expect("it was just made");
    machines.release(&earlier);
    for heading in ON_BOOTED_HOSTS {
        // What has happened before the section begins.
        match heading {
            "## Upgrade" => machines.release(&released(".deb")),
            "### The host of a gateway is lost" => {
                machines.dc1.run("systemctl disable --now replgate; dpkg -P replgate && rm -r /etc/replgate /var/lib/replgate && userdel replgate");
            }
            "### The machine with the CA is lost" => machines.sh("rm -r certs"),
            "### There is no backup of the CA" => machines.sh("rm -r certs ca-*.tar.gz"),
            _ => {}
        }
        machines.follow(heading);
        if !["## Install", "## Uninstall"].contains(&heading) {
            machines.replicates(1);
        }
    }
    for host in [&machines.dc1, &machines.dc2] {
        let left = host.run("find / -xdev -name '*replgate*' -not -path '/root/*' -not -path '/proc/*' -not -path '/sys/*'; getent passwd replgate replgate-ca || true");
        assert_eq!(left, "", "nothing is left");
    }
}
