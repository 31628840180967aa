//! Unix sockets that have a file: binding, and what becomes of the file.
//!
//! The file of a process that is gone stays behind: it is replaced if nobody listens there. A file that is
//! no socket, and the socket of a process that runs, are left alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use super::Accept;

/// Who may connect: the gateway's user and its group.
const MODE: u32 = 0o660;

/// Most connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

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

/// The file of a socket. It is removed when this is dropped, unless another file has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that stays behind is replaced by the next start.
        if id(&self.path).is_ok_and(|now| now == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a socket that does not block. The error says why not, and what to do.
pub fn bind(path: &Path) -> Result<Bound, String> {
    if find(path)? == Found::Stale {
        fs::remove_file(path).map_err(|error| format!("the socket of a process that is gone: {error}"))?;
    }
    listen(path).map_err(|error| format!("{error}{}", hint(&error, path)))
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
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder(path).is_dir() => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(format!("{error}{}", hint(&error, path))),
    };
    if !there.is_socket() {
        return Err("a file that is no socket is there; remove it, or write another path".to_owned());
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("{error}; a socket of another user is there"))
        }
        // A full queue of connections (EAGAIN) has somebody who listens, too.
        Ok(()) | Err(_) => {
            Err("another process listens there; is another gateway running? This tells: ss -lxp".to_owned())
        }
    }
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn listen(path: &Path) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // The file gets this mode, less the umask, at its birth: at no moment may more users connect.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), id: id(path)? };
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok(Bound { file, socket: socket.into() })
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
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
