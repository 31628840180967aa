//! Lets a replica's earlier links end before it asks for its sync again.
//!
//! Otherwise the master would count the replica twice, and with it whatever waits for a number of
//! replicas: `WAIT`, `min-replicas-to-write`, `SHUTDOWN`.

/// The earlier links of what may be the same replica.
pub trait Predecessors: Send + std::fmt::Debug {
    /// The replica, which listens on `port`, asks for its sync. True if no earlier link of it is left.
    /// Otherwise they are told to end, and the bytes are shown again once they have.
    fn have_left(&mut self, port: Option<u16>) -> bool;
}

/// For a link that has no earlier ones.
#[derive(Debug)]
pub struct First;

impl Predecessors for First {
    fn have_left(&mut self, _: Option<u16>) -> bool {
        true
    }
}
