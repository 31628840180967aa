//! Certificates that `replgate certs` would never create.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A CA that a test creates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// The self-signed certificate of the root CA.
    pub root: String,
    /// The certificates of this CA and those above it, without the root's.
    chain: String,
}

/// The serial number of every intermediate CA.
pub const SUB_SERIAL: u64 = 5;

/// The site's certificate to create.
pub struct Leaf<'a> {
    pub site: &'a str,
    pub from: Duration,
    pub until: Duration,
    pub usage: Vec<ExtendedKeyUsagePurpose>,
    pub key_usage: Vec<KeyUsagePurpose>,
}

impl<'a> Leaf<'a> {
    pub fn good(site: &'a str) -> Self {
        Self {
            site,
            from: Duration::hours(-1),
            until: Duration::days(30),
            usage: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            key_usage: vec![KeyUsagePurpose::DigitalSignature],
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

fn ca_params(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = usages.to_vec();
    params
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = ca_params(name, &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]);
        let root = params.self_signed(&key).expect("a CA").pem();
        Self { issuer: Issuer::new(params, key), root, chain: String::new() }
    }

    /// A CA below this one.
    pub fn sub(&self, name: &str) -> Self {
        self.sub_for(name, &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign])
    }

    /// As [`Ca::sub`], with these key usages.
    pub fn sub_for(&self, name: &str, usages: &[KeyUsagePurpose]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = ca_params(name, usages);
        params.serial_number = Some(SerialNumber::from(SUB_SERIAL));
        let pem = params.signed_by(&key, &self.issuer).expect("a CA").pem();
        Self { issuer: Issuer::new(params, key), root: self.root.clone(), chain: pem + &self.chain }
    }

    /// As [`Ca::sub`], with these basic constraints.
    pub fn sub_as(&self, name: &str, is_ca: IsCa) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = ca_params(name, &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]);
        params.is_ca = is_ca;
        let pem = params.signed_by(&key, &self.issuer).expect("a CA").pem();
        Self { issuer: Issuer::new(params, key), root: self.root.clone(), chain: pem + &self.chain }
    }

    /// A revocation list with these serial numbers.
    pub fn list(&self, serials: &[u64]) -> String {
        self.list_of(serials, 1, Duration::days(30))
    }

    /// As [`Ca::list`], with this number and this time until it is stale.
    pub fn list_of(&self, serials: &[u64], number: u64, until: Duration) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: OffsetDateTime::now_utc(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::now_utc().min(OffsetDateTime::now_utc() + until),
            next_update: OffsetDateTime::now_utc() + until,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("a list")
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
        params.key_usages = leaf.key_usage.clone();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        for (name, text) in [
            ("ca.crt", self.root.clone()),
            ("tls.crt", certificate.pem() + &self.chain),
            ("tls.key", key.serialize_pem()),
            ("crl.pem", self.list(&[])),
        ] {
            std::fs::write(folder.join(name), text).expect("the test's folder is writable");
        }
    }
}
