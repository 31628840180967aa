//! A Docker engine, and images where no registry can be reached.
//!
//! Base images that are missing are replaced, for the time of a test, by stand-ins
//! under their own names: a Debian made with debootstrap for `redis`, and the same
//! with the ready program in place of a compiler for `rust`. So the Dockerfile and the
//! compose file run as they are.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};

use tempfile::TempDir;

use crate::{eventually, output, project, run};

/// The image of Redis in docker-compose.yml.
pub const REDIS: &str = "redis:7";

/// The image that the Dockerfile builds in.
const RUST: &str = "rust:1.95-slim-bookworm";

/// A bare Debian that boots, for the package.
pub const DEBIAN: &str = "replgate-test-debian";

/// Marks what is built from stand-ins, so that it can be found and removed.
const LABEL: &str = "replgate.test";

/// An engine to use, one test at a time.
pub struct Engine {
    socket: Option<String>,
    daemon: Option<(Child, TempDir)>,
    stand_ins: Vec<&'static str>,
    _turn: MutexGuard<'static, ()>,
}

impl Engine {
    /// An engine, or nothing where there is none and that may be.
    pub fn or_skip(test: &str) -> Option<Self> {
        match Self::find() {
            Ok(engine) => Some(engine),
            Err(why) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run: {why}");
                // Past the capture: who runs the tests is to see it.
                let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
                None
            }
        }
    }

    fn find() -> Result<Self, String> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut engine = Self { socket: None, daemon: None, stand_ins: Vec::new(), _turn: turn };
        if run(Command::new("id").arg("-u")).trim() != "0" {
            return Err("images are made and packets captured as root; run it as root".to_owned());
        }
        for (program, package) in
            [("docker", "docker.io"), ("debootstrap", "debootstrap"), ("tcpdump", "tcpdump")]
        {
            let there = output(Command::new("sh").args(["-c", &format!("command -v {program}")]));
            if !there.status.success() {
                return Err(format!("no {program}; install {package}"));
            }
        }
        if !engine.answers() {
            engine.start()?;
        }
        Ok(engine)
    }

    fn answers(&self) -> bool {
        output(self.docker().args(["version", "--format", "{{.Server.Version}}"])).status.success()
    }

    /// Starts an engine of its own, which ends with it.
    fn start(&mut self) -> Result<(), String> {
        let folder = tempfile::Builder::new().prefix("engine").tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let log = File::create(path("log")).expect("the folder is writable");
        let socket = format!("unix://{}", path("socket").display());
        let mut dockerd = Command::new("dockerd");
        dockerd.args(["--host", &socket]);
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            dockerd.arg(flag).arg(path(name));
        }
        dockerd.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        let child = dockerd.spawn().map_err(|error| {
            format!("no Docker engine answers, and dockerd cannot be started: {error}; install docker.io")
        })?;
        let log = path("log");
        self.socket = Some(socket);
        self.daemon = Some((child, folder));
        eventually("a Docker engine of its own", || {
            if self.answers() { Ok(()) } else { Err(std::fs::read_to_string(&log).unwrap_or_default()) }
        });
        Ok(())
    }

    /// A command for this engine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(project()).stdin(Stdio::null());
        // The builder that asks for nothing beside the engine.
        command.envs([("DOCKER_BUILDKIT", "0"), ("COMPOSE_DOCKER_CLI_BUILD", "0")]);
        if let Some(socket) = &self.socket {
            command.env("DOCKER_HOST", socket);
        }
        command
    }

    /// `docker`, for this engine.
    pub fn docker(&self) -> Command {
        self.command("docker")
    }

    fn has(&self, image: &str) -> bool {
        output(self.docker().args(["image", "inspect", image])).status.success()
    }

    /// Provides the images that docker-compose.yml and the Dockerfile start from.
    pub fn need_base_images(&mut self) {
        let pulled = || output(self.docker().args(["pull", "--quiet", REDIS])).status.success();
        if !self.has(REDIS) && !pulled() {
            self.import(REDIS, &["CMD [\"redis-server\"]", "WORKDIR /data", "VOLUME /data"]);
        }
        if self.has(RUST) {
            return;
        }
        self.import(DEBIAN, &[]);
        let folder = tempfile::tempdir().expect("a folder");
        let unpacked = release_in(folder.path());
        std::fs::copy(unpacked.join("replgate"), folder.path().join("program")).expect("a program");
        let folder_of = "target/$(uname -m)-unknown-linux-musl/release";
        let tools = [
            ("cargo", format!("mkdir -p {folder_of} && cp /program {folder_of}/replgate")),
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
        let dockerfile =
            format!("FROM {DEBIAN}\nLABEL {LABEL}=yes\nCOPY program /program\nCOPY bin /usr/local/bin\n");
        std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("the folder is writable");
        run(self.docker().args(["build", "--quiet", "--tag", RUST]).arg(folder.path()));
        self.stand_ins.push(RUST);
    }

    /// A Debian with Redis and systemd in it, as an image.
    pub fn need_debian(&mut self) {
        self.import(DEBIAN, &[]);
    }

    fn import(&mut self, name: &'static str, changes: &[&str]) {
        let mut import = self.docker();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        run(import.arg(debian()).arg(name));
        if !self.stand_ins.contains(&name) {
            self.stand_ins.push(name);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for name in self.stand_ins.iter().rev() {
            let _ = self.docker().args(["image", "rm", "--force", name]).output();
        }
        let filter = format!("label={LABEL}");
        let _ = self.docker().args(["image", "prune", "--force", "--filter", &filter]).output();
        if let Some((mut daemon, folder)) = self.daemon.take() {
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
            let _ = Command::new("rm").arg("-rf").arg(folder.path()).status();
        }
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
        .args(["--variant=minbase", "--include=adduser,redis-server,redis-tools,systemd,systemd-sysv"])
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

/// The folder with everything that a release consists of, built with the profile of
/// the tests by the script that builds releases.
pub fn release() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = project().join("target/containers/dist");
        run(Command::new("scripts/package").arg(&folder).arg("dev").current_dir(project()));
        folder
    })
}

/// The one file in the release whose name ends so.
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
