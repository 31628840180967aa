//! The socket of the local Redis, and the queue of bytes to write to it.
//!
//! This file does not know the link. It returns the result of each read and write, and the relay
//! passes it to the link. The two directions end separately: `ended` is for reading, `deaf` and
//! `shut` are for writing.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer::Chunk;
use crate::gathering::Gathering;

/// Most chunks between the tap and Redis; the rest stays with the link.
const MAX_QUEUED: usize = 4;

/// Interval at which a socket that is not being read is checked for its end.
const WATCH: Duration = Duration::from_millis(500);

/// Bytes for Redis, and the number of carried bytes that they stand for.
struct Outgoing {
    chunk: Chunk,
    carried: u64,
}

/// The local Redis.
pub(super) struct RedisSocket {
    stream: TcpStream,
    gathering: Gathering,
    /// Number of bytes that the next read may find.
    expected: usize,
    queue: VecDeque<Outgoing>,
    /// Whether Redis has closed its writing half, or the connection has failed.
    ended: bool,
    /// Whether a write has failed. Queued bytes are dropped then.
    deaf: bool,
    /// Whether the writing half towards Redis is closed; only for a passthrough.
    shut: bool,
    /// Since when the socket has not been read for lack of room.
    unread: Option<Instant>,
}

/// The result of a read.
pub(super) enum Read {
    /// There is nothing to read now.
    Nothing,
    /// These bytes.
    Bytes(Chunk),
    /// Redis has closed, or the connection failed. There is no further read.
    Ended(io::Result<()>),
}

/// The result of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// The queue is empty, or Redis accepts nothing now.
    Nothing,
    /// This many bytes were written.
    Bytes(usize),
    /// A chunk that stands for this many carried bytes was written, or dropped.
    Done(u64),
    /// The connection failed. The next calls drop the queued bytes.
    Failed,
}

impl RedisSocket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            gathering: Gathering::new(Instant::now()),
            expected: 0,
            queue: VecDeque::new(),
            ended: false,
            deaf: false,
            shut: false,
            unread: None,
        }
    }

    /// Whether the queue accepts more from the link. The tap's replies are always queued.
    pub(super) fn has_space(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    pub(super) fn push(&mut self, chunk: Chunk, carried: u64) {
        self.queue.push_back(Outgoing { chunk, carried });
    }

    /// Drops the queued bytes.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Writes once. The caller repeats it until the result is [`Write::Nothing`].
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Write {
        let Some(front) = self.queue.front_mut() else { return Write::Nothing };
        if front.chunk.is_empty() || self.deaf {
            let carried = front.carried;
            self.queue.pop_front();
            return Write::Done(carried);
        }
        match Pin::new(&mut self.stream).poll_write(cx, front.chunk.bytes()) {
            Poll::Pending => Write::Nothing,
            Poll::Ready(Ok(count)) => {
                front.chunk.consume(count);
                Write::Bytes(count)
            }
            Poll::Ready(Err(_)) => {
                self.deaf = true;
                Write::Failed
            }
        }
    }

    /// Closes the writing half once, if nothing is queued. Returns whether it did.
    pub(super) fn shut_if_empty(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shut || !self.queue.is_empty() {
            return false;
        }
        self.shut = true;
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        true
    }

    /// Whether nothing more comes from Redis.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads once, at most `limit` bytes, which is not zero.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, limit: usize, now: Instant) -> Read {
        self.unread = None;
        let mut chunk = Chunk::borrowed(self.expected.min(limit));
        let spare = chunk.spare();
        let limit = spare.len().min(limit);
        let mut space = ReadBuf::new(&mut spare[..limit]);
        let read = self.gathering.poll_read(cx, &mut self.stream, &mut space, now);
        let count = space.filled().len();
        match read {
            Poll::Pending => Read::Nothing,
            Poll::Ready(Ok(())) if count > 0 => {
                // A little more than last time, so that a socket that has more to give gets larger
                // buffers.
                self.expected = count + count / 8;
                chunk.filled(count);
                Read::Bytes(chunk)
            }
            Poll::Ready(closed) => {
                self.ended = true;
                Read::Ended(closed)
            }
        }
    }

    /// Replaces a read while there is no room for one. Returns whether Redis is gone, which it
    /// checks every [`WATCH`]. A close counts only with `until_closed`; otherwise the last bytes
    /// must still be read, and only an error counts.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>, until_closed: bool, now: Instant) -> bool {
        let since = *self.unread.get_or_insert(now);
        if now < since + WATCH {
            return false;
        }
        self.unread = Some(now);
        let failed = !matches!(self.stream.take_error(), Ok(None));
        let gone = failed || until_closed && self.is_closed(cx);
        self.ended |= gone;
        gone
    }

    /// Whether Redis is known to be gone, whatever it has sent before that.
    pub(super) fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        // The runtime may not have reported it yet.
        let mut next = [std::mem::MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&self.stream).peek(&mut next);
        let silent = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let ended = matches!(&peeked, Ok(0)) || peeked.is_err_and(|error| !silent(&error));
        let gone = ended || self.is_closed(cx);
        self.ended |= gone;
        gone
    }

    /// Whether the runtime has reported that Redis has closed.
    fn is_closed(&self, cx: &mut Context<'_>) -> bool {
        match pin!(self.stream.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Whether the kernel holds bytes, or an end of file, that were not read yet.
    pub(super) fn has_unread(&self) -> bool {
        let peeked = socket2::SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
        // An error still has to be read, too.
        peeked.map_or_else(|error| error.kind() != io::ErrorKind::WouldBlock, |_| true)
    }

    /// Lets the socket gather bytes, or no longer.
    pub(super) fn gather(&mut self, bulk: bool) {
        self.gathering.allow(bulk);
    }

    /// When [`RedisSocket::poll_read`] must be called again, though nothing may have come.
    pub(super) fn gathered_by(&self) -> Option<Instant> {
        self.gathering.due()
    }

    /// Ends the watch: there is nothing to read any more.
    pub(super) fn stop_watch(&mut self) {
        self.unread = None;
    }

    /// When [`RedisSocket::watch`] checks next.
    pub(super) fn watch_at(&self) -> Option<Instant> {
        self.unread.map(|since| since + WATCH)
    }

    /// Closes the writing half and waits until Redis has read everything and closed.
    /// Dropping a socket on which bytes wait unread, or to which more are sent afterwards,
    /// resets it, and a reset takes back what the other end has not read.
    pub(super) async fn read_to_its_end(mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut rest = vec![0; 4096];
        while self.stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (RedisSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, redis) = tokio::join!(TcpStream::connect(address), listener.accept());
        (RedisSocket::new(ours.unwrap()), redis.unwrap().0)
    }

    /// The next thing that comes of reading.
    async fn read(socket: &mut RedisSocket, limit: usize) -> Read {
        poll_fn(|cx| match socket.poll_read(cx, limit, Instant::now()) {
            Read::Nothing => Poll::Pending,
            read => Poll::Ready(read),
        })
        .await
    }

    /// The next thing that comes of writing.
    async fn write(socket: &mut RedisSocket) -> Write {
        poll_fn(|cx| match socket.poll_write(cx) {
            Write::Nothing if !socket.queue.is_empty() => Poll::Pending,
            write => Poll::Ready(write),
        })
        .await
    }

    fn reset(redis: TcpStream) {
        socket2::SockRef::from(&redis).set_linger(Some(Duration::ZERO)).unwrap();
    }

    #[tokio::test]
    async fn a_chunk_counts_as_carried_once_it_is_written_whole() {
        let (mut socket, mut redis) = pair().await;
        socket.push(Chunk::copied(b"+PONG\r\n"), 3);
        socket.push(Chunk::copied(b""), 0);
        let written = [write(&mut socket).await, write(&mut socket).await, write(&mut socket).await];
        assert_eq!(written, [Write::Bytes(7), Write::Done(3), Write::Done(0)]);
        assert_eq!(write(&mut socket).await, Write::Nothing);
        let mut said = [0; 7];
        redis.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"+PONG\r\n");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_answers_go_in_all_the_same() {
        let (mut socket, _redis) = pair().await;
        (0..MAX_QUEUED).for_each(|_| socket.push(Chunk::copied(b"x"), 1));
        assert!(!socket.has_space());
        socket.push(Chunk::copied(b"answer"), 0);
        assert_eq!(socket.queue.len(), MAX_QUEUED + 1);
        socket.clear();
        assert!(socket.has_space());
    }

    #[tokio::test]
    async fn what_a_broken_redis_cannot_take_is_dropped_and_counts_as_carried() {
        let (mut socket, redis) = pair().await;
        reset(redis);
        assert!(matches!(read(&mut socket, 1).await, Read::Ended(Err(_))));
        socket.push(Chunk::copied(b"one"), 1);
        socket.push(Chunk::copied(b"two"), 2);
        assert_eq!(write(&mut socket).await, Write::Failed);
        assert_eq!([write(&mut socket).await, write(&mut socket).await], [Write::Done(1), Write::Done(2)]);
    }

    #[tokio::test]
    async fn a_read_keeps_to_its_limit_and_its_end_is_remembered() {
        let (mut socket, mut redis) = pair().await;
        redis.write_all(b"PING\r\n").await.unwrap();
        drop(redis);
        for expected in [&b"PING"[..], b"\r\n"] {
            let Read::Bytes(chunk) = read(&mut socket, 4).await else { panic!("bytes were sent") };
            assert_eq!(chunk.bytes(), expected);
        }
        assert!(!socket.has_ended());
        assert!(matches!(read(&mut socket, 4).await, Read::Ended(Ok(()))));
        assert!(socket.has_ended());
    }

    #[tokio::test]
    async fn the_writing_half_is_closed_once_and_only_behind_the_queue() {
        let (mut socket, mut redis) = pair().await;
        socket.push(Chunk::copied(b"bye"), 3);
        assert!(!poll_fn(|cx| Poll::Ready(socket.shut_if_empty(cx))).await);
        while write(&mut socket).await != Write::Nothing {}
        assert!(poll_fn(|cx| Poll::Ready(socket.shut_if_empty(cx))).await);
        assert!(!poll_fn(|cx| Poll::Ready(socket.shut_if_empty(cx))).await);
        let mut said = Vec::new();
        redis.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"bye");
    }

    #[tokio::test]
    async fn an_unread_socket_that_closes_is_found_only_where_a_close_counts() {
        let (mut socket, redis) = pair().await;
        let start = Instant::now();
        assert!(!poll_fn(|cx| Poll::Ready(socket.watch(cx, true, start))).await);
        assert_eq!(socket.watch_at(), Some(start + WATCH));
        drop(redis);
        // The runtime detects the close some time after the drop.
        let closed = socket.stream.ready(Interest::READABLE).await.unwrap();
        assert!(closed.is_read_closed());
        assert!(!poll_fn(|cx| Poll::Ready(socket.watch(cx, true, start + WATCH / 2))).await);
        assert!(!poll_fn(|cx| Poll::Ready(socket.watch(cx, false, start + WATCH))).await);
        assert!(!socket.has_ended());
        assert!(poll_fn(|cx| Poll::Ready(socket.watch(cx, true, start + 2 * WATCH))).await);
        assert!(socket.has_ended());
    }

    #[tokio::test]
    async fn an_unread_socket_that_fails_is_found_in_any_case() {
        let (mut socket, redis) = pair().await;
        let start = Instant::now();
        assert!(!poll_fn(|cx| Poll::Ready(socket.watch(cx, false, start))).await);
        reset(redis);
        let _ = socket.stream.ready(Interest::READABLE).await;
        assert!(poll_fn(|cx| Poll::Ready(socket.watch(cx, false, start + WATCH))).await);
    }
}
