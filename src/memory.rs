//! The process-wide bound on buffered payload, shared by all links.
//!
//! The rule is a threshold that moves: a link may hold as much as is free. One
//! link alone thus gets half of the limit, and of n that would take everything
//! each gets 1/(n+1); what is left over is the room that a newcomer finds. As
//! others fill up, a link that holds more than is free takes in nothing until it
//! has drained. [`FLOOR`] is every link's own, so that none is ever starved: the
//! limit may be passed by that much a link, and by no more.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a link may hold however little is free, in bytes.
pub const FLOOR: u64 = 64 * 1024;

/// Limits above this mean none: version 1 of cgroups says 2 to the power of 63,
/// less a page.
const ABSURD: u64 = 1 << 60;

/// The memory of a machine that does not say how much it has.
const UNKNOWN: u64 = 1 << 30;

/// Payload bytes that all links together may hold.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes, of which none is used.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// The bound.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What all links hold now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The share of one more link, which holds nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), held: 0 }
    }
}

/// What one link holds of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: u64,
}

impl Share {
    /// The link holds `held` bytes now, in place of what it held before.
    pub fn set(&mut self, held: u64) {
        // One owner writes `held`, so the total never falls below nothing.
        if held >= self.held {
            self.budget.used.fetch_add(held - self.held, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(self.held - held, Ordering::Relaxed);
        }
        self.held = held;
    }

    /// What the link holds, as it last said.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Whether all links together hold twice what they may: there are links that
    /// take in what they cannot pass on.
    pub fn is_overdrawn(&self) -> bool {
        self.budget.used() > self.budget.limit.saturating_mul(2)
    }

    /// How many more bytes the link may take in now.
    pub fn room(&self) -> u64 {
        let free = self.budget.limit.saturating_sub(self.budget.used());
        free.max(FLOOR).saturating_sub(self.held)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The memory that this process may count on, in bytes: the machine's, or less
/// where a cgroup on the way to it has a limit.
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

/// The files that may hold a limit for the groups of /proc/self/cgroup: of each
/// group itself and of all above it, in both versions of cgroups.
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
        // A group outside of our namespace is shown with `..`, and cannot be read.
        let path: PathBuf =
            Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        files.extend(path.ancestors().map(|above| Path::new(root).join(above).join(file)));
    }
    files
}

/// A limit as a cgroup writes it; none where it sets none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit > 0 && *limit < ABSURD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// Each link takes in pieces until nobody has room.
    fn fill(shares: &mut [Share]) {
        while shares.iter().any(|share| share.room() > 0) {
            for share in shares.iter_mut() {
                share.set(share.held() + share.room().min(1000));
            }
        }
    }

    #[test]
    fn one_link_gets_half_and_greedy_links_get_equal_parts() {
        for links in [1, 2, 7] {
            let budget = Budget::new(64 * MIB);
            let mut shares: Vec<Share> = (0..links).map(|_| budget.share()).collect();
            fill(&mut shares);
            let part = 64 * MIB / (links + 1);
            for share in &shares {
                assert!(share.held().abs_diff(part) <= 1000 * links, "{} of {part}", share.held());
            }
            assert!(budget.share().room().abs_diff(part) <= 1000 * links, "a newcomer finds as much");
        }
    }

    #[test]
    fn a_newcomer_is_not_starved_and_the_greedy_wait_until_they_have_drained() {
        let budget = Budget::new(4 * MIB);
        let mut greedy = budget.share();
        greedy.set(2 * MIB);
        let mut others: Vec<Share> = (0..100).map(|_| budget.share()).collect();
        fill(&mut others);
        assert!(others.iter().all(|share| share.held() >= FLOOR));
        assert!(budget.used() > budget.limit() && greedy.room() == 0);
        greedy.set(FLOOR - 1);
        assert_eq!(greedy.room(), 1);
    }

    #[test]
    fn what_a_link_held_is_free_once_it_is_gone() {
        let budget = Budget::new(MIB);
        let (mut one, mut two) = (budget.share(), budget.share());
        one.set(1000);
        two.set(500);
        one.set(200);
        assert_eq!((budget.limit(), budget.used()), (MIB, 700));
        drop(two);
        assert_eq!(budget.used(), 200);
        drop(one);
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn the_sum_never_exceeds_the_limit_by_more_than_a_floor_and_a_read_for_each_link(
            limit in 0..8 * MIB,
            moves in proptest::collection::vec((0usize..8, any::<bool>(), 1u64..400_000), 0..300),
        ) {
            const READ: u64 = 512 * 1024;
            let budget = Budget::new(limit);
            let exact: Vec<Share> = (0..8).map(|_| budget.share()).collect();
            let other = Budget::new(limit);
            let reading: Vec<Share> = (0..8).map(|_| other.share()).collect();
            let (mut exact, mut reading) = (exact, reading);
            for (at, takes, bytes) in moves {
                let (exact, reading) = (&mut exact[at], &mut reading[at]);
                if takes {
                    // One never takes more than its room, the other whole reads
                    // for as long as there is any.
                    exact.set(exact.held() + bytes.min(exact.room()));
                    reading.set(reading.held() + if reading.room() > 0 { READ } else { 0 });
                } else {
                    exact.set(exact.held().saturating_sub(bytes));
                    reading.set(reading.held().saturating_sub(bytes));
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
