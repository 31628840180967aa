//! The CA of a folder, and during a rollover the one that follows it.
//!
//! Both have the same files: the one in `ca/`, the other in `ca/next/`. Each has a ledger and a
//! revocation list of its own. Sites get the certificates and the lists of both. The CA signs until
//! the one that follows has signed its first certificate.

use std::path::{Path, PathBuf};

use super::authority::Authority;
use super::ledger::{Issued, Ledger};
use super::store::{Folder, New};
use crate::tls::pem;

/// Which of the two CAs of a rollover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The CA that leaves.
    Old,
    /// The CA that follows.
    New,
}

impl Generation {
    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

/// One CA with its ledger.
pub(super) struct Ca {
    place: PathBuf,
    pub(super) authority: Authority,
    pub(super) ledger: Ledger,
}

impl Ca {
    fn load(folder: &Folder, place: PathBuf) -> anyhow::Result<Self> {
        let authority = Authority::load(&place)?;
        let ledger = Ledger::load(folder, &place)?;
        Ok(Self { place, authority, ledger })
    }

    pub(super) fn find(&self, serial: &str) -> Option<&Issued> {
        self.ledger.certificates.iter().find(|entry| entry.serial == serial)
    }

    fn has_issued(&self) -> bool {
        !self.ledger.certificates.is_empty()
    }

    pub(super) fn ledger_file(&self) -> anyhow::Result<New> {
        Ok(New::public(self.place.join("issued.toml"), self.ledger.text()?))
    }

    /// A new revocation list, as its file and as text.
    pub(super) fn list_file(&self) -> anyhow::Result<(New, String)> {
        let list = self.authority.revocation_list(&self.ledger)?;
        Ok((New::public(self.place.join("crl.pem"), list.clone()), list))
    }
}

/// The CA, and the one that follows it if there is one.
pub(super) struct Cas {
    pub(super) present: Ca,
    pub(super) next: Option<Ca>,
}

impl Cas {
    pub(super) fn load(folder: &Folder) -> anyhow::Result<Self> {
        folder.needs_ca()?;
        let present = Ca::load(folder, folder.ca())?;
        let next = folder.has_next().then(|| Ca::load(folder, folder.next())).transpose()?;
        Ok(Self { present, next })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Ca> {
        std::iter::once(&self.present).chain(&self.next)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Ca> {
        std::iter::once(&mut self.present).chain(&mut self.next)
    }

    /// Whether the CA that follows has signed a certificate, so that it signs all others too.
    pub(super) fn next_issues(&self) -> bool {
        self.next.as_ref().is_some_and(Ca::has_issued)
    }

    /// The CA that signs; with `first_of_next` the one that follows, if there is one.
    pub(super) fn signer(&mut self, first_of_next: bool) -> &mut Ca {
        let next_signs = first_of_next || self.next_issues();
        match &mut self.next {
            Some(next) if next_signs => next,
            _ => &mut self.present,
        }
    }

    /// Whether this serial number was revoked by one of them.
    pub(super) fn has_revoked(&self, serial: &str) -> bool {
        self.all().any(|ca| ca.find(serial).is_some_and(|entry| entry.revoked.is_some()))
    }

    /// Whether a certificate was signed for this site before.
    pub(super) fn knows(&self, site: &str) -> bool {
        self.all().any(|ca| ca.ledger.certificates.iter().any(|entry| entry.is_of(site)))
    }

    /// Every CA's new revocation list, and every site's copy of the lists and of the CAs'
    /// certificates; `new` is a site without a certificate so far.
    pub(super) fn refreshed(&self, folder: &Folder, new: Option<&str>) -> anyhow::Result<Vec<New>> {
        let (mut files, mut texts) = (Vec::new(), Vec::new());
        for ca in self.all() {
            let (file, text) = ca.list_file()?;
            files.push(file);
            texts.push(text);
        }
        let mut sites = folder.sites()?;
        sites.extend(new.filter(|new| !sites.iter().any(|site| site == new)).map(str::to_owned));
        let certificates = joined(self.all().map(|ca| ca.authority.certificate.as_str()));
        let lists = joined(texts.iter().map(String::as_str));
        for place in sites.iter().map(|site| folder.site(site)) {
            files.push(New::public(place.join("ca.crt"), certificates.clone()));
            files.push(New::public(place.join("crl.pem"), lists.clone()));
        }
        Ok(files)
    }
}

/// What every site's file `name` must hold: the texts of this file of both CAs.
pub(super) fn published(folder: &Folder, name: &str) -> anyhow::Result<String> {
    folder.needs_ca()?;
    let next = folder.has_next().then(|| folder.next());
    let read = |place: &Path| -> anyhow::Result<String> {
        let path = place.join(name);
        String::from_utf8(pem::read(&path)?.to_vec())
            .map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))
    };
    let texts: Vec<String> =
        std::iter::once(folder.ca()).chain(next).map(|place| read(&place)).collect::<Result<_, _>>()?;
    Ok(joined(texts.iter().map(String::as_str)))
}

/// PEM texts one after the other, each on lines of its own.
fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut all = String::new();
    for text in texts {
        if !all.is_empty() && !all.ends_with('\n') {
            all.push('\n');
        }
        all.push_str(text);
    }
    all
}
