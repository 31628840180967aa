//! Another link of what may be the same replica, at the acceptor.
//!
//! A gateway that is killed or loses its path cannot say that a link is over. Its replica then asks
//! for its sync again over another link, and a master that saw both would count the replica twice. So
//! the earlier link has to prove that it is alive, and is another replica's. A sync that is lost costs
//! a resync. A replica that does not exist costs acknowledged writes.

use std::time::{Duration, Instant};

/// Time for the far side's next frame to arrive.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// Longest time for the proof: the replica waits meanwhile.
pub const PROOF: Duration = Duration::from_secs(9);

/// What this link has to prove.
#[derive(Debug, Default)]
pub(super) struct Rival {
    /// When a byte must have come, unless one has.
    prove_by: Option<Instant>,
    /// Until when a break shows that the proof was worth nothing: it was still under way when the far
    /// gateway died.
    doubted_until: Option<Instant>,
}

impl Rival {
    /// The other link asks for its sync. `shown` is whether this link has received anything since the
    /// other one was opened. The far side speaks at least once within `hears_every`.
    pub(super) fn appears(&mut self, shown: bool, hears_every: Duration, dead_after: Duration, now: Instant) {
        let patience = (hears_every + ROUND_TRIP).min(PROOF);
        self.prove_by = (!shown).then_some(now + patience);
        self.doubted_until = Some(now + patience + dead_after);
    }

    /// A byte has come. True if it was the proof.
    pub(super) fn on_activity(&mut self) -> bool {
        self.prove_by.take().is_some()
    }

    /// When the proof is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.prove_by
    }

    /// Whether the proof is late, or a break now shows that it was worth nothing.
    pub(super) fn wins(&self, held: bool, now: Instant) -> bool {
        self.prove_by.is_some_and(|by| now >= by)
            || held && self.doubted_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(3);

    const HEARS_EVERY: Duration = Duration::from_secs(1);

    #[test]
    fn a_link_without_a_sign_of_life_gives_way_and_one_with_a_byte_stays() {
        let now = Instant::now();
        let mut rival = Rival::default();
        assert!(!rival.wins(true, now) && !rival.on_activity());
        rival.appears(false, HEARS_EVERY, DEAD_AFTER, now);
        assert!(!rival.wins(false, now) && rival.wins(false, now + HEARS_EVERY + ROUND_TRIP));
        assert!(rival.on_activity() && !rival.on_activity());
        assert!(!rival.wins(false, now + DEAD_AFTER));
    }

    #[test]
    fn a_break_soon_after_the_proof_shows_that_it_was_worth_nothing() {
        let now = Instant::now();
        let mut rival = Rival::default();
        rival.appears(true, HEARS_EVERY, DEAD_AFTER, now);
        assert_eq!(rival.due(), None);
        assert!(rival.wins(true, now + DEAD_AFTER) && !rival.wins(false, now + DEAD_AFTER));
        assert!(!rival.wins(true, now + 2 * DEAD_AFTER));
    }

    #[test]
    fn no_replica_waits_long_for_a_proof_however_seldom_the_far_side_speaks() {
        let now = Instant::now();
        let mut rival = Rival::default();
        rival.appears(false, 100 * HEARS_EVERY, 300 * HEARS_EVERY, now);
        assert_eq!(rival.due(), Some(now + PROOF));
    }
}
