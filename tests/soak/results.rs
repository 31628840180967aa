//! What a test of the soak tells.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::support::redis::Redis;

/// The syncs that a master has begun: full ones, and partial ones that it granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syncs {
    pub full: i64,
    pub partial: i64,
}

impl Syncs {
    pub fn of(master: &Redis) -> Self {
        Self { full: master.sync_full(), partial: master.sync_partial_ok() }
    }
}

/// The results of a test, for one line.
pub struct Results<'a> {
    what: &'a str,
    text: String,
}

impl<'a> Results<'a> {
    /// Results after a test that began with these syncs.
    pub fn new(what: &'a str, before: Syncs, master: &Redis) -> Self {
        let after = Syncs::of(master);
        let text = format!(
            "sync_full {} -> {}, sync_partial_ok {} -> {}",
            before.full, after.full, before.partial, after.partial
        );
        Self { what, text }
    }

    /// Adds durations.
    pub fn seconds(mut self, name: &str, times: &[Duration]) -> Self {
        let times: Vec<_> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
        let _ = write!(self.text, "; {name} {} s", times.join(", "));
        self
    }

    /// Adds an amount of bytes.
    pub fn bytes(self, name: &str, bytes: u64) -> Self {
        self.note(&format!("{:.1} MB {name}", bytes as f64 / 1e6))
    }

    /// Adds some words.
    pub fn note(mut self, words: &str) -> Self {
        let _ = write!(self.text, "; {words}");
        self
    }

    /// Prints the line, which is not captured.
    pub fn print(self) {
        let _ = writeln!(std::io::stderr(), "{}: {}", self.what, self.text);
    }
}
