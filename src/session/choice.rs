//! Which site the links of a replica go to, where several can have its master.
//!
//! The gateway's task judges ([`crate::follow`]); a session only asks. An entry with one site has no choice,
//! and nothing here concerns it.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Shared;
use crate::config::Replica;
use crate::escape::shown;
use crate::follow::{Entry, Target};
use crate::lineage::Followed;
use crate::link::Side;
use crate::registry::{Kind, Topic, log_throttled};
use crate::wire::hello::Accept;

/// Why a site is not followed of which it is not known what it has.
pub const UNTOLD: &str = "does not say whether it has the master: it is of an earlier release, or its [[master]] lacks follow = \"master\"";

/// Time for which a client waits for another site to be followed, if the one that is followed gives it no link.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// What is followed for an entry, if it has a choice.
fn followed(shared: &Shared, replica: &Replica) -> Option<Arc<Entry>> {
    shared.following.entry(Side::Dialler, &replica.name).filter(|_| replica.has_choice())
}

/// The entry for links to the site that has the master. The error says why there is none.
pub(super) fn present(shared: &Shared, replica: &Arc<Replica>) -> Result<Arc<Replica>, String> {
    if !replica.has_choice() {
        return Ok(Arc::clone(replica));
    }
    let unknown = || "it is not known yet which site has the master".to_owned();
    let target = followed(shared, replica).ok_or_else(unknown)?.target()?;
    replica.at(&target.party).ok_or_else(unknown)
}

/// Whether a link that a gateway has accepted goes on from what is followed: there may be several gateways at
/// its site. The error says why not; it is logged, and `status` shows it for a while.
pub(super) fn fits(shared: &Shared, replica: &Replica, accept: &Accept) -> Result<(), String> {
    let Some(entry) = followed(shared, replica) else { return Ok(()) };
    let target = entry.target()?;
    let found = goes_on_from(shared, replica, &target, accept);
    if let Err(why) = &found {
        let node = shown(accept.identity.node.as_bytes());
        let words = format!("the gateway {node} of {} is refused: {why}", replica.site);
        let topic = Topic::replica(Kind::SiteDoubt, replica);
        log_throttled!(warn, shared.registry, topic, &words; link = %replica.name, site = %replica.site, "{words}");
        entry.refuses(words);
    }
    found
}

/// Whether what a gateway offers goes on from what is followed. The error says why not.
fn goes_on_from(shared: &Shared, replica: &Replica, target: &Target, accept: &Accept) -> Result<(), String> {
    let Some(offer) = &accept.offer else { return Err(format!("it {UNTOLD}")) };
    let history = target.standing.history;
    let passed = shared.registry.passed(Side::Dialler, &replica.name);
    let of_it = passed.into_iter().find(|(stream, _)| *stream == history).and_then(|(_, offset)| offset);
    let followed = Followed { history, passed: of_it, run: None };
    // What its links have passed on since its Redis was looked at is more than that had then.
    let goes_on = offer.standing.history == history || followed.kinship(&offer.standing).is_proof();
    if goes_on {
        return Ok(());
    }
    Err(format!(
        "its master has the history {}, which does not go on from {}, which is followed",
        offer.standing.history.short(),
        history.short()
    ))
}

/// Whether links to this site of the entry may go on. The error says why not.
pub(super) fn goes_on(shared: &Shared, replica: &Replica) -> Result<(), String> {
    followed(shared, replica).map_or(Ok(()), |entry| entry.goes_on(&replica.site))
}

/// Completes when links to this site of the entry may not go on any more, with the reason.
pub(super) async fn moved(shared: &Shared, replica: &Replica) -> String {
    let mut reloads = shared.reloads.subscribe();
    loop {
        if let Err(words) = goes_on(shared, replica) {
            return words;
        }
        if reloads.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

/// Whether links of the entry go to another site than the one that was tried, or do so by then. Returns once
/// they do.
pub(super) async fn is_another_by(
    shared: &Shared,
    entry: &Arc<Replica>,
    tried: Option<&Replica>,
    by: Instant,
) -> bool {
    if !entry.has_choice() {
        return false;
    }
    let mut reloads = shared.reloads.subscribe();
    let another = async {
        loop {
            let present = present(shared, entry);
            if present.is_ok_and(|now| tried.is_none_or(|tried| now.site != tried.site)) {
                return;
            }
            if reloads.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    };
    timeout(by.saturating_duration_since(Instant::now()), another).await.is_ok()
}

/// Has the sites looked at now: a link has ended, or could not be opened.
pub(super) fn hurry(shared: &Shared, replica: &Replica) {
    if let Some(entry) = followed(shared, replica) {
        entry.hurry();
    }
}

/// The site that links of an entry go to, for the log; all of them while none is followed.
pub(super) fn site(shared: &Shared, replica: &Arc<Replica>) -> String {
    present(shared, replica).map_or_else(|_| replica.sites(), |replica| replica.site.clone())
}
