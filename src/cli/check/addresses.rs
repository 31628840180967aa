//! The addresses on which a gateway with this config listens.

use super::report::Report;
use crate::admin::Status;
use crate::config::Config;

/// Reports whether each address is free, or taken by the gateway that runs.
pub(super) fn check(config: &Config, running: Option<&Status>, report: &mut Report) {
    let names = config.listen.iter().map(|_| "[tunnel]".to_owned());
    let names = names.chain(config.replicas.iter().map(|replica| format!("replica {:?}", replica.name)));
    // All listeners are kept until the last one is tried, since two of them may conflict.
    let mut held = Vec::new();
    for (what, address) in names.zip(config.listeners()) {
        match running {
            Some(status) if status.listeners.contains(&address) => {
                report.ok(&format!("{what}: this gateway is running and listens on {address}"));
            }
            Some(_) => report.warn(&format!(
                "{what}: the running gateway does not listen on {address}: restart it to use this config"
            )),
            None => match crate::listener::bind(address) {
                Ok(listener) => {
                    held.push(listener);
                    report.ok(&format!("{what}: {address} is free to listen on"));
                }
                Err(error) => report.fail(&format!(
                    "{what}: cannot listen on {address}: {error}{}",
                    crate::listener::hint(&error, address)
                )),
            },
        }
    }
    drop(held);
}
