//! Measures replgate beside other tunnels: real replication, in one interleaved run.
//!
//! `make bench`, or `cargo bench --locked --bench replication -- --help` for parts of it.
//!
//! `options` is the command line, `peers` has the subjects and `work` the workloads. `run` makes the
//! rounds, and `cpu` measures CPU time and memory. `results` has the medians, `targets` the required
//! ratios, and `report`, `json` and `svg` show both. Nothing here is part of the product.

mod cpu;
mod fakes;
mod json;
mod machine;
mod options;
mod peers;
mod place;
mod process;
mod redis;
mod replicating;
mod report;
mod results;
mod run;
mod signals;
mod summary;
mod svg;
mod targets;
mod work;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::machine::Machine;
use crate::options::Options;
use crate::peers::{Kind, Subject};
use crate::place::Place;
use crate::redis::Redis;
use crate::work::{Bench, ROWS, Row};

fn main() -> Result<()> {
    let options = Options::parse();
    signals::stop_in_order();
    // Children inherit the limit. A thousand links take about four thousand sockets in one process.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let scale = options.scale();
    // The snapshot at the replica, and as much again.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let place = Place::new((scale.gigabytes * 2e9) as u64 + 500_000_000)?;
    let rows = rows(&options.only)?;
    ensure!(redis::VERSION.is_some(), "redis-server is not installed (scripts/setup bench)");
    let tls = Redis::speaks_tls(&place);
    let subjects = subjects(&options, tls)?;
    let bench = Bench { place, scale, tls };
    let machine = Machine::here();
    let head = report::head(&machine, &subjects);
    print!("{head}");
    let mut all = Vec::new();
    for row in rows {
        let results = run::row(&bench, row, &subjects, options.rounds(), options.tolerate)?;
        print!("{}", report::row(&results, options.rounds()));
        all.push(results);
        // After each row, so that a run that is stopped leaves what it has.
        if let Some(path) = &options.json {
            let document = json::document(&machine, &bench.scale, &subjects, &all);
            std::fs::write(path, format!("{document:#}\n"))
                .with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = &options.svg {
            let chart = svg::chart(&machine, &subjects, &all);
            std::fs::write(path, chart).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The rows that are asked for.
fn rows(only: &[String]) -> Result<Vec<&'static Row>> {
    let known: Vec<_> = ROWS.iter().map(|row| row.key).collect();
    for name in only {
        ensure!(known.contains(&name.as_str()), "no row is called {name}: there are {}", known.join(", "));
    }
    Ok(ROWS.iter().filter(|row| only.is_empty() || only.iter().any(|name| name == row.key)).collect())
}

/// The subjects that are asked for and installed.
fn subjects(options: &Options, tls: bool) -> Result<Vec<Subject>> {
    let (usual, extra) = (peers::all(options.beside.as_deref()), peers::extra());
    let known: BTreeSet<_> = usual.iter().chain(&extra).map(|subject| subject.name).collect();
    for name in &options.subjects {
        let list = known.iter().copied().collect::<Vec<_>>().join(", ");
        ensure!(known.contains(name.as_str()), "no subject is called {name}: there are {list}");
    }
    let named = |subject: &Subject| options.subjects.iter().any(|name| name == subject.name);
    let mut chosen: Vec<Subject> = match options.subjects.is_empty() {
        true => usual,
        false => usual.into_iter().chain(extra).filter(named).collect(),
    };
    chosen.retain(|subject| {
        let there = subject.version().is_some() && (tls || !matches!(subject.kind, Kind::RedisTls));
        if !there {
            println!("left out, because it is not installed: {}", subject.title());
        }
        there
    });
    Ok(chosen)
}
