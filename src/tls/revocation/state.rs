//! The folder in which learnt revocation lists outlive a restart.
//!
//! One file for each list, written beside its place and renamed, so that a file is either whole or
//! not there. Nothing here is ever an obstacle: what cannot be read or written is a warning. The
//! lists are verified again when they are loaded, so a file needs no protection against others.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{LARGEST, Learnt, MOST};
use crate::file;
use crate::tls::pem;

/// How the name of each file ends.
const ENDING: &str = ".crl.pem";

/// Most bytes of a file: a list in Base64, with the line before it.
const LARGEST_FILE: u64 = (LARGEST as u64) * 3 / 2;

/// Most entries of the folder that are looked at.
const MOST_ENTRIES: usize = 1024;

/// How the line before a list begins that says where it was learnt.
const FROM: &str = "Learnt from ";

/// The folder: the config's, or the one that the service manager has made.
pub fn folder(of_config: Option<&Path>) -> Option<PathBuf> {
    let made = || {
        let paths = std::env::var_os("STATE_DIRECTORY")?;
        // There may be several, of which the first counts.
        std::env::split_paths(&paths).next().filter(|path| path.is_absolute())
    };
    of_config.map(Path::to_owned).or_else(made)
}

/// The folder of the config, made if it was not there. One that cannot be made is told when it is to be
/// written.
pub fn made(of_config: Option<&Path>) -> Option<PathBuf> {
    let folder = of_config?;
    let _ = file::make_folder(folder);
    Some(folder.to_owned())
}

/// Reads the lists in the folder, unverified, and a warning for each file that is not one.
pub fn load(folder: &Path) -> (Vec<Learnt>, Vec<String>) {
    let (mut lists, mut warnings) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (lists, warnings),
        Err(error) => {
            warnings.push(format!(
                "the state folder {} cannot be read: {error}; revocation lists learnt earlier do not count until they are learnt again",
                folder.display()
            ));
            return (lists, warnings);
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .take(MOST_ENTRIES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_ours(path))
        .collect();
    paths.sort();
    for path in paths.into_iter().take(MOST) {
        match read(&path) {
            Ok(list) => lists.push(list),
            Err(why) => warnings.push(format!(
                "{}: not a revocation list that was learnt ({why}); it does not count, and the next list of its CA replaces it",
                path.display()
            )),
        }
    }
    (lists, warnings)
}

fn is_ours(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
        name.strip_suffix(ENDING)
            .is_some_and(|stem| stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

fn read(path: &Path) -> Result<Learnt, String> {
    let text = file::read_text(path, LARGEST_FILE).map_err(|error| error.to_string())?;
    let from = text.lines().next().and_then(|line| line.strip_prefix(FROM)).unwrap_or("another gateway");
    let lists = pem::revocation_lists(path).map_err(|error| error.sentences().join("; "))?;
    let [list] = &lists[..] else { return Err("it holds several".to_owned()) };
    Ok(Learnt { der: Arc::from(list.as_ref()), from: from.to_owned() })
}

/// Makes the folder hold these lists and no others.
pub fn save(folder: &Path, lists: &[Learnt]) -> io::Result<()> {
    file::make_folder(folder)?;
    let mut wanted = Vec::new();
    for list in lists.iter().take(MOST) {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &list.der);
        let stem: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(stem + ENDING);
        let text = text(list);
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            file::replace(&path, text.as_bytes())?;
        }
        wanted.push(path);
    }
    for entry in fs::read_dir(folder)?.take(MOST_ENTRIES) {
        let path = entry?.path();
        if is_ours(&path) && !wanted.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn text(list: &Learnt) -> String {
    let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    format!(
        "{FROM}{}\n{}",
        list.from,
        ::pem::encode_config(&::pem::Pem::new("X509 CRL", &list.der[..]), config)
    )
}
