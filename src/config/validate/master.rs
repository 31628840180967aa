//! Validates what a `[[master]]` says: which Redis may be the master, who names it, and which commands
//! reach it.

use std::path::Path;

use super::super::file::{At, Table};
use super::super::{Accepted, Auth, Commands, Follow, Master, Sentinel};
use super::{MOST, path};
use crate::escape::shown;
use crate::redis::listing;
use crate::units::{self, Address};

/// The name, and the master if all of it is valid.
pub(super) fn master(table: &Table<'_, '_>, folder: &Path) -> (Option<At<String>>, Option<Master>) {
    let name = table.required("name", "\"orders\", the name that other sites ask for", units::name);
    let sentinel = table.table("sentinel").map(|inner| self::sentinel(&inner, folder, table.has("redis")));
    let redis = candidates(table);
    let allow = table.list("allow", units::site);
    match &allow {
        None if table.has("allow") => {}
        None => table.fault(format!(
            "{}`allow` is missing; write allow = [\"dc2\"], the sites that may replicate it",
            table.prefix()
        )),
        Some(allow) if allow.value.is_empty() => {
            table.fault(format!("{}`allow` is empty: no site could replicate it", table.prefix()))
        }
        Some(_) => {}
    }
    let allowed = allow.as_ref().map_or(&[][..], |allow| &allow.value);
    let commands = commands(table, folder, redis.as_deref().unwrap_or_default(), allowed);
    let follow = follow(table, redis.as_deref().map(<[_]>::len));
    table.finish();
    let sentinel = match sentinel {
        Some(None) => return (name, None),
        None if table.has("sentinel") => return (name, None),
        sentinel => sentinel.flatten(),
    };
    let master = (|| {
        Some(Master {
            name: name.as_ref()?.value.clone(),
            redis: redis?,
            sentinel,
            follow: follow?,
            allow: allow?.value,
            commands: commands?,
        })
    })();
    (name, master)
}

/// The Redis that may be the master: one, or a list of them; none where a Sentinel names it.
fn candidates(table: &Table<'_, '_>) -> Option<Vec<Address>> {
    if !table.has("redis") && table.has("sentinel") {
        return Some(Vec::new());
    }
    if !table.has("redis") || table.is_string("redis") {
        let one = table.required("redis", "\"127.0.0.1:6379\", the master's own address", units::address)?;
        return Some(vec![one.value]);
    }
    if table.length("redis").is_none() {
        table.expected_at("redis", "\"host:port\" in quotes, or a list of them");
        return None;
    }
    places(table, "redis", "no Redis could be the master")
}

/// The Sentinels of a master. `named`: whether the config names the Redis that may be it.
fn sentinel(table: &Table<'_, '_>, folder: &Path, named: bool) -> Option<Sentinel> {
    let master =
        table.required("master", "\"mymaster\", the name that the Sentinels have for it", units::name);
    let at = if table.has("at") {
        places(table, "at", "there is no Sentinel to ask")
    } else {
        table.fault(format!(
            "{}`at` is missing; write at = [\"10.0.0.5:26379\"], every Sentinel of this master",
            table.prefix()
        ));
        None
    };
    let username = table.parsed("username", user);
    let password_file = table.parsed("password_file", path(folder));
    if let (Some(username), false) = (&username, table.has("password_file")) {
        table.fault_at(username, format!("{}username: a user needs a `password_file` too", table.prefix()));
    }
    let networks = table.list("networks", units::network);
    match &networks {
        None if !table.has("networks") && !named => table.fault(format!(
            "{}without `redis` the Sentinels alone say which Redis gets the links and the password; say where it may be: networks = [\"10.0.0.0/24\"]",
            table.prefix()
        )),
        Some(networks) if named => table.fault_at(
            networks,
            format!("{}networks: the Sentinels may only name one of `redis`; leave `networks` or `redis` out", table.prefix()),
        ),
        Some(networks) if networks.value.is_empty() => table.fault_at(networks, format!("{}networks: the list is empty: no Redis could be followed", table.prefix())),
        _ => {}
    }
    table.finish();
    let read = |key: &str, read: bool| read || !table.has(key);
    (read("username", username.is_some())
        && read("password_file", password_file.is_some())
        && read("networks", networks.is_some()))
    .then_some(())?;
    Some(Sentinel {
        master: master?.value,
        at: at?,
        auth: password_file
            .map(|file| Auth { username: username.map(|name| name.value), password_file: file.value }),
        networks: networks.map_or_else(Vec::new, |networks| networks.value),
    })
}

/// Which Redis gets the links; `count` is the number of those that may, if it is known.
fn follow(table: &Table<'_, '_>, count: Option<usize>) -> Option<Follow> {
    let plain = table.text("commands") == Some("any");
    let given = table.parsed("follow", |text| match text {
        "any" => Ok(Follow::Any),
        "master" => Ok(Follow::Master),
        other => Err(format!(
            "{:?} is unknown; write \"master\", the one that is known to be the master, or \"any\", the first that answers",
            shown(other.as_bytes())
        )),
    });
    if table.has("follow") && given.is_none() {
        return None;
    }
    let before = table.prefix();
    if plain && table.has("sentinel") {
        table.fault_of("sentinel", format!("{before}sentinel: with commands = \"any\" the gateway asks nobody which Redis is the master; leave one of them out"));
    }
    if let Some(given) = &given {
        if given.value == Follow::Any && table.has("sentinel") {
            table.fault_at(given, format!("{before}follow: \"any\" takes whatever answers, and the Sentinels would not be asked; leave `follow` or `sentinel` out"));
        }
        if given.value == Follow::Master && plain {
            table.fault_at(given, format!("{before}follow: with commands = \"any\" the gateway asks no Redis whether it is the master; leave one of them out"));
        }
        return Some(given.value);
    }
    let by_itself = !plain && (table.has("sentinel") || count? > 1);
    Some(if by_itself { Follow::Master } else { Follow::Any })
}

/// Which commands reach the master, and how the gateway authenticates itself there.
fn commands(table: &Table<'_, '_>, folder: &Path, redis: &[Address], allowed: &[String]) -> Option<Commands> {
    let plain = table.parsed("commands", |text| match text {
        "replication" => Ok(false),
        "any" => Ok(true),
        other => Err(format!(
            "{other:?} is unknown; write \"replication\" (the default), or \"any\" for a plain tunnel"
        )),
    });
    let plain = plain.is_some_and(|plain| plain.value);
    let auth = table.table("auth").map(|inner| {
        let username = inner.parsed("username", user);
        let password_file = inner.required("password_file", "\"redis.pw\"", path(folder));
        inner.finish();
        if plain {
            inner.fault(format!(
                "{}with commands = \"any\" every site in `allow` would run every command as this user; leave one of them out",
                inner.prefix()
            ));
        }
        let username_read = username.is_some() || !inner.has("username");
        username_read.then_some(())?;
        Some(Auth { username: username.map(|name| name.value), password_file: password_file?.value })
    });
    let switch = |key: &str| {
        let switch = table.switch(key)?;
        if plain && switch.value {
            table.fault_at(
                &switch,
                format!(
                    "{}{key}: commands = \"any\" lets everything pass already; leave it out",
                    table.prefix()
                ),
            );
        }
        Some(switch.value)
    };
    let is_on = |key: &str| switch(key).unwrap_or(false);
    let (failover, dump) = (is_on("allow_failover"), is_on("allow_dump"));
    let slot_migration = is_on("allow_slot_migration");
    let exceptions = table.table("accept_announce").map(|inner| {
        if plain {
            inner.fault(format!(
                "{}with commands = \"any\" the gateway looks at nothing that a replica announces; leave it out",
                inner.prefix()
            ));
        }
        accepted(&inner, redis, allowed)
    });
    if plain {
        return Some(Commands::Any);
    }
    let accept_announce = match exceptions {
        Some(read) => read?,
        None if table.has("accept_announce") => return None,
        None => Vec::new(),
    };
    let auth = match auth {
        Some(auth) => Some(auth?),
        None if table.has("auth") => return None,
        None => None,
    };
    Some(Commands::Replication { auth, failover, dump, slot_migration, accept_announce })
}

/// Reads the replicas that are listed as they announce themselves, by site.
fn accepted(table: &Table<'_, '_>, redis: &[Address], allowed: &[String]) -> Option<Vec<Accepted>> {
    let mut accepted = Vec::new();
    let mut good = true;
    for key in table.keys() {
        let site = &key.value;
        if !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(site)) {
            good = false;
            let site = shown(site.as_bytes());
            table.fault_at(&key, format!("{}{site}: this site is not in `allow`", table.prefix()));
        }
        let Some(addresses) = table.list(site, units::address) else {
            good = false;
            continue;
        };
        for address in &addresses.value {
            if redis
                .iter()
                .any(|redis| redis == address || listing::is_same(address, &redis.host, redis.port))
            {
                good = false;
                let itself =
                    if redis.len() > 1 { "one of this master's `redis`" } else { "this master itself" };
                table.fault_at(
                    &addresses,
                    format!("{}{address} is {itself}: a Sentinel would make it a replica of itself; give the replica another port", table.prefix()),
                );
            }
        }
        accepted.push(Accepted { site: key.value, addresses: addresses.value });
    }
    table.finish();
    good.then_some(accepted)
}

/// A list of addresses, each once.
fn places(table: &Table<'_, '_>, key: &str, if_none: &str) -> Option<Vec<Address>> {
    let items = table.items(key, units::address)?;
    let before = table.prefix();
    if items.value.is_empty() {
        table.fault_at(&items, format!("{before}{key}: the list is empty: {if_none}"));
        return None;
    }
    if items.value.len() > MOST {
        table.fault_at(
            &items,
            format!("{before}{key}: {} addresses are too many; {MOST} at most", items.value.len()),
        );
        return None;
    }
    let mut known: Vec<Address> = Vec::new();
    let mut good = true;
    for item in items.value {
        let is_known = |other: &Address| {
            other.port == item.value.port && other.host.eq_ignore_ascii_case(&item.value.host)
        };
        if known.iter().any(is_known) {
            good = false;
            table.fault_at(
                &item,
                format!("{before}{key}: {} is there twice; leave one of them out", item.value),
            );
        }
        known.push(item.value);
    }
    good.then_some(known)
}

/// Reads the name of an ACL user.
fn user(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.len() > 128
        || text.contains(|letter: char| letter.is_whitespace() || letter == '\0')
    {
        return Err(format!("{text:?} is not an ACL user; a name has 1 to 128 bytes and no blanks"));
    }
    Ok(text.to_owned())
}
