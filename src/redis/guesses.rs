//! Bounds how many wrong passwords one site may try at a master. Used where each replica sends its
//! own password to the master.
//!
//! A password that the master has accepted passes at once from then on. So one replica with a wrong
//! password does not lock out the others of its site. Any other password is a guess: the first few
//! are free, then each waits longer than the one before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

/// Wrong passwords that are free of any pause.
const FREE: u32 = 5;

/// Length of the first pause; it doubles with each further wrong password.
const FIRST: Duration = Duration::from_secs(1);

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Time without a guess after which the wrong ones are forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// Most accepted passwords that are remembered.
const KNOWN: usize = 16;

/// The passwords that one site has tried at one master.
pub struct Guesses {
    /// A random key: without it the stored digests say nothing about the passwords.
    key: hmac::Key,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wrong: u32,
    /// Digests of the guesses whose reply has not come yet.
    pending: Vec<Vec<u8>>,
    /// When the last guess was tried.
    last: Option<Instant>,
    good: VecDeque<Vec<u8>>,
}

/// A password that is being tried. One whose answer nobody has seen counts as neither right
/// nor wrong.
pub struct Guess {
    guesses: Arc<Guesses>,
    digest: Vec<u8>,
    /// The master has accepted it before.
    known: bool,
    /// Whether the master has accepted it, once it has answered.
    good: Option<bool>,
}

impl Default for Guesses {
    fn default() -> Self {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).expect("the system's random source works");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), state: Mutex::default() }
    }
}

impl Guesses {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the guesses")
    }

    /// Whether an AUTH with these words may go to the master now. The error is the time to wait.
    pub fn attempt(self: &Arc<Self>, words: &[&[u8]], now: Instant) -> Result<Guess, Duration> {
        let mut signed = hmac::Context::with_key(&self.key);
        for word in words {
            signed.update(&(word.len() as u64).to_be_bytes());
            signed.update(word);
        }
        let digest = signed.sign().as_ref().to_vec();
        let mut state = self.lock();
        let known = state.good.contains(&digest);
        if !known {
            let since = state.last.map(|last| now.saturating_duration_since(last));
            if since.is_some_and(|since| since >= FORGET) {
                state.wrong = 0;
            }
            // Replicas that connect at the same time send the same password; that is one guess.
            let others = state.pending.iter().filter(|pending| **pending != digest).count();
            let ahead = state.wrong.saturating_add(u32::try_from(others).unwrap_or(u32::MAX));
            let pause = match ahead.saturating_add(1).saturating_sub(FREE) {
                0 => Duration::ZERO,
                beyond => FIRST.saturating_mul(1 << (beyond - 1).min(10)).min(LONGEST),
            };
            let left = pause.saturating_sub(since.unwrap_or(FORGET));
            // Once there are pauses, one guess is tried at a time.
            if !left.is_zero() || !pause.is_zero() && !state.pending.is_empty() {
                return Err(left.max(FIRST));
            }
            state.pending.push(digest.clone());
            state.last = Some(now);
        }
        drop(state);
        Ok(Guess { guesses: Arc::clone(self), digest, known, good: None })
    }
}

impl Guess {
    /// The master has accepted it.
    pub fn right(mut self) {
        self.good = Some(true);
    }

    /// The master has refused it.
    pub fn wrong(mut self) {
        self.good = Some(false);
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        let mut state = self.guesses.lock();
        if !self.known
            && let Some(at) = state.pending.iter().position(|pending| *pending == self.digest)
        {
            state.pending.swap_remove(at);
        }
        match (self.known, self.good) {
            (false, Some(false)) => state.wrong = state.wrong.saturating_add(1),
            (false, Some(true)) if !state.good.contains(&self.digest) => {
                if state.good.len() == KNOWN {
                    state.good.pop_front();
                }
                state.good.push_back(std::mem::take(&mut self.digest));
            }
            // It was accepted before and is not now: the master's password has changed.
            (true, Some(false)) => state.good.retain(|good| *good != self.digest),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Guesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guesses")
    }
}

impl std::fmt::Debug for Guess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guess")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passwords_wait_longer_each_time_and_a_good_one_does_not() {
        let (guesses, start) = (Arc::<Guesses>::default(), Instant::now());
        let attempt = |word: &[u8], at: Duration| guesses.attempt(&[word], start + at);
        attempt(b"right", Duration::ZERO).unwrap().right();
        let (mut at, mut passed) = (Duration::ZERO, Vec::new());
        while at < Duration::from_secs(400) {
            match attempt(b"wrong", at) {
                Ok(guess) => {
                    guess.wrong();
                    passed.push(at.as_secs());
                }
                Err(wait) => at += wait,
            }
        }
        assert_eq!(passed[..10], [0, 0, 0, 0, 0, 1, 3, 7, 15, 31]);
        assert!(passed[11..].windows(2).all(|pair| pair[1] - pair[0] == LONGEST.as_secs()), "{passed:?}");
        // A password that was accepted before passes at once, and a new one has to wait.
        attempt(b"right", at).unwrap().right();
        attempt(b"wrong", at).unwrap().wrong();
        assert!(attempt(b"other", at).is_err());
        // A password that is not accepted any more is a guess like any other.
        attempt(b"right", at).unwrap().wrong();
        assert!(attempt(b"right", at).is_err());
        // In the end all wrong guesses are forgotten.
        (0..FREE).for_each(|_| attempt(b"wrong", at + FORGET).unwrap().wrong());
    }

    #[test]
    fn replicas_that_come_together_are_no_guesses_and_words_are_told_apart() {
        let (guesses, now) = (Arc::<Guesses>::default(), Instant::now());
        guesses.attempt(&[b"a", b"b"], now).unwrap().right();
        // Replicas that connect together, each with the right password.
        let pending: Vec<_> = (0..50).map(|_| guesses.attempt(&[b"ab"], now).unwrap()).collect();
        pending.into_iter().for_each(Guess::right);
        // Different passwords at the same time are guesses before their replies have come.
        let tried = (0..50u8).filter_map(|guess| guesses.attempt(&[&[guess]], now).ok()).collect::<Vec<_>>();
        assert_eq!(tried.len(), FREE as usize);
        tried.into_iter().for_each(Guess::right);
        // Once some were wrong, passwords are tried one at a time.
        (0..FREE).for_each(|_| guesses.attempt(&[b"ba"], now).unwrap().wrong());
        let later = now + FIRST;
        let pending = guesses.attempt(&[b"ba"], later).unwrap();
        assert!(guesses.attempt(&[b"ba"], later + LONGEST).is_err());
        assert!(guesses.attempt(&[b"a", b"b"], later).is_ok());
        pending.wrong();
        assert!(guesses.attempt(&[b"ba"], later + LONGEST).is_ok());
    }
}
