//! The CA is replaced while links carry writes; steps that are interrupted, refused or run twice.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::gateway::{Gateway, Lab, replica_block, tls_in};
use crate::support::writer::Writer;
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate, replgate_ok, run};
use crate::trust::dial_with_openssl;

/// Copies what a site's folder holds to its gateway, as scp does.
fn deliver(lab: &Path, site: &str) {
    let script = format!("mkdir -p hosts && cp -rp certs/{site} hosts/");
    let output = run(Command::new("bash").args(["-euc", &script]).current_dir(lab));
    assert!(output.status.success(), "{output:?}");
}

/// Makes a gateway read its certificates again, and waits until it has.
fn reload(gateway: &Gateway) {
    let before = gateway.log().matches("certificates read again").count();
    gateway.process.signal("HUP");
    eventually("the certificates are read again", SOON, || {
        gateway.log().matches("certificates read again").count() > before
    });
}

/// The number of certificates, or of other blocks, in a PEM file.
fn blocks(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.matches("-----BEGIN").count()
}

fn exit(dir: &Path, words: &str) -> (i32, String) {
    let words: Vec<&str> = words.split(' ').collect();
    let (code, out, err) = replgate(dir, &words);
    (code, out + &err)
}

#[test]
fn a_rollover_under_load_costs_no_sync_and_ends_with_the_old_ca_refused() {
    let lab = Lab::new();
    let sites = ["dc1", "dc2"];
    sites.iter().for_each(|site| deliver(lab.path(), site));
    let alpha = lab.redis("alpha");
    let (wan, entry) = (free_port(), free_port());
    let master = format!(
        "{}[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:{}\"\nallow = [\"dc2\"]\n",
        tls_in("dc1", "hosts/dc1"),
        alpha.port
    );
    let first = lab.gateway("dc1", &master);
    let second = lab.gateway("dc2", &(tls_in("dc2", "hosts/dc2") + &replica_block("orders", entry, wan, "")));
    let bravo = lab.replica("bravo", entry, &alpha);
    let old = run(Command::new("cp").args(["-rp", "certs/dc2", "old-dc2"]).current_dir(lab.path()));
    assert!(old.status.success());
    let syncs = (alpha.sync_full(), alpha.sync_partial_ok());
    let writer = Writer::on(&alpha, 5_000_000);
    let mut redials = 0;
    // dc3 never comes back.
    replgate_ok(lab.path(), &["certs", "revoke", "dc3"]);
    for (step, cas) in [("start", 2), ("issue", 2), ("finish", 1)] {
        let said = replgate_ok(lab.path(), &["certs", "rollover", step]);
        assert!(said.contains("next:"), "{said}");
        for (site, gateway) in sites.iter().zip([&first, &second]) {
            deliver(lab.path(), site);
            for file in ["ca.crt", "crl.pem"] {
                assert_eq!(blocks(&lab.path().join("hosts").join(site).join(file)), cas, "{step}: {file}");
            }
            reload(gateway);
            // Other CAs and lists alone move nothing.
            redials += u64::from(step == "issue");
            eventually("new lanes carry the link", SOON, || {
                second.count("redials") >= redials && first.each("lanes") == [1]
            });
            let written = writer.count();
            eventually("writes go on", SOON, || writer.count() > written + 1000);
        }
    }
    writer.stop();
    bravo.wait_equal(&alpha);
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), syncs, "no sync of any kind");
    assert_eq!((first.count("breaks"), second.count("breaks")), (0, 0));
    // A certificate of the old CA is refused, though it is good for another year.
    assert!(!first.log().contains("kind=\"unknown-ca\""), "{}", first.log());
    dial_with_openssl(&lab, wan, "old-dc2");
    first.wait_kind("unknown-ca");
}

#[test]
fn each_step_says_where_the_rollover_stands_and_refuses_what_would_cut_a_site_off() {
    let (dir, host) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (dir, host) = (dir.path(), host.path());
    assert!(exit(dir, "certs rollover").1.contains("there is no CA in certs/ca; make one"));
    replgate_ok(dir, &["certs", "init", "dc1"]);
    replgate_ok(dir, &["certs", "issue", "dc2", "--san", "gw.dc2.example"]);
    // The key of dc4 never leaves its host.
    replgate_ok(host, &["certs", "request", "dc4"]);
    let csr = host.join("certs/dc4/tls.csr").to_string_lossy().into_owned();
    replgate_ok(dir, &["certs", "sign", &csr, "--site", "dc4"]);
    assert!(replgate_ok(dir, &["certs", "rollover"]).contains("no rollover is under way"));
    for step in ["issue", "finish"] {
        let (code, said) = exit(dir, &format!("certs rollover {step}"));
        assert!(
            code == 1 && said.contains("no rollover is under way in certs; nothing was changed"),
            "{said}"
        );
    }
    let said = replgate_ok(dir, &["certs", "rollover", "start"]);
    assert!(said.contains("new  CN=replgate CA 2") && said.contains("rollover issue"), "{said}");
    let mode = std::fs::metadata(dir.join("certs/ca/next/ca.key")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let key = std::fs::read(dir.join("certs/ca/next/ca.key")).expect("a key");
    assert!(exit(dir, "certs rollover start").1.contains("the new CA was made before"));
    assert_eq!(std::fs::read(dir.join("certs/ca/next/ca.key")).expect("a key"), key, "it is kept");
    // The old CA signs on, for sites that are new too.
    replgate_ok(dir, &["certs", "renew", "dc1"]);
    replgate_ok(dir, &["certs", "issue", "dc3"]);
    let (code, said) = exit(dir, "certs rollover finish");
    assert!(code == 1 && said.contains("dc1, dc2, dc3, dc4; nothing was changed"), "{said}");
    replgate_ok(dir, &["certs", "rollover", "issue", "dc1"]);
    let said = replgate_ok(dir, &["certs", "rollover"]);
    for words in
        ["dc1               certificate of the new CA", "dc2               certificate of the old CA"]
    {
        assert!(said.contains(words), "{said}");
    }
    assert!(said.contains("still with a certificate of the old CA: dc2, dc3, dc4"), "{said}");
    // The new CA signs now: a request too.
    replgate_ok(dir, &["certs", "sign", &csr, "--site", "dc4", "--force"]);
    replgate_ok(dir, &["certs", "revoke", "dc3"]);
    let said = replgate_ok(dir, &["certs", "list"]);
    assert!(said.contains("a rollover of the CA is under way"), "{said}");
    let list: serde_json::Value =
        serde_json::from_str(&replgate_ok(dir, &["certs", "list", "--json"])).expect("JSON");
    let of = |site: &str| -> Vec<(String, bool)> {
        let all = list.as_array().expect("a list").iter().filter(|entry| entry["site"] == site);
        all.map(|entry| (entry["ca"].as_str().expect("a CA").to_owned(), entry["revoked"].is_number()))
            .collect()
    };
    assert_eq!(of("dc4"), [("old".to_owned(), false), ("new".to_owned(), false)]);
    assert_eq!(of("dc3"), [("old".to_owned(), true)]);
    let (code, said) = exit(dir, "certs rollover finish");
    assert!(code == 1 && said.contains("without it: dc2; nothing was changed"), "{said}");
    replgate_ok(dir, &["certs", "rollover", "issue"]);
    let text = replgate_ok(dir, &["certs", "inspect", "certs/dc2/tls.crt"]);
    assert!(text.contains("names        dc2, gw.dc2.example") && text.contains("CN=replgate CA 2"), "{text}");
    // openssl accepts the certificates of both CAs by the files of any site, but what was revoked.
    let verify = |leaf: &str| {
        let mut command = Command::new("openssl");
        command.args([
            "verify",
            "-crl_check",
            "-CAfile",
            "certs/dc1/ca.crt",
            "-CRLfile",
            "certs/dc1/crl.pem",
            leaf,
        ]);
        let output = run(command.current_dir(dir));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(verify("certs/dc2/tls.crt").contains("tls.crt: OK"), "{}", verify("certs/dc2/tls.crt"));
    assert!(verify("certs/dc3/tls.crt").contains("certificate revoked"), "{}", verify("certs/dc3/tls.crt"));
    let said = replgate_ok(dir, &["certs", "rollover", "finish"]);
    assert!(said.contains("certs/dc3 is of a revoked site; remove it"), "{said}");
    assert!(!dir.join("certs/ca/next").exists());
    let aside = said.lines().find_map(|line| line.split_once("with its key, is in ")).expect("its place").1;
    assert!(dir.join(aside).join("ca.key").exists());
    replgate_ok(dir, &["certs", "verify", "dc1", "dc2", "dc4"]);
    // What the old CA has revoked is not let in again by the new one.
    let (code, said) = exit(dir, "certs renew dc3");
    assert!(code == 1 && said.contains("was not issued by the CA in certs/ca, and is not renewed"), "{said}");
    assert_eq!(exit(dir, "certs rollover finish").0, 1);
}

#[test]
fn finish_can_be_forced_and_names_who_is_cut_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    replgate_ok(dir, &["certs", "init", "dc1", "dc2"]);
    replgate_ok(dir, &["certs", "rollover", "start", "--name", "next year"]);
    replgate_ok(dir, &["certs", "rollover", "issue", "dc1"]);
    // A site whose folder is gone has a good certificate nevertheless.
    std::fs::remove_dir_all(dir.join("certs/dc2")).expect("it is there");
    let (code, said) = exit(dir, "certs rollover finish");
    assert!(code == 1 && said.contains("without it: dc2;"), "{said}");
    let said = replgate_ok(dir, &["certs", "rollover", "finish", "--force"]);
    assert!(said.contains("dc2 is cut off") && said.contains("certs issue dc2 --force"), "{said}");
    let said = replgate_ok(dir, &["certs", "inspect", "certs/ca/ca.crt"]);
    assert!(said.contains("subject      CN=next year"), "{said}");
    replgate_ok(dir, &["certs", "verify"]);
}

/// Everything in a folder that distinguishes one state of a rollover from another.
fn state(certs: &Path) -> (usize, usize, BTreeSet<String>) {
    let put_away = std::fs::read_dir(certs).expect("a folder").flatten().map(|entry| entry.file_name());
    let put_away = put_away.filter(|name| name.to_string_lossy().starts_with("ca.")).count();
    let files = ["ca.crt", "crl.pem"].map(|file| blocks(&certs.join("dc1").join(file)));
    let left = std::fs::read_dir(certs.join("ca")).expect("a CA").flatten();
    let left = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
    (put_away, files[0] * 10 + files[1], left.collect())
}

#[test]
fn a_step_that_was_killed_at_any_moment_can_be_run_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let certs = dir.join("certs");
    replgate_ok(dir, &["certs", "init", "dc1", "dc2"]);
    replgate_ok(dir, &["certs", "revoke", "dc2"]);
    replgate_ok(dir, &["certs", "issue", "dc2", "--force"]);
    let copy = |from: &str, to: &str| {
        let _ = std::fs::remove_dir_all(dir.join(to));
        assert!(run(Command::new("cp").args(["-rp", from, to]).current_dir(dir)).status.success());
    };
    let mut killed = 0;
    for step in ["start", "issue", "finish"] {
        copy("certs", "before");
        replgate_ok(dir, &["certs", "rollover", step]);
        let done = state(&certs);
        copy("certs", "after");
        // Killed a little later each time, until it was not killed any more.
        for moment in 1.. {
            copy("before", "certs");
            let mut child = Command::new(REPLGATE)
                .args(["certs", "rollover", step])
                .current_dir(dir)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it runs");
            // The time itself is what is tried here.
            std::thread::sleep(Duration::from_micros(2_500 * moment));
            let _ = child.kill();
            let was_killed = child.wait().expect("a child").code().is_none();
            killed += u32::from(was_killed);
            if !was_killed {
                break;
            }
            let (code, said) = exit(dir, &format!("certs rollover {step}"));
            let came_through = step == "finish" && said.contains("no rollover is under way");
            assert!(code == 0 || came_through, "{step}, killed at moment {moment}: {said}");
            assert_eq!(state(&certs), done, "{step}, killed at moment {moment}");
            replgate_ok(dir, &["certs", "verify"]);
        }
        copy("after", "certs");
    }
    assert!(killed > 10, "only {killed} were killed");
}

#[test]
fn a_rollover_that_was_interrupted_between_its_last_moves_is_completed_and_nothing_else_works_meanwhile() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let certs = dir.join("certs");
    replgate_ok(dir, &["certs", "init", "dc1"]);
    for step in ["start", "issue"] {
        replgate_ok(dir, &["certs", "rollover", step]);
    }
    let next = std::fs::read(certs.join("ca/next/ca.crt")).expect("a CA");
    // After the first move there is no CA in its place, after the second the old one has a name
    // that nothing else has.
    for moves in 1..=2 {
        let copy = tempfile::tempdir().expect("a folder");
        let copied = run(Command::new("cp").arg("-rp").arg(&certs).arg(copy.path()));
        assert!(copied.status.success());
        let at = |name: &str| copy.path().join("certs").join(name);
        std::fs::rename(at("ca"), at("ca.finishing")).expect("a move");
        if moves == 2 {
            std::fs::rename(at("ca.finishing/next"), at("ca")).expect("a move");
        }
        for words in [
            "renew",
            "issue dc9",
            "revoke dc1",
            "init",
            "init dc1 --if-missing",
            "init --force",
            "list",
            "rollover",
            "rollover start",
        ] {
            let (code, said) = exit(copy.path(), &format!("certs {words}"));
            assert!(
                code == 1 && said.contains("run again: replgate certs rollover finish"),
                "{words}: {said}"
            );
        }
        replgate_ok(copy.path(), &["certs", "rollover", "finish"]);
        assert_eq!(std::fs::read(at("ca/ca.crt")).expect("a CA"), next);
        assert!(!at("ca.finishing").exists());
        replgate_ok(copy.path(), &["certs", "list"]);
    }
    assert_eq!(replgate(dir, &["certs", "issue", "ca.finishing"]).0, 2);
    assert_eq!(replgate(dir, &["certs", "issue", "ca.old-1"]).0, 2);
}

#[test]
fn a_full_disk_stops_each_step_of_a_rollover_before_it_changes_anything() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("small")).expect("the folder is writable");
    let script = format!(
        r#"mount -t tmpfs -o size=240k none small && cd small
        {REPLGATE} certs init dc1 dc2 > /dev/null
        for step in start issue finish; do
            find certs -type f | sort | xargs sha256sum > before
            dd if=/dev/zero of=filler bs=1k count=300 2>/dev/null || true
            if {REPLGATE} certs rollover $step > /dev/null 2> said; then echo "$step went well"; exit 1; fi
            sha256sum --quiet -c before
            find certs -name '.*' -type f
            rm filler
            {REPLGATE} certs rollover $step > /dev/null
            {REPLGATE} certs verify
        done"#
    );
    let output = run(Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "bash", "-euc", &script])
        .current_dir(dir.path()));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() && said.contains("unshare") {
        assert!(std::env::var_os("CI").is_none(), "namespaces are needed in CI: {said}");
        eprintln!("skipped: {said}");
        return;
    }
    assert!(
        output.status.success() && said.matches("ok ").count() == 6 && !said.contains("certs/."),
        "{said}"
    );
}

#[test]
fn a_hook_that_failed_holds_the_next_step_back_and_is_remembered_without_being_named_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    replgate_ok(dir, &["certs", "init", "dc1", "dc2"]);
    let hook = "test $REPLGATE_SITE != dc2 -o -e reachable && cat $REPLGATE_DIR/ca.crt > at-$REPLGATE_SITE";
    let (code, out, err) = replgate(dir, &["certs", "rollover", "start", "--hook", hook]);
    assert!(
        code == 1 && err.contains("dc2 has new files, but the hook") && out.contains("next:"),
        "{out}{err}"
    );
    assert_eq!(blocks(&dir.join("at-dc1")), 2);
    let said = replgate_ok(dir, &["certs", "rollover"]);
    assert!(said.contains("dc2               certificate of the old CA; the last hook failed"), "{said}");
    // To write the same files once more does not make it forgotten.
    for words in
        ["certs rollover issue", "certs renew --if-due", "certs rollover start", "certs rollover issue"]
    {
        let (code, said) = exit(dir, words);
        assert!(
            code == 1 && said.contains("the last hook failed") && said.contains("dc2"),
            "{words}: {said}"
        );
    }
    assert!(!dir.join("at-dc2").exists());
    std::fs::write(dir.join("reachable"), "").expect("the folder is writable");
    // The next renewal runs it again, by the environment as well.
    let output = run(Command::new(REPLGATE)
        .args(["certs", "renew", "--if-due", "--quiet"])
        .env("REPLGATE_HOOK", hook)
        .current_dir(dir));
    assert!(output.status.success(), "{output:?}");
    // The files of dc1 were written once more as well.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "dc1: running the hook\ndc2: running the hook\n");
    assert_eq!(blocks(&dir.join("at-dc2")), 2);
    let quiet = run(Command::new(REPLGATE)
        .args(["certs", "renew", "--if-due", "--quiet"])
        .env("REPLGATE_HOOK", hook)
        .current_dir(dir));
    assert!(quiet.status.success() && quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    replgate_ok(dir, &["certs", "rollover", "issue"]);
}

#[test]
fn the_unit_of_the_renewal_is_as_hardened_as_that_of_the_gateway_and_its_timer_starts_it() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let unit = |name: &str| std::fs::read_to_string(packaging.join(name)).expect("a unit");
    let (gateway, renewal) = (unit("replgate.service"), unit("replgate-renew.service"));
    let hardening =
        gateway.lines().skip_while(|line| *line != "NoNewPrivileges=yes").take_while(|line| !line.is_empty());
    // The filter of system calls differs: the programs of a hook need more, and no lock.
    let (filter, hardening): (Vec<&str>, Vec<&str>) = hardening
        .filter(|line| !line.starts_with('#'))
        .partition(|line| line.starts_with("SystemCallFilter="));
    assert!(hardening.len() > 15 && filter.len() == 4, "{hardening:?} {filter:?}");
    for line in
        hardening.into_iter().chain(["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged"])
    {
        assert!(renewal.lines().any(|other| other == line), "{line}");
    }
    assert!(!renewal.contains("[Install]"), "only the timer is enabled");
    let timer = unit("replgate-renew.timer");
    assert!(timer.contains("OnCalendar=daily") && timer.contains("WantedBy=timers.target"), "{timer}");
}
