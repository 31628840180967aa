//! Shows a running gateway's state to those who run it.
//!
//! `snapshot.rs` is the state at one moment, `health.rs` what in it needs attention, `ready.rs` the rule that says whether the gateway is ready,
//! `socket.rs` the Unix socket over which `replgate status` asks, and `http/` the listener of `[admin]`, which
//! serves `page/` and `metrics/` too.

pub mod health;
pub mod http;
mod metrics;
mod page;
pub mod ready;
mod snapshot;
pub mod socket;

pub use self::snapshot::Status;
pub use self::socket::{Gateway, ask};
