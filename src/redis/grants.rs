//! Checks that the second connection of a two-connection sync belongs to a first one of the same
//! site.
//!
//! The two connections are tied by the master's client ids, which are small numbers and easy to
//! guess. A site that named another site's id could start that site's stream at a snapshot of its
//! own, and the replica there would silently hold wrong data. So an id passes only if the master
//! has sent it on a link of this site, and only once.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Time for which a master keeps the state of a snapshot's connection that has ended.
const KEPT: Duration = Duration::from_secs(60);

/// Most grants that are kept; beyond that the oldest is dropped.
const MOST: usize = 256;

/// The grants of one site at one master.
#[derive(Debug, Default)]
pub struct Grants {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    grants: Vec<Grant>,
}

/// Permission for one step of a two-connection sync.
#[derive(Debug)]
struct Grant {
    /// The link on which the master has given it. A grant for a snapshot ends with that link.
    by: u64,
    step: Step,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Redis: a connection may carry the snapshot for the main connection with this id.
    SnapshotFor(u64),
    /// Valkey: a connection may carry the snapshot for some main connection.
    Snapshot,
    /// Valkey: the main connection may go on after the snapshot of the connection with this id.
    GoOn(u64),
}

/// One link of the site.
#[derive(Debug)]
pub struct Member {
    grants: Arc<Grants>,
    number: u64,
}

impl Grants {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the grants")
    }

    /// A new link of the site.
    pub fn member(self: &Arc<Self>) -> Member {
        let mut state = self.lock();
        state.next += 1;
        Member { grants: Arc::clone(self), number: state.next }
    }
}

impl Member {
    fn grant(&self, step: Step) {
        let (now, mut state) = (Instant::now(), self.grants.lock());
        if state.grants.len() == MOST {
            state.grants.remove(0);
        }
        state.grants.push(Grant { by: self.number, step, since: now });
    }

    fn take(&self, step: &Step) -> bool {
        let mut state = self.grants.lock();
        // A link cannot use its own grant.
        let at = state.grants.iter().position(|grant| grant.step == *step && grant.by != self.number);
        at.map(|at| state.grants.remove(at)).is_some()
    }

    /// Redis has sent this connection's id: a snapshot's connection may name it.
    pub fn has_id(&self, id: u64) {
        self.grant(Step::SnapshotFor(id));
    }

    /// Valkey waits for a connection that carries the snapshot for this one.
    pub fn awaits(&self) {
        self.grant(Step::Snapshot);
    }

    /// Valkey has sent the id of this connection, which carries the snapshot.
    pub fn brings(&self, id: u64) {
        self.grant(Step::GoOn(id));
    }

    /// Whether this connection may carry the snapshot for the main connection with this id or,
    /// without an id, for any main connection that waits for one. Uses up the grant.
    pub fn may_bring(&self, id: Option<u64>) -> bool {
        self.take(&id.map_or(Step::Snapshot, Step::SnapshotFor))
    }

    /// Whether this connection may go on after the snapshot of the connection with this id. Uses up
    /// the grant.
    pub fn may_go_on(&self, id: u64) -> bool {
        self.take(&Step::GoOn(id))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The master keeps the state of a snapshot's connection for a while after the connection
        // has ended.
        self.grants.lock().grants.retain(|grant| match grant.step {
            Step::GoOn(_) => grant.since.elapsed() < KEPT,
            Step::Snapshot | Step::SnapshotFor(_) => grant.by != self.number,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_taken_once_and_only_where_it_was_granted() {
        let (site, other) = (Arc::<Grants>::default(), Arc::<Grants>::default());
        let (main, second, stranger) = (site.member(), site.member(), other.member());
        main.has_id(5);
        assert!(!stranger.may_bring(Some(5)) && !second.may_bring(Some(6)) && !second.may_bring(None));
        assert!(!main.may_bring(Some(5)), "a connection is no second one to itself");
        assert!(second.may_bring(Some(5)) && !second.may_bring(Some(5)));
        main.awaits();
        assert!(!stranger.may_bring(None) && second.may_bring(None) && !second.may_bring(None));
        second.brings(9);
        assert!(!stranger.may_go_on(9) && main.may_go_on(9) && !main.may_go_on(9));
    }

    #[test]
    fn what_a_main_connection_was_granted_is_gone_with_it() {
        let site = Arc::<Grants>::default();
        let (main, second) = (site.member(), site.member());
        main.has_id(5);
        main.awaits();
        drop(main);
        assert!(!second.may_bring(Some(5)) && !second.may_bring(None));
        let main = site.member();
        second.brings(9);
        drop(second);
        assert!(main.may_go_on(9));
    }

    #[test]
    fn few_are_kept() {
        let site = Arc::<Grants>::default();
        let member = site.member();
        (0..1000).for_each(|id| member.has_id(id));
        assert_eq!(site.lock().grants.len(), MOST);
    }
}
