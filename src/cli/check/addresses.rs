//! The addresses on which a gateway with this config listens.

use super::codes::Code;
use super::report::Finding;
use crate::admin::Status;
use crate::config::Config;

/// Whether each address is free, or taken by the gateway that runs.
pub(super) fn check(config: &Config, running: Option<&Status>) -> Vec<Finding> {
    let names = config.listen.iter().map(|_| "[tunnel]".to_owned());
    let names = names.chain(config.replicas.iter().map(|replica| format!("replica {:?}", replica.name)));
    // All listeners are kept until the last one is tried, since two of them may conflict.
    let (mut held, mut findings) = (Vec::new(), Vec::new());
    for (what, address) in names.zip(config.listeners()) {
        let (code, text) = match running {
            Some(status) if status.listeners.contains(&address) => {
                (Code::Listens, format!("{what}: this gateway is running and listens on {address}"))
            }
            Some(_) => (
                Code::NotListening,
                format!(
                    "{what}: the running gateway does not listen on {address}: restart it to use this config"
                ),
            ),
            None => match crate::listener::bind(address) {
                Ok(listener) => {
                    held.push(listener);
                    (Code::PortFree, format!("{what}: {address} is free to listen on"))
                }
                Err(error) => {
                    let hint = crate::listener::hint(&error, address);
                    (Code::PortTaken, format!("{what}: cannot listen on {address}: {error}{hint}"))
                }
            },
        };
        findings.push(Finding::new(code, address, text));
    }
    drop(held);
    findings
}
