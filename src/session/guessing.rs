//! Paces the guesses at the password of a `[[replica]]`, over all its clients together.
//!
//! A password that was said waits for its turn before it is looked at, so that neither the
//! answer nor the time tells anything sooner. Each turn that was wrong makes the next one
//! wait longer. The newest client has the next turn: a replica that connects while others
//! guess is the newest, and waits for one pause, not for all of them. An address from which
//! the right password came waits for nobody, until wrong ones have come from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// The pause after the first wrong password; it doubles with each that follows.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause: guesses come no faster than that.
const LONGEST: Duration = Duration::from_secs(1);

/// Without a wrong password for so long, the pause begins at the first again.
const FORGET: Duration = Duration::from_secs(60);

/// For a turn to come. Who waits longer is not the newest any more, and may come again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Wrong passwords in a row that an address may say which said the right one before.
const SLIPS: u32 = 3;

/// Addresses that are remembered for the right one.
const MOST: usize = 1024;

/// The guesses at one password.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    state: Mutex<State>,
    /// Something has changed for those that wait.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Turns since the last pause that nobody had to wait for, but for the right ones.
    wrong: u32,
    /// The last turn, and when the next may be.
    last: Option<(Instant, Instant)>,
    /// Turns so far.
    turns: u64,
    /// Who waits, the newest last.
    waiting: Vec<u64>,
    next: u64,
    /// Passwords from addresses that said the right one, since then.
    good: HashMap<IpAddr, u32>,
}

/// Leave to have one password looked at. It counts as a wrong one until it is
/// [`Turn::right`].
#[derive(Debug)]
pub(super) struct Turn<'g> {
    guesses: &'g Guesses,
    client: IpAddr,
    /// Its number; none where it waited for nobody.
    number: Option<u64>,
}

/// A place among those that wait, given up when dropped.
struct Waiting<'g> {
    guesses: &'g Guesses,
    number: u64,
}

impl Guesses {
    /// Waits for this client's turn; nothing if it does not come soon.
    pub(super) async fn turn(&self, client: IpAddr) -> Option<Turn<'_>> {
        if let Some(slips) = self.lock().good.get_mut(&client)
            && *slips < SLIPS
        {
            *slips += 1;
            return Some(Turn { guesses: self, client, number: None });
        }
        let waiting = self.wait();
        let number = timeout(PATIENCE, async {
            loop {
                let changed = self.changed.notified();
                let taken = self.lock().take(waiting.number);
                match taken {
                    Ok(number) => break number,
                    Err(Some(by)) => {
                        tokio::select! {
                            () = sleep_until(by) => {}
                            () = changed => {}
                        }
                    }
                    Err(None) => changed.await,
                }
            }
        });
        Some(Turn { guesses: self, client, number: Some(number.await.ok()?) })
    }

    fn wait(&self) -> Waiting<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.push(number);
        Waiting { guesses: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the guesses")
    }
}

impl State {
    /// The turn of the one that waits under this number, if it is now; else when it may be,
    /// if it is the next.
    fn take(&mut self, waiting: u64) -> Result<u64, Option<Instant>> {
        let now = Instant::now();
        if self.waiting.last() != Some(&waiting) {
            return Err(None);
        }
        if let Some((_, next)) = self.last
            && next > now
        {
            return Err(Some(next));
        }
        if self.last.is_some_and(|(last, _)| now - last >= FORGET) {
            self.wrong = 0;
        }
        self.wrong = self.wrong.saturating_add(1);
        let pause = FIRST.saturating_mul(1 << (self.wrong - 1).min(10)).min(LONGEST);
        self.last = Some((now, now + pause));
        self.turns += 1;
        Ok(self.turns)
    }
}

impl Turn<'_> {
    /// The password was right: it makes nobody wait.
    pub(super) fn right(self) {
        let mut state = self.guesses.lock();
        if state.good.len() < MOST || state.good.contains_key(&self.client) {
            state.good.insert(self.client, 0);
        }
        if self.number == Some(state.turns) {
            state.wrong -= 1;
            let now = Instant::now();
            state.last = state.last.map(|(last, _)| (last, now));
        }
        drop(state);
        self.guesses.changed.notify_waiters();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.guesses.lock().waiting.retain(|number| *number != self.number);
        self.guesses.changed.notify_waiters();
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

    #[tokio::test(start_paused = true)]
    async fn the_newest_waits_for_one_pause_whoever_else_guesses() {
        let guesses = Arc::new(Guesses::default());
        for last in 0..60u8 {
            let guesses = Arc::clone(&guesses);
            tokio::spawn(async move {
                loop {
                    guesses.turn(client(last)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(20_300)).await;
        for last in 100..110 {
            let began = Instant::now();
            guesses.turn(client(last)).await.expect("a turn").right();
            assert!(began.elapsed() <= LONGEST, "{:?}", began.elapsed());
            // Once known, at once.
            let began = Instant::now();
            guesses.turn(client(last)).await.expect("a turn").right();
            assert!(began.elapsed().is_zero());
        }
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
