//! `images` and `load-images`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{fs, io};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Which;
use crate::config::cache;
use crate::enter;
use crate::image::{self, Image};

/// Programs that do their work without any right on the machine.
const ORDINARY_USER: &str = "65532:65532";

/// The public roots that the package ca-certificates brings, without what this machine's owner has added to them.
const PUBLIC_ROOTS: &str = "/usr/share/ca-certificates/mozilla";

/// Arguments of `images`.
#[derive(Debug, Args)]
pub struct Images {
    /// Folder with the built programs.
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,
    /// Tag of the images.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Where the archive goes [default: ~/.cache/weft/images/weft.tar].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Arguments of `load-images`.
#[derive(Debug, Args)]
pub struct LoadImages {
    #[command(flatten)]
    which: Which,
    /// Archives as `docker save` writes them.
    #[arg(required = true, value_name = "ARCHIVE")]
    archives: Vec<PathBuf>,
}

/// Weft's images: what runs in each, as whom, and what else is in `/usr/local/bin`. `deploy/images/Dockerfile` says the same.
const WEFT: [(&str, &str, &[&str]); 4] = [
    ("weft-controller", ORDINARY_USER, &[]),
    // Both enter pods' network namespaces, which takes root.
    ("weft-agent", "0", &["weft-cni"]),
    ("weft-proxy", "0", &[]),
    ("weft", ORDINARY_USER, &[]),
];

impl Images {
    pub(super) fn run(self) -> Result<u8> {
        let images = WEFT.map(|(name, user, others)| self.image(name, user, others));
        let images = images.into_iter().collect::<Result<Vec<_>>>()?;
        let out = self.out.unwrap_or_else(|| cache().join("images/weft.tar"));
        image::write(&images, &out)?;
        println!("{}", out.display());
        Ok(0)
    }

    fn image(&self, name: &str, user: &str, others: &[&str]) -> Result<Image> {
        let mut image = Image::new(&format!("weft/{name}:{}", self.tag), user);
        for program in [&[name], others].concat() {
            image.program(&self.bin_dir.join(program), program)?;
        }
        if name == "weft-agent" {
            image.program_at(Path::new("/usr/sbin/nft"), "usr/sbin/nft")?;
            image.program_at(Path::new("/usr/sbin/ip"), "usr/sbin/ip")?;
        }
        if name == "weft-proxy" {
            image.texts.insert("etc/ssl/certs/ca-certificates.crt".to_owned(), public_roots()?);
        }
        image.entrypoint = vec![format!("/usr/local/bin/{name}")];
        Ok(image)
    }
}

fn public_roots() -> Result<String> {
    let missing = || format!("cannot read {PUBLIC_ROOTS}: install the Debian package ca-certificates");
    let listed: io::Result<Vec<_>> = fs::read_dir(PUBLIC_ROOTS).with_context(missing)?.collect();
    let mut files: Vec<PathBuf> = listed?.iter().map(fs::DirEntry::path).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).with_context(missing)).collect()
}

impl LoadImages {
    pub(super) fn run(self) -> Result<u8> {
        let (config, _) = enter::running(&self.which.name)?;
        for archive in &self.archives {
            let mut imports = Vec::new();
            for node in config.all_nodes() {
                imports.push((node.name(), self.import(&node.name(), archive)?));
            }
            for (node, import) in imports {
                let out = import.wait_with_output()?;
                if !out.status.success() {
                    let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
                    bail!("{node} does not take {}: {why}", archive.display());
                }
                for line in
                    String::from_utf8_lossy(&out.stdout).lines().filter(|l| l.starts_with("unpacking"))
                {
                    println!("{node}: {line}");
                }
            }
        }
        Ok(0)
    }

    /// Starts containerd's own import on a node; the archive is its standard input.
    fn import(&self, node: &str, archive: &Path) -> Result<Child> {
        let file = fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        Command::new(std::env::current_exe()?)
            .args(["exec", "--name", &self.which.name, "--node", node, "--"])
            .args(["ctr", "--namespace=k8s.io", "images", "import", "-"])
            .stdin(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the import")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_makes_the_same_images() {
        let file = crate::go::workspace().join("deploy/images/Dockerfile");
        let text = fs::read_to_string(file).unwrap();
        let stages: Vec<&str> = text.split("\nFROM ").skip(2).collect();
        assert_eq!(stages.len(), WEFT.len());
        for (stage, (name, user, others)) in stages.into_iter().zip(WEFT) {
            assert!(stage.lines().next().unwrap().ends_with(&format!(" AS {name}")), "{stage}");
            assert!(stage.contains(&format!("\nUSER {user}\n")), "{name}: {stage}");
            assert!(stage.contains(&format!("\nENTRYPOINT [\"/usr/local/bin/{name}\"]")), "{name}: {stage}");
            let copied = stage.lines().filter(|l| l.starts_with("COPY --from=build"));
            let expected: Vec<String> = [&[name], others]
                .concat()
                .iter()
                .map(|p| format!("COPY --from=build /out/{p} /usr/local/bin/{p}"))
                .collect();
            assert_eq!(copied.collect::<Vec<_>>(), expected);
            assert_eq!(stage.contains(" nftables iproute2 "), name == "weft-agent");
            assert_eq!(stage.contains(" ca-certificates "), name == "weft-proxy");
        }
    }
}
