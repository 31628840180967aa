//! Replaces the CA while every site goes on.
//!
//! A certificate of the new CA is good only where that CA is trusted, so there are three steps, and
//! files are copied to all sites after each:
//!
//! ```text
//! start    the new CA is made; every site's ca.crt holds both; the old one signs
//! issue    the new CA signs a certificate for every site, and whatever is signed from now on
//! finish   ca.crt holds the new CA alone; the old one is put away, with its key
//! ```
//!
//! What tells the steps apart is what lies in the folder: the new CA in `ca/next`, and whether its
//! ledger has an entry. Each step can be run again after it was interrupted.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};

use super::cas::{Ca, Cas, Generation};
use super::ledger::Ledger;
use super::store::{Folder, New};
use super::{Made, current, delivery, new_ca, renewed};
use crate::clock;
use crate::x509::Certificate;

/// How far a rollover has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is one CA.
    None,
    /// There is a second CA, which has signed nothing yet.
    Started,
    /// The second CA signs.
    Issuing,
}

/// A site during a rollover.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// The CA of its certificate; `None` if neither has signed it.
    pub of: Option<Generation>,
    /// Whether its certificate is revoked.
    pub is_revoked: bool,
    /// Whether its certificate has expired.
    pub is_expired: bool,
    /// Whether it has a folder.
    pub has_folder: bool,
    /// Whether the last hook for it failed.
    pub hook_failed: bool,
}

impl Site {
    /// Whether it would be cut off if the old CA left now.
    pub fn needs_new(&self) -> bool {
        self.of == Some(Generation::Old) && !self.is_revoked && !self.is_expired
    }
}

/// Where a rollover stands.
#[derive(Debug)]
pub struct Status {
    /// How far it has come.
    pub stage: Stage,
    /// The CA, or the old one during a rollover.
    pub present: Certificate,
    /// The new CA.
    pub next: Option<Certificate>,
    /// Every site with a folder or a valid certificate, sorted.
    pub sites: Vec<Site>,
}

/// Where the rollover in `dir` stands.
pub fn status(dir: &Path) -> anyhow::Result<Status> {
    let folder = Folder::new(dir);
    let cas = Cas::load(&folder)?;
    status_of(dir, &folder, cas)
}

fn status_of(dir: &Path, folder: &Folder, cas: Cas) -> anyhow::Result<Status> {
    let now = clock::now();
    let with_folder = folder.sites()?;
    let mut sites = Vec::new();
    for name in &with_folder {
        let facts = current(folder, name)?;
        let serial = facts.serial_text();
        let of = if cas.next.as_ref().is_some_and(|next| next.find(&serial).is_some()) {
            Some(Generation::New)
        } else {
            cas.present.find(&serial).map(|_| Generation::Old)
        };
        sites.push(Site {
            name: name.clone(),
            of,
            is_revoked: cas.has_revoked(&serial),
            is_expired: facts.not_after <= now,
            has_folder: true,
            hook_failed: delivery::undelivered(dir, name).is_some_and(|waits| waits.hook_failed),
        });
    }
    // Sites whose folder is gone, while their certificates are good.
    let good = |ca: Option<&Ca>, site: &str| {
        ca.is_some_and(|ca| {
            ca.ledger.certificates.iter().any(|entry| entry.is_of(site) && entry.is_good(now))
        })
    };
    for entry in cas.present.ledger.certificates.iter().filter(|entry| entry.is_good(now)) {
        if sites.iter().any(|site| site.name.eq_ignore_ascii_case(&entry.site)) {
            continue;
        }
        let of = if good(cas.next.as_ref(), &entry.site) { Generation::New } else { Generation::Old };
        sites.push(Site {
            name: entry.site.clone(),
            of: Some(of),
            is_revoked: false,
            is_expired: false,
            has_folder: false,
            hook_failed: false,
        });
    }
    sites.sort_by(|one, other| one.name.cmp(&other.name));
    let stage = match &cas.next {
        None => Stage::None,
        Some(_) if cas.next_issues() => Stage::Issuing,
        Some(_) => Stage::Started,
    };
    let next = cas.next.map(|next| next.authority.facts);
    Ok(Status { stage, present: cas.present.authority.facts, next, sites })
}

/// What [`start`] did.
#[derive(Debug)]
pub struct Started {
    /// The new CA.
    pub next: Certificate,
    /// Whether it was there already.
    pub was_there: bool,
}

/// Makes the new CA beside the old one, and lets every site's files name both. If that was done
/// before, only the sites' files are written again.
pub fn start(dir: &Path, name: Option<&str>) -> anyhow::Result<Started> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    let cas = Cas::load(&folder)?;
    let was_there = cas.next.is_some();
    if !was_there {
        ensure!(
            Ledger::is_blank(&folder, &folder.next()),
            "{} records what the new CA has signed, but its ca.crt is gone; nothing was changed. Put it back from a backup",
            folder.next().join("issued.toml").display()
        );
        let name = name.map_or_else(|| following(&cas.present.authority.facts), str::to_owned);
        let (files, _) = new_ca(&folder.next(), &name)?;
        folder.write(&files)?;
    }
    let cas = Cas::load(&folder)?;
    let mut files = cas.refreshed(&folder, None)?;
    let next = cas.next.as_ref().map(|next| next.authority.facts.clone());
    let Some(next) = next else { bail!("{} is gone again", folder.next().display()) };
    let what = format!("both CAs, the new one is {}", next.fingerprint);
    files.splice(0..0, records(&folder, &cas, &folder.ca(), &what)?);
    folder.write(&files)?;
    Ok(Started { next, was_there })
}

/// The name of the CA that follows this one: with a number that counts up.
fn following(ca: &Certificate) -> String {
    let name = ca.common_name.as_deref().unwrap_or("replgate CA");
    let numbered = name.rsplit_once(' ').and_then(|(stem, number)| Some((stem, number.parse::<u32>().ok()?)));
    match numbered {
        Some((stem, number)) => format!("{stem} {}", u64::from(number) + 1),
        None => format!("{name} 2"),
    }
}

/// Records for all sites that they need new files, but for those that were revoked. A record of the
/// same files stays: it may say that their hook has failed.
fn records(folder: &Folder, cas: &Cas, place: &Path, what: &str) -> anyhow::Result<Vec<New>> {
    let mut records = Vec::new();
    for site in folder.sites()? {
        let is_recorded = delivery::in_place(place, &site).is_some_and(|waits| waits.is_for(what));
        if !is_recorded && !cas.has_revoked(&current(folder, &site)?.serial_text()) {
            records.push(delivery::record(place, &site, what));
        }
    }
    Ok(records)
}

/// The sites that need a certificate of the new CA, those of `wanted` or all. Refused before the
/// first step, and while a hook has failed, unless `force`: that site may not trust the new CA yet.
pub fn to_issue(dir: &Path, wanted: &[String], force: bool) -> anyhow::Result<Vec<String>> {
    let status = status(dir)?;
    ensure!(
        status.stage != Stage::None,
        "no rollover is under way in {}; nothing was changed. To begin one: replgate certs rollover start",
        dir.display()
    );
    if let Some(unknown) = wanted.iter().find(|name| !status.sites.iter().any(|site| site.name == **name)) {
        bail!("{unknown} has no certificate in {}; replgate certs issue {unknown}", dir.display());
    }
    let failed: Vec<&str> =
        status.sites.iter().filter(|site| site.hook_failed).map(|site| site.name.as_str()).collect();
    ensure!(
        force || status.stage != Stage::Started || failed.is_empty(),
        "the last hook failed for {}, which may not trust the new CA yet; nothing was changed. Run it again: replgate certs rollover start --hook COMMAND. To go on nevertheless: add --force",
        failed.join(", ")
    );
    let is_due = |site: &&Site| {
        site.has_folder
            && site.of == Some(Generation::Old)
            && !site.is_revoked
            && (wanted.is_empty() || wanted.contains(&site.name))
    };
    Ok(status.sites.iter().filter(is_due).map(|site| site.name.clone()).collect())
}

/// Issues a site's certificate by the new CA, with the same names.
pub fn issue(dir: &Path, site: &str, days: u32) -> anyhow::Result<Made> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    renewed(&folder, site, days, true)
}

/// What [`finish`] did.
#[derive(Debug)]
pub struct Finished {
    /// Where the old CA is now.
    pub aside: PathBuf,
    /// Sites that are cut off, since their certificate is of the old CA.
    pub cut_off: Vec<String>,
    /// Folders of sites whose certificate was revoked.
    pub revoked: Vec<PathBuf>,
}

/// Takes the old CA out of every site's files and puts it away. Refused while a site needs it,
/// unless `force`.
pub fn finish(dir: &Path, force: bool) -> anyhow::Result<Finished> {
    let folder = Folder::new(dir);
    let _lock = folder.lock_as_it_is()?;
    if folder.is_finishing() {
        return Ok(Finished { aside: folder.put_next_in_place()?, cut_off: Vec::new(), revoked: Vec::new() });
    }
    let cas = Cas::load(&folder)?;
    let Some(next) = &cas.next else {
        bail!(
            "no rollover is under way in {}; nothing was changed. To begin one: replgate certs rollover start",
            dir.display()
        );
    };
    let (list_file, list) = next.list_file()?;
    let certificate = next.authority.certificate.clone();
    let what = format!("one CA, {}", next.authority.facts.fingerprint);
    let mut files = records(&folder, &cas, &folder.next(), &what)?;
    files.push(list_file);
    for place in folder.sites()?.iter().map(|site| folder.site(site)) {
        files.push(New::public(place.join("ca.crt"), certificate.clone()));
        files.push(New::public(place.join("crl.pem"), list.clone()));
    }
    let status = status_of(dir, &folder, cas)?;
    let named = |sites: Vec<&Site>| sites.iter().map(|site| site.name.clone()).collect::<Vec<_>>();
    let cut_off = named(status.sites.iter().filter(|site| site.needs_new()).collect());
    ensure!(
        force || cut_off.is_empty(),
        "still with a certificate of the old CA, and cut off without it: {}; nothing was changed. To give them new ones: replgate certs rollover issue; to shut one out: replgate certs revoke SITE; to cut them off: add --force",
        cut_off.join(", ")
    );
    let failed = named(status.sites.iter().filter(|site| site.hook_failed).collect());
    ensure!(
        force || failed.is_empty(),
        "the last hook failed for {}, which may not have its new certificate yet; nothing was changed. Run it again: replgate certs renew --if-due --hook COMMAND; or add --force",
        failed.join(", ")
    );
    let revoked = status.sites.iter().filter(|site| site.is_revoked && site.of == Some(Generation::Old));
    let revoked = revoked.map(|site| folder.site(&site.name)).collect();
    folder.write(&files)?;
    Ok(Finished { aside: folder.put_next_in_place()?, cut_off, revoked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_next_ca_counts_up() {
        let facts = |name: &str| {
            let dir = tempfile::tempdir().unwrap();
            super::super::init(dir.path(), name, false).unwrap().0
        };
        for (name, next) in [
            ("replgate CA", "replgate CA 2"),
            ("replgate CA 2", "replgate CA 3"),
            ("of 1999x", "of 1999x 2"),
            ("CA 4294967295", "CA 4294967296"),
        ] {
            assert_eq!(following(&facts(name)), next);
        }
    }
}
