//! Files that others read while they are written: replaced whole, by rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces a file with these bytes and permissions: a reader sees the old one or the new one, also after a crash.
///
/// # Errors
/// When the folder cannot be written to; the old file is then as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_if(path, bytes, mode, || Ok(true)).map(drop)
}

/// As [`replace`], if `still` holds when the new file is ready to be moved into place. Returns whether it was moved.
///
/// # Errors
/// As there.
pub(crate) fn replace_if(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    still: impl FnOnce() -> io::Result<bool>,
) -> io::Result<bool> {
    let temporary = beside(path);
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| still())
        .and_then(|still| if still { fs::rename(&temporary, path).map(|()| true) } else { Ok(false) });
    if !matches!(written, Ok(true)) {
        // Best effort: what remains has a name that nobody looks for.
        let _ = fs::remove_file(&temporary);
    }
    if let (Ok(true), Some(parent)) = (&written, path.parent()) {
        File::open(parent).and_then(|parent| parent.sync_all())?;
    }
    written
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    // The process's umask may have taken bits away.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.sync_all()
}

/// A name in the same folder that no container runtime takes for a configuration.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:016x}.weft-tmp", rand::random::<u64>()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!replace_if(&path, b"newer", 0o600, || Ok(false)).unwrap());
        assert!(replace_if(&path, b"newer", 0o600, || Err(io::Error::other("no"))).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
