//! The low-water mark of a socket, `SO_RCVLOWAT` in socket(7).
//!
//! This is the only file with `unsafe` code: neither std nor the libraries that this project uses
//! for sockets (`socket2`, `rustix`) offer the option, and nothing else lets the kernel wait for
//! many bytes before it wakes a task.
#![expect(unsafe_code, reason = "setsockopt(2) with an option that no library offers")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Makes a socket readable only once so many bytes can be read, or once it was closed or has
/// failed. If as many are there already, it is readable at once. The kernel takes at most half of
/// the largest receive buffer.
pub fn set(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let length = u32::try_from(size_of::<c_int>()).expect("an int is short");
    // SAFETY: the descriptor is open, since it is borrowed, and the kernel reads `length` bytes
    // from the address of a local int of that size.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            std::ptr::from_ref(&bytes).cast(),
            length,
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(socket: &TcpStream) -> bool {
        let mut one = [PollFd::new(socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut one, Some(&now)).unwrap() == 1
    }

    #[test]
    fn a_socket_is_readable_from_its_mark_on_or_once_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        set(&near, 1000).unwrap();
        far.write_all(&[0; 999]).unwrap();
        assert!(!is_readable(&near));
        far.write_all(&[0; 1]).unwrap();
        assert!(is_readable(&near));
        set(&near, 2000).unwrap();
        assert!(!is_readable(&near));
        set(&near, 1).unwrap();
        assert!(is_readable(&near));
        set(&near, 2000).unwrap();
        drop(far);
        assert!(is_readable(&near));
    }
}
