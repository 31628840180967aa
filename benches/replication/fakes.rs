//! A light master and light replicas, for rows with many links. They implement only as much of Redis'
//! protocol as a full sync without data needs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::peers::{Carries, Master};
use crate::place::wait_for;

/// A snapshot without keys.
const SNAPSHOT: &[u8] = b"REDIS0009\xff\0\0\0\0\0\0\0\0";

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and the threads of everything here.
#[derive(Debug)]
pub struct Fakes {
    runtime: Runtime,
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    carries: Carries,
}

/// A link that is open.
#[derive(Debug)]
pub struct Link {
    pub socket: BufReader<TcpStream>,
    /// The master's offset at the snapshot.
    pub offset: u64,
}

impl Fakes {
    /// Starts a master, or a server that sends back what it gets.
    pub fn start(carries: Carries) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (address, open) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&open);
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    // The other end detects a broken connection.
                    let _ = serve(socket, carries).await;
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { runtime, address, open, carries })
    }

    pub fn master(&self) -> Master {
        Master { plain: self.address, tls: None }
    }

    /// Opens links through a subject. Each has carried data when this returns.
    pub fn open(&self, entry: SocketAddr, count: u16) -> Result<Vec<Link>> {
        self.runtime.block_on(open(&vec![entry; usize::from(count)], self.carries))
    }

    /// Makes each replica acknowledge once a second, at different times, until its link ends.
    pub fn acknowledge(&self, links: Vec<Link>) {
        const PERIOD: Duration = Duration::from_secs(1);
        let count = u32::try_from(links.len()).unwrap_or(u32::MAX).max(1);
        for (number, mut link) in (0..).zip(links) {
            self.runtime.spawn(async move {
                tokio::time::sleep(PERIOD * number / count).await;
                let mut timer = tokio::time::interval(PERIOD);
                loop {
                    timer.tick().await;
                    if link.acknowledge(link.offset).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// Waits until the server has seen every link end.
    pub fn wait_closed(&self) -> Result<()> {
        wait_for("every link has ended", Duration::from_secs(30), || {
            Ok((self.open.load(Ordering::Relaxed) == 0).then_some(()))
        })
    }

    /// How many connections the server has.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Opens a link at each of these addresses, some at a time.
pub async fn open(entries: &[SocketAddr], carries: Carries) -> Result<Vec<Link>> {
    const AT_A_TIME: usize = 16;
    let mut links = Vec::new();
    for group in entries.chunks(AT_A_TIME) {
        let opening: Vec<_> = (links.len()..)
            .zip(group)
            .map(|(number, entry)| {
                tokio::spawn(tokio::time::timeout(PATIENCE, Link::open(*entry, carries, number)))
            })
            .collect();
        for link in opening {
            links.push(link.await?.context("a link opens in time")??);
        }
    }
    Ok(links)
}

impl Link {
    async fn open(entry: SocketAddr, carries: Carries, number: usize) -> Result<Self> {
        let socket = TcpStream::connect(entry).await?;
        socket.set_nodelay(true)?;
        let mut link = Self { socket: BufReader::new(socket), offset: 0 };
        if carries == Carries::Anything {
            link.socket.get_mut().write_all(b"?\n").await?;
            ensure!(link.line().await? == "?", "the server sends back what it got");
            return Ok(link);
        }
        let port = (10_000 + number).to_string();
        for (words, answer) in [
            (&["PING"][..], "+PONG"),
            (&["REPLCONF", "listening-port", &port], "+OK"),
            (&["REPLCONF", "capa", "eof", "capa", "psync2"], "+OK"),
            (&["PSYNC", "?", "-1"], "+FULLRESYNC"),
        ] {
            let mut command = format!("*{}\r\n", words.len());
            words.iter().for_each(|word| command += &format!("${}\r\n{word}\r\n", word.len()));
            link.socket.get_mut().write_all(command.as_bytes()).await?;
            let line = link.line().await?;
            ensure!(line.starts_with(answer), "{} was answered {line}", words[0]);
            if words[0] == "PSYNC" {
                link.offset = line.rsplit_once(' ').context("no offset")?.1.parse()?;
            }
        }
        let mut line = link.line().await?;
        while line.is_empty() {
            // A master that prepares its snapshot sends empty lines.
            line = link.line().await?;
        }
        let head = line.strip_prefix('$').with_context(|| format!("the snapshot begins with {line}"))?;
        match head.strip_prefix("EOF:") {
            Some(mark) => link.skip_to(mark.as_bytes()).await?,
            None => {
                let length = usize::try_from(head.parse::<u64>()?)?;
                link.socket.read_exact(&mut vec![0; length]).await?;
            }
        }
        Ok(link)
    }

    /// Skips a snapshot up to the mark at its end. Nothing follows before the first acknowledgement.
    async fn skip_to(&mut self, mark: &[u8]) -> Result<()> {
        let mut snapshot = Vec::new();
        while !snapshot.ends_with(mark) {
            ensure!(snapshot.len() < 1 << 20, "the snapshot has no end");
            ensure!(self.socket.read_buf(&mut snapshot).await? > 0, "the connection ended in the snapshot");
        }
        Ok(())
    }

    /// Tells the master how much has arrived.
    pub async fn acknowledge(&mut self, offset: u64) -> std::io::Result<()> {
        let digits = offset.to_string();
        let ack = format!("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n${}\r\n{digits}\r\n", digits.len());
        self.socket.get_mut().write_all(ack.as_bytes()).await
    }

    async fn line(&mut self) -> Result<String> {
        read_line(&mut self.socket).await
    }
}

async fn read_line(socket: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    if socket.read_line(&mut line).await? == 0 {
        bail!("the connection ended");
    }
    Ok(line.trim_end().to_owned())
}

/// The server's side of a connection.
async fn serve(socket: TcpStream, carries: Carries) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut socket = BufReader::new(socket);
    loop {
        let line = read_line(&mut socket).await?;
        if carries == Carries::Anything {
            socket.get_mut().write_all(format!("{line}\n").as_bytes()).await?;
            continue;
        }
        let Some(count) = line.strip_prefix('*') else { bail!("no command: {line}") };
        let mut words = Vec::new();
        for _ in 0..count.parse::<usize>()? {
            read_line(&mut socket).await?;
            words.push(read_line(&mut socket).await?.to_ascii_uppercase());
        }
        let answer = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["PING"] => b"+PONG\r\n".to_vec(),
            ["REPLCONF", "ACK", ..] => continue,
            ["PSYNC", ..] => {
                let head = format!("+FULLRESYNC {} 0\r\n${}\r\n", "0".repeat(40), SNAPSHOT.len());
                [head.as_bytes(), SNAPSHOT].concat()
            }
            _ => b"+OK\r\n".to_vec(),
        };
        socket.get_mut().write_all(&answer).await?;
    }
}
