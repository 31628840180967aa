//! One Redis of a `[[master]]` that may be the master.

use std::ops::Deref;
use std::sync::Arc;

use crate::config::{Follow, Master};
use crate::units::Address;

/// A `[[master]]` as far as one of its Redis is concerned.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    master: Arc<Master>,
    /// The address of that Redis.
    pub(super) redis: Address,
}

impl Candidate {
    /// Every Redis that the config names for a master.
    pub(super) fn of(master: &Arc<Master>) -> Vec<Self> {
        master.redis.iter().map(|redis| Self::at(master, redis.clone())).collect()
    }

    /// A Redis that somebody else names.
    pub(super) fn at(master: &Arc<Master>, redis: Address) -> Self {
        Self { master: Arc::clone(master), redis }
    }

    /// Whether another one may be the master as well.
    pub(super) fn is_one_of_several(&self) -> bool {
        self.master.redis.len() > 1
    }

    /// Whether it is asked what it is, since the gateway follows the master.
    pub(super) fn is_asked(&self) -> bool {
        self.master.follow == Follow::Master
    }
}

impl Deref for Candidate {
    type Target = Master;

    fn deref(&self) -> &Master {
        &self.master
    }
}
