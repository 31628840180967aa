//! A window that is filled, sent, acknowledged and loses its lanes, step by step and at random.

use proptest::prelude::*;

use super::*;
use crate::buffer::LEAST_CHARGE;

fn now() -> Instant {
    Instant::now()
}

fn filled() -> Window {
    let mut window = Window::new(1000, 40);
    window.offer(Chunk::copied(&[1; 40]));
    window.offer(Chunk::copied(&[2; 40]));
    window
}

fn header(frame: Option<&[u8]>) -> Option<[u8; 16]> {
    frame.map(|frame| frame[..16].try_into().unwrap())
}

#[test]
fn what_is_unacknowledged_never_exceeds_the_window() {
    let mut window = Window::new(1000, 1000);
    window.offer(Chunk::copied(&[1; 400]));
    assert_eq!(window.room(), 600);
    assert!(window.send_next(0, now()).is_some());
    window.offer(Chunk::copied(&[1; 10]));
    assert_eq!(window.room(), 1000 - 400 - 256, "a short chunk counts for more than its bytes");
    window.acknowledge(400).unwrap();
    assert_eq!(window.room(), 1000 - 256);
}

#[test]
fn what_is_offered_beyond_the_window_waits_for_acknowledgements() {
    let mut window = Window::new(1000, 400);
    (0..5).for_each(|_| window.offer(Chunk::copied(&[1; 400])));
    assert_eq!((window.room(), window.unsent()), (0, 2000));
    assert_eq!((0..5).filter(|_| window.send_next(0, now()).is_some()).count(), 2);
    window.acknowledge(399).unwrap();
    assert!(window.send_next(0, now()).is_none());
    window.acknowledge(400).unwrap();
    assert_eq!(header(window.send_next(0, now())), Some(frame::data_header(800, 400)));
    assert!(window.send_next(0, now()).is_none() && window.sent() == 1200);
    // What must be sent again counts already.
    window.lose(0);
    assert_eq!((0..5).filter(|_| window.send_next(1, now()).is_some()).count(), 2);
    window.acknowledge(1200).unwrap();
    assert_eq!((0..5).filter(|_| window.send_next(1, now()).is_some()).count(), 2);
    window.acknowledge(2000).unwrap();
    assert_eq!((window.room(), window.storage()), (1000, 0));
}

#[test]
fn writes_that_wait_for_long_fill_the_largest_chunks() {
    const FULL: usize = crate::buffer::PAYLOAD;
    let mut window = Window::new(64 << 20, FULL);
    // Sizes that fit badly into anything.
    for length in [300, 20_000, 33_000, 70_000, 270_000].into_iter().cycle().take(1000) {
        window.offer(Chunk::copied(&vec![1; length]));
    }
    let (unsent, storage) = (window.unsent(), window.storage());
    assert!(storage < unsent + unsent / 10 + DEEP, "{storage} bytes of storage for {unsent}");
    // A whole chunk is not copied.
    window.offer(Chunk::copied(&vec![2; FULL]));
    let last = window.segments.back().expect("it was offered");
    assert!(last.chunk.len() == FULL && last.chunk.bytes()[0] == 2);
    window.check();
    let (mut next, mut frames) = (0, 0);
    while let Some(frame) = window.send_next(0, now()) {
        assert_eq!(frame[..16], frame::data_header(next, frame.len() - 16));
        (next, frames) = (next + frame.len() as u64 - 16, frames + 1);
    }
    assert!(next == window.sent() && next > 63 << 20 && frames < 200, "{next} bytes in {frames} frames");
    window.check();
}

proptest! {
    #[test]
    fn no_order_of_events_exceeds_the_window_or_loses_a_byte(
        limit in 65_536u64..400_000,
        events in proptest::collection::vec((0u8..5, 1usize..16_384), 1..300),
    ) {
        let mut window = Window::new(limit, 16_384);
        // What the far side has received, in order.
        let (mut came, mut offered) = (Vec::new(), Vec::new());
        let mut deliver = |frame: &[u8]| {
            let offset = u64::from_be_bytes(frame[8..16].try_into().expect("eight bytes")) as usize;
            if offset <= came.len() {
                came.extend_from_slice(&frame[16 + (came.len() - offset).min(frame.len() - 16)..]);
            }
            came.len() as u64
        };
        let mut received = 0;
        for (event, size) in events {
            match event {
                0 | 1 => {
                    let bytes: Vec<u8> = (0..size).map(|at| ((offered.len() + at) % 251) as u8).collect();
                    window.offer(Chunk::copied(&bytes));
                    offered.extend(bytes);
                }
                2 => {
                    for _ in 0..size % 9 {
                        received = window.send_next(0, now()).map_or(received, &mut deliver);
                    }
                }
                3 => window.lose(0),
                _ => window.acknowledge(received - received.min(size as u64 / 2)).unwrap(),
            }
            window.check();
        }
        while window.acknowledged() < window.offered() {
            let before = window.acknowledged();
            while let Some(frame) = window.send_next(0, now()) {
                received = deliver(frame);
            }
            window.acknowledge(received).unwrap();
            prop_assert!(window.acknowledged() > before);
        }
        prop_assert!(came == offered && window.storage() == 0);
    }
}

#[test]
fn a_chunk_goes_out_once_with_its_offset() {
    let mut window = filled();
    assert_eq!(header(window.send_next(0, now())), Some(frame::data_header(0, 40)));
    assert_eq!(header(window.send_next(0, now())), Some(frame::data_header(40, 40)));
    assert!(window.send_next(0, now()).is_none());
    assert_eq!(window.unsent(), 0);
    window.offer(Chunk::copied(&[3; 5]));
    assert_eq!(window.unsent(), 5);
    assert_eq!(header(window.send_next(0, now())), Some(frame::data_header(80, 5)));
}

#[test]
fn short_writes_that_wait_are_gathered_and_sent_ones_never_change() {
    let mut window = Window::new(1000, 1000);
    window.offer(Chunk::copied(&[1; 10]));
    window.send_next(0, now());
    window.offer(Chunk::copied(&[2; 10]));
    window.offer(Chunk::copied(&[3; 10]));
    assert_eq!(header(window.send_next(0, now())), Some(frame::data_header(10, 20)));
    window.lose(0);
    assert_eq!(window.to_resend(), 30);
    assert_eq!(header(window.send_next(1, now())), Some(frame::data_header(0, 10)));
    assert_eq!(header(window.send_next(1, now())), Some(frame::data_header(10, 20)));
}

#[test]
fn an_acknowledgement_in_the_middle_of_a_chunk_keeps_it() {
    let mut window = filled();
    window.send_next(0, now());
    window.send_next(0, now());
    window.acknowledge(41).unwrap();
    assert_eq!(window.segments.len(), 1);
    window.offer(Chunk::copied(&[3; 40]));
    window.send_next(0, now());
    window.lose(0);
    assert_eq!(window.to_resend(), 80, "all of it is sent again");
    (0..2).for_each(|_| assert!(window.send_next(0, now()).is_some()));
    window.acknowledge(80).unwrap();
    assert_eq!(window.segments.len(), 1);
    window.acknowledge(120).unwrap();
    assert!(window.segments.is_empty() && window.storage() == 0);
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_refused() {
    let mut window = filled();
    window.send_next(0, now());
    assert_eq!(window.acknowledge(41), Err(NeverSent(41)));
    assert_eq!(window.note_arrived(41), Err(NeverSent(41)));
    window.acknowledge(40).unwrap();
    window.acknowledge(3).unwrap();
    assert_eq!(window.acknowledged(), 40);
}

#[test]
fn a_lost_lane_costs_only_what_it_alone_carried_and_the_far_side_lacks() {
    let mut window = Window::new(100_000, 40);
    for byte in 0..6 {
        window.offer(Chunk::copied(&[byte; 40]));
    }
    for slot in [0, 1, 0, 1, 0] {
        window.send_next(slot, now());
    }
    window.acknowledge(40).unwrap();
    window.note_arrived(90).unwrap();
    window.lose(0);
    // The first is acknowledged, the third and fifth were on the lane.
    assert_eq!(window.to_resend(), 80);
    assert_eq!(header(window.send_next(2, now())), Some(frame::data_header(80, 40)));
    assert_eq!(header(window.send_next(2, now())), Some(frame::data_header(160, 40)));
    assert_eq!(header(window.send_next(2, now())), Some(frame::data_header(200, 40)));
    assert_eq!((window.resent(), window.unsent()), (80, 0));
}

#[test]
fn what_a_retired_lane_carried_is_not_sent_again() {
    let mut window = filled();
    window.send_next(0, now());
    window.send_next(1, now());
    window.settle(0);
    window.lose(0);
    assert_eq!(window.to_resend(), 0);
    window.lose(1);
    assert_eq!(window.to_resend(), 40);
}

#[test]
fn what_lanes_carry_is_listed_once_and_never_longer_than_the_window() {
    let mut window = Window::new(1 << 20, 40);
    for round in 0..2000u64 {
        window.offer(Chunk::copied(&[1; 40]));
        window.send_next(0, now());
        // Another lane comes and goes: what it carried goes over the first.
        window.offer(Chunk::copied(&[1; 40]));
        window.send_next(1, now());
        window.lose(1);
        assert_eq!(window.to_resend(), 40);
        window.send_next(0, now());
        window.acknowledge((round * 80).saturating_sub(4000)).unwrap();
    }
    assert!(
        window.carried[0].chunks.len() <= 110 && window.again.is_empty(),
        "{:?}",
        window.carried[0].chunks.len()
    );
}

#[test]
fn a_lane_that_carried_nothing_costs_nothing_however_full_the_window_is() {
    let began = std::time::Instant::now();
    let mut window = Window::new(64 << 20, 40);
    for _ in 0..100_000 {
        window.offer(Chunk::copied(&[1; 40]));
        window.send_next(0, now());
    }
    let filled = began.elapsed();
    for _ in 0..1000 {
        window.lose(1);
        assert_eq!(window.to_resend(), 0);
    }
    let most = filled * 2 + std::time::Duration::from_millis(300);
    assert!(began.elapsed() < most, "{:?}, and {filled:?} to fill it", began.elapsed() - filled);
}

#[test]
fn what_has_arrived_or_is_copied_waits_no_longer_to_be_sent_again() {
    let mut window = Window::new(100_000, 40);
    (0..4).for_each(|_| window.offer(Chunk::copied(&[1; 40])));
    (0..4).for_each(|_| assert!(window.send_next(0, now()).is_some()));
    window.lose(0);
    window.note_arrived(40).unwrap();
    assert_eq!(window.to_resend(), 120);
    assert_eq!(header(window.copy_oldest(1, Instant::now())), Some(frame::data_header(40, 40)));
    assert_eq!(window.to_resend(), 80);
    window.acknowledge(120).unwrap();
    assert_eq!(window.to_resend(), 40);
    assert_eq!(header(window.send_next(1, now())), Some(frame::data_header(120, 40)));
    assert!(window.send_next(1, now()).is_none() && window.to_resend() == 0);
}

#[test]
fn what_a_late_lane_alone_carries_goes_over_another_lane_once() {
    let mut window = Window::new(100_000, 40);
    (0..5).for_each(|_| window.offer(Chunk::copied(&[1; 40])));
    for slot in [0, 1, 0, 0, 1] {
        window.send_next(slot, now());
    }
    window.doubt(0, 1, 41);
    assert_eq!(window.to_resend(), 80, "whole chunks of about the most");
    window.check();
    assert_eq!(header(window.send_next(1, now())), Some(frame::data_header(0, 40)));
    assert_eq!(header(window.send_next(0, now())), None, "the late lane carries it already");
    window.doubt(0, 1, 1000);
    assert_eq!(window.to_resend(), 80, "what another lane carries waits no longer");
    window.doubt(1, 3, 1000);
    assert_eq!(window.to_resend(), 200, "both are late");
    assert_eq!(header(window.send_next(2, now())), Some(frame::data_header(0, 40)));
    window.check();
    window.trust(0);
    assert_eq!(window.to_resend(), 80, "lane 0 may still deliver the rest of its own");
    window.lose(0);
    window.lose(1);
    window.check();
    assert_eq!((window.to_resend(), window.resent()), (160, 80));
}

#[test]
fn what_a_lane_has_delivered_is_not_sent_again_even_beyond_a_gap() {
    let mut window = Window::new(100_000, 40);
    (0..4).for_each(|_| window.offer(Chunk::copied(&[1; 40])));
    let begin = Instant::now();
    let after = |millis| begin + std::time::Duration::from_millis(millis);
    for (slot, millis) in [(0, 0), (1, 1), (1, 2), (1, 3)] {
        window.send_next(slot, after(millis));
    }
    assert_eq!(window.note_carried(1, 121), Err(NeverSent(121)));
    assert_eq!(window.note_carried(1, 90), Ok(Some(after(2))), "a part of the last chunk has come");
    assert_eq!((window.carried_since(0), window.carried_since(1)), (Some(begin), Some(after(3))));
    assert_eq!(window.note_carried(1, 90), Ok(None));
    assert_eq!(window.note_carried(5, 1), Err(NeverSent(1)), "no such lane");
    window.doubt(1, 3, 1000);
    window.lose(0);
    assert_eq!(window.to_resend(), 80);
    assert_eq!(window.note_carried(1, 120), Ok(Some(after(3))));
    window.lose(1);
    window.check();
    assert_eq!(window.to_resend(), 40);
    window.note_arrived(160).unwrap();
    assert_eq!((window.to_resend(), window.carried_since(0)), (0, None));
}

#[test]
fn what_a_lane_carried_before_it_was_lost_says_nothing_of_what_it_carries_now() {
    let mut window = Window::new(100_000, 40);
    (0..3).for_each(|_| window.offer(Chunk::copied(&[1; 40])));
    (0..2).for_each(|_| assert!(window.send_next(0, now()).is_some()));
    // It was suspect for a while.
    window.lose(0);
    window.send_next(1, now());
    window.send_next(0, now());
    window.send_next(0, now());
    assert_eq!(window.note_carried(0, 80), Ok(None), "the chunks of before");
    window.lose(0);
    assert_eq!(window.to_resend(), 80);
    window.enter(0);
    assert_eq!(window.note_carried(0, 1), Err(NeverSent(1)), "another lane");
}

#[test]
fn what_is_left_behind_ends_with_the_last_byte_offered() {
    let mut window = Window::new(10_000, 40);
    for at in 0..6u8 {
        window.offer(Chunk::copied(&[at; 40]));
    }
    let left = |window: &mut Window| {
        window.leave_behind().iter().flat_map(|chunk| chunk.bytes().to_vec()).collect::<Vec<u8>>()
    };
    while window.send_next(0, Instant::now()).is_some() {}
    window.acknowledge(40).unwrap();
    assert!(!window.is_keeping() && window.kept() == 0);
    window.keep(Some(100), u64::MAX);
    window.acknowledge(170).unwrap();
    assert_eq!(window.kept(), LEAST_CHARGE, "from 140 on, in the chunk from 120 on");
    assert_eq!(left(&mut window), [[3; 40], [4; 40], [5; 40]].concat());
    window.clear();
    assert!(!window.is_keeping() && left(&mut window).is_empty());
}

#[test]
fn the_oldest_chunk_is_copied_once() {
    let mut window = filled();
    assert!(window.copy_oldest(1, Instant::now()).is_none(), "nothing was sent yet");
    window.send_next(0, now());
    window.send_next(0, now());
    window.note_arrived(40).unwrap();
    assert!(window.copy_oldest(0, Instant::now()).is_none());
    assert_eq!(header(window.copy_oldest(1, Instant::now())), Some(frame::data_header(40, 40)));
    assert!(
        window.copy_oldest(1, Instant::now()).is_none() && window.copy_oldest(2, Instant::now()).is_none()
    );
}
