//! `replgate status`: shows what the running gateway carries.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;

use super::tables::{self, View};
use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin::{self, Gateway, Status, ready};
use crate::clock;
use crate::config::Config;
use crate::config::Faults;

/// Asks the gateway that runs with this config, over its Unix socket.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigPath,
    /// Repeat every second, with rates
    #[arg(long)]
    watch: bool,
    /// Print JSON; docs/status.md explains each field
    #[arg(long)]
    json: bool,
    /// Only links with this far site
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Only links of the master or replica entry of this name
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// Only links that need attention: held, more than 10 s behind, with an error of Redis, or unknown
    #[arg(long)]
    unwell: bool,
    /// Show all rows, however many there are
    #[arg(long)]
    all: bool,
    /// Report only whether the gateway is ready: exit 1 if its certificate has expired or a listener is
    /// lost, never because of the WAN or a Redis
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    ready: bool,
    /// With --ready: also exit 1 if a link that has a client is down
    #[arg(long, requires = "ready")]
    links: bool,
}

impl Show {
    pub(super) fn execute(self) -> Outcome {
        let (gateway, faults) = self.gateway()?;
        block_on(async {
            if self.watch { self.watches(&gateway).await } else { self.shows(&gateway, faults).await }
        })?
    }

    /// The gateway to ask, and the faults that its config has got since it was started, if any.
    fn gateway(&self) -> Result<(Gateway, Option<Faults>), Failure> {
        let faults = match self.config.load() {
            Ok(config) => return Ok((Gateway::from(&config), None)),
            Err(Failure::Config(faults)) => faults,
            Err(failure) => return Err(failure),
        };
        let path = self.config.path();
        let Some(site) = Config::site_of(path) else { return Err(Failure::Config(faults)) };
        Ok((Gateway { site, path: path.to_owned(), key: None }, Some(faults)))
    }

    async fn shows(&self, gateway: &Gateway, faults: Option<Faults>) -> Outcome {
        let Some(status) = admin::ask(gateway).await? else {
            if let Some(faults) = faults {
                return Err(Failure::Config(faults));
            }
            eprintln!("replgate: {}", self.nobody(&gateway.site));
            return Err(Failure::Unwell);
        };
        if faults.is_some() {
            let path = self.config.path().display();
            eprintln!(
                "replgate: {path} has faults now (replgate check --offline -c {path}); this is the gateway that was started with it:"
            );
        }
        if self.ready {
            let mut why = ready::unready(status.certificate_expires, &status.listeners_lost, clock::now());
            if self.links {
                why.extend(ready::links_down(&status));
            }
            why.iter().for_each(|why| crate::outln::outln!("not ready: {why}"));
            if !why.is_empty() {
                return Err(Failure::Unwell);
            }
            crate::outln::outln!("ready");
            return Ok(());
        }
        self.print(self.chosen(status), None)
    }

    /// Shows the status every second; if no gateway answers, it may come back.
    async fn watches(&self, gateway: &Gateway) -> Outcome {
        let mut before: Option<(Status, Instant)> = None;
        loop {
            match admin::ask(gateway).await {
                Ok(Some(status)) => {
                    let status = self.chosen(status);
                    // Link numbers are those of one process.
                    let same = before.take_if(|(before, _)| before.pid == status.pid);
                    let rates = same.as_ref().map(|(status, then)| (status, then.elapsed().as_secs_f64()));
                    self.print(status.clone(), rates)?;
                    before = Some((status, Instant::now()));
                }
                Ok(None) => eprintln!("replgate: {}", self.nobody(&gateway.site)),
                Err(error) => eprintln!("replgate: {error}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn nobody(&self, site: &str) -> String {
        let path = self.config.path().display();
        format!("no gateway runs with {path} as site {site}; start it: replgate run -c {path}")
    }

    /// Removes the links that are not asked for.
    fn chosen(&self, mut status: Status) -> Status {
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        status.links.retain(|link| is(&self.site, &link.site) && is(&self.master, &link.name));
        status.ended.retain(|ended| is(&self.site, &ended.link.site) && is(&self.master, &ended.link.name));
        if self.unwell {
            status.links.retain(tables::is_unwell);
        }
        status
    }

    fn print(&self, status: Status, before: Option<(&Status, f64)>) -> Outcome {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&status)?)?;
        } else {
            if self.watch && super::colours() {
                write!(out, "\x1b[2J\x1b[H")?;
            }
            let view = View { width: width(), all: self.all, before };
            write!(out, "{}", tables::text(&status, view))?;
        }
        out.flush()?;
        Ok(())
    }
}

/// Width of the screen in columns: that of the terminal, or `COLUMNS`. A pipe has no limit.
fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || {
        let out = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&out).ok().filter(|_| out.is_terminal())?;
        Some(usize::from(size.ws_col))
    };
    said.or_else(terminal).filter(|columns| *columns >= 40)
}
