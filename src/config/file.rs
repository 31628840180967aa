//! The config file as written: tables whose values remember their place in the file.
//!
//! Reading does not stop at the first fault. Each value is looked up by its key, and a key that was
//! never looked up is reported as unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One fault of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a byte offset; `None` for the file as a whole.
    at: Option<usize>,
    /// What is wrong, and what to write instead.
    text: String,
}

/// All faults of a config file.
#[derive(Debug)]
pub struct Faults {
    path: PathBuf,
    source: String,
    faults: Vec<Fault>,
}

impl Faults {
    /// A fault of the file as a whole.
    pub fn whole(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), source: String::new(), faults: vec![Fault { at: None, text }] }
    }

    /// Number of faults.
    pub fn count(&self) -> usize {
        self.faults.len()
    }
}

impl std::error::Error for Faults {}

/// One line for each fault: `gateway.toml:14:11: what is wrong`.
impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.path.display())?;
            if let Some(at) = fault.at {
                let before = &self.source[..at.min(self.source.len())];
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {}", fault.text)?;
        }
        Ok(())
    }
}

/// A config file while it is read.
#[derive(Debug)]
pub struct File<'i> {
    path: &'i Path,
    source: &'i str,
    root: Spanned<DeTable<'i>>,
    faults: RefCell<Vec<Fault>>,
}

impl<'i> File<'i> {
    /// Parses `source`; faults of the TOML syntax are kept with the others.
    pub fn parse(path: &'i Path, source: &'i str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(source);
        let faults = errors
            .iter()
            .map(|error| Fault {
                at: error.span().map(|span| span.start),
                text: error.message().replace('\n', ", "),
            })
            .collect();
        Self { path, source, root, faults: RefCell::new(faults) }
    }

    /// The outermost table.
    pub fn root(&self) -> Table<'_, 'i> {
        Table {
            file: self,
            table: self.root.get_ref(),
            span: 0..0,
            name: String::new(),
            asked: RefCell::default(),
        }
    }

    /// Records a fault at a place of the file.
    pub fn fault(&self, span: &Range<usize>, text: impl Into<String>) {
        self.faults.borrow_mut().push(Fault { at: Some(span.start), text: text.into() });
    }

    /// Records a fault of the file as a whole.
    pub fn fault_whole(&self, text: impl Into<String>) {
        self.faults.borrow_mut().push(Fault { at: None, text: text.into() });
    }

    /// All faults, in the order of the file; `None` if there are none.
    pub fn finish(self) -> Option<Faults> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| fault.at.unwrap_or(usize::MAX));
        faults.dedup();
        (!faults.is_empty()).then(|| Faults {
            path: self.path.to_owned(),
            source: self.source.to_owned(),
            faults,
        })
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place in the file.
    pub span: Range<usize>,
}

/// One table of the file.
#[derive(Debug)]
pub struct Table<'a, 'i> {
    file: &'a File<'i>,
    table: &'a DeTable<'i>,
    /// Where the table starts.
    pub span: Range<usize>,
    name: String,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a, 'i> Table<'a, 'i> {
    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.table.get(key)
    }

    /// Records a fault at the table itself.
    pub fn fault(&self, text: impl Into<String>) {
        self.file.fault(&self.span, text);
    }

    /// The value of `key` as a string, read by `read`.
    pub fn parsed<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<At<T>> {
        let value = self.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.expected(value, key, "a string in quotes");
            return None;
        };
        match read(text) {
            Ok(read) => Some(At { value: read, span: value.span() }),
            Err(text) => {
                self.file.fault(&value.span(), format!("{}{key}: {text}", self.prefix()));
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
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.expected(value, key, "a list of strings, as in [\"a\", \"b\"]");
            return None;
        };
        let mut out = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str().map(&read) {
                Some(Ok(read)) => out.push(read),
                Some(Err(text)) => self.file.fault(&item.span(), format!("{}{key}: {text}", self.prefix())),
                None => self.expected(item, key, "a string in quotes"),
            }
        }
        (out.len() == array.len()).then(|| At { value: out, span: value.span() })
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
                Some(At { value: number, span: value.span() })
            }
            _ => {
                let found = value.get_ref().as_integer().map_or_else(
                    || "another kind of value".to_owned(),
                    |number| crate::escape::shown(number.as_str().as_bytes()),
                );
                self.file.fault(
                    &value.span(),
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
            DeValue::Boolean(on) => Some(At { value: *on, span: value.span() }),
            _ => {
                self.expected(value, key, "true or false");
                None
            }
        }
    }

    /// Records a fault at a value.
    pub fn fault_at<T>(&self, at: &At<T>, text: impl Into<String>) {
        self.file.fault(&at.span, text);
    }

    /// A sub-table.
    pub fn table(&self, key: &str) -> Option<Table<'a, 'i>> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.expected(value, key, &format!("a table, as in [{key}]"));
            return None;
        };
        Some(Table {
            file: self.file,
            table,
            span: value.span(),
            name: self.child(key),
            asked: RefCell::default(),
        })
    }

    /// The tables of `[[key]]`.
    pub fn tables(&self, key: &str) -> Vec<Table<'a, 'i>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.expected(value, key, &format!("a list of tables: write [[{key}]], with two brackets"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let name = table
                        .get("name")
                        .and_then(|name| name.get_ref().as_str())
                        .map_or_else(|| key.to_owned(), |name| format!("{key} {name:?}"));
                    tables.push(Table {
                        file: self.file,
                        table,
                        span: item.span(),
                        name,
                        asked: RefCell::default(),
                    });
                }
                None => self.expected(item, key, &format!("a table: write [[{key}]]")),
            }
        }
        tables
    }

    /// Every key, for a table whose keys are names.
    pub fn keys(&self) -> Vec<At<String>> {
        let read = |key: &Spanned<_>| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            At { value: name.to_string(), span: key.span() }
        };
        self.table.keys().map(read).collect()
    }

    /// Whether `key` holds a string; does not count as a lookup.
    pub fn is_string(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// Records a fault if `key` exists, since this release does not support it.
    pub fn not_yet(&self, key: &str, instead: &str) {
        if let Some(value) = self.get(key) {
            self.file.fault(&value.span(), format!("{}{key}: not in this release; {instead}", self.prefix()));
        }
    }

    /// Records a fault for every key that was not looked up.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name: &str = key.get_ref().as_ref();
            if !asked.contains(name) {
                let near = asked
                    .iter()
                    .filter(|known| distance(known, name) <= 2)
                    .min_by_key(|known| distance(known, name));
                let hint = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", asked.iter().cloned().collect::<Vec<_>>().join(", ")),
                };
                self.file.fault(
                    &key.span(),
                    format!(
                        "{}unknown key `{}`; {hint}",
                        self.prefix(),
                        crate::escape::shown(name.as_bytes())
                    ),
                );
            }
        }
    }

    fn expected(&self, value: &Spanned<DeValue<'i>>, key: &str, what: &str) {
        let found = value.get_ref().type_str();
        self.file.fault(&value.span(), format!("{}{key}: expected {what}, found {found}", self.prefix()));
    }

    /// The start of a fault in this table, as in `replica "orders": `.
    pub fn prefix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) }
    }

    fn child(&self, key: &str) -> String {
        if self.name.is_empty() { format!("[{key}]") } else { format!("{} [{key}]", self.name) }
    }
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
