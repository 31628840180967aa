//! One Sentinel: which Redis it names as the master, over one connection, and a second one on which it tells
//! at once that it names another.
//!
//! The second one only hurries the next look, and so nothing depends on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::asking::{Asking, Reply};
use super::pace::Pace;
use crate::client;
use crate::config::{Auth, Sentinel};
use crate::escape::shown;
use crate::lineage::Run;
use crate::race::run::resolve;
use crate::units::{self, Address};

/// What is asked; the master's name follows. While a failover is under way, only the first answer has the new
/// address.
const QUESTIONS: &[&[&str]] = &[&["SENTINEL", "GET-MASTER-ADDR-BY-NAME"], &["SENTINEL", "MASTER"]];

/// Time for which a name that a Sentinel has announced counts as resolved.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// Time given to resolve it.
const RESOLVE: Duration = Duration::from_secs(1);

/// The channel on which a Sentinel tells that it names another Redis.
const CHANNEL: &[u8] = b"+switch-master";

/// Interval at which the subscription is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Time without one after which it is made anew.
const SILENT: Duration = Duration::from_secs(12);

/// Pause before a subscription that was lost is made anew.
const AGAIN: Duration = Duration::from_secs(2);

/// Least time for each message: who floods is read more slowly than it sends.
const MESSAGE: Duration = Duration::from_millis(10);

/// What a Sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It was not asked yet.
    NotYet,
    /// It does not answer: why, as a clause.
    Silent(String),
    /// It answers, and names none: what it says, as a clause.
    Unknown(String),
    /// It names a Redis.
    Names(Claim),
}

/// The Redis that a Sentinel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// As it announces it.
    pub place: Address,
    /// The addresses of that.
    pub addresses: Vec<SocketAddr>,
    /// The `config-epoch` of this.
    pub epoch: u64,
    /// The process that it has seen there.
    pub run: Option<Run>,
}

/// One Sentinel. Its connections are closed when this is dropped.
#[derive(Debug)]
pub struct Watched {
    /// Where it is.
    pub place: Address,
    said: watch::Receiver<Word>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Watched {
    /// Begins to ask the Sentinel at `place` at this pace. `changed` is notified after each answer, and
    /// `switched` when it tells that it names another Redis.
    pub fn watch(
        place: &Address,
        sentinel: &Sentinel,
        pace: Pace,
        changed: Arc<Notify>,
        switched: Arc<Notify>,
    ) -> Self {
        let (tell, said) = watch::channel(Word::NotYet);
        let name = sentinel.master.clone();
        let asking = Asking::new(place.clone(), sentinel.auth.clone(), QUESTIONS, Some(name.clone()), pace);
        let asks = tokio::spawn(ask(asking, sentinel.auth.clone(), name.clone(), tell, changed));
        let hears = tokio::spawn(hear(place.clone(), sentinel.auth.clone(), name, switched));
        Self { place: place.clone(), said, _tasks: [asks, hears].map(AbortOnDropHandle::new) }
    }

    /// What it said last.
    pub fn said(&self) -> Word {
        self.said.borrow().clone()
    }
}

/// Asks again and again.
async fn ask(
    mut asking: Asking,
    login: Option<Auth>,
    name: String,
    tell: watch::Sender<Word>,
    changed: Arc<Notify>,
) {
    let user = login.and_then(|login| login.username).unwrap_or_else(|| "default".to_owned());
    let mut names = Names::default();
    loop {
        let word = match asking.next().await {
            Err(why) => Word::Silent(why),
            Ok(answers) => match read(&answers, &name, &user) {
                Word::Names(claim) => {
                    let addresses = names.resolve(&claim.place).await;
                    Word::Names(Claim { addresses, ..claim })
                }
                other => other,
            },
        };
        tell.send_replace(word);
        changed.notify_one();
    }
}

/// Reads the answers to [`QUESTIONS`].
fn read(answers: &[Reply], name: &str, user: &str) -> Word {
    let [at, facts] = answers else { return Word::Silent("gives too few answers".to_owned()) };
    for answer in [at, facts] {
        if let Reply::Error(words) = answer {
            return refusal(words, name, user);
        }
    }
    let unknown = || Word::Unknown(format!("knows no master of the name {name:?}"));
    let (Reply::List(at), Reply::List(facts)) = (at, facts) else { return unknown() };
    let [Reply::Text(host), Reply::Text(port)] = &at[..] else { return unknown() };
    let nonsense = |what: &str| Word::Silent(format!("answers nonsense: {what}"));
    let Some(place) = address(host, port) else {
        return nonsense(&format!("{}:{} is no address", shown(host), shown(port)));
    };
    let fact = |name: &str| {
        let pair = facts.chunks_exact(2).find(|pair| pair[0].text() == Some(name.as_bytes()))?;
        pair[1].text()
    };
    let text = |name: &str| fact(name).and_then(|text| std::str::from_utf8(text).ok());
    let Some(epoch) = text("config-epoch").and_then(|epoch| epoch.parse().ok()) else {
        return nonsense("no config-epoch");
    };
    // While it fails over, the other facts are those of the earlier master.
    let is_same =
        fact("ip").zip(fact("port")).and_then(|(host, port)| address(host, port)).as_ref() == Some(&place);
    let run = text("runid").filter(|run| is_same && !run.is_empty()).map(|run| shown(run.as_bytes()));
    Word::Names(Claim { place, addresses: Vec::new(), epoch, run })
}

/// What an error of a Sentinel means.
fn refusal(words: &[u8], name: &str, user: &str) -> Word {
    if words.starts_with(b"NOPERM") {
        let rights = "+sentinel|get-master-addr-by-name +sentinel|master +subscribe +ping &+switch-master";
        Word::Silent(format!("does not let user {user} ask it: ACL SETUSER {user} {rights}"))
    } else if words.starts_with(b"NOAUTH") {
        Word::Silent("requires a password: set `password_file` in `sentinel`".to_owned())
    } else if words.starts_with(b"ERR No such master") {
        Word::Unknown(format!("knows no master of the name {name:?}"))
    } else if words.starts_with(b"ERR unknown command") {
        Word::Silent("is no Sentinel: it knows no such command".to_owned())
    } else {
        Word::Silent(format!("answers with -{}", shown(words)))
    }
}

/// An address as a Sentinel gives it.
fn address(host: &[u8], port: &[u8]) -> Option<Address> {
    let (host, port) = (std::str::from_utf8(host).ok()?, std::str::from_utf8(port).ok()?);
    let is_host = |host: &str| host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_graphic());
    let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    units::address(&text).ok().filter(|address| is_host(&address.host))
}

/// The addresses of the host names that one Sentinel announces.
#[derive(Debug, Default)]
struct Names(Option<(Address, Vec<SocketAddr>, Instant)>);

impl Names {
    async fn resolve(&mut self, place: &Address) -> Vec<SocketAddr> {
        if let Ok(ip) = place.host.parse::<IpAddr>() {
            return vec![SocketAddr::new(ip.to_canonical(), place.port)];
        }
        let known = self.0.take_if(|(of, _, _)| of == place);
        if let Some((_, addresses, since)) = &known
            && since.elapsed() < RESOLVED_FOR
        {
            let addresses = addresses.clone();
            self.0 = known;
            return addresses;
        }
        let found = match timeout(RESOLVE, resolve(place)).await {
            Ok(Ok(found)) => found,
            // What was found before is better than nothing.
            _ => known.map_or_else(Vec::new, |(_, addresses, _)| addresses),
        };
        self.0 = Some((place.clone(), found.clone(), Instant::now()));
        found
    }
}

/// Listens for `+switch-master` of this name, and subscribes anew whenever that ends.
async fn hear(place: Address, login: Option<Auth>, name: String, switched: Arc<Notify>) {
    loop {
        let why = subscribed(&place, login.as_ref(), &name, &switched).await;
        debug!(sentinel = %place, "the subscription has ended: {why}");
        sleep(AGAIN).await;
    }
}

/// Subscribes and listens. Returns why that has ended.
async fn subscribed(place: &Address, login: Option<&Auth>, name: &str, switched: &Notify) -> String {
    let mut conversation = match client::open(place, None, login, client::DEADLINE).await {
        Ok(conversation) => conversation,
        Err(fault) => return format!("{fault:?}"),
    };
    if let Err(why) = conversation.send(&[b"SUBSCRIBE", CHANNEL]).await {
        return why;
    }
    let (mut heard, mut ping) = (Instant::now(), Instant::now() + PING_EVERY);
    loop {
        tokio::select! {
            answer = conversation.answer(Reply::of) => match answer {
                Ok(Reply::Error(words)) => return format!("-{}", shown(&words)),
                Ok(message) => {
                    heard = Instant::now();
                    if is_switch(&message, name) {
                        switched.notify_one();
                    }
                    sleep(MESSAGE).await;
                }
                Err(why) => return why,
            },
            () = sleep_until(ping) => {
                if heard.elapsed() >= SILENT {
                    return "it gives no sign of life".to_owned();
                }
                ping = Instant::now() + PING_EVERY;
                match timeout(client::DEADLINE, conversation.send(&[b"PING"])).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => return why,
                    Err(_) => return "it reads nothing".to_owned(),
                }
            }
        }
    }
}

/// Whether a message tells of another address for the master of this name.
fn is_switch(message: &Reply, name: &str) -> bool {
    let Reply::List(parts) = message else { return false };
    let [kind, channel, text] = &parts[..] else { return false };
    let of = text.text().and_then(|text| text.split(|byte| *byte == b' ').next());
    kind.text() == Some(b"message") && channel.text() == Some(CHANNEL) && of == Some(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Reply {
        Reply::List(words.iter().map(|word| Reply::Text(word.as_bytes().to_vec())).collect())
    }

    fn facts(ip: &str, epoch: &str) -> Reply {
        texts(&["name", "mymaster", "ip", ip, "port", "6379", "runid", "abc", "config-epoch", epoch])
    }

    fn said(at: Reply, facts: Reply) -> Word {
        read(&[at, facts], "mymaster", "default")
    }

    #[test]
    fn a_sentinel_names_an_address_with_its_epoch_and_process() {
        let Word::Names(claim) = said(texts(&["10.0.0.6", "6379"]), facts("10.0.0.6", "7")) else { panic!() };
        assert_eq!((claim.place.to_string(), claim.epoch), ("10.0.0.6:6379".to_owned(), 7));
        assert_eq!(claim.run.as_deref(), Some("abc"));
        // While it fails over, the process is that of the earlier master.
        let Word::Names(claim) = said(texts(&["10.0.0.6", "6379"]), facts("10.0.0.5", "7")) else { panic!() };
        assert_eq!((claim.place.to_string(), claim.run), ("10.0.0.6:6379".to_owned(), None));
        let Word::Names(claim) = said(texts(&["fd00::6", "6379"]), facts("fd00::6", "7")) else { panic!() };
        assert_eq!(claim.place.to_string(), "[fd00::6]:6379");
    }

    #[test]
    fn what_is_no_claim_names_nothing() {
        let good = || facts("10.0.0.6", "7");
        assert!(matches!(said(Reply::Other, good()), Word::Unknown(_)));
        assert!(matches!(
            said(Reply::Error(b"ERR No such master with that name".to_vec()), good()),
            Word::Unknown(_)
        ));
        let silent = |at: Reply, facts: Reply| match said(at, facts) {
            Word::Silent(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(silent(texts(&["10.0.0.6", "6379"]), facts("10.0.0.6", "-1")).contains("config-epoch"));
        for (host, port) in
            [("10.0.0.6", "0"), ("10.0.0.6", "70000"), ("", "6379"), ("a b", "6379"), ("\x1b[2J", "1")]
        {
            let why = silent(texts(&[host, port]), good());
            assert!(why.contains("no address") && !why.contains('\x1b'), "{why}");
        }
        let refused = |words: &str| silent(Reply::Error(words.as_bytes().to_vec()), good());
        assert!(refused("NOPERM no").contains("+sentinel|master"));
        assert!(refused("NOAUTH Authentication required.").contains("password_file"));
        assert!(refused("ERR unknown command 'SENTINEL'").contains("no Sentinel"));
    }

    #[test]
    fn only_a_switch_of_this_master_hurries() {
        let message = |channel: &str, text: &str| texts(&["message", channel, text]);
        let switch = "mymaster 10.0.0.5 6379 10.0.0.6 6379";
        assert!(is_switch(&message("+switch-master", switch), "mymaster"));
        assert!(!is_switch(&message("+switch-master", switch), "my"));
        assert!(!is_switch(&message("+sdown", switch), "mymaster"));
        assert!(!is_switch(&texts(&["pong", ""]), "mymaster"));
        assert!(!is_switch(&Reply::Other, "mymaster"));
    }
}
