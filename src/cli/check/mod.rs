//! `replgate check`: prints one line for each step, before the gateway is started or while it runs.
//!
//! One file for each subject, in the order in which they are printed: `files`, `masters` (what the
//! config alone tells), `running`, `addresses`, `redis` and `settings` of each master, `far_sites`.

mod addresses;
mod far_sites;
mod files;
mod masters;
mod redis;
mod report;
mod running;
mod settings;

use std::time::Duration;

use clap::Args;

pub(super) use self::files::readable_ca_key;
use self::report::Report;
use super::{ConfigPath, Failure, Outcome, block_on};
use crate::config::Config;
use crate::tls::material::Material;

/// Time given to each step that waits for a peer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Checks config, certificates, the way to the far site and Redis.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigPath,
    /// Check only files on this host: resolve no name, make no connection
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub(super) fn execute(self) -> Outcome {
        let config = self.config.load()?;
        let mut report = Report::default();
        report.ok(&format!(
            "config {}: site {}, {} masters, {} replicas",
            self.config.path().display(),
            config.site,
            config.masters.len(),
            config.replicas.len()
        ));
        for path in &config.included {
            report.ok(&format!("config {}: included", path.display()));
        }
        config.warnings.iter().for_each(|warning| report.warn(warning));
        files::writers(&config, &mut report);
        let material = files::material(&config, &mut report);
        files::ca_key(&config, &mut report);
        files::passwords(&config, &mut report);
        masters::check(&config, &report);
        if !self.offline {
            block_on(online(&config, material, &mut report))?;
        }
        if report.has_failed() { Err(Failure::Unwell) } else { Ok(()) }
    }
}

/// The steps that resolve names and make connections.
async fn online(config: &Config, material: Option<Material>, report: &mut Report) {
    let running = running::check(config, report).await;
    addresses::check(config, running.as_ref(), report);
    for master in &config.masters {
        let answers = redis::check(master, report).await;
        if answers && !master.is_plain() {
            settings::check(master, &config.link, running.as_ref(), report).await;
        }
    }
    if let Some(material) = material {
        far_sites::check(config, material, report).await;
    }
}
