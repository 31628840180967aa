//! Which Redis of a `[[master]]`, and which site of a `[[replica]]`, gets the links: what sessions ask, and
//! what is shown of it.
//!
//! The tasks of the gateway look at the parties and judge ([`crate::lineage::judge`]); they write here what
//! came of it. An entry that follows whatever answers is not here.

pub mod asking;
pub mod candidate;
pub mod kept;
pub mod look;
pub mod pace;
pub mod sentinel;
pub mod vote;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::lineage::Standing;
use crate::link::Side;

/// Most orders of people that wait.
const ORDERS: usize = 8;

/// Who is followed, as the tasks of the gateway have judged.
#[derive(Debug, Default)]
pub struct Following {
    entries: Mutex<HashMap<(Side, String), Arc<Entry>>>,
}

/// One entry of the config that follows a master.
#[derive(Debug)]
pub struct Entry {
    state: Mutex<State>,
    /// Notified when something may have changed that is not looked at before its time: a link has
    /// ended, or somebody got none.
    hurry: Notify,
    /// Notified after each judgement.
    judged: Notify,
    orders: mpsc::Sender<Order>,
}

#[derive(Debug, Default)]
struct State {
    target: Option<Target>,
    status: FollowStatus,
    /// Whether anything was judged yet.
    is_judged: bool,
    /// Where the Redis stands that is there while there is no target, if that is known.
    standing: Option<Standing>,
    /// What a gateway of the followed site was refused for last, as a sentence, and when.
    refused: Option<(String, Instant)>,
}

/// What new links go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The party as the config or the Sentinels name it: `10.0.0.6:6379`, or a site.
    pub party: String,
    /// The addresses of a Redis, best first; empty for a site. They are those that were looked at.
    pub addresses: Vec<SocketAddr>,
    /// Where it stands, as it was last seen.
    pub standing: Standing,
}

/// Why a far site is offered no master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The one that is followed cannot be reached: why, in words.
    Away(String),
    /// Nobody is followed: why, in words, and where the Redis stands that is there instead.
    NoMaster(String, Option<Box<Standing>>),
}

/// What a person orders.
#[derive(Debug)]
pub struct Order {
    /// The party, as in [`Target::party`].
    pub party: String,
    /// Whether it is carried out. Otherwise what it would cost is told.
    pub carry_out: bool,
    /// The answer: what it costs or has cost, in sentences; or why it cannot be done.
    pub answer: oneshot::Sender<Result<Vec<String>, String>>,
}

impl Order {
    /// Whether nobody waits for the answer any more. It must not be carried out then.
    pub fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }
}

/// Who is followed by an entry, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowStatus {
    /// Its name.
    pub name: String,
    /// `master` where its Redis is here, `replica` where it follows one of several sites.
    pub role: String,
    /// Who is followed now.
    pub present: Option<PresentStatus>,
    /// Every party, in the config's order.
    pub parties: Vec<PartyStatus>,
    /// Each Sentinel and what it says, as a clause.
    pub sentinels: Vec<SentinelStatus>,
    /// Whether this site waits: nobody is followed, since its Redis are replicas of another site, through this
    /// gateway. Nothing is wrong then.
    pub standby: bool,
    /// Why nobody is followed, or what a person must look at although somebody is: a sentence.
    pub attention: Option<String>,
    /// What to do about it: a sentence with a command.
    pub next_step: Option<String>,
    /// How often a party was followed, the first one included, since the start.
    pub switches: u64,
}

/// Who is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PresentStatus {
    /// The party.
    pub party: String,
    /// Since when, seconds since 1970.
    pub since: i64,
    /// Who said so: `sentinel`, `lineage`, `first`, `person`.
    pub by: String,
}

/// A party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartyStatus {
    /// The address of a Redis, or a site.
    pub party: String,
    /// `master`, `replica`, `away` or `unknown`.
    pub state: String,
    /// What it is, and why it is not followed, as a clause.
    pub words: String,
    /// The id of its stream.
    pub history: Option<String>,
    /// The offset of its last byte.
    pub offset: Option<u64>,
}

/// A Sentinel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SentinelStatus {
    /// Its address.
    pub sentinel: String,
    /// What it names; `None` if it does not answer.
    pub names: Option<String>,
    /// What it says, as a clause.
    pub words: String,
}

impl Following {
    fn entries(&self) -> MutexGuard<'_, HashMap<(Side, String), Arc<Entry>>> {
        self.entries.lock().expect("no code panics while it holds the entries")
    }

    /// An entry begins to follow, or does so anew. The task that looks after it takes its orders.
    pub fn begin(&self, side: Side, name: &str) -> (Arc<Entry>, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(ORDERS);
        let entry =
            Arc::new(Entry { state: Mutex::default(), hurry: Notify::new(), judged: Notify::new(), orders });
        self.entries().insert((side, name.to_owned()), Arc::clone(&entry));
        (entry, taken)
    }

    /// An entry follows nothing any more.
    pub fn end(&self, side: Side, name: &str) {
        self.entries().remove(&(side, name.to_owned()));
    }

    /// The entry of this name, if it follows.
    pub fn entry(&self, side: Side, name: &str) -> Option<Arc<Entry>> {
        self.entries().get(&(side, name.to_owned())).cloned()
    }

    /// Every entry as `status` shows it, by name.
    pub fn status(&self) -> Vec<FollowStatus> {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        let mut all: Vec<_> = entries.iter().map(|entry| entry.status()).collect();
        all.sort_by(|one, other| (&one.name, &one.role).cmp(&(&other.name, &other.role)));
        all
    }
}

impl State {
    /// Why nobody is followed, if that was judged.
    fn why_nobody(&self) -> Option<String> {
        let FollowStatus { name, standby, attention, .. } = &self.status;
        if *standby && attention.is_none() {
            return Some(format!(
                "{name} waits at this site: its Redis are replicas of another site through this gateway"
            ));
        }
        attention.clone()
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a state")
    }

    /// Where new links go. The error says why they go nowhere, for a person.
    pub fn target(&self) -> Result<Target, String> {
        let state = self.state();
        state.target.clone().ok_or_else(|| {
            state.why_nobody().unwrap_or_else(|| "it is not known yet who is the master".to_owned())
        })
    }

    /// As [`Entry::target`], for one that is `wanted`, and waits for it for this long: while another one takes over
    /// there is none for a moment.
    pub async fn target_within(
        &self,
        within: Duration,
        wanted: impl Fn(&Target) -> Result<(), String>,
    ) -> Result<Target, String> {
        let by = Instant::now() + within;
        loop {
            let judged = self.judged.notified();
            let target = self.target().and_then(|target| wanted(&target).map(|()| target));
            match target {
                Ok(target) => return Ok(target),
                Err(why) if timeout_at(by, judged).await.is_err() => return Err(why),
                Err(_) => {}
            }
        }
    }

    /// Whether links to this party may go on; they may as long as nothing was judged. The error says who is
    /// followed instead.
    pub fn goes_on(&self, party: &str) -> Result<(), String> {
        let state = self.state();
        match &state.target {
            None if !state.is_judged => Ok(()),
            Some(target) if target.party.eq_ignore_ascii_case(party) => Ok(()),
            Some(target) if state.status.role == Side::Dialler.role() => {
                Err(format!("site {} has the master of {} now", target.party, state.status.name))
            }
            Some(target) => Err(format!("{} is the master of {} now", target.party, state.status.name)),
            None => Err(state.why_nobody().unwrap_or_else(|| format!("{party} is no master any more"))),
        }
    }

    /// As [`Entry::goes_on`], for links to a Redis at this address.
    pub fn goes_on_at(&self, party: &str, address: SocketAddr) -> Result<(), String> {
        self.goes_on(party)?;
        let state = self.state();
        match &state.target {
            Some(target) if !target.addresses.contains(&address) => {
                let now = target.addresses.first().map_or_else(String::new, |now| format!(" ({now})"));
                Err(format!("{party} is the master of {} at another address now{now}", state.status.name))
            }
            _ => Ok(()),
        }
    }

    /// Stores what was judged. Returns whether new links go to another place than before, so that every
    /// link must be judged again.
    pub fn judged(&self, target: Option<Target>, status: FollowStatus) -> bool {
        let mut state = self.state();
        let place = |target: &Option<Target>| {
            target.as_ref().map(|target| (target.party.clone(), target.addresses.clone()))
        };
        let moved = place(&state.target) != place(&target);
        let (standing, refused) = (state.standing.take(), state.refused.take());
        *state = State { target, status, is_judged: true, standing, refused };
        drop(state);
        self.judged.notify_waiters();
        moved
    }

    /// While there is no target: this is where the Redis stands that is there instead, if that is known.
    pub fn has_instead(&self, standing: Option<Standing>) {
        self.state().standing = standing;
    }

    /// A gateway of the site that is followed got no link, since its master is another one: a sentence.
    pub fn refuses(&self, words: String) {
        self.state().refused = Some((words, Instant::now()));
    }

    /// Why a gateway of the site that is followed got no link within this time, if one did not.
    pub fn refused_within(&self, within: Duration) -> Option<String> {
        let state = self.state();
        let (words, then) = state.refused.as_ref()?;
        (then.elapsed() < within).then(|| words.clone())
    }

    /// What a far site is told of the master: where new links go, if its Redis was reachable when it was last
    /// looked at.
    pub fn offer(&self) -> Result<Target, Absent> {
        let target = self.target();
        let state = self.state();
        if !state.is_judged {
            return Err(Absent::Away("it was not looked at yet".to_owned()));
        }
        match target {
            Ok(target) => {
                let mut parties = state.status.parties.iter();
                match parties.find(|party| party.party == target.party && party.state == "away") {
                    Some(away) => Err(Absent::Away(format!("{} {}", away.party, away.words))),
                    None => Ok(target),
                }
            }
            Err(words) => Err(Absent::NoMaster(words, state.standing.clone().map(Box::new))),
        }
    }

    /// What `status` shows.
    pub fn status(&self) -> FollowStatus {
        self.state().status.clone()
    }

    /// Has the parties looked at without waiting for their time.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Completes when the parties are to be looked at now.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// A person orders to follow a party. Returns what that costs, or why it cannot be done.
    pub async fn order(&self, party: &str, carry_out: bool) -> Result<Vec<String>, String> {
        let (answer, answered) = oneshot::channel();
        let order = Order { party: party.to_owned(), carry_out, answer };
        let gone = "the gateway does not look after this entry any more; ask again";
        self.orders.send(order).await.map_err(|_| gone.to_owned())?;
        answered.await.map_err(|_| gone.to_owned())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::History;

    fn standing() -> Standing {
        Standing { history: History::read(&[b'a'; 40]).unwrap(), offset: 7, earlier: None, run: None }
    }

    fn target(party: &str) -> Target {
        Target { party: party.to_owned(), addresses: Vec::new(), standing: standing() }
    }

    fn status(state: &str) -> FollowStatus {
        let words = "is followed, and hangs".to_owned();
        let party =
            PartyStatus { party: "dc1".to_owned(), state: state.to_owned(), words, ..PartyStatus::default() };
        FollowStatus { name: "orders".to_owned(), parties: vec![party], ..FollowStatus::default() }
    }

    #[test]
    fn links_go_on_until_it_was_judged_that_another_party_is_followed() {
        let following = Following::default();
        let (entry, _orders) = following.begin(Side::Dialler, "orders");
        assert_eq!(entry.goes_on("dc1"), Ok(()), "nothing was judged yet");
        assert!(entry.target().is_err());
        assert!(entry.judged(Some(target("dc1")), status("master")));
        assert!(!entry.judged(Some(target("dc1")), status("master")), "the same place");
        assert_eq!((entry.goes_on("DC1"), entry.goes_on("dc2").is_err()), (Ok(()), true));
        assert!(entry.judged(None, status("away")));
        assert!(entry.goes_on("dc1").is_err());
    }

    #[test]
    fn a_far_site_is_offered_a_master_that_was_there_when_it_was_last_looked_at() {
        let (entry, _orders) = Following::default().begin(Side::Acceptor, "orders");
        assert!(matches!(entry.offer(), Err(Absent::Away(_))), "it was not looked at yet");
        entry.judged(Some(target("dc1")), status("master"));
        assert_eq!(entry.offer(), Ok(target("dc1")));
        entry.judged(Some(target("dc1")), status("away"));
        assert_eq!(entry.offer(), Err(Absent::Away("dc1 is followed, and hangs".to_owned())));
        entry.judged(None, FollowStatus { attention: Some("nobody".to_owned()), ..status("replica") });
        entry.has_instead(Some(standing()));
        assert_eq!(entry.offer(), Err(Absent::NoMaster("nobody".to_owned(), Some(Box::new(standing())))));
        entry.judged(None, FollowStatus { standby: true, ..status("replica") });
        let words = "orders waits at this site: its Redis are replicas of another site through this gateway";
        assert_eq!(entry.offer(), Err(Absent::NoMaster(words.to_owned(), Some(Box::new(standing())))));
        assert_eq!(entry.goes_on("dc1"), Err(words.to_owned()));
    }
}
