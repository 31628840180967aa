use proptest::prelude::*;

use super::*;
use crate::tls::revocation;
use crate::x509::Certificate;

/// The issuer of every list here.
fn signer() -> Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    Certificate::read(params.self_signed(&key).unwrap().der()).unwrap()
}

fn number(number: u8) -> ListNumber {
    let mut out = [0; 20];
    out[19] = number;
    out
}

/// A list of `bytes` bytes that nobody verifies here.
fn lists(signer: &Certificate, lists: &[(u8, usize)]) -> Revocation {
    let offer = |(at, (last, bytes)): (usize, &(u8, usize))| Offer {
        name: revocation::name(&signer.public_key, Some(&[u8::try_from(at).unwrap()])),
        number: number(*last),
        der: vec![*last; *bytes].into(),
    };
    let offers = lists.iter().enumerate().map(offer).collect();
    Revocation { signers: vec![signer.clone()], offers, ..Revocation::default() }
}

/// A gateway with links to another one.
struct Gateway {
    exchange: Arc<Exchange>,
    arrived: mpsc::Receiver<Arrived>,
    couriers: Vec<Courier>,
}

impl Gateway {
    fn new(known: &Revocation, far: &str, links: usize, now: Instant) -> Self {
        let (exchange, arrived) = Exchange::new();
        exchange.offer(known, now);
        let exchange = Arc::new(exchange);
        let couriers = (0..links).map(|_| exchange.join(Far::new(far, Id([1; 16])), now)).collect();
        Self { exchange, arrived, couriers }
    }
}

/// Passes every frame on over every link, until none is left. Returns them.
fn pump(one: &Gateway, two: &Gateway, now: Instant) -> Vec<Frame> {
    let mut seen = Vec::new();
    loop {
        let before = seen.len();
        for (from, to) in [(one, two), (two, one)] {
            for (link, courier) in from.couriers.iter().enumerate() {
                while let Some(frame) = courier.next(0, now) {
                    assert!(to.couriers[link].take(&frame, now));
                    seen.push(frame);
                }
            }
        }
        if seen.len() == before {
            return seen;
        }
    }
}

fn count(frames: &[Frame], is: impl Fn(&Frame) -> bool) -> usize {
    frames.iter().filter(|frame| is(frame)).count()
}

#[test]
fn with_600_links_between_two_gateways_a_list_crosses_once() {
    let (now, ca) = (Instant::now(), signer());
    let mut hub = Gateway::new(&lists(&ca, &[(2, 100_000)]), "spoke", 600, now);
    let mut spoke = Gateway::new(&lists(&ca, &[(1, 10)]), "hub", 600, now);
    let frames = pump(&hub, &spoke, now);
    assert_eq!(count(&frames, |frame| matches!(frame, Frame::Lists(_))), 2);
    assert_eq!(count(&frames, |frame| matches!(frame, Frame::Want(_))), 1);
    assert_eq!(
        count(&frames, |frame| matches!(frame, Frame::Piece(_))),
        100_000_usize.div_ceil(LARGEST_PIECE)
    );
    let arrived = spoke.arrived.try_recv().unwrap();
    assert_eq!((arrived.der, arrived.promised), (vec![2; 100_000], number(2)));
    assert!(spoke.arrived.try_recv().is_err());
    // It is used there, which the hub is told; nothing more follows.
    spoke.exchange.offer(&lists(&ca, &[(2, 100_000)]), now);
    assert_eq!(spoke.exchange.judged(&arrived.far, Verdict::Good, now), None);
    let frames = pump(&hub, &spoke, now);
    assert!(matches!(&frames[..], [Frame::Lists(_)]), "{frames:?}");
    // One more link is no news.
    hub.couriers.push(hub.exchange.join(Far::new("spoke", Id([1; 16])), now));
    spoke.couriers.push(spoke.exchange.join(Far::new("hub", Id([1; 16])), now));
    assert!(pump(&hub, &spoke, now).is_empty());
    // A later list is told at once.
    hub.exchange.offer(&lists(&ca, &[(3, 10)]), now);
    pump(&hub, &spoke, now);
    assert_eq!(spoke.arrived.try_recv().unwrap().der, vec![3; 10]);
}

#[test]
fn what_is_not_above_the_known_number_or_of_no_known_ca_is_not_asked_for() {
    let (now, ca) = (Instant::now(), signer());
    for (theirs, ours) in [
        (lists(&ca, &[(2, 10)]), lists(&ca, &[(2, 10)])),
        (lists(&ca, &[(1, 10)]), lists(&ca, &[(2, 10)])),
        (lists(&signer(), &[(9, 10)]), lists(&ca, &[(2, 10)])),
    ] {
        let (one, mut two) = (Gateway::new(&theirs, "b", 1, now), Gateway::new(&ours, "a", 1, now));
        let from_one: Vec<Frame> = std::iter::from_fn(|| one.couriers[0].next(0, now)).collect();
        from_one.iter().for_each(|frame| assert!(two.couriers[0].take(frame, now)));
        let answers: Vec<Frame> = std::iter::from_fn(|| two.couriers[0].next(0, now)).collect();
        assert!(matches!(&answers[..], [Frame::Lists(_)]), "{answers:?}");
        assert!(two.arrived.try_recv().is_err());
    }
}

#[test]
fn nothing_is_taken_that_was_not_asked_for_and_nothing_that_is_too_large() {
    let (now, ca) = (Instant::now(), signer());
    let mut two = Gateway::new(&lists(&ca, &[(1, 10)]), "a", 1, now);
    let known = lists(&ca, &[(2, 10)]).offers[0].clone();
    let piece = |total: usize| {
        let (total, bytes) = (u32::try_from(total).unwrap(), vec![7; 9]);
        Frame::Piece(Piece { name: known.name, number: known.number, total, at: 0, bytes })
    };
    two.couriers[0].take(&piece(9), now);
    assert!(two.arrived.try_recv().is_err(), "it was not asked for");
    two.couriers[0].take(&Frame::Lists(vec![Known { name: known.name, number: known.number }]), now);
    two.couriers[0].take(&piece(LARGEST + 1), now);
    let (total, bytes) = (9, vec![7; 9]);
    let other = Frame::Piece(Piece { name: [0; 32], number: known.number, total, at: 0, bytes });
    two.couriers[0].take(&other, now);
    let asked =
        |two: &Gateway| two.exchange.state().fars.values().next().unwrap().asked.as_ref().unwrap().coming;
    assert_eq!(asked(&two), None, "one is too large, and one is another list");
    two.couriers[0].take(&piece(9), now);
    let arrived = two.arrived.try_recv().unwrap();
    // Until the verdict nothing else is asked for, and after a bad one not for a while.
    two.couriers[0].take(&piece(9), now);
    assert!(two.arrived.try_recv().is_err());
    assert_eq!(two.exchange.judged(&arrived.far, Verdict::Bad, now), Some(Duration::from_secs(10)));
    let wants = |two: &Gateway, now| {
        let frames: Vec<Frame> = std::iter::from_fn(|| two.couriers[0].next(0, now)).collect();
        count(&frames, |frame| matches!(frame, Frame::Want(_)))
    };
    assert_eq!(wants(&two, now), 0);
    two.exchange.tick(now + Duration::from_secs(9));
    assert_eq!(wants(&two, now + Duration::from_secs(9)), 0);
    two.exchange.tick(now + Duration::from_secs(11));
    assert_eq!(wants(&two, now + Duration::from_secs(11)), 1);
}

#[test]
fn a_site_that_promises_a_list_and_does_not_hand_it_over_keeps_no_other_from_it() {
    let (now, ca) = (Instant::now(), signer());
    let (exchange, mut arrived) = Exchange::new();
    let exchange = Arc::new(exchange);
    exchange.offer(&lists(&ca, &[(1, 10)]), now);
    let join = |site: &str| exchange.join(Far::new(site, Id::random()), now);
    let (liar, honest) = (join("liar"), join("honest"));
    let later = lists(&ca, &[(5, 10)]).offers[0].clone();
    let told = Frame::Lists(vec![Known { name: later.name, number: later.number }]);
    liar.take(&told, now);
    honest.take(&told, now);
    let wants = |courier: &Courier, now| {
        let frames: Vec<Frame> = std::iter::from_fn(|| courier.next(0, now)).collect();
        count(&frames, |frame| matches!(frame, Frame::Want(_)))
    };
    assert_eq!((wants(&liar, now), wants(&honest, now)), (1, 0));
    let now = now + ELSEWHERE_TOO;
    exchange.tick(now);
    assert_eq!(wants(&honest, now), 1);
    let (total, bytes) = (10, vec![5; 10]);
    honest.take(&Frame::Piece(Piece { name: later.name, number: later.number, total, at: 0, bytes }), now);
    assert_eq!(arrived.try_recv().unwrap().far.site(), "honest");
}

#[test]
fn a_list_is_sent_again_from_its_start_when_its_lane_is_lost_or_stalls() {
    let (now, ca) = (Instant::now(), signer());
    for stalls in [true, false] {
        let mut hub = Gateway::new(&lists(&ca, &[(2, 50_000)]), "spoke", 2, now);
        let mut spoke = Gateway::new(&lists(&ca, &[]), "hub", 2, now);
        let told = hub.couriers[0].next(0, now).unwrap();
        spoke.couriers[0].take(&told, now);
        for _ in 0..2 {
            let frame = spoke.couriers[0].next(0, now).unwrap();
            hub.couriers[0].take(&frame, now);
        }
        // Two pieces go over the first link, and the second link has nothing to say meanwhile.
        for _ in 0..2 {
            let piece = hub.couriers[0].next(0, now).unwrap();
            assert!(matches!(piece, Frame::Piece(_)) && hub.couriers[1].next(0, now).is_none());
            spoke.couriers[0].take(&piece, now);
        }
        let now = if stalls { now + MOVED_ELSEWHERE } else { now };
        if stalls {
            hub.exchange.tick(now);
        } else {
            drop(hub.couriers.remove(0));
            drop(spoke.couriers.remove(0));
        }
        let (from, to) = (hub.couriers.last().unwrap(), spoke.couriers.last().unwrap());
        while let Some(frame) = from.next(0, now) {
            to.take(&frame, now);
        }
        assert_eq!(spoke.arrived.try_recv().unwrap().der, vec![2; 50_000], "{stalls}");
    }
}

#[test]
fn what_a_lost_lane_may_have_taken_with_it_is_sent_again_over_another() {
    let (now, ca) = (Instant::now(), signer());
    let two = Gateway::new(&lists(&ca, &[(1, 10)]), "a", 2, now);
    let next = |link: usize| two.couriers[link].next(0, now);
    assert!(matches!(next(0), Some(Frame::Lists(_))) && next(0).is_none());
    two.couriers[0].closed(1, now);
    assert!(next(1).is_none(), "it went over another lane");
    two.couriers[0].closed(0, now);
    assert!(matches!(next(1), Some(Frame::Lists(_))) && next(0).is_none());
    let later = lists(&ca, &[(2, 10)]).offers[0].clone();
    two.couriers[0].take(&Frame::Lists(vec![Known { name: later.name, number: later.number }]), now);
    assert!(matches!(next(0), Some(Frame::Want(_))) && next(1).is_none());
    two.couriers[0].closed(0, now);
    assert!(matches!(next(1), Some(Frame::Want(_))) && next(1).is_none());
}

proptest! {
    /// Whatever three gateways in a row know at first, and however their links fail, in the end all
    /// of them know the latest of each list.
    #[test]
    fn all_gateways_of_a_chain_learn_the_latest_of_each_list(
        known in proptest::collection::vec(proptest::collection::vec(0_u8..5, 3), 3),
    ) {
        let mut now = Instant::now();
        let ca = signer();
        let mut known: Vec<Vec<u8>> = known;
        let offers = |known: &[u8]| {
            let all = lists(&ca, &known.iter().map(|number| (*number, 5000)).collect::<Vec<_>>());
            let offers = all.offers.iter().filter(|offer| offer.number != number(0)).cloned().collect();
            Revocation { offers, ..all }
        };
        let mut ends: Vec<(Arc<Exchange>, mpsc::Receiver<Arrived>)> = Vec::new();
        for known in &known {
            let (exchange, arrived) = Exchange::new();
            exchange.offer(&offers(known), now);
            ends.push((Arc::new(exchange), arrived));
        }
        let join = |at: usize, far: usize| ends[at].0.join(Far::new(&format!("dc{far}"), Id([1; 16])), now);
        let links = [(0, 1), (1, 2)].map(|(a, b)| (join(a, b), join(b, a)));
        let mut moves = 0;
        for _ in 0..200 {
            let mut moved = false;
            for (one, two) in &links {
                for (from, to) in [(one, two), (two, one)] {
                    while let Some(frame) = from.next(0, now) {
                        to.take(&frame, now);
                        moved = true;
                    }
                }
            }
            for at in 0..3 {
                while let Ok(arrived) = ends[at].1.try_recv() {
                    let latest = arrived.der[0];
                    let list = (0..3).find(|list| {
                        let name = offers(&[9, 9, 9]).offers[*list].name;
                        arrived.promised == number(latest) && known.iter().any(|known| known[*list] == latest)
                            && ends[at].0.state().number(&name) < Some(number(latest))
                    });
                    if let Some(list) = list {
                        known[at][list] = known[at][list].max(latest);
                    }
                    ends[at].0.offer(&offers(&known[at]), now);
                    ends[at].0.judged(&arrived.far, Verdict::Good, now);
                    (moved, moves) = (true, moves + 1);
                }
            }
            if !moved {
                now += Duration::from_secs(6);
                ends.iter().for_each(|(exchange, _)| exchange.tick(now));
            }
        }
        prop_assert!(moves <= 18, "{moves} lists crossed");
        prop_assert!(known[0] == known[1] && known[1] == known[2], "{known:?}");
    }
}
