//! Explains TLS failures to an operator.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::clock;
use crate::escape::shown;
use crate::x509::{Certificate, some_of};

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The received bytes are not TLS.
    NotTls,
    /// The far side ended TLS with an alert.
    Alert,
    /// No known CA has signed the far side's certificate.
    UnknownCa,
    /// The certificate is expired or not valid yet.
    Dates,
    /// The certificate is revoked.
    Revoked,
    /// The certificate is refused for another reason.
    Certificate,
    /// Any other failure.
    Other,
}

impl Class {
    /// The class of a failure.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(_) => Self::Alert,
            Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownCa,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Dates,
                CertificateError::Revoked => Self::Revoked,
                _ => Self::Certificate,
            },
            _ => Self::Other,
        }
    }
}

/// Advice to the operator when a load balancer sends a PROXY protocol header.
pub const PROXY: &str = "the PROXY protocol came before TLS: turn send-proxy off for this backend";

/// Why the handshake failed, at either side. `ours` is this gateway's certificate.
pub fn handshake(error: &Error, ours: &Certificate) -> String {
    match error {
        Error::InvalidCertificate(error) => {
            format!("the far gateway's certificate is refused: {}", certificate(error))
        }
        Error::AlertReceived(alert) => alert_received(*alert, ours),
        Error::NoCertificatesPresented => {
            "the far side showed no certificate: only gateways with one from the shared CA are let in"
                .to_owned()
        }
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload
            | InvalidMessage::UnknownProtocolVersion,
        ) => "the received bytes are not TLS: is the other end a plain Redis, HTTP or something else?"
            .to_owned(),
        Error::InvalidMessage(_) => "the received bytes are not valid TLS".to_owned(),
        Error::PeerIncompatible(
            PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the far side does not speak TLS 1.3".to_owned(),
        Error::NoApplicationProtocol => "the far side offers another protocol than replgate/1".to_owned(),
        other => shown(other.to_string().as_bytes()),
    }
}

/// Why a certificate that was accepted once is refused now, in words for both sides.
pub fn not_any_more(error: &Error, leaf: &Certificate) -> String {
    let why = match error {
        Error::InvalidCertificate(error) => certificate(error),
        other => shown(other.to_string().as_bytes()),
    };
    format!("the certificate of {} is not accepted any more: {why}", some_of(&leaf.dns))
}

/// Why this gateway's own certificate would be refused by others.
pub fn own(error: &Error, leaf: &Certificate) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!(
                "no CA in `ca` has signed it (issuer {}); put that CA, and any intermediate after the certificate in `cert`",
                leaf.issuer
            )
        }
        Error::InvalidCertificate(error) => certificate(error),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "no CA in our `ca` has signed it; both sites need the same CA".to_owned()
        }
        CertificateError::Revoked => "it has been revoked".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!(
                "it expired at {}; this host's clock says {}",
                utc(not_after.as_secs()),
                utc(time.as_secs())
            )
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!(
                "it is not valid before {}; this host's clock says {}",
                utc(not_before.as_secs()),
                utc(time.as_secs())
            )
        }
        CertificateError::BadEncoding => {
            "it cannot be read as a certificate: issue a new one (openssl x509 -text shows what is in it)"
                .to_owned()
        }
        CertificateError::Other(reason) => shown(reason.to_string().as_bytes()),
        other => shown(other.to_string().as_bytes()),
    }
}

/// The far side sends only an alert. What it may mean is derived from our own certificate and
/// clock.
fn alert_received(alert: AlertDescription, ours: &Certificate) -> String {
    let now = clock::utc(clock::now());
    let until = format!(
        "ours is good from {} until {} and this host's clock says {now}",
        clock::utc(ours.not_before),
        clock::utc(ours.not_after)
    );
    match alert {
        AlertDescription::UnknownCA => {
            "the far gateway does not know the CA that signed our certificate; both sites need the same CA"
                .to_owned()
        }
        AlertDescription::CertificateExpired => format!(
            "the far gateway says that our certificate is expired or not valid yet: {until}; compare the far host's clock"
        ),
        AlertDescription::CertificateRevoked => format!(
            "the far gateway says that our certificate has been revoked (serial {})",
            ours.serial_text()
        ),
        AlertDescription::CertificateRequired => {
            "the far gateway wants a certificate, and this side showed none".to_owned()
        }
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => {
            format!(
                "the far gateway refuses our certificate, which names {}; its log says why",
                some_of(&ours.dns)
            )
        }
        AlertDescription::NoApplicationProtocol => {
            "the far side does not speak replgate/1: is another TLS service on that port?".to_owned()
        }
        AlertDescription::ProtocolVersion => "the far side does not speak TLS 1.3".to_owned(),
        AlertDescription::HandshakeFailure => "the far side found no common TLS parameters".to_owned(),
        other => format!("the far side ended TLS with the alert {other:?}"),
    }
}

fn utc(seconds: u64) -> String {
    clock::utc(i64::try_from(seconds).unwrap_or(i64::MAX))
}
