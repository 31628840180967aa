//! `certs request`: makes a key on the site's own host and a request to be signed.

use std::path::Path;

use crate::certs::{self, Names};
use crate::cli::Outcome;

pub(super) fn request(dir: &Path, names: &Names, force: bool) -> Outcome {
    let (path, fingerprint) = certs::request(dir, names, force)?;
    let folder = path.parent().unwrap_or(dir).display();
    crate::outln::outln!("request for {}", names.text());
    crate::outln::outln!("  request      {}", path.display());
    crate::outln::outln!("  key          {folder}/tls.key (0600; it stays on this host)");
    crate::outln::outln!("  key sha256   {fingerprint}");
    crate::outln::outln!("\nnext: copy {} to where the CA is, and sign it there:", path.display());
    crate::outln::outln!("  replgate certs sign tls.csr --site {}", names.site());
    crate::outln::outln!(
        "  compare the key's sha256 over another channel; then bring tls.crt, ca.crt and crl.pem back to {folder}"
    );
    Ok(())
}
