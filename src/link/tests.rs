//! Two ends of a link, over a lane that delivers in order, cuts anywhere and can be lost.

mod lanes;
mod returning;

use std::time::{Duration, Instant};

use super::closing::DRAIN_IDLE;
use super::*;
use crate::wire::frame::{Decoder, Item, Report, data_header};
use crate::wire::hello::Hello;
use crate::wire::terms::{Terms, ZSTD};

/// One end of a link with its decoder, and the bytes that its Redis has got.
struct Half {
    link: Link,
    decoder: Decoder,
    written: Vec<u8>,
}

impl Half {
    fn new(side: Side, plain: bool, now: Instant) -> Self {
        let terms = Terms::sample();
        Self {
            link: Link::new(side, &terms.agree(&terms, plain), now),
            decoder: Decoder::default(),
            written: Vec::new(),
        }
    }

    /// The bytes that the link sends now.
    fn transmit(&mut self, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        while self.link.poll_transmit(0, now, &mut |frame| out.extend_from_slice(frame)) {}
        out
    }

    /// Receives bytes from the lane. If `write`, the data in them is written to Redis at once.
    fn receives(&mut self, bytes: &[u8], write: bool, now: Instant) {
        let mut input = bytes;
        while let Some(item) = self.decoder.next(&mut input).expect("our own frames decode") {
            self.link.handle(0, item, now);
        }
        self.link.on_activity(0, now);
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

    /// Exchanges frames until neither end has more to send at this time.
    fn exchange(&mut self) {
        loop {
            let (up, down) = (self.dialler.transmit(self.now), self.acceptor.transmit(self.now));
            if up.is_empty() && down.is_empty() {
                return;
            }
            self.acceptor.receives(&up, true, self.now);
            self.dialler.receives(&down, true, self.now);
        }
    }

    /// Lets time pass in small steps, with the lane working.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            for half in [&mut self.dialler, &mut self.acceptor] {
                half.link.check_liveness(0, self.now);
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
fn bytes_arrive_unchanged_in_both_directions() {
    let mut two = Two::new(false);
    for round in 0..50u8 {
        offer(&mut two.dialler, &[round; 333]);
        offer(&mut two.acceptor, &[round; 7000]);
        two.exchange();
    }
    let expected = |size: usize| (0..50u8).flat_map(|round| vec![round; size]).collect::<Vec<_>>();
    assert_eq!(two.acceptor.written, expected(333));
    assert_eq!(two.dialler.written, expected(7000));
    // Until the next tick.
    two.pass(Duration::from_millis(200));
    assert_eq!(two.acceptor.link.send.acknowledged(), 50 * 7000);
}

#[test]
fn heartbeats_keep_an_idle_link_up_and_a_silent_one_ends() {
    let mut two = Two::new(false);
    two.pass(Duration::from_secs(30));
    assert!(two.dialler.link.closing.ended().is_none() && two.acceptor.link.closing.ended().is_none());
    let later = two.now + Duration::from_secs(4);
    two.dialler.link.check_liveness(0, later);
    assert!(matches!(two.dialler.link.closing.ended(), Some(End::LaneLost(LaneLoss::Silent(_)))));
}

#[test]
fn a_full_window_stops_reading_until_data_is_acknowledged() {
    let mut two = Two::new(false);
    let piece = vec![7; 200_000];
    let mut offered = 0;
    let room = |two: &Two| two.acceptor.link.read_room(u64::MAX, false);
    while room(&two) > 0 {
        let room = usize::try_from(room(&two)).unwrap().min(piece.len());
        offer(&mut two.acceptor, &piece[..room]);
        offered += room;
        let sent = two.acceptor.transmit(two.now);
        two.dialler.receives(&sent, false, two.now);
    }
    assert_eq!(offered, 1 << 20);
    two.dialler.write(two.now);
    two.pass(Duration::from_millis(50));
    assert!(room(&two) > 0);
}

#[test]
fn a_replica_that_closes_ends_both_sides_and_drops_everything() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 1000]);
    two.dialler.link.local_closed(two.now);
    assert_eq!(two.dialler.link.closing.ended(), Some(&End::LocalClosed(Side::Dialler)));
    let words = two.dialler.transmit(two.now);
    two.acceptor.receives(&words, true, two.now);
    assert!(
        matches!(two.acceptor.link.closing.ended(), Some(End::Far(reason)) if reason.code == ReasonCode::ReplicaClosed)
    );
    assert!(two.acceptor.transmit(two.now).is_empty());
}

/// Whether this end was ended by the other for that reason.
fn ended_by_far(half: &Half, code: ReasonCode) -> bool {
    matches!(half.link.closing.ended(), Some(End::Far(reason)) if reason.code == code)
}

#[test]
fn what_a_replica_had_sent_when_it_left_is_written_and_what_it_would_get_is_dropped() {
    let mut two = armed();
    offer(&mut two.acceptor, &[1; 1000]);
    let unread = two.acceptor.transmit(two.now);
    two.dialler.receives(&unread, false, two.now);
    offer(&mut two.dialler, b"ACK 1");
    let sent = two.dialler.transmit(two.now);
    offer(&mut two.dialler, b"ACK 2");
    two.dialler.link.local_closed(two.now);
    assert_eq!(two.dialler.link.closing.ended(), Some(&End::LocalClosed(Side::Dialler)));
    assert!(two.dialler.link.take().is_none() && two.dialler.link.is_held_far_away());
    let words = [sent, two.dialler.transmit(two.now)].concat();
    two.acceptor.receives(&words, false, two.now);
    assert!(two.acceptor.link.closing.ended().is_none() && !two.acceptor.link.is_resumable());
    two.acceptor.write(two.now);
    assert_eq!(two.acceptor.written, b"ACK 1ACK 2");
    assert!(ended_by_far(&two.acceptor, ReasonCode::ReplicaClosed));
    assert_eq!(
        two.acceptor.link.poll_event().map(|event| matches!(event, Event::Ended { delivered: true, .. })),
        Some(true)
    );
}

#[test]
fn nothing_of_a_replica_is_written_after_its_reset_or_over_a_broken_path_or_beyond_a_limit() {
    let leave = |two: &mut Two, how: &str| match how {
        "reset" => two.dialler.link.local_broken(two.now),
        "broken path" => {
            two.dialler.link.lane_lost(0, LaneLoss::Failed(String::new()), two.now);
            assert!(two.dialler.link.is_held());
            two.dialler.link.local_closed(two.now);
        }
        _ => {
            offer(&mut two.dialler, &vec![b'x'; LEAVE_BYTES as usize]);
            two.dialler.link.local_closed(two.now);
        }
    };
    for how in ["reset", "broken path", "beyond a limit"] {
        let mut two = armed();
        offer(&mut two.dialler, b"ACK 2");
        leave(&mut two, how);
        let end = two.dialler.link.closing.ended();
        assert_eq!(end, Some(&End::LocalClosed(Side::Dialler)), "{how}: the link ends at once");
        two.exchange();
        assert!(two.acceptor.written.is_empty(), "{how}");
        assert!(two.dialler.link.is_held_far_away());
    }
}

#[test]
fn a_request_for_a_sync_is_not_delivered_once_its_client_or_gateway_has_said_goodbye() {
    for stops in [false, true] {
        let mut two = Two::new(false);
        offer(&mut two.dialler, b"PSYNC ? -1");
        let mut words = two.dialler.transmit(two.now);
        if stops {
            two.dialler.link.stop(Reason::new(ReasonCode::Stopping, "dc2 stops"));
        } else {
            two.dialler.link.local_closed(two.now);
        }
        words.extend(two.dialler.transmit(two.now));
        two.acceptor.receives(&words, true, two.now);
        assert!(two.acceptor.written.is_empty());
        let end = two.acceptor.link.closing.ended();
        assert!(
            matches!((stops, end), (true, Some(End::FarStopping(_))) | (false, Some(End::Far(_)))),
            "{end:?}"
        );
    }
}

#[test]
fn every_lane_carries_the_acknowledgement_that_ends_a_link_before_it_is_closed() {
    let mut two = armed();
    let now = two.now;
    let dial = two.dialler.link.begin_dial(now);
    let received = two.acceptor.link.attach(&dial, now).expect("there is room");
    assert!(two.dialler.link.dialled(dial.lane, received, now));
    offer(&mut two.acceptor, &[1; 100]);
    two.acceptor.link.local_closed(now);
    let last = two.acceptor.transmit(now);
    two.dialler.receives(&last, true, now);
    assert!(ended_by_far(&two.dialler, ReasonCode::MasterClosed));
    let mut decoder = Decoder::default();
    let mut said = Vec::new();
    while two.dialler.link.poll_transmit(dial.lane, now, &mut |frame| said.extend_from_slice(frame)) {}
    let mut input = &said[..];
    while let Some(item) = decoder.next(&mut input).expect("our own frames decode") {
        two.acceptor.link.handle(dial.lane, item, now);
    }
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::LocalClosed(Side::Acceptor)));
}

#[test]
fn a_master_that_closes_is_delivered_to_its_last_byte() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.local_closed(two.now);
    two.exchange();
    assert_eq!(two.dialler.written.len(), 5000);
    assert!(
        matches!(two.dialler.link.closing.ended(), Some(End::Far(reason)) if reason.code == ReasonCode::MasterClosed)
    );
    two.exchange();
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::LocalClosed(Side::Acceptor)));
}

#[test]
fn a_last_byte_that_redis_never_reads_does_not_keep_the_link_for_ever() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.local_closed(two.now);
    let last = two.acceptor.transmit(two.now);
    two.dialler.receives(&last, false, two.now);
    let later = two.now + DRAIN_IDLE;
    two.dialler.link.on_activity(0, later);
    two.dialler.link.handle_timeout(later);
    assert_eq!(two.dialler.link.closing.ended(), Some(&End::NotDelivered));
    two.acceptor.link.on_activity(0, later);
    two.acceptor.link.handle_timeout(later);
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::NotDelivered));
}

#[test]
fn a_planned_stop_sends_what_was_read_and_has_its_own_reason() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.stop(Reason::new(ReasonCode::Stopping, "dc1 stops"));
    two.exchange();
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::Stopping));
    assert_eq!(two.dialler.written.len(), 5000);
    assert!(
        matches!(two.dialler.link.closing.ended(), Some(End::FarStopping(reason)) if reason.text == "dc1 stops")
    );
}

#[test]
fn a_plain_tunnel_closes_each_direction_separately() {
    let mut two = Two::new(true);
    offer(&mut two.dialler, b"question");
    two.dialler.link.local_closed(two.now);
    two.exchange();
    assert!(two.acceptor.link.receive_finished() && two.acceptor.link.closing.ended().is_none());
    offer(&mut two.acceptor, b"answer");
    two.exchange();
    assert_eq!(two.dialler.written, b"answer");
    two.acceptor.link.local_closed(two.now);
    two.pass(Duration::from_millis(50));
    assert_eq!(two.dialler.link.closing.ended(), Some(&End::Finished));
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::Finished));
}

#[test]
fn the_sync_is_armed_once_its_reply_is_written_and_acknowledged() {
    let mut two = Two::new(false);
    offer(&mut two.acceptor, b"+FULLRESYNC\r\n");
    two.acceptor.link.arm();
    assert!(!two.acceptor.link.is_armed());
    let sent = two.acceptor.transmit(two.now);
    two.dialler.receives(&sent, false, two.now);
    assert!(!two.dialler.link.is_armed());
    two.dialler.write(two.now);
    assert!(two.dialler.link.is_armed());
    two.pass(Duration::from_millis(50));
    assert!(two.acceptor.link.is_armed());
}

#[test]
fn an_invalid_frame_ends_the_link_on_both_sides() {
    for frame in [
        Frame::Ack(99, None),
        Frame::Armed(3),
        Frame::Hello(Hello::sample()),
        Frame::End { offset: 3, reason: Reason::new(ReasonCode::MasterClosed, "") },
    ] {
        let mut two = Two::new(false);
        two.acceptor.receives(&frame.encode(), true, two.now);
        assert!(matches!(two.acceptor.link.closing.ended(), Some(End::Protocol(_))), "{frame:?}");
        two.exchange();
        assert!(
            matches!(two.dialler.link.closing.ended(), Some(End::Far(reason)) if reason.code == ReasonCode::Protocol),
            "{frame:?}"
        );
    }
}

#[test]
fn data_received_before_an_orderly_end_of_the_far_side_is_still_written() {
    for planned in [true, false] {
        let mut two = Two::new(false);
        offer(&mut two.acceptor, &[1; 5000]);
        match planned {
            true => two.acceptor.link.stop(Reason::new(ReasonCode::Stopping, "dc1 stops")),
            false => two.acceptor.link.local_closed(two.now),
        }
        let last = two.acceptor.transmit(two.now);
        two.dialler.receives(&last, false, two.now);
        two.dialler.link.lane_lost(0, LaneLoss::Closed, two.now);
        assert!(two.dialler.link.closing.ended().is_none() && !two.dialler.link.has_lane(0));
        two.dialler.write(two.now);
        assert_eq!(two.dialler.written.len(), 5000);
        let ended = two.dialler.link.closing.ended();
        assert!(matches!(ended, Some(End::FarStopping(_) | End::Far(_))), "{ended:?}");
    }
}

#[test]
fn slow_delivery_continues_as_long_as_it_makes_progress() {
    let mut two = Two::new(false);
    for _ in 0..10 {
        // One chunk each, so that each is written on its own.
        offer(&mut two.acceptor, &[1; 100_000]);
    }
    two.acceptor.link.local_closed(two.now);
    while two.dialler.written.len() < 1_000_000 {
        let (up, down) = (two.dialler.transmit(two.now), two.acceptor.transmit(two.now));
        two.acceptor.receives(&up, true, two.now);
        two.dialler.receives(&down, false, two.now);
        if let Some((chunk, carried)) = two.dialler.link.take() {
            two.dialler.written.extend_from_slice(chunk.bytes());
            two.dialler.link.wrote(carried, two.now);
        }
        two.now += Duration::from_secs(2);
        for half in [&mut two.dialler, &mut two.acceptor] {
            half.link.on_activity(0, two.now);
            half.link.handle_timeout(two.now);
        }
    }
    two.exchange();
    assert!(matches!(two.dialler.link.closing.ended(), Some(End::Far(_))));
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::LocalClosed(Side::Acceptor)));
}

#[test]
fn an_end_without_all_of_its_bytes_is_not_reported_as_delivered() {
    let mut two = Two::new(false);
    let end = Frame::End { offset: 500, reason: Reason::new(ReasonCode::MasterClosed, "") };
    two.dialler.receives(&end.encode(), true, two.now);
    assert!(two.dialler.link.closing.ended().is_none());
    two.dialler.link.lane_lost(0, LaneLoss::Closed, two.now);
    assert_eq!(two.dialler.link.closing.ended(), Some(&End::NotDelivered));
}

/// Two ends of a link whose sync has begun, so that it can be held. It has lane 0.
fn armed() -> Two {
    let mut two = Two::new(false);
    let terms = Terms { hold: Duration::from_secs(45), lanes: 2, ..Terms::sample() };
    for (half, side) in [(&mut two.dialler, Side::Dialler), (&mut two.acceptor, Side::Acceptor)] {
        half.link = Link::new(side, &terms.agree(&terms, false), two.now);
    }
    offer(&mut two.acceptor, b"+FULLRESYNC\r\n");
    two.acceptor.link.arm();
    two.exchange();
    assert!(two.dialler.link.is_armed() && two.acceptor.link.is_armed());
    two
}

/// The events of a link since the last call.
fn events(link: &mut Link) -> Vec<Event> {
    std::iter::from_fn(|| link.poll_event()).collect()
}

/// Whether the only event is that lane 0 was retired.
fn is_closed_retired(link: &mut Link) -> bool {
    events(link) == [Event::LaneClosed { lane: 0, retired: true }]
}

fn dial(lane: u32, alive: &[u32], received: u64) -> dials::Dial {
    dials::Dial { lane, alive: alive.to_vec(), received }
}

#[test]
fn every_loss_leads_to_a_full_hold_but_for_an_orderly_close_where_the_replica_is_unknown() {
    let long = Duration::from_secs(45);
    let losses = [
        (LaneLoss::Silent(Duration::from_secs(3)), true, long),
        (LaneLoss::Failed("reset".to_owned()), false, long),
        (LaneLoss::Closed, true, long),
        (LaneLoss::Closed, false, Duration::from_millis(2500)),
    ];
    for (loss, known, within) in losses {
        let mut two = armed();
        let link = &mut two.acceptor.link;
        if !known {
            link.liveness.give_up_soon_once_closed();
        }
        link.lane_lost(0, loss, two.now);
        link.handle_timeout(two.now + within - Duration::from_millis(1));
        assert!(link.is_held() && link.closing.ended().is_none());
        assert_eq!(link.poll_timeout(&|_| LaneIo { room: true, empty: true }), Some(two.now + within));
        link.handle_timeout(two.now + within);
        assert!(matches!(link.closing.ended(), Some(End::NoNewLane(..))), "{:?}", link.closing.ended());
    }
}

#[test]
fn before_the_sync_a_link_is_not_held_and_accepts_no_other_lane() {
    let mut two = Two::new(false);
    let refused = two.acceptor.link.attach(&dial(1, &[0], 0), two.now).unwrap_err();
    assert_eq!(refused.code, ReasonCode::NotYet);
    two.dialler.link.lane_lost(0, LaneLoss::Closed, two.now);
    assert!(matches!(two.dialler.link.closing.ended(), Some(End::LaneLost(_))));
}

#[test]
fn a_new_lane_replaces_those_that_the_dialler_does_not_list() {
    let mut two = armed();
    let link = &mut two.acceptor.link;
    assert_eq!(link.attach(&dial(2, &[0, 1], 13), two.now), Ok(0));
    assert!(link.has_lane(0) && link.has_lane(2));
    assert_eq!(link.attach(&dial(1, &[0], 13), two.now).unwrap_err().code, ReasonCode::OldLane);
    assert_eq!(link.attach(&dial(3, &[2], 13), two.now), Ok(0));
    assert!(!link.has_lane(0) && link.has_lane(2) && link.has_lane(3));
    assert_eq!(link.breaks(), 0);
    assert_eq!(link.attach(&dial(4, &[], 13), two.now), Ok(0));
    assert_eq!((link.breaks(), link.lanes()), (1, 1), "there was a break for the far side");
}

#[test]
fn a_dial_that_claims_to_have_received_unsent_data_ends_the_link() {
    let mut two = armed();
    let refused = two.acceptor.link.attach(&dial(1, &[0], 14), two.now).unwrap_err();
    assert_eq!(refused.code, ReasonCode::Protocol);
    assert!(matches!(two.acceptor.link.closing.ended(), Some(End::Protocol(_))));
}

#[test]
fn a_link_that_has_fallen_behind_reads_as_memory_allows_until_it_has_caught_up() {
    let mut two = armed();
    let link = &mut two.acceptor.link;
    let most = link.max_payload();
    link.fall_behind();
    while link.unsent() < 2 * READ_AHEAD {
        link.offer(Chunk::copied(&vec![1; most]));
        assert!(link.read_room(u64::MAX, false) > READ_AHEAD);
    }
    assert_eq!(link.read_room(12_345, false), 12_345, "memory is the only bound");
    while two.acceptor.link.unsent() > 0 {
        two.exchange();
        two.now += Duration::from_millis(100);
    }
    let link = &mut two.acceptor.link;
    while link.unsent() < READ_AHEAD {
        link.offer(Chunk::copied(&vec![1; most]));
    }
    assert_eq!(link.read_room(u64::MAX, false), 0, "as before");
}

#[test]
fn a_link_over_which_nothing_arrives_for_a_second_is_read_as_memory_allows() {
    let mut two = armed();
    let link = &mut two.acceptor.link;
    let fill = |link: &mut Link| {
        while link.read_room(u64::MAX, false) > 0 {
            let count = link.read_room(link.max_payload() as u64, false) as usize;
            link.offer(Chunk::copied(&vec![1; count]));
        }
    };
    let stuck = |link: &Link| link.poll_timeout(&|_| LaneIo { room: false, empty: false });
    fill(link);
    assert_eq!(stuck(link), None, "nothing is under way");
    let at = |millis| two.now + Duration::from_millis(millis);
    let send = |link: &mut Link, millis| {
        assert!(link.poll_transmit(0, at(millis), &mut |_| ()));
        fill(link);
    };
    (0..2).for_each(|_| send(link, 100));
    assert_eq!(stuck(link), Some(at(1100)));
    // What is acknowledged puts it off.
    link.handle(0, Item::Frame(Frame::Ack(14, None)), at(900));
    link.handle_timeout(at(1899));
    assert_eq!((link.read_room(u64::MAX, false), stuck(link)), (0, Some(at(1900))));
    link.handle_timeout(at(1900));
    assert_eq!((link.read_room(12_345, false), stuck(link)), (12_345, None));
    let arrived = Report { received: link.sent(), lanes: Vec::new() };
    link.handle(0, Item::Frame(Frame::Ack(link.sent(), Some(arrived))), at(2000));
    while link.poll_transmit(0, at(2000), &mut |_| ()) {}
    assert!(link.read_room(u64::MAX, false) <= READ_AHEAD, "as before");
}

#[test]
fn a_suspect_lane_that_delivers_again_continues_without_sending_anything_twice() {
    let mut two = armed();
    offer(&mut two.acceptor, &[1; 5000]);
    let under_way = two.acceptor.transmit(two.now);
    two.now += Duration::from_secs(4);
    for half in [&mut two.dialler, &mut two.acceptor] {
        half.link.check_liveness(0, two.now);
        assert!(half.link.is_held() && half.link.has_lane(0));
    }
    assert!(two.acceptor.transmit(two.now).is_empty(), "the far side must detect the silence too");
    two.dialler.receives(&under_way, true, two.now);
    two.acceptor.link.on_activity(0, two.now);
    two.exchange();
    assert_eq!((two.dialler.written.len(), two.acceptor.link.resent()), (5013, 0));
    let events = events(&mut two.acceptor.link);
    assert!(
        matches!(&events[..], [Event::Resumed(resumed)] if resumed.lasted < Duration::from_secs(1)),
        "{events:?}"
    );
}

#[test]
fn more_lanes_are_dialled_once_the_sync_has_begun_and_rarely_if_they_keep_failing() {
    let mut two = Two::new(false);
    assert_eq!(two.dialler.link.dial_due(), None);
    two = armed();
    let (link, mut now, mut dials) = (&mut two.dialler.link, two.now, 0);
    while now < two.now + Duration::from_secs(60) {
        if link.dial_due().is_some_and(|due| due <= now) {
            let lane = link.begin_dial(now).lane;
            assert_eq!(link.dial_due(), None, "one at a time");
            link.dial_failed(lane, now);
            dials += 1;
        }
        now += Duration::from_millis(50);
    }
    assert!((5..=7).contains(&dials), "{dials}");
    // Without any lane it dials again and again, at most four at a time.
    link.lane_lost(0, LaneLoss::Failed("reset".to_owned()), now);
    let mut pending = Vec::new();
    for _ in 0..100 {
        if link.dial_due().is_some_and(|due| due <= now) {
            pending.push(link.begin_dial(now));
        }
        now += Duration::from_millis(50);
    }
    assert_eq!(pending.len(), 4);
    assert_eq!(pending[3].alive, pending[..3].iter().map(|dial| dial.lane).collect::<Vec<_>>());
    assert!(link.dialled(pending[1].lane, 0, now) && !link.dialled(pending[0].lane, 0, now));
}

#[test]
fn an_end_that_was_lost_with_its_lane_is_sent_again() {
    let mut two = armed();
    offer(&mut two.acceptor, &[1; 5000]);
    two.acceptor.link.local_closed(two.now);
    two.acceptor.transmit(two.now);
    for half in [&mut two.dialler, &mut two.acceptor] {
        half.link.lane_lost(0, LaneLoss::Failed("reset".to_owned()), two.now);
    }
    // Longer than an end may take without progress, which does not count during the break.
    two.now += DRAIN_IDLE * 2;
    two.acceptor.link.handle_timeout(two.now);
    let back = two.dialler.link.begin_dial(two.now);
    let received = two.acceptor.link.attach(&back, two.now).unwrap();
    assert!(two.dialler.link.dialled(back.lane, received, two.now));
    let mut out = Vec::new();
    while two.acceptor.link.poll_transmit(back.lane, two.now, &mut |frame| out.extend_from_slice(frame)) {}
    let (mut decoder, mut input) = (Decoder::default(), &out[..]);
    while let Some(item) = decoder.next(&mut input).unwrap() {
        two.dialler.link.handle(back.lane, item, two.now);
    }
    two.dialler.write(two.now);
    assert_eq!(two.dialler.written.len(), 5013);
    assert!(two.dialler.link.is_held_far_away());
    let events = events(&mut two.dialler.link);
    assert!(
        matches!(
            &events[..],
            [
                Event::LaneClosed { lane: 0, retired: false },
                Event::Resumed(_),
                Event::Ended { end: End::Far(_), delivered: true }
            ]
        ),
        "{events:?}"
    );
}

/// Moves what one end has to send on this lane to the other, which writes it at once.
fn carry(from: &mut Half, to: &mut Half, lane: u32, decoder: &mut Decoder, now: Instant) {
    let mut out = Vec::new();
    while from.link.poll_transmit(lane, now, &mut |frame| out.extend_from_slice(frame)) {}
    let mut input = &out[..];
    while let Some(item) = decoder.next(&mut input).expect("our own frames decode") {
        to.link.handle(lane, item, now);
    }
    to.write(now);
}

#[test]
fn what_was_taken_in_during_a_break_is_sent_within_the_window_and_before_the_end_of_the_link() {
    const WINDOW: u64 = 1 << 20;
    const MEMORY: u64 = 10 << 20;
    for stops in [false, true] {
        let mut two = armed();
        for half in [&mut two.dialler, &mut two.acceptor] {
            half.link.lane_lost(0, LaneLoss::Failed("reset".to_owned()), two.now);
        }
        let Two { dialler, acceptor, now } = &mut two;
        assert_eq!(acceptor.link.read_room(MEMORY, false), MEMORY);
        assert!(acceptor.link.read_room(MEMORY, true) <= WINDOW, "a snapshot can wait");
        (0..64).for_each(|byte| offer(acceptor, &vec![byte; 1 << 16]));
        let back = dialler.link.begin_dial(*now);
        let received = acceptor.link.attach(&back, *now).unwrap();
        assert!(dialler.link.dialled(back.lane, received, *now));
        assert_eq!(acceptor.link.read_room(MEMORY, false), MEMORY, "there is still more than usual to send");
        if stops {
            acceptor.link.stop(Reason::new(ReasonCode::Stopping, ""));
        } else {
            acceptor.link.local_closed(*now);
        }
        let [mut down, mut up] = [Decoder::default(), Decoder::default()];
        for _ in 0..50 {
            carry(acceptor, dialler, back.lane, &mut down, *now);
            let under_way = acceptor.link.send.sent() - acceptor.link.send.acknowledged();
            assert!(under_way <= WINDOW, "{under_way}");
            carry(dialler, acceptor, back.lane, &mut up, *now);
            *now += Duration::from_millis(50);
        }
        let (head, rest) = dialler.written.split_at(13);
        assert!(head == b"+FULLRESYNC\r\n" && rest.len() == 64 << 16);
        assert!(rest.chunks(1 << 16).zip(0..).all(|(piece, byte)| piece.iter().all(|got| *got == byte)));
        let end = dialler.link.closing.ended();
        assert!(if stops {
            matches!(end, Some(End::FarStopping(_)))
        } else {
            matches!(end, Some(End::Far(_)))
        });
    }
}

#[test]
fn renewed_lanes_retire_in_an_orderly_way_and_take_the_time_that_they_need() {
    let mut two = armed();
    two.dialler.link.renew(&[0]);
    let new = two.dialler.link.begin_dial(two.now);
    assert_eq!(new.alive, [0]);
    let received = two.acceptor.link.attach(&new, two.now).unwrap();
    assert!(two.dialler.link.dialled(new.lane, received, two.now));
    // Once both configured lanes are new, the old one may retire.
    let next = two.dialler.link.begin_dial(two.now);
    let received = two.acceptor.link.attach(&next, two.now).unwrap();
    assert!(two.dialler.link.dialled(next.lane, received, two.now));
    two.exchange();
    assert!(!two.dialler.link.has_lane(0) && is_closed_retired(&mut two.dialler.link));
    // The far side closes its end of the retired lane.
    two.acceptor.link.lane_lost(0, LaneLoss::Closed, two.now);
    assert!(is_closed_retired(&mut two.acceptor.link), "a retired lane is not a lost one");
    for half in [&mut two.dialler, &mut two.acceptor] {
        assert_eq!((half.link.lanes(), half.link.breaks()), (2, 0));
    }
    // The acceptor asks for it, once, and nothing ends the link before it is done.
    let Two { dialler, acceptor, now } = &mut two;
    acceptor.link.renew(&[1, 2]);
    acceptor.link.renew(&[1]);
    assert_eq!(acceptor.link.urgent, [Frame::Renew]);
    *now += Duration::from_millis(500);
    acceptor.link.on_activity(1, *now);
    acceptor.link.handle_timeout(*now);
    carry(acceptor, dialler, 1, &mut Decoder::default(), *now);
    for _ in 0..2 {
        assert!(dialler.link.wants_renewal() && dialler.link.dial_due().is_some());
        assert_eq!((acceptor.link.lanes(), acceptor.link.closing.ended()), (2, None));
        let new = dialler.link.begin_dial(*now);
        let received = acceptor.link.attach(&new, *now).unwrap();
        assert!(dialler.link.dialled(new.lane, received, *now));
        let old = dialler.link.liveness.iter().find(|lane| lane.retiring).unwrap().number;
        let [mut up, mut down, mut last] = [(); 3].map(|()| Decoder::default());
        carry(dialler, acceptor, old, &mut up, *now);
        carry(acceptor, dialler, old, &mut down, *now);
        assert!(!dialler.link.has_lane(old));
        acceptor.link.lane_lost(old, LaneLoss::Closed, *now);
        // Lanes that are new by now would be replaced for nothing, again and again.
        assert_eq!(acceptor.link.urgent, []);
        carry(acceptor, dialler, new.lane, &mut last, *now);
    }
    assert!(!dialler.link.wants_renewal() && dialler.link.liveness.old() == 0);
    assert_eq!((acceptor.link.liveness.old(), acceptor.link.lanes(), acceptor.link.breaks()), (0, 2, 0));
    // It asks again if what it has asked may have been lost with a lane.
    acceptor.link.renew(&[3, 4]);
    acceptor.link.urgent.clear();
    acceptor.link.lane_lost(3, LaneLoss::Failed("reset".to_owned()), *now);
    assert_eq!(acceptor.link.urgent, [Frame::Renew]);
}

#[test]
fn a_lane_that_is_refused_is_closed_at_once_and_its_link_ends_with_the_last_good_one() {
    let mut two = armed();
    let new = two.dialler.link.begin_dial(two.now);
    let received = two.acceptor.link.attach(&new, two.now).unwrap();
    assert!(two.dialler.link.dialled(new.lane, received, two.now));
    two.exchange();
    let (link, now) = (&mut two.acceptor.link, two.now);
    link.refuse(&[0], "it has been revoked", now);
    assert!(matches!(link.poll_event(), Some(Event::LaneClosed { lane: 0, retired: false })));
    assert_eq!((link.lanes(), link.breaks(), link.closing.ended()), (1, 0, None));
    // A lane that is gone does not count.
    link.refuse(&[0], "it has been revoked", now);
    assert_eq!(link.closing.ended(), None);
    link.refuse(&[new.lane], "it has been revoked", now);
    assert_eq!(link.closing.ended(), Some(&End::Outdated("it has been revoked".to_owned())));
    carry(&mut two.acceptor, &mut two.dialler, new.lane, &mut Decoder::default(), now);
    let end = two.dialler.link.closing.ended();
    assert!(matches!(end, Some(End::Far(why)) if why.text == "it has been revoked"), "{end:?}");
}

#[test]
fn compression_begins_after_the_reply_to_the_sync() {
    let mut two = Two::new(false);
    let terms = Terms { compression: ZSTD, ..Terms::sample() };
    two.dialler.link = Link::new(Side::Dialler, &terms.agree(&terms, false), two.now);
    two.acceptor.link = Link::new(Side::Acceptor, &terms.agree(&terms, false), two.now).compressing(3);
    let text = "the same words again and again ".repeat(3000);
    offer(&mut two.acceptor, b"+FULLRESYNC\r\n");
    two.acceptor.link.arm();
    offer(&mut two.acceptor, text.as_bytes());
    let before: Vec<u8> = two.acceptor.transmit(two.now);
    assert!(before.len() < text.len() / 10 && before.windows(11).any(|window| window == b"+FULLRESYNC"));
    two.dialler.receives(&before, true, two.now);
    assert_eq!(two.dialler.written, [b"+FULLRESYNC\r\n", text.as_bytes()].concat());
    // Garbage in place of a block ends the link.
    let offset = two.dialler.link.receive.received();
    let garbage = [&data_header(offset, 9)[..], &[9; 9]].concat();
    two.dialler.receives(&garbage, true, two.now);
    assert!(matches!(two.dialler.link.closing.ended(), Some(End::Protocol(_))));
}

#[test]
fn a_link_that_cannot_be_held_ends_once_the_last_of_its_lanes_is_silent() {
    for plain in [true, false] {
        let mut two = armed();
        let terms = Terms { hold: Duration::ZERO, lanes: 2, ..Terms::sample() };
        two.dialler.link = Link::new(Side::Dialler, &terms.agree(&terms, plain), two.now);
        two.acceptor.link = Link::new(Side::Acceptor, &terms.agree(&terms, plain), two.now);
        offer(&mut two.acceptor, b"+FULLRESYNC\r\n");
        two.acceptor.link.arm();
        two.exchange();
        assert_eq!(two.acceptor.link.attach(&dial(1, &[0], 0), two.now), Ok(0));
        let later = two.now + Duration::from_secs(4);
        two.acceptor.link.check_liveness(0, later);
        assert!(two.acceptor.link.closing.ended().is_none(), "another lane carries the link");
        two.acceptor.link.check_liveness(1, later);
        assert!(
            matches!(two.acceptor.link.closing.ended(), Some(End::LaneLost(_))),
            "{:?}",
            two.acceptor.link
        );
    }
}
