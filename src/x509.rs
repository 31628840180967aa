//! Reads certificates and revocation lists into this project's types.
//!
//! The gateway, `check` and `certs` all use this reader. It verifies nothing but signatures on
//! request.

use std::net::IpAddr;

use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::escape::shown;

/// The error for bytes that are not a certificate or list of the expected form.
#[derive(Debug, thiserror::Error)]
#[error("not a valid {what}: {error}")]
pub struct Unreadable {
    what: &'static str,
    error: String,
}

fn unreadable(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Unreadable {
    move |error| Unreadable { what, error: error.to_string() }
}

/// The contents of one certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Subject, as text.
    pub subject: String,
    /// Issuer, as text.
    pub issuer: String,
    /// Issuer, as encoded.
    pub issuer_raw: Vec<u8>,
    /// Subject, as encoded.
    pub subject_raw: Vec<u8>,
    /// Common name of the subject, if it has one. Never used to identify a peer.
    pub common_name: Option<String>,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// Valid from, seconds since 1970.
    pub not_before: i64,
    /// Valid until, seconds since 1970.
    pub not_after: i64,
    /// DNS names of the subject alternative name.
    pub dns: Vec<String>,
    /// IP addresses of the subject alternative name.
    pub ips: Vec<IpAddr>,
    /// Whether its extended key usage names clientAuth.
    pub client_auth: bool,
    /// Whether its extended key usage names serverAuth.
    pub server_auth: bool,
    /// Whether it is a CA.
    pub is_ca: bool,
    /// Whether its key usage, if it has one, names keyCertSign.
    pub may_sign_certificates: bool,
    /// Whether its key usage, if it has one, names cRLSign.
    pub may_sign_lists: bool,
    /// Whether its key usage, if it has one, names digitalSignature.
    pub may_sign: bool,
    /// Most CAs that may follow between this one and a leaf, if limited.
    pub path_length: Option<u32>,
    /// Kind of the public key.
    pub key: String,
    /// Public key as encoded.
    pub public_key: Vec<u8>,
    /// Subject key identifier.
    pub key_id: Option<Vec<u8>>,
    /// SHA-256 over the whole certificate.
    pub fingerprint: String,
}

impl Certificate {
    /// Reads a certificate.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let what = unreadable("certificate");
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| what(&error))?;
        if !rest.is_empty() {
            return Err(what(&"bytes after its end"));
        }
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        if let Some(names) = certificate.subject_alternative_name().map_err(|error| what(&error))? {
            alternative_names(&names.value.general_names, &mut dns, &mut ips);
        }
        let usage = certificate.extended_key_usage().map_err(|error| what(&error))?;
        let constraints = certificate.basic_constraints().map_err(|error| what(&error))?;
        let key_usage = certificate.key_usage().map_err(|error| what(&error))?.map(|usage| usage.value);
        let common_name = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned);
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            issuer_raw: certificate.issuer().as_raw().to_vec(),
            subject_raw: certificate.subject().as_raw().to_vec(),
            common_name,
            serial: certificate.raw_serial().to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            dns,
            ips,
            client_auth: usage.as_ref().is_some_and(|usage| usage.value.client_auth),
            server_auth: usage.as_ref().is_some_and(|usage| usage.value.server_auth),
            is_ca: constraints.as_ref().is_some_and(|constraints| constraints.value.ca),
            may_sign_certificates: key_usage.is_none_or(|usage| usage.key_cert_sign()),
            may_sign_lists: key_usage.is_none_or(|usage| usage.crl_sign()),
            may_sign: key_usage.is_none_or(|usage| usage.digital_signature()),
            path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
            key: key_kind(certificate.public_key()),
            public_key: certificate.public_key().raw.to_vec(),
            key_id: certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            }),
            fingerprint: fingerprint(der),
        })
    }

    /// Whether the certificate is for exactly this site: one of its DNS names, ignoring case.
    /// Wildcards and the common name never count.
    pub fn carries(&self, site: &str) -> bool {
        self.dns.iter().any(|name| name.eq_ignore_ascii_case(site))
    }

    /// Whether its key is RSA with fewer bits than TLS accepts.
    pub fn is_weak(&self) -> bool {
        let bits = self.key.strip_prefix("RSA ").and_then(|bits| bits.parse::<u32>().ok());
        bits.is_some_and(|bits| bits < 2048)
    }

    /// The serial number as colon-separated hex.
    pub fn serial_text(&self) -> String {
        hex(&self.serial)
    }
}

/// The contents of one revocation list.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// Issuer, as text.
    pub issuer: String,
    /// Issuer, as encoded.
    pub issuer_raw: Vec<u8>,
    /// Its number, big-endian: a later list of the same issuer and scope has a higher one.
    pub number: Option<[u8; 20]>,
    /// Whether it only lists what differs from another list.
    pub is_delta: bool,
    /// When it was made, seconds since 1970.
    pub this_update: i64,
    /// When it becomes stale, seconds since 1970.
    pub next_update: Option<i64>,
    /// Revoked serial numbers, and when each was revoked.
    pub revoked: Vec<(Vec<u8>, i64)>,
    /// Which certificates of its issuer the list covers, as encoded; `None` is all of them.
    pub scope: Option<Vec<u8>>,
}

/// Object identifier of the extension that makes a list a delta.
const DELTA: &str = "2.5.29.27";

/// Object identifier of the extension with the scope of a list.
const ISSUING_DISTRIBUTION_POINT: &str = "2.5.29.28";

impl RevocationList {
    /// Reads a list without verifying its signature; see [`RevocationList::is_of`].
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let list = parse_list(der)?;
        Ok(Self {
            issuer: list.issuer().to_string(),
            issuer_raw: list.issuer().as_raw().to_vec(),
            number: list.crl_number().and_then(|number| {
                let bytes = number.to_bytes_be();
                let mut padded = [0; 20];
                padded[20_usize.checked_sub(bytes.len())?..].copy_from_slice(&bytes);
                Some(padded)
            }),
            is_delta: list.extensions().iter().any(|extension| extension.oid.to_id_string() == DELTA),
            this_update: list.last_update().timestamp(),
            next_update: list.next_update().map(|time| time.timestamp()),
            revoked: list
                .iter_revoked_certificates()
                .map(|entry| (entry.raw_serial().to_vec(), entry.revocation_date.timestamp()))
                .collect(),
            scope: list
                .extensions()
                .iter()
                .find(|extension| extension.oid.to_id_string() == ISSUING_DISTRIBUTION_POINT)
                .map(|extension| extension.value.to_vec()),
        })
    }

    /// Whether the list `der` names the CA `ca` as its issuer and has its signature.
    pub fn is_of(der: &[u8], ca: &Certificate) -> bool {
        let algorithms = crate::crypto::provider().signature_verification_algorithms.all;
        parse_list(der).is_ok_and(|list| list.issuer().as_raw() == ca.subject_raw)
            && is_signed(der, &ca.public_key, algorithms)
    }
}

/// Whether a certificate or a list was signed with a public key's private key.
pub fn is_signed(der: &[u8], public_key: &[u8], algorithms: &[&dyn SignatureVerificationAlgorithm]) -> bool {
    let signed = || {
        let body = element(der)?.0.data;
        let (_, rest) = element(body)?;
        let text = &body[..body.len() - rest.len()];
        let (algorithm, rest) = element(rest)?;
        let (signature, _) = element(rest)?;
        let (kind, rest) = element(element(public_key)?.0.data)?;
        let (key, _) = element(rest)?;
        // A bit string begins with the number of unused bits, which must be zero.
        let (signature, key) = (signature.data.strip_prefix(&[0])?, key.data.strip_prefix(&[0])?);
        let fits = |known: &&&dyn SignatureVerificationAlgorithm| {
            known.signature_alg_id().as_ref() == algorithm.data
                && known.public_key_alg_id().as_ref() == kind.data
                && known.verify_signature(key, text, signature).is_ok()
        };
        algorithms.iter().find(fits)
    };
    signed().is_some()
}

/// The DER element at the front of `bytes`, and what follows it.
fn element(bytes: &[u8]) -> Option<(Any<'_>, &[u8])> {
    Any::from_der(bytes).ok().map(|(rest, element)| (element, rest))
}

fn parse_list(der: &[u8]) -> Result<CertificateRevocationList<'_>, Unreadable> {
    let what = unreadable("certificate revocation list");
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|error| what(&error))?;
    if rest.is_empty() { Ok(list) } else { Err(what(&"bytes after its end")) }
}

/// Sorts general names into DNS names and addresses.
pub fn alternative_names(names: &[GeneralName<'_>], dns: &mut Vec<String>, ips: &mut Vec<IpAddr>) {
    for name in names {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                ips.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            _ => {}
        }
    }
}

/// The kind of a public key.
pub fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => format!("RSA {}", key.parsed().map(|key| key.key_size()).unwrap_or(0)),
        "1.3.101.112" => "Ed25519".to_owned(),
        "1.2.840.10045.2.1" => {
            let curve = key
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
                .map(|oid| oid.to_id_string());
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
                Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
                Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
                other => format!("EC {}", other.unwrap_or("of an unnamed curve")),
            }
        }
        other => other.to_owned(),
    }
}

/// SHA-256 of `der` as colon-separated upper-case hex, as `openssl x509
/// -fingerprint -sha256` prints it.
pub fn fingerprint(der: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref())
}

/// Names of a certificate for one line: the first few, and the number of the others.
pub fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|name| shown(name.as_bytes())).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Colon-separated upper-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
