//! A Unix socket that always exists, over which `replgate status` asks for the state, and `replgate follow` gives
//! its orders.
//!
//! Who closes its sending side at once, or says nothing for [`SAYS_NOTHING`], as earlier releases do, gets the
//! state. Who sends a line gives an order (`orders.rs`). A gateway of an earlier release answers that with the
//! state as well, so who gives an order can tell.
//!
//! The socket has an abstract name made from the site and the config's path. So it needs no
//! writable folder and leaves no file behind, and `status` finds it with the same config. The
//! gateway answers only its own user and root. `status` accepts answers only from the user who
//! asks, from root, or from the owner of the config's private key, so that nobody else can pose as
//! the gateway. If another user has taken the name, the gateway adds a random end, which nobody
//! could have taken, and `status` searches the system's sockets for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::orders::{self, Answer, Asker, Order};
use super::snapshot::Status;
use crate::config::Config;
use crate::registry::notice;
use crate::session::Shared;
use crate::unproven::Unproven;
use crate::wire::hello::Id;

/// Time given to one request and its answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Time after which a connection that has said nothing gets the state.
const SAYS_NOTHING: Duration = Duration::from_millis(50);

/// Time given to say an order.
const SAYS: Duration = Duration::from_secs(1);

/// Longest order in bytes.
const MAX_ORDER: usize = 4 << 10;

/// Most orders that are carried out at a time.
const ORDERS: usize = 8;

/// Time given to carry out an order. It includes a look at every party.
const CARRIES_OUT: Duration = Duration::from_secs(15);

/// How often an order is given anew where the gateway has not waited for it.
const GIVES_ANEW: usize = 5;

/// Largest answer in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Most requests that are answered at a time; beyond that the oldest is dropped.
const QUESTIONS: usize = 16;

/// Time given to ask all sockets that may be the gateway's: an impostor may have taken thousands of
/// names.
const SEARCH: Duration = Duration::from_secs(10);

/// Time given to connect to a socket that has the name already, to find out whose it is.
const WHOSE: Duration = Duration::from_millis(500);

/// Which gateway is meant.
#[derive(Debug)]
pub struct Gateway {
    /// Its site.
    pub site: String,
    /// Its config file.
    pub path: PathBuf,
    /// Its private key, whose owner may answer for it; `None` if that is not known.
    pub key: Option<PathBuf>,
}

impl From<&Config> for Gateway {
    fn from(config: &Config) -> Self {
        let Config { site, path, tls, .. } = config;
        Self { site: site.clone(), path: path.clone(), key: Some(tls.key.clone()) }
    }
}

/// The socket's names for a gateway: one for the path of its config as given, and one for the real path if
/// that differs. So either path finds it.
fn names(gateway: &Gateway) -> Vec<String> {
    let given = std::path::absolute(&gateway.path).unwrap_or_else(|_| gateway.path.clone());
    let real = std::fs::canonicalize(&gateway.path).unwrap_or_else(|_| given.clone());
    let mut names = vec![name(&gateway.site, &given)];
    if real != given {
        names.push(name(&gateway.site, &real));
    }
    names
}

fn name(site: &str, path: &Path) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        format!("{site}\n{}", path.display()).as_bytes(),
    );
    format!("\0replgate-{}", hex(&digest.as_ref()[..8]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the process at the other end belongs to this user, to root, or to `others`.
fn is_of(socket: &UnixStream, others: Option<u32>) -> bool {
    // Not the owner of /proc/self: that is root if the process may not dump core.
    let own = rustix::process::geteuid().as_raw();
    socket.peer_cred().is_ok_and(|peer| [Some(own), Some(0), others].contains(&Some(peer.uid())))
}

fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|meta| meta.uid()).ok()
}

/// Binds the socket under each of its names. A gateway also runs without it.
pub async fn bind(shared: &Shared) -> Vec<UnixListener> {
    let mut listeners = Vec::new();
    for name in names(&Gateway::from(shared.config().as_ref())) {
        let bound = match UnixListener::bind(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => beside(&name, error).await,
            bound => bound,
        };
        match bound {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                warn!(kind = notice::STATUS_SOCKET, "`replgate status` will not find this gateway: {error}")
            }
        }
    }
    listeners
}

/// Binds another name, since `name` is taken; an error if a gateway of this user or of root has it.
async fn beside(name: &str, taken: io::Error) -> io::Result<UnixListener> {
    let whose = match timeout(WHOSE, UnixStream::connect(name)).await {
        Ok(Ok(socket)) if is_of(&socket, None) => {
            return Err(io::Error::other(format!("{taken}; is this config running already?")));
        }
        Ok(Ok(socket)) => match socket.peer_cred() {
            Ok(peer) => {
                let process = peer.pid().map_or_else(String::new, |pid| format!(", process {pid}"));
                format!("user {}{process}", peer.uid())
            }
            Err(error) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    let Id(random) = Id::random();
    let other = format!("{name}-{}", hex(&random));
    let bound = UnixListener::bind(&other)?;
    warn!(
        kind = notice::STATUS_SOCKET,
        "the name of the status socket, @{}, is taken by another process ({whose}), which may impersonate the gateway; `replgate status` finds this gateway all the same",
        &name[1..]
    );
    Ok(bound)
}

/// Answers requests until the gateway stops. Connections of other users are closed at once.
pub async fn serve(shared: Arc<Shared>, listener: UnixListener, tasks: TaskTracker) {
    let questions = Unproven::new(QUESTIONS, QUESTIONS);
    let orders = Arc::new(Semaphore::new(ORDERS));
    let answers = Arc::new(Answers::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((mut socket, _)) if is_of(&socket, None) => {
                let (shared, answers, orders) =
                    (Arc::clone(&shared), Arc::clone(&answers), Arc::clone(&orders));
                let (asked, seat) = (Instant::now(), questions.enter(()));
                tasks.spawn(async move {
                    let question = async {
                        let order = said(&mut socket).await;
                        if order.is_none() {
                            let _ =
                                timeout(DEADLINE, answers.give(asked, || Status::now(&shared), &mut socket))
                                    .await;
                        }
                        order
                    };
                    let order = tokio::select! {
                        order = question => order,
                        () = seat.evicted() => None,
                        () = shared.stop.cancelled() => None,
                    };
                    // An order takes its time, and keeps nobody from the state.
                    drop(seat);
                    if let Some(order) = order {
                        tokio::select! {
                            () = obey(&shared, &orders, &order, socket) => {}
                            () = shared.stop.cancelled() => {}
                        }
                    }
                });
            }
            Ok(_) => debug!("another user asked for the status and got no answer"),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The order that a client says, without the end of its line; `None` if it wants the state.
async fn said(socket: &mut UnixStream) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(MAX_ORDER);
    let mut wait = SAYS_NOTHING;
    let until = Instant::now() + SAYS;
    loop {
        let mut piece = socket.take((MAX_ORDER - text.len()) as u64);
        match timeout(wait, piece.read_buf(&mut text)).await {
            Ok(Ok(1..)) => {}
            // Nothing follows, or it is as long as an order may be: what it is then, is told.
            _ if text.is_empty() => return None,
            _ => return Some(text),
        }
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            text.truncate(end);
            return Some(text);
        }
        wait = until.saturating_duration_since(Instant::now());
    }
}

/// Carries out an order and answers it.
async fn obey(shared: &Shared, orders: &Semaphore, order: &[u8], mut socket: UnixStream) {
    let answer = match orders.try_acquire() {
        Err(_) => Answer::Refused {
            why: "the gateway has too many orders to carry out already; try again".to_owned(),
        },
        Ok(_permit) => {
            let asker = socket.peer_cred().map(|peer| Asker { uid: peer.uid(), pid: peer.pid() });
            match asker {
                // It was asked already, so this is no other user.
                Err(error) => Answer::Refused { why: format!("it is not known who asks: {error}") },
                Ok(asker) => timeout(CARRIES_OUT, orders::carry_out(shared, order, asker)).await.unwrap_or_else(|_| {
                    let seconds = CARRIES_OUT.as_secs();
                    Answer::Refused { why: format!("no answer within {seconds} s; it is not carried out any more: replgate status shows who is followed") }
                }),
            }
        }
    };
    let _ = timeout(DEADLINE, async {
        socket.write_all(&serde_json::to_vec(&answer)?).await?;
        socket.shutdown().await
    })
    .await;
}

/// The answers that are being sent.
#[derive(Debug, Default)]
struct Answers {
    /// When the state of the newest one was taken, and its text, as long as it is being sent.
    newest: Mutex<Option<(Instant, Weak<[u8]>)>>,
}

impl Answers {
    /// Sends the state to who has asked at this time.
    async fn give(
        &self,
        asked: Instant,
        state: impl FnOnce() -> Status,
        socket: &mut UnixStream,
    ) -> io::Result<()> {
        socket.write_all(&self.text(asked, state).await?).await?;
        socket.shutdown().await
    }

    /// The state as JSON. It is written once for all who asked before it was taken: with thousands of names that
    /// takes a while, and many may ask at a time. Nobody gets a state from before the question.
    async fn text(&self, asked: Instant, state: impl FnOnce() -> Status) -> io::Result<Arc<[u8]>> {
        let mut newest = self.newest.lock().await;
        if let Some((taken, text)) = &*newest
            && *taken >= asked
            && let Some(text) = text.upgrade()
        {
            return Ok(text);
        }
        let taken = Instant::now();
        let text: Arc<[u8]> = serde_json::to_vec(&state())?.into();
        *newest = Some((taken, Arc::downgrade(&text)));
        Ok(text)
    }
}

/// Asks a gateway; `None` if it does not run.
pub async fn ask(gateway: &Gateway) -> io::Result<Option<Status>> {
    let find = find(gateway, &[], DEADLINE);
    let text = timeout(SEARCH, find).await.map_err(|_| io::Error::other("no answer in time"))??;
    Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?)
}

/// What a gateway says to an order.
#[derive(Debug)]
pub enum Reply {
    /// What came of it.
    Answer(Answer),
    /// It is of a release that knows no orders: this one.
    TooOld(String),
}

/// Gives a gateway an order; `None` if it does not run.
pub async fn order(gateway: &Gateway, order: &Order) -> io::Result<Option<Reply>> {
    /// What tells the state of a gateway that knows orders from an earlier one's.
    #[derive(serde::Deserialize)]
    struct State {
        version: String,
        following: Option<serde::de::IgnoredAny>,
    }
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    for _ in 0..GIVES_ANEW {
        let find = find(gateway, &line, CARRIES_OUT + DEADLINE);
        let text = timeout(SEARCH + CARRIES_OUT, find).await;
        let Some(text) = text.map_err(|_| io::Error::other("no answer in time"))?? else { return Ok(None) };
        if let Ok(answer) = serde_json::from_slice(&text) {
            return Ok(Some(Reply::Answer(answer)));
        }
        let State { version, following } = serde_json::from_slice(&text)?;
        if following.is_none() {
            return Ok(Some(Reply::TooOld(version)));
        }
        // This process was so slow that the gateway took it for one that asks for the state.
    }
    Err(io::Error::other("the gateway did not get the order in time; try again"))
}

/// Says `line` under each name that the gateway may have, until an answer is accepted.
async fn find(gateway: &Gateway, line: &[u8], deadline: Duration) -> io::Result<Option<Vec<u8>>> {
    let names = names(gateway);
    let others = names.iter().flat_map(|name| others(name)).collect::<Vec<_>>();
    let mut failed = None;
    for name in names.iter().chain(&others) {
        let asked = timeout(deadline, ask_at(gateway, name, line)).await;
        match asked.unwrap_or_else(|_| Err(io::Error::other("no answer in time"))) {
            Ok(Some(text)) => return Ok(Some(text)),
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// The names that a gateway may have bound because `name` was taken.
fn others(name: &str) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let prefix = format!("@{}-", &name[1..]);
    let names = all.lines().filter_map(|line| line.split_ascii_whitespace().last());
    let mut found: Vec<String> =
        names.filter(|other| other.starts_with(&prefix)).map(|other| format!("\0{}", &other[1..])).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Says `line` under one name; `None` if nobody listens there.
async fn ask_at(gateway: &Gateway, name: &str, line: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut socket = match UnixStream::connect(name).await {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(error),
    };
    if !is_of(&socket, gateway.key.as_deref().and_then(owner)) {
        let theirs = socket.peer_cred().map_or_else(
            |_| "somebody".to_owned(),
            |peer| {
                let process = peer.pid().map_or_else(String::new, |pid| format!(", process {pid}"));
                format!("user {}{process}", peer.uid())
            },
        );
        return Err(io::Error::other(format!(
            "{theirs} answers in place of the gateway, and the answer is ignored; if the gateway runs as that user, run this as that user; otherwise that process impersonates the gateway"
        )));
    }
    // A gateway that has closed already does not mind; whether it answers is seen below.
    let _ = socket.write_all(line).await;
    let _ = socket.shutdown().await;
    let mut text = Vec::new();
    match socket.take(MAX_ANSWER).read_to_end(&mut text).await {
        // It was closed before the order was read: by a gateway of an earlier release, or one that answers
        // another user alone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        read => drop(read?),
    }
    if text.is_empty() {
        return Err(io::Error::other(
            "the gateway does not answer this user; run this as the gateway's user or as root",
        ));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_written_once_for_all_who_asked_before_and_never_shown_to_who_asks_later() {
        let (answers, mut taken) = (Answers::default(), 0);
        let before = Instant::now();
        let mut ask = async |asked| {
            let state = || {
                taken += 1;
                Status { site: format!("state {taken}"), ..Status::default() }
            };
            answers.text(asked, state).await.expect("a state can be written")
        };
        let site = |text: &[u8]| serde_json::from_slice::<Status>(text).expect("it is a state").site;
        let first = ask(before).await;
        let same = ask(before).await;
        assert!(Arc::ptr_eq(&first, &same) && site(&first) == "state 1");
        let later = ask(Instant::now()).await;
        assert_eq!(site(&later), "state 2", "what has happened meanwhile is in it");
        assert!(Arc::ptr_eq(&later, &ask(before).await));
        drop((first, same, later));
        assert_eq!(site(&ask(before).await), "state 3", "nothing is kept once it is sent");
    }

    /// What a client that sends these pieces and then closes, or says nothing more, has said.
    async fn heard(pieces: &[&[u8]], closes: bool) -> Option<Vec<u8>> {
        let (mut client, mut gateway) = UnixStream::pair().unwrap();
        let says = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            if closes {
                client.shutdown().await.unwrap();
            }
            client
        };
        tokio::join!(said(&mut gateway), says).0
    }

    #[tokio::test]
    async fn who_says_nothing_wants_the_state_and_a_line_is_an_order() {
        let began = Instant::now();
        assert_eq!(heard(&[], true).await, None);
        assert!(began.elapsed() < SAYS_NOTHING, "who closes its side is not waited for");
        assert_eq!(heard(&[], false).await, None, "an earlier release says nothing and waits");
        assert!(began.elapsed() >= SAYS_NOTHING);
        let order = Some(b"{\"follow\"}".to_vec());
        assert_eq!(heard(&[b"{\"fol", b"low\"}\nmore"], false).await, order);
        assert_eq!(heard(&[b"{\"follow\"}"], true).await, order);
        let long = heard(&[&[b'x'; 3 * MAX_ORDER]], false).await.unwrap();
        assert_eq!(long.len(), MAX_ORDER, "no more of it is read");
    }

    /// The gateway of a test, whose answers are these, one for each connection. `reads` has it read the order first.
    fn impersonate(site: &str, answers: Vec<String>, reads: bool) -> Gateway {
        let path = PathBuf::from(format!("/nowhere/{}", std::process::id()));
        let gateway = Gateway { site: site.to_owned(), path, key: None };
        let listener = UnixListener::bind(&names(&gateway)[0]).unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                if reads {
                    assert!(said(&mut socket).await.is_some());
                }
                socket.write_all(answer.as_bytes()).await.unwrap();
                socket.shutdown().await.unwrap();
            }
        });
        gateway
    }

    #[tokio::test]
    async fn a_gateway_that_knows_no_orders_is_told_from_one_that_was_too_fast() {
        let sent = Order::Follow { name: "orders".to_owned(), party: "dc2".to_owned(), carry_out: true };
        let mut state =
            serde_json::to_value(Status { version: "0.1.0".to_owned(), ..Status::default() }).unwrap();
        let now = state.to_string();
        state.as_object_mut().unwrap().remove("following");
        // It closes without having read the order, which resets the connection.
        let old = impersonate("old", vec![state.to_string()], false);
        let reply = order(&old, &sent).await.unwrap();
        assert!(matches!(&reply, Some(Reply::TooOld(version)) if version == "0.1.0"), "{reply:?}");
        let answer = Answer::Refused { why: "no".to_owned() };
        let text = serde_json::to_string(&answer).unwrap();
        let fast = impersonate("fast", vec![now.clone(), now, text], true);
        let reply = order(&fast, &sent).await.unwrap();
        assert!(matches!(&reply, Some(Reply::Answer(said)) if *said == answer), "{reply:?}");
        let nobody = Gateway { site: "nobody".to_owned(), ..old };
        assert!(order(&nobody, &sent).await.unwrap().is_none());
    }
}
