//! Two state machines against each other, over a lane that delivers in order, cuts
//! anywhere and can be lost.

use std::time::{Duration, Instant};

use super::frame::Decoder;
use super::*;

/// One end with what it has read and written.
struct Half {
    link: Link,
    decoder: Decoder,
    written: Vec<u8>,
}

impl Half {
    fn new(side: Side, plain: bool, now: Instant) -> Self {
        let terms = Terms::sample();
        Self {
            link: Link::new(side, plain, &terms, &terms, now),
            decoder: Decoder::default(),
            written: Vec::new(),
        }
    }

    /// Everything the link wants sent now, as bytes.
    fn sends(&mut self, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        while self.link.poll_transmit(0, now, &mut |frame| out.extend_from_slice(frame)) {}
        out
    }

    /// Takes bytes off the lane; what they carried is written at once if `write`.
    fn hears(&mut self, bytes: &[u8], write: bool, now: Instant) {
        let mut input = bytes;
        while let Some(item) = self.decoder.next(&mut input).expect("our own frames decode") {
            self.link.handle(0, item, now);
        }
        self.link.heard(0, now);
        if write {
            self.write(now);
        }
    }

    fn write(&mut self, now: Instant) {
        while let Some((chunk, carried)) = self.link.take() {
            self.written.extend_from_slice(chunk.bytes());
            self.link.wrote(carried, now);
        }
    }
}

struct Two {
    dialler: Half,
    acceptor: Half,
    now: Instant,
}

impl Two {
    fn new(plain: bool) -> Self {
        let now = Instant::now();
        Self {
            dialler: Half::new(Side::Dialler, plain, now),
            acceptor: Half::new(Side::Acceptor, plain, now),
            now,
        }
    }

    /// Exchanges until nothing is left to say at this time.
    fn exchange(&mut self) {
        loop {
            let (up, down) = (self.dialler.sends(self.now), self.acceptor.sends(self.now));
            if up.is_empty() && down.is_empty() {
                return;
            }
            self.acceptor.hears(&up, true, self.now);
            self.dialler.hears(&down, true, self.now);
        }
    }

    /// Lets time pass in small steps, with the lane working.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            for half in [&mut self.dialler, &mut self.acceptor] {
                half.link.judge(0, self.now);
                half.link.handle_timeout(self.now);
            }
            self.exchange();
        }
    }
}

fn offer(half: &mut Half, bytes: &[u8]) {
    half.link.offer(Chunk::copied(bytes));
}

#[test]
fn bytes_come_out_as_they_went_in_both_ways() {
    let mut two = Two::new(false);
    for round in 0..50u8 {
        offer(&mut two.dialler, &[round; 333]);
        offer(&mut two.acceptor, &[round; 7000]);
        two.exchange();
    }
    let expected = |size: usize| (0..50u8).flat_map(|round| vec![round; size]).collect::<Vec<_>>();
    assert_eq!(two.acceptor.written, expected(333));
    assert_eq!(two.dialler.written, expected(7000));
    two.pass(Duration::from_millis(50));
    assert_eq!(two.acceptor.link.send.acknowledged(), 50 * 7000);
}

#[test]
fn an_idle_link_stays_up_by_heartbeats_and_a_silent_one_ends() {
    let mut two = Two::new(false);
    two.pass(Duration::from_secs(30));
    assert!(two.dialler.link.ended().is_none() && two.acceptor.link.ended().is_none());
    let later = two.now + Duration::from_secs(4);
    two.dialler.link.judge(0, later);
    assert!(matches!(two.dialler.link.ended(), Some(End::LaneLost(LaneLoss::Silent(_)))));
}

#[test]
fn a_window_that_is_full_stops_reading_until_acknowledged() {
    let mut two = Two::new(false);
    let piece = vec![7; 200_000];
    let mut offered = 0;
    while two.acceptor.link.read_room() > 0 {
        let room = usize::try_from(two.acceptor.link.read_room()).unwrap().min(piece.len());
        offer(&mut two.acceptor, &piece[..room]);
        offered += room;
        let sent = two.acceptor.sends(two.now);
        two.dialler.hears(&sent, false, two.now);
    }
    assert_eq!(offered, 1 << 20);
    two.dialler.write(two.now);
    two.pass(Duration::from_millis(50));
    assert!(two.acceptor.link.read_room() > 0);
}

#[test]
fn a_replica_that_closes_ends_both_sides_and_drops_everything() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 1000]);
    two.dialler.link.local_closed(two.now);
    assert_eq!(two.dialler.link.ended(), Some(&End::LocalClosed(Side::Dialler)));
    let words = two.dialler.sends(two.now);
    two.acceptor.hears(&words, true, two.now);
    assert!(matches!(two.acceptor.link.ended(), Some(End::Far(why)) if why.code == Code::ReplicaClosed));
    assert!(two.acceptor.sends(two.now).is_empty());
}

#[test]
fn a_master_that_closes_is_delivered_to_its_last_byte() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.local_closed(two.now);
    two.exchange();
    assert_eq!(two.dialler.written.len(), 5000);
    assert!(matches!(two.dialler.link.ended(), Some(End::Far(why)) if why.code == Code::MasterClosed));
    two.exchange();
    assert_eq!(two.acceptor.link.ended(), Some(&End::LocalClosed(Side::Acceptor)));
}

#[test]
fn a_last_byte_that_redis_never_takes_does_not_hold_the_link_for_ever() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.local_closed(two.now);
    let last = two.acceptor.sends(two.now);
    two.dialler.hears(&last, false, two.now);
    let later = two.now + DELIVER;
    two.dialler.link.heard(0, later);
    two.dialler.link.handle_timeout(later);
    assert_eq!(two.dialler.link.ended(), Some(&End::NotDelivered));
    two.acceptor.link.heard(0, later);
    two.acceptor.link.handle_timeout(later);
    assert_eq!(two.acceptor.link.ended(), Some(&End::NotDelivered));
}

#[test]
fn a_planned_stop_sends_what_was_read_and_is_told_apart() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.stop(Why::new(Code::Stopping, "dc1 stops"));
    two.exchange();
    assert_eq!(two.acceptor.link.ended(), Some(&End::Stopping));
    assert_eq!(two.dialler.written.len(), 5000);
    assert!(matches!(two.dialler.link.ended(), Some(End::FarStopping(why)) if why.text == "dc1 stops"));
}

#[test]
fn a_plain_tunnel_closes_each_direction_on_its_own() {
    let mut two = Two::new(true);
    offer(&mut two.dialler, b"question");
    two.dialler.link.local_closed(two.now);
    two.exchange();
    assert!(two.acceptor.link.receive_finished() && two.acceptor.link.ended().is_none());
    offer(&mut two.acceptor, b"answer");
    two.exchange();
    assert_eq!(two.dialler.written, b"answer");
    two.acceptor.link.local_closed(two.now);
    two.pass(Duration::from_millis(50));
    assert_eq!(two.dialler.link.ended(), Some(&End::Finished));
    assert_eq!(two.acceptor.link.ended(), Some(&End::Finished));
}

#[test]
fn the_sync_is_armed_once_its_reply_is_written_and_acknowledged() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, b"+FULLRESYNC\r\n");
    two.acceptor.link.arm();
    assert!(!two.acceptor.link.is_armed());
    let sent = two.acceptor.sends(two.now);
    two.dialler.hears(&sent, false, two.now);
    assert!(!two.dialler.link.is_armed());
    two.dialler.write(two.now);
    assert!(two.dialler.link.is_armed());
    two.pass(Duration::from_millis(50));
    assert!(two.acceptor.link.is_armed());
}

#[test]
fn what_cannot_be_ends_the_link_on_both_sides() {
    for frame in [
        Frame::Ack(99),
        Frame::Armed(3),
        Frame::Hello(tlv::Hello::sample()),
        Frame::End { offset: 3, why: Why::new(Code::MasterClosed, "") },
    ] {
        let mut two = Two::new(false);
        two.acceptor.hears(&frame.encode(), true, two.now);
        assert!(matches!(two.acceptor.link.ended(), Some(End::Protocol(_))), "{frame:?}");
        two.exchange();
        assert!(
            matches!(two.dialler.link.ended(), Some(End::Far(why)) if why.code == Code::Protocol),
            "{frame:?}"
        );
    }
}

#[test]
fn what_came_before_the_far_side_left_in_good_order_is_still_written() {
    for planned in [true, false] {
        let mut two = Two::new(false);
        offer(&mut two.acceptor, &[1; 5000]);
        match planned {
            true => two.acceptor.link.stop(Why::new(Code::Stopping, "dc1 stops")),
            false => two.acceptor.link.local_closed(two.now),
        }
        let last = two.acceptor.sends(two.now);
        two.dialler.hears(&last, false, two.now);
        two.dialler.link.lane_lost(0, LaneLoss::Closed, two.now);
        assert!(two.dialler.link.ended().is_none() && !two.dialler.link.has_lane(0));
        two.dialler.write(two.now);
        assert_eq!(two.dialler.written.len(), 5000);
        let ended = two.dialler.link.ended();
        assert!(matches!(ended, Some(End::FarStopping(_) | End::Far(_))), "{ended:?}");
    }
}

#[test]
fn slow_delivery_goes_on_for_as_long_as_it_makes_progress() {
    let mut two = Two::new(false);
    for _ in 0..10 {
        // One chunk each, so that each is written on its own.
        offer(&mut two.acceptor, &[1; 100_000]);
    }
    two.acceptor.link.local_closed(two.now);
    while two.dialler.written.len() < 1_000_000 {
        let (up, down) = (two.dialler.sends(two.now), two.acceptor.sends(two.now));
        two.acceptor.hears(&up, true, two.now);
        two.dialler.hears(&down, false, two.now);
        if let Some((chunk, carried)) = two.dialler.link.take() {
            two.dialler.written.extend_from_slice(chunk.bytes());
            two.dialler.link.wrote(carried, two.now);
        }
        two.now += Duration::from_secs(2);
        for half in [&mut two.dialler, &mut two.acceptor] {
            half.link.heard(0, two.now);
            half.link.handle_timeout(two.now);
        }
    }
    two.exchange();
    assert!(matches!(two.dialler.link.ended(), Some(End::Far(_))));
    assert_eq!(two.acceptor.link.ended(), Some(&End::LocalClosed(Side::Acceptor)));
}

#[test]
fn an_end_whose_bytes_never_came_is_not_called_delivered() {
    let mut two = Two::new(false);
    let end = Frame::End { offset: 500, why: Why::new(Code::MasterClosed, "") };
    two.dialler.hears(&end.encode(), true, two.now);
    assert!(two.dialler.link.ended().is_none());
    two.dialler.link.lane_lost(0, LaneLoss::Closed, two.now);
    assert_eq!(two.dialler.link.ended(), Some(&End::NotDelivered));
}
