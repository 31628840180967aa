//! Measures how the cost of replgate grows: with links, masters, sites, and the size of values.
//!
//! `cargo bench --locked --bench scale -- --help`.
//!
//! `options` is the command line and `work` has the rows. `run` makes the rounds, `results` is what
//! comes of them, as a table (`report`), as JSON and as curves (`svg`). `readers` are many replicas that
//! tell how late a write arrives, `writes` is what a master is given to write, and `fleet` is gateways
//! with many masters. Servers, subjects and the accounting are those of the other bench.

#[path = "../replication/cpu.rs"]
#[allow(dead_code, reason = "the other bench uses the rest")]
mod cpu;
#[path = "../replication/fakes.rs"]
mod fakes;
#[path = "../replication/machine.rs"]
mod machine;
#[path = "../replication/peers/mod.rs"]
#[allow(dead_code, reason = "the other bench uses the rest")]
mod peers;
#[path = "../replication/place.rs"]
mod place;
#[path = "../replication/process.rs"]
#[allow(dead_code, reason = "the other bench uses the rest")]
mod process;
#[path = "../replication/redis.rs"]
#[allow(dead_code, reason = "the other bench uses the rest")]
mod redis;
#[path = "../replication/replicating.rs"]
mod replicating;
#[path = "../replication/signals.rs"]
mod signals;
#[path = "../replication/summary.rs"]
mod summary;

mod fleet;
mod options;
mod readers;
mod report;
mod results;
mod run;
mod svg;
mod work;
mod writes;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::machine::Machine;
use crate::options::Options;
use crate::peers::Subject;
use crate::place::Place;
use crate::results::Document;
use crate::work::{Bench, ROWS, Row};

fn main() -> Result<()> {
    let options = Options::parse();
    signals::stop_in_order();
    // Children inherit the limit. Five thousand links take ten thousand sockets in each process.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let earlier = options.json.as_deref().map(Document::read).transpose()?.flatten();
    if options.redraw {
        return draw(&options, &earlier.context("there is nothing to draw")?);
    }
    let rows = rows(&options.only)?;
    ensure!(redis::VERSION.is_some(), "redis-server is not installed (scripts/setup bench)");
    let subjects = subjects(&options)?;
    let bench = Bench { place: Place::new(500_000_000)?, quick: options.quick };
    let mut document = Document::new(Machine::here(), &subjects);
    if let Some(earlier) = earlier {
        document.keep_rows_of(earlier);
    }
    println!("{}", document.machine.line());
    for row in rows {
        let results = run::row(&bench, row, &subjects, options.rounds(), options.tolerate)?;
        print!("{}", report::row(row, &results));
        document.put(results);
        // After each row, so that a run that is stopped leaves what it has.
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(&document)?;
            std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        }
        draw(&options, &document)?;
    }
    Ok(())
}

/// Draws the curves, if that is asked for.
fn draw(options: &Options, document: &Document) -> Result<()> {
    let Some(path) = &options.svg else { return Ok(()) };
    std::fs::write(path, svg::chart(document)).with_context(|| format!("write {}", path.display()))
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
fn subjects(options: &Options) -> Result<Vec<Subject>> {
    const USUAL: [&str; 4] = ["replgate", "beside", "nginx", "none"];
    let all = peers::all(options.beside.as_deref());
    for name in &options.subjects {
        let list = all.iter().map(|subject| subject.name).collect::<Vec<_>>().join(", ");
        ensure!(list.split(", ").any(|known| known == name), "no subject is called {name}: there are {list}");
    }
    let chosen = all.into_iter().filter(|subject| match options.subjects.is_empty() {
        true => USUAL.contains(&subject.name),
        false => options.subjects.iter().any(|name| name == subject.name),
    });
    let (there, missing): (Vec<_>, Vec<_>) = chosen.partition(|subject| subject.version().is_some());
    for subject in missing {
        println!("left out, because it is not installed: {}", subject.title());
    }
    Ok(there)
}
