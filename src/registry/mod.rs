//! The live links with their counts, and the number of refusals and failures.
//!
//! Sessions write, `status` reads.

mod admission;
mod coverage;
mod events;
mod history;
mod link;
mod missing;
pub mod notice;
mod passed;
mod rate;
mod reloads;
mod tally;
mod throttle;
mod work;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::admission::Admission;
use self::admission::Taken;
pub use self::coverage::Coverage;
pub use self::events::{Event, Events, Recorder};
pub use self::history::{History, LinkSample, Point, SAMPLE_EVERY, SPAN};
pub use self::link::{EndedLink, Hold, LinkEntry, LinkStats, LinkStatus};
#[cfg(test)]
pub use self::missing::{DOWN_AFTER, REMEMBERED_FOR};
pub use self::missing::{MissingLink, MissingSync};
use self::passed::Passed;
use self::reloads::Reloads;
pub use self::reloads::{LastReload, Part};
use self::tally::Counters;
pub use self::tally::{Dialled, Tallies, Tally};
use self::throttle::{Counted, LogThrottle};
pub use self::throttle::{Kind, Line, Suppressed, Topic};
pub use self::work::{Meter, Penalty, Turn, thread_time};
use self::work::{SiteWork, Sites};
use crate::clock;
use crate::lineage;
use crate::link::{End, Side};
use crate::memory;
use crate::redis::replication::{Channel, Observed, Stage};
use crate::redis::syncs::Syncs;
use crate::units::ListenAddress;
use crate::wire::hello::Id;
use crate::wire::terms::Agreed;

/// Logs a line if the throttle allows one more for its topic. Otherwise the line is counted, and
/// logged at debug level: `log_throttled!(level, registry, topic, words; fields…, "message")`. The
/// throttle compares the words with those of earlier lines. The field `kind` is the topic's code.
macro_rules! log_throttled {
    ($level:ident, $registry:expr, $topic:expr, $words:expr; $($line:tt)+) => {{
        let topic = $topic;
        let kind = topic.code();
        match $registry.may_log(topic, $words) {
            // Without a count the field is left out.
            Some(line) => tracing::$level!(more = line.more, kind, $($line)+),
            None => tracing::debug!(kind, $($line)+),
        }
    }};
}
pub(crate) use log_throttled;

/// Most ended links that are remembered.
const REMEMBERED: usize = 20;

/// Time within which a client that got no link asks again: Redis does so after one second, and its
/// gateway delays it by 5 s at most.
const LATELY: Duration = Duration::from_secs(15);

/// Everything that [`Registry`] counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Links that came up since the start.
    pub opened: u64,
    /// Links that ended since the start.
    pub closed: u64,
    /// Connections and links that were refused since the start, by this side.
    pub refused: u64,
    /// Links that this side asked for and did not get.
    pub failed: u64,
    /// Times that a link lost its last lane, over all links since the start.
    pub breaks: u64,
    /// Breaks that a link survived.
    pub resumed: u64,
    /// Dials for more lanes, or for a lane that ends a break.
    pub redials: u64,
    /// Lanes that were lost.
    pub lanes_lost: u64,
    /// Bytes that were sent to a far gateway more than once.
    pub resent_bytes: u64,
    /// Links that ended for a command that is not part of replication.
    pub commands_refused: u64,
}

/// The syncs of one `[[master]]` or `[[replica]]` since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SyncCounts {
    /// Its name.
    pub name: String,
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: String,
    /// Full syncs.
    pub full: u64,
    /// Partial resyncs.
    pub partial: u64,
    /// Syncs that the master or its gateway refused.
    pub refused: u64,
}

/// The links and counts that `status` shows.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Every live link.
    pub links: Vec<LinkStatus>,
    /// Links that have ended, the latest first.
    pub ended: Vec<EndedLink>,
    /// Since the start.
    pub counts: Counts,
    /// Since the start, by name.
    pub syncs: Vec<SyncCounts>,
}

#[derive(Default)]
struct State {
    links: Vec<Arc<LinkEntry>>,
    /// Ended links, the latest first, and whether the sync of each had begun.
    ended: VecDeque<(EndedLink, bool)>,
    counts: Counts,
    next: u64,
    taken: Taken,
    /// A change of the config removes those whose counts it removes.
    syncs: HashMap<tally::Key, Arc<Syncs>>,
    log: LogThrottle,
    sites: Arc<Sites>,
    listening: Vec<ListenAddress>,
    /// When a client of a `[[replica]]` last got no link, unless one has got a link since.
    without: HashMap<String, Instant>,
    /// The last working link of each side, name, and site in lower case.
    worked: HashMap<(Side, String, String), MissingLink>,
    work: HashMap<String, Arc<SiteWork>>,
    reloads: Reloads,
    counters: Counters,
    history: Arc<History>,
    /// What the ended links of each entry have passed on.
    passed: Passed,
}

/// The live state of one gateway.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
}

/// An address on which the gateway listens, until this is dropped.
#[derive(Debug)]
pub struct Listening {
    registry: Arc<Registry>,
    address: ListenAddress,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // A socket that takes the place of this one has the same address.
        let listening = &mut self.registry.lock().listening;
        if let Some(at) = listening.iter().position(|address| *address == self.address) {
            listening.remove(at);
        }
    }
}

/// Keeps a link in the registry until it is dropped.
#[derive(Debug)]
pub struct LinkGuard {
    registry: Arc<Registry>,
    entry: Arc<LinkEntry>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl std::ops::Deref for LinkGuard {
    type Target = LinkEntry;

    fn deref(&self) -> &LinkEntry {
        &self.entry
    }
}

impl LinkGuard {
    /// Removes the link from the registry, and remembers why it ended, also in words.
    pub fn end(self, reason: String, end: &End) {
        let ended = EndedLink { reason, at: clock::now(), link: self.entry.status(Instant::now()) };
        let mut state = self.registry.lock();
        state.counts.commands_refused += u64::from(matches!(end, End::CommandRefused(_)));
        state.counters.ends(&self.entry, end);
        let begun = self.entry.has_begun();
        if begun {
            missing::worked(&mut state.worked, self.entry.side, &ended);
        } else {
            self.note_missing_sync(&ended.reason, end);
            // Replicas that get no sync ask again every second. Their links must not displace
            // others.
            let same = |link: &LinkStatus| {
                (&link.name, &link.role, &link.site) == (&ended.link.name, &ended.link.role, &ended.link.site)
            };
            state.ended.retain(|(earlier, begun)| *begun || !same(&earlier.link));
        }
        state.ended.truncate(REMEMBERED - 1);
        state.ended.push_front((ended, begun));
    }

    /// Whether a line about this link may be logged; see [`Registry::may_log`].
    pub fn may_log(&self, kind: Kind, words: &str) -> Option<Line> {
        self.registry.may_log(Topic::link(kind, &self.entry), words)
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.links.retain(|link| link.number != self.entry.number);
        Arc::make_mut(&mut state.history).end(&self.entry.sample(Instant::now()));
        state.counts.closed += 1;
        self.entry.add_to(&mut state.counts);
        state.counters.gone(&self.entry);
        state.passed.ended(&self.entry);
    }
}

/// The facts about a link when it begins.
#[derive(Debug)]
pub struct NewLink<'a> {
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: &'a str,
    /// Which end this is.
    pub side: Side,
    /// The far site.
    pub site: &'a str,
    /// The far gateway's host, as stated by it.
    pub node: &'a str,
    /// The far gateway's instance.
    pub instance: Id,
    /// The far gateway's address.
    pub far: SocketAddr,
    /// The local Redis' address.
    pub redis: SocketAddr,
    /// Whether any command passes.
    pub passthrough: bool,
    /// The agreed terms.
    pub agreed: Agreed,
    /// The state of its observer; `None` for a passthrough.
    pub observed: Option<Arc<Observed>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the registry")
    }

    /// Adds a link.
    pub fn open(self: &Arc<Self>, new_link: &NewLink<'_>) -> LinkGuard {
        let mut state = self.lock();
        state.next += 1;
        state.counts.opened += 1;
        let entry = Arc::new(LinkEntry::new(state.next, new_link));
        state.counters.opened(&entry);
        state.links.push(Arc::clone(&entry));
        if new_link.side == Side::Dialler {
            state.without.remove(new_link.name);
        }
        LinkGuard { registry: Arc::clone(self), entry }
    }

    /// Lists an address as listened on.
    pub fn listening(self: &Arc<Self>, address: impl Into<ListenAddress>) -> Listening {
        let address = address.into();
        self.lock().listening.push(address.clone());
        Listening { registry: Arc::clone(self), address }
    }

    /// Every address that is listened on.
    pub fn listeners(&self) -> Vec<ListenAddress> {
        self.lock().listening.clone()
    }

    /// Every `[[replica]]` for which a client recently got no link, and none has got one since.
    pub fn without_link(&self) -> Vec<String> {
        let (state, now) = (self.lock(), Instant::now());
        let lately = state.without.iter().filter(|(_, at)| now.saturating_duration_since(**at) < LATELY);
        let mut names: Vec<String> = lately.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// The far address and instance of the newest link of a `[[replica]]` with this site that has a lane: the
    /// two connections of one sync must reach the same gateway.
    pub fn sibling(&self, name: &str, site: &str) -> Option<(SocketAddr, Id)> {
        let state = self.lock();
        let links = state.links.iter().rev().filter(|link| link.is_of_replica(name, site));
        let newest = links.into_iter().find(|link| !link.is_held())?;
        Some((newest.far(), newest.instance))
    }

    /// The number of links of a `[[replica]]` with this site that have a lane.
    pub fn carried(&self, name: &str, site: &str) -> usize {
        let state = self.lock();
        let links = state.links.iter().filter(|link| link.is_of_replica(name, site));
        links.filter(|link| !link.is_held()).count()
    }

    /// The number of links of an entry.
    pub fn links_of(&self, side: Side, name: &str) -> usize {
        self.lock().links.iter().filter(|link| link.side == side && link.name == name).count()
    }

    /// How far the links of an entry have passed on each stream of writes, those that have ended included: the
    /// offset of the last byte, or `None` where one of them does not know. The stream that was begun last comes
    /// last. Streams that nobody had lately may be left out.
    pub fn passed(&self, side: Side, name: &str) -> Vec<(lineage::History, Option<u64>)> {
        let state = self.lock();
        let live = state.links.iter().filter(|link| link.side == side && link.name == name);
        let mut all = Vec::new();
        for (stream, offset) in state.passed.of(side, name).chain(live.filter_map(|link| link.passed())) {
            passed::note(&mut all, stream, offset);
        }
        all
    }

    /// The streams that links of an entry carry now, over a lane.
    pub fn carries_now(&self, side: Side, name: &str) -> Vec<lineage::History> {
        let state = self.lock();
        let live =
            state.links.iter().filter(|link| link.side == side && link.name == name && !link.is_held());
        live.filter_map(|link| Some(link.passed()?.0)).collect()
    }

    /// The stream that the links of an entry carry, or have carried last, and how far they have passed it on;
    /// `None` if no link has passed any since the start.
    pub fn stream(&self, side: Side, name: &str) -> Option<(lineage::History, Option<u64>)> {
        self.passed(side, name).pop()
    }

    /// Whether a link that this side has opened to the site has a lane, or had one within this time.
    pub fn carried_lately(&self, site: &str, within: Duration) -> bool {
        let state = self.lock();
        let mut links = state.links.iter().filter(|link| link.side == Side::Dialler);
        links.any(|link| link.site.eq_ignore_ascii_case(site) && link.was_carried(within))
    }

    /// Counts an event. Returns whether it may be logged. It may not if the same words, or too many
    /// lines of its topic, were logged within the last minute. Then a later line gives the count.
    pub fn may_log(&self, topic: Topic, words: &str) -> Option<Line> {
        let mut state = self.lock();
        state.counters.happened(topic.kind());
        match topic.kind().counted() {
            Counted::Refused => state.counts.refused += 1,
            Counted::Failed => state.counts.failed += 1,
            Counted::Not => {}
        }
        if let (Kind::NoLink, Some(name)) = (topic.kind(), topic.name()) {
            state.without.insert(name.to_owned(), Instant::now());
        }
        state.log.allow(topic, words, Instant::now())
    }

    /// A topic has recovered: its next failure may be logged, even in the same words.
    pub fn recovered(&self, topic: &Topic) {
        self.lock().log.forget(topic);
    }

    /// The suppressed lines whose count is due because no later line of their topic has given it.
    /// At the `last` call, all of them.
    pub fn suppressed(&self, last: bool) -> Vec<Suppressed> {
        let log = &mut self.lock().log;
        if last { log.take_all() } else { log.take_overdue(Instant::now()) }
    }

    /// The sync state that the links of one `[[master]]` or `[[replica]]` with one far site share.
    pub fn syncs(&self, side: Side, name: &str, site: &str) -> Arc<Syncs> {
        Arc::clone(self.lock().syncs.entry(tally::key(side, name, site)).or_default())
    }

    /// The meter of one more link of a far site.
    pub fn meter(&self, site: &str) -> Meter {
        let mut state = self.lock();
        let sites = Arc::clone(&state.sites);
        let work = state.work.entry(site.to_ascii_lowercase());
        work.or_insert_with(|| Arc::new(SiteWork::new(&sites))).meter()
    }

    /// Measures how fast the masters here write, and for how long an outage memory lasts at these
    /// rates, with `free` bytes that no link holds now. Returns the links for which it has become
    /// shorter than `hold`. Also looks at how much each link carries. To be called every few seconds.
    pub fn measure(&self, free: u64, now: Instant) -> Vec<(Arc<LinkEntry>, Coverage)> {
        let links = self.lock().links.clone();
        links.iter().for_each(|link| link.look(now));
        let mut demands: Vec<_> = links.iter().filter_map(|link| Some((link, link.measure(now)?))).collect();
        // Links that write next to nothing do not count as holding anything.
        let fills = |link: &LinkEntry, demand: &coverage::Demand| {
            demand.rate * link.agreed.hold.as_secs_f64() > memory::FLOOR as f64
        };
        let mut sites: HashMap<&str, usize> = HashMap::new();
        for (link, demand) in &demands {
            *sites.entry(&link.site).or_default() += usize::from(fills(link, demand));
        }
        let several = sites.values().filter(|links| **links > 0).count() > 1;
        let all = demands.iter().map(|(_, demand)| demand.rate).sum();
        let mut short = Vec::new();
        for (link, demand) in &mut demands {
            demand.sharers = if several { sites[link.site.as_str()] } else { 1 };
            if let Some(coverage) = link.judge(coverage::lasts(demand, free, all)) {
                short.push((Arc::clone(link), coverage));
            }
        }
        short
    }

    /// Every live link and the counts. If a sync has two connections, the main one shows the
    /// snapshot's progress, and the other one the link that it belongs to.
    ///
    /// The registry is locked only while its links are listed, not while each is described.
    pub fn live(&self) -> Live {
        let (entries, ended, mut counts, syncs) = {
            let state = self.lock();
            let ended = state.ended.iter().map(|(ended, _)| ended.clone()).collect();
            let syncs: Vec<_> =
                state.syncs.iter().map(|(key, syncs)| (key.clone(), Arc::clone(syncs))).collect();
            (state.links.clone(), ended, state.counts.clone(), syncs)
        };
        let now = Instant::now();
        entries.iter().for_each(|link| link.add_to(&mut counts));
        let mut links: Vec<LinkStatus> = entries.iter().map(|link| link.status(now)).collect();
        join(&entries, &mut links);
        Live { links, ended, counts, syncs: by_name(syncs) }
    }
}

/// The counts of each name, in order, whichever far sites its syncs were for.
fn by_name(syncs: Vec<(tally::Key, Arc<Syncs>)>) -> Vec<SyncCounts> {
    let mut by_name: BTreeMap<(&str, String), [u64; 3]> = BTreeMap::new();
    for ((side, name, _), syncs) in syncs {
        let sums = by_name.entry((side.role(), name)).or_default();
        sums.iter_mut().zip(syncs.counts()).for_each(|(sum, count)| *sum += count);
    }
    let counts = |((role, name), [full, partial, refused]): ((&str, String), [u64; 3])| SyncCounts {
        name,
        role: role.to_owned(),
        full,
        partial,
        refused,
    };
    by_name.into_iter().map(counts).collect()
}

/// Shows two connections of one sync as one replica. `links` are `entries` in the same order.
fn join(entries: &[Arc<LinkEntry>], links: &mut [LinkStatus]) {
    let (mut mains, mut snapshots) = (HashMap::new(), Vec::new());
    for (at, entry) in entries.iter().enumerate() {
        let key = |id| (id, entry.side, &entry.name, &entry.site);
        match entry.channel() {
            Some(Channel::Main(id)) => {
                mains.entry(key(id)).or_insert(at);
            }
            Some(Channel::Snapshot(id)) => snapshots.push((key(id), at)),
            None => {}
        }
    }
    for (key, snapshot) in snapshots {
        if let Some(main) = mains.get(&key) {
            join_two(links, *main, snapshot);
        }
    }
}

/// Shows the link `main` and the one of its `snapshot` as one replica.
fn join_two(links: &mut [LinkStatus], main: usize, snapshot: usize) {
    let number = links[main].number;
    let Some(part) = &mut links[snapshot].replication else { return };
    part.part_of = Some(number);
    let (stage, progress) = (part.stage, part.snapshot.clone());
    let link = &mut links[main];
    let Some(whole) = &mut link.replication else { return };
    whole.snapshot = progress;
    if whole.stage == Stage::Loading && matches!(stage, Stage::Waiting | Stage::FullSync) {
        whole.stage = stage;
        if link.state != "held" {
            link.state = stage.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::observer::Observer;
    use crate::tap::Flow;
    use crate::wire::terms::Terms;

    #[test]
    fn a_listener_that_ends_is_no_longer_among_those_that_listen() {
        let registry = Arc::new(Registry::default());
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (kept, lost) = (registry.listening(one), registry.listening(other));
        assert_eq!(registry.listeners(), [one.into(), other.into()]);
        drop(lost);
        assert_eq!(registry.listeners(), [one.into()]);
        let anew = registry.listening(one);
        drop(kept);
        assert_eq!(registry.listeners(), [one.into()], "another socket has its address");
        drop(anew);
    }

    #[test]
    fn an_event_is_counted_whether_its_line_is_logged_or_not() {
        let registry = Registry::default();
        let topic = || Topic::of(Kind::NoLink);
        assert!(registry.may_log(topic(), "down").is_some());
        assert!(registry.may_log(topic(), "down").is_none());
        registry.recovered(&topic());
        assert!(registry.may_log(topic(), "down").is_some());
        assert!(registry.may_log(Topic::of(Kind::LaneLost), "reset").is_some());
        let counts = registry.live().counts;
        assert_eq!((counts.failed, counts.refused), (3, 0));
        assert!(registry.suppressed(false).is_empty());
        assert_eq!(registry.suppressed(true)[0].more, 1);
    }

    fn open(registry: &Arc<Registry>, name: &str, passthrough: bool) -> LinkGuard {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let second = Duration::from_secs(1);
        let terms = Terms {
            window: 1,
            max_frame: 1,
            heartbeat: second,
            dead_after: second,
            hold: second,
            lanes: 1,
            compression: 0,
            reports: false,
            lists: false,
        };
        let syncs = registry.syncs(Side::Acceptor, name, "dc2");
        registry.open(&NewLink {
            name,
            side: Side::Acceptor,
            site: "dc2",
            node: "node",
            instance: Id::random(),
            far: address,
            redis: address,
            passthrough,
            agreed: terms.agree(&terms, passthrough),
            observed: (!passthrough).then(|| Observed::new(syncs)),
        })
    }

    #[test]
    fn the_rate_of_a_link_is_that_of_the_last_seconds_and_its_round_trip_what_was_told_last() {
        let registry = Arc::new(Registry::default());
        let (link, start) = (open(&registry, "orders", true), Instant::now());
        link.count(Flow::ToReplica, 20_000);
        link.count(Flow::ToMaster, 2_000);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let told = |link: &LinkGuard, seconds| {
            let status = link.status(at(seconds));
            (status.to_replica_bytes_per_second, status.to_master_bytes_per_second)
        };
        assert_eq!(told(&link, 2), (Some(10_000), Some(1_000)));
        (1..=10).for_each(|look| drop(registry.measure(0, at(look * 2))));
        assert_eq!(told(&link, 21), (Some(0), Some(0)));
        assert_eq!(link.status(start).round_trip_seconds, None);
        link.update(LinkStats { round_trip: Some(Duration::from_millis(80)), ..LinkStats::default() });
        assert_eq!(link.status(start).round_trip_seconds, Some(0.08));
        link.update(LinkStats::default());
        assert_eq!(link.status(start).round_trip_seconds, None, "held");
    }

    #[test]
    fn links_that_end_before_their_sync_do_not_push_others_out() {
        let registry = Arc::new(Registry::default());
        let open = |name: &str, passthrough: bool| open(&registry, name, passthrough);
        let ended = |name: &str, passthrough, reason: &str| {
            let guard = open(name, passthrough);
            assert_eq!(guard.begins_now(), passthrough);
            guard.end(reason.to_owned(), &End::Finished);
        };
        ended("orders", true, "long ago");
        for attempt in 0..100 {
            ended("orders", false, &format!("attempt {attempt}"));
            ended("sessions", false, "refused");
        }
        ended("orders", true, "just now");
        let reasons: Vec<String> = registry.live().ended.into_iter().map(|ended| ended.reason).collect();
        assert_eq!(reasons, ["just now", "refused", "attempt 99", "long ago"]);
    }

    #[test]
    fn an_entry_is_missed_from_two_minutes_after_its_last_working_link_until_the_next_one_or_for_a_week() {
        let registry = Arc::new(Registry::default());
        let [first, second, never] = [true, true, false].map(|begins| {
            let link = open(&registry, "orders", begins);
            assert_eq!(link.begins_now(), begins);
            link
        });
        let missed = |seconds: i64| registry.missing_links(clock::now() + seconds);
        never.end("no sync".to_owned(), &End::Finished);
        first.end("first".to_owned(), &End::Finished);
        assert_eq!(missed(1_000), [], "another one works");
        second.end("second".to_owned(), &End::Finished);
        assert_eq!(missed(DOWN_AFTER - 2), []);
        let [missing] = &missed(DOWN_AFTER + 2)[..] else { panic!("one is missed") };
        let MissingLink { name, role, site, reason, .. } = missing;
        assert_eq!((&name[..], &role[..], &site[..], &reason[..]), ("orders", "master", "dc2", "second"));
        assert_eq!((missed(REMEMBERED_FOR - 2).len(), missed(REMEMBERED_FOR + 2)), (1, vec![]));
        let asks = open(&registry, "orders", false);
        assert_eq!(missed(DOWN_AFTER + 2).len(), 1, "its sync has not begun");
        let next = open(&registry, "orders", true);
        assert!(next.begins_now());
        assert_eq!(missed(DOWN_AFTER + 2), []);
        drop((asks, next));
    }

    #[test]
    fn a_link_that_opens_does_not_end_what_is_known_of_a_refused_sync() {
        let registry = Arc::new(Registry::default());
        let refused = open(&registry, "orders", false);
        Observer::new(Arc::clone(refused.observed.as_ref().unwrap())).refused("NOAUTH", true);
        refused.end("closed; NOAUTH".to_owned(), &End::Finished);
        let reasons = || -> Vec<String> {
            registry.missing_syncs().into_iter().map(|missing| missing.reason).collect()
        };
        assert_eq!(reasons(), ["closed; NOAUTH"]);
        let next = open(&registry, "orders", false);
        assert!(!next.begins_now());
        assert_eq!(reasons().len(), 1, "it is in its handshake");
        let mut observer = Observer::new(Arc::clone(next.observed.as_ref().unwrap()));
        observer.lose("something unknown passes");
        assert!(next.begins_now());
        assert_eq!(reasons().len(), 0);
        // A client that sends other commands is no replica.
        let other = open(&registry, "orders", false);
        Observer::new(Arc::clone(other.observed.as_ref().unwrap())).refused("GET", false);
        other.end("GET".to_owned(), &End::CommandRefused("GET".to_owned()));
        assert_eq!(reasons().len(), 0);
    }
}
