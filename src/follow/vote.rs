//! Counts what the Sentinels say: pure, no I/O and no clock.
//!
//! A majority is more than half of those in the config, whether they answer or not. So a minority that lies,
//! or that knows only what was true before, changes nothing.

use crate::lineage::Run;

/// What one Sentinel says of the master. `K` is how a Redis is told from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<K> {
    /// It does not answer.
    Nothing,
    /// It answers, and names none.
    None,
    /// It names this Redis.
    Names {
        /// The Redis.
        redis: K,
        /// Its `config-epoch`: each failover has a higher one.
        epoch: u64,
        /// The process that it has seen there.
        run: Option<Run>,
    },
}

/// What all of them say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<K> {
    /// Fewer than a majority answer.
    Silent,
    /// A majority answers, and none names the same Redis.
    Undecided,
    /// A majority names this Redis.
    Name {
        /// The Redis.
        redis: K,
        /// The process, if a majority has seen the same.
        run: Option<Run>,
    },
}

/// How many of `count` are a majority.
pub fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// Counts. `said` has one for each Sentinel of the config. Of several Redis with a majority, which there can
/// only be if a Sentinel is there twice, the one with the highest epoch is named.
pub fn count<K: Clone + PartialEq>(said: &[Said<K>]) -> Outcome<K> {
    let least = majority(said.len());
    if said.iter().filter(|said| **said != Said::Nothing).count() < least {
        return Outcome::Silent;
    }
    let claims = || {
        said.iter().filter_map(|said| match said {
            Said::Names { redis, epoch, run } => Some((redis, *epoch, run.as_ref())),
            Said::Nothing | Said::None => None,
        })
    };
    let of = |redis: &K| claims().filter(|(other, ..)| *other == redis).count();
    let named = claims().filter(|(redis, ..)| of(redis) >= least).max_by_key(|(_, epoch, _)| *epoch);
    let Some((redis, ..)) = named else { return Outcome::Undecided };
    let runs = || claims().filter(|(other, ..)| *other == redis).filter_map(|(.., run)| run);
    let run = runs().find(|run| runs().filter(|other| other == run).count() >= least).cloned();
    Outcome::Name { redis: redis.clone(), run }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(redis: u8, epoch: u64, run: Option<&str>) -> Said<u8> {
        Said::Names { redis, epoch, run: run.map(str::to_owned) }
    }

    #[test]
    fn more_than_half_of_those_in_the_config_must_agree() {
        let (one, two) = (names(1, 4, None), names(2, 5, None));
        let name = |redis| Outcome::Name { redis, run: None };
        assert_eq!(count(&[one.clone(), one.clone(), two.clone()]), name(1));
        assert_eq!(count(&[one.clone(), two.clone(), two.clone()]), name(2));
        assert_eq!(count(&[one.clone(), two.clone(), Said::Nothing]), Outcome::Undecided);
        assert_eq!(count(&[two.clone(), two.clone(), Said::Nothing, Said::Nothing]), Outcome::Silent);
        assert_eq!(count(&[two.clone(), Said::Nothing, Said::Nothing]), Outcome::Silent);
        assert_eq!(count(&[two.clone(), Said::None, Said::None]), Outcome::Undecided);
        assert_eq!(count(std::slice::from_ref(&one)), name(1));
        assert_eq!(count(&[one.clone(), two.clone()]), Outcome::Undecided);
        assert_eq!(count::<u8>(&[]), Outcome::Silent);
    }

    #[test]
    fn a_process_counts_if_a_majority_has_seen_it() {
        let run = |said: &[Said<u8>]| match count(said) {
            Outcome::Name { run, .. } => run,
            other => panic!("{other:?}"),
        };
        let said = |run| names(1, 1, run);
        assert_eq!(run(&[said(Some("a")), said(Some("a")), said(Some("b"))]).as_deref(), Some("a"));
        assert_eq!(run(&[said(Some("a")), said(Some("b")), said(None)]), None);
        assert_eq!(run(&[said(Some("a")), said(None), said(None)]), None);
    }

    fn any_said() -> impl Strategy<Value = Said<u8>> {
        prop_oneof![
            Just(Said::Nothing),
            Just(Said::None),
            (0..3u8, 0..4u64, prop::option::of(prop::sample::select(vec!["a", "b"])))
                .prop_map(|(redis, epoch, run)| names(redis, epoch, run)),
        ]
    }

    proptest! {
        #[test]
        fn a_minority_changes_nothing_whatever_it_says(
            honest in 1..5usize,
            lies in prop::collection::vec((any_said(), 0..10usize), 0..5),
        ) {
            let mut said = vec![names(7, 1, Some("true")); honest];
            for (lie, at) in lies.iter().take(honest - 1) {
                said.insert(at % (said.len() + 1), lie.clone());
            }
            prop_assert_eq!(count(&said), Outcome::Name { redis: 7, run: Some("true".to_owned()) });
        }

        #[test]
        fn what_is_named_has_a_majority_and_the_order_does_not_matter(
            said in prop::collection::vec(any_said(), 0..8),
        ) {
            let outcome = count(&said);
            if let Outcome::Name { redis, .. } = &outcome {
                let of = said.iter().filter(|said| matches!(said, Said::Names { redis: other, .. } if other == redis));
                prop_assert!(of.count() > said.len() / 2);
            }
            let mut turned = said.clone();
            turned.reverse();
            prop_assert_eq!(count(&turned), outcome);
        }
    }
}
