//! What is said of who is followed, in the words that everything shares which shows it.

use super::awaited;
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

/// Who is followed, since when, and who said so: `10.0.0.6:6379 for 3 minutes, by Sentinel`; `nobody`.
pub fn present(entry: &FollowStatus, now: i64) -> String {
    match &entry.present {
        None => "nobody".to_owned(),
        Some(present) => {
            let span = clock::span(now.saturating_sub(present.since).max(0));
            format!("{} for {span}, {}", present.party, by(present))
        }
    }
}

/// What the entry does: `follows 10.0.0.6:6379 for 3 minutes, by Sentinel`; `waits: …`.
pub fn does(entry: &FollowStatus, now: i64) -> String {
    match (awaited::waits(entry), entry.role.as_str()) {
        (false, _) => format!("follows {}", present(entry, now)),
        (true, "replica") => "waits: this site has the master".to_owned(),
        (true, _) => "waits: its Redis are replicas of another site".to_owned(),
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
    format!("{} {}", party.party, words(party))
}

/// What a party is.
pub fn words(party: &PartyStatus) -> &str {
    if party.words.is_empty() { "was not asked yet" } else { &party.words }
}

/// How often a party was followed, the first one included.
pub fn switches(entry: &FollowStatus) -> String {
    match entry.switches {
        0 => "no switch since the start".to_owned(),
        1 => "1 switch since the start".to_owned(),
        times => format!("{times} switches since the start"),
    }
}

/// The stream of a party, as far as it is known: `c4631a6d at 4711`.
pub fn stream(party: &PartyStatus) -> Option<String> {
    // Enough of an id to tell it from others.
    let history: String = party.history.as_ref()?.chars().take(8).collect();
    Some(party.offset.map_or_else(|| history.clone(), |offset| format!("{history} at {offset}")))
}

/// How many of the Sentinels name the one that is followed; `None` if there are none.
pub fn sentinels(entry: &FollowStatus) -> Option<String> {
    let all = entry.sentinels.len();
    let party = entry.present.as_ref().map(|present| &present.party);
    let agree = entry.sentinels.iter().filter(|said| party.is_some() && said.names.as_ref() == party).count();
    let names_it = if party.is_some() { format!("{agree} of {all} name it") } else { answers(entry) };
    (all > 0).then(|| format!("Sentinels: {names_it}"))
}

/// How many of the Sentinels answer.
fn answers(entry: &FollowStatus) -> String {
    let answer = entry.sentinels.iter().filter(|said| said.names.is_some()).count();
    format!("{answer} of {} answer", entry.sentinels.len())
}

/// All of it in one sentence: who is followed, what the others are, and the Sentinels.
pub fn sentence(entry: &FollowStatus, now: i64) -> String {
    let whom = format!("{} {}", entry.name, does(entry, now));
    std::iter::once(whom).chain(others(entry)).chain(sentinels(entry)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::SentinelStatus;

    fn entry(by: &str) -> FollowStatus {
        let party = |party: &str, words: &str| PartyStatus {
            party: party.to_owned(),
            words: words.to_owned(),
            ..PartyStatus::default()
        };
        let sentinel = |names: Option<&str>| SentinelStatus {
            names: names.map(str::to_owned),
            ..SentinelStatus::default()
        };
        FollowStatus {
            name: "orders".to_owned(),
            present: Some(PresentStatus { party: "10.0.0.6:6379".to_owned(), since: 100, by: by.to_owned() }),
            parties: vec![
                party("10.0.0.5:6379", "is a replica of 10.0.0.6:6379"),
                party("10.0.0.6:6379", "is the master"),
                party("10.0.0.7:6379", ""),
            ],
            sentinels: vec![sentinel(Some("10.0.0.6:6379")), sentinel(None), sentinel(Some("10.0.0.5:6379"))],
            ..FollowStatus::default()
        }
    }

    #[test]
    fn who_is_followed_since_when_and_who_said_so_is_one_sentence() {
        assert_eq!(
            sentence(&entry("sentinel"), 280),
            "orders follows 10.0.0.6:6379 for 3 minutes, by Sentinel; 10.0.0.5:6379 is a replica of 10.0.0.6:6379; 10.0.0.7:6379 was not asked yet; Sentinels: 1 of 3 name it"
        );
        let whom = |by: &str| present(&entry(by), 90);
        assert_eq!(whom("lineage"), "10.0.0.6:6379 for 0 s, by its history", "the clock was set back");
        assert_eq!(whom("first"), "10.0.0.6:6379 for 0 s, as all others follow it");
        assert_eq!(whom("person"), "10.0.0.6:6379 for 0 s, by a person");
        assert_eq!(whom("an oracle"), "10.0.0.6:6379 for 0 s, by an oracle");
        let nobody = FollowStatus { present: None, ..entry("") };
        let words = sentence(&nobody, 280);
        assert!(words.starts_with("orders follows nobody; 10.0.0.5:6379 is a replica"), "{words}");
        assert!(words.contains("; 10.0.0.6:6379 is the master; "), "{words}");
        assert!(words.ends_with("; Sentinels: 2 of 3 answer"), "{words}");
        let waits = FollowStatus { standby: true, ..nobody };
        let words = sentence(&waits, 280);
        let wanted = "orders waits: its Redis are replicas of another site; 10.0.0.5:6379 is a replica";
        assert!(words.starts_with(wanted), "{words}");
        let of_sites = FollowStatus { role: "replica".to_owned(), ..waits.clone() };
        assert_eq!(does(&of_sites, 280), "waits: this site has the master");
        assert!(
            does(&FollowStatus { standby: true, ..entry("person") }, 280).starts_with("follows 10.0.0.6")
        );
        assert_eq!(sentinels(&FollowStatus { sentinels: vec![], ..entry("") }), None);
    }
}
