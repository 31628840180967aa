//! The certificates in use, with the TLS configs made from them. A reload replaces all of it at once.
//!
//! Connections that were opened with earlier certificates are not changed here: the links replace
//! their lanes.

use std::collections::HashMap;
use std::sync::Arc;

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
