//! What the cluster says about its own start: written by the supervisor, read by `up` and `status`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use weft_runtime::process::write_atomic;

/// How far the start has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) phase: Phase,
    /// What has been done so far, for people.
    pub(crate) steps: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    #[default]
    Starting,
    Running,
    Failed(String),
}

impl Report {
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        Ok(write_atomic(path, &serde_json::to_vec_pretty(self)?)?)
    }
}
