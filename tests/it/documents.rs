//! What the documents tell an operator to type is run, and what they show comes out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{REPLGATE, SOON, free_port, transcript};

/// Ports in the document, which are other ones here: those may be in use.
const PORTS: [&str; 11] =
    ["6379", "6380", "6381", "6382", "6383", "6390", "6391", "6392", "6393", "7379", "7380"];

/// A folder in which a document's commands run. What they leave running ends with it.
struct Terminal {
    folder: tempfile::TempDir,
    ports: Vec<(&'static str, u16)>,
}

impl Terminal {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, ports: PORTS.map(|port| (port, free_port())).to_vec() }
    }

    /// The document's text with the ports of this run, in one pass: what was put in is
    /// not looked at again.
    fn here(&self, text: &str) -> String {
        let mut here = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let found = self.ports.iter().find(|(shown, _)| rest.starts_with(shown));
            match found {
                Some((_, port)) => here += &port.to_string(),
                None => here.push(next),
            }
            rest = &rest[found.map_or(next.len_utf8(), |(shown, _)| shown.len())..];
        }
        here
    }

    fn run(&self, command: &str) -> Output {
        let programs = Path::new(REPLGATE).parent().expect("it is in a folder").display();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        // Through files: a program that stays in the background keeps them open.
        let file = |name: &str| self.folder.path().join(name);
        let (out, err) = (file(".out"), file(".err"));
        let created = |path: &PathBuf| std::fs::File::create(path).expect("the folder is writable");
        let status = Command::new("timeout")
            .args(["60", "bash", "-c", &self.here(command)])
            .current_dir(self.folder.path())
            .env("PATH", path)
            .stdin(std::process::Stdio::null())
            .stdout(created(&out))
            .stderr(created(&err))
            .status()
            .expect("timeout, of coreutils");
        let read = |path: &PathBuf| std::fs::read(path).expect("it was just written");
        Output { status, stdout: read(&out), stderr: read(&err) }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.run("tail -n 30 dc?/log */redis.log").stdout));
        }
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let place = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if place.starts_with(self.folder.path()) {
                let _ = Command::new("kill").arg("-KILL").arg(entry.file_name()).status();
            }
        }
    }
}

/// Whether a command only asks, and may be asked again until the answer is there.
fn asks(command: &str) -> bool {
    ["INFO ", " GET ", " EXISTS ", " DBSIZE", " PING", "grep ", "replgate status", "replgate check"]
        .iter()
        .any(|word| command.contains(word))
}

#[test]
fn the_tour_of_redis_replication_works_command_by_command() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis-replication.md");
    let terminal = Terminal::new();
    for step in transcript::steps(&document, None) {
        let shown: Vec<String> = step.output.iter().map(|line| terminal.here(line)).collect();
        let patience = if asks(&step.command) { SOON } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        loop {
            let output = terminal.run(&step.command);
            let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
            if output.status.success() && transcript::matches(&shown, &said) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "docs/redis-replication.md:{}: {}\nshown:\n{}\nseen ({}):\n{said}{}",
                step.line,
                step.command,
                shown.join("\n"),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
