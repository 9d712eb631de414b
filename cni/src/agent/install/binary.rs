//! The plugin's binary in the node's folder of CNI plugins.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::conflist::TYPE;
use crate::files;

/// A binary and its copy.
#[derive(Debug)]
pub(super) struct Binary {
    source: PathBuf,
    folder: PathBuf,
    /// Source and copy as they were when found equal: while neither changes they need not be read.
    equal: Option<(Stamp, Stamp)>,
}

/// Changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    mode: u32,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            length: metadata.len(),
            mode: metadata.mode(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Binary {
    pub(super) fn new(source: &Path, folder: &Path) -> Self {
        Self { source: source.to_owned(), folder: folder.to_owned(), equal: None }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn copy(&self) -> PathBuf {
        self.folder.join(TYPE)
    }

    /// Copies the binary if the copy is not equal. A runtime that is just starting the old one goes on with it.
    pub(super) fn install(&mut self) -> io::Result<()> {
        let copy = self.copy();
        let told = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"))
        };
        let source = Stamp::of(&self.source).map_err(told(&self.source))?;
        if let (Some((known_source, known_copy)), Ok(found)) = (&self.equal, Stamp::of(&copy))
            && (*known_source, *known_copy) == (source, found)
        {
            return Ok(());
        }
        let bytes = fs::read(&self.source).map_err(told(&self.source))?;
        let executable = |stamp: Stamp| stamp.mode & 0o777 == 0o755;
        let same =
            Stamp::of(&copy).is_ok_and(executable) && fs::read(&copy).is_ok_and(|found| found == bytes);
        if !same {
            files::replace(&copy, &bytes, 0o755).map_err(told(&copy))?;
            tracing::info!(path = %copy.display(), "installed the CNI plugin");
        }
        self.equal = Some((source, Stamp::of(&copy).map_err(told(&copy))?));
        Ok(())
    }

    /// Removes the copy.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.equal = None;
        match fs::remove_file(self.copy()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
