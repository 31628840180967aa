//! Limits the rate of guesses at the password of a `[[replica]]`, over all its clients.
//!
//! A received password waits for its turn before it is checked, so that neither the answer nor its
//! time reveals anything earlier. Each wrong password makes the next turn wait longer. The next
//! turn goes to the address that has asked least often, and there to the newest client: a replica
//! that connects while others guess waits for one pause, not for all of them. An address that has
//! sent the right password does not wait, until wrong ones have come from it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

/// First pause, after the first wrong password. It doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);

/// Longest pause, which bounds the rate of guesses.
const LONGEST: Duration = Duration::from_secs(1);

/// Time without a wrong password after which the pause starts at the first value again.
const FORGET: Duration = Duration::from_secs(60);

/// Time a client waits for its turn. After that it is not the newest any more, and may connect
/// again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most wrong passwords in a row from an address that sent the right one before.
const SLIPS: u32 = 3;

/// Most addresses that are remembered for the right password, and most that are remembered for
/// asking.
const MOST: usize = 1024;

/// The guesses at one password.
#[derive(Debug, Default)]
pub(in crate::session) struct Guesses {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of wrong passwords in a row.
    wrong: u32,
    /// The number and the time of the last turn.
    last: Option<(u64, Instant)>,
    /// Time of the next turn.
    next: Option<Instant>,
    waiting: Vec<Waiter>,
    /// Number of clients that have waited so far.
    entered: u64,
    /// Number of turns that each address has asked for.
    asked: HashMap<IpAddr, u64>,
    /// Number of passwords from an address since the last right one.
    good: HashMap<IpAddr, u32>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    client: IpAddr,
    go: oneshot::Sender<u64>,
}

/// The permission to have one password checked. The password counts as wrong unless
/// [`Turn::right`] or [`Turn::unused`] says otherwise.
#[derive(Debug)]
pub(in crate::session) struct Turn<'g> {
    guesses: &'g Guesses,
    client: IpAddr,
    /// Its number; `None` if it did not wait.
    number: Option<u64>,
}

/// A place in the queue, given up when dropped.
struct Waiting<'g> {
    guesses: &'g Guesses,
    number: u64,
}

impl Guesses {
    /// Waits for this client's turn; `None` if it does not come in time.
    pub(in crate::session) async fn turn(&self, client: IpAddr) -> Option<Turn<'_>> {
        if let Some(slips) = self.lock().good.get_mut(&client)
            && *slips < SLIPS
        {
            *slips += 1;
            return Some(Turn { guesses: self, client, number: None });
        }
        let (_waiting, mut go) = self.enter(client);
        let number = timeout(PATIENCE, async {
            loop {
                // The first client whose timer fires gives the turn to whoever is next.
                let next = self.lock().grant(Instant::now());
                tokio::select! {
                    biased;
                    number = &mut go => break number,
                    () = sleep_until(next) => {}
                }
            }
        });
        Some(Turn { guesses: self, client, number: Some(number.await.ok()?.ok()?) })
    }

    fn enter(&self, client: IpAddr) -> (Waiting<'_>, oneshot::Receiver<u64>) {
        let (go, turn) = oneshot::channel();
        let mut state = self.lock();
        state.entered += 1;
        if state.asked.len() >= MOST {
            // There are too many to tell them apart.
            state.asked.clear();
        }
        *state.asked.entry(client).or_default() += 1;
        let number = state.entered;
        state.waiting.push(Waiter { number, client, go });
        (Waiting { guesses: self, number }, turn)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the guesses")
    }
}

impl State {
    /// Gives a turn to the next client, if the pause is over. Returns the time of the next turn.
    fn grant(&mut self, now: Instant) -> Instant {
        loop {
            if let Some(next) = self.next
                && next > now
            {
                return next;
            }
            let Some(waiter) = self.take_first() else { return now + LONGEST };
            let number = self.last.map_or(1, |(number, _)| number + 1);
            if waiter.go.send(number).is_err() {
                continue;
            }
            if self.last.is_some_and(|(_, last)| now - last >= FORGET) {
                self.wrong = 0;
                self.asked.clear();
            }
            self.wrong = self.wrong.saturating_add(1);
            let pause = FIRST.saturating_mul(1 << (self.wrong - 1).min(10)).min(LONGEST);
            (self.last, self.next) = (Some((number, now)), Some(now + pause));
        }
    }

    fn take_first(&mut self) -> Option<Waiter> {
        let asked = |waiter: &Waiter| self.asked.get(&waiter.client).copied().unwrap_or(0);
        let all = self.waiting.iter().enumerate();
        let (at, _) = all.min_by_key(|(_, waiter)| (asked(waiter), Reverse(waiter.number)))?;
        Some(self.waiting.swap_remove(at))
    }
}

impl Turn<'_> {
    /// The password was right: it delays nobody, and its address is known from now on.
    pub(in crate::session) fn right(self) {
        let mut state = self.guesses.lock();
        if state.good.len() < MOST || state.good.contains_key(&self.client) {
            state.good.insert(self.client, 0);
        }
        self.give_back(&mut state);
    }

    /// The password was not checked.
    pub(in crate::session) fn unused(self) {
        let mut state = self.guesses.lock();
        if self.number.is_none()
            && let Some(slips) = state.good.get_mut(&self.client)
        {
            *slips = slips.saturating_sub(1);
        }
        self.give_back(&mut state);
    }

    /// The next turn need not wait for this one.
    fn give_back(&self, state: &mut State) {
        let now = Instant::now();
        // Another client may have come since.
        if self.number.is_some() && self.number == state.last.map(|(number, _)| number) {
            state.wrong -= 1;
            state.next = Some(now);
            state.grant(now);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.guesses.lock().waiting.retain(|waiter| waiter.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_passwords_of_any_number_of_addresses_share_one_pace() {
        let guesses = Arc::new(Guesses::default());
        let began = Instant::now();
        let guessing: Vec<_> = (0..100u8)
            .map(|last| {
                let guesses = Arc::clone(&guesses);
                tokio::spawn(async move {
                    let mut turns = 0;
                    while began.elapsed() < Duration::from_secs(60) {
                        turns += usize::from(guesses.turn(client(last)).await.is_some());
                    }
                    turns
                })
            })
            .collect();
        let mut turns = 0;
        for guesser in guessing {
            turns += guesser.await.unwrap();
        }
        assert!((55..70).contains(&turns), "{turns} turns in a minute");
    }

    /// Sixty clients guess from the addresses that `of` returns, and have done so for a while.
    async fn under_attack(of: impl Fn(u8) -> IpAddr) -> Arc<Guesses> {
        let guesses = Arc::new(Guesses::default());
        for number in 0..60 {
            let (guesses, client) = (Arc::clone(&guesses), of(number));
            tokio::spawn(async move {
                loop {
                    guesses.turn(client).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(20_300)).await;
        guesses
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_new_waits_for_one_pause_whoever_else_guesses() {
        let guesses = under_attack(client).await;
        for last in 100..110 {
            let began = Instant::now();
            guesses.turn(client(last)).await.expect("a turn").right();
            assert!(began.elapsed() <= LONGEST, "{:?}", began.elapsed());
            // Once the address is known, it does not wait.
            let began = Instant::now();
            guesses.turn(client(last)).await.expect("a turn").right();
            assert!(began.elapsed().is_zero());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_new_at_the_guessers_own_address_waits_for_one_pause_too() {
        let guesses = under_attack(|_| client(1)).await;
        let began = Instant::now();
        guesses.turn(client(1)).await.expect("a turn").right();
        assert!(began.elapsed() <= LONGEST, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_with_ever_newer_clients_keeps_no_other_waiting() {
        let guesses = Arc::new(Guesses::default());
        let flood = Arc::clone(&guesses);
        tokio::spawn(async move {
            loop {
                let guesses = Arc::clone(&flood);
                tokio::spawn(async move { guesses.turn(client(1)).await.is_some() });
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(20_300)).await;
        let began = Instant::now();
        guesses.turn(client(2)).await.expect("a turn").right();
        assert!(began.elapsed() <= LONGEST, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_was_not_used_or_was_right_makes_nobody_wait() {
        let guesses = Guesses::default();
        let began = Instant::now();
        for last in 0..100 {
            guesses.turn(client(last)).await.expect("a turn").unused();
            guesses.turn(client(last)).await.expect("a turn").right();
        }
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_address_that_guesses_is_known_no_more() {
        let guesses = Guesses::default();
        guesses.turn(client(1)).await.expect("a turn").right();
        let began = Instant::now();
        for _ in 0..20 {
            guesses.turn(client(1)).await.expect("a turn");
        }
        assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
