//! A master with little data, a replica that has synced with it through a subject, and its lag.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::cpu::Watch;
use crate::peers::{Carries, Master, Subject, Way};
use crate::place::{Place, wait_for};
use crate::redis::{Client, Redis, value};

/// The fields are dropped in this order: the replica, the tunnel, the master.
#[derive(Debug)]
pub struct Replicating {
    pub replica: Redis,
    pub way: Way,
    pub master: Redis,
}

impl Replicating {
    /// Starts all of it. The master has a TLS port too if `tls`.
    pub fn start(place: &Place, tls: bool, subject: &Subject) -> Result<Self> {
        let mut master = Redis::start(place, "dc1", tls)?;
        let way = subject.start(place, Master::from(&master), Carries::Replication)?;
        let mut replica = Redis::start(place, "dc2", way.tls)?;
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

    /// Looks at the lag, over connections of its own.
    pub fn lag(&self) -> Result<Lag> {
        Ok(Lag { master: Client::connect(self.master.plain)?, replica: Client::connect(self.replica.plain)? })
    }

    /// The master's offset.
    pub fn offset(&mut self) -> Result<u64> {
        self.master.number("replication", "master_repl_offset")
    }
}

/// How far a replica is behind its master.
#[derive(Debug)]
pub struct Lag {
    master: Client,
    replica: Client,
}

impl Lag {
    /// Bytes that the replica has not executed yet. Both servers are asked at the same time.
    pub fn now(&mut self) -> Result<u64> {
        self.master.send("INFO replication")?;
        self.replica.send("INFO replication")?;
        let (theirs, ours) = (self.master.answer()?, self.replica.answer()?);
        let number =
            |info: &str, field| -> Result<u64> { Ok(value(info, field).context("no offset")?.parse()?) };
        Ok(number(&theirs, "master_repl_offset")?.saturating_sub(number(&ours, "slave_repl_offset")?))
    }
}
