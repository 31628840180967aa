//! The rounds of a row. In each round every subject is measured once at every point; the next round
//! begins with the next of them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::peers::Subject;
use crate::place::go_on;
use crate::results::{Point, Results};
use crate::work::{Bench, Row, Sample};

/// Measurements that may be thrown away in each round of a row.
const RETRIES: usize = 3;

pub fn row(
    bench: &Bench,
    row: &'static Row,
    subjects: &[Subject],
    rounds: usize,
    tolerate: f64,
) -> Result<Results> {
    eprintln!("\n== {}", row.title);
    let points = if bench.quick { &row.points[..2] } else { row.points };
    let mut cases: Vec<(&Subject, Point)> = Vec::new();
    for subject in subjects.iter().filter(|subject| (row.takes)(subject)) {
        cases.extend(points.iter().map(|at| {
            (subject, Point { subject: subject.name.to_owned(), at: *at, samples: BTreeMap::new() })
        }));
    }
    let (mut thrown_away, mut disturbed) = (0, 0);
    for round in 0..rounds {
        let mut retries = RETRIES;
        for turn in 0..cases.len() {
            let case = (round + turn) % cases.len();
            let (subject, point) = &mut cases[case];
            let sample = loop {
                let sample = measure(bench, row, subject, point.at)?;
                let others = sample.others > tolerate;
                let note = if others {
                    format!(" (others used {:.2} cores meanwhile)", sample.others)
                } else {
                    String::new()
                };
                let values = sample.values.iter().map(|(key, value)| format!("{key} {value:.2}"));
                let values = values.collect::<Vec<_>>().join(", ");
                eprintln!("round {}  {:<8} {:>8}  {values}{note}", round + 1, subject.name, point.at);
                if !others || retries == 0 {
                    disturbed += usize::from(others);
                    break sample;
                }
                retries -= 1;
                thrown_away += 1;
            };
            point.add(&sample);
        }
    }
    let points = cases.into_iter().map(|(_, point)| point).collect();
    Ok(Results { row: row.key.to_owned(), rounds, thrown_away, disturbed, points })
}

/// Measures once, or a second time if the first fails.
fn measure(bench: &Bench, row: &Row, subject: &Subject, at: u64) -> Result<Sample> {
    go_on()?;
    match (row.once)(bench, subject, at) {
        Ok(sample) => Ok(sample),
        Err(error) => {
            eprintln!("{} at {at} failed, once more: {error:#}", subject.name);
            go_on()?;
            (row.once)(bench, subject, at).or_else(|error| bail!("{} at {at}: {error:#}", subject.name))
        }
    }
}
