//! The measurements of a row, and their ratios.

use crate::peers::Subject;
use crate::summary::{Summary, median};
use crate::work::{Better, Row, Sample};

/// The measurements of one row.
#[derive(Debug)]
pub struct Results {
    pub row: &'static Row,
    pub title: String,
    pub subjects: Vec<Series>,
    /// Measurements that were thrown away because others used the machine.
    pub thrown_away: usize,
    /// Measurements that were kept although others used the machine.
    pub disturbed: usize,
}

/// The measurements of one subject, by round; `None` where one failed.
#[derive(Debug)]
pub struct Series {
    pub subject: Subject,
    pub rounds: Vec<Option<Sample>>,
}

impl Series {
    fn value(&self, round: usize, measure: usize) -> Option<f64> {
        self.rounds.get(round)?.as_ref()?.values[measure]
    }

    pub fn values(&self, measure: usize) -> Vec<f64> {
        (0..self.rounds.len()).filter_map(|round| self.value(round, measure)).collect()
    }

    pub fn summary(&self, measure: usize) -> Option<Summary> {
        Summary::of(&self.values(measure))
    }

    /// The median over the rounds of the ratio of this subject to another.
    pub fn ratio(&self, other: &Self, measure: usize) -> Option<f64> {
        let pairs = (0..self.rounds.len())
            .filter_map(|round| Some(self.value(round, measure)? / other.value(round, measure)?));
        median(&pairs.filter(|ratio| ratio.is_finite()).collect::<Vec<_>>())
    }
}

impl Results {
    pub fn of(&self, name: &str) -> Option<&Series> {
        self.subjects.iter().find(|series| series.subject.name == name)
    }

    pub fn measure(&self, key: &str) -> Option<usize> {
        self.row.measures.iter().position(|measure| measure.key == key)
    }

    /// The other tunnel with the best median.
    pub fn best_peer(&self, measure: usize) -> Option<&Series> {
        let better = self.row.measures[measure].better;
        let peers = self.subjects.iter().filter(|series| series.subject.is_peer());
        let judged = peers.filter_map(|series| {
            let median = series.summary(measure)?.median;
            Some((if better == Better::Less { median } else { -median }, series))
        });
        judged.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, series)| series)
    }
}
