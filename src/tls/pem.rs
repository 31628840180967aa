//! Reads PEM files. No other module uses `rustls-pemfile`.
//!
//! No block is skipped. Each `-----BEGIN` of a file is either understood or reported as a fault
//! with its line: if a revocation list were skipped silently, a revoked site could connect. What
//! can be read safely is read: several blocks on one line, indentation, a byte order mark, text
//! between the blocks. A block of a kind that does not belong in the file is a fault as well.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer, PrivateKeyDer,
};
use rustls_pemfile::Item;
use zeroize::Zeroizing;

use crate::escape::shown;
use crate::file;

/// Largest file in bytes; revocation lists may be long.
pub const LARGEST: u64 = 16 << 20;

/// Most faults that are reported for one file.
const MAX_REPORTED: usize = 10;

/// Shortest line outside a block that is treated as Base64 of a block.
const BASE64_LINE: usize = 48;

/// A PEM file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be read.
    #[error("read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Some blocks are not valid or do not belong here: one sentence for each, with its line.
    #[error("{}", sentences(path, faults).join("\n"))]
    Faulty {
        /// The file.
        path: PathBuf,
        /// The faults, at least one.
        faults: Vec<Fault>,
    },
    /// The file is valid PEM, but a needed block is missing.
    #[error("{}: no {what} in this file{hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The kind of block that is missing.
        what: &'static str,
        /// Advice, with what was found instead.
        hint: String,
    },
    /// The private key is encrypted with a passphrase.
    #[error("{}: the private key is encrypted with a passphrase; a gateway starts unattended and needs it plain: openssl pkey -in {} -out tls.key, then chmod 600 tls.key", path.display(), path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
}

impl PemError {
    /// One sentence for each fault.
    pub fn sentences(&self) -> Vec<String> {
        match self {
            Self::Faulty { path, faults } => sentences(path, faults),
            other => vec![other.to_string()],
        }
    }

    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

fn sentences(path: &Path, faults: &[Fault]) -> Vec<String> {
    let told = faults
        .iter()
        .take(MAX_REPORTED)
        .map(|fault| format!("{}:{}: {}", path.display(), fault.line, fault.text));
    let more = faults.len().saturating_sub(MAX_REPORTED);
    told.chain((more > 0).then(|| format!("{}: and {more} more of this kind", path.display()))).collect()
}

/// A fault at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and the next step.
    pub text: String,
}

/// A block that was understood.
#[derive(Debug)]
pub struct Block {
    /// The line of its BEGIN, counted from 1.
    pub line: usize,
    /// Its contents.
    pub content: Content,
}

/// The contents of a block.
pub enum Content {
    /// A certificate.
    Certificate(CertificateDer<'static>),
    /// A revocation list.
    List(CertificateRevocationListDer<'static>),
    /// A certificate signing request.
    Request(CertificateSigningRequestDer<'static>),
    /// A private key: PKCS#8, PKCS#1 or SEC1.
    Key(Zeroizing<PrivateKeyDer<'static>>),
    /// A private key that is encrypted with a passphrase.
    EncryptedKey,
    /// The curve of the key in the next block, as `openssl ecparam -genkey` writes it.
    Parameters,
    /// A public key.
    PublicKey,
}

impl Content {
    /// Its name, and a hint where it belongs.
    fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Certificate(_) => ("certificate", "a certificate belongs in `cert` or `ca`"),
            Self::List(_) => ("certificate revocation list", "a revocation list belongs in `crl`"),
            Self::Request(_) => {
                ("certificate signing request", "only `replgate certs sign` uses it: take it out")
            }
            Self::Key(_) | Self::EncryptedKey => (
                "private key",
                "a key belongs in `key`, in a file of its own, or in the one file that both `cert` and `key` name",
            ),
            Self::Parameters => {
                ("block of EC parameters", "they belong before the key in `key`: take them out")
            }
            Self::PublicKey => ("public key", "it is not used here: take it out"),
        }
    }
}

/// Shows only the kind: the contents may be secret.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name().0)
    }
}

/// The contents of a PEM file.
#[derive(Debug, Default)]
pub struct Contents {
    /// The blocks that were understood, in order.
    pub blocks: Vec<Block>,
    /// The places that were not understood.
    pub faults: Vec<Fault>,
}

/// The bytes of a file of at most 16 MiB.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    file::read(path, LARGEST).map_err(|error| {
        let error = match error.kind() {
            io::ErrorKind::PermissionDenied => io::Error::other(format!(
                "{error}; it must be readable by the user that runs this, and so must its folder: ls -ld {} {}",
                path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).display(),
                path.display()
            )),
            _ => error,
        };
        PemError::Read { path: path.to_owned(), error }
    })
}

/// Every block of a file, of whatever kind.
pub fn contents(path: &Path) -> Result<Contents, PemError> {
    Ok(parse(&read(path)?))
}

/// The certificates in the file. There must be at least one, and nothing else.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    some(path, "certificate", certificate, |_| false).map(all)
}

/// As [`certificates`], but the file may also hold the private key.
pub fn certificates_and_key(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let key =
        |other: &Content| matches!(other, Content::Key(_) | Content::EncryptedKey | Content::Parameters);
    some(path, "certificate", certificate, key).map(all)
}

/// The revocation lists in the file. There must be at least one, and nothing else.
pub fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let pick = |content| match content {
        Content::List(list) => Ok(list),
        other => Err(other),
    };
    some(path, "certificate revocation list", pick, |_| false).map(all)
}

/// The certificate signing request in the file; there must be exactly one.
pub fn signing_request(path: &Path) -> Result<CertificateSigningRequestDer<'static>, PemError> {
    let pick = |content| match content {
        Content::Request(request) => Ok(request),
        other => Err(other),
    };
    one(path, "request", some(path, "certificate signing request", pick, |_| false)?)
}

/// The private key in the file, in PKCS#8, PKCS#1 or SEC1 and not encrypted; there must be exactly
/// one.
pub fn private_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, PemError> {
    key(path, |other| matches!(other, Content::Parameters))
}

/// As [`private_key`], but the file may also hold certificates.
pub fn private_key_and_certificates(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, PemError> {
    key(path, |other| matches!(other, Content::Parameters | Content::Certificate(_)))
}

fn certificate(content: Content) -> Result<CertificateDer<'static>, Content> {
    match content {
        Content::Certificate(certificate) => Ok(certificate),
        other => Err(other),
    }
}

fn key(
    path: &Path,
    welcome: impl Fn(&Content) -> bool,
) -> Result<Zeroizing<PrivateKeyDer<'static>>, PemError> {
    let pick = |content| match content {
        Content::Key(key) => Ok(Some(key)),
        Content::EncryptedKey => Ok(None),
        other => Err(other),
    };
    let key = one(path, "private key", some(path, "private key", pick, welcome)?)?;
    key.ok_or_else(|| PemError::Encrypted { path: path.to_owned() })
}

/// The items without their lines.
fn all<T>(found: Vec<(usize, T)>) -> Vec<T> {
    found.into_iter().map(|(_, item)| item).collect()
}

/// The only item; more than one is a fault.
fn one<T>(path: &Path, what: &str, mut found: Vec<(usize, T)>) -> Result<T, PemError> {
    let more = found.split_off(1);
    let fault = |(line, _): &(usize, T)| Fault {
        line: *line,
        text: format!("another {what}, where one is wanted; take out the one that is not meant"),
    };
    match more.is_empty() {
        true => Ok(found.remove(0).1),
        false => Err(PemError::Faulty { path: path.to_owned(), faults: more.iter().map(fault).collect() }),
    }
}

/// The blocks of a file that `pick` accepts, at least one, each with its line. Any other block is a
/// fault unless it is `welcome`.
fn some<T>(
    path: &Path,
    what: &'static str,
    pick: impl Fn(Content) -> Result<T, Content>,
    welcome: impl Fn(&Content) -> bool,
) -> Result<Vec<(usize, T)>, PemError> {
    let text = read(path)?;
    let Contents { blocks, mut faults } = parse(&text);
    let broken = !faults.is_empty();
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for Block { line, content } in blocks {
        match pick(content) {
            Ok(item) => found.push((line, item)),
            Err(other) => {
                let (name, place) = other.name();
                others.push(name);
                if !welcome(&other) {
                    faults.push(Fault { line, text: format!("a {name}, where a {what} is wanted; {place}") });
                }
            }
        }
    }
    if found.is_empty() && !broken {
        let hint = match others.first() {
            Some(other) => format!(", but a {other}"),
            None if text.is_empty() => ": it is empty".to_owned(),
            None => ": expected PEM, a block that starts with -----BEGIN".to_owned(),
        };
        return Err(PemError::Missing { path: path.to_owned(), what, hint });
    }
    if faults.is_empty() {
        return Ok(found);
    }
    faults.sort_by_key(|fault| fault.line);
    Err(PemError::Faulty { path: path.to_owned(), faults })
}

/// Advice for a block that cannot be read.
const WHOLE: &str = "put the whole block there, or take it out";

/// Start of a BEGIN marker.
const BEGIN: &[u8] = b"-----BEGIN";

/// Start of an END marker.
const END: &[u8] = b"-----END";

/// A block whose END has not come yet.
enum Open<'a> {
    /// Its line, its label, and the offset of its contents.
    Good(usize, &'a [u8], usize),
    /// A block that was reported as a fault already.
    Told,
}

/// Reads every block of `text`; each `-----BEGIN` becomes a block or a fault.
pub fn parse(text: &[u8]) -> Contents {
    let mut out = Contents::default();
    let mut open = None;
    let (mut line, mut counted) = (1, 0);
    // Offset and line where the text outside of blocks begins.
    let mut outside = (0, 1);
    for (at, begins) in markers(text) {
        line += newlines(&text[counted..at]);
        counted = at;
        if open.is_none() {
            out.faults.extend(lost(between(text, outside.0, at), outside.1));
        }
        let mut fault = |line, text: String| out.faults.push(Fault { line, text });
        if begins {
            if let Some(Open::Good(line, label, _)) = open {
                let label = shown(label);
                fault(
                    line,
                    format!(
                        "this {label} block has no END line before the next begins: it is cut off; {WHOLE}"
                    ),
                );
            }
            let begun = label(text, at + BEGIN.len());
            if begun.is_none() {
                fault(
                    line,
                    format!("a BEGIN line that is damaged: it must read -----BEGIN KIND-----; {WHOLE}"),
                );
            }
            open = Some(begun.map_or(Open::Told, |(label, inside)| Open::Good(line, label, inside)));
            continue;
        }
        let ended = label(text, at + END.len());
        outside = (ended.map_or(at + END.len(), |(_, end)| end), line);
        match open.take() {
            Some(Open::Good(begun, label, inside)) if ended.is_some_and(|(ended, _)| ended == label) => {
                match block(label, between(text, inside, at)) {
                    Ok(content) => out.blocks.push(Block { line: begun, content }),
                    Err(text) => fault(begun, text),
                }
            }
            Some(Open::Good(begun, label, _)) => {
                let label = shown(label);
                fault(begun, format!("this {label} block does not end with -----END {label}-----; {WHOLE}"));
            }
            Some(Open::Told) => {}
            None => fault(line, format!("an END line without a BEGIN line before it; {WHOLE}")),
        }
    }
    match open {
        Some(Open::Good(line, label, _)) => {
            let text = format!("this {} block has no END line: it is cut off; {WHOLE}", shown(label));
            out.faults.push(Fault { line, text });
        }
        Some(Open::Told) => {}
        None => out.faults.extend(lost(between(text, outside.0, text.len()), outside.1)),
    }
    if let Some(zero) = text.iter().position(|byte| *byte == 0) {
        let words = "a zero byte, so this is not PEM: is it DER (openssl x509 -inform DER), or UTF-16 (iconv)? convert it";
        out.faults.push(Fault { line: 1 + newlines(&text[..zero]), text: words.to_owned() });
    }
    out
}

/// The part of `text` between two offsets; empty if the markers overlap, since they may share
/// dashes.
fn between(text: &[u8], from: usize, to: usize) -> &[u8] {
    text.get(from..to).unwrap_or_default()
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The offsets of all BEGIN and END markers, in order; true for BEGIN.
fn markers(text: &[u8]) -> impl Iterator<Item = (usize, bool)> {
    (0..text.len()).filter(|at| text[*at..].starts_with(b"-----")).filter_map(|at| {
        let rest = &text[at..];
        if rest.starts_with(BEGIN) { Some((at, true)) } else { rest.starts_with(END).then_some((at, false)) }
    })
}

/// The label at `at`, which must follow a blank, and the offset after its dashes.
fn label(text: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = text[at..].strip_prefix(b" ")?;
    let length = rest.iter().take(65).position(|byte| *byte == b'-')?;
    let label = &rest[..length];
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b' ';
    let whole = !label.is_empty() && label.iter().all(good) && rest[length..].starts_with(b"-----");
    whole.then_some((label, at + 1 + length + 5))
}

/// A fault for Base64 outside of blocks: its BEGIN line is damaged or missing. `text` begins on
/// `line`.
fn lost(text: &[u8], line: usize) -> Option<Fault> {
    let is_base64 = |line: &[u8]| {
        let line = line.trim_ascii();
        let inner = line.strip_suffix(b"==").or_else(|| line.strip_suffix(b"=")).unwrap_or(line);
        // A fingerprint in hexadecimal is not Base64 of a block.
        let hex = inner.iter().all(u8::is_ascii_hexdigit);
        line.len() >= BASE64_LINE
            && !hex
            && inner.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
    };
    let at = text.split(|byte| *byte == b'\n').position(is_base64)?;
    let words = format!("what looks like the inside of a block, without its BEGIN line; {WHOLE}");
    Some(Fault { line: line + at, text: words })
}

/// Reads the contents of a block.
fn block(label: &[u8], inside: &[u8]) -> Result<Content, String> {
    let kind = match label {
        b"X509 CERTIFICATE" => &b"CERTIFICATE"[..],
        b"NEW CERTIFICATE REQUEST" => b"CERTIFICATE REQUEST",
        b"EC PARAMETERS" => return Ok(Content::Parameters),
        b"ENCRYPTED PRIVATE KEY" => return Ok(Content::EncryptedKey),
        b"TRUSTED CERTIFICATE" => {
            return Err("a TRUSTED CERTIFICATE, a form of OpenSSL's own; make a plain one of it: openssl x509 -in FILE -out NEW".to_owned());
        }
        b"PKCS7" | b"CMS" | b"PKCS #7 SIGNED DATA" => {
            return Err("a PKCS#7 bundle; take the certificates out of it: openssl pkcs7 -print_certs -in FILE -out NEW".to_owned());
        }
        other => other,
    };
    let name = shown(label);
    if b"Proc-Type: 4,ENCRYPTED".len() <= inside.len()
        && inside.windows(22).any(|part| part == b"Proc-Type: 4,ENCRYPTED")
    {
        return Ok(Content::EncryptedKey);
    }
    // The block is written again for the parser below, which is strict about lines. The buffer has
    // room for the whole block: growing would leave copies of a private key in memory.
    let mut plain = Zeroizing::new(Vec::with_capacity(inside.len() + 2 * kind.len() + 40));
    plain.extend_from_slice(&[BEGIN, b" ", kind, b"-----\n"].concat());
    let begun = plain.len();
    plain.extend(inside.iter().filter(|byte| !byte.is_ascii_whitespace()));
    if plain.len() == begun {
        return Err(format!("this {name} block is empty; {WHOLE}"));
    }
    plain.extend_from_slice(&[b"\n", END, b" ", kind, b"-----\n"].concat());
    match rustls_pemfile::read_one_from_slice(&plain) {
        Ok(Some((Item::X509Certificate(certificate), _))) => Ok(Content::Certificate(certificate)),
        Ok(Some((Item::Crl(list), _))) => Ok(Content::List(list)),
        Ok(Some((Item::Csr(request), _))) => Ok(Content::Request(request)),
        Ok(Some((Item::Pkcs8Key(key), _))) => Ok(Content::Key(Zeroizing::new(key.into()))),
        Ok(Some((Item::Pkcs1Key(key), _))) => Ok(Content::Key(Zeroizing::new(key.into()))),
        Ok(Some((Item::Sec1Key(key), _))) => Ok(Content::Key(Zeroizing::new(key.into()))),
        Ok(Some((Item::SubjectPublicKeyInfo(_), _))) => Ok(Content::PublicKey),
        Ok(_) => Err(format!("a {name} block, a kind that is not known here; take it out")),
        Err(_) => Err(format!("this {name} block is damaged: its contents are not Base64; {WHOLE}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(kind: &str, der: &[u8]) -> String {
        use std::fmt::Write;
        let table = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for (at, piece) in der.chunks(3).enumerate() {
            let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(*piece.get(at).unwrap_or(&0)));
            for place in 0..4 {
                let letter = table[(bits >> (18 - 6 * place) & 63) as usize];
                text.push(if place <= piece.len() { char::from(letter) } else { '=' });
            }
            if at % 16 == 15 {
                text.push('\n');
            }
        }
        let mut out = String::new();
        writeln!(out, "-----BEGIN {kind}-----\n{}\n-----END {kind}-----", text.trim_end()).unwrap();
        out
    }

    fn lists(text: &str) -> Vec<Vec<u8>> {
        let Contents { blocks, faults } = parse(text.as_bytes());
        assert!(faults.is_empty(), "{faults:?}\n{text}");
        let list = |block: Block| match block.content {
            Content::List(list) => list.to_vec(),
            other => panic!("{other:?}"),
        };
        blocks.into_iter().map(list).collect()
    }

    #[test]
    fn blocks_are_found_with_any_line_ends_and_text_around_them() {
        let (one, two) = (pem("X509 CRL", b"one, of some length"), pem("X509 CRL", &[7; 200]));
        let both = [b"one, of some length".to_vec(), vec![7; 200]];
        let glued = one.trim_end().to_owned() + &two;
        assert!(glued.contains("----------BEGIN"));
        assert_eq!(lists(&glued), both);
        assert_eq!(lists(&("\u{feff}".to_owned() + &one + "\u{feff}" + &two)), both);
        let indented = format!("  {}", (one.clone() + &two).replace('\n', "\n\t  "));
        assert_eq!(lists(&indented), both);
        assert_eq!(lists(&(one.clone() + &two).replace('\n', "\r\n")), both);
        let commented =
            format!("# ours\n{one}subject=/CN=x\n    Version: 3 (0x2)\n        4a:5b\n{two}\nend");
        assert_eq!(lists(&commented), both);
        let one_line =
            format!("-----BEGIN X509 CRL-----{}-----END X509 CRL-----", one.lines().nth(1).unwrap());
        assert_eq!(lists(&one_line), both[..1]);
    }

    #[test]
    fn unknown_or_damaged_blocks_are_reported_with_their_line() {
        let good = pem("X509 CRL", &[7; 100]);
        let cut: String = good.lines().take(2).map(|line| line.to_owned() + "\n").collect();
        for (text, line, words) in [
            (cut.clone(), 1, "has no END line: it is cut off"),
            (format!("{good}{cut}{good}"), 6, "has no END line before the next begins"),
            (good.replace("END X509 CRL", "END X509 CRI"), 1, "does not end with -----END X509 CRL-----"),
            (good.trim_end().trim_end_matches('-').to_owned() + "---\n", 1, "does not end"),
            (
                format!("\n{}", good.replace("BEGIN X509 CRL-----", "BEGIN X509 CRL---")),
                2,
                "BEGIN line that is damaged",
            ),
            (good.replace("-----BEGIN", "----BEGIN"), 2, "without its BEGIN line"),
            (good.replace("-----", "----"), 2, "without its BEGIN line"),
            (good.replace('w', "*"), 1, "is damaged"),
            (format!("{good}{}", pem("X509 CRL", b"").replace("\n\n", "\n")), 6, "is empty"),
            (
                format!("{good}{}", pem("PGP MESSAGE", b"x")),
                6,
                "a PGP MESSAGE block, a kind that is not known here",
            ),
            (pem("TRUSTED CERTIFICATE", b"x"), 1, "openssl x509"),
            (pem("PKCS7", b"x"), 1, "openssl pkcs7"),
            (format!("{good}\0"), 6, "zero byte"),
            (
                format!("# -----BEGIN X509 CRL-----\n# {}\n# -----END X509 CRL-----\n", "A".repeat(64)),
                1,
                "is damaged",
            ),
        ] {
            let faults = parse(text.as_bytes()).faults;
            assert!(!faults.is_empty(), "{words}: {text}");
            let told = faults.iter().any(|fault| fault.line == line && fault.text.contains(words));
            assert!(told, "{line}: {words}: {faults:?}\n{text}");
            assert!(
                faults.iter().all(|fault| fault.text.contains("; ") || fault.text.contains("? ")),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn a_file_holds_its_own_kinds_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let path = folder.path().join("file");
            std::fs::write(&path, text).unwrap();
            path
        };
        let block = |kind: &str| pem(kind, &[7; 60]);
        let told = |error: PemError| error.sentences().join("\n");
        let both = block("CERTIFICATE") + &block("PRIVATE KEY");
        let error = told(certificates(&write(&both)).unwrap_err());
        assert!(
            error.contains("file:5: a private key, where a certificate is wanted; a key belongs in"),
            "{error}"
        );
        assert_eq!(certificates_and_key(&write(&both)).unwrap().len(), 1);
        assert!(private_key(&write(&both)).is_err());
        assert!(private_key_and_certificates(&write(&both)).is_ok());
        assert!(private_key(&write(&(pem("EC PARAMETERS", b"x") + &block("EC PRIVATE KEY")))).is_ok());
        let error =
            told(private_key(&write(&(block("PRIVATE KEY") + &block("RSA PRIVATE KEY")))).unwrap_err());
        assert!(error.contains("file:5: another private key"), "{error}");
        let error = told(revocation_lists(&write(&(block("X509 CRL") + &block("CERTIFICATE")))).unwrap_err());
        assert!(
            error.contains("file:5: a certificate, where a certificate revocation list is wanted"),
            "{error}"
        );
        let error = told(certificates(&write(&block("X509 CRL"))).unwrap_err());
        assert!(error.contains("no certificate in this file, but a certificate revocation list"), "{error}");
        let locked = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for text in [locked.to_owned(), block("ENCRYPTED PRIVATE KEY")] {
            assert!(matches!(private_key(&write(&text)), Err(PemError::Encrypted { .. })));
        }
        // Two keys are too many, even if one of them is encrypted.
        assert!(
            told(private_key(&write(&(locked.to_owned() + &block("PRIVATE KEY")))).unwrap_err())
                .contains("another")
        );
        assert_eq!(signing_request(&write(&block("NEW CERTIFICATE REQUEST"))).unwrap().len(), 60);
        assert_eq!(certificates(&write(&block("X509 CERTIFICATE"))).unwrap().len(), 1);
        let many = told(certificates(&write(&"-----END X-----\n".repeat(500))).unwrap_err());
        assert!(many.lines().count() == MAX_REPORTED + 1 && many.contains("and 490 more"), "{many}");
    }

    proptest! {
        #[test]
        fn every_begin_is_a_block_or_a_fault(pieces in proptest::collection::vec(0usize..12, 0..40)) {
            let parts = [
                "-----BEGIN", "-----END", " X509 CRL", "-----", "-", "\n", "AAAA", " CERTIFICATE", "=", "\u{feff}",
                "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----", "  ",
            ];
            let text: String = pieces.iter().map(|at| parts[*at]).collect();
            let seen = text.matches("-----BEGIN").count();
            let Contents { blocks, faults } = parse(text.as_bytes());
            prop_assert!(blocks.len() <= seen && blocks.len() + faults.len() >= seen, "{}", text);
            if faults.is_empty() {
                prop_assert_eq!((blocks.len(), text.matches("-----END").count()), (seen, seen), "{}", text);
            }
        }
    }
}
