//! What one Redis says of itself: INFO, a few settings, and how fast it writes.
//!
//! Only named settings are asked for, so that no password is among the answers, but for one:
//! whether `masterauth` is set is asked of a replica, and nothing of it is kept. Everything else is
//! escaped before it is kept. Each Redis has [`CONVERSATION`] to answer all of it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::DEADLINE;
use crate::client::{self, Conversation, Unasked};
use crate::config::Auth;
use crate::escape::shown;
use crate::redis::info;
use crate::redis::value::Value;
use crate::units::Address;

/// Time that one Redis has for all answers, besides [`SAMPLE`].
const CONVERSATION: Duration = Duration::from_secs(6);

/// Time over which the write rate is measured.
const SAMPLE: Duration = Duration::from_secs(1);

/// The sections of INFO that are read.
const SECTIONS: [&str; 5] = ["server", "replication", "persistence", "memory", "stats"];

/// The settings that are read. Those that a version does not know are left out of its answer; the
/// names with `slave` are those before Redis 5.
const SETTINGS: [&str; 24] = [
    "repl-timeout",
    "repl-ping-replica-period",
    "repl-ping-slave-period",
    "repl-backlog-size",
    "client-output-buffer-limit",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "save",
    "appendonly",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "min-slaves-to-write",
    "min-replicas-max-lag",
    "min-slaves-max-lag",
    "replica-read-only",
    "slave-read-only",
    "replica-serve-stale-data",
    "slave-serve-stale-data",
    "replica-announce-ip",
    "slave-announce-ip",
    "repl-diskless-load",
    "repl-rdb-channel",
    "dual-channel-replication-enabled",
];

/// A command that reads, and the right that it needs.
type Reading = (&'static str, &'static str);
const INFO: Reading = ("INFO", "+info");
const CONFIG_GET: Reading = ("CONFIG GET", "+config|get");

/// What a Redis has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The fields of INFO.
    pub(super) info: HashMap<String, String>,
    /// The settings that were asked for.
    pub(super) settings: HashMap<String, String>,
    /// The rights that the user lacks to read all of it.
    pub(super) lacks: Vec<&'static str>,
    /// Why some of it could not be read, in a clause, if it was not for a right.
    pub(super) unread: Option<String>,
    /// Whether `masterauth` is set.
    pub(super) has_masterauth: Option<bool>,
    /// Bytes a second that it has written to its stream meanwhile.
    pub(super) write_rate: Option<f64>,
}

/// A replica in the list of its master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) online: bool,
}

impl Facts {
    /// A field of INFO.
    pub(super) fn info(&self, field: &str) -> Option<&str> {
        self.info.get(field).map(String::as_str)
    }

    /// A field of INFO that is a number.
    pub(super) fn count(&self, field: &str) -> Option<u64> {
        self.info(field)?.parse().ok()
    }

    /// A setting; a name with `replica` also stands for the older name with `slave`.
    pub(super) fn setting(&self, key: &str) -> Option<&str> {
        let older = || self.settings.get(&key.replace("replica", "slave"));
        self.settings.get(key).or_else(older).map(String::as_str)
    }

    /// A setting that is a number.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.setting(key)?.parse().ok()
    }

    /// A setting that is a number of seconds.
    pub(super) fn seconds(&self, key: &str) -> Option<Duration> {
        self.number(key).map(Duration::from_secs)
    }

    /// Whether it said anything of itself.
    pub(super) fn is_known(&self) -> bool {
        self.info("role").is_some()
    }

    /// Whether it is a replica.
    pub(super) fn is_replica(&self) -> bool {
        self.info("role") == Some("slave")
    }

    /// The address of its master, as it shows it, if it is a replica.
    pub(super) fn follows(&self) -> Option<(&str, u16)> {
        let host = self.info("master_host").filter(|_| self.is_replica())?;
        Some((host, self.info("master_port")?.parse().ok()?))
    }

    /// The replicas that it lists.
    pub(super) fn replicas(&self) -> Vec<Listed> {
        let mut found = Vec::new();
        for at in 0.. {
            let Some(line) = self.info(&format!("slave{at}")) else { break };
            let field =
                |name: &str| line.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            if let (Some(host), Some(Ok(port))) = (field("ip"), field("port").map(str::parse)) {
                found.push(Listed { host: host.to_owned(), port, online: field("state") == Some("online") });
            }
        }
        found
    }

    /// Keeps the lines of a part of INFO.
    fn take_info(&mut self, text: &[u8]) {
        self.info.extend(info::fields(text).map(|(field, value)| (shown(field), shown(value))));
    }

    /// Keeps what Redis answers instead, if it is an error. Returns whether it is.
    fn take_error(&mut self, value: &Value<'_>, (command, right): Reading) -> bool {
        let Value::Error(words) = value else { return false };
        if words.starts_with(b"NOPERM") {
            self.lacks.push(right);
        } else if self.unread.is_none() {
            self.unread = Some(format!("it answers {command} with -{}", shown(words)));
        }
        true
    }

    #[cfg(test)]
    pub(super) fn of(info: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        Self { info: map(info), settings: map(settings), ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }
}

/// Asks a Redis, as the user of `login` if there is one. `masterauth`: whether that is set, too.
pub(super) async fn ask(redis: &Address, login: Option<&Auth>, masterauth: bool) -> Result<Facts, Unasked> {
    let by = Instant::now() + CONVERSATION;
    let late = |_| Unasked::Unreached(format!("it does not answer within {} s", CONVERSATION.as_secs()));
    let opened = client::open(redis, None, login, DEADLINE);
    let mut conversation = timeout_at(by, opened).await.map_err(late)??;
    let mut facts = Facts::default();
    let asked = settings(&mut conversation, &mut facts, masterauth);
    timeout_at(by, asked).await.map_err(late)?.map_err(Unasked::Unreached)?;
    // Without a backlog the offset does not grow, however much is written.
    if facts.info("repl_backlog_active") == Some("1")
        && let Some(before) = facts.count("master_repl_offset")
    {
        let began = Instant::now();
        sleep(SAMPLE).await;
        let mut again = Facts::default();
        let asked = section(&mut conversation, "replication", &mut again);
        timeout_at(began + SAMPLE + DEADLINE, asked).await.map_err(late)?.map_err(Unasked::Unreached)?;
        let after = again.count("master_repl_offset");
        let grown = after.and_then(|after| after.checked_sub(before));
        facts.write_rate = grown.map(|grown| grown as f64 / began.elapsed().as_secs_f64());
    }
    Ok(facts)
}

/// Reads everything but the rate.
async fn settings(asked: &mut Conversation, facts: &mut Facts, masterauth: bool) -> Result<(), String> {
    for name in SECTIONS {
        if !section(asked, name, facts).await? {
            break;
        }
    }
    for key in SETTINGS {
        let known = asked
            .ask(&[b"CONFIG", b"GET", key.as_bytes()], |value| {
                if let Some(value) = of_pair(value) {
                    facts.settings.insert(key.to_owned(), shown(value));
                }
                !facts.take_error(value, CONFIG_GET)
            })
            .await?;
        if !known {
            return Ok(());
        }
    }
    if masterauth {
        let set = asked.ask(&[b"CONFIG", b"GET", b"masterauth"], |value| {
            of_pair(value).map(|password| !password.is_empty())
        });
        facts.has_masterauth = set.await?;
    }
    Ok(())
}

/// Reads a section of INFO. Returns whether Redis gives it.
async fn section(asked: &mut Conversation, name: &str, facts: &mut Facts) -> Result<bool, String> {
    asked
        .ask(&[b"INFO", name.as_bytes()], |value| {
            if let Value::Text(text) = value {
                facts.take_info(text);
            }
            !facts.take_error(value, INFO)
        })
        .await
}

/// The value in an answer to CONFIG GET of one key; `None` if Redis does not know the key.
fn of_pair<'a>(value: &Value<'a>) -> Option<&'a [u8]> {
    match value {
        Value::List(pair) => match pair[..] {
            [Value::Text(_), Value::Text(value)] => Some(value),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_its_fields_and_shown_escaped() {
        let mut facts = Facts::default();
        facts.take_info(
            b"# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6390\r\nno field\r\n:\r\n\
              slave0:ip=dc2,port=6380,state=online,offset=7,lag=0\r\nslave1:ip=\x1b[2J,port=1,state=wait_bgsave\r\n\
              slave2:port=7\r\n",
        );
        assert_eq!(facts.follows(), Some(("10.0.0.1", 6390)));
        let listed = |host: &str, port, online| Listed { host: host.to_owned(), port, online };
        assert_eq!(facts.replicas(), [listed("dc2", 6380, true), listed(r"\x1b[2J", 1, false)]);
    }

    #[test]
    fn the_older_name_of_a_setting_is_understood() {
        let facts = Facts::of(&[], &[("repl-ping-slave-period", "7"), ("slave-read-only", "no")]);
        assert_eq!(facts.number("repl-ping-replica-period"), Some(7));
        assert_eq!(facts.setting("replica-read-only"), Some("no"));
        assert_eq!(facts.setting("repl-timeout"), None);
    }

    #[test]
    fn an_error_is_a_missing_right_or_a_reason() {
        let mut facts = Facts::default();
        assert!(facts.take_error(&Value::Error(b"NOPERM this user has no permissions"), CONFIG_GET));
        assert!(facts.take_error(&Value::Error(b"ERR unknown command 'CONFIG'"), CONFIG_GET));
        assert!(!facts.take_error(&Value::Nil, INFO));
        assert_eq!(
            (facts.lacks, facts.unread.as_deref()),
            (vec!["+config|get"], Some("it answers CONFIG GET with -ERR unknown command 'CONFIG'"))
        );
    }
}
