//! Whether a link is still permitted by the config, which a reload may change.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Shared, choice};
use crate::config::{Commands, Config, Follow, Master, Replica};
use crate::follow::Entry;
use crate::link::{End, Side};
use crate::wire::reason::{Reason, ReasonCode};

/// What permits a link.
pub enum Permission {
    /// At the master's site: `allow` of this master names the site, and the Redis is the one that is followed.
    Granted {
        /// The gateway's state, for its config.
        shared: Arc<Shared>,
        /// The master as it was when the link was opened.
        master: Arc<Master>,
        /// The far site.
        site: String,
        /// The Redis that the link goes to.
        redis: SocketAddr,
        /// The party that it is, if one of several is followed.
        party: Option<String>,
    },
    /// At the replica's site: this entry lets the client in.
    Asked {
        /// The gateway's state, for its config.
        shared: Arc<Shared>,
        /// The entry as it was when the link was opened.
        replica: Arc<Replica>,
        /// The client's address.
        client: IpAddr,
    },
}

impl Permission {
    /// Judges the link by the config in use. The error is why it must end: a reason for the far side,
    /// and one for this side.
    pub fn judge(&self) -> Result<(), (Reason, End)> {
        match self {
            Self::Granted { shared, master, site, redis, party } => {
                let now = shared.config();
                still_granted(&now, master, site).map_err(|words| {
                    // As to a site that asks for a master that does not exist.
                    let far = format!("master {:?} is not available to this site any more", master.name);
                    (Reason::new(ReasonCode::NotAvailable, &far), End::NotPermitted(words))
                })?;
                if now.master(&master.name).is_none_or(|now| now.follow == Follow::Any) {
                    return Ok(());
                }
                let entry = shared.following.entry(Side::Acceptor, &master.name);
                still_followed(entry.as_deref(), party.as_deref(), *redis)
                    .map_err(|words| (Reason::new(ReasonCode::NoMaster, &words), End::Moved(words)))
            }
            Self::Asked { shared, replica, client } => {
                let far = |words| Reason::new(ReasonCode::ReplicaClosed, words);
                still_asked(&shared.config(), replica, *client).map_err(|words| {
                    (
                        far("the replica's site does not ask for this master any more"),
                        End::NotPermitted(words),
                    )
                })?;
                choice::goes_on(shared, replica).map_err(|words| {
                    (far("the replica's site follows another site now, or none"), End::Moved(words))
                })
            }
        }
    }
}

/// Whether the Redis of a link is still the one that is followed. The error says which one is, or why none is. A
/// link from before any was followed stays until one is.
fn still_followed(entry: Option<&Entry>, party: Option<&str>, redis: SocketAddr) -> Result<(), String> {
    match (entry, party) {
        (Some(entry), Some(party)) => entry.goes_on_at(party, redis),
        (Some(entry), None) => match entry.target() {
            Ok(target) => entry.goes_on_at(&target.party, redis),
            Err(_) => Ok(()),
        },
        // A reload has just begun it, or is about to.
        (None, _) => Ok(()),
    }
}

/// Whether `site` may still replicate what it replicates now. The error says why not.
fn still_granted(config: &Config, master: &Master, site: &str) -> Result<(), String> {
    let name = &master.name;
    let Some(now) = config.master(name) else {
        return Err(format!("master {name:?} was removed from the config"));
    };
    if !now.admits(site) {
        return Err(format!("`allow` of master {name:?} does not name {site} any more"));
    }
    // Of several the one that is followed is judged apart.
    if now.follow == Follow::Any && now.redis != master.redis {
        return Err(format!("master {name:?} is at {} now", now.places()));
    }
    if !grants(&now.commands, &master.commands) {
        return Err(format!("the config permits other commands to reach master {name:?} now"));
    }
    Ok(())
}

/// Whether `now` permits every command that `before` did, in the same manner.
fn grants(now: &Commands, before: &Commands) -> bool {
    match (now, before) {
        (Commands::Any, Commands::Any) => true,
        (
            Commands::Replication { failover, dump, slot_migration, .. },
            Commands::Replication { failover: a, dump: b, slot_migration: c, .. },
        ) => failover >= a && dump >= b && slot_migration >= c,
        _ => false,
    }
}

/// Whether the client of a link may still use it. The error says why not.
fn still_asked(config: &Config, replica: &Replica, client: IpAddr) -> Result<(), String> {
    let name = &replica.name;
    let Some(now) = config.replica(name) else {
        return Err(format!("replica {name:?} was removed from the config"));
    };
    if now.at(&replica.site).is_none() || now.master != replica.master {
        return Err(format!("replica {name:?} follows master {:?} of {} now", now.master, now.sites()));
    }
    if !now.admits(client) {
        return Err(format!("`clients` of replica {name:?} does not have {client} any more"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Source;

    fn config(master: &str, replica: &str) -> Config {
        let text = format!(
            "site = \"dc1\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[tunnel]\nlisten = \"127.0.0.1:7379\"\n\
             [[master]]\nname = \"orders\"\n{master}\n\
             [[replica]]\nname = \"carts\"\nlisten = \"127.0.0.1:6390\"\n{replica}\n"
        );
        Config::parse(&[Source::new(Path::new("gateway.toml"), text)]).unwrap()
    }

    const MASTER: &str = "redis = \"127.0.0.1:6379\"\nallow = [\"dc2\", \"dc3\"]";
    const REPLICA: &str = "site = \"dc4\"\npeers = [\"gw.dc4:7379\"]\nclients = [\"127.0.0.0/8\"]";

    fn judged(master: &str, replica: &str) -> [Result<(), String>; 2] {
        let (before, now) = (config(MASTER, REPLICA), config(master, replica));
        [
            still_granted(&now, &before.masters[0], "DC2"),
            still_asked(&now, &before.replicas[0], "127.0.0.1".parse().unwrap()),
        ]
    }

    #[test]
    fn a_link_goes_on_after_changes_that_still_permit_it() {
        for master in [
            MASTER.to_owned(),
            MASTER.replace(", \"dc3\"", ""),
            format!("{MASTER}\nallow_dump = true"),
            format!("{MASTER}\nauth = {{ password_file = \"p\" }}"),
        ] {
            assert_eq!(judged(&master, REPLICA), [Ok(()), Ok(())], "{master}");
        }
        for replica in [
            REPLICA.replace("gw.dc4", "other.dc4"),
            REPLICA.replace("127.0.0.0/8", "127.0.0.1"),
            format!("{REPLICA}\npassword_file = \"p\""),
        ] {
            assert_eq!(judged(MASTER, &replica), [Ok(()), Ok(())], "{replica}");
        }
    }

    #[test]
    fn a_link_that_is_not_permitted_any_more_ends_with_what_has_changed() {
        for (master, words) in [
            (MASTER.replace("\"dc2\", ", ""), "`allow` of master \"orders\" does not name DC2 any more"),
            (MASTER.replace("6379", "6380"), "master \"orders\" is at 127.0.0.1:6380 now"),
            (format!("{MASTER}\ncommands = \"any\""), "other commands"),
        ] {
            let [granted, asked] = judged(&master, REPLICA);
            assert!(granted.unwrap_err().contains(words), "{master}");
            assert_eq!(asked, Ok(()));
        }
        for (replica, words) in [
            (REPLICA.replace("\"dc4\"", "\"dc5\""), "follows master \"carts\" of dc5 now"),
            (format!("{REPLICA}\nmaster = \"baskets\""), "follows master \"baskets\" of dc4 now"),
            (REPLICA.replace("127.0.0.0/8", "10.0.0.0/8"), "does not have 127.0.0.1 any more"),
        ] {
            let [granted, asked] = judged(MASTER, &replica);
            assert!(asked.unwrap_err().contains(words), "{replica}");
            assert_eq!(granted, Ok(()));
        }
    }

    #[test]
    fn a_link_to_a_redis_that_is_not_followed_any_more_ends_with_who_is() {
        let following = crate::follow::Following::default();
        let (entry, _orders) = following.begin(Side::Acceptor, "orders");
        let [old, new] = ["10.0.0.5:6379", "10.0.0.6:6379"];
        let at = |party: &str| party.parse::<SocketAddr>().unwrap();
        let follow = |party: &str, address: &str| {
            let history = crate::lineage::History::read(&[b'a'; 40]).unwrap();
            let standing = crate::lineage::Standing { history, offset: 7, earlier: None, run: None };
            let target =
                crate::follow::Target { party: party.to_owned(), addresses: vec![at(address)], standing };
            let status = crate::follow::FollowStatus {
                name: "orders".to_owned(),
                role: Side::Acceptor.role().to_owned(),
                ..Default::default()
            };
            entry.judged(Some(target), status)
        };
        let judged = |party: Option<&str>| still_followed(Some(&entry), party, at(old));
        // From before any was followed.
        assert_eq!(judged(None), Ok(()));
        assert!(follow(old, old));
        assert!(!follow(old, old), "nothing has moved");
        assert_eq!([judged(None), judged(Some(old))], [Ok(()), Ok(())]);
        assert!(follow(old, "10.0.0.7:6379"), "the same name, at another address");
        let words = "10.0.0.5:6379 is the master of orders at another address now (10.0.0.7:6379)";
        assert_eq!([judged(None), judged(Some(old))], [Err(words.to_owned()), Err(words.to_owned())]);
        assert!(follow(new, new));
        let words = "10.0.0.6:6379 is the master of orders now";
        assert_eq!(judged(Some(old)), Err(words.to_owned()));
        assert!(judged(None).is_err());
        assert!(entry.judged(None, Default::default()));
        assert!(judged(Some(old)).is_err());
        assert_eq!(judged(None), Ok(()));
    }

    #[test]
    fn other_candidates_are_judged_by_who_is_followed_and_not_by_the_config() {
        let several = MASTER.replace("\"127.0.0.1:6379\"", "[\"127.0.0.1:6379\", \"127.0.0.1:6380\"]");
        assert_eq!(judged(&several, REPLICA), [Ok(()), Ok(())]);
    }

    #[test]
    fn a_link_goes_on_while_its_site_is_one_of_those_that_may_have_the_master() {
        let sites = |names: &[&str]| {
            let origin = |name: &&str| format!("{{ site = \"{name}\", peers = [\"gw.{name}:7379\"] }}");
            let from: Vec<_> = names.iter().map(origin).collect();
            config(MASTER, &format!("from = [{}]\nclients = [\"127.0.0.0/8\"]", from.join(", ")))
        };
        let judged = |now: &Config, site: &str| {
            let before = sites(&["dc2", "dc4"]).replicas[0].at(site).unwrap();
            still_asked(now, &before, "127.0.0.1".parse().unwrap())
        };
        for site in ["dc2", "DC4"] {
            assert_eq!(judged(&sites(&["dc4", "dc5", "dc2"]), site), Ok(()), "{site}");
        }
        assert_eq!(judged(&config(MASTER, REPLICA), "dc4"), Ok(()), "as the only one");
        let words = judged(&sites(&["dc4", "dc5"]), "dc2").unwrap_err();
        assert_eq!(words, "replica \"carts\" follows master \"carts\" of dc4, dc5 now");
    }

    #[test]
    fn a_permission_that_is_taken_away_ends_the_links_that_had_it() {
        let with = config(&format!("{MASTER}\nallow_failover = true"), REPLICA);
        let words = still_granted(&config(MASTER, REPLICA), &with.masters[0], "dc2").unwrap_err();
        assert!(words.contains("other commands"), "{words}");
    }
}
