//! What a replica's introduction becomes at its own site: with the address under which
//! the master is to list it, and without what hurts over a WAN.
//!
//! To a master every replica seems to sit at its own gateway's address; with
//! equal ports even at the master's own, which misleads Sentinel into demoting
//! the master. So `ip-address` is put into the same REPLCONF as
//! `listening-port`: its options are one loop with one reply. A replica that
//! announces an address itself does so there or in a later REPLCONF, and it wins.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::names::{Name, Names};
use super::replconf;

/// A capability that can be kept from the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Redis 8: a snapshot that is not compressed.
    RdbNoCompress,
    /// Redis 8: a snapshot without a checksum.
    RdbNoChecksum,
    /// Valkey 8.1: the same.
    SkipRdbChecksum,
    /// Redis 8: the snapshot over a connection of its own.
    RdbChannel,
    /// Valkey 8: the same.
    DualChannel,
    /// A snapshot without a file, whose size is not known beforehand.
    Eof,
    /// Valkey 9: a stream compressed by the master.
    Lz4,
    /// The same.
    Zstd,
}

impl Capability {
    /// All of them, by the names that Redis and Valkey give them.
    pub const ALL: [(&'static str, Self); 8] = [
        ("rdb-no-compress", Self::RdbNoCompress),
        ("rdb-no-checksum", Self::RdbNoChecksum),
        ("skip-rdb-checksum", Self::SkipRdbChecksum),
        ("rdb-channel-repl", Self::RdbChannel),
        ("dual-channel", Self::DualChannel),
        ("eof", Self::Eof),
        ("lz4", Self::Lz4),
        ("zstd", Self::Zstd),
    ];

    /// Whether `option value` states it.
    fn is(self, option: &[u8], value: &[u8]) -> bool {
        let (name, _) = Self::ALL[self as usize];
        let spoken = match self {
            Self::RdbNoCompress | Self::RdbNoChecksum => option,
            _ if option.eq_ignore_ascii_case(b"capa") => value,
            _ => return false,
        };
        spoken.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The introduction of one replica connection.
#[derive(Debug)]
pub struct Introduction {
    /// What is announced, and the client that it is announced for.
    names: Option<(Arc<Names>, IpAddr)>,
    drop: Vec<Capability>,
    name: Option<Name>,
    /// The replica's own port, where another was put in its place.
    own_port: Option<Vec<u8>>,
}

impl Introduction {
    /// Announces a name for the replica at this address, where there are any, and keeps
    /// the capabilities in `drop` to itself.
    pub fn new(names: Option<(Arc<Names>, IpAddr)>, drop: Vec<Capability>) -> Self {
        Self { names, drop, name: None, own_port: None }
    }

    /// The name that the replica got, where it is another than the config says.
    pub fn instead(&self) -> Option<&Name> {
        self.name.as_ref().filter(|name| name.is_instead())
    }

    /// What a REPLCONF with these arguments becomes; `None` if it stays as it is.
    pub fn rewritten(&mut self, arguments: &[&[u8]], now: Instant) -> Option<Vec<Vec<u8>>> {
        let options = arguments.get(1..).filter(|options| options.len().is_multiple_of(2))?;
        let is = |option: &[u8], name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        // The second connection of a sync needs its `eof`.
        let paired = options.chunks_exact(2).any(|option| is(option[0], "rdb-channel"));
        let mut words: Vec<Vec<u8>> = vec![arguments[0].to_vec()];
        for option in options.chunks_exact(2) {
            if paired || !self.drop.iter().any(|dropped| dropped.is(option[0], option[1])) {
                words.extend(option.iter().map(|word| word.to_vec()));
            }
        }
        let mut changed = words.len() < arguments.len();
        if words.len() == 1 && changed {
            // A command that is answered like the one that it stands for: masters pass
            // over what they do not know.
            words.extend([b"capa".to_vec(), b"none".to_vec()]);
        }
        let place =
            |words: &[Vec<u8>], name: &str| (1..words.len()).step_by(2).find(|at| is(&words[*at], name));
        let port = place(&words, "listening-port").map(|at| at + 1);
        match (place(&words, "ip-address"), port) {
            (Some(_), _) => {
                // The replica has an address of its own, and so a port of its own.
                self.name = None;
                if let (None, Some(own)) = (port, self.own_port.take()) {
                    words.extend([b"listening-port".to_vec(), own]);
                    changed = true;
                }
            }
            (None, Some(port)) => {
                let own = replconf::port(&words[port]);
                if let (Some((names, client)), Some(own)) = (&self.names, own) {
                    let name = names.take(*client, own, now);
                    let announced = name.port.to_string().into_bytes();
                    if announced != words[port] {
                        self.own_port = Some(std::mem::replace(&mut words[port], announced));
                    }
                    words.extend([b"ip-address".to_vec(), name.host.clone().into_bytes()]);
                    self.name = Some(name);
                    changed = true;
                }
            }
            (None, None) => {}
        }
        changed.then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(host: &str, port: Option<u16>) -> Option<(Arc<Names>, IpAddr)> {
        Some((Names::new(host.into(), port), "10.0.0.1".parse().unwrap()))
    }

    fn says(introduction: &mut Introduction, line: &str) -> Option<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let words = introduction.rewritten(&words, Instant::now())?;
        Some(words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_address_joins_the_port_in_one_command() {
        let mut site = Introduction::new(names("dc2", None), Vec::new());
        assert_eq!(
            says(&mut site, "REPLCONF listening-port 6380").as_deref(),
            Some("REPLCONF listening-port 6380 ip-address dc2")
        );
        assert_eq!(says(&mut site, "REPLCONF capa eof capa psync2"), None);
        assert_eq!(says(&mut site, "REPLCONF ACK 5"), None);
        let mut second = Introduction::new(names("dc2", Some(7000)), Vec::new());
        assert_eq!(
            says(
                &mut second,
                "replconf capa eof rdb-only 1 rdb-channel 1 main-ch-client-id 7 Listening-Port 6380"
            )
            .as_deref(),
            Some(
                "replconf capa eof rdb-only 1 rdb-channel 1 main-ch-client-id 7 Listening-Port 7000 ip-address dc2"
            )
        );
    }

    #[test]
    fn a_replicas_own_address_wins_with_its_own_port() {
        let mut introduction = Introduction::new(names("dc2", Some(7000)), Vec::new());
        assert_eq!(says(&mut introduction, "REPLCONF listening-port 1 ip-address own.example"), None);
        assert_eq!(
            says(&mut introduction, "REPLCONF listening-port 7001").as_deref(),
            Some("REPLCONF listening-port 7000 ip-address dc2")
        );
        assert_eq!(
            says(&mut introduction, "REPLCONF ip-address own.example").as_deref(),
            Some("REPLCONF ip-address own.example listening-port 7001")
        );
    }

    #[test]
    fn a_port_that_is_none_is_left_for_the_master_to_judge() {
        let mut introduction = Introduction::new(names("dc2", None), Vec::new());
        assert_eq!(says(&mut introduction, "REPLCONF listening-port 99999"), None);
        assert_eq!(says(&mut introduction, "REPLCONF listening-port"), None);
    }

    #[test]
    fn what_is_dropped_is_not_said_and_every_command_still_has_its_reply() {
        let all = Capability::ALL.map(|(_, capability)| capability).to_vec();
        let mut introduction = Introduction::new(None, all);
        for (said, becomes) in [
            ("REPLCONF rdb-no-compress 1 rdb-no-checksum 1", "REPLCONF capa none"),
            ("REPLCONF capa eof capa psync2 capa rdb-channel-repl", "REPLCONF capa psync2"),
            ("REPLCONF CAPA EOF CAPA dual-channel", "REPLCONF capa none"),
            ("REPLCONF capa skip-rdb-checksum capa psync2 capa lz4 capa zstd", "REPLCONF capa psync2"),
        ] {
            assert_eq!(says(&mut introduction, said).as_deref(), Some(becomes), "{said}");
        }
        for said in
            ["REPLCONF capa psync2", "REPLCONF version 8.1.0", "REPLCONF capa eof rdb-only 1 rdb-channel 1"]
        {
            assert_eq!(says(&mut introduction, said), None, "{said}");
        }
        for (at, (_, capability)) in Capability::ALL.iter().enumerate() {
            assert_eq!(*capability as usize, at, "each stands where its number says");
        }
    }
}
