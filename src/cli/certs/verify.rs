//! `certs verify`: verifies the folders of sites.

use std::path::Path;

use super::expiry;
use crate::certs;
use crate::cli::{Failure, Outcome};
use crate::config::TlsFiles;
use crate::tls::material::Material;
use crate::tls::pem;

pub(super) fn verify(dir: &Path, sites: Vec<String>) -> Outcome {
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
        let paths = TlsFiles::in_folder(&folder);
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

/// Files in a site's folder that differ from those of the CA.
fn outdated(dir: &Path, folder: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for name in ["ca.crt", "crl.pem"] {
        let (own, of_ca) = (pem::read(&folder.join(name)), certs::published(dir, name));
        if let (Ok(own), Ok(of_ca)) = (own, of_ca)
            && own.as_slice() != of_ca.as_bytes()
        {
            let (own, of_ca) = (folder.join(name), dir.join("ca").join(name));
            let next = dir.join("ca/next").join(name);
            faults.push(match next.exists() {
                false => {
                    format!("{} is not the same as {}: copy it there", own.display(), of_ca.display())
                }
                true => format!(
                    "{} is not the same as {} and {}, one after the other: run again: replgate certs rollover start",
                    own.display(),
                    of_ca.display(),
                    next.display()
                ),
            });
        }
    }
    faults
}
