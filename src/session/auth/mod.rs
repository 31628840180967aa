//! Passwords, before any data flows.
//!
//! `authenticate_replica` asks a local replica for the password of its `[[replica]]`.
//! `authenticate_to_master` sends the gateway's own password to the local master. `guessing` limits
//! the rate of clients' guesses, and `logins` that of the gateway's own failed logins.

mod authenticate_replica;
mod authenticate_to_master;
mod guessing;
mod logins;

pub(super) use self::authenticate_replica::{Proof, authenticate_replica};
pub(super) use self::authenticate_to_master::read;
pub use self::authenticate_to_master::{Login, ask, authenticate_to_master};
pub(super) use self::guessing::Guesses;
pub(super) use self::logins::Logins;
