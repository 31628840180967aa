//! A hand-made `replgate/1` client, and acceptor, with a site's own certificate: says what
//! no gateway would.

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

/// A site's certificate, and who it says it is.
pub struct Site {
    dial: Dial,
    server: Arc<ServerConfig>,
    pub identity: Identity,
    pub terms: Terms,
}

/// Either end of TLS.
trait Stream: Read + Write + Send {}

impl<Any: Read + Write + Send> Stream for Any {}

/// One TLS connection to a gateway.
pub struct Wire {
    tls: Box<dyn Stream>,
    socket: TcpStream,
    decoder: Decoder,
    read: Vec<u8>,
}

/// What a gateway said.
#[derive(Debug)]
pub enum Heard {
    Frame(Frame),
    Data(Vec<u8>),
}

impl Site {
    /// The site whose folder lies in `certs`, on its way to `far`.
    pub fn new(certs: &Path, site: &str, far: &str) -> Self {
        let file = |name: &str| certs.join(site).join(name);
        let files = TlsFiles {
            ca: file("ca.crt"),
            cert: file("tls.crt"),
            key: file("tls.key"),
            crl: Some(file("crl.pem")),
        };
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
        };
        let server = material.server().expect("TLS can be set up");
        Self { dial: material.client(far).expect("TLS can be set up"), server, identity, terms }
    }

    /// TLS to a gateway on this port, with nothing said yet. It may be refused only once
    /// something is read.
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

    /// Takes one gateway's connection and says yes to what it asks for.
    #[track_caller]
    pub fn accept(&self, listener: &TcpListener) -> Wire {
        let (socket, _) = listener.accept().expect("a gateway dials");
        let socket = tuned(socket).expect("a timeout can be set");
        let connection = ServerConnection::new(Arc::clone(&self.server)).expect("TLS can be set up");
        let tls = StreamOwned::new(connection, socket.try_clone().expect("a socket can be cloned"));
        let mut wire = Wire::new(Box::new(tls), socket);
        assert!(matches!(wire.next(), Ok(Heard::Frame(Frame::Hello(_)))), "a hello comes first");
        let (identity, terms) = (self.identity.clone(), self.terms.clone());
        let link = Some(Id::random());
        let accept = Accept { version: VERSION, identity, terms, link, received: 0, plain: false };
        wire.send(&Frame::Accept(accept)).expect("the gateway reads");
        wire
    }

    pub fn hello(&self, request: Request) -> Frame {
        let (identity, terms) = (self.identity.clone(), self.terms.clone());
        Frame::Hello(Hello { version: VERSION, identity, request, terms })
    }

    /// Connects and asks; the answer is a yes or a no.
    #[track_caller]
    pub fn ask(&self, port: u16, request: Request) -> (Wire, Result<Accept, Refuse>) {
        let mut wire = self.connect(port).expect("the gateway takes TLS");
        wire.send(&self.hello(request)).expect("the gateway reads");
        let answer = match wire.next() {
            Ok(Heard::Frame(Frame::Accept(accept))) => Ok(accept),
            Ok(Heard::Frame(Frame::Refuse(refuse))) => Err(refuse),
            other => panic!("an answer to the hello: {other:?}"),
        };
        (wire, answer)
    }

    /// A new link to the master "orders".
    #[track_caller]
    pub fn link(&self, port: u16) -> (Wire, Accept) {
        let (wire, answer) = self.ask(port, Request::New { master: "orders".into(), sibling: None });
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

    /// Bytes of the replica's stream, in one frame.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.raw(&[&data_header(offset, bytes.len())[..], bytes].concat())
    }

    /// Whatever bytes, under TLS.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes)?;
        self.tls.flush()
    }

    /// The next frame or piece of data; an error once the gateway has closed.
    pub fn next(&mut self) -> io::Result<Heard> {
        loop {
            let mut input = &self.read[..];
            let item = self.decoder.next(&mut input).map_err(io::Error::other)?;
            let heard = item.map(|item| match item {
                Item::Frame(frame) => Heard::Frame(frame),
                Item::Data { bytes, .. } => Heard::Data(bytes.to_vec()),
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

    /// Bytes of the master's stream, until there are `count` of them.
    #[track_caller]
    pub fn stream(&mut self, count: usize) -> Vec<u8> {
        self.try_stream(count).unwrap_or_else(|| panic!("the link has ended before {count} bytes"))
    }

    /// As [`Wire::stream`]; `None` if the link ends before.
    pub fn try_stream(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().ok()? {
                Heard::Data(bytes) => all.extend(bytes),
                Heard::Frame(Frame::Abort(_)) => return None,
                Heard::Frame(_) => {}
            }
        }
        Some(all)
    }

    /// Whether the gateway closes within `within`.
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
