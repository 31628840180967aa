//! Links whose far gateway is gone, or whose replica comes again.

use super::super::returning::RETURN_WITHIN;
use super::*;

#[test]
fn a_link_gives_way_to_another_of_its_replica_unless_it_proves_that_it_is_alive() {
    let returned = |link: &Link| link.closing.ended() == Some(&End::Returned);
    let later = Duration::from_secs(1);
    // Held when the other one comes.
    let mut two = armed();
    let (link, now) = (&mut two.acceptor.link, two.now);
    link.lane_lost(0, LaneLoss::Closed, now);
    link.replica_returned(now, now + later);
    assert!(returned(link));
    // Silent.
    let mut two = armed();
    let (link, now) = (&mut two.acceptor.link, two.now + later);
    link.replica_returned(now, now);
    let due = link.poll_timeout(&|_| LaneIo { room: true, empty: true }).expect("the proof is due");
    link.handle_timeout(now + Duration::from_millis(1999));
    assert!(due <= now + Duration::from_secs(2) && link.closing.ended().is_none());
    link.handle_timeout(now + Duration::from_secs(2));
    assert!(returned(link));
    // A neighbour, which has sent something since, or soon does.
    for since in [two.now, two.now + later] {
        let mut two = armed();
        let (link, now) = (&mut two.acceptor.link, two.now + later);
        link.on_activity(0, since + Duration::from_millis(1));
        events(link);
        link.replica_returned(since, now);
        link.on_activity(0, now + Duration::from_millis(2));
        assert_eq!(events(link), [Event::Proven]);
        link.handle_timeout(now + Duration::from_secs(2));
        assert!(link.closing.ended().is_none());
        // What was received was still under way when its gateway died.
        link.lane_lost(0, LaneLoss::Failed("reset".to_owned()), now + Duration::from_secs(2));
        assert!(returned(link));
    }
}

#[test]
fn a_process_that_takes_over_ends_a_held_link_but_not_a_live_one() {
    let mut two = armed();
    two.acceptor.link.superseded(two.now);
    assert!(two.acceptor.link.closing.ended().is_none());
    two.acceptor.link.lane_lost(0, LaneLoss::Failed("reset".to_owned()), two.now);
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::Superseded));
}

/// A link whose acceptor keeps what the replica has not acknowledged. Of the twenty bytes after the
/// reply, half have arrived.
fn keeping() -> Two {
    let mut two = armed();
    two.acceptor.link.keep(Some(0), u64::MAX);
    offer(&mut two.acceptor, b"0123456789");
    two.exchange();
    two.pass(Duration::from_millis(500));
    two.acceptor.link.keep(Some(8), u64::MAX);
    assert_eq!(two.acceptor.link.send.acknowledged(), two.acceptor.link.send.offered());
    assert!(two.acceptor.link.kept() > 0);
    offer(&mut two.acceptor, b"abcdefghij");
    two
}

/// What the acceptor's link leaves once its replica asks for its sync over another one.
fn left_behind(two: &mut Two) -> Option<Vec<u8>> {
    let now = two.now;
    two.acceptor.link.replica_returned(now, now);
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::Returned));
    assert_eq!((two.acceptor.link.kept(), two.acceptor.link.memory()), (0, 0));
    let chunks = two.acceptor.link.take_left_behind()?;
    assert!(two.acceptor.link.take_left_behind().is_none());
    Some(chunks.iter().flat_map(|chunk| chunk.bytes().to_vec()).collect())
}

#[test]
fn a_link_leaves_the_last_bytes_that_it_was_offered_to_the_next_one_of_its_replica() {
    let mut two = keeping();
    two.acceptor.link.lane_lost(0, LaneLoss::Closed, two.now);
    offer(&mut two.acceptor, b"klm");
    assert_eq!(left_behind(&mut two).as_deref(), Some(&b"0123456789abcdefghijklm"[..]));
    let mut given_up = keeping();
    given_up.acceptor.link.keep(Some(18), 0);
    given_up.acceptor.link.lane_lost(0, LaneLoss::Closed, given_up.now);
    assert_eq!(left_behind(&mut given_up).as_deref(), Some(&b"abcdefghij"[..]), "without the oldest");
}

#[test]
fn a_link_that_keeps_nothing_or_is_about_to_end_leaves_nothing() {
    let mut unknown = keeping();
    unknown.acceptor.link.keep(None, u64::MAX);
    assert_eq!(unknown.acceptor.link.kept(), 0);
    unknown.acceptor.link.lane_lost(0, LaneLoss::Closed, unknown.now);
    assert_eq!(left_behind(&mut unknown), None);
    let mut closed = keeping();
    closed.acceptor.link.local_closed(closed.now);
    closed.acceptor.link.lane_lost(0, LaneLoss::Closed, closed.now);
    assert_eq!(left_behind(&mut closed), None, "the master has closed its connection");
}

#[test]
fn a_link_whose_process_is_replaced_waits_a_little_for_its_replica_if_that_can_continue() {
    let mut two = keeping();
    two.acceptor.link.lane_lost(0, LaneLoss::Closed, two.now);
    two.now += Duration::from_secs(5);
    two.acceptor.link.superseded(two.now);
    let within = |two: &Two| two.acceptor.link.held().map(|held| held.within);
    assert_eq!(within(&two), Some(Duration::from_secs(5) + RETURN_WITHIN));
    two.now += RETURN_WITHIN - Duration::from_millis(1);
    two.acceptor.link.superseded(two.now);
    two.acceptor.link.handle_timeout(two.now);
    assert_eq!(two.acceptor.link.closing.ended(), None);
    two.acceptor.link.handle_timeout(two.now + Duration::from_millis(1));
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::Superseded));
}

#[test]
fn a_link_whose_process_is_replaced_while_its_lane_still_seems_to_work_waits_a_little_all_the_same() {
    let mut two = keeping();
    two.acceptor.link.superseded(two.now);
    assert!(!two.acceptor.link.is_ended(), "it has a lane");
    two.acceptor.link.lane_lost(0, LaneLoss::Closed, two.now);
    two.acceptor.link.handle_timeout(two.now + RETURN_WITHIN - Duration::from_millis(1));
    assert!(!two.acceptor.link.is_ended(), "it waits");
    two.acceptor.link.handle_timeout(two.now + RETURN_WITHIN);
    assert_eq!(two.acceptor.link.closing.ended(), Some(&End::Superseded));
}

#[test]
fn a_link_whose_gateway_stops_waits_a_little_for_its_replica_if_that_can_continue() {
    let mut two = keeping();
    two.dialler.link.stop(Reason::new(ReasonCode::Stopping, "dc2 stops"));
    offer(&mut two.dialler, b"ACK");
    two.exchange();
    let link = &mut two.acceptor.link;
    assert!(is_closed_retired(link) && link.is_held() && !link.is_ended());
    assert_eq!(two.acceptor.written, b"ACK", "what it sent before still reaches the master");
    let refused = link.attach(&dial(1, &[], 13), two.now).unwrap_err();
    assert_eq!(refused.code, ReasonCode::LinkEnded, "the process that has stopped has no more lanes");
    assert!(link.read_room(1, false) > 0);
    link.offer(Chunk::copied(b"klm"));
    link.handle_timeout(two.now + RETURN_WITHIN - Duration::from_millis(1));
    assert!(!link.is_ended());
    assert!(left_behind(&mut two).is_some_and(|bytes| bytes.ends_with(b"abcdefghijklm")));
    let mut alone = keeping();
    alone.dialler.link.stop(Reason::new(ReasonCode::Stopping, "dc2 stops"));
    alone.exchange();
    alone.acceptor.link.handle_timeout(alone.now + RETURN_WITHIN);
    let ended = alone.acceptor.link.closing.ended();
    assert!(matches!(ended, Some(End::FarStopping(reason)) if reason.text == "dc2 stops"), "{ended:?}");
}
