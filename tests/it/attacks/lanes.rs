//! A site with a valid certificate that opens useless lanes and never closes them.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use replgate::internal::wire::frame::Frame;
use replgate::internal::wire::hello::{Id, Request};

use super::Target;
use crate::support::gateway::Gateway;
use crate::support::redis::{Redis, Version};
use crate::support::wire::{Received, Site};
use crate::support::{SOON, eventually};

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(4);

/// The most that a flood has used of a gateway's resources.
struct Taken {
    descriptors: usize,
    memory: u64,
    lanes: usize,
}

/// Opens lanes with the request `want` as fast as three threads can, keeps the last thousand open,
/// and measures the gateway meanwhile.
fn flood(gateway: &Gateway, site: &Site, port: u16, want: impl Fn(usize) -> Request + Sync) -> Taken {
    let over = AtomicBool::new(false);
    let (descriptors, memory) = (gateway.descriptors(), gateway.memory());
    let mut taken = Taken { descriptors: 0, memory: 0, lanes: 0 };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (over, want) = (&over, &want);
                scope.spawn(move || {
                    let (mut open, mut lanes) = (VecDeque::new(), 0);
                    while !over.load(Ordering::Relaxed) {
                        let Ok(mut wire) = site.connect(port) else { continue };
                        let _ = wire.send(&site.hello(want(thread + 3 * lanes)));
                        let _ = wire.next();
                        lanes += 1;
                        open.push_back(wire);
                        open.truncate(1000);
                    }
                    lanes
                })
            })
            .collect();
        let began = Instant::now();
        while began.elapsed() < FLOOD {
            taken.descriptors = taken.descriptors.max(gateway.descriptors().saturating_sub(descriptors));
            taken.memory = taken.memory.max(gateway.memory().saturating_sub(memory));
            std::thread::sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::Relaxed);
        taken.lanes = threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum();
    });
    println!("{} lanes took {} descriptors and {} KiB", taken.lanes, taken.descriptors, taken.memory >> 10);
    taken
}

/// Asserts that the gateway stayed within the limits of one site, plus some handshakes, however many
/// lanes came.
#[track_caller]
fn is_little(taken: &Taken) {
    assert!(taken.lanes > 150, "a flood: {}", taken.lanes);
    assert!(taken.descriptors < 90, "{} descriptors for {} lanes", taken.descriptors, taken.lanes);
    assert!(taken.memory < 12 << 20, "{} bytes for {} lanes", taken.memory, taken.lanes);
}

fn attach(link: Id) -> Request {
    Request::Attach { link, lane: 1, alive: Vec::new(), received: 0 }
}

#[test]
fn lanes_that_are_refused_and_never_closed_cost_few_descriptors_and_little_memory() {
    let target = Target::new();
    let taken = flood(&target.pair.first, &target.site(), target.pair.wan, |_| attach(Id::random()));
    is_little(&taken);
    target.is_unharmed();
}

#[test]
fn probes_and_links_that_are_refused_and_never_closed_cost_little_as_well() {
    let target = Target::new();
    // Sixty links a minute are accepted, the rest are refused.
    let taken = flood(&target.pair.first, &target.site(), target.pair.wan, |at| match at % 3 {
        0 => Request::Probe { master: "orders".into() },
        1 => Request::Probe { master: "none".into() },
        _ => Request::New { master: "none".into(), sibling: Some(Id::random()), replica: None },
    });
    assert!(taken.lanes > 150 && taken.descriptors < 180, "{} of {}", taken.descriptors, taken.lanes);
}

#[test]
fn lanes_that_their_own_link_refuses_and_that_are_never_closed_cost_little_as_well() {
    let target = Target::new();
    let site = target.site();
    let (_link, accept) = site.link(target.pair.wan);
    let id = accept.link.expect("a new link has an id");
    // A link accepts no second lane before its sync has begun.
    let taken = flood(&target.pair.first, &site, target.pair.wan, |_| attach(id));
    is_little(&taken);
    target.is_unharmed();
}

#[test]
fn a_site_gets_its_link_while_another_certificate_floods_with_refused_lanes() {
    let target = Target::new();
    let stolen = Site::new(&target.lab.path().join("certs"), "dc3", "dc1");
    let replica = |name| {
        let replica = Redis::start(Version::System, target.lab.path(), name, &[]);
        replica.replicaof(target.pair.entry);
        replica.wait_equal(&target.alpha);
        replica
    };
    let _bravo = replica("bravo");
    std::thread::scope(|scope| {
        let flood =
            scope.spawn(|| flood(&target.pair.first, &stolen, target.pair.wan, |_| attach(Id::random())));
        let _charli = replica("charli");
        is_little(&flood.join().expect("no thread panics"));
        assert_eq!(target.pair.first.status()["counts"]["closed"], 0, "no link has ended");
    });
}

#[test]
fn a_connection_with_a_certificate_is_not_closed_for_strangers_from_the_same_address() {
    let target = Target::new();
    let mut waiting = target.site().connect(target.pair.wan).expect("the gateway takes TLS");
    let connect = || TcpStream::connect(("127.0.0.1", target.pair.wan)).expect("the gateway accepts");
    let mut strangers: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    // The oldest strangers are closed for new ones once they have been silent for a while.
    eventually("the oldest is closed", SOON, || {
        strangers.push(connect());
        target.pair.first.log().contains("the oldest is closed")
    });
    let hello = target.site().hello(Request::Probe { master: "orders".into() });
    waiting.send(&hello).expect("the gateway reads");
    let answer = waiting.next();
    assert!(matches!(answer, Ok(Received::Frame(Frame::Accept(_)))), "{answer:?}");
}

#[test]
fn endless_frames_in_place_of_a_hello_are_cut_off() {
    let target = Target::new();
    let mut wire = target.site().connect(target.pair.wan).expect("the gateway takes TLS");
    // Unknown frames that the gateway skips, of 4 KiB each.
    let mut frame = vec![0x90, 0, 0, 0, 0, 0, 16, 0];
    frame.resize(8 + 4096, 0);
    let began = Instant::now();
    let sent = (0..100_000).take_while(|_| wire.raw(&frame).is_ok()).count();
    assert!(sent < 2000 && began.elapsed() < Duration::from_secs(3), "{sent} frames of 4 KiB");
    target.is_unharmed();
}
