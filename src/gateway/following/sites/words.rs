//! What the sites are and why one is followed or is not, in words.

use crate::lineage::judge::{By, Doubt, Look};
use crate::lineage::{Kinship, Standing};

/// Who said that a site has the master, as `status` shows it.
pub(super) fn by(by: By) -> &'static str {
    match by {
        By::Sentinel => "sentinel",
        By::Lineage => "lineage",
        By::First => "first",
        By::Person => "person",
    }
}

/// What a site is, as `status` shows it.
pub(super) fn state(look: &Look) -> &'static str {
    match look {
        Look::Master { .. } => "master",
        Look::Other { standing: Some(_), .. } => "replica",
        Look::Other { standing: None, .. } | Look::NotYet => "unknown",
        Look::Away(_) => "away",
    }
}

/// What a site is, and why it is not followed, as a clause.
pub(super) fn party(look: &Look, is_present: bool, doubt: Option<&Doubt>) -> String {
    match (look, doubt) {
        (Look::NotYet, _) => "was not asked yet".to_owned(),
        (Look::Away(why), _) => format!("is not reached: {why}"),
        (Look::Other { words, .. }, _) => words.clone(),
        (Look::Master { .. }, _) if is_present => "offers the master, and is followed".to_owned(),
        (Look::Master { .. }, None) => "offers a master".to_owned(),
        (Look::Master { .. }, Some(why)) => doubt_of(why, look),
    }
}

/// Why a site is not followed, as a clause.
pub(super) fn doubt(why: &Doubt, look: &Look) -> String {
    match why {
        Doubt::NoMaster(words) => words.clone(),
        Doubt::Away(words) => format!("is not reached: {words}"),
        _ => doubt_of(why, look),
    }
}

fn doubt_of(why: &Doubt, look: &Look) -> String {
    let history = match look {
        Look::Master { standing, .. } => {
            format!(" ({} at offset {})", standing.history.short(), standing.offset)
        }
        _ => String::new(),
    };
    match why {
        Doubt::NoMaster(words) | Doubt::Away(words) => words.clone(),
        Doubt::Rival => "offers a master too".to_owned(),
        Doubt::Behind(lost) => {
            format!("offers a master{history} without the last {lost} bytes that came here")
        }
        Doubt::Uncertain => {
            format!("offers a master{history} that took over, and it is not known what had come here by then")
        }
        Doubt::Stranger => format!("offers a master whose data is of another history{history}"),
        Doubt::Restarted => {
            format!("offers a master whose data is of another history{history} than what was followed there")
        }
        Doubt::Ambiguous => "offers a master that would do, and so does another site".to_owned(),
        Doubt::Unproven => {
            "offers a master, but nothing was followed before, and not every other site has a replica of it"
                .to_owned()
        }
        Doubt::NotNamed => "is not named".to_owned(),
    }
}

/// Another site than the one that is followed, and what its master is.
pub(super) fn rival(kinship: Option<Kinship>, standing: &Standing) -> String {
    let why = match kinship {
        None => Doubt::Unproven,
        Some(Kinship::Behind(lost)) => Doubt::Behind(lost),
        Some(Kinship::Uncertain) => Doubt::Uncertain,
        Some(Kinship::Stranger) => Doubt::Stranger,
        Some(Kinship::Same | Kinship::Successor | Kinship::Renamed) => return "offers a master".to_owned(),
    };
    doubt_of(&why, &Look::Master { standing: standing.clone(), vouched: false })
}

/// Why a site is followed from now on, as a sentence without its end.
pub(super) fn follows(by: &str, kinship: Option<Kinship>) -> String {
    let data = match kinship {
        None => "nothing was followed before".to_owned(),
        Some(Kinship::Same | Kinship::Renamed) => "it has the stream that was followed".to_owned(),
        Some(Kinship::Successor) => "its master took over with all that had come here".to_owned(),
        Some(Kinship::Behind(lost)) => format!("its master lacks the last {lost} bytes that had come here"),
        Some(Kinship::Uncertain) => {
            "its master took over, and it is not known what had come here by then".to_owned()
        }
        Some(Kinship::Stranger) => "its master's data is of another history".to_owned(),
    };
    match by {
        "person" => format!("a person said so, and {data}"),
        _ => data,
    }
}

/// What it costs to follow a site: sentences.
pub(super) fn costs(site: &str, kinship: Option<Kinship>, standing: &Standing, links: usize) -> Vec<String> {
    let (history, offset) = (standing.history.short(), standing.offset);
    let mut sentences = vec![match kinship {
        None => format!(
            "Nothing was followed before. The master of {site} has the history {history} at offset {offset}: a replica of another history gets a full sync, and its own data is gone."
        ),
        Some(Kinship::Same | Kinship::Successor | Kinship::Renamed) => format!(
            "The master of {site} has all that has come here: replicas continue by a partial resync as far as its backlog goes, and nothing is lost."
        ),
        Some(Kinship::Behind(lost)) => format!(
            "The master of {site} lacks the last {lost} bytes of the stream that have come here: these writes are lost, and every replica that has them gets a full sync."
        ),
        Some(Kinship::Uncertain) => format!(
            "The master of {site} took over from the one that was followed, and it is not known what had come here by then: replicas that are ahead of it get a full sync, and what they are ahead is lost."
        ),
        Some(Kinship::Stranger) => format!(
            "The data of the master of {site} is of another history, {history} at offset {offset}: every replica here gets a full sync, and what only the replicas here have is lost."
        ),
    }];
    sentences.push(match links {
        0 => "No replica here has a link now.".to_owned(),
        1 => "1 link here ends, and its replica asks again.".to_owned(),
        _ => format!("{links} links here end, and their replicas ask again."),
    });
    sentences
}
