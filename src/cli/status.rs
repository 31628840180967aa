//! `replgate status`: what the running gateway carries.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;

use super::tables::{self, View};
use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin::{self, Status};
use crate::config::Config;

/// Asks the gateway that runs with this config, over its Unix socket.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigPath,
    /// Show it again every second, with rates
    #[arg(long)]
    watch: bool,
    /// Print JSON: docs/status.md says what each field is
    #[arg(long)]
    json: bool,
    /// Only links with this far site
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Only links of the [[master]] or [[replica]] of this name
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// Only links that somebody should look at: held, more than 10 s behind, refused something, or unknown
    #[arg(long)]
    unwell: bool,
    /// All rows, however many there are
    #[arg(long)]
    all: bool,
}

impl Show {
    pub(super) fn execute(self) -> Outcome {
        let config = self.config.load()?;
        block_on(async { if self.watch { self.watches(&config).await } else { self.shows(&config).await } })?
    }

    async fn shows(&self, config: &Config) -> Outcome {
        let Some(status) = admin::ask(config).await? else {
            eprintln!("replgate: {}", self.nobody());
            return Err(Failure::Unwell);
        };
        self.print(self.chosen(status), None)?;
        Ok(())
    }

    /// Shows it every second; a gateway that is not there now may come back.
    async fn watches(&self, config: &Config) -> Outcome {
        let mut before: Option<(Status, Instant)> = None;
        loop {
            match admin::ask(config).await {
                Ok(Some(status)) => {
                    let status = self.chosen(status);
                    // Links of another process have other numbers.
                    let same = before.take_if(|(before, _)| before.pid == status.pid);
                    let rates = same.as_ref().map(|(status, then)| (status, then.elapsed().as_secs_f64()));
                    self.print(status.clone(), rates)?;
                    before = Some((status, Instant::now()));
                }
                Ok(None) => eprintln!("replgate: {}", self.nobody()),
                Err(error) => eprintln!("replgate: {error}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn nobody(&self) -> String {
        let path = self.config.path().display();
        format!("no gateway runs with {path}; start it: replgate run -c {path}")
    }

    /// Without the links that are not asked for.
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

/// Columns of the screen: of the terminal, or as `COLUMNS` says. A pipe has any number.
fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || {
        let out = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&out).ok().filter(|_| out.is_terminal())?;
        Some(usize::from(size.ws_col))
    };
    said.or_else(terminal).filter(|columns| *columns >= 40)
}
