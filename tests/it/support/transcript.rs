//! Terminal sessions in documents: their commands are run, and the output that they show is
//! compared with the actual output.
//!
//! A session is a fenced block marked `console`: a line `$ …` is a command, lines
//! `> …` after it continue it, and the rest is its output. `dc1# …` is a command that root runs on
//! the host dc1. `# exits 2` after a command is the exit code that it must have; its errors are then
//! part of the output. A line `...` stands for any number of lines. Values that differ in each run (offsets, identities, times) are not compared.
//! A block whose mark is followed by a name, as in `toml dc1/gateway.toml`, is that file.

use std::path::Path;
use std::process::Output;

/// The sections of docs/operations.md that tests/containers runs, in this order, on hosts that
/// systemd has booted.
pub const ON_BOOTED_HOSTS: [&str; 10] = [
    "## Install",
    "## Two sites",
    "## Changes while it runs",
    "## Renewal, rollover, revocation",
    "## Upgrade",
    "## Backup of the setup",
    "### The host of a gateway is lost",
    "### The machine with the CA is lost",
    "### There is no backup of the CA",
    "## Uninstall",
];

/// One command of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The number of its line in the document, from 1.
    pub line: usize,
    /// The host on which root runs it, if the document says which.
    pub host: Option<String>,
    pub command: String,
    pub output: Vec<String>,
}

impl Step {
    /// Whether a run of the command did what the document shows. `here` puts what stands for a value
    /// of the document in its place.
    pub fn is_shown(&self, seen: &Output, here: impl Fn(&str) -> String) -> bool {
        let wanted =
            self.command.rsplit_once("# exits ").map_or(0, |(_, code)| code.parse().expect("a code"));
        let shown: Vec<String> = self.output.iter().map(|line| here(line)).collect();
        let mut said = String::from_utf8_lossy(&seen.stdout).into_owned();
        if wanted != 0 {
            said += &String::from_utf8_lossy(&seen.stderr);
        }
        seen.status.code() == Some(wanted) && matches(&shown, &said.replace('\r', ""))
    }

    /// Whether the command only reads, so that it can be repeated until the answer is as expected.
    pub fn only_asks(&self) -> bool {
        [
            "INFO ",
            " GET ",
            " EXISTS ",
            " DBSIZE",
            " PING",
            "grep ",
            "curl ",
            "journalctl ",
            "replgate status",
            "replgate check",
            "replgate events",
        ]
        .iter()
        .any(|word| self.command.contains(word))
    }
}

/// Where a line of a document is.
enum Place {
    Prose,
    Session,
    File(Step),
    /// A block that is only to be read.
    Picture,
}

/// The commands of a document, or of its section under `heading` with all parts of it, in order.
pub fn steps(document: &Path, heading: Option<&str>) -> Vec<Step> {
    let text =
        std::fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
    let steps = steps_of(&text, heading);
    assert!(!steps.is_empty(), "{} has no sessions to run ({heading:?})", document.display());
    steps
}

fn steps_of(text: &str, heading: Option<&str>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut place, mut wanted) = (Place::Prose, heading.is_none());
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        place = match (place, line.strip_prefix("```")) {
            (Place::Prose, Some("console")) if wanted => Place::Session,
            (Place::Prose, Some(mark)) => match mark.split_once(' ') {
                Some((_, name)) if wanted => {
                    let command = format!("cat > {name} <<'END-OF-FILE'\n");
                    Place::File(Step { line: line_number, host: None, command, output: Vec::new() })
                }
                _ => Place::Picture,
            },
            (Place::Prose, None) => {
                if let Some(heading) = heading.filter(|heading| level(line) <= level(heading)) {
                    wanted = line == heading;
                }
                Place::Prose
            }
            (Place::File(mut step), Some("")) => {
                step.command.push_str("END-OF-FILE");
                steps.push(step);
                Place::Prose
            }
            (_, Some("")) => Place::Prose,
            (Place::File(mut step), _) => {
                step.command += &format!("{line}\n");
                Place::File(step)
            }
            (Place::Session, _) => {
                if let Some((host, command)) = prompt(line) {
                    let (host, command) = (host.map(str::to_owned), command.to_owned());
                    steps.push(Step { line: line_number, host, command, output: Vec::new() });
                } else {
                    let step = steps.last_mut().expect("a session begins with a command");
                    match line.strip_prefix("> ").or((line == ">").then_some("")) {
                        Some(more) if step.output.is_empty() => {
                            step.command.push('\n');
                            step.command.push_str(more);
                        }
                        _ => step.output.push(line.to_owned()),
                    }
                }
                Place::Session
            }
            (Place::Picture, _) => Place::Picture,
        };
    }
    steps
}

/// How deep a heading is; very deep for any other line.
fn level(line: &str) -> usize {
    let marks = line.bytes().take_while(|byte| *byte == b'#').count();
    if marks > 0 && line[marks..].starts_with(' ') { marks } else { usize::MAX }
}

/// The host and the command of a line that begins with a prompt.
fn prompt(line: &str) -> Option<(Option<&str>, &str)> {
    if let Some(command) = line.strip_prefix("$ ") {
        return Some((None, command));
    }
    let (host, command) = line.split_once("# ")?;
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_host.then_some((Some(host), command))
}

/// Whether `actual` matches what a document shows.
fn matches(shown: &[String], actual: &str) -> bool {
    let actual: Vec<String> = actual.lines().map(steady).collect();
    let shown: Vec<String> = shown.iter().map(|line| steady(line)).collect();
    lines_match(&shown, &actual)
}

fn lines_match(shown: &[String], actual: &[String]) -> bool {
    match shown.split_first() {
        None => actual.iter().all(String::is_empty),
        Some((first, rest)) if first == "..." => {
            (0..=actual.len()).any(|at| lines_match(rest, &actual[at..]))
        }
        Some((first, rest)) => actual.first() == Some(first) && lines_match(rest, &actual[1..]),
    }
}

/// The values after these differ in each run.
const CHANGING: [&str; 14] = [
    "offset=",
    "offset:",
    "offset ",
    "history ",
    "followed (",
    "last ",
    "lag=",
    "replid:",
    "replid2:",
    "seconds_ago:",
    "last_io:",
    "serial       ",
    "sha256       ",
    "expires      ",
];

/// The line without the values that differ from run to run.
fn steady(line: &str) -> String {
    let mut line = line.trim_end().to_owned();
    for key in CHANGING {
        let mut from = 0;
        while let Some(at) = line[from..].find(key) {
            let start = from + at + key.len();
            let long = key.ends_with("  ");
            let end = line[start..]
                .find(|c: char| !long && (c == ',' || c.is_whitespace()))
                .map_or(line.len(), |length| start + length);
            line.replace_range(start..end, "*");
            from = start + 1;
        }
    }
    line
}
