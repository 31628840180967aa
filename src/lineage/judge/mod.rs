//! Decides who has the master, of several that may: a pure state machine.
//!
//! The parties are the Redis of a `[[master]]`, or the sites of a `[[replica]]`. Each step takes what they
//! were last seen to be. Whoever is followed stays so while it lives. Somebody else is followed by itself
//! only if its history proves that nothing is lost that was passed on ([`Kinship::is_proof`]), or if the
//! Sentinels or a person say so. Everything else is told, and left to a person.
//!
//! ```text
//!            names, lineage or a person                 demoted, restarted without its data
//!   nobody ------------------------------> followed ------------------------------------------> nobody
//!                                           |    ^
//!                                           +----+ names, lineage (if it is away), a person: another one
//! ```

use super::{Followed, History, Kinship, Standing};

/// What a party was last seen to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It was not asked yet.
    NotYet,
    /// It says that it is the master.
    Master {
        /// Where it stands.
        standing: Standing,
    },
    /// It says that it is not the master.
    Other {
        /// Where it stands, if that is known.
        standing: Option<Standing>,
        /// What it is, as a clause: `is a replica of 10.0.0.6:6379`.
        words: String,
    },
    /// What it is cannot be told now: why, as a clause.
    Away(String),
}

/// What the Sentinels say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sentinels {
    /// There are none in the config.
    None,
    /// Too few of them answer for a majority: the histories decide.
    Silent,
    /// No majority of them agrees, or what it names may not be followed: nothing moves.
    Undecided,
    /// More than half of them name this party.
    Name {
        /// The party.
        party: usize,
        /// The process that more than half of them have seen there, if they have.
        run: Option<super::Run>,
    },
}

/// Who said that a party has the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A majority of the Sentinels.
    Sentinel,
    /// Its history.
    Lineage,
    /// Every other party answered as its replica, and nothing was followed before.
    First,
    /// A person.
    Person,
}

/// Who is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The party.
    pub party: usize,
    /// Who said so.
    pub by: By,
    /// Since when, seconds since 1970.
    pub since: i64,
}

/// What a step has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A party is followed from now on.
    Follows {
        /// The party.
        party: usize,
        /// Who said so.
        by: By,
        /// How its data is related to what was followed; `None` if nothing was.
        kinship: Option<Kinship>,
    },
    /// Nobody is followed any more, since this party does not have the master.
    Lost {
        /// The party.
        party: usize,
        /// Why.
        why: Doubt,
    },
}

/// Why a party is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It says that it is not the master: what it is, as a clause.
    NoMaster(String),
    /// What it is cannot be told: why, as a clause.
    Away(String),
    /// It says that it is the master, and so does the one that is followed.
    Rival,
    /// It took over without this many of the bytes that were passed on.
    Behind(u64),
    /// It took over, and it is not known what had been passed on.
    Uncertain,
    /// Its data is of another history.
    Stranger,
    /// It is the one that was followed, and was started again with data of another history.
    Restarted,
    /// Another party qualifies as well.
    Ambiguous,
    /// Nothing was followed before, and not every other party answers as its replica.
    Unproven,
    /// The Sentinels name another party, or nobody.
    NotNamed,
}

/// Decides for one entry of the config.
#[derive(Clone, Debug)]
pub struct Judge {
    followed: Option<Followed>,
    present: Option<Present>,
    /// The party that is followed, or was last.
    last: Option<usize>,
    doubts: Vec<Option<Doubt>>,
    /// Whether nothing was followed before, and nobody got anything of what is followed: a Redis of a new site,
    /// say, that was a master before it became a replica. So there is nothing that a successor must have.
    is_unused: bool,
    /// The earlier id of what is followed, if its Redis has renamed the stream, and the first offset that does not
    /// belong to it.
    renamed: Option<(History, u64)>,
}

impl Judge {
    /// A judge over this many parties, with what is known from before.
    pub fn new(parties: usize, followed: Option<Followed>, present: Option<Present>) -> Self {
        let present = present.filter(|present| present.party < parties && followed.is_some());
        let last = present.map(|present| present.party);
        // What the process has done meanwhile was not seen.
        let followed = followed.map(|followed| Followed { run: None, ..followed });
        Self { followed, present, last, doubts: vec![None; parties], is_unused: false, renamed: None }
    }

    /// The place of a party is taken by another one, which is not followed.
    pub fn replace(&mut self, party: usize) {
        self.last = self.last.filter(|last| *last != party);
        self.present = self.present.filter(|present| present.party != party);
        self.doubts[party] = None;
    }

    /// The party that is followed, or was last.
    pub fn last(&self) -> Option<usize> {
        self.last
    }

    /// This party was the last one that was followed.
    pub fn followed_last(mut self, party: Option<usize>) -> Self {
        self.last = self.last.or(party.filter(|party| *party < self.doubts.len()));
        self
    }

    /// Who is followed.
    pub fn present(&self) -> Option<Present> {
        self.present
    }

    /// What was followed last.
    pub fn followed(&self) -> Option<&Followed> {
        self.followed.as_ref()
    }

    /// Whether nobody got anything of what is followed, and nothing was followed before. It need not be known
    /// after a restart then.
    pub fn is_unused(&self) -> bool {
        self.is_unused
    }

    /// A Redis with this standing as another site is told of it. Redis renames its stream when its first replica
    /// comes, or after an hour without one, and then states no earlier id. Who has seen that it is the same process
    /// all the time says it in its place.
    pub fn told(&self, standing: &Standing) -> Standing {
        let is_followed = self.followed.as_ref().is_some_and(|known| known.history == standing.history);
        let renamed = self.renamed.filter(|_| is_followed);
        Standing { earlier: standing.earlier.or(renamed), ..standing.clone() }
    }

    /// Why each party is not followed; `None` for the one that is, and for one that was not asked yet.
    pub fn doubts(&self) -> &[Option<Doubt>] {
        &self.doubts
    }

    /// The links have passed this on; `None` if that is not known.
    pub fn passes(&mut self, history: History, offset: Option<u64>) {
        if let Some(followed) = &mut self.followed {
            followed.passes(history, offset);
            // A snapshot may be all that was passed on: of a master whose stream has not begun.
            self.is_unused &= followed.history != history;
        }
    }

    /// A person has made a party a replica of this stream, and it has the data of that now, whatever was followed
    /// before. Only while nobody is followed.
    pub fn adopt(&mut self, history: History) {
        if self.present.is_none() && self.followed.as_ref().is_none_or(|known| known.history != history) {
            self.followed = Some(Followed { history, passed: Some(0), run: None });
            (self.last, self.is_unused) = (None, false);
        }
    }

    /// Judges anew. `looks` has one for each party; `now` is in seconds since 1970.
    pub fn step(&mut self, looks: &[Look], sentinels: &Sentinels, now: i64) -> Option<Change> {
        debug_assert_eq!(looks.len(), self.doubts.len());
        let before = self.present;
        self.judge_present(looks, sentinels);
        let lost = before.filter(|_| self.present.is_none());
        let next = self.next(looks, sentinels);
        if let Some((party, by)) = next
            && let Look::Master { standing, .. } = &looks[party]
        {
            let kinship = self.kinship(standing);
            self.take(party, standing, by, now);
            self.doubt(looks, sentinels);
            return Some(Change::Follows { party, by, kinship });
        }
        if self.present.is_none() {
            self.advance(looks);
            self.note_replica(looks);
        }
        self.doubt(looks, sentinels);
        let party = lost?.party;
        let why = self.doubts[party].clone().unwrap_or(Doubt::Stranger);
        Some(Change::Lost { party, why })
    }

    /// A person says that this party has the master. The error is why it cannot be followed.
    pub fn order(
        &mut self,
        party: usize,
        looks: &[Look],
        sentinels: &Sentinels,
        now: i64,
    ) -> Result<Change, Doubt> {
        if let Sentinels::Name { party: named, .. } = sentinels
            && *named != party
        {
            // They would take it back at once.
            return Err(Doubt::NotNamed);
        }
        match &looks[party] {
            Look::Master { standing, .. } => {
                let kinship = self.kinship(standing);
                self.take(party, standing, By::Person, now);
                self.doubt(looks, sentinels);
                Ok(Change::Follows { party, by: By::Person, kinship })
            }
            Look::Other { words, .. } => Err(Doubt::NoMaster(words.clone())),
            Look::Away(words) => Err(Doubt::Away(words.clone())),
            Look::NotYet => Err(Doubt::Away("was not asked yet".to_owned())),
        }
    }

    /// How the data of a party is related to what was followed; `None` if nothing was.
    pub fn kinship(&self, standing: &Standing) -> Option<Kinship> {
        self.followed.as_ref().map(|followed| followed.kinship(standing))
    }

    /// Whether the one that is followed stays.
    fn judge_present(&mut self, looks: &[Look], sentinels: &Sentinels) {
        let Some(Present { party, .. }) = self.present else { return };
        match &looks[party] {
            Look::NotYet => {}
            // Whatever it does meanwhile is not seen.
            Look::Away(_) => self.forget_process(),
            Look::Other { .. } => {
                self.present = None;
                self.forget_process();
                if self.is_unused {
                    (self.followed, self.last) = (None, None);
                }
            }
            Look::Master { standing } => {
                // What its links have passed on since it was looked at is more than it had then.
                let goes_on =
                    self.followed.as_ref().is_some_and(|followed| followed.history == standing.history);
                let proven = self.kinship(standing).is_some_and(Kinship::is_proof);
                if goes_on || proven || self.is_seen_as_master(party, standing, sentinels) {
                    self.continue_with(standing);
                } else {
                    self.present = None;
                    self.forget_process();
                }
            }
        }
    }

    /// A process counts as the one that was followed only while every look shows it as the master: Redis also
    /// gives up the earlier id of its stream after an hour without a replica, and with that what would show that
    /// it has followed another one.
    fn forget_process(&mut self) {
        if let Some(followed) = &mut self.followed {
            followed.run = None;
        }
    }

    /// Whether the Sentinels say of this very process that it is the master.
    fn is_seen_as_master(&self, party: usize, standing: &Standing, sentinels: &Sentinels) -> bool {
        matches!(sentinels, Sentinels::Name { party: named, run: Some(run) }
            if *named == party && standing.run.as_ref() == Some(run))
    }

    /// Somebody else to follow, or the first one.
    fn next(&self, looks: &[Look], sentinels: &Sentinels) -> Option<(usize, By)> {
        match sentinels {
            Sentinels::Name { party, .. } => {
                let Look::Master { standing, .. } = &looks[*party] else { return None };
                if self.present.is_some_and(|present| present.party == *party) {
                    return None;
                }
                let kinship = self.kinship(standing);
                // They name an address, and may not know that another process has taken the place of the one that
                // was followed there.
                let is_known = kinship.is_none_or(Kinship::is_proof)
                    || !self.was_followed_at(*party)
                    || self.is_seen_as_master(*party, standing, sentinels);
                is_known.then_some((*party, By::Sentinel))
            }
            Sentinels::Undecided => None,
            Sentinels::None | Sentinels::Silent => self.by_lineage(looks),
        }
    }

    fn by_lineage(&self, looks: &[Look]) -> Option<(usize, By)> {
        if let Some(present) = self.present
            && matches!(looks[present.party], Look::Master { .. } | Look::NotYet)
        {
            return None;
        }
        if looks.contains(&Look::NotYet) {
            return None;
        }
        if self.followed.is_some() {
            let mut qualified = self.qualified(looks);
            let first = qualified.next()?;
            return qualified.next().is_none().then_some((first, By::Lineage));
        }
        let mut masters = masters(looks);
        let (first, standing) = masters.next()?;
        let is_alone = looks.iter().enumerate().all(|(party, look)| match look {
            Look::Other { standing: Some(other), .. } => other.history == standing.history,
            _ => party == first,
        });
        is_alone.then_some((first, By::First))
    }

    /// The parties that may be followed by their history.
    fn qualified<'a>(&'a self, looks: &'a [Look]) -> impl Iterator<Item = usize> + 'a {
        let proven = |standing: &Standing| self.kinship(standing).is_some_and(Kinship::is_proof);
        masters(looks).filter(move |(_, standing)| proven(standing)).map(|(party, _)| party)
    }

    /// Follows a party from now on.
    fn take(&mut self, party: usize, standing: &Standing, by: By, now: i64) {
        self.present = Some(Present { party, by, since: now });
        self.last = Some(party);
        self.is_unused |= self.followed.is_none();
        self.continue_with(standing);
    }

    /// What is followed has this standing now. All that it has may have been passed on by now, by another gateway
    /// of this site for one.
    fn continue_with(&mut self, standing: &Standing) {
        if let Some(before) = self.followed.as_ref().filter(|before| before.history != standing.history) {
            let is_renamed = before.kinship(standing) == Kinship::Renamed;
            self.renamed = is_renamed.then_some((before.history, standing.offset + 1));
        }
        let known = self.followed.as_ref().filter(|followed| {
            // The offsets go on under another id.
            followed.history == standing.history || followed.kinship(standing).is_proof()
        });
        let passed = known.and_then(|followed| followed.passed).unwrap_or(0).max(standing.offset);
        self.followed =
            Some(Followed { history: standing.history, passed: Some(passed), run: standing.run.clone() });
    }

    /// Nobody has the master here. The stream may go on somewhere else, with a replica here: then that is
    /// what a successor must have.
    fn advance(&mut self, looks: &[Look]) {
        let Some(followed) = &self.followed else { return };
        if masters(looks).next().is_some() {
            return;
        }
        let replicas = looks.iter().filter_map(|look| match look {
            Look::Other { standing: Some(standing), .. } => Some(standing),
            _ => None,
        });
        let mut next = replicas.filter(|standing| followed.kinship(standing) == Kinship::Successor);
        let Some(first) = next.next() else { return };
        if next.all(|other| other.history == first.history) {
            let passed = followed.passed;
            self.followed = Some(Followed { history: first.history, passed, run: None });
        }
    }

    /// Nothing was followed yet, and there is a replica: its stream is what a successor must have. Otherwise, should it
    /// come again without its data, it would be the first one.
    fn note_replica(&mut self, looks: &[Look]) {
        if self.followed.is_some() || masters(looks).next().is_some() {
            return;
        }
        let mut replicas = looks.iter().filter_map(|look| match look {
            Look::Other { standing: Some(standing), .. } => Some(standing),
            _ => None,
        });
        if let Some(first) = replicas.next()
            && replicas.all(|other| other.history == first.history)
        {
            self.adopt(first.history);
        }
    }

    /// Whether this party was the last one that was followed.
    fn was_followed_at(&self, party: usize) -> bool {
        self.last == Some(party)
    }

    /// Says of each party why it is not followed.
    fn doubt(&mut self, looks: &[Look], sentinels: &Sentinels) {
        let doubts = looks.iter().enumerate().map(|(party, look)| {
            if self.present.is_some_and(|present| present.party == party) {
                return None;
            }
            match look {
                Look::NotYet => None,
                Look::Away(words) => Some(Doubt::Away(words.clone())),
                Look::Other { words, .. } => Some(Doubt::NoMaster(words.clone())),
                Look::Master { standing, .. } => self.doubt_of(party, standing, looks, sentinels),
            }
        });
        self.doubts = doubts.collect();
    }

    /// Why a party is not followed that says that it is the master.
    fn doubt_of(
        &self,
        party: usize,
        standing: &Standing,
        looks: &[Look],
        sentinels: &Sentinels,
    ) -> Option<Doubt> {
        if self.present.is_some_and(|present| !matches!(looks[present.party], Look::Away(_))) {
            return Some(Doubt::Rival);
        }
        match sentinels {
            Sentinels::Name { party: named, .. } if *named == party => return Some(Doubt::Restarted),
            Sentinels::Name { .. } | Sentinels::Undecided => return Some(Doubt::NotNamed),
            // Not every party was asked yet.
            _ if looks.contains(&Look::NotYet) => return None,
            Sentinels::None | Sentinels::Silent => {}
        }
        Some(match self.kinship(standing) {
            None => Doubt::Unproven,
            Some(kinship) if kinship.is_proof() => Doubt::Ambiguous,
            Some(Kinship::Behind(lost)) => Doubt::Behind(lost),
            Some(Kinship::Uncertain) => Doubt::Uncertain,
            Some(_) if self.was_followed_at(party) => Doubt::Restarted,
            Some(_) => Doubt::Stranger,
        })
    }
}

/// The parties that say that they are the master.
fn masters(looks: &[Look]) -> impl Iterator<Item = (usize, &Standing)> {
    looks.iter().enumerate().filter_map(|(party, look)| match look {
        Look::Master { standing, .. } => Some((party, standing)),
        _ => None,
    })
}

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod tests;
