//! A plain HTTP client, over TCP and over a Unix socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Time given to an answer: longer than a gateway takes to close whatever it was sent.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where a gateway shows its state.
#[derive(Clone, Debug)]
pub enum At {
    /// A port of 127.0.0.1.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

/// A connection.
pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The names are in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads what came over a connection until it was closed; `None` if that is no whole answer.
    pub fn read(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let (first, headers) = head.split_once("\r\n")?;
        let status = first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers = headers.split("\r\n").map(header).collect::<Option<_>>()?;
        Some(Self { status, headers, body: body.to_owned() })
    }
}

impl At {
    /// A connection; `None` if nobody listens there.
    pub fn connect(&self) -> Option<Box<dyn Stream>> {
        match self {
            Self::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).ok()?;
                stream.set_read_timeout(Some(DEADLINE)).expect("a fresh socket");
                Some(Box::new(stream))
            }
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).ok()?;
                stream.set_read_timeout(Some(DEADLINE)).expect("a fresh socket");
                Some(Box::new(stream))
            }
        }
    }

    /// Sends these bytes, and reads the answer; `None` if the connection is closed without one.
    pub fn send(&self, request: &[u8]) -> Option<Answer> {
        let mut stream = self.connect()?;
        // What is refused may be closed before all of it was sent.
        let _ = stream.write_all(request);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        Answer::read(&String::from_utf8_lossy(&text))
    }

    /// Asks with this method and these lines of headers, each of which ends with `\r\n`.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\n");
        self.send(request.as_bytes()).unwrap_or_else(|| panic!("{self:?}: {request}: no answer"))
    }

    /// What a scraper gets.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "Host: localhost\r\n")
    }
}
