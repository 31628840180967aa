//! Makes what is missing in a folder of certificates and leaves the rest alone. This is for scripts
//! and containers, which do not know how far an earlier run has come.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;

use super::cas::{Cas, published};
use super::ledger::Ledger;
use super::store::{Folder, New, is_there};
use super::{Made, Names, current, make_ca, place_certificate};
use crate::x509::Certificate;

/// What was done.
#[derive(Debug, Default)]
pub struct Completed {
    /// The CA, if it was made.
    pub ca: Option<Certificate>,
    /// New certificates, for sites that had none.
    pub made: Vec<Made>,
    /// Sites that had a certificate of this CA, which was kept.
    pub kept: Vec<String>,
}

/// Completes `dir`: a CA called `name`, and a certificate for each of `wanted`. After an error,
/// `done` tells what was made before it.
///
/// Nothing that exists is replaced, with two exceptions, which an interrupted run may have left. A
/// CA's key without a certificate, before anything was issued, is made again. A site's key without
/// a certificate and a request is moved aside. If the CA is lost or damaged while sites have
/// certificates, that is an error: none of them would trust a new CA.
pub fn complete(
    dir: &Path,
    wanted: &[Names],
    name: &str,
    days: u32,
    done: &mut Completed,
) -> anyhow::Result<()> {
    let folder = Folder::new(dir);
    let _lock = folder.lock_all()?;
    if has_no_ca_yet(&folder) {
        if let Some(site) = folder.occupied()?.first() {
            bail!(
                "there is no CA in {}, but {} is in use; nothing was changed. Put the CA back. To start over with a new CA, which makes new certificates necessary at every site: replgate certs init --force",
                folder.ca().display(),
                folder.site(site).display()
            );
        }
        done.ca = Some(make_ca(&folder, name)?);
    }
    ensure!(
        done.ca.is_some() || folder.has_ca(),
        "{} records what was issued, but ca.crt and ca.key are gone; nothing was changed. Put them back. To start over with a new CA, which makes new certificates necessary at every site: replgate certs init --force",
        folder.ca().join("issued.toml").display()
    );
    Cas::load(&folder)?;
    for names in wanted {
        let site = names.site();
        let place = folder.site(site);
        if place.join("tls.crt").exists() {
            let serial = current(&folder, site)?.serial_text();
            ensure!(
                Cas::load(&folder)?.all().any(|ca| ca.find(&serial).is_some()),
                "{} was not issued by the CA in {}. To replace it: replgate certs issue {site} --force",
                place.join("tls.crt").display(),
                folder.ca().display()
            );
            done.kept.push(site.to_owned());
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
        let mut one = place_certificate(&folder, names, days, &key, Some(secret), false)?;
        one.old_key = old_key;
        done.made.push(one);
    }
    // Missing copies of the CA's files.
    for (ca, place) in Cas::load(&folder)?.all().zip([folder.ca(), folder.next()]) {
        if !place.join("crl.pem").exists() {
            folder.write(&[ca.list_file()?.0])?;
        }
    }
    let mut missing = Vec::new();
    for name in ["ca.crt", "crl.pem"] {
        let text = published(&folder, name)?;
        for path in folder.sites()?.iter().map(|site| folder.site(site).join(name)) {
            if !path.exists() {
                missing.push(New::public(path, text.clone()));
            }
        }
    }
    folder.write(&missing)
}

/// Whether there is no CA, or only the files that are written before its certificate: an empty
/// ledger, and perhaps a key.
fn has_no_ca_yet(folder: &Folder) -> bool {
    let there = |name: &str| is_there(&folder.ca().join(name));
    let key_may_go = !there("ca.key") || there("issued.toml");
    !there("ca.crt") && key_may_go && Ledger::is_blank(folder, &folder.ca())
}
