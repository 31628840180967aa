//! Fuzzes the PEM reader with files as people and tools join them: ASCII text, in which any other
//! byte stands for a longer piece of a PEM file.
//!
//! For any input, each `-----BEGIN` is understood or reported as a fault on its line, and without a
//! fault nothing is left over. A fault is one printable sentence with a line of the file. Line
//! ends, indentation and a byte order mark make no difference.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use replgate::internal::tls::pem::{Contents, parse};

/// The pieces that bytes from 0x80 on stand for.
const PIECES: [&[u8]; 40] = [
    b"-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n",
    b"-----BEGIN X509 CRL-----\nTUlJQg==\n-----END X509 CRL-----\n",
    b"-----BEGIN PRIVATE KEY-----\nTUlJQg==\n-----END PRIVATE KEY-----\n",
    b"-----BEGIN X509 CRL-----\nTUlJQg==\n-----END X509 CRL-----",
    b"-----BEGIN",
    b"-----BEGIN ",
    b"-----END",
    b"-----END ",
    b"-----",
    b"----",
    b" CERTIFICATE",
    b" X509 CERTIFICATE",
    b" TRUSTED CERTIFICATE",
    b" X509 CRL",
    b" CRL",
    b" PRIVATE KEY",
    b" EC PRIVATE KEY",
    b" RSA PRIVATE KEY",
    b" ENCRYPTED PRIVATE KEY",
    b" EC PARAMETERS",
    b" PUBLIC KEY",
    b" CERTIFICATE REQUEST",
    b" NEW CERTIFICATE REQUEST",
    b" PKCS7",
    b" PGP MESSAGE",
    b"-----\n",
    b"-----\r\n",
    b"TUlJQg==",
    b"TUlJQkNnSUJBVEJwTVFzd0NRWURWUVFHRXdKRVJURU5NQXNHQTFVRUNnd0VSWGho\n",
    b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
    b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
    b"Bag Attributes\n    localKeyID: 01\nsubject=CN = dc1\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
    b"\r\n",
    b"\n\n",
    b"  ",
    b"\xc3\xa9",
    b"-----BEGIN X509 CRL-----\n",
];

/// Longest text in bytes: longer ones find nothing new.
const MOST: usize = 8192;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let text = written_out(bytes);
    if text.len() > MOST {
        return Corpus::Reject;
    }
    let found = parse(&text);
    accounted_for(&found, &text);
    let shape = shape(&found);
    let joined = |end: &[u8]| text.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(end);
    assert_eq!(self::shape(&parse(&joined(b"\r\n"))), shape, "other line ends");
    assert_eq!(self::shape(&parse(&[b"\t ", &joined(b"\n\t ")[..]].concat())), shape, "indented");
    let marked = parse(&[b"\xef\xbb\xbf", &text[..]].concat());
    assert_eq!(self::shape(&marked).0, shape.0, "with a byte order mark");
    Corpus::Keep
});

/// The text that these bytes stand for.
fn written_out(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        match byte.checked_sub(0x80) {
            None => out.push(*byte),
            Some(at) => out.extend_from_slice(PIECES[usize::from(at) % PIECES.len()]),
        }
    }
    out
}

/// The blocks, and the lines of the faults.
fn shape(found: &Contents) -> (Vec<(usize, String)>, Vec<usize>) {
    let blocks = found.blocks.iter().map(|block| (block.line, format!("{:?}", block.content)));
    (blocks.collect(), found.faults.iter().map(|fault| fault.line).collect())
}

/// Asserts that no block is skipped.
fn accounted_for(found: &Contents, text: &[u8]) {
    let count = |line: &[u8], word: &[u8]| line.windows(word.len()).filter(|part| *part == word).count();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for (at, line) in lines.iter().enumerate() {
        let blocks = found.blocks.iter().filter(|block| block.line == at + 1).count();
        let faults = found.faults.iter().filter(|fault| fault.line == at + 1).count();
        let seen = count(line, b"-----BEGIN");
        assert!(blocks <= seen && seen <= blocks + faults, "line {}: {seen} of {blocks} and {faults}", at + 1);
    }
    if found.faults.is_empty() {
        let (begun, ended) = (count(text, b"-----BEGIN"), count(text, b"-----END"));
        assert_eq!((begun, ended), (found.blocks.len(), found.blocks.len()), "nothing is left over");
    }
    for fault in &found.faults {
        assert!((1..=lines.len()).contains(&fault.line), "no such line: {fault:?}");
        assert!(fault.text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "not printable: {fault:?}");
        assert!(fault.text.contains("; ") || fault.text.contains("? "), "no next step: {fault:?}");
    }
}
