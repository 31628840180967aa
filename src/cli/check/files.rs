//! The files that a config names: who may change and read them, certificates, keys, passwords.

use std::path::{Path, PathBuf};

use super::codes::Code;
use super::expiry;
use super::report::{Finding, Report, quoted};
use crate::clock;
use crate::config::Config;
use crate::file::{self, Writers};
use crate::password::Password;
use crate::tls::material::Material;

/// Reports whether other users may change the config or its files.
pub(super) fn writers(config: &Config, report: &mut Report) {
    let others = file::all_writers(config.files());
    for (who, fault) in &others {
        let code = match who {
            Writers::All => Code::WritableByAll,
            Writers::Group => Code::WritableByGroup,
        };
        // The fault begins with the file's name.
        let file = fault.split(": mode ").next().unwrap_or_default();
        report.add(Finding::new(code, file, fault));
    }
    if others.is_empty() {
        let text = "no other user may change the config or a file that it names";
        report.add(Finding::new(Code::Writers, config.path.display(), text));
    }
}

/// Reports what the certificates and lists say. Returns them if they can be used.
pub(super) fn material(config: &Config, report: &mut Report) -> Option<Material> {
    let about = |code, text: &str| Finding::new(code, "[tls]", text);
    let (learnt, unread) = crate::cli::learnt(config);
    unread.iter().for_each(|warning| report.add(about(Code::LearntListUnusable, warning)));
    let material = Material::load_beside(&config.tls, &config.site, &learnt);
    match &material {
        Ok(material) => {
            let now = clock::now();
            material.findings.iter().for_each(|finding| report.add(about(Code::Certificates, finding)));
            // When something ends is told by its own code.
            let is_of_a_term = |warning: &String| {
                material.terms.iter().any(|term| {
                    expiry::judge(term, now).is_some()
                        && warning.contains(&term.name)
                        && warning.contains(&clock::utc(term.until))
                })
            };
            let others = material.warnings.iter().filter(|warning| !is_of_a_term(warning));
            others.for_each(|warning| report.add(about(Code::CertificatesDoubtful, warning)));
            report.extend(material.terms.iter().filter_map(|term| expiry::judge(term, now)));
        }
        Err(faults) => faults.iter().for_each(|fault| report.add(about(Code::CertificatesUnusable, fault))),
    }
    material.ok()
}

/// Reports whether the CA's key can be read from here.
pub(super) fn ca_key(config: &Config, report: &mut Report) {
    report.add(match readable_ca_key(config) {
        Some(key) => Finding::new(Code::CaKey, key.display(), format!("the CA's private key {} is readable from here: whoever breaks into this host can make certificates for every site; keep certs/ca on another machine", key.display())),
        None => Finding::new(Code::NoCaKey, config.tls.ca.display(), "no CA key is readable beside the files of this config"),
    });
}

/// Reports whether the passwords can be read, and by whom.
pub(super) fn passwords(config: &Config, report: &mut Report) {
    for file in config.password_files() {
        report.add(password(file));
    }
}

/// Whether a password can be read, and by whom.
fn password(file: &Path) -> Finding {
    let name = file.display();
    let finding = |code, text: String| Finding::new(code, &name, text);
    match Password::read(file) {
        Err(fault) => finding(Code::PasswordFileUnusable, fault),
        Ok(_) if Password::is_open_to_all(file) => finding(
            Code::PasswordFileOpen,
            format!("password file {name} can be read by every user of this host; chmod 600"),
        )
        .advise(format!("chmod 600 {}", quoted(&name.to_string()))),
        Ok(_) => finding(Code::PasswordFile, format!("password file {name}")),
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
