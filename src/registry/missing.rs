//! What is missing: a link where there was a working one, and a sync where a replica asked for one.
//!
//! Links that are gone are not among the live ones, so this is remembered beside them, until a restart.

use std::collections::HashMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{EndedLink, LATELY, LinkGuard, Registry};
use crate::link::{End, Side};

/// Seconds without a working link after which it is missing. The alert rules wait for as long.
pub const DOWN_AFTER: i64 = 120;

/// Seconds for which a link is missed. After that it counts as taken away. The alert rules look back as far.
pub const REMEMBERED_FOR: i64 = 7 * 86_400;

/// An entry of the config that had a working link with a far site and has none now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingLink {
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: String,
    /// The far site.
    pub site: String,
    /// When the last one ended, in seconds since 1970.
    pub since: i64,
    /// How it ended.
    pub reason: String,
}

/// An entry of the config of which a replica asked for a sync a moment ago and got an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingSync {
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: String,
    /// The far site.
    pub site: String,
    /// How its link ended.
    pub reason: String,
}

type Key = (Side, String, String);

/// Remembers a link that has worked and has ended now. Forgets what is missed no longer.
pub(super) fn worked(all: &mut HashMap<Key, MissingLink>, side: Side, ended: &EndedLink) {
    let EndedLink { reason, at, link } = ended.clone();
    all.retain(|_, worked| at.saturating_sub(worked.since) < REMEMBERED_FOR);
    let key = (side, link.name.clone(), link.site.to_ascii_lowercase());
    all.insert(key, MissingLink { name: link.name, role: link.role, site: link.site, since: at, reason });
}

impl LinkGuard {
    /// Remembers that a replica got an error in place of a sync, if that is how its link has ended. A client
    /// that sent something else is no replica.
    pub(super) fn note_missing_sync(&self, reason: &str, end: &End) {
        let Some(observed) = &self.observed else { return };
        let now = Instant::now();
        if !matches!(end, End::CommandRefused(_)) && observed.view(now).complaint.is_some() {
            observed.syncs().got_none(reason, now);
        }
    }
}

impl Registry {
    /// Every entry that had a working link with a far site, and has none since [`DOWN_AFTER`], for
    /// [`REMEMBERED_FOR`] at most. `now` is in seconds since 1970.
    pub fn missing_links(&self, now: i64) -> Vec<MissingLink> {
        let state = self.lock();
        let is_missed = |since: i64| (DOWN_AFTER..REMEMBERED_FOR).contains(&now.saturating_sub(since));
        let works = |(side, name, site): &Key| {
            let mut links = state.links.iter().filter(|link| link.has_begun());
            links.any(|link| link.side == *side && link.name == *name && link.site.eq_ignore_ascii_case(site))
        };
        let missed = state.worked.iter().filter(|(key, worked)| is_missed(worked.since) && !works(key));
        let mut missed: Vec<_> = missed.map(|(_, worked)| worked.clone()).collect();
        missed.sort_by(|one, other| {
            (&one.name, &one.role, &one.site).cmp(&(&other.name, &other.role, &other.site))
        });
        missed
    }

    /// Every entry of which a replica recently got an error in place of a sync, and none has begun since.
    pub fn missing_syncs(&self) -> Vec<MissingSync> {
        let (state, now) = (self.lock(), Instant::now());
        let without = state.syncs.iter().filter_map(|((side, name, site), syncs)| {
            let reason = syncs.none_within(LATELY, now)?;
            Some(MissingSync { name: name.clone(), role: side.role().to_owned(), site: site.clone(), reason })
        });
        let mut without: Vec<_> = without.collect();
        without.sort_by(|one, other| {
            (&one.name, &one.role, &one.site).cmp(&(&other.name, &other.role, &other.site))
        });
        without
    }
}
