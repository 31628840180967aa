//! `replgate events`: shows what has happened to the running gateway and its links.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::ask::Running;
use super::choice::{known_kind, known_name, known_site};
use super::text::{one_line, width, wrapped_after};
use super::{ConfigPath, Outcome, block_on};
use crate::admin::Status;
use crate::clock;
use crate::registry::Event;

/// Time between two questions of `--follow`.
const EVERY: Duration = Duration::from_secs(1);

/// Columns of a time of day.
const TIME: usize = 8;

/// Shows the last events of the gateway that runs with this config, the latest one last: links that
/// came up, broke and ended, what was refused, reloads, certificates. They are in the memory of its process: a
/// restart begins anew. The log has everything.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigPath,
    /// Wait for further events and print them
    #[arg(short, long)]
    follow: bool,
    /// Print JSON, one object a line; docs/status.md explains each field
    #[arg(long)]
    json: bool,
    /// Only events about the master or replica entry of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only events about this far site
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Only events of this kind, such as up, down, held or revoked; docs/logs.md lists all
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

/// What tells a process from the one before it: a gateway of an earlier release tells its pid alone.
type Process = (u32, String);

/// What was printed so far.
#[derive(Default)]
struct Printed {
    /// The process whose events they are, and the number of the last one.
    last: Option<(Process, u64)>,
    /// The day of the last one, as in `2027-11-22`.
    day: String,
}

impl Printed {
    /// The number of the last event of this process; `None` if it is another one than before.
    fn of(&self, status: &Status) -> Option<u64> {
        let (of, number) = self.last.as_ref()?;
        (*of == process(status)).then_some(*number)
    }

    /// The events that were not taken yet, the oldest first.
    fn take_new<'a>(&mut self, status: &'a Status) -> Vec<&'a Event> {
        let after = self.of(status).unwrap_or(0);
        let new: Vec<&Event> = status.events.iter().rev().filter(|event| event.number > after).collect();
        self.last = Some((process(status), new.last().map_or(after, |event| event.number)));
        new
    }
}

fn process(status: &Status) -> Process {
    (status.pid, status.run_id.clone())
}

impl Show {
    pub(super) fn execute(self) -> Outcome {
        let running = Running::with(&self.config)?;
        block_on(async {
            if self.follow { self.follows(&running).await } else { self.shows(running).await }
        })?
    }

    async fn shows(&self, running: Running) -> Outcome {
        let status = running.ask_once().await?;
        self.check(&status)?;
        self.print(&status, &mut Printed::default())?;
        eprintln!("replgate: {}", about(&status));
        Ok(())
    }

    /// Prints new events until it is interrupted. If no gateway answers, it may come back.
    async fn follows(&self, running: &Running) -> Outcome {
        let (mut printed, mut silent) = (Printed::default(), false);
        loop {
            match running.ask().await {
                Ok(status) => {
                    if printed.last.is_none() {
                        self.check(&status)?;
                    }
                    if printed.of(&status).is_none() {
                        eprintln!("replgate: {}", about(&status));
                    }
                    self.print(&status, &mut printed)?;
                    silent = false;
                }
                Err(why) if !silent => {
                    eprintln!("replgate: {why}");
                    silent = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Prints the events that are asked for and were not printed, the oldest first.
    fn print(&self, status: &Status, printed: &mut Printed) -> Outcome {
        let new: Vec<&Event> =
            printed.take_new(status).into_iter().filter(|event| self.is_chosen(event)).collect();
        let mut out = std::io::stdout().lock();
        if self.json {
            for event in new {
                writeln!(out, "{}", serde_json::to_string(event)?)?;
            }
        } else {
            for line in text(&new, columns(), &mut printed.day) {
                writeln!(out, "{line}")?;
            }
        }
        out.flush()?;
        Ok(())
    }

    /// An error if it chooses by a name, a site or a kind that is not there.
    fn check(&self, status: &Status) -> Outcome {
        known_name(status, self.name.as_deref())?;
        known_site(status, self.site.as_deref())?;
        known_kind(status, self.kind.as_deref())
    }

    fn is_chosen(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| value.is_some_and(|value| wanted.eq_ignore_ascii_case(value)))
        };
        is(&self.name, event.name.as_deref())
            && is(&self.site, event.site.as_deref())
            && is(&self.kind, Some(&event.kind))
    }
}

/// Columns of the terminal, or `COLUMNS`; `None` where there is no bound.
fn columns() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || {
        let out = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&out).ok().filter(|_| out.is_terminal())?;
        Some(usize::from(size.ws_col))
    };
    said.or_else(terminal).filter(|columns| *columns > 0).map(|columns| columns.max(40))
}

/// What these events are, and where to find the others.
fn about(status: &Status) -> String {
    let what = match status.events.last() {
        None if status.format == 0 => {
            return format!("process {} is of a release that keeps no events: read its log", status.pid);
        }
        None => "no event yet".to_owned(),
        Some(_) => format!("{} events", status.events.len()),
    };
    format!(
        "{what} in the memory of process {} (site {}), which keeps the last ones of each kind since its start; the log has all of them: journalctl -u replgate",
        status.pid, status.site
    )
}

/// A line for each event: time, kind, name and site, words. A line that only names the day goes before the
/// first event of each day.
fn text(events: &[&Event], columns: Option<usize>, day: &mut String) -> Vec<String> {
    let kinds = events.iter().map(|event| width(&event.kind)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for event in events {
        let date = clock::date(event.at);
        if date != *day {
            lines.push(format!("{date}, UTC"));
            *day = date;
        }
        let time = clock::time_of_day(event.at);
        let head = format!("{time:<TIME$}  {:<kinds$}  ", event.kind);
        let words = one_line(&event.sentence());
        match columns {
            Some(columns) => lines.extend(wrapped_after(&head, &words, columns, TIME + 4)),
            None => lines.push(head + &words),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_taken_once_and_those_of_a_restarted_gateway_too_though_its_pid_is_the_same() {
        let status = |run_id: &str, events: &[u64]| Status {
            pid: 1,
            run_id: run_id.to_owned(),
            events: events.iter().rev().map(|number| Event { number: *number, ..Event::default() }).collect(),
            ..Status::default()
        };
        let mut printed = Printed::default();
        let mut taken = |status: Status| -> Vec<u64> {
            printed.take_new(&status).iter().map(|event| event.number).collect()
        };
        assert_eq!(taken(status("a", &[1, 2])), [1, 2]);
        assert_eq!(taken(status("a", &[2, 3])), [3]);
        assert_eq!(taken(status("a", &[2, 3])), [0; 0]);
        assert_eq!(taken(status("b", &[1, 2])), [1, 2], "another process");
        assert_eq!(taken(status("b", &[1, 2, 3])), [3]);
    }
}
