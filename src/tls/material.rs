//! This gateway's certificate, key, CAs and revocation lists, loaded and judged.
//!
//! Everything that can be wrong with the files is found here, before the first
//! connection, and every fault is reported at once.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use super::pem::PemError;
use super::verify::{Anchor, List, Trust, Verifier, judge_both, vouched};
use super::{ALPN, explain, pem, provider};
use crate::clock;
use crate::config::TlsFiles;
use crate::x509::{self, Certificate, RevocationList};

/// Loaded files, good to use.
pub struct Material {
    /// The certificate, its intermediates, and the key as the TLS library has it: the
    /// text that it was read from is wiped.
    identity: Arc<SingleCertAndKey>,
    trust: Arc<Trust>,
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
        let mut told = Told::default();
        let bundle = is_bundle(paths);
        let (chain, trust, leaf) = load_public(paths, site, bundle, &mut told);
        let key = match bundle {
            true => pem::private_key_and_certificates(&paths.key),
            false => pem::private_key(&paths.key),
        };
        let key = told.keep_pem(key);
        private_mode(paths, &mut told.warnings);
        let identity = chain.zip(key).and_then(|(chain, key)| {
            let matched = identity(chain, &key).map_err(|error| format!("{}: {error}", paths.key.display()));
            let identity = told.keep(matched)?;
            told.findings.push(format!("key {} belongs to the certificate", paths.key.display()));
            Some(identity)
        });
        let Told { faults, warnings, findings } = told;
        match (identity, trust, leaf) {
            (Some(identity), Some(trust), Some(leaf)) if faults.is_empty() => {
                Ok(Self { identity: Arc::new(identity.into()), trust, leaf, warnings, findings })
            }
            _ => Err(faults),
        }
    }

    /// Judges everything but the key, for a certificate whose key is elsewhere; the
    /// certificate and warnings, or all faults.
    pub fn judge(paths: &TlsFiles, site: &str) -> Result<(Certificate, Vec<String>), Vec<String>> {
        let mut told = Told::default();
        let (_, _, leaf) = load_public(paths, site, false, &mut told);
        match leaf {
            Some(leaf) if told.faults.is_empty() => Ok((leaf, told.warnings)),
            _ => Err(told.faults),
        }
    }

    /// The acceptor's TLS.
    pub fn server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(&provider, Arc::clone(&self.trust), None);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&self.identity) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// The dialler's TLS, towards `site` alone.
    pub fn client(&self, site: &str) -> Result<Dial, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(&provider, Arc::clone(&self.trust), Some(site.to_owned()));
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

/// What a dialler needs to open TLS towards one site.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The config, with the site's verifier inside.
    pub config: Arc<ClientConfig>,
    /// The site, as the name to indicate.
    pub name: ServerName<'static>,
}

/// What is told of the files.
#[derive(Default)]
struct Told {
    faults: Vec<String>,
    warnings: Vec<String>,
    findings: Vec<String>,
}

impl Told {
    fn keep<T, E: ToString>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.faults.push(error.to_string())).ok()
    }

    fn keep_pem<T>(&mut self, result: Result<T, PemError>) -> Option<T> {
        result.map_err(|error| self.faults.extend(error.sentences())).ok()
    }
}

/// Whether certificate and key are in one file, as some tools write them.
fn is_bundle(paths: &TlsFiles) -> bool {
    let real = |path| std::fs::canonicalize(path).ok();
    paths.cert == paths.key || real(&paths.cert).is_some_and(|cert| Some(cert) == real(&paths.key))
}

type Public = (Option<Vec<CertificateDer<'static>>>, Option<Arc<Trust>>, Option<Certificate>);

/// Loads and judges everything but the key.
fn load_public(paths: &TlsFiles, site: &str, bundle: bool, told: &mut Told) -> Public {
    let chain = match bundle {
        true => pem::certificates_and_key(&paths.cert),
        false => pem::certificates(&paths.cert),
    };
    let chain = told.keep_pem(chain);
    let trust = load_trust(paths, chain.as_deref(), told);
    let leaf = chain.as_ref().and_then(|chain| {
        told.keep(Certificate::read(&chain[0]).map_err(|error| format!("{}: {error}", paths.cert.display())))
    });
    if let (Some(chain), Some(leaf)) = (&chain, &leaf) {
        judge_leaf(paths, site, chain, leaf, trust.as_ref(), told);
    }
    (chain, trust, leaf)
}

/// The CAs of `ca`, and the lists of `crl` that they have signed, or that intermediates
/// which stand in `cert` have; `chain` is what `cert` holds, if it can be read.
fn load_trust(
    paths: &TlsFiles,
    chain: Option<&[CertificateDer<'static>]>,
    told: &mut Told,
) -> Option<Arc<Trust>> {
    let cas = told.keep_pem(pem::certificates(&paths.ca))?;
    let lists = match &paths.crl {
        Some(path) => told.keep_pem(pem::revocation_lists(path))?,
        None => Vec::new(),
    };
    let mut anchors = Vec::new();
    for ca in &cas {
        let anchor = load_anchor(ca).map_err(|error| format!("{}: {error}", paths.ca.display()));
        let Some(anchor) = told.keep(anchor) else { continue };
        let (facts, now) = (&anchor.facts, clock::now());
        if now > facts.not_after || now < facts.not_before {
            told.warnings.push(format!(
                "{}: the CA {} is not valid now ({}): it is good from {} until {}",
                paths.ca.display(),
                facts.subject,
                clock::utc(now),
                clock::utc(facts.not_before),
                clock::utc(facts.not_after)
            ));
        }
        told.findings.push(format!("CA {} until {}", facts.subject, clock::utc(facts.not_after)));
        anchors.push((ca, anchor));
    }
    // An intermediate of our own chain signs lists as well as a CA does. No other: what
    // nobody here has vouched for is no reason to take a certificate for good.
    let algorithms = provider().signature_verification_algorithms;
    let facts = anchors.iter().map(|(_, anchor)| &anchor.facts);
    let after = chain.and_then(|chain| chain.get(1..)).unwrap_or_default();
    let intermediates = vouched(facts.clone(), after, &algorithms);
    let intermediates = intermediates.iter().map(|(_, facts)| facts).filter(|facts| facts.is_ca);
    let mut signers: Vec<&Certificate> = Vec::new();
    for signer in facts.chain(intermediates) {
        let same = |other: &&Certificate| {
            (&other.subject_raw, &other.public_key) == (&signer.subject_raw, &signer.public_key)
        };
        if !signers.iter().any(same) {
            signers.push(signer);
        }
    }
    let (lists, of_nobody) = load_lists(paths, &signers, &lists, told);
    // One that has a place in `cert` is no fault where that cannot be read.
    told.faults.extend(of_nobody.into_iter().filter(|_| chain.is_some()));
    // A CA that another one has signed and then revoked; and whatever such a one has signed.
    let mut revoked = vec![false; anchors.len()];
    let is_gone = |at: usize, revoked: &[bool]| {
        let (der, Anchor { facts, .. }) = &anchors[at];
        signers.iter().find(|by| {
            let own = by.public_key == facts.public_key;
            let gone = anchors
                .iter()
                .zip(revoked)
                .any(|((_, other), gone)| *gone && other.facts.public_key == by.public_key);
            !own && by.subject_raw == facts.issuer_raw
                && (gone
                    || lists.iter().any(|list| list.key == by.public_key && list.lists_serial(&facts.serial)))
                && x509::is_signed(der, &by.public_key, algorithms.all)
        })
    };
    while let Some((at, by)) =
        (0..anchors.len()).filter(|at| !revoked[*at]).find_map(|at| Some((at, is_gone(at, &revoked)?)))
    {
        revoked[at] = true;
        told.warnings.push(format!(
            "{}: the CA {} has been revoked by {}: what it has signed is refused; take it out",
            paths.ca.display(),
            named(&anchors[at].1.facts),
            by.subject
        ));
    }
    let anchors = anchors.into_iter().zip(revoked).map(|((_, anchor), revoked)| Anchor { revoked, ..anchor });
    Some(Arc::new(Trust::new(anchors.collect(), lists)))
}

fn load_anchor(ca: &CertificateDer<'static>) -> Result<Anchor, String> {
    let facts = Certificate::read(ca).map_err(|error| error.to_string())?;
    if !facts.is_ca {
        return Err(format!(
            "{} is not a CA certificate; put the CA that signs gateways here",
            facts.subject
        ));
    }
    if !facts.may_sign_certificates {
        return Err(format!(
            "the CA {} may not sign certificates: its key usage lacks keyCertSign; put the CA that signs gateways here",
            facts.subject
        ));
    }
    let trust = webpki::anchor_from_trusted_cert(ca)
        .map_err(|error| format!("{}: {error}", facts.subject))?
        .to_owned();
    Ok(Anchor { trust, facts, revoked: false })
}

/// The newest list of each signer, or the newest of each kind where a signer has several
/// (one of its CAs and one of the rest, say). Also a fault for each list of nobody.
fn load_lists(
    paths: &TlsFiles,
    signers: &[&Certificate],
    lists: &[CertificateRevocationListDer<'static>],
    told: &mut Told,
) -> (Vec<List>, Vec<String>) {
    let crl = paths.crl.as_deref().unwrap_or(&paths.ca).display();
    let now = clock::now();
    let mut loaded = Vec::new();
    let mut used = vec![false; lists.len()];
    for signer in signers {
        let mut newest: Vec<(RevocationList, &CertificateRevocationListDer<'_>)> = Vec::new();
        for (list, used) in lists.iter().zip(&mut used) {
            let Some(facts) = RevocationList::read(list).ok().filter(|_| RevocationList::is_of(list, signer))
            else {
                continue;
            };
            *used = true;
            match newest.iter_mut().find(|(other, _)| other.scope == facts.scope) {
                Some((other, _)) if other.this_update >= facts.this_update => {}
                Some(place) => *place = (facts, list),
                None => newest.push((facts, list)),
            }
        }
        if newest.is_empty() {
            told.warnings.push(format!(
                "no revocation list for the CA {}: a certificate of it that was revoked would be accepted",
                named(signer)
            ));
        }
        for (facts, der) in newest {
            match webpki::OwnedCertRevocationList::from_der(der) {
                Ok(list) => loaded.push(List { key: signer.public_key.clone(), list: list.into() }),
                Err(error) => told.faults.push(format!(
                    "{crl}: the revocation list of {} is of a form that cannot be used ({error:?}): it must be a full version 2 list, with a CRL number (openssl ca: crl_extensions)",
                    signer.subject
                )),
            }
            match facts.next_update.filter(|next| *next < now) {
                Some(next) => told.warnings.push(format!(
                    "the revocation list of {} is stale since {}: it still counts, but later revocations are missing; fetch a new one",
                    named(signer),
                    clock::utc(next)
                )),
                None => told.findings.push(format!(
                    "revocation list of {}: {} revoked, made {}",
                    signer.subject,
                    facts.revoked.len(),
                    clock::utc(facts.this_update)
                )),
            }
        }
    }
    let of_nobody = |(list, _): (&CertificateRevocationListDer<'_>, bool)| {
        let issuer = RevocationList::read(list).map_or_else(|error| error.to_string(), |list| list.issuer);
        format!(
            "{crl}: a revocation list that no CA in {} has signed: {issuer}; take it out, or where an intermediate has signed it, put that one after the certificate in {}",
            paths.ca.display(),
            paths.cert.display()
        )
    };
    let unused = lists.iter().zip(used).filter(|(_, used)| !used).map(of_nobody).collect();
    (loaded, unused)
}

/// A CA by its name and its fingerprint: two may have one name.
fn named(ca: &Certificate) -> String {
    format!("{} (SHA-256 {})", ca.subject, ca.fingerprint)
}

fn judge_leaf(
    paths: &TlsFiles,
    site: &str,
    chain: &[CertificateDer<'static>],
    leaf: &Certificate,
    trust: Option<&Arc<Trust>>,
    told: &mut Told,
) {
    let path = paths.cert.display();
    let before = told.faults.len();
    if !leaf.carries(site) {
        let found = if leaf.dns.is_empty() { "no DNS name at all".to_owned() } else { leaf.dns.join(", ") };
        told.faults.push(format!("{path}: the certificate carries {found}, not the site {site}; set `site` to a name it carries, or issue one: replgate certs issue {site}"));
    }
    for (there, usage) in [(leaf.client_auth, "clientAuth"), (leaf.server_auth, "serverAuth")] {
        if !there {
            told.faults.push(format!("{path}: the extended key usage lacks {usage}: a gateway's certificate needs clientAuth and serverAuth"));
        }
    }
    if !leaf.may_sign {
        told.faults.push(format!("{path}: the key usage lacks digitalSignature: a gateway signs its handshakes; have a certificate issued with it"));
    }
    if let Some(trust) = trust.filter(|_| told.faults.len() == before)
        && let Err(error) = judge_both(Arc::clone(trust), None, &chain[0], &chain[1..])
    {
        told.faults.push(format!("{path}: {}", explain::own(&error, leaf)));
    }
    if told.faults.len() == before {
        told.findings.push(format!(
            "certificate {path} for {} until {} ({})",
            leaf.dns.join(", "),
            clock::utc(leaf.not_after),
            leaf.key
        ));
        let left = leaf.not_after - clock::now();
        if left < (leaf.not_after - leaf.not_before) / 3 {
            told.warnings.push(format!(
                "{path}: the certificate expires in {}, on {}; renew it: replgate certs renew {site}",
                clock::span(left),
                clock::utc(leaf.not_after)
            ));
        }
    }
}

/// The certificate with its key, if they belong together.
fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key)
        .map_err(|error| format!("a private key of a kind that TLS 1.3 does not use: {error}"))?;
    let identity = CertifiedKey::new(chain, key);
    identity
        .keys_match()
        .map_err(|_| "the private key does not belong to the certificate: they are from different pairs; `tls.key` and `tls.crt` must come from the same folder".to_owned())?;
    Ok(identity)
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, DnType, ExtendedKeyUsagePurpose, IsCa,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    };
    use rustls::pki_types::{
        AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, UnixTime,
    };
    use rustls::server::danger::ClientCertVerifier;
    use time::{Duration, OffsetDateTime};

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    /// A CA; the serial number of every one is 5.
    fn ca(name: &str, by: Option<&Ca>) -> Ca {
        ca_for(name, by, &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign])
    }

    fn ca_for(name: &str, by: Option<&Ca>, usages: &[KeyUsagePurpose]) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
        params.serial_number = Some(SerialNumber::from(5));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        match by {
            None => Ca::self_signed(params, key).unwrap(),
            Some(by) => Ca::signed_by(params, key, by).unwrap(),
        }
    }

    fn list(by: &Ca, serials: &[u64]) -> String {
        list_about(by, serials, None, Duration::hours(1))
    }

    fn list_about(by: &Ca, serials: &[u64], scope: Option<CrlScope>, age: Duration) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let point = |scope| CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://ca.example/list".into()] },
            scope: Some(scope),
        };
        let params = CertificateRevocationListParams {
            this_update: now - age,
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: scope.map(point),
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(by).unwrap().pem().unwrap()
    }

    /// A site's folder with a leaf of `by`, serial 77.
    fn folder(dir: &Path, by: &Ca, cas: &[&Ca], lists: &str) -> TlsFiles {
        folder_for(dir, by, &[by], cas, lists, &[KeyUsagePurpose::DigitalSignature])
    }

    /// As [`folder`], with these certificates after the leaf and these uses of its key.
    fn folder_for(
        dir: &Path,
        by: &Ca,
        after: &[&Ca],
        cas: &[&Ca],
        lists: &str,
        usages: &[KeyUsagePurpose],
    ) -> TlsFiles {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName("dc1".try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
        params.serial_number = Some(SerialNumber::from(77));
        params.key_usages = usages.to_vec();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let after: String = after.iter().map(|ca| ca.pem()).collect();
        let chain = params.signed_by(&key, by).unwrap().pem() + &after;
        let write = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        TlsFiles {
            ca: write("ca.crt", &cas.iter().map(|ca| ca.pem()).collect::<String>()),
            cert: write("tls.crt", &chain),
            key: write("tls.key", &key.serialize_pem()),
            crl: (!lists.is_empty()).then(|| write("crl.pem", lists)),
        }
    }

    fn faults(paths: &TlsFiles) -> String {
        Material::load(paths, "dc1").map_or_else(|faults| faults.join("\n"), |_| String::new())
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

    #[test]
    fn a_revoked_intermediate_is_refused_wherever_it_stands() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let sub = ca("sub", Some(&root));
        let below = ca("below", Some(&sub));
        for (by, after) in [(&sub, vec![&sub]), (&below, vec![&below, &sub])] {
            // As an intermediate, as a CA of the config, as both, and as neither's neighbour.
            for cas in [vec![&root], vec![&root, &sub], vec![&sub, &root], vec![&sub, &root, &below]] {
                let paths = |lists: &str| {
                    folder_for(dir.path(), by, &after, &cas, lists, &[KeyUsagePurpose::DigitalSignature])
                };
                assert_eq!(faults(&paths(&list(&root, &[6]))), "");
                let said = faults(&paths(&list(&root, &[5])));
                assert!(
                    said.contains("the CA CN=sub that signed it has been revoked")
                        || said.contains("the CA CN=below that signed it has been revoked"),
                    "{said}"
                );
            }
        }
        // Nothing of it need be sent along where it is a CA of the config itself.
        let paths = folder_for(
            dir.path(),
            &sub,
            &[],
            &[&sub, &root],
            &list(&root, &[5]),
            &[KeyUsagePurpose::DigitalSignature],
        );
        assert!(faults(&paths).contains("the CA CN=sub that signed it has been revoked"));
    }

    #[test]
    fn a_list_of_an_intermediate_in_cert_counts_and_one_of_a_stranger_is_a_fault() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let (sub, twin) = (ca("sub", Some(&root)), ca("sub", Some(&root)));
        let lists = |serials: &[u64]| list(&root, &[]) + &list(&sub, serials);
        assert_eq!(faults(&folder(dir.path(), &sub, &[&root], &lists(&[5]))), "");
        assert!(faults(&folder(dir.path(), &sub, &[&root], &lists(&[77]))).contains("it has been revoked"));
        // Of two intermediates of one name each has its own list.
        for (first, second) in [(&sub, &twin), (&twin, &sub)] {
            let both = list(first, &[77]) + &list(second, &[]);
            let paths = |by| {
                folder_for(
                    dir.path(),
                    by,
                    &[first, second],
                    &[&root],
                    &both,
                    &[KeyUsagePurpose::DigitalSignature],
                )
            };
            assert_eq!(faults(&paths(second)), "");
            assert!(faults(&paths(first)).contains("it has been revoked"));
        }
        let stranger = ca("stranger", None);
        for other in [&stranger, &twin] {
            let said = faults(&folder(dir.path(), &sub, &[&root], &(lists(&[]) + &list(other, &[]))));
            assert!(
                said.contains("a revocation list that no CA in") && said.contains("; take it out"),
                "{said}"
            );
        }
        // One that nobody here has vouched for signs no lists, though it is sent along.
        let paths = folder_for(
            dir.path(),
            &sub,
            &[&sub, &stranger],
            &[&root],
            &list(&stranger, &[]),
            &[KeyUsagePurpose::DigitalSignature],
        );
        assert!(faults(&paths).contains("a revocation list that no CA in"));
    }

    #[test]
    fn every_part_of_a_list_in_parts_counts_and_of_each_the_newest() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let sub = ca("sub", Some(&root));
        let old = Duration::hours(9);
        let new = Duration::hours(1);
        let cas = Some(CrlScope::CaCertsOnly);
        let users = Some(CrlScope::UserCertsOnly);
        for (lists, fault) in [
            (
                list_about(&root, &[5], cas, old) + &list_about(&root, &[], users, new),
                "CN=sub that signed it has been",
            ),
            (
                list_about(&root, &[], users, new) + &list_about(&root, &[5], cas, old),
                "CN=sub that signed it has been",
            ),
            (list_about(&sub, &[77], users, old) + &list_about(&sub, &[], cas, new), "it has been revoked"),
            (list_about(&sub, &[77], None, old) + &list_about(&sub, &[], None, new), ""),
            (list_about(&sub, &[], None, old) + &list_about(&sub, &[77], None, new), "it has been revoked"),
        ] {
            let said = faults(&folder(dir.path(), &sub, &[&root], &lists));
            assert!(said.contains(fault) && said.is_empty() == fault.is_empty(), "{fault}: {said}");
        }
    }

    #[test]
    fn a_ca_must_be_allowed_to_sign_and_so_must_a_leaf() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let sub = ca_for("sub", Some(&root), &[KeyUsagePurpose::CrlSign]);
        let said = faults(&folder(dir.path(), &sub, &[&root], ""));
        assert!(
            said.contains("the CA CN=sub that signed it may not: its key usage lacks keyCertSign"),
            "{said}"
        );
        let said = faults(&folder(dir.path(), &sub, &[&sub], ""));
        assert!(
            said.contains("the CA CN=sub may not sign certificates: its key usage lacks keyCertSign"),
            "{said}"
        );
        let leaf =
            |usages: &[KeyUsagePurpose]| faults(&folder_for(dir.path(), &root, &[], &[&root], "", usages));
        let said = leaf(&[KeyUsagePurpose::KeyEncipherment]);
        assert!(said.contains("the key usage lacks digitalSignature"), "{said}");
        // The far side is told the same, by whatever it is judged.
        let paths = folder_for(dir.path(), &root, &[], &[&root], "", &[KeyUsagePurpose::KeyEncipherment]);
        let trust = load_trust(&paths, None, &mut Told::default()).unwrap();
        let chain = pem::certificates(&paths.cert).unwrap();
        let error = judge_both(trust, Some("dc1"), &chain[0], &[]).unwrap_err();
        let said = explain::own(&error, &Certificate::read(&chain[0]).unwrap());
        assert!(said.contains("lacks digitalSignature"), "{said}");
        // Where there is no key usage it is not restricted.
        assert_eq!(leaf(&[]), "");
        let plain = ca_for("plain", Some(&root), &[]);
        assert_eq!(faults(&folder(dir.path(), &plain, &[&root], "")), "");
    }

    /// Signatures that were checked with [`Counted`].
    static CHECKED: AtomicUsize = AtomicUsize::new(0);

    #[derive(Debug)]
    struct Counted(&'static dyn SignatureVerificationAlgorithm);

    impl SignatureVerificationAlgorithm for Counted {
        fn verify_signature(
            &self,
            key: &[u8],
            text: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            CHECKED.fetch_add(1, Ordering::Relaxed);
            self.0.verify_signature(key, text, signature)
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            self.0.public_key_alg_id()
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            self.0.signature_alg_id()
        }
    }

    #[test]
    fn a_strangers_chain_costs_a_signature_for_each_of_its_certificates() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let mut provider = (*provider()).clone();
        let counted = |known: &&'static dyn SignatureVerificationAlgorithm| {
            let counted: &'static dyn SignatureVerificationAlgorithm = Box::leak(Box::new(Counted(*known)));
            counted
        };
        let all: Vec<_> = provider.signature_verification_algorithms.all.iter().map(counted).collect();
        provider.signature_verification_algorithms.all = all.leak();
        let digital = [KeyUsagePurpose::DigitalSignature];
        let trust = load_trust(&folder(dir.path(), &root, &[&root], ""), None, &mut Told::default()).unwrap();
        let verifier = Verifier::new(&provider, trust, None);
        // All of the CA's own name, so that each could be the issuer of each other.
        let hostile: Vec<Ca> = (0..130).map(|_| ca("root", None)).collect();
        for (count, least, most) in [(8, 8, 9), (130, 0, 0)] {
            let after: Vec<&Ca> = hostile[..count].iter().collect();
            let paths = folder_for(dir.path(), &hostile[0], &after, &[&root], "", &digital);
            let chain = pem::certificates(&paths.cert).unwrap();
            CHECKED.store(0, Ordering::Relaxed);
            verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).unwrap_err();
            let checked = CHECKED.load(Ordering::Relaxed);
            assert!((least..=most).contains(&checked), "{count}: {checked}");
        }
    }

    #[test]
    fn what_a_stranger_sends_is_bounded_before_a_signature_is_checked() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let algorithms = provider().signature_verification_algorithms;
        // As many as there may be, all of the CA's own name, so that each fits each.
        let hostile: Vec<Ca> =
            (0..super::super::verify::MOST_INTERMEDIATES).map(|_| ca("root", None)).collect();
        let ders: Vec<CertificateDer<'static>> = hostile.iter().map(|ca| ca.der().clone()).collect();
        let facts = Certificate::read(root.der()).unwrap();
        assert!(vouched(std::iter::once(&facts), &ders, &algorithms).is_empty());
        let after: Vec<&Ca> = hostile.iter().collect();
        let digital = [KeyUsagePurpose::DigitalSignature];
        // They are in nobody's way.
        assert_eq!(faults(&folder_for(dir.path(), &root, &after, &[&root], "", &digital)), "");
        assert!(
            faults(&folder_for(dir.path(), &hostile[0], &after, &[&root], "", &digital))
                .contains("no CA in `ca` has signed it")
        );
        let one_more: Vec<&Ca> = after.iter().copied().chain([&root]).collect();
        let said = faults(&folder_for(dir.path(), &root, &one_more, &[&root], "", &digital));
        assert!(said.contains("9 certificates come after it, and at most 8 are looked at"), "{said}");
        let long = ca(&"x".repeat(40_000), None);
        let said = faults(&folder_for(dir.path(), &root, &[&long], &[&root], "", &digital));
        assert!(said.contains("at most 32768 are looked at"), "{said}");
    }

    #[test]
    fn certificate_and_key_may_be_in_one_file_and_cas_are_named_by_fingerprint() {
        let (root, dir) = (ca("root", None), tempfile::tempdir().unwrap());
        let paths = folder(dir.path(), &root, &[&root], "");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let both = dir.path().join("both.pem");
        std::fs::write(&both, text(&paths.key) + &text(&paths.cert)).unwrap();
        let link = dir.path().join("link.pem");
        std::os::unix::fs::symlink(&both, &link).unwrap();
        for (cert, key) in [(&both, &both), (&both, &link)] {
            assert_eq!(faults(&TlsFiles { cert: cert.clone(), key: key.clone(), ..paths.clone() }), "");
        }
        let said = faults(&TlsFiles { cert: both.clone(), ..paths.clone() });
        assert!(said.contains("both.pem:1: a private key, where a certificate is wanted"), "{said}");
        let warnings = Material::load(&paths, "dc1").unwrap().warnings;
        let name = format!("for the CA CN=root (SHA-256 {})", x509::fingerprint(root.der()));
        assert!(warnings.iter().any(|warning| warning.contains(&name)), "{warnings:?}");
    }
}
