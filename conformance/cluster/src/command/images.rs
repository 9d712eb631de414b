//! `images` and `load-images`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Which;
use crate::config::cache;
use crate::enter;
use crate::image::{self, Image};

/// Programs that do their work without any right on the machine.
const ORDINARY_USER: &str = "65532:65532";

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

impl Images {
    pub(super) fn run(self) -> Result<u8> {
        let program = |name: &str, user: &str| -> Result<Image> {
            let mut image = Image::new(&format!("weft/{name}:{}", self.tag), user);
            image.program(&self.bin_dir.join(name), name)?;
            image.entrypoint = vec![format!("/usr/local/bin/{name}")];
            Ok(image)
        };
        // The agent and the proxy enter pods' network namespaces, which takes root.
        let mut agent = program("weft-agent", "0")?;
        agent.program(&self.bin_dir.join("weft-cni"), "weft-cni")?;
        agent.program_at("/usr/sbin/nft".as_ref(), "usr/sbin/nft")?;
        let images = [
            program("weft-controller", ORDINARY_USER)?,
            agent,
            program("weft-proxy", "0")?,
            program("weft", ORDINARY_USER)?,
        ];
        let out = self.out.unwrap_or_else(|| cache().join("images/weft.tar"));
        image::write(&images, &out)?;
        println!("{}", out.display());
        Ok(0)
    }
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
    fn import(&self, node: &str, archive: &PathBuf) -> Result<Child> {
        let file =
            std::fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
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
