//! Limits how many links a site may have, and how many syncs it may ask for within a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Registry;
use crate::config::Limits;
use crate::redis::full_syncs::FullSyncs;
use crate::redis::grants::Grants;
use crate::redis::guesses::Guesses;
use crate::redis::openings::{Opening, Openings};
use crate::redis::pace::Pace;

/// Time after which a link that has asked for no sync is ended if its site has reached its limit of
/// links: some round trips of a long path.
const IDLE: Duration = Duration::from_secs(3);

/// Most links of a site beyond its limit, which are about to end.
const SURPLUS: usize = 8;

/// The use of its limits by each site.
#[derive(Default)]
pub(super) struct Taken {
    links: HashMap<String, usize>,
    openings: HashMap<(String, String), Arc<Openings>>,
    /// The openings of a site's links that may not have asked for a sync yet.
    waiting: HashMap<String, Vec<Arc<Opening>>>,
    full_syncs: HashMap<(String, String), Arc<FullSyncs>>,
    grants: HashMap<(String, String), Arc<Grants>>,
    guesses: HashMap<(String, String), Arc<Guesses>>,
    paces: HashMap<(String, String), Arc<Pace>>,
}

/// A site's permission for one link; dropping it gives it back.
#[derive(Debug)]
pub struct Admission {
    registry: Arc<Registry>,
    site: String,
    /// Its token, until it asks for a sync.
    pub opening: Arc<Opening>,
    /// The limit on the site's full syncs from this master, if there is one.
    pub full_syncs: Option<Arc<FullSyncs>>,
    /// The two-connection syncs that the site has begun there.
    pub grants: Arc<Grants>,
    /// The passwords that the site has tried there.
    pub guesses: Arc<Guesses>,
    /// The limit on what it sends there without getting a reply.
    pub pace: Arc<Pace>,
}

impl Admission {
    /// Does not count the link among those that asked for no sync: the master is down.
    pub fn forgive(self) {
        self.opening.forgive();
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if let Some(live) = state.taken.links.get_mut(&self.site) {
            *live -= 1;
        }
        if let Some(waiting) = state.taken.waiting.get_mut(&self.site) {
            waiting.retain(|other| !Arc::ptr_eq(other, &self.opening));
        }
    }
}

impl Registry {
    /// The limits of the config have changed. What has been counted for a limit that is another one now
    /// begins anew for the links that are opened from now on.
    pub fn limit_to(&self, before: &Limits, now: &Limits) {
        let mut state = self.lock();
        if before.new_links_per_minute != now.new_links_per_minute {
            state.taken.openings.clear();
        }
        if before.full_syncs_per_minute != now.full_syncs_per_minute {
            state.taken.full_syncs.clear();
        }
    }

    /// Decides whether a site may open one more link to a master here. Returns a permission that
    /// the link keeps until its end; the error is the limit that is reached.
    pub fn admit(
        self: &Arc<Self>,
        site: &str,
        master: &str,
        limits: &Limits,
        lent: impl FnOnce() -> bool,
    ) -> Result<Admission, String> {
        let site = site.to_ascii_lowercase();
        let mut state = self.lock();
        let taken = &mut state.taken;
        let live = taken.links.get(&site).copied().unwrap_or(0);
        let now = Instant::now();
        let waiting = taken.waiting.entry(site.clone()).or_default();
        let mut oldest = None;
        waiting.retain(|opening| !opening.has_asked());
        if live >= limits.links_per_site && !(live < limits.links_per_site.saturating_mul(2) && lent()) {
            let idle = |opening: &Arc<Opening>| now.saturating_duration_since(opening.opened()) >= IDLE;
            oldest = waiting.iter().position(idle).filter(|_| live < limits.links_per_site + SURPLUS);
            if oldest.is_none() {
                return Err(format!("site {site} already has {live} links here (links_per_site)"));
            }
        }
        let of = (site.clone(), master.to_owned());
        let openings = taken.openings.entry(of.clone());
        let openings = openings.or_insert_with(|| Arc::new(Openings::new(limits.new_links_per_minute, now)));
        let opening = openings.open(now).map_err(|most| {
            format!("site {site} opened {most} links and more that asked for no sync; one more is let in every second or so")
        })?;
        // The older link is ended only after the new one is admitted.
        if let Some(oldest) = oldest {
            waiting.remove(oldest).evict();
        }
        waiting.push(Arc::clone(&opening));
        *taken.links.entry(site.clone()).or_default() += 1;
        let grants = Arc::clone(taken.grants.entry(of.clone()).or_default());
        let guesses = Arc::clone(taken.guesses.entry(of.clone()).or_default());
        let pace = Arc::clone(taken.paces.entry(of.clone()).or_default());
        let full_syncs = limits.full_syncs_per_minute.map(|most| {
            Arc::clone(taken.full_syncs.entry(of).or_insert_with(|| Arc::new(FullSyncs::new(most))))
        });
        let registry = Arc::clone(self);
        Ok(Admission { registry, site, opening, full_syncs, grants, guesses, pace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No earlier link lends its place.
    fn none() -> bool {
        false
    }

    #[test]
    fn links_beyond_the_limits_are_not_admitted() {
        let registry = Arc::new(Registry::default());
        let limits = Limits {
            memory: 1 << 30,
            links_per_site: 1,
            new_links_per_minute: 2,
            full_syncs_per_minute: None,
        };
        let admission = registry.admit("dc2", "orders", &limits, none).unwrap();
        assert!(registry.admit("DC2", "orders", &limits, none).unwrap_err().contains("links_per_site"));
        drop(registry.admit("dc3", "orders", &limits, none).unwrap());
        drop(admission);
        for _ in 1..60 {
            drop(registry.admit("dc2", "orders", &limits, none).unwrap());
        }
        assert!(registry.admit("dc2", "orders", &limits, none).unwrap_err().contains("asked for no sync"));
        registry.admit("dc2", "carts", &limits, none).unwrap().opening.asks(Instant::now()).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_another_is_admitted_beyond_the_limit_but_not_beyond_twice_that() {
        let registry = Arc::new(Registry::default());
        let limits = Limits {
            memory: 1 << 30,
            links_per_site: 2,
            new_links_per_minute: 60,
            full_syncs_per_minute: None,
        };
        let unused = || -> bool { panic!("there is room") };
        let mut admitted = vec![registry.admit("dc2", "orders", &limits, unused).unwrap()];
        admitted.push(registry.admit("dc2", "orders", &limits, unused).unwrap());
        assert!(registry.admit("dc2", "orders", &limits, none).is_err());
        admitted.extend([(); 2].map(|()| registry.admit("dc2", "orders", &limits, || true).unwrap()));
        assert!(registry.admit("dc2", "orders", &limits, || true).unwrap_err().contains("links_per_site"));
        admitted.truncate(3);
        assert!(registry.admit("dc2", "orders", &limits, none).is_err(), "no place is given twice");
    }
}
