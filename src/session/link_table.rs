//! The links of this gateway that a lane may ask for, and those that have ended.
//!
//! A link is identified by its random id, and belongs to the site and the master that it was opened
//! for. A lane that asks for it is passed to its task. The reason of an ended link is kept as long
//! as the far side may still ask for it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::Caller;
use crate::lane::Lane;
use crate::link::dials::Dial;
use crate::tap::Remembered;
use crate::unproven::Seat;
use crate::wire::hello::{Accept, Id, Identity, ReplicaKey};
use crate::wire::reason::{Reason, ReasonCode};

/// Most lanes that may wait for a link's task.
const WAITING: usize = 8;

/// Most ended links that are remembered.
const MAX_ENDED: usize = 4096;

/// A message to a link's task.
#[derive(Debug)]
pub enum ToLink {
    /// A lane asks to carry the link.
    Attach(Box<AttachRequest>),
    /// Another process of the same far gateway has started.
    Superseded,
    /// What may be the replica of this link asks for its sync over another one.
    Returned(Returned),
}

/// The replica of a link may have come again.
#[derive(Debug)]
pub struct Returned {
    /// When the other link was opened.
    pub since: Instant,
    /// Dropped once this link has proven that it is alive, or its connection to the master is closed.
    pub settled: DropGuard,
    /// Where this link leaves the bytes that the replica may lack, if it is the same one at the same
    /// master.
    pub legacy: Option<Legacy>,
}

/// What an earlier link of a replica leaves for the next one.
pub type Legacy = Arc<Mutex<Option<Remembered>>>;

/// The replica that asks for its sync over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// What its gateway says about it.
    pub key: ReplicaKey,
    /// The port that it listens on.
    pub port: u16,
    /// The master's address on this link.
    pub master: SocketAddr,
}

impl Asking {
    fn may_be(&self, other: &Self) -> bool {
        self.port == other.port && self.key.may_be(&other.key)
    }
}

/// A lane that asks to carry a link.
#[derive(Debug)]
pub struct AttachRequest {
    /// The lane, which has no answer yet.
    pub lane: Lane,
    /// Its seat among the lanes that carry no link.
    pub seat: Seat<Caller>,
    /// What its HELLO states about the link.
    pub dial: Dial,
    /// The ACCEPT, without the received offset.
    pub accept: Accept,
}

#[derive(Debug)]
struct Known {
    owner: Identity,
    master: String,
    sender: mpsc::Sender<ToLink>,
    opened: Instant,
    /// The replica that has asked for its sync over it.
    replica: Option<Asking>,
    /// Whether another link was let in in its place.
    lends: bool,
}

impl Known {
    fn is_of_earlier_process(&self, identity: &Identity) -> bool {
        self.owner.site.eq_ignore_ascii_case(&identity.site)
            && self.owner.node == identity.node
            && self.owner.instance != identity.instance
    }
}

#[derive(Debug)]
struct FormerLink {
    until: Instant,
    link: Id,
    site: String,
    why: Reason,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Id, Known>,
    ended: VecDeque<FormerLink>,
}

/// The links that this gateway has accepted.
#[derive(Debug, Default)]
pub struct LinkTable {
    state: Mutex<State>,
}

/// Keeps a link in the table. [`TableEntry::end`] removes it with a reason.
#[derive(Debug)]
pub struct TableEntry {
    table: Arc<LinkTable>,
    link: Id,
}

impl LinkTable {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the table")
    }

    /// Adds a new link. Also returns the receiver of its task's messages.
    pub fn list(
        self: &Arc<Self>,
        link: Id,
        owner: &Identity,
        master: &str,
    ) -> (TableEntry, mpsc::Receiver<ToLink>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (owner, master, opened) = (owner.clone(), master.to_owned(), Instant::now());
        let known = Known { owner, master, sender, opened, replica: None, lends: false };
        self.lock().known.insert(link, known);
        (TableEntry { table: Arc::clone(self), link }, receiver)
    }

    /// The master of a link, if a lane of this site may ask for it. The error is the reason for the
    /// refusal.
    pub fn master_of(&self, link: Id, site: &str) -> Result<String, Reason> {
        let state = self.lock();
        if let Some(known) = state.known.get(&link)
            && known.owner.site.eq_ignore_ascii_case(site)
        {
            return Ok(known.master.clone());
        }
        let now = Instant::now();
        let ended = state
            .ended
            .iter()
            .find(|ended| ended.link == link && ended.until > now && ended.site.eq_ignore_ascii_case(site));
        Err(ended.map_or_else(
            || Reason::new(ReasonCode::UnknownLink, "no such link here"),
            |ended| ended.why.clone(),
        ))
    }

    /// Passes a lane to its link's task. Returns it if the link has ended or if too many lanes wait
    /// already.
    pub fn hand_over(&self, link: Id, request: AttachRequest) -> Result<(), Box<AttachRequest>> {
        let sender = self.lock().known.get(&link).map(|known| known.sender.clone());
        let Some(sender) = sender else { return Err(Box::new(request)) };
        sender.try_send(ToLink::Attach(Box::new(request))).map_err(|error| match error.into_inner() {
            ToLink::Attach(request) => request,
            ToLink::Superseded | ToLink::Returned(_) => unreachable!("what was sent comes back"),
        })
    }

    /// A gateway opens a link for the replica with this `key`. Whether an earlier process of it has left
    /// one that may be the same replica's, and so is about to end: the new link may have its place. Each
    /// lends it once, and goes on waiting for its replica.
    pub fn lends_place(&self, identity: &Identity, key: &ReplicaKey, master: &str) -> bool {
        let mut state = self.lock();
        let earlier = state.known.values_mut().find(|known| {
            let same = known.replica.is_some_and(|replica| replica.key == *key) && known.master == master;
            same && !known.lends && known.is_of_earlier_process(identity)
        });
        earlier.is_some_and(|known| {
            known.lends = true;
            true
        })
    }

    /// A gateway has sent HELLO. Links that an earlier process of it left without lanes are over.
    pub fn supersede(&self, identity: &Identity) {
        let state = self.lock();
        let earlier = state.known.values().filter(|known| known.is_of_earlier_process(identity));
        for known in earlier {
            // If the queue is full there are lanes in it, and a link with lanes is not held.
            let _ = known.sender.try_send(ToLink::Superseded);
        }
    }
}

impl LinkTable {
    /// A replica asks for its sync over `link`, which was opened at `since`. Every earlier link that may
    /// be its own has to prove that it is alive, or ends. Returns a token for each, which is cancelled
    /// once that is settled, and where those of the same replica leave what it may lack.
    pub fn replica_asks(
        &self,
        link: Id,
        asking: Asking,
        since: Instant,
    ) -> Vec<(CancellationToken, Option<Legacy>)> {
        let mut state = self.lock();
        let Some(known) = state.known.get_mut(&link) else { return Vec::new() };
        known.replica = Some(asking);
        let (site, master) = (known.owner.site.clone(), known.master.clone());
        let earlier = state.known.iter().filter_map(|(id, known)| {
            let replica = known.replica.filter(|other| asking.may_be(other))?;
            let earlier = *id != link && known.opened <= since && known.master == master;
            (earlier && known.owner.site.eq_ignore_ascii_case(&site)).then_some((replica, known))
        });
        let mut settling = Vec::new();
        for (replica, known) in earlier {
            let settled = CancellationToken::new();
            let legacy = (replica == asking).then(Legacy::default);
            let guard = settled.clone().drop_guard();
            let returned = ToLink::Returned(Returned { since, settled: guard, legacy: legacy.clone() });
            // What cannot be sent to a link that has ended is dropped, and so is settled.
            if let Err(TrySendError::Full(returned)) = known.sender.try_send(returned) {
                let sender = known.sender.clone();
                tokio::spawn(async move { sender.send(returned).await });
            }
            settling.push((settled, legacy));
        }
        settling
    }
}

impl TableEntry {
    /// The link has ended. A lane that asks for it within `hold` gets this reason.
    pub fn end(self, words: &str, hold: Duration) {
        let now = Instant::now();
        let mut state = self.table.lock();
        if let Some(known) = state.known.remove(&self.link) {
            let why = Reason::new(ReasonCode::LinkEnded, words);
            state.ended.retain(|ended| ended.until > now);
            if state.ended.len() >= MAX_ENDED {
                state.ended.pop_front();
            }
            state.ended.push_back(FormerLink {
                until: now + hold,
                link: self.link,
                site: known.owner.site,
                why,
            });
        }
    }
}

impl Drop for TableEntry {
    fn drop(&mut self) {
        self.table.lock().known.remove(&self.link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(node: &str) -> Identity {
        Identity { site: "dc2".into(), node: node.into(), instance: Id::random(), clock: 0 }
    }

    #[test]
    fn only_a_link_of_the_same_replica_that_an_earlier_process_left_lends_its_place_and_only_once() {
        let table = Arc::new(LinkTable::default());
        let (before, after) = (process("vm"), process("vm"));
        let key = |client: &str| ReplicaKey::new("orders", client.parse().unwrap(), "vm");
        let (one, other) = (key("10.0.0.1"), key("10.0.0.2"));
        let mut links = Vec::new();
        for (port, master) in [(6380, "orders"), (6381, "orders"), (6380, "carts")] {
            let id = Id::random();
            links.push(table.list(id, &before, master));
            assert!(links.len() > 1 || !table.lends_place(&after, &one, master), "its replica has not asked");
            let asking = Asking { key: one, port, master: "127.0.0.1:6379".parse().unwrap() };
            table.replica_asks(id, asking, Instant::now());
            table.lock().known.get_mut(&id).expect("it is listed").lends = master == "carts";
        }
        assert!(!table.lends_place(&before, &one, "orders"), "its own process runs");
        assert!(!table.lends_place(&process("vm-2"), &one, "orders"), "another gateway of the site");
        assert!(!table.lends_place(&after, &other, "orders"), "another replica");
        assert!(!table.lends_place(&after, &one, "carts"), "it has lent its place");
        // Two replicas on one host have the same key: each has its own place.
        let lent = [(); 3].map(|()| table.lends_place(&after, &one, "orders"));
        assert_eq!(lent, [true, true, false]);
        drop(links);
        assert!(!table.lends_place(&after, &one, "orders"));
    }
}
