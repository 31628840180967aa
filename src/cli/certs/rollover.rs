//! `certs rollover`: replaces the CA, one step at a time, and tells which step is next.

use std::path::Path;

use clap::Subcommand;

use super::hook::Hook;
use super::{RELOAD, Validity, expiry, fail_if_any, next, tell};
use crate::certs::rollover::{self, Site, Stage, Status};
use crate::cli::Outcome;
use crate::x509::Certificate;

#[derive(Debug, Subcommand)]
pub(super) enum Step {
    /// Make a new CA beside the old one; every site's ca.crt and crl.pem then hold both
    Start {
        /// The new CA's name [default: that of the old one, with a number]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        hook: Hook,
    },
    /// After every gateway trusts both: issue every site's certificate by the new CA
    Issue {
        /// Sites; all of them by default
        sites: Vec<String>,
        #[command(flatten)]
        validity: Validity,
        #[command(flatten)]
        hook: Hook,
        /// Go on although the last hook of a site failed
        #[arg(long)]
        force: bool,
    },
    /// After every gateway has its new certificate: take the old CA out, and put it away
    Finish {
        #[command(flatten)]
        hook: Hook,
        /// Cut off sites whose certificate is of the old CA
        #[arg(long)]
        force: bool,
    },
}

impl Step {
    pub(super) fn execute(self, dir: &Path) -> Outcome {
        match self {
            Self::Start { name, hook } => start(dir, name.as_deref(), &hook),
            Self::Issue { sites, validity: Validity { days }, hook, force } => {
                issue(dir, &sites, days, &hook, force)
            }
            Self::Finish { hook, force } => finish(dir, &hook, force),
        }
    }
}

/// Which files to bring where, where only the CAs have changed.
const COPY: &str =
    "copy ca.crt and crl.pem from every site's folder to its host, or the folder whole; then on each host";

/// As [`COPY`], for new certificates. A key that was made on its host stays there.
const COPY_WHOLE: &str = "copy every site's folder to its host, whole; then on each host";

/// The step after every site has its new certificate.
const THEN_FINISH: &str = "  after every gateway has them, and not before: replgate certs rollover finish";

fn start(dir: &Path, name: Option<&str>, hook: &Hook) -> Outcome {
    let started = rollover::start(dir, name)?;
    match started.was_there {
        false => crate::outln::outln!("made a new CA, in {}", dir.join("ca/next").display()),
        true => crate::outln::outln!("the new CA was made before; the files of all sites were written again"),
    }
    tell_ca("new", &started.next);
    let failures = hook.run_all(dir)?;
    tell_next(dir, &rollover::status(dir)?);
    fail_if_any(&failures)
}

fn issue(dir: &Path, sites: &[String], days: u32, hook: &Hook, force: bool) -> Outcome {
    let due = rollover::to_issue(dir, sites, force)?;
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for site in due {
        // A fault at one site does not stop the others.
        match rollover::issue(dir, &site, days) {
            Ok(one) => {
                tell(&one)?;
                made.push(one);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    failures.extend(hook.run_all(dir)?);
    let status = rollover::status(dir)?;
    if made.is_empty() || status.sites.iter().any(Site::needs_new) {
        tell_next(dir, &status);
    } else {
        next(&made, RELOAD)?;
        crate::outln::outln!("{THEN_FINISH}");
    }
    fail_if_any(&failures)
}

fn finish(dir: &Path, hook: &Hook, force: bool) -> Outcome {
    let finished = rollover::finish(dir, force)?;
    crate::outln::outln!(
        "the new CA is the only one; the old one, with its key, is in {}",
        finished.aside.display()
    );
    for site in finished.cut_off {
        crate::outln::outln!(
            "  {site} is cut off once the others have the new files; to let it in: replgate certs issue {site} --force"
        );
    }
    for folder in finished.revoked {
        crate::outln::outln!("  {} is of a revoked site; remove it", folder.display());
    }
    let failures = hook.run_all(dir)?;
    crate::outln::outln!("\nnext: {COPY}: {RELOAD}");
    crate::outln::outln!(
        "  nothing needs the old CA any more: move {} to a safe place, or delete it",
        finished.aside.display()
    );
    fail_if_any(&failures)
}

/// `certs rollover` without a step: where it stands.
pub(super) fn status(dir: &Path) -> Outcome {
    let status = rollover::status(dir)?;
    match &status.next {
        None => tell_ca("CA ", &status.present),
        Some(next) => {
            tell_ca("old", &status.present);
            tell_ca("new", next);
        }
    }
    for site in &status.sites {
        crate::outln::outln!("{:<16}  {}", site.name, standing(site, status.stage));
    }
    tell_next(dir, &status);
    Ok(())
}

fn tell_ca(which: &str, ca: &Certificate) {
    crate::outln::outln!("{which}  {}", crate::escape::shown(ca.subject.as_bytes()));
    crate::outln::outln!("     sha256   {}", ca.fingerprint);
    crate::outln::outln!("     expires  {}", expiry(ca));
}

fn standing(site: &Site, stage: Stage) -> String {
    let mut words = match (site.of, stage) {
        (None, _) => "certificate of another CA".to_owned(),
        (Some(_), Stage::None) => "certificate of this CA".to_owned(),
        (Some(generation), _) => format!("certificate of the {} CA", generation.word()),
    };
    for (holds, more) in [
        (site.is_revoked, ", revoked"),
        (site.is_expired, ", expired"),
        (!site.has_folder, ", but no folder here"),
        (site.hook_failed, "; the last hook failed"),
    ] {
        if holds {
            words += more;
        }
    }
    words
}

fn tell_next(dir: &Path, status: &Status) {
    let waiting: Vec<&str> =
        status.sites.iter().filter(|site| site.needs_new()).map(|site| site.name.as_str()).collect();
    match status.stage {
        Stage::None => crate::outln::outln!(
            "\nno rollover is under way; to replace the CA in {}: replgate certs rollover start",
            dir.join("ca").display()
        ),
        Stage::Started => crate::outln::outln!(
            "\nnext: {COPY}: {RELOAD}\n  after every gateway has them, and not before: replgate certs rollover issue"
        ),
        Stage::Issuing if !waiting.is_empty() => crate::outln::outln!(
            "\nnext: replgate certs rollover issue: still with a certificate of the old CA: {}\n  a site that does not come back: replgate certs revoke SITE",
            waiting.join(", ")
        ),
        Stage::Issuing => crate::outln::outln!("\nnext: {COPY_WHOLE}: {RELOAD}\n{THEN_FINISH}"),
    }
}
