//! The table, as text.

use crate::machine::Machine;
use crate::peers::Subject;
use crate::results::Results;
use crate::targets::verdicts;

/// The machine and the versions.
pub fn head(machine: &Machine, subjects: &[Subject]) -> String {
    let mut text = format!("{}\n", machine.line());
    for subject in subjects {
        let version = subject.version().unwrap_or_default();
        text += &format!("{:<10} {} ({version})\n", subject.name, subject.title());
    }
    text
}

/// One row: a line for each subject, then the ratios.
pub fn row(results: &Results, rounds: usize) -> String {
    let mut text = format!("\n{}: medians of {rounds} round(s) (least-greatest)\n", results.title);
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(results.row.measures.iter().map(|measure| measure.unit.to_owned()));
    for series in &results.subjects {
        let mut line = vec![series.subject.name.to_owned()];
        line.extend(results.row.measures.iter().enumerate().map(|(at, measure)| {
            let digits = measure.decimals;
            series.summary(at).map_or_else(
                || "-".to_owned(),
                |of| format!("{:.digits$} ({:.digits$}-{:.digits$})", of.median, of.least, of.greatest),
            )
        }));
        lines.push(line);
    }
    text += &columns(&lines);
    for verdict in verdicts(results) {
        let against = verdict.against.map_or_else(String::new, |other| format!(" / {other}"));
        let word = if verdict.met { "met" } else { "MISSED" };
        text += &format!(
            "    replgate{against}, {}: {:.2}, asked {}: {word}\n",
            verdict.measure, verdict.value, verdict.asked
        );
    }
    if let (Some(own), Some(other)) = (results.of("replgate"), results.of("beside")) {
        for (at, measure) in results.row.measures.iter().enumerate() {
            if let Some(ratio) = own.ratio(other, at) {
                text += &format!("    replgate / beside, {}: {ratio:.3} (median of pairs)\n", measure.unit);
            }
        }
    }
    if results.thrown_away > 0 {
        text += &format!("    {} measurement(s) thrown away: others used the machine\n", results.thrown_away);
    }
    if results.disturbed > 0 {
        text += &format!(
            "    DISTURBED: others used the machine during {} of the measurements above\n",
            results.disturbed
        );
    }
    text
}

/// Pads every column to its widest cell.
fn columns(lines: &[Vec<String>]) -> String {
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().enumerate().map(|(at, cell)| {
            let padding = " ".repeat(width(at) - cell.chars().count());
            if at == 0 { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
        });
        text += &format!("    {}\n", cells.collect::<Vec<_>>().join("   "));
    }
    text
}
