//! Rewrites a replica's introduction at its own site: adds the address under which the master lists
//! it, and removes capabilities that hurt over a WAN.
//!
//! Without this, a master sees every replica at its own gateway's address. If the ports are equal
//! too, that is the master's own address, and Sentinel may demote the master. So `ip-address` is
//! added to the REPLCONF that has `listening-port`, since Redis reads all options of one REPLCONF
//! and sends one reply. If a replica announces an address itself, in this or a later REPLCONF, its
//! own address counts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::names::{Name, Names};
use super::replconf;

/// A capability that can be hidden from the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Redis 8: a snapshot that is not compressed.
    RdbNoCompress,
    /// Redis 8: a snapshot without a checksum.
    RdbNoChecksum,
    /// Valkey 8.1: a snapshot without a checksum.
    SkipRdbChecksum,
    /// Redis 8: the snapshot comes over a connection of its own.
    RdbChannel,
    /// Valkey 8: the snapshot comes over a connection of its own.
    DualChannel,
    /// A snapshot that is sent without a file; its size is not known beforehand.
    Eof,
    /// Valkey 9: a stream that the master compresses with LZ4.
    Lz4,
    /// Valkey 9: a stream that the master compresses with Zstandard.
    Zstd,
}

impl Capability {
    /// All capabilities, by the names that Redis and Valkey give them.
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

    /// Whether `option value` states this capability.
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

/// Rewrites the introduction of one replica connection.
#[derive(Debug)]
pub struct Introduction {
    /// The names to announce, and the address of the replica.
    names: Option<(Arc<Names>, IpAddr)>,
    drop: Vec<Capability>,
    name: Option<Name>,
    /// The replica's own port, if another port was announced in its place.
    own_port: Option<Vec<u8>>,
}

impl Introduction {
    /// An introduction that announces a name for the replica at this address, if there are names,
    /// and hides the capabilities in `drop`.
    pub fn new(names: Option<(Arc<Names>, IpAddr)>, drop: Vec<Capability>) -> Self {
        Self { names, drop, name: None, own_port: None }
    }

    /// The announced name, if it differs from the config.
    pub fn instead(&self) -> Option<&Name> {
        self.name.as_ref().filter(|name| name.is_instead())
    }

    /// What a REPLCONF with these arguments becomes; `None` if it stays as it is.
    pub fn rewritten(&mut self, arguments: &[&[u8]], now: Instant) -> Option<Vec<Vec<u8>>> {
        let options = arguments.get(1..).filter(|options| options.len().is_multiple_of(2))?;
        let is = |option: &[u8], name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        // The second connection of a sync needs its `eof`, so nothing is removed there.
        let paired = options.chunks_exact(2).any(|option| is(option[0], "rdb-channel"));
        let mut words: Vec<Vec<u8>> = vec![arguments[0].to_vec()];
        for option in options.chunks_exact(2) {
            if paired || !self.drop.iter().any(|dropped| dropped.is(option[0], option[1])) {
                words.extend(option.iter().map(|word| word.to_vec()));
            }
        }
        let mut changed = words.len() < arguments.len();
        if words.len() == 1 && changed {
            // The command must still get one reply. Masters ignore capabilities that they do not
            // know.
            words.extend([b"capa".to_vec(), b"none".to_vec()]);
        }
        let place =
            |words: &[Vec<u8>], name: &str| (1..words.len()).step_by(2).find(|at| is(&words[*at], name));
        let port = place(&words, "listening-port").map(|at| at + 1);
        match (place(&words, "ip-address"), port) {
            (Some(_), _) => {
                // The replica announces its own address, so its own port counts as well.
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

    fn sends(introduction: &mut Introduction, line: &str) -> Option<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let words = introduction.rewritten(&words, Instant::now())?;
        Some(words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_address_joins_the_port_in_one_command() {
        let mut site = Introduction::new(names("dc2", None), Vec::new());
        assert_eq!(
            sends(&mut site, "REPLCONF listening-port 6380").as_deref(),
            Some("REPLCONF listening-port 6380 ip-address dc2")
        );
        assert_eq!(sends(&mut site, "REPLCONF capa eof capa psync2"), None);
        assert_eq!(sends(&mut site, "REPLCONF ACK 5"), None);
        let mut second = Introduction::new(names("dc2", Some(7000)), Vec::new());
        assert_eq!(
            sends(
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
        assert_eq!(sends(&mut introduction, "REPLCONF listening-port 1 ip-address own.example"), None);
        assert_eq!(
            sends(&mut introduction, "REPLCONF listening-port 7001").as_deref(),
            Some("REPLCONF listening-port 7000 ip-address dc2")
        );
        assert_eq!(
            sends(&mut introduction, "REPLCONF ip-address own.example").as_deref(),
            Some("REPLCONF ip-address own.example listening-port 7001")
        );
    }

    #[test]
    fn a_port_that_is_none_is_left_for_the_master_to_judge() {
        let mut introduction = Introduction::new(names("dc2", None), Vec::new());
        assert_eq!(sends(&mut introduction, "REPLCONF listening-port 99999"), None);
        assert_eq!(sends(&mut introduction, "REPLCONF listening-port"), None);
    }

    #[test]
    fn dropped_capabilities_are_not_sent_and_every_command_still_has_its_reply() {
        let all = Capability::ALL.map(|(_, capability)| capability).to_vec();
        let mut introduction = Introduction::new(None, all);
        for (said, becomes) in [
            ("REPLCONF rdb-no-compress 1 rdb-no-checksum 1", "REPLCONF capa none"),
            ("REPLCONF capa eof capa psync2 capa rdb-channel-repl", "REPLCONF capa psync2"),
            ("REPLCONF CAPA EOF CAPA dual-channel", "REPLCONF capa none"),
            ("REPLCONF capa skip-rdb-checksum capa psync2 capa lz4 capa zstd", "REPLCONF capa psync2"),
        ] {
            assert_eq!(sends(&mut introduction, said).as_deref(), Some(becomes), "{said}");
        }
        for said in
            ["REPLCONF capa psync2", "REPLCONF version 8.1.0", "REPLCONF capa eof rdb-only 1 rdb-channel 1"]
        {
            assert_eq!(sends(&mut introduction, said), None, "{said}");
        }
        for (at, (_, capability)) in Capability::ALL.iter().enumerate() {
            assert_eq!(*capability as usize, at, "each stands where its number says");
        }
    }
}
