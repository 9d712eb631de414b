//! The authority on disk and what it signs, checked by this code's own readers and by `openssl`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use weft_ca::{Authority, NewRoot, RootError, Settings, SignError};
use weft_model::{Identity, TrustDomain};
use weft_tls::testing::{TestCa, uri};
use weft_tls::{KeyRequest, Leaf, WorkloadTls};

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain("cluster.local".into())
}

fn cart() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
    directory
}

fn open(directory: &Path) -> Result<Authority, RootError> {
    Authority::open(directory, Settings::new(domain()), SystemTime::now())
}

fn leaf(authority: &Authority) -> Leaf {
    let request = KeyRequest::new(&cart()).unwrap();
    let chain = authority.sign(request.csr_der(), &cart(), SystemTime::now()).unwrap();
    request.into_leaf(chain).unwrap()
}

/// A request of any shape.
fn csr(shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_with(&KeyPair::generate().unwrap(), shape)
}

fn csr_with(key: &KeyPair, shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&cart().to_string())];
    shape(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn refusal(authority: &Authority, csr: &[u8]) -> String {
    match authority.sign(csr, &cart(), SystemTime::now()) {
        Err(error @ SignError::Request(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn openssl(directory: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    let output = output.expect("install the package `openssl`");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_restart_keeps_the_root_and_its_key_is_private() {
    let directory = directory();
    let first = open(directory.path()).unwrap();
    let second = open(directory.path()).unwrap();
    assert_eq!(first.root_pem(), second.root_pem());
    let bundle = second.trust_bundle().borrow().clone();
    WorkloadTls::check_at(&leaf(&first), &bundle, SystemTime::now()).unwrap();
    let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("root.pem"), mode("root.crt")), (0o600, 0o644));
    assert_eq!(fs::read_to_string(directory.path().join("root.crt")).unwrap(), first.root_pem());
    let files = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(files, 2, "temporary files are left behind");
}

#[test]
fn controllers_that_start_together_agree_on_one_root() {
    let directory = directory();
    let roots: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open(directory.path()))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap().map(|authority| authority.root_pem()))
            .collect()
    });
    let first = roots[0].as_ref().unwrap();
    assert!(roots.iter().all(|root| root.as_ref().unwrap() == first));
}

#[test]
fn a_directory_that_does_not_exist_is_made_for_its_owner_alone() {
    let directory = directory();
    let deeper = directory.path().join("a/ca");
    open(&deeper).unwrap();
    assert_eq!(fs::metadata(&deeper).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_key_that_others_may_read_or_replace_is_not_used() {
    let directory = directory();
    open(directory.path()).unwrap();
    let key = directory.path().join("root.pem");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, RootError::Permissions { .. }), "{error}");
    assert!(error.to_string().contains("chmod 0600"), "{error}");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o770)).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
}

#[test]
fn a_damaged_root_is_reported_and_never_replaced() {
    let directory = directory();
    open(directory.path()).unwrap();
    let path = directory.path().join("root.pem");
    let good = fs::read_to_string(&path).unwrap();
    let other = TempDir::new_in(directory.path()).unwrap();
    fs::set_permissions(other.path(), Permissions::from_mode(0o700)).unwrap();
    open(other.path()).unwrap();
    let other = fs::read_to_string(other.path().join("root.pem")).unwrap();
    let (key, certificate) = good.split_at(good.find("-----BEGIN CERTIFICATE").unwrap());
    let (other_key, _) = other.split_at(other.find("-----BEGIN CERTIFICATE").unwrap());
    for damaged in [
        String::new(),
        "garbage".into(),
        key.into(),
        certificate.into(),
        format!("{other_key}{certificate}"),
        good[..good.len() / 2].into(),
        good.replace("-----END PRIVATE KEY-----", ""),
    ] {
        fs::write(&path, &damaged).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, RootError::Damaged { .. }), "{damaged:?}: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }
    fs::write(&path, good).unwrap();
    open(directory.path()).unwrap();
}

#[test]
fn a_root_of_another_trust_domain_or_of_the_past_is_not_used() {
    let directory = directory();
    open(directory.path()).unwrap();
    let other = Settings::new(TrustDomain("other".into()));
    assert!(matches!(
        Authority::open(directory.path(), other, SystemTime::now()),
        Err(RootError::TrustDomain { .. })
    ));
    let future = SystemTime::now() + HOUR * 24 * 3651;
    let error = Authority::open(directory.path(), Settings::new(domain()), future).unwrap_err();
    assert!(matches!(error, RootError::Expired { .. }), "{error}");
}

#[test]
fn a_full_or_read_only_disk_is_an_error_with_the_path() {
    let error = open(Path::new("/proc/weft-ca")).unwrap_err();
    assert!(error.to_string().contains("/proc/weft-ca"), "{error}");
}

#[test]
fn a_leaf_lives_for_a_day_from_a_minute_ago_with_its_own_serial() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let (one, two) = (leaf(&authority), leaf(&authority));
    assert_ne!(one.serial, two.serial);
    assert_eq!(one.serial.split(':').count(), 16, "128 bits");
    let lifetime = one.not_after.duration_since(one.not_before).unwrap();
    assert_eq!(lifetime, HOUR * 24 + Duration::from_secs(60));
    assert!(one.is_valid_at(SystemTime::now()));
}

#[test]
fn no_certificate_outlives_the_root() {
    let directory = directory();
    let settings = Settings { root_lifetime: HOUR / 2, ..Settings::new(domain()) };
    let now = SystemTime::now();
    let authority = Authority::open(directory.path(), settings, now).unwrap();
    assert_eq!(leaf(&authority).not_after, authority.root_not_after());
    assert_eq!(authority.serving_certificate("a.svc", now).unwrap().not_after, authority.root_not_after());
    let request = KeyRequest::new(&cart()).unwrap();
    let late = authority.sign(request.csr_der(), &cart(), now + HOUR);
    assert!(matches!(late, Err(SignError::RootExpired)), "{late:?}");
}

#[test]
fn a_root_near_its_end_is_told_of() {
    let directory = directory();
    let now = SystemTime::now();
    let authority = Authority::open(directory.path(), Settings::new(domain()), now).unwrap();
    assert_eq!(authority.root_ends_soon(now), None);
    let late = authority.root_not_after() - HOUR;
    assert_eq!(authority.root_ends_soon(late), Some(HOUR));
    assert_eq!(authority.root_ends_soon(late + HOUR * 2), Some(Duration::ZERO));
}

#[test]
fn a_restart_writes_nothing_that_is_there_already() {
    let directory = directory();
    open(directory.path()).unwrap();
    let inode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().ino();
    let before = (inode("root.pem"), inode("root.crt"));
    open(directory.path()).unwrap();
    assert_eq!((inode("root.pem"), inode("root.crt")), before);
    fs::write(directory.path().join("root.crt"), "something else").unwrap();
    let authority = open(directory.path()).unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("root.crt")).unwrap(), authority.root_pem());
}

#[test]
fn of_a_request_only_the_key_counts() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let greedy = csr(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    });
    let chain = authority.sign(&greedy, &cart(), SystemTime::now()).unwrap();
    fs::write(directory.path().join("leaf.der"), &chain[0]).unwrap();
    let text = openssl(directory.path(), &["x509", "-inform", "DER", "-in", "leaf.der", "-noout", "-text"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Subject: Subject Public Key Info",
        "NIST CURVE: P-256",
        "X509v3 Subject Alternative Name: critical URI:spiffe://cluster.local/ns/shop/sa/cart X509v3",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    for absent in ["admin", "1.2.3.4", "CA:TRUE", "Certificate Sign"] {
        assert!(!text.contains(absent), "{absent:?} is in {text}");
    }
}

#[test]
fn openssl_finds_the_chain_correct_to_the_letter() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let leaf = leaf(&authority);
    fs::write(directory.path().join("leaf.der"), leaf.chain_der().next().unwrap()).unwrap();
    for purpose in ["sslserver", "sslclient"] {
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.crt", "leaf.der"];
        openssl(directory.path(), &arguments);
    }
    let serving =
        authority.serving_certificate("weft-controller.weft-system.svc", SystemTime::now()).unwrap();
    fs::write(directory.path().join("serving.der"), &serving.chain_der[0]).unwrap();
    let name = "weft-controller.weft-system.svc";
    let arguments =
        ["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name, "-CAfile", "root.crt"];
    openssl(directory.path(), &[arguments.as_slice(), &["serving.der"]].concat());
}

#[test]
fn a_request_made_by_openssl_is_signed() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let name = format!("subjectAltName=critical,URI:{}", cart());
    let arguments =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/"];
    let arguments =
        [&arguments, ["-addext", &name, "-keyout", "k.pem", "-outform", "DER", "-out", "c.der"].as_slice()]
            .concat();
    openssl(directory.path(), &arguments);
    let csr = fs::read(directory.path().join("c.der")).unwrap();
    assert_eq!(authority.sign(&csr, &cart(), SystemTime::now()).unwrap().len(), 1);
}

#[test]
fn requests_for_other_names_or_none_are_refused() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let own = uri(&cart().to_string());
    let dns = SanType::DnsName("weft-controller.weft-system.svc".try_into().unwrap());
    for names in [
        vec![],
        vec![uri("spiffe://cluster.local/ns/shop/sa/admin")],
        vec![own.clone(), uri("spiffe://cluster.local/ns/shop/sa/admin")],
        vec![own.clone(), dns.clone()],
        vec![own.clone(), own],
        vec![dns],
    ] {
        let why = refusal(&authority, &csr(|params| params.subject_alt_names = names.clone()));
        assert!(why.contains("must name spiffe://cluster.local/ns/shop/sa/cart"), "{names:?}: {why}");
    }
}

#[test]
fn requests_with_another_kind_of_key_are_refused() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert!(refusal(&authority, &csr_with(&key, |_| {})).contains("P-256"), "{algorithm:?}");
    }
}

#[test]
fn requests_not_signed_by_their_key_and_bytes_that_are_none_are_refused() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let good = csr(|_| {});
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(refusal(&authority, &forged).contains("signature"));
    let mut longer = good.clone();
    longer.push(0);
    for bytes in [b"".as_slice(), b"garbage", &good[..good.len() - 1], &longer] {
        assert!(refusal(&authority, bytes).contains("PKCS #10"), "{bytes:?}");
    }
}

#[test]
fn an_identity_of_another_trust_domain_is_refused() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let foreign: Identity = "spiffe://other/ns/shop/sa/cart".parse().unwrap();
    let request = KeyRequest::new(&foreign).unwrap();
    let refused = authority.sign(request.csr_der(), &foreign, SystemTime::now());
    assert!(matches!(refused, Err(SignError::TrustDomain { .. })), "{refused:?}");
}

#[test]
fn another_root_is_trusted_beside_the_own_one_and_watchers_hear_of_it_once() {
    let directory = directory();
    let authority = open(directory.path()).unwrap();
    let mut watch = authority.trust_bundle();
    watch.borrow_and_update();
    let other = TestCa::new("cluster.local");
    let root = other.bundle().roots().next().unwrap().to_vec();
    assert!(authority.trust_also(vec![b"garbage".to_vec()]).is_err());
    assert!(!watch.has_changed().unwrap());
    authority.trust_also(vec![root.clone()]).unwrap();
    assert!(watch.has_changed().unwrap());
    let bundle = watch.borrow_and_update().clone();
    for leaf in [leaf(&authority), other.leaf(&cart())] {
        WorkloadTls::check_at(&leaf, &bundle, SystemTime::now()).unwrap();
    }
    authority.trust_also(vec![root]).unwrap();
    assert!(!watch.has_changed().unwrap());
}

#[test]
fn a_root_kept_elsewhere_signs_as_one_on_disk() {
    let now = SystemTime::now();
    let root = NewRoot::make(&domain(), HOUR * 24, now).unwrap();
    let pem = format!("{}{}", root.certificate_pem, root.key_pem);
    let authority = Authority::from_pem(pem.as_bytes(), "Secret a/b", Settings::new(domain()), now).unwrap();
    assert_eq!(authority.root_pem(), root.certificate_pem.replace("\r\n", "\n"));
    assert!(leaf(&authority).is_valid_at(now));
    let error = Authority::from_pem(b"odd", "Secret a/b", Settings::new(domain()), now).unwrap_err();
    assert!(error.to_string().starts_with("Secret a/b is damaged"), "{error}");
    assert!(!format!("{root:?}").contains("PRIVATE"), "{root:?}");
}
