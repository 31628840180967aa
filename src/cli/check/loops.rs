//! Addresses that lead back to this gateway, or a master that is its own replica. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::candidate::Candidate;
use super::codes::Code;
use super::facts::Facts;
use super::report::Finding;
use crate::config::{Config, Replica};
use crate::units::Address;

/// What is known of addresses.
pub(super) struct Known<'a> {
    /// The addresses of each place of the config that was resolved.
    pub(super) places: &'a HashMap<Address, Vec<SocketAddr>>,
    /// Whether an address is one of this host.
    pub(super) is_local: &'a dyn Fn(IpAddr) -> bool,
}

impl Known<'_> {
    fn of(&self, place: &Address) -> &[SocketAddr] {
        self.places.get(place).map_or(&[], Vec::as_slice)
    }

    /// Whether a connection to `address` reaches what listens on `listen` here.
    fn reaches(&self, address: SocketAddr, listen: SocketAddr) -> bool {
        let (ip, listened) = (address.ip().to_canonical(), listen.ip().to_canonical());
        address.port() == listen.port()
            && (ip == listened
                || ip.is_unspecified()
                || (listened.is_unspecified() && (ip.is_loopback() || (self.is_local)(ip))))
    }
}

/// Findings about the peers of a `[[replica]]`.
pub(super) fn of_peers(config: &Config, replica: &Replica, known: &Known<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for peer in &replica.peers {
        let leads_to =
            |listen: SocketAddr| known.of(peer).iter().any(|address| known.reaches(*address, listen));
        let about = format!("replica {:?}: peer {peer}", replica.name);
        if config.listen.is_some_and(leads_to) {
            let text =
                format!("{about} is this gateway's own [tunnel] listen: name a gateway of {}", replica.site);
            findings.push(Finding::new(Code::PeerIsTunnel, &replica.name, text));
        }
        if let Some(own) = config.replicas.iter().find(|own| leads_to(own.listen)) {
            let text = format!(
                "{about} is this gateway's own listener for replicas ({:?}), which speaks no TLS: name the [tunnel] listen of a gateway of {}",
                own.name, replica.site
            );
            findings.push(Finding::new(Code::PeerIsListener, &replica.name, text));
        }
    }
    findings
}

/// Findings about a master and what its Redis has said, if it has.
pub(super) fn of_master(
    config: &Config,
    master: &Candidate,
    facts: Option<&Facts>,
    known: &Known<'_>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let about = format!("master {:?}", master.name);
    let own = |address: SocketAddr| config.replicas.iter().find(|entry| known.reaches(address, entry.listen));
    if let Some(entry) = known.of(&master.redis).iter().find_map(|address| own(*address)) {
        let way = format!(
            "{about}: redis {} is this gateway's own listener of replica {:?}",
            master.redis, entry.name
        );
        findings.push(if let Some(origin) = entry.from.iter().find(|origin| master.admits(&origin.site)) {
            let text = format!("{way}, and `allow` names {}, from where that comes: a loop without any Redis; name a Redis", origin.site);
            Finding::new(Code::Loop, &master.name, text)
        } else {
            let sites = entry.sites();
            let text = format!("{way}: replicas get the data of {sites} through this gateway twice; a Redis here as a replica, named in `redis`, loads the way to {sites} once for all");
            Finding::new(Code::ThroughItself, &master.name, text)
        });
    }
    let Some(facts) = facts else { return findings };
    for listed in facts.replicas() {
        let Ok(ip) = listed.host.parse::<IpAddr>() else { continue };
        let is_here = |ip: IpAddr| ip.is_loopback() || (known.is_local)(ip);
        let is_itself = known.of(&master.redis).iter().any(|redis| {
            listed.port == redis.port()
                && (redis.ip().to_canonical() == ip.to_canonical() || (is_here(ip) && is_here(redis.ip())))
        });
        if is_itself {
            let text = format!(
                "{about}: redis {} lists its own address, {ip}:{}, as a replica: a Sentinel would make it a replica of itself; a replica that comes another way than through this gateway has the same address and port: give it another port, or a replica-announce-ip",
                master.redis, listed.port
            );
            findings.push(Finding::new(Code::ListsItself, &master.name, text));
            break;
        }
    }
    findings.extend(ring(config, master, facts, known));
    findings
}

/// The entry whose listener this Redis follows: it is a replica of another site, through this gateway.
pub(super) fn through<'a>(config: &'a Config, facts: &Facts, known: &Known<'_>) -> Option<&'a Replica> {
    let (host, port) = facts.follows()?;
    let followed = SocketAddr::new(host.parse().ok()?, port);
    let mut entries = config.replicas.iter().map(AsRef::as_ref);
    entries.find(|entry: &&Replica| known.reaches(followed, entry.listen))
}

/// Whether a master follows a site, through this gateway, that also follows it.
fn ring(config: &Config, master: &Candidate, facts: &Facts, known: &Known<'_>) -> Option<Finding> {
    let entry = through(config, facts, known)?;
    let site = &entry.from.iter().find(|origin| master.admits(&origin.site))?.site;
    let is_of_site = |host: &str| {
        let (host, site) = (host.to_ascii_lowercase(), site.to_ascii_lowercase());
        host == site || host.strip_suffix(&site).is_some_and(|name| name.ends_with('.'))
    };
    let about = format!(
        "master {:?}: redis {} follows {:?} of {site} through replica {:?}",
        master.name, master.redis, entry.master, entry.name
    );
    Some(if facts.replicas().iter().any(|replica| is_of_site(&replica.host)) {
        let text = format!(
            "{about}, and a Redis of {site} follows it: if that is {:?} or follows it, they are a ring, and no write reaches anybody; make one of them a master: REPLICAOF NO ONE",
            entry.master
        );
        Finding::new(Code::Ring, &master.name, text)
    } else {
        let text = format!(
            "{about}, which may follow it in turn (`allow`): right for a failover, if only one of them is a replica at a time"
        );
        Finding::new(Code::BothWays, &master.name, text)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Source;

    const LOCAL: &str = "192.0.2.7";

    /// The codes for a gateway of dc2 with these addresses.
    fn codes(redis: &str, allow: &str, listen: &str, peer: &str, info: &[(&str, &str)]) -> Vec<Code> {
        let from = format!("site = \"dc1\"\npeers = [\"{peer}\"]");
        let found = codes_of(redis, allow, listen, peer, &from, info);
        // The site that is allowed may be any of several.
        let from = format!(
            "from = [ {{ site = \"dc4\", peers = [\"{peer}\"] }}, {{ site = \"dc1\", peers = [\"{peer}\"] }} ]"
        );
        assert_eq!(codes_of(redis, allow, listen, peer, &from, info), found, "of two sites");
        found
    }

    fn codes_of(
        redis: &str,
        allow: &str,
        listen: &str,
        peer: &str,
        from: &str,
        info: &[(&str, &str)],
    ) -> Vec<Code> {
        let text = format!(
            "site = \"dc2\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"0.0.0.0:7379\"\n[[master]]\nname = \"orders\"\nredis = \"{redis}\"\nallow = [\"{allow}\"]\n[[replica]]\nname = \"far\"\nmaster = \"orders\"\nlisten = \"{listen}\"\n{from}\nclients = [\"10.0.0.0/8\"]\n"
        );
        let config = Config::parse(&[Source::new(Path::new("gateway.toml"), text)]).unwrap();
        let candidate = &Candidate::of(&config.masters[0])[0];
        let peer = crate::units::address(peer).unwrap();
        let places = [&candidate.redis, &peer];
        let places = places.map(|place| (place.clone(), vec![place.to_string().parse().unwrap()]));
        let known = Known { places: &places.into(), is_local: &|ip| ip == LOCAL.parse::<IpAddr>().unwrap() };
        let facts = Facts::of(info, &[]);
        let of_peers = of_peers(&config, &config.replicas[0], &known);
        let of_master = of_master(&config, candidate, Some(&facts), &known);
        of_peers.into_iter().chain(of_master).map(|finding| finding.code).collect()
    }

    const AWAY: &str = "198.51.100.1:7379";
    const REDIS: &str = "127.0.0.1:6379";
    const LISTEN: &str = "127.0.0.1:6390";

    #[test]
    fn two_sites_with_addresses_of_their_own_are_no_loop() {
        assert_eq!(codes(REDIS, "dc3", LISTEN, AWAY, &[("role", "master")]), []);
        assert_eq!(codes(REDIS, "dc3", "0.0.0.0:6390", "198.51.100.1:6390", &[]), []);
    }

    #[test]
    fn peers_that_are_this_gateway_are_found_by_any_of_its_addresses() {
        for peer in ["127.0.0.1:7379", &format!("{LOCAL}:7379")] {
            assert_eq!(codes(REDIS, "dc3", LISTEN, peer, &[]), [Code::PeerIsTunnel], "{peer}");
        }
        assert_eq!(codes(REDIS, "dc3", LISTEN, LISTEN, &[]), [Code::PeerIsListener]);
        let peer = format!("{LOCAL}:6390");
        assert_eq!(codes(REDIS, "dc3", "0.0.0.0:6390", &peer, &[]), [Code::PeerIsListener]);
        assert_eq!(codes(REDIS, "dc3", LISTEN, &peer, &[]), [], "only loopback is listened on");
    }

    #[test]
    fn a_master_that_is_the_own_listener_is_a_loop_only_for_the_site_it_comes_from() {
        assert_eq!(codes(LISTEN, "dc1", LISTEN, AWAY, &[]), [Code::Loop]);
        assert_eq!(codes(LISTEN, "dc3", LISTEN, AWAY, &[]), [Code::ThroughItself]);
    }

    #[test]
    fn a_master_that_lists_its_own_address_is_found() {
        let lists = |host: &str, port: u16| {
            let line = format!("ip={host},port={port},state=online,offset=1,lag=0");
            codes(REDIS, "dc3", LISTEN, AWAY, &[("role", "master"), ("slave0", &line)])
        };
        assert_eq!(lists("127.0.0.1", 6379), [Code::ListsItself]);
        assert_eq!(lists(LOCAL, 6379), [Code::ListsItself], "another address of the same host");
        for (host, port) in [("127.0.0.1", 6380), ("10.0.0.9", 6379), ("dc2", 6379)] {
            assert_eq!(lists(host, port), [], "{host}:{port}");
        }
    }

    #[test]
    fn a_ring_needs_a_replica_of_the_site_that_is_followed() {
        let follows = [("role", "slave"), ("master_host", "127.0.0.1"), ("master_port", "6390")];
        let lists = |host: &'static str| [&follows[..], &[("slave0", host)]].concat();
        assert_eq!(codes(REDIS, "dc3", LISTEN, AWAY, &follows), [], "a deeper tree");
        assert_eq!(codes(REDIS, "dc1", LISTEN, AWAY, &follows), [Code::BothWays]);
        for host in ["ip=dc1,port=6379", "ip=alpha.DC1,port=6379"] {
            assert_eq!(codes(REDIS, "dc1", LISTEN, AWAY, &lists(host)), [Code::Ring], "{host}");
        }
        assert_eq!(codes(REDIS, "dc1", LISTEN, AWAY, &lists("ip=xdc1,port=6379")), [Code::BothWays]);
    }
}
