//! Waits for the earlier links of a replica that asks for its sync again, and takes over what they have
//! received for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::link_table::{Asking, Legacy, LinkTable};
use crate::link::rival::PROOF;
use crate::redis::returning;
use crate::tap::Recall;
use crate::wire::hello::{Id, ReplicaKey};

/// Time given to all earlier links of a replica to prove that they are alive, or to read what their
/// master has sent, and to end.
const PATIENCE: Duration = PROOF.saturating_add(Duration::from_secs(2));

/// The earlier links of the replica of one link.
#[derive(Debug)]
pub struct Predecessors {
    table: Arc<LinkTable>,
    link: Id,
    key: ReplicaKey,
    master: SocketAddr,
    opened: Instant,
    /// Notified once they have left.
    changed: Arc<Notify>,
    /// Whether they have, once they were asked.
    left: Option<Arc<AtomicBool>>,
    /// What they leave.
    legacies: Vec<Legacy>,
}

impl Predecessors {
    /// Those of a link to this master that was opened just now for the replica with this key. `changed`
    /// is notified when [`have_left`](returning::Predecessors::have_left) has another answer.
    pub fn new(
        table: &Arc<LinkTable>,
        link: Id,
        key: ReplicaKey,
        master: SocketAddr,
        changed: &Arc<Notify>,
    ) -> Self {
        let (table, changed) = (Arc::clone(table), Arc::clone(changed));
        let opened = Instant::now();
        Self { table, link, key, master, opened, changed, left: None, legacies: Vec::new() }
    }
}

impl returning::Predecessors for Predecessors {
    fn have_left(&mut self, port: Option<u16>) -> bool {
        if let Some(left) = &self.left {
            return left.load(Ordering::Acquire);
        }
        // Whoever names no port is no replica that could be listed twice.
        let Some(port) = port else { return true };
        let asking = Asking { key: self.key, port, master: self.master };
        let (settling, legacies): (Vec<_>, Vec<_>) =
            self.table.replica_asks(self.link, asking, self.opened).into_iter().unzip();
        self.legacies = legacies.into_iter().flatten().collect();
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

    fn recall(&mut self, asked: Option<(&[u8], u64)>) -> Option<Recall> {
        // Each is of use only once: whatever is not taken now is dropped.
        let left = self.legacies.drain(..);
        let left =
            left.filter_map(|legacy| legacy.lock().expect("no code panics while it holds a legacy").take());
        let continued = left.filter_map(|remembered| {
            let (history, from) = asked?;
            let recall = remembered.since(history, from);
            recall
                .inspect_err(|why| {
                    debug!(from, "the replica does not continue from an earlier link: {why:?}")
                })
                .ok()
        });
        // The master must still have what comes after it.
        continued.max_by_key(Recall::next)
    }
}

async fn all_cancelled(tokens: &[CancellationToken]) {
    for token in tokens {
        token.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::link_table::{Returned, TableEntry, ToLink};
    use super::*;
    use crate::buffer::Chunk;
    use crate::memory::Budget;
    use crate::redis::returning::Predecessors as _;
    use crate::tap::{Position, Remembered};
    use crate::wire::hello::Identity;

    const HISTORY: &str = "0123456789012345678901234567890123456789";

    struct Site {
        table: Arc<LinkTable>,
        listed: Vec<(TableEntry, tokio::sync::mpsc::Receiver<ToLink>)>,
        changed: Arc<Notify>,
    }

    impl Site {
        fn new() -> Self {
            Self { table: Arc::default(), listed: Vec::new(), changed: Arc::default() }
        }

        /// A new link of a replica with this address, to a master at this one.
        fn link(&mut self, client: &str, master: &str) -> Predecessors {
            let (id, key) = (Id::random(), ReplicaKey::new("orders", client.parse().unwrap(), "vm"));
            let owner = Identity { site: "dc2".into(), node: "vm".into(), instance: Id::random(), clock: 0 };
            self.listed.push(self.table.list(id, &owner, "orders"));
            Predecessors::new(&self.table, id, key, master.parse().unwrap(), &self.changed)
        }

        /// What the link that was opened as number `at` was told last.
        fn last_told(&mut self, at: usize) -> Option<Returned> {
            std::iter::from_fn(|| self.told(at)).last()
        }

        /// What the link that was opened as number `at` is told.
        fn told(&mut self, at: usize) -> Option<Returned> {
            match self.listed[at].1.try_recv() {
                Ok(ToLink::Returned(returned)) => Some(returned),
                _ => None,
            }
        }
    }

    fn remembered(next: u64) -> Remembered {
        let position = Position { history: HISTORY.to_owned(), next, passed: 10 };
        Remembered::new(position, VecDeque::from([Chunk::copied(&[7; 10])]), Budget::new(0).share("dc2"))
    }

    /// Leaves these bytes, and waits until the new link knows.
    async fn leave(site: &Site, returned: Returned, next: u64) {
        *returned.legacy.expect("it is the same replica").lock().unwrap() = Some(remembered(next));
        drop(returned.settled);
        site.changed.notified().await;
    }

    #[tokio::test]
    async fn a_replica_takes_over_what_its_earlier_link_leaves_and_only_once() {
        let mut site = Site::new();
        let mut first = site.link("10.0.0.1", "127.0.0.1:6379");
        assert!(first.have_left(Some(6380)) && first.recall(None).is_none());
        let mut second = site.link("10.0.0.1", "127.0.0.1:6379");
        assert!(!second.have_left(Some(6380)));
        let returned = site.told(0).expect("it may be the same");
        leave(&site, returned, 100).await;
        assert!(second.have_left(Some(6380)));
        let asked = Some((HISTORY.as_bytes(), 95));
        assert_eq!(second.recall(asked).map(|recall| (recall.left(), recall.next())), Some((5, 100)));
        assert!(second.recall(asked).is_none());
        // Whoever asks for something else drops it.
        let mut third = site.link("10.0.0.1", "127.0.0.1:6379");
        third.have_left(Some(6380));
        let returned = site.told(1).expect("it may be the same");
        leave(&site, returned, 100).await;
        assert!(third.recall(None).is_none() && third.recall(asked).is_none());
    }

    #[tokio::test]
    async fn a_replica_takes_over_from_that_of_its_earlier_links_which_has_received_most() {
        for order in [[100, 104, 102], [104, 100, 102], [100, 102, 104]] {
            let mut site = Site::new();
            for _ in order {
                site.link("10.0.0.1", "127.0.0.1:6379").have_left(Some(6380));
            }
            let mut next = site.link("10.0.0.1", "127.0.0.1:6379");
            assert!(!next.have_left(Some(6380)));
            let returned: Vec<Returned> = (0..order.len()).filter_map(|at| site.last_told(at)).collect();
            for (returned, next) in returned.into_iter().zip(order) {
                *returned.legacy.expect("it is the same replica").lock().unwrap() = Some(remembered(next));
            }
            site.changed.notified().await;
            let recall =
                next.recall(Some((HISTORY.as_bytes(), 95))).map(|recall| (recall.left(), recall.next()));
            assert_eq!(recall, Some((9, 104)), "{order:?}");
        }
    }

    #[tokio::test]
    async fn a_replica_on_another_host_keeps_its_link_and_what_it_may_lack_though_it_has_the_same_port() {
        let mut site = Site::new();
        site.link("10.0.0.1", "127.0.0.1:6379").have_left(Some(6379));
        site.link("10.0.0.2", "127.0.0.1:6379").have_left(Some(6379));
        // Their gateway was started again, and one of them is back.
        assert!(!site.link("10.0.0.1", "127.0.0.1:6379").have_left(Some(6379)));
        assert!(site.told(0).is_some_and(|returned| returned.legacy.is_some()) && site.told(1).is_none());
    }

    #[tokio::test]
    async fn only_the_same_replica_at_the_same_master_is_left_anything() {
        for (client, master, port) in [
            ("10.0.0.2", "127.0.0.1:6379", 6380),
            ("127.0.0.1", "127.0.0.1:6379", 6380),
            ("10.0.0.1", "127.0.0.2:6379", 6380),
            ("10.0.0.1", "127.0.0.1:6379", 6381),
        ] {
            let mut site = Site::new();
            site.link("10.0.0.1", "127.0.0.1:6379").have_left(Some(6380));
            site.link(client, master).have_left(Some(port));
            let legacy = site.told(0).and_then(|returned| returned.legacy);
            assert!(legacy.is_none(), "{client} {master} {port}");
        }
    }
}
