//! The environment of a run: its folder, its certificates, its ports, and how it waits.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// The build that is measured.
pub const REPLGATE: &str = env!("CARGO_BIN_EXE_replgate");

/// Set when the bench is asked to stop. Every wait then ends with an error, so that the folder is
/// removed.
pub static STOPPED: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// A folder with certificates for the sites dc1 (master) and dc2 (replica). It is in memory
    /// where there is room for `bytes`: what replicas write to a disk would disturb what comes after.
    pub fn new(bytes: u64) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |room| room.f_bavail * room.f_frsize);
        let mut builder = tempfile::Builder::new();
        builder.prefix("replgate-bench-");
        let folder = if room > bytes { builder.tempdir_in(memory) } else { builder.tempdir() };
        let place = Self { folder: folder.context("make a temporary folder")? };
        place.add_sites(&["dc1", "dc2"])?;
        Ok(place)
    }

    /// Makes certificates for sites that have none yet.
    pub fn add_sites(&self, names: &[&str]) -> Result<()> {
        let made = Command::new(REPLGATE)
            .current_dir(self.path())
            .args(["certs", "init", "--if-missing"])
            .args(names)
            .output()
            .context("run replgate certs")?;
        ensure!(
            made.status.success(),
            "replgate certs init failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(())
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A file of a site's certificates: `ca.crt`, `tls.crt` or `tls.key`.
    pub fn cert(&self, site: &str, file: &str) -> PathBuf {
        self.path().join("certs").join(site).join(file)
    }
}

pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Tries until there is a value.
pub fn wait_for<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        go_on()?;
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An error if the bench was asked to stop.
pub fn go_on() -> Result<()> {
    if STOPPED.load(Ordering::Relaxed) {
        bail!("stopped");
    }
    Ok(())
}

/// Waits until a port accepts connections.
pub fn wait_for_port(port: u16) -> Result<()> {
    let accepts = || Ok(TcpStream::connect(local(port)).ok());
    wait_for(&format!("port {port} listens"), Duration::from_secs(20), accepts)?;
    Ok(())
}
