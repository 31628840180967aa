//! `replgate certs`: says what it made, where it is, and what comes next.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{Failure, Outcome, block_on};
use crate::certs::complete::Completed;
use crate::certs::ledger::Issued;
use crate::certs::{self, LEAF_DAYS, Made, Names};
use crate::clock;
use crate::config::{TlsFiles, units};
use crate::tls::material::Material;
use crate::tls::pem::{Content, Contents, PemError};
use crate::tls::{fetch_chain, pem};
use crate::x509::{Certificate, RevocationList, some_of};

/// A small CA in a folder. Keep DIR/ca on one safe machine; copy DIR/SITE, whole,
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
        /// Sites to make certificates for; more can be issued later
        sites: Vec<String>,
        /// The CA's name
        #[arg(long, default_value = "replgate CA")]
        name: String,
        /// Days that site certificates are good for
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Start anew: a CA that is there is moved aside, and site certificates are replaced
        #[arg(long)]
        force: bool,
        /// Make only what is missing: keys and certificates that are there stay. For scripts and containers
        #[arg(long, conflicts_with = "force")]
        if_missing: bool,
    },
    /// Make a key and a certificate for a site
    Issue {
        /// The site's name, as `site` in its gateway.toml
        site: String,
        #[command(flatten)]
        names: MoreNames,
        /// Days that the certificate is good for
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Replace a certificate that is there
        #[arg(long)]
        force: bool,
    },
    /// On a site's own host: make a key, which stays there, and a request to be signed
    Request {
        /// The site's name, as `site` in its gateway.toml
        site: String,
        #[command(flatten)]
        names: MoreNames,
        /// Replace a key that is there
        #[arg(long)]
        force: bool,
    },
    /// Where the CA is: sign a site's request, for the names that you confirm
    Sign {
        /// The request
        file: PathBuf,
        /// The site to sign it for; without it the names are shown and asked for
        #[arg(long)]
        site: Option<String>,
        #[command(flatten)]
        names: MoreNames,
        /// Days that the certificate is good for
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Replace a certificate that is there, and sign a request that asks for another site
        #[arg(long)]
        force: bool,
    },
    /// Show what a PEM file holds, or the certificate that a gateway shows
    Inspect {
        /// A file, or HOST:PORT
        what: String,
    },
    /// Prove sites' folders: chain, revocation, key, names, expiry
    Verify {
        /// Sites; all of them by default
        sites: Vec<String>,
    },
    /// Make sites' certificates anew, with the same names
    Renew {
        /// Sites; all of them by default
        sites: Vec<String>,
        /// Only those with less than a third of their life left
        #[arg(long)]
        if_due: bool,
        /// Shell command to run after each renewal, with REPLGATE_SITE and REPLGATE_DIR set
        #[arg(long, value_name = "CMD")]
        hook: Option<String>,
        /// Days that the certificate is good for
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Revoke a certificate, or all that a site has, and refresh every site's folder
    Revoke {
        /// A site, or a serial number as `list` shows it
        what: String,
    },
    /// Show everything that was issued
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Names beside the site's.
#[derive(Debug, Args)]
struct MoreNames {
    /// One more DNS name or address; may be given again
    #[arg(long = "san", value_name = "NAME")]
    sans: Vec<String>,
}

/// What a host does with the first certificate of its site.
const START: &str = "replgate check --offline && replgate run";

/// And with a new one, while its gateway runs.
const RELOAD: &str = "replgate check --offline && systemctl reload replgate (or SIGHUP); no link is broken";

impl Certs {
    pub(super) fn execute(self) -> Outcome {
        let dir = self.dir.as_path();
        match self.action {
            Action::Init { sites, name, days, if_missing: true, .. } => complete(dir, &sites, &name, days),
            Action::Init { sites, name, days, force, .. } => init(dir, &sites, &name, days, force),
            Action::Issue { site, names, days, force } => {
                let made = certs::issue(dir, &wanted(&site, &names)?, days, force)?;
                tell(&made)?;
                next(&[made], START)
            }
            Action::Request { site, names, force } => request(dir, &wanted(&site, &names)?, force),
            Action::Sign { file, site, names, days, force } => {
                sign(dir, &file, site.as_deref(), &names, days, force)
            }
            Action::Inspect { what } => inspect(&what),
            Action::Verify { sites } => verify(dir, sites),
            Action::Renew { sites, if_due, hook, days } => renew(dir, sites, if_due, hook.as_deref(), days),
            Action::Revoke { what } => revoke(dir, &what),
            Action::List { json } => list(dir, json),
        }
    }
}

fn wanted(site: &str, more: &MoreNames) -> Result<Names, Failure> {
    Names::new(site, &more.sans).map_err(|error| Failure::Usage(error.to_string()))
}

/// The names of all sites, judged before anything is made.
fn all_names(sites: &[String]) -> Result<Vec<Names>, Failure> {
    if let Some(twice) = sites.iter().enumerate().find(|(at, site)| sites[..*at].contains(site)) {
        return Err(Failure::Usage(format!("the site {:?} is named twice", twice.1)));
    }
    sites.iter().map(|site| wanted(site, &MoreNames { sans: Vec::new() })).collect()
}

fn init(dir: &Path, sites: &[String], name: &str, days: u32, force: bool) -> Outcome {
    let all = all_names(sites)?;
    if !force {
        for names in &all {
            let there = dir.join(names.site()).join("tls.key");
            if there.exists() {
                return Err(anyhow::anyhow!(
                    "{} is there already; nothing was changed. To add other sites: replgate certs issue SITE. To start anew with a new CA, which every site must follow: add --force",
                    there.display()
                )
                .into());
            }
        }
    }
    let (facts, aside) = certs::init(dir, name, force)?;
    if let Some(aside) = aside {
        crate::outln::outln!(
            "the old CA was moved to {}; certificates of it are not trusted by new ones\n",
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

fn complete(dir: &Path, sites: &[String], name: &str, days: u32) -> Outcome {
    let mut done = Completed::default();
    let outcome = certs::complete::complete(dir, &all_names(sites)?, name, days, &mut done);
    // What was made is told, whatever came after it.
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
    // What was left may be expired, revoked or damaged: that is for its owner to mend.
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

/// What was made for one site.
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

/// What comes after new certificates; `then` is what each host does with them.
fn next(made: &[Made], then: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nnext:")?;
    for made in made {
        let folder = made.folder.display();
        if made.with_key {
            // Into the folder above, which is made before: a second copy lands inside the first otherwise.
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

fn request(dir: &Path, names: &Names, force: bool) -> Outcome {
    let (path, fingerprint) = certs::request(dir, names, force)?;
    let folder = path.parent().unwrap_or(dir).display();
    crate::outln::outln!("request for {}", names.text());
    crate::outln::outln!("  request      {}", path.display());
    crate::outln::outln!("  key          {folder}/tls.key (0600; it stays on this host)");
    crate::outln::outln!("  key sha256   {fingerprint}");
    crate::outln::outln!("\nnext: copy {} to where the CA is, and sign it there:", path.display());
    crate::outln::outln!("  replgate certs sign tls.csr --site {}", names.site());
    crate::outln::outln!(
        "  compare the key's sha256 over another channel; then bring tls.crt, ca.crt and crl.pem back to {folder}"
    );
    Ok(())
}

fn sign(dir: &Path, file: &Path, site: Option<&str>, more: &MoreNames, days: u32, force: bool) -> Outcome {
    let asked = certs::read_request(file)?;
    let wishes: Vec<String> =
        asked.dns.iter().cloned().chain(asked.ips.iter().map(ToString::to_string)).collect();
    crate::outln::outln!("request {}", file.display());
    crate::outln::outln!("  key          {}", asked.key);
    crate::outln::outln!("  key sha256   {}", asked.fingerprint);
    crate::outln::outln!(
        "  asks for     {}",
        if wishes.is_empty() { "no names".to_owned() } else { some_of(&wishes) }
    );
    let names = match site {
        Some(site) => {
            let names = wanted(site, more)?;
            let asks = |wish: &String| wish.eq_ignore_ascii_case(names.site());
            if !wishes.is_empty() && !wishes.iter().any(asks) && !force {
                return Err(anyhow::anyhow!(
                    "{} asks for {}, not for {}; nothing was signed. Is it another site's request? To sign its key for {} all the same: add --force",
                    file.display(),
                    some_of(&wishes),
                    names.site(),
                    names.site()
                )
                .into());
            }
            names
        }
        None => {
            let first = wishes.first().or(asked.common_name.as_ref()).cloned();
            let Some(first) = first else {
                return Err(Failure::Usage("the request names no site; say which: --site SITE".to_owned()));
            };
            let mut rest: Vec<String> = wishes.iter().skip(1).cloned().collect();
            rest.extend(more.sans.iter().cloned());
            let names = Names::new(&first, &rest)?;
            confirm(&names)?;
            names
        }
    };
    let made = certs::sign(dir, &asked, &names, days, force)?;
    tell(&made)?;
    next(&[made], START)
}

/// Asks the operator for a yes to these names.
fn confirm(names: &Names) -> Outcome {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "confirm the names of the certificate: --site {}{}",
            names.site(),
            names.text().split(", ").skip(1).map(|name| format!(" --san {name}")).collect::<String>()
        )));
    }
    print!("sign it for {}? [y/N] ", names.text());
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(anyhow::anyhow!("not signed").into()),
    }
}

fn inspect(what: &str) -> Outcome {
    let path = Path::new(what);
    if path.exists() {
        return inspect_file(path);
    }
    let Ok(address) = units::address(what) else {
        return Err(anyhow::anyhow!("{what}: there is no such file, and it is no HOST:PORT").into());
    };
    let chain =
        block_on(fetch_chain::fetch_chain(&address))?.with_context(|| format!("look at {address}"))?;
    crate::outln::outln!("{address} shows (not verified):");
    for certificate in chain {
        print_certificate(&Certificate::read(&certificate)?)?;
    }
    Ok(())
}

fn inspect_file(path: &Path) -> Outcome {
    let Contents { blocks, faults } = pem::contents(path)?;
    if blocks.is_empty() && faults.is_empty() {
        pem::certificates(path)?;
    }
    for block in blocks {
        match block.content {
            Content::Certificate(certificate) => print_certificate(&Certificate::read(&certificate)?)?,
            Content::List(list) => print_list(RevocationList::read(&list)?),
            Content::Request(request) => print_request(&certs::asked(&request, path)?),
            Content::Key(_) => crate::outln::outln!("private key (not shown)"),
            Content::EncryptedKey => return Err(PemError::Encrypted { path: path.to_owned() }.into()),
            Content::Parameters => {}
            Content::PublicKey => crate::outln::outln!("public key (not shown)"),
        }
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(PemError::Faulty { path: path.to_owned(), faults }.into()),
    }
}

fn print_list(list: RevocationList) {
    crate::outln::outln!("revocation list");
    crate::outln::outln!("  issuer       {}", crate::escape::shown(list.issuer.as_bytes()));
    crate::outln::outln!("  made         {}", clock::utc(list.this_update));
    crate::outln::outln!(
        "  good until   {}",
        list.next_update.map_or_else(|| "not stated".to_owned(), clock::utc)
    );
    crate::outln::outln!("  revoked      {}", list.revoked.len());
    for (serial, when) in list.revoked {
        crate::outln::outln!("               {} on {}", crate::x509::hex(&serial), clock::utc(when));
    }
}

fn print_request(asked: &certs::Asked) {
    let wishes = asked.dns.iter().cloned().chain(asked.ips.iter().map(ToString::to_string));
    crate::outln::outln!("signing request");
    crate::outln::outln!("  key          {}", asked.key);
    crate::outln::outln!("  key sha256   {}", asked.fingerprint);
    crate::outln::outln!("  asks for     {}", some_of(&wishes.collect::<Vec<_>>()));
}

fn print_certificate(facts: &Certificate) -> Outcome {
    let usage: Vec<&str> = [(facts.client_auth, "clientAuth"), (facts.server_auth, "serverAuth")]
        .iter()
        .filter(|(there, _)| *there)
        .map(|(_, name)| *name)
        .collect();
    crate::outln::outln!("{}", if facts.is_ca { "CA certificate" } else { "certificate" });
    crate::outln::outln!("  subject      {}", crate::escape::shown(facts.subject.as_bytes()));
    crate::outln::outln!("  issuer       {}", crate::escape::shown(facts.issuer.as_bytes()));
    crate::outln::outln!("  names        {}", names_of(facts));
    crate::outln::outln!("  serial       {}", facts.serial_text());
    crate::outln::outln!("  valid from   {}", clock::utc(facts.not_before));
    crate::outln::outln!("  expires      {}", expiry(facts));
    crate::outln::outln!("  key          {}", facts.key);
    match (facts.is_ca, facts.path_length) {
        (true, Some(length)) => crate::outln::outln!("  may sign     sites, and CAs {length} deep"),
        (true, None) => crate::outln::outln!("  may sign     sites and CAs"),
        (false, _) => crate::outln::outln!("  good for     {}", usage.join(", ")),
    }
    crate::outln::outln!("  sha256       {}", facts.fingerprint);
    Ok(())
}

fn verify(dir: &Path, sites: Vec<String>) -> Outcome {
    let sites = if sites.is_empty() { certs::sites(dir)? } else { sites };
    if sites.is_empty() {
        return Err(anyhow::anyhow!(
            "no site has a certificate in {}; replgate certs issue SITE",
            dir.display()
        )
        .into());
    }
    let mut failed = false;
    for site in sites {
        let folder = dir.join(&site);
        let mut faults = outdated(dir, &folder);
        let paths = TlsFiles {
            ca: folder.join("ca.crt"),
            cert: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            crl: Some(folder.join("crl.pem")),
        };
        let (mut warnings, mut good) = (Vec::new(), String::new());
        if paths.key.exists() {
            match Material::load(&paths, &site) {
                Ok(material) => {
                    good = expiry(&material.leaf);
                    warnings = material.warnings;
                }
                Err(found) => faults.extend(found),
            }
        } else {
            match Material::judge(&paths, &site) {
                Ok((leaf, found)) => {
                    good = format!("{} (its key is on its own host)", expiry(&leaf));
                    warnings = found;
                }
                Err(found) => faults.extend(found),
            }
        }
        failed |= !faults.is_empty();
        if faults.is_empty() {
            crate::outln::outln!("ok    {site}: good until {good}");
        }
        warnings.iter().for_each(|warning| crate::outln::outln!("warn  {site}: {warning}"));
        faults.iter().for_each(|fault| crate::outln::outln!("fail  {site}: {fault}"));
    }
    if failed { Err(Failure::Unwell) } else { Ok(()) }
}

/// What in a site's folder is not as the CA beside it has it.
fn outdated(dir: &Path, folder: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for name in ["ca.crt", "crl.pem"] {
        let (own, of_ca) = (pem::read(&folder.join(name)), pem::read(&dir.join("ca").join(name)));
        if let (Ok(own), Ok(of_ca)) = (own, of_ca)
            && own != of_ca
        {
            faults.push(format!(
                "{} is not the same as {}: copy it there",
                folder.join(name).display(),
                dir.join("ca").join(name).display()
            ));
        }
    }
    faults
}

fn renew(dir: &Path, sites: Vec<String>, if_due: bool, hook: Option<&str>, days: u32) -> Outcome {
    let sites = if sites.is_empty() { certs::sites(dir)? } else { sites };
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for site in sites {
        // One site's fault does not keep the others from being renewed.
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
            "\nthe certificates before are good until they expire; revoke them by serial number if a key was lost"
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

/// Runs the hook where one has to run for this site: since its last renewal none went well.
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

fn revoke(dir: &Path, what: &str) -> Outcome {
    let all = certs::revoke(dir, what)?;
    if all.is_empty() {
        crate::outln::outln!("{what} was revoked before; the lists of all sites were written again");
    }
    for revoked in all {
        crate::outln::outln!(
            "revoked {} of site {} (good until {})",
            revoked.serial,
            revoked.site,
            clock::utc(revoked.expires)
        );
    }
    crate::outln::outln!(
        "\nnext: it is refused only where the new list is: copy crl.pem to every site, then on each host: systemctl reload replgate (or SIGHUP)"
    );
    for site in certs::sites(dir)? {
        crate::outln::outln!("  {}", dir.join(site).join("crl.pem").display());
    }
    Ok(())
}

/// One certificate in JSON: as in the ledger, its names one by one.
fn listed(entry: &Issued) -> Result<serde_json::Value, serde_json::Error> {
    let mut listed = serde_json::to_value(entry)?;
    listed["names"] = entry.names.split(", ").collect();
    Ok(listed)
}

fn list(dir: &Path, json: bool) -> Outcome {
    let entries = certs::list(dir)?;
    if json {
        let listed = entries.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        crate::outln::outln!("{}", serde_json::to_string(&listed)?);
        return Ok(());
    }
    if entries.is_empty() {
        crate::outln::outln!("nothing was issued yet");
        return Ok(());
    }
    let now = clock::now();
    crate::outln::outln!("{:<16}  {:<12}  {:<20}  {:<47}  NAMES", "SITE", "STATE", "EXPIRES", "SERIAL");
    for entry in entries {
        let state = match entry.revoked {
            Some(_) => "revoked",
            None if entry.expires < now => "expired",
            None => "good",
        };
        crate::outln::outln!(
            "{:<16}  {:<12}  {:<20}  {:<47}  {}",
            entry.site,
            state,
            clock::utc(entry.expires),
            entry.serial,
            some_of(&entry.names.split(", ").map(str::to_owned).collect::<Vec<_>>())
        );
    }
    Ok(())
}
