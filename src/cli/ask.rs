//! Asking the gateway that runs with a config, for the subcommands that show what it says.

use crate::admin::orders::{Answer, Order};
use crate::admin::{self, Gateway, Reply, Status};
use crate::config::{Config, Faults};

use super::{ConfigPath, Failure};

/// The gateway that runs with a config, whether that still has no faults or not.
pub(super) struct Running {
    gateway: Gateway,
    path: String,
    /// The faults that the config has got since the gateway was started, if any.
    faults: Option<Faults>,
}

impl Running {
    /// The one that is meant with this config. An error if the config does not even tell the site.
    pub(super) fn with(config: &ConfigPath) -> Result<Self, Failure> {
        let path = config.path().display().to_string();
        let faults = match config.load() {
            Ok(config) => return Ok(Self { gateway: Gateway::from(&config), path, faults: None }),
            Err(Failure::Config(faults)) => faults,
            Err(failure) => return Err(failure),
        };
        let Some((site, key)) = Config::identity_of(config.path()) else {
            return Err(Failure::Config(faults));
        };
        let gateway = Gateway { site, path: config.path().to_owned(), key };
        Ok(Self { gateway, path, faults: Some(faults) })
    }

    /// Asks it once. If its config has faults now, that is said on stderr.
    pub(super) async fn ask_once(self) -> Result<Status, Failure> {
        let Some(status) = admin::ask(&self.gateway).await? else {
            if let Some(faults) = self.faults {
                return Err(Failure::Config(faults));
            }
            eprintln!("replgate: {}", self.nobody());
            return Err(Failure::Unwell);
        };
        if self.faults.is_some() {
            let path = &self.path;
            eprintln!(
                "replgate: {path} has faults now (replgate check --offline -c {path}); this is the gateway that was started with it:"
            );
        }
        Ok(status)
    }

    /// Asks it; the error says why there is no answer, and what to do.
    pub(super) async fn ask(&self) -> Result<Status, String> {
        match admin::ask(&self.gateway).await {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(self.nobody()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives it an order.
    pub(super) async fn order(&self, order: &Order) -> Result<Answer, Failure> {
        match admin::order(&self.gateway, order).await? {
            Some(Reply::Answer(answer)) => Ok(answer),
            Some(Reply::TooOld(version)) => Err(Failure::Failed(anyhow::anyhow!(
                "this gateway ({version}) does not know orders yet; restart it with this release ({})",
                env!("CARGO_PKG_VERSION")
            ))),
            None => Err(Failure::Failed(anyhow::anyhow!(self.nobody()))),
        }
    }

    fn nobody(&self) -> String {
        let Self { path, gateway, .. } = self;
        format!("no gateway runs with {path} as site {}; start it: replgate run -c {path}", gateway.site)
    }
}
