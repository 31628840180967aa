//! Whether what a gateway carries is well, and the next step where it is not.
//!
//! A function of a [`Status`] alone, so that everything that shows one says the same. This is for people: a
//! probe that restarts a gateway goes by `ready.rs`.

use super::Status;
use crate::clock;
use crate::redis::replication::{Replication, Stage};
use crate::registry::{Coverage, Event, Kind as Refusal, LinkStatus};
use crate::tls::expiry::{Kind, Standing};

/// Seconds of lag above which a replica needs attention.
const BEHIND: f64 = 10.0;

/// Most links of one fault, and most revocation lists or CAs, that are told one by one.
const TOLD: usize = 3;

/// One thing that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In a few words.
    pub short: String,
    /// The details with the next step, each a line.
    pub lines: Vec<String>,
}

/// What needs attention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What is broken now, the worst first.
    pub faults: Vec<Finding>,
    /// What may break.
    pub warnings: Vec<Finding>,
}

impl Health {
    /// That of a gateway in this state. `now` is in seconds since 1970.
    pub fn of(status: &Status, now: i64) -> Self {
        let mut faults = Vec::new();
        let past = expiry(status, now, |standing| standing == Standing::Past);
        if status.terms.is_empty() && status.certificate_expires < now {
            // An earlier release tells nothing else.
            let words = format!(
                "the certificate EXPIRED {} ago: no far gateway takes it; renew it: replgate certs renew, then copy it here and reload",
                clock::span(now - status.certificate_expires)
            );
            faults.push(finding("the certificate has EXPIRED".to_owned(), vec![words]));
        }
        let listeners = status.listeners_lost.iter().map(|address| {
            let short = format!("not listening on {address}");
            finding(short, vec![format!("NOT LISTENING on {address} any more: restart the gateway")])
        });
        faults.extend(past);
        faults.extend(listeners);
        faults.extend(links(&status.links, "held", |link| link.held_seconds.is_some()));
        faults.extend(status.without_link.iter().map(|name| {
            let is_why =
                |event: &&Event| event.kind == Refusal::NoLink.code() && event.name.as_ref() == Some(name);
            let why =
                status.events.iter().find(is_why).map(|event| event.words.trim_start_matches("no link: "));
            let why = why.unwrap_or("replgate events says why");
            let words = format!("a replica asked for {name:?} a moment ago and got no link: {why}");
            finding(format!("no link for {name}"), vec![words])
        }));
        let behind = format!("more than {BEHIND:.0} s behind");
        faults.extend(links(&status.links, &behind, |link| !is_held(link) && is_behind(link)));
        faults.extend(links(&status.links, "with an error of Redis", |link| {
            !is_held(link) && !is_behind(link) && complaint(link).is_some()
        }));
        faults.extend(links(&status.links, "in an unknown state", |link| {
            let replication = link.replication.as_ref();
            !is_held(link) && replication.is_some_and(|replication| replication.stage == Stage::Unknown)
        }));
        faults.extend(status.reload.refused.as_ref().map(|refused| {
            let words = format!("{}; mend it, then reload", refused.words());
            finding("the last reload was refused".to_owned(), vec![words])
        }));
        let ending = |standing| matches!(standing, Standing::Ending | Standing::LastDay);
        let warnings = expiry(status, now, ending).chain(uncovered(&status.links)).collect();
        Self { faults, warnings }
    }
}

fn finding(short: String, lines: Vec<String>) -> Finding {
    Finding { short, lines }
}

/// Whether a link needs attention now.
pub fn is_unwell(link: &LinkStatus) -> bool {
    let replication = link.replication.as_ref();
    is_held(link)
        || is_behind(link)
        || complaint(link).is_some()
        || replication.is_some_and(|replication| replication.stage == Stage::Unknown)
}

fn is_held(link: &LinkStatus) -> bool {
    link.held_seconds.is_some()
}

fn is_behind(link: &LinkStatus) -> bool {
    let lag = link.replication.as_ref().and_then(|replication| replication.lag_seconds);
    lag.is_some_and(|lag| lag > BEHIND)
}

fn complaint(link: &LinkStatus) -> Option<&str> {
    link.replication.as_ref()?.complaint.as_deref()
}

/// The fault of all links of which this holds, if there are any. Links of one name and site share a line.
fn links(all: &[LinkStatus], what: &str, is_so: impl Fn(&LinkStatus) -> bool) -> Option<Finding> {
    let found: Vec<&LinkStatus> = all.iter().filter(|link| is_so(link)).collect();
    let mut alike: Vec<(&LinkStatus, usize)> = Vec::new();
    for link in &found {
        let key = |link: &LinkStatus| (link.name.clone(), link.role.clone(), link.site.clone());
        match alike.iter_mut().find(|(first, _)| key(first) == key(link)) {
            Some((_, count)) => *count += 1,
            None => alike.push((link, 1)),
        }
    }
    let mut lines: Vec<String> = alike.iter().take(TOLD).map(|(link, count)| told(link, count - 1)).collect();
    let more: usize = alike.iter().skip(TOLD).map(|(_, count)| count).sum();
    if more > 0 {
        lines.push(format!("and {more} more links {what}: --unwell"));
    }
    let of = match all.len() {
        1 => "the link is".to_owned(),
        all => format!("{} of {all} links", found.len()),
    };
    (!found.is_empty()).then(|| finding(format!("{of} {what}"), lines))
}

/// A link that needs attention, in a line: which one, what is wrong, and the next step. `more` others of its
/// name and site need it for the same reason.
fn told(link: &LinkStatus, more: usize) -> String {
    let way = if link.role == "master" { "to" } else { "from" };
    let replica =
        link.replication.as_ref().and_then(replica).map_or(String::new(), |at| format!(", replica {at}"));
    let others = if more > 0 { format!(", and {more} more") } else { String::new() };
    let which = format!("{} {way} {} (link {}{replica}{others})", link.name, link.site, link.number);
    let what = match (held(link), &link.replication) {
        (Some(held), _) => format!("{held}; replgate check examines the way there"),
        (None, Some(Replication { unknown: Some(why), .. })) => {
            format!("unknown: {why}; the bytes pass all the same")
        }
        (None, Some(replication)) if is_behind(link) => {
            let seconds = replication.lag_seconds.unwrap_or_default();
            format!("{seconds:.0} s behind: is the path between the sites, or the replica, too slow?")
        }
        _ => complaint(link).map_or_else(|| link.state.clone(), |words| format!("Redis says: {words}")),
    };
    format!("{which}: {what}")
}

/// How the master lists the replica, as far as it is known.
fn replica(replication: &Replication) -> Option<String> {
    let port = replication.port?;
    Some(replication.host.as_ref().map_or_else(|| format!("port {port}"), |host| format!("{host}:{port}")))
}

/// How long a link has been held, in words; `None` if it is not held.
pub fn held(link: &LinkStatus) -> Option<String> {
    let whole = |seconds: f64| clock::span(seconds.round() as i64);
    let (since, left) = (link.held_seconds?, link.gives_up_in_seconds?);
    let mut text = format!("held {}, gives up in {}", whole(since), whole(left));
    if let Some(failure) = link.redial_failure.as_ref().filter(|failure| failure.seconds_ago <= since) {
        text += &format!(
            "; dials failed {}, last {} ago: {}",
            link.redials_failed,
            whole(failure.seconds_ago),
            failure.reason
        );
    }
    Some(text)
}

/// What is in a standing like this, of the certificate, the CAs and the revocation lists.
fn expiry(
    status: &Status,
    now: i64,
    is_so: impl Fn(Standing) -> bool + Copy,
) -> impl Iterator<Item = Finding> {
    let terms = status.terms.iter().filter(move |term| is_so(term.standing(now)));
    let of = move |kind: Kind| {
        let found: Vec<_> = terms.clone().filter(|term| term.kind == kind).collect();
        let is_past = found.iter().any(|term| term.standing(now) == Standing::Past);
        let short = match (kind, is_past) {
            (Kind::Certificate, true) => "the certificate has EXPIRED",
            (Kind::Certificate, false) => "the certificate expires soon",
            (Kind::Ca, true) => "a CA has EXPIRED",
            (Kind::Ca, false) => "a CA expires soon",
            (Kind::List, true) => "a revocation list is STALE",
            (Kind::List, false) => "a revocation list becomes stale soon",
        };
        let lines: Vec<String> = found.iter().take(TOLD).map(|term| term.words(now)).collect();
        (!lines.is_empty()).then(|| finding(short.to_owned(), lines))
    };
    [Kind::Certificate, Kind::Ca, Kind::List].into_iter().filter_map(of)
}

/// The links whose memory does not last for `hold`, the shortest first.
fn uncovered(all: &[LinkStatus]) -> Option<Finding> {
    let mut short: Vec<_> =
        all.iter().filter_map(|link| Some((link, link.coverage.filter(Coverage::is_short)?))).collect();
    short.sort_by(|(_, one), (_, other)| one.seconds.total_cmp(&other.seconds));
    let line = |(link, coverage): &(&LinkStatus, Coverage)| {
        format!("outages: {} to {}: {}", link.name, link.site, coverage.words())
    };
    let mut lines: Vec<String> = short.iter().take(TOLD).map(line).collect();
    if short.len() > TOLD {
        lines.push(format!("outages: {} more links for which less than hold is covered", short.len() - TOLD));
    }
    let words = "memory is too small for an outage as long as hold";
    (!lines.is_empty()).then(|| finding(words.to_owned(), lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gateway at dc1 whose certificate is good until second 1000, with these fields of the JSON changed.
    fn status(change: impl FnOnce(&mut serde_json::Value)) -> Status {
        let mut json = serde_json::json!({
            "site": "dc1", "node": "n", "version": "0", "pid": 1, "certificate_expires": 1000, "listeners": [],
            "masters": [], "replicas": [], "memory_used": 0, "memory_limit": 0, "links": [], "ended": [],
            "syncs": [], "counts": crate::registry::Counts::default(),
            "terms": [{"kind": "certificate", "name": "tls.crt", "from": 0, "until": 1000}],
        });
        change(&mut json);
        serde_json::from_value(json).unwrap()
    }

    /// A link of dc2, with these fields of the JSON.
    fn link(number: u64, fields: serde_json::Value) -> serde_json::Value {
        let mut json = serde_json::json!({
            "number": number, "name": "orders", "role": "master", "site": "dc2", "far": "192.0.2.1:1", "redis": "127.0.0.1:1",
            "state": "streaming", "since": 0, "seconds": 1, "to_replica_bytes": 0, "to_master_bytes": 0, "carried_bytes": 0,
            "resent_bytes": 0, "buffered_bytes": 0, "hold_seconds": 45.0, "lanes_agreed": 1, "window_bytes": 1,
            "compressed": false, "lanes": 1, "lanes_lost": 0, "breaks": 0, "resumed": 0, "redials": 0, "redials_failed": 0,
            "redial_failure": null, "held_seconds": null, "gives_up_in_seconds": null, "replication": null,
        });
        json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json
    }

    fn faults(change: impl FnOnce(&mut serde_json::Value)) -> Vec<String> {
        let health = Health::of(&status(change), 100);
        assert_eq!(health.warnings, []);
        health
            .faults
            .into_iter()
            .map(|fault| format!("{}: {}", fault.short, fault.lines.join(" / ")))
            .collect()
    }

    #[test]
    fn each_fault_is_named_with_its_place_and_the_next_step() {
        assert_eq!(faults(|_| ()), [""; 0]);
        let seen = faults(|json| json["terms"][0]["until"] = 65.into());
        assert!(
            seen[0].starts_with("the certificate has EXPIRED: tls.crt: the certificate EXPIRED 35 s ago"),
            "{seen:?}"
        );
        assert!(seen[0].contains("replgate certs renew"));
        let seen = faults(|json| {
            json["terms"] = serde_json::json!([]);
            json["certificate_expires"] = 99.into();
        });
        assert!(seen[0].contains("EXPIRED 1 s ago"), "an earlier gateway tells no terms: {seen:?}");
        let seen = faults(|json| json["listeners_lost"] = serde_json::json!(["127.0.0.1:7379"]));
        assert_eq!(
            seen,
            [
                "not listening on 127.0.0.1:7379: NOT LISTENING on 127.0.0.1:7379 any more: restart the gateway"
            ]
        );
        let seen = faults(|json| json["without_link"] = serde_json::json!(["orders"]));
        assert!(seen[0].contains("no link for orders") && seen[0].contains("replgate events"), "{seen:?}");
        let seen = faults(|json| {
            json["without_link"] = serde_json::json!(["orders"]);
            let event = |number: u64, name: &str, words: &str| {
                let event = Event {
                    number,
                    kind: "no-link".into(),
                    name: Some(name.into()),
                    words: words.into(),
                    ..Event::default()
                };
                serde_json::to_value(event).unwrap()
            };
            json["events"] = vec![
                event(3, "stock", "other"),
                event(2, "orders", "no link: refused"),
                event(1, "orders", "old"),
            ]
            .into();
        });
        assert!(seen[0].ends_with("a moment ago and got no link: refused"), "{seen:?}");
        let seen = faults(|json| {
            json["reload"] =
                serde_json::json!({"read_at": 1, "refused": {"since": 5, "faults": ["a.toml:1: no"]}});
        });
        assert!(seen[0].contains("a.toml:1: no") && seen[0].contains("mend it, then reload"), "{seen:?}");
    }

    #[test]
    fn links_of_one_name_and_site_share_a_line_and_many_are_counted() {
        let held = serde_json::json!({"state": "held", "held_seconds": 12.4, "gives_up_in_seconds": 32.6,
            "redials_failed": 4, "redial_failure": {"seconds_ago": 2.0, "reason": "192.0.2.1:7379: no answer within 3 s"}});
        let seen = faults(|json| {
            let mut links: Vec<_> = (1..=3).map(|number| link(number, held.clone())).collect();
            links.push(link(4, serde_json::json!({})));
            for name in 5..10 {
                let mut other = link(name, held.clone());
                other["name"] = format!("m{name}").into();
                links.push(other);
            }
            json["links"] = links.into();
        });
        assert_eq!(seen.len(), 1);
        assert!(
            seen[0].starts_with(
                "8 of 9 links held: orders to dc2 (link 1, and 2 more): held 12 s, gives up in 33 s; dials failed 4, last 2 s ago: 192.0.2.1:7379: no answer within 3 s; replgate check examines the way there / m5 to dc2"
            ),
            "{seen:?}"
        );
        assert!(seen[0].ends_with(" / and 3 more links held: --unwell"), "{seen:?}");
    }

    #[test]
    fn lag_errors_of_redis_and_unknown_states_are_faults_each_once() {
        let replication = |fields: serde_json::Value| {
            let mut json = serde_json::to_value(Replication::default()).unwrap();
            json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            serde_json::json!({"replication": json})
        };
        let seen = faults(|json| {
            json["links"] = serde_json::json!([
                link(1, replication(serde_json::json!({"lag_seconds": 9.9, "stage": "streaming"}))),
                link(
                    2,
                    replication(
                        serde_json::json!({"lag_seconds": 12.0, "host": "dc2", "port": 6380, "complaint": "no"})
                    )
                ),
                link(3, replication(serde_json::json!({"complaint": "NOAUTH"}))),
                link(4, replication(serde_json::json!({"stage": "unknown", "unknown": "an odd answer"}))),
            ]);
        });
        assert_eq!(
            seen,
            [
                "1 of 4 links more than 10 s behind: orders to dc2 (link 2, replica dc2:6380): 12 s behind: is the path between the sites, or the replica, too slow?",
                "1 of 4 links with an error of Redis: orders to dc2 (link 3): Redis says: NOAUTH",
                "1 of 4 links in an unknown state: orders to dc2 (link 4): unknown: an odd answer; the bytes pass all the same",
            ]
        );
    }

    #[test]
    fn what_may_break_is_a_warning() {
        let health = Health::of(
            &status(|json| {
                json["terms"] = serde_json::json!([{"kind": "ca", "name": "CN=x", "from": 0, "until": 110}]);
                let covered =
                    serde_json::json!({"bytes_per_second": 1e6, "seconds": 9.0, "hold_seconds": 45.0});
                json["links"] = serde_json::json!([link(1, serde_json::json!({"coverage": covered}))]);
            }),
            100,
        );
        assert_eq!(health.faults, []);
        let lines: Vec<&String> = health.warnings.iter().flat_map(|warning| &warning.lines).collect();
        assert!(
            lines[0].starts_with("the CA CN=x expires in 10 s")
                && lines[1].starts_with("outages: orders to dc2: "),
            "{lines:?}"
        );
    }
}
