//! Waits for the earlier links of a replica that asks for its sync again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link_table::LinkTable;
use crate::link::rival::PROOF;
use crate::redis::returning;
use crate::wire::hello::{Id, ReplicaKey};

/// Time given to all earlier links of a replica to prove that they are alive, or to end.
const PATIENCE: Duration = PROOF.saturating_add(Duration::from_secs(1));

/// The earlier links of the replica of one link.
#[derive(Debug)]
pub struct Predecessors {
    table: Arc<LinkTable>,
    link: Id,
    key: ReplicaKey,
    opened: Instant,
    /// Notified once they have left.
    changed: Arc<Notify>,
    /// Whether they have, once they were asked.
    left: Option<Arc<AtomicBool>>,
}

impl Predecessors {
    /// Those of a link that was opened just now for the replica with this key. `changed` is notified
    /// when [`have_left`](returning::Predecessors::have_left) has another answer.
    pub fn new(table: &Arc<LinkTable>, link: Id, key: ReplicaKey, changed: &Arc<Notify>) -> Self {
        let (table, changed) = (Arc::clone(table), Arc::clone(changed));
        Self { table, link, key, opened: Instant::now(), changed, left: None }
    }
}

impl returning::Predecessors for Predecessors {
    fn have_left(&mut self, port: Option<u16>) -> bool {
        if let Some(left) = &self.left {
            return left.load(Ordering::Acquire);
        }
        // Whoever names no port is no replica that could be listed twice.
        let Some(port) = port else { return true };
        let settling = self.table.replica_asks(self.link, (self.key, port), self.opened);
        let left = Arc::new(AtomicBool::new(settling.is_empty()));
        self.left = Some(Arc::clone(&left));
        if settling.is_empty() {
            return true;
        }
        let changed = Arc::clone(&self.changed);
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, all_cancelled(&settling)).await;
            left.store(true, Ordering::Release);
            changed.notify_one();
        });
        false
    }
}

async fn all_cancelled(tokens: &[CancellationToken]) {
    for token in tokens {
        token.cancelled().await;
    }
}
