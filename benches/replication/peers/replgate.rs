//! A pair of gateways.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Carries, Ports, config};
use crate::place::Place;
use crate::process::Process;

/// How a pair runs.
#[derive(Debug)]
pub struct Settings<'a> {
    pub program: &'a Path,
    pub lanes: u32,
    pub zstd: bool,
    pub carries: Carries,
}

/// What the config of every gateway here begins with.
pub fn head(place: &Place, site: &str, node: &str) -> String {
    let cert = |file| place.cert(site, file).display().to_string();
    let (ca, own, key, crl) = (cert("ca.crt"), cert("tls.crt"), cert("tls.key"), cert("crl.pem"));
    // The limits are for strangers: the bench opens many links on purpose.
    format!(
        "site = \"{site}\"\nnode = \"{node}\"\n\
         [tls]\nca = \"{ca}\"\ncert = \"{own}\"\nkey = \"{key}\"\ncrl = \"{crl}\"\n\
         [limits]\nlinks_per_site = 100000\nnew_links_per_minute = 100000\n"
    )
}

impl Settings<'_> {
    pub(super) fn start(&self, place: &Place, ports: Ports, master: SocketAddr) -> Result<[Process; 2]> {
        let commands = if self.carries == Carries::Replication { "replication" } else { "any" };
        let compression = if self.zstd { "zstd" } else { "off" };
        let both = |site: &str| {
            format!(
                "{}[link]\nlanes = {}\ncompression = \"{compression}\"\n",
                head(place, site, &ports.wan.port().to_string()),
                self.lanes,
            )
        };
        let at_master = format!(
            "{}[tunnel]\nlisten = \"{}\"\n\
             [[master]]\nname = \"bench\"\nredis = \"{master}\"\nallow = [\"dc2\"]\ncommands = \"{commands}\"\n",
            both("dc1"),
            ports.wan,
        );
        let at_replica = format!(
            "{}[[replica]]\nname = \"bench\"\nlisten = \"{}\"\nsite = \"dc1\"\npeers = [\"{}\"]\n",
            both("dc2"),
            ports.entry,
            ports.wan,
        );
        let start = |site: &str, text: &str| {
            let path = config(place, &format!("replgate-{site}.toml"), text)?;
            let mut command = Command::new(self.program);
            command.arg("run").arg("-c").arg(path);
            Process::start(&command, &place.file(&format!("replgate-{site}.log")))
        };
        Ok([start("dc1", &at_master)?, start("dc2", &at_replica)?])
    }
}
