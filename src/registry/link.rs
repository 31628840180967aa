//! One live link: what its session writes, and what `status` shows.
//!
//! Each count is a relaxed addition, so that it costs the data path very little.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::coverage::{Coverage, Demand, Writes};
use super::rate::Rates;
use super::tally::Tally;
use super::{Counts, LinkSample, NewLink};
use crate::clock;
use crate::escape::shown;
use crate::lineage;
use crate::link::compress::Packed;
use crate::link::{ByCause, LaneLoss, Side};
use crate::redis::replication::{Channel, Observed, Replication, Stage};
use crate::tap::Flow;
use crate::wire::hello::Id;
use crate::wire::terms::Agreed;

/// One live link.
#[derive(Debug)]
pub struct LinkEntry {
    /// Counts up within this process.
    pub number: u64,
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// Which end this is.
    pub side: Side,
    /// The far site.
    pub site: String,
    /// The far gateway's host, escaped.
    pub node: String,
    /// The far gateway's instance.
    pub instance: Id,
    /// The far gateway's address on its newest lane.
    far: Mutex<SocketAddr>,
    /// The local Redis' address.
    pub redis: SocketAddr,
    /// Whether any command passes.
    pub passthrough: bool,
    /// The agreed terms.
    pub agreed: Agreed,
    /// What is known about its replication; `None` for a passthrough.
    pub observed: Option<Arc<Observed>>,
    /// When it began.
    pub since: Instant,
    /// Whether its sync has begun, or it is a passthrough.
    begun: AtomicBool,
    began: i64,
    to_replica: AtomicU64,
    to_master: AtomicU64,
    held: Mutex<Option<Hold>>,
    lanes: AtomicU64,
    lanes_to_replace: AtomicU64,
    lanes_lost: AtomicU64,
    breaks: [AtomicU64; LaneLoss::CODES.len()],
    resumed: AtomicU64,
    redials: AtomicU64,
    redials_failed: AtomicU64,
    redial_failure: Mutex<Option<(Instant, String)>>,
    resent: AtomicU64,
    carried: AtomicU64,
    buffered: AtomicU64,
    writes: Mutex<Writes>,
    /// Microseconds; 0 while none is known.
    round_trip: AtomicU64,
    unacknowledged: AtomicU64,
    plain: AtomicU64,
    packed: AtomicU64,
    rates: Mutex<Rates>,
}

/// The break of a link that has no lane now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Start of the break.
    pub since: Instant,
    /// How long it waits for a new lane.
    pub within: Duration,
}

/// The values that a link's task reports from time to time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Number of lanes that carry it now.
    pub lanes: u64,
    /// Number of those that are to be replaced, since this gateway has another certificate.
    pub lanes_to_replace: u64,
    /// The current break, if any.
    pub held: Option<Hold>,
    /// Number of times that it has lost its last lane so far, by cause.
    pub breaks: ByCause,
    /// Number of bytes that were sent more than once so far.
    pub resent: u64,
    /// Number of carried bytes so far, in both directions.
    pub carried: u64,
    /// Bytes buffered here.
    pub buffered: u64,
    /// The least round trip of its lanes, as the kernel has smoothed it.
    pub round_trip: Option<Duration>,
    /// Number of carried bytes that were taken from the local Redis and are not acknowledged.
    pub unacknowledged: u64,
    /// Bytes so far that were compressed here, or came compressed.
    pub packed: Packed,
}

impl LinkEntry {
    /// A link that is up now.
    pub(super) fn new(number: u64, new: &NewLink<'_>) -> Self {
        Self {
            number,
            name: new.name.to_owned(),
            side: new.side,
            site: new.site.to_owned(),
            node: shown(new.node.as_bytes()),
            instance: new.instance,
            far: Mutex::new(new.far),
            redis: new.redis,
            passthrough: new.passthrough,
            agreed: new.agreed,
            observed: new.observed.clone(),
            since: Instant::now(),
            begun: AtomicBool::new(false),
            began: clock::now(),
            to_replica: AtomicU64::new(0),
            to_master: AtomicU64::new(0),
            held: Mutex::default(),
            lanes: AtomicU64::new(1),
            lanes_to_replace: AtomicU64::new(0),
            lanes_lost: AtomicU64::new(0),
            breaks: Default::default(),
            resumed: AtomicU64::new(0),
            redials: AtomicU64::new(0),
            redials_failed: AtomicU64::new(0),
            redial_failure: Mutex::default(),
            resent: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            buffered: AtomicU64::new(0),
            writes: Mutex::default(),
            round_trip: AtomicU64::new(0),
            unacknowledged: AtomicU64::new(0),
            plain: AtomicU64::new(0),
            packed: AtomicU64::new(0),
            rates: Mutex::new(Rates::new(Instant::now())),
        }
    }

    /// Whether its sync has begun, or it is a passthrough. Returns true only once.
    pub fn begins_now(&self) -> bool {
        if self.has_begun() {
            return false;
        }
        let begun = self.observed.as_ref().is_none_or(|observed| observed.has_begun());
        let begins = begun && !self.begun.swap(true, Ordering::Relaxed);
        if let (true, Some(observed)) = (begins, &self.observed) {
            observed.syncs().begins();
        }
        begins
    }

    /// Whether [`LinkEntry::begins_now`] has returned true.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether it is one of a `[[replica]]` with this site.
    pub(super) fn is_of_replica(&self, name: &str, site: &str) -> bool {
        self.side == Side::Dialler && self.name == name && self.site.eq_ignore_ascii_case(site)
    }

    /// The stream of writes that it carries, and the offset of its last byte that has passed, if that is known.
    pub(super) fn passed(&self) -> Option<(lineage::History, Option<u64>)> {
        let (id, offset) = self.observed.as_ref()?.passed()?;
        Some((lineage::History::read(id.as_bytes())?, offset))
    }

    /// Whether it has no lane now.
    pub(super) fn is_held(&self) -> bool {
        self.hold().is_some()
    }

    /// Whether it has a lane, or had one within this time.
    pub(super) fn was_carried(&self, within: Duration) -> bool {
        self.hold().is_none_or(|hold| hold.since.elapsed() < within)
    }

    fn hold(&self) -> Option<Hold> {
        *self.held.lock().expect("no code panics while it holds a break")
    }

    /// Which connection of a two-connection sync it is.
    pub(super) fn channel(&self) -> Option<Channel> {
        self.observed.as_ref()?.channel()
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().expect("no code panics while it holds a rate")
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().expect("no code panics while it holds a rate")
    }

    /// Remembers how much has passed by now, for the rates that `status` shows.
    pub(super) fn look(&self, now: Instant) {
        self.rates().look(self.counts(), now);
    }

    /// Measures the master's writes, and returns what an outage now would need; `None` where the
    /// replica is here, or while that is not known.
    pub(super) fn measure(&self, now: Instant) -> Option<Demand> {
        let stage = self.observed.as_ref()?.stage();
        if self.side == Side::Dialler || self.agreed.hold.is_zero() {
            return None;
        }
        let hold = self.hold();
        let counts = stage == Stage::Streaming && hold.is_none();
        let mut writes = self.writes();
        writes.measure(counts.then(|| self.carried.load(Ordering::Relaxed)), now);
        let since = hold.map_or(Duration::ZERO, |hold| now.saturating_duration_since(hold.since));
        let held = self.buffered.load(Ordering::Relaxed);
        Some(Demand { rate: writes.rate()?, held, sharers: 1, since })
    }

    /// Stores how long an outage may last. Returns it if memory has become too short for
    /// `hold`.
    pub(super) fn judge(&self, lasts: f64) -> Option<Coverage> {
        self.writes().judge(lasts, self.agreed.hold)
    }

    /// What the history takes from it.
    pub(super) fn sample(&self, now: Instant) -> LinkSample<'_> {
        let lag = self.observed.as_ref().and_then(|observed| observed.lag(now));
        // As `status`: data that the master has sent meanwhile is not known where the replica is.
        let lag = lag.filter(|_| self.side == Side::Acceptor || !self.is_held());
        LinkSample { number: self.number, side: self.side, name: &self.name, bytes: self.counts(), lag }
    }

    /// The link as `status` shows it.
    pub(super) fn status(&self, now: Instant) -> LinkStatus {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let hold = self.hold();
        let mut replication = self.observed.as_ref().map(|observed| observed.view(now));
        if let (Some(replication), Side::Dialler, true) = (&mut replication, self.side, hold.is_some()) {
            // Data that the master has sent meanwhile is not known here.
            (replication.lag_bytes, replication.lag_seconds) = (None, None);
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        let failure = self.redial_failure.lock().expect("no code panics while it holds a reason").clone();
        let (to_replica_bytes, to_master_bytes) = self.counts();
        let rates = self.rates().since((to_replica_bytes, to_master_bytes), now);
        // A lane that has gone silent may still be there while the link is held.
        let round_trip = Some(of(&self.round_trip)).filter(|micros| *micros > 0 && hold.is_none());
        LinkStatus {
            number: self.number,
            name: self.name.clone(),
            role: self.side.role().to_owned(),
            site: self.site.clone(),
            far: self.far().to_string(),
            redis: self.redis.to_string(),
            state: match &replication {
                _ if hold.is_some() => "held".to_owned(),
                Some(replication) => replication.stage.to_string(),
                None => "tunnel".to_owned(),
            },
            held_seconds: hold.map(|hold| since(hold.since).as_secs_f64()),
            gives_up_in_seconds: hold.map(|hold| hold.within.saturating_sub(since(hold.since)).as_secs_f64()),
            redials_failed: of(&self.redials_failed),
            redial_failure: failure
                .map(|(then, reason)| RedialFailure { seconds_ago: since(then).as_secs_f64(), reason }),
            since: self.began,
            seconds: self.since.elapsed().as_secs(),
            to_replica_bytes,
            to_master_bytes,
            carried_bytes: of(&self.carried),
            resent_bytes: of(&self.resent),
            buffered_bytes: of(&self.buffered),
            hold_seconds: self.agreed.hold.as_secs_f64(),
            lanes_agreed: self.agreed.lanes,
            window_bytes: self.agreed.window,
            compressed: self.agreed.compressed,
            lanes: of(&self.lanes),
            lanes_to_replace: of(&self.lanes_to_replace),
            lanes_lost: of(&self.lanes_lost),
            breaks: self.breaks(),
            resumed: of(&self.resumed),
            redials: of(&self.redials),
            coverage: self.writes().coverage(),
            replication,
            round_trip_seconds: round_trip.map(|micros| micros as f64 / 1e6),
            to_replica_bytes_per_second: rates.map(|(to_replica, _)| to_replica),
            to_master_bytes_per_second: rates.map(|(_, to_master)| to_master),
            unacknowledged_bytes: of(&self.unacknowledged),
        }
    }

    fn breaks(&self) -> u64 {
        self.breaks.iter().map(|breaks| breaks.load(Ordering::Relaxed)).sum()
    }

    /// Adds what it has counted so far to what is counted for its entry.
    pub(super) fn add_to_tally(&self, tally: &mut Tally) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (to_replica, to_master) = self.counts();
        for (sum, breaks) in tally.breaks.iter_mut().zip(&self.breaks) {
            *sum += of(breaks);
        }
        tally.resumed += of(&self.resumed);
        tally.lanes_lost += of(&self.lanes_lost);
        tally.to_replica += to_replica;
        tally.to_master += to_master;
        tally.carried += of(&self.carried);
        tally.resent += of(&self.resent);
        tally.packed.plain += of(&self.plain);
        tally.packed.carried += of(&self.packed);
    }

    /// The breaks that it did not survive, once it has ended.
    pub(super) fn lost_in_breaks(&self) -> u64 {
        self.breaks().saturating_sub(self.resumed.load(Ordering::Relaxed))
    }

    /// Adds its counts to those of the gateway.
    pub(super) fn add_to(&self, counts: &mut Counts) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        counts.breaks += self.breaks();
        counts.resumed += of(&self.resumed);
        counts.redials += of(&self.redials);
        counts.lanes_lost += of(&self.lanes_lost);
        counts.resent_bytes += of(&self.resent);
    }

    /// Counts bytes that crossed the local socket.
    pub fn count(&self, flow: Flow, count: usize) {
        let counter = match flow {
            Flow::ToMaster => &self.to_master,
            Flow::ToReplica => &self.to_replica,
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Stores the reported values.
    pub fn update(&self, now: LinkStats) {
        self.lanes.store(now.lanes, Ordering::Relaxed);
        self.lanes_to_replace.store(now.lanes_to_replace, Ordering::Relaxed);
        *self.held.lock().expect("no code panics while it holds a break") = now.held;
        for (stored, breaks) in self.breaks.iter().zip(now.breaks) {
            stored.store(breaks, Ordering::Relaxed);
        }
        self.resent.store(now.resent, Ordering::Relaxed);
        self.carried.store(now.carried, Ordering::Relaxed);
        self.buffered.store(now.buffered, Ordering::Relaxed);
        let micros = now.round_trip.map_or(0, |trip| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX));
        self.round_trip.store(micros, Ordering::Relaxed);
        self.unacknowledged.store(now.unacknowledged, Ordering::Relaxed);
        self.plain.store(now.packed.plain, Ordering::Relaxed);
        self.packed.store(now.packed.carried, Ordering::Relaxed);
    }

    /// Stores the address of the far gateway to which a new lane goes.
    pub fn note_far(&self, far: SocketAddr) {
        *self.far.lock().expect("no code panics while it holds an address") = far;
    }

    /// The far gateway's address on its newest lane.
    pub fn far(&self) -> SocketAddr {
        *self.far.lock().expect("no code panics while it holds an address")
    }

    /// Counts a lane that was lost.
    pub fn note_lane_lost(&self) {
        self.lanes_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a break that is over.
    pub fn note_resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a dial for a link that is up.
    pub fn note_redial(&self) {
        self.redials.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a dial for a link that is up that failed, for this reason.
    pub fn note_redial_failed(&self, reason: &str) {
        self.redials_failed.fetch_add(1, Ordering::Relaxed);
        let mut last = self.redial_failure.lock().expect("no code panics while it holds a reason");
        *last = Some((Instant::now(), reason.to_owned()));
    }

    /// Dials for a link that is up, so far.
    pub fn redials(&self) -> u64 {
        self.redials.load(Ordering::Relaxed)
    }

    /// Number of bytes so far: towards the replica, towards the master.
    pub fn counts(&self) -> (u64, u64) {
        (self.to_replica.load(Ordering::Relaxed), self.to_master.load(Ordering::Relaxed))
    }
}

/// A link as `status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Counts up within the gateway's process.
    pub number: u64,
    /// The name of the `[[master]]` or `[[replica]]`.
    pub name: String,
    /// `master` where the master is here, `replica` where the replica is here.
    pub role: String,
    /// The far site.
    pub site: String,
    /// The far gateway's address.
    pub far: String,
    /// The local Redis' address.
    pub redis: String,
    /// `held` while no lane carries it, `tunnel` for a passthrough, otherwise the stage of the
    /// replication.
    pub state: String,
    /// Seconds since 1970.
    pub since: i64,
    /// Age in seconds.
    pub seconds: u64,
    /// Payload bytes towards the replica.
    pub to_replica_bytes: u64,
    /// Payload bytes towards the master.
    pub to_master_bytes: u64,
    /// Carried bytes between the gateways, in both directions: fewer than the payload if they are
    /// compressed.
    pub carried_bytes: u64,
    /// Bytes that were sent to the far gateway more than once.
    pub resent_bytes: u64,
    /// Bytes buffered here, sent or received.
    pub buffered_bytes: u64,
    /// How long it survives the loss of its last lane, as both sides have agreed.
    pub hold_seconds: f64,
    /// Lanes that it may have.
    pub lanes_agreed: u8,
    /// Unacknowledged bytes that it may have, each way.
    pub window_bytes: u64,
    /// Whether the master's site compresses what it sends.
    pub compressed: bool,
    /// Lanes that carry it now.
    pub lanes: u64,
    /// Those of them that are to be replaced, since this gateway has another certificate.
    #[serde(default)]
    pub lanes_to_replace: u64,
    /// Lanes that were lost.
    pub lanes_lost: u64,
    /// Times that it lost its last lane.
    pub breaks: u64,
    /// Breaks that it survived.
    pub resumed: u64,
    /// Dials for more lanes, or for a lane that ends a break.
    pub redials: u64,
    /// Redials that failed.
    pub redials_failed: u64,
    /// The last redial that failed.
    pub redial_failure: Option<RedialFailure>,
    /// How long it has had no lane, while it is held.
    pub held_seconds: Option<f64>,
    /// How long it still waits for a new lane, while it is held.
    pub gives_up_in_seconds: Option<f64>,
    /// For how long an outage the memory lasts, where the master is here and its write rate is
    /// known.
    #[serde(default)]
    pub coverage: Option<Coverage>,
    /// The replication on it; `None` for a passthrough.
    pub replication: Option<Replication>,
    /// The round trip between the gateways: the least of its lanes, as the kernel has smoothed it.
    #[serde(default)]
    pub round_trip_seconds: Option<f64>,
    /// Payload bytes a second towards the replica, over about the last ten seconds.
    #[serde(default)]
    pub to_replica_bytes_per_second: Option<u64>,
    /// Payload bytes a second towards the master.
    #[serde(default)]
    pub to_master_bytes_per_second: Option<u64>,
    /// Carried bytes that were taken from the local Redis and are not acknowledged: what it uses of its
    /// window, in a break more.
    #[serde(default)]
    pub unacknowledged_bytes: u64,
}

/// A redial that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RedialFailure {
    /// How long ago.
    pub seconds_ago: f64,
    /// The address and why.
    pub reason: String,
}

/// A link that has ended, as `status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndedLink {
    /// Why, in words.
    pub reason: String,
    /// When, seconds since 1970.
    pub at: i64,
    /// The link as it was.
    pub link: LinkStatus,
}
