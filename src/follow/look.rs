//! What a Redis says of itself in INFO, as a [`Look`].

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::asking::{HANGS, MORE, Reply};
use crate::client::Conversation;
use crate::escape::shown;
use crate::lineage::judge::Look;
use crate::lineage::{History, Standing};
use crate::redis::info::fields;
use crate::units::Address;

/// What is asked, in this order.
pub const QUESTIONS: &[&[&str]] = &[&["INFO", "server"], &["INFO", "persistence"], &["INFO", "replication"]];

/// Reads the answers to [`QUESTIONS`]. `user` is whom Redis knows the gateway as.
pub fn look(answers: &[Reply], user: &str) -> Look {
    let mut texts = Vec::new();
    for answer in answers {
        match answer {
            Reply::Text(text) => texts.push(text.as_slice()),
            Reply::Error(words) => return Look::Away(refusal(words, user)),
            _ => return Look::Away("answers INFO with no text: is it a Redis?".to_owned()),
        }
    }
    let [server, persistence, replication] = texts[..] else {
        return Look::Away("gives too few answers: is it a Redis?".to_owned());
    };
    let run = first(server, "run_id").map(shown);
    let standing = standing(replication).map(|standing| Standing { run, ..standing });
    match first(replication, "role") {
        Some(b"master") if is_set(persistence, "loading") => Look::Away("loads its data".to_owned()),
        Some(b"master") => match standing {
            Some(standing) => Look::Master { standing },
            None => Look::Away("says that it is the master, and not of which stream".to_owned()),
        },
        Some(b"slave") => Look::Other { standing, words: replica(replication, persistence) },
        Some(role) => Look::Away(format!("says that its role is {}: is it a Redis?", shown(role))),
        None if first(server, "redis_mode") == Some(b"sentinel") => {
            Look::Away("is a Sentinel, and no Redis with data".to_owned())
        }
        None => Look::Away("does not say what its role is: is it a Redis?".to_owned()),
    }
}

/// Whom it follows, if it is a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The address, as it was given to the replica.
    pub place: Address,
    /// Whether its link there is up, or it gets all data over it.
    pub works: bool,
}

/// Reads from the answers to [`QUESTIONS`] whom a replica follows; `None` if it is no replica or does not say.
pub fn upstream(answers: &[Reply]) -> Option<Upstream> {
    let [_, Reply::Text(persistence), Reply::Text(replication)] = answers else { return None };
    if first(replication, "role") != Some(b"slave") {
        return None;
    }
    let host = text(first(replication, "master_host")?)?.to_owned();
    let port = text(first(replication, "master_port")?)?.parse().ok()?;
    let works = first(replication, "master_link_status") == Some(b"up")
        || is_set(replication, "master_sync_in_progress")
        || is_set(persistence, "loading");
    Some(Upstream { place: Address { host, port }, works })
}

/// Looks once over a connection on which every answer was read, within `within`. Returns the connection too. The
/// error is why there is no look, as a clause.
pub async fn once(redis: TcpStream, user: &str, within: Duration) -> Result<(Look, TcpStream), String> {
    let mut conversation = Conversation::over(redis);
    let asked = async {
        let mut answers = Vec::new();
        for question in QUESTIONS {
            let words: Vec<_> = question.iter().map(|word| word.as_bytes()).collect();
            answers.push(conversation.ask(&words, Reply::of).await?);
        }
        Ok::<_, String>(answers)
    };
    let answers = timeout(within, asked).await.map_err(|_| HANGS.to_owned())?;
    let answers = answers.map_err(|why| format!("cannot be asked: {why}"))?;
    let redis = conversation.into_socket().ok_or_else(|| format!("cannot be asked: {MORE}"))?;
    Ok((look(&answers, user), redis))
}

/// What an error in place of INFO means, as a clause.
fn refusal(words: &[u8], user: &str) -> String {
    if words.starts_with(b"NOPERM") {
        format!("does not let user {user} ask INFO: ACL SETUSER {user} +info")
    } else if words.starts_with(b"NOAUTH") {
        "requires a password: set `auth`".to_owned()
    } else {
        format!("answers INFO with -{}", shown(words))
    }
}

/// What it is, if it is a replica.
fn replica(replication: &[u8], persistence: &[u8]) -> String {
    let text = |field| first(replication, field).map(shown).unwrap_or_default();
    let (host, port) = (text("master_host"), text("master_port"));
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let loads = is_set(persistence, "loading") || is_set(persistence, "async_loading");
    let state = if loads {
        ", and loads its data"
    } else if first(replication, "master_sync_in_progress") == Some(b"1") {
        ", and gets all data from it"
    } else if first(replication, "master_link_status") == Some(b"up") {
        ""
    } else {
        ", and has lost it"
    };
    format!("is a replica of {place}{state}")
}

/// Where it stands. A replica's announced address is copied into the list of replicas as it is, line breaks
/// included, so it could forge any field that follows. What is read here comes after that list: the last of
/// each field is its own.
fn standing(replication: &[u8]) -> Option<Standing> {
    let number = |field| text(last(replication, field)?)?.parse::<u64>().ok();
    let history = History::read(last(replication, "master_replid")?)?;
    let earlier =
        || Some((History::read(last(replication, "master_replid2")?)?, number("second_repl_offset")?));
    // What a replica has applied comes before that list.
    let applied =
        first(replication, "slave_repl_offset").filter(|_| first(replication, "role") == Some(b"slave"));
    let applied = applied.and_then(|offset| text(offset)?.parse().ok());
    let offset = applied.or_else(|| number("master_repl_offset"))?;
    Some(Standing { history, offset, earlier: earlier(), run: None })
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn is_set(info: &[u8], field: &str) -> bool {
    first(info, field) == Some(b"1")
}

fn first<'a>(info: &'a [u8], field: &str) -> Option<&'a [u8]> {
    fields(info).find(|(name, _)| *name == field.as_bytes()).map(|(_, value)| value)
}

fn last<'a>(info: &'a [u8], field: &str) -> Option<&'a [u8]> {
    fields(info).filter(|(name, _)| *name == field.as_bytes()).last().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";
    const NONE: &str = "0000000000000000000000000000000000000000";

    fn seen(persistence: &str, replication: &str) -> Look {
        let reply = |text: &str| Reply::Text(text.replace('\n', "\r\n").into_bytes());
        let server = format!("# Server\nredis_version:7.0.15\nrun_id:{TWO}\n");
        look(&[reply(&server), reply(persistence), reply(replication)], "default")
    }

    fn away(look: Look) -> String {
        match look {
            Look::Away(words) => words,
            other => panic!("{other:?}"),
        }
    }

    fn history(text: &str) -> History {
        History::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_master_stands_where_it_says() {
        let text = format!(
            "role:master\nconnected_slaves:0\nmaster_replid:{ONE}\nmaster_replid2:{NONE}\nmaster_repl_offset:70\nsecond_repl_offset:-1\n"
        );
        let run = Some(TWO.to_owned());
        let standing = Standing { history: history(ONE), offset: 70, earlier: None, run };
        assert_eq!(seen("loading:0\n", &text), Look::Master { standing: standing.clone() });
        let promoted = text.replace(NONE, TWO).replace("second_repl_offset:-1", "second_repl_offset:51");
        let standing = Standing { earlier: Some((history(TWO), 51)), ..standing };
        assert_eq!(seen("loading:0\n", &promoted), Look::Master { standing });
        assert_eq!(away(seen("loading:1\n", &text)), "loads its data");
    }

    #[test]
    fn a_replica_says_whose_and_how_far_it_is() {
        let text = format!(
            "role:slave\nmaster_host:10.0.0.6\nmaster_port:6379\nmaster_link_status:up\nmaster_sync_in_progress:0\nslave_repl_offset:44\nmaster_replid:{ONE}\nmaster_replid2:{NONE}\nmaster_repl_offset:45\nsecond_repl_offset:-1\n"
        );
        let said = |text: &str| match seen("loading:0\n", text) {
            Look::Other { standing, words } => (standing.map(|standing| standing.offset), words),
            other => panic!("{other:?}"),
        };
        assert_eq!(said(&text), (Some(44), "is a replica of 10.0.0.6:6379".to_owned()));
        let down = text.replace("status:up", "status:down").replace("10.0.0.6", "fd00::6");
        assert_eq!(said(&down).1, "is a replica of [fd00::6]:6379, and has lost it");
        assert!(said(&text.replace("in_progress:0", "in_progress:1")).1.ends_with("gets all data from it"));
        assert_eq!(said("role:slave\nmaster_host:\x1b[2J\n").0, None);
        assert!(!said("role:slave\nmaster_host:\x1b[2J\n").1.contains('\x1b'));
    }

    #[test]
    fn a_link_of_a_replica_works_while_it_is_up_or_gets_all_data() {
        let of = |persistence: &str, replication: &str| {
            let reply = |text: &str| Reply::Text(text.as_bytes().to_vec());
            upstream(&[reply(""), reply(persistence), reply(replication)])
        };
        let text = "role:slave\r\nmaster_host:fd00::6\r\nmaster_port:6390\r\nmaster_link_status:down\r\nmaster_sync_in_progress:0\r\n";
        let place = Address { host: "fd00::6".to_owned(), port: 6390 };
        let works = |works| Some(Upstream { place: place.clone(), works });
        assert_eq!(of("", text), works(false));
        assert_eq!(of("", &text.replace("status:down", "status:up")), works(true));
        assert_eq!(of("", &text.replace("in_progress:0", "in_progress:1")), works(true));
        assert_eq!(of("loading:1\r\n", text), works(true));
        assert_eq!(of("", &text.replace("slave", "master")), None);
        assert_eq!(upstream(&[]), None);
    }

    #[test]
    fn a_replica_that_announces_line_breaks_forges_nothing() {
        let forged = format!(
            "slave0:ip=x\nrole:slave\nmaster_replid:{TWO}\nmaster_repl_offset:9\n,port=1,state=online\n"
        );
        let text = format!(
            "role:master\n{forged}master_replid:{ONE}\nmaster_replid2:{NONE}\nmaster_repl_offset:70\nsecond_repl_offset:-1\n"
        );
        let Look::Master { standing, .. } = seen("loading:0\n", &text) else { panic!() };
        assert_eq!((standing.history, standing.offset), (history(ONE), 70));
    }

    #[test]
    fn what_is_no_redis_or_says_nothing_is_told_apart() {
        let refused = |words: &str| away(look(&[Reply::Error(words.as_bytes().to_vec())], "repl"));
        assert!(refused("NOPERM this user has no permissions").contains("ACL SETUSER repl +info"));
        assert!(refused("NOAUTH Authentication required.").contains("`auth`"));
        assert!(refused("ERR \x1b[2J").contains(r"-ERR \x1b[2J"));
        assert!(away(look(&[Reply::Other], "repl")).contains("no text"));
        assert!(away(look(&[], "repl")).contains("too few"));
        for (text, words) in [
            ("", "does not say what its role is"),
            ("role:dancer\n", "its role is dancer"),
            ("role:master\nmaster_replid:short\n", "not of which stream"),
        ] {
            assert!(away(seen("", text)).contains(words), "{text}");
        }
    }
}
