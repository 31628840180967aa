//! Asks one Redis or Sentinel the same again and again, over one connection that is kept.
//!
//! A connection that was closed is opened anew at the next turn. One that is accepted and gives no answer is
//! kept for a while, since what hangs would take every new one as well. Names are resolved at each connect
//! and every [`RESOLVE_EVERY`]: if the address in use is not among them any more, the connection is replaced.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::pace::Pace;
use crate::client::{self, Conversation, Unasked};
use crate::config::Auth;
use crate::race::run::resolve;
use crate::redis::command;
use crate::redis::value::Value;
use crate::units::Address;

/// Time given to connect.
const CONNECT: Duration = Duration::from_secs(2);

/// Time given to each turn's answers, before the other end counts as one that hangs.
const ANSWER: Duration = Duration::from_secs(1);

/// Time after which a connection without an answer is given up.
const GIVE_UP: Duration = Duration::from_secs(6);

/// Interval at which a name is resolved anew.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// Least pause after a refused login: each has Redis check a password.
const REFUSED: Duration = Duration::from_secs(1);

/// What is said of a Redis that is connected and silent, as a clause.
pub const HANGS: &str = "hangs: it accepts connections, and gives no answer within 1 s";

/// What is said of one that sends more than was asked for, as a clause.
pub const MORE: &str = "it says more than it was asked";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A text.
    Text(Vec<u8>),
    /// An error, without the `-`.
    Error(Vec<u8>),
    /// A list.
    List(Vec<Reply>),
    /// Anything else.
    Other,
}

impl Reply {
    /// A copy of a value.
    pub fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.to_vec()),
            Value::Error(words) => Self::Error(words.to_vec()),
            Value::List(items) => Self::List(items.iter().map(Self::of).collect()),
            Value::Number(_) | Value::Nil => Self::Other,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Asks one place.
#[derive(Debug)]
pub struct Asking {
    place: Address,
    login: Option<Auth>,
    commands: &'static [&'static [&'static str]],
    argument: Option<String>,
    pace: Pace,
    connection: Option<Connection>,
    /// The last address that was connected.
    last_good: Option<SocketAddr>,
    /// The addresses of the place, as they were resolved last.
    known: Vec<SocketAddr>,
    resolving: Option<AbortOnDropHandle<Result<Vec<SocketAddr>, String>>>,
    resolved: Option<Instant>,
    pause: Duration,
}

#[derive(Debug)]
struct Connection {
    conversation: Conversation,
    address: SocketAddr,
    /// Since when it owes answers.
    asked: Option<Instant>,
    replies: Vec<Reply>,
}

impl Asking {
    /// Asks these commands at each turn. `argument` follows the words of each of them, if there is one.
    pub fn new(
        place: Address,
        login: Option<Auth>,
        commands: &'static [&'static [&'static str]],
        argument: Option<String>,
        pace: Pace,
    ) -> Self {
        let known = place.host.parse::<IpAddr>().map(|ip| vec![SocketAddr::new(ip, place.port)]);
        Self {
            place,
            login,
            commands,
            argument,
            pace,
            connection: None,
            last_good: None,
            known: known.unwrap_or_default(),
            resolving: None,
            resolved: None,
            pause: Duration::ZERO,
        }
    }

    /// The address that was asked last.
    pub fn address(&self) -> Option<SocketAddr> {
        self.last_good
    }

    /// Every address of the place, as far as it is known.
    pub fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// Waits for the next turn and returns its answers, one for each command; or why there are none, as a
    /// clause. Cancelling it may lose a turn.
    pub async fn next(&mut self) -> Result<Vec<Reply>, String> {
        self.pace.turn(std::mem::take(&mut self.pause)).await;
        self.follow_name().await;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let replied = timeout(ANSWER, self.answers(&mut connection)).await;
        let late = || connection.asked.is_some_and(|asked| asked.elapsed() >= GIVE_UP);
        match replied {
            Ok(Ok(())) => {
                connection.asked = None;
                let replies = std::mem::take(&mut connection.replies);
                self.connection = Some(connection);
                Ok(replies)
            }
            Ok(Err(why)) => Err(format!("cannot be asked: {why}")),
            Err(_) => {
                if !late() {
                    self.connection = Some(connection);
                }
                Err(HANGS.to_owned())
            }
        }
    }

    /// Asks, unless answers are owed already, and reads them.
    async fn answers(&self, connection: &mut Connection) -> Result<(), String> {
        if connection.asked.is_none() {
            connection.asked = Some(Instant::now());
            connection.replies.clear();
            let mut commands = Vec::new();
            for command in self.commands {
                let words = command.iter().copied().chain(self.argument.as_deref());
                let words: Vec<_> = words.map(str::as_bytes).collect();
                commands.extend(command::encode(&words));
            }
            connection.conversation.send_encoded(&commands).await?;
        }
        while connection.replies.len() < self.commands.len() {
            let reply = connection.conversation.answer(Reply::of).await?;
            connection.replies.push(reply);
        }
        // What comes without being asked for would be taken for the next answer.
        if connection.conversation.is_quiet() { Ok(()) } else { Err(MORE.to_owned()) }
    }

    async fn connect(&mut self) -> Result<Connection, String> {
        let opened = client::open(&self.place, self.last_good, self.login.as_ref(), CONNECT).await;
        let conversation = opened.map_err(|fault| match fault {
            Unasked::Unreached(why) => format!("cannot be reached: {why}"),
            Unasked::Refused(why) => {
                self.pause = REFUSED;
                format!("cannot be asked: {why}")
            }
        })?;
        let address = conversation.peer().map_err(|error| format!("cannot be reached: {error}"))?;
        self.last_good = Some(address);
        if !self.known.contains(&address) {
            self.known.push(address);
        }
        Ok(Connection { conversation, address, asked: None, replies: Vec::new() })
    }

    /// Resolves the name anew from time to time, while it is asked on, and gives up a connection to an
    /// address that it does not have any more.
    async fn follow_name(&mut self) {
        if self.place.host.parse::<IpAddr>().is_ok() {
            return;
        }
        if self.resolving.as_ref().is_some_and(AbortOnDropHandle::is_finished)
            && let Some(resolving) = self.resolving.take()
            && let Ok(Ok(found)) = resolving.await
        {
            self.known = found;
            self.connection.take_if(|connection| !self.known.contains(&connection.address));
        }
        let is_due = self.resolved.is_none_or(|then| then.elapsed() >= RESOLVE_EVERY);
        if self.resolving.is_none() && is_due {
            self.resolved = Some(Instant::now());
            let place = self.place.clone();
            self.resolving = Some(AbortOnDropHandle::new(tokio::spawn(async move { resolve(&place).await })));
        }
    }
}
