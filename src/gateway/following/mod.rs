//! Looks after the entries of the config that follow a master, and judges for each of them who has it.
//!
//! Sessions read what came of it in [`crate::follow`].

mod advice;
mod keeper;
mod masters;
mod sites;
mod words;

pub(super) use self::masters::look_after as masters;
pub(super) use self::sites::look_after as sites;
