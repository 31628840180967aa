//! Bounds the number of log lines, so that nobody can fill the log.
//!
//! Every throttled line belongs to a [`Topic`]: the kind of event, and the configured name that it
//! is about. Values that a stranger chooses (addresses, dates, claimed names, the text of a
//! certificate) are never part of a topic. So the config bounds the number of topics, and no topic
//! uses up the lines of another. Within a minute a topic gets a few lines, all of them different.
//! Further lines are counted. The topic's next line gives the count; if no line follows, the count
//! gets a line of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::LinkEntry;
use crate::config::{Config, Master, Replica};

/// Period over which the lines of a topic are bounded.
const WINDOW: Duration = Duration::from_secs(60);

/// Most lines of one topic within [`WINDOW`].
const LINES: usize = 5;

/// Most lines about resumed links within [`WINDOW`], repeated ones included: an operator counts
/// them.
const BREAKS: usize = 20;

/// Time given to a topic's next line to give the count, before the count gets a line of its own.
const GRACE: Duration = Duration::from_secs(2);

/// Most bytes of a line that are remembered.
const REMEMBERED: usize = 300;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal: $counted:ident, $words:literal;)+) => {
        /// The kind of event that a line is about. Kinds that a stranger can cause are separate
        /// from those that need a certificate, or a local client's address.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)+
        }

        impl Kind {
            /// The code in the log's field `kind`. A code never changes its meaning.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// Every kind.
            const ALL: &[Self] = &[$(Self::$name,)+];
            /// The kind with this code.
            pub(super) fn of(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }

            /// The code of every kind.
            pub const CODES: &[&str] = &[$($code,)+];

            /// The words for several of them.
            fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)+ }
            }

            pub(super) fn counted(self) -> Counted {
                match self { $(Self::$name => Counted::$counted,)+ }
            }
        }
    };
}

/// The field of [`Counts`](super::Counts) that counts a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Refused,
    Failed,
    Not,
}

kinds! {
    /// The oldest connection without a certificate was closed to make room for a new one.
    CrowdedOut = "crowded-out": Refused, "connections refused: too many that have shown no certificate";
    /// Something else connected to the TLS port.
    NotTls = "not-tls": Refused, "connections refused: no TLS";
    /// TLS failed for another reason than a certificate.
    Tls = "tls": Refused, "connections refused: TLS";
    /// The far side ended TLS with an alert.
    Alert = "alert": Refused, "connections refused: ended by an alert";
    /// A certificate of another CA.
    UnknownCa = "unknown-ca": Refused, "connections refused: certificates of another CA";
    /// A certificate that is expired or not valid yet.
    Dates = "dates": Refused, "connections refused: certificates that are expired or not valid yet";
    /// A certificate that is revoked.
    Revoked = "revoked": Refused, "connections refused: revoked certificates";
    /// A certificate that is wrong in another way.
    Certificate = "certificate": Refused, "connections refused: certificates";
    /// No HELLO came in time.
    NoHello = "no-hello": Refused, "connections refused: no hello in time";
    /// The first frame was not a HELLO.
    BadHello = "bad-hello": Refused, "connections refused: no HELLO as the first frame";
    /// Too many lanes of one site waited at a time.
    SiteCrowded = "site-crowded": Refused, "lanes refused: too many of one site at a time";
    /// The claimed site is not in the certificate.
    Mismatch = "mismatch": Refused, "links refused: the HELLO names another site than the certificate";
    /// A protocol version that is not supported here.
    Version = "version": Refused, "links refused: another protocol version";
    /// A master that is not in the config.
    NotOffered = "not-offered": Refused, "links refused: a master that is not offered";
    /// A master that the site may not replicate.
    NotAllowed = "not-allowed": Refused, "links refused: a master that the site may not replicate";
    /// The master's Redis cannot be reached, or refuses the login.
    RedisDown = "redis-down": Refused, "links refused: the master's Redis is down";
    /// It is not known which Redis is the master.
    NoMaster = "no-master": Refused, "links refused: no Redis is known to be the master";
    /// A Redis that says that it is the master is not followed, or the one that is followed is away.
    MasterDoubt = "master-doubt": Not, "masters that are not followed";
    /// The site has reached its limit of links.
    Limit = "limit": Refused, "links refused: too many";
    /// A lane asks for a link that does not exist.
    UnknownLink = "unknown-link": Refused, "lanes refused: no such link";
    /// A lane whose link has too many lanes waiting.
    Busy = "busy": Refused, "lanes refused: their link is busy or about to end";
    /// The replica's other connection runs over another gateway.
    WrongInstance = "wrong-instance": Refused, "links refused: another gateway carries the replica's other connection";
    /// A revocation list of another gateway that is not believed.
    ListRefused = "list-refused": Not, "revocation lists refused";
    /// A site whose issuer's revocation list is stale here.
    ListStale = "list-stale": Refused, "links refused: stale revocation lists";
    /// The gateway stops.
    Stopping = "stopping": Refused, "links refused: the gateway stops";
    /// A client that is not in `clients`.
    NotAClient = "not-a-client": Refused, "clients refused: not in `clients`";
    /// The oldest client that was not accepted yet was closed to make room for a new one.
    ClientCrowdedOut = "client-crowded-out": Refused, "clients refused: too many that are not accepted yet";
    /// A client that sent a wrong password.
    WrongPassword = "wrong-password": Refused, "clients refused: a wrong password";
    /// A client that sent no password.
    NoPassword = "no-password": Refused, "clients refused: no password";
    /// The `password_file` cannot be read.
    PasswordFile = "password-file": Refused, "clients refused: the password file cannot be read";
    /// Too many other clients are trying passwords.
    Guessing = "guessing": Refused, "clients refused: too many passwords are being tried";
    /// A client that left before it asked for a sync.
    NotAsked = "not-asked": Not, "clients left without asking for a sync";
    /// A site that offers a master is not followed, or the one that is followed is not reached.
    SiteDoubt = "site-doubt": Not, "sites that are not followed, or not reached";
    /// A link that this side asked for and did not get.
    NoLink = "no-link": Failed, "links not opened";
    /// The master requires no password although `auth` is set.
    NoPasswordWanted = "no-password-wanted": Not, "logins at a Redis that requires no password";
    /// A link that ended because a request was declined.
    Declined = "declined": Not, "links ended: declined";
    /// A link that ended after Redis had reported an error.
    Complaint = "complaint": Not, "links ended: Redis objects";
    /// A link that ended for a command that is not part of replication, before its sync.
    CommandRefused = "command-refused": Not, "links ended: commands that are not part of replication";
    /// A link that was lost or aborted before its sync had begun.
    Broken = "broken": Not, "links lost before their sync had begun";
    /// A link that ended in good order before its sync had begun.
    NoSync = "no-sync": Not, "links ended before their sync had begun";
    /// A replica's address was in use for another.
    Renamed = "renamed": Not, "replicas listed by another name";
    /// The configured congestion control is not available.
    Congestion = "congestion": Not, "connections without the configured congestion control";
    /// Connections cannot be accepted for lack of resources.
    Starved = "starved": Not, "connections that could not be accepted";
    /// The admin listener has refused a request.
    AdminRefused = "admin-refused": Not, "requests to the admin listener refused";
    /// The oldest connection to the admin listener was closed to make room for a new one.
    AdminCrowdedOut = "admin-crowded-out": Not, "connections to the admin listener closed: too many at a time";
    /// A site costs more CPU time than its share.
    Slowed = "slowed": Not, "sites slowed for the CPU time that they cost";
    /// One of a link's lanes was lost.
    LaneLost = "lane-lost": Not, "lanes lost";
    /// A break has begun.
    Held = "held": Not, "breaks begun";
    /// A dial for a held link failed.
    NoNewLaneYet = "no-new-lane-yet": Not, "failed dials for held links";
    /// Memory for an outage lasts for less than `hold`.
    Uncovered = "uncovered": Not, "links whose outages are not covered by memory for all of `hold`";
    /// A break is over.
    Resumed = "resumed": Not, "breaks survived";
}

impl Kind {
    /// The kinds of what this side refuses.
    pub(super) fn refusals() -> impl Iterator<Item = Self> {
        let refuses = |kind: &Self| kind.counted() == Counted::Refused || *kind == Self::ListRefused;
        Self::ALL.iter().copied().filter(refuses)
    }

    /// The part of a line that distinguishes it from earlier ones of this kind. Digits do not
    /// count, since they are those of clocks, counters and ports, except where they identify a
    /// local client.
    fn shape(self, words: &str) -> String {
        let digits = matches!(
            self,
            Self::NotAClient | Self::WrongPassword | Self::NoPassword | Self::PasswordFile | Self::Renamed
        );
        words.chars().filter(|letter| digits || !letter.is_ascii_digit()).collect()
    }
}

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    kind: Kind,
    name: Option<String>,
    site: Option<String>,
}

impl Topic {
    /// A topic without a name of the config.
    pub fn of(kind: Kind) -> Self {
        Self { kind, name: None, site: None }
    }

    /// About a master that this site offers.
    pub fn master(kind: Kind, master: &Master) -> Self {
        Self { kind, name: Some(master.name.clone()), site: None }
    }

    /// About a `[[replica]]`.
    pub fn replica(kind: Kind, replica: &Replica) -> Self {
        Self { kind, name: Some(replica.name.clone()), site: None }
    }

    /// About a link that is up: its names are in the config, but the site may be spelled with other
    /// capitals.
    pub fn link(kind: Kind, link: &LinkEntry) -> Self {
        Self { kind, name: Some(link.name.clone()), site: Some(link.site.to_ascii_lowercase()) }
    }

    /// Also about this site, if it is in an `allow`. Other sites have no topic of their own.
    pub fn at_site(self, config: &Config, site: &str) -> Self {
        let allowed = config.masters.iter().flat_map(|master| &master.allow);
        let site = allowed.into_iter().find(|allowed| allowed.eq_ignore_ascii_case(site));
        Self { site: site.map(|site| site.to_ascii_lowercase()), ..self }
    }

    /// The code of its kind; see [`Kind::code`].
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// The permission to log a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Number of lines of its topic that were suppressed before it, if any.
    pub more: Option<u64>,
}

/// Lines of one topic that were counted and not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// Whether it is logged as a warning.
    pub is_fault: bool,
    /// The code of their kind; see [`Kind::code`].
    pub kind: &'static str,
    /// What the lines were about.
    pub words: &'static str,
    /// The configured name that it is about.
    pub name: Option<String>,
    /// The site that it is about.
    pub site: Option<String>,
    /// How many.
    pub more: u64,
    /// The last of them.
    pub last: String,
}

/// The lines of one topic within [`WINDOW`].
#[derive(Debug)]
struct Window {
    since: Instant,
    lines: usize,
    /// The shapes of the lines; see [`Kind::shape`].
    shapes: Vec<String>,
    more: u64,
    last: String,
}

/// The recent lines, by topic.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    topics: HashMap<Topic, Window>,
}

impl LogThrottle {
    /// Whether a line with these words may be logged. If not, it is counted.
    pub(super) fn allow(&mut self, topic: Topic, words: &str, now: Instant) -> Option<Line> {
        let window = self.topics.entry(topic.clone()).or_insert_with(|| Window::new(now));
        let mut more = None;
        if now.saturating_duration_since(window.since) >= WINDOW {
            more = (window.more > 0).then_some(window.more);
            *window = Window::new(now);
        }
        let shape = topic.kind.shape(cut(words));
        let (new, most) = match topic.kind {
            Kind::Resumed => (true, BREAKS),
            _ => (!window.shapes.contains(&shape), LINES),
        };
        if new && window.lines < most {
            window.lines += 1;
            window.shapes.push(shape);
            return Some(Line { more });
        }
        window.more += 1;
        cut(words).clone_into(&mut window.last);
        None
    }

    /// The topic has recovered: the same words may be logged again, within the lines that the topic
    /// has left.
    pub(super) fn forget(&mut self, topic: &Topic) {
        if let Some(window) = self.topics.get_mut(topic) {
            window.shapes.clear();
        }
    }

    /// The suppressed lines of topics whose minute is long over, because no line has given the
    /// count.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<Suppressed> {
        self.drain(|window| now.saturating_duration_since(window.since) >= WINDOW + GRACE)
    }

    /// All suppressed lines.
    pub(super) fn take_all(&mut self) -> Vec<Suppressed> {
        self.drain(|_| true)
    }

    fn drain(&mut self, which: impl Fn(&Window) -> bool) -> Vec<Suppressed> {
        let over = self.topics.extract_if(|_, window| which(window));
        over.filter(|(_, window)| window.more > 0)
            .map(|(topic, window)| Suppressed {
                is_fault: !matches!(
                    topic.kind,
                    Kind::LaneLost | Kind::Resumed | Kind::NoSync | Kind::NotAsked
                ),
                kind: topic.kind.code(),
                words: topic.kind.words(),
                name: topic.name,
                site: topic.site,
                more: window.more,
                last: window.last,
            })
            .collect()
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0, shapes: Vec::new(), more: 0, last: String::new() }
    }
}

fn cut(words: &str) -> &str {
    let mut end = words.len().min(REMEMBERED);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    &words[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_document_lists_every_kind() {
        let document = include_str!("../../docs/logs.md");
        for code in Kind::CODES {
            assert!(document.contains(&format!("| `{code}` |")), "{code}");
        }
    }

    #[test]
    fn what_strangers_choose_gets_few_lines_and_is_counted() {
        let (mut throttle, now) = (LogThrottle::default(), Instant::now());
        let mut lines = 0;
        for letter in "abcdefghijklmnopqrstuvwxyz".chars() {
            for day in 0..50 {
                let words = format!("it expired on day {day} of {letter}");
                lines += usize::from(throttle.allow(Topic::of(Kind::Dates), &words, now).is_some());
            }
        }
        assert_eq!(lines, LINES);
        // Another kind has its own lines.
        assert_eq!(throttle.allow(Topic::of(Kind::UnknownCa), "no CA", now), Some(Line { more: None }));
        assert!(throttle.take_overdue(now + WINDOW).is_empty(), "its next line may still tell the count");
        let suppressed = throttle.take_overdue(now + WINDOW + GRACE);
        assert_eq!(suppressed.len(), 1);
        assert_eq!((suppressed[0].more, &*suppressed[0].last), (1295, "it expired on day 49 of z"));
        assert!(throttle.topics.is_empty());
    }

    #[test]
    fn the_same_line_is_logged_once_a_minute_with_the_count() {
        let (mut throttle, now) = (LogThrottle::default(), Instant::now());
        let topic = || Topic::of(Kind::NoLink);
        for second in 0..60 {
            let words = format!("it expired at 12:00:00; this host's clock says 12:00:{second}");
            let line = throttle.allow(topic(), &words, now + Duration::from_secs(second));
            assert_eq!(line.is_some(), second == 0);
        }
        let line =
            throttle.allow(topic(), "it expired at 12:00:00; this host's clock says 12:01:00", now + WINDOW);
        assert_eq!(line, Some(Line { more: Some(59) }));
        assert!(throttle.take_all().is_empty());
    }

    #[test]
    fn a_topic_that_has_recovered_is_logged_again_but_does_not_flood() {
        let (mut throttle, now) = (LogThrottle::default(), Instant::now());
        let topic = Topic::of(Kind::NoLink);
        let logged = (0..20).filter(|_| {
            let line = throttle.allow(topic.clone(), "down", now);
            throttle.forget(&topic);
            line.is_some()
        });
        assert_eq!(logged.count(), LINES);
        assert_eq!(throttle.take_all()[0].more, 15);
    }
}
