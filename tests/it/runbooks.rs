//! The runbooks for certificates: every command runs, in the order of the document, on the files of
//! two gateways that replicate.
//!
//! A folder stands in for each host. `ssh` and `scp` reach those folders, `systemctl` signals the
//! gateway of one, or runs what the shipped unit runs. Everything else is real.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::documents::{Terminal, follow};
use crate::support::gateway::{replica_block, tls_in};
use crate::support::redis::{Redis, Version};
use crate::support::{SOON, eventually, free_port, replgate_ok};

const PAGE: &str = "docs/certificates.md";

/// `ssh root@HOST COMMAND`: the command runs in the host's folder, with that host's paths.
const SSH: &str = r#"#!/bin/bash
set -eu
HOST=${1#root@}
shift
export HOST
here=$HERE/hosts/$HOST
export REPLGATE_CONFIG=$here/etc/replgate/gateway.toml
cd "$here"
# What means another thing at each host.
[ ! -f values ] || . ./values
command="$*"
exec bash -c "${command//$HERE\/hosts\/local/$here}"
"#;

/// `scp -rp FOLDER root@HOST:FOLDER`
const SCP: &str = r#"#!/bin/bash
set -eu
[ "$1" = -rp ] && [ $# = 3 ]
to=${3#root@}
host=${to%%:*} path=${to#*:}
exec cp -rp "$2" "${path/hosts\/local/hosts\/$host}"
"#;

/// `systemctl`, as far as the runbooks use it. A reload returns once the gateway has read its files,
/// and its links have moved to its certificate.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -eu
unit() { sed -n "s/^$1=//p" "$PACKAGING/replgate-renew.$2"; }
case "$*" in
"reload replgate")
    cd "$HERE/hosts/$HOST"
    before=$(grep -c 'certificates read again' log || true)
    kill -HUP "$(cat pid)"
    for _ in {1..400}; do
        [ "$(grep -c 'certificates read again' log || true)" -gt "$before" ] &&
            ! replgate status -c etc/replgate/gateway.toml | grep -q 'moving to another certificate' && exit 0
        sleep 0.05
    done
    exit 1;;
"start replgate")
    cd "$HERE/hosts/$HOST"
    touch log
    before=$(grep -c 'gateway up' log || true)
    replgate run >> log 2>&1 &
    echo $! > pid
    for _ in {1..400}; do
        [ "$(grep -c 'gateway up' log || true)" -gt "$before" ] && exit 0
        kill -0 "$(cat pid)" || exit 1
        sleep 0.05
    done
    exit 1;;
"stop replgate")
    cd "$HERE/hosts/$HOST"
    kill "$(cat pid)"
    for _ in {1..400}; do kill -0 "$(cat pid)" || exit 0; sleep 0.05; done
    exit 1;;
"start replgate-renew")
    environment=$(unit EnvironmentFile service)
    command=$(unit ExecStart service)
    set -a
    . "$HERE/hosts/local${environment#-}"
    command=${command//\/var\/lib/$HERE/hosts/local/var/lib}
    exec ${command#/usr/bin/} > "$HERE/journal" 2>&1;;
"enable --now replgate-renew.timer")
    [ "$(unit WantedBy timer)" = timers.target ];;
*)
    exit 1;;
esac
"#;

/// `journalctl -u replgate [-n LINES]`
const JOURNALCTL: &str = r#"#!/bin/bash
set -eu
[ "$1 $2" = "-u replgate" ]
exec tail -n "${4:-1000}" "$HERE/hosts/$HOST/log"
"#;

/// `redis-cli`, at the Redis of the host unless a port or another host is named.
const REDIS_CLI: &str = r#"#!/bin/bash
set -eu
cli=$(PATH=${PATH#*:} command -v redis-cli)
[ "$1" = -p ] && exec "$cli" "$@"
[ "$1" = -h ] && HOST=$2 && shift 2
exec "$cli" -p "$(cat "$HERE/hosts/$HOST/redis.port")" "$@"
"#;

/// `chown` to the user of the unit, whom a test cannot have.
const CHOWN: &str = "#!/bin/sh\n[ \"$1 $2\" = '-R replgate-ca:' ] && [ -d \"$3\" ]\n";

/// Writes the programs into a terminal's folder that stand in for others. Returns what writes a file.
pub fn stand_in(here: &Path) -> fn(&Path, &str) {
    let write = |path: &Path, text: &str| {
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        std::fs::write(path, text).expect("the folder is writable");
    };
    for (name, text) in [
        ("ssh", SSH),
        ("scp", SCP),
        ("systemctl", SYSTEMCTL),
        ("journalctl", JOURNALCTL),
        ("redis-cli", REDIS_CLI),
        ("chown", CHOWN),
    ] {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
        let (first, rest) = text.split_once('\n').expect("a script");
        let path = here.join("bin").join(name);
        let places = format!("HERE={}\nPACKAGING={}", here.display(), packaging.display());
        write(&path, &format!("{first}\n{places}\n{rest}"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    write
}

/// Two sites that replicate, and the machine with the CA, where the runbooks' commands run.
pub struct Sites {
    pub terminal: Terminal,
    pub alpha: Redis,
    pub bravo: Redis,
    /// The port on which dc1 listens for other sites.
    pub wan: u16,
    /// The port on which dc2 listens for replicas.
    pub entry: u16,
}

impl Sites {
    pub fn new() -> Self {
        let terminal =
            Terminal::below("hosts/local", &["/etc/replgate", "/run/replgate", "/var/lib/replgate-ca"]);
        let here = terminal.folder.path().to_owned();
        let write = stand_in(&here);
        replgate_ok(&here, &["certs", "init", "dc1", "dc2"]);
        for folder in ["local/etc/replgate", "local/var/lib"] {
            std::fs::create_dir_all(here.join("hosts").join(folder)).expect("a folder");
        }
        let alpha = Redis::start(Version::System, &here, "alpha", &[]);
        let bravo = Redis::start(Version::System, &here, "bravo", &[]);
        let (wan, entry) = (free_port(), free_port());
        for (site, rest) in [
            (
                "dc1",
                format!(
                    "[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:{}\"\nallow = [\"dc2\"]\n",
                    alpha.port
                ),
            ),
            ("dc2", replica_block("orders", entry, wan, "")),
        ] {
            let place = here.join("hosts").join(site);
            let config = tls_in(site, &format!("certs/{site}")) + &rest;
            write(&place.join("etc/replgate/gateway.toml"), &config);
            let redis = if site == "dc1" { &alpha } else { &bravo };
            write(&place.join("redis.port"), &redis.port.to_string());
            let started = terminal.execute(&format!(
                "mkdir -p hosts/{site}/etc/replgate/certs && cp -rp certs/{site} hosts/{site}/etc/replgate/certs/
                cd hosts/{site}; mkdir -p run/replgate
                RUNTIME_DIRECTORY=$PWD/run/replgate replgate run -c $PWD/etc/replgate/gateway.toml > log 2>&1 & echo $! > pid"
            ));
            assert!(started.status.success(), "{started:?}");
            eventually("the gateway is up", SOON, || {
                std::fs::read_to_string(place.join("log")).is_ok_and(|log| log.contains("gateway up"))
            });
        }
        bravo.replicaof(entry);
        bravo.wait_equal(&alpha);
        let sites = Self { terminal, alpha, bravo, wan, entry };
        sites.read("## Bring new files to the hosts");
        sites
    }

    /// Runs the commands of a section of the document.
    #[track_caller]
    fn read(&self, heading: &str) {
        follow(&self.terminal, PAGE, Some(heading));
    }

    /// Runs a script in the folder of the machine with the CA.
    #[track_caller]
    pub fn sh(&self, script: &str) {
        let output = self.terminal.execute(script);
        assert!(output.status.success(), "{script}\n{output:?}");
    }

    /// New writes arrive, and there was no sync but the first.
    #[track_caller]
    fn replicate_without_a_sync(&self) {
        self.replicate_without_a_full_sync();
        assert_eq!(self.alpha.sync_partial_ok(), 0);
    }

    /// New writes arrive, and there was no full sync but the first.
    #[track_caller]
    fn replicate_without_a_full_sync(&self) {
        self.alpha.ask(&["INCR", "after"]);
        self.bravo.wait_equal(&self.alpha);
        assert_eq!(self.alpha.sync_full(), 1);
    }

    /// Shows dc1 the certificate in a folder, which it must refuse for this reason, in the log and to
    /// the other side.
    #[track_caller]
    fn is_refused(&self, folder: &str, kind: &str) {
        let alert = if kind == "revoked" { "alert certificate revoked" } else { "alert unknown ca" };
        self.sh(&format!(
            "timeout 10 openssl s_client -tls1_3 -ign_eof -alpn replgate/1 -connect 127.0.0.1:{} -cert {folder}/tls.crt -key {folder}/tls.key < /dev/null > said 2>&1 || true",
            self.wan
        ));
        let said = std::fs::read_to_string(self.terminal.folder.path().join("said")).expect("it was said");
        assert!(said.contains(alert), "{said}");
        let log = self.terminal.folder.path().join("hosts/dc1/log");
        let refused =
            || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(&format!("kind=\"{kind}\"")));
        eventually(&format!("dc1 refuses {folder} as {kind}"), SOON, refused);
    }
}

#[test]
fn the_runbook_of_the_renewal_works_and_its_unit_delivers_what_was_renewed() {
    let sites = Sites::new();
    sites.read("## Renew from a timer");
    sites.replicate_without_a_sync();
    // Something is due to be delivered; the unit does it.
    let ca = "hosts/local/var/lib/replgate-ca/certs";
    sites.sh(&format!("replgate certs renew dc1 --dir {ca}"));
    sites.sh(&format!("! cmp -s {ca}/dc1/tls.crt hosts/dc1/etc/replgate/certs/dc1/tls.crt"));
    sites.sh("systemctl start replgate-renew || { cat journal; exit 1; }");
    sites.sh(&format!("cmp {ca}/dc1/tls.crt hosts/dc1/etc/replgate/certs/dc1/tls.crt && grep 'dc1: running the hook' journal"));
    sites.sh("systemctl start replgate-renew && test ! -s journal");
    sites.replicate_without_a_sync();
}

#[test]
fn the_runbook_of_a_rollover_works_without_a_sync() {
    let sites = Sites::new();
    sites.sh("cp -rp certs/dc2 stolen");
    sites.read("## Roll over the CA");
    sites.replicate_without_a_sync();
    sites.is_refused("stolen", "unknown-ca");
}

#[test]
fn the_runbook_of_a_stolen_site_key_shuts_the_thief_out_and_not_the_site() {
    let sites = Sites::new();
    sites.sh("cp -rp certs/dc2 stolen");
    sites.read("## A stolen site key");
    sites.replicate_without_a_sync();
    sites.is_refused("stolen", "revoked");
}

#[test]
fn the_runbook_of_a_stolen_ca_key_shuts_out_what_the_thief_signs() {
    let sites = Sites::new();
    // The thief signs a certificate for dc2, with a key of his own.
    sites.sh("cp -rp certs thiefs && replgate certs issue dc2 --force --dir thiefs");
    sites.read("## A stolen CA key");
    sites.replicate_without_a_full_sync();
    sites.is_refused("thiefs/dc2", "unknown-ca");
}
