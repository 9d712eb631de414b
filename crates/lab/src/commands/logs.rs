//! `weft lab logs`.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Which, exec};
use crate::config::State;
use crate::files;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    which: Which,
    /// `NAMESPACE/POD`, `node1/proxy`, `node1/agent`, `controller` or `lab`; without it, what there is.
    source: Option<String>,
    /// The container, if the pod has several.
    #[arg(short = 'c', long)]
    container: Option<String>,
    /// Go on with what is written from now on.
    #[arg(short = 'f', long)]
    follow: bool,
}

impl Logs {
    pub(super) fn run(self) -> Result<u8> {
        let (state, _, report) = self.which.running()?;
        let Some(source) = &self.source else {
            println!("lab");
            for daemon in &report.daemons {
                println!("{}", daemon.name);
            }
            for pod in &report.pods {
                println!("{}/{}", pod.namespace, pod.name);
            }
            return Ok(0);
        };
        let plain = state.logs().join(format!("{source}.log"));
        let known = source == "lab" || report.daemons.iter().any(|d| d.name == *source);
        let file = if known { plain } else { self.container_log(&state, source, &report)? };
        self.show(&state, &file)?;
        Ok(0)
    }

    fn container_log(&self, state: &State, source: &str, report: &crate::LabReport) -> Result<PathBuf> {
        let pod = exec::find_pod(report, source)?;
        let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
        let container = match (&self.container, names.as_slice()) {
            (Some(name), _) if names.contains(&name.as_str()) => name.as_str(),
            (None, [only]) => only,
            (_, []) => bail!("{source} has not started a container yet: {}", pod.message),
            _ => bail!("choose one of the containers with -c: {}", names.join(", ")),
        };
        Ok(state.logs().join(format!("pods/{}_{}/{container}.log", pod.namespace, pod.name)))
    }

    fn show(&self, state: &State, path: &Path) -> Result<()> {
        let mut file =
            fs::File::open(path).with_context(|| format!("nothing was written to {}", path.display()))?;
        let mut seen = 0;
        loop {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            seen += bytes.len() as u64;
            std::io::stdout().write_all(&bytes)?;
            std::io::stdout().flush()?;
            if !self.follow || files::running(state).is_none() {
                return Ok(());
            }
            sleep(Duration::from_millis(200));
            // A file that was put aside because of its size is followed by a new one.
            if fs::metadata(path).is_ok_and(|m| m.len() < seen) {
                file = fs::File::open(path)?;
                seen = 0;
                file.seek(SeekFrom::Start(0))?;
            }
        }
    }
}
