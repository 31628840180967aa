//! The rounds of a row. In each round every subject is measured once; the next round begins with the
//! next subject.

use anyhow::{Context, Result};

use crate::peers::Subject;
use crate::place::go_on;
use crate::results::{Results, Series};
use crate::work::{Bench, Row, Sample, Work};

/// Measurements that may be thrown away in each round of a row.
const RETRIES: usize = 3;

/// A row while it is measured.
struct Rounds<'a> {
    bench: &'a Bench,
    row: &'static Row,
    work: Box<dyn Work>,
    /// Cores that others may use.
    tolerate: f64,
    /// Measurements of this round that may still be thrown away.
    retries: usize,
    thrown_away: usize,
    disturbed: usize,
}

/// Measures a row.
pub fn row(
    bench: &Bench,
    row: &'static Row,
    subjects: &[Subject],
    rounds: usize,
    tolerate: f64,
) -> Result<Results> {
    let title = (row.title)(&bench.scale);
    eprintln!("\n== {title}");
    let mut series: Vec<Series> = subjects
        .iter()
        .filter(|subject| (row.takes)(subject))
        .map(|subject| Series { subject: subject.clone(), rounds: vec![None; rounds] })
        .collect();
    let work = (row.prepare)(bench).with_context(|| title.clone())?;
    let mut run = Rounds { bench, row, work, tolerate, retries: 0, thrown_away: 0, disturbed: 0 };
    if let Some(first) = series.first() {
        // Warms up the machine and the row's own Redis.
        let _ = run.work.once(bench, &first.subject);
    }
    for round in 0..rounds {
        run.retries = RETRIES;
        for turn in 0..series.len() {
            let at = (round + turn) % series.len();
            series[at].rounds[round] = run.measure(&series[at].subject, round)?;
        }
    }
    Ok(Results { row, title, subjects: series, thrown_away: run.thrown_away, disturbed: run.disturbed })
}

impl Rounds<'_> {
    /// Measures a subject, again if others used the machine meanwhile. A subject that fails twice
    /// has no value in this round.
    fn measure(&mut self, subject: &Subject, round: usize) -> Result<Option<Sample>> {
        let mut failed = false;
        loop {
            go_on()?;
            let said = match self.work.once(self.bench, subject) {
                Err(error) if failed => {
                    eprintln!("round {}  {:<10} FAILED: {error:#}", round + 1, subject.name);
                    return Ok(None);
                }
                Err(error) => {
                    failed = true;
                    format!("failed, once more: {error:#}")
                }
                Ok(sample) if sample.others > self.tolerate && self.retries > 0 => {
                    self.retries -= 1;
                    self.thrown_away += 1;
                    format!("thrown away: others used {:.2} cores meanwhile", sample.others)
                }
                Ok(sample) => {
                    let disturbed = sample.others > self.tolerate;
                    self.disturbed += usize::from(disturbed);
                    let values =
                        self.row.measures.iter().zip(&sample.values).filter_map(|(measure, value)| {
                            Some(format!("{:.*} {}", measure.decimals, (*value)?, measure.unit))
                        });
                    let values = values.collect::<Vec<_>>().join(", ");
                    let note = if disturbed {
                        format!(" (others: {:.2} cores)", sample.others)
                    } else {
                        String::new()
                    };
                    eprintln!("round {}  {:<10} {values}{note}", round + 1, subject.name);
                    return Ok(Some(sample));
                }
            };
            eprintln!("round {}  {:<10} {said}", round + 1, subject.name);
        }
    }
}
