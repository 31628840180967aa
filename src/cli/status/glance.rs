//! The text of `replgate status`: read in five seconds, within 80 columns and a screen.
//!
//! First a verdict with the next step, then the gateway, then a line for each link, what is unwell first.
//! Where there are more links than lines, those that are well are summed up by name and site. Last come
//! the latest events.

use std::collections::{BTreeMap, HashSet};

use super::View;
use super::links::{self, Row};
use super::wide::NAMES;
use crate::admin::awaited::Awaited;
use crate::admin::health::{self, Finding, Level, is_unwell};
use crate::admin::link_words::{listed, states};
use crate::admin::{Status, follow_words};
use crate::cli::text::{cut, width, wrapped, wrapped_after};
use crate::clock;
use crate::follow::FollowStatus;
use crate::registry::{Event, LinkStatus, notice};
use crate::words::{names, rate, span, whole_span};

/// Columns of the screen where nothing tells them.
pub(super) const COLUMNS: usize = 80;

/// Lines of the screen where nothing tells them.
pub(super) const LINES: usize = 24;

/// Fewest lines for links.
const LEAST: usize = 6;

/// Most events that are shown.
const LATELY: usize = 5;

/// How many of them may be about links, as long as there are others.
const OF_LINKS: usize = 4;

/// Lines that all of them may have: fewest, where the screen is small, and most.
const LATELY_LINES: (usize, usize) = (5, 8);

/// Most lines of one of them.
const EVENT_LINES: usize = 2;

/// Most lines of what needs attention.
const DETAILS: usize = 10;

/// Most entries whose master is told, and most lines of one of them. Those that need attention are told above.
const FOLLOWING: (usize, usize) = (3, 3);

/// What a line tells. Its colour never tells more than its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// That all is well.
    Good,
    /// That something may break.
    Warning,
    /// That something is not well.
    Bad,
    /// Something less important, or no longer current.
    Dim,
}

/// A line for the screen.
pub(super) type Line = (Tone, String);

/// The whole text. `now` is in seconds since 1970. `chosen` are the links to show.
pub(super) fn text(status: &Status, chosen: &[&LinkStatus], view: View, now: i64) -> Vec<Line> {
    let most = view.width.unwrap_or(COLUMNS);
    let mut lines = head(status, view, now);
    let height = view.lines.unwrap_or(LINES);
    let left = height.saturating_sub(lines.len() + LEAST + 4);
    let (fewest, at_most) = LATELY_LINES;
    let lately = lately(status, most, left.clamp(fewest, at_most), now);
    // Two empty lines, and one for the prompt.
    let taken = lines.len() + lately.len() + 3;
    let room = if view.all { usize::MAX } else { height.saturating_sub(taken).max(LEAST) };
    let table = table(chosen, &status.following, most, room);
    for part in [table, lately] {
        if !part.is_empty() {
            lines.push((Tone::Plain, String::new()));
            lines.extend(part);
        }
    }
    lines
}

/// The verdict, what needs attention, and which gateway it is.
pub(super) fn head(status: &Status, view: View, now: i64) -> Vec<Line> {
    let most = view.width.unwrap_or(COLUMNS);
    let findings = health::findings(status, now);
    let mut lines = Vec::new();
    let (tone, verdict) = verdict(status, &findings);
    lines.extend(wrapped(&verdict, most, 2).into_iter().map(|line| (tone, line)));
    lines.extend(details(&findings, most, if view.all { usize::MAX } else { DETAILS }));
    let until = status.certificate_expires - now;
    let certificate = if until < 0 {
        format!("certificate EXPIRED {} ago", clock::span(until))
    } else {
        format!("certificate good for {}", clock::span(until))
    };
    let Status { site, node, version, pid, .. } = status;
    let gateway = format!("site {site} on {node}, replgate {version}, process {pid}; {certificate}");
    lines.extend(wrapped(&gateway, most, 2).into_iter().map(|line| (Tone::Plain, line)));
    let old: u64 = status.links.iter().map(|link| link.lanes_to_replace).sum();
    if old > 0 {
        let words = format!("moving to another certificate: {old} connections still use the earlier one");
        lines.extend(wrapped(&words, most, 2).into_iter().map(|line| (Tone::Plain, line)));
    }
    if !view.wide {
        lines.extend(following(
            status,
            most,
            if view.all { (usize::MAX, usize::MAX) } else { FOLLOWING },
            now,
        ));
    }
    if status.links.is_empty() {
        let offers = [("masters offered", &status.masters), ("far masters offered", &status.replicas)];
        for (what, offered) in offers.into_iter().filter(|(_, offered)| !offered.is_empty()) {
            let words = format!("{what}: {}", names(offered, NAMES));
            lines.extend(wrapped(&words, most, 2).into_iter().map(|line| (Tone::Plain, line)));
        }
    }
    lines
}

/// Who is followed, for each entry that follows a master.
fn following(status: &Status, most: usize, room: (usize, usize), now: i64) -> Vec<Line> {
    let mut all: Vec<&FollowStatus> = status.following.iter().collect();
    let awaited = Awaited::of(status);
    all.sort_by_key(|entry| std::cmp::Reverse(health::of_following(&awaited, entry)));
    let (entries, of_one) = room;
    let mut lines = Vec::new();
    for entry in all.iter().take(entries) {
        let tone = match health::of_following(&awaited, entry) {
            Level::Bad => Tone::Bad,
            Level::Look => Tone::Warning,
            _ => Tone::Plain,
        };
        let mut words = wrapped(&follow_words::sentence(entry, now), most, 2);
        if words.len() > of_one {
            words.truncate(of_one);
            let rest = words.pop().unwrap_or_default();
            words.push(cut(&format!("{rest} ..."), most));
        }
        lines.extend(words.into_iter().map(|line| (tone, line)));
    }
    let left = all.len().saturating_sub(entries);
    lines.extend((left > 0).then(|| (Tone::Dim, cut(&format!("and {left} more that follow: --wide"), most))));
    lines
}

/// What is known of each finding and its next step, in at most `room` lines, but the first of them whole. What
/// does not fit is left out whole: a step that is cut misleads.
fn details(findings: &[Finding], most: usize, room: usize) -> Vec<Line> {
    let (mut lines, mut is_all) = (Vec::new(), true);
    for finding in findings {
        let tone = if finding.level == Level::Bad { Tone::Bad } else { Tone::Warning };
        let next = wrapped_after("  next: ", &finding.next, most, 4);
        let mut known: Vec<String> = Vec::new();
        for (at, detail) in finding.details.iter().enumerate() {
            let detail = wrapped_after("  ", detail, most, 4);
            let fits = lines.len() + known.len() + detail.len() + next.len() <= room;
            if fits || (at == 0 && lines.is_empty()) {
                known.extend(detail);
            } else {
                is_all = false;
                break;
            }
        }
        if known.is_empty() {
            break;
        }
        lines.extend(known.into_iter().chain(next).map(|line| (tone, line)));
    }
    lines.extend((!is_all).then(|| (Tone::Dim, "  more: --all".to_owned())));
    lines
}

/// The first line: whether all is well, and of what.
fn verdict(status: &Status, findings: &[Finding]) -> (Tone, String) {
    let level = health::level(findings);
    let what: Vec<&str> =
        findings.iter().filter(|finding| finding.level == level).map(|finding| &*finding.what).collect();
    let what = what.join("; ");
    if level == Level::Bad {
        return (Tone::Bad, format!("NOT WELL: {what}"));
    }
    let links = match &*states(&status.links.iter().collect::<Vec<_>>()) {
        [] => "no link".to_owned(),
        [(state, 1)] => format!("1 link, {state}"),
        [(state, many)] => format!("{many} links, all {state}"),
        several => format!("{} links: {}", status.links.len(), listed(several)),
    };
    if level == Level::Look {
        (Tone::Warning, format!("ok: {links}; but {what}"))
    } else {
        (Tone::Good, format!("ok: {links}"))
    }
}

/// The lines about links, at most `room` of them.
fn table(all: &[&LinkStatus], following: &[FollowStatus], most: usize, room: usize) -> Vec<Line> {
    // The other connection of a sync belongs to a link that is shown.
    let is_whole = |link: &&&LinkStatus| link.replication.as_ref().is_none_or(|part| part.part_of.is_none());
    let mut shown: Vec<&LinkStatus> = all.iter().filter(is_whole).copied().collect();
    shown.sort_by_key(|link| !is_unwell(link));
    if shown.is_empty() {
        return Vec::new();
    }
    if shown.len() < room {
        return links::table(&rows(&shown, following), most);
    }
    // What is unwell, and then all of them summed up, half and half.
    let unwell = shown.iter().filter(|link| is_unwell(link)).count();
    let (first, mut lines) = (unwell.min((room / 2).saturating_sub(2)), Vec::new());
    if first > 0 {
        lines.extend(links::table(&rows(&shown[..first], following), most));
        if unwell > first {
            lines.push((
                Tone::Dim,
                cut(&format!("and {} more that are not well: --unwell", unwell - first), most),
            ));
        }
    }
    let room = room.saturating_sub(lines.len());
    lines.extend(sums(&shown, most, room));
    lines
}

/// A row for each link. Links of the same name and site show their numbers.
fn rows<'a>(links: &[&'a LinkStatus], following: &[FollowStatus]) -> Vec<Row<'a>> {
    let masters: HashSet<&str> =
        following.iter().filter(|entry| entry.role == "master").map(|entry| &*entry.name).collect();
    let mut alike: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    let key = |link: &'a LinkStatus| (&*link.name, &*link.role, &*link.site);
    links.iter().for_each(|link| *alike.entry(key(link)).or_default() += 1);
    let row = |link: &&'a LinkStatus| Row {
        link,
        numbered: alike[&key(link)] > 1,
        follows: link.role == "master" && masters.contains(&*link.name),
    };
    links.iter().map(row).collect()
}

/// The links summed up by name and site, those with unwell ones and then the most links first.
fn sums(links: &[&LinkStatus], most: usize, room: usize) -> Vec<Line> {
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&LinkStatus>> = BTreeMap::new();
    for link in links {
        groups.entry((&link.name, &link.role, &link.site)).or_default().push(link);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    let unwell = |group: &[&LinkStatus]| group.iter().filter(|link| is_unwell(link)).count();
    groups.sort_by_key(|group| std::cmp::Reverse((unwell(group), group.len())));
    // A line for the head, and one for those that have none.
    let shown = if groups.len() < room { groups.len() } else { room.saturating_sub(2).max(1) };
    let more = groups.len() - shown;
    let mut lines = links::sums(&groups[..shown], most);
    if more > 0 {
        let left: usize = groups[shown..].iter().map(Vec::len).sum();
        let words = format!("and {more} more names and sites with {left} links: --all, --master, --site");
        lines.push((Tone::Dim, cut(&words, most)));
    }
    lines
}

/// The sum of a group of links: how many are in which state, the greatest lag, and bytes a second to
/// replicas.
pub(super) fn sum(group: &[&LinkStatus]) -> (String, String, String) {
    let lags = group.iter().filter_map(|link| link.replication.as_ref()?.lag_seconds);
    let lag = lags.reduce(f64::max).map_or_else(String::new, span);
    let bytes: u64 =
        group.iter().filter_map(|link| link.to_replica_bytes_per_second).fold(0, u64::saturating_add);
    (listed(&states(group)), lag, rate(bytes as f64))
}

/// The latest events, and the links that have ended without one, in at most `room` lines under a heading. Those
/// about links come before refusals and reloads, which may be many.
fn lately(status: &Status, most: usize, room: usize, now: i64) -> Vec<Line> {
    let events = status.events.iter().filter(|event| !event.is_routine());
    let (of_links, others): (Vec<&Event>, Vec<&Event>) = events.partition(|event| event.is_of_a_link());
    let of_others = others.len().min(LATELY - OF_LINKS).max(LATELY.saturating_sub(of_links.len()));
    let of_links = of_links.into_iter().take(LATELY - of_others.min(others.len()));
    let mut shown: Vec<Event> = of_links.chain(others.iter().take(of_others).copied()).cloned().collect();
    let is_told =
        |number| status.events.iter().any(|event| event.link == Some(number) && event.end.is_some());
    let ended = status.ended.iter().filter(|ended| !is_told(ended.link.number)).take(LATELY);
    shown.extend(ended.map(|ended| Event {
        at: ended.at,
        kind: notice::DOWN.to_owned(),
        name: Some(ended.link.name.clone()),
        site: Some(ended.link.site.clone()),
        link: Some(ended.link.number),
        words: format!("link down: {}", ended.reason),
        ..Event::default()
    }));
    shown.sort_by_key(|event| std::cmp::Reverse((event.at, event.number)));
    shown.truncate(LATELY);
    if shown.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![cut("lately (replgate events tells more):", most)];
    for event in &shown {
        let age = format!("  {:>10}  ", format!("{} ago", whole_span((now - event.at).max(0) as f64)));
        let mut words = wrapped_after(&age, &event.sentence(), most, width(&age));
        if words.len() > EVENT_LINES {
            words.truncate(EVENT_LINES);
            // What does not fit is cut as a whole, so that the last line says that there is more.
            let rest = words.pop().unwrap_or_default();
            words.push(cut(&format!("{rest} ..."), most));
        }
        if lines.len() + words.len() > room + 1 {
            break;
        }
        lines.extend(words);
    }
    lines.into_iter().map(|line| (Tone::Plain, line)).collect()
}
