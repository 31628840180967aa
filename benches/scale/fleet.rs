//! One gateway with many masters, and the gateways of the sites that replicate them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::peers::{Way, config, replgate};
use crate::place::{Place, free_port, local};
use crate::process::Process;

/// How long a gateway may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Fleet {
    /// The masters' gateway, and that of the first site.
    pub way: Way,
    _other_sites: Vec<Process>,
    /// Where a replica connects, and which master that is; of all sites.
    pub entries: Vec<(usize, SocketAddr)>,
    /// How long the two gateways of `way` took from their start until they told that they were ready.
    pub ready: [Duration; 2],
}

impl Fleet {
    /// Starts one gateway for `masters`, and `sites` gateways with a listener for each of them.
    pub fn start(place: &Place, program: &Path, sites: usize, masters: &[SocketAddr]) -> Result<Self> {
        let names: Vec<String> = (1..=sites).map(|number| format!("site{number}")).collect();
        place.add_sites(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        let wan = local(free_port()?);
        let allow = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let mut at_master = replgate::head(place, "dc1", "fleet");
        at_master += &format!("[tunnel]\nlisten = \"{wan}\"\n");
        for (number, redis) in masters.iter().enumerate() {
            at_master +=
                &format!("[[master]]\nname = \"m{number}\"\nredis = \"{redis}\"\nallow = [{allow}]\n");
        }
        let (gateway, ready) = start(place, program, "dc1", &at_master)?;
        let mut entries = Vec::new();
        let mut gateways = Vec::new();
        for (number, name) in (1..).zip(&names) {
            let mut text = replgate::head(place, name, "fleet");
            let listeners = free_addresses(Ipv4Addr::new(127, 0, 1, number), masters.len())?;
            for (master, listen) in listeners.into_iter().enumerate() {
                text += &format!(
                    "[[replica]]\nname = \"m{master}\"\nlisten = \"{listen}\"\nsite = \"dc1\"\n\
                     peers = [\"{wan}\"]\n"
                );
                entries.push((master, listen));
            }
            gateways.push(start(place, program, name, &text)?);
        }
        let (first, first_ready) = gateways.remove(0);
        Ok(Self {
            way: Way { entry: entries[0].1, tls: false, sites: Some([gateway, first]) },
            _other_sites: gateways.into_iter().map(|(gateway, _)| gateway).collect(),
            entries,
            ready: [ready, first_ready],
        })
    }
}

/// Starts a gateway, and waits until it tells its service manager, which is the bench, that it is ready.
fn start(place: &Place, program: &Path, site: &str, text: &str) -> Result<(Process, Duration)> {
    let path = config(place, &format!("fleet-{site}.toml"), text)?;
    let told = place.file(&format!("fleet-{site}.notify"));
    let _ = std::fs::remove_file(&told);
    let socket = UnixDatagram::bind(&told).with_context(|| format!("bind {}", told.display()))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut command = Command::new(program);
    command.arg("run").arg("-c").arg(path).env("NOTIFY_SOCKET", &told);
    let begin = Instant::now();
    let process = Process::start(&command, &place.file(&format!("fleet-{site}.log")))?;
    let mut message = [0; 256];
    let length = socket.recv(&mut message).with_context(|| format!("the gateway of {site} is ready"))?;
    ensure!(message[..length].starts_with(b"READY=1"), "the gateway of {site} told something else");
    Ok((process, begin.elapsed()))
}

/// Free ports of one address, which no outgoing connection of the machine uses.
fn free_addresses(address: Ipv4Addr, count: usize) -> Result<Vec<SocketAddr>> {
    let bind = |_| TcpListener::bind((address, 0)).with_context(|| format!("find a free port of {address}"));
    let listeners = (0..count).map(bind).collect::<Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}
