//! The config files as written: tables whose values remember their place in their file.
//!
//! Reading does not stop at the first fault. Each value is looked up by its key, and a key that was
//! never looked up is reported as unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::{Fault, Faults, Place, Source, name};

/// The files of a config while they are read: first the one that was named, then those that it
/// includes.
#[derive(Debug, Default)]
pub struct Files<'i> {
    files: Vec<File<'i>>,
    faults: RefCell<Vec<Fault>>,
}

/// One parsed file.
#[derive(Debug)]
struct File<'i> {
    source: &'i Source,
    root: Spanned<DeTable<'i>>,
}

impl<'i> Files<'i> {
    /// Parses further files; faults of the TOML syntax are kept with the others.
    pub fn add(&mut self, sources: &'i [Source]) {
        for source in sources {
            let (root, errors) = DeTable::parse_recoverable(&source.text);
            let file = self.files.len();
            self.faults.get_mut().extend(errors.iter().map(|error| {
                let at = error.span().map(|span| span.start);
                // Beside `site`, this gateway's own name, TOML takes it for the same key.
                let is_site =
                    at.and_then(|at| source.text.get(..at)).is_some_and(|before| before.ends_with("[["))
                        && error.span().and_then(|span| source.text.get(span)) == Some("site");
                let hint = if is_site { "; another site is written as [[far_site]]" } else { "" };
                let text = error.message().replace('\n', ", ") + hint;
                Fault { place: Place { file, at }, text }
            }));
            self.files.push(File { source, root });
        }
    }

    /// The path of the file that includes the others.
    pub fn path(&self) -> &'i Path {
        &self.files[0].source.path
    }

    /// The paths of the files that are included.
    pub fn included(&self) -> Vec<PathBuf> {
        self.files[1..].iter().map(|file| file.source.path.clone()).collect()
    }

    /// The outermost table of each file.
    pub fn roots(&self) -> Vec<Table<'_, 'i>> {
        let mut roots = Vec::new();
        for (file, parsed) in self.files.iter().enumerate() {
            roots.push(Table {
                files: self,
                table: parsed.root.get_ref(),
                place: Place { file, at: Some(0) },
                name: String::new(),
                asked: RefCell::default(),
            });
        }
        roots
    }

    /// Records a fault at a place.
    pub fn fault(&self, place: Place, text: impl Into<String>) {
        let (mut faults, text) = (self.faults.borrow_mut(), text.into());
        // What several sites of a replica have in common is read for each of them.
        if !faults.iter().any(|fault| fault.place == place && fault.text == text) {
            faults.push(Fault { place, text });
        }
    }

    /// Records a fault of the first file as a whole.
    pub fn fault_whole(&self, text: impl Into<String>) {
        self.fault(Place { file: 0, at: None }, text);
    }

    /// Whether there is no fault so far.
    pub fn is_sound(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// A place in words, for a sentence about another one: `gateway.toml:14:11`.
    pub fn shown(&self, place: Place) -> String {
        self.files[place.file].source.place(place.at)
    }

    /// All faults, in the order of the files; `None` if there are none.
    pub fn finish(self) -> Option<Faults> {
        let sources: Vec<_> = self.files.iter().map(|file| file.source).collect();
        let faults = self.faults.into_inner();
        (!faults.is_empty()).then(|| Faults::of(&sources, faults))
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Place,
}

/// One table of the file.
#[derive(Debug)]
pub struct Table<'a, 'i> {
    files: &'a Files<'i>,
    table: &'a DeTable<'i>,
    /// Where the table starts.
    pub place: Place,
    name: String,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a, 'i> Table<'a, 'i> {
    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.table.get(key)
    }

    /// The place of a part of this table.
    fn at<T>(&self, part: &Spanned<T>) -> Place {
        Place { file: self.place.file, at: Some(part.span().start) }
    }

    /// Records a fault at the table itself.
    pub fn fault(&self, text: impl Into<String>) {
        self.files.fault(self.place, text);
    }

    /// The value of `key` as a string, read by `read`.
    pub fn parsed<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<At<T>> {
        let value = self.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.expected(value, key, "a string in quotes");
            return None;
        };
        match read(text) {
            Ok(read) => Some(At { value: read, place: self.at(value) }),
            Err(text) => {
                self.files.fault(self.at(value), format!("{}{key}: {text}", self.prefix()));
                None
            }
        }
    }

    /// As [`Table::parsed`], for a required key; `hint` is an example value for the fault.
    pub fn required<T>(
        &self,
        key: &str,
        hint: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        if !self.table.contains_key(key) {
            self.fault(format!("{}`{key}` is missing; write {key} = {hint}", self.prefix()));
        }
        self.parsed(key, read)
    }

    /// Whether `key` exists; does not count as a lookup.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key` as a list of strings, each read by `read`; `None` unless all of them are
    /// valid.
    pub fn list<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<At<Vec<T>>> {
        let items = self.items(key, read)?;
        Some(At { value: items.value.into_iter().map(|item| item.value).collect(), place: items.place })
    }

    /// As [`Table::list`], with the place of each string.
    pub fn items<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<At<Vec<At<T>>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.expected(value, key, "a list of strings, as in [\"a\", \"b\"]");
            return None;
        };
        let mut out = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str().map(&read) {
                Some(Ok(read)) => out.push(At { value: read, place: self.at(item) }),
                Some(Err(text)) => {
                    self.files.fault(self.at(item), format!("{}{key}: {text}", self.prefix()));
                }
                None => self.expected(item, key, "a string in quotes"),
            }
        }
        (out.len() == array.len()).then(|| At { value: out, place: self.at(value) })
    }

    /// The value of `key` as a whole number within bounds.
    pub fn number(&self, key: &str, least: u64, most: u64) -> Option<At<u64>> {
        let value = self.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
        match number {
            Some(number) if (least..=most).contains(&number) => {
                Some(At { value: number, place: self.at(value) })
            }
            _ => {
                let found = value.get_ref().as_integer().map_or_else(
                    || "another kind of value".to_owned(),
                    |number| crate::escape::shown(number.as_str().as_bytes()),
                );
                self.files.fault(
                    self.at(value),
                    format!(
                        "{}{key}: expected a whole number from {least} to {most}, found {found}",
                        self.prefix()
                    ),
                );
                None
            }
        }
    }

    /// The value of `key` as true or false.
    pub fn switch(&self, key: &str) -> Option<At<bool>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(on) => Some(At { value: *on, place: self.at(value) }),
            _ => {
                self.expected(value, key, "true or false");
                None
            }
        }
    }

    /// Records a fault at a value.
    pub fn fault_at<T>(&self, at: &At<T>, text: impl Into<String>) {
        self.files.fault(at.place, text);
    }

    /// Records a fault at the value of `key`, or at the table if there is none.
    pub fn fault_of(&self, key: &str, text: impl Into<String>) {
        let place = self.table.get(key).map_or(self.place, |value| self.at(value));
        self.files.fault(place, text);
    }

    /// A sub-table.
    pub fn table(&self, key: &str) -> Option<Table<'a, 'i>> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            let example =
                if self.name.is_empty() { format!("[{key}]") } else { format!("{key} = {{ … }}") };
            self.expected(value, key, &format!("a table, as in {example}"));
            return None;
        };
        Some(Table {
            files: self.files,
            table,
            place: self.at(value),
            name: self.child(key),
            asked: RefCell::default(),
        })
    }

    /// The tables of `[[key]]`.
    pub fn tables(&self, key: &str) -> Vec<Table<'a, 'i>> {
        let expected = [
            format!("a list of tables: write [[{key}]], with two brackets"),
            format!("a table: write [[{key}]]"),
        ];
        self.each_table(key, "name", key, &expected)
    }

    /// The tables of a list in this table; faults name each by the value of `by`. `example` is a list with
    /// one of them.
    pub fn inner_tables(&self, key: &str, by: &str, example: &str) -> Vec<Table<'a, 'i>> {
        let expected = ["a list of tables", "a table"].map(|what| format!("{what}, as in {key} = {example}"));
        self.each_table(key, by, &format!("{} {key}", self.name), &expected)
    }

    fn each_table(&self, key: &str, by: &str, called: &str, expected: &[String; 2]) -> Vec<Table<'a, 'i>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.expected(value, key, &expected[0]);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let name = table
                        .get(by)
                        .and_then(|name| name.get_ref().as_str())
                        .map_or_else(|| called.to_owned(), |name| format!("{called} {name:?}"));
                    tables.push(Table {
                        files: self.files,
                        table,
                        place: self.at(item),
                        name,
                        asked: RefCell::default(),
                    });
                }
                None => self.expected(item, key, &expected[1]),
            }
        }
        tables
    }

    /// Every key, for a table whose keys are names.
    pub fn keys(&self) -> Vec<At<String>> {
        let read = |key: &Spanned<_>| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            At { value: name.to_string(), place: self.at(key) }
        };
        self.table.keys().map(read).collect()
    }

    /// Whether `key` holds a string; does not count as a lookup.
    pub fn is_string(&self, key: &str) -> bool {
        self.text(key).is_some()
    }

    /// The string of `key`; does not count as a lookup.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.table.get(key)?.get_ref().as_str()
    }

    /// The number of items of the list in `key`; `None` if it holds no list. Does not count as a lookup.
    pub fn length(&self, key: &str) -> Option<usize> {
        Some(self.table.get(key)?.get_ref().as_array()?.len())
    }

    /// Counts `key` as looked up, since it is read elsewhere.
    pub fn known(&self, key: &str) {
        self.asked.borrow_mut().insert(key.to_owned());
    }

    /// Records a fault for every key that was not looked up.
    pub fn finish(&self) {
        self.finish_unless(|_| None);
    }

    /// As [`Table::finish`], for the outermost table of an included file: what `main` alone may
    /// hold is told to belong there.
    pub fn finish_included(&self, main: &Self) {
        let asked = main.asked.borrow();
        let path = name(self.files.path());
        self.finish_unless(|key| match key {
            "include" => Some(format!("an included file cannot include others; name them in the `include` of {path}")),
            "site" if !self.is_string(key) => Some("another site is written as [[far_site]]".to_owned()),
            _ => asked.contains(key).then(|| {
                format!(
                    "this belongs in {path}, since an included file holds [[master]], [[replica]] and [[far_site]] alone; move it there"
                )
            }),
        });
    }

    /// Records a fault for every key that was not looked up: what `instead` says, or else that it is
    /// unknown.
    fn finish_unless(&self, instead: impl Fn(&str) -> Option<String>) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name: &str = key.get_ref().as_ref();
            if asked.contains(name) {
                continue;
            }
            if let Some(text) = instead(name) {
                self.files.fault(self.at(key), format!("{}{name}: {text}", self.prefix()));
                continue;
            }
            let hint = match nearest(name, asked.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", asked.iter().cloned().collect::<Vec<_>>().join(", ")),
            };
            let name = crate::escape::shown(name.as_bytes());
            self.files.fault(self.at(key), format!("{}unknown key `{name}`; {hint}", self.prefix()));
        }
    }

    /// Records the fault that `key` holds another kind of value than this.
    pub fn expected_at(&self, key: &str, what: &str) {
        if let Some(value) = self.get(key) {
            self.expected(value, key, what);
        }
    }

    fn expected(&self, value: &Spanned<DeValue<'i>>, key: &str, what: &str) {
        let found = value.get_ref().type_str();
        self.files.fault(self.at(value), format!("{}{key}: expected {what}, found {found}", self.prefix()));
    }

    /// The start of a fault in this table, as in `replica "orders": `.
    pub fn prefix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) }
    }

    fn child(&self, key: &str) -> String {
        if self.name.is_empty() { format!("[{key}]") } else { format!("{} [{key}]", self.name) }
    }
}

/// The name that may be meant by `wrong`, if any is close to it.
pub fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (distance(name, wrong), name))
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The edit distance between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replace = corner + usize::from(left != *right);
            corner = row[j + 1];
            row[j + 1] = replace.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
