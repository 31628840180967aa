//! What needs attention, as `health.rs` has judged it: the title, the list, and the mark of each level.

use maud::{Markup, html};

use crate::admin::health::{Finding, Level};
use crate::words::plural;

impl Level {
    /// The class of its elements.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Look => "look",
            Self::Bad => "bad",
        }
    }
}

/// Words as a sentence: with a capital letter, and an end unless they have one.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(char::to_uppercase).into_iter().flatten();
    let end = if words.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{}{}{end}", first.collect::<String>(), letters.as_str())
}

/// The findings in a few words, for the title of the page.
pub(super) fn short(findings: &[Finding]) -> String {
    match findings {
        [] => "all well".to_owned(),
        [one] => one.what.clone(),
        [one, others @ ..] => format!("{}, and {} more", one.what, others.len()),
    }
}

/// How many findings there are of each level, in words; `None` if there are none.
pub(super) fn counts(findings: &[Finding]) -> Option<String> {
    let of = |level| findings.iter().filter(|finding| finding.level == level).count();
    let is = |count| if count == 1 { "is" } else { "are" };
    match (of(Level::Bad), of(Level::Look)) {
        (0, 0) => None,
        (0, look) => Some(format!("{} {} worth a look", plural(look, "thing"), is(look))),
        (bad, 0) => Some(format!("{} {} not well", plural(bad, "thing"), is(bad))),
        (bad, look) => {
            let bad = format!("{} {} not well", plural(bad, "thing"), is(bad));
            Some(format!("{bad}, {look} {} worth a look", is(look)))
        }
    }
}

/// The findings as a list, whole: there are few of them, whatever the number of links.
pub(super) fn list(findings: &[Finding]) -> Markup {
    html! {
        @if !findings.is_empty() {
            ul.findings {
                @for finding in findings {
                    li.(finding.level.class()) {
                        h3 { (mark(finding.level)) (sentence(&finding.what).trim_end_matches('.')) }
                        @for detail in &finding.details { p { (detail) } }
                        p.next { b { "Next: " } (finding.next) }
                    }
                }
            }
        }
    }
}

/// A mark with a shape of its own for each level, and its word for those who do not see it.
pub(super) fn mark(level: Level) -> Markup {
    let (word, outline, inside) = match level {
        Level::Good => ("well", "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Z", "M4.8 8.3l2.2 2.2 4.2-4.6"),
        Level::Busy => ("under way", "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Z", "M8 4.2V8l2.6 1.8"),
        Level::Look => ("worth a look", "M8 1.2L15.4 14.6H.6Z", "M8 6v4M8 12.3v.2"),
        Level::Bad => ("not well", "M5 1h6l4 4v6l-4 4H5l-4-4V5Z", "M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2"),
    };
    html! {
        svg.mark.(level.class()) viewBox="0 0 16 16" role="img" aria-label=(word) {
            path.outline d=(outline) {}
            path.inside d=(inside) {}
        }
    }
}
