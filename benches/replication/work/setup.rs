//! Links that are opened, one after the other, carry a full sync without data, and are closed.

use anyhow::Result;

use super::{Bench, Measure, Row, Sample, Work, less};
use crate::cpu::Watch;
use crate::fakes::Fakes;
use crate::options::Scale;
use crate::peers::{Carries, Subject};

pub const ROW: Row = Row {
    key: "setup",
    title,
    measures: MEASURES,
    takes: |subject| subject.is_tunnel() && !subject.compresses(),
    prepare: |_| Ok(Box::new(SetUp { fakes: Fakes::start(Carries::Replication)? })),
};

const MEASURES: &[Measure] = &[less("cpu", "CPU-ms a link", 2), less("seconds", "ms a link", 2)];

fn title(scale: &Scale) -> String {
    format!("{} links set up and closed", scale.set_up_links)
}

struct SetUp {
    fakes: Fakes,
}

impl Work for SetUp {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        let way = subject.start(&bench.place, self.fakes.master(), Carries::Replication)?;
        // The first link includes the cost of what is done only once.
        drop(self.fakes.open(way.entry, 1)?);
        self.fakes.wait_closed()?;
        let count = bench.scale.set_up_links;
        let watch = Watch::start(&way, &[]);
        for _ in 0..count {
            drop(self.fakes.open(way.entry, 1)?);
        }
        self.fakes.wait_closed()?;
        let spent = watch.stop();
        let each = |seconds: f64| Some(seconds * 1e3 / f64::from(count));
        Ok(Sample::new(spent, vec![each(spent.pair), each(spent.seconds())]))
    }
}
