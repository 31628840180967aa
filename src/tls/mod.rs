//! Mutual TLS 1.3 between gateways: material, verification and records.
//!
//! This module does not know links. Both sides always verify each other against the `ca` of the
//! config. There is no resumption, no ticket and no early data. A peer is identified only by an
//! exact DNS name in its certificate.

pub mod diagnostics;
pub mod expiry;
pub mod fetch_chain;
mod findings;
pub mod handshake;
pub mod loaded;
pub mod material;
pub mod pem;
pub mod record;
pub mod revocation;
pub mod settled;
mod trust;
pub mod verify;

/// The ALPN protocol of both sides. A peer that offers another one, or none, is refused.
pub const ALPN: &[u8] = b"replgate/1";
