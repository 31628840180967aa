//! A pair of spiped processes. They share a key, since spiped has no certificates and no TLS.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;

use super::{Ports, config, first_line};
use crate::place::Place;
use crate::process::Process;

pub fn version() -> Option<String> {
    first_line(Command::new("spiped").arg("-v"))
}

pub fn start(place: &Place, ports: Ports, master: SocketAddr) -> Result<[Process; 2]> {
    // The length of a good key. Its value has no influence on speed.
    let key = config(place, "spiped.key", &"k".repeat(32))?;
    let start = |site: &str, direction: &str, source: SocketAddr, target: SocketAddr| {
        let mut command = Command::new("spiped");
        command.args([direction, "-F", "-g", "-n", "0", "-R"]);
        command.args(["-s", &format!("[{}]:{}", source.ip(), source.port())]);
        command.args(["-t", &format!("[{}]:{}", target.ip(), target.port())]);
        command.arg("-k").arg(&key);
        Process::start(&command, &place.file(&format!("spiped-{site}.log")))
    };
    Ok([start("dc1", "-d", ports.wan, master)?, start("dc2", "-e", ports.entry, ports.wan)?])
}
