//! `issued.toml`: every certificate that the CA has signed.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::store::Folder;
use crate::file;
use crate::tls::pem;
use crate::x509::{self, Certificate, RevocationList};

/// Largest ledger in bytes.
const LARGEST: u64 = 256 << 20;

/// One issued certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The site.
    pub site: String,
    /// Serial number, colon-separated hex.
    pub serial: String,
    /// All names in the certificate, as one text.
    pub names: String,
    /// When it was issued, seconds since 1970.
    pub issued: i64,
    /// When it expires, seconds since 1970.
    pub expires: i64,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// When it was revoked, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
}

impl Issued {
    pub(super) fn is_of(&self, site: &str) -> bool {
        self.site.eq_ignore_ascii_case(site)
    }

    /// Whether it is neither revoked nor expired.
    pub(super) fn is_good(&self, now: i64) -> bool {
        self.revoked.is_none() && self.expires > now
    }

    pub(super) fn serial_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let bytes: Result<Vec<u8>, _> =
            self.serial.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes.with_context(|| format!("issued.toml: serial {:?} is not a serial number", self.serial))
    }
}

/// The contents of `issued.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Number of changes to the revocation list so far, from which the lists are numbered.
    pub(super) list_number: u64,
    #[serde(default, rename = "certificate")]
    pub(super) certificates: Vec<Issued>,
}

impl Ledger {
    /// Reads the ledger of the CA whose files are in `place`. A missing or damaged ledger is an error: a revocation list made
    /// without it would lose the earlier revocations.
    pub(super) fn load(folder: &Folder, place: &Path) -> anyhow::Result<Self> {
        let path = place.join("issued.toml");
        let text = file::read_text(&path, LARGEST).with_context(|| {
            format!(
                "read {}: it is the record of what was issued and revoked; restore it from a backup",
                path.display()
            )
        })?;
        let ledger: Self = toml::from_str(&text)
            .with_context(|| format!("read {}: it is damaged; restore it from a backup", path.display()))?;
        ledger.knows_all_revoked(folder, place)?;
        Ok(ledger)
    }

    /// Checks that the ledger knows every revocation in the existing lists, the CA's own and the
    /// sites' copies. Otherwise a new list would take a revocation back.
    fn knows_all_revoked(&self, folder: &Folder, place: &Path) -> anyhow::Result<()> {
        let own = place.join("crl.pem");
        if own.exists() {
            for list in pem::revocation_lists(&own)? {
                self.knows(&list, &own, place)?;
            }
        }
        let Ok(ca) = pem::certificates(&place.join("ca.crt")) else { return Ok(()) };
        let ca = Certificate::read(&ca[0])?;
        for path in folder.sites()?.iter().map(|site| folder.site(site).join("crl.pem")) {
            // A site's file may be missing, or hold lists of other CAs too.
            let lists = match pem::revocation_lists(&path) {
                Err(error) if error.is_not_found() => continue,
                lists => lists?,
            };
            for list in lists {
                if RevocationList::is_of(&list, &ca) {
                    self.knows(&list, &path, place)?;
                }
            }
        }
        Ok(())
    }

    fn knows(&self, list: &[u8], path: &Path, place: &Path) -> anyhow::Result<()> {
        for (serial, _) in RevocationList::read(list)?.revoked {
            let serial = x509::hex(&serial);
            let known =
                self.certificates.iter().any(|entry| entry.serial == serial && entry.revoked.is_some());
            anyhow::ensure!(
                known,
                "{} does not know that {serial} was revoked, though {} says so: it is older or damaged; restore it from a backup",
                place.join("issued.toml").display(),
                path.display()
            );
        }
        Ok(())
    }

    /// Whether the CA in `place` has no ledger, or one without certificates.
    pub(super) fn is_blank(folder: &Folder, place: &Path) -> bool {
        let path = place.join("issued.toml");
        match path.symlink_metadata() {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(_) => Self::load(folder, place).is_ok_and(|ledger| ledger.certificates.is_empty()),
        }
    }

    pub(super) fn text(&self) -> anyhow::Result<String> {
        let head = "# Every certificate that this CA has signed; written by replgate certs. Keep it with the CA:\n# the revocation list is made from it.\n\n";
        Ok(head.to_owned() + &toml::to_string(self)?)
    }
}
