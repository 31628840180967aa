//! `certs renew`: renews the certificates of sites, and runs a hook after each.

use std::path::Path;

use super::hook::Hook;
use super::{RELOAD, fail_if_any, next, tell};
use crate::certs::{self, Made};
use crate::cli::Outcome;
use crate::clock;

pub(super) fn renew(
    dir: &Path,
    sites: Vec<String>,
    if_due: bool,
    quiet: bool,
    hook: &Hook,
    days: u32,
) -> Outcome {
    let sites = if sites.is_empty() { certs::sites(dir)? } else { sites };
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for site in sites {
        // A fault at one site does not prevent the renewal of the others.
        match renew_one(dir, &site, if_due, quiet, days) {
            Ok(one) => made.extend(one),
            Err(error) => {
                failures.push(format!("{error:#}"));
                continue;
            }
        }
        failures.extend(hook.run(dir, &site, "is renewed").err().map(|error| format!("{error:#}")));
    }
    if !made.is_empty() {
        if let Some(end) = certs::cut_short(dir, days)? {
            eprintln!(
                "replgate: the CA expires on {}, and so do the certificates; replace it: replgate certs rollover start",
                clock::utc(end)
            );
        }
        crate::outln::outln!(
            "\nthe earlier certificates are valid until they expire; revoke them by serial number if a key was lost"
        );
        next(&made, RELOAD)?;
    }
    fail_if_any(&failures)
}

fn renew_one(dir: &Path, site: &str, if_due: bool, quiet: bool, days: u32) -> anyhow::Result<Option<Made>> {
    if if_due && !certs::is_due(dir, site)? {
        if !quiet {
            crate::outln::outln!("{site}: not due yet");
        }
        return Ok(None);
    }
    let made = certs::renew(dir, site, days)?;
    tell(&made).map_err(|_| anyhow::anyhow!("{site} is renewed, but that could not be printed"))?;
    Ok(Some(made))
}
