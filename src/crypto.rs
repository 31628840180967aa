//! The cryptography that TLS and the checks of certificates share.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider of ciphers and signatures: aws-lc, X25519MLKEM768 preferred.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
