//! Everything that was measured, as JSON.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::options::Scale;
use crate::peers::Subject;
use crate::results::{Results, Series};
use crate::targets::verdicts;

pub fn document(machine: &Machine, scale: &Scale, subjects: &[Subject], all: &[Results]) -> Value {
    let subject = |subject: &Subject| json!({ "name": subject.name, "title": subject.title(), "version": subject.version() });
    json!({
        "machine": machine,
        "gigabytes": scale.gigabytes,
        "subjects": subjects.iter().map(subject).collect::<Vec<_>>(),
        "rows": all.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row(results: &Results) -> Value {
    let verdict = |verdict: crate::targets::Verdict| {
        json!({
            "measure": verdict.measure, "against": verdict.against, "value": verdict.value,
            "asked": verdict.asked, "met": verdict.met,
        })
    };
    let beside = results.of("replgate").zip(results.of("beside")).map(|(own, other)| {
        let ratios = results.row.measures.iter().enumerate();
        ratios.map(|(at, measure)| (measure.key.to_owned(), json!(own.ratio(other, at)))).collect::<Value>()
    });
    json!({
        "row": results.row.key,
        "title": results.title,
        "thrown_away": results.thrown_away,
        "disturbed": results.disturbed,
        "subjects": results.subjects.iter().map(|series| subject(results, series)).collect::<Vec<_>>(),
        "targets": verdicts(results).into_iter().map(verdict).collect::<Vec<_>>(),
        "replgate_to_beside": beside,
    })
}

fn subject(results: &Results, series: &Series) -> Value {
    let measure = |(at, measure): (usize, &crate::work::Measure)| {
        let summary = series.summary(at)?;
        let value = json!({
            "unit": measure.unit, "median": summary.median, "least": summary.least,
            "greatest": summary.greatest, "samples": series.values(at),
        });
        Some((measure.key.to_owned(), value))
    };
    let measures: Value = results.row.measures.iter().enumerate().filter_map(measure).collect();
    json!({ "name": series.subject.name, "measures": measures })
}
