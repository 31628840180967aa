//! A gateway that has locked itself in: what goes on working, and what needs a restart.

use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::gateway::{Gateway, Lab, master_config, replica_block, tls_in};
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate_ok, run};

const READ: &str = "config and certificates read again";

/// A gateway whose files lie in folders of their own, below a folder that it does not know.
struct Apart {
    lab: Lab,
    gateway: Gateway,
}

impl Apart {
    /// The config is in `conf`, and includes `conf.d`; the TLS files are in `certs/dc2`.
    fn new(more: &str) -> Self {
        let lab = Lab::new();
        std::fs::create_dir_all(lab.path().join("conf/conf.d")).expect("the lab is writable");
        let config = lab.path().join("conf/gateway.toml");
        std::fs::write(&config, Self::text("../certs/dc2", more)).expect("the lab is writable");
        let gateway = Gateway::start(&config, "dc2");
        gateway.wait_ready();
        Self { lab, gateway }
    }

    fn text(folder: &str, more: &str) -> String {
        let include = "include = [\"conf.d/*.toml\", \"conf.d/*/*.toml\"]\n";
        format!("{include}{more}{}{}", tls_in("dc2", folder), replica_block("orders", free_port(), 1, ""))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.path().join(name)
    }

    /// Whether the kernel has locked it in. On a kernel without Landlock there is nothing to test.
    fn is_locked_in(&self) -> bool {
        let locked = self.gateway.log().contains(" locked in: reads ");
        assert!(
            locked || std::env::var_os("CI").is_none(),
            "Landlock is needed in CI: {}",
            self.gateway.log()
        );
        if !locked {
            eprintln!("skipped: {}", self.gateway.log());
        }
        locked
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).expect("the lab is writable");
        std::fs::rename(new, self.path(name)).expect("the lab is writable");
    }

    #[track_caller]
    fn reads_again(&self) {
        let before = self.gateway.log().matches(READ).count();
        self.gateway.process.signal("HUP");
        eventually("the files are read again", SOON, || self.gateway.log().matches(READ).count() > before);
    }

    /// Reads the files again, which is refused. Returns why.
    #[track_caller]
    fn refuses(&self, words: &str) -> String {
        let refusals = || {
            let log = self.gateway.log();
            log.lines().filter(|line| line.contains("reload refused")).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = refusals().len();
        self.gateway.process.signal("HUP");
        eventually("the reload is refused", SOON, || refusals().len() > before);
        let said = refusals()[before..].join("\n");
        assert!(said.contains(words), "{words}: {said}");
        said
    }
}

#[test]
fn renewed_files_and_new_ones_in_the_same_folders_are_read() {
    let apart = Apart::new("");
    if !apart.is_locked_in() {
        return;
    }
    let serial = || {
        let name = apart.path("certs/dc2/tls.crt").to_string_lossy().into_owned();
        replgate_ok(apart.lab.path(), &["certs", "inspect", &name])
    };
    let before = serial();
    replgate_ok(apart.lab.path(), &["certs", "renew"]);
    assert_ne!(serial(), before);
    apart.reads_again();
    apart.write("conf/conf.d/more.toml", &replica_block("more", free_port(), 1, ""));
    std::fs::create_dir(apart.path("conf/conf.d/sub")).expect("the lab is writable");
    apart.write("conf/conf.d/sub/carts.toml", &replica_block("carts", free_port(), 1, ""));
    apart.reads_again();
    assert_eq!(apart.gateway.status()["replicas"].to_string(), "[\"orders\",\"more\",\"carts\"]");
    apart.write("conf/gateway.toml", &Apart::text("../certs/dc2", "# another file\n"));
    apart.reads_again();
}

#[test]
fn a_mounted_secret_that_is_swapped_is_read() {
    let lab = Lab::new();
    let path = |name: &str| lab.path().join(name);
    // As Kubernetes mounts it: the names are links through a link to the present folder.
    let put = |version: &str| {
        let folder = path("mount").join(version);
        std::fs::create_dir_all(&folder).expect("the lab is writable");
        for file in ["ca.crt", "tls.crt", "tls.key", "crl.pem"] {
            std::fs::copy(path("certs/dc2").join(file), folder.join(file)).expect("the lab has certificates");
        }
        symlink(version, path("mount/..new")).expect("the lab is writable");
        std::fs::rename(path("mount/..new"), path("mount/..data")).expect("the lab is writable");
    };
    put("..1");
    for file in ["ca.crt", "tls.crt", "tls.key", "crl.pem"] {
        symlink(Path::new("..data").join(file), path("mount").join(file)).expect("the lab is writable");
    }
    std::fs::create_dir(path("conf")).expect("the lab is writable");
    let config = path("conf/gateway.toml");
    let text = tls_in("dc2", "../mount") + &replica_block("orders", free_port(), 1, "");
    std::fs::write(&config, text).expect("the lab is writable");
    let gateway = Gateway::start(&config, "dc2");
    gateway.wait_ready();
    let until = || gateway.status()["certificate_expires"].as_u64();
    let before = until();
    assert!(before.is_some());
    replgate_ok(lab.path(), &["certs", "renew", "--days", "30"]);
    put("..2");
    std::fs::remove_dir_all(path("mount/..1")).expect("the lab is writable");
    gateway.process.signal("HUP");
    gateway.wait_log(READ);
    assert_ne!(until(), before);
}

#[test]
fn a_file_in_another_folder_is_refused_by_name_until_a_restart() {
    let mut apart = Apart::new("");
    if !apart.is_locked_in() {
        return;
    }
    let elsewhere = apart.path("elsewhere");
    std::fs::create_dir(&elsewhere).expect("the lab is writable");
    let folder = elsewhere.canonicalize().expect("it is there").display().to_string();
    let needs_restart = |said: String| {
        assert!(said.contains("needs a restart") && !said.contains("denied"), "{said}");
        assert!(said.contains(&format!("its folder {folder} ")), "{said}");
    };
    // An included file, by name, by a pattern, and by a link among those that are included already.
    let block = replica_block("more", free_port(), 1, "");
    std::fs::write(elsewhere.join("more.toml"), &block).expect("the lab is writable");
    let text = Apart::text("../certs/dc2", "");
    for pattern in ["../elsewhere/more.toml", "../elsewhere/*.toml"] {
        apart.write("conf/gateway.toml", &text.replace("conf.d/*.toml", pattern));
        needs_restart(apart.refuses("include: "));
    }
    apart.write("conf/gateway.toml", &text);
    // The kernel itself refuses to list a folder that a link leads to.
    symlink(&elsewhere, apart.path("conf/conf.d/link")).expect("the lab is writable");
    needs_restart(apart.refuses("conf.d/link cannot be read"));
    std::fs::remove_file(apart.path("conf/conf.d/link")).expect("the lab is writable");
    apart.reads_again();
    // TLS files, and a password.
    for file in ["ca.crt", "tls.crt", "tls.key", "crl.pem"] {
        std::fs::copy(apart.path("certs/dc2").join(file), elsewhere.join(file)).expect("the files are there");
    }
    std::fs::write(elsewhere.join("local.pw"), "secret\n").expect("the lab is writable");
    apart.write("conf/gateway.toml", &(text.clone() + "password_file = \"../elsewhere/local.pw\"\n"));
    needs_restart(apart.refuses("local.pw"));
    apart.write("conf/gateway.toml", &Apart::text("../elsewhere", ""));
    needs_restart(apart.refuses("tls.key"));
    assert!(apart.gateway.process.is_running());
    apart.gateway.stop();
    apart.gateway.start_again();
    apart.reads_again();
    // A folder that takes the place of another is another one.
    std::fs::rename(&elsewhere, apart.path("earlier")).expect("the lab is writable");
    let copied = run(Command::new("cp").args(["-r", "earlier", "elsewhere"]).current_dir(apart.lab.path()));
    assert!(copied.status.success());
    needs_restart(apart.refuses("tls.key"));
}

#[test]
fn the_switch_turns_it_off_and_says_so_and_needs_a_restart() {
    let mut apart = Apart::new("sandbox = false\n");
    assert_eq!(apart.gateway.lines("WARN", "not locked in: the config has sandbox = false"), 1);
    std::fs::rename(apart.path("certs"), apart.path("moved")).expect("the lab is writable");
    apart.write("conf/gateway.toml", &Apart::text("../moved/dc2", "sandbox = false\n"));
    apart.reads_again();
    apart.write("conf/gateway.toml", &Apart::text("../moved/dc2", ""));
    apart.refuses("a change of `sandbox` needs a restart");
    apart.gateway.stop();
    apart.gateway.start_again();
    apart.is_locked_in();
}

#[test]
fn a_key_that_systemd_shows_to_this_service_alone_is_no_reason_for_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let shown = lab.path().join("shown");
    std::fs::create_dir(&shown).expect("the lab is writable");
    std::fs::copy(lab.path().join("certs/dc2/tls.key"), shown.join("tls.key")).expect("the lab has a key");
    // An access list for the service's user looks like this.
    std::fs::set_permissions(shown.join("tls.key"), std::fs::Permissions::from_mode(0o440))
        .expect("its owner");
    let key = shown.join("tls.key").display().to_string();
    let text = tls_in("dc2", "certs/dc2").replace("certs/dc2/tls.key", &key);
    let config = lab.path().join("dc2.toml");
    std::fs::write(&config, text + &replica_block("orders", free_port(), 1, ""))
        .expect("the lab is writable");
    for (folder, warnings) in [(shown.as_path(), 0), (lab.path().join("other").as_path(), 1)] {
        let mut command = Command::new(REPLGATE);
        command.args(["run", "-c"]).arg(&config).env("NO_COLOR", "1").env("CREDENTIALS_DIRECTORY", folder);
        let mut gateway = Gateway::start_by(&config, "dc2", &mut command);
        gateway.wait_ready();
        assert_eq!(gateway.lines("WARN", "lets others read the private key"), warnings, "{}", gateway.log());
        gateway.stop();
        std::fs::remove_file(config.with_extension("log")).expect("there is a log");
    }
}

/// Answers questions for IPv4 addresses with 127.0.0.1, on port 53 of an address.
fn name_server(address: &str) -> Option<()> {
    let socket = UdpSocket::bind((address, 53)).ok()?;
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            let question = &packet[12..length];
            let name = question.iter().position(|byte| *byte == 0).expect("a name");
            let (question, is_ipv4) = (&question[..name + 5], question[name + 2] == 1);
            let mut answer =
                [&packet[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0], question].concat();
            if is_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, client);
        }
    });
    Some(())
}

#[test]
fn names_are_looked_up_in_what_has_replaced_resolv_conf_and_hosts() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let path = |name: &str| lab.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::write(path("new"), text).expect("the lab is writable");
        std::fs::rename(path("new"), path(name)).expect("the lab is writable");
    };
    // An /etc and a /run/systemd/resolve of the gateway's own, in which files can be replaced.
    let (etc, run) = (path("etc"), path("run"));
    for folder in [&etc, &run.join("systemd/resolve"), &path("conf")] {
        std::fs::create_dir_all(folder).expect("the lab is writable");
    }
    write("etc/nsswitch.conf", "hosts: files dns\n");
    write("etc/hosts", "127.0.0.1 localhost\n");
    symlink("/run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).expect("the lab is writable");
    let server = |address: &str| format!("nameserver {address}\noptions timeout:1 attempts:1\n");
    write("run/systemd/resolve/stub-resolv.conf", &server("127.0.0.78"));
    let (wan, by_hosts, by_dns) = (free_port(), free_port(), free_port());
    let _first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let of = |name: &str, entry, host: &str| {
        let block = replica_block(name, entry, wan, "master = \"orders\"");
        block
            .replace("127.0.0.1:", "@")
            .replacen("listen = \"@", "listen = \"127.0.0.1:", 1)
            .replace('@', &format!("{host}:"))
    };
    let config = path("conf/dc2.toml");
    let text =
        tls_in("dc2", "../certs/dc2") + &of("hosts", by_hosts, "far.test") + &of("dns", by_dns, "dns.test");
    std::fs::write(&config, text).expect("the lab is writable");
    let mut command = Command::new("unshare");
    let script = format!(
        "mount --bind {} /etc && mount --bind {} /run && exec {REPLGATE} run --log-level debug -c {}",
        etc.display(),
        run.display(),
        config.display()
    );
    command.args(["-m", "sh", "-c", &script]).env("NO_COLOR", "1");
    let mut second = Gateway::start_by(&config, "dc2", &mut command);
    eventually("the gateway is up, or mount namespaces are not available", SOON, || {
        second.log().contains("gateway up") || !second.process.is_running()
    });
    if !second.process.is_running() || name_server("127.0.0.77").is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "namespaces and port 53 are needed in CI: {}",
            second.log()
        );
        eprintln!("skipped: {}", second.log());
        return;
    }
    let [bravo, charli] = ["bravo", "charli"].map(|name| lab.redis(name));
    bravo.replicaof(by_hosts);
    charli.replicaof(by_dns);
    second.wait_log("far.test");
    second.wait_log("dns.test");
    assert_eq!(alpha.info("connected_slaves"), "0");
    write("etc/hosts", "127.0.0.1 localhost far.test\n");
    bravo.wait_equal(&alpha);
    write("run/systemd/resolve/stub-resolv.conf", &server("127.0.0.77"));
    charli.wait_equal(&alpha);
    assert!(
        second.log().contains(" locked in: reads ") || std::env::var_os("CI").is_none(),
        "{}",
        second.log()
    );
}
