//! Certificates: openssl accepts those of `replgate certs`, and a gateway accepts those of
//! openssl.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::gateway::{Lab, master_config, replica_block, replica_config, tls_in};
use crate::support::{Process, SOON, eventually, free_port, replgate, replgate_ok, run};

/// Runs a shell script in a folder. Returns whether it succeeded, and all its output.
fn shell(folder: &Path, script: &str) -> (bool, String) {
    let output = run(Command::new("bash").args(["-euc", script]).current_dir(folder).stdin(Stdio::null()));
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

#[track_caller]
fn shell_ok(folder: &Path, script: &str) -> String {
    let (good, said) = shell(folder, script);
    assert!(good, "{script}\n{said}");
    said
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

#[test]
fn openssl_accepts_the_certificates_of_replgate() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = replgate_ok(dir.path(), &["certs", "init", "dc1", "dc2"]);
    for words in [
        "site dc1",
        "sha256",
        "expires",
        "ca   = \"certs/dc1/ca.crt\"",
        "crl  = \"certs/dc2/crl.pem\"",
        "next:",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    let text = shell_ok(dir.path(), "openssl x509 -in certs/dc1/tls.crt -noout -text -fingerprint -sha256");
    for words in [
        "CA:FALSE",
        "DNS:dc1",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "Digital Signature",
        "prime256v1",
        "Authority Key Identifier",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let fingerprint = text.lines().find_map(|line| line.split_once("ingerprint=")).expect("a fingerprint").1;
    assert!(said.contains(fingerprint), "{fingerprint}\n{said}");
    let text = shell_ok(dir.path(), "openssl x509 -in certs/ca/ca.crt -noout -text");
    assert!(text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign, CRL Sign"), "{text}");
    let verify =
        "openssl verify -x509_strict -crl_check -CAfile certs/dc2/ca.crt -CRLfile certs/dc2/crl.pem -purpose";
    for site in ["dc1", "dc2"] {
        for purpose in ["sslclient", "sslserver"] {
            shell_ok(dir.path(), &format!("{verify} {purpose} certs/{site}/tls.crt"));
        }
    }
    replgate_ok(dir.path(), &["certs", "revoke", "dc1"]);
    let (good, said) = shell(dir.path(), &format!("{verify} sslclient certs/dc1/tls.crt"));
    assert!(!good && said.contains("certificate revoked"), "{said}");
    shell_ok(dir.path(), &format!("{verify} sslclient certs/dc2/tls.crt"));
}

#[test]
fn keys_are_private_folders_closed_and_a_site_folder_holds_no_ca_key() {
    let dir = tempfile::tempdir().expect("a folder");
    // With the most permissive umask.
    shell_ok(
        dir.path(),
        &format!("umask 000; {} certs init dc1 > /dev/null", env!("CARGO_BIN_EXE_replgate")),
    );
    let certs = dir.path().join("certs");
    for key in ["ca/ca.key", "dc1/tls.key"] {
        assert_eq!(mode(&certs.join(key)), 0o600, "{key}");
    }
    for folder in ["", "ca", "dc1"] {
        assert_eq!(mode(&certs.join(folder)), 0o700, "{folder}");
    }
    let mut files: Vec<String> = std::fs::read_dir(certs.join("dc1"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, ["ca.crt", "crl.pem", "tls.crt", "tls.key"]);
}

/// Runs `certs init SITES --if-missing`. Returns the exit code and all its output.
fn complete(dir: &Path, sites: &[&str]) -> (i32, String) {
    let words: Vec<&str> = ["certs", "init", "--if-missing"].iter().chain(sites).copied().collect();
    let (code, out, err) = replgate(dir, &words);
    (code, out + &err)
}

#[test]
fn init_if_missing_creates_what_is_missing_and_changes_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |file: &str| dir.path().join("certs").join(file);
    let keys = || {
        ["ca/ca.key", "ca/ca.crt", "dc1/tls.key", "dc1/tls.crt"].map(|file| std::fs::read(path(file)).ok())
    };
    assert_eq!(complete(dir.path(), &["dc1"]).0, 0);
    let before = keys();
    assert!(before.iter().all(Option::is_some));
    let (code, said) = complete(dir.path(), &["dc1", "dc2"]);
    assert!(code == 0 && said.contains("site dc1: left as it is") && said.contains("dc2/tls.crt"), "{said}");
    let (code, said) = complete(dir.path(), &["dc1", "dc2"]);
    assert!(code == 0 && said.contains("ok    dc2: good until") && !said.contains("next:"), "{said}");
    // Copies of the CA's files are written again.
    std::fs::remove_file(path("dc1/ca.crt")).expect("it is there");
    std::fs::remove_file(path("dc1/crl.pem")).expect("it is there");
    assert_eq!(complete(dir.path(), &["dc1"]).0, 0);
    assert_eq!(keys(), before);
    replgate_ok(dir.path(), &["certs", "verify"]);
    // It reports a site that it leaves as it is but that is not valid, and fails.
    replgate_ok(dir.path(), &["certs", "revoke", "dc2"]);
    let (code, said) = complete(dir.path(), &["dc1", "dc2"]);
    assert!(
        code == 1 && said.contains("ok    dc1") && said.contains("fail  dc2") && said.contains("revoked"),
        "{said}"
    );
    assert_eq!(replgate(dir.path(), &["certs", "init", "--force", "--if-missing"]).0, 2);
}

#[test]
fn init_if_missing_continues_after_an_interrupted_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |file: &str| dir.path().join("certs").join(file);
    let remove = |file: &str| std::fs::remove_file(path(file)).expect("it is there");
    // The files in the order in which they are written. The last ones are missing.
    for left in [&["issued.toml"][..], &["issued.toml", "crl.pem"], &["issued.toml", "crl.pem", "ca.key"]] {
        replgate_ok(dir.path(), &["certs", "init"]);
        for file in ["issued.toml", "crl.pem", "ca.key", "ca.crt"] {
            if !left.contains(&file) {
                remove(&format!("ca/{file}"));
            }
        }
        let (code, said) = complete(dir.path(), &["dc1"]);
        assert_eq!(code, 0, "with {left:?}: {said}");
        replgate_ok(dir.path(), &["certs", "verify"]);
        std::fs::remove_dir_all(path("")).expect("it is there");
    }
    // A site's key without a certificate.
    replgate_ok(dir.path(), &["certs", "init", "dc1", "dc2"]);
    remove("dc1/tls.crt");
    let (code, said) = complete(dir.path(), &["dc1", "dc2"]);
    assert!(code == 0 && said.contains("old key      moved to certs/dc1/tls.key.old"), "{said}");
    replgate_ok(dir.path(), &["certs", "verify"]);
}

#[test]
fn temporary_files_of_a_killed_run_are_removed_and_an_older_ledger_undoes_no_revocation() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |file: &str| dir.path().join("certs").join(file);
    replgate_ok(dir.path(), &["certs", "init", "dc1", "dc2"]);
    let ours = ["ca/.ca.key.123", "dc1/.tls.key.123", "dc1/.tls.crt.4567"];
    // A file beside the sites' folders is not a site.
    let others = ["dc1/.tls.key.old.x", "dc1/.profile", "dc1/notes.1", "notes"];
    for file in ours.iter().chain(&others) {
        std::fs::write(path(file), "text").expect("the folder is writable");
    }
    let older = std::fs::read(path("ca/issued.toml")).expect("it is there");
    replgate_ok(dir.path(), &["certs", "revoke", "dc2"]);
    assert!(ours.iter().all(|file| !path(file).exists()) && others.iter().all(|file| path(file).exists()));
    // The CA's folder is restored from an earlier backup, without its revocation list.
    std::fs::write(path("ca/issued.toml"), older).expect("the folder is writable");
    std::fs::remove_file(path("ca/crl.pem")).expect("it is there");
    let list = std::fs::read(path("dc1/crl.pem")).expect("it is there");
    for words in [&["certs", "init", "dc1", "--if-missing"][..], &["certs", "issue", "dc3"]] {
        let (code, _, err) = replgate(dir.path(), words);
        assert!(code == 1 && err.contains("dc1/crl.pem says so"), "{words:?}: {err}");
    }
    assert_eq!(std::fs::read(path("dc1/crl.pem")).expect("it is there"), list);
}

#[test]
fn init_if_missing_makes_no_second_ca_and_touches_no_site_of_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |file: &str| dir.path().join("certs").join(file);
    replgate_ok(dir.path(), &["certs", "init", "dc1"]);
    let trusted = std::fs::read(path("dc1/ca.crt")).expect("it is there");
    std::fs::rename(path("ca"), path("lost")).expect("it is there");
    // It fails for any site, since dc1 depends on the CA that is missing.
    for site in ["dc1", "dc2"] {
        let (code, said) = complete(dir.path(), &[site]);
        assert!(
            code == 1 && said.contains("certs/dc1 is in use") && said.contains("Put the CA back"),
            "{said}"
        );
    }
    assert!(!path("ca").exists() && !path("dc2").exists());
    assert_eq!(std::fs::read(path("dc1/ca.crt")).expect("it is there"), trusted);
    std::fs::rename(path("lost"), path("ca")).expect("it is there");
    // The CA's certificate and key are missing, and so are the sites' folders. The ledger still
    // has what was issued.
    let record = std::fs::read(path("ca/issued.toml")).expect("it is there");
    std::fs::rename(path("dc1"), dir.path().join("dc1")).expect("it is there");
    for link in [false, true] {
        for file in ["ca.crt", "ca.key"] {
            std::fs::rename(path("ca").join(file), dir.path().join(file)).expect("it is there");
            if link {
                std::os::unix::fs::symlink("/nowhere/at/all", path("ca").join(file)).expect("a link");
            }
        }
        assert_eq!(complete(dir.path(), &["dc2"]).0, 1, "link: {link}");
        assert_eq!(replgate(dir.path(), &["certs", "init", "dc2"]).0, 1, "link: {link}");
        assert_eq!(std::fs::read(path("ca/issued.toml")).expect("it is there"), record);
        for file in ["ca.crt", "ca.key"] {
            std::fs::rename(dir.path().join(file), path("ca").join(file)).expect("it is there");
        }
    }
    std::fs::rename(dir.path().join("dc1"), path("dc1")).expect("it is there");
    // A CA with a missing file that has issued something is damaged, not new.
    for file in ["ca/ca.crt", "ca/ca.key", "ca/issued.toml"] {
        let kept = std::fs::read(path(file)).expect("it is there");
        std::fs::remove_file(path(file)).expect("it is there");
        let (code, said) = complete(dir.path(), &["dc1"]);
        assert!(code == 1 && said.contains(file), "without {file}: {said}");
        assert!(!path(file).exists(), "{file} was created again");
        std::fs::write(path(file), kept).expect("the folder is writable");
    }
    // A certificate of another CA, and a request that is not signed yet.
    let other = tempfile::tempdir().expect("a folder");
    replgate_ok(other.path(), &["certs", "init", "dc3"]);
    std::fs::rename(other.path().join("certs/dc3"), path("dc3")).expect("it is there");
    let (code, said) = complete(dir.path(), &["dc3"]);
    assert!(code == 1 && said.contains("was not issued by the CA"), "{said}");
    replgate_ok(dir.path(), &["certs", "request", "dc4"]);
    let (code, said) = complete(dir.path(), &["dc4"]);
    assert!(code == 1 && said.contains("waits to be signed"), "{said}");
}

#[test]
fn a_request_is_signed_for_what_the_operator_confirms() {
    let dir = tempfile::tempdir().expect("a folder");
    let host = tempfile::tempdir().expect("a folder");
    replgate_ok(dir.path(), &["certs", "init", "dc1"]);
    let said = replgate_ok(host.path(), &["certs", "request", "dc2", "--san", "evil.example"]);
    let csr = host.path().join("certs/dc2/tls.csr");
    let text = shell_ok(host.path(), "openssl req -in certs/dc2/tls.csr -noout -verify -text 2>&1");
    assert!(text.contains("DNS:dc2, DNS:evil.example"), "{text}");
    let csr = csr.to_string_lossy().into_owned();
    // Without a terminal to ask the operator, it says which options to use.
    let (code, _, err) = replgate(dir.path(), &["certs", "sign", &csr]);
    assert!(code == 2 && err.contains("--site dc2 --san evil.example"), "{err}");
    let signed = replgate_ok(dir.path(), &["certs", "sign", &csr, "--site", "dc2"]);
    let fingerprint = said.lines().find(|line| line.contains("key sha256")).expect("a fingerprint").trim();
    assert!(signed.contains(fingerprint) && signed.contains("asks for     dc2, evil.example"), "{signed}");
    let text = shell_ok(dir.path(), "openssl x509 -in certs/dc2/tls.crt -noout -text");
    assert!(text.contains("DNS:dc2\n") && !text.contains("evil"), "{text}");
    assert!(!dir.path().join("certs/dc2/tls.key").exists());
    // A request for a CA certificate gets an ordinary one.
    shell_ok(
        host.path(),
        "openssl req -new -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=dc3 -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign -out ca.csr 2>/dev/null",
    );
    let csr = host.path().join("ca.csr").to_string_lossy().into_owned();
    replgate_ok(dir.path(), &["certs", "sign", &csr, "--site", "dc3"]);
    let text = shell_ok(dir.path(), "openssl x509 -in certs/dc3/tls.crt -noout -text");
    assert!(text.contains("CA:FALSE") && !text.contains("Certificate Sign"), "{text}");
    // A request whose signature was not made with its key is refused.
    let mut bytes = std::fs::read_to_string(host.path().join("ca.csr")).expect("a request").into_bytes();
    let at = bytes.len() - 60;
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    std::fs::write(host.path().join("broken.csr"), bytes).expect("the folder is writable");
    let csr = host.path().join("broken.csr").to_string_lossy().into_owned();
    assert_eq!(replgate(dir.path(), &["certs", "sign", &csr, "--site", "dc4"]).0, 1);
    assert!(!dir.path().join("certs/dc4").exists());
}

#[test]
fn renewing_keeps_the_names_runs_the_hook_and_waits_until_it_is_due() {
    let dir = tempfile::tempdir().expect("a folder");
    replgate_ok(dir.path(), &["certs", "init"]);
    replgate_ok(dir.path(), &["certs", "issue", "dc1", "--san", "gw.dc1.example", "--san", "10.1.2.3"]);
    let before = std::fs::read(dir.path().join("certs/dc1/tls.crt")).expect("a certificate");
    let said = replgate_ok(dir.path(), &["certs", "renew", "--if-due", "--hook", "touch ran"]);
    assert!(said.contains("dc1: not due yet") && !dir.path().join("ran").exists(), "{said}");
    replgate_ok(dir.path(), &["certs", "renew", "dc1", "--hook", "echo $REPLGATE_SITE $REPLGATE_DIR > ran"]);
    assert_ne!(std::fs::read(dir.path().join("certs/dc1/tls.crt")).expect("a certificate"), before);
    assert_eq!(std::fs::read_to_string(dir.path().join("ran")).expect("the hook ran"), "dc1 certs/dc1\n");
    let text = shell_ok(dir.path(), "openssl x509 -in certs/dc1/tls.crt -noout -text");
    assert!(text.contains("DNS:dc1, DNS:gw.dc1.example, IP Address:10.1.2.3"), "{text}");
    replgate_ok(dir.path(), &["certs", "verify"]);
    // A fault of one site does not prevent the renewal of the others.
    std::fs::create_dir(dir.path().join("certs/aaa")).expect("the folder is writable");
    std::fs::write(dir.path().join("certs/aaa/tls.crt"), "junk").expect("the folder is writable");
    let (code, out, err) = replgate(dir.path(), &["certs", "renew", "--if-due"]);
    assert!(code == 1 && out.contains("dc1: not due yet") && err.contains("certs/aaa/tls.crt"), "{out}{err}");
    std::fs::remove_dir_all(dir.path().join("certs/aaa")).expect("the folder is writable");
    let (code, _, err) = replgate(dir.path(), &["certs", "renew", "dc1", "--hook", "exit 3"]);
    assert!(code == 1 && err.contains("dc1 is renewed, but the hook"), "{err}");
    let list: serde_json::Value =
        serde_json::from_str(&replgate_ok(dir.path(), &["certs", "list", "--json"])).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(3));
}

#[test]
fn the_next_steps_that_certs_prints_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = replgate_ok(dir.path(), &["certs", "init", "dc1", "dc2"]);
    // Copying a folder twice with the printed command does not nest it inside itself.
    let hint = said.lines().find(|line| line.contains("scp -rp certs/dc2")).expect("how to copy it");
    let place = dir.path().join("etc").to_string_lossy().into_owned();
    let copy = hint
        .replace("ssh root@dc2 ", "")
        .replace("scp -rp", "cp -rp")
        .replace("root@dc2:", "")
        .replace("/etc/replgate", &place);
    shell_ok(dir.path(), &format!("{copy}; {copy}"));
    assert!(dir.path().join("etc/certs/dc2/tls.key").exists());
    assert!(!dir.path().join("etc/certs/dc2/dc2").exists(), "{copy}");
    // A reload takes a renewed certificate and a new list into use.
    let said = replgate_ok(dir.path(), &["certs", "renew", "dc1"]);
    assert!(said.contains("systemctl reload replgate") && !said.contains("restart"), "{said}");
    let said = replgate_ok(dir.path(), &["certs", "revoke", "dc2"]);
    assert!(said.contains("systemctl reload replgate") && !said.contains("restart"), "{said}");
    // In JSON the names are a list.
    replgate_ok(dir.path(), &["certs", "issue", "dc3", "--san", "gw.dc3.example"]);
    let list: serde_json::Value =
        serde_json::from_str(&replgate_ok(dir.path(), &["certs", "list", "--json"])).expect("JSON");
    let last = list.as_array().and_then(|all| all.last()).expect("certificates");
    assert_eq!(last["names"], serde_json::json!(["dc3", "gw.dc3.example"]));
}

#[test]
fn faults_that_a_library_finds_get_messages_of_our_own() {
    let lab = Lab::new();
    // For each, openssl creates a CA and a certificate for dc2 with these extensions.
    let make = |ca: &str, leaf: &str, bits: [u32; 2]| {
        shell_ok(
            lab.path(),
            &format!(
                r#"mkdir -p odd
                openssl req -x509 -newkey rsa:{} -nodes -keyout ca.key -out odd/ca.crt -days 20 -subj "/CN=odd CA" -addext keyUsage=critical,keyCertSign,cRLSign {ca} 2>/dev/null
                openssl req -new -newkey rsa:{} -nodes -keyout odd/tls.key -subj /CN=dc2 -out odd.csr 2>/dev/null
                printf 'subjectAltName=%s\nextendedKeyUsage=clientAuth,serverAuth\nkeyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n{}\n' "${{NAMES:-DNS:dc2}}" > ext.cnf
                openssl x509 -req -in odd.csr -CA odd/ca.crt -CAkey ca.key -CAcreateserial -days 10 -extfile ext.cnf -out odd/tls.crt 2>/dev/null"#,
                bits[0], bits[1], leaf
            ),
        );
        let text = tls_in("dc2", "odd").replace("crl = \"odd/crl.pem\"\n", "");
        std::fs::write(lab.path().join("odd.toml"), text + &replica_block("orders", free_port(), 1, ""))
            .expect("the lab is writable");
        let (code, out, err) = replgate(lab.path(), &["check", "--offline", "-c", "odd.toml"]);
        assert!(code == 0 || out.contains("fail "), "{out}{err}");
        out.lines()
            .filter(|line| line.starts_with("fail ") && line.contains("odd/"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let usual = [2048, 2048];
    let said = make("", "1.2.3.4.5=critical,ASN1:UTF8String:odd", usual);
    assert!(
        said.contains("marked critical and not understood") && !said.contains("does not belong"),
        "{said}"
    );
    let said = make("-addext nameConstraints=critical,permitted\\;DNS:example.org", "", usual);
    assert!(said.contains("may not sign for (name constraints)"), "{said}");
    let said = make("", "", [1024, 2048]);
    assert!(said.contains("the key of the CA CN=odd CA is too weak (RSA 1024)"), "{said}");
    let said = make("", "", [2048, 1024]);
    assert!(said.contains("RSA of 2048 bits or more") || said.contains("too weak (RSA 1024)"), "{said}");
    let said = make("-addext subjectAltName=DNS:ca", "", usual);
    assert_eq!(said, "", "ordinary extensions are accepted");
}

#[test]
fn a_certificate_with_very_many_names_does_not_make_a_very_long_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let names: Vec<String> =
        (0..900).map(|number| format!("a-name-of-some-length-{number}.example")).collect();
    let mut words = vec!["certs", "issue", "dc1"];
    words.extend(names.iter().flat_map(|name| ["--san", name]));
    replgate_ok(dir.path(), &["certs", "init", "dc2"]);
    let mut said = replgate_ok(dir.path(), &words);
    let text = tls_in("dc1", "certs/dc1")
        + &replica_block("orders", free_port(), 1, "").replace("\"dc1\"", "\"dc2\"");
    std::fs::write(dir.path().join("dc1.toml"), &text).expect("the folder is writable");
    std::fs::write(dir.path().join("dc9.toml"), text.replace("site = \"dc1\"", "site = \"dc9\""))
        .expect("the folder is writable");
    for words in [
        &["check", "--offline", "-c", "dc1.toml"][..],
        &["check", "--offline", "-c", "dc9.toml"],
        &["certs", "list"],
        &["certs", "verify"],
        &["certs", "inspect", "certs/dc1/tls.crt"],
    ] {
        let (_, out, err) = replgate(dir.path(), words);
        said += &(out + &err);
    }
    assert!(said.contains("and 893 more"), "{said}");
    let longest = said.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 700, "{longest}");
}

#[test]
fn a_hook_that_failed_is_run_again_until_it_succeeds() {
    let dir = tempfile::tempdir().expect("a folder");
    replgate_ok(dir.path(), &["certs", "init", "dc1"]);
    let hook = "test -e reachable && echo $REPLGATE_SITE >> ran";
    let words = ["certs", "renew", "--if-due", "--hook", hook];
    let (code, out, err) = replgate(dir.path(), &["certs", "renew", "--hook", hook]);
    assert!(code == 1 && err.contains("runs it again"), "{err}");
    assert!(out.contains("next:"), "the renewal is reported nevertheless: {out}");
    assert_eq!(replgate(dir.path(), &words).0, 1, "the certificate is not due, and its hook still fails");
    std::fs::write(dir.path().join("reachable"), "").expect("the folder is writable");
    for _ in 0..2 {
        replgate_ok(dir.path(), &words);
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("ran")).expect("the hook ran"), "dc1\n", "once");
    replgate_ok(dir.path(), &["certs", "verify"]);
}

#[test]
fn a_request_of_another_site_is_not_signed_by_mistake() {
    let (dir, host) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    replgate_ok(dir.path(), &["certs", "init", "dc1"]);
    replgate_ok(host.path(), &["certs", "request", "dc2"]);
    let csr = host.path().join("certs/dc2/tls.csr").to_string_lossy().into_owned();
    let (code, _, err) = replgate(dir.path(), &["certs", "sign", &csr, "--site", "dc3"]);
    assert!(code == 1 && err.contains("asks for dc2, not for dc3; nothing was signed"), "{err}");
    assert!(!dir.path().join("certs/dc3").exists());
    replgate_ok(dir.path(), &["certs", "sign", &csr, "--site", "dc3", "--force"]);
    replgate_ok(dir.path(), &["certs", "sign", &csr, "--site", "DC2"]);
}

#[test]
fn verify_names_what_is_wrong_with_a_folder() {
    let lab = Lab::new();
    assert_eq!(replgate_ok(lab.path(), &["certs", "verify"]).matches("ok ").count(), 3);
    std::fs::copy(lab.path().join("certs/dc2/tls.key"), lab.path().join("certs/dc1/tls.key"))
        .expect("a copy");
    std::fs::copy(lab.path().join("certs/dc2/tls.crt"), lab.path().join("certs/dc3/tls.crt"))
        .expect("a copy");
    let (code, out, _) = replgate(lab.path(), &["certs", "verify"]);
    assert!(
        code == 1
            && out
                .contains("fail  dc1: certs/dc1/tls.key: the private key does not belong to the certificate"),
        "{out}"
    );
    assert!(
        out.contains("fail  dc3: certs/dc3/tls.crt: the certificate carries dc2, not the site dc3")
            && out.contains("ok    dc2"),
        "{out}"
    );
    replgate_ok(lab.path(), &["certs", "revoke", "dc2"]);
    let (code, out, _) = replgate(lab.path(), &["certs", "verify", "dc2"]);
    assert!(code == 1 && out.contains("it has been revoked"), "{out}");
}

#[test]
fn inspect_reads_files_and_a_live_gateway() {
    let lab = Lab::new();
    let pair = lab.pair(1);
    let out = replgate_ok(lab.path(), &["certs", "inspect", &format!("127.0.0.1:{}", pair.wan)]);
    assert!(out.contains("names        dc1") && out.contains("good for     clientAuth, serverAuth"), "{out}");
    for (file, words) in [
        ("certs/ca/ca.crt", "CA certificate"),
        ("certs/dc1/crl.pem", "revocation list"),
        ("certs/dc1/tls.key", "private key (not shown)"),
    ] {
        let out = replgate_ok(lab.path(), &["certs", "inspect", file]);
        assert!(out.contains(words) && !out.contains("BEGIN"), "{out}");
    }
    let (code, _, err) = replgate(lab.path(), &["certs", "inspect", "nowhere"]);
    assert!(code == 1 && err.contains("there is no such file"), "{err}");
}

#[test]
fn a_real_openssl_server_and_client_complete_tls_with_a_gateway() {
    let lab = Lab::new();
    // A gateway dials openssl: the handshake succeeds, and then HELLO gets no answer.
    let wan = free_port();
    let mut server = Command::new("openssl");
    server.args([
        "s_server",
        "-accept",
        &format!("127.0.0.1:{wan}"),
        "-cert",
        "certs/dc1/tls.crt",
        "-key",
        "certs/dc1/tls.key",
        "-CAfile",
        "certs/dc1/ca.crt",
        "-CRL",
        "certs/dc1/crl.pem",
        "-crl_check",
        "-Verify",
        "1",
        "-verify_return_error",
        "-tls1_3",
        "-alpn",
        "replgate/1",
    ]);
    let server = Process::start(
        "openssl s_server",
        lab.path().join("openssl.log"),
        server.current_dir(lab.path()).stdin(Stdio::piped()),
    );
    eventually("openssl listens", SOON, || server.log_text().contains("ACCEPT"));
    let entry = free_port();
    let second = lab.gateway("dc2", &replica_config("dc2", entry, wan, ""));
    let bravo = lab.redis("bravo");
    bravo.replicaof(entry);
    eventually("openssl has verified dc2", SOON, || {
        server.log_text().contains("ALPN protocols selected: replgate/1")
            || server.log_text().contains("CIPHER is TLS_")
    });
    second.wait_log("the far gateway did not answer within");
    // openssl dials a gateway.
    let pair = lab.pair(1);
    let said = shell_ok(
        lab.path(),
        &format!(
            "timeout 10 openssl s_client -connect 127.0.0.1:{} -cert certs/dc2/tls.crt -key certs/dc2/tls.key -CAfile certs/dc2/ca.crt -verify_return_error -verify_hostname dc1 -tls1_3 -alpn replgate/1 </dev/null 2>&1",
            pair.wan
        ),
    );
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("TLSv1.3"), "{said}");
}

#[test]
fn certificates_of_openssl_work_in_a_gateway() {
    for (kind, make_key) in [
        ("rsa", "genrsa -out"),
        ("p384", "ecparam -name secp384r1 -genkey -noout -out"),
        ("ed25519", "genpkey -algorithm ed25519 -out"),
    ] {
        let lab = Lab::new();
        // The CA signs an intermediate CA, which signs the sites. The sites' `ca` also holds an
        // unrelated CA, as during a rollover.
        shell_ok(
            lab.path(),
            &format!(
                r#"
                ext() {{ printf '%s\n' "$@" > ext.cnf; }}
                openssl {make_key} root.key 2>/dev/null
                openssl req -x509 -new -key root.key -subj '/CN=Company root' -days 30 -addext keyUsage=critical,keyCertSign,cRLSign -out root.crt
                openssl {make_key} sub.key 2>/dev/null
                openssl req -new -key sub.key -subj '/CN=Company gateways' -out sub.csr
                ext 'basicConstraints=critical,CA:TRUE,pathlen:0' 'keyUsage=critical,keyCertSign,cRLSign'
                openssl x509 -req -in sub.csr -CA root.crt -CAkey root.key -CAcreateserial -days 20 -extfile ext.cnf -out sub.crt 2>/dev/null
                for site in dc1 dc2; do
                    mkdir -p own/$site
                    openssl {make_key} own/$site/tls.key 2>/dev/null
                    openssl req -new -key own/$site/tls.key -subj "/CN=$site" -out site.csr
                    ext "subjectAltName=DNS:$site" 'extendedKeyUsage=clientAuth,serverAuth' 'keyUsage=critical,digitalSignature'
                    openssl x509 -req -in site.csr -CA sub.crt -CAkey sub.key -CAcreateserial -days 10 -extfile ext.cnf -out site.crt 2>/dev/null
                    cat site.crt sub.crt > own/$site/tls.crt
                    cat certs/ca/ca.crt root.crt > own/$site/ca.crt
                done"#
            ),
        );
        let alpha = lab.redis("alpha");
        let (wan, entry) = (free_port(), free_port());
        let own = |text: String| {
            text.replace("\"certs/", "\"own/")
                .replace("crl = \"own/dc1/crl.pem\"\n", "")
                .replace("crl = \"own/dc2/crl.pem\"\n", "")
        };
        let first = lab.gateway("dc1", &own(master_config("dc1", wan, &[("orders", alpha.port)], "")));
        let _second = lab.gateway("dc2", &own(replica_config("dc2", entry, wan, "")));
        first.wait_log("no revocation list for the CA CN=Company root");
        let _bravo = lab.replica("bravo", entry, &alpha);
        println!("{kind} works");
    }
}

#[test]
fn each_kind_of_unusable_key_gets_its_own_message() {
    let lab = Lab::new();
    let start = |what: &str| {
        let text = tls_in("dc2", "certs/dc2") + &replica_block("orders", free_port(), 1, "");
        std::fs::write(lab.path().join("odd.toml"), text.replace("certs/dc2/tls.key", what))
            .expect("the lab is writable");
        let (code, _, err) = replgate(lab.path(), &["run", "-c", "odd.toml"]);
        assert_eq!(code, 1, "{err}");
        let (code, out, _) = replgate(lab.path(), &["check", "--offline", "-c", "odd.toml"]);
        assert!(code == 1 && out.contains("fail "), "{out}");
        err
    };
    shell_ok(
        lab.path(),
        "openssl ec -in certs/dc2/tls.key -aes256 -passout pass:x -out sec1.key 2>/dev/null; openssl pkcs8 -topk8 -in certs/dc2/tls.key -passout pass:x -out pkcs8.key; echo nonsense > text.key; : > empty.key",
    );
    for encrypted in ["sec1.key", "pkcs8.key"] {
        assert!(start(encrypted).contains("encrypted with a passphrase"), "{encrypted}");
    }
    assert!(start("certs/dc1/tls.key").contains("does not belong to the certificate"));
    assert!(start("certs/dc2/tls.crt").contains("no private key in this file, but a certificate"));
    assert!(start("text.key").contains("expected PEM"));
    assert!(start("empty.key").contains("it is empty"));
    assert!(start("missing.key").contains("No such file"));
}

#[test]
fn a_disk_that_is_full_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).expect("the folder is writable");
    // One shell with its own small file system, where namespaces are available.
    let script = format!(
        r#"mount -t tmpfs -o size=160k none small && cd small
        {bin} certs init dc1 dc2 > /dev/null
        sha256sum certs/*/* > before
        dd if=/dev/zero of=filler bs=1k count=200 2>/dev/null || true
        for what in "issue dc3" "renew dc1" "revoke dc2"; do
            if {bin} certs $what > /dev/null 2> said; then echo "$what went well"; exit 1; fi
        done
        cat said || true
        sha256sum --quiet -c before
        find certs -name '.*' -type f
        rm filler
        {bin} certs verify && {bin} certs issue dc3 > /dev/null && {bin} certs verify"#,
        bin = env!("CARGO_BIN_EXE_replgate")
    );
    let (good, said) = {
        let output = run(Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "bash", "-euc", &script])
            .current_dir(dir.path()));
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    if !good && said.contains("unshare") {
        assert!(std::env::var_os("CI").is_none(), "namespaces are needed in CI: {said}");
        eprintln!("skipped: {said}");
        return;
    }
    assert!(good && said.matches("ok ").count() == 5 && !said.contains("certs/."), "{said}");
}

#[test]
fn a_reader_that_closes_the_output_is_no_fault_and_the_work_is_done() {
    let lab = Lab::new();
    let bin = env!("CARGO_BIN_EXE_replgate");
    for command in
        ["certs list", "certs verify", "certs revoke dc3", "certs inspect certs/ca/ca.crt", "certs --help"]
    {
        let said = shell_ok(
            lab.path(),
            &format!("set -o pipefail; {bin} {command} 2>&1 >&- | cat; {bin} {command} | true || true"),
        );
        assert!(!said.contains("panicked"), "{command}: {said}");
    }
    assert!(replgate_ok(lab.path(), &["certs", "list"]).contains("revoked"));
    let (good, said) = shell(lab.path(), &format!("{bin} certs list > /dev/full"));
    assert!(
        !good && said.contains("the output could not be written") && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn a_folder_that_is_older_than_its_ca_does_not_verify() {
    let lab = Lab::new();
    let list = lab.path().join("certs/dc1/crl.pem");
    let before = std::fs::read(&list).expect("a list");
    replgate_ok(lab.path(), &["certs", "revoke", "dc3"]);
    std::fs::write(&list, before).expect("the lab is writable");
    let (code, out, _) = replgate(lab.path(), &["certs", "verify", "dc1", "dc2"]);
    assert!(
        code == 1 && out.contains("fail  dc1: certs/dc1/crl.pem is not the same as certs/ca/crl.pem"),
        "{out}"
    );
    // Revoking the site again writes the lists again.
    let said = replgate_ok(lab.path(), &["certs", "revoke", "dc3"]);
    assert!(said.contains("was revoked before"), "{said}");
    replgate_ok(lab.path(), &["certs", "verify", "dc1", "dc2"]);
    // A site whose key is on its own host can be verified without the key.
    let host = tempfile::tempdir().expect("a folder");
    replgate_ok(host.path(), &["certs", "request", "dc4"]);
    let csr = host.path().join("certs/dc4/tls.csr").to_string_lossy().into_owned();
    replgate_ok(lab.path(), &["certs", "sign", &csr, "--site", "dc4"]);
    assert!(replgate_ok(lab.path(), &["certs", "verify", "dc4"]).contains("its key is on its own host"));
}
