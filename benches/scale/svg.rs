//! The curves, as one drawing for light and dark pages.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::results::Document;

const COLUMNS: usize = 3;
/// The room of a panel, and of its curves within.
const PANEL: (f64, f64) = (256.0, 236.0);
const PLOT: (f64, f64) = (200.0, 130.0);
/// Where the curves of a panel begin.
const CORNER: (f64, f64) = (44.0, 36.0);

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328;font-size:11px}\
.title{font-size:13px;font-weight:600}.small{fill:#59636e}\
.grid{stroke:#d1d9e0;stroke-width:1}.curve{fill:none;stroke-width:2}\
.c0{stroke:#0969da}.c1{stroke:#bc4c00}.c2{stroke:#8c959f}.d0{fill:#0969da}.d1{fill:#bc4c00}.d2{fill:#8c959f}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.grid{stroke:#3d444d}\
.c0{stroke:#4493f8}.c1{stroke:#f0883e}.c2{stroke:#656c76}.d0{fill:#4493f8}.d1{fill:#f0883e}.d2{fill:#656c76}}";

/// One set of curves over the same axis.
struct Panel {
    title: &'static str,
    axis: &'static str,
    /// Whether each step of the axis is a factor, not a sum.
    factors: bool,
    /// Row, subject, measure, and what the curve is called.
    curves: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

const PANELS: &[Panel] = &[
    Panel {
        title: "Memory of the pair, MB",
        axis: "links",
        factors: false,
        curves: &[("idle", "replgate", "memory", "idle"), ("acks", "replgate", "memory", "acknowledging")],
    },
    Panel {
        title: "CPU, % of a core",
        axis: "links",
        factors: false,
        curves: &[("idle", "replgate", "cpu", "idle"), ("acks", "replgate", "cpu", "acknowledging")],
    },
    Panel {
        title: "Memory of the pair's ends, MB",
        axis: "masters, a link of each",
        factors: false,
        curves: &[
            ("masters", "replgate", "memory_master", "master's"),
            ("masters", "replgate", "memory_replica", "replica's"),
        ],
    },
    Panel {
        title: "p99 of a write's delay, ms",
        axis: "busy links, 20 MB/s together",
        factors: false,
        curves: &[
            ("busy", "replgate", "slowest", "slowest link"),
            ("busy", "replgate", "late", "median link"),
            ("busy", "none", "slowest", "no tunnel"),
        ],
    },
    Panel {
        title: "CPU-seconds per GB",
        axis: "size of values",
        factors: true,
        curves: &[("values", "replgate", "gigabyte", "replgate"), ("values", "nginx", "gigabyte", "nginx")],
    },
    Panel {
        title: "MB/s",
        axis: "size of values",
        factors: true,
        curves: &[
            ("values", "replgate", "speed", "replgate"),
            ("values", "nginx", "speed", "nginx"),
            ("values", "none", "speed", "no tunnel"),
        ],
    },
];

/// Draws all panels whose rows are there.
pub fn chart(document: &Document) -> String {
    let mut body = String::new();
    let mut count = 0;
    for panel in PANELS {
        let curves: Vec<_> = panel
            .curves
            .iter()
            .filter_map(|(row, subject, measure, name)| {
                let curve = document.row(row)?.curve(subject, measure);
                (!curve.is_empty()).then_some((*name, curve))
            })
            .collect();
        if curves.is_empty() {
            continue;
        }
        let (x, y) = ((count % COLUMNS) as f64 * PANEL.0, (count / COLUMNS) as f64 * PANEL.1);
        let _ = writeln!(body, "<g transform=\"translate({x:.0} {y:.0})\">");
        draw(&mut body, panel, &curves);
        body += "</g>\n";
        count += 1;
    }
    let (width, height) = (PANEL.0 * COLUMNS as f64 + 8.0, count.div_ceil(COLUMNS) as f64 * PANEL.1 + 36.0);
    let versions: BTreeSet<_> = document.versions.values().map(|version| version.trim()).collect();
    let versions = versions.into_iter().collect::<Vec<_>>().join(", ");
    text(&mut body, 0.0, height - 22.0, "small", "start", &format!("Medians. {}.", document.machine.line()));
    text(&mut body, 0.0, height - 6.0, "small", "start", &versions);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>How the cost of replgate grows</title>\n\
         <style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn draw(body: &mut String, panel: &Panel, curves: &[(&str, Vec<(u64, f64)>)]) {
    text(body, 0.0, 16.0, "title", "start", panel.title);
    let all = || curves.iter().flat_map(|(_, curve)| curve.iter().copied());
    let top = round_up(all().map(|(_, value)| value).fold(0.0, f64::max));
    let place = |at: u64| if panel.factors { (at as f64).log2() } else { at as f64 };
    let last = all().map(|(at, _)| place(at)).fold(0.0, f64::max);
    let first = if panel.factors { all().map(|(at, _)| place(at)).fold(last, f64::min) } else { 0.0 };
    let x = |at: u64| CORNER.0 + (place(at) - first) / (last - first).max(f64::MIN_POSITIVE) * PLOT.0;
    let y = |value: f64| CORNER.1 + (1.0 - value / top) * PLOT.1;
    for part in [0.0, 0.5, 1.0] {
        let line = y(top * part);
        let _ = writeln!(
            body,
            "<line class=\"grid\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{line:.1}\" y2=\"{line:.1}\"/>",
            CORNER.0,
            CORNER.0 + PLOT.0
        );
        text(body, CORNER.0 - 6.0, line + 4.0, "small", "end", &short(top * part));
    }
    let bottom = CORNER.1 + PLOT.1;
    let mut free = f64::MIN;
    let mut marks: Vec<u64> = all().map(|(at, _)| at).collect();
    marks.sort_unstable();
    marks.dedup();
    for at in marks {
        // Marks that would touch the one before are left out.
        if x(at) - free > 34.0 {
            text(body, x(at), bottom + 15.0, "small", "middle", &mark(panel, at));
            free = x(at);
        }
    }
    text(body, CORNER.0 + PLOT.0 / 2.0, bottom + 31.0, "small", "middle", panel.axis);
    let mut left = CORNER.0;
    for (number, (name, curve)) in curves.iter().enumerate() {
        let points: Vec<_> =
            curve.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = writeln!(body, "<polyline class=\"curve c{number}\" points=\"{}\"/>", points.join(" "));
        for (at, value) in curve {
            let _ = writeln!(
                body,
                "<circle class=\"d{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                x(*at),
                y(*value)
            );
        }
        let _ = writeln!(
            body,
            "<circle class=\"d{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
            left - 30.0,
            bottom + 45.0
        );
        text(body, left - 22.0, bottom + 49.0, "", "start", name);
        left += 26.0 + name.len() as f64 * 5.6;
    }
}

/// The next round number.
fn round_up(value: f64) -> f64 {
    let tens = 10_f64.powf(value.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|digit| digit * tens)
        .find(|top| *top >= value)
        .unwrap_or(value)
}

fn short(value: f64) -> String {
    if value == value.trunc() {
        format!("{value:.0}")
    } else {
        format!("{value:.2}").trim_end_matches('0').to_owned()
    }
}

fn mark(panel: &Panel, at: u64) -> String {
    match at {
        _ if !panel.factors => at.to_string(),
        0..1024 => format!("{at} B"),
        1024..0x10_0000 => format!("{} K", at >> 10),
        _ => format!("{} M", at >> 20),
    }
}

fn text(body: &mut String, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}
