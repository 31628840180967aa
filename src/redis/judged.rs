//! The stream of a master that is followed, as it was judged when the link was opened.
//!
//! The replica asks for its sync later, perhaps by seconds. Until then a person may have given that Redis
//! another one's data, or none. The master's answer names its stream before any byte of data follows.

use crate::lineage::{History, Standing};

/// What was judged.
#[derive(Clone, Debug)]
pub struct Judged {
    history: History,
    earlier: Option<History>,
}

impl Judged {
    /// The stream of a Redis that stands here.
    pub fn of(standing: &Standing) -> Self {
        Self { history: standing.history, earlier: standing.earlier.map(|(earlier, _)| earlier) }
    }

    /// Whether a line, without its end, may pass as the answer to a PSYNC that has asked for this id.
    pub fn is_stream_of(&self, line: &[u8], asked: &[u8]) -> bool {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        match words.as_slice() {
            [b"+FULLRESYNC", id, _] | [b"+CONTINUE", id] => *id == self.history.as_bytes(),
            // A replica that does not understand a new id (before Redis 4) is told none, also where the
            // master has continued the stream under one. Masters compare ids without case.
            [b"+CONTINUE"] => [Some(self.history), self.earlier]
                .iter()
                .flatten()
                .any(|id| asked.eq_ignore_ascii_case(id.as_bytes())),
            // The snapshot comes over another connection, and its id there.
            [b"+RDBCHANNELSYNC", _] | [b"+DUALCHANNELSYNC", ..] => true,
            _ => line.starts_with(b"-"),
        }
    }

    /// Whether a line, without its end, may pass as the answer to a SYNC on the second connection of a sync.
    pub fn is_snapshot_of(&self, line: &[u8]) -> bool {
        let id = line.strip_prefix(b"$ENDOFF:").and_then(|rest| rest.split(|byte| *byte == b' ').nth(1));
        id.is_some_and(|id| id == self.history.as_bytes()) || line.starts_with(b"-")
    }
}
