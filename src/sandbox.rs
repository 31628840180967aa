//! Locks this process in with Landlock: from then on it may read some folders, write to few or none,
//! and run no program. The kernel enforces that, and nothing in the process can widen it again.
//!
//! Folders are named, not files: a renewed file is another file, and so is the target of a link that was
//! swapped. A rule belongs to the folder that is there now; a folder that takes its place later is
//! another one. Network and existing descriptors are left alone.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

/// The version of Landlock whose rights are used (Linux 6.10). Older ones know fewer.
const VERSION: ABI = ABI::V5;

/// Where looking up a name reads: glibc's files and modules, and the targets of `resolv.conf`, which may
/// come after the start.
const LOOKUP: [&str; 9] = [
    "/etc",
    "/usr/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// Files that are links on many systems, to other folders.
const LOOKUP_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// What the host says of itself: its name, its memory, its cores. Other processes' secrets in /proc are
/// denied by Landlock. The rule is for the whole of it: its inner folders are made anew whenever
/// memory was short.
const HOST: [&str; 5] = ["/proc", "/sys/fs/cgroup", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom"];

/// A folder's identity, whatever its name is.
type Id = (u64, u64);

/// The folders that this process may read from, once it is locked in.
static READABLE: OnceLock<BTreeSet<Id>> = OnceLock::new();

/// The folders in which this process may make and remove sockets, once it is locked in.
static FOR_SOCKETS: OnceLock<BTreeSet<Id>> = OnceLock::new();

/// Locks in the calling thread and all that it starts from now on: call it before there is any other.
/// They may read the folders of the files, the folders `named`, and what looking up names needs;
/// write to `writable`; make sockets in the folders `for_sockets`, and remove them; and run nothing. Says in
/// words what holds, or why nothing does.
pub fn enter<'p>(
    named: impl Iterator<Item = &'p Path>,
    writable: &[PathBuf],
    for_sockets: &[PathBuf],
) -> Result<String, String> {
    let sockets: BTreeSet<PathBuf> = for_sockets.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let named: BTreeSet<PathBuf> = named.flat_map(folders).collect();
    let writable: BTreeSet<PathBuf> = writable.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let of_links = LOOKUP_FILES.iter().flat_map(|file| folders(Path::new(file)));
    let lookup: BTreeSet<PathBuf> =
        LOOKUP.iter().filter_map(|path| Path::new(path).canonicalize().ok()).chain(of_links).collect();
    let readable = named.iter().chain(&lookup).chain(&writable).filter_map(|folder| id(folder)).collect();
    let for_sockets = sockets.iter().chain(&writable).filter_map(|folder| id(folder)).collect();
    let status = restrict(&named, &lookup, &writable, &sockets).map_err(|error| {
        format!("not locked in: Landlock fails: {error}; every file of this user stays in reach")
    })?;
    let words = format!(
        "reads {}; of the system {}, {}; writes {}{}; runs no program",
        list(&outermost(&named)),
        list(&outermost(&lookup)),
        HOST.join(", "),
        if writable.is_empty() { "nothing".to_owned() } else { list(&outermost(&writable)) },
        if sockets.is_empty() {
            String::new()
        } else {
            format!("; sockets in {}", list(&outermost(&sockets)))
        },
    );
    let words = match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => format!("locked in: {words}"),
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            format!(
                "locked in, as far as version {} of Landlock can (all of it needs Linux 6.10): {words}",
                effective_abi as i32
            )
        }
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            return Ok("not locked in: Landlock is turned off in this kernel (`lsm=` at boot)".to_owned());
        }
        _ => {
            return Ok(
                "not locked in: this kernel has no Landlock (Linux 5.13), or a filter of system calls denies it"
                    .to_owned(),
            );
        }
    };
    READABLE.set(readable).map_err(|_| "locked in twice".to_owned())?;
    FOR_SOCKETS.set(for_sockets).map_err(|_| "locked in twice".to_owned())?;
    Ok(words)
}

/// The folder of a file, if this process has given up reading it.
pub fn outside(path: &Path) -> Option<PathBuf> {
    let readable = READABLE.get()?;
    let real = path.canonicalize().ok()?;
    let within = real.ancestors().any(|above| id(above).is_some_and(|id| readable.contains(&id)));
    (!within).then(|| if real.is_dir() { real } else { parent(&real) })
}

/// The folder of a socket, if this process has given up making sockets there.
pub fn outside_for_socket(path: &Path) -> Option<PathBuf> {
    let folders = FOR_SOCKETS.get()?;
    let real = parent(path).canonicalize().ok()?;
    let within = real.ancestors().any(|above| id(above).is_some_and(|id| folders.contains(&id)));
    (!within).then_some(real)
}

/// Why nothing in this folder can be read, or made, and the next step.
pub fn words(folder: &Path) -> String {
    format!(
        "its folder {} was not named, or not there, when this process started and locked itself in: that needs a restart",
        folder.display()
    )
}

/// The folders that systemd has made for this service to write to (`StateDirectory=`).
pub fn state_folders() -> Vec<PathBuf> {
    made_by_systemd("STATE_DIRECTORY")
}

/// The folders that systemd has made for the sockets of this service (`RuntimeDirectory=`).
pub fn runtime_folders() -> Vec<PathBuf> {
    made_by_systemd("RUNTIME_DIRECTORY")
}

fn made_by_systemd(variable: &str) -> Vec<PathBuf> {
    let all = std::env::var_os(variable).unwrap_or_default();
    std::env::split_paths(&all).filter(|path| path.is_absolute()).collect()
}

fn restrict(
    named: &BTreeSet<PathBuf>,
    lookup: &BTreeSet<PathBuf>,
    writable: &BTreeSet<PathBuf>,
    sockets: &BTreeSet<PathBuf>,
) -> Result<RestrictionStatus, RulesetError> {
    let list = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = list
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let host: BTreeSet<PathBuf> = HOST.iter().map(PathBuf::from).collect();
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(VERSION))?.create()?;
    let sock = AccessFs::MakeSock | AccessFs::RemoveFile;
    let granted: [(_, BitFlags<AccessFs>); 5] = [
        (named, list),
        (lookup, list),
        (&host, AccessFs::ReadFile.into()),
        (writable, write | AccessFs::MakeSock),
        (sockets, sock),
    ];
    for (paths, access) in granted {
        // What is not there cannot be read now, and is said to be outside later.
        for place in paths.iter().filter_map(|path| PathFd::new(path).ok()) {
            rules = rules.add_rule(PathBeneath::new(place, access))?;
        }
    }
    rules.restrict_self()
}

/// A folder itself; of a file the folder where it stands, and the one where it really lies.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    if path.is_dir() {
        return path.canonicalize().into_iter().collect();
    }
    let stands = parent(path).canonicalize();
    stands.into_iter().chain(path.canonicalize().map(|real| parent(&real))).collect()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned()
}

fn id(path: &Path) -> Option<Id> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The folders that lie in no other of them.
fn outermost(folders: &BTreeSet<PathBuf>) -> Vec<&Path> {
    let inner = |folder: &Path| folder.ancestors().skip(1).any(|above| folders.contains(above));
    folders.iter().map(PathBuf::as_path).filter(|folder| !inner(folder)).collect()
}

fn list(folders: &[&Path]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use super::*;

    /// Runs `test` locked in, and `beside` at the same time as it was: Landlock holds for a thread and
    /// those that it starts.
    fn locked_in(named: &[&Path], writable: &[PathBuf], test: impl FnOnce() + Send, beside: impl FnOnce()) {
        let set = |paths: &[&Path]| paths.iter().flat_map(|path| folders(path)).collect::<BTreeSet<_>>();
        let (named, writable) = (set(named), writable.iter().cloned().collect());
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let sockets = BTreeSet::new();
                let status = restrict(&named, &set(&[Path::new("/etc")]), &writable, &sockets).unwrap();
                if status.ruleset == RulesetStatus::NotEnforced {
                    assert!(std::env::var_os("CI").is_none(), "Landlock is needed in CI");
                    return eprintln!("skipped: this kernel has no Landlock");
                }
                test();
            });
            beside();
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    #[test]
    fn only_the_named_folders_can_be_read_and_nothing_can_be_written_or_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["in", "out"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("file"), name).unwrap();
        }
        let denied = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
        };
        locked_in(
            &[&path("in/file")],
            &[],
            || {
                assert_eq!(fs::read_to_string(path("in/file")).unwrap(), "in");
                assert!(!fs::read_to_string("/proc/sys/kernel/hostname").unwrap().is_empty());
                denied(fs::read(path("out/file")).map(drop));
                denied(fs::read_dir(folder.path()).map(drop));
                denied(fs::write(path("in/file"), "changed"));
                denied(fs::write(path("in/new"), "new"));
                denied(fs::remove_file(path("in/file")));
                denied(std::process::Command::new("/bin/true").status().map(drop));
                denied(fs::read("/proc/1/environ").map(drop));
            },
            || (),
        );
    }

    #[test]
    fn a_file_that_takes_the_place_of_another_can_be_read_also_behind_links() {
        use std::sync::mpsc::channel;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(to, path("link")).unwrap();
            fs::rename(path("link"), path(at)).unwrap();
        };
        let put = |at: &str, words: &str| {
            fs::create_dir_all(path(at).parent().unwrap()).unwrap();
            fs::write(path("new"), words).unwrap();
            fs::rename(path("new"), path(at)).unwrap();
        };
        // As Kubernetes mounts a secret, as ACME clients keep certificates, and a plain file.
        put("mount/..1/key", "one");
        link("..1", "mount/..data");
        link("..data/key", "mount/key");
        put("archive/key1", "one");
        fs::create_dir(path("live")).unwrap();
        link("../archive/key1", "live/key");
        put("plain/key", "one");
        let files = ["mount/key", "live/key", "plain/key"].map(path);
        let read = || files.each_ref().map(|file| fs::read_to_string(file).unwrap_or_default());
        let (changed, changes) = channel();
        let (seen, sees) = channel();
        locked_in(
            &files.each_ref().map(PathBuf::as_path),
            &[],
            move || {
                assert_eq!(read(), ["one"; 3]);
                seen.send(()).unwrap();
                changes.recv().unwrap();
                assert_eq!(read(), ["two"; 3]);
            },
            || {
                if sees.recv().is_ok() {
                    put("mount/..2/key", "two");
                    link("..2", "mount/..data");
                    put("archive/key2", "two");
                    link("../archive/key2", "live/key");
                    put("plain/key", "two");
                    changed.send(()).unwrap();
                }
            },
        );
    }

    #[test]
    fn a_folder_for_state_can_be_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().canonicalize().unwrap();
        locked_in(
            &[],
            std::slice::from_ref(&state),
            || {
                fs::create_dir(state.join("sub")).unwrap();
                fs::write(state.join("new"), "one").unwrap();
                fs::rename(state.join("new"), state.join("sub/file")).unwrap();
                fs::write(state.join("sub/file"), "two").unwrap();
                assert_eq!(fs::read_to_string(state.join("sub/file")).unwrap(), "two");
                fs::remove_dir_all(state.join("sub")).unwrap();
            },
            || (),
        );
    }

    #[test]
    fn folders_within_others_are_not_named_twice() {
        let all = ["/a", "/a/b", "/ab", "/c/d"].map(PathBuf::from).into_iter().collect();
        assert_eq!(list(&outermost(&all)), "/a, /ab, /c/d");
    }
}
