//! The tap at the master's site: the allow-list, and the observer behind it.

use std::time::Instant;

use super::answer::{self, Answer};
use super::command::{self, Parsed};
use super::gate::Gate;
use super::observer::Observer;
use crate::tap::{Flow, Overdue, Tap, Verdict};

/// The tap of one link at the master's site.
#[derive(Debug)]
pub struct AtMaster {
    gate: Gate,
    observer: Observer,
    /// Whether the replica has sent anything, and whether the master has.
    spoken: (bool, bool),
}

impl AtMaster {
    /// `gate` judges what the replica sends; `observer` sees what passes.
    pub fn new(gate: Gate, observer: Observer) -> Self {
        Self { gate, observer, spoken: (false, false) }
    }

    fn replica_says(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        self.spoken.0 = true;
        let parsed = command::parse(bytes);
        let verdict = self.gate.replica_says(&parsed, now);
        match (&verdict, &parsed) {
            (Verdict::Pass(_), Parsed::Command { arguments, .. }) => self.observer.asked(arguments, now),
            // The master gets this command in place of the replica's, or before it.
            (Verdict::Replace(_, command) | Verdict::Insert(command), _) => {
                if let Some(b'*') = command.first()
                    && let Parsed::Command { arguments, .. } = command::parse(command)
                {
                    self.observer.asked(&arguments, now);
                }
            }
            (Verdict::Stop { reason, .. }, Parsed::Command { arguments, .. }) => {
                self.observer.refused(reason, command::asks_for_a_sync(arguments));
            }
            (Verdict::Stop { reason, .. }, _) => self.observer.refused(reason, false),
            _ => {}
        }
        verdict
    }

    fn master_says(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        self.spoken.1 = true;
        let open = self.gate.is_open();
        if open && !self.observer.reads_lines() {
            self.observer.sent(bytes, now);
            return if self.observer.is_lost() { Verdict::Detach } else { Verdict::Pass(bytes.len()) };
        }
        if !open && answer::is_tls(bytes) {
            let reason = format!("the master's Redis: {}", answer::SPEAKS_TLS);
            self.observer.refused(&reason, false);
            let reply = self.gate.last_words(&reason);
            return Verdict::Stop { pass: 0, reply, reason, breach: false };
        }
        match answer::parse(bytes) {
            Answer::Newlines(count) => Verdict::Pass(count),
            Answer::Incomplete => Verdict::Hold,
            Answer::TooLong if open => {
                self.observer.lose("a line before the snapshot");
                Verdict::Detach
            }
            Answer::TooLong => self.gate.master_raves(),
            Answer::Line { length, text } => {
                self.observer.answered(text, now);
                if open {
                    return Verdict::Pass(length);
                }
                let verdict = self.gate.master_says(text, &bytes[..length]);
                if self.gate.migrates_slots() {
                    self.observer.lose("a migration of slots");
                }
                if let Verdict::Stop { reason, .. } = &verdict {
                    self.observer.refused(reason, false);
                }
                verdict
            }
        }
    }
}

impl Tap for AtMaster {
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict {
        match flow {
            Flow::ToMaster => self.replica_says(bytes, now),
            Flow::ToReplica => self.master_says(bytes, now),
        }
    }

    fn overdue(&self) -> Overdue {
        self.gate.overdue()
    }

    fn closed(&self) -> Option<(Vec<u8>, String)> {
        let reason = format!("the master's Redis {}", answer::CLOSES);
        (self.spoken == (true, false)).then(|| (self.gate.last_words(&reason), reason))
    }

    fn is_bulk(&self) -> bool {
        self.observer.is_in_snapshot()
    }

    fn may_wait(&self, flow: Flow, bytes: &[u8]) -> bool {
        flow == Flow::ToReplica
            && self.observer.is_streaming()
            && !command::asks_for_an_acknowledgement(bytes)
    }
}
