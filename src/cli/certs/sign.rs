//! `certs sign`: signs a request for the names that the operator confirms.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use super::{MoreNames, START, next, tell, wanted};
use crate::certs::{self, Names};
use crate::cli::{Failure, Outcome};
use crate::x509::some_of;

pub(super) fn sign(
    dir: &Path,
    file: &Path,
    site: Option<&str>,
    more: &MoreNames,
    days: u32,
    force: bool,
) -> Outcome {
    let asked = certs::read_request(file)?;
    let wishes: Vec<String> =
        asked.dns.iter().cloned().chain(asked.ips.iter().map(ToString::to_string)).collect();
    crate::outln::outln!("request {}", file.display());
    crate::outln::outln!("  key          {}", asked.key);
    crate::outln::outln!("  key sha256   {}", asked.fingerprint);
    crate::outln::outln!(
        "  asks for     {}",
        if wishes.is_empty() { "no names".to_owned() } else { some_of(&wishes) }
    );
    let names = match site {
        Some(site) => {
            let names = wanted(site, more)?;
            let asks = |wish: &String| wish.eq_ignore_ascii_case(names.site());
            if !wishes.is_empty() && !wishes.iter().any(asks) && !force {
                return Err(anyhow::anyhow!(
                    "{} asks for {}, not for {}; nothing was signed. Is it another site's request? To sign its key for {} all the same: add --force",
                    file.display(),
                    some_of(&wishes),
                    names.site(),
                    names.site()
                )
                .into());
            }
            names
        }
        None => {
            let first = wishes.first().or(asked.common_name.as_ref()).cloned();
            let Some(first) = first else {
                return Err(Failure::Usage("the request names no site; say which: --site SITE".to_owned()));
            };
            let mut rest: Vec<String> = wishes.iter().skip(1).cloned().collect();
            rest.extend(more.sans.iter().cloned());
            let names = Names::new(&first, &rest)?;
            confirm(&names)?;
            names
        }
    };
    let made = certs::sign(dir, &asked, &names, days, force)?;
    tell(&made)?;
    next(&[made], START)
}

/// Asks the operator to confirm these names.
fn confirm(names: &Names) -> Outcome {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "confirm the names of the certificate: --site {}{}",
            names.site(),
            names.text().split(", ").skip(1).map(|name| format!(" --san {name}")).collect::<String>()
        )));
    }
    print!("sign it for {}? [y/N] ", names.text());
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(anyhow::anyhow!("not signed").into()),
    }
}
