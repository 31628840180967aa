//! The files that `include` names.
//!
//! A pattern is one of the shell, without `**`, which could search a whole disk. A file counts once,
//! however many patterns match it. Whatever cannot be read is a fault at the pattern: a config
//! without one of its files would be another config.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use glob::MatchOptions;

use super::LARGEST;
use super::faults::{Place, Source, name};
use super::file::{At, Files};
use crate::sandbox;

/// Most patterns.
const MOST_PATTERNS: usize = 64;

/// Most files.
const MOST_FILES: usize = 1000;

/// Most bytes of all included files.
const MOST_BYTES: usize = 16 << 20;

/// As a shell does: `*` matches neither a hidden file, such as the lock of an editor, nor a folder's
/// separator.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The patterns of the first file; none if they are not valid.
pub(super) fn patterns(files: &Files<'_>) -> Vec<At<String>> {
    let roots = files.roots();
    let Some(patterns) = roots[0].items("include", pattern) else { return Vec::new() };
    if patterns.value.len() > MOST_PATTERNS {
        let text = format!("include: there are more than {MOST_PATTERNS} patterns; one may match many files");
        files.fault(patterns.place, text);
        return Vec::new();
    }
    patterns.value
}

fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty path".to_owned());
    }
    if text.contains("**") {
        return Err(format!(
            "{text:?}: `**` would search every folder below; name the folders, as in \"sites/*/*.toml\""
        ));
    }
    // A folder's separator ends a part of a pattern, also within brackets.
    text.split('/').try_for_each(|part| glob::Pattern::new(part).map(drop)).map(|()| text.to_owned()).map_err(
        |error| format!("{text:?} is not a pattern: {}; write one like \"conf.d/*.toml\"", error.msg),
    )
}

fn is_wild(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// What the patterns have found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The patterns that match no file.
    pub(super) unmatched: Vec<At<String>>,
    /// Folders from which a new file would be included.
    pub(super) folders: Vec<PathBuf>,
}

/// Reads the files that the patterns match, in the order of their names.
pub(super) fn read(files: &Files<'_>) -> (Vec<Source>, Found) {
    let mut found = Found::default();
    let mut sources = Vec::new();
    let mut bytes = 0;
    for (path, place) in find(files, &mut found) {
        match crate::file::read_text(&path, LARGEST) {
            Ok(text) => {
                bytes += text.len();
                if bytes > MOST_BYTES {
                    let text = format!(
                        "include: the files are larger than {MOST_BYTES} bytes in all, the most that is read"
                    );
                    files.fault(place, text);
                    break;
                }
                sources.push(Source::new(path, text));
            }
            Err(error) => {
                let next = match error.kind() {
                    std::io::ErrorKind::NotFound => "create it, or leave it out",
                    std::io::ErrorKind::PermissionDenied => "let the gateway's user read it",
                    _ if path.is_dir() => "write \"FOLDER/*.toml\" for the files in it",
                    _ => "correct it, or leave it out",
                };
                files.fault(place, format!("include: {} cannot be read: {error}; {next}", name(&path)));
            }
        }
    }
    (sources, found)
}

/// The paths of the files, each with the place of the pattern that names it.
fn find(files: &Files<'_>, found: &mut Found) -> BTreeMap<PathBuf, Place> {
    let main = files.path();
    let folder = main.parent().unwrap_or(Path::new(""));
    let mut paths = BTreeMap::new();
    let itself = |pattern: &str, place| {
        files.fault(
            place,
            format!("include: {pattern:?} matches {} itself; give the other files a folder of their own, as in \"conf.d/*.toml\"", name(main)),
        );
    };
    for At { value: pattern, place } in &patterns(files) {
        if !is_wild(pattern) {
            let path = folder.join(pattern);
            if is_same(&path, main) {
                itself(pattern, *place);
            } else {
                paths.entry(path).or_insert(*place);
            }
            continue;
        }
        let before = Path::new(pattern).iter().take_while(|part| !is_wild(&part.to_string_lossy()));
        let start = folder.join(before.collect::<PathBuf>());
        let start = if start == Path::new("") { ".".into() } else { start };
        let outside = sandbox::outside(&start);
        found.folders.push(start);
        if let Some(outside) = outside {
            files.fault(*place, format!("include: {pattern:?}: {}", sandbox::words(&outside)));
            continue;
        }
        let Some(start) = folder.to_str().map(glob::Pattern::escape) else {
            files.fault(
                *place,
                format!(
                    "include: the name of the folder {} is not UTF-8, so no pattern can be used here",
                    name(folder)
                ),
            );
            continue;
        };
        let whole = Path::new(&start).join(pattern);
        let matches = match glob::glob_with(&whole.to_string_lossy(), MATCHING) {
            Ok(matches) => matches,
            Err(error) => {
                files.fault(*place, format!("include: {pattern:?}: {error}"));
                continue;
            }
        };
        let mut count = 0;
        for path in matches.take(MOST_FILES + 1) {
            count += 1;
            match path {
                Ok(path) if is_same(&path, main) => itself(pattern, *place),
                Ok(path) => {
                    paths.entry(path).or_insert(*place);
                }
                Err(error) => {
                    let why = match sandbox::outside(error.path()) {
                        Some(folder) => sandbox::words(&folder),
                        None => format!("{}; let the gateway's user read it", error.error()),
                    };
                    files.fault(*place, format!("include: {} cannot be read: {why}", name(error.path())));
                }
            }
        }
        if count == 0 {
            found.unmatched.push(At { value: pattern.clone(), place: *place });
        }
        if paths.len() > MOST_FILES {
            files.fault(
                *place,
                format!("include: there are more than {MOST_FILES} files, the most that are read"),
            );
            return BTreeMap::new();
        }
    }
    paths
}

/// Whether both paths lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    id(one).is_some_and(|file| Some(file) == id(other))
}
