//! `cargo xtask demo`: a small shop over two nodes, and step by step what the mesh does with its traffic. Each step
//! shows what it runs and what came back, and checks it; the demo fails if a step does not hold.

mod steps;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::{run, setup};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Take the shop down at the end instead of leaving it up.
    #[arg(long)]
    down: bool,
    /// The lab's name.
    #[arg(long, default_value = "default")]
    name: String,
}

/// `cargo xtask demo`.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_tests()?;
    let binaries = run::build_binaries("dev")?;
    let lab = Lab { weft: binaries.join("weft"), name: options.name.clone(), state_dir: None };
    let folder = run::cache_dir().join(format!("demo-{}", options.name));
    if folder.exists() {
        // What an earlier demo left up; a lab that somebody else started is refused by `weft lab up`.
        lab.down();
        fs::remove_dir_all(&folder)?;
    }
    copy(&run::root().join("deploy/examples/shop"), &folder)?;
    let result = lab.up(&folder, &[]).and_then(|()| steps::run(&lab, &folder));
    if options.down {
        lab.down();
        fs::remove_dir_all(&folder)?;
        return result;
    }
    result
        .inspect_err(|_| println!("\nThe shop is still up, to look into: {} lab logs", lab.weft.display()))?;
    hint(&lab, &folder);
    Ok(())
}

fn hint(lab: &Lab, folder: &Path) {
    let (weft, folder) = (lab.weft.display(), folder.display());
    println!(
        "\nEvery step held. The shop is still up. Try:\n  \
         {weft} lab status\n  \
         {weft} lab exec shop/web -- curl -si http://catalog/\n  \
         edit {folder}/50-routes.yaml and call again\n  \
         {weft} lab logs node1/proxy\n  \
         {weft} lab down"
    );
}

/// Copies a folder of files: the demo edits its own copy.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
