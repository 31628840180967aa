//! How the last reload went.
//!
//! A reload that was asked for reads the config and the files of trust, all or nothing. The files of
//! trust are also taken into use alone, when they have changed: that says nothing about the config.

use serde::{Deserialize, Serialize};

use super::Registry;
use super::tally::Reloaded;
use crate::clock;

/// When the config and the files of trust were read, and what is wrong with them since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// When those in use were read, seconds since 1970.
    pub read_at: i64,
    /// Why they were not replaced since.
    pub refused: Option<Refused>,
}

/// A reload that was refused. Everything goes on as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Since when no reload has succeeded, seconds since 1970.
    pub since: i64,
    /// What is wrong now.
    pub faults: Vec<String>,
}

impl Refused {
    /// The line for an operator.
    pub fn words(&self) -> String {
        let more = match self.faults.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more, see the log)", count - 1),
        };
        let first = self.faults.first().map_or("", String::as_str);
        format!("reload REFUSED since {}: {first}{more}; everything runs as before", clock::utc(self.since))
    }
}

/// What was not taken into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A config that differs from the one in use, or what belongs to it.
    Config,
    /// Files of trust.
    Trust,
}

/// When files were read, and what is wrong with each part since.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    read_at: i64,
    config: Option<Refused>,
    trust: Option<Refused>,
    /// How often each part was used, and refused.
    counts: [[u64; 2]; 2],
}

impl Part {
    /// The codes, in the order of the parts.
    const CODES: [&str; 2] = ["config", "trust"];
}

/// The codes of what a reload may end in.
const OUTCOMES: [&str; 2] = ["used", "refused"];

impl Reloads {
    /// How often each part was used, and refused.
    pub(super) fn counted(&self) -> Vec<Reloaded> {
        let of_part = |(part, counts): (&'static str, [u64; 2])| {
            let outcomes = OUTCOMES.into_iter().zip(counts);
            outcomes.map(move |(outcome, count)| Reloaded { part, outcome, count })
        };
        Part::CODES.into_iter().zip(self.counts).flat_map(of_part).collect()
    }

    /// Everything was read now and is in use.
    fn read(&mut self) {
        *self = Self { read_at: clock::now(), counts: self.counts, ..Self::default() };
    }

    fn last(&self) -> LastReload {
        let refused = self.config.iter().chain(&self.trust).cloned().reduce(|config, trust| Refused {
            since: config.since.min(trust.since),
            faults: [config.faults, trust.faults].concat(),
        });
        LastReload { read_at: self.read_at, refused }
    }
}

impl Registry {
    /// Everything was read for the first time and is in use.
    pub fn note_started(&self) {
        self.lock().reloads.read();
    }

    /// Everything was read again and is in use.
    pub fn note_read(&self) {
        let reloads = &mut self.lock().reloads;
        reloads.read();
        reloads.counts[Part::Config as usize][0] += 1;
    }

    /// The files of trust were read alone and are in use; they are others than before if they have
    /// `changed`. A config that was refused still is.
    pub fn note_trust_read(&self, changed: bool) {
        let reloads = &mut self.lock().reloads;
        (reloads.read_at, reloads.trust) = (clock::now(), None);
        reloads.counts[Part::Trust as usize][0] += u64::from(changed);
    }

    /// This part was not replaced, for these reasons. Returns all that is wrong, and whether it is something
    /// else than before.
    pub fn note_refused(&self, part: Part, faults: Vec<String>) -> (Refused, bool) {
        let mut state = self.lock();
        state.reloads.counts[part as usize][1] += 1;
        let slot = match part {
            Part::Config => &mut state.reloads.config,
            Part::Trust => &mut state.reloads.trust,
        };
        let is_new = slot.as_ref().is_none_or(|refused| refused.faults != faults);
        let since = slot.as_ref().map_or_else(clock::now, |refused| refused.since);
        let refused = slot.insert(Refused { since, faults }).clone();
        (state.reloads.last().refused.unwrap_or(refused), is_new)
    }

    /// How the last reload went.
    pub fn last_reload(&self) -> LastReload {
        self.lock().reloads.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_is_shown_since_the_first_until_one_succeeds() {
        let registry = Registry::default();
        registry.note_started();
        assert_eq!(registry.last_reload().refused, None);
        assert!(registry.tallies().reloads.iter().all(|reloaded| reloaded.count == 0));
        let refuse = |faults: &[&str]| {
            registry.note_refused(Part::Config, faults.iter().map(ToString::to_string).collect())
        };
        let (first, is_new) = refuse(&["tls.crt: no certificate"]);
        assert!(is_new && !refuse(&["tls.crt: no certificate"]).1);
        let (second, is_new) = refuse(&["a", "b"]);
        assert!(is_new);
        assert_eq!(first.since, second.since);
        assert!(second.words().contains("a (and 1 more, see the log)"), "{}", second.words());
        assert_eq!(registry.last_reload().refused, Some(second));
        registry.note_read();
        assert_eq!(registry.last_reload().refused, None);
    }

    #[test]
    fn what_is_wrong_with_the_config_is_shown_until_a_config_is_read() {
        let registry = Registry::default();
        let faults = || registry.last_reload().refused.map(|refused| refused.faults);
        let said = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
        registry.note_refused(Part::Config, vec!["no such key".to_owned()]);
        registry.note_refused(Part::Trust, vec!["no certificate".to_owned()]);
        assert_eq!(faults(), said(&["no such key", "no certificate"]));
        registry.note_trust_read(true);
        assert_eq!(faults(), said(&["no such key"]));
        registry.note_refused(Part::Trust, vec!["no certificate".to_owned()]);
        registry.note_read();
        assert_eq!(faults(), None);
        registry.note_trust_read(false);
        let counted = registry.tallies().reloads.into_iter();
        let counted: Vec<_> =
            counted.map(|Reloaded { part, outcome, count }| (part, outcome, count)).collect();
        let told =
            [("config", "used", 1), ("config", "refused", 1), ("trust", "used", 1), ("trust", "refused", 2)];
        assert_eq!(counted, told);
    }
}
