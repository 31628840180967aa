//! The rows of the table: the work for each subject, and what is measured.

mod bulk;
mod idle;
mod paced;
mod setup;
mod stream;
mod sync;
mod wait;

use anyhow::Result;

use crate::cpu::Spent;
use crate::options::Scale;
use crate::peers::Subject;
use crate::place::Place;

/// What all rows share.
#[derive(Debug)]
pub struct Bench {
    pub place: Place,
    pub scale: Scale,
    /// Whether masters have a TLS port too.
    pub tls: bool,
}

/// One kind of work.
#[derive(Debug)]
pub struct Row {
    /// As in `--only`.
    pub key: &'static str,
    pub title: fn(&Scale) -> String,
    pub measures: &'static [Measure],
    /// Whether it makes sense for a subject.
    pub takes: fn(&Subject) -> bool,
    pub prepare: fn(&Bench) -> Result<Box<dyn Work>>,
}

/// One column of a row.
#[derive(Debug)]
pub struct Measure {
    pub key: &'static str,
    pub unit: &'static str,
    pub decimals: usize,
    pub better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// What a row needs once before its first measurement, and how it measures.
pub trait Work {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample>;
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Sample {
    /// A value for each measure of the row; `None` where it does not apply.
    pub values: Vec<Option<f64>>,
    /// Cores that others used meanwhile.
    pub others: f64,
}

/// Every row, in the order of the report.
pub const ROWS: &[Row] =
    &[sync::ROW, stream::ROW, paced::ROW, wait::ROW, bulk::ROW, idle::IDLE, idle::ACKS, setup::ROW];

const fn less(key: &'static str, unit: &'static str, decimals: usize) -> Measure {
    Measure { key, unit, decimals, better: Better::Less }
}

const fn more(key: &'static str, unit: &'static str, decimals: usize) -> Measure {
    Measure { key, unit, decimals, better: Better::More }
}

/// A value of the tunnel, which not every subject has.
fn of_tunnel(subject: &Subject, value: f64) -> Option<f64> {
    subject.is_tunnel().then_some(value)
}

impl Sample {
    fn new(spent: Spent, values: Vec<Option<f64>>) -> Self {
        Self { values, others: spent.others }
    }
}
