//! Whether a site waits: its Redis are replicas of another site, through this gateway. Nothing is wrong then.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::units::Address;

/// Time for which the replication may be down before a person is to look.
const DOWN: Duration = Duration::from_secs(5);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Standby {
    /// When the replication through this gateway was last seen to work, or it was seen first; `None` if there is none.
    alive: Option<Instant>,
    is_on: bool,
    works: bool,
    was_told: bool,
}

impl Standby {
    /// Takes up whether the link of a Redis through this gateway works; `None` if none is such a replica, or somebody
    /// is the master here.
    pub(super) fn look(&mut self, works: Option<bool>, now: Instant) {
        self.works = works == Some(true);
        self.alive = works.map(|works| if works { now } else { self.alive.unwrap_or(now) });
        self.is_on = self.alive.is_some_and(|alive| now.duration_since(alive) < DOWN);
        self.was_told &= self.is_on;
    }

    /// Whether this site waits.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it would, but its replication has been down for too long.
    pub(super) fn is_cut_off(&self) -> bool {
        self.alive.is_some() && !self.is_on
    }

    /// Whether it waits and works, and that was not told yet.
    pub(super) fn is_news(&mut self) -> bool {
        self.is_on && self.works && !std::mem::replace(&mut self.was_told, true)
    }
}

/// Whether a Redis that follows `place` follows this listener.
pub(super) fn is_at(place: &Address, listener: SocketAddr) -> bool {
    let own = listener.ip().to_canonical();
    let is_host = match place.host.parse::<IpAddr>().map(|host| host.to_canonical()) {
        Ok(host) => host == own || own.is_unspecified() || (host.is_loopback() && own.is_loopback()),
        Err(_) if place.host.eq_ignore_ascii_case("localhost") => own.is_loopback() || own.is_unspecified(),
        // What a name means at the host of that Redis is not known here.
        Err(_) => !own.is_loopback(),
    };
    is_host && place.port == listener.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_waits_while_its_replication_works_and_some_seconds_longer() {
        let (mut standby, start) = (Standby::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        standby.look(Some(false), at(0));
        assert_eq!(
            (standby.is_on(), standby.is_cut_off(), standby.is_news()),
            (true, false, false),
            "it begins"
        );
        standby.look(Some(true), at(4));
        assert!(standby.is_news());
        assert!(!standby.is_news(), "once");
        standby.look(Some(false), at(8));
        assert!(standby.is_on());
        standby.look(Some(false), at(9));
        assert_eq!((standby.is_on(), standby.is_cut_off()), (false, true));
        standby.look(Some(true), at(10));
        assert!(standby.is_news(), "again");
        standby.look(None, at(11));
        assert_eq!((standby.is_on(), standby.is_cut_off()), (false, false));
    }

    #[test]
    fn a_listener_is_known_by_its_port_and_by_a_host_that_can_be_it() {
        let is_at = |host: &str, listener: &str| {
            is_at(&Address { host: host.to_owned(), port: 6390 }, listener.parse().unwrap())
        };
        for (host, listener) in [
            ("127.0.0.1", "127.0.0.1:6390"),
            ("localhost", "127.0.0.1:6390"),
            ("::1", "127.0.0.1:6390"),
            ("10.0.0.1", "0.0.0.0:6390"),
            ("10.0.0.1", "10.0.0.1:6390"),
            ("gw.dc1.example", "10.0.0.1:6390"),
        ] {
            assert!(is_at(host, listener), "{host} {listener}");
            assert!(!is_at(host, &listener.replace("6390", "6391")), "{host} {listener}");
        }
        for (host, listener) in
            [("10.0.0.2", "10.0.0.1:6390"), ("10.0.0.2", "127.0.0.1:6390"), ("gw.example", "127.0.0.1:6390")]
        {
            assert!(!is_at(host, listener), "{host} {listener}");
        }
    }
}
