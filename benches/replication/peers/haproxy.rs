//! A pair of HAProxy processes in TCP mode.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Ports, config, first_line};
use crate::place::Place;
use crate::process::Process;

fn program() -> Option<&'static str> {
    ["/usr/sbin/haproxy", "/usr/bin/haproxy"].into_iter().find(|path| Path::new(path).exists())
}

pub fn version() -> Option<String> {
    let line = first_line(Command::new(program()?).arg("-v"))?;
    Some(line.split_whitespace().take(3).collect::<Vec<_>>().join(" ").replace("HAProxy version", "HAProxy"))
}

pub fn start(place: &Place, ports: Ports, master: SocketAddr, threads: u32) -> Result<[Process; 2]> {
    let start = |site: &str, listener: &str, server: &str| {
        // HAProxy reads a certificate and its key from one file.
        let pem = place.file(&format!("haproxy-{site}.pem"));
        let read = |file| std::fs::read(place.cert(site, file));
        std::fs::write(&pem, [read("tls.crt")?, read("tls.key")?].concat())?;
        let proof = format!(
            "ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3",
            pem.display(),
            place.cert(site, "ca.crt").display()
        );
        let text = format!(
            "global\n nbthread {threads}\n maxconn 4096\n tune.bufsize 65536\n \
             ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n \
             ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n\
             defaults\n mode tcp\n maxconn 4096\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             listen tunnel\n {}\n {}\n",
            listener.replace("PROOF", &proof),
            server.replace("PROOF", &proof),
        );
        let path = config(place, &format!("haproxy-{site}.cfg"), &text)?;
        let mut command = Command::new(program().context("haproxy is not installed")?);
        command.arg("-db").arg("-f").arg(path);
        Process::start(&command, &place.file(&format!("haproxy-{site}.log")))
    };
    let Ports { wan, entry } = ports;
    Ok([
        start("dc1", &format!("bind {wan} PROOF"), &format!("server redis {master}"))?,
        start(
            "dc2",
            &format!("bind {entry}"),
            &format!("server dc1 {wan} PROOF verifyhost dc1 sni str(dc1)"),
        )?,
    ])
}
