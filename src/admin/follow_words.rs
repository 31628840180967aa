//! What is said of who is followed, in the words that everything shares which shows it.

use crate::clock;
use crate::follow::{FollowStatus, PartyStatus, PresentStatus};

/// Who said that a party has the master: `by Sentinel`.
pub fn by(present: &PresentStatus) -> String {
    match present.by.as_str() {
        "sentinel" => "by Sentinel".to_owned(),
        "lineage" => "by its history".to_owned(),
        "first" => "as all others follow it".to_owned(),
        "person" => "by a person".to_owned(),
        // Of a later release.
        other => format!("by {other}"),
    }
}

/// Who is followed, since when, and who said so: `10.0.0.6:6379 for 3 min, by Sentinel`; `nobody`.
pub fn present(entry: &FollowStatus, now: i64) -> String {
    match &entry.present {
        None => "nobody".to_owned(),
        Some(present) => {
            let span = clock::span(now.saturating_sub(present.since).max(0));
            format!("{} for {span}, {}", present.party, by(present))
        }
    }
}

/// Whether this party is the one that is followed.
pub fn is_present(entry: &FollowStatus, party: &PartyStatus) -> bool {
    entry.present.as_ref().is_some_and(|present| present.party == party.party)
}

/// The parties that are not followed, each with its words: `10.0.0.5:6379 is a replica of 10.0.0.6:6379`.
pub fn others(entry: &FollowStatus) -> impl Iterator<Item = String> {
    entry.parties.iter().filter(|party| !is_present(entry, party)).map(clause)
}

/// A party with its words.
pub fn clause(party: &PartyStatus) -> String {
    let words = if party.words.is_empty() { "was not asked yet" } else { &party.words };
    format!("{} {words}", party.party)
}
