//! The certificates in use, replaced as a whole when they are read again.
//!
//! What was opened with earlier ones is not touched here: the links see to it that
//! their lanes are replaced.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;

use super::material::{Dial, Material};

/// One reading of the files, and what TLS makes of it.
#[derive(Debug)]
pub struct Loaded {
    /// Certificate, key, CAs.
    pub material: Material,
    /// For sites that dial this one.
    pub server: Arc<ServerConfig>,
    dials: HashMap<String, Dial>,
}

impl Loaded {
    /// Sets up TLS for both roles; `sites` are those that this one dials.
    pub fn new<'s>(material: Material, sites: impl Iterator<Item = &'s str>) -> Result<Self, rustls::Error> {
        let server = material.server()?;
        let dials = sites.map(|site| Ok((site.to_owned(), material.client(site)?)));
        Ok(Self { dials: dials.collect::<Result<_, rustls::Error>>()?, server, material })
    }

    /// TLS towards a site that this one dials.
    pub fn dial(&self, site: &str) -> Option<&Dial> {
        self.dials.get(site)
    }
}

/// The reading that new connections use.
#[derive(Debug)]
pub struct Reloadable(RwLock<Arc<Loaded>>);

impl Reloadable {
    /// Begins with `loaded`.
    pub fn new(loaded: Loaded) -> Self {
        Self(RwLock::new(Arc::new(loaded)))
    }

    /// What is in use now.
    pub fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on `loaded` is in use.
    pub fn replace(&self, loaded: Loaded) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }
}
