//! Lanes over two providers, one of which is lost.

use std::time::Duration;

use crate::gap::Gap;
use crate::load::{RATE, wait};
use crate::results::{Results, Syncs};
use crate::support::path::{Path, Towards};
use crate::support::providers::Providers;
use crate::support::writer::Writer;
use crate::support::{SOON, eventually};

/// Asserted generously, since machines are shared. The usual figure is below half a second.
const GAP: Duration = Duration::from_secs(3);

/// One of two providers is lost for each number of lanes.
#[track_caller]
fn lost(what: &str, lose: fn(&Path)) {
    for lanes in [2_usize, 3, 4] {
        let providers = Providers::new(2, &format!("[link]\nlanes = {lanes}\n"));
        let before = Syncs::of(&providers.alpha);
        let writer = Writer::on(&providers.alpha, RATE);
        let spread = [lanes.div_ceil(2), lanes / 2];
        eventually("the lanes are spread evenly", SOON, || {
            let lanes = providers.lanes();
            lanes == spread || lanes == [spread[1], spread[0]]
        });
        let watch = Gap::of(&providers.bravo);
        wait(3.0); // Long enough to know the round trip of each lane.
        watch.take();
        lose(&providers.paths[0]);
        wait(6.0);
        let gap = watch.take();
        drop(watch);
        assert!(gap < GAP, "{lanes} lanes: {gap:?}");
        eventually("the lanes are replaced", SOON, || providers.paths[1].connections() == lanes);
        let what = format!("{lanes} lanes over two providers, one {what}");
        let results = Results::new(&what, before, &providers.alpha)
            .seconds("gap", &[gap])
            .bytes("resent", providers.first.count("resent_bytes"))
            .bytes("carried to dc2", providers.paths.iter().map(|path| path.crossed(Towards::Dialler)).sum());
        providers.end(writer);
        results.print();
    }
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_provider_that_falls_silent_is_hardly_noticed() {
    lost("falls silent", |path| path.silence(true));
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_provider_that_resets_everything_is_hardly_noticed() {
    lost("resets and refuses everything", |path| {
        path.refuse(true);
        path.cut();
    });
}
