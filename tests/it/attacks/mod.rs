//! What a stranger, a broken program or a stolen site can do: nothing.

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

/// A master with data, a pair, and what must not change.
struct Target {
    alpha: Redis,
    pair: Pair,
    digest: String,
    clients: AtomicU16,
    /// Last, so that the logs are still there when the others are dropped.
    lab: Lab,
}

impl Target {
    fn new() -> Self {
        Self::with("")
    }

    /// With more in the config of dc1.
    fn with(more: &str) -> Self {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        alpha.fill();
        let pair = lab.pair_with(alpha.port, more, "");
        let digest = alpha.digest();
        Self { lab, alpha, pair, digest, clients: AtomicU16::new(0) }
    }

    /// A replica gets through, and the data is what it was.
    #[track_caller]
    fn is_unharmed(&self) {
        let bravo = self.lab.redis("bravo");
        bravo.replicaof(self.pair.entry);
        bravo.wait_equal(&self.alpha);
        assert_eq!(self.alpha.digest(), self.digest);
        assert_eq!(self.alpha.ask(&["CONFIG", "GET", "maxmemory"]), "maxmemory 0");
    }

    /// A client at an address of its own: one whose links come to nothing has to wait.
    fn client(&self) -> Client {
        let next = self.clients.fetch_add(1, Ordering::Relaxed);
        Client::from([127, 1, (next >> 8) as u8, next as u8], self.pair.entry)
    }

    /// What holds dc2's own certificate, and is no gateway.
    fn site(&self) -> Site {
        Site::new(&self.lab.path().join("certs"), "dc2", "dc1")
    }
}

#[test]
fn a_hand_made_client_that_keeps_to_the_rules_is_served() {
    let target = Target::new();
    let (mut wire, _) = target.site().link(target.pair.wan);
    wire.data(0, b"PING\r\nREPLCONF listening-port 7\r\n").expect("the gateway reads");
    assert_eq!(wire.stream(12), b"+PONG\r\n+OK\r\n");
    wire.send(&Frame::Abort(Reason::new(ReasonCode::ReplicaClosed, "done"))).expect("the gateway reads");
    assert!(wire.is_closed(SOON));
}
