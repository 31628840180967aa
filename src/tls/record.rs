//! TLS records over buffers that the lane owns.
//!
//! `rustls` seals and opens every record; this file only moves bytes between it
//! and plain buffers, through its unbuffered interface, which opens a record in
//! place. Everything that depends on that interface is here.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};

use crate::buffer;

/// What sealing adds to each record: header, content type and tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// The most plaintext in one record.
const RECORD: usize = 16_384;

/// The bytes that sealing `length` bytes of plaintext takes, with a margin for a
/// key update in between.
pub const fn sealed_length(length: usize) -> usize {
    length + (length / RECORD + 1) * RECORD_OVERHEAD + 256
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Does the same with whichever end the connection is.
macro_rules! each {
    ($connection:expr, $name:ident => $do:expr) => {
        match $connection {
            Connection::Client($name) => $do,
            Connection::Server($name) => $do,
        }
    };
}

/// The TLS state of one connection with its buffer of incoming records.
pub struct Records {
    connection: Connection,
    /// Borrowed while bytes are waiting in it, else empty.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    peer_closed: bool,
}

/// Shows no byte of what is in its buffer.
impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("waiting", &(self.end - self.start)).finish_non_exhaustive()
    }
}

/// What stopped [`Records::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// More of the handshake must come from the peer.
    NeedsPeer,
    /// The handshake is done and every whole record was opened.
    Ready,
}

impl Records {
    /// The dialler's end of a new connection.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Connection::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    /// The acceptor's end of a new connection.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Connection::Server(UnbufferedServerConnection::new(config)?)))
    }

    fn new(connection: Connection) -> Self {
        Self { connection, incoming: Vec::new(), start: 0, end: 0, peer_closed: false }
    }

    /// Where the next bytes from the socket go. Never empty: a whole record always
    /// fits.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.incoming.is_empty() {
            self.incoming = buffer::borrow();
        }
        if self.start > 0 {
            self.incoming.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.incoming[self.end..]
    }

    /// Takes `count` bytes that were written into [`Records::spare`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Gives the buffer of incoming records back if nothing waits in it.
    pub fn rest(&mut self) {
        if self.start == self.end && !self.incoming.is_empty() {
            buffer::give(std::mem::take(&mut self.incoming));
            (self.start, self.end) = (0, 0);
        }
    }

    /// Opens every whole record that has come; its plaintext goes to `sink`.
    /// What TLS itself has to answer is appended to `out`, and must be sent before
    /// anything that is sealed later.
    pub fn open(&mut self, out: &mut Vec<u8>, sink: Sink<'_>) -> Result<(), rustls::Error> {
        self.advance(out, Some(sink)).map(|_| ())
    }

    /// Moves the handshake on with what has come; true once it is complete. What
    /// must go to the peer is appended to `out`, even when the answer is an error.
    /// Data that came together with the end of the handshake stays for
    /// [`Records::open`].
    pub fn handshake(&mut self, out: &mut Vec<u8>) -> Result<bool, rustls::Error> {
        Ok(self.advance(out, None)? == Stop::Ready
            && !each!(&self.connection, connection => connection.is_handshaking()))
    }

    /// Whether the peer has ended the connection in good order.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The protocol that both ends agreed on, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        each!(&self.connection, connection => connection.alpn_protocol())
    }

    /// The peer's certificate chain, verified, leaf first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        each!(&self.connection, connection => connection.peer_certificates()).unwrap_or_default()
    }

    /// Seals `plain` into `out` from `used` on and says where the records end.
    /// There must be room for [`sealed_length`] bytes.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8], used: usize) -> Result<usize, rustls::Error> {
        let incoming = &mut self.incoming[self.start..self.end];
        each!(&mut self.connection, connection => match connection.process_tls_records(incoming).state? {
            ConnectionState::WriteTraffic(mut traffic) => match traffic.encrypt(plain, &mut out[used..]) {
                Ok(written) => Ok(used + written),
                Err(EncryptError::EncryptExhausted) => Err(rustls::Error::EncryptError),
                Err(EncryptError::InsufficientSize(_)) => Err(rustls::Error::General("no room to seal a record".into())),
            },
            _ => Err(rustls::Error::General("sealing before the records that came were opened".into())),
        })
    }

    /// Appends a close_notify to `out`; nothing may be sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let mut alert = [0; 64];
        let incoming = &mut self.incoming[self.start..self.end];
        let written = each!(&mut self.connection, connection => match connection.process_tls_records(incoming).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(&mut alert).unwrap_or(0),
            _ => 0,
        });
        out.extend_from_slice(&alert[..written]);
    }

    /// Goes from state to state until the peer must speak. Without a `sink` it
    /// stops before the first application data.
    fn advance(&mut self, out: &mut Vec<u8>, mut sink: Option<Sink<'_>>) -> Result<Stop, rustls::Error> {
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

    /// After an error: the alert that tells the peer. It is handed out before
    /// anything else is looked at; asking a second time would go back to the
    /// message that failed.
    fn last_words(&mut self, out: &mut Vec<u8>) {
        let incoming = &mut self.incoming[self.start..self.end];
        let _ = each!(&mut self.connection, connection => step(connection.process_tls_records(incoming), out, &mut None));
    }
}

/// Takes the plaintext of one record.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

enum Step {
    Again,
    PeerClosed,
    Stop(Stop),
}

/// Handles one state of the connection; says how much of the incoming buffer it
/// has used up.
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
