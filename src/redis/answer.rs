//! Reads a master's answers before the snapshot and the stream, one line at a time.
//!
//! A replica reads these lines with blocking reads, and waits five seconds at most for each byte.
//! So it is given whole lines only.

/// The longest line that a master may send, in bytes. Redis itself reads at most 255 bytes of a
/// line.
pub const MAX_LINE: usize = 1024;

/// Advice to the operator when Redis answers with TLS.
pub const SPEAKS_TLS: &str = "its port speaks TLS; a gateway speaks to its own Redis in clear: give that a plain port on loopback as well (port 6379, bind 127.0.0.1, tls-port another one)";

/// Advice to the operator when Redis closes the connection without an answer.
pub const CLOSES: &str = "closes the connection without an answer: does its port speak TLS? A gateway speaks to its own Redis in clear";

/// Whether an answer begins with a TLS alert: a TLS port sends one when it gets plain text.
pub fn is_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x15, 3])
}

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// This many newlines: the master sends them as signs of life while it prepares its answer.
    Newlines(usize),
    /// A whole line.
    Line {
        /// Length in bytes, line end included.
        length: usize,
        /// The line without its end.
        text: &'a [u8],
    },
    /// The line is not complete yet.
    Incomplete,
    /// There is no line end within [`MAX_LINE`] bytes.
    TooLong,
}

/// Reads the first item of `bytes`, which must not be empty.
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

/// Whether a line is printable ASCII, as a master's answers are.
pub fn is_plain(line: &[u8]) -> bool {
    line.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Replaces bytes that are not printable by `?` and keeps the line end: a replica writes the line
/// to its log as it is.
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
