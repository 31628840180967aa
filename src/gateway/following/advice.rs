//! What a person is advised to do where it is not clear which Redis is the master, and where it is away.
//!
//! No advice, taken word by word, may make a second master or empty a replica: what does so comes last, with
//! what must be seen to before.

use crate::lineage::judge::Look;
use crate::units::Address;

/// A Redis that may be the master.
#[derive(Debug)]
pub(super) struct Party<'a> {
    /// Its address.
    pub(super) place: &'a Address,
    /// What it was last seen to be.
    pub(super) look: &'a Look,
    /// Whether it has the data that was followed.
    pub(super) has_data: bool,
}

/// What advice depends on.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// The name of the entry.
    pub(super) name: &'a str,
    /// Every Redis that is known.
    pub(super) parties: &'a [Party<'a>],
    /// The one that is followed.
    pub(super) present: Option<&'a Address>,
    /// Where a replica of another site connects, if the config has that.
    pub(super) entry: Option<&'a str>,
}

impl Scene<'_> {
    /// What to do.
    pub(super) fn next_step(&self) -> String {
        let rivals: Vec<_> = self.parties.iter().filter(|party| self.is_rival(party)).collect();
        let order = rivals.iter().map(|party| format!("replgate follow {} {}", self.name, party.place));
        let order = order.collect::<Vec<_>>().join(", or ");
        let is_away = |place: &Address| {
            self.parties.iter().any(|party| party.place == place && matches!(party.look, Look::Away(_)))
        };
        match self.present {
            Some(own) if is_away(own) && rivals.is_empty() => self.without_master(),
            Some(own) if is_away(own) => format!(
                "repair what is said of {own}, or wait for it; if it is lost for good and nothing writes to it any more, see what another one costs: {order} (--yes follows it)"
            ),
            Some(own) => format!(
                "find out which one clients write to, and make the other one its replica (REPLICAOF); if {own} is the wrong one, see what another one costs: {order} (--yes follows it)"
            ),
            None if rivals.is_empty() => self.without_master(),
            None => self.among(&rivals, &order),
        }
    }

    fn is_rival(&self, party: &Party<'_>) -> bool {
        matches!(party.look, Look::Master { .. }) && self.present != Some(party.place)
    }

    /// No Redis says that it is the master.
    fn without_master(&self) -> String {
        let offset = |party: &Party<'_>| match party.look {
            Look::Other { standing: Some(standing), .. } => Some(standing.offset),
            _ => None,
        };
        let furthest = self.parties.iter().filter(|party| party.has_data && offset(party).is_some());
        let furthest = furthest.max_by_key(|party| offset(party));
        let promote = furthest.map_or_else(
            || "promote the one that is to be the master".to_owned(),
            |party| format!("promote the one that has most: {}", no_one(party.place)),
        );
        format!(
            "repair what is said of the master, or wait for it; if it is lost for good, make sure that nothing writes to it any more, then {promote}"
        )
    }

    /// Nobody is followed, and some say that they are the master.
    fn among(&self, rivals: &[&Party<'_>], order: &str) -> String {
        let mut steps = Vec::new();
        let one = &rivals[0].place;
        if let Some(entry) = self.entry {
            let Address { host, port } = one;
            steps.push(format!(
                "if another site has the master now: redis-cli -h {host} -p {port} REPLICAOF {entry}"
            ));
        }
        let holder =
            self.parties.iter().find(|party| party.has_data && matches!(party.look, Look::Other { .. }));
        if let Some(holder) = holder {
            steps.push(format!(
                "{} has the data that was followed: if it is to be the master, make sure that nothing writes to {one}, then {}",
                holder.place,
                no_one(holder.place)
            ));
        }
        steps.push(format!("see what each would cost: {order} (--yes follows it)"));
        steps.join("; ")
    }
}

/// The command that promotes a Redis.
fn no_one(Address { host, port }: &Address) -> String {
    format!("redis-cli -h {host} -p {port} REPLICAOF NO ONE")
}

/// What is to be said of several, those with the same words together.
pub(super) fn together(said: impl Iterator<Item = (String, String)>) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (name, words) in said {
        match groups.iter_mut().find(|(known, _)| *known == words) {
            Some((_, names)) => names.push(name),
            None => groups.push((words, vec![name])),
        }
    }
    let clause = |(words, names): (String, Vec<String>)| match &names[..] {
        [name] => format!("{name} {words}"),
        names => format!("each of {} {words}", names.join(" and ")),
    };
    groups.into_iter().map(clause).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::{History, Standing};

    fn standing(offset: u64) -> Standing {
        Standing { history: History::read(&[b'a'; 40]).unwrap(), offset, earlier: None, run: None }
    }

    fn replica(offset: u64) -> Look {
        Look::Other { standing: Some(standing(offset)), words: "is a replica".to_owned() }
    }

    fn advice(looks: &[(Look, bool)], present: Option<usize>, entry: Option<&str>) -> String {
        let places: Vec<_> = (1..)
            .map(|last| Address { host: format!("10.0.0.{last}"), port: 6379 })
            .take(looks.len())
            .collect();
        let both = places.iter().zip(looks);
        let parties: Vec<_> =
            both.map(|(place, (look, has_data))| Party { place, look, has_data: *has_data }).collect();
        let present = present.map(|at| &places[at]);
        Scene { name: "orders", parties: &parties, present, entry }.next_step()
    }

    #[test]
    fn a_master_that_is_away_is_waited_for_before_another_one_is_promoted() {
        let away = || (Look::Away("cannot be reached".to_owned()), false);
        let said = advice(&[away(), (replica(5), true), (replica(9), true)], Some(0), None);
        assert!(
            said.contains("or wait for it; if it is lost for good, make sure that nothing writes"),
            "{said}"
        );
        assert!(
            said.ends_with("redis-cli -h 10.0.0.3 -p 6379 REPLICAOF NO ONE"),
            "the one that has most: {said}"
        );
        let master = (Look::Master { standing: standing(3) }, false);
        let said = advice(&[away(), master], Some(0), None);
        assert!(
            said.contains("of 10.0.0.1:6379, or wait for it; if") && said.contains("(--yes follows it)"),
            "{said}"
        );
    }

    #[test]
    fn who_was_started_again_without_the_data_is_not_followed_as_the_first_thing() {
        let blank = (Look::Master { standing: standing(0) }, false);
        let said = advice(&[blank.clone(), (replica(9), true)], None, Some("127.0.0.1 6390"));
        let steps: Vec<_> = said.split("; ").collect();
        assert!(steps[0].ends_with("redis-cli -h 10.0.0.1 -p 6379 REPLICAOF 127.0.0.1 6390"), "{said}");
        assert!(steps[1].starts_with("10.0.0.2:6379 has the data that was followed"), "{said}");
        assert!(
            steps[2].starts_with("see what each would cost: replgate follow orders 10.0.0.1:6379"),
            "{said}"
        );
        let said = advice(&[blank], None, None);
        assert!(said.starts_with("see what each would cost"), "{said}");
    }

    #[test]
    fn of_two_masters_it_is_found_out_first_which_one_is_written_to() {
        let master = |offset| (Look::Master { standing: standing(offset) }, true);
        let said = advice(&[master(9), master(5)], Some(0), None);
        assert!(said.starts_with("find out which one clients write to"), "{said}");
        assert!(
            said.contains("replgate follow orders 10.0.0.2:6379") && !said.contains("10.0.0.1:6379 ("),
            "{said}"
        );
    }

    #[test]
    fn the_same_words_are_said_once() {
        let said = [("one", "is a master"), ("two", "is away"), ("three", "is a master")];
        let said = said.map(|(name, words)| (name.to_owned(), words.to_owned()));
        assert_eq!(together(said.into_iter()), "each of one and three is a master; two is away");
    }
}
