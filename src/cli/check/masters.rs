//! What the `[[master]]` sections allow, and under which names replicas are listed.

use super::report::Report;
use crate::config::{Commands, Config, Master};
use crate::redis::listing;

/// Reports what each section allows that may surprise, and the names of its replicas.
pub(super) fn check(config: &Config, report: &Report) {
    for master in config.masters.iter().filter(|master| master.is_plain()) {
        report.warn(&format!("master {:?}: commands = \"any\" lets the sites in `allow` run every command, also FLUSHALL and CONFIG", master.name));
    }
    for master in &config.masters {
        if config.allowed_to_itself().any(|other| other.name == master.name) {
            report.warn(&format!(
                "master {:?}: `allow` names this site itself, {}, but a gateway dials only other sites; name the site of the replicas",
                master.name, config.site
            ));
        }
        for danger in master.dangers() {
            report.warn(&format!("master {:?}: {danger}", master.name));
        }
        listed(master, report);
    }
}

/// Reports under which names the master lists replicas of other sites, and what Sentinel does with
/// such names.
fn listed(master: &Master, report: &Report) {
    let Commands::Replication { accept_announce, .. } = &master.commands else { return };
    let what = format!("master {:?}", master.name);
    let names = master.allow.iter().map(|site| format!("{site} or NAME.{site}"));
    report.ok(&format!(
        "{what}: its replicas at other sites are listed as {}; Sentinel 6.2 or later with resolve-hostnames no (the default) ignores such names; any other Sentinel resolves them, so make sure that no other site controls that DNS zone",
        names.collect::<Vec<_>>().join(", ")
    ));
    for site in master.allow.iter().filter(|site| site.len() > listing::LONGEST) {
        report.warn(&format!(
            "{what}: the name {site} is longer than {} bytes, which Redis before 6.2 refuses: replicas of that site would get no sync",
            listing::LONGEST
        ));
    }
    for accepted in accept_announce {
        let addresses = accepted.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        report.warn(&format!(
            "{what}: accept_announce lets {} be listed as {addresses}: a Sentinel of this master sends REPLICAOF to any Redis at these addresses",
            accepted.site
        ));
    }
}
