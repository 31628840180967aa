//! `certs inspect`: shows what a PEM file contains, or the certificate that a server presents.

use std::path::Path;

use anyhow::Context;

use super::{expiry, names_of};
use crate::certs;
use crate::cli::{Outcome, block_on};
use crate::clock;
use crate::tls::pem::{Content, Contents, PemError};
use crate::tls::revocation::number_text;
use crate::tls::{fetch_chain, pem};
use crate::units;
use crate::x509::{Certificate, RevocationList, some_of};

pub(super) fn inspect(what: &str) -> Outcome {
    let path = Path::new(what);
    if path.exists() {
        return inspect_file(path);
    }
    let Ok(address) = units::address(what) else {
        return Err(anyhow::anyhow!("{what}: there is no such file, and it is not a HOST:PORT").into());
    };
    let chain =
        block_on(fetch_chain::fetch_chain(&address))?.with_context(|| format!("look at {address}"))?;
    crate::outln::outln!("{address} shows (not verified):");
    for certificate in chain {
        print_certificate(&Certificate::read(&certificate)?)?;
    }
    Ok(())
}

fn inspect_file(path: &Path) -> Outcome {
    let Contents { blocks, faults } = pem::contents(path)?;
    if blocks.is_empty() && faults.is_empty() {
        pem::certificates(path)?;
    }
    for block in blocks {
        match block.content {
            Content::Certificate(certificate) => print_certificate(&Certificate::read(&certificate)?)?,
            Content::List(list) => print_list(RevocationList::read(&list)?),
            Content::Request(request) => print_request(&certs::asked(&request, path)?),
            Content::Key(_) => crate::outln::outln!("private key (not shown)"),
            Content::EncryptedKey => return Err(PemError::Encrypted { path: path.to_owned() }.into()),
            Content::Parameters => {}
            Content::PublicKey => crate::outln::outln!("public key (not shown)"),
        }
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(PemError::Faulty { path: path.to_owned(), faults }.into()),
    }
}

fn print_list(list: RevocationList) {
    crate::outln::outln!("revocation list");
    crate::outln::outln!("  issuer       {}", crate::escape::shown(list.issuer.as_bytes()));
    crate::outln::outln!(
        "  number       {}",
        list.number.map_or_else(|| "none".to_owned(), |number| number_text(&number))
    );
    crate::outln::outln!("  made         {}", clock::utc(list.this_update));
    crate::outln::outln!(
        "  good until   {}",
        list.next_update.map_or_else(|| "not stated".to_owned(), clock::utc)
    );
    crate::outln::outln!("  revoked      {}", list.revoked.len());
    for (serial, when) in list.revoked {
        crate::outln::outln!("               {} on {}", crate::x509::hex(&serial), clock::utc(when));
    }
}

fn print_request(asked: &certs::Asked) {
    let wishes = asked.dns.iter().cloned().chain(asked.ips.iter().map(ToString::to_string));
    crate::outln::outln!("signing request");
    crate::outln::outln!("  key          {}", asked.key);
    crate::outln::outln!("  key sha256   {}", asked.fingerprint);
    crate::outln::outln!("  asks for     {}", some_of(&wishes.collect::<Vec<_>>()));
}

fn print_certificate(facts: &Certificate) -> Outcome {
    let usage: Vec<&str> = [(facts.client_auth, "clientAuth"), (facts.server_auth, "serverAuth")]
        .iter()
        .filter(|(there, _)| *there)
        .map(|(_, name)| *name)
        .collect();
    crate::outln::outln!("{}", if facts.is_ca { "CA certificate" } else { "certificate" });
    crate::outln::outln!("  subject      {}", crate::escape::shown(facts.subject.as_bytes()));
    crate::outln::outln!("  issuer       {}", crate::escape::shown(facts.issuer.as_bytes()));
    crate::outln::outln!("  names        {}", names_of(facts));
    crate::outln::outln!("  serial       {}", facts.serial_text());
    crate::outln::outln!("  valid from   {}", clock::utc(facts.not_before));
    crate::outln::outln!("  expires      {}", expiry(facts));
    crate::outln::outln!("  key          {}", facts.key);
    match (facts.is_ca, facts.path_length) {
        (true, Some(length)) => crate::outln::outln!("  may sign     sites, and CAs {length} deep"),
        (true, None) => crate::outln::outln!("  may sign     sites and CAs"),
        (false, _) => crate::outln::outln!("  good for     {}", usage.join(", ")),
    }
    crate::outln::outln!("  sha256       {}", facts.fingerprint);
    Ok(())
}
