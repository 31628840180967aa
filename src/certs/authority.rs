//! The CA: signs site certificates and revocation lists.

use std::path::Path;

use anyhow::{Context, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::Names;
use super::ledger::Ledger;
use crate::tls::pem;
use crate::x509::Certificate;

/// Days for which a CA is valid: ten years.
const CA_DAYS: i64 = 3652;

/// Time by which validity starts in the past, since clocks of other hosts may be behind.
const BACK_DATED: Duration = Duration::hours(1);

/// The CA with its key.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The CA's certificate as PEM.
    pub(super) certificate: String,
    /// The contents of the certificate.
    pub(super) facts: Certificate,
}

impl Authority {
    /// Makes a CA. Also returns its certificate and key as PEM.
    pub(super) fn make(name: &str) -> anyhow::Result<(String, String, Self)> {
        let key = KeyPair::generate().context("make the CA's key")?;
        let mut params = params(name, CA_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("sign the CA")?;
        let (text, secret) = (certificate.pem(), key.serialize_pem());
        let facts = Certificate::read(certificate.der())?;
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key)?;
        Ok((text.clone(), secret, Self { issuer, certificate: text, facts }))
    }

    /// Loads the CA whose files are in `place`.
    pub(super) fn load(place: &Path) -> anyhow::Result<Self> {
        let (certificate_path, key_path) = (place.join("ca.crt"), place.join("ca.key"));
        let der = pem::certificates(&certificate_path)?.remove(0);
        let certificate = String::from_utf8(pem::read(&certificate_path)?.to_vec())
            .with_context(|| format!("read {}", certificate_path.display()))?;
        let facts =
            Certificate::read(&der).with_context(|| format!("read {}", certificate_path.display()))?;
        ensure!(facts.is_ca, "{} is not a CA certificate", certificate_path.display());
        let key = KeyPair::try_from(&*pem::private_key(&key_path)?)
            .with_context(|| format!("read {}", key_path.display()))?;
        ensure!(
            key.subject_public_key_info() == facts.public_key,
            "{} does not belong to {}",
            key_path.display(),
            certificate_path.display()
        );
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .with_context(|| format!("use {}", certificate_path.display()))?;
        Ok(Self { issuer, certificate, facts })
    }

    /// Signs a site's certificate for `key`. Returns it as PEM and as read back. It does not
    /// outlive the CA.
    pub(super) fn sign(
        &self,
        names: &Names,
        days: u32,
        key: &impl PublicKeyData,
    ) -> anyhow::Result<(String, Certificate)> {
        let mut params = params(names.site(), i64::from(days))?;
        let last = OffsetDateTime::from_unix_timestamp(self.facts.not_after)?;
        ensure!(
            last > OffsetDateTime::now_utc(),
            "the CA expired on {}; replace it: replgate certs rollover start",
            crate::clock::utc(self.facts.not_after)
        );
        params.not_after = params.not_after.min(last);
        params.subject_alt_names = alternative_names(names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).context("sign the certificate")?;
        Ok((certificate.pem(), Certificate::read(certificate.der())?))
    }

    /// The revocation list of everything that the ledger has as revoked, as PEM. It is valid as
    /// long as the CA.
    pub(super) fn revocation_list(&self, ledger: &Ledger) -> anyhow::Result<String> {
        let revoked = ledger.certificates.iter().filter_map(|entry| Some((entry, entry.revoked?)));
        let revoked_certs = revoked
            .map(|(entry, at)| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&entry.serial_bytes()?),
                    revocation_time: OffsetDateTime::from_unix_timestamp(at)?,
                    reason_code: Some(RevocationReason::Unspecified),
                    invalidity_date: None,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::now_utc() - BACK_DATED,
            next_update: OffsetDateTime::from_unix_timestamp(self.facts.not_after)?,
            crl_number: SerialNumber::from(ledger.list_number + 1),
            issuing_distribution_point: None,
            revoked_certs,
            // rcgen takes the key identifier from here, not from the issuer; it must be that of the
            // CA.
            key_identifier_method: match &self.facts.key_id {
                Some(id) => KeyIdMethod::PreSpecified(id.clone()),
                None => KeyIdMethod::Sha256,
            },
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).context("sign the revocation list")
    }
}

/// Makes a signing request, as PEM.
pub(super) fn request(names: &Names, key: &KeyPair) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(names.site());
    params.subject_alt_names = alternative_names(names)?;
    params.serialize_request(key).and_then(|request| request.pem()).context("sign the request")
}

/// The common parts of certificates: one name, a random serial number and a validity.
fn params(name: &str, days: i64) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.distinguished_name = common_name(name);
    params.not_before = now - BACK_DATED;
    params.not_after = now + Duration::days(days);
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).context("make a serial number")?;
    // The number is positive and has sixteen bytes in every encoding.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn alternative_names(names: &Names) -> anyhow::Result<Vec<SanType>> {
    let dns = names.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    dns.chain(names.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)))).collect()
}
