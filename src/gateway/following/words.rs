//! What is said of the Redis of a master: to whom `status` is shown, in the log, and to far sites.

use crate::follow::sentinel::Word;
use crate::follow::{PartyStatus, SentinelStatus};
use crate::lineage::judge::{Doubt, Look};
use crate::lineage::{Followed, Kinship, Standing};

/// Why a Redis is not followed, as a clause behind its address.
pub(super) fn doubt(doubt: &Doubt, look: &Look, followed: Option<&Followed>, sentinels: &str) -> String {
    let standing = match look {
        Look::Master { standing, .. } => Some(standing),
        _ => None,
    };
    match doubt {
        Doubt::NoMaster(words) | Doubt::Away(words) => words.clone(),
        Doubt::Rival => "says that it is the master too".to_owned(),
        Doubt::Behind(lost) if standing.is_some_and(|standing| standing.earlier.is_none()) => {
            format!("was set back: it lacks the last {lost} bytes that were passed on{}", at(standing))
        }
        Doubt::Behind(lost) => format!(
            "took over at offset {}, without the last {lost} bytes that were passed on, up to offset {}",
            took_over_at(standing),
            passed(followed)
        ),
        Doubt::Uncertain => format!(
            "took over at offset {}, and how far the stream had been passed on is not known",
            took_over_at(standing)
        ),
        Doubt::Stranger => format!("says that it is the master, with data of another history{}", at(standing)),
        Doubt::Restarted if standing.is_some_and(|standing| standing.earlier.is_some()) => {
            format!("took over from another stream than the one that was followed{}", at(standing))
        }
        Doubt::Restarted => {
            format!("has another history than when it was followed, as after a start without its data{}", at(standing))
        }
        Doubt::Ambiguous => "has the data that was followed, and so has another one".to_owned(),
        Doubt::Unproven => {
            "says that it is the master; nothing was followed before, and not every other one answers as its replica"
                .to_owned()
        }
        Doubt::NotNamed => format!("says that it is the master, but {sentinels}"),
    }
}

/// What following a Redis costs, in sentences.
pub(super) fn cost(
    kinship: Option<Kinship>,
    standing: &Standing,
    followed: Option<&Followed>,
) -> Vec<String> {
    let own = format!("It is at offset {} of history {}.", standing.offset, standing.history.short());
    let cost = match kinship {
        None => {
            "Nothing was followed before: a replica that comes gets all data by a full sync, unless it has this history already."
                .to_owned()
        }
        Some(Kinship::Same | Kinship::Renamed) => {
            "It has the stream that was followed: nothing is lost, and replicas continue by a partial resync.".to_owned()
        }
        Some(Kinship::Successor) => format!(
            "It took over at offset {}, with everything that was passed on (up to offset {}): nothing is lost, and replicas continue by a partial resync as far as its backlog reaches.",
            took_over_at(Some(standing)),
            passed(followed)
        ),
        Some(Kinship::Behind(lost)) => format!(
            "It took over at offset {}, and {lost} bytes of the stream were passed on after that, up to offset {}: these are lost, and every replica that has them gets all data again by a full sync.",
            took_over_at(Some(standing)),
            passed(followed)
        ),
        Some(Kinship::Uncertain) => format!(
            "It took over at offset {}. How far the stream had been passed on is not known: a replica that is further loses what it has more, and gets all data again by a full sync.",
            took_over_at(Some(standing))
        ),
        Some(Kinship::Stranger) if standing.earlier.is_some() => {
            let (earlier, _) = standing.earlier.expect("it was just seen");
            format!(
                "It took over from the history {} at offset {}: a replica that has that up to there continues by a partial resync; every other one loses what it has, and gets all data of this one by a full sync.",
                earlier.short(),
                took_over_at(Some(standing))
            )
        }
        Some(Kinship::Stranger) => format!(
            "Its data is of another history than what was followed{}: every replica loses what it has, and gets all data of this one by a full sync.",
            followed.map_or_else(String::new, |followed| format!(
                " ({}, passed on up to offset {})",
                followed.history.short(),
                passed(Some(followed))
            ))
        ),
    };
    vec![own, cost]
}

fn took_over_at(standing: Option<&Standing>) -> u64 {
    standing.and_then(|standing| standing.earlier).map_or(0, |(_, differs)| differs.saturating_sub(1))
}

fn passed(followed: Option<&Followed>) -> String {
    followed.and_then(|followed| followed.passed).map_or_else(|| "?".to_owned(), |passed| passed.to_string())
}

fn at(standing: Option<&Standing>) -> String {
    standing.map_or_else(String::new, |standing| {
        format!(" ({} at offset {})", standing.history.short(), standing.offset)
    })
}

/// A Redis as `status` shows it.
pub(super) fn party(name: &str, look: &Look, is_followed: bool, doubt: Option<String>) -> PartyStatus {
    let (state, own, standing) = match look {
        Look::NotYet => ("unknown", "was not asked yet".to_owned(), None),
        Look::Master { standing, .. } => ("master", "is the master".to_owned(), Some(standing)),
        Look::Other { standing: Some(standing), words } => ("replica", words.clone(), Some(standing)),
        Look::Other { standing: None, words } => ("unknown", words.clone(), None),
        Look::Away(words) => ("away", words.clone(), None),
    };
    let words = match doubt {
        Some(doubt) => doubt,
        None if is_followed && state == "away" => format!("is followed, and {own}"),
        None if is_followed => "is followed".to_owned(),
        None => own,
    };
    PartyStatus {
        party: name.to_owned(),
        state: state.to_owned(),
        words,
        history: standing.map(|standing| standing.history.as_str().to_owned()),
        offset: standing.map(|standing| standing.offset),
    }
}

/// A Sentinel as `status` shows it.
pub(super) fn sentinel(place: &str, word: &Word) -> SentinelStatus {
    let (names, words) = match word {
        Word::NotYet => (None, "was not asked yet".to_owned()),
        Word::Silent(why) => (None, why.clone()),
        Word::Unknown(why) => (None, why.clone()),
        Word::Names(claim) => {
            (Some(claim.place.to_string()), format!("names {}, config-epoch {}", claim.place, claim.epoch))
        }
    };
    SentinelStatus { sentinel: place.to_owned(), names, words }
}
