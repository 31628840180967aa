//! The CPU time of processes as the kernel counts it, and what else used the machine meanwhile.

use std::time::{Duration, Instant};

use crate::peers::Way;
use crate::process::{Process, tree};

/// Ticks per second in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

/// The time and CPU time of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub wall: Duration,
    /// CPU-seconds of the tunnel's processes at both sites.
    pub pair: f64,
    /// Those at the master's site alone.
    pub at_master: f64,
    /// CPU-seconds of the Redis servers.
    pub redis: f64,
    /// Cores that other processes used meanwhile, or that the hypervisor withheld.
    pub others: f64,
}

impl Spent {
    pub fn seconds(&self) -> f64 {
        self.wall.as_secs_f64()
    }
}

/// A measurement under way.
#[derive(Debug)]
pub struct Watch {
    start: Instant,
    /// The tunnel's processes at the master's site, then those at the replica's.
    sites: Option<[u32; 2]>,
    redis: Vec<u32>,
    before: Reading,
}

impl Watch {
    /// Starts to measure a tunnel, and some Redis servers beside it.
    pub fn start(way: &Way, redis: &[u32]) -> Self {
        let sites = way.sites.as_ref().map(|sites| sites.each_ref().map(|site| site.id()));
        let redis = redis.to_vec();
        let before = Reading::take(sites, &redis);
        Self { start: Instant::now(), sites, redis, before }
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub fn stop(self) -> Spent {
        let wall = self.start.elapsed();
        let after = Reading::take(self.sites, &self.redis);
        let used = |get: fn(&Reading) -> f64| get(&after) - get(&self.before);
        let others = used(|at| at.machine) - used(|at| at.own);
        Spent {
            wall,
            pair: used(|at| at.sites[0] + at.sites[1]),
            at_master: used(|at| at.sites[0]),
            redis: used(|at| at.redis),
            others: others.max(0.0) / wall.as_secs_f64(),
        }
    }
}

/// CPU-seconds used up to one moment.
#[derive(Debug)]
struct Reading {
    sites: [f64; 2],
    redis: f64,
    /// The bench and all its children.
    own: f64,
    /// The whole machine, with what was stolen from it.
    machine: f64,
}

impl Reading {
    fn take(sites: Option<[u32; 2]>, redis: &[u32]) -> Self {
        Self {
            sites: sites.map_or([0.0; 2], |sites| sites.map(of_tree)),
            redis: redis.iter().copied().map(of_tree).sum(),
            own: of_tree(std::process::id()),
            machine: of_machine(),
        }
    }
}

/// A process and its children, those that have ended too.
fn of_tree(pid: u32) -> f64 {
    tree(pid).into_iter().map(of_process).sum()
}

fn of_process(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The fields after the name in parentheses; utime, stime, cutime and cstime are fields 14 to 17.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    ticks(fields.skip(11).take(4))
}

/// Memory of a tunnel's processes in bytes.
pub fn memory(way: &Way) -> u64 {
    way.sites.iter().flatten().map(memory_of).sum()
}

/// Memory of a process and its children in bytes, with their share of shared pages (PSS). Where the
/// kernel does not show that (replgate's only root may read), it is their resident memory.
pub fn memory_of(process: &Process) -> u64 {
    tree(process.id()).into_iter().map(|pid| proportional(pid).unwrap_or_else(|| resident(pid))).sum()
}

fn proportional(pid: u32) -> Option<u64> {
    kilobytes(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kilobytes(&status, "VmRSS:").unwrap_or(0)
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// User, nice, system and steal. The time of interrupts is left out: most is for our own packets.
fn of_machine() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.lines().next().unwrap_or_default().split_whitespace().collect();
    ticks([1, 2, 3, 8].into_iter().filter_map(|at| fields.get(at).copied()))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> f64 {
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}
