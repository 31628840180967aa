//! The files that a config names: who may change and read them, certificates, keys, passwords.

use std::path::PathBuf;

use super::report::Report;
use crate::config::Config;
use crate::file::{self, Writers};
use crate::password::Password;
use crate::tls::material::Material;

/// Reports whether other users may change the config or its files.
pub(super) fn writers(config: &Config, report: &mut Report) {
    let others = file::all_writers(config.files());
    for (who, fault) in &others {
        match who {
            Writers::All => report.fail(fault),
            Writers::Group => report.warn(fault),
        }
    }
    if others.is_empty() {
        report.ok("no other user may change the config or a file that it names");
    }
}

/// Reports what the certificates and lists say. Returns them if they can be used.
pub(super) fn material(config: &Config, report: &mut Report) -> Option<Material> {
    let (learnt, unread) = crate::cli::learnt(config);
    unread.iter().for_each(|warning| report.warn(warning));
    let material = Material::load_beside(&config.tls, &config.site, &learnt);
    match &material {
        Ok(material) => {
            material.findings.iter().for_each(|finding| report.ok(finding));
            material.warnings.iter().for_each(|warning| report.warn(warning));
        }
        Err(faults) => faults.iter().for_each(|fault| report.fail(fault)),
    }
    material.ok()
}

/// Reports whether the CA's key can be read from here.
pub(super) fn ca_key(config: &Config, report: &mut Report) {
    match readable_ca_key(config) {
        Some(key) => report.fail(&format!("the CA's private key {} is readable from here: whoever breaks into this host can make certificates for every site; keep certs/ca on another machine", key.display())),
        None => report.ok("no CA key is readable beside the files of this config"),
    }
}

/// Reports whether the passwords can be read, and by whom.
pub(super) fn passwords(config: &Config, report: &mut Report) {
    for file in config.password_files() {
        match Password::read(file) {
            Err(fault) => report.fail(&fault),
            Ok(_) if Password::is_open_to_all(file) => report.warn(&format!(
                "password file {} can be read by every user of this host; chmod 600",
                file.display()
            )),
            Ok(_) => report.ok(&format!("password file {}", file.display())),
        }
    }
}

/// The CA's key, if the gateway's user can read it. It is looked for beside the CA's certificate,
/// and in the folder that `replgate certs` uses for it.
pub(in crate::cli) fn readable_ca_key(config: &Config) -> Option<PathBuf> {
    let beside = config.tls.ca.with_file_name("ca.key");
    let folders = [&config.tls.ca, &config.tls.cert, &config.tls.key].map(|path| path.parent());
    // Two CAs have a key during a rollover.
    let used = folders
        .into_iter()
        .flatten()
        .flat_map(|folder| [folder.join("../ca/ca.key"), folder.join("../ca/next/ca.key")]);
    std::iter::once(beside).chain(used).find(|key| file::is_readable(key))
}
