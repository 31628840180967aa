//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Measures replgate beside other tunnels, in one interleaved run.
#[derive(Debug, Parser)]
#[command(name = "replication")]
pub struct Options {
    /// Rows to measure: sync, stream, paced, wait, bulk, idle, acks, setup; all by default.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Subjects: replgate, lanes, zstd, beside, nginx, haproxy, stunnel, spiped, redis-tls, none; these
    /// by default. Also nginx-2 and haproxy-2, with a worker for each of two cores.
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// Rounds of each row.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Another build of replgate, measured in the same run.
    #[arg(long)]
    pub beside: Option<PathBuf>,
    /// Data of a full sync and of a bulk transfer.
    #[arg(long)]
    pub gigabytes: Option<f64>,
    /// A measurement is thrown away if others used more than this many cores meanwhile.
    #[arg(long, value_name = "CORES", default_value_t = 0.15)]
    pub tolerate: f64,
    /// Where to write all samples, with the machine and all versions.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to draw the CPU time of a full sync and of a write stream.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// One round with little work: shows that everything runs. Its figures mean little.
    #[arg(long)]
    pub quick: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much work a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub gigabytes: f64,
    /// SETs of a write stream.
    pub writes: u64,
    /// Round trips of SET and WAIT.
    pub waits: usize,
    /// How long SETs come at an even pace.
    pub paced: Duration,
    pub idle_links: u16,
    /// How long idle links are watched.
    pub idle: Duration,
    /// Links that are opened and closed.
    pub set_up_links: u16,
}

impl Options {
    pub fn scale(&self) -> Scale {
        let part = |of: usize| if self.quick { of / 10 } else { of };
        Scale {
            gigabytes: self.gigabytes.unwrap_or(if self.quick { 0.1 } else { 1.0 }),
            writes: part(2_000_000) as u64,
            waits: part(10_000),
            paced: Duration::from_secs(part(10) as u64),
            idle_links: if self.quick { 100 } else { 1000 },
            idle: Duration::from_secs(part(10) as u64),
            set_up_links: if self.quick { 50 } else { 500 },
        }
    }

    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }
}
