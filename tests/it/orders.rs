//! `replgate follow`: a person says who has the master. And what `status`, `events`, the metrics and `check` say of
//! who is followed.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::sentinel::Sentinel;
use crate::status::Form;
use crate::support::gateway::{Gateway, Lab, admin, master_config, replica_config};
use crate::support::http::At;
use crate::support::redis::Redis;
use crate::support::{REPLGATE, SOON, eventually, free_port, replgate, run};

/// Two Redis at dc1 that both say that they are the master, with different data, and a gateway that follows
/// neither.
struct Two {
    lab: Lab,
    alpha: Redis,
    alpha2: Redis,
    gateway: Gateway,
    admin: u16,
}

impl Two {
    fn new() -> Self {
        let lab = Lab::new();
        let [alpha, alpha2] = ["alpha", "alpha2"].map(|name| lab.redis(name));
        alpha.fill();
        alpha2.ask(&["SET", "of", "alpha2"]);
        let admin_port = free_port();
        let redis = format!("[\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", alpha.port, alpha2.port);
        let config = master_config("dc1", free_port(), &[("orders", alpha.port)], "follow = \"master\"")
            .replace(&format!("\"127.0.0.1:{}\"\nallow", alpha.port), &format!("{redis}\nallow"));
        let gateway = lab.gateway("dc1", &(config + &admin(admin_port)));
        let two = Self { lab, alpha, alpha2, gateway, admin: admin_port };
        two.wait_status("nobody is followed, and it is said why", |entry| {
            entry["present"].is_null() && entry["attention"].is_string()
        });
        two
    }

    fn entry(&self) -> serde_json::Value {
        self.gateway.status()["following"][0].clone()
    }

    #[track_caller]
    fn wait_status(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) {
        let mut last = serde_json::Value::Null;
        let deadline = std::time::Instant::now() + SOON;
        while !is(&last) {
            assert!(std::time::Instant::now() < deadline, "{what}: {last:#}");
            std::thread::sleep(Duration::from_millis(50));
            last = self.entry();
        }
    }

    /// The exit code, stdout and stderr of `replgate follow` with these arguments.
    fn follow(&self, arguments: &[&str]) -> (i32, String, String) {
        let config = self.gateway.config.to_string_lossy().into_owned();
        replgate(self.lab.path(), &[&["follow"], arguments, &["-c", &config]].concat())
    }

    fn metric(&self, name: &str) -> f64 {
        let page = At::Port(self.admin).try_get("/metrics").expect("it answers").body;
        let series = format!("{name}{{name=\"orders\",role=\"master\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap_or_else(|| panic!("no {series}: {page}")).parse().expect("a number")
    }
}

#[test]
fn a_person_sees_what_a_switch_costs_and_does_it_only_with_yes() {
    let two = Two::new();
    let place = |redis: &Redis| format!("127.0.0.1:{}", redis.port);
    let (first, second) = (place(&two.alpha), place(&two.alpha2));
    let mut form = Form::read();
    form.check("", &two.gateway.status());
    let text = two.status_text();
    assert!(text.starts_with("NOT WELL: no master is followed for orders\n"), "{text}");
    assert!(text.contains("\norders follows nobody; "), "{text}");
    assert_eq!([two.metric("replgate_following"), two.metric("replgate_follow_attention")], [0.0, 1.0]);

    let (code, shown, error) = two.follow(&["orders", &second]);
    assert_eq!((code, &*error), (0, ""), "{shown}");
    let last = shown.lines().last().expect("lines");
    let command = format!("to do it: replgate follow orders {second} --yes -c ");
    assert!(last.starts_with(&command) && shown.lines().count() > 2, "{shown}");
    assert!(two.entry()["present"].is_null(), "nothing was done");

    let (code, done, error) = two.follow(&["orders", &second, "--yes"]);
    assert_eq!((code, &*error), (0, ""), "{done}");
    assert!(done.contains(&format!("orders (master) follows {second} for ")), "{done}");
    assert!(done.contains(", by a person") && !done.contains("to do it"), "{done}");
    let entry = two.entry();
    assert_eq!((&entry["present"]["party"], &entry["present"]["by"]), (&(*second).into(), &"person".into()));
    form.check("", &two.gateway.status());
    let text = two.status_text();
    assert!(
        text.contains(&format!("\norders follows {second} for ")) && text.contains("by a person"),
        "{text}"
    );
    eventually("the metrics tell it", SOON, || two.metric("replgate_following") == 1.0);
    let page = At::Port(two.admin).try_get("/").expect("it answers").body;
    assert!(page.contains("Who is followed") && page.contains("by a person"), "{page}");

    // Who has ordered it is an event.
    let status = two.gateway.status();
    let orders: Vec<_> = status["events"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["kind"] == "order")
        .collect();
    assert_eq!(orders.len(), 1, "what was only shown is none: {orders:?}");
    let (words, uid) = (orders[0]["words"].as_str().expect("words"), rustix::process::geteuid().as_raw());
    assert!(words.starts_with(&format!("user {uid} (process ")), "{words}");
    assert!(words.ends_with(&format!("ordered to follow {second}: done")), "{words}");
    assert_eq!(orders[0]["name"], "orders");
    two.gateway.wait_event("ordered to follow", &["kind=\"order\"", &format!("uid={uid}")]);

    // As JSON.
    let (code, json, _) = two.follow(&["orders", &first, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &answer["answer"], &answer["party"]), (0, &"told".into(), &(*first).into()), "{json}");
    assert!(answer["sentences"].as_array().is_some_and(|all| !all.is_empty()), "{json}");
    form.check("following", &answer["following"]);
}

#[test]
fn an_order_that_cannot_be_is_refused_with_what_there_is() {
    let mut two = Two::new();
    let place = format!("127.0.0.1:{}", two.alpha.port);
    for (arguments, says) in [
        (&["order", &*place][..], "no entry \"order\" follows a master here; known: orders\n".to_owned()),
        (
            &["orders", "127.0.0.1:1"],
            format!("\"127.0.0.1:1\" is no Redis of master \"orders\"; known: {place}, "),
        ),
        (&["orders", "dc2"], "\"dc2\" is no Redis of master \"orders\"; known: 127.0.0.1:".to_owned()),
    ] {
        let (code, text, error) = two.follow(arguments);
        assert!(
            code == 2 && text.is_empty() && error.contains(&says),
            "{arguments:?}: {code} {text} {error}"
        );
    }
    let (code, json, _) = two.follow(&["orders", "127.0.0.1:1", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &answer["answer"]), (2, &"unknown".into()), "{json}");

    // It is no master.
    two.alpha.replicaof(two.alpha2.port);
    two.wait_status("it is seen as a replica", |entry| entry["parties"][0]["state"] == "replica");
    let (code, text, error) = two.follow(&["orders", &place, "--yes"]);
    assert!(
        code == 1 && text.is_empty() && error.contains("is a replica of 127.0.0.1:"),
        "{code} {text} {error}"
    );
    two.gateway.wait_event(": refused: ", &["kind=\"order\"", "link=orders"]);

    two.gateway.stop();
    let (code, _, error) = two.follow(&["orders", &place]);
    assert!(code == 1 && error.contains("no gateway runs with "), "{code} {error}");
}

#[test]
fn an_entry_without_a_choice_takes_no_order() {
    let lab = Lab::new();
    let config =
        replica_config("dc2", free_port(), 1, "") + "[[replica]]\nname = \"carts\"\nlisten = \"127.0.0.1:";
    let config = format!("{config}{}\"\nsite = \"dc3\"\npeers = [\"127.0.0.1:1\"]\n", free_port());
    let gateway = lab.gateway("dc2", &config);
    let path = gateway.config.to_string_lossy().into_owned();
    let (code, _, error) = replgate(lab.path(), &["follow", "orders", "dc3", "-c", &path]);
    let says = "replica \"orders\" has no choice but the site dc1; name the sites that can have the master in `from`";
    assert!(code == 2 && error.contains(says), "{code} {error}");
    assert_eq!(gateway.status()["following"], serde_json::json!([]));
}

#[test]
fn another_user_can_give_no_order() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "root is needed in CI");
        eprintln!("skipped: only root can run a command as another user");
        return;
    }
    let two = Two::new();
    let as_other = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", REPLGATE]).args(arguments);
        command.current_dir("/").stdin(Stdio::null());
        run(&mut command)
    };
    assert!(run(Command::new("chmod").args(["-R", "go+rX"]).arg(two.lab.path())).status.success());
    if !as_other(&["--version"]).status.success() {
        assert!(std::env::var_os("CI").is_none(), "another user must be able to run {REPLGATE} in CI");
        eprintln!("skipped: another user cannot run {REPLGATE}");
        return;
    }
    let place = format!("127.0.0.1:{}", two.alpha.port);
    let config = two.gateway.config.to_string_lossy().into_owned();
    let out = as_other(&["follow", "orders", &place, "--yes", "-c", &config]);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{error}");
    assert!(
        error.contains("the gateway does not answer this user; run this as the gateway's user or as root"),
        "{error}"
    );
    assert!(two.entry()["present"].is_null(), "nothing was done");
    // The control: the gateway's own user can.
    assert_eq!(two.follow(&["orders", &place, "--yes"]).0, 0);
    assert_eq!(two.entry()["present"]["party"], *place);
}

impl Two {
    fn status_text(&self) -> String {
        crate::status::shown(&self.gateway)
    }
}

#[test]
fn check_says_who_is_master_and_what_is_missing_to_follow_it() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let alpha2 = lab.redis("alpha2");
    alpha.fill();
    alpha2.replicaof(alpha.port);
    alpha2.wait_equal(&alpha);
    std::fs::write(lab.path().join("redis.pw"), "secret").expect("ours");
    for redis in [&alpha, &alpha2] {
        redis.ask(&["ACL", "SETUSER", "gw", "on", ">secret", "+ping", "+replconf", "+psync"]);
    }
    let redis = format!("[\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", alpha.port, alpha2.port);
    let config = |sentinels: &str| {
        let more = format!(
            "follow = \"master\"\nauth = {{ username = \"gw\", password_file = \"redis.pw\" }}{sentinels}"
        );
        let text = master_config("dc1", free_port(), &[("orders", alpha.port)], &more);
        let text = text.replace(&format!("\"127.0.0.1:{}\"\nallow", alpha.port), &format!("{redis}\nallow"));
        std::fs::write(lab.path().join("dc1.toml"), text).expect("ours");
    };
    let check = || {
        let (_, json, error) = replgate(lab.path(), &["check", "-c", "dc1.toml", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|_| panic!("{json}{error}"));
        json["findings"].as_array().expect("a list").clone()
    };
    let of = |findings: &[serde_json::Value], code: &str| -> Vec<String> {
        let text = |finding: &serde_json::Value| {
            format!(
                "{} do: {}",
                finding["text"].as_str().unwrap_or(""),
                finding["advice"].as_str().unwrap_or("")
            )
        };
        findings.iter().filter(|finding| finding["code"] == code).map(text).collect()
    };
    config("");
    let found = check();
    let missing = of(&found, "rights-missing");
    assert_eq!(missing.len(), 2, "{found:#?}");
    assert!(missing[0].contains("(least: +ping +replconf +psync +info)"), "{missing:?}");
    assert!(missing[0].ends_with("ACL SETUSER gw +info"), "{missing:?}");
    for redis in [&alpha, &alpha2] {
        redis.ask(&["ACL", "SETUSER", "gw", "+info"]);
    }
    let found = check();
    assert!(of(&found, "rights-missing").is_empty() && of(&found, "chain").is_empty(), "{found:#?}");
    let who = of(&found, "master-found");
    assert!(
        who.len() == 1 && who[0].contains("is the master, and the other one is its replica"),
        "{found:#?}"
    );
    assert!(who[0].contains(&format!("127.0.0.1:{}", alpha.port)), "{who:?}");
    assert_eq!(of(&found, "candidate-replica").len(), 1, "{found:#?}");

    // Three Sentinels, of which one does not answer and one may not be asked.
    let sentinels = ["one", "two"].map(|name| {
        let folder = lab.path().join(name);
        std::fs::create_dir(&folder).expect("ours");
        Sentinel::start(&folder, alpha.port)
    });
    let at = |sentinel: &Sentinel| format!("\"127.0.0.1:{}\"", sentinel.port);
    let all = format!("{}, {}, \"127.0.0.1:1\"", at(&sentinels[0]), at(&sentinels[1]));
    config(&format!("\nsentinel = {{ master = \"orders\", at = [{all}] }}"));
    let found = check();
    let agree = of(&found, "sentinels-agree");
    assert!(
        agree.len() == 1 && agree[0].contains(&format!("2 of 3 Sentinels name 127.0.0.1:{}", alpha.port)),
        "{found:#?}"
    );
    assert_eq!((of(&found, "sentinel").len(), of(&found, "sentinel-down").len()), (2, 1), "{found:#?}");
    sentinels[1].ask(&["ACL", "SETUSER", "default", "-sentinel"]);
    let found = check();
    let rights = of(&found, "sentinel-rights");
    assert!(rights.len() == 1 && rights[0].contains("'+sentinel|master'"), "{found:#?}");
    assert_eq!(of(&found, "sentinels-no-majority").len(), 1, "{found:#?}");
    // The command that it gives.
    let command = rights[0].split_once(" do: ").expect("advice").1;
    let said = run(Command::new("sh").args(["-c", command]));
    assert!(said.status.success(), "{command}: {said:?}");
    assert_eq!(of(&check(), "sentinels-agree").len(), 1);
    sentinels[1].ask(&["ACL", "SETUSER", "default", "resetchannels", "-subscribe"]);
    // Whether it may hear the channel is seen once it may subscribe.
    for right in ["+subscribe", "'&+switch-master'"] {
        let deaf = of(&check(), "sentinel-deaf");
        assert!(deaf.len() == 1 && deaf[0].ends_with(right), "{right}: {deaf:?}");
        let command = deaf[0].split_once(" do: ").expect("advice").1;
        assert!(run(Command::new("sh").args(["-c", command])).status.success(), "{command}");
    }
    assert!(of(&check(), "sentinel-deaf").is_empty());
    config(&format!("\nsentinel = {{ master = \"other\", at = [{all}] }}"));
    assert_eq!(of(&check(), "sentinel-unknown-master").len(), 2);

    // Sentinels alone name it: what they name gets the password only within `networks`.
    for (networks, permitted) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        config(&format!("\nsentinel = {{ master = \"orders\", at = [{all}], networks = [\"{networks}\"] }}"));
        let path = lab.path().join("dc1.toml");
        let text = std::fs::read_to_string(&path).expect("it is there");
        let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("redis = ")).collect();
        std::fs::write(&path, without.join("\n")).expect("ours");
        let found = check();
        let [agree, other] = ["sentinels-agree", "sentinels-name-other"].map(|code| of(&found, code).len());
        assert_eq!((agree, other), if permitted { (1, 0) } else { (0, 1) }, "{networks}: {found:#?}");
        let logged_in = of(&found, "redis-logged-in");
        assert_eq!(logged_in.len(), usize::from(permitted), "{networks}: {found:#?}");
    }
}
