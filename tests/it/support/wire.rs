//! A hand-made `replgate/1` client and acceptor with a site's own certificate. It can send what no
//! gateway would send.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use replgate::internal::config::TlsFiles;
use replgate::internal::tls::material::{Dial, Material};
use replgate::internal::wire::frame::{Decoder, Frame, Item, data_header};
use replgate::internal::wire::hello::{Accept, Hello, Id, Identity, Refuse, Request, VERSION};
use replgate::internal::wire::terms::Terms;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use super::SOON;

/// A site's certificate, and the identity that it claims.
pub struct Site {
    /// The TLS configs need what it trusts.
    _material: Material,
    dial: Dial,
    server: Arc<ServerConfig>,
    pub identity: Identity,
    pub terms: Terms,
}

/// A TLS stream, of a client or of a server.
trait Stream: Read + Write + Send {}

impl<Any: Read + Write + Send> Stream for Any {}

/// One TLS connection to a gateway.
pub struct Wire {
    tls: Box<dyn Stream>,
    socket: TcpStream,
    decoder: Decoder,
    read: Vec<u8>,
}

/// What a gateway has sent.
#[derive(Debug)]
pub enum Received {
    Frame(Frame),
    Data(Vec<u8>),
}

impl Site {
    /// The site whose folder is in `certs`, as a peer of the site `far`.
    pub fn new(certs: &Path, site: &str, far: &str) -> Self {
        let files = TlsFiles::in_folder(&certs.join(site));
        let material = Material::load(&files, site).expect("the site's certificate is good");
        let identity =
            Identity { site: site.into(), node: "by hand".into(), instance: Id::random(), clock: 0 };
        let terms = Terms {
            window: 64 << 20,
            max_frame: 512 * 1024,
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(30),
            hold: Duration::from_secs(45),
            lanes: 1,
            compression: 0,
            reports: true,
            lists: false,
        };
        let server = material.server().expect("TLS can be set up");
        let dial = material.client(far).expect("TLS can be set up");
        Self { _material: material, dial, server, identity, terms }
    }

    /// Opens TLS to a gateway on this port and sends nothing yet. A refusal may become visible only
    /// with the first read.
    pub fn connect(&self, port: u16) -> io::Result<Wire> {
        let socket = tuned(TcpStream::connect(("127.0.0.1", port))?)?;
        let connection = ClientConnection::new(self.dial.config.clone(), self.dial.name.clone())
            .map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, socket.try_clone()?);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Wire::new(Box::new(tls), socket))
    }

    /// Accepts a gateway's connection and the request in its HELLO.
    #[track_caller]
    pub fn accept(&self, listener: &TcpListener) -> Wire {
        let (socket, _) = listener.accept().expect("a gateway dials");
        let socket = tuned(socket).expect("a timeout can be set");
        let connection = ServerConnection::new(Arc::clone(&self.server)).expect("TLS can be set up");
        let tls = StreamOwned::new(connection, socket.try_clone().expect("a socket can be cloned"));
        let mut wire = Wire::new(Box::new(tls), socket);
        assert!(matches!(wire.next(), Ok(Received::Frame(Frame::Hello(_)))), "the first frame is a HELLO");
        let (identity, terms) = (self.identity.clone(), self.terms.clone());
        let link = Some(Id::random());
        let accept =
            Accept { version: VERSION, identity, terms, link, received: 0, plain: false, offer: None };
        wire.send(&Frame::Accept(accept)).expect("the gateway reads");
        wire
    }

    pub fn hello(&self, request: Request) -> Frame {
        let (identity, terms) = (self.identity.clone(), self.terms.clone());
        Frame::Hello(Hello { version: VERSION, identity, request, terms })
    }

    /// Connects and sends a HELLO with this request. Returns the ACCEPT or the REFUSE.
    #[track_caller]
    pub fn ask(&self, port: u16, request: Request) -> (Wire, Result<Accept, Refuse>) {
        let mut wire = self.connect(port).expect("the gateway takes TLS");
        wire.send(&self.hello(request)).expect("the gateway reads");
        let answer = match wire.next() {
            Ok(Received::Frame(Frame::Accept(accept))) => Ok(accept),
            Ok(Received::Frame(Frame::Refuse(refuse))) => Err(refuse),
            other => panic!("neither ACCEPT nor REFUSE: {other:?}"),
        };
        (wire, answer)
    }

    /// Opens a new link to the master "orders".
    #[track_caller]
    pub fn link(&self, port: u16) -> (Wire, Accept) {
        let (wire, answer) =
            self.ask(port, Request::New { master: "orders".into(), sibling: None, replica: None });
        (wire, answer.expect("the link is accepted"))
    }
}

fn tuned(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_read_timeout(Some(SOON))?;
    socket.set_write_timeout(Some(SOON))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl Wire {
    fn new(tls: Box<dyn Stream>, socket: TcpStream) -> Self {
        Self { tls, socket, decoder: Decoder::default(), read: Vec::new() }
    }

    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.raw(&frame.encode())
    }

    /// Sends bytes of the replica's stream in one DATA frame.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.raw(&[&data_header(offset, bytes.len())[..], bytes].concat())
    }

    /// Sends any bytes inside TLS.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes)?;
        self.tls.flush()
    }

    /// The next frame or piece of data; an error once the gateway has closed.
    pub fn next(&mut self) -> io::Result<Received> {
        loop {
            let mut input = &self.read[..];
            let item = self.decoder.next(&mut input).map_err(io::Error::other)?;
            let heard = item.map(|item| match item {
                Item::Frame(frame) => Received::Frame(frame),
                Item::Data { bytes, .. } => Received::Data(bytes.to_vec()),
            });
            let used = self.read.len() - input.len();
            self.read.drain(..used);
            if let Some(heard) = heard {
                return Ok(heard);
            }
            let mut piece = [0; 16 * 1024];
            match self.tls.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.read.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Reads bytes of the master's stream until there are at least `count`.
    #[track_caller]
    pub fn stream(&mut self, count: usize) -> Vec<u8> {
        self.try_stream(count).unwrap_or_else(|| panic!("the link ended before {count} bytes had come"))
    }

    /// As [`Wire::stream`], but `None` if the link ends before that.
    pub fn try_stream(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().ok()? {
                Received::Data(bytes) => all.extend(bytes),
                Received::Frame(Frame::Abort(_)) => return None,
                Received::Frame(_) => {}
            }
        }
        Some(all)
    }

    /// Whether the gateway closes the connection within this time.
    pub fn is_closed(&mut self, within: Duration) -> bool {
        let _ = self.socket.set_read_timeout(Some(within));
        let closed = loop {
            match self.next() {
                Ok(_) => {}
                Err(error) => {
                    break !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        };
        let _ = self.socket.set_read_timeout(Some(SOON));
        closed
    }
}
