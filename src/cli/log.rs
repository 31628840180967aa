//! Logging for `run`: to stderr, as text or JSON. A slow reader never blocks the gateway.

use std::io::IsTerminal;
use std::sync::Arc;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::prelude::*;

use crate::registry::{Events, Recorder};

/// The format of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// For people to read.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Level {
    /// Failures.
    Error,
    /// Conditions that need attention.
    #[value(alias = "warning")]
    Warn,
    /// Starts and ends of links, and what the gateway does.
    Info,
    /// Also repeated messages, which are otherwise only counted.
    Debug,
    /// Everything.
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Starts logging, and keeping the lines at info and above as events. Once 10,000 lines wait for the reader, further lines are dropped. Keep the
/// guard: dropping it writes the waiting lines.
pub(super) fn start(format: Format, level: Level, events: &Arc<Events>) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(10_000).finish(std::io::stderr());
    let colours =
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false).with_ansi(colours);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    // Events are kept whatever the log shows.
    tracing_subscriber::registry()
        .with(lines.with_filter(LevelFilter::from(level)))
        .with(Recorder(Arc::clone(events)).with_filter(LevelFilter::INFO))
        .init();
    guard
}
