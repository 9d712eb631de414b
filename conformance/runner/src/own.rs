//! `cargo xtask conformance --weft`: our own cases on the same cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use weft_cluster::image::{self, Image};

use crate::Common;
use crate::install::Chart;

/// The image that the cases' pods run.
const TOOLS: &str = "weft/conformance-tools:1";
/// Programs that nobody here wrote, as they lie on a Debian machine.
const PROGRAMS: [&str; 29] = [
    "/usr/bin/bash",
    "/usr/bin/dash",
    "/usr/bin/sleep",
    "/usr/bin/cat",
    "/usr/bin/mkdir",
    "/usr/bin/wc",
    "/usr/bin/head",
    "/usr/bin/seq",
    "/usr/bin/grep",
    "/usr/bin/rm",
    "/usr/bin/tail",
    "/usr/bin/tr",
    "/usr/bin/cut",
    "/usr/bin/cmp",
    "/usr/bin/timeout",
    "/usr/bin/ps",
    "/usr/bin/ssh-keygen",
    "/usr/bin/ssh-keyscan",
    "/usr/sbin/sshd",
    "/usr/sbin/nft",
    "/usr/sbin/ip",
    "/usr/bin/touch",
    "/usr/bin/tcpdump",
    "/usr/bin/curl",
    "/usr/bin/openssl",
    "/usr/bin/socat",
    "/usr/bin/python3",
    "/usr/bin/h2load",
    "/usr/sbin/nginx",
];
/// The one Python package that the cases use, where Debian puts it.
const GRPC: &str = "/usr/lib/python3/dist-packages/grpc";

/// Runs the cases with programs from `bin_dir`, on Weft or (unless `install`) on what is there; `arguments` are for the cases'
/// own program.
///
/// # Errors
/// If they cannot be run, or a check does not hold; that has then been printed.
pub fn run(common: &Common, bin_dir: &Path, install: bool, arguments: &[String]) -> Result<()> {
    let cluster = common.cluster_up(&[])?;
    let tools = tools(common, bin_dir)?;
    cluster.load_images(&[&tools])?;
    if install {
        cluster.load_images(&[&common.images])?;
        Chart::new(&common.workspace, &common.images)?.install(&cluster, "direct")?;
    }
    let mut command = Command::new(bin_dir.join("weft-conformance-cases"));
    let kubectl = format!("{} kubectl --name {} --", common.cluster_program.display(), common.name);
    command.args(["--kubectl", &kubectl, "--image", TOOLS]).args(arguments);
    let status = command.status().context("cannot start weft-conformance-cases")?;
    ensure!(status.success(), "not every check holds; see above");
    Ok(())
}

/// An archive with the image of the cases' programs.
fn tools(common: &Common, bin_dir: &Path) -> Result<PathBuf> {
    let mut image = Image::new(TOOLS, "0");
    image.entrypoint = vec!["/usr/bin/sleep".to_owned(), "infinity".to_owned()];
    image.program(&bin_dir.join("weft-echo"), "weft-echo")?;
    for program in PROGRAMS {
        image.program_at(program.as_ref(), program.trim_start_matches('/'))?;
    }
    image.program_at("/usr/bin/dash".as_ref(), "bin/sh")?;
    // OpenSSH separates privileges by a user of its own.
    if let Some(users) = image.texts.get_mut("etc/passwd") {
        users.push_str("sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n");
    }
    image.files.insert("usr/lib/ssl/openssl.cnf".to_owned(), "/etc/ssl/openssl.cnf".into());
    python(&mut image)?;
    let archive = common.out.join("tools.tar");
    std::fs::create_dir_all(&common.out)?;
    image::write(&[image], &archive)?;
    Ok(archive)
}

/// Python's library without its tests, with the shared libraries of its extensions.
fn python(image: &mut Image) -> Result<()> {
    let version = Command::new("/usr/bin/python3")
        .args(["-c", "import sys; print(sys.prefix, '%d.%d' % sys.version_info[:2])"])
        .output()?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let Some((prefix, version)) = text.trim().split_once(' ') else {
        bail!("/usr/bin/python3 does not say its version")
    };
    let library = format!("{prefix}/lib/python{version}");
    for folder in [library.as_str(), GRPC] {
        add_folder(image, Path::new(folder))?;
    }
    Ok(())
}

fn add_folder(image: &mut Image, folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = path.display().to_string();
        if path.is_dir() {
            if !matches!(
                name.as_str(),
                "test" | "tests" | "__pycache__" | "idlelib" | "tkinter" | "pip" | "setuptools"
            ) {
                add_folder(image, &path)?;
            }
        } else if name.ends_with(".so") {
            image.program_at(&path, text.trim_start_matches('/'))?;
        } else if path.is_file() {
            image.files.insert(text.trim_start_matches('/').to_owned(), path);
        }
    }
    Ok(())
}
