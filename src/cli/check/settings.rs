//! What a master's Redis is set to and does, against what its links need. Pure: from what Redis has
//! said to findings.
//!
//! Each piece of advice is a command after which the same Redis is no longer warned about.

use std::time::Duration;

use super::codes::Code;
use super::facts::Facts;
use super::report::Finding;
use super::words::{MB, config_set, mb, needed_mb, product, rate, redis_cli, size};
use crate::config::LinkSettings;
use crate::units::Address;

/// Margin between the hold and the master's timeout, for network round trips.
const MARGIN: Duration = Duration::from_secs(2);

/// Time that the backlog must cover for a restart of this gateway: twice what a slow restart takes.
/// It is some two seconds usually.
const RESTART: Duration = Duration::from_secs(20);

/// The usual period of pings.
pub(super) const PING: Duration = Duration::from_secs(10);

/// Least number of ping periods in `repl-timeout`.
const PINGS: u32 = 3;

/// Delay of a diskless sync from which on it counts as long.
const DELAY: Duration = Duration::from_secs(30);

/// Divisor of the memory that its data does not take: the part of it that a backlog may have.
const BACKLOG_PART: u64 = 4;

/// Bytes of a replica's output buffer if it has no limit.
const USUAL_BUFFER: u64 = 256 << 20;

/// Versions of Redis and of Valkey that were tried, the first and the last.
const REDIS: [(u64, u64); 2] = [(6, 2), (8, 2)];
const VALKEY: [(u64, u64); 2] = [(8, 1), (9, 1)];

/// Everything that is judged.
#[derive(Clone, Debug)]
pub(super) struct Judged<'a> {
    /// The master's name.
    pub(super) name: &'a str,
    pub(super) redis: &'a Address,
    pub(super) link: &'a LinkSettings,
    pub(super) facts: &'a Facts,
    /// Bytes a second that it writes, as the running gateway has measured it over a minute.
    pub(super) mean: Option<f64>,
    /// Bytes that a link may take in while it is held.
    pub(super) room: u64,
    /// Sites that may replicate it.
    pub(super) sites: &'a [String],
    /// The user that has asked.
    pub(super) user: &'a str,
    /// Whether a replica is right here: the gateway follows the master, and this one may become it.
    pub(super) may_be_replica: bool,
}

/// All findings about it.
pub(super) fn judge(judged: &Judged<'_>) -> Vec<Finding> {
    let mut findings = vec![];
    findings.extend(unread(judged));
    findings.extend(role(judged));
    findings.extend(version(
        judged.facts,
        [Code::Version, Code::VersionUntried],
        judged.name,
        &judged.about(),
    ));
    findings.extend(hold(judged));
    findings.extend(ping(judged));
    findings.extend(backlog(judged));
    findings.extend(output(judged));
    findings.extend(persistence(judged));
    findings.extend(diskless(judged));
    findings.extend(maxmemory(judged));
    findings.extend(min_replicas(judged));
    findings
}

impl Judged<'_> {
    /// How each sentence begins.
    fn about(&self) -> String {
        format!("master {:?}: redis {}", self.name, self.redis)
    }

    fn finding(&self, code: Code, text: &str) -> Finding {
        Finding::new(code, self.name, format!("{}: {text}", self.about()))
    }

    fn set(&self, key: &str, value: &str) -> String {
        config_set(self.redis, key, value)
    }

    /// Bytes of its machine's memory that its data does not take; all there can be if that is not known.
    fn spare(&self) -> u64 {
        let data = self.facts.count("used_memory").max(self.facts.number("maxmemory")).unwrap_or(0);
        self.facts.count("total_system_memory").map_or(u64::MAX, |machine| machine.saturating_sub(data))
    }

    /// Bytes a second that it writes: the greater of both measures.
    fn rate(&self) -> Option<f64> {
        [self.mean, self.facts.write_rate].into_iter().flatten().reduce(f64::max)
    }
}

/// What could not be read, and the grant or the option that helps.
fn unread(judged: &Judged<'_>) -> Option<Finding> {
    let (facts, user) = (judged.facts, judged.user);
    let LinkSettings { hold, dead_after, .. } = judged.link;
    let rule = format!(
        "hold {hold:?} must be at most repl-timeout - repl-ping-replica-period - dead_after ({dead_after:?}) - {MARGIN:?}, on the master and on its replicas"
    );
    if !facts.lacks.is_empty() {
        let what = unjudged(facts);
        let grants: Vec<&str> = facts.lacks.clone();
        let words = [&["ACL", "SETUSER", user][..], &grants].concat();
        let text = format!(
            "user {user} lacks the right to read its settings, so {what} cannot be judged ({rule}); grant it, or name another user with --redis-user and --password-file"
        );
        return Some(judged.finding(Code::GrantMissing, &text).advise(redis_cli(judged.redis, &words)));
    }
    let why = facts.unread.as_deref()?;
    let hint =
        if why.contains(" -NOAUTH") { "; name a user with --redis-user and --password-file" } else { "" };
    let text =
        format!("its settings cannot be read, so {} cannot be judged: {why}{hint}; {rule}", unjudged(facts));
    Some(judged.finding(Code::SettingsUnread, &text))
}

/// What cannot be judged without what was not read.
pub(super) fn unjudged(facts: &Facts) -> &'static str {
    match (facts.is_known(), facts.setting("repl-timeout").is_some()) {
        (false, false) => "its role, version, write rate, timeouts, backlog, buffers and persistence",
        (false, true) => "its role, version, write rate and memory",
        _ => "its timeouts, backlog, buffers and persistence",
    }
}

/// What it is: a master, a replica, a node of a cluster, a Sentinel.
fn role(judged: &Judged<'_>) -> Vec<Finding> {
    let facts = judged.facts;
    let mut findings = Vec::new();
    match facts.info("redis_mode") {
        Some("cluster") => findings.push(judged.finding(
            Code::RedisCluster,
            "it is a node of Redis Cluster, which is not supported: REPLICAOF is refused in cluster mode, and replicas connect to addresses that the cluster announces",
        )),
        Some("sentinel") => findings.push(judged.finding(
            Code::RedisSentinel,
            "it is a Sentinel, which has no data: name the Redis itself in `redis`",
        )),
        _ => {}
    }
    match (facts.info("role"), facts.follows()) {
        (Some("master"), _) => {
            let offset = facts.info("master_repl_offset").unwrap_or("?");
            let text =
                format!("master {:?}: Redis at {} is a master at offset {offset}", judged.name, judged.redis);
            findings.push(Finding::new(Code::RedisMaster, judged.name, text));
        }
        (_, Some((host, port))) => {
            let what = format!("master {:?}: Redis at {}", judged.name, judged.redis);
            let lags = if judged.may_be_replica {
                let text = format!("{what} is a replica of {host}:{port}: links go to the master alone");
                findings.push(Finding::new(Code::CandidateReplica, judged.name, text));
                "if it takes over now, it lacks what was written since"
            } else {
                let text =
                    format!("{what} is itself a replica of {host}:{port}: replicas behind it form a chain");
                findings.push(Finding::new(Code::Chain, judged.name, text));
                "its replicas get no new data"
            };
            if facts.info("master_link_status") == Some("down") {
                let since = facts.info("master_link_down_since_seconds").unwrap_or("?");
                findings.push(judged.finding(
                    Code::ChainDown,
                    &format!(
                        "its own link to {host}:{port} is down, for {since} s: {lags}; its own log says why"
                    ),
                ));
            }
            if facts.setting("replica-read-only") == Some("no") {
                let text = "it is a replica that clients may write to (replica-read-only no): what they write is missing at its master, and lost with the next full sync";
                findings.push(
                    judged.finding(Code::ChainWritable, text).advise(judged.set("replica-read-only", "yes")),
                );
            }
        }
        _ => {}
    }
    findings
}

/// Its version against those that were tried; `codes` are those of one that was and one that was
/// not.
pub(super) fn version(facts: &Facts, codes: [Code; 2], what: &str, about: &str) -> Option<Finding> {
    let (kind, text, [first, last]) = match (facts.info("valkey_version"), facts.info("redis_version")) {
        (Some(version), _) => ("Valkey", version, VALKEY),
        (None, version) => ("Redis", version?, REDIS),
    };
    let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
    let number = (parts.next().flatten()?, parts.next().flatten()?);
    let tried = format!("{}.{} to {}.{}", first.0, first.1, last.0, last.1);
    Some(if (first..=last).contains(&number) {
        Finding::new(
            codes[0],
            what,
            format!("{about}: {kind} {text} is among the versions that were tried ({tried})"),
        )
    } else {
        Finding::new(
            codes[1],
            what,
            format!("{about}: {kind} {text} was not tried with this version of replgate; {tried} were"),
        )
    })
}

/// Whether the master waits as long as a link is held.
///
/// A master and its replica each give up after `repl-timeout` of silence. When a path fails, the
/// last data may be one ping period old, and the hold begins only after `dead_after`.
fn hold(judged: &Judged<'_>) -> Option<Finding> {
    let (hold, dead_after) = (judged.link.hold, judged.link.dead_after);
    let timeout = judged.facts.seconds("repl-timeout")?;
    let ping = judged.facts.seconds("repl-ping-replica-period")?;
    let most = longest_hold(timeout, ping, dead_after);
    Some(if hold.is_zero() {
        judged.finding(
            Code::Hold,
            &format!("hold {hold:?}: a link ends with its last lane, so repl-timeout does not matter"),
        )
    } else if hold <= most {
        judged.finding(
            Code::Hold,
            &format!("hold {hold:?} fits repl-timeout {timeout:?} (at most {most:?}); the replicas need the same repl-timeout"),
        )
    } else {
        let lower = if most > dead_after {
            format!("lower hold to {most:?}")
        } else {
            "write hold = \"0s\"".to_owned()
        };
        let needed = needed_timeout(hold, ping, dead_after);
        judged
            .finding(Code::HoldLong, &format!("hold {hold:?} is longer than the master waits: with repl-timeout {timeout:?} and a ping each {ping:?}, at most {most:?} is safe; {lower}, or raise repl-timeout to {needed} on both the master and its replicas"))
            .advise(judged.set("repl-timeout", &needed.to_string()))
    })
}

/// The longest hold that Redis waits for.
pub(super) fn longest_hold(timeout: Duration, ping: Duration, dead_after: Duration) -> Duration {
    timeout.saturating_sub(ping.saturating_add(dead_after).saturating_add(MARGIN))
}

/// The `repl-timeout` in seconds that a hold needs.
pub(super) fn needed_timeout(hold: Duration, ping: Duration, dead_after: Duration) -> u64 {
    let needed = hold.saturating_add(ping).saturating_add(dead_after).saturating_add(MARGIN);
    needed.as_secs().saturating_add(u64::from(needed.subsec_nanos() > 0))
}

/// Whether a replica gets several pings within its timeout.
fn ping(judged: &Judged<'_>) -> Option<Finding> {
    let timeout = judged.facts.seconds("repl-timeout")?;
    let ping = judged.facts.seconds("repl-ping-replica-period")?;
    if ping.saturating_mul(PINGS) <= timeout {
        return Some(judged.finding(
            Code::PingPeriod,
            &format!("a ping each {ping:?} is well below repl-timeout {timeout:?}"),
        ));
    }
    let text = format!(
        "repl-ping-replica-period {ping:?} is not well below repl-timeout {timeout:?}: an idle replica gives up if {PINGS} pings do not fit in"
    );
    let shorter = (timeout / PINGS).as_secs().min(PING.as_secs());
    let finding = judged.finding(Code::PingPeriodLong, &text);
    Some(match shorter {
        0 => finding.advise(judged.set("repl-timeout", &ping.saturating_mul(PINGS).as_secs().to_string())),
        _ => finding.advise(judged.set("repl-ping-replica-period", &shorter.to_string())),
    })
}

/// Whether the backlog holds what the master writes while this gateway restarts, when its replicas
/// ask again.
fn backlog(judged: &Judged<'_>) -> Option<Finding> {
    let bytes = judged.facts.number("repl-backlog-size")?;
    let size = mb(bytes);
    let Some(written) = judged.rate() else {
        let text = format!(
            "repl-backlog-size {size}: how fast it writes is not known, since it has no backlog before its first replica asks; check again then"
        );
        return Some(judged.finding(Code::WriteRate, &text));
    };
    let hold = judged.link.hold;
    let at = format!("at {}", rate(written));
    let (restart, all) = (written * RESTART.as_secs_f64(), written * (hold + RESTART).as_secs_f64());
    let held = bytes as f64;
    if held >= restart {
        let lasts = if held >= all {
            format!(", and an outage that outlasts hold ({hold:?})")
        } else {
            format!("; after an outage that outlasts hold ({hold:?}) there is a full sync")
        };
        let text = format!("repl-backlog-size {size} covers a restart of this gateway {at}{lasts}");
        return Some(judged.finding(Code::Backlog, &text));
    }
    let text = format!(
        "repl-backlog-size {size} does not cover a restart of this gateway {at}, which then costs its replicas a full sync"
    );
    let room = judged.spare() / BACKLOG_PART;
    let fits = |bytes: f64| needed_mb(bytes).saturating_mul(MB) <= room;
    let (wanted, sum) = if fits(all) && !hold.is_zero() {
        (all, format!("({hold:?} hold + {RESTART:?} for the restart)"))
    } else if fits(restart) {
        (restart, format!("{RESTART:?} for the restart"))
    } else {
        let text =
            format!("{text}; {at} that needs {}, and its machine has too little memory", product(restart));
        return Some(judged.finding(Code::BacklogShort, &text));
    };
    let needed = format!("{}mb", needed_mb(wanted));
    let text = format!("{text}; {needed}: {} × {sum} = {}", rate(written), product(wanted));
    Some(judged.finding(Code::BacklogShort, &text).advise(judged.set("repl-backlog-size", &needed)))
}

/// The limit on a replica's output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutputLimit {
    /// Bytes; 0 is no limit.
    hard: u64,
    soft: u64,
    soft_for: Duration,
}

impl OutputLimit {
    /// Reads the class of replicas from `client-output-buffer-limit`.
    fn read(setting: &str) -> Option<Self> {
        let mut words = setting.split_ascii_whitespace();
        words.find(|word| ["slave", "replica"].contains(word))?;
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(Self { hard: number()?, soft: number()?, soft_for: Duration::from_secs(number()?) })
    }

    /// Seconds until Redis drops a replica that does not read, if it writes at this rate and
    /// `room` bytes are taken in before its buffer fills; `None`: never.
    fn lasts(self, room: u64, rate: f64) -> Option<f64> {
        let until = |limit: u64| (room as f64 + limit as f64) / rate.max(f64::MIN_POSITIVE);
        let hard = (self.hard > 0).then(|| until(self.hard));
        let soft = (self.soft > 0).then(|| until(self.soft) + self.soft_for.as_secs_f64());
        [hard, soft].into_iter().flatten().reduce(f64::min)
    }

    fn words(self) -> String {
        format!("replica {} {} {}", mb(self.hard), mb(self.soft), self.soft_for.as_secs())
    }
}

/// Whether the output buffer of a replica lasts for an outage, after this gateway's memory.
fn output(judged: &Judged<'_>) -> Option<Finding> {
    let limit = OutputLimit::read(judged.facts.setting("client-output-buffer-limit")?)?;
    let words = format!("client-output-buffer-limit {}", limit.words());
    let hold = judged.link.hold;
    let Some(written) = judged.rate().filter(|rate| *rate > 0.0) else {
        let text = format!("{words}: nothing is being written");
        return Some(judged.finding(Code::OutputBuffer, &text));
    };
    let lasts = limit.lasts(judged.room, written);
    let Some(lasts) = lasts.filter(|lasts| *lasts < hold.as_secs_f64()) else {
        let sync = match limit.lasts(0, written).filter(|sync| *sync < 3600.0) {
            Some(sync) => format!("; a full sync may take {sync:.0} s before it is ended"),
            None => String::new(),
        };
        let text = format!(
            "{words}: after {} in this gateway's memory it covers hold {hold:?} at {}{sync}",
            size(judged.room),
            rate(written)
        );
        return Some(judged.finding(Code::OutputBuffer, &text));
    };
    let all = written * hold.as_secs_f64();
    let text = format!(
        "{words}: at {} the replica is dropped after {lasts:.0} s of an outage, {} in this gateway's memory included, although it is held for {hold:?}",
        rate(written),
        size(judged.room)
    );
    let needed = needed_mb(all);
    let replicas = judged.facts.count("connected_slaves").unwrap_or(0).max(1);
    if needed.saturating_mul(MB).saturating_mul(replicas) > judged.spare() {
        let text = format!(
            "{text}; its machine has too little memory for {}: lower hold, or raise [limits] memory",
            product(all)
        );
        return Some(judged.finding(Code::OutputBufferSmall, &text));
    }
    let text = format!("{text}; {needed}mb: {} × {hold:?} hold = {}", rate(written), product(all));
    let value = format!("replica {needed}mb {needed}mb 60");
    Some(
        judged
            .finding(Code::OutputBufferSmall, &text)
            .advise(judged.set("client-output-buffer-limit", &value)),
    )
}

/// Whether it has its data on disk: a master that restarts empty empties its replicas.
fn persistence(judged: &Judged<'_>) -> Option<Finding> {
    let facts = judged.facts;
    let (save, append) = (facts.setting("save")?, facts.setting("appendonly")? == "yes");
    if facts.is_replica() {
        return None;
    }
    if save.is_empty() && !append {
        let text = "it keeps nothing on disk (save \"\", appendonly no): if it is restarted by itself (systemd, Kubernetes), it is empty, and every replica then deletes its own data too; let it save, or let nothing restart it";
        return Some(judged.finding(Code::NoPersistence, text).advise(judged.set("save", "3600 1")));
    }
    let failed = |field: &str| facts.info(field) == Some("err");
    if failed("rdb_last_bgsave_status") || (append && failed("aof_last_write_status")) {
        let text = "it could not write its data to disk the last time: a full sync by way of the disk fails too, and a restart loses data; its own log says why";
        return Some(judged.finding(Code::PersistenceFailing, text));
    }
    let how = match (save.is_empty(), append) {
        (false, true) => "snapshots and an append-only file",
        (false, false) => "snapshots",
        _ => "an append-only file",
    };
    Some(judged.finding(Code::Persistence, &format!("it keeps {how} on disk")))
}

/// How it makes a snapshot for a full sync.
fn diskless(judged: &Judged<'_>) -> Option<Finding> {
    let diskless = judged.facts.setting("repl-diskless-sync")? == "yes";
    let delay = judged.facts.seconds("repl-diskless-sync-delay")?;
    if !diskless {
        let text = "repl-diskless-sync no: a full sync is written to the master's disk first";
        return Some(judged.finding(Code::DisklessSync, text));
    }
    let seconds = delay.as_secs();
    if delay > DELAY {
        let text = format!(
            "repl-diskless-sync-delay {seconds}: each full sync begins only after that; the usual 5 s are enough for replicas that ask together"
        );
        return Some(
            judged
                .finding(Code::DisklessDelayLong, &text)
                .advise(judged.set("repl-diskless-sync-delay", "5")),
        );
    }
    let text = format!(
        "repl-diskless-sync yes, after {seconds} s: a replica that does not read delays those that sync together with it"
    );
    Some(judged.finding(Code::DisklessSync, &text))
}

/// Whether the buffers of its replicas have room beside `maxmemory`: they are not part of it.
fn maxmemory(judged: &Judged<'_>) -> Option<Finding> {
    let facts = judged.facts;
    let most = facts.number("maxmemory")?;
    let machine = facts.count("total_system_memory")?;
    if most == 0 {
        return None;
    }
    let limit = OutputLimit::read(facts.setting("client-output-buffer-limit")?)?;
    let buffer = if limit.hard == 0 { USUAL_BUFFER } else { limit.hard };
    let replicas = facts.count("connected_slaves").unwrap_or(0).max(1);
    let beside = buffer.saturating_mul(replicas).saturating_add(facts.number("repl-backlog-size")?);
    let sum = format!("{replicas} × {} for the output buffer of a replica, and the backlog", mb(buffer));
    if most.saturating_add(beside) <= machine {
        let text = format!("maxmemory {} leaves room on its machine for {sum}", size(most));
        return Some(judged.finding(Code::MaxMemory, &text));
    }
    let text = format!(
        "maxmemory {} leaves no room on its machine ({}) for what is not part of it: {sum}; the kernel may kill it in an outage or a full sync",
        size(most),
        size(machine)
    );
    let finding = judged.finding(Code::MaxMemoryTight, &text);
    let lower = (machine.saturating_sub(beside) >> 20) << 20;
    let used = facts.count("used_memory").unwrap_or(0);
    // A lower limit than what is in use would evict data or refuse writes.
    Some(match lower > used.saturating_add(used / 4) {
        true => finding.advise(judged.set("maxmemory", &mb(lower))),
        false => finding,
    })
}

/// Whether it refuses writes for want of replicas.
fn min_replicas(judged: &Judged<'_>) -> Option<Finding> {
    let facts = judged.facts;
    let wanted = facts.number("min-replicas-to-write").filter(|wanted| *wanted > 0)?;
    let lag = facts.seconds("min-replicas-max-lag")?;
    let good = facts.count("min_slaves_good_slaves").unwrap_or(0);
    let far = |host: &str| {
        judged.sites.iter().any(|site| {
            let host = host.to_ascii_lowercase();
            let site = site.to_ascii_lowercase();
            host == site || host.strip_suffix(&site).is_some_and(|name| name.ends_with('.'))
        })
    };
    let through = facts.replicas().iter().filter(|replica| far(&replica.host)).count();
    if good < wanted {
        let text = format!(
            "min-replicas-to-write {wanted}: it refuses every write now, since {good} replicas have acknowledged within {lag:?}"
        );
        return Some(
            judged
                .finding(Code::MinReplicasLacking, &text)
                .advise(judged.set("min-replicas-to-write", &good.to_string())),
        );
    }
    let text = format!(
        "min-replicas-to-write {wanted}: {good} replicas count, {through} of them at other sites; those stop counting {lag:?} after the path breaks, also while their links are held"
    );
    Some(judged.finding(Code::MinReplicas, &text))
}

#[cfg(test)]
mod tests;
