//! The table of links at a glance: it fits any screen, whatever names and numbers there are.
//!
//! Columns have as much room as they need. If that is too much, long names are shortened in the middle
//! first, and then columns are left out, the least useful first. The state takes what is left, in the
//! longest words that fit.

use super::glance::{Line, Tone, sum};
use crate::admin::health::is_unwell;
use crate::admin::link_words;
use crate::cli::text::{both_ends, count, cut, one_line, width};
use crate::redis::replication::{Snapshot, Stage};
use crate::registry::LinkStatus;
use crate::words::{rate, round_trip, size, span, whole_span};

/// Columns below which a name is not shortened before other columns are left out.
const NAME: usize = 10;

/// Fewest columns of a name.
const SHORTEST: usize = 8;

/// Columns that the state always has, where its shortest words need them.
const STATE: usize = 12;

/// Columns between two cells.
const GAP: usize = 2;

/// Cells of a progress bar.
const BAR: usize = 10;

/// A link to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) link: &'a LinkStatus,
    /// Whether its number is shown, since others have its name and site.
    pub(super) numbered: bool,
    /// Whether it goes to a Redis here that is followed, of several.
    pub(super) follows: bool,
}

/// One line of a table.
struct Cells {
    tone: Tone,
    name: String,
    far: String,
    /// What is said of the state, the longest words first.
    state: Vec<String>,
    /// What comes after it.
    rest: Vec<String>,
}

/// A line for each link, under the names of the columns.
pub(super) fn table(rows: &[Row<'_>], most: usize) -> Vec<Line> {
    let mut heads = ["LAG", "RATE", "RTT", "BREAKS", "AGE"].map(str::to_owned).to_vec();
    let follows = rows.iter().any(|row| row.follows);
    heads.extend(follows.then(|| "REDIS".to_owned()));
    let cells = rows.iter().map(|Row { link, numbered, follows: is_following }| {
        let lag = link.replication.as_ref().and_then(|replication| replication.lag_seconds);
        let number = if *numbered { format!(" #{}", link.number) } else { String::new() };
        let redis = if *is_following { one_line(&link.redis) } else { String::new() };
        Cells {
            tone: if is_unwell(link) { Tone::Bad } else { Tone::Plain },
            name: format!("{}{number}", one_line(&link.name)),
            far: one_line(&link_words::way(link)),
            state: state(link),
            rest: [
                lag.map_or_else(String::new, span),
                link.to_replica_bytes_per_second.map_or_else(String::new, |bytes| rate(bytes as f64)),
                link.round_trip_seconds.map_or_else(String::new, round_trip),
                count(link.breaks),
                whole_span(link.seconds as f64),
            ]
            .into_iter()
            .chain(follows.then_some(redis))
            .collect(),
        }
    });
    lines(heads, cells.collect(), most, follows)
}

/// A line for each group of links, under the names of the columns.
pub(super) fn sums(groups: &[Vec<&LinkStatus>], most: usize) -> Vec<Line> {
    let heads = ["LINKS", "LAG", "RATE"].map(str::to_owned).to_vec();
    let cells = groups.iter().map(|group| {
        let (states, lag, rate) = sum(group);
        Cells {
            tone: if group.iter().any(|link| is_unwell(link)) { Tone::Bad } else { Tone::Plain },
            name: one_line(&group[0].name),
            far: one_line(&link_words::way(group[0])),
            state: vec![states],
            rest: vec![count(group.len() as u64), lag, rate],
        }
    });
    lines(heads, cells.collect(), most, false)
}

/// The lines of a table, of at most `most` columns. `spares` has the last column left out where it would shorten
/// another.
fn lines(mut heads: Vec<String>, mut rows: Vec<Cells>, most: usize, spares: bool) -> Vec<Line> {
    let head = Cells {
        tone: Tone::Plain,
        name: "NAME".to_owned(),
        far: "FAR SITE".to_owned(),
        state: vec!["STATE".to_owned()],
        rest: std::mem::take(&mut heads),
    };
    rows.insert(0, head);
    let widest = |of: &dyn Fn(&Cells) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (mut name, mut far) = (widest(&|row| width(&row.name)), widest(&|row| width(&row.far)));
    let mut rest: Vec<usize> =
        (0..rows[0].rest.len()).map(|at| widest(&|row| width(&row.rest[at]))).collect();
    let least = widest(&|row| row.state.last().map_or(0, |state| width(state)).min(STATE));
    let taken = |name: usize, far: usize, rest: &[usize]| {
        name + far + GAP + rest.iter().map(|width| width + GAP).sum::<usize>() + GAP
    };
    let longest = widest(&|row| row.state.first().map_or(0, |state| width(state)));
    if spares && taken(name, far, &rest) + longest > most {
        rest.pop();
    }
    // What is left for the state.
    let room = loop {
        let room = most.saturating_sub(taken(name, far, &rest));
        let longer = if name >= far { &mut name } else { &mut far };
        if room >= least {
            break room;
        } else if *longer > NAME {
            *longer -= 1;
        } else if rest.pop().is_some() {
            continue;
        } else if *longer > SHORTEST {
            *longer -= 1;
        } else {
            break room;
        }
    };
    // No wider than what is said needs.
    let says = |row: &Cells, room: usize| row.state.iter().find(|state| width(state) <= room).cloned();
    let lag = rest.first().map_or(0, |lag| lag + GAP);
    let over = |row: &Cells| row.rest.first().is_some_and(String::is_empty);
    let needed = |row: &Cells| {
        let spare = if over(row) { lag } else { 0 };
        says(row, room + spare).map_or(room, |state| width(&state).saturating_sub(spare))
    };
    let state = rows.iter().map(needed).max().unwrap_or(0).min(room);
    let line = |row: &Cells| {
        // Where no lag is known, the state takes its place as well.
        let is_over = over(row) && !rest.is_empty();
        let room = if is_over { state + lag } else { state };
        let said = says(row, room).unwrap_or_else(|| cut(row.state.last().map_or("", |state| state), room));
        let (way, site) = row.far.split_once(' ').unwrap_or(("", &row.far));
        let far_cell = if width(&row.far) > far {
            format!("{way} {}", both_ends(site, far.saturating_sub(width(way) + 1)))
        } else {
            row.far.clone()
        };
        let name_cell = both_ends(&row.name, name);
        let mut line = format!("{name_cell:<name$}  {far_cell:<far$}  {said:<room$}");
        for (cell, width) in row.rest.iter().zip(&rest).skip(usize::from(is_over)) {
            line += &format!("  {cell:<width$}");
        }
        (row.tone, cut(line.trim_end(), most))
    };
    rows.iter().map(line).collect()
}

/// What is said of a link's state, the longest words first.
fn state(link: &LinkStatus) -> Vec<String> {
    let whole = |seconds: Option<f64>| whole_span(seconds.unwrap_or_default());
    if link.held_seconds.is_some() {
        let (since, left) = (whole(link.held_seconds), whole(link.gives_up_in_seconds));
        return vec![
            format!("held {since}, gives up in {left}"),
            format!("held {since}, {left} left"),
            format!("held {since}"),
            "held".to_owned(),
        ];
    }
    let replication = link.replication.as_ref();
    let snapshot = replication.and_then(|replication| replication.snapshot.as_ref());
    match (replication.map(|replication| replication.stage), snapshot) {
        (Some(Stage::FullSync), Some(snapshot)) => progress(snapshot),
        (Some(Stage::Loading), Some(snapshot)) => {
            vec![format!("loading {}", size(snapshot.bytes as f64)), "loading".to_owned()]
        }
        (Some(Stage::Waiting), _) => vec!["waiting for the master".to_owned(), "waiting".to_owned()],
        _ => vec![one_line(&link.state)],
    }
}

/// How far a full sync has come.
fn progress(snapshot: &Snapshot) -> Vec<String> {
    let passed = size(snapshot.bytes as f64);
    let Some(share) = snapshot.share() else {
        return vec![
            format!("full sync {passed}, size unknown"),
            format!("full sync {passed}"),
            "full sync".to_owned(),
        ];
    };
    let percent = format!("{:.0} %", (share * 100.0).floor());
    let bar = |cells: usize| {
        let full = (share * cells as f64) as usize;
        format!("[{}{}]", "#".repeat(full), ".".repeat(cells - full))
    };
    let left = snapshot.seconds_left.map(whole_span);
    let left_long = left.as_ref().map_or_else(String::new, |left| format!(" {left} left"));
    let left = left.map_or_else(String::new, |left| format!(" {left}"));
    vec![
        format!("full sync {} {percent}{left_long}", bar(BAR)),
        format!("sync {} {percent}{left_long}", bar(BAR)),
        format!("full sync {} {percent}{left}", bar(BAR / 2)),
        format!("sync {} {percent}{left}", bar(BAR / 2)),
        format!("{} {percent}{left}", bar(BAR / 2)),
        format!("sync {percent}{left}"),
        format!("sync {percent}"),
    ]
}
