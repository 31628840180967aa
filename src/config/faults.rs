//! What is wrong with a config: sentences, each with its place in one of the config's files.

use std::path::{Path, PathBuf};

use crate::escape::shown;

/// The text of one config file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file it came from.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// The text of the file at `path`.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        let ends = memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        Self { path: path.into(), text, lines }
    }

    /// A place as an editor takes it: `gateway.toml:14:11`, or the file's name alone.
    pub(super) fn place(&self, at: Option<usize>) -> String {
        let name = name(&self.path);
        let Some(at) = at.map(|at| at.min(self.text.len())) else { return name };
        let line = self.lines.partition_point(|start| *start <= at);
        let column = self.text[self.lines[line - 1]..at].chars().count() + 1;
        format!("{name}:{line}:{column}")
    }
}

/// A file's name for a line of text. A pattern may have found a file whose name would break the line.
pub(super) fn name(path: &Path) -> String {
    let name = path.to_string_lossy();
    if name.contains(char::is_control) { shown(name.as_bytes()) } else { name.into_owned() }
}

/// A place in the files of a config. Places are in the order of the files, and a file as a whole
/// comes after every place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the file.
    pub(super) file: usize,
    /// The byte offset; `None` for the file as a whole.
    pub(super) at: Option<usize>,
}

impl Place {
    /// How places are sorted.
    pub(super) fn key(self) -> (usize, usize) {
        (self.file, self.at.unwrap_or(usize::MAX))
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where.
    pub(super) place: Place,
    /// What is wrong, and what to write instead.
    pub(super) text: String,
}

/// All faults of a config: one line for each, `gateway.toml:14:11: what is wrong`.
#[derive(Debug)]
pub struct Faults(Vec<String>);

impl Faults {
    /// A fault of a file as a whole.
    pub fn whole(path: &Path, text: &str) -> Self {
        Self(vec![format!("{}: {text}", name(path))])
    }

    /// These faults of these files, in the order of their places.
    pub(super) fn of(sources: &[&Source], mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.place.key());
        faults.dedup();
        let line = |Fault { place, text }: &Fault| format!("{}: {text}", sources[place.file].place(place.at));
        Self(faults.iter().map(line).collect())
    }

    /// Number of faults.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl std::error::Error for Faults {}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
