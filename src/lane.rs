//! One TLS connection between two gateways, which carries frames.
//!
//! The lane owns the socket, the TLS records and the frame decoder, and does not know what the
//! frames mean. Large buffers are borrowed only while bytes are in them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::bbr::{Order, Startup};
use crate::buffer::{self, Buffer};
use crate::current::Current;
use crate::gathering::Gathering;
use crate::socket_option;
use crate::tls::ALPN;
use crate::tls::diagnostics::{self, Class};
use crate::tls::handshake::{Handshake, Handshakes, Late};
use crate::tls::loaded::Loaded;
use crate::tls::material::Dial;
use crate::tls::record::{Records, sealed_length};
use crate::tls::verify::Role;
use crate::wire::frame::{Decoder, Frame, FrameError, Item};
use crate::x509::Certificate;

/// Largest frame that is sealed at once.
const MAX_FRAME: usize = buffer::HEADROOM + buffer::PAYLOAD;

/// Most unsent bytes that the kernel keeps for a lane that shares a link with others.
const UNSENT: u32 = 512 * 1024;

/// Most bytes that may come before the first frame is complete.
const MAX_OPENING: usize = 64 * 1024;

/// Size of the reads that discard what the far side still sends while its lane is closed.
const REST: usize = 4 * 1024;

/// Why a lane failed.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// TLS failed.
    #[error("{words}")]
    Tls {
        /// The kind of failure.
        class: Class,
        /// What is wrong, in the operator's words.
        words: String,
    },
    /// The bytes are not a frame of this protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The far side closed the connection.
    #[error("the far side closed the connection")]
    Closed,
    /// A frame came that does not belong to the opening of a lane.
    #[error("the far side sent an unexpected frame")]
    Unexpected,
}

impl LaneError {
    /// A failure of the TLS handshake, explained with this gateway's certificate, `ours`.
    fn handshake(error: &rustls::Error, ours: &Certificate) -> Self {
        Self::Tls { class: Class::of(error), words: diagnostics::handshake(error, ours) }
    }

    /// A failure of TLS in the library's words.
    fn tls(error: &impl std::fmt::Display) -> Self {
        Self::Tls { class: Class::Other, words: error.to_string() }
    }
}

/// A connection that carries frames in both directions.
pub struct Lane {
    socket: TcpStream,
    gathering: Gathering,
    /// The startup of its congestion control, if that is watched.
    startup: Option<Startup>,
    peer: SocketAddr,
    records: Records,
    decoder: Decoder,
    handshake: Arc<Handshake>,
    /// Decrypted bytes that are not decoded yet: they came together with the opening frames.
    early: Vec<u8>,
    /// Sealed bytes that are not sent yet: `out[sent..used]`.
    out: Buffer,
    sent: usize,
    used: usize,
}

impl Lane {
    /// Runs the TLS handshake as the dialler. There is no deadline; cancelling the future closes
    /// the socket. `ours` is this gateway's certificate, to explain a refusal.
    pub async fn dial(socket: TcpStream, dial: &Dial, ours: &Certificate) -> Result<Self, LaneError> {
        let records = Records::client(Arc::clone(&dial.config), dial.name.clone())
            .map_err(|error| LaneError::tls(&error))?;
        Self::open(socket, records, Role::Server, ours).await
    }

    /// Runs the TLS handshake as the acceptor; otherwise as [`Lane::dial`].
    pub async fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        ours: &Certificate,
    ) -> Result<Self, LaneError> {
        let records = Records::server(config).map_err(|error| LaneError::tls(&error))?;
        Self::open(socket, records, Role::Client, ours).await
    }

    async fn open(
        mut socket: TcpStream,
        mut records: Records,
        far: Role,
        ours: &Certificate,
    ) -> Result<Self, LaneError> {
        let peer = socket.peer_addr()?;
        loop {
            let mut out = Vec::new();
            let done = records.handshake(&mut out);
            if !out.is_empty() {
                let written = socket.write_all(&out).await;
                // If the alert cannot be sent, its reason must still be reported.
                if done.is_ok() {
                    written?;
                }
            }
            if done.is_err() && records.is_proxied() {
                return Err(LaneError::Tls { class: Class::NotTls, words: diagnostics::PROXY.to_owned() });
            }
            if done.map_err(|error| LaneError::handshake(&error, ours))? {
                break;
            }
            // A peer that sends nothing costs no buffer.
            socket.readable().await?;
            let count = socket.read(records.opening_spare()).await?;
            if count == 0 {
                return Err(LaneError::Closed);
            }
            records.filled(count);
        }
        if records.alpn() != Some(ALPN) {
            return Err(LaneError::tls(&"the far side does not offer the protocol replgate/1"));
        }
        let handshake =
            Handshake::new(far, records.peer_certificates()).map_err(|error| LaneError::tls(&error))?;
        Ok(Self {
            socket,
            gathering: Gathering::new(Instant::now()),
            startup: None,
            peer,
            records,
            decoder: Decoder::default(),
            handshake: Arc::new(handshake),
            early: Vec::new(),
            out: Buffer::default(),
            sent: 0,
            used: 0,
        })
    }

    /// The far side's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The far gateway's verified certificate.
    pub fn leaf(&self) -> &Certificate {
        self.handshake.leaf()
    }

    /// Counts it among the connections that are judged from now on. It was opened with the files `used`.
    pub fn enter(
        &mut self,
        handshakes: &Handshakes,
        used: &Arc<Loaded>,
        current: &Current<Loaded>,
    ) -> Result<(), LaneError> {
        let late = |Late { class, words }| LaneError::Tls { class, words };
        self.handshake = handshakes.enter(&self.handshake, used, current).map_err(late)?;
        Ok(())
    }

    /// The certificates that both sides have shown, which tell whether it may go on.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Sends one opening frame and waits until the kernel has taken it. Uses no large buffer.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), LaneError> {
        let frame = frame.encode();
        self.make_room(sealed_length(frame.len()));
        self.seal(&frame)?;
        std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
        Ok(())
    }

    /// Receives the next opening frame. Bytes after it are kept for [`Lane::poll_read`]. `ours` is
    /// this gateway's certificate, to explain a refusal: with TLS 1.3 the dialler learns only here
    /// that its certificate was refused.
    pub async fn receive(&mut self, ours: &Certificate) -> Result<Frame, LaneError> {
        let mut came = 0;
        loop {
            let mut input = &self.early[..];
            let item = self.decoder.next(&mut input)?;
            let used = self.early.len() - input.len();
            match item {
                Some(Item::Frame(frame)) => {
                    self.early.drain(..used);
                    return Ok(frame);
                }
                Some(Item::Data { .. }) => return Err(LaneError::Unexpected),
                None => self.early.clear(),
            }
            let mut answer = Vec::new();
            let opened = self.records.open(&mut answer, &mut |plain| self.early.extend_from_slice(plain));
            self.append(&answer);
            opened.map_err(|error| LaneError::handshake(&error, ours))?;
            if !self.early.is_empty() {
                continue;
            }
            // A far side that sends nothing costs no buffer.
            self.socket.readable().await?;
            let count = self.socket.read(self.records.opening_spare()).await?;
            if count == 0 {
                return Err(LaneError::Closed);
            }
            came += count;
            if came > MAX_OPENING {
                return Err(LaneError::Unexpected);
            }
            self.records.filled(count);
        }
    }

    /// Moves the socket to the runtime of the caller, which then watches it.
    pub fn moved_here(self) -> io::Result<Self> {
        let socket = TcpStream::from_std(self.socket.into_std()?)?;
        Ok(Self { socket, ..self })
    }

    /// Its connection, which stays open and is no lane any more.
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Reads once, at most `most` bytes, and passes each whole frame and each piece of data to
    /// `sink`. `Pending` means that the socket has no more bytes now.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        now: Instant,
        sink: &mut dyn FnMut(Item<'_>),
    ) -> Poll<Result<(), LaneError>> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            decode(&mut self.decoder, &early, sink)?;
            return Poll::Ready(Ok(()));
        }
        let spare = self.records.spare();
        let most = most.min(spare.len());
        let mut space = ReadBuf::new(&mut spare[..most]);
        let read = self.gathering.poll_read(cx, &mut self.socket, &mut space, now);
        let count = space.filled().len();
        match read {
            Poll::Pending => {
                self.records.rest();
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) if count == 0 => return Poll::Ready(Err(LaneError::Closed)),
            Poll::Ready(Ok(())) => self.records.filled(count),
        }
        self.open_records(sink)
    }

    /// Lets the socket gather bytes, or no longer.
    pub fn gather(&mut self, bulk: bool) {
        self.gathering.allow(bulk);
    }

    /// When [`Lane::poll_read`] must be called again, though nothing may have been received.
    pub fn gathered_by(&self) -> Option<Instant> {
        self.gathering.due()
    }

    fn open_records(&mut self, sink: &mut dyn FnMut(Item<'_>)) -> Poll<Result<(), LaneError>> {
        let (mut answer, mut fault) = (Vec::new(), None);
        let decoder = &mut self.decoder;
        let opened = self.records.open(&mut answer, &mut |plain| {
            if fault.is_none() {
                fault = decode(decoder, plain, sink).err();
            }
        });
        self.append(&answer);
        opened.map_err(|error| LaneError::tls(&error))?;
        match fault {
            Some(fault) => Poll::Ready(Err(fault.into())),
            None if self.records.peer_closed() => Poll::Ready(Err(LaneError::Closed)),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The round trip of its connection as the kernel has smoothed it; `None` before it has seen one.
    pub fn round_trip(&self) -> Option<Duration> {
        socket_option::round_trip(&self.socket)
    }

    /// Marks this as one of several lanes of a link: the kernel then keeps little unsent data, so
    /// that a stalled lane delays little. If the option is refused, the lane works all the same.
    pub fn share(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_tcp_notsent_lowat(UNSENT);
    }

    /// The lane is the link's only one again: the kernel keeps as much as the system allows.
    pub fn share_no_more(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_tcp_notsent_lowat(0);
    }

    /// Watches the startup of bbr from now on.
    pub fn watch_startup(&mut self) {
        self.startup = Some(Startup::new(Instant::now()));
    }

    /// Leads bbr out of its startup if it needs that. Must be called while bytes are being sent.
    pub fn pace(&mut self, now: Instant) {
        let Some(startup) = self.startup.as_mut().filter(|startup| startup.is_due(now)) else { return };
        let order = startup.observe(socket_option::bbr(&self.socket), now);
        // If the option is refused, bbr stays as it is.
        let _ = match order {
            Some(Order::Limit(rate)) => socket_option::limit_pacing(&self.socket, Some(rate)),
            Some(Order::Lift) => socket_option::limit_pacing(&self.socket, None),
            None => Ok(()),
        };
    }

    /// Whether a frame of any size may be pushed now.
    pub fn has_room(&self) -> bool {
        self.used + sealed_length(MAX_FRAME) <= buffer::STORAGE
    }

    /// Bytes of storage of what is sealed and not sent yet.
    pub fn storage(&self) -> usize {
        self.out.len()
    }

    /// Seals a whole frame; [`Lane::has_room`] must hold.
    pub fn push(&mut self, frame: &[u8]) -> Result<(), LaneError> {
        if self.out.len() < buffer::STORAGE {
            let mut pooled = buffer::borrow();
            pooled[..self.used].copy_from_slice(&self.out[..self.used]);
            self.out = pooled;
        }
        self.seal(frame)
    }

    fn seal(&mut self, frame: &[u8]) -> Result<(), LaneError> {
        self.used =
            self.records.seal(frame, &mut self.out, self.used).map_err(|error| LaneError::tls(&error))?;
        Ok(())
    }

    /// Writes sealed bytes to the kernel; ready once none are left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.used {
            let rest = IoSlice::new(&self.out[self.sent..self.used]);
            match ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &[rest]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        if !self.out.is_empty() {
            buffer::give(std::mem::take(&mut self.out));
        }
        (self.sent, self.used) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Sends what was pushed, then close_notify, and closes. True if the far side has then closed
    /// as well. There is no deadline. Waiting for the far side takes a file descriptor and very
    /// little memory.
    pub async fn close(mut self) -> bool {
        if std::future::poll_fn(|cx| self.poll_flush(cx)).await.is_err() {
            return false;
        }
        let Self { mut socket, mut records, .. } = self;
        let mut alert = Vec::new();
        records.close(&mut alert);
        records.rest();
        drop(records);
        let _ = socket.write_all(&alert).await;
        let _ = socket.shutdown().await;
        // Read until the far side has closed. If it sent to a closed socket it would get a reset,
        // which discards what it has not read yet.
        let mut rest = vec![0; REST];
        loop {
            match socket.read(&mut rest).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether the kernel holds bytes, or an end of file, that were not read yet.
    pub fn has_unread(&self) -> bool {
        socket2::SockRef::from(&self.socket).peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok()
    }

    /// Closes with a reset: both sides discard what the kernel still holds.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Makes room for `count` more bytes, in storage of their size.
    fn make_room(&mut self, count: usize) {
        if self.out.len() < self.used + count {
            self.out.resize(self.used + count);
        }
    }

    /// Appends records that TLS itself sends.
    fn append(&mut self, records: &[u8]) {
        self.make_room(records.len());
        self.out[self.used..self.used + records.len()].copy_from_slice(records);
        self.used += records.len();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn decode(decoder: &mut Decoder, plain: &[u8], sink: &mut dyn FnMut(Item<'_>)) -> Result<(), FrameError> {
    let mut input = plain;
    while let Some(item) = decoder.next(&mut input)? {
        sink(item);
    }
    Ok(())
}
