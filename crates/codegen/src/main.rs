//! `cargo xtask codegen`: writes the code that is generated and committed, or with `--check` compares it.
#![forbid(unsafe_code)]

mod crds;
mod format;
mod proto;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Generates `crates/gateway-api/src/generated` and `crates/api/src/generated`.
#[derive(Parser)]
struct Options {
    /// Change nothing; fail if the committed code is not what would be generated.
    #[arg(long)]
    check: bool,
}

/// A file and what it must hold.
struct Generated {
    path: PathBuf,
    text: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // As cargo says now, not when this was compiled: checkouts share the compiled program.
    let own = std::env::var("CARGO_MANIFEST_DIR").context("start it by cargo")?;
    let root = Path::new(&own).join("../..").canonicalize()?;
    let mut files = crds::generate(&root)?;
    files.push(proto::generate(&root)?);
    let mut stale = Vec::new();
    for Generated { path, text } in &files {
        let shown = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        let text = format::rustfmt(text, &root).with_context(|| shown.clone())?;
        if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
            continue;
        }
        if !options.check {
            std::fs::write(path, text).with_context(|| shown.clone())?;
            println!("wrote {shown}");
        }
        stale.push(shown);
    }
    if options.check && !stale.is_empty() {
        bail!("not what would be generated: {}; run `cargo xtask codegen` and commit", stale.join(", "));
    }
    Ok(())
}
