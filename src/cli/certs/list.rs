//! `certs list`: shows every certificate that was issued.

use std::path::Path;

use crate::certs;
use crate::certs::cas::Generation;
use crate::certs::ledger::Issued;
use crate::cli::Outcome;
use crate::clock;
use crate::x509::some_of;

pub(super) fn list(dir: &Path, json: bool) -> Outcome {
    let entries = certs::list(dir)?;
    if json {
        let listed = entries.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        crate::outln::outln!("{}", serde_json::to_string(&listed)?);
        return Ok(());
    }
    if entries.is_empty() {
        crate::outln::outln!("nothing was issued yet");
        return Ok(());
    }
    let now = clock::now();
    let is_rollover = entries.iter().any(|(generation, _)| generation.is_some());
    let ca = |word: &str| if is_rollover { format!("{word:<3}  ") } else { String::new() };
    crate::outln::outln!(
        "{:<16}  {}{:<12}  {:<20}  {:<47}  NAMES",
        "SITE",
        ca("CA"),
        "STATE",
        "EXPIRES",
        "SERIAL"
    );
    for (generation, entry) in entries {
        let state = match entry.revoked {
            Some(_) => "revoked",
            None if entry.expires < now => "expired",
            None => "good",
        };
        crate::outln::outln!(
            "{:<16}  {}{:<12}  {:<20}  {:<47}  {}",
            entry.site,
            ca(generation.map_or("", Generation::word)),
            state,
            clock::utc(entry.expires),
            entry.serial,
            some_of(&entry.names.split(", ").map(str::to_owned).collect::<Vec<_>>())
        );
    }
    if is_rollover {
        crate::outln::outln!(
            "\na rollover of the CA is under way; where it stands and what is next: replgate certs rollover"
        );
    }
    Ok(())
}

/// One certificate as JSON: as in the ledger, but with its names as a list, and during a rollover
/// with its CA.
fn listed(
    (generation, entry): &(Option<Generation>, Issued),
) -> Result<serde_json::Value, serde_json::Error> {
    let mut listed = serde_json::to_value(entry)?;
    listed["names"] = entry.names.split(", ").collect();
    if let Some(generation) = generation {
        listed["ca"] = generation.word().into();
    }
    Ok(listed)
}
