//! What was told lately: the same is not told again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Distinct words that are remembered to keep the log short.
const MAX_REMEMBERED: usize = 1024;

/// What repeats within this time is no news.
const QUIET: Duration = Duration::from_secs(60);

/// What was told when.
#[derive(Default)]
pub(super) struct News {
    told: HashMap<String, Instant>,
}

impl News {
    /// Whether this was not told within the last minute; it counts as told now.
    pub(super) fn is_news(&mut self, what: &str) -> bool {
        let now = Instant::now();
        if self.told.get(what).is_some_and(|then| now.duration_since(*then) < QUIET) {
            return false;
        }
        if self.told.len() >= MAX_REMEMBERED {
            self.told.retain(|_, then| now.duration_since(*then) < QUIET);
        }
        // A flood of ever new reasons is no news either.
        if self.told.len() >= MAX_REMEMBERED {
            return false;
        }
        self.told.insert(what.to_owned(), now);
        true
    }

    /// Forgets that `prefix…` was told, so that it is news again.
    pub(super) fn forget(&mut self, prefix: &str) {
        self.told.retain(|what, _| !what.starts_with(prefix));
    }
}
