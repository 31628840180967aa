//! What a person orders of a running gateway, over the socket that `socket.rs` answers.
//!
//! An order is one line of JSON, and so is its answer. What is meant by a name and a party is found out here, by the
//! gateway that knows them: who asks may be of another release.

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::escape::shown;
use crate::follow::FollowStatus;
use crate::link::Side;
use crate::registry::notice;
use crate::session::Shared;
use crate::units;
use crate::words::{alike, names};

/// Most names that an answer lists.
const LISTED: usize = 20;

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// That an entry follows a party, or what that would cost.
    Follow {
        /// The name of the entry.
        name: String,
        /// The address of a Redis, or a site.
        party: String,
        /// Whether it is carried out. Otherwise what it would cost is told.
        carry_out: bool,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It was carried out, or what it would cost is told.
    Told {
        /// The party as the config or the Sentinels name it.
        party: String,
        /// What it costs or has cost, in sentences.
        sentences: Vec<String>,
        /// The entry as it is now.
        following: Box<FollowStatus>,
    },
    /// It cannot be done now: why.
    Refused {
        /// A sentence.
        why: String,
    },
    /// There is no such name or party, or no such order: what there is.
    Unknown {
        /// A sentence.
        why: String,
    },
}

/// Who gives an order.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The user.
    pub uid: u32,
    /// The process, if the system tells it.
    pub pid: Option<i32>,
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {}", self.uid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, " (process {pid})"))
    }
}

/// Carries out an order that was read. An order that is carried out is logged with who gave it.
pub async fn carry_out(shared: &Shared, text: &[u8], asker: Asker) -> Answer {
    let Ok(order) = serde_json::from_slice::<Order>(text) else {
        let version = env!("CARGO_PKG_VERSION");
        let why = format!(
            "this gateway ({version}) does not know such an order; restart it with the release that asks"
        );
        return Answer::Unknown { why };
    };
    let Order::Follow { name, party, carry_out } = order;
    let (side, name, party) = match find(&Known::now(shared), &name, &party) {
        Ok(found) => found,
        Err(why) => return Answer::Unknown { why },
    };
    let answer = follow(shared, side, &name, &party, carry_out).await;
    if carry_out {
        let outcome = match &answer {
            Answer::Told { .. } => "done".to_owned(),
            Answer::Refused { why } | Answer::Unknown { why } => format!("refused: {why}"),
        };
        info!(
            kind = notice::ORDER, link = %name, role = side.role(), uid = asker.uid, pid = asker.pid,
            "{asker} ordered to follow {}: {outcome}", shown(party.as_bytes())
        );
    }
    answer
}

async fn follow(shared: &Shared, side: Side, name: &str, party: &str, carry_out: bool) -> Answer {
    let Some(entry) = shared.following.entry(side, name) else {
        return Answer::Refused { why: format!("a reload has just changed {name:?}; ask again") };
    };
    match entry.order(party, carry_out).await {
        Ok(sentences) => {
            Answer::Told { party: party.to_owned(), sentences, following: Box::new(entry.status()) }
        }
        Err(why) => Answer::Refused { why },
    }
}

/// What may be named in an order.
#[derive(Debug, Default)]
struct Known {
    following: Vec<FollowStatus>,
    /// Every `[[master]]`, and where its Redis may be.
    masters: Vec<(String, String)>,
    /// Every `[[replica]]`, and the site that has its master.
    replicas: Vec<(String, String)>,
}

impl Known {
    fn now(shared: &Shared) -> Self {
        let config = shared.config();
        Self {
            following: shared.following.status(),
            masters: config.masters.iter().map(|master| (master.name.clone(), master.places())).collect(),
            replicas: config.replicas.iter().map(|entry| (entry.name.clone(), entry.site.clone())).collect(),
        }
    }
}

/// The entry that is meant, and the party as it is spelled there. The error is a sentence.
fn find(known: &Known, name: &str, party: &str) -> Result<(Side, String, String), String> {
    let entries: Vec<&FollowStatus> = known.following.iter().filter(|entry| entry.name == name).collect();
    if entries.is_empty() {
        return Err(follows_nobody(known, name));
    }
    // A site has no port.
    let is_address = units::address(party).is_ok();
    let of_form = |entry: &&&FollowStatus| (entry.role == Side::Acceptor.role()) == is_address;
    let by_party = entries.iter().find_map(|entry| Some((*entry, spelled(entry, party)?)));
    if let Some((entry, party)) = by_party {
        let side = if entry.role == Side::Acceptor.role() { Side::Acceptor } else { Side::Dialler };
        return Ok((side, entry.name.clone(), party));
    }
    let meant = entries.iter().find(of_form).unwrap_or(&entries[0]);
    let (what, role) =
        if meant.role == Side::Acceptor.role() { ("Redis", "master") } else { ("site", "replica") };
    let parties: Vec<&str> = meant.parties.iter().map(|party| &*party.party).collect();
    Err(format!("{party:?} is no {what} of {role} {name:?}; {}", there_is(&parties, party)))
}

/// The party of this entry as it is spelled there.
fn spelled(entry: &FollowStatus, wanted: &str) -> Option<String> {
    let is_it = |party: &&str| {
        party.eq_ignore_ascii_case(wanted)
            || units::address(party).is_ok_and(|known| units::address(wanted).is_ok_and(|it| it == known))
    };
    entry.parties.iter().map(|party| &*party.party).find(is_it).map(str::to_owned)
}

/// Why a name cannot be ordered to follow anything.
fn follows_nobody(known: &Known, name: &str) -> String {
    let of = |all: &[(String, String)]| all.iter().find(|(other, _)| other == name).map(|(_, at)| at.clone());
    if let Some(places) = of(&known.masters) {
        return format!(
            "master {name:?} has no choice: it goes to what answers at {places}; name its candidates in `redis`, with follow = \"master\""
        );
    }
    if let Some(site) = of(&known.replicas) {
        return format!(
            "replica {name:?} has no choice but the site {site}; name the sites that can have the master in `from`"
        );
    }
    let mut all: Vec<&str> = known.following.iter().map(|entry| &*entry.name).collect();
    all.dedup();
    format!("no entry {name:?} follows a master here; {}", there_is(&all, name))
}

/// The names that there are, those first that are written much the same as the wanted one.
fn there_is(all: &[&str], wanted: &str) -> String {
    let mut listed = all.to_vec();
    listed.sort_by_key(|name| std::cmp::Reverse(alike(name, wanted)));
    if listed.is_empty() { "there is none".to_owned() } else { format!("known: {}", names(&listed, LISTED)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::PartyStatus;

    fn entry(name: &str, role: &str, parties: &[&str]) -> FollowStatus {
        let party = |party: &&str| PartyStatus { party: (*party).to_owned(), ..PartyStatus::default() };
        FollowStatus {
            name: name.to_owned(),
            role: role.to_owned(),
            parties: parties.iter().map(party).collect(),
            ..FollowStatus::default()
        }
    }

    fn known() -> Known {
        let named = |name: &str, at: &str| (name.to_owned(), at.to_owned());
        Known {
            following: vec![
                entry("carts", "replica", &["dc1", "dc3"]),
                entry("orders", "master", &["10.0.0.5:6379", "[2001:db8::1]:6379"]),
                entry("orders", "replica", &["dc1", "dc2"]),
            ],
            masters: vec![named("orders", "10.0.0.5:6379, …"), named("stock", "10.0.0.9:6379")],
            replicas: vec![named("carts", "dc1"), named("orders", "dc1"), named("sessions", "dc2")],
        }
    }

    #[test]
    fn a_party_tells_a_master_entry_from_a_replica_entry_of_the_same_name() {
        let found = |name: &str, party: &str| find(&known(), name, party).unwrap();
        let is = |side: Side, name: &str, party: &str| (side, name.to_owned(), party.to_owned());
        assert_eq!(found("orders", "10.0.0.5:6379"), is(Side::Acceptor, "orders", "10.0.0.5:6379"));
        assert_eq!(found("orders", "dc2"), is(Side::Dialler, "orders", "dc2"));
        // As the config spells it.
        assert_eq!(found("carts", "DC3"), is(Side::Dialler, "carts", "dc3"));
        assert_eq!(found("orders", "[2001:DB8::1]:6379").2, "[2001:db8::1]:6379");
    }

    #[test]
    fn an_unknown_name_or_party_is_answered_with_what_there_is_the_nearest_first() {
        let why = |name: &str, party: &str| find(&known(), name, party).unwrap_err();
        assert_eq!(why("order", "dc1"), r#"no entry "order" follows a master here; known: orders, carts"#);
        assert_eq!(
            why("orders", "10.0.0.6:6379"),
            r#""10.0.0.6:6379" is no Redis of master "orders"; known: 10.0.0.5:6379, [2001:db8::1]:6379"#
        );
        assert_eq!(why("orders", "dc3"), r#""dc3" is no site of replica "orders"; known: dc1, dc2"#);
        assert_eq!(
            why("carts", "10.0.0.6:6379"),
            r#""10.0.0.6:6379" is no site of replica "carts"; known: dc1, dc3"#
        );
        assert!(
            why("stock", "10.0.0.9:6379")
                .contains("goes to what answers at 10.0.0.9:6379; name its candidates")
        );
        assert!(why("sessions", "dc2").contains("has no choice but the site dc2; name the sites"));
        let none = find(&Known::default(), "orders", "dc2").unwrap_err();
        assert_eq!(none, r#"no entry "orders" follows a master here; there is none"#);
    }

    #[test]
    fn an_order_is_read_back_and_one_with_more_in_it_is_not_taken_for_it() {
        let order = Order::Follow { name: "orders".to_owned(), party: "dc2".to_owned(), carry_out: true };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(text, r#"{"follow":{"name":"orders","party":"dc2","carry_out":true}}"#);
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        let later = text.replace("true}", r#"true,"only_if_nothing_is_lost":true}"#);
        assert!(serde_json::from_str::<Order>(&later).is_err());
    }
}
