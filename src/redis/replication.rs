//! What is known about the replication on one link. Its observer writes it; `status` and others
//! read it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::syncs::Syncs;

/// Shortest time between the two marks from which a rate is measured.
const RATE_OVER: Duration = Duration::from_secs(1);

/// How far a replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The replica introduces itself.
    #[default]
    Handshake,
    /// The replica has asked for a sync; the master prepares its reply, or forks.
    Waiting,
    /// The snapshot is being sent.
    #[serde(rename = "full sync")]
    FullSync,
    /// The whole snapshot has passed, or another connection carries it; the replica loads it.
    Loading,
    /// The replica receives the stream of writes.
    Streaming,
    /// The observer does not know what passes; the bytes flow on. Also a stage of a later release.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake",
            Self::Waiting => "waiting",
            Self::FullSync => "full sync",
            Self::Loading => "loading",
            Self::Streaming => "streaming",
            Self::Unknown => "unknown",
        })
    }
}

/// The kind of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncKind {
    /// A snapshot of all data, then the stream.
    Full,
    /// The stream alone, from where the replica had stopped.
    Partial,
}

/// A kind that this release knows; a later one may say another.
fn if_known<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SyncKind>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.and_then(|kind| match &*kind {
        "full" => Some(SyncKind::Full),
        "partial" => Some(SyncKind::Partial),
        _ => None,
    }))
}

/// Which connection of a two-connection sync this is, with the id that both connections know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The connection that carries the stream.
    Main(u64),
    /// The connection that carries the snapshot.
    Snapshot(u64),
}

/// The progress of a snapshot.
#[derive(Clone, Copy, Debug)]
struct Progress {
    done: u64,
    size: Option<u64>,
    /// The bytes that had passed at two moments, the older first; the rate is measured from the
    /// older one.
    marks: [(Instant, u64); 2],
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) stage: Stage,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) version: Option<String>,
    pub(super) capabilities: Vec<String>,
    pub(super) sync: Option<SyncKind>,
    pub(super) replid: Option<String>,
    /// The master's offset of the last byte that passed.
    pub(super) offset: Option<u64>,
    pub(super) acknowledged: Option<(u64, Instant)>,
    pub(super) behind_since: Option<Instant>,
    pub(super) channel: Option<Channel>,
    pub(super) complaint: Option<String>,
    pub(super) unknown: Option<&'static str>,
    /// Why a replica that had data of a master needs all of it, in words.
    pub(super) full_because: Option<String>,
    snapshot: Option<Progress>,
}

impl Known {
    /// A snapshot begins. `size` is known if the master states it beforehand.
    pub(super) fn snapshot_begins(&mut self, size: Option<u64>, now: Instant) {
        self.stage = Stage::FullSync;
        self.snapshot = Some(Progress { done: 0, size, marks: [(now, 0); 2] });
    }

    /// This many more bytes of the snapshot have passed.
    pub(super) fn snapshot_passed(&mut self, count: u64, now: Instant) {
        if let Some(progress) = &mut self.snapshot {
            progress.done += count;
            if now.saturating_duration_since(progress.marks[1].0) >= RATE_OVER {
                progress.marks = [progress.marks[1], (now, progress.done)];
            }
        }
    }

    /// As [`Observed::lag`].
    fn lag(&self, now: Instant) -> Option<(u64, f64)> {
        let (offset, (acknowledged, _)) = (self.offset?, self.acknowledged?);
        let seconds = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
        Some((offset.saturating_sub(acknowledged), self.behind_since.map_or(0.0, seconds)))
    }

    /// The whole snapshot has passed.
    pub(super) fn snapshot_ends(&mut self) {
        self.stage = Stage::Loading;
        if let Some(progress) = &mut self.snapshot {
            progress.size = Some(progress.done);
        }
    }
}

/// What is known about the replication on one link, shared by its observer and `status`.
#[derive(Debug)]
pub struct Observed {
    syncs: Arc<Syncs>,
    known: Mutex<Known>,
    begun: CancellationToken,
}

impl Observed {
    /// A link about which nothing is known yet; `syncs` is shared with the links of the same
    /// `[[master]]` or `[[replica]]` and far site.
    pub fn new(syncs: Arc<Syncs>) -> Arc<Self> {
        Arc::new(Self { syncs, known: Mutex::default(), begun: CancellationToken::new() })
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds an observation")
    }

    /// What it shares with the links of the same `[[master]]` or `[[replica]]` and far site.
    pub fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    pub(super) fn begins(&self) {
        self.begun.cancel();
    }

    /// Completes once the master has granted a sync, or something unknown passes.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether [`Observed::begun`] has completed.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// How far the replica has come.
    pub fn stage(&self) -> Stage {
        self.known().stage
    }

    /// Why a replica that asked to continue got all data instead, in words with both offsets.
    pub fn full_because(&self) -> Option<String> {
        self.known().full_because.clone()
    }

    /// Which connection of a two-connection sync this is.
    pub fn channel(&self) -> Option<Channel> {
        self.known().channel
    }

    /// The bytes that have passed and are not acknowledged, and for how many seconds; `None` if that is not
    /// known.
    pub fn lag(&self, now: Instant) -> Option<(u64, f64)> {
        self.known().lag(now)
    }

    /// The id of the stream and the offset of the last byte of it that has passed, or that a snapshot has; `None`
    /// before the sync, and for the offset where it is not known any more.
    pub fn passed(&self) -> Option<(String, Option<u64>)> {
        let known = self.known();
        Some((known.replid.clone()?, known.offset))
    }

    /// What `status` shows, as of `now`.
    pub fn view(&self, now: Instant) -> Replication {
        let known = self.known();
        let (lag_bytes, lag_seconds) = known.lag(now).unzip();
        let since = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
        Replication {
            stage: known.stage,
            host: known.host.clone(),
            port: known.port,
            version: known.version.clone(),
            capabilities: known.capabilities.clone(),
            sync: known.sync,
            replication_id: known.replid.clone(),
            master_offset: known.offset,
            acknowledged_offset: known.acknowledged.map(|(offset, _)| offset),
            acknowledged_seconds_ago: known.acknowledged.map(|(_, at)| since(at)),
            lag_bytes,
            lag_seconds,
            snapshot: known.snapshot.as_ref().map(|progress| progress.view(now)),
            complaint: known.complaint.clone(),
            unknown: known.unknown.map(str::to_owned),
            part_of: None,
        }
    }
}

impl Progress {
    fn view(&self, now: Instant) -> Snapshot {
        let (then, before) = self.marks[0];
        let took = now.saturating_duration_since(then).as_secs_f64();
        let rate = (took > 0.2).then(|| (self.done - before) as f64 / took);
        let left = self.size.map(|size| size.saturating_sub(self.done));
        let seconds_left = match (left, rate) {
            (Some(left), Some(rate)) if rate > 0.0 => Some(left as f64 / rate),
            _ => None,
        };
        Snapshot {
            bytes: self.done,
            size: self.size,
            bytes_per_second: rate.map(|rate| rate as u64),
            seconds_left,
        }
    }
}

/// The replication on one link, as `status` shows it. What is not known is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Replication {
    /// How far the replica has come.
    pub stage: Stage,
    /// The address that the master lists for the replica, if it or its gateway announces one.
    pub host: Option<String>,
    /// The port that the master lists for the replica.
    pub port: Option<u16>,
    /// The replica's version, if it states one (Valkey 8).
    pub version: Option<String>,
    /// The capabilities that the replica states, in its own words.
    pub capabilities: Vec<String>,
    /// Whether the sync was full or partial; `None` also for a kind of a later release.
    #[serde(default, deserialize_with = "if_known")]
    pub sync: Option<SyncKind>,
    /// The master's replication id.
    pub replication_id: Option<String>,
    /// The master's offset of the last byte that passed this gateway.
    pub master_offset: Option<u64>,
    /// The offset that the replica acknowledged last.
    pub acknowledged_offset: Option<u64>,
    /// Seconds since that acknowledgement: the `lag` of the master's INFO.
    pub acknowledged_seconds_ago: Option<f64>,
    /// Bytes that have passed and are not acknowledged.
    pub lag_bytes: Option<u64>,
    /// Seconds since the oldest of these bytes passed.
    pub lag_seconds: Option<f64>,
    /// The snapshot of a full sync.
    pub snapshot: Option<Snapshot>,
    /// An error reply from Redis, or a refusal by the gateway, in words.
    pub complaint: Option<String>,
    /// Why the observer has stopped looking.
    pub unknown: Option<String>,
    /// The number of the link whose snapshot this link carries.
    pub part_of: Option<u64>,
}

/// A snapshot as `status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Bytes that have passed.
    pub bytes: u64,
    /// Size in bytes, if the master states it beforehand or the snapshot is complete.
    pub size: Option<u64>,
    /// Bytes per second, measured over the last seconds.
    pub bytes_per_second: Option<u64>,
    /// Seconds left at that rate.
    pub seconds_left: Option<f64>,
}

impl Snapshot {
    /// How much of it has passed, from 0 to 1; `None` while its size is not known.
    pub fn share(&self) -> Option<f64> {
        let size = self.size.filter(|size| *size > 0)?;
        Some((self.bytes as f64 / size as f64).min(1.0))
    }
}
