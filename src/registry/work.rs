//! Compares the CPU time that the links of a far site cost with the bytes that they move.
//!
//! A link's task runs in turns, and reports the cost and the traffic of each. Normal traffic costs
//! a microsecond per kilobyte in bulk, and about twenty for each small write; [`ROUND`] and
//! [`BYTE`] allow many times that. The cost of a turn beyond that is *waste*, and every site may
//! waste [`RATE`]. A site that wastes more is slowed by pauses between its wasteful turns, so that
//! the other sites get their share. If that lasts for [`PATIENCE`], the link that has wasted most
//! is ended. While no other site has a link, nothing is slowed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// CPU time allowed for each round of a turn that read from the local Redis or wrote to it, and
/// once if no round did.
const ROUND: Duration = Duration::from_micros(200);

/// CPU time allowed for each byte that was carried, or crossed the local socket.
const BYTE: Duration = Duration::from_nanos(50);

/// Divisor of the passing time: the part of it that a site may waste.
const RATE: u32 = 10;

/// Waste allowed to a site in one burst, before it is slowed.
const BURST: Duration = Duration::from_millis(500);

/// Divisor of the waste of its site's worst link: a link that wastes less than this part is not
/// slowed.
const SMALL: u32 = 100;

/// Longest pause. A link that is slowed still answers its far side.
const LONGEST: Duration = Duration::from_secs(1);

/// Time for which a site is slowed before one of its links is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest turn of a link that is the only busy one of its site.
const TURN: Duration = Duration::from_millis(4);

/// Longest turn of a link, however many links of its site are busy.
const LEAST_TURN: Duration = Duration::from_micros(500);

/// How long the CPU time of a link's turns is measured after one that took longer than [`ROUND`].
/// Other turns can waste nothing, so they cost no look at the clock of the thread.
const WATCHED: Duration = Duration::from_secs(1);

/// Time between two log lines about a site that is slowed.
const QUIET: Duration = Duration::from_secs(60);

/// The far sites that have links.
#[derive(Debug, Default)]
pub(super) struct Sites(AtomicUsize);

/// The cost of one far site's links.
#[derive(Debug)]
pub(super) struct SiteWork {
    sites: Arc<Sites>,
    /// Number of links whose last turn ended before all their work was done.
    busy: AtomicUsize,
    waste: Mutex<Waste>,
}

/// Waste that the passing time has not made up for yet.
#[derive(Debug, Default)]
struct Waste {
    debt: Duration,
    paid: Option<Instant>,
    slowed: Option<Instant>,
    logged: Option<Instant>,
    /// Waste of each link since the site was slowed.
    links: Vec<(u64, Duration)>,
    next: u64,
}

/// Measures one link of a site until it is dropped.
#[derive(Debug)]
pub struct Meter {
    work: Arc<SiteWork>,
    link: u64,
    busy: bool,
    /// When the turn began.
    began: Instant,
    /// CPU time of this thread when the turn began, if it is measured.
    cpu: Option<Duration>,
    /// Until when turns are measured.
    watched: Option<Instant>,
}

/// The work of a link in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Number of rounds in which bytes were taken from the local Redis or given to it.
    pub rounds: u32,
    /// Number of bytes that were carried for the first time, or crossed the local socket.
    pub bytes: u64,
    /// CPU time that the far side has not caused.
    pub ours: Duration,
    /// Whether there was more to do.
    pub more: bool,
}

/// The consequence of a link's waste.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Penalty {
    /// None: it continues at once.
    None,
    /// A pause.
    Pause {
        /// How long.
        time: Duration,
        /// Whether to log it: it was not logged recently.
        log: bool,
    },
    /// The link ends.
    End,
}

impl SiteWork {
    pub(super) fn new(sites: &Arc<Sites>) -> Self {
        Self { sites: Arc::clone(sites), busy: AtomicUsize::new(0), waste: Mutex::default() }
    }

    /// The meter of one more link of the site.
    pub(super) fn meter(self: &Arc<Self>) -> Meter {
        let mut waste = self.waste();
        if waste.links.is_empty() {
            self.sites.0.fetch_add(1, Ordering::Relaxed);
        }
        waste.next += 1;
        let link = waste.next;
        waste.links.push((link, Duration::ZERO));
        drop(waste);
        let work = Arc::clone(self);
        Meter { work, link, busy: false, began: Instant::now(), cpu: None, watched: None }
    }

    fn waste(&self) -> MutexGuard<'_, Waste> {
        self.waste.lock().expect("no code panics while it holds what was wasted")
    }
}

impl Meter {
    /// A turn begins on this thread now. Returns how long it may take.
    pub fn begin(&mut self, now: Instant) -> Duration {
        self.began = now;
        self.cpu = self.watched.is_some_and(|until| now < until).then(thread_time);
        let busy = self.work.busy.load(Ordering::Relaxed).max(1);
        (TURN / u32::try_from(busy).unwrap_or(u32::MAX)).max(LEAST_TURN)
    }

    /// The turn is over.
    pub fn end(&mut self, turn: Turn, now: Instant) -> Penalty {
        if turn.more != self.busy {
            self.busy = turn.more;
            let busy = &self.work.busy;
            if self.busy {
                busy.fetch_add(1, Ordering::Relaxed)
            } else {
                busy.fetch_sub(1, Ordering::Relaxed)
            };
        }
        // No more CPU time than time can have passed.
        if now.saturating_duration_since(self.began) <= ROUND {
            return Penalty::None;
        }
        self.watched = Some(now + WATCHED);
        match self.cpu {
            Some(cpu) => self.judge(thread_time().saturating_sub(cpu), turn, now),
            None => Penalty::None,
        }
    }

    fn judge(&self, cost: Duration, turn: Turn, now: Instant) -> Penalty {
        let bytes = Duration::from_nanos(turn.bytes.saturating_mul(BYTE.as_nanos() as u64));
        let wasted = cost.saturating_sub(turn.ours + ROUND * turn.rounds.max(1) + bytes);
        if wasted.is_zero() {
            return Penalty::None;
        }
        let others = self.work.sites.0.load(Ordering::Relaxed) > 1;
        self.work.waste().add(self.link, wasted, others, now)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.busy {
            self.work.busy.fetch_sub(1, Ordering::Relaxed);
        }
        let mut waste = self.work.waste();
        waste.links.retain(|(link, _)| *link != self.link);
        if waste.links.is_empty() {
            self.work.sites.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Waste {
    fn add(&mut self, link: u64, wasted: Duration, others: bool, now: Instant) -> Penalty {
        let passed = self.paid.map_or(Duration::ZERO, |paid| now.saturating_duration_since(paid));
        self.paid = Some(now);
        self.debt = self.debt.saturating_sub(passed / RATE);
        if self.debt < BURST / 2 {
            self.slowed = None;
            self.links.iter_mut().for_each(|(_, wasted)| *wasted = Duration::ZERO);
        }
        self.debt = (self.debt + wasted).min(BURST + LONGEST);
        let most = self.links.iter().map(|(_, wasted)| *wasted).max().unwrap_or_default();
        let mut own = Duration::ZERO;
        if let Some((_, sum)) = self.links.iter_mut().find(|(known, _)| *known == link) {
            *sum += wasted;
            own = *sum;
        }
        // Other links of the site are not slowed for the one that wastes.
        if own < most / SMALL {
            return Penalty::None;
        }
        let Some(over) = self.debt.checked_sub(BURST).filter(|over| others && !over.is_zero()) else {
            return Penalty::None;
        };
        let since = *self.slowed.get_or_insert(now);
        if now >= since + PATIENCE && own >= most {
            self.slowed = Some(now);
            return Penalty::End;
        }
        let log = self.logged.is_none_or(|logged| now >= logged + QUIET);
        if log {
            self.logged = Some(now);
        }
        Penalty::Pause { time: (over * RATE).min(LONGEST), log }
    }
}

/// CPU time of this thread so far, the kernel's work for it included.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn two_sites() -> (Arc<SiteWork>, Arc<SiteWork>) {
        let sites = Arc::default();
        (Arc::new(SiteWork::new(&sites)), Arc::new(SiteWork::new(&sites)))
    }

    /// Turns of 3 ms with the pauses between them. Returns the CPU time in total, and whether the
    /// link ended.
    fn run(meter: &Meter, turn: Turn, from: Instant, during: Duration) -> (Duration, bool) {
        let (mut now, mut cpu) = (from, Duration::ZERO);
        while now < from + during {
            now += 3 * MS;
            cpu += 3 * MS;
            match meter.judge(3 * MS, turn, now) {
                Penalty::None => {}
                Penalty::Pause { time, .. } => now += time,
                Penalty::End => return (cpu, true),
            }
        }
        (cpu, false)
    }

    #[test]
    fn a_site_that_wastes_is_slowed_and_then_ended_however_many_links_it_has() {
        let (hostile, honest) = two_sites();
        let _other = honest.meter();
        let (one, two) = (hostile.meter(), hostile.meter());
        let start = Instant::now();
        let (cpu, ended) = run(&one, Turn::default(), start, 5 * PATIENCE / 10);
        assert!(!ended && cpu < 1500 * MS, "{cpu:?} in 5 s");
        let half = start + 5 * PATIENCE / 10;
        assert_eq!(two.judge(MS, Turn::default(), half), Penalty::None, "a little of its own is free");
        let Penalty::Pause { time, .. } = two.judge(30 * MS, Turn::default(), half) else {
            panic!("what one link owes, another that wastes pays");
        };
        assert!(time > 10 * MS);
        let (cpu, ended) = run(&one, Turn::default(), start + 5 * PATIENCE / 10, PATIENCE);
        assert!(ended && cpu < 1500 * MS, "{cpu:?}");
    }

    #[test]
    fn the_link_that_has_wasted_most_is_the_one_that_ends() {
        let (hostile, honest) = two_sites();
        let (_other, most, least) = (honest.meter(), hostile.meter(), hostile.meter());
        let start = Instant::now();
        assert!(!run(&most, Turn::default(), start, PATIENCE - 100 * MS).1);
        for step in 0..100 {
            assert_ne!(least.judge(MS, Turn::default(), start + PATIENCE + step * MS), Penalty::End);
        }
        assert!(run(&most, Turn::default(), start + PATIENCE + 100 * MS, PATIENCE).1);
    }

    #[test]
    fn honest_work_is_never_slowed_and_neither_is_a_site_that_is_alone() {
        let (site, other) = two_sites();
        let meter = site.meter();
        let minute = 6 * PATIENCE;
        let (cpu, ended) = run(&meter, Turn::default(), Instant::now(), minute);
        assert!(cpu >= minute && !ended, "no other site has a link");
        drop(meter);
        let (meter, _other) = (site.meter(), other.meter());
        // Bulk at a tenth of the usual speed; small writes; what this end chose to compress.
        let bulk = Turn { rounds: 1, bytes: 300_000, ..Turn::default() };
        let small = Turn { rounds: 32, bytes: 32 * 100, ..Turn::default() };
        let packed = Turn { rounds: 1, ours: 3 * MS, ..Turn::default() };
        for honest in [bulk, small, packed] {
            let (cpu, ended) = run(&meter, honest, Instant::now(), minute);
            assert!(cpu >= minute && !ended, "{honest:?}");
        }
        // A break is over, and a whole window comes again.
        let again = Instant::now() + 2 * minute;
        assert!(
            (0..20).all(|turn| meter.judge(5 * MS, Turn::default(), again + turn * 5 * MS) == Penalty::None)
        );
    }

    #[test]
    fn turns_are_measured_once_one_took_long_and_no_longer_than_needed() {
        let (site, _) = two_sites();
        let (mut meter, start) = (site.meter(), Instant::now());
        let mut turn = |at: Duration, took: Duration| {
            meter.begin(start + at);
            let measured = meter.cpu.is_some();
            assert_eq!(meter.end(Turn::default(), start + at + took), Penalty::None);
            measured
        };
        assert!(!turn(MS, ROUND) && !turn(2 * MS, 2 * ROUND));
        assert!(turn(3 * MS, ROUND) && turn(WATCHED, ROUND));
        assert!(!turn(2 * WATCHED, ROUND));
    }

    #[test]
    fn a_site_gets_the_turns_of_one_link_however_many_are_busy() {
        let (site, _) = two_sites();
        let mut meters: Vec<Meter> = (0..8).map(|_| site.meter()).collect();
        let now = Instant::now();
        assert_eq!(meters[0].begin(now), TURN);
        let busy = Turn { more: true, ..Turn::default() };
        meters.iter_mut().for_each(|meter| assert_eq!(meter.end(busy, Instant::now()), Penalty::None));
        assert_eq!(meters[0].begin(now), TURN / 8);
        meters.truncate(2);
        assert_eq!(meters[0].begin(now), TURN / 2);
        meters[1].end(Turn::default(), Instant::now());
        assert_eq!(meters[0].begin(now), TURN);
    }
}
