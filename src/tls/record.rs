//! TLS records in buffers that the lane owns.
//!
//! `rustls` seals and opens every record. This module moves bytes between it and plain buffers,
//! through its unbuffered interface, which decrypts a record in place. All code that depends on
//! that interface is here.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};

use crate::buffer::{self, Buffer};
use crate::proxy_protocol;

/// Bytes that sealing adds to each record: header, content type and tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// Initial size of the buffer before the lane carries data; the messages of a usual handshake fit.
const OPENING: usize = 4 * 1024;

/// Largest size of that buffer: the largest handshake message that rustls accepts.
const HANDSHAKE: usize = 80 * 1024;

/// Most bytes of a partly received record that are kept: the largest record that TLS allows.
const PART: usize = 5 + RECORD + 256;

/// Most plaintext bytes in one record.
const RECORD: usize = 16_384;

/// Bytes needed to seal `length` bytes of plaintext, with a margin for a key update in between.
pub const fn sealed_length(length: usize) -> usize {
    length + (length / RECORD + 1) * RECORD_OVERHEAD + 256
}

/// Boxed, since a lane is moved several times before it carries a link, and each task that it
/// passes would have to have room for it.
enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Runs the same expression for either role.
macro_rules! each {
    ($connection:expr, $name:ident => $do:expr) => {
        match $connection {
            Connection::Client($name) => $do,
            Connection::Server($name) => $do,
        }
    };
}

/// The TLS state of one connection, and its buffer of incoming records.
pub struct Records {
    connection: Connection,
    /// A small buffer before the lane carries data, and a pooled one while data is read later. In
    /// between it holds only the part of a record that waits, or nothing.
    incoming: Buffer,
    start: usize,
    end: usize,
    peer_closed: bool,
    /// An error has occurred: rustls must not be called again.
    failed: bool,
}

/// Does not show the buffer's bytes.
impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("waiting", &(self.end - self.start)).finish_non_exhaustive()
    }
}

/// Why [`Records::advance`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// More handshake data must come from the peer.
    NeedsPeer,
    /// The handshake is complete, and every whole record was opened.
    Ready,
}

impl Records {
    /// The dialler's end of a new connection.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Connection::Client(Box::new(UnbufferedClientConnection::new(config, name)?))))
    }

    /// The acceptor's end of a new connection.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Connection::Server(Box::new(UnbufferedServerConnection::new(config)?))))
    }

    fn new(connection: Connection) -> Self {
        Self { connection, incoming: Buffer::default(), start: 0, end: 0, peer_closed: false, failed: false }
    }

    /// The free part of the buffer, for the next bytes from the socket. It is never empty: there is
    /// always room for a whole record.
    pub fn spare(&mut self) -> &mut [u8] {
        self.move_to_front();
        // The buffer is still the small one from the handshake, or holds only part of a record.
        if self.incoming.len() < buffer::STORAGE {
            let mut pooled = buffer::borrow();
            pooled[..self.end].copy_from_slice(&self.incoming[..self.end]);
            self.incoming = pooled;
        }
        &mut self.incoming[self.end..]
    }

    /// As [`Records::spare`], for the time before the lane carries data: the buffer starts small
    /// and grows only as it fills.
    pub fn opening_spare(&mut self) -> &mut [u8] {
        self.move_to_front();
        if self.end == self.incoming.len() {
            let larger = (self.end * 2).clamp(OPENING, HANDSHAKE);
            self.incoming.resize(larger);
        }
        &mut self.incoming[self.end..]
    }

    /// Whether the bytes so far are a PROXY protocol header from a load balancer instead of a TLS
    /// record.
    pub fn is_proxied(&self) -> bool {
        proxy_protocol::is_header(&self.incoming[..self.end])
    }

    fn move_to_front(&mut self) {
        if self.start > 0 {
            self.incoming.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Records that `count` bytes were written into [`Records::spare`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Returns the buffer to the pool and keeps only a part of a record that waits. So a peer
    /// cannot occupy a whole pooled buffer by sending one byte of a record.
    pub fn rest(&mut self) {
        let waiting = self.end - self.start;
        if waiting <= PART && (self.incoming.len() > PART || waiting == 0) {
            let part = self.incoming[self.start..self.end].to_vec().into();
            buffer::give(std::mem::replace(&mut self.incoming, part));
            (self.start, self.end) = (0, waiting);
        }
    }

    /// Opens every whole record that has come and passes its plaintext to `sink`. TLS's own replies
    /// are appended to `out`; they must be sent before anything that is sealed later.
    pub fn open(&mut self, out: &mut Vec<u8>, sink: Sink<'_>) -> Result<(), rustls::Error> {
        self.advance(out, Some(sink)).map(|_| ())
    }

    /// Continues the handshake with the data that has come; true once it is complete. Data for the
    /// peer is appended to `out`, even if the result is an error. Application data that came with
    /// the end of the handshake stays for [`Records::open`].
    pub fn handshake(&mut self, out: &mut Vec<u8>) -> Result<bool, rustls::Error> {
        Ok(self.advance(out, None)? == Stop::Ready
            && !each!(&self.connection, connection => connection.is_handshaking()))
    }

    /// Whether the peer has sent close_notify.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The ALPN protocol that both ends agreed on, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        each!(&self.connection, connection => connection.alpn_protocol())
    }

    /// The peer's verified certificate chain, leaf first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        each!(&self.connection, connection => connection.peer_certificates()).unwrap_or_default()
    }

    /// Seals `plain` into `out`, starting at `used`, and returns where the records end. `out` must
    /// have room for [`sealed_length`] bytes.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8], used: usize) -> Result<usize, rustls::Error> {
        self.usable()?;
        let incoming = &mut self.incoming[self.start..self.end];
        each!(&mut self.connection, connection => match connection.process_tls_records(incoming).state? {
            ConnectionState::WriteTraffic(mut traffic) => match traffic.encrypt(plain, &mut out[used..]) {
                Ok(written) => Ok(used + written),
                Err(EncryptError::EncryptExhausted) => Err(rustls::Error::EncryptError),
                Err(EncryptError::InsufficientSize(_)) => Err(rustls::Error::General("no room to seal a record".into())),
            },
            _ => Err(rustls::Error::General("sealing before the received records were opened".into())),
        })
    }

    /// Appends a close_notify to `out`; nothing may be sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        let mut alert = [0; 64];
        let incoming = &mut self.incoming[self.start..self.end];
        let written = each!(&mut self.connection, connection => match connection.process_tls_records(incoming).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(&mut alert).unwrap_or(0),
            _ => 0,
        });
        out.extend_from_slice(&alert[..written]);
    }

    fn usable(&self) -> Result<(), rustls::Error> {
        if self.failed {
            Err(rustls::Error::General("the TLS connection has failed before".into()))
        } else {
            Ok(())
        }
    }

    /// Processes the connection's states until the peer must send something. Without a `sink` it
    /// stops before the first application data.
    fn advance(&mut self, out: &mut Vec<u8>, mut sink: Option<Sink<'_>>) -> Result<Stop, rustls::Error> {
        self.usable()?;
        loop {
            let incoming = &mut self.incoming[self.start..self.end];
            let (discard, step) = each!(&mut self.connection, connection => {
                step(connection.process_tls_records(incoming), out, &mut sink)
            });
            self.start += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Stop(stop)) => return Ok(stop),
                Err(error) => {
                    self.last_words(out);
                    return Err(error);
                }
            }
        }
    }

    /// After an error: appends what was queued before it, and the alert for the peer. It takes only
    /// queued data and passes the same buffer again, because an assertion in rustls fails if the
    /// record that failed is read once more.
    fn last_words(&mut self, out: &mut Vec<u8>) {
        self.failed = true;
        while each!(&self.connection, connection => connection.wants_write()) {
            let incoming = &mut self.incoming[self.start..self.end];
            let (_, step) = each!(&mut self.connection, connection => step(connection.process_tls_records(incoming), out, &mut None));
            if !matches!(step, Ok(Step::Again)) {
                return;
            }
        }
    }
}

/// Receives the plaintext of one record.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

enum Step {
    Again,
    PeerClosed,
    Stop(Stop),
}

/// Handles one state of the connection. Returns how many bytes of the incoming buffer it has used.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
    sink: &mut Option<Sink<'_>>,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => match sink {
            None => Ok(Step::Stop(Stop::Ready)),
            Some(sink) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        sink(record.payload);
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(Step::Again),
                }
            },
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = out.len();
            let need = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(need)) => need.required_size,
                _ => 0,
            };
            out.resize(start + need, 0);
            match data.encode(&mut out[start..]) {
                Ok(_) => Ok(Step::Again),
                Err(_) => Err(rustls::Error::General("a handshake record could not be encoded".into())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Stop(Stop::NeedsPeer)),
        Ok(ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => Ok(Step::Stop(Stop::Ready)),
        Ok(_) => Err(rustls::Error::General("early data, which is never offered".into())),
    };
    (discard, step)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::certs::{self, Names};
    use crate::config::TlsFiles;
    use crate::tls::material::Material;

    fn material(dir: &Path, site: &str) -> Material {
        certs::issue(dir, &Names::new(site, &[]).unwrap(), 10, false).unwrap();
        Material::load(&TlsFiles::in_folder(&dir.join(site)), site).unwrap()
    }

    /// Both ends of a connection, and configs for more.
    struct Two {
        dial: crate::tls::material::Dial,
        server: Arc<ServerConfig>,
        /// The configs need what they trust.
        _materials: [Material; 2],
    }

    impl Two {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            certs::init(dir.path(), "test CA", false).unwrap();
            let (dc1, dc2) = (material(dir.path(), "dc1"), material(dir.path(), "dc2"));
            let (dial, server) = (dc2.client("dc1").unwrap(), dc1.server().unwrap());
            Self { dial, server, _materials: [dc1, dc2] }
        }

        fn connect(&self) -> (Records, Records) {
            let client = Records::client(Arc::clone(&self.dial.config), self.dial.name.clone()).unwrap();
            (client, Records::server(Arc::clone(&self.server)).unwrap())
        }
    }

    fn feed(
        records: &mut Records,
        mut bytes: &[u8],
        piece: usize,
        mut take: impl FnMut(&mut Records) -> bool,
    ) -> bool {
        while !bytes.is_empty() {
            let shaking = each!(&records.connection, connection => connection.is_handshaking());
            let spare = if shaking { records.opening_spare() } else { records.spare() };
            let count = bytes.len().min(piece).min(spare.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            records.filled(count);
            bytes = &bytes[count..];
            if !take(records) {
                return false;
            }
        }
        true
    }

    /// Gives `bytes` in pieces to an end in its handshake. Returns its answer, and whether it goes
    /// on.
    fn shake_one(end: &mut Records, bytes: &[u8], piece: usize, done: &mut bool) -> (Vec<u8>, bool) {
        let mut answer = Vec::new();
        let good = feed(end, bytes, piece, |end| match end.handshake(&mut answer) {
            Ok(now) => {
                *done = now;
                true
            }
            Err(_) => false,
        });
        (answer, good)
    }

    /// Runs the handshake in pieces; `twist` may change each flight. Returns whether both ends are
    /// done.
    fn shake(
        client: &mut Records,
        server: &mut Records,
        piece: usize,
        mut twist: impl FnMut(&mut Vec<u8>),
    ) -> bool {
        let mut done = (false, false);
        let mut flight = Vec::new();
        client.handshake(&mut flight).unwrap();
        for _ in 0..4 {
            twist(&mut flight);
            let (mut answer, good) = shake_one(server, &flight, piece, &mut done.1);
            twist(&mut answer);
            let (next, also) = shake_one(client, &answer, piece, &mut done.0);
            if !good || !also {
                return false;
            }
            flight = next;
        }
        done == (true, true)
    }

    #[test]
    fn what_is_sealed_is_opened_however_it_is_cut() {
        let two = Two::new();
        for piece in [1, 7, 1000, 100_000] {
            let (mut client, mut server) = two.connect();
            assert!(shake(&mut client, &mut server, piece, |_| ()), "in pieces of {piece}");
            assert_eq!(client.alpn(), Some(&b"replgate/1"[..]));
            let plain: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
            let mut sealed = vec![0; sealed_length(plain.len())];
            let used = server.seal(&plain, &mut sealed, 0).unwrap();
            let (mut opened, mut answer) = (Vec::new(), Vec::new());
            let good = feed(&mut client, &sealed[..used], piece, |client| {
                client.open(&mut answer, &mut |plain| opened.extend_from_slice(plain)).is_ok()
            });
            assert!(good && opened == plain && answer.is_empty());
        }
    }

    #[test]
    fn part_of_a_record_keeps_no_large_buffer() {
        let two = Two::new();
        let (mut client, mut server) = two.connect();
        assert!(shake(&mut client, &mut server, 5000, |_| ()));
        let plain = vec![7; 40_000];
        let mut sealed = vec![0; sealed_length(plain.len())];
        let used = server.seal(&plain, &mut sealed, 0).unwrap();
        let (mut opened, mut answer) = (Vec::new(), Vec::new());
        // All records are opened after every piece.
        for bytes in sealed[..used].chunks(9001) {
            assert!(feed(&mut client, bytes, 9001, |client| {
                client.open(&mut answer, &mut |plain| opened.extend_from_slice(plain)).is_ok()
            }));
            client.rest();
            assert!(client.incoming.len() <= PART, "{}", client.incoming.len());
        }
        assert!(opened == plain && client.incoming.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_broken_handshake_fails_without_a_panic(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
            flight in 0usize..4,
            piece in prop::sample::select(vec![1usize, 50, 5000]),
        ) {
            thread_local!(static TWO: Two = Two::new());
            TWO.with(|two| {
                let (mut client, mut server) = two.connect();
                let mut count = 0;
                shake(&mut client, &mut server, piece, |bytes| {
                    if count == flight && !bytes.is_empty() {
                        for (at, mask) in &flips {
                            let at = at.index(bytes.len());
                            bytes[at] ^= mask;
                        }
                    }
                    count += 1;
                });
            });
        }
    }
}
