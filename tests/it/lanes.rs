//! Lanes over several providers, and spare ones: the loss of a path is hardly noticed.

use std::time::Duration;

use crate::support::providers::Providers;
use crate::support::writer::Writer;
use crate::support::{SOON, eventually};

/// Bytes a second that are written meanwhile.
const RATE: u64 = 1 << 20;

#[test]
fn the_loss_of_one_of_two_providers_stops_the_stream_for_less_than_a_second() {
    for lanes in [2, 4] {
        let link = format!("[link]\nlanes = {lanes}\nhold = \"15s\"\n");
        let providers = Providers::new(2, &link);
        let writer = Writer::on(&providers.alpha, RATE);
        eventually("the lanes are spread evenly", SOON, || providers.lanes() == [lanes / 2, lanes / 2]);
        // Long enough to know the round trip of each lane.
        assert!(providers.longest_gap(Duration::from_secs(1)) < Duration::from_millis(900));
        providers.paths[0].silence(true);
        let gap = providers.longest_gap(Duration::from_secs(5));
        println!("{lanes} lanes: nothing arrived for {gap:?}");
        assert!(gap < Duration::from_secs(1), "{lanes} lanes: {gap:?}");
        eventually("the lanes are replaced", SOON, || providers.paths[1].connections() == lanes);
        providers.paths[0].silence(false);
        let again = Duration::from_secs(60);
        eventually("the balance is restored", again, || providers.lanes() == [lanes / 2, lanes / 2]);
        providers.end(writer);
    }
}

#[test]
fn a_spare_lane_carries_after_a_second_of_silence_and_there_is_no_break() {
    let providers = Providers::new(1, "[link]\ndead_after = \"9s\"\nheartbeat = \"500ms\"\nhold = \"15s\"\n");
    let writer = Writer::on(&providers.alpha, RATE);
    for round in 1..=3 {
        providers.paths[0].forget();
        let gap = providers.longest_gap(Duration::from_secs(4));
        println!("round {round}: nothing arrived for {gap:?}");
        assert!(gap < Duration::from_secs(3), "round {round}: {gap:?}");
        assert!(providers.second.count("redials") >= round);
    }
    eventually("the link has one lane", Duration::from_secs(20), || {
        providers.second.each("lanes") == [1] && providers.lanes() == [1]
    });
    providers.end(writer);
}
