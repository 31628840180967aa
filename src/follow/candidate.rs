//! A Redis that may be the master: what it was last seen to be.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::asking::Asking;
use super::look::{self, QUESTIONS, Upstream};
use super::pace::Pace;
use crate::config::Auth;
use crate::lineage::judge::Look;
use crate::units::Address;

/// What was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub look: Look,
    /// Whom it follows, if it is a replica.
    pub upstream: Option<Upstream>,
    /// The address that was looked at, if it was ever reached.
    pub address: Option<SocketAddr>,
    /// Every address of its name.
    pub known: Vec<SocketAddr>,
}

/// One of them. Its connection is closed when this is dropped.
#[derive(Debug)]
pub struct Candidate {
    /// Where it is.
    pub place: Address,
    seen: watch::Receiver<Seen>,
    _looking: AbortOnDropHandle<()>,
}

impl Candidate {
    /// Begins to look at a Redis at this pace. `changed` is notified after each look.
    pub fn watch(place: Address, login: Option<Auth>, pace: Pace, changed: Arc<Notify>) -> Self {
        let user = login.as_ref().and_then(|login| login.username.clone());
        let user = user.unwrap_or_else(|| "default".to_owned());
        let mut asking = Asking::new(place.clone(), login, QUESTIONS, None, pace);
        let known = asking.known().to_vec();
        let (tell, seen) = watch::channel(Seen { look: Look::NotYet, upstream: None, address: None, known });
        let looking = tokio::spawn(async move {
            loop {
                let (look, upstream) = match asking.next().await {
                    Ok(answers) => (look::look(&answers, &user), look::upstream(&answers)),
                    Err(why) => (Look::Away(why), None),
                };
                let known = asking.known().to_vec();
                tell.send_replace(Seen { look, upstream, address: asking.address(), known });
                changed.notify_one();
            }
        });
        Self { place, seen, _looking: AbortOnDropHandle::new(looking) }
    }

    /// What it was last seen to be.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}
