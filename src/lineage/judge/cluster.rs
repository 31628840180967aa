//! Runs a judge against a model of Redis servers that are written to, promoted, demoted, killed, started
//! again with and without their data, and hidden from the gateway, in any order.
//!
//! The model keeps every byte. So it can be seen whether what was followed by itself has all bytes that a
//! replica at another site got.

use proptest::prelude::*;

use super::*;

const NODES: usize = 3;

/// A Redis with its data: the byte at offset `n` is `data[n - 1]`, and no byte is written twice.
#[derive(Clone, Debug)]
struct Node {
    data: Vec<u32>,
    history: History,
    earlier: Option<(History, u64)>,
    run: u32,
    /// Whom it follows.
    follows: Option<usize>,
    up: bool,
    /// Whether the gateway reaches it.
    seen: bool,
}

impl Node {
    fn standing(&self) -> Standing {
        Standing {
            history: self.history,
            offset: self.data.len() as u64,
            earlier: self.earlier,
            run: Some(self.run.to_string()),
        }
    }

    fn look(&self) -> Look {
        match (self.up && self.seen, self.follows) {
            (false, _) => Look::Away("does not answer".to_owned()),
            (true, None) => Look::Master { standing: self.standing() },
            (true, Some(_)) => {
                Look::Other { standing: Some(self.standing()), words: "is a replica".to_owned() }
            }
        }
    }
}

/// The replica at the other site.
#[derive(Debug, Default)]
struct Far {
    data: Vec<u32>,
    history: Option<History>,
    full_syncs: u32,
}

#[derive(Debug)]
struct Cluster {
    nodes: Vec<Node>,
    ids: u32,
    bytes: u32,
    far: Far,
    judge: Judge,
    now: i64,
}

/// What Redis decides on `PSYNC history have+1`.
fn continues(master: &Node, history: History, have: u64) -> bool {
    (master.history == history && have <= master.data.len() as u64)
        || master.earlier.is_some_and(|(earlier, differs_from)| earlier == history && have < differs_from)
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    /// A replica asks its master for a sync, and gets this many bytes of the stream.
    Sync(usize, u8),
    Promote(usize),
    Demote(usize, usize),
    /// It follows another one for a moment that the gateway does not see.
    Detour(usize, usize),
    Kill(usize),
    StartBlank(usize),
    /// With its data and a new history, as up to Redis 6.2, or from an AOF.
    StartRenamed(usize),
    /// With its data and its history as the earlier one, as from Redis 7.0.
    StartAsSuccessor(usize),
    Rename(usize),
    Hide(usize),
    Show(usize),
    /// The link passes on this many bytes.
    Pass(u8),
    /// The gateway is started again, in good order or not.
    Restart(bool),
    Look,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            ids: 0,
            bytes: 0,
            far: Far::default(),
            judge: Judge::new(NODES, None, None),
            now: 0,
        };
        for number in 0..NODES {
            let follows = (number > 0).then_some(0);
            let (history, run) = (cluster.id(), cluster.ids);
            let node = Node { data: Vec::new(), history, earlier: None, run, follows, up: true, seen: true };
            cluster.nodes.push(node);
        }
        cluster
    }

    fn id(&mut self) -> History {
        self.ids += 1;
        History::read(format!("{:0>40}", format!("f{}", self.ids)).as_bytes()).unwrap()
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Write(at, count) => {
                for _ in 0..count {
                    self.bytes += 1;
                    let (bytes, node) = (self.bytes, &mut self.nodes[at]);
                    if node.up && node.follows.is_none() {
                        node.data.push(bytes);
                    }
                }
            }
            Step::Sync(at, count) => self.sync(at, count.into()),
            Step::Promote(at) => {
                let id = self.id();
                let node = &mut self.nodes[at];
                if node.up && node.follows.take().is_some() {
                    node.earlier = Some((node.history, node.data.len() as u64 + 1));
                    node.history = id;
                }
            }
            Step::Demote(at, to) => {
                if at != to && self.nodes[at].up {
                    self.nodes[at].follows = Some(to);
                }
            }
            Step::Detour(at, to) => {
                self.run(&Step::Demote(at, to));
                self.sync(at, 100);
                self.run(&Step::Promote(at));
            }
            Step::Kill(at) => self.nodes[at].up = false,
            Step::StartBlank(at) => self.start(at, |node, _| {
                node.data.clear();
                node.earlier = None;
            }),
            Step::StartRenamed(at) => self.start(at, |node, _| node.earlier = None),
            Step::StartAsSuccessor(at) => self.start(at, |node, before| {
                node.earlier = Some((before, node.data.len() as u64 + 1));
            }),
            Step::Rename(at) => {
                let id = self.id();
                let node = &mut self.nodes[at];
                if node.up && node.follows.is_none() {
                    (node.history, node.earlier) = (id, None);
                }
            }
            Step::Hide(at) => self.nodes[at].seen = false,
            Step::Show(at) => self.nodes[at].seen = true,
            Step::Pass(count) => self.pass(count.into()),
            Step::Restart(in_order) => {
                let known = self.judge.followed().cloned();
                let known =
                    known.map(|known| Followed { passed: known.passed.filter(|_| in_order), ..known });
                self.judge = Judge::new(NODES, known, self.judge.present());
            }
            Step::Look => self.look(),
        }
    }

    fn start(&mut self, at: usize, change: impl FnOnce(&mut Node, History)) {
        let id = self.id();
        let run = self.ids;
        let node = &mut self.nodes[at];
        if !node.up {
            let before = node.history;
            (node.up, node.follows, node.history, node.run) = (true, None, id, run);
            change(node, before);
        }
    }

    /// What Redis does between a replica and its master.
    fn sync(&mut self, at: usize, count: usize) {
        let Some(from) = self.nodes[at].follows else { return };
        let (master, node) = (self.nodes[from].clone(), self.nodes[at].clone());
        if !master.up || !node.up {
            return;
        }
        let have = node.data.len() as u64;
        let mut until = master.data.len();
        let node = &mut self.nodes[at];
        if !continues(&master, node.history, have) {
            node.earlier = None;
        } else {
            until = until.min(node.data.len() + count);
            if node.history != master.history {
                node.earlier = Some((node.history, have + 1));
            }
        }
        (node.data, node.history) = (master.data[..until].to_vec(), master.history);
    }

    /// The far replica asks the one that is followed for a sync, and gets some bytes.
    fn pass(&mut self, count: usize) {
        let Some(Present { party, .. }) = self.judge.present() else { return };
        let node = &self.nodes[party];
        if !node.up || !node.seen || node.follows.is_some() {
            return;
        }
        let have = self.far.data.len();
        if !self.far.history.is_some_and(|history| continues(node, history, have as u64)) {
            self.far.full_syncs += 1;
            self.far.data = node.data.clone();
        }
        self.far.history = Some(node.history);
        let until = node.data.len().min(self.far.data.len() + count);
        self.far.data = node.data[..until].to_vec();
        self.judge.passes(node.history, Some(until as u64));
    }

    fn look(&mut self) {
        self.now += 1;
        let before = self.judge.present();
        let looks: Vec<_> = self.nodes.iter().map(Node::look).collect();
        self.judge.step(&looks, &Sentinels::None, self.now);
        let Some(present) = self.judge.present() else { return };
        let node = &self.nodes[present.party];
        if matches!(looks[present.party], Look::Away(_)) {
            assert_eq!(Some(present), before, "nobody is followed who does not answer");
            return;
        }
        assert_eq!(node.follows, None, "a replica is never followed");
        // Whatever has led here, nothing that the far replica has may be missing.
        assert!(
            node.data.starts_with(&self.far.data),
            "{present:?} has {:?}, and {:?} was passed on",
            node.data,
            self.far.data
        );
    }
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..NODES;
    prop_oneof![
        4 => (at.clone(), 1u8..5).prop_map(|(at, count)| Step::Write(at, count)),
        4 => (at.clone(), 0u8..8).prop_map(|(at, count)| Step::Sync(at, count)),
        1 => (at.clone(), at.clone()).prop_map(|(at, to)| Step::Detour(at, to)),
        2 => at.clone().prop_map(Step::Promote),
        2 => (at.clone(), at.clone()).prop_map(|(at, to)| Step::Demote(at, to)),
        1 => at.clone().prop_map(Step::Kill),
        1 => at.clone().prop_map(Step::StartBlank),
        1 => at.clone().prop_map(Step::StartRenamed),
        1 => at.clone().prop_map(Step::StartAsSuccessor),
        1 => at.clone().prop_map(Step::Rename),
        1 => at.clone().prop_map(Step::Hide),
        2 => at.prop_map(Step::Show),
        6 => (1u8..8).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Restart),
        6 => Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_followed_by_itself_has_every_byte_that_was_passed_on(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut cluster = Cluster::new();
        steps.iter().for_each(|step| cluster.run(step));
    }

    #[test]
    fn a_planned_promotion_is_followed_without_a_full_sync(
        writes in 0u8..9,
        passed in 0u8..9,
        later in 0u8..9,
        seen_between in any::<bool>(),
        to in 1usize..NODES,
    ) {
        let mut cluster = Cluster::new();
        let all = |cluster: &mut Cluster| (0..NODES).for_each(|at| cluster.run(&Step::Sync(at, 100)));
        cluster.run(&Step::Write(0, writes));
        all(&mut cluster);
        for step in [Step::Look, Step::Pass(passed), Step::Look] {
            cluster.run(&step);
        }
        cluster.run(&Step::Promote(to));
        if seen_between {
            cluster.run(&Step::Look);
        }
        cluster.run(&Step::Write(to, later));
        for at in (0..NODES).filter(|at| *at != to) {
            cluster.run(&Step::Demote(at, to));
        }
        all(&mut cluster);
        for step in [Step::Look, Step::Pass(100)] {
            cluster.run(&step);
        }
        prop_assert_eq!(cluster.judge.present().map(|present| present.party), Some(to));
        prop_assert_eq!(cluster.far.full_syncs, 1, "the first one");
        prop_assert_eq!(&cluster.far.data, &cluster.nodes[to].data);
    }
}
