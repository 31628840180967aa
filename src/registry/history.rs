//! The last ten minutes of each `[[master]]` and `[[replica]]`: bytes a second and lag.
//!
//! A sample is taken every few seconds for all entries at a time, so that their samples have common
//! times. Bytes are counted by link, since links come and go: what a link carried after the last
//! sample counts in the next one, also if it has ended by then. No clock and no I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Registry;
use crate::link::Side;

/// Interval between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// How far back the samples go.
pub const SPAN: Duration = Duration::from_secs(600);

/// Most samples of an entry.
const SAMPLES: usize = (SPAN.as_secs() / SAMPLE_EVERY.as_secs()) as usize + 1;

/// Most entries with samples; the others of a larger config have none.
const ENTRIES: usize = 800;

/// A value, or none, in two bytes: the upper half of an `f32`, true to half a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compact(u16);

impl Compact {
    fn new(value: Option<f64>) -> Self {
        let bits = value.map_or(f32::NAN, |value| value as f32).to_bits();
        // Rounded; what is no number stays none.
        Self((bits.saturating_add(0x8000) >> 16) as u16)
    }

    fn value(self) -> Option<f64> {
        let value = f64::from(f32::from_bits(u32::from(self.0) << 16));
        (!value.is_nan()).then_some(value)
    }
}

/// The values of one sample.
#[derive(Clone, Copy, Debug)]
struct Sample {
    to_replicas: Compact,
    to_masters: Compact,
    lag_seconds: Compact,
    lag_bytes: Compact,
}

/// The samples of one entry, the latest last, and the bytes of links that have ended since.
#[derive(Clone, Debug, Default)]
struct Series {
    samples: VecDeque<Sample>,
    ended: [u64; 2],
}

/// What the links of an entry have carried since the last sample, and the greatest lag of one.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: [u64; 2],
    lag_seconds: Option<f64>,
    lag_bytes: Option<f64>,
}

/// What a sample takes from a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSample<'a> {
    /// Its number.
    pub number: u64,
    /// Which end this is.
    pub side: Side,
    /// The name of its `[[master]]` or `[[replica]]`.
    pub name: &'a str,
    /// Bytes so far: towards the replica, towards the master.
    pub bytes: (u64, u64),
    /// Bytes that are not acknowledged, and for how many seconds; `None` if that is not known.
    pub lag: Option<(u64, f64)>,
}

/// One moment of an entry, or of all entries together. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Seconds before the last sample.
    pub age: f64,
    /// Bytes a second to the replicas since the sample before.
    pub to_replicas: Option<f64>,
    /// Bytes a second to the masters since the sample before.
    pub to_masters: Option<f64>,
    /// The greatest lag of a link in seconds.
    pub lag_seconds: Option<f64>,
    /// The greatest lag of a link in bytes.
    pub lag_bytes: Option<f64>,
}

/// The samples of all entries.
#[derive(Clone, Debug, Default)]
pub struct History {
    times: VecDeque<Instant>,
    entries: HashMap<(&'static str, String), Series>,
    /// The bytes of each link as of the last sample.
    links: HashMap<u64, [u64; 2]>,
}

impl History {
    /// Takes a sample of `entries` from their live links. Entries that are no longer among them are
    /// forgotten; links of others are left out.
    pub fn sample(&mut self, now: Instant, entries: &[(Side, &str)], links: &[LinkSample<'_>]) {
        let took = self.times.back().map(|last| now.saturating_duration_since(*last).as_secs_f64());
        if took == Some(0.0) {
            return;
        }
        let configured: HashSet<(&str, &str)> =
            entries.iter().take(ENTRIES).map(|(side, name)| (side.role(), *name)).collect();
        self.entries.retain(|(role, name), _| configured.contains(&(*role, name.as_str())));
        for (side, name) in entries.iter().take(ENTRIES) {
            self.entries.entry((side.role(), (*name).to_owned())).or_default();
        }
        let mut sums: HashMap<(&str, &str), Sum> = HashMap::new();
        let mut counted = HashMap::with_capacity(links.len());
        for link in links {
            let so_far = <[u64; 2]>::from(link.bytes);
            let more = since(so_far, self.links.get(&link.number));
            counted.insert(link.number, so_far);
            let sum = sums.entry((link.side.role(), link.name)).or_default();
            sum.bytes = [sum.bytes[0] + more[0], sum.bytes[1] + more[1]];
            let (lag_bytes, lag_seconds) = link.lag.unzip();
            sum.lag_bytes = greatest(sum.lag_bytes, lag_bytes.map(|bytes| bytes as f64));
            sum.lag_seconds = greatest(sum.lag_seconds, lag_seconds);
        }
        self.links = counted;
        while self.times.len() >= SAMPLES
            || self.times.front().is_some_and(|first| now.saturating_duration_since(*first) > SPAN)
        {
            self.times.pop_front();
        }
        self.times.push_back(now);
        for ((role, name), series) in &mut self.entries {
            let sum = sums.remove(&(*role, name.as_str())).unwrap_or_default();
            let ended = std::mem::take(&mut series.ended);
            let rate = |at: usize| took.map(|took| (sum.bytes[at] + ended[at]) as f64 / took);
            series.samples.push_back(Sample {
                to_replicas: Compact::new(rate(0)),
                to_masters: Compact::new(rate(1)),
                lag_seconds: Compact::new(sum.lag_seconds),
                lag_bytes: Compact::new(sum.lag_bytes),
            });
            let surplus = series.samples.len().saturating_sub(self.times.len());
            series.samples.drain(..surplus);
        }
    }

    /// Counts what a link has carried since the last sample, because it ends.
    pub fn end(&mut self, link: &LinkSample<'_>) {
        let more = since(link.bytes.into(), self.links.remove(&link.number).as_ref());
        if let Some(series) = self.entries.get_mut(&(link.side.role(), link.name.to_owned())) {
            series.ended = [series.ended[0] + more[0], series.ended[1] + more[1]];
        }
    }

    /// The samples of an entry, by its role (`master` or `replica`) and name, the latest last.
    pub fn of(&self, role: &'static str, name: &str) -> Vec<Point> {
        let Some(series) = self.entries.get(&(role, name.to_owned())) else { return Vec::new() };
        let ages = self.ages().skip(self.times.len() - series.samples.len());
        ages.zip(&series.samples).map(|(age, sample)| sample.at(age)).collect()
    }

    /// The samples of all entries together: bytes are added up, and the lag is the greatest.
    pub fn whole(&self) -> Vec<Point> {
        let mut points: Vec<Point> = self.ages().map(|age| Point { age, ..Point::default() }).collect();
        for series in self.entries.values() {
            let before = points.len() - series.samples.len();
            for (point, sample) in points[before..].iter_mut().zip(&series.samples) {
                let other = sample.at(point.age);
                point.to_replicas = sum(point.to_replicas, other.to_replicas);
                point.to_masters = sum(point.to_masters, other.to_masters);
                point.lag_seconds = greatest(point.lag_seconds, other.lag_seconds);
                point.lag_bytes = greatest(point.lag_bytes, other.lag_bytes);
            }
        }
        points
    }

    /// The age of each sample in seconds before the last one.
    fn ages(&self) -> impl Iterator<Item = f64> {
        let last = self.times.back().copied();
        self.times
            .iter()
            .map(move |time| last.map_or(0.0, |last| last.saturating_duration_since(*time).as_secs_f64()))
    }
}

impl Sample {
    fn at(self, age: f64) -> Point {
        Point {
            age,
            to_replicas: self.to_replicas.value(),
            to_masters: self.to_masters.value(),
            lag_seconds: self.lag_seconds.value(),
            lag_bytes: self.lag_bytes.value(),
        }
    }
}

/// The bytes since `before`; all of them for a link that was not there.
fn since(so_far: [u64; 2], before: Option<&[u64; 2]>) -> [u64; 2] {
    let before = before.copied().unwrap_or_default();
    [so_far[0].saturating_sub(before[0]), so_far[1].saturating_sub(before[1])]
}

fn greatest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(|one, other| one + other)
}

impl Registry {
    /// Takes a sample of these entries for the history.
    pub fn sample(&self, now: Instant, entries: &[(Side, &str)]) {
        let links = self.lock().links.clone();
        let mut samples: Vec<LinkSample<'_>> = links.iter().map(|link| link.sample(now)).collect();
        let mut state = self.lock();
        // What has ended meanwhile was counted then.
        let live: HashSet<u64> = state.links.iter().map(|link| link.number).collect();
        samples.retain(|link| live.contains(&link.number));
        Arc::make_mut(&mut state.history).sample(now, entries, &samples);
    }

    /// The last ten minutes.
    pub fn history(&self) -> Arc<History> {
        Arc::clone(&self.lock().history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: (Side, &str) = (Side::Acceptor, "orders");
    const REPLICA: (Side, &str) = (Side::Dialler, "orders");

    fn of(number: u64, (side, name): (Side, &'static str), bytes: (u64, u64)) -> LinkSample<'static> {
        LinkSample { number, side, name, bytes, lag: None }
    }

    /// The rates to the replicas, the latest last.
    fn rates(points: &[Point]) -> Vec<Option<f64>> {
        points.iter().map(|point| point.to_replicas).collect()
    }

    #[test]
    fn a_value_is_kept_to_half_a_percent_and_none_stays_none() {
        assert_eq!(size_of::<Sample>(), 8);
        for value in [0.0, 0.1, 1.0, 10.0, 999.0, 123_456_789.0, 5e12] {
            let kept = Compact::new(Some(value)).value().unwrap();
            assert!((kept - value).abs() <= value / 200.0, "{value}: {kept}");
        }
        assert_eq!(Compact::new(None).value(), None);
        assert_eq!(Compact::new(Some(f64::NAN)).value(), None);
    }

    #[test]
    fn the_rate_is_what_all_links_of_an_entry_carried_since_the_last_sample() {
        let (mut history, start) = (History::default(), Instant::now());
        let entries = [MASTER, REPLICA];
        history.sample(start, &entries, &[of(1, MASTER, (1000, 10))]);
        // Link 2 is new: all of it counts.
        let links = [of(1, MASTER, (1500, 20)), of(2, MASTER, (500, 0)), of(3, REPLICA, (80, 0))];
        history.sample(start + SAMPLE_EVERY, &entries, &links);
        let points = history.of("master", "orders");
        assert_eq!(rates(&points), [None, Some(200.0)], "no rate is known at first");
        assert_eq!((points[0].age, points[1].age, points[1].to_masters), (5.0, 0.0, Some(2.0)));
        assert_eq!(rates(&history.of("replica", "orders"))[1], Some(16.0), "the other role is apart");
        let whole = rates(&history.whole())[1].unwrap();
        assert!((whole - 216.0).abs() < 1.1, "both together, to half a percent: {whole}");
    }

    #[test]
    fn a_link_that_ends_between_two_samples_counts_whole() {
        let (mut history, start) = (History::default(), Instant::now());
        history.sample(start, &[MASTER], &[of(1, MASTER, (1000, 0))]);
        history.end(&of(1, MASTER, (1200, 0)));
        history.end(&of(2, MASTER, (300, 0)));
        history.sample(start + SAMPLE_EVERY, &[MASTER], &[]);
        history.sample(start + 2 * SAMPLE_EVERY, &[MASTER], &[]);
        assert_eq!(rates(&history.of("master", "orders")), [None, Some(100.0), Some(0.0)]);
        assert!(history.links.is_empty());
    }

    #[test]
    fn the_lag_is_the_greatest_of_the_links_and_none_where_none_is_known() {
        let (mut history, start) = (History::default(), Instant::now());
        let with = |number, lag| LinkSample { lag, ..of(number, MASTER, (0, 0)) };
        history.sample(
            start,
            &[MASTER],
            &[with(1, Some((64, 8.0))), with(2, Some((512, 2.0))), with(3, None)],
        );
        history.sample(start + SAMPLE_EVERY, &[MASTER], &[with(3, None)]);
        let lags: Vec<_> =
            history.of("master", "orders").iter().map(|point| (point.lag_seconds, point.lag_bytes)).collect();
        assert_eq!(lags, [(Some(8.0), Some(512.0)), (None, None)]);
    }

    #[test]
    fn the_names_follow_the_config() {
        let (mut history, start) = (History::default(), Instant::now());
        history.sample(start, &[MASTER], &[]);
        history.sample(start + SAMPLE_EVERY, &[MASTER, REPLICA], &[]);
        assert_eq!((history.of("master", "orders").len(), history.of("replica", "orders").len()), (2, 1));
        assert_eq!(history.of("replica", "orders")[0].age, 0.0, "a new entry has the latest samples");
        assert_eq!(history.whole().len(), 2);
        history.sample(start + 2 * SAMPLE_EVERY, &[REPLICA], &[of(1, MASTER, (5, 5))]);
        assert!(history.of("master", "orders").is_empty());
        assert_eq!(history.entries.len(), 1);
    }

    #[test]
    fn ten_minutes_are_kept_however_the_samples_come() {
        let (mut history, start) = (History::default(), Instant::now());
        for at in 0..300 {
            history.sample(start + at * SAMPLE_EVERY, &[MASTER], &[]);
        }
        let points = history.of("master", "orders");
        assert_eq!((points.len(), points[0].age), (SAMPLES, 600.0));
        // The process was stopped for an hour.
        let late = start + 300 * SAMPLE_EVERY + Duration::from_secs(3600);
        history.sample(late, &[MASTER], &[]);
        assert_eq!(history.of("master", "orders").len(), 1);
        history.sample(late, &[MASTER], &[]);
        assert_eq!(history.of("master", "orders").len(), 1, "a sample without time between is none");
        for at in 1..500 {
            history.sample(late + at * Duration::from_millis(100), &[MASTER], &[]);
        }
        assert_eq!(history.of("master", "orders").len(), SAMPLES);
    }

    #[test]
    fn six_hundred_entries_take_less_than_a_megabyte_and_their_number_is_bounded() {
        let names: Vec<String> = (0..1000).map(|at| format!("master-{at}")).collect();
        let entries: Vec<(Side, &str)> = names.iter().map(|name| (Side::Acceptor, name.as_str())).collect();
        let (mut history, start) = (History::default(), Instant::now());
        let filled = |history: &mut History, entries: &[(Side, &str)], from: u32| {
            for at in from..from + 200 {
                history.sample(start + at * SAMPLE_EVERY, entries, &[]);
            }
            let size = |series: &Series| series.samples.capacity() * size_of::<Sample>();
            let samples: usize = history.entries.values().map(size).sum();
            let slots = history.entries.capacity() * size_of::<((&str, String), Series)>();
            samples + slots + history.entries.keys().map(|(_, name)| name.len()).sum::<usize>()
        };
        let taken = filled(&mut history, &entries[..600], 0);
        assert!((600 * SAMPLES * 8..1_000_000).contains(&taken), "{taken} bytes");
        filled(&mut history, &entries, 200);
        assert_eq!(history.entries.len(), ENTRIES);
    }
}
