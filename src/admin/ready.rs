//! Whether a gateway is ready: by its config, its certificate and its listeners, never by the WAN or a Redis.
//!
//! A probe restarts what is not ready, or sends it nothing. A restart repairs neither the WAN nor a Redis, but
//! drops every link. The config in use is always a good one, since a gateway with another does not start;
//! so a reload that was refused changes nothing here.

use super::{Status, health};
use crate::clock;
use crate::units::ListenAddress;

/// Why a gateway with a certificate that expires then, and that has lost these listeners, is not ready;
/// empty if it is. Times are in seconds since 1970.
pub fn unready(certificate_expires: i64, listeners_lost: &[ListenAddress], now: i64) -> Vec<String> {
    let mut why = Vec::new();
    if certificate_expires < now {
        why.push(format!(
            "the certificate expired {} ago, on {}; renew it and reload the gateway",
            clock::span(now - certificate_expires),
            clock::utc(certificate_expires)
        ));
    }
    let lost = listeners_lost.iter();
    why.extend(lost.map(|address| format!("the gateway does not listen on {address} any more; restart it")));
    why
}

/// The links that have a client and are down, one line each; for those who ask for them beside [`unready`].
pub fn links_down(status: &Status) -> Vec<String> {
    let held = status.links.iter().filter(|link| link.state == "held");
    let held = held.map(|link| {
        format!("link {} of {:?} with site {} is held: nothing carries it", link.number, link.name, link.site)
    });
    let without = status.without_link.iter().map(|name| health::got_no_link(status, name));
    let no_sync = status.missing_syncs.iter().map(|missing| {
        format!(
            "a replica asked for a sync of {:?} with site {} a moment ago and got none: {}",
            missing.name, missing.site, missing.reason
        )
    });
    held.chain(without).chain(no_sync).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_about_the_certificate_and_the_listeners() {
        assert!(unready(100, &[], 100).is_empty());
        assert!(unready(65, &[], 100)[0].contains("expired 35 s ago"));
        let lost = unready(200, &["127.0.0.1:7379".to_owned().try_into().unwrap()], 100);
        assert!(lost.len() == 1 && lost[0].contains("not listen on 127.0.0.1:7379"), "{lost:?}");
    }

    #[test]
    fn a_replica_that_got_no_link_or_no_sync_is_named() {
        let text = format!(
            r#"{{"site":"dc2","node":"n","version":"0","pid":1,"certificate_expires":0,"listeners":[],
            "masters":[],"replicas":[],"memory_used":0,"memory_limit":0,"links":[],"ended":[],"syncs":[],
            "counts":{},"without_link":["orders"],
            "missing_syncs":[{{"name":"carts","role":"master","site":"dc3","reason":"NOAUTH"}}]}}"#,
            serde_json::to_string(&crate::registry::Counts::default()).unwrap()
        );
        let status: Status = serde_json::from_str(&text).unwrap();
        let down = links_down(&status);
        assert!(down.len() == 2 && down[0].contains("orders"), "{down:?}");
        assert!(down[1].contains(r#""carts" with site dc3 "#) && down[1].ends_with("NOAUTH"), "{down:?}");
    }
}
