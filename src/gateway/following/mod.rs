//! Who is followed: looks at the parties, judges, and writes for sessions what came of it.

pub(super) mod sites;
