//! How the last reload went.

use serde::{Deserialize, Serialize};

use super::Registry;
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

impl Registry {
    /// Everything was read and is in use.
    pub fn note_read(&self) {
        self.lock().reload = LastReload { read_at: clock::now(), refused: None };
    }

    /// Nothing was replaced, for these reasons.
    pub fn note_refused(&self, faults: Vec<String>) -> Refused {
        let mut state = self.lock();
        let since = state.reload.refused.as_ref().map_or_else(clock::now, |refused| refused.since);
        let refused = Refused { since, faults };
        state.reload.refused = Some(refused.clone());
        refused
    }

    /// How the last reload went.
    pub fn last_reload(&self) -> LastReload {
        self.lock().reload.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_is_shown_since_the_first_until_one_succeeds() {
        let registry = Registry::default();
        registry.note_read();
        assert_eq!(registry.last_reload().refused, None);
        let first = registry.note_refused(vec!["tls.crt: no certificate".to_owned()]);
        let second = registry.note_refused(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(first.since, second.since);
        assert!(second.words().contains("a (and 1 more, see the log)"), "{}", second.words());
        assert_eq!(registry.last_reload().refused, Some(second));
        registry.note_read();
        assert_eq!(registry.last_reload().refused, None);
    }
}
