//! Unix sockets that have a file: binding, and what becomes of the file.
//!
//! The file of a process that is gone stays behind: it is replaced if nobody listens there. A file that is
//! no socket, and the socket of a process that runs, are left alone, also if two processes start at once.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Access, CWD, FileType, Mode, OFlags, RenameFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use super::Accept;

/// Who may connect: the gateway's user and its group.
const MODE: u32 = 0o660;

/// Most connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why a socket of another process is left alone.
const TAKEN: &str = "another process listens there; is another gateway running? This tells: ss -lxp";

/// A socket that is bound and accepts nothing yet. Dropping it removes its file.
#[derive(Debug)]
pub struct Bound {
    // It goes first: as long as the socket is open, no other file gets its id.
    file: SocketFile,
    socket: UnixListener,
}

/// A socket that accepts. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    // As in `Bound`.
    _file: SocketFile,
    socket: tokio::net::UnixListener,
}

impl Bound {
    /// Its file, to be looked at.
    pub fn place(&self) -> Place {
        self.file.0.clone()
    }

    /// The socket, watched by the runtime that runs this.
    pub fn accepting(self) -> io::Result<Listener> {
        let Self { file, socket } = self;
        Ok(Listener { _file: file, socket: tokio::net::UnixListener::from_std(socket)? })
    }
}

impl Accept for Listener {
    type Socket = UnixStream;
    type From = ();

    async fn next(&self) -> io::Result<(UnixStream, ())> {
        Ok((self.socket.accept().await?.0, ()))
    }
}

/// Where a socket's file is, and which file that is.
#[derive(Clone, Debug)]
pub struct Place {
    path: Arc<Path>,
    id: (u64, u64),
}

impl Place {
    /// Whether the file is still there. Without it nobody can connect. The answer is right as long as the socket
    /// is open: a later file may get the id of one that is gone.
    pub fn is_there(&self) -> bool {
        id(&self.path).is_ok_and(|now| now == self.id)
    }
}

/// The file of a socket. It is removed when this is dropped, unless another file has taken its place.
#[derive(Debug)]
struct SocketFile(Place);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that stays behind is replaced by the next start.
        if self.0.is_there() {
            let _ = fs::remove_file(&self.0.path);
        }
    }
}

/// Binds a socket that does not block. The error says why not, and what to do.
pub fn bind(path: &Path) -> Result<Bound, String> {
    if find(path)? == Found::Stale {
        clear(path)?;
    }
    listen(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => TAKEN.to_owned(),
        _ => format!("{error}{}", hint(&error, path)),
    })
}

/// Removes the socket of a process that is gone. Another process may have put a living one in its place since
/// that was found: so it is moved aside, looked at there, and put back if somebody listens.
fn clear(path: &Path) -> Result<(), String> {
    let fault = |error: io::Error| format!("the socket of a process that is gone: {error}");
    let aside = aside(path);
    match rename(path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
    }
    match find(&aside) {
        Ok(Found::Stale) => fs::remove_file(&aside).map_err(fault),
        Ok(Found::Nothing) => Ok(()),
        Err(why) => Err(match rename(&aside, path) {
            Ok(()) => why,
            Err(error) => format!("{why}; its file is {} now: {error}", aside.display()),
        }),
    }
}

/// A name beside the path that no other process takes.
fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    // As much of it as leaves room in an address.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(16).collect();
    path.with_file_name(format!(".{name}.{}.{}", std::process::id(), now.as_nanos()))
}

/// Renames, and replaces nothing where the file system can promise that.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// Whether [`bind`] would succeed, as far as that can be told without doing it.
pub fn may_bind(path: &Path) -> Result<(), String> {
    find(path)?;
    rustix::fs::access(folder(path), Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        let error = io::Error::from(error);
        format!("{error}{}", hint(&error, path))
    })
}

/// What is at the path of a socket that can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// The socket of a process that is gone.
    Stale,
}

fn find(path: &Path) -> Result<Found, String> {
    let there = match open(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_folder(path) => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(format!("{error}{}", hint(&error, path))),
    };
    if !is_socket(&there).map_err(|error| error.to_string())? {
        return Err("a file that is no socket is there; remove it, or write another path".to_owned());
    }
    match connect(&there) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("{error}; a socket of another user is there"))
        }
        // A full queue of connections (EAGAIN) has somebody who listens, too.
        Ok(()) | Err(_) => Err(TAKEN.to_owned()),
    }
}

/// The file itself, whatever it is: neither opened for its contents, nor followed if it is a link.
fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn is_socket(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Socket)
}

/// The path of a file that is open: it leads to no other, and fits into the address of a socket.
fn path_of(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn connect(file: &OwnedFd) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path_of(file))?)
}

/// The socket is born beside its path and moved there once it listens: so nobody finds it stale, and its id
/// and its mode are its own, whatever others do at the path.
fn listen(path: &Path) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // The file gets this mode, less the umask, at its birth: at no moment may more users connect.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    let birth = aside(path);
    let whole = open(folder(path))?;
    // One that is too long for an address is reached through its folder.
    let address = SockAddr::unix(&birth)
        .or_else(|_| SockAddr::unix(path_of(&whole).join(birth.file_name().unwrap_or_default())))?;
    socket.bind(&address)?;
    let mut file = SocketFile(Place { id: id(&birth)?, path: birth.as_path().into() });
    fs::set_permissions(&birth, fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    rename(&birth, path)?;
    file.0.path = path.into();
    Ok(Bound { file, socket: socket.into() })
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
}

/// Whether the folder of a socket is there.
pub fn has_folder(path: &Path) -> bool {
    folder(path).is_dir()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

fn hint(error: &io::Error, path: &Path) -> String {
    let folder = folder(path).display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!(
                "; the folder {folder} must be there: mkdir it, or RuntimeDirectory= in the unit of systemd"
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("; the gateway's user must be able to make files in {folder}")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        (folder, path)
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let (_folder, path) = place();
        assert_eq!(may_bind(&path), Ok(()));
        let bound = bind(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, MODE);
        UnixStream::connect(&path).unwrap();
        bound.socket.accept().unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_what_a_living_one_has_is_not() {
        let (_folder, path) = place();
        let living = bind(&path).unwrap();
        for refused in [may_bind(&path), bind(&path).map(|_| ())] {
            assert!(refused.unwrap_err().contains("another process listens there"));
        }
        assert!(path.exists());
        drop(living);
        // This one leaves its file behind, as a killed process does.
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(may_bind(&path), Ok(()));
        assert!(path.exists(), "to look changes nothing");
        let _bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn of_two_that_start_at_once_over_a_stale_socket_one_has_it() {
        for _ in 0..300 {
            let (folder, path) = place();
            drop(UnixListener::bind(&path).unwrap());
            let together = std::sync::Barrier::new(2);
            let try_it = || {
                together.wait();
                bind(&path)
            };
            let bound: Vec<Bound> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..2).map(|_| scope.spawn(try_it)).collect();
                all.into_iter().filter_map(|one| one.join().unwrap().ok()).collect()
            });
            assert_eq!(bound.len(), 1);
            assert!(bound[0].place().is_there(), "nobody has taken it away");
            drop(bound);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_living_socket_that_was_found_stale_a_moment_ago_is_put_back() {
        let (folder, path) = place();
        let living = bind(&path).unwrap();
        assert_eq!(clear(&path), Err(TAKEN.to_owned()));
        assert!(living.place().is_there());
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_of_the_greatest_length_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let rest = 107 - folder.path().as_os_str().len() - 1;
        let path = folder.path().join("s".repeat(rest));
        let bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(bind(&path).is_err() && bound.place().is_there());
    }

    #[test]
    fn a_file_that_is_gone_or_another_one_is_not_there() {
        let (_folder, path) = place();
        let bound = bind(&path).unwrap();
        assert!(bound.place().is_there());
        fs::remove_file(&path).unwrap();
        assert!(!bound.place().is_there());
        let anew = bind(&path).unwrap();
        assert!(anew.place().is_there() && !bound.place().is_there());
        drop(bound);
        assert!(anew.place().is_there());
    }

    #[test]
    fn only_a_socket_is_taken_away() {
        let (_folder, path) = place();
        fs::write(&path, "precious").unwrap();
        assert!(bind(&path).unwrap_err().contains("no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        // Whatever has taken the place of the socket's file meanwhile stays.
        let bound = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(bound);
        assert!(path.exists());
        assert!(bind(&path.join("in/a/folder")).unwrap_err().contains("must be"));
    }
}
