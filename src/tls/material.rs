//! This gateway's certificate, key, CAs and revocation lists, loaded and judged.
//!
//! Everything that can be wrong with the files is found here, before the first
//! connection, and every fault is reported at once.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use super::verify::{Anchor, Verifier, judge_both};
use super::{ALPN, explain, pem, provider};
use crate::clock;
use crate::config::TlsFiles;
use crate::x509::{Certificate, RevocationList};

/// Loaded files, good to use.
pub struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    anchors: Arc<Vec<Anchor>>,
    /// The facts of this gateway's certificate.
    pub leaf: Certificate,
    /// What an operator should know though nothing is refused for it.
    pub warnings: Vec<String>,
    /// What was found good, one line a step, for `check`.
    pub findings: Vec<String>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("leaf", &self.leaf.subject).finish_non_exhaustive()
    }
}

impl Material {
    /// Loads and judges the files for `site`. All faults come back, not only the
    /// first.
    pub fn load(paths: &TlsFiles, site: &str) -> Result<Self, Vec<String>> {
        let (mut faults, mut warnings, mut findings) = (Vec::new(), Vec::new(), Vec::new());
        let anchors = load_anchors(paths, &mut faults, &mut warnings, &mut findings);
        let chain = keep(pem::certificates(&paths.cert), &mut faults);
        let key = keep(pem::private_key(&paths.key), &mut faults);
        private_mode(paths, &mut warnings);
        let leaf = chain.as_ref().and_then(|chain| {
            let leaf =
                Certificate::read(&chain[0]).map_err(|error| format!("{}: {error}", paths.cert.display()));
            keep(leaf, &mut faults)
        });
        if let (Some(chain), Some(leaf)) = (&chain, &leaf) {
            judge_leaf(paths, site, chain, leaf, anchors.as_ref(), &mut faults, &mut warnings, &mut findings);
        }
        if let (Some(chain), Some(key)) = (&chain, &key) {
            match key_matches(chain, key) {
                Ok(()) => findings.push(format!("key {} belongs to the certificate", paths.key.display())),
                Err(error) => faults.push(format!("{}: {error}", paths.key.display())),
            }
        }
        match (chain, key, anchors, leaf) {
            (Some(chain), Some(key), Some(anchors), Some(leaf)) if faults.is_empty() => {
                Ok(Self { chain, key, anchors, leaf, warnings, findings })
            }
            _ => Err(faults),
        }
    }

    /// Judges everything but the key, for a certificate whose key is elsewhere; the
    /// certificate and warnings, or all faults.
    pub fn judge(paths: &TlsFiles, site: &str) -> Result<(Certificate, Vec<String>), Vec<String>> {
        let (mut faults, mut warnings, mut findings) = (Vec::new(), Vec::new(), Vec::new());
        let anchors = load_anchors(paths, &mut faults, &mut warnings, &mut findings);
        let chain = keep(pem::certificates(&paths.cert), &mut faults);
        let leaf = chain.as_ref().and_then(|chain| keep(Certificate::read(&chain[0]), &mut faults));
        if let (Some(chain), Some(leaf)) = (&chain, &leaf) {
            judge_leaf(paths, site, chain, leaf, anchors.as_ref(), &mut faults, &mut warnings, &mut findings);
        }
        match leaf {
            Some(leaf) if faults.is_empty() => Ok((leaf, warnings)),
            _ => Err(faults),
        }
    }

    /// The acceptor's TLS.
    pub fn server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(&provider, Arc::clone(&self.anchors), None);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// The dialler's TLS, towards `site` alone.
    pub fn client(&self, site: &str) -> Result<Dial, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(&provider, Arc::clone(&self.anchors), Some(site.to_owned()));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(site.to_owned())
            .map_err(|_| rustls::Error::General(format!("{site} is not a DNS name")))?;
        Ok(Dial { config: Arc::new(config), name })
    }
}

/// What a dialler needs to open TLS towards one site.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The config, with the site's verifier inside.
    pub config: Arc<ClientConfig>,
    /// The site, as the name to indicate.
    pub name: ServerName<'static>,
}

/// The CAs of `ca`, each with its newest list out of `crl`; reports like
/// [`Material::load`].
pub fn load_anchors(
    paths: &TlsFiles,
    faults: &mut Vec<String>,
    warnings: &mut Vec<String>,
    findings: &mut Vec<String>,
) -> Option<Arc<Vec<Anchor>>> {
    let cas = keep(pem::certificates(&paths.ca), faults)?;
    let lists = match &paths.crl {
        Some(path) => keep(pem::revocation_lists(path), faults)?,
        None => Vec::new(),
    };
    let mut used = vec![false; lists.len()];
    let mut anchors = Vec::new();
    for ca in &cas {
        let loaded = (|| {
            let facts = Certificate::read(ca).map_err(|error| error.to_string())?;
            if !facts.is_ca {
                return Err(format!(
                    "{} is not a CA certificate; put the CA that signs gateways here",
                    facts.subject
                ));
            }
            let trust = webpki::anchor_from_trusted_cert(ca)
                .map_err(|error| format!("{}: {error}", facts.subject))?
                .to_owned();
            Ok((facts, trust))
        })();
        let Some((facts, trust)) =
            keep(loaded.map_err(|error| format!("{}: {error}", paths.ca.display())), faults)
        else {
            continue;
        };
        let now = clock::now();
        if now > facts.not_after || now < facts.not_before {
            let span = format!(
                "it is good from {} until {}",
                clock::utc(facts.not_before),
                clock::utc(facts.not_after)
            );
            warnings.push(format!(
                "{}: the CA {} is not valid now ({}): {span}",
                paths.ca.display(),
                facts.subject,
                clock::utc(now)
            ));
        }
        let newest = lists
            .iter()
            .enumerate()
            .filter(|(_, list)| RevocationList::signed_by(list, ca))
            .inspect(|(at, _)| used[*at] = true)
            .filter_map(|(_, list)| Some((RevocationList::read(list).ok()?, list)))
            .max_by_key(|(facts, _)| facts.this_update);
        let list = match newest.as_ref().map(|(_, der)| webpki::OwnedCertRevocationList::from_der(der)) {
            Some(Ok(list)) => Some(list.into()),
            Some(Err(error)) => {
                let crl = paths.crl.as_deref().unwrap_or(&paths.ca).display();
                faults.push(format!(
                    "{crl}: the revocation list of {} is of a form that cannot be used ({error:?}): it must be a full version 2 list, with a CRL number (openssl ca: crl_extensions)",
                    facts.subject
                ));
                None
            }
            None => None,
        };
        match &newest {
            None => warnings.push(format!("no revocation list for the CA {}: a certificate of it that was revoked would be accepted", facts.subject)),
            Some((list, _)) if list.next_update.is_some_and(|next| next < now) => warnings.push(format!(
                "the revocation list of {} is stale since {}: it still counts, but later revocations are missing; fetch a new one",
                facts.subject,
                clock::utc(list.next_update.unwrap_or_default()),
            )),
            Some((list, _)) => findings.push(format!("revocation list of {}: {} revoked, made {}", facts.subject, list.revoked.len(), clock::utc(list.this_update))),
        }
        findings.push(format!("CA {} until {}", facts.subject, clock::utc(facts.not_after)));
        anchors.push(Anchor { trust, list, facts });
    }
    for (list, _) in lists.iter().zip(used).filter(|(_, used)| !used) {
        let issuer = RevocationList::read(list).map_or_else(|error| error.to_string(), |list| list.issuer);
        let crl = paths.crl.as_deref().unwrap_or(&paths.ca).display();
        faults.push(format!(
            "{crl}: a revocation list that no CA in {} has signed: {issuer}",
            paths.ca.display()
        ));
    }
    Some(Arc::new(anchors))
}

#[allow(clippy::too_many_arguments)]
fn judge_leaf(
    paths: &TlsFiles,
    site: &str,
    chain: &[CertificateDer<'static>],
    leaf: &Certificate,
    anchors: Option<&Arc<Vec<Anchor>>>,
    faults: &mut Vec<String>,
    warnings: &mut Vec<String>,
    findings: &mut Vec<String>,
) {
    let path = paths.cert.display();
    let before = faults.len();
    if !leaf.carries(site) {
        let found = if leaf.dns.is_empty() { "no DNS name at all".to_owned() } else { leaf.dns.join(", ") };
        faults.push(format!("{path}: the certificate carries {found}, not the site {site}; set `site` to a name it carries, or issue one: replgate certs issue {site}"));
    }
    for (there, usage) in [(leaf.client_auth, "clientAuth"), (leaf.server_auth, "serverAuth")] {
        if !there {
            faults.push(format!("{path}: the extended key usage lacks {usage}: a gateway's certificate needs clientAuth and serverAuth"));
        }
    }
    if let Some(anchors) = anchors.filter(|_| faults.len() == before)
        && let Err(error) = judge_both(Arc::clone(anchors), None, &chain[0], &chain[1..])
    {
        faults.push(format!("{path}: {}", explain::own(&error, leaf)));
    }
    if faults.len() == before {
        findings.push(format!(
            "certificate {path} for {} until {} ({})",
            leaf.dns.join(", "),
            clock::utc(leaf.not_after),
            leaf.key
        ));
        let left = leaf.not_after - clock::now();
        if left < (leaf.not_after - leaf.not_before) / 3 {
            warnings.push(format!(
                "{path}: the certificate expires in {}, on {}; renew it: replgate certs renew {site}",
                clock::span(left),
                clock::utc(leaf.not_after)
            ));
        }
    }
}

fn key_matches(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<(), String> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key)
        .map_err(|error| format!("a private key of a kind that TLS 1.3 does not use: {error}"))?;
    CertifiedKey::new(chain.to_vec(), key)
        .keys_match()
        .map_err(|_| "the private key does not belong to the certificate: they are from different pairs; `tls.key` and `tls.crt` must come from the same folder".to_owned())
}

fn private_mode(paths: &TlsFiles, warnings: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(meta) = std::fs::metadata(&paths.key) else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = paths.key.display();
        warnings.push(format!("{path}: mode {mode:04o} lets others read the private key; chmod 600 {path}"));
    }
}

fn keep<T, E: ToString>(result: Result<T, E>, faults: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| faults.push(error.to_string())).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
        ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
        SerialNumber,
    };
    use time::{Duration, OffsetDateTime};

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn ca(name: &str, by: Option<&Ca>) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        match by {
            None => Ca::self_signed(params, key).unwrap(),
            Some(by) => Ca::signed_by(params, key, by).unwrap(),
        }
    }

    fn list(by: &Ca, serials: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(by).unwrap().pem().unwrap()
    }

    /// A site's folder with a leaf of `by`, serial 77.
    fn folder(dir: &Path, by: &Ca, cas: &[&Ca], lists: &str) -> TlsFiles {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName("dc1".try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
        params.serial_number = Some(SerialNumber::from(77));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, by).unwrap().pem() + &by.pem();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        TlsFiles {
            ca: write("ca.crt", &cas.iter().map(|ca| ca.pem()).collect::<String>()),
            cert: write("tls.crt", &chain),
            key: write("tls.key", &key.serialize_pem()),
            crl: Some(write("crl.pem", lists)),
        }
    }

    #[test]
    fn a_revocation_counts_whichever_of_several_cas_the_chain_ends_at() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let sub = ca("sub", Some(&root));
        for cas in [[&root, &sub], [&sub, &root]] {
            let lists = |serials: &[u64]| list(&root, &[]) + &list(&sub, serials);
            Material::load(&folder(dir.path(), &sub, &cas, &lists(&[5])), "dc1").unwrap();
            let faults = Material::load(&folder(dir.path(), &sub, &cas, &lists(&[77])), "dc1").unwrap_err();
            assert!(faults[0].contains("it has been revoked"), "{faults:?}");
        }
    }

    #[test]
    fn two_cas_of_one_name_are_told_apart_by_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (ca("same name", None), ca("same name", None));
        for cas in [[&old, &new], [&new, &old]] {
            let lists = list(&old, &[77]) + &list(&new, &[]);
            Material::load(&folder(dir.path(), &new, &cas, &lists), "dc1").unwrap();
            let faults = Material::load(&folder(dir.path(), &old, &cas, &lists), "dc1").unwrap_err();
            assert!(faults[0].contains("it has been revoked"), "{faults:?}");
        }
    }
}
