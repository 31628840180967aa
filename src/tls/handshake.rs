//! What both sides showed when a connection was opened, and whether that still counts.
//!
//! A connection lives for months; files of trust and the time change meanwhile. Connections that were
//! opened with the same certificates share one [`Handshake`], which is judged once for all of them. A
//! certificate that is past its end counts until the time is [`super::settled`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{Error, OtherError};

use super::diagnostics::{self, Class};
use super::loaded::Loaded;
use super::settled::Settled;
use super::verify::{Dates, Role};
use crate::clock;
use crate::crypto::provider;
use crate::current::Current;
use crate::x509::{self, Certificate};

/// Whether a connection may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Good,
    /// It may, and another one with the certificates in use had better take its place.
    Replace,
    /// It may not, for this reason.
    Refused(Arc<str>),
}

/// A far certificate that was refused although the handshake was completed.
#[derive(Debug)]
pub struct Late {
    /// The kind of failure.
    pub class: Class,
    /// What is wrong, in the operator's words.
    pub words: String,
}

/// The certificates of a handshake.
pub struct Handshake {
    /// The far side's role.
    role: Role,
    leaf: Certificate,
    /// The certificates that the far side showed after its own.
    chain: Vec<CertificateDer<'static>>,
    own: CertificateDer<'static>,
    /// The earliest end of all these, in seconds since 1970.
    until: i64,
    ours: Ours,
    verdict: Mutex<Verdict>,
}

/// This gateway's certificate in a handshake.
#[derive(Debug, Default)]
struct Ours {
    /// SHA-256 of it and of each of its intermediates.
    shown: String,
    /// Its end, in seconds since 1970.
    until: i64,
}

impl Handshake {
    /// A handshake in which the far side, in this role, has shown these certificates, its own first.
    pub fn new(role: Role, shown: &[CertificateDer<'static>]) -> Result<Self, Error> {
        let Some((own, chain)) = shown.split_first() else { return Err(Error::NoCertificatesPresented) };
        let leaf = Certificate::read(own).map_err(|error| Error::Other(OtherError(Arc::new(error))))?;
        let (own, chain) = (own.clone(), chain.to_vec());
        Ok(Self::of(role, leaf, own, chain, Ours::default()))
    }

    fn of(
        role: Role,
        leaf: Certificate,
        own: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        ours: Ours,
    ) -> Self {
        let ends = chain.iter().filter_map(|der| Some(Certificate::read(der).ok()?.not_after));
        let until = ends.chain([leaf.not_after]).min().unwrap_or(leaf.not_after);
        Self { role, leaf, chain, own, until, ours, verdict: Mutex::new(Verdict::Good) }
    }

    /// The same, made with these files. What the far side has shown beside the chain to a CA is left out:
    /// it could be another thing on each connection, and costs time at each judgement.
    fn with(&self, used: &Loaded) -> Self {
        let ours = Ours { shown: used.material.shown.clone(), until: used.material.leaf.not_after };
        let chain = used.material.trust.vouched(&self.chain, &provider().signature_verification_algorithms);
        Self::of(self.role, self.leaf.clone(), self.own.clone(), chain, ours)
    }

    /// The certificates that the far side showed, its own first.
    pub fn shown(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.own).chain(&self.chain).cloned().collect()
    }

    /// The far gateway's verified certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// Whether the connection may go on.
    pub fn verdict(&self) -> Verdict {
        self.verdict.lock().expect("no code panics while it holds a verdict").clone()
    }

    /// Whether a certificate of either side is past its end at this time.
    pub fn is_past(&self, now: i64) -> bool {
        now > self.until || now > self.ours.until
    }

    /// Sets the verdict. Returns whether it is another one than before.
    fn judge(&self, by: &Loaded, now: i64, settled: Option<i64>) -> bool {
        let verdict =
            self.judged(by, now, settled).unwrap_or_else(|late| Verdict::Refused(late.words.into()));
        let mut before = self.verdict.lock().expect("no code panics while it holds a verdict");
        std::mem::replace(&mut *before, verdict.clone()) != verdict
    }

    fn judged(&self, by: &Loaded, now: i64, settled: Option<i64>) -> Result<Verdict, Late> {
        let is_ending = self.judge_far(by, now, settled)?;
        let until = self.ours.until;
        if settled.is_some_and(|settled| settled > until) {
            let at = clock::utc(until);
            let whose = x509::some_of(&by.material.leaf.dns);
            let words = format!("the certificate of {whose} with which it was opened expired at {at}");
            return Err(Late { class: Class::Dates, words });
        }
        let is_replaced = self.ours.shown != by.material.shown;
        Ok(if is_ending || is_replaced || now > until { Verdict::Replace } else { Verdict::Good })
    }

    /// Judges the far side's certificates; true if one is past its end, and may have been for a moment
    /// only. Others that are not valid yet were valid once: a clock was set back.
    fn judge_far(&self, by: &Loaded, now: i64, settled: Option<i64>) -> Result<bool, Late> {
        let algorithms = provider().signature_verification_algorithms;
        let at = |time: i64| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time).unwrap_or(0)));
            by.material.trust.judge(&algorithms, &self.own, &self.chain, self.role, time).err()
        };
        let late = |error: &Error| Late {
            class: Class::of(error),
            words: diagnostics::not_any_more(error, &self.leaf),
        };
        let Some(error) = at(now) else { return Ok(false) };
        let Some(dates) = Dates::of(&error) else { return Err(late(&error)) };
        // What else is wrong with it does not show at a time at which it is not valid.
        let valid = now.clamp(self.leaf.not_before, self.leaf.not_after);
        if let Some(other) = at(valid).filter(|other| Dates::of(other).is_none()) {
            return Err(late(&other));
        }
        let is_past = |error: &Error| Dates::of(error) == Some(Dates::Past);
        if settled.and_then(at).as_ref().is_some_and(is_past) && dates == Dates::Past {
            return Err(late(&error));
        }
        Ok(dates == Dates::Past)
    }

    /// What tells it from others.
    fn key(&self) -> String {
        let role = match self.role {
            Role::Client => "client",
            Role::Server => "server",
        };
        let shown = self.chain.iter().map(|after| x509::fingerprint(after));
        let parts = [role.to_owned(), self.ours.shown.clone(), self.leaf.fingerprint.clone()];
        parts.into_iter().chain(shown).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("leaf", &self.leaf.subject).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Weak<Handshake>>,
    settled: Settled,
}

/// The handshakes of all connections that are open.
#[derive(Debug, Default)]
pub struct Handshakes {
    state: Mutex<State>,
}

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the handshakes")
    }

    /// Adds a handshake that was made with the files `used`, and judges it if others are in use by now.
    /// Returns what connections with the same certificates share.
    pub fn enter(
        &self,
        handshake: &Handshake,
        used: &Arc<Loaded>,
        current: &Current<Loaded>,
    ) -> Result<Arc<Handshake>, Late> {
        let handshake = handshake.with(used);
        let mut state = self.lock();
        let key = handshake.key();
        if let Some(known) = state.known.get(&key).and_then(Weak::upgrade)
            && !matches!(known.verdict(), Verdict::Refused(_))
        {
            return Ok(known);
        }
        let current = current.now();
        if !Arc::ptr_eq(&current, used) {
            let verdict = handshake.judged(&current, clock::now(), state.settled.time())?;
            *handshake.verdict.lock().expect("no code panics while it holds a verdict") = verdict;
        }
        let handshake = Arc::new(handshake);
        state.known.insert(key, Arc::downgrade(&handshake));
        Ok(handshake)
    }

    /// Whether a connection is left that was opened with another certificate of this gateway.
    pub fn is_renewing(&self, by: &Loaded) -> bool {
        let state = self.lock();
        let mut open = state.known.values().filter_map(Weak::upgrade);
        open.any(|handshake| handshake.ours.shown != by.material.shown)
    }

    /// Other files are in use: judges every handshake.
    pub fn judge(&self, by: &Loaded) {
        let mut state = self.lock();
        let (now, settled) = (clock::now(), state.settled.time());
        state.each(|handshake| handshake.judge(by, now, settled));
    }

    /// The wall clock shows `now` at the time `at`. Judges again what may be past its end. Returns whether
    /// a verdict has changed.
    pub fn look(&self, by: &Loaded, at: Instant, now: i64) -> bool {
        let mut state = self.lock();
        state.settled.look(at, now);
        let (settled, past_ca) = (state.settled.time(), by.material.trust.has_past_ca(now));
        state.each(|handshake| {
            let waits = handshake.ours.shown != by.material.shown;
            let is_due =
                past_ca || handshake.is_past(now) || (!waits && handshake.verdict() != Verdict::Good);
            is_due && handshake.judge(by, now, settled)
        })
    }
}

impl State {
    /// Passes every handshake of an open connection to `judge`. Returns whether one of the results is
    /// true.
    fn each(&mut self, judge: impl Fn(&Handshake) -> bool) -> bool {
        let mut changed = false;
        self.known.retain(|_, known| {
            known.upgrade().is_some_and(|known| {
                changed |= judge(&known);
                true
            })
        });
        changed
    }
}

#[cfg(test)]
mod tests;
