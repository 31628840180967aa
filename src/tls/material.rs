//! Loads and checks this gateway's certificate, key, CAs and revocation lists.
//!
//! Every fault in the files is found here, before the first connection, and all faults are reported
//! together.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use super::expiry::{Kind, Term};
use super::findings::Findings;
use super::revocation::{Learnt, Revocation};
use super::trust::{Files, Judged};
use super::verify::{Trust, Verifier, judge_both};
use super::{ALPN, diagnostics, pem, trust};
use crate::clock;
use crate::config::TlsFiles;
use crate::crypto::provider;
use crate::x509::{self, Certificate, some_of};

/// The contents of the files, loaded and valid.
pub struct Material {
    /// The certificate, its intermediates and the private key in the TLS library's form. The text
    /// of the key file is wiped.
    identity: Arc<SingleCertAndKey>,
    /// The CAs and the lists.
    pub trust: Arc<Trust>,
    /// SHA-256 of the certificate and of each of its intermediates, which others are shown.
    pub shown: String,
    /// The files as read, to judge a list that is learnt later.
    public: Arc<Public>,
    /// The revocation lists that count.
    pub revocation: Revocation,
    /// The contents of this gateway's certificate.
    pub leaf: Certificate,
    /// Warnings: what an operator should know although the files are accepted.
    pub warnings: Vec<String>,
    /// Those of them that the same files give at any time.
    lasting: Vec<String>,
    /// One line for each check that passed, for `check`.
    pub findings: Vec<String>,
    /// The validity of the certificate, the CAs and the lists.
    pub terms: Vec<Term>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("leaf", &self.leaf.subject).finish_non_exhaustive()
    }
}

impl Material {
    /// Loads and checks the files for `site`. The error holds all faults, not only the first.
    pub fn load(paths: &TlsFiles, site: &str) -> Result<Self, Vec<String>> {
        Self::load_beside(paths, site, &[])
    }

    /// As [`Material::load`], with revocation lists that were learnt from other gateways, which
    /// never are an obstacle.
    pub fn load_beside(paths: &TlsFiles, site: &str, learnt: &[Learnt]) -> Result<Self, Vec<String>> {
        let mut found = Findings::default();
        let bundle = is_bundle(paths);
        let (public, judged) = load_public(paths, site, bundle, learnt, &mut found);
        let key = match bundle {
            true => pem::private_key_and_certificates(&paths.key),
            false => pem::private_key(&paths.key),
        };
        let key = found.keep_pem(key);
        private_mode(paths, &mut found.warnings);
        let prints = public.chain.iter().flatten().map(|der| x509::fingerprint(der)).collect::<Vec<_>>();
        let shown = prints.join(" ");
        let identity = public.chain.clone().zip(key).and_then(|(chain, key)| {
            let matched = identity(chain, &key).map_err(|error| format!("{}: {error}", paths.key.display()));
            let identity = found.keep(matched)?;
            found.good.push(format!("key {} belongs to the certificate", paths.key.display()));
            Some(identity)
        });
        let Findings { faults, warnings: lasting, dated, good: findings, terms } = found;
        let warnings = [&*lasting, &*dated].concat();
        match (identity, judged, public.leaf.clone()) {
            (Some(identity), Some(Judged { trust, revocation }), Some(leaf)) if faults.is_empty() => {
                let (identity, public) = (Arc::new(identity.into()), Arc::new(public));
                Ok(Self {
                    identity,
                    trust,
                    shown,
                    public,
                    revocation,
                    leaf,
                    warnings,
                    lasting,
                    findings,
                    terms,
                })
            }
            _ => Err(faults),
        }
    }

    /// The same files with these learnt lists beside them. Nothing is read.
    pub fn beside(&self, learnt: &[Learnt]) -> Self {
        let mut found = Findings::default();
        let Judged { trust, revocation } = self.public.judge(learnt, &mut found).unwrap_or_else(|| Judged {
            trust: Arc::clone(&self.trust),
            revocation: self.revocation.clone(),
        });
        let Findings { warnings: lasting, dated, good: findings, terms, .. } = found;
        let warnings = [&*lasting, &*dated].concat();
        let (identity, public, leaf) =
            (Arc::clone(&self.identity), Arc::clone(&self.public), self.leaf.clone());
        let shown = self.shown.clone();
        Self { identity, trust, shown, public, revocation, leaf, warnings, lasting, findings, terms }
    }

    /// Checks everything but the key, for a certificate whose key is on another host. Returns the
    /// certificate and warnings, or all faults.
    pub fn judge(paths: &TlsFiles, site: &str) -> Result<(Certificate, Vec<String>), Vec<String>> {
        let mut found = Findings::default();
        let (public, _) = load_public(paths, site, false, &[], &mut found);
        match public.leaf {
            Some(leaf) if found.faults.is_empty() => Ok((leaf, [found.warnings, found.dated].concat())),
            _ => Err(found.faults),
        }
    }

    /// Whether other files have the same contents: certificate, key, CAs and lists.
    pub fn is_same(&self, other: &Self) -> bool {
        // The key belongs to the certificate.
        let same = self.shown == other.shown && self.trust.fingerprint() == other.trust.fingerprint();
        // Where a list is from, and what to do about it, is shown. Time alone changes nothing.
        same && self.revocation.in_use == other.revocation.in_use && self.lasting == other.lasting
    }

    /// The TLS config of the acceptor. Handshakes with it fail once this material is dropped.
    pub fn server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(&provider, &self.trust, None);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&self.identity) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// The TLS config of the dialler, which accepts `site` only; otherwise as [`Material::server`].
    pub fn client(&self, site: &str) -> Result<Dial, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(&provider, &self.trust, Some(site.to_owned()));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.identity) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(site.to_owned())
            .map_err(|_| rustls::Error::General(format!("{site} is not a DNS name")))?;
        Ok(Dial { config: Arc::new(config), name })
    }
}

/// What a dialler needs for TLS with one site.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The config, which includes the verifier for the site.
    pub config: Arc<ClientConfig>,
    /// The site's name for SNI.
    pub name: ServerName<'static>,
}

/// Whether certificate and key are in the same file, as some tools write them.
fn is_bundle(paths: &TlsFiles) -> bool {
    let real = |path| std::fs::canonicalize(path).ok();
    paths.cert == paths.key || real(&paths.cert).is_some_and(|cert| Some(cert) == real(&paths.key))
}

/// The contents of every file but the key.
struct Public {
    paths: TlsFiles,
    site: String,
    chain: Option<Vec<CertificateDer<'static>>>,
    leaf: Option<Certificate>,
    files: Option<Files>,
}

/// Loads and checks everything but the key.
fn load_public(
    paths: &TlsFiles,
    site: &str,
    bundle: bool,
    learnt: &[Learnt],
    found: &mut Findings,
) -> (Public, Option<Judged>) {
    let chain = match bundle {
        true => pem::certificates_and_key(&paths.cert),
        false => pem::certificates(&paths.cert),
    };
    let chain = found.keep_pem(chain);
    let files = trust::read(paths, found);
    let leaf = chain.as_ref().and_then(|chain| {
        found.keep(Certificate::read(&chain[0]).map_err(|error| format!("{}: {error}", paths.cert.display())))
    });
    let public = Public { paths: paths.clone(), site: site.to_owned(), chain, leaf, files };
    let judged = public.judge(learnt, found);
    (public, judged)
}

impl Public {
    /// Judges CAs, lists and the certificate; none if the CAs or the lists could not be read.
    fn judge(&self, learnt: &[Learnt], found: &mut Findings) -> Option<Judged> {
        let chain = self.chain.as_deref();
        let judge = |learnt, found: &mut Findings| {
            self.files.as_ref().map(|files| trust::judge(&self.paths, files, learnt, chain, found))
        };
        let judged = judge(learnt, found);
        let (Some(chain), Some(leaf)) = (chain, &self.leaf) else { return judged };
        let trust = judged.as_ref().map(|judged| &judged.trust);
        let mut own = Findings::default();
        judge_leaf(&self.paths, &self.site, chain, leaf, trust, &mut own);
        if !own.faults.is_empty() && !learnt.is_empty() {
            // What was learnt is no obstacle to a start: a new certificate may be on its way, and
            // the lists count for the far sides as well.
            let faults = std::mem::take(&mut own).faults;
            let before = judge(&[], &mut Findings::default()).map(|judged| judged.trust);
            judge_leaf(&self.paths, &self.site, chain, leaf, before.as_ref(), &mut own);
            if own.faults.is_empty() {
                let words = faults.into_iter().map(|fault| format!("{fault} (by a list that was learnt)"));
                own.warnings.extend(words);
            }
        }
        found.absorb(own);
        judged
    }
}

fn judge_leaf(
    paths: &TlsFiles,
    site: &str,
    chain: &[CertificateDer<'static>],
    leaf: &Certificate,
    trust: Option<&Arc<Trust>>,
    found: &mut Findings,
) {
    let path = paths.cert.display();
    let before = found.faults.len();
    if !leaf.carries(site) {
        let carried = if leaf.dns.is_empty() { "no DNS name at all".to_owned() } else { some_of(&leaf.dns) };
        found.faults.push(format!("{path}: the certificate carries {carried}, not the site {site}; set `site` to a name it carries, or issue one: replgate certs issue {site}"));
    }
    for (there, usage) in [(leaf.client_auth, "clientAuth"), (leaf.server_auth, "serverAuth")] {
        if !there {
            found.faults.push(format!("{path}: the extended key usage lacks {usage}: a gateway's certificate needs clientAuth and serverAuth"));
        }
    }
    if !leaf.may_sign {
        found.faults.push(format!("{path}: the key usage lacks digitalSignature: a gateway signs its handshakes; have a certificate issued with it"));
    }
    if let Some(trust) = trust.filter(|_| found.faults.len() == before)
        && let Err(error) = judge_both(trust, None, &chain[0], &chain[1..])
    {
        found.faults.push(format!("{path}: {}", diagnostics::own(&error, leaf)));
    }
    if found.faults.len() == before {
        found.good.push(format!(
            "certificate {path} for {} until {} ({})",
            some_of(&leaf.dns),
            clock::utc(leaf.not_after),
            leaf.key
        ));
        let (from, until) = (leaf.not_before, leaf.not_after);
        found.term(Term { kind: Kind::Certificate, name: path.to_string(), from, until });
    }
}

/// The certificate with its key, if they belong together.
fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key)
        .map_err(|error| format!("a private key of an unsupported kind ({error}): supported are RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, Ed25519"))?;
    let identity = CertifiedKey::new(chain, key);
    let leaf = identity.cert.first().and_then(|leaf| Certificate::read(leaf).ok());
    let same = match (identity.key.public_key(), &leaf) {
        // The keys are compared directly, since other faults of the certificate are reported as
        // what they are.
        (Some(own), Some(leaf)) => own.as_ref() == leaf.public_key,
        _ => identity.keys_match().is_ok(),
    };
    if !same {
        return Err("the private key does not belong to the certificate: take `tls.key` and `tls.crt` from the same folder".to_owned());
    }
    Ok(identity)
}

fn private_mode(paths: &TlsFiles, warnings: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(meta) = std::fs::metadata(&paths.key) else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 && !is_credential(&paths.key) {
        let path = paths.key.display();
        warnings.push(format!("{path}: mode {mode:04o} lets others read the private key; chmod 600 {path}"));
    }
}

/// Whether systemd has put the file there for this service alone (`LoadCredential=`). It may let the
/// service read it by an access list, which looks like the rights of a group.
fn is_credential(path: &Path) -> bool {
    std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.starts_with(folder))
}

#[cfg(test)]
mod tests;
