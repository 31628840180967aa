//! Runs what is shipped for containers and for Debian, unchanged, against a Docker
//! engine. Without one, each test says that it is skipped; with `CI=true` it fails.

mod compose;
mod engine;
mod guide;
mod host;
mod package;
#[path = "../it/support/transcript.rs"]
mod transcript;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// How long a test waits for a condition.
const SOON: Duration = Duration::from_secs(60);

/// The root folder of the project.
fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Polls until `condition` holds. Its last error is in the failure message.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + SOON;
    while let Err(seen) = condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}; seen: {seen}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// An error unless `text` contains all of `wanted`.
fn holds(text: &str, wanted: &[&str]) -> Result<(), String> {
    let missing: Vec<_> = wanted.iter().filter(|wanted| !text.contains(**wanted)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?} in:\n{text}")) }
}

/// Runs a command that must succeed, and returns what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end.
#[track_caller]
fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run: make test"))
}
