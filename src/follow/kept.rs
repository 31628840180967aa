//! What an entry has followed, as it is kept in the state folder across restarts: one small file for each.
//!
//! How far its links had passed the stream on is there only after a stop in good order. While the gateway runs
//! it is not, so that after a crash nothing is believed that was true before.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::lineage::judge::{By, Judge};
use crate::lineage::{Followed, History};
use crate::link::Side;

/// Largest file in bytes.
const LARGEST: u64 = 64 * 1024;

/// Longest name in bytes that becomes part of a file's name.
const LONGEST: usize = 200;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What was followed.
    pub followed: Followed,
    /// Who was followed, if somebody was: the party's name, who said so, since when (seconds since 1970).
    pub present: Option<(String, By, i64)>,
    /// The party that is followed, or was last.
    pub last: Option<String>,
}

impl Kept {
    /// What a judge knows, whose parties have these names.
    pub fn of(followed: &Followed, judge: &Judge, name: impl Fn(usize) -> String) -> Self {
        let present = judge.present().map(|present| (name(present.party), present.by, present.since));
        Self { followed: followed.clone(), present, last: judge.last().map(name) }
    }

    /// The same without how far the stream was passed on.
    pub fn while_running(&self) -> Self {
        let followed = Followed { passed: None, ..self.followed.clone() };
        Self { followed, present: self.present.clone(), last: self.last.clone() }
    }
}

/// The file as written.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    history: String,
    passed: Option<u64>,
    run: Option<String>,
    present: Option<String>,
    by: Option<String>,
    since: Option<i64>,
    last: Option<String>,
}

/// The words for who said so, in files and in `status`.
pub fn by_words(by: By) -> &'static str {
    match by {
        By::Sentinel => "sentinel",
        By::Lineage => "lineage",
        By::First => "first",
        By::Person => "person",
    }
}

fn by(words: &str) -> Option<By> {
    [By::Sentinel, By::Lineage, By::First, By::Person].into_iter().find(|by| by_words(*by) == words)
}

/// The file of an entry.
pub fn path(folder: &Path, side: Side, name: &str) -> PathBuf {
    let mut safe = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            safe += &format!("%{byte:02x}");
        }
    }
    if safe.len() > LONGEST {
        safe = crate::x509::fingerprint(name.as_bytes()).replace(':', "");
    }
    folder.join(format!("follow-{}-{safe}.toml", side.role()))
}

/// Reads it; `None` if there is none. The error is why it does not count.
pub fn read(path: &Path) -> Result<Option<Kept>, String> {
    let text = match file::read_text(path, LARGEST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let written: Written = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
    let history = History::read(written.history.as_bytes()).ok_or("its `history` is no replication id")?;
    let followed = Followed { history, passed: written.passed, run: written.run };
    let present = match (written.present, written.by.as_deref().map(by), written.since) {
        (Some(party), Some(Some(by)), Some(since)) => Some((party, by, since)),
        (None, None, None) => None,
        _ => return Err("`present`, `by` and `since` do not belong together".to_owned()),
    };
    Ok(Some(Kept { followed, present, last: written.last }))
}

/// Writes it as a whole or not at all. The folder is made if it is not there.
pub fn write(path: &Path, name: &str, kept: &Kept) -> io::Result<()> {
    let (present, by, since) = match kept.present.clone() {
        Some((party, by, since)) => (Some(party), Some(by_words(by).to_owned()), Some(since)),
        None => (None, None, None),
    };
    let written = Written {
        history: kept.followed.history.as_str().to_owned(),
        passed: kept.followed.passed,
        run: kept.followed.run.clone(),
        present,
        by,
        since,
        last: kept.last.clone(),
    };
    let head = format!(
        "# What this gateway has followed for {name:?}: by this it knows another Redis that has the same data.\n\
         # Without it the next start follows nobody by itself unless every other party answers as a replica.\n"
    );
    let text = toml::to_string(&written).map_err(io::Error::other)?;
    file::replace(path, (head + &text).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let history = History::read(&[b'a'; 40]).unwrap();
        let followed = Followed { history, passed: Some(77), run: Some("r".to_owned()) };
        let last = Some("10.0.0.6:6379".to_owned());
        Kept { followed, present: last.clone().map(|last| (last, By::Lineage, 1700)), last }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(&folder.path().join("new"), Side::Acceptor, "orders");
        assert_eq!(read(&file), Ok(None));
        for kept in [kept(), kept().while_running(), Kept { present: None, ..kept() }] {
            write(&file, "orders", &kept).unwrap();
            assert_eq!(read(&file), Ok(Some(kept)));
        }
        assert_eq!(kept().while_running().followed.passed, None);
        let names: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left behind: {names:?}");
    }

    #[test]
    fn what_cannot_be_understood_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(folder.path(), Side::Acceptor, "orders");
        for (text, words) in [
            ("history = ", "string"),
            ("history = \"short\"\n", "no replication id"),
            (&format!("history = \"{}\"\npresent = \"x\"\n", "a".repeat(40)), "belong together"),
        ] {
            std::fs::write(&file, text).unwrap();
            let why = read(&file).unwrap_err();
            assert!(why.contains(words) || words == "string", "{text}: {why}");
        }
    }

    #[test]
    fn no_name_leaves_the_folder_or_is_too_long() {
        let file = |name: &str| path(Path::new("/state"), Side::Dialler, name);
        assert_eq!(file("orders"), Path::new("/state/follow-replica-orders.toml"));
        assert_eq!(file("../x"), Path::new("/state/follow-replica-..%2fx.toml"));
        let long = file(&"x".repeat(253));
        assert!(long.file_name().unwrap().len() < 255);
        assert_ne!(long, file(&"y".repeat(253)));
    }
}
