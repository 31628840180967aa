//! One Redis of a `[[master]]` that may be the master.

use std::ops::Deref;
use std::sync::Arc;

use crate::config::{Config, Master};
use crate::units::Address;

/// A `[[master]]` as far as one of its Redis is concerned.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    master: Arc<Master>,
    /// The address of that Redis.
    pub(super) redis: Address,
}

impl Candidate {
    /// Every Redis that the config names as a master, or one that may be.
    pub(super) fn of(config: &Config) -> Vec<Self> {
        let each = config.masters.iter().flat_map(|master| {
            master.redis.iter().map(|redis| Self { master: Arc::clone(master), redis: redis.clone() })
        });
        each.collect()
    }
}

impl Deref for Candidate {
    type Target = Master;

    fn deref(&self) -> &Master {
        &self.master
    }
}
