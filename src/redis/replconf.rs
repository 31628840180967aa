//! Reads REPLCONF: its options, the form of their values, and numbers.
//!
//! The gate, the observer and the introduction all use this file. A master stores some of the
//! values and shows them, so every value must have its option's form: of bounded length, and from a
//! small set of characters.

/// The form of a value.
#[derive(Clone, Copy)]
enum Form {
    /// 0 to 65535, in digits.
    Port,
    /// Anything: the gateway does not pass the value on.
    Any,
    /// Letters, digits and `._-`, at most this many.
    Word(usize),
    /// 0 or 1.
    Flag,
    /// A client id.
    Id,
    /// Lower-case letters, blanks and `-`; may be empty.
    Filters,
}

/// The options that a replica may send.
const KNOWN: [(&str, Form); 13] = [
    ("listening-port", Form::Port),
    ("ip-address", Form::Any),
    ("capa", Form::Word(32)),
    ("version", Form::Word(32)),
    ("rdb-no-compress", Form::Flag),
    ("rdb-no-checksum", Form::Flag),
    ("rdb-channel", Form::Flag),
    ("main-ch-client-id", Form::Id),
    ("set-rdb-client-id", Form::Id),
    ("set-cluster-node-id", Form::Word(40)),
    ("uuid", Form::Word(64)),
    ("rdb-only", Form::Flag),
    ("rdb-filter-only", Form::Filters),
];

/// Why options are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// They are not pairs, or an option is not known.
    Unknown,
    /// This option's value has the wrong form.
    Value(&'a [u8]),
}

/// Judges the options of a REPLCONF.
pub fn judge<'a>(options: &[&'a [u8]]) -> Result<(), Fault<'a>> {
    if options.is_empty() || !options.len().is_multiple_of(2) {
        return Err(Fault::Unknown);
    }
    for option in options.chunks_exact(2) {
        let known = KNOWN.iter().find(|(name, _)| option[0].eq_ignore_ascii_case(name.as_bytes()));
        let (_, form) = known.ok_or(Fault::Unknown)?;
        if !form.fits(option[1]) {
            return Err(Fault::Value(option[0]));
        }
    }
    Ok(())
}

impl Form {
    fn fits(self, value: &[u8]) -> bool {
        match self {
            Self::Port => port(value).is_some(),
            Self::Any => true,
            Self::Word(most) => is_word(value, most),
            Self::Flag => matches!(value, b"0" | b"1"),
            Self::Id => number(value).is_some(),
            Self::Filters => {
                value.len() <= 128
                    && value.iter().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b' ' | b'-'))
            }
        }
    }
}

/// Letters, digits and `._-`, 1 to `most` of them.
pub fn is_word(value: &[u8], most: usize) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=most).contains(&value.len()) && value.iter().all(good)
}

/// Whether this is fit as the name of an ACL user: printable, and without the characters that
/// Redis' own lines use as separators and quotes. A master records the name when the password was
/// wrong.
pub fn is_user(value: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_graphic() && !b"\"'\\,=".contains(byte);
    (1..=128).contains(&value.len()) && value.iter().all(good)
}

/// An integer as Redis reads one (`string2ll`): 64 bits, signed, digits only, without leading
/// zeros, `+` or `-0`.
pub fn integer(word: &[u8]) -> Option<i64> {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let canonical = word == b"0" || !digits.starts_with(b"0") && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(word).ok().filter(|_| canonical)?.parse().ok()
}

/// An [`integer`] that is not negative: an offset, a size or a client's id.
pub fn number(word: &[u8]) -> Option<u64> {
    integer(word).and_then(|value| value.try_into().ok())
}

/// A [`number`] that is a port, or 0.
pub fn port(word: &[u8]) -> Option<u16> {
    integer(word).and_then(|value| value.try_into().ok())
}

/// Whether these options name no capability that could change how a stream is written.
pub fn is_plain(options: &[&[u8]]) -> bool {
    const PLAIN: [&str; 6] =
        ["eof", "psync2", "dual-channel", "skip-rdb-checksum", "rdb-channel-repl", "none"];
    let capabilities = options.chunks_exact(2).filter(|option| is(Some(&option[0]), "capa"));
    capabilities.into_iter().all(|option| PLAIN.iter().any(|plain| is(Some(&option[1]), plain)))
}

/// Whether a word is `expected`, ignoring case.
pub fn is(word: Option<&&[u8]>, expected: &str) -> bool {
    word.is_some_and(|word| word.eq_ignore_ascii_case(expected.as_bytes()))
}

/// Whether these options are `ACK <offset>`, followed from Redis 7.2 on by `FACK <offset>`.
pub fn is_ack(options: &[&[u8]]) -> bool {
    let number = |word: &[u8]| integer(word).is_some();
    match options {
        [ack, offset] => ack.eq_ignore_ascii_case(b"ack") && number(offset),
        [ack, offset, fack, persisted] => {
            ack.eq_ignore_ascii_case(b"ack")
                && fack.eq_ignore_ascii_case(b"fack")
                && number(offset)
                && number(persisted)
        }
        _ => false,
    }
}

/// The value of an option. If the option occurs more than once with different values, the empty
/// value, which has no form.
pub fn value<'a>(options: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    let mut values =
        options.chunks_exact(2).filter(|option| is(Some(&option[0]), name)).map(|option| option[1]);
    let first = values.next()?;
    Some(if values.all(|other| other == first) { first } else { b"" })
}

/// The value of an option that Redis uses: the last one.
pub fn last<'a>(options: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    let mut pairs = options.chunks_exact(2).rev();
    pairs.find(|option| is(Some(&option[0]), name)).map(|option| option[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_of_its_options_form() {
        fn judged<'a>(option: &'a str, value: &'a [u8]) -> Result<(), Fault<'a>> {
            judge(&[option.as_bytes(), value])
        }
        for (option, good) in [
            ("listening-port", &["0", "6379", "65535"][..]),
            ("capa", &["eof", "activeExpire", "rdb-channel-repl"]),
            ("version", &["8.1.0", "255.255.255"]),
            ("RDB-ONLY", &["0", "1"]),
            ("main-ch-client-id", &["17"]),
            ("set-cluster-node-id", &["0123456789012345678901234567890123456789"]),
            ("uuid", &["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
            ("rdb-filter-only", &["functions", ""]),
        ] {
            for value in good {
                assert_eq!(judged(option, value.as_bytes()), Ok(()), "{option} {value}");
            }
            for bad in [&b"x\r\nrole:slave"[..], b"a b\0", b"\x1b[2J", &[b'x'; 200], b"1,state=online"] {
                assert_eq!(judged(option, bad), Err(Fault::Value(option.as_bytes())), "{option}");
            }
        }
        for (option, bad) in [("listening-port", "65536"), ("listening-port", "06379"), ("rdb-only", "2")] {
            assert!(judged(option, bad.as_bytes()).is_err(), "{option} {bad}");
        }
        assert_eq!(judge(&[b"getack", b"*"]), Err(Fault::Unknown));
        assert_eq!(judge(&[b"capa"]), Err(Fault::Unknown));
        assert_eq!(judge(&[]), Err(Fault::Unknown));
    }

    /// Regression: five functions used to read numbers, each in its own way. Some refused 0, some
    /// accepted leading zeros or `+`, and most accepted integers beyond signed 64 bits.
    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (word, expected) in [
            (&b"0"[..], Some(0)),
            (b"17", Some(17)),
            (b"-1", Some(-1)),
            (b"9223372036854775807", Some(i64::MAX)),
            (b"-9223372036854775808", Some(i64::MIN)),
        ] {
            assert_eq!(integer(word), expected);
            assert_eq!(number(word), expected.and_then(|value| u64::try_from(value).ok()));
        }
        for odd in [
            &b""[..],
            b"-",
            b"00",
            b"007",
            b"-0",
            b"-01",
            b"+1",
            b" 1",
            b"1 ",
            b"0x1",
            b"\xff",
            b"9223372036854775808",
            b"-9223372036854775809",
        ] {
            assert_eq!(integer(odd), None, "{}", odd.escape_ascii());
        }
        assert_eq!((port(b"65535"), port(b"65536"), port(b"-1")), (Some(65535), None, None));
        assert!(is_ack(&[b"ACK", b"0"]) && is_ack(&[b"ack", b"42", b"FACK", b"40"]));
        assert!(!is_ack(&[b"ack", b"042"]) && !is_ack(&[b"ack", b"+42"]));
    }

    #[test]
    fn a_users_name_is_printable_and_breaks_no_line() {
        assert!(is_user(b"repl") && is_user(b"svc-repl@dc2:1"));
        for odd in [&b""[..], b"a b", b"a\nb", b"a,b", b"a=b", b"a\"b", b"\xc3\xa4", &[b'x'; 129]] {
            assert!(!is_user(odd), "{}", odd.escape_ascii());
        }
    }

    #[test]
    fn the_last_value_is_the_one_that_redis_keeps() {
        let options: [&[u8]; 4] = [b"listening-port", b"1", b"Listening-Port", b"2"];
        assert_eq!(last(&options, "listening-port"), Some(&b"2"[..]));
        assert_eq!(value(&options, "listening-port"), Some(&b""[..]));
    }
}
