//! Throughput and lag of the last ten minutes, drawn as lines.
//!
//! The lines are SVG that stretches with the page; the words of the axes stand beside it as text, so
//! that they are readable at any width. Every value that matters is also in the caption.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::registry::{Point, SAMPLE_EVERY, SPAN};
use crate::words;

/// Height of a drawing in its own units. Its width is one unit a second.
const HEIGHT: f64 = 100.0;

/// A line of a drawing.
struct Line {
    /// What it shows.
    what: &'static str,
    /// Its class, which says how it looks.
    class: &'static str,
    values: Vec<(f64, Option<f64>)>,
}

impl Line {
    fn new(what: &'static str, class: &'static str, points: &[Point], of: fn(&Point) -> Option<f64>) -> Self {
        Self { what, class, values: points.iter().map(|point| (point.age, of(point))).collect() }
    }

    fn now(&self) -> Option<f64> {
        self.values.last().and_then(|(_, value)| *value)
    }

    fn greatest(&self) -> Option<f64> {
        self.values.iter().filter_map(|(_, value)| *value).reduce(f64::max)
    }

    /// The path of the line. Where nothing is known it has a gap.
    fn path(&self, top: f64) -> String {
        let (mut path, mut before) = (String::new(), None);
        for (age, value) in &self.values {
            let Some(value) = value else {
                before = None;
                continue;
            };
            let (x, y) = (SPAN.as_secs_f64() - age, HEIGHT - (value / top).min(1.0) * HEIGHT);
            let goes_on = before.is_some_and(|before| before - age < 3.0 * SAMPLE_EVERY.as_secs_f64());
            // A point alone is a line without length, which its round ends make visible.
            let _ = if goes_on { write!(path, "L{x:.0} {y:.1}") } else { write!(path, "M{x:.0} {y:.1}h0") };
            before = Some(*age);
        }
        path
    }
}

/// The bytes a second to replicas and to masters.
pub(super) fn throughput(of: &str, points: &[Point]) -> Markup {
    let lines = [
        Line::new("to replicas", "first", points, |point| point.to_replicas),
        Line::new("to masters", "second", points, |point| point.to_masters),
    ];
    drawing("Throughput", of, &lines, ceiling_of_bytes, words::rate, None)
}

/// The greatest lag of a replica.
pub(super) fn lag(of: &str, points: &[Point]) -> Markup {
    let lines = [Line::new("greatest lag", "first", points, |point| point.lag_seconds)];
    let bytes = Line::new("", "", points, |point| point.lag_bytes);
    let more = bytes.greatest().map(|greatest| {
        let now = bytes.now().map_or_else(|| "not known".to_owned(), words::size);
        format!("in bytes: now {now}, greatest {}", words::size(greatest))
    });
    drawing("Lag", of, &lines, ceiling_of_seconds, words::span, more.as_deref())
}

fn drawing(
    title: &str,
    of: &str,
    lines: &[Line],
    ceiling: fn(f64) -> f64,
    shown: fn(f64) -> String,
    more: Option<&str>,
) -> Markup {
    let greatest = lines.iter().filter_map(Line::greatest).reduce(f64::max);
    let top = ceiling(greatest.unwrap_or(0.0));
    let told: Vec<(&Line, String)> = lines.iter().map(|line| (line, told(line, shown))).collect();
    let words: Vec<String> = told.iter().map(|(line, told)| format!("{} {told}", line.what)).collect();
    let whole = format!("{title} of {of} in the last ten minutes: {}", words.join("; "));
    html! {
        figure.drawing {
            figcaption {
                span.what { (title) " of " (of) }
                @for (line, told) in &told {
                    span.series {
                        svg.key.(line.class) viewBox="0 0 24 8" aria-hidden="true" { path d="M1 4H23" {} }
                        (line.what) " " span.number { (told) }
                    }
                }
                @if let Some(more) = more { span.series { span.number { (more) } } }
            }
            div.plot {
                div.y { @for part in [1.0, 0.5, 0.0] { span { (shown(top * part).replace(".0 ", " ")) } } }
                svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" {
                    title { (whole) }
                    path.grid d="M0 0H600M0 50H600M0 100H600M0 0V100M300 0V100M600 0V100" {}
                    @if let Some(line) = lines.first() { path.area d=(area(&line.path(top))) {} }
                    @for line in lines.iter().rev() { path.line.(line.class) d=(line.path(top)) {} }
                }
                div.x { span { "10 minutes ago" } span { "5 minutes" } span { "now" } }
            }
            @if greatest.is_none() { p.none { "Nothing is known yet." } }
        }
    }
}

/// The current and the greatest value of a line in words.
fn told(line: &Line, shown: fn(f64) -> String) -> String {
    match (line.now(), line.greatest()) {
        (_, None) => "not known".to_owned(),
        (now, Some(greatest)) => {
            let now = now.map_or_else(|| "not known".to_owned(), shown);
            format!("now {now}, greatest {}", shown(greatest))
        }
    }
}

/// The area below a line, each of its parts closed at the bottom.
fn area(path: &str) -> String {
    let mut area = String::new();
    for part in path.split('M').filter(|part| !part.is_empty()) {
        let x = |corner: &str| corner.split(' ').next().unwrap_or("0").to_owned();
        let (first, last) = (x(part), x(part.rsplit('L').next().unwrap_or(part)));
        let _ = write!(area, "M{part}L{last} {HEIGHT}L{first} {HEIGHT}Z");
    }
    area
}

/// The top of an axis of bytes: 1, 2 or 5 of a unit, or ten or a hundred times that, and no less than 1 kB.
fn ceiling_of_bytes(greatest: f64) -> f64 {
    let mut unit = 1000.0;
    while greatest > 500.0 * unit {
        unit *= 1000.0;
    }
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
    steps.into_iter().map(|step| step * unit).find(|top| *top >= greatest).unwrap_or(greatest)
}

/// The top of an axis of seconds, no less than one.
fn ceiling_of_seconds(greatest: f64) -> f64 {
    let steps = [1.0, 2.0, 4.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 600.0, 1200.0, 3600.0];
    let hours = (greatest / 7200.0).ceil() * 7200.0;
    steps.into_iter().find(|top| *top >= greatest).unwrap_or(hours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[Option<f64>]) -> Vec<Point> {
        let age = |at: usize| (values.len() - 1 - at) as f64 * 5.0;
        let point = |(at, value): (usize, &Option<f64>)| Point {
            age: age(at),
            to_replicas: *value,
            to_masters: value.map(|value| value / 100.0),
            lag_seconds: *value,
            lag_bytes: value.map(|value| value * 10.0),
        };
        values.iter().enumerate().map(point).collect()
    }

    #[test]
    fn a_line_goes_from_left_to_right_and_has_a_gap_where_nothing_is_known() {
        let points = points(&[Some(0.0), Some(5.0), None, Some(10.0)]);
        let line = Line::new("", "", &points, |point| point.lag_seconds);
        assert_eq!(line.path(10.0), "M585 100.0h0L590 50.0M600 0.0h0");
        assert_eq!(
            area(&line.path(10.0)),
            "M585 100.0h0L590 50.0L590 100L585 100ZM600 0.0h0L600 100L600 100Z"
        );
        // The process was stopped for a minute.
        let stopped = [Point { age: 60.0, ..points[0] }, Point { age: 0.0, ..points[1] }];
        assert_eq!(
            Line::new("", "", &stopped, |point| point.lag_seconds).path(10.0),
            "M540 100.0h0M600 50.0h0"
        );
    }

    #[test]
    fn the_words_have_the_value_now_and_the_greatest() {
        let text = lag("all", &points(&[Some(3.0), Some(12.0), Some(0.5)])).into_string();
        for words in [
            "<title>Lag of all in the last ten minutes: greatest lag now 0.5 s, greatest 12 s</title>",
            "in bytes: now 5 B, greatest 120 B",
            r#"role="img""#,
            "<span>20 s</span><span>10 s</span><span>0 s</span>",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let gone = throughput("orders", &points(&[Some(2048.0), None])).into_string();
        assert!(gone.contains("to replicas now not known, greatest 2.0 kB/s"), "{gone}");
        let empty = throughput("orders", &[]).into_string();
        assert!(empty.contains("Nothing is known yet") && empty.contains("to replicas not known"), "{empty}");
    }

    #[test]
    fn an_axis_ends_at_a_round_value_above_all_others() {
        let of = [0.0, 1000.0, 1001.0, 5e5, 5.01e5, 3e6, 7e9].map(ceiling_of_bytes);
        let shown = of.map(words::size);
        assert_eq!(shown, ["1.0 kB", "1.0 kB", "2.0 kB", "500 kB", "1.0 MB", "5.0 MB", "10 GB"]);
        assert_eq!([0.2, 3.0, 30.0, 45.0, 8000.0].map(ceiling_of_seconds), [1.0, 4.0, 40.0, 60.0, 14_400.0]);
    }
}
