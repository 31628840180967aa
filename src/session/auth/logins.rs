//! Remembers logins of this gateway at its masters' Redis that have failed recently.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time for which a failed login is not tried again: a replica asks again after one second.
const FAILED: Duration = Duration::from_millis(900);

/// The last failure at each place: a master, or one of several Redis that may be it. There are as many as the
/// config and its Sentinels name.
#[derive(Debug, Default)]
pub(in crate::session) struct Logins(Mutex<HashMap<String, (Instant, String)>>);

impl Logins {
    /// Records a failure, in words for the log.
    pub(in crate::session) fn failed(&self, master: &str, fault: &str, now: Instant) {
        let mut failures = self.0.lock().expect("no code panics while it holds the failures");
        failures.insert(master.to_owned(), (now, fault.to_owned()));
    }

    /// The reason of the last failure, if it was recent.
    pub(in crate::session) fn failed_lately(&self, master: &str, now: Instant) -> Option<String> {
        let failures = self.0.lock().expect("no code panics while it holds the failures");
        let (at, fault) = failures.get(master)?;
        (now.saturating_duration_since(*at) < FAILED).then(|| fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_login_counts_for_less_than_a_second() {
        let (logins, now) = (Logins::default(), Instant::now());
        logins.failed("orders", "wrong", now);
        let after = |master, millis| logins.failed_lately(master, now + Duration::from_millis(millis));
        assert_eq!(after("orders", 800).as_deref(), Some("wrong"));
        assert_eq!((after("orders", 900), after("stock", 0)), (None, None));
    }
}
