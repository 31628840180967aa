//! The command line: one file for each subcommand.
//!
//! stdout is for data, stderr for messages. Exit status 0 is success. 1 means that the work failed,
//! or that what was examined needs attention. 2 means that the command line or the config is wrong,
//! so that trying again without a change is useless. 130 and 143 mean that a second SIGINT or SIGTERM
//! cut the end of `run` short. A service manager restarts after any other status.

mod ask;
mod certs;
mod check;
mod choice;
mod demo;
mod events;
mod follow;
mod log;
mod run;
mod status;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Faults};
use crate::tls::revocation::{Learnt, state};

/// Carries Redis replication between datacenters over mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "replgate", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this site's gateway
    Run(run::Run),
    /// Check files, names, the way to the far site and Redis: one ok/warn/fail line for each step
    Check(check::Check),
    /// Show what the running gateway carries
    Status(status::Show),
    /// Show what has happened lately: links that broke, what was refused, reloads
    Events(events::Show),
    /// Say who has the master, where only a person can: shows what that costs first
    Follow(follow::Follow),
    /// Make and manage the certificates of all sites
    Certs(certs::Certs),
    /// Show two sites on this machine, with real redis-server processes
    Demo(demo::Demo),
}

/// Default paths of the config, tried in this order.
const DEFAULTS: [&str; 2] = ["gateway.toml", "/etc/replgate/gateway.toml"];

/// Where the config is.
#[derive(Debug, Args)]
struct ConfigPath {
    /// The gateway's config file [default: gateway.toml, or else /etc/replgate/gateway.toml]
    #[arg(short, long, value_name = "FILE", env = "REPLGATE_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigPath {
    fn path(&self) -> &Path {
        match &self.config {
            Some(path) => path,
            None => {
                let there = DEFAULTS.iter().find(|path| Path::new(path).exists());
                Path::new(there.unwrap_or(&DEFAULTS[0]))
            }
        }
    }

    fn load(&self) -> Result<Config, Failure> {
        if self.config.is_none() && !DEFAULTS.iter().any(|path| Path::new(path).exists()) {
            let [here, there] = DEFAULTS;
            return Err(Failure::Usage(format!(
                "there is no config: neither {here} in this folder nor {there}; name it with -c or REPLGATE_CONFIG, or copy the example gateway.toml"
            )));
        }
        Config::load(self.path()).map_err(Failure::Config)
    }
}

/// Why a subcommand fails.
#[derive(Debug)]
enum Failure {
    /// The config is wrong: exit 2.
    Config(Faults),
    /// The command line is wrong: exit 2.
    Usage(String),
    /// What was examined needs attention, and that was printed: exit 1.
    Unwell,
    /// The work failed: exit 1.
    Failed(anyhow::Error),
    /// A second signal ended the process before it had stopped in good order; the log says so. Exit
    /// 128 and the signal's number, as in a shell.
    CutShort(u8),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Outcome = Result<(), Failure>;

/// Parses the arguments, runs the subcommand, and returns its exit status.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(run) => run.execute(),
        Command::Check(check) => check.execute(),
        Command::Status(status) => status.execute(),
        Command::Events(events) => events.execute(),
        Command::Follow(follow) => follow.execute(),
        Command::Certs(certs) => certs.execute(),
        Command::Demo(demo) => demo.execute(),
    };
    match outcome {
        Ok(()) if crate::outln::failed() => {
            eprintln!("replgate: the output could not be written; the work is done");
            ExitCode::from(1)
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Unwell) => ExitCode::from(1),
        Err(Failure::CutShort(signal)) => ExitCode::from(128 + signal),
        Err(Failure::Failed(error)) => {
            if !is_broken_pipe(&error) {
                eprintln!("replgate: {error:#}");
            }
            ExitCode::from(1)
        }
        Err(Failure::Usage(text)) => {
            eprintln!("replgate: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Config(faults)) => {
            eprintln!("{faults}");
            if faults.count() > 1 {
                eprintln!("replgate: {} faults in the config", faults.count());
            }
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The revocation lists in the state folder, and what is wrong with it.
fn learnt(config: &Config) -> (Vec<Learnt>, Vec<String>) {
    state::folder(config.state.as_deref()).map(|folder| state::load(&folder)).unwrap_or_default()
}

/// Runs `work` on a single-threaded runtime, for subcommands other than `run`.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

/// Whether to colour the output.
fn colours() -> bool {
    use std::io::IsTerminal;
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal()
}
