//! Records until when this gateway's certificate, its CAs and its revocation lists are valid, and
//! decides when a running gateway logs a reminder.
//!
//! There is one reminder a day once less than a third of the lifetime is left, one an hour on the
//! last day, and one an hour as an error after the end. No I/O and no clock: the time is passed in,
//! as seconds since 1970.

use serde::{Deserialize, Serialize};

use crate::clock;

/// A day in seconds.
const DAY: i64 = 86_400;

/// Seconds before the end from which it is time to act.
pub const SOON: i64 = 14 * DAY;

/// Seconds before the end from which it is late; for a lifetime of less than a month its last tenth.
pub const LATE: i64 = 3 * DAY;

/// An hour in seconds.
const HOUR: i64 = 3_600;

/// Something that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// This gateway's own certificate.
    Certificate,
    /// A CA of `ca`, or an intermediate in `cert`.
    Ca,
    /// A revocation list: its issuer has promised a newer one by its end.
    List,
}

/// The state of something that expires, at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At least a third of its lifetime is left.
    Good,
    /// Less than a third of its lifetime is left.
    Ending,
    /// Less than a third is left, and at most a day.
    LastDay,
    /// It has expired.
    Past,
}

/// How soon something that expires has to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// There is time, or it is not due yet: at least a third of its lifetime is left.
    None,
    /// Within [`SOON`].
    Soon,
    /// Within [`LATE`], or too late. A revocation list still counts after its end, so it is late then alone.
    Now,
}

impl Standing {
    /// Seconds between two reminders.
    fn every(self) -> i64 {
        if self == Self::Ending { DAY } else { HOUR }
    }
}

/// The validity of one certificate or list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// What it is the validity of.
    pub kind: Kind,
    /// The file of a certificate; the name of a CA, also for its list.
    pub name: String,
    /// Start, in seconds since 1970.
    pub from: i64,
    /// End, in seconds since 1970.
    pub until: i64,
}

impl Term {
    /// The state at the time `now`.
    pub fn standing(&self, now: i64) -> Standing {
        let left = self.until.saturating_sub(now);
        match left {
            ..0 => Standing::Past,
            _ if left >= self.until.saturating_sub(self.from) / 3 => Standing::Good,
            0..=DAY => Standing::LastDay,
            _ => Standing::Ending,
        }
    }

    /// Whether it ends within [`LATE`].
    pub fn is_late(&self, now: i64) -> bool {
        let late = LATE.min(self.until.saturating_sub(self.from) / 10);
        self.until.saturating_sub(now) < late
    }

    /// How soon it has to be replaced, as `status`, the page, the alert rules and `check` judge it.
    pub fn urgency(&self, now: i64) -> Urgency {
        let left = self.until.saturating_sub(now);
        match self.standing(now) {
            Standing::Past => Urgency::Now,
            Standing::Good => Urgency::None,
            Standing::Ending | Standing::LastDay if self.is_late(now) && self.kind != Kind::List => {
                Urgency::Now
            }
            Standing::Ending | Standing::LastDay if left < SOON => Urgency::Soon,
            Standing::Ending | Standing::LastDay => Urgency::None,
        }
    }

    /// A sentence for the operator, with the next step.
    pub fn words(&self, now: i64) -> String {
        format!("{}; {}", self.fact(now), self.next_step(now))
    }

    /// What is known of its end.
    pub fn fact(&self, now: i64) -> String {
        let Self { kind, name, until, .. } = self;
        let (at, span) = (clock::utc(*until), clock::span(until.saturating_sub(now)));
        match (kind, self.standing(now) == Standing::Past) {
            (Kind::Certificate, false) => format!("{name}: the certificate expires in {span}, on {at}"),
            (Kind::Certificate, true) => {
                format!("{name}: the certificate EXPIRED {span} ago, on {at}: no far gateway takes it")
            }
            (Kind::Ca, false) => format!("the CA {name} expires in {span}, on {at}"),
            (Kind::Ca, true) => {
                format!("the CA {name} EXPIRED {span} ago, on {at}: what it has signed is refused")
            }
            (Kind::List, false) => format!("the revocation list of {name} becomes stale in {span}, on {at}"),
            (Kind::List, true) => format!(
                "the revocation list of {name} is STALE, for {span}, since {at}: it still counts, but later revocations are missing"
            ),
        }
    }

    /// What to do about it.
    pub fn next_step(&self, now: i64) -> &'static str {
        match (self.kind, self.standing(now) == Standing::Past) {
            (Kind::Certificate, _) => "renew it: replgate certs renew, then copy it here and reload",
            (Kind::Ca, false) => "put the CA that follows it beside it in `ca` at every site",
            (Kind::Ca, true) => "put the CA that follows it in its place in `ca`",
            (Kind::List, _) => "fetch a new one and reload",
        }
    }
}

/// Remembers the last reminder for each [`Term`].
#[derive(Debug, Default)]
pub struct Reminders {
    told: Vec<(Term, Standing, i64)>,
}

impl Reminders {
    /// Starts with the files' own warnings as the last reminders; what has expired is due at once.
    pub fn new(terms: &[Term], now: i64) -> Self {
        let told = terms.iter().map(|term| (term.clone(), term.standing(now), now));
        Self { told: told.filter(|(_, standing, _)| *standing != Standing::Past).collect() }
    }

    /// The reminders that are due: whether the term has ended, and the words.
    pub fn due(&mut self, terms: &[Term], now: i64) -> Vec<(bool, String)> {
        let mut due = Vec::new();
        for term in terms {
            let standing = term.standing(now);
            let before = self.told.iter_mut().find(|(other, ..)| other == term);
            let is_due = match &before {
                // If the clock was set back, the reminder is due.
                Some((_, was, at)) => {
                    *was != standing || !(*at..at.saturating_add(standing.every())).contains(&now)
                }
                None => true,
            };
            if !is_due {
                continue;
            }
            match before {
                Some(before) => (before.1, before.2) = (standing, now),
                None => self.told.push((term.clone(), standing, now)),
            }
            if standing != Standing::Good {
                due.push((standing == Standing::Past, term.words(now)));
            }
        }
        due
    }

    /// Seconds until a reminder may be due; a minute at most, since the clock may be set.
    pub fn pause(terms: &[Term], now: i64) -> u64 {
        let ends = terms.iter().map(|term| term.until.saturating_sub(now).saturating_add(1));
        let next = ends.filter(|left| *left > 0).min().unwrap_or(60);
        u64::try_from(next.clamp(1, 60)).unwrap_or(60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(days: i64) -> Term {
        Term { kind: Kind::Certificate, name: "tls.crt".to_owned(), from: 0, until: days * DAY }
    }

    /// The times of reminders, if asked every minute from `from` to `to`.
    fn told(term: &Term, from: i64, to: i64) -> Vec<(i64, bool)> {
        let terms = [term.clone()];
        let mut reminders = Reminders::new(&terms, from);
        let minutes = (from..to).step_by(60);
        minutes
            .flat_map(|now| reminders.due(&terms, now).into_iter().map(move |(past, _)| (now, past)))
            .collect()
    }

    #[test]
    fn reminders_are_daily_in_the_last_third_hourly_on_the_last_day_and_errors_after_expiry() {
        let term = term(90);
        assert!(told(&term, 0, 60 * DAY).is_empty());
        let daily = told(&term, 59 * DAY, 89 * DAY);
        assert_eq!(daily.len(), 29, "{daily:?}");
        assert!(daily.iter().all(|(_, past)| !past));
        let hourly = told(&term, 89 * DAY - HOUR, 90 * DAY);
        assert_eq!(hourly.len(), 24, "{hourly:?}");
        let past = told(&term, 90 * DAY - HOUR / 2, 90 * DAY + 3 * HOUR);
        assert_eq!(past.iter().map(|(_, past)| *past).collect::<Vec<_>>(), [true; 3], "{past:?}");
    }

    #[test]
    fn an_expired_certificate_is_reported_at_the_start_and_a_replaced_one_no_more() {
        let old = term(1);
        let mut reminders = Reminders::new(std::slice::from_ref(&old), 2 * DAY);
        let due = reminders.due(std::slice::from_ref(&old), 2 * DAY);
        assert!(due[0].0 && due[0].1.contains("EXPIRED 24 hours ago"), "{due:?}");
        assert!(reminders.due(&[old], 2 * DAY + 1).is_empty());
        assert!(reminders.due(&[term(900)], 2 * DAY + 2).is_empty());
    }

    #[test]
    fn the_next_check_is_right_after_the_expiry() {
        assert_eq!(Reminders::pause(&[term(1)], DAY - 5), 6);
        assert_eq!(Reminders::pause(&[term(1)], 0), 60);
        assert_eq!(Reminders::pause(&[term(1)], 2 * DAY), 60);
    }

    #[test]
    fn a_certificate_for_an_hour_is_not_about_to_expire_from_its_first_minute() {
        let short = Term { until: HOUR, ..term(0) };
        assert_eq!(short.standing(60), Standing::Good);
        assert_eq!(short.standing(50 * 60), Standing::LastDay);
    }
}
