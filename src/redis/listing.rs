//! Decides under which address a master lists the replicas of another site. It is always a name
//! under that site's name, apart from exceptions in the config.
//!
//! A master copies the announced address into its INFO as it is. Without `ip-address` it shows the
//! socket's peer, which is the gateway's own host. Sentinel sends REPLICAOF to whatever address
//! INFO shows, so a site could have any Redis that Sentinel reaches overwritten. Therefore only the
//! site's certificate and the config decide what INFO shows.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::command;
use super::replconf;
use crate::units::{Address, is_label};

/// Longest name in bytes that every Redis accepts. Up to version 6.0, Redis refuses a longer one
/// and keeps the peer's address.
pub const LONGEST: usize = 45;

const PORT: &str = "listening-port";
const ADDRESS: &str = "ip-address";

/// The rules for the replicas of one site at one master.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    site: String,
    accepted: Vec<Address>,
    master: Option<SocketAddr>,
}

impl Listing {
    /// The rules for the replicas of `site`, named as in its certificate. An address in `accepted`
    /// is listed as announced, unless it is the `master` itself.
    pub fn new(site: &str, accepted: &[Address], master: SocketAddr) -> Self {
        Self { site: site.to_owned(), accepted: accepted.to_vec(), master: Some(master) }
    }

    /// The host to list for a replica that announces an address, or none, and listens on `port`.
    pub fn host(&self, announced: Option<&[u8]>, port: Option<u16>) -> String {
        let announced = announced.and_then(|host| std::str::from_utf8(host).ok());
        let accepted = |host: &str| {
            self.accepted.iter().any(|address| {
                address.host.eq_ignore_ascii_case(host)
                    && Some(address.port) == port
                    && self
                        .master
                        .is_none_or(|master| !is_same(address, &master.ip().to_string(), master.port()))
            })
        };
        match announced {
            Some(host) if accepted(host) => host.to_owned(),
            Some(host) => self.under(host).unwrap_or_else(|| self.site.clone()),
            None => self.site.clone(),
        }
    }

    /// `NAME.SITE`, if every Redis accepts it.
    fn under(&self, announced: &str) -> Option<String> {
        if announced.eq_ignore_ascii_case(&self.site) {
            return None;
        }
        let own = format!(".{}", self.site);
        let name = match announced.split_at_checked(announced.len().saturating_sub(own.len())) {
            // The site's own gateway has added the site's name already.
            Some((name, end)) if end.eq_ignore_ascii_case(&own) => name,
            _ => announced,
        };
        let listed = format!("{name}.{}", self.site);
        (listed.len() <= LONGEST && name.split('.').all(is_label)).then_some(listed)
    }
}

/// What the master lists for the replica of one connection.
#[derive(Debug, Default)]
pub struct Listed {
    listing: Listing,
    announced: Option<Vec<u8>>,
    port: Option<u16>,
    taken: bool,
}

impl Listed {
    /// A connection on which nothing was announced so far.
    pub fn new(listing: Listing) -> Self {
        Self { listing, ..Self::default() }
    }

    /// What a REPLCONF with these options becomes; `None` if it stays as it is. The caller has
    /// checked the values.
    pub fn rewritten(&mut self, options: &[&[u8]]) -> Option<Vec<u8>> {
        let is_ours =
            |option: &[u8]| [PORT, ADDRESS].iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()));
        let (ours, others): (Vec<_>, Vec<_>) = options.chunks_exact(2).partition(|option| is_ours(option[0]));
        if ours.is_empty() {
            return None;
        }
        if let Some(port) = replconf::last(options, PORT) {
            self.port = replconf::port(port);
        }
        if let Some(host) = replconf::last(options, ADDRESS) {
            self.announced = Some(host.to_vec());
        }
        self.taken = false;
        Some(self.encode(&others.concat()))
    }

    /// The gateway's own REPLCONF, which it sends before a sync is asked for.
    pub fn own(&self) -> Vec<u8> {
        self.encode(&[])
    }

    /// Port and address are always sent together. So it does not matter which part of an earlier
    /// command the master has accepted.
    fn encode(&self, others: &[&[u8]]) -> Vec<u8> {
        let host = self.listing.host(self.announced.as_deref(), self.port);
        let port = self.port.map(|port| port.to_string());
        let mut words = [&[&b"REPLCONF"[..]], others].concat();
        if let Some(port) = &port {
            words.extend([PORT.as_bytes(), port.as_bytes()]);
        }
        words.extend([ADDRESS.as_bytes(), host.as_bytes()]);
        command::encode(&words)
    }

    /// Takes the master's reply to [`Listed::own`]. Only this reply is proof: a master may accept a
    /// part of a replica's command.
    pub fn answered(&mut self, line: &[u8]) {
        self.taken = line == b"+OK";
    }

    /// The port on which the replica says that it listens.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether the master has accepted the latest address.
    pub fn is_taken(&self) -> bool {
        self.taken
    }
}

/// Whether an address is that of the Redis at `host` and `port`, as far as can be told without
/// resolving a name.
pub fn is_same(address: &Address, host: &str, port: u16) -> bool {
    let ip = |host: &str| match host.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical()),
        Err(_) => host.eq_ignore_ascii_case("localhost").then_some(IpAddr::from([127, 0, 0, 1])),
    };
    let (Some(one), Some(other)) = (ip(&address.host), ip(host)) else { return false };
    let here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok();
    address.port == port && (one == other || here(one) && here(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn whatever_a_site_sends_its_replicas_are_listed_under_its_own_name() {
        let listing = Listing::new("dc2", &[], "127.0.0.1:6379".parse().unwrap());
        let listed = |announced: &[u8]| listing.host(Some(announced), Some(6379));
        assert_eq!(listing.host(None, None), "dc2");
        for (announced, expected) in [
            ("bravo", "bravo.dc2"),
            ("bravo.example", "bravo.example.dc2"),
            ("10.0.0.6", "10.0.0.6.dc2"),
            ("dc2", "dc2"),
            ("DC2", "dc2"),
            ("10.0.0.6.dc2", "10.0.0.6.dc2"),
            ("fd00--2.Dc2", "fd00--2.dc2"),
            ("notdc2", "notdc2.dc2"),
        ] {
            assert_eq!(listed(announced.as_bytes()), expected);
        }
        let long = "x".repeat(42);
        for odd in [
            &b""[..],
            b".dc2",
            b"a..b",
            b"bravo.",
            b"::1",
            b"fd00::2",
            b"a b",
            b"x\r\nrole:slave",
            b"a,port=1",
            b"\xff\xfe",
            "\u{e4}dc2".as_bytes(),
            long.as_bytes(),
        ] {
            assert_eq!(listed(odd), "dc2", "{}", odd.escape_ascii());
        }
        assert_eq!(listed(&long.as_bytes()[1..]), format!("{}.dc2", &long[1..]));
    }

    #[test]
    fn the_port_and_the_address_are_always_sent_together() {
        let exception = [address("127.0.0.1", 6380)];
        let listing = Listing::new("dc2", &exception, "127.0.0.1:6379".parse().unwrap());
        let mut listed = Listed::new(listing);
        let mut says = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let wire = listed.rewritten(&words)?;
            let command::Parsed::Command { arguments, .. } = command::parse(&wire) else { panic!() };
            Some(String::from_utf8_lossy(&arguments.join(&b' ')).into_owned())
        };
        assert_eq!(says("capa eof"), None);
        for (said, becomes) in [
            ("ip-address 127.0.0.1", "ip-address 127.0.0.1.dc2"),
            ("listening-port 6380 capa eof", "capa eof listening-port 6380 ip-address 127.0.0.1"),
            ("Listening-Port 6379", "listening-port 6379 ip-address 127.0.0.1.dc2"),
            ("listening-port 1 ip-address a listening-port 2", "listening-port 2 ip-address a.dc2"),
        ] {
            assert_eq!(says(said).as_deref(), Some(format!("REPLCONF {becomes}").as_str()));
        }
    }

    #[test]
    fn an_exception_is_one_address_and_never_the_master() {
        let accepted = [address("127.0.0.1", 6380), address("::1", 6380), address("127.0.0.1", 6379)];
        let listing = Listing::new("dc2", &accepted, "127.0.0.1:6379".parse().unwrap());
        let listed = |host: &str, port| listing.host(Some(host.as_bytes()), port);
        assert_eq!(listed("127.0.0.1", Some(6380)), "127.0.0.1");
        assert_eq!(listed("::1", Some(6380)), "::1");
        assert_eq!(listed("127.0.0.1", Some(6379)), "127.0.0.1.dc2", "the master itself");
        assert_eq!(listed("127.0.0.1", None), "127.0.0.1.dc2");
        assert_eq!(listed("127.1", Some(6380)), "127.1.dc2");
        assert_eq!(listing.host(None, Some(6380)), "dc2");
    }

    #[test]
    fn the_master_is_known_by_any_address_of_its_host() {
        for host in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "0.0.0.0"] {
            for master in ["127.0.0.1", "localhost", "::1"] {
                assert!(is_same(&address(host, 6379), master, 6379), "{host} {master}");
                assert!(!is_same(&address(host, 6380), master, 6379), "{host} {master}");
            }
        }
        assert!(!is_same(&address("192.0.2.7", 6379), "127.0.0.1", 6379));
        assert!(is_same(&address("192.0.2.7", 6379), "192.0.2.7", 6379));
        assert!(!is_same(&address("bravo", 6379), "alpha", 6379));
    }
}
