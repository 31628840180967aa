//! Printing to stdout that never panics.
//!
//! A failure to print does not stop the work. A reader that has closed the pipe is no fault; any
//! other fault, such as a full disk, is reported once at the end.

use std::sync::atomic::{AtomicBool, Ordering};

static FAILED: AtomicBool = AtomicBool::new(false);

/// As `println!`, but continues if stdout cannot be written.
macro_rules! outln {
    ($($words:tt)*) => {
        $crate::outln::line(::std::format_args!($($words)*))
    };
}

pub(crate) use outln;

/// Prints one line.
pub(crate) fn line(words: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{words}").and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        FAILED.store(true, Ordering::Relaxed);
    }
}

/// Whether a line could not be printed for another reason than a closed pipe.
pub(crate) fn failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}
