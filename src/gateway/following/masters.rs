//! One task for each `[[master]]` that follows one of several Redis: it takes what the candidates and the
//! Sentinels say, judges, and writes for the sessions where links go now.
//!
//! With Sentinels alone, the parties are the Redis that they name and the one that they named before.

mod standby;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::standby::Standby;
use super::advice;
use super::keeper::Keeper;
use super::words;
use crate::clock;
use crate::config::{Follow, Master, Sentinel};
use crate::follow::candidate::{Candidate, Seen};
use crate::follow::kept::{Kept, by_words};
use crate::follow::pace::Lead;
use crate::follow::sentinel::{Claim, Watched, Word};
use crate::follow::vote::{self, Outcome, Said};
use crate::follow::{Entry, FollowStatus, Order, PresentStatus, Target};
use crate::lineage::judge::{By, Change, Doubt, Judge, Look, Present, Sentinels};
use crate::lineage::{Followed, Kinship};
use crate::link::Side;
use crate::registry::{Kind, Topic, log_throttled, notice};
use crate::session::Shared;
use crate::units::Address;

/// Interval of looks while all is well.
const CALM: Duration = Duration::from_secs(1);

/// Interval of looks while nobody is followed, or another one is about to be.
const URGENT: Duration = Duration::from_millis(250);

/// Time for which looks are urgent after a Sentinel has told of a switch.
const SWITCHING: Duration = Duration::from_secs(10);

/// Time for which there must be a doubt before it is logged: during a failover there are many short ones.
const DOUBT_AFTER: Duration = Duration::from_secs(2);

/// Time after which a doubt that is still there is logged again.
const DOUBT_AGAIN: Duration = Duration::from_secs(600);

/// Time given to the links of an entry to end at a stop.
const LAST_LINKS: Duration = Duration::from_secs(5);

/// Most parties where Sentinels alone name them: the one that is followed, and the next one.
const NAMED: usize = 2;

/// Starts a task for each `[[master]]` of the config that follows, and ends those of entries that a reload has
/// removed; until the gateway stops.
pub(in crate::gateway) async fn look_after(shared: Arc<Shared>, tasks: TaskTracker) {
    let mut reloads = shared.reloads.subscribe();
    let mut running: HashMap<String, watch::Sender<Arc<Master>>> = HashMap::new();
    loop {
        let config = shared.config();
        let follows =
            |name: &String| config.master(name).is_some_and(|master| master.follow == Follow::Master);
        // Its task ends without its sender.
        running.retain(|name, _| follows(name));
        for master in config.masters.iter().filter(|master| master.follow == Follow::Master) {
            match running.get(&master.name) {
                Some(entry) => {
                    entry.send_if_modified(|now| {
                        let changed = now != master;
                        now.clone_from(master);
                        changed
                    });
                }
                None => {
                    let (entry, changes) = watch::channel(Arc::clone(master));
                    running.insert(master.name.clone(), entry);
                    tasks.spawn(follow(Arc::clone(&shared), changes));
                }
            }
        }
        drop(config);
        tokio::select! {
            changed = reloads.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Follows the master of one entry until the entry is removed or the gateway stops.
async fn follow(shared: Arc<Shared>, mut changes: watch::Receiver<Arc<Master>>) {
    let master = Arc::clone(&changes.borrow_and_update());
    let name = master.name.clone();
    let (entry, mut orders) = shared.following.begin(Side::Acceptor, &name);
    let (keeper, kept) = Keeper::open(&shared, Side::Acceptor, &name).await;
    let mut follower = Follower::new(Arc::clone(&shared), master, Arc::clone(&entry), keeper, kept);
    loop {
        follower.round();
        tokio::select! {
            biased;
            // At a stop the entry is not removed, though nobody looks after it any more.
            () = shared.stop.cancelled() => break follower.stop().await,
            changed = changes.changed() => match changed {
                Ok(()) => {
                    let master = Arc::clone(&changes.borrow_and_update());
                    follower.change(master);
                }
                Err(_) => break follower.end(),
            },
            () = follower.changed.notified() => {}
            () = follower.switched.notified() => follower.switching(),
            () = entry.hurried() => follower.lead.hurry(),
            Some(order) = orders.recv() => follower.answer(order),
            () = follower.keeper.written() => {}
            () = sleep(CALM) => {}
        }
    }
}

/// What one entry follows.
struct Follower {
    shared: Arc<Shared>,
    master: Arc<Master>,
    entry: Arc<Entry>,
    keeper: Keeper,
    lead: Lead,
    changed: Arc<Notify>,
    switched: Arc<Notify>,
    /// A place of which no Redis is known is there where Sentinels alone name them.
    parties: Vec<Option<Candidate>>,
    sentinels: Vec<Watched>,
    judge: Judge,
    target: Option<Target>,
    switches: u64,
    /// Looks are urgent until then.
    urgent_until: Instant,
    /// When it was last asked how far the links have passed the stream on.
    counted: Option<Instant>,
    doubts: Doubts,
    standby: Standby,
}

/// What was last said of a doubt.
#[derive(Debug, Default)]
struct Doubts {
    /// Its words without digits, and since when it is there.
    now: Option<(String, Instant)>,
    logged: Option<(String, Instant)>,
}

/// A Redis that Sentinels name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    /// One of the config.
    Party(usize),
    /// Any, where the config names none.
    At(SocketAddr),
    /// One that may not be followed.
    Other(String),
}

impl Follower {
    fn new(
        shared: Arc<Shared>,
        master: Arc<Master>,
        entry: Arc<Entry>,
        keeper: Keeper,
        kept: Option<Kept>,
    ) -> Self {
        let mut follower = Self {
            shared,
            entry,
            keeper,
            lead: Lead::new(URGENT),
            changed: Arc::default(),
            switched: Arc::default(),
            parties: Vec::new(),
            sentinels: Vec::new(),
            judge: Judge::new(0, None, None),
            target: None,
            switches: 0,
            urgent_until: Instant::now(),
            counted: None,
            doubts: Doubts::default(),
            standby: Standby::default(),
            master: Arc::clone(&master),
        };
        let last = kept.as_ref().and_then(|kept| kept.last.clone());
        let (followed, present) = kept.map(|kept| (kept.followed, kept.present)).unzip();
        follower.lay_out(Vec::new(), followed, present.flatten(), last);
        follower.ask_sentinels(&master);
        follower
    }

    /// Makes the parties those of the config, and the judge one over them, who knows what was followed.
    fn lay_out(
        &mut self,
        mut before: Vec<Candidate>,
        followed: Option<Followed>,
        present: Option<(String, By, i64)>,
        last: Option<String>,
    ) {
        let mut watch = |place: &Address, follower: &Self| {
            let at = before.iter().position(|candidate| candidate.place == *place);
            at.map_or_else(|| follower.candidate(place.clone()), |at| before.swap_remove(at))
        };
        let mut parties = Vec::new();
        for place in &self.master.redis {
            parties.push(Some(watch(place, self)));
        }
        if self.master.redis.is_empty() {
            // Should the Sentinels be silent now, the one that was followed goes on.
            let known = present.as_ref().and_then(|(party, ..)| party.parse::<SocketAddr>().ok());
            let known = known.filter(|at| self.may_be_named(*at));
            parties.push(known.map(|at| watch(&place_of(at), self)));
            parties.resize_with(NAMED, || None);
        }
        self.parties = parties;
        let present = present.and_then(|(name, by, since)| {
            let party = (0..self.parties.len()).find(|party| self.name(*party) == name)?;
            Some(Present { party, by, since })
        });
        let last = last.and_then(|name| (0..self.parties.len()).find(|party| self.name(*party) == name));
        self.judge = Judge::new(self.parties.len(), followed, present).followed_last(last);
    }

    /// Begins to look at a Redis.
    fn candidate(&self, place: Address) -> Candidate {
        let login = self.master.auth().cloned();
        Candidate::watch(place, login, self.lead.pace(), Arc::clone(&self.changed))
    }

    fn ask_sentinels(&mut self, master: &Master) {
        self.sentinels = master.sentinel.as_ref().map_or_else(Vec::new, |sentinel| {
            let watch = |place| {
                let (changed, switched) = (Arc::clone(&self.changed), Arc::clone(&self.switched));
                Watched::watch(place, sentinel, self.lead.pace(), changed, switched)
            };
            sentinel.at.iter().map(watch).collect()
        });
    }

    /// A reload has changed the entry.
    fn change(&mut self, master: Arc<Master>) {
        let present = self.judge.present();
        let present = present.map(|present| (self.name(present.party), present.by, present.since));
        let names: Vec<_> = (0..self.parties.len()).map(|party| self.name(party)).collect();
        let earlier = std::mem::replace(&mut self.master, master);
        let mut before: Vec<_> = self.parties.drain(..).flatten().collect();
        if earlier.auth() != self.master.auth() {
            before.clear();
        }
        let last = self.judge.last().and_then(|last| names.get(last).cloned());
        self.lay_out(before, self.judge.followed().cloned(), present, last);
        if earlier.sentinel != self.master.sentinel {
            let master = Arc::clone(&self.master);
            self.ask_sentinels(&master);
        }
    }

    /// The entry was removed.
    fn end(self) {
        self.shared.following.end(Side::Acceptor, &self.master.name);
        self.shared.reloads.send_modify(|reloads| *reloads += 1);
    }

    /// The gateway stops: once its links have ended, it is known exactly how far they have passed the stream on.
    async fn stop(mut self) {
        let name = self.master.name.clone();
        let by = Instant::now() + LAST_LINKS;
        while self.shared.registry.links_of(Side::Acceptor, &name) > 0 && Instant::now() < by {
            sleep(Duration::from_millis(20)).await;
        }
        let all = self.shared.registry.links_of(Side::Acceptor, &name) == 0;
        self.count();
        if let Some(kept) = self.kept() {
            self.keeper.keep_last(if all { kept } else { kept.while_running() }).await;
        }
    }

    /// A Sentinel has told that it names another Redis.
    fn switching(&mut self) {
        self.urgent_until = Instant::now() + SWITCHING;
        self.lead.every(URGENT);
        self.lead.hurry();
    }

    /// The name of a party, as `status` and orders have it.
    fn name(&self, party: usize) -> String {
        match self.parties.get(party) {
            Some(Some(candidate)) => candidate.place.to_string(),
            _ => "?".to_owned(),
        }
    }

    fn seen(&self) -> Vec<Option<Seen>> {
        self.parties.iter().map(|party| party.as_ref().map(Candidate::seen)).collect()
    }

    /// What each party is. Of two that are the same process, one counts: the one that is followed, or the first.
    fn looks(&self, seen: &[Option<Seen>]) -> Vec<Look> {
        let look = |seen: &Option<Seen>| match seen {
            Some(seen) => seen.look.clone(),
            None => Look::Away("no Redis is known there".to_owned()),
        };
        let mut looks: Vec<_> = seen.iter().map(look).collect();
        let run = |look: &Look| match look {
            Look::Master { standing, .. } => standing.run.clone(),
            _ => None,
        };
        let present = self.judge.present().map(|present| present.party);
        let order = present.into_iter().chain((0..looks.len()).filter(|party| Some(*party) != present));
        let mut known: Vec<(String, usize)> = Vec::new();
        for party in order {
            let Some(run) = run(&looks[party]) else { continue };
            match known.iter().find(|(other, _)| *other == run) {
                None => known.push((run, party)),
                Some((_, first)) => {
                    let words = format!("is the same Redis as {}", self.name(*first));
                    // It is no replica of itself, and so proves nothing.
                    looks[party] = Look::Other { standing: None, words };
                }
            }
        }
        looks
    }

    /// Judges by what was seen last.
    fn round(&mut self) {
        let (sentinels, said) = self.vote();
        let seen = self.seen();
        let looks = self.looks(&seen);
        let is_calm = self.judge.present().is_some_and(|present| {
            looks
                .iter()
                .enumerate()
                .all(|(party, look)| matches!(look, Look::Master { .. }) == (party == present.party))
        });
        if !is_calm || self.counted.is_none_or(|then| then.elapsed() >= CALM) {
            self.count();
        }
        self.adopt(&looks);
        let change = self.judge.step(&looks, &sentinels, clock::now());
        self.look_beyond(&seen, &looks);
        self.settle(&seen, &looks, &sentinels, &said, change);
    }

    /// A Redis here may have become a replica of another site through this gateway, by a full sync, which leaves
    /// nothing of its earlier history. Then that stream is what a successor must have. Only while a link carries
    /// it: one that came here earlier may be older than what was followed since.
    fn adopt(&mut self, looks: &[Look]) {
        let is_open = |look: &Look| matches!(look, Look::Master { .. } | Look::NotYet);
        if self.judge.present().is_some() || looks.iter().any(is_open) {
            return;
        }
        let config = self.shared.config();
        let entries = config.replicas.iter().filter(|replica| replica.master == self.master.name);
        let carried: Vec<_> =
            entries.flat_map(|entry| self.shared.registry.carries_now(Side::Dialler, &entry.name)).collect();
        let own = looks.iter().find_map(|look| match look {
            Look::Other { standing: Some(standing), .. } => {
                Some(standing.history).filter(|history| carried.contains(history))
            }
            _ => None,
        });
        if let Some(history) = own {
            self.judge.adopt(history);
        }
    }

    /// Takes up how far the links have passed the stream on.
    fn count(&mut self) {
        self.counted = Some(Instant::now());
        for (stream, offset) in self.shared.registry.passed(Side::Acceptor, &self.master.name) {
            self.judge.passes(stream, offset);
        }
    }

    /// Has everybody know what was judged.
    fn settle(
        &mut self,
        seen: &[Option<Seen>],
        looks: &[Look],
        sentinels: &Sentinels,
        said: &str,
        change: Option<Change>,
    ) {
        self.target = self.judge.present().and_then(|present| {
            let party = self.name(present.party);
            match (&looks[present.party], seen[present.party].as_ref().and_then(|seen| seen.address)) {
                (Look::Master { standing, .. }, Some(address)) => {
                    Some(Target { party, addresses: vec![address], standing: self.judge.told(standing) })
                }
                _ => self.target.take().filter(|target| target.party == party),
            }
        });
        if matches!(change, Some(Change::Follows { .. })) {
            self.switches += 1;
        }
        let status = self.status(looks, sentinels, said);
        let attention = status.attention.clone().zip(Some(status.next_step.clone().unwrap_or_default()));
        if self.entry.judged(self.target.clone(), status) {
            self.shared.reloads.send_modify(|reloads| *reloads += 1);
        }
        self.entry.has_instead(looks.iter().find_map(|look| match look {
            Look::Other { standing, .. } => standing.clone(),
            _ => None,
        }));
        if let Some(change) = change {
            self.tell(&change, looks, said);
        }
        if self.standby.is_news() {
            let name = &self.master.name;
            info!(kind = notice::MASTER_STANDBY, link = %name, "{name} waits at this site: its Redis are replicas of another site through this gateway");
        }
        self.tell_doubts(attention);
        if let Some(kept) = self.kept() {
            self.keeper.keep(kept.while_running());
        }
        let is_urgent = Instant::now() < self.urgent_until
            || self.judge.present().is_none_or(|present| {
                let awaits = matches!(sentinels, Sentinels::Name { party, .. } if *party != present.party);
                awaits || !matches!(looks[present.party], Look::Master { .. })
            });
        self.lead.every(if is_urgent { URGENT } else { CALM });
    }

    /// What a restart must know: nothing, where nobody got anything of the first one.
    fn kept(&self) -> Option<Kept> {
        let followed = self.judge.followed().filter(|_| !self.judge.is_unused())?;
        Some(Kept::of(followed, &self.judge, |party| self.name(party)))
    }

    /// What the Sentinels say together, also as a clause.
    fn vote(&mut self) -> (Sentinels, String) {
        let Some(sentinel) = self.master.sentinel.clone() else {
            return (Sentinels::None, String::new());
        };
        let words: Vec<_> = self.sentinels.iter().map(Watched::said).collect();
        let count = words.len();
        if words.contains(&Word::NotYet) {
            return (Sentinels::Undecided, "not every Sentinel was asked yet".to_owned());
        }
        let said: Vec<_> = words
            .iter()
            .map(|word| match word {
                Word::NotYet | Word::Silent(_) => Said::Nothing,
                Word::Unknown(_) => Said::None,
                Word::Names(claim) => Said::Names {
                    redis: self.named(&sentinel, claim),
                    epoch: claim.epoch,
                    run: claim.run.clone(),
                },
            })
            .collect();
        match vote::count(&said) {
            Outcome::Silent => {
                let answer = said.iter().filter(|said| **said != Said::Nothing).count();
                (Sentinels::Silent, format!("only {answer} of {count} Sentinels answer"))
            }
            Outcome::Undecided => {
                (Sentinels::Undecided, format!("no majority of the {count} Sentinels names the same Redis"))
            }
            Outcome::Name { redis: Named::Other(place), .. } => {
                let why = if self.master.redis.is_empty() {
                    "lies outside of `networks`"
                } else {
                    "is not in `redis`"
                };
                (Sentinels::Undecided, format!("the Sentinels name {place}, which {why}"))
            }
            Outcome::Name { redis, run } => {
                let Some(party) = self.party_of(&redis) else {
                    return (Sentinels::Undecided, "what the Sentinels name is not looked at yet".to_owned());
                };
                (Sentinels::Name { party, run }, format!("the Sentinels name {}", self.name(party)))
            }
        }
    }

    /// Which Redis a claim is about.
    fn named(&self, sentinel: &Sentinel, claim: &Claim) -> Named {
        if self.master.redis.is_empty() {
            let mut within: Vec<_> = claim.addresses.iter().copied().map(canonical).collect();
            within.retain(|at| sentinel.networks.iter().any(|network| network.contains(at.ip())));
            return within.into_iter().min().map_or_else(|| Named::Other(claim.place.to_string()), Named::At);
        }
        let is_it = |candidate: &Candidate| {
            let place = &candidate.place;
            let is_written =
                place.host.eq_ignore_ascii_case(&claim.place.host) && place.port == claim.place.port;
            let known = candidate.seen().known;
            is_written
                || claim.addresses.iter().any(|at| known.iter().any(|own| canonical(*own) == canonical(*at)))
        };
        let party = self.parties.iter().position(|party| party.as_ref().is_some_and(is_it));
        party.map_or_else(|| Named::Other(claim.place.to_string()), Named::Party)
    }

    /// The place of what a majority names, which is given one if it has none.
    fn party_of(&mut self, redis: &Named) -> Option<usize> {
        let at = match redis {
            Named::Party(party) => return Some(*party),
            Named::At(at) => place_of(*at),
            Named::Other(_) => return None,
        };
        let is_it = |party: &Option<Candidate>| party.as_ref().is_some_and(|party| party.place == at);
        if let Some(party) = self.parties.iter().position(is_it) {
            return Some(party);
        }
        let present = self.judge.present().map(|present| present.party);
        let free = |party: &usize| self.parties[*party].is_none();
        let party = (0..self.parties.len())
            .find(free)
            .or_else(|| (0..self.parties.len()).find(|party| Some(*party) != present))?;
        self.judge.replace(party);
        self.parties[party] = Some(self.candidate(at));
        Some(party)
    }

    /// Whether a Redis may be followed where Sentinels alone name it.
    fn may_be_named(&self, at: SocketAddr) -> bool {
        let networks = self.master.sentinel.as_ref().map_or(&[][..], |sentinel| &sentinel.networks);
        networks.iter().any(|network| network.contains(at.ip()))
    }

    /// What `status` shows.
    fn status(&self, looks: &[Look], sentinels: &Sentinels, said: &str) -> FollowStatus {
        let present = self.judge.present();
        let doubts: Vec<_> = self.judge.doubts().iter().zip(looks).collect();
        let doubt = |party: usize| {
            let (doubt, look) = doubts.get(party)?;
            Some(words::doubt(doubt.as_ref()?, look, self.judge.followed(), said))
        };
        let parties = (0..self.parties.len()).filter(|party| self.parties[*party].is_some());
        let parties = parties.map(|party| {
            let is_followed = present.is_some_and(|present| present.party == party);
            words::party(&self.name(party), &looks[party], is_followed, doubt(party))
        });
        let (attention, next_step) = self.attention(looks, sentinels, said).unzip();
        FollowStatus {
            name: self.master.name.clone(),
            role: Side::Acceptor.role().to_owned(),
            present: present.map(|present| PresentStatus {
                party: self.name(present.party),
                since: present.since,
                by: by_words(present.by).to_owned(),
            }),
            parties: parties.collect(),
            sentinels: self
                .sentinels
                .iter()
                .map(|sentinel| words::sentinel(&sentinel.place.to_string(), &sentinel.said()))
                .collect(),
            standby: self.standby.is_on(),
            attention,
            next_step,
            switches: self.switches,
        }
    }

    /// What a person must look at, and what to do about it.
    fn attention(&self, looks: &[Look], sentinels: &Sentinels, said: &str) -> Option<(String, String)> {
        let name = &self.master.name;
        // A place without a Redis says nothing.
        let known = || (0..self.parties.len()).filter(|party| self.parties[*party].is_some());
        let clause = |party: usize| {
            let doubt = self.judge.doubts()[party].as_ref()?;
            Some((self.name(party), words::doubt(doubt, &looks[party], self.judge.followed(), said)))
        };
        let present = self.judge.present().map(|present| present.party);
        let Some(party) = present else {
            if known().any(|party| looks[party] == Look::NotYet) || self.standby.is_on() {
                return None;
            }
            let mut told = advice::together(known().filter_map(clause));
            if !said.is_empty() {
                told += &format!("; {said}");
            }
            let attention = format!("no Redis is known to be the master of {name}: {told}");
            let mut next_step = self.next_step(looks, None);
            if self.standby.is_cut_off() {
                next_step = format!(
                    "look first why the replica's own link through this gateway is down: replgate status shows it; {next_step}"
                );
            }
            return Some((attention, next_step));
        };
        let rivals = known().filter(|party| matches!(looks[*party], Look::Master { .. }));
        let mut told = advice::together(rivals.filter_map(clause));
        let own = self.name(party);
        if let Look::Away(why) = &looks[party] {
            let away = format!("{own} is followed as the master of {name}, and {why}");
            told = if told.is_empty() { away } else { format!("{away}; {told}") };
            return Some((told, self.next_step(looks, present)));
        }
        if told.is_empty() {
            let next_step = self.unsupported(party, sentinels)?;
            return Some((format!("{own} is followed as the master of {name}, but {said}"), next_step));
        }
        told = format!("{own} is followed as the master of {name}; {told}");
        Some((told, self.next_step(looks, present)))
    }

    /// What to do where it is not clear which Redis is the master, or where it is away.
    fn next_step(&self, looks: &[Look], present: Option<usize>) -> String {
        let has_data = |look: &Look| {
            let (Look::Master { standing } | Look::Other { standing: Some(standing), .. }) = look else {
                return false;
            };
            // A replica is behind what was passed on more often than not.
            let is_same = self.judge.followed().is_some_and(|followed| followed.history == standing.history);
            is_same || self.judge.kinship(standing).is_some_and(Kinship::is_proof)
        };
        let places = self.parties.iter().zip(looks);
        let parties: Vec<_> = places
            .filter_map(|(party, look)| {
                let place = &party.as_ref()?.place;
                Some(advice::Party { place, look, has_data: has_data(look) })
            })
            .collect();
        let present = present.and_then(|party| Some(&self.parties[party].as_ref()?.place));
        let config = self.shared.config();
        let entry = config.replicas.iter().find(|replica| replica.master == self.master.name);
        let entry = entry.map(|entry| {
            let ip = entry.listen.ip();
            let ip = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { ip.to_string() };
            format!("{ip} {}", entry.listen.port())
        });
        advice::Scene { name: &self.master.name, parties: &parties, present, entry: entry.as_deref() }
            .next_step()
    }

    /// What to do if the Sentinels do not say that the one that is followed is the master.
    fn unsupported(&self, present: usize, sentinels: &Sentinels) -> Option<String> {
        if self.sentinels.iter().any(|sentinel| sentinel.said() == Word::NotYet) {
            return None;
        }
        match sentinels {
            Sentinels::None => None,
            Sentinels::Name { party, .. } if *party == present => None,
            Sentinels::Name { party, .. } => {
                Some(format!("see why {} is not the master yet", self.name(*party)))
            }
            Sentinels::Undecided => Some(
                "have the Sentinels and the config agree; `replgate status` shows what each of them says"
                    .to_owned(),
            ),
            Sentinels::Silent => Some(
                "bring the Sentinels back; until then only its data proves which Redis is the master"
                    .to_owned(),
            ),
        }
    }

    /// Takes up whether the Redis here are replicas of another site, through this gateway: none is a master, and
    /// one follows a listener of this gateway.
    fn look_beyond(&mut self, seen: &[Option<Seen>], looks: &[Look]) {
        let config = self.shared.config();
        let is_own = |place: &Address| {
            let mut replicas = config.replicas.iter();
            replicas
                .any(|replica| replica.master == self.master.name && standby::is_at(place, replica.listen))
        };
        let upstreams = seen.iter().flatten().filter_map(|seen| seen.upstream.as_ref());
        let own = upstreams.filter(|upstream| is_own(&upstream.place)).map(|upstream| upstream.works);
        let works = own.reduce(|one, other| one || other);
        let is_alone = self.judge.present().is_none()
            && !looks.iter().any(|look| matches!(look, Look::Master { .. } | Look::NotYet));
        self.standby.look(works.filter(|_| is_alone), Instant::now());
    }

    /// Logs who is followed now, or that nobody is.
    fn tell(&self, change: &Change, looks: &[Look], said: &str) {
        let name = &self.master.name;
        match change {
            Change::Follows { party, by, kinship } => {
                let redis = self.name(*party);
                let Look::Master { standing, .. } = &looks[*party] else { return };
                let (history, offset) = (standing.history.as_str(), standing.offset);
                let costs = match kinship {
                    None => "",
                    Some(kinship) if kinship.is_proof() => {
                        "; replicas continue by a partial resync, as far as its backlog reaches"
                    }
                    Some(_) => "; replicas that have more or other data get all of it by a full sync",
                };
                let because = match by {
                    By::Sentinel => said.to_owned(),
                    By::Lineage => "it has the stream that was followed".to_owned(),
                    By::First => "every other one is its replica".to_owned(),
                    By::Person => "a person said so".to_owned(),
                };
                info!(kind = notice::MASTER_FOLLOWED, link = %name, %redis, by = by_words(*by), history, offset, "{redis} is the master of {name} now: {because}{costs}");
            }
            Change::Lost { party, why } => {
                let redis = self.name(*party);
                let why = words::doubt(why, &looks[*party], self.judge.followed(), said);
                warn!(kind = notice::MASTER_LOST, link = %name, %redis, "{redis} is not followed as the master of {name} any more: it {why}");
            }
        }
    }

    /// Logs what a person must look at, once it has lasted.
    fn tell_doubts(&mut self, attention: Option<(String, String)>) {
        let topic = Topic::master(Kind::MasterDoubt, &self.master);
        let Some((attention, next_step)) = attention else {
            if self.doubts.logged.is_some() {
                self.shared.registry.recovered(&topic);
            }
            self.doubts = Doubts::default();
            return;
        };
        let shape: String = attention.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        let since = match &self.doubts.now {
            Some((known, since)) if *known == shape => *since,
            _ => {
                let now = Instant::now();
                self.doubts.now = Some((shape.clone(), now));
                now
            }
        };
        let was_logged = self
            .doubts
            .logged
            .as_ref()
            .is_some_and(|(known, then)| *known == shape && then.elapsed() < DOUBT_AGAIN);
        if was_logged || since.elapsed() < DOUBT_AFTER {
            return;
        }
        self.doubts.logged = Some((shape, Instant::now()));
        let words = format!("{attention}; {next_step}");
        let name = &self.master.name;
        if self.target.is_none() {
            log_throttled!(error, self.shared.registry, topic, &words; link = %name, "{words}");
        } else {
            log_throttled!(warn, self.shared.registry, topic, &words; link = %name, "{words}");
        }
    }

    /// Answers what a person orders, and carries it out if that is asked for.
    fn answer(&mut self, order: Order) {
        if order.is_given_up() {
            return;
        }
        let answer = self.carry_out(&order.party, order.carry_out);
        let _ = order.answer.send(answer);
    }

    fn carry_out(&mut self, wanted: &str, is_order: bool) -> Result<Vec<String>, String> {
        let name = self.master.name.clone();
        let known = (0..self.parties.len()).filter(|party| self.parties[*party].is_some());
        let mut known = known.map(|party| (party, self.name(party)));
        let Some((party, redis)) = known.find(|(_, name)| name.eq_ignore_ascii_case(wanted)) else {
            let all = (0..self.parties.len()).filter(|party| self.parties[*party].is_some());
            let all: Vec<_> = all.map(|party| self.name(party)).collect();
            return Err(format!("{name} has no Redis at {wanted:?}; it has: {}", all.join(", ")));
        };
        let (sentinels, said) = self.vote();
        let seen = self.seen();
        let looks = self.looks(&seen);
        self.count();
        let standing = match &looks[party] {
            Look::Master { standing, .. } => standing.clone(),
            Look::Other { words, .. } => {
                let Address { host, port } =
                    self.parties[party].as_ref().map(|party| party.place.clone()).ok_or("?")?;
                return Err(format!(
                    "{redis} {words}: it is not the master; promote it first: redis-cli -h {host} -p {port} REPLICAOF NO ONE"
                ));
            }
            Look::Away(why) => return Err(format!("{redis} {why}")),
            Look::NotYet => return Err(format!("{redis} was not asked yet; ask again")),
        };
        let mut lines = Vec::new();
        if let Some(present) = self.judge.present() {
            if present.party == party {
                return Ok(vec![format!("{redis} is followed as the master of {name} already.")]);
            }
            let own = self.name(present.party);
            lines.push(match &looks[present.party] {
                Look::Away(why) => format!("{own} is followed now, and {why}."),
                _ => format!("{own} is followed now, and is alive: its links end, and it must not be written to any more."),
            });
        }
        lines.push(format!("{redis} says that it is the master of {name}."));
        lines.extend(words::cost(self.judge.kinship(&standing), &standing, self.judge.followed()));
        if !said.is_empty() {
            lines.push(format!("Of the Sentinels: {said}."));
        }
        if let Sentinels::Name { party: named, .. } = &sentinels
            && *named != party
        {
            let sentinel = self.master.sentinel.as_ref().map(|sentinel| {
                let Address { host, port } = &sentinel.at[0];
                format!(": redis-cli -h {host} -p {port} SENTINEL FAILOVER {}", sentinel.master)
            });
            return Err(format!(
                "{said}, and would have it followed again at once; have them name {redis} first{}",
                sentinel.unwrap_or_default()
            ));
        }
        if !is_order {
            return Ok(lines);
        }
        let ordered = self.judge.order(party, &looks, &sentinels, clock::now());
        let change = ordered.map_err(|why: Doubt| {
            format!("{redis} {}", words::doubt(&why, &looks[party], self.judge.followed(), &said))
        })?;
        self.settle(&seen, &looks, &sentinels, &said, Some(change));
        lines.push(format!("{redis} is followed as the master of {name} from now on."));
        Ok(lines)
    }
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

fn place_of(at: SocketAddr) -> Address {
    Address { host: at.ip().to_string(), port: at.port() }
}
