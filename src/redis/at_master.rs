//! The tap at the master's site: the allow-list, and the observer behind it.

use std::time::Instant;

use super::answer::{self, Answer};
use super::command::{self, Parsed};
use super::gate::Gate;
use super::observer::Observer;
use crate::buffer::Chunk;
use crate::tap::{Flow, MAX_HELD, Overdue, Position, Tap, Verdict};

/// The tap of one link at the master's site.
#[derive(Debug)]
pub struct AtMaster {
    gate: Gate,
    observer: Observer,
    /// Whether the replica has sent anything, and whether the master has.
    spoken: (bool, bool),
}

impl AtMaster {
    /// `gate` judges what the replica sends; `observer` sees what passes.
    pub fn new(gate: Gate, observer: Observer) -> Self {
        Self { gate, observer, spoken: (false, false) }
    }

    fn replica_says(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        self.spoken.0 = true;
        let parsed = command::parse(bytes);
        let verdict = self.gate.replica_says(&parsed, now);
        match (&verdict, &parsed) {
            (Verdict::Pass(_), Parsed::Command { arguments, .. }) => self.observer.asked(arguments, now),
            // The replica's stream begins where it has asked: what comes before the master's is
            // recalled.
            (Verdict::Replace(..), Parsed::Command { arguments, .. }) if self.gate.asked_for_later() => {
                self.observer.asked(arguments, now);
            }
            // The master gets this command in place of the replica's, or before it.
            (Verdict::Replace(_, command) | Verdict::Insert(command), _) => {
                if let Some(b'*') = command.first()
                    && let Parsed::Command { arguments, .. } = command::parse(command)
                {
                    self.observer.asked(&arguments, now);
                }
            }
            (Verdict::Stop { reason, .. }, Parsed::Command { arguments, .. }) => {
                self.observer.refused(reason, command::asks_for_a_sync(arguments));
            }
            (Verdict::Stop { reason, .. }, _) => self.observer.refused(reason, false),
            _ => {}
        }
        verdict
    }

    fn master_says(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        self.spoken.1 = true;
        if self.to_recall() > 0 {
            return Verdict::Hold;
        }
        let open = self.gate.is_open();
        if open && !self.observer.reads_lines() {
            self.observer.sent(bytes, now);
            return if self.observer.is_lost() { Verdict::Detach } else { Verdict::Pass(bytes.len()) };
        }
        if !open && answer::is_tls(bytes) {
            let reason = format!("the master's Redis: {}", answer::SPEAKS_TLS);
            self.observer.refused(&reason, false);
            let reply = self.gate.last_words(&reason);
            return Verdict::Stop { pass: 0, reply, reason, breach: false };
        }
        match answer::parse(bytes) {
            Answer::Newlines(count) => Verdict::Pass(count),
            Answer::Incomplete => Verdict::Hold,
            Answer::TooLong if open => {
                self.observer.lose("a line before the snapshot");
                Verdict::Detach
            }
            Answer::TooLong => self.gate.master_raves(),
            Answer::Line { length, text } => {
                // The observer must not take it for what passes.
                if let Some(verdict) = self.gate.begins_another_stream(text) {
                    if let Verdict::Stop { reason, .. } = &verdict {
                        self.observer.refused(reason, true);
                    }
                    return verdict;
                }
                self.observer.answered(text, now);
                if open {
                    return Verdict::Pass(length);
                }
                let verdict = self.gate.master_says(text, &bytes[..length]);
                if self.gate.migrates_slots() {
                    self.observer.lose("a migration of slots");
                }
                if let Verdict::Stop { reason, .. } = &verdict {
                    self.observer.refused(reason, false);
                }
                verdict
            }
        }
    }
}

impl Tap for AtMaster {
    fn look(&mut self, flow: Flow, bytes: &[u8], now: Instant) -> Verdict {
        match flow {
            Flow::ToMaster => self.replica_says(bytes, now),
            Flow::ToReplica => self.master_says(bytes, now),
        }
    }

    fn overdue(&self) -> Overdue {
        self.gate.overdue()
    }

    fn closed(&self) -> Option<(Vec<u8>, String)> {
        let reason = format!("the master's Redis {}", answer::CLOSES);
        (self.spoken == (true, false)).then(|| (self.gate.last_words(&reason), reason))
    }

    fn may_be_asked_again(&self) -> Option<u64> {
        self.observer.unacknowledged().filter(|_| self.gate.is_found_again())
    }

    fn position(&self) -> Option<Position> {
        self.observer.position()
    }

    fn looks_at_most(&self) -> usize {
        // The master's stream may come with its answer, and waits for what is recalled.
        if self.gate.asked_for_later() { MAX_HELD } else { usize::MAX }
    }

    fn to_recall(&self) -> u64 {
        self.gate.to_recall()
    }

    fn recall(&mut self, most: usize, now: Instant) -> Option<Chunk> {
        let chunk = self.gate.take_recalled(most)?;
        self.observer.sent(chunk.bytes(), now);
        Some(chunk)
    }

    fn is_bulk(&self) -> bool {
        self.observer.is_in_snapshot()
    }

    fn may_wait(&self, flow: Flow, bytes: &[u8]) -> bool {
        flow == Flow::ToReplica
            && self.observer.is_streaming()
            && !command::asks_for_an_acknowledgement(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::gate::Rules;
    use super::super::judged::Judged;
    use super::super::replication::{Observed, SyncKind};
    use super::super::returning::Predecessors;
    use super::*;
    use crate::lineage::{History, Standing};
    use crate::memory::Budget;
    use crate::tap::{Action, Driver, Recall, Remembered};

    const ID: &str = "0123456789012345678901234567890123456789";
    const OTHER: &str = "9876543210987654321098765432109876543210";

    const EARLIER: &str = "5555555555555555555555555555555555555555";

    /// The byte of the stream at this offset.
    fn at(offset: u64) -> u8 {
        b'a' + (offset % 23) as u8
    }

    fn stream(from: u64, next: u64) -> Vec<u8> {
        (from..next).map(at).collect()
    }

    /// An earlier link that has received the bytes from `first` up to `next`, in pieces.
    #[derive(Debug)]
    struct Earlier {
        first: u64,
        next: u64,
        piece: usize,
    }

    impl Earlier {
        fn with(first: u64, next: u64, piece: usize) -> Self {
            Self { first, next, piece }
        }

        fn without_bytes() -> Self {
            Self::with(1, 1, 1)
        }
    }

    impl Predecessors for Earlier {
        fn have_left(&mut self, _: Option<u16>) -> bool {
            true
        }

        fn recall(&mut self, asked: Option<(&[u8], u64)>) -> Option<Recall> {
            let (history, from) = asked?;
            let chunks: VecDeque<Chunk> =
                stream(self.first, self.next).chunks(self.piece).map(Chunk::copied).collect();
            let position = Position { history: ID.to_owned(), next: self.next, passed: u64::MAX };
            Remembered::new(position, chunks, Budget::new(0).share("dc2")).since(history, from).ok()
        }
    }

    /// A link whose replica has an earlier one.
    struct Link {
        tap: AtMaster,
        drivers: [Driver; 2],
        master: Vec<u8>,
        replica: Vec<u8>,
        end: Option<String>,
        observed: Arc<Observed>,
        now: Instant,
    }

    impl Link {
        fn after(earlier: Earlier) -> Self {
            Self::with(Rules { failover: true, dump: true, ..Rules::default() }, earlier)
        }

        fn with(rules: Rules, earlier: Earlier) -> Self {
            let observed = Observed::new(Arc::default());
            let gate = Gate::new("dc1", rules).after(Box::new(earlier));
            Self {
                tap: AtMaster::new(gate, Observer::new(Arc::clone(&observed))),
                drivers: Default::default(),
                master: Vec::new(),
                replica: Vec::new(),
                end: None,
                observed,
                now: Instant::now(),
            }
        }

        /// A link to a master whose stream was judged when the link was opened, if `judged`: it has the id
        /// [`ID`], and had [`EARLIER`].
        fn to_followed(judged: bool, rules: &Rules) -> Self {
            let mut link = Self::with(rules.clone(), Earlier::without_bytes());
            let id = |text: &str| History::read(text.as_bytes()).unwrap();
            let standing =
                Standing { history: id(ID), offset: 100, earlier: Some((id(EARLIER), 90)), run: None };
            let gate = Gate::new("dc1", rules.clone());
            link.tap.gate = if judged { gate.only(Judged::of(&standing)) } else { gate };
            link
        }

        /// What the replica gets if its master answers this sync with this.
        fn gets(mut self, introduction: &[&str], sync: &str, answer: &str) -> (String, Self) {
            self.asks(introduction, sync);
            self.say(Flow::ToReplica, answer.as_bytes());
            (String::from_utf8(std::mem::take(&mut self.replica)).unwrap(), self)
        }

        fn say(&mut self, flow: Flow, bytes: &[u8]) {
            let driver = &mut self.drivers[usize::from(flow == Flow::ToReplica)];
            let actions =
                driver.through(&mut self.tap, flow, Chunk::copied(bytes), bytes.len() as u64, self.now);
            self.act(flow, actions);
        }

        fn act(&mut self, flow: Flow, actions: Vec<Action>) {
            for action in actions {
                match action {
                    Action::Forward { chunk, .. } if flow == Flow::ToMaster => {
                        self.master.extend_from_slice(chunk.bytes());
                    }
                    Action::Forward { chunk, .. } => self.replica.extend_from_slice(chunk.bytes()),
                    Action::Answer(reply) => self.replica.extend(reply),
                    Action::Stop { reply, reason, .. } => {
                        self.replica.extend(reply);
                        self.end = Some(reason);
                    }
                }
            }
        }

        /// Passes everything from memory, in pieces of this size.
        fn recall(&mut self, most: usize) {
            while self.tap.to_recall() > 0 {
                let chunk = self.tap.recall(most, self.now).expect("there is more");
                self.replica.extend_from_slice(chunk.bytes());
                if self.tap.to_recall() == 0 {
                    let actions = self.drivers[1].again(&mut self.tap, Flow::ToReplica, self.now);
                    self.act(Flow::ToReplica, actions);
                }
            }
        }

        /// The replica introduces itself with these commands, and then asks for its sync. Returns what
        /// the master gets for that.
        fn asks(&mut self, introduction: &[&str], sync: &str) -> Vec<u8> {
            for command in introduction {
                self.say(Flow::ToMaster, format!("{command}\r\n").as_bytes());
                self.say(Flow::ToReplica, b"+OK\r\n");
            }
            self.master.clear();
            self.say(Flow::ToMaster, format!("{sync}\r\n").as_bytes());
            // The gateway's own REPLCONF comes first.
            assert!(self.master.starts_with(b"*"), "{:?}", self.end);
            self.master.clear();
            self.say(Flow::ToReplica, b"+OK\r\n");
            let actions = self.drivers[0].again(&mut self.tap, Flow::ToMaster, self.now);
            self.act(Flow::ToMaster, actions);
            self.replica.clear();
            std::mem::take(&mut self.master)
        }
    }

    const INTRODUCTION: [&str; 3] =
        ["PING", "REPLCONF listening-port 6380", "REPLCONF capa eof capa psync2 capa rdb-channel-repl"];

    fn psync(id: &str, from: u64) -> Vec<u8> {
        command::encode(&[&b"PSYNC"[..], id.as_bytes(), from.to_string().as_bytes()])
    }

    #[test]
    fn whatever_does_not_continue_the_earlier_link_passes_as_it_came() {
        let capable = |capa: &'static str| ["REPLCONF listening-port 6380", capa];
        let plain = capable("REPLCONF capa psync2");
        let cases: [(&[&str], String, &str); 10] = [
            (&plain, "PSYNC ? -1".into(), "it has no history"),
            (&plain, format!("PSYNC {OTHER} 150"), "it has another history"),
            (&plain, format!("PSYNC {ID} 99"), "it lacks bytes that are not kept"),
            (&plain, format!("PSYNC {ID} 201"), "it lacks nothing that is known"),
            (&plain, format!("PSYNC {ID} 200"), "it has everything"),
            (&plain, format!("PSYNC {ID} -1"), "it names no offset"),
            (&plain, format!("PSYNC {ID} 150 FAILOVER"), "it would be promoted"),
            (&capable("REPLCONF capa zstd"), format!("PSYNC {ID} 150"), "its stream may be compressed"),
            (&capable("REPLCONF capa activeExpire"), format!("PSYNC {ID} 150"), "a capability is not known"),
            (&capable("REPLCONF rdb-only 0"), format!("PSYNC {ID} 150"), ""),
        ];
        for (introduction, sync, why) in cases {
            let mut link = Link::after(Earlier::with(100, 200, 7));
            let passed = link.asks(introduction, &sync);
            if why.is_empty() {
                assert_eq!(passed, psync(ID, 200), "the one that continues");
                continue;
            }
            assert_eq!(passed, format!("{sync}\r\n").as_bytes(), "{why}");
            link.say(Flow::ToReplica, format!("+CONTINUE {ID}\r\n*1").as_bytes());
            assert_eq!(link.tap.to_recall(), 0, "{why}");
            assert_eq!(link.replica, format!("+CONTINUE {ID}\r\n*1").as_bytes(), "{why}");
        }
    }

    #[test]
    fn the_main_connection_of_a_sync_over_two_connections_never_continues() {
        let rules = Rules::default();
        let snapshot = rules.grants.member();
        let mut link = Link::with(rules, Earlier::with(100, 200, 7));
        assert_eq!(link.asks(&INTRODUCTION, &format!("PSYNC {ID} 150")), psync(ID, 200));
        link.say(Flow::ToReplica, b"+DUALCHANNELSYNC\r\n");
        snapshot.brings(9);
        link.say(Flow::ToMaster, b"REPLCONF set-rdb-client-id 9\r\n");
        link.say(Flow::ToReplica, b"+OK\r\n");
        link.master.clear();
        let second = format!("PSYNC {ID} 150\r\n").into_bytes();
        link.say(Flow::ToMaster, &second);
        assert_eq!((link.master, link.tap.to_recall(), link.end), (second, 0, None));
    }

    #[test]
    fn any_other_answer_passes_as_it_came_and_nothing_is_recalled() {
        for answer in [
            format!("+FULLRESYNC {ID} 500\r\n$0\r\n"),
            "-LOADING Redis is loading\r\n".into(),
            "-NOMASTERLINK\r\n".into(),
            "-ERR unknown command\r\n".into(),
        ] {
            let mut link = Link::after(Earlier::with(100, 200, 7));
            assert_eq!(link.asks(&INTRODUCTION, &format!("PSYNC {ID} 150")), psync(ID, 200));
            link.say(Flow::ToReplica, answer.as_bytes());
            assert_eq!((link.replica, link.tap.to_recall()), (answer.into_bytes(), 0));
        }
    }

    #[test]
    fn a_master_that_continues_another_history_is_asked_again_without_the_earlier_link() {
        for answer in [format!("+CONTINUE {OTHER}\r\n"), format!("+CONTINUE {}\r\n", &ID[..39])] {
            let mut link = Link::after(Earlier::with(100, 200, 7));
            link.asks(&INTRODUCTION, &format!("PSYNC {ID} 150"));
            link.say(Flow::ToReplica, format!("{answer}*1").as_bytes());
            assert!(link.end.is_some() && link.tap.to_recall() == 0);
            assert!(link.replica.starts_with(b"-LOADING "), "{}", link.replica.escape_ascii());
        }
    }

    #[test]
    fn as_much_of_the_stream_as_may_come_with_the_answer_waits_for_what_is_recalled() {
        let mut link = Link::after(Earlier::with(100, 200, 7));
        assert_eq!(link.tap.looks_at_most(), usize::MAX);
        link.asks(&INTRODUCTION, &format!("PSYNC {ID} 150"));
        let mut answer = format!("+CONTINUE {ID}\r\n").into_bytes();
        let line = answer.clone();
        let next = 200 + (link.tap.looks_at_most() - line.len()) as u64;
        answer.extend(stream(200, next));
        link.say(Flow::ToReplica, &answer);
        assert_eq!((&link.end, link.tap.looks_at_most()), (&None, usize::MAX));
        link.recall(usize::MAX);
        assert_eq!(link.replica, [line, stream(150, next)].concat());
    }

    #[test]
    fn a_stream_is_remembered_from_the_replicas_last_acknowledgement_on() {
        let mut link = Link::after(Earlier::without_bytes());
        link.asks(&INTRODUCTION, &format!("PSYNC {ID} 100"));
        assert_eq!((link.tap.may_be_asked_again(), link.tap.position()), (None, None));
        link.say(Flow::ToReplica, b"+CONTINUE\r\n");
        let position = |next| Position { history: ID.to_owned(), next, passed: next - 100 };
        assert_eq!((link.tap.may_be_asked_again(), link.tap.position()), (Some(0), Some(position(100))));
        link.say(Flow::ToReplica, &stream(100, 150));
        assert_eq!((link.tap.may_be_asked_again(), link.tap.position()), (Some(50), Some(position(150))));
        link.say(Flow::ToMaster, b"REPLCONF ACK 129\r\n");
        assert_eq!(link.tap.may_be_asked_again(), Some(20));
        link.say(Flow::ToMaster, b"REPLCONF ACK 99\r\n");
        assert_eq!(link.tap.may_be_asked_again(), Some(20), "an older one changes nothing");
    }

    #[test]
    fn nothing_is_remembered_of_a_compressed_stream_or_before_the_replica_follows_one() {
        let mut link = Link::after(Earlier::without_bytes());
        link.asks(&INTRODUCTION, &format!("PSYNC {ID} 100"));
        link.say(Flow::ToReplica, b"+CONTINUE\r\nV");
        assert_eq!(link.tap.position(), None, "it may be compressed");
        link.say(Flow::ToReplica, b"CS1");
        assert_eq!((link.tap.may_be_asked_again(), link.tap.position()), (None, None));
        let mut loading = Link::after(Earlier::without_bytes());
        loading.asks(&INTRODUCTION, "PSYNC ? -1");
        loading.say(Flow::ToReplica, format!("+FULLRESYNC {ID} 99\r\n$3\r\nabc*1").as_bytes());
        assert_eq!((loading.tap.may_be_asked_again(), loading.tap.position()), (Some(2), None));
        loading.say(Flow::ToMaster, b"REPLCONF ACK 99\r\n");
        assert_eq!(loading.tap.position().map(|position| position.next), Some(102));
    }

    #[test]
    fn a_replica_that_cannot_be_found_again_leaves_nothing() {
        let mut link = Link::after(Earlier::without_bytes());
        link.asks(&["PING"], &format!("PSYNC {ID} 100"));
        link.say(Flow::ToReplica, b"+CONTINUE\r\nabc");
        assert_eq!(link.tap.may_be_asked_again(), None, "it names no port");
    }

    /// Nothing of the answer has passed, and the replica asks again.
    fn must_ask_again((got, link): (String, Link)) {
        assert!(
            got.starts_with("-LOADING replgate dc1: ") && got.contains("another one than was judged"),
            "{got}"
        );
        assert_eq!(got.matches('\n').count(), 1, "{got}");
        assert!(link.end.is_some() && link.tap.position().is_none());
        let view = link.observed.view(link.now);
        assert_eq!((view.sync, view.replication_id), (None, None), "nothing is recorded as passed");
    }

    #[test]
    fn nothing_passes_of_another_stream_than_was_judged() {
        let rules = Rules::default();
        let continues = format!("PSYNC {ID} 101");
        let after_earlier = format!("PSYNC {EARLIER} 80");
        let others = [
            ("PSYNC ? -1", format!("+FULLRESYNC {OTHER} 0\r\n$0\r\n")),
            ("PSYNC ? -1", format!("+FULLRESYNC {EARLIER} 0\r\n$0\r\n")),
            ("PSYNC ? -1", "+FULLRESYNC\r\n$0\r\n".into()),
            ("PSYNC ? -1", "+CONTINUE\r\n*1".into()),
            ("PSYNC ? -1", "+SOMETHING else\r\n*1".into()),
            (&continues, format!("+FULLRESYNC {OTHER} 0\r\n$0\r\n")),
            (&continues, format!("+CONTINUE {OTHER}\r\n*1")),
            (&continues, format!("+CONTINUE {}\r\n*1", &ID[1..])),
            (&format!("PSYNC {OTHER} 101"), "+CONTINUE\r\n*1".into()),
        ];
        for (sync, answer) in &others {
            must_ask_again(Link::to_followed(true, &rules).gets(&INTRODUCTION, sync, answer));
        }
        let same = [
            ("PSYNC ? -1", format!("+FULLRESYNC {ID} 100\r\n$0\r\n")),
            (&continues, format!("+FULLRESYNC {ID} 100\r\n$0\r\n")),
            (&continues, format!("+CONTINUE {ID}\r\n*1")),
            (&continues, "+CONTINUE\r\n*1".into()),
            (&after_earlier, format!("+CONTINUE {ID}\r\n*1")),
            (&after_earlier, "+CONTINUE\r\n*1".into()),
            (&continues, "-NOMASTERLINK Can't SYNC while not connected with my master\r\n".into()),
        ];
        let every = others.iter().map(|case| (false, case)).chain(same.iter().map(|case| (true, case)));
        for (judged, (sync, answer)) in every {
            let (got, link) = Link::to_followed(judged, &rules).gets(&INTRODUCTION, sync, answer);
            assert_eq!((&got, link.end), (answer, None), "judged: {judged}");
        }
    }

    #[test]
    fn no_snapshot_of_another_stream_passes_on_the_second_connection_of_a_sync() {
        let rules = Rules::default();
        let redis = ["REPLCONF capa eof rdb-only 1 rdb-channel 1 main-ch-client-id 17 listening-port 6380"];
        let valkey = ["REPLCONF capa eof rdb-only 1 rdb-channel 1 listening-port 6380"];
        let full = |id| format!("+FULLRESYNC {id} 100\r\n$0\r\n");
        let ends_at = |id| format!("$ENDOFF:100 {id} 0 9\r\n$0\r\n");
        let cases = [
            ("+RDBCHANNELSYNC 17\r\n", &redis, "PSYNC ? -1", full(OTHER), full(ID)),
            ("+DUALCHANNELSYNC\r\n", &valkey, "SYNC", ends_at(OTHER), ends_at(ID)),
            ("+DUALCHANNELSYNC\r\n", &valkey, "SYNC", "$0\r\n".into(), ends_at(ID)),
        ];
        for (main, introduction, sync, other, same) in cases {
            for (judged, answer) in [(true, &other), (true, &same), (false, &other)] {
                let begun = Link::to_followed(judged, &rules).gets(&INTRODUCTION, "PSYNC ? -1", main);
                assert_eq!((begun.0.as_str(), begun.1.end), (main, None));
                let second = Link::to_followed(judged, &rules).gets(introduction, sync, answer);
                if judged && answer == &other {
                    must_ask_again(second);
                } else {
                    assert_eq!((&second.0, second.1.end), (answer, None), "judged: {judged}");
                }
            }
        }
    }

    #[test]
    fn a_replica_of_a_followed_master_cannot_fall_back_to_a_sync_that_names_no_stream() {
        for (judged, dump) in [(true, false), (true, true), (false, false)] {
            let rules = Rules { dump, ..Rules::default() };
            let unknown = "-ERR unknown command 'PSYNC'\r\n";
            let (_, mut link) = Link::to_followed(judged, &rules).gets(&INTRODUCTION, "PSYNC ? -1", unknown);
            link.say(Flow::ToMaster, b"SYNC\r\n");
            assert_eq!(link.master == b"SYNC\r\n", !judged, "{:?}", link.end);
            let said = String::from_utf8(link.replica).unwrap();
            assert_eq!(said.contains("does not tell which stream"), judged, "{said}");
        }
        // A client that only dumps the data loses none.
        let rules = Rules { dump: true, ..Rules::default() };
        let (got, _) = Link::to_followed(true, &rules).gets(&["PING"], "SYNC", "$0\r\n");
        assert_eq!(got, "$0\r\n");
    }

    proptest! {
        #[test]
        fn a_replica_that_continues_gets_every_byte_of_its_master_once(
            (first, length) in (2u64..500, 1u64..500),
            before in 0u64..700,
            later in 0u64..300,
            (piece, most) in (1usize..200, 1usize..200),
            cut in 1usize..400,
            named in any::<bool>(),
        ) {
            let next = first + length;
            let from = next.saturating_sub(before).max(1);
            let mut link = Link::after(Earlier::with(first, next, piece));
            let asked = link.asks(&INTRODUCTION, &format!("PSYNC {ID} {from}"));
            let continues = (first..next).contains(&from);
            let expected = if continues { psync(ID, next) } else { format!("PSYNC {ID} {from}\r\n").into_bytes() };
            prop_assert_eq!(asked, expected);
            // The master continues where it was asked to.
            let begin = if continues { next } else { from };
            let mut answer = if named { format!("+CONTINUE {ID}\r\n") } else { "+CONTINUE\r\n".into() }.into_bytes();
            let line = answer.clone();
            answer.extend(stream(begin, begin + later));
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let (some, more) = rest.split_at(cut.min(rest.len()));
                link.say(Flow::ToReplica, some);
                link.recall(most);
                rest = more;
            }
            prop_assert_eq!(&link.end, &None);
            prop_assert_eq!(&link.replica, &[line, stream(from, begin + later)].concat());
            let view = link.observed.view(link.now);
            prop_assert_eq!((view.sync, view.master_offset), (Some(SyncKind::Partial), Some(begin + later - 1)));
            prop_assert_eq!(link.tap.may_be_asked_again(), Some(begin + later - from));
            let next = begin + later;
            prop_assert_eq!(
                link.tap.position(),
                Some(Position { history: ID.to_owned(), next, passed: next - from })
            );
            // Its first acknowledgement says what it had before.
            let ack = format!("REPLCONF ACK {}\r\n", from - 1);
            link.say(Flow::ToMaster, ack.as_bytes());
            prop_assert_eq!(link.master, ack.into_bytes());
            prop_assert_eq!(link.tap.may_be_asked_again(), Some(next - from));
        }
    }
}
