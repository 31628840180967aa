//! The gateway that runs with this config, if one does: what it says, and its process.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::codes::Code;
use super::host;
use super::process::{self, Process};
use super::report::Finding;
use crate::admin::{self, Status};
use crate::clock;
use crate::config::Config;
use crate::escape::shown;

/// Time over which it is measured how much a link carries.
const SAMPLE: Duration = Duration::from_secs(1);

/// Asks the running gateway for its status; with it what there is to say about that.
pub(super) async fn ask(config: &Config) -> (Option<Status>, Vec<Finding>) {
    let about = |code, text: String| vec![Finding::new(code, config.path.display(), text)];
    match admin::ask(&config.into()).await {
        Ok(Some(status)) => (Some(status), Vec::new()),
        Ok(None) => {
            (None, about(Code::NotRunning, "no gateway runs with this config as this user".to_owned()))
        }
        Err(error) => {
            let text = format!("a gateway runs with this config, but does not report its status: {error}");
            (None, about(Code::NoStatus, text))
        }
    }
}

/// Everything about a gateway that runs, or about one that would be started from here.
pub(super) fn judge(config: &Config, running: Option<&Status>) -> Vec<Finding> {
    let needed = host::needed_descriptors(config);
    let Some(status) = running else {
        return process::own_open_files()
            .map(|limit| host::descriptors(needed, limit, None))
            .into_iter()
            .collect();
    };
    let process = Process::read(status.pid);
    let own = rustix::process::geteuid().as_raw();
    let mut findings = judge_process(status, process.as_ref(), own, clock::now());
    if !status.config.is_empty() && status.config != config.digest() {
        let text = format!(
            "the running gateway (process {}) uses other contents of this config: reload it (systemctl reload replgate, or SIGHUP) to use this one",
            status.pid
        );
        findings.push(Finding::new(Code::OtherConfig, status.pid, text));
    }
    if let Some(limit) = process.and_then(|process| process.open_files) {
        findings.push(host::descriptors(needed, limit, Some(status.pid)));
    }
    for link in &status.links {
        let Some(coverage) = link.coverage else { continue };
        let text =
            format!("master {:?}: link {} to {}: {}", link.name, link.number, link.site, coverage.words());
        let code = if coverage.is_short() { Code::OutageNotCovered } else { Code::OutageCovered };
        findings.push(Finding::new(code, &link.name, text));
    }
    findings
}

/// The process against this program and this user.
fn judge_process(status: &Status, process: Option<&Process>, own: u32, now: i64) -> Vec<Finding> {
    let (pid, mut findings) = (status.pid, Vec::new());
    let version = shown(status.version.as_bytes());
    let since = process.and_then(|process| process.started).map_or_else(String::new, |started| {
        format!(", started {} ago, on {}", clock::span(now - started), clock::utc(started))
    });
    let text = format!("a gateway runs with this config: process {pid}, replgate {version}{since}");
    findings.push(Finding::new(Code::Running, pid, text));
    if status.version != env!("CARGO_PKG_VERSION") {
        let text = format!(
            "the running gateway (process {pid}) is replgate {version}, and this program is {}: restart it to use this one",
            env!("CARGO_PKG_VERSION")
        );
        findings.push(Finding::new(Code::OtherVersion, pid, text).advise("systemctl restart replgate"));
    } else if process.is_some_and(|process| process.is_replaced) {
        let text = format!(
            "the program of the running gateway (process {pid}) was replaced or removed since it was started: restart it to use the one that is there"
        );
        findings.push(Finding::new(Code::ProgramReplaced, pid, text).advise("systemctl restart replgate"));
    }
    if let Some(user) = process.and_then(|process| process.user).filter(|user| *user != own) {
        let text = format!(
            "the gateway runs as user {user}, and this check as user {own}: which files it may read is checked for this user; as the gateway's: runuser -u \"$(id -nu {user})\" -- replgate check"
        );
        findings.push(Finding::new(Code::OtherUser, pid, text));
    }
    findings
}

/// The rate at which a master writes, in bytes per second, as the running gateway has measured it.
pub(super) fn mean_rate(name: &str, running: &Status) -> Option<f64> {
    let links = running.links.iter();
    let rates = links.filter(|link| link.role == "master" && link.name == name);
    // The backlog has the bytes as they are before they are compressed.
    let rates = rates.filter_map(|link| {
        let grows = link.to_replica_bytes as f64 / link.carried_bytes.max(1) as f64;
        Some(link.coverage?.bytes_per_second * grows.max(1.0))
    });
    rates.reduce(f64::max)
}

/// Bytes that one link may take in while all of a gateway's are held.
pub(super) fn room(limit: u64, running: Option<&Status>) -> u64 {
    let links = running.iter().flat_map(|status| &status.links).filter(|link| link.role == "master").count();
    limit / (links.max(1) as u64 + 1)
}

/// The replication ids on the links of each `[[replica]]`, by its name.
pub(super) fn histories(running: Option<&Status>) -> HashMap<String, Vec<String>> {
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    for link in running.iter().flat_map(|status| &status.links).filter(|link| link.role == "replica") {
        let id = link.replication.as_ref().and_then(|replication| replication.replication_id.as_ref());
        found.entry(link.name.clone()).or_default().extend(id.map(|id| shown(id.as_bytes())));
    }
    found
}

/// Bytes a second that the links of each `[[replica]]` carry to their replicas: of each entry its
/// busiest link. Asks the gateway again after a while.
pub(super) async fn carried(config: Config, before: Status) -> HashMap<String, f64> {
    let mut rates = HashMap::new();
    if !before.links.iter().any(|link| link.role == "replica") {
        return rates;
    }
    let began = Instant::now();
    sleep(SAMPLE).await;
    let Ok(Some(after)) = admin::ask(&(&config).into()).await else { return rates };
    let seconds = began.elapsed().as_secs_f64();
    // Link numbers are those of one process.
    for link in after.links.iter().filter(|link| link.role == "replica" && after.pid == before.pid) {
        let earlier = before.links.iter().find(|earlier| earlier.number == link.number);
        let grown = earlier.and_then(|earlier| link.to_replica_bytes.checked_sub(earlier.to_replica_bytes));
        if let Some(grown) = grown {
            let rate = rates.entry(link.name.clone()).or_insert(0.0_f64);
            *rate = rate.max(grown as f64 / seconds);
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: &str) -> Status {
        let text = format!(
            r#"{{"site":"dc2","node":"n","version":"{version}","pid":7,"certificate_expires":0,"listeners":[],
            "masters":[],"replicas":[],"memory_used":0,"memory_limit":0,"links":[],"ended":[],"syncs":[],
            "counts":{}}}"#,
            serde_json::to_string(&crate::registry::Counts::default()).unwrap()
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_process_is_compared_with_this_program_and_this_user() {
        let codes = |version: &str, process: Option<&Process>| {
            let found = judge_process(&status(version), process, 0, 1000);
            found.iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        let own = env!("CARGO_PKG_VERSION");
        let process = Process { user: Some(0), started: Some(100), ..Process::default() };
        assert_eq!(codes(own, Some(&process)), [Code::Running]);
        assert_eq!(codes(own, None), [Code::Running], "it may run in a container");
        assert_eq!(codes("0.0.1", Some(&process)), [Code::Running, Code::OtherVersion]);
        let replaced = Process { is_replaced: true, user: Some(997), ..process.clone() };
        assert_eq!(codes(own, Some(&replaced)), [Code::Running, Code::ProgramReplaced, Code::OtherUser]);
        let text = judge_process(&status(own), Some(&process), 0, 1000)[0].text.clone();
        assert!(text.contains("started 15 minutes ago, on 1970-01-01T00:01:40Z"), "{text}");
    }

    #[test]
    fn a_link_alone_gets_half_of_the_memory() {
        assert_eq!(room(90, None), 45);
        assert_eq!(room(90, Some(&status("1"))), 45);
    }
}
