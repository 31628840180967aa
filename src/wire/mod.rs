//! The wire between two gateways, `replgate/1`: frames and the fields in them.
//!
//! Encodes and decodes, and checks only the form of what is received. It does not know links, lanes
//! or Redis. `docs/protocol.md` is its specification.

pub mod fields;
pub mod frame;
pub mod hello;
pub mod lists;
pub mod offer;
pub mod reason;
pub mod terms;
