//! A stranger, a broken program or a stolen site certificate can do no harm.

mod commands;
mod floods;
mod lanes;
mod listing;
mod strangers;

use std::sync::atomic::{AtomicU16, Ordering};

use replgate::internal::wire::frame::Frame;

use crate::support::SOON;
use crate::support::gateway::{Lab, Pair};
use crate::support::redis::{Client, Redis};
use crate::support::wire::Site;
use replgate::internal::wire::reason::{Reason, ReasonCode};

/// A master with data behind a pair of gateways, and the digest of the data, which must not change.
struct Target {
    alpha: Redis,
    pair: Pair,
    digest: String,
    clients: AtomicU16,
    /// The last field, so that the logs still exist when the others are dropped.
    lab: Lab,
}

impl Target {
    fn new() -> Self {
        Self::with("")
    }

    /// With additional lines in the config of dc1.
    fn with(more: &str) -> Self {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        alpha.fill();
        let pair = lab.pair_with(alpha.port, more, "");
        let digest = alpha.digest();
        Self { lab, alpha, pair, digest, clients: AtomicU16::new(0) }
    }

    /// Asserts that a replica can still sync and that the data has not changed.
    #[track_caller]
    fn is_unharmed(&self) {
        let bravo = self.lab.redis("bravo");
        bravo.replicaof(self.pair.entry);
        bravo.wait_equal(&self.alpha);
        assert_eq!(self.alpha.digest(), self.digest);
        assert_eq!(self.alpha.ask(&["CONFIG", "GET", "maxmemory"]), "maxmemory 0");
    }

    /// A client with a new address, since an address whose links fail has to wait.
    fn client(&self) -> Client {
        let next = self.clients.fetch_add(1, Ordering::Relaxed);
        Client::from([127, 1, (next >> 8) as u8, next as u8], self.pair.entry)
    }

    /// A hand-made client with dc2's own certificate.
    fn site(&self) -> Site {
        Site::new(&self.lab.path().join("certs"), "dc2", "dc1")
    }
}

#[test]
fn a_hand_made_client_that_follows_the_protocol_is_served() {
    let target = Target::new();
    let (mut wire, _) = target.site().link(target.pair.wan);
    wire.data(0, b"PING\r\nREPLCONF listening-port 7\r\n").expect("the gateway reads");
    assert_eq!(wire.stream(12), b"+PONG\r\n+OK\r\n");
    wire.send(&Frame::Abort(Reason::new(ReasonCode::ReplicaClosed, "done"))).expect("the gateway reads");
    assert!(wire.is_closed(SOON));
}
