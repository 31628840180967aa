//! The CPU time of a full sync and of a write stream, as a chart for light and dark pages.

use std::fmt::Write;

use crate::machine::Machine;
use crate::peers::Subject;
use crate::results::Results;

const WIDTH: f64 = 760.0;
/// Where bars begin, and the room that the longest may take.
const LEFT: f64 = 130.0;
const ROOM: f64 = 520.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
/// Characters of small print in a line.
const SMALL_PRINT: usize = 115;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328;font-size:13px}\
.title{font-size:14px;font-weight:600}.small{font-size:11px;fill:#59636e}\
.own{fill:#0969da}.other{fill:#8c959f}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.own{fill:#4493f8}.other{fill:#656c76}}";

/// Draws those of the two rows that were measured.
pub fn chart(machine: &Machine, subjects: &[Subject], all: &[Results]) -> String {
    let mut body = String::new();
    let mut y = 24.0;
    text(
        &mut body,
        0.0,
        y,
        "title",
        "start",
        "CPU-seconds per GB, both ends of the tunnel together (less is better)",
    );
    y += 28.0;
    for results in all.iter().filter(|results| ["sync", "stream"].contains(&results.row.key)) {
        text(&mut body, 0.0, y, "title", "start", &results.title);
        y += 12.0;
        let cpu = results.measure("cpu").unwrap_or_default();
        let bars: Vec<_> = results
            .subjects
            .iter()
            .filter_map(|series| Some((&series.subject, series.summary(cpu)?.median)))
            .collect();
        let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (subject, value) in bars {
            let (length, middle) = (value / longest * ROOM, y + BAR / 2.0 + 4.5);
            let class = if subject.is_replgate() { "own" } else { "other" };
            let _ = writeln!(
                body,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>"
            );
            text(&mut body, LEFT - 8.0, middle, "", "end", label(subject));
            text(&mut body, LEFT + length + 8.0, middle, "", "start", &format!("{value:.2}"));
            y += STEP;
        }
        y += 24.0;
    }
    let mut versions: Vec<String> =
        subjects.iter().filter_map(Subject::version).map(|version| version.trim().to_owned()).collect();
    versions.dedup();
    let print = format!("Medians of interleaved rounds. {}. {}.", machine.line(), versions.join(", "));
    for line in wrap(&print) {
        text(&mut body, 0.0, y, "small", "start", &line);
        y += 15.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         role=\"img\">\n<title>CPU time of replgate and of other tunnels</title>\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn label(subject: &Subject) -> &'static str {
    match subject.name {
        "lanes" => "replgate, 4 lanes",
        "zstd" => "replgate, zstd",
        "beside" => "replgate, other",
        name => name,
    }
}

fn text(body: &mut String, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

/// Lines of small print.
fn wrap(words: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let last = lines.last_mut().expect("there is a line");
        if !last.is_empty() && last.len() + word.len() >= SMALL_PRINT {
            lines.push(word.to_owned());
        } else {
            let space = if last.is_empty() { "" } else { " " };
            *last += &format!("{space}{word}");
        }
    }
    lines
}
