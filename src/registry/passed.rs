//! How far links that have ended had passed their streams on.

use std::collections::{HashMap, VecDeque};

use super::LinkEntry;
use crate::lineage::History;
use crate::link::Side;

/// Most streams of one entry that are remembered: there is a new one with each master.
const STREAMS: usize = 8;

/// By side and name, for each stream the offset of the last byte, the latest stream last.
#[derive(Debug, Default)]
pub(super) struct Passed(HashMap<(Side, String), VecDeque<(History, u64)>>);

impl Passed {
    /// A link has ended.
    pub(super) fn ended(&mut self, link: &LinkEntry) {
        let Some((stream, offset)) = link.passed() else { return };
        self.note((link.side, link.name.clone()), stream, offset);
    }

    fn note(&mut self, key: (Side, String), stream: History, offset: u64) {
        let streams = self.0.entry(key).or_default();
        let at = streams.iter().position(|(known, _)| *known == stream);
        let known = at.and_then(|at| streams.remove(at)).map_or(0, |(_, offset)| offset);
        streams.push_back((stream, offset.max(known)));
        if streams.len() > STREAMS {
            streams.pop_front();
        }
    }

    /// Those of one entry.
    pub(super) fn of(&self, side: Side, name: &str) -> impl Iterator<Item = (History, u64)> + '_ {
        self.0.get(&(side, name.to_owned())).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_of_each_stream_counts_and_old_streams_are_forgotten() {
        let mut passed = Passed::default();
        let id = |stream: &str| History::read(format!("{stream:f>40}").as_bytes()).unwrap();
        let mut note = |stream: &str, offset| {
            passed.note((Side::Acceptor, "orders".to_owned()), id(stream), offset);
            passed.of(Side::Acceptor, "orders").collect::<Vec<_>>()
        };
        note("a", 7);
        note("b", 3);
        assert_eq!(note("a", 5), [(id("b"), 3), (id("a"), 7)]);
        for stream in 0..STREAMS {
            note(&stream.to_string(), 1);
        }
        assert!(!note("x", 1).iter().any(|(stream, _)| *stream == id("a")));
        assert_eq!(passed.of(Side::Dialler, "orders").count(), 0);
    }
}
