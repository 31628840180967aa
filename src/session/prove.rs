//! Has a local replica prove that it knows the password of its `[[replica]]`, before
//! anything is dialled for it: who is let in here gets the data.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::password::Password;
use crate::redis::command::{self, Parsed};
use crate::redis::reply;
use crate::secret::Secret;

/// Commands that are answered before the password.
const MOST: usize = 16;

/// Bytes that are read before the password.
const MOST_BYTES: usize = 16 * 1024;

/// How the proof went.
pub(super) enum Proof {
    /// It knows the password; what it says next is unread.
    Given,
    /// It does not: its last words, still to be told, and the reason for the log.
    Refused(Vec<u8>, &'static str),
}

/// Answers as a Redis does that wants a password, until AUTH has come. Reads nothing
/// beyond that; has no deadline of its own.
pub(super) async fn prove(redis: &mut TcpStream, password: &Password, site: &str) -> io::Result<Proof> {
    let mut held = Secret::default();
    let mut taken = 0;
    let mut piece = Zeroizing::new([0; 1024]);
    for _ in 0..MOST {
        let (verb, guess) = loop {
            let read = held.len();
            let count = redis.peek(&mut *piece).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            held.extend(&piece[..count]);
            let parsed = command::parse(&held);
            let newlines = matches!(parsed, Parsed::Newline(_));
            let (length, said) = match parsed {
                Parsed::Newline(length) => (length, None),
                Parsed::Incomplete => (held.len(), None),
                Parsed::Malformed(_) => {
                    return Ok(Proof::Refused(reply::no_auth(site), "what it says is no command of Redis"));
                }
                Parsed::Command { length, arguments } => {
                    let guess = match arguments[1..] {
                        // The name of a user means nothing here.
                        [guess] | [_, guess] => password.is(guess),
                        _ => false,
                    };
                    (length, Some((arguments[0].to_ascii_uppercase(), guess)))
                }
            };
            redis.read_exact(&mut piece[..length - read]).await?;
            taken += length - read;
            if taken > MOST_BYTES {
                return Ok(Proof::Refused(reply::no_auth(site), "it says too much and no password"));
            }
            // All that was held was read, unless it is the beginning of a command.
            if said.is_some() || newlines {
                held.clear();
            }
            if let Some(said) = said {
                break said;
            }
        };
        match verb.as_slice() {
            b"AUTH" if guess => {
                redis.write_all(reply::OK).await?;
                return Ok(Proof::Given);
            }
            b"AUTH" => return Ok(Proof::Refused(reply::wrong_password(site), "its password is wrong")),
            b"PSYNC" | b"SYNC" => break,
            // What a replica goes on after, as with Redis itself.
            _ => redis.write_all(&reply::no_auth(site)).await?,
        }
    }
    Ok(Proof::Refused(reply::no_auth(site), "it says no password"))
}
