//! What is known of the replication on one link: written by its observer, read by
//! whoever wants to show it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::syncs::Syncs;

/// A rate is told over at least this time, and at most three times as much.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Where a replica is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It introduces itself.
    #[default]
    Handshake,
    /// It has asked for a sync; the master prepares its answer, or forks.
    Waiting,
    /// The snapshot is on its way.
    #[serde(rename = "full sync")]
    FullSync,
    /// All of the snapshot has passed, or passes on another connection; the replica
    /// loads it.
    Loading,
    /// It gets every write.
    Streaming,
    /// What passes is nothing that is known here; it passes all the same.
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

/// How a sync went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncKind {
    /// With a snapshot of everything.
    Full,
    /// From where the replica was.
    Partial,
}

/// Which connection of a sync over two this is; both know the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// That of the stream.
    Main(u64),
    /// That of the snapshot.
    Snapshot(u64),
}

/// A snapshot on its way.
#[derive(Clone, Copy, Debug)]
struct Progress {
    done: u64,
    size: Option<u64>,
    /// What was done when, to tell the rate: the older and the newer.
    marks: [(Instant, u64); 2],
}

/// What is known so far.
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
    snapshot: Option<Progress>,
}

impl Known {
    /// A snapshot begins, of this size where the master says it beforehand.
    pub(super) fn snapshot_begins(&mut self, size: Option<u64>, now: Instant) {
        self.stage = Stage::FullSync;
        self.snapshot = Some(Progress { done: 0, size, marks: [(now, 0); 2] });
    }

    /// So many bytes of it have passed.
    pub(super) fn snapshot_passed(&mut self, count: u64, now: Instant) {
        if let Some(progress) = &mut self.snapshot {
            progress.done += count;
            if now.saturating_duration_since(progress.marks[1].0) >= RATE_OVER {
                progress.marks = [progress.marks[1], (now, progress.done)];
            }
        }
    }

    /// All of it has passed.
    pub(super) fn snapshot_ends(&mut self) {
        self.stage = Stage::Loading;
        if let Some(progress) = &mut self.snapshot {
            progress.size = Some(progress.done);
        }
    }
}

/// The observation of one link.
#[derive(Debug)]
pub struct Observed {
    syncs: Arc<Syncs>,
    known: Mutex<Known>,
    begun: CancellationToken,
}

impl Observed {
    /// Nothing is known yet; `syncs` is shared with the links of the same
    /// `[[master]]` or `[[replica]]`.
    pub fn new(syncs: Arc<Syncs>) -> Arc<Self> {
        Arc::new(Self { syncs, known: Mutex::default(), begun: CancellationToken::new() })
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds an observation")
    }

    pub(super) fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    pub(super) fn begins(&self) {
        self.begun.cancel();
    }

    /// Ready once the master has granted a sync, or something passes that is not known.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether that is so.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Which connection of a sync over two it is.
    pub fn channel(&self) -> Option<Channel> {
        self.known().channel
    }

    /// What there is to show, as of `now`.
    pub fn view(&self, now: Instant) -> Replication {
        let known = self.known();
        let lag_bytes = match (known.offset, known.acknowledged) {
            (Some(offset), Some((acknowledged, _))) => Some(offset.saturating_sub(acknowledged)),
            _ => None,
        };
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
            lag_seconds: lag_bytes.map(|_| known.behind_since.map_or(0.0, since)),
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

/// The replication on one link, as `status` tells it. What is not known is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Replication {
    /// Where the replica is on its way.
    pub stage: Stage,
    /// The address that the master lists for it, where it or its gateway says one.
    pub host: Option<String>,
    /// The port that the master lists for it.
    pub port: Option<u16>,
    /// Its version, where it says so (Valkey 8).
    pub version: Option<String>,
    /// What it can, in its own words.
    pub capabilities: Vec<String>,
    /// How its sync went on.
    pub sync: Option<SyncKind>,
    /// The master's replication id.
    pub replication_id: Option<String>,
    /// The master's offset of the last byte that passed this gateway.
    pub master_offset: Option<u64>,
    /// The offset that the replica acknowledged last.
    pub acknowledged_offset: Option<u64>,
    /// How long ago that was: the `lag` of the master's INFO.
    pub acknowledged_seconds_ago: Option<f64>,
    /// Bytes that have passed and are not acknowledged.
    pub lag_bytes: Option<u64>,
    /// How long ago the oldest of them passed.
    pub lag_seconds: Option<f64>,
    /// The snapshot of a full sync.
    pub snapshot: Option<Snapshot>,
    /// What Redis had to object.
    pub complaint: Option<String>,
    /// Why nothing more is known.
    pub unknown: Option<String>,
    /// The number of the link whose snapshot this one carries.
    pub part_of: Option<u64>,
}

/// A snapshot as `status` tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Bytes that have passed.
    pub bytes: u64,
    /// Bytes in all, where the master says so beforehand, or once it is over.
    pub size: Option<u64>,
    /// Bytes a second, over the last seconds.
    pub bytes_per_second: Option<u64>,
    /// Time left at that rate.
    pub seconds_left: Option<f64>,
}
