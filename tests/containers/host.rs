//! A Debian that systemd has booted.

use std::path::Path;

use crate::engine::{DEBIAN, Engine};
use crate::{eventually, holds, output, run};

/// A booted Debian in a container.
pub struct Host<'a> {
    engine: &'a Engine,
    id: String,
}

/// Boots systemd, without the service that Debian's redis-server brings. A container
/// may not write to its cgroup v2; where the machine has cgroup v1 alone and no
/// hierarchy of systemd's own, that is mounted.
const BOOT: &str = "ln -sf /dev/null /etc/systemd/system/redis-server.service
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,rw /sys/fs/cgroup
    else
        mount -t tmpfs cgroup /sys/fs/cgroup && mkdir /sys/fs/cgroup/systemd &&
        mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    fi
    exec /sbin/init";

impl<'a> Host<'a> {
    /// Boots it, with more options for `docker run`.
    pub fn boot(engine: &'a Engine, options: &[&str]) -> Self {
        let mut command = engine.docker();
        command.args(["run", "-d", "--cap-add", "SYS_ADMIN", "--cgroupns", "private"]);
        command.args(["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]);
        command.args(["--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"]);
        command.args(options).args([DEBIAN, "sh", "-c", BOOT]);
        let host = Self { engine, id: run(&mut command).trim().to_owned() };
        eventually("systemd is up", || {
            let seen = host.output("systemctl is-system-running; systemctl list-units");
            holds(&seen.1, &["multi-user.target"])
        });
        host
    }

    pub fn output(&self, script: &str) -> (bool, String) {
        let output = output(self.engine.docker().args(["exec", &self.id, "sh", "-c", script]));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a script that must succeed, and answers what it said.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let (good, text) = self.output(script);
        assert!(good, "{script}: {text}\n{}", self.output("journalctl --no-pager -n 30 -u replgate").1);
        text
    }

    pub fn copy(&self, from: &Path, to: &str) {
        run(self.engine.docker().arg("cp").arg(from).arg(format!("{}:{to}", self.id)));
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ = self.engine.docker().args(["rm", "--force", &self.id]).output();
    }
}
