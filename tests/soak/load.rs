//! A master and its replica at another site, under a steady load and watched all the time.

use std::time::{Duration, Instant};

use crate::gap::Gap;
use crate::results::{Results, Syncs};
use crate::support::census::Census;
use crate::support::line::{Line, Standing};
use crate::support::path::Towards;
use crate::support::redis::{Redis, Version};
use crate::support::writer::{Values, Writer};
use crate::support::{SOON, eventually};

/// Bytes a second that are written all the time: five times the backlog.
pub const RATE: u64 = 5_000_000;

/// How far a replica may be behind the writes and count as caught up.
const CLOSE: f64 = 0.1;

/// A [`Line`] under load.
pub struct Soak {
    census: Census,
    gap: Gap,
    pub line: Line,
    writer: Writer,
    before: Standing,
    rate: u64,
    within: Duration,
}

impl Soak {
    /// A line with these additional lines in the config of either gateway.
    pub fn new(config: &str) -> Self {
        Self::with(config, config, RATE, Values::Random)
    }

    /// A line with these additional lines for the gateway of dc1 and dc2, under such writes.
    pub fn with(first: &str, second: &str, rate: u64, values: Values) -> Self {
        let line = Line::apart(Version::System, first, second);
        let census = Census::of(&line.alpha, 1);
        line.follow();
        line.bravo.wait_equal(&line.alpha);
        let before = line.standing();
        let writer = Writer::with(&line.alpha, rate, values);
        line.arrives(rate as i64, SOON);
        let gap = Gap::of(&line.bravo);
        Self { census, gap, line, writer, before, rate, within: SOON }
    }

    /// Sets how long the replica may take to catch up.
    pub fn may_take(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// The syncs at the beginning.
    pub fn syncs(&self) -> Syncs {
        Syncs { full: self.before.sync_full, partial: self.before.sync_partial_ok }
    }

    /// Waits until the replica has what has been written so far, and the next tenth of a second of it, and
    /// is close behind the master: what had passed before a break does not count. Returns how long
    /// that took.
    #[track_caller]
    pub fn catches_up(&self) -> Duration {
        self.census.check();
        let close = (self.rate as f64 * CLOSE) as i64;
        let (wanted, began) = (self.line.alpha.master_offset() + close, Instant::now());
        eventually("the replica has caught up", self.within, || {
            let (written, applied) = (self.line.alpha.master_offset(), self.line.bravo.replica_offset());
            applied >= wanted && written - applied < close
        });
        began.elapsed()
    }

    /// Does something to the line until the replica has caught up. Returns how long that took after
    /// the deed, and the longest time in which the replica's offset did not move.
    #[track_caller]
    pub fn through(&mut self, deed: impl FnOnce(&mut Line)) -> Break {
        self.gap.take();
        deed(&mut self.line);
        let caught_up = self.catches_up();
        Break { caught_up, gap: self.gap.take() }
    }

    /// As [`Soak::through`]. Asserts that there was neither a resync nor a new link.
    #[track_caller]
    pub fn survives(&mut self, what: &str, deed: impl FnOnce(&mut Line)) -> Break {
        let survived = self.through(deed);
        assert_eq!(self.line.standing(), self.before, "syncs and links after {what}");
        survived
    }

    /// Ends the load. Asserts the same data and offsets, without a resync or a new link, and prints the
    /// results.
    #[track_caller]
    pub fn ends(self, what: &str, breaks: &[Break]) {
        let (syncs, before) = (self.syncs(), self.before.clone());
        let line = self.ends_in_sync();
        assert_eq!(line.standing(), before, "full syncs, partial resyncs and links are what they were");
        let [resent, times] = ["resent_bytes", "breaks"].map(|field| line.first.count(field));
        Break::add(breaks, Results::new(what, syncs, &line.alpha))
            .note(&format!("{times} breaks"))
            .bytes("resent", resent)
            .bytes("carried to dc2", line.path.crossed(Towards::Dialler))
            .print();
    }

    /// As [`Soak::ends`], for links that have ended meanwhile. The caller asserts which syncs that
    /// took.
    #[track_caller]
    pub fn ends_after_restarts(self, what: &str, breaks: &[Break], words: &str) {
        let syncs = self.syncs();
        let line = self.ends_in_sync();
        Break::add(breaks, Results::new(what, syncs, &line.alpha))
            .note(words)
            .bytes("carried to dc2", line.path.crossed(Towards::Dialler))
            .print();
    }

    /// Ends the load. Asserts the same data and offsets, and that the census found nothing.
    #[track_caller]
    fn ends_in_sync(self) -> Line {
        let Self { census, gap, line, writer, .. } = self;
        assert!(writer.stop() > 0, "something was written");
        drop(gap);
        in_sync(&line.alpha, &[&line.bravo]);
        census.end();
        line
    }
}

/// What a break did to a replica.
#[derive(Clone, Copy, Debug)]
pub struct Break {
    /// How long the replica took to catch up once the path or the gateway was back.
    pub caught_up: Duration,
    /// The longest time in which its offset did not move.
    pub gap: Duration,
}

impl Break {
    /// Adds breaks to the results.
    pub fn add<'a>(breaks: &[Self], results: Results<'a>) -> Results<'a> {
        let all = |which: fn(&Self) -> Duration| breaks.iter().map(which).collect::<Vec<_>>();
        results.seconds("gap", &all(|one| one.gap)).seconds("caught up after", &all(|one| one.caught_up))
    }

    /// The longest of each.
    pub fn longest(breaks: &[Self]) -> Self {
        let most = |which: fn(&Self) -> Duration| breaks.iter().map(which).max().unwrap_or_default();
        Self { caught_up: most(|one| one.caught_up), gap: most(|one| one.gap) }
    }
}

/// Asserts that these are all replicas of a master that no longer writes, that each has the same data,
/// and that the master lists each as online at its own offset.
#[track_caller]
pub fn in_sync(alpha: &Redis, replicas: &[&Redis]) {
    for replica in replicas {
        replica.wait_equal(alpha);
    }
    assert_eq!(alpha.listed(), (replicas.len() as i64, replicas.len()), "the master lists its replicas");
    eventually("every replica has acknowledged the master's offset", SOON, || {
        let info = alpha.ask(&["INFO", "replication"]);
        let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        let wanted = format!(",offset={},", offset.expect("a master tells its offset").trim());
        info.lines().filter(|line| line.starts_with("slave") && line.contains(&wanted)).count()
            == replicas.len()
    });
}

/// Sleeps: these tests are about the duration of a break.
pub fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}
