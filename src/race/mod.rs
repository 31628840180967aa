//! Decides which of several addresses is tried when: Happy Eyeballs (RFC 8305) as a pure state
//! machine.
//!
//! The best candidate starts at once. The next one starts after [`STAGGER`], or as soon as one has
//! failed; those that were started continue. The first that opens has won, and the others are given
//! up. They stay candidates, in case the winner turns out to be unusable.
//!
//! ```text
//! untried --step--> running --failed--> out
//!    ^                 |  \---won-----> out, and all others that run
//!    +-----------------+                are untried again, as the last ones
//! ```
//!
//! No I/O and no clock: `run.rs` starts the attempts.

pub mod run;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pause between two starts if none has failed.
pub const STAGGER: Duration = Duration::from_millis(300);

/// Time given to resolve the name of a better candidate before another one is started.
pub const HESITATION: Duration = Duration::from_millis(50);

/// What the caller must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<C> {
    /// Start an attempt with this candidate.
    Start(C),
    /// Wait until this time, or until an attempt or a name lookup has ended.
    Wait(Option<Instant>),
    /// Give up: every candidate has failed.
    Over,
}

/// The candidates of one race.
#[derive(Debug)]
pub struct Race<C> {
    /// Best first: a smaller rank is better; of the same rank, the earlier one.
    untried: Vec<(u32, C)>,
    running: Vec<C>,
    /// Number of names that are being resolved.
    awaited: usize,
    started: bool,
    due: Instant,
}

impl<C: Copy + PartialEq> Race<C> {
    /// A race without candidates yet, for which `awaited` names are being resolved.
    pub fn new(awaited: usize, now: Instant) -> Self {
        Self { untried: Vec::new(), running: Vec::new(), awaited, started: false, due: now }
    }

    /// Starts no attempt before `until`, unless every name is resolved earlier.
    pub fn hesitate(&mut self, until: Instant) {
        self.due = until;
    }

    /// Adds a candidate; a smaller rank is tried earlier.
    pub fn add(&mut self, rank: u32, candidate: C) {
        let at = self.untried.partition_point(|(other, _)| *other <= rank);
        self.untried.insert(at, (rank, candidate));
    }

    /// A name lookup has ended, and its addresses, if any, were added.
    pub fn resolved(&mut self, now: Instant) {
        self.awaited = self.awaited.saturating_sub(1);
        if self.awaited == 0 && !self.started {
            self.due = self.due.min(now);
        }
    }

    /// The next step.
    pub fn step(&mut self, now: Instant) -> Step<C> {
        if self.untried.is_empty() {
            let over = self.running.is_empty() && self.awaited == 0;
            return if over { Step::Over } else { Step::Wait(None) };
        }
        if now < self.due {
            return Step::Wait(Some(self.due));
        }
        let (_, candidate) = self.untried.remove(0);
        self.running.push(candidate);
        self.started = true;
        self.due = now + STAGGER;
        Step::Start(candidate)
    }

    /// An attempt has failed: the next one starts without delay.
    pub fn failed(&mut self, candidate: C, now: Instant) {
        self.running.retain(|other| *other != candidate);
        self.due = now;
    }

    /// An attempt has succeeded: the others are given up. If the race continues, it does so without
    /// delay, and they are tried last.
    pub fn won(&mut self, candidate: C, now: Instant) {
        for other in std::mem::take(&mut self.running) {
            if other != candidate {
                self.untried.push((u32::MAX, other));
            }
        }
        self.due = now;
    }
}

/// The addresses of one name in the order in which they are tried: the resolver's order, with IPv6
/// and IPv4 alternating.
pub fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let all: Vec<_> = addresses.into_iter().collect();
    let first = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == first);
    let mut out = Vec::with_capacity(ours.len() + others.len());
    let (mut ours, mut others) = (ours.drain(..), others.drain(..));
    loop {
        let pair = [ours.next(), others.next()];
        if pair == [None, None] {
            return out;
        }
        out.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    #[test]
    fn the_next_starts_after_the_stagger_and_at_once_after_a_failure() {
        let begin = Instant::now();
        let mut race = Race::new(0, begin);
        for (rank, candidate) in ["a", "b", "c"].into_iter().enumerate() {
            race.add(rank as u32, candidate);
        }
        assert_eq!(race.step(begin), Step::Start("a"));
        assert_eq!(race.step(begin), Step::Wait(Some(begin + STAGGER)));
        assert_eq!(race.step(after(begin, 300)), Step::Start("b"));
        race.failed("a", after(begin, 310));
        assert_eq!(race.step(after(begin, 310)), Step::Start("c"));
        assert_eq!(race.step(after(begin, 320)), Step::Wait(None));
        race.failed("b", after(begin, 330));
        assert_eq!(race.step(after(begin, 330)), Step::Wait(None));
        race.failed("c", after(begin, 340));
        assert_eq!(race.step(after(begin, 340)), Step::Over);
    }

    #[test]
    fn a_winner_that_is_no_good_leaves_the_others_in_the_race() {
        let begin = Instant::now();
        let mut race = Race::new(0, begin);
        for (rank, candidate) in ["a", "b", "c"].into_iter().enumerate() {
            race.add(rank as u32, candidate);
        }
        assert_eq!(race.step(begin), Step::Start("a"));
        assert_eq!(race.step(after(begin, 300)), Step::Start("b"));
        race.won("b", after(begin, 350));
        // A candidate that was never tried comes before one that was given up.
        assert_eq!(race.step(after(begin, 400)), Step::Start("c"));
        race.failed("c", after(begin, 410));
        assert_eq!(race.step(after(begin, 410)), Step::Start("a"));
        race.won("a", after(begin, 420));
        assert_eq!(race.step(after(begin, 420)), Step::Over);
    }

    #[test]
    fn a_name_that_is_slow_to_resolve_holds_nobody_up() {
        let begin = Instant::now();
        let mut race = Race::new(2, begin);
        race.hesitate(begin + HESITATION);
        race.add(1, "known");
        assert_eq!(race.step(begin), Step::Wait(Some(begin + HESITATION)));
        assert_eq!(race.step(after(begin, 50)), Step::Start("known"));
        race.failed("known", after(begin, 60));
        assert_eq!(race.step(after(begin, 60)), Step::Wait(None));
        race.add(0, "late");
        race.resolved(after(begin, 900));
        assert_eq!(race.step(after(begin, 900)), Step::Start("late"));
        race.failed("late", after(begin, 910));
        assert_eq!(race.step(after(begin, 910)), Step::Wait(None));
        race.resolved(after(begin, 950));
        assert_eq!(race.step(after(begin, 950)), Step::Over);
    }

    #[test]
    fn the_better_candidate_goes_first_once_every_name_is_known() {
        let begin = Instant::now();
        let mut race = Race::new(1, begin);
        race.hesitate(begin + HESITATION);
        race.add(1, "known");
        race.add(0, "better");
        race.resolved(after(begin, 5));
        assert_eq!(race.step(after(begin, 5)), Step::Start("better"));
        assert_eq!(race.step(after(begin, 305)), Step::Start("known"));
    }

    #[test]
    fn both_families_take_turns() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|address| address.parse().expect("an address")).collect()
        };
        let given = addresses("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1 1.1.1.2:1");
        let wanted = addresses("[::1]:1 1.1.1.1:1 [::2]:1 1.1.1.2:1 [::3]:1");
        assert_eq!(interleaved(given), wanted);
        assert_eq!(interleaved(addresses("1.1.1.1:1 1.1.1.2:1")), addresses("1.1.1.1:1 1.1.1.2:1"));
        assert_eq!(interleaved([]), []);
    }
}
