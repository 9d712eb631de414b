//! Driving `weft lab` from the demo and the benches.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// One lab, by the `weft` binary that drives it and its name.
pub(crate) struct Lab {
    /// The `weft` binary.
    pub(crate) weft: PathBuf,
    /// The lab's name.
    pub(crate) name: String,
    /// The folder that it keeps its state in, if not where labs do.
    pub(crate) state_dir: Option<PathBuf>,
}

impl Lab {
    /// Brings the lab up from `folder` and waits until its pods are ready.
    pub(crate) fn up(&self, folder: &Path, environment: &[(&str, &str)]) -> Result<()> {
        let mut command = self.command("up");
        command.arg("-f").arg(folder).envs(environment.iter().copied());
        run::step("bringing up two nodes", &mut command)
    }

    /// Runs a program in a pod and returns what it printed; fails if it fails.
    pub(crate) fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        run::read(self.exec_command(pod, words).stdin(std::process::Stdio::null()))
    }

    /// Runs a program in a pod, whatever becomes of it.
    pub(crate) fn try_exec(&self, pod: &str, words: &[&str]) -> Result<Output> {
        run::capture(&mut self.exec_command(pod, words))
    }

    /// The command that runs a program in a pod.
    pub(crate) fn exec_command(&self, pod: &str, words: &[&str]) -> Command {
        let mut command = self.command("exec");
        command.arg(pod).arg("--").args(words);
        command
    }

    /// The IPv4 address of a Gateway.
    pub(crate) fn gateway(&self, name: &str) -> Result<String> {
        let status: Value = serde_json::from_str(&run::read(self.command("status").args(["-o", "json"]))?)?;
        let objects = status.get("objects").and_then(Value::as_array).into_iter().flatten();
        let is = |object: &&Value, field: &str, value: &str| object.get(field).is_some_and(|it| it == value);
        let mut gateways =
            objects.filter(|it| is(it, "kind", "Gateway") && is(it, "name", name) && is(it, "of", ""));
        let addresses =
            gateways.next().and_then(|it| it.get("addresses")?.as_array().cloned()).unwrap_or_default();
        let found = addresses.iter().filter_map(Value::as_str).find(|address| !address.contains(':'));
        found.map(str::to_owned).with_context(|| format!("Gateway {name} has no address: {status:#}"))
    }

    /// Takes the lab down; says so if that fails.
    pub(crate) fn down(&self) {
        if let Err(error) = run::step("taking the nodes down", &mut self.command("down")) {
            eprintln!("{error:#}");
        }
    }

    /// `weft lab VERB --name NAME`.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.weft);
        command.args(["lab", verb, "--name", &self.name]);
        if let Some(folder) = &self.state_dir {
            command.arg("--state-dir").arg(folder);
        }
        command
    }
}
