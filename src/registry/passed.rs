//! How far links that have ended had passed their streams on.

use std::collections::HashMap;

use super::LinkEntry;
use crate::lineage::History;
use crate::link::Side;

/// Most streams of one entry that are remembered: there is a new one with each master.
const STREAMS: usize = 8;

/// For each stream the offset of the last byte, the stream that was begun last at the end. `None` is not known:
/// one of the links did not know.
type Streams = Vec<(History, Option<u64>)>;

/// By side and name.
#[derive(Debug, Default)]
pub(super) struct Passed(HashMap<(Side, String), Streams>);

/// A link has passed the stream on up to this offset.
pub(super) fn note(streams: &mut Streams, stream: History, offset: Option<u64>) {
    let at = streams.iter().position(|(known, _)| *known == stream);
    let furthest = match at.map(|at| streams.remove(at)) {
        // What is not known stays so.
        Some((_, known)) => known.zip(offset).map(|(known, offset)| known.max(offset)),
        None => offset,
    };
    streams.push((stream, furthest));
}

impl Passed {
    /// A link has ended.
    pub(super) fn ended(&mut self, link: &LinkEntry) {
        let Some((stream, offset)) = link.passed() else { return };
        let streams = self.0.entry((link.side, link.name.clone())).or_default();
        note(streams, stream, offset);
        if streams.len() > STREAMS {
            streams.remove(0);
        }
    }

    /// Those of one entry.
    pub(super) fn of(&self, side: Side, name: &str) -> impl Iterator<Item = (History, Option<u64>)> + '_ {
        self.0.get(&(side, name.to_owned())).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_of_each_stream_counts_and_what_is_not_known_stays_so() {
        let id = |stream: &str| History::read(format!("{stream:f>40}").as_bytes()).unwrap();
        let mut streams = Streams::new();
        note(&mut streams, id("a"), Some(7));
        note(&mut streams, id("b"), Some(3));
        note(&mut streams, id("a"), Some(5));
        assert_eq!(streams, [(id("b"), Some(3)), (id("a"), Some(7))]);
        note(&mut streams, id("b"), None);
        note(&mut streams, id("b"), Some(9));
        assert_eq!(streams, [(id("a"), Some(7)), (id("b"), None)]);
    }
}
