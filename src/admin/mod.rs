//! Shows a running gateway's state to those who run it.
//!
//! `snapshot.rs` is the state at one moment. Two rules judge it: `health.rs` what needs attention, for people, and
//! `ready.rs` whether the gateway is ready, for probes. Everything else shows it: `socket.rs` is the Unix socket
//! over which `replgate status` asks, `http/` the listener of `[admin]`, which serves `page/` and `metrics/` too;
//! `link_words.rs` has the words for links that they share.

pub mod health;
pub mod http;
pub mod link_words;
mod metrics;
mod page;
pub mod ready;
mod snapshot;
pub mod socket;

pub use self::snapshot::Status;
pub use self::socket::{Gateway, ask};
