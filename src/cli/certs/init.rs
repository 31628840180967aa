//! `certs init`: makes the CA and a certificate for each site, or only those that are missing.

use std::io::Write;
use std::path::Path;

use super::verify::verify;
use super::{MoreNames, START, expiry, next, tell, wanted};
use crate::certs::complete::Completed;
use crate::certs::{self, Names};
use crate::cli::{Failure, Outcome};
use crate::x509::Certificate;

pub(super) fn init(dir: &Path, sites: &[String], name: &str, days: u32, force: bool) -> Outcome {
    let all = all_names(sites)?;
    if !force {
        for names in &all {
            let there = dir.join(names.site()).join("tls.key");
            if there.exists() {
                return Err(anyhow::anyhow!(
                    "{} is there already; nothing was changed. To add other sites: replgate certs issue SITE. To start over with a new CA, which makes new certificates necessary at every site: add --force",
                    there.display()
                )
                .into());
            }
        }
    }
    let (facts, aside) = certs::init(dir, name, force)?;
    if let Some(aside) = aside {
        crate::outln::outln!(
            "the old CA was moved to {}; gateways with new certificates do not trust the old ones\n",
            aside.display()
        );
    }
    tell_ca(dir, &facts)?;
    let mut made = Vec::new();
    for names in &all {
        let one = certs::issue(dir, names, days, force)?;
        tell(&one)?;
        made.push(one);
    }
    if made.is_empty() {
        crate::outln::outln!("\nnext: replgate certs issue SITE, once for each site");
        return Ok(());
    }
    next(&made, START)
}

pub(super) fn complete(dir: &Path, sites: &[String], name: &str, days: u32) -> Outcome {
    let mut done = Completed::default();
    let outcome = certs::complete::complete(dir, &all_names(sites)?, name, days, &mut done);
    // What was made is printed, even after an error.
    if let Some(facts) = &done.ca {
        tell_ca(dir, facts)?;
    }
    done.made.iter().try_for_each(tell)?;
    for site in &done.kept {
        crate::outln::outln!("site {site}: left as it is");
    }
    if !done.made.is_empty() {
        next(&done.made, START)?;
    }
    outcome?;
    // An existing certificate may be expired, revoked or damaged: its owner must fix that.
    if done.kept.is_empty() { Ok(()) } else { verify(dir, done.kept) }
}

fn tell_ca(dir: &Path, facts: &Certificate) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "CA {}", facts.subject)?;
    writeln!(out, "  certificate  {}", dir.join("ca/ca.crt").display())?;
    writeln!(
        out,
        "  key          {} (0600; keep it here, copy it to no gateway)",
        dir.join("ca/ca.key").display()
    )?;
    writeln!(out, "  sha256       {}", facts.fingerprint)?;
    writeln!(out, "  expires      {}", expiry(facts))?;
    Ok(())
}

/// The names of all sites, checked before anything is made.
fn all_names(sites: &[String]) -> Result<Vec<Names>, Failure> {
    if let Some(twice) = sites.iter().enumerate().find(|(at, site)| sites[..*at].contains(site)) {
        return Err(Failure::Usage(format!("the site {:?} is named twice", twice.1)));
    }
    sites.iter().map(|site| wanted(site, &MoreNames { sans: Vec::new() })).collect()
}
