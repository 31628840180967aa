//! Which links are to be there, so that it is a fault if they are not.
//!
//! Where the master may be at one of several sites, most entries are without a link as long as another site has it,
//! and that is as it should be.

use std::collections::HashSet;

use super::{Status, follow_words};
use crate::follow::FollowStatus;
use crate::registry::LinkStatus;

/// Who is followed, by what this site has.
#[derive(Debug)]
pub struct Awaited<'a> {
    following: &'a [FollowStatus],
    links: HashSet<(&'a str, &'a str)>,
}

impl<'a> Awaited<'a> {
    /// What is to be there, if these are followed. `links` are there.
    pub fn new(following: &'a [FollowStatus], links: &'a [LinkStatus]) -> Self {
        let links = links.iter().map(|link| (&*link.role, &*link.name)).collect();
        Self { following, links }
    }

    /// What is to be there in this state.
    pub fn of(status: &'a Status) -> Self {
        Self::new(&status.following, &status.links)
    }

    fn entry(&self, role: &str, name: &str) -> Option<&'a FollowStatus> {
        self.following.iter().find(|entry| entry.role == role && entry.name == name)
    }

    /// Whether this entry has any link.
    pub fn has_link(&self, role: &str, name: &str) -> bool {
        self.links.contains(&(role, name))
    }

    /// Whether a link of this entry with this far site is to be there. It is not with a site that is not followed;
    /// where nobody is followed, which is told by itself; and for a replica of what has its master at this site.
    pub fn is(&self, role: &str, name: &str, site: &str) -> bool {
        let entry = self.entry(role, name);
        if role != "replica" {
            return entry.is_none_or(|entry| entry.present.is_some());
        }
        let is_followed = |entry: &FollowStatus| {
            entry.present.as_ref().is_some_and(|present| present.party.eq_ignore_ascii_case(site))
        };
        entry.is_none_or(is_followed) && (self.has_link(role, name) || !self.is_master_here(name))
    }

    /// Whether this site has the master of this name.
    pub fn is_master_here(&self, name: &str) -> bool {
        self.entry("master", name).is_some_and(|entry| entry.present.is_some())
    }
}

/// The entries with the word that one of a replica waits too while this site has the master: then no other site has.
pub fn with_waiting(mut following: Vec<FollowStatus>) -> Vec<FollowStatus> {
    let is_master = |entry: &&FollowStatus| entry.role == "master" && entry.present.is_some();
    let here: HashSet<String> = following.iter().filter(is_master).map(|entry| entry.name.clone()).collect();
    for entry in &mut following {
        entry.standby |= entry.role == "replica" && entry.present.is_none() && here.contains(&entry.name);
        entry.standby &= entry.present.is_none();
    }
    following
}

/// Whether the entry waits: nobody is followed, and nothing is wrong.
pub fn waits(entry: &FollowStatus) -> bool {
    entry.standby && entry.present.is_none()
}

/// Whether who is followed cannot be reached.
pub fn is_away(entry: &FollowStatus) -> bool {
    entry.parties.iter().any(|party| follow_words::is_present(entry, party) && party.state == "away")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(role: &str, present: Option<&str>) -> FollowStatus {
        serde_json::from_value(
            json!({"name": "orders", "role": role, "present": present.map(|party| json!({"party": party}))}),
        )
        .unwrap()
    }

    #[test]
    fn no_link_is_awaited_with_a_site_that_is_not_followed_nor_of_a_replica_whose_master_is_here() {
        let is = |following: &[FollowStatus], role: &str, site: &str| {
            Awaited::new(following, &[]).is(role, "orders", site)
        };
        assert!(is(&[], "replica", "dc1") && is(&[], "master", "dc1"), "it has no choice");
        let choice = [entry("replica", Some("DC1"))];
        assert!(is(&choice, "replica", "dc1") && !is(&choice, "replica", "dc2"));
        assert!(!is(&[entry("replica", None)], "replica", "dc1"));
        let here = [entry("master", Some("10.0.0.5:6379"))];
        assert!(is(&here, "master", "dc2") && !is(&here, "replica", "dc2"));
        let elsewhere = [entry("master", None)];
        assert!(!is(&elsewhere, "master", "dc2") && is(&elsewhere, "replica", "dc2"));
        let other = [FollowStatus { name: "carts".to_owned(), ..here[0].clone() }];
        assert!(is(&other, "replica", "dc2"), "another name");
    }

    #[test]
    fn the_replicas_entry_waits_while_its_own_site_has_the_master() {
        let waiting = |all: Vec<FollowStatus>| with_waiting(all).iter().map(waits).collect::<Vec<_>>();
        let five = Some("10.0.0.5:6379");
        assert_eq!(waiting(vec![entry("master", five), entry("replica", None)]), [false, true]);
        assert_eq!(waiting(vec![entry("master", five), entry("replica", Some("dc2"))]), [false, false]);
        assert_eq!(waiting(vec![entry("master", None), entry("replica", None)]), [false, false]);
        let standby = FollowStatus { standby: true, ..entry("master", None) };
        assert_eq!(waiting(vec![standby, entry("replica", None)]), [true, false]);
    }
}
