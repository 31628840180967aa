//! `certs list`: shows every certificate that was issued.

use std::path::Path;

use crate::certs;
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
    crate::outln::outln!("{:<16}  {:<12}  {:<20}  {:<47}  NAMES", "SITE", "STATE", "EXPIRES", "SERIAL");
    for entry in entries {
        let state = match entry.revoked {
            Some(_) => "revoked",
            None if entry.expires < now => "expired",
            None => "good",
        };
        crate::outln::outln!(
            "{:<16}  {:<12}  {:<20}  {:<47}  {}",
            entry.site,
            state,
            clock::utc(entry.expires),
            entry.serial,
            some_of(&entry.names.split(", ").map(str::to_owned).collect::<Vec<_>>())
        );
    }
    Ok(())
}

/// One certificate as JSON: as in the ledger, but with its names as a list.
fn listed(entry: &Issued) -> Result<serde_json::Value, serde_json::Error> {
    let mut listed = serde_json::to_value(entry)?;
    listed["names"] = entry.names.split(", ").collect();
    Ok(listed)
}
