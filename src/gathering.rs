//! Lets a busy socket gather bytes before it wakes its task.
//!
//! A sender that writes without pause, in pieces of some kilobytes, would wake its reader for each
//! of them; the wake-ups then cost more than the bytes. So the rate of a socket is measured, and
//! while about [`GATHER`] of it is worth a wake-up, the kernel is told to wait for as many bytes
//! (`SO_RCVLOWAT`, see socket(7)). A close or an error wakes the task at once all the same. If the
//! bytes do not come within [`PATIENCE`], the kernel wakes the task for the first byte again; it
//! does so at once if there are any (`tcp_set_rcvlowat` in Linux). A socket that carries little is
//! never delayed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::socket_option;

/// Time that the bytes of one wake-up may take to come at the measured rate.
const GATHER: Duration = Duration::from_millis(2);

/// Time after the last read at which the task is woken for whatever there is.
const PATIENCE: Duration = Duration::from_millis(3);

/// Least time over which the rate is measured.
const MEASURE: Duration = Duration::from_millis(1);

/// Least and most bytes that a wake-up waits for.
const MARKS: (usize, usize) = (32 * 1024, 256 * 1024);

/// Time without gathering after a wait that brought too few bytes; it doubles up to the second
/// figure with each such wait in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(8), Duration::from_secs(1));

/// The state of one socket.
#[derive(Debug)]
pub struct Gathering {
    /// The low-water mark that the kernel has. One means that the first byte wakes the task.
    mark: usize,
    /// Start of the measurement, and the bytes read since then.
    since: Instant,
    bytes: usize,
    /// When the task stops waiting for the mark.
    due: Option<Instant>,
    /// No gathering before this time.
    paused: Instant,
    backoff: Duration,
    allowed: bool,
}

impl Gathering {
    /// A socket that has carried nothing so far.
    pub fn new(now: Instant) -> Self {
        Self { mark: 1, since: now, bytes: 0, due: None, paused: now, backoff: BACKOFF.0, allowed: false }
    }

    /// Whether the bytes may wait for one another from now on.
    pub fn allow(&mut self, allowed: bool) {
        self.allowed = allowed;
    }

    /// Reads once, as the socket's own `poll_read`.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        space: &mut ReadBuf<'_>,
        now: Instant,
    ) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        let read = Pin::new(&mut *socket).poll_read(cx, space);
        let mark = match &read {
            Poll::Ready(Ok(())) => self.read(space.filled().len() - before, now),
            Poll::Ready(Err(_)) => self.mark,
            Poll::Pending => self.waited(now),
        };
        if mark != self.mark {
            // If the option is refused, the socket works all the same.
            self.mark = mark;
            let _ = socket_option::set_low_water_mark(&*socket, mark);
        }
        read
    }

    /// When [`Gathering::poll_read`] must be called again, though nothing may have woken the task.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The next mark after a read of `count` bytes.
    fn read(&mut self, count: usize, now: Instant) -> usize {
        self.bytes += count;
        if self.mark > 1 && count >= self.mark {
            self.backoff = BACKOFF.0;
        }
        let lasted = now - self.since;
        let mut mark = self.mark;
        if lasted >= MEASURE {
            let gathered = self.bytes as f64 * GATHER.as_secs_f64() / lasted.as_secs_f64();
            (self.since, self.bytes) = (now, 0);
            mark =
                if !self.allowed || now < self.paused { 1 } else { mark_for(gathered as usize, self.mark) };
        }
        self.due = (mark > 1).then(|| now + PATIENCE);
        mark
    }

    /// The next mark after a read that found less than the mark.
    fn waited(&mut self, now: Instant) -> usize {
        if self.due.is_none_or(|due| now < due) {
            return self.mark;
        }
        self.due = None;
        (self.since, self.bytes) = (now, 0);
        self.paused = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        1
    }
}

/// The mark for a socket on which so many bytes come within [`GATHER`]: a power of two, which is
/// left only for another that is clearly better.
fn mark_for(bytes: usize, now: usize) -> usize {
    if bytes < MARKS.0 {
        return 1;
    }
    let better = (1 << bytes.ilog2()).min(MARKS.1);
    if better * 2 == now && bytes >= now / 4 * 3 { now } else { better }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// The marks while a read of `count` bytes comes each millisecond, ten times.
    fn busy(socket: &mut Gathering, count: usize, now: &mut Instant) -> usize {
        for _ in 0..10 {
            *now += MILLISECOND;
            socket.mark = socket.read(count, *now);
        }
        socket.mark
    }

    fn allowed(now: Instant) -> Gathering {
        let mut socket = Gathering::new(now);
        socket.allow(true);
        socket
    }

    #[test]
    fn the_mark_follows_the_rate_of_the_socket() {
        let mut now = Instant::now();
        let mut socket = allowed(now);
        assert_eq!(busy(&mut socket, 10_000, &mut now), 1);
        assert_eq!(busy(&mut socket, 40_000, &mut now), 64 * 1024);
        assert_eq!(busy(&mut socket, 10_000_000, &mut now), MARKS.1);
        assert_eq!(busy(&mut socket, 100, &mut now), 1);
        assert_eq!(socket.due(), None);
    }

    #[test]
    fn a_rate_near_a_power_of_two_does_not_change_the_mark_each_time() {
        assert_eq!(
            [mark_for(70_000, 1), mark_for(60_000, 65_536), mark_for(40_000, 65_536)],
            [65_536, 65_536, 32_768]
        );
    }

    #[test]
    fn a_socket_that_may_not_gather_keeps_waking_for_the_first_byte() {
        let mut now = Instant::now();
        let mut socket = Gathering::new(now);
        assert_eq!(busy(&mut socket, 100_000, &mut now), 1);
        socket.allow(true);
        assert!(busy(&mut socket, 100_000, &mut now) > 1);
        socket.allow(false);
        assert_eq!((busy(&mut socket, 100_000, &mut now), socket.due()), (1, None));
    }

    #[test]
    fn a_wait_that_brings_too_little_ends_and_is_not_tried_again_at_once() {
        let mut now = Instant::now();
        let mut socket = allowed(now);
        let mark = busy(&mut socket, 100_000, &mut now);
        assert_eq!(socket.due(), Some(now + PATIENCE));
        assert_eq!(socket.waited(now + PATIENCE / 2), mark);
        now += PATIENCE;
        socket.mark = socket.waited(now);
        assert_eq!((socket.mark, socket.due()), (1, None));
        let paused = now + BACKOFF.0;
        while now + MILLISECOND < paused {
            now += MILLISECOND;
            assert_eq!(socket.read(100_000, now), 1);
        }
        assert!(busy(&mut socket, 100_000, &mut now) > 1);
    }
}
