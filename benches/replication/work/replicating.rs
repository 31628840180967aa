//! A master with little data, and a replica that has synced with it through a subject.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use crate::cpu::Watch;
use crate::peers::{Carries, Master, Subject, Way};
use crate::place::wait_for;
use crate::redis::Redis;

/// The fields are dropped in this order: the replica, the tunnel, the master.
#[derive(Debug)]
pub struct Replicating {
    pub replica: Redis,
    pub way: Way,
    pub master: Redis,
}

impl Replicating {
    pub fn start(bench: &Bench, subject: &Subject) -> Result<Self> {
        let mut master = Redis::start(&bench.place, "dc1", bench.tls)?;
        let way = subject.start(&bench.place, Master::from(&master), Carries::Replication)?;
        let mut replica = Redis::start(&bench.place, "dc2", way.tls)?;
        replica.replicate(way.entry, way.tls)?;
        replica.wait_in_sync(&mut master).with_context(|| format!("{} carries a replica", subject.name))?;
        // The master sends its stream only after the replica's first acknowledgement, which may take
        // a second.
        wait_for("the stream flows", Duration::from_secs(20), || {
            master.client.ask("SET flows yes")?;
            Ok((master.client.ask("WAIT 1 2000")? == "1").then_some(()))
        })?;
        Ok(Self { replica, way, master })
    }

    pub fn watch(&self) -> Watch {
        Watch::start(&self.way, &[self.master.process.id(), self.replica.process.id()])
    }

    /// Waits for the replica.
    pub fn catch_up(&mut self) -> Result<()> {
        self.replica.wait_in_sync(&mut self.master)
    }

    /// Fails unless every byte of the master's data is at the replica.
    pub fn verify(&mut self) -> Result<()> {
        self.replica.is_copy_of(&mut self.master, true)
    }

    /// The master's offset.
    pub fn offset(&mut self) -> Result<u64> {
        self.master.number("replication", "master_repl_offset")
    }
}
