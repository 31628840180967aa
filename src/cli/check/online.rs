//! The steps that wait for others. All of them begin at once; their findings are told in their
//! order.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::WHOLE;
use super::candidate::Candidate;
use super::codes::Code;
use super::facts::{self, Facts};
use super::far_sites;
use super::followed::{self, Seen};
use super::host;
use super::loops;
use super::names;
use super::process::Process;
use super::redis::{self, Tried};
use super::replicas;
use super::report::{Finding, Report};
use super::running;
use super::sentinels::{self, Said};
use super::settings;
use super::words::redis_cli;
use super::{addresses, masters};
use crate::admin::Status;
use crate::client::Unasked;
use crate::config::{Auth, Commands, Config, Master, Replica, Sentinel};
use crate::follow::FollowStatus;
use crate::race;
use crate::tls::material::Material;
use crate::units::{self, Address};

/// Most names, Redis servers and gateways that are asked at a time.
const AT_A_TIME: usize = 128;

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The user that reads the settings of each Redis.
    pub(super) login: Option<Auth>,
    /// Replicas of this site.
    pub(super) replicas: Vec<Address>,
}

/// What a master's Redis has answered.
struct AskedMaster {
    tried: Tried,
    facts: Option<Result<Facts, Unasked>>,
}

impl AskedMaster {
    /// What it is, to be compared with the others.
    fn seen(&self, candidate: &Candidate, config: &Config, known: &loops::Known<'_>) -> Seen {
        let facts =
            self.facts.as_ref().and_then(|facts| facts.as_ref().ok()).filter(|facts| facts.is_known());
        let role = || {
            let role = match self.tried.role.as_ref()?.code {
                Code::RedisMaster => "master",
                _ => "slave",
            };
            Some(Facts { info: HashMap::from([("role".to_owned(), role.to_owned())]), ..Facts::default() })
        };
        let (redis, answers) = (candidate.redis.clone(), self.tried.answers);
        let through = facts.and_then(|facts| loops::through(config, facts, known)).map(Replica::sites);
        Seen { redis, answers, facts: facts.cloned().or_else(role), through }
    }
}

/// What the Sentinels of a master have answered, and the Redis that they name, where the config names none.
struct AskedSentinels {
    said: Vec<Said>,
    named: Option<(Candidate, AskedMaster)>,
}

/// Everything that is asked for one master.
struct Asking {
    candidates: Vec<(Candidate, JoinHandle<AskedMaster>)>,
    sentinels: Option<JoinHandle<AskedSentinels>>,
}

impl Asking {
    fn of(master: &Arc<Master>, gate: &Arc<Semaphore>, login: &Option<Auth>) -> Self {
        let ask = |candidate: Candidate| {
            let asked = bounded(gate, ask_master(candidate.clone(), login.clone()));
            (candidate, asked)
        };
        let candidates = Candidate::of(master).into_iter().map(ask).collect();
        let sentinels = master
            .sentinel
            .clone()
            .map(|sentinel| bounded(gate, ask_sentinels(Arc::clone(master), sentinel, login.clone())));
        Self { candidates, sentinels }
    }
}

/// What a replica has answered.
struct AskedReplica {
    facts: Result<Facts, Unasked>,
    /// The addresses of the master that it names.
    follows: Vec<IpAddr>,
}

/// Looks at everything that is not a file.
pub(super) async fn check(config: &Config, material: Option<Material>, wanted: Wanted, report: &mut Report) {
    let until = Instant::now() + WHOLE;
    let gate = Arc::new(Semaphore::new(AT_A_TIME));
    let Wanted { login, replicas } = wanted;
    let looked = places(config, &replicas).into_iter().map(|place| {
        let look = bounded(&gate, {
            let place = place.clone();
            async move { names::look(&place).await }
        });
        (place, look)
    });
    let looked: Vec<_> = looked.collect();
    let asked_masters: Vec<_> =
        config.masters.iter().map(|master| Asking::of(master, &gate, &login)).collect();
    let asked_replicas: Vec<_> =
        replicas.iter().map(|redis| bounded(&gate, ask_replica(redis.clone(), login.clone()))).collect();

    let (running, said) = running::ask(config).await;
    let running = running.as_ref();
    let carried = running.cloned().map(|status| tokio::spawn(running::carried(config.clone(), status)));
    report.extend(said);
    report.extend(running::judge(config, running));
    report.extend(addresses::check(config, running));
    let kernel = host::Kernel::read();
    report.add(host::memory(config));
    report.extend(host::state(config));
    let process = running.and_then(|status| Process::read(status.pid));
    report.extend(host::history(config, process.and_then(|process| process.has_state)));
    report.extend(kernel.judge(config));

    let mut names = HashMap::new();
    for (place, look) in looked {
        if let Ok(Ok(found)) = timeout_at(until, look).await {
            names.insert(place, found);
        }
    }
    let places: HashMap<Address, Vec<SocketAddr>> = names
        .iter()
        .map(|(place, looked)| (place.clone(), looked.addresses().unwrap_or_default().to_vec()))
        .collect();
    let known = loops::Known { places: &places, is_local: &is_local };

    let mut here = HashSet::new();
    for (master, Asking { candidates, sentinels }) in config.masters.iter().zip(asked_masters) {
        report.extend(masters::judge(config, master));
        let about = format!("master {:?}", master.name);
        let mut seen = Vec::new();
        for (candidate, asked) in candidates {
            if let Some(looked) = names.get(&candidate.redis) {
                let codes = [Code::MasterNameSlow, Code::MasterNameChanges];
                report.extend(names::judge(&candidate.redis, looked, codes, &about));
            }
            match timeout_at(until, asked).await {
                Ok(Ok(asked)) => {
                    seen.push(asked.seen(&candidate, config, &known));
                    let facts = asked.facts.as_ref().and_then(|facts| facts.as_ref().ok());
                    report.extend(loops::of_master(config, &candidate, facts, &known));
                    report.extend(of_master(config, &candidate, asked, running, login.as_ref()));
                }
                _ => {
                    let text = format!("{about}: redis {}: {}", candidate.redis, late());
                    report.add(Finding::new(Code::MasterNotReached, &master.name, text));
                }
            }
        }
        let mut voted = None;
        if let (Some(sentinel), Some(asked)) = (&master.sentinel, sentinels) {
            match timeout_at(until, asked).await {
                Ok(Ok(asked)) => {
                    report.extend(sentinels::judge(master, sentinel, &asked.said, &places));
                    let named = sentinels::named(&asked.said);
                    voted = named.and_then(|named| sentinels::candidate(master, named, &places)).cloned();
                    if let Some((candidate, asked)) = asked.named {
                        report.extend(of_master(config, &candidate, asked, running, login.as_ref()));
                    }
                }
                _ => {
                    let text = format!("{about}: its Sentinels: {}", late());
                    report.add(Finding::new(Code::MasterNotReached, &master.name, text));
                }
            }
        }
        if seen.iter().any(Seen::is_master) {
            here.insert(master.name.clone());
        }
        // A Redis that was not looked at in time may be the master.
        if seen.len() == master.redis.len() {
            let follows = |entry: &FollowStatus| {
                (&*entry.role, &*entry.name) == ("master", &*master.name) && entry.present.is_some()
            };
            let is_known = running.is_some_and(|status| status.following.iter().any(follows));
            report.extend(followed::judge(master, &seen, voted.as_ref(), is_known));
        }
    }

    let histories = running::histories(running);
    for (redis, asked) in replicas.iter().zip(asked_replicas) {
        let finding = |code, text: &str| Finding::new(code, redis, format!("replica {redis}: {text}"));
        let asked = match timeout_at(until, asked).await {
            Ok(Ok(asked)) => asked,
            _ => {
                report.add(finding(Code::ReplicaNotReached, &late()));
                continue;
            }
        };
        match asked.facts {
            Err(Unasked::Unreached(why)) => report.add(finding(Code::ReplicaDown, &why)),
            Err(Unasked::Refused(why)) => report.add(finding(Code::ReplicaSettingsUnread, &why)),
            Ok(facts) => report.extend(replicas::judge(&replicas::Judged {
                redis,
                facts: &facts,
                config,
                user: user(login.as_ref()),
                is_here: places.get(redis).is_some_and(|all| all.iter().any(|one| is_local(one.ip()))),
                follows: &asked.follows,
                near: near(config, &facts, &asked.follows, &places),
                is_local: &is_local,
                histories: &histories,
            })),
        }
    }

    let each_way: Vec<_> = config.replicas.iter().flat_map(|replica| replica.at_each()).collect();
    for replica in &each_way {
        report.extend(loops::of_peers(config, replica, &known));
    }
    let mut told = HashSet::new();
    for (replica, peer) in
        each_way.iter().flat_map(|replica| replica.peers.iter().map(move |peer| (replica, peer)))
    {
        if let (Some(looked), true) = (names.get(peer), told.insert(peer)) {
            let about = format!("far site {}", replica.site);
            let codes = [Code::PeerNameSlow, Code::PeerNameChanges];
            report.extend(names::judge(peer, looked, codes, &about));
            report.extend(names::loopback(peer, looked, &about));
        }
    }
    if let Some(material) = material {
        let carried = match carried {
            Some(carried) => timeout_at(until, carried).await.ok().and_then(Result::ok).unwrap_or_default(),
            None => HashMap::new(),
        };
        let receive = kernel.receive;
        let before =
            far_sites::Before { names: &names, carried: &carried, receive, gate: &gate, until, here: &here };
        report.extend(far_sites::check(config, material, &before).await);
        report.extend(running.map(|status| far_sites::doubts(&status.following)).unwrap_or_default());
    }
}

/// Every place that is looked up, once each.
fn places(config: &Config, replicas: &[Address]) -> HashSet<Address> {
    let masters = config.masters.iter().flat_map(|master| &master.redis);
    let origins = config.replicas.iter().flat_map(|replica| &replica.from);
    let peers = origins.flat_map(|origin| &origin.peers);
    masters.chain(peers).chain(replicas).cloned().collect()
}

/// Starts some work, which waits for its turn.
fn bounded<T: Send + 'static>(
    gate: &Arc<Semaphore>,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let gate = Arc::clone(gate);
    tokio::spawn(async move {
        let _permit = gate.acquire_owned().await;
        work.await
    })
}

async fn ask_master(master: Candidate, login: Option<Auth>) -> AskedMaster {
    let tried = redis::check(&master).await;
    // Where the gateway's own login fails, another may still read the settings.
    let is_refused = tried.finding.as_ref().is_some_and(|finding| finding.code == Code::RedisLogin);
    let is_worth_it = tried.answers || (is_refused && login.is_some());
    let facts = if is_worth_it && !master.is_plain() {
        let login = login.as_ref().or(own_login(&master));
        Some(facts::ask(&master.redis, login, false).await)
    } else {
        None
    };
    AskedMaster { tried, facts }
}

/// Asks every Sentinel at the same time, and then the Redis that they name, if it may be asked.
async fn ask_sentinels(master: Arc<Master>, sentinel: Sentinel, login: Option<Auth>) -> AskedSentinels {
    let asked: Vec<_> = sentinel
        .at
        .iter()
        .cloned()
        .map(|at| {
            let sentinel = sentinel.clone();
            AbortOnDropHandle::new(tokio::spawn(async move { sentinels::ask(&at, &sentinel).await }))
        })
        .collect();
    let mut said = Vec::new();
    for asked in asked {
        said.extend(asked.await);
    }
    let mut named = None;
    if master.redis.is_empty()
        && let Some(place) = sentinels::named(&said).and_then(|named| sentinels::permitted(&sentinel, named))
    {
        // That very address: it gets the password.
        let candidate = Candidate::at(&master, place);
        let asked = ask_master(candidate.clone(), login).await;
        named = Some((candidate, asked));
    }
    AskedSentinels { said, named }
}

async fn ask_replica(redis: Address, login: Option<Auth>) -> AskedReplica {
    let facts = facts::ask(&redis, login.as_ref(), true).await;
    let follows = match facts.as_ref().ok().and_then(Facts::follows) {
        None => Vec::new(),
        Some((host, port)) => match (host.parse(), units::name(host)) {
            (Ok(ip), _) => vec![ip],
            (_, Ok(host)) => {
                let found = race::run::resolve(&Address { host, port }).await.unwrap_or_default();
                found.iter().map(SocketAddr::ip).collect()
            }
            _ => Vec::new(),
        },
    };
    AskedReplica { facts, follows }
}

/// The master of this gateway whose Redis a replica follows, if it follows one.
fn near<'a>(
    config: &'a Config,
    facts: &Facts,
    follows: &[IpAddr],
    places: &HashMap<Address, Vec<SocketAddr>>,
) -> Option<&'a str> {
    let (_, port) = facts.follows()?;
    let is_it = |redis: &SocketAddr| redis.port() == port && follows.contains(&redis.ip());
    let is_at = |redis: &Address| places.get(redis).is_some_and(|all| all.iter().any(is_it));
    let of = |master: &&Arc<Master>| master.redis.iter().any(is_at);
    config.masters.iter().find(of).map(|master| master.name.as_str())
}

/// The gateway's own credentials at a master.
fn own_login(master: &Master) -> Option<&Auth> {
    match &master.commands {
        Commands::Replication { auth, .. } => auth.as_ref(),
        Commands::Any => None,
    }
}

/// The name of the user that has asked.
fn user(login: Option<&Auth>) -> &str {
    login.and_then(|login| login.username.as_deref()).unwrap_or("default")
}

/// All that a master's Redis has shown.
fn of_master(
    config: &Config,
    master: &Candidate,
    asked: AskedMaster,
    running: Option<&Status>,
    login: Option<&Auth>,
) -> Vec<Finding> {
    let AskedMaster { tried, facts } = asked;
    let mut findings: Vec<Finding> = tried.finding.into_iter().collect();
    let facts = match facts {
        None => {
            findings.extend(tried.role);
            return findings;
        }
        Some(Ok(facts)) => facts,
        Some(Err(Unasked::Unreached(why) | Unasked::Refused(why))) => {
            Facts { unread: Some(why), ..Facts::default() }
        }
    };
    if !facts.is_known() {
        findings.extend(tried.role);
    }
    if master.is_asked() && login.is_none() && own_login(master).is_none() && facts.lacks.contains(&"+info") {
        let text = format!(
            "master {:?}: Redis at {}: user default may not be asked INFO, and the gateway must ask it whether it is the master",
            master.name, master.redis
        );
        let words = ["ACL", "SETUSER", "default", "+info"];
        let finding = Finding::new(Code::RightsMissing, &master.name, text);
        findings.push(finding.advise(redis_cli(&master.redis, &words)));
    }
    let mean = running.and_then(|status| running::mean_rate(&master.name, status));
    findings.extend(settings::judge(&settings::Judged {
        name: &master.name,
        redis: &master.redis,
        link: &config.link,
        facts: &facts,
        mean,
        room: running::room(config.limits.memory, running),
        sites: &master.allow,
        user: user(login.or(own_login(master))),
        may_be_replica: master.is_asked(),
    }));
    // A running gateway knows better for how long its memory lasts.
    if let (None, Some(written)) = (mean, facts.write_rate) {
        let hold = config.link.hold.as_secs_f64();
        findings.extend(host::covered(&master.name, config.limits.memory, written, hold));
    }
    findings
}

fn late() -> String {
    format!("not looked at within {} s; try again, or see why others are slow", WHOLE.as_secs())
}

/// Whether an address is one of this host: the system would send from it what goes to it. Nothing is
/// sent.
fn is_local(ip: IpAddr) -> bool {
    let any: SocketAddr = match ip {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let sends_from = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || sends_from().is_ok_and(|own| own.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_this_host_are_known() {
        for (text, local) in
            [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("198.51.100.1", false)]
        {
            assert_eq!(is_local(text.parse().unwrap()), local, "{text}");
        }
    }
}
