//! Judges the far side's certificate, the same way at both ends.
//!
//! Each CA of the config is tried with its own revocation lists: `webpki` alone
//! would take the first list with a matching issuer name, which after a rollover
//! may be another CA's. The leaf's extended key usage must be there; webpki alone
//! would let one without any pass. A wildcard or a common name never counts.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::x509::Certificate;

/// A CA with the newest revocation list that carries its signature.
#[derive(Debug)]
pub struct Anchor {
    /// The CA, as webpki wants it.
    pub trust: TrustAnchor<'static>,
    /// Its revocation list, if the config names one.
    pub list: Option<CertRevocationList<'static>>,
    /// The CA's own validity, which webpki does not look at.
    pub facts: Certificate,
}

/// The ways in which a chain that webpki accepts is still refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The far end is not the site that the config demands.
    #[error("the far gateway is not {wanted}: its certificate carries {found}")]
    WrongSite {
        /// The site that must answer.
        wanted: String,
        /// The names that its certificate carries.
        found: String,
    },
    /// The CA itself is out of date.
    #[error("the CA {ca} that signed it is not valid now: it is good from {from} until {until}")]
    CaOutOfDate {
        /// Subject of the CA.
        ca: String,
        /// Start of its validity.
        from: String,
        /// End of its validity.
        until: String,
    },
    /// A CA's own certificate, or a self-signed one that says so.
    #[error("it is a CA's certificate: a gateway needs one that a CA has signed for it")]
    IsCa,
    /// The extended key usage does not allow this role.
    #[error("its extended key usage lacks {0}: a gateway's certificate needs clientAuth and serverAuth")]
    Purpose(&'static str),
}

/// The verifier behind both rustls configs.
pub struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    anchors: Arc<Vec<Anchor>>,
    hints: Vec<DistinguishedName>,
    /// At the dialler: the one site that may answer.
    site: Option<String>,
}

#[derive(Clone, Copy)]
enum Role {
    Client,
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
    /// A verifier for `anchors`; with `site`, only that site may answer.
    pub fn new(provider: &CryptoProvider, anchors: Arc<Vec<Anchor>>, site: Option<String>) -> Self {
        let hints = anchors
            .iter()
            .map(|anchor| DistinguishedName::in_sequence(anchor.trust.subject.as_ref()))
            .collect();
        Self { algorithms: provider.signature_verification_algorithms, anchors, hints, site }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let mut answer = Err(Error::from(CertificateError::UnknownIssuer));
        for anchor in self.anchors.iter() {
            match self.judge_by(anchor, &parsed, chain, role, now) {
                Ok(()) => answer = Ok(()),
                // Final, whatever the other CAs say.
                Err(error @ Error::InvalidCertificate(CertificateError::Revoked)) => return Err(error),
                Err(Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                )) => {}
                // A telling answer of one CA outranks another's "not mine".
                Err(error) if answer.is_err() => answer = Err(error),
                Err(_) => {}
            }
        }
        answer?;
        let facts = Certificate::read(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let there = match role {
            Role::Client => facts.client_auth,
            Role::Server => facts.server_auth,
        };
        if !there {
            return Err(refused(Refused::Purpose(role.name())));
        }
        match &self.site {
            Some(wanted) if !facts.carries(wanted) => {
                let found =
                    if facts.dns.is_empty() { "no DNS name".to_owned() } else { facts.dns.join(", ") };
                Err(refused(Refused::WrongSite { wanted: wanted.clone(), found }))
            }
            _ => Ok(()),
        }
    }

    fn judge_by(
        &self,
        anchor: &Anchor,
        leaf: &EndEntityCert<'_>,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Error> {
        // Another CA's list counts where that CA has another name: it may be an
        // intermediate of this chain. Of two CAs of one name only the own list fits.
        let others = self.anchors.iter().filter(|other| other.trust.subject != anchor.trust.subject);
        let lists: Vec<&CertRevocationList<'_>> =
            std::iter::once(anchor).chain(others).filter_map(|anchor| anchor.list.as_ref()).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        leaf.verify_for_usage(
            self.algorithms.all,
            std::slice::from_ref(&anchor.trust),
            chain,
            now,
            role.usage(),
            revocation,
            None,
        )
        .map_err(|error| certificate_error(error, role))?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if seconds < anchor.facts.not_before || seconds > anchor.facts.not_after {
            return Err(refused(Refused::CaOutOfDate {
                ca: anchor.facts.subject.clone(),
                from: crate::clock::utc(anchor.facts.not_before),
                until: crate::clock::utc(anchor.facts.not_after),
            }));
        }
        Ok(())
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

/// Verifies a chain as a gateway would, for `certs verify` and `check`: in both
/// roles, and for `site` where one is given.
pub fn judge_both(
    anchors: Arc<Vec<Anchor>>,
    site: Option<&str>,
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let verifier = Verifier::new(&super::provider(), anchors, site.map(str::to_owned));
    verifier.judge(leaf, chain, Role::Client, UnixTime::now())?;
    verifier.judge(leaf, chain, Role::Server, UnixTime::now())
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
        W::UnknownIssuer => CertificateError::UnknownIssuer,
        W::CertRevoked => CertificateError::Revoked,
        W::InvalidSignatureForPublicKey => CertificateError::BadSignature,
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
