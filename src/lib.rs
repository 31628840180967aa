//! A TLS-secured replication tunnel gateway for Redis.
//!
//! A pair of gateways streams a replica's connection to its master over mutually
//! authenticated TLS 1.3. Data flows one way through these modules:
//!
//! `config` → `gateway` → `listener` → `session` → `link` → `lane` → `tls`
//!
//! [`session::relay`] describes how a byte passes through. [`wire`] holds the wire format; `link`
//! and `lane` build on it.

mod admin;
mod bbr;
mod buffer;
mod certs;
mod cli;
mod client;
mod clock;
mod config;
mod crypto;
mod current;
mod demo;
mod escape;
mod file;
mod follow;
mod gateway;
mod gathering;
mod lane;
mod lineage;
mod link;
mod listener;
mod memory;
mod outln;
mod own_process;
mod password;
mod proxy_protocol;
mod race;
mod redis;
mod registry;
mod sandbox;
mod secret;
mod service_manager;
mod session;
mod socket_option;
mod tap;
mod tls;
mod units;
mod unproven;
mod wire;
mod words;
mod workers;
mod x509;

/// What the binary, the tests, the fuzz targets and the benches need of the library. It is no
/// interface: it changes with any release.
#[doc(hidden)]
pub mod internal {
    pub use crate::cli::{Cli, main};

    pub mod buffer {
        pub use crate::buffer::{Chunk, HEADROOM, PAYLOAD, STORAGE};
    }

    pub mod config {
        pub use crate::config::{
            Accepted, Auth, Commands, Config, Follow, LinkSettings, Master, Sentinel, Source, TlsFiles,
        };
    }

    pub mod link {
        pub use crate::link::{Event, LaneIo, LaneLoss, Link, Side};

        pub mod dials {
            pub use crate::link::dials::Dial;
        }

        pub mod reassembly {
            pub use crate::link::reassembly::MAX_RUNS;
        }
    }

    pub mod redis {
        pub mod answer {
            pub use crate::redis::answer::MAX_LINE;
        }

        pub mod at_master {
            pub use crate::redis::at_master::AtMaster;
        }

        pub mod at_replica {
            pub use crate::redis::at_replica::AtReplica;
        }

        pub mod command {
            pub use crate::redis::command::{
                MAX_ARGUMENT, MAX_ARGUMENTS, MAX_COMMAND, Parsed, encode, parse,
            };
        }

        pub mod full_syncs {
            pub use crate::redis::full_syncs::FullSyncs;
        }

        pub mod gate {
            pub use crate::redis::gate::{Gate, Rules};
        }

        pub mod grants {
            pub use crate::redis::grants::Member;
        }

        pub mod introduction {
            pub use crate::redis::introduction::{Capability, Introduction};
        }

        pub mod listing {
            pub use crate::redis::listing::Listing;
        }

        pub mod names {
            pub use crate::redis::names::Names;
        }

        pub mod observer {
            pub use crate::redis::observer::Observer;
        }

        pub mod replication {
            pub use crate::redis::replication::{Observed, Replication, Stage};
        }

        pub mod syncs {
            pub use crate::redis::syncs::Syncs;
        }
    }

    pub mod tap {
        pub use crate::tap::{Action, Driver, Flow, Tap, Verdict};
    }

    pub mod tls {
        pub mod material {
            pub use crate::tls::material::{Dial, Material};
        }

        pub mod record {
            pub use crate::tls::record::{Records, sealed_length};
        }

        pub mod pem {
            pub use crate::tls::pem::{Contents, parse, revocation_lists};
        }
    }

    pub mod units {
        pub use crate::units::{Address, ListenAddress};
    }

    pub mod wire {
        pub mod fields {
            pub use crate::wire::fields::MAX_TEXT;
        }

        pub mod frame {
            pub use crate::wire::frame::{
                Decoder, Frame, FrameError, HEADER, Item, MAX_CONTROL, MAX_DATA, Report, data_header,
            };
        }

        pub mod hello {
            pub use crate::wire::hello::{Accept, Hello, Id, Identity, Refuse, Request, VERSION};
        }

        pub mod lists {
            pub use crate::wire::lists::{Known, LARGEST_PIECE, ListName, ListNumber, MOST_KNOWN, Piece};
        }

        pub mod offer {
            pub use crate::wire::offer::Offer;
        }

        pub mod reason {
            pub use crate::wire::reason::{Reason, ReasonCode};
        }

        pub mod terms {
            pub use crate::wire::terms::{MAX_LANES, Terms};
        }
    }
}
