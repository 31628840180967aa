//! Fetches the certificate chain that a server shows, without trusting it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::ALPN;
use crate::crypto::provider;
use crate::race;
use crate::units::Address;

/// Time given for connecting, and again for the handshake.
const DEADLINE: Duration = Duration::from_secs(5);

/// Records the chain and accepts any: no data is ever sent over such a connection.
#[derive(Debug)]
struct Onlooker {
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen =
            std::iter::once(leaf).chain(chain).map(|certificate| certificate.clone().into_owned()).collect();
        *self.seen.lock().expect("no code panics while it holds the chain") = seen;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Fetches the chain that a TLS 1.3 server shows, leaf first.
pub async fn fetch_chain(address: &Address) -> io::Result<Vec<CertificateDer<'static>>> {
    let late = |_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{address} does not answer within {} s", DEADLINE.as_secs()),
        )
    };
    let connect = race::run::connect(address, None, DEADLINE * 2);
    let socket = timeout(DEADLINE, connect).await.map_err(late)??;
    let provider = provider();
    let onlooker =
        Arc::new(Onlooker { algorithms: provider.signature_verification_algorithms, seen: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&onlooker) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    let shaken =
        timeout(DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.map_err(late)?;
    let seen = std::mem::take(&mut *onlooker.seen.lock().expect("no code panics while it holds the chain"));
    match shaken {
        Err(error) if seen.is_empty() => Err(error),
        _ => Ok(seen),
    }
}
