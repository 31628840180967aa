//! `docker-compose.yml` and the `Dockerfile`, unchanged.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::{Engine, REDIS, skip};
use crate::{eventually, holds, output, project, run, transcript};

/// The prefix of the names of containers, networks and volumes.
const NAME: &str = "replgate-test";

/// The demo, started with one compose tool and removed when dropped.
struct Demo<'a> {
    engine: &'a Engine,
    tool: &'a [&'static str],
}

impl<'a> Demo<'a> {
    /// Runs `docker compose up --build -d`, as docs/containers.md says.
    fn up(engine: &'a Engine, tool: &'a [&'static str]) -> Self {
        let demo = Self { engine, tool };
        run(demo.compose().args(["up", "--build", "-d"]));
        demo
    }

    fn compose(&self) -> Command {
        let mut command = self.engine.command(self.tool[0]);
        command.args(&self.tool[1..]).args(["-p", NAME]);
        command
    }

    /// The container of a service.
    fn id(&self, service: &str) -> String {
        let id = run(self.compose().args(["ps", "-q", service])).trim().to_owned();
        assert!(!id.is_empty(), "{service} has no container");
        id
    }

    fn inspect(&self, service: &str, format: &str) -> String {
        let id = self.id(service);
        run(self.engine.docker().args(["inspect", "--format", format, &id])).trim().to_owned()
    }

    /// A container's address on a network.
    fn address(&self, service: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{NAME}_{network}\").IPAddress}}}}");
        self.inspect(service, &format)
    }

    /// What `redis-cli` prints in a container.
    #[track_caller]
    fn redis(&self, service: &str, words: &[&str]) -> String {
        let mut command = self.compose();
        command.args(["exec", "-T", service, "redis-cli"]).args(words);
        run(&mut command).replace('\r', "").trim_end().to_owned()
    }

    /// Waits until both replicas are online and have the same data as alpha.
    #[track_caller]
    fn in_sync(&self) {
        eventually("both replicas online, with alpha's data", || {
            let master = self.redis("redis-alpha", &["INFO", "replication"]);
            holds(
                &master,
                &[
                    "connected_slaves:2",
                    "ip=bravo.dc2,port=6379,state=online",
                    "ip=charli.dc2,port=6379,state=online",
                ],
            )?;
            let data = self.digest("redis-alpha");
            for replica in ["redis-bravo", "redis-charli"] {
                let info = self.redis(replica, &["INFO", "replication"]);
                holds(
                    &info,
                    &["role:slave", "master_host:gateway-dc2", "master_link_status:up", "slave_read_only:1"],
                )?;
                let theirs = self.digest(replica);
                if theirs != data {
                    return Err(format!("{replica} has {theirs}, alpha {data}"));
                }
            }
            Ok(())
        });
    }

    /// A hash over all keys and values of a server.
    fn digest(&self, service: &str) -> String {
        let script = "local keys = redis.call('KEYS', '*') table.sort(keys) local all = '' \
                      for _, key in ipairs(keys) do all = redis.sha1hex(all .. key .. redis.call('GET', key)) end \
                      return #keys .. ' keys, ' .. all";
        self.redis(service, &["EVAL", script, "0"])
    }

    /// The number of full syncs that alpha has made.
    fn full_syncs(&self) -> String {
        let stats = self.redis("redis-alpha", &["INFO", "stats"]);
        stats.lines().find(|line| line.starts_with("sync_full:")).expect("a count").to_owned()
    }

    /// Whether a TCP connection from a container succeeds.
    fn reaches(&self, service: &str, host: &str, port: &str) -> bool {
        let mut command = self.compose();
        command.args(["exec", "-T", service]).args(connect(host, port));
        output(&mut command).status.success()
    }

    /// The same from a container that is on the WAN and belongs to neither site.
    fn stranger_reaches(&self, host: &str, port: &str) -> bool {
        let mut command = self.engine.docker();
        command.args(["run", "--rm", "--network", &format!("{NAME}_wan"), REDIS]).args(connect(host, port));
        output(&mut command).status.success()
    }

    /// The folder of a volume on this host.
    fn volume(&self, name: &str) -> PathBuf {
        let name = format!("{NAME}_{name}");
        run(self.engine.docker().args(["volume", "inspect", "--format", "{{.Mountpoint}}", &name]))
            .trim()
            .into()
    }
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = output(self.compose().args(["logs", "--no-color"]));
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        let down = output(self.compose().args(["down", "--volumes", "--timeout", "3"]));
        if !std::thread::panicking() {
            assert!(down.status.success(), "down: {}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

/// A command that succeeds if a TCP connection does.
fn connect(host: &str, port: &str) -> [String; 5] {
    ["timeout", "3", "bash", "-c", &format!("exec 3<> /dev/tcp/{host}/{port}")].map(str::to_owned)
}

/// Captures the packets on a network from its creation on.
struct Capture {
    tcpdump: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    fn on(engine: &Engine, interface: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut command = engine.inside("tcpdump");
        command.args(["-i", interface, "-U", "-Z", "root", "-w"]).arg(file.path());
        command.stdout(Stdio::null()).stderr(log.reopen().expect("it is there"));
        let capture = Self { tcpdump: command.spawn().expect("tcpdump"), file };
        eventually("tcpdump listens", || {
            holds(&std::fs::read_to_string(log.path()).unwrap_or_default(), &["listening on"])
        });
        capture
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).expect("tcpdump writes it")
    }

    fn has(&self, what: &[u8]) -> bool {
        self.bytes().windows(what.len()).any(|window| window == what)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// The compose tools that are installed: version 2, version 1, or both.
fn tools(engine: &Engine) -> Vec<&'static [&'static str]> {
    let known: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    let works = |tool: &&[&str]| {
        engine.command(tool[0]).args(&tool[1..]).arg("version").output().is_ok_and(|out| out.status.success())
    };
    known.into_iter().filter(works).collect()
}

#[test]
fn the_compose_file_replicates_encrypted_between_two_sites_and_survives_its_gateways() {
    let Some(engine) = Engine::or_skip("the compose demo") else { return };
    let tools = tools(&engine);
    if tools.is_empty() {
        return skip(
            "the compose demo",
            "neither `docker compose` nor docker-compose; install docker-compose",
        );
    }
    engine.need_base_images();
    let demo = Demo::up(&engine, tools[0]);
    demo.redis("redis-alpha", &["EVAL", "for i = 1, 1000 do redis.call('SET', 'key:' .. i, i) end", "0"]);
    demo.in_sync();

    what_the_document_says_to_try_works(&demo);
    the_sites_meet_only_through_their_gateways(&demo);
    the_wire_between_the_gateways_is_ciphertext(&demo);
    no_gateway_sees_the_ca_key_and_keys_are_their_owners_alone(&demo);
    gateways_run_without_privileges(&demo);
    a_gateway_that_is_restarted_or_killed_comes_back_without_a_full_sync(&demo);
    another_up_changes_no_certificates_and_no_data(&demo);
    every_service_becomes_healthy(&demo);
    a_gateway_stops_when_asked(&demo);
    drop(demo);

    // The other compose tool, where there is one, reads the same file.
    for tool in &tools[1..] {
        let demo = Demo::up(&engine, tool);
        demo.redis("redis-alpha", &["SET", "key", "value"]);
        demo.in_sync();
    }
}

fn what_the_document_says_to_try_works(demo: &Demo<'_>) {
    let document = project().join("docs/containers.md");
    for step in transcript::steps(&document, Some("## Two sites in containers")) {
        let tool = format!("{} -p {NAME}", demo.tool.join(" "));
        let command = step
            .command
            .replace("docker compose exec", "docker compose exec -T")
            .replace("docker compose", &tool);
        eventually(&format!("docs/containers.md:{}: {}", step.line, step.command), || {
            let output = output(demo.engine.command("bash").args(["-c", &command]));
            if step.is_shown(&output, str::to_owned) {
                return Ok(());
            }
            let said = [output.stdout, output.stderr].concat();
            Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&said)))
        });
    }
    demo.in_sync();
}

fn the_sites_meet_only_through_their_gateways(demo: &Demo<'_>) {
    let alpha = demo.address("redis-alpha", "dc1");
    let bravo = demo.address("redis-bravo", "dc2");
    let [wan1, wan2] = ["gateway-dc1", "gateway-dc2"].map(|gateway| demo.address(gateway, "wan"));
    // Connections that must succeed, so that the failures below mean something.
    assert!(demo.reaches("redis-bravo", "gateway-dc2", "6390"), "replicas reach their gateway");
    assert!(demo.reaches("redis-alpha", "gateway-dc1", "7379"), "alpha's network has its gateway");
    assert!(demo.stranger_reaches(&wan1, "7379"), "TLS is open to the WAN");
    for (from, host, port) in [
        ("redis-bravo", &*alpha, "6379"),
        ("redis-charli", &alpha, "6379"),
        ("redis-bravo", &wan1, "7379"),
        ("redis-bravo", "gateway-dc1", "7379"),
        ("redis-alpha", &bravo, "6379"),
        ("redis-alpha", "10.213.2.2", "6390"),
        ("redis-alpha", &wan2, "6390"),
    ] {
        assert!(!demo.reaches(from, host, port), "{from} reaches {host}:{port}");
    }
    // No plain Redis is reachable on the WAN.
    for host in [&*wan1, &wan2, "10.213.2.2", &alpha, &bravo] {
        for port in ["6390", "6379"] {
            assert!(!demo.stranger_reaches(host, port), "a stranger on the WAN reaches {host}:{port}");
        }
    }
}

fn the_wire_between_the_gateways_is_ciphertext(demo: &Demo<'_>) {
    let marker = "marker-that-must-not-cross-in-the-clear";
    let (wan, local) = (Capture::on(demo.engine, "replgate-wan"), Capture::on(demo.engine, "replgate-dc2"));
    demo.redis("redis-alpha", &["SET", "secret", marker]);
    eventually("the write is on bravo, and seen on its own site's network", || {
        let seen = (demo.redis("redis-bravo", &["GET", "secret"]) == marker, local.has(marker.as_bytes()));
        if seen == (true, true) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    // TLS 1.3's records of application data, and nothing of the value.
    eventually("the write crosses the WAN", || {
        if wan.has(&[0x17, 3, 3]) { Ok(()) } else { Err(format!("{} bytes", wan.bytes().len())) }
    });
    assert!(!wan.has(marker.as_bytes()) && !wan.has(b"REPLCONF"), "the WAN carries clear text");
}

fn no_gateway_sees_the_ca_key_and_keys_are_their_owners_alone(demo: &Demo<'_>) {
    let key = demo.volume("certs-ca").join("ca.key");
    for (volume, file) in [("certs-ca", "ca.key"), ("certs-dc1", "tls.key"), ("certs-dc2", "tls.key")] {
        let folder = demo.volume(volume);
        let (outside, inside) = (File::open(&folder), File::open(folder.join(file)));
        for (what, opened, mode) in [("folder", outside, 0o700), (file, inside, 0o600)] {
            let about = opened.unwrap_or_else(|error| panic!("{volume} {what}: {error}"));
            let about = about.metadata().expect("it is open");
            assert_eq!((about.mode() & 0o777, about.uid()), (mode, 65532), "{volume} {what}");
        }
    }
    let secret = std::fs::read_to_string(&key).expect("root may read it");
    for (gateway, own) in [("gateway-dc1", "certs-dc1"), ("gateway-dc2", "certs-dc2")] {
        let mounts = demo.inspect(gateway, "{{range .Mounts}}{{.Name}} {{.RW}},{{end}}");
        let mut mounts: Vec<&str> = mounts.trim_end_matches(',').split(',').map(str::trim).collect();
        mounts.sort_unstable();
        // Its config, a file of the checkout, and its own site's folder, both read-only.
        assert_eq!(mounts, ["false", &format!("{NAME}_{own} false")], "{gateway}");
        for entry in std::fs::read_dir(demo.volume(own)).expect("root may read it") {
            let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("PEM");
            assert!(!text.contains(&secret), "{own} holds the CA's key");
        }
    }
}

fn gateways_run_without_privileges(demo: &Demo<'_>) {
    for gateway in ["gateway-dc1", "gateway-dc2"] {
        let seen = demo.inspect(gateway, "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}");
        assert_eq!(seen, "65532:65532 true [ALL] [no-new-privileges:true]", "{gateway}");
        let pid = demo.inspect(gateway, "{{.State.Pid}}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs on this host");
        holds(&status, &["Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"])
            .expect("no privileges");
    }
    let files = demo.engine.docker().args(["create", "replgate"]).output().expect("docker");
    let id = String::from_utf8_lossy(&files.stdout).trim().to_owned();
    let listing = run(Command::new("sh")
        .envs(demo.engine.docker().get_envs().filter_map(|(key, value)| Some((key, value?))))
        .args(["-c", &format!("docker export {id} | tar t; docker rm {id} > /dev/null")]));
    assert!(listing.contains("usr/local/bin/replgate\n"), "{listing}");
    assert!(!listing.contains("bin/sh") && !listing.contains("lib/"), "more than the program: {listing}");
}

fn a_gateway_that_is_restarted_or_killed_comes_back_without_a_full_sync(demo: &Demo<'_>) {
    let before = demo.full_syncs();
    for gateway in ["gateway-dc2", "gateway-dc1"] {
        run(demo.compose().args(["restart", gateway]));
        demo.redis("redis-alpha", &["INCR", "restarts"]);
        demo.in_sync();
        // As the kernel does when memory runs out, without Docker's knowledge.
        let restarts = demo.inspect(gateway, "{{.RestartCount}}");
        run(Command::new("kill").args(["-KILL", &demo.inspect(gateway, "{{.State.Pid}}")]));
        eventually("it is started again", || {
            let seen = demo.inspect(gateway, "{{.State.Running}} {{.RestartCount}}");
            let count: u32 = restarts.parse().expect("a number");
            if seen == format!("true {}", count + 1) { Ok(()) } else { Err(seen) }
        });
        demo.redis("redis-alpha", &["INCR", "kills"]);
        demo.in_sync();
    }
    assert_eq!(demo.full_syncs(), before, "the backlog was enough for the replicas");
}

fn another_up_changes_no_certificates_and_no_data(demo: &Demo<'_>) {
    let certificate = || std::fs::read(demo.volume("certs-dc1").join("tls.crt")).expect("it is there");
    let (before, data) = (certificate(), demo.digest("redis-alpha"));
    run(demo.compose().args(["up", "-d"]));
    eventually("the certificate service runs again and finds all it needs", || {
        let logs = run(demo.compose().args(["logs", "--no-color", "certs"]));
        holds(&logs, &["site dc1: left as it is", "site dc2: left as it is"])
    });
    assert_eq!((certificate(), demo.digest("redis-alpha")), (before, data));
    demo.in_sync();
}

fn every_service_becomes_healthy(demo: &Demo<'_>) {
    for service in ["gateway-dc1", "gateway-dc2", "redis-alpha", "redis-bravo", "redis-charli"] {
        eventually(service, || match &*demo.inspect(service, "{{.State.Health.Status}}") {
            "healthy" => Ok(()),
            other => Err(other.to_owned()),
        });
    }
}

fn a_gateway_stops_when_asked(demo: &Demo<'_>) {
    // As process 1 it must handle SIGTERM itself. Otherwise Docker waits 10 s and kills it.
    let asked = Instant::now();
    let id = demo.id("gateway-dc2");
    run(demo.engine.docker().args(["stop", &id]));
    let code = run(demo.engine.docker().args(["inspect", "--format", "{{.State.ExitCode}}", &id]));
    assert_eq!(code.trim(), "0");
    assert!(asked.elapsed() < Duration::from_secs(10), "it had to be killed");
}
