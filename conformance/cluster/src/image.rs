//! Container images from files, without a registry or a daemon: an archive as `docker save` writes it, which
//! `ctr images import` takes. The same files make the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The first container of every pod.
pub const PAUSE: &str = "weft-cluster/pause:1";

/// One image.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Names with tags; one without a host is completed by whoever reads the archive.
    pub names: Vec<String>,
    /// What runs.
    pub entrypoint: Vec<String>,
    /// `UID` or `UID:GID`.
    pub user: String,
    /// Path in the image (without a leading slash) and the file that becomes it.
    pub files: BTreeMap<String, PathBuf>,
    /// Small files, by content.
    pub texts: BTreeMap<String, String>,
}

impl Image {
    /// An image with what every program expects: user names, a name service order, `/tmp`.
    #[must_use]
    pub fn new(name: &str, user: &str) -> Self {
        let passwd = "root:x:0:0:root:/root:/sbin/nologin\n\
                      nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n\
                      nobody:x:65534:65534:nobody:/:/sbin/nologin\n";
        let group = "root:x:0:\nnonroot:x:65532:\nnogroup:x:65534:\n";
        let texts =
            [("etc/passwd", passwd), ("etc/group", group), ("etc/nsswitch.conf", "hosts: files dns\n")];
        Self {
            names: vec![name.to_owned()],
            user: user.to_owned(),
            texts: texts.map(|(path, text)| (path.to_owned(), text.to_owned())).into(),
            ..Self::default()
        }
    }

    /// Adds a program at `/usr/local/bin/NAME` with the shared libraries that it needs.
    ///
    /// # Errors
    /// When `ldd` cannot tell them.
    pub fn program(&mut self, file: &Path, name: &str) -> Result<()> {
        self.program_at(file, &format!("usr/local/bin/{name}"))
    }

    /// Adds a program at a path of its own, with the shared libraries that it needs.
    ///
    /// # Errors
    /// When `ldd` cannot tell them.
    pub fn program_at(&mut self, file: &Path, path: &str) -> Result<()> {
        if !file.is_file() {
            bail!("{} is not there: build it first", file.display());
        }
        for library in libraries(file)? {
            self.files.insert(library.trim_start_matches('/').to_owned(), library.into());
        }
        self.files.insert(path.to_owned(), file.to_owned());
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        let mut folders = vec!["tmp".to_owned()];
        for path in self.files.keys().chain(self.texts.keys()) {
            let above = Path::new(path).ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
            folders.extend(above.map(|a| a.to_string_lossy().into_owned()));
        }
        folders.sort();
        folders.dedup();
        for folder in folders {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            tar.append_data(&mut header(EntryType::Directory, mode, 0), format!("{folder}/"), io::empty())?;
        }
        for (path, text) in &self.texts {
            tar.append_data(&mut header(EntryType::Regular, 0o644, text.len()), path, text.as_bytes())?;
        }
        for (path, file) in &self.files {
            let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            tar.append_data(&mut header(EntryType::Regular, 0o755, content.len()), path, content.as_slice())?;
        }
        Ok(tar.into_inner()?)
    }

    fn config(&self, layer: &str) -> Vec<u8> {
        let value = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": self.user,
                "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created": "1970-01-01T00:00:00Z"}],
        });
        value.to_string().into_bytes()
    }
}

/// Writes images into one archive.
///
/// # Errors
/// When a file cannot be read or the archive cannot be written.
pub fn write(images: &[Image], archive: &Path) -> Result<()> {
    if let Some(parent) = archive.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = archive.with_extension("new");
    let mut tar = Builder::new(io::BufWriter::new(
        File::create(&new).with_context(|| format!("cannot write {}", new.display()))?,
    ));
    let mut manifest = Vec::new();
    let mut written = std::collections::BTreeSet::new();
    let mut put = |tar: &mut Builder<_>, name: String, content: &[u8]| -> Result<()> {
        if written.insert(name.clone()) {
            tar.append_data(&mut header(EntryType::Regular, 0o644, content.len()), &name, content)?;
        }
        Ok(())
    };
    for image in images {
        let layer = image.layer()?;
        let digest = sha256(&layer);
        let config = image.config(&digest);
        let (layer_name, config_name) = (format!("{digest}.tar"), format!("{}.json", sha256(&config)));
        put(&mut tar, layer_name.clone(), &layer)?;
        put(&mut tar, config_name.clone(), &config)?;
        manifest.push(json!({"Config": config_name, "RepoTags": image.names, "Layers": [layer_name]}));
    }
    put(&mut tar, "manifest.json".to_owned(), json!(manifest).to_string().as_bytes())?;
    tar.into_inner()?.flush()?;
    fs::rename(&new, archive)?;
    Ok(())
}

/// The same for every build: no times, no owners.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

/// What `ldd` names, the loader included; nothing for a static program.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let out = Command::new("ldd").arg(program).output().context("cannot run ldd: install libc-bin")?;
    let (told, complaint) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if complaint.contains("not a dynamic executable") || told.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !out.status.success() {
        bail!("ldd {}: {}", program.display(), complaint.trim());
    }
    if told.contains("not found") {
        bail!("{} lacks libraries on this machine:\n{told}", program.display());
    }
    let paths = told.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let mut image = Image::new("a/b:1", "65532");
        image.program(Path::new("/bin/sh"), "sh").unwrap();
        let [one, two] = ["one.tar", "two.tar"].map(|name| folder.path().join(name));
        write(&[image.clone()], &one).unwrap();
        write(&[image.clone()], &two).unwrap();
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let names: Vec<&String> = image.files.keys().collect();
        assert!(names.iter().any(|n| n.contains("libc.so")), "{names:?}");
        assert!(names.iter().any(|n| n.contains("ld-linux")), "{names:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Image::default().program(Path::new("/nowhere/x"), "x").unwrap_err().to_string();
        assert_eq!(error, "/nowhere/x is not there: build it first");
    }
}
