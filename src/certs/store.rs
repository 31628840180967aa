//! The folder on disk: names, modes, and atomic writes.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{KeyPair, PublicKeyData};
use zeroize::Zeroizing;

use crate::tls::pem;

/// Names of all files that are written.
const WRITTEN: [&str; 8] =
    ["ca.crt", "ca.key", "crl.pem", "issued.toml", "tls.crt", "tls.key", "tls.csr", "tls.key.old"];

/// End of the name of the file that records that a site's host may lack what its folder holds.
pub(super) const UNDELIVERED: &str = ".undelivered";

/// Start of the names of folders of CAs that were put away.
const PUT_AWAY: &str = "ca.old-";

/// Name that the CA's folder has while a rollover is being finished.
const FINISHING: &str = "ca.finishing";

/// Whether a folder of that name belongs to a CA, so that no site can be called so.
pub(super) fn is_reserved(name: &str) -> bool {
    ["ca", ".", "..", FINISHING].contains(&name) || name.starts_with(PUT_AWAY)
}

pub(super) struct Folder {
    dir: PathBuf,
}

pub(super) struct New {
    path: PathBuf,
    /// Wiped on drop, since it may be a key.
    text: Zeroizing<String>,
    mode: u32,
}

impl New {
    /// A private key, readable only by its owner.
    pub(super) fn secret(path: PathBuf, text: String) -> Self {
        Self { path, text: text.into(), mode: 0o600 }
    }

    /// A file that everybody may read.
    pub(super) fn public(path: PathBuf, text: String) -> Self {
        Self { path, text: text.into(), mode: 0o644 }
    }

    fn temporary(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.{}", std::process::id()))
    }
}

impl Folder {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// The CA that follows, during a rollover.
    pub(super) fn next(&self) -> PathBuf {
        self.ca().join("next")
    }

    fn finishing(&self) -> PathBuf {
        self.dir.join(FINISHING)
    }

    pub(super) fn site(&self, site: &str) -> PathBuf {
        self.dir.join(site)
    }

    pub(super) fn has_ca(&self) -> bool {
        ["ca.crt", "ca.key"].iter().any(|name| is_there(&self.ca().join(name)))
    }

    /// Whether there is a CA that follows. Its certificate is written after its other files.
    pub(super) fn has_next(&self) -> bool {
        is_there(&self.next().join("ca.crt"))
    }

    /// Whether the end of a rollover was interrupted, so that the CA is not in its place.
    pub(super) fn is_finishing(&self) -> bool {
        is_there(&self.finishing())
    }

    /// An error if there is no CA, or none in its place.
    pub(super) fn needs_ca(&self) -> anyhow::Result<()> {
        self.is_settled()?;
        anyhow::ensure!(self.has_ca(), super::no_ca(self));
        Ok(())
    }

    fn is_settled(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.is_finishing(),
            "the rollover in {} was interrupted at its end, and {} waits to be put away; run again: replgate certs rollover finish",
            self.dir.display(),
            self.finishing().display()
        );
        Ok(())
    }

    /// Sites with a certificate, sorted.
    pub(super) fn sites(&self) -> anyhow::Result<Vec<String>> {
        self.sites_with(&["tls.crt"])
    }

    /// Sites with a certificate or a key, sorted.
    pub(super) fn occupied(&self) -> anyhow::Result<Vec<String>> {
        self.sites_with(&["tls.crt", "tls.key"])
    }

    fn sites_with(&self, files: &[&str]) -> anyhow::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.dir).with_context(|| format!("read {}", self.dir.display()))?;
        let mut sites: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| files.iter().any(|file| is_there(&entry.path().join(file))))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        sites.sort();
        Ok(sites)
    }

    /// Locks the folder for other processes until the result is dropped.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        self.needs_ca()?;
        let lock = self.lock_all()?;
        self.needs_ca()?;
        Ok(lock)
    }

    /// As [`Folder::lock`], but there need not be a CA.
    pub(super) fn lock_all(&self) -> anyhow::Result<File> {
        make(&self.dir)?;
        let lock = self.lock_as_it_is()?;
        self.is_settled()?;
        Ok(lock)
    }

    /// As [`Folder::lock`], but a rollover may have been interrupted at its end.
    pub(super) fn lock_as_it_is(&self) -> anyhow::Result<File> {
        let lock = File::open(&self.dir).with_context(|| format!("open {}", self.dir.display()))?;
        lock.lock().with_context(|| format!("lock {}", self.dir.display()))?;
        self.sweep();
        Ok(lock)
    }

    /// Removes temporary files that a killed run has left; they may be private keys.
    fn sweep(&self) {
        let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries(&self.dir).map(|folder| folder.path()).chain([self.next()]);
        for file in folders.flat_map(|folder| entries(&folder)) {
            let name = file.file_name().to_string_lossy().into_owned();
            let temporary = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
            let ours = temporary.is_some_and(|(written, process)| {
                (WRITTEN.contains(&written) || written.ends_with(UNDELIVERED))
                    && !process.is_empty()
                    && process.bytes().all(|byte| byte.is_ascii_digit())
            });
            if ours {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// Moves a CA that was moved aside back into its place.
    pub(super) fn move_ca_back(&self, aside: &Path) -> anyhow::Result<()> {
        let _ = std::fs::remove_dir_all(self.ca());
        std::fs::rename(aside, self.ca())
            .with_context(|| format!("move {} back to {}", aside.display(), self.ca().display()))
    }

    /// Moves a site's key aside unless it belongs to `public_key`.
    pub(super) fn move_other_key_aside(
        &self,
        site: &str,
        public_key: &[u8],
    ) -> anyhow::Result<Option<PathBuf>> {
        let key = self.site(site).join("tls.key");
        if !key.exists() {
            return Ok(None);
        }
        let own = pem::private_key(&key).ok().and_then(|key| KeyPair::try_from(&*key).ok());
        if own.is_some_and(|own| own.subject_public_key_info() == public_key) {
            return Ok(None);
        }
        let mut aside = key.with_extension("key.old");
        let mut count = 1;
        while aside.exists() {
            count += 1;
            aside = key.with_extension(format!("key.old-{count}"));
        }
        std::fs::rename(&key, &aside).with_context(|| format!("move {} aside", key.display()))?;
        Ok(Some(aside))
    }

    /// Moves the CA's folder aside and returns its new place.
    pub(super) fn move_ca_aside(&self) -> anyhow::Result<PathBuf> {
        let aside = self.place_aside();
        self.move_folder(&self.ca(), &aside)?;
        Ok(aside)
    }

    /// Puts the CA that follows in the place of the CA, which is put away; returns where. An
    /// interrupted call is completed by the next one: the name between tells how far it came.
    pub(super) fn put_next_in_place(&self) -> anyhow::Result<PathBuf> {
        let (between, aside) = (self.finishing(), self.place_aside());
        if !is_there(&between) {
            self.move_folder(&self.ca(), &between)?;
        }
        if !self.has_ca() {
            self.move_folder(&between.join("next"), &self.ca())?;
        }
        self.move_folder(&between, &aside)?;
        Ok(aside)
    }

    /// A free name for a CA that is put away.
    fn place_aside(&self) -> PathBuf {
        let stamp = crate::clock::utc(crate::clock::now()).replace(':', "");
        let mut aside = self.dir.join(format!("{PUT_AWAY}{stamp}"));
        let mut count = 1;
        while aside.exists() {
            count += 1;
            aside = self.dir.join(format!("{PUT_AWAY}{stamp}-{count}"));
        }
        aside
    }

    fn move_folder(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        std::fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("write {}", self.dir.display()))
    }

    /// Removes a file.
    pub(super) fn remove(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        if let Some(folder) = path.parent() {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// Writes all files. Every file is on disk under a temporary name before the first one is
    /// renamed, so that an error while writing changes nothing.
    pub(super) fn write(&self, files: &[New]) -> anyhow::Result<()> {
        let written = files.iter().try_for_each(prepare);
        if let Err(error) = written {
            for file in files {
                let _ = std::fs::remove_file(file.temporary());
            }
            return Err(error.context("nothing was changed"));
        }
        for (done, file) in files.iter().enumerate() {
            if let Err(error) = std::fs::rename(file.temporary(), &file.path) {
                for left in &files[done..] {
                    let _ = std::fs::remove_file(left.temporary());
                }
                let context = format!(
                    "{done} of {} files were written, then {} could not be put in its place; fix that and run the same command again",
                    files.len(),
                    file.path.display()
                );
                return Err(anyhow::Error::new(error).context(context));
            }
            if let Some(folder) = file.path.parent() {
                let _ = File::open(folder).and_then(|folder| folder.sync_all());
            }
        }
        Ok(())
    }
}

/// Whether something with that name exists. A dangling link counts, and so does what may not be
/// examined.
pub(super) fn is_there(path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    path.symlink_metadata().map_or_else(|error| ![NotFound, NotADirectory].contains(&error.kind()), |_| true)
}

/// Makes a folder that only its owner may use.
fn make(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("make {}", folder.display()))
}

fn prepare(file: &New) -> anyhow::Result<()> {
    let failed = || format!("write {}", file.path.display());
    if let Some(folder) = file.path.parent() {
        make(folder)?;
    }
    let temporary = file.temporary();
    let _ = std::fs::remove_file(&temporary);
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(&temporary)
        .with_context(failed)?;
    out.write_all(file.text.as_bytes()).with_context(failed)?;
    out.sync_all().with_context(failed)
}
