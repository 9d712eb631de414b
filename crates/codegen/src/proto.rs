//! The protocol's messages and services, from `crates/api/proto/weft.proto`, without protoc.

use std::path::Path;

use anyhow::{Context, Result};

use crate::Generated;

/// Generates `crates/api/src/generated/weft.v1.rs`.
pub(crate) fn generate(root: &Path) -> Result<Generated> {
    let folder = root.join("crates/api");
    let descriptors = protox::compile(["weft.proto"], [folder.join("proto")]).context("weft.proto")?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .context("weft.proto")?;
    let text = std::fs::read_to_string(out.path().join("weft.v1.rs"))?;
    Ok(Generated { path: folder.join("src/generated/weft.v1.rs"), text })
}
