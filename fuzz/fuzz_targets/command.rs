//! Fuzzes the command parser with any bytes, written as in `script.rs`.
//!
//! A command is incomplete up to its last byte, whatever follows it. Malformed input stays
//! malformed, with the same reason, however much of it has come. A command that is read keeps the
//! length limits and reads the same when it is encoded again. So neither the cuts nor a second
//! parser turn it into another command.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replgate::internal::redis::command::{MAX_ARGUMENT, MAX_ARGUMENTS, MAX_COMMAND, Parsed, encode, parse};
use replgate_fuzz::script::written_out;

/// Longest input in bytes: more than a command may have.
const MOST: usize = 24 * 1024;

/// Number of bytes near the front and near the end where every cut is tried; between them, cuts are
/// tried each [`APART`] bytes.
const NEAR: usize = 64;
const APART: usize = 1021;

fuzz_target!(|bytes: &[u8]| {
    let bytes = written_out(bytes, MOST);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match checked(rest) {
            Some(length) => rest = &rest[length..],
            None => break,
        }
    }
});

/// Asserts what must hold for the front of `bytes`, and returns how much of it was read.
fn checked(bytes: &[u8]) -> Option<usize> {
    let found = parse(bytes);
    match &found {
        Parsed::Command { length, arguments } => {
            assert!(*length <= bytes.len() && *length <= MAX_COMMAND);
            assert!((1..=MAX_ARGUMENTS).contains(&arguments.len()));
            assert!(arguments.iter().all(|argument| argument.len() <= MAX_ARGUMENT));
            assert_eq!(parse(&bytes[..*length]), found, "what follows is no part of it");
            for end in cuts(*length) {
                assert_eq!(parse(&bytes[..end]), Parsed::Incomplete, "cut at {end}");
            }
            let again = encode(arguments);
            assert_eq!(parse(&again), Parsed::Command { length: again.len(), arguments: arguments.clone() });
            if bytes[0] == b'*' {
                assert_eq!(again, bytes[..*length], "an array has one spelling");
            }
            Some(*length)
        }
        Parsed::Newline(length) => {
            let mut lines = bytes[..*length].split_inclusive(|byte| *byte == b'\n');
            assert!(*length > 0 && lines.all(|line| line == b"\n" || line == b"\r\n"));
            Some(*length)
        }
        Parsed::Incomplete => {
            assert!(bytes.len() < if bytes[0] == b'*' { MAX_COMMAND } else { MAX_ARGUMENT });
            for end in cuts(bytes.len()) {
                assert_eq!(parse(&bytes[..end]), Parsed::Incomplete, "cut at {end}");
            }
            None
        }
        Parsed::Malformed(_) => {
            let ends = cuts(bytes.len()).skip_while(|end| parse(&bytes[..*end]) == Parsed::Incomplete);
            ends.for_each(|end| assert_eq!(parse(&bytes[..end]), found, "cut at {end}"));
            for more in [&b"\n"[..], b"\r\n", b"0\r\n", b"\r\n$4\r\nPING\r\n"] {
                assert_eq!(parse(&[bytes, more].concat()), found, "before {}", more.escape_ascii());
            }
            None
        }
    }
}

/// Where to cut an item of `length` bytes.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (1..length).filter(move |end| *end < NEAR || length - end < NEAR || end % APART == 0)
}
