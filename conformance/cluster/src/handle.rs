//! A running cluster as tests see it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::config::State;

/// A cluster that runs, by its name. Dropping the handle leaves the cluster as it is.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
    /// The program `weft-cluster`.
    program: PathBuf,
}

/// What a program printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a program that ended well.
    ///
    /// # Errors
    /// When it did not, with what it said.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}: {}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

impl Cluster {
    /// The cluster `name`, driven by `program` (a built `weft-cluster`).
    #[must_use]
    pub fn new(name: &str, program: &Path) -> Self {
        Self { name: name.to_owned(), program: program.to_owned() }
    }

    /// Brings it up, or finds it up, with further options of `up`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn up(&self, options: &[&str]) -> Result<()> {
        self.verb("up", options)
    }

    /// Takes it down.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn down(&self) -> Result<()> {
        self.verb("down", &[])
    }

    /// Where its kubeconfig, logs and the like are.
    #[must_use]
    pub fn state(&self) -> State {
        State::locate(&self.name)
    }

    /// Gives image archives to every node.
    ///
    /// # Errors
    /// When a node does not take one.
    pub fn load_images(&self, archives: &[&Path]) -> Result<()> {
        let words: Vec<&str> = archives.iter().filter_map(|a| a.to_str()).collect();
        self.verb("load-images", &words)
    }

    /// `kubectl` with these arguments; fails if it fails.
    ///
    /// # Errors
    /// When kubectl says no.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let out = feed(self.command("kubectl").arg("--").args(arguments), "")?;
        out.ok().with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Applies YAML, server side.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let mut command = self.command("kubectl");
        command.args(["--", "apply", "--server-side", "--force-conflicts", "-f", "-"]);
        feed(&mut command, yaml)?.ok().context("kubectl apply")
    }

    /// One object, or a list, as JSON.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs a program in the cluster's host network namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec(&self, argv: &[&str]) -> Result<Output> {
        feed(self.command("exec").arg("--").args(argv), "")
    }

    /// Runs a program on a node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec_on(&self, node: &str, argv: &[&str]) -> Result<Output> {
        feed(self.command("exec").args(["--node", node, "--"]).args(argv), "")
    }

    /// `weft-cluster VERB --name NAME`, to add arguments to.
    #[must_use]
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([verb, "--name", &self.name]);
        command
    }

    fn verb(&self, verb: &str, options: &[&str]) -> Result<()> {
        let status = self.command(verb).args(options).status().context("cannot start weft-cluster")?;
        if !status.success() {
            bail!("weft-cluster {verb} --name {} ended with {status}", self.name);
        }
        Ok(())
    }
}

/// Runs a command with `input` on its standard input, and waits.
///
/// # Errors
/// When it cannot be started.
pub fn feed(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut stdin = child.stdin.take().context("the child has no input")?;
    let text = input.to_owned();
    let feeder = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let out = child.wait_with_output()?;
    // Who ends before reading everything says why in its own output.
    let _ = feeder.join();
    Ok(Output {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}
