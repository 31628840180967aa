//! The certificates in use, which a reload replaces as a whole.
//!
//! Connections that were opened with earlier certificates are not changed here: the links replace
//! their lanes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;

use super::material::{Dial, Material};

/// The loaded files, and the TLS configs made from them.
#[derive(Debug)]
pub struct Loaded {
    /// Certificate, key, CAs.
    pub material: Material,
    /// The TLS config for sites that dial this one.
    pub server: Arc<ServerConfig>,
    dials: HashMap<String, Dial>,
}

impl Loaded {
    /// Makes the TLS configs of both roles; `sites` are the sites that this gateway dials.
    pub fn new<'s>(material: Material, sites: impl Iterator<Item = &'s str>) -> Result<Self, rustls::Error> {
        let server = material.server()?;
        let dials = sites.map(|site| Ok((site.to_owned(), material.client(site)?)));
        Ok(Self { dials: dials.collect::<Result<_, rustls::Error>>()?, server, material })
    }

    /// The TLS config for a site that this gateway dials.
    pub fn dial(&self, site: &str) -> Option<&Dial> {
        self.dials.get(site)
    }
}

/// The material that new connections use.
#[derive(Debug)]
pub struct Reloadable(RwLock<Arc<Loaded>>);

impl Reloadable {
    /// Uses `loaded` first.
    pub fn new(loaded: Loaded) -> Self {
        Self(RwLock::new(Arc::new(loaded)))
    }

    /// The material in use now.
    pub fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses `loaded` from now on.
    pub fn replace(&self, loaded: Loaded) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }
}
