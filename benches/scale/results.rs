//! What was measured, as it stands in the JSON file.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::peers::Subject;
use crate::summary::Summary;
use crate::work::{ROWS, Sample};

#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    pub machine: Machine,
    /// By subject.
    pub versions: BTreeMap<String, String>,
    pub rows: Vec<Results>,
}

/// The measurements of one row.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// The row's key.
    pub row: String,
    pub rounds: usize,
    /// Measurements that were thrown away because others used the machine.
    pub thrown_away: usize,
    /// Measurements that were kept although others used the machine.
    pub disturbed: usize,
    pub points: Vec<Point>,
}

/// One subject at one point of the curve.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    pub subject: String,
    /// How many links, masters, sites or bytes.
    pub at: u64,
    /// A value for each round, by measure.
    pub samples: BTreeMap<String, Vec<f64>>,
}

impl Document {
    pub fn new(machine: Machine, subjects: &[Subject]) -> Self {
        let version = |subject: &Subject| Some((subject.name.to_owned(), subject.version()?));
        Self { machine, versions: subjects.iter().filter_map(version).collect(), rows: Vec::new() }
    }

    /// Reads the file of an earlier run, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let read = || format!("read {}", path.display());
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(serde_json::from_str(&text).with_context(read)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(read),
        }
    }

    /// Takes over the rows of an earlier run.
    pub fn keep_rows_of(&mut self, earlier: Self) {
        self.rows = earlier.rows;
        for (subject, version) in earlier.versions {
            self.versions.entry(subject).or_insert(version);
        }
    }

    /// Adds a row, in place of an earlier one.
    pub fn put(&mut self, results: Results) {
        self.rows.retain(|row| row.row != results.row);
        self.rows.push(results);
        self.rows.sort_by_key(|results| ROWS.iter().position(|row| row.key == results.row));
    }

    pub fn row(&self, key: &str) -> Option<&Results> {
        self.rows.iter().find(|row| row.row == key)
    }
}

impl Results {
    /// Medians of one measure of one subject, by point.
    pub fn curve(&self, subject: &str, measure: &str) -> Vec<(u64, f64)> {
        let points = self.points.iter().filter(|point| point.subject == subject);
        points.filter_map(|point| Some((point.at, point.summary(measure)?.median))).collect()
    }
}

impl Point {
    pub fn add(&mut self, sample: &Sample) {
        for (measure, value) in &sample.values {
            self.samples.entry((*measure).to_owned()).or_default().push(*value);
        }
    }

    pub fn summary(&self, measure: &str) -> Option<Summary> {
        Summary::of(self.samples.get(measure)?)
    }
}
