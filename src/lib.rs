//! A TLS-secured replication tunnel gateway for Redis.
//!
//! A pair of gateways streams a replica's connection to its master over mutually
//! authenticated TLS 1.3. Data flows one way through these modules:
//!
//! `config` → `gateway` → `listener` → `session` → `link` → `lane` → `tls`
//!
//! [`session::relay`] describes the way of a byte. [`wire`] holds the wire format; `link` and
//! `lane` build on it.

pub mod admin;
pub mod buffer;
pub mod certs;
pub mod cli;
pub mod clock;
pub mod config;
mod crypto;
pub mod demo;
pub mod escape;
pub mod file;
pub mod gateway;
pub mod lane;
pub mod link;
pub mod listener;
pub mod memory;
mod outln;
pub mod password;
mod proxy_protocol;
pub mod race;
pub mod redis;
pub mod registry;
pub mod secret;
pub mod session;
pub mod tap;
pub mod tls;
pub mod units;
pub mod unproven;
pub mod wire;
pub mod x509;
