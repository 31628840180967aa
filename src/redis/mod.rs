//! What of Redis' replication protocol the product must know.
//!
//! Everything here works on bytes and owns no socket. [`at_master`] and [`at_replica`]
//! are what a link's bytes pass: there the allow-list ([`gate`]), here the
//! [`introduction`], and behind either the [`observer`], which keeps what is known as a
//! [`replication`]. They read [`command`]s one way and [`answer`]s the other; the words
//! that a gateway says itself are in [`reply`].

pub mod answer;
pub mod at_master;
pub mod at_replica;
pub mod command;
pub mod full_syncs;
pub mod gate;
pub mod grants;
pub mod guesses;
pub mod introduction;
pub mod lag;
pub mod listing;
pub mod names;
pub mod observer;
pub mod openings;
pub mod pace;
pub mod replconf;
pub mod replication;
pub mod reply;
pub mod syncs;

#[cfg(test)]
mod tests;
