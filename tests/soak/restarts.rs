//! Gateways that are killed or stopped, and started again under load.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};

use crate::load::{Break, Soak, wait};
use crate::results::Syncs;
use crate::support::gateway::Gateway;
use crate::support::random::Random;

/// How long the restarts of a random gateway last.
const LONG: Duration = Duration::from_secs(180);

/// Backlog that covers the restart of a gateway at the master's site.
const BACKLOG: &str = "256mb";

/// From where garbage comes. It is not the address of anything else, since a gateway slows down the
/// address that sends such.
const STRANGER: [u8; 4] = [127, 0, 9, 9];

/// A gateway is killed.
fn kill(gateway: &mut Gateway) {
    gateway.kill();
}

/// A gateway is stopped in an orderly way.
fn stop(gateway: &mut Gateway) {
    assert_eq!(gateway.stop(), Some(0));
}

/// The ways in which a gateway goes.
const WAYS: [fn(&mut Gateway); 2] = [kill, stop];

/// The gateway at dc1 (0) or dc2 (1) goes and comes again, for each way twice. Each time costs one
/// partial resync.
#[track_caller]
fn restarts(mut soak: Soak, at: usize, what: &str) {
    let mut breaks = Vec::new();
    let (full, mut partial) = (soak.syncs().full, soak.syncs().partial);
    for round in 0..4 {
        breaks.push(soak.through(|line| {
            let gateway = if at == 0 { &mut line.first } else { &mut line.second };
            WAYS[round % 2](gateway);
            // What is written meanwhile is more than the usual backlog.
            wait(1.0);
            gateway.start_again();
        }));
        partial += 1;
        assert_eq!(Syncs::of(&soak.line.alpha), Syncs { full, partial }, "after round {round}");
    }
    soak.ends_after_restarts(what, &breaks, "4 restarts");
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_restart_of_the_gateway_at_the_replicas_site_costs_a_partial_resync() {
    restarts(Soak::new(""), 1, "dc2's gateway killed and stopped in turns, away for 1 s");
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_restart_of_the_gateway_at_the_masters_site_costs_a_partial_resync_if_the_backlog_covers_it() {
    let soak = Soak::new("");
    soak.line.alpha.ask(&["CONFIG", "SET", "repl-backlog-size", BACKLOG]);
    restarts(soak, 0, "dc1's gateway killed and stopped in turns, away for 1 s");
}

#[test]
#[ignore = "takes minutes; make soak"]
fn three_minutes_of_restarts_of_a_random_gateway_cost_its_replicas_site_partial_resyncs_alone() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_millis() as u64;
    let seed = std::env::var("SEED").map_or(now, |seed| seed.parse().expect("SEED is a number"));
    // It is shown if the test fails, and in the results.
    println!("SEED={seed}");
    let (mut random, began) = (Random::new(seed), Instant::now());
    let mut soak = Soak::new("");
    let garbage = Garbage::at([soak.line.wan, soak.line.entry], seed);
    let (mut breaks, mut restarts) = (Vec::new(), [0, 0]);
    while began.elapsed() < LONG {
        let (at, way) = (random.below(2) as usize, random.below(2) as usize);
        let away = random.below(2_000) as f64 / 1000.0;
        let before = Syncs::of(&soak.line.alpha);
        breaks.push(soak.through(|line| {
            let gateway = if at == 0 { &mut line.first } else { &mut line.second };
            WAYS[way](gateway);
            wait(away);
            gateway.start_again();
        }));
        restarts[at] += 1;
        let after = Syncs::of(&soak.line.alpha);
        let did = ["killed", "stopped"][way];
        let what = format!("SEED={seed}: dc{} was {did}, {away} s: {before:?}, {after:?}", at + 1);
        // The backlog does not cover a restart at dc1: that is the master's decision.
        assert!(after.full == before.full || at == 0, "{what}");
        assert!(after.full + after.partial == before.full + before.partial + 1, "{what}");
        wait(random.within(500..3_000) as f64 / 1000.0);
    }
    assert!(restarts.iter().all(|count| *count > 0), "SEED={seed}: {restarts:?}");
    let thrown = garbage.end();
    let words = format!(
        "SEED={seed}: dc1 restarted {} times, dc2 {} times; {thrown} connections of garbage",
        restarts[0], restarts[1]
    );
    let longest = Break::longest(&breaks);
    soak.ends_after_restarts("a random gateway killed or stopped for 180 s, the longest", &[longest], &words);
}

/// Connections that send something senseless, one after the other, until it is ended or dropped.
struct Garbage {
    stop: Arc<AtomicBool>,
    thrown: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Garbage {
    fn at(ports: [u16; 2], seed: u64) -> Self {
        let (stop, thrown) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count) = (Arc::clone(&stop), Arc::clone(&thrown));
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed);
            while !over.load(Ordering::SeqCst) {
                let port = ports[random.below(2) as usize];
                count.fetch_add(u64::from(throw(port, &mut random).is_ok()), Ordering::SeqCst);
            }
        });
        Self { stop, thrown, thread: Some(thread) }
    }

    /// Number of connections that were accepted.
    #[track_caller]
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("ended once").join().expect("it does not panic");
        let thrown = self.thrown.load(Ordering::SeqCst);
        assert!(thrown > 100, "a gateway accepts what strangers send");
        thrown
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Sends a piece of garbage on a connection of its own, and leaves soon.
fn throw(port: u16, random: &mut Random) -> std::io::Result<()> {
    use std::io::Write;
    let mut piece = random.words(1..200);
    match random.below(5) {
        0 => piece.clear(),
        1 => piece = b"GET / HTTP/1.1\r\nHost: dc1\r\n\r\n".to_vec(),
        2 => piece = b"FLUSHALL\r\n".to_vec(),
        // The head of a TLS handshake of 16 KiB.
        3 => piece.splice(0..0, [22, 3, 1, 64, 0, 1, 0, 63, 252, 3, 3]).for_each(drop),
        _ => {}
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((STRANGER, 0)).into())?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let connected = socket.connect_timeout(&address.into(), Duration::from_secs(1));
    let mut stream = TcpStream::from(socket);
    let sent = connected.and_then(|()| stream.write_all(&piece));
    std::thread::sleep(Duration::from_millis(random.within(10..100))); // The gateway looks at it.
    sent
}
