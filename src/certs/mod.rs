//! Makes and manages the certificates of all sites: a small CA in a folder.
//!
//! `DIR/ca/{ca.crt,ca.key,crl.pem,issued.toml}` belongs to the CA, with a `SITE.undelivered` while a
//! site may lack new files, and during a rollover `next/` with the CA that follows. Each folder `DIR/SITE/{tls.crt,tls.key,ca.crt,crl.pem}` is copied
//! whole to that site's host and holds no CA key. This module knows neither the gateway nor
//! sockets.

pub mod authority;
pub mod cas;
pub mod complete;
pub mod delivery;
pub mod ledger;
pub mod rollover;
pub mod store;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use self::authority::Authority;
use self::cas::{Cas, Generation};
use self::ledger::{Issued, Ledger};
use self::store::{Folder, New};
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
        ensure!(!store::is_reserved(site), "a site cannot be called {site:?}: that folder belongs to the CA");
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
    if folder.has_ca() || !Ledger::is_blank(&folder, &folder.ca()) {
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
    let (files, facts) = new_ca(&folder.ca(), name)?;
    folder.write(&files)?;
    Ok(facts)
}

/// The files of a new CA in `place`, and its certificate.
fn new_ca(place: &Path, name: &str) -> anyhow::Result<(Vec<New>, Certificate)> {
    let (certificate, key, authority) = Authority::make(name)?;
    let ledger = Ledger::default();
    let list = authority.revocation_list(&ledger)?;
    // The certificate is written last: once it is there, so is everything else.
    let files = vec![
        New::public(place.join("issued.toml"), ledger.text()?),
        New::public(place.join("crl.pem"), list),
        New::secret(place.join("ca.key"), key),
        New::public(place.join("ca.crt"), certificate),
    ];
    Ok((files, authority.facts))
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
    place_certificate(&folder, names, days, &key, Some(secret), false)
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
    let mut made = place_certificate(&folder, names, days, &key, None, false)?;
    made.old_key = folder.move_other_key_aside(names.site(), &asked.public_key)?;
    made.with_key = made.folder.join("tls.key").exists();
    Ok(made)
}

/// Renews the certificate of a site, with the same names. If the key is in the folder, it is
/// replaced as well; a key that never left its host is kept.
pub fn renew(dir: &Path, site: &str, days: u32) -> anyhow::Result<Made> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    renewed(&folder, site, days, false)
}

/// As [`renew`], in a folder that is locked; with `first_of_next` by the CA that follows.
fn renewed(folder: &Folder, site: &str, days: u32, first_of_next: bool) -> anyhow::Result<Made> {
    let current = current(folder, site)?;
    let (cas, serial) = (Cas::load(folder)?, current.serial_text());
    // A CA that was put away may have revoked it.
    ensure!(
        cas.all().any(|ca| ca.find(&serial).is_some()),
        "the certificate of {site} was not issued by the CA in {}, and is not renewed; to give the site a new key and certificate: replgate certs issue {site} --force",
        folder.ca().display()
    );
    ensure!(
        !cas.has_revoked(&serial),
        "the certificate of {site} is revoked and is not renewed; to let the site in again, with a new key: replgate certs issue {site} --force"
    );
    let more: Vec<String> =
        current.dns.iter().cloned().chain(current.ips.iter().map(ToString::to_string)).collect();
    let names = Names::new(site, &more)?;
    if folder.site(site).join("tls.key").exists() {
        let key = KeyPair::generate().context("make a key")?;
        let secret = key.serialize_pem();
        return place_certificate(folder, &names, days, &key, Some(secret), first_of_next);
    }
    let key = SubjectPublicKeyInfo::from_der(&current.public_key)
        .context("a public key of a kind that cannot be signed")?;
    place_certificate(folder, &names, days, &key, None, first_of_next)
}

/// The end of the signing CA, if a certificate of so many days would outlive it.
pub fn cut_short(dir: &Path, days: u32) -> anyhow::Result<Option<i64>> {
    let mut cas = Cas::load(&Folder::new(dir))?;
    let end = cas.signer(false).authority.facts.not_after;
    Ok(Some(end).filter(|end| *end < clock::now() + i64::from(days) * 86_400))
}

/// Whether a site's certificate is to be renewed: it has less than a third of its life left, and was
/// not revoked.
pub fn is_due(dir: &Path, site: &str) -> anyhow::Result<bool> {
    let folder = Folder::new(dir);
    let facts = current(&folder, site)?;
    if Cas::load(&folder)?.has_revoked(&facts.serial_text()) {
        return Ok(false);
    }
    Ok(facts.not_after - clock::now() < (facts.not_after - facts.not_before) / 3)
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
    let mut cas = Cas::load(&folder)?;
    let now = clock::now();
    let wanted = |entry: &Issued| {
        entry.serial.eq_ignore_ascii_case(what) || (entry.is_of(what) && entry.expires > now)
    };
    let (mut known, mut revoked) = (0, Vec::new());
    for ca in cas.all_mut() {
        let before = revoked.len();
        for entry in ca.ledger.certificates.iter_mut().filter(|entry| wanted(entry)) {
            known += 1;
            if entry.revoked.is_none() {
                entry.revoked = Some(now);
                revoked.push(entry.clone());
            }
        }
        ca.ledger.list_number += u64::from(revoked.len() > before);
    }
    if known == 0 {
        bail!(
            "no certificate of {what:?} was issued here; replgate certs list shows sites and serial numbers"
        );
    }
    let mut files = cas.all().map(|ca| ca.ledger_file()).collect::<anyhow::Result<Vec<_>>>()?;
    files.extend(cas.refreshed(&folder, None)?);
    folder.write(&files)?;
    Ok(revoked)
}

/// Every certificate that was issued here; during a rollover, with the generation of its CA.
pub fn list(dir: &Path) -> anyhow::Result<Vec<(Option<Generation>, Issued)>> {
    let folder = Folder::new(dir);
    folder.needs_ca()?;
    let both = folder.has_next();
    let mut all = Vec::new();
    for (generation, place) in [(Generation::Old, folder.ca()), (Generation::New, folder.next())] {
        if generation == Generation::Old || both {
            let ledger = Ledger::load(&folder, &place)?;
            all.extend(ledger.certificates.into_iter().map(|entry| (both.then_some(generation), entry)));
        }
    }
    Ok(all)
}

/// What the file `name`, `ca.crt` or `crl.pem`, of every site must hold.
pub fn published(dir: &Path, name: &str) -> anyhow::Result<String> {
    cas::published(&Folder::new(dir), name)
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

/// Signs a certificate, writes the site's folder and the ledger, and refreshes the other sites;
/// with `first_of_next` the CA that follows signs.
fn place_certificate(
    folder: &Folder,
    names: &Names,
    days: u32,
    key: &impl PublicKeyData,
    secret: Option<String>,
    first_of_next: bool,
) -> anyhow::Result<Made> {
    let mut cas = Cas::load(folder)?;
    let is_new = !cas.knows(names.site());
    let ca = cas.signer(first_of_next);
    let (text, facts) = ca.authority.sign(names, days, key)?;
    ca.ledger.certificates.push(Issued {
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
    let mut files = vec![ca.ledger_file()?];
    files.extend(cas.refreshed(folder, Some(names.site()))?);
    // A new site gets its first files by hand.
    if !is_new {
        files.push(delivery::record(&folder.ca(), names.site(), &facts.serial_text()));
    }
    files.extend(secret.map(|secret| New::secret(place.join("tls.key"), secret)));
    files.push(New::public(place.join("tls.crt"), text));
    folder.write(&files)?;
    Ok(Made { site: names.site().to_owned(), folder: place, facts, with_key, old_key: None })
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
