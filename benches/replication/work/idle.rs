//! A thousand links that do nothing, and a thousand whose replicas acknowledge every second, as Redis'
//! replicas do.

use anyhow::{Result, ensure};

use super::{Bench, Measure, Row, Sample, Work, less};
use crate::cpu::{Watch, memory};
use crate::fakes::Fakes;
use crate::options::Scale;
use crate::peers::{Carries, Subject};
use crate::place::go_on;

pub const IDLE: Row = Row {
    key: "idle",
    title: |scale| title(scale, "idle links"),
    measures: MEASURES,
    takes,
    prepare: |_| Ok(Box::new(Many { fakes: Fakes::start(Carries::Anything)?, carries: Carries::Anything })),
};

pub const ACKS: Row = Row {
    key: "acks",
    title: |scale| title(scale, "links whose replicas acknowledge every second"),
    measures: MEASURES,
    takes,
    prepare: |_| {
        Ok(Box::new(Many { fakes: Fakes::start(Carries::Replication)?, carries: Carries::Replication }))
    },
};

const MEASURES: &[Measure] = &[less("memory", "MB", 1), less("cpu", "% of a core", 1)];

fn title(scale: &Scale, what: &str) -> String {
    format!("{} {what}, {} s", scale.idle_links, scale.idle.as_secs())
}

fn takes(subject: &Subject) -> bool {
    subject.is_tunnel() && subject.is_simple()
}

struct Many {
    fakes: Fakes,
    carries: Carries,
}

impl Work for Many {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        // Those of the last measurement.
        self.fakes.wait_closed()?;
        let way = subject.start(&bench.place, self.fakes.master(), self.carries)?;
        let count = bench.scale.idle_links;
        let mut links = self.fakes.open(way.entry, count)?;
        if self.carries == Carries::Replication {
            self.fakes.acknowledge(std::mem::take(&mut links));
        }
        let watch = Watch::start(&way, &[]);
        while watch.seconds() < bench.scale.idle.as_secs_f64() {
            go_on()?;
            // Idleness itself is what is measured.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let spent = watch.stop();
        let open = self.fakes.connections();
        ensure!(open >= usize::from(count), "only {open} of {count} links are open at the end");
        let megabytes = memory(&way) as f64 / 1e6;
        Ok(Sample::new(spent, vec![Some(megabytes), Some(spent.pair / spent.seconds() * 100.0)]))
    }
}
