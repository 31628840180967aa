//! The Sentinels of a `[[master]]`: whether each may be asked, and which Redis they name together.
//!
//! Asking is here; [`judge`] does no I/O.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use super::DEADLINE;
use super::codes::Code;
use super::report::Finding;
use super::words::redis_cli;
use crate::client::{self, Unasked};
use crate::config::{Master, Sentinel};
use crate::escape::shown;
use crate::follow::vote;
use crate::race;
use crate::redis::value::Value;
use crate::units::{self, Address};

/// The rights that the gateway's user needs at a Sentinel, beside `+ping`.
const RIGHTS: [&str; 4] =
    ["+sentinel|get-master-addr-by-name", "+sentinel|master", "+subscribe", "&+switch-master"];

/// What one Sentinel has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) at: Address,
    pub(super) word: Word,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It cannot be reached, or says nothing that a Sentinel says: why.
    Away(String),
    /// It refuses the login: why.
    Refused(String),
    /// Its user may not ask: the rights that are missing.
    MayNotAsk(Vec<&'static str>),
    /// It does not know the name.
    Unknown,
    /// It is no Sentinel.
    NoSentinel,
    /// It names a Redis.
    Names(Named),
}

/// The Redis that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// As it announces it.
    pub(super) place: String,
    /// The addresses of that.
    pub(super) addresses: Vec<SocketAddr>,
    /// How many other Sentinels it knows.
    pub(super) others: Option<usize>,
    /// The rights that are missing to hear at once of a switch.
    pub(super) lacks: Vec<&'static str>,
}

/// What a Sentinel answers to one command.
enum Reply {
    List(Vec<String>),
    Error(Vec<u8>),
    Other,
}

/// Asks one Sentinel, as the gateway would.
pub(super) async fn ask(at: &Address, sentinel: &Sentinel) -> Said {
    let by = Instant::now() + DEADLINE * 2;
    let word = timeout_at(by, said(at, sentinel)).await;
    let late = || Word::Away(format!("it does not answer within {} s", (DEADLINE * 2).as_secs()));
    Said { at: at.clone(), word: word.unwrap_or_else(|_| late()) }
}

async fn said(at: &Address, sentinel: &Sentinel) -> Word {
    let mut asked = match client::open(at, None, sentinel.auth.as_ref(), DEADLINE).await {
        Ok(conversation) => conversation,
        Err(Unasked::Unreached(why)) => return Word::Away(why),
        Err(Unasked::Refused(why)) => return Word::Refused(why),
    };
    let name = sentinel.master.as_bytes();
    let mut replies = Vec::new();
    let commands: [&[&[u8]]; 4] = [
        &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name],
        &[b"SENTINEL", b"MASTER", name],
        &[b"PING"],
        &[b"SUBSCRIBE", b"+switch-master"],
    ];
    for command in commands {
        match asked.ask(command, reply).await {
            Ok(reply) => replies.push(reply),
            Err(why) => return Word::Away(why),
        }
    }
    let mut word = read(&replies);
    if let Word::Names(named) = &mut word
        && let Ok(place) = units::address(&named.place)
    {
        named.addresses = race::run::resolve(&place).await.unwrap_or_default();
    }
    word
}

fn reply(value: &Value<'_>) -> Reply {
    match value {
        Value::List(items) => Reply::List(
            items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => shown(text),
                    _ => String::new(),
                })
                .collect(),
        ),
        Value::Error(words) => Reply::Error(words.to_vec()),
        _ => Reply::Other,
    }
}

/// What its answers mean: to the two questions, PING, and the subscription.
fn read(replies: &[Reply]) -> Word {
    let [at, facts, ping, heard] = replies else {
        return Word::Away("it gives too few answers".to_owned());
    };
    let lacks = |reply: &Reply, right| match reply {
        Reply::Error(words) if words.starts_with(b"NOPERM") => Some(right),
        _ => None,
    };
    let of_a_channel = |reply: &Reply| match reply {
        Reply::Error(words) => words.windows(7).any(|part| part == b"channel"),
        _ => false,
    };
    let [address, master, subscribe, channel] = RIGHTS;
    let subscribing = if of_a_channel(heard) { channel } else { subscribe };
    let hearing: Vec<_> = lacks(ping, "+ping").into_iter().chain(lacks(heard, subscribing)).collect();
    let asking: Vec<_> = lacks(at, address).into_iter().chain(lacks(facts, master)).collect();
    if !asking.is_empty() {
        return Word::MayNotAsk([asking, hearing].concat());
    }
    for answer in [at, facts] {
        let Reply::Error(words) = answer else { continue };
        return if words.starts_with(b"NOAUTH") {
            Word::Refused(
                "it requires a password: write `password_file`, and `username` if it has users, in `sentinel`"
                    .to_owned(),
            )
        } else if words.starts_with(b"ERR No such master") {
            Word::Unknown
        } else if words.starts_with(b"ERR unknown command") {
            Word::NoSentinel
        } else {
            Word::Away(format!("it answers SENTINEL MASTER with -{}", shown(words)))
        };
    }
    let (Reply::List(at), Reply::List(facts)) = (at, facts) else { return Word::Unknown };
    let [host, port] = &at[..] else { return Word::Unknown };
    let fact = |name: &str| facts.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Word::Names(Named {
        place: format!("{host}:{port}"),
        addresses: Vec::new(),
        others: fact("num-other-sentinels").and_then(|count| count.parse().ok()),
        lacks: hearing,
    })
}

/// The Redis that more than half of the Sentinels of the config name.
pub(super) fn named(said: &[Said]) -> Option<&Named> {
    let names =
        |said: &Said, named: &Named| matches!(&said.word, Word::Names(other) if is_same(other, named));
    let all = said.iter().filter_map(|said| match &said.word {
        Word::Names(named) => Some(named),
        _ => None,
    });
    let mut most = all.filter(|named| said.iter().filter(|said| names(said, named)).count() * 2 > said.len());
    most.next()
}

fn is_same(one: &Named, other: &Named) -> bool {
    one.place == other.place || one.addresses.iter().any(|address| other.addresses.contains(address))
}

/// The Redis of the config that is named: `places` has the addresses of each.
pub(super) fn candidate<'a>(
    master: &'a Master,
    named: &Named,
    places: &HashMap<Address, Vec<SocketAddr>>,
) -> Option<&'a Address> {
    master.redis.iter().find(|redis| {
        redis.to_string() == named.place
            || places.get(*redis).is_some_and(|all| all.iter().any(|one| named.addresses.contains(one)))
    })
}

/// The address of the Redis that is named where the config names none, if it may get the password.
pub(super) fn permitted(sentinel: &Sentinel, named: &Named) -> Option<Address> {
    let is_in =
        |address: &&SocketAddr| sentinel.networks.iter().any(|network| network.contains(address.ip()));
    let found = named.addresses.iter().find(is_in)?;
    Some(Address { host: found.ip().to_string(), port: found.port() })
}

/// What there is to say about the Sentinels of a master.
pub(super) fn judge(
    master: &Master,
    sentinel: &Sentinel,
    said: &[Said],
    places: &HashMap<Address, Vec<SocketAddr>>,
) -> Vec<Finding> {
    let about = format!("master {:?}", master.name);
    let finding = |code, text: String| Finding::new(code, &master.name, format!("{about}: {text}"));
    let mut findings: Vec<Finding> = said.iter().map(|said| of_one(&about, master, sentinel, said)).collect();
    let count = said.len();
    let majority = vote::majority(count);
    match named(said) {
        None => {
            let mut claims = Vec::new();
            for one in said {
                let claim = match &one.word {
                    Word::Names(named) => format!("{} names {}", one.at, named.place),
                    _ => format!("{} names none", one.at),
                };
                claims.push(claim);
            }
            findings.push(finding(
                Code::SentinelsNoMajority,
                format!(
                    "no Redis is named by {majority} of the {count} Sentinels of the config ({}): no switch is made on their word; the lines above say why",
                    claims.join(", ")
                ),
            ));
        }
        Some(named) => {
            let agree =
                said.iter().filter(|said| matches!(&said.word, Word::Names(other) if is_same(other, named)));
            let agree = agree.count();
            if let Some(code) = not_permitted(master, sentinel, named, places) {
                findings.push(finding(
                    code.0,
                    format!("{agree} of {count} Sentinels name {}, {}", named.place, code.1),
                ));
            } else {
                findings.push(finding(
                    Code::SentinelsAgree,
                    format!("{agree} of {count} Sentinels name {}", named.place),
                ));
            }
        }
    }
    let few = match count {
        1 => Some("it alone decides, and while it is away no switch is made on its word: name three, on three hosts".to_owned()),
        2 => Some("both must agree, so if one is away no switch is made on their word: name three, on three hosts".to_owned()),
        _ if count.is_multiple_of(2) => Some(format!("{majority} of them must agree, so no more of them may be away than of {}: one more would help", count - 1)),
        _ => None,
    };
    findings.extend(few.map(|why| {
        let what = if count == 1 { "one Sentinel".to_owned() } else { format!("{count} Sentinels") };
        finding(Code::SentinelsFew, format!("the config names {what}: {why}"))
    }));
    let known = said.iter().filter_map(|said| match &said.word {
        Word::Names(named) => named.others.map(|others| others + 1),
        _ => None,
    });
    findings.extend(known.max().filter(|known| *known > count).map(|known| {
        finding(
            Code::SentinelsNotAll,
            format!("the Sentinels know {known} of them, and the config names {count}: more than half of those in the config may be fewer than half of all; name every one in `at`"),
        )
    }));
    findings
}

/// Why the Redis that is named may not be followed.
fn not_permitted(
    master: &Master,
    sentinel: &Sentinel,
    named: &Named,
    places: &HashMap<Address, Vec<SocketAddr>>,
) -> Option<(Code, String)> {
    if !master.redis.is_empty() {
        return candidate(master, named, places).is_none().then(|| {
            let all = master.redis.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let text = format!("which is none of `redis` ({all}) and is not followed: add it there, or correct what the Redis announces (replica-announce-ip)");
            (Code::SentinelsNameOther, text)
        });
    }
    permitted(sentinel, named).is_none().then(|| {
        let text = if named.addresses.is_empty() {
            "a name that does not resolve here".to_owned()
        } else {
            "which is in none of `networks` and is not followed: add its network there".to_owned()
        };
        (Code::SentinelsNameOther, text)
    })
}

/// What one Sentinel has said.
fn of_one(about: &str, master: &Master, sentinel: &Sentinel, said: &Said) -> Finding {
    let at = &said.at;
    let user = sentinel.auth.as_ref().and_then(|auth| auth.username.as_deref()).unwrap_or("default");
    let finding =
        |code, text: String| Finding::new(code, &master.name, format!("{about}: Sentinel {at}: {text}"));
    let grant = |finding: Finding, rights: &[&str]| {
        let words = [&["ACL", "SETUSER", user][..], rights].concat();
        finding.advise(redis_cli(at, &words))
    };
    match &said.word {
        Word::Away(why) => finding(Code::SentinelDown, why.clone()),
        Word::Refused(why) => finding(Code::SentinelLogin, why.clone()),
        Word::MayNotAsk(lacks) => {
            let text = format!("user {user} may not ask it (least rights: +ping {})", RIGHTS.join(" "));
            grant(finding(Code::SentinelRights, text), lacks)
        }
        Word::Unknown => finding(
            Code::SentinelUnknownMaster,
            format!(
                "it knows no master of the name {:?}: `sentinel.master` must be the name of `sentinel monitor` there",
                sentinel.master
            ),
        ),
        Word::NoSentinel => finding(
            Code::NoSentinel,
            "it is no Sentinel: `sentinel.at` has the addresses of Sentinels (usually port 26379)".to_owned(),
        ),
        Word::Names(named) if !named.lacks.is_empty() => {
            let text = format!(
                "it names {}, but user {user} may not hear of a switch at once: the gateway sees it up to a second later",
                named.place
            );
            grant(finding(Code::SentinelDeaf, text), &named.lacks)
        }
        Word::Names(named) => {
            let others =
                named.others.map_or_else(String::new, |others| format!(", and knows {others} others"));
            finding(Code::Sentinel, format!("it names {}{others}", named.place))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};

    fn config(redis: &str, more: &str) -> Config {
        let text = format!(
            "site = \"dc1\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"127.0.0.1:7379\"\n[[master]]\nname = \"orders\"\n{redis}\nallow = [\"dc2\"]\nsentinel = {{ master = \"mymaster\", at = [\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.3:1\"]{more} }}\n"
        );
        Config::parse(&[Source::new("gateway.toml", text)]).unwrap()
    }

    fn names(place: &str) -> Word {
        let addresses = place.parse().into_iter().collect();
        Word::Names(Named { place: place.to_owned(), addresses, others: Some(2), lacks: vec![] })
    }

    /// What is found if the Sentinels say this, with the sentences.
    fn found(config: &Config, words: &[Word]) -> Vec<(Code, String)> {
        let master = &config.masters[0];
        let said: Vec<Said> = (1..)
            .zip(words)
            .map(|(at, word)| Said {
                at: units::address(&format!("10.0.0.{at}:1")).unwrap(),
                word: word.clone(),
            })
            .collect();
        let places =
            master.redis.iter().map(|redis| (redis.clone(), redis.to_string().parse().into_iter().collect()));
        let findings = judge(master, master.sentinel.as_ref().unwrap(), &said, &places.collect());
        let line = |finding: Finding| {
            let advice = finding.advice.map_or_else(String::new, |advice| format!("; do: {advice}"));
            (finding.code, finding.text + &advice)
        };
        findings.into_iter().map(line).collect()
    }

    fn codes(found: &[(Code, String)]) -> Vec<Code> {
        found.iter().map(|(code, _)| *code).collect()
    }

    const TWO: &str = "redis = [\"10.0.1.5:6379\", \"10.0.1.6:6379\"]";

    #[test]
    fn a_majority_of_those_in_the_config_must_name_one_that_may_be_followed() {
        use Code::{Sentinel, SentinelDown, SentinelsAgree, SentinelsNameOther, SentinelsNoMajority};
        let both = config(TWO, "");
        let five = names("10.0.1.5:6379");
        let all = found(&both, &[five.clone(), five.clone(), five.clone()]);
        assert_eq!(codes(&all), [Sentinel, Sentinel, Sentinel, SentinelsAgree]);
        assert_eq!(all[3].1, "master \"orders\": 3 of 3 Sentinels name 10.0.1.5:6379");
        let away = Word::Away("Connection refused".to_owned());
        let most = found(&both, &[five.clone(), away.clone(), five.clone()]);
        assert_eq!(codes(&most), [Sentinel, SentinelDown, Sentinel, SentinelsAgree]);
        let split = found(&both, &[five.clone(), away, names("10.0.1.6:6379")]);
        assert_eq!(codes(&split), [Sentinel, SentinelDown, Sentinel, SentinelsNoMajority]);
        assert!(
            split[3].1.contains("no Redis is named by 2 of the 3")
                && split[3].1.contains("10.0.0.3:1 names 10.0.1.6:6379"),
            "{split:?}"
        );
        let other = found(&both, &vec![names("10.0.1.7:6379"); 3]);
        assert_eq!(other[3].0, SentinelsNameOther);
        assert!(other[3].1.contains("none of `redis` (10.0.1.5:6379, 10.0.1.6:6379)"), "{other:?}");
        // By a name that has the address of a candidate.
        let named = Named {
            place: "alpha.example:6379".to_owned(),
            ..match five {
                Word::Names(named) => named,
                _ => unreachable!(),
            }
        };
        assert_eq!(found(&both, &vec![Word::Names(named); 3])[3].0, SentinelsAgree);

        let alone = config("", ", networks = [\"10.0.1.0/24\"]");
        assert_eq!(found(&alone, &vec![names("10.0.1.9:6379"); 3])[3].0, SentinelsAgree);
        let outside = found(&alone, &vec![names("10.0.9.9:6379"); 3]);
        assert_eq!(outside[3].0, SentinelsNameOther);
        assert!(outside[3].1.contains("none of `networks`"), "{outside:?}");
        let unresolved = Word::Names(Named { place: "nowhere.example:1".to_owned(), ..Named::default() });
        assert!(found(&alone, &vec![unresolved; 3])[3].1.contains("does not resolve here"));
    }

    #[test]
    fn what_each_sentinel_lacks_is_told_with_the_command() {
        let with_user = config(TWO, ", username = \"gw\", password_file = \"s.pw\"");
        let deaf = Word::Names(Named {
            place: "10.0.1.5:6379".to_owned(),
            lacks: vec!["&+switch-master"],
            ..Named::default()
        });
        let all =
            found(&with_user, &[Word::MayNotAsk(vec!["+sentinel|master", "+ping"]), deaf, Word::Unknown]);
        assert_eq!(
            codes(&all),
            [
                Code::SentinelRights,
                Code::SentinelDeaf,
                Code::SentinelUnknownMaster,
                Code::SentinelsNoMajority
            ]
        );
        assert!(
            all[0].1.ends_with("; do: redis-cli -h 10.0.0.1 -p 1 ACL SETUSER gw '+sentinel|master' +ping"),
            "{}",
            all[0].1
        );
        assert!(all[1].1.ends_with("ACL SETUSER gw '&+switch-master'"), "{}", all[1].1);
        assert!(all[2].1.contains("\"mymaster\""), "{}", all[2].1);
        let all = found(
            &with_user,
            &[Word::NoSentinel, Word::Refused("no".to_owned()), Word::Away("no".to_owned())],
        );
        assert_eq!(
            codes(&all),
            [Code::NoSentinel, Code::SentinelLogin, Code::SentinelDown, Code::SentinelsNoMajority]
        );
    }

    #[test]
    fn too_few_sentinels_and_those_that_the_config_does_not_name_are_told() {
        let both = config(TWO, "");
        let few = |count: usize| {
            let all = found(&both, &vec![names("10.0.1.5:6379"); count]);
            all.into_iter().find(|(code, _)| *code == Code::SentinelsFew).map(|(_, text)| text)
        };
        assert!(few(1).unwrap().contains("one Sentinel: it alone decides"));
        assert!(few(2).unwrap().contains("2 Sentinels: both must agree"));
        assert_eq!(few(3), None);
        assert!(few(4).unwrap().contains("3 of them must agree, so no more of them may be away than of 3"));
        let more = Named { place: "10.0.1.5:6379".to_owned(), others: Some(4), ..Named::default() };
        let all = found(&both, &vec![Word::Names(more); 3]);
        assert_eq!(all[4].0, Code::SentinelsNotAll);
        assert!(all[4].1.contains("know 5 of them, and the config names 3"), "{all:?}");
    }

    #[test]
    fn answers_are_read_as_a_sentinel_gives_them() {
        let list = |items: &[&str]| Reply::List(items.iter().map(|item| (*item).to_owned()).collect());
        let error = |words: &str| Reply::Error(words.as_bytes().to_vec());
        let at = || list(&["10.0.1.5", "6379"]);
        let facts = || list(&["name", "mymaster", "num-other-sentinels", "2"]);
        let good = || [Reply::Other, list(&["subscribe"])];
        let both = |at, facts, [ping, heard]: [Reply; 2]| read(&[at, facts, ping, heard]);
        let Word::Names(named) = both(at(), facts(), good()) else { panic!() };
        assert_eq!((&*named.place, named.others, named.lacks), ("10.0.1.5:6379", Some(2), vec![]));
        let deaf = |words: &str| match both(list(&["fd00::5", "6379"]), facts(), [Reply::Other, error(words)])
        {
            Word::Names(named) if named.place == "[fd00::5]:6379" => named.lacks,
            other => panic!("{other:?}"),
        };
        let channel = "NOPERM this user has no permissions to access one of the channels used as arguments";
        assert_eq!(deaf(channel), ["&+switch-master"]);
        assert_eq!(
            deaf("NOPERM this user has no permissions to run the 'subscribe' command"),
            ["+subscribe"]
        );
        let denied = || error("NOPERM this user has no permissions to run the command");
        let all = Word::MayNotAsk(vec![RIGHTS[0], RIGHTS[1], "+ping", "+subscribe"]);
        assert_eq!(both(denied(), denied(), [denied(), denied()]), all);
        assert_eq!(both(at(), denied(), good()), Word::MayNotAsk(vec!["+sentinel|master"]));
        assert_eq!(both(Reply::Other, error("ERR No such master with that name"), good()), Word::Unknown);
        assert_eq!(both(error("ERR unknown command 'SENTINEL'"), facts(), good()), Word::NoSentinel);
        let noauth = both(error("NOAUTH Authentication required."), facts(), good());
        assert!(matches!(noauth, Word::Refused(_)), "{noauth:?}");
        let Word::Away(words) = both(error("ERR \x1b[2J"), facts(), good()) else { panic!() };
        assert!(words.contains(r"\x1b[2J"), "{words}");
    }
}
