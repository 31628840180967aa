//! The parts of Redis' replication protocol that the gateway must know.
//!
//! Everything here works on bytes and owns no socket. All bytes of a link pass [`at_master`] or
//! [`at_replica`]. The first holds the allow-list ([`gate`]), the second rewrites the
//! [`introduction`]; both have an [`observer`] behind that, which records what it learns as a
//! [`replication`]. Replicas send [`command`]s and masters send [`answer`]s; [`reply`] has the
//! replies that a gateway gives itself. `check` reads what Redis answers to it as [`value`]s.

pub mod answer;
pub mod at_master;
pub mod at_replica;
pub mod command;
pub mod full_syncs;
pub mod gate;
pub mod grants;
pub mod guesses;
pub mod info;
pub mod introduction;
pub mod judged;
pub mod lag;
pub mod listing;
pub mod names;
pub mod observer;
pub mod openings;
pub mod pace;
pub mod replconf;
pub mod replication;
pub mod reply;
pub mod returning;
pub mod syncs;
pub mod value;

#[cfg(test)]
mod tests;
