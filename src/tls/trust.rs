//! Loads and checks the CAs and the revocation lists of the config.
//!
//! Each list is bound to the key that has signed it. Every list and CA that cannot be used is
//! reported as a fault; none is skipped silently. Lists that were learnt from other gateways are
//! judged beside those of the file; one that cannot be used is only a warning.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::expiry::{Kind, Term};
use super::findings::Findings;
use super::pem;
use super::revocation::{self, Counts, InUse, Learnt, Offer, Revocation};
use super::verify::{Anchor, List, Trust, vouched};
use crate::clock;
use crate::config::TlsFiles;
use crate::crypto::provider;
use crate::x509::{self, Certificate, RevocationList};

/// What `ca` and `crl` hold.
#[derive(Debug)]
pub(super) struct Files {
    cas: Vec<CertificateDer<'static>>,
    lists: Vec<CertificateRevocationListDer<'static>>,
}

/// The CAs and lists that count.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) trust: Arc<Trust>,
    pub(super) revocation: Revocation,
}

/// Reads the CAs of `ca` and the lists of `crl`.
pub(super) fn read(paths: &TlsFiles, found: &mut Findings) -> Option<Files> {
    let cas = found.keep_pem(pem::certificates(&paths.ca))?;
    let lists = match &paths.crl {
        Some(path) => found.keep_pem(pem::revocation_lists(path))?,
        None => Vec::new(),
    };
    Some(Files { cas, lists })
}

/// Judges CAs and lists. A list must be signed by one of the CAs or by an intermediate in `cert`;
/// `chain` holds the certificates of `cert`, if they can be read.
pub(super) fn judge(
    paths: &TlsFiles,
    files: &Files,
    learnt: &[Learnt],
    chain: Option<&[CertificateDer<'static>]>,
    found: &mut Findings,
) -> Judged {
    let mut anchors = Vec::new();
    for ca in &files.cas {
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
    let (lists, revocation, of_nobody) = choose_lists(paths, &signers, &files.lists, learnt, found);
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
    Judged { trust: Arc::new(Trust::new(anchors.collect(), lists)), revocation }
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

/// A list of a signer, while the one that counts is chosen.
struct Candidate {
    facts: RevocationList,
    der: Vec<u8>,
    /// The site that it was learnt from; none if it is in the file.
    from: Option<String>,
}

/// The newest lists of one signer in the file; if it has lists of several scopes, for example one of
/// CAs and one of the rest, the newest of each scope. `used` notes which lists are the signer's.
fn newest_in_file(
    signer: &Certificate,
    lists: &[CertificateRevocationListDer<'static>],
    used: &mut [bool],
) -> Vec<Candidate> {
    let mut newest: Vec<Candidate> = Vec::new();
    for (list, used) in lists.iter().zip(used) {
        let Some(facts) = RevocationList::read(list).ok().filter(|_| RevocationList::is_of(list, signer))
        else {
            continue;
        };
        *used = true;
        newest.retain(|Candidate { facts: other, .. }| {
            other.scope != facts.scope || other.this_update >= facts.this_update
        });
        let newer = |Candidate { facts: other, .. }: &Candidate| {
            other.scope == facts.scope && other.this_update > facts.this_update
        };
        // Two lists that were made in the same second both count.
        if !newest.iter().any(newer) {
            newest.push(Candidate { facts, der: list.to_vec(), from: None });
        }
    }
    newest
}

/// Puts a learnt list of this signer in the place of the file's lists of its scope, if it is later.
/// Returns whether it must be remembered.
fn weigh_learnt(
    newest: &mut Vec<Candidate>,
    learnt: &Learnt,
    list: revocation::Checked,
    crl: &dyn std::fmt::Display,
    found: &mut Findings,
) -> bool {
    let of_scope = |other: &Candidate| other.facts.scope == list.facts.scope;
    let beside = newest.iter().filter(|other| of_scope(other));
    let made = beside.clone().map(|other| other.facts.this_update).max();
    let number = beside.map(|other| other.facts.number).max().flatten();
    let counts = match made {
        Some(made) => revocation::compare((number, made), (list.number, list.facts.this_update)),
        None => Counts::Learnt,
    };
    if counts == Counts::Learnt {
        let of_file = newest.iter().any(|other| of_scope(other) && other.from.is_none());
        if of_file {
            let has = number
                .map_or("has none".to_owned(), |number| format!("is {}", revocation::number_text(&number)));
            found.warnings.push(format!(
                "{crl}: a later revocation list of {} was learnt from {}, and counts: its number is {}, and that of the file {has}; copy the later one here when convenient",
                list.facts.issuer,
                learnt.from,
                revocation::number_text(&list.number),
            ));
        }
        newest.retain(|other| !of_scope(other));
        let (der, from) = (learnt.der.to_vec(), Some(learnt.from.clone()));
        newest.push(Candidate { facts: list.facts, der, from });
    }
    counts != Counts::File
}

/// The lists that count: of each signer and scope the newest of the file, or a later one that was
/// learnt. Also returns a fault for each list of the file without a known signer.
fn choose_lists(
    paths: &TlsFiles,
    signers: &[&Certificate],
    lists: &[CertificateRevocationListDer<'static>],
    learnt: &[Learnt],
    found: &mut Findings,
) -> (Vec<List>, Revocation, Vec<String>) {
    let crl = paths.crl.as_deref().unwrap_or(&paths.ca).display();
    let now = clock::now();
    let mut loaded = Vec::new();
    let mut used = vec![false; lists.len()];
    let mut revocation = Revocation {
        signers: signers.iter().map(|signer| (*signer).clone()).collect(),
        ..Revocation::default()
    };
    // A list of a lower number never gets in the way of a higher one.
    let mut judged: Vec<_> = learnt
        .iter()
        // They were judged when they came. A clock that is behind now is no reason to forget one.
        .map(|learnt| (learnt, revocation::judge(&learnt.der, signers.iter().copied(), |_| None, i64::MAX)))
        .collect();
    judged.sort_by_key(|(_, list)| std::cmp::Reverse(list.as_ref().ok().map(|list| list.number)));
    let mut seen: Vec<revocation::Name> = Vec::new();
    judged.retain(|(_, list)| match list {
        Ok(list) if seen.contains(&list.name) => false,
        Ok(list) => {
            seen.push(list.name);
            true
        }
        Err(_) => true,
    });
    for (learnt, why) in judged.iter().filter_map(|(learnt, list)| Some((learnt, list.as_ref().err()?))) {
        if why.is_of_unknown_ca() {
            // The CA may be missing for a moment only.
            revocation.dormant.push((*learnt).clone());
        } else {
            found.warnings.push(format!(
                "a revocation list that was learnt from {} does not count: {why}",
                learnt.from
            ));
        }
    }
    let mut remembered = Vec::new();
    for signer in signers {
        let mut newest = newest_in_file(signer, lists, &mut used);
        for (learnt, list) in judged.iter().filter_map(|(learnt, list)| Some((learnt, list.as_ref().ok()?))) {
            if list.name == revocation::name(&signer.public_key, list.facts.scope.as_deref())
                && weigh_learnt(&mut newest, learnt, list.clone(), &crl, found)
            {
                revocation.learnt.push((*learnt).clone());
                remembered.push(list.name);
                let der = Arc::clone(&learnt.der);
                revocation.offers.push(Offer { name: list.name, number: list.number, der });
            }
        }
        if newest.is_empty() {
            found.warnings.push(format!(
                "no revocation list for the CA {}: a certificate of it that was revoked would be accepted",
                named(signer)
            ));
        }
        for Candidate { facts, der, from } in newest {
            match webpki::OwnedCertRevocationList::from_der(&der) {
                Ok(list) => loaded.push(List {
                    key: signer.public_key.clone(),
                    list: list.into(),
                    fingerprint: x509::fingerprint(&der),
                }),
                Err(error) => found.faults.push(format!(
                    "{crl}: the revocation list of {} is of a form that cannot be used ({error:?}): it must be a full version 2 list, with a CRL number (openssl ca: crl_extensions)",
                    signer.subject
                )),
            }
            if let Some(until) = facts.next_update {
                revocation.ends.push((signer.public_key.clone(), signer.subject.clone(), until));
                found.term(Term {
                    kind: Kind::List,
                    name: signer.subject.clone(),
                    from: facts.this_update,
                    until,
                });
            }
            let number = facts.number.as_ref().map(revocation::number_text);
            match facts.next_update.filter(|next| *next < now) {
                Some(next) => found.warnings.push(format!(
                    "the revocation list of {} is stale since {}: it still counts, but later revocations are missing; fetch a new one",
                    named(signer),
                    clock::utc(next)
                )),
                None => found.good.push(format!(
                    "revocation list of {}: {} revoked, made {}{}, {}",
                    signer.subject,
                    facts.revoked.len(),
                    clock::utc(facts.this_update),
                    number.as_ref().map_or(String::new(), |number| format!(", number {number}")),
                    from.as_ref().map_or_else(|| format!("in {crl}"), |from| format!("learnt from {from}"))
                )),
            }
            let name = revocation::name(&signer.public_key, facts.scope.as_deref());
            if let (Some(number), None) = (facts.number, &from)
                && der.len() <= revocation::LARGEST
                && !revocation.offers.iter().any(|offer| offer.name == name && offer.number >= number)
            {
                let der: Arc<[u8]> = Arc::from(der);
                revocation.offers.retain(|offer| offer.name != name);
                revocation.offers.push(Offer { name, number, der: Arc::clone(&der) });
                if !remembered.contains(&name) {
                    // An earlier file may take the place of this one, and must not bring anybody back.
                    revocation.learnt.push(Learnt { der, from: revocation::EARLIER_FILE.to_owned() });
                }
            }
            revocation.in_use.push(InUse {
                issuer: signer.subject.clone(),
                number,
                from,
                made: facts.this_update,
                until: facts.next_update,
                revoked: facts.revoked.len(),
            });
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
    (loaded, revocation, unused)
}

/// The validity of a CA.
fn term(ca: &Certificate) -> Term {
    Term { kind: Kind::Ca, name: ca.subject.clone(), from: ca.not_before, until: ca.not_after }
}

/// A CA's name and fingerprint, since two CAs may have the same name.
fn named(ca: &Certificate) -> String {
    format!("{} (SHA-256 {})", ca.subject, ca.fingerprint)
}
