//! The guide and the page for 3 a.m.: docs/operations.md and docs/troubleshooting.md. Each command of
//! theirs runs, here on two gateways in the state that the section is about, or in tests/containers.

use std::collections::BTreeSet;
use std::path::Path;

use crate::documents::follow;
use crate::runbooks::Sites;
use crate::support::transcript::{ON_BOOTED_HOSTS, steps};
use crate::support::{SOON, eventually, free_port};

const GUIDE: &str = "docs/operations.md";
const TROUBLE: &str = "docs/troubleshooting.md";

/// A section, and what happens to a pair in sync before its commands run, and after them.
type Section = (&'static str, fn(&mut Sites), fn(&mut Sites));

/// Sections that a pair in sync is enough for, and those whose trouble is over quickly.
const CALM: &[Section] = &[
    ("## Begin here", nothing, nothing),
    ("### A replica makes full syncs again and again", drop_the_replica, nothing),
    ("### The lag grows", nothing, nothing),
    ("### Replication is up, but the data is old", nothing, nothing),
    ("### The first sync is slow", nothing, nothing),
    ("### A certificate has expired", nothing, nothing),
    ("### Memory grows", nothing, nothing),
    ("### The master lists ip=dc2", nothing, nothing),
    ("### After a failover", nothing, nothing),
];

/// Sections about a pair that does not replicate, or would not after a restart.
const TROUBLED: &[Section] = &[
    ("### Something is refused", forbid, permit),
    ("### A reload was refused", spoil_and_reload, mend_and_reload),
    ("### A link is held", kill_the_gateway, start_the_gateway),
    ("### A gateway does not start", spoil_and_restart, mend_and_start),
    ("### A replica shows master_link_status:down", stop_the_master, nothing),
];

/// Sections of the guide, in its order, for a pair in sync.
const MONITORING: [&str; 3] =
    ["## Monitoring", "## The doctor: `replgate check`", "## Watching it over HTTP"];

fn nothing(_: &mut Sites) {}

fn drop_the_replica(sites: &mut Sites) {
    sites.alpha.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    sites.bravo.wait_equal(&sites.alpha);
}

fn forbid(sites: &mut Sites) {
    at_dc1(sites, "sed -i 's/\"dc2\"/\"dc3\"/' etc/replgate/gateway.toml; systemctl reload replgate");
}

fn permit(sites: &mut Sites) {
    at_dc1(sites, "sed -i 's/\"dc3\"/\"dc2\"/' etc/replgate/gateway.toml; systemctl reload replgate");
}

fn spoil_and_reload(sites: &mut Sites) {
    at_dc1(sites, "echo 'comand = \"any\"' >> etc/replgate/gateway.toml; kill -HUP $(cat pid)");
}

fn mend_and_reload(sites: &mut Sites) {
    at_dc1(sites, "sed -i '$d' etc/replgate/gateway.toml; systemctl reload replgate");
}

fn kill_the_gateway(sites: &mut Sites) {
    at_dc1(sites, "kill -KILL $(cat pid)");
}

fn start_the_gateway(sites: &mut Sites) {
    at_dc1(sites, "systemctl start replgate");
}

fn spoil_and_restart(sites: &mut Sites) {
    let spoil = "echo 'comand = \"any\"' >> etc/replgate/gateway.toml; systemctl stop replgate; ! systemctl start replgate";
    at_dc1(sites, spoil);
}

fn mend_and_start(sites: &mut Sites) {
    at_dc1(sites, "sed -i '$d' etc/replgate/gateway.toml; systemctl start replgate");
}

fn stop_the_master(sites: &mut Sites) {
    sites.alpha.kill();
    eventually("the replica notices", SOON, || sites.bravo.info("master_link_status") == "down");
}

#[track_caller]
fn at_dc1(sites: &Sites, script: &str) {
    sites.sh(&format!("ssh root@dc1 {}", crate::documents::quoted(script)));
}

/// A pair with the addresses of the documents.
fn pair() -> Sites {
    let mut sites = Sites::new();
    let (wan, entry, bravo) = (sites.wan, sites.entry, sites.bravo.port);
    for (shown, here) in [("6379", bravo), ("6390", entry), ("7379", wan), ("7380", free_port())] {
        sites.terminal.replace(shown, here);
    }
    sites.terminal.replace("gw.dc1.example", "127.0.0.1");
    sites
}

fn walk(sections: &[Section]) {
    let mut sites = pair();
    for (heading, before, after) in sections {
        sites.bravo.wait_equal(&sites.alpha);
        before(&mut sites);
        follow(&sites.terminal, TROUBLE, Some(heading));
        after(&mut sites);
    }
}

#[test]
fn the_commands_for_trouble_work_on_a_pair_in_sync() {
    walk(CALM);
}

#[test]
fn the_commands_for_trouble_work_where_there_is_that_trouble() {
    walk(TROUBLED);
}

#[test]
fn the_guides_part_about_monitoring_works() {
    let pair = pair();
    for heading in MONITORING {
        follow(&pair.terminal, GUIDE, Some(heading));
    }
}

/// Programs whose name at the beginning of a block makes it a block of commands.
const PROGRAMS: [&str; 24] = [
    "$",
    "#",
    "cargo",
    "chown",
    "cp",
    "curl",
    "dpkg",
    "echo",
    "grep",
    "install",
    "journalctl",
    "kill",
    "less",
    "make",
    "promtool",
    "redis-cli",
    "replgate",
    "rm",
    "scp",
    "sed",
    "ssh",
    "systemctl",
    "tar",
    "useradd",
];

#[test]
fn every_command_of_the_guide_and_for_trouble_is_run_by_a_test() {
    let here: Vec<&str> = CALM.iter().chain(TROUBLED).map(|(heading, ..)| *heading).collect();
    let guide: Vec<&str> = ON_BOOTED_HOSTS.into_iter().chain(MONITORING).collect();
    let mut run = 0;
    for (page, headings) in [(GUIDE, guide), (TROUBLE, here)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let lines = |heading| steps(&path, heading).into_iter().map(|step| step.line);
        let all: BTreeSet<usize> = lines(None).collect();
        let covered: Vec<usize> = headings.into_iter().flat_map(|heading| lines(Some(heading))).collect();
        let once: BTreeSet<usize> = covered.iter().copied().collect();
        assert_eq!(once.len(), covered.len(), "{page}: a command is run twice");
        let left: Vec<_> = all.symmetric_difference(&once).collect();
        assert!(left.is_empty(), "{page}: no test runs the commands in the lines {left:?}");
        run += all.len();
        // No command is where nothing runs it.
        let text = std::fs::read_to_string(&path).expect("it is there");
        let (mut fence, mut before) = (None, "");
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = line.strip_prefix("```") {
                fence = fence.is_none().then_some(mark);
                continue;
            }
            let is_inside = |line: &str| fence.is_none() && line.starts_with("    ");
            let is_block =
                fence.is_some_and(|mark| mark != "console") || (is_inside(line) && !is_inside(before));
            before = line;
            let word = line.split_whitespace().next().unwrap_or_default();
            let is_command = is_block && PROGRAMS.contains(&word) && fence != Some("toml");
            assert!(!is_command, "{page}:{}: no test runs this: {line}", number + 1);
        }
    }
    assert!(run > 120, "only {run} commands were found");
}
