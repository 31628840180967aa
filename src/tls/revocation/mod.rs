//! Revocation lists that other gateways hand over: which are believed, and which of several counts.
//!
//! A list is believed for its signature alone, whoever has sent it. So each one is checked against
//! the CAs of this gateway's config before it counts or is kept, and the checks that cost nothing
//! come first. Lists are compared only within one issuer's key and one scope, by their numbers: a
//! lower number never takes the place of a higher one. No I/O and no clock; the folder is in
//! [`state`].

pub mod state;

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::verify::vouched;
use crate::clock;
use crate::crypto::provider;
use crate::escape::shown;
use crate::x509::{self, Certificate, RevocationList};

/// Names the lists of one issuer and scope: a digest of the issuer's key, then one of the scope.
pub type Name = [u8; 32];

/// The number of a list, big-endian.
pub type Number = [u8; 20];

/// Largest list in bytes that is learnt.
pub const LARGEST: usize = 1 << 20;

/// Most lists that are learnt.
pub const MOST: usize = 64;

/// Where a list is from that an earlier state of the file `crl` had.
pub const EARLIER_FILE: &str = "an earlier `crl`";

/// How far in the future a list may have been made: clocks differ.
const SKEW: i64 = 600;

/// A list that another gateway has handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learnt {
    /// The list.
    pub der: Arc<[u8]>,
    /// The site that handed it over.
    pub from: String,
}

/// A list that may be handed over.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its issuer and scope.
    pub name: Name,
    /// Its number.
    pub number: Number,
    /// The list.
    pub der: Arc<[u8]>,
}

/// A list in use, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// The CA that has signed it.
    pub issuer: String,
    /// Its number, if it has one.
    pub number: Option<String>,
    /// The site that it was learnt from; none if it is in the file `crl`.
    pub from: Option<String>,
    /// When it was made, seconds since 1970.
    pub made: i64,
    /// When it becomes stale, seconds since 1970.
    pub until: Option<i64>,
    /// Number of certificates that it revokes.
    pub revoked: usize,
}

/// The lists that count, and what is needed to judge further ones.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    /// The lists in use.
    pub in_use: Vec<InUse>,
    /// The lists with a number, the highest of each name.
    pub offers: Vec<Offer>,
    /// Lists to remember, which the file may lose: those that were learnt, and those of the file. In use, or
    /// as new as what is in use.
    pub learnt: Vec<Learnt>,
    /// Lists to remember whose CA is not known now. They do not count.
    pub dormant: Vec<Learnt>,
    /// The CAs that may sign lists.
    pub signers: Vec<Certificate>,
    /// When each list in use becomes stale: the issuer's key and name, and seconds since 1970.
    pub ends: Vec<(Vec<u8>, String, i64)>,
}

impl Revocation {
    /// The highest known number of this name.
    pub fn number(&self, name: &Name) -> Option<Number> {
        self.offers.iter().filter(|offer| offer.name == *name).map(|offer| offer.number).max()
    }

    /// Whether a list in use revokes this certificate.
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        let lists = self.offers.iter().filter_map(|offer| RevocationList::read(&offer.der).ok());
        let mut of_issuer = lists.filter(|list| list.issuer_raw == certificate.issuer_raw);
        of_issuer.any(|list| list.revoked.iter().any(|(serial, _)| *serial == certificate.serial))
    }

    /// Every list to remember.
    pub fn remembered(&self) -> Vec<Learnt> {
        self.learnt.iter().chain(&self.dormant).take(MOST).cloned().collect()
    }

    /// The first halves of the names that lists of a known issuer have.
    pub fn issuers(&self) -> Vec<[u8; 16]> {
        self.signers.iter().map(|signer| digest(&signer.public_key)).collect()
    }

    /// The list of an issuer of this chain that is stale, in words. The chain is verified, and begins
    /// with the leaf.
    pub fn stale(&self, chain: &[CertificateDer<'_>], now: i64) -> Option<String> {
        let ended: Vec<_> = self.ends.iter().filter(|(.., until)| *until < now).collect();
        let [leaf, after @ ..] = chain else { return None };
        if ended.is_empty() {
            return None;
        }
        let algorithms = provider().signature_verification_algorithms;
        let between = vouched(self.signers.iter(), after, &algorithms);
        let certificates = std::iter::once(leaf).chain(between.iter().map(|(der, _)| der));
        for certificate in certificates {
            let Ok(facts) = Certificate::read(certificate) else { continue };
            let issuers = self.signers.iter().chain(between.iter().map(|(_, facts)| facts));
            for issuer in issuers.filter(|issuer| issuer.subject_raw == facts.issuer_raw) {
                let of_issuer = |(key, ..): &&&(Vec<u8>, String, i64)| *key == issuer.public_key;
                if let Some((_, name, until)) = ended.iter().find(of_issuer)
                    && x509::is_signed(certificate, &issuer.public_key, algorithms.all)
                {
                    return Some(format!(
                        "the revocation list of {} is stale since {}, and crl_expired is \"refuse\"",
                        shown(name.as_bytes()),
                        clock::utc(*until)
                    ));
                }
            }
        }
        None
    }

    /// Judges a list that a gateway has handed over.
    pub fn judge(&self, der: &[u8], now: i64) -> Result<Checked, Refused> {
        judge(der, &self.signers, |name| self.number(name), now)
    }
}

/// A list that has passed every check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its issuer and scope.
    pub name: Name,
    /// Its number.
    pub number: Number,
    /// Its contents.
    pub facts: RevocationList,
}

/// Why a list that was handed over is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is too large.
    #[error("it has {0} bytes, and at most {LARGEST} are accepted")]
    TooLarge(usize),
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It is a delta.
    #[error("it is a delta, and only complete lists are accepted")]
    Delta,
    /// It has no number.
    #[error("it has no number (CRL number), so nobody can tell which list is the later one")]
    NoNumber,
    /// No CA here has this name.
    #[error("no CA in `ca` has the name of its issuer, {0}")]
    UnknownIssuer(String),
    /// It is not later than the one that is known.
    #[error("its number {number} is not above the {known} that is known here")]
    NotNewer {
        /// Its number.
        number: String,
        /// The number of the list that is known.
        known: String,
    },
    /// It was made in the future.
    #[error("it was made in the future, on {0}: is a clock wrong?")]
    Future(String),
    /// Its issuer may not sign lists.
    #[error("the CA {0} may not sign lists: its key usage lacks cRLSign")]
    MayNotSign(String),
    /// The signature is not one of the CA that it names.
    #[error("the CA that it names, {0}, has not signed it")]
    Forged(String),
    /// Its form is not supported.
    #[error("it is of a form that cannot be used: {0}")]
    Form(String),
}

impl Refused {
    /// Whether it may count once other CAs are in `ca`.
    pub fn is_of_unknown_ca(&self) -> bool {
        matches!(self, Self::UnknownIssuer(_) | Self::Forged(_) | Self::MayNotSign(_))
    }
}

/// Judges a list. `known` is the highest number that is known of a name. Signatures are verified
/// last, and only for a list whose number is above that.
pub fn judge<'s>(
    der: &[u8],
    signers: impl IntoIterator<Item = &'s Certificate>,
    known: impl Fn(&Name) -> Option<Number>,
    now: i64,
) -> Result<Checked, Refused> {
    if der.len() > LARGEST {
        return Err(Refused::TooLarge(der.len()));
    }
    let facts = RevocationList::read(der).map_err(|error| Refused::Unreadable(error.to_string()))?;
    let issuer = || shown(facts.issuer.as_bytes());
    if facts.is_delta {
        return Err(Refused::Delta);
    }
    let number = facts.number.ok_or(Refused::NoNumber)?;
    if facts.this_update > now.saturating_add(SKEW) {
        return Err(Refused::Future(clock::utc(facts.this_update)));
    }
    let mut why = Refused::UnknownIssuer(issuer());
    for signer in signers.into_iter().filter(|signer| signer.subject_raw == facts.issuer_raw) {
        let name = name(&signer.public_key, facts.scope.as_deref());
        if let Some(known) = known(&name).filter(|known| *known >= number) {
            why = Refused::NotNewer { number: number_text(&number), known: number_text(&known) };
        } else if !signer.may_sign_lists {
            why = Refused::MayNotSign(issuer());
        } else if !RevocationList::is_of(der, signer) {
            why = Refused::Forged(issuer());
        } else {
            webpki::BorrowedCertRevocationList::from_der(der)
                .map_err(|error| Refused::Form(format!("{error:?}")))?;
            return Ok(Checked { name, number, facts });
        }
    }
    Err(why)
}

/// The list that counts of those of one name: the file's or the learnt one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The file's, and the learnt one is of no more use.
    File,
    /// The file's, which is as new; the learnt one is kept, since an older file may come.
    FileAsNew,
    /// The learnt one.
    Learnt,
}

/// Compares the file's list, by number and time, with a learnt one. A file's list without a number
/// is compared by the time at which it was made.
pub fn compare(file: (Option<Number>, i64), learnt: (Number, i64)) -> Counts {
    match file.0 {
        Some(number) if number > learnt.0 => Counts::File,
        Some(number) if number == learnt.0 => Counts::FileAsNew,
        Some(_) => Counts::Learnt,
        None if file.1 >= learnt.1 => Counts::FileAsNew,
        None => Counts::Learnt,
    }
}

/// The name of the lists that this key signs for this scope.
pub fn name(public_key: &[u8], scope: Option<&[u8]>) -> Name {
    let mut name = [0; 32];
    name[..16].copy_from_slice(&digest(public_key));
    if let Some(scope) = scope {
        name[16..].copy_from_slice(&digest(scope));
    }
    name
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let whole = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    whole.as_ref()[..16].try_into().expect("it has 32 bytes")
}

/// A number as people write it: decimal, or hex if it is too large for that.
pub fn number_text(number: &Number) -> String {
    let (high, low) = number.split_at(4);
    if high.iter().all(|byte| *byte == 0) {
        u128::from_be_bytes(low.try_into().expect("sixteen bytes")).to_string()
    } else {
        let digits: String = number.iter().map(|byte| format!("{byte:02X}")).collect();
        format!("0x{}", digits.trim_start_matches('0'))
    }
}

#[cfg(test)]
mod tests;
