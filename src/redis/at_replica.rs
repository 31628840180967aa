//! The tap at the replica's site: it rewrites the introduction, and has the observer behind that.
//!
//! It does not judge the replica. What it cannot read passes unchanged, and the gateway at the
//! master's site refuses it. It does judge the master's answers: a replica writes them to its log
//! as they are, so they must be printable.

use std::time::Instant;

use super::answer::{self, Answer};
use super::command::{self, MAX_ARGUMENTS, MAX_COMMAND, Parsed};
use super::introduction::Introduction;
use super::names::Name;
use super::observer::Observer;
use crate::tap::{Flow, Tap, Verdict};

/// The tap of one link at the replica's site.
pub struct AtReplica {
    introduction: Introduction,
    observer: Observer,
    /// The replica has asked for a sync: from here on nothing is rewritten.
    asked: bool,
    /// Called when the replica is announced by another name than the config says.
    renamed: Box<dyn Fn(&Name) + Send>,
}

impl AtReplica {
    /// `introduction` rewrites what the replica sends; `observer` sees what goes on. `renamed` is
    /// called when the replica is announced by another name than the config says, because that name
    /// is in use.
    pub fn new(introduction: Introduction, observer: Observer, renamed: Box<dyn Fn(&Name) + Send>) -> Self {
        Self { introduction, observer, asked: false, renamed }
    }

    fn replica_says(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        let (length, arguments) = match command::parse(bytes) {
            Parsed::Newline(length) => return Verdict::Pass(length),
            Parsed::Incomplete => return Verdict::Hold,
            Parsed::Malformed(_) => {
                self.observer.lose_replica("what the replica sends");
                return Verdict::Detach;
            }
            Parsed::Command { length, arguments } => (length, arguments),
        };
        if command::asks_for_a_sync(&arguments) {
            self.asked = true;
            if let Some(name) = self.introduction.instead() {
                (self.renamed)(name);
            }
        }
        if !self.asked
            && arguments[0].eq_ignore_ascii_case(b"REPLCONF")
            && let Some(words) = self.introduction.rewritten(&arguments, now)
        {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let wire = command::encode(&words);
            // If the rewritten command is too long for the gateway at the master's site, the
            // original goes on.
            if words.len() <= MAX_ARGUMENTS && wire.len() <= MAX_COMMAND {
                self.observer.asked(&words, now);
                return Verdict::Replace(length, wire);
            }
        }
        self.observer.asked(&arguments, now);
        Verdict::Pass(length)
    }

    fn master_says(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        if self.observer.is_lost() {
            return Verdict::Detach;
        }
        if !self.observer.reads_lines() {
            self.observer.sent(bytes, now);
            return Verdict::Pass(bytes.len());
        }
        match answer::parse(bytes) {
            Answer::Newlines(count) => Verdict::Pass(count),
            Answer::Incomplete => Verdict::Hold,
            Answer::TooLong => {
                self.observer.lose("what the master sends");
                Verdict::Detach
            }
            Answer::Line { length, text } => {
                self.observer.answered(text, now);
                match text {
                    plain if answer::is_plain(plain) => Verdict::Pass(length),
                    [b'-', ..] => Verdict::Replace(length, answer::tamed(&bytes[..length])),
                    _ => {
                        let reason = "the master's answer has bytes that are not printable".to_owned();
                        self.observer.refused(&reason, false);
                        Verdict::Stop { pass: 0, reply: Vec::new(), reason, breach: true }
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for AtReplica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtReplica").field("introduction", &self.introduction).finish_non_exhaustive()
    }
}

impl Tap for AtReplica {
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict {
        match flow {
            Flow::ToMaster => self.replica_says(bytes, now),
            Flow::ToReplica => self.master_says(bytes, now),
        }
    }

    fn is_bulk(&self) -> bool {
        self.observer.is_in_snapshot()
    }
}
