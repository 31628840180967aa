//! Asks a Redis, or a Sentinel, on this gateway's own behalf: logs in, and reads one bounded answer to each
//! command.
//!
//! What answers may be no Redis, or one that was taken over. So each answer has at most
//! [`crate::redis::value::LARGEST`] bytes, and what was read is wiped: Redis may repeat what it was sent.
//! The connection is closed when its owner drops it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::Auth;
use crate::escape::shown;
use crate::password::Password;
use crate::race;
use crate::redis::answer::{CLOSES, MAX_LINE, SPEAKS_TLS, is_tls};
use crate::redis::command;
use crate::redis::value::{Parsed, Value, parse};
use crate::secret::Secret;
use crate::units::Address;

/// Time that a Redis is given to accept a connection, to answer AUTH, and a password file to be read.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// Redis' answer to the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Redis accepts it.
    Good,
    /// Redis requires no password.
    NotWanted,
}

/// Why a Redis could not be asked, in a sentence without its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// It cannot be reached, or does not speak Redis' protocol.
    Unreached(String),
    /// It refuses the login.
    Refused(String),
}

/// A connection on which commands are answered one after the other. What was read is wiped.
#[derive(Debug)]
pub struct Conversation {
    socket: TcpStream,
    read: Secret,
}

/// Connects to a place, within `within`, and logs in if there is a login. `last_good` is tried first, if it is
/// still one of the place's addresses.
pub async fn open(
    place: &Address,
    last_good: Option<SocketAddr>,
    login: Option<&Auth>,
    within: Duration,
) -> Result<Conversation, Unasked> {
    let connected = race::run::connect(place, last_good, within).await;
    let mut socket = connected.map_err(|error| Unasked::Unreached(error.to_string()))?;
    if let Some(login) = login {
        authenticate_to_master(&mut socket, login).await.map_err(Unasked::Refused)?;
    }
    Ok(Conversation::over(socket))
}

impl Conversation {
    /// Over a connection on which every answer so far was read.
    pub fn over(socket: TcpStream) -> Self {
        Self { socket, read: Secret::default() }
    }

    /// The address of the other end.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// The connection itself, unless more has come than was asked for.
    pub fn into_socket(self) -> Option<TcpStream> {
        self.read.is_empty().then_some(self.socket)
    }

    /// Sends a command and passes its answer to `take`. Has no deadline of its own; after one that was
    /// cancelled the connection must not be used again, unless the answer is waited for with
    /// [`Conversation::answer`].
    pub async fn ask<T>(&mut self, words: &[&[u8]], take: impl FnOnce(&Value<'_>) -> T) -> Result<T, String> {
        self.send(words).await?;
        self.answer(take).await
    }

    /// Sends a command, whose answer [`Conversation::answer`] reads.
    pub async fn send(&mut self, words: &[&[u8]]) -> Result<(), String> {
        self.send_encoded(&Zeroizing::new(command::encode(words))).await
    }

    /// Sends one or more commands that are encoded already.
    pub async fn send_encoded(&mut self, commands: &[u8]) -> Result<(), String> {
        self.socket.write_all(commands).await.map_err(|error| error.to_string())
    }

    /// Whether nothing more has come than was read.
    pub fn is_quiet(&self) -> bool {
        self.read.is_empty()
    }

    /// Passes the next answer to `take`. Cancelling this loses nothing.
    pub async fn answer<T>(&mut self, take: impl FnOnce(&Value<'_>) -> T) -> Result<T, String> {
        let mut piece = Zeroizing::new([0; 4096]);
        loop {
            if is_tls(&self.read) {
                return Err(SPEAKS_TLS.to_owned());
            }
            let (length, taken) = match parse(&self.read) {
                Parsed::Whole { length, value } => (length, take(&value)),
                Parsed::Malformed(why) => return Err(why.to_owned()),
                Parsed::Incomplete => {
                    match self.socket.read(&mut piece[..]).await.map_err(|error| error.to_string())? {
                        0 => return Err("it closes the connection without a whole answer".to_owned()),
                        count => {
                            self.read.extend(&piece[..count]);
                            continue;
                        }
                    }
                }
            };
            self.read.consume(length);
            return Ok(taken);
        }
    }
}

/// Sends AUTH on a new connection, on which nothing was sent before. The password file is read each
/// time, so that a new password is used from the next link on. An error is a sentence for the log,
/// with the next step.
pub async fn authenticate_to_master(redis: &mut TcpStream, auth: &Auth) -> Result<Login, String> {
    let password = read_password(&auth.password_file).await?;
    let mut words = vec![&b"AUTH"[..]];
    words.extend(auth.username.as_deref().map(str::as_bytes));
    words.push(password.bytes());
    let command = Zeroizing::new(command::encode(&words));
    let answer = timeout(DEADLINE, ask_line(redis, &command)).await;
    match answer {
        Ok(Ok(line)) => judge(&line, auth),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(format!("Redis {CLOSES}")),
        Ok(Err(error)) => Err(format!("AUTH: {error}")),
        Err(_) => Err(format!("no answer to AUTH within {} s", DEADLINE.as_secs())),
    }
}

/// Reads a password file on another thread and with a deadline: its disk may not respond.
pub async fn read_password(path: &Path) -> Result<Password, String> {
    let own = path.to_owned();
    match timeout(DEADLINE, spawn_blocking(move || Password::read(&own))).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => Err(format!("password file {}: {error}", path.display())),
        Err(_) => Err(format!("password file {}: it could not be read in time", path.display())),
    }
}

/// Sends a command and reads its answer of one line, without its end. The answer is wiped
/// when it is dropped: Redis may repeat what it was sent.
pub async fn ask_line(redis: &mut TcpStream, command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    redis.write_all(command).await?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    while line.last() != Some(&b'\n') {
        if is_tls(&line) {
            return Err(io::Error::other(SPEAKS_TLS));
        }
        if line.len() >= MAX_LINE {
            return Err(io::Error::other("the answer is not one line"));
        }
        line.push(redis.read_u8().await?);
    }
    let length = line.trim_ascii_end().len();
    line.truncate(length);
    Ok(line)
}

/// Evaluates Redis' answer. Its text is never shown, since Redis may repeat what it was sent.
fn judge(line: &[u8], auth: &Auth) -> Result<Login, String> {
    let words = Zeroizing::new(shown(line));
    let said = |part: &str| words.contains(part);
    let code = words.split(' ').next().unwrap_or_default().trim_start_matches('-').to_owned();
    let user = auth.username.as_ref().map_or_else(String::new, |name| format!(" for user {name}"));
    let file = auth.password_file.display();
    if line == b"+OK" {
        Ok(Login::Good)
    } else if said("without any password configured") || said("no password is set") {
        Ok(Login::NotWanted)
    } else if line.starts_with(b"-WRONGPASS") || said("invalid password") {
        Err(format!(
            "Redis refuses the password in {file}{user} ({code}); compare it with the master's requirepass or ACL LIST"
        ))
    } else if auth.username.is_some() && said("wrong number of arguments") {
        Err("Redis knows no users before version 6: leave `username` out of `auth`".to_owned())
    } else if said("unknown command") {
        Err("Redis knows no AUTH: was it renamed (rename-command)?".to_owned())
    } else {
        Err(format!("Redis answers AUTH with an error ({code}); its own log may say more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_meaning() {
        let auth = Auth { username: Some("repl".into()), password_file: "redis.pw".into() };
        let judged = |line: &str| judge(line.as_bytes(), &auth);
        assert_eq!(judged("+OK"), Ok(Login::Good));
        for none in [
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            "-ERR Client sent AUTH, but no password is set",
        ] {
            assert_eq!(judged(none), Ok(Login::NotWanted));
        }
        for (line, words) in [
            (
                "-WRONGPASS invalid username-password pair or user is disabled.",
                "password in redis.pw for user repl",
            ),
            ("-ERR invalid password", "redis.pw"),
            ("-ERR wrong number of arguments for 'auth' command", "leave `username` out"),
            ("-LOADING Redis is loading the dataset in memory", "LOADING"),
            ("-ERR unknown command 'AUTH', with args beginning with: 'secret'", "renamed"),
            ("-ERR whatever secret", "(ERR)"),
        ] {
            let fault = judged(line).unwrap_err();
            assert!(fault.contains(words) && !fault.contains("secret"), "{line}: {fault}");
        }
    }
}
