//! Makes what is missing in a folder of certificates, and leaves the rest alone: for
//! scripts and containers, which do not know how far an earlier run has come.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;

use super::authority::Authority;
use super::ledger::Ledger;
use super::store::Folder;
use super::{Made, Names, current, make_ca, place_certificate, refreshed};
use crate::x509::Certificate;

/// What there was to do.
#[derive(Debug)]
pub struct Completed {
    /// The CA, where there was none.
    pub ca: Option<Certificate>,
    /// Sites that had no certificate.
    pub made: Vec<Made>,
    /// Sites that had one of this CA, which is as it was.
    pub kept: Vec<String>,
}

/// Completes `dir`: a CA called `name`, and a certificate for each of `wanted`.
///
/// Nothing that is there is replaced, but for what a run that was cut short has left:
/// a CA's key without its certificate before anything was issued is made anew, a
/// site's key without certificate and request is moved aside. A CA that is lost or
/// damaged while sites have certificates is an error, because a new one would
/// not be trusted by any of them.
pub fn complete(dir: &Path, wanted: &[Names], name: &str, days: u32) -> anyhow::Result<Completed> {
    let folder = Folder::new(dir);
    let _lock = folder.lock_all()?;
    let ca = if has_no_ca_yet(&folder) {
        if let Some(site) = folder.occupied()?.first() {
            bail!(
                "there is no CA in {}, but {} is in use; nothing was changed. Put the CA back, or to start anew, which every site must follow: replgate certs init --force",
                folder.ca().display(),
                folder.site(site).display()
            );
        }
        Some(make_ca(&folder, name)?)
    } else {
        None
    };
    let authority = Authority::load(&folder)?;
    let (mut made, mut kept) = (Vec::new(), Vec::new());
    for names in wanted {
        let site = names.site();
        let place = folder.site(site);
        if place.join("tls.crt").exists() {
            let serial = current(&folder, site)?.serial_text();
            ensure!(
                Ledger::load(&folder)?.certificates.iter().any(|entry| entry.serial == serial),
                "{} was not issued by the CA in {}. To replace it: replgate certs issue {site} --force",
                place.join("tls.crt").display(),
                folder.ca().display()
            );
            kept.push(site.to_owned());
            continue;
        }
        ensure!(
            !place.join("tls.csr").exists(),
            "{} waits to be signed: replgate certs sign {} --site {site}",
            place.join("tls.csr").display(),
            place.join("tls.csr").display()
        );
        let old_key = folder.move_other_key_aside(site, &[])?;
        let key = KeyPair::generate().context("make a key")?;
        let secret = key.serialize_pem();
        let mut one = place_certificate(&folder, names, days, &key, Some(secret))?;
        one.old_key = old_key;
        made.push(one);
    }
    // Where a copy of what the CA has is missing, all are made anew: a list that is
    // signed again is another file.
    let copies = refreshed(&folder, &authority, &Ledger::load(&folder)?, None)?;
    if copies.iter().any(|copy| !copy.exists()) {
        folder.write(&copies)?;
    }
    Ok(Completed { ca, made, kept })
}

/// Whether there is nothing of a CA, or what was written of one before its
/// certificate, which comes last: an empty ledger, and perhaps a key.
fn has_no_ca_yet(folder: &Folder) -> bool {
    let begun = Ledger::load(folder).is_ok_and(|ledger| ledger.certificates.is_empty());
    !folder.has_ca() || (begun && !folder.ca().join("ca.crt").exists())
}
