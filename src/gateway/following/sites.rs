//! Which of several sites has the master of a `[[replica]]`: asks each of them, judges, and carries out what a
//! person orders.
//!
//! One task for each entry with a choice. Only what a gateway says whose certificate carries the site counts.
//! While nobody is followed, or no link to the site that is followed has a lane, every site is asked about once
//! a second; otherwise, and while no client wants a link, seldom: so that two sites that both have a master are
//! told.

mod advice;
mod answers;
mod doubt;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::answers::{Answers, Found, Why};
use self::doubt::Repeated;
use super::keeper::Keeper;
use super::words;
use crate::clock;
use crate::config::Replica;
use crate::follow::kept::{Kept, by_words};
use crate::follow::{Entry, FollowStatus, Order, PresentStatus, Target};
use crate::lineage::judge::{By, Change, Doubt, Judge, Look, Present, Sentinels};
use crate::lineage::{Followed, History, Kinship, Standing};
use crate::link::Side;
use crate::registry::{Kind, Topic, log_throttled, notice};
use crate::session::Shared;
use crate::session::dial;

/// Time between two questions to a site while something must be found out.
const URGENT: Duration = Duration::from_secs(1);

/// The same once that has lasted for [`TIRED_AFTER`]; a replica that asks for a link shortens it. Without one,
/// [`SELDOM`] after [`IDLE_AFTER`].
const TIRED: Duration = Duration::from_secs(5);

/// How long it is urgent.
const TIRED_AFTER: Duration = Duration::from_secs(60);

/// Time between two questions to a site while all is well, or nobody wants a link. The same for a site that does
/// not say what it has: asked so, it prepares a link each time.
const SELDOM: Duration = Duration::from_secs(30);

/// Time between two questions to a site while a person should look at something, so that it is told soon that
/// this is over.
const DOUBTFUL: Duration = Duration::from_secs(2);

/// Time without a link, and without a client that wants one, after which there is no hurry.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// Time for which the site that is followed must be away on end before another one is followed by its history.
/// Every site may say that it has what came here, and none can show it; so a restart of a Redis or a gateway, which
/// takes less, must not decide.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// Time for which it is shown that a gateway of the site that is followed was refused.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Time between the first questions to two sites, and least time between two to one.
const APART: Duration = Duration::from_millis(250);

/// Time for which something must be found out after a link has ended, or could not be opened.
const HURRIED: Duration = Duration::from_secs(10);

/// Interval at which it is noted what the links have passed on, and whether they are there.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Time given to all gateways of a site to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Time given to the other gateways of a site once one has answered.
const GRACE: Duration = Duration::from_secs(1);

/// Time given to the links of an entry to end at a stop.
const LAST_LINKS: Duration = Duration::from_secs(5);

/// Follows for every entry with a choice, as the config in use has them, until the gateway stops.
pub(in crate::gateway) async fn look_after(shared: Arc<Shared>, tasks: TaskTracker) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut reloads = shared.reloads.subscribe();
    loop {
        let config = shared.config();
        let with_choice = |name: &str| config.replica(name).filter(|entry| entry.has_choice());
        let is_changed = |name: &str, task: &Running| {
            with_choice(name)
                .is_none_or(|now| sites(now) != sites(&task.entry) || now.master != task.entry.master)
        };
        let changed = running.iter().filter(|(name, task)| is_changed(name, task));
        let changed: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
        let mut known = HashMap::new();
        for name in changed {
            let Some(Running { entry, cancel, task }) = running.remove(&name) else { continue };
            cancel.cancel();
            let left = task.await.ok().flatten();
            match with_choice(&name) {
                // What was followed is of another master.
                Some(now) if now.master != entry.master => drop(known.insert(name, None)),
                Some(_) => drop(known.insert(name, left)),
                None => {
                    shared.following.end(Side::Dialler, &name);
                    shared.judge_links();
                }
            }
        }
        for entry in config.replicas.iter().filter(|entry| entry.has_choice()) {
            if !running.contains_key(&entry.name) {
                let task = Running::start(&shared, &tasks, entry, known.remove(&entry.name));
                running.insert(entry.name.clone(), task);
            }
        }
        drop(config);
        tokio::select! {
            changed = reloads.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

/// The names of the sites of an entry.
fn sites(entry: &Replica) -> Vec<String> {
    entry.from.iter().map(|origin| origin.site.clone()).collect()
}

/// What the links of an entry show that had one site until now: that one is followed.
fn of_links(shared: &Shared, entry: &Replica) -> Option<Kept> {
    let carries = |site: &String| shared.registry.carried(&entry.name, site) > 0;
    let site = sites(entry).into_iter().find(carries)?;
    let (history, passed) = shared.registry.stream(Side::Dialler, &entry.name)?;
    let followed = Followed { history, passed, run: None };
    Some(Kept { followed, present: Some((site.clone(), By::First, clock::now())), last: Some(site) })
}

/// The task of an entry.
struct Running {
    entry: Arc<Replica>,
    cancel: CancellationToken,
    task: JoinHandle<Option<Kept>>,
}

impl Running {
    /// `known` is what the task knew that had this name before, if there was one.
    fn start(
        shared: &Arc<Shared>,
        tasks: &TaskTracker,
        entry: &Arc<Replica>,
        known: Option<Option<Kept>>,
    ) -> Self {
        let cancel = shared.stop.child_token();
        let task = follow(Arc::clone(shared), Arc::clone(entry), known, cancel.clone());
        Self { entry: Arc::clone(entry), cancel, task: tasks.spawn(task) }
    }
}

/// Follows for one entry until `cancel`. Returns what it knows then.
async fn follow(
    shared: Arc<Shared>,
    replica: Arc<Replica>,
    known: Option<Option<Kept>>,
    cancel: CancellationToken,
) -> Option<Kept> {
    let (entry, orders) = shared.following.begin(Side::Dialler, &replica.name);
    let (keeper, kept) = Keeper::open(&shared, Side::Dialler, &replica.name).await;
    let kept = known.unwrap_or_else(|| kept.or_else(|| of_links(&shared, &replica)));
    Sites::new(shared, &replica, entry, keeper, kept).run(orders, cancel).await
}

/// What is known of one site.
#[derive(Debug)]
struct Site {
    name: String,
    look: Look,
    /// What its best answer is by itself.
    best: Look,
    why: Why,
    /// Since when it is away.
    away: Option<Instant>,
    /// A gateway of it whose master is another one than what is followed there.
    stranger: Option<String>,
    /// When it is asked next, if it is not being asked.
    due: Instant,
    /// When it was asked last.
    asked: Option<Instant>,
    is_asked: bool,
}

impl Site {
    /// It was asked, and this is what it is.
    fn found(&mut self, Found { look, best, why, stranger }: Found, now: Instant) {
        self.away = matches!(look, Look::Away(_)).then(|| self.away.unwrap_or(now));
        (self.look, self.best, self.why, self.stranger) = (look, best, why, stranger);
    }

    /// Has it asked this long after it was asked last.
    fn ask_within(&mut self, pause: Duration, now: Instant) {
        self.due = self.due.min(self.asked.map_or(self.due, |asked| (asked + pause).max(now)));
    }

    fn is_away(&self) -> bool {
        matches!(self.look, Look::Away(_))
    }

    /// Whether it has been away for long enough, so that another one may be followed.
    fn is_gone(&self, now: Instant) -> bool {
        self.away.is_some_and(|since| now.saturating_duration_since(since) >= AWAY_FOR)
    }
}

/// An order that waits for the answer of a site.
#[derive(Debug)]
struct Waiting {
    /// The site's place.
    at: usize,
    /// When it was given.
    given: Instant,
    order: Order,
}

/// Takes out the orders that an answer of this site decides, to a question of this moment: not those that were
/// given later.
fn decided(waiting: &mut Vec<Waiting>, at: usize, asked: Option<Instant>) -> Vec<Order> {
    let is_decided = |order: &Waiting| order.at == at && asked.is_some_and(|asked| asked >= order.given);
    let (decided, others) = std::mem::take(waiting).into_iter().partition(is_decided);
    *waiting = others;
    let decided: Vec<Waiting> = decided;
    decided.into_iter().map(|waiting| waiting.order).collect()
}

/// The sites of one entry.
struct Sites {
    shared: Arc<Shared>,
    name: String,
    entry: Arc<Entry>,
    keeper: Keeper,
    sites: Vec<Site>,
    judge: Judge,
    switches: u64,
    /// What the links had passed on when a person chose a master that does not have it.
    given_up: Vec<(History, Option<u64>)>,
    /// Since when something must be found out.
    urgent: Option<Instant>,
    hurried: Option<Instant>,
    orders: Vec<Waiting>,
    /// What a person should look at.
    doubt: Repeated,
    is_doubtful: bool,
    /// Why a session has refused a gateway of the site that is followed.
    refused: Option<String>,
}

impl Sites {
    fn new(
        shared: Arc<Shared>,
        replica: &Replica,
        entry: Arc<Entry>,
        keeper: Keeper,
        kept: Option<Kept>,
    ) -> Self {
        let now = Instant::now();
        let site = |(at, name): (usize, String)| Site {
            name,
            look: Look::NotYet,
            best: Look::NotYet,
            why: Why::Other,
            away: None,
            stranger: None,
            due: now + APART * u32::try_from(at).unwrap_or(u32::MAX),
            asked: None,
            is_asked: false,
        };
        let sites: Vec<_> = sites(replica).into_iter().enumerate().map(site).collect();
        let (followed, present) = kept.map(|kept| (kept.followed, kept.present)).unzip();
        let present = present.flatten().and_then(|(name, by, since)| {
            let party = sites.iter().position(|site| site.name.eq_ignore_ascii_case(&name))?;
            Some(Present { party, by, since })
        });
        let judge = Judge::new(sites.len(), followed, present);
        Self {
            shared,
            name: replica.name.clone(),
            entry,
            keeper,
            sites,
            judge,
            switches: 0,
            given_up: Vec::new(),
            urgent: None,
            hurried: Some(now),
            orders: Vec::new(),
            doubt: Repeated::default(),
            is_doubtful: false,
            refused: None,
        }
    }

    /// Runs until `cancel`. Returns what it knows then.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>, cancel: CancellationToken) -> Option<Kept> {
        // Links to the site that was followed before need not wait for its answer.
        if self.judge.present().is_some() {
            self.publish();
        }
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
                () = cancel.cancelled() => break,
                Some(found) = asked.join_next(), if !asked.is_empty() => {
                    // Its tasks end by themselves alone.
                    if let Ok((at, found)) = found {
                        self.seen(at, found);
                    }
                }
                Some(order) = orders.recv() => self.ordered(order),
                () = entry.hurried() => self.hurry(Instant::now()),
                () = self.keeper.written() => {}
                () = sleep_until(wake.into()) => {}
            }
        }
        self.stop().await
    }

    /// The gateway stops, or the entry is another one now. Once the links have ended, it is known exactly how
    /// far they have passed the stream on.
    async fn stop(mut self) -> Option<Kept> {
        let has_links = |sites: &Self| sites.shared.registry.links_of(Side::Dialler, &sites.name) > 0;
        if self.shared.stop.is_cancelled() {
            let by = Instant::now() + LAST_LINKS;
            while has_links(&self) && Instant::now() < by {
                sleep(Duration::from_millis(20)).await;
            }
        }
        let all = !has_links(&self);
        self.take_passed();
        let kept = self.kept()?;
        self.keeper.keep_last(if all { kept.clone() } else { kept.while_running() }).await;
        Some(kept)
    }

    fn kept(&self) -> Option<Kept> {
        let followed = self.judge.followed().filter(|_| !self.judge.is_unused())?;
        Some(Kept::of(followed, &self.judge, |party| self.sites[party].name.clone()))
    }

    /// Asks every site whose time has come.
    fn ask(&mut self, asked: &mut JoinSet<(usize, Option<Found>)>, now: Instant) {
        for (at, site) in self.sites.iter_mut().enumerate() {
            if site.is_asked || site.due > now {
                continue;
            }
            (site.is_asked, site.asked) = (true, Some(now));
            let config = self.shared.config();
            let replica = config.replica(&self.name).and_then(|entry| entry.at(&site.name));
            let (shared, followed) = (Arc::clone(&self.shared), self.judge.followed().cloned());
            let is_followed = self.judge.present().is_some_and(|present| present.party == at);
            asked.spawn(async move {
                let found = match replica {
                    Some(replica) => Some(look_at(&shared, &replica, is_followed, followed.as_ref()).await),
                    None => None,
                };
                (at, found)
            });
        }
    }

    /// Time between two questions to a site now.
    fn pause(&mut self, at: usize, now: Instant) -> Duration {
        let carried = |present: Present| {
            let site = &self.sites[present.party].name;
            self.shared.registry.carried(&self.name, site)
        };
        let is_urgent = self.judge.present().map_or(0, carried) == 0;
        self.urgent = is_urgent.then(|| self.urgent.unwrap_or(now));
        let is_within =
            |then: Option<Instant>, time| then.is_some_and(|then| now.saturating_duration_since(then) < time);
        let is_idle = || {
            !is_within(self.hurried, IDLE_AFTER)
                && self.shared.registry.links_of(Side::Dialler, &self.name) == 0
        };
        if self.sites[at].why == Why::Untold {
            SELDOM
        } else if is_within(self.hurried, HURRIED) {
            URGENT
        } else if !is_urgent {
            if self.is_doubtful { DOUBTFUL } else { SELDOM }
        } else if is_idle() {
            SELDOM
        } else if is_within(self.urgent, TIRED_AFTER) {
            URGENT
        } else {
            TIRED
        }
    }

    /// Has every site asked as soon as it may be.
    fn hurry(&mut self, now: Instant) {
        self.hurried = Some(now);
        for site in self.sites.iter_mut().filter(|site| site.why != Why::Untold) {
            site.ask_within(APART, now);
        }
    }

    /// Notes what the links have passed on, and asks sooner if they are gone.
    fn note(&mut self, now: Instant) {
        self.take_passed();
        let refused = self.entry.refused_within(REFUSED_FOR);
        if refused != self.refused {
            self.refused = refused;
            self.publish();
        }
        for at in 0..self.sites.len() {
            let pause = self.pause(at, now);
            self.sites[at].ask_within(pause, now);
        }
        let status = self.entry.status();
        self.tell_doubt(status.attention.zip(status.next_step), now);
    }

    /// Takes up what the links have passed on by now.
    fn take_passed(&mut self) {
        for passed in self.shared.registry.passed(Side::Dialler, &self.name) {
            if !self.given_up.contains(&passed) {
                self.judge.passes(passed.0, passed.1);
            }
        }
    }

    /// A site was asked, and this is what it is; `None` if it is not in the config any more: then this task ends
    /// soon.
    fn seen(&mut self, at: usize, found: Option<Found>) {
        let now = Instant::now();
        let site = &mut self.sites[at];
        site.is_asked = false;
        let Some(found) = found else {
            site.due = now + SELDOM;
            return;
        };
        site.found(found, now);
        self.take_passed();
        let change = self.judge.step(&self.looks(now), &Sentinels::None, clock::now());
        self.settle(change.as_ref());
        self.sites[at].due = now + self.pause(at, now);
        for order in decided(&mut self.orders, at, self.sites[at].asked) {
            if !order.is_given_up() {
                let answer = self.carry_out(at, order.carry_out);
                let _ = order.answer.send(answer);
            }
        }
        if self.orders.iter().any(|waiting| waiting.at == at) {
            // Given while that question was under way.
            self.sites[at].due = now;
        }
    }

    /// What the judge sees: a site that is followed and away for a moment is not known to be so yet.
    fn looks(&self, now: Instant) -> Vec<Look> {
        let present = self.judge.present().map(|present| present.party);
        let look = |(at, site): (usize, &Site)| {
            let is_short = present == Some(at) && site.is_away() && !site.is_gone(now);
            if is_short { Look::NotYet } else { site.look.clone() }
        };
        self.sites.iter().enumerate().map(look).collect()
    }

    /// Has everybody know what was judged.
    fn settle(&mut self, change: Option<&Change>) {
        self.switches += u64::from(matches!(change, Some(Change::Follows { .. })));
        self.publish();
        if !self.is_current() {
            return;
        }
        let name = &self.name;
        match change {
            Some(Change::Follows { party, by, kinship }) => {
                let (site, look) = (&self.sites[*party].name, &self.sites[*party].look);
                let Look::Master { standing, .. } = look else { return };
                let (history, offset) = (standing.history.as_str(), standing.offset);
                let because = match (by, kinship) {
                    (By::Person, _) => "a person said so",
                    (By::Lineage, _) => "it says that it has all that came here",
                    _ => "every other site has a replica of it",
                };
                info!(kind = notice::SITE_FOLLOWED, link = %name, %site, by = by_words(*by), history, offset, "site {site} has the master of {name} now: {because}");
            }
            Some(Change::Lost { party, why }) => {
                let (site, look) = (&self.sites[*party].name, &self.sites[*party].look);
                let why = words::doubt(why, look, self.judge.followed(), "");
                warn!(kind = notice::SITE_LOST, link = %name, %site, "site {site} is not followed for {name} any more: it {why}");
            }
            None => {}
        }
    }

    /// Stores what was judged. Every link is judged again if others go to another place than before.
    fn publish(&mut self) {
        let target = self.judge.present().and_then(|present| {
            let site = &self.sites[present.party];
            let followed = self.judge.followed()?;
            let standing = match &site.look {
                Look::Master { standing } => standing.clone(),
                _ => {
                    let offset = followed.passed.unwrap_or(0);
                    Standing { history: followed.history, offset, earlier: None, run: None }
                }
            };
            Some(Target { party: site.name.clone(), addresses: Vec::new(), standing })
        });
        let status = self.status();
        self.is_doubtful = status.attention.is_some();
        if self.entry.judged(target, status) {
            self.shared.judge_links();
        }
        if let Some(kept) = self.kept() {
            self.keeper.keep(kept.while_running());
        }
    }

    /// Why a site is not followed, as a clause; `None` for the one that is, and while it was not asked.
    fn doubt_of(&self, at: usize) -> Option<String> {
        let doubt = self.judge.doubts()[at].as_ref()?;
        if *doubt == Doubt::Ambiguous {
            return Some("says that it has all that came here, and so does another one".to_owned());
        }
        Some(words::doubt(doubt, &self.sites[at].look, self.judge.followed(), ""))
    }

    /// What `status` shows.
    fn status(&self) -> FollowStatus {
        let present = self.judge.present();
        let party = |(at, site): (usize, &Site)| {
            let is_followed = present.is_some_and(|present| present.party == at);
            words::party(&site.name, &site.look, is_followed, self.doubt_of(at))
        };
        let (attention, next_step) = self.attention().unzip();
        FollowStatus {
            name: self.name.clone(),
            role: Side::Dialler.role().to_owned(),
            present: present.map(|present| PresentStatus {
                party: self.sites[present.party].name.clone(),
                since: present.since,
                by: by_words(present.by).to_owned(),
            }),
            parties: self.sites.iter().enumerate().map(party).collect(),
            sentinels: Vec::new(),
            standby: false,
            attention,
            next_step,
            switches: self.switches,
        }
    }

    /// What a person must look at, and what to do about it.
    fn attention(&self) -> Option<(String, String)> {
        let name = &self.name;
        if self.sites.iter().all(|site| site.look == Look::NotYet) {
            return None;
        }
        let clause = |at: usize| Some(format!("{} {}", self.sites[at].name, self.doubt_of(at)?));
        let all = || 0..self.sites.len();
        let present = self.judge.present().map(|present| present.party);
        let masters: Vec<_> = all()
            .filter(|at| Some(*at) != present && matches!(self.sites[*at].look, Look::Master { .. }))
            .collect();
        let state = |at: usize| {
            let site = &self.sites[at];
            let state = match &site.look {
                Look::NotYet | Look::Other { .. } => advice::State::NoMaster,
                Look::Master { .. } => advice::State::Master,
                Look::Away(_) => advice::State::Away(site.why),
            };
            (site.name.as_str(), state, present == Some(at))
        };
        let states: Vec<_> = all().map(state).collect();
        let Some(at) = present else {
            let told: Vec<_> = all().filter_map(clause).collect();
            let words = format!("no site is known to have the master of {name}: {}", told.join("; "));
            return Some((words, advice::next_step(name, &states)));
        };
        let own = &self.sites[at];
        let mut told = Vec::new();
        if let Look::Away(why) = &own.look {
            told.push(format!("{} is followed for {name}, and {why}", own.name));
        }
        told.extend(masters.iter().filter_map(|at| self.rival(*at)));
        let refused = own.stranger.as_ref().or(self.refused.as_ref());
        if told.is_empty() {
            let refused = refused?;
            return Some((
                format!("{} is followed for {name}; {refused}", own.name),
                advice::of_stranger(name, &own.name),
            ));
        }
        if !own.is_away() {
            told.insert(0, format!("{} is followed for {name}", own.name));
        }
        told.extend(refused.cloned());
        Some((told.join("; "), advice::next_step(name, &states)))
    }

    /// What another site has that offers a master beside the one that is followed.
    fn rival(&self, at: usize) -> Option<String> {
        let Site { name, look: Look::Master { standing, .. }, .. } = &self.sites[at] else { return None };
        let has = match self.judge.kinship(standing)? {
            Kinship::Same | Kinship::Successor | Kinship::Renamed => {
                "and says that it has all that came here".to_owned()
            }
            Kinship::Behind(lost) => format!("which lacks the last {lost} bytes that came here"),
            Kinship::Uncertain => {
                "which took over, and it is not known what had come here by then".to_owned()
            }
            Kinship::Stranger => format!("with data of another history ({})", standing.history.short()),
        };
        Some(format!("{name} offers a master too, {has}"))
    }

    /// Whether the config in use has these sites. If not, this task ends soon, and nothing of it counts any more.
    fn is_current(&self) -> bool {
        let config = self.shared.config();
        let names = self.sites.iter().map(|site| &site.name);
        config.replica(&self.name).is_some_and(|entry| sites(entry).iter().eq(names))
    }

    /// Logs what a person must look at, once it has lasted, and again if it goes on.
    fn tell_doubt(&mut self, attention: Option<(String, String)>, now: Instant) {
        let Some((attention, next_step)) = attention else {
            self.doubt = Repeated::default();
            return;
        };
        if !self.doubt.is_due(&attention, now) || !self.is_current() {
            return;
        }
        let config = self.shared.config();
        let Some(replica) = config.replica(&self.name) else { return };
        let topic = Topic::replica(Kind::SiteDoubt, replica);
        let (name, words) = (&self.name, format!("{attention}; {next_step}"));
        log_throttled!(warn, self.shared.registry, topic, &words; link = %name, "{words}");
    }

    /// Takes an order. It is carried out by what the site answers to a question of now.
    fn ordered(&mut self, order: Order) {
        let found = self.sites.iter().position(|site| site.name.eq_ignore_ascii_case(&order.party));
        let Some(at) = found else {
            let all: Vec<_> = self.sites.iter().map(|site| site.name.as_str()).collect();
            let words = format!("{} has no site {:?}; it has: {}", self.name, order.party, all.join(", "));
            let _ = order.answer.send(Err(words));
            return;
        };
        let given = Instant::now();
        self.sites[at].due = given;
        self.orders.push(Waiting { at, given, order });
    }

    /// Says what it costs to follow a site, or follows it. The error says why it cannot be.
    fn carry_out(&mut self, at: usize, is_order: bool) -> Result<Vec<String>, String> {
        let (site, name) = (self.sites[at].name.clone(), self.name.clone());
        let standing = match &self.sites[at].best {
            Look::Master { standing, .. } => standing.clone(),
            Look::Other { words, .. } | Look::Away(words) => return Err(format!("{site} {words}")),
            Look::NotYet => return Err(format!("{site} was not asked yet; ask again")),
        };
        let mut lines = Vec::new();
        if let Some(present) = self.judge.present() {
            let is_another = !self.judge.kinship(&standing).is_some_and(Kinship::is_proof);
            if present.party == at && !(is_another && self.sites[at].why == Why::Partial) {
                return Ok(vec![format!("{site} is followed for {name} already.")]);
            }
            let own = &self.sites[present.party];
            lines.push(match &own.look {
                Look::Away(why) => format!("{} is followed now, and {why}.", own.name),
                _ => format!(
                    "{} is followed now, and has a master: links to it end, and it must not be written to any more.",
                    own.name
                ),
            });
        }
        lines.push(format!("{site} offers the master of {name}. What follows is what it says of it."));
        self.take_passed();
        let kinship = self.judge.kinship(&standing);
        lines.extend(words::cost(kinship, &standing, self.judge.followed()));
        if !is_order {
            return Ok(lines);
        }
        if !kinship.is_some_and(Kinship::is_proof) {
            self.given_up = self.shared.registry.passed(Side::Dialler, &name);
        }
        self.sites[at].look = self.sites[at].best.clone();
        let looks = self.looks(Instant::now());
        let ordered = self.judge.order(at, &looks, &Sentinels::None, clock::now());
        let change = ordered.map_err(|why| {
            format!("{site} {}", words::doubt(&why, &self.sites[at].look, self.judge.followed(), ""))
        })?;
        self.settle(Some(&change));
        lines.push(format!("{site} is followed for {name} from now on."));
        Ok(lines)
    }
}

/// Asks every gateway of a site. An answer that shows that it has what was followed ends the wait for the others,
/// but at the site that is followed: there each of them counts that has another master.
async fn look_at(
    shared: &Shared,
    replica: &Replica,
    is_followed: bool,
    followed: Option<&Followed>,
) -> Found {
    let mut asked = JoinSet::new();
    for (at, peer) in replica.peers.iter().enumerate() {
        let one = Arc::new(Replica { peers: vec![peer.clone()], ..replica.clone() });
        let dialer = Arc::clone(&shared.dialer);
        asked.spawn(async move { (at, dial::look(&dialer, &one).await.map(|(_, accept)| accept)) });
    }
    let mut answers = Answers::new(followed);
    let mut until = Instant::now() + DEADLINE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(Some(answer)) = timeout(left, asked.join_next()).await else { break };
        let Ok((at, answer)) = answer else { continue };
        answers.take(at, answer);
        if answers.has_proof() && !is_followed {
            break;
        }
        if answers.has_answered() {
            until = until.min(Instant::now() + GRACE);
        }
    }
    let away = format!("has not answered within {} s", DEADLINE.as_secs());
    answers.look(replica.peers.len(), is_followed, &away)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn an_order_is_decided_by_the_answer_to_a_question_that_was_sent_after_it() {
        let given = Instant::now();
        let order =
            |party: &str| Order { party: party.to_owned(), carry_out: true, answer: oneshot::channel().0 };
        let mut waiting: Vec<_> =
            [0, 1].map(|at| Waiting { at, given, order: order(&format!("dc{at}")) }).into();
        let before = given.checked_sub(Duration::from_millis(1));
        for asked in [None, before] {
            assert!(decided(&mut waiting, 1, asked).is_empty(), "it was under way");
        }
        let now = decided(&mut waiting, 1, Some(given + Duration::from_millis(1)));
        assert_eq!(now.iter().map(|order| order.party.as_str()).collect::<Vec<_>>(), ["dc1"]);
        assert_eq!(waiting.len(), 1, "that of the other site waits");
    }

    #[test]
    fn a_site_is_gone_once_it_was_away_on_end_and_not_at_the_first_blink() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        let mut site = Site {
            name: "dc1".to_owned(),
            look: Look::NotYet,
            best: Look::NotYet,
            why: Why::Other,
            away: None,
            stranger: None,
            due: now,
            asked: None,
            is_asked: false,
        };
        let found = |look: Look| Found { best: look.clone(), look, why: Why::Other, stranger: None };
        let away = || found(Look::Away("is not reached".to_owned()));
        let back = || found(Look::Other { standing: None, words: "loads".to_owned() });
        for (at, seen, is_gone) in [
            (0, away(), false),
            (4_900, away(), false),
            (4_950, back(), false),
            (5_100, away(), false),
            (10_000, away(), false),
            (10_100, away(), true),
        ] {
            site.found(seen, after(at));
            assert_eq!(site.is_gone(after(at)), is_gone, "after {at} ms");
        }
    }
}
