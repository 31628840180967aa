//! What the end of a link brings to the master and to the log: a leaving replica's last
//! acknowledgement, no late request for a sync, no lane that was not lost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::gateway::{Gateway, Lab, Pair};
use crate::support::line::Line;
use crate::support::redis::{Client, Redis, Version};
use crate::support::{SOON, eventually};

const LANES: &str = "[link]\nlanes = 4\n";

/// What each connection has sent, and whether it was closed.
type Said = Vec<(Vec<u8>, bool)>;

/// A master that grants every sync and records what each connection sends. It answers the first
/// command of a connection after a pause.
struct Recorder {
    port: u16,
    said: Arc<Mutex<Said>>,
}

impl Recorder {
    fn new(pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let said = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&said);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                std::thread::spawn(move || follow(socket, &record, pause));
            }
        });
        Self { port, said }
    }

    fn said(&self) -> Said {
        self.said.lock().expect("no thread panics").clone()
    }

    /// Waits until every connection is closed, and returns what they have sent.
    #[track_caller]
    fn all(&self, count: usize) -> Vec<String> {
        eventually("every connection is closed", SOON, || {
            let said = self.said();
            said.len() >= count && said.iter().all(|(_, closed)| *closed)
        });
        self.said().into_iter().map(|(said, _)| String::from_utf8_lossy(&said).into_owned()).collect()
    }
}

/// Serves one connection of a [`Recorder`].
fn follow(mut socket: TcpStream, record: &Mutex<Said>, pause: Duration) {
    let record = |change: &mut dyn FnMut(&mut Said)| {
        change(&mut record.lock().expect("no thread panics"));
    };
    let mut at = 0;
    record(&mut |all| {
        at = all.len();
        all.push((Vec::new(), false));
    });
    let (mut piece, mut first) = ([0; 4096], true);
    while let Ok(count @ 1..) = socket.read(&mut piece) {
        record(&mut |all| all[at].0.extend(&piece[..count]));
        if std::mem::take(&mut first) {
            std::thread::sleep(pause); // The master is slow.
        }
        let words = String::from_utf8_lossy(&piece[..count]).to_uppercase();
        let answer: &[u8] = if words.contains("SYNC") {
            b"+FULLRESYNC 0123456789012345678901234567890123456789 7\r\n$5\r\nREDIS"
        } else if words.contains("\nACK\r") {
            b""
        } else {
            b"+OK\r\n"
        };
        let _ = socket.write_all(answer);
    }
    record(&mut |all| all[at].1 = true);
}

/// A replica made by hand, once it has read its snapshot.
fn synced(entry: u16) -> Client {
    let mut client = Client::connect(entry).expect("the gateway accepts");
    client.send(b"PSYNC ? -1\r\n");
    let reply = client.line().expect("the sync is granted");
    assert!(reply.starts_with("+FULLRESYNC"), "{reply}");
    assert_eq!(client.line().as_deref(), Some("$5"));
    client.exactly(5);
    client
}

#[test]
fn a_leaving_replicas_last_acknowledgement_reaches_the_master() {
    const ROUNDS: usize = 20;
    for lanes in ["", LANES] {
        let lab = Lab::new();
        let master = Recorder::new(Duration::ZERO);
        let pair = lab.pair_with(master.port, lanes, lanes);
        for round in 0..ROUNDS {
            let mut client = synced(pair.entry);
            client.send(&Client::encode(&["REPLCONF", "ACK", &format!("77{round}")]));
        }
        let said = master.all(ROUNDS);
        let last = |round: &usize| said.iter().any(|said| said.contains(&format!("77{round}\r\n")));
        let there = (0..ROUNDS).filter(last).count();
        assert_eq!(there, ROUNDS, "acknowledgements that reached the master, with {lanes:?}");
        eventually("no link is left", SOON, || pair.first.links() == 0 && pair.second.links() == 0);
        eventually("every end is logged as the replica's", SOON, || {
            pair.second.lines("INFO", "end=\"replica-closed\"") == ROUNDS
                && pair.first.lines("INFO", "reason=\"ReplicaClosed\"") == ROUNDS
        });
    }
}

#[test]
fn wait_at_the_master_counts_the_last_acknowledgement_of_a_replica_that_leaves() {
    let lab = Lab::new();
    let alpha = Redis::start(Version::System, lab.path(), "alpha", &["--repl-diskless-sync-delay", "0"]);
    let pair = lab.pair(alpha.port);
    for round in 0..10 {
        let mut replica = Client::connect(pair.entry).expect("the gateway accepts");
        replica.send(b"PSYNC ? -1\r\n");
        // The snapshot is there once its size is, or once the master has sent its end.
        eventually("the master lists the replica", SOON, || {
            replica.send(&Client::encode(&["REPLCONF", "ACK", "0"]));
            alpha.info("slave0").contains("state=online")
        });
        let mut waiting = alpha.client();
        waiting.ask(&["SET", "key", &round.to_string()]);
        waiting.send(&Client::encode(&["WAIT", "1", "5000"]));
        replica.until("GETACK");
        replica.send(&Client::encode(&["REPLCONF", "ACK", "1000000000000"]));
        drop(replica);
        assert_eq!(waiting.answer().expect("WAIT returns").text(), "1", "round {round}");
        eventually("the master drops the replica", SOON, || alpha.info("connected_slaves") == "0");
    }
}

/// Whether the kernel has the close of the far end of a connection between these ports.
fn is_closed_by_peer(port: u16, peer: u16) -> bool {
    const CLOSE_WAIT: &str = "08";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists its connections");
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_at = |word: &str, port: u16| word.ends_with(&format!(":{port:04X}"));
        matches!(words[..], [_, own, far, CLOSE_WAIT, ..] if is_at(own, port) && is_at(far, peer))
    })
}

#[test]
fn a_request_for_a_sync_never_reaches_the_master_once_its_client_is_gone() {
    let lab = Lab::new();
    let master = Recorder::new(Duration::ZERO);
    let pair = lab.pair_with(master.port, "allow_failover = true\nallow_dump = true", "");
    let failover = "PSYNC 0123456789012345678901234567890123456789 8 FAILOVER\r\n";
    let mut connections = 0;
    for round in 0..30 {
        let request = ["PSYNC ? -1\r\n", "SYNC\r\n", failover][round % 3];
        // A client that has asked for no sync would have to wait.
        let mut client = Client::from([127, 0, 1, 1 + round as u8], pair.entry);
        // The link is up before the client asks and leaves.
        client.ask(&["REPLCONF", "capa", "eof"]);
        // The gateway finds the request and the close together, so it knows both at once.
        let gateway = &pair.second.process;
        gateway.signal("STOP");
        eventually("the gateway does not run", SOON, || gateway.is_stopped());
        client.send(request.as_bytes());
        let port = client.port();
        drop(client);
        eventually("the close has arrived", SOON, || is_closed_by_peer(pair.entry, port));
        gateway.signal("CONT");
        connections += 1;
    }
    let said = master.all(connections);
    assert!(said.iter().all(|said| said.contains("capa")), "{said:?}");
    assert!(said.iter().all(|said| !said.contains("SYNC")), "{said:?}");
}

#[test]
fn a_request_that_the_gate_holds_back_is_dropped_when_the_end_of_its_link_arrives() {
    // The gate holds the request until the master has accepted the name that it lists.
    let pause = Duration::from_millis(1500);
    for stops in [false, true] {
        let lab = Lab::new();
        let master = Recorder::new(pause);
        let Pair { first, mut second, entry, .. } = lab.pair(master.port);
        let mut client = Client::connect(entry).expect("the gateway accepts");
        client.send(b"PSYNC ? -1\r\n");
        eventually("the master is asked to list the replica", SOON, || {
            master.said().first().is_some_and(|(said, _)| !said.is_empty())
        });
        if stops {
            assert_eq!(second.stop(), Some(0));
        } else {
            drop(client);
        }
        let said = master.all(1);
        assert!(said[0].contains("ip-address") && !said[0].contains("SYNC"), "stopped: {stops}: {said:?}");
        eventually("the link has ended", SOON, || first.links() == 0);
    }
}

/// Asserts that a gateway has neither logged nor counted a lost lane.
#[track_caller]
fn lost_none(gateway: &Gateway) {
    let log = gateway.log();
    assert!(!log.contains("lane lost"), "an orderly end is not a lost lane: {log}");
    assert_eq!(gateway.status()["counts"]["lanes_lost"], 0);
}

#[test]
fn an_orderly_end_over_several_lanes_loses_none() {
    let mut line = Line::apart(Version::System, LANES, LANES);
    line.path.slow_down(Duration::from_millis(3));
    for round in 0..12 {
        line.follow();
        line.bravo.wait_equal(&line.alpha);
        eventually("four lanes", SOON, || line.gateways().iter().all(|gateway| gateway.each("lanes") == [4]));
        match round % 4 {
            0 => line.bravo.ask(&["REPLICAOF", "NO", "ONE"]),
            1 => {
                let ended = line.alpha.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
                line.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
                ended
            }
            // The other gateway must not take a planned stop for the loss of lanes either.
            2 => planned_stop(&mut line.second),
            _ => planned_stop(&mut line.first),
        };
        line.bravo.ask(&["REPLICAOF", "NO", "ONE"]);
        let gateways = line.gateways();
        eventually("no link is left", SOON, || gateways.iter().all(|gateway| gateway.links() == 0));
        gateways.into_iter().for_each(lost_none);
    }
}

/// Stops a gateway as planned and starts it again. Its log must tell of no lost lane.
fn planned_stop(gateway: &mut Gateway) -> String {
    assert_eq!(gateway.stop(), Some(0));
    assert!(!gateway.log().contains("lane lost"), "{}", gateway.log());
    gateway.start_again();
    String::new()
}

#[test]
fn lanes_that_are_closed_while_the_link_lives_on_are_told_and_counted() {
    let line = Line::new(LANES);
    let four = || line.gateways().iter().all(|gateway| gateway.each("lanes") == [4]);
    eventually("four lanes", SOON, four);
    line.path.close();
    eventually("four lanes again", SOON, four);
    for gateway in line.gateways() {
        eventually("the lost lanes are told and counted", SOON, || {
            gateway.log().contains("lane lost")
                && gateway.status()["counts"]["lanes_lost"].as_u64() >= Some(4)
        });
        assert!(!gateway.log().contains("link down"), "{}", gateway.log());
    }
}
