//! Makes text from the other side safe to show: in a log, on a terminal, in RESP.

/// Most bytes of such text that are shown.
pub const LIMIT: usize = 200;

/// Cuts `bytes` at [`LIMIT`] and escapes everything but printable ASCII.
pub fn shown(bytes: &[u8]) -> String {
    // The string has room for everything: growing would leave copies in memory, and the text may be
    // a secret that is wiped later.
    let mut out = String::with_capacity(bytes.len().min(LIMIT) * 4 + 3);
    for byte in &bytes[..bytes.len().min(LIMIT)] {
        match byte {
            b'"' | b'\'' => out.push(char::from(*byte)),
            _ => out.extend(byte.escape_ascii().map(char::from)),
        }
    }
    if bytes.len() > LIMIT {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_bytes_and_length_are_tamed() {
        assert_eq!(super::shown(b"a's \"\x1b[31m\"\r\n"), r#"a's "\x1b[31m"\r\n"#);
        assert!(super::shown(&[b'x'; 5000]).len() < 210);
    }
}
