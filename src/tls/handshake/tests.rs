use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use time::OffsetDateTime;

use super::*;
use crate::config::TlsFiles;
use crate::tls::material::Material;
use crate::tls::pem;

const DAY: i64 = 86_400;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str, until: i64) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(-10 * DAY);
    params.not_after = at(until);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn at(from_now: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(clock::now() + from_now).unwrap()
}

/// The files of a site whose certificate is valid for a day from now on, with a list of this CA.
fn loaded(folder: &Path, ca: &Ca, serial: u64, revoked: &[u64]) -> Loaded {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName("dc1".try_into().unwrap())];
    params.not_before = at(-DAY);
    params.not_after = at(DAY);
    params.serial_number = Some(SerialNumber::from(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("ca.crt", ca.pem());
    write("tls.crt", params.signed_by(&key, ca).unwrap().pem());
    write("tls.key", key.serialize_pem());
    with_list(folder, ca, revoked)
}

/// The same files, with another list.
fn with_list(folder: &Path, ca: &Ca, revoked: &[u64]) -> Loaded {
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(0),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: at(0),
        next_update: at(DAY),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(ca).unwrap().pem().unwrap();
    std::fs::write(folder.join("crl.pem"), list).unwrap();
    let material = Material::load(&TlsFiles::in_folder(folder), "dc1").unwrap();
    Loaded::new(material, std::iter::empty()).unwrap()
}

/// A handshake with a far side that has the certificate of `far`, made with the files `ours`.
fn handshake(folder: &Path, far: &Loaded, ours: &Loaded) -> Handshake {
    let shown = pem::certificates(&folder.join("tls.crt")).unwrap();
    let handshake = Handshake::new(Role::Client, &shown).unwrap();
    assert_eq!(handshake.leaf().fingerprint, far.material.leaf.fingerprint);
    handshake.with(ours)
}

/// What a handshake is judged as by these files at this time: a verdict, or words of the refusal.
fn judged(handshake: &Handshake, by: &Loaded, now: i64, settled: Option<i64>) -> Result<Verdict, String> {
    handshake.judged(by, now, settled).map_err(|late| late.words)
}

#[test]
fn a_certificate_past_its_end_counts_until_the_time_is_settled_and_a_clock_set_back_changes_nothing() {
    let (ca, dir) = (ca("one", 30 * DAY), tempfile::tempdir().unwrap());
    let far = loaded(dir.path(), &ca, 7, &[]);
    let handshake = handshake(dir.path(), &far, &far);
    let (now, end) = (clock::now(), far.material.leaf.not_after);
    assert_eq!(judged(&handshake, &far, now, Some(now - 60)), Ok(Verdict::Good));
    for settled in [None, Some(now), Some(end)] {
        assert_eq!(judged(&handshake, &far, end + 30, settled), Ok(Verdict::Replace), "{settled:?}");
    }
    let words = judged(&handshake, &far, end + 62, Some(end + 1)).unwrap_err();
    assert!(words.starts_with("the certificate of dc1 is not accepted any more: it expired at "), "{words}");
    // A clock that is years ahead for a moment, and one that is set back, even for good.
    assert_eq!(judged(&handshake, &far, now + 9000 * DAY, Some(now)), Ok(Verdict::Replace));
    assert_eq!(judged(&handshake, &far, now - 9000 * DAY, Some(now - 9000 * DAY)), Ok(Verdict::Good));
}

#[test]
fn the_end_of_a_ca_ends_what_it_has_signed() {
    let (ca, dir) = (ca("one", 3600), tempfile::tempdir().unwrap());
    let far = loaded(dir.path(), &ca, 7, &[]);
    let handshake = handshake(dir.path(), &far, &far);
    let end = clock::now() + 3600;
    assert!(!far.material.trust.has_past_ca(end - 5) && far.material.trust.has_past_ca(end + 5));
    assert_eq!(judged(&handshake, &far, end + 5, Some(end - 55)), Ok(Verdict::Replace));
    let words = judged(&handshake, &far, end + 70, Some(end + 5)).unwrap_err();
    assert!(words.contains("the CA ") && words.contains("that signed it is not valid now"), "{words}");
}

#[test]
fn a_revocation_and_another_ca_count_at_once_whatever_the_clock_says() {
    let (ca, other, dir) = (ca("one", 30 * DAY), ca("two", 30 * DAY), tempfile::tempdir().unwrap());
    let far = loaded(dir.path(), &ca, 7, &[]);
    let handshake = handshake(dir.path(), &far, &far);
    let now = clock::now();
    let [revoking, foreign] = [loaded(dir.path(), &ca, 8, &[7]), loaded(dir.path(), &other, 8, &[])];
    for now in [now, now - 9000 * DAY, now + 9000 * DAY] {
        let words = judged(&handshake, &revoking, now, None).unwrap_err();
        assert!(words.contains("it has been revoked"), "{now}: {words}");
        let words = judged(&handshake, &foreign, now, None).unwrap_err();
        assert!(words.contains("no CA in our `ca` has signed it"), "{now}: {words}");
    }
}

#[test]
fn only_another_certificate_of_this_gateway_makes_good_connections_be_replaced() {
    let (ca, dir) = (ca("one", 30 * DAY), tempfile::tempdir().unwrap());
    let far = loaded(dir.path(), &ca, 7, &[]);
    let handshake = handshake(dir.path(), &far, &far);
    let now = clock::now();
    // The same certificate, and another list.
    let list = with_list(dir.path(), &ca, &[9]);
    assert!(list.material.shown == far.material.shown && !list.material.is_same(&far.material));
    assert_eq!(judged(&handshake, &list, now, None), Ok(Verdict::Good));
    let renewed = loaded(dir.path(), &ca, 8, &[]);
    assert_eq!(judged(&handshake, &renewed, now, None), Ok(Verdict::Replace));
    // The one that it was opened with ends, whatever is in use by now.
    let expired = Handshake { until: now + 9 * DAY, ..handshake };
    let expired = Handshake { ours: Ours { shown: "another".to_owned(), until: now - 100 }, ..expired };
    assert_eq!(judged(&expired, &renewed, now, Some(now - 100)), Ok(Verdict::Replace));
    let words = judged(&expired, &renewed, now, Some(now - 60)).unwrap_err();
    assert!(words.starts_with("the certificate of dc1 with which it was opened expired at "), "{words}");
}

#[test]
fn equal_handshakes_are_judged_once_and_forgotten_with_their_last_connection() {
    let (ca, dir) = (ca("one", 30 * DAY), tempfile::tempdir().unwrap());
    let current = Current::new(loaded(dir.path(), &ca, 7, &[]));
    let far = current.now();
    let shown = handshake(dir.path(), &far, &far);
    let table = Handshakes::default();
    let (first, second) =
        (table.enter(&shown, &far, &current).unwrap(), table.enter(&shown, &far, &current).unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    current.replace(loaded(dir.path(), &ca, 8, &[7]));
    let revoking = current.now();
    table.judge(&revoking);
    assert!(matches!(second.verdict(), Verdict::Refused(_)));
    // What is entered late is judged by what is in use by then.
    let late = table.enter(&shown, &far, &current).unwrap_err();
    assert!(late.class == Class::Revoked && late.words.contains("it has been revoked"), "{late:?}");
    // Nothing changes as long as the time changes nothing.
    assert!(!table.look(&revoking, Instant::now(), clock::now()));
    drop((first, second));
    table.judge(&far);
    assert!(table.lock().known.is_empty());
}

#[test]
fn certificates_that_lead_to_no_ca_make_no_connection_another_one() {
    let (root, dir) = (ca("root", 10 * DAY), tempfile::tempdir().unwrap());
    let used = Arc::new(loaded(dir.path(), &root, 7, &[]));
    let current = Current::new(with_list(dir.path(), &root, &[]));
    let shown = pem::certificates(&dir.path().join("tls.crt")).unwrap();
    let handshakes = Handshakes::default();
    let entered = || {
        // Another one each time, with the name of the CA.
        let junk = [shown[0].clone(), ca("root", DAY).der().clone()];
        let handshake = Handshake::new(Role::Client, &junk).unwrap();
        handshakes.enter(&handshake, &used, &current).unwrap()
    };
    let (one, other) = (entered(), entered());
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!((one.shown(), one.is_past(clock::now() + DAY / 2)), (shown, false));
}
