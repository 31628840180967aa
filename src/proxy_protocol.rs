//! Detects the PROXY protocol by its first bytes. A load balancer sends this header first if it is
//! set to (`send-proxy`); no gateway accepts it.

/// Whether the bytes begin with a header of version 1 or 2.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}
