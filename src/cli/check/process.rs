//! The process of the running gateway, as far as /proc shows it to this user.

use std::path::Path;

use super::host::OpenFiles;
use crate::file;

/// Most bytes of a file of /proc that are read.
const LARGEST: u64 = 64 * 1024;

/// Ticks of a clock in /proc a second (`USER_HZ`), the same on every architecture of Linux.
const TICKS: i64 = 100;

/// What /proc shows of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// The user that it runs as.
    pub(super) user: Option<u32>,
    /// When it was started, in seconds since 1970.
    pub(super) started: Option<i64>,
    /// Its limits of open files.
    pub(super) open_files: Option<OpenFiles>,
    /// Whether its program file was removed or replaced since.
    pub(super) is_replaced: bool,
    /// Whether the service manager has given it a state folder, if its environment may be read.
    pub(super) has_state: Option<bool>,
}

impl Process {
    /// Reads /proc. `None` if there is no such process here: it may run in another PID namespace, where
    /// the number stands for another.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let text = |name: &str| file::read_text(&folder.join(name), LARGEST).ok();
        if text("comm")?.trim_end() != "replgate" {
            return None;
        }
        // Only root and who may debug it can read the link.
        let program = std::fs::read_link(folder.join("exe")).ok();
        let boot = file::read_text(Path::new("/proc/stat"), 16 << 20).ok();
        Some(Self {
            user: text("status").and_then(|status| user(&status)),
            started: boot.zip(text("stat")).and_then(|(boot, stat)| started(&boot, &stat)),
            open_files: text("limits").and_then(|limits| OpenFiles::read(&limits)),
            is_replaced: program.is_some_and(|program| program.to_string_lossy().ends_with(" (deleted)")),
            // Only root and who may debug it can read this, too.
            has_state: text("environ")
                .map(|all| all.split('\0').any(|one| one.starts_with("STATE_DIRECTORY=/"))),
        })
    }
}

/// This process' own limits of open files.
pub(super) fn own_open_files() -> Option<OpenFiles> {
    OpenFiles::read(&file::read_text(Path::new("/proc/self/limits"), LARGEST).ok()?)
}

/// The effective user in /proc/PID/status.
fn user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The start of a process, from /proc/stat and /proc/PID/stat.
fn started(boot: &str, stat: &str) -> Option<i64> {
    let boot: i64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: i64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    boot.checked_add(ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_read_whatever_the_name_is() {
        let stat = format!("7 (a) b (c) S {} 500 0", ["1"; 18].join(" "));
        assert_eq!(started("cpu 1\nbtime 1000\nprocesses 3\n", &stat), Some(1005));
        assert_eq!(started("btime 1000\n", "7 (short) S 1"), None);
        assert_eq!(user("Name:\tx\nUid:\t1\t997\t3\t4\n"), Some(997));
        assert_eq!(Process::read(std::process::id()), None, "this is no replgate");
        assert!(own_open_files().is_some());
    }
}
