//! `certs renew`: renews the certificates of sites, and runs a hook after each.

use std::path::Path;

use anyhow::Context;

use super::{RELOAD, next, tell};
use crate::certs::{self, Made};
use crate::cli::{Failure, Outcome};

pub(super) fn renew(dir: &Path, sites: Vec<String>, if_due: bool, hook: Option<&str>, days: u32) -> Outcome {
    let sites = if sites.is_empty() { certs::sites(dir)? } else { sites };
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for site in sites {
        // A fault at one site does not prevent the renewal of the others.
        match renew_one(dir, &site, if_due, days) {
            Ok(one) => made.extend(one),
            Err(error) => {
                failures.push(format!("{error:#}"));
                continue;
            }
        }
        if let Some(hook) = hook
            && let Err(error) = run_hook(dir, &site, hook)
        {
            failures.push(format!("{error:#}"));
        }
    }
    if !made.is_empty() {
        crate::outln::outln!(
            "\nthe earlier certificates are valid until they expire; revoke them by serial number if a key was lost"
        );
        next(&made, RELOAD)?;
    }
    if !failures.is_empty() {
        failures.iter().for_each(|failure| eprintln!("replgate: {failure}"));
        return Err(Failure::Unwell);
    }
    Ok(())
}

fn renew_one(dir: &Path, site: &str, if_due: bool, days: u32) -> anyhow::Result<Option<Made>> {
    if if_due && !certs::is_due(dir, site)? {
        crate::outln::outln!("{site}: not due yet");
        return Ok(None);
    }
    let made = certs::renew(dir, site, days)?;
    tell(&made).map_err(|_| anyhow::anyhow!("{site} is renewed, but that could not be printed"))?;
    Ok(Some(made))
}

/// Runs the hook if it must run for this site: it has not succeeded since the last renewal.
fn run_hook(dir: &Path, site: &str, hook: &str) -> anyhow::Result<()> {
    if !certs::awaits_hook(dir, site) {
        return Ok(());
    }
    crate::outln::outln!("{site}: running the hook");
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", hook])
        .env("REPLGATE_SITE", site)
        .env("REPLGATE_DIR", dir.join(site))
        .status()
        .with_context(|| format!("run the hook {hook:?}"))?;
    anyhow::ensure!(
        status.success(),
        "{site} is renewed, but the hook {hook:?} failed: {status}; the next renew with --hook runs it again, also with --if-due"
    );
    certs::hook_went_well(dir, site)
}
