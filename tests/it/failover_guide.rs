//! The guide for a failover, docs/failover.md: every command runs, in the order of the document, with the
//! example configs of three sites as they stand. A folder stands in for each host.

use std::fs::read_to_string;
use std::path::Path;

use crate::documents::{Terminal, follow};
use crate::runbooks::stand_in;
use crate::support::redis::{Redis, Version};
use crate::support::transcript::steps;
use crate::support::{SOON, eventually, free_port, replgate_ok};

const PAGE: &str = "docs/failover.md";

/// The sections with commands, in the order of the document.
const SECTIONS: [&str; 8] = [
    "## Look first",
    "### With Redis' own FAILOVER",
    "### By hand",
    "### To dc2",
    "### And back",
    "## Unplanned: the master is lost",
    "## What a person must say",
    "## Unplanned: the master's site is lost",
];

const SITES: [&str; 3] = ["dc1", "dc2", "dc3"];

/// Three sites: alpha and alpha2 at dc1, bravo at dc2, charli at dc3.
struct Stage {
    terminal: Terminal,
    alpha: Redis,
    alpha2: Redis,
    bravo: Redis,
    charli: Redis,
}

impl Stage {
    fn new() -> Self {
        let mut terminal = Terminal::below("hosts/local", &[]);
        let here = terminal.folder.path().to_owned();
        let write = stand_in(&here);
        replgate_ok(&here, &["certs", "init", "dc1", "dc2", "dc3"]);
        let start = |name: &str| Redis::start(Version::System, &here, name, &[]);
        let [alpha, alpha2, bravo, charli] = ["alpha", "alpha2", "bravo", "charli"].map(start);
        let [wan, entry] = [(); 2].map(|()| SITES.map(|_| free_port()));
        let at = |redis: &Redis| format!("127.0.0.1:{}", redis.port);
        for (number, (site, redis)) in SITES.into_iter().zip([&alpha, &bravo, &charli]).enumerate() {
            let host = here.join("hosts").join(site);
            let example = format!("examples/both-ways/{site}.toml");
            let mut config =
                read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(example)).expect("it is there");
            for (shown, real) in [
                ("/etc/replgate/certs", here.join("certs").to_string_lossy().into_owned()),
                ("0.0.0.0:7379", format!("127.0.0.1:{}", wan[number])),
                ("gw.dc1.example:7379", format!("127.0.0.1:{}", wan[0])),
                ("gw.dc2.example:7379", format!("127.0.0.1:{}", wan[1])),
                ("127.0.0.1:6390", format!("127.0.0.1:{}", entry[number])),
                ("10.0.0.5:6379", at(&alpha)),
                ("10.0.0.6:6379", at(&alpha2)),
                ("127.0.0.1:6379", at(&bravo)),
            ] {
                config = config.replace(shown, &real);
            }
            write(&host.join("etc/replgate/gateway.toml"), &config);
            write(&host.join("redis.port"), &redis.port.to_string());
            write(
                &host.join("values"),
                &format!(
                    "export ENTRY={} RUNTIME_DIRECTORY=$PWD/run STATE_DIRECTORY=$PWD/state\n",
                    entry[number]
                ),
            );
            std::fs::create_dir_all(host.join("run"))
                .and_then(|()| std::fs::create_dir_all(host.join("state")))
                .expect("folders");
        }
        write(&here.join("hosts/alpha2/redis.port"), &alpha2.port.to_string());
        // The longer ones first.
        for (shown, real) in [
            ("10.0.0.5".to_owned(), "dc1".to_owned()),
            ("10.0.0.6".to_owned(), "alpha2".to_owned()),
            ("127.0.0.1 6390".to_owned(), "127.0.0.1 $ENTRY".to_owned()),
            ("10.0.0.5 6379".to_owned(), format!("127.0.0.1 {}", alpha.port)),
            ("10.0.0.6 6379".to_owned(), format!("127.0.0.1 {}", alpha2.port)),
            ("10.0.0.5:6379".to_owned(), at(&alpha)),
            ("10.0.0.6:6379".to_owned(), at(&alpha2)),
            ("127.0.0.1:6379".to_owned(), at(&bravo)),
        ] {
            terminal.replace(&shown, real);
        }
        let stage = Self { terminal, alpha, alpha2, bravo, charli };
        stage.alpha2.replicaof(stage.alpha.port);
        stage.alpha.fill();
        stage.alpha2.wait_equal(&stage.alpha);
        for site in SITES {
            stage.sh(&format!("ssh root@{site} systemctl start replgate"));
        }
        for (replica, entry) in [(&stage.bravo, entry[1]), (&stage.charli, entry[2])] {
            replica.replicaof(entry);
        }
        stage.are_equal_to(&stage.alpha);
        stage
    }

    /// Runs a script on the machine that reaches the hosts.
    #[track_caller]
    fn sh(&self, script: &str) {
        let output = self.terminal.execute(script);
        assert!(output.status.success(), "{script}\n{output:?}");
    }

    /// Runs the commands of a section.
    #[track_caller]
    fn read(&self, number: usize) {
        follow(&self.terminal, PAGE, Some(SECTIONS[number]));
    }

    fn everyone(&self) -> [&Redis; 4] {
        [&self.alpha, &self.alpha2, &self.bravo, &self.charli]
    }

    /// A new write at this Redis arrives at all others.
    #[track_caller]
    fn are_equal_to(&self, master: &Redis) {
        master.ask(&["INCR", "written"]);
        for redis in self.everyone() {
            if redis.port != master.port && redis.try_ask(&["PING"]).is_some() {
                redis.wait_equal(master);
            }
        }
    }

    /// A new write at alpha2 arrives at the other sites.
    #[track_caller]
    fn elsewhere_is_equal(&self) {
        self.alpha2.ask(&["INCR", "written"]);
        for replica in [&self.bravo, &self.charli] {
            replica.wait_equal(&self.alpha2);
        }
    }

    /// Waits until every gateway has seen where this master's stream is. Each looks once a second, and nobody
    /// promotes sooner.
    #[track_caller]
    fn everybody_has_seen(&self, master: &Redis) {
        self.are_equal_to(master);
        let stream = master.info("master_replid");
        for site in SITES {
            eventually(&format!("{site} has seen the stream"), SOON, || {
                let output = self.terminal.execute(&format!("ssh root@{site} replgate status --json"));
                let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
                let following = status["following"].as_array().expect("a list").iter();
                let parties = following.filter_map(|entry| entry["parties"].as_array()).flatten();
                parties.into_iter().any(|party| party["history"] == stream)
            });
        }
    }

    /// Full syncs that all of them have granted.
    fn full_syncs(&self) -> i64 {
        self.everyone().into_iter().map(Redis::sync_full).sum()
    }
}

#[test]
fn every_command_of_the_guide_for_a_failover_works_and_the_planned_ones_cost_no_full_sync() {
    let mut stage = Stage::new();
    let before = stage.full_syncs();
    assert_eq!(before, 3, "the first of each replica");
    stage.everybody_has_seen(&stage.alpha);
    stage.read(0);
    stage.read(1);
    stage.everybody_has_seen(&stage.alpha2);
    stage.read(2);
    stage.everybody_has_seen(&stage.alpha);
    stage.read(3);
    stage.everybody_has_seen(&stage.bravo);
    stage.read(4);
    stage.everybody_has_seen(&stage.alpha);
    assert_eq!(stage.full_syncs(), before, "a planned failover costs none");
    for site in SITES {
        // At dc2 no Redis is a master, and that is as it should be.
        stage.sh(&format!("ssh root@{site} replgate status | grep -q '^ok: '"));
    }
    // Alpha is lost with a write that alpha2 did not receive, and bravo did. It sends nothing else.
    stage.alpha.ask(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    stage.alpha2.replicaof(free_port());
    stage.alpha.ask(&["SET", "only at other sites", "x"]);
    for replica in [&stage.bravo, &stage.charli] {
        eventually("the write is there", SOON, || replica.ask(&["EXISTS", "only at other sites"]) == "1");
    }
    stage.alpha.kill();
    stage.read(5);
    assert_eq!(
        stage.bravo.ask(&["EXISTS", "only at other sites"]),
        "1",
        "nothing is thrown away without a word"
    );
    stage.read(6);
    stage.elsewhere_is_equal();
    // Alpha comes back blank, and is a master again. Nobody follows it.
    stage.alpha.start_again();
    stage.elsewhere_is_equal();
    stage.alpha.ask(&["REPLICAOF", "127.0.0.1", &stage.alpha2.port.to_string()]);
    stage.are_equal_to(&stage.alpha2);
    // The site is lost as a whole.
    stage.sh("ssh root@dc1 'kill -KILL $(cat pid)'");
    stage.alpha.kill();
    stage.alpha2.kill();
    stage.read(7);
    stage.are_equal_to(&stage.bravo);
}

#[test]
fn every_command_of_the_guide_for_a_failover_is_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let lines = |heading| steps(&path, heading).into_iter().map(|step| step.line).collect::<Vec<_>>();
    let run: Vec<usize> = SECTIONS.into_iter().flat_map(|heading| lines(Some(heading))).collect();
    let mut sorted = run.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!((sorted.len(), &sorted), (run.len(), &lines(None)), "each command is run once");
    assert!(run.len() > 30, "only {} commands were found", run.len());
}
