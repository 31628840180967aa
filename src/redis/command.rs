//! Reads one command as a replica sends it: a RESP array, or an inline line.
//!
//! The parser is stricter than Redis on purpose: Redis reads everything that it accepts in the same
//! way. Numbers must be canonical. A bulk string must end with CR LF, which Redis skips without
//! checking. An inline line holds printable ASCII without quotes. Every length is checked before
//! anything is stored.

use crate::proxy_protocol;

/// Most arguments of one command, its name included.
pub const MAX_ARGUMENTS: usize = 32;

/// Longest argument in bytes.
pub const MAX_ARGUMENT: usize = 4096;

/// Longest command in bytes.
pub const MAX_COMMAND: usize = 16 * 1024;

/// Advice to the operator when a load balancer sends a PROXY protocol header.
pub const PROXY: &str =
    "the PROXY protocol before a replica's first command: turn send-proxy off for the replica's listener";

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole command.
    Command {
        /// Length in bytes.
        length: usize,
        /// The command's name and its arguments.
        arguments: Vec<&'a [u8]>,
    },
    /// This many bytes of empty lines: a replica sends them as signs of life while it loads a
    /// snapshot.
    Newline(usize),
    /// The command is not complete yet.
    Incomplete,
    /// Not a command that a replica sends; the text says what is wrong.
    Malformed(&'static str),
}

/// Reads the command at the front of `bytes`, which must not be empty.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    match bytes[0] {
        _ if proxy_protocol::is_header(bytes) => Parsed::Malformed(PROXY),
        b'\n' | b'\r' if empty_lines(bytes) > 0 => Parsed::Newline(empty_lines(bytes)),
        b'*' => array(bytes),
        _ => inline(bytes),
    }
}

/// Whether a command, given with its name, asks for a sync.
pub fn asks_for_a_sync(arguments: &[&[u8]]) -> bool {
    [&b"PSYNC"[..], b"SYNC"].iter().any(|name| arguments[0].eq_ignore_ascii_case(name))
}

/// Whether a piece of the stream has a `REPLCONF GETACK`, which the replica answers at once and for
/// which a client of the master may wait. One that is cut in two is not seen. The bytes of a value
/// may look like one.
pub fn asks_for_an_acknowledgement(stream: &[u8]) -> bool {
    memchr::memmem::find(stream, b"GETACK").is_some()
}

/// Encodes a command with these words as a RESP array.
pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    // The vector has room for the whole command, so it never moves: a word may be a password, and
    // moving would leave copies in memory.
    let mut wire = Vec::with_capacity(32 + words.iter().map(|word| word.len() + 32).sum::<usize>());
    wire.extend(format!("*{}\r\n", words.len()).into_bytes());
    for word in words {
        wire.extend(format!("${}\r\n", word.len()).into_bytes());
        wire.extend_from_slice(word);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

fn inline(bytes: &[u8]) -> Parsed<'_> {
    let window = &bytes[..bytes.len().min(MAX_ARGUMENT)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        let strange = window.iter().any(|byte| !printable(*byte) && *byte != b'\r');
        return match (strange, window.len() == MAX_ARGUMENT) {
            (true, _) => Parsed::Malformed("bytes that are not a command"),
            (false, true) => Parsed::Malformed("a line that is too long"),
            (false, false) => Parsed::Incomplete,
        };
    };
    let line = window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]);
    if line.is_empty() {
        return Parsed::Newline(end + 1);
    }
    if line.iter().any(|byte| !printable(*byte)) {
        return Parsed::Malformed("bytes that are not a command");
    }
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    match arguments.len() {
        0 => Parsed::Malformed("a line of blanks"),
        1..=MAX_ARGUMENTS => Parsed::Command { length: end + 1, arguments },
        _ => Parsed::Malformed("too many arguments"),
    }
}

fn printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\'' | b'\\')
}

/// Bytes of empty lines at the front; each may end in LF or CR LF.
fn empty_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match bytes[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

fn array(bytes: &[u8]) -> Parsed<'_> {
    let (count, mut at) = match number(&bytes[1..], MAX_ARGUMENTS, "too many arguments") {
        Ok((count, used)) => (count, 1 + used),
        Err(other) => return other,
    };
    if count == 0 {
        return Parsed::Malformed("an empty command");
    }
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        match bytes.get(at) {
            None => return Parsed::Incomplete,
            Some(b'$') => {}
            Some(_) => return Parsed::Malformed("an argument that is not a bulk string"),
        }
        let (length, used) = match number(&bytes[at + 1..], MAX_ARGUMENT, "an argument that is too long") {
            Ok(found) => found,
            Err(other) => return other,
        };
        let start = at + 1 + used;
        let end = start + length;
        if end + 2 > MAX_COMMAND {
            return Parsed::Malformed("a command that is too long");
        }
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Parsed::Malformed("an argument whose length is not the stated one"),
            None => return Parsed::Incomplete,
        }
        arguments.push(&bytes[start..end]);
        at = end + 2;
    }
    Parsed::Command { length: at, arguments }
}

/// Reads a canonical number up to `most` and its CR LF. Returns the number and the bytes that it
/// takes.
fn number<'a>(bytes: &[u8], most: usize, above: &'static str) -> Result<(usize, usize), Parsed<'a>> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = bytes[..digits].iter().try_fold(0usize, |value, digit| {
        let value = value * 10 + usize::from(digit - b'0');
        (value <= most).then_some(value)
    });
    if digits > 1 && bytes[0] == b'0' {
        return Err(Parsed::Malformed("a length with leading zeros"));
    }
    let Some(value) = value else { return Err(Parsed::Malformed(above)) };
    match (digits, &bytes[digits..]) {
        (_, [] | [b'\r']) if digits > 0 || bytes.is_empty() => Err(Parsed::Incomplete),
        (1.., [b'\r', b'\n', ..]) => Ok((value, digits + 2)),
        _ => Err(Parsed::Malformed("a length that is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(bytes: &[u8]) -> (usize, Vec<String>) {
        match parse(bytes) {
            Parsed::Command { length, arguments } => {
                (length, arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_getack_is_found_anywhere_in_a_piece_of_the_stream() {
        let getack = encode(&[b"REPLCONF", b"GETACK", b"*"]);
        let set = encode(&[b"SET", b"key", b"value"]);
        assert!(asks_for_an_acknowledgement(&[&set[..], &getack, &set].concat()));
        assert!(!asks_for_an_acknowledgement(&set));
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(words(b"PING\r\n*1"), (6, vec!["PING".to_owned()]));
        assert_eq!(words(b"REPLCONF  ACK 5\n").1, ["REPLCONF", "ACK", "5"]);
        assert_eq!(
            words(b"*2\r\n$4\r\nAUTH\r\n$3\r\na\nb\r\nrest"),
            (23, vec!["AUTH".to_owned(), "a\nb".to_owned()])
        );
        assert_eq!(parse(b"\n\nPING"), Parsed::Newline(2));
        assert_eq!(parse(b"\r\nX"), Parsed::Newline(2));
        assert_eq!(parse(b"\r\n\n\r\n\rX"), Parsed::Newline(5));
        assert_eq!(parse(b"\r"), Parsed::Incomplete);
    }

    #[test]
    fn what_redis_could_read_otherwise_is_malformed() {
        for bytes in [
            &b"*-1\r\n"[..],
            b"*0\r\n",
            b"*01\r\n",
            b"*+1\r\n",
            b"*1\n",
            b"*33\r\n",
            b"*99999999999999999999\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$536870912\r\n",
            b"*1\r\n$04\r\nPING\r\n",
            b"*1\r\n$4\r\nPINGXX",
            b"*1\r\n:4\r\n",
            b"PING\0\r\n",
            b"PING \"x\"\r\n",
            b"\x16\x03\x01",
            b" \r\n",
        ] {
            assert!(
                matches!(parse(bytes), Parsed::Malformed(_)),
                "{}: {:?}",
                bytes.escape_ascii(),
                parse(bytes)
            );
        }
        assert!(matches!(parse(&[b'A'; MAX_ARGUMENT]), Parsed::Malformed(_)));
    }

    proptest! {
        #[test]
        fn a_command_is_incomplete_until_its_last_byte(arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..8)) {
            let wire = encode(&arguments.iter().map(Vec::as_slice).collect::<Vec<_>>());
            for end in 1..wire.len() {
                prop_assert_eq!(parse(&wire[..end]), Parsed::Incomplete, "cut at {}", end);
            }
            let read = parse(&wire);
            prop_assert_eq!(read, Parsed::Command { length: wire.len(), arguments: arguments.iter().map(Vec::as_slice).collect() });
        }

        #[test]
        fn garbage_never_panics_and_never_reads_past_its_end(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            if let Parsed::Command { length, .. } | Parsed::Newline(length) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
