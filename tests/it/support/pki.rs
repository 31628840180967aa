//! Certificates that `replgate certs` would never make.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A CA of the test's own.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What to make.
pub struct Leaf<'a> {
    pub site: &'a str,
    pub from: Duration,
    pub until: Duration,
    pub usage: Vec<ExtendedKeyUsagePurpose>,
}

impl<'a> Leaf<'a> {
    pub fn good(site: &'a str) -> Self {
        Self {
            site,
            from: Duration::hours(-1),
            until: Duration::days(30),
            usage: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::days(400);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(400);
    params
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a site's folder: ca.crt, crl.pem, tls.crt, tls.key.
    pub fn folder(&self, folder: &Path, leaf: &Leaf<'_>) {
        std::fs::create_dir_all(folder).expect("the test's folder is writable");
        let key = KeyPair::generate().expect("a key");
        let mut params = params(leaf.site);
        params.subject_alt_names = vec![rcgen::SanType::DnsName(leaf.site.try_into().expect("a name"))];
        params.not_before = OffsetDateTime::now_utc() + leaf.from;
        params.not_after = OffsetDateTime::now_utc() + leaf.until;
        params.extended_key_usages = leaf.usage.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::now_utc(),
            next_update: OffsetDateTime::now_utc() + Duration::days(30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list").pem().expect("a list");
        for (name, text) in [
            ("ca.crt", self.pem.clone()),
            ("tls.crt", certificate.pem()),
            ("tls.key", key.serialize_pem()),
            ("crl.pem", list),
        ] {
            std::fs::write(folder.join(name), text).expect("the test's folder is writable");
        }
    }
}
