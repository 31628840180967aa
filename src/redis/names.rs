//! The addresses that are announced for the replicas of one `[[replica]]`.
//!
//! A master, and even more a Sentinel, treats replicas with the same address as one replica. So if
//! two replicas would have the same address, the later one gets another.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time for which an address is kept for a replica that has left. After an outage each replica is
/// listed as before, in whatever order they come back.
const KEPT: Duration = Duration::from_secs(600);

/// Most addresses that are kept; beyond that, those of replicas that have left are dropped.
const MOST: usize = 1024;

/// The names of one `[[replica]]`, shared by its links.
#[derive(Debug)]
pub struct Names {
    host: String,
    port: Option<u16>,
    taken: Mutex<Vec<Taken>>,
}

/// An address in use.
#[derive(Debug)]
struct Taken {
    /// The replica's own address. With `own_port` it identifies the replica: its second connection
    /// gets the address of its first.
    client: IpAddr,
    own_port: u16,
    address: (String, u16),
    links: usize,
    /// When the last link ended.
    left: Instant,
}

/// An announced address. Dropping it gives it back; it is still kept for its replica for some time.
#[derive(Debug)]
pub struct Name {
    names: Arc<Names>,
    client: IpAddr,
    own_port: u16,
    /// The announced host.
    pub host: String,
    /// The announced port.
    pub port: u16,
}

impl Names {
    /// Names that announce `host`, and `port` in place of a replica's own.
    pub fn new(host: String, port: Option<u16>) -> Arc<Self> {
        Arc::new(Self { host, port, taken: Mutex::default() })
    }

    /// An address for the replica at `client` that listens on `own_port`. The first free one of
    /// these: as configured; with the replica's own port; with the client's address before the
    /// host.
    pub fn take(self: &Arc<Self>, client: IpAddr, own_port: u16, now: Instant) -> Name {
        let client = client.to_canonical();
        let mut taken = self.taken.lock().expect("no code panics while it holds the names");
        let full = taken.len() >= MOST;
        taken.retain(|name| {
            let kept = !full && now.saturating_duration_since(name.left) < KEPT;
            name.links > 0 || kept || (name.client == client && name.own_port == own_port)
        });
        let same = taken.iter_mut().find(|name| name.client == client && name.own_port == own_port);
        let (host, port) = match same {
            Some(name) => {
                name.links += 1;
                name.address.clone()
            }
            None => {
                let apart = format!("{}.{}", client.to_string().replace(':', "-"), self.host);
                let choices = [
                    (self.host.clone(), self.port.unwrap_or(own_port)),
                    (self.host.clone(), own_port),
                    (apart, own_port),
                ];
                let free = choices.iter().find(|choice| taken.iter().all(|name| name.address != **choice));
                let address = free.unwrap_or(&choices[2]).clone();
                taken.push(Taken { client, own_port, address: address.clone(), links: 1, left: now });
                address
            }
        };
        Name { names: Arc::clone(self), client, own_port, host, port }
    }
}

impl Name {
    /// Whether it differs from the config, because that address is in use.
    pub fn is_instead(&self) -> bool {
        self.host != self.names.host || self.names.port.is_some_and(|port| port != self.port)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut taken = self.names.taken.lock().expect("no code panics while it holds the names");
        let at = taken.iter().position(|name| name.client == self.client && name.own_port == self.own_port);
        if let Some(at) = at {
            taken[at].links -= 1;
            taken[at].left = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(names: &Arc<Names>, client: &str, port: u16, seconds: u64) -> Name {
        names.take(client.parse().unwrap(), port, Instant::now() + Duration::from_secs(seconds))
    }

    #[test]
    fn replicas_of_one_site_stay_distinct() {
        let names = Names::new("dc2".into(), None);
        let (one, two) = ("10.0.0.1", "fd00::2");
        let first = take(&names, one, 6379, 0);
        assert_eq!((first.host.as_str(), first.port, first.is_instead()), ("dc2", 6379, false));
        // Its second connection gets the same, and so does its next one before the first has ended.
        assert_eq!(take(&names, one, 6379, 0).host, "dc2");
        // Another replica on that host, and one on another host with the same port.
        let sibling = take(&names, one, 6380, 0);
        assert_eq!((sibling.host.as_str(), sibling.port), ("dc2", 6380));
        let other = take(&names, two, 6379, 0);
        assert_eq!((other.host.as_str(), other.is_instead()), ("fd00--2.dc2", true));
        // Each is listed as before, in whatever order they come back; a new replica is not.
        drop((first, sibling, other));
        assert_eq!(take(&names, two, 6379, 60).host, "fd00--2.dc2");
        assert_eq!(take(&names, "10.0.0.3", 6379, 60).host, "10.0.0.3.dc2");
        assert_eq!(take(&names, one, 6379, 60).host, "dc2");
        // After a long absence the name is free again.
        assert_eq!(take(&names, "10.0.0.4", 6379, 1200).host, "dc2");
    }

    #[test]
    fn a_port_that_is_announced_for_one_is_not_announced_for_two() {
        let names = Names::new("bravo.example".into(), Some(7000));
        let [first, second, third] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|client| take(&names, client, 6379, 0));
        assert_eq!((first.host.as_str(), first.port), ("bravo.example", 7000));
        assert_eq!((second.host.as_str(), second.port), ("bravo.example", 6379));
        assert_eq!((third.host.as_str(), third.port), ("10.0.0.3.bravo.example", 6379));
    }
}
