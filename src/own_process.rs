//! What the kernel says of this process: the `process_…` metrics that every program has.
//!
//! Most of it is in `/proc`, whose files stay readable after the process has locked itself in. Its folders
//! do not, so the one that lists the open descriptors is opened before, by [`open`].

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The folder that lists this process' descriptors, once [`open`] was called.
static DESCRIPTORS: OnceLock<Mutex<Dir>> = OnceLock::new();

/// What this process uses. What cannot be found out is left out.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// CPU time so far, in seconds, of the program and of the kernel for it.
    pub cpu_seconds: f64,
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Addresses in use.
    pub virtual_bytes: Option<u64>,
    /// Open descriptors: sockets and files.
    pub open_descriptors: Option<u64>,
    /// Most descriptors that it may have; `None` also if there is no limit.
    pub descriptor_limit: Option<u64>,
    /// When it was started, seconds since 1970.
    pub started: Option<f64>,
}

/// Opens what cannot be opened later. To be called before the process locks itself in.
pub fn open() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open("/proc/self/fd", flags, Mode::empty());
    if let Some(folder) = folder.ok().and_then(|folder: OwnedFd| Dir::new(folder).ok()) {
        let _ = DESCRIPTORS.set(Mutex::new(folder));
    }
}

impl Usage {
    /// What is used now.
    pub fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let pages = pages();
        let bytes = |pages: u64| pages * page_size() as u64;
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: pages.map(|(_, resident)| bytes(resident)),
            virtual_bytes: pages.map(|(all, _)| bytes(all)),
            open_descriptors: open_descriptors(),
            descriptor_limit: getrlimit(Resource::Nofile).current,
            started: *STARTED.get_or_init(started),
        }
    }
}

/// When the process was started, as read the first time: the answer would change with the host's clock.
static STARTED: OnceLock<Option<f64>> = OnceLock::new();

/// All pages of `/proc/self/statm`, and the resident ones.
fn pages() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn open_descriptors() -> Option<u64> {
    let mut folder = DESCRIPTORS.get()?.lock().expect("no code panics while it reads a folder");
    folder.rewind();
    let entries = folder.by_ref().filter_map(Result::ok);
    Some(entries.filter(|entry| !entry.file_name().to_bytes().starts_with(b".")).count() as u64)
}

fn started() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may have spaces; its end is the last bracket.
    let (_, fields) = own.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<u64>().ok()? as f64 + ticks as f64 / clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_process_knows_what_it_uses() {
        open();
        let before = Usage::now();
        let count = |usage: &Usage| usage.open_descriptors.expect("/proc is there");
        let sockets: Vec<_> = (0..50).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut sum = 0u64;
        while Usage::now().cpu_seconds < before.cpu_seconds + 0.01 {
            sum = sum.wrapping_add((0..10_000).sum::<u64>());
        }
        let now = Usage::now();
        // Other tests open and close some at the same time.
        assert!(count(&now) + 20 > count(&before) + sockets.len() as u64, "{now:?} after {before:?}, {sum}");
        assert!(now.descriptor_limit.is_none_or(|limit| limit >= count(&now)));
        let (resident, all) = (now.resident_bytes.unwrap(), now.virtual_bytes.unwrap());
        assert!((1 << 20..all).contains(&resident), "{now:?}");
        let age = clock::now() as f64 - now.started.unwrap();
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
    }
}
