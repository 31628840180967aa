//! A pair of nginx stream proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Ports, config, first_line};
use crate::place::Place;
use crate::process::Process;

/// Where Debian puts the stream module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn program() -> Option<&'static str> {
    let mut places = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter();
    places.find(|path| Path::new(path).exists()).filter(|_| Path::new(MODULE).exists())
}

pub fn version() -> Option<String> {
    let line = first_line(Command::new(program()?).arg("-v"))?;
    Some(line.trim_start_matches("nginx version: ").replace('/', " "))
}

pub fn start(place: &Place, ports: Ports, master: SocketAddr, workers: u32) -> Result<[Process; 2]> {
    let cert = |site: &str, file| place.cert(site, file).display().to_string();
    let at_master = format!(
        "listen {} ssl; proxy_pass {master}; ssl_protocols TLSv1.3; \
         ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; \
         ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; ssl_verify_client on;",
        ports.wan,
        cert("dc1", "tls.crt"),
        cert("dc1", "tls.key"),
        cert("dc1", "ca.crt"),
    );
    let at_replica = format!(
        "listen {}; proxy_pass {}; proxy_ssl on; proxy_ssl_protocols TLSv1.3; \
         proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; \
         proxy_ssl_certificate {}; proxy_ssl_certificate_key {}; proxy_ssl_trusted_certificate {}; \
         proxy_ssl_verify on; proxy_ssl_name dc1; proxy_ssl_server_name on;",
        ports.entry,
        ports.wan,
        cert("dc2", "tls.crt"),
        cert("dc2", "tls.key"),
        cert("dc2", "ca.crt"),
    );
    let start = |site: &str, server: &str| {
        let file = |ending: &str| place.file(&format!("nginx-{site}.{ending}")).display().to_string();
        let text = format!(
            "load_module {MODULE}; daemon off; worker_processes {workers}; worker_rlimit_nofile 16384; \
             pid {}; error_log {}; events {{ worker_connections 8192; }} \
             stream {{ tcp_nodelay on; proxy_buffer_size 64k; proxy_timeout 1h; server {{ {server} }} }}",
            file("pid"),
            file("err"),
        );
        let path = config(place, &format!("nginx-{site}.conf"), &text)?;
        let mut command = Command::new(program().context("nginx is not installed")?);
        command.arg("-c").arg(path);
        Process::start(&command, &place.file(&format!("nginx-{site}.log")))
    };
    Ok([start("dc1", &at_master)?, start("dc2", &at_replica)?])
}
