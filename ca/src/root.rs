//! The root certificate and its key on disk: one file, readable by its owner only, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use weft_model::TrustDomain;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::authority::random_serial;

/// Key and certificate, PEM, mode 0600.
const SECRET: &str = "root.pem";
/// The certificate alone, for those who have to trust it.
const PUBLIC: &str = "root.crt";

/// Why there is no root to sign with.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file system refused.
    #[error("cannot {doing} {path}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Others could read the key or replace it.
    #[error(
        "{path} has mode {mode:04o}: the authority's key must belong to its user alone; `chmod {wanted:04o} {path}`, and make a new root if somebody else may have read it"
    )]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Not what this program writes.
    #[error(
        "{path} is damaged: {why}; restore it from a copy, or move it away to begin with a new root (every proxy must then be given the new {PUBLIC})"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Of another mesh.
    #[error(
        "{path} is the root of {found}, but the trust domain is set to {wanted}; use another directory or the same trust domain"
    )]
    TrustDomain {
        /// The file.
        path: PathBuf,
        /// The root's trust domain.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// Too old.
    #[error(
        "the root in {path} has expired; move it away to begin with a new root and give every proxy the new {PUBLIC}"
    )]
    Expired {
        /// The file.
        path: PathBuf,
    },
    /// The library refused to make a key or a certificate.
    #[error("cannot make a root: {0}")]
    Make(#[from] rcgen::Error),
}

/// A root that can sign.
pub(crate) struct Root {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate_der: Vec<u8>,
    pub(crate) not_after: SystemTime,
}

/// Loads the root from a directory, or makes one there.
pub(crate) fn open(
    directory: &Path,
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Root, RootError> {
    prepare(directory)?;
    let path = directory.join(SECRET);
    if !path.exists() {
        create(directory, &path, trust_domain, lifetime, now)?;
    }
    let root = load(&path, trust_domain, now)?;
    let public = directory.join(PUBLIC);
    let text = certificate_pem(&root.certificate_der);
    // Not written when it is there already: the directory may be mounted read-only.
    if fs::read(&public).ok().as_deref() != Some(text.as_bytes()) {
        write_whole(&public, 0o644, text.as_bytes(), true)?;
    }
    Ok(root)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |error| RootError::Io { doing, path, error }
}

/// The directory exists, and nobody else may put another key into it.
fn prepare(directory: &Path) -> Result<(), RootError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io_error("create", directory))?;
    let mode = fs::metadata(directory).map_err(io_error("read", directory))?.mode() & 0o7777;
    // Sticky world-writable folders (/tmp) would still let others put a file there first.
    if mode & 0o022 != 0 {
        return Err(RootError::Permissions { path: directory.to_owned(), mode, wanted: 0o700 });
    }
    Ok(())
}

fn create(
    directory: &Path,
    path: &Path,
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: SystemTime,
) -> Result<(), RootError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Weft root of {trust_domain}"));
    // SPIFFE X509-SVID §3.2: a signing certificate names its trust domain.
    params.subject_alt_names = vec![SanType::URI(spiffe(trust_domain).as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial());
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + lifetime).into();
    let certificate = params.self_signed(&key)?;
    let text = format!("{}{}", key.serialize_pem(), certificate.pem());
    match write_whole(path, 0o600, text.as_bytes(), false) {
        // Another controller on the same directory was faster: its root is the one.
        Err(RootError::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }?;
    tracing::info!(directory = %directory.display(), %trust_domain, "made a new root certificate");
    Ok(())
}

/// Writes a file beside its place, and moves it there when it is on disk. Without `replace` an existing file stays,
/// and the error is [`io::ErrorKind::AlreadyExists`].
fn write_whole(path: &Path, mode: u32, bytes: &[u8], replace: bool) -> Result<(), RootError> {
    let mut temporary = path.as_os_str().to_owned();
    // Process ids repeat between containers that share a volume.
    temporary.push(format!(".{:016x}", rand::random::<u64>()));
    let temporary = PathBuf::from(temporary);
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).and_then(
        |mut file: File| {
            file.write_all(bytes)?;
            file.sync_all()
        },
    );
    let placed = written
        .and_then(|()| if replace { fs::rename(&temporary, path) } else { fs::hard_link(&temporary, path) });
    let _ = fs::remove_file(&temporary);
    placed.map_err(io_error("write", path))?;
    match path.parent() {
        Some(parent) => {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_error("write", parent))
        }
        None => Ok(()),
    }
}

fn load(path: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Root, RootError> {
    let mode = fs::metadata(path).map_err(io_error("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(RootError::Permissions { path: path.to_owned(), mode, wanted: 0o600 });
    }
    let text = fs::read(path).map_err(io_error("read", path))?;
    let damaged = |why: String| RootError::Damaged { path: path.to_owned(), why };
    let (key_der, certificate_der) = blocks(&text).map_err(damaged)?;
    let key = KeyPair::try_from(key_der).map_err(|error| damaged(format!("its key: {error}")))?;
    let (found, not_after) = check_certificate(&certificate_der, &key).map_err(damaged)?;
    let wanted = spiffe(trust_domain);
    if found != wanted {
        return Err(RootError::TrustDomain { path: path.to_owned(), found, wanted });
    }
    if not_after <= now {
        return Err(RootError::Expired { path: path.to_owned() });
    }
    let issuer = Issuer::from_ca_cert_der(&certificate_der.as_slice().into(), key)?;
    Ok(Root { issuer, certificate_der, not_after })
}

/// The key (PKCS #8) and the certificate in a PEM text.
fn blocks(text: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (mut key, mut certificate) = (None, None);
    for block in Pem::iter_from_buffer(text) {
        let block = block.map_err(|error| error.to_string())?;
        match block.label.as_str() {
            "PRIVATE KEY" => key = Some(block.contents),
            "CERTIFICATE" => certificate = Some(block.contents),
            other => return Err(format!("unexpected block {other}")),
        }
    }
    let key = key.ok_or("it holds no PRIVATE KEY block")?;
    Ok((key, certificate.ok_or("it holds no CERTIFICATE block")?))
}

/// Checks that a certificate is a root of this key; its trust domain as a URI, and its end.
fn check_certificate(der: &[u8], key: &KeyPair) -> Result<(String, SystemTime), String> {
    use rcgen::PublicKeyData;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("its certificate is not of its key".into());
    }
    certificate.verify_signature(None).map_err(|error| format!("its certificate's signature: {error}"))?;
    if !certificate.is_ca() {
        return Err("its certificate is not an authority's".into());
    }
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let uri = uri.ok_or("its certificate names no trust domain")?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Ok((uri, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn spiffe(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

/// A certificate as PEM (RFC 7468).
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
