//! The rows: what grows, and what is measured.

mod busy;
mod idle;
mod masters;
mod values;

use anyhow::Result;

use crate::cpu::Spent;
use crate::peers::Subject;
use crate::place::Place;

/// What all rows share.
#[derive(Debug)]
pub struct Bench {
    pub place: Place,
    /// Whether it is only to be shown that everything runs.
    pub quick: bool,
}

/// One kind of work, at several points.
#[derive(Debug)]
pub struct Row {
    /// As in `--only`.
    pub key: &'static str,
    pub title: &'static str,
    /// What grows.
    pub axis: &'static str,
    /// How much of it; the first two are measured by `--quick`.
    pub points: &'static [u64],
    /// How a point is written.
    pub name: fn(u64) -> String,
    pub measures: &'static [Measure],
    /// Whether it makes sense for a subject.
    pub takes: fn(&Subject) -> bool,
    pub once: fn(&Bench, &Subject, u64) -> Result<Sample>,
}

/// One column of a row.
#[derive(Debug)]
pub struct Measure {
    pub key: &'static str,
    pub title: &'static str,
    pub decimals: usize,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Sample {
    /// By measure; one that does not apply to the subject is not there.
    pub values: Vec<(&'static str, f64)>,
    /// Cores that others used meanwhile.
    pub others: f64,
}

/// Every row, in the order of the report.
pub const ROWS: &[Row] =
    &[idle::IDLE, idle::ACKS, busy::PACED, busy::FULL, masters::MASTERS, masters::SITES, values::ROW];

const fn measure(key: &'static str, title: &'static str, decimals: usize) -> Measure {
    Measure { key, title, decimals }
}

fn number(at: u64) -> String {
    at.to_string()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The share of a core that some CPU-seconds were, in percent.
fn percent(cpu: f64, spent: &Spent) -> f64 {
    cpu / spent.seconds() * 100.0
}
