use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::tls::revocation;
use crate::tls::verify::{MOST_INTERMEDIATES, vouched};
use crate::x509;

type Ca = CertifiedIssuer<'static, KeyPair>;

/// A CA; every one has the serial number 5.
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

/// A list with this number, as another gateway has handed it over.
fn learnt(by: &Ca, serials: &[u64], number: u64) -> Learnt {
    let mut params = list_params(serials, None, Duration::hours(1));
    params.crl_number = SerialNumber::from(number);
    Learnt { der: params.signed_by(by).unwrap().der().to_vec().into(), from: "dc9".to_owned() }
}

static NOW: LazyLock<OffsetDateTime> = LazyLock::new(OffsetDateTime::now_utc);

fn list_about(by: &Ca, serials: &[u64], scope: Option<CrlScope>, age: Duration) -> String {
    list_params(serials, scope, age).signed_by(by).unwrap().pem().unwrap()
}

fn list_params(serials: &[u64], scope: Option<CrlScope>, age: Duration) -> CertificateRevocationListParams {
    // One time for all lists of a test: times have whole seconds, and some lists are made at the
    // same one.
    let now = *NOW;
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
    CertificateRevocationListParams {
        this_update: now - age,
        next_update: now + Duration::days(1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: scope.map(point),
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// A site's folder with a leaf signed by `by`, serial number 77.
fn folder(dir: &Path, by: &Ca, cas: &[&Ca], lists: &str) -> TlsFiles {
    folder_for(dir, by, &[by], cas, lists, &[KeyUsagePurpose::DigitalSignature])
}

/// As [`folder`], with these certificates after the leaf and these key usages.
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

/// The CAs and lists of these files.
fn trust_of(paths: &TlsFiles) -> Arc<Trust> {
    let files = trust::read(paths, &mut Findings::default()).unwrap();
    trust::judge(paths, &files, &[], None, &mut Findings::default()).trust
}

fn faults(paths: &TlsFiles) -> String {
    Material::load(paths, "dc1").map_or_else(|faults| faults.join("\n"), |_| String::new())
}

#[test]
fn no_clock_no_missing_ca_and_no_earlier_file_brings_a_revoked_site_back() {
    let (root, other, dir) = (ca("root", None), ca("other", None), tempfile::tempdir().unwrap());
    let revoked = |material: &Material| material.revocation.in_use[0].revoked;
    let again = |paths: &TlsFiles, before: &Material| {
        Material::load_beside(paths, "dc1", &before.revocation.remembered()).unwrap()
    };
    // Made in a time that a clock which is behind has not reached yet.
    let mut params = list_params(&[8], None, -Duration::days(30));
    params.next_update = *NOW + Duration::days(60);
    params.crl_number = SerialNumber::from(2);
    let der = params.signed_by(&root).unwrap().der().to_vec().into();
    let early = Learnt { der, from: "dc9".to_owned() };
    let paths = folder(dir.path(), &root, &[&root], &list(&root, &[]));
    let learnt = Material::load_beside(&paths, "dc1", &[early]).unwrap();
    assert_eq!(revoked(&learnt), 1);
    // The CA is missing for a moment.
    let elsewhere = folder(dir.path(), &other, &[&other], &list(&other, &[]));
    let without = again(&elsewhere, &learnt);
    assert_eq!((revoked(&without), without.revocation.dormant.len()), (0, 1));
    let paths = folder(dir.path(), &root, &[&root], &list(&root, &[]));
    assert_eq!(revoked(&again(&paths, &without)), 1);
    // The file goes back to an earlier state.
    let later = list_params(&[8, 9], None, Duration::hours(1));
    let later = CertificateRevocationListParams { crl_number: SerialNumber::from(3), ..later };
    let paths = folder(dir.path(), &root, &[&root], &later.signed_by(&root).unwrap().pem().unwrap());
    let good = again(&paths, &learnt);
    assert_eq!((revoked(&good), good.warnings.len()), (2, learnt.warnings.len() - 1));
    let paths = folder(dir.path(), &root, &[&root], &list(&root, &[]));
    let back = again(&paths, &good);
    assert_eq!(revoked(&back), 2);
    let told =
        |warning: &String| warning.contains("was learnt from an earlier `crl`, and counts: its number is 3");
    assert!(back.warnings.iter().any(told), "{:?}", back.warnings);
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
fn of_the_file_and_what_was_learnt_the_higher_number_counts_and_none_is_an_obstacle() {
    let (root, other, dir) = (ca("root", None), ca("root", None), tempfile::tempdir().unwrap());
    // The file's list has the number 1 and revokes 8.
    let paths = folder(dir.path(), &root, &[&root], &list(&root, &[8]));
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&paths.key, private).unwrap();
    let sources = |lists: &[Learnt]| {
        let of_files = Material::load(&paths, "dc1").unwrap();
        let loaded = Material::load_beside(&paths, "dc1", lists).unwrap();
        // It makes no difference whether lists are learnt before or after the files are read.
        let beside = of_files.beside(lists);
        assert_eq!(beside.revocation.in_use, loaded.revocation.in_use);
        assert_eq!(beside.revocation.learnt, loaded.revocation.learnt);
        assert_eq!((&beside.warnings, &beside.terms), (&loaded.warnings, &loaded.terms));
        let in_use = loaded.revocation.in_use.iter().map(|list| (list.from.clone(), list.number.clone()));
        let from =
            |lists: &[Learnt]| lists.iter().map(|list| list.from.clone()).collect::<Vec<_>>().join(", ");
        let kept = [from(&loaded.revocation.learnt), from(&loaded.revocation.dormant)];
        (in_use.collect::<Vec<_>>(), kept, loaded.warnings)
    };
    let number = |number: &str| Some(number.to_owned());
    let dc9 = Some("dc9".to_owned());
    let kept = |learnt: &str, dormant: &str| [learnt.to_owned(), dormant.to_owned()];
    let file = revocation::EARLIER_FILE;
    // The file's own list is remembered too: an earlier file may take its place.
    assert_eq!(sources(&[]), (vec![(None, number("1"))], kept(file, ""), vec![]));
    let (in_use, remembered, warnings) = sources(&[learnt(&root, &[8, 9], 2)]);
    assert_eq!((in_use, remembered), (vec![(dc9.clone(), number("2"))], kept("dc9", "")));
    assert!(warnings.len() == 1 && warnings[0].contains("a later revocation list"), "{warnings:?}");
    // One as new as the file's is kept, an older one is not.
    assert_eq!(sources(&[learnt(&root, &[8], 1)]), (vec![(None, number("1"))], kept("dc9", ""), vec![]));
    assert_eq!(sources(&[learnt(&root, &[], 0)]), (vec![(None, number("1"))], kept(file, ""), vec![]));
    let several = [learnt(&root, &[8], 3), learnt(&root, &[8], 5), learnt(&root, &[8], 4)];
    let (in_use, remembered, _) = sources(&several);
    assert_eq!((in_use, remembered), (vec![(dc9, number("5"))], kept("dc9", "")));
    // One of another CA of the same name does not count, and waits for that CA.
    assert_eq!(sources(&[learnt(&other, &[9], 7)]), (vec![(None, number("1"))], kept(file, "dc9"), vec![]));
    // One that revokes this gateway's own certificate is a warning; in the file it is a fault.
    let (_, remembered, warnings) = sources(&[learnt(&root, &[77], 2)]);
    assert_eq!(remembered, kept("dc9", ""));
    assert!(
        warnings.iter().any(|words| words.contains("revoked (by a list that was learnt)")),
        "{warnings:?}"
    );
    assert!(faults(&folder(dir.path(), &root, &[&root], &list(&root, &[77]))).contains("revoked"));
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
        // The revoked CA as an intermediate, as a CA of the config, as both, and beside both.
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
    // It need not be sent if it is itself a CA of the config.
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
    // Two intermediates with the same name each have their own list.
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
        assert!(said.contains("a revocation list that no CA in") && said.contains("; take it out"), "{said}");
    }
    // An intermediate that no CA of the config has signed may not sign lists, even if it is sent
    // along.
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
        (list_about(&sub, &[77], None, new) + &list_about(&sub, &[], None, new), "it has been revoked"),
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
    assert!(said.contains("the CA CN=sub that signed it may not: its key usage lacks keyCertSign"), "{said}");
    let said = faults(&folder(dir.path(), &sub, &[&sub], ""));
    assert!(
        said.contains("the CA CN=sub may not sign certificates: its key usage lacks keyCertSign"),
        "{said}"
    );
    let leaf = |usages: &[KeyUsagePurpose]| faults(&folder_for(dir.path(), &root, &[], &[&root], "", usages));
    let said = leaf(&[KeyUsagePurpose::KeyEncipherment]);
    assert!(said.contains("the key usage lacks digitalSignature"), "{said}");
    // The far side gets the same answer, whichever way it is verified.
    let paths = folder_for(dir.path(), &root, &[], &[&root], "", &[KeyUsagePurpose::KeyEncipherment]);
    let trust = trust_of(&paths);
    let chain = pem::certificates(&paths.cert).unwrap();
    let error = judge_both(&trust, Some("dc1"), &chain[0], &[]).unwrap_err();
    let said = diagnostics::own(&error, &Certificate::read(&chain[0]).unwrap());
    assert!(said.contains("lacks digitalSignature"), "{said}");
    // Without a key usage extension, the use is not restricted.
    assert_eq!(leaf(&[]), "");
    let plain = ca_for("plain", Some(&root), &[]);
    assert_eq!(faults(&folder(dir.path(), &plain, &[&root], "")), "");
}

/// Number of signatures checked with [`Counted`].
static CHECKED: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Counted(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Counted {
    fn verify_signature(&self, key: &[u8], text: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
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
    let trust = trust_of(&folder(dir.path(), &root, &[&root], ""));
    let verifier = Verifier::new(&provider, &trust, None);
    // All have the CA's own name, so that each could have issued each other.
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
    // As many as are allowed, all with the CA's own name, so that each could have issued each.
    let hostile: Vec<Ca> = (0..MOST_INTERMEDIATES).map(|_| ca("root", None)).collect();
    let ders: Vec<CertificateDer<'static>> = hostile.iter().map(|ca| ca.der().clone()).collect();
    let facts = Certificate::read(root.der()).unwrap();
    assert!(vouched(std::iter::once(&facts), &ders, &algorithms).is_empty());
    let after: Vec<&Ca> = hostile.iter().collect();
    let digital = [KeyUsagePurpose::DigitalSignature];
    // They do not get in the way of a valid chain.
    assert_eq!(faults(&folder_for(dir.path(), &root, &after, &[&root], "", &digital)), "");
    assert!(
        faults(&folder_for(dir.path(), &hostile[0], &after, &[&root], "", &digital))
            .contains("no CA in `ca` has signed it")
    );
    let one_more: Vec<&Ca> = after.iter().copied().chain([&root]).collect();
    let said = faults(&folder_for(dir.path(), &root, &one_more, &[&root], "", &digital));
    assert!(said.contains("9 certificates come after it, and at most 8 are accepted"), "{said}");
    let long = ca(&"x".repeat(40_000), None);
    let said = faults(&folder_for(dir.path(), &root, &[&long], &[&root], "", &digital));
    assert!(said.contains("at most 32768 are accepted"), "{said}");
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

#[test]
fn files_are_the_same_at_any_time_before_they_expire() {
    let (dir, root) = (tempfile::tempdir().unwrap(), ca("root", None));
    let ends_soon = list_about(&root, &[1], None, Duration::days(30));
    let paths = folder(dir.path(), &root, &[&root], &ends_soon);
    let [now, mut later] = [(); 2].map(|()| Material::load(&paths, "dc1").unwrap());
    let is_dated = |warning: &&mut String| warning.contains("becomes stale in");
    let dated: Vec<&mut String> = later.warnings.iter_mut().filter(is_dated).collect();
    assert!(!dated.is_empty(), "its list becomes stale within a day");
    dated.into_iter().for_each(|warning| *warning = warning.replace("stale in", "stale sooner, in"));
    assert!(now.is_same(&later));
    later.lasting.push("another warning".to_owned());
    assert!(!now.is_same(&later));
}
