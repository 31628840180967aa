//! `replgate check`: one finding for each step, before the gateway is started or while it runs.
//!
//! One file for each subject, in the order in which they are printed: `files` and `expiry`, `running`
//! with its `process`, `addresses`, `host`, then each master (`masters`: what the config alone tells,
//! `loops`, `redis`, `settings`, its `sentinels`, who of several is the master: `followed`), each Redis of `--replica` (`replicas`), and the way to each far
//! site (`far_sites`, `path`). `names` looks names up, `facts` asks a Redis. Those that judge
//! (`settings`, `replicas`, `loops`, `followed`, `path`, `expiry`) do no I/O.
//!
//! Everything that waits for others (`online`) runs concurrently, within a bound, and ends after
//! [`WHOLE`]. What was not reached by then is a finding too.

mod addresses;
mod candidate;
mod codes;
mod expiry;
mod facts;
mod far_sites;
mod files;
mod followed;
mod host;
mod loops;
mod masters;
mod names;
mod online;
mod path;
mod process;
mod redis;
mod replicas;
mod report;
mod running;
mod sentinels;
mod settings;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::codes::{Code, Level};
pub(super) use self::files::readable_ca_key;
use self::report::{Finding, Report};
use super::{ConfigPath, Failure, Outcome};
use crate::config::Auth;
use crate::units::{self, Address};

/// Time given to each step that waits for a peer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Time given to everything that waits for others.
const WHOLE: Duration = Duration::from_secs(30);

/// Checks config, certificates, the way to the far site and Redis, and says what to change.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigPath,
    /// Check only files on this host: resolve no name, make no connection
    #[arg(long)]
    offline: bool,
    /// Read the settings of each Redis as this user; the default user if only --password-file is given
    #[arg(long, value_name = "NAME", requires = "password_file", conflicts_with = "offline")]
    redis_user: Option<String>,
    /// The file with that user's password
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    password_file: Option<PathBuf>,
    /// Look also at this Redis, a replica of this site; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = units::address, conflicts_with = "offline")]
    replica: Vec<Address>,
    /// Exit 1 for a warning too
    #[arg(long)]
    strict: bool,
    /// Print JSON; docs/check.md explains each field and code
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn execute(self) -> Outcome {
        let config = self.config.load()?;
        let path = self.config.path().display().to_string();
        let mut report = Report::new(self.json);
        let text = format!(
            "config {path}: site {}, {} masters, {} replicas",
            config.site,
            config.masters.len(),
            config.replicas.len()
        );
        report.add(Finding::new(Code::Config, &path, text));
        for included in config.included.iter().map(|included| included.display()) {
            report.add(Finding::new(Code::ConfigIncluded, &included, format!("config {included}: included")));
        }
        let doubts = config.warnings.iter();
        report.extend(doubts.map(|doubt| Finding::new(Code::ConfigDoubtful, &path, doubt)));
        files::writers(&config, &mut report);
        files::ca_key(&config, &mut report);
        files::passwords(&config, &mut report);
        let material = files::material(&config, &mut report);
        report.extend(addresses::socket_folder(&config));
        if self.offline {
            for master in &config.masters {
                report.extend(masters::judge(&config, master));
            }
        } else {
            let login =
                self.password_file.map(|password_file| Auth { username: self.redis_user, password_file });
            let wanted = online::Wanted { login, replicas: self.replica };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(online::check(&config, material, wanted, &mut report));
            // A lookup of a name cannot be given up; it would keep the runtime.
            runtime.shutdown_background();
        }
        let healthy = report.count(Level::Fail) == 0 && !(self.strict && report.count(Level::Warn) > 0);
        report.end(&config.site, &path, healthy)?;
        if healthy { Ok(()) } else { Err(Failure::Unwell) }
    }
}
