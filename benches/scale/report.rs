//! A row as a table of Markdown, which the documents have too.

use crate::results::{Point, Results};
use crate::work::{Measure, Row};

pub fn row(row: &Row, results: &Results) -> String {
    let mut text = format!("\n{}: medians of {} round(s) (least-greatest)\n\n", row.title, results.rounds);
    let several = results.points.iter().any(|point| point.subject != results.points[0].subject);
    let heads = row.measures.iter().map(|measure| measure.title);
    let subject = if several { "| " } else { "" };
    text += &format!("| {} {subject}| {} |\n", row.axis, heads.collect::<Vec<_>>().join(" | "));
    text += &format!("|{}\n", "---|".repeat(1 + usize::from(several) + row.measures.len()));
    for at in row.points {
        for point in results.points.iter().filter(|point| point.at == *at) {
            let name = if several { format!("| {} ", point.subject) } else { String::new() };
            let cells: Vec<_> = row.measures.iter().map(|measure| cell(point, measure)).collect();
            text += &format!("| {} {name}| {} |\n", (row.name)(*at), cells.join(" | "));
        }
    }
    if results.thrown_away > 0 {
        text += &format!("{} measurement(s) thrown away: others used the machine\n", results.thrown_away);
    }
    if results.disturbed > 0 {
        text += &format!("DISTURBED: others used the machine during {} of these\n", results.disturbed);
    }
    text
}

fn cell(point: &Point, measure: &Measure) -> String {
    let digits = measure.decimals;
    let show = |value: f64| format!("{value:.digits$}");
    match point.summary(measure.key) {
        None => String::new(),
        Some(of) if show(of.least) == show(of.greatest) => show(of.median),
        Some(of) => format!("{} ({}-{})", show(of.median), show(of.least), show(of.greatest)),
    }
}
