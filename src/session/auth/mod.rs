//! Passwords, before any data flows.
//!
//! `authenticate_replica` asks a local replica for the password of its `[[replica]]`, and
//! `authenticate_to_master` says the gateway's own password to the local master.
//! `guessing` paces the passwords that clients try, and `logins` those of the gateway itself.

mod authenticate_replica;
mod authenticate_to_master;
mod guessing;
mod logins;

pub(super) use self::authenticate_replica::{Proof, authenticate_replica};
pub(super) use self::authenticate_to_master::read;
pub use self::authenticate_to_master::{Login, ask, authenticate_to_master};
pub(super) use self::guessing::Guesses;
pub(super) use self::logins::Logins;
