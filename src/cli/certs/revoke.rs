//! `certs revoke`: revokes certificates and refreshes the list in each site's folder.

use std::path::Path;

use crate::certs;
use crate::cli::Outcome;
use crate::clock;

pub(super) fn revoke(dir: &Path, what: &str) -> Outcome {
    let all = certs::revoke(dir, what)?;
    if all.is_empty() {
        crate::outln::outln!("{what} was revoked before; the lists of all sites were written again");
    }
    for revoked in all {
        crate::outln::outln!(
            "revoked {} of site {} (good until {})",
            revoked.serial,
            revoked.site,
            clock::utc(revoked.expires)
        );
    }
    crate::outln::outln!(
        "\nnext: a gateway refuses it only once it has the new list: copy crl.pem to one gateway that has links to the others, then on its host: systemctl reload replgate (or SIGHUP); it hands the list on, and its log and theirs say so. The other sites' own files may follow later"
    );
    for site in certs::sites(dir)? {
        crate::outln::outln!("  {}", dir.join(site).join("crl.pem").display());
    }
    Ok(())
}
