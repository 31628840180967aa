//! When a doubt that stands is logged. Pure.

use std::time::{Duration, Instant};

/// Time for which there must be a doubt before it is logged: while the master moves there are short ones.
const AFTER: Duration = Duration::from_secs(3);

/// Time after which one that is still there is logged again.
const AGAIN: Duration = Duration::from_secs(600);

/// A doubt that may stand for long.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    /// Its words without digits, since counts grow while it stands; since when; and when it was logged last.
    known: Option<(String, Instant, Option<Instant>)>,
}

impl Repeated {
    /// Whether it is to be logged now, which then counts as done.
    pub(super) fn is_due(&mut self, words: &str, now: Instant) -> bool {
        let shape: String = words.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        let known = self.known.take().filter(|(known, ..)| *known == shape);
        let (shape, since, logged) = known.unwrap_or((shape, now, None));
        let (from, pause) = logged.map_or((since, AFTER), |logged| (logged, AGAIN));
        let is_due = now.saturating_duration_since(from) >= pause;
        self.known = Some((shape, since, if is_due { Some(now) } else { logged }));
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_logged_once_it_has_lasted_and_every_ten_minutes_while_it_stands() {
        let now = Instant::now();
        let mut doubt = Repeated::default();
        let due: Vec<_> = (0..1300)
            .filter(|second| {
                doubt.is_due(&format!("dc2 lacks {second} bytes"), now + Duration::from_secs(*second))
            })
            .collect();
        assert_eq!(due, [3, 603, 1203]);
        let later = now + Duration::from_secs(1300);
        assert!(!doubt.is_due("dc2 is away", later), "another one must last too");
        assert!(doubt.is_due("dc2 is away", later + AFTER));
    }
}
