//! Keeps in the state folder what one entry has followed, without holding up its task.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::follow::kept::{self, Kept};
use crate::link::Side;
use crate::registry::notice;
use crate::session::Shared;
use crate::tls::revocation::state;

/// Time after which what could not be written is written again.
const AGAIN: Duration = Duration::from_secs(300);

/// Time given to the last write before the end.
const LAST: Duration = Duration::from_secs(2);

/// The file of one entry.
#[derive(Debug)]
pub(super) struct Keeper {
    name: String,
    /// None if there is no state folder.
    path: Option<PathBuf>,
    /// What the file is known to hold.
    written: Option<Kept>,
    writing: Option<(Kept, JoinHandle<Result<(), String>>)>,
    failed: Option<(String, Instant)>,
}

impl Keeper {
    /// Reads what was kept. From then on the file does not say how far the stream was passed on, since that
    /// changes. A file that cannot be read is a warning, and counts as none.
    pub(super) async fn open(shared: &Shared, side: Side, name: &str) -> (Self, Option<Kept>) {
        let folder = state::folder(shared.config().state.as_deref());
        let path = folder.map(|folder| kept::path(&folder, side, name));
        let mut keeper = Self { name: name.to_owned(), path, written: None, writing: None, failed: None };
        let Some(path) = keeper.path.clone() else {
            warn!(
                kind = notice::STATE, link = %name,
                "{name}: there is no state folder (`state`), so a restart of this gateway forgets whom it has followed, and then follows nobody by itself unless every other one answers as its replica"
            );
            return (keeper, None);
        };
        let own = path.clone();
        let read = spawn_blocking(move || kept::read(&own)).await;
        let kept = match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(kept) => kept,
            Err(why) => {
                warn!(
                    kind = notice::STATE, link = %name,
                    "{}: what was followed for {name} cannot be read ({why}) and does not count", path.display()
                );
                None
            }
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.followed.passed.is_some()) {
            keeper.keep(kept.while_running());
            keeper.written().await;
            if keeper.failed.is_some() {
                // What it says of the offset would be believed after a crash. A full disk lets it be removed.
                let _ = spawn_blocking(move || std::fs::remove_file(path)).await;
            }
        } else {
            keeper.written.clone_from(&kept);
        }
        (keeper, kept)
    }

    /// Has the file hold this. Returns at once.
    pub(super) fn keep(&mut self, kept: Kept) {
        let Some(path) = self.path.clone() else { return };
        let waits = self.failed.as_ref().is_some_and(|(_, since)| since.elapsed() < AGAIN);
        if self.writing.is_some() || waits || self.written.as_ref() == Some(&kept) {
            return;
        }
        let (name, own) = (self.name.clone(), kept.clone());
        let writing = spawn_blocking(move || {
            kept::write(&path, &name, &own).map_err(|error| format!("{}: {error}", path.display()))
        });
        self.writing = Some((kept, writing));
    }

    /// Completes when a write has ended; never if there is none.
    pub(super) async fn written(&mut self) {
        let Some((_, writing)) = &mut self.writing else { return std::future::pending().await };
        let ended = writing.await.unwrap_or_else(|error| Err(error.to_string()));
        let kept = self.writing.take().map(|(kept, _)| kept);
        match ended {
            Ok(()) => (self.written, self.failed) = (kept, None),
            Err(why) => {
                let name = &self.name;
                if self.failed.as_ref().is_some_and(|(known, _)| *known == why) {
                    debug!("{why}");
                } else {
                    warn!(
                        kind = notice::STATE, link = %name,
                        "what is followed for {name} cannot be kept: {why}; a restart of this gateway would forget it"
                    );
                }
                self.failed = Some((why, Instant::now()));
            }
        }
    }

    /// Has the file hold this, and waits for it, since the gateway stops.
    pub(super) async fn keep_last(&mut self, kept: Kept) {
        let last = async {
            if self.writing.is_some() {
                self.written().await;
            }
            self.failed = None;
            self.keep(kept);
            if self.writing.is_some() {
                self.written().await;
            }
        };
        let _ = tokio::time::timeout(LAST, last).await;
    }
}
