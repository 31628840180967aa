//! The addresses on which a gateway with this config listens.

use super::codes::Code;
use super::report::{Finding, quoted};
use crate::admin::Status;
use crate::config::Config;
use crate::listener::{self, unix};
use crate::units::ListenAddress;

/// Whether each address is free, or taken by the gateway that runs.
pub(super) fn check(config: &Config, running: Option<&Status>) -> Vec<Finding> {
    let names = config.listen.iter().map(|_| "[tunnel]".to_owned());
    let names = names.chain(config.replicas.iter().map(|replica| format!("replica {:?}", replica.name)));
    let names = names.chain(config.admin.iter().map(|_| "[admin]".to_owned()));
    // All listeners are kept until the last one is tried, since two of them may conflict.
    let (mut held, mut findings) = (Vec::new(), Vec::new());
    for (what, address) in names.zip(config.listeners()) {
        let (code, text) = match (running, &address) {
            (Some(status), _) if status.listeners.contains(&address) => {
                (Code::Listens, format!("{what}: this gateway is running and listens on {address}"))
            }
            (Some(_), _) => (
                Code::NotListening,
                format!(
                    "{what}: the running gateway does not listen on {address}: reload it to use this config"
                ),
            ),
            (None, ListenAddress::Ip(ip)) => {
                let bound = listener::bind(*ip).map(|listener| held.push(listener));
                free(
                    &what,
                    &address,
                    bound.map_err(|error| format!("{error}{}", listener::hint(&error, *ip))),
                )
            }
            // A finding of its own tells it.
            (None, ListenAddress::Unix(path)) if !unix::has_folder(path) => continue,
            // Binding would leave a file, or take one away.
            (None, ListenAddress::Unix(path)) => free(&what, &address, unix::may_bind(path)),
        };
        findings.push(Finding::new(code, address, text));
    }
    drop(held);
    findings
}

/// Whether the folder of the socket is there; it needs no network.
pub(super) fn socket_folder(config: &Config) -> Option<Finding> {
    let path = config.socket().filter(|path| !unix::has_folder(path))?;
    let folder = path.parent().unwrap_or(path).display();
    let text =
        format!("[admin]: the folder {folder} of the socket is not there, so the gateway does not start");
    let finding = Finding::new(Code::SocketFolderMissing, folder.to_string(), text);
    Some(finding.advise(format!("mkdir {}", quoted(&folder.to_string()))))
}

/// What is said of an address that could be bound, or not and why.
fn free(what: &str, address: &ListenAddress, bound: Result<(), String>) -> (Code, String) {
    match bound {
        Ok(()) => (Code::PortFree, format!("{what}: {address} is free to listen on")),
        Err(why) => (Code::PortTaken, format!("{what}: cannot listen on {address}: {why}")),
    }
}
