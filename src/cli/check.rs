//! `replgate check`: prints one line for each step, before the gateway is started or while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin;
use crate::clock;
use crate::config::{Auth, Commands, Config, LinkSettings, Master, Replica};
use crate::escape::shown;
use crate::file::{self, Writers};
use crate::password::Password;
use crate::race;
use crate::redis::{answer, command, listing};
use crate::session::Process;
use crate::session::auth::{Login, ask, authenticate_to_master};
use crate::session::dial::{self, Dialer};
use crate::session::exchange::Exchange;
use crate::tls::fetch_chain;
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;
use crate::units::Address;

/// Time given to each step that waits for a peer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Difference between clocks in milliseconds above which there is a warning.
const SKEW: u64 = 30_000;

/// Margin between the hold and the master's timeout, for network round trips.
const MARGIN: Duration = Duration::from_secs(2);

/// Time of a planned restart of a gateway during which its replicas get nothing, at most: the last
/// bytes, the start, and the pause after which Redis asks again. It is some two seconds usually.
const RESTART: Duration = Duration::from_secs(4);

/// Checks config, certificates, the way to the far site and Redis.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigPath,
    /// Check only files on this host: resolve no name, make no connection
    #[arg(long)]
    offline: bool,
}

/// Prints the lines and remembers whether one of them is a fail.
#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    fn ok(&self, text: &str) {
        crate::outln::outln!("ok    {text}");
    }

    fn warn(&self, text: &str) {
        crate::outln::outln!("warn  {text}");
    }

    fn fail(&mut self, text: &str) {
        self.failed = true;
        crate::outln::outln!("fail  {text}");
    }
}

impl Check {
    pub(super) fn execute(self) -> Outcome {
        let config = self.config.load()?;
        let mut report = Report::default();
        report.ok(&format!(
            "config {}: site {}, {} masters, {} replicas",
            self.config.path().display(),
            config.site,
            config.masters.len(),
            config.replicas.len()
        ));
        let others = file::all_writers(config.files());
        for (who, fault) in &others {
            match who {
                Writers::All => report.fail(fault),
                Writers::Group => report.warn(fault),
            }
        }
        if others.is_empty() {
            report.ok("no other user may change the config or a file that it names");
        }
        let (learnt, unread) = super::learnt(&config);
        unread.iter().for_each(|warning| report.warn(warning));
        let material = Material::load_beside(&config.tls, &config.site, &learnt);
        match &material {
            Ok(material) => {
                material.findings.iter().for_each(|finding| report.ok(finding));
                material.warnings.iter().for_each(|warning| report.warn(warning));
            }
            Err(faults) => faults.iter().for_each(|fault| report.fail(fault)),
        }
        match readable_ca_key(&config) {
            Some(key) => report.fail(&format!("the CA's private key {} is readable from here: whoever breaks into this host can make certificates for every site; keep certs/ca on another machine", key.display())),
            None => report.ok("no CA key is readable beside the files of this config"),
        }
        for file in config.password_files() {
            match Password::read(file) {
                Err(fault) => report.fail(&fault),
                Ok(_) if Password::is_open_to_all(file) => report.warn(&format!(
                    "password file {} can be read by every user of this host; chmod 600",
                    file.display()
                )),
                Ok(_) => report.ok(&format!("password file {}", file.display())),
            }
        }
        for master in config.masters.iter().filter(|master| master.is_plain()) {
            report.warn(&format!("master {:?}: commands = \"any\" lets the sites in `allow` run every command, also FLUSHALL and CONFIG", master.name));
        }
        for master in &config.masters {
            if config.allowed_to_itself().any(|other| other.name == master.name) {
                report.warn(&format!(
                    "master {:?}: `allow` names this site itself, {}, but a gateway dials only other sites; name the site of the replicas",
                    master.name, config.site
                ));
            }
            for danger in master.dangers() {
                report.warn(&format!("master {:?}: {danger}", master.name));
            }
            listed(master, &report);
        }
        if !self.offline {
            block_on(online(&config, material.ok(), &mut report))?;
        }
        if report.failed { Err(Failure::Unwell) } else { Ok(()) }
    }
}

/// Reports under which names the master lists replicas of other sites, and what Sentinel does with
/// such names.
fn listed(master: &Master, report: &Report) {
    let Commands::Replication { accept_announce, .. } = &master.commands else { return };
    let what = format!("master {:?}", master.name);
    let names = master.allow.iter().map(|site| format!("{site} or NAME.{site}"));
    report.ok(&format!(
        "{what}: its replicas at other sites are listed as {}; Sentinel 6.2 or later with resolve-hostnames no (the default) ignores such names; any other Sentinel resolves them, so make sure that no other site controls that DNS zone",
        names.collect::<Vec<_>>().join(", ")
    ));
    for site in master.allow.iter().filter(|site| site.len() > listing::LONGEST) {
        report.warn(&format!(
            "{what}: the name {site} is longer than {} bytes, which Redis before 6.2 refuses: replicas of that site would get no sync",
            listing::LONGEST
        ));
    }
    for accepted in accept_announce {
        let addresses = accepted.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        report.warn(&format!(
            "{what}: accept_announce lets {} be listed as {addresses}: a Sentinel of this master sends REPLICAOF to any Redis at these addresses",
            accepted.site
        ));
    }
}

/// The CA's key, if the gateway's user can read it. It is looked for beside the CA's certificate,
/// and in the folder that `replgate certs` uses for it.
pub(super) fn readable_ca_key(config: &Config) -> Option<PathBuf> {
    let beside = config.tls.ca.with_file_name("ca.key");
    let folders = [&config.tls.ca, &config.tls.cert, &config.tls.key]
        .map(|path| path.parent().map(|folder| folder.join("../ca/ca.key")));
    std::iter::once(Some(beside)).chain(folders).flatten().find(|key| file::is_readable(key))
}

async fn online(config: &Config, material: Option<Material>, report: &mut Report) {
    let running = match admin::ask(config).await {
        Ok(status) => status,
        Err(error) => {
            report.warn(&format!("a gateway runs with this config, but does not report its status: {error}"));
            None
        }
    };
    if let Some(status) = &running
        && !status.config.is_empty()
        && status.config != config.digest()
    {
        report.warn(&format!(
            "the running gateway (process {}) was started with other contents of this config: restart it to use this one",
            status.pid
        ));
    }
    for link in running.iter().flat_map(|status| &status.links) {
        let Some(coverage) = link.coverage else { continue };
        let text =
            format!("master {:?}: link {} to {}: {}", link.name, link.number, link.site, coverage.words());
        if coverage.is_short() { report.warn(&text) } else { report.ok(&text) }
    }
    let names = config.listen.iter().map(|_| "[tunnel]".to_owned());
    let names = names.chain(config.replicas.iter().map(|replica| format!("replica {:?}", replica.name)));
    // All listeners are kept until the last one is tried, since two of them may conflict.
    let mut held = Vec::new();
    for (what, address) in names.zip(config.listeners()) {
        match &running {
            Some(status) if status.listeners.contains(&address) => {
                report.ok(&format!("{what}: this gateway is running and listens on {address}"));
            }
            Some(_) => report.warn(&format!(
                "{what}: the running gateway does not listen on {address}: restart it to use this config"
            )),
            None => match crate::listener::bind(address) {
                Ok(listener) => {
                    held.push(listener);
                    report.ok(&format!("{what}: {address} is free to listen on"));
                }
                Err(error) => report.fail(&format!(
                    "{what}: cannot listen on {address}: {error}{}",
                    crate::listener::hint(&error, address)
                )),
            },
        }
    }
    drop(held);
    for master in &config.masters {
        let answers = match &master.commands {
            Commands::Replication { auth: Some(auth), .. } => user(master, auth, report).await,
            _ => redis(master, report).await,
        };
        if answers && !master.is_plain() {
            let links = running.iter().flat_map(|status| &status.links);
            let rates = links.filter(|link| link.role == "master" && link.name == master.name);
            // The backlog has the bytes as they are before they are compressed.
            let rates = rates.filter_map(|link| {
                let grows = link.to_replica_bytes as f64 / link.carried_bytes.max(1) as f64;
                Some(link.coverage?.bytes_per_second * grows.max(1.0))
            });
            hold(master, &config.link, rates.reduce(f64::max), report).await;
        }
    }
    let Some(material) = material else { return };
    let sites = config.replicas.iter().map(|replica| replica.site.as_str());
    let loaded = match Loaded::new(material, sites) {
        Ok(loaded) => loaded,
        Err(error) => return report.fail(&format!("TLS cannot be set up: {error}")),
    };
    let dialer = Arc::new(Dialer::new(
        Process::new(config),
        config.clone(),
        loaded,
        Exchange::new().0,
        CancellationToken::new(),
    ));
    for replica in &config.replicas {
        way(&dialer, replica, report).await;
    }
}

/// Checks the way to a far site: resolves each peer's name, and then sends a probe.
async fn way(dialer: &Arc<Dialer>, replica: &Replica, report: &mut Report) {
    let what = format!("replica {:?}", replica.name);
    let mut working = 0;
    // The peers are tried concurrently and reported in the config's order.
    let mut tried = JoinSet::new();
    for (at, peer) in replica.peers.iter().cloned().enumerate() {
        let (dialer, one) =
            (Arc::clone(dialer), Arc::new(Replica { peers: vec![peer.clone()], ..replica.clone() }));
        tried.spawn(async move {
            let dialled = match race::run::resolve(&peer).await {
                Ok(addresses) => Ok((addresses, dial::probe(&dialer, &one).await)),
                Err(why) => Err(why),
            };
            (at, peer, dialled)
        });
    }
    let mut tried = tried.join_all().await;
    tried.sort_by_key(|(at, ..)| *at);
    for (_, peer, dialled) in tried {
        let (addresses, dialled) = match dialled {
            Ok(dialled) => dialled,
            Err(why) => {
                report.warn(&format!("{what}: peer {peer}: {why}"));
                continue;
            }
        };
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match dialled {
            Ok((address, accept)) => {
                working += 1;
                report.ok(&format!(
                    "{what}: {peer} ({list}) is {} on {}, offers master {:?} to us, and its Redis is up",
                    replica.site,
                    shown(accept.identity.node.as_bytes()),
                    replica.master
                ));
                let (here, there) = (clock::now_millis(), accept.identity.clock);
                let skew = here.abs_diff(there);
                let text = format!("{what}: the clock at {address} differs by {:.1} s", skew as f64 / 1000.0);
                if skew > SKEW {
                    report.warn(&format!(
                        "{text}: certificates are checked by the clock; set both clocks by NTP"
                    ))
                } else {
                    report.ok(&text)
                }
            }
            Err(error) => report.warn(&format!("{what}: peer {error}{}", unreached(&error, &peer))),
        }
    }
    if working == 0 {
        report.fail(&format!(
            "{what}: no gateway of {} offers the master; the lines above say why",
            replica.site
        ));
    }
}

/// Advice if a TCP connection was refused.
fn unreached(error: &str, peer: &Address) -> String {
    let Address { host, port } = peer;
    // If nothing answers, the error itself has the advice.
    if error.contains("Connection refused") {
        format!(
            "; nothing listens on TCP port {port} of {host}, or a firewall refuses it: is the gateway there running?"
        )
    } else {
        String::new()
    }
}

/// Checks whether the master's Redis accepts the gateway's password, and lets its user run a
/// replica's commands. Returns whether Redis answers at all.
async fn user(master: &Master, auth: &Auth, report: &mut Report) -> bool {
    let what = format!("master {:?}: Redis at {}", master.name, master.redis);
    let tried = timeout(DEADLINE * 2, async {
        let mut redis = race::run::connect(&master.redis, None, DEADLINE)
            .await
            .map_err(|error| format!("{error}; replicas will be refused until it is up"))?;
        let login = authenticate_to_master(&mut redis, auth).await?;
        // The commands that a replica sends before it asks for a sync. PSYNC cannot be tried
        // without starting a sync.
        let mut lacks = Vec::new();
        for (right, words) in [("+ping", &[&b"PING"[..]][..]), ("+replconf", &[b"REPLCONF", b"capa", b"eof"])]
        {
            let answer = ask(&mut redis, &command::encode(words)).await.map_err(|error| error.to_string())?;
            if answer.starts_with(b"-NOPERM") {
                lacks.push(right);
            }
        }
        Ok::<_, String>((login, lacks))
    })
    .await;
    let user = auth.username.as_deref().unwrap_or("default");
    let answers = matches!(tried, Ok(Ok(_)));
    match tried {
        Err(_) => report.fail(&format!("{what} does not answer in time")),
        Ok(Err(_)) if fetch_chain::fetch_chain(&master.redis).await.is_ok() => {
            report.fail(&format!("{what}: {}", answer::SPEAKS_TLS));
        }
        Ok(Err(fault)) => report.fail(&format!("{what}: {fault}")),
        Ok(Ok((_, lacks))) if !lacks.is_empty() => report.fail(&format!(
            "{what}: user {user} lacks rights: ACL SETUSER {user} {} (least: +ping +replconf +psync)",
            lacks.join(" ")
        )),
        Ok(Ok((Login::NotWanted, _))) => report.warn(&format!(
            "{what} requires no password, although `auth` has one: anyone who reaches it can write; set a password there (requirepass, or ACL SETUSER), or remove `auth`"
        )),
        Ok(Ok((Login::Good, _))) => report.ok(&format!(
            "{what} accepts the password of user {user}; only the first sync shows whether the user has +psync"
        )),
    }
    answers
}

/// Reports the role of the master's Redis. Returns whether it answers at all.
async fn redis(master: &Master, report: &mut Report) -> bool {
    let what = format!("master {:?}", master.name);
    let answer = timeout(DEADLINE, role(&master.redis)).await;
    let answers =
        matches!(&answer, Ok(Ok(answer)) if !answer.is_empty() && !answer::is_tls(answer.as_bytes()));
    match answer {
        Err(_) => report.fail(&format!(
            "{what}: Redis at {} does not answer within {} s",
            master.redis,
            DEADLINE.as_secs()
        )),
        Ok(Err(error)) => report.fail(&format!(
            "{what}: Redis at {}: {error}; replicas will be refused until it is up",
            master.redis
        )),
        Ok(Ok(answer)) => match answer.lines().nth(2) {
            Some("master") => {
                let offset =
                    answer.lines().nth(3).and_then(|line| line.strip_prefix(':')).unwrap_or("?").to_owned();
                report.ok(&format!("{what}: Redis at {} is a master at offset {offset}", master.redis));
            }
            Some("slave") => report.ok(&format!(
                "{what}: Redis at {} is itself a replica: replicas behind it form a chain",
                master.redis
            )),
            _ if answer::is_tls(answer.as_bytes()) => {
                report.fail(&format!("{what}: Redis at {}: {}", master.redis, answer::SPEAKS_TLS));
            }
            // A TLS port closes the connection without an answer if it gets plain text.
            _ if answer.is_empty() => {
                let why = if fetch_chain::fetch_chain(&master.redis).await.is_ok() {
                    answer::SPEAKS_TLS
                } else {
                    "it closes the connection without an answer; its own log may say why"
                };
                report.fail(&format!("{what}: Redis at {}: {why}", master.redis));
            }
            _ if answer.starts_with("-NOAUTH") => report.warn(&format!(
                "{what}: Redis at {} requires a password, and this config has none: write auth = {{ password_file = \"redis.pw\" }} in the [[master]], or set masterauth in each replica",
                master.redis
            )),
            _ => report.warn(&format!(
                "{what}: Redis at {} answers ROLE with {}",
                master.redis,
                shown(answer.lines().next().unwrap_or_default().as_bytes())
            )),
        },
    }
    answers
}

/// Checks whether the master waits as long as a link is held, and whether its backlog covers a restart
/// of this gateway at the `rate` at which it writes, if that is known.
///
/// A master and its replica each give up after `repl-timeout` of silence. When a path fails, the
/// last data may be one ping period old, and the hold begins only after `dead_after`.
async fn hold(master: &Master, link: &LinkSettings, rate: Option<f64>, report: &mut Report) {
    let what = format!("master {:?}: redis {}", master.name, master.redis);
    let (hold, dead_after) = (link.hold, link.dead_after);
    let settings = match timeout(DEADLINE, settings_of(master)).await {
        Ok(Ok(Ok(settings))) => Ok(settings),
        Ok(Ok(Err(answer))) => Err(format!("it answers CONFIG GET with {}", shown(answer.as_bytes()))),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it does not answer CONFIG GET within {} s", DEADLINE.as_secs())),
    };
    let Settings { repl_timeout, ping, backlog } = match settings {
        Ok(settings) => settings,
        Err(why) => {
            report.warn(&format!("{what}: whether hold {hold:?} fits cannot be checked: {why}; hold must be at most repl-timeout - repl-ping-replica-period - dead_after ({dead_after:?}) - {MARGIN:?}, on the master and on its replicas"));
            return;
        }
    };
    if let (Some(backlog), Some(rate)) = (backlog, rate) {
        restart(&what, backlog, rate, report);
    }
    let most = repl_timeout.saturating_sub(ping + dead_after + MARGIN);
    if hold.is_zero() {
        report.ok(&format!(
            "{what}: hold {hold:?}: a link ends with its last lane, so repl-timeout does not matter"
        ));
    } else if hold <= most {
        report.ok(&format!("{what}: hold {hold:?} fits repl-timeout {repl_timeout:?} (at most {most:?}); the replicas need the same repl-timeout"));
    } else {
        let lower = if most > dead_after {
            format!("lower hold to {most:?}")
        } else {
            "write hold = \"0s\"".to_owned()
        };
        let needed = Duration::from_secs((hold + ping + dead_after + MARGIN).as_secs_f64().ceil() as u64);
        report.warn(&format!("{what}: hold {hold:?} is longer than the master waits: with repl-timeout {repl_timeout:?} and a ping each {ping:?}, at most {most:?} is safe; {lower}, or raise repl-timeout to {} on both the master and its replicas", needed.as_secs()));
    }
}

/// Reports whether the backlog holds what the master writes while this gateway restarts, when its
/// replicas ask again.
fn restart(what: &str, backlog: u64, rate: f64, report: &Report) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let needed = (rate * RESTART.as_secs_f64()) as u64;
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let at = format!("at {:.1} MB/s", rate / 1e6);
    if backlog >= needed {
        report.ok(&format!(
            "{what}: repl-backlog-size {}mb covers a restart of this gateway {at}",
            megabytes(backlog)
        ));
    } else {
        report.warn(&format!(
            "{what}: repl-backlog-size {}mb does not cover a restart of this gateway {at}, which then costs its replicas a full sync: CONFIG SET repl-backlog-size {}mb",
            megabytes(backlog),
            megabytes(needed)
        ));
    }
}

/// Settings of a master's Redis.
struct Settings {
    repl_timeout: Duration,
    /// The period of its pings to replicas.
    ping: Duration,
    /// The size of its backlog in bytes.
    backlog: Option<u64>,
}

/// Reads the settings of a master. The inner error is Redis' own answer if it does not give them.
async fn settings_of(master: &Master) -> std::io::Result<Result<Settings, String>> {
    // Before Redis 5, the last key is the name of the second one.
    let keys = ["repl-timeout", "repl-ping-replica-period", "repl-backlog-size", "repl-ping-slave-period"];
    let mut socket = race::run::connect(&master.redis, None, DEADLINE).await?;
    if let Commands::Replication { auth: Some(auth), .. } = &master.commands {
        authenticate_to_master(&mut socket, auth).await.map_err(std::io::Error::other)?;
    }
    for key in keys {
        let command = format!("*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        socket.write_all(command.as_bytes()).await?;
    }
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while answer.len() < 4096 && settings(&answer).len() < keys.len() {
        match socket.read(&mut piece).await? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    let read = settings(&answer);
    let number = |at: usize| match read.get(at) {
        Some(Ok(Some(text))) => text.parse::<u64>().ok(),
        _ => None,
    };
    let time = |at| number(at).map(Duration::from_secs);
    Ok(match (time(0), time(1).or_else(|| time(3))) {
        (Some(repl_timeout), Some(ping)) => Ok(Settings { repl_timeout, ping, backlog: number(2) }),
        _ => Err(read
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| "an answer that cannot be read".to_owned())),
    })
}

/// The complete answers to CONFIG GET of one key each: the value if the key exists, or the error.
fn settings(answers: &[u8]) -> Vec<Result<Option<String>, String>> {
    let text = String::from_utf8_lossy(answers);
    // The text after the last line end is not a complete line.
    let mut lines = text.split("\r\n").collect::<Vec<_>>();
    lines.pop();
    let mut lines = lines.into_iter();
    let mut out = Vec::new();
    while let Some(line) = lines.next() {
        out.push(match line {
            "*0" => Ok(None),
            "*2" => match lines.nth(3) {
                Some(value) => Ok(Some(value.to_owned())),
                None => break,
            },
            other => Err(other.to_owned()),
        });
    }
    out
}

async fn role(redis: &Address) -> std::io::Result<String> {
    let mut socket = race::run::connect(redis, None, DEADLINE).await?;
    socket.write_all(b"*1\r\n$4\r\nROLE\r\n").await?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    // A master answers `*3 $6 master :offset …`; its first four lines are enough.
    while answer.len() < 4096
        && answer.iter().filter(|byte| **byte == b'\n').count() < 4
        && !answer.starts_with(b"-")
        && !answer::is_tls(&answer)
    {
        match socket.read(&mut piece).await? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::settings;

    #[test]
    fn answers_count_once_they_are_whole() {
        let answers = b"*2\r\n$12\r\nrepl-timeout\r\n$2\r\n60\r\n*0\r\n-NOAUTH Authentication required.\r\n";
        let whole = [Ok(Some("60".to_owned())), Ok(None), Err("-NOAUTH Authentication required.".to_owned())];
        assert_eq!(settings(answers), whole);
        for cut in 0..answers.len() {
            let part = settings(&answers[..cut]);
            assert!(part.len() < 3 && part == whole[..part.len()], "{cut}");
        }
    }
}
