//! The wire between two gateways, `replgate/1`: frames and the fields in them.
//!
//! Encodes and decodes, and checks only the form of what comes. It knows nothing of
//! links, lanes or Redis; those stand on it. `docs/protocol.md` is its specification.

pub mod fields;
pub mod frame;
pub mod hello;
pub mod reason;
pub mod terms;
