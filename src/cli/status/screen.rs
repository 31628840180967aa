//! What the status is shown on: a terminal, where `--watch` draws in place, or anything else.
//!
//! In place means: from the top left corner, each line up to its end, and the rest of the screen cleared
//! last. So nothing flickers. There is no second screen that has to be left: a terminal is as usable after
//! Ctrl-C or a kill as before, and shows the last picture.

use std::io::{IsTerminal, StdoutLock, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::View;
use super::glance::{COLUMNS, LINES, Line, Tone};
use crate::admin::Status;
use crate::cli::Outcome;
use crate::cli::text::{cut, width, wrapped};
use crate::clock;

/// Time between two pictures.
const EVERY: Duration = Duration::from_secs(1);

/// Fewest columns that a text is laid out for. On a narrower screen its lines are cut.
const LEAST: usize = 40;

/// The output.
#[derive(Debug)]
pub(super) struct Screen {
    colours: bool,
    /// Whether pictures are drawn in place.
    in_place: bool,
    resized: Option<Signal>,
    /// The last picture, and when it was shown.
    last: Option<(Vec<Line>, i64)>,
    /// Since when nobody has answered.
    silent: Option<i64>,
    is_first: bool,
}

impl Screen {
    /// The one that stdout is.
    pub(super) fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self {
            colours: super::super::colours() && !is_dumb,
            in_place: std::io::stdout().is_terminal() && !is_dumb,
            resized: None,
            last: None,
            silent: None,
            is_first: true,
        }
    }

    /// What there is room for now.
    pub(super) fn view(&self, all: bool) -> View {
        let (columns, lines) = self.size();
        View { width: columns.map(|columns| columns.max(LEAST)), lines, all, ..View::default() }
    }

    /// Its columns and lines now: those of the terminal, or `COLUMNS` and `LINES`.
    fn size(&self) -> (Option<usize>, Option<usize>) {
        let said = |name: &str| std::env::var(name).ok().and_then(|count| count.parse::<usize>().ok());
        let out = std::io::stdout();
        let size =
            rustix::termios::tcgetwinsize(&out).ok().filter(|size| out.is_terminal() && size.ws_col > 0);
        let columns = said("COLUMNS").or(size.map(|size| size.ws_col.into()));
        let lines = said("LINES").or(size.map(|size| size.ws_row.into()));
        (columns.filter(|columns| *columns > 0), lines.filter(|lines| *lines >= 2))
    }

    /// Prints lines once.
    pub(super) fn print(&self, lines: &[Line]) -> Outcome {
        let mut out = std::io::stdout().lock();
        for line in lines {
            writeln!(out, "{}", self.painted(line))?;
        }
        out.flush()?;
        Ok(())
    }

    /// Prints one line of JSON.
    pub(super) fn print_json(&self, status: &Status) -> Outcome {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(status)?)?;
        out.flush()?;
        Ok(())
    }

    /// Shows the next picture: in place, or below the last one after an empty line.
    pub(super) fn show(&mut self, text: impl FnOnce(View) -> Vec<Line>, all: bool) -> Outcome {
        let lines = text(self.view(all));
        if self.in_place {
            self.draw(&lines)?;
        } else {
            if !self.is_first {
                self.print(&[(Tone::Plain, String::new())])?;
            }
            self.print(&lines)?;
        }
        (self.last, self.silent, self.is_first) = (Some((lines, clock::now())), None, false);
        Ok(())
    }

    /// Nobody has answered, for this reason. The last picture stays, and is marked as such.
    pub(super) fn miss(&mut self, why: &str, json: bool) -> Outcome {
        let now = clock::now();
        let since = *self.silent.get_or_insert(now);
        let words = format!("NO ANSWER since {}, for {} s: {why}", clock::utc(since), now - since);
        if json || !self.in_place {
            eprintln!("replgate: {words}");
            return Ok(());
        }
        let most = self.view(false).width.unwrap_or(COLUMNS);
        let mut lines: Vec<Line> =
            wrapped(&words, most, 2).into_iter().map(|line| (Tone::Bad, line)).collect();
        if let Some((last, at)) = &self.last {
            let words = format!("what it said last, at {}:", clock::utc(*at));
            lines.extend([(Tone::Plain, String::new()), (Tone::Plain, words)]);
            lines.extend(last.iter().map(|(_, line)| (Tone::Dim, format!("| {line}"))));
        }
        self.draw(&lines)?;
        self.is_first = false;
        Ok(())
    }

    /// Waits until the next picture is due, or the terminal has another size.
    pub(super) async fn rest(&mut self) -> Outcome {
        let resized = match &mut self.resized {
            Some(resized) => resized,
            none => none.insert(signal(SignalKind::window_change())?),
        };
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = resized.recv() => {}
        }
        Ok(())
    }

    /// Draws lines from the top of the screen, as many as there is room for.
    fn draw(&self, lines: &[Line]) -> Outcome {
        let (columns, height) = self.size();
        let mut out = std::io::stdout().lock();
        if self.is_first {
            // What the terminal shows moves up, out of the way.
            write!(out, "{}", "\n".repeat(height.unwrap_or(LINES)))?;
        }
        self.draw_at_home(&mut out, lines, columns.unwrap_or(COLUMNS), height.unwrap_or(usize::MAX))?;
        out.flush()?;
        Ok(())
    }

    fn draw_at_home(
        &self,
        out: &mut StdoutLock<'_>,
        lines: &[Line],
        columns: usize,
        height: usize,
    ) -> std::io::Result<()> {
        // The last line is left to the cursor: a line break there would move everything up.
        let room = height - 1;
        let hidden = if lines.len() > room { lines.len() - room.saturating_sub(1) } else { 0 };
        write!(out, "\x1b[H")?;
        for (tone, line) in &lines[..lines.len() - hidden] {
            let line = if width(line) > columns { cut(line, columns) } else { line.clone() };
            writeln!(out, "{}\x1b[K", self.painted(&(*tone, line)))?;
        }
        if hidden > 0 {
            writeln!(
                out,
                "{}\x1b[K",
                cut(&format!("{hidden} more lines: a taller terminal shows them"), columns)
            )?;
        }
        write!(out, "\x1b[J")
    }

    /// A line in its colour.
    fn painted(&self, (tone, line): &Line) -> String {
        let colour = match tone {
            _ if !self.colours || line.is_empty() => return line.clone(),
            Tone::Plain => return line.clone(),
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
            Tone::Dim => "2",
        };
        format!("\x1b[{colour}m{line}\x1b[0m")
    }
}
