//! The way to the far site of each `[[replica]]`: names, connections, certificates, clocks.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::report::Report;
use crate::clock;
use crate::config::{Config, Replica};
use crate::escape::shown;
use crate::race;
use crate::session::Process;
use crate::session::dial::{self, Dialer};
use crate::session::exchange::Exchange;
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;
use crate::units::Address;

/// Difference between clocks in milliseconds above which there is a warning.
const SKEW: u64 = 30_000;

/// Checks the way to each far site, with the certificates of this one.
pub(super) async fn check(config: &Config, material: Material, report: &mut Report) {
    let loaded = match Loaded::new(material, config.far_sites()) {
        Ok(loaded) => loaded,
        Err(error) => return report.fail(&format!("TLS cannot be set up: {error}")),
    };
    let dialer = Arc::new(Dialer::new(
        Process::new(config),
        config.clone(),
        loaded,
        Exchange::new().0,
        CancellationToken::new(),
    ));
    for replica in &config.replicas {
        way(&dialer, replica, report).await;
    }
}

/// Checks the way to a far site: resolves each peer's name, and then sends a probe.
async fn way(dialer: &Arc<Dialer>, replica: &Replica, report: &mut Report) {
    let what = format!("replica {:?}", replica.name);
    let mut working = 0;
    // The peers are tried concurrently and reported in the config's order.
    let mut tried = JoinSet::new();
    for (at, peer) in replica.peers.iter().cloned().enumerate() {
        let (dialer, one) =
            (Arc::clone(dialer), Arc::new(Replica { peers: vec![peer.clone()], ..replica.clone() }));
        tried.spawn(async move {
            let dialled = match race::run::resolve(&peer).await {
                Ok(addresses) => Ok((addresses, dial::probe(&dialer, &one).await)),
                Err(why) => Err(why),
            };
            (at, peer, dialled)
        });
    }
    let mut tried = tried.join_all().await;
    tried.sort_by_key(|(at, ..)| *at);
    for (_, peer, dialled) in tried {
        let (addresses, dialled) = match dialled {
            Ok(dialled) => dialled,
            Err(why) => {
                report.warn(&format!("{what}: peer {peer}: {why}"));
                continue;
            }
        };
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match dialled {
            Ok((address, accept)) => {
                working += 1;
                report.ok(&format!(
                    "{what}: {peer} ({list}) is {} on {}, offers master {:?} to us, and its Redis is up",
                    replica.site,
                    shown(accept.identity.node.as_bytes()),
                    replica.master
                ));
                let (here, there) = (clock::now_millis(), accept.identity.clock);
                let skew = here.abs_diff(there);
                let text = format!("{what}: the clock at {address} differs by {:.1} s", skew as f64 / 1000.0);
                if skew > SKEW {
                    report.warn(&format!(
                        "{text}: certificates are checked by the clock; set both clocks by NTP"
                    ))
                } else {
                    report.ok(&text)
                }
            }
            Err(error) => report.warn(&format!("{what}: peer {error}{}", unreached(&error, &peer))),
        }
    }
    if working == 0 {
        report.fail(&format!(
            "{what}: no gateway of {} offers the master; the lines above say why",
            replica.site
        ));
    }
}

/// Advice if a TCP connection was refused.
fn unreached(error: &str, peer: &Address) -> String {
    let Address { host, port } = peer;
    // If nothing answers, the error itself has the advice.
    if error.contains("Connection refused") {
        format!(
            "; nothing listens on TCP port {port} of {host}, or a firewall refuses it: is the gateway there running?"
        )
    } else {
        String::new()
    }
}
