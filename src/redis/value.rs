//! Reads one answer of Redis to a command of the gateway's own: a value of RESP2.
//!
//! What answers may be no Redis. So every length is checked before anything is stored, and a value
//! borrows from the bytes, which may be a secret.

use super::answer::{self, Answer};

/// The longest answer in bytes. INFO has some 10 KiB.
pub const LARGEST: usize = 256 * 1024;

/// Most items of a list.
const MOST_ITEMS: usize = 1024;

/// Most lists within one another.
const DEEPEST: usize = 4;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text: of one line, or with its length before it.
    Text(&'a [u8]),
    /// An error, without the `-`.
    Error(&'a [u8]),
    /// A number.
    Number(i64),
    /// Nothing.
    Nil,
    /// A list.
    List(Vec<Value<'a>>),
}

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole value.
    Whole {
        /// Its length in bytes.
        length: usize,
        /// The value.
        value: Value<'a>,
    },
    /// It is not complete yet.
    Incomplete,
    /// Not an answer of Redis, or too long for one; the text says why.
    Malformed(&'static str),
}

/// Reads the value at the front of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    match value(bytes, 0) {
        Err(Stop::Incomplete) if bytes.len() >= LARGEST => Parsed::Malformed("its answer has no end"),
        Err(Stop::Incomplete) => Parsed::Incomplete,
        Err(Stop::Malformed(why)) => Parsed::Malformed(why),
        Ok((length, value)) => Parsed::Whole { length, value },
    }
}

enum Stop {
    Incomplete,
    Malformed(&'static str),
}

fn value(bytes: &[u8], depth: usize) -> Result<(usize, Value<'_>), Stop> {
    const NOT_REDIS: Stop = Stop::Malformed("its answer is not Redis' protocol");
    if bytes.is_empty() {
        return Err(Stop::Incomplete);
    }
    let (length, line) = match answer::parse(bytes) {
        Answer::Line { length, text } => (length, text),
        Answer::Incomplete => return Err(Stop::Incomplete),
        Answer::Newlines(_) | Answer::TooLong => return Err(NOT_REDIS),
    };
    let Some((kind, rest)) = line.split_first() else { return Err(NOT_REDIS) };
    let number =
        || std::str::from_utf8(rest).ok().and_then(|digits| digits.parse::<i64>().ok()).ok_or(NOT_REDIS);
    match kind {
        b'+' => Ok((length, Value::Text(rest))),
        b'-' => Ok((length, Value::Error(rest))),
        b':' => Ok((length, Value::Number(number()?))),
        b'$' | b'*' if rest == b"-1" => Ok((length, Value::Nil)),
        b'$' => {
            let size = usize::try_from(number()?).map_err(|_| NOT_REDIS)?;
            if size > LARGEST {
                return Err(Stop::Malformed("its answer is too long"));
            }
            let text = bytes.get(length..length + size + 2).ok_or(Stop::Incomplete)?;
            let text = text.strip_suffix(b"\r\n").ok_or(NOT_REDIS)?;
            Ok((length + size + 2, Value::Text(text)))
        }
        b'*' => {
            let count = usize::try_from(number()?).map_err(|_| NOT_REDIS)?;
            if count > MOST_ITEMS || depth >= DEEPEST {
                return Err(Stop::Malformed("its answer is too long"));
            }
            let (mut at, mut items) = (length, Vec::new());
            for _ in 0..count {
                let (length, item) = value(&bytes[at..], depth + 1)?;
                at += length;
                items.push(item);
            }
            Ok((at, Value::List(items)))
        }
        _ => Err(NOT_REDIS),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAIR: &[u8] = b"*3\r\n$4\r\nsave\r\n$7\r\n3600 1\n\r\n*1\r\n:-5\r\nrest";

    #[test]
    fn a_value_counts_once_it_is_whole() {
        let list = Value::List(vec![
            Value::Text(b"save"),
            Value::Text(b"3600 1\n"),
            Value::List(vec![Value::Number(-5)]),
        ]);
        let length = PAIR.len() - 4;
        assert_eq!(parse(PAIR), Parsed::Whole { length, value: list });
        for cut in 0..length {
            assert_eq!(parse(&PAIR[..cut]), Parsed::Incomplete, "{cut}");
        }
        assert_eq!(parse(b"-ERR no\r\n"), Parsed::Whole { length: 9, value: Value::Error(b"ERR no") });
        assert_eq!(parse(b"$-1\r\n"), Parsed::Whole { length: 5, value: Value::Nil });
    }

    #[test]
    fn what_is_no_answer_or_has_no_end_is_refused() {
        let deep = b"*1\r\n".repeat(6);
        let endless = [b"$262000\r\n".as_slice(), &[b'x'; LARGEST]].concat();
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\n\n+OK\r\n",
            b"$999999999999999999999\r\n",
            b"$300000\r\n",
            b"$-2\r\n",
            b"*2000\r\n",
            b"$1\r\nabc",
            &[b'+'; 2000],
            &deep,
            &endless,
        ] {
            assert!(matches!(parse(bytes), Parsed::Malformed(_)), "{:?}", &bytes[..bytes.len().min(40)]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(prop::sample::select(b"+-:$*019\r\nx".to_vec()), 0..200)) {
            if let Parsed::Whole { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
                // More bytes behind it change nothing.
                let more = [&bytes[..length], b"$5\r\n"].concat();
                let is_same = matches!(parse(&more), Parsed::Whole { length: same, .. } if same == length);
                prop_assert!(is_same);
            }
        }
    }
}
