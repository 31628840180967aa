//! Reads PEM files: the only place that touches `rustls-pemfile`.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer, PrivateKeyDer,
};
use rustls_pemfile::Item;

/// A PEM file that does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be read.
    #[error("read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// A block that is not valid PEM.
    #[error("{}: not valid PEM: {error}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        error: io::Error,
    },
    /// Valid PEM without the block that is needed.
    #[error("{}: no {what} in this file{hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The kind of block.
        what: &'static str,
        /// What was found instead.
        hint: String,
    },
    /// A private key behind a passphrase.
    #[error("{}: the private key is encrypted with a passphrase; a gateway starts unattended and needs it plain: openssl pkey -in {} -out tls.key, then chmod 600 tls.key", path.display(), path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
}

/// The bytes of a file of at most 16 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let failed = |error: io::Error| {
        let error = match error.kind() {
            io::ErrorKind::PermissionDenied => io::Error::other(format!(
                "{error}; it must be readable by the user that runs this, and so must its folder: ls -ld {} {}",
                path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).display(),
                path.display()
            )),
            _ => error,
        };
        PemError::Read { path: path.to_owned(), error }
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > 16 << 20 {
        return Err(failed(io::Error::other("larger than 16 MiB, which no PEM file here is")));
    }
    std::fs::read(path).map_err(failed)
}

/// Every certificate in the file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    some(path, "certificate", |item| match item {
        Item::X509Certificate(certificate) => Some(certificate),
        _ => None,
    })
}

/// Every revocation list in the file, at least one.
pub fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    some(path, "certificate revocation list", |item| match item {
        Item::Crl(list) => Some(list),
        _ => None,
    })
}

/// The certificate signing request in the file.
pub fn signing_request(path: &Path) -> Result<CertificateSigningRequestDer<'static>, PemError> {
    let mut requests = some(path, "certificate signing request", |item| match item {
        Item::Csr(request) => Some(request),
        _ => None,
    })?;
    Ok(requests.remove(0))
}

/// The private key in the file: PKCS#8, PKCS#1 or SEC1, not encrypted.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = read(path)?;
    let encrypted = [&b"ENCRYPTED PRIVATE KEY-----"[..], b"Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| text.windows(mark.len()).any(|window| window == *mark)) {
        return Err(PemError::Encrypted { path: path.to_owned() });
    }
    let mut keys = some(path, "private key", |item| match item {
        Item::Pkcs8Key(key) => Some(PrivateKeyDer::from(key)),
        Item::Pkcs1Key(key) => Some(PrivateKeyDer::from(key)),
        Item::Sec1Key(key) => Some(PrivateKeyDer::from(key)),
        _ => None,
    })?;
    Ok(keys.remove(0))
}

fn some<T>(path: &Path, what: &'static str, pick: impl Fn(Item) -> Option<T>) -> Result<Vec<T>, PemError> {
    let text = read(path)?;
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for item in rustls_pemfile::read_all(&mut &text[..]) {
        let item = item.map_err(|error| PemError::Broken { path: path.to_owned(), error })?;
        let kind = kind(&item);
        match pick(item) {
            Some(item) => found.push(item),
            None => others.push(kind),
        }
    }
    if found.is_empty() {
        let hint = match others.first() {
            Some(other) => format!(", but a {other}"),
            None if text.is_empty() => ": it is empty".to_owned(),
            None => ": expected PEM, a block that starts with -----BEGIN".to_owned(),
        };
        return Err(PemError::Missing { path: path.to_owned(), what, hint });
    }
    Ok(found)
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::X509Certificate(_) => "certificate",
        Item::Crl(_) => "certificate revocation list",
        Item::Csr(_) => "certificate signing request",
        Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_) => "private key",
        _ => "block of another kind",
    }
}
