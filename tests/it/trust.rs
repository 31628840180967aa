//! What a gateway trusts: chains of certificates and the files in its config. Also, who may inspect
//! its process.

use std::fs::Permissions;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use rcgen::KeyUsagePurpose;

use crate::support::gateway::{Gateway, Lab, master_config, replica_block, replica_config, tls_in};
use crate::support::pki::{Ca, Leaf, SUB_SERIAL};
use crate::support::redis::{Client, Redis, Version};
use crate::support::{Process, REPLGATE, SOON, eventually, free_port, replgate, replgate_ok, run};

fn read(lab: &Lab, file: &str) -> String {
    std::fs::read_to_string(lab.path().join(file)).expect("the lab has it")
}

fn write(lab: &Lab, file: &str, text: &str) {
    std::fs::write(lab.path().join(file), text).expect("the lab is writable");
}

fn chmod(lab: &Lab, file: &str, mode: u32) {
    std::fs::set_permissions(lab.path().join(file), Permissions::from_mode(mode)).expect("the lab is ours");
}

/// Dials a gateway as a client with the certificates in a folder.
pub fn dial_with_openssl(lab: &Lab, wan: u16, folder: &str) {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-tls1_3", "-alpn", "replgate/1", "-connect", &format!("127.0.0.1:{wan}")]);
    let file = |name: &str| format!("{folder}/{name}");
    client.args(["-cert", &file("tls.crt"), "-cert_chain", &file("tls.crt"), "-key", &file("tls.key")]);
    run(client.current_dir(lab.path()).stdin(Stdio::null()));
}

/// Starts a server with the certificates in a folder.
fn serve_with_openssl(lab: &Lab, wan: u16, folder: &str) -> Process {
    let mut server = Command::new("openssl");
    server.args(["s_server", "-tls1_3", "-alpn", "replgate/1", "-accept", &format!("127.0.0.1:{wan}")]);
    let file = |name: &str| format!("{folder}/{name}");
    server.args(["-cert", &file("tls.crt"), "-cert_chain", &file("tls.crt"), "-key", &file("tls.key")]);
    let server = server.args(["-Verify", "5"]).current_dir(lab.path()).stdin(Stdio::piped());
    let server = Process::start("openssl", lab.path().join(format!("openssl-{wan}.log")), server);
    eventually("openssl listens", SOON, || server.log_text().contains("ACCEPT"));
    server
}

#[test]
fn an_invalid_chain_is_refused_by_both_ends_and_by_check() {
    let lab = Lab::new();
    let root = Ca::new("root");
    let sub = root.sub("sub");
    let mute = root.sub_for("mute", &[KeyUsagePurpose::CrlSign]);
    let sealed = vec![KeyUsagePurpose::KeyEncipherment];
    let long = (0..9).fold(root.sub("first"), |above, _| above.sub("next"));
    for (number, (by, key_usage, words)) in [
        (&sub, None, "the CA CN=sub that signed it has been revoked"),
        (&mute, None, "the CA CN=mute that signed it may not: its key usage lacks keyCertSign"),
        (&root, Some(sealed), "key usage lacks digitalSignature: a gateway signs its handshakes"),
        (&long, None, "certificates come after it, and at most 8 are accepted"),
    ]
    .into_iter()
    .enumerate()
    {
        let leaf = |site| Leaf {
            key_usage: key_usage.clone().unwrap_or(Leaf::good(site).key_usage),
            ..Leaf::good(site)
        };
        for site in ["dc1", "dc2"] {
            root.folder(&lab.path().join(format!("certs/{site}")), &Leaf::good(site));
            write(
                &lab,
                &format!("certs/{site}/crl.pem"),
                &root.list(if number == 0 { &[SUB_SERIAL] } else { &[] }),
            );
            by.folder(&lab.path().join(format!("far/{site}")), &leaf(site));
            std::fs::copy(
                lab.path().join(format!("certs/{site}/crl.pem")),
                lab.path().join(format!("far/{site}/crl.pem")),
            )
            .expect("a copy");
        }
        // The acceptor refuses the dialler.
        let wan = free_port();
        let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", 1)], ""));
        dial_with_openssl(&lab, wan, "far/dc2");
        first.wait_log(words);
        // And the dialler the acceptor.
        let (wan, entry) = (free_port(), free_port());
        let _server = serve_with_openssl(&lab, wan, "far/dc1");
        let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
        let _replica = Client::connect(entry).expect("the gateway accepts");
        second.wait_log(words);
        // A gateway with it would not start, and is told why.
        let text = tls_in("dc2", "far/dc2") + &replica_block("orders", entry, wan, "");
        write(&lab, "odd.toml", &text);
        let (code, out, _) = replgate(lab.path(), &["check", "--offline", "-c", "odd.toml"]);
        assert!(
            code == 1 && out.contains("fail  far/dc2/tls.crt: ") && out.contains(words),
            "{words}\n{out}"
        );
        let (code, _, err) = replgate(lab.path(), &["run", "-c", "odd.toml"]);
        assert!(code == 1 && err.contains(words), "{words}\n{err}");
        let (code, out, _) = replgate(lab.path(), &["certs", "verify", "--dir", "far", "dc2"]);
        assert!(code == 1 && out.contains(words), "{words}\n{out}");
    }
}

#[test]
fn sites_with_an_intermediate_replicate_until_it_is_revoked() {
    let lab = Lab::new();
    let root = Ca::new("root");
    let (mine, theirs) = (root.sub("one"), root.sub("two"));
    mine.folder(&lab.path().join("certs/dc1"), &Leaf::good("dc1"));
    theirs.folder(&lab.path().join("certs/dc2"), &Leaf::good("dc2"));
    // dc1 has the lists of the root and of its own intermediate CA; dc2 has none.
    write(&lab, "certs/dc1/crl.pem", &(root.list(&[]) + &mine.list(&[])));
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let text = replica_config("dc2", entry, wan, "").replace("crl = \"certs/dc2/crl.pem\"\n", "");
    let second = lab.gateway("dc2", &text);
    let bravo = lab.replica("bravo", entry, &alpha);
    assert!(second.log().contains("no revocation list for the CA CN=two (SHA-256 "), "{}", second.log());
    // The lists are joined as an operator might do it: without a newline at the end of the first,
    // and with a byte order mark.
    let (own, revoked) = (mine.list(&[]), Ca::list(&root, &[SUB_SERIAL + 1]));
    write(&lab, "certs/dc1/crl.pem", &(own.trim_end().to_owned() + "\u{feff}" + &revoked));
    first.process.signal("HUP");
    first.wait_event("certificates read again", &[]);
    write(&lab, "certs/dc1/crl.pem", &(root.list(&[SUB_SERIAL + 1]).trim_end().to_owned() + &own));
    first.process.signal("HUP");
    eventually("the lists are read again", SOON, || {
        first.log().matches("certificates read again").count() == 2
    });
    bravo.wait_equal(&alpha);
    // One of root's lists revokes the intermediates, both of the same serial number here:
    // dc1 would refuse to read that, since its own is one of them. So it gets another.
    root.folder(&lab.path().join("certs/dc1"), &Leaf::good("dc1"));
    write(&lab, "certs/dc1/crl.pem", root.list(&[SUB_SERIAL]).trim_end());
    first.process.signal("HUP");
    first.wait_log("the CA CN=two that signed it has been revoked");
    eventually("the link has ended", SOON, || first.links() == 0);
}

/// Runs the binary, which must exit soon. Returns its exit code and its output.
fn ends(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let log = lab.path().join("said.log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new(REPLGATE);
    command.args(arguments).current_dir(lab.path()).stdin(Stdio::null());
    let mut process = Process::start("replgate", log, &mut command);
    (process.exit_code(SOON), process.log_text())
}

#[test]
fn a_revocation_list_that_is_lost_in_its_file_is_a_fault_with_its_line() {
    let lab = Lab::new();
    replgate_ok(lab.path(), &["certs", "revoke", "dc2"]);
    let list = read(&lab, "certs/dc1/crl.pem");
    let lines = list.lines().count();
    write(&lab, "dc1.toml", &master_config("dc1", free_port(), &[("orders", 1)], ""));
    let damaged = list.replacen("-----BEGIN X509 CRL-----", "-----BEGIN X509-CRL-----", 1);
    for (text, line, words) in [
        (list.replace("X509 CRL", "CRL"), 1, "a CRL block, a kind that is not known here"),
        (
            format!("{list}{}", list.replace("X509 CRL", "CRL")),
            lines + 1,
            "a CRL block, a kind that is not known",
        ),
        (format!("{list}{damaged}"), lines + 1, "a BEGIN line that is damaged"),
        (format!("{list}{}", damaged.trim_start_matches('-')), lines + 2, "without its BEGIN line"),
        (format!("{list}{}", &list[..list.len() / 2]), lines + 1, "has no END line"),
        (
            list.clone() + &read(&lab, "certs/dc1/ca.crt"),
            lines + 1,
            "a certificate, where a certificate revocation list",
        ),
    ] {
        write(&lab, "certs/dc1/crl.pem", &text);
        let place = format!("certs/dc1/crl.pem:{line}: ");
        for (command, code) in
            [(&["check", "--offline"][..], 1), (&["run"], 1), (&["certs", "verify", "dc1"], 1)]
        {
            let config: &[&str] = if command[0] == "certs" { &[] } else { &["-c", "dc1.toml"] };
            let (ended, said) = ends(&lab, &[command, config].concat());
            assert_eq!(ended, Some(code), "{command:?}: {said}");
            assert!(said.contains(&place) && said.contains(words), "{place}{words}\n{said}");
        }
        let (ended, said) = ends(&lab, &["certs", "inspect", "certs/dc1/crl.pem"]);
        assert!(ended == Some(1) && said.contains(&place) || words.starts_with("a certificate,"), "{said}");
    }
    // A private key among the CAs is a fault.
    write(&lab, "certs/dc1/crl.pem", &list);
    let cas = read(&lab, "certs/dc1/ca.crt");
    write(&lab, "certs/dc1/ca.crt", &(cas.clone() + &read(&lab, "certs/dc1/tls.key")));
    let (ended, said) = ends(&lab, &["check", "--offline", "-c", "dc1.toml"]);
    let place = format!("fail  certs/dc1/ca.crt:{}: a private key", cas.lines().count() + 1);
    assert!(ended == Some(1) && said.contains(&place), "{said}");
}

#[test]
fn a_site_that_is_revoked_in_the_second_of_two_joined_lists_gets_no_link() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    // The lists of two CAs, joined without a newline between them.
    let other = Ca::new("other CA");
    write(&lab, "certs/dc1/ca.crt", &(other.root.clone() + &read(&lab, "certs/ca/ca.crt")));
    replgate_ok(lab.path(), &["certs", "revoke", "dc2"]);
    write(&lab, "certs/dc1/ca.crt", &(other.root.clone() + &read(&lab, "certs/ca/ca.crt")));
    write(
        &lab,
        "certs/dc1/crl.pem",
        &(other.list(&[]).trim_end().to_owned() + &read(&lab, "certs/ca/crl.pem")),
    );
    let (wan, entry) = (free_port(), free_port());
    let first = lab.gateway("dc1", &master_config("dc1", wan, &[("orders", alpha.port)], ""));
    let text = replica_config("dc2", entry, wan, "").replace("crl = \"certs/dc2/crl.pem\"\n", "");
    let _second = lab.gateway("dc2", &text);
    let bravo = lab.redis("bravo");
    bravo.replicaof(entry);
    first.wait_kind("revoked");
    assert_eq!(alpha.info("connected_slaves"), "0");
}

#[test]
fn pipes_folders_devices_and_huge_files_are_refused_at_once_in_place_of_any_file() {
    let lab = Lab::new();
    write(&lab, "redis.pw", "secret");
    chmod(&lab, "redis.pw", 0o600);
    let auth = "auth = { password_file = \"redis.pw\" }";
    let text = master_config("dc1", free_port(), &[("orders", 1)], auth);
    let folder = lab.path().join("folder");
    std::fs::create_dir(&folder).expect("the lab is writable");
    assert!(run(Command::new("mkfifo").arg(lab.path().join("pipe"))).status.success());
    let huge = std::fs::File::create(lab.path().join("huge")).expect("the lab is writable");
    huge.set_len(1 << 40).expect("a file with a hole");
    for (odd, words) in
        [("pipe", "a pipe"), ("folder", "a folder"), ("/dev/zero", "a device"), ("huge", "it is larger than")]
    {
        for name in ["ca.crt", "tls.crt", "tls.key", "crl.pem", "redis.pw", "config"] {
            let config = if name == "config" { odd } else { "odd.toml" };
            let file = if name == "redis.pw" { name.to_owned() } else { format!("certs/dc1/{name}") };
            write(&lab, "odd.toml", &text.replace(&format!("\"{file}\""), &format!("\"{odd}\"")));
            for command in [&["check", "--offline"][..], &["run"]] {
                let (code, said) = ends(&lab, &[command, &["-c", config]].concat());
                assert!(matches!(code, Some(1 | 2)) && said.contains(words), "{command:?} {name}: {said}");
                assert!(said.contains(odd), "{command:?} {name}: {said}");
            }
        }
    }
    // A pipe in place of the CA's key does not block check either.
    assert!(run(Command::new("mkfifo").arg(lab.path().join("certs/dc1/ca.key"))).status.success());
    write(&lab, "odd.toml", &text);
    assert_eq!(
        ends(&lab, &["check", "--offline", "-c", "odd.toml"]).0,
        Some(1),
        "for the lab's own ca/ca.key"
    );
}

#[test]
fn a_file_that_others_may_change_is_named() {
    let lab = Lab::new();
    // As on a gateway's host, where there is no CA folder.
    std::fs::rename(lab.path().join("certs/ca"), lab.path().join("safe")).expect("it is there");
    write(&lab, "redis.pw", "secret");
    chmod(&lab, "redis.pw", 0o600);
    let auth = "auth = { password_file = \"redis.pw\" }";
    write(&lab, "dc1.toml", &master_config("dc1", free_port(), &[("orders", 1)], auth));
    chmod(&lab, "dc1.toml", 0o644);
    let check = || ends(&lab, &["check", "--offline", "-c", "dc1.toml"]);
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("ok    no other user may change"), "{said}");
    for file in [
        "dc1.toml",
        "certs/dc1/ca.crt",
        "certs/dc1/tls.crt",
        "certs/dc1/tls.key",
        "certs/dc1/crl.pem",
        "redis.pw",
    ] {
        let mode = std::fs::metadata(lab.path().join(file)).expect("it is there").mode() & 0o777;
        chmod(&lab, file, mode | 0o002);
        let (code, said) = check();
        assert!(code == Some(1) && said.contains("every user of this host change it; chmod go-w"), "{said}");
        assert!(said.lines().any(|line| line.starts_with("fail  ") && line.contains(file)), "{said}");
        chmod(&lab, file, mode | 0o020);
        let (code, said) = check();
        assert!(code == Some(0) && said.contains(&format!("warn  {file}: mode ")), "{said}");
        chmod(&lab, file, mode);
    }
    chmod(&lab, "certs/dc1", 0o777);
    let (code, said) = check();
    assert!(code == Some(1) && said.contains("fail  certs/dc1: mode 0777"), "{said}");
    // The gateway runs nevertheless, with a warning.
    let config = lab.path().join("dc1.toml");
    let gateway = Gateway::start(&config, "dc1");
    gateway.wait_ready();
    gateway.wait_log("lets every user of this host replace the files in it; chmod go-w");
}

#[test]
fn only_root_can_inspect_the_process_and_its_own_user_can_ask_for_status() {
    let lab = Lab::new();
    let uid: u32 = std::fs::metadata("/proc/self").expect("/proc is there").uid();
    let text = replica_config("dc2", free_port(), 1, "");
    write(&lab, "dc2.toml", &text);
    let config = lab.path().join("dc2.toml");
    // Root can inspect every process. So if the test runs as root, the gateway runs as another user.
    let user = if uid == 0 { 65534 } else { uid };
    let as_user = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(if uid == 0 { "setpriv" } else { program });
        if uid == 0 {
            let user = user.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups", program]);
        }
        command.args(arguments).current_dir(lab.path());
        command
    };
    if uid == 0 {
        let owner = format!("{user}:{user}");
        assert!(run(Command::new("chown").args(["-R", &owner]).arg(lab.path())).status.success());
    }
    if !run(&mut as_user(REPLGATE, &["--version"])).status.success() {
        assert!(std::env::var_os("CI").is_none(), "another user must be able to run {REPLGATE} in CI");
        eprintln!("skipped: user {user} cannot run {REPLGATE}");
        return;
    }
    let gateway = Gateway::start_by(&config, "dc2", &mut as_user(REPLGATE, &["run", "-c", "dc2.toml"]));
    gateway.wait_ready();
    let about = format!("/proc/{}", gateway.process.child.id());
    // The kernel gives the files of such a process in /proc to root and denies them to its own user.
    let status = std::fs::read_to_string(format!("{about}/status")).expect("it runs");
    let own =
        status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("users").split_whitespace().nth(1);
    assert_eq!(own, Some(user.to_string().as_str()), "it runs as that user");
    assert_eq!(std::fs::metadata(format!("{about}/mem")).expect("it runs").uid(), 0);
    let seen = run(&mut as_user("cat", &[&format!("{about}/environ")]));
    assert!(!seen.status.success() && seen.stdout.is_empty(), "only root can read its environment");
    // Its own user can still ask for its status, and so can root.
    let asked = run(&mut as_user(REPLGATE, &["status", "--json", "-c", &config.to_string_lossy()]));
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert_eq!(gateway.status()["site"], "dc2");
}

#[test]
fn an_ipv4_client_in_the_form_of_ipv6_is_the_same_client() {
    let lab = Lab::new();
    let entry = free_port();
    let text = replica_config("dc2", entry, 1, "clients = [\"::ffff:127.0.0.2/128\"]")
        .replace(&format!("127.0.0.1:{entry}"), &format!("[::ffff:127.0.0.1]:{entry}"));
    let gateway = lab.gateway("dc2", &text);
    let mut other = Client::connect(entry).expect("the gateway listens");
    assert_eq!(other.rest(SOON), (Vec::new(), true));
    gateway.wait_kind("not-a-client");
    let mut client = Client::from([127, 0, 0, 2], entry);
    client.send(b"PING\r\n");
    let line = client.line().expect("an answer");
    assert!(line.starts_with("-ERR replgate dc2"), "{line}");
}

/// Whether a process has `secret` anywhere in its writable memory. Only root can find out.
fn remembers(pid: u32, secret: &[u8]) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("root may look");
    let mut found = false;
    for line in
        maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|may| may.starts_with("rw")))
    {
        let (from, to) = line.split_once(' ').expect("a line").0.split_once('-').expect("a range");
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).expect("an address"));
        let mut bytes = vec![0; usize::try_from(to - from).expect("it fits")];
        // A range may have been unmapped meanwhile.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            found |= bytes.windows(secret.len()).any(|part| part == secret);
        }
    }
    found
}

#[test]
fn passwords_and_the_text_of_a_key_are_not_kept_in_memory() {
    if std::fs::metadata("/proc/self").expect("/proc is there").uid() != 0 {
        assert!(std::env::var_os("CI").is_none(), "root is needed in CI");
        eprintln!("skipped: only root can read a gateway's memory");
        return;
    }
    let lab = Lab::new();
    let (far, near) = ("far-password-5f2b9c", "near-password-81d4e7");
    for (name, password) in [("redis.pw", far), ("local.pw", near)] {
        write(&lab, name, password);
        chmod(&lab, name, 0o600);
    }
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--requirepass", far]);
    let pair =
        lab.pair_with(alpha.port, "auth = { password_file = \"redis.pw\" }", "password_file = \"local.pw\"");
    let bravo = Redis::start(Version::System, lab.path(), "bravo", &["--masterauth", near]);
    bravo.replicaof(pair.entry);
    bravo.wait_equal(&alpha);
    let key = read(&lab, "certs/dc1/tls.key");
    let line = key.lines().nth(1).expect("base64").to_owned();
    let first = pair.first.process.child.id();
    // The control: the file's name, which is in the config, is found.
    assert!(remembers(first, b"redis.pw"));
    assert!(!remembers(first, far.as_bytes()), "the master's password");
    assert!(!remembers(pair.second.process.child.id(), near.as_bytes()), "the password of the site");
    assert!(!remembers(first, line.as_bytes()), "the text of the key");
}
