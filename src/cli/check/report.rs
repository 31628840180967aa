//! The lines that `check` prints.

/// Prints the lines and remembers whether one of them is a fail.
#[derive(Default)]
pub(super) struct Report {
    failed: bool,
}

impl Report {
    /// Whether one of the lines was a fail.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Something is as it should be.
    pub(super) fn ok(&self, text: &str) {
        crate::outln::outln!("ok    {text}");
    }

    /// Something works, but may surprise or harm.
    pub(super) fn warn(&self, text: &str) {
        crate::outln::outln!("warn  {text}");
    }

    /// Something does not work, or must not be.
    pub(super) fn fail(&mut self, text: &str) {
        self.failed = true;
        crate::outln::outln!("fail  {text}");
    }
}
