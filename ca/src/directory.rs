//! The root on disk: one file, readable by its owner only, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use weft_model::TrustDomain;

use crate::root::{NewRoot, Root, RootError, certificate_pem, read};

/// Key and certificate, PEM, mode 0600.
const SECRET: &str = "root.pem";
/// The certificate alone, for those who have to trust it.
const PUBLIC: &str = "root.crt";

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
    let NewRoot { key_pem, certificate_pem } = NewRoot::make(trust_domain, lifetime, now)?;
    let text = format!("{key_pem}{certificate_pem}");
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
    read(&text, &path.display().to_string(), trust_domain, now)
}
