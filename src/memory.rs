//! The bound on payload in memory for the whole process, shared by sites and their links.
//!
//! The threshold adapts: a link may hold as many bytes as are free now. If other sites hold
//! something too, the links of one site share that amount. So if n sites take everything they can,
//! each gets 1/(n+1), however many links it has, and the rest is free for a new one. As other sites
//! fill up, a link that holds more than its part takes in nothing until it has drained. Each link
//! may always hold [`FLOOR`] bytes, so that none is starved; the limit may be exceeded by that much
//! for each link.
//!
//! Data received out of order is different. It can be passed on only once the gap before it is
//! filled, so its link must go on reading. Lanes that are out of step leave gaps and soon fill
//! them. So what a site holds beyond gaps in excess of a quarter of the limit is not counted
//! against the other sites. A link is ended only if its gap stays open or twice the limit is
//! exceeded, and then the one that holds most ([`Share::gives_way`]).

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes that a link may hold, however little is free.
pub const FLOOR: u64 = 64 * 1024;

/// Bytes that a link may hold beyond a gap, however little is free.
const SCATTERED_FLOOR: u64 = 1024 * 1024;

/// Divisor of the limit: the part of it that a site may hold beyond gaps for long.
const SCATTERED_PART: u64 = 4;

/// Divisor of the limit: the part of it that links may keep although nothing waits for it.
const KEPT_PART: u64 = 4;

/// Cgroup limits above this count as no limit: cgroups version 1 reports 2 to the power of 63 less
/// a page.
const ABSURD: u64 = 1 << 60;

/// Memory that is assumed if the machine does not report how much it has.
const UNKNOWN: u64 = 1 << 30;

/// The payload bytes that all links together may hold.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    /// Bytes that links keep although nothing waits for them, beyond `used`.
    kept: AtomicU64,
    /// Bytes that sites hold beyond gaps in excess of their part; they do not count against others.
    excess: AtomicU64,
    /// Number of sites with a link that holds more than its floor, and with one that keeps more.
    holding: AtomicU64,
    keeping: AtomicU64,
    sites: Mutex<HashMap<String, Arc<Site>>>,
    /// Locked while one link gives way, so that the next decision sees the result.
    giving: Mutex<()>,
}

/// The part of a [`Budget`] that one far site holds.
#[derive(Debug, Default)]
struct Site {
    /// Number of its links that hold more than their floor, and of those that keep more.
    holders: AtomicU64,
    keepers: AtomicU64,
    /// Bytes that its links hold beyond gaps.
    scattered: AtomicU64,
    /// The part of `scattered` that exceeds the site's part.
    excess: AtomicU64,
    /// Bytes that each of its links holds beyond gaps.
    links: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Site {
    fn links(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.links.lock().expect("no code panics while it holds the links")
    }

    /// Bytes beyond gaps of the link that holds most of them.
    fn most_scattered(&self) -> u64 {
        self.links().iter().map(|link| link.load(Ordering::Relaxed)).max().unwrap_or(0)
    }
}

impl Budget {
    /// A budget of `limit` bytes, of which none is used.
    pub fn new(limit: u64) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Self {
            limit: limit.into(),
            used: zero(),
            kept: zero(),
            excess: zero(),
            holding: zero(),
            keeping: zero(),
            sites: Mutex::default(),
            giving: Mutex::default(),
        })
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Uses another limit from now on. Links that hold more go on, and take nothing more in.
    pub fn limit_to(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that all links hold now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A share for a new link with a far site, which holds nothing yet.
    pub fn share(self: &Arc<Self>, site: &str) -> Share {
        let site = Arc::clone(self.sites().entry(site.to_ascii_lowercase()).or_default());
        Share::new(self, &site)
    }

    /// Only sites of the config have an entry, so there are few.
    fn sites(&self) -> MutexGuard<'_, HashMap<String, Arc<Site>>> {
        self.sites.lock().expect("no code panics while it holds the sites")
    }
}

/// The part of a [`Budget`] that one link holds; dropping it frees that.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    site: Arc<Site>,
    held: u64,
    /// Bytes beyond `held` that nothing waits for.
    kept: u64,
    /// How much of `held` is beyond gaps.
    scattered: Arc<AtomicU64>,
}

impl Share {
    fn new(budget: &Arc<Budget>, site: &Arc<Site>) -> Self {
        let scattered = Arc::default();
        site.links().push(Arc::clone(&scattered));
        Self { budget: Arc::clone(budget), site: Arc::clone(site), held: 0, kept: 0, scattered }
    }

    /// Moves what the link holds to a share of its own, for another link of the site.
    pub fn hand_over(&mut self) -> Self {
        let empty = Self::new(&self.budget, &self.site);
        std::mem::replace(self, empty)
    }

    /// Records that the link now holds `held` bytes, `scattered` of them beyond gaps.
    pub fn set(&mut self, held: u64, scattered: u64) {
        // Only one owner writes each value, so no total becomes negative.
        change(&self.budget.used, self.held, held);
        count(&self.site.holders, &self.budget.holding, self.held > FLOOR, held > FLOOR);
        self.held = held;
        let before = self.scattered.swap(scattered, Ordering::Relaxed);
        change(&self.site.scattered, before, scattered);
        let excess = self.site.scattered.load(Ordering::Relaxed).saturating_sub(self.part());
        change(&self.budget.excess, self.site.excess.swap(excess, Ordering::Relaxed), excess);
    }

    /// Records that the link keeps `kept` bytes beyond those that it holds. Nothing waits for them.
    pub fn keep(&mut self, kept: u64) {
        change(&self.budget.kept, self.kept, kept);
        count(&self.site.keepers, &self.budget.keeping, self.kept > FLOOR, kept > FLOOR);
        self.kept = kept;
    }

    /// Number of bytes that the link may keep. All links together may keep a quarter of the limit, and
    /// no more than is free: so what they keep takes nothing from what they hold. They share that as
    /// they share the limit, but none has a floor.
    pub fn may_keep(&self) -> u64 {
        let free =
            self.budget.limit().saturating_sub(self.budget.used()).min(self.budget.limit() / KEPT_PART);
        let free = free.saturating_sub(self.budget.kept.load(Ordering::Relaxed));
        free / sharers(&self.site.keepers, &self.budget.keeping, self.kept > FLOOR)
    }

    /// Bytes that a site may hold beyond gaps for long.
    fn part(&self) -> u64 {
        self.budget.limit() / SCATTERED_PART
    }

    /// Number of bytes that the link may take in now.
    pub fn room(&self) -> u64 {
        let excess = self.budget.excess.load(Ordering::Relaxed);
        let free = self.budget.limit().saturating_sub(self.budget.used().saturating_sub(excess));
        let links = sharers(&self.site.holders, &self.budget.holding, self.held > FLOOR);
        (free / links).max(FLOOR).saturating_sub(self.held)
    }

    /// Whether the link must end because of the data that it holds beyond gaps. There are two
    /// reasons: its site holds more than its part, this link holds most of that, and its gap is
    /// `stuck`; or twice the limit is exceeded, and this link holds most of all. After that its
    /// data beyond gaps is not counted any more, so no other link has to end for the same bytes.
    pub fn gives_way(&mut self, stuck: bool) -> bool {
        if !self.must_give_way(stuck) {
            return false;
        }
        let budget = Arc::clone(&self.budget);
        let _one_at_a_time = budget.giving.lock().expect("no code panics while a link gives way");
        let gives_way = self.must_give_way(stuck);
        if gives_way {
            self.set(self.held.saturating_sub(self.scattered.load(Ordering::Relaxed)), 0);
        }
        gives_way
    }

    fn must_give_way(&self, stuck: bool) -> bool {
        let own = self.scattered.load(Ordering::Relaxed);
        if own <= SCATTERED_FLOOR {
            return false;
        }
        let over = self.site.scattered.load(Ordering::Relaxed) > self.part();
        if over && stuck && own >= self.site.most_scattered() {
            return true;
        }
        self.budget.used() > self.budget.limit().saturating_mul(2)
            && self.budget.sites().values().all(|site| own >= site.most_scattered())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0);
        self.keep(0);
        self.site.links().retain(|link| !Arc::ptr_eq(link, &self.scattered));
    }
}

/// Counts a link among those `links` of its site that have more than their floor, or no longer, and the
/// site among those `sites` that have such a link.
fn count(links: &AtomicU64, sites: &AtomicU64, before: bool, after: bool) {
    match (before, after) {
        (false, true) if links.fetch_add(1, Ordering::Relaxed) == 0 => {
            sites.fetch_add(1, Ordering::Relaxed);
        }
        (true, false) if links.fetch_sub(1, Ordering::Relaxed) == 1 => {
            sites.fetch_sub(1, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// Number of links of a site that share what is free, with one that may be `counted` among them
/// already: all of them if another site has such a link too.
fn sharers(links: &AtomicU64, sites: &AtomicU64, counted: bool) -> u64 {
    let own = links.load(Ordering::Relaxed);
    match sites.load(Ordering::Relaxed) > u64::from(own > 0) {
        true => own - u64::from(counted).min(own) + 1,
        false => 1,
    }
}

/// Adjusts a total by the change of one part of it.
fn change(total: &AtomicU64, before: u64, after: u64) {
    if after > before {
        total.fetch_add(after - before, Ordering::Relaxed);
    } else if after < before {
        total.fetch_sub(before - after, Ordering::Relaxed);
    }
}

/// The memory in bytes that this process may use: that of the machine, or less if one of its
/// cgroups has a limit.
pub fn available() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text)).unwrap_or(UNKNOWN);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    limits(&groups).iter().filter_map(|path| limit(&read(path)?)).fold(machine, u64::min)
}

/// MemTotal of /proc/meminfo.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files that may hold a limit for the groups of /proc/self/cgroup: those of each group and of
/// all groups above it, in both versions of cgroups.
fn limits(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for group in groups.lines() {
        let mut fields = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A group outside of our namespace is shown with `..` and cannot be read.
        let path: PathBuf =
            Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        files.extend(path.ancestors().map(|above| Path::new(root).join(above).join(file)));
    }
    files
}

/// A limit as a cgroup writes it; `None` if it sets none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit > 0 && *limit < ABSURD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// Each link takes in data in pieces until none has room.
    fn fill(shares: &mut [Share]) {
        while shares.iter().any(|share| share.room() > 0) {
            for share in shares.iter_mut() {
                share.set(share.held + share.room().min(1000), 0);
            }
        }
    }

    #[test]
    fn one_site_gets_half_and_greedy_sites_get_equal_parts() {
        for sites in [1, 2, 7] {
            let budget = Budget::new(64 * MIB);
            let mut shares: Vec<Share> = (0..sites).map(|site| budget.share(&format!("dc{site}"))).collect();
            fill(&mut shares);
            let part = 64 * MIB / (sites + 1);
            for share in &shares {
                assert!(share.held.abs_diff(part) <= 1000 * sites, "{} of {part}", share.held);
            }
            assert!(budget.share("new").room().abs_diff(part) <= 1000 * sites, "a newcomer finds as much");
        }
    }

    #[test]
    fn many_links_of_one_site_share_its_part_once_another_holds_something() {
        let budget = Budget::new(64 * MIB);
        let mut shares: Vec<Share> = (0..63).map(|_| budget.share("DC2")).collect();
        fill(&mut shares);
        assert!(budget.used().abs_diff(63 * MIB) < MIB, "alone, each gets its part: {}", budget.used());
        shares.push(budget.share("dc3"));
        // Links that hold more than their part now take in nothing, and drain.
        for _ in 0..200 {
            let (many, one) = shares.split_at_mut(63);
            one[0].set(one[0].held + one[0].room().min(100_000), 0);
            for share in many {
                if share.room() == 0 {
                    share.set(share.held / 10 * 9, 0);
                }
            }
        }
        fill(&mut shares);
        let (one, many) = (shares[63].held, shares[..63].iter().map(|share| share.held).sum::<u64>());
        assert!(one > 15 * MIB, "the other site gets {one}, this one {many}");
    }

    #[test]
    fn the_links_that_hold_most_beyond_a_lasting_gap_end_first() {
        let budget = Budget::new(64 * MIB);
        let share = |site: &str, scattered: u64| {
            let mut share = budget.share(site);
            share.set(scattered, scattered);
            share
        };
        let mut links = vec![share("dc2", 9 * MIB), share("dc2", 7 * MIB), share("dc3", 10 * MIB)];
        let stuck =
            |links: &mut [Share]| links.iter_mut().map(|link| link.gives_way(true)).collect::<Vec<_>>();
        let moving = |links: &mut [Share]| links.iter_mut().any(|link| link.gives_way(false));
        assert_eq!(stuck(&mut links), [false; 3], "a quarter each");
        links.extend([share("dc2", 9 * MIB), share("dc2", MIB)]);
        assert_eq!(stuck(&mut links), [true, false, false, true, false], "the greatest, until it is enough");
        assert!(!moving(&mut links), "lanes that are out of step fill their gaps");
        // Data held for slow readers is no reason to end a link; twice the limit is.
        let mut slow = budget.share("dc4");
        slow.set(100 * MIB, 0);
        assert!(!moving(&mut links));
        slow.set(128 * MIB, 0);
        assert!(!slow.gives_way(true) && links[2].gives_way(false) && !links[0].gives_way(false));
    }

    #[test]
    fn gaps_of_one_site_take_nothing_from_another() {
        let budget = Budget::new(64 * MIB);
        let mut gaps: Vec<Share> = (0..4).map(|_| budget.share("dc2")).collect();
        gaps.iter_mut().for_each(|share| share.set(20 * MIB, 20 * MIB));
        let mut honest = budget.share("dc3");
        assert!(honest.room() >= 47 * MIB, "{}", honest.room());
        honest.set(20 * MIB, 0);
        assert!(honest.room() >= 7 * MIB, "{}", honest.room());
        drop(gaps);
        assert_eq!((honest.room(), budget.excess.load(Ordering::Relaxed)), (24 * MIB, 0));
    }

    #[test]
    fn a_newcomer_is_not_starved_and_the_greedy_wait_until_they_have_drained() {
        let budget = Budget::new(4 * MIB);
        let mut greedy = budget.share("dc2");
        greedy.set(2 * MIB, 0);
        let mut others: Vec<Share> = (0..100).map(|site| budget.share(&format!("dc{site}"))).collect();
        fill(&mut others);
        assert!(others.iter().all(|share| share.held >= FLOOR));
        assert!(budget.used() > budget.limit() && greedy.room() == 0);
        greedy.set(FLOOR - 1, 0);
        assert_eq!(greedy.room(), 1);
    }

    #[test]
    fn what_is_kept_takes_nothing_from_what_is_held_and_gives_way_to_it() {
        let budget = Budget::new(8 * MIB);
        let (mut one, mut two) = (budget.share("dc2"), budget.share("dc3"));
        assert_eq!(one.may_keep(), 2 * MIB);
        one.keep(MIB);
        two.keep(MIB / 2);
        assert_eq!((one.may_keep(), two.may_keep()), (MIB / 2, MIB / 2));
        assert_eq!((two.room(), budget.used()), (8 * MIB, 0));
        two.set(6 * MIB + MIB / 4, 0);
        assert_eq!((one.may_keep(), two.may_keep()), (MIB / 4, MIB / 4));
        two.set(9 * MIB, 0);
        assert_eq!(one.may_keep(), 0);
        drop((one, two));
        assert_eq!((budget.used(), budget.share("dc2").may_keep()), (0, 2 * MIB));
    }

    /// Each link is offered data in pieces that it may keep, and drops what it may not keep any more.
    fn fill_with_kept(shares: &mut [Share], limit: u64) {
        for _ in 0..20_000 {
            for share in shares.iter_mut() {
                share.keep((share.kept + 1000).min(share.may_keep()));
            }
            let kept: u64 = shares.iter().map(|share| share.kept).sum();
            assert!(kept <= limit / KEPT_PART + 1000 * shares.len() as u64, "{kept}");
        }
    }

    #[test]
    fn a_site_keeps_its_part_though_another_with_more_links_was_first() {
        let budget = Budget::new(64 * MIB);
        let mut shares: Vec<Share> = (0..7).map(|_| budget.share("dc2")).collect();
        fill_with_kept(&mut shares, 64 * MIB);
        let kept = |shares: &[Share]| shares.iter().map(|share| share.kept).sum::<u64>();
        assert!(kept(&shares) > 13 * MIB, "alone, each of them keeps its part: {}", kept(&shares));
        shares.push(budget.share("dc3"));
        fill_with_kept(&mut shares, 64 * MIB);
        let (first, last) = (kept(&shares[..7]), shares[7].kept);
        assert!(last > 4 * MIB && first > 4 * MIB, "{last} beside {first}");
        // Those that keep little have no part.
        let _idle: Vec<Share> = (0..9)
            .map(|_| {
                let mut idle = budget.share("dc2");
                idle.keep(FLOOR / 100);
                idle
            })
            .collect();
        fill_with_kept(&mut shares, 64 * MIB);
        assert!(kept(&shares[..7]) > 4 * MIB);
    }

    #[test]
    fn what_a_link_hands_over_stays_counted_until_the_next_one_drops_it() {
        let budget = Budget::new(4 * MIB);
        let mut one = budget.share("dc2");
        one.set(2 * MIB, MIB);
        let mut moved = one.hand_over();
        assert_eq!((budget.used(), one.held), (2 * MIB, 0));
        drop(one);
        assert_eq!((budget.used(), budget.share("dc3").room()), (2 * MIB, 2 * MIB));
        moved.set(MIB, 0);
        assert_eq!(budget.used(), MIB);
        drop(moved);
        assert_eq!((budget.used(), budget.holding.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn what_a_link_held_is_free_once_it_is_gone() {
        let budget = Budget::new(MIB);
        let (mut one, mut two) = (budget.share("dc2"), budget.share("dc2"));
        one.set(1000, 0);
        two.set(500, 500);
        one.set(200, 0);
        assert_eq!((budget.limit(), budget.used()), (MIB, 700));
        drop(two);
        assert_eq!(budget.used(), 200);
        drop(one);
        assert_eq!(budget.used(), 0);
        let state = |site: &Site| (site.scattered.load(Ordering::Relaxed), site.links().len());
        assert_eq!(state(&budget.sites()["dc2"]), (0, 0));
    }

    proptest! {
        #[test]
        fn the_sum_never_exceeds_the_limit_by_more_than_a_floor_and_a_read_for_each_link(
            limit in 0..8 * MIB,
            moves in proptest::collection::vec((0usize..8, any::<bool>(), 1u64..400_000), 0..300),
        ) {
            const READ: u64 = 512 * 1024;
            let budget = Budget::new(limit);
            let site = |at: u64| format!("dc{}", at % 3);
            let exact: Vec<Share> = (0..8).map(|at| budget.share(&site(at))).collect();
            let other = Budget::new(limit);
            let reading: Vec<Share> = (0..8).map(|at| other.share(&site(at))).collect();
            let (mut exact, mut reading) = (exact, reading);
            for (at, takes, bytes) in moves {
                let (exact, reading) = (&mut exact[at], &mut reading[at]);
                if takes {
                    // One link never takes more than its room; the other makes whole reads while
                    // there is any room.
                    exact.set(exact.held + bytes.min(exact.room()), 0);
                    reading.set(reading.held + if reading.room() > 0 { READ } else { 0 }, 0);
                } else {
                    exact.set(exact.held.saturating_sub(bytes), 0);
                    reading.set(reading.held.saturating_sub(bytes), 0);
                }
                prop_assert!(budget.used() <= limit + 8 * FLOOR);
                prop_assert!(other.used() <= limit + 8 * (FLOOR + READ));
            }
            drop((exact, reading));
            prop_assert_eq!((budget.used(), other.used()), (0, 0));
        }
    }

    #[test]
    fn the_memory_of_this_machine_is_known() {
        assert!((16 * MIB..1 << 50).contains(&available()), "{}", available());
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       8000 kB\n"), Some(8_192_000));
        assert_eq!(total("nothing"), None);
    }

    #[test]
    fn a_limit_may_stand_anywhere_above_the_group() {
        let found = |groups: &str| -> Vec<String> {
            limits(groups).iter().map(|path| path.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(
            found("0::/system.slice/replgate.service\n"),
            [
                "/sys/fs/cgroup/system.slice/replgate.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            found("5:devices:/x\n4:cpu,memory:/a\nbroken\n0::/../..\n"),
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max",
            ]
        );
    }

    #[test]
    fn no_limit_has_three_spellings() {
        assert_eq!(limit("67108864\n"), Some(64 * MIB));
        for none in ["max\n", "9223372036854771712\n", "", "0"] {
            assert_eq!(limit(none), None, "{none}");
        }
    }
}
