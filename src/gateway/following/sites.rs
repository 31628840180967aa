//! Which of several sites has the master of a `[[replica]]`: asks each of them, judges, and carries out what a
//! person orders.
//!
//! One task for each entry with a choice. Only what a gateway says whose certificate carries the site counts.
//! While nobody is followed, or no link to the site that is followed has a lane, every site is asked about once
//! a second; otherwise seldom, so that two sites that both have a master are told.

mod answers;
mod words;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::answers::Answers;
use crate::clock;
use crate::config::Replica;
use crate::follow::{Entry, FollowStatus, Order, PartyStatus, PresentStatus, Target};
use crate::lineage::judge::{Change, Judge, Look, Present, Sentinels};
use crate::lineage::{Followed, History, Kinship, Standing};
use crate::link::Side;
use crate::registry::{Kind, Topic, log_throttled, notice};
use crate::session::Shared;
use crate::session::dial;

/// Time between two questions to a site while something must be found out.
const URGENT: Duration = Duration::from_secs(1);

/// The same once that has lasted for [`TIRED_AFTER`]; a replica that asks for a link shortens it.
const TIRED: Duration = Duration::from_secs(5);

const TIRED_AFTER: Duration = Duration::from_secs(60);

/// Time between two questions to a site while all is well.
const SELDOM: Duration = Duration::from_secs(30);

/// Time between the first questions to two sites, and least time between two to one.
const APART: Duration = Duration::from_millis(250);

/// Time for which something must be found out after a link has ended, or could not be opened.
const HURRIED: Duration = Duration::from_secs(10);

/// Interval at which it is noted what the links have passed on.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Time given to all gateways of a site to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Time given to the other gateways of a site once one has answered.
const GRACE: Duration = Duration::from_secs(1);

/// By how much the offset that a site tells may be older than what has come over the links.
const STALE: Duration = Duration::from_secs(10);

/// What is known of an entry from before.
#[derive(Clone, Debug)]
struct Kept {
    followed: Followed,
    present: Option<(String, Present)>,
}

/// Follows for every entry with a choice, as the config in use has them, until the gateway stops.
pub(in crate::gateway) async fn look_after(shared: Arc<Shared>) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut reloads = shared.reloads.subscribe();
    loop {
        let config = shared.config();
        let chosen = |name: &str| config.replica(name).filter(|entry| entry.has_choice());
        let changed = running.iter().filter(|(name, task)| {
            chosen(name).is_none_or(|now| sites(now) != sites(&task.entry) || now.master != task.entry.master)
        });
        let changed: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
        let mut kept = HashMap::new();
        for name in changed {
            let Some(Running { entry, cancel, task }) = running.remove(&name) else { continue };
            cancel.cancel();
            let left = task.await.ok().flatten();
            if chosen(&name).is_some_and(|now| now.master == entry.master) {
                kept.extend(left.map(|left| (name.clone(), left)));
            } else {
                shared.following.end(Side::Dialler, &name);
            }
        }
        for entry in config.replicas.iter().filter(|entry| entry.has_choice()) {
            if !running.contains_key(&entry.name) {
                let kept = kept.remove(&entry.name).or_else(|| of_links(&shared, entry));
                let task = Running::start(&shared, entry, kept);
                running.insert(entry.name.clone(), task);
            }
        }
        drop(config);
        tokio::select! {
            changed = reloads.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => break,
        }
    }
    for (_, Running { task, .. }) in running {
        let _ = task.await;
    }
}

/// The names of the sites of an entry.
fn sites(entry: &Replica) -> Vec<String> {
    entry.from.iter().map(|origin| origin.site.clone()).collect()
}

/// What the links of an entry show that had one site until now: that one is followed.
fn of_links(shared: &Shared, entry: &Replica) -> Option<Kept> {
    let (history, passed) = shared.registry.stream(Side::Dialler, &entry.name)?;
    let carries = |site: &String| shared.registry.carried(&entry.name, site) > 0;
    let (party, site) = sites(entry).into_iter().enumerate().find(|(_, site)| carries(site))?;
    let by = crate::lineage::judge::By::First;
    let followed = Followed { history, passed: Some(passed), run: None };
    Some(Kept { followed, present: Some((site, Present { party, by, since: clock::now() })) })
}

/// The task of an entry.
struct Running {
    entry: Arc<Replica>,
    cancel: CancellationToken,
    task: JoinHandle<Option<Kept>>,
}

impl Running {
    fn start(shared: &Arc<Shared>, entry: &Arc<Replica>, kept: Option<Kept>) -> Self {
        let cancel = shared.stop.child_token();
        let (state, orders) = shared.following.begin(Side::Dialler, &entry.name);
        let sites = Sites::new(Arc::clone(shared), entry, state, kept);
        let task = tokio::spawn(sites.run(orders, cancel.clone()));
        Self { entry: Arc::clone(entry), cancel, task }
    }
}

/// What is known of one site.
#[derive(Debug)]
struct Site {
    name: String,
    look: Look,
    /// Whether, when it was asked last, it had what the links had passed on [`STALE`] before.
    is_abreast: bool,
    /// When it is asked next, if it is not being asked.
    due: Instant,
    /// When it was asked last.
    asked: Option<Instant>,
    is_asked: bool,
}

/// The sites of one entry.
struct Sites {
    shared: Arc<Shared>,
    name: String,
    entry: Arc<Entry>,
    sites: Vec<Site>,
    judge: Judge,
    switches: u64,
    /// What the links had passed on lately, the oldest first.
    passed: VecDeque<(Instant, History, u64)>,
    /// What they had passed on when a person chose a master that does not have it.
    given_up: Option<(History, u64)>,
    /// Since when something must be found out.
    urgent: Option<Instant>,
    hurried: Option<Instant>,
    /// Orders that wait for the answer of the site, by its place.
    orders: Vec<(usize, Order)>,
    /// What was logged last about what a person should look at.
    told: Option<String>,
}

impl Sites {
    fn new(shared: Arc<Shared>, replica: &Replica, entry: Arc<Entry>, kept: Option<Kept>) -> Self {
        let now = Instant::now();
        let site = |(at, name): (usize, String)| Site {
            name,
            look: Look::NotYet,
            is_abreast: true,
            due: now + APART * u32::try_from(at).unwrap_or(u32::MAX),
            asked: None,
            is_asked: false,
        };
        let sites: Vec<_> = sites(replica).into_iter().enumerate().map(site).collect();
        let (followed, present) = kept.map(|kept| (kept.followed, kept.present)).unzip();
        let present = present.flatten().and_then(|(name, present)| {
            let party = sites.iter().position(|site| site.name.eq_ignore_ascii_case(&name))?;
            Some(Present { party, ..present })
        });
        let judge = Judge::new(sites.len(), followed, present);
        let sites = Self {
            shared,
            name: replica.name.clone(),
            entry,
            sites,
            judge,
            switches: 0,
            passed: VecDeque::new(),
            given_up: None,
            urgent: None,
            hurried: None,
            orders: Vec::new(),
            told: None,
        };
        // Links to the site that was followed before need not wait for its answer.
        if sites.judge.present().is_some() {
            sites.publish();
        }
        sites
    }

    /// Runs until `cancel`. Returns what is to be known by the next one.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>, cancel: CancellationToken) -> Option<Kept> {
        let mut asked = JoinSet::new();
        let entry = Arc::clone(&self.entry);
        let mut note = Instant::now();
        loop {
            let now = Instant::now();
            if now >= note {
                self.note(now);
                note = now + NOTE_EVERY;
            }
            self.ask(&mut asked, now);
            let due = self.sites.iter().filter(|site| !site.is_asked).map(|site| site.due).min();
            let wake = due.map_or(note, |due| due.min(note));
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(found) = asked.join_next(), if !asked.is_empty() => {
                    // Without an answer its task was given up.
                    if let Ok((at, look)) = found {
                        self.seen(at, look);
                    }
                }
                Some(order) = orders.recv() => self.ordered(order),
                () = entry.hurried() => self.hurry(Instant::now()),
                () = sleep_until(wake.into()) => {}
            }
        }
        self.take_passed();
        let present = self.judge.present();
        let present = present.map(|present| (self.sites[present.party].name.clone(), present));
        self.judge.followed().cloned().map(|followed| Kept { followed, present })
    }

    /// Asks every site whose time has come.
    fn ask(&mut self, asked: &mut JoinSet<(usize, Look)>, now: Instant) {
        for (at, site) in self.sites.iter_mut().enumerate() {
            if site.is_asked || site.due > now {
                continue;
            }
            (site.is_asked, site.asked) = (true, Some(now));
            let config = self.shared.config();
            let replica = config.replica(&self.name).and_then(|entry| entry.at(&site.name));
            let (shared, followed) = (Arc::clone(&self.shared), self.judge.followed().cloned());
            asked.spawn(async move {
                let look = match replica {
                    Some(replica) => look_at(&shared, &replica, followed.as_ref()).await,
                    None => Look::Away("is not in the config any more".to_owned()),
                };
                (at, look)
            });
        }
    }

    /// Time between two questions to a site now.
    fn pause(&mut self, now: Instant) -> Duration {
        let carried =
            |present: Present| self.shared.registry.carried(&self.name, &self.sites[present.party].name);
        let is_urgent = self.judge.present().map_or(0, carried) == 0;
        self.urgent = is_urgent.then(|| self.urgent.unwrap_or(now));
        let lately = |then: Option<Instant>, within| {
            then.is_some_and(|then| now.saturating_duration_since(then) < within)
        };
        if lately(self.hurried, HURRIED) || lately(self.urgent, TIRED_AFTER) {
            URGENT
        } else if is_urgent {
            TIRED
        } else {
            SELDOM
        }
    }

    /// Has every site asked as soon as it may be.
    fn hurry(&mut self, now: Instant) {
        self.hurried = Some(now);
        for site in &mut self.sites {
            site.due = site.due.min(site.asked.map_or(now, |asked| asked + APART));
        }
    }

    /// Notes what the links have passed on, and asks sooner if they are gone.
    fn note(&mut self, now: Instant) {
        if let Some((history, offset)) = self.take_passed() {
            self.passed.push_back((now, history, offset));
        }
        while self.passed.front().is_some_and(|(then, ..)| now.saturating_duration_since(*then) > STALE * 2) {
            self.passed.pop_front();
        }
        let pause = self.pause(now);
        for site in &mut self.sites {
            site.due = site.due.min(site.asked.map_or(now, |asked| asked + pause));
        }
    }

    /// Takes up what the links have passed on by now.
    fn take_passed(&mut self) -> Option<(History, u64)> {
        let passed = self.shared.registry.stream(Side::Dialler, &self.name);
        let passed = passed.filter(|passed| self.given_up.as_ref() != Some(passed));
        if let Some((history, offset)) = passed {
            self.judge.passes(history, offset);
        }
        passed
    }

    /// Whether a site has what the links had passed on a while ago. Its gateway looks at its Redis once a
    /// second, and the links are faster.
    fn is_abreast(&self, standing: &Standing, now: Instant) -> bool {
        let then = now.checked_sub(STALE);
        let before = self.passed.iter().rev().find(|(at, ..)| then.is_some_and(|then| *at <= then));
        before.is_none_or(|(_, history, offset)| *history != standing.history || standing.offset >= *offset)
    }

    /// A site was asked, and this is what it is.
    fn seen(&mut self, at: usize, look: Look) {
        let now = Instant::now();
        let is_abreast = match &look {
            Look::Master { standing, .. } => self.is_abreast(standing, now),
            _ => true,
        };
        let site = &mut self.sites[at];
        (site.look, site.is_abreast, site.is_asked) = (look, is_abreast, false);
        self.step();
        let pause = self.pause(now);
        self.sites[at].due = now + pause;
        let (waiting, others) = std::mem::take(&mut self.orders).into_iter().partition(|(of, _)| *of == at);
        self.orders = others;
        let waiting: Vec<(usize, Order)> = waiting;
        for (_, order) in waiting.into_iter().filter(|(_, order)| !order.is_given_up()) {
            let answer = self.carry_out(at, order.carry_out);
            let _ = order.answer.send(answer);
        }
    }

    /// What every site is, for the judge. The one that is followed has what it has sent.
    fn looks(&self) -> Vec<Look> {
        let present = self.judge.present().map(|present| present.party);
        let look = |(at, site): (usize, &Site)| {
            let mut look = site.look.clone();
            if let (Look::Master { standing, .. }, Some(followed)) = (&mut look, self.judge.followed())
                && present == Some(at)
                && site.is_abreast
                && standing.history == followed.history
            {
                standing.offset = standing.offset.max(followed.passed.unwrap_or(0));
            }
            look
        };
        self.sites.iter().enumerate().map(look).collect()
    }

    /// Judges anew.
    fn step(&mut self) {
        self.take_passed();
        let looks = self.looks();
        let change = self.judge.step(&looks, &Sentinels::None, clock::now());
        self.changed(change.as_ref());
    }

    /// Says what has changed, and has sessions act on it.
    fn changed(&mut self, change: Option<&Change>) {
        let name = &self.name;
        match change {
            Some(Change::Follows { party, by, kinship }) => {
                self.switches += 1;
                let (site, by) = (&self.sites[*party].name, words::by(*by));
                info!(kind = notice::SITE_FOLLOWED, link = %name, %site, by, "replicas of {name:?} follow {site} now: {}", words::follows(by, *kinship));
            }
            Some(Change::Lost { party, why }) => {
                let site = &self.sites[*party].name;
                let why = words::doubt(why, &self.sites[*party].look);
                warn!(kind = notice::SITE_LOST, link = %name, %site, "replicas of {name:?} follow {site} no more: it {why}");
            }
            None => {}
        }
        let status = self.publish();
        let is_open = self.sites.iter().any(|site| site.look == Look::NotYet);
        let attention = status.attention.filter(|_| !is_open);
        if attention != self.told {
            if let Some(attention) = &attention
                && let Some(replica) = self.shared.config().replica(name)
            {
                let next = status.next_step.map(|next| format!("; {next}")).unwrap_or_default();
                log_throttled!(warn, self.shared.registry, Topic::replica(Kind::SiteDoubt, replica), attention; link = %name, "replicas of {name:?}: {attention}{next}");
            }
            self.told = attention;
        }
    }

    /// Stores what was judged. Every link is judged again if others go to another place than before.
    fn publish(&self) -> FollowStatus {
        let target = self.judge.present().and_then(|present| {
            let site = &self.sites[present.party];
            let followed = self.judge.followed()?;
            let (standing, vouched) = match &site.look {
                Look::Master { standing, vouched } => (standing.clone(), *vouched),
                _ => {
                    let offset = followed.passed.unwrap_or(0);
                    let standing = Standing { history: followed.history, offset, earlier: None, run: None };
                    (standing, false)
                }
            };
            Some(Target { party: site.name.clone(), addresses: Vec::new(), standing, vouched })
        });
        let status = self.status();
        if self.entry.judged(target, status.clone()) {
            self.shared.judge_links();
        }
        status
    }

    /// What `status` shows.
    fn status(&self) -> FollowStatus {
        let present = self.judge.present();
        let doubts = self.judge.doubts();
        let party = |(at, site): (usize, &Site)| {
            let standing = match &site.look {
                Look::Master { standing, .. } => Some(standing),
                Look::Other { standing, .. } => standing.as_ref(),
                Look::NotYet | Look::Away(_) => None,
            };
            let is_present = present.is_some_and(|present| present.party == at);
            PartyStatus {
                party: site.name.clone(),
                state: words::state(&site.look).to_owned(),
                words: words::party(&site.look, is_present, doubts[at].as_ref()),
                history: standing.map(|standing| standing.history.as_str().to_owned()),
                offset: standing.map(|standing| standing.offset),
            }
        };
        let parties: Vec<_> = self.sites.iter().enumerate().map(party).collect();
        let (attention, next_step) = self.attention(&parties).unzip();
        FollowStatus {
            name: self.name.clone(),
            role: Side::Dialler.role().to_owned(),
            present: present.map(|present| PresentStatus {
                party: self.sites[present.party].name.clone(),
                since: present.since,
                by: words::by(present.by).to_owned(),
            }),
            parties,
            sentinels: Vec::new(),
            attention,
            next_step,
            switches: self.switches,
        }
    }

    /// What a person must look at, and what to do about it.
    fn attention(&self, parties: &[PartyStatus]) -> Option<(String, String)> {
        let name = &self.name;
        let present = self.judge.present().map(|present| present.party);
        let others = self.sites.iter().enumerate().filter(|(at, _)| present != Some(*at));
        let rivals: Vec<_> = others.filter(|(_, site)| matches!(site.look, Look::Master { .. })).collect();
        let order = |at: usize| {
            let site = &self.sites[at].name;
            format!("see what it costs to follow it: replgate follow {name} {site}")
        };
        let Some(present) = present else {
            let all: Vec<_> =
                parties.iter().map(|party| format!("{} {}", party.party, party.words)).collect();
            let next = match &rivals[..] {
                [] => "make one Redis the master (REPLICAOF NO ONE), or see to the gateways of these sites"
                    .to_owned(),
                [(at, _), ..] => order(*at),
            };
            return Some((format!("no site is followed: {}", all.join("; ")), next));
        };
        let followed = &self.sites[present].name;
        let away = match &self.sites[present].look {
            Look::Away(why) => Some(why),
            _ => None,
        };
        match (&rivals[..], away) {
            ([], None) => None,
            ([], Some(why)) => Some((
                format!("{followed}, which is followed, is not reached: {why}"),
                "see to its gateway and its Redis, or promote a Redis at another site (REPLICAOF NO ONE)"
                    .to_owned(),
            )),
            ([(at, site), ..], away) => {
                let Look::Master { standing, .. } = &site.look else { return None };
                let offers = match away {
                    None => format!("offers a master, and so does {followed}, which is followed"),
                    Some(why) => format!(
                        "{}, and {followed}, which is followed, is not reached: {why}",
                        words::rival(self.judge.kinship(standing), standing)
                    ),
                };
                Some((format!("{} {offers}", site.name), order(*at)))
            }
        }
    }

    /// Takes an order. It is carried out by what the site answers now.
    fn ordered(&mut self, order: Order) {
        let found = self.sites.iter().position(|site| site.name.eq_ignore_ascii_case(&order.party));
        let Some(at) = found else {
            let all: Vec<_> = self.sites.iter().map(|site| site.name.as_str()).collect();
            let words =
                format!("no site of replica {:?} has this name; its sites are {}", self.name, all.join(", "));
            let _ = order.answer.send(Err(words));
            return;
        };
        self.sites[at].due = Instant::now();
        self.orders.push((at, order));
    }

    /// Says what it costs to follow a site, or follows it. The error says why it cannot be.
    fn carry_out(&mut self, at: usize, carry_out: bool) -> Result<Vec<String>, String> {
        let site = self.sites[at].name.clone();
        if self.judge.present().is_some_and(|present| present.party == at) {
            return Ok(vec![format!("{site} is followed already: nothing changes")]);
        }
        let Look::Master { standing, .. } = self.sites[at].look.clone() else {
            let why = words::party(&self.sites[at].look, false, None);
            return Err(format!("{site} {why}"));
        };
        self.take_passed();
        let kinship = self.judge.kinship(&standing);
        let links = self.shared.registry.links_of(Side::Dialler, &self.name);
        let costs = words::costs(&site, kinship, &standing, links);
        if carry_out {
            if !kinship.is_some_and(Kinship::is_proof) {
                self.given_up = self.shared.registry.stream(Side::Dialler, &self.name);
                self.passed.clear();
            }
            let looks = self.looks();
            let change = self.judge.order(at, &looks, &Sentinels::None, clock::now());
            let change =
                change.map_err(|doubt| format!("{site} {}", words::doubt(&doubt, &self.sites[at].look)))?;
            self.changed(Some(&change));
        }
        Ok(costs)
    }
}

/// Asks every gateway of a site. An answer that proves that it has what was followed ends the wait for the
/// others.
async fn look_at(shared: &Shared, replica: &Replica, followed: Option<&Followed>) -> Look {
    let mut asked = JoinSet::new();
    for (at, peer) in replica.peers.iter().enumerate() {
        let one = Arc::new(Replica { peers: vec![peer.clone()], ..replica.clone() });
        let dialer = Arc::clone(&shared.dialer);
        asked.spawn(async move { (at, dial::look(&dialer, &one).await.map(|(_, accept)| accept)) });
    }
    let mut answers = Answers::new(followed);
    let mut until = Instant::now() + DEADLINE;
    while let Ok(Some(answer)) =
        timeout(until.saturating_duration_since(Instant::now()), asked.join_next()).await
    {
        let Ok((at, answer)) = answer else { continue };
        answers.take(at, answer);
        if answers.has_proof() {
            break;
        }
        if answers.is_told() {
            until = until.min(Instant::now() + GRACE);
        }
    }
    answers.look(&format!("no gateway of it has answered within {} s", DEADLINE.as_secs()))
}
