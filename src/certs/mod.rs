//! Makes and manages the certificates of all sites: a small CA in a folder.
//!
//! `DIR/ca/{ca.crt,ca.key,crl.pem,issued.toml}` belongs to the CA, with a `SITE.hooked` after
//! `renew --hook` succeeded. Each folder `DIR/SITE/{tls.crt,tls.key,ca.crt,crl.pem}` is copied
//! whole to that site's host and holds no CA key. This module knows neither the gateway nor
//! sockets.

pub mod authority;
pub mod complete;
pub mod ledger;
pub mod store;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use self::authority::Authority;
use self::ledger::{Issued, Ledger};
use self::store::{Folder, HOOKED, New};
use crate::clock;
use crate::tls::pem;
use crate::units;
use crate::x509::{self, Certificate};

/// Days for which a site's certificate is valid by default.
pub const LEAF_DAYS: u32 = 365;

/// The names in a certificate: the site and others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names, the site first.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// The site and `more`, each a DNS name or an address.
    pub fn new(site: &str, more: &[String]) -> anyhow::Result<Self> {
        let mut names = Self { dns: vec![units::site(site).map_err(anyhow::Error::msg)?], ips: Vec::new() };
        ensure!(
            !["ca", ".", ".."].contains(&site),
            "a site cannot be called {site:?}: that folder belongs to the CA"
        );
        for name in more {
            match name.parse() {
                Ok(ip) if !names.ips.contains(&ip) => names.ips.push(ip),
                Ok(_) => {}
                Err(_) => {
                    let name = units::site(name).map_err(|error| anyhow::anyhow!("--san {error}"))?;
                    if !names.dns.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
                        names.dns.push(name);
                    }
                }
            }
        }
        Ok(names)
    }

    /// The site: the first DNS name.
    pub fn site(&self) -> &str {
        &self.dns[0]
    }

    /// All names as one text.
    pub fn text(&self) -> String {
        self.dns
            .iter()
            .cloned()
            .chain(self.ips.iter().map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A new certificate.
#[derive(Debug)]
pub struct Made {
    /// The site.
    pub site: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The certificate.
    pub facts: Certificate,
    /// Whether its key is in the folder as well.
    pub with_key: bool,
    /// Where an existing key was moved that does not belong to it.
    pub old_key: Option<PathBuf>,
}

/// Makes the CA in `dir`. With `force`, an existing CA is moved aside as a whole; the second result
/// is its new place.
pub fn init(dir: &Path, name: &str, force: bool) -> anyhow::Result<(Certificate, Option<PathBuf>)> {
    let folder = Folder::new(dir);
    let _lock = folder.lock_all()?;
    let mut aside = None;
    if folder.has_ca() || !Ledger::is_blank(&folder) {
        ensure!(
            force,
            "there is a CA in {} already; nothing was changed. To add a site: replgate certs issue SITE. To start over with a new CA, which makes new certificates necessary at every site: add --force, which moves the old CA aside",
            folder.ca().display()
        );
        aside = Some(folder.move_ca_aside()?);
    }
    let made = make_ca(&folder, name);
    if let (Err(_), Some(aside)) = (&made, &aside) {
        folder.move_ca_back(aside)?;
    }
    Ok((made?, aside))
}

fn make_ca(folder: &Folder, name: &str) -> anyhow::Result<Certificate> {
    let (certificate, key, authority) = Authority::make(name)?;
    let ledger = Ledger::default();
    let list = authority.revocation_list(&ledger)?;
    // The certificate is written last: once it is there, so is everything else.
    folder.write(&[
        New::public(folder.ca().join("issued.toml"), ledger.text()?),
        New::public(folder.ca().join("crl.pem"), list),
        New::secret(folder.ca().join("ca.key"), key),
        New::public(folder.ca().join("ca.crt"), certificate),
    ])?;
    Ok(authority.facts)
}

/// Makes a key and a certificate for a site. An existing certificate is replaced only with `force`.
pub fn issue(dir: &Path, names: &Names, days: u32, force: bool) -> anyhow::Result<Made> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    let place = folder.site(names.site());
    for file in ["tls.key", "tls.crt"] {
        ensure!(
            force || !place.join(file).exists(),
            "{} is there already; nothing was changed. To replace it before it expires: replgate certs renew {}; to make a new key and certificate now: add --force",
            place.join(file).display(),
            names.site()
        );
    }
    let key = KeyPair::generate().context("make a key")?;
    let secret = key.serialize_pem();
    place_certificate(&folder, names, days, &key, Some(secret))
}

/// Makes a key and a signing request for a site, without a CA: the key never leaves this host.
/// Returns the request's path and the fingerprint of its key.
pub fn request(dir: &Path, names: &Names, force: bool) -> anyhow::Result<(PathBuf, String)> {
    let folder = Folder::new(dir);
    let place = folder.site(names.site());
    let (key_path, request_path) = (place.join("tls.key"), place.join("tls.csr"));
    ensure!(
        force || !key_path.exists(),
        "{} is there already; nothing was changed. To make a new key: add --force",
        key_path.display()
    );
    let key = KeyPair::generate().context("make a key")?;
    let text = authority::request(names, &key)?;
    let fingerprint = x509::fingerprint(&key.subject_public_key_info());
    folder.write(&[New::secret(key_path, key.serialize_pem()), New::public(request_path.clone(), text)])?;
    Ok((request_path, fingerprint))
}

/// The contents of a signing request. None of it is trusted.
#[derive(Debug)]
pub struct Asked {
    /// The DNS names that it asks for.
    pub dns: Vec<String>,
    /// The IP addresses that it asks for.
    pub ips: Vec<IpAddr>,
    /// Its common name.
    pub common_name: Option<String>,
    /// Fingerprint of its public key, to compare over another channel.
    pub fingerprint: String,
    /// Kind of its public key.
    pub key: String,
    public_key: Vec<u8>,
}

/// Reads a signing request and verifies that its sender has the private key.
pub fn read_request(path: &Path) -> anyhow::Result<Asked> {
    asked(&pem::signing_request(path)?, path)
}

/// As [`read_request`], for a request that was read from `path` already.
pub fn asked(der: &[u8], path: &Path) -> anyhow::Result<Asked> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).with_context(|| format!("read {}", path.display()))?;
    ensure!(rest.is_empty(), "{}: bytes after the end of the request", path.display());
    request
        .verify_signature()
        .with_context(|| format!("{}: the request is not signed by its own key", path.display()))?;
    let info = &request.certification_request_info;
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            x509::alternative_names(&names.general_names, &mut dns, &mut ips);
        }
    }
    let common_name =
        info.subject.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
    Ok(Asked {
        dns,
        ips,
        common_name,
        fingerprint: x509::fingerprint(info.subject_pki.raw),
        key: x509::key_kind(&info.subject_pki),
        public_key: info.subject_pki.raw.to_vec(),
    })
}

/// Signs the key of a request for `names`, which the operator has confirmed. Nothing else of the
/// request is used.
pub fn sign(dir: &Path, asked: &Asked, names: &Names, days: u32, force: bool) -> anyhow::Result<Made> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    let path = folder.site(names.site()).join("tls.crt");
    ensure!(
        force || !path.exists(),
        "{} is there already; nothing was changed. To replace it: add --force",
        path.display()
    );
    let key = SubjectPublicKeyInfo::from_der(&asked.public_key)
        .context("a public key of a kind that cannot be signed")?;
    let mut made = place_certificate(&folder, names, days, &key, None)?;
    made.old_key = folder.move_other_key_aside(names.site(), &asked.public_key)?;
    made.with_key = made.folder.join("tls.key").exists();
    Ok(made)
}

/// Renews the certificate of a site, with the same names. If the key is in the folder, it is
/// replaced as well; a key that never left its host is kept.
pub fn renew(dir: &Path, site: &str, days: u32) -> anyhow::Result<Made> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    let current = current(&folder, site)?;
    let ledger = Ledger::load(&folder)?;
    let serial = current.serial_text();
    ensure!(
        !ledger.certificates.iter().any(|entry| entry.serial == serial && entry.revoked.is_some()),
        "the certificate of {site} is revoked and is not renewed; to let the site in again, with a new key: replgate certs issue {site} --force"
    );
    let more: Vec<String> =
        current.dns.iter().cloned().chain(current.ips.iter().map(ToString::to_string)).collect();
    let names = Names::new(site, &more)?;
    if folder.site(site).join("tls.key").exists() {
        let key = KeyPair::generate().context("make a key")?;
        let secret = key.serialize_pem();
        return place_certificate(&folder, &names, days, &key, Some(secret));
    }
    let key = SubjectPublicKeyInfo::from_der(&current.public_key)
        .context("a public key of a kind that cannot be signed")?;
    place_certificate(&folder, &names, days, &key, None)
}

/// Whether a site's certificate has less than a third of its life left.
pub fn is_due(dir: &Path, site: &str) -> anyhow::Result<bool> {
    let facts = current(&Folder::new(dir), site)?;
    Ok(facts.not_after - clock::now() < (facts.not_after - facts.not_before) / 3)
}

/// The file in the CA's folder that records for which certificate a site's hook has succeeded.
fn hooked(dir: &Path, site: &str) -> PathBuf {
    Folder::new(dir).ca().join(format!("{site}{HOOKED}"))
}

/// Whether a site was renewed, and no hook has succeeded since.
pub fn awaits_hook(dir: &Path, site: &str) -> bool {
    let folder = Folder::new(dir);
    let Ok(serial) = current(&folder, site).map(|facts| facts.serial_text()) else { return false };
    let renewed = Ledger::load(&folder).is_ok_and(|ledger| {
        ledger.certificates.iter().filter(|entry| entry.site.eq_ignore_ascii_case(site)).count() > 1
    });
    let done = crate::file::read_text(&hooked(dir, site), 4096).unwrap_or_default();
    renewed && done.trim() != serial
}

/// Records that the hook has succeeded for a site's current certificate.
pub fn hook_went_well(dir: &Path, site: &str) -> anyhow::Result<()> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    let serial = current(&folder, site)?.serial_text();
    folder.write(&[New::public(hooked(dir, site), serial + "\n")])
}

/// The sites that have a certificate in `dir`.
pub fn sites(dir: &Path) -> anyhow::Result<Vec<String>> {
    Folder::new(dir).sites()
}

/// Revokes by serial number, or everything of a site that has not expired, and refreshes every
/// site's folder. Returns what was revoked; empty if all of it was revoked before.
pub fn revoke(dir: &Path, what: &str) -> anyhow::Result<Vec<Issued>> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    let authority = Authority::load(&folder)?;
    let mut ledger = Ledger::load(&folder)?;
    let now = clock::now();
    let wanted = |entry: &Issued| {
        entry.serial.eq_ignore_ascii_case(what)
            || (entry.site.eq_ignore_ascii_case(what) && entry.expires > now)
    };
    let known = ledger.certificates.iter().filter(|entry| wanted(entry)).count();
    let mut revoked = Vec::new();
    for entry in ledger.certificates.iter_mut().filter(|entry| wanted(entry) && entry.revoked.is_none()) {
        entry.revoked = Some(now);
        revoked.push(entry.clone());
    }
    if known == 0 {
        bail!(
            "no certificate of {what:?} was issued here; replgate certs list shows sites and serial numbers"
        );
    }
    ledger.list_number += u64::from(!revoked.is_empty());
    let mut files = vec![New::public(folder.ca().join("issued.toml"), ledger.text()?)];
    files.extend(refreshed(&folder, &authority, &ledger, None)?);
    folder.write(&files)?;
    Ok(revoked)
}

/// Every certificate that was issued here.
pub fn list(dir: &Path) -> anyhow::Result<Vec<Issued>> {
    let folder = Folder::new(dir);
    ensure!(folder.has_ca(), no_ca(&folder));
    Ok(Ledger::load(&folder)?.certificates)
}

fn current(folder: &Folder, site: &str) -> anyhow::Result<Certificate> {
    let path = folder.site(site).join("tls.crt");
    ensure!(
        path.exists(),
        "{} is not there: {site} has no certificate here yet; replgate certs issue {site}",
        path.display()
    );
    let leaf = pem::certificates(&path)?.remove(0);
    Certificate::read(&leaf).with_context(|| format!("read {}", path.display()))
}

/// Signs a certificate, writes the site's folder and the ledger, and refreshes the other sites.
fn place_certificate(
    folder: &Folder,
    names: &Names,
    days: u32,
    key: &impl PublicKeyData,
    secret: Option<String>,
) -> anyhow::Result<Made> {
    let authority = Authority::load(folder)?;
    let mut ledger = Ledger::load(folder)?;
    let (text, facts) = authority.sign(names, days, key)?;
    ledger.certificates.push(Issued {
        site: names.site().to_owned(),
        serial: facts.serial_text(),
        names: names.text(),
        issued: clock::now(),
        expires: facts.not_after,
        fingerprint: facts.fingerprint.clone(),
        revoked: None,
    });
    let place = folder.site(names.site());
    let with_key = secret.is_some();
    // The ledger is written first: it must know every certificate that was made. The certificate is
    // written last: once it is there, so is everything else.
    let mut files = vec![New::public(folder.ca().join("issued.toml"), ledger.text()?)];
    files.extend(refreshed(folder, &authority, &ledger, Some(names.site()))?);
    files.extend(secret.map(|secret| New::secret(place.join("tls.key"), secret)));
    files.push(New::public(place.join("tls.crt"), text));
    folder.write(&files)?;
    Ok(Made { site: names.site().to_owned(), folder: place, facts, with_key, old_key: None })
}

/// The CA's revocation list, and every site's copy of it and of the CA's certificate; `new` is a
/// site without a certificate so far.
fn refreshed(
    folder: &Folder,
    authority: &Authority,
    ledger: &Ledger,
    new: Option<&str>,
) -> anyhow::Result<Vec<New>> {
    let list = authority.revocation_list(ledger)?;
    let mut sites = folder.sites()?;
    sites.extend(new.filter(|new| !sites.iter().any(|site| site == new)).map(str::to_owned));
    let mut files = vec![New::public(folder.ca().join("crl.pem"), list.clone())];
    for place in sites.iter().map(|site| folder.site(site)) {
        files.push(New::public(place.join("ca.crt"), authority.certificate.clone()));
        files.push(New::public(place.join("crl.pem"), list.clone()));
    }
    Ok(files)
}

fn no_ca(folder: &Folder) -> String {
    format!("there is no CA in {}; make one: replgate certs init SITE…", folder.ca().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_not_repeated() {
        let names = Names::new("dc1", &["gw.dc1.example".into(), "DC1".into(), "10.0.0.1".into()]).unwrap();
        assert_eq!(names.text(), "dc1, gw.dc1.example, 10.0.0.1");
        for wrong in ["ca", "..", "*.dc1", "a/b"] {
            assert!(Names::new(wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_overwritten_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::new("dc1", &[]).unwrap();
        init(dir.path(), "test CA", false).unwrap();
        let first = issue(dir.path(), &names, 10, false).unwrap();
        assert!(init(dir.path(), "test CA", false).is_err());
        assert!(issue(dir.path(), &names, 10, false).is_err());
        assert!(request(dir.path(), &names, false).is_err());
        let second = issue(dir.path(), &names, 10, true).unwrap();
        assert_ne!(first.facts.serial, second.facts.serial);
        let (_, aside) = init(dir.path(), "test CA", true).unwrap();
        assert!(aside.unwrap().join("ca.key").exists());
    }

    #[test]
    fn a_request_gets_only_its_key_and_the_confirmed_names() {
        let (dir, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        init(dir.path(), "test CA", false).unwrap();
        let (path, fingerprint) =
            request(host.path(), &Names::new("dc2", &["evil.example".into()]).unwrap(), false).unwrap();
        let asked = read_request(&path).unwrap();
        assert_eq!((asked.fingerprint.as_str(), asked.dns.len()), (fingerprint.as_str(), 2));
        let made = sign(dir.path(), &asked, &Names::new("dc2", &[]).unwrap(), 10, false).unwrap();
        assert_eq!(made.facts.dns, ["dc2"]);
        assert!(!made.facts.is_ca && !made.folder.join("tls.key").exists());
        assert!(made.old_key.is_none());
        // Renewing keeps a key that never left its host.
        let renewed = renew(dir.path(), "dc2", 20).unwrap();
        assert_eq!(renewed.facts.public_key, made.facts.public_key);
        assert_ne!(renewed.facts.serial, made.facts.serial);
    }

    #[test]
    fn signing_where_the_request_was_made_keeps_its_key_and_moves_another_aside() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::new("dc2", &[]).unwrap();
        init(dir.path(), "test CA", false).unwrap();
        let (path, _) = request(dir.path(), &names, false).unwrap();
        let first = read_request(&path).unwrap();
        let made = sign(dir.path(), &first, &names, 10, false).unwrap();
        assert!(made.with_key && made.old_key.is_none());
        request(dir.path(), &names, true).unwrap();
        let made = sign(dir.path(), &first, &names, 10, true).unwrap();
        assert!(!made.with_key && made.old_key.is_some_and(|old| old.exists()));
    }

    #[test]
    fn a_ledger_that_has_forgotten_a_revocation_signs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "test CA", false).unwrap();
        let ledger = dir.path().join("ca/issued.toml");
        let names = |site| Names::new(site, &[]).unwrap();
        issue(dir.path(), &names("dc1"), 10, false).unwrap();
        let before = std::fs::read(&ledger).unwrap();
        revoke(dir.path(), "dc1").unwrap();
        for damaged in [before, Vec::new(), b"list_number = 1\n".to_vec()] {
            std::fs::write(&ledger, damaged).unwrap();
            let error = issue(dir.path(), &names("dc2"), 10, false).unwrap_err();
            assert!(format!("{error:#}").contains("restore it from a backup"), "{error:#}");
        }
    }

    #[test]
    fn revoking_reaches_every_site_and_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "test CA", false).unwrap();
        for site in ["dc1", "dc2"] {
            issue(dir.path(), &Names::new(site, &[]).unwrap(), 10, false).unwrap();
        }
        let revoked = revoke(dir.path(), "dc2").unwrap();
        assert_eq!(revoked.len(), 1);
        assert!(revoke(dir.path(), "dc2").unwrap().is_empty() && revoke(dir.path(), "dc9").is_err());
        assert!(renew(dir.path(), "dc2", 10).is_err(), "what is revoked is not renewed");
        for site in ["ca", "dc1", "dc2"] {
            let lists = pem::revocation_lists(&dir.path().join(site).join("crl.pem")).unwrap();
            assert_eq!(x509::RevocationList::read(&lists[0]).unwrap().revoked.len(), 1, "{site}");
        }
    }
}
