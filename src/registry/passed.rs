//! How far links that have ended had passed their streams on; `None` where one of them did not know.

use std::collections::{HashMap, VecDeque};

use super::LinkEntry;
use crate::link::Side;

/// Most streams of one entry that are remembered: there is a new one with each master.
const STREAMS: usize = 8;

/// For each stream the offset of the last byte, the latest stream first.
type Streams = VecDeque<(String, Option<u64>)>;

/// By side and name.
#[derive(Debug, Default)]
pub(super) struct Passed(HashMap<(Side, String), Streams>);

impl Passed {
    /// A link has ended.
    pub(super) fn ended(&mut self, link: &LinkEntry) {
        let Some((stream, offset)) = link.observed.as_ref().and_then(|observed| observed.passed()) else {
            return;
        };
        self.note((link.side, link.name.clone()), stream, offset);
    }

    fn note(&mut self, key: (Side, String), stream: String, offset: Option<u64>) {
        let streams = self.0.entry(key).or_default();
        let at = streams.iter().position(|(known, _)| *known == stream);
        let known = at.and_then(|at| streams.remove(at));
        let furthest = match known {
            Some((_, known)) => known.zip(offset).map(|(known, offset)| known.max(offset)),
            None => offset,
        };
        streams.push_front((stream, furthest));
        streams.truncate(STREAMS);
    }

    /// Those of one entry.
    pub(super) fn of(&self, side: Side, name: &str) -> impl Iterator<Item = (String, Option<u64>)> + '_ {
        self.0.get(&(side, name.to_owned())).into_iter().flatten().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_of_each_stream_counts_and_old_streams_are_forgotten() {
        let mut passed = Passed::default();
        let mut note = |stream: &str, offset| {
            passed.note((Side::Acceptor, "orders".to_owned()), stream.to_owned(), offset);
            passed.of(Side::Acceptor, "orders").collect::<Vec<_>>()
        };
        note("a", Some(7));
        note("b", Some(3));
        assert_eq!(note("a", Some(5)), [("a".to_owned(), Some(7)), ("b".to_owned(), Some(3))]);
        assert_eq!(note("b", None)[0], ("b".to_owned(), None));
        assert_eq!(note("b", Some(9))[0], ("b".to_owned(), None), "what was not known stays so");
        for stream in 0..STREAMS {
            note(&stream.to_string(), Some(1));
        }
        assert!(!note("x", Some(1)).iter().any(|(stream, _)| stream == "a"));
        assert_eq!(passed.of(Side::Dialler, "orders").count(), 0);
    }
}
