//! What of Redis' replication protocol the product must know.
//!
//! Everything here works on bytes and owns no socket: the command parser, the
//! master side's allow-list, the replica side's announced address, and the
//! replies that a gateway makes up (errors in the handshake, nothing else ever).

pub mod announce;
pub mod command;
pub mod gate;
pub mod reply;
