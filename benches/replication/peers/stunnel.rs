//! A pair of stunnel processes.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;

use super::{Ports, config};
use crate::place::Place;
use crate::process::Process;

pub fn version() -> Option<String> {
    let output = Command::new("stunnel4").arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let line = text.lines().find(|line| line.starts_with("stunnel "))?;
    Some(line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

pub fn start(place: &Place, ports: Ports, master: SocketAddr) -> Result<[Process; 2]> {
    let start = |site: &str, service: &str| {
        let cert = |file| place.cert(site, file).display().to_string();
        let text = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = err\n\
             socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
             [tunnel]\nsslVersion = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n\
             CAfile = {}\ncert = {}\nkey = {}\nverifyChain = yes\n{service}",
            cert("ca.crt"),
            cert("tls.crt"),
            cert("tls.key"),
        );
        let path = config(place, &format!("stunnel-{site}.conf"), &text)?;
        let mut command = Command::new("stunnel4");
        command.arg(path);
        Process::start(&command, &place.file(&format!("stunnel-{site}.log")))
    };
    let Ports { wan, entry } = ports;
    Ok([
        start("dc1", &format!("accept = {wan}\nconnect = {master}\n"))?,
        start("dc2", &format!("client = yes\ncheckHost = dc1\naccept = {entry}\nconnect = {wan}\n"))?,
    ])
}
