//! The results of reading the files of `[tls]`: faults, warnings, and checks that passed.

use super::expiry::{Standing, Term};
use super::pem::PemError;
use crate::clock;

/// The results.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// Warnings that tell how long something is still valid: the same files give others later.
    pub(super) dated: Vec<String>,
    /// One line for each check that passed, for `check`.
    pub(super) good: Vec<String>,
    pub(super) terms: Vec<Term>,
}

impl Findings {
    pub(super) fn keep<T, E: ToString>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.faults.push(error.to_string())).ok()
    }

    /// Adds those of another part of the files.
    pub(super) fn absorb(&mut self, other: Self) {
        self.faults.extend(other.faults);
        self.warnings.extend(other.warnings);
        self.dated.extend(other.dated);
        self.good.extend(other.good);
        self.terms.extend(other.terms);
    }

    /// Records until when something is valid, and adds a warning if that is soon.
    pub(super) fn term(&mut self, term: Term) {
        let now = clock::now();
        if !matches!(term.standing(now), Standing::Good | Standing::Past) {
            self.dated.push(term.words(now));
        }
        self.terms.push(term);
    }

    pub(super) fn keep_pem<T>(&mut self, result: Result<T, PemError>) -> Option<T> {
        result.map_err(|error| self.faults.extend(error.sentences())).ok()
    }
}
