//! Several lanes: which of them is late, spare, or moves.

use super::*;

/// One end of a link over several lanes whose far end is scripted.
fn transmits(link: &mut Link, lane: u32, now: Instant) -> Vec<Frame> {
    let (mut decoder, mut out, mut frames) = (Decoder::default(), Vec::new(), Vec::new());
    while link.poll_transmit(lane, now, &mut |frame| out.extend_from_slice(frame)) {}
    let mut input = &out[..];
    while let Some(item) = decoder.next(&mut input).unwrap() {
        match item {
            Item::Frame(frame) => frames.push(frame),
            Item::Data { offset, bytes, .. } => {
                let reason = Reason::new(ReasonCode::Finished, &bytes.len().to_string());
                frames.push(Frame::End { offset, reason });
            }
        }
    }
    frames
}

/// The offsets of the data that a lane sends now.
fn offsets(link: &mut Link, lane: u32, now: Instant) -> Vec<u64> {
    let frames = transmits(link, lane, now).into_iter();
    let data = frames.filter_map(|frame| match frame {
        Frame::End { offset, .. } => Some(offset),
        _ => None,
    });
    data.collect()
}

/// An acceptor with two lanes whose round trip is 100 ms. Lane 0 carries the bytes from 13, lane 1
/// those from 113.
fn one_of_two_is_late() -> (Two, Instant) {
    let mut two = armed();
    let link = &mut two.acceptor.link;
    assert_eq!(link.attach(&dial(1, &[0], 13), two.now), Ok(0));
    let heard = Report { received: 13, lanes: vec![(0, 13), (1, 0)] };
    let now = two.now + Duration::from_millis(100);
    link.lateness.added(0, two.now);
    link.lateness.on_round_trip(0, Some(two.now), now);
    link.handle(1, Item::Frame(Frame::Ack(13, Some(heard))), now);
    for lane in [0, 1] {
        link.offer(Chunk::copied(&[1; 100]));
        assert_eq!(offsets(link, lane, now), [13 + u64::from(lane) * 100]);
    }
    (two, now)
}

#[test]
fn what_a_lane_does_not_deliver_goes_over_another_and_new_data_too() {
    let (mut two, now) = one_of_two_is_late();
    let link = &mut two.acceptor.link;
    // Lane 1 delivers, lane 0 does not.
    let then = now + Duration::from_millis(120);
    link.on_activity(1, then);
    let report = Report { received: 13, lanes: vec![(0, 13), (1, 100)] };
    link.handle(1, Item::Frame(Frame::Ack(13, Some(report.clone()))), then);
    let due = now + Duration::from_millis(250);
    assert_eq!(link.poll_timeout(&|_| LaneIo { room: true, empty: true }), Some(due));
    link.handle_timeout(due - Duration::from_millis(1));
    assert_eq!(link.send.to_resend(), 0);
    link.handle_timeout(due);
    link.offer(Chunk::copied(&[1; 100]));
    assert!(transmits(link, 0, due).is_empty(), "a late lane gets nothing but heartbeats");
    assert_eq!((offsets(link, 1, due), link.resent()), (vec![13, 213], 100));
    // What comes late is no harm, and the lane carries again.
    let all = Report { received: 313, lanes: vec![(0, 113), (1, 300)] };
    link.handle(1, Item::Frame(Frame::Heartbeat(Some(all))), due);
    link.offer(Chunk::copied(&[1; 100]));
    assert_eq!((offsets(link, 0, due), link.resent(), link.breaks()), (vec![313], 100, 0));
}

#[test]
fn if_every_lane_is_late_little_is_sent_twice_and_each_still_carries() {
    let (mut two, now) = one_of_two_is_late();
    let link = &mut two.acceptor.link;
    for _ in 0..10 {
        link.offer(Chunk::copied(&[1; 50_000]));
        assert_eq!(offsets(link, 0, now).len(), 1);
    }
    // Nothing has come over lane 1 lately either.
    let due = now + Duration::from_millis(250);
    link.handle_timeout(due);
    assert_eq!(link.resent(), 0);
    for lane in [0, 1] {
        link.offer(Chunk::copied(&[1; 100]));
        assert_eq!(offsets(link, lane, due).len(), 1, "lane {lane}");
    }
    assert!(link.poll_timeout(&|_| LaneIo { room: true, empty: true }).is_some_and(|next| next > due));
}

#[test]
fn without_reports_nothing_is_late() {
    let mut two = armed();
    let terms = Terms { hold: Duration::from_secs(45), lanes: 2, reports: false, ..Terms::sample() };
    two.acceptor.link = Link::new(Side::Acceptor, &terms.agree(&terms, true), two.now);
    let link = &mut two.acceptor.link;
    assert_eq!(link.attach(&dial(1, &[0], 0), two.now), Ok(0));
    link.offer(Chunk::copied(&[1; 100]));
    assert_eq!(offsets(link, 0, two.now), [0]);
    link.handle_timeout(two.now + Duration::from_secs(2));
    assert_eq!(link.send.to_resend(), 0);
    let beat = transmits(link, 1, two.now + Duration::from_secs(2));
    assert_eq!(beat, [Frame::Heartbeat(None)]);
}

/// A dialler with one lane, on which nothing has come for so long that another was dialled.
fn with_spare(reports: bool) -> (Two, dials::Dial) {
    let mut two = Two::new(false);
    let terms = Terms { hold: Duration::from_secs(45), reports, ..Terms::sample() };
    for (half, side) in [(&mut two.dialler, Side::Dialler), (&mut two.acceptor, Side::Acceptor)] {
        half.link = Link::new(side, &terms.agree(&terms, false), two.now);
    }
    offer(&mut two.acceptor, b"+FULLRESYNC\r\n");
    two.acceptor.link.arm();
    two.exchange();
    offer(&mut two.dialler, b"ack");
    two.dialler.transmit(two.now);
    let quiet = Duration::from_millis(if reports { 1000 } else { 1500 });
    assert_eq!(two.dialler.link.dial_due(), Some(two.now + quiet));
    two.now += quiet;
    let spare = two.dialler.link.begin_dial(two.now);
    assert_eq!((spare.alive.clone(), two.dialler.link.dial_due()), (vec![0], None));
    let received = two.acceptor.link.attach(&spare, two.now).unwrap();
    assert!(two.dialler.link.dialled(spare.lane, received, two.now));
    let next = reports.then_some(two.now + quiet);
    assert_eq!((two.dialler.link.lanes(), two.dialler.link.dial_due()), (2, next), "one is enough");
    (two, spare)
}

#[test]
fn a_spare_lane_and_the_one_that_works_again_share_the_link_for_a_while() {
    let (mut two, spare) = with_spare(true);
    let began = two.now;
    for lane in [spare.lane, 0, spare.lane] {
        two.now += Duration::from_millis(100);
        two.dialler.link.on_activity(lane, two.now);
        two.acceptor.link.on_activity(lane, two.now);
    }
    for half in [&two.dialler, &two.acceptor] {
        assert!(half.link.is_shared() && half.link.lanes() == 2);
        assert!(half.link.max_payload() <= SHARED_PAYLOAD);
    }
    let link = &mut two.dialler.link;
    assert_eq!(link.poll_timeout(&|_| LaneIo { room: false, empty: false }), link.dial_due());
    link.handle_timeout(began + BESIDE - Duration::from_millis(1));
    assert_eq!(link.lanes(), 2);
    link.handle_timeout(began + BESIDE);
    assert!(!link.carries(0) && link.carries(spare.lane) && !link.is_shared(), "the one heard last stays");
    assert_eq!(transmits(link, 0, two.now), [Frame::Retire]);
    two.acceptor.link.handle(0, Item::Frame(Frame::Retire), two.now);
    assert_eq!(transmits(&mut two.acceptor.link, 0, two.now), [Frame::Retire]);
    two.dialler.link.handle(0, Item::Frame(Frame::Retire), two.now);
    let closed = [Event::LaneClosed { lane: 0, retired: true }];
    assert_eq!(events(&mut two.dialler.link), closed, "in good order");
}

#[test]
fn a_spare_lane_replaces_one_that_stays_silent_without_a_break() {
    let (mut two, spare) = with_spare(true);
    two.dialler.link.on_activity(spare.lane, two.now);
    two.dialler.link.check_liveness(0, two.now + Duration::from_secs(3));
    assert!(!two.dialler.link.has_lane(0), "a lane that is not needed is not waited for");
    assert_eq!((two.dialler.link.breaks(), two.dialler.link.lanes()), (0, 1));
    assert_eq!(two.dialler.link.send.to_resend(), 3);
}

#[test]
fn a_further_spare_lane_replaces_one_of_two_and_both_stay_for_longer() {
    let (mut two, spare) = with_spare(true);
    let began = two.now;
    two.dialler.link.on_activity(0, two.now);
    two.now += Duration::from_millis(1500);
    let next = two.dialler.link.begin_dial(two.now);
    assert!(two.dialler.link.dialled(next.lane, 0, two.now));
    assert_eq!(two.dialler.link.lanes(), 3);
    let link = &mut two.dialler.link;
    link.on_activity(spare.lane, two.now);
    assert_eq!((link.lanes(), link.carries(spare.lane), link.carries(0)), (2, true, false));
    link.handle_timeout(began + BESIDE);
    assert_eq!(link.lanes(), 2);
    link.handle_timeout(two.now + BESIDE);
    assert_eq!(link.lanes(), 1);
}

#[test]
fn a_spare_lane_to_a_far_side_without_reports_is_the_only_one_once_it_carries() {
    let (mut two, spare) = with_spare(false);
    let link = &mut two.dialler.link;
    link.on_activity(spare.lane, two.now);
    assert_eq!((link.lanes(), link.carries(spare.lane)), (1, true));
}

#[test]
fn a_lane_moves_once_its_successor_is_accepted_and_stays_if_none_is() {
    let mut two = armed();
    let link = &mut two.dialler.link;
    let first = link.begin_dial(two.now);
    assert!(!link.may_move() && link.dialled(first.lane, 0, two.now) && link.may_move());
    link.move_lane(0);
    let failed = link.begin_dial(two.now);
    link.dial_failed(failed.lane, two.now);
    assert!(link.may_move() && link.carries(0) && link.dial_due().is_none_or(|due| due > two.now));
    link.move_lane(0);
    let moved = link.begin_dial(two.now);
    assert!(link.is_moving() && link.dialled(moved.lane, 0, two.now));
    assert!(!link.is_moving() && !link.carries(0) && link.carries(first.lane) && link.carries(moved.lane));
}
