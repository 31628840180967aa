//! Compares the module map in DESIGN.md with the imports in the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules that each module uses.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file, without comments and tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source can be read");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first name after every `prefix` in some code, including those in braces.
fn behind(code: &str, prefix: &str) -> Vec<String> {
    let word = |text: &str| {
        text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect::<String>()
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|letter: char| letter.is_alphanumeric() || "_:".contains(letter)) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.push(word(rest)),
            Some(list) => {
                let (mut depth, mut begins) = (0, true);
                for (at, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ if letter.is_whitespace() => {}
                        _ if depth == 0 && begins => {
                            names.push(word(&list[at..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// The top-level module of a file; `None` for the roots of the crate.
fn module(path: &Path) -> Option<String> {
    let inner = path.strip_prefix(root().join("src")).expect("a source");
    let first = inner.iter().next().and_then(|first| first.to_str()).expect("a name");
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

/// Whether a file is compiled only for tests.
fn is_of_tests(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "simulation.rs")
}

fn imports() -> Arrows {
    let files: Vec<_> = sources(&root().join("src")).into_iter().filter(|path| !is_of_tests(path)).collect();
    let modules: BTreeSet<String> = files.iter().filter_map(|path| module(path)).collect();
    let mut arrows = Arrows::new();
    for path in files {
        let Some(from) = module(&path) else { continue };
        let code = code(&path);
        let mut used = behind(&code, "crate::");
        if path.parent() == Some(&root().join("src")) {
            used.extend(behind(&code, "super::"));
        }
        let others = used.into_iter().filter(|to| modules.contains(to) && *to != from);
        arrows.entry(from.clone()).or_default().extend(others);
    }
    arrows
}

/// The map in DESIGN.md: a line `from → to to …` for each module.
fn map() -> Arrows {
    let text = std::fs::read_to_string(root().join("DESIGN.md")).expect("DESIGN.md is there");
    let (_, section) = text.split_once("### Which module may use which\n").expect("the section is there");
    let section = section.split("\n##").next().expect("a section");
    let lines = section.lines().filter_map(|line| line.strip_prefix("    ")?.split_once('→'));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    lines.map(|(from, to)| (from.trim().to_owned(), words(to))).collect()
}

/// A chain of imports that leads from a module back to itself.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(arrows: &Arrows, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let at = way.last().expect("it begins somewhere").clone();
        for next in arrows.get(&at).into_iter().flatten() {
            if let Some(begin) = way.iter().position(|before| before == next) {
                way.drain(..begin);
                way.push(next.clone());
                return true;
            }
            if !done.contains(next) {
                way.push(next.clone());
                if walk(arrows, way, done) {
                    return true;
                }
                way.pop();
            }
        }
        done.insert(at);
        false
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|from| {
        let mut way = vec![from.clone()];
        walk(arrows, &mut way, &mut done).then_some(way)
    })
}

#[test]
fn modules_use_one_another_only_as_the_map_says() {
    let (imports, map) = (imports(), map());
    let none = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, used) in &imports {
        let allowed = map.get(from).unwrap_or(&none);
        wrong.extend(used.difference(allowed).map(|to| format!("{from} uses {to}: not in the map")));
        wrong.extend(allowed.difference(used).map(|to| format!("{from} does not use {to} any more")));
    }
    wrong.extend(
        map.keys().filter(|from| !imports.contains_key(*from)).map(|from| format!("no module {from}")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(imports.len() > 20 && imports["session"].len() > 10, "the imports were read: {imports:?}");
}

/// The arguments of every macro with this name in some code.
fn calls<'a>(code: &'a str, name: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(name) {
        if code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &code[at + name.len()..];
        let (mut depth, mut quoted, mut escaped) = (1, false, false);
        let end = rest.char_indices().find(|(_, letter)| {
            match letter {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        found.push(&rest[..end.expect("a call ends").0]);
    }
    found
}

#[test]
fn every_line_that_is_logged_at_info_or_above_has_a_kind() {
    let document = std::fs::read_to_string(root().join("docs/logs.md")).expect("it is there");
    let (mut lines, mut without) = (0, Vec::new());
    for path in sources(&root().join("src")).into_iter().filter(|path| !is_of_tests(path)) {
        let text = std::fs::read_to_string(&path).expect("a source can be read");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code: String = code
            .lines()
            .filter(|line| !line.trim().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        let code = code.as_str();
        let own = ["info!(", "warn!(", "error!("].into_iter().flat_map(|name| calls(code, name));
        let of_links = calls(code, "log_link!(").into_iter().filter(|call| {
            let level = call.split(',').next().unwrap_or_default().trim();
            level != "debug" && !call.contains("throttled(")
        });
        for call in own.chain(of_links) {
            lines += 1;
            let named =
                call.split("kind = ").nth(1).map_or("", |rest| rest.split(',').next().unwrap_or_default());
            let literal = named.trim_matches('"');
            // `kind,` is the value of a variable of that name.
            let is_good = match named {
                "" => call.contains("kind,"),
                _ if named.starts_with('"') => document.contains(&format!("| `{literal}` |")),
                _ => named.starts_with("notice::") || named == "code",
            };
            if !is_good {
                without.push(format!(
                    "{}: {}",
                    path.display(),
                    call.split_whitespace().collect::<Vec<_>>().join(" ")
                ));
            }
        }
    }
    assert!(without.is_empty(), "without a `kind` that docs/logs.md lists:\n{}", without.join("\n"));
    assert!(lines > 30, "only {lines} lines were found");
}

#[test]
fn no_imports_form_a_circle() {
    assert_eq!(circle(&imports()), None);
    // The same holds for the files of those modules whose parts can be read separately.
    for folder in ["wire", "link", "tap", "race", "tls", "session/dial", "session/auth", "session/relay"] {
        let folder = root().join("src").join(folder);
        let files: Vec<_> = match folder.is_dir() {
            true => sources(&folder).into_iter().filter(|path| !is_of_tests(path)).collect(),
            false => continue,
        };
        let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
        let names: BTreeSet<String> = files.iter().map(|path| name(path)).collect();
        let mut arrows = Arrows::new();
        for path in &files {
            let own = name(path);
            let used = behind(&code(path), "super::").into_iter();
            let others = used.filter(|to| names.contains(to) && *to != own && own != "mod");
            arrows.entry(own.clone()).or_default().extend(others);
        }
        assert_eq!(circle(&arrows), None, "in {}", folder.display());
    }
}

#[test]
fn a_circle_is_found_and_a_tree_has_none() {
    let arrows = |lines: &[(&str, &[&str])]| -> Arrows {
        lines
            .iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect()
    };
    assert_eq!(circle(&arrows(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    assert!(circle(&arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])])).is_some());
    assert_eq!(
        behind("use crate::{a, b::{c, d}, e};\nlet x = crate::f::g();", "crate::"),
        ["a", "b", "e", "f"]
    );
}
