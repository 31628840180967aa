//! The addresses on which a gateway with this config listens.

use super::report::Report;
use crate::admin::Status;
use crate::config::Config;
use crate::listener::{self, unix};
use crate::units::ListenAddress;

/// Reports whether each address is free, or taken by the gateway that runs.
pub(super) fn check(config: &Config, running: Option<&Status>, report: &mut Report) {
    let names = config.listen.iter().map(|_| "[tunnel]".to_owned());
    let names = names.chain(config.replicas.iter().map(|replica| format!("replica {:?}", replica.name)));
    let names = names.chain(config.admin.iter().map(|_| "[admin]".to_owned()));
    // All listeners are kept until the last one is tried, since two of them may conflict.
    let mut held = Vec::new();
    for (what, address) in names.zip(config.listeners()) {
        if let Some(status) = running {
            if status.listeners.contains(&address) {
                report.ok(&format!("{what}: this gateway is running and listens on {address}"));
            } else {
                report.warn(&format!(
                    "{what}: the running gateway does not listen on {address}: restart it to use this config"
                ));
            }
            continue;
        }
        let free = match &address {
            ListenAddress::Ip(address) => listener::bind(*address)
                .map(|listener| held.push(listener))
                .map_err(|error| format!("{error}{}", listener::hint(&error, *address))),
            // Binding would leave a file, or take one away.
            ListenAddress::Unix(path) => unix::may_bind(path),
        };
        match free {
            Ok(()) => report.ok(&format!("{what}: {address} is free to listen on")),
            Err(why) => report.fail(&format!("{what}: cannot listen on {address}: {why}")),
        }
    }
    drop(held);
}
