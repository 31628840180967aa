//! Mutual TLS 1.3 between gateways: material, verification and records.
//!
//! Knows nothing of links. Both sides are always verified against the `ca` of the
//! config, there is no resumption, no ticket and no early data, and a peer is
//! only ever identified by an exact DNS name in its certificate.

pub mod diagnostics;
pub mod expiry;
pub mod fetch_chain;
mod findings;
pub mod material;
pub mod pem;
pub mod record;
pub mod reloadable;
mod trust;
pub mod verify;

/// The application protocol of both sides; a peer that offers another one, or
/// none, is refused.
pub const ALPN: &[u8] = b"replgate/1";
