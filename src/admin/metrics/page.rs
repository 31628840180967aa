//! Metrics with their samples, and how they are written.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, prometheus_text};
use prometheus_client::encoding::{MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Format;

/// A label.
pub(super) type Label = (&'static str, Cow<'static, str>);

/// The labels of a sample: those that many samples share, and its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    pub(super) shared: Arc<[Label]>,
    pub(super) own: Option<Label>,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.shared.iter().chain(&self.own) {
            [(*name, value.as_ref())].encode(encoder)?;
        }
        Ok(())
    }
}

/// A value. Whole numbers are written without a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// Seconds since 1970.
impl From<i64> for Value {
    fn from(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Real(value as f64), Self::Whole)
    }
}

/// A metric with its samples.
#[derive(Clone, Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Labels, Value)>,
}

/// All metrics, in the order in which they are written. A metric without a sample is listed all the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    families: Vec<Family>,
}

impl Page {
    /// Adds a value that goes up and down.
    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Value)>,
    ) {
        self.add(name, help, MetricType::Gauge, samples);
    }

    /// Adds a count since the start; its name ends in `_total`.
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Value)>,
    ) {
        self.add(name, help, MetricType::Counter, samples);
    }

    /// Adds facts, which are labels; its name ends in `_info`.
    pub(super) fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(name, help, MetricType::Info, [(labels, Value::Whole(1))]);
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, Value)>,
    ) {
        self.families.push(Family { name, help, kind, samples: samples.into_iter().collect() });
    }

    /// The page in this format.
    pub(super) fn text(self, format: Format) -> String {
        let (mut registry, mut out) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        let written = match format {
            Format::OpenMetrics => text::encode(&mut out, &registry),
            Format::Text => prometheus_text::encode(&mut out, &registry),
        };
        written.expect("a string takes any text");
        out
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.families {
            let (name, unit) = family.parts();
            let mut metric = encoder.encode_descriptor(name, family.help, unit.as_ref(), family.kind)?;
            for (labels, value) in &family.samples {
                family.write(&mut metric, labels, *value)?;
            }
        }
        Ok(())
    }
}

impl Family {
    /// The name as the library wants it, which adds the ends again, and the unit that it tells.
    fn parts(&self) -> (&'static str, Option<Unit>) {
        let end = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        let name = self.name.strip_suffix(end).expect("the name of a metric ends as its type demands");
        let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
        let mut parts =
            units.into_iter().filter_map(|(end, unit)| Some((name.strip_suffix(end)?, Some(unit))));
        parts.next().unwrap_or((name, None))
    }

    fn write(&self, metric: &mut MetricEncoder<'_>, labels: &Labels, value: Value) -> fmt::Result {
        if self.kind == MetricType::Info {
            return metric.encode_info(labels);
        }
        let mut sample = metric.encode_family(labels)?;
        match (self.kind, value) {
            (MetricType::Counter, Value::Whole(value)) => {
                sample.encode_counter::<NoLabelSet, _, u64>(&value, None)
            }
            (MetricType::Counter, Value::Real(value)) => {
                sample.encode_counter::<NoLabelSet, _, f64>(&value, None)
            }
            (_, Value::Whole(value)) => sample.encode_gauge(&value),
            (_, Value::Real(value)) => sample.encode_gauge(&value),
        }
    }
}
