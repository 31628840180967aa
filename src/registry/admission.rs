//! How many links a site may have, and how many new ones and full syncs within a
//! minute.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Registry;
use crate::config::Limits;
use crate::redis::full_syncs::FullSyncs;
use crate::redis::grants::Grants;
use crate::redis::guesses::Guesses;
use crate::redis::pace::Pace;

/// What each site has taken of what it may.
#[derive(Default)]
pub(super) struct Taken {
    links: HashMap<String, usize>,
    opened: HashMap<(String, String), VecDeque<Instant>>,
    full_syncs: HashMap<(String, String), Arc<FullSyncs>>,
    grants: HashMap<(String, String), Arc<Grants>>,
    guesses: HashMap<(String, String), Arc<Guesses>>,
    paces: HashMap<(String, String), Arc<Pace>>,
}

/// A site's permission for one link: given back when dropped.
#[derive(Debug)]
pub struct Admission {
    registry: Arc<Registry>,
    site: String,
    master: String,
    /// The bound on the site's full syncs from this master, where there is one.
    pub full_syncs: Option<Arc<FullSyncs>>,
    /// The syncs over two connections that the site has begun there.
    pub grants: Arc<Grants>,
    /// The passwords that it has tried there.
    pub guesses: Arc<Guesses>,
    /// What it says there without being answered.
    pub pace: Arc<Pace>,
}

impl Admission {
    /// Does not count it among the site's new links of this minute.
    pub fn forgive(self) {
        let mut state = self.registry.lock();
        if let Some(recent) = state.taken.opened.get_mut(&(self.site.clone(), self.master.clone())) {
            recent.pop_back();
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if let Some(live) = state.taken.links.get_mut(&self.site) {
            *live -= 1;
        }
    }
}

impl Registry {
    /// Asks whether a site may open one more link to a master here; the answer is
    /// a place that the link keeps until its end, or the limit that is reached.
    pub fn admit(self: &Arc<Self>, site: &str, master: &str, limits: &Limits) -> Result<Admission, String> {
        let site = site.to_ascii_lowercase();
        let mut state = self.lock();
        let taken = &mut state.taken;
        let live = taken.links.get(&site).copied().unwrap_or(0);
        if live >= limits.links_per_site {
            return Err(format!("site {site} already has {live} links here (links_per_site)"));
        }
        let now = Instant::now();
        let of = (site.clone(), master.to_owned());
        let recent = taken.opened.entry(of.clone()).or_default();
        while recent.front().is_some_and(|then| now.duration_since(*then) > Duration::from_secs(60)) {
            recent.pop_front();
        }
        if recent.len() >= limits.new_links_per_minute {
            return Err(format!(
                "site {site} opened {} links within a minute (new_links_per_minute)",
                recent.len()
            ));
        }
        recent.push_back(now);
        *taken.links.entry(site.clone()).or_default() += 1;
        let grants = Arc::clone(taken.grants.entry(of.clone()).or_default());
        let guesses = Arc::clone(taken.guesses.entry(of.clone()).or_default());
        let pace = Arc::clone(taken.paces.entry(of.clone()).or_default());
        let full_syncs = limits.full_syncs_per_minute.map(|most| {
            Arc::clone(taken.full_syncs.entry(of).or_insert_with(|| Arc::new(FullSyncs::new(most))))
        });
        let (registry, master) = (Arc::clone(self), master.to_owned());
        Ok(Admission { registry, site, master, full_syncs, grants, guesses, pace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_beyond_the_limits_are_not_admitted() {
        let registry = Arc::new(Registry::default());
        let limits = Limits {
            memory: 1 << 30,
            links_per_site: 1,
            new_links_per_minute: 2,
            full_syncs_per_minute: None,
        };
        let place = registry.admit("dc2", "orders", &limits).unwrap();
        assert!(registry.admit("DC2", "orders", &limits).unwrap_err().contains("links_per_site"));
        drop(registry.admit("dc3", "orders", &limits).unwrap());
        drop(place);
        drop(registry.admit("dc2", "orders", &limits).unwrap());
        assert!(registry.admit("dc2", "orders", &limits).unwrap_err().contains("new_links_per_minute"));
    }
}
