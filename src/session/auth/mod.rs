//! Passwords, before any data flows.
//!
//! `authenticate_replica` asks a local replica for the password of its `[[replica]]`. `guessing` limits
//! the rate of clients' guesses, and `logins` that of the gateway's own failed logins at its masters
//! ([`crate::client`]).

mod authenticate_replica;
mod guessing;
mod logins;

pub(super) use self::authenticate_replica::{Proof, authenticate_replica};
pub(super) use self::guessing::Guesses;
pub(super) use self::logins::Logins;
