//! The last events of this process, as `replgate events` shows them.
//!
//! An event is a line that was logged at info or above ([`Recorder`] takes it from there), so that none
//! has to be reported twice, and nothing is kept that the log does not show: the lines are throttled
//! already, and what a far side says is escaped. Memory is bounded: by the number of events of each
//! class, so that strangers who are refused push out no event of a link, and by the bytes of each event.

mod recorder;

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

pub use self::recorder::Recorder;
use super::{Kind, notice};

/// Most bytes of an event's words that are kept.
const WORDS: usize = 400;

/// Most bytes of a name or a code that are kept: as many as a name may have.
const NAME: usize = 253;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up within the process.
    pub number: u64,
    /// When, seconds since 1970.
    pub at: i64,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// The code of its kind.
    pub kind: String,
    /// The name of the `[[master]]` or `[[replica]]` that it is about.
    pub name: Option<String>,
    /// The far site that it is about.
    pub site: Option<String>,
    /// The number of the link that it is about.
    pub link: Option<u64>,
    /// Of a link that has ended: the code of the end.
    pub end: Option<String>,
    /// Of a link that the far side has ended: the name of its reason.
    pub reason: Option<String>,
    /// Of a break or a lost lane: the code of its cause.
    pub cause: Option<String>,
    /// Of a link that has ended: how long it was up. Of one that was resumed: how long it was held.
    pub seconds: Option<f64>,
    /// Lines of its kind that were left out before it.
    pub more: Option<u64>,
    /// What the log says.
    pub words: String,
    /// The address of who connected.
    #[serde(default)]
    pub from: Option<String>,
}

/// What kept events are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// What happened to links that were up.
    Link,
    /// Links that a replica here asked for and did not get, or that ended before their sync.
    Attempt,
    /// Connections, links and requests that were refused here, and clients that asked for nothing.
    Refused,
    /// What happened to the gateway: starts, reloads, certificates.
    Gateway,
}

impl Class {
    const ALL: [Self; 4] = [Self::Link, Self::Attempt, Self::Refused, Self::Gateway];

    /// Most events of it that are kept; 300 in all.
    fn most(self) -> usize {
        match self {
            Self::Link => 120,
            Self::Attempt => 40,
            Self::Refused => 80,
            Self::Gateway => 60,
        }
    }

    /// The class of events with this code.
    fn of(code: &str) -> Self {
        let Some(kind) = Kind::of(code) else { return notice::class(code) };
        match kind {
            Kind::Held
            | Kind::Resumed
            | Kind::LaneLost
            | Kind::NoNewLaneYet
            | Kind::Uncovered
            | Kind::Slowed
            | Kind::SiteDoubt => Self::Link,
            Kind::Starved | Kind::Congestion | Kind::NoPasswordWanted | Kind::MasterDoubt => Self::Gateway,
            Kind::NoLink
            | Kind::Declined
            | Kind::Complaint
            | Kind::CommandRefused
            | Kind::Broken
            | Kind::NoSync
            | Kind::Renamed => Self::Attempt,
            // Whoever reaches a port can cause most of these.
            Kind::CrowdedOut
            | Kind::NotTls
            | Kind::Tls
            | Kind::Alert
            | Kind::UnknownCa
            | Kind::Dates
            | Kind::Revoked
            | Kind::Certificate
            | Kind::NoHello
            | Kind::BadHello
            | Kind::SiteCrowded
            | Kind::Mismatch
            | Kind::Version
            | Kind::NotOffered
            | Kind::NotAllowed
            | Kind::RedisDown
            | Kind::NoMaster
            | Kind::Limit
            | Kind::UnknownLink
            | Kind::Busy
            | Kind::WrongInstance
            | Kind::ListRefused
            | Kind::ListStale
            | Kind::Stopping
            | Kind::NotAClient
            | Kind::ClientCrowdedOut
            | Kind::WrongPassword
            | Kind::NoPassword
            | Kind::PasswordFile
            | Kind::Guessing
            | Kind::NotAsked
            | Kind::AdminRefused
            | Kind::AdminCrowdedOut => Self::Refused,
        }
    }
}

/// What makes events alike: the kind, and of links also the name and the site.
type Group<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

impl Event {
    /// Whether it says what the config does already: what is offered at a start, and where.
    pub fn is_routine(&self) -> bool {
        [notice::OFFERING, notice::LISTENING, notice::SANDBOX].contains(&&*self.kind)
    }

    /// Whether it is about a link, or about one that was asked for and not opened.
    pub fn is_of_a_link(&self) -> bool {
        matches!(Class::of(&self.kind), Class::Link | Class::Attempt)
    }

    /// What it is about, what the log says, for how long a link was up or held, who was refused, and how many
    /// more there were: `orders dc1 #5: link resumed: … (was held for 3.5 s)`.
    pub fn sentence(&self) -> String {
        let about: Vec<&str> = [&self.name, &self.site].into_iter().flatten().map(|name| &**name).collect();
        let number = self.link.map_or_else(String::new, |number| format!(" #{number}"));
        let about = if about.is_empty() { String::new() } else { format!("{}{number}: ", about.join(" ")) };
        let seconds = self.seconds.map_or_else(String::new, |seconds| {
            let was = if self.end.is_some() { "up" } else { "held" };
            format!(" (was {was} for {seconds:.1} s)")
        });
        let from = self
            .from
            .as_ref()
            .filter(|from| Class::of(&self.kind) == Class::Refused && !self.words.contains(&***from));
        let from = from.map_or_else(String::new, |from| format!(" (from {from})"));
        // A line that is only about those that were left out has their number in its words.
        let is_said = |more: &u64| self.words.starts_with(&format!("{more} more "));
        let more = self.more.filter(|more| !is_said(more));
        let more = more.map_or_else(String::new, |more| format!(" (and {more} more before)"));
        format!("{about}{}{seconds}{from}{more}", self.words)
    }

    fn group(&self, class: Class) -> Group<'_> {
        match class {
            Class::Link => (&self.kind, self.name.as_deref(), self.site.as_deref()),
            _ => (&self.kind, None, None),
        }
    }

    /// The event with all text cut to its bounds.
    fn bounded(mut self) -> Self {
        cut(&mut self.words, WORDS);
        cut(&mut self.kind, NAME);
        let Self { name, site, end, reason, cause, from, .. } = &mut self;
        let texts = [name, site, end, reason, cause, from];
        texts.into_iter().flatten().for_each(|text| cut(text, NAME));
        self
    }
}

/// Cuts a text and gives the memory back.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text.shrink_to_fit();
}

/// The last events of one process.
#[derive(Debug, Default)]
pub struct Events {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    /// By class, in the order of [`Class::ALL`]; the oldest first.
    classes: [VecDeque<Event>; Class::ALL.len()],
}

impl Events {
    /// Keeps an event, which gets its number here. If its class is full, the oldest of the most frequent
    /// group goes: one link that breaks all the time leaves the last events of the others alone.
    fn add(&self, event: Event) {
        let (class, event) = (Class::of(&event.kind), event.bounded());
        let mut kept = self.kept.lock().expect("no code panics while it holds the events");
        kept.next += 1;
        let number = kept.next;
        let events = &mut kept.classes[class as usize];
        events.push_back(Event { number, ..event });
        if events.len() > class.most() {
            let mut groups: HashMap<Group<'_>, usize> = HashMap::new();
            events.iter().for_each(|event| *groups.entry(event.group(class)).or_default() += 1);
            let most = groups.values().max().copied();
            let oldest = events.iter().position(|event| groups.get(&event.group(class)).copied() == most);
            events.remove(oldest.unwrap_or(0));
        }
    }

    /// All that are kept, the latest first.
    pub fn latest(&self) -> Vec<Event> {
        let kept = self.kept.lock().expect("no code panics while it holds the events");
        let mut all: Vec<Event> = kept.classes.iter().flatten().cloned().collect();
        drop(kept);
        all.sort_unstable_by_key(|event| std::cmp::Reverse(event.number));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, name: &str, words: &str) -> Event {
        Event { kind: kind.into(), name: Some(name.into()), words: words.into(), ..Event::default() }
    }

    fn kinds(events: &Events) -> HashMap<String, usize> {
        let mut kinds = HashMap::new();
        events.latest().into_iter().for_each(|event| *kinds.entry(event.kind).or_default() += 1);
        kinds
    }

    #[test]
    fn a_sentence_has_what_it_is_about_and_each_number_once() {
        let (site, link) = (Some("dc1".to_owned()), Some(5));
        let resumed = Event {
            site,
            link,
            seconds: Some(3.46),
            more: Some(2),
            ..event("resumed", "orders", "link resumed")
        };
        let sentence = "orders dc1 #5: link resumed (was held for 3.5 s) (and 2 more before)";
        assert_eq!(resumed.sentence(), sentence);
        let down = Event { end: Some("far".to_owned()), more: None, ..resumed };
        assert_eq!(down.sentence(), "orders dc1 #5: link resumed (was up for 3.5 s)");
        let left_out = Event { more: Some(2), ..event("held", "orders", "2 more breaks begun") };
        assert_eq!(left_out.sentence(), "orders: 2 more breaks begun");
        let from = Some("192.0.2.7:4000".to_owned());
        let refused = Event { from, name: None, ..event("not-tls", "", "connection refused: no TLS") };
        assert_eq!(refused.sentence(), "connection refused: no TLS (from 192.0.2.7:4000)");
        assert_eq!(Event { kind: "up".to_owned(), ..refused }.sentence(), "connection refused: no TLS");
        assert_eq!(Event { words: "gateway up".to_owned(), ..Event::default() }.sentence(), "gateway up");
    }

    #[test]
    fn refused_strangers_push_out_no_event_of_a_link_and_not_those_of_other_kinds() {
        let events = Events::default();
        events.add(event(notice::UP, "orders", "link up"));
        events.add(event("revoked", "", "revoked"));
        events.add(event("no-link", "orders", "no link"));
        (0..10_000).for_each(|_| events.add(event("not-tls", "", "no TLS")));
        let strangers = ["admin-refused", "admin-crowded-out", "not-asked", "client-crowded-out"];
        for kind in strangers {
            (0..10_000).for_each(|_| events.add(event(kind, "", "refused")));
        }
        let kept = kinds(&events);
        assert_eq!((kept["up"], kept["revoked"], kept["no-link"]), (1, 1, 1));
        let sum: usize = strangers.iter().map(|kind| kept[*kind]).sum();
        assert_eq!(sum + kept["not-tls"], 79, "{kept:?}");
        (0..10_000).for_each(|_| events.add(event("no-link", "other", "no link")));
        assert_eq!(kinds(&events)["no-link"], 40);
    }

    #[test]
    fn a_link_that_breaks_all_the_time_leaves_the_events_of_the_others() {
        let events = Events::default();
        (0..50).for_each(|at| events.add(event(notice::UP, &format!("quiet-{at}"), "link up")));
        for _ in 0..1000 {
            events.add(event("held", "loud", "link held"));
            events.add(event("resumed", "loud", "link resumed"));
        }
        let kinds = kinds(&events);
        assert_eq!((kinds["up"], kinds["held"], kinds["resumed"]), (50, 35, 35));
        // More links than events: the latest count.
        (0..600).for_each(|at| events.add(event(notice::DOWN, &format!("link-{at}"), "link down")));
        let latest = events.latest();
        assert_eq!(latest[0].name.as_deref(), Some("link-599"));
        assert!(latest.is_sorted_by_key(|event| std::cmp::Reverse(event.number)));
    }

    #[test]
    fn what_a_start_with_many_entries_tells_leaves_the_start_itself() {
        let events = Events::default();
        events.add(event(notice::START, "", "gateway up"));
        (0..600).for_each(|at| events.add(event(notice::OFFERING, &format!("m{at}"), "offering a master")));
        assert_eq!(kinds(&events)["start"], 1);
    }

    #[test]
    fn all_that_is_kept_has_few_bytes_however_long_the_lines_are() {
        let events = Events::default();
        let long = "ä".repeat(100_000);
        for kind in ["up", "held", "no-link", "not-tls", "reload", "one that is new"] {
            for _ in 0..1000 {
                let name = Some(long.clone());
                events.add(Event { site: name.clone(), end: name.clone(), ..event(kind, &long, &long) });
            }
        }
        let all = events.latest();
        let most: usize = Class::ALL.iter().map(|class| class.most()).sum();
        assert_eq!((all.len(), most), (most, 300));
        let bytes: usize = all.iter().map(|event| serde_json::to_string(event).unwrap().len()).sum();
        assert!(bytes < 500_000, "{bytes}");
        assert!(all[0].words.ends_with("ä...") && all[0].words.len() == WORDS + 3);
    }
}
