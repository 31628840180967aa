//! What the gateway says that runs with this config, if one does.

use super::report::Report;
use crate::admin::{self, Status};
use crate::config::Config;

/// Asks the running gateway for its status. Reports one that does not answer, or that was started
/// with another config, and for how long an outage the memory of each link lasts.
pub(super) async fn check(config: &Config, report: &Report) -> Option<Status> {
    let running = match admin::ask(&config.into()).await {
        Ok(status) => status,
        Err(error) => {
            report.warn(&format!("a gateway runs with this config, but does not report its status: {error}"));
            None
        }
    };
    if let Some(status) = &running
        && !status.config.is_empty()
        && status.config != config.digest()
    {
        report.warn(&format!(
            "the running gateway (process {}) was started with other contents of this config: restart it to use this one",
            status.pid
        ));
    }
    for link in running.iter().flat_map(|status| &status.links) {
        let Some(coverage) = link.coverage else { continue };
        let text =
            format!("master {:?}: link {} to {}: {}", link.name, link.number, link.site, coverage.words());
        if coverage.is_short() { report.warn(&text) } else { report.ok(&text) }
    }
    running
}
