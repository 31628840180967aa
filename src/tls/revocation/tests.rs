use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::*;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    facts: Certificate,
}

fn ca(name: &str, usages: &[KeyUsagePurpose]) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = usages.to_vec();
    let facts = Certificate::read(params.self_signed(&key).unwrap().der()).unwrap();
    Ca { issuer: Issuer::new(params, key), facts }
}

fn good() -> Ca {
    ca("one", &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign])
}

impl Ca {
    fn list(&self, number: u64, made_in: Duration, scoped: bool) -> Vec<u8> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7_u64),
            revocation_time: OffsetDateTime::now_utc(),
            reason_code: None,
            invalidity_date: None,
        };
        let point = CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://crl".to_owned()] },
            scope: None,
        };
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::now_utc() + made_in,
            next_update: OffsetDateTime::now_utc() + Duration::days(30),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: scoped.then_some(point),
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn judge(&self, der: &[u8], known: Option<u8>) -> Result<Checked, Refused> {
        let known = known.map(|last| {
            let mut number = [0; 20];
            number[19] = last;
            number
        });
        judge(der, [&self.facts], |_| known, clock::now())
    }
}

#[test]
fn only_a_later_list_that_a_known_ca_has_signed_is_believed() {
    let ca = good();
    let list = ca.list(5, Duration::ZERO, false);
    let checked = ca.judge(&list, Some(4)).unwrap();
    assert_eq!((number_text(&checked.number).as_str(), checked.facts.revoked.len()), ("5", 1));
    assert_eq!(checked.name, name(&ca.facts.public_key, None));
    for known in [5, 6] {
        assert!(matches!(ca.judge(&list, Some(known)), Err(Refused::NotNewer { .. })), "{known}");
    }
    // One of another CA, and one of another CA that has the same name.
    assert!(matches!(self::ca("two", &[]).judge(&list, None), Err(Refused::UnknownIssuer(_))));
    assert!(matches!(good().judge(&list, None), Err(Refused::Forged(_))));
    // Any changed bit spoils it.
    for at in 0..list.len() {
        let mut changed = list.clone();
        changed[at] ^= 1;
        assert!(ca.judge(&changed, None).is_err(), "byte {at}");
    }
    for end in 0..list.len() {
        assert!(ca.judge(&list[..end], None).is_err(), "cut at {end}");
    }
    assert!(matches!(ca.judge(&vec![0; LARGEST + 1], None), Err(Refused::TooLarge(_))));
}

#[test]
fn a_list_from_the_future_or_of_a_ca_that_may_not_sign_lists_is_refused() {
    let ca = good();
    assert!(matches!(ca.judge(&ca.list(5, Duration::minutes(20), false), None), Err(Refused::Future(_))));
    assert!(ca.judge(&ca.list(5, Duration::minutes(5), false), None).is_ok());
    let mut mute = good();
    let list = mute.list(5, Duration::ZERO, false);
    mute.facts.may_sign_lists = false;
    assert!(matches!(mute.judge(&list, None), Err(Refused::MayNotSign(_))));
}

#[test]
fn a_list_of_another_scope_is_another_list() {
    let ca = good();
    let names = [false, true].map(|scoped| ca.judge(&ca.list(5, Duration::ZERO, scoped), None).unwrap().name);
    assert!(names[0] != names[1] && names[0][..16] == names[1][..16]);
}

#[test]
fn a_delta_is_refused() {
    // The extension that makes a delta has the number of the list that it adds to, as the number has.
    let ca = good();
    let list = ca.list(5, Duration::ZERO, false);
    let number = [0x06, 0x03, 0x55, 0x1d, 0x14];
    let at = list.windows(5).position(|bytes| bytes == number).unwrap();
    let mut delta = list.clone();
    delta[at + 4] = 0x1b;
    assert_eq!(ca.judge(&delta, None).unwrap_err(), Refused::Delta);
    // Without either it has no number.
    let mut unnumbered = list;
    unnumbered[at + 4] = 0x7f;
    assert_eq!(ca.judge(&unnumbered, None).unwrap_err(), Refused::NoNumber);
}

#[test]
fn numbers_are_shown_as_people_write_them() {
    let mut number = [0; 20];
    number[18..].copy_from_slice(&[1, 0]);
    assert_eq!(number_text(&number), "256");
    number[0] = 0x0a;
    assert!(number_text(&number).starts_with("0xA000"));
}

proptest! {
    #[test]
    fn a_lower_number_never_takes_the_place_of_a_higher_one(
        file in proptest::option::of(any::<[u8; 20]>()), made in any::<i64>(),
        learnt in any::<[u8; 20]>(), then in any::<i64>(),
    ) {
        let counts = compare((file, made), (learnt, then));
        match file {
            Some(file) => {
                prop_assert_eq!(counts == Counts::Learnt, learnt > file);
                prop_assert_eq!(counts == Counts::File, file > learnt);
            }
            None => prop_assert_eq!(counts == Counts::Learnt, then > made),
        }
    }
}

#[test]
fn lists_outlive_a_restart_and_a_damaged_folder_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b");
    let ca = good();
    let learnt =
        |number| Learnt { der: ca.list(number, Duration::ZERO, false).into(), from: "dc2".to_owned() };
    let (one, two) = (learnt(1), learnt(2));
    assert_eq!(state::load(&folder), (vec![], vec![]));
    state::save(&folder, std::slice::from_ref(&one)).unwrap();
    assert_eq!(state::load(&folder), (vec![one.clone()], vec![]));
    // The later one takes its place.
    state::save(&folder, std::slice::from_ref(&two)).unwrap();
    assert_eq!(state::load(&folder), (vec![two.clone()], vec![]));
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    // Others' files are left alone.
    std::fs::write(folder.join("README"), "mine").unwrap();
    std::fs::write(&file, "garbage").unwrap();
    let (lists, warnings) = state::load(&folder);
    assert!(
        lists.is_empty() && warnings.len() == 1 && warnings[0].contains("does not count"),
        "{warnings:?}"
    );
    state::save(&folder, std::slice::from_ref(&two)).unwrap();
    assert_eq!(state::load(&folder), (vec![two.clone()], vec![]));
    assert!(folder.join("README").exists());
    // A file in the place of the folder.
    let blocked = dir.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    assert!(state::save(&blocked, &[two]).is_err());
    let (lists, warnings) = state::load(&blocked);
    assert!(lists.is_empty() && warnings[0].contains("cannot be read"), "{warnings:?}");
}
