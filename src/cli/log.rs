//! Logging for `run`: to stderr, as text or JSON, never waiting for its reader.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. Lines that the reader does not take in time are dropped once
/// 10,000 wait. Keep the guard: dropping it writes what waits.
pub(super) fn start(format: Format, level: &str) -> Result<WorkerGuard, String> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        format!("--log-level {level:?}: {error}; write error, warn, info, debug or trace")
    })?;
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(10_000).finish(std::io::stderr());
    let colours =
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false)
        .with_ansi(colours);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(guard)
}
