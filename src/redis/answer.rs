//! Reads what a master says before the snapshot and the stream: one line at a time.
//!
//! A replica reads these lines byte by byte, blocking, five seconds a byte at most:
//! what is not whole yet is not for it.

/// The longest line that a master gives to a replica; Redis itself reads 255 bytes of it.
pub const MAX_LINE: usize = 1024;

/// What an operator does with a Redis that answers in TLS.
pub const SPEAKS_TLS: &str = "its port speaks TLS; a gateway speaks to its own Redis in clear: give that a plain port on loopback as well (port 6379, bind 127.0.0.1, tls-port another one)";

/// And with one that closes the connection in place of its first answer.
pub const CLOSES: &str = "closes the connection without an answer: does its port speak TLS? A gateway speaks to its own Redis in clear";

/// Whether the front of an answer is a TLS alert: plain text came to a port for TLS.
pub fn is_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x15, 3])
}

/// What stands at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Signs of life while the master prepares its answer, this many bytes of them.
    Newlines(usize),
    /// A whole line of `length` bytes, its end included.
    Line {
        /// Bytes it takes.
        length: usize,
        /// Without its end.
        text: &'a [u8],
    },
    /// The line is not whole yet.
    Incomplete,
    /// Nothing that a master says here.
    TooLong,
}

/// Reads the front of `bytes`, which must not be empty.
pub fn parse(bytes: &[u8]) -> Answer<'_> {
    let newlines = bytes.iter().take_while(|byte| **byte == b'\n').count();
    if newlines > 0 {
        return Answer::Newlines(newlines);
    }
    match bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
        Some(end) => {
            let text = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            Answer::Line { length: end + 1, text }
        }
        None if bytes.len() >= MAX_LINE => Answer::TooLong,
        None => Answer::Incomplete,
    }
}

/// Whether a line is one that any master says: printable ASCII.
pub fn is_plain(line: &[u8]) -> bool {
    line.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// A whole line, its end included, as it is safe in a replica's log, which shows it as it is.
pub fn tamed(whole: &[u8]) -> Vec<u8> {
    let end = if whole.ends_with(b"\r\n") { whole.len() - 2 } else { whole.len() - 1 };
    let tame = |byte: &u8| if (b' '..=b'~').contains(byte) { *byte } else { b'?' };
    whole[..end].iter().map(tame).chain(whole[end..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_once_it_is_whole() {
        assert_eq!(parse(b"\n\n+OK\r\n"), Answer::Newlines(2));
        assert_eq!(parse(b"+OK\r\n$5"), Answer::Line { length: 5, text: b"+OK" });
        assert_eq!(parse(b"+OK\nx"), Answer::Line { length: 4, text: b"+OK" });
        for end in 1..5 {
            assert_eq!(parse(&b"+OK\r\n"[..end]), Answer::Incomplete);
        }
        assert_eq!(parse(&[b'+'; MAX_LINE]), Answer::TooLong);
    }
}
