//! Lets a replica's earlier links end before it asks for its sync again, and continue with what they
//! have received.
//!
//! Otherwise the master would count the replica twice, and with it whatever waits for a number of
//! replicas: `WAIT`, `min-replicas-to-write`, `SHUTDOWN`.

use crate::tap::Recall;

/// The earlier links of what may be the same replica.
pub trait Predecessors: Send + std::fmt::Debug {
    /// The replica, which listens on `port`, asks for its sync. True if no earlier link of it is left.
    /// Otherwise they are told to end, and the bytes are shown again once they have.
    fn have_left(&mut self, port: Option<u16>) -> bool;

    /// What the replica gets from an earlier link if it asks to continue this history with the byte at
    /// this offset. Whatever it does not get, or all if it asks for nothing of the kind, is dropped.
    /// Called once [`have_left`](Self::have_left) is true.
    fn recall(&mut self, asked: Option<(&[u8], u64)>) -> Option<Recall>;
}
