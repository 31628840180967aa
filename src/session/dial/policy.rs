//! Decides from the answers of a far site's addresses whether the link may still exist there.
//!
//! | the addresses that are known | the link |
//! |---|---|
//! | one says that it has ended | is over, in its words |
//! | the gateway that had it does not know it, or another process has taken its place | is forgotten |
//! | another gateway does not know it | is dialled again: there may be several behind one address |
//!
//! Earlier releases do not say which gateway answers. Of their answers:
//!
//! | the addresses that are known | the link |
//! |---|---|
//! | none has said [`UNKNOWN`] times that it does not know the link | is dialled again |
//! | one has, another has not yet, and answers | is dialled again |
//! | one has, another gives no answer, for less than [`PATIENCE`] | is dialled again |
//! | one has, all others have too or give no answer | is forgotten |
//!
//! If another process is known to have replaced the one that had the link, one such answer of an
//! address is enough.
//!
//! No I/O and no clock.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Number of "unknown link" answers after which an address counts as not knowing the link: there
/// may be several gateways behind it.
const UNKNOWN: u32 = 4;

/// Time for which an address without an answer may be the one that knows the link, while all others
/// do not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer of an address to a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A gateway that does not say which one it is does not know the link.
    UnknownLink,
    /// No answer, or any other.
    Nothing,
}

/// How often an address has given each answer in this break.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    unknown: u32,
    nothing: u32,
}

/// The answers of all addresses in this break.
#[derive(Debug, Default)]
pub(super) struct Answers {
    counts: HashMap<SocketAddr, Count>,
    /// Another process has taken the place of the one that had the link.
    succeeded: bool,
    /// Start of the break. Earlier answers do not count.
    held: Option<Instant>,
}

impl Answers {
    /// A dial begins, for a link that is `held` or wants one more lane.
    pub(super) fn dial_begins(&mut self, held: bool, now: Instant) {
        if held != self.held.is_some() {
            self.held = held.then_some(now);
            self.clear();
        }
    }

    /// Whether the dials are for a link that is held.
    pub(super) fn is_of_a_break(&self) -> bool {
        self.held.is_some()
    }

    /// Forgets all answers.
    pub(super) fn clear(&mut self) {
        self.counts.clear();
    }

    /// Another process has taken the place of the one that had the link.
    pub(super) fn succeeded(&mut self) {
        self.succeeded = true;
    }

    /// Records an answer.
    pub(super) fn note(&mut self, address: SocketAddr, answer: Answer) {
        let count = self.counts.entry(address).or_default();
        match answer {
            Answer::UnknownLink => count.unknown += 1,
            Answer::Nothing => count.nothing += 1,
        }
    }

    /// Whether no gateway at these addresses knows the link any more.
    pub(super) fn is_forgotten(&self, addresses: &[SocketAddr], now: Instant) -> bool {
        let patient = self.held.is_some_and(|since| now.saturating_duration_since(since) < PATIENCE);
        let counts = addresses.iter().map(|address| self.counts.get(address).copied().unwrap_or_default());
        let enough = if self.succeeded { 1 } else { UNKNOWN };
        let (mut denied, mut may_know) = (false, false);
        for count in counts {
            let denies = count.unknown >= enough;
            denied |= denies;
            may_know |= !denies && (count.unknown > 0 || patient || count.nothing == 0);
        }
        denied && !may_know
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of answers of two addresses, and whether the link is forgotten this many seconds
    /// after its break began.
    fn after(seconds: u64, first: (u32, u32), second: (u32, u32)) -> bool {
        let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (mut answers, began) = (Answers::default(), Instant::now());
        answers.dial_begins(true, began);
        for (address, (unknown, nothing)) in addresses.into_iter().zip([first, second]) {
            (0..unknown).for_each(|_| answers.note(address, Answer::UnknownLink));
            (0..nothing).for_each(|_| answers.note(address, Answer::Nothing));
        }
        answers.is_forgotten(&addresses, began + Duration::from_secs(seconds))
    }

    #[test]
    fn a_link_is_forgotten_once_nobody_is_left_who_may_know_it() {
        for (seconds, first, second, forgotten) in [
            (0, (0, 0), (0, 0), false),
            (60, (3, 0), (3, 0), false),
            (60, (4, 0), (3, 0), false),
            (0, (4, 0), (4, 0), true),
            (0, (4, 0), (0, 9), false),
            (9, (4, 0), (0, 9), false),
            (10, (4, 0), (0, 9), true),
            (60, (4, 0), (0, 0), false),
            (60, (4, 0), (1, 9), false),
            (60, (0, 99), (0, 99), false),
        ] {
            assert_eq!(after(seconds, first, second), forgotten, "{seconds} s, {first:?}, {second:?}");
        }
    }

    #[test]
    fn one_answer_is_enough_where_another_process_has_taken_over() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.dial_begins(true, now);
        answers.note(address, Answer::UnknownLink);
        assert!(!answers.is_forgotten(&[address], now));
        answers.succeeded();
        assert!(answers.is_forgotten(&[address], now));
    }

    #[test]
    fn what_was_answered_before_the_break_does_not_count() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.dial_begins(false, now);
        (0..UNKNOWN).for_each(|_| answers.note(address, Answer::UnknownLink));
        assert!(answers.is_forgotten(&[address], now));
        answers.dial_begins(true, now);
        assert!(!answers.is_forgotten(&[address], now));
        (0..UNKNOWN).for_each(|_| answers.note(address, Answer::UnknownLink));
        answers.dial_begins(true, now);
        assert!(answers.is_forgotten(&[address], now), "one break");
    }
}
