//! Notices that the files of trust have changed, so that nobody has to ask for a reload.
//!
//! Their contents are read once a second: network file systems and swapped folders keep times and
//! names that say nothing. They count as changed once they have been the same for two seconds, since
//! a certificate and its key are seldom written at one moment.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::config::Config;
use crate::file;
use crate::session::Shared;
use crate::tls::pem;
use crate::x509::fingerprint;

/// Pause between two looks at the files.
const EVERY: Duration = Duration::from_secs(1);

/// How long the files must stay as they are before they are used.
const STEADY: Duration = Duration::from_secs(2);

/// Pause before files that have a fault are tried again as they are: a fault may be one of the time.
const AGAIN: Duration = Duration::from_secs(60);

/// Waits for changes of the files of trust.
#[derive(Debug, Default)]
pub(super) struct Watch {
    changes: Changes,
    /// A look that is under way: a file system that does not answer holds up one thread alone.
    looking: Option<JoinHandle<String>>,
}

impl Watch {
    /// Completes when the files that the config in use names have changed and are steady, for the first
    /// time soon after the start. Cancelling it loses nothing.
    pub(super) async fn changed(&mut self, shared: &Shared) {
        loop {
            if self.looking.is_none() {
                tokio::time::sleep(EVERY).await;
                let config = shared.config();
                if !config.watch {
                    self.changes = Changes::default();
                    continue;
                }
                self.looking = Some(spawn_blocking(move || contents(&config)));
            }
            let Some(looking) = &mut self.looking else { continue };
            let contents = looking.await;
            self.looking = None;
            if contents.is_ok_and(|contents| self.changes.look(contents, Instant::now())) {
                return;
            }
        }
    }

    /// The files were read for another reason: as they are, they are looked at once more.
    pub(super) fn forget(&mut self) {
        self.changes.tried = None;
    }

    /// The files have a fault.
    pub(super) fn refused(&mut self) {
        self.changes.refused(Instant::now());
    }
}

/// What tells the contents of all files from others, or the errors that reading them gives.
fn contents(config: &Config) -> String {
    let of = |path: &Path| match file::read(path, pem::LARGEST) {
        Ok(bytes) => fingerprint(&bytes),
        Err(error) => error.to_string(),
    };
    config.tls.all().map(|path| format!("{}: {}\n", path.display(), of(path))).collect()
}

/// Decides when contents are used. No I/O and no clock.
#[derive(Debug, Default)]
struct Changes {
    /// The last contents, and since when they are the same.
    seen: Option<(String, Instant)>,
    /// The contents that were used, or tried, last.
    tried: Option<String>,
    /// When these are tried again, if they have a fault.
    again: Option<Instant>,
}

impl Changes {
    /// The contents are these at the time `now`. Returns whether they must be used now.
    fn look(&mut self, contents: String, now: Instant) -> bool {
        let steady = match &self.seen {
            Some((seen, since)) if *seen == contents => now >= *since + STEADY,
            _ => {
                self.seen = Some((contents.clone(), now));
                false
            }
        };
        let is_due = self.tried.as_ref() != Some(&contents) || self.again.is_some_and(|again| now >= again);
        if !steady || !is_due {
            return false;
        }
        (self.tried, self.again) = (Some(contents), None);
        true
    }

    /// The contents that were tried last have a fault.
    fn refused(&mut self, now: Instant) {
        self.again = Some(now + AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds after which contents are used, if they are what `contents` gives for each second.
    fn used(
        changes: &mut Changes,
        seconds: std::ops::Range<u64>,
        contents: impl Fn(u64) -> &'static str,
    ) -> Vec<u64> {
        let start = *START.get_or_init(Instant::now);
        let looks = |second: &u64| {
            changes.look(contents(*second).to_owned(), start + EVERY * u32::try_from(*second).unwrap())
        };
        seconds.filter(looks).collect()
    }

    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    #[test]
    fn contents_are_used_once_after_they_have_been_the_same_for_two_seconds() {
        let mut changes = Changes::default();
        assert_eq!(used(&mut changes, 0..10, |_| "old"), [2], "those at the start may be others than in use");
        assert_eq!(used(&mut changes, 10..20, |_| "new"), [12]);
        let written = |second| ["a", "ab", "abc"][usize::try_from(second % 3).unwrap()];
        assert!(used(&mut changes, 20..30, written).is_empty(), "they are being written");
        assert!(used(&mut changes, 30..40, |_| "new").is_empty(), "nothing has changed");
        assert_eq!(used(&mut changes, 40..50, |_| "old"), [42]);
    }

    #[test]
    fn contents_with_a_fault_are_tried_again_after_a_minute_or_once_they_are_others() {
        let mut changes = Changes::default();
        assert_eq!(used(&mut changes, 0..3, |_| "early"), [2]);
        changes.refused(*START.get().unwrap() + EVERY * 2);
        assert_eq!(used(&mut changes, 3..100, |_| "early"), [62]);
        changes.refused(*START.get().unwrap() + EVERY * 100);
        assert_eq!(used(&mut changes, 100..200, |_| "good"), [102], "which have no fault");
    }
}
