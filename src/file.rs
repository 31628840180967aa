//! Reads the files that an operator names: the config and the files that the config names.
//!
//! Only a regular file of bounded size is read. It is checked through the opened handle, so that it
//! cannot be replaced in between. A pipe, a device or a folder is refused at once, and opening one
//! never blocks. A file that this process has locked itself out of is told from one that its user may
//! not read. What is read is wiped on drop, since it may be a secret. Writes those few that it owns itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::sandbox;

/// The file's bytes; an error if there are more than `most`.
pub fn read(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let too_large = || io::Error::other(format!("it is larger than {most} bytes, the most that is read"));
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_large());
    }
    // The buffer has room for the whole file: growing would leave copies in memory.
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).map_err(|_| too_large())? + 1]);
    let mut read = 0;
    loop {
        let free = &mut bytes[read..];
        if free.is_empty() {
            // The file grows while it is read, or reports no length, as in /proc.
            if read as u64 > most {
                return Err(too_large());
            }
            let mut larger = Zeroizing::new(vec![0; read * 2 + 4096]);
            larger[..read].copy_from_slice(&bytes);
            bytes = larger;
            continue;
        }
        match (&file).read(free) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if read as u64 > most {
        return Err(too_large());
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a file as a whole or not at all, beside its place first. Its folder is made if it is not there. Only
/// this user may read either.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    make_folder(folder)?;
    let mut beside = std::ffi::OsString::from(".new-");
    beside.push(name);
    let new = folder.join(beside);
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// Makes a folder, and those above it, if it is not there. Only this user may use it.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// As [`read`], for text.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let bytes = read(path, most)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(io::Error::other(format!("line {line} is not UTF-8 text")))
        }
    }
}

/// Whether this process may read the file.
pub fn is_readable(path: &Path) -> bool {
    open(path).is_ok()
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = sandbox::outside(path) {
        return Err(io::Error::other(sandbox::words(&folder)));
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    };
    Err(io::Error::other(format!("it is {what}; only a regular file is read")))
}

/// Who may change a file besides its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writers {
    /// The users of its group.
    Group,
    /// Every user of this host.
    All,
}

/// Whether others may change the file, and how to fix that, in a sentence. A folder where everybody
/// may replace the file counts as well.
pub fn writers(path: &Path) -> Option<(Writers, String)> {
    let mode = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode());
    let own = mode(path)?;
    let fault = |who, path: &Path, mode: u32, verb: &str| {
        let name = match who {
            Writers::Group => "its group",
            Writers::All => "every user of this host",
        };
        (
            who,
            format!(
                "{}: mode {:04o} lets {name} {verb}; chmod go-w {}",
                path.display(),
                mode & 0o7777,
                path.display()
            ),
        )
    };
    if own & 0o002 != 0 {
        return Some(fault(Writers::All, path, own, "change it"));
    }
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    // In a sticky folder such as /tmp, only a file's owner may replace it.
    if let Some(mode) = mode(folder).filter(|mode| mode & 0o1002 == 0o0002) {
        return Some(fault(Writers::All, folder, mode, "replace the files in it"));
    }
    (own & 0o020 != 0).then(|| fault(Writers::Group, path, own, "change it"))
}

/// The results of [`writers`] for these files, without repetitions.
pub fn all_writers<'p>(paths: impl Iterator<Item = &'p Path>) -> Vec<(Writers, String)> {
    let mut faults = Vec::new();
    for found in paths.filter_map(writers) {
        if !faults.contains(&found) {
            faults.push(found);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for (path, what) in [
            (pipe.as_path(), "a pipe"),
            (&link, "a pipe"),
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read(path, 100).unwrap_err().to_string();
            assert!(error.contains(what), "{}: {error}", path.display());
            assert!(!is_readable(path));
        }
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, 99, 100] {
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            assert_eq!(read(&path, 100).unwrap().len(), length);
        }
        std::fs::write(&path, vec![b'x'; 101]).unwrap();
        assert!(read(&path, 100).unwrap_err().to_string().contains("larger than 100 bytes"));
        // A huge file takes no memory, and a file without a length is bounded as well.
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path, 100).is_err());
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert!(read(Path::new("/proc/self/status"), 100).is_err());
        std::fs::write(&path, b"one\ntwo\n\xff").unwrap();
        assert!(read_text(&path, 100).unwrap_err().to_string().contains("line 3 is not UTF-8"));
    }

    #[test]
    fn the_users_who_may_change_a_file_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let who = |file, dir| {
            chmod(&path, file);
            chmod(folder.path(), dir);
            writers(&path).map(|(who, text)| {
                assert!(text.contains("; chmod go-w "), "{text}");
                who
            })
        };
        assert_eq!(who(0o644, 0o755), None);
        assert_eq!(who(0o664, 0o755), Some(Writers::Group));
        assert_eq!(who(0o646, 0o755), Some(Writers::All));
        assert_eq!(who(0o600, 0o777), Some(Writers::All));
        assert_eq!(who(0o600, 0o1777), None);
        assert_eq!(who(0o600, 0o775), None);
    }
}
