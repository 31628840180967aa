//! Terminal sessions in documents: their commands are run, and the output that they show is
//! compared with the actual output.
//!
//! A session is a fenced block marked `console`: a line `$ …` is a command, lines
//! `> …` after it continue it, and the rest is its output. A line `...` stands for any
//! number of lines. Values that differ in each run (offsets, identities, times) are not compared.
//! A block whose mark is followed by a name, as in `toml dc1/gateway.toml`, is that file.

use std::path::Path;

/// One command of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The number of its line in the document, from 1.
    pub line: usize,
    pub command: String,
    pub output: Vec<String>,
}

/// The commands of a document, or of its section under `heading`, in order.
pub fn steps(document: &Path, heading: Option<&str>) -> Vec<Step> {
    let text =
        std::fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut wanted) = (false, heading.is_none());
    let mut file: Option<Step> = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(step) = &mut file {
            match line {
                "```" => {
                    step.command.push_str("END-OF-FILE");
                    steps.extend(file.take());
                }
                _ => step.command += &format!("{line}\n"),
            }
            continue;
        }
        if let (true, Some((_, name))) = (wanted && line.starts_with("```"), line.split_once(' ')) {
            let command = format!("cat > {name} <<'END-OF-FILE'\n");
            file = Some(Step { line: number + 1, command, output: Vec::new() });
            continue;
        }
        match line {
            "```console" => inside = wanted,
            "```" => inside = false,
            _ if !inside => {
                if let (true, Some(heading)) = (line.starts_with("## "), heading) {
                    wanted = line == heading;
                }
            }
            _ => {
                if let Some(command) = line.strip_prefix("$ ") {
                    let (command, output) = (command.to_owned(), Vec::new());
                    steps.push(Step { line: number + 1, command, output });
                    continue;
                }
                let step = steps.last_mut().expect("a session begins with a command");
                match line.strip_prefix("> ").or((line == ">").then_some("")) {
                    Some(more) if step.output.is_empty() => {
                        step.command.push('\n');
                        step.command.push_str(more);
                    }
                    _ => step.output.push(line.to_owned()),
                }
            }
        }
    }
    assert!(!steps.is_empty(), "{} has no sessions to run", document.display());
    steps
}

/// Whether `actual` matches what a document shows.
pub fn matches(shown: &[String], actual: &str) -> bool {
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
const CHANGING: [&str; 10] = [
    "offset=",
    "offset:",
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
            let long = key.ends_with(' ');
            let end = line[start..]
                .find(|c: char| !long && (c == ',' || c.is_whitespace()))
                .map_or(line.len(), |length| start + length);
            line.replace_range(start..end, "*");
            from = start + 1;
        }
    }
    line
}
