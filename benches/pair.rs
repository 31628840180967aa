//! Compares a pair of gateways with a pair of nginx stream proxies with 64k buffers. Both use
//! mutual TLS 1.3, and their rounds alternate in one run. It reports CPU-seconds per GB of both
//! processes together, and GB/s, for a bulk transfer from master to replica. `replgate` carries the
//! data as a plain tunnel. `observed` carries it as a full sync and a stream, which the gateways
//! observe: the ratio of the two is the cost of that.
//!
//! `cargo bench --bench pair [-- --gigabytes 2 --rounds 5 --beside OTHER-REPLGATE]`: `--beside`
//! adds another build of replgate to the same run, to measure a change.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The cost of one transfer.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
}

/// The two processes, and the address that a client connects to.
struct Pair {
    name: &'static str,
    children: Vec<Child>,
    entry: SocketAddr,
    /// The first bytes that a client sends.
    greeting: &'static [u8],
}

/// A replica's request for a full sync.
const PSYNC: &[u8] = b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n";

impl Pair {
    fn greeting(mut self, greeting: &'static [u8]) -> Self {
        self.greeting = greeting;
        self
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in &mut self.children {
            let pids = tree(child.id());
            for pid in pids.iter().rev() {
                let _ = Command::new("kill").arg(pid.to_string()).status();
            }
            let _ = child.wait();
        }
    }
}

fn main() {
    let argument = |name: &str, default: u64| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments.nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (gigabytes, rounds) = (argument("--gigabytes", 2), argument("--rounds", 5));
    let dir = tempfile::tempdir().expect("a temporary folder");
    certificates(dir.path());
    let size = gigabytes * 1_000_000_000;
    let (master, redis) = (serve(size, false), serve(size, true));
    let own = Path::new(env!("CARGO_BIN_EXE_replgate"));
    let mut pairs = vec![
        replgate("replgate", own, dir.path(), master, "any"),
        replgate("observed", own, dir.path(), redis, "replication").greeting(PSYNC),
    ];
    let mut arguments = std::env::args().skip_while(|argument| argument != "--beside");
    if let Some(other) = arguments.nth(1) {
        pairs.push(replgate("beside", Path::new(&other), dir.path(), master, "any"));
        let more = replgate("beside, replicating", Path::new(&other), dir.path(), redis, "replication");
        pairs.push(more.greeting(PSYNC));
    }
    match nginx(dir.path(), master) {
        Some(pair) => pairs.push(pair),
        None => println!(
            "nginx with its stream module is not installed (Debian: nginx libnginx-mod-stream); only replgate is measured"
        ),
    }
    let mut costs = vec![Vec::new(); pairs.len()];
    for round in 0..=rounds {
        for (pair, costs) in pairs.iter().zip(&mut costs) {
            let cost = transfer(pair, gigabytes);
            // The first round warms up.
            if round > 0 {
                println!(
                    "round {round}  {:<10} {:.2} CPU-s/GB  {:.2} GB/s",
                    pair.name,
                    cost.cpu,
                    1.0 / cost.wall
                );
                costs.push(cost);
            }
        }
    }
    println!("\nmedians of {rounds} rounds of {gigabytes} GB");
    let medians: Vec<Cost> = costs
        .iter()
        .map(|costs| Cost {
            cpu: median(costs.iter().map(|cost| cost.cpu)),
            wall: median(costs.iter().map(|cost| cost.wall)),
        })
        .collect();
    for (pair, cost) in pairs.iter().zip(&medians) {
        println!("{:<10} {:.2} CPU-s/GB  {:.2} GB/s", pair.name, cost.cpu, 1.0 / cost.wall);
    }
    let ratio = |one: usize, other: usize| {
        let ratios = costs[one].iter().zip(&costs[other]);
        println!(
            "ratio {}/{}: CPU {:.3} (median of pairs), speed {:.2}",
            pairs[one].name,
            pairs[other].name,
            median(ratios.map(|(ours, theirs)| ours.cpu / theirs.cpu)),
            medians[other].wall / medians[one].wall
        );
    };
    ratio(1, 0);
    (2..pairs.len()).for_each(|other| ratio(usize::from(pairs[other].greeting == PSYNC), other));
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Reads all data through a pair; costs are per GB.
fn transfer(pair: &Pair, gigabytes: u64) -> Cost {
    let processes: Vec<u32> = pair.children.iter().flat_map(|child| tree(child.id())).collect();
    let before: f64 = processes.iter().map(|pid| cpu(*pid)).sum();
    let start = Instant::now();
    let mut socket = TcpStream::connect(pair.entry).expect("the pair accepts");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
    socket.write_all(pair.greeting).expect("the pair takes it");
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match socket.read(&mut buffer).expect("the transfer goes on") {
            0 => break,
            count => total += count as u64,
        }
    }
    let least = gigabytes * 1_000_000_000;
    assert!((least..least + 200).contains(&total), "{} delivered every byte", pair.name);
    let wall = start.elapsed().as_secs_f64();
    let after: f64 = processes.iter().map(|pid| cpu(*pid)).sum();
    Cost { cpu: (after - before) / gigabytes as f64, wall: wall / gigabytes as f64 }
}

/// A server that sends `size` bytes to each client and then closes. If it `replicates`, the client
/// must ask first, and gets half as a snapshot and half as the stream.
fn serve(size: u64, replicates: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { continue };
            std::thread::spawn(move || {
                let block = vec![b'x'; 1 << 20];
                if replicates {
                    // The gateway first announces how the replica is listed.
                    let mut asked = [0; 1024];
                    loop {
                        let count = socket.read(&mut asked).unwrap_or(0);
                        if count == 0 {
                            return;
                        }
                        if asked[..count].windows(5).any(|word| word == b"PSYNC") {
                            break;
                        }
                        let _ = socket.write_all(b"+OK\r\n");
                    }
                    let answer = format!("+FULLRESYNC {} 0\r\n${}\r\n", "0".repeat(40), size / 2);
                    if socket.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
                let mut left = size;
                while left > 0 {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                    if socket.write_all(&block[..part]).is_err() {
                        return;
                    }
                    left -= part as u64;
                }
            });
        }
    });
    address
}

fn certificates(dir: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_replgate"))
        .current_dir(dir)
        .args(["certs", "init", "dc1", "dc2"])
        .stdout(Stdio::null())
        .status();
    assert!(made.expect("replgate runs").success());
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port()
}

fn replgate(name: &'static str, program: &Path, dir: &Path, master: SocketAddr, commands: &str) -> Pair {
    let (wan, entry) = (free_port(), free_port());
    let tls = |site: &str| {
        format!(
            "[tls]\nca = \"certs/{site}/ca.crt\"\ncert = \"certs/{site}/tls.crt\"\nkey = \"certs/{site}/tls.key\"\ncrl = \"certs/{site}/crl.pem\"\n"
        )
    };
    let dc1 = format!(
        "site = \"dc1\"\n{}[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n[[master]]\nname = \"bulk\"\nredis = \"{master}\"\nallow = [\"dc2\"]\ncommands = \"{commands}\"\n",
        tls("dc1")
    );
    let dc2 = format!(
        "site = \"dc2\"\n{}[[replica]]\nname = \"bulk\"\nlisten = \"127.0.0.1:{entry}\"\nsite = \"dc1\"\npeers = [\"127.0.0.1:{wan}\"]\n",
        tls("dc2")
    );
    let children = [("dc1", dc1), ("dc2", dc2)].map(|(site, text)| {
        let config = dir.join(format!("{name}-{site}.toml"));
        std::fs::write(&config, text).expect("the folder is writable");
        let log =
            std::fs::File::create(dir.join(format!("{name}-{site}.log"))).expect("the folder is writable");
        Command::new(program).arg("run").arg("-c").arg(config).stderr(log).spawn().expect("replgate runs")
    });
    ready(name, children.into(), wan, entry)
}

fn nginx(dir: &Path, master: SocketAddr) -> Option<Pair> {
    let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
    let binary = ["/usr/sbin/nginx", "/usr/bin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .filter(|_| module.exists())?;
    let (wan, entry) = (free_port(), free_port());
    let certs = dir.join("certs");
    let certs = certs.display();
    let server = format!(
        "listen 127.0.0.1:{wan} ssl; proxy_pass {master}; ssl_protocols TLSv1.3; ssl_certificate {certs}/dc1/tls.crt; ssl_certificate_key {certs}/dc1/tls.key; ssl_client_certificate {certs}/dc1/ca.crt; ssl_verify_client on;"
    );
    let client = format!(
        "listen 127.0.0.1:{entry}; proxy_pass 127.0.0.1:{wan}; proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {certs}/dc2/tls.crt; proxy_ssl_certificate_key {certs}/dc2/tls.key; proxy_ssl_trusted_certificate {certs}/dc2/ca.crt; proxy_ssl_verify on; proxy_ssl_name dc1; proxy_ssl_server_name on;"
    );
    let children = [("server", server), ("client", client)].map(|(name, block)| {
        let text = format!(
            "load_module {}; daemon off; worker_processes 1; pid {}/{name}.pid; error_log {}/{name}.err; events {{}} stream {{ tcp_nodelay on; proxy_buffer_size 64k; server {{ {block} }} }}",
            module.display(),
            dir.display(),
            dir.display()
        );
        let config = dir.join(format!("{name}.conf"));
        std::fs::write(&config, text).expect("the folder is writable");
        Command::new(binary).arg("-c").arg(config).stderr(Stdio::null()).spawn().expect("nginx runs")
    });
    Some(ready("nginx", children.into(), wan, entry))
}

fn ready(name: &'static str, children: Vec<Child>, wan: u16, entry: u16) -> Pair {
    let deadline = Instant::now() + Duration::from_secs(20);
    for port in [wan, entry] {
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{name} listens in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Pair { name, children, entry: ([127, 0, 0, 1], entry).into(), greeting: b"" }
}

/// A process and its children.
fn tree(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all = vec![pid];
    all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()).flat_map(tree));
    all
}

/// CPU time that a process has used, user and system, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The fields after the name in parentheses; utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
