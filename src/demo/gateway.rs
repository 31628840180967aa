//! A gateway of the demo: a process of its own that can be killed and started again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Interrupt, Running, eventually};

/// What a gateway logs when it listens.
const UP: &str = "gateway up";

/// What it logs when it has read its config again.
const RELOADED: &str = "config and certificates read again";

/// A gateway with its config and its log, stopped on drop.
pub(super) struct Gateway {
    replgate: PathBuf,
    site: &'static str,
    config: PathBuf,
    log: PathBuf,
    process: Running,
}

impl Gateway {
    /// Writes `text` as the config of this site and starts its gateway. Returns once it listens.
    pub(super) fn start(
        replgate: &Path,
        folder: &Path,
        site: &'static str,
        text: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let (config, log) = (folder.join(format!("{site}.toml")), folder.join(format!("{site}.log")));
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let process = spawn(replgate, &config, &log)?;
        let mut gateway = Self { replgate: replgate.to_owned(), site, config, log, process };
        gateway.wait_up(1, interrupt)?;
        Ok(gateway)
    }

    /// Kills the process: it has no time for a last word.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.0.kill().with_context(|| format!("kill the gateway of {}", self.site))?;
        self.process.0.wait().with_context(|| format!("wait for the gateway of {}", self.site))?;
        Ok(())
    }

    /// Starts another process with the same config. Returns once it listens.
    pub(super) fn start_again(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let before = self.logged(UP).len();
        self.process = spawn(&self.replgate, &self.config, &self.log)?;
        self.wait_up(before + 1, interrupt)
    }

    /// Changes the config and has the process read it again. Returns once it has.
    pub(super) fn reload(
        &self,
        change: impl FnOnce(&str) -> String,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&self.config)
            .with_context(|| format!("read {}", self.config.display()))?;
        std::fs::write(&self.config, change(&text))
            .with_context(|| format!("write {}", self.config.display()))?;
        let before = self.logged(RELOADED).len();
        kill_process(Pid::from_child(&self.process.0), Signal::HUP)
            .with_context(|| format!("signal the gateway of {}", self.site))?;
        if !eventually(interrupt, || Ok(self.logged(RELOADED).len() > before))? {
            bail!("the gateway of {} does not read its config again", self.site);
        }
        Ok(())
    }

    /// The lines of the log so far that contain `words`.
    pub(super) fn logged(&self, words: &str) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    fn wait_up(&mut self, times: usize, interrupt: &Interrupt) -> anyhow::Result<()> {
        eventually(interrupt, || {
            Ok(self.logged(UP).len() >= times || !matches!(self.process.0.try_wait(), Ok(None)))
        })?;
        if self.logged(UP).len() < times {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the gateway of {} does not start: {log}", self.site);
        }
        Ok(())
    }
}

/// Starts a gateway, which appends to the log.
fn spawn(replgate: &Path, config: &Path, log: &Path) -> anyhow::Result<Running> {
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log);
    let child = Command::new(replgate)
        .args(["run", "-c"])
        .arg(config)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stderr(out.with_context(|| format!("write {}", log.display()))?)
        .spawn();
    Ok(Running(child.with_context(|| format!("start {}", replgate.display()))?))
}
