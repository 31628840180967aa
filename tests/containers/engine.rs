//! A Docker engine, with images that come from no registry.
//!
//! Substitutes have the names of the base images: for `redis`, a Debian made with debootstrap; for
//! `rust`, the same with the finished program in place of a compiler. So the Dockerfile and the
//! compose file run unchanged, and in seconds.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{SOON, eventually, output, project, run};

/// The image of Redis in docker-compose.yml.
pub const REDIS: &str = "redis:7";

/// The image in which the Dockerfile builds.
const RUST: &str = "rust:1.95-slim-bookworm";

/// A bare Debian that boots, for the package.
pub const DEBIAN: &str = "replgate-test-debian";

/// The test's own engine in its own network namespace. It ends with the test, and neither sees nor
/// changes the images, networks or firewall of this machine.
pub struct Engine {
    daemon: Child,
    folder: TempDir,
    socket: String,
    _turn: MutexGuard<'static, ()>,
}

/// What is missing here for the tests of containers and packages.
fn missing() -> Option<String> {
    if run(Command::new("id").arg("-u")).trim() != "0" {
        return Some("images are made and packets captured as root; run it as root".to_owned());
    }
    let programs = [
        ("dockerd", "docker.io"),
        ("docker", "docker.io"),
        ("debootstrap", "debootstrap"),
        ("tcpdump", "tcpdump"),
    ];
    programs.into_iter().find_map(|(program, package)| {
        let there = output(Command::new("sh").args(["-c", &format!("command -v {program}")]));
        (!there.status.success()).then(|| format!("no {program}; install {package}"))
    })
}

/// Whether a test cannot run here, which is then reported.
pub fn skips(test: &str) -> bool {
    missing().is_some_and(|why| {
        skip(test, &why);
        true
    })
}

/// Reports that a test is skipped. The message is not captured, so that it is always visible. With
/// `CI=true` the test fails instead.
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run: {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

impl Engine {
    /// Starts an engine; `None` if that is not possible here.
    pub fn or_skip(test: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        if skips(test) {
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match Self::start(turn) {
            Ok(engine) => Some(engine),
            Err(why) => {
                skip(test, &why);
                None
            }
        }
    }

    fn start(turn: MutexGuard<'static, ()>) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("engine").tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let log = File::create(path("log")).expect("the folder is writable");
        // The machine's own settings may name the folders that are given here.
        std::fs::write(path("settings"), "{}").expect("the folder is writable");
        let socket = format!("unix://{}", path("socket").display());
        let mut dockerd = Command::new("unshare");
        dockerd.args(["--net", "--mount", "sh", "-c", "ip link set lo up; exec dockerd \"$@\"", "sh"]);
        dockerd.args(["--host", &socket]).arg("--config-file").arg(path("settings"));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            dockerd.arg(flag).arg(path(name));
        }
        dockerd.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        let daemon = dockerd.spawn().map_err(|error| format!("unshare: {error}; install util-linux"))?;
        let mut engine = Self { daemon, folder, socket, _turn: turn };
        let mut ended = false;
        eventually("a Docker engine", || {
            ended = engine.daemon.try_wait().is_ok_and(|status| status.is_some());
            let up = output(engine.docker().args(["version", "--format", "{{.Server.Version}}"]));
            if ended || up.status.success() { Ok(()) } else { Err("no answer".to_owned()) }
        });
        if ended {
            let said = std::fs::read_to_string(engine.folder.path().join("log")).unwrap_or_default();
            return Err(format!("a Docker engine cannot run here:\n{said}"));
        }
        Ok(engine)
    }

    /// A command in the engine's network namespace, which has the containers' networks.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.daemon.id())).arg(program);
        command
    }

    /// A command for this engine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(project()).stdin(Stdio::null());
        // The builder that asks for nothing beside the engine.
        command.envs([("DOCKER_BUILDKIT", "0"), ("COMPOSE_DOCKER_CLI_BUILD", "0")]);
        command.env("DOCKER_HOST", &self.socket);
        command
    }

    /// `docker`, for this engine.
    pub fn docker(&self) -> Command {
        self.command("docker")
    }

    /// Provides what docker-compose.yml and the Dockerfile start from.
    pub fn need_base_images(&self) {
        self.import(REDIS, &["CMD [\"redis-server\"]", "WORKDIR /data", "VOLUME /data"]);
        self.import(DEBIAN, &[]);
        let folder = tempfile::tempdir().expect("a folder");
        let unpacked = release_in(folder.path());
        std::fs::copy(unpacked.join("replgate"), folder.path().join("program")).expect("a program");
        let folder_of = "target/$(uname -m)-unknown-linux-musl/release";
        let tools = [
            // Cargo would refuse a context that lacks what Cargo.toml names.
            (
                "cargo",
                format!(
                    "set -e\nfor file in Cargo.lock src/main.rs benches/replication/main.rs packaging/manual.rs; do test -e $file; done\n\
                     mkdir -p {folder_of}\ncp /program {folder_of}/replgate"
                ),
            ),
            ("cc", String::new()),
            ("musl-gcc", String::new()),
            ("rustup", String::new()),
        ];
        std::fs::create_dir(folder.path().join("bin")).expect("the folder is writable");
        for (name, script) in tools {
            let path = folder.path().join("bin").join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the folder is writable");
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is there");
        }
        let dockerfile = format!("FROM {DEBIAN}\nCOPY program /program\nCOPY bin /usr/local/bin\n");
        std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("the folder is writable");
        run(self.docker().args(["build", "--quiet", "--tag", RUST]).arg(folder.path()));
    }

    /// A Debian with Redis and systemd in it, as an image.
    pub fn need_debian(&self) {
        self.import(DEBIAN, &[]);
    }

    fn import(&self, name: &str, changes: &[&str]) {
        let mut import = self.docker();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        run(import.arg(debian()).arg(name));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let deadline = Instant::now() + SOON;
        while matches!(self.daemon.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // Files of other users are in it: not for tempfile to delete.
        let _ = Command::new("rm").arg("-rf").arg(self.folder.path()).status();
    }
}

/// The root of a Debian with Redis and systemd, as a tar file; made once.
fn debian() -> PathBuf {
    let path = project().join("target/containers/debian.tar");
    if path.exists() {
        return path;
    }
    let folder = path.parent().expect("it has one");
    std::fs::create_dir_all(folder).expect("target is writable");
    let root = tempfile::Builder::new().prefix("root").tempdir_in(folder).expect("target is writable");
    run(Command::new("debootstrap")
        .args([
            "--variant=minbase",
            "--force-check-gpg",
            "--include=adduser,redis-server,redis-tools,systemd,systemd-sysv",
        ])
        .arg("bookworm")
        .arg(root.path())
        .arg("http://deb.debian.org/debian"));
    let new = path.with_extension("new");
    run(Command::new("tar")
        .arg("-C")
        .arg(root.path())
        .arg("--exclude=./var/cache/apt")
        .arg("-cf")
        .args([&*new, Path::new(".")]));
    std::fs::rename(&new, &path).expect("target is writable");
    // Files of other users are in it: not for tempfile to delete.
    run(Command::new("rm").arg("-rf").arg(root.keep()));
    path
}

/// The folder with all files of a release, built by the release script with the profile of the
/// tests.
pub fn release() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = project().join("target/containers/dist");
        run(Command::new("scripts/package").arg(&folder).arg("dev").current_dir(project()));
        folder
    })
}

/// The only file in the release whose name has this ending.
pub fn released(end: &str) -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir(release())
        .expect("it was just made")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    assert_eq!(found.len(), 1, "*{end} in {}: {found:?}", release().display());
    found.remove(0)
}

/// Unpacks the release's tar file in `folder` and answers where it is.
pub fn release_in(folder: &Path) -> PathBuf {
    let archive = released(".tar.gz");
    run(Command::new("tar").arg("-C").arg(folder).arg("-xzf").arg(&archive));
    let name = archive.file_name().expect("it has one").to_string_lossy().into_owned();
    folder.join(name.trim_end_matches(".tar.gz"))
}
