//! Verifies the far side's certificate, with the same rules at both ends.
//!
//! webpki finds a path to a CA of the config. This module checks what webpki does not, for every
//! certificate of that path. No certificate may be in its issuer's revocation lists; lists are
//! matched to issuers by key, since two CAs may have the same name. CAs must be valid now and
//! allowed to sign certificates. The leaf must state its uses. A wildcard or a common name never
//! counts.
//!
//! The peer is unknown until all checks are done. So the size of what it sends is bounded before a
//! signature is checked. webpki tries every way through the intermediates, so it is given only
//! those that a CA of the config has signed, directly or through another of them.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Weak};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{Cert, CertRevocationList, EndEntityCert, KeyUsage, VerifiedPath};

use crate::crypto::provider;
use crate::x509::{self, Certificate};

/// Most certificates that may follow the leaf.
pub const MOST_INTERMEDIATES: usize = 8;

/// Most bytes of the leaf and the certificates after it.
const MOST_BYTES: usize = 32 * 1024;

/// A CA of the config.
#[derive(Debug)]
pub struct Anchor {
    /// The CA in webpki's form.
    pub trust: TrustAnchor<'static>,
    /// The contents of its certificate. webpki does not check the validity of a CA.
    pub facts: Certificate,
    /// Whether another CA has revoked it.
    pub revoked: bool,
}

/// A revocation list with a valid signature.
#[derive(Debug)]
pub struct List {
    /// The public key that has signed the list.
    pub key: Vec<u8>,
    /// The list.
    pub list: CertRevocationList<'static>,
    /// SHA-256 over the whole list.
    pub fingerprint: String,
}

impl List {
    /// Whether the list contains the certificate with this serial number, issued by the CA with
    /// this name and key. Names and serial numbers are in webpki's form.
    pub fn revokes(&self, serial: &[u8], issuer: &[u8], key: &[u8]) -> bool {
        self.key == key && self.list.issuer() == issuer && self.lists_serial(serial)
    }

    /// Whether the list contains this serial number, whoever the issuer is.
    pub fn lists_serial(&self, serial: &[u8]) -> bool {
        !matches!(self.list.find_serial(serial), Ok(None))
    }
}

/// The CAs and revocation lists that chains are verified against.
#[derive(Debug)]
pub struct Trust {
    anchors: Vec<Anchor>,
    lists: Vec<List>,
    /// The anchors in webpki's form.
    trusts: Vec<TrustAnchor<'static>>,
}

impl Trust {
    /// Those of the certificates after a far side's own that lead to a CA.
    pub(super) fn vouched(
        &self,
        chain: &[CertificateDer<'static>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Vec<CertificateDer<'static>> {
        let cas = self.anchors.iter().map(|anchor| &anchor.facts);
        vouched(cas, chain, algorithms).into_iter().map(|(der, _)| der.into_owned()).collect()
    }

    /// `lists` are those of the CAs and of intermediates.
    pub fn new(anchors: Vec<Anchor>, lists: Vec<List>) -> Self {
        let trusts = anchors.iter().map(|anchor| anchor.trust.clone()).collect();
        Self { anchors, lists, trusts }
    }

    /// Checks what webpki does not, on a path that webpki has accepted.
    fn inspect(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Error> {
        let leaf: &Cert<'_> = path.end_entity();
        let certificates: Vec<&Cert<'_>> =
            std::iter::once(leaf).chain(path.intermediate_certificates()).collect();
        // One CA may have several certificates with different validities.
        let mut anchors = self.anchors.iter().filter(|anchor| anchor.trust == *path.anchor()).peekable();
        let Some(top) = anchors.peek() else { return Err(CertificateError::UnknownIssuer.into()) };
        let top = top.facts.public_key.clone();
        for (at, certificate) in certificates.iter().enumerate() {
            let key = certificates
                .get(at + 1)
                .map_or_else(|| top.clone(), |issuer| issuer.subject_public_key_info().as_ref().to_vec());
            let revoked =
                self.lists.iter().any(|list| list.revokes(certificate.serial(), certificate.issuer(), &key));
            if at == 0 {
                if revoked {
                    return Err(CertificateError::Revoked.into());
                }
                continue;
            }
            let facts = Certificate::read(&certificate.der()).map_err(|_| CertificateError::BadEncoding)?;
            if revoked {
                return Err(refused(Refused::CaRevoked { ca: facts.subject }));
            }
            if !facts.may_sign_certificates {
                return Err(refused(Refused::MayNotSign { ca: facts.subject }));
            }
        }
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut reason = Error::from(CertificateError::UnknownIssuer);
        for Anchor { facts, revoked, .. } in anchors {
            let ca = facts.subject.clone();
            if *revoked {
                reason = refused(Refused::CaRevoked { ca });
            } else if seconds < facts.not_before || seconds > facts.not_after {
                let (from, until) = (crate::clock::utc(facts.not_before), crate::clock::utc(facts.not_after));
                let past = seconds > facts.not_after;
                reason = refused(Refused::CaOutOfDate { ca, from, until, past });
            } else {
                return Ok(());
            }
        }
        Err(reason)
    }

    /// Verifies what a gateway in this role shows at the time `now`, whichever its site is. Returns the
    /// contents of its certificate.
    pub fn judge(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Certificate, Error> {
        if chain.len() > MOST_INTERMEDIATES {
            return Err(refused(Refused::TooMany { count: chain.len() }));
        }
        let bytes = leaf.len() + chain.iter().map(|certificate| certificate.len()).sum::<usize>();
        if bytes > MOST_BYTES {
            return Err(refused(Refused::TooLarge { bytes }));
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(|error| certificate_error(error, role))?;
        let cas = self.anchors.iter().map(|anchor| &anchor.facts);
        let all = chain;
        let chain: Vec<_> =
            vouched(cas, chain, algorithms).into_iter().map(|(certificate, _)| certificate).collect();
        let reason = RefCell::new(None);
        let inspect = |path: &VerifiedPath<'_>| {
            self.inspect(path, now).map_err(|error| {
                reason.replace(Some(error));
                webpki::Error::UnknownRevocationStatus
            })
        };
        let found = parsed.verify_for_usage(
            algorithms.all,
            &self.trusts,
            &chain,
            now,
            role.usage(),
            None,
            Some(&inspect),
        );
        if let Err(error) = found {
            // webpki does not accept a weak key, so such a chain has no path and no better reason.
            if let Some(ca) = self.weak_issuer(leaf, all)
                && reason.borrow().is_none()
            {
                return Err(refused(Refused::WeakKey {
                    whose: format!("the CA {}", ca.subject),
                    key: ca.key,
                }));
            }
            // A reason found on an otherwise valid path says more than webpki's error.
            return Err(reason.take().unwrap_or_else(|| certificate_error(error, role)));
        }
        let facts = Certificate::read(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if facts.is_weak() {
            return Err(refused(Refused::WeakKey { whose: "the certificate".to_owned(), key: facts.key }));
        }
        let there = match role {
            Role::Client => facts.client_auth,
            Role::Server => facts.server_auth,
        };
        if !there {
            return Err(refused(Refused::Purpose(role.name())));
        }
        if !facts.may_sign {
            return Err(refused(Refused::NoSignature));
        }
        Ok(facts)
    }

    /// The CA with a weak key that is named as the issuer of `leaf` or of a certificate after it.
    fn weak_issuer(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Option<Certificate> {
        let shown: Vec<Certificate> =
            std::iter::once(leaf).chain(chain).filter_map(|der| Certificate::read(der).ok()).collect();
        let cas = self.anchors.iter().map(|anchor| &anchor.facts).chain(shown.iter().skip(1));
        let is_issuer = |ca: &&Certificate| shown.iter().any(|facts| facts.issuer_raw == ca.subject_raw);
        cas.filter(|ca| ca.is_weak()).find(is_issuer).cloned()
    }

    /// SHA-256 over every CA and list.
    pub fn fingerprint(&self) -> String {
        let cas = self.anchors.iter().map(|anchor| anchor.facts.fingerprint.as_str());
        let lists = self.lists.iter().map(|list| list.fingerprint.as_str());
        x509::fingerprint(cas.chain(["lists"]).chain(lists).collect::<Vec<_>>().join(" ").as_bytes())
    }

    /// Whether one of the CAs is past its end at this time.
    pub fn has_past_ca(&self, now: i64) -> bool {
        self.anchors.iter().any(|anchor| now > anchor.facts.not_after)
    }
}

/// The certificates of `chain` that a CA has signed, directly or through another certificate of
/// this result. A certificate is checked only against issuers whose name matches, and one that is
/// not in the result never counts as an issuer. So each certificate that a peer sends costs only a
/// few signature checks.
pub fn vouched<'c>(
    cas: impl Iterator<Item = &'c Certificate>,
    chain: &'c [CertificateDer<'c>],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Vec<(CertificateDer<'c>, Certificate)> {
    let mut issuers: Vec<(Vec<u8>, Vec<u8>)> =
        cas.map(|ca| (ca.subject_raw.clone(), ca.public_key.clone())).collect();
    issuers.dedup();
    let mut waiting: Vec<(CertificateDer<'c>, Certificate)> = Vec::new();
    for der in chain {
        if let Ok(facts) = Certificate::read(der)
            && !waiting.iter().any(|(other, _)| other == der)
        {
            waiting.push((der.clone(), facts));
        }
    }
    let mut counted = Vec::new();
    let mut at = 0;
    while at < issuers.len() {
        let (name, key) = issuers[at].clone();
        let signed = |(der, facts): &mut (CertificateDer<'c>, Certificate)| {
            facts.issuer_raw == name && x509::is_signed(der, &key, algorithms.all)
        };
        let found: Vec<_> = waiting.extract_if(.., signed).collect();
        issuers.extend(found.iter().map(|(_, facts)| (facts.subject_raw.clone(), facts.public_key.clone())));
        counted.extend(found);
        at += 1;
    }
    counted
}

/// Why a chain is refused: reasons that webpki does not check or does not explain.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The far side is not the site that the config demands.
    #[error("the far gateway is not {wanted}: its certificate carries {found}")]
    WrongSite {
        /// The site that must answer.
        wanted: String,
        /// The names in its certificate.
        found: String,
    },
    /// The CA is not valid now.
    #[error("the CA {ca} that signed it is not valid now: it is good from {from} until {until}")]
    CaOutOfDate {
        /// Subject of the CA.
        ca: String,
        /// Start of its validity.
        from: String,
        /// End of its validity.
        until: String,
        /// Whether it is past its end, and not before its start.
        past: bool,
    },
    /// A CA of the chain is in its own issuer's revocation list.
    #[error("the CA {ca} that signed it has been revoked")]
    CaRevoked {
        /// Subject of the CA.
        ca: String,
    },
    /// A CA whose key usage does not allow it to sign certificates.
    #[error("the CA {ca} that signed it may not: its key usage lacks keyCertSign")]
    MayNotSign {
        /// Subject of the CA.
        ca: String,
    },
    /// The certificate, or a CA of its chain, was signed by one that is not a CA's.
    #[error("a certificate of its chain has signed another, although it is not a CA's")]
    NoCa,
    /// There are more CAs below one of them than its path length allows.
    #[error("a CA of its chain does not allow so many CAs below it (pathlen)")]
    TooDeep,
    /// More certificates than [`MOST_INTERMEDIATES`] follow the leaf.
    #[error(
        "{count} certificates come after it, and at most {MOST_INTERMEDIATES} are accepted: put only the certificate and its intermediates into `cert`"
    )]
    TooMany {
        /// Number of these certificates.
        count: usize,
    },
    /// The certificates together are larger than 32 KiB.
    #[error("it and its intermediates have {bytes} bytes, and at most {MOST_BYTES} are accepted")]
    TooLarge {
        /// Size of all certificates in bytes.
        bytes: usize,
    },
    /// An extension is marked critical and is not supported here.
    #[error(
        "it, or a CA of its chain, has an extension that is marked critical and not understood here: have it issued without that (openssl x509 -text shows it)"
    )]
    CriticalExtension,
    /// The certificate has a name that a CA of the chain may not sign for.
    #[error(
        "it carries a name that a CA of its chain may not sign for (name constraints): have the CA allow that name, or leave it out of the certificate"
    )]
    NameConstraint,
    /// A signature algorithm is not accepted, or a key is too weak.
    #[error(
        "it, or a CA of its chain, is signed in a way that is not accepted: accepted are RSA of 2048 to 8192 bits, ECDSA (P-256, P-384, P-521) or Ed25519, with SHA-256 or better"
    )]
    Weak,
    /// A key is too short to be secure.
    #[error(
        "the key of {whose} is too weak ({key}): RSA needs 2048 bits at least; have it issued with another"
    )]
    WeakKey {
        /// The owner of the key.
        whose: String,
        /// The kind of key.
        key: String,
    },
    /// A certificate has version 1 or 2.
    #[error("it, or a CA of its chain, is not a version 3 certificate: issue a new one, with extensions")]
    OldVersion,
    /// The chain costs too much to verify.
    #[error("its chain is too complex to verify: put only the certificate and its intermediates into `cert`")]
    Tangled,
    /// The key usage does not allow signing a handshake.
    #[error("its key usage lacks digitalSignature: a gateway signs its handshakes")]
    NoSignature,
    /// The leaf is a CA's certificate, or a self-signed one that claims to be a CA's.
    #[error("it is a CA's certificate: a gateway needs one that a CA has signed for it")]
    IsCa,
    /// The extended key usage does not allow this role.
    #[error("its extended key usage lacks {0}: a gateway's certificate needs clientAuth and serverAuth")]
    Purpose(&'static str),
}

/// The verifier behind both rustls configs.
pub struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// Connections live for long, and files are read again meanwhile: what handshakes alone need is
    /// not kept for them.
    trust: Weak<Trust>,
    hints: Vec<DistinguishedName>,
    /// At the dialler: the only site that may answer.
    site: Option<String>,
}

/// The role of the side whose chain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has dialled.
    Client,
    /// It was dialled.
    Server,
}

impl Role {
    fn usage(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Server => "serverAuth",
            Self::Client => "clientAuth",
        }
    }
}

impl Verifier {
    /// A verifier that uses `trust` as long as its owner keeps that; if `site` is given, only that
    /// site is accepted.
    pub fn new(provider: &CryptoProvider, trust: &Arc<Trust>, site: Option<String>) -> Self {
        let hints = trust
            .anchors
            .iter()
            .map(|anchor| DistinguishedName::in_sequence(anchor.trust.subject.as_ref()))
            .collect();
        let (algorithms, trust) = (provider.signature_verification_algorithms, Arc::downgrade(trust));
        Self { algorithms, trust, hints, site }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(trust) = self.trust.upgrade() else {
            return Err(Error::General("other files of trust are in use since the handshake began".into()));
        };
        let facts = trust.judge(&self.algorithms, leaf, chain, role, now)?;
        match &self.site {
            Some(wanted) if !facts.carries(wanted) => {
                let found =
                    if facts.dns.is_empty() { "no DNS name".to_owned() } else { x509::some_of(&facts.dns) };
                Err(refused(Refused::WrongSite { wanted: wanted.clone(), found }))
            }
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme::{
            ECDSA_SHA1_Legacy, RSA_PKCS1_SHA1, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        };
        let older = [ECDSA_SHA1_Legacy, RSA_PKCS1_SHA1, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512];
        self.algorithms.supported_schemes().into_iter().filter(|scheme| !older.contains(scheme)).collect()
    }
}

/// Verifies a chain as a gateway would, in both roles and, if given, for `site`. Used by `certs
/// verify` and `check`.
pub fn judge_both(
    trust: &Arc<Trust>,
    site: Option<&str>,
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let verifier = Verifier::new(&provider(), trust, site.map(str::to_owned));
    verifier.judge(leaf, chain, Role::Client, UnixTime::now())?;
    verifier.judge(leaf, chain, Role::Server, UnixTime::now())
}

/// Whether a certificate or a CA is refused for its dates alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dates {
    /// It is past its end.
    Past,
    /// It is not valid yet.
    Ahead,
}

impl Dates {
    /// What is wrong with the dates, if an error is about them.
    pub fn of(error: &Error) -> Option<Self> {
        let Error::InvalidCertificate(error) = error else { return None };
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some(Self::Past),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Some(Self::Ahead),
            CertificateError::Other(OtherError(reason)) => match reason.downcast_ref() {
                Some(Refused::CaOutOfDate { past: true, .. }) => Some(Self::Past),
                Some(Refused::CaOutOfDate { .. }) => Some(Self::Ahead),
                _ => None,
            },
            _ => None,
        }
    }
}

fn refused(reason: Refused) -> Error {
    CertificateError::Other(OtherError(Arc::new(reason))).into()
}

fn certificate_error(error: webpki::Error, role: Role) -> Error {
    use webpki::Error as W;
    let error = match error {
        W::BadDer | W::BadDerTime | W::TrailingData(_) => CertificateError::BadEncoding,
        W::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        W::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        W::InvalidCertValidity => CertificateError::Expired,
        // A CA with the right name and another key has not signed the certificate either.
        W::UnknownIssuer | W::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        W::EndEntityUsedAsCa => return refused(Refused::NoCa),
        W::PathLenConstraintViolated => return refused(Refused::TooDeep),
        W::UnsupportedCriticalExtension => return refused(Refused::CriticalExtension),
        W::NameConstraintViolation | W::UnsupportedNameType => return refused(Refused::NameConstraint),
        W::UnsupportedSignatureAlgorithmContext(_)
        | W::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | W::SignatureAlgorithmMismatch => return refused(Refused::Weak),
        W::UnsupportedCertVersion => return refused(Refused::OldVersion),
        W::MaximumPathBuildCallsExceeded
        | W::MaximumPathDepthExceeded
        | W::MaximumSignatureChecksExceeded
        | W::MaximumNameConstraintComparisonsExceeded => return refused(Refused::Tangled),
        W::CaUsedAsEndEntity => return refused(Refused::IsCa),
        W::RequiredEkuNotFoundContext(_) => return refused(Refused::Purpose(role.name())),
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    error.into()
}

fn not_offered() -> Error {
    Error::General("TLS 1.2 is not offered".into())
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("site", &self.site).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, chain, Role::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_offered())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, chain, Role::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_offered())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
