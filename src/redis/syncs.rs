//! Counts the syncs of one `[[master]]` or `[[replica]]` with one far site, over all its links, and
//! connects the two links that carry one sync together.
//!
//! Redis 8 and Valkey send the snapshot over a connection of its own. Only that connection says at
//! which offset the stream of the main connection begins. Its link stores the offset here, and the
//! main connection's link takes it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most beginnings that wait for their main connections; beyond that the oldest is dropped.
const MOST: usize = 64;

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The master's replication id.
    pub replid: String,
    /// The master's offset before the stream's first byte.
    pub offset: u64,
}

/// Shared by the links of one `[[master]]` or `[[replica]]` with one far site.
#[derive(Debug, Default)]
pub struct Syncs {
    full: AtomicU64,
    partial: AtomicU64,
    refused: AtomicU64,
    beginnings: Mutex<VecDeque<(u64, Beginning)>>,
    /// When a replica last got an error in place of a sync, and how its link ended; none once a sync has begun.
    without: Mutex<Option<(Instant, String)>>,
}

impl Syncs {
    /// Counts a full sync that the master has begun.
    pub fn count_full(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a partial resync that the master has granted.
    pub fn count_partial(&self) {
        self.partial.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a sync that the master or its gateway has refused.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of full syncs, partial resyncs and refused syncs since the gateway's start.
    pub fn counts(&self) -> [u64; 3] {
        [&self.full, &self.partial, &self.refused].map(|count| count.load(Ordering::Relaxed))
    }

    /// A replica got an error in place of a sync, and its link has ended like this.
    pub fn got_none(&self, words: &str, now: Instant) {
        *self.without.lock().expect("no code panics while it holds this") = Some((now, words.to_owned()));
    }

    /// A sync has begun.
    pub fn begins(&self) {
        *self.without.lock().expect("no code panics while it holds this") = None;
    }

    /// How the last link ended whose replica got an error in place of a sync, if that is not longer ago and no
    /// sync has begun since.
    pub fn none_within(&self, time: Duration, now: Instant) -> Option<String> {
        let without = self.without.lock().expect("no code panics while it holds this");
        let (at, words) = without.as_ref()?;
        (now.saturating_duration_since(*at) < time).then(|| words.clone())
    }

    /// Stores where the stream of the main connection with this id begins.
    pub fn leave(&self, id: u64, beginning: Beginning) {
        let mut beginnings = self.beginnings.lock().expect("no code panics while it holds the beginnings");
        beginnings.retain(|(other, _)| *other != id);
        if beginnings.len() == MOST {
            beginnings.pop_front();
        }
        beginnings.push_back((id, beginning));
    }

    /// Takes the stored beginning for the main connection with this id.
    pub fn take(&self, id: u64) -> Option<Beginning> {
        let mut beginnings = self.beginnings.lock().expect("no code panics while it holds the beginnings");
        let at = beginnings.iter().position(|(other, _)| *other == id)?;
        beginnings.remove(at).map(|(_, beginning)| beginning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_without_a_sync_is_remembered_for_a_while_and_until_one_begins() {
        let (syncs, start) = (Syncs::default(), Instant::now());
        let time = Duration::from_secs(15);
        let after = |seconds| syncs.none_within(time, start + Duration::from_secs(seconds));
        assert_eq!(after(0), None);
        syncs.got_none("NOAUTH", start);
        assert_eq!((after(14).as_deref(), after(15)), (Some("NOAUTH"), None));
        syncs.begins();
        assert_eq!(after(0), None);
    }

    #[test]
    fn a_beginning_is_taken_once_and_few_are_kept() {
        let syncs = Syncs::default();
        for id in 0..100 {
            syncs.leave(id, Beginning { replid: "x".into(), offset: id });
        }
        assert_eq!(syncs.take(0), None);
        assert_eq!(syncs.take(99).map(|beginning| beginning.offset), Some(99));
        assert_eq!(syncs.take(99), None);
    }
}
