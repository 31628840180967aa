//! Options of a socket that no library offers: `SO_RCVLOWAT`, `SO_MAX_PACING_RATE`, and what the
//! kernel tells of a TCP connection.
//!
//! This is the only file with `unsafe` code: neither std nor the libraries that this project uses
//! for sockets (`socket2`, `rustix`) offer these options.
#![expect(unsafe_code, reason = "setsockopt(2) and getsockopt(2) with options that no library offers")]

use std::ffi::{c_int, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The length of `struct tcp_bbr_info`. Later versions of bbr, which tell more, have a longer one.
const BBR_INFO: usize = 20;

/// Where `struct tcp_info` has `tcpi_ca_state` and `tcpi_backoff`, and the state after a timeout.
const STATE: usize = 1;
const BACKOFF: usize = 4;
const STATE_LOSS: u8 = 4;

/// Where `struct tcp_info` has `tcpi_rtt`, in microseconds (Linux 2.6).
const ROUND_TRIP: usize = 68;

/// Where `struct tcp_info` has `tcpi_bytes_sent` and `tcpi_bytes_retrans` (Linux 4.19).
const SENT: usize = 200;
const RESENT: usize = 208;

/// What the kernel tells of a connection with bbr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bbr {
    /// Estimated bandwidth, in bytes a second.
    pub bandwidth: u64,
    /// Least round trip of the last seconds.
    pub round_trip: Duration,
    /// Rate of sending and bytes in flight, in 256ths of what the path is thought to carry.
    pub pacing_gain: u32,
    pub window_gain: u32,
    /// Payload that was sent so far, repeated bytes included, and how much of it was repeated.
    pub sent: u64,
    pub resent: u64,
    /// Whether a retransmission has timed out, and what was in flight then is not acknowledged yet.
    pub timed_out: bool,
}

/// Makes a socket readable only once so many bytes can be read, or once it was closed or has
/// failed. If as many are there already, it is readable at once. The kernel takes at most half of
/// the largest receive buffer.
pub fn set_low_water_mark(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes.to_ne_bytes())
}

/// Limits the rate at which a connection sends, in bytes a second; `None`: no longer.
pub fn limit_pacing(socket: &impl AsFd, rate: Option<u64>) -> io::Result<()> {
    let rate = rate.map_or(c_ulong::MAX, |rate| c_ulong::try_from(rate).unwrap_or(c_ulong::MAX));
    set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate.to_ne_bytes())
}

/// What the kernel tells of a connection; `None` if its congestion control is not bbr, or if the
/// kernel tells less than is needed.
pub fn bbr(socket: &impl AsFd) -> Option<Bbr> {
    let (mut bbr, mut tcp) = ([0; 64], [0; 256]);
    if get(socket, libc::IPPROTO_TCP, libc::TCP_CC_INFO, &mut bbr).ok()? != BBR_INFO
        || get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut tcp).ok()? < RESENT + size_of::<u64>()
    {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes(bbr[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_ne_bytes(tcp[at..at + 8].try_into().expect("eight bytes"));
    Some(Bbr {
        bandwidth: u64::from(word(0)) | u64::from(word(4)) << 32,
        round_trip: Duration::from_micros(word(8).into()),
        pacing_gain: word(12),
        window_gain: word(16),
        sent: long(SENT),
        resent: long(RESENT),
        timed_out: tcp[STATE] == STATE_LOSS || tcp[BACKOFF] > 0,
    })
}

/// The round trip of a TCP connection as the kernel has smoothed it; `None` before it has seen one.
pub fn round_trip(socket: &impl AsFd) -> Option<Duration> {
    let mut tcp = [0; ROUND_TRIP + size_of::<u32>()];
    if get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut tcp).ok()? < tcp.len() {
        return None;
    }
    let micros = u32::from_ne_bytes(tcp[ROUND_TRIP..].try_into().expect("four bytes"));
    (micros > 0).then(|| Duration::from_micros(micros.into()))
}

fn set(socket: &impl AsFd, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    let length = u32::try_from(value.len()).expect("an option is short");
    // SAFETY: the descriptor is open, since it is borrowed, and the kernel reads `length` bytes
    // from the start of a slice that is as long.
    let failed =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option and returns its length.
fn get(socket: &impl AsFd, level: c_int, option: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut length = u32::try_from(value.len()).expect("an option is short");
    // SAFETY: the descriptor is open, since it is borrowed, and the kernel writes at most `length`
    // bytes from the start of a slice that is as long, and to a local length.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if failed == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
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
        set_low_water_mark(&near, 1000).unwrap();
        far.write_all(&[0; 999]).unwrap();
        assert!(!is_readable(&near));
        far.write_all(&[0; 1]).unwrap();
        assert!(is_readable(&near));
        set_low_water_mark(&near, 2000).unwrap();
        assert!(!is_readable(&near));
        set_low_water_mark(&near, 1).unwrap();
        assert!(is_readable(&near));
        set_low_water_mark(&near, 2000).unwrap();
        drop(far);
        assert!(is_readable(&near));
    }

    /// A connection with the congestion control `name`; `None` where it is not available.
    fn pair(name: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        socket2::SockRef::from(&near).set_tcp_congestion(name.as_bytes()).ok()?;
        Some((near, far))
    }

    #[test]
    fn the_kernel_tells_what_bbr_has_sent_and_nothing_of_another_congestion_control() {
        let (near, _far) = pair("reno").expect("every kernel has reno");
        assert_eq!(bbr(&near), None);
        let Some((mut near, mut far)) = pair("bbr") else { return };
        assert_eq!(bbr(&near).unwrap().sent, 0);
        near.write_all(&[0; 100_000]).unwrap();
        far.read_exact(&mut [0; 100_000]).unwrap();
        let told = bbr(&near).unwrap();
        assert_eq!((told.sent - told.resent, told.timed_out), (100_000, false));
        assert!(told.pacing_gain > 512 && told.window_gain > 512, "{told:?}");
        assert!(told.round_trip < Duration::from_secs(1), "{told:?}");
    }

    #[test]
    fn the_round_trip_is_that_of_the_connection() {
        let (mut near, mut far) = pair("reno").expect("every kernel has reno");
        near.write_all(&[0; 1000]).unwrap();
        far.read_exact(&mut [0; 1000]).unwrap();
        let told = round_trip(&near).expect("the connection was opened, so the kernel has seen one");
        // The neighbouring fields are sizes, of tens of thousands, and times of the last packets.
        assert!(told < Duration::from_millis(20), "{told:?}");
        let apart = std::os::unix::net::UnixStream::pair().unwrap().0;
        assert_eq!(round_trip(&apart), None, "no TCP");
    }

    #[test]
    fn a_connection_sends_no_faster_than_its_limit_until_that_is_lifted() {
        let (mut near, mut far) = pair("reno").expect("every kernel has reno");
        let mut send = |bytes: usize| {
            let began = std::time::Instant::now();
            near.write_all(&vec![0; bytes]).unwrap();
            far.read_exact(&mut vec![0; bytes]).unwrap();
            (began.elapsed(), near.try_clone().unwrap())
        };
        let (_, near) = send(1);
        limit_pacing(&near, Some(1_000_000)).unwrap();
        // The first packets of a connection are not held back.
        let (took, _) = send(1_000_000);
        assert!(took > Duration::from_millis(400), "{took:?}");
        limit_pacing(&near, None).unwrap();
        let (took, _) = send(1_000_000);
        assert!(took < Duration::from_millis(400), "{took:?}");
    }
}
