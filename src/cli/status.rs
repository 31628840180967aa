//! `replgate status`: shows what the running gateway carries.
//!
//! `glance.rs` is the text with a line for each link (`links.rs`), `wide.rs` the one with every column
//! (`table.rs`), `screen.rs` what `--watch` does to a terminal.

mod glance;
mod links;
mod screen;
mod table;
#[cfg(test)]
mod tests;
mod wide;

use clap::Args;

use self::screen::Screen;
use super::ask::Running;
use super::choice::{known_name, known_site};
use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin::health::is_unwell;
use crate::admin::{Status, ready};
use crate::clock;
use crate::registry::LinkStatus;

/// Asks the gateway that runs with this config, over its Unix socket.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigPath,
    /// Repeat every second; on a terminal, in place
    #[arg(long)]
    watch: bool,
    /// Print JSON; docs/status.md explains each field
    #[arg(long)]
    json: bool,
    /// Show every column: addresses, lanes, offsets, bytes, revocation lists, counts
    #[arg(long, conflicts_with = "json")]
    wide: bool,
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
    #[arg(long, conflicts_with_all = ["watch", "json", "wide"])]
    ready: bool,
    /// With --ready: also exit 1 if a link that has a client is down
    #[arg(long, requires = "ready")]
    links: bool,
}

/// How the status is shown.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    /// Width of the screen in columns; `None` where nothing tells it.
    width: Option<usize>,
    /// Its height in lines.
    lines: Option<usize>,
    /// Show all rows.
    all: bool,
    /// Show every column.
    wide: bool,
}

impl Show {
    pub(super) fn execute(self) -> Outcome {
        let running = Running::with(&self.config)?;
        block_on(async { if self.watch { self.watches(&running).await } else { self.shows(running).await } })?
    }

    async fn shows(&self, running: Running) -> Outcome {
        let status = running.ask_once().await?;
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
        self.check(&status)?;
        let screen = Screen::new();
        if self.json {
            screen.print_json(&self.chosen(status))
        } else {
            screen.print(&self.lines(&status, screen.view(self.all)))
        }
    }

    /// Shows the status every second, until it is interrupted. If no gateway answers, it may come back.
    async fn watches(&self, running: &Running) -> Outcome {
        let (mut screen, mut is_checked) = (Screen::new(), false);
        loop {
            let answer = running.ask().await;
            if let (Ok(status), false) = (&answer, is_checked) {
                self.check(status)?;
                is_checked = true;
            }
            match (answer, self.json) {
                (Ok(status), true) => screen.print_json(&self.chosen(status))?,
                (Ok(status), false) => {
                    screen.show(|view| self.lines(&status, view), self.all)?;
                }
                (Err(why), _) => screen.miss(&why, self.json)?,
            }
            screen.rest().await?;
        }
    }

    /// An error if it chooses by a name or a site that is not there.
    fn check(&self, status: &Status) -> Outcome {
        known_name(status, self.master.as_deref())?;
        known_site(status, self.site.as_deref())
    }

    /// The status without the links that are not asked for.
    fn chosen(&self, mut status: Status) -> Status {
        status.links.retain(|link| self.is_chosen(link) && (!self.unwell || is_unwell(link)));
        status.ended.retain(|ended| self.is_chosen(&ended.link));
        status
    }

    fn is_chosen(&self, link: &LinkStatus) -> bool {
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        is(&self.site, &link.site) && is(&self.master, &link.name)
    }

    /// The text. The verdict is about all links, whichever are chosen.
    fn lines(&self, status: &Status, view: View) -> Vec<glance::Line> {
        let now = clock::now();
        if self.wide {
            let view = View { wide: true, ..view };
            let mut lines = glance::head(status, view, now);
            let text = wide::text(&self.chosen(status.clone()), view, now);
            lines.extend(text.lines().map(|line| (glance::Tone::Plain, line.to_owned())));
            return lines;
        }
        let chosen: Vec<&LinkStatus> = status
            .links
            .iter()
            .filter(|link| self.is_chosen(link) && (!self.unwell || is_unwell(link)))
            .collect();
        glance::text(status, &chosen, view, now)
    }
}
