//! This host: memory, the state folder, the kernel's limits on TCP, open files.

use std::path::Path;

use super::codes::Code;
use super::report::{Finding, quoted};
use super::words::{rate, size};
use crate::config::{Config, Congestion, Follow, Master};
use crate::memory;
use crate::tls::revocation::state;

/// Free bytes that the state folder needs: some revocation lists of the largest size.
const STATE: u64 = 16 << 20;

/// The usual largest buffer of a connection. Less makes a long path slow.
const BUFFER: u64 = 4 << 20;

/// Descriptors beside links and listeners: files, lanes that are judged, clients that are not
/// accepted yet.
const BESIDE: u64 = 640;

/// The largest buffers of a TCP connection, and the congestion controls that are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// The largest receive buffer in bytes.
    pub(super) receive: Option<u64>,
    /// The largest send buffer in bytes.
    pub(super) send: Option<u64>,
    congestion: Option<Vec<String>>,
}

impl Kernel {
    /// Reads /proc/sys.
    pub(super) fn read() -> Self {
        // These files must be read in one piece.
        let text = |name: &str| std::fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name)).ok();
        let largest = |name: &str| text(name)?.split_ascii_whitespace().nth(2)?.parse().ok();
        let congestion = text("tcp_available_congestion_control");
        Self {
            receive: largest("tcp_rmem"),
            send: largest("tcp_wmem"),
            congestion: congestion.map(|names| names.split_ascii_whitespace().map(str::to_owned).collect()),
        }
    }

    /// Whether its limits suit the links.
    pub(super) fn judge(&self, config: &Config) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (key, default, found) in
            [("tcp_rmem", "4096 131072", self.receive), ("tcp_wmem", "4096 16384", self.send)]
        {
            if let Some(found) = found.filter(|found| *found < BUFFER) {
                let text = format!(
                    "net.ipv4.{key}: a connection has a buffer of at most {}, and carries no more than that in a round trip, whatever `window` is; 4 MiB and more are usual",
                    size(found)
                );
                let finding = Finding::new(Code::TcpBuffersSmall, key, text);
                findings.push(finding.advise(format!("sysctl -w net.ipv4.{key}='{default} 16777216'")));
            }
        }
        let Some(known) = &self.congestion else { return findings };
        let origins = config.replicas.iter().flat_map(|replica| &replica.from);
        let settings = origins.map(|origin| &origin.link).chain([&config.link]);
        let mut named: Vec<&Congestion> = settings.map(|link| &link.congestion).collect();
        named.dedup();
        for congestion in named {
            match congestion {
                Congestion::Named(name) if !known.contains(name) => {
                    let text = format!(
                        "congestion = {name:?} is not available, so the system's own is used; available: {}",
                        known.join(" ")
                    );
                    let finding = Finding::new(Code::CongestionMissing, name, text);
                    findings.push(finding.advise(format!("modprobe {}", quoted(&format!("tcp_{name}")))));
                }
                Congestion::Auto if !known.iter().any(|name| name == "bbr") => {
                    let text = "bbr is not available for congestion = \"auto\": a path that loses packets carries less";
                    findings.push(Finding::new(Code::Kernel, "bbr", text).advise("modprobe tcp_bbr"));
                }
                _ => {}
            }
        }
        if findings.is_empty() {
            let buffer = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), size);
            let text = format!(
                "buffers of a connection of up to {} to receive and {} to send; congestion controls: {}",
                buffer(self.receive),
                buffer(self.send),
                known.join(" ")
            );
            findings.push(Finding::new(Code::Kernel, "tcp", text));
        }
        findings
    }
}

/// Whether `[limits] memory` fits what this process may use. A gateway under systemd may have less.
pub(super) fn memory(config: &Config) -> Finding {
    judge_memory(config.limits.memory, memory::available())
}

fn judge_memory(limit: u64, available: u64) -> Finding {
    // What arrives out of order may take the limit once more for a while.
    if limit > available / 4 * 3 {
        let text = format!(
            "[limits] memory is {}, more than three quarters of the {} that a process here may use: the kernel may kill the gateway, or Redis, in an outage; write memory = \"25%\"",
            size(limit),
            size(available)
        );
        return Finding::new(Code::MemoryTight, "[limits] memory", text);
    }
    let text = format!("[limits] memory {} of {}", size(limit), size(available));
    Finding::new(Code::Memory, "[limits] memory", text)
}

/// How long a link may be held at this rate, without a running gateway that knows it better.
pub(super) fn covered(name: &str, limit: u64, written: f64, hold: f64) -> Option<Finding> {
    // A link alone gets half.
    let lasts = limit as f64 / 2.0 / written.max(f64::MIN_POSITIVE);
    (lasts < hold).then(|| {
        let text = format!("master {name:?}: {}, an outage of {:.0} s is covered, less than hold ({hold:.0} s): half of [limits] memory ({}) is for one link; {} × {hold:.0} s × 2 = {} are needed", rate(written), lasts.floor(), size(limit), rate(written), super::words::product(written * hold * 2.0));
        Finding::new(Code::OutageNotCovered, name, text)
    })
}

/// Whether the folder for learnt revocation lists can be written and has room.
pub(super) fn state(config: &Config) -> Option<Finding> {
    let folder = state::folder(config.state.as_deref())?;
    let name = folder.display();
    let unusable = |why: String| {
        let text = format!("the state folder {name} {why}: lists that were learnt are lost with a restart");
        Finding::new(Code::StateFolderUnusable, &name, text)
    };
    // The gateway makes it at its start.
    let there = folder.ancestors().find(|part| part.exists())?;
    let found = match rustix::fs::statvfs(there) {
        Ok(found) => found,
        Err(error) => return Some(unusable(format!("cannot be looked at ({error})"))),
    };
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Some(unusable("lies on a read-only disk".to_owned()));
    }
    Some(judge_state(
        &name.to_string(),
        found.f_bavail.saturating_mul(found.f_frsize),
        found.f_files == 0 || found.f_favail > 0,
    ))
}

fn judge_state(folder: &str, free: u64, has_inodes: bool) -> Finding {
    if free < STATE || !has_inodes {
        let what = if has_inodes { format!("only {} free", size(free)) } else { "no inode free".to_owned() };
        let text = format!(
            "the disk of the state folder {folder} has {what}: a revocation list that is learnt may not be kept over a restart; make room"
        );
        return Finding::new(Code::StateFolderFull, folder, text);
    }
    Finding::new(
        Code::StateFolder,
        folder,
        format!("the disk of the state folder {folder} has {} free", size(free)),
    )
}

/// Descriptors that a gateway with this config may need.
pub(super) fn needed_descriptors(config: &Config) -> u64 {
    let sites = config.masters.iter().flat_map(|master| &master.allow).map(|site| site.to_ascii_lowercase());
    let sites = sites.collect::<std::collections::HashSet<_>>().len() as u64;
    let links = config.limits.links_per_site as u64;
    // Each link has a connection to Redis, its lanes, and a spare one.
    let of = |lanes: u8| links.saturating_mul(u64::from(lanes) + 2);
    let to_masters = sites.saturating_mul(of(config.link.lanes));
    let far: u64 = config
        .far_sites()
        .map(|site| {
            let origins = config.replicas.iter().flat_map(|replica| &replica.from);
            let of_site = origins.filter(|origin| origin.site == site);
            of_site.map(|origin| of(origin.link.lanes)).max().unwrap_or(0)
        })
        .sum();
    BESIDE + config.listeners().count() as u64 + to_masters + far + asked(config)
}

/// Connections over which it is asked who has the master: one to each Redis, two to each Sentinel, one to
/// each site of several.
fn asked(config: &Config) -> u64 {
    let followed = config.masters.iter().filter(|master| master.follow == Follow::Master);
    let at = |master: &Master| {
        let sentinels = master.sentinel.as_ref().map_or(0, |sentinel| sentinel.at.len());
        // Where Sentinels alone name it, there is one Redis.
        (master.redis.len().max(1) + 2 * sentinels) as u64
    };
    let choices = config.replicas.iter().filter(|replica| replica.has_choice());
    followed.map(|master| at(master)).sum::<u64>()
        + choices.map(|replica| replica.from.len() as u64).sum::<u64>()
}

/// Whether what was followed is known again after a restart, where something follows. `given` is whether the
/// service manager has given the running gateway a folder.
pub(super) fn history(config: &Config, given: Option<bool>) -> Option<Finding> {
    let masters =
        config.masters.iter().filter(|master| master.follow == Follow::Master).map(|master| &master.name);
    let choices = config.replicas.iter().filter(|replica| replica.has_choice()).map(|replica| &replica.name);
    let first = masters.chain(choices).next()?;
    let given = given.or(std::env::var_os("STATE_DIRECTORY").map(|_| true));
    if config.state.is_some() || given == Some(true) {
        return None;
    }
    let what = format!(
        "after a restart it is not known whom {first:?} has followed, and without Sentinel a failover meanwhile then needs a person"
    );
    Some(if given.is_none() {
        let text = format!(
            "the config has no [state] dir: unless systemd gives the gateway a state folder, as the shipped unit does (StateDirectory=), {what}"
        );
        Finding::new(Code::HistoryFolder, first, text)
    } else {
        let text = format!(
            "the running gateway has no state folder: {what}; write [state] dir = \"/var/lib/replgate\", or StateDirectory= in its unit"
        );
        Finding::new(Code::HistoryNotKept, first, text)
    })
}

/// The limits of open files of a process; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFiles {
    /// What it may have.
    soft: Option<u64>,
    /// Up to what it may raise that itself.
    hard: Option<u64>,
}

impl OpenFiles {
    /// Reads /proc/PID/limits.
    pub(super) fn read(limits: &str) -> Option<Self> {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let mut words = line.split_ascii_whitespace();
        let mut limit = || match words.next()? {
            "unlimited" => Some(None),
            number => Some(Some(number.parse().ok()?)),
        };
        Some(Self { soft: limit()?, hard: limit()? })
    }
}

/// Whether a process with these limits of open files has enough for the config. `pid` is the running
/// gateway, otherwise it is what one would have that is started from here.
pub(super) fn descriptors(needed: u64, limits: OpenFiles, pid: Option<u32>) -> Finding {
    let whose = match pid {
        Some(pid) => format!("the running gateway (process {pid})"),
        None => "a gateway that is started from here".to_owned(),
    };
    let Some(soft) = limits.soft.filter(|soft| *soft < needed) else {
        let words = limits.soft.map_or_else(|| "any number of".to_owned(), |soft| soft.to_string());
        let text =
            format!("{whose} may have {words} open files; up to {needed} with links_per_site for each site");
        return Finding::new(Code::Descriptors, "open files", text);
    };
    let text = format!(
        "{whose} may have {soft} open files, and with links_per_site for each site up to {needed} are needed: connections would be refused; the shipped unit has LimitNOFILE=65536"
    );
    let wanted = needed.next_power_of_two().max(65_536);
    // Only root may raise the hard limit.
    let (limit, which) = match limits.hard {
        Some(hard) if hard < needed => (format!("{wanted}:{wanted}"), ""),
        hard => (format!("{}:", wanted.min(hard.unwrap_or(wanted))), "S"),
    };
    let command = match pid {
        Some(pid) => format!("prlimit --pid {pid} --nofile={limit}"),
        None => format!("ulimit -{which}n {}", limit.split(':').next().unwrap_or_default()),
    };
    Finding::new(Code::DescriptorsFew, "open files", text).advise(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn config(more: &str) -> Config {
        let text = format!(
            "site = \"dc1\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"127.0.0.1:7379\"\n[[master]]\nname = \"a\"\nredis = \"127.0.0.1:6379\"\nallow = [\"dc2\", \"dc3\"]\n[[master]]\nname = \"b\"\nredis = \"127.0.0.1:6380\"\nallow = [\"DC2\"]\n{more}"
        );
        Config::parse(&[Source::new("gateway.toml", text)]).unwrap()
    }

    fn codes(findings: &[Finding]) -> Vec<Code> {
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn descriptors_are_counted_for_every_site_with_its_lanes() {
        assert_eq!(needed_descriptors(&config("")), BESIDE + 1 + 2 * 64 * 3);
        let more = "[[replica]]\nname = \"r\"\nlisten = \"127.0.0.1:6390\"\nsite = \"dc4\"\npeers = [\"h:1\"]\nlink = { lanes = 8 }\n[limits]\nlinks_per_site = 10\n";
        assert_eq!(needed_descriptors(&config(more)), BESIDE + 2 + 2 * 10 * 3 + 10 * 10);
        // Two sites of one entry, each with settings of its own, and Sentinels that are asked.
        let more = "sentinel = { master = \"m\", at = [\"h:1\", \"h:2\", \"h:3\"] }\n[[replica]]\nname = \"r\"\nlisten = \"127.0.0.1:6390\"\nfrom = [{ site = \"dc4\" }, { site = \"dc5\" }]\n[[far_site]]\nname = \"dc4\"\npeers = [\"h:1\"]\n[[far_site]]\nname = \"dc5\"\npeers = [\"h:2\"]\nlink = { lanes = 8 }\n[limits]\nlinks_per_site = 10\n";
        let asked = 1 + 2 * 3 + 2;
        assert_eq!(needed_descriptors(&config(more)), BESIDE + 2 + 2 * 10 * 3 + 10 * 3 + 10 * 10 + asked);
    }

    #[test]
    fn what_follows_needs_a_state_folder() {
        let follows = "follow = \"master\"\n";
        assert_eq!(history(&config(""), Some(false)), None);
        assert_eq!(history(&config(&format!("{follows}[state]\ndir = \"/s\"\n")), Some(false)), None);
        assert_eq!(history(&config(follows), Some(true)), None);
        let found = history(&config(follows), Some(false)).unwrap();
        assert!(
            found.code == Code::HistoryNotKept && found.text.contains("whom \"b\" has followed"),
            "{found:?}"
        );
        assert_eq!(
            history(&config(follows), None).unwrap().code,
            Code::HistoryFolder,
            "the unit may have one"
        );
    }

    #[test]
    fn a_low_limit_of_open_files_is_told_with_the_command() {
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024                 524288               files     \n";
        let of = |soft, hard| OpenFiles { soft, hard };
        assert_eq!(OpenFiles::read(limits), Some(of(Some(1024), Some(524_288))));
        assert_eq!(OpenFiles::read("Max open files unlimited unlimited files\n"), Some(of(None, None)));
        assert_eq!(OpenFiles::read("nothing"), None);
        let enough = |needed, limits| descriptors(needed, limits, None).code == Code::Descriptors;
        assert!(enough(1024, of(Some(1024), Some(1024))) && enough(1 << 40, of(None, None)));
        let advice = |needed, limits, pid| {
            let few = descriptors(needed, limits, pid);
            assert_eq!(few.code, Code::DescriptorsFew);
            few.advice.unwrap()
        };
        let low = of(Some(1024), Some(20_000));
        assert_eq!(advice(1025, low, Some(77)), "prlimit --pid 77 --nofile=20000:");
        assert_eq!(advice(30_000, low, Some(77)), "prlimit --pid 77 --nofile=65536:65536");
        assert_eq!(advice(70_000, of(Some(1024), None), None), "ulimit -Sn 131072");
    }

    #[test]
    fn memory_and_disk_have_their_bounds() {
        let gib = 1 << 30;
        assert_eq!(judge_memory(gib, 4 * gib).code, Code::Memory);
        assert_eq!(judge_memory(4 * gib, 4 * gib).code, Code::MemoryTight);
        assert_eq!(judge_state("/s", 1 << 30, true).code, Code::StateFolder);
        assert_eq!(judge_state("/s", 1000, true).code, Code::StateFolderFull);
        assert_eq!(judge_state("/s", 1 << 30, false).code, Code::StateFolderFull);
        assert_eq!(covered("a", 1 << 30, 5e6, 45.0), None);
        assert_eq!(covered("a", 64 << 20, 5e6, 45.0).unwrap().code, Code::OutageNotCovered);
        assert_eq!(covered("a", 64 << 20, 0.0, 45.0), None);
    }

    #[test]
    fn the_kernel_is_judged_by_what_the_links_ask_of_it() {
        let kernel = |receive, names: &[&str]| Kernel {
            receive: Some(receive),
            send: Some(4 << 20),
            congestion: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        };
        let judged = |kernel: &Kernel, more: &str| kernel.judge(&config(more));
        assert_eq!(codes(&judged(&kernel(6 << 20, &["cubic", "bbr"]), "")), [Code::Kernel]);
        let found = judged(&kernel(6 << 20, &["cubic"]), "");
        assert_eq!(
            (codes(&found), found[0].advice.as_deref()),
            (vec![Code::Kernel], Some("modprobe tcp_bbr"))
        );
        let found = judged(&kernel(1 << 20, &["cubic"]), "[link]\ncongestion = \"vegas\"\n");
        assert_eq!(codes(&found), [Code::TcpBuffersSmall, Code::CongestionMissing]);
        assert!(Kernel::read().receive.is_some(), "this machine tells it");
    }
}
