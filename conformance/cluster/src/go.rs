//! Building Go programs from modules of the checkout: once per content, kept outside of it.

mod toolchain;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::config::cache;

/// One module and what is made of it.
#[derive(Clone, Debug)]
pub struct Module {
    /// For the name of its folder in the cache.
    pub name: &'static str,
    /// The module's folder, from the workspace's root.
    pub folder: &'static str,
    /// What it is, for people who wait for it.
    pub what: &'static str,
    /// How long it takes on two cores with nothing compiled before.
    pub usually: &'static str,
    /// Package to build and the program's name. A package that ends in `.test` is the tests of the package before that.
    pub programs: &'static [(&'static str, &'static str)],
    /// Without C, so that the programs run in an image of their own.
    pub is_static: bool,
    /// Flags of the linker.
    pub ldflags: &'static str,
}

impl Module {
    /// A module whose programs run anywhere: without C, without symbols.
    #[must_use]
    pub const fn plain(
        folder: &'static str,
        name: &'static str,
        what: &'static str,
        usually: &'static str,
        programs: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { name, folder, what, usually, programs, is_static: true, ldflags: "-s -w" }
    }
}

/// The folder with the module's programs; builds them if nobody has yet.
///
/// # Errors
/// When Go cannot be had, or does not build them; it has then said why.
pub fn build(module: &Module) -> Result<PathBuf> {
    let source = workspace().join(module.folder);
    let key = key(&source, module).with_context(|| format!("cannot read {}", source.display()))?;
    kept(module.name, &key, |new| {
        println!(
            "== building {}: {} (usually {} on two cores, when Go has compiled nothing before)",
            module.name, module.what, module.usually
        );
        for (package, program) in module.programs {
            let mut go = go(&source)?;
            match package.strip_suffix(".test") {
                Some(_) => go.args(["test", "-c"]),
                None => go.arg("build"),
            };
            go.args(["-trimpath", "-ldflags", module.ldflags, "-o"]);
            go.arg(new.join(program)).arg(package.strip_suffix(".test").unwrap_or(package));
            if module.is_static {
                go.env("CGO_ENABLED", "0");
            }
            watch(&format!("building {program}"), &mut go)?;
        }
        Ok(())
    })
}

/// A folder of the cache that `make` fills, once per key; older keys of the same name are removed a week after their making.
///
/// # Errors
/// When `make` fails; nothing is kept then.
pub fn kept(name: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parent = cache().join("cluster-artefacts");
    let folder = parent.join(format!("{name}-{key}"));
    if folder.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Another checkout may be making the same at this moment: wait for it.
    let lock = File::create(parent.join(format!(".{name}.lock")))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", parent.display()))?;
    if folder.exists() {
        return Ok(folder);
    }
    let new = parent.join(format!(".{name}-{key}.new"));
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir(&new)?;
    make(&new)?;
    fs::rename(&new, &folder)?;
    forget_old(&parent, name, &folder);
    Ok(folder)
}

/// Removes artefacts that an older source made. One may still be in use by another checkout, hence the patience.
fn forget_old(parent: &Path, name: &str, keep: &Path) {
    const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let of_this = entry.file_name().to_string_lossy().strip_prefix(name).is_some_and(|rest| {
            rest.strip_prefix('-').is_some_and(|key| key.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|then| then.elapsed().ok());
        if of_this && entry.path() != keep && age.is_some_and(|age| age > PATIENCE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// `go` in a module's folder, new enough for it, with the versions that `go.mod` and `go.sum` say and no others.
///
/// # Errors
/// When there is no such Go on the machine and none can be fetched.
pub fn go(module: &Path) -> Result<Command> {
    let mut command = Command::new(toolchain::for_module(module)?);
    command.current_dir(module).env("GOFLAGS", "-mod=readonly -buildvcs=false");
    command.env("GOWORK", "off").env("GOTOOLCHAIN", "local");
    Ok(command)
}

/// Says what decides a module's programs: its files, the toolchain and the flags.
fn key(source: &Path, module: &Module) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(toolchain::version(&mut go(source)?)?);
    digest.update(format!("{:?} {} {}", module.programs, module.ldflags, module.is_static));
    files(source, &mut |path| {
        let mut content = Vec::new();
        File::open(path)?.read_to_end(&mut content)?;
        digest.update(path.strip_prefix(source).unwrap_or(path).as_os_str().as_encoded_bytes());
        digest.update(content.len().to_le_bytes());
        digest.update(&content);
        Ok(())
    })?;
    Ok(hex(&digest.finalize()))
}

/// The first 16 hexadecimal digits.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Every file below a folder, in the order of names.
fn files(folder: &Path, each: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            files(&entry.path(), each)?;
        } else {
            each(&entry.path())?;
        }
    }
    Ok(())
}

/// The root of the checkout that this program was built from.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Runs a command that may take minutes, and says every half minute that it still does.
pub(crate) fn watch(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| {
        let program = Path::new(command.get_program()).file_name().unwrap_or_else(|| OsStr::new("?"));
        format!("cannot start {}: install it (cargo xtask setup)", program.display())
    })?;
    let mut said = start;
    let status = loop {
        if let Some(status) = ended(&mut child)? {
            break status;
        }
        if said.elapsed() >= Duration::from_secs(30) {
            said = Instant::now();
            println!("   {what}: {} s so far", start.elapsed().as_secs());
        }
    };
    if !status.success() {
        bail!("{what} failed: {status}; what it said is above");
    }
    Ok(())
}

fn ended(child: &mut Child) -> Result<Option<ExitStatus>> {
    let status = child.try_wait()?;
    if status.is_none() {
        sleep(Duration::from_millis(50));
    }
    Ok(status)
}
