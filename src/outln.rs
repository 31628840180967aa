//! Printing to stdout that never panics.
//!
//! Work is done whether or not somebody reads what is said of it: a reader that
//! has gone is no fault, and a full disk is told once, at the end.

use std::sync::atomic::{AtomicBool, Ordering};

static FAILED: AtomicBool = AtomicBool::new(false);

/// As `println!`, but goes on where stdout cannot be written.
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

/// Whether something could not be printed, other than for want of a reader.
pub(crate) fn failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}
