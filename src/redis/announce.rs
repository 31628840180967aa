//! The replica side's tap: the address under which a master lists the replica.
//!
//! To a master every replica seems to sit at its own gateway's address; with
//! equal ports even at the master's own, which misleads Sentinel into demoting
//! the master. So `ip-address` is put into the same REPLCONF as
//! `listening-port`: its options are one loop with one reply. A replica that
//! announces an address itself does so in a later REPLCONF, which wins. Silent
//! once the sync is asked for; what it cannot read it leaves alone.

use super::command::{self, Parsed};
use crate::tap::{Flow, Tap, Verdict};

/// Rewrites the announced address of one replica connection.
#[derive(Debug)]
pub struct Announce {
    host: String,
    port: Option<u16>,
}

impl Announce {
    /// Announces `host` and, where given, `port` in place of the replica's own.
    pub fn new(host: String, port: Option<u16>) -> Self {
        Self { host, port }
    }

    fn rewritten(&self, arguments: &[&[u8]]) -> Option<Vec<u8>> {
        let options = arguments.get(1..).filter(|options| options.len().is_multiple_of(2))?;
        let is = |option: &[u8], name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        let own = options.chunks_exact(2).any(|option| is(option[0], "ip-address"));
        if own || !options.chunks_exact(2).any(|option| is(option[0], "listening-port")) {
            return None;
        }
        let port = self.port.map(|port| port.to_string());
        let mut words = vec![arguments[0]];
        for option in options.chunks_exact(2) {
            let replaced = port.as_ref().filter(|_| is(option[0], "listening-port"));
            words.extend([option[0], replaced.map_or(option[1], String::as_bytes)]);
        }
        words.extend([&b"ip-address"[..], self.host.as_bytes()]);
        let mut wire = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            wire.extend(format!("${}\r\n", word.len()).into_bytes());
            wire.extend(word);
            wire.extend(b"\r\n");
        }
        Some(wire)
    }
}

impl Tap for Announce {
    fn look(&mut self, flow: Flow, bytes: &[u8]) -> Verdict {
        if flow == Flow::ToReplica {
            return Verdict::Detach;
        }
        match command::parse(bytes) {
            Parsed::Newline(length) => Verdict::Pass(length),
            Parsed::Incomplete => Verdict::Hold,
            Parsed::Malformed(_) => Verdict::Detach,
            Parsed::Command { length, arguments } => match arguments[0].to_ascii_uppercase().as_slice() {
                // Redis 8's second connection and Valkey's second PSYNC repeat no
                // address on this socket, so the first request for a sync ends it.
                b"PSYNC" | b"SYNC" => Verdict::Detach,
                b"REPLCONF" => match self.rewritten(&arguments) {
                    Some(wire) => Verdict::Replace(length, wire),
                    None => Verdict::Pass(length),
                },
                _ => Verdict::Pass(length),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(announce: &mut Announce, bytes: &[u8]) -> Verdict {
        announce.look(Flow::ToMaster, bytes)
    }

    #[test]
    fn the_address_joins_the_port_in_one_command() {
        let mut announce = Announce::new("dc2".into(), None);
        let wire = b"*3\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$4\r\n6380\r\n";
        let expected = b"*5\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$4\r\n6380\r\n$10\r\nip-address\r\n$3\r\ndc2\r\n";
        assert_eq!(look(&mut announce, wire), Verdict::Replace(wire.len(), expected.to_vec()));
        let mut announce = Announce::new("203.0.113.7".into(), Some(7000));
        let Verdict::Replace(_, wire) = look(&mut announce, b"REPLCONF listening-port 6380\r\n") else {
            panic!()
        };
        assert!(
            String::from_utf8(wire)
                .unwrap()
                .contains("$4\r\n7000\r\n$10\r\nip-address\r\n$11\r\n203.0.113.7")
        );
    }

    #[test]
    fn everything_else_goes_on_unchanged() {
        let mut announce = Announce::new("dc2".into(), None);
        assert_eq!(look(&mut announce, b"PING\r\n"), Verdict::Pass(6));
        assert_eq!(look(&mut announce, b"REPLCONF ip-address 10.0.0.1\r\n"), Verdict::Pass(30));
        assert_eq!(
            look(&mut announce, b"REPLCONF listening-port 1 ip-address 10.0.0.1\r\n"),
            Verdict::Pass(47)
        );
        assert_eq!(look(&mut announce, b"REPLCONF capa eof capa psync2\r\n"), Verdict::Pass(31));
        assert_eq!(look(&mut announce, b"*3\r\n$8\r\nREPLC"), Verdict::Hold);
        assert_eq!(look(&mut announce, b"PSYNC ? -1\r\n"), Verdict::Detach);
        assert_eq!(look(&mut announce, b"\x00\x01"), Verdict::Detach);
    }
}
