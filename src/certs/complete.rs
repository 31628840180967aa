//! Makes what is missing in a folder of certificates, and leaves the rest alone: for
//! scripts and containers, which do not know how far an earlier run has come.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;

use super::authority::Authority;
use super::ledger::Ledger;
use super::store::{Folder, New, is_there};
use super::{Made, Names, current, make_ca, place_certificate};
use crate::tls::pem;
use crate::x509::Certificate;

/// What there was to do.
#[derive(Debug, Default)]
pub struct Completed {
    /// The CA, where there was none.
    pub ca: Option<Certificate>,
    /// Sites that had no certificate.
    pub made: Vec<Made>,
    /// Sites that had one of this CA, which is as it was.
    pub kept: Vec<String>,
}

/// Completes `dir`: a CA called `name`, and a certificate for each of `wanted`. On an
/// error, `done` says how far it has come.
///
/// Nothing that is there is replaced, but for what a run that was cut short has left:
/// a CA's key without its certificate before anything was issued is made anew, a
/// site's key without certificate and request is moved aside. A CA that is lost or
/// damaged while sites have certificates is an error, because a new one would
/// not be trusted by any of them.
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
                "there is no CA in {}, but {} is in use; nothing was changed. Put the CA back, or to start anew, which every site must follow: replgate certs init --force",
                folder.ca().display(),
                folder.site(site).display()
            );
        }
        done.ca = Some(make_ca(&folder, name)?);
    }
    ensure!(
        done.ca.is_some() || folder.has_ca(),
        "{} records what was issued, but ca.crt and ca.key are gone; nothing was changed. Put them back, or to start anew, which every site must follow: replgate certs init --force",
        folder.ca().join("issued.toml").display()
    );
    let authority = Authority::load(&folder)?;
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
        let mut one = place_certificate(&folder, names, days, &key, Some(secret))?;
        one.old_key = old_key;
        done.made.push(one);
    }
    // Copies of what the CA has, where they are missing.
    let own = folder.ca().join("crl.pem");
    if !own.exists() {
        let list = authority.revocation_list(&Ledger::load(&folder)?)?;
        folder.write(&[New::public(own.clone(), list)])?;
    }
    let list =
        String::from_utf8(pem::read(&own)?.to_vec()).with_context(|| format!("read {}", own.display()))?;
    let mut missing = Vec::new();
    for place in folder.sites()?.iter().map(|site| folder.site(site)) {
        for (name, text) in [("ca.crt", &authority.certificate), ("crl.pem", &list)] {
            if !place.join(name).exists() {
                missing.push(New::public(place.join(name), text.clone()));
            }
        }
    }
    folder.write(&missing)
}

/// Whether there is nothing of a CA, or what was written of one before its
/// certificate, which comes last: an empty ledger, and perhaps a key.
fn has_no_ca_yet(folder: &Folder) -> bool {
    let there = |name: &str| is_there(&folder.ca().join(name));
    let key_may_go = !there("ca.key") || there("issued.toml");
    !there("ca.crt") && key_may_go && Ledger::is_blank(folder)
}
