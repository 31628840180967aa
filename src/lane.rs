//! One TLS connection between two gateways, carrying frames.
//!
//! Owns the socket, the TLS records and the frame decoder, and nothing of what
//! the frames mean. Buffers are borrowed while bytes are in them and given back
//! once it is drained.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer;
use crate::tls::ALPN;
use crate::tls::diagnostics::{self, Class};
use crate::tls::material::Dial;
use crate::tls::record::{Records, sealed_length};
use crate::wire::frame::{Decoder, Frame, FrameError, Item};
use crate::x509::Certificate;

/// The largest frame that is sealed at once.
const MAX_FRAME: usize = buffer::HEADROOM + buffer::PAYLOAD;

/// Bytes that a lane which shares a link leaves unsent in the kernel.
const UNSENT: u32 = 512 * 1024;

/// Bytes that may come before the first frame is whole.
const MAX_OPENING: usize = 64 * 1024;

/// Bytes of one read of what a far side still sends while its lane is closed.
const REST: usize = 4 * 1024;

/// How a lane failed.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The socket.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// TLS, in the operator's words.
    #[error("{words}")]
    Tls {
        /// What kind of failure it is.
        class: Class,
        /// What is wrong.
        words: String,
    },
    /// Bytes that are no frame of this protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The far end closed the connection.
    #[error("the far side closed the connection")]
    Closed,
    /// A frame that does not open a lane.
    #[error("the far side answered with a frame that does not belong here")]
    Unexpected,
}

impl LaneError {
    /// A failure of TLS in the words that suit this gateway's certificate, `ours`.
    fn handshake(error: &rustls::Error, ours: &Certificate) -> Self {
        Self::Tls { class: Class::of(error), words: diagnostics::handshake(error, ours) }
    }

    /// A failure of TLS in its own words.
    fn tls(error: &impl std::fmt::Display) -> Self {
        Self::Tls { class: Class::Other, words: error.to_string() }
    }
}

/// A connection on which frames go both ways.
pub struct Lane {
    socket: TcpStream,
    peer: SocketAddr,
    records: Records,
    decoder: Decoder,
    leaf: Certificate,
    /// Opened and not yet decoded: what came together with the opening frames.
    early: Vec<u8>,
    /// Sealed and not yet sent: `out[sent..used]`.
    out: Vec<u8>,
    sent: usize,
    used: usize,
}

impl Lane {
    /// Shakes hands as the dialler. No deadline of its own; cancelling it closes
    /// the socket. `ours` is this gateway's certificate, to explain a refusal.
    pub async fn dial(socket: TcpStream, dial: &Dial, ours: &Certificate) -> Result<Self, LaneError> {
        let records = Records::client(Arc::clone(&dial.config), dial.name.clone())
            .map_err(|error| LaneError::tls(&error))?;
        Self::open(socket, records, ours).await
    }

    /// Shakes hands as the acceptor; otherwise as [`Lane::dial`].
    pub async fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        ours: &Certificate,
    ) -> Result<Self, LaneError> {
        let records = Records::server(config).map_err(|error| LaneError::tls(&error))?;
        Self::open(socket, records, ours).await
    }

    async fn open(
        mut socket: TcpStream,
        mut records: Records,
        ours: &Certificate,
    ) -> Result<Self, LaneError> {
        let peer = socket.peer_addr()?;
        loop {
            let mut out = Vec::new();
            let done = records.handshake(&mut out);
            if !out.is_empty() {
                let written = socket.write_all(&out).await;
                // An alert that cannot be delivered must not hide its reason.
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
            // A silent stranger costs no buffer.
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
        let leaf = records
            .peer_certificates()
            .first()
            .ok_or_else(|| LaneError::tls(&"the far side showed no certificate"))?;
        let leaf = Certificate::read(leaf).map_err(|error| LaneError::tls(&error))?;
        Ok(Self {
            socket,
            peer,
            records,
            decoder: Decoder::default(),
            leaf,
            early: Vec::new(),
            out: Vec::new(),
            sent: 0,
            used: 0,
        })
    }

    /// The far end's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The far gateway's certificate, verified.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// Sends one opening frame and waits until the kernel has it. Takes no large buffer.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), LaneError> {
        let frame = frame.encode();
        self.make_room(sealed_length(frame.len()));
        self.seal(&frame)?;
        std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
        Ok(())
    }

    /// The next opening frame. Whatever came behind it is kept for
    /// [`Lane::poll_read`]. `ours` is this gateway's certificate, to explain a
    /// refusal: under TLS 1.3 the dialler hears only now that its own was refused.
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
            // A silent far side costs no more than it has sent.
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

    /// Reads once, at most `most` bytes, and gives every frame that is whole, and every
    /// piece of data, to `sink`. `Pending` means that the socket was read empty.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
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
        let read = Pin::new(&mut self.socket).poll_read(cx, &mut space);
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

    /// One of several lanes of a link: keeps little unsent in the kernel, so that
    /// what a stalled lane holds up is little. Where that is refused, nothing is lost.
    pub fn share(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_tcp_notsent_lowat(UNSENT);
    }

    /// Whether a frame of any size may be pushed now.
    pub fn has_room(&self) -> bool {
        self.used + sealed_length(MAX_FRAME) <= buffer::STORAGE
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

    /// Hands what is sealed to the kernel; ready once nothing is left.
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

    /// Ends TLS in good order and closes; what was pushed is sent before. True if the
    /// far side has then closed as well. No deadline of its own. Waiting for the far side
    /// takes a descriptor and next to no memory.
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
        // Until the far side has closed: what it sends to a closed socket would be
        // answered by a reset, and that drops what it has not read yet.
        let mut rest = vec![0; REST];
        loop {
            match socket.read(&mut rest).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether the kernel holds bytes, or an end, that were not read yet.
    pub fn has_unread(&self) -> bool {
        socket2::SockRef::from(&self.socket).peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok()
    }

    /// Closes by reset: what the kernel still holds is dropped on both sides.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Sees that `count` more bytes have room, in storage of their size.
    fn make_room(&mut self, count: usize) {
        if self.out.len() < self.used + count {
            self.out.resize(self.used + count, 0);
        }
    }

    /// Appends records that TLS itself wants sent.
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
