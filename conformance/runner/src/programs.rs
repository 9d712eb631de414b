//! The Go programs that a run needs, and images of those that the suite's pods run. All are built once per content.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use weft_cluster::go::{self, Module};
use weft_cluster::image::{self, Image};

use crate::listing::Listing;

/// The official suite as one test program.
const SUITE: Module = Module::plain(
    "conformance/suite",
    "conformance-suite",
    "the official conformance suite",
    "2 minutes",
    &[("..test", "conformance.test")],
);

/// What the suite's pods run.
const ECHO: Module = Module::plain(
    "conformance/echo",
    "conformance-echo",
    "the programs in the suite's pods",
    "1 minute",
    &[
        ("istio.io/istio/pkg/test/echo/cmd/client", "client"),
        ("istio.io/istio/pkg/test/echo/cmd/server", "server"),
        ("sigs.k8s.io/gateway-api-conformance-images/echo-basic", "echo-basic"),
    ],
);

/// The suite's test program, and what it says that it holds.
///
/// # Errors
/// If it cannot be built, or does not tell.
pub fn suite() -> Result<(PathBuf, Listing)> {
    let folder = go::build(&SUITE)?;
    let (program, listing) = (folder.join("conformance.test"), folder.join("list.json"));
    if !listing.exists() {
        let new = folder.join("list.new");
        let mut command = Command::new(&program);
        let out = command
            .arg("-test.run=^TestList$")
            .env("SUITE_LIST", &new)
            .output()
            .context("cannot run the suite")?;
        ensure!(
            out.status.success(),
            "the suite does not list its tests: {}",
            String::from_utf8_lossy(&out.stdout)
        );
        std::fs::rename(new, &listing)?;
    }
    let listing = Listing::read(&listing)?;
    Ok((program, listing))
}

/// An archive with the images that the suite's manifests name.
///
/// # Errors
/// If a program cannot be built, or the manifests name an image that nobody here knows how to make.
pub fn echo_images(workspace: &Path, listing: &Listing) -> Result<PathBuf> {
    let folder = go::build(&ECHO)?;
    let archive = folder.join("images.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let mut images = Vec::new();
    for name in &listing.images {
        let base = name.rsplit('/').next().unwrap_or(name);
        images.push(match base.split(':').next() {
            Some("echo-basic") => basic(name, &folder)?,
            Some("echo-advanced") => advanced(name, &folder, &module_folder(workspace, "istio.io/istio")?)?,
            _ => bail!("the suite's pods run {name}, and nothing here says how to make that image"),
        });
    }
    image::write(&images, &archive)?;
    Ok(archive)
}

/// One build carries every tag: what the manifests ask of the newer one, the older does too.
fn basic(name: &str, programs: &Path) -> Result<Image> {
    let mut image = Image::new(name, "65532");
    image.program(&programs.join("echo-basic"), "echo-basic")?;
    image.entrypoint = vec!["/usr/local/bin/echo-basic".to_owned()];
    Ok(image)
}

fn advanced(name: &str, programs: &Path, source: &Path) -> Result<Image> {
    let mut image = Image::new(name, "1338");
    for program in ["client", "server"] {
        image.program(&programs.join(program), program)?;
    }
    for (path, file) in [("cert.crt", "cert-chain.pem"), ("cert.key", "key.pem")] {
        image.files.insert(path.to_owned(), source.join("tests/testdata/certs/dns").join(file));
    }
    image.entrypoint = vec!["/usr/local/bin/server".to_owned()];
    Ok(image)
}

/// Where Go keeps the source of a module that the echo programs are built from.
fn module_folder(workspace: &Path, module: &str) -> Result<PathBuf> {
    let mut go = go::go(&workspace.join(ECHO.folder))?;
    let out = go.args(["list", "-m", "-f", "{{.Dir}}", module]).output().context("cannot run go")?;
    let folder = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    ensure!(
        out.status.success() && !folder.is_empty(),
        "go list {module}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(folder.into())
}
