//! Records that a site's host may lack what the site's folder holds.
//!
//! `DIR/ca/SITE.undelivered` is written together with new files of a site, before they are in their
//! places, and removed once a hook has succeeded for them. So a hook that failed, or never ran
//! because the process was killed, is run again. What is copied by hand stays recorded: nobody says
//! that it has arrived.

use std::path::{Path, PathBuf};

use super::store::{Folder, New, UNDELIVERED};
use crate::file;

/// Last line of the record after the hook has failed.
const FAILED: &str = "the hook failed";

/// What waits to be delivered to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// What distinguishes these files from earlier and later ones.
    what: String,
    /// Whether the hook ran for these files, and failed.
    pub hook_failed: bool,
}

impl Undelivered {
    pub(super) fn is_for(&self, what: &str) -> bool {
        self.what == what
    }
}

fn path(place: &Path, site: &str) -> PathBuf {
    place.join(format!("{site}{UNDELIVERED}"))
}

/// The record for new files of a site, among those of the CA in `place`. `what` distinguishes them
/// from earlier ones.
pub(super) fn record(place: &Path, site: &str, what: &str) -> New {
    New::public(path(place, site), format!("{what}\n"))
}

/// What waits to be delivered to a site, if anything.
pub fn undelivered(dir: &Path, site: &str) -> Option<Undelivered> {
    in_place(&Folder::new(dir).ca(), site)
}

/// As [`undelivered`], by the record among the files of the CA in `place`.
pub(super) fn in_place(place: &Path, site: &str) -> Option<Undelivered> {
    let text = match file::read_text(&path(place, site), 4096) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        // A damaged record is one nevertheless.
        text => text.unwrap_or_default(),
    };
    let mut lines = text.lines();
    let what = lines.next().unwrap_or_default().to_owned();
    Some(Undelivered { what, hook_failed: lines.any(|line| line == FAILED) })
}

/// Records that the hook has succeeded. Files that were made since then wait for their own hook.
pub fn hook_went_well(dir: &Path, site: &str, done: &Undelivered) -> anyhow::Result<()> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    match undelivered(dir, site) {
        Some(now) if now.what == done.what => folder.remove(&path(&folder.ca(), site)),
        _ => Ok(()),
    }
}

/// Records that the hook has failed.
pub fn hook_failed(dir: &Path, site: &str, tried: &Undelivered) -> anyhow::Result<()> {
    let folder = Folder::new(dir);
    let _lock = folder.lock()?;
    match undelivered(dir, site) {
        Some(now) if now.what == tried.what => {
            folder.write(&[New::public(path(&folder.ca(), site), format!("{}\n{FAILED}\n", tried.what))])
        }
        _ => Ok(()),
    }
}
