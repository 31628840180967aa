//! What the `[[master]]` sections allow, and under which names replicas are listed.

use super::codes::Code;
use super::report::Finding;
use crate::config::{Commands, Config, Master};
use crate::redis::listing;

/// What a section allows that may surprise, and the names of its replicas.
pub(super) fn judge(config: &Config, master: &Master) -> Vec<Finding> {
    let mut findings = Vec::new();
    let finding =
        |code, text: &str| Finding::new(code, &master.name, format!("master {:?}: {text}", master.name));
    if master.is_plain() {
        findings.push(finding(
            Code::CommandsAny,
            "commands = \"any\" lets the sites in `allow` run every command, also FLUSHALL and CONFIG",
        ));
    }
    if config.allowed_to_itself().any(|other| other.name == master.name) {
        let text = format!(
            "`allow` names this site itself, {}, but a gateway dials only other sites; name the site of the replicas",
            config.site
        );
        findings.push(finding(Code::AllowsItself, &text));
    }
    findings.extend(master.dangers().map(|danger| finding(Code::FilterWeakened, danger)));
    let Commands::Replication { accept_announce, .. } = &master.commands else { return findings };
    let names = master.allow.iter().map(|site| format!("{site} or NAME.{site}"));
    let text = format!(
        "its replicas at other sites are listed as {}; Sentinel 6.2 or later with resolve-hostnames no (the default) ignores such names; any other Sentinel resolves them, so make sure that no other site controls that DNS zone",
        names.collect::<Vec<_>>().join(", ")
    );
    findings.push(finding(Code::ListedAs, &text));
    for site in master.allow.iter().filter(|site| site.len() > listing::LONGEST) {
        let text = format!(
            "the name {site} is longer than {} bytes, which Redis before 6.2 refuses: replicas of that site would get no sync",
            listing::LONGEST
        );
        findings.push(finding(Code::SiteNameLong, &text));
    }
    for accepted in accept_announce {
        let addresses = accepted.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let text = format!(
            "accept_announce lets {} be listed as {addresses}: a Sentinel of this master sends REPLICAOF to any Redis at these addresses",
            accepted.site
        );
        findings.push(finding(Code::AcceptsAnnounced, &text));
    }
    findings
}
