//! Secrets by which nodes' proxies and service accounts' pods prove themselves to the controller, in the place of tokens
//! that an API server would review. They live as long as the lab.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::config::{LabConfig, Node, State};

/// The audience of the tokens that the controller takes.
pub(crate) const AUDIENCE: &str = "weft-ca";

/// All secrets, and the controller's list of them: one `<name>:<secret>` a line.
#[derive(Debug)]
pub(crate) struct Secrets {
    list: PathBuf,
    all: Mutex<BTreeMap<String, String>>,
}

impl Secrets {
    /// None yet.
    pub(crate) fn new(state: &State) -> Self {
        Self { list: list(state), all: Mutex::default() }
    }

    /// Gives every node's proxy its file.
    pub(crate) fn write_nodes(&self, config: &LabConfig) -> io::Result<()> {
        for node in config.all_nodes() {
            let secret = self.of(&node.name())?;
            write_private(&of_node(&config.state, node), &secret)?;
        }
        Ok(())
    }

    /// What a pod of a service account proves itself with, whole.
    pub(crate) fn token(&self, namespace: &str, service_account: &str) -> io::Result<String> {
        let name = format!("serviceaccount/{namespace}/{service_account}");
        Ok(format!("{name}:{}", self.of(&name)?))
    }

    /// A name's secret; the controller's list has it when this returns.
    fn of(&self, name: &str) -> io::Result<String> {
        let mut all = self.all.lock();
        if let Some(secret) = all.get(name) {
            return Ok(secret.clone());
        }
        let secret: String = rand::random::<[u8; 32]>().iter().map(|b| format!("{b:02x}")).collect();
        let lines = all.iter().map(|(name, secret)| format!("{name}:{secret}\n"));
        let text: String = lines.chain([format!("{name}:{secret}\n")]).collect();
        write_private(&self.list, &text)?;
        all.insert(name.to_owned(), secret.clone());
        Ok(secret)
    }
}

/// The controller's list.
pub(crate) fn list(state: &State) -> PathBuf {
    state.secrets().join("all")
}

/// The file of a node's proxy.
pub(crate) fn of_node(state: &State, node: Node) -> PathBuf {
    state.secrets().join(node.name())
}

/// Replaces a file in one step by one that only its owner can read.
pub(crate) fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    let mut options = fs::OpenOptions::new();
    let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    open.write_all(text.as_bytes())?;
    fs::rename(new, file)
}
