//! What is said of a link, in the words that everything shares which shows one.

use crate::clock;
use crate::registry::LinkStatus;

/// The far site, and which way the data goes: `to dc2` where the master is here, `from dc1` where the replica
/// is.
pub fn way(link: &LinkStatus) -> String {
    let way = if link.role == "master" { "to" } else { "from" };
    format!("{way} {}", link.site)
}

/// The replica as the master lists it, as far as it is known: an address, with a port once it is announced.
/// `None` for a link of which only the bytes are known.
pub fn replica(link: &LinkStatus) -> Option<String> {
    let replication = link.replication.as_ref()?;
    let host = match &replication.host {
        Some(host) => host,
        // Without an announcement a master lists the address that the connection comes from.
        None if link.role == "replica" => link.redis.rsplit_once(':').map_or("", |(host, _)| host),
        None => &link.site,
    };
    Some(format!("{host}{}", replication.port.map_or_else(String::new, |port| format!(":{port}"))))
}

/// How long a link has been held, when it gives up, and what the dials met, as in `12 s, gives up in 33 s`;
/// `None` if it is not held.
pub fn held(link: &LinkStatus) -> Option<String> {
    let whole = |seconds: f64| clock::span(seconds.round() as i64);
    let (since, left) = (link.held_seconds?, link.gives_up_in_seconds.unwrap_or_default());
    let mut text = format!("{}, gives up in {}", whole(since), whole(left));
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

/// How many links are in each state, the most frequent first.
pub fn states<'a>(links: &[&'a LinkStatus]) -> Vec<(&'a str, usize)> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for link in links {
        match counts.iter_mut().find(|(state, _)| *state == link.state) {
            Some((_, count)) => *count += 1,
            None => counts.push((&link.state, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

/// The states with their numbers, as in `2 streaming, 1 full sync`.
pub fn listed(states: &[(&str, usize)]) -> String {
    states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}
