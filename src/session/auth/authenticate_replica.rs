//! Asks a local replica for the password of its `[[replica]]` before anything is dialled for it:
//! every accepted replica gets the data.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::redis::command::{self, Parsed};
use crate::redis::reply;
use crate::secret::Secret;
use crate::unproven::Seat;

/// Most commands that are answered before the password.
const MOST: usize = 16;

/// Most bytes that are read before the password.
const MOST_BYTES: usize = 16 * 1024;

/// What a client has sent as its proof.
pub(in crate::session) enum Proof {
    /// A password. It still has no reply, and what follows it is unread.
    Password(Zeroizing<Vec<u8>>),
    /// No password: the reply that must still be sent, and the reason for the log.
    None(Vec<u8>, &'static str),
}

/// Answers like a Redis that requires a password, until AUTH has come. Each connection gets one
/// attempt. Reads nothing beyond AUTH. Has no deadline.
pub(in crate::session) async fn authenticate_replica(
    redis: &mut TcpStream,
    seat: &Seat<IpAddr>,
    site: &str,
) -> io::Result<Proof> {
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
            seat.spoke();
            held.extend(&piece[..count]);
            let parsed = command::parse(&held);
            let newlines = matches!(parsed, Parsed::Newline(_));
            let (length, said) = match parsed {
                Parsed::Newline(length) => (length, None),
                Parsed::Incomplete => (held.len(), None),
                Parsed::Malformed(command::PROXY) => {
                    return Ok(Proof::None(reply::error(site, command::PROXY), command::PROXY));
                }
                Parsed::Malformed(_) => {
                    return Ok(Proof::None(
                        reply::no_auth(site),
                        "it sent something that is not a Redis command",
                    ));
                }
                Parsed::Command { length, arguments } => {
                    let guess = match arguments[1..] {
                        // The user name is ignored.
                        [guess] | [_, guess] => Some(Zeroizing::new(guess.to_vec())),
                        _ => None,
                    };
                    (length, Some((arguments[0].to_ascii_uppercase(), guess)))
                }
            };
            redis.read_exact(&mut piece[..length - read]).await?;
            taken += length - read;
            if taken > MOST_BYTES {
                return Ok(Proof::None(reply::no_auth(site), "it sent too much data without a password"));
            }
            // Everything held was used, except perhaps the start of a command.
            if said.is_some() || newlines {
                held.clear();
            }
            if let Some(said) = said {
                break said;
            }
        };
        match (verb.as_slice(), guess) {
            (b"AUTH", Some(guess)) => return Ok(Proof::Password(guess)),
            (b"AUTH", None) => {
                return Ok(Proof::None(reply::wrong_password(site), "its AUTH has no password"));
            }
            (b"PSYNC" | b"SYNC", _) => break,
            // A replica continues after this error, as it does with Redis itself.
            _ => redis.write_all(&reply::no_auth(site)).await?,
        }
    }
    Ok(Proof::None(reply::no_auth(site), "it sent no password"))
}
