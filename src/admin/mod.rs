//! Shows a running gateway's state to those who run it.
//!
//! `snapshot.rs` is the state at one moment. Two rules judge it: `health.rs` what needs attention, for people, and
//! `ready.rs` whether the gateway is ready, for probes. Everything else shows it: `socket.rs` is the Unix socket
//! over which `replgate status` asks and people give orders (`orders.rs`), `http/` the listener of `[admin]`, which serves `page/` and `metrics/` too;
//! `awaited.rs` knows which links are to be there; `link_words.rs` and `follow_words.rs` have the words that they share.

pub mod awaited;
pub mod follow_words;
pub mod health;
pub mod http;
pub mod link_words;
mod metrics;
pub mod orders;
mod page;
pub mod ready;
mod snapshot;
pub mod socket;

pub use self::snapshot::Status;
pub use self::socket::{Gateway, Reply, ask, order};
