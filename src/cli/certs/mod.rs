//! `replgate certs`: one file for each subcommand.
//!
//! Each subcommand prints what it made, where it is, and what to do next.

mod hook;
mod init;
mod inspect;
mod list;
mod renew;
mod request;
mod revoke;
mod rollover;
mod sign;
mod verify;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::hook::Hook;
use self::init::{complete, init};
use self::inspect::inspect;
use self::list::list;
use self::renew::renew;
use self::request::request;
use self::revoke::revoke;
use self::rollover::Step;
use self::sign::sign;
use self::verify::verify;
use super::{Failure, Outcome};
use crate::certs::{self, LEAF_DAYS, Made, Names};
use crate::clock;
use crate::x509::{Certificate, some_of};

/// A small CA in a folder. Keep DIR/ca on one safe machine; copy the whole folder DIR/SITE
/// to that site's gateway.
#[derive(Debug, Args)]
pub(super) struct Certs {
    /// The folder with the CA and the sites
    #[arg(long, global = true, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the CA, and a certificate for each SITE
    Init {
        /// Sites to make certificates for; you can issue more later
        sites: Vec<String>,
        /// The CA's name
        #[arg(long, default_value = "replgate CA")]
        name: String,
        #[command(flatten)]
        validity: Validity,
        /// Start over: move an existing CA aside, and replace site certificates
        #[arg(long)]
        force: bool,
        /// Make only what is missing, and keep existing keys and certificates. For scripts and containers
        #[arg(long, conflicts_with = "force")]
        if_missing: bool,
    },
    /// Make a key and a certificate for a site
    Issue {
        /// The site's name, as `site` in its gateway.toml
        site: String,
        #[command(flatten)]
        names: MoreNames,
        #[command(flatten)]
        validity: Validity,
        /// Replace an existing certificate
        #[arg(long)]
        force: bool,
    },
    /// On a site's own host: make a key, which stays there, and a signing request
    Request {
        /// The site's name, as `site` in its gateway.toml
        site: String,
        #[command(flatten)]
        names: MoreNames,
        /// Replace an existing key
        #[arg(long)]
        force: bool,
    },
    /// On the CA's machine: sign a site's request, for the names that you confirm
    Sign {
        /// The request
        file: PathBuf,
        /// The site to sign it for; without it the names are shown and asked for
        #[arg(long)]
        site: Option<String>,
        #[command(flatten)]
        names: MoreNames,
        #[command(flatten)]
        validity: Validity,
        /// Replace an existing certificate, and sign a request that asks for another site
        #[arg(long)]
        force: bool,
    },
    /// Show what a PEM file holds, or the certificate that a gateway presents
    Inspect {
        /// A file, or HOST:PORT
        what: String,
    },
    /// Verify sites' folders: chain, revocation, key, names, expiry
    Verify {
        /// Sites; all of them by default
        sites: Vec<String>,
    },
    /// Renew sites' certificates, with the same names
    Renew {
        /// Sites; all of them by default
        sites: Vec<String>,
        /// Only certificates with less than a third of their life left
        #[arg(long)]
        if_due: bool,
        /// Print nothing about sites that need nothing. For timers
        #[arg(long, requires = "if_due")]
        quiet: bool,
        #[command(flatten)]
        hook: Hook,
        #[command(flatten)]
        validity: Validity,
    },
    /// Replace the CA without an outage, step by step; without a step: where it stands, what is next
    Rollover {
        #[command(subcommand)]
        step: Option<Step>,
    },
    /// Revoke one certificate, or all certificates of a site, and refresh every site's folder
    Revoke {
        /// A site, or a serial number as `list` shows it
        what: String,
    },
    /// Show every certificate that was issued
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Names beside the site's.
#[derive(Debug, Args)]
struct MoreNames {
    /// Another DNS name or IP address; may be given several times
    #[arg(long = "san", value_name = "NAME")]
    sans: Vec<String>,
}

/// How long a new certificate is valid.
#[derive(Debug, Args)]
struct Validity {
    /// Days that a site's certificate is valid
    #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// The commands to run on a host after it got its first certificate.
const START: &str = "replgate check --offline && replgate run";

/// The commands to run on a host whose gateway is running, after it got a new certificate.
const RELOAD: &str = "replgate check --offline && systemctl reload replgate (or SIGHUP); no link is broken";

impl Certs {
    pub(super) fn execute(self) -> Outcome {
        let dir = self.dir.as_path();
        match self.action {
            Action::Init { sites, name, validity: Validity { days }, if_missing: true, .. } => {
                complete(dir, &sites, &name, days)
            }
            Action::Init { sites, name, validity: Validity { days }, force, .. } => {
                init(dir, &sites, &name, days, force)
            }
            Action::Issue { site, names, validity: Validity { days }, force } => {
                let made = certs::issue(dir, &wanted(&site, &names)?, days, force)?;
                tell(&made)?;
                next(&[made], START)
            }
            Action::Request { site, names, force } => request(dir, &wanted(&site, &names)?, force),
            Action::Sign { file, site, names, validity: Validity { days }, force } => {
                sign(dir, &file, site.as_deref(), &names, days, force)
            }
            Action::Inspect { what } => inspect(&what),
            Action::Verify { sites } => verify(dir, sites),
            Action::Renew { sites, if_due, quiet, hook, validity: Validity { days } } => {
                renew(dir, sites, if_due, quiet, &hook, days)
            }
            Action::Rollover { step: Some(step) } => step.execute(dir),
            Action::Rollover { step: None } => rollover::status(dir),
            Action::Revoke { what } => revoke(dir, &what),
            Action::List { json } => list(dir, json),
        }
    }
}

fn wanted(site: &str, more: &MoreNames) -> Result<Names, Failure> {
    Names::new(site, &more.sans).map_err(|error| Failure::Usage(error.to_string()))
}

/// Prints what was made for one site.
fn tell(made: &Made) -> Outcome {
    let mut out = std::io::stdout().lock();
    let folder = made.folder.display();
    writeln!(out, "\nsite {}", made.site)?;
    writeln!(out, "  certificate  {folder}/tls.crt, for {}", names_of(&made.facts))?;
    match made.with_key {
        true => writeln!(out, "  key          {folder}/tls.key (0600)")?,
        false => writeln!(out, "  key          stays on the site's host")?,
    }
    if let Some(old) = &made.old_key {
        writeln!(out, "  old key      moved to {}: it does not belong to this certificate", old.display())?;
    }
    writeln!(out, "  serial       {}", made.facts.serial_text())?;
    writeln!(out, "  sha256       {}", made.facts.fingerprint)?;
    writeln!(out, "  expires      {}", expiry(&made.facts))?;
    writeln!(out, "  in its gateway.toml:\n")?;
    writeln!(out, "    site = \"{}\"\n\n    [tls]", made.site)?;
    for (key, file) in [("ca  ", "ca.crt"), ("cert", "tls.crt"), ("key ", "tls.key"), ("crl ", "crl.pem")] {
        writeln!(out, "    {key} = \"{folder}/{file}\"")?;
    }
    Ok(())
}

/// Prints what to do after new certificates were made; `then` is what to run on each host.
fn next(made: &[Made], then: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nnext:")?;
    for made in made {
        let folder = made.folder.display();
        if made.with_key {
            // The copy goes into the parent folder, which exists: otherwise a second copy would be
            // put inside the first.
            writeln!(
                out,
                "  copy {folder}, whole, to the host of {}, for example:\n    ssh root@{} mkdir -p /etc/replgate/certs && scp -rp {folder} root@{}:/etc/replgate/certs/",
                made.site, made.site, made.site
            )?;
        } else {
            writeln!(
                out,
                "  copy tls.crt, ca.crt and crl.pem from {folder} to the host of {}, beside its tls.key",
                made.site
            )?;
        }
    }
    writeln!(out, "  then on each host: {then}")?;
    Ok(())
}

/// Reports what went wrong for some sites, after the rest is done.
fn fail_if_any(failures: &[String]) -> Outcome {
    failures.iter().for_each(|failure| eprintln!("replgate: {failure}"));
    if failures.is_empty() { Ok(()) } else { Err(Failure::Unwell) }
}

fn names_of(facts: &Certificate) -> String {
    some_of(&facts.dns.iter().cloned().chain(facts.ips.iter().map(ToString::to_string)).collect::<Vec<_>>())
}

fn expiry(facts: &Certificate) -> String {
    let left = facts.not_after - clock::now();
    let span = clock::span(left);
    format!(
        "{} ({})",
        clock::utc(facts.not_after),
        if left < 0 { format!("{span} ago") } else { format!("in {span}") }
    )
}
