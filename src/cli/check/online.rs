//! The steps that wait for others. All of them begin at once; their findings are told in their
//! order.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::WHOLE;
use super::candidate::Candidate;
use super::codes::Code;
use super::facts::{self, Facts};
use super::far_sites;
use super::host;
use super::loops;
use super::names;
use super::redis::{self, Tried};
use super::replicas;
use super::report::{Finding, Report};
use super::running;
use super::settings;
use super::{addresses, masters};
use crate::admin::Status;
use crate::client::Unasked;
use crate::config::{Auth, Commands, Config, Master};
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
    let candidates = Candidate::of(config);
    let looked = places(config, &replicas).into_iter().map(|place| {
        let look = bounded(&gate, {
            let place = place.clone();
            async move { names::look(&place).await }
        });
        (place, look)
    });
    let looked: Vec<_> = looked.collect();
    let asked_masters =
        candidates.iter().map(|master| bounded(&gate, ask_master(master.clone(), login.clone())));
    let asked_masters: Vec<_> = asked_masters.collect();
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

    let mut told: Option<&str> = None;
    for (master, asked) in candidates.iter().zip(asked_masters) {
        if told.replace(&master.name) != Some(&*master.name) {
            report.extend(masters::judge(config, master));
        }
        let about = format!("master {:?}", master.name);
        if let Some(looked) = names.get(&master.redis) {
            let codes = [Code::MasterNameSlow, Code::MasterNameChanges];
            report.extend(names::judge(&master.redis, looked, codes, &about));
        }
        let Ok(Ok(asked)) = timeout_at(until, asked).await else {
            let text = format!("{about}: redis {}: {}", master.redis, late());
            report.add(Finding::new(Code::MasterNotReached, &master.name, text));
            continue;
        };
        let facts = asked.facts.as_ref().and_then(|facts| facts.as_ref().ok());
        report.extend(loops::of_master(config, master, facts, &known));
        report.extend(of_master(config, master, asked, running, login.as_ref()));
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
        let before = far_sites::Before { names: &names, carried: &carried, receive, gate: &gate, until };
        report.extend(far_sites::check(config, material, &before).await);
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
