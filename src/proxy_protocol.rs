//! Knows the PROXY protocol by its first bytes. A load balancer says it before all else where
//! it is told to (`send-proxy`); no gateway takes it.

/// Whether the front of what came is a header of version 1 or 2.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}
