//! Loads and checks the CAs and the revocation lists of the config.
//!
//! Each list is bound to the key that has signed it. Every list and CA that cannot be used is
//! reported as a fault; none is skipped silently.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::expiry::{Kind, Term};
use super::findings::Findings;
use super::pem;
use super::verify::{Anchor, List, Trust, vouched};
use crate::clock;
use crate::config::TlsFiles;
use crate::crypto::provider;
use crate::x509::{self, Certificate, RevocationList};

/// Loads the CAs of `ca` and the lists of `crl`. A list must be signed by one of the CAs or by an
/// intermediate in `cert`; `chain` holds the certificates of `cert`, if they can be read.
pub(super) fn load(
    paths: &TlsFiles,
    chain: Option<&[CertificateDer<'static>]>,
    found: &mut Findings,
) -> Option<Arc<Trust>> {
    let cas = found.keep_pem(pem::certificates(&paths.ca))?;
    let lists = match &paths.crl {
        Some(path) => found.keep_pem(pem::revocation_lists(path))?,
        None => Vec::new(),
    };
    let mut anchors = Vec::new();
    for ca in &cas {
        let anchor = load_anchor(ca).map_err(|error| format!("{}: {error}", paths.ca.display()));
        let Some(anchor) = found.keep(anchor) else { continue };
        let (facts, now) = (&anchor.facts, clock::now());
        if now > facts.not_after || now < facts.not_before {
            found.warnings.push(format!(
                "{}: the CA {} is not valid now ({}): it is good from {} until {}",
                paths.ca.display(),
                facts.subject,
                clock::utc(now),
                clock::utc(facts.not_before),
                clock::utc(facts.not_after)
            ));
        }
        found.term(term(facts));
        found.good.push(format!("CA {} until {}", facts.subject, clock::utc(facts.not_after)));
        anchors.push((ca, anchor));
    }
    // An intermediate of our own chain may sign lists, as a CA may. No other certificate may:
    // without a signature from a CA of the config it proves nothing.
    let algorithms = provider().signature_verification_algorithms;
    let facts = anchors.iter().map(|(_, anchor)| &anchor.facts);
    let after = chain.and_then(|chain| chain.get(1..)).unwrap_or_default();
    let intermediates = vouched(facts.clone(), after, &algorithms);
    let intermediates = intermediates.iter().map(|(_, facts)| facts).filter(|facts| facts.is_ca);
    intermediates.clone().for_each(|facts| found.term(term(facts)));
    let mut signers: Vec<&Certificate> = Vec::new();
    for signer in facts.chain(intermediates) {
        let same = |other: &&Certificate| {
            (&other.subject_raw, &other.public_key) == (&signer.subject_raw, &signer.public_key)
        };
        if !signers.iter().any(same) {
            signers.push(signer);
        }
    }
    let (lists, of_nobody) = load_lists(paths, &signers, &lists, found);
    // If `cert` cannot be read, the signer of a list may be missing for that reason. Then the list
    // is no fault.
    found.faults.extend(of_nobody.into_iter().filter(|_| chain.is_some()));
    let revoked = revoked(&anchors, &signers, &lists);
    for ((_, Anchor { facts, .. }), by) in anchors.iter().zip(&revoked) {
        if let Some(by) = by {
            found.warnings.push(format!(
                "{}: the CA {} has been revoked by {by}: what it has signed is refused; take it out",
                paths.ca.display(),
                named(facts)
            ));
        }
    }
    let anchors =
        anchors.into_iter().zip(revoked).map(|((_, anchor), by)| Anchor { revoked: by.is_some(), ..anchor });
    Some(Arc::new(Trust::new(anchors.collect(), lists)))
}

/// For each CA the other CA that has signed it, if that has revoked it or is itself revoked.
fn revoked(
    anchors: &[(&CertificateDer<'static>, Anchor)],
    signers: &[&Certificate],
    lists: &[List],
) -> Vec<Option<String>> {
    let algorithms = provider().signature_verification_algorithms;
    let mut revoked = vec![None; anchors.len()];
    let is_gone = |key: &[u8], revoked: &[Option<String>]| {
        anchors.iter().zip(revoked).any(|((_, ca), by)| by.is_some() && ca.facts.public_key == key)
    };
    let revoker = |at: usize, revoked: &[Option<String>]| {
        let (der, Anchor { facts, .. }) = &anchors[at];
        signers.iter().find(|by| {
            let listed =
                || lists.iter().any(|list| list.key == by.public_key && list.lists_serial(&facts.serial));
            by.subject_raw == facts.issuer_raw
                && by.public_key != facts.public_key
                && (is_gone(&by.public_key, revoked) || listed())
                && x509::is_signed(der, &by.public_key, algorithms.all)
        })
    };
    // A revoked CA may have signed others.
    while let Some((at, by)) = (0..anchors.len())
        .filter(|at| revoked[*at].is_none())
        .find_map(|at| Some((at, revoker(at, &revoked)?)))
    {
        revoked[at] = Some(by.subject.clone());
    }
    revoked
}

fn load_anchor(ca: &CertificateDer<'static>) -> Result<Anchor, String> {
    let facts = Certificate::read(ca).map_err(|error| error.to_string())?;
    if !facts.is_ca {
        return Err(format!(
            "{} is not a CA certificate; put the CA that signs gateways here",
            facts.subject
        ));
    }
    if !facts.may_sign_certificates {
        return Err(format!(
            "the CA {} may not sign certificates: its key usage lacks keyCertSign; put the CA that signs gateways here",
            facts.subject
        ));
    }
    let trust = webpki::anchor_from_trusted_cert(ca)
        .map_err(|error| {
            format!(
                "the CA {} cannot be used ({error:?}): issue a new one, as a version 3 CA certificate",
                facts.subject
            )
        })?
        .to_owned();
    Ok(Anchor { trust, facts, revoked: false })
}

/// The newest list of each signer; if a signer has lists of several scopes, for example one of CAs
/// and one of the rest, the newest of each scope. Also returns a fault for each list without a
/// known signer.
fn load_lists(
    paths: &TlsFiles,
    signers: &[&Certificate],
    lists: &[CertificateRevocationListDer<'static>],
    found: &mut Findings,
) -> (Vec<List>, Vec<String>) {
    let crl = paths.crl.as_deref().unwrap_or(&paths.ca).display();
    let now = clock::now();
    let mut loaded = Vec::new();
    let mut used = vec![false; lists.len()];
    for signer in signers {
        let mut newest: Vec<(RevocationList, &CertificateRevocationListDer<'_>)> = Vec::new();
        for (list, used) in lists.iter().zip(&mut used) {
            let Some(facts) = RevocationList::read(list).ok().filter(|_| RevocationList::is_of(list, signer))
            else {
                continue;
            };
            *used = true;
            newest.retain(|(other, _)| other.scope != facts.scope || other.this_update >= facts.this_update);
            let newer = |(other, _): &(RevocationList, _)| {
                other.scope == facts.scope && other.this_update > facts.this_update
            };
            // Two lists that were made in the same second both count.
            if !newest.iter().any(newer) {
                newest.push((facts, list));
            }
        }
        if newest.is_empty() {
            found.warnings.push(format!(
                "no revocation list for the CA {}: a certificate of it that was revoked would be accepted",
                named(signer)
            ));
        }
        for (facts, der) in newest {
            match webpki::OwnedCertRevocationList::from_der(der) {
                Ok(list) => loaded.push(List {
                    key: signer.public_key.clone(),
                    list: list.into(),
                    fingerprint: x509::fingerprint(der),
                }),
                Err(error) => found.faults.push(format!(
                    "{crl}: the revocation list of {} is of a form that cannot be used ({error:?}): it must be a full version 2 list, with a CRL number (openssl ca: crl_extensions)",
                    signer.subject
                )),
            }
            if let Some(until) = facts.next_update {
                found.term(Term {
                    kind: Kind::List,
                    name: signer.subject.clone(),
                    from: facts.this_update,
                    until,
                });
            }
            match facts.next_update.filter(|next| *next < now) {
                Some(next) => found.warnings.push(format!(
                    "the revocation list of {} is stale since {}: it still counts, but later revocations are missing; fetch a new one",
                    named(signer),
                    clock::utc(next)
                )),
                None => found.good.push(format!(
                    "revocation list of {}: {} revoked, made {}",
                    signer.subject,
                    facts.revoked.len(),
                    clock::utc(facts.this_update)
                )),
            }
        }
    }
    let of_nobody = |(list, _): (&CertificateRevocationListDer<'_>, bool)| {
        let issuer = RevocationList::read(list).map_or_else(|error| error.to_string(), |list| list.issuer);
        format!(
            "{crl}: a revocation list that no CA in {} has signed: {issuer}; take it out, or where an intermediate has signed it, put that one after the certificate in {}",
            paths.ca.display(),
            paths.cert.display()
        )
    };
    let unused = lists.iter().zip(used).filter(|(_, used)| !used).map(of_nobody).collect();
    (loaded, unused)
}

/// The validity of a CA.
fn term(ca: &Certificate) -> Term {
    Term { kind: Kind::Ca, name: ca.subject.clone(), from: ca.not_before, until: ca.not_after }
}

/// A CA's name and fingerprint, since two CAs may have the same name.
fn named(ca: &Certificate) -> String {
    format!("{} (SHA-256 {})", ca.subject, ca.fingerprint)
}
