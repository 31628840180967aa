//! The hook: a command that brings a site's new files to its host.

use std::path::Path;

use anyhow::Context;
use clap::Args;

use crate::certs::{self, delivery};

/// The command that brings new files to a site's host.
#[derive(Debug, Args)]
pub(super) struct Hook {
    /// Run this shell command for each site with new files; it gets REPLGATE_SITE and REPLGATE_DIR.
    /// One that fails runs again the next time
    #[arg(long = "hook", value_name = "COMMAND", env = "REPLGATE_HOOK", hide_env_values = true)]
    command: Option<String>,
}

impl Hook {
    /// Runs the hook for a site if its files have not been delivered. Without a hook, one that has
    /// failed before is an error: its site waits. `done` says what was done for the site.
    pub(super) fn run(&self, dir: &Path, site: &str, done: &str) -> anyhow::Result<()> {
        let Some(waits) = delivery::undelivered(dir, site) else { return Ok(()) };
        let Some(hook) = self.command.as_deref().filter(|hook| !hook.is_empty()) else {
            anyhow::ensure!(
                !waits.hook_failed,
                "{site}: the last hook failed, so its host may lack its new files; run it again: replgate certs renew --if-due --hook COMMAND"
            );
            return Ok(());
        };
        crate::outln::outln!("{site}: running the hook");
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", hook])
            .env("REPLGATE_SITE", site)
            .env("REPLGATE_DIR", dir.join(site))
            .status()
            .with_context(|| format!("run the hook {hook:?}"));
        if status.as_ref().is_ok_and(|status| status.success()) {
            return delivery::hook_went_well(dir, site, &waits);
        }
        let recorded = delivery::hook_failed(dir, site, &waits);
        let why = status.map(|status| status.to_string())?;
        let again = match recorded {
            Ok(()) => String::new(),
            Err(error) => format!("; that could not be recorded: {error:#}"),
        };
        anyhow::bail!(
            "{site} {done}, but the hook {hook:?} failed: {why}; the next renew with --hook runs it again, also with --if-due{again}"
        )
    }

    /// Runs the hook for all sites that wait for it. Returns what failed.
    pub(super) fn run_all(&self, dir: &Path) -> anyhow::Result<Vec<String>> {
        let outcomes = certs::sites(dir)?.into_iter().map(|site| self.run(dir, &site, "has new files"));
        Ok(outcomes.filter_map(Result::err).map(|error| format!("{error:#}")).collect())
    }
}
