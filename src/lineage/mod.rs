//! Which stream of writes a Redis has, and whether it is the one that was followed.
//!
//! Every blank or detached Redis says that it is a master. What tells it from the one that took over is
//! its history: the replication id that a master gives to its stream of writes. A replica that is promoted
//! takes a new id, and states the earlier one with the first offset that the two do not have in common
//! (`master_replid2` and `second_repl_offset` of INFO). By the same two fields Redis itself decides on a
//! partial resync. No I/O and no clock. [`judge`] decides who is followed.

pub mod judge;

/// A replication id: 40 letters that a master gives to its stream of writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct History([u8; 40]);

impl History {
    /// Reads it. Redis writes zeros where it has none.
    pub fn read(text: &[u8]) -> Option<Self> {
        let id: [u8; 40] = text.try_into().ok()?;
        (id.iter().all(u8::is_ascii_alphanumeric) && id.iter().any(|letter| *letter != b'0'))
            .then_some(Self(id))
    }

    /// Its letters.
    pub fn as_bytes(&self) -> &[u8; 40] {
        &self.0
    }

    /// As a person sees it: enough to tell it from others.
    pub fn short(&self) -> &str {
        &self.as_str()[..8]
    }

    /// Its letters as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII letters and digits are read.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A process of Redis: its `run_id`, new at each start. A far site does not tell it.
pub type Run = String;

/// Where a Redis stands in the history of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The id of its stream.
    pub history: History,
    /// The offset of the last byte that it has.
    pub offset: u64,
    /// The id that the stream had earlier, and the first offset that is not the same under both.
    pub earlier: Option<(History, u64)>,
    /// The process, if it is known.
    pub run: Option<Run>,
}

impl Standing {
    /// Whether another look shows the same process with the same stream. A process that is not known is none
    /// that could be the same.
    pub fn is_same_process(&self, other: &Self) -> bool {
        self.run.is_some() && self.run == other.run && self.history == other.history
    }
}

/// What the links of an entry have followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The id of the stream.
    pub history: History,
    /// The offset of the last byte that they have passed on; `None` if that is not known.
    pub passed: Option<u64>,
    /// The process that it came from, if it is known.
    pub run: Option<Run>,
}

/// How the data of a Redis is related to what was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The same stream goes on.
    Same,
    /// It took over when it had everything that was passed on: replicas continue by a partial resync.
    Successor,
    /// It lacks the last bytes that were passed on: this many.
    Behind(u64),
    /// It took over, and it is not known what had been passed on by then.
    Uncertain,
    /// The same process has given its stream a new id: it does so after an hour without a replica. It was
    /// seen as the master until then.
    Renamed,
    /// Nothing shows that it has the data that was followed.
    Stranger,
}

impl Kinship {
    /// Whether it proves that replicas lose nothing that they have.
    pub fn is_proof(self) -> bool {
        matches!(self, Self::Same | Self::Successor | Self::Renamed)
    }
}

impl Followed {
    /// How a Redis with this standing is related to what was followed.
    pub fn kinship(&self, standing: &Standing) -> Kinship {
        if standing.history == self.history {
            // A host that was set back to an earlier state has less of it than was passed on.
            return match self.passed {
                Some(passed) if passed > standing.offset => Kinship::Behind(passed - standing.offset),
                _ => Kinship::Same,
            };
        }
        match standing.earlier {
            Some((earlier, differs_from)) if earlier == self.history => match self.passed {
                None => Kinship::Uncertain,
                // Redis grants a partial resync to who asks for an offset up to this one, which is the
                // one after the last that the replica has.
                Some(passed) if passed < differs_from => Kinship::Successor,
                Some(passed) => Kinship::Behind(passed - differs_from + 1),
            },
            None if self.run.is_some() && self.run == standing.run => Kinship::Renamed,
            _ => Kinship::Stranger,
        }
    }

    /// Takes up what its links have passed on by now, if that is of this stream; `None` if that is not known.
    pub fn passes(&mut self, history: History, offset: Option<u64>) {
        if history == self.history {
            self.passed = offset.map(|offset| self.passed.unwrap_or(0).max(offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(letter: char) -> History {
        History::read(letter.to_string().repeat(40).as_bytes()).unwrap()
    }

    fn standing(letter: char, offset: u64, earlier: Option<(char, u64)>, run: &str) -> Standing {
        let earlier = earlier.map(|(letter, differs_from)| (history(letter), differs_from));
        Standing { history: history(letter), offset, earlier, run: Some(run.to_owned()) }
    }

    fn followed(passed: Option<u64>) -> Followed {
        Followed { history: history('a'), passed, run: Some("one".to_owned()) }
    }

    #[test]
    fn an_id_has_forty_letters_and_is_not_made_of_zeros() {
        let id = "0123456789012345678901234567890123456789";
        assert_eq!(History::read(id.as_bytes()).unwrap().as_str(), id);
        for other in [&id[1..], &"0".repeat(40), &id.replace('9', "\r"), &format!("{id}0"), ""] {
            assert_eq!(History::read(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_successor_is_who_redis_would_grant_a_partial_resync_from() {
        // The replica asks for the byte 101, the first one that the two histories do not share.
        let took_over = |differs_from| standing('b', 500, Some(('a', differs_from)), "two");
        assert_eq!(followed(Some(100)).kinship(&took_over(101)), Kinship::Successor);
        assert_eq!(followed(Some(100)).kinship(&took_over(500)), Kinship::Successor);
        assert_eq!(followed(Some(100)).kinship(&took_over(100)), Kinship::Behind(1));
        assert_eq!(followed(Some(100)).kinship(&took_over(1)), Kinship::Behind(100));
        assert_eq!(followed(None).kinship(&took_over(500)), Kinship::Uncertain);
    }

    #[test]
    fn only_the_same_stream_and_the_same_process_need_no_earlier_id() {
        let of = |passed, letter, offset, run| followed(passed).kinship(&standing(letter, offset, None, run));
        assert_eq!(of(Some(100), 'a', 100, "two"), Kinship::Same);
        assert_eq!(of(None, 'a', 0, "two"), Kinship::Same);
        assert_eq!(of(Some(100), 'a', 90, "one"), Kinship::Behind(10), "the host was set back");
        assert_eq!(of(Some(100), 'b', 200, "one"), Kinship::Renamed);
        assert_eq!(of(Some(100), 'b', 200, "two"), Kinship::Stranger);
        let followed_another = standing('b', 200, Some(('c', 150)), "one");
        assert_eq!(followed(Some(100)).kinship(&followed_another), Kinship::Stranger);
        let unknown = Followed { run: None, ..followed(Some(100)) };
        assert_eq!(
            unknown.kinship(&Standing { run: None, ..standing('b', 200, None, "") }),
            Kinship::Stranger
        );
    }

    #[test]
    fn what_was_passed_on_counts_only_for_its_own_stream_and_never_less() {
        let mut known = followed(None);
        known.passes(history('b'), Some(70));
        assert_eq!(known.passed, None);
        known.passes(history('a'), Some(60));
        known.passes(history('a'), Some(50));
        assert_eq!(known.passed, Some(60));
    }
}
