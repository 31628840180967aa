//! The targets for replgate, as ratios to other subjects in the same run, and whether they are met.

use crate::results::Results;

/// What a value is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    BestPeer,
    NoTunnel,
    /// The value itself is the target.
    Itself,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Against::{BestPeer, Itself, NoTunnel};
use Bound::{AtLeast, AtMost};

/// Row, measure, what it is compared with, and the required value.
const TARGETS: &[(&str, &str, Against, Bound)] = &[
    ("sync", "cpu", BestPeer, AtMost(0.70)),
    ("sync", "seconds", NoTunnel, AtMost(1.05)),
    ("stream", "cpu", BestPeer, AtMost(0.80)),
    ("stream", "speed", BestPeer, AtLeast(1.0)),
    ("stream", "lag", BestPeer, AtMost(1.0)),
    ("paced", "cpu", BestPeer, AtMost(0.70)),
    ("wait", "p50", BestPeer, AtMost(0.95)),
    ("wait", "p99", BestPeer, AtMost(1.0)),
    ("bulk", "cpu", BestPeer, AtMost(0.55)),
    ("bulk", "speed", BestPeer, AtLeast(1.5)),
    ("idle", "memory", Itself, AtMost(35.0)),
    ("idle", "cpu", Itself, AtMost(4.0)),
    ("acks", "memory", Itself, AtMost(35.0)),
    ("acks", "cpu", Itself, AtMost(4.0)),
    ("setup", "cpu", Itself, AtMost(1.3)),
];

/// One target and its result.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub measure: &'static str,
    /// The subject that it is compared with, if any.
    pub against: Option<&'static str>,
    pub value: f64,
    pub asked: String,
    pub met: bool,
}

/// Compares a row's results with its targets, as far as both subjects were measured.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let targets = TARGETS.iter().filter(|target| target.0 == results.row.key);
    let verdict = |(_, key, against, bound): &(&str, &str, Against, Bound)| {
        let at = results.measure(key)?;
        let own = results.of("replgate")?;
        let other = match against {
            BestPeer => Some(results.best_peer(at)?),
            NoTunnel => Some(results.of("none")?),
            Itself => None,
        };
        let value = match other {
            Some(other) => own.ratio(other, at)?,
            None => own.summary(at)?.median,
        };
        let (asked, met) = match *bound {
            AtMost(most) => (format!("at most {most}"), value <= most),
            AtLeast(least) => (format!("at least {least}"), value >= least),
        };
        let measure = results.row.measures[at].unit;
        Some(Verdict { measure, against: other.map(|series| series.subject.name), value, asked, met })
    };
    targets.filter_map(verdict).collect()
}
