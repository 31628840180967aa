//! A site with a valid certificate that wastes a gateway's CPU time or memory. Other sites must not
//! be affected.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use replgate::internal::wire::frame::{Frame, data_header};

use super::Target;
use crate::support::gateway::{Gateway, Lab, master_config, replica_block, replica_config, tls};
use crate::support::redis::{Client, Redis};
use crate::support::wire::{Received, Site, Wire};
use crate::support::{SOON, always, cpu, eventually, free_port};

/// A master at dc1 with an honest replica at dc3. The attacks come from dc2.
struct Siege {
    alpha: Redis,
    delta: Redis,
    first: Gateway,
    third: Gateway,
    wan: u16,
    entry: u16,
    /// The last field, so that the logs still exist when the others are dropped.
    lab: Lab,
}

impl Siege {
    /// With additional lines in the config of dc1.
    fn new(more: &str) -> Self {
        let lab = Lab::new();
        let alpha = lab.redis("alpha");
        let (wan, entry) = (free_port(), free_port());
        let config = master_config("dc1", wan, &[("orders", alpha.port)], more);
        let first = lab.gateway("dc1", &config.replace("[\"dc2\"]", "[\"dc2\", \"dc3\"]"));
        let third = lab.gateway("dc3", &replica_config("dc3", entry, wan, ""));
        let delta = lab.replica("delta", entry, &alpha);
        Self { alpha, delta, first, third, wan, entry, lab }
    }

    /// Opens a link from dc2 whose replica has sent nothing yet.
    #[track_caller]
    fn link(&self) -> Wire {
        Site::new(&self.lab.path().join("certs"), "dc2", "dc1").link(self.wan).0
    }

    /// Seconds until the honest replica has `megabytes` of writes.
    #[track_caller]
    fn pace(&self, megabytes: usize) -> f64 {
        let (value, began) = ("x".repeat(1 << 20), Instant::now());
        let mut client = self.alpha.client();
        for _ in 0..megabytes {
            client.ask(&["SET", "large", &value]);
        }
        eventually("the honest replica has all writes", SOON, || {
            self.delta.replica_offset() == self.alpha.master_offset()
        });
        began.elapsed().as_secs_f64()
    }

    fn used(&self) -> f64 {
        cpu(self.first.process.child.id())
    }
}

/// The longest time in seconds that a write took to be acknowledged, over this period.
#[track_caller]
fn slowest(master: &Redis, during: Duration) -> f64 {
    let (mut client, began, mut most) = (master.client(), Instant::now(), 0f64);
    while began.elapsed() < during {
        let one = Instant::now();
        client.ask(&["SET", "small", "x"]);
        assert_eq!(client.ask(&["WAIT", "1", "20000"]).text(), "1", "the honest replica has the write");
        most = most.max(one.elapsed().as_secs_f64());
        std::thread::sleep(Duration::from_millis(5));
    }
    most
}

/// One-byte DATA frames at every `step`th offset of a range. The bytes are newlines, which a
/// master ignores.
fn crumbs(offsets: std::ops::Range<u64>, step: usize) -> Vec<u8> {
    offsets.step_by(step).flat_map(|at| [&data_header(at, 1)[..], b"\n"].concat()).collect()
}

fn whole(offset: u64, length: usize) -> Vec<u8> {
    [&data_header(offset, length)[..], &vec![b'\n'; length]].concat()
}

/// CPU seconds that dc1 uses for `rounds` of 500,000 one-byte frames each, without the first
/// `gap` of them, and then one frame with all the bytes.
#[track_caller]
fn cost(target: &Target, rounds: u64, gap: u64) -> f64 {
    const PIECES: u64 = 500_000;
    let (mut wire, _) = target.site().link(target.pair.wan);
    let used = || cpu(target.pair.first.process.child.id());
    let before = used();
    for round in 0..rounds {
        let at = round * PIECES;
        wire.raw(&crumbs(at + gap..at + PIECES, 1)).expect("the gateway reads");
        wire.raw(&whole(at, PIECES as usize)).expect("the gateway reads");
    }
    wire.data(rounds * PIECES, b"PING\r\n").expect("the gateway reads");
    assert_eq!(wire.stream(7), b"+PONG\r\n", "all of it has arrived");
    used() - before
}

#[test]
fn pieces_beyond_a_gap_cost_as_much_cpu_time_as_the_same_pieces_in_order() {
    // A site is not slowed while no other site has a link.
    let target = Target::new();
    let in_order = cost(&target, 2, 0);
    let memory = target.pair.first.memory();
    let beyond = cost(&target, 2, 1);
    assert!(beyond < 4.0 * in_order + 0.3, "{beyond:.2} CPU-s, in order {in_order:.2}");
    let more = target.pair.first.memory().saturating_sub(memory);
    assert!(more < 16 << 20, "{more} bytes of memory for 500,000 of data");
}

#[test]
fn single_bytes_between_gaps_end_their_link_before_they_cost_memory() {
    let siege = Siege::new("[limits]\nmemory = \"64MiB\"\n");
    let memory = siege.first.memory();
    for _ in 0..4 {
        // The gateway ends the link long before the last frame.
        let mut wire = siege.link();
        let _ = wire.raw(&crumbs(1..1_000_000, 2));
        assert!(wire.is_closed(SOON));
    }
    siege.first.wait_end("protocol");
    siege.first.wait_log("too many gaps in the data");
    let more = siege.first.memory().saturating_sub(memory);
    assert!(more < 16 << 20, "{more} bytes of memory for four links of crumbs");
}

#[test]
fn a_site_that_never_fills_its_gaps_takes_no_memory_from_other_sites() {
    let siege = Siege::new("[limits]\nmemory = \"64MiB\"\n");
    let (memory, pace) = (siege.first.memory(), siege.pace(40));
    // Each link stays within its window, and sends what any link with a lost lane would send.
    let holding = [(); 6].map(|()| siege.link()).map(|mut wire| {
        std::thread::spawn(move || {
            let mut frames = (0..120).map(|at| whole(1 + at * 131_072, 131_072));
            while frames.next().is_some_and(|frame| wire.raw(&frame).is_ok()) {}
            while wire.send(&Frame::Heartbeat(None)).is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        })
    });
    // Measured while the gaps have been open only briefly, and again after links have ended for them.
    let early = siege.pace(40);
    assert!(early < 3.0 * pace + 1.0, "{early:.2} s for 40 MB, before {pace:.2} s");
    siege.first.wait_end("memory-short");
    let held = || siege.first.status()["memory_used"].as_u64().expect("status shows it");
    eventually("dc2 uses its share and no more", SOON, || (15 << 20..17 << 20).contains(&held()));
    let during = siege.pace(40);
    assert!(during < 3.0 * pace + 1.0, "{during:.2} s for 40 MB, before {pace:.2} s");
    let more = siege.first.memory().saturating_sub(memory);
    assert!(more < 128 << 20, "{more} bytes of memory more: twice the limit");
    assert!(held() >= 15 << 20, "dc2's share stays in use");
    assert_eq!((siege.alpha.sync_full(), siege.alpha.sync_partial_ok()), (1, 0));
    drop(siege);
    holding.into_iter().for_each(|thread| thread.join().expect("the thread does not panic"));
}

#[test]
fn a_gap_that_is_soon_filled_ends_no_link() {
    let siege = Siege::new("[limits]\nmemory = \"16MiB\"\n");
    let mut wire = siege.link();
    let length = 131_072u64;
    // More than a site's share, and all of it beyond a gap.
    for at in 0..64 {
        wire.raw(&whole(1 + at * length, length as usize)).expect("the gateway reads on");
    }
    let held = || siege.first.status()["memory_used"].as_u64().expect("status shows it");
    eventually("all of it is in memory", SOON, || held() >= 64 * length);
    always("the link lives", Duration::from_millis(1500), || siege.first.links() == 2);
    wire.raw(&whole(0, 1)).expect("the gap is filled");
    let all = 1 + 64 * length;
    let told = (0..10_000).find_map(|_| match wire.next() {
        Ok(Received::Frame(Frame::Ack(offset, _))) => (offset == all).then_some(()),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    });
    assert!(told.is_some(), "everything is acknowledged");
    eventually("the memory is free again", SOON, || held() < 1 << 20);
}

/// Useless frames of every kind.
fn useless() -> [Vec<u8>; 6] {
    let again = |frame: &[u8]| frame.repeat((1 << 20) / frame.len());
    [
        again(&Frame::Heartbeat(None).encode()),
        again(&Frame::Ack(0, None).encode()),
        // An unknown frame, as from a later release, which is skipped.
        again(&[0x80, 0, 0, 0, 0, 0, 0, 0]),
        // The same bytes again and again, in small and in large frames.
        again(&whole(0, 1)),
        again(&whole(0, 100_000)),
        again(&Frame::Retire.encode()),
    ]
}

/// Sends each link's bytes again and again until the link ends or `during` is over.
fn flood(links: Vec<(Wire, Vec<u8>)>, during: Duration) -> Vec<std::thread::JoinHandle<()>> {
    let until = Instant::now() + during;
    let flood = |(mut wire, bytes): (Wire, Vec<u8>)| {
        std::thread::spawn(move || while Instant::now() < until && wire.raw(&bytes).is_ok() {})
    };
    links.into_iter().map(flood).collect()
}

#[test]
fn a_site_that_floods_is_slowed_and_then_ended_and_no_other_site_is_affected() {
    let siege = Siege::new("");
    let before = slowest(&siege.alpha, Duration::from_secs(1));
    let links = useless().into_iter().map(|bytes| {
        let mut wire = siege.link();
        wire.data(0, &[b'\n'; 200_000]).expect("the gateway reads");
        (wire, bytes)
    });
    let flooding = flood(links.collect(), Duration::from_secs(30));
    siege.first.wait_kind("slowed");
    let (used, began) = (siege.used(), Instant::now());
    let during = slowest(&siege.alpha, Duration::from_secs(5));
    let used = (siege.used() - used) / began.elapsed().as_secs_f64();
    assert!(during < 10.0 * before + 0.5, "{during:.3} s for a write, before {before:.3} s");
    assert!(used < 0.6, "the gateway uses {used:.2} of a processor");
    siege.first.wait_end("costly");
    assert_eq!((siege.alpha.sync_full(), siege.alpha.sync_partial_ok()), (1, 0), "dc3 needed no resync");
    drop(siege);
    flooding.into_iter().for_each(|thread| thread.join().expect("the thread does not panic"));
}

#[test]
fn honest_traffic_is_never_slowed_in_bulk_or_in_the_smallest_writes() {
    let siege = Siege::new("");
    // Another site has a link, so that slowing a site is possible.
    let _idle = siege.link();
    let value = "x".repeat(1 << 20);
    let mut client = siege.alpha.client();
    for key in 0..150 {
        client.ask(&["SET", &format!("large:{key}"), &value]);
    }
    siege.delta.ask(&["REPLICAOF", "NO", "ONE"]);
    siege.delta.replicaof(siege.entry);
    siege.delta.wait_equal(&siege.alpha);
    assert!(siege.alpha.sync_full() > 1, "all of it was sent again");
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let mut client = siege.alpha.client();
            scope.spawn(move || {
                let (began, key) = (Instant::now(), format!("small:{writer}"));
                while began.elapsed() < Duration::from_secs(4) {
                    client.ask(&["SET", &key, "x"]);
                    if writer % 2 == 0 {
                        client.ask(&["WAIT", "1", "20000"]);
                    }
                }
            });
        }
    });
    siege.delta.wait_equal(&siege.alpha);
    for gateway in [&siege.first, &siege.third] {
        let log = gateway.log();
        assert!(!log.contains("is slowed") && !log.contains("cost CPU time"), "{log}");
    }
}

#[test]
fn a_master_site_that_floods_harms_no_link_to_another_site() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, evil, entry, trap) = (free_port(), free_port(), free_port(), free_port());
    let _third = lab.gateway("dc3", &master_config("dc3", wan, &[("stock", alpha.port)], ""));
    let stock = replica_block("stock", entry, wan, "").replace("\"dc1\"", "\"dc3\"");
    let config = format!("{}{}{stock}", tls("dc2"), replica_block("orders", trap, evil, ""));
    let second = lab.gateway("dc2", &config);
    let _bravo = lab.replica("bravo", entry, &alpha);
    let (before, memory) = (slowest(&alpha, Duration::from_secs(1)), second.memory());
    // A hand-made acceptor in place of dc1's gateway.
    let listener = TcpListener::bind(("127.0.0.1", evil)).expect("the port is free");
    let site = Site::new(&lab.path().join("certs"), "dc1", "dc2");
    let asked = || {
        let mut replica = Client::connect(trap).expect("the gateway accepts");
        replica.send(b"REPLCONF capa eof\r\n");
        (site.accept(&listener), replica)
    };
    let (mut wire, _replica) = asked();
    let _ = wire.raw(&crumbs(1..1_000_000, 2));
    assert!(wire.is_closed(SOON));
    second.wait_end("protocol");
    second.wait_log("too many gaps in the data");
    let (links, _replicas): (Vec<_>, Vec<_>) = useless()
        .into_iter()
        .take(5)
        .map(|bytes| {
            let (mut wire, replica) = asked();
            wire.data(0, &[b'\n'; 200_000]).expect("the gateway reads");
            ((wire, bytes), replica)
        })
        .unzip();
    let flooding = flood(links, Duration::from_secs(6));
    second.wait_kind("slowed");
    let during = slowest(&alpha, Duration::from_secs(3));
    assert!(during < 10.0 * before + 0.5, "{during:.3} s for a write, before {before:.3} s");
    let more = second.memory().saturating_sub(memory);
    assert!(more < 32 << 20, "{more} bytes of memory for useless frames");
    assert_eq!((alpha.sync_full(), alpha.sync_partial_ok()), (1, 0), "the honest link needed no resync");
    flooding.into_iter().for_each(|thread| thread.join().expect("the thread does not panic"));
}
