//! The findings of `check`, and how they are printed: one line each, or one JSON object.

use serde::Serialize;

use super::codes::{Code, Level, Subject};
use crate::outln::outln;

/// The version of the JSON form. Fields are added without a new one.
const FORMAT: u32 = 1;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    subject: Subject,
    #[serde(serialize_with = "name")]
    pub(super) code: Code,
    /// The thing that it is about: a name of the config, a file, an address.
    what: String,
    /// The finding, in a sentence.
    pub(super) text: String,
    /// What to type; a shell takes it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

fn name<S: serde::Serializer>(code: &Code, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(code.name())
}

impl Finding {
    /// A finding about `what`, with the level and the subject of its code. `text` names `what` itself.
    pub(super) fn new(code: Code, what: impl ToString, text: impl Into<String>) -> Self {
        let (level, subject) = (code.level(), code.subject());
        Self { level, subject, code, what: what.to_string(), text: text.into(), advice: None }
    }

    /// Adds a command that mends it.
    pub(super) fn advise(self, command: impl Into<String>) -> Self {
        Self { advice: Some(command.into()), ..self }
    }

    /// The line without its level.
    fn line(&self) -> String {
        match &self.advice {
            Some(advice) => format!("{}; do: {advice}", self.text),
            None => self.text.clone(),
        }
    }
}

/// Collects the findings. Prints each at once as a line, unless JSON is wanted.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    findings: Vec<Finding>,
}

impl Report {
    /// A report without findings.
    pub(super) fn new(json: bool) -> Self {
        Self { json, findings: Vec::new() }
    }

    /// Adds a finding.
    pub(super) fn add(&mut self, finding: Finding) {
        if !self.json {
            let level = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            outln!("{level}  {}", finding.line());
        }
        self.findings.push(finding);
    }

    /// Adds several.
    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }

    /// Number of findings of a level.
    pub(super) fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// Prints what comes last: the counts, or all of it as JSON. Fails only if there is no JSON of it.
    pub(super) fn end(&self, site: &str, config: &str, healthy: bool) -> serde_json::Result<()> {
        let [ok, warn, fail] = [Level::Ok, Level::Warn, Level::Fail].map(|level| self.count(level));
        if self.json {
            let version = env!("CARGO_PKG_VERSION");
            let (format, findings) = (FORMAT, &self.findings);
            let whole = Whole { format, version, site, config, healthy, ok, warn, fail, findings };
            outln!("{}", serde_json::to_string(&whole)?);
        } else {
            outln!("{ok} ok, {warn} warn, {fail} fail");
        }
        Ok(())
    }
}

/// The JSON object.
#[derive(Serialize)]
struct Whole<'a> {
    format: u32,
    version: &'a str,
    site: &'a str,
    config: &'a str,
    healthy: bool,
    ok: usize,
    warn: usize,
    fail: usize,
    findings: &'a [Finding],
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.:/%@=+,".contains(letter));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn a_shell_takes_a_quoted_word_as_it_was(word in "[ -~]{0,12}") {
            let script = format!("printf %s {}", quoted(&word));
            let said = Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
            prop_assert_eq!(String::from_utf8(said).unwrap(), word);
        }
    }

    #[test]
    fn the_line_ends_with_the_advice() {
        let finding = Finding::new(Code::HoldLong, "orders", "too long");
        assert_eq!(finding.clone().line(), "too long");
        assert_eq!(finding.advise("redis-cli PING").line(), "too long; do: redis-cli PING");
    }
}
