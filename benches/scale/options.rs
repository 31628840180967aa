//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures how the cost of replgate grows with links, masters, sites and the size of values.
#[derive(Debug, Parser)]
#[command(name = "scale")]
pub struct Options {
    /// Rows to measure: idle, acks, busy, full, masters, sites, values; all by default.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Subjects: replgate, beside, nginx, none by default; also lanes, zstd, haproxy, stunnel, spiped.
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// Rounds of each row.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Another build of replgate, measured in the same run.
    #[arg(long)]
    pub beside: Option<PathBuf>,
    /// A measurement is thrown away if others used more than this many cores meanwhile.
    #[arg(long, value_name = "CORES", default_value_t = 0.15)]
    pub tolerate: f64,
    /// Where to write all samples. Rows that the file has already, and that are not measured now, stay.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to draw the curves, those of the rows that --json keeps too.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Draws the curves of what --json has, and measures nothing.
    #[arg(long, requires = "json", requires = "svg")]
    pub redraw: bool,
    /// One round with few points and little work: shows that everything runs.
    #[arg(long)]
    pub quick: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }
}
